"""What the server and its worker processes say to each other: one frame a message, a kind and fields of octets.

Both ends are ours and of one version, so a frame that cannot be read is a bug; it still fails in one way, ``BadWire``.

=============  ====================================================================================================
to a worker    ``SETUP`` per-second limit (0: none), slip, refuse, octets of a table, secret of cookies · ``ANSWER``
               number, answer, view, standing, entry · ``FLUSH`` scope, name · ``FORGET``
from a worker  ``ERRAND`` number, address, query, peer's ip, port, our ip, interface, port · ``HITS`` view, then
               pairs of query and count · ``CLIENTS`` pairs of address and count
=============  ====================================================================================================
"""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct
from struct import error as StructError

from cyfs_ns.errors import BadWire
from cyfs_ns.hot import HotEntry

SETUP, ANSWER, FLUSH, FORGET, ERRAND, HITS, CLIENTS = b"SAFJEHC"
ALL, NAME, BELOW = b"\0", b"\1", b"\2"
"""Scopes of ``FLUSH``."""
STRANGER, UNLIMITED, LIMITED = b"\0", b"\1", b"\2"
"""How a client stands."""

MAX_FRAME = 60_000

_LENGTH = Struct("!I")
_ENTRY = Struct("!qqH")


def pack(kind: int, *fields: bytes) -> bytes:
    """One frame."""
    return bytes((kind,)) + b"".join([_LENGTH.pack(len(field)) + field for field in fields])


def unpack(frame: bytes) -> tuple[int, list[bytes]]:
    """Back.  Raises ``BadWire``."""
    if not frame:
        raise BadWire("an empty frame")
    fields, at = [], 1
    while at < len(frame):
        end = at + _LENGTH.size
        if end > len(frame):
            raise BadWire("a frame ends too early")
        (size,) = _LENGTH.unpack_from(frame, at)
        at = end + size
        if at > len(frame):
            raise BadWire("a frame ends too early")
        fields.append(frame[end:at])
    return frame[0], fields


def number(value: int) -> bytes:
    """A count or a setting as a field."""
    return value.to_bytes(8)


def pack_entry(entry: HotEntry) -> bytes:
    """A kept answer as a field."""
    ats = b"".join([at.to_bytes(2) for at in entry.ttl_ats])
    return _ENTRY.pack(entry.second, entry.until, len(entry.ttl_ats)) + ats + entry.tail


def unpack_entry(field: bytes, label: object) -> HotEntry:
    """Back, with what it shall be counted as.  Raises ``BadWire``."""
    try:
        second, until, count = _ENTRY.unpack_from(field)
    except StructError:
        raise BadWire("a kept answer ends too early") from None
    start = _ENTRY.size + 2 * count
    ats = tuple([int.from_bytes(field[at : at + 2]) for at in range(_ENTRY.size, start, 2)])
    tail = field[start:]
    if any(at + 4 > len(tail) for at in ats):
        raise BadWire("a kept answer ends too early")
    return HotEntry(tail, ats, second, until, label)


def pack_counts(kind: int, counts: Iterable[tuple[bytes, int]], *first: bytes) -> Iterable[bytes]:
    """Frames of pairs, as many as it takes."""
    fields: list[bytes] = []
    size = 0
    for key, count in counts:
        fields += key, number(count)
        size += len(key) + 16
        if size > MAX_FRAME - 1024:
            yield pack(kind, *first, *fields)
            fields, size = [], 0
    if fields:
        yield pack(kind, *first, *fields)


def pairs(fields: list[bytes]) -> Iterable[tuple[bytes, int]]:
    """What ``pack_counts`` packed."""
    return ((key, int.from_bytes(count)) for key, count in zip(fields[::2], fields[1::2], strict=True))
