"""A descriptor that is readable and writable when we say so.

Streams of version 5 share a connection, so none has a descriptor that could tell when there is something to do; but all
that moves bytes waits for one.  A pair of sockets serves: its face is readable while its back has sent it a byte, and
writable while its own smallest buffer is empty.  Nothing else ever passes between the two.
"""

from __future__ import annotations

import socket
from _socket import socketpair  # the public one spends as long again on wrapper objects

_BYTE = b"\0"
_FILL = bytes(1024)
_UNIX, _STREAM = int(socket.AF_UNIX), int(socket.SOCK_STREAM | socket.SOCK_NONBLOCK)


class Readiness:
    """Writable and not readable at first.  Raises ``OSError`` when there are no more descriptors."""

    __slots__ = ("_back", "_face", "_is_small", "_writable", "fileno", "is_readable")

    def __init__(self) -> None:
        self._face, self._back = socketpair(_UNIX, _STREAM)
        self.fileno = self._face.fileno
        self.is_readable, self._writable, self._is_small = False, True, False

    def set_readable(self, readable: bool) -> None:
        if readable is not self.is_readable:
            self.is_readable = readable
            if readable:
                self._back.send(_BYTE)
            else:
                self._face.recv(1)

    def set_writable(self, writable: bool) -> None:
        if writable is not self._writable:
            self._writable = writable
            if writable:
                self._back.recv(len(_FILL))
                return
            if not self._is_small:
                self._is_small = True
                # Any one message fills the least there is.
                self._face.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
            self._face.send(_FILL)

    def close(self) -> None:
        """May be called twice."""
        self._face.close()
        self._back.close()
