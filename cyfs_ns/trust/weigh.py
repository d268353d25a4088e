"""What all claims together prove: tokens meet the keys they are signed with, and the strongest of each kind stays.

Providers bring claims that are worth their channel.  Here they are joined:

* a token is believed at *owner-signed* when the key it is signed with is pinned for whoever may speak here: for a name,
  the zone it belongs to; for an identity that is a key (``did:dev``), the owner its document names;
* else it is worth what its signer's key is worth, and for a name no more than the channel it came by, since anybody may
  sign that a name is theirs;
* a document that goes back behind one we have believed, that was issued before its owner's least ``iat``, that is for
  another zone, has ended or comes from the future is thrown away, and the fault is told;
* of several documents of one kind the newest of the strongest level stays; two for the same second are a conflict;
* a document that is believed speaks: it gives its subject a key, names and addresses.

A device stands in DNS as ``DEV`` under its zone, in so few characters that the zone is not among them (ours say it as
``z``).  One without is believed for a zone whose boot document, signed by the same key, lists a machine of that name.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.did import Did, dev_did
from cyfs_ns.identity.documents import (
    DeviceDoc,
    DeviceInfo,
    DeviceMini,
    Document,
    OwnerDoc,
    ZoneBoot,
    ZoneDoc,
    kind_of,
    read_document,
    revision_of,
    verify,
)
from cyfs_ns.identity.keys import PublicKey
from cyfs_ns.identity.revision import Change, Revision, judge
from cyfs_ns.identity.token import Token
from cyfs_ns.trust.anchors import Anchors
from cyfs_ns.trust.evidence import Claim, Evidence, Kind
from cyfs_ns.trust.level import Trust

_SINGLE: frozenset[Kind] = frozenset({"key", "document", "did", "content", "text"})
"""Kinds of which somebody has one of each name: two at one level cannot both be true."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A token that was believed, for keeping: ``about`` whom, its revision, and the level it reached."""

    about: Did
    document: Document
    token: Token
    revision: Revision
    trust: Trust


@dataclass(frozen=True, slots=True)
class Weighed:
    """``claims`` are what stays, strongest first; ``conflicts`` groups of claims that cannot all be true."""

    claims: tuple[Claim, ...]
    accepted: tuple[Accepted, ...]
    conflicts: tuple[tuple[Claim, ...], ...]
    revoked: tuple[Evidence, ...]
    faults: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Signer:
    """A key that may have signed a token; ``evidence`` is how we know that it is the issuer's.

    ``anchored``: it is pinned, and for whoever may speak for the token's subject.
    """

    key: PublicKey
    evidence: Evidence
    issuer: Did
    anchored: bool = False
    least_iat: int = 0


def weigh(claims: Iterable[Claim], anchors: Anchors, now: float) -> Weighed:
    """What ``claims`` prove at ``now``, in seconds since 1970."""
    scale = _Scale(list(claims), anchors, now)
    scale.weigh_tokens()
    strongest, conflicts = _strongest(scale.claims)
    return Weighed(
        claims=tuple(sorted(strongest, key=lambda claim: -claim.trust)),
        accepted=tuple(scale.accepted.values()),
        conflicts=tuple(conflicts),
        revoked=tuple(scale.revoked),
        faults=tuple(dict.fromkeys(scale.faults)),
    )


