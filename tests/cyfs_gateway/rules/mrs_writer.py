"""An mrs writer, for tests and the bench only: the other half of ``cyfs_ns.mrs``."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

import zstandard

from cyfs_ns.address import Prefix
from cyfs_ns.sets import prefix_range


def domain_mrs(entries: Sequence[str]) -> bytes:
    """The mrs file of a list of domain entries (``a.b``, ``+.a.b``, ``.a.b``, ``*.a.b``)."""
    keys = set()
    for entry in entries:
        if entry.startswith("+."):
            keys.update((entry[2:], entry))
        elif entry.startswith("."):
            keys.add("+" + entry)
        else:
            keys.add(entry)
    return pack(0, len(entries), _louds(sorted(key.encode()[::-1] for key in keys)))


def cidr_mrs(prefixes: Iterable[Prefix]) -> bytes:
    """The mrs file of a list of prefixes."""
    ranges = [prefix_range(prefix) for prefix in prefixes]
    body = b"".join(_sixteen(family, low) + _sixteen(family, high) for family, low, high in ranges)
    return pack(1, len(ranges), b"\x01" + struct.pack(">q", len(ranges)) + body)


def pack(behavior: int, count: int, body: bytes, extra: bytes = b"") -> bytes:
    """Header and body, compressed."""
    head = b"MRS\x01" + bytes([behavior]) + struct.pack(">qq", count, len(extra)) + extra
    return zstandard.ZstdCompressor().compress(head + body)


def _sixteen(family: int, number: int) -> bytes:
    return number.to_bytes(16, "big") if family == 6 else b"\x00" * 10 + b"\xff\xff" + number.to_bytes(4, "big")


def _louds(keys: list[bytes]) -> bytes:
    leaves, bitmap, labels = bytearray(), bytearray(), bytearray()
    level = [(0, len(keys))] if keys else []
    depth = 0
    while level:
        below = []
        for start, end in level:
            first = start
            ends_here = first < end and len(keys[first]) == depth
            leaves.append(ends_here)
            first += ends_here
            while first < end:
                letter, last = keys[first][depth], first
                while last < end and keys[last][depth] == letter:
                    last += 1
                labels.append(letter)
                bitmap.append(0)
                below.append((first, last))
                first = last
            bitmap.append(1)
        level, depth = below, depth + 1
    return b"\x01" + _words(leaves) + _words(bitmap) + struct.pack(">q", len(labels)) + bytes(labels)


def _words(bits: bytearray) -> bytes:
    """Bits, one a byte, as counted big-endian words whose lowest bit is first."""
    count = (len(bits) + 63) // 64
    number = int(bytes(bit + 48 for bit in reversed(bits)), 2)
    packed = number.to_bytes(count * 8, "little")
    return struct.pack(">q", count) + b"".join(packed[at : at + 8][::-1] for at in range(0, len(packed), 8))
