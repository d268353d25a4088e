"""Tokens and documents: byte for byte the forerunner's, and strict with everything else."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from contextlib import suppress
from dataclasses import replace
from typing import Any

import jwt as pyjwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.did import Did, dev_did, parse_did
from cyfs_ns.identity.documents import (
    DeviceDoc,
    DeviceInfo,
    DeviceMini,
    Document,
    OwnerDoc,
    PlainDoc,
    ZoneBoot,
    ZoneDoc,
)
from cyfs_ns.identity.keys import SecretKey
from cyfs_ns.identity.oods import Ood, read_ood
from cyfs_ns.identity.proof import CLOCK_SKEW, verify
from cyfs_ns.identity.reading import LIFETIME, read_document
from cyfs_ns.identity.revision import Change, Revision, judge
from cyfs_ns.identity.strictjson import read_json, write_json
from cyfs_ns.identity.token import MOST_TOKEN, read_token, sign_token
from cyfs_ns.identity.txt import MOST_TXT, character_strings, read_published, txt_record
from tests.cyfs_ns.identity.identities import ALICE, DAY, HOME, MALLORY, NAS, NOW, boot, device, mini, secret

HELLO_SIGNATURE = "Ulz5WT6R-0zphBi3xOGGxGyECV41i0weGAzTavryhwAiseQSPLUwlpGL6bqX-b1oGcaHSy40KRnXlm6yIrI9BA"
"""Of the forerunner's Hello token with the keys and times below, computed from its code by others."""

OWNER_DID = parse_did("did:bns:alice")
TIMES = {"iat": NOW - DAY, "exp": NOW + DAY}


def documents() -> list[Document]:
    oods = (read_ood("ood1:192.0.2.1"), read_ood("$ood2@lan1"), read_ood("#gate:2001:db8::1@wan_dyn"))
    nas = DeviceDoc(
        id=dev_did(NAS.public), key=NAS.public, name="ood1", owner=OWNER_DID, zone=HOME, rtcp_port=2980,
        ips=("192.0.2.1", "2001:db8::7"), net="lan1", ddns_sn_url="https://sn.example", support_container=False,
        mini_jwt="x.y.z", **TIMES, extra={"capbilities": {"mem": 8}},
    )  # fmt: skip
    return [
        OwnerDoc(id=OWNER_DID, key=ALICE.public, name="alice", full_name="Alice A.", default_zone=HOME, **TIMES),
        nas,
        DeviceDoc(id=dev_did(NAS.public), key=NAS.public, name="ood1", owner=None, **TIMES),
        DeviceMini(name="ood1", key=NAS.public, rtcp_port=2981, **TIMES, extra={"z": "home.example"}),
        ZoneBoot(id=HOME, oods=oods, sn="sn.example", owner=OWNER_DID, **TIMES),
        ZoneDoc(
            id=HOME, key=ALICE.public, owner=OWNER_DID, oods=oods, hostname="home.example", boot_jwt="b",
            devices={"ood1": nas}, hub_key=NAS.public, **TIMES, extra={"docker_repo_base_url": "https://x"},
        ),
        DeviceInfo(device=nas, arch="amd64", os="linux", update_time=NOW, all_ips=("192.0.2.1",)),
        PlainDoc(id=HOME, key=None, iat=0, exp=1 << 52, extra={"service": []}),
    ]  # fmt: skip


def parts(*claims: Any, header: Any = None) -> str:
    raw = [header if header is not None else {"alg": "EdDSA"}, *claims]
    return ".".join(
        base64.urlsafe_b64encode(part if isinstance(part, bytes) else json.dumps(part).encode()).rstrip(b"=").decode()
        for part in raw
    )


def signed(claims: Any, key: SecretKey = ALICE, header: Any = None) -> str:
    text = parts(claims, header=header)
    return f"{text}.{base64.urlsafe_b64encode(key.sign(text.encode())).rstrip(b'=').decode()}"


