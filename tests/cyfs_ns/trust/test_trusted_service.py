"""Being asked, over real HTTP by curl; and our own resolver asking our own service."""

from __future__ import annotations

import json
import ssl
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import trio
import trustme
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cyfs_ns.conversation import PageWanted
from cyfs_ns.identity.did import Did, dev_did, parse_did
from cyfs_ns.identity.documents import ZoneDoc
from cyfs_ns.identity.keys import SecretKey
from cyfs_ns.identity.token import Token, sign_token
from cyfs_ns.io.trusted.providers import TheName, ThisMachine
from cyfs_ns.io.trusted.resolver import TrustedNames
from cyfs_ns.io.trusted.safefetch import SafeFetch
from cyfs_ns.io.trusted.service import DidService
from cyfs_ns.io.trusted.store import TrustStore
from cyfs_ns.io.trusted.universal import UniversalResolver
from cyfs_ns.trust.anchors import Pin
from cyfs_ns.trust.level import Trust
from cyfs_ns.trust.outcome import Absent, Found
from cyfs_ns.trust.plan import Ask
from tests.cyfs_ns.identity.identities import ALICE, DAY, HOME, MALLORY, NAS, PI, boot, device, mini, own_key
from tests.cyfs_ns.nsprogram import Running, server
from tests.cyfs_ns.trust.dnshosts import trust_in, zone_lines
from tests.freeport import free_port

NOW = int(time.time())
FRIEND, STRANGER = parse_did("did:web:friend.example"), parse_did("did:web:stranger.example")
ASKED = parse_did("did:web:asked.example")
_FRESH: dict[str, Any] = {"iat": NOW - 100, "exp": NOW + DAY}


@dataclass
class Page:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Site:
    def __init__(self, running: Running, port: int, ca: trustme.CA, folder: Path) -> None:
        self.running, self.port, self.ca, self.folder = running, port, ca, folder
        ca.cert_pem.write_to_path(str(folder / "ca.pem"))

    def get(self, path: str, *words: str, host: str = "127.0.0.1") -> Page:
        url = f"https://{host}:{self.port}{path}"
        there = ["--cacert", str(self.folder / "ca.pem"), "--resolve", f"{host}:{self.port}:127.0.0.1"]
        return curl(*there, *words, url)

    def own(self, path: str, *words: str) -> Page:
        """The control API."""
        socket = ["--unix-socket", str(self.running.home / "control.sock")]
        return curl(*socket, *words, f"http://localhost{path}")


def curl(*words: str) -> Page:
    done = subprocess.run(["curl", "-sS", "-i", "-m", "20", *words], capture_output=True, timeout=30)
    assert done.returncode == 0, done.stderr.decode()
    head, _, body = done.stdout.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Page(int(first.split()[1]), headers, body)


def settle(home: Path) -> None:
    """What is known on this machine: itself, its zone, and a friend with a machine."""
    own = home / "identity"
    (own / "devices").mkdir(parents=True)
    (own / "device.jwt").write_text(device("nas", NAS, ALICE, zone=HOME, **_FRESH).text + "\n")
    (own / "boot.jwt").write_text(boot(ALICE, "nas:192.0.2.1@wan", **_FRESH).text + "\n")
    (own / "devices" / "pi.mini.jwt").write_text(mini("pi", PI, ALICE, **_FRESH).text)
    (own / "broken.jwt").write_text("no token")
    store = TrustStore(home)
    store.pin(Pin(about=FRIEND, key=MALLORY.public, source="test", at=NOW - DAY))
    theirs = boot(MALLORY, "box", zone=FRIEND, **_FRESH)
    for name, token in (("zone", theirs), ("stranger", boot(ALICE, "ood1", zone=STRANGER, **_FRESH))):
        (home / "names" / "local").mkdir(parents=True, exist_ok=True)
        (home / "names" / "local" / f"{name}.jwt").write_text(token.text)


