"""Names and records against dnslib and dnspython as the other implementations, and against bytes nobody meant."""

from __future__ import annotations

import struct

import dns.message
import dns.name
import dns.rdatatype
import dnslib
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cyfs_ns.errors import BadWire
from cyfs_ns.wire import HEADER, Record, Rr, compose, is_under, name_text, name_wire, plain_data, read_name, walk

WWW = b"\x03www\x07example\x03com\0"
QUESTION = WWW + b"\0\1\0\1"

labels = st.one_of(st.sampled_from([b"a", b"www", b"WWW", b"example", b"com"]), st.binary(min_size=1, max_size=63))
wire_names = (
    st.lists(labels, max_size=8)
    .map(lambda parts: b"".join(bytes((len(part),)) + part for part in parts) + b"\0")
    .filter(lambda name: len(name) <= 255)
)
lower_names = wire_names.map(bytes.lower)
datas = st.one_of(
    st.tuples(st.just(1), st.binary(min_size=4, max_size=4)),
    st.tuples(st.just(28), st.binary(min_size=16, max_size=16)),
    st.tuples(st.sampled_from([2, 5, 12, 39]), wire_names),
    st.tuples(st.just(15), wire_names.map(lambda name: b"\0\5" + name)),
    st.tuples(st.just(33), wire_names.map(lambda name: b"\0\1\0\2\0\3" + name)),
    st.tuples(st.just(6), st.tuples(wire_names, wire_names).map(lambda two: b"".join(two) + bytes(20))),
    st.tuples(st.just(35), wire_names.map(lambda name: b"\0\1\0\2\1S\0\2aa" + name)),
    st.tuples(st.sampled_from([16, 999]), st.binary(max_size=40).map(lambda text: bytes((len(text),)) + text)),
)
record_lists = st.lists(
    st.builds(lambda owner, data, ttl: (owner, data[0], ttl, data[1]), lower_names, datas, st.integers(0, 0x7FFFFFFF)),
    max_size=6,
)


def message(question: bytes, *sections: list[Record]) -> bytes:
    counts = [len(section) for section in sections] + [0] * (3 - len(sections))
    return HEADER.pack(7, 0x8180, 1, *counts) + question + compose(question, *sections).body


def read_back(wire: bytes) -> list[list[Record]]:
    return [[(rr.owner, rr.rtype, rr.ttl, plain_data(wire, rr)) for rr in section] for section in walk(wire)[1:]]


# -- names ------------------------------------------------------------------------------------------------------------


def test_names_as_text_and_back() -> None:
    assert name_wire("WWW.Example.com") == name_wire("www.example.com.") == WWW
    assert name_text(WWW) == "www.example.com"
    assert (name_wire(""), name_wire("."), name_text(b"\0")) == (b"\0", b"\0", "")
    assert name_wire(r"a\.b.\065\000") == b"\x03a.b\x02a\0\0"
    assert name_text(b"\x03a.b\x02a\0\0") == r"a\.b.a\000"


@pytest.mark.parametrize(
    "text", ["..", ".a", "a..b", "a..", "a" * 64, "ü", "a\\", "\\1", "\\256", "\\12x", ".".join(["a" * 63] * 4)]
)
def test_text_that_is_no_name(text: str) -> None:
    with pytest.raises(BadWire):
        name_wire(text)


@settings(max_examples=200)
@given(lower_names)
def test_every_name_survives_its_text_and_dnspython_reads_it_alike(name: bytes) -> None:
    assert name_wire(name_text(name)) == name
    assert dns.name.from_text(name_text(name) + ".").to_wire() == name


@settings(max_examples=200)
@given(st.text(max_size=300))
def test_any_text_is_a_name_or_bad_wire(text: str) -> None:
    try:
        name = name_wire(text)
    except BadWire:
        return
    assert read_name(name, 0) == (name, len(name)) and name == name.lower()


@settings(max_examples=200)
@given(lower_names, lower_names)
def test_being_under_a_name(name: bytes, other: bytes) -> None:
    assert is_under(name, other) == dns.name.from_wire(name, 0)[0].is_subdomain(dns.name.from_wire(other, 0)[0])
    joined = name[:-1] + other
    assume(len(joined) <= 255)
    assert is_under(joined, other)


def test_a_label_that_looks_like_a_suffix_is_none() -> None:
    assert not is_under(b"\x05x\x03com\0", b"\x03com\0")


