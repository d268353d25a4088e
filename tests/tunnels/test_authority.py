from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cyfs_ns.errors import BadWire
from tunnels.authority import host_of_packed, packed_of_host, parse_authority, parse_host
from tunnels.endpoint import Target


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (b"Example.COM", "example.com"),
        (b"example.com.", "example.com"),
        (b"_dmarc.example", "_dmarc.example"),
        (b"xn--bcher-kva.example", "xn--bcher-kva.example"),
        (b"10.0.0.1", "10.0.0.1"),
        (b"2001:DB8:0::1", "2001:db8::1"),
        (b"::ffff:10.0.0.1", "10.0.0.1"),
        (b"1e100.net", "1e100.net"),
        (b"0x7f.example", "0x7f.example"),
        (b"B\xc3\xbccher.example", "xn--bcher-kva.example"),
    ],
)
def test_a_host_has_one_spelling(written: bytes, meant: str) -> None:
    assert parse_host(written) == meant


@pytest.mark.parametrize(
    "written",
    [
        b"",
        b".",
        b"a..b",
        b".a",
        b"a b",
        b"a\0b",
        b"a\n",
        b"host:80",
        b"b\xfccher.example",
        b"127.1",
        b"2130706433",
        b"0x7f.1",
        b"0x7f000001",
        b"010.0.0.1.",
        b"256.0.0.1",
        b"fe80::1%eth0",
        b"a" * 64,
        b".".join([b"a" * 49] * 6),
        b"user@host",
    ],
)
def test_what_is_no_host_is_refused(written: bytes) -> None:
    with pytest.raises(BadWire):
        parse_host(written)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (b"example.com:8080", Target("example.com", 8080)),
        (b"example.com", Target("example.com", 80)),
        (b"[2001:db8::1]:443", Target("2001:db8::1", 443)),
        (b"[::1]", Target("::1", 80)),
        (b"10.0.0.1:0", Target("10.0.0.1", 0)),
    ],
)
def test_an_authority_is_read(written: bytes, meant: Target) -> None:
    assert parse_authority(written, default_port=80) == meant


@pytest.mark.parametrize(
    "written",
    [b"a:", b"a:65536", b"a:+1", b"a: 1", b"::1:80", b"[::1", b"[::1]80", b"[a]:80", b"u@a:80", b":80", b"a:b:1"],
)
def test_what_is_no_authority_is_refused(written: bytes) -> None:
    with pytest.raises(BadWire):
        parse_authority(written, default_port=80)


def test_without_a_default_the_port_is_required() -> None:
    with pytest.raises(BadWire):
        parse_authority(b"example.com")


@given(st.binary(max_size=300) | st.text(alphabet="0x1af:.[]%-", max_size=40).map(str.encode))
@example(b"0.0.0.0")
def test_a_host_or_its_one_error_and_reading_twice_changes_nothing(untrusted: bytes) -> None:
    try:
        host = parse_host(untrusted)
    except BadWire:
        return
    assert parse_host(host.encode()) == host
    packed = packed_of_host(host)
    if packed is not None:
        assert host_of_packed(packed) == host
