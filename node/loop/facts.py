"""What a machine says of itself in ``devices/<n>/info``: facts, and nothing that was decided.

Keys are upstream's (DeviceInfo).  The first half seldom changes and is told when it does; usage is told with it, and
every half minute.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from cyfs_ns.identity.strictjson import Json, write_json
from zone.routes.places import MOST

_LOCAL = re.compile(r"\|-- (\S+)\n\s+/32 host LOCAL")


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What seldom changes."""

    did: str
    net_id: str = ""
    cpu_num: int
    total_mem: int
    """Bytes."""
    os: str
    arch: str
    hostname: str
    ips: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What changes all the time."""

    load: float
    """Over the last minute (getloadavg(3))."""
    used_mem: int
    """Bytes that nobody else could have."""
    free_disk: int
    """Bytes, where the node's home is."""


def as_plain(facts: Facts, usage: Usage) -> dict[str, Any]:
    """As it stands in the store."""
    plain = {name: getattr(facts, name) for name in ("did", "net_id", "cpu_num", "total_mem", "os", "arch", "hostname")}
    return plain | {
        "ips": list(facts.ips),
        "load": usage.load,
        "used_mem": usage.used_mem,
        "free_disk": usage.free_disk,
        "network_observation": observation_of(facts.ips),
    }


def observation_of(ips: Iterable[str]) -> dict[str, Json]:
    """What the zone's routes are made of (``zone/routes/places.py``): where this machine is, as far as it sees itself.

    ``observation_id`` is another when any of it is.  That an address is there does not say that packets get out.
    """
    found = [ipaddress.ip_address(ip) for ip in ips][:MOST]
    has_global6 = any(ip.version == 6 and ip.is_global for ip in found)
    seen: dict[str, Json] = {
        "ipv6": {"state": "address_only" if has_global6 else "unavailable"},
        "endpoints": [{"ip": str(ip), "scope": "global" if ip.is_global else "lan"} for ip in found],
    }
    return {"observation_id": hashlib.sha256(write_json(seen)).hexdigest()[:16], **seen}


def memory_of(meminfo: str) -> tuple[int, int]:
    """All, and what is used, in bytes, of ``/proc/meminfo``."""
    found = {
        name: int(value.split()[0]) << 10 for name, _, value in (line.partition(":") for line in meminfo.splitlines())
    }
    return found["MemTotal"], found["MemTotal"] - found["MemAvailable"]


def addresses_of(fib_trie: str, if_inet6: str) -> tuple[str, ...]:
    """Where others may find this machine: the addresses of ``/proc/net/fib_trie`` and ``/proc/net/if_inet6``."""
    texts = {*_LOCAL.findall(fib_trie)}
    texts |= {":".join(re.findall("....", line.split()[0])) for line in if_inet6.splitlines() if line.strip()}
    found = sorted(map(ipaddress.ip_address, texts), key=lambda address: (address.version, int(address)))
    return tuple(str(address) for address in found if not (address.is_loopback or address.is_link_local))
