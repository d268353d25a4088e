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

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.did import Did, dev_did, parse_did
from cyfs_ns.identity.documents import (
    CLOCK_SKEW,
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
from cyfs_ns.identity.revision import Revision, judge
from cyfs_ns.identity.token import Token
from cyfs_ns.trust.anchors import Anchors
from cyfs_ns.trust.evidence import Claim, Evidence, Kind
from cyfs_ns.trust.level import Trust

_SINGLE: frozenset[Kind] = frozenset({"key", "document", "did", "content", "text"})
"""Kinds of which somebody has one of each name: two at one level cannot both be true."""

KEPT = "kept"
"""The key of a claim with a token that this machine believed under a pin and kept."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A token that was believed, for keeping: ``about`` whom, its revision, and the level it reached.

    ``key`` has signed it; ``pinned``: by a pin it may speak here.
    """

    about: Did
    document: Document
    token: Token
    revision: Revision
    trust: Trust
    key: PublicKey
    pinned: bool


@dataclass(frozen=True, slots=True)
class Weighed:
    """``claims`` are what stays, strongest first; ``conflicts`` groups of claims that cannot all be true; ``revoked``
    whom something ended, and what."""

    claims: tuple[Claim, ...]
    accepted: tuple[Accepted, ...]
    conflicts: tuple[tuple[Claim, ...], ...]
    revoked: tuple[tuple[Did, Evidence], ...]
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
        accepted=tuple(scale.accepted),
        conflicts=tuple(conflicts),
        revoked=tuple(scale.revoked),
        faults=tuple(dict.fromkeys(scale.faults)),
    )


class _Scale:
    """The work of one weighing."""

    def __init__(self, claims: Sequence[Claim], anchors: Anchors, now: float) -> None:
        self._anchors, self._now = anchors, now
        claims = [replace(claim, about=claim.about.canonical) for claim in claims]
        self._tokens = [claim for claim in claims if claim.kind == "token"]
        self.faults: list[str] = []
        self.revoked: list[tuple[Did, Evidence]] = []
        self.claims = [claim for claim in claims if claim.kind != "token" and self._may_stay(claim)]
        self.accepted: list[Accepted] = []
        self._slots: dict[tuple[Did, str], _Slot] = {}

    def _may_stay(self, claim: Claim) -> bool:
        """Whether what was brought unsigned is in force, and does not go against a pin."""
        value, source = claim.value, claim.evidence.source
        unsigned = None if isinstance(value, str | bytes | PublicKey | Token) else value
        if unsigned is not None and not unsigned.iat - CLOCK_SKEW <= self._now < unsigned.exp:
            self.faults.append(f"{source}: {unsigned.kind} document of {claim.about}: expired, or from the future")
            return False
        pin = self._anchors.pin(claim.about)
        if pin is None:
            return True
        if pin.revoked:
            self.revoked.append((claim.about, pin.evidence))
            return False
        given = _key_in(claim)
        if given in (None, pin.key) or (claim.kind != "key" and claim.trust >= Trust.HOST_SNAPSHOT):
            return True
        self.faults.append(
            f"{source}: says the key of {claim.about} is {given}, and {pin.key} is pinned in"
            f" {pin.source}; if it was replaced, pin the new one"
        )
        return False

    def weigh_tokens(self) -> None:
        """Boot and zone documents first: those of devices lean on them."""
        by_kind = {ZoneBoot.kind: 0, ZoneDoc.kind: 0, OwnerDoc.kind: 0}
        for claim in sorted(self._tokens, key=lambda claim: by_kind.get(kind_of(_token(claim).claims), 1)):
            try:
                self._weigh(claim, _token(claim))
            except BadWire as bad:
                self.faults.append(f"{claim.evidence.source}: {bad}")
        for slot in self._slots.values():
            # Two truths for one moment both speak, and are told as a conflict; neither is to be kept.
            if len(slot.best) == 1:
                self.accepted.extend(accepted for _, accepted in slot.best.values())
            for claim, _ in slot.best.values():
                self.claims.append(claim)
                self.claims.extend(_spoken(claim))

    def _weigh(self, claim: Claim, token: Token) -> None:
        kind = kind_of(token.claims)
        written = read_document(token.claims, kind)
        about = _subject(written, claim.about).canonical
        signer, document = self._signed_by(claim, token, written)
        if claim.key == KEPT and not signer.anchored:
            return
        self._bound(document, claim.about, signer)
        revision = revision_of(document, token)
        change = judge(self._anchors.mark(about, kind, signer.key), revision, signer.least_iat)
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
        new = Claim(about=about, kind="document", key=kind, value=document, evidence=evidence)
        accepted = Accepted(about, document, token, revision, evidence.trust, signer.key, signer.anchored)
        self._slots.setdefault((about, kind), _Slot()).put(new, accepted)

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
                zones = (claim.about, _zone_of(written))
                whose = written.issuer if signer.issuer in zones and written.issuer else signer.issuer
                return signer, verify(
                    token, written.kind, signer.key, self._now, issuer=whose, least_iat=signer.least_iat
                )
            except BadWire as bad:
                fault = fault or bad
                if signer.least_iat and written.iat < signer.least_iat and token.verify(signer.key):
                    self.revoked.append((_subject(written, claim.about).canonical, signer.evidence))
        assert fault is not None
        raise fault

    def _signers(self, found_under: Did, written: Document) -> list[_Signer]:
        """Who may have signed, strongest first.  Where something is pinned nothing else counts: fail closed."""
        speakers = _speakers(written, found_under)
        if pins := [pin for whose in speakers if (pin := self._anchors.pin(whose)) is not None]:
            for pin in pins:
                if pin.revoked:
                    self.revoked.append((_subject(written, found_under).canonical, pin.evidence))
                    raise BadWire(f"{written.kind} document: the key of {pin.about} is revoked on this machine")
                if pin.key != pins[0].key:
                    whose = f"{pin.about} and {pins[0].about}"
                    raise BadWire(f"{written.kind} document: it is of {whose}, which are pinned with different keys")
            least = max(pin.least_iat for pin in pins)
            return [_Signer(pins[0].key, pins[0].evidence, pins[0].about.canonical, anchored=True, least_iat=least)]
        found = []
        for issuer in dict.fromkeys(whose.canonical for whose in (*speakers, written.issuer) if whose is not None):
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
        if any(signer.key in self._anchors.revoked_keys for signer in found):
            raise BadWire(f"{written.kind} document: signed with a key that is revoked on this machine")
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
            if told is None and signer.anchored and document.name not in self._machines(zone):
                raise BadWire(
                    f"device-mini document: {document.name!r} does not say its zone, and no boot document of {zone}"
                    " lists it; issue it again, or add it to the boot document"
                )
        elif isinstance(document, DeviceDoc) and document.id.key is None:
            above = document.zone
            if above is None or document.id != device_did(document.name, above):
                raise BadWire(f"device document: {document.id} is not {document.name!r} of {above}; issue it again")
        about = _subject(document, zone).canonical
        if not signer.anchored and about.key is None and not is_within(about, zone):
            raise BadWire(f"{document.kind} document of {about}: found under {zone}, which cannot speak for it")

    def _machines(self, zone: Did) -> set[str]:
        """The names that the zone's own documents list."""
        slots = (self._slots.get((zone, kind)) for kind in (ZoneBoot.kind, ZoneDoc.kind))
        lists = (claim.value for slot in slots if slot for claim, _ in slot.best.values())
        return {ood.name for one in lists if isinstance(one, ZoneBoot | ZoneDoc) for ood in one.oods}


