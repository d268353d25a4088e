"""What a way looks like once it is open: an *endpoint*, the non-blocking half that the reactor moves.

A TCP socket is an endpoint as it is; TLS and record layers wrap one.  An endpoint never sleeps and never awaits: a call
does what can be done now and raises ``BlockingIOError`` when nothing can.  Whoever waits (the reactor, or a trio task
during a handshake) waits on ``fileno()``.  Rules that every implementation keeps (``tests/tunnels/exam.py``):

* ``recv_into`` returns 0 once, and for ever after, when the peer has finished sending;
* ``send`` takes a prefix of the data and returns its length (>= 1), or raises ``BlockingIOError``; what it took is the
  endpoint's duty to deliver, even from a buffer of its own (then ``unsent()`` is true and ``flush`` pushes on);
* ``pending()`` is true while bytes can be read without the descriptor becoming readable (decrypted but not fetched);
* ``shutdown_write`` half-closes; reading goes on;  ``close`` may be called twice;
* faults of the wire are ``OSError`` (``ssl.SSLError`` is one) and leave the endpoint fit only for ``close``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class Target:
    """Where a flow wants to go: a lower-case name without trailing dot or a bare IP literal, and a port 0-65535."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Endpoint(Protocol):
    """One open byte stream, non-blocking.  See the module's text for the rules."""

    def fileno(self) -> int: ...
    def recv_into(self, buffer: memoryview, /) -> int: ...
    def send(self, data: bytes | memoryview, /) -> int: ...
    def pending(self) -> bool: ...
    def unsent(self) -> bool: ...
    def flush(self) -> None: ...
    def shutdown_write(self) -> None: ...
    def close(self) -> None: ...


@runtime_checkable
class Breakable(Protocol):
    """An endpoint whose end looks like any other when it is closed.  TLS is none: a cut stream lacks its last word."""

    def break_off(self) -> None:
        """Called before ``close``: what the peer has got is not all there was, and it must not look so."""


class PacketEndpoint(Protocol):
    """Datagrams to and from many peers, non-blocking, one descriptor to wait on.

    ``recv`` returns one datagram with its source, or raises ``BlockingIOError``.  ``send`` either sends, or drops
    (UDP's right), or raises ``OSError`` when the way is gone for good.
    """

    def fileno(self) -> int: ...
    def recv(self) -> tuple[bytes, Target]: ...
    def send(self, data: bytes | memoryview, to: Target) -> None: ...
    def close(self) -> None: ...
