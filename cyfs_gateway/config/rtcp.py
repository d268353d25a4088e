"""``rtcp``: whom this machine, as a device, takes tunnels from, what peers reach through them, and which always stand.

Nothing is open by omission: no port without ``listen``, no service without ``allow``, and among the ``rules`` only
those that speak of peers count for them (``rules/table.py``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final, Literal, get_args

from cyfs_gateway.config.listeners import Placed, Shared, bind_addresses, spread
from cyfs_gateway.config.model import (
    KeptTunnel,
    ListenerConfig,
    MemberConfig,
    Published,
    Requirement,
    RtcpConfig,
    ServiceConfig,
)
from cyfs_gateway.config.outbounds import canonical_host
from cyfs_gateway.config.providers import home_path
from cyfs_gateway.rules.model import InSet, Rule, SubRule
from cyfs_gateway.rules.parse import parse_rule, parse_whom
from cyfs_ns.config.source import Map, Node, Seq
from cyfs_ns.config.written import Section, is_null, split_host_port
from cyfs_ns.domains import DomainMap
from cyfs_ns.errors import BadWire, ConfigFault
from cyfs_ns.names import is_ip
from rtcp.nat.stun import PORT as STUN_PORT
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
_MOST_STUN = 8
_MOST_SNS = 8
_MOST_EXPOSED = 64
_RTCP_PORT = 2980
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?").fullmatch
_PORT = re.compile(r"(tcp|udp):([0-9]{1,5})(?:/([a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?))?").fullmatch
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
    listens = section.node("listen") is not None
    config = RtcpConfig(
        identity=home_path(section, "identity", home),
        require=section.choice("require", get_args(Requirement), "authority_current"),
        txt_bootstrap=section.flag("txt-bootstrap"),
        services=tuple(_services(section, bridges))[:_MOST_SERVICES],
        keep=tuple(_kept(section, bridges))[:_MOST_KEPT],
        sns=tuple(_members(section, bridges))[:_MOST_SNS],
        versions=_versions(section),
        admission=tuple(_admission(section, bridges)),
        proxy_from=frozenset(_believed(section, bridges)),
        speedtest=_speedtest(section, bridges),
        udp=section.flag("udp", True),
        stun=tuple(_stun(section))[:_MOST_STUN],
        port_mapping=section.flag("port-mapping", listens),
        lan=section.flag("lan", listens),
        private_addresses=_private_addresses(section, bridges),
    )
    for key, most in (
        ("services", _MOST_SERVICES),
        ("keep-tunnel", _MOST_KEPT),
        ("sn", _MOST_SNS),
        ("stun", _MOST_STUN),
    ):
        if len(getattr(section.node(key), "items", ())) > most:
            section.error(key, f"more than {most}")
    if config.txt_bootstrap:
        section.warn("txt-bootstrap", "whoever can forge an answer of the DNS can be any peer that is not pinned here")
    section.finish()
    return config


def _services(section: Section, bridges: Mapping[str, str]) -> Iterator[ServiceConfig]:
    names: set[str] = set()
    asked: set[tuple[str, int, str]] = set()
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
        public = entry.flag("public")
        if not entry.items("allow") and not public:
            entry.error("allow", "who may use it? 'allow' is missing: DIDs, or conditions such as ZONE,home.example")
        port = entry.integer("port", where[1].port if where else 0, 1, 65535)
        hosts, tells = tuple(_hosts(entry)), entry.flag("proxy-protocol")
        entry.finish()
        if where is None:
            continue
        network, target = where
        if tells and network == "udp":
            entry.error("proxy-protocol", "only streams have a PROXY header")
        for host in hosts or ("",):
            if (network, port, host) in asked:
                by = f"{host} at " if host else ""
                entry.error("hosts" if host else "port", f"another service is asked for by {by}{network} port {port}")
            asked.add((network, port, host))
        yield ServiceConfig(
            name=name,
            port=port,
            network=network,
            target=target,
            allow=allow,
            hosts=hosts,
            public=public,
            proxy_protocol=tells,
        )


def _hosts(entry: Section) -> Iterator[str]:
    for at, node, text in entry.items("hosts"):
        host = text.strip().lower().rstrip(".")
        try:
            DomainMap({host: True})
        except ConfigFault as fault:
            entry.reader.error(at, node, str(fault))
        else:
            yield host


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


def _stun(section: Section) -> Iterator[tuple[str, int]]:
    for at, node, text in section.items("stun"):
        where = split_host_port(text) or (text, STUN_PORT)
        host = canonical_host(where[0])
        if not host or not where[1]:
            section.reader.error(at, node, f"expected host or host:port of a STUN server, found {text[:60]!r}")
            continue
        yield host, where[1]


def _private_addresses(section: Section, bridges: Mapping[str, str]) -> tuple[Rule, ...] | None:
    if not section.has("private-addresses"):
        return None
    allow = section.items("private-addresses")
    return tuple(rule for at, node, text in allow if (rule := _condition(section, at, node, text, bridges)))


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
    for at, node, text in section.items("keep-tunnel"):
        try:
            yield _kept_tunnel(text, bridges)
        except (BadWire, ConfigFault) as fault:
            section.reader.error(at, node, str(fault))


def _kept_tunnel(text: str, bridges: Mapping[str, str]) -> KeptTunnel:
    """Raises ``BadWire`` and ``ConfigFault``."""
    # As for the rules: it brings a library for keys along.
    from cyfs_ns.identity.did import subject

    if not has_scheme(text):
        return KeptTunnel(peer=subject(text.strip(), bridges))
    url = parse_url(text)
    if url.scheme != "rtcp" or url.path or (url.params and url.carrier is None):
        raise ConfigFault("expected a DID, a host name, or rtcp://[way there@]host[:port] without a target")
    return KeptTunnel(peer=subject(url.host, bridges), port=url.port, url=text)


def _members(section: Section, bridges: Mapping[str, str]) -> Iterator[MemberConfig]:
    """``sn``: names alone, or mappings of what else there is to say; one may stand without a list."""
    node = section.node("sn")
    if node is None or is_null(node):
        return
    seen: set[Did] = set()
    for number, each in enumerate(node.items if isinstance(node, Seq) else (node,)):
        at = f"{section.at('sn')}/{number}" if isinstance(node, Seq) else section.at("sn")
        if isinstance(each, Map):
            found = _member(Section(section.reader, each, at), bridges)
        else:
            found = _member_alone(section, at, each, bridges)
        if found is not None and found.sn.peer.canonical in seen:
            section.reader.error(at, each, f"{found.sn.peer} stands here already")
        elif found is not None:
            seen.add(found.sn.peer.canonical)
            yield found


def _member_alone(section: Section, at: str, node: Node, bridges: Mapping[str, str]) -> MemberConfig | None:
    text = section.reader.text(at, node)
    try:
        return None if text is None else MemberConfig(sn=_kept_tunnel(text, bridges))
    except (BadWire, ConfigFault) as fault:
        section.reader.error(at, node, str(fault))
        return None


def _member(entry: Section, bridges: Mapping[str, str]) -> MemberConfig | None:
    sn: KeptTunnel | None = None
    if written := entry.needed("peer"):
        try:
            sn = _kept_tunnel(written, bridges)
        except (BadWire, ConfigFault) as fault:
            entry.error("peer", str(fault))
    name = entry.text("name").strip().lower()
    if name and not _NAME(name):
        entry.error("name", f"{name[:60]!r} is no name: letters, digits and hyphens, 63 at most")
    at = _place(entry)
    addresses = entry.choice("addresses", get_args(Published), "none")
    expose = tuple(_exposed(entry))
    entry.finish()
    return None if sn is None else MemberConfig(sn=sn, at=at, name=name, addresses=addresses, expose=expose)


def _exposed(entry: Section) -> Iterator[str]:
    found = entry.items("expose")
    if len(found) > _MOST_EXPOSED:
        entry.error("expose", f"more than {_MOST_EXPOSED}")
    for at, node, text in found[:_MOST_EXPOSED]:
        port, host = _PORT(text.strip()), canonical_host(text)
        if text.strip() == "@":
            yield "@"
        elif port and 0 < int(port[2]) < 65536:
            yield f"{port[1]}:{int(port[2])}" + (f"/{port[3]}" if port[3] else "")
        elif host and not port and not is_ip(host):
            yield host
        else:
            entry.reader.error(at, node, f"expected a host name, @, or a port as tcp:2222/SERVICE, found {text[:60]!r}")


def _place(entry: Section) -> tuple[str, int] | None:
    """``at``: a host, with a port or without."""
    written = entry.text("at").strip()
    if not written:
        return None
    where = split_host_port(written) or split_host_port(f"{written}:{_RTCP_PORT}")
    host = canonical_host(where[0]) if where else ""
    if where is None or not host or not where[1]:
        entry.error("at", f"expected an address or host name, and perhaps a port, found {written[:60]!r}")
        return None
    return host, where[1]
