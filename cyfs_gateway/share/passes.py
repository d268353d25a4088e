"""Who may visit what, and until when: grants, and the signed words that prove them.

A *grant* is the owner's: one service on one host, until a moment.  Two tokens speak of it (Ed25519,
:mod:`cyfs_ns.identity.token`), each with these claims and no others::

    {"kind": "share-link" | "share-cookie", "id": ID, "service": "photos", "host": "photos.me.example", "exp": …}

The link is handed around; the cookie is what a browser keeps for it.  Neither passes for the other, so that what a
page's scripts, logs and histories see of a link never opens the service by itself once the link has been withdrawn and
what a cookie jar has cannot be sent on as a link.

A grant may be for one machine, by its key.  Its link opens nothing without a third token beside it, the *proof*, which
that machine signs anew for each time, for some minutes, and which counts once::

    {"kind": "share-proof", "id": ID, "host": "photos.me.example", "exp": …, "nonce": "…"}

A token alone opens nothing: its grant must be in the owner's book, as it was given.  What is revoked is struck out
there, so nothing that was signed before comes back, and a book that is lost lets nobody in.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, TypeAlias

from cyfs_ns.errors import BadWire, Refused
from cyfs_ns.identity.did import parse_did
from cyfs_ns.identity.keys import PublicKey, SecretKey
from cyfs_ns.identity.strictjson import Json
from cyfs_ns.identity.token import read_token, sign_token

Kind: TypeAlias = Literal["share-link", "share-cookie"]
MOST_TOKEN: Final = 1024
MOST_NOTE: Final = 80
ID: Final = re.compile(r"[0-9a-f]{16}").fullmatch
"""Eight random bytes."""
SERVICE: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,31}").fullmatch

PROOF_SECONDS: Final = 120
"""For which a proof is signed."""
_LONGEST_PROOF: Final = 300
"""What is accepted: clocks differ."""
MOST_SPENT: Final = 1024
"""Proofs that are remembered because they have counted."""

_CLAIMS: Final = frozenset({"kind", "id", "service", "host", "exp"})
_PROOF_CLAIMS: Final = frozenset({"kind", "id", "host", "exp", "nonce"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """One service for whoever has its link.  Times are whole seconds since 1970."""

    id: str
    service: str
    host: str
    made: int
    until: int
    note: str = ""
    """For whom, in the owner's words."""
    whose: str = ""
    """DID of the machine that has to prove itself, a key; empty: whoever has the link."""


def write_pass(grant: Grant, kind: Kind, key: SecretKey) -> str:
    """The token of a grant."""
    claims: dict[str, Json] = {
        "kind": kind,
        "id": grant.id,
        "service": grant.service,
        "host": grant.host,
        "exp": grant.until,
    }
    return sign_token(claims, key)


def admit(
    untrusted: str, kind: Kind, *, service: str, host: str, grants: Mapping[str, Grant], key: PublicKey, now: float
) -> Grant:
    """The grant by which a token opens ``service`` on ``host`` now.

    Raises ``BadWire`` for what we never signed, ``Refused`` for what is no longer, or was never meant for this.
    """
    token = read_token(untrusted, "share", MOST_TOKEN)
    if not token.verify(key):
        raise BadWire("share: not signed here")
    claims = token.claims
    if claims.keys() != _CLAIMS or claims["kind"] != kind:
        raise Refused(f"this is no {kind}")
    grant = grants.get(str(claims["id"]))
    if grant is None:
        raise Refused("this link has been withdrawn")
    if (claims["service"], claims["host"], claims["exp"]) != (grant.service, grant.host, grant.until):
        raise Refused("this link was given for something else")
    if (grant.service, grant.host) != (service, host):
        raise Refused("this link is for another service")
    if now >= grant.until:
        raise Refused("this link has expired")
    return grant


def write_proof(id: str, host: str, key: SecretKey, now: float, nonce: str) -> str:
    """What the holder of ``key`` says to open the link ``id`` on ``host``; ``nonce`` makes it unlike any other."""
    claims: dict[str, Json] = {
        "kind": "share-proof",
        "id": id,
        "host": host,
        "exp": int(now) + PROOF_SECONDS,
        "nonce": nonce,
    }
    return sign_token(claims, key)


def check_proof(untrusted: str, grant: Grant, spent: Container[str], now: float) -> tuple[str, int]:
    """By what a proof is known that counts for ``grant``, and until when it has to be remembered.

    Raises ``BadWire`` and ``Refused`` as :func:`admit`; ``spent`` are those that have counted.
    """
    token = read_token(untrusted, "proof", MOST_TOKEN)
    key = parse_did(grant.whose).key
    if key is None or not token.verify(key):
        raise Refused("this proof is not by the machine that the link is for")
    claims = token.claims
    if claims.keys() != _PROOF_CLAIMS or claims["kind"] != "share-proof":
        raise Refused("this is no proof")
    if (claims["id"], claims["host"]) != (grant.id, grant.host):
        raise Refused("this proof is for another link")
    exp = claims["exp"]
    if type(exp) is not int or not now < exp <= now + _LONGEST_PROOF:
        raise Refused("this proof is not of these minutes")
    if token.digest in spent:
        raise Refused("this proof has been used")
    return token.digest, exp


def read_spent(untrusted: Any) -> dict[str, int]:
    """Proofs that have counted, and until when they would again (Unix time).  Raises ``BadWire``."""
    is_one = isinstance(untrusted, dict) and all(type(until) is int for until in untrusted.values())
    if not is_one:
        raise BadWire("shares: no object of proofs")
    return dict(untrusted)


def write_grants(grants: Mapping[str, Grant]) -> dict[str, Any]:
    """The book, as JSON has it."""
    return {grant.id: asdict(grant) for grant in grants.values()}


def read_grants(untrusted: Any) -> dict[str, Grant]:
    """The book.  Raises ``BadWire`` if any of it makes no sense: a book that was tampered with admits nobody."""
    if not isinstance(untrusted, dict):
        raise BadWire("shares: no object of grants")
    found = {}
    for key, each in untrusted.items():
        try:
            grant = Grant(**each)
        except TypeError:
            raise BadWire(f"shares: {str(key)[:20]!r} is no grant") from None
        texts = all(isinstance(text, str) for text in (grant.id, grant.service, grant.host, grant.note))
        if not texts or type(grant.made) is not int or type(grant.until) is not int or grant.id != key:
            raise BadWire(f"shares: {str(key)[:20]!r} is no grant")
        if not isinstance(grant.whose, str) or (grant.whose and parse_did(grant.whose).key is None):
            raise BadWire(f"shares: {str(key)[:20]!r} is for nobody")
        if ID(grant.id) is None or SERVICE(grant.service) is None:
            raise BadWire(f"shares: {str(key)[:20]!r} is no grant")
        found[grant.id] = grant
    return found
