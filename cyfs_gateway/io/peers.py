"""This machine among others: the life of its device, what that asks of the house, and the tunnels that it keeps.

The device lives as long as its key does.  A change of the configuration is seen by the next question it asks.  Only
another key, or version 5 that comes or goes, make another device, and end the tunnels of the one before.

Who is let in is judged again whenever that may have changed (``vigil``): by a stricter ``require`` or ``admission``, by
a pin or a document that is another or gone.  Whoever would not be let in any more loses its tunnel, and its streams to
here.  A change of ``services`` and ``rules`` is for new streams; those that flow go on, as everywhere in the gateway.

When a door closes the tunnels of version 4 that came in by doors end, since each of their streams is a connection to
there; peers dial the new door with the next stream, and streams that flow have connections of their own.

Who somebody is, is asked for each tunnel that is dialled, and nobody waits twice for it: by what was found before, if
anything was, the handshake begins meanwhile.  The servers of our proxies are asked about as soon as an SN of ours is
content with us, so whoever is away from home has that from the start.

Tunnels are dialled by plain connections of our own, not by the rules: these may lead into a tunnel.  Another way is
written where the peer is (``via``, ``dialer-proxy``, a URL).
"""

from __future__ import annotations

import logging
import math
import socket
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Unpack

import trio

from cyfs_gateway.config.model import KeptTunnel, ListenerConfig, MemberConfig, RtcpConfig
from cyfs_gateway.facade import PeerView, WayView
from cyfs_gateway.flow import PEER, Flow, Identity
from cyfs_gateway.io.acquaintance import Acquaintance
from cyfs_gateway.io.gatekeeper import Gatekeeper
from cyfs_gateway.io.leads import LOOKED_UP_AGAIN, Leads
from cyfs_gateway.io.membership import Membership
from cyfs_gateway.io.myself import Myself
from cyfs_gateway.io.peerservices import PeerServices
from cyfs_gateway.io.reach import Reach
from cyfs_gateway.io.roads import follow_roads
from cyfs_gateway.io.rtcp import Way
from cyfs_gateway.io.vigil import Vigil
from cyfs_gateway.io.ways import kept_way, way_to
from cyfs_gateway.peers import Known, nobody_but
from cyfs_gateway.rules.model import Verdict
from cyfs_ns.errors import ConfigFault, CyfsError, Refused, Unreachable
from cyfs_ns.identity.did import Did, dev_did, host_of_did
from cyfs_ns.io.dial import prepare
from cyfs_ns.io.merging import Merged
from cyfs_ns.io.watch import Sign, signs_of, watch_files
from rtcp.io.device import Carrier, Device, House, open_device
from rtcp.io.fifth import Version5
from rtcp.io.mux import MuxedTunnel
from rtcp.io.pipe import DEFAULT_PORT, Pipe
from rtcp.io.roll import AnyTunnel
from rtcp.io.udp.sockets import TrainSocket
from rtcp.nat.race import Report, WayReport
from rtcp.party import Address, Found, Local, Peer
from tunnels.endpoint import Target
from tunnels.io.rtcp import RtcpProxy

if TYPE_CHECKING:
    from cyfs_gateway.io.engine import Engine
    from cyfs_gateway.io.world import World
    from cyfs_ns.io.trusted.resolver import TrustedNames

_AGAIN: Final = 10.0
_GRACE: Final = 0.02
"""Seconds that a device of our own links has to answer when there are other ways to it; one or two thousandths do."""

_log = logging.getLogger("cyfs.peers")


