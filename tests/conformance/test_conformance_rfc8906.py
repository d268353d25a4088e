"""RFC 8906 section 8: every probe of a broken server, at every door, about a name of ours and one we ask for.

The names of the tests are the sections.  Those about authoritative zones alone (8.1.1 with the SOA of a delegated zone)
are asked of a resolver: RD is what a stub sets, and the answer may not be authoritative.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import dns.edns
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdatatype
import pytest
from asking import Asker
from livehouse import Place

NAMES = ("nas.lan", "alpha.example")


@pytest.fixture(scope="module")
def door(way: tuple[Place, str]) -> Iterator[Asker]:
    place, transport = way
    with place.asker(transport) as one:
        yield one


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def ask(door: Asker, query: dns.message.Message | bytes) -> dns.message.Message:
    wire = query if isinstance(query, bytes) else query.to_wire()
    reply = door.ask(wire)
    assert reply is not None, "no answer"
    assert reply[:2] == wire[:2]
    told = dns.message.from_wire(reply)
    assert told.flags & dns.flags.QR
    return told


def query(name: str, rtype: str = "A", flags: int = dns.flags.RD) -> dns.message.Message:
    return dns.message.make_query(name, rtype, flags=flags)


def opt(name: str, *, version: int = 0, flags: int = 0, options: bytes = b"", size: int = 4096) -> bytes:
    """A query with an OPT record spelt out."""
    plain = bytearray(query(name).to_wire())
    plain[10:12] = b"\0\1"
    return bytes(plain) + b"\0" + struct.pack("!HHBBHH", 41, size, 0, version, flags, len(options)) + options


def option(code: int, data: bytes) -> bytes:
    return struct.pack("!HH", code, len(data)) + data


def test_8_1_1_is_the_server_there(door: Asker, name: str) -> None:
    told = ask(door, query(name))
    assert told.rcode() == 0
    assert told.answer
    assert told.edns == -1


def test_8_1_1_without_recursion(door: Asker, name: str) -> None:
    ask(door, query(name))
    told = ask(door, query(name, flags=0))
    assert told.rcode() in (dns.rcode.NOERROR, dns.rcode.REFUSED)
    assert not told.flags & (dns.flags.RD | dns.flags.TC)


@pytest.mark.parametrize("rtype", ["TYPE1000", "TYPE65280", "TYPE258", "SPF", "AXFR", "IXFR", "MAILB", "ANY", "NULL"])
def test_8_1_2_unknown_and_meta_types(door: Asker, name: str, rtype: str) -> None:
    told = ask(door, query(name, rtype))
    if rtype in ("AXFR", "IXFR"):
        assert told.rcode() in (dns.rcode.REFUSED, dns.rcode.NOTIMP)
    elif rtype == "MAILB":
        assert told.rcode() in (dns.rcode.NOERROR, dns.rcode.NOTIMP)
    else:
        assert told.rcode() == dns.rcode.NOERROR
    assert rtype in ("ANY", "TYPE65280") or not told.answer


@pytest.mark.parametrize(
    "flags",
    [dns.flags.CD, dns.flags.AD, 0x40, dns.flags.RD, dns.flags.RD | dns.flags.CD | dns.flags.AD | 0x40, dns.flags.TC],
)
def test_8_1_3_header_flags(door: Asker, name: str, flags: int) -> None:
    """CD and AD are understood, the reserved bit is ignored and comes back as nought, and TC in a query as well."""
    told = ask(door, query(name, flags=flags | dns.flags.RD))
    assert told.rcode() == dns.rcode.NOERROR
    assert told.answer
    assert not told.flags & 0x40
    assert not told.flags & dns.flags.TC
    assert bool(told.flags & dns.flags.CD) == bool(flags & dns.flags.CD)


@pytest.mark.parametrize("opcode", [1, 2, 3, 4, 5, 6, 14, 15])
def test_8_1_4_unknown_opcodes(door: Asker, opcode: int) -> None:
    """NOTIMP, with the header alone or with whatever was sent."""
    header = struct.pack("!6H", 4711, opcode << 11, 0, 0, 0, 0)
    told = door.ask(header)
    assert told is not None
    ident, flags, *counts = struct.unpack_from("!6H", told)
    assert ident == 4711
    assert (flags >> 11 & 15, flags & 15, flags >> 15) == (opcode, dns.rcode.NOTIMP, 1)
    assert counts == [0, 0, 0, 0]
    whole = ask(door, header[:4] + b"\0\1" + header[6:] + query("nas.lan").to_wire()[12:])
    assert whole.rcode() == dns.rcode.NOTIMP
    assert whole.opcode() == opcode


def test_8_1_5_the_door_serves_streams_too(place: Place, name: str) -> None:
    with place.asker("tcp") as door:
        assert ask(door, query(name)).answer


def test_8_2_1_plain_edns(door: Asker, name: str) -> None:
    told = ask(door, opt(name))
    assert told.rcode() == dns.rcode.NOERROR
    assert told.answer
    assert told.edns == 0
    assert not told.options
    assert told.payload >= 512


def test_8_2_2_another_version(door: Asker, name: str) -> None:
    for version in (1, 2, 255):
        told = ask(door, opt(name, version=version))
        assert told.rcode() == dns.rcode.BADVERS
        assert told.edns == 0
        assert not told.answer


def test_8_2_3_an_unknown_option(door: Asker, name: str) -> None:
    told = ask(door, opt(name, options=option(100, b"") + option(65001, b"\1\2\3")))
    assert told.rcode() == dns.rcode.NOERROR
    assert told.answer
    assert told.edns == 0
    assert not told.options


def test_8_2_4_unknown_flags(door: Asker, name: str) -> None:
    for flags in (0x40, 0x0001, 0x7FFF):
        told = ask(door, opt(name, flags=flags))
        assert told.rcode() == dns.rcode.NOERROR
        assert told.edns == 0
        assert not told.ednsflags & 0xFFFF


def test_8_2_5_another_version_with_unknown_flags(door: Asker, name: str) -> None:
    told = ask(door, opt(name, version=1, flags=0x40))
    assert told.rcode() == dns.rcode.BADVERS
    assert told.edns == 0
    assert not told.ednsflags & 0xFFFF


def test_8_2_6_another_version_with_an_unknown_option(door: Asker, name: str) -> None:
    told = ask(door, opt(name, version=1, options=option(100, b"")))
    assert told.rcode() == dns.rcode.BADVERS
    assert told.edns == 0
    assert not told.options


def test_8_2_7_truncation_keeps_the_opt(place: Place) -> None:
    for name in ("big.lan", "longtext.alpha.example"):
        asked = dns.message.make_query(name, "TXT", use_edns=0, payload=512)
        with place.asker("udp") as door:
            wire = door.ask(asked.to_wire())
            assert wire is not None
            assert len(wire) <= 512
            told = dns.message.from_wire(wire)
        assert told.flags & dns.flags.TC
        assert told.edns == 0
        with place.asker("tcp") as door:
            whole = ask(door, asked)
        assert not whole.flags & dns.flags.TC
        assert len(whole.answer[0]) > 10


def test_8_2_8_do_comes_back(door: Asker, name: str) -> None:
    told = ask(door, opt(name, flags=0x8000))
    assert told.rcode() == dns.rcode.NOERROR
    assert told.ednsflags & dns.flags.DO


def test_8_2_9_do_with_another_version(door: Asker, name: str) -> None:
    told = ask(door, opt(name, version=1, flags=0x8000))
    assert told.rcode() == dns.rcode.BADVERS
    assert told.edns == 0


def test_8_2_10_known_options_together(door: Asker, name: str) -> None:
    """NSID, client subnet, expire, cookie; the subnet's scope, if told, is for a family we were asked about."""
    options = option(3, b"") + option(8, b"\0\1\x18\0\xc6\x33\x64") + option(9, b"") + option(10, b"01234567")
    told = ask(door, opt(name, options=options))
    assert told.rcode() == dns.rcode.NOERROR
    assert told.answer
    cookies = [each for each in told.options if each.otype == dns.edns.OptionType.COOKIE]
    assert len(cookies) == 1
    assert cookies[0].to_wire().startswith(b"01234567")


