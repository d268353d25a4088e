"""STUN at the port of the UDP relay: questions that begin with 0 to 3 (RFC 7983) are answered at once and forgotten.

No answer is larger than its question, and no network gets more than so many a second, so this is nobody's megaphone.

The port with the next number answers, too, and nothing else is there: by two ports a client sees whether its NAT gives
each destination another one, and lets in what comes from where nobody asked.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from ipaddress import ip_address
from typing import Final

import trio

from cyfs_gateway.io.sn.relaydoor import Origin
from cyfs_ns.io.datagrams import open_udp
from cyfs_ns.ratelimit import RateLimit
from rtcp.io.nat.stunserver import PER_SECOND, StunCounts
from rtcp.nat.stun import MOST, HostPort, Place, Reply, respond

FIRST_OCTETS: Final = range(4)
_TURN: Final = 64
"""Questions at the second port, after which others should get their turn."""

_log = logging.getLogger("cyfs.sn")


class StunPort:
    """``addresses`` are those by which clients know this machine, the first of a family counts; ``port`` is the port.

    For :meth:`cyfs_gateway.io.sn.udprelay.UdpRelay.take_over`.
    """

    def __init__(self, addresses: Sequence[str], port: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.counts = StunCounts()
        self._clock, self._port = clock, port
        self._limit = RateLimit(PER_SECOND, slip=0)
        self._addresses = {":" in address: address for address in reversed(addresses)}
        self._second: dict[bool, socket.socket] = {}
        """Bound to the next port; by whether it is IPv6."""

    def __call__(self, untrusted: bytes, origin: Origin) -> bytes | None:
        """The answer, if there is one to be sent from where the question came to."""
        source = HostPort(*origin.address)
        second = self._second.get(":" in source.host)
        reply = self._answer(untrusted, source, self._port, self._port + 1 if second is not None else 0)
        if reply is None:
            return None
        if reply.origin.port == self._port:
            return reply.data
        if second is not None:
            with suppress(OSError):
                second.sendto(reply.data, reply.to)
        return None

    async def run(self, hosts: Sequence[str]) -> None:
        """Answer at the next port of ``hosts``, too, until cancelled; where it cannot be had, that is told."""
        with ExitStack() as bound:
            for host in hosts:
                try:
                    self._second[":" in host] = bound.enter_context(open_udp(host, self._port + 1))
                except (OSError, OverflowError) as fault:
                    _log.warning("STUN has no second port at %s, so NATs are judged worse: %s", host, fault)
            bound.callback(self._second.clear)
            async with trio.open_nursery() as nursery:
                for sock in self._second.values():
                    nursery.start_soon(self._serve, sock)
                await trio.sleep_forever()

    async def _serve(self, sock: socket.socket) -> None:
        while True:
            await trio.lowlevel.wait_readable(sock)
            with suppress(OSError):  # empty, or what somebody's ICMP reports
                for _ in range(_TURN):
                    untrusted, address = sock.recvfrom(MOST + 1)
                    reply = self._answer(untrusted, HostPort(*address[:2]), self._port + 1, 0)
                    if reply is not None:
                        sock.sendto(reply.data, reply.to)

    def _answer(self, untrusted: bytes, source: HostPort, port: int, other_port: int) -> Reply | None:
        asker = ip_address(source.host)
        address = self._addresses.get(asker.version == 6)
        if not self._limit.lease(asker.packed, int(self._clock()), 1):
            self.counts.limited += 1
            return None
        place = None if address is None else Place(here=HostPort(address, port), other_port=other_port)
        reply = respond(untrusted, source, place) if place is not None and len(untrusted) <= MOST else None
        if reply is None or reply.to != source:
            self.counts.ignored += 1
            return None
        self.counts.answered += 1
        return reply
