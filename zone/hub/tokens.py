"""Tokens: what verify_hub signs for users, services and devices, and what these sign to begin with.

One algorithm (EdDSA, ``cyfs_ns/identity/token.py``).  The issuer is the hub of a zone by its name, the key one of those
that this hub has published, and the audience is always said: the zone for what is shown to services, the hub for what
only it takes.  So no kind of token passes for another, and none of another zone for one of this.

| use | signed by | shown to | lives |
|---|---|---|---|
| session | hub | every service | 15 min |
| sudo | hub, after a password given just now | every service | 3 min |
| refresh | hub | hub, once | 7 days |
| bootstrap | a device, or the owner | hub, once | 5 min at most |

``jti`` of what the hub signs is the session's name, a dot and something of its own; a refresh token has its generation
there.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.did import dev_did
from cyfs_ns.identity.keys import PublicKey, SecretKey
from cyfs_ns.identity.strictjson import Json
from cyfs_ns.identity.token import Token, read_token, sign_token
from zone.config.faults import ConfigError
from zone.config.keys import check_key
from zone.hub.keyset import KeySet, Published, kid_of
from zone.krpc.faults import Code, KrpcFault

SKEW: Final = 60
"""Seconds by which two clocks of a zone may differ.  A machine whose clock is further off is refused everywhere."""
MOST_TOKEN: Final = 4096
"""Characters of a token."""
HUB: Final = "verify-hub"


class Use(StrEnum):
    """What a token is for."""

    SESSION = "session"
    SUDO = "sudo"
    REFRESH = "refresh"
    BOOTSTRAP = "bootstrap"


LIFE: Final[Mapping[Use, int]] = {Use.SESSION: 900, Use.SUDO: 180, Use.REFRESH: 7 * 24 * 3600, Use.BOOTSTRAP: 300}
"""Seconds from ``iat`` to ``exp``; of a bootstrap token, at most."""


class Type(StrEnum):
    """What somebody is: a kind of user, of service, or a machine."""

    OWNER = "owner"
    ROOT = "root"
    ADMIN = "admin"
    USER = "user"
    LIMITED = "limited"
    GUEST = "guest"
    KERNEL = "kernel"
    SYSTEM = "system"
    FRAME = "frame"
    DEVICE = "device"


PEOPLE: Final = frozenset({Type.OWNER, Type.ROOT, Type.ADMIN, Type.USER, Type.LIMITED, Type.GUEST})


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What verify_hub says of somebody."""

    use: Use
    type: Type
    sub: str
    """The user; of a service or device, the machine's name."""
    app: str = ""
    """The service; of a user, the app that acts for them, or none."""
    jti: str = field(repr=False)
    iat: int
    exp: int

    @property
    def session(self) -> str:
        """The session that it belongs to."""
        return self.jti.partition(".")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bootstrap:
    """What a device says of itself or of a service on it, or the owner of themselves."""

    device: str
    """Empty: the owner."""
    app: str
    jti: str = field(repr=False)
    exp: int


@dataclass(frozen=True, slots=True)
class Trust:
    """What a service needs for believing a token without asking anybody."""

    published: Published
    revoked: Set[str] = frozenset()
    """Sessions that ended before their time."""

    def believe(self, untrusted: str, now: float, *uses: Use) -> Claims:
        """What ``untrusted`` proves at ``now`` (Unix seconds); it has to be for one of ``uses``.

        Raises ``KrpcFault``: ``EXPIRED`` if it was good once, otherwise ``UNAUTHENTICATED``.
        """
        claims = read_claims(untrusted, self.published, now)
        if claims.use not in (uses or (Use.SESSION, Use.SUDO)):
            raise refused(f"it is for {claims.use}")
        if claims.session in self.revoked:
            raise refused("its session was ended; log in again")
        return claims


def refused(why: str) -> KrpcFault:
    return KrpcFault(Code.UNAUTHENTICATED, f"the token is refused: {why}")


def issuer_of(zone: str) -> str:
    """Whom the tokens of ``zone`` are by."""
    return f"{HUB}.{zone}"


def issued(keys: KeySet, claims: Claims) -> str:
    """The token that says ``claims``."""
    zone = keys.zone
    said: dict[str, Json] = {
        "iss": issuer_of(zone),
        "sub": claims.sub,
        "aud": issuer_of(zone) if claims.use is Use.REFRESH else zone,
        "iat": claims.iat,
        "exp": claims.exp,
        "jti": claims.jti,
        "session": claims.session,
        "appid": claims.app,
        "token_use": claims.use,
        "type": claims.type,
        "sudo": claims.use is Use.SUDO,
    }
    return sign_token(said, keys.current, kid_of(keys.current.public))