def test_the_hello_token_of_the_forerunner_byte_for_byte() -> None:
    initiator, responder = secret(0x33), secret(0x44)
    assert initiator.public.x == "F8t5-ytBIPKx7GXkGY1uCLKOgT_rAeSkAIObheGAgM4"
    assert responder.public.x == "11l5O7wTooGagnx2rbb7qKSa7gB_SfLQmS2ZuCWtLEg"
    token = sign_token(
        {
            "xpub": "7b4e909bbe7ffe44c465a220037d608ee35897d31ef972f07f74892cb0f73f13",
            "aud": "buckyos-rtcp-v4-hello",
            "to": "responder.example",
            "canonical_to": str(dev_did(responder.public)),
            "from": f"{initiator.public.x}.dev.did",
            "listen_port": 2980,
            "iat": 1711111111,
            "exp": 1711111171,
            "nonce": "00000000000000000000000000000001",
        },
        initiator,
    )
    assert token.rpartition(".")[2] == HELLO_SIGNATURE
    assert token.partition(".")[0] == "eyJhbGciOiJFZERTQSJ9"


@pytest.mark.parametrize("document", documents(), ids=lambda document: type(document).__name__)
def test_documents_come_back_through_a_token_and_through_another_library(document: Document) -> None:
    text = sign_token(document.claims(), ALICE)
    token = read_token(text)
    assert token.verify(ALICE.public) and not token.verify(MALLORY.public)
    assert read_document(token.claims, document.kind) == document
    public = Ed25519PrivateKey.from_private_bytes(ALICE.seed).public_key()
    theirs = pyjwt.decode(text, public, ["EdDSA"], options={"verify_exp": False, "verify_iat": False})
    assert theirs == json.loads(write_json(document.claims()))


def test_what_another_library_signed_is_read() -> None:
    claims = documents()[0].claims()
    text = pyjwt.encode(dict(claims), Ed25519PrivateKey.from_private_bytes(ALICE.seed), "EdDSA")
    document = verify(read_token(text), "owner", ALICE.public, NOW, issuer=OWNER_DID)
    assert document == documents()[0]


def test_the_current_shape_as_the_forerunner_writes_it() -> None:
    """Names of fields, the main key, ``assertion_method`` in this spelling, and no field that is at its default."""
    claims = DeviceDoc(id=dev_did(NAS.public), key=NAS.public, name="ood1", owner=OWNER_DID, **TIMES).claims()
    assert sorted(claims) == [
        "@context", "assertion_method", "authentication", "device_type", "exp", "iat", "id", "name", "owner",
        "verificationMethod",
    ]  # fmt: skip
    assert claims["verificationMethod"] == [
        {
            "type": "Ed25519VerificationKey2020",
            "id": "#main_key",
            "controller": str(dev_did(NAS.public)),
            "publicKeyJwk": NAS.public.jwk(),
        }
    ]


def test_old_shapes_are_read() -> None:
    times = {"exp": NOW + DAY, "iat": NOW}
    zone = read_document(
        {
            "did": "did:web:home.example", "name": "home", "owner_name": "did:ens:alice",
            "auth_key": ALICE.public.jwk(), "oods": ["ood1", "ood2@192.168.32.1", "ood3#vlan1"],
            "sn": "sn.example", **times,
        }
    )  # fmt: skip
    assert isinstance(zone, ZoneDoc) and zone.key == ALICE.public and zone.owner == Did("ens", "alice")
    assert zone.oods == (Ood("ood1"), Ood("ood2", ip="192.168.32.1", net="wan"), Ood("ood3", net="vlan1"))
    old = read_document(
        {
            "did": str(dev_did(NAS.public)), "name": "ood1", "arch": "aarch64", "device_type": "ood", "ip": "192.0.2.4",
            "net_id": "wan", "auth_key": NAS.public.jwk(), "iss": "did:ens:alice", **times,
        }
    )  # fmt: skip
    assert isinstance(old, DeviceDoc) and old.ips == ("192.0.2.4",) and old.owner == Did("ens", "alice")
    owner = read_document(
        {"did": "did:ens:alice", "name": "a", "nickname": "Al", "auth_key": ALICE.public.jwk(), **times}
    )
    assert isinstance(owner, OwnerDoc) and owner.full_name == "Al"


