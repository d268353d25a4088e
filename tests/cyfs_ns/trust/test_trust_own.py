"""What this machine's own document is worth to it."""

from __future__ import annotations

from cyfs_ns.identity.did import Did, parse_did
from cyfs_ns.identity.documents import DeviceDoc
from cyfs_ns.identity.reading import read_document
from cyfs_ns.identity.revision import revision_of
from cyfs_ns.identity.token import Token
from cyfs_ns.trust.anchors import Anchors, Mark, Pin
from cyfs_ns.trust.own import doubt_of_own
from tests.cyfs_ns.identity.identities import ALICE, DAY, HOME, MALLORY, NAS, NOW, device

OWNER = parse_did("did:web:alice.example")


def doubt(token: Token, anchors: Anchors) -> str:
    document = read_document(token.claims)
    assert isinstance(document, DeviceDoc)
    return doubt_of_own(token, document, anchors, NOW)


def pinned(about: Did, revoked: bool = False) -> Pin:
    return Pin(about=about, key=ALICE.public, source="test", at=NOW - DAY, revoked=revoked)


def test_where_nobody_is_pinned_nothing_is_said_against_it() -> None:
    assert doubt(device("ood1", NAS, ALICE, whose=OWNER), Anchors()) == ""


def test_what_the_owner_signed_is_good() -> None:
    assert doubt(device("ood1", NAS, ALICE, zone=HOME), Anchors((pinned(HOME),))) == ""


def test_what_a_stranger_signed_is_not() -> None:
    assert doubt(device("ood1", NAS, MALLORY, zone=HOME), Anchors((pinned(HOME),))) != ""


def test_what_is_older_than_what_was_believed_is_not() -> None:
    old, new = device("ood1", NAS, ALICE, iat=NOW - DAY), device("ood1", NAS, ALICE, iat=NOW - 60)
    document = read_document(new.claims)
    assert document.subject is not None
    mark = Mark(document.subject.canonical, document.kind, ALICE.public, revision_of(document, new))
    anchors = Anchors((pinned(HOME),), (mark,))
    assert "older" in doubt(old, anchors) and doubt(new, anchors) == ""
