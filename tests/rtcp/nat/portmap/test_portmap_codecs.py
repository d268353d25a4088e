"""The formats of port mapping: what the documents say octet by octet, and whatever else a stranger may send."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_ns.errors import BadWire, Misuse
from rtcp.nat.portmap import igd, natpmp, pcp, ssdp
from rtcp.nat.portmap.igd import Fault, Replied, Service
from rtcp.nat.portmap.natpmp import PmpAddress, PmpMapping, PmpRefusal
from rtcp.nat.portmap.values import Grant, Transport, Wanted, Way, not_public
from rtcp.nat.portmap.xmltree import MAX_SIZE, read_xml
from tests.rtcp.nat.portmap.fakerouter import FOUND, GATEWAY, LOCATION, NONCE, description, fault, soap

WANTED = Wanted(Transport.UDP, 4000)
SERVICE = Service("urn:schemas-upnp-org:service:WANIPConnection:1", f"http://{GATEWAY}:5000/ctl/IPConn")

PCP_MAPPED = bytes.fromhex(
    "02810000" "00000e10" "0000002a" "000000000000000000000000"
    "000102030405060708090a0b" "11000000" "0fa0" "2710" "00000000000000000000ffffcb007107"
)  # fmt: skip
PCP_ANNOUNCED = bytes.fromhex("028000000000000000000005000000000000000000000000")
PMP_ADDRESS = bytes.fromhex("008000000000002acb007107")
PMP_MAPPED = bytes.fromhex("008100000000002a0fa0271000000e10")


# PCP


def test_a_pcp_request_is_what_the_document_says():
    assert pcp.map_request(WANTED, "192.168.1.20", NONCE, 7200, ("0.0.0.0", 4000)) == bytes.fromhex(
        "02010000" "00001c20" "00000000000000000000ffffc0a80114"
        "000102030405060708090a0b" "11000000" "0fa0" "0fa0" "00000000000000000000ffff00000000"
    )  # fmt: skip
    wanted = Wanted(Transport.TCP, 443, version=6)
    assert pcp.map_request(wanted, "2001:db8::1", NONCE, 0, ("::", 0)) == bytes.fromhex(
        "02010000" "00000000" "20010db8000000000000000000000001"
        "000102030405060708090a0b" "06000000" "01bb" "0000" "00000000000000000000000000000000"
    )  # fmt: skip


def test_a_pcp_answer_is_read():
    answer = pcp.read_answer(PCP_MAPPED)
    assert (answer.result, answer.lifetime, answer.clock) == (0, 3600, 42)
    assert answer.mapping is not None
    assert answer.mapping.is_of(WANTED, NONCE)
    assert not answer.mapping.is_of(WANTED, bytes(12))
    assert not answer.mapping.is_of(Wanted(Transport.TCP, 4000), NONCE)
    assert not answer.mapping.is_of(Wanted(Transport.UDP, 4001), NONCE)
    assert answer.mapping.grant(answer.lifetime) == Grant("203.0.113.7", 10000, 3600)
    assert pcp.read_answer(PCP_MAPPED + bytes(8)).mapping == answer.mapping  # with an option
    assert pcp.read_answer(PCP_ANNOUNCED).clock == 5


def test_every_pcp_error_has_words():
    words = {pcp.read_answer(PCP_MAPPED[:3] + bytes((code,)) + PCP_MAPPED[4:]).words for code in range(1, 15)}
    assert len(words) == 14
    assert "error 14" in words


@pytest.mark.parametrize(
    "wire",
    [
        b"",
        PCP_MAPPED[:-1],
        PCP_MAPPED[:-4],
        PCP_MAPPED + bytes(1100),
        b"\x01" + PCP_MAPPED[1:],
        b"\x02\x01" + PCP_MAPPED[2:],
        b"\x02\x82" + PCP_MAPPED[2:],
    ],
)
def test_what_is_no_pcp_answer_is_refused(wire):
    with pytest.raises(BadWire):
        pcp.read_answer(wire)


def test_a_mapping_to_port_0_is_none():
    answer = pcp.read_answer(PCP_MAPPED[:42] + bytes(2) + PCP_MAPPED[44:])
    with pytest.raises(BadWire):
        answer.mapping.grant(60)


def test_a_nonce_is_the_same_again_for_the_same_mapping_alone():
    way = Way(GATEWAY, "192.168.1.20")
    nonces = {
        pcp.nonce_of(b"secret", WANTED, way),
        pcp.nonce_of(b"secret", WANTED, way),
        pcp.nonce_of(b"other", WANTED, way),
        pcp.nonce_of(b"secret", Wanted(Transport.TCP, 4000), way),
        pcp.nonce_of(b"secret", Wanted(Transport.UDP, 4001), way),
        pcp.nonce_of(b"secret", WANTED, Way("192.168.2.1", "192.168.2.20")),
    }
    assert len(nonces) == 5
    assert {len(nonce) for nonce in nonces} == {12}


# NAT-PMP


def test_nat_pmp_requests_are_what_the_document_says():
    assert bytes.fromhex("0000") == natpmp.ADDRESS_REQUEST
    assert natpmp.map_request(WANTED, 10000, 3600) == bytes.fromhex("000100000fa0271000000e10")
    assert natpmp.map_request(Wanted(Transport.TCP, 80), 0, 0) == bytes.fromhex("000200000050000000000000")


def test_nat_pmp_answers_are_read():
    assert natpmp.read_answer(PMP_ADDRESS) == PmpAddress(42, "203.0.113.7")
    assert natpmp.read_answer(PMP_MAPPED) == PmpMapping(42, Transport.UDP, 4000, 10000, 3600)
    refusal = natpmp.read_answer(bytes.fromhex("008200020000002a"))
    assert refusal == PmpRefusal(42, Transport.TCP, 2)
    assert refusal.words == "not authorised"
    assert natpmp.read_answer(bytes.fromhex("008000010000002a")) == PmpRefusal(42, None, 1)


@pytest.mark.parametrize(
    "wire",
    [
        b"",
        PMP_ADDRESS[:11],
        PMP_MAPPED[:15],
        b"\x01" + PMP_ADDRESS[1:],
        b"\0\0" + PMP_ADDRESS[2:],
        bytes(1200),
        PMP_MAPPED[:10] + bytes(2) + PMP_MAPPED[12:],
        bytes.fromhex("00830000") + PMP_MAPPED[4:],
    ],
)
def test_what_is_no_nat_pmp_answer_is_refused(wire):
    with pytest.raises(BadWire):
        natpmp.read_answer(wire)


# UPnP


def test_a_search_names_the_group_and_both_versions():
    first, second = (search.decode() for search in ssdp.searches())
    assert first.startswith("M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\n")
    assert first.endswith("\r\n\r\n")
    assert ":InternetGatewayDevice:2\r\n" in first
    assert ":InternetGatewayDevice:1\r\n" in second


def test_an_answer_to_a_search_names_the_description():
    assert ssdp.read_answer(FOUND, GATEWAY) == LOCATION


@pytest.mark.parametrize(
    "wire",
    [
        b"",
        b"NOTIFY * HTTP/1.1\r\n\r\n",
        FOUND.replace(b"200 OK", b"404 No"),
        FOUND.replace(b"InternetGatewayDevice", b"MediaServer"),
        FOUND.replace(b"Location", b"X"),
        FOUND + b"x" * 2048,
    ],
)
def test_what_is_no_answer_to_a_search_is_refused(wire):
    with pytest.raises(BadWire):
        ssdp.read_answer(wire, GATEWAY)


@pytest.mark.parametrize(
    "url",
    ["http://192.168.1.1/", "http://192.168.1.1:80/a", "http://192.168.1.1:49152/a?b", "HTTP://192.168.1.1:1900/x.xml"],
)
def test_urls_of_the_router_are_used(url):
    assert ssdp.own_url(url, GATEWAY) == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/rootDesc.xml",
        "https://192.168.1.1:5000/",
        "ftp://192.168.1.1:5000/",
        "file:///etc/passwd",
        "http://192.168.1.2:5000/",
        "http://127.0.0.1:5000/",
        "http://169.254.169.254/latest/",
        "http://router.lan:5000/",
        "http://192.168.1.1.evil.example:5000/",
        "http://192.168.1.1@10.0.0.1:5000/",
        "http://10.0.0.1@192.168.1.1:5000/",
        "http://10.0.0.1#@192.168.1.1:5000/",
        "http://3232235777:5000/",
        "http://0xc0a80101:5000/",
        "http://192.168.1.1:22/",
        "http://192.168.1.1:443/",
        "http://192.168.1.1:99999/",
        "http://[::ffff:192.168.1.1]:5000/",
        "http://192.168.1.1:5000/a b",
        "http://192.168.1.1:5000/\r\nx: y",
        "http://192.168.1.1:5000/ä",
        "http://192.168.1.1:5000/" + "x" * 512,
    ],
)
def test_urls_that_lead_elsewhere_are_not(url):
    with pytest.raises(BadWire):
        ssdp.own_url(url, GATEWAY)


def test_a_description_is_read():
    assert igd.read_description(description(), LOCATION, GATEWAY) == (SERVICE,)
    (second,) = igd.read_description(description(2, "IPConn"), LOCATION, GATEWAY)
    assert second.second
    assert second.control == f"http://{GATEWAY}:5000/IPConn"
    (ppp,) = igd.read_description(description(kind="WANPPPConnection"), LOCATION, GATEWAY)
    assert not ppp.second
    based = description().replace(b"<device>", f"<URLBase>http://{GATEWAY}:5431/</URLBase><device>".encode(), 1)
    assert igd.read_description(based, LOCATION, GATEWAY)[0].control == f"http://{GATEWAY}:5431/ctl/IPConn"


def test_a_description_offers_so_many_services_and_no_more():
    service = description().partition(b"<service>")[2].rpartition(b"<service>")[2].partition(b"</service>")[0]
    many = description().replace(b"</serviceList>", (b"<service>" + service + b"</service>") * 100 + b"</serviceList>")
    assert len(igd.read_description(many, LOCATION, GATEWAY)) == 4


def test_a_call_is_what_the_document_says():
    asked = igd.call(SERVICE, "DeletePortMapping", *igd.name_of(Transport.TCP, 443))
    assert asked.url == SERVICE.control
    assert ("soapaction", '"urn:schemas-upnp-org:service:WANIPConnection:1#DeletePortMapping"') in asked.headers
    (call,) = (each for each in read_xml(asked.body).walk() if each.name == "DeletePortMapping")
    assert [(each.name, each.text) for each in call.children] == [
        ("NewRemoteHost", ""),
        ("NewExternalPort", "443"),
        ("NewProtocol", "TCP"),
    ]


def test_a_mapping_names_everything_in_order():
    arguments = dict(igd.mapping(Transport.UDP, 10000, ("192.168.1.20", 4000), 3600, "<&>"))
    assert list(arguments.values()) == ["", "10000", "UDP", "4000", "192.168.1.20", "1", "<&>", "3600"]
    (text,) = (
        each.text
        for each in read_xml(igd.call(SERVICE, "AddPortMapping", *arguments.items()).body).walk()
        if each.name == "NewPortMappingDescription"
    )
    assert text == "<&>"


def test_replies_are_read():
    reply = Replied(200, soap("GetExternalIPAddress", NewExternalIPAddress=" 203.0.113.7\n"))
    assert igd.read_reply(reply, "GetExternalIPAddress") == {"NewExternalIPAddress": "203.0.113.7"}
    for code in (401, 606, 718, 725, 999):
        assert igd.read_reply(fault(code), "AddPortMapping") == Fault(code)
        assert Fault(code).words
    nameless = fault(1).body.replace(b"<errorCode>1</errorCode>", b"")
    assert igd.read_reply(Replied(500, nameless), "AddPortMapping") == Fault(0)


@pytest.mark.parametrize(
    "reply",
    [
        Replied(301, soap("X")),
        Replied(200, b""),
        Replied(200, soap("Y")),
        Replied(200, b"<html><body>Sign in</body></html>"),
    ],
)
def test_what_is_no_reply_is_refused(reply):
    with pytest.raises(BadWire):
        igd.read_reply(reply, "X")


# XML


def test_xml_is_read_without_its_prefixes():
    root = read_xml(
        b'\xef\xbb\xbf<?xml version="1.0" encoding="latin-1"?><a:x q="1"><!-- c --><y> 1 &lt; 2 </y><y/></a:x>\0\n'
    )
    assert root.name == "x"
    assert root.get("y") == "1 < 2"
    assert root.get("z") == ""
    assert [element.name for element in root.walk()] == ["x", "y", "y"]


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"<a>",
        b"<a></b>",
        b"<a/><b/>",
        b"<!DOCTYPE a><a/>",
        b'<!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>',
        b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>',
        b'<!DOCTYPE a SYSTEM "http://10.0.0.1/"><a/>',
        b"<a>&x;</a>",
        b"<a>" * 40 + b"</a>" * 40,
        b"<a>" + b"<b/>" * 3000 + b"</a>",
        b"<a>" + b"x" * MAX_SIZE + b"</a>",
    ],
)
def test_what_is_more_than_a_small_tree_is_refused(document):
    with pytest.raises(BadWire):
        read_xml(document)


# Anything


@pytest.mark.parametrize(
    ("ip", "public"),
    [
        ("203.0.113.7", True),
        ("8.8.8.8", True),
        ("2001:db8::1", True),
        ("100.63.255.255", True),
        ("100.64.0.0", False),
        ("100.127.255.255", False),
        ("100.128.0.0", True),
        ("172.15.0.1", True),
        ("172.16.0.1", False),
        ("0.0.0.0", False),
        ("255.255.255.255", False),
        ("fe80::1", False),
        ("fd00::1", False),
        ("::", False),
    ],
)
def test_addresses_that_cannot_be_reached_from_everywhere(ip, public):
    assert (not_public(ip) == "") is public


@pytest.mark.parametrize("ports", [(0, 0), (65536, 0), (1, 65536), (-1, 0)])
def test_only_ports_can_be_mapped(ports):
    with pytest.raises(Misuse):
        Wanted(Transport.TCP, *ports)


def a_value_or_its_one_error(read: Callable[[bytes], object], untrusted: bytes) -> None:
    try:
        first = read(untrusted)
    except BadWire:
        with pytest.raises(BadWire):
            read(untrusted)
    else:
        assert read(untrusted) == first


READERS = {
    "pcp": (pcp.read_answer, PCP_MAPPED),
    "pcp announcement": (pcp.read_answer, PCP_ANNOUNCED),
    "nat-pmp mapping": (natpmp.read_answer, PMP_MAPPED),
    "nat-pmp address": (natpmp.read_answer, PMP_ADDRESS),
    "ssdp": (lambda data: ssdp.read_answer(data, GATEWAY), FOUND),
    "description": (lambda data: igd.read_description(data, LOCATION, GATEWAY), description()),
    "reply": (lambda data: igd.read_reply(Replied(200, data), "X"), soap("X", A="1", B="2")),
    "fault": (lambda data: igd.read_reply(Replied(500, data), "X"), fault(718).body),
    "xml": (read_xml, description(head="<!-- x -->")),
}


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=100)
@given(data=st.data())
def test_whatever_comes_is_a_value_or_its_one_error(name, data):
    read, good = READERS[name]
    a_value_or_its_one_error(read, good)
    a_value_or_its_one_error(read, data.draw(st.binary(max_size=200)))
    at = data.draw(st.integers(0, len(good)))
    until = data.draw(st.integers(at, min(len(good), at + 20)))
    a_value_or_its_one_error(read, good[:at] + data.draw(st.binary(max_size=20)) + good[until:])


@pytest.mark.parametrize("name", READERS)
def test_every_octet_may_be_wrong_or_the_last(name):
    read, good = READERS[name]
    for at in range(len(good)):
        a_value_or_its_one_error(read, good[:at])
        for wrong in (0, 0x80, 0xFF, good[at] ^ 1, ord("<"), ord("&")):
            a_value_or_its_one_error(read, good[:at] + bytes((wrong,)) + good[at + 1 :])