def read_claims(untrusted: str, published: Published, now: float) -> Claims:
    """What a token of the hub with these keys says.  Raises ``KrpcFault``."""
    token = _read(untrusted)
    issuer = _text(token, "iss")
    if issuer != issuer_of(published.zone):
        hub, dot, zone = issuer.partition(".")
        if hub == HUB and dot:
            raise refused(f"it is of the zone {zone[:80]!r}, this is {published.zone!r}")
        raise refused(f"its issuer is not the {HUB} of this zone")
    # The key is one that this very issuer has published, whatever other keys there are in the world.
    key = published.keys.get(token.kid or "")
    if key is None or not token.verify(key):
        raise refused(f"it is not signed with a key of the {HUB} of {published.zone}")
    try:
        use, kind = Use(_text(token, "token_use")), Type(_text(token, "type"))
    except ValueError:
        raise refused("it is of a kind that is not known here") from None
    audience = issuer_of(published.zone) if use is Use.REFRESH else published.zone
    if token.claims.get("aud") != audience:
        raise refused("it is for somebody else")
    iat, exp = _times(token, now, LIFE[use])
    claims = Claims(
        use=use,
        type=kind,
        sub=_name(token, "sub"),
        app=_name(token, "appid"),
        jti=_text(token, "jti"),
        iat=iat,
        exp=exp,
    )
    if not claims.sub or claims.session != token.claims.get("session"):
        raise refused("it contradicts itself")
    return claims


def bootstrap(zone: str, device: str, app: str, key: SecretKey, jti: str, now: float, seconds: int = 120) -> str:
    """What a device signs for a service on it, or for itself where ``app`` is empty; the owner where both are."""
    said: dict[str, Json] = {
        "iss": device,
        "sub": device,
        "aud": issuer_of(zone),
        "iat": int(now),
        "exp": int(now) + seconds,
        "jti": jti,
        "appid": app,
        "token_use": Use.BOOTSTRAP,
    }
    return sign_token(said, key, str(dev_did(key.public)))


def device_of(untrusted: str) -> str:
    """Which device a token says it is by; empty: the owner.  Nothing is proven.  Raises ``KrpcFault``."""
    return _name(_read(untrusted), "iss")


def read_bootstrap(untrusted: str, zone: str, device: str, key: PublicKey, now: float) -> Bootstrap:
    """What ``device`` says, whose key is ``key``.  Raises ``KrpcFault``."""
    token = _read(untrusted)
    if token.claims.get("aud") != issuer_of(zone):
        raise refused(f"it is not for {issuer_of(zone)}")
    if token.claims.get("token_use") != Use.BOOTSTRAP or token.claims.get("iss") != device:
        raise refused("it is not for logging in")
    if token.kid != str(dev_did(key)) or not token.verify(key):
        raise refused("it is not signed with the key that its signer has in this zone")
    if token.claims.get("sub") != device:
        raise refused("it contradicts itself")
    _, exp = _times(token, now, LIFE[Use.BOOTSTRAP])
    jti = _name(token, "jti")
    if not jti or "/" in jti:
        raise refused("it has no jti")
    return Bootstrap(device=device, app=_name(token, "appid"), jti=jti, exp=exp)


def _read(untrusted: str) -> Token:
    try:
        return read_token(untrusted, "token", MOST_TOKEN)
    except BadWire as bad:
        raise refused(str(bad)) from None


def _text(token: Token, claim: str) -> str:
    found = token.claims.get(claim)
    if not isinstance(found, str):
        raise refused(f"{claim} is missing")
    return found


def _name(token: Token, claim: str) -> str:
    """A name that may be one segment of a key, or nothing."""
    found = _text(token, claim)
    try:
        if found and "/" not in check_key(found):
            return found
    except ConfigError:
        pass
    if found:
        raise refused(f"{claim} is no name")
    return ""


def _times(token: Token, now: float, most: int) -> tuple[int, int]:
    iat, exp = token.claims.get("iat"), token.claims.get("exp")
    if type(iat) is not int or type(exp) is not int or not 0 < exp - iat <= most:
        raise refused("its times are none")
    if iat > now + SKEW:
        raise refused("it is of the future; check the clocks")
    if exp + SKEW <= now:
        raise KrpcFault(Code.EXPIRED, f"the token expired {int(now - exp)} s ago")
    return iat, exp
