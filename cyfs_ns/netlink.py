"""Netlink messages as bytes (RFC 3549 section 2.3): how a program speaks with the network part of a Linux kernel.

Numbers are in the machine's own byte order, except where a single attribute says otherwise.  The kernel is no stranger,
yet what it sends is read as if it were: whatever cannot be is ``BadWire``.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from struct import error as StructError
from typing import NamedTuple

from cyfs_ns.errors import BadWire

REQUEST, MULTI, ACK, CREATE, DUMP = 0x1, 0x2, 0x4, 0x400, 0x300
"""Flags of a message.  ``CREATE`` shares its bit with others; its sense is the receiver's."""

ERROR, DONE = 2, 3
"""Kinds every family has: an error or acknowledgement; the end of a message in many parts."""

_HEAD = Struct("=IHHII")
_ATTRIBUTE = Struct("=HH")
_ERRNO = Struct("=i")
_NATIVE = Struct("=I")
_NESTED = 0x8000
_KIND = 0x3FFF


class Message(NamedTuple):
    """One message."""

    kind: int
    flags: int
    seq: int
    port: int
    """The socket whose request it answers or reports."""
    body: bytes


def message(kind: int, flags: int, seq: int, body: bytes) -> bytes:
    """A request.  The body is padded already."""
    return _HEAD.pack(_HEAD.size + len(body), kind, flags | REQUEST, seq, 0) + body


def attribute(kind: int, data: bytes) -> bytes:
    """One attribute, padded."""
    size = _ATTRIBUTE.size + len(data)
    return _ATTRIBUTE.pack(size, kind) + data + bytes(-size % 4)


def nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute made of attributes."""
    return attribute(kind | _NESTED, b"".join(attributes))


def text(kind: int, value: str) -> bytes:
    """An attribute that is a C string."""
    return attribute(kind, value.encode(errors="replace") + b"\0")


def messages(untrusted: bytes) -> Iterator[Message]:
    """The messages of one datagram.  Raises ``BadWire``."""
    at = 0
    while at < len(untrusted):
        try:
            size, kind, flags, seq, port = _HEAD.unpack_from(untrusted, at)
        except StructError:
            raise BadWire("netlink message ends too early") from None
        if not _HEAD.size <= size <= len(untrusted) - at:
            raise BadWire(f"netlink message claims {size} octets")
        yield Message(kind, flags, seq, port, untrusted[at + _HEAD.size : at + size])
        at += size + -size % 4


def attributes(untrusted: bytes, at: int = 0) -> dict[int, bytes]:
    """The attributes of a message's body from ``at`` on, or of a nested attribute, by kind.  Raises ``BadWire``."""
    found = {}
    if at > len(untrusted):
        raise BadWire("netlink message without its head")
    while at < len(untrusted):
        try:
            size, kind = _ATTRIBUTE.unpack_from(untrusted, at)
        except StructError:
            raise BadWire("netlink attribute ends too early") from None
        if not _ATTRIBUTE.size <= size <= len(untrusted) - at:
            raise BadWire(f"netlink attribute claims {size} octets")
        found[kind & _KIND] = untrusted[at + _ATTRIBUTE.size : at + size]
        at += size + -size % 4
    return found


def error_number(reply: Message) -> int:
    """The ``errno`` of an error message, or of the end of a dump; 0: done, or another kind of message."""
    if reply.kind == ERROR or (reply.kind == DONE and reply.body):
        try:
            return -int(_ERRNO.unpack_from(reply.body)[0])
        except StructError:
            raise BadWire("netlink error without its number") from None
    return 0


def number(found: dict[int, bytes], kind: int) -> int:
    """An attribute that is a number in network order, of any size; 0 if it is not there."""
    return int.from_bytes(found.get(kind, b""))


def native(found: dict[int, bytes], kind: int) -> int:
    """An attribute that is a number of 32 bits in the machine's order; 0 if it is not there."""
    data = found.get(kind, b"")
    return int(_NATIVE.unpack(data)[0]) if len(data) == _NATIVE.size else 0


def native_attribute(kind: int, value: int) -> bytes:
    """An attribute that is a number of 32 bits in the machine's order."""
    return attribute(kind, _NATIVE.pack(value))


def string(found: dict[int, bytes], kind: int) -> str:
    """An attribute that is a C string, empty if it is not there."""
    return found.get(kind, b"").split(b"\0", 1)[0].decode(errors="replace")
