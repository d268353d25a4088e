"""Tunnels inside the gateway: their life across configurations.

What dials and answers is made when it is needed first, by the section ``rtcp`` or by the first way through a tunnel;
a gateway without tunnels does not pay for them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import trio

from cyfs_gateway.config.model import Config
from cyfs_gateway.facade import PeerView
from cyfs_ns.errors import ConfigFault, Refused, Unreachable

if TYPE_CHECKING:
    from cyfs_gateway.host import Begun, TxtPublisher
    from cyfs_gateway.io.engine import Engine
    from cyfs_gateway.io.myself import Myself
    from cyfs_gateway.io.peers import Peers
    from cyfs_gateway.io.world import World
    from cyfs_ns.identity.did import Did
    from cyfs_ns.identity.keys import PublicKey
    from cyfs_ns.io.trusted.resolver import TrustedNames
    from rtcp.io.device import Carrier, Device
    from rtcp.io.pipe import Answered, DatagramPipe, Denied, GiveUp, Pipe
    from rtcp.io.roll import AnyTunnel
    from rtcp.party import Address


class Way(TypedDict, total=False):
    """``via``: how to get to a peer (None: by plain connections); ``at``: the port to dial (None: what is known)."""

    via: Carrier | None
    at: int | None


class _Answered:
    """A stream that was waited for: version 4 has no word for what comes before the answer."""

    def __init__(self, pipe: Pipe) -> None:
        self.pipe = pipe

    async def answered(self) -> None:
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled:
            self.pipe.close()
            raise


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

    async def stage(self, config: Config) -> Myself | None:
        """Who this machine will be, if that matters by now.  Raises ``ConfigFault``."""
        return await self._read(config) if config.rtcp is not None or self._peers is not None else None

    def commit(self, world: World, me: Myself | None) -> None:
        """Go by ``world`` from now on; neither waits nor fails."""
        self._world = world
        if me is not None:
            self._made().adopt(world, me)

    def close(self) -> None:
        """End all tunnels."""
        if self._peers is not None:
            self._peers.close()

    @staticmethod
    async def _read(config: Config) -> Myself:
        # Eight megabytes that a gateway without tunnels does not need.
        from cyfs_gateway.io.myself import read_myself

        return await trio.to_thread.run_sync(read_myself, config)

    def _made(self) -> Peers:
        from cyfs_gateway.io.peers import Peers

        if self._peers is None:
            self._peers = Peers(self._engine, self._nursery, self._trusted, self._ports)
            self._engine.take_peer = self._peers.take
        return self._peers

    async def device(self) -> Device:
        """The device, which is made if there is none.  Raises ``Unreachable``."""
        if self._peers is not None and (standing := self._peers.standing) is not None:
            return standing
        async with self._starting:
            if self._peers is None:
                world = self._world
                if world is None:
                    raise Unreachable("the gateway has not started", "tunnel_open")
                try:
                    me = await self._read(world.config)
                except ConfigFault as fault:
                    raise Unreachable(f"this machine has no identity: {fault}", "tunnel_open") from fault
                if self._peers is None:
                    self._made().adopt(self._world or world, me)
        assert self._peers is not None
        return await self._peers.device()

    async def owner(self) -> str:
        """Whose this device is; empty when nobody is known.  Raises ``Unreachable``."""
        await self.device()
        assert self._peers is not None
        return await self._peers.owner()

    async def key_of(self, did: Did) -> PublicKey | None:
        """As :meth:`cyfs_gateway.host.Host.key_of`."""
        await self.device()
        assert self._peers is not None
        try:
            return (await self._peers.know(did)).key
        except (Refused, Unreachable):
            return None

    def doubt(self) -> None:
        """Those who were let in may not be wanted any more."""
        if self._peers is not None:
            self._peers.doubt()

    def peers(self) -> Sequence[PeerView]:
        """The tunnels that stand."""
        return () if self._peers is None else self._peers.views()

    def memberships(self) -> list[dict[str, Any]]:
        """How things stand with the SNs that this machine belongs to."""
        return [] if self._peers is None else self._peers.membership.status()

    def publisher(self, name: str) -> TxtPublisher | None:
        """The SN of ours that speaks for ``name`` in the DNS."""
        return None if self._peers is None else self._peers.membership.publisher(name)

    def look_at_sns(self) -> None:
        """Have the SNs that this machine belongs to asked at once what they know of it."""
        if self._peers is not None:
            self._peers.membership.network_changed()

    def standing(self, device: Did) -> AnyTunnel | None:
        """A tunnel to ``device``, which is a key, that stands by whatever way."""
        ours = None if self._peers is None else self._peers.standing
        return None if ours is None else ours.standing(device)

    async def open_standing(self, device: Did, host: str | None, port: int, *, source: Address | None = None) -> Pipe:
        """As :meth:`cyfs_gateway.host.Host.open_to_peer`."""
        return await (await self._stands(device)).open_stream(host, port, source=source)

    def ask_standing(
        self,
        device: Did,
        host: str | None,
        port: int,
        then: Answered,
        *,
        source: Address | None = None,
        first: bytes = b"",
    ) -> GiveUp | None:
        """As :meth:`cyfs_gateway.host.Host.ask_peer`."""
        from rtcp.io.mux import MuxedTunnel

        tunnel = self.standing(device)
        if not isinstance(tunnel, MuxedTunnel):
            return None
        return tunnel.ask_stream(host, port, then, source=source, first=first)

    async def begin_standing(self, device: Did, host: str | None, port: int, *, source: Address | None = None) -> Begun:
        """As :meth:`cyfs_gateway.host.Host.begin_to_peer`."""
        from rtcp.io.answers import TooSoon
        from rtcp.io.mux import MuxedTunnel

        tunnel = await self._stands(device)
        if isinstance(tunnel, MuxedTunnel):
            with suppress(TooSoon):  # who waits for the answer waits for room, too
                return tunnel.begin_stream(host, port, source=source)
        return _Answered(await tunnel.open_stream(host, port, source=source))

    async def open_standing_datagrams(
        self, device: Did, host: str | None, port: int, *, source: Address | None = None
    ) -> DatagramPipe:
        """As :meth:`cyfs_gateway.host.Host.open_datagrams_to_peer`."""
        return await (await self._stands(device)).open_datagrams(host, port, source=source)

    async def _stands(self, device: Did) -> AnyTunnel:
        await trio.lowlevel.checkpoint()
        tunnel = self.standing(device)
        if tunnel is None:
            raise Unreachable(f"there is no tunnel to {device}", "tunnel_open")
        return tunnel

    async def ping(self, peer: str, bridges: Mapping[str, str]) -> PeerView:
        """As :meth:`cyfs_gateway.facade.Gateway.ping`."""
        from cyfs_ns.identity.did import subject

        did = subject(peer, bridges)
        tunnel = await self.tunnel(did, **await self.way_to(did))
        rtt = await tunnel.ping() * 1000
        assert self._peers is not None
        return replace(self._peers.view(tunnel), rtt=rtt)

    async def way_to(self, did: Did) -> Way:
        """The way for ``did`` where nobody says one.  Raises ``Unreachable``."""
        await self.device()
        assert self._peers is not None
        try:
            return await self._peers.way_to(did)
        except ConfigFault as fault:
            raise Unreachable(str(fault), "unsupported_scheme") from fault

    # What opens ways, as a device does; but the name of a zone leads to the machine that takes in what comes for it

    async def reach(self, did: Did, **way: Unpack[Way]) -> tuple[Device, Did]:
        """Our device, and whom it is to dial for ``did``.  Raises ``Refused`` and ``Unreachable``."""
        device = await self.device()
        assert self._peers is not None
        return device, await self._peers.choose(device, did, **way)

    async def tunnel(self, did: Did, **way: Unpack[Way]) -> AnyTunnel:
        """The tunnel to ``did``."""
        device, peer = await self.reach(did, **way)
        return await device.tunnel(peer, **way)

    async def open_stream(
        self, did: Did, host: str | None, port: int, *, source: Address | None = None, **way: Unpack[Way]
    ) -> Pipe:
        """A stream to ``host`` and ``port``, by ``did``, who is told its ``source`` if there is one."""
        device, peer = await self.reach(did, **way)
        return await device.open_stream(peer, host, port, source=source, **way)

    async def hasten_stream(
        self,
        did: Did,
        host: str | None,
        port: int,
        on_no: Denied | None = None,
        *,
        source: Address | None = None,
        **way: Unpack[Way],
    ) -> Pipe:
        """As :meth:`rtcp.io.device.Device.hasten_stream`."""
        device, peer = await self.reach(did, **way)
        return await device.hasten_stream(peer, host, port, on_no, source=source, **way)

    def ask_stream(
        self,
        did: Did,
        host: str | None,
        port: int,
        then: Answered,
        *,
        via: Carrier | None = None,
        source: Address | None = None,
    ) -> GiveUp | None:
        """As :meth:`rtcp.io.device.Device.ask_stream`."""
        peers = self._peers
        if peers is None or (device := peers.standing) is None or (peer := peers.chosen(did)) is None:
            return None
        return device.ask_stream(peer, host, port, then, via=via, source=source)

    async def open_datagrams(
        self, did: Did, host: str | None, port: int, *, source: Address | None = None, **way: Unpack[Way]
    ) -> DatagramPipe:
        """Datagrams to ``host`` and ``port``, by ``did``."""
        device, peer = await self.reach(did, **way)
        return await device.open_datagrams(peer, host, port, source=source, **way)

    def open_datagrams_soon(
        self,
        then: Callable[[DatagramPipe | None], None],
        did: Did,
        host: str | None,
        port: int,
        *,
        source: Address | None = None,
        **way: Unpack[Way],
    ) -> None:
        """``open_datagrams`` for whoever cannot wait: ``then`` is called with them, or with None."""

        async def open_them() -> None:
            opened = None
            try:
                with suppress(Refused, Unreachable):
                    opened = await self.open_datagrams(did, host, port, source=source, **way)
            finally:
                then(opened)

        self._engine.start(open_them)
