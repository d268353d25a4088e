"""Who may have signed a document, and what that is worth.

Where a key is pinned for whoever decides about a document, it is the only one: fail closed.  Else each key that is
known of them counts as much as it is known, and no more than the way the document came by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.did import Did
from cyfs_ns.identity.documents import Document, OwnerDoc
from cyfs_ns.identity.keys import PublicKey
from cyfs_ns.trust.anchors import Anchors, Pin
from cyfs_ns.trust.evidence import KEPT_THERE, Claim, Evidence
from cyfs_ns.trust.level import Trust
from cyfs_ns.trust.places import is_within, speakers_for


class PinEnded(BadWire):
    """``pin``, which decides here, is revoked."""

    def __init__(self, why: str, pin: Pin) -> None:
        super().__init__(why)
        self.pin = pin


@dataclass(frozen=True, slots=True)
class Signer:
    """A key that may have signed a token; ``evidence`` is how we know that it is the issuer's.

    ``anchored``: it is pinned, and for whoever may speak for the token's subject.
    """

    key: PublicKey
    evidence: Evidence
    issuer: Did
    anchored: bool = False
    least_iat: int = 0


def signers(written: Document, found_under: Did, claims: Sequence[Claim], anchors: Anchors, now: float) -> list[Signer]:
    """Who may have signed ``written``, strongest first, by what ``claims`` say of keys.

    Raises ``BadWire`` where nobody may, ``PinEnded`` where somebody might have.
    """
    speakers = speakers_for(written, found_under)
    if pins := [pin for whose in speakers if (pin := anchors.pin(whose)) is not None]:
        return [_anchored(written, pins)]
    found = []
    for issuer in dict.fromkeys(whose.canonical for whose in (*speakers, written.issuer) if whose is not None):
        if (own := issuer.key) is not None:
            found.append(
                Signer(
                    own,
                    Evidence(trust=Trust.KEY_PROVEN, what=f"{issuer} is this key", source="the name itself", at=now),
                    issuer,
                )
            )
        found.extend(
            Signer(claim.value, claim.evidence, issuer)
            for claim in claims
            if claim.kind == "key" and claim.about == issuer and isinstance(claim.value, PublicKey)
        )
    if isinstance(written, OwnerDoc) and not found:
        what = Evidence(trust=Trust.NONE, what="it names its own key", source="the document itself", at=now)
        found.append(Signer(written.key, what, written.id))
    if any(signer.key in anchors.revoked_keys for signer in found):
        raise BadWire(f"{written.kind} document: signed with a key that is revoked on this machine")
    return sorted(found, key=lambda signer: -signer.evidence.trust)


def worth(about: Did, signer: Signer, claim: Claim) -> Trust:
    """The level of a token that ``signer`` signed and ``claim`` brought."""
    if signer.anchored:
        is_old = claim.trust == Trust.HOST_SNAPSHOT or claim.key == KEPT_THERE
        return Trust.HOST_SNAPSHOT if is_old else Trust.OWNER_SIGNED
    if about.key is not None and signer.key == about.key:
        return signer.evidence.trust
    return min(signer.evidence.trust, claim.trust) if is_within(about, claim.about) else Trust.NONE


def _anchored(written: Document, pins: list[Pin]) -> Signer:
    for pin in pins:
        if pin.revoked:
            raise PinEnded(f"{written.kind} document: the key of {pin.about} is revoked on this machine", pin)
        if pin.key != pins[0].key:
            whose = f"{pin.about} and {pins[0].about}"
            raise BadWire(f"{written.kind} document: it is of {whose}, which are pinned with different keys")
    least = max(pin.least_iat for pin in pins)
    return Signer(pins[0].key, pins[0].evidence, pins[0].about.canonical, anchored=True, least_iat=least)
