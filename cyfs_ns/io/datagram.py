"""One question over UDP: a socket of its own, so that a forger must guess a port and an id, and the spelling too.

The kernel picks a random port for each socket; connected, it lets only the server's address pass.  Datagrams with
another id or another question are passed over; many of them mean that somebody is guessing, and then the question is
asked over TCP, where guessing is of no use.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeAlias

import trio

from cyfs_ns.errors import BadWire, Unreachable
from cyfs_ns.io.dial import prepare

_ROOM = 4096  # more than the 1232 we offer to take, for servers that do not care
_MAX_STRAYS = 64


class Forged(BadWire):
    """So many datagrams were not the reply that somebody seems to be guessing."""


class Datagrams(Protocol):
    """An open way for datagrams to one server."""

    async def send(self, data: bytes) -> None: ...
    async def receive(self) -> bytes: ...
    def close(self) -> None: ...


OpenDatagrams: TypeAlias = Callable[[str, int, str], Awaitable[Datagrams]]
"""``open_datagrams(host, port, via)`` through an outbound.  Raises ``Unreachable`` where it carries none."""


class Datagram:
    """``query``, with the name spelt ``spelling``, has been sent when this is made.  Raises ``Unreachable``.  To be
    closed."""

    __slots__ = ("_held", "_query", "_question", "_sock", "edns", "ident", "sent_at", "spelling", "strays")

    def __init__(
        self,
        address: str,
        port: int,
        query: bytes,
        spelling: bytes,
        *,
        mark: int = 0,
        interface: str = "",
        source: tuple[str, int] = ("", 0),
        edns: bool = True,
    ) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._query, self.spelling, self.edns, self.strays = query, spelling, edns, 0
        self._question = query[12 : 16 + len(spelling)]
        self.sent_at = trio.current_time()
        self.ident = query[0] << 8 | query[1]
        self._held: bytes | None = None
        try:
            self._sock = sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        except OSError as fault:
            raise _unreachable(fault) from fault
        try:
            if mark or interface:
                prepare(sock, mark, interface)
            if source[0]:
                sock.bind(source)
            sock.connect((address, port))
            sock.send(query)
        except BlockingIOError:
            return  # lost on the way out, as datagrams may be
        except OSError as fault:
            sock.close()
            raise _unreachable(fault) from fault

    def send_again(self) -> None:
        try:
            self._sock.send(self._query)
        except BlockingIOError:
            return
        except OSError as fault:
            raise _unreachable(fault) from fault

    async def receive(self, until: float) -> bytes | None:
        """The next datagram that may be the reply, or ``None`` when ``until`` (trio's clock) has come.

        It bears our id and our question, perhaps in another case, or no question at all.  Raises ``Unreachable``, or
        ``Forged``.
        """
        if self._held is not None:
            held, self._held = self._held, None
            return held
        sock, query, question = self._sock, self._query, self._question
        with trio.CancelScope(deadline=until):
            while True:
                await trio.lowlevel.wait_readable(sock)
                try:
                    data = sock.recv(_ROOM)
                except BlockingIOError:
                    continue
                except OSError as fault:
                    raise _unreachable(fault) from fault
                if data[:2] == query[:2] and concerns(data, question):
                    return data
                self.strays += 1
                if self.strays > _MAX_STRAYS:
                    raise Forged(f"{self.strays} datagrams that were not the reply")
        return None

    def hold(self, data: bytes) -> None:
        """Let the next :meth:`receive` give ``data`` once more."""
        self._held = data

    def close(self) -> None:
        self._sock.close()


def concerns(data: bytes, question: bytes) -> bool:
    """Whether a message carries ``question`` in whatever case, or is not one that carries exactly one question."""
    if data.startswith(question, 12) or data[4:6] != b"\0\1" or len(data) < 12:
        return True
    return data[12 : 8 + len(question)].lower() == question[:-4].lower() and data.startswith(
        question[-4:], 8 + len(question)
    )


def _unreachable(fault: OSError) -> Unreachable:
    refused = isinstance(fault, ConnectionRefusedError)
    return Unreachable(fault.strerror or str(fault), "connect_refused" if refused else "other")
