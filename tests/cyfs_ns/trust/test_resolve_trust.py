"""``cyfs-ns resolve --trust`` as people run it, against our own server and a real web host."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cyfs_ns.identity.did import dev_did
from cyfs_ns.identity.txt import txt_record
from cyfs_ns.io.trusted.store import TrustStore
from cyfs_ns.trust.anchors import Pin
from tests.cyfs_ns.identity.identities import ALICE, DAY, HOME, NAS, boot, mini
from tests.cyfs_ns.nsprogram import Running, cyfs_ns, server
from tests.cyfs_ns.trust.dnshosts import zone_lines
from tests.cyfs_ns.trust.webhost import WebHost, web_host
from tests.freeport import free_port

NOW = int(time.time())
_FRESH: dict[str, Any] = {"iat": NOW - 100, "exp": NOW + DAY}
DEVICE = mini("ood1", NAS, ALICE, **_FRESH).text


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebHost]:
    with web_host(tmp_path_factory.mktemp("web")) as running:
        yield running


@pytest.fixture(scope="module")
def dns(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    spoilt = DEVICE[:-30] + ("A" if DEVICE[-30] != "A" else "B") + DEVICE[-29:]
    zones = {
        "home.example": [
            *zone_lines([txt_record("PKX", ALICE.public.x), txt_record("BOOT", boot(ALICE, "ood1", **_FRESH).text)]),
            *zone_lines([txt_record("DEV", DEVICE)]),
            "nas 300 IN A 127.0.0.1",
        ],
        "spoilt.example": zone_lines([txt_record("PKX", ALICE.public.x), txt_record("DEV", spoilt)]),
    }
    lines = "\n".join(f"    {name}:\n" + "\n".join(f"      - '{line}'" for line in zones[name]) for name in zones)
    port = free_port()
    text = f"dns:\n  listen: 127.0.0.1:{port}\n  local-domains: [example]\n  zones:\n{lines}\n"
    with server(tmp_path_factory.mktemp("dns"), text, port) as running:
        yield running


@pytest.fixture
def home(tmp_path: Path) -> Path:
    TrustStore(tmp_path).pin(Pin(about=HOME, key=ALICE.public, source="test", at=NOW - DAY))
    return tmp_path


def trust(dns: Running, home: Path, *words: str | Path, **env: str) -> tuple[int, str, str]:
    asked = cyfs_ns("resolve", *words, "--trust", "--home", home, f"@127.0.0.1:{dns.port}", env=env)
    return asked.returncode, asked.stdout, asked.stderr


def test_the_chain_of_evidence_is_printed(dns: Running, home: Path) -> None:
    code, said, _ = trust(dns, home, "ood1.home.example", "--min", "owner-signed")
    assert code == 0
    assert said.startswith("did:web:ood1.home.example is known: owner-signed\n")
    assert f"key self: {NAS.public.x}" in said
    assert f"signs with {ALICE.public.x}, pinned on this machine" in said
    assert "published in TXT records of home.example (udp://127.0.0.1" in said


def test_json_for_programs(dns: Running, home: Path) -> None:
    code, said, _ = trust(dns, home, "did:web:ood1.home.example", "--min", "owner-signed", "--json")
    told = json.loads(said)
    assert code == 0
    assert told["outcome"] == "found"
    assert told["trust"] == "owner-signed"
    assert {claim["value"] for claim in told["claims"] if claim["kind"] == "did"} == {str(dev_did(NAS.public))}


def test_without_a_pin_it_is_too_weak(dns: Running, tmp_path: Path) -> None:
    code, said, _ = trust(dns, tmp_path, "ood1.home.example", "--min", "dnssec")
    assert code == 1
    assert "is known by plain-dns only, dnssec was asked for" in said
    code, said, _ = trust(dns, tmp_path, "ood1.home.example")
    assert code == 0
    assert "is known: plain-dns" in said


def test_one_byte_changed_is_refused(dns: Running, home: Path) -> None:
    TrustStore(home).pin(
        Pin(about=HOME.__class__("web", "spoilt.example"), key=ALICE.public, source="test", at=NOW - DAY)
    )
    code, said, _ = trust(dns, home, "ood1.spoilt.example", "--min", "owner-signed")
    assert code != 0
    assert "device-mini document: not signed by" in said


def test_what_is_not_there(dns: Running, home: Path) -> None:
    code, said, _ = trust(dns, home, "nobody.example")
    assert code == 1, said
    assert "nobody.example" in said


def test_nobody_to_ask(home: Path) -> None:
    asked = cyfs_ns(
        *("resolve", "--trust", "elsewhere.example", "--home", home, "--timeout", "1"), f"@127.0.0.1:{free_port()}"
    )
    assert asked.returncode == 9, asked.stdout + asked.stderr
    assert "nobody who could be asked knows it" in asked.stdout


def test_the_plan_asks_nobody(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        "identity: {resolvers: ['https://resolver.example/1.0/identifiers'], ens: {rpc: ['https://a.example']}}\n"
    )
    words = ("resolve", "--trust", "--plan", "--home", tmp_path, "-c", config, f"@127.0.0.1:{free_port()}")
    asked = cyfs_ns(*words, "ood1.home.example", "--min", "owner-signed")
    assert asked.returncode == 0
    assert asked.stdout.splitlines() == [
        "did:web:ood1.home.example: asked until owner-signed is reached",
        "step 1: this machine, kept from earlier",
        "step 2: DNS",
        "step 3: web, resolver resolver.example/1.0/identifiers",
    ]
    assert "a single node can lie unnoticed" in asked.stderr
    told = json.loads(cyfs_ns(*words, "alice.eth", "--json").stdout)
    assert told["steps"][-1] == ["ENS"]


def test_a_key_needs_nobody(tmp_path: Path) -> None:
    asked = cyfs_ns("resolve", "--trust", str(dev_did(NAS.public)), "--home", tmp_path, f"@127.0.0.1:{free_port()}")
    assert asked.returncode == 0
    assert "is known: key-proven" in asked.stdout
    assert not (tmp_path / "names").exists()


def test_a_chain_name_without_nodes_says_what_is_missing(tmp_path: Path) -> None:
    asked = cyfs_ns("resolve", "--trust", "alice.eth", "--home", tmp_path, f"@127.0.0.1:{free_port()}")
    assert asked.returncode == 9
    assert "identity.ens.rpc" in asked.stderr


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("a.example", "b.example"),
        ("192.0.2.1",),
        ("did:web:",),
        ("a.example", "--min", "surely"),
        ("a.example", "-c", "/nonexistent"),
    ],
)
def test_a_command_line_that_makes_no_sense(tmp_path: Path, words: tuple[str, ...]) -> None:
    assert cyfs_ns("resolve", "--trust", "--home", tmp_path, *words).returncode == 2
    assert cyfs_ns("resolve", "a.example", "--min", "dnssec").returncode == 2


def test_a_document_on_a_web_host(dns: Running, web: WebHost, tmp_path: Path) -> None:
    did = f"did:web:nas.home.example%3A{web.port}"
    method = {"id": "#1", "type": "JsonWebKey2020", "controller": did, "publicKeyJwk": NAS.public.jwk()}
    web.put("nas.home.example/.well-known/did.json", json.dumps({"id": did, "verificationMethod": [method]}))
    config = tmp_path / "config.yaml"
    config.write_text("identity: {private: [home.example]}\n")
    trusted = {"SSL_CERT_FILE": str(web.ca_file)}
    code, said, _ = trust(dns, tmp_path, did, "-c", config, "--min", "auth-channel", **trusted)
    assert code == 0, said
    assert f"key self: {NAS.public.x}" in said
    code, said, _ = trust(dns, tmp_path, did, "--min", "auth-channel", **trusted)
    assert code != 0
    assert "where no server of strangers is" in said
    code, said, _ = trust(dns, tmp_path, did, "-c", config, "--min", "auth-channel", SSL_CERT_FILE=os.devnull)
    assert code != 0
    assert "certificate verify failed" in said
