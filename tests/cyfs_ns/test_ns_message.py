"""Messages against dnslib as the other implementation, and against bytes nobody meant."""

from __future__ import annotations

import dnslib
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_ns import message
from cyfs_ns.errors import BadWire
from cyfs_ns.message import Answer, Question, build_query, read_reply
from cyfs_ns.query import FORMERR, NXDOMAIN, UDP_SIZE

WWW = Question("www.example.com", message.A)


def reply(question: Question, *zone: str, ident: int = 7, authority: str = "", rcode: int = 0) -> bytes:
    record = dnslib.DNSRecord.parse(build_query(question, ident)).reply()
    record.header.rcode = rcode
    for line in zone:
        record.add_answer(*dnslib.RR.fromZone(line))
    if authority:
        record.add_auth(*dnslib.RR.fromZone(authority))
    return bytes(record.pack())


def test_a_query_says_what_dnslib_reads() -> None:
    parsed = dnslib.DNSRecord.parse(build_query(WWW, 0xABCD))
    assert (parsed.header.id, parsed.header.rd, parsed.header.qr) == (0xABCD, 1, 0)
    assert (str(parsed.q.qname), parsed.q.qtype, parsed.q.qclass) == ("www.example.com.", 1, 1)
    assert parsed.ar[0].edns_len == UDP_SIZE
    assert not dnslib.DNSRecord.parse(build_query(WWW, 1, edns=False)).ar
    assert str(dnslib.DNSRecord.parse(build_query(Question("", message.NS), 1)).q.qname) == "."


@pytest.mark.parametrize("name", ["a..b", ".a", "a.", "a" * 64, ".".join(["a" * 63] * 4)])
def test_a_name_that_does_not_fit_is_not_asked(name: str) -> None:
    with pytest.raises(BadWire):
        build_query(Question(name, 1), 0)


def test_addresses_follow_aliases_and_take_the_shortest_ttl() -> None:
    answer = read_reply(
        reply(
            WWW,
            "www.example.com. 300 IN CNAME a.example.net.",
            "a.example.net. 20 IN CNAME b.example.net.",
            "b.example.net. 60 IN A 192.0.2.1",
            "b.example.net. 60 IN A 192.0.2.2",
            "elsewhere.example. 60 IN A 192.0.2.66",
        ),
        WWW,
        7,
    )
    assert answer.addresses() == (("192.0.2.1", "192.0.2.2"), 20)


def test_no_addresses_may_be_remembered_as_the_soa_says() -> None:
    soa = "example.com. 900 IN SOA ns.example.com. root.example.com. 1 2 3 4 120"
    answer = read_reply(reply(WWW, authority=soa, rcode=NXDOMAIN), WWW, 7)
    assert (answer.rcode, answer.addresses()) == (NXDOMAIN, ((), 120))
    assert read_reply(reply(WWW), WWW, 7).addresses() == ((), 0)


def test_aliases_that_go_round_lead_nowhere() -> None:
    zone = ("www.example.com. 5 IN CNAME b.example.com.", "b.example.com. 5 IN CNAME www.example.com.")
    assert read_reply(reply(WWW, *zone), WWW, 7).addresses()[0] == ()


def test_a_mapped_address_is_unmapped() -> None:
    question = Question("x.example", message.AAAA)
    answer = read_reply(reply(question, "x.example. 5 IN AAAA ::ffff:c000:201"), question, 7)
    assert answer.addresses()[0] == ("192.0.2.1",)


def test_case_does_not_matter_but_the_rest_of_the_question_does() -> None:
    wire = reply(Question("WWW.Example.com", message.A), "wWw.example.com. 5 IN A 192.0.2.1")
    assert read_reply(wire, WWW, 7).addresses()[0] == ("192.0.2.1",)
    strangers = [
        (wire, WWW, 8),
        (wire, Question("www.example.org", message.A), 7),
        (wire, Question("www.example.com", message.AAAA), 7),
        (build_query(WWW, 7), WWW, 7),  # QR not set: our own query, reflected
        (wire[:2] + bytes([wire[2] | 0x28]) + wire[3:], WWW, 7),  # another opcode
    ]
    for other in strangers:
        with pytest.raises(BadWire):
            read_reply(*other)


