"""This machine among others: its device, whom it knows, whom it lets in, and the tunnels that it keeps.

The device lives as long as its key does.  A change of the configuration is seen by the next question it asks.  Only
another key, or other versions to speak, make another device, and end the tunnels of the one before.

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
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from cyfs_gateway.config.model import Config, KeptTunnel, ListenerConfig, RtcpConfig
from cyfs_gateway.facade import PeerView
from cyfs_gateway.flow import Identity
from cyfs_gateway.io.peerflows import PeerFlow
from cyfs_gateway.io.roads import follow_roads
from cyfs_gateway.io.rtcp import Way
from cyfs_gateway.io.versions import VersionFile
from cyfs_gateway.io.vigil import Vigil
from cyfs_gateway.io.ways import kept_way, way_to
from cyfs_gateway.peers import (
    Known,
    brought_along,
    check_not_revoked,
    gateways_of,
    known_by,
    known_of,
    known_still,
    level_needed,
    may_bootstrap,
    nobody_but,
    own_owner,
)
from cyfs_ns.errors import BadWire, ConfigFault, CyfsError, Refused, Unreachable
from cyfs_ns.identity.did import Bridges, Did, dev_did, host_of_did, subject
from cyfs_ns.identity.keys import PublicKey
from cyfs_ns.identity.token import Token
from cyfs_ns.io.trusted.keystore import KeyStore
from cyfs_ns.io.trusted.store import TrustStore
from cyfs_ns.io.watch import watch_files
from cyfs_ns.trust import outcome
from cyfs_ns.trust.anchors import Anchors
from cyfs_ns.trust.places import device_did, lineage
from cyfs_ns.trust.plan import Ask, Privacy
from rtcp.admission import Proven, Standing
from rtcp.io.device import Carrier, Device, House, open_device
from rtcp.io.fifth import Version5
from rtcp.io.mux import MuxedTunnel
from rtcp.io.pipe import DEFAULT_PORT, Pipe
from rtcp.io.roll import AnyTunnel
from rtcp.io.tunnel import StreamRequest
from rtcp.packet import Purpose as Wanted
from rtcp.party import Found, Local, Peer
from rtcp.v5.closing import CloseCode
from rtcp.v5.memory import VersionMemory
from tunnels.endpoint import Target
from tunnels.io.rtcp import Rtcp, RtcpProxy
from tunnels.io.waiting import TcpEndpoint

if TYPE_CHECKING:
    from cyfs_gateway.io.engine import Engine
    from cyfs_gateway.io.tracker import Tracked
    from cyfs_gateway.io.world import World
    from cyfs_ns.io.trusted.resolver import TrustedNames

_FINDING: Final = 8.0
"""Seconds for finding out who somebody is, who waits at the door meanwhile."""
_ALIVE: Final = ((socket.TCP_KEEPIDLE, 2), (socket.TCP_KEEPINTVL, 2), (socket.TCP_KEEPCNT, 15))
"""A router that has forgotten a stream learns of it again within seconds; a network that is away for half a minute ends
nothing."""
_AGAIN: Final = 10.0
_LOOKED_UP_AGAIN: Final = 300.0
"""Seconds for which a name of a zone leads to the same machines."""
_MOST_NAMES: Final = 4096
_MOST_BROUGHT: Final = 8192
_MOST_FLOWS: Final = 4096
"""Of one device; it shall not have all there are."""
_SELDOM: Final = 60.0

_log = logging.getLogger("cyfs.peers")


def read_local(config: Config) -> Local:
    """This machine as a device.  Blocks on the disk.  Raises ``ConfigFault``."""
    store = KeyStore(Path(config.home))
    if config.rtcp is not None and config.rtcp.identity:
        store.path = Path(config.rtcp.identity)
    key = store.device()
    held = store.device_document()
    port = next((one.port for one in config.listeners if one.kind == "rtcp"), 0)
    local = Local(key=key, did=dev_did(key.public), bridges=config.identity.bridges, listen_port=port)
    if held is None:
        return local
    token, document = held
    if document.key != key.public or document.exp <= time.time():
        _log.warning("%s is for another key or has expired: peers are met without it", store.device_jwt)
        return local
    name = document.id
    if name.key is not None and document.zone is not None:
        name = device_did(document.name, document.zone)
    return Local(key=key, did=name, device_doc_jwt=token.text, bridges=config.identity.bridges, listen_port=port)


@dataclass(frozen=True, slots=True)
class Myself:
    """This machine as a device, and whom it remembers."""

    local: Local
    memory: VersionMemory
    file: VersionFile


def read_myself(config: Config) -> Myself:
    """As ``read_local``, with what is known of others."""
    file = VersionFile(config.home)
    return Myself(read_local(config), file.read(), file)


class _Seat:
    """One device and its life."""

    def __init__(self, me: Myself, versions: frozenset[int]) -> None:
        self.local, self.memory, self.file = me.local, me.memory, me.file
        self.versions = versions
        self.scope = trio.CancelScope()
        self.up = trio.Event()
        self.device: Device | None = None


@dataclass(frozen=True, slots=True)
class _Inside:
    """Somebody who was let in, or dialled; without a tunnel there are streams left."""

    peer: Peer
    tunnel: AnyTunnel | None


class Peers:
    """See the module's text.  ``trusted`` knows who is who; ``ports`` are those of our doors for tunnels."""

    def __init__(
        self,
        engine: Engine,
        nursery: trio.Nursery,
        trusted: Callable[[], TrustedNames],
        ports: Callable[[], frozenset[int]],
    ) -> None:
        self._engine, self._nursery, self._trusted, self._ports = engine, nursery, trusted, ports
        self._world: World
        self._rtcp = RtcpConfig()
        self._seat: _Seat | None = None
        self._keeping = trio.CancelScope()
        self._changes = 0
        self._held: tuple[int, float, Anchors] | None = None
        self._owner: tuple[int, float, str] | None = None
        self._vigil = Vigil(self._inside, self._judge_again)
        self._stranded: set[AnyTunnel] = set()
        """Whose door is closed."""
        self._leads: dict[Did, tuple[float, tuple[Did, ...]]] = {}
        self._brought: dict[Did, Token] = {}
        """By device, the documents that nobody but their bearers could show us."""
        self._flows: Counter[Did] = Counter()
        self._turned_away = _Seldom("no tunnel for a peer: %s")
        self._blind = _Seldom("tunnels that stand are left as they are: %s")

    # Its life

    def adopt(self, world: World, me: Myself) -> None:
        """Be ``me`` and go by ``world`` from now on; neither waits nor fails."""
        local = me.local
        before = self._world.config.listeners if self._seat is not None else ()
        self._world, self._rtcp = world, world.config.rtcp or RtcpConfig()
        seat = self._seat
        if seat is None or (seat.local.key.public, seat.versions) != (local.key.public, self._rtcp.versions):
            self.close()
            if seat is not None:  # it may have learnt since the file was read who speaks version 5
                me = replace(me, memory=seat.memory, file=seat.file)
            seat = self._seat = _Seat(me, self._rtcp.versions)
            self._nursery.start_soon(self._live, seat)
        seat.local = local
        if seat.device is not None:
            seat.device.local = local
        if _is_a_door_closed(before, world.config.listeners):
            self._stranded = {each for each in self._tunnels() if each.version == 4 and each.peer.source}
        self._change()
        self._begin_keeping()

    def _change(self) -> None:
        """What names and verdicts rest on may be another."""
        # To be asked anew; but where they led is where streams still go.
        self._leads = {name: (0.0, devices) for name, (_, devices) in self._leads.items()}
        self._changes += 1
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
        house = House(find=self._find, dial=self._dial, vouch=self._vouch, welcome=self._welcome, serve=self._serve)
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

        try:
            await watch_files((names / "pins", names / "local", kept), changed)
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
                with trio.move_on_after(_LOOKED_UP_AGAIN):
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

    def _tunnels(self) -> Sequence[AnyTunnel]:
        device = self.standing
        return () if device is None else device.tunnels()

    # Whom a name leads to

    async def leads_to(self, did: Did) -> tuple[Did, ...]:
        """The devices to dial for ``did``: itself, or of a zone the machines that take in what comes for it.

        Who they are is as sure as any peer has to be; that it is them is proven when they are dialled.
        """
        name = did.canonical
        if name.key is not None:
            return (did,)
        held = self._leads.get(name)
        if held is not None and held[0] > trio.current_time():
            return held[1]
        found: tuple[Did, ...] = (did,)
        if not any(tunnel.peer.did == name for tunnel in self._tunnels()):
            try:
                said = await self._ask(did)
            except (Refused, Unreachable):
                return found  # as whoever dials it will find out
            if not isinstance(said, outcome.Found):
                return found
            found = gateways_of(name, said.claims, level_needed(did, self._rtcp.require)) or found
            if found != (did,):
                _log.info("%s leads to %s, as its documents say: %s", did, ", ".join(map(str, found)), said.why)
        if len(self._leads) >= _MOST_NAMES:
            self._leads.clear()
        self._leads[name] = trio.current_time() + _LOOKED_UP_AGAIN, found
        return found

    async def choose(self, device: Device, did: Did, *, via: Carrier | None = None, at: int | None = None) -> Did:
        """Of those that ``did`` leads to, the first who is there; else the last."""
        *first, last = await self.leads_to(did)
        for peer in first:
            with suppress(Refused, Unreachable):
                await device.tunnel(peer, via=via, at=at)
                return peer
        return last

    def way_to(self, did: Did) -> Way:
        """As :func:`cyfs_gateway.io.ways.way_to`."""
        name = did.canonical
        standing = {each.key.bootstrap for each in self._tunnels() if name in (each.peer.did, each.peer.device)}
        return way_to(self._world, did, standing)

    # What the device asks

    @property
    def _bridges(self) -> Bridges:
        return self._world.config.identity.bridges

    async def _find(self, did: Did, port: int | None) -> Found:
        known = await self._know(did)
        addresses = list(known.addresses)
        with suppress(BadWire, Unreachable):
            addresses += await self._world.resolve(host_of_did(did, self._bridges, case_safe=True).lower())
        at = port or known.port or DEFAULT_PORT
        return Found(known.key, [(address, at) for address in dict.fromkeys(addresses)], known.identity)

    async def _know(self, did: Did, *, quietly: bool = False) -> Known:
        """Who somebody is, as surely as is required.  ``quietly``: nobody else is asked about whom no pin can prove.

        Raises ``Refused`` and ``Unreachable``, which say what lacks.
        """
        said = await self._ask(did, quietly=quietly)
        known = known_of(did, said, self._rtcp, await self._anchors(), self._bridges)
        if known is not None:
            return known
        if isinstance(said, outcome.Found):
            raise Refused(f"{did} is known, but not which key it has (rtcp/require: {self._rtcp.require})")
        raise _why_not(said, self._rtcp)

    async def _ask(self, did: Did, *, quietly: bool = False) -> outcome.Outcome:
        """What is said of somebody.  Raises ``Refused`` and ``Unreachable`` when it cannot be told."""
        try:
            trusted = self._trusted()
        except ConfigFault as fault:
            raise Unreachable(str(fault), "pre_connect_dns") from fault
        privacy = Privacy.SERVICE
        if quietly and not self._rtcp.txt_bootstrap and may_bootstrap(did, await self._anchors()):
            if not await trio.to_thread.run_sync(_is_written_down, trusted.store, did):
                # Names that strangers make up shall not push out of the memory what others need of it.
                raise Refused(f"{did}: nothing here could prove who that is")
            privacy = Privacy.NOBODY
        return await trusted.resolve(Ask(subject=did, least=level_needed(did, self._rtcp.require), privacy=privacy))

    async def _anchors(self) -> Anchors:
        try:
            return await trio.to_thread.run_sync(self._trusted().store.anchors)
        except (BadWire, ConfigFault, OSError) as fault:
            raise Refused(f"the pins of this machine cannot be read: {fault}") from fault

    async def _anchors_of_now(self) -> Anchors:
        """The same for all who are judged in one round."""
        held, now, changes = self._held, trio.current_time(), self._changes
        if held is None or held[0] != changes or now - held[1] > 1:
            self._held = held = changes, now, await self._anchors()
        return held[2]

    async def owner(self) -> str:
        """Whose this device is; empty when nobody is known.  Peers ask for it often, so it is kept as the pins are."""
        held, now, changes = self._owner, trio.current_time(), self._changes
        if held is None or held[0] != changes or now - held[1] > 1:
            try:
                anchors, seat = await self._anchors_of_now(), self._seat
            except Refused:
                return ""
            self._owner = held = changes, now, "" if seat is None else own_owner(seat.local, anchors, time.time())
        return held[2]

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

    async def _vouch(self, proven: Proven) -> Standing:
        """What is known of the name that a stranger goes by, who brought a document for it.

        Strangers shall not choose whom we call: about names that nothing here could prove nobody is asked.
        """
        did = proven.named.canonical
        try:
            known = await self._know_soon(proven, did)
        # The reason goes to whoever knocks, and what lacks here is not for them.
        except Refused as no:
            self._turned_away.tell(no)
            raise Refused(f"who {did} is cannot be told here") from no
        except Unreachable as fault:
            self._turned_away.tell(fault)
            raise Unreachable(f"who {did} is cannot be found out just now", "pre_connect_dns") from fault
        return Standing(key=known.key, about=known.identity)

    async def _know_soon(self, proven: Proven, did: Did) -> Known:
        fault = Unreachable(f"{did}: nobody answered in time", "pre_connect_dns")
        with trio.move_on_after(_FINDING):
            try:
                return await self._know(did, quietly=True)
            except Unreachable as nobody_knows:
                fault = nobody_knows
        brought = await self._by_document(proven.document, did)
        if brought is None:
            raise fault
        self._hold(proven)
        return brought

    async def _by_document(self, document: Token | None, did: Did) -> Known | None:
        """What its own document proves, where a snapshot will do and nobody could be asked."""
        if self._rtcp.require != "trusted_snapshot" or document is None:
            return None
        anchors = await self._anchors()
        claims = brought_along(document, did, anchors, time.time())
        return known_by(did, claims, level_needed(did, self._rtcp.require), anchors, self._bridges)

    def _hold(self, proven: Proven) -> None:
        """Keep what somebody brought for as long as there is a tunnel."""
        if len(self._brought) >= _MOST_BROUGHT:
            standing = {tunnel.peer.device for tunnel in self._tunnels()}
            self._brought = {device: token for device, token in self._brought.items() if device in standing}
        if proven.document is not None and len(self._brought) < _MOST_BROUGHT:
            self._brought[proven.device] = proven.document

    async def _welcome(self, peer: Peer) -> None:
        try:
            check_not_revoked(_key_of(peer), await self._anchors())
            self._admit(peer)
        except Refused as no:
            self._turned_away.tell(no)
            raise Refused(f"no tunnel for {peer.did}") from no

    def _admit(self, peer: Peer) -> None:
        if self._world.peer_rules is None:
            raise Refused("nobody is let in here")
        self._world.peer_rules.admit(peer.source, self._identity(peer), self._engine.offers.named)

    # Those who are inside

    def _inside(self) -> list[_Inside]:
        inside = [_Inside(tunnel.peer, tunnel) for tunnel in self._tunnels()]
        # Streams of version 4 outlive their tunnel.
        flows = [flow for flow in self._engine.tracker if isinstance(flow, PeerFlow)]
        left = {flow.peer.device: flow.peer for flow in flows}
        for each in inside:
            left.pop(each.peer.device, None)
        return [*inside, *(_Inside(peer, None) for peer in left.values())]

    async def _judge_again(self, one: _Inside) -> None:
        """Whoever would not be let in any more has to go."""
        peer, tunnel = one.peer, one.tunnel
        try:
            anchors = await self._anchors_of_now()
        except Refused as fault:
            self._blind.tell(fault)
            return
        try:
            check_not_revoked(_key_of(peer), anchors)
            if peer.did.key is None:
                peer = replace(peer, about=await self._who_now(peer, anchors))
                if tunnel is not None:
                    tunnel.peer = peer
            if not peer.dialled:
                self._admit(peer)
        except Unreachable as fault:
            _log.debug("%s cannot be judged again now: %s", peer.did, fault)
        except Refused as no:
            self._put_out(one, str(no))
        if tunnel is not None and tunnel in self._stranded:
            self._stranded.discard(tunnel)
            if not tunnel.over.is_set():
                _log.info("the tunnel from %s ends, to come in by another door", peer.did)
                tunnel.close()

    async def _who_now(self, peer: Peer, anchors: Anchors) -> Identity:
        """Who a peer with a name is by now.  Raises ``Refused`` and ``Unreachable``."""
        before = self._identity(peer)
        said = await self._ask(peer.did, quietly=not peer.dialled)
        if isinstance(said, outcome.Absent | outcome.Unreachable):
            brought = await self._by_document(self._brought.get(peer.device), peer.did)
            if brought is not None and brought.key == _key_of(peer):
                return brought.identity
        now = known_still(peer.did, _key_of(peer), before.trust, said, self._rtcp, anchors, self._bridges)
        return now or before

    def _put_out(self, one: _Inside, why: str) -> None:
        """End its tunnel, and what it does here."""
        _log.warning("the tunnel to %s ends: %s", one.peer.did, why)
        if isinstance(one.tunnel, MuxedTunnel):
            one.tunnel.close(CloseCode.REFUSED, "not wanted any more")
        elif one.tunnel is not None:
            one.tunnel.close()
        for flow in self._engine.tracker:
            if self._is_with(flow, one.peer):
                flow.close(why)

    def _is_with(self, flow: Tracked, peer: Peer) -> bool:
        """Whether ``flow`` comes from ``peer``, or goes to it."""
        if isinstance(flow, PeerFlow):
            return flow.peer.device == peer.device
        leaf = flow.decision.leaf
        whom = leaf.peer_for(flow.flow.goal) if isinstance(leaf, Rtcp | RtcpProxy) else None
        if whom is None:
            return False
        led_to = self._leads.get(whom.canonical, (0.0, ()))[1]
        return bool({peer.did, peer.device} & {whom.canonical, *led_to})

    async def _serve(self, request: StreamRequest) -> None:
        device = self.standing
        if device is not None and request.port in self._ports() and self._is_own_request(request):
            # Somebody who cannot reach our door knocks at it through a peer, and has to prove who they are as there.
            device.accepted(await request.accept(), (str(request.peer.device), 0))
            return
        asker = request.peer.device
        if self._flows[asker] >= _MOST_FLOWS:
            raise Refused(f"{request.peer.did} has {_MOST_FLOWS} streams here already")
        self._flows[asker] += 1
        identity = self._identity(request.peer)
        flow = PeerFlow(self._engine, self._world, request, identity, partial(self._flow_is_over, asker))
        await flow.serve(self._is_own)

    def _flow_is_over(self, asker: Did) -> None:
        self._flows[asker] -= 1
        if not self._flows[asker]:
            del self._flows[asker]

    def _is_own_request(self, request: StreamRequest) -> bool:
        return request.purpose is Wanted.STREAM and (request.host is None or self._is_own(request.host))

    def _is_own(self, host: str) -> bool:
        seat = self._seat
        try:
            return seat is not None and seat.local.answers_to(subject(host, self._bridges))
        except BadWire:
            return False

    def _identity(self, peer: Peer) -> Identity:
        return peer.about if isinstance(peer.about, Identity) else nobody_but(peer.device, self._bridges)


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


