"""The ``dns`` section as meant: mihomo's keys with mihomo's meaning, and those of a home's DNS server.

Everything is checked here that can be checked without touching the world, so that every typing error of the section
comes out at once.  Servers, names and prefixes stay text in canonical spelling; what is compiled from them (policy,
lists, local names) is compiled by whoever owns that part, from these values.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from cyfs_ns.config.house import HouseConfig, read_house
from cyfs_ns.config.written import Network, Section, shown, split_host_port
from cyfs_ns.domains import DomainMap
from cyfs_ns.errors import BadWire, ConfigFault
from cyfs_ns.fakefilter import FilterMode, fake_filter
from cyfs_ns.hosts import Hosts
from cyfs_ns.ifnames import interface_name
from cyfs_ns.names import host as canonical
from cyfs_ns.names import is_ip
from cyfs_ns.splitdns import SplitDns
from cyfs_ns.upstream import parse_upstream

Strategy: TypeAlias = Literal["staggered", "parallel", "fastest", "strict", "weighted"]
EnhancedMode: TypeAlias = Literal["normal", "fake-ip", "redir-host"]
Address: TypeAlias = tuple[str, int]
"""A literal address, empty for all of both families, and a port."""

LOCAL_SOURCES: tuple[str, ...] = (
    "127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10",
    "::1/128", "fc00::/7", "fe80::/10",
)  # fmt: skip
"""Who may ask when nothing is said: a resolver open to everybody is somebody's amplifier."""

_MAX_FAILURE_TTL = 300  # RFC 9520 section 3.2

SETS = ("rule-set:", "geosite:", "geoip:")

