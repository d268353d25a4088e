"""The bare leg of a stream: a connection of its own, on which its bytes travel as they are (§8.8 of the document).

How many bytes went over it is said on control, sealed, and nothing else ends them: what is cut off, or added, is found
out.  What they are is for those who sealed them.

The reactor hears the connection, and tells whoever watches the stream.  Who is told and does not read is busy: then the
connection is not watched for input until the stream is read again, and its descriptor is readable meanwhile.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

import trio

from rtcp.io.pipe import Reactor, TcpPipe, break_off, hear_out
from rtcp.io.readiness import Readiness

_IN: Final = select.EPOLLIN | select.EPOLLRDHUP
_OUT: Final = select.EPOLLOUT
_QUIET, _LINGER = 10.0, 30.0
"""Seconds without a byte, or at most, for which a peer that was told to stop is heard out."""
_BUSY_EVERY: Final = 1.0
_KEEPALIVE: Final = ((socket.TCP_KEEPIDLE, 25), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3))
"""A connection that died in silence is found out by the kernel of who receives, as nothing here asks: s, s, how often.
No time for what was sent: who is slowed down, or looks at a film that is paused, may take long."""


class Owner(Protocol):
    """The stream."""

    def bare_complete(self) -> None:
        """All that the peer had to say over it was read."""

    def bare_cut(self) -> None:
        """It ended, and the peer has not said so on control yet."""

    def bare_moved(self) -> None:
        """Bytes go over it, of which the tunnel sees nothing."""


class BareLeg:
    """``pipe``, which is taken over, for the stream that ``ready`` stands for."""

    __slots__ = (
        "_announced_until",
        "_clock",
        "_ends_at",
        "_events",
        "_fd",
        "_is_cut",
        "_is_idle",
        "_is_paused",
        "_is_watched",
        "_owner",
        "_pipe",
        "_reactor",
        "_ready",
        "got",
        "is_stopped",
        "receives",
        "sends",
        "sent",
    )

    def __init__(
        self, pipe: TcpPipe, ready: Readiness, owner: Owner, reactor: Reactor, clock: Callable[[], float]
    ) -> None:
        self._pipe, self._ready, self._owner, self._reactor, self._clock = pipe, ready, owner, reactor, clock
        self._fd = pipe.fileno()
        self.sent = self.got = 0
        self.sends = self.receives = False
        """Whether a direction of the stream has come here."""
        self._ends_at: int | None = None
        self._events = 0
        self._is_watched = self._is_paused = self._is_cut = self._is_idle = False
        self.is_stopped = False
        """The peer wants no more."""
        self._announced_until = 0.0
        with suppress(OSError):  # it is no connection by TCP, or over already, which shows
            pipe.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _KEEPALIVE:
                pipe.setsockopt(socket.IPPROTO_TCP, option, value)

    @property
    def is_paused(self) -> bool:
        """Whether there is something to read that was announced, and is not announced again."""
        return self._is_paused

    # What the stream does

    def begin_receiving(self) -> None:
        self.receives = True
        self._want(self._events | _IN)

    def recv_into(self, buffer: memoryview, /) -> int:
        """Raises ``OSError`` where it is cut, or more comes than was sent."""
        self._is_idle = False
        try:
            n = self._pipe.recv_into(buffer)
        finally:
            self.resume()
        return self._came(n)

    def lend(self, most: int, /) -> bytes:
        """As ``recv_into``."""
        self._is_idle = False
        try:
            data = self._pipe.recv(most)
        finally:
            self.resume()
        self._came(len(data))
        return data

    def _came(self, n: int) -> int:
        if not n:
            if self._ends_at is not None:
                raise ConnectionAbortedError("the leg was cut")
            self._is_cut = True
            self._want(0)
            self._owner.bare_cut()
            raise BlockingIOError
        self.got += n
        self._busy()
        if self._ends_at is not None:
            self._judge(self._ends_at)
        return n

    def ends_at(self, total: int) -> None:
        """The peer says how many bytes there are.  Raises ``OSError`` if that cannot be."""
        self._ends_at = total
        self._judge(total)
        if self._is_cut and self.got < total:
            raise ConnectionAbortedError("the leg was cut")

    def _judge(self, total: int) -> None:
        if self.got > total:
            raise ConnectionAbortedError("more came over the leg than was sent")
        if self.got == total:
            self._want(self._events & ~_IN)
            self._owner.bare_complete()

    def send(self, data: bytes | memoryview, /) -> int:
        if self.is_stopped:
            return len(data)
        try:
            n = self._pipe.send(data)
        except BlockingIOError:
            self._wait_for_room()
            raise
        self.sent += n
        self._busy()
        if n < len(data):
            self._wait_for_room()
        return n

    def _wait_for_room(self) -> None:
        self._ready.set_writable(False)
        self._want(self._events | _OUT)

    def _busy(self) -> None:
        now = self._clock()
        if now >= self._announced_until:
            self._announced_until = now + _BUSY_EVERY
            self._owner.bare_moved()

    def resume(self) -> None:
        """Its reader is back."""
        if self._is_paused:
            self._is_paused = False
            self._ready.set_readable(False)
            self._want(self._events | _IN)

    def close(self, nursery: trio.Nursery, *, done: bool) -> None:
        """What was sent arrives; unless all was said on both sides (``done``), the peer has a moment to stop."""
        self._forget()
        if done or not (self.sends or self.receives):
            self._pipe.close()
        else:
            nursery.start_soon(self._part)

    async def _part(self) -> None:
        # Who closes upon bytes that nobody read calls back what was sent; and a slow way brings them for long.
        try:
            with trio.move_on_after(_LINGER), suppress(OSError):
                await hear_out(self._pipe, _QUIET)
        finally:
            self._pipe.close()

    def break_off(self) -> None:
        """At once, and for nothing of what is under way."""
        self._forget()
        break_off(self._pipe)
        self._pipe.close()

    # What the reactor tells

    def _on_events(self, events: int) -> None:
        if events & _OUT:
            self._want(self._events & ~_OUT)
            self._ready.set_writable(True)
        if not events & ~_OUT:
            return
        if not self._events & _IN:
            if events & ~(_IN | _OUT):  # it hung up, which would be told for ever
                self._forget()
                self._ready.set_writable(True)
            return
        self._is_idle = True
        self._reactor.prompt(self._ready.fileno(), select.EPOLLIN)
        if self._is_idle and self._is_watched:
            self._is_paused = True
            self._want(self._events & ~_IN)
            self._ready.set_readable(True)

    def _want(self, events: int) -> None:
        if events == self._events and self._is_watched:
            return
        self._events = events
        if self._is_watched:
            self._reactor.rewatch(self._fd, events)
        elif events:
            self._is_watched = True
            self._reactor.watch(self._fd, events, self._on_events)

    def _forget(self) -> None:
        if self._is_watched:
            self._is_watched = False
            self._events = 0
            self._reactor.forget(self._fd)
