"""One question to one name server, over whatever carries it: UDP, TCP, TLS (RFC 7858) or HTTPS (RFC 8484).

A server is remembered with its habits: whether it keeps the spelling of names (else our random upper case, a guard
against forgers, is left out), whether it reads EDNS (else we write none), its kept connections and TLS session.

Over UDP a reply that is cut short, spelt otherwise than our question or lost among forgeries leads to TCP, where it
needs no such guards.  A server known by name is found by others, again when none of its addresses answers.

While this machine's clock is not set no certificate is in force, and without a name server nobody hears of the time.
Then certificates count whatever their dates; answers say so, and what was opened like that is closed once it is set.
"""

from __future__ import annotations

import secrets
import ssl
import struct
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, Protocol

import trio

from cyfs_ns import edns, query
from cyfs_ns.asking import Asking, FramedAsking
from cyfs_ns.clock import is_unset, why_unset
from cyfs_ns.edns import Ecs
from cyfs_ns.errors import BadWire, CyfsError, Unreachable
from cyfs_ns.io.datagram import Datagram, Forged, OpenDatagrams, Sockets, concerns, sockets_here
from cyfs_ns.io.dial import Dial, is_interface, plain_dial
from cyfs_ns.io.dice import Dice
from cyfs_ns.io.kept import IDLE, Pool
from cyfs_ns.query import AD, FORMERR, NOTIMP
from cyfs_ns.reply import Reply, make_reply, read_reply
from cyfs_ns.subnet import fixed_subnet
from cyfs_ns.upstream import RCODE_WORDS, Upstream
from cyfs_ns.wire import HEADER

RESEND = (0.4, 0.8, 1.5, 2.5)
"""Seconds after each sending of a datagram until it is sent again."""

_PATIENCE = 1.5  # seconds after which another address of a server is asked, too
_FIND_AGAIN = 5.0  # seconds between two lookups of a server that does not answer
_MOST_POOLS = 32
_IDLE_ASIDE = 1.0  # seconds a connection is kept to a server usually asked over UDP: some serve one client at a time
_TYPE_AND_CLASS = struct.Struct("!2H")
_OTHER = 0  # extended error
_NO_CHECK_TIME = ssl.VerifyFlags(0x200000)  # OpenSSL's X509_V_FLAG_NO_CHECK_TIME, which Python has no name for
_ALPN: dict[str, list[str]] = {"tls": [], "https": ["h2", "http/1.1"]}
_HTTP_PORTS = {"https": 443, "http": 80}


class Wanted(NamedTuple):
    """A question, and what is to be told along with it."""

    name: bytes
    """Wire name in lower case."""
    rtype: int
    rclass: int = 1
    do: bool = False
    cd: bool = False
    subnet: Ecs | None = None
    mark: int = 0
    """SO_MARK for the packets that carry it, in place of the usual one; 0: the usual one."""

    @property
    def question(self) -> bytes:
        return self.name + _TYPE_AND_CLASS.pack(self.rtype, self.rclass)


class Find(Protocol):
    """Finds servers given by name."""

    def __call__(self, host: str, *, fresh: bool) -> Awaitable[tuple[str, ...]]:
        """Addresses, not from memory if ``fresh``.  Raises ``Unreachable``."""


async def find_nobody(host: str, *, fresh: bool) -> tuple[str, ...]:
    raise Unreachable(f"nobody was named who could find {host}", "pre_connect_dns")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ways:
    """How servers are reached.

    ``mark`` and ``interface`` go on our own sockets; streams are ``dial``'s matter.  ``open_datagrams`` carries UDP
    through outbounds; without it such questions travel in TCP's form.
    """

    dial: Dial
    find: Find = find_nobody
    open_datagrams: OpenDatagrams | None = None
    mark: int = 0
    interface: str = ""
    tls: ssl.SSLContext | None = None
    """In place of the system's trust."""
    mix_case: bool = True
    wall: Callable[[], float] = time.time
    dice: Dice = field(default_factory=Dice)
    """For ids and spellings."""
    contexts: dict[bool, ssl.SSLContext] = field(default_factory=dict)
    """Made when first needed, by whether certificates go unchecked."""

    def context(self, unchecked: bool) -> ssl.SSLContext:
        context = self.contexts.get(unchecked)
        if context is None:
            # Reads all of the system's roots: once.
            context = self.tls if self.tls is not None and not unchecked else ssl.create_default_context()
            if unchecked:
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            self.contexts[unchecked] = context
        return context


