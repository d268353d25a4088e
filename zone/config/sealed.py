"""Values that only the zone's OODs can read: sealed before they reach a store, its disk, its peers and its backups.

A value is encrypted with a key of its own (ChaCha20-Poly1305), and that key once for each OOD: an ephemeral X25519 key
agrees with the OOD's (the one of its device, RFC 7748), and HKDF (RFC 5869) makes a wrapping key of the result.  The
name of the configuration key goes into both, so a sealed value opens nowhere else.  Each of these keys encrypts once,
so every nonce is zero.

Sealing says who may read, not who wrote: anybody knows the OODs' public keys.  Who may write is for the rules.

When an OOD joins or leaves, values are sealed anew with new keys.  One that left has no way to what is written from
then on; what it could read before it may have kept, so secrets have to be exchanged for new ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.bases import from_base64url, to_base64url
from cyfs_ns.identity.keys import PublicKey
from cyfs_ns.identity.strictjson import read_object, write_json
from rtcp.v5.keys import DeviceKey, agree, x25519_public
from zone.config.faults import Code, ConfigError

DICE: Final = 64
"""Random bytes that sealing takes, new each time."""
MOST_OODS: Final = 16

_LABEL: Final = b"cyfs-zone-sealed-1"
_NONCE: Final = bytes(12)
_WRAPPED: Final = 32 + 16


@dataclass(frozen=True, slots=True)
class _Envelope:
    ephemeral: bytes
    wrapped: dict[str, bytes] = field(repr=False)
    """The value's key for each OOD, by that one's key as base64url spells it."""
    text: bytes = field(repr=False)


def seal(key: str, text: str, oods: Iterable[PublicKey], dice: bytes) -> str:
    """``text``, the value of ``key``, for ``oods``: again a JSON text.  ``dice``: ``DICE`` random bytes."""
    ephemeral, own = X25519PrivateKey.from_private_bytes(dice[:32]), dice[32:DICE]
    public = ephemeral.public_key().public_bytes_raw()
    wrapped = {
        ood.x: _wrapping(agree(ephemeral, x25519_public(ood)), key, public, ood.x).encrypt(_NONCE, own, None)
        for ood in oods
    }
    return write_json(
        {
            "sealed": 1,
            "from": to_base64url(public),
            "for": {name: to_base64url(box) for name, box in wrapped.items()},
            "text": to_base64url(ChaCha20Poly1305(own).encrypt(_NONCE, text.encode(), key.encode())),
        }
    ).decode()


def unseal(key: str, untrusted: str, ood: DeviceKey) -> str:
    """What ``ood`` reads in ``untrusted``, the sealed value of ``key``.

    Raises ``ConfigError``: ``DENIED`` if it is not sealed for this OOD, ``DAMAGED`` if it is not what was sealed.
    """
    envelope = _read(key, untrusted)
    box = envelope.wrapped.get(ood.public.x)
    if box is None:
        raise ConfigError(Code.DENIED, f"{key} is sealed, and not for this OOD")
    try:
        shared = agree(ood.secret, envelope.ephemeral)
        own = _wrapping(shared, key, envelope.ephemeral, ood.public.x).decrypt(_NONCE, box, None)
        return ChaCha20Poly1305(own).decrypt(_NONCE, envelope.text, key.encode()).decode()
    except (InvalidTag, BadWire, UnicodeDecodeError):
        raise _damaged(key, "it is not what was sealed") from None


def sealed_for(key: str, untrusted: str, oods: Iterable[PublicKey]) -> bool:
    """Whether ``untrusted``, the sealed value of ``key``, says that it is for ``oods`` and nobody else.

    Raises ``ConfigError`` (``DAMAGED``).
    """
    return _read(key, untrusted).wrapped.keys() == {ood.x for ood in oods}


def _wrapping(shared: bytes, key: str, ephemeral: bytes, ood: str) -> ChaCha20Poly1305:
    info = b"|".join((_LABEL, key.encode(), ood.encode(), ephemeral))
    return ChaCha20Poly1305(HKDF(SHA256(), 32, salt=None, info=info).derive(shared))


def _read(key: str, untrusted: str) -> _Envelope:
    try:
        said = read_object(untrusted, "sealed value")
        ephemeral, wrapped, text = said.get("from"), said.get("for"), said.get("text")
        if said.keys() != {"sealed", "from", "for", "text"} or said["sealed"] != 1:
            raise BadWire("it is not sealed")
        if not isinstance(ephemeral, str) or not isinstance(wrapped, dict) or not isinstance(text, str):
            raise BadWire("it is not sealed as we seal")
        if len(wrapped) > MOST_OODS:
            raise BadWire(f"sealed for {len(wrapped)} OODs")
        boxes = {ood: from_base64url(box) if isinstance(box, str) else b"" for ood, box in wrapped.items()}
        envelope = _Envelope(from_base64url(ephemeral), boxes, from_base64url(text))
        if len(envelope.ephemeral) != 32 or any(len(box) != _WRAPPED for box in boxes.values()):
            raise BadWire("a key in it has another length")
    except BadWire as bad:
        raise _damaged(key, str(bad)) from None
    return envelope


def _damaged(key: str, why: str) -> ConfigError:
    return ConfigError(Code.DAMAGED, f"{key}: {why}")