def test_a_truncated_reply_is_read_no_further_than_its_question() -> None:
    wire = bytearray(reply(WWW, "www.example.com. 5 IN A 192.0.2.1")[:-3])
    with pytest.raises(BadWire):
        read_reply(bytes(wire), WWW, 7)
    wire[2] |= 0x02
    answer = read_reply(bytes(wire), WWW, 7)
    assert answer.truncated and answer.answer == ()


def test_a_server_that_could_not_read_us_may_leave_the_question_out() -> None:
    header = bytes.fromhex("0007 8181 0000 0000 0000 0000")
    assert read_reply(header, WWW, 7).rcode == FORMERR
    with pytest.raises(BadWire):
        read_reply(header[:3] + b"\x80" + header[4:], WWW, 7)


def test_the_upper_bits_of_the_code_come_from_edns() -> None:
    wire = bytearray(reply(WWW))
    wire[11] = 1
    assert read_reply(bytes(wire) + b"\0" + bytes.fromhex("0029 04d0 01000000 0000"), WWW, 7).rcode == 16


@pytest.mark.parametrize(
    ("rtype", "zone", "data"),
    [
        ("TXT", r'"a b;\"c" "zz"', r'"a b;\"c" "zz"'),
        ("MX", "5 mail.example.", "5 mail.example."),
        ("SRV", "1 2 3 host.example.", "1 2 3 host.example."),
        ("NS", "ns.example.", "ns.example."),
        ("SOA", "a.example. b.example. 1 2 3 4 5", "a.example. b.example. 1 2 3 4 5"),
        ("PTR", "host.example.", "host.example."),
        ("CAA", '0 issue "ca.example"', '0 issue "ca.example"'),
        ("SSHFP", "1 1 abcd", "1 1 ABCD"),
        ("TYPE999", None, r"\# 3 616263"),
    ],
)
def test_data_is_printed_as_a_zone_file_has_it(rtype: str, zone: str | None, data: str) -> None:
    number = message.rtype_number(rtype)
    question = Question("x.example", number)
    record = dnslib.DNSRecord.parse(build_query(question, 7)).reply()
    if zone is None:
        record.add_answer(dnslib.RR("x.example", number, rdata=dnslib.RD(b"abc"), ttl=5))
    else:
        record.add_answer(*dnslib.RR.fromZone(f"x.example. 5 IN {rtype} {zone}"))
    assert [r.data for r in read_reply(record.pack(), question, 7).answer] == [data]


def test_odd_octets_in_names_are_escaped() -> None:
    question = Question("x.example", message.NS)
    record = dnslib.DNSRecord.parse(build_query(question, 7)).reply()
    record.add_answer(dnslib.RR("x.example", message.NS, rdata=dnslib.NS(dnslib.DNSLabel([b"a.b c\n", b"lan"])), ttl=5))
    assert read_reply(record.pack(), question, 7).answer[0].data == r"a\.b\032c\010.lan."


@pytest.mark.parametrize(
    "name",
    [
        b"\xc0\x1d",  # to itself
        b"\xc0\xff",  # forward
        b"\x01a\xc0\x1d",  # back to its own start
        b"\x3f" + b"a" * 63 + b"\xc0\x1d",
        b"\x40",  # a label type of 1999
        (b"\x3f" + b"a" * 63) * 4 + b"\0",  # too long in all
    ],
)
def test_names_that_never_end_are_refused(name: bytes) -> None:
    question = b"\x07xxxxxxx\x03lan\0\0\x01\0\x01"
    head = b"\0\x07\x81\x80\0\x01\0\x01\0\0\0\0" + question
    assert len(head) == 0x1D  # where the record's name begins, and what the pointers above mean
    with pytest.raises(BadWire):
        read_reply(head + name + b"\0\x01\0\x01\0\0\0\x05\0\x04\x01\x02\x03\x04", Question("xxxxxxx.lan", message.A), 7)


