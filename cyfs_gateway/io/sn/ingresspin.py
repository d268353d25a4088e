"""An HTTP visitor's socket as an endpoint that lets through what is for its one host (``sn/ingresspin.py``).

So a relay on the reactor carries HTTP like everything else, and no visitor needs a task.
"""

from __future__ import annotations

import socket

from cyfs_gateway.sn.ingresspin import Pinned
from cyfs_ns.errors import BadWire
from rtcp.io.pipe import break_off, check_fault
from tunnels.io.reactor import READABLE, Reactor
from tunnels.io.waiting import TcpEndpoint


class PinnedClient:
    """Takes ``sock`` over.  The reactor is told where an answer lets something pass that was kept back."""

    __slots__ = ("_pinned", "_reactor", "_ready", "_sock", "fileno")

    def __init__(self, sock: TcpEndpoint, host: str, reactor: Reactor) -> None:
        self._sock, self._reactor = sock, reactor
        self._pinned = Pinned(host)
        self._ready = b""
        self.fileno = sock.fileno

    def recv_into(self, buffer: memoryview, /) -> int:
        pinned = self._pinned
        if not self._ready:
            if pinned.over:
                return 0
            n = self._sock.recv_into(buffer)
            if not n or pinned.is_free:
                return n
            self._ready = pinned.client(bytes(buffer[:n]))
            if not self._ready and not pinned.over:
                raise BlockingIOError
        n = min(len(buffer), len(self._ready))
        buffer[:n] = self._ready[:n]
        self._ready = self._ready[n:]
        return n

    def send(self, data: bytes | memoryview, /) -> int:
        n = self._sock.send(data)
        pinned = self._pinned
        if not pinned.is_free:
            try:
                pinned.server(bytes(data[:n]))
            except BadWire as bad:
                raise ConnectionAbortedError(str(bad)) from bad
            if pinned.over or pinned.is_holding:
                self._ready += pinned.client(b"")
                self._reactor.soon(self._prompt)
        return n

    def _prompt(self) -> None:
        if (fd := self._sock.fileno()) >= 0:
            self._reactor.prompt(fd, READABLE)

    def pending(self) -> bool:
        return bool(self._ready)

    def unsent(self) -> bool:
        return False

    def flush(self) -> None:
        """The kernel does that."""

    def shutdown_write(self) -> None:
        self._sock.shutdown(socket.SHUT_WR)

    def break_off(self) -> None:
        break_off(self._sock)

    def check(self) -> None:
        """Raises what ended the connection."""
        check_fault(self._sock)

    def close(self) -> None:
        self._sock.close()
