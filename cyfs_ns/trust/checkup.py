"""One document, looked at by itself: what it is, who signed it, how sure that is, and all that is wrong with it.

The same scale weighs it that weighs what comes from the net; a file is worth no more than a stranger's word.  A key
that the person gives counts as pinned, for this one look.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.did import Bridges, Did
from cyfs_ns.identity.documents import DeviceDoc, DeviceMini, Document, ZoneBoot, ZoneDoc
from cyfs_ns.identity.keys import PublicKey
from cyfs_ns.identity.proof import verify
from cyfs_ns.identity.reading import kind_of, read_document
from cyfs_ns.identity.token import Token, read_token
from cyfs_ns.trust.anchors import Anchors, Pin
from cyfs_ns.trust.evidence import Claim, Evidence
from cyfs_ns.trust.level import Trust
from cyfs_ns.trust.places import device_did
from cyfs_ns.trust.weigh import weigh


@dataclass(frozen=True, slots=True)
class Checkup:
    """``document`` is what is written, whether it holds or not; ``claim`` and its key ``signer`` only what holds."""

    document: Document
    claim: Claim | None
    signer: PublicKey | None
    faults: tuple[str, ...]

    @property
    def holds(self) -> bool:
        return self.claim is not None and not self.faults


def check_up(
    token: Token,
    source: str,
    anchors: Anchors,
    now: float,
    given: PublicKey | None = None,
    bridges: Bridges | None = None,
) -> Checkup:
    """``token`` from the file ``source``.  ``given``: the key it has to be signed with; ``bridges``: whose DIDs the
    host names in it stand for.

    Raises ``BadWire`` for claims that are no document at all.
    """
    kind = kind_of(token.claims)
    try:
        document = read_document(token.claims, kind)
    except BadWire as bad:
        raise BadWire(f"{kind} document: {str(bad).removeprefix(f'{kind} document: ')}") from None
    place = _place(document, bridges)
    if given is not None:
        anchors = _as_given(given, _speakers(document, place), anchors, now)
    channel = Evidence(trust=Trust.NONE, what="a file that anybody may have written", source=source, at=now)
    claim, faults = _weighed(document, place, token, channel, anchors, given, now)
    signer = next((key for key in _keys(document, place, anchors, given) if token.verify(key)), None)
    if claim is not None and signer is not None:
        faults = [*faults, *_inside(document, signer, now, bridges)]
    if claim is not None and claim.trust is Trust.NONE:
        who = document.issuer or signer
        faults = [
            *faults,
            f"nothing here says that {who} may speak for {claim.about}: pin it (id trust), or give --key",
        ]
    return Checkup(document, claim, signer, tuple(faults))


def _as_given(given: PublicKey, speakers: set[Did], anchors: Anchors, now: float) -> Anchors:
    """``given`` pinned for all ``speakers``; what was said here of this very key, that it is revoked for one, stays."""
    held = {whose: pin for whose in speakers if (pin := anchors.pin(whose)) is not None and pin.key == given}
    revoked = given in anchors.revoked_keys and all(pin.revoked for pin in held.values())
    return Anchors(
        held.get(whose) or Pin(about=whose, key=given, revoked=revoked, source="the command line", at=now)
        for whose in speakers
    )


def _weighed(
    document: Document,
    place: Did | None,
    token: Token,
    channel: Evidence,
    anchors: Anchors,
    given: PublicKey | None,
    now: float,
) -> tuple[Claim | None, list[str]]:
    if place is not None:
        weighed = weigh([Claim(about=place, kind="token", value=token, evidence=channel)], anchors, now)
        found = (one for one in weighed.claims if one.kind == "document" and one.key == document.kind)
        return next(found, None), [fault.removeprefix(f"{channel.source}: ") for fault in weighed.faults]
    if given is None:
        return None, [f"{document.kind} document: it does not say its zone; give the key of who signed it: --key"]
    try:
        held = verify(token, document.kind, given, now)
    except BadWire as bad:
        return None, [str(bad)]
    fact = Evidence(trust=Trust.OWNER_SIGNED, what="signed by the key given", source=channel.source, at=now)
    assert held.main_key is not None or held.subject is not None
    about = held.subject or Did("dev", given.x)
    return Claim(about=about, kind="document", key=held.kind, value=held, evidence=fact), []


def _place(document: Document, bridges: Bridges | None) -> Did | None:
    """The name under which the document is found, if it says so itself.  Raises ``BadWire``."""
    return document.zone(bridges) if isinstance(document, DeviceMini) else document.subject


def _speakers(document: Document, place: Did | None) -> set[Did]:
    """All whose key may have to be the one that is given."""
    zone = document.zone if isinstance(document, DeviceDoc) else None
    return {whose for whose in (place, document.issuer, zone) if whose is not None}


def _keys(document: Document, place: Did | None, anchors: Anchors, given: PublicKey | None) -> Iterator[PublicKey]:
    """The keys the document may be signed with."""
    if given is not None:
        yield given
    for whose in _speakers(document, place):
        if (pin := anchors.pin(whose)) is not None:
            yield pin.key
        if (own := whose.key) is not None:
            yield own
    if document.main_key is not None and document.issuer == document.subject:
        yield document.main_key


def _inside(document: Document, signer: PublicKey, now: float, bridges: Bridges | None) -> Iterator[str]:
    """What is wrong with the tokens that the document carries: the same owner signed them, of the same names."""
    if isinstance(document, DeviceDoc) and document.mini_jwt:
        what, kind, text = "its short form for DNS", DeviceMini.kind, document.mini_jwt
    elif isinstance(document, ZoneDoc) and document.boot_jwt:
        what, kind, text = "the boot document inside", ZoneBoot.kind, document.boot_jwt
    else:
        return
    try:
        inner = verify(read_token(text, what), kind, signer, now)
        zone = inner.zone(bridges) if isinstance(inner, DeviceMini) else None
    except BadWire as bad:
        yield f"{what}: {bad}"
        return
    if isinstance(document, DeviceDoc) and isinstance(inner, DeviceMini):
        if (inner.name, inner.key) != (document.name, document.key):
            yield f"{what}: names another machine or key than the document around it; have it signed again"
        elif zone is not None and document.zone is not None and zone != document.zone:
            yield f"{what}: is for {device_did(inner.name, zone)}; have it signed again"
    elif isinstance(document, ZoneDoc) and isinstance(inner, ZoneBoot) and inner.id != document.id:
        yield f"{what}: is for {inner.id}; have it signed again"
