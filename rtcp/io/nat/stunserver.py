"""A STUN server on one or two addresses of a family and one or two ports; two of each let clients tell all of RFC 5780.

One task a socket, which drains it by the batch and writes each answer over its question; only what a client asked to
come from elsewhere is sent alone.  Nothing is kept of a client but a count for its network, in bounded memory, so that
nobody's address can be made to receive more than ``per_second`` answers, none larger than its request
(:func:`rtcp.nat.stun.respond`).

Over TCP (RFC 8489 section 6.2.2) a connection gets one answer, and its end.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from itertools import product
from struct import Struct

import trio

from cyfs_ns.errors import BadWire, Misuse
from cyfs_ns.io.datagrams import open_udp
from cyfs_ns.io.mmsg import Batch
from cyfs_ns.ratelimit import RateLimit
from rtcp.io.nat.stun import receive_message
from rtcp.nat.stun import MOST, HostPort, Place, respond

PER_SECOND = 256
"""Answers for one network (a /24, or a /56); a survey of one NAT takes some twenty."""

_MOST_CONNECTIONS = 256
_CONNECTION_SECONDS = 5.0
_TURN = 512  # requests, after which others should get their turn
_WILDCARDS = ("0.0.0.0", "::")
_PORT = Struct("!H")

_log = logging.getLogger("rtcp.stun")


@dataclass(slots=True)
class StunCounts:
    """What happened to the datagrams that came; ``ignored``: no requests, or too small for an answer."""

    answered: int = 0
    ignored: int = 0
    limited: int = 0
    unsent: int = 0


async def serve_stun(
    hosts: Sequence[str],
    ports: Sequence[int],
    *,
    public: Mapping[str, str] | None = None,
    per_second: int = PER_SECOND,
    surplus: int = 0,
    clock: Callable[[], float] = time.monotonic,
    task_status: trio.TaskStatus[StunCounts] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer at every port of every host, for ever.

    ``hosts`` are addresses of this machine, none a wildcard, at most two a family; ``ports`` one or two.  ``public``
    says how clients know those that stand behind a one-to-one NAT.  ``surplus`` as for :func:`rtcp.nat.stun.respond`.
    Raises ``OSError`` when something cannot be bound, and then nothing is.
    """
    places = _places(hosts, ports, public or {})
    counts = StunCounts()
    limit = RateLimit(per_second, slip=0)
    with ExitStack() as bound:
        sockets = {place.here: bound.enter_context(open_udp(host, place.here.port)) for host, place in places}
        async with trio.open_nursery() as nursery:
            for _, place in places:
                door = _Door(sockets, place, limit, surplus, counts)
                nursery.start_soon(door.serve, clock)
            task_status.started(counts)


