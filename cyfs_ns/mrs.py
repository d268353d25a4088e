"""The mrs format of mihomo, version 1: a rule set in binary, compressed with zstd.

``"MRS" 0x01``, one byte of behaviour (0 domain, 1 ipcidr), int64 count, int64 length and that many bytes kept for
later; then ``0x01`` and for domains three counted arrays (leaves and bitmap as 64-bit words, labels as bytes: a LOUDS
trie, see ``sets.SuccinctTrie``), for addresses a counted array of 16-byte first and last addresses, IPv4 mapped.
All integers are big-endian.  A length is believed only when that many bytes are there.
"""

from __future__ import annotations

import zstandard

from cyfs_ns.errors import BadWire
from cyfs_ns.sets import CidrSet, SuccinctTrie

_MAGIC = b"MRS\x01"
_DOMAIN, _IPCIDR = 0, 1
_WINDOW = 32 << 20  # bytes a zstd frame may make us remember; mihomo's own encoder uses 8 MiB at most
_MAPPED = b"\x00" * 10 + b"\xff\xff"


def read_domains(untrusted: bytes, max_bytes: int) -> SuccinctTrie:
    """The names in an mrs file; it may decompress to ``max_bytes`` at most.  Raises BadWire."""
    body, count = _open(untrusted, _DOMAIN, max_bytes)
    leaves = body.take(8 * body.integer())
    bitmap = body.take(8 * body.integer())
    labels = body.take(body.integer())
    body.end()
    return SuccinctTrie(leaves, bitmap, labels, count)


def read_addresses(untrusted: bytes, max_bytes: int) -> CidrSet:
    """The addresses in an mrs file; it may decompress to ``max_bytes`` at most.  Raises BadWire."""
    body, count = _open(untrusted, _IPCIDR, max_bytes)
    pairs = body.take(32 * body.integer())
    body.end()
    ranges = []
    for at in range(0, len(pairs), 32):
        low, high = pairs[at : at + 16], pairs[at + 16 : at + 32]
        family = 4 if low.startswith(_MAPPED) else 6
        if low > high or (family == 4) != high.startswith(_MAPPED):
            raise BadWire(f"address range {at // 32} of the mrs file is upside down")
        skip = 12 if family == 4 else 0
        ranges.append((family, int.from_bytes(low[skip:], "big"), int.from_bytes(high[skip:], "big")))
    return CidrSet(ranges, count)


def _open(untrusted: bytes, behavior: int, max_bytes: int) -> tuple[_Reader, int]:
    """The body, at its first array, and the count of entries the head claims."""
    body = _Reader(_decompress(untrusted, max_bytes))
    if body.take(4) != _MAGIC:
        raise BadWire("not an mrs file of version 1")
    if body.take(1)[0] != behavior:
        raise BadWire(f"the mrs file does not hold {'names' if behavior == _DOMAIN else 'addresses'}")
    count = body.integer()
    body.take(body.integer())
    if body.take(1) != b"\x01":
        raise BadWire("an mrs body of another version than 1")
    return body, count


def _decompress(untrusted: bytes, max_bytes: int) -> bytes:
    reader = zstandard.ZstdDecompressor(max_window_size=_WINDOW).stream_reader(untrusted, read_across_frames=True)
    parts, left = [], max_bytes + 1
    try:
        while left and (part := reader.read(min(left, 1 << 20))):
            parts.append(part)
            left -= len(part)
    except (zstandard.ZstdError, MemoryError) as fault:
        raise BadWire(f"the mrs file is not sound zstd: {fault}") from None
    if not left:
        raise BadWire(f"the mrs file decompresses to more than {max_bytes} bytes")
    return b"".join(parts)


class _Reader:
    """Bytes from front to back; a length that reaches past the end is a fault before anything is made of it."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, length: int) -> bytes:
        if not 0 <= length <= len(self._data) - self._at:
            raise BadWire(f"the mrs file ends before {length} bytes at {self._at}")
        self._at += length
        return self._data[self._at - length : self._at]

    def integer(self) -> int:
        number = int.from_bytes(self.take(8), "big", signed=True)
        if number < 0:
            raise BadWire(f"a negative length at byte {self._at - 8} of the mrs file")
        return number

    def end(self) -> None:
        if self._at != len(self._data):
            raise BadWire(f"{len(self._data) - self._at} bytes too many at the end of the mrs file")
