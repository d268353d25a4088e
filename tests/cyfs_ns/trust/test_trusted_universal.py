"""Asking a universal resolver that a real HTTPS server plays, and what a bad one would say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from cyfs_ns.errors import BadWire, CyfsError
from cyfs_ns.identity.did import parse_did
from cyfs_ns.identity.token import Token
from cyfs_ns.io.trusted.universal import UniversalResolver
from cyfs_ns.trust.level import Trust
from cyfs_ns.trust.outcome import Absent, Found, Outcome, Revoked
from cyfs_ns.trust.plan import Ask
from tests.cyfs_ns.identity.identities import ALICE, HOME, NAS, NOW, boot, own_key
from tests.cyfs_ns.trust.webhost import WebHost, web_host

METHOD = {"id": "#k", "type": "JsonWebKey2020", "controller": str(HOME), "publicKeyJwk": NAS.public.jwk()}
DOCUMENT: dict[str, Any] = {"id": str(HOME), "verificationMethod": [METHOD]}


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebHost]:
    with web_host(tmp_path_factory.mktemp("web")) as running:
        yield running


async def ask(web: WebHost, did: str = str(HOME), host: str = "big.example") -> Outcome:
    asking = UniversalResolver(f"https://{host}/ids/", web.fetch([["127.0.0.1"]]), wall=lambda: NOW)
    return await asking.ask(Ask(subject=parse_did(did)))


@pytest.mark.parametrize(
    "body",
    [
        json.dumps(DOCUMENT),
        json.dumps({"didDocument": DOCUMENT, "didResolutionMetadata": {}, "didDocumentMetadata": {}}),
    ],
)
async def test_a_document_is_worth_the_line(web: WebHost, body: str) -> None:
    web.put(f"big.example/ids/{HOME}", body)
    found = await ask(web)
    assert isinstance(found, Found)
    assert own_key(found) == NAS.public
    assert found.trust == Trust.AUTH_CHANNEL
    assert found.claims[0].evidence.source == "resolver big.example/ids"


async def test_a_token_is_handed_on_unbelieved(web: WebHost) -> None:
    web.put(f"big.example/ids/{HOME}", boot(ALICE, "ood1").text)
    found = await ask(web)
    assert isinstance(found, Found)
    assert [claim.kind for claim in found.claims] == ["token"]
    assert isinstance(found.claims[0].value, Token)


async def test_not_there_and_ended_are_different(web: WebHost) -> None:
    assert isinstance(await ask(web, "did:web:absent.example"), Absent)
    ended = await ask(web, "did:web:ended.example")
    assert isinstance(ended, Revoked)
    assert "deactivated, says resolver big.example/ids" in ended.why


async def test_a_port_and_a_path_stay_one_segment(web: WebHost) -> None:
    before = len(web.asked())
    assert isinstance(await ask(web, "did:web:home.example%3A8443:user:alice"), Absent)
    assert web.asked()[before:] == ["GET /ids/did:web:home.example%253A8443:user:alice HTTP/1.1"]


@pytest.mark.parametrize(
    ("did", "body", "why"),
    [
        (str(HOME), json.dumps(DOCUMENT | {"id": "did:web:other.example"}), "other.example's, not did:web:home"),
        (str(HOME), json.dumps(DOCUMENT | {"exp": NOW - 5}), "expired 5 s ago"),
        (str(HOME), "<html>", "token"),
        (str(HOME), "{}" + " " * 70_000, "more than 65536 bytes"),
        (str(HOME), json.dumps({"didResolutionMetadata": {"error": "methodNotSupported"}}), "methodNotSupported"),
        ("did:web:broken.example", "", "status 503"),
        ("did:web:away.example", "", "more than 0 redirects"),
    ],
)
async def test_what_is_no_answer_is_refused(web: WebHost, did: str, body: str, why: str) -> None:
    web.put(f"big.example/ids/{HOME}", body)
    with pytest.raises(CyfsError, match=why):
        await ask(web, did)


async def test_somebody_elses_certificate(web: WebHost) -> None:
    with pytest.raises(CyfsError, match=r"(?i)certificate"):
        await ask(web, host="wrong.example")


async def test_a_key_must_fit_its_did(web: WebHost) -> None:
    whom = f"did:dev:{ALICE.public.x}"
    web.put(f"big.example/ids/{whom}", json.dumps({"id": whom, "verificationMethod": [METHOD | {"controller": whom}]}))
    with pytest.raises(BadWire, match="but the key in it is"):
        await ask(web, whom)