@pytest.fixture(scope="module")
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder, ca, plain, port = tmp_path_factory.mktemp(request.param), trustme.CA(), free_port(), free_port()
    pem = folder / "door.pem"
    issued = ca.issue_cert("127.0.0.1", "nas.home.example", "home.example", "other.example")
    pem.write_bytes(issued.private_key_and_cert_chain_pem.bytes())
    settle(folder / "home")
    asked = zone_lines([f"PKX={ALICE.public.x};", f"DEV={mini('box', PI, ALICE, ASKED, **_FRESH).text};"])
    lines = zone_lines([f"PKX={ALICE.public.x};", f"BOOT={boot(ALICE, 'ood1', zone=STRANGER, **_FRESH).text};"])
    text = f"""
dns:
  listen: 127.0.0.1:{plain}
  listen-https: 127.0.0.1:{port}
  tls-cert: {pem}
  tls-key: {pem}
  nameserver: ['rcode://name_error']
  zones:
    asked.example:
{chr(10).join(f"      - '{line}'" for line in asked)}
    stranger.example:
{chr(10).join(f"      - '{line}'" for line in lines)}
identity: {{serve: {request.param}}}
"""
    with server(folder, text, plain) as running:
        yield Site(running, port, ca, folder)


def modes(*names: str) -> pytest.MarkDecorator:
    """Whom ``identity.serve`` lets ask."""
    return pytest.mark.parametrize("site", names, indirect=True)


def identifier(did: Did | str, kind: str = "") -> str:
    return f"/1.0/identifiers/{quote(str(did), safe=':')}" + (f"?type={kind}" if kind else "")


@modes("own", "open")
@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_this_machine_is_known(site: Site, version: str) -> None:
    page = site.get(identifier(dev_did(NAS.public)), version)
    assert page.status == 200
    assert page.headers["content-type"] == "application/did+ld+json"
    assert page.json()["id"] == str(dev_did(NAS.public))
    assert 0 < int(page.headers["cache-control"].removeprefix("max-age=")) <= DAY
    result = site.get(identifier(dev_did(NAS.public)), version, "-H", "Accept: application/did-resolution")
    assert result.headers["content-type"] == "application/did-resolution"
    told = result.json()
    assert told["didResolutionMetadata"] == {"contentType": "application/did+ld+json"}
    assert told["didDocumentMetadata"]["trust"] == "host-snapshot"
    assert told["didDocumentMetadata"]["until"] == NOW + DAY
    assert str(site.folder) not in result.body.decode()
    token = site.get(identifier(dev_did(NAS.public)), version, "-H", "Accept: application/jwt")
    assert token.headers["content-type"] == "application/jwt"
    assert token.body.decode() == device("nas", NAS, ALICE, zone=HOME, **_FRESH).text
    head = site.get(identifier(dev_did(NAS.public)), version, "-I")
    assert head.status == 200
    assert head.headers["content-length"] == str(len(page.body))
    assert head.body == b""


@modes("own", "open")
def test_by_its_name_and_by_kind(site: Site) -> None:
    assert site.get(identifier(HOME, "boot")).body.decode() == boot(ALICE, "nas:192.0.2.1@wan", **_FRESH).text
    assert site.get(identifier(HOME, "nas")).body == site.get(identifier(HOME, "nas"), "--http2").body
    assert site.get(identifier(HOME, "pi")).body.decode() == mini("pi", PI, ALICE, **_FRESH).text
    named = site.get(identifier("did:web:nas.home.example")).json()
    assert named["id"] == "did:web:nas.home.example"
    assert named["verificationMethod"][0]["publicKeyJwk"] == NAS.public.jwk()
    assert site.get(identifier(HOME, "absent")).status == 404


@modes("own", "open")
def test_well_known_places_are_those_of_the_host(site: Site) -> None:
    for version in ("--http1.1", "--http2"):
        page = site.get("/.well-known/did.json", version, host="nas.home.example")
        assert page.status == 200
        assert page.json()["id"] == "did:web:nas.home.example"
        assert site.get("/.well-known/boot", version, host="home.example").headers["content-type"] == "application/jwt"
        assert site.get("/.well-known/nas", version, host="home.example").status == 200
        assert site.get("/.well-known/did.json", version, host="other.example").status == 404
        assert site.get("/.well-known/security.txt", version, host="home.example").status == 404
        assert site.get("/.well-known/did.json", version).status == 404


