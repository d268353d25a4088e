"""Keys of one pipe, from the two ephemerals (``wire.py``).

    root     = HMAC(H("rtcp5 udp" | door | tag | caller's key | called's key), X25519)
    S[0]     = Expand(root, "caller") and "called", one for each direction
    id       = Expand(root, "id of the caller")[0:7] and "... called": what datagrams *to* that side begin with
    key[n]   = Expand(S[n], "key")[0:16]     S[n + 1] = Expand(S[n], "next")

A datagram's number says which key it is sealed with: each serves 2^22 numbers, half of what RFC 9001 section 6.6 lets
AES-GCM seal.  The nonce is the last 12 bytes of the head, 4 of the id and the number.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cyfs_ns.errors import BadWire
from rtcp.udp.wire import SEAL, TOKEN

_STEP: Final = 22


@dataclass(frozen=True, slots=True)
class Secrets:
    """What both sides know after invite and entry."""

    caller: bytes = field(repr=False)
    called: bytes = field(repr=False)
    caller_id: int
    called_id: int


def agree(secret: X25519PrivateKey, theirs: bytes, *, door: bytes, tag: bytes, caller: bytes, called: bytes) -> Secrets:
    """``caller`` and ``called`` are the public ephemerals, of which ``theirs`` is one.  Raises ``BadWire``."""
    try:
        shared = secret.exchange(X25519PublicKey.from_public_bytes(theirs))
    except ValueError:
        raise BadWire("an X25519 key that leaves nothing secret") from None
    salt = hashlib.sha256(b"rtcp5 udp" + door + tag + caller + called).digest()
    root = hmac.digest(salt, shared, "sha256")
    return Secrets(
        _expand(root, b"caller"),
        _expand(root, b"called"),
        int.from_bytes(_expand(root, b"id of the caller")[:7], "big"),
        int.from_bytes(_expand(root, b"id of the called")[:7], "big"),
    )


def reset_token(secret: bytes, id: int) -> bytes:
    """What shows that the owner of ``secret`` had ``id`` once."""
    return hmac.digest(secret, b"rtcp5 udp reset" + id.to_bytes(7, "big"), "sha256")[:TOKEN]


def _expand(secret: bytes, what: bytes) -> bytes:
    return hmac.digest(secret, b"rtcp5 udp " + what + b"\1", "sha256")


class Sealer:
    """Seals what one side sends."""

    __slots__ = ("_aead", "_epoch", "_secret")

    def __init__(self, secret: bytes) -> None:
        self._secret, self._epoch, self._aead = secret, 0, _cipher(secret)

    def seal(self, head: bytes, number: int, plain: bytes, into: memoryview) -> None:
        """``plain`` and its tag, ``into`` exactly as much room; numbers only rise."""
        while number >> _STEP != self._epoch:
            self._secret, self._epoch = _expand(self._secret, b"next"), self._epoch + 1
            self._aead = _cipher(self._secret)
        self._aead.encrypt_into(head[4:], plain, head, into)


class Opener:
    """Opens what the other side sent, in whatever order it arrives."""

    __slots__ = ("_aead", "_before", "_epoch", "_secret")

    def __init__(self, secret: bytes) -> None:
        self._secret, self._epoch, self._aead = secret, 0, _cipher(secret)
        self._before: AESGCM | None = None

    def open(self, head: bytes, number: int, untrusted: memoryview, into: memoryview) -> int:
        """Open it ``into`` enough room, and say how many bytes it was.  Raises ``BadWire``."""
        ahead = (number >> _STEP) - self._epoch
        following = b""
        size = len(untrusted) - SEAL
        if size <= 0 or size > len(into):
            raise BadWire("a datagram of a size that cannot be")
        if ahead == 0:
            aead: AESGCM | None = self._aead
        elif ahead == 1:
            following = _expand(self._secret, b"next")
            aead = _cipher(following)
        else:
            aead = self._before if ahead == -1 else None
        if aead is None:
            raise BadWire("a datagram of another time")
        try:
            aead.decrypt_into(head[4:], untrusted, head, into[:size])
        except InvalidTag:
            raise BadWire("a datagram that our peer did not seal") from None
        if following:
            self._secret, self._epoch = following, self._epoch + 1
            self._before, self._aead = self._aead, aead
        return size


def _cipher(secret: bytes) -> AESGCM:
    return AESGCM(_expand(secret, b"key")[:16])
