"""What the parts of port mapping talk in, and what an address outside is worth.

A router asked for a mapping tells its own address outside.  Where that is no public address the router stands behind
another one, the carrier's or a second one at home, and the mapping helps only up to there.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from enum import Enum
from typing import Final

from cyfs_ns.errors import BadWire, Misuse


class Transport(Enum):
    """By its number in the IP header."""

    TCP = 6
    UDP = 17


class Protocol(Enum):
    """A language routers are asked in.  The order is that of preference."""

    PCP = "PCP"
    NAT_PMP = "NAT-PMP"
    UPNP = "UPnP"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A port of ours that should be reachable."""

    transport: Transport
    port: int
    outside: int = 0
    """The port outside one would like; 0: the same."""
    version: int = 4
    """Of IP.  For 6 nothing is translated; the router's firewall opens a pinhole."""

    def __post_init__(self) -> None:
        if not (0 < self.port < 65536 and 0 <= self.outside < 65536 and self.version in (4, 6)):
            raise Misuse(f"no port can be mapped so: {self}")


@dataclass(frozen=True, slots=True)
class Way:
    """The default gateway, and the address of ours that packets to it come from; both are text without a zone."""

    gateway: str
    source: str


@dataclass(frozen=True, slots=True)
class Grant:
    """What a router granted."""

    ip: str
    """Its address outside; ``0.0.0.0``: it has none just now."""
    port: int
    lifetime: int
    """Seconds; 0: until it is deleted, or the router forgets."""


_BEHIND: Final = tuple(
    (ipaddress.ip_network(network), what)
    for network, what in (
        ("100.64.0.0/10", "an address of a carrier's NAT (RFC 6598)"),
        ("192.0.0.0/24", "an address of a carrier's NAT (RFC 7335)"),
        ("10.0.0.0/8", "a private address (RFC 1918)"),
        ("172.16.0.0/12", "a private address (RFC 1918)"),
        ("192.168.0.0/16", "a private address (RFC 1918)"),
        ("169.254.0.0/16", "an address of one link"),
        ("127.0.0.0/8", "a loopback address"),
        ("0.0.0.0/8", "no address"),
        ("224.0.0.0/3", "no address of one machine"),
        ("fe80::/10", "an address of one link"),
        ("fc00::/7", "a private address (RFC 4193)"),
        ("::/127", "no address"),
        ("ff00::/8", "no address of one machine"),
    )
)


def not_public(ip: str) -> str:
    """What keeps an address from being reached from everywhere, in words; empty: nothing.

    Addresses of documentation count as public: where they are used at all, they play that part.  Raises ``BadWire``.
    """
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        raise BadWire(f"not an address: {ip[:50]!r}") from None
    return next((what for network, what in _BEHIND if address in network), "")
