"""DIDs and host names, both ways, whatever happens to the case of letters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.did import Did, dev_did, did_of_host, host_of_did, host_suffix, parse_did, short_form, subject
from cyfs_ns.identity.keys import Multikey, SecretKey

X = "F8t5-ytBIPKx7GXkGY1uCLKOgT_rAeSkAIObheGAgM4"
BRIDGES = {"bns": "web3.example"}


@pytest.mark.parametrize(
    ("text", "did"),
    [
        (f"did:dev:{X}", Did("dev", X)),
        ("did:web:Home.Example", Did("web", "home.example")),
        ("did:web:home.example%3A8443:u:Alice", Did("web", "home.example%3A8443", ("u", "Alice"))),
        ("did:web:home.example%3A443", Did("web", "home.example")),
        ("did:web:xn--bcher-kva.example", Did("web", "xn--bcher-kva.example")),
        ("did:bns:ood1.Alice", Did("bns", "ood1.alice")),
        ("did:ens:alice.eth", Did("ens", "alice.eth")),
        ("did:example:123-_.%41", Did("example", "123-_.%41")),
    ],
)
def test_dids_are_read_in_one_form(text: str, did: Did) -> None:
    assert parse_did(text) == did == parse_did(str(did))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "did:",
        "did:dev",
        "did:dev:",
        "did:dev:short",
        f"did:dev:{X}:path",
        f"did:dev:{X.lower()[:-1]}=",
        "DID:web:home.example",
        "did:Web:home.example",
        "did:web:192.0.2.1",
        "did:web:[::1]",
        "did:web:home.example%3A0",
        "did:web:home.example%3A99999",
        "did:web:home.example%2Fpath",
        "did:web:home example",
        "did:web:home.example#key",
        "did:web:home.example?q",
        "did:web:home.example/path",
        "did:null:null",
        "did:undefined:undefined",
        "did:web:" + "a." * 300 + "example",
        "did:key:z" + "1" * 300,
    ],
)
def test_what_is_no_did(text: str) -> None:
    with pytest.raises(BadWire):
        parse_did(text)


@pytest.mark.parametrize(
    ("did", "host"),
    [
        ("did:web:home.example", "home.example"),
        ("did:bns:alice", "alice.web3.example"),
        ("did:bns:ood1.alice", "ood1.alice.web3.example"),
        ("did:ens:alice.eth", "alice.eth"),
        (f"did:dev:{X}", f"{X}.dev.did"),
        ("did:example:thing", "thing.example.did"),
    ],
)
def test_host_forms_both_ways(did: str, host: str) -> None:
    assert host_of_did(parse_did(did), BRIDGES) == host
    assert did_of_host(host, BRIDGES) == parse_did(did) == subject(host, BRIDGES) == subject(did, BRIDGES)
    assert did_of_host(host + ".", BRIDGES) == parse_did(did)


def test_without_a_bridge_a_chain_name_is_under_did() -> None:
    assert host_of_did(parse_did("did:bns:ood1.alice")) == "ood1.alice.bns.did"
    assert did_of_host("ood1.alice.BNS.did") == parse_did("did:bns:ood1.alice")


@pytest.mark.parametrize(
    "text",
    ["did:web:home.example", "did:web:home.example%3A8443", "did:web:home.example:u:alice", "did:bns:ood1.alice",
     "did:ens:alice.eth", f"did:dev:{X}"],
)  # fmt: skip
def test_the_short_form_is_read_back_whatever_the_bridges(text: str) -> None:
    did = parse_did(text)
    for bridges in ({}, BRIDGES, {"ens": "web3.example"}):
        assert subject(short_form(did), bridges) == did


@pytest.mark.parametrize(
    ("written", "suffix"),
    [
        ("Home.Example", "home.example"),
        ("alice.web3.example", "alice.web3.example"),
        ("alice.bns.did", "alice.web3.example"),
        ("bns.did", "web3.example"),
        ("web3.example", "web3.example"),
        ("ens.did", "ens.did"),
        ("dev.did", "dev.did"),
        ("eth", "eth"),
        ("did", "did"),
        (f"{X}.dev.did", host_of_did(parse_did(f"did:dev:{X}"), case_safe=True)),
    ],
)
def test_a_suffix_ends_the_host_names_as_they_are_written_here(written: str, suffix: str) -> None:
    assert host_suffix(written, BRIDGES) == suffix


@pytest.mark.parametrize("text", ["a b", "x..y", f"{X.lower()}.dev.did", "short.dev.did", "did:web:home.example"])
def test_what_ends_no_host_name_is_no_suffix(text: str) -> None:
    with pytest.raises(BadWire):
        host_suffix(text, BRIDGES)


def test_the_safe_form_survives_any_case() -> None:
    did = dev_did(SecretKey(b"\x33" * 32).public)
    safe = host_of_did(did, case_safe=True)
    assert safe == safe.lower() and len(safe.partition(".")[0]) == 52
    for form in (safe, safe.upper(), safe.swapcase(), safe.title()):
        assert did_of_host(form) == did


def test_a_key_that_lost_its_case_is_not_somebody_elses() -> None:
    with pytest.raises(BadWire, match="lost the case"):
        did_of_host(f"{X.lower()}.dev.did")
    with pytest.raises(BadWire):
        did_of_host(f"{X.upper()}.dev.did")


def test_paths_and_ports_have_no_host_name() -> None:
    for text in ("did:web:home.example:u:alice", "did:web:home.example%3A8443"):
        with pytest.raises(BadWire):
            host_of_did(parse_did(text))


@pytest.mark.parametrize("host", ["eth", "did", "dev.did", "x.null.did", "..did", f".{X}.dev.did", "did:web:x..y"])
def test_hosts_that_stand_for_nobody(host: str) -> None:
    with pytest.raises(BadWire):
        subject(host)


def test_one_key_is_one_identity() -> None:
    key = SecretKey(b"\x05" * 32).public
    by_key = parse_did(f"did:key:{Multikey('Ed25519', key.raw)}")
    assert by_key.canonical == dev_did(key) and by_key.key == key
    assert parse_did("did:web:home.example").canonical == Did("web", "home.example")


@given(st.binary(min_size=32, max_size=32))
def test_every_key_has_both_host_forms(seed: bytes) -> None:
    did = dev_did(SecretKey(seed).public)
    assert did_of_host(host_of_did(did, case_safe=True).upper()) == did
    assert did_of_host(host_of_did(did)) == did


@given(st.text(max_size=80) | st.from_regex(r"did:(web|dev|key|bns|ens|x):[A-Za-z0-9.%:_-]{0,60}", fullmatch=True))
def test_anything_is_a_did_or_the_one_error(text: str) -> None:
    for read in (parse_did, did_of_host, subject):
        try:
            did = read(text)
        except BadWire:
            continue
        assert parse_did(str(did)) == did
