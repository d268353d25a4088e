"""One configuration of the name server made real: files read, names, policy and servers compiled.

A ``House`` is built beside the one that runs and asks no network, so it either comes out whole or raises
``ConfigFault`` and leaves no trace.  It holds decisions; what is learnt by living (the cache, lists, connections,
fake addresses) belongs to the server, which puts on one house after another.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from cyfs_ns.address import parse_address, parse_prefix
from cyfs_ns.config.dns import DnsConfig
from cyfs_ns.errors import ConfigFault
from cyfs_ns.filters import AnswerRules
from cyfs_ns.io.sources import is_local
from cyfs_ns.io.texts import lease_text, texts
from cyfs_ns.io.watch import Sign, signs_of
from cyfs_ns.leases import Lease, read_leases
from cyfs_ns.listcompile import compile_lists
from cyfs_ns.lists import ListSet
from cyfs_ns.local import LocalBuilder, LocalNames
from cyfs_ns.loops import own_doors
from cyfs_ns.names import is_ip
from cyfs_ns.policy import Policy
from cyfs_ns.routersets import SetRules
from cyfs_ns.sets import CidrSet
from cyfs_ns.special import designated
from cyfs_ns.splitdns import GeoIp, Servers, Sets, read_servers
from cyfs_ns.strategy import Strategy
from cyfs_ns.upstream import Group, parse_upstream
from cyfs_ns.zonefile import read_zone

SYSTEM_HOSTS = Path("/etc/hosts")

_MAX_FILE = 64 << 20
_DDR_TTL = 300


@dataclass(frozen=True, slots=True)
class House:
    """See the module's text."""

    config: DnsConfig
    local: LocalNames
    """Without leases."""
    servers: Servers
    client_groups: Mapping[str, Group]
    """Servers of clients that have their own, by the name of their view's group."""
    shelves: Mapping[Group, str]
    answers: AnswerRules
    sets: SetRules
    allowed: CidrSet
    denied: CidrSet
    watched: Mapping[Path, Sign]
    """Files whose change makes this house an old one, zones and hosts files, with their signs from before reading."""
    lease_files: tuple[Path, ...]

    def may_ask(self, ip: str, near: CidrSet) -> bool:
        """Whether a client at a canonical address is served at all; ``near`` is what is on our links."""
        place = parse_address(ip.partition("%")[0])
        if place is None:
            return False
        allowed = self.allowed.has(place) or (self.config.doors.allow_near and near.has(place))
        return allowed and not self.denied.has(place)

    def is_denied(self, ip: str) -> bool:
        """Whether a client at a canonical address is turned away by name."""
        place = parse_address(ip.partition("%")[0])
        return place is not None and self.denied.has(place)

    def shelf(self, group: Group) -> str:
        """What the answers of a group are kept under: another one for other servers, the same after a restart."""
        return self.shelves.get(group) or group.name

    def group(self, name: str, view_group: str) -> Group:
        """The servers for a canonical name, asked by a client of a view."""
        return self.servers.split.choose(name) or self.client_groups.get(view_group) or self.servers.standard


def build_house(
    config: DnsConfig,
    hosts: Mapping[str, tuple[str, ...]],
    *,
    sets: Sets | None = None,
    geoip: GeoIp | None = None,
) -> House:
    """Reads the files the configuration names.  Blocks on the disk.  Raises ``ConfigFault``."""
    servers = read_servers(config, sets=sets, geoip=geoip)
    groups = {}
    for name, servers_of in config.house.policy.servers:
        usable = tuple(upstream for upstream in map(parse_upstream, servers_of) if not upstream.why_not)
        if usable:
            weights = tuple(upstream.weight for upstream in usable)
            groups[name] = Group(f"client {name}", usable, Strategy(config.strategy, weights=weights))
    everybody = (*_groups(servers), *groups.values())
    faults = own_doors(
        (upstream for group in everybody for upstream in group.servers),
        (*config.doors.plain, *config.doors.tls),
        is_local,
    )
    if faults:
        raise ConfigFault("; ".join(faults))
    Policy(config.house.policy.views, ListSet(compile_lists(())))  # what is wrong with it must come out here
    local, watched = _local_names(config, hosts, servers.split.elsewhere)
    return House(
        config=config,
        local=local,
        servers=servers,
        client_groups=groups,
        shelves={group: _shelf(config, servers, group) for group in everybody},
        answers=_answer_rules(config),
        sets=SetRules(config.house.sets.rules, config.house.sets.lifetimes),
        allowed=networks_set(map(str, config.doors.allow_from)),
        denied=networks_set(map(str, config.doors.deny_from)),
        watched=watched,
        lease_files=tuple(map(Path, config.house.local.lease_files)),
    )