class _Seat:
    """One device and its life."""

    def __init__(self, me: Myself, versions: frozenset[int]) -> None:
        self.local, self.memory, self.file = me.local, me.memory, me.file
        self.versions = versions
        self.scope = trio.CancelScope()
        self.up = trio.Event()
        self.left = trio.Event()
        self.device: Device | None = None
        self.reach: Reach | None = None


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
        self._owner = ""
        """Whose this device was when somebody was met last."""
        self._keeping = trio.CancelScope()
        self._knowing = trio.CancelScope()
        self._resolving: Merged[Did, Sequence[str]] = Merged()
        self._acquaintance = Acquaintance(trusted, self._world_now, self._tunnels, engine.offers.vouched)
        self._leads = Leads(self._acquaintance, self._tunnels)
        self._gatekeeper = Gatekeeper(engine, self._world_now, self._acquaintance, self._leads, self._tunnels)
        self._services = PeerServices(engine, self._world_now, self._acquaintance, lambda: self.standing, ports)
        self._vigil = Vigil(self._gatekeeper.sweep, self._gatekeeper.judge)
        self.membership = Membership(
            self._acquaintance,
            self._open_stream,
            self._way_to_sn,
            self._local_now,
            self._dial,
            partial(nursery.start_soon, self._know_servers),
        )

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
            left = None if seat is None else seat.left
            seat = self._seat = _Seat(me, self._rtcp.versions)
            self._nursery.start_soon(self._live, seat, left)
        seat.local = local
        if seat.device is not None:
            seat.device.local = local
            if seat.reach is not None:
                seat.reach.adopt(seat.device.rebind)
        if _is_a_door_closed(before, world.config.listeners):
            self._gatekeeper.strand(each for each in self._tunnels() if each.version == 4 and each.peer.source)
        self.membership.adopt(self._rtcp.sns, Path(world.config.home))
        self._change()
        self._begin_keeping()

    def _remains(self, seat: _Seat, local: Local) -> bool:
        """Whether the device of ``seat`` can go on as ``local``, by the configuration of now."""
        versions = self._rtcp.versions
        if seat.local.key.public != local.key.public:
            return False
        if seat.versions != versions and (seat.device is None or not seat.device.speak(versions)):
            return False
        if seat.reach is not None and not seat.reach.remains():
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

    async def _live(self, seat: _Seat, left: trio.Event | None) -> None:
        try:
            with seat.scope:
                if left is not None:
                    await left.wait()  # it may have had the same port
                while True:
                    try:
                        since = await self._look_anew()
                        seat.reach = reach = Reach(seat.local.key, self._world_now, self.membership.observers)
                        async with (
                            reach.open() as sockets,
                            open_device(
                                seat.local, self._house(reach), version_5=self._version_5(seat, sockets)
                            ) as seat.device,
                            trio.open_nursery() as nursery,
                        ):
                            seat.device.local = seat.local
                            seat.up.set()
                            nursery.start_soon(self._vigil.run)
                            nursery.start_soon(self._watch, since)
                            nursery.start_soon(
                                follow_roads, partial(self._network_changed, reach), self.membership.look
                            )
                    except Exception:
                        # Strangers talk to it: what nobody foresaw there must not end the gateway.
                        _log.exception("the device failed in a way nobody foresaw; it begins again")
                    seat.device = seat.reach = None
                    if seat.up.is_set():  # else they wait for it still
                        seat.up = trio.Event()
                    await trio.sleep(_AGAIN)
                    self._begin_keeping()
        finally:
            seat.device = seat.reach = None
            seat.up.set()
            seat.left.set()

    def _house(self, reach: Reach) -> House:
        gate = self._gatekeeper

        async def find(did: Did, port: int | None) -> Found:
            return await self._find(reach, did, port)

        async def relays(did: Did, found: Found) -> Sequence[Carrier]:
            return await self.membership.relays(did, found, self._engine.offers.search(did, dev_did(found.key)).relays)

        async def welcome(peer: Peer) -> None:
            await gate.welcome(peer)
            await self._learn_owner()

        return House(
            find=find,
            dial=self._dial,
            recall=self._recall,
            vouch=gate.vouch,
            welcome=welcome,
            expects=gate.expects,
            serve=self._services.serve,
            relays=relays,
            relay_session=self.membership.relay_session,
            gather=reach.gather,
            doubt=reach.doubt,
            trusts=self._trusts,
            open_socket=self._open_socket,
        )

    async def _open_socket(self, family: int, kind: int) -> socket.socket:
        """One whose packets are known as our own."""
        sock = socket.socket(family, kind)
        if self._world.mark:
            with suppress(OSError):
                prepare(sock, self._world.mark, "")
        return sock

    async def _look_anew(self) -> dict[Path, Sign]:
        """The signs of the files that say whom to trust; what others heard by them before counts no more."""
        signs = await trio.to_thread.run_sync(signs_of, self._trust_files())
        self._doubt_all()
        return signs

    def _trust_files(self) -> tuple[Path, ...]:
        names = Path(self._world.config.home) / "names"
        return names / "pins", names / "local", names / "kept"

    def _doubt_all(self) -> None:
        with suppress(ConfigFault):  # whoever asks is told
            self._trusted().flush()  # a key that was revoked a moment ago is nobody's
        self._change()

    async def _watch(self, since: dict[Path, Sign]) -> None:
        """Look at the files that say whom to trust."""
        paths = self._trust_files()

        async def changed(which: frozenset[Path]) -> None:
            if which == {paths[-1]}:  # what we have kept ourselves
                self._change()
            else:
                self._doubt_all()

        try:
            await watch_files(paths, changed, since=since)
        except OSError as fault:
            _log.error("changes of pins are seen late, the files cannot be watched: %s", fault)

    def _version_5(self, seat: _Seat, sockets: Sequence[TrainSocket]) -> Version5:
        return Version5(
            udp=sockets,
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
                for member in self.membership:
                    nursery.start_soon(self._keep, device, member.config.sn, member.tell)
                    nursery.start_soon(member.run)

    async def _keep(
        self, device: Device, kept: KeptTunnel, tell: Callable[[AnyTunnel | CyfsError], None] | None = None
    ) -> None:
        while True:
            try:
                way = kept_way(self._world, kept)
                peer = await self.choose(device, kept.peer, **way)
                with trio.move_on_after(LOOKED_UP_AGAIN):
                    await device.keep(peer, tell=tell, **way)
                continue
            except CyfsError as fault:
                _log.error("no tunnel to %s can be kept: %s", kept.peer, fault)
                if tell is not None:
                    tell(fault)
            except Exception:
                _log.exception("keeping a tunnel to %s failed in a way nobody foresaw", kept.peer)
            await trio.sleep(_AGAIN)

    async def _know_servers(self) -> None:
        """Have at hand who the servers of our proxies are: whoever asks for one first waits a round trip less.

        One at a time: what was begun before ends, for it may wait for a network that is gone.
        """
        self._knowing.cancel()
        with trio.CancelScope() as self._knowing:
            for proxy in list(self._world.outbounds.values()):
                server = proxy.peer_for("") if isinstance(proxy, RtcpProxy) else None
                if server is not None and server.key is None:
                    for machine in await self._leads.ask(server):
                        with suppress(Refused, Unreachable):
                            await self._acquaintance.know(machine)
                            _log.debug("%s is known, should somebody ask for %s", machine, server)

    def _network_changed(self, reach: Reach) -> None:
        if (device := self.standing) is not None:
            device.network_changed()
        reach.network_changed()
        self.membership.network_changed()

    def doubt(self) -> None:
        """What the owner's commands let in may be other than before."""
        self._vigil.doubt()

    def take(self, sock: Pipe, host: str, port: int) -> None:
        """Somebody has connected to one of our doors."""
        device = self.standing
        if device is None:
            sock.close()
        else:
            device.accepted(sock, (host, port))

    def views(self) -> list[PeerView]:
        """The tunnels that stand."""
        return [self.view(tunnel) for tunnel in self._tunnels()]

    def view(self, tunnel: AnyTunnel) -> PeerView:
        """``tunnel`` as people see it."""
        device = self.standing
        report = None if device is None else device.explain(tunnel.peer.did)
        return view(tunnel, report)

    def _world_now(self) -> World:
        return self._world

    def _local_now(self) -> Local:
        assert self._seat is not None
        return self._seat.local

    def _way_to_sn(self, member: MemberConfig) -> Way:
        return kept_way(self._world, member.sn)

    async def _open_stream(self, did: Did, host: str | None, port: int, **way: Unpack[Way]) -> Pipe:
        device = await self.device()
        return await device.open_stream(await self.choose(device, did, **way), host, port, **way)

    def _tunnels(self) -> Sequence[AnyTunnel]:
        device = self.standing
        return () if device is None else device.tunnels()

    # Whom a name leads to

    async def choose(self, device: Device, did: Did, *, via: Carrier | None = None, at: int | None = None) -> Did:
        """As :meth:`cyfs_gateway.io.leads.Leads.choose`."""
        led = self._leads.led_to(did)
        if led == (did,) and not self._leads.known(did):
            # Its own name, as far as one knows; that it still is, is found out before it hears who calls.
            self._nursery.start_soon(self._leads.ask, did)
            return did
        if did.key is None and not led:
            # Most names are a device's own, and are dialled next: nobody waits for one answer to ask for the other.
            self._nursery.start_soon(self._resolve, did)
        return await self._leads.choose(device, did, via=via, at=at)

    def chosen(self, did: Did) -> Did | None:
        """As ``choose``, if there is no choice; None: somebody has to be asked first."""
        known = self._leads.known(did)
        return known[0] if len(known) == 1 else None

    async def know(self, did: Did) -> Known:
        """As :meth:`cyfs_gateway.io.acquaintance.Acquaintance.know`."""
        return await self._acquaintance.know(did)

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

    async def _recall(self, did: Did, port: int | None) -> Found | None:
        known = await self._acquaintance.recall(did)
        if known is None:
            return None
        at = port or known.port or DEFAULT_PORT
        places = [*self.membership.places(did), *((address, at) for address in known.addresses)]
        places += self._engine.offers.search(did, dev_did(known.key)).addresses
        return Found(known.key, list(dict.fromkeys(places)), known.identity)

    async def _find(self, reach: Reach, did: Did, port: int | None) -> Found:
        known, told = await self._acquaintance.know(did), self.membership.places(did)
        self._engine.offers.check_not_barred(known.identity)
        await self._learn_owner()
        near: list[Address] = []
        looked = trio.Event()

        async def look_near() -> None:
            near.extend(await reach.look_near(known.key))
            looked.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(look_near)
            began = trio.current_time()
            at = port or known.port or DEFAULT_PORT
            not_theirs = self.membership.doors(known.key)
            resolved = [(address, at) for address in await self._resolve(did)]
            far = [(address, at) for address in known.addresses]
            heard = self._engine.offers.search(did, dev_did(known.key)).addresses
            far += [place for place in (*resolved, *heard) if place not in not_theirs]
            with trio.move_on_at(began + _GRACE if far or told or self._rtcp.sns else math.inf):
                await looked.wait()
            nursery.cancel_scope.cancel()
        return Found(known.key, list(dict.fromkeys((*near, *told, *far))), known.identity)

    async def _resolve(self, did: Did) -> Sequence[str]:
        """The addresses of its name, if there are any; asked for once by all who want them at the same time."""

        async def ask() -> Sequence[str]:
            try:
                return await self._world.resolve(host_of_did(did, self._acquaintance.bridges, case_safe=True).lower())
            except CyfsError:
                return ()

        return await self._resolving.run(did.canonical, ask)

    async def _learn_owner(self) -> None:
        self._owner = await self.owner()

    def _trusts(self, peer: Peer) -> bool:
        """Whether ``peer`` may know our addresses inside."""
        identity, rules = self._acquaintance.identity(peer), self._world.peer_rules
        conditions = None if rules is None else rules.inside
        if conditions is None:
            return bool(self._owner) and identity.owner == self._owner
        flow = Flow("tcp", PEER, peer.source, 0, "", "", 0, identity=identity)
        verdict = conditions.match(flow, 0, True, True)
        return isinstance(verdict, Verdict) and verdict.index >= 0

    async def _dial(self, host: str, port: int) -> Pipe:
        try:
            return await self._world.outbounds["DIRECT"].open_stream(Target(host, port))
        except OSError as fault:
            raise Unreachable(str(fault), "other") from fault


def view(tunnel: AnyTunnel, report: Report | None) -> PeerView:
    """A tunnel as people see it; ``report`` tells of its ways."""
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
        way=(tunnel.way if isinstance(tunnel, MuxedTunnel) else tunnel.key.bootstrap) or peer.source,
        silent=round(max(0.0, trio.current_time() - tunnel.last_heard), 1),
        why="" if report is None else report.why,
        ways=() if report is None else tuple(map(_way, report.ways)),
    )


def _way(one: WayReport) -> WayView:
    return WayView(
        name=one.way.name,
        kind=one.way.kind.name.lower(),
        state=one.state,
        rtt=None if one.rtt is None else round(one.rtt * 1000, 1),
        loss=round(one.loss, 3),
        heard=None if one.heard is None else round(one.heard, 1),
    )


def _is_a_door_closed(before: Iterable[ListenerConfig], after: Iterable[ListenerConfig]) -> bool:
    """Whether a connection that was taken before is not taken any more."""
    doors = {(each.listen, each.port) for each in after if each.kind == "rtcp"}
    everywhere = {port for listen, port in doors if listen in ("0.0.0.0", "::")}
    gone = [each for each in before if each.kind == "rtcp" and (each.listen, each.port) not in doors]
    return any(each.port not in everywhere for each in gone)
