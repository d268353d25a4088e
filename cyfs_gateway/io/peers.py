"""This machine among others: its device, whom it knows, whom it lets in, and the tunnels that it keeps.

The device lives as long as its key does.  A change of the configuration is seen by the next question it asks; standing
tunnels do not notice.  Only another key makes another device, and ends the tunnels of the one before.

Tunnels are dialled by plain connections of our own, not by the rules: these may lead into a tunnel.  Another way is
written where the peer is (``via``, ``dialer-proxy``, a URL).
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from cyfs_gateway.config.model import Config, KeptTunnel, RtcpConfig
from cyfs_gateway.facade import PeerView
from cyfs_gateway.flow import Identity
from cyfs_gateway.io.peerflows import PeerFlow
from cyfs_gateway.peers import Known, brought_along, known_by, level_needed, may_bootstrap, nobody_but
from cyfs_ns.errors import BadWire, ConfigFault, CyfsError, Refused, Unreachable
from cyfs_ns.identity.did import Bridges, Did, dev_did, host_of_did, subject
from cyfs_ns.io.trusted.keystore import KeyStore
from cyfs_ns.trust import outcome
from cyfs_ns.trust.anchors import Anchors
from cyfs_ns.trust.level import Purpose
from cyfs_ns.trust.places import device_did
from cyfs_ns.trust.plan import Ask, Privacy
from rtcp.admission import Proven, Standing
from rtcp.io.device import Device, House, open_device
from rtcp.io.pipe import DEFAULT_PORT, Pipe
from rtcp.io.tunnel import StreamRequest, Tunnel
from rtcp.packet import Purpose as Wanted
from rtcp.party import Found, Local, Peer
from tunnels.endpoint import Target
from tunnels.io.rtcp import Rtcp
from tunnels.io.waiting import TcpEndpoint
from tunnels.url import parse as parse_url

if TYPE_CHECKING:
    from cyfs_gateway.io.engine import Engine
    from cyfs_gateway.io.world import World
    from cyfs_ns.io.trusted.resolver import TrustedNames

_FINDING: Final = 8.0
"""Seconds for finding out who somebody is, who waits at the door meanwhile."""
_ALIVE: Final = ((socket.TCP_KEEPIDLE, 2), (socket.TCP_KEEPINTVL, 2), (socket.TCP_KEEPCNT, 15))
"""A router that has forgotten a stream learns of it again within seconds; a network that is away for half a minute ends
nothing."""
_AGAIN: Final = 10.0

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


class _Seat:
    """One device and its life."""

    def __init__(self, local: Local) -> None:
        self.local = local
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
        self._engine, self._nursery, self._trusted, self._ports = engine, nursery, trusted, ports
        self._world: World
        self._rtcp = RtcpConfig()
        self._seat: _Seat | None = None
        self._keeping = trio.CancelScope()

    # Its life

    def adopt(self, world: World, local: Local) -> None:
        """Be ``local`` and go by ``world`` from now on; neither waits nor fails."""
        self._world, self._rtcp = world, world.config.rtcp or RtcpConfig()
        seat = self._seat
        if seat is None or seat.local.key.public != local.key.public:
            self.close()
            seat = self._seat = _Seat(local)
            self._nursery.start_soon(self._live, seat)
        seat.local = local
        if seat.device is not None:
            seat.device.local = local
        self._begin_keeping()

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
                        async with open_device(seat.local, house) as seat.device:
                            seat.device.local = seat.local
                            seat.up.set()
                            await trio.sleep_forever()
                    except Exception:
                        # Strangers talk to it: what nobody foresaw there must not end the gateway.
                        _log.exception("the device failed in a way nobody foresaw; it begins again")
                    seat.device, seat.up = None, trio.Event()
                    await trio.sleep(_AGAIN)
                    self._begin_keeping()
        finally:
            seat.device = None
            seat.up.set()

    async def _keep_all(self, scope: trio.CancelScope, kept: Sequence[KeptTunnel]) -> None:
        with scope, suppress(Unreachable):
            device = await self.device()
            async with trio.open_nursery() as nursery:
                for each in kept:
                    nursery.start_soon(self._keep, device, each)

    async def _keep(self, device: Device, kept: KeptTunnel) -> None:
        carrier = None
        while True:
            try:
                if kept.url:
                    way = self._world.tunnels.way(parse_url(kept.url))
                    assert isinstance(way, Rtcp)
                    carrier = way.carrier
                await device.keep(kept.peer, via=carrier, at=kept.port)
            except CyfsError as fault:
                _log.error("no tunnel to %s can be kept: %s", kept.peer, fault)
            await trio.sleep(_AGAIN)

    def take(self, sock: TcpEndpoint, host: str, port: int) -> None:
        """Somebody has connected to one of our doors."""
        device = self.standing
        if device is None:
            sock.close()
        else:
            device.accepted(sock, (host, port))

    def views(self) -> list[PeerView]:
        """The tunnels that stand."""
        device = self.standing
        return [] if device is None else [view(tunnel) for tunnel in device.tunnels()]

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
        need = level_needed(did, self._rtcp.require)
        try:
            trusted = self._trusted()
        except ConfigFault as fault:
            raise Unreachable(str(fault), "pre_connect_dns") from fault
        privacy = Privacy.SERVICE
        if quietly and not self._rtcp.txt_bootstrap and may_bootstrap(did, await self._anchors()):
            privacy = Privacy.NOBODY
        said = await trusted.resolve(Ask(subject=did, least=need, privacy=privacy))
        if not isinstance(said, outcome.Found):
            found = await self._bootstrap(did, said)
            if found is None:
                raise _why_not(said, self._rtcp)
            return found
        known = known_by(did, said.claims, need, await self._anchors(), self._bridges)
        if known is None:
            raise Refused(f"{did} is known, but not which key it has ({need} is required)")
        return known

    async def _bootstrap(self, did: Did, said: outcome.Outcome) -> Known | None:
        """What the DNS says, where nobody else could say more and the configuration lets it."""
        if not self._rtcp.txt_bootstrap or not isinstance(said, outcome.TooWeak):
            return None
        anchors = await self._anchors()
        if not may_bootstrap(did, anchors):
            return None
        return known_by(did, said.found, Purpose.DIAL.least, anchors, self._bridges)

    async def _anchors(self) -> Anchors:
        try:
            return await trio.to_thread.run_sync(self._trusted().store.anchors)
        except (BadWire, OSError) as fault:
            raise Refused(f"the pins of this machine cannot be read: {fault}") from fault

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
        fault = Unreachable(f"{did}: nobody answered in time", "pre_connect_dns")
        with trio.move_on_after(_FINDING):
            try:
                known = await self._know(did, quietly=True)
                return Standing(key=known.key, about=known.identity)
            except Unreachable as nobody_knows:
                fault = nobody_knows
        brought = await self._by_document(proven, did)
        if brought is None:
            raise fault
        return Standing(key=brought.key, about=brought.identity)

    async def _by_document(self, proven: Proven, did: Did) -> Known | None:
        """What its own document proves, where a snapshot will do and nobody could be asked."""
        if self._rtcp.require != "trusted_snapshot" or proven.document is None:
            return None
        anchors = await self._anchors()
        claims = brought_along(proven.document, did, anchors, time.time())
        return known_by(did, claims, level_needed(did, self._rtcp.require), anchors, self._bridges)

    async def _welcome(self, peer: Peer) -> None:
        await trio.lowlevel.checkpoint()
        if self._world.peer_rules is None:
            raise Refused("nobody is let in here")
        self._world.peer_rules.admit(peer.source, self._identity(peer))

    async def _serve(self, request: StreamRequest) -> None:
        device = self.standing
        if device is not None and request.port in self._ports() and self._is_own_request(request):
            # Somebody who cannot reach our door knocks at it through a peer, and has to prove who they are as there.
            device.accepted(await request.accept(), (str(request.peer.device), 0))
            return
        flow = PeerFlow(self._engine, self._world, request, self._identity(request.peer))
        await flow.serve(self._is_own)

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


def view(tunnel: Tunnel) -> PeerView:
    """A tunnel as people see it."""
    peer = tunnel.peer
    known = peer.about if isinstance(peer.about, Identity) else nobody_but(peer.device, {})
    return PeerView(
        peer=str(peer.did),
        device=str(peer.device),
        owner=known.owner,
        zone=known.zone,
        trust=known.trust.label,
        dialled=peer.dialled,
        way=tunnel.key.bootstrap or peer.source,
        silent=round(max(0.0, trio.current_time() - tunnel.last_heard), 1),
    )


def _why_not(said: outcome.Outcome, config: RtcpConfig) -> Refused | Unreachable:
    """Nobody is met by less than is required: what was reached, and what would be enough."""
    match said:
        case outcome.TooWeak():
            return Refused(f"{said.why}, by rtcp/require: {config.require}")
        case outcome.Absent() | outcome.Unreachable():
            return Unreachable(said.why, "pre_connect_dns")
    return Refused(said.why)
