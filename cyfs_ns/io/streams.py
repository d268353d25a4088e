"""Stream doors: DNS over TCP (RFC 7766) and over TLS (RFC 7858), and the shell that moves bytes for every stream door.

A connection is one trio task and one pure machine (:mod:`cyfs_ns.conversation`).  The task waits for its descriptor,
then does all there is to do with plain non-blocking calls: one read, every query in it, all that the cache can answer,
one write.  TLS is OpenSSL between two memory buffers, so that one read serves many records and one write carries many
replies.  A query that needs thought becomes a task of its own and its reply leaves when it is ready; with ``width`` of
them under way the connection is not read any more.

Limits, for everything a stranger can make us hold: connections in all and of one client, the oldest idle one going
first; time for the handshake, for the rest of a message, for taking what we send, and for quiet; queries in work for
one connection and for all; bytes waiting to be sent.  Times are looked at once a second by one task for each door.
"""

from __future__ import annotations

import errno
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TypeVar

import trio

from cyfs_ns.conversation import Conversation, Hot, PageWanted, Serve, ShowPage, Token
from cyfs_ns.crowd import Crowd, client_prefix
from cyfs_ns.dnsframes import DnsFrames
from cyfs_ns.doh import forwarded_client
from cyfs_ns.errors import BadWire
from cyfs_ns.io.datagrams import IP_FREEBIND
from cyfs_ns.io.servertls import ServerTls
from cyfs_ns.peer import Peer

_READ = 16384
"""Bytes of one read: two hundred queries and more."""
_ROUND = 32
"""Queries between two looks at how much waits to be sent."""
_PUSH = 64 * 1024
"""Bytes of replies that are gathered before they must leave."""
_MOST_UNSENT = 512 * 1024
"""Bytes a client may leave lying with us; who asks faster than it reads is cut off."""
_LAST_READS = 4
_LAST_QUIET = 1.0
_ACCEPTS = 64
_BACKLOG = 1024
_LOOK = 1.0
_NO_DESCRIPTORS = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))

T = TypeVar("T")

_log = logging.getLogger("cyfs.ns.streams")


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamLimits:
    """Bounds of all stream doors together; times in seconds."""

    connections: int = 1000
    of_one_client: int = 100
    """Connections of one IPv4 address or IPv6 /64."""
    width: int = 100
    """Queries of one connection that may be in work."""
    queries: int = 4000
    """Queries in work for all connections; beyond it each connection still gets one."""
    idle: float = 30.0
    """Quiet after which a connection is closed; less in a crowd."""
    handshake: float = 5.0
    partial: float = 5.0
    """Time for the rest of a message once begun, and for taking some of what we send."""


class _Gone(Exception):
    """The connection is over; the text says why, for the counters."""


class _Connection:
    """A client's stream: its socket, its TLS and its machine."""

    __slots__ = (
        "address",
        "cancel",
        "drained",
        "in_work",
        "incoming",
        "nursery",
        "outgoing",
        "owed_since",
        "packed",
        "peer",
        "quiet_since",
        "room",
        "sent_at",
        "sock",
        "talk",
        "tls",
        "trusted",
        "unsent",
        "why",
    )

    def __init__(self, sock: socket.socket, peer: Peer, address: IPv4Address | IPv6Address, now: float) -> None:
        self.sock, self.peer, self.address = sock, peer, address
        self.packed = address.packed
        self.trusted = False
        """A named proxy: its word on whom it speaks for is taken."""
        self.talk: Conversation | None = None
        self.tls: ssl.SSLObject | None = None
        self.incoming = self.outgoing = _NO_BIO
        self.unsent = bytearray()
        self.drained: trio.Event | None = None
        self.room: trio.Event | None = None
        self.in_work = 0
        self.nursery: trio.Nursery | None = None
        self.cancel = trio.CancelScope()
        self.quiet_since = self.sent_at = now
        self.owed_since = 0.0
        """When the peer began to owe us something; 0 while it does not."""
        self.why = "closed"

    def is_idle(self) -> bool:
        return not self.in_work and not self.unsent

    def end(self, why: str) -> None:
        self.why = why
        self.cancel.cancel()


