"""One configuration of the name server made real: files read, names, policy and servers compiled.

A ``House`` is built beside the one that runs and asks no network, so it either comes out whole or raises
``ConfigFault`` and leaves no trace.  It holds decisions; what is learnt by living (the cache, lists, connections,
fake addresses) belongs to the server, which puts on one house after another.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cyfs_ns.address import parse_prefix
from cyfs_ns.config.dns import DnsConfig
from cyfs_ns.errors import ConfigFault
from cyfs_ns.filters import AnswerRules
from cyfs_ns.io.sources import is_local
from cyfs_ns.io.texts import lease_text, texts
from cyfs_ns.leases import Lease, read_leases
from cyfs_ns.local import LocalBuilder, LocalNames
from cyfs_ns.loops import own_doors
from cyfs_ns.names import is_ip
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
    answers: AnswerRules
    sets: SetRules
    allowed: CidrSet
    denied: CidrSet
    watched: tuple[Path, ...]
    """Files whose change makes this house an old one: zones and hosts files."""
    lease_files: tuple[Path, ...]

    def may_ask(self, ip: str) -> bool:
        """Whether a client at a canonical address is served at all."""
        address = ipaddress.ip_address(ip.partition("%")[0])
        place = (address.version, int(address))
        return self.allowed.has(place) and not self.denied.has(place)

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
    faults = own_doors(
        (upstream for group in _groups(servers) for upstream in group.servers),
        (*config.doors.plain, *config.doors.tls),
        is_local,
    )
    if faults:
        raise ConfigFault("; ".join(faults))
    groups = {}
    for name, servers_of in config.house.policy.servers:
        usable = tuple(upstream for upstream in map(parse_upstream, servers_of) if not upstream.why_not)
        groups[name] = Group(f"client {name}", usable, Strategy(config.strategy))
    local, watched = _local_names(config, hosts, servers.split.elsewhere)
    return House(
        config=config,
        local=local,
        servers=servers,
        client_groups=groups,
        answers=config.house.answers.compiled(),
        sets=SetRules(config.house.sets.rules, config.house.sets.lifetimes),
        allowed=_prefixes(config.doors.allow_from),
        denied=_prefixes(config.doors.deny_from),
        watched=watched,
        lease_files=tuple(map(Path, config.house.local.lease_files)),
    )


def _groups(servers: Servers) -> Iterable[Group]:
    yield from (servers.standard, *servers.split.groups, servers.proxy, servers.direct, servers.bootstrap)
    if servers.fallback is not None:
        yield servers.fallback


def read_lease_files(paths: Iterable[Path]) -> list[Lease]:
    """The leases in files that may be missing, or in mid-write.  Blocks on the disk."""
    found: list[Lease] = []
    for path in paths:
        for text in [text for _, text in texts(path)] if path.is_dir() else [lease_text(str(path))]:
            found += read_leases(text)
    return found


def _local_names(
    config: DnsConfig, hosts: Mapping[str, tuple[str, ...]], elsewhere: Iterable[str]
) -> tuple[LocalNames, tuple[Path, ...]]:
    local = config.house.local
    builder = LocalBuilder(local.settings)
    for owner, rtype, ttl, data, _ in local.records:
        builder.record(owner, rtype, ttl, data)
    for record in _designated(config):
        builder.record(*record)
    for made in local.synthesised:
        builder.synthesise(made)
    for domain in elsewhere:
        builder.leave(domain)
    for origin, zone in local.zones:
        builder.zone(origin, zone)
    watched = []
    for origin, path in local.zone_files:
        watched.append(Path(path))
        try:
            builder.zone(origin, read_zone(_text(Path(path)), origin), source=path)
        except ConfigFault as fault:
            raise ConfigFault(f"{path}: {fault}") from None
    if config.use_hosts:
        builder.hosts({name: values if _are_addresses(values) else values[0] for name, values in hosts.items()})
    files = [*map(Path, local.hosts_files), *([SYSTEM_HOSTS] if config.use_system_hosts else [])]
    for file in files:
        watched.append(file)
        for each, text in texts(file):  # what is not there may come later; the watch sees it
            builder.hosts_file(text, each)
    return builder.build(), tuple(watched)


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


def _prefixes(networks: Iterable[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> CidrSet:
    return CidrSet.of(prefix for network in networks if (prefix := parse_prefix(str(network))) is not None)


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_FILE:
            raise ConfigFault(f"{path}: more than {_MAX_FILE >> 20} MB")
        return path.read_text(errors="replace")
    except OSError as fault:
        raise ConfigFault(f"{path}: {fault.strerror or fault}") from None
