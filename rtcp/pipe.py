"""What bytes travel over: a *pipe*, any reliable byte stream, seen as its non-blocking half that the reactor moves.

A TCP socket is a pipe as it is; TLS, a proxy's connection and the streams of tunnels wrap one.  One floor up pipes are
called endpoints.  A pipe never sleeps and never awaits: a call does what can be done now, or raises ``BlockingIOError``
when nothing can.  Whoever waits (the reactor, or a trio task during a handshake) waits on ``fileno()``.  Rules that
every pipe keeps (``tests/tunnels/exam.py``):

* ``recv_into`` returns 0 once, and for ever after, when the peer has finished sending;
* ``send`` takes a prefix of the data and returns its length (>= 1), or raises ``BlockingIOError``; what it took is the
  pipe's duty to deliver, even from a buffer of its own (then ``unsent()`` is true and ``flush`` pushes on);
* ``pending()`` is true while bytes can be read without the descriptor becoming readable (decrypted but not fetched);
* ``shutdown_write`` half-closes; reading goes on;  ``close`` may be called twice;
* faults of the wire are ``OSError`` (``ssl.SSLError`` is one) and leave the pipe fit only for ``close``.
"""

from __future__ import annotations

from typing import Protocol


class Pipe(Protocol):
    """One open byte stream, non-blocking.  See the module's text for the rules."""

    def fileno(self) -> int: ...
    def recv_into(self, buffer: memoryview, /) -> int: ...
    def send(self, data: bytes | memoryview, /) -> int: ...
    def pending(self) -> bool: ...
    def unsent(self) -> bool: ...
    def flush(self) -> None: ...
    def shutdown_write(self) -> None: ...
    def close(self) -> None: ...
