"""A device's one key in the two forms that version 5 needs: Ed25519 names it, X25519 agrees (§3.2 of the document).

The same secret serves for both, which is jointly secure for Ed25519 with X25519 behind a hash (Thormarker, ePrint
2021/509); a bare ``did:dev`` can so be dialled.  The map from Edwards to Montgomery form forgets a sign, so the Ed25519
form is what counts as identity, and both sides hash it into the handshake beside the other.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.keys import PublicKey, SecretKey

_P = (1 << 255) - 19
_Y = (1 << 255) - 1


@dataclass(frozen=True, slots=True, eq=False)
class DeviceKey:
    """This device's key, ready to agree.  ``public`` is its Ed25519 form, ``x25519`` the other, 32 bytes."""

    public: PublicKey
    x25519: bytes
    secret: X25519PrivateKey = field(repr=False)


def device_key(key: SecretKey) -> DeviceKey:
    """``key`` for handshakes; one serves them all."""
    secret = X25519PrivateKey.from_private_bytes(x25519_secret(key))
    return DeviceKey(key.public, secret.public_key().public_bytes_raw(), secret)


def x25519_secret(key: SecretKey) -> bytes:
    """The scalar that Ed25519 signs with (RFC 8032 §5.1.5), clamped."""
    scalar = bytearray(hashlib.sha512(key.seed).digest()[:32])
    scalar[0] &= 248
    scalar[31] = scalar[31] & 127 | 64
    return bytes(scalar)


@functools.lru_cache(maxsize=1024)
def x25519_public(key: PublicKey) -> bytes:
    """``key`` in Montgomery form (RFC 7748 §4.1).  Raises ``BadWire`` for bytes that are not the one form of a key."""
    y = int.from_bytes(key.raw, "little") & _Y
    if y >= _P:
        raise BadWire("an Ed25519 key past the prime")
    return ((1 + y) * pow(1 - y, -1, _P) % _P).to_bytes(32, "little")


def agree(secret: X25519PrivateKey, untrusted_public: bytes) -> bytes:
    """The secret both sides share.  Raises ``BadWire`` for a key of small order, which fixes it (RFC 7748 §6.1)."""
    try:
        return secret.exchange(X25519PublicKey.from_public_bytes(untrusted_public))
    except ValueError:
        raise BadWire("an X25519 key that leaves nothing secret") from None
