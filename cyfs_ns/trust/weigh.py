"""What all claims together prove: tokens meet the keys they are signed with, and the strongest of each kind stays.

Providers bring claims that are worth their channel.  Here they are joined:

* a token is believed at *owner-signed* when the key it is signed with is pinned for whoever may speak here: for a name,
  the zone it belongs to; for an identity that is a key (``did:dev``), the owner its document names;
* else it is worth what its signer's key is worth and no more than the channel it came by, since anybody may sign that
  a name, or somebody's machine, is theirs; what a key signs of itself needs no channel;
* a place speaks for itself and the machines below it: what is found there about others is worth nothing, unless
  somebody who is pinned has signed it;
* what was kept here counts as long as its pin does;
* a document that goes back behind one we have believed, that was issued before its owner's least ``iat``, that is for
  another zone, has ended or comes from the future is thrown away, and the fault is told;
* of several documents of one kind the newest that somebody pinned has signed stays, else the newest of the strongest
  level; two for the same second are a conflict;
* a document that is believed speaks: it gives its subject a key, names and addresses.

A device stands in DNS as ``DEV`` under its zone, in so few characters that the zone is not among them (ours say it as
``z``).  One without is believed for a zone whose boot document, signed by the same key, lists a machine of that name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from cyfs_ns.clock import is_unset, why_unset
from cyfs_ns.errors import BadWire
from cyfs_ns.identity.did import Did
from cyfs_ns.identity.documents import Document, OwnerDoc, ZoneBoot, ZoneDoc
from cyfs_ns.identity.keys import PublicKey
from cyfs_ns.identity.proof import CLOCK_SKEW, NotYet, verify
from cyfs_ns.identity.reading import kind_of, read_document
from cyfs_ns.identity.revision import judge, revision_of
from cyfs_ns.identity.token import Token
from cyfs_ns.trust.anchors import Anchors
from cyfs_ns.trust.evidence import Claim, Evidence, Refusal
from cyfs_ns.trust.level import Trust
from cyfs_ns.trust.places import check_place, speakers_for, subject_of, zone_of
from cyfs_ns.trust.signers import PinEnded, Signer, signers, worth
from cyfs_ns.trust.spoken import key_in, spoken
from cyfs_ns.trust.strongest import Accepted, Slot, strongest

KEPT = "kept"
"""The key of a claim with a token that this machine believed under a pin and kept."""


@dataclass(frozen=True, slots=True)
class Weighed:
    """``claims`` are what stays, strongest first; ``conflicts`` groups of claims that cannot all be true; ``revoked``
    whom something ended, and what.  ``refused`` are those of the ``faults`` that a pin decided: what others brought of
    somebody who is pinned, and does not hold."""

    claims: tuple[Claim, ...]
    accepted: tuple[Accepted, ...]
    conflicts: tuple[tuple[Claim, ...], ...]
    revoked: tuple[tuple[Did, Evidence], ...]
    faults: tuple[str, ...]
    refused: tuple[Refusal, ...]


def weigh(claims: Iterable[Claim], anchors: Anchors, now: float, clock: float | None = None) -> Weighed:
    """What ``claims`` prove at ``now``, in seconds since 1970; ``clock`` is what this machine's says, if that is less
    than it must be by what we hold."""
    scale = _Scale(list(claims), anchors, now, now if clock is None else clock)
    scale.weigh_tokens()
    stay, conflicts = strongest(scale.claims)
    return Weighed(
        claims=tuple(sorted(stay, key=lambda claim: -claim.trust)),
        accepted=tuple(scale.accepted),
        conflicts=tuple(conflicts),
        revoked=tuple(scale.revoked),
        faults=tuple(dict.fromkeys(scale.faults)),
        refused=tuple(dict.fromkeys(scale.refused)),
    )


class _Scale:
    """The work of one weighing."""

    def __init__(self, claims: Sequence[Claim], anchors: Anchors, now: float, clock: float) -> None:
        self._anchors, self._now, self._clock = anchors, now, clock
        claims = [replace(claim, about=claim.about.canonical) for claim in claims]
        self._tokens = [claim for claim in claims if claim.kind == "token"]
        self.faults: list[str] = []
        self.refused: list[Refusal] = []
        self.revoked: list[tuple[Did, Evidence]] = []
        self.claims = [claim for claim in claims if claim.kind != "token" and self._may_stay(claim)]
        self.accepted: list[Accepted] = []
        self._slots: dict[tuple[Did, str], Slot] = {}

    def _may_stay(self, claim: Claim) -> bool:
        """Whether what was brought unsigned is in force, and does not go against a pin."""
        value = claim.value
        unsigned = None if isinstance(value, str | bytes | PublicKey | Token) else value
        if unsigned is not None and not unsigned.iat - CLOCK_SKEW <= self._now < unsigned.exp:
            self._refuse(claim, f"{unsigned.kind} document of {claim.about}: expired, or from the future", claim.about)
            return False
        pin = self._anchors.pin(claim.about)
        if pin is None:
            return True
        if pin.revoked:
            self.revoked.append((claim.about, pin.evidence))
            return False
        given = key_in(claim)
        if given in (None, pin.key) or (claim.kind != "key" and claim.trust >= Trust.HOST_SNAPSHOT):
            return True
        self._refuse(
            claim,
            f"says the key of {claim.about} is {given}, and {pin.key} is pinned in"
            f" {pin.source}; if it was replaced, pin the new one",
            claim.about,
        )
        return False

    def _refuse(self, claim: Claim, why: str, about: Did, speakers: Iterable[Did] = ()) -> None:
        """Tell what is wrong with ``claim``, of which ``speakers`` or, without them, ``about`` decide."""
        self.faults.append(f"{claim.evidence.source}: {why}")
        # What was kept here and has ended since is nobody's attempt.
        if claim.key != KEPT and any(self._anchors.pin(whose) is not None for whose in speakers or (about,)):
            self.refused.append(Refusal(about.canonical, why))

    def weigh_tokens(self) -> None:
        """Boot and zone documents first: those of devices lean on them."""
        by_kind = {ZoneBoot.kind: 0, ZoneDoc.kind: 0, OwnerDoc.kind: 0}
        for claim in sorted(self._tokens, key=lambda claim: by_kind.get(kind_of(_token(claim).claims), 1)):
            token, about, speakers = _token(claim), claim.about, [claim.about]
            try:
                written = read_document(token.claims, kind_of(token.claims))
                about, speakers = subject_of(written, claim.about), speakers_for(written, claim.about)
                self._weigh(claim, token, written)
            except NotYet as early:
                if is_unset(self._clock):
                    # This machine's fault, and nobody's attempt: the DNS may say where to ask for the time.
                    self.faults.append(f"{claim.evidence.source}: {why_unset(self._clock)}; {early}")
                else:
                    self._refuse(claim, str(early), about, speakers)
            except BadWire as bad:
                self._refuse(claim, str(bad), about, speakers)
        for slot in self._slots.values():
            # Two truths for one moment both speak, and are told as a conflict; neither is to be kept.
            if len(slot.best) == 1:
                self.accepted.extend(accepted for _, accepted in slot.best.values())
            for claim, _ in slot.best.values():
                self.claims.append(claim)
                self.claims.extend(spoken(claim))

    def _weigh(self, claim: Claim, token: Token, written: Document) -> None:
        kind, about = written.kind, subject_of(written, claim.about).canonical
        signer, document = self._signed_by(claim, token, written)
        if claim.key == KEPT and not signer.anchored:
            return
        check_place(document, claim.about, lambda: self._machines(claim.about), anchored=signer.anchored)
        revision = revision_of(document, token)
        if signer.anchored and (lost := self._anchors.lost(about, kind, signer.key)) is not None:
            raise BadWire(f"{kind} document of {about}: {lost}")
        change = judge(self._anchors.mark(about, kind, signer.key), revision, signer.least_iat)
        if not change.acceptable:
            raise BadWire(f"{kind} document of {about}: {change.value}")
        evidence = Evidence(
            trust=worth(about, signer, claim),
            what=f"{kind} document of {about}, issued {document.iat}, signed by {signer.issuer}",
            source=claim.evidence.source,
            at=claim.evidence.at,
            until=document.exp,
            because=(signer.evidence, claim.evidence),
        )
        new = Claim(about=about, kind="document", key=kind, value=document, evidence=evidence)
        accepted = Accepted(about, document, token, revision, evidence.trust, signer.key, signer.anchored)
        self._slots.setdefault((about, kind), Slot()).put(new, accepted)

    def _signed_by(self, claim: Claim, token: Token, written: Document) -> tuple[Signer, Document]:
        """The strongest key that signed ``token`` and was allowed to, and what it says.  Raises ``BadWire``."""
        try:
            able = signers(written, claim.about, self.claims, self._anchors, self._now)
        except PinEnded as ended:
            self.revoked.append((subject_of(written, claim.about).canonical, ended.pin.evidence))
            raise
        if not able:
            raise BadWire(
                f"{written.kind} document of {subject_of(written, claim.about)}: nobody knows the key of its issuer"
                f" ({written.issuer or claim.about}); pin it, or publish it as PKX"
            )
        fault = None
        for signer in able:
            try:
                # The key of a zone is its owner's, whatever name its documents give the owner.
                zones = (claim.about, zone_of(written))
                whose = written.issuer if signer.issuer in zones and written.issuer else signer.issuer
                return signer, verify(
                    token, written.kind, signer.key, self._now, issuer=whose, least_iat=signer.least_iat
                )
            except BadWire as bad:
                fault = fault or bad
                if signer.least_iat and written.iat < signer.least_iat and token.verify(signer.key):
                    self.revoked.append((subject_of(written, claim.about).canonical, signer.evidence))
        assert fault is not None
        raise fault

    def _machines(self, zone: Did) -> set[str]:
        """The names that the zone's own documents list."""
        slots = (self._slots.get((zone, kind)) for kind in (ZoneBoot.kind, ZoneDoc.kind))
        lists = (claim.value for slot in slots if slot for claim, _ in slot.best.values())
        return {ood.name for one in lists if isinstance(one, ZoneBoot | ZoneDoc) for ood in one.oods}


def _token(claim: Claim) -> Token:
    assert isinstance(claim.value, Token)
    return claim.value