class _Scale:
    """The work of one weighing."""

    def __init__(self, claims: Sequence[Claim], anchors: Anchors, now: float) -> None:
        self._anchors, self._now = anchors, now
        self._tokens = [claim for claim in claims if claim.kind == "token"]
        self.faults: list[str] = []
        self.claims = [claim for claim in claims if claim.kind != "token" and not self._against_a_pin(claim)]
        self.accepted: dict[tuple[Did, str], Accepted] = {}
        self.revoked: list[Evidence] = []
        self._best: dict[tuple[Did, str], tuple[Revision, Claim]] = {}

    def _against_a_pin(self, claim: Claim) -> bool:
        """Whether a key was brought for somebody whose other key is pinned."""
        pin = self._anchors.pin(claim.about) if claim.kind == "key" else None
        if pin is None or claim.value == pin.key or not isinstance(claim.value, PublicKey):
            return False
        self.faults.append(
            f"{claim.evidence.source}: says the key of {claim.about} is {claim.value}, and {pin.key} is pinned in"
            f" {pin.source}; if it was replaced, pin the new one"
        )
        return True

    def weigh_tokens(self) -> None:
        """Boot and zone documents first: those of devices lean on them."""
        by_kind = {ZoneBoot.kind: 0, ZoneDoc.kind: 0, OwnerDoc.kind: 0}
        for claim in sorted(self._tokens, key=lambda claim: by_kind.get(kind_of(_token(claim).claims), 1)):
            try:
                self._weigh(claim, _token(claim))
            except BadWire as bad:
                self.faults.append(f"{claim.evidence.source}: {bad}")
        for _, claim in self._best.values():
            self.claims.append(claim)
            self.claims.extend(_spoken(claim))

    def _weigh(self, claim: Claim, token: Token) -> None:
        kind = kind_of(token.claims)
        written = read_document(token.claims, kind)
        about = _subject(written, claim.about)
        signer, document = self._signed_by(claim, token, written)
        self._bound(document, claim.about, signer)
        revision = revision_of(document, token)
        change = judge(self._anchors.mark(about, kind), revision, signer.least_iat)
        if change is Change.REVOKED:
            self.revoked.append(signer.evidence)
        if not change.acceptable:
            raise BadWire(f"{kind} document of {about}: {change.value}")
        evidence = Evidence(
            trust=_worth(about, signer, claim),
            what=f"{kind} document of {about}, issued {document.iat}, signed by {signer.issuer}",
            source=claim.evidence.source,
            at=claim.evidence.at,
            until=document.exp,
            because=(signer.evidence, claim.evidence),
        )
        self._put(about, document, token, revision, evidence)

    def _put(self, about: Did, document: Document, token: Token, revision: Revision, evidence: Evidence) -> None:
        slot = (about, document.kind)
        new = Claim(about=about, kind="document", key=document.kind, value=document, evidence=evidence)
        if (held := self._best.get(slot)) is not None:
            ours, theirs = (evidence.trust, revision.iat), (held[1].trust, held[0].iat)
            if ours == theirs and revision.digest != held[0].digest:
                self.claims.append(new)  # stays beside the other one: they are a conflict
                return
            if ours <= theirs:
                return
        self._best[slot] = (revision, new)
        self.accepted[slot] = Accepted(about, document, token, revision, evidence.trust)

    def _signed_by(self, claim: Claim, token: Token, written: Document) -> tuple[_Signer, Document]:
        """The strongest key that signed ``token`` and was allowed to, and what it says.  Raises ``BadWire``."""
        signers = self._signers(claim.about, written)
        if not signers:
            raise BadWire(
                f"{written.kind} document of {_subject(written, claim.about)}: nobody knows the key of its issuer"
                f" ({written.issuer or claim.about}); pin it, or publish it as PKX"
            )
        fault = None
        for signer in signers:
            try:
                # The key of a zone is its owner's, whatever name its documents give the owner.
                whose = written.issuer if signer.issuer == claim.about and written.issuer else signer.issuer
                return signer, verify(
                    token, written.kind, signer.key, self._now, issuer=whose, least_iat=signer.least_iat
                )
            except BadWire as bad:
                fault = fault or bad
                if signer.least_iat and written.iat < signer.least_iat and token.verify(signer.key):
                    self.revoked.append(signer.evidence)
        assert fault is not None
        raise fault

    def _signers(self, found_under: Did, written: Document) -> list[_Signer]:
        """Who may have signed, strongest first.  Where something is pinned nothing else counts: fail closed."""
        speaker = _speaker(written, found_under)
        if speaker is not None and (pin := self._anchors.pin(speaker)) is not None:
            if pin.revoked:
                self.revoked.append(pin.evidence)
                raise BadWire(f"{written.kind} document: the key of {speaker} is revoked on this machine")
            return [_Signer(pin.key, pin.evidence, speaker, anchored=True, least_iat=pin.least_iat)]
        found = []
        for issuer in dict.fromkeys(whose for whose in (speaker, written.issuer) if whose is not None):
            if (own := issuer.key) is not None:
                found.append(
                    _Signer(
                        own,
                        Evidence(
                            trust=Trust.KEY_PROVEN, what=f"{issuer} is this key", source="the name itself", at=self._now
                        ),
                        issuer,
                    )
                )
            found.extend(
                _Signer(claim.value, claim.evidence, issuer)
                for claim in self.claims
                if claim.kind == "key" and claim.about == issuer and isinstance(claim.value, PublicKey)
            )
        if isinstance(written, OwnerDoc) and not found:
            what = Evidence(trust=Trust.NONE, what="it names its own key", source="the document itself", at=self._now)
            found.append(_Signer(written.key, what, written.id))
        return sorted(found, key=lambda signer: -signer.evidence.trust)

    def _bound(self, document: Document, zone: Did, signer: _Signer) -> None:
        """Raises ``BadWire`` for a document that is somebody's, but not for this place."""
        if isinstance(document, ZoneBoot | ZoneDoc):
            if document.id is not None and document.id.canonical != zone.canonical:
                raise BadWire(
                    f"{document.kind} document: it is {document.id}'s, found under {zone}; publish the right one"
                )
            if document.id is None and signer.anchored:
                raise BadWire(f"{document.kind} document: it does not say which zone it is for; issue it again with id")
        elif isinstance(document, DeviceMini):
            told = document.extra.get("z")
            if told is not None and told != zone.id:
                raise BadWire(f"device-mini document: it is for {str(told)[:80]!r}, found under {zone}")
            if told is None and signer.anchored:
                boot = self._best.get((zone, ZoneBoot.kind)) or self._best.get((zone, ZoneDoc.kind))
                listed = boot[1].value.oods if boot and isinstance(boot[1].value, ZoneBoot | ZoneDoc) else ()
                if document.name not in {ood.name for ood in listed}:
                    raise BadWire(
                        f"device-mini document: {document.name!r} does not say its zone, and no boot document of {zone}"
                        " lists it; issue it again, or add it to the boot document"
                    )
        elif isinstance(document, DeviceDoc) and document.id.key is None:
            above = document.zone
            if above is None or document.id != device_did(document.name, above):
                raise BadWire(f"device document: {document.id} is not {document.name!r} of {above}; issue it again")


