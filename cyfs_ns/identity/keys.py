"""Ed25519 keys (RFC 8032) in the spellings the house meets: ``x`` of a JWK, PKCS#8 PEM, did:key's multikey.

A public key is 32 bytes that name somebody, so the few bytes that name *everybody* are refused: points of small order,
for which a signature can be made without a secret (RFC 8032 §8; the list is libsodium's).  A secret key never shows
itself: not in ``repr``, not by comparison, only through :meth:`SecretKey.pem` and :attr:`SecretKey.seed`.

OpenSSL comes in with the first signature and not before: it takes ten megabytes, and a gateway that only keeps its key
needs none of them.
"""

from __future__ import annotations

import base64
import functools
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.bases import from_base58, from_base64url, to_base58, to_base64url
from cyfs_ns.identity.strictjson import Json

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_P = (1 << 255) - 19
_SMALL_ORDER = frozenset(
    {
        0,
        1,
        0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826,
        0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7,
        _P - 1,
        _P,
        _P + 1,
    }
)
"""The y coordinates of points whose order divides eight, the spellings past the prime included."""

_MULTICODECS = {"Ed25519": b"\xed\x01", "X25519": b"\xec\x01", "secp256k1": b"\xe7\x01", "P-256": b"\x80\x24"}
_SIZES = {"Ed25519": 32, "X25519": 32, "secp256k1": 33, "P-256": 33}
_MAX_PEM = 4096
_PKCS8 = bytes.fromhex("302e020100300506032b657004220420")
"""What stands before the 32 bytes of an Ed25519 seed (RFC 8410 §7)."""
_PEM = "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n"
_OUR_PEM = re.compile(_PEM.format("([A-Za-z0-9+/]{64})").encode() + rb"\Z").match


@dataclass(frozen=True, slots=True)
class PublicKey:
    """Somebody's Ed25519 key.  ``raw`` is its 32 bytes.  Raises ``BadWire`` for bytes that cannot be a person's key."""

    raw: bytes

    def __post_init__(self) -> None:
        if len(self.raw) != 32:
            raise BadWire(f"an Ed25519 key has 32 bytes, not {len(self.raw)}")
        if int.from_bytes(self.raw, "little") & ((1 << 255) - 1) in _SMALL_ORDER:
            raise BadWire("this Ed25519 key is a point of small order: anybody can sign for it")

    @property
    def x(self) -> str:
        """The key as a JWK and the TXT records spell it: base64url, 43 characters."""
        return to_base64url(self.raw)

    def jwk(self) -> dict[str, Json]:
        """RFC 8037 §2."""
        return {"kty": "OKP", "crv": "Ed25519", "x": self.x}

    def verify(self, signature: bytes, message: bytes) -> bool:
        """Whether the holder of this key signed ``message``."""
        from cryptography.exceptions import InvalidSignature

        try:
            _verifier(self.raw).verify(signature, message)
        except InvalidSignature:
            return False
        return True

    def __str__(self) -> str:
        return self.x


@functools.lru_cache(maxsize=1024)
def _verifier(raw: bytes) -> Ed25519PublicKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    return Ed25519PublicKey.from_public_bytes(raw)


def read_x(untrusted: str) -> PublicKey:
    """The key behind 43 characters of base64url.  Raises ``BadWire``."""
    if len(untrusted) != 43:
        raise BadWire("a public key in base64url has 43 characters")
    return PublicKey(from_base64url(untrusted, "public key"))


def read_jwk(untrusted: Json) -> PublicKey:
    """The key in a JWK.  Only OKP with Ed25519; a JWK that carries its secret is refused.  Raises ``BadWire``."""
    if not isinstance(untrusted, dict):
        raise BadWire("a JWK is a JSON object")
    if untrusted.get("kty") != "OKP" or untrusted.get("crv") != "Ed25519":
        raise BadWire(f"a JWK of kind {untrusted.get('kty')!r}/{untrusted.get('crv')!r}: Ed25519 is needed")
    if "d" in untrusted:
        raise BadWire("a JWK with its secret in it: that key is no longer anybody's")
    x = untrusted.get("x")
    if not isinstance(x, str):
        raise BadWire("a JWK without x")
    return read_x(x)


@dataclass(frozen=True, slots=True, eq=False)
class SecretKey:
    """An Ed25519 key with its secret.  ``seed`` is the 32 bytes that everything else follows from."""

    seed: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.seed) != 32:
            raise BadWire(f"an Ed25519 seed has 32 bytes, not {len(self.seed)}")

    @property
    def public(self) -> PublicKey:
        return PublicKey(_signer(self.seed).public_key().public_bytes_raw())

    def sign(self, message: bytes) -> bytes:
        """64 bytes; the same for the same message (RFC 8032 is deterministic)."""
        return _signer(self.seed).sign(message)

    def pem(self) -> bytes:
        """PKCS#8 in PEM, unencrypted (RFC 8410 §7)."""
        return _PEM.format(base64.b64encode(_PKCS8 + self.seed).decode()).encode()


def _signer(seed: bytes) -> Ed25519PrivateKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(seed)


def read_pem(untrusted: bytes) -> SecretKey:
    """The Ed25519 key in a PKCS#8 PEM file.  Raises ``BadWire``, which never quotes the file."""
    if len(untrusted) > _MAX_PEM:
        raise BadWire("a PEM file with one key is smaller than this")
    ours = _OUR_PEM(untrusted)
    if ours is not None and (der := base64.b64decode(ours[1])).startswith(_PKCS8):
        return SecretKey(der[len(_PKCS8) :])
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    try:
        key = serialization.load_pem_private_key(untrusted, password=None)
    except TypeError:
        raise BadWire("this PEM file is encrypted; give it decrypted, in a file of mode 0600") from None
    except Exception:  # the library raises what its backend raises
        raise BadWire("not a private key in PKCS#8 PEM") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise BadWire("a private key, but not of Ed25519")
    return SecretKey(key.private_bytes_raw())


@dataclass(frozen=True, slots=True)
class Multikey:
    """A public key of any kind did:key knows: ``kind`` is one of Ed25519, X25519, secp256k1, P-256."""

    kind: str
    raw: bytes

    def __str__(self) -> str:
        return "z" + to_base58(_MULTICODECS[self.kind] + self.raw)


def read_multikey(untrusted: str) -> Multikey:
    """The key behind ``z6Mk…`` (multibase base58btc of a multicodec prefix and the key).  Raises ``BadWire``."""
    if untrusted[:1] != "z":
        raise BadWire("a multikey starts with z")
    data = from_base58(untrusted[1:], "multikey")
    for kind, prefix in _MULTICODECS.items():
        if data.startswith(prefix):
            raw = data[len(prefix) :]
            if len(raw) != _SIZES[kind] or (len(raw) == 33 and raw[0] not in (2, 3)):
                raise BadWire(f"multikey: {len(raw)} bytes are no key of {kind}")
            key = Multikey(kind, raw)
            if kind == "Ed25519":
                PublicKey(raw)
            if str(key) != untrusted:
                raise BadWire("multikey: in a form nobody writes")
            return key
    raise BadWire("multikey: of a kind not known here")
