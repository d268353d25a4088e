"""From bytes to a ``Config``, or to everything that is wrong with them.  Pure: environment and files are handed in.

Reading goes in three turns: the YAML tree (``source``), each section by what belongs in it (``written`` and the modules
named after sections), then what only the whole can show: names that exist and are unique, circles, ports taken twice.
A change by the control API lays its keys over the *written* tree and is read again from there, so it passes the same
checks as a file.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args

from cyfs_gateway.config.byrules import check_by_rules
from cyfs_gateway.config.control import read_control
from cyfs_gateway.config.general import (
    read_find_process,
    read_geo,
    read_iptables,
    read_keep_alive,
    read_log_level,
    read_profile,
    read_timeouts,
    warn_of_absent_parts,
)
from cyfs_gateway.config.listeners import Placed, read_listeners, read_shared
from cyfs_gateway.config.model import Config, Loaded, Mode
from cyfs_gateway.config.outbounds import check_name, interface_name
from cyfs_gateway.config.providers import read_proxy_provider, read_rule_provider
from cyfs_gateway.config.roster import check_circles, read_roster, with_payload
from cyfs_gateway.config.rtcp import read_rtcp, read_rtcp_listen
from cyfs_gateway.config.rulelists import RuleLists, read_rules
from cyfs_gateway.config.sniffing import read_sniffer
from cyfs_ns.config.dns import read_dns, read_hosts
from cyfs_ns.config.identity import read_identity
from cyfs_ns.config.source import BadYaml, Map, parse_yaml, tree_of
from cyfs_ns.config.written import Reader, ReadFile, Section, shown
from cyfs_ns.errors import Misuse

DEFAULT_YAML = b"mixed-port: 7890\nmode: rule\nrules: ['MATCH,DIRECT']\n"
"""What runs when there is no file."""

_PATCHABLE = frozenset(
    (
        *("port", "socks-port", "mixed-port", "redir-port", "tproxy-port", "mode", "log-level", "allow-lan", "ipv6"),
        *("bind-address", "sniffing", "interface-name", "tcp-concurrent", "find-process-mode", "tun"),
        *("skip-auth-prefixes", "lan-allowed-ips", "lan-disallowed-ips", "unified-delay"),
    )
)
_READ_PAST = ("clash-for-android", "global-client-fingerprint")
"""Keys of Clash's that ask nothing of this program."""


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """What was written and what is needed to read it again."""

    root: Map
    home: str
    environ: Mapping[str, str] | None
    read_file: ReadFile | None
    module_sections: frozenset[str]


def load(
    data: bytes,
    *,
    home: str,
    environ: Mapping[str, str] | None = None,
    read_file: ReadFile | None = None,
    module_sections: Collection[str] = (),
) -> Loaded:
    """Read a whole configuration.  Never raises.

    ``home`` is the absolute state directory.  Without ``environ`` or ``read_file``, ``!env`` or ``!file`` are faults:
    give neither for a text that came over the network.  ``module_sections`` are the names of sections that modules read
    for themselves; they arrive as plain data in ``Config.modules``.
    """
    try:
        root, second = parse_yaml(data)
    except BadYaml as bad:
        reader = Reader()
        reader.note("/", bad.line, bad.column, bad.message)
        return Loaded(None, reader.faults())
    if root is None:
        root = Map({}, 1, 1)
    reader = Reader(environ, read_file)
    if not isinstance(root, Map):
        reader.error("/", root, f"expected a mapping, found {shown(root)}")
        return Loaded(None, reader.faults())
    source = Source(root, home, environ, read_file, frozenset(module_sections))
    if second:
        reader.note("/", second, 1, "a second document starts here; only the first is read", warning=True)
    if not root.items:
        reader.warn("/", root, "the file says nothing; every setting is at its default")
    return _read(source, reader, None)


def load_default(home: str) -> Loaded:
    """What runs without any file: a mixed listener on loopback, everything direct."""
    return load(DEFAULT_YAML, home=home)


