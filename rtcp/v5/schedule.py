"""From a handshake to the secrets of a carrier, and from one secret to the next (§5.1 of the document).

Every carrier has secrets of its own, from a handshake of its own; each direction steps by itself, and nothing leads
back from a secret to the one before it.  All of it is HMAC and HKDF-Expand with SHA-256 (RFC 5869), one block each.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntFlag
from typing import TypeAlias

from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

Aead: TypeAlias = AESGCM | ChaCha20Poly1305


class Cipher(IntFlag):
    """The ciphers of records, as the bits by which parameters name them."""

    AES_256_GCM = 1
    CHACHA20_POLY1305 = 2


AEADS: Mapping[Cipher, Callable[[bytes], Aead]] = {
    Cipher.AES_256_GCM: AESGCM,
    Cipher.CHACHA20_POLY1305: ChaCha20Poly1305,
}


@dataclass(frozen=True, slots=True)
class Secrets:
    """``S[0]`` of each direction, and what is the tunnel's id if this is a tunnel's first carrier."""

    caller: bytes = field(repr=False)
    called: bytes = field(repr=False)
    tunnel: bytes = field(repr=False)


def secrets_of(k1: bytes, k2: bytes, h: bytes) -> Secrets:
    """What follows from Noise's ``Split`` (``k1``: caller to called) and its handshake hash."""
    root = hmac.digest(h, k1 + k2, "sha256")
    return Secrets(
        caller=_expand(root, b"rtcp5 from caller"),
        called=_expand(root, b"rtcp5 from called"),
        tunnel=_expand(root, b"rtcp5 tunnel", 16),
    )


def derived(secret: bytes) -> tuple[bytes, bytes]:
    """The key (32 bytes) and the iv (12 bytes) of the phase that ``secret`` stands for."""
    return _expand(secret, b"rtcp5 key"), _expand(secret, b"rtcp5 iv", 12)


def next_secret(secret: bytes) -> bytes:
    """The secret of the next phase; who steps forgets the old one."""
    return _expand(secret, b"rtcp5 next")


def _expand(secret: bytes, info: bytes, size: int = 32) -> bytes:
    return hmac.digest(secret, info + b"\x01", "sha256")[:size]
