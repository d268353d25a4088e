"""Signed claims: JWS in compact form (RFC 7515 §7.1) with EdDSA over Ed25519 (RFC 8037) and nothing else.

There is one algorithm, so there is nothing to choose: a header that names another, ``none`` and every HMAC among them,
is refused before anything else is looked at, and so is ``crit``.  Size comes first of all, then the three parts in
canonical base64url, then JSON that means one thing to every reader.  Until :meth:`Token.verify` has said yes the claims
are a stranger's words.

What we sign has a header of ``{"alg":"EdDSA"}`` (and ``kid`` where asked) and claims in alphabetical order, as the
forerunner writes them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.bases import from_base64url, to_base64url
from cyfs_ns.identity.keys import PublicKey, SecretKey
from cyfs_ns.identity.strictjson import Json, read_object, write_json

MOST_TOKEN = 65536
"""Characters of the largest token we read: a zone document with its devices inside."""

_MAX_KID = 256
_HEADERS = frozenset({"alg", "kid", "typ", "cty"})


@dataclass(frozen=True, slots=True)
class Token:
    """A token that is well formed.  ``claims`` may be believed only after :meth:`verify`."""

    claims: dict[str, Json]
    kid: str | None
    text: str = field(repr=False)
    _signed: bytes = field(repr=False)
    _signature: bytes = field(repr=False)

    def verify(self, key: PublicKey) -> bool:
        """Whether the holder of ``key`` signed these claims."""
        return key.verify(self._signature, self._signed)

    @property
    def digest(self) -> str:
        """SHA-256 of what was signed, in hex: the same content is the same revision, whoever delivered it."""
        return hashlib.sha256(self._signed).hexdigest()


def read_token(untrusted: str, what: str = "token", most: int = MOST_TOKEN) -> Token:
    """The token in ``untrusted``, not yet verified.  Raises ``BadWire``, which says what is wrong with ``what``."""
    if len(untrusted) > most:
        raise BadWire(f"{what}: {len(untrusted)} characters, at most {most} are read")
    parts = untrusted.split(".")
    if len(parts) != 3:
        raise BadWire(f"{what}: not a token of three parts")
    header = read_object(from_base64url(parts[0], f"{what}: header"), f"{what}: header")
    if (algorithm := header.get("alg")) != "EdDSA":
        raise BadWire(f"{what}: signed by {str(algorithm)[:20]!r}, only EdDSA is accepted")
    if unknown := sorted(header.keys() - _HEADERS):
        raise BadWire(f"{what}: header with {unknown[0][:20]!r}, which changes what a token means")
    kid = header.get("kid")
    if kid is not None and not (isinstance(kid, str) and 0 < len(kid) <= _MAX_KID):
        raise BadWire(f"{what}: kid is not a short text")
    signature = from_base64url(parts[2], f"{what}: signature")
    if len(signature) != 64:
        raise BadWire(f"{what}: a signature has 64 bytes, not {len(signature)}")
    claims = read_object(from_base64url(parts[1], f"{what}: claims"), f"{what}: claims")
    return Token(claims, kid, untrusted, f"{parts[0]}.{parts[1]}".encode(), signature)


def sign_token(claims: Mapping[str, Json], key: SecretKey, kid: str | None = None) -> str:
    """``claims`` signed with ``key``, as text."""
    header: dict[str, Json] = {"alg": "EdDSA"} if kid is None else {"alg": "EdDSA", "kid": kid}
    signed = f"{to_base64url(write_json(header))}.{to_base64url(write_json(claims))}"
    return f"{signed}.{to_base64url(key.sign(signed.encode()))}"