@modes("own")
def test_pinned_ones_are_known_and_others_are_not(site: Site) -> None:
    told = site.get(identifier(FRIEND), "-H", "Accept: application/jwt")
    assert told.status == 200
    assert told.body.decode() == boot(MALLORY, "box", zone=FRIEND, **_FRESH).text
    unknown = site.get(identifier(STRANGER))
    assert unknown.status == 404
    assert unknown.json()["didResolutionMetadata"]["error"] == "notFound"
    assert unknown.headers["cache-control"] == "no-store"
    assert site.get(identifier("did:web:asked.example")).status == 404
    anybody = site.get(identifier(dev_did(SecretKey(bytes(32)).public)))
    assert anybody.status == 200


@modes("open")
def test_an_open_one_asks_for_everybody(site: Site) -> None:
    page = site.get(identifier(STRANGER), "-H", "Accept: application/did-resolution")
    assert page.status == 200
    assert page.json()["didDocumentMetadata"]["trust"] == "host-snapshot", "a file said less than our own zone does"
    absent = site.get(identifier("did:web:absent.example"))
    assert absent.status == 404
    assert absent.json()["didDocument"] is None


@modes("own", "open")
def test_our_own_zones_are_this_machines_word(site: Site) -> None:
    """What the name server itself serves is looked up in it, without a question to anybody."""
    words = (identifier("did:web:box.asked.example"), "-H", "Accept: application/did-resolution")
    told = site.own(*words).json()
    assert told["didDocument"]["verificationMethod"][0]["publicKeyJwk"] == PI.public.jwk()
    assert told["didDocumentMetadata"]["trust"] == "host-snapshot"
    assert site.get(*words).status == (404 if site.folder.name.startswith("own") else 200)


@modes("off")
def test_switched_off_there_is_nothing(site: Site) -> None:
    for version in ("--http1.1", "--http2"):
        assert site.get(identifier(dev_did(NAS.public)), version).status == 404
        assert site.get("/.well-known/did.json", version, host="nas.home.example").status == 404


@modes("own", "open", "off")
def test_the_owner_is_told_everything(site: Site) -> None:
    page = site.own(identifier(dev_did(NAS.public)))
    assert page.status == 200
    assert page.headers["content-type"] == "application/did+ld+json"
    assert site.own(identifier(STRANGER), "-H", "Accept: application/did-resolution").status == 200
    assert site.own(identifier("did:web:")).status == 400


@modes("own", "open")
@pytest.mark.parametrize(
    ("path", "status"),
    [
        (identifier("did:web:"), 400),
        (identifier("did:unknown-method:x"), 400),
        (identifier("nas.home.example"), 400),
        ("/1.0/identifiers/", 400),
        ("/1.0/identifiers/%ff%fe", 400),
        ("/1.0/identifiers/did:web:" + "a" * 600, 400),
        ("/1.0/identifiers/did:web:" + "a" * 3000, 404),
        ("/1.0/other", 404),
        (identifier(HOME, "../../../etc/passwd"), 400),
        (identifier(HOME, "x" * 70), 400),
    ],
)
def test_nonsense_is_refused(site: Site, path: str, status: int) -> None:
    page = site.get(path)
    assert page.status == status
    if status == 400:
        assert page.json()["didResolutionMetadata"]["error"] == "invalidDid"
    assert site.get(path, "--http2").body == page.body
    assert site.get(path, "-X", "POST", "-d", "x").status == 404


@modes("own", "off")
def test_dns_goes_on_beside(site: Site) -> None:
    assert site.get("/dns-query?dns=AAABAAABAAAAAAAAA3d3dwdleGFtcGxlA2NvbQAAAQAB").status == 200


async def test_damaged_pins_are_a_fault_and_nobody_is_shown(tmp_path: Path) -> None:
    store = TrustStore(tmp_path)
    pin = store.pin(Pin(about=FRIEND, key=MALLORY.public, source="test", at=NOW - DAY))
    service = DidService(TrustedNames([TheName(), ThisMachine(store)], store), tmp_path)

    async def status(did: Did) -> int:
        page = await service.page(PageWanted(identifier(did), "nas.home.example", ""))
        assert page is not None
        return page.status

    pin.write_bytes(b"{")
    assert (await status(FRIEND), await status(STRANGER)) == (500, 404)
    pin.rename(pin.with_name("x.json"))
    assert (await status(FRIEND), await status(STRANGER)) == (500, 500)