def test_a_flood_of_records_is_refused() -> None:
    wire = bytearray(reply(WWW))
    wire[6:8] = b"\x02\x01"
    with pytest.raises(BadWire, match="513 records"):
        read_reply(bytes(wire) + (b"\xc0\x0c" + bytes.fromhex("0001 0001 00000005 0004 01020304")) * 513, WWW, 7)


def test_the_shape_clash_clients_know() -> None:
    soa = "example.com. 9 IN SOA a. b. 1 2 3 4 5"
    answer = read_reply(reply(WWW, "www.example.com. 5 IN A 192.0.2.1", authority=soa), WWW, 7)
    assert message.to_clash_json(answer) == {
        "Status": 0,
        "Question": [{"Name": "www.example.com.", "Qtype": 1, "Qclass": 1}],
        "TC": False,
        "RD": True,
        "RA": True,
        "AD": False,
        "CD": False,
        "Answer": [{"name": "www.example.com.", "type": 1, "TTL": 5, "data": "192.0.2.1"}],
        "Authority": [{"name": "example.com.", "type": 6, "TTL": 9, "data": "a. b. 1 2 3 4 5"}],
    }


def test_types_have_names_and_numbers() -> None:
    assert message.rtype_number("aaaa") == message.rtype_number("28") == message.rtype_number("TYPE28") == 28
    assert (message.rtype_text(65), message.rtype_text(999), message.rcode_text(3)) == ("HTTPS", "TYPE999", "NXDOMAIN")
    for text in ("", "TYPE", "NOPE", "65536", "-1", "٣"):
        with pytest.raises(BadWire):
            message.rtype_number(text)


def test_reverse_names() -> None:
    assert message.reverse_name("192.0.2.1") == "1.2.0.192.in-addr.arpa"
    assert message.reverse_name("2001:db8::1").startswith("1.0.0.0.") and len(message.reverse_name("::1")) == 72


def _value_or_bad_wire(wire: bytes, question: Question) -> Answer | None:
    try:
        answer = read_reply(wire, question, 7)
    except BadWire:
        return None
    answer.addresses()
    message.to_clash_json(answer)
    return answer


_RICH = reply(
    WWW,
    "www.example.com. 5 IN CNAME a.example.com.",
    "a.example.com. 5 IN A 192.0.2.1",
    "a.example.com. 5 IN AAAA 2001:db8::1",
    'a.example.com. 5 IN TXT "some text"',
    "a.example.com. 5 IN MX 5 mail.example.com.",
    'a.example.com. 5 IN CAA 0 issue "ca.example"',
    "a.example.com. 5 IN DS 1 8 2 abcd",
    "a.example.com. 5 IN RRSIG A 8 2 300 20300101000000 20200101000000 1 example.com. abcd",
    authority="example.com. 9 IN SOA a.example.com. b.example.com. 1 2 3 4 5",
)


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(12, len(_RICH) - 1), st.integers(0, 255)), min_size=1, max_size=8))
def test_a_spoilt_reply_is_a_value_or_bad_wire(changes: list[tuple[int, int]]) -> None:
    wire = bytearray(_RICH)
    for at, octet in changes:
        wire[at] = octet
    _value_or_bad_wire(bytes(wire), WWW)


def test_every_prefix_is_bad_wire() -> None:
    assert _value_or_bad_wire(_RICH, WWW) is not None
    assert [size for size in range(len(_RICH)) if _value_or_bad_wire(_RICH[:size], WWW) is not None] == []


@settings(max_examples=200)
@given(st.integers(0, 300), st.binary(max_size=80))
def test_any_data_of_any_type_is_a_value_or_bad_wire(rtype: int, rdata: bytes) -> None:
    record = b"\xc0\x0c" + rtype.to_bytes(2) + b"\0\x01\0\0\0\x05" + len(rdata).to_bytes(2) + rdata
    wire = bytearray(reply(WWW))
    wire[7] = 1
    _value_or_bad_wire(bytes(wire) + record, WWW)


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_value_or_bad_wire(tail: bytes) -> None:
    _value_or_bad_wire(tail, WWW)
    _value_or_bad_wire(b"\0\x07\x81\x80\0\x01" + tail, WWW)
