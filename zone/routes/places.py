"""What is known of where a node is: by its owner's signature, and by its own word.

A node's word is ``network_observation`` in ``devices/<n>/info``:

    {"rtcp_port": 2980,
     "ipv6": {"state": "egress_ok"},
     "endpoints": [{"ip": "192.168.1.5", "scope": "lan"}],
     "direct_probe": [{"target_node": "attic", "status": "ok", "rtt_ms": 3, "last_probe": 17, "last_success": 17}]}

Times in it are by that node's own clock and only compared with each other.  What cannot be read is left out; it is one
way less to try.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeVar, get_args

from cyfs_ns import names
from cyfs_ns.errors import BadWire
from cyfs_ns.identity.did import Did, host_of_did
from cyfs_ns.identity.strictjson import Json, read_object

PORT: Final = 2980
"""Where rtcp is spoken as a matter of course."""
FRESH: Final = 300.0
"""Seconds after its last success for which a probe that fails is still believed."""
MOST: Final = 32
"""Endpoints, signed addresses and probes of a node that are read, of each."""

Ipv6 = Literal["unknown", "unavailable", "address_only", "egress_ok", "rtcp_direct_ok"]
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Probe:
    """A node dialled another one directly, and got through."""

    target: str
    rtt: int | None = None
    """Milliseconds, as the next power of two, so that it is no news that the last one took a little longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A node."""

    name: str
    did: Did
    net: str = ""
    """``wan``, ``wan_dyn``, ``portmap``, ``nat``, ``lan<N>``, or nothing; as the owner signed it."""
    port: int = PORT
    signed: tuple[Address, ...] = ()
    """Addresses that the owner signed."""
    is_ood: bool = False
    is_gateway: bool = False
    ipv6: Ipv6 = "unknown"
    endpoints: tuple[Address, ...] = ()
    """Its own, by its word."""
    probes: tuple[Probe, ...] = ()

    @property
    def host(self) -> str:
        """The host name by which it is dialled; never an address."""
        return host_of_did(self.did, case_safe=True)

    @property
    def on_wan(self) -> bool:
        """Whether it is on the Internet itself."""
        return self.net in ("wan", "wan_dyn")

    @property
    def is_open(self) -> bool:
        """Whether anybody can dial it, by what its owner says of its net."""
        return self.on_wan or self.net == "portmap"

    @property
    def signed_wan(self) -> tuple[Address, ...]:
        """The addresses on the Internet that its owner signed; while there are any, no others are believed."""
        return tuple(ip for ip in self.signed if ip.is_global) if self.is_open else ()

    @property
    def global6(self) -> tuple[Address, ...]:
        """Its global addresses of IPv6, if it has a use for any."""
        return (
            () if self.ipv6 == "unavailable" else tuple(ip for ip in self.endpoints if ip.version == 6 and ip.is_global)
        )

    def lan(self, version: int) -> frozenset[object]:
        """The subnets (/24, or /64 of IPv6) of its addresses in its LAN."""
        size = 24 if version == 4 else 64
        return frozenset(
            ipaddress.ip_network((ip, size), strict=False)
            for ip in self.endpoints
            if ip.version == version and not ip.is_global and not ip.is_loopback and not ip.is_link_local
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """A node's word about its network."""

    port: int | None = None
    ipv6: Ipv6 = "unknown"
    endpoints: tuple[Address, ...] = ()
    probes: tuple[Probe, ...] = ()


def read_observed(untrusted: str) -> Observed:
    """What ``devices/<n>/info`` says of the network.  Never raises."""
    try:
        told = read_object(untrusted, "devices/*/info").get("network_observation")
    except BadWire:
        return Observed()
    if not isinstance(told, Mapping):
        return Observed()
    port, ipv6 = told.get("rtcp_port"), told.get("ipv6")
    state = ipv6.get("state") if isinstance(ipv6, Mapping) else None
    endpoints = (_address(one.get("ip")) for one in _tables(told.get("endpoints")))
    probes = (_probe(one) for one in _tables(told.get("direct_probe")))
    return Observed(
        port=port if type(port) is int and 0 < port < 65536 else None,
        ipv6=next((known for known in get_args(Ipv6) if known == state), "unknown"),
        endpoints=tuple(dict.fromkeys(ip for ip in endpoints if ip is not None)),
        probes=tuple({probe.target: probe for probe in probes if probe is not None}.values()),
    )


def address(text: str) -> Address | None:
    """None: it is no address that anybody could dial."""
    if not names.is_ip(text):
        return None
    found = ipaddress.ip_address(names.ip(text))
    return None if found.is_multicast or found.is_unspecified or found.is_loopback else found


def _address(told: Json) -> Address | None:
    return address(told) if isinstance(told, str) else None


def _tables(told: Json) -> list[Mapping[str, Json]]:
    return [one for one in told[:MOST] if isinstance(one, Mapping)] if isinstance(told, list) else []


def _probe(told: Mapping[str, Json]) -> Probe | None:
    """None: it did not get through, or not lately."""
    target, rtt = told.get("target_node"), _number(told.get("rtt_ms"))
    success, last = _number(told.get("last_success")), _number(told.get("last_probe"))
    if not isinstance(target, str) or success is None:
        return None
    if last is not None and last - success > FRESH:
        return None
    return Probe(target, None if rtt is None else 1 << max(0, math.ceil(rtt) - 1).bit_length())


def _number(told: Json) -> float | None:
    return float(told) if type(told) in (int, float) and isinstance(told, int | float) and 0 <= told < 1e15 else None
