"""Pipes that are called to where the peer may be before anybody knows that it is there.

A pipe over UDP begins with a round trip of its own, the handshake on it with another, and so does punching; done one
after the other the later ones only repeat what the first has proved.  So the likeliest places are called, and greeted,
the moment they are punched for: the packets cross the same NATs at the same time.  One of them is entered at once, with
an invite that came with the peer's answer.  What is called so says nothing of us, and only a place that answered the
punching is gone to.

A call is a packet that a stranger's word may send, so it is paid for like a probe (``rtcp.nat.budget``).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from ipaddress import ip_address
from typing import Final

import trio

from cyfs_ns.errors import Unreachable
from cyfs_ns.purposes import is_public
from rtcp.io.nat.ground import Ground
from rtcp.io.udp.endpoint import Ticket
from rtcp.io.udp.pipe import UdpPipe
from rtcp.party import Address
from rtcp.v5.calling import Call

_MOST: Final = 3
"""Places that are called ahead."""


class Ahead:
    """Calls to the device with the Ed25519 key ``key``, in which it is greeted by ``greet`` (``calling.greet``); what
    nobody has taken by ``close`` is given up."""

    def __init__(self, ground: Ground, key: bytes, greet: Callable[[UdpPipe], Awaitable[Call]]) -> None:
        self._ground, self._key, self._greet = ground, key, greet
        self._calls: dict[Address, _Call] = {}

    def call(self, places: Sequence[Address], ticket: Ticket | None = None) -> None:
        """Begin, at the first of ``places``; with a ``ticket`` at the first to which we come from where it is for."""
        ground, now = self._ground, trio.current_time()
        for place in places[:_MOST]:
            if ground.budget.spend(place[0], now):
                mine, ticket = (ticket, None) if may_have_ticket(place) else (None, ticket)
                self._calls[place] = self._begin(_Call(), place, mine)

    async def connect(self, place: Address) -> UdpPipe:
        """A pipe to where the peer was met, on which it is greeted; one that was called ahead serves once.

        Raises ``Unreachable``.
        """
        call = self._calls.pop(place, None) or _Call()
        if call.pipe is None:  # what was called ahead may have come before the NAT was open
            self._begin(call, place)
        try:
            await call.answered.wait()
        except BaseException:
            call.give_up()
            raise
        if call.pipe is None:
            raise Unreachable(call.why, "connect_timeout")
        return call.pipe

    def close(self) -> None:
        """Give up what nobody has taken."""
        for call in self._calls.values():
            call.give_up()
        self._calls.clear()

    def _begin(self, call: _Call, place: Address, ticket: Ticket | None = None) -> _Call:
        scope = trio.CancelScope()
        call.under_way.append(scope)
        self._ground.nursery.start_soon(self._go, call, place, ticket, scope)
        return call

    async def _go(self, call: _Call, place: Address, ticket: Ticket | None, scope: trio.CancelScope) -> None:
        try:
            with scope:
                pipe = await self._ground.endpoint.connect(place, self._key, ticket)
                try:
                    pipe.greeted = await self._greet(pipe)
                except BaseException:
                    _drop(pipe)
                    raise
                if call.pipe is None and call.is_wanted:
                    call.pipe = pipe
                else:
                    _drop(pipe)
        except Unreachable as fault:
            call.why = str(fault)
        call.under_way.remove(scope)
        if call.pipe is not None or not call.under_way:
            call.answered.set()
            for other in call.under_way:
                other.cancel()


def may_have_ticket(place: Address) -> bool:
    """Whether a ticket may be good there, or for who comes from there: it is for one address, that outside of a NAT."""
    address = ip_address(place[0])
    return address.version == 4 and is_public(address)


class _Call:
    """One place, called once or twice: the first pipe counts."""

    def __init__(self) -> None:
        self.answered = trio.Event()
        self.under_way: list[trio.CancelScope] = []
        self.pipe: UdpPipe | None = None
        self.is_wanted = True
        self.why = "nobody wants it any more"

    def give_up(self) -> None:
        """Nobody takes the pipe, if there will be one."""
        self.is_wanted = False
        for scope in self.under_way:
            scope.cancel()
        if self.pipe is not None:
            _drop(self.pipe)


def _drop(pipe: UdpPipe) -> None:
    pipe.machine.close()
    pipe.close()