@pytest.mark.parametrize(
    "name",
    [
        b"\xc0\x1d",  # to itself
        b"\xc0\xff",  # forward
        b"\xc0\x00",  # into the header
        b"\x01a\xc0\x1d",  # back to its own start
        b"\x40",  # a label type of 1999
        b"\x80",
        (b"\x3f" + b"a" * 63) * 4 + b"\0",
        b"\xc0",
        b"\x05abc",
        b"",
    ],
)
def test_names_that_never_end_are_refused(name: bytes) -> None:
    head = HEADER.pack(7, 0x8180, 1, 1, 0, 0) + QUESTION
    assert len(head) == 0x21
    with pytest.raises(BadWire):
        read_name(head[:0x1D] + name, 0x1D)


def test_a_chain_of_pointers_is_followed_only_so_far() -> None:
    def chain(jumps: int) -> bytes:
        wire = bytearray(12) + b"\0\0"
        for at in range(12, 12 + 2 * jumps, 2):
            wire += struct.pack("!H", 0xC000 | at)
        return bytes(wire)

    assert read_name(chain(127), len(chain(127)) - 2) == (b"\0", len(chain(127)))
    with pytest.raises(BadWire):
        read_name(chain(128), len(chain(128)) - 2)


@settings(max_examples=200)
@given(st.binary(min_size=13, max_size=300), st.data())
def test_whatever_we_read_as_a_name_dnspython_reads_alike(wire: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(12, len(wire)))
    try:
        name, after = read_name(wire, at)
    except BadWire:
        return
    theirs, used = dns.name.from_wire(wire, at)
    assert (theirs.to_wire(), used) == (name, after - at)


# -- messages ---------------------------------------------------------------------------------------------------------


@settings(max_examples=200)
@given(lower_names, record_lists, record_lists, record_lists)
def test_records_come_back_as_they_went_in(
    name: bytes, answer: list[Record], authority: list[Record], additional: list[Record]
) -> None:
    question = name + b"\0\1\0\1"
    wire = message(question, answer, authority, additional)
    assert read_back(wire) == [answer, authority, additional]
    body, ttl_ats = compose(question, answer, authority, additional)
    assert [int.from_bytes(wire[at : at + 4]) for at in ttl_ats] == [r[2] for r in (*answer, *authority, *additional)]
    assert len(body) <= sum(len(r[0]) + 10 + len(r[3]) for r in (*answer, *authority, *additional))


@settings(max_examples=200)
@given(lower_names, record_lists)
def test_dnslib_and_dnspython_read_what_we_compose(name: bytes, answer: list[Record]) -> None:
    wire = message(name + b"\0\1\0\1", answer)
    names = [name, *(owner + data for owner, _, _, data in answer)]
    if all(octets.isascii() for octets in names):  # dnslib reads no others
        assert [(tuple(rr.rname.label), rr.rtype, rr.ttl) for rr in dnslib.DNSRecord.parse(wire).rr] == [
            (tuple(dns.name.from_wire(owner, 0)[0].labels[:-1]), rtype, ttl) for owner, rtype, ttl, _ in answer
        ]
    python = dns.message.from_wire(wire, one_rr_per_rrset=True)
    assert [
        (rrset.name.to_wire(), int(rrset.rdtype), rrset.ttl, rdata.to_wire())
        for rrset in python.answer
        for rdata in rrset
    ] == answer


@settings(max_examples=200)
@given(lower_names, record_lists)
def test_we_read_what_dnspython_composes(name: bytes, answer: list[Record]) -> None:
    plain = dns.message.from_wire(message(name + b"\0\1\0\1", answer), one_rr_per_rrset=True)
    again = plain.to_wire()
    # dnspython compresses against a name in another case; whose case wins is free (RFC 4343).
    assert [
        [(owner, rtype, ttl, data.lower()) for owner, rtype, ttl, data in section] for section in read_back(again)
    ] == [[(owner, rtype, ttl, data.lower()) for owner, rtype, ttl, data in answer], [], []]


def test_compression_reaches_into_the_question_and_into_data_but_not_everywhere() -> None:
    com = b"\x03com\0"
    body, _ = compose(QUESTION, [(WWW, 5, 1, b"\x01a\x07example" + com), (b"\x01a\x07example" + com, 1, 2, b"abcd")])
    assert body == bytes.fromhex("c00c 0005 0001 00000001 0004 0161 c010  c02d 0001 0001 00000002 0004 61626364")
    srv = compose(QUESTION, [(WWW, 33, 1, bytes(6) + WWW)]).body
    assert srv.endswith(bytes(6) + WWW), "RFC 2782: never compressed"


