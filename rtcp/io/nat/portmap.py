"""Mapped ports on a real network: leases put on sockets, for as long as somebody wants them.

The kernel tells the default gateways and when they change (``cyfs_ns.io.linkwatch``); another gateway means new leases.
A lease's datagrams go over a socket connected to the gateway, so the kernel passes nobody else's, and over one that
hears what the gateway announces.  HTTP goes to the gateway's own address, without redirects, within a deadline and a
bound of octets.  Whatever the gateway does, a lease costs three sockets, a few tasks and 64 KiB.

Sockets are opened in the network namespace of the task that runs the mapper.
"""

from __future__ import annotations

import logging
import random
import secrets
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import replace
from itertools import product
from typing import Any

import trio

from cyfs_ns.errors import BadWire, Unreachable
from cyfs_ns.io.dial import plain_dial
from cyfs_ns.io.http import fetch
from cyfs_ns.io.linkwatch import LinkWatch
from cyfs_ns.links import Change, WayFound, WayLost, WayOut
from rtcp.nat.portmap import pcp, ssdp
from rtcp.nat.portmap.igd import Replied
from rtcp.nat.portmap.lease import EVERY, LIFETIME, Call, Lease, Search, Send, Status, obstacle
from rtcp.nat.portmap.values import Protocol, Wanted, Way
from rtcp.nat.portmap.xmltree import MAX_SIZE

_DATAGRAM = 2048
_MOST_ANSWERS = 64  # looked at in one search
_SEARCH_AGAIN = 1.0
_AGAIN = 5.0
_AFTER_FAULT = 0.1
_HTTP_PATIENCE = 5.0

_log = logging.getLogger("cyfs.rtcp.portmap")


