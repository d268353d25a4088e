"""Where to ask: name servers as Clash writes them, and as resolv.conf(5) does.

``1.1.1.1``, ``udp://host:53``, ``tcp://host``, ``tls://host:853``, ``https://host/dns-query``, ``http://...``,
``system``, ``rcode://refused`` (answer so, ask nobody), ``dhcp://eth0`` (what that interface's lease names) and
``quic://host``.  A fragment says how to get there and what to ask: ``#PROXY-or-interface&skip-cert-verify=true``,
``ecs=203.0.113.0/24`` (the subnet to tell where the client told none; ``ecs-override=true``: always),
``disable-ipv4``, ``disable-ipv6``, ``disable-qtype-65`` (such questions have no answer there), ``weight=3``.  The last
scheme is understood but not carried by this build; ``why_not`` says so, that a check can warn and a failure can
explain itself.

A :class:`Group` is servers that know the same names, and how to choose among them.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypedDict
from urllib.parse import unquote, urlsplit

from cyfs_ns import names
from cyfs_ns.errors import BadWire, ConfigFault
from cyfs_ns.strategy import Strategy

RCODE_WORDS = {
    "success": 0,
    "format_error": 1,
    "server_failure": 2,
    "name_error": 3,
    "not_implemented": 4,
    "refused": 5,
}
"""The words of ``rcode://``, with the response codes of RFC 1035 they stand for."""

_PORTS = {"udp": 53, "tcp": 53, "tls": 853, "https": 443, "http": 80, "quic": 853}
_NOT_CARRIED = {"quic": "DNS over QUIC"}
_PARAMETERS = frozenset({"skip-cert-verify", "ecs", "ecs-override", "disable-ipv4", "disable-ipv6", "weight"})
_DISABLED_TYPE = re.compile(r"disable-qtype-([0-9]{1,5})")
_LEASE_SERVERS = re.compile(r"^\s*(?:DNS=|option\s+(?:domain-name-servers|dhcp6\.name-servers)\s+|nameserver\s+)(.+)$")
_LEASE_INTERFACE = re.compile(r'^\s*interface\s+"([^"]+)"')


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """One name server."""

    scheme: str
    """``udp tcp tls https http system rcode dhcp quic``."""
    host: str = ""
    """Canonical name or address, IPv6 perhaps with ``%zone``; the interface of ``dhcp``, the word of ``rcode``."""
    port: int = 0
    path: str = ""
    """Path and query of ``https`` and ``http``."""
    via: str = ""
    """Outbound or interface to go through; empty: straight."""
    source: tuple[str, int] = ("", 0)
    """Address and port of ours to ask from; empty and 0: whichever the kernel takes."""
    skip_cert_verify: bool = False
    subnet: str = ""
    """Client subnet to tell (RFC 7871), as a prefix; empty: none of its own."""
    subnet_override: bool = False
    """Tell it also where the client told another."""
    without: tuple[int, ...] = ()
    """Types it is never asked for: they have no records there."""
    weight: float = 1.0
    """Its share among servers drawn by weight."""
    ignored: tuple[str, ...] = ()
    """Fragment parameters that were read and have no effect in this build."""

    @property
    def why_not(self) -> str:
        """Why this build cannot ask it, or empty."""
        return f"{_NOT_CARRIED[self.scheme]} is not carried by this build" if self.scheme in _NOT_CARRIED else ""

    @property
    def address(self) -> str:
        """The literal address to connect to, or empty when ``host`` is a name that must be resolved first."""
        return self.host if names.is_ip(self.host.partition("%")[0]) else ""

    def __str__(self) -> str:
        where = f"[{self.host}]" if ":" in self.host else self.host
        port = f":{self.port}" if self.port else ""
        via = f"#{self.via}" if self.via else ""
        source = f" from {self.source[0]}" if self.source[0] else ""
        return f"{self.scheme}://{where}{port}{self.path}{via}{source}"


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Servers that know the same names.  One group is equal to no other: what is learnt and kept goes by identity."""

    name: str
    """Told to people, and to caches, which must not mix the answers of two groups."""
    servers: tuple[Upstream, ...]
    """Empty: nobody may be asked."""
    strategy: Strategy = field(default_factory=Strategy)


SYSTEM = Upstream(scheme="system")
"""Whatever the machine's resolv.conf says at the time of asking."""


def parse_upstream(text: str) -> Upstream:
    """One entry of ``nameserver:``.  Raises ``ConfigFault``."""
    try:
        return _parse(text.strip())
    except (ValueError, BadWire) as fault:
        raise ConfigFault(f"not a name server: {text!r}: {fault}") from None


