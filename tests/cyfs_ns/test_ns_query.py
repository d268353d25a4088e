"""The door for clients' messages: the probes of RFC 8906, other libraries' queries, and octets nobody meant."""

from __future__ import annotations

import dns.flags
import dns.message
import dnslib
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_ns import edns, query
from cyfs_ns.edns import Edns
from cyfs_ns.query import Query, build_upstream_query, mix_case, read_query
from cyfs_ns.reply import make_reply, render, shape_of
from cyfs_ns.wire import HEADER

NAME = b"\x07example\x03com\0"
SOA_QUESTION = b"\x07eXample\x03com\0\0\6\0\1"


def opt(*, size: int = 4096, version: int = 0, flags: int = 0, options: bytes = b"", owner: bytes = b"\0") -> bytes:
    return (
        owner
        + b"\0\x29"
        + size.to_bytes(2)
        + bytes([0, version])
        + flags.to_bytes(2)
        + len(options).to_bytes(2)
        + options
    )


def ask(
    *, flags: int = 0, question: bytes = SOA_QUESTION, additional: bytes = b"", counts: tuple[int, ...] | None = None
) -> bytes:
    counts = counts or (1, 0, 0, 1 if additional else 0)
    return HEADER.pack(0xBEEF, flags, *counts) + question + additional


def reply_to(wire: bytes) -> bytes | None:
    """What a server of one SOA record says, over UDP."""
    told = read_query(wire)
    if not isinstance(told, Query):
        return told
    soa = [(NAME, 6, 300, b"\2ns" + NAME + b"\4root" + NAME + bytes(20))] if told.rtype == 6 else []
    return bytes(render(make_reply(told.question, answer=soa), told, shape_of(told, limit=1232)))


UNKNOWN_OPTION = b"\0\x64\0\0"
MANY_OPTIONS = bytes.fromhex("0003 0000  0008 0004 00010000  0009 0000  000a 0008 0102030405060708")


