"""What networks are set apart for, and that all who ask whether an address is public hear the same."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from cyfs_ns.io.trusted import safefetch
from cyfs_ns.purposes import Special, is_public, networks_of, special
from rtcp.nat.portmap.values import not_public

PURPOSES = {
    "0.0.0.0": Special.NOBODY,
    "0.255.255.255": Special.NOBODY,
    "10.0.0.0": Special.PRIVATE,
    "172.31.255.255": Special.PRIVATE,
    "192.168.1.1": Special.PRIVATE,
    "100.64.0.1": Special.CARRIER,
    "100.127.255.255": Special.CARRIER,
    "127.8.8.8": Special.LOOPBACK,
    "169.254.169.254": Special.LINK,
    "192.0.0.2": Special.TRANSLATOR,
    "192.0.0.9": Special.PROTOCOL,
    "192.0.0.170": Special.PROTOCOL,
    "192.0.2.1": Special.DOCUMENTATION,
    "192.88.99.1": Special.MANY,
    "198.19.255.255": Special.BENCHMARK,
    "239.255.255.250": Special.MANY,
    "240.0.0.1": Special.UNASSIGNED,
    "255.255.255.255": Special.MANY,
    "::": Special.NOBODY,
    "::1": Special.LOOPBACK,
    "::2": Special.CARRYING,
    "::ffff:8.8.8.8": Special.CARRYING,
    "64:ff9b::808:808": Special.CARRYING,
    "64:ff9b:1::1": Special.CARRYING,
    "100::1": Special.NOBODY,
    "2001:0:4136:e378:8000:63bf:3fff:fdd2": Special.CARRYING,
    "2001:1::1": Special.MANY,
    "2001:2::1": Special.BENCHMARK,
    "2001:10::1": Special.PROTOCOL,
    "2001:db8::1": Special.DOCUMENTATION,
    "2002:7f00:1::1": Special.CARRYING,
    "3fff:fff::1": Special.DOCUMENTATION,
    "4000::1": Special.UNASSIGNED,
    "5f00::1": Special.PROTOCOL,
    "fd12:3456::1": Special.UNIQUE_LOCAL,
    "fe80::1": Special.LINK,
    "fec0::1": Special.SITE,
    "ff02::1": Special.MANY,
}
ORDINARY = (
    *("1.1.1.1", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "172.15.255.255", "172.32.0.0"),
    *("192.0.1.0", "192.167.255.255", "192.169.0.0", "198.17.255.255", "198.20.0.0", "223.255.255.255"),
    *("2001:200::1", "2001:db7::1", "2003::1", "2606:4700::1111", "3ffe::1"),
)


@pytest.mark.parametrize("address", PURPOSES)
def test_what_an_address_is_for(address: str) -> None:
    what = special(ip_address(address))
    assert what is PURPOSES[address]
    is_shown = what is Special.DOCUMENTATION
    assert is_public(ip_address(address)) is is_shown
    assert not_public(address) == ("" if is_shown else what.value)
    if what is not Special.CARRYING:
        assert not safefetch.is_public(address)


@pytest.mark.parametrize("address", ORDINARY)
def test_addresses_beside_those_are_ordinary(address: str) -> None:
    assert special(ip_address(address)) is None
    assert is_public(ip_address(address)) and safefetch.is_public(address) and not not_public(address)


def test_the_networks_of_a_purpose() -> None:
    assert set(networks_of(Special.CARRIER, Special.LINK)) == set(
        map(ip_network, ("100.64.0.0/10", "169.254.0.0/16", "fe80::/10"))
    )


def test_nothing_that_python_takes_for_private_is_public() -> None:
    private = (ip_address(first << 20) for first in range(1 << 12))
    wrong = [str(each) for each in private if (each.is_private or each.is_multicast) and special(each) is None]
    assert not wrong