class Mapper:
    """Ports of this host that a router maps while :meth:`run` runs."""

    def __init__(
        self,
        *wanted: Wanted,
        secret: bytes = b"",
        allowed: frozenset[Protocol] = EVERY,
        lifetime: int = LIFETIME,
    ) -> None:
        """``secret``: random octets this device keeps, by which a router knows it again after a crash (PCP); without
        it a new start has to wait for the old mapping to end, or to use another protocol.

        ``allowed``: the protocols that may be used.  ``lifetime``: seconds asked for.
        """
        self._wanted, self._allowed, self._lifetime = wanted, allowed, lifetime
        self._secret = secret or secrets.token_bytes(32)
        self._mapped: dict[Wanted, _Mapped] = {}
        self._last: dict[Wanted, _Mapped] = {}
        """Those, or what was before them and may still be given back."""
        self._ways: tuple[WayOut | None, WayOut | None] = (None, None)
        self._shown: tuple[Status, ...] = ()
        self._changed = trio.Event()

    @property
    def status(self) -> tuple[Status, ...]:
        """How each of the wanted mappings stands, in their order.  Times are trio's."""
        return tuple(self._status(wanted) for wanted in self._wanted)

    async def changed(self) -> None:
        """Wait until a status is another than now."""
        await self._changed.wait()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Map and renew until cancelled, then give back what is mapped, which takes ``PATIENCE`` seconds at most.

        Started when the ways out are known, not when ports are mapped.  Raises ``OSError`` and ``BadWire`` if the
        kernel does not tell them.
        """
        watch = LinkWatch()
        async with trio.open_nursery() as nursery:

            def tell(changes: tuple[Change, ...]) -> None:
                if any(isinstance(change, WayFound | WayLost) for change in changes):
                    self._take(watch.picture.ways, nursery)

            await nursery.start(watch.run, tell)
            self._take(watch.picture.ways, nursery)
            task_status.started()

    def _take(self, ways: tuple[WayOut | None, WayOut | None], nursery: trio.Nursery) -> None:
        """Begin where the way is new, end where it is gone."""
        was, self._ways = self._ways, ways
        for wanted in self._wanted:
            before, after = _of(was, wanted), _of(ways, wanted)
            if before == after:
                continue
            if wanted in self._mapped:
                self._mapped.pop(wanted).scope.cancel()
            way = _way(after)
            if after is not None and way is not None and not obstacle(wanted, way):
                new = _Mapped(after, self._lease(wanted, way), self._look)
                nursery.start_soon(new.run, self._last.get(wanted))
                self._mapped[wanted] = self._last[wanted] = new
        self._look()

    def _lease(self, wanted: Wanted, way: Way) -> Callable[[], Lease]:
        return lambda: Lease(
            wanted,
            way,
            nonce=pcp.nonce_of(self._secret, wanted, way),
            die=random.random,
            now=trio.current_time(),
            allowed=self._allowed,
            lifetime=self._lifetime,
        )

    def _status(self, wanted: Wanted) -> Status:
        mapped = self._mapped.get(wanted)
        if mapped is None:
            return Status(wanted=wanted, why=obstacle(wanted, _way(_of(self._ways, wanted))))
        return mapped.lease.status if mapped.lease is not None else Status(wanted=wanted, why=mapped.trouble)

    def _look(self) -> None:
        """Tell who waits if anything has changed; a mere renewal is no change."""
        now = tuple(replace(status, until=None) for status in self.status)
        if now == self._shown:
            return
        before, self._shown = {status.wanted: status.why for status in self._shown}, now
        for status in now:
            if before.get(status.wanted) != status.why:
                _log.info("port %d of %s: %s", status.wanted.port, status.wanted.transport.name, status.why)
        self._changed.set()
        self._changed = trio.Event()


@asynccontextmanager
async def mapped(
    *wanted: Wanted, secret: bytes = b"", allowed: frozenset[Protocol] = EVERY, lifetime: int = LIFETIME
) -> AsyncIterator[Mapper]:
    """A :class:`Mapper` that runs while the block does; what it mapped is given back at the end."""
    mapper = Mapper(*wanted, secret=secret, allowed=allowed, lifetime=lifetime)
    async with trio.open_nursery() as nursery:
        await nursery.start(mapper.run)
        yield mapper
        nursery.cancel_scope.cancel()


class _Mapped:
    """One lease on its sockets."""

    def __init__(self, out: WayOut, lease: Callable[[], Lease], look: Callable[[], None]) -> None:
        self.lease: Lease | None = None
        self.trouble = "the router is being asked"
        """Why there is no lease yet."""
        self.scope = trio.CancelScope()
        self._ended = trio.Event()
        self._out, self._make, self._look = out, lease, look
        self._news = trio.Event()

    async def run(self, before: _Mapped | None) -> None:
        """Map until cancelled; ``before``: what the same port had before."""
        try:
            with self.scope, ExitStack() as sockets:
                if before is not None:
                    await before._ended.wait()  # the router may be the same, and would take the new for the old
                asking = await self._opened(sockets)
                hearing = _announcements(self._out)
                if hearing is not None:
                    sockets.enter_context(hearing)
                self.lease = lease = self._make()
                try:
                    await self._live(lease, asking, hearing)
                finally:
                    lease.release(trio.current_time())
                    with trio.CancelScope(shield=True):
                        await self._live(lease, asking, None)
        finally:
            self._ended.set()

    async def _opened(self, sockets: ExitStack) -> trio.socket.SocketType:
        while True:
            try:
                return sockets.enter_context(await _towards(self._out))
            except OSError as fault:
                self.trouble = f"{self._out.gateway} cannot be asked: {fault}"
                self._look()
                await trio.sleep(_AGAIN)

    async def _live(self, lease: Lease, asking: trio.socket.SocketType, hearing: trio.socket.SocketType | None) -> None:
        """Do what the lease wants until it is over, which it is only when it was released."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._receive, lease, asking)
            if hearing is not None:
                nursery.start_soon(self._hear, lease, hearing)
            while not lease.over:
                self._news = trio.Event()
                while (action := lease.next_action()) is not None:
                    if isinstance(action, Send):
                        await self._send(lease, asking, action.data)
                    elif isinstance(action, Search):
                        nursery.start_soon(self._search, lease, action)
                    else:
                        nursery.start_soon(self._call, lease, action)
                self._look()
                with trio.move_on_at(lease.next_deadline()):
                    await self._news.wait()
                lease.handle_timeout(trio.current_time())
            nursery.cancel_scope.cancel()

    async def _send(self, lease: Lease, asking: trio.socket.SocketType, data: bytes) -> None:
        # An ICMP error of before that nobody has read yet would keep this from being sent, and count against it.
        asking.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        try:
            await asking.send(data)
        except OSError as fault:
            _closed(lease, fault)
            self._news.set()  # it may be over by that

    async def _receive(self, lease: Lease, asking: trio.socket.SocketType) -> None:
        while True:
            try:
                data = await asking.recv(_DATAGRAM)
            except OSError as fault:
                _closed(lease, fault)
                self._news.set()
                await trio.sleep(_AFTER_FAULT)
            else:
                lease.receive(data, trio.current_time())
                self._news.set()

    async def _hear(self, lease: Lease, hearing: trio.socket.SocketType) -> None:
        while True:
            try:
                data, place = await hearing.recvfrom(_DATAGRAM)
            except OSError:
                await trio.sleep(_AFTER_FAULT)
                continue
            if self._is_gateway(place):
                lease.announced(data, trio.current_time())
                self._news.set()

    async def _search(self, lease: Lease, search: Search) -> None:
        source, gateway = self._out.source, self._out.gateway
        with suppress(OSError), trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(source))
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, ssdp.HOPS)
            await sock.bind((source, 0))
            until, heard = trio.current_time() + search.seconds, 0
            while lease.searching and trio.current_time() < until and heard < _MOST_ANSWERS:
                for data, host in product(search.datagrams, (ssdp.GROUP, gateway)):
                    await sock.sendto(data, (host, ssdp.PORT))
                with trio.move_on_at(min(until, trio.current_time() + _SEARCH_AGAIN)):
                    while lease.searching and heard < _MOST_ANSWERS:
                        with suppress(ConnectionRefusedError):
                            data, place = await sock.recvfrom(_DATAGRAM)
                            if self._is_gateway(place):
                                heard += 1
                                lease.found(data, trio.current_time())
                                self._news.set()

    async def _call(self, lease: Lease, call: Call) -> None:
        asked = call.asked
        try:
            response = await fetch(
                asked.url,
                dial=plain_dial(source=(self._out.source, 0)),
                method="POST" if asked.body else "GET",
                headers=asked.headers,
                body=asked.body,
                max_bytes=MAX_SIZE,
                timeout=_HTTP_PATIENCE,
                max_redirects=0,
            )
        except (Unreachable, BadWire) as fault:
            lease.failed(call.ticket, str(fault), trio.current_time())
        else:
            lease.replied(call.ticket, Replied(response.status, response.body), trio.current_time())
        self._news.set()

    def _is_gateway(self, place: tuple[Any, ...]) -> bool:
        return str(place[0]).partition("%")[0] == self._out.gateway


