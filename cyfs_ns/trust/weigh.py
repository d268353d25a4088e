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
* what somebody pinned has stated in the other form of a document since (``forms.py``) is in force instead of what the
  older one states; if the newer one is known by its mark alone, nothing is in its place;
* a document that is believed speaks: it gives its subject a key, names and addresses.

A device stands in DNS as ``DEV`` under its zone, in so few characters that the zone is not among them (ours say it as
``z``).  One without is believed for a zone whose boot document, signed by the same key, lists a machine of that name.
A long document about the key of a device speaks for its name too, if the pinned key of the zone it names has signed it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from cyfs_ns.clock import is_unset, why_unset
from cyfs_ns.errors import BadWire
from cyfs_ns.identity.did import Did
from cyfs_ns.identity.documents import DeviceDoc, Document, OwnerDoc, ZoneBoot, ZoneDoc
from cyfs_ns.identity.keys import PublicKey
from cyfs_ns.identity.proof import CLOCK_SKEW, NotYet, verify
from cyfs_ns.identity.reading import kind_of, read_document
from cyfs_ns.identity.revision import judge, revision_of
from cyfs_ns.identity.token import Token
from cyfs_ns.trust.anchors import Anchors
from cyfs_ns.trust.evidence import Claim, Evidence, Refusal
from cyfs_ns.trust.forms import MACHINES, OTHER_FORM, differing, shared, without
from cyfs_ns.trust.level import Trust
from cyfs_ns.trust.places import check_place, device_did, speakers_for, subject_of, zone_of
from cyfs_ns.trust.signers import PinEnded, Signer, signers, worth
from cyfs_ns.trust.spoken import key_in, spoken
from cyfs_ns.trust.strongest import Accepted, Slot, strongest

KEPT = "kept"
"""The key of a claim with a token that this machine believed under a pin and kept."""


@dataclass(frozen=True, slots=True)
class Weighed:
    """``claims`` are what stays, strongest first; ``conflicts`` groups of claims that cannot all be true; ``revoked``
    whom something ended, and what.  ``refused`` are those of the ``faults`` that a pin decided: what others brought of
    somebody who is pinned, and does not hold.  ``notices`` tell what of a document that holds is superseded, and by
    which."""

    claims: tuple[Claim, ...]
    accepted: tuple[Accepted, ...]
    conflicts: tuple[tuple[Claim, ...], ...]
    revoked: tuple[tuple[Did, Evidence], ...]
    faults: tuple[str, ...]
    refused: tuple[Refusal, ...]
    notices: tuple[str, ...] = ()


def weigh(claims: Iterable[Claim], anchors: Anchors, now: float, clock: float | None = None) -> Weighed:
    """What ``claims`` prove at ``now``, in seconds since 1970; ``clock`` is what this machine's says, if that is less
    than it must be by what we hold."""
    scale = _Scale(list(claims), anchors, now, now if clock is None else clock)
    scale.weigh_tokens()
    stay, conflicts = strongest(scale.claims)
    return Weighed(
        claims=tuple(sorted(stay, key=lambda claim: -claim.trust)),
        accepted=tuple(scale.accepted),
        conflicts=(*conflicts, *scale.conflicts),
        revoked=tuple(scale.revoked),
        faults=tuple(dict.fromkeys(scale.faults)),
        refused=tuple(dict.fromkeys(scale.refused)),
        notices=tuple(dict.fromkeys(scale.notices)),
    )


