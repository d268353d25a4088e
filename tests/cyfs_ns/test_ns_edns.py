"""OPT and its options: the RFCs' own examples, and octets nobody meant."""

from __future__ import annotations

import socket

import dns.edns
import dns.message
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_ns import edns
from cyfs_ns.edns import Ecs
from cyfs_ns.errors import BadWire


def packed(ip: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in ip else socket.AF_INET, ip)


# -- cookies ----------------------------------------------------------------------------------------------------------


def test_siphash_of_its_own_paper() -> None:
    assert edns.siphash(bytes(range(16)), bytes(range(15))) == bytes.fromhex("e545be4961ca29a1")


FIRST, OLD, NEW = (
    bytes.fromhex(secret)
    for secret in (
        "e5e973e5a6b2a43f48e7dc849e37bfcf",
        "dd3bdf9344b678b185a6f5cb60fca715",
        "445536bcd2513298075a5d379663c962",
    )
)
V6 = "2001:db8:220:1:59de:d0f4:8769:82b8"


@pytest.mark.parametrize(
    ("client", "ip", "key", "made", "cookie"),
    [  # RFC 9018 appendix A: first, renewed, of another server renewed, and over a change of secrets
        ("2464c4abcf10c957", "198.51.100.100", FIRST, 1559731985, "010000005cf79f111f8130c3eee29480"),
        ("2464c4abcf10c957", "198.51.100.100", FIRST, 1559734385, "010000005cf7a871d4a564a1442aca77"),
        ("fc93fc62807ddb86", "203.0.113.203", FIRST, 1559734700, "010000005cf7a9acf73a7810aca2381e"),
        ("22681ab97d52c298", V6, OLD, 1559741817, "010000005cf7c57926556bd0934c72f8"),
        ("22681ab97d52c298", V6, NEW, 1559741961, "010000005cf7c609a6bb79d16625507a"),
    ],
)
def test_server_cookies_of_rfc_9018(client: str, ip: str, key: bytes, made: int, cookie: str) -> None:
    ours, address = bytes.fromhex(client), packed(ip)
    assert edns.server_cookie(key, ours, address, made).hex() == cookie


def test_the_stamp_of_a_cookie_turns_over_in_2106() -> None:
    assert edns.server_cookie(bytes(16), bytes(8), bytes(4), (1 << 32) + 10)[4:8] == bytes((0, 0, 0, 10))


# -- OPT --------------------------------------------------------------------------------------------------------------


def option(code: int, data: bytes) -> bytes:
    return code.to_bytes(2) + len(data).to_bytes(2) + data


def test_an_opt_is_read_with_options_known_and_unknown() -> None:
    opt = edns.read_opt(
        4096, 0x12008000, option(3, b"") + option(65001, b"xyz") + option(10, bytes(8)) + option(10, bytes(24))
    )
    assert (opt.size, opt.version, opt.do, opt.rcode_high) == (4096, 0, True, 0x12)
    assert opt.options == ((3, b""), (65001, b"xyz"), (10, bytes(8)), (10, bytes(24)))
    assert opt.option(edns.COOKIE) == bytes(8), "RFC 7873 section 5.2: the first counts"
    assert opt.option(edns.ECS) is None and opt.ecs is None


@pytest.mark.parametrize(
    "data",
    [b"\0", b"\0\1\0", b"\0\1\0\2a", *(option(10, bytes(size)) for size in (0, 7, 9, 15, 41)), option(8, b"\0\1\x18")],
)
def test_a_malformed_option_spoils_the_message(data: bytes) -> None:
    with pytest.raises(BadWire):
        edns.read_opt(4096, 0, data)


@settings(max_examples=200)
@given(st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF), st.binary(max_size=60))
def test_any_opt_is_a_value_or_bad_wire(size: int, ttl: int, data: bytes) -> None:
    try:
        opt = edns.read_opt(size, ttl, data)
    except BadWire:
        return
    assert b"".join(option(*pair) for pair in opt.options) == data
    if (ecs := opt.ecs) is not None:
        assert ecs.wire() == opt.option(edns.ECS)


def test_dnspython_reads_our_opt() -> None:
    options = (
        edns.build_ede(15, "on a list"),
        (edns.ECS, edns.ecs_of(packed("192.0.2.77"), 24).wire()),
        (edns.COOKIE, bytes(8)),
    )
    wire = bytes.fromhex("0007 8187 0000 0000 0000 0001") + edns.build_opt(1232, options, do=True, rcode=23)
    message = dns.message.from_wire(wire)
    assert (message.payload, message.edns, message.rcode(), message.ednsflags & 0x8000) == (1232, 0, 23, 0x8000)
    assert [str(o) for o in message.options] == [
        "EDE 15 (Blocked): on a list",
        "ECS 192.0.2.0/24 scope/0",
        "COOKIE 0000000000000000",
    ]


# -- client subnet ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ip", "bits", "want"),
    [
        ("192.0.2.77", 24, Ecs(1, 24, 0, bytes([192, 0, 2]))),
        ("192.0.2.255", 25, Ecs(1, 25, 0, bytes([192, 0, 2, 128]))),
        ("192.0.2.77", 0, Ecs(1, 0, 0, b"")),
        ("192.0.2.77", 56, Ecs(1, 32, 0, bytes([192, 0, 2, 77]))),
        ("2001:db8:ff:ff00::1", 56, Ecs(2, 56, 0, bytes.fromhex("20010db800ffff"))),
    ],
)
def test_a_client_tells_no_more_than_it_should(ip: str, bits: int, want: Ecs) -> None:
    ecs = edns.ecs_of(packed(ip), bits)
    assert ecs == want == edns.read_ecs(ecs.wire())


@pytest.mark.parametrize(
    "data",
    [
        "", "0001", "000118",
        "0001 21 00 c0000200 00",  # 33 bits of IPv4
        "0001 18 21 c00002",  # scope of 33 bits
        "0002 81 00" + "00" * 17,
        "0001 18 00 c000",  # too short
        "0001 18 00 c0000200",  # too long
        "0001 17 00 c00003",  # a bit past the prefix
        "0003 00 00",  # a family nobody has
        "0000 08 00 c0",
    ],
)  # fmt: skip
def test_malformed_subnets(data: str) -> None:
    with pytest.raises(BadWire):
        edns.read_ecs(bytes.fromhex(data))


def test_a_subnet_may_say_nothing_of_its_family() -> None:
    assert edns.read_ecs(bytes(4)) == Ecs(0, 0, 0, b"")


# -- extended errors, padding -----------------------------------------------------------------------------------------


def test_extended_errors_are_bounded_and_printable() -> None:
    assert edns.read_ede(b"\0\x0fgone\0") == (15, "gone")
    assert edns.read_ede(b"\0\x16\xff\n") == (22, "\ufffd ")
    code, data = edns.build_ede(3, "ü" * 100)
    assert (code, len(data)) == (15, 122) and data[2:].decode() == "ü" * 60
    with pytest.raises(BadWire):
        edns.read_ede(b"\0")


@settings(max_examples=200)
@given(st.integers(12, 1100), st.sampled_from([edns.QUERY_BLOCK, edns.REPLY_BLOCK]), st.integers(1104, 1300))
def test_padding_fills_the_block_or_the_limit(size: int, block: int, limit: int) -> None:
    code, data = edns.padding(size, block, limit)
    whole = size + 4 + len(data)
    assert code == 12 and not any(data) and whole <= limit
    assert whole % block == 0 or whole == limit