def _closed(lease: Lease, fault: OSError) -> None:
    now = trio.current_time()
    if isinstance(fault, ConnectionRefusedError):
        lease.closed(now)
    else:
        lease.closed(now, fault.strerror or str(fault))


def _of(ways: tuple[WayOut | None, WayOut | None], wanted: Wanted) -> WayOut | None:
    return ways[0 if wanted.version == 4 else 1]


def _way(out: WayOut | None) -> Way | None:
    return None if out is None else Way(out.gateway, out.source)


async def _towards(out: WayOut) -> trio.socket.SocketType:
    """A socket connected to the port of PCP and NAT-PMP of the gateway.  Raises ``OSError``."""
    v6 = ":" in out.gateway
    sock = trio.socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        # A gateway of IPv6 has an address of the link, but the port wanted is one of our address for outside.
        await sock.bind((out.source, 0))
        await sock.connect((out.gateway, pcp.PORT, 0, out.ifindex) if v6 else (out.gateway, pcp.PORT))
    except BaseException:
        sock.close()
        raise
    return sock


def _announcements(out: WayOut) -> trio.socket.SocketType | None:
    """A socket that hears what routers on that link announce; None: somebody else has the port for himself."""
    v6 = ":" in out.gateway
    group = pcp.GROUPS[6 if v6 else 4]
    sock = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if v6:
            member = struct.pack("@16sI", socket.inet_pton(socket.AF_INET6, group), out.ifindex)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, member)
            sock.bind((group, pcp.ANNOUNCE_PORT, 0, out.ifindex))
        else:
            member = struct.pack("@4s4si", socket.inet_aton(group), bytes(4), out.ifindex)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
            sock.bind((group, pcp.ANNOUNCE_PORT))
    except OSError as fault:
        sock.close()
        _log.info("what routers announce is not heard: %s", fault)
        return None
    return trio.socket.from_stdlib_socket(sock)
