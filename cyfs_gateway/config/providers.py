"""``proxy-providers`` and ``rule-providers``: where proxies and rule sets come from, and what is done to them."""

from __future__ import annotations

import posixpath
from typing import Any, get_args

from cyfs_gateway.config.model import (
    HealthCheckConfig,
    ProviderType,
    ProxyOverride,
    ProxyProviderConfig,
    RuleBehavior,
    RuleFormat,
    RuleProviderConfig,
)
from cyfs_gateway.config.names import renamer
from cyfs_gateway.config.outbounds import expected_status, read_filter
from cyfs_gateway.rules.formats import inline_rule_set
from cyfs_ns.config.written import Section
from cyfs_ns.errors import BadWire, ConfigFault
from tunnels.spec import DEFAULT_TEST_URL

_OVERRIDE_FLAGS = ("tfo", "mptcp", "udp", "udp-over-tcp", "skip-cert-verify")
_OVERRIDE_TEXTS = ("up", "down", "dialer-proxy", "interface-name", "ip-version")


def read_proxy_provider(name: str, entry: Section, home: str) -> ProxyProviderConfig:
    """One entry of ``proxy-providers``, without its inline payload (``subscription.read_entries`` reads that)."""
    kind: ProviderType = entry.choice("type", get_args(ProviderType), "http")
    if not entry.has("type"):
        entry.needed("type")
    url, path = _where(entry, kind, home)
    wanted, unwanted, types = read_filter(entry)
    fields = _override_fields(entry)
    provider = ProxyProviderConfig(
        name=name,
        type=kind,
        url=url,
        path=path,
        interval=entry.seconds("interval"),
        proxy=entry.text("proxy"),
        size_limit=entry.integer("size-limit", 0, 0, 2**40),
        header=_header(entry),
        filter=wanted,
        exclude_filter=unwanted,
        exclude_type=types,
        override=_override(entry, fields),
        health_check=_health_check(entry),
    )
    if kind == "inline" and not entry.has("payload"):
        entry.error("payload", "'payload' is missing")
    entry.finish(("payload",))
    return provider


def read_rule_provider(name: str, entry: Section, home: str) -> RuleProviderConfig:
    """One entry of ``rule-providers``."""
    kind: ProviderType = entry.choice("type", get_args(ProviderType), "http")
    for key in ("type", "behavior"):
        if not entry.has(key):
            entry.needed(key)
    behavior: RuleBehavior = entry.choice("behavior", get_args(RuleBehavior), "domain")
    form: RuleFormat = entry.choice("format", get_args(RuleFormat), "yaml")
    if form == "mrs" and behavior == "classical" and kind != "inline":
        entry.error("format", "an mrs file holds domains or prefixes, never classical rules")
    url, path = _where(entry, kind, home)
    provider = RuleProviderConfig(
        name=name,
        type=kind,
        behavior=behavior,
        format=form,
        url=url,
        path=path,
        interval=entry.seconds("interval"),
        proxy=entry.text("proxy"),
        size_limit=entry.integer("size-limit", 0, 0, 2**40),
        header=_header(entry),
        payload=entry.texts("payload"),
    )
    if kind == "inline":
        _check_payload(entry, behavior)
    entry.finish()
    return provider


def _check_payload(entry: Section, behavior: RuleBehavior) -> None:
    """Name the lines that will be left out; none that is good is an error, as it is in a file."""
    if not entry.has("payload"):
        entry.error("payload", "'payload' is missing")
        return
    items = entry.items("payload")
    try:
        if not inline_rule_set((text for _, _, text in items), behavior).faults:
            return
    except BadWire as fault:
        entry.error("payload", str(fault))
        return
    for at, node, text in items:
        try:
            inline_rule_set((text,), behavior)
        except BadWire as fault:
            entry.reader.warn(at, node, f"{fault}; left out")


def home_path(entry: Section, key: str, home: str) -> str:
    """The path under ``key``, absolute; a fault when ``..`` or a leading ``/`` leads it out of the home directory.

    The shell repeats the check on the real path, since only it can see symbolic links.
    """
    written = entry.text(key)
    if not written:
        return ""
    path = posixpath.normpath(posixpath.join(home, written))
    base = posixpath.normpath(home).rstrip("/")
    if "\0" in written or not path.startswith(base + "/"):
        entry.error(key, f"the path {written[:60]!r} leads out of the home directory {home}")
        return ""
    return path


def _where(entry: Section, kind: str, home: str) -> tuple[str, str]:
    url = entry.url("url")
    path = home_path(entry, "path", home)
    if kind == "http" and not entry.has("url"):
        entry.error("url", "'url' is missing")
    if kind == "file" and not entry.has("path"):
        entry.error("path", "'path' is missing")
    return url, path


def _header(entry: Section) -> dict[str, tuple[str, ...]]:
    table = entry.table("header")
    if table is None:
        return {}
    found = {name: table.texts(name) for name in table}
    for name, values in found.items():
        if any(char in name + "".join(values) for char in "\r\n\0") or ":" in name:
            table.error(name, "this cannot be an HTTP header")
    return found


def _health_check(entry: Section) -> HealthCheckConfig:
    table = entry.table("health-check")
    if table is None:
        return HealthCheckConfig()
    usual = HealthCheckConfig()
    check = HealthCheckConfig(
        enable=table.flag("enable"),
        url=table.url("url", DEFAULT_TEST_URL) or DEFAULT_TEST_URL,
        interval=table.seconds("interval", usual.interval) or usual.interval,
        timeout=table.seconds("timeout", usual.timeout, unit="ms") or usual.timeout,
        lazy=table.flag("lazy", True),
        expected_status=expected_status(table),
    )
    table.finish()
    return check


def _override_fields(entry: Section) -> dict[str, Any]:
    dialer = entry.text("dialer-proxy")
    return {"dialer-proxy": dialer} if dialer else {}


def _override(entry: Section, fields: dict[str, Any]) -> ProxyOverride:
    table = entry.table("override")
    if table is None:
        return ProxyOverride(fields=fields)
    fields |= {key: table.flag(key) for key in _OVERRIDE_FLAGS if table.has(key)}
    fields |= {key: table.text(key) for key in _OVERRIDE_TEXTS if table.has(key)}
    if table.has("routing-mark"):
        fields["routing-mark"] = table.integer("routing-mark", 0, 0, 0xFFFFFFFF)
    names: list[tuple[str, str]] = []
    for change in table.tables("proxy-name"):
        pattern, target = change.needed("pattern"), change.text("target")
        try:
            renamer(pattern, target)
            names.append((pattern, target))
        except ConfigFault as fault:
            change.error("pattern", str(fault))
        change.finish()
    override = ProxyOverride(
        fields=fields,
        additional_prefix=table.text("additional-prefix"),
        additional_suffix=table.text("additional-suffix"),
        proxy_name=tuple(names),
    )
    table.finish()
    return override
