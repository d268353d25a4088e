"""The envelope of the handshake's messages, the two codes that guard message 1, and the retry (§3.3, §3.8).

    length:u16 (counts itself) | 05 | type:u8 | body

``mac1`` lets the called drop, for the price of one hash, whoever does not know which key it calls.  ``mac2`` proves
where the caller is, where the carrier does not: it is keyed with a cookie that went to that address in a retry.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from struct import Struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.keys import PublicKey

VERSION = 5
ENVELOPE_SIZE = 4
MAC_SIZE = 16
COOKIE_SIZE = 16
RETRY_NONCE_SIZE = 12

_ENVELOPE = Struct(">HBB")


class Type(IntEnum):
    """Kinds of messages."""

    FIRST = 1
    SECOND = 2
    THIRD = 3
    RETRY = 4


_SIZES: Mapping[Type, tuple[int, int]] = {
    Type.FIRST: (84, 84 + 1024),
    Type.SECOND: (84, 52 + 1056),
    Type.THIRD: (68 + 110, 16384),
    Type.RETRY: (48, 48),
}
LEAST_FIRST, MOST_FIRST = _SIZES[Type.FIRST]


@dataclass(frozen=True, slots=True)
class Message:
    """One message; ``whole`` are its bytes with the envelope."""

    type: Type
    whole: bytes = field(repr=False)

    @property
    def body(self) -> bytes:
        return self.whole[ENVELOPE_SIZE:]


def envelop(kind: Type, body: bytes) -> bytes:
    """``body`` as a message."""
    return _ENVELOPE.pack(ENVELOPE_SIZE + len(body), VERSION, kind) + body


def take_message(buffer: bytearray, *expected: Type) -> Message | None:
    """The message that ``buffer`` begins with, taken out of it; None: not whole yet.

    Each part is judged as soon as it is there.  Raises ``BadWire``, also for one that is not ``expected``.
    """
    if len(buffer) >= 3 and buffer[2] != VERSION:
        raise BadWire(f"a message of version {buffer[2]}")
    if len(buffer) < ENVELOPE_SIZE:
        return None
    length, _, number = _ENVELOPE.unpack_from(buffer)
    if number not in expected:
        raise BadWire(f"message {number} out of its place")
    kind = Type(number)
    least, most = _SIZES[kind]
    if not least <= length <= most:
        raise BadWire(f"message {number} of {length} bytes")
    if len(buffer) < length:
        return None
    message = Message(kind, bytes(buffer[:length]))
    del buffer[:length]
    return message


def mac1_key(responder: PublicKey) -> bytes:
    """The key of mac1, which everybody can make who knows ``responder``."""
    return hashlib.sha256(b"rtcp5 mac1" + responder.raw).digest()


def write_first(noise: bytes, key: bytes, cookie: bytes | None = None) -> bytes:
    """Message 1 of ``noise`` (ephemeral key and sealed payload), with ``key`` of :func:`mac1_key`."""
    begun = _ENVELOPE.pack(ENVELOPE_SIZE + len(noise) + 2 * MAC_SIZE, VERSION, Type.FIRST) + noise
    with_mac1 = begun + _mac(key, begun)
    return with_mac1 + (bytes(MAC_SIZE) if cookie is None else _mac(cookie, with_mac1))


def noise_of(first: Message) -> bytes:
    """What of message 1 is Noise's."""
    return first.whole[ENVELOPE_SIZE : -2 * MAC_SIZE]


def knows(first: Message, key: bytes) -> bool:
    """Whether message 1 was made by somebody who knows the key that ``key`` (:func:`mac1_key`) is of."""
    return hmac.compare_digest(mac1_of(first), _mac(key, first.whole[: -2 * MAC_SIZE]))


def mac1_of(first: Message) -> bytes:
    return first.whole[-2 * MAC_SIZE : -MAC_SIZE]


def carries(first: Message, cookie: bytes) -> bool:
    """Whether message 1 has the mac2 of ``cookie``."""
    return hmac.compare_digest(first.whole[-MAC_SIZE:], _mac(cookie, first.whole[:-MAC_SIZE]))


def write_retry(first: Message, responder: PublicKey, cookie: bytes, nonce: bytes) -> bytes:
    """The answer that gives ``cookie`` to who sent ``first``; ``nonce`` is 12 random bytes."""
    return envelop(Type.RETRY, nonce + _retry_seal(responder).encrypt(nonce, cookie, mac1_of(first)))


def open_retry(retry: Message, first: Message, responder: PublicKey) -> bytes:
    """The cookie in the answer to our ``first``.  Raises ``BadWire``."""
    nonce, sealed = retry.body[:RETRY_NONCE_SIZE], retry.body[RETRY_NONCE_SIZE:]
    try:
        return _retry_seal(responder).decrypt(nonce, sealed, mac1_of(first))
    except InvalidTag:
        raise BadWire("a retry that does not open") from None


def _retry_seal(responder: PublicKey) -> ChaCha20Poly1305:
    return ChaCha20Poly1305(hashlib.sha256(b"rtcp5 cookie" + responder.raw).digest())


def _mac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha256")[:MAC_SIZE]