def resolv_conf(text: str) -> tuple[Upstream, ...]:
    """The ``nameserver`` lines of a resolv.conf(5): the first three, or this machine when there are none."""
    found = []
    for line in text.splitlines():
        fields = line.split()
        if len(fields) >= 2 and fields[0] == "nameserver":
            address, percent, zone = fields[1].partition("%")
            if names.is_ip(address):
                found.append(Upstream(scheme="udp", host=names.ip(address) + percent + zone, port=53))
    return tuple(found[:3]) or (Upstream(scheme="udp", host="127.0.0.1", port=53),)


def lease_servers(text: str, interface: str) -> tuple[Upstream, ...]:
    """The servers a DHCP client's lease names, newest lease last as dhclient writes them.

    Reads the files of systemd-networkd and NetworkManager (``DNS=``), of dhclient (``option domain-name-servers``,
    one block for each lease) and resolv.conf fragments as dhcpcd and udhcpc scripts leave them.
    """
    found: dict[str, None] = {}
    ours = fresh = True
    for line in text.splitlines():
        if line.startswith("lease"):
            ours = fresh = True
        elif named := _LEASE_INTERFACE.match(line):
            ours = named[1] == interface
        elif ours and (listed := _LEASE_SERVERS.match(line)):
            found = dict.fromkeys([*(() if fresh else found), *_addresses(re.split(r"[\s,;]+", listed[1]))])
            fresh = False
    return tuple(Upstream(scheme="udp", host=address, port=53) for address in found)


def _addresses(words: Iterable[str]) -> list[str]:
    return [names.ip(word) for word in words if names.is_ip(word)]


def _parse(text: str) -> Upstream:
    where, _, fragment = text.partition("#")
    more = _fragment(fragment)
    if where in ("system", "system:", "system://"):
        return Upstream(scheme="system", **more)
    if "://" not in where:
        where = f"udp://[{where}]" if where.count(":") > 1 and where[0] != "[" else f"udp://{where}"
    parts = urlsplit(where)
    if parts.scheme == "rcode":
        if parts.netloc not in RCODE_WORDS:
            raise ValueError(f"rcode is one of {', '.join(RCODE_WORDS)}")
        return Upstream(scheme="rcode", host=parts.netloc, ignored=more["ignored"])
    if parts.scheme == "dhcp":
        return Upstream(scheme="dhcp", host=parts.netloc, **more)
    if parts.scheme not in _PORTS:
        raise ValueError(f"unknown scheme {parts.scheme!r}")
    if not parts.hostname:
        raise ValueError("no host")
    address, percent, zone = parts.hostname.partition("%")
    is_http = parts.scheme in ("https", "http")
    if not is_http and (parts.path not in ("", "/") or parts.query):
        raise ValueError(f"{parts.scheme} takes no path")
    if parts.username is not None:
        raise ValueError("user names are not carried")
    return Upstream(
        scheme=parts.scheme,
        host=names.ip(address) + percent + zone if names.is_ip(address) else names.name(parts.hostname),
        port=parts.port if parts.port is not None else _PORTS[parts.scheme],
        path=((parts.path or "/dns-query") + (f"?{parts.query}" if parts.query else "")) if is_http else "",
        **more,
    )


class _More(TypedDict):
    via: str
    skip_cert_verify: bool
    subnet: str
    subnet_override: bool
    without: tuple[int, ...]
    weight: float
    ignored: tuple[str, ...]


def _fragment(fragment: str) -> _More:
    via, values, ignored = "", {}, []
    for item in filter(None, fragment.split("&")):
        key, equals, value = item.partition("=")
        if not equals:
            via = unquote(item)
        elif key in _PARAMETERS or _DISABLED_TYPE.fullmatch(key):
            values[key] = value.lower()
        else:
            ignored.append(key)
    without = [number for key, number in (("disable-ipv4", 1), ("disable-ipv6", 28)) if values.get(key) == "true"]
    types = [(_DISABLED_TYPE.fullmatch(key), value) for key, value in values.items()]
    without += [int(match[1]) for match, value in types if match is not None and value == "true"]
    subnet = values.get("ecs", "")
    weight = float(values.get("weight", 1))
    if not 0 <= weight <= 1e6:
        raise ValueError(f"a weight of {weight}")
    return _More(
        via=via,
        skip_cert_verify=values.get("skip-cert-verify") == "true",
        subnet=str(ipaddress.ip_network(subnet, strict=False)) if subnet else "",
        subnet_override=values.get("ecs-override") == "true",
        without=tuple(without),
        weight=weight,
        ignored=tuple(ignored),
    )
