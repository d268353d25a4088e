"""What the parts of port mapping talk in, and what an address outside is worth.

A router asked for a mapping tells its own address outside.  Where that is no public address the router stands behind
another one, the carrier's or a second one at home, and the mapping helps only up to there.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from enum import Enum

from cyfs_ns.errors import BadWire, Misuse
from cyfs_ns.purposes import is_public, special


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


def not_public(ip: str) -> str:
    """What keeps an address from being reached from everywhere, in words; empty: nothing.  Raises ``BadWire``."""
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        raise BadWire(f"not an address: {ip[:50]!r}") from None
    what = None if is_public(address) else special(address)
    return "" if what is None else what.value
