"""A pipe over UDP as all others are (``rtcp/pipe.py``): its bytes share a socket with those of other pipes.

It has a descriptor to wait on that is ready when we say so.  Of what arrived the reactor is told without it; it is made
readable only for what is left, as with the streams of tunnels (``rtcp/io/conversation.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from select import EPOLLERR, EPOLLIN, EPOLLOUT
from typing import Final, Protocol

import trio

from rtcp.io.pipe import Reactor
from rtcp.io.readiness import Readiness
from rtcp.party import Address
from rtcp.udp.connection import Connection, Stage
from rtcp.v5.calling import Call

_ROOM_AGAIN: Final = 64 << 10


def _nobody() -> None:
    """Nobody waits for a sign of life."""


class Owner(Protocol):
    """What sends for a pipe."""

    def pump(self, pipe: UdpPipe, /) -> None: ...


class UdpPipe:
    """``machine`` as a pipe; ``owner`` moves its datagrams.  Raises ``OSError`` when there are no more descriptors."""

    __slots__ = (
        "_answered",
        "_asked_at",
        "_closed",
        "_finished",
        "_is_due",
        "_is_full",
        "_owner",
        "_reactor",
        "_ready",
        "_told",
        "alarms",
        "fileno",
        "greeted",
        "machine",
        "on_news",
    )

    def __init__(self, machine: Connection, owner: Owner, reactor: Reactor) -> None:
        self.machine = machine
        self.on_news: Callable[[], None] | None = None
        self.greeted: Call | None = None
        """A handshake on it in which the peer has proven itself, and waits for who we are."""
        self.alarms: list[float] = []
        self._owner, self._reactor = owner, reactor
        self._ready = Readiness()
        self.fileno = self._ready.fileno
        self._told = 0
        self._asked_at, self._answered = 0.0, _nobody
        self._closed = self._finished = self._is_due = self._is_full = False

    @property
    def address(self) -> Address:
        """Where the peer is by now."""
        return self.machine.address

    @property
    def round_trip(self) -> float:
        """Seconds to the peer and back."""
        return self.machine.round_trip

    # What is wanted of it

    def recv_into(self, buffer: memoryview, /) -> int:
        machine = self.machine
        got = machine.read_into(buffer, trio.current_time())
        if got:
            if not self._has_news():
                self._ready.set_readable(False)
            self.soon()
            return got
        if machine.is_whole:
            return 0
        if machine.stage is Stage.OVER:
            raise ConnectionResetError(machine.why)
        raise BlockingIOError

    def send(self, data: bytes | memoryview, /) -> int:
        if self._finished:
            raise BrokenPipeError("this side has finished sending")
        if self.machine.stage is Stage.OVER:
            raise ConnectionResetError(self.machine.why)
        taken = self.machine.write(data)
        if taken < len(data):
            self._is_full = True
            self._ready.set_writable(False)
            if not taken:
                raise BlockingIOError
        self.soon()
        return taken

    def pending(self) -> bool:
        return False

    def unsent(self) -> bool:
        return False

    def flush(self) -> None:
        """Its owner does that."""

    def shutdown_write(self) -> None:
        if not self._finished:
            self._finished = True
            self.machine.finish()
            self.soon()

    def close(self) -> None:
        """What was sent is still delivered; what comes is not wanted any more."""
        if not self._closed:
            self._closed, self._answered = True, _nobody
            self.machine.leave(trio.current_time())
            self._ready.close()
            self.soon()

    def try_address(self, address: Address) -> None:
        """Ask whether the peer is there, too; if so, that is where it is from then on."""
        self.machine.try_address(address, trio.current_time())
        self.soon()

    def ask(self, answered: Callable[[], None]) -> None:
        """Ask the peer for a sign of life; ``answered`` is called when there is one, unless somebody asks again."""
        self._asked_at, self._answered = self.machine.heard_at, answered
        self.machine.ping()
        self.soon()

    def network_changed(self) -> None:
        """An address or a route of this machine is another."""
        self.machine.network_changed(trio.current_time())
        self.soon()

    # What its owner tells it

    def soon(self) -> None:
        """There may be something to tell, or to send."""
        if not self._is_due:
            self._is_due = True
            self._reactor.soon(self._turn)

    def ring(self) -> None:
        """A deadline may be due."""
        self.machine.handle_timeout(trio.current_time())
        self.soon()

    def _turn(self) -> None:
        self._announce()
        self._is_due = False
        self._owner.pump(self)

    def _has_news(self) -> bool:
        machine = self.machine
        return bool(machine.readable) or machine.is_whole or machine.stage is Stage.OVER

    def _announce(self) -> None:
        if self.on_news is not None:
            self.on_news()
        machine = self.machine
        if self._answered is not _nobody and machine.heard_at > self._asked_at:
            answered, self._answered = self._answered, _nobody
            answered()
        is_over = machine.stage is Stage.OVER
        if self._is_full and not self._closed and (is_over or machine.room >= _ROOM_AGAIN):
            self._is_full = False
            self._ready.set_writable(True)
        arrived = machine.arrived + is_over + machine.is_whole
        if arrived != self._told and not self._closed:
            self._told = arrived
            self._reactor.prompt(self.fileno(), EPOLLIN | EPOLLERR | EPOLLOUT if is_over else EPOLLIN)
        if not self._closed:
            self._ready.set_readable(self._has_news())
