"""When to sniff and what to believe: the meaning of mihomo's ``sniffer`` section, decided without looking at a byte.

A flow is looked at when no name is known for its destination (``parse-pure-ip``), when its name was only guessed from
an earlier DNS answer (``force-dns-mapping``), or when its name is listed in ``force-domain``.  Addresses listed to be
skipped are never looked at, and ports where the server speaks first are never waited for, even where a port range
covers them: a sniffer that waits for such a client would wait for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network

from cyfs_gateway.sniff.result import Sniffed
from cyfs_ns.domains import DomainMap
from cyfs_ns.errors import ConfigFault
from tunnels.authority import packed_of_host

SERVER_SPEAKS_FIRST = frozenset({20, 21, 22, 23, 25, 110, 119, 143, 587, 2525, 3306, 4190, 5900, 5901, 6600})
"""FTP, SSH, Telnet, SMTP, POP3, NNTP, IMAP, submission, MySQL, ManageSieve, VNC, MPD."""

_NETWORK_OF = {"http": "tcp", "tls": "tcp", "quic": "udp"}
DEFAULT_PORTS = {"http": ((80, 80),), "tls": ((443, 443),), "quic": ((443, 443),)}
"""Port ranges of a protocol that is listed without ``ports``."""

IpNetwork = IPv4Network | IPv6Network
DomainMatcher = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class SniffProtocol:
    """One entry of ``sniffer.sniff``."""

    ports: tuple[tuple[int, int], ...]
    """Inclusive ranges of destination ports."""
    override_destination: bool = True
    """Whether the flow is then dialled by the sniffed name, or the name only serves the rules."""


@dataclass(frozen=True, slots=True)
class Acceptance:
    """What to do with a finding."""

    use: bool
    """Rules see the sniffed name."""
    override: bool
    """The flow is dialled by it too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SniffConfig:
    """The section as it is meant, every default made."""

    enable: bool = False
    force_dns_mapping: bool = True
    parse_pure_ip: bool = True
    sniff: Mapping[str, SniffProtocol] = field(default_factory=dict)
    """By protocol: ``http``, ``tls``, ``quic``."""
    force_domain: DomainMatcher | None = None
    skip_domain: DomainMatcher | None = None
    skip_src_address: tuple[IpNetwork, ...] = ()
    skip_dst_address: tuple[IpNetwork, ...] = ()


class SniffPolicy:
    """A compiled ``sniffer`` section."""

    __slots__ = ("_config", "_ranges", "_skip_dst", "_skip_src")

    def __init__(self, config: SniffConfig) -> None:
        self._config = config
        self._ranges = [
            (_NETWORK_OF[protocol], first, last, protocol)
            for protocol, entry in config.sniff.items()
            for first, last in entry.ports
        ]
        self._skip_src = _compile_networks(config.skip_src_address)
        self._skip_dst = _compile_networks(config.skip_dst_address)

    def wanted(
        self, network: str, host: str, dst_ip: str, dst_port: int, src_ip: str, *, dns_mapped: bool = False
    ) -> tuple[str, ...]:
        """The protocols worth trying on this flow; empty means: do not sniff, and above all do not wait.

        ``dns_mapped`` says that ``host`` was only guessed from an earlier DNS answer for this address.
        """
        config = self._config
        if not config.enable or (network == "tcp" and dst_port in SERVER_SPEAKS_FIRST):
            return ()
        protocols = tuple(
            dict.fromkeys(
                name for net, first, last, name in self._ranges if net == network and first <= dst_port <= last
            )
        )
        if not protocols or not (
            (config.parse_pure_ip and not host)
            or (config.force_dns_mapping and dns_mapped)
            or (host and config.force_domain is not None and config.force_domain(host))
        ):
            return ()
        if _is_within(self._skip_dst, dst_ip) or _is_within(self._skip_src, src_ip):
            return ()
        return protocols

    def accept(self, sniffed: Sniffed) -> Acceptance:
        """Whether to use what was found."""
        skip, entry = self._config.skip_domain, self._config.sniff.get(sniffed.protocol)
        if not sniffed.host or entry is None or (skip is not None and skip(sniffed.host)):
            return Acceptance(use=False, override=False)
        return Acceptance(use=True, override=entry.override_destination)


def domain_wildcards(patterns: Iterable[str]) -> DomainMatcher | None:
    """A matcher for a list of Clash's domain wildcards (:class:`cyfs_ns.domains.DomainMap`), or None for an empty list.

    People also list odd server names such as ``Mijia Cloud``.  These can be left out: a finding that is no proper name
    is never used.
    """
    proper: dict[str, bool] = {}
    for pattern in patterns:
        try:
            DomainMap({pattern: True})
        except ConfigFault:
            continue
        proper[pattern] = True
    if not proper:
        return None
    found = DomainMap(proper).get
    return lambda host: found(host) is not None


_Masks = tuple[tuple[int, int, int], ...]


def _compile_networks(networks: tuple[IpNetwork, ...]) -> _Masks:
    return tuple((n.max_prefixlen // 8, int(n.network_address), int(n.netmask)) for n in networks)


def _is_within(masks: _Masks, address: str) -> bool:
    if not masks or not address:
        return False
    packed = packed_of_host(address)
    if packed is None:
        return False
    size, number = len(packed), int.from_bytes(packed, "big")
    return any(width == size and number & mask == base for width, base, mask in masks)
