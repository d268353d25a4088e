"""The door to belief: a token becomes a document only by the key it was signed with, in its time.

Whose key that is, the caller knows: from a pin, from the zone's record, from the name that is a key.  Here it is held
against everything the token says of its signer and of its age, and one rule that is broken refuses the whole.
"""

from __future__ import annotations

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.did import Did, dev_did
from cyfs_ns.identity.documents import MAIN_KEY, Document
from cyfs_ns.identity.keys import PublicKey
from cyfs_ns.identity.reading import read_document
from cyfs_ns.identity.token import Token

CLOCK_SKEW = 60
"""Seconds by which two honest clocks may differ."""


class NotYet(BadWire):
    """Signed as it must be, and dated later than it is here."""


def verify(
    token: Token, kind: str, key: PublicKey, now: float, *, issuer: Did | None = None, least_iat: int = 0
) -> Document:
    """The document in ``token``, signed with ``key`` and in force at ``now`` (seconds since 1970).

    ``issuer`` is whose key that is, for documents that name their issuer and for tokens with a ``kid``.  Raises
    ``BadWire``, which names the document, the rule it broke and what to do.
    """
    if not token.verify(key):
        raise BadWire(f"{kind} document: not signed by {key.x}; get it again from whoever issued it")
    if token.kid is not None and token.kid not in _names_of(key, issuer):
        raise BadWire(f"{kind} document: kid {token.kid[:60]!r} is not its issuer's; it has to be issued again")
    document = read_document(token.claims, kind)
    told = document.issuer
    if issuer is not None and told is not None and told.canonical not in (issuer.canonical, dev_did(key)):
        raise BadWire(f"{kind} document: says it is {told}'s, signed by {issuer}; ask {told} for one")
    if document.iat > now + CLOCK_SKEW:
        raise NotYet(f"{kind} document: issued {int(document.iat - now)} s in the future; check the clocks")
    if document.exp <= now:
        raise BadWire(f"{kind} document: expired {int(now - document.exp)} s ago; its owner has to issue a new one")
    if document.iat < least_iat:
        raise BadWire(f"{kind} document: issued before {least_iat}, revoked by its owner; get the new one")
    return document


def _names_of(key: PublicKey, issuer: Did | None) -> frozenset[str]:
    """All the ways a ``kid`` may name ``key``."""
    whose = [dev_did(key)] if issuer is None else [dev_did(key), issuer]
    return frozenset({key.x, MAIN_KEY, *(str(did) for did in whose), *(f"{did}{MAIN_KEY}" for did in whose)})
