"""Addresses that are not one machine's on the whole Internet: one table for all who care (RFC 6890 and its registries).

Addresses of documentation count as any other: where they are used at all, they play that part.
"""

from __future__ import annotations

import ipaddress
from enum import Enum
from typing import Final

Ip = ipaddress.IPv4Address | ipaddress.IPv6Address


class Special(Enum):
    """What is the matter with an address, in words."""

    CARRIER = "an address of a carrier's NAT (RFC 6598)"
    TRANSLATOR = "an address of a carrier's NAT (RFC 7335)"
    PRIVATE = "a private address (RFC 1918)"
    UNIQUE_LOCAL = "a private address (RFC 4193)"
    LINK = "an address of one link"
    LOOPBACK = "a loopback address"
    NOBODY = "no address"
    MANY = "no address of one machine"


_NETWORKS: Final = tuple(
    (ipaddress.ip_network(network), special)
    for network, special in (
        ("100.64.0.0/10", Special.CARRIER),
        ("192.0.0.0/24", Special.TRANSLATOR),
        ("10.0.0.0/8", Special.PRIVATE),
        ("172.16.0.0/12", Special.PRIVATE),
        ("192.168.0.0/16", Special.PRIVATE),
        ("169.254.0.0/16", Special.LINK),
        ("127.0.0.0/8", Special.LOOPBACK),
        ("0.0.0.0/8", Special.NOBODY),
        ("224.0.0.0/3", Special.MANY),
        ("fe80::/10", Special.LINK),
        ("fc00::/7", Special.UNIQUE_LOCAL),
        ("::1/128", Special.LOOPBACK),
        ("::/128", Special.NOBODY),
        ("ff00::/8", Special.MANY),
    )
)


def special(address: Ip) -> Special | None:
    """What keeps ``address`` from being reached from everywhere; None: nothing."""
    return next((what for network, what in _NETWORKS if address in network), None)