def _token(claim: Claim) -> Token:
    assert isinstance(claim.value, Token)
    return claim.value


def device_did(name: str, zone: Did) -> Did:
    """The identity of the machine called ``name`` in ``zone``: a child of its name."""
    return Did(zone.method, f"{name}.{zone.id}")


def _subject(document: Document, found_under: Did) -> Did:
    """Whom ``document`` is about, in the name space it was found in."""
    if isinstance(document, DeviceMini):
        return device_did(document.name, found_under)
    if isinstance(document, ZoneBoot):
        return found_under
    subject = document.subject
    assert subject is not None
    return subject


def _speaker(document: Document, found_under: Did) -> Did | None:
    """Whose pinned key may speak for the subject of ``document``."""
    if isinstance(document, ZoneBoot | ZoneDoc | DeviceMini):
        return found_under
    if isinstance(document, DeviceDoc) and document.id.key is None:
        return document.zone
    if isinstance(document, DeviceInfo):
        return document.device.id
    return document.issuer


def _worth(about: Did, signer: _Signer, claim: Claim) -> Trust:
    """The level of a token that ``signer`` signed and ``claim`` brought."""
    if signer.anchored:
        return Trust.HOST_SNAPSHOT if claim.trust == Trust.HOST_SNAPSHOT else Trust.OWNER_SIGNED
    return signer.evidence.trust if about.key is not None else min(signer.evidence.trust, claim.trust)


def _spoken(claim: Claim) -> list[Claim]:
    """What a document that is believed says."""
    document, said = claim.value, []

    def say(kind: Kind, key: str, value: str | PublicKey, about: Did, what: str) -> None:
        evidence = replace(claim.evidence, what=what, because=(claim.evidence,))
        said.append(Claim(about=about, kind=kind, key=key, value=value, evidence=evidence))

    if isinstance(document, DeviceInfo):
        for address in document.all_ips:
            say("address", "", address, claim.about, f"{claim.about} reports {address}")
        return said
    if isinstance(document, DeviceDoc | DeviceMini | OwnerDoc) or (isinstance(document, ZoneDoc) and document.key):
        key = document.main_key
        assert key is not None
        say("key", "self", key, claim.about, f"{claim.about} has the key {key.x}")
        if claim.about.key is None:
            say("did", "", str(dev_did(key)), claim.about, f"{claim.about} is {dev_did(key)}")
    if isinstance(document, DeviceDoc):
        for address in document.ips:
            say("address", "", address, claim.about, f"{document.name} is at {address}")
    if isinstance(document, ZoneBoot | ZoneDoc):
        for ood in document.oods:
            if ood.ip is not None:
                say("address", "", ood.ip, device_did(ood.name, claim.about), f"{ood.name} is at {ood.ip}")
            if ood.ip is not None and ood.is_gateway and ood.on_wan:
                say("address", "", ood.ip, claim.about, f"{ood.name}, a gateway, is at {ood.ip}")
    return said


def _strongest(claims: Iterable[Claim]) -> tuple[list[Claim], list[tuple[Claim, ...]]]:
    """Of each kind and name the claims of the highest level; and those among them that contradict each other."""
    groups: dict[tuple[Did, str, str], list[Claim]] = defaultdict(list)
    for claim in claims:
        groups[claim.about, claim.kind, claim.key].append(claim)
    kept, conflicts = [], []
    for group in groups.values():
        best = max(claim.trust for claim in group)
        top = list({_content(claim): claim for claim in reversed(group) if claim.trust == best}.values())[::-1]
        if len(top) > 1 and top[0].kind in _SINGLE:
            conflicts.append(tuple(top))
        kept.extend(top)
    return kept, conflicts


def _content(claim: Claim) -> object:
    """What two claims must share to say the same."""
    value = claim.value
    return value if isinstance(value, str | bytes | PublicKey) else repr(value)
