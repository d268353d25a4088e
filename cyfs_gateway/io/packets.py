"""UDP flows: what one client sends through one listener, sorted by destination, decided like everything else.

An *association* is all that one client sends through one door.  Each destination gets its own verdict; all destinations
that end at the same outbound share one socket there, so a peer that was written to may answer from anywhere and the
client keeps one public port (what STUN, games and QUIC migration need).  The rest of the path is the reactor's: sockets
are drained in bounded batches, no task per flow; a task only opens a way that has to be waited for.

Bounds: ``ASSOCIATIONS_MOST`` SOCKS clients, and as many of each other listener; ``_ROUTES_MOST`` destinations a client.
Beyond them goes the client that wrote nothing, the destination that nobody wrote to, for the longest time.
A way through a tunnel takes descriptors here and a stream there, so a client has ``_TUNNELLED_MOST`` of them.
``_OPENING_MOST`` ways of a client are opened at once, and ``_QUEUE_MOST`` datagrams wait for a verdict (more are
dropped, as UDP may).  A destination whose way could not be opened is decided anew after ``_REST``.
"""

from __future__ import annotations

import logging
import math
import socket
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from cyfs_gateway.config.model import ListenerConfig
from cyfs_gateway.decide import Decision, Pending
from cyfs_gateway.filter import AddressFilter
from cyfs_gateway.flow import PEER, Flow
from cyfs_gateway.io import transparent
from cyfs_gateway.sniff.result import MORE, Sniffed
from cyfs_ns.errors import BadWire, CyfsError, Refused, Unreachable
from cyfs_ns.names import is_ip
from tunnels import socks
from tunnels.authority import parse_authority
from tunnels.endpoint import PacketEndpoint, Target
from tunnels.io.reactor import READABLE
from tunnels.outbound import Outbound

if TYPE_CHECKING:
    from cyfs_gateway.io.engine import Engine
    from cyfs_gateway.sniff.quic import QuicSniffer

ASSOCIATIONS_MOST: Final = 16384
_ROUTES_MOST: Final = 512
_TUNNELLED_MOST: Final = 64
_OPENING_MOST: Final = 64
_REST: Final = 1.0  # seconds
_QUEUE_MOST: Final = 32
_BATCH: Final = 64
_DATAGRAM: Final = 65535
_SNIFF_DATAGRAMS: Final = 8
_SOCKET_BUFFER: Final = 1 << 20

_log = logging.getLogger("cyfs.udp")

Answer = Callable[[bytes, Target], None]
"""Send a datagram to the client in the name of the given source."""

_Way = tuple[str, Target | None]
"""The outbound's name, and the one destination that uses it if it cannot be shared."""


class _Session:
    """One outbound's packet way, shared by all destinations of one association that go there.

    Whom a client knows by a fake address has one of its own: real senders could not be told apart by it.  So has whom a
    tunnel leads to: that may be another peer, and is opened and refused alone.
    """

    __slots__ = ("_forward", "association", "endpoint", "fd", "key", "leaf", "routes")

    def __init__(self, association: Association, key: _Way, leaf: Outbound, endpoint: PacketEndpoint) -> None:
        self.association = association
        self.key = key
        self.leaf = leaf
        self.endpoint = endpoint
        self.fd = endpoint.fileno()
        self.routes: dict[Target, _Route] = {}
        # A static forward answers in the name of its one target, whoever really spoke.
        self._forward = association.kind == "Tunnel" and leaf.kind == "Direct"
        association.engine.reactor.watch(self.fd, READABLE, self._on_readable)

    def _on_readable(self, _events: int) -> None:
        association = self.association
        association.touch()
        recv = self.endpoint.recv
        for _ in range(_BATCH):
            try:
                data, source = recv()
            except BlockingIOError:
                return
            except OSError as fault:
                association.lose(self, fault)
                return
            route = self.routes.get(source)
            if route is None and self._forward:
                continue  # a stranger who found the port
            route = route or next(iter(self.routes.values()), None)
            if route is not None:
                route.down += len(data)
                if route.renamed and route.spoke(source):
                    source = route.asked
            association.answer(data, source)

    def close(self) -> None:
        self.association.engine.reactor.closing(self.fd)
        self.endpoint.close()


