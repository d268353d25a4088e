"""A stream that begins with one line of an answer, which whoever asked did not wait for.

What is sent goes out at once, behind the question; the answer is looked at when the first bytes come back.  So a way
through a stranger's machine costs no round trip more than the machine itself does, and a no is an ``OSError`` that says
why, at the place where a broken connection would be one.
"""

from __future__ import annotations

from collections.abc import Callable

from cyfs_ns.errors import CyfsError
from rtcp.io.pipe import break_off, carries_sealed, check_fault
from tunnels.endpoint import Endpoint

_AT_ONCE = 4096


class Answered:
    """``inner`` without its first line, at most ``most`` bytes long, which goes to ``judge``: what that raises says no.

    ``inner`` is taken over.
    """

    __slots__ = ("_early", "_inner", "_judge", "_most", "fileno", "flush", "send", "shutdown_write", "unsent")

    def __init__(self, inner: Endpoint, judge: Callable[[bytes], object], most: int) -> None:
        self._inner, self._most = inner, most
        self._judge: Callable[[bytes], object] | None = judge
        self._early = b""
        self.fileno = inner.fileno
        self.send = inner.send
        self.unsent = inner.unsent
        self.flush = inner.flush
        self.shutdown_write = inner.shutdown_write

    def recv_into(self, buffer: memoryview, /) -> int:
        while self._judge is not None:
            self._hear(self._judge)
        if not self._early:
            return self._inner.recv_into(buffer)
        n = min(len(buffer), len(self._early))
        buffer[:n] = self._early[:n]
        self._early = self._early[n:]
        return n

    def _hear(self, judge: Callable[[bytes], object]) -> None:
        """Some more of the answer.  Raises ``OSError``."""
        room = bytearray(min(_AT_ONCE, self._most + 1 - len(self._early)))
        n = self._inner.recv_into(memoryview(room))
        if not n:
            raise ConnectionResetError("the stream ended before it was answered")
        said, line_end, rest = (self._early + bytes(room[:n])).partition(b"\n")
        self._early = said
        if line_end:
            try:
                judge(said)
            except CyfsError as no:
                raise ConnectionRefusedError(str(no)) from no
            self._judge, self._early = None, rest
        elif len(said) > self._most:
            raise ConnectionResetError("what came is no answer")

    def pending(self) -> bool:
        return self._inner.pending() or (self._judge is None and bool(self._early))

    def check(self) -> None:
        """As of :func:`check_fault`."""
        check_fault(self._inner)

    def carries_sealed(self) -> None:
        carries_sealed(self._inner)

    def break_off(self) -> None:
        break_off(self._inner)

    def close(self) -> None:
        self._inner.close()
