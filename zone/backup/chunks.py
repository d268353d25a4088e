"""A piece of what is saved, as it lies on a target.

Compressed first, then encrypted under a key that follows from the compressed bytes: whatever a later compressor makes
of the same piece has another key, so that no key ever encrypts two texts, and the nonce is zero.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Final

import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from cyfs_ns.errors import BadWire

SECRET: Final = 32
"""Bytes of the zone's secret."""
PIECE: Final = 1 << 20
"""Bytes of the longest piece."""
MOST_STORED: Final = PIECE + 8192
"""Bytes of the longest chunk."""

_NONCE: Final = bytes(12)
_PERSON: Final = b"cyfs-backup-key1"
_LEVEL: Final = 3


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece made ready for a target."""

    name: bytes
    """The SHA-256 of ``stored``."""
    key: bytes = field(repr=False)
    stored: bytes = field(repr=False)


def name_of(stored: bytes) -> bytes:
    """What a chunk is called."""
    return hashlib.sha256(stored).digest()


def seal(piece: bytes, secret: bytes) -> Chunk:
    """``piece``, of 1 to ``PIECE`` bytes, for a zone whose secret this is."""
    packed = pack(piece)
    key = hashlib.blake2b(packed, key=secret, digest_size=32, person=_PERSON).digest()
    stored = ChaCha20Poly1305(key).encrypt(_NONCE, packed, None)
    return Chunk(name_of(stored), key, stored)


def unseal(untrusted: bytes, key: bytes, size: int) -> bytes:
    """The piece of ``size`` bytes in a chunk.  Raises ``BadWire`` for anything but what was sealed."""
    try:
        packed = ChaCha20Poly1305(key).decrypt(_NONCE, untrusted, None)
    except InvalidTag:
        raise BadWire("a chunk is not what was stored") from None
    piece = unpack(packed, PIECE)
    if len(piece) != size:
        raise BadWire(f"a chunk has {len(piece)} bytes in the place of {size}")
    return piece


def pack(data: bytes) -> bytes:
    """``data`` compressed, with its length."""
    return zstandard.ZstdCompressor(level=_LEVEL).compress(data)


def unpack(packed: bytes, most: int) -> bytes:
    """What was packed.  Raises ``BadWire`` if it is not that, or longer than ``most``."""
    try:
        if not 0 <= zstandard.frame_content_size(packed) <= most:
            raise BadWire(f"more than {most} bytes, compressed")
        return zstandard.ZstdDecompressor().decompress(packed)
    except zstandard.ZstdError as bad:
        raise BadWire(f"not compressed as we do it: {bad}") from None