class Server:
    """One server and what is known of it."""

    def __init__(self, upstream: Upstream, ways: Ways) -> None:
        self.upstream, self._ways = upstream, ways
        self.label = str(upstream)
        self.quick = upstream.scheme == "udp" and bool(upstream.address) and not (upstream.via or upstream.without)
        """Whether :meth:`begin` can be used."""
        self.looping = False
        """A question sent there came back to our own door."""
        self.strays = 0
        """Datagrams that were not the reply to what was asked."""
        self._subnet = fixed_subnet(upstream.subnet) if upstream.subnet else None
        self._mixes = ways.mix_case
        self._kept_case = False  # an upper case letter of ours has come back
        self._edns = True
        self._pools: dict[tuple[str, int], Pool] = {}
        self._session: trio.SSLStream[trio.abc.Stream] | None = None
        self._sockets: Sockets | None = None
        self._undated = False  # certificates count whatever their dates
        self._failed_at: float | None = None
        self._answering = ""  # of the addresses of a name, the one that answered last

    def begin(self, wanted: Wanted, now: float | None = None, address: str = "") -> Datagram:
        """Send the question over UDP; ``now`` by trio's clock.  Raises ``Unreachable``."""
        upstream, ways, sockets = self.upstream, self._ways, self._sockets
        if sockets is None or sockets.closed:
            sockets = self._sockets = sockets_here()
        name = wanted.name
        dice = ways.dice.take(2 + len(name))
        spelling = query.mix_case(name, dice[2:]) if self._mixes else name
        built = self._query(wanted, dice[0] << 8 | dice[1], spelling)
        return Datagram(
            address or upstream.host, upstream.port, built, spelling,
            mark=wanted.mark or ways.mark, interface=upstream.via or ways.interface, source=upstream.source,
            edns=self._edns, now=now, sockets=sockets,
        )  # fmt: skip

    def taken(self, wanted: Wanted, begun: Datagram, data: bytes) -> Reply | None:
        """The reply in ``data`` if there is nothing more to do about it.  Raises ``BadWire``."""
        spelling = begun.spelling
        if data[12 : 12 + len(spelling)] != spelling:
            return None
        if spelling != wanted.name:
            self._kept_case = True
        reply = read_reply(data, wanted.name, wanted.rtype, wanted.rclass, begun.ident, do=wanted.do)
        if reply.truncated or (begun.edns and reply.rcode in (FORMERR, NOTIMP)):
            return None
        return reply

    async def ask(self, wanted: Wanted, begun: Datagram | None = None) -> Reply:
        """Ask until there is a reply; the limit of time is the caller's.  Raises ``CyfsError``.

        ``begun`` is a question already sent by :meth:`begin`, and is closed here.
        """
        upstream = self.upstream
        if begun is not None:
            return await self._udp(wanted, upstream.host, begun)
        if upstream.scheme == "rcode":
            return make_reply(wanted.question, rcode=RCODE_WORDS[upstream.host])
        if wanted.rtype in upstream.without:
            return make_reply(wanted.question)
        if upstream.why_not:
            raise Unreachable(upstream.why_not, "unsupported_scheme")
        if upstream.address:
            return await self._at(wanted, upstream.address)
        now = trio.current_time()
        fresh = self._failed_at is not None and now - self._failed_at > _FIND_AGAIN
        addresses = await self._ways.find(upstream.host, fresh=fresh)
        if fresh:
            self._failed_at = now
        try:
            reply = await self._anywhere(wanted, sorted(addresses, key=lambda address: address != self._answering))
        except CyfsError:
            self._failed_at = self._failed_at if self._failed_at is not None else float("-inf")
            raise
        self._failed_at = None
        return reply

    def forget(self) -> None:
        """Drop what was learnt, and the connections."""
        self._mixes, self._kept_case, self._edns = self._ways.mix_case, False, True
        self._failed_at = None
        self.close()

    def close(self) -> None:
        for pool in self._pools.values():
            pool.close()
        self._pools.clear()

    @property
    def resumed(self) -> bool:
        """Whether the last TLS connection took up the session of an earlier one."""
        return self._session is not None and bool(self._session.session_reused)

    @property
    def connections(self) -> int:
        return sum(map(len, self._pools.values()))

    async def _anywhere(self, wanted: Wanted, addresses: Sequence[str]) -> Reply:
        """Ask at the first address, and at the next one, too, when those before it fail or let us wait.

        None of them is given up for being slow: on a slow road all are.
        """
        replies: list[Reply] = []
        faults: list[CyfsError] = []

        async def one(address: str, failed: trio.Event) -> None:
            try:
                reply = await self._at(wanted, address)
            except CyfsError as fault:
                faults.append(fault)
                failed.set()
            else:
                replies.append(reply)
                self._answering = address
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for address in addresses:
                failed = trio.Event()
                nursery.start_soon(one, address, failed)
                with trio.move_on_after(_PATIENCE):
                    await failed.wait()
        if replies:
            return replies[0]
        raise faults[-1] if faults else Unreachable(f"{self.upstream} has no address", "pre_connect_dns")

    async def _at(self, wanted: Wanted, address: str) -> Reply:
        upstream = self.upstream
        if upstream.scheme == "udp":
            # A datagram can leave by an interface of ours, or through an outbound that carries such.
            if not upstream.via or is_interface(upstream.via):
                return await self._udp(wanted, address, self.begin(wanted, address=address))
            if self._ways.open_datagrams is not None:
                return await self._relayed(wanted, address, self._ways.open_datagrams)
        return await self._stream(wanted, address)

    # Datagrams

    def _query(self, wanted: Wanted, ident: int, spelling: bytes, padding: int = 0) -> bytes:
        if self._edns:
            subnet = wanted.subnet
            if self._subnet is not None and (subnet is None or self.upstream.subnet_override):
                subnet = self._subnet
            return query.build_upstream_query(
                wanted.name, wanted.rtype, wanted.rclass, ident,
                do=wanted.do, cd=wanted.cd, ecs=subnet, padding=padding, mixed_case=spelling,
            )  # fmt: skip
        flags = query.RD | (query.CD if wanted.cd else 0)
        return HEADER.pack(ident, flags, 1, 0, 0, 0) + spelling + wanted.question[-4:]

    async def _udp(self, wanted: Wanted, address: str, begun: Datagram) -> Reply:
        try:
            data = await self._received(begun)
            reply = self.taken(wanted, begun, data)
            if reply is not None:
                return reply
            edns_was, spelt = begun.edns, data[12 : 12 + len(begun.spelling)]
            if spelt == begun.spelling:
                reply = read_reply(data, wanted.name, wanted.rtype, wanted.rclass, begun.ident, do=wanted.do)
            elif spelt.lower() != wanted.name:
                # No question came back: an old server's error, or rubbish.
                reply = read_reply(data, wanted.name, wanted.rtype, wanted.rclass, begun.ident)
        except Forged:
            return await self._stream(wanted, address)
        finally:
            self.strays += begun.strays
            begun.close()
        if reply is None:
            return await self._respelt(wanted, address)
        if reply.truncated:
            return await self._stream(wanted, address)
        if edns_was and reply.rcode in (FORMERR, NOTIMP):
            return await self._without_edns(wanted, lambda: self._at(wanted, address), reply)
        return reply

    async def _received(self, begun: Datagram) -> bytes:
        since = begun.sent_at
        for patience in RESEND:
            since += patience
            data = await begun.receive(since)
            if data is not None:
                return data
            begun.send_again()
        while True:
            data = await begun.receive(float("inf"))
            if data is not None:
                return data

    async def _respelt(self, wanted: Wanted, address: str) -> Reply:
        """The name came back in another case: a forger's work, or a server that spells as it likes."""
        try:
            reply = await self._stream(wanted, address)
        except Unreachable:
            if self._kept_case:
                raise
            self._mixes = False
            return await self._udp(wanted, address, self.begin(wanted, address=address))
        if not self._kept_case:
            self._mixes = False
        return reply

    async def _relayed(self, wanted: Wanted, address: str, opener: OpenDatagrams) -> Reply:
        upstream = self.upstream
        ident, name = secrets.randbits(16), wanted.name
        spelling = query.mix_case(name, self._ways.dice.take(len(name))) if self._mixes else name
        built = self._query(wanted, ident, spelling)
        try:
            way = await opener(address, upstream.port, upstream.via)
        except Unreachable:
            return await self._stream(wanted, address)
        try:
            data = await _over(way.send, way.receive, built, wanted.question)
        finally:
            way.close()
        if data[12 : 12 + len(spelling)] != spelling and data[4:6] == b"\0\1":
            return await self._stream(wanted, address)
        reply = read_reply(data, wanted.name, wanted.rtype, wanted.rclass, ident, do=wanted.do)
        if reply.truncated:
            return await self._stream(wanted, address)
        if self._edns and reply.rcode in (FORMERR, NOTIMP):
            return await self._without_edns(wanted, lambda: self._at(wanted, address), reply)
        return reply

    async def _without_edns(self, wanted: Wanted, again: Callable[[], Awaitable[Reply]], refused: Reply) -> Reply:
        """An old server that cannot read EDNS is asked without; it is remembered if that was it."""
        self._edns = False
        try:
            reply = await again()
        except CyfsError:
            self._edns = True
            raise
        if reply.rcode == refused.rcode:
            self._edns = True
        return reply

    # Streams

    async def _stream(self, wanted: Wanted, address: str) -> Reply:
        encrypted = self.upstream.scheme in _ALPN
        if encrypted:
            self._look_at_the_clock()
        edns_was, undated = self._edns, self._undated
        built = self._query(wanted, 0, wanted.name, padding=edns.QUERY_BLOCK if encrypted else 0)
        try:
            data = await self._pool(address, wanted.mark).ask(built)
        except Unreachable as fault:
            if self.upstream.scheme != "udp":
                raise
            # A server asked by datagrams is there; that it takes no connections will not pass, and each datagram more
            # would be another chance for whoever forges replies.
            raise Unreachable(f"over TCP: {fault}", "other") from fault
        reply = read_reply(data, wanted.name, wanted.rtype, wanted.rclass, 0, do=wanted.do)
        if reply.truncated:
            raise BadWire("DNS reply truncated where there was room for it")
        if undated:
            reply = reply._replace(flags=reply.flags & ~AD, ede=(*reply.ede, (_OTHER, why_unset(self._ways.wall()))))
        if edns_was and reply.rcode in (FORMERR, NOTIMP):
            return await self._without_edns(wanted, lambda: self._stream(wanted, address), reply)
        return reply

    def _look_at_the_clock(self) -> None:
        undated = is_unset(self._ways.wall())
        if self._undated and not undated:
            self.close()
            self._session = None  # to take it up would be to take its certificate
        self._undated = undated

    def _pool(self, address: str, mark: int) -> Pool:
        pool = self._pools.get((address, mark))
        if pool is None:
            while len(self._pools) >= _MOST_POOLS:
                self._pools.pop(next(iter(self._pools))).close()
            idle = _IDLE_ASIDE if self.upstream.scheme == "udp" else IDLE
            pool = self._pools[address, mark] = Pool(partial(self.open, address, mark), idle=idle)
        return pool

    async def open(self, address: str, mark: int = 0) -> tuple[trio.abc.Stream, Asking]:
        """A new connection to one of its addresses, kept by the caller.  Raises ``Unreachable``."""
        upstream, ways = self.upstream, self._ways
        via = upstream.via
        if (mark or upstream.source[0]) and (not via or is_interface(via)):
            dial = plain_dial(mark=mark or ways.mark, interface=via or ways.interface, source=upstream.source)
            stream = await dial(address, upstream.port, None)
        else:
            stream = await ways.dial(address, upstream.port, via or None)
        protocol = ""
        if upstream.scheme in _ALPN:
            stream, protocol = await self._secured(stream)
        if upstream.scheme not in _HTTP_PORTS:
            return stream, FramedAsking(partial(secrets.randbits, 16), joined=upstream.scheme != "tls")
        from cyfs_ns.askhttp import Http1Asking, Http2Asking

        host = upstream.host.partition("%")[0]
        authority = f"[{host}]" if ":" in host else host
        if upstream.port != _HTTP_PORTS[upstream.scheme]:
            authority += f":{upstream.port}"
        asking = Http2Asking if protocol == "h2" else Http1Asking
        return stream, asking(authority, upstream.path)

    async def _secured(self, stream: trio.abc.Stream) -> tuple[trio.abc.Stream, str]:
        upstream = self.upstream
        context = self._ways.context(upstream.skip_cert_verify)
        # Read when the stream is made, and so never another server's.
        context.set_alpn_protocols(_ALPN[upstream.scheme])
        flags = context.verify_flags & ~_NO_CHECK_TIME
        context.verify_flags = flags | _NO_CHECK_TIME if self._undated else flags
        secured = trio.SSLStream(stream, context, server_hostname=upstream.host.partition("%")[0])
        if self._session is not None and self._session.session is not None:
            secured.session = self._session.session
        try:
            await secured.do_handshake()
        except trio.BrokenResourceError as fault:
            await trio.aclose_forcefully(stream)
            raise Unreachable(f"TLS: {fault.__cause__ or fault}", "tls_handshake") from fault
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        # Its tickets come after the handshake, so the stream is asked for them when the next one opens.
        self._session = secured
        return secured, secured.selected_alpn_protocol() or ""


async def _over(
    send: Callable[[bytes], Awaitable[None]], receive: Callable[[], Awaitable[bytes]], built: bytes, question: bytes
) -> bytes:
    """What comes back to ``built`` by an outbound's datagrams."""
    for patience in (*RESEND, float("inf")):
        await send(built)
        with trio.move_on_after(patience):
            while True:
                data = await receive()
                if data[:2] == built[:2] and concerns(data, question):
                    return data
    raise Unreachable("no answer", "connect_timeout")