class _Route:
    """One (client, destination) pair: a flow, as rules and the tracker see it."""

    __slots__ = (
        "asked",
        "association",
        "decision",
        "down",
        "flow",
        "number",
        "queue",
        "refused",
        "renamed",
        "rests_until",
        "session",
        "sniffer",
        "start",
        "to",
        "up",
    )

    def __init__(self, association: Association, asked: Target, flow: Flow) -> None:
        self.association = association
        self.asked = asked
        """The destination as the client names it."""
        self.renamed = False
        """The client knows it by another address than the one written to, and wants to hear that address."""
        self.flow = flow
        self.number = 0
        self.start = association.engine.reactor.now
        self.up = self.down = 0
        self.decision: Decision
        self.queue: list[bytes] = []
        self.session: _Session | None = None
        self.to: Target | None = None
        self.refused = False
        self.rests_until = math.inf
        """When it may be tried again, if it was the way that failed; a verdict holds."""
        self.sniffer: QuicSniffer | None = None

    def counters(self) -> tuple[int, int]:
        return self.up, self.down

    def lead(self, host: str) -> None:
        """The way to it leads to this name or address."""
        self.to = Target(host, self.flow.dst_port)
        self.renamed = is_ip(self.asked.host) and host != self.asked.host

    def way(self) -> _Way:
        """The key of its session."""
        leaf = self.decision.leaf
        return leaf.name, self.asked if self.renamed or leaf.kind == PEER else None

    def spoke(self, source: Target) -> bool:
        """Whether an answer is its own: behind a proxy that was told a name, nobody knows who the others are."""
        return self.to is not None and (source == self.to or not is_ip(self.to.host))

    def remote(self) -> str:
        return self.to.host if self.to is not None else ""

    def close(self, why: str) -> None:
        self.association.forget(self)