@pytest.mark.parametrize("names", ["ab", "ba"])
async def test_a_pinned_zone_is_told_by_its_zone_document_whatever_else_is_held(tmp_path: Path, names: str) -> None:
    store = TrustStore(tmp_path)
    store.pin(Pin(about=HOME, key=ALICE.public, source="test", at=NOW - DAY))
    document = ZoneDoc(id=HOME, key=ALICE.public, owner=dev_did(ALICE.public), oods=(), **_FRESH)
    zone = sign_token(document.claims(), ALICE)
    (tmp_path / "names" / "local").mkdir(parents=True)
    for name, text in zip(names, (zone, boot(ALICE, "nas", **_FRESH).text), strict=True):
        (tmp_path / "names" / "local" / f"{name}.jwt").write_text(text)
    service = DidService(TrustedNames([TheName(), ThisMachine(store)], store), tmp_path)
    page = await service.page(PageWanted("/.well-known/did.json", "home.example", "application/jwt"))
    assert page is not None and page.body.decode() == zone


def resolver(site: Site, base: str = "/1.0/identifiers/") -> UniversalResolver:
    async def nowhere(host: str) -> Sequence[str]:
        raise AssertionError("an address needs no resolver")

    trust: ssl.SSLContext = trust_in(site.ca)
    return UniversalResolver(f"https://127.0.0.1:{site.port}{base}", SafeFetch(nowhere, tls=trust))


@modes("own")
async def test_our_resolver_asks_our_service(site: Site) -> None:
    asking = resolver(site)
    found = await asking.ask(Ask(subject=dev_did(NAS.public)))
    assert isinstance(found, Found)
    token = found.claims[0].value
    assert isinstance(token, Token)
    assert token.verify(ALICE.public)
    assert found.claims[0].trust == Trust.AUTH_CHANNEL
    key = await asking.ask(Ask(subject=dev_did(MALLORY.public)))
    assert isinstance(key, Found)
    assert own_key(key) == MALLORY.public
    child = await asking.ask(Ask(subject=Did("web", "pi.home.example")))
    assert isinstance(child, Found)
    assert isinstance(child.claims[0].value, Token)
    assert isinstance(await asking.ask(Ask(subject=STRANGER)), Absent)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(st.text(max_size=60), st.text("did:webkyns%2F/.?=type&", max_size=40)),
    st.text(max_size=30),
    st.sampled_from(["/1.0/identifiers/", "/.well-known/", "/1.0/identifiers/did:web:", "/"]),
)
def test_whatever_is_asked_for_is_answered_or_not_there(tmp_path: Path, rest: str, host: str, start: str) -> None:
    store = TrustStore(tmp_path)
    names = TrustedNames([TheName(), ThisMachine(store)], store)
    service = DidService(names, tmp_path)

    async def ask() -> None:
        page = await service.page(PageWanted(start + rest, host, ""))
        assert page is None or page.status in (200, 400, 404)

    trio.run(ask)


async def test_a_machine_below_a_bridge_is_found_by_all_its_names(tmp_path: Path) -> None:
    zone = parse_did("did:bns:alice")
    own = tmp_path / "identity"
    own.mkdir()
    (own / "pi.jwt").write_text(mini("pi", PI, ALICE, zone, **_FRESH).text)
    service = DidService(TrustedNames([], TrustStore(tmp_path)), tmp_path, bridges={"bns": "web3.example"})
    by_did = await service.page(PageWanted(identifier("did:bns:pi.alice"), "", ""))
    by_host = await service.page(PageWanted("/.well-known/did.json", "pi.alice.web3.example", ""))
    assert by_did is not None and by_host is not None
    assert by_did.status == by_host.status == 200 and by_did.body == by_host.body
    other = await service.page(PageWanted(identifier("did:web:pi.alice"), "", ""))
    assert other is not None and other.status == 404
