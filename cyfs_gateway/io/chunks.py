"""A stream between a command and the gateway, over their control connection: chunks that end with a last word.

A unix socket cannot tell a stream that was finished from one that broke, since the kernel says the same of both.  So
each direction is a row of chunks, ``length:u32`` (big-endian, ``MOST_CHUNK`` at most) and as many bytes, and a length
of zero is its end.  A connection that is closed without that was cut off, and what came is not all there was.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from tunnels.io.waiting import TcpEndpoint

STREAM: Final = "cyfs-stream"
"""The protocol that a control connection is upgraded to, to become such a stream."""
ARRIVALS: Final = "cyfs-arrivals"
"""The one by which streams of peers are announced, a JSON object a line."""
MOST_CHUNK: Final = 256 * 1024

_END: Final = bytes(4)


class Chunked:
    """An endpoint over ``lower``, a unix or TCP socket that is taken over."""

    __slots__ = ("_ended", "_fault", "_finished", "_head", "_left", "_lower", "_owed", "fileno")

    def __init__(self, lower: TcpEndpoint) -> None:
        self._lower = lower
        self._head = b""
        self._left = 0
        self._owed = memoryview(b"")
        self._ended = self._finished = False
        self._fault: OSError | None = None
        self.fileno = lower.fileno

    def recv_into(self, buffer: memoryview, /) -> int:
        if self._fault is not None:
            raise self._fault
        if self._ended:
            return 0
        try:
            if not self._left and not self._begin():
                self._ended = True
                return 0
            n = self._lower.recv_into(buffer[: self._left])
            if not n:
                raise ConnectionResetError("the stream broke off")
        except BlockingIOError:
            raise
        except OSError as fault:
            self._fault = fault
            raise
        self._left -= n
        return n

    def _begin(self) -> bool:
        """Read the length of the next chunk; False: there is none."""
        while len(self._head) < len(_END):
            data = self._lower.recv(len(_END) - len(self._head))
            if not data:
                raise ConnectionResetError("the stream broke off")
            self._head += data
        self._left, self._head = int.from_bytes(self._head, "big"), b""
        if self._left > MOST_CHUNK:
            raise ConnectionAbortedError(f"a chunk of {self._left} bytes")
        return self._left > 0

    def send(self, data: bytes | memoryview, /) -> int:
        if self._finished:
            raise BrokenPipeError("this side has finished sending")
        if self._owed:
            self.flush()
        chunk = memoryview(data)[:MOST_CHUNK]
        if not chunk:
            return 0
        head = len(chunk).to_bytes(4, "big")
        sent = self._lower.sendmsg([head, chunk])
        if sent < len(head) + len(chunk):
            self._owed = memoryview(head[sent:] + bytes(chunk[max(0, sent - len(head)) :]))
        return len(chunk)

    def pending(self) -> bool:
        return False

    def unsent(self) -> bool:
        return bool(self._owed)

    def flush(self) -> None:
        while self._owed:
            self._owed = self._owed[self._lower.send(self._owed) :]

    def shutdown_write(self) -> None:
        if not self._finished:
            self._finished = True
            self._owed = memoryview(bytes(self._owed) + _END)
            with suppress(BlockingIOError):
                self.flush()

    def close(self) -> None:
        self._owed = memoryview(b"")
        self._lower.close()
