"""The short life of a connection before it is a relay.

A connection walks the five stops inside the reactor, without a task of its own: *listener* (handshake), *sniff*,
*rules*, *action*, *way*.  As long as every answer is at hand (a cached name, a direct way) it never leaves the reactor.
When one has to be waited for (a resolution, a process look-up, a proxy's handshake) a trio task takes the connection
over and hands the open way back.  Plain HTTP requests (absolute form) are a conversation rather than a relay and get a
task too.

What a stranger can hold here is bounded: the engine's limits on half-made connections and on the early bytes of all
together (beyond either the oldest makes room), a bounded read of early bytes each, the handshake timeout over
everything up to the request, the connect timeout after it.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from cyfs_gateway.decide import Decision, Pending
from cyfs_gateway.doors import Dial, HttpDoor, ToClient, ToUpstream, error_response, speaks_socks
from cyfs_gateway.flow import Flow
from cyfs_gateway.io import transparent
from cyfs_gateway.io.httpproxy import DROP_SECONDS, DROPS_MOST, serve_http, status_of
from cyfs_gateway.sniff import MORE, Sniffed, sniff_http, sniff_tls
from cyfs_ns.errors import BadWire, CyfsError, Refused, Unreachable
from cyfs_ns.names import is_ip
from tunnels import socks
from tunnels.endpoint import Endpoint, Target
from tunnels.happy import arrange
from tunnels.io.direct import why
from tunnels.io.leaf import Direct, Leaf
from tunnels.io.reactor import READABLE, WRITABLE
from tunnels.io.relay import Relay
from tunnels.io.waiting import TcpEndpoint, break_off
from tunnels.proxyproto import parse_proxy_header

if TYPE_CHECKING:
    from cyfs_gateway.io.inbound import Inbound

_HANDSHAKE_READ: Final = 16 * 1024
_EARLY_MOST: Final = 64 * 1024
_SNIFF_SECONDS: Final = 0.3
_HEAD_START: Final = 0.25
"""RFC 8305 section 5: how long the first address may keep the others waiting."""
_KINDS: Final = {"redir": "Redir", "tproxy": "TProxy", "tunnel": "Tunnel"}
_SNIFFERS: Final = {"http": sniff_http, "tls": sniff_tls}

_log = logging.getLogger("cyfs.inbound")


class Connection:
    """One accepted connection until it is a relay, and its entry in the tracker until it ends."""

    __slots__ = (
        "_addresses",
        "_answered",
        "_client_masked",
        "_closed",
        "_door",
        "_dropping",
        "_early",
        "_give_up",
        "_protocols",
        "_request",
        "_upstream",
        "_upstream_fd",
        "client",
        "deadline",
        "decision",
        "engine",
        "fd",
        "flow",
        "inbound",
        "number",
        "peer_host",
        "peer_port",
        "relay",
        "skip_auth",
        "slot",
        "start",
        "watched",
    )

    def __init__(self, inbound: Inbound, sock: TcpEndpoint, host: str, port: int) -> None:
        self.inbound = inbound
        self.engine = inbound.engine
        self.client = sock
        self.fd = sock.fileno()
        self.peer_host = host
        self.peer_port = port
        self.number = self.slot = 0
        self.start = inbound.engine.reactor.now
        self.relay: Relay | None = None
        self.watched = self._closed = self._answered = self._client_masked = self.skip_auth = False
        self._dropping = False
        self._addresses: Sequence[str] = ()
        self._door: socks.SocksServer | HttpDoor | None = None
        self._request: socks.SocksRequest | HttpDoor | None = None
        self._give_up: Callable[[], None] | None = None
        """Ends what opens the way, unless that is the upstream itself."""
        self._upstream: TcpEndpoint | None = None
        self._early = b""
        self._protocols: tuple[str, ...] = ()

    def begin(self) -> None:
        """Take the first steps, as far as what has come already leads."""
        inbound, engine = self.inbound, self.engine
        wants_proxy_header = False
        if inbound.filtered:
            served, self.skip_auth, wants_proxy_header = inbound.filter.judge(self.peer_host)
            if not served:
                _log.info("%s may not use %s", self.peer_host, inbound.config.name)
                self._closed = True
                self.client.close()
                return
        kind = inbound.config.kind
        if kind == "tunnel" and not wants_proxy_header:
            self._greet()
            return
        self.deadline = engine.reactor.now + engine.timeouts.handshake
        engine.reactor.schedule(self)
        engine.halfway(self)
        if wants_proxy_header:
            self._watch(self._on_proxy_header)
            self._on_proxy_header(READABLE)
        else:
            self._greet()

    # Stop 1: the listener's handshake

    def _watch(self, handler: Callable[[int], None]) -> None:
        if self.watched:
            self.engine.reactor.rehandle(self.fd, handler)
        else:
            self.watched = True
            self.engine.reactor.watch(self.fd, READABLE, handler)

    def _read(self) -> bytes | None:
        """What the client sent; None when nothing has come, after closing when it has gone."""
        try:
            data = self.client.recv(_HANDSHAKE_READ)
        except BlockingIOError:
            return None
        except OSError:
            self.close("the client broke the connection")
            return None
        if not data:
            self.close("the client went away")
            return None
        return data

    def _say(self, data: bytes) -> bool:
        """Send a small answer whole; a client that cannot take it is closed."""
        try:
            if self.client.send(data) == len(data):
                return True
        except OSError:
            pass
        self.close("the client does not take the answer")
        return False

    def _on_proxy_header(self, _events: int) -> None:
        data = self._read()
        if data is None:
            return
        self._early += data
        try:
            header = parse_proxy_header(self._early)
        except BadWire as fault:
            _log.info("%s: no PROXY header from %s: %s", self.inbound.config.name, self.peer_host, fault)
            self.close("bad PROXY header")
            return
        if header is None:
            self.engine.keeps(self, len(self._early))
            return
        self._early = self._early[header.length :]
        if header.src is not None:
            self.peer_host, self.peer_port = header.src.host, header.src.port
            served, self.skip_auth, _ = self.inbound.filter.judge(self.peer_host)
            if not served:
                self.close(f"{self.peer_host} may not use this listener")
                return
        self._greet()

    def _greet(self) -> None:
        inbound = self.inbound
        kind = inbound.config.kind
        if kind in _KINDS:
            self._begin_transparent(kind)
        else:
            self._await_request()

    def _begin_transparent(self, kind: str) -> None:
        if kind == "tunnel":
            target = self.inbound.target
            assert target is not None
        else:
            sock = self.client
            try:
                host, port = transparent.original_dst(sock) if kind == "redir" else transparent.tproxy_dst(sock)
                self.engine.refuse_own_traffic(self.peer_host, self.peer_port, host, port)
            except Refused as fault:
                _log.warning("%s: %s", self.inbound.config.name, fault)
                self.close(str(fault))
                return
            target = Target(host, port)
        self.flow = self.flow_to(target, "", _KINDS[kind])
        self._sniff_or_route()

    def _await_request(self) -> None:
        self._watch(self._on_request)
        if self._early:
            early, self._early = self._early, b""
            self._hear(early)
        else:
            self._on_request(READABLE)

    def _on_request(self, _events: int) -> None:
        data = self._read()
        if data is not None:
            self._hear(data)

    def _hear(self, data: bytes) -> None:
        door = self._door
        if door is None:
            config = self.inbound.config
            asks = config.users is not None and not self.skip_auth
            if config.kind == "socks" or (config.kind == "mixed" and speaks_socks(data[0])):
                door = self._door = socks.SocksServer(config.users, asks)
            else:
                door = self._door = HttpDoor(config.users, asks)
        if isinstance(door, socks.SocksServer):
            self._hear_socks(door, data)
        else:
            self._hear_http(door, data)

    def _hear_socks(self, door: socks.SocksServer, data: bytes) -> None:
        try:
            answer = door.feed(data)
        except socks.SocksFault as fault:
            _log.debug("%s: %s, from %s", self.inbound.config.name, fault, self.peer_host)
            self._refuse_with(fault.reply, str(fault))
            return
        if answer and not self._say(answer):
            return
        request = door.request
        if request is None:
            return
        self._request = request
        self._early = door.leftover
        if request.command == "udp":
            self._associate(request)
        else:
            self.flow = self.flow_to(request.target, request.user, "Socks4" if request.version == 4 else "Socks5")
            self._sniff_or_route()

    def _hear_http(self, door: HttpDoor, data: bytes) -> None:
        for command in door.client(data):
            if isinstance(command, Dial):
                self._request = door
                if command.connect:
                    self.flow = self.flow_to(command.target, command.user, "HTTPS")
                    self._sniff_or_route()
                else:
                    self._release()
                    self.engine.spawn(self, serve_http, self, door, command)
            elif isinstance(command, ToClient):
                self._refuse_with(command.data, "the request was refused")
                return
        if self._request is None:
            self.engine.keeps(self, door.kept)

    def _release(self) -> None:
        """Take the client out of the reactor: a task serves it from here on."""
        self.engine.keeps_nothing(self)
        self.engine.unschedule(self)
        if self.watched:
            self.engine.reactor.forget(self.fd)
            self.watched = False

    def _associate(self, request: socks.SocksRequest) -> None:
        if not self.inbound.config.udp:
            self._refuse_with(socks.reply(request, socks.NOT_SUPPORTED), "UDP is off for this listener")
            return
        sock = self.client
        try:
            here = sock.getsockname()[0]
            association = self.engine.associate(self.inbound.config, request, here, self.peer_host)
        except OSError as fault:
            self._refuse_with(socks.reply(request, socks.FAILED), f"no UDP socket: {fault}")
            return
        if not self._say(socks.reply(request, socks.SUCCEEDED, association.bound)):
            association.close()
            return
        self.engine.unschedule(self)
        self._door = None

        def on_control(_events: int) -> None:
            # RFC 1928 section 7: the association ends with this connection; nothing more is said on it.
            try:
                if sock.recv(256):
                    return
            except BlockingIOError:
                return
            except OSError:
                pass
            association.close()

        def on_end() -> None:
            self.close("association ended")

        association.on_close = on_end
        self._watch(on_control)

    def flow_to(self, target: Target, user: str, kind: str) -> Flow:
        """A flow from this client to ``target``."""
        inbound = self.inbound
        literal = is_ip(target.host)
        flow = Flow(
            "tcp",
            kind,
            self.peer_host,
            self.peer_port,
            "" if literal else target.host,
            target.host if literal else "",
            target.port,
            inbound.config.name,
            inbound.address[0],
            inbound.address[1],
            "" if inbound.config.fenced else user,  # a name that nobody asked for is anybody's
            fenced=inbound.config.fenced,
        )
        if literal:
            self.engine.call_by_name(flow)
        return flow

    # Stop 2: the sniffer

    def _sniff_or_route(self) -> None:
        flow = self.flow
        sniffer = self.engine.sniffer
        if sniffer is not None:
            mapped = flow.dns_mode == "redir-host"
            self._protocols = sniffer.wanted(
                "tcp", flow.host, flow.dst_ip, flow.dst_port, flow.src_ip, dns_mapped=mapped
            )
            if self._protocols:
                if not self._answer_yes():
                    return
                self.deadline = self.engine.reactor.now + _SNIFF_SECONDS
                self.engine.reactor.reschedule(self)
                self._watch(self._on_sniff)
                self._look()
                if self._protocols:
                    self._on_sniff(READABLE)
                return
        self._route()

    def _on_sniff(self, _events: int) -> None:
        try:
            data = self.client.recv(_HANDSHAKE_READ)
        except BlockingIOError:
            return
        except OSError:
            self.close("the client broke the connection")
            return
        if data:
            self._early += data
            self._look()
        else:
            # It has only finished sending: the relay will find the end again and pass it on.
            self._end_sniffing()

    def _look(self) -> None:
        """Try the protocols on what has come; leave as soon as one fits or none can."""
        if not self._early:
            return
        undecided = []
        for protocol in self._protocols:
            found = _SNIFFERS[protocol](self._early)
            if isinstance(found, Sniffed):
                self._take(found)
                return
            if found is MORE:
                undecided.append(protocol)
        if undecided and len(self._early) < _EARLY_MOST:
            self._protocols = tuple(undecided)
            self.engine.keeps(self, len(self._early))
        else:
            self._end_sniffing()

    def _take(self, found: Sniffed) -> None:
        sniffer = self.engine.sniffer
        if sniffer is not None:
            acceptance = sniffer.accept(found)
            if acceptance.use:
                self.flow.find(found.host, override=acceptance.override)
        self._end_sniffing()

    def _end_sniffing(self) -> None:
        self._protocols = ()
        self._route()

    # Stop 3: rules

    def _route(self) -> None:
        config = self.inbound.config
        found = self.engine.router.route(self.flow, proxy=config.proxy, rule=config.rule)
        if type(found) is Decision:
            self._carry(found)
        else:
            self._hold_client()
            self._allow(self.engine.timeouts.handshake)
            self.engine.spawn(self, self._route_slowly, found)

    async def _route_slowly(self, pending: Pending) -> None:
        config = self.inbound.config
        decision = await self.engine.decide(self.flow, pending, proxy=config.proxy, rule=config.rule)
        self.engine.reactor.freshen()
        if not self._closed:
            self._carry(decision)

    def _allow(self, seconds: float) -> None:
        """The next step may take this long from now."""
        reactor = self.engine.reactor
        deadline = reactor.now + seconds
        sooner = not self.slot or deadline < self.deadline
        self.deadline = deadline
        if sooner:
            reactor.reschedule(self)

    # Stop 4: the action

    def _carry(self, decision: Decision) -> None:
        engine = self.engine
        self.decision = decision
        engine.count(decision, self.flow)
        engine.tracker.add(self)
        leaf = decision.leaf
        engine.halves.pop(self, None)
        self._allow(engine.timeouts.connect)
        if type(leaf) is Direct:
            flow = self.flow
            addresses = engine.peek(flow.host) if flow.host and flow.dns_mode != "redir-host" else (flow.dst_ip,)
            if addresses:
                self._dial(leaf, addresses)
                return
        elif leaf.kind == "Reject":
            self._fail(Refused(f"{decision.verdict.why}: {leaf.name}"))
            return
        elif leaf.kind == "RejectDrop":
            self._drop()
            return
        self._hold_client()
        if isinstance(leaf, Leaf):
            self._give_up = leaf.ask_stream(self._target(), self._heard_of)
        if self._give_up is None:
            self._spawn_open()

    def _target(self) -> Target:
        flow = self.flow
        return Target(flow.goal_by(self.decision.leaf.kind), flow.dst_port)

    def _drop(self) -> None:
        """Say nothing for a while, so that a client that retries at once does so slowly."""
        engine = self.engine
        if engine.drops >= DROPS_MOST:
            self.close("dropped")
            return
        engine.drops += 1
        self._dropping = True
        self._hold_client()
        self.deadline = engine.reactor.now + DROP_SECONDS

    def _hold_client(self) -> None:
        """While a way is being opened only the client's death is of interest; its bytes wait in the kernel."""
        if self.watched:
            self._watch(self._on_held)

    def _on_held(self, events: int) -> None:
        if events & ~READABLE:
            self.close("the client went away")
        elif not self._client_masked:
            self._client_masked = True
            self.engine.reactor.rewatch(self.fd, 0)

    # Stop 5: the way

    def _dial(self, leaf: Direct, addresses: Sequence[str]) -> None:
        """Start the first address right here; the next follows when it fails, all others join after the head start."""
        engine = self.engine
        if len(addresses) > 1 or leaf.sockets.options.ip_version != "dual":
            addresses = engine.in_favour(arrange(addresses, leaf.sockets.options.ip_version), self.flow.dst_port)
        if not addresses:
            self._fail(Unreachable(f"{self._aim()} has no address of the wanted family", "pre_connect_dns"))
            return
        try:
            sock = leaf.sockets.start_connect(addresses[0], self.flow.dst_port)
        except (OSError, CyfsError) as fault:
            self._next_address(fault, addresses)
            return
        self._hold_client()
        self._upstream = sock
        self._upstream_fd = sock.fileno()
        self._addresses = addresses
        if len(addresses) > 1:
            self.deadline = engine.reactor.now + _HEAD_START
            engine.reactor.reschedule(self)
        engine.reactor.watch(self._upstream_fd, WRITABLE, self._on_connected)

    def _next_address(self, fault: Exception, addresses: Sequence[str]) -> None:
        """``addresses[0]`` failed: go on with the rest, or give up."""
        if len(addresses) > 1:
            self.engine.set_back(addresses[0], self.flow.dst_port)
            leaf = self.decision.leaf
            assert isinstance(leaf, Direct)
            self.deadline = self.engine.reactor.now + self.engine.timeouts.connect
            self._dial(leaf, addresses[1:])
        else:
            self._fail(fault)

    def _on_connected(self, events: int) -> None:
        sock = self._upstream
        assert sock is not None
        if events & ~WRITABLE and (code := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)):
            self._drop_upstream()
            if self._give_up is None:
                self._next_address(OSError(code, os.strerror(code)), self._addresses)
            return
        self._upstream = None
        if self._give_up is not None:
            self._give_up()
        self.engine.reactor.rewatch(self._upstream_fd, READABLE)
        self._join(sock, upstream_watched=True)

    def _drop_upstream(self) -> None:
        if self._upstream is not None:
            self.engine.reactor.closing(self._upstream_fd)
            self._upstream.close()
            self._upstream = None

    def _race(self) -> None:
        """Let the other addresses try as well; the first to connect wins."""
        self.engine.set_back(self._addresses[0], self.flow.dst_port)
        self._addresses = ()
        self.deadline = self.engine.reactor.now + self.engine.timeouts.connect
        self.engine.reactor.reschedule(self)
        self._spawn_open()

    def _spawn_open(self) -> None:
        # Made here and not by the task: what happens before that runs must see it, and may cancel it.
        scope = trio.CancelScope()
        self._give_up = scope.cancel
        self.engine.spawn(self, self._open, scope)

    async def _open(self, scope: trio.CancelScope) -> None:
        """Open the way in this task.  Faults end the connection, unless the head start still runs."""
        with scope:
            try:
                leaf, target = self.decision.leaf, self._target()
                if isinstance(leaf, Leaf) and (self._answered or self._request is None or leaf.hastens):
                    # It waits for no yes, had one, or is to have it early: a no can be told in one way only.
                    upstream = await leaf.hasten_stream(target, partial(self.engine.guard, self, self._heard_no))
                else:
                    upstream = await leaf.open_stream(target)
            except (CyfsError, OSError) as fault:
                self._give_up = None
                if self._upstream is None and not self._closed:
                    self._fail(fault)
                return
            if self._closed or self.relay is not None:
                upstream.close()
                return
            self._drop_upstream()
            self._give_up = None
            self.engine.reactor.freshen()
            self._join(upstream)

    def _heard_no(self, fault: CyfsError) -> None:
        """A no to what was used already."""
        if self._closed:
            return
        if isinstance(fault, Refused):  # which the client is told otherwise, and other faults are logged anyway
            _log.info("%s -> %s: %s", self.peer_host, self._aim(), fault)
        self._fail(fault)

    def _heard_of(self, way: Endpoint | CyfsError | None) -> None:
        """What was asked for without a task."""
        self._give_up = None
        self.engine.guard(self, self._go_on, way)

    def _go_on(self, way: Endpoint | CyfsError | None) -> None:
        if way is None:
            self._spawn_open()
        elif isinstance(way, CyfsError):
            self._fail(way)
        else:
            self._join(way)

    def _join(self, upstream: Endpoint, *, upstream_watched: bool = False) -> None:
        """The way is open: answer the client and let the relay take over."""
        engine = self.engine
        if upstream_watched:
            # The deadline of the connect stays: when it falls due the flow has grown old enough for keep-alive.
            engine.halves.pop(self, None)
        else:
            engine.unschedule(self)
        if not self._answer_yes():
            if upstream_watched:
                engine.reactor.closing(upstream.fileno())
            upstream.close()
            return
        if self._client_masked:
            engine.reactor.rewatch(self.fd, READABLE)
        early, self._early = self._early, b""
        if engine.early:
            engine.keeps_nothing(self)
        self._door = self._request = None
        self.relay = Relay(
            engine.reactor,
            self.client,
            upstream,
            idle=engine.timeouts.idle,
            on_close=self._on_relay_closed,
            early=early,
            a_watched=self.watched,
            b_watched=upstream_watched,
        )

    def tunnel(self, flow: Flow, decision: Decision, upstream: Endpoint) -> None:
        """A conversation has become a tunnel: both ends go to the relay as they are."""
        self.flow = flow
        self.decision = decision
        self._request = None
        self.engine.tracker.add(self)
        self.engine.reactor.freshen()
        self._join(upstream)

    def _answer_yes(self) -> bool:
        """Tell the client that its way is open, once; False when that closed it."""
        request = self._request
        if self._answered or request is None:
            return True
        self._answered = True
        if isinstance(request, socks.SocksRequest):
            return self._say(socks.reply(request, socks.SUCCEEDED))
        for command in request.opened():
            if isinstance(command, ToClient) and not self._say(command.data):
                return False
            if isinstance(command, ToUpstream):
                self._early = command.data
        return True

    def _fail(self, fault: Exception) -> None:
        """No way: say so in the client's protocol, then close."""
        reason = fault.reason if isinstance(fault, Unreachable) else why(fault) if isinstance(fault, OSError) else ""
        refused = isinstance(fault, Refused)
        if not refused:
            self.engine.on_unreachable(self.decision.chain)
            _log.info("%s -> %s: %s", self.peer_host, self._aim(), fault)
        answer = b""
        if not self._answered and self._request is not None:
            if isinstance(self._request, socks.SocksRequest):
                answer = socks.reply(self._request, socks.NOT_ALLOWED if refused else socks.rep_for(reason))
            else:
                answer = error_response(status_of(fault), str(fault))
        self._refuse_with(answer, str(fault))

    def _aim(self) -> str:
        return str(Target(self.flow.goal, self.flow.dst_port))

    def _refuse_with(self, answer: bytes, reason: str) -> None:
        """Say ``answer``, or if there is nothing to say break the connection: else its end would be the server's."""
        if answer:
            try:
                self.client.send(answer)
                # Unread input would turn the close into a reset that overtakes the answer.
                self.client.shutdown(socket.SHUT_WR)
                self.client.recv(_HANDSHAKE_READ)
            except OSError:
                pass
        else:
            break_off(self.client)
        self.close(reason)

    # Ends

    def expire(self) -> None:
        """A deadline passed: which one depends on how far the connection has come."""
        if self.relay is not None:
            leaf, upstream = self.decision.leaf, self.relay.far
            if isinstance(leaf, Direct) and isinstance(upstream, TcpEndpoint) and not self.relay.closed:
                leaf.sockets.keep_alive(upstream)
        elif self._protocols:
            self._end_sniffing()
        elif len(self._addresses) > 1 and self._upstream is not None:
            self._race()
        elif self._dropping:
            self.close("dropped")
        elif self.number:
            self._fail(Unreachable(f"{self._aim()} did not answer in time", "connect_timeout"))
        else:
            self.close("the client did not finish its request in time")

    def close(self, why: str) -> None:
        """End the connection wherever it is.  Harmless when it has ended."""
        if self.relay is not None:
            self.relay.close(why)
            return
        if self._closed:
            return
        self._closed = True
        self.inbound.guests.discard(self)
        engine = self.engine
        if self._give_up is not None:
            self._give_up()
        self._drop_upstream()
        engine.unschedule(self)
        if engine.early:
            engine.keeps_nothing(self)
        if self.watched:
            engine.reactor.closing(self.fd)
        self.client.close()
        if self._dropping:
            engine.drops -= 1
        if self.number:
            engine.tracker.drop(self)

    def _on_relay_closed(self, relay: Relay, why: str) -> None:
        self._closed = True
        self.inbound.guests.discard(self)
        self.engine.reactor.unschedule(self)
        self.engine.tracker.drop(self)
        if why and _log.isEnabledFor(logging.DEBUG):
            _log.debug("%s -> %s ended: %s", self.peer_host, self._aim(), why)

    # What the tracker asks

    def counters(self) -> tuple[int, int]:
        return (self.relay.up, self.relay.down) if self.relay is not None else (0, 0)

    def remote(self) -> str:
        return self.relay.remote() if self.relay is not None else ""
