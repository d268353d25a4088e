"""Names made from addresses, there and back."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_ns.errors import ConfigFault
from cyfs_ns.names import ip as canonical
from cyfs_ns.synth import parse_synth

PAIRS = [
    ("lan,192.168.0.0/24,internal-", "internal-192-168-0-56.lan", "192.168.0.56"),
    ("lan,192.168.0.50,192.168.0.70,internal-*", "internal-0.lan", "192.168.0.50"),
    ("lan,192.168.0.50,192.168.0.70,internal-*", "internal-20.lan", "192.168.0.70"),
    ("lan,::/64", "0--1.lan", "::1"),
    ("lan,fd00::/64,h-", "h-fd00--5.lan", "fd00::5"),
    ("lan,fd00::/64,h*", "h18446744073709551615.lan", "fd00::ffff:ffff:ffff:ffff"),
]


@pytest.mark.parametrize(("text", "name", "ip"), PAIRS)
def test_names_and_addresses(text: str, name: str, ip: str) -> None:
    made = parse_synth(text)
    assert (made.name(ip), made.address(name)) == (name, ip)


def test_nothing_else_has_a_name() -> None:
    made = parse_synth("lan,192.168.0.0/24,x-")
    for name in ("x-192-168-1-1.lan", "x-192-168-0-1.wan", "192-168-0-1.lan", "x-1.lan", "lan", "x-192-168-0-1.a.lan"):
        assert made.address(name) is None
    assert made.name("10.0.0.1") is None
    assert made.name("fd00::1") is None
    numbered = parse_synth("lan,10.0.0.0,10.0.0.9,n*")
    for name in ("n10.lan", "n01.lan", "n-1.lan", "n.lan", "n" + "9" * 41 + ".lan"):
        assert numbered.address(name) is None


@pytest.mark.parametrize(
    "text", ["", "lan", "lan,x", "lan,10.0.0.1", "lan,10.0.0.2,10.0.0.1", "lan,10.0.0.1,fd00::1", "a b,10.0.0.0/8",
             "lan,10.0.0.0/8,a b", "lan,10.0.0.0/8,x,y",
             "lan,fd00::/64," + "x" * 30, "a" * 60 + ".b" * 90 + ",10.0.0.0/8"],
)  # fmt: skip
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(ConfigFault):
        parse_synth(text)


@given(
    st.sampled_from(["lan,fd00::/16,h-", "lan,::/0", "lan,::/0,z*", "lan,0.0.0.0/0,v4-"]), st.integers(0, 2**128 - 1)
)
@settings(max_examples=200)
def test_every_address_of_a_range_comes_back(text: str, number: int) -> None:
    made = parse_synth(text)
    low, high = int(made.first), int(made.last)
    ip = canonical(str(type(made.first)(low + number % (high - low + 1))))
    name = made.name(ip)
    if name is None:  # an IPv4 address mapped into IPv6 is the IPv4 address
        assert ipaddress.ip_address(ip).version != made.first.version
        return
    assert made.address(name) == ip
