"""``proxies`` and ``proxy-groups``: entries of Clash's types to specs of ours, and the checks among them.

A type of Clash's that this build does not carry is no fault: its name is kept, so that groups and rules that mention it
still load, and a warning says that it cannot be opened.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any, get_args

import idna

from cyfs_gateway.config.model import NOT_CARRIED, UnsupportedProxy
from cyfs_gateway.config.names import Sieve
from cyfs_ns.config.source import Scalar
from cyfs_ns.config.written import Section, split_host_port
from cyfs_ns.errors import BadWire, ConfigFault
from tunnels.authority import parse_host
from tunnels.group import StatusRanges
from tunnels.spec import (
    DEFAULT_TEST_URL,
    SPECS,
    GroupKind,
    GroupSpec,
    HttpSpec,
    IpVersion,
    ProxySpec,
    RtcpSpec,
    Socks5Spec,
    Strategy,
    TlsOptions,
    TlsSpec,
    TunnelSpec,
)
from tunnels.url import parse as parse_url

BUILT_IN = ("DIRECT", "REJECT", "REJECT-DROP", "PASS", "COMPATIBLE")
"""Outbounds that are always there; ``GLOBAL`` is too, unless the file defines it."""

_DIAL_KEYS = ("smux", "client-fingerprint", "ech-opts", "udp-over-tcp", "udp-over-tcp-version")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\U0010ffff]*")


def read_proxy(entry: Section) -> ProxySpec | UnsupportedProxy | None:
    """One entry of ``proxies``; None when a fault says why not."""
    name = entry.needed("name")
    kind = entry.needed("type").strip().lower()
    if not name or not kind:
        return None
    spec = SPECS.get(kind)
    if spec is None:
        if kind in NOT_CARRIED:
            entry.warn("type", f"this build carries no {kind!r} proxies; {name!r} cannot be opened")
            return UnsupportedProxy(name, kind, entry.path)
        entry.error("type", f"unknown proxy type {kind[:60]!r}{entry.reader.near(kind, [*SPECS, *NOT_CARRIED])}")
        return None
    fields: dict[str, Any] = {
        "name": name,
        "udp": entry.flag("udp", _is_default(spec, "udp")),
        "ip_version": _ip_version(entry),
        "interface_name": interface_name(entry),
        "routing_mark": entry.integer("routing-mark", 0, 0, 0xFFFFFFFF),
        "tfo": entry.flag("tfo"),
        "mptcp": entry.flag("mptcp"),
        "dialer_proxy": entry.text("dialer-proxy"),
    }
    if spec in (Socks5Spec, HttpSpec):
        fields |= {
            "server": read_host(entry, "server"),
            "port": entry.integer("port", 0, 1, 65535),
            "username": entry.text("username"),
            "password": entry.text("password"),
            "tls": entry.flag("tls"),
        }
        if not entry.has("port"):
            entry.error("port", "'port' is missing")
    if spec is HttpSpec:
        fields["headers"] = _headers(entry)
    if spec in (Socks5Spec, HttpSpec, TlsSpec):
        fields["tls_options"] = _tls_options(entry)
    if spec is TunnelSpec:
        fields["url"] = _tunnel_url(entry)
    if spec is RtcpSpec:
        fields |= _rtcp(entry)
    smux = entry.table("smux")
    if smux is not None and smux.flag("enabled"):
        entry.warn("smux", f"this build multiplexes nothing; {name!r} works without it")
    entry.finish(_DIAL_KEYS)
    return spec(**fields)


def _rtcp(entry: Section) -> dict[str, Any]:
    from cyfs_ns.identity.did import subject

    server, via, target = entry.text("server").strip(), entry.text("via").strip(), entry.text("target").strip()
    if server:
        try:
            subject(server)
        except BadWire as bad:
            entry.error("server", f"expected a DID or its host name: {bad}")
    if via:
        try:
            parse_url(via)
        except ConfigFault as fault:
            entry.error("via", str(fault))
        if entry.has("dialer-proxy"):
            entry.error("via", "'via' and 'dialer-proxy' both say how the peer is reached; one of them is enough")
    if target:
        where = split_host_port(target)
        host = canonical_host(where[0]) if where and where[0] else ""
        if where is None or not where[1] or (where[0] and not host):
            entry.error("target", f"expected host:port as the peer sees it, or its own :port, found {target[:60]!r}")
        else:
            target = f"[{host}]:{where[1]}" if ":" in host else f"{host}:{where[1]}"
    return {
        "server": server,
        "port": entry.integer("port", 0, 1, 65535),
        "via": via,
        "target": target,
        "proxy_protocol": entry.flag("proxy-protocol"),
        "fast_open": entry.flag("fast-open", _is_default(RtcpSpec, "fast_open")),
    }


def _tunnel_url(entry: Section) -> str:
    """A tunnel URL that ends before its target: every flow brings its own."""
    text = entry.needed("url")
    if text:
        try:
            if parse_url(text).path:
                entry.error("url", "a proxy's URL ends before the target: every flow brings its own")
        except ConfigFault as fault:
            entry.error("url", str(fault))
    return text


def read_host(entry: Section, key: str) -> str:
    """A name or address in its one form; ``""`` with a fault when it is neither."""
    written = entry.needed(key)
    host = canonical_host(written) if written else ""
    if written and not host:
        entry.error(key, f"{written[:60]!r} is neither a host name nor an address")
    return host


def canonical_host(written: str) -> str:
    """Lower case, A-labels, no brackets around IPv6; ``""`` for what is no host."""
    text = written.strip()
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
    try:
        return parse_host(text.encode() if text.isascii() else idna.encode(text, uts46=True))
    except (BadWire, idna.IDNAError, UnicodeError):
        return ""


def interface_name(entry: Section) -> str:
    """``interface-name``; one that the kernel could not know is noted and counts as absent."""
    name = entry.text("interface-name")
    if len(name.encode()) > 15 or re.search(r"[\s/\x00]", name):
        entry.error("interface-name", f"{name[:60]!r} cannot be an interface's name (15 bytes at most)")
        return ""
    return name


def expected_status(entry: Section) -> str:
    """``expected-status``, by default any; ranges that make no sense are noted and count as absent."""
    text = entry.text("expected-status", "*").strip() or "*"
    try:
        StatusRanges(text)
    except ConfigFault as fault:
        entry.error("expected-status", str(fault))
        return "*"
    return text


def read_group(entry: Section, proxies: Sequence[tuple[str, str]], providers: Sequence[str]) -> GroupSpec | None:
    """One entry of ``proxy-groups``.  ``proxies`` are (name, API kind) of the file, for ``include-all``."""
    name = entry.needed("name")
    if not entry.has("type"):
        entry.needed("type")
    kind = entry.choice("type", get_args(GroupKind), "select")
    if kind == "relay":
        entry.warn("type", "'relay' groups are deprecated; use 'dialer-proxy'")
    include_all = entry.flag("include-all")
    all_proxies = entry.flag("include-all-proxies") or include_all
    all_providers = entry.flag("include-all-providers") or include_all
    wanted, unwanted, types = read_filter(entry)
    members = entry.texts("proxies")
    if all_proxies:
        members = tuple(dict.fromkeys((*members, *Sieve(wanted, unwanted, types).keep(proxies))))
    use = tuple(providers) if all_providers else entry.texts("use")
    if all_providers:
        entry.node("use")
    if not members and not use:
        if all_proxies or all_providers:
            members = ("COMPATIBLE",)
        else:
            entry.error("proxies", f"group {name!r} needs 'proxies' or 'use'")
    usual = 0.0 if kind in ("select", "relay") else 300.0
    spec = GroupSpec(
        name=name,
        kind=kind,
        members=members,
        use=use,
        include_all_providers=all_providers,
        filter=wanted,
        exclude_filter=unwanted,
        exclude_type=types,
        url=entry.url("url", DEFAULT_TEST_URL) or DEFAULT_TEST_URL,
        interval=entry.seconds("interval", usual) or usual,
        timeout=entry.seconds("timeout", 5.0, unit="ms") or 5.0,
        lazy=entry.flag("lazy", True),
        max_failed_times=entry.integer("max-failed-times", 5, 0) or 5,
        tolerance=float(entry.integer("tolerance", 0, 0, 65535)),
        strategy=entry.choice("strategy", get_args(Strategy), "consistent-hashing"),
        disable_udp=entry.flag("disable-udp"),
        expected_status=expected_status(entry),
        hidden=entry.flag("hidden"),
        icon=entry.text("icon"),
    )
    for key in ("interface-name", "routing-mark"):
        if entry.has(key):
            # mihomo took these out of groups as well.
            entry.warn(key, "groups have no sockets of their own, ignored; set it on the proxies")
    if entry.has("empty-fallback"):
        entry.warn("empty-fallback", "this build does not act on it; a group without members goes direct")
    entry.finish(("enable",))
    return spec if name else None


def read_filter(entry: Section) -> tuple[str, str, str]:
    """``filter``, ``exclude-filter`` and ``exclude-type``; a bad expression is noted and counts as absent."""
    texts = []
    for key in ("filter", "exclude-filter"):
        text = entry.text(key)
        try:
            Sieve(text)
        except ConfigFault as fault:
            entry.error(key, str(fault))
            text = ""
        texts.append(text)
    return texts[0], texts[1], entry.text("exclude-type")


def find_circle(edges: Mapping[str, Iterable[str]]) -> list[str] | None:
    """Some circle of a graph as the names along it, the first repeated at the end; None when there is none."""
    done: set[str] = set()
    for start in edges:
        trail: list[str] = [start]
        on_trail = {start}
        below = [iter(edges[start])] if start not in done else []
        while below:
            step = next((name for name in below[-1] if name not in done), None)
            if step is None:
                below.pop()
                left = trail.pop()
                on_trail.discard(left)
                done.add(left)
            elif step in on_trail:
                return [*trail[trail.index(step) :], step]
            else:
                trail.append(step)
                on_trail.add(step)
                below.append(iter(edges.get(step, ())))
    return None


def find_deepest(edges: Mapping[str, Sequence[str]]) -> tuple[str, int]:
    """Which node of a graph without circles has the longest way down, and how many nodes that has, its own included."""
    depths: dict[str, int] = {}
    for name in edges:
        pending = [name]
        while pending:
            below = edges.get(pending[-1], ())
            unknown = [one for one in below if one not in depths]
            if unknown:
                pending.extend(unknown)
                continue
            depths[pending.pop()] = 1 + max((depths[one] for one in below), default=0)
    return max(depths.items(), key=lambda found: found[1], default=("", 0))


def check_members(entry: Section, key: str, known: Container[str], all_names: Iterable[str], what: str) -> None:
    """Every name of the list under ``key`` must be ``known``."""
    for at, node, name in entry.items(key):
        if name not in known:
            entry.reader.error(at, node, f"there is no {what} {name[:60]!r}{entry.reader.near(name, all_names)}")


def check_name(entry: Section, key: str, known: Container[str], all_names: Iterable[str], what: str) -> None:
    """The text under ``key``, when there is one, must be ``known``."""
    name = entry.text(key)
    if name and name not in known:
        entry.error(key, f"there is no {what} {name[:60]!r}{entry.reader.near(name, all_names)}")


def _is_default(spec: type[ProxySpec], option: str) -> bool:
    """Whether ``option`` holds where nothing is written."""
    return any(field.name == option and field.default is True for field in dataclasses.fields(spec))


def _ip_version(entry: Section) -> IpVersion:
    return entry.choice("ip-version", get_args(IpVersion), "dual")


def _tls_options(entry: Section) -> TlsOptions:
    fingerprint = entry.text("fingerprint").replace(":", "").strip().lower()
    if fingerprint and not re.fullmatch("[0-9a-f]{64}", fingerprint):
        entry.error("fingerprint", "expected the SHA-256 of a certificate: 64 hexadecimal digits")
    for key in ("certificate", "private-key"):
        if entry.has(key):
            entry.warn(key, "this build shows no client certificate")
    return TlsOptions(
        sni=entry.text("sni") or entry.text("servername"),
        skip_cert_verify=entry.flag("skip-cert-verify"),
        fingerprint=fingerprint,
        alpn=entry.texts("alpn"),
    )


def _headers(entry: Section) -> dict[str, str]:
    table = entry.table("headers")
    found: dict[str, str] = {}
    for name in table or ():
        assert table is not None
        node = table.node(name)
        value = table.text(name) if isinstance(node, Scalar) else None
        if value is None or not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            table.error(name, "this cannot be an HTTP header")
        else:
            found[name] = value
    return found