_NO_BIO = ssl.MemoryBIO()


class StreamHall:
    """What all stream doors of one server share: the cache, the cold path, the limits and the counters."""

    def __init__(self, hot: Hot, serve: Serve, limits: StreamLimits = StreamLimits()) -> None:
        self.hot, self.serve, self.limits = hot, serve, limits
        self.pages: ShowPage | None = None
        """What the doors for HTTP show beside DNS."""
        self.crowd: Crowd[_Connection] = Crowd(limits.connections, limits.of_one_client, _Connection.is_idle)
        self.in_work = 0
        """Queries that are being thought about."""
        self.accepted: Counter[str] = Counter()
        """Connections by door."""
        self.ended: Counter[str] = Counter()
        """Connections by the reason of their end."""

    def allowance(self, connection: _Connection, width: int) -> int:
        """How many more queries of ``connection`` may be put to work."""
        room = min(width - connection.in_work, self.limits.queries - self.in_work)
        return max(room, 0 if connection.in_work else 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamDoor:
    """One socket for those who connect, and what is spoken behind it."""

    listener: socket.socket
    name: str
    """``tcp``, ``tls`` or ``https``: the door of :class:`~cyfs_ns.peer.Peer`."""
    converse: Callable[[str | None], Conversation]
    """Makes the machine for a connection, from what ALPN settled."""
    tls: ServerTls | None = None
    interface: str = ""
    idle: float | None = None
    """Seconds of quiet, when not the limits' own."""
    proxies: Sequence[IPv4Network | IPv6Network] = ()
    """Peers whose ``X-Forwarded-For`` is believed."""

    def open(self) -> None:
        """Let clients in; those who come before somebody serves here wait.  Raises ``OSError``."""
        self.listener.listen(_BACKLOG)


def tcp_door(listener: socket.socket, limits: StreamLimits, interface: str = "") -> StreamDoor:
    """DNS over TCP."""
    return StreamDoor(
        listener=listener, name="tcp", converse=lambda _alpn: DnsFrames(limits.width), interface=interface
    )


def tls_door(listener: socket.socket, limits: StreamLimits, tls: ServerTls, interface: str = "") -> StreamDoor:
    """DNS over TLS; ``tls`` should offer the protocol ``dot``, which clients need not ask for."""
    return StreamDoor(
        listener=listener, name="tls", converse=lambda _alpn: DnsFrames(limits.width), tls=tls, interface=interface
    )


def bind_tcp(host: str, port: int, *, interface: str = "", shared: bool = False, early: bool = False) -> socket.socket:
    """A socket on a numeric address that refuses everybody until :meth:`StreamDoor.open`; ``::`` is for IPv4 too.

    ``shared``: others of ours stand at the same port.  ``early``: the address need not be there yet.  Raises
    ``OSError``.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if early:
            sock.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
        if interface:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if host == "::" else 1)
        sock.bind((host, port))
    except BaseException:
        sock.close()
        raise
    return sock


async def serve_door(
    hall: StreamHall,
    door: StreamDoor,
    *,
    coming: trio.CancelScope | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer whoever connects, until cancelled; the listener is closed then, and connections are cut.

    ``coming`` is entered around what lets clients in: cancelled by itself, it lets in those who wait already, and this
    ends when all of them have been quiet for a moment.
    """
    shell = _Shell(hall, door)
    with door.listener:
        async with trio.open_nursery() as beside:
            beside.start_soon(shell.keep_time)
            if door.tls is not None:
                beside.start_soon(door.tls.watch)
            async with trio.open_nursery() as guests:
                task_status.started()
                with coming or trio.CancelScope():
                    await shell.accept(guests)
                shell.let_in_last(guests)
            beside.cancel_scope.cancel()


class _Shell:
    def __init__(self, hall: StreamHall, door: StreamDoor) -> None:
        self._hall, self._door, self._limits = hall, door, hall.limits
        self._answer, self._serve, self._crowd = hall.hot.answer, hall.serve, hall.crowd
        self._name = door.name
        self._mine: set[_Connection] = set()
        self._leaving = False

    # Coming and going

    def let_in_last(self, nursery: trio.Nursery) -> None:
        """Who has connected already, and nobody after them."""
        self._leaving = True
        for _ in range(_BACKLOG):
            try:
                self._admit(*self._door.listener.accept(), nursery)
            except BlockingIOError:
                break
            except OSError:
                continue
        self._door.listener.close()

    async def accept(self, nursery: trio.Nursery) -> None:
        listener = self._door.listener
        while True:
            await trio.lowlevel.wait_readable(listener)
            for _ in range(_ACCEPTS):
                try:
                    sock, place = listener.accept()
                except BlockingIOError:
                    break
                except OSError as fault:
                    if fault.errno not in _NO_DESCRIPTORS:
                        continue  # a client that gave up in the queue
                    quiet = self._crowd.quietest()
                    if quiet is not None:
                        quiet.end("no descriptors")
                    await trio.sleep(0.1)
                    break
                self._admit(sock, place, nursery)

    def _admit(self, sock: socket.socket, place: tuple[str, int], nursery: trio.Nursery) -> None:
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            own = sock.getsockname()
            address, local = _canonical(place[0]), _canonical(own[0])
        except OSError:  # reset while it waited
            sock.close()
            return
        peer = Peer(str(address), place[1], self._name, str(local), self._door.interface, own[1])
        connection = _Connection(sock, peer, address, trio.current_time())
        connection.trusted = any(address in network for network in self._door.proxies)
        admitted, leaver = self._crowd.admit(connection, client_prefix(address.packed))
        if leaver is not None:
            leaver.end("made room")
        if not admitted:
            self._hall.ended["turned away"] += 1
            sock.close()
            return
        self._hall.accepted[self._name] += 1
        self._mine.add(connection)
        nursery.start_soon(self._live, connection)

    async def _live(self, connection: _Connection) -> None:
        try:
            with connection.cancel:
                async with trio.open_nursery() as nursery:
                    connection.nursery = nursery
                    await self._run(connection)
                    nursery.cancel_scope.cancel()
        except* (OSError, BadWire, _Gone) as faults:
            connection.why = _reason(faults)
        except* Exception:
            # A fault of ours, but the others behind this door have not deserved it.
            _log.exception("the connection of %s failed", connection.peer.ip)
            connection.why = "our fault"
        finally:
            self._mine.discard(connection)
            self._crowd.leave(connection)
            self._hall.ended[connection.why] += 1
            self._farewell(connection)
            connection.sock.close()

    def _farewell(self, connection: _Connection) -> None:
        """Say goodbye as far as it goes without waiting."""
        with suppress(OSError, ssl.SSLError):
            if connection.talk is not None:
                connection.talk.leave()
                self._gather(connection)
            if connection.tls is not None and connection.talk is not None:
                with suppress(ssl.SSLWantReadError):
                    connection.tls.unwrap()
                connection.unsent += connection.outgoing.read()
            self._send(connection)
            # Closing over unread bytes would reset the connection and might destroy what was just sent.
            connection.sock.shutdown(socket.SHUT_WR)
            for _ in range(_LAST_READS):
                if not connection.sock.recv(_READ):
                    break

    async def keep_time(self) -> None:
        """End those who take too long, over and over."""
        limits = self._limits
        while True:
            await trio.sleep(min(_LOOK, limits.partial / 4))
            now = trio.current_time()
            idle = self._crowd.patience(self._door.idle if self._door.idle is not None else limits.idle)
            if self._leaving:
                idle = min(idle, _LAST_QUIET)
            for connection in list(self._mine):
                if connection.unsent:
                    if now - connection.sent_at > limits.partial:
                        connection.end("does not read")
                elif connection.in_work:
                    continue
                elif connection.talk is None:
                    if now - connection.quiet_since > limits.handshake:
                        connection.end("handshake too slow")
                elif connection.talk.partial:
                    connection.owed_since = connection.owed_since or now
                    if now - connection.owed_since > limits.partial:
                        connection.end("message too slow")
                elif now - connection.quiet_since > idle:
                    connection.end("idle")

    # The work

    async def _run(self, connection: _Connection) -> None:
        if self._door.tls is not None:
            connection.talk = self._door.converse(await self._shake_hands(connection, self._door.tls.context))
            self._handle(connection, b"")
        else:
            connection.talk = self._door.converse(None)
        talk, sock = connection.talk, connection.sock
        while not talk.finished:
            while connection.drained is not None or connection.room is not None:
                await self._wait_for_room(connection)
            await trio.lowlevel.wait_readable(sock)
            try:
                data = sock.recv(_READ)
            except BlockingIOError:
                continue
            if not data or not self._handle(connection, data):
                break
        while connection.in_work or connection.drained is not None:
            await self._wait_for_room(connection)

    async def _wait_for_room(self, connection: _Connection) -> None:
        """Until what is unsent has left, or until one query less is in work; then take up what was left lying."""
        if connection.drained is not None:
            await connection.drained.wait()
        else:
            room = connection.room = trio.Event()
            await room.wait()
        connection.room = None
        self._work(connection)

    async def _shake_hands(self, connection: _Connection, context: ssl.SSLContext) -> str | None:
        connection.incoming, connection.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = connection.tls = context.wrap_bio(connection.incoming, connection.outgoing, server_side=True)
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                self._flush(connection)  # the alert
                raise _Gone("handshake failed") from None
            else:
                self._flush(connection)
                return tls.selected_alpn_protocol()
            self._flush(connection)
            await trio.lowlevel.wait_readable(connection.sock)
            with suppress(BlockingIOError):
                data = connection.sock.recv(_READ)
                if not data:
                    raise _Gone("handshake left")
                connection.incoming.write(data)

    def _handle(self, connection: _Connection, data: bytes) -> bool:
        """Bytes of the client, and all that follows from them; false at the end of its stream."""
        talk, tls = connection.talk, connection.tls
        assert talk is not None
        now = trio.current_time()
        more = True
        if tls is None:
            talk.feed(data, now)
        else:
            connection.incoming.write(data)
            try:
                while piece := tls.read(_READ):
                    talk.feed(piece, now)
                more = False
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                self._flush(connection)
                raise _Gone("broken TLS") from None
        sent_at = connection.sent_at
        self._work(connection)
        if connection.sent_at == sent_at and more:
            # A client that gathers small writes (Nagle's algorithm) sends the rest of its query, or the next one, when
            # this much is acknowledged; nothing we send does that now, and the kernel would take its 40 ms.
            connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        return more

    def _work(self, connection: _Connection) -> None:
        """Take what was fed: answer at once what the cache can, put the rest to work, send what came of it."""
        talk = connection.talk
        assert talk is not None
        answer, name, packed, hall = self._answer, self._name, connection.packed, self._hall
        width = talk.width
        waiting = 0
        progress = False
        try:
            while connection.drained is None:
                most = hall.allowance(connection, width)
                if most <= 0:
                    connection.room = trio.Event()  # and the client is not read until one of its queries is answered
                    break
                asked = talk.take(min(most, _ROUND))
                if not asked:
                    break
                progress = True
                for token, query, forwarded in asked:
                    if isinstance(query, PageWanted):
                        self._start(connection, self._show, token, query, connection.peer)
                        continue
                    if forwarded and connection.trusted:
                        self._answer_forwarded(connection, token, query, forwarded)
                        continue
                    reply = answer(packed, query, name)
                    if reply is None:
                        self._start(connection, self._think, token, query, connection.peer)
                    else:
                        waiting += len(reply)
                        talk.answer(token, reply or None)
                if waiting > _PUSH:
                    self._flush(connection)
                    waiting = 0
        finally:
            self._flush(connection)
        if progress:  # anything less is no sign of life: a connection is held open by queries alone
            connection.quiet_since = connection.owed_since = trio.current_time()
            self._crowd.heard(connection)
        if not talk.partial:
            connection.owed_since = 0.0
        elif not connection.owed_since:
            connection.owed_since = trio.current_time()

    def _answer_forwarded(self, connection: _Connection, token: Token, query: bytes, forwarded: str) -> None:
        proxies = self._door.proxies
        client = forwarded_client(forwarded, lambda address: any(address in network for network in proxies))
        peer, packed = connection.peer, connection.packed
        if client is not None:
            peer, packed = Peer(client, 0, peer.door, peer.local, peer.interface), ip_address(client).packed
        reply = self._answer(packed, query, self._name)
        if reply is None:
            self._start(connection, self._think, token, query, peer)
        elif connection.talk is not None:
            connection.talk.answer(token, reply or None)

    def _start(
        self,
        connection: _Connection,
        work: Callable[[_Connection, Token, T, Peer], Awaitable[None]],
        token: Token,
        wanted: T,
        peer: Peer,
    ) -> None:
        assert connection.nursery is not None
        connection.in_work += 1
        self._hall.in_work += 1
        connection.nursery.start_soon(work, connection, token, wanted, peer)

    async def _think(self, connection: _Connection, token: Token, query: bytes, peer: Peer) -> None:
        assert connection.talk is not None
        reply = None
        try:
            reply = await self._serve(query, peer)
        except Exception:
            _log.exception("a query from %s could not be served", peer.ip)
        finally:
            connection.in_work -= 1
            self._hall.in_work -= 1
        connection.talk.answer(token, reply or None)
        self._done(connection)

    async def _show(self, connection: _Connection, token: Token, wanted: PageWanted, peer: Peer) -> None:
        assert connection.talk is not None
        page = None
        try:
            if self._hall.pages is not None:
                page = await self._hall.pages(wanted, peer)
        except Exception:
            _log.exception("a page for %s could not be made", peer.ip)
        finally:
            connection.in_work -= 1
            self._hall.in_work -= 1
        connection.talk.show(token, page)
        self._done(connection)

    def _done(self, connection: _Connection) -> None:
        connection.quiet_since = trio.current_time()
        if connection.room is not None:
            connection.room.set()
        self._flush(connection)

    # Sending

    def _gather(self, connection: _Connection) -> None:
        """What the machine has to send, through TLS, to what is unsent."""
        if connection.talk is not None and (pieces := connection.talk.pieces_to_send()):
            if connection.tls is None:
                connection.unsent += b"".join(pieces)
            else:
                write = connection.tls.write
                for piece in pieces:
                    write(piece)
        if connection.outgoing.pending:
            connection.unsent += connection.outgoing.read()

    def _send(self, connection: _Connection) -> None:
        unsent = connection.unsent
        if unsent:
            try:
                sent = connection.sock.send(unsent)
            except BlockingIOError:
                return
            del unsent[:sent]
            connection.sent_at = trio.current_time()

    def _flush(self, connection: _Connection) -> None:
        """Send what can be sent now; a task sees to the rest."""
        fresh = not connection.unsent
        self._gather(connection)
        if fresh and connection.unsent:
            connection.sent_at = trio.current_time()
            self._send(connection)
        if connection.unsent and connection.drained is None:
            connection.drained = trio.Event()
            assert connection.nursery is not None
            connection.nursery.start_soon(self._drain, connection)
        if len(connection.unsent) > _MOST_UNSENT:
            connection.end("does not read")

    async def _drain(self, connection: _Connection) -> None:
        while connection.unsent:
            await trio.lowlevel.wait_writable(connection.sock)
            self._send(connection)
        assert connection.drained is not None
        connection.drained.set()
        connection.drained = None


def _canonical(text: str) -> IPv4Address | IPv6Address:
    address = ip_address(text.partition("%")[0])
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def _reason(faults: BaseExceptionGroup) -> str:
    first: BaseException = faults
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    if isinstance(first, _Gone):
        return str(first)
    return "broke the rules" if isinstance(first, BadWire) else "lost"
