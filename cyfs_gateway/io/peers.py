"""This machine among others: the life of its device, what that asks of the house, and the tunnels that it keeps.

The device lives as long as its key does.  A change of the configuration is seen by the next question it asks.  Only
another key, or version 5 that comes or goes, make another device, and end the tunnels of the one before.

Who is let in is judged again whenever that may have changed (``vigil``): by a stricter ``require`` or ``admission``, by
a pin or a document that is another or gone.  Whoever would not be let in any more loses its tunnel, and its streams to
here.  A change of ``services`` and ``rules`` is for new streams; those that flow go on, as everywhere in the gateway.

When a door closes the tunnels of version 4 that came in by doors end, since each of their streams is a connection to
there; peers dial the new door with the next stream, and streams that flow have connections of their own.

Tunnels are dialled by plain connections of our own, not by the rules: these may lead into a tunnel.  Another way is
written where the peer is (``via``, ``dialer-proxy``, a URL).
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from cyfs_gateway.config.model import KeptTunnel, ListenerConfig, RtcpConfig
from cyfs_gateway.facade import PeerView
from cyfs_gateway.flow import Identity
from cyfs_gateway.io.acquaintance import Acquaintance
from cyfs_gateway.io.gatekeeper import Gatekeeper
from cyfs_gateway.io.leads import LOOKED_UP_AGAIN, Leads
from cyfs_gateway.io.myself import Myself
from cyfs_gateway.io.peerservices import PeerServices
from cyfs_gateway.io.roads import follow_roads
from cyfs_gateway.io.rtcp import Way
from cyfs_gateway.io.vigil import Vigil
from cyfs_gateway.io.ways import kept_way, way_to
from cyfs_gateway.peers import nobody_but
from cyfs_ns.errors import BadWire, ConfigFault, CyfsError, Unreachable
from cyfs_ns.identity.did import Did, host_of_did
from cyfs_ns.io.watch import unseen, watch_files
from rtcp.io.device import Carrier, Device, House, open_device
from rtcp.io.fifth import Version5
from rtcp.io.pipe import DEFAULT_PORT, Pipe
from rtcp.io.roll import AnyTunnel
from rtcp.party import Found, Local
from tunnels.endpoint import Target
from tunnels.io.waiting import TcpEndpoint

if TYPE_CHECKING:
    from cyfs_gateway.io.engine import Engine
    from cyfs_gateway.io.world import World
    from cyfs_ns.io.trusted.resolver import TrustedNames

_ALIVE: Final = ((socket.TCP_KEEPIDLE, 2), (socket.TCP_KEEPINTVL, 2), (socket.TCP_KEEPCNT, 15))
"""A router that has forgotten a stream learns of it again within seconds; a network that is away for half a minute ends
nothing."""
_AGAIN: Final = 10.0

_log = logging.getLogger("cyfs.peers")


class _Seat:
    """One device and its life."""

    def __init__(self, me: Myself, versions: frozenset[int]) -> None:
        self.local, self.memory, self.file = me.local, me.memory, me.file
        self.versions = versions
        self.scope = trio.CancelScope()
        self.up = trio.Event()
        self.device: Device | None = None


class Peers:
    """See the module's text.  ``trusted`` knows who is who; ``ports`` are those of our doors for tunnels."""

    def __init__(
        self,
        engine: Engine,
        nursery: trio.Nursery,
        trusted: Callable[[], TrustedNames],
        ports: Callable[[], frozenset[int]],
    ) -> None:
        self._engine, self._nursery, self._trusted = engine, nursery, trusted
        self._world: World
        self._rtcp = RtcpConfig()
        self._seat: _Seat | None = None
        self._keeping = trio.CancelScope()
        self._acquaintance = Acquaintance(trusted, self._world_now, self._tunnels)
        self._leads = Leads(self._acquaintance, self._tunnels)
        self._gatekeeper = Gatekeeper(engine, self._world_now, self._acquaintance, self._leads, self._tunnels)
        self._services = PeerServices(engine, self._world_now, self._acquaintance, lambda: self.standing, ports)
        self._vigil = Vigil(self._gatekeeper.sweep, self._gatekeeper.judge)

    # Its life

    def adopt(self, world: World, me: Myself) -> None:
        """Be ``me`` and go by ``world`` from now on; neither waits nor fails."""
        local = me.local
        before = self._world.config.listeners if self._seat is not None else ()
        self._world, self._rtcp = world, world.config.rtcp or RtcpConfig()
        seat = self._seat
        if seat is None or not self._remains(seat, local):
            self.close()
            if seat is not None:  # it may have learnt since the file was read who speaks version 5
                me = replace(me, memory=seat.memory, file=seat.file)
            seat = self._seat = _Seat(me, self._rtcp.versions)
            self._nursery.start_soon(self._live, seat)
        seat.local = local
        if seat.device is not None:
            seat.device.local = local
        if _is_a_door_closed(before, world.config.listeners):
            self._gatekeeper.strand(each for each in self._tunnels() if each.version == 4 and each.peer.source)
        self._change()
        self._begin_keeping()

    def _remains(self, seat: _Seat, local: Local) -> bool:
        """Whether the device of ``seat`` can go on as ``local``, by the configuration of now."""
        versions = self._rtcp.versions
        if seat.local.key.public != local.key.public:
            return False
        if seat.versions != versions and (seat.device is None or not seat.device.speak(versions)):
            return False
        seat.versions = versions
        return True

    def _change(self) -> None:
        """What names and verdicts rest on may be another."""
        self._leads.doubt()
        self._acquaintance.change()
        self._vigil.doubt()

    def _begin_keeping(self) -> None:
        self._keeping.cancel()
        self._keeping = trio.CancelScope()
        self._nursery.start_soon(self._keep_all, self._keeping, self._rtcp.keep)

    def close(self) -> None:
        """End all tunnels."""
        self._keeping.cancel()
        if self._seat is not None:
            self._seat.scope.cancel()
            self._seat = None

    async def device(self) -> Device:
        """The device, which may just be starting.  Raises ``Unreachable`` when there is none any more."""
        seat = self._seat
        if seat is not None:
            await seat.up.wait()
            if seat.device is not None:
                return seat.device
        raise Unreachable("this device is closed", "tunnel_open")

    @property
    def standing(self) -> Device | None:
        """The device, if it runs."""
        return None if self._seat is None else self._seat.device

    async def _live(self, seat: _Seat) -> None:
        gate = self._gatekeeper
        house = House(
            find=self._find, dial=self._dial, vouch=gate.vouch, welcome=gate.welcome, serve=self._services.serve
        )
        try:
            with seat.scope:
                while True:
                    try:
                        told = self._version_5(seat)
                        async with (
                            open_device(seat.local, house, version_5=told) as seat.device,
                            trio.open_nursery() as nursery,
                        ):
                            seat.device.local = seat.local
                            seat.up.set()
                            nursery.start_soon(self._vigil.run)
                            nursery.start_soon(self._watch)
                            nursery.start_soon(follow_roads, seat.device.network_changed)
                    except Exception:
                        # Strangers talk to it: what nobody foresaw there must not end the gateway.
                        _log.exception("the device failed in a way nobody foresaw; it begins again")
                    seat.device = None
                    if seat.up.is_set():  # else they wait for it still
                        seat.up = trio.Event()
                    await trio.sleep(_AGAIN)
                    self._begin_keeping()
        finally:
            seat.device = None
            seat.up.set()

    async def _watch(self) -> None:
        """Look at the files that say whom to trust."""
        names = Path(self._world.config.home) / "names"
        kept = names / "kept"

        async def changed(paths: frozenset[Path]) -> None:
            if paths != {kept}:
                with suppress(ConfigFault):  # whoever asks is told
                    self._trusted().flush()  # a key that was revoked a moment ago is nobody's
            self._change()

        paths = names / "pins", names / "local", kept
        try:
            await watch_files(paths, changed, since=unseen(paths))  # they may have been asked for before
        except OSError as fault:
            _log.error("changes of pins are seen late, the files cannot be watched: %s", fault)

    def _version_5(self, seat: _Seat) -> Version5:
        return Version5(
            reactor=self._engine.reactor,
            versions=seat.versions,
            memory=seat.memory,
            remember=seat.file.write,
        )

    async def _keep_all(self, scope: trio.CancelScope, kept: Sequence[KeptTunnel]) -> None:
        with scope, suppress(Unreachable):
            device = await self.device()
            async with trio.open_nursery() as nursery:
                for each in kept:
                    nursery.start_soon(self._keep, device, each)

    async def _keep(self, device: Device, kept: KeptTunnel) -> None:
        while True:
            try:
                way = kept_way(self._world, kept)
                peer = await self.choose(device, kept.peer, **way)
                with trio.move_on_after(LOOKED_UP_AGAIN):
                    await device.keep(peer, **way)
                continue
            except CyfsError as fault:
                _log.error("no tunnel to %s can be kept: %s", kept.peer, fault)
            except Exception:
                _log.exception("keeping a tunnel to %s failed in a way nobody foresaw", kept.peer)
            await trio.sleep(_AGAIN)

    def doubt(self) -> None:
        """What the owner's commands let in may be other than before."""
        self._vigil.doubt()

    def take(self, sock: TcpEndpoint, host: str, port: int) -> None:
        """Somebody has connected to one of our doors."""
        device = self.standing
        if device is None:
            sock.close()
        else:
            device.accepted(sock, (host, port))

    def views(self) -> list[PeerView]:
        """The tunnels that stand."""
        return [view(tunnel) for tunnel in self._tunnels()]

    def _world_now(self) -> World:
        return self._world

    def _tunnels(self) -> Sequence[AnyTunnel]:
        device = self.standing
        return () if device is None else device.tunnels()

    # Whom a name leads to

    async def choose(self, device: Device, did: Did, *, via: Carrier | None = None, at: int | None = None) -> Did:
        """As :meth:`cyfs_gateway.io.leads.Leads.choose`."""
        return await self._leads.choose(device, did, via=via, at=at)

    async def owner(self) -> str:
        """Whose this device is; empty when nobody is known."""
        seat = self._seat
        return "" if seat is None else await self._acquaintance.owner(seat.local)

    async def way_to(self, did: Did) -> Way:
        """As :func:`cyfs_gateway.io.ways.way_to`, for ``did`` and those whom it leads to."""
        led = {each.canonical: each for each in (did, *await self._leads.ask(did))}
        standing = {each.key.bootstrap for each in self._tunnels() if led.keys() & {each.peer.did, each.peer.device}}
        return way_to(self._world, led.values(), standing)

    # What the device asks

    async def _find(self, did: Did, port: int | None) -> Found:
        known = await self._acquaintance.know(did)
        addresses = list(known.addresses)
        with suppress(BadWire, Unreachable):
            addresses += await self._world.resolve(host_of_did(did, self._acquaintance.bridges, case_safe=True).lower())
        at = port or known.port or DEFAULT_PORT
        return Found(known.key, [(address, at) for address in dict.fromkeys(addresses)], known.identity)

    async def _dial(self, host: str, port: int) -> Pipe:
        try:
            pipe = await self._world.outbounds["DIRECT"].open_stream(Target(host, port))
        except OSError as fault:
            raise Unreachable(str(fault), "other") from fault
        if isinstance(pipe, TcpEndpoint):
            with suppress(OSError):  # it broke already, as whoever uses it finds out
                pipe.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                for option, value in _ALIVE:
                    pipe.setsockopt(socket.IPPROTO_TCP, option, value)
        return pipe


def view(tunnel: AnyTunnel) -> PeerView:
    """A tunnel as people see it."""
    peer = tunnel.peer
    known = peer.about if isinstance(peer.about, Identity) else nobody_but(peer.device, {})
    return PeerView(
        peer=str(peer.did),
        device=str(peer.device),
        owner=known.owner,
        zone=known.zone,
        trust=known.trust.label,
        version=tunnel.version,
        dialled=peer.dialled,
        way=tunnel.key.bootstrap or peer.source,
        silent=round(max(0.0, trio.current_time() - tunnel.last_heard), 1),
    )


def _is_a_door_closed(before: Iterable[ListenerConfig], after: Iterable[ListenerConfig]) -> bool:
    """Whether a connection that was taken before is not taken any more."""
    doors = {(each.listen, each.port) for each in after if each.kind == "rtcp"}
    everywhere = {port for listen, port in doors if listen in ("0.0.0.0", "::")}
    gone = [each for each in before if each.kind == "rtcp" and (each.listen, each.port) not in doors]
    return any(each.port not in everywhere for each in gone)