class Association:
    """All datagrams of one client through one listener.  ``bound`` is set for SOCKS: where the client sends to."""

    def __init__(
        self,
        engine: Engine,
        config: ListenerConfig,
        *,
        kind: str,
        client: tuple[str, int],
        door: tuple[str, int],
        user: str,
        answer: Answer,
    ) -> None:
        self.engine = engine
        self.config = config
        self.kind = kind
        self.client = client
        self.answer = answer
        self.on_close: Callable[[], None] | None = None
        self._door = door
        self._user = user
        self._routes: OrderedDict[Target, _Route] = OrderedDict()
        """The one not written to for the longest time first."""
        self._sessions: dict[_Way, _Session] = {}
        self._opening: dict[_Way, list[_Route]] = {}
        self.closed = False
        self.slot = 0
        self.deadline = engine.reactor.now + engine.timeouts.udp
        engine.reactor.schedule(self)

    def touch(self) -> None:
        """Something moved: the silence starts again."""
        self.deadline = self.engine.reactor.now + self.engine.timeouts.udp

    def expire(self) -> None:
        """Nothing moved for the UDP timeout."""
        if self.on_close is not None:
            # The SOCKS control connection still stands: free what was opened, keep the door (RFC 1928 section 7).
            self._release()
            self.touch()
            self.engine.reactor.schedule(self)
        else:
            self.close()

    def send(self, target: Target, payload: bytes) -> None:
        """The client sent ``payload`` to ``target``."""
        self.touch()
        route = self._routes.get(target)
        if route is not None and route.refused and route.rests_until <= self.engine.reactor.now:
            self.forget(route)
            route = None
        if route is None:
            route = self._begin(target)
        else:
            self._routes.move_to_end(target)
        if route.session is not None:
            self._forward(route, payload)
        elif not route.refused:
            if len(route.queue) < _QUEUE_MOST:
                route.queue.append(payload)
            if route.sniffer is not None:
                self._sniff(route, payload)

    def _begin(self, target: Target) -> _Route:
        if len(self._routes) >= _ROUTES_MOST:
            self.forget(next(iter(self._routes.values())))
        literal = is_ip(target.host)
        flow = Flow(
            "udp",
            self.kind,
            self.client[0],
            self.client[1],
            "" if literal else target.host,
            target.host if literal else "",
            target.port,
            self.config.name,
            self._door[0],
            self._door[1],
            self._user,
        )
        if literal:
            self.engine.call_by_name(flow)
        route = self._routes[target] = _Route(self, target, flow)
        sniffer = self.engine.sniffer
        mapped = flow.dns_mode == "redir-host"
        if sniffer is not None and "quic" in sniffer.wanted(
            "udp", flow.host, flow.dst_ip, flow.dst_port, flow.src_ip, dns_mapped=mapped
        ):
            from cyfs_gateway.sniff.quic import QuicSniffer

            route.sniffer = QuicSniffer()
        else:
            self._route(route)
        return route

    def _sniff(self, route: _Route, payload: bytes) -> None:
        assert route.sniffer is not None
        found = route.sniffer.feed(payload)
        if found is MORE and len(route.queue) < _SNIFF_DATAGRAMS:
            return
        route.sniffer = None
        policy = self.engine.sniffer
        if isinstance(found, Sniffed) and policy is not None:
            acceptance = policy.accept(found)
            if acceptance.use:
                route.flow.find(found.host, override=acceptance.override)
        self._route(route)

    def _route(self, route: _Route) -> None:
        found = self.engine.router.route(route.flow, proxy=self.config.proxy, rule=self.config.rule)
        if isinstance(found, Decision):
            self._carry(route, found)
        else:
            self.engine.start(self._route_slowly, route, found)

    async def _route_slowly(self, route: _Route, pending: Pending) -> None:
        decision = await self.engine.decide(route.flow, pending, proxy=self.config.proxy, rule=self.config.rule)
        if not self.closed and not route.refused:  # it may have been forgotten meanwhile
            self._carry(route, decision)

    def _carry(self, route: _Route, decision: Decision) -> None:
        engine = self.engine
        route.decision = decision
        engine.count(decision, route.flow)
        leaf = decision.leaf
        if leaf.kind in ("Reject", "RejectDrop") or not leaf.udp:
            route.refused = True
            route.queue.clear()
            return
        engine.tracker.add(route)
        goal = route.flow.goal_by(leaf.kind)
        if leaf.kind == "Direct" and not is_ip(goal):
            addresses = engine.peek(goal)
            if not addresses:
                engine.start(self._resolve, route)
                return
            goal = engine.settle(self.client[0], goal, addresses)
        route.lead(goal)
        self._attach(route)

    async def _resolve(self, route: _Route) -> None:
        try:
            addresses = await self.engine.resolve(route.flow.host)
        except CyfsError as fault:
            self._refuse(route, fault)
            return
        if not self.closed and route.number:
            route.lead(self.engine.settle(self.client[0], route.flow.host, addresses))
            self._attach(route)

    def _attach(self, route: _Route) -> None:
        """Give the route the session of its leaf, opening it when it is the first."""
        key = route.way()
        session = self._sessions.get(key)
        if session is not None:
            self._ready(route, session)
        elif key in self._opening:
            self._opening[key].append(route)
        elif len(self._opening) >= _OPENING_MOST:
            self._refuse(route, Unreachable("too many ways of this client are being opened", "other"))
        else:
            self._opening[key] = [route]
            self.engine.start(self._open, key, route)

    async def _open(self, key: _Way, first: _Route) -> None:
        assert first.to is not None
        leaf = first.decision.leaf
        try:
            endpoint = await leaf.open_packets(first.to)
            try:
                self.engine.check_descriptor(endpoint.fileno(), datagrams=True)
            except OSError:
                endpoint.close()
                raise
        except (CyfsError, OSError) as fault:
            for route in self._opening.pop(key, ()):
                self._refuse(route, fault)
            return
        except BaseException:
            self._opening.pop(key, None)
            raise
        waiting = [route for route in self._opening.pop(key, ()) if route.number]
        if self.closed or not (waiting or key[1] is None):
            endpoint.close()
            return
        session = self._sessions[key] = _Session(self, key, leaf, endpoint)
        for route in waiting:
            self._ready(route, session)

    def _ready(self, route: _Route, session: _Session) -> None:
        assert route.to is not None
        if route.decision.leaf.kind == "Direct":
            try:
                self.engine.refuse_dial(route.to.host, route.to.port, udp=True)
            except Refused as fault:
                self._refuse(route, fault)
                return
        if route.decision.leaf.kind == PEER:
            self._make_room()
        route.session = session
        session.routes[route.to] = route
        queue, route.queue = route.queue, []
        for payload in queue:
            self._forward(route, payload)

    def _make_room(self) -> None:
        """For one more way through a tunnel: that of the destination not written to for the longest time goes."""
        tunnelled = [each for each in self._routes.values() if each.session and each.session.leaf.kind == PEER]
        if len(tunnelled) >= _TUNNELLED_MOST:
            self.forget(tunnelled[0])

    def _forward(self, route: _Route, payload: bytes) -> None:
        assert route.session is not None and route.to is not None
        try:
            route.session.endpoint.send(payload, route.to)
        except BlockingIOError:
            return
        except OSError as fault:
            self.lose(route.session, fault)
            return
        route.up += len(payload)

    def _refuse(self, route: _Route, fault: Exception) -> None:
        _log.info("%s -> %s:%s: %s", self.client[0], route.flow.goal, route.flow.dst_port, fault)
        self.engine.tracker.drop(route)
        route.number = 0
        route.refused = True
        route.rests_until = self.engine.reactor.now + _REST
        route.queue.clear()

    def lose(self, session: _Session, fault: OSError) -> None:
        """A way is gone for good; its destinations are decided anew when the client writes again."""
        _log.info("%s: the way by %s is gone: %s", self.client[0], session.leaf.name, fault)
        if self._sessions.get(session.key) is not session:
            return
        del self._sessions[session.key]
        for route in [route for route in self._routes.values() if route.session is session]:
            self.forget(route)
        session.close()

    def forget(self, route: _Route) -> None:
        """End one destination's flow."""
        flow = route.flow
        if self._routes.get(route.asked) is route:
            del self._routes[route.asked]
        session = route.session
        if session is not None and route.to is not None and session.routes.get(route.to) is route:
            del session.routes[route.to]
        if session is not None and session.key[1] is not None and self._sessions.pop(session.key, None) is not None:
            session.close()
        if route.number:
            self.engine.tracker.drop(route)
            route.number = 0
        route.session = None
        route.refused = True
        route.queue.clear()
        _log.debug("%s -> %s:%s ended", self.client[0], flow.goal, flow.dst_port)

    def _release(self) -> None:
        for route in list(self._routes.values()):
            self.forget(route)
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()

    def close(self) -> None:
        """End every flow of this client."""
        if self.closed:
            return
        self.closed = True
        self.engine.reactor.unschedule(self)
        self._release()
        if self.on_close is not None:
            self.on_close()