def patched(loaded: Loaded, changes: Mapping[str, Any]) -> Loaded:
    """``loaded`` with some top-level keys changed, as PATCH /configs does; its faults are those of the new whole.

    ``sniffing`` stands for ``sniffer.enable``; mappings such as ``tun`` are laid over what is there.  A key that cannot
    change at run time is passed over with a warning.  Rules are taken over as they were read.
    """
    source, config = loaded.source, loaded.config
    if source is None or config is None:
        raise Misuse("only a configuration that loaded can be patched")
    reader = Reader(source.environ, source.read_file)
    root = replace(source.root, items=dict(source.root.items))
    for key, value in changes.items():
        if key not in _PATCHABLE:
            reader.note(f"/{key}", 0, 0, f"{key[:60]!r} cannot be changed at run time; left as it is", warning=True)
            continue
        if key == "tun" and isinstance(value, Mapping) and value.get("enable") is True:
            # In a file this is a warning, for the file may be made for others too; here somebody waits for it to work.
            reader.note("/tun/enable", 0, 0, "this build carries no TUN")
            return Loaded(None, reader.faults(), source)
        where, what = ("sniffer", {"enable": value}) if key == "sniffing" else (key, value)
        try:
            node = tree_of(what)
        except BadYaml as bad:
            reader.note(f"/{key}", 0, 0, bad.message)
            return Loaded(None, reader.faults(), source)
        before = root.items.get(where)
        if isinstance(node, Map) and isinstance(before, Map):
            node = replace(before, items=before.items | node.items)
        root.items[where] = node
    return _read(replace(source, root=root), reader, (config.rules, dict(config.sub_rules)))


def _read(source: Source, reader: Reader, kept: RuleLists | None) -> Loaded:
    top = Section(reader, source.root, "")
    home = source.home
    ipv6 = top.flag("ipv6", True)
    shared = read_shared(top, ipv6)
    placed = read_listeners(top, shared, read_rtcp_listen(top, shared))
    control = read_control(top, home, placed)
    proxy_providers = [(n, e, read_proxy_provider(n, e, home)) for n, e in top.named_tables("proxy-providers")]
    rule_providers = [(n, e, read_rule_provider(n, e, home)) for n, e in top.named_tables("rule-providers")]
    outbounds = read_roster(top, [name for name, _, _ in proxy_providers])
    identity = read_identity(top)
    if kept is None:
        rules, sub_rules = read_rules(top, outbounds.names, {name for name, _, _ in rule_providers}, identity.bridges)
    else:
        rules, sub_rules = kept
        top.node("rules"), top.node("sub-rules")
    providers = tuple(with_payload(entry, provider) for _, entry, provider in proxy_providers)
    for provided in (proxy_providers, rule_providers):
        for _, entry, _ in provided:
            check_name(entry, "proxy", outbounds.names, outbounds.names, "proxy or group")
    _check_listeners(placed, outbounds.names, sub_rules)
    check_circles(top, outbounds, providers)
    config = Config(
        home=home,
        control=control,
        mode=top.choice("mode", get_args(Mode), "rule"),
        log_level=read_log_level(top),
        ipv6=ipv6,
        allow_lan=shared.allow_lan,
        bind_address=shared.bind_address,
        listeners=tuple(one.listener for one in placed),
        users=shared.users,
        skip_auth_prefixes=shared.skip_auth_prefixes,
        lan_allowed_ips=shared.allowed,
        lan_disallowed_ips=shared.disallowed,
        proxies=tuple(outbounds.proxies),
        unsupported=tuple(outbounds.unsupported),
        groups=tuple(outbounds.groups),
        proxy_providers=providers,
        rule_providers=tuple(provider for _, _, provider in rule_providers),
        rules=rules,
        sub_rules=sub_rules,
        hosts=read_hosts(top),
        dns=read_dns(top),
        identity=identity,
        rtcp=read_rtcp(top, home, identity.bridges),
        sniffer=read_sniffer(top),
        find_process_mode=read_find_process(top),
        tcp_concurrent=top.flag("tcp-concurrent"),
        unified_delay=top.flag("unified-delay"),
        interface_name=interface_name(top),
        routing_mark=top.integer("routing-mark", 0, 0, 0xFFFFFFFF),
        keep_alive=read_keep_alive(top),
        timeouts=read_timeouts(top),
        profile=read_profile(top),
        geo=read_geo(top),
        iptables=read_iptables(top),
        global_ua=top.text("global-ua"),
        modules={
            name: reader.plain(top.at(name), node)
            for name in sorted(source.module_sections)
            if (node := top.node(name)) is not None
        },
    )
    check_by_rules(top, config.dns)
    warn_of_absent_parts(top)
    top.finish(_READ_PAST)
    return Loaded(None if reader.errors else config, reader.faults(), source)


def _check_listeners(placed: list[Placed], names: Collection[str], sub_rules: Collection[str]) -> None:
    for section in {id(one.section): one.section for one in placed if one.section.path}.values():
        check_name(section, "proxy", names, names, "proxy or group")
        if section.path.startswith("/listeners"):
            check_name(section, "rule", sub_rules, sub_rules, "sub-rule list")
