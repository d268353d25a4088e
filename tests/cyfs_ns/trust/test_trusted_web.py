"""Documents on web hosts, from a real HTTPS server; and what a host would try that wants us to reach elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from cyfs_ns.errors import BadWire, Unreachable
from cyfs_ns.identity.did import Did, dev_did, parse_did
from cyfs_ns.identity.keys import PublicKey
from cyfs_ns.identity.token import Token
from cyfs_ns.io.trusted.providers import ThisMachine, WhatWasKept
from cyfs_ns.io.trusted.resolver import TrustedNames
from cyfs_ns.io.trusted.safefetch import SafeFetch
from cyfs_ns.io.trusted.store import TrustStore
from cyfs_ns.io.trusted.web import WebDocuments
from cyfs_ns.trust.anchors import Pin
from cyfs_ns.trust.level import Trust
from cyfs_ns.trust.outcome import Absent, Found, Outcome, Refused
from cyfs_ns.trust.plan import Ask
from tests.cyfs_ns.identity.identities import ALICE, DAY, HOME, MALLORY, NAS, NOW, PI, boot, device, mini, own_key
from tests.cyfs_ns.trust.webhost import PUBLIC, WRONG, WebHost, web_host


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebHost]:
    with web_host(tmp_path_factory.mktemp("web")) as running:
        yield running


@pytest.fixture
def web(server: WebHost) -> WebHost:
    """The same server, its folders empty."""
    for host in ("home.example", "nas.home.example", "big.example", "alice.web3.example", WRONG):
        for file in [path for path in (server.folder / host).rglob("*") if path.is_file()]:
            file.unlink()
    return server


def document(did: str, key: PublicKey = NAS.public, **more: Any) -> str:
    method = {
        "id": f"{did}#1",
        "type": "JsonWebKey2020",
        "controller": did,
        "publicKeyJwk": key.jwk(),
    }
    return json.dumps({"@context": "https://www.w3.org/ns/did/v1", "id": did, "verificationMethod": [method], **more})


async def ask(
    web: WebHost, tmp_path: Path, did: str = "did:web:home.example", fetch: SafeFetch | None = None, **more: Any
) -> Outcome:
    provider = WebDocuments(fetch or web.fetch(), TrustStore(tmp_path), wall=lambda: NOW, **more)
    return await provider.ask(Ask(subject=parse_did(did)))


async def test_a_plain_document_is_worth_its_line(web: WebHost, tmp_path: Path) -> None:
    service = [{"id": "#x", "type": "X", "serviceEndpoint": "https://127.0.0.1/"}]
    web.put("home.example/.well-known/did.json", document("did:web:home.example", service=service))
    before = len(web.asked())
    outcome = await ask(web, tmp_path)
    assert isinstance(outcome, Found)
    assert own_key(outcome) == NAS.public
    assert outcome.trust == Trust.AUTH_CHANNEL
    assert [claim.kind for claim in outcome.claims] == ["document", "key"]
    assert outcome.claims[0].evidence.until == NOW + 3600
    # The forerunner's places are looked at too; what the document points to is not.
    assert set(web.asked()[before:]) == {
        "GET /.well-known/did.json HTTP/1.1",
        "GET /.well-known/zone HTTP/1.1",
        "GET /.well-known/owner HTTP/1.1",
    }


@pytest.mark.parametrize(
    ("did", "place"),
    [
        ("did:web:home.example:user:alice", "home.example/user/alice/did.json"),
        ("did:web:home.example%3A8443", "home.example/.well-known/did.json"),
        ("did:web:home.example:short", "home.example/short/did.json"),
        ("did:web:home.example:a%20b", "home.example/a b/did.json"),
    ],
)
async def test_paths_and_ports(web: WebHost, tmp_path: Path, did: str, place: str) -> None:
    web.put(place, document(did))
    outcome = await ask(web, tmp_path, did)
    assert isinstance(outcome, Found)
    assert own_key(outcome) == NAS.public
    assert outcome.claims[0].evidence.until == NOW + (120 if "short" in did else 3600)


@pytest.mark.parametrize("part", ["%2e%2e", "..", "a%2Fb", "%00", "%0d%0a"])
async def test_a_path_stays_a_path(web: WebHost, tmp_path: Path, part: str) -> None:
    before = len(web.asked())
    with pytest.raises(BadWire):
        await ask(web, tmp_path, f"did:web:home.example:{part}")
    assert len(web.asked()) == before


async def test_names_of_a_bridge(web: WebHost, tmp_path: Path) -> None:
    web.put("alice.web3.example/.well-known/did.json", document("did:bns:alice"))
    outcome = await ask(web, tmp_path, "did:bns:alice", bridges={"bns": "web3.example"})
    assert isinstance(outcome, Found)
    assert own_key(outcome) == NAS.public


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (document("did:web:other.example"), r"it says it is did:web:other\.example's"),
        (document("did:web:home.example:user"), r"it says it is did:web:home\.example:user's"),
        (document("did:web:home.example", exp=NOW - 10), "expired 10 s ago"),
        ("{}", "id is missing"),
        ('{"id": "did:web:home.example", "id": "did:web:home.example"}', "not plain JSON"),
        ("<html>nothing here</html>", "not a token of three parts"),
        ("", "not a token of three parts"),
        (b"\xff\xfe", "neither JSON nor a token"),
        ("[" * 9000, "not a token"),
        (b"x" * 70_000, "a body of more than 65536 bytes"),
        (b'{"id":"' + b"x" * 70_000 + b'"}', "a body of more than 65536 bytes"),
    ],
    ids=range(11),
)
async def test_what_is_no_document_of_theirs_is_refused(
    web: WebHost, tmp_path: Path, body: str | bytes, why: str
) -> None:
    web.put("home.example/.well-known/did.json", body)
    with pytest.raises(Unreachable, match=why):
        await ask(web, tmp_path)


@pytest.mark.parametrize(
    ("path", "why"),
    [("moved", "more than 0 redirects"), ("near", "more than 0 redirects"), ("broken", "status 500")],
)
async def test_redirects_are_not_followed(web: WebHost, tmp_path: Path, path: str, why: str) -> None:
    web.put("home.example/.well-known/did.json", document(f"did:web:home.example:{path}"))
    dialled: list[str] = []
    with pytest.raises(Unreachable, match=why):
        await ask(web, tmp_path, f"did:web:home.example:{path}", web.fetch(dialled=dialled))
    assert set(dialled) == {PUBLIC}
    assert not any("secret" in line for line in web.asked())


async def test_nothing_there_is_an_answer(web: WebHost, tmp_path: Path) -> None:
    outcome = await ask(web, tmp_path)
    assert isinstance(outcome, Absent)
    assert outcome.evidence.trust == Trust.AUTH_CHANNEL
    assert isinstance(await ask(web, tmp_path, "did:web:home.example:gone"), Absent)


async def test_no_host_is_an_answer_too(web: WebHost, tmp_path: Path) -> None:
    outcome = await ask(web, tmp_path, fetch=web.fetch([[]]))
    assert isinstance(outcome, Absent)
    assert outcome.evidence.trust == Trust.PLAIN_DNS
    assert "has no address" in outcome.why


async def test_a_host_that_cannot_be_reached_is_tried_once(tmp_path: Path) -> None:
    tried: list[str] = []

    async def resolve(host: str) -> Sequence[str]:
        tried.append(host)
        raise Unreachable(f"{host}: no name server answers", "pre_connect_dns")

    provider = WebDocuments(SafeFetch(resolve), TrustStore(tmp_path), wall=lambda: NOW)
    with pytest.raises(Unreachable, match="no name server answers"):
        await provider.ask(Ask(subject=parse_did("did:web:nas.home.example")))
    assert tried == ["nas.home.example", "home.example"]


async def test_the_certificate_has_to_be_the_hosts(web: WebHost, tmp_path: Path) -> None:
    web.put(f"{WRONG}/.well-known/did.json", document(f"did:web:{WRONG}"))
    before = len(web.asked())
    with pytest.raises(Unreachable, match=r"(?i)certificate verify failed.*wrong\.example"):
        await ask(web, tmp_path, f"did:web:{WRONG}")
    assert len(web.asked()) == before


async def test_an_authority_nobody_trusts(web: WebHost, tmp_path: Path) -> None:
    async def resolve(host: str) -> Sequence[str]:
        return ["127.0.0.1"]

    with pytest.raises(Unreachable, match=r"(?i)certificate"):
        await ask(web, tmp_path, f"did:web:home.example%3A{web.port}", SafeFetch(resolve), is_ours=lambda host: True)


@pytest.mark.parametrize("addresses", [["127.0.0.1"], [PUBLIC, "10.0.0.1"], ["::ffff:192.168.1.1"], ["fd00::1"]])
async def test_private_addresses_need_the_owners_word(web: WebHost, tmp_path: Path, addresses: Sequence[str]) -> None:
    web.put("home.example/.well-known/did.json", document("did:web:home.example"))
    dialled: list[str] = []
    with pytest.raises(Unreachable, match="where no server of strangers is"):
        await ask(web, tmp_path, fetch=web.fetch([addresses], dialled))
    assert dialled == []
    assert isinstance(await ask(web, tmp_path, fetch=web.fetch([addresses]), is_ours="home.example".__eq__), Found)
    TrustStore(tmp_path).pin(Pin(about=HOME, key=ALICE.public, source="test", at=NOW))
    assert isinstance(await ask(web, tmp_path, fetch=web.fetch([addresses])), Found)
    with pytest.raises(Unreachable, match="where no server of strangers is"):
        await ask(web, tmp_path, "did:web:big.example", web.fetch([addresses]))


async def test_a_pinned_name_of_a_bridge_may_stand_at_a_private_address(web: WebHost, tmp_path: Path) -> None:
    web.put("alice.web3.example/.well-known/did.json", document("did:bns:alice"))

    async def alice() -> Outcome:
        return await ask(web, tmp_path, "did:bns:alice", web.fetch([["10.0.0.1"]]), bridges={"bns": "web3.example"})

    with pytest.raises(Unreachable, match="where no server of strangers is"):
        await alice()
    TrustStore(tmp_path).pin(Pin(about=parse_did("did:bns:alice"), key=ALICE.public, source="test", at=NOW))
    assert isinstance(await alice(), Found)


async def test_the_address_that_was_judged_is_the_one_connected_to(web: WebHost, tmp_path: Path) -> None:
    """A name whose address changes between look and leap."""
    web.put("home.example/.well-known/did.json", document("did:web:home.example"))
    dialled: list[str] = []
    outcome = await ask(web, tmp_path, fetch=web.fetch([[PUBLIC], ["127.0.0.1"]], dialled))
    assert isinstance(outcome, Found)
    assert dialled == [PUBLIC]
    assert any("where no server of strangers is" in fault for fault in outcome.faults)


class House:
    """A machine that asks this web server, and nobody else."""

    def __init__(self, web: WebHost, home: Path) -> None:
        self.store = TrustStore(home)
        provider = WebDocuments(web.fetch(), self.store, wall=lambda: NOW)
        self.names = TrustedNames(
            [ThisMachine(self.store), WhatWasKept(self.store, lambda: NOW), provider], self.store, wall=lambda: NOW
        )

    def lose(self, kind: str) -> None:
        """What is kept of a kind; how new it was is still known."""
        for one in self.store.kept():
            if one.kind == kind:
                Path(one.source).unlink()

    async def ask(self, subject: Did, least: Trust = Trust.NONE) -> Outcome:
        return await self.names.resolve(Ask(subject=subject, least=least))


async def test_tokens_are_worth_their_signature(web: WebHost, tmp_path: Path) -> None:
    zone = boot(ALICE, "ood1")
    web.put("home.example/.well-known/did.json", zone.text)
    web.put("home.example/.well-known/ood1", mini("ood1", NAS, ALICE).text + "\n")
    house = House(web, tmp_path)
    house.store.pin(Pin(about=HOME, key=ALICE.public, source="test", at=NOW - DAY))
    found = await house.ask(HOME, Trust.OWNER_SIGNED)
    assert isinstance(found, Found)
    assert next(found.of("document", "boot")).trust == Trust.OWNER_SIGNED
    ood = await house.ask(Did("web", "ood1.home.example"), Trust.OWNER_SIGNED)
    assert isinstance(ood, Found), ood
    assert own_key(ood) == NAS.public


async def test_a_token_of_somebody_else_stands_for_nothing(web: WebHost, tmp_path: Path) -> None:
    web.put("home.example/.well-known/did.json", boot(MALLORY, "ood1").text)
    house = House(web, tmp_path)
    house.store.pin(Pin(about=HOME, key=ALICE.public, source="test", at=NOW - DAY))
    outcome = await house.ask(HOME, Trust.OWNER_SIGNED)
    assert isinstance(outcome, Refused)
    assert any("not signed by" in fault for fault in outcome.faults)


async def test_one_byte_of_a_token_changed(web: WebHost, tmp_path: Path) -> None:
    good = boot(ALICE, "ood1").text
    house = House(web, tmp_path)
    house.store.pin(Pin(about=HOME, key=ALICE.public, source="test", at=NOW - DAY))
    at = len(good) - 20
    web.put("home.example/.well-known/did.json", good[:at] + ("A" if good[at] != "A" else "B") + good[at + 1 :])
    outcome = await house.ask(HOME, Trust.OWNER_SIGNED)
    assert not isinstance(outcome, Found)
    assert any("boot document: not signed by" in fault for fault in outcome.faults), outcome.faults
    assert not list(house.store.kept())


async def test_a_token_that_names_another_is_refused(web: WebHost, tmp_path: Path) -> None:
    web.put("home.example/.well-known/did.json", device("nas", NAS, ALICE).text)
    with pytest.raises(Unreachable, match="publish the right one"):
        await ask(web, tmp_path)


NAS_HOST = Did("web", "nas.home.example")


async def test_a_machines_own_server_tells_its_key_by_a_document_about_that_key(web: WebHost, tmp_path: Path) -> None:
    token = device("nas", NAS, ALICE, zone=HOME, ips=("192.0.2.9",))
    for place in ("nas.home.example/.well-known/did.json", "home.example/.well-known/nas"):
        web.put(place, token.text)
        house = House(web, tmp_path / place.partition("/")[0])
        house.store.pin(Pin(about=HOME, key=ALICE.public, source="test", at=NOW - DAY))
        found = await house.ask(NAS_HOST, Trust.OWNER_SIGNED)
        assert isinstance(found, Found), found
        assert own_key(found) == NAS.public and next(found.of("did")).value == f"did:dev:{NAS.public.x}"
        assert {claim.value for claim in found.of("address")} == {"192.0.2.9"}
        assert {str(kept.about) for kept in house.store.kept()} >= {str(NAS_HOST)}
        web.take(place)


@pytest.mark.parametrize(
    "token",
    [
        device("nas", PI, ALICE, zone=parse_did("did:web:lab.example")),
        device("pi", PI, ALICE, zone=HOME),
        device("nas", PI, ALICE),
        device("nas", PI, MALLORY, zone=HOME),
        device("nas", PI, PI, zone=HOME),
        mini("nas", PI, ALICE, zone=parse_did("did:web:lab.example")),
    ],
    ids=["of another zone", "another machine's", "of no zone", "signed by another", "signed by itself", "short"],
)
async def test_a_hostile_server_gives_no_machine_another_key(web: WebHost, tmp_path: Path, token: Token) -> None:
    """All of them are true documents of somebody."""
    for place in ("nas.home.example/.well-known/did.json", "home.example/.well-known/nas"):
        web.put(place, token.text)
    house = House(web, tmp_path)
    # The same owner has another zone, which is pinned too.
    for zone in (HOME, parse_did("did:web:lab.example")):
        house.store.pin(Pin(about=zone, key=ALICE.public, source="test", at=NOW - DAY))
    outcome = await house.ask(NAS_HOST)
    assert not isinstance(outcome, Found), outcome
    assert outcome.faults


async def test_without_a_pin_a_document_about_a_key_is_not_the_hosts(web: WebHost, tmp_path: Path) -> None:
    web.put("nas.home.example/.well-known/did.json", device("nas", NAS, ALICE, zone=HOME).text)
    house = House(web, tmp_path)
    house.store.pin(Pin(about=dev_did(ALICE.public), key=ALICE.public, source="test", at=NOW - DAY))
    outcome = await house.ask(NAS_HOST)
    assert not isinstance(outcome, Found)
    assert any("publish the right one" in fault for fault in outcome.faults)


async def test_an_old_document_on_an_old_address_brings_no_old_key_back(web: WebHost, tmp_path: Path) -> None:
    house = House(web, tmp_path)
    house.store.pin(Pin(about=HOME, key=ALICE.public, source="test", at=NOW - DAY))
    web.put("home.example/.well-known/did.json", boot(ALICE, "nas").text)
    web.put("home.example/.well-known/nas", mini("nas", NAS, ALICE).text)
    assert isinstance(found := await house.ask(NAS_HOST), Found) and own_key(found) == NAS.public
    web.take("home.example/.well-known/nas")
    web.put("nas.home.example/.well-known/did.json", device("nas", PI, ALICE, zone=HOME, iat=NOW - 2 * DAY).text)
    house.names.flush()
    kept = await house.ask(NAS_HOST)
    assert isinstance(kept, Found) and own_key(kept) == NAS.public and kept.trust == Trust.HOST_SNAPSHOT
    assert any("its key is superseded by the device-mini document" in fault for fault in kept.faults)
    # The newer one is lost, and its mark is not.
    house.lose("device-mini")
    house.names.flush()
    assert isinstance(refused := await house.ask(NAS_HOST), Refused)
    assert "is newer, and not heard now" in refused.why
