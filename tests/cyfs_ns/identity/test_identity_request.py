"""Requests, what is issued for them, and what is published: without any file."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_ns.errors import BadWire
from cyfs_ns.identity import publish
from cyfs_ns.identity.did import dev_did, parse_did
from cyfs_ns.identity.documents import DeviceDoc, DeviceMini, OwnerDoc, ZoneBoot, ZoneDoc
from cyfs_ns.identity.issue import Issuer, next_iat
from cyfs_ns.identity.oods import read_ood
from cyfs_ns.identity.proof import verify
from cyfs_ns.identity.request import LIFETIME, DeviceRequest, OwnerRequest, Request, read_request, write_request
from cyfs_ns.identity.token import Token, read_token
from cyfs_ns.identity.txt import read_published
from tests.cyfs_ns.identity.identities import ALICE, HOME, MALLORY, NAS, NOW, PI

WISH = DeviceRequest(
    name="nas",
    key=NAS.public,
    zone=HOME,
    ips=("192.0.2.1", "2001:db8::1"),
    net="wan",
    rtcp_port=2981,
    iat=NOW,
    exp=NOW + LIFETIME,
)
WRITTEN = json.dumps(write_request(WISH, NAS), indent=2).encode()
ANEW = OwnerRequest(key=NAS.public, full_name="Alice A.", zone=HOME, iat=NOW, exp=NOW + LIFETIME)
OWNER = Issuer(key=ALICE, id=dev_did(ALICE.public), iat=NOW, exp=NOW + 1000)


def signed(document: OwnerDoc | DeviceDoc | ZoneBoot | ZoneDoc, issuer: Issuer = OWNER) -> Token:
    return read_token(issuer.sign(document))


def test_a_request_says_what_was_asked_however_it_is_laid_out() -> None:
    assert read_request(WRITTEN, NOW) == WISH
    assert read_request(WRITTEN.replace(b"\n", b"\r\n   "), NOW + LIFETIME - 1) == WISH


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b'"nas"', b'"pi"', "not made by the machine"),
        (b"2981", b"2982", "not made by the machine"),
        (NAS.public.x.encode(), MALLORY.public.x.encode(), "not made by the machine"),
        (b'"device-request"', b'"something"', "kind"),
        (b'"rtcp_port"', b'"root"', "'root' is not known here"),
        (b'"kind"', b'"more": 1, "kind"', "'more' is not known here"),
        (b'"name": "nas"', b'"name": "nas", "name": "pi"', "a key occurs twice"),
        (b'"net_id": "wan"', b'"net_id": 7', "net_id"),
    ],
)
def test_a_request_that_was_changed_is_refused(old: bytes, new: bytes, said: str) -> None:
    assert old in WRITTEN
    with pytest.raises(BadWire, match=said):
        read_request(WRITTEN.replace(old, new, 1), NOW)


@pytest.mark.parametrize(
    ("wish", "now", "said"),
    [
        (WISH, NOW + LIFETIME, "too old to be signed; make it again on the machine that asks: id request"),
        (ANEW, NOW + LIFETIME, "too old to be signed; make it again on the machine that asks: id owner request"),
        (WISH, NOW - 61, "61 s in the future"),
        (replace(WISH, exp=NOW + LIFETIME + 1), NOW, "too old"),
    ],
)
def test_a_request_has_its_time(wish: Request, now: float, said: str) -> None:
    with pytest.raises(BadWire, match=said):
        read_request(json.dumps(write_request(wish, NAS)).encode(), now)


@pytest.mark.parametrize(
    "wish",
    [ANEW, OwnerRequest(key=NAS.public, iat=NOW, exp=NOW + 1), replace(ANEW, name="alice", id=parse_did("did:bns:a"))],
)
def test_a_machine_may_ask_what_its_owner_says_of_themselves(wish: OwnerRequest) -> None:
    assert read_request(json.dumps(write_request(wish, NAS)).encode(), NOW) == wish


def test_a_request_of_one_kind_is_none_of_another() -> None:
    both = {"name": "nas", "x": NAS.public.x, "iat": NOW, "exp": NOW + 1}
    wishes = (
        DeviceRequest(name="nas", key=NAS.public, iat=NOW, exp=NOW + 1),
        replace(ANEW, name="nas", full_name=None),
    )
    device, owner = (write_request(wish, NAS) for wish in wishes)
    assert device["claims"] == both
    for there, here in ((device, owner["kind"]), (owner, device["kind"])):
        with pytest.raises(BadWire, match="not made by the machine"):
            read_request(json.dumps({**there, "kind": here}).encode(), NOW)


@settings(max_examples=200)
@given(st.sampled_from([WISH, ANEW]), st.floats(0, 1, exclude_max=True), st.integers(0, 255))
def test_a_byte_that_changed_is_the_same_request_or_the_one_error(wish: Request, part: float, byte: int) -> None:
    written = json.dumps(write_request(wish, NAS), indent=2).encode()
    at = int(part * len(written))
    with suppress(BadWire):
        assert read_request(written[:at] + bytes([byte]) + written[at + 1 :], NOW) == wish


@settings(max_examples=100)
@given(st.binary(max_size=400))
def test_whatever_a_stranger_sends_is_a_request_or_the_one_error(data: bytes) -> None:
    with pytest.raises(BadWire):
        read_request(data, NOW)


def test_what_was_asked_for_is_what_is_signed() -> None:
    document = verify(signed(OWNER.device(WISH, HOME)), "device", ALICE.public, NOW, issuer=OWNER.id)
    assert isinstance(document, DeviceDoc)
    assert (document.name, document.key, document.zone) == ("nas", NAS.public, HOME)
    assert (document.ips, document.net, document.rtcp_port) == (WISH.ips, "wan", 2981)
    mini = verify(read_token(document.mini_jwt or ""), "device-mini", ALICE.public, NOW)
    assert isinstance(mini, DeviceMini)
    assert (mini.name, mini.key, mini.rtcp_port, mini.extra["z"]) == ("nas", NAS.public, 2981, "home.example")
    assert OWNER.device(WISH, None).mini_jwt is None


def test_an_owner_signs_for_the_own_key_only() -> None:
    document = signed(OWNER.owner("alice", zone=HOME, extra={"meta": {"a": 1}}))
    assert verify(document, "owner", ALICE.public, NOW, issuer=OWNER.id).extra == {"meta": {"a": 1}}
    named = replace(OWNER, id=parse_did("did:bns:alice"))
    assert verify(signed(named.owner("alice"), named), "owner", ALICE.public, NOW, issuer=named.id).subject == named.id
    with pytest.raises(BadWire, match=re.escape(f"{dev_did(NAS.public)} is a key, and {ALICE.public} signs")):
        replace(OWNER, id=dev_did(NAS.public)).owner("alice")


def test_the_next_document_is_later_than_the_last() -> None:
    assert next_iat(None, NOW + 0.7) == NOW
    assert next_iat(NOW - 5, NOW) == NOW
    assert next_iat(NOW, NOW + 0.5) == NOW + 1
    with pytest.raises(BadWire, match="this clock is wrong"):
        next_iat(NOW + 60, NOW)


BOOT = OWNER.boot(HOME, [read_ood("nas:192.0.2.1"), read_ood("pi")], None)


def test_what_is_published_is_what_is_read_back() -> None:
    pi = OWNER.device(replace(WISH, name="pi", key=PI.public), HOME)
    files = [("boot", signed(BOOT)), ("pi", signed(pi)), ("nas", signed(OWNER.device(WISH, HOME)))]
    published = publish.publication(files, ALICE.public, NOW)
    assert (published.name, published.notes) == ("home.example", ())
    back = read_published(record.encode() for record in published.records)
    assert back.key == ALICE.public and back.boot is not None and back.faults == ()
    assert back.boot.text == files[0][1].text
    assert [token.claims["n"] for token in back.devices] == ["nas", "pi"]


def test_a_zone_document_publishes_its_boot_document() -> None:
    zone = OWNER.zone(BOOT, OWNER.sign(BOOT), {})
    published = publish.publication([("zone", signed(zone))], ALICE.public, NOW)
    assert published.records[1] == f"BOOT={OWNER.sign(BOOT)};"
    assert published.notes == tuple(
        f"{name} stands in the boot document and has no DEV record: its key cannot be learnt from DNS"
        for name in ("nas", "pi")
    )


def test_nothing_is_published_that_would_not_be_believed() -> None:
    other = Issuer(key=MALLORY, id=OWNER.id, iat=NOW, exp=NOW + 10)
    lan = OWNER.boot(parse_did("did:web:lan.example"), [read_ood("nas")], None)
    nas = signed(OWNER.device(WISH, HOME))
    for files, said in [
        ([("f", signed(BOOT, other))], "f: boot document: not signed by"),
        ([("f", signed(OWNER.device(WISH, None)))], "f: without its short form"),
        ([("f", nas), ("g", signed(lan))], "g: it is for did:web:lan.example"),
        ([("f", signed(BOOT)), ("g", signed(replace(BOOT, iat=NOW - 1)))], "g: another boot document than in f"),
        ([("f", nas), ("g", signed(OWNER.device(replace(WISH, key=PI.public), HOME)))], "another document of 'nas'"),
        ([], "which zone"),
    ]:
        with pytest.raises(BadWire, match=said):
            publish.publication(files, ALICE.public, NOW)
    with pytest.raises(BadWire, match="f: boot document: expired"):
        publish.publication([("f", signed(BOOT))], ALICE.public, NOW + 1000)


def test_long_records_are_cut_into_character_strings() -> None:
    published = publish.publication([("boot", signed(BOOT))], ALICE.public, NOW)
    _, boot = publish.as_zone(published).splitlines()
    pieces = boot.partition(" TXT ")[2].strip('"').split('" "')
    assert "".join(pieces) == published.records[1] and max(map(len, pieces)) == 255
    assert publish.as_records(published).splitlines()[1] == f"home.example\tTXT\t{published.records[1]}"