class SocksAssociation(Association):
    """UDP ASSOCIATE: one socket for one client, which is pinned.

    Only datagrams from the address that holds the control connection are taken; its port is the one it announced, or
    the first it uses (RFC 1928 section 7).
    """

    def __init__(
        self, engine: Engine, config: ListenerConfig, request: socks.SocksRequest, here: str, client: str
    ) -> None:
        family = socket.AF_INET6 if ":" in here else socket.AF_INET
        self._sock = sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            engine.check_descriptor(sock.fileno())
            sock.bind((here, 0))
        except OSError:
            sock.close()
            raise
        self.bound = Target(here, sock.getsockname()[1])
        super().__init__(
            engine,
            config,
            kind="Socks5",
            client=(client, request.target.port),
            door=(here, self.bound.port),
            user=request.user,
            answer=self._answer,
        )
        engine.reactor.watch(sock.fileno(), READABLE, self._on_readable)

    def _on_readable(self, _events: int) -> None:
        known = self.engine.associations
        for _ in range(_BATCH):
            try:
                data, peer = self._sock.recvfrom(_DATAGRAM)
            except OSError:
                return
            host, port = self.client
            if _plain(peer[0]) != host or (port and peer[1] != port):
                continue
            known.move_to_end(self)  # not before: strangers' datagrams keep nobody in
            if not port:
                self.client = (host, peer[1])
            try:
                target, payload = socks.unpack_udp(data)
            except BadWire:
                continue
            self.send(target, bytes(payload))

    def _answer(self, data: bytes, source: Target) -> None:
        try:
            self._sock.sendto(socks.pack_udp(source, data), self.client)
        except OSError as fault:
            _log.debug("an answer to %s was lost: %s", self.client, fault)

    def close(self) -> None:
        if not self.closed:
            self.engine.associations.pop(self, None)
            self.engine.reactor.closing(self._sock.fileno())
            self._sock.close()
        super().close()


def _plain(host: str) -> str:
    return host.removeprefix("::ffff:") if "." in host else host.partition("%")[0]


