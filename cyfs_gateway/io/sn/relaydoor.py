"""Where a datagram came from, and how something is sent back there from the address it was sent to."""

from __future__ import annotations

import socket
from struct import Struct
from typing import NamedTuple

_V4, _V6 = Struct("=H2s4s8x"), Struct("=H2sI16sI")
_CMSG = Struct("=Qii")


class Door(NamedTuple):
    """How to send something back the way it came: the descriptor, and what names our own address."""

    fd: int
    control: bytes


class Origin(NamedTuple):
    """Where a datagram that is not the relay's came from; good for as long as the relay runs."""

    sockaddr: bytes
    door: Door

    @property
    def address(self) -> tuple[str, int]:
        """IP address and port."""
        if len(self.sockaddr) == _V6.size:
            _, port, _, ip, _ = _V6.unpack(self.sockaddr)
            return socket.inet_ntop(socket.AF_INET6, ip), int.from_bytes(port)
        _, port, ip = _V4.unpack(self.sockaddr)
        return socket.inet_ntop(socket.AF_INET, ip), int.from_bytes(port)


def send_back(sock: socket.socket, datagram: bytes, origin: Origin) -> bool:
    """Whether it was sent."""
    sockaddr, (_, control) = origin
    ip, port = origin.address
    told = (ip, port, 0, _V6.unpack(sockaddr)[4]) if sock.family == socket.AF_INET6 else (ip, port)
    messages = []
    if control:
        size, level, kind = _CMSG.unpack_from(control)
        messages = [(level, kind, control[_CMSG.size : size])]
    try:
        sock.sendmsg([datagram], messages, 0, told)
    except OSError:
        return False
    return True
