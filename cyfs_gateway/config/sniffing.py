"""``sniffer``: how the name of a flow is found in its first bytes.  Every key of mihomo's is read and checked."""

from __future__ import annotations

import ipaddress
import re

from cyfs_gateway.config.model import SnifferConfig
from cyfs_gateway.sniff.policy import DEFAULT_PORTS, SniffConfig, SniffProtocol, domain_wildcards
from cyfs_ns.config.written import Section, shown

_SETS = ("rule-set:", "geosite:", "geoip:")


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


def _is_prefix(text: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True