class PacketInbound:
    """One bound UDP socket whose clients are told apart by their address: a static forward, or TPROXY."""

    def __init__(self, engine: Engine, config: ListenerConfig, sock: socket.socket) -> None:
        self.engine = engine
        self.sock = sock
        self.fd = sock.fileno()
        self.address = sock.getsockname()[:2]
        self._clients: OrderedDict[tuple[str, int], Association] = OrderedDict()
        """The one that wrote nothing for the longest time first."""
        self._closed = False
        self.configure(config)

    def configure(self, config: ListenerConfig) -> None:
        """Serve new clients by this configuration."""
        self.config = config
        self._filter = AddressFilter(config)
        self._target = parse_authority(config.target.encode()) if config.target else None

    def start(self) -> None:
        """Begin to receive."""
        self.engine.reactor.watch(self.fd, READABLE, self._on_readable)

    def close(self) -> None:
        """Give the port back.  Clients of a forward answer through this very socket, so they end with it."""
        if not self._closed:
            self._closed = True
            for client in list(self._clients.values()):
                client.close()
            self.engine.reactor.closing(self.fd)
            self.sock.close()

    def _on_readable(self, events: int) -> None:
        if self.config.kind == "tproxy":
            self._on_intercepted(events)
        else:
            self._on_forwarded(events)

    def _on_forwarded(self, _events: int) -> None:
        target = self._target
        assert target is not None
        for _ in range(_BATCH):
            try:
                data, peer = self.sock.recvfrom(_DATAGRAM)
            except OSError:
                return
            client = self._client(peer, "Tunnel")
            if client is not None:
                client.send(target, data)

    def _on_intercepted(self, _events: int) -> None:
        for _ in range(_BATCH):
            try:
                data, extra, _, peer = self.sock.recvmsg(_DATAGRAM, transparent.ORIG_DST_SPACE)
            except OSError:
                return
            try:
                host, port = transparent.parse_orig_dst(extra)
                self.engine.refuse_own_listener(host, port, udp=True)
            except (BadWire, Refused) as fault:
                _log.debug("%s: %s", self.config.name, fault)
                continue
            client = self._client(peer, "TProxy")
            if client is not None:
                client.send(Target(host, port), data)

    def _client(self, peer: tuple[str, int], kind: str) -> Association | None:
        key = (peer[0], peer[1])
        known = self._clients.get(key)
        if known is not None:
            self._clients.move_to_end(key)
            return known
        host = _plain(peer[0])
        if not self._filter.judge(host)[0]:
            return None
        if len(self._clients) >= ASSOCIATIONS_MOST:
            next(iter(self._clients.values())).close()
        answer: Answer
        if kind == "TProxy":
            answer = _ForeignVoice(self, key)
        else:

            def answer(data: bytes, _source: Target) -> None:
                try:
                    self.sock.sendto(data, peer)
                except OSError as fault:
                    _log.debug("an answer to %s was lost: %s", peer, fault)

        association = _Client(self, kind, key, host, answer)
        self._clients[key] = association
        return association

    def gone(self, key: tuple[str, int]) -> None:
        """The client's association has ended."""
        self._clients.pop(key, None)


class _Client(Association):
    """An association that lives in its listener's table."""

    def __init__(self, inbound: PacketInbound, kind: str, key: tuple[str, int], host: str, answer: Answer) -> None:
        super().__init__(
            inbound.engine,
            inbound.config,
            kind=kind,
            client=(host, key[1]),
            door=(inbound.address[0], inbound.address[1]),
            user="",
            answer=answer,
        )
        self._inbound = inbound
        self._key = key

    def close(self) -> None:
        if not self.closed:
            self._inbound.gone(self._key)
            if isinstance(self.answer, _ForeignVoice):
                self.answer.close()
        super().close()


class _ForeignVoice:
    """Answers a TPROXY client in the name of those it wrote to: a transparent socket for each, the latest few kept."""

    _KEPT: Final = 16

    def __init__(self, inbound: PacketInbound, client: tuple[str, int]) -> None:
        self._inbound = inbound
        self._client = client
        self._sockets: dict[Target, socket.socket] = {}

    def __call__(self, data: bytes, source: Target) -> None:
        sock = self._sockets.get(source)
        try:
            if sock is None:
                if (":" in source.host) != (self._inbound.sock.family == socket.AF_INET6):
                    return
                sock = transparent.reply_socket(source.host, source.port, self._inbound.engine.mark)
                if len(self._sockets) >= self._KEPT:
                    self._sockets.pop(next(iter(self._sockets))).close()
                self._sockets[source] = sock
            sock.sendto(data, self._client)
        except OSError as fault:
            _log.debug("an answer from %s to %s was lost: %s", source, self._client, fault)

    def close(self) -> None:
        for sock in self._sockets.values():
            sock.close()
        self._sockets.clear()
