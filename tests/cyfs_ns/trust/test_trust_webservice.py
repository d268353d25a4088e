"""HTTPS records where a believed document names a web server, with the host's own addresses, and none elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_ns.identity.documents import ZoneBoot, ZoneDoc
from cyfs_ns.records import HTTPS, data_text
from cyfs_ns.trust.evidence import Claim, Evidence
from cyfs_ns.trust.level import Trust
from cyfs_ns.trust.outcome import Found
from cyfs_ns.trust.places import device_did
from cyfs_ns.trust.webservice import https_data, split_port
from tests.cyfs_ns.identity.identities import ALICE, DAY, HOME, NOW

BOTH = ("192.0.2.1", "2001:db8::1", "192.0.2.2")
HINTS = "ipv4hint=192.0.2.1,192.0.2.2 ipv6hint=2001:db8::1"
OOD = device_did("ood1", HOME)
FORERUNNERS: list[Any] = [
    {
        "id": "did:web:home.example#lastDoc",
        "type": "DIDDoc",
        "serviceEndpoint": "https://home.example/resolve/this_zone",
    }
]


def document(**extra: Any) -> ZoneDoc:
    return ZoneDoc(id=HOME, key=ALICE.public, owner=None, oods=(), iat=NOW - DAY, exp=NOW + DAY, extra=extra)


def service(*endpoints: Any) -> ZoneDoc:
    return document(service=[{"id": "#web", "type": "LinkedDomains", "serviceEndpoint": one} for one in endpoints])


def record(
    said: ZoneDoc | ZoneBoot,
    host: str = "home.example",
    port: int | None = None,
    addresses: tuple[str, ...] = BOTH,
    trust: Trust = Trust.OWNER_SIGNED,
) -> str | None:
    """The data of the record as text."""
    subject = HOME if host == "home.example" else OOD

    def fact(level: Trust) -> Evidence:
        return Evidence(trust=level, what="said", source="test", at=NOW)

    where = [Claim(about=subject, kind="address", value=one, evidence=fact(Trust.OWNER_SIGNED)) for one in addresses]
    claims = (Claim(about=HOME, kind="document", key=said.kind, value=said, evidence=fact(trust)), *where)
    data = https_data(host, port, Found(subject=subject, claims=claims), addresses)
    return None if data is None else data_text(HTTPS, data)


def test_the_forerunners_zone_has_a_web_server_at_its_own_addresses_and_no_protocol_is_made_up() -> None:
    assert record(document(service=FORERUNNERS)) == f"1 . {HINTS}"
    assert record(document(services=["http:0", "https:443", "smb"])) == f"1 . {HINTS}"
    assert record(document(service=FORERUNNERS), addresses=("192.0.2.1",)) == "1 . ipv4hint=192.0.2.1"


@pytest.mark.parametrize(
    "said",
    [
        service("http://home.example/"),
        service("https://other.example/"),
        service("https://home.example.evil.example/"),
        service("https://www.home.example/"),
        service("https://home.example:8443/"),
        service("https://home.example:99999/", "https://[home.example/", "https:", "", 5, None, ["ftp://x"], {}),
        document(service="https://home.example/"),
        document(service=["https://home.example/"]),
        document(services=["https:0", "https:8443", "https", "https:443x", 443]),
        document(),
        ZoneBoot(id=HOME, oods=(), iat=NOW, exp=NOW + DAY),
    ],
)  # fmt: skip
def test_where_no_document_names_a_web_server_there_is_no_record(said: ZoneDoc | ZoneBoot) -> None:
    assert record(said) is None


def test_a_machines_server_stands_in_the_zones_document_too_but_not_by_the_old_short_word() -> None:
    assert record(service(["https://OOD1.Home.example./x"]), host="ood1.home.example") == f"1 . {HINTS}"
    assert record(document(services=["https:443"]), host="ood1.home.example") is None


def test_a_port_has_a_name_of_its_own_that_leads_to_the_host() -> None:
    said = service("https://home.example:8443/")
    assert record(said, port=8443) == f"1 home.example. {HINTS}"
    assert record(said, port=8444) is None
    assert record(service("https://home.example/"), port=443) == f"1 home.example. {HINTS}"


def test_who_is_less_sure_than_the_addresses_adds_nothing_to_them() -> None:
    said = document(service=FORERUNNERS)
    assert record(said, trust=Trust.AUTH_CHANNEL) is None
    assert record(said, addresses=()) is None


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("_8443._https.home.example", (8443, "home.example")),
        ("_8443._HTTPS.Home.example", (8443, "Home.example")),
        ("home.example", (None, "home.example")),
        ("_https.home.example", (None, "_https.home.example")),
        ("_08._https.home.example", (None, "_08._https.home.example")),
        ("_8443._tcp.home.example", (None, "_8443._tcp.home.example")),
    ],
)
def test_the_names_of_ports(name: str, parts: tuple[int | None, str]) -> None:
    assert split_port(name) == parts


_json = st.recursive(
    st.none()
    | st.integers()
    | st.sampled_from(["https://home.example/", "https://[", "https:443", "x", "https://a:b"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.just("serviceEndpoint"), inner),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(_json, _json)
def test_whatever_a_document_says_of_services_is_a_record_or_none(one: Any, other: Any) -> None:
    assert record(document(service=one, services=other)) in (None, f"1 . {HINTS}")
