"""Everything a rule can name: proxies, groups and providers, read together since they name one another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from cyfs_gateway.config.model import ProxyProviderConfig, UnsupportedProxy
from cyfs_gateway.config.outbounds import (
    BUILT_IN,
    check_members,
    check_name,
    find_circle,
    find_deepest,
    read_group,
    read_proxy,
)
from cyfs_gateway.config.subscription import read_entries
from cyfs_ns.config.source import Seq
from cyfs_ns.config.written import Section, shown
from cyfs_ns.errors import BadWire
from tunnels.spec import GroupSpec, ProxySpec

MAX_DEPTH = 16
"""Outbounds on the way from a rule's choice to the one that carries the flow."""


@dataclass(slots=True)
class Roster:
    """Everything a rule or a group can name, as far as it was readable."""

    proxies: list[ProxySpec]
    unsupported: list[UnsupportedProxy]
    groups: list[GroupSpec]
    names: set[str]


def read_roster(top: Section, providers: list[str]) -> Roster:
    """``proxies`` and ``proxy-groups``; ``providers`` are the names of ``proxy-providers``, for ``include-all``."""
    found = Roster([], [], [], {*BUILT_IN, "GLOBAL"})
    taken = dict.fromkeys(BUILT_IN, "built in")
    for entry in top.tables("proxies"):
        proxy = read_proxy(entry)
        _claim(entry, taken)
        if isinstance(proxy, UnsupportedProxy):
            found.unsupported.append(proxy)
        elif proxy is not None:
            found.proxies.append(proxy)
    kinds = {p.name: p.kind for p in found.proxies} | {p.name: p.kind for p in found.unsupported}
    in_order = [(name, kinds[name]) for name in taken if name in kinds]
    entries = top.tables("proxy-groups")
    for entry in entries:
        group = read_group(entry, in_order, providers)
        _claim(entry, taken)
        if group is not None:
            found.groups.append(group)
    found.names |= taken.keys()
    for entry in entries:
        check_members(entry, "proxies", found.names, found.names, "proxy or group")
        check_members(entry, "use", set(providers), providers, "proxy provider")
    for entry in top.tables("proxies"):
        check_name(entry, "dialer-proxy", found.names, found.names, "proxy or group")
    return found


def _claim(entry: Section, taken: dict[str, str]) -> None:
    name = entry.text("name")
    if name in taken:
        where = taken[name]
        entry.error("name", f"the name {name[:60]!r} is taken: {where}")
    elif name:
        taken[name] = f"it stands at {entry.path}"


def with_payload(entry: Section, provider: ProxyProviderConfig) -> ProxyProviderConfig:
    """The provider with the proxies that stand in its own ``payload``."""
    payload = entry.node("payload")
    if payload is None:
        return provider
    if not isinstance(payload, Seq):
        entry.error("payload", f"expected a list, found {shown(payload)}")
        return provider
    try:
        content = read_entries(payload, entry.at("payload"), provider, entry.reader)
    except BadWire as fault:
        entry.error("payload", str(fault))
        return provider
    return replace(provider, payload=content.proxies)


def check_circles(top: Section, outbounds: Roster, providers: Iterable[ProxyProviderConfig]) -> None:
    """Note groups and ``dialer-proxy`` chains that lead back to themselves, or go too deep."""
    edges: dict[str, list[str]] = {}
    for proxy in outbounds.proxies:
        edges[proxy.name] = [proxy.dialer_proxy] if proxy.dialer_proxy else []
    for provider in providers:
        dialers = {str(provider.override.fields.get("dialer-proxy", ""))} | {p.dialer_proxy for p in provider.payload}
        edges[f"provider {provider.name}"] = sorted(name for name in dialers if name)
        for name in sorted(dialers - outbounds.names - {""}):
            what = f"provider {provider.name!r} dials through {name[:60]!r}, which does not exist"
            top.error("proxy-providers", what + top.reader.near(name, outbounds.names))
    for group in outbounds.groups:
        edges[group.name] = [*group.members, *(f"provider {name}" for name in group.use)]
    circle = find_circle(edges)
    if circle is None:
        _check_depth(top, edges)
    else:
        key = "proxy-groups" if any(group.name in circle for group in outbounds.groups) else "proxies"
        top.error(key, f"these lead to one another in a circle: {' -> '.join(circle)[:500]}")


def _check_depth(top: Section, edges: Mapping[str, Sequence[str]]) -> None:
    """Groups within groups: each flow walks down all of them, so the depth has a limit."""
    deepest, depth = find_deepest(edges)
    if depth > MAX_DEPTH:
        top.error("proxy-groups", f"{deepest[:60]!r} leads through {depth} others; at most {MAX_DEPTH}")