_FAKE_IP_FILTER = ("dns.msftncsi.com", "www.msftncsi.com", "www.msftconnecttest.com")
_ENTRY_BYTES = 600
"""What one usual answer takes, for ``cache-max-size``, which counts answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FallbackFilter:
    """When an answer of ``nameserver`` is distrusted and that of ``fallback`` taken."""

    geoip: bool = True
    geoip_code: str = "CN"
    ipcidr: tuple[Network, ...] = ()
    domain: tuple[str, ...] = ()
    geosite: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorsConfig:
    """Where questions come in, and from whom."""

    plain: tuple[Address, ...] = ()
    """UDP and TCP (``listen``)."""
    tls: tuple[Address, ...] = ()
    https: tuple[Address, ...] = ()
    http: tuple[Address, ...] = ()
    """DNS over HTTP without TLS, for a reverse proxy on this machine."""
    certificate: str = ""
    """Path of a PEM chain; empty: one is made on first start."""
    key: str = ""
    names: tuple[str, ...] = ()
    """What a made certificate is for, and what designated resolvers are announced as (RFC 9462)."""
    trusted_proxies: tuple[Network, ...] = ()
    """Whose X-Forwarded-For is believed."""
    interfaces: tuple[str, ...] = ()
    """Devices the plain sockets are bound to; empty: none in particular."""
    workers: int = 0
    """Processes that answer what is cached, beside this one; 0: this one does it."""
    allow_from: tuple[Network, ...] = ()
    allow_near: bool = False
    """Also whoever is on a link of ours: an IPv6 network at home is as public as any."""
    deny_from: tuple[Network, ...] = ()
    refuse: Literal["refused", "silent"] = "refused"
    """What a source hears that may not ask."""
    rate_limit: int = 100
    """Answers a second over UDP to one network (/24, /56) of those who are not at home; 0: no limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheConfig:
    """Times in seconds."""

    max_bytes: int = 32 << 20
    min_ttl: int = 0
    max_ttl: int = 86400
    max_client_ttl: int = 0
    """The largest TTL that clients are told of what comes from outside; 0: the true one."""
    max_negative: int = 3600
    max_stale: int = 86400
    """How long past its end an answer may still be given (RFC 8767); 0: never."""
    stale_wait: float = 1.8
    """How long a client waits for a fresh answer when there is a stale one."""
    failure_ttl: int = 5
    max_failure_ttl: int = 60
    """How long a failure is remembered: the first one, and at most when one follows the other (RFC 9520)."""
    prefetch: bool = True
    persist: bool = True
    save_interval: float = 10.0
    """How often what was learnt is written down; a killed process loses no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DnsConfig:
    """The whole section.  Servers are text (``tls://1.1.1.1:853#proxy``) whose form has been checked."""

    enable: bool = False
    doors: DoorsConfig = field(default_factory=DoorsConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    house: HouseConfig = field(default_factory=HouseConfig)
    ipv6: bool = True
    """Whether upstreams are asked for IPv6 addresses at all; not said, they are."""
    ipv6_timeout: float = 0.1
    prefer_h3: bool = False
    use_hosts: bool = True
    use_system_hosts: bool = True
    respect_rules: bool = False
    default_nameserver: tuple[str, ...] = ()
    """Addresses only; empty: those of the system."""
    nameserver: tuple[str, ...] = ()
    """Empty: those of the system."""
    resolv_file: str = ""
    """Where the system's servers are read; empty: /etc/resolv.conf."""
    strategy: Strategy = "staggered"
    fallback: tuple[str, ...] = ()
    fallback_filter: FallbackFilter = field(default_factory=FallbackFilter)
    nameserver_policy: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """(patterns, servers) in the order of the file; first match wins."""
    servers: tuple[str, ...] = ()
    """Split DNS as dnsmasq writes it: ``/lan/192.168.1.1``, ``/example.com/#``."""
    proxy_server_nameserver: tuple[str, ...] = ()
    proxy_server_nameserver_policy: tuple[tuple[str, tuple[str, ...]], ...] = ()
    direct_nameserver: tuple[str, ...] = ()
    direct_nameserver_follow_policy: bool = False
    enhanced_mode: EnhancedMode = "redir-host"
    fake_ip_range: str = "198.18.0.1/16"
    fake_ip_range6: str = ""
    fake_ip_filter: tuple[str, ...] = ()
    fake_ip_filter_mode: FilterMode = "blacklist"
    fake_ip_ttl: int = 1
    metrics: tuple[Address, ...] = ()
    """Where Prometheus may look, when this server runs alone."""


def read_dns(top: Section) -> DnsConfig:
    """The section ``dns`` of the file; faults go to the reader."""
    section = top.table("dns")
    if section is None:
        return DnsConfig()
    usual = DnsConfig()
    mode = section.choice("fake-ip-filter-mode", ("blacklist", "whitelist", "rule"), usual.fake_ip_filter_mode)
    config = DnsConfig(
        enable=section.flag("enable"),
        doors=_doors(section),
        cache=_cache(section),
        house=read_house(section, _servers),
        ipv6=section.flag("ipv6", True),
        ipv6_timeout=section.seconds("ipv6-timeout", usual.ipv6_timeout, unit="ms"),
        prefer_h3=section.flag("prefer-h3"),
        use_hosts=section.flag("use-hosts", True),
        use_system_hosts=section.flag("use-system-hosts", True),
        respect_rules=section.flag("respect-rules"),
        default_nameserver=_servers(section, "default-nameserver", literal=True),
        nameserver=_servers(section, "nameserver"),
        resolv_file=section.text("resolv-file"),
        strategy=section.choice("strategy", ("staggered", "parallel", "fastest", "strict", "weighted"), usual.strategy),
        fallback=_servers(section, "fallback"),
        fallback_filter=_fallback_filter(section),
        nameserver_policy=_policy(section, "nameserver-policy"),
        servers=_checked(section, "servers", lambda form: SplitDns((), (form,))),
        proxy_server_nameserver=_servers(section, "proxy-server-nameserver"),
        proxy_server_nameserver_policy=_policy(section, "proxy-server-nameserver-policy"),
        direct_nameserver=_servers(section, "direct-nameserver"),
        direct_nameserver_follow_policy=section.flag("direct-nameserver-follow-policy"),
        enhanced_mode=section.choice("enhanced-mode", ("normal", "fake-ip", "redir-host"), usual.enhanced_mode),
        fake_ip_range=_prefix(section, "fake-ip-range", usual.fake_ip_range, 4),
        fake_ip_range6=_prefix(section, "fake-ip-range6", "", 6),
        fake_ip_filter=_fake_filter(section, mode) if section.has("fake-ip-filter") else _fake_usual(mode),
        fake_ip_filter_mode=mode,
        fake_ip_ttl=section.integer("fake-ip-ttl", 1, 0, 86400) or 1,
        metrics=_addresses(section, "metrics-listen", 9153),
    )
    section.finish()
    if config.prefer_h3:
        section.warn("prefer-h3", "this build speaks no HTTP/3")
    return config


def _server_name(text: str) -> None:
    try:
        canonical(text)
    except BadWire as fault:
        raise ConfigFault(str(fault)) from None


def _doors(section: Section) -> DoorsConfig:
    if section.text("tls-key") and not section.text("tls-cert"):
        section.error("tls-key", "a key needs its certificate: 'tls-cert' is missing")
    allowed, usual = section.prefixes("allow-from"), DoorsConfig()
    return DoorsConfig(
        plain=_addresses(section, "listen", 53),
        tls=_addresses(section, "listen-tls", 853),
        https=_addresses(section, "listen-https", 443),
        http=_addresses(section, "listen-http", 80),
        certificate=section.text("tls-cert"),
        key=section.text("tls-key"),
        names=_checked(section, "server-names", _server_name),
        trusted_proxies=section.prefixes("trusted-proxies"),
        interfaces=_checked(section, "interfaces", interface_name),
        workers=section.integer("workers", 0, 0, 64),
        allow_from=allowed or tuple(ipaddress.ip_network(text) for text in LOCAL_SOURCES),
        allow_near=not allowed,
        deny_from=section.prefixes("deny-from"),
        refuse=section.choice("refuse", ("refused", "silent"), "refused"),
        rate_limit=section.integer("rate-limit", usual.rate_limit, 0, 1_000_000),
    )


def _cache(section: Section) -> CacheConfig:
    usual = CacheConfig()
    section.choice("cache-algorithm", ("lru", "arc"), "lru")
    entries = section.integer("cache-max-size", 0, 0, 10_000_000)
    max_bytes = entries * _ENTRY_BYTES or usual.max_bytes
    table = section.table("cache")
    if table is None:
        return CacheConfig(max_bytes=max_bytes)
    found = CacheConfig(
        max_bytes=table.size("max-size", max_bytes),
        min_ttl=int(table.seconds("min-ttl", usual.min_ttl)),
        max_ttl=int(table.seconds("max-ttl", usual.max_ttl)),
        max_client_ttl=int(table.seconds("max-client-ttl", usual.max_client_ttl)),
        max_negative=int(table.seconds("max-negative-ttl", usual.max_negative)),
        max_stale=int(table.seconds("max-stale", usual.max_stale)),
        stale_wait=table.seconds("stale-wait", usual.stale_wait),
        failure_ttl=int(table.seconds("failure-ttl", usual.failure_ttl)),
        max_failure_ttl=int(table.seconds("max-failure-ttl", usual.max_failure_ttl)),
        prefetch=table.flag("prefetch", usual.prefetch),
        persist=table.flag("persist", usual.persist),
        save_interval=table.seconds("save-interval", usual.save_interval),
    )
    if not 1 <= found.failure_ttl <= found.max_failure_ttl <= _MAX_FAILURE_TTL:
        key = "failure-ttl" if table.has("failure-ttl") else "max-failure-ttl"
        table.error(key, f"failure-ttl and max-failure-ttl, in this order, go from 1 to {_MAX_FAILURE_TTL} s")
    if found.save_interval < 1:
        table.error("save-interval", "at most once a second")
    if found.min_ttl > found.max_ttl:
        table.error("min-ttl", f"min-ttl {found.min_ttl} is above max-ttl {found.max_ttl}")
    table.finish()
    return found


def read_hosts(top: Section) -> dict[str, tuple[str, ...]]:
    """The section ``hosts``: patterns in lower case to addresses, or to one other name."""
    section = top.table("hosts")
    if section is None:
        return {}
    found: dict[str, tuple[str, ...]] = {}
    for name in section:
        values = tuple(_canonical(value) for value in section.texts(name))
        if not values or not all(values) or (len(values) > 1 and not all(map(is_ip, values))):
            section.error(name, "expected an address, a list of addresses, or one host name")
            continue
        _check_pattern(section, name, name)
        found[name.lower()] = values
    if not section.reader.errors:
        try:
            Hosts({name: values if is_ip(values[0]) else values[0] for name, values in found.items()})
        except ConfigFault as fault:
            top.error("hosts", str(fault))
    return found


def _addresses(section: Section, key: str, usual_port: int) -> tuple[Address, ...]:
    found: list[Address] = []
    for at, node, text in section.items(key):
        bare = re.sub(r"^(?:udp|tcp)://", "", text.strip())
        place = (bare.strip("[]"), usual_port) if is_ip(bare.strip("[]")) else split_host_port(bare)
        if place is None or (place[0] and not is_ip(place[0])):
            section.reader.error(at, node, f"expected an address and a port such as 127.0.0.1:53, found {shown(node)}")
        else:
            found.append(place)
    return tuple(dict.fromkeys(found))


def _fallback_filter(section: Section) -> FallbackFilter:
    table = section.table("fallback-filter")
    if table is None:
        return FallbackFilter()
    found = FallbackFilter(
        geoip=table.flag("geoip", True),
        geoip_code=table.text("geoip-code", "CN"),
        ipcidr=table.prefixes("ipcidr"),
        domain=_checked(table, "domain", _pattern),
        geosite=table.texts("geosite"),
    )
    table.finish()
    return found


def _policy(section: Section, key: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    table = section.table(key)
    if table is None:
        return ()
    found = []
    for patterns in table:
        found.append((patterns, _servers(table, patterns)))
        for pattern in patterns.split(","):
            if not pattern.strip().startswith(SETS) and not patterns.startswith(SETS):
                _check_pattern(table, patterns, pattern.strip())
    return tuple(found)


def _check_pattern(table: Section, key: str, pattern: str) -> None:
    try:
        _pattern(pattern)
    except ConfigFault as fault:
        table.error(key, str(fault))


def _pattern(text: str) -> None:
    try:
        DomainMap({text: True})
    except ConfigFault as fault:
        raise ConfigFault(f"no domain pattern such as +.example.com: {fault}") from None


def _checked(section: Section, key: str, check: Callable[[str], object]) -> tuple[str, ...]:
    """Those of the texts of a list that ``check`` lets pass; the others are faults at their places."""
    found = []
    for at, node, text in section.items(key):
        try:
            check(text)
            found.append(text)
        except ConfigFault as fault:
            section.reader.error(at, node, str(fault))
    return tuple(found)


def _fake_filter(section: Section, mode: FilterMode) -> tuple[str, ...]:
    def check(entry: str) -> None:
        fake_filter(mode, (entry,), _any_set)

    if mode == "rule":
        return _checked(section, "fake-ip-filter", check)
    found = []
    for at, node, text in section.items("fake-ip-filter"):
        try:
            check(text)
            found.append(text)
        except ConfigFault as fault:
            # Files that go round list what some device sends as its server's name: "Mijia Cloud".
            section.reader.warn(at, node, f"no name is like that: {fault}; left out")
    return tuple(found)


def _fake_usual(mode: FilterMode) -> tuple[str, ...]:
    """What is left out when nothing is said: probes of the net that compare what they get."""
    return _FAKE_IP_FILTER if mode == "blacklist" else ()


def _any_set(name: str) -> Callable[[str], bool]:
    """Stands for sets while a filter is read: whether they exist is told when they are looked for."""
    return lambda name: False


def _servers(section: Section, key: str, *, literal: bool = False) -> tuple[str, ...]:
    found = []
    for at, node, text in section.items(key):
        try:
            server = parse_upstream(text)
        except ConfigFault as fault:
            section.reader.error(at, node, str(fault))
            continue
        if server.why_not:
            section.reader.warn(at, node, f"{server.why_not}; left out")
        if server.ignored:
            section.reader.warn(at, node, f"this build does not act on {', '.join(server.ignored)[:60]!r}")
        if literal and server.host and not server.address and server.scheme not in ("rcode", "dhcp"):
            what = "must be an address: these servers find the names of the others"
            section.reader.error(at, node, f"{text[:60]!r} {what}")
            continue
        found.append(text.strip())
    return tuple(found)


def _prefix(section: Section, key: str, default: str, version: int) -> str:
    text = section.text(key, default)
    try:
        if not text or ipaddress.ip_network(text, strict=False).version == version:
            return text
    except ValueError:
        pass
    section.error(key, f"expected an IPv{version} prefix, found {text[:60]!r}")
    return default


def _canonical(written: str) -> str:
    try:
        return canonical(written.strip())
    except BadWire:
        return ""
