"""``dns``, ``hosts`` and ``sniffer``: how a flow's name is found.  Every key of mihomo's is read and checked.

Servers stay text for the resolver to parse; here only their form is checked, so that a typing error comes out with the
rest.  What this build's resolver does not act on yet is said in a warning, never passed over in silence.
"""

from __future__ import annotations

import ipaddress
import re

from cyfs_gateway.config.listeners import split_host_port
from cyfs_gateway.config.model import DnsConfig, SnifferConfig
from cyfs_gateway.config.outbounds import canonical_host
from cyfs_gateway.sniff.policy import DEFAULT_PORTS, SniffConfig, SniffProtocol, domain_wildcards
from cyfs_ns.config.written import Section, shown
from cyfs_ns.domains import DomainMap
from cyfs_ns.errors import ConfigFault
from cyfs_ns.hosts import Hosts
from cyfs_ns.upstream import parse_upstream

_SETS = ("rule-set:", "geosite:", "geoip:")


def read_dns(top: Section) -> DnsConfig:
    """``dns``; absent means off, and names are then resolved by the servers of the system."""
    section = top.table("dns")
    if section is None:
        return DnsConfig()
    listen = section.text("listen")
    if listen and split_host_port(re.sub(r"^(?:udp|tcp)://", "", listen)) is None:
        section.error("listen", f"expected an address and a port, found {listen[:60]!r}")
    usual = DnsConfig()
    config = DnsConfig(
        enable=section.flag("enable"),
        listen=listen,
        ipv6=section.flag("ipv6"),
        ipv6_timeout=section.seconds("ipv6-timeout", usual.ipv6_timeout, unit="ms"),
        prefer_h3=section.flag("prefer-h3"),
        use_hosts=section.flag("use-hosts", True),
        use_system_hosts=section.flag("use-system-hosts", True),
        respect_rules=section.flag("respect-rules"),
        cache_max_size=section.integer("cache-max-size", usual.cache_max_size) or usual.cache_max_size,
        enhanced_mode=section.choice("enhanced-mode", ("normal", "fake-ip", "redir-host"), "redir-host"),
        fake_ip_range=_prefix(section, "fake-ip-range", usual.fake_ip_range, 4),
        fake_ip_range6=_prefix(section, "fake-ip-range6", "", 6),
        default_nameserver=_servers(section, "default-nameserver", literal=True),
        nameserver=_servers(section, "nameserver"),
        fallback=_servers(section, "fallback"),
        nameserver_policy=_policy(section, "nameserver-policy"),
        proxy_server_nameserver=_servers(section, "proxy-server-nameserver"),
        proxy_server_nameserver_policy=_policy(section, "proxy-server-nameserver-policy"),
        direct_nameserver=_servers(section, "direct-nameserver"),
    )
    follow = section.flag("direct-nameserver-follow-policy")
    _check_details(section)
    section.finish()
    if config.enable:
        for key, wanted, what in (
            ("listen", bool(listen), "carries no DNS server yet"),
            ("enhanced-mode", config.enhanced_mode == "fake-ip", "hands out no fake addresses yet"),
            ("fallback", bool(config.fallback), "asks 'nameserver' alone"),
            ("proxy-server-nameserver-policy", bool(config.proxy_server_nameserver_policy), "does not act on it"),
            ("direct-nameserver-follow-policy", follow, "asks 'direct-nameserver' by no policy"),
            ("respect-rules", config.respect_rules, "does not act on it; name a proxy as in 'tls://1.1.1.1#proxy'"),
            ("prefer-h3", config.prefer_h3, "speaks no HTTP/3"),
        ):
            if wanted:
                section.warn(key, f"this build {what}")
    return config


def read_hosts(top: Section) -> dict[str, tuple[str, ...]]:
    """Names in lower case to addresses, or to one other name."""
    section = top.table("hosts")
    if section is None:
        return {}
    found: dict[str, tuple[str, ...]] = {}
    for name in section:
        values = tuple(canonical_host(value) for value in section.texts(name))
        if not values or not all(values) or (len(values) > 1 and not all(map(_is_address, values))):
            section.error(name, "expected an address, a list of addresses, or one host name")
            continue
        _check_pattern(section, name, name)
        found[name.lower()] = values
    if not section.reader.errors:
        try:
            Hosts({name: values if _is_address(values[0]) else values[0] for name, values in found.items()})
        except ConfigFault as fault:
            top.error("hosts", str(fault))
    return found


