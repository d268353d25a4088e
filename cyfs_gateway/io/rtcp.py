"""Tunnels inside the gateway: their life across configurations.

What dials and answers is made when it is needed first, by the section ``rtcp`` or by the first way through a tunnel;
a gateway without tunnels does not pay for them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from cyfs_gateway.config.model import Config
from cyfs_gateway.facade import PeerView
from cyfs_ns.errors import ConfigFault, Unreachable

if TYPE_CHECKING:
    from cyfs_gateway.io.engine import Engine
    from cyfs_gateway.io.peers import Peers
    from cyfs_gateway.io.world import World
    from cyfs_ns.identity.did import Did
    from cyfs_ns.io.trusted.resolver import TrustedNames
    from rtcp.io.device import Carrier, Device
    from rtcp.io.leg import Datagrams, LegPipe
    from rtcp.io.tunnel import Tunnel
    from rtcp.party import Local


class PeerDesk:
    """Opens ways through tunnels of whatever device there is now (``tunnels.io.rtcp.Opener``)."""

    def __init__(
        self,
        engine: Engine,
        nursery: trio.Nursery,
        trusted: Callable[[], TrustedNames],
        ports: Callable[[], frozenset[int]],
    ) -> None:
        self._engine, self._nursery, self._trusted, self._ports = engine, nursery, trusted, ports
        self._world: World | None = None
        self._peers: Peers | None = None
        self._starting = trio.Lock()

    # Across configurations

    async def stage(self, config: Config) -> Local | None:
        """Who this machine will be, if that matters by now.  Raises ``ConfigFault``."""
        return await self._read(config) if config.rtcp is not None or self._peers is not None else None

    def commit(self, world: World, local: Local | None) -> None:
        """Go by ``world`` from now on; neither waits nor fails."""
        self._world = world
        if local is not None:
            self._made().adopt(world, local)

    def close(self) -> None:
        """End all tunnels."""
        if self._peers is not None:
            self._peers.close()

    @staticmethod
    async def _read(config: Config) -> Local:
        # Eight megabytes that a gateway without tunnels does not need.
        from cyfs_gateway.io.peers import read_local

        return await trio.to_thread.run_sync(read_local, config)

    def _made(self) -> Peers:
        from cyfs_gateway.io.peers import Peers

        if self._peers is None:
            self._peers = Peers(self._engine, self._nursery, self._trusted, self._ports)
            self._engine.take_peer = self._peers.take
        return self._peers

    async def device(self) -> Device:
        """The device, which is made if there is none.  Raises ``Unreachable``."""
        async with self._starting:
            if self._peers is None:
                world = self._world
                if world is None:
                    raise Unreachable("the gateway has not started", "tunnel_open")
                try:
                    local = await self._read(world.config)
                except ConfigFault as fault:
                    raise Unreachable(f"this machine has no identity: {fault}", "tunnel_open") from fault
                if self._peers is None:
                    self._made().adopt(self._world or world, local)
        assert self._peers is not None
        return await self._peers.device()

    def peers(self) -> Sequence[PeerView]:
        """The tunnels that stand."""
        return () if self._peers is None else self._peers.views()

    async def ping(self, peer: str, bridges: Mapping[str, str]) -> PeerView:
        """As :meth:`cyfs_gateway.facade.Gateway.ping`."""
        from cyfs_gateway.io.peers import view
        from cyfs_ns.identity.did import subject

        tunnel = await self.tunnel(subject(peer, bridges))
        return replace(view(tunnel), rtt=await tunnel.ping() * 1000)

    # What opens ways

    async def tunnel(self, did: Did, *, via: Carrier | None = None, at: int | None = None) -> Tunnel:
        """As :meth:`Device.tunnel`."""
        return await (await self.device()).tunnel(did, via=via, at=at)

    async def open_stream(
        self, did: Did, host: str | None, port: int, *, via: Carrier | None = None, at: int | None = None
    ) -> LegPipe:
        """As :meth:`Device.open_stream`."""
        return await (await self.device()).open_stream(did, host, port, via=via, at=at)

    async def open_datagrams(
        self, did: Did, host: str | None, port: int, *, via: Carrier | None = None, at: int | None = None
    ) -> Datagrams:
        """As :meth:`Device.open_datagrams`."""
        return await (await self.device()).open_datagrams(did, host, port, via=via, at=at)

    def open_datagrams_soon(
        self,
        then: Callable[[Datagrams | None], None],
        did: Did,
        host: str | None,
        port: int,
        *,
        via: Carrier | None = None,
        at: int | None = None,
    ) -> None:
        """As :meth:`Device.open_datagrams_soon`."""
        device = None if self._peers is None else self._peers.standing
        if device is None:
            then(None)
        else:
            device.open_datagrams_soon(then, did, host, port, via=via, at=at)
