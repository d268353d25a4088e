from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyfs_ns.errors import BadWire
from tunnels.endpoint import Target
from tunnels.proxyproto import ProxyHeader, build_v1, build_v2, parse_proxy_header

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
A, B = Target("192.0.2.1", 1234), Target("198.51.100.2", 443)
A6, B6 = Target("2001:db8::1", 1234), Target("2001:db8::2", 443)


@pytest.mark.parametrize(
    ("wire", "src", "dst"),
    [
        (b"PROXY TCP4 192.0.2.1 198.51.100.2 1234 443\r\n", A, B),
        (b"PROXY TCP6 2001:db8::1 2001:db8::2 1234 443\r\n", A6, B6),
        (b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:198.51.100.2 1234 443\r\n", A, B),
        (b"PROXY UNKNOWN\r\n", None, None),
        (b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n", None, None),
        (SIGNATURE + bytes.fromhex("2111000c c0000201 c6336402 04d2 01bb"), A, B),
        (SIGNATURE + bytes.fromhex("2112000c c0000201 c6336402 04d2 01bb"), A, B),
        (SIGNATURE + bytes.fromhex("21110013 c0000201 c6336402 04d2 01bb 04000461626364"), A, B),
        (SIGNATURE + bytes.fromhex("20000000"), None, None),
        (SIGNATURE + bytes.fromhex("2011000c c0000201 c6336402 04d2 01bb"), None, None),
        (SIGNATURE + bytes.fromhex("21000000"), None, None),
        (SIGNATURE + bytes.fromhex("213100d8") + b"/run/a.sock".ljust(108, b"\0") * 2, None, None),
    ],
)
def test_a_header_is_read_however_it_comes(wire: bytes, src: Target | None, dst: Target | None) -> None:
    assert parse_proxy_header(wire + b"GET /") == ProxyHeader(src, dst, len(wire))
    assert all(parse_proxy_header(wire[:size]) is None for size in range(len(wire)))


@pytest.mark.parametrize(
    "wire",
    [
        b"GET / HTTP/1.1\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 1234\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 1234 443 \r\n",
        b"PROXY TCP4  192.0.2.1 198.51.100.2 1234 443\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 01234 443\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 70000 443\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 +1 443\r\n",
        b"PROXY TCP4 192.0.2.01 198.51.100.2 1 443\r\n",
        b"PROXY TCP4 2001:db8::1 2001:db8::2 1 443\r\n",
        b"PROXY UDP4 192.0.2.1 198.51.100.2 1234 443\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 1234 443\n" + b"x" * 107,
        b"PROXY " + b"x" * 107,
        SIGNATURE + bytes.fromhex("11110000"),
        SIGNATURE + bytes.fromhex("22110000"),
        SIGNATURE + bytes.fromhex("2141000c"),
        SIGNATURE + bytes.fromhex("2113000c"),
        SIGNATURE + bytes.fromhex("2111000b"),
        SIGNATURE + bytes.fromhex("2111ffff"),
    ],
)
def test_what_is_no_header_is_refused(wire: bytes) -> None:
    with pytest.raises(BadWire):
        parse_proxy_header(wire)


addresses = st.ip_addresses().map(str)
ends = st.builds(Target, addresses, st.integers(0, 65535))


def unmapped(end: Target) -> Target:
    parsed = parse_proxy_header(build_v2(end, end))
    assert parsed is not None
    assert parsed.src is not None
    return parsed.src


@given(ends, ends)
def test_what_we_build_we_read(src: Target, dst: Target) -> None:
    for wire in (build_v1(src, dst), build_v2(src, dst)):
        assert parse_proxy_header(wire) == ProxyHeader(unmapped(src), unmapped(dst), len(wire))
    assert len(build_v1(src, dst)) <= 107


def test_names_and_nobody_are_unknown() -> None:
    assert build_v1(None, A) == build_v1(A, Target("a.example", 1)) == b"PROXY UNKNOWN\r\n"
    assert build_v2(A, None) == SIGNATURE + b"\x20\0\0\0"
    assert build_v2(A, B, datagram=True)[13] == 0x12


def outcome(wire: bytes) -> ProxyHeader | type[BadWire] | None:
    try:
        return parse_proxy_header(wire)
    except BadWire:
        return BadWire


@given(
    st.binary(max_size=150)
    | st.binary(max_size=130).map(lambda tail: b"PROXY TCP4 " + tail)
    | st.binary(max_size=60).map(lambda tail: SIGNATURE + b"\x21\x11\0\x0c" + tail)
    | st.binary(max_size=60).map(lambda tail: SIGNATURE + tail)
)
def test_a_header_or_its_one_error_and_no_second_thoughts(wire: bytes) -> None:
    settled = False
    for size in range(len(wire) + 1):
        found = outcome(wire[:size])
        assert not settled or found == outcome(wire)
        settled = settled or found is not None
