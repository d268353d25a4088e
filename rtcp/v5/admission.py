"""Whether a caller who proved its key may have a tunnel: what can be said before anybody is asked (§4 of the document).

The handshake has done version 4's checks 1 to 4 and 8.  What is left of them is names: that the caller means us, and
that there is a document of that key for any name that is not the key itself.  Then a resolver is asked, and
``rtcp.admission.decide`` judges what it found, for both versions alike.
"""

from __future__ import annotations

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.did import dev_did, parse_did
from rtcp.admission import Policy, Proven, candidate
from rtcp.party import Local
from rtcp.v5.closing import Close, CloseCode
from rtcp.v5.payloads import Introduction

REFUSED_WAIT = 60
"""Seconds for which whoever was refused stays away."""


def examine(introduction: Introduction, local: Local, policy: Policy) -> Proven | Close:
    """Who calls for a new tunnel, as far as it is proven; or why it is turned away."""
    if not _means_us(introduction.to, local):
        return Close(CloseCode.UNKNOWN_NAME, 0, "nobody of that name is here")
    try:
        named = parse_did(introduction.sender).canonical if introduction.sender else dev_did(introduction.key)
    except BadWire as bad:
        return Close(CloseCode.FAULT, REFUSED_WAIT, str(bad))
    try:
        document, key = candidate(named, introduction.document or None)
    except BadWire as bad:
        return Close(CloseCode.REFUSED, REFUSED_WAIT, str(bad))
    if key != introduction.key:
        return Close(CloseCode.REFUSED, REFUSED_WAIT, "that name has another key than was proven")
    if document is None and not policy.anonymous:
        return Close(CloseCode.REFUSED, REFUSED_WAIT, "peers without a name are not let in here")
    return Proven(key, named, document)


def _means_us(untrusted: str, local: Local) -> bool:
    if not untrusted:
        return True
    try:
        return local.answers_to(parse_did(untrusted))
    except BadWire:
        return False
