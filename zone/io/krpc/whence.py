"""Where a caller on this machine comes from: for limits, never for rights.

Whoever connects by TCP runs as some user, and the kernel says which (``sock_diag(7)``).  By the unix socket come only
processes of this very user; one that passes the calls of others on binds its end to a name (``named``).
"""

from __future__ import annotations

import os
import socket
import struct
from typing import Final

import trio

_NAMED: Final = b"\0cyfs-caller/"
_SOCK_DIAG: Final = 4
"""``NETLINK_SOCK_DIAG``"""
_BY_FAMILY: Final = 20
"""``SOCK_DIAG_BY_FAMILY``"""
_REQUEST: Final = 1
_HEAD: Final = struct.Struct("=IHHII")
_ASK: Final = struct.Struct("=BBBxI")
_ENDS: Final = struct.Struct("!HH16s16s")
_ANY_COOKIE: Final = struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF)
_OWNER: Final = struct.Struct("=II")
_OWNER_AT: Final = _HEAD.size + 4 + _ENDS.size + len(_ANY_COOKIE) + 12
"""In a ``struct inet_diag_msg``."""


def named(source: str) -> bytes:
    """The address for the near end of one connection to the unix socket, which is made for ``source``."""
    return _NAMED + source.encode() + b"/" + os.urandom(8).hex().encode()


def whence(stream: trio.SocketStream) -> str:
    """Where who has connected comes from; empty: it is not known."""
    sock = stream.socket
    if sock.family == socket.AF_UNIX:
        peer = sock.getpeername()
        if isinstance(peer, bytes) and peer.startswith(_NAMED):
            return peer.removeprefix(_NAMED).rpartition(b"/")[0].decode(errors="replace")
        return ""
    try:
        return f"uid:{_uid(sock.family, sock.getpeername(), sock.getsockname())}"
    except (OSError, struct.error):
        # The connection is gone, or this kernel does not tell.
        return ""


def _uid(family: int, theirs: tuple[str, int], ours: tuple[str, int]) -> int:
    """The user whose socket is at ``theirs`` and leads to ``ours``.  Raises ``OSError``, ``struct.error``."""
    packed = [socket.inet_pton(family, address[0].partition("%")[0]).ljust(16, b"\0") for address in (theirs, ours)]
    body = _ASK.pack(family, socket.IPPROTO_TCP, 0, 0xFFFFFFFF)
    body += _ENDS.pack(theirs[1], ours[1], *packed) + _ANY_COOKIE
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, _SOCK_DIAG) as kernel:
        kernel.setblocking(False)
        kernel.send(_HEAD.pack(_HEAD.size + len(body), _BY_FAMILY, _REQUEST, 1, 0) + body)
        told = kernel.recv(1024)
    if _HEAD.unpack_from(told)[1] != _BY_FAMILY:
        raise ConnectionError("the kernel knows of no such connection")
    uid, inode = _OWNER.unpack_from(told, _OWNER_AT)
    if not inode:
        raise ConnectionError("nobody has it any more")
    return int(uid)