@dataclass(slots=True)
class _Slot:
    """The best documents of one kind about somebody, by their digests: more than one is a conflict."""

    best: dict[str, tuple[Claim, Accepted]] = field(default_factory=dict)

    def put(self, claim: Claim, accepted: Accepted) -> None:
        """An owner's newest word is in force, however it came; strangers' words go by how they came.

        Of two owners whom we know neither can outdo the other by a later date: they contradict each other.
        """
        rivals = [
            (digest, other)
            for digest, (_, other) in self.best.items()
            if not (accepted.pinned and other.pinned) or other.key == accepted.key
        ]
        best = max((_rank(other) for _, other in rivals), default=(False, -1, -1))
        if _rank(accepted) < best:
            return
        if _rank(accepted) > best:
            for digest, _ in rivals:
                del self.best[digest]
        self.best.setdefault(accepted.revision.digest, (claim, accepted))


def _rank(one: Accepted) -> tuple[bool, int, int]:
    iat, trust = one.revision.iat, one.trust.value
    return (True, iat, trust) if one.pinned else (False, trust, iat)


def is_within(about: Did, zone: Did) -> bool:
    """Whether ``about`` is ``zone``, or a name below it."""
    below = about.method == zone.method and not about.path and not zone.path and about.id.endswith(f".{zone.id}")
    return about.canonical == zone.canonical or below


def _key_in(claim: Claim) -> PublicKey | None:
    """The key that an unsigned claim gives whom it is about, said in one way or another."""
    value = claim.value
    if isinstance(value, PublicKey):
        return value
    if claim.kind == "did" and isinstance(value, str):
        try:
            return parse_did(value).key
        except BadWire:
            return None
    return None if isinstance(value, str | bytes | Token) else value.main_key


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


def _speakers(document: Document, found_under: Did) -> list[Did]:
    """Whose pinned keys decide about ``document``; where several are pinned, it is one key."""
    if isinstance(document, ZoneBoot | ZoneDoc | DeviceMini):
        return [found_under]
    if isinstance(document, DeviceInfo):
        return [document.device.id]
    zone, issuer = _zone_of(document), document.issuer
    if isinstance(document, DeviceDoc) and document.id.key is None:
        issuer = None
    return [whose for whose in (zone, issuer) if whose is not None]


def _zone_of(document: Document) -> Did | None:
    """The zone that a machine says it belongs to."""
    return document.zone if isinstance(document, DeviceDoc) else None


def _worth(about: Did, signer: _Signer, claim: Claim) -> Trust:
    """The level of a token that ``signer`` signed and ``claim`` brought."""
    if signer.anchored:
        return Trust.HOST_SNAPSHOT if claim.trust == Trust.HOST_SNAPSHOT else Trust.OWNER_SIGNED
    if about.key is not None and signer.key == about.key:
        return signer.evidence.trust
    return min(signer.evidence.trust, claim.trust) if is_within(about, claim.about) else Trust.NONE


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