# Beside RFC 8906: what RFC 6891, 7871 and 7873 say of broken options.


def test_two_opts_are_a_format_error(door: Asker, name: str) -> None:
    twice = bytearray(opt(name))
    twice[10:12] = b"\0\2"
    told = ask(door, bytes(twice) + twice[-11:])
    assert told.rcode() == dns.rcode.FORMERR


@pytest.mark.parametrize(
    "options",
    [
        option(10, b"short"),
        option(10, b"x" * 41),
        option(10, b"twelve octets"[:12]),
        option(8, b"\0\1\x18\x08\xc6\x33\x64"),
        option(8, b"\0\1\x21\0\xc6\x33\x64\1\1"),
        option(8, b"\0\1"),
        struct.pack("!HH", 5, 9) + b"abc",
        b"\0",
    ],
)
def test_broken_options_are_a_format_error_with_an_opt(door: Asker, name: str, options: bytes) -> None:
    told = ask(door, opt(name, options=options))
    assert told.rcode() == dns.rcode.FORMERR
    assert told.edns == 0


@pytest.mark.parametrize("size", [0, 1, 511, 512, 65535])
def test_sizes_below_512_are_taken_as_512(place: Place, size: int) -> None:
    with place.asker("udp") as door:
        wire = door.ask(opt("big.alpha.example", size=size))
    assert wire is not None
    assert len(wire) <= (1232 if size > 1232 else 512)