def _is_written_down(store: TrustStore, did: Did) -> bool:
    """Whether a file that was put here by hand is about ``did``, or a name above it."""
    names = lineage(did)
    return any(one.about.canonical in names for one in store.local())


def _key_of(peer: Peer) -> PublicKey:
    key = peer.device.key
    assert key is not None
    return key


def _is_a_door_closed(before: Iterable[ListenerConfig], after: Iterable[ListenerConfig]) -> bool:
    """Whether a connection that was taken before is not taken any more."""
    doors = {(each.listen, each.port) for each in after if each.kind == "rtcp"}
    everywhere = {port for listen, port in doors if listen in ("0.0.0.0", "::")}
    gone = [each for each in before if each.kind == "rtcp" and (each.listen, each.port) not in doors]
    return any(each.port not in everywhere for each in gone)


class _Seldom:
    """A line of the log that strangers can cause: told once a minute, with how often it was not."""

    def __init__(self, line: str) -> None:
        self._line = line
        self._next = 0.0
        self._untold = 0

    def tell(self, what: object) -> None:
        now = trio.current_time()
        if now < self._next:
            self._untold += 1
            return
        more = f" ({self._untold} more since the last such line)" if self._untold else ""
        _log.info(self._line + more, what)
        self._next, self._untold = now + _SELDOM, 0


def _why_not(said: outcome.Outcome, config: RtcpConfig) -> Refused | Unreachable:
    """Nobody is met by less than is required: what was reached, and what would be enough."""
    match said:
        case outcome.TooWeak():
            return Refused(f"{said.why}, by rtcp/require: {config.require}")
        case outcome.Absent() | outcome.Unreachable():
            return Unreachable(said.why, "pre_connect_dns")
    return Refused(said.why)