def test_a_document_without_iat_counts_back_from_its_end() -> None:
    claims = {"n": "ood1", "x": NAS.public.x, "exp": NOW + LIFETIME}
    assert read_document(claims).iat == NOW
    assert read_document({**claims, "exp": 5}).iat == 0


def test_contexts_may_be_a_text_or_a_list_that_starts_with_the_core() -> None:
    claims = documents()[0].claims()
    for context in ("https://www.w3.org/ns/did/v1", ["https://www.w3.org/ns/did/v1", "x"]):
        assert read_document({**claims, "@context": context}) == documents()[0]
    with pytest.raises(BadWire, match="@context"):
        read_document({**claims, "@context": ["x", "https://www.w3.org/ns/did/v1"]})


HEADERS = [
    ({"alg": "none"}, "only EdDSA"),
    ({"alg": "None"}, "only EdDSA"),
    ({"alg": "HS256"}, "only EdDSA"),
    ({"alg": "ES256"}, "only EdDSA"),
    ({"alg": "Ed25519"}, "only EdDSA"),
    ({"alg": ["EdDSA"]}, "only EdDSA"),
    ({}, "only EdDSA"),
    ({"alg": "EdDSA", "crit": ["exp"]}, "changes what a token means"),
    ({"alg": "EdDSA", "b64": False}, "changes what a token means"),
    ({"alg": "EdDSA", "jwk": ALICE.public.jwk()}, "changes what a token means"),
    ({"alg": "EdDSA", "jku": "https://evil.example"}, "changes what a token means"),
    ({"alg": "EdDSA", "kid": 7}, "kid"),
    ({"alg": "EdDSA", "kid": ""}, "kid"),
    (b'{"alg":"EdDSA","alg":"none"}', "occurs twice"),
    (b"[]", "JSON object"),
]


@pytest.mark.parametrize(("header", "fault"), HEADERS)
def test_headers_that_are_refused_before_anything_else(header: Any, fault: str) -> None:
    with pytest.raises(BadWire, match=fault):
        read_token(signed({"n": "x"}, header=header))


def test_the_public_key_as_an_hmac_secret_proves_nothing() -> None:
    text = parts({"n": "ood1"}, header={"alg": "HS256", "typ": "JWT"})
    for secret_bytes in (ALICE.public.raw, ALICE.public.x.encode()):
        mac = hmac.new(secret_bytes, text.encode(), hashlib.sha256).digest()
        with pytest.raises(BadWire, match="only EdDSA"):
            read_token(f"{text}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "..",
        "a.b",
        "a.b.c.d",
        parts({"a": 1}) + ".",
        parts({"a": 1}) + "." + "A" * 85,
        signed({"a": 1}) + "=",
        signed({"a": 1}) + "\n",
        " " + signed({"a": 1}),
        signed(b'{"a":1,"a":2}'),
        signed(b'{"a":NaN}'),
        signed(b'{"a":1e999}'),
        signed(b'{"a":123456789012345678901234567890}'),
        signed(b'{"a":"\\ud800"}'),
        signed(b"\xff{}"),
        signed(b"[1]"),
        signed(b'{"a":1} trailing'),
        signed(b'{"a":' + b"[" * 50 + b"]" * 50 + b"}"),
        signed(b'{"a":' + b"[" * 20000 + b"]" * 20000 + b"}"),
    ],
)
def test_tokens_that_are_refused(text: str) -> None:
    with pytest.raises(BadWire):
        read_token(text)