def test_a_name_past_the_reach_of_pointers_is_not_pointed_at() -> None:
    far = b"\x03far\x04away\0"
    texts: list[Record] = [(WWW, 16, 1, b"\xff" + bytes(255))] * 62
    records = [*texts, (far, 1, 1, b"abcd"), (far, 1, 1, b"abcd")]
    wire = message(QUESTION, records)
    assert len(wire) > 0x4000
    assert read_back(wire)[0] == records


@pytest.mark.parametrize("rtype", [2, 5, 6, 12, 14, 15, 17, 18, 21, 24, 26, 30, 33, 35, 36, 39])
def test_compressed_names_are_written_out_in_every_type_that_had_them(rtype: int) -> None:
    pointer, tail = b"\xc0\x0c", b""
    before = {15: 2, 17: 0, 18: 2, 21: 2, 24: 18, 26: 2, 33: 6, 36: 2}.get(rtype, 0)
    head = bytes(4) + b"\1S\0\2xy" if rtype == 35 else bytes(before)
    names = 2 if rtype in (6, 14, 17, 26) else 1
    if rtype == 6:
        tail = bytes(20)
    if rtype in (24, 30):
        tail = b"\xc0\x0c rest"
    rdata = head + pointer * names + tail
    wire = HEADER.pack(7, 0x8180, 1, 1, 0, 0) + QUESTION + b"\xc0\x0c" + struct.pack("!HHIH", rtype, 1, 9, len(rdata))
    wire += rdata
    (rr,) = walk(wire).answer
    assert plain_data(wire, rr) == head + WWW * names + tail
    for size in range(len(rdata) - len(tail)):
        with pytest.raises(BadWire):
            plain_data(wire, rr._replace(end=rr.data_at + size))


@pytest.mark.parametrize(("rtype", "size"), [(1, 3), (1, 5), (28, 4), (28, 17), (5, 0), (6, 21), (15, 2), (33, 6)])
def test_data_of_a_wrong_length_are_refused(rtype: int, size: int) -> None:
    wire = message(QUESTION, [(WWW, 999, 1, bytes(size))])
    (rr,) = walk(wire).answer
    with pytest.raises(BadWire):
        plain_data(wire, rr._replace(rtype=rtype))


def test_too_many_records_or_questions() -> None:
    record = b"\xc0\x0c" + bytes.fromhex("0001 0001 00000005 0004 01020304")
    many = QUESTION + record * 513
    assert len(walk(HEADER.pack(7, 0x8180, 1, 512, 0, 0) + many).answer) == 512
    for counts in ((1, 513, 0, 0), (1, 300, 200, 13), (2, 0, 0, 0)):
        with pytest.raises(BadWire):
            walk(HEADER.pack(7, 0x8180, *counts) + many)


RICH = message(
    QUESTION,
    [(WWW, 5, 1, b"\x01a\x07example\x03com\0"), (b"\x01a\x07example\x03com\0", 1, 2, b"abcd")],
    [(b"\x07example\x03com\0", 6, 1, WWW + WWW + bytes(20))],
    [(WWW, 35, 1, b"\0\1\0\2\1S\0\2aa" + WWW), (WWW, 33, 1, bytes(6) + WWW)],
)


def value_or_bad_wire(wire: bytes) -> bool:
    try:
        sections = walk(wire)
    except BadWire:
        return False
    for rr in (*sections.answer, *sections.authority, *sections.additional):
        assert isinstance(rr, Rr) and 12 <= rr.at < rr.data_at <= rr.end <= len(wire)
        try:
            data = plain_data(wire, rr)
        except BadWire:
            continue
        assert len(data) <= rr.end - rr.data_at + 2 * 255
    return True


def test_every_prefix_is_bad_wire() -> None:
    assert [size for size in range(len(RICH) + 1) if value_or_bad_wire(RICH[:size])] == [len(RICH)]


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, len(RICH) - 1), st.integers(0, 255)), min_size=1, max_size=8))
def test_a_spoilt_message_is_a_value_or_bad_wire(changes: list[tuple[int, int]]) -> None:
    wire = bytearray(RICH)
    for at, octet in changes:
        wire[at] = octet
    value_or_bad_wire(bytes(wire))


@settings(max_examples=200)
@given(st.binary(max_size=300), st.integers(0, 60), st.binary(max_size=60))
def test_any_bytes_are_a_value_or_bad_wire(tail: bytes, rtype: int, rdata: bytes) -> None:
    value_or_bad_wire(tail)
    value_or_bad_wire(b"\0\7\x81\x80\0\1" + tail)
    head = HEADER.pack(7, 0x8180, 1, 1, 0, 0) + QUESTION + b"\xc0\x0c"
    value_or_bad_wire(head + struct.pack("!HHIH", rtype, 1, 9, len(rdata)) + rdata)
