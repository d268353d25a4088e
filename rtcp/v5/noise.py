"""``Noise_XK_25519_ChaChaPoly_SHA256`` (Noise revision 34), nothing else of Noise, and nothing besides it.

    <- s
    -> e, es
    <- e, ee
    -> s, se

Each side is an object that is used from top to bottom, once.  A message that fails to open raises ``BadWire``; after
that the object is worth nothing, since its transcript has gone on.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from cyfs_ns.errors import BadWire
from rtcp.v5.keys import agree

NAME = b"Noise_XK_25519_ChaChaPoly_SHA256"
DH_SIZE = 32
TAG_SIZE = 16


@dataclass(frozen=True, slots=True)
class Split:
    """What a handshake leaves: a key per direction (``k1``: caller to called) and the hash of all that was said."""

    k1: bytes = field(repr=False)
    k2: bytes = field(repr=False)
    h: bytes = field(repr=False)


class _Symmetric:
    """Noise §5.2: a chaining key, a hash of the transcript, and the key of the moment with its count."""

    def __init__(self, prologue: bytes) -> None:
        self.h = self._ck = NAME  # 32 bytes, as many as a hash has: it stands for itself
        self._aead: ChaCha20Poly1305 | None = None
        self._count = 0
        self.mix_hash(prologue)

    def mix_hash(self, data: bytes) -> None:
        self.h = hashlib.sha256(self.h + data).digest()

    def mix_key(self, shared: bytes) -> None:
        self._ck, key = _hkdf(self._ck, shared)
        self._aead, self._count = ChaCha20Poly1305(key), 0

    def seal(self, plain: bytes) -> bytes:
        assert self._aead is not None
        sealed = self._aead.encrypt(self._nonce(), plain, self.h)
        self.mix_hash(sealed)
        return sealed

    def open(self, sealed: bytes) -> bytes:
        assert self._aead is not None
        try:
            plain = self._aead.decrypt(self._nonce(), sealed, self.h)
        except InvalidTag:
            raise BadWire("a message of the handshake does not open") from None
        self.mix_hash(sealed)
        return plain

    def split(self) -> Split:
        return Split(*_hkdf(self._ck, b""), self.h)

    def _nonce(self) -> bytes:
        self._count += 1
        return bytes(4) + (self._count - 1).to_bytes(8, "little")


class Initiator:
    """The side that calls.  ``ephemeral``: 32 random bytes, new each time; ``remote``: the X25519 key of the other."""

    def __init__(self, prologue: bytes, static: X25519PrivateKey, ephemeral: bytes, remote: bytes) -> None:
        self._state = _Symmetric(prologue)
        self._state.mix_hash(remote)
        self._static, self._remote = static, remote
        self._ephemeral = X25519PrivateKey.from_private_bytes(ephemeral)
        self.public = self._ephemeral.public_key().public_bytes_raw()

    def first(self, payload: bytes) -> bytes:
        """Message 1: the ephemeral key, and ``payload`` sealed."""
        self._state.mix_hash(self.public)
        self._state.mix_key(agree(self._ephemeral, self._remote))
        return self.public + self._state.seal(payload)

    def second(self, untrusted: bytes) -> bytes:
        """The payload of message 2.  Raises ``BadWire`` unless it is from the holder of ``remote``."""
        self._theirs = untrusted[:DH_SIZE]
        self._state.mix_hash(self._theirs)
        self._state.mix_key(agree(self._ephemeral, self._theirs))
        return self._state.open(untrusted[DH_SIZE:])

    def third(self, payload: bytes) -> tuple[bytes, Split]:
        """Message 3, which shows who calls, and what the handshake leaves."""
        static = self._state.seal(self._static.public_key().public_bytes_raw())
        self._state.mix_key(agree(self._static, self._theirs))
        sealed = self._state.seal(payload)
        return static + sealed, self._state.split()


class Responder:
    """The side that is called.  ``public`` is the key that goes with ``static``."""

    def __init__(self, prologue: bytes, static: X25519PrivateKey, public: bytes) -> None:
        self._state = _Symmetric(prologue)
        self._state.mix_hash(public)
        self._static = static

    def first(self, untrusted: bytes) -> bytes:
        """The payload of message 1.  Raises ``BadWire``."""
        self._begin(untrusted[:DH_SIZE])
        return self._state.open(untrusted[DH_SIZE:])

    def first_unsealed(self, untrusted_ephemeral: bytes) -> None:
        """A message 1 with an empty payload whose tag was not sent (§3.4).  Raises ``BadWire``."""
        self._begin(untrusted_ephemeral)
        self._state.seal(b"")

    def second(self, payload: bytes, ephemeral: bytes) -> bytes:
        """Message 2; ``ephemeral`` is 32 random bytes, new each time.  Raises ``BadWire`` if theirs is worthless."""
        self._ephemeral = X25519PrivateKey.from_private_bytes(ephemeral)
        public = self._ephemeral.public_key().public_bytes_raw()
        self._state.mix_hash(public)
        self._state.mix_key(agree(self._ephemeral, self._theirs))
        return public + self._state.seal(payload)

    def third(self, untrusted: bytes) -> tuple[bytes, bytes, Split]:
        """Who calls (its X25519 key), the payload of message 3, and what the handshake leaves.  Raises ``BadWire``."""
        static = self._state.open(untrusted[: DH_SIZE + TAG_SIZE])
        self._state.mix_key(agree(self._ephemeral, static))
        payload = self._state.open(untrusted[DH_SIZE + TAG_SIZE :])
        return static, payload, self._state.split()

    def _begin(self, untrusted_ephemeral: bytes) -> None:
        self._theirs = untrusted_ephemeral
        self._state.mix_hash(untrusted_ephemeral)
        self._state.mix_key(agree(self._static, untrusted_ephemeral))


def _hkdf(chaining_key: bytes, material: bytes) -> tuple[bytes, bytes]:
    """Noise's HKDF with two outputs (§4.3)."""
    prk = hmac.digest(chaining_key, material, "sha256")
    first = hmac.digest(prk, b"\x01", "sha256")
    return first, hmac.digest(prk, first + b"\x02", "sha256")