def test_size_is_looked_at_before_anything_is_decoded() -> None:
    with pytest.raises(BadWire, match="at most"):
        read_token("." * (MOST_TOKEN + 1))
    with pytest.raises(BadWire, match="at most 100"):
        read_token(signed({"a": "x" * 200}), most=100)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"exp": "soon"}, "exp"),
        ({"exp": True}, "exp"),
        ({"exp": -1}, "exp"),
        ({"exp": 1.5}, "exp"),
        ({"exp": None}, "exp is missing"),
        ({"name": ""}, "name is missing"),
        ({"name": "two words"}, "host name"),
        ({"name": ["ood1"]}, "name"),
        ({"rtcp_port": 0}, "port"),
        ({"rtcp_port": 65536}, "port"),
        ({"ips": ["not an ip"]}, "no address"),
        ({"ips": ["192.0.2.1"] * 65}, "at most 64"),
        ({"id": "did:dev:short"}, "id is no identity"),
        ({"id": str(dev_did(ALICE.public))}, "no Ed25519 key"),
        ({"owner": "nobody"}, "owner is no identity"),
        ({"verificationMethod": []}, "no Ed25519 key"),
        ({"verificationMethod": [{}]}, "without id"),
        ({"verificationMethod": [{"id": "#a"}] * 33}, "at most 32"),
        ({"support_container": "no"}, "neither true nor false"),
    ],
)
def test_wrong_types_are_named(change: dict[str, Any], fault: str) -> None:
    claims = {**documents()[1].claims(), **change}
    with pytest.raises(BadWire, match=fault):
        read_document(claims, "device")


def test_a_key_that_names_another_key_lies() -> None:
    """Of an owner it would have anybody who is handed the file pin a stranger's key for the owner."""
    for document in documents():
        if document.main_key is None or not isinstance(document, OwnerDoc | DeviceDoc | ZoneDoc | PlainDoc):
            continue
        mine = replace(document, id=dev_did(document.main_key))
        assert read_document(mine.claims(), document.kind).subject == mine.id
        with pytest.raises(BadWire, match="but the key in it"):
            read_document(replace(document, id=dev_did(MALLORY.public)).claims(), document.kind)


def test_two_main_keys_are_no_key() -> None:
    claims = dict(documents()[0].claims())
    (method,) = claims["verificationMethod"]  # type: ignore[misc]
    with pytest.raises(BadWire, match="two keys"):
        read_document({**claims, "verificationMethod": [method, {**method, "publicKeyJwk": MALLORY.public.jwk()}]})


def test_time_and_issuer_are_checked_and_the_error_says_what_to_do() -> None:
    token = mini("ood1", NAS, ALICE)
    assert verify(token, "device-mini", ALICE.public, NOW).exp == NOW + DAY
    for now, fault in ((NOW + DAY, "expired"), (NOW - DAY - CLOCK_SKEW - 1, "in the future")):
        with pytest.raises(BadWire, match=fault):
            verify(token, "device-mini", ALICE.public, now)
    assert verify(token, "device-mini", ALICE.public, NOW - DAY - CLOCK_SKEW)
    with pytest.raises(BadWire, match=r"not signed by .*; get it again"):
        verify(token, "device-mini", MALLORY.public, NOW)
    with pytest.raises(BadWire, match="revoked by its owner"):
        verify(token, "device-mini", ALICE.public, NOW, least_iat=NOW)
    with pytest.raises(BadWire, match="kind 'device-mini'"):
        verify(token, "boot", ALICE.public, NOW)
    stranger = device("ood1", NAS, ALICE, whose=parse_did("did:bns:mallory"))
    with pytest.raises(BadWire, match="ask did:bns:mallory"):
        verify(stranger, "device", ALICE.public, NOW, issuer=OWNER_DID)