class _Scale:
    """The work of one weighing."""

    def __init__(self, claims: Sequence[Claim], anchors: Anchors, now: float, clock: float) -> None:
        self._anchors, self._now, self._clock = anchors, now, clock
        claims = [replace(claim, about=claim.about.canonical) for claim in claims]
        self._tokens = [claim for claim in claims if claim.kind == "token"]
        self.faults: list[str] = []
        self.notices: list[str] = []
        self.conflicts: list[tuple[Claim, ...]] = []
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
        standing = {place: self._standing(*place) for place in self._slots}
        disputed: set[tuple[Did, str]] = set()
        for (about, kind), claims in standing.items():
            for rival in standing.get((about, OTHER_FORM.get(kind, "")), ()):
                disputed.update((about, kind) for one in claims if self._contradict(one, rival))
        for place, claims in standing.items():
            # Two truths for one moment both speak, and are told as a conflict; neither is to be kept.
            if len(claims) == 1 and place not in disputed:
                self.accepted.extend(accepted for _, accepted in claims)
            for claim, _ in claims:
                self.claims.append(claim)
                self.claims.extend(spoken(claim))

    def _standing(self, about: Did, kind: str) -> list[tuple[Claim, Accepted]]:
        """The best documents of a kind, without what was stated anew in their other form."""
        slot = self._slots.get((about, kind), Slot())
        return [(left, one[1]) for one in slot.best.values() if (left := self._left(*one)) is not None]

    def _left(self, claim: Claim, accepted: Accepted) -> Claim | None:
        """``claim`` without what was stated anew in its other form; None: nothing is left of it."""
        document, about, other = accepted.document, accepted.about, OTHER_FORM.get(accepted.document.kind)
        if other is None or not accepted.pinned:
            return claim
        claim = self._where_it_is(claim, accepted)
        slot = self._slots.get((about, other), Slot())
        rivals = [one for _, one in slot.best.values() if one.pinned and one.key == accepted.key]
        newer = [one for one in rivals if one.revision.iat > accepted.revision.iat]
        mark = self._anchors.mark(about, other, accepted.key)
        is_lost = self._anchors.lost(about, other, accepted.key) is not None
        if newer:
            gone = tuple(dict.fromkeys(what for one in newer for what in differing(document, one.document)))
            why = f"superseded by the {other} document issued {newer[0].revision.iat}"
        elif not rivals and (is_lost or (mark is not None and mark.iat > accepted.revision.iat)):
            gone = tuple(shared(document))
            since = "at a time that is lost" if mark is None else str(mark.iat)
            why = f"not believed: the {other} document issued {since} is newer, and not heard now; issue both again"
        else:
            return claim
        if not gone:
            return claim
        verb = "is" if len(gone) == 1 and gone != (MACHINES,) else "are"
        told = f"{document.kind} document of {about}, issued {document.iat}: its {' and '.join(gone)} {verb} {why}"
        left = without(document, gone)
        (self.notices if newer or left is not None else self.faults).append(f"{claim.evidence.source}: {told}")
        if not newer:
            self.refused.append(Refusal(about, told))
        if isinstance(left, DeviceDoc) and isinstance(claim.value, DeviceDoc):
            left = replace(left, ips=claim.value.ips)
        return None if left is None else replace(claim, value=left)

    def _where_it_is(self, claim: Claim, accepted: Accepted) -> Claim:
        """A device document without its addresses, if a newer list of its zone's machines says another or is lost."""
        document, about = accepted.document, accepted.about
        if not isinstance(document, DeviceDoc) or not document.ips or about.key is not None or "." not in about.id:
            return claim
        zone = Did(about.method, about.id.partition(".")[2])
        told = None
        for kind in (ZoneBoot.kind, ZoneDoc.kind):
            mark = self._anchors.mark(zone, kind, accepted.key)
            lists = [one for one in self._standing(zone, kind) if one[1].key == accepted.key]
            if not lists and mark is not None and mark.iat > document.iat:
                told = told or f"not believed: the {kind} document issued {mark.iat} is newer, and not heard now"
            for listed, one in lists:
                assert isinstance(listed.value, ZoneBoot | ZoneDoc)
                places = {
                    ood.ip for ood in listed.value.oods if device_did(ood.name, zone).canonical == about and ood.ip
                }
                if one.revision.iat > document.iat and places and not places & set(document.ips):
                    told = f"superseded by the {kind} document issued {one.revision.iat}"
        if told is None:
            return claim
        which = f"{document.kind} document of {about}, issued {document.iat}"
        self.notices.append(f"{claim.evidence.source}: {which}: its addresses are {told}")
        return replace(claim, value=replace(document, ips=()))

    def _contradict(self, one: tuple[Claim, Accepted], other: tuple[Claim, Accepted]) -> bool:
        """Whether two forms of one moment state different things, by the same pinned key; it is told once."""
        (claim, mine), (rival, its) = one, other
        if not (mine.pinned and its.pinned and mine.key == its.key and mine.revision.iat == its.revision.iat):
            return False
        what = differing(mine.document, its.document)
        sides = tuple(sorted((claim, rival), key=lambda side: (-side.trust, side.key)))
        if what and sides not in self.conflicts:
            self.conflicts.append(sides)
            self.notices.append(
                f"{claim.evidence.source}: the {claim.key} and the {rival.key} document of {claim.about}, both issued"
                f" {mine.revision.iat}, differ in {' and '.join(what)}; issue both again"
            )
        return bool(what)

    def _weigh(self, claim: Claim, token: Token, written: Document) -> None:
        about = subject_of(written, claim.about).canonical
        signer, document = self._signed_by(claim, token, written)
        if claim.key == KEPT and not signer.anchored:
            return
        check_place(document, claim.about, lambda: self._machines(claim.about), anchored=signer.anchored)
        self._put(about, claim, token, signer, document)
        if (name := self._name_of(document, signer)) is not None:
            try:
                self._put(name, claim, token, signer, document)
            except BadWire as bad:
                self._refuse(claim, str(bad), name, speakers_for(document, claim.about))

    def _name_of(self, document: Document, signer: Signer) -> Did | None:
        """The name in its zone of a device whose document is about its key, if it is the zone's owner who says so."""
        if not isinstance(document, DeviceDoc) or document.id.key is None or document.zone is None:
            return None
        # An owner who is pinned for themselves alone does not speak for zones.
        if not signer.anchored or self._anchors.pin(document.zone) is None:
            return None
        return device_did(document.name, document.zone).canonical

    def _put(self, about: Did, claim: Claim, token: Token, signer: Signer, document: Document) -> None:
        """Let ``document`` speak for ``about``, unless something better does.  Raises ``BadWire`` if it goes back."""
        kind, revision = document.kind, revision_of(document, token)
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
        lists = (one.value for kind in (ZoneBoot.kind, ZoneDoc.kind) for one, _ in self._standing(zone, kind))
        return {ood.name for one in lists if isinstance(one, ZoneBoot | ZoneDoc) for ood in one.oods}


def _token(claim: Claim) -> Token:
    assert isinstance(claim.value, Token)
    return claim.value
