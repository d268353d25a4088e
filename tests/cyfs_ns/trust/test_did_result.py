"""DID Resolution on the wire: what we say, and whatever others say."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.did import dev_did
from cyfs_ns.identity.documents import Document
from cyfs_ns.identity.reading import read_document
from cyfs_ns.trust.didresult import Resolved, documents_of, page_of, read_body, read_resolved
from cyfs_ns.trust.evidence import Claim, Evidence
from cyfs_ns.trust.level import Trust
from cyfs_ns.trust.outcome import Absent, Conflicted, Found, Outcome, Revoked, TooWeak, Unreachable
from tests.cyfs_ns.identity.identities import ALICE, HOME, NAS, NOW, PI, boot

FACT = Evidence(trust=Trust.DNSSEC, what="published", source="tls://secret.lan", at=NOW, until=NOW + 300)
KEY = Claim(about=HOME, kind="key", key="self", value=NAS.public, evidence=FACT)
ADDRESS = Claim(about=HOME, kind="address", value="192.168.1.7", evidence=FACT.standing_on())
RESULT = "application/did-resolution"
DOCUMENT: dict[str, Any] = {
    "@context": ["https://www.w3.org/ns/did/v1"],
    "id": str(HOME),
    "verificationMethod": [
        {"id": "#k", "type": "JsonWebKey2020", "controller": str(HOME), "publicKeyJwk": NAS.public.jwk()}
    ],
}


def test_what_we_say_is_what_we_read() -> None:
    page = page_of(Found(subject=HOME, claims=(KEY, ADDRESS), until=NOW + 300), NOW, accept=RESULT)
    assert (page.status, page.content_type, page.max_age) == (200, RESULT, 300)
    said = read_resolved(page.status, page.content_type, page.body)
    assert said.document is not None
    assert said.document.main_key == NAS.public
    # Who asks is told how sure we are, but not where our servers are, nor where the subject is.
    assert b"dnssec" in page.body
    assert b"secret.lan" not in page.body
    assert b"192.168.1.7" not in page.body
    plain = page_of(Found(subject=HOME, claims=(KEY,), until=NOW - 1), NOW)
    assert (plain.content_type, plain.max_age) == ("application/did+ld+json", 0)
    assert read_resolved(200, plain.content_type, plain.body).document == said.document


def test_a_document_is_as_sure_as_its_own_claim_whatever_else_is_known() -> None:
    token = boot(ALICE, "ood1")
    weak = Evidence(trust=Trust.PLAIN_DNS, what="found", source="dns", at=NOW)
    strong = Evidence(trust=Trust.OWNER_SIGNED, what="signed", source="zone", at=NOW)
    address = Claim(about=HOME, kind="address", value="192.0.2.7", evidence=strong)
    document = Claim(about=HOME, kind="document", key="boot", value=read_document(token.claims), evidence=weak)
    for claims, kinds, trust, facts in (
        ((address, document), ("boot",), "plain-dns", ["found"]),
        ((address, KEY, document), ("boot",), "plain-dns", ["found"]),
        ((address, KEY), (), "dnssec", ["published"]),
    ):
        page = page_of(Found(subject=HOME, claims=claims), NOW, accept=RESULT, kinds=kinds)
        about = json.loads(page.body)["didDocumentMetadata"]
        assert (about["trust"], [fact["what"] for fact in about["evidence"]]) == (trust, facts)
        assert about["why"].endswith(trust)


def test_of_several_documents_the_same_stands_for_its_subject_whichever_came_first() -> None:
    old = {"owner_name": "did:bns:alice", "oods": ["ood1"], "iat": NOW - 1, "exp": NOW + 9}
    zone = read_document({"did": str(HOME), "auth_key": ALICE.public.jwk(), **old}, "zone")

    def of(document: Document, trust: Trust) -> Claim:
        fact = Evidence(trust=trust, what="signed", source="zone", at=NOW)
        return Claim(about=HOME, kind="document", key=document.kind, value=document, evidence=fact)

    short = read_document(boot(ALICE, "ood1").claims)
    for levels, stands in (
        ((Trust.OWNER_SIGNED, Trust.HOST_SNAPSHOT), "zone"),
        ((Trust.OWNER_SIGNED, Trust.OWNER_SIGNED), "zone"),
        ((Trust.OWNER_SIGNED, Trust.AUTH_CHANNEL), "boot"),
    ):
        claims = (of(short, levels[0]), of(zone, levels[1]))
        for order in (claims, claims[::-1]):
            found = Found(subject=HOME, claims=order)
            assert documents_of(found)[0].key == stands
            assert ("verificationMethod" in json.loads(page_of(found, NOW).body)) == (stands == "zone")


@pytest.mark.parametrize(
    ("outcome", "status", "error"),
    [
        (Absent(subject=HOME, why="no", evidence=FACT), 404, "notFound"),
        (TooWeak(subject=HOME, asked=Trust.DNSSEC, found=(KEY,)), 404, "notFound"),
        (Revoked(subject=HOME, why="ended", evidence=FACT), 410, "deactivated"),
        (Unreachable(subject=HOME, why="nobody"), 500, "internalError"),
        (Conflicted(subject=HOME, sides=(KEY, KEY)), 500, "internalError"),
        (Found(subject=HOME, claims=(ADDRESS,)), 404, "notFound"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str | int) else "",
)
def test_what_went_wrong_keeps_its_kind(outcome: Outcome, status: int, error: str) -> None:
    page = page_of(outcome, NOW)
    told = json.loads(page.body)
    assert (page.status, told["didResolutionMetadata"]["error"]) == (status, error)
    assert told["didDocument"] is None
    if status == 404:
        assert read_resolved(page.status, page.content_type, page.body) == Resolved(error="notFound")
    if status == 410:
        assert told["didDocumentMetadata"]["deactivated"] is True
        assert read_resolved(page.status, page.content_type, page.body) == Resolved(deactivated=True)


def test_a_token_goes_to_those_who_take_it() -> None:
    token, found = boot(ALICE, "ood1"), Found(subject=HOME, claims=(KEY,))
    assert page_of(found, NOW, accept="application/jwt, */*", token=token).body.decode() == token.text
    assert page_of(found, NOW, token=token, kinds=("boot",)).body.decode() == token.text
    assert page_of(found, NOW, accept="*/*", token=token).content_type == "application/did+ld+json"
    assert page_of(found, NOW, kinds=("boot",)).status == 404


@pytest.mark.parametrize(
    ("whole", "said"),
    [
        ({"didResolutionMetadata": {"error": "notFound"}}, Resolved(error="notFound")),
        (
            {"didResolutionMetadata": {"error": {"type": "https://www.w3.org/ns/did#NOT_FOUND", "title": "x"}}},
            Resolved(error="notFound"),
        ),
        ({"didResolutionMetadata": {"error": "https://www.w3.org/ns/did#INVALID_DID"}}, Resolved(error="invalidDid")),
        ({"didDocument": DOCUMENT, "didDocumentMetadata": {"deactivated": True}}, Resolved(deactivated=True)),
        ({"didDocument": boot(ALICE, "ood1").text}, Resolved(token=boot(ALICE, "ood1"))),
    ],
)
def test_results_of_others(whole: dict[str, Any], said: Resolved) -> None:
    assert read_resolved(200, RESULT, json.dumps(whole).encode()) == said


@pytest.mark.parametrize("status", [204, 301, 400, 401, 406, 500, 503])
def test_other_answers_are_none(status: int) -> None:
    with pytest.raises(BadWire, match=f"status {status}"):
        read_resolved(status, "application/json", json.dumps(DOCUMENT).encode())


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"x"',
        b'{"didDocument": 7}',
        b'{"didDocument": {}, "didResolutionMetadata": []}',
        b'{"didResolutionMetadata": {"error": 5}}',
        b'{"didDocument": "a.b.c"}',
        b'{"didDocument": {"id": "did:web:a.example"}, "didDocument": {"id": "did:web:b.example"}}',
        b"\xff",
    ],
)
def test_nonsense_is_refused(body: bytes) -> None:
    with pytest.raises(BadWire):
        read_resolved(200, RESULT, body)


@settings(max_examples=200)
@given(st.integers(100, 599), st.text(max_size=40), st.binary(max_size=300))
def test_whatever_comes_is_read_or_refused(status: int, kind: str, body: bytes) -> None:
    for read in (lambda: read_resolved(status, kind, body), lambda: read_body(body, "document")):
        try:
            read()
        except BadWire:
            continue


@settings(max_examples=200)
@given(st.data())
def test_one_byte_changed_is_read_or_refused(data: st.DataObject) -> None:
    bodies = [
        json.dumps({"didDocument": DOCUMENT, "didResolutionMetadata": {"contentType": "x"}}).encode(),
        json.dumps(DOCUMENT).encode(),
        boot(ALICE, "ood1").text.encode(),
    ]
    body = bytearray(data.draw(st.sampled_from(bodies)))
    body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        read_resolved(200, RESULT, bytes(body))
    except BadWire:
        return


def test_the_order_of_keys_says_nothing() -> None:
    turned = dict(reversed(DOCUMENT.items()))
    assert repr(read_body(json.dumps(turned).encode(), "x")) == repr(read_body(json.dumps(DOCUMENT).encode(), "x"))


def test_a_key_is_its_own_document() -> None:
    whom = dev_did(PI.public)
    claim = Claim(about=whom, kind="key", key="self", value=PI.public, evidence=FACT)
    page = page_of(Found(subject=whom, claims=(claim,)), NOW)
    said = read_resolved(200, page.content_type, page.body).document
    assert said is not None
    assert (said.subject, said.main_key) == (whom, PI.public)
