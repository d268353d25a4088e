"""What a stranger's first bytes are taken for, whose machine that leads to, and what the operator may write."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_gateway.sn.ingress import (
    MAX_HEAD,
    MAX_LOOK,
    Alert,
    First,
    Guest,
    IngressSettings,
    TurnedAway,
    Wanted,
    alert,
    machine_of,
    page,
    read_http,
    read_ingress,
    read_tls,
)
from cyfs_gateway.sn.ingresscrowd import Crowd, Pace, source_of
from cyfs_gateway.sn.requests import Register
from cyfs_gateway.sniff import MORE
from cyfs_ns.errors import ConfigFault
from tests.cyfs_gateway.sn.sn_people import NOW, SN, Office, person

HELLO_V4 = b"\x01\x23\x08\x01rest"
MESSAGE_V5 = b"\x01\x23\x05\x01rest"


def hello(host: str | None) -> bytes:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.set_alpn_protocols(["acme-tls/1"])
    out = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=host).do_handshake()
    return out.read()


def hello_to(name: bytes) -> bytes:
    """A ClientHello with whatever as the server name."""
    listed = b"\0" + len(name).to_bytes(2, "big") + name
    content = len(listed).to_bytes(2, "big") + listed
    extensions = b"\0\0" + len(content).to_bytes(2, "big") + content
    body = b"\3\3" + bytes(32) + b"\0" + b"\0\2\x13\1" + b"\1\0" + len(extensions).to_bytes(2, "big") + extensions
    message = b"\1" + len(body).to_bytes(3, "big") + body
    return b"\x16\3\1" + len(message).to_bytes(2, "big") + message


def unrecognised(first: First) -> bool:
    return isinstance(first, TurnedAway) and first.answer == alert(Alert.UNRECOGNIZED_NAME)


@pytest.mark.parametrize(
    ("written", "host"),
    [
        (b"photos.alice.sn.example", "photos.alice.sn.example"),
        (b"Photos.ALICE.sn.Example", "photos.alice.sn.example"),
        (b"photos.alice.sn.example.", "photos.alice.sn.example"),
        (b"xn--bcher-kva.example", "xn--bcher-kva.example"),
        (b"b\xc3\xbccher.example", ""),
        (b"photos%2ealice.sn.example", ""),
        (b"photos.alice.sn.example\0.evil.example", ""),
        (b"photos.alice.sn.example/../bob", ""),
        (b"photos.alice.sn.example:443", ""),
        (b"alice..sn.example", ""),
        (b"192.0.2.1", ""),
        (b"[2001:db8::1]", ""),
        (b"2001:db8::1", ""),
        (b"0x7f.1", ""),
        (b"", ""),
        (b" photos.alice.sn.example", ""),
        (b"a" * 64 + b".example", ""),
        (b".".join([b"a" * 60] * 5), ""),
    ],
)
def test_a_server_name_has_one_spelling_or_leads_nowhere(written: bytes, host: str) -> None:
    first = read_tls(hello_to(written))
    assert first == Wanted(host) if host else unrecognised(first)


def test_a_hello_is_read_however_it_comes() -> None:
    wire = hello("Photos.alice.sn.example")
    for end in range(len(wire)):
        assert read_tls(wire[:end]) is MORE
    assert read_tls(wire) == Wanted("photos.alice.sn.example")
    assert read_tls(wire + b"early") == Wanted("photos.alice.sn.example")
    assert unrecognised(read_tls(hello(None)))


def test_devices_are_told_from_browsers_by_their_first_bytes() -> None:
    for wire in (b"\0\0rest", HELLO_V4, MESSAGE_V5, b"\x16\x03\x05\x01"):
        seen = [read_tls(wire[:end]) for end in range(len(wire) + 1)]
        assert seen[-1] is Guest.DEVICE
        assert seen[0] is MORE
        assert read_http(wire) is Guest.DEVICE, "where port 80 is all that is open"
    for wire in (b"GET / HTTP/1.1\r\n", b"SSH-2.0-x\r\n", b"\x16\x02\x01\x00\x10", bytes([22, 3, 1, 0, 0])):
        assert isinstance(read_tls(wire), TurnedAway)


def test_a_hello_that_never_ends_is_turned_away() -> None:
    wire = b"".join(b"\x16\3\1\0\1" + bytes([each]) for each in b"\1\0\x7f\xff") + b"\x16\3\1\x40\0" + bytes(1 << 16)
    assert isinstance(read_tls(wire[:MAX_LOOK]), TurnedAway)


def request(host: bytes = b"photos.alice.sn.example", target: bytes = b"/", more: bytes = b"") -> bytes:
    return b"GET " + target + b" HTTP/1.1\r\nHost: " + host + b"\r\n" + more + b"\r\n"


@pytest.mark.parametrize(
    ("wire", "host"),
    [
        (request(), "photos.alice.sn.example"),
        (request(b"PHOTOS.alice.sn.EXAMPLE."), "photos.alice.sn.example"),
        (request(b"photos.alice.sn.example:80"), "photos.alice.sn.example"),
        (request(b"photos.alice.sn.example", b"http://Photos.alice.sn.example/x"), "photos.alice.sn.example"),
        (b"OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n", "a.example"),
        (request(b"bob.sn.example", b"http://photos.alice.sn.example/"), ""),
        (request(b"photos.alice.sn.example", b"ftp://photos.alice.sn.example/"), ""),
        (request(b"photos.alice.sn.example", b"http://me@photos.alice.sn.example/"), ""),
        (request(b"photos.alice.sn.example", b"photos.alice.sn.example:443"), ""),
        (request(more=b"Host: bob.sn.example\r\n"), ""),
        (request(more=b"host: photos.alice.sn.example\r\n"), ""),
        (b"GET / HTTP/1.1\r\n\r\n", ""),
        (b"GET / HTTP/1.0\r\n\r\n", ""),
        (b"CONNECT photos.alice.sn.example:80 HTTP/1.1\r\nHost: photos.alice.sn.example:80\r\n\r\n", ""),
        (request(b"192.0.2.1"), ""),
        (request(b"[2001:db8::1]"), ""),
        (request(b"127.1"), ""),
        (request(b"photos%2ealice.sn.example"), ""),
        (request(b"b\xc3\xbccher.example"), ""),
        (request(b"photos.alice.sn.example, bob.sn.example"), ""),
        (request(b"photos.alice.sn.example:99999"), ""),
        (request(b""), ""),
        (b"GET / HTTP/1.1\r\nHost : photos.alice.sn.example\r\n\r\n", ""),
        (b"GET / HTTP/1.1\r\nHost: photos.alice.sn.example\r\n folded\r\n\r\n", ""),
        (b"GET / HTTP/1.1\nHost: photos.alice.sn.example\n\n\r\n\r\n", ""),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", ""),
        (b"\x16\x03\x01\x02\x00\x01", ""),
        (b"GET /" + b"a" * MAX_HEAD, ""),
    ],
)
def test_a_request_names_one_host_or_leads_nowhere(wire: bytes, host: str) -> None:
    first = read_http(wire)
    if host:
        assert isinstance(first, Wanted) and first.host == host
    else:
        assert isinstance(first, TurnedAway)
        assert not first.answer or first.answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")


def test_where_a_page_is_found_over_tls() -> None:
    for target, path in ((b"/a?b=c", "/a?b=c"), (b"http://photos.alice.sn.example/a", "/a"), (b"/", "/")):
        first = read_http(request(target=target))
        assert isinstance(first, Wanted) and first.location == f"https://photos.alice.sn.example{path}"


@given(st.one_of(st.binary(max_size=200), st.builds(hello_to, st.binary(max_size=80)), st.builds(request, st.binary())))
@settings(max_examples=200, deadline=None)
def test_any_bytes_give_one_answer_and_keep_it(wire: bytes) -> None:
    for read in (read_tls, read_http):
        answers = [read(wire[:end]) for end in range(len(wire) + 1)]
        settled = [each for each in answers if each is not MORE]
        assert all(type(each) is type(settled[0]) for each in settled)
        assert not settled or isinstance(settled[0], TurnedAway) or settled[0] == settled[-1]


def test_a_page_is_one_answer_and_ends_the_connection() -> None:
    wire = page(308, "there", "https://a.example/")
    head, _, body = wire.partition(b"\r\n\r\n")
    assert body == b"there\n"
    assert b"Location: https://a.example/" in head and b"Connection: close" in head
    assert b"Content-Length: 6" in head


# Whose machine


def test_a_machine_is_chosen_or_named() -> None:
    office, alice, nas, desk = Office(open=True), person(1), person(2), person(3)
    assert office(alice, Register("alice")).ok
    assert office.admit(alice, nas, "nas").ok
    assert office.admit(alice, desk, "desk").ok
    entry = office.registry.find_name("alice")
    assert entry is not None

    def leads(host: str, now: float = NOW) -> str:
        machine = machine_of(entry, host, SN, now)
        return "" if machine is None else machine.device.name

    assert leads("alice.sn.example") == "nas"
    assert leads("photos.alice.sn.example") == "nas"
    assert leads("desk.alice.sn.example") == "desk"
    assert leads("photos.desk.alice.sn.example") == "desk"
    assert leads("desk.photos.alice.sn.example") == "nas"
    assert leads("alice.sn.example", NOW + 366 * 86400) == "", "a document that ran out"


# What the operator writes


def test_settings_by_default_and_as_written() -> None:
    assert read_ingress(True, SN) == IngressSettings(domain=SN)
    found = read_ingress(
        {"tls": "127.0.0.1:8443", "http": [8080, "[::1]:80"], "ports": "20000-20099", "leases": 2, "idle": 60}, SN
    )
    assert read_ingress({"connections-per-second": 32}, SN).rate == 32
    assert found.tls == (("127.0.0.1", 8443),)
    assert found.http == (("", 8080), ("::1", 80))
    assert (found.ports, found.leases, found.idle) == ((20000, 20099), 2, 60)
    assert read_ingress({"http": None}, SN).http == ()


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("443", "expected a mapping"),
        ({"tsl": 443}, "unknown key 'tsl'"),
        ({"tls": "example.org:443"}, "an address and a port"),
        ({"tls": 70000}, "an address and a port"),
        ({"ports": "1-100"}, "from 1024"),
        ({"ports": "300-200"}, "from 1024"),
        ({"ports": "all"}, "two ports"),
        ({"ports": {}}, "two ports"),
        ({"leases": -1}, "a number from"),
        ({"idle": True}, "a number from"),
        ({"connections": "many"}, "a number from"),
    ],
)
def test_settings_that_cannot_be(written: Any, said: str) -> None:
    with pytest.raises(ConfigFault, match=said):
        read_ingress(written, SN)


# Crowds


def test_the_oldest_of_a_source_or_of_all_makes_room() -> None:
    crowd: Crowd[str] = Crowd(4, 2)
    assert [crowd.enter(who, who[0]) for who in ("a1", "a2", "b1", "a3")] == [None, None, None, "a1"]
    assert crowd.enter("c1", "c") is None
    assert crowd.enter("c2", "c") == "a2"
    crowd.leave("a2")
    crowd.leave("b1")
    assert list(crowd) == ["a3", "c1", "c2"]
    assert crowd.enter("b2", "b") is None and len(crowd) == 4


def test_a_subscriber_is_one_source() -> None:
    assert source_of("192.0.2.1") == "192.0.2.1"
    assert source_of("2001:db8:1:2:3::4") == source_of("2001:db8:1:2:ffff::") != source_of("2001:db8:1:3::")


def test_a_source_comes_no_faster_than_its_share_and_leaves_the_rest_to_others() -> None:
    pace = Pace(64, 0.0)
    assert [pace.allows("a", 0.0) for _ in range(10)] == [True] * 8 + [False] * 2
    assert pace.allows("b", 0.0), "another source has its own share"
    assert [pace.allows("a", 1.0) for _ in range(3)] == [True, True, False], "two a second"


def test_all_together_come_no_faster_than_the_whole() -> None:
    pace = Pace(64, 0.0)
    assert sum(pace.allows(str(number), 0.0) for number in range(200)) == 64
    assert sum(pace.allows(str(number), 0.5) for number in range(200, 400)) == 32


def test_a_storm_from_everywhere_costs_so_much_memory_and_no_more() -> None:
    pace = Pace(1 << 20, 0.0)
    for number in range(40_000):
        pace.allows(str(number), 0.0)
        assert len(pace) <= 8192
    assert pace.allows("39999", 0.0) and len(pace) <= 8192, "who came of late is known"