@pytest.mark.parametrize(
    ("probe", "rcode", "answers", "has_opt"),
    [  # RFC 8906 section 8
        pytest.param(ask(), 0, 1, False, id="8.1 SOA"),
        pytest.param(ask(question=NAME + b"\x03\xe8\0\1"), 0, 0, False, id="8.1.1 unknown type"),
        pytest.param(ask(flags=0x10), 0, 1, False, id="8.1.3 CD"),
        pytest.param(ask(flags=0x20), 0, 1, False, id="8.1.3 AD"),
        pytest.param(ask(flags=0x40), 0, 1, False, id="8.1.3 reserved bit"),
        pytest.param(ask(flags=0x100), 0, 1, False, id="8.1.3 RD"),
        pytest.param(HEADER.pack(0xBEEF, 0x7800, 0, 0, 0, 0), 4, 0, False, id="8.1.4 unknown opcode"),
        pytest.param(ask(additional=opt()), 0, 1, True, id="8.2.1 EDNS"),
        pytest.param(ask(additional=opt(version=1)), 16, 0, True, id="8.2.2 version 1"),
        pytest.param(ask(additional=opt(options=UNKNOWN_OPTION)), 0, 1, True, id="8.2.3 unknown option"),
        pytest.param(ask(additional=opt(flags=0x40)), 0, 1, True, id="8.2.4 unknown flag"),
        pytest.param(ask(additional=opt(version=1, flags=0x40)), 16, 0, True, id="8.2.5 version 1, unknown flag"),
        pytest.param(
            ask(additional=opt(version=1, options=UNKNOWN_OPTION)), 16, 0, True, id="8.2.6 version 1, unknown option"
        ),
        pytest.param(ask(additional=opt(size=512, flags=0x8000)), 0, 1, True, id="8.2.7 small buffer"),
        pytest.param(ask(additional=opt(flags=0x8000)), 0, 1, True, id="8.2.8 DO"),
        pytest.param(ask(additional=opt(version=1, flags=0x8000)), 16, 0, True, id="8.2.9 version 1, DO"),
        pytest.param(ask(additional=opt(options=MANY_OPTIONS)), 0, 1, True, id="8.2.10 several options"),
        # RFC 6891 and our own
        pytest.param(ask(additional=opt() * 2, counts=(1, 0, 0, 2)), 1, 0, True, id="two OPTs"),
        pytest.param(ask(additional=opt(owner=b"\1a\0")), 1, 0, True, id="an OPT with a name"),
        pytest.param(ask(additional=opt(options=b"\0\1\0\2a")), 1, 0, True, id="option over the end"),
        pytest.param(ask(additional=opt(options=b"\0\x0a\0\2ab")), 1, 0, True, id="RFC 7873: short cookie"),
        pytest.param(ask(additional=opt(options=b"\0\x08\0\4\0\1\x18\0")), 1, 0, True, id="RFC 7871: short subnet"),
        pytest.param(
            ask(additional=opt(options=b"\0\x08\0\7\0\1\x18\x18abc")), 1, 0, True, id="RFC 7871: scope in a query"
        ),
        pytest.param(ask(additional=opt(version=7, options=b"\0\x08\0\4\0\1\x18\0")), 16, 0, True, id="unread options"),
        pytest.param(ask(additional=opt(), counts=(1, 1, 0, 0)), 1, 0, False, id="OPT among the answers"),
        pytest.param(ask(additional=opt(), counts=(1, 0, 1, 0)), 1, 0, False, id="OPT in the authority section"),
        pytest.param(ask(counts=(0, 0, 0, 0), question=b""), 1, 0, False, id="no question"),
        pytest.param(ask(counts=(2, 0, 0, 0), question=SOA_QUESTION * 2), 1, 0, False, id="two questions"),
        pytest.param(ask() + b"\0", 1, 0, False, id="more octets than records"),
        pytest.param(ask()[:-1], 1, 0, False, id="less octets than a question"),
        pytest.param(ask(question=b"\xc0\x0c\0\1\0\1"), 1, 0, False, id="a pointer in the question"),
        pytest.param(ask(question=(b"\x3f" + bytes(63)) * 4 + b"\0\0\1\0\1"), 1, 0, False, id="a name too long"),
        pytest.param(ask(question=NAME + b"\0\xfc\0\1"), 5, 0, False, id="AXFR"),
        pytest.param(ask(question=NAME + b"\0\xfd\0\1", additional=opt()), 4, 0, True, id="MAILB"),
        pytest.param(ask(question=NAME + b"\0\x29\0\1", additional=opt()), 1, 0, True, id="OPT asked for"),
        *(pytest.param(ask(flags=n << 11), 4, 0, False, id=f"opcode {n}") for n in (1, 2, 4, 5, 6)),
    ],
)
def test_probes(probe: bytes, rcode: int, answers: int, has_opt: bool) -> None:
    wire = reply_to(probe)
    assert wire is not None
    reply = dns.message.from_wire(wire)
    _, asked, *_ = HEADER.unpack_from(probe)
    _, flags, *_ = HEADER.unpack_from(wire)
    assert reply.id == 0xBEEF and flags & 0x8000
    assert (reply.rcode(), len(reply.answer), reply.edns) == (rcode, answers, 0 if has_opt else -1)
    assert flags & 0x7900 == asked & 0x7900, "opcode and RD come back"
    assert not flags & 0x0440, "neither AA nor the reserved bit"
    assert not reply.authority
    if reply.opcode():
        assert len(wire) == 12, "nothing but a header"
    if answers:
        assert SOA_QUESTION in wire, "the client's spelling"
    if has_opt:
        dos = int.from_bytes(probe[-4:-2]) if probe.endswith(opt(flags=0x8000)) else 0
        assert reply.ednsflags & 0x7FFF == 0
        assert not dos or reply.ednsflags & 0x8000
        assert not reply.options, "nothing that was not asked for, nothing unknown"


def test_do_comes_back() -> None:
    for version in (0, 1):
        wire = reply_to(ask(additional=opt(version=version, flags=0xFFFF)))
        assert wire is not None and dns.message.from_wire(wire).ednsflags & 0xFFFF == 0x8000


@pytest.mark.parametrize(
    "wire", [b"", bytes(11), ask(flags=0x8000), ask(flags=0x8180, additional=opt() * 3), b"\xff" * 300]
)
def test_silence(wire: bytes) -> None:
    assert read_query(wire) is None


def test_a_question_is_read() -> None:
    told = read_query(ask(flags=0x0130, additional=opt(size=1400, flags=0x8000, options=UNKNOWN_OPTION)))
    assert told == Query(
        0xBEEF, 0x0130, SOA_QUESTION, NAME, 6, 1, Edns(1400, 0, True, ((100, b""),)), 12 + len(SOA_QUESTION) + 15
    )
    assert (told.text, told.key, told.rd, told.cd, told.ad, told.do) == (
        "example.com",
        (NAME, 6, 1),
        True,
        True,
        True,
        True,
    )


def test_other_records_may_stand_around_the_opt() -> None:
    other = b"\0" + bytes.fromhex("00fa 00ff 00000000 0002 abcd")  # a signature we have no key for
    for additional in (other + opt(), opt() + other):
        told = read_query(ask(additional=additional, counts=(1, 0, 0, 2)))
        assert isinstance(told, Query) and told.edns == Edns(4096, 0, False, ())