def read_sniffer(top: Section) -> SnifferConfig:
    """``sniffer``; absent means off."""
    section = top.table("sniffer")
    if section is None:
        return SnifferConfig()
    override = section.flag("override-destination", True)
    config = SnifferConfig(
        enable=section.flag("enable"),
        force_dns_mapping=section.flag("force-dns-mapping", True),
        parse_pure_ip=section.flag("parse-pure-ip", True),
        override_destination=override,
        sniff=_sniff(section, override),
        force_domain=_without_sets(section, "force-domain"),
        skip_domain=_without_sets(section, "skip-domain"),
        skip_src_address=_without_sets(section, "skip-src-address", prefixes=True),
        skip_dst_address=_without_sets(section, "skip-dst-address", prefixes=True),
    )
    section.finish()
    return config


def sniff_input(config: SnifferConfig) -> SniffConfig:
    """The section as the sniffer's policy takes it, its patterns compiled."""
    return SniffConfig(
        enable=config.enable,
        force_dns_mapping=config.force_dns_mapping,
        parse_pure_ip=config.parse_pure_ip,
        sniff=config.sniff,
        force_domain=domain_wildcards(config.force_domain),
        skip_domain=domain_wildcards(config.skip_domain),
        skip_src_address=tuple(ipaddress.ip_network(text, strict=False) for text in config.skip_src_address),
        skip_dst_address=tuple(ipaddress.ip_network(text, strict=False) for text in config.skip_dst_address),
    )


def _sniff(section: Section, override: bool) -> dict[str, SniffProtocol]:
    found: dict[str, SniffProtocol] = {}
    table = section.table("sniff")
    for name in table or ():
        assert table is not None
        protocol = name.lower()
        if protocol not in DEFAULT_PORTS:
            table.error(name, f"there is no sniffer for {name[:60]!r}: HTTP, TLS and QUIC are known")
            continue
        entry = table.table(name)
        ports = _ranges(entry, "ports") if entry is not None else ()
        own = entry.flag("override-destination", override) if entry is not None else override
        found[protocol] = SniffProtocol(ports or DEFAULT_PORTS[protocol], own)
        if entry is not None:
            entry.finish()
    old_ports = _ranges(section, "port-whitelist")
    for at, node, text in section.items("sniffing"):
        protocol = text.strip().lower()
        if protocol not in DEFAULT_PORTS:
            section.reader.error(at, node, f"there is no sniffer for {text[:60]!r}: http, tls and quic are known")
        else:
            found.setdefault(protocol, SniffProtocol(old_ports or DEFAULT_PORTS[protocol], override))
    return found


def _ranges(section: Section, key: str) -> tuple[tuple[int, int], ...]:
    """Ports such as ``80`` and ``8080-8880``, in a list or split by commas and slashes."""
    found = []
    for at, node, text in section.items(key):
        for part in re.split("[,/]", text):
            match = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", part.strip())
            low, high = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
            if low <= high <= 65535:
                found.append((low, high))
            else:
                section.reader.error(at, node, f"expected ports such as 443 or 8000-8080, found {shown(node)}")
    return tuple(found)


def _without_sets(section: Section, key: str, *, prefixes: bool = False) -> tuple[str, ...]:
    found = []
    for at, node, text in section.items(key):
        if text.startswith(_SETS):
            section.reader.warn(at, node, f"this build's sniffer does not look into {text[:60]!r}; left out")
        elif prefixes and not _is_prefix(text):
            section.reader.error(at, node, f"expected a prefix such as 192.168.0.0/16, found {shown(node)}")
        else:
            found.append(text)
    return tuple(found)


def _check_details(section: Section) -> None:
    """Keys that refine what this build lacks: looked at for faults only."""
    section.choice("cache-algorithm", ("lru", "arc"), "lru")
    section.choice("fake-ip-filter-mode", ("blacklist", "whitelist", "rule"), "blacklist")
    section.texts("fake-ip-filter")
    section.integer("fake-ip-ttl", 1, 0, 86400)
    table = section.table("fallback-filter")
    if table is not None:
        table.flag("geoip"), table.text("geoip-code"), table.prefixes("ipcidr")
        table.texts("domain"), table.texts("geosite")
        table.finish()


def _policy(section: Section, key: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    table = section.table(key)
    if table is None:
        return ()
    found = []
    for patterns in table:
        found.append((patterns, _servers(table, patterns)))
        if patterns.startswith(_SETS):
            table.warn(patterns, f"this build's resolver does not look into {patterns[:60]!r}; left out")
            continue
        for pattern in patterns.split(","):
            _check_pattern(table, patterns, pattern)
    return tuple(found)


def _check_pattern(table: Section, key: str, pattern: str) -> None:
    try:
        DomainMap({pattern: True})
    except ConfigFault as fault:
        table.error(key, f"no domain pattern such as +.example.com: {fault}")


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
    if text and not (_is_prefix(text) and ipaddress.ip_network(text, strict=False).version == version):
        section.error(key, f"expected an IPv{version} prefix, found {text[:60]!r}")
        return default
    return text


def _is_prefix(text: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return False
    return True