def test_kid_is_the_issuers_or_the_token_is_refused() -> None:
    claims = documents()[3].claims()
    whose = dev_did(ALICE.public)
    for kid in (ALICE.public.x, "#main_key", str(whose), f"{whose}#main_key", str(OWNER_DID)):
        assert verify(read_token(sign_token(claims, ALICE, kid)), "device-mini", ALICE.public, NOW, issuer=OWNER_DID)
    for kid in (MALLORY.public.x, "did:bns:mallory", "#other", "../../etc/passwd"):
        with pytest.raises(BadWire, match="is not its issuer's"):
            verify(read_token(sign_token(claims, ALICE, kid)), "device-mini", ALICE.public, NOW, issuer=OWNER_DID)


def test_every_single_byte_of_a_token_counts() -> None:
    text = mini("ood1", NAS, ALICE).text
    for at in range(len(text)):
        for other in "A_z9.":
            if other == text[at]:
                continue
            with suppress(BadWire):
                changed = read_token(text[:at] + other + text[at + 1 :])
                assert not changed.verify(ALICE.public)


def test_revisions_are_ordered() -> None:
    mark = Revision(10, "aa")
    assert judge(None, mark) is Change.FIRST
    assert judge(mark, mark) is Change.SAME
    assert judge(mark, Revision(11, "aa")) is Change.NEWER
    assert judge(mark, Revision(9, "zz")) is Change.ROLLBACK
    assert judge(mark, Revision(10, "bb")) is Change.CONFLICT
    assert judge(None, mark, least_iat=11) is Change.REVOKED
    assert [change for change in Change if change.acceptable] == [Change.FIRST, Change.SAME, Change.NEWER]


@pytest.mark.parametrize(
    "text",
    ["ood1", "#gate", "$ood2", "ood1:192.0.2.1", "ood1:192.168.1.9@lan1", "#g:2001:db8::1@wan_dyn", "ood1@portmap"],
)
def test_machines_come_back(text: str) -> None:
    assert str(read_ood(text)) == text


def test_what_a_machine_is() -> None:
    assert read_ood("ood1:192.0.2.1").net == "wan" and read_ood("ood1:192.0.2.1").on_wan
    assert (read_ood("#g").is_ood, read_ood("#g").is_gateway) == (False, True)
    assert (read_ood("$o").is_ood, read_ood("$o").is_gateway) == (True, False)
    for bad in ("", "#", "$", "a b", "ood1:", "ood1:x", "ood1@", "-x", "ood1:1.2.3.4:5", "x" * 64, "a@b@c"):
        if bad == "ood1@":
            continue
        with pytest.raises(BadWire):
            read_ood(bad)


def test_txt_records_of_a_zone() -> None:
    tokens = [boot(ALICE, "ood1"), mini("ood1", NAS, ALICE)]
    records = [
        b"v=spf1 -all",
        txt_record("BOOT", tokens[0].text).encode(),
        txt_record("PKX", ALICE.public.x).encode(),
        txt_record("DEV", tokens[1].text).encode(),
        txt_record("DEV", tokens[1].text).encode(),
        b"google-site-verification=DEV=x",
    ]
    published = read_published(records)
    assert published.key == ALICE.public and published.boot is not None and published.boot.text == tokens[0].text
    assert [token.text for token in published.devices] == [tokens[1].text] and not published.faults


def test_a_zone_of_the_first_forerunner_stands_in_one_record() -> None:
    token = signed({"did": str(HOME), "auth_key": ALICE.public.jwk(), "oods": ["ood1"], "sn": "x.example", **TIMES})
    published = read_published([b"v=spf1 -all", f"DID={token};".encode()])
    assert published.zone is not None and published.zone.text == token and not published.faults
    assert isinstance(read_document(published.zone.claims), ZoneDoc)
    other = signed({"did": str(HOME), "auth_key": MALLORY.public.jwk(), "oods": ["ood1"], **TIMES}, MALLORY)
    both = read_published([f"DID={text};".encode() for text in (token, other)])
    assert both.zone is None and "none is believed" in both.faults[0]