@settings(max_examples=200)
@given(
    st.lists(st.binary(min_size=1, max_size=12), max_size=6),
    st.integers(0, 0xFFFF).filter(lambda n: n not in (41, 128, 249, 250, 251, 252, 253, 254)),
    st.sampled_from([1, 3, 255]),
    st.booleans(),
    st.booleans(),
    st.integers(-1, 4096),
)
def test_dnspythons_queries(labels: list[bytes], rtype: int, rclass: int, cd: bool, do: bool, size: int) -> None:
    asked = dns.message.make_query(
        dns.name.Name([*labels, b""]),
        rtype,
        rclass,
        use_edns=0 if size >= 0 else -1,
        payload=max(size, 0),
        want_dnssec=do and size >= 0,
    )
    if cd:
        asked.flags |= dns.flags.CD
    told = read_query(asked.to_wire())
    assert isinstance(told, Query)
    assert (told.ident, told.rtype, told.rclass, told.cd) == (asked.id, rtype, rclass, cd)
    assert told.question[:-4] == asked.question[0].name.to_wire() and told.name == told.question[:-4].lower()
    assert told.do == (do and size >= 0)
    assert (told.edns is None) == (size < 0)


@pytest.mark.parametrize("spelt", [None, b"\x07eXaMpLe\x03cOm\0"])
def test_upstream_queries_as_others_read_them(spelt: bytes | None) -> None:
    wire = build_upstream_query(
        NAME, 28, 1, 7, do=True, cd=True, ecs=edns.ecs_of(bytes([192, 0, 2, 1]), 24), cookie=bytes(8), padding=128,
        mixed_case=spelt,
    )  # fmt: skip
    read = dns.message.from_wire(wire)
    assert len(wire) == 128
    assert read.flags == dns.flags.RD | dns.flags.AD | dns.flags.CD and read.id == 7
    assert read.question[0].name.to_wire() == (spelt or NAME) and read.question[0].rdtype == 28
    assert [str(o) for o in read.options][:2] == ["ECS 192.0.2.0/24 scope/0", "COOKIE 0000000000000000"]
    assert read.payload == query.UDP_SIZE and read.ednsflags == dns.flags.DO
    plain = dnslib.DNSRecord.parse(build_upstream_query(NAME, 1, 1, 7))
    assert (str(plain.q.qname), plain.header.rd, plain.ar[0].edns_len) == ("example.com.", 1, query.UDP_SIZE)


_ODD = b"\x07example\x14-9[`{@\x01\xe1 odd octets aa\0"


@settings(max_examples=200)
@given(st.binary(min_size=len(_ODD), max_size=len(_ODD)))
def test_mixed_cases_spell_the_same_name(dice: bytes) -> None:
    assert mix_case(_ODD, dice).lower() == _ODD.lower()
    assert mix_case(_ODD, bytes(len(_ODD))) == _ODD


def test_cases_are_mixed_by_the_dice() -> None:
    assert mix_case(NAME, b"\xff" * len(NAME)) == b"\x07EXAMPLE\x03COM\0"
    assert mix_case(NAME, b"\0\x20".ljust(len(NAME), b"\0")) == b"\x07Example\x03com\0"


# -- octets nobody meant ----------------------------------------------------------------------------------------------

RICH = ask(
    flags=0x0110, additional=opt(flags=0x8000, options=MANY_OPTIONS) + b"\xc0\x0c" + bytes(10), counts=(1, 0, 0, 2)
)


def well_formed(wire: bytes) -> None:
    told = reply_to(wire)
    if told is None:
        assert len(wire) < 12 or wire[2] & 0x80
        return
    assert told[:2] == wire[:2] and told[2] & 0x80
    reply = dns.message.from_wire(told)
    assert len(told) <= len(wire) + 11 or reply.rcode() == 0, "an error is no amplifier"
    assert len(told) <= 1232


def test_every_prefix_brings_an_answer_or_silence() -> None:
    for size in range(len(RICH)):
        told = read_query(RICH[:size])
        assert (told is None) == (size < 12) and not isinstance(told, Query)
        well_formed(RICH[:size])
    assert isinstance(read_query(RICH), Query)


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, len(RICH) - 1), st.integers(0, 255)), min_size=1, max_size=8))
def test_a_spoilt_query_brings_an_answer_or_silence(changes: list[tuple[int, int]]) -> None:
    wire = bytearray(RICH)
    for at, octet in changes:
        wire[at] = octet
    well_formed(bytes(wire))


@settings(max_examples=200)
@given(st.binary(max_size=200), st.binary(max_size=60))
def test_any_octets_bring_an_answer_or_silence(tail: bytes, data: bytes) -> None:
    well_formed(tail)
    well_formed(b"\0\7\1\0\0\1\0\0\0\0\0\1" + tail)
    well_formed(ask(additional=opt(options=data)))