def _groups(servers: Servers) -> Iterable[Group]:
    yield from (servers.standard, *servers.split.groups, servers.proxy, servers.direct, servers.bootstrap)
    if servers.fallback is not None:
        yield servers.fallback


def _answer_rules(config: DnsConfig) -> AnswerRules:
    rules = config.house.answers.compiled()
    return rules if config.ipv6 or rules.family == "ipv6" else replace(rules, family="ipv4")


def _shelf(config: DnsConfig, servers: Servers, group: Group) -> str:
    said = f"{group.servers} {config.resolv_file}"
    if group is servers.standard and servers.fallback is not None:
        said += f"{servers.fallback.servers} {config.fallback_filter}"
    return f"{zlib.crc32(said.encode()):08x}"


def read_lease_files(paths: Iterable[Path]) -> list[Lease]:
    """The leases in files that may be missing, or in mid-write.  Blocks on the disk."""
    found: list[Lease] = []
    for path in paths:
        for text in [text for _, text in texts(path)] if path.is_dir() else [lease_text(str(path))]:
            found += read_leases(text)
    return found


def _local_names(
    config: DnsConfig, hosts: Mapping[str, tuple[str, ...]], elsewhere: Iterable[str]
) -> tuple[LocalNames, dict[Path, Sign]]:
    local = config.house.local
    files = [*map(Path, local.hosts_files), *([SYSTEM_HOSTS] if config.use_system_hosts else [])]
    signs = signs_of([*(path for _, path in local.zone_files), *files])
    builder = LocalBuilder(local.settings)
    for owner, rtype, ttl, data, _ in local.records:
        builder.record(owner, rtype, ttl, data)
    for record in _designated(config):
        builder.record(*record)
    for made in local.synthesised:
        builder.synthesise(made)
    for ours in local.ours:
        builder.interface(ours)
    for domain in elsewhere:
        builder.leave(domain)
    for origin, zone in local.zones:
        builder.zone(origin, zone)
    for origin, path in local.zone_files:
        try:
            builder.zone(origin, read_zone(_text(Path(path)), origin), source=path)
        except ConfigFault as fault:
            raise ConfigFault(f"{path}: {fault}") from None
    if config.use_hosts:
        builder.hosts({name: values if _are_addresses(values) else values[0] for name, values in hosts.items()})
    for file in files:
        for each, text in texts(file):  # what is not there may come later; the watch sees it
            builder.hosts_file(text, each)
    return builder.build(), signs


def _designated(config: DnsConfig) -> Iterable[tuple[bytes, int, int | None, bytes]]:
    """What clients of the plain doors are told of the encrypted ones (RFC 9462)."""
    doors = config.doors
    if not doors.names or not (doors.tls or doors.https):
        return ()
    name = next((name for name in doors.names if not _are_addresses((name,))), "")
    addresses = [address for address, _ in (*doors.tls, *doors.https) if address not in ("", "0.0.0.0", "::")]
    addresses += [name for name in doors.names if _are_addresses((name,))]
    if not name:
        return ()
    return designated(
        name,
        dict.fromkeys(addresses),
        tls_port=doors.tls[0][1] if doors.tls else 0,
        https_port=doors.https[0][1] if doors.https else 0,
        ttl=_DDR_TTL,
    )


def _are_addresses(values: tuple[str, ...]) -> bool:
    return all(map(is_ip, values))


def networks_set(networks: Iterable[str]) -> CidrSet:
    """Canonical prefixes, to be asked by address."""
    return CidrSet.of(prefix for network in networks if (prefix := parse_prefix(network)) is not None)


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_FILE:
            raise ConfigFault(f"{path}: more than {_MAX_FILE >> 20} MB")
        return path.read_text(errors="replace")
    except OSError as fault:
        raise ConfigFault(f"{path}: {fault.strerror or fault}") from None
