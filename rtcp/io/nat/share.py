"""One UDP port, and all who use it beside the pipes: whoever asks by STUN, punches, or goes by a relay.

They share the port because a NAT's mapping is one port's: what was observed and opened with it serves what travels over
it later.  Each is told only what is for it, and nobody sees the rest: an answer of STUN who asked with that transaction
(RFC 8489 section 6), a probe the attempt it names, what a relay says the session it names.  What is for nobody is
dropped, and costs a look into a table.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import trio

from rtcp.io.udp.endpoint import UdpEndpoint
from rtcp.nat.probe import attempt_of
from rtcp.nat.relaywire import CONTROL, DATA, HEADER_SIZE
from rtcp.nat.stun import is_stun
from rtcp.party import Address

Take = Callable[[bytes, Address], None]
"""Is given a datagram and where it came from."""

_MOST_WAITING: Final = 64
_MOST_ASKED: Final = 256
_TRANSACTION: Final = slice(8, 20)


class Share:
    """Of the port of ``endpoint``, whose ``on_stranger`` it becomes."""

    def __init__(self, endpoint: UdpEndpoint) -> None:
        self._endpoint = endpoint
        self._asked: OrderedDict[bytes, Take] = OrderedDict()
        self._attempts: dict[bytes, Take] = {}
        self._sessions: dict[bytes, Take] = {}
        endpoint.on_stranger = self._hear

    @property
    def addresses(self) -> list[Address]:
        """Where the port is bound, for each family."""
        return self._endpoint.addresses

    def send(self, data: bytes, to: Address, ttl: int | None = None) -> None:
        """A datagram; what cannot be sent is lost."""
        self._endpoint.send(data, to, ttl)

    @contextmanager
    def part(self, attempt: bytes | None = None) -> Iterator[Part]:
        """For whoever asks by STUN, and, with ``attempt``, punches (``rtcp.nat.probe.attempt_of``)."""
        made = Part(self)
        if attempt is not None:
            self._attempts[attempt] = made.take
        try:
            yield made
        finally:
            if attempt is not None:
                del self._attempts[attempt]
            for transaction in [one for one, take in self._asked.items() if take == made.take]:
                del self._asked[transaction]

    @contextmanager
    def probes(self, attempt: bytes, take: Take) -> Iterator[None]:
        """Until the end ``take`` is given the probes of ``attempt``."""
        self._attempts[attempt] = take
        try:
            yield
        finally:
            del self._attempts[attempt]

    @contextmanager
    def session(self, relay_id: bytes, take: Take) -> Iterator[None]:
        """Until the end ``take`` is given what a relay says of the session ``relay_id``."""
        self._sessions[relay_id] = take
        try:
            yield
        finally:
            del self._sessions[relay_id]

    def asked(self, request: bytes, take: Take) -> None:
        """``request``, of STUN, is on the way; the answer is for ``take``, if it comes before many others are asked."""
        self._asked[request[_TRANSACTION]] = take
        self._asked.move_to_end(request[_TRANSACTION])
        if len(self._asked) > _MOST_ASKED:
            self._asked.popitem(last=False)

    def _hear(self, datagram: bytes, source: Address) -> None:
        if datagram[0] in (DATA, CONTROL):
            take = self._sessions.get(datagram[1:HEADER_SIZE])
        elif (attempt := attempt_of(datagram)) is not None:
            take = self._attempts.get(attempt)
        elif is_stun(datagram):
            take = self._asked.get(datagram[_TRANSACTION])
        else:
            return
        if take is not None:
            take(datagram, source)


class Part:
    """What one user has of it (``rtcp.io.nat.punch.Datagrams``)."""

    def __init__(self, share: Share) -> None:
        self._share = share
        self._in, self._out = trio.open_memory_channel[tuple[bytes, Address]](_MOST_WAITING)

    @property
    def addresses(self) -> list[Address]:
        """Where the port is bound, for each family."""
        return self._share.addresses

    async def send(self, data: bytes, to: Address, ttl: int | None) -> None:
        """A datagram; ``ttl`` None: the usual one.  Nothing is raised for what cannot be sent."""
        await trio.lowlevel.checkpoint()
        if is_stun(data):
            self._share.asked(data, self.take)
        self._share.send(data, to, ttl)

    async def receive(self) -> tuple[bytes, Address]:
        """The next datagram, and where it came from."""
        return await self._out.receive()

    def take(self, datagram: bytes, source: Address) -> None:
        """A datagram for it came; lost when too many wait."""
        try:
            self._in.send_nowait((datagram, source))
        except trio.WouldBlock:
            return