def test_forms_of_the_owners_key() -> None:
    sample = "qJdNEtscIYwTo-I0K7iPEt_UZdBDRd4r16jdBfNR0tM"  # of the forerunner's own tests
    told = read_published([f"PKX={sample};".encode()])
    assert told.key is not None and told.key.x == sample
    assert read_published([f"PKX=0:{ALICE.public.x};".encode()]).key == ALICE.public
    named = read_published([f"PKX={ALICE.public.x}:bns:alice;".encode()])
    assert (named.key, named.owner) == (ALICE.public, OWNER_DID)


@pytest.mark.parametrize(
    "record",
    [
        b"PKX=" + ALICE.public.x.encode(),
        b"PKX=short;",
        b"PKX=x:y;",
        b"PKX=\xff;",
        b"BOOT=not.a.token;",
        b"BOOT=a.b.c;PKX=x;",
        b"DEV=" + b"A" * MOST_TXT + b";",
    ],
)
def test_garbage_beside_the_real_record_is_a_fault_and_no_more(record: bytes) -> None:
    good = txt_record("DEV", mini("ood1", NAS, ALICE).text).encode()
    published = read_published([record, good])
    assert len(published.devices) == 1 and len(published.faults) == 1


def test_two_keys_are_none() -> None:
    published = read_published([txt_record("PKX", key.public.x).encode() for key in (ALICE, MALLORY)])
    assert published.key is None and "none is believed" in published.faults[0]
    boots = read_published([txt_record("BOOT", boot(ALICE, name).text).encode() for name in ("ood1", "ood2")])
    assert boots.boot is None and boots.faults


def test_records_longer_than_a_character_string() -> None:
    text = txt_record("BOOT", boot(ALICE, *(f"ood{n}" for n in range(9))).text)
    pieces = character_strings(text)
    assert len(pieces) > 1 and max(map(len, pieces)) == 255 and "".join(pieces) == text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 60), 1 << 60) | st.floats() | st.text(max_size=8),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=8), below, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    ["id", "did", "n", "x", "p", "exp", "iat", "oods", "hostname", "owner", "iss", "name", "full_name", "nickname",
     "ips", "ip", "device_type", "update_time", "arch", "os", "verificationMethod", "auth_key", "@context", "devices",
     "verify_hub_info", "all_ip", "net_id", "rtcp_port"]
)  # fmt: skip


@given(st.dictionaries(FIELDS, JSON, max_size=12))
def test_any_object_is_a_document_or_the_one_error(claims: dict[str, Any]) -> None:
    with suppress(BadWire):
        document = read_document(claims)
        assert read_document(document.claims(), document.kind) == document


@given(st.sampled_from(documents()), FIELDS, JSON)
def test_a_good_document_with_one_field_changed(document: Document, name: str, value: Any) -> None:
    with suppress(BadWire):
        read_document({**document.claims(), name: value})


@given(st.binary(max_size=200))
def test_any_bytes_are_json_or_the_one_error(data: bytes) -> None:
    with suppress(BadWire):
        assert read_json(write_json(read_json(data))) == read_json(data)


@given(st.text(max_size=300) | st.from_regex(r"[A-Za-z0-9_-]{0,40}\.[A-Za-z0-9_-]{0,80}\.[A-Za-z0-9_-]{86}"))
def test_any_text_is_a_token_or_the_one_error(text: str) -> None:
    with suppress(BadWire):
        read_token(text)


@given(st.lists(st.binary(max_size=120) | st.sampled_from([b"PKX=", b"BOOT=", b"DEV=", b"DID="]), max_size=6))
def test_any_records_are_read(records: list[bytes]) -> None:
    read_published(records)


def test_frozen_values_compare_whole() -> None:
    one = documents()[1]
    assert isinstance(one, DeviceDoc) and replace(one, name="ood9") != one
