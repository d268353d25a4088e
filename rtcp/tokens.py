"""The two signed tokens of the handshake: what they claim, and when they may be believed.

Each carries an ephemeral key and a nonce, is meant for one peer, and lives for a minute, so that a memory of nonces can
tell a replay from an original (``nonces.py``).  The audience names protocol, version and direction: a token of one
place is worth nothing in another, which is what stops reflection and downgrade.

Reading says what a token claims.  Only a signature over it (:meth:`Token.verify`) makes it anybody's word.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.keys import SecretKey
from cyfs_ns.identity.strictjson import Json
from cyfs_ns.identity.token import Token, sign_token

HELLO_AUDIENCE = "buckyos-rtcp-v4-hello"
ACK_AUDIENCE = "buckyos-rtcp-v4-ack"
LIFETIME = 60
"""Seconds from ``iat`` to ``exp``, at most and as we write them."""
LEEWAY = 60
"""Seconds by which the clocks of two peers may differ."""

_MOST_NAME = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class HelloClaims:
    """``to`` and ``sender`` are identities in host form, ``canonical_to`` is the responder's ``did:dev:…``;
    ``xpub`` and ``nonce`` are 32 and 16 bytes; times are seconds since 1970."""

    to: str
    canonical_to: str
    sender: str
    listen_port: int
    xpub: bytes
    iat: int
    exp: int
    nonce: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class AckClaims:
    """As :class:`HelloClaims`, the other way round; ``peer_xpub`` is the key of the Hello that is answered."""

    to: str
    sender: str
    xpub: bytes
    peer_xpub: bytes
    iat: int
    exp: int
    nonce: bytes = field(repr=False)


def sign_hello(claims: HelloClaims, key: SecretKey) -> str:
    """The token of a Hello."""
    told: dict[str, Json] = {
        "aud": HELLO_AUDIENCE,
        "to": claims.to,
        "canonical_to": claims.canonical_to,
        "from": claims.sender,
        "listen_port": claims.listen_port,
        "xpub": claims.xpub.hex(),
        "iat": claims.iat,
        "exp": claims.exp,
        "nonce": claims.nonce.hex(),
    }
    return sign_token(told, key)


def sign_ack(claims: AckClaims, key: SecretKey) -> str:
    """The token of a HelloAck."""
    told: dict[str, Json] = {
        "aud": ACK_AUDIENCE,
        "to": claims.to,
        "from": claims.sender,
        "xpub": claims.xpub.hex(),
        "peer_xpub": claims.peer_xpub.hex(),
        "iat": claims.iat,
        "exp": claims.exp,
        "nonce": claims.nonce.hex(),
    }
    return sign_token(told, key)


def read_hello_claims(untrusted: Token) -> HelloClaims:
    """What the token of a Hello claims.  Raises ``BadWire`` for one that is none."""
    claims = untrusted.claims
    _check_audience(claims, HELLO_AUDIENCE)
    return HelloClaims(
        to=_text(claims, "to"),
        canonical_to=_text(claims, "canonical_to"),
        sender=_text(claims, "from"),
        listen_port=_number(claims, "listen_port", 65535),
        xpub=_hex(claims, "xpub", 32),
        iat=_number(claims, "iat"),
        exp=_number(claims, "exp"),
        nonce=_hex(claims, "nonce", 16),
    )


def read_ack_claims(untrusted: Token) -> AckClaims:
    """What the token of a HelloAck claims.  Raises ``BadWire`` for one that is none."""
    claims = untrusted.claims
    _check_audience(claims, ACK_AUDIENCE)
    return AckClaims(
        to=_text(claims, "to"),
        sender=_text(claims, "from"),
        xpub=_hex(claims, "xpub", 32),
        peer_xpub=_hex(claims, "peer_xpub", 32),
        iat=_number(claims, "iat"),
        exp=_number(claims, "exp"),
        nonce=_hex(claims, "nonce", 16),
    )


def check_times(claims: HelloClaims | AckClaims, now: float) -> None:
    """Raises ``BadWire`` unless the token is in force at ``now`` (seconds since 1970), give or take ``LEEWAY``."""
    if not 0 <= claims.exp - claims.iat <= LIFETIME:
        raise BadWire(f"a token for {claims.exp - claims.iat} s, {LIFETIME} s are allowed")
    if claims.iat > now + LEEWAY:
        raise BadWire(f"the token was issued {int(claims.iat - now)} s in the future: the clocks differ")
    if claims.exp < now - LEEWAY:
        raise BadWire(f"the token expired {int(now - claims.exp)} s ago: it is old, or the clocks differ")


def _check_audience(claims: Mapping[str, Json], audience: str) -> None:
    if (told := claims.get("aud")) != audience:
        raise BadWire(f"a token for {str(told)[:60]!r}, {audience!r} is needed")


def _text(claims: Mapping[str, Json], name: str) -> str:
    value = claims.get(name)
    if isinstance(value, str) and 0 < len(value) <= _MOST_NAME:
        return value
    raise _wrong(name)


def _number(claims: Mapping[str, Json], name: str, most: int = 1 << 53) -> int:
    value = claims.get(name)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most:
        return value
    raise _wrong(name)


def _hex(claims: Mapping[str, Json], name: str, size: int) -> bytes:
    """Lower-case digits only: the text itself goes into the keys."""
    value = claims.get(name)
    if isinstance(value, str) and len(value) == 2 * size and not value.strip("0123456789abcdef"):
        return bytes.fromhex(value)
    raise _wrong(name)


def _wrong(name: str) -> BadWire:
    return BadWire(f"token: {name} is missing or of the wrong kind")
