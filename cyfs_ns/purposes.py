"""Which addresses are not one machine's on the whole Internet, and what they are for instead.

One table for all who ask: the registries of special-purpose addresses that IANA keeps (RFC 6890), multicast, and what
is given out to nobody.  Of two networks the narrower counts.  Addresses of documentation count as public: where they
are used at all, they play that part.

Elsewhere on purpose: who is asked about by ``GEOIP,LAN`` and whom a router's clients reach among themselves, which are
choices and no facts.
"""

from __future__ import annotations

import ipaddress
from enum import Enum
from typing import Final

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Ip = ipaddress.IPv4Address | ipaddress.IPv6Address


class Special(Enum):
    """What is the matter with an address, in words."""

    CARRIER = "an address of a carrier's NAT (RFC 6598)"
    TRANSLATOR = "an address of a carrier's NAT (RFC 7335)"
    PRIVATE = "a private address (RFC 1918)"
    UNIQUE_LOCAL = "a private address (RFC 4193)"
    SITE = "a private address (RFC 3879)"
    LINK = "an address of one link"
    LOOPBACK = "a loopback address"
    NOBODY = "no address"
    MANY = "no address of one machine"
    BENCHMARK = "an address for measurements (RFC 2544)"
    DOCUMENTATION = "an address of documentation"
    PROTOCOL = "an address that a protocol uses"
    CARRYING = "an address that hides one of IPv4"
    UNASSIGNED = "an address that nobody was given"


def _row(what: Special | None, *networks: str) -> list[tuple[Network, Special | None]]:
    return [(ipaddress.ip_network(network), what) for network in networks]


_TABLE: Final = sorted(
    (
        # https://www.iana.org/assignments/iana-ipv4-special-registry
        *_row(Special.NOBODY, "0.0.0.0/8"),
        *_row(Special.PRIVATE, "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"),
        *_row(Special.CARRIER, "100.64.0.0/10"),
        *_row(Special.LOOPBACK, "127.0.0.0/8"),
        *_row(Special.LINK, "169.254.0.0/16"),
        *_row(Special.PROTOCOL, "192.0.0.0/24"),
        *_row(Special.TRANSLATOR, "192.0.0.0/29"),
        *_row(Special.DOCUMENTATION, "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"),
        *_row(Special.MANY, "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.175.48.0/24", "224.0.0.0/4"),
        *_row(Special.BENCHMARK, "198.18.0.0/15"),
        *_row(Special.UNASSIGNED, "240.0.0.0/4"),
        *_row(Special.MANY, "255.255.255.255/32"),
        # https://www.iana.org/assignments/iana-ipv6-special-registry, and 2000::/3, outside of which nothing is public
        *_row(Special.UNASSIGNED, "::/0"),
        *_row(None, "2000::/3"),
        *_row(Special.NOBODY, "::/128", "100::/64", "100:0:0:1::/64"),
        *_row(Special.LOOPBACK, "::1/128"),
        *_row(Special.CARRYING, "::/96", "::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "2001::/32", "2002::/16"),
        *_row(Special.PROTOCOL, "2001::/23", "5f00::/16"),
        *_row(Special.BENCHMARK, "2001:2::/48"),
        *_row(Special.DOCUMENTATION, "2001:db8::/32", "3fff::/20"),
        *_row(Special.MANY, "2001:1::/32", "2001:3::/32", "2001:4:112::/48", "2620:4f:8000::/48", "ff00::/8"),
        *_row(Special.UNIQUE_LOCAL, "fc00::/7"),
        *_row(Special.LINK, "fe80::/10"),
        *_row(Special.SITE, "fec0::/10"),
    ),
    key=lambda row: -row[0].prefixlen,
)


def _ladder(version: int) -> list[tuple[int, dict[int, Special | None]]]:
    """Networks of each size, the narrowest first, by the bits that all their addresses share."""
    ladder: dict[int, dict[int, Special | None]] = {}
    for network, what in _TABLE:
        if network.version == version:
            free = network.max_prefixlen - network.prefixlen
            ladder.setdefault(free, {})[int(network.network_address) >> free] = what
    return list(ladder.items())


_LADDERS: Final = {4: _ladder(4), 6: _ladder(6)}


def special(address: Ip) -> Special | None:
    """What ``address`` is for; None: for one machine, as any other."""
    number = int(address)
    return next((of[number >> free] for free, of in _LADDERS[address.version] if number >> free in of), None)


def is_public(address: Ip) -> bool:
    """Whether ``address`` means the same to everybody on the Internet: one machine, or none."""
    return special(address) in (None, Special.DOCUMENTATION)


def networks_of(*purposes: Special) -> tuple[Network, ...]:
    """All that are for one of ``purposes``."""
    return tuple(network for network, what in _TABLE if what in purposes)
