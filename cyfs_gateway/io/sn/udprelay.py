"""The UDP port of an SN: what its relay forwards, and whatever else shares the port.

One task a socket, none a flow.  A turn takes what has come in, batch by batch, until the socket is empty or the turn
has had its time.  Within a batch everything that goes from one device to the other in one size becomes one group, which
the kernel is handed as a whole (:mod:`cyfs_gateway.io.sn.relaybatch`); the octets stay where they were received.

Way and lease are looked up once per datagram or burst.  A burst that the kernel joined is from one address, but not
necessarily of one session: so the header of each of its datagrams is compared with the first, and a mixed burst is
taken apart.  Nothing waits: what the socket does not take is dropped and counted, as routers do.

What does not begin with the relay's two octets is handed to whoever has taken over its first octet (RFC 7983): STUN,
the UDP carrier of tunnels to the SN itself.  What nobody took over is dropped.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import TypeAlias

import trio

from cyfs_gateway.io.sn.relaybatch import (
    SLOTS,
    Group,
    Inbox,
    Outbox,
    join_bursts,
    pktinfo_message,
)
from cyfs_gateway.io.sn.relaybursts import Piece, Sheaf, cut, datagrams_in, is_uniform
from cyfs_gateway.io.sn.relaydoor import Door, Origin, send_back
from cyfs_gateway.sn.relay import RANDOM_SIZE, Allocation, Ended, Relay, RelayBounds, RelayCounters, Session
from cyfs_ns.errors import Misuse
from cyfs_ns.io.datagrams import open_udp
from rtcp.nat.relaywire import CONTROL, DATA, HEADER_SIZE

_TURN_SECONDS = 0.004
_CANNOT_JOIN = frozenset({errno.EINVAL, errno.EMSGSIZE, errno.EIO, errno.EOPNOTSUPP})
"""A device on the way out cannot cut bursts apart, or is too narrow for the datagrams themselves: which of the two
shows when they are sent one by one."""
_DONT_FRAGMENT = 3  # IP_PMTUDISC_PROBE and IPV6_PMTUDISC_PROBE: carriers find out the size of their paths themselves
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER = 10, 23

_log = logging.getLogger("cyfs.sn")


Handler: TypeAlias = Callable[[bytes, Origin], bytes | None]
"""Takes a datagram from anybody, at once; what it returns is the answer, no larger than that."""


class UdpRelay:
    """The sockets of an SN's UDP port and the relay behind them.

    ``places``: literal addresses and ports, one socket each; ``0.0.0.0`` and ``::`` are for their own family alone.
    ``take`` and ``ended`` as for :class:`cyfs_gateway.sn.relay.Relay`.  Raises ``OSError`` when a place cannot be had.
    """

    def __init__(
        self,
        places: Iterable[tuple[str, int]],
        bounds: RelayBounds,
        take: Callable[[Session[Door], int], bool],
        ended: Callable[[Ended], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._relay: Relay[Door] = Relay(bounds, take, ended, os.urandom(32), clock())
        self._handlers: list[Handler | None] = [None] * 256
        self._outbox = Outbox()
        self._alarm = trio.CancelScope()
        self._doors: list[_Listening] = []
        with ExitStack() as opened:
            for ip, port in places:
                sock = opened.enter_context(open_udp(ip, port))
                join_bursts(sock)
                if sock.family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _DONT_FRAGMENT)
                else:
                    sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _DONT_FRAGMENT)
                self._doors.append(_Listening(sock))
            opened.pop_all()

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where the sockets are bound."""
        return [door.sock.getsockname()[:2] for door in self._doors]

    @property
    def counters(self) -> RelayCounters:
        return self._relay.counters

    def __len__(self) -> int:
        """Sessions."""
        return len(self._relay)

    def allocate(self, account: str, *, lifetime: float | None = None, rate: int | None = None) -> Allocation:
        """As :meth:`cyfs_gateway.sn.relay.Relay.allocate`, now."""
        random = os.urandom(RANDOM_SIZE)
        allocation = self._relay.allocate(account, random, self._clock(), lifetime=lifetime, rate=rate)
        self._alarm.cancel()  # it may be over sooner than the one that was to be over first
        return allocation

    def end(self, relay_id: bytes, why: str) -> None:
        """End one session."""
        self._relay.end(relay_id, why)

    def end_account(self, account: str, why: str) -> None:
        """End all sessions of an account."""
        self._relay.end_account(account, why)

    def slow(self, account: str, rate: int) -> None:
        """As :meth:`cyfs_gateway.sn.relay.Relay.slow`."""
        self._relay.slow(account, rate)

    def take_over(self, first_octets: Iterable[int], handler: Handler) -> None:
        """Give what begins with one of ``first_octets`` to ``handler``.  Raises ``Misuse`` if somebody has them."""
        for first in first_octets:
            if first in (DATA, CONTROL) or self._handlers[first] is not None:
                raise Misuse(f"datagrams that begin with {first} are taken")
            self._handlers[first] = handler

    def send(self, datagram: bytes, origin: Origin) -> None:
        """Send to where something came from, and where somebody has proven to hear it; answers are the handler's."""
        sock = next((door.sock for door in self._doors if door.fd == origin.door.fd), None)
        if sock is not None and not send_back(sock, datagram, origin):
            self.counters.unsent += 1

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Forward until cancelled; then the sockets are closed."""
        with ExitStack() as opened:
            for door in self._doors:
                opened.enter_context(door.sock)
            async with trio.open_nursery() as nursery:
                for door in self._doors:
                    nursery.start_soon(self._listen, door)
                nursery.start_soon(self._keep_time)
                task_status.started()

    async def _keep_time(self) -> None:
        while True:
            with trio.CancelScope() as self._alarm:
                await trio.sleep(max(0.0, self._relay.next_deadline() - self._clock()))
            self._relay.handle_timeout(os.urandom(32), self._clock())

    async def _listen(self, door: _Listening) -> None:
        while True:
            await trio.lowlevel.wait_readable(door.fd)
            turn_ends = self._clock() + _TURN_SECONDS
            try:
                while self._batch(door, now := self._clock()) and now < turn_ends:
                    pass
            except OSError as fault:
                _log.warning("udp relay %s: %s", door.sock.getsockname(), fault)
            except Exception:
                # A fault of ours costs this batch, and never the house.
                _log.exception("a batch of the udp relay was lost")

    def _batch(self, door: _Listening, now: float) -> int:
        """Take one batch and send it on; how much came."""
        inbox = door.inbox
        count = inbox.receive(door.fd)
        if not count:
            return 0
        relay, counters = self._relay, self._relay.counters
        memory, at = inbox.memory, inbox.at
        find = relay.ways.get
        sheaves: list[Sheaf] = []
        growing: dict[bytes, Sheaf] = {}
        pieces: Iterable[Piece] = zip(
            inbox.starts,
            inbox.sizes(count),
            inbox.joined(count),
            range(count),
            inbox.names(count),
            inbox.heads(count),
            strict=False,
        )
        while pieces:
            apart: list[Piece] = []
            for start, size, segment, slot, (name,), (head,) in pieces:
                way = name + head
                to = find(way) if size >= HEADER_SIZE else None
                if segment and (to is None or not to.joined or not is_uniform(memory, start, size, segment)):
                    apart += cut(memory, start, size, segment, slot, name)
                    continue
                if to is None:
                    self._other(door, start, size, slot, name, now)
                    continue
                if not to.address:
                    counters.waiting += datagrams_in(size, segment)
                    continue
                lease = to.lease
                if lease.left < size and not relay.renew(to.session, size, datagrams_in(size, segment), now):
                    continue
                lease.left -= size
                sheaf = growing.get(way)
                if sheaf is None or not sheaf.spare:
                    sheaf = growing[way] = Sheaf(to, at + start, size, segment)
                    sheaves.append(sheaf)
                elif size == sheaf.segment and not segment:
                    sheaf.places += (at + start, size)
                    sheaf.spare -= 1
                elif not sheaf.grow(at + start, size, segment):
                    sheaf = growing[way] = Sheaf(to, at + start, size, segment)
                    sheaves.append(sheaf)
            pieces = apart
        if sheaves:
            self._send_on(sheaves, now)
        return count

    def _send_on(self, sheaves: Sequence[Sheaf], now: float) -> None:
        counters, outbox = self._relay.counters, self._outbox
        for first in range(0, len(sheaves), SLOTS):
            some = sheaves[first : first + SLOTS]
            groups: list[Group] = []
            counts: list[int] = []
            for sheaf in some:
                to, places, segment = sheaf.to, sheaf.places, sheaf.segment
                octets = sum(places[1::2])
                count = datagrams_in(octets, segment)
                session = to.session
                session.used = now
                session.octets += octets
                session.datagrams += count
                counters.octets += octets
                counters.forwarded += count
                fd, control = to.door or _NOWHERE
                counts.append(count)
                groups.append((fd, to.address, control, segment if count > 1 else 0, places))
            for index, why in outbox.send(groups):
                failed = counts[index]
                if failed > 1 and why in _CANNOT_JOIN:
                    failed = self._send_singly(groups[index])
                    some[index].to.joined = failed > 0
                counters.forwarded -= failed
                counters.unsent += failed

    def _send_singly(self, group: Group) -> int:
        """Send the datagrams of a group one by one; how many could not be sent even so."""
        fd, name, control, segment, places = group
        singles: list[Group] = []
        for start, size in zip(places[::2], places[1::2], strict=True):
            for part in range(start, start + size, segment):
                singles.append((fd, name, control, 0, (part, min(segment, start + size - part))))
        return sum(len(self._outbox.send(singles[at : at + SLOTS])) for at in range(0, len(singles), SLOTS))

    def _other(self, door: _Listening, start: int, size: int, slot: int, name: bytes, now: float) -> None:
        """What has no way: a message to the relay, something for somebody else, or nothing we know."""
        if not size:
            return
        datagram = door.inbox.memory[start : start + size].tobytes()
        handler = self._handlers[datagram[0]]
        if handler is None and not (datagram[0] in (DATA, CONTROL) and self._relay.knows(datagram)):
            self.counters.unknown += 1
            return
        origin = Origin(name, Door(door.fd, pktinfo_message(door.sock.family, door.inbox.pktinfo(slot))))
        if handler is None:
            reply = self._relay.hear(datagram, name, origin.door, now)
        else:
            try:
                reply = handler(datagram, origin)
            except Exception:
                _log.exception("a datagram that begins with %d broke its handler", datagram[0])
                return
        if reply is not None and (len(reply) > size or not send_back(door.sock, reply, origin)):
            self.counters.unsent += 1


_NOWHERE = Door(-1, b"")


class _Listening:
    """A socket and its slots."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock, self.fd = sock, sock.fileno()
        self.inbox = Inbox(sock.family)
