"""What a chain name holds, as DNS records."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_ns.ens.contenthash import read_content
from cyfs_ns.ens.records import (
    Holdings,
    did_records,
    dns_records,
    dnslink_records,
    ens_records,
    holdings,
    read_addresses,
    read_stored,
)
from cyfs_ns.errors import BadWire
from cyfs_ns.identity.did import Did
from cyfs_ns.identity.txt import joined_txt
from cyfs_ns.message import AAAA, CNAME, MX, TXT, A
from cyfs_ns.records import CAA, HTTPS, SSHFP, TLSA, URI, data_wire
from cyfs_ns.trust.evidence import Claim, Evidence
from cyfs_ns.trust.level import Trust
from cyfs_ns.trust.outcome import Found
from cyfs_ns.wire import name_wire

NAME = "house.eth"
SITE = read_content("ipfs://bafybeibj6lixxzqtsb45ysdjnupvqkufgdvzqbnvmhw2kf7cfkesy7r7d4")


def said(rtype: int, held: Holdings) -> list[str]:
    return [record.text for record in dns_records(NAME, rtype, held, ttl=300)]


def test_its_addresses_by_family() -> None:
    own = Holdings(addresses=("192.0.2.1", "2001:db8::1"), content=SITE)
    assert (said(A, own), said(AAAA, own), said(HTTPS, own)) == (["192.0.2.1"], ["2001:db8::1"], [])
    assert said(A, Holdings(content=SITE)) == said(A, Holdings()) == []


def test_the_dnslink_of_its_content() -> None:
    site = Holdings(content=SITE)
    assert said(TXT, site) == [f'"dnslink=/ipfs/{SITE.name}"']
    (record,) = dnslink_records("_dnslink.house.eth", site, ttl=5)
    assert (record.name, record.rtype, record.ttl) == ("_dnslink.house.eth", TXT, 60)
    assert dnslink_records(NAME, Holdings(), ttl=5) == ()


def test_texts_and_coins_however_long() -> None:
    held = Holdings(texts={"url": "https://x", "long": "y" * 600}, coins={60: "0xAb"})
    records = ens_records("_ens.house.eth", held, ttl=9999)
    assert [joined_txt(record.data) for record in records] == [b"url=https://x", b"long=" + b"y" * 600, b"a.60=0xAb"]
    assert records[0].ttl == 3600


def test_the_identity() -> None:
    (record,) = did_records("_did.house.eth", Holdings(did="did:web:house.example"), ttl=300)
    assert (record.rtype, record.text) == (URI, '10 1 "did:web:house.example"')
    assert did_records("_did.house.eth", Holdings(), ttl=300) == ()


def test_an_alias_stands_alone() -> None:
    alias = {"alias": "Web.Example"}
    assert said(CNAME, Holdings(texts=alias)) == ["web.example."]
    assert said(A, Holdings(texts=alias)) == []
    for beside in (Holdings(texts=alias, addresses=("192.0.2.1",)), Holdings(texts=alias, content=SITE)):
        assert said(CNAME, beside) == []
    for odd in ("", "not a name", "192.0.2.1", NAME, "x" * 300):
        assert said(CNAME, Holdings(texts={"alias": odd})) == []


def stored(rtype: int, data: bytes, *, owner: str = NAME, ttl: int = 5, rclass: int = 1) -> bytes:
    head = rtype.to_bytes(2, "big") + rclass.to_bytes(2, "big") + ttl.to_bytes(4, "big") + len(data).to_bytes(2, "big")
    return name_wire(owner) + head + data


def test_records_it_holds_come_first_and_within_bounds() -> None:
    wire = {
        A: stored(A, b"\xc0\0\2\1") + stored(A, b"\xc0\0\2\2", owner="other.eth") + stored(A, b"\xc0\0\2\3", ttl=90000),
        MX: stored(MX, b"\0\5" + name_wire("mail.example")),
    }
    held = Holdings(addresses=("192.0.2.99",), wire=wire)
    records = dns_records(NAME, A, held, ttl=300)
    assert [(record.text, record.ttl) for record in records] == [("192.0.2.1", 60), ("192.0.2.3", 3600)]
    assert said(MX, held) == ["5 mail.example."]


@pytest.mark.parametrize("rtype", [TLSA, SSHFP, CAA])
def test_what_others_rest_their_safety_on_must_be_proven(rtype: int) -> None:
    text = {TLSA: "3 1 1 " + "00" * 32, SSHFP: "4 2 " + "00" * 32, CAA: '0 issue "ca.example"'}[rtype]
    wire = {rtype: stored(rtype, data_wire(rtype, text))}
    assert said(rtype, Holdings(wire=wire, wire_trust=Trust.QUORUM)) == []
    assert len(said(rtype, Holdings(wire=wire, wire_trust=Trust.STORAGE_PROOF))) == 1


@pytest.mark.parametrize(
    "untrusted",
    [
        b"\xff",
        stored(A, b"\xc0\0\2"),
        stored(A, b"\xc0\0\2\1")[:-1],
        stored(A, b"\xc0\0\2\1", rclass=3),
        stored(A, b"\xc0\0\2\1") * 65,
        # A name that points into whatever message it would be sent in.
        stored(CNAME, b"\xc0\x0c"),
        stored(MX, b"\0\5\xc0\x0c"),
    ],
)
def test_stored_records_that_are_none_are_refused(untrusted: bytes) -> None:
    with pytest.raises(BadWire):
        read_stored(untrusted)


@given(st.one_of(st.binary(max_size=80), st.binary(max_size=30).map(lambda data: stored(A, data) + stored(MX, data))))
@settings(max_examples=200)
def test_any_stored_bytes_are_records_or_the_one_error(untrusted: bytes) -> None:
    try:
        records = read_stored(untrusted)
    except BadWire:
        return
    for record in records:
        assert data_wire(record.rtype, record.text) == record.data


@pytest.mark.parametrize(
    ("value", "addresses"),
    [
        (b"\xc0\0\2\1", ("192.0.2.1",)),
        (bytes.fromhex("20010db8") + bytes(11) + b"\1", ("2001:db8::1",)),
        (bytes(10) + b"\xff\xff\xc0\0\2\1", ("192.0.2.1",)),
        ("192.0.2.1 192.0.2.1,2001:DB8::1", ("192.0.2.1", "2001:db8::1")),
        ("/ip4/192.0.2.1/tcp/80", ("192.0.2.1",)),
        ("/ip6/2001:db8::1", ("2001:db8::1",)),
        (b"/ip6/2001:db8::1", ("2f69:7036:2f32:3030:313a:6462:383a:3a31",)),
        ("", ()),
    ],
)
def test_addresses_in_a_record(value: str | bytes, addresses: tuple[str, ...]) -> None:
    assert read_addresses(value) == addresses


@pytest.mark.parametrize(
    "value", [b"\xc0\0", b"192.0.2.1", "192.0.2", "/dns4/x.example", "x", "127.1", b"\xff" * 7, "192.0.2.1 " * 99]
)
def test_what_is_no_address_is_refused(value: str | bytes) -> None:
    with pytest.raises(BadWire):
        read_addresses(value)


@given(st.one_of(st.text(max_size=40), st.binary(max_size=40)))
@settings(max_examples=200)
def test_any_value_is_addresses_or_the_one_error(value: str | bytes) -> None:
    with suppress(BadWire):
        read_addresses(value)


def test_claims_become_holdings() -> None:
    about = Did("ens", NAME)
    fact = Evidence(trust=Trust.QUORUM, what="said", source="ENS", at=0.0)
    owner = replace(fact, trust=Trust.OWNER_SIGNED)
    claims = [
        Claim(about=about, kind="text", key="url", value="https://strongest", evidence=owner),
        Claim(about=about, kind="address", value="192.0.2.1", evidence=fact),
        Claim(about=about, kind="text", key="url", value="https://x", evidence=fact),
        Claim(about=about, kind="text", key="a.60", value="0xAb", evidence=fact),
        Claim(about=about, kind="content", value=str(SITE), evidence=fact),
        Claim(about=about, kind="did", value="did:web:x.example", evidence=fact),
        Claim(about=about, kind="record", key="A", value=stored(A, b"\xc0\0\2\1"), evidence=fact),
        Claim(about=Did("ens", "other.eth"), kind="address", value="192.0.2.2", evidence=fact),
    ]
    assert holdings(Found(subject=about, claims=tuple(claims))) == Holdings(
        addresses=("192.0.2.1",),
        content=SITE,
        texts={"url": "https://strongest"},
        coins={60: "0xAb"},
        did="did:web:x.example",
        wire={A: stored(A, b"\xc0\0\2\1")},
        wire_trust=Trust.QUORUM,
    )
