"""``rtcp``: whom this machine, as a device, takes tunnels from, what peers reach through them, and which always stand.

Nothing is open by omission: no port without ``listen``, no service without ``allow``, and among the ``rules`` only
those that speak of peers count for them (``rules/table.py``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final, Literal, get_args

from cyfs_gateway.config.listeners import Placed, Shared, bind_addresses, spread
from cyfs_gateway.config.model import KeptTunnel, ListenerConfig, Requirement, RtcpConfig, ServiceConfig
from cyfs_gateway.config.outbounds import canonical_host
from cyfs_gateway.config.providers import home_path
from cyfs_gateway.rules.model import InSet, Rule, SubRule
from cyfs_gateway.rules.parse import parse_rule, parse_whom
from cyfs_ns.config.source import Node
from cyfs_ns.config.written import Section, split_host_port
from cyfs_ns.errors import BadWire, ConfigFault
from tunnels.endpoint import Target
from tunnels.url import has_scheme
from tunnels.url import parse as parse_url

if TYPE_CHECKING:
    from cyfs_ns.identity.did import Did

DOOR: Final = "DEFAULT-RTCP"
"""What IN-NAME matches for streams of peers, whoever dialled their tunnel."""
VERDICTS: Final = ("ACCEPT", "REJECT")

_MOST_SERVICES = 256
_MOST_KEPT = 256
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?").fullmatch
_TARGET = re.compile(r"(tcp|udp):///?(.+)").fullmatch


def read_rtcp_listen(top: Section, shared: Shared) -> list[Placed]:
    """Where tunnels are taken: ``listen`` of the section, a port, an address and port, or a list of those."""
    section = top.table("rtcp")
    found: list[Placed] = []
    for at, node, text in section.items("listen") if section is not None else ():
        assert section is not None
        where = split_host_port(text if ":" in text else f":{text.strip()}")
        addresses = bind_addresses(where[0], shared.ipv6) if where else None
        if where is None or addresses is None:
            message = f"expected a port, or an address and a port such as 192.0.2.1:2980, found {text[:60]!r}"
            section.reader.error(at, node, message)
            continue
        base = ListenerConfig(name=DOOR, kind="rtcp", listen="", port=where[1])
        found += (Placed(one, section, "listen") for one in spread(base, addresses, [where[1]]))
    return found


def read_rtcp(top: Section, home: str, bridges: Mapping[str, str]) -> RtcpConfig | None:
    """The section but for ``listen``; None when there is none.  ``home`` is the absolute state directory."""
    section = top.table("rtcp")
    if section is None:
        return None
    section.node("listen")
    config = RtcpConfig(
        identity=home_path(section, "identity", home),
        require=section.choice("require", get_args(Requirement), "authority_current"),
        txt_bootstrap=section.flag("txt-bootstrap"),
        services=tuple(_services(section, bridges))[:_MOST_SERVICES],
        keep=tuple(_kept(section, bridges))[:_MOST_KEPT],
        versions=_versions(section),
        admission=tuple(_admission(section, bridges)),
        proxy_from=frozenset(_believed(section, bridges)),
        speedtest=_speedtest(section, bridges),
    )
    for key, most in (("services", _MOST_SERVICES), ("keep-tunnel", _MOST_KEPT)):
        if len(getattr(section.node(key), "items", ())) > most:
            section.error(key, f"more than {most}")
    if config.txt_bootstrap:
        section.warn("txt-bootstrap", "whoever can forge an answer of the DNS can be any peer that is not pinned here")
    section.finish()
    return config


def _services(section: Section, bridges: Mapping[str, str]) -> Iterator[ServiceConfig]:
    names: set[str] = set()
    ports: set[tuple[str, int]] = set()
    for entry in section.tables("services"):
        name = entry.needed("name").strip().lower()
        if name and not _NAME(name):
            entry.error("name", f"{name[:60]!r} is no name: letters, digits and hyphens, 63 at most")
        elif name in names:
            entry.error("name", f"there is another service {name!r}")
        names.add(name)
        where = _service_target(entry)
        allow = tuple(
            rule for at, node, text in entry.items("allow") if (rule := _condition(entry, at, node, text, bridges))
        )
        if not entry.items("allow"):
            entry.error("allow", "who may use it? 'allow' is missing: DIDs, or conditions such as ZONE,home.example")
        port = entry.integer("port", where[1].port if where else 0, 1, 65535)
        entry.finish()
        if where is None:
            continue
        network, target = where
        if (network, port) in ports:
            entry.error("port", f"another service is asked for by {network} port {port}")
        ports.add((network, port))
        yield ServiceConfig(name=name, port=port, network=network, target=target, allow=allow)


def _service_target(entry: Section) -> tuple[Literal["tcp", "udp"], Target] | None:
    written = entry.needed("target").strip()
    match = _TARGET(written)
    where = split_host_port(match[2]) if match else None
    host = (canonical_host(where[0]) if where[0] else "127.0.0.1") if where else ""
    if match is None or where is None or not host or not where[1]:
        if written:
            entry.error("target", f"expected tcp://host:port or udp://host:port, found {written[:60]!r}")
        return None
    return ("tcp" if match[1] == "tcp" else "udp"), Target(host, where[1])


def _condition(entry: Section, at: str, node: Node, text: str, bridges: Mapping[str, str]) -> Rule | None:
    """A DID or its host name alone, or a condition such as ``OWNER,did:web:alice.example``."""
    try:
        return parse_whom(text, bridges)
    except ConfigFault as fault:
        entry.reader.error(at, node, str(fault))
        return None


def _versions(section: Section) -> frozenset[int]:
    given = section.items("versions")
    for at, node, text in given:
        if text not in ("4", "5"):
            section.reader.error(at, node, f"expected 5 or 4, found {text[:20]!r}")
    return frozenset(int(text) for _, _, text in given if text in ("4", "5")) or frozenset({5, 4})


def _speedtest(section: Section, bridges: Mapping[str, str]) -> tuple[Rule, ...] | None:
    entry = section.table("speedtest")
    if entry is None:
        return None
    allow = entry.items("allow")
    entry.finish()
    return tuple(rule for at, node, text in allow if (rule := _condition(entry, at, node, text, bridges)))


def _admission(section: Section, bridges: Mapping[str, str]) -> Iterator[Rule]:
    for at, node, text in section.items("admission"):
        try:
            rule = parse_rule(text, bridges)
        except ConfigFault as fault:
            section.reader.error(at, node, str(fault))
            continue
        if rule.outbound not in VERDICTS or isinstance(rule, SubRule | InSet):
            section.reader.error(at, node, "expected a condition and ACCEPT or REJECT, as ZONE,home.example,ACCEPT")
            continue
        yield rule


def _believed(section: Section, bridges: Mapping[str, str]) -> Iterator[Did]:
    from cyfs_ns.identity.did import subject

    for at, node, text in section.items("proxy-from"):
        try:
            yield subject(text.strip(), bridges).canonical
        except BadWire as bad:
            section.reader.error(at, node, str(bad))


def _kept(section: Section, bridges: Mapping[str, str]) -> Iterator[KeptTunnel]:
    # As for the rules: it brings a library for keys along.
    from cyfs_ns.identity.did import subject

    for at, node, text in section.items("keep-tunnel"):
        try:
            if not has_scheme(text):
                yield KeptTunnel(peer=subject(text.strip(), bridges))
                continue
            url = parse_url(text)
            if url.scheme != "rtcp" or url.path or (url.params and url.carrier is None):
                raise ConfigFault("expected a DID, a host name, or rtcp://[way there@]host[:port] without a target")
            yield KeptTunnel(peer=subject(url.host, bridges), port=url.port, url=text)
        except (BadWire, ConfigFault) as fault:
            section.reader.error(at, node, str(fault))
