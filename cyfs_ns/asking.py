"""One connection to a name server, as its client sees it: queries go in, bytes come out; bytes go in, replies come out.

A machine knows no sockets and no clock.  Queries are built with id 0 and replies come back with id 0: what ties them
together on the wire is the machine's own matter (the id here, the stream of HTTP/2, the order of HTTP/1.1).

Here is the plain form of RFC 7766 and RFC 7858: every message behind its length, many outstanding, answered in any
order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Protocol

from cyfs_ns.errors import BadWire, CyfsError

MAX_MESSAGE = 65535
_MAX_STRAYS = 64
_MOST_AT_ONCE = 1024
_HEADER = 12


class Replied(NamedTuple):
    """What became of one query."""

    ticket: int
    reply: bytes | CyfsError
    """The message with id 0, or why there is none; the connection may still serve others."""


class Asking(Protocol):
    """A machine.  After ``BadWire`` from :meth:`receive` the connection is worth nothing."""

    @property
    def room(self) -> int:
        """How many more queries may be put in now; 0 also when the other side wants no more of them at all."""

    @property
    def over(self) -> bool:
        """Nothing more can be asked here, ever; what is outstanding may still be answered."""

    def ask(self, query: bytes) -> int:
        """Put a query in, if there is room; the ticket names it in :class:`Replied`.  Raises ``BadWire`` when it turns
        out that the connection is worth nothing."""

    def forget(self, ticket: int) -> None:
        """Nobody waits for that reply any more."""

    def receive(self, untrusted: bytes) -> list[Replied]: ...

    def data_to_send(self) -> bytes:
        """What is to be written next, and is then no longer kept here; empty: nothing."""


class FramedAsking:
    """Queries over TCP or TLS.  ``chance`` gives 16 random bits.

    ``joined``: several messages may leave in one write.  Over TLS they should not: there are servers that forget what
    else came in the same TLS record.
    """

    def __init__(self, chance: Callable[[], int], *, joined: bool = True) -> None:
        self._chance, self._joined = chance, joined
        self._outstanding: set[int] = set()
        self._in = bytearray()
        self._out: deque[bytes] = deque()
        self._strays = 0
        self.over = False

    @property
    def room(self) -> int:
        return 0 if self.over else _MOST_AT_ONCE - len(self._outstanding)

    def ask(self, query: bytes) -> int:
        ident = self._chance()
        while ident in self._outstanding:
            ident = ident + 1 & 0xFFFF
        self._outstanding.add(ident)
        self._out.append(len(query).to_bytes(2) + ident.to_bytes(2) + query[2:])
        return ident

    def forget(self, ticket: int) -> None:
        """Its id stays taken until the reply has come, or a later question could get the wrong one."""

    def receive(self, untrusted: bytes) -> list[Replied]:
        self._in += untrusted
        buffer, at, found = self._in, 0, []
        while len(buffer) - at >= 2:
            length = buffer[at] << 8 | buffer[at + 1]
            if length < _HEADER:
                self.over = True
                raise BadWire(f"a frame of {length} bytes holds no DNS message")
            ends = at + 2 + length
            if ends > len(buffer):
                break
            ident = buffer[at + 2] << 8 | buffer[at + 3]
            if ident in self._outstanding:
                self._outstanding.discard(ident)
                found.append(Replied(ident, b"\0\0" + bytes(buffer[at + 4 : ends])))
            else:
                self._strays += 1
                if self._strays > _MAX_STRAYS:
                    self.over = True
                    raise BadWire("a server answers what it was not asked")
            at = ends
        del buffer[:at]
        return found

    def data_to_send(self) -> bytes:
        if self._joined:
            out = b"".join(self._out)
            self._out.clear()
            return out
        return self._out.popleft() if self._out else b""
