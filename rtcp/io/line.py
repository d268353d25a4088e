"""One carrier in the world: the pipe its records travel on, moved by the reactor.

A line owns no buffer but for what its pipe did not take.  All lines read into one buffer that is shared, since nobody
awaits between filling and emptying it.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import trio

from rtcp.io.pipe import Pipe, Reactor, hear_out
from rtcp.v5.carrier import RecordLayer
from rtcp.v5.tunnel import TURN

_READABLE: Final = select.EPOLLIN | select.EPOLLRDHUP
_WRITABLE: Final = select.EPOLLOUT
_READ_SIZE: Final = 256 << 10
_READS: Final = 2
"""Full reads in one turn, so that one line does not keep the others waiting."""
_UNSENT, _UNSENT_ON_LEG = 128 << 10, 1 << 20
"""Bytes that may wait in the kernel: few on control, so that what is urgent goes first, and enough on legs."""
_LEG_PORTION: Final = 512 << 10
_LINGER: Final = 2.0
_TCP_NOTSENT_LOWAT: Final = 25

_scratch = memoryview(bytearray(_READ_SIZE))


class Line:
    """``carrier`` over ``pipe``, which is taken over.

    ``hear(line, bytes)`` is called with what came, empty when the pipe has ended; the bytes are gone after the call.
    ``heard()`` follows once for all that happened in one go.
    """

    __slots__ = (
        "_closed",
        "_fd",
        "_hear",
        "_heard",
        "_interest",
        "_is_raw",
        "_owed",
        "_pipe",
        "_reactor",
        "carrier",
        "heard_at",
        "portion",
    )

    def __init__(
        self,
        carrier: RecordLayer,
        pipe: Pipe,
        reactor: Reactor,
        hear: Callable[[Line, bytes | memoryview], None],
        heard: Callable[[], None],
        *,
        leg: bool,
    ) -> None:
        self.carrier = carrier
        self.heard_at = float("-inf")
        """When the peer gave its last sign of life here, in trio's time."""
        self.portion = _LEG_PORTION if leg else TURN
        """How many bytes are put into records at once."""
        self._pipe, self._reactor, self._hear, self._heard = pipe, reactor, hear, heard
        self._is_raw = isinstance(pipe, socket.SocketType)
        self._fd = pipe.fileno()
        self._owed: list[memoryview] = []
        self._interest = _READABLE
        self._closed = False
        if isinstance(pipe, socket.SocketType):
            with suppress(OSError):  # no TCP
                pipe.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, _UNSENT_ON_LEG if leg else _UNSENT)
        reactor.watch(self._fd, _READABLE, self._on_events)
        if pipe.pending():
            reactor.soon(self._again)

    @property
    def pipe(self) -> Pipe:
        return self._pipe

    @property
    def is_clogged(self) -> bool:
        """Whether the pipe takes nothing more for now."""
        return bool(self._owed)

    def send(self, records: Sequence[bytes | bytearray | memoryview]) -> None:
        """Send ``records``, or keep what the pipe does not take.  A pipe that broke tells so when it is read."""
        if self._closed:
            return
        if self._is_raw and len(records) == 1 and not self._owed:
            try:
                sent = self._pipe.send(records[0])  # type: ignore[arg-type]
            except OSError:
                sent = 0
            if sent == len(records[0]):
                return
            self._owed.append(memoryview(records[0])[sent:])
        else:
            self._owed += map(memoryview, records)
        self._push()

    def close(self, last: bytes = b"", nursery: trio.Nursery | None = None) -> None:
        """End it.  With ``last`` words, these are sent first, and their receiver has a moment for them in ``nursery``,
        since closing upon unread bytes would call them back."""
        if self._closed:
            return
        if last:
            self.send([last])
        self._closed = True
        self._reactor.forget(self._fd)
        if last and nursery is not None:
            nursery.start_soon(self._linger)
        else:
            self._owed.clear()
            self._pipe.close()

    def release(self, last: bytes) -> Pipe | None:
        """Send ``last``, then let go of the pipe; None: it does not even take that, and is closed."""
        if last:
            self.send([last])
        if self.is_clogged:
            self.close()
            return None
        self._closed = True
        self._reactor.forget(self._fd)
        return self._pipe

    async def _linger(self) -> None:
        pipe = self._pipe
        try:
            with trio.move_on_after(_LINGER), suppress(OSError):
                while self._owed or pipe.unsent():
                    try:
                        self._write()
                    except BlockingIOError:
                        await trio.lowlevel.wait_writable(self._fd)
                await hear_out(pipe)
        finally:
            self._owed.clear()
            pipe.close()

    def _on_events(self, events: int) -> None:
        if events & _WRITABLE:
            self._push()
        if events & ~_WRITABLE:
            self._read()
        self._heard()

    def _again(self) -> None:
        if not self._closed:
            self._read()
            self._heard()

    def _read(self) -> None:
        for _ in range(_READS):
            if self._closed:
                return
            try:
                n = self._pipe.recv_into(_scratch)
            except BlockingIOError:
                return
            except OSError:
                n = 0
            if not n:
                self._hear(self, b"")
                return
            self._hear(self, _scratch[:n])
            if n < _READ_SIZE:
                break
        if not self._closed and self._pipe.pending():
            self._reactor.soon(self._again)

    def _push(self) -> None:
        try:
            self._write()
        except BlockingIOError:
            pass
        except OSError:
            self._owed.clear()
        self._want(_READABLE | (_WRITABLE if self._owed or self._pipe.unsent() else 0))

    def _write(self) -> None:
        """Raises ``BlockingIOError`` when the pipe takes no more."""
        pipe, owed = self._pipe, self._owed
        while owed:
            if isinstance(pipe, socket.SocketType) and len(owed) > 1:  # noqa: SIM108 - the check types the call
                sent = pipe.sendmsg(owed)
            else:
                sent = pipe.send(owed[0])
            done = 0
            for view in owed:
                if sent < len(view):
                    owed[done] = view[sent:]
                    break
                sent -= len(view)
                done += 1
            del owed[:done]
        if pipe.unsent():
            pipe.flush()

    def _want(self, events: int) -> None:
        if events != self._interest and not self._closed:
            self._interest = events
            self._reactor.rewatch(self._fd, events)
