"""From one X25519 agreement to every key of a tunnel (RFC 7748, RFC 5869).

Both ephemeral keys live for one handshake, so what was recorded stays secret when the devices' own keys are stolen
later.  The names, keys and nonces of both sides are part of the derivation: whoever was made to believe in another peer
ends with another key.  A stream gets keys of its own from the tunnel's control key and its id, which is why an id must
never serve twice under one control key.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from cyfs_ns.errors import BadWire
from rtcp.packet import Purpose

_PURPOSE_BYTE = {Purpose.STREAM: b"\0", Purpose.DATAGRAM: b"\1"}
_VERSION_BYTE = b"\x04"


@dataclass(frozen=True, slots=True)
class Keys:
    """What a record layer needs: the AES-256 key of both directions, and 16 bytes their nonces grow from."""

    key: bytes = field(repr=False)
    iv: bytes = field(repr=False)

    def nonce_base(self, dialler: bool) -> bytes:
        """The 12 bytes that the records of one direction count from: the one of the side that dialled, or the other."""
        return hashlib.sha256(b"rtcp-aead-nonce/" + (b"A" if dialler else b"B") + self.iv).digest()[:12]


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """Everything both sides must have seen alike; ``i_`` is the dialler's, ``r_`` the responder's.

    ``host`` is the host form of the identity as in the tokens, ``did`` the canonical ``did:dev:…``.
    """

    i_host: str
    r_host: str
    i_did: str
    r_did: str
    i_xpub: bytes
    r_xpub: bytes
    i_nonce: bytes
    r_nonce: bytes

    def tail(self) -> bytes:
        """The bytes that end the ``info`` of the control keys."""
        names = (self.i_host, self.r_host, self.i_did, self.r_did)
        numbers = (self.i_xpub, self.r_xpub, self.i_nonce, self.r_nonce)
        return "".join(f"|{part}" for part in (*names, *(number.hex() for number in numbers))).encode()


def public_of(ephemeral: bytes) -> bytes:
    """The 32 bytes that go with the secret ``ephemeral``."""
    return X25519PrivateKey.from_private_bytes(ephemeral).public_key().public_bytes_raw()


def agree(ephemeral: bytes, untrusted_public: bytes) -> bytes:
    """The secret both sides share.  Raises ``BadWire`` for a key of small order, which fixes it (RFC 7748 §6.1)."""
    try:
        return X25519PrivateKey.from_private_bytes(ephemeral).exchange(
            X25519PublicKey.from_public_bytes(untrusted_public)
        )
    except ValueError:
        raise BadWire("an X25519 key that leaves nothing secret") from None


def control_keys(shared: bytes, transcript: Transcript) -> Keys:
    """The keys of the control connection."""
    tail = transcript.tail()
    return Keys(
        _expand(shared, b"buckyos-rtcp-v4 aes256-key" + tail, 32),
        _expand(shared, b"buckyos-rtcp-v4 iv-salt" + tail, 16),
    )


def stream_keys(control_key: bytes, stream_id: bytes, purpose: Purpose) -> Keys:
    """The keys of one stream; ``stream_id`` is 16 bytes."""
    context = _VERSION_BYTE + stream_id + _PURPOSE_BYTE[purpose]
    return Keys(
        _expand(control_key, b"buckyos-rtcp stream key|" + context, 32),
        _expand(control_key, b"buckyos-rtcp stream iv|" + context, 16),
    )


def _expand(secret: bytes, info: bytes, size: int) -> bytes:
    return HKDF(SHA256(), size, salt=None, info=info).derive(secret)