async def serve_stun_tcp(
    host: str,
    port: int,
    *,
    public: str = "",
    per_second: int = PER_SECOND,
    clock: Callable[[], float] = time.monotonic,
    task_status: trio.TaskStatus[StunCounts] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer connections to ``host``, an address or a wildcard, for ever; ``public``: how clients know it.

    Raises ``OSError`` when it cannot be bound.
    """
    counts, limit, open_ = StunCounts(), RateLimit(per_second, slip=0), 0

    async def answer(stream: trio.SocketStream) -> None:
        nonlocal open_
        source = HostPort(*stream.socket.getpeername()[:2])
        if open_ >= _MOST_CONNECTIONS or not limit.lease(ip_address(source.host).packed, int(clock()), 1):
            counts.limited += 1
            return
        here = HostPort(public or stream.socket.getsockname()[0], port)
        open_ += 1
        try:
            with trio.move_on_after(_CONNECTION_SECONDS), suppress(BadWire, trio.BrokenResourceError):
                reply = respond(await receive_message(stream), source, Place(here=here))
                if reply is None or reply.to != source:
                    counts.ignored += 1
                else:
                    await stream.send_all(reply.data)
                    counts.answered += 1
                    await stream.receive_some(1)  # who asked closes first, so its port is free again
        finally:
            open_ -= 1

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            with suppress(OSError):  # it is gone already
                await answer(stream)

    listeners = await trio.open_tcp_listeners(port, host=host)
    task_status.started(counts)
    await trio.serve_listeners(serve, listeners)


class _Door:
    """One socket at work."""

    def __init__(
        self,
        sockets: Mapping[HostPort, socket.socket],
        place: Place,
        limit: RateLimit,
        surplus: int,
        counts: StunCounts,
    ) -> None:
        self._sockets, self._place, self._limit, self._surplus, self._counts = sockets, place, limit, surplus, counts
        self._sock = sockets[place.here]
        self._batch = Batch(self._sock.family, control=False)

    async def serve(self, clock: Callable[[], float]) -> None:
        while True:
            await trio.lowlevel.wait_readable(self._sock)
            taken, count = 0, 1
            try:
                while count and taken < _TURN:
                    count = self._answer_batch(int(clock()))
                    taken += count
            except OSError as fault:
                _log.warning("STUN at %s: %s", self._place.here, fault)
            except Exception:
                # A fault of ours costs these requests, and never the house.
                _log.exception("a batch of STUN requests could not be answered")

    def _answer_batch(self, second: int) -> int:
        batch, place, counts = self._batch, self._place, self._counts
        count = batch.receive(self._sock.fileno())
        first = slot = -1  # of a run of slots to be sent; the slot at hand
        for at, vector, size, (address,) in zip(
            batch.starts, batch.vectors, batch.sizes(count), batch.addresses(count), strict=False
        ):
            slot += 1
            if self._limit.lease(address, second, 1) and size <= MOST:
                source = _host_port(batch.sender(slot))
                reply = respond(batch.memory[at : at + size].tobytes(), source, place, surplus=self._surplus)
                if reply is None:
                    counts.ignored += 1
                elif reply.origin == place.here and reply.to == source:
                    batch.memory[at : at + len(reply.data)] = reply.data
                    batch.lengths[vector] = len(reply.data)
                    first = slot if first < 0 else first
                    continue
                else:
                    self._send(reply.origin, reply.data, reply.to)
            elif size > MOST:
                counts.ignored += 1
            else:
                counts.limited += 1
            if first >= 0:
                self._flush(first, slot)
                first = -1
        if first >= 0:
            self._flush(first, count)
        return count

    def _flush(self, first: int, end: int) -> None:
        unsent = self._batch.send(self._sock.fileno(), first, end - first)
        self._counts.unsent += unsent
        self._counts.answered += end - first - unsent

    def _send(self, origin: HostPort, data: bytes, to: HostPort) -> None:
        try:
            self._sockets[origin].sendto(data, to)
            self._counts.answered += 1
        except OSError:
            self._counts.unsent += 1


def _places(hosts: Sequence[str], ports: Sequence[int], public: Mapping[str, str]) -> list[tuple[str, Place]]:
    """Each socket's address, and its place as clients know it.  Raises ``Misuse``."""
    if not 1 <= len(set(ports)) == len(ports) <= 2 or not all(0 < port < 65536 for port in ports):
        raise Misuse("a STUN server has one port, or two")
    families = [[host for host in hosts if (":" in host) is v6] for v6 in (False, True)]
    if not hosts or any(len(set(family)) != len(family) or len(family) > 2 for family in families):
        raise Misuse("a STUN server has one address of a family, or two")
    if any(host in _WILDCARDS for host in hosts):
        raise Misuse("a STUN server must know its addresses, since it tells them")
    found = []
    for family in families:
        for host, port in product(family, ports):
            other = next((each for each in family if each != host), "")
            place = Place(
                here=HostPort(public.get(host, host), port),
                other_host=public.get(other, other),
                other_port=next((each for each in ports if each != port), 0),
            )
            found.append((host, place))
    if len({place.here for _, place in found}) < len(found):
        raise Misuse("a STUN server's addresses are known by different ones")
    return found


def _host_port(sockaddr: bytes) -> HostPort:
    """Of a ``sockaddr_in`` or ``sockaddr_in6``."""
    family, packed = (socket.AF_INET6, sockaddr[8:24]) if len(sockaddr) >= 28 else (socket.AF_INET, sockaddr[4:8])
    return HostPort(socket.inet_ntop(family, packed), _PORT.unpack_from(sockaddr, 2)[0])
