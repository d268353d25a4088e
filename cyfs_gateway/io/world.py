"""One configuration made real, without touching the world yet: outbounds, groups, providers, resolver, compiled rules.

A ``World`` is built beside the one that runs.  Building opens no listener and asks no server (but for a geo database
that is missing), so it either succeeds whole or raises ``ConfigFault`` and leaves no trace; the engine then adopts it
in one step.  ``run`` is its background: health checks and provider updates, which end with it.  What is learnt by
living (delays, choices) is handed on.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio

from cyfs_gateway.config.byrules import BY_RULES, by_rules
from cyfs_gateway.config.model import Config, UnsupportedProxy
from cyfs_gateway.config.sniffing import sniff_input
from cyfs_gateway.decide import Router
from cyfs_gateway.flow import Flow
from cyfs_gateway.host import Names
from cyfs_gateway.io.engine import Engine
from cyfs_gateway.io.fence import fenced
from cyfs_gateway.io.geodata import GeoFiles, MissingGeo
from cyfs_gateway.io.geodata import download as download_geo
from cyfs_gateway.io.providers import ProxyProvider, RuleProvider
from cyfs_gateway.netfilter import OWN_MARK
from cyfs_gateway.rules.table import RuleTable
from cyfs_gateway.sniff.policy import SniffPolicy
from cyfs_ns.config.dns import DnsConfig
from cyfs_ns.errors import ConfigFault, CyfsError, Unreachable
from cyfs_ns.hosts import Hosts, etc_hosts
from cyfs_ns.io.datagram import Datagrams
from cyfs_ns.io.dial import is_interface, plain_dial
from cyfs_ns.io.http import Response, fetch
from cyfs_ns.io.resolver import Resolver
from cyfs_ns.io.sources import is_local
from cyfs_ns.loops import own_doors
from cyfs_ns.names import is_ip
from cyfs_ns.special import IDENTITY_DOMAINS
from cyfs_ns.splitdns import SplitDns, read_servers
from cyfs_ns.upstream import Group as ServerGroup
from cyfs_ns.upstream import Upstream
from tunnels.endpoint import Endpoint, PacketEndpoint, Target
from tunnels.group import Health, choose_members
from tunnels.io.direct import Guard, Witness
from tunnels.io.groups import Group
from tunnels.io.health import Checker
from tunnels.io.leaf import Dialer, Leaf
from tunnels.io.registry import OutboundBuilder, Tunnels
from tunnels.io.stream import EndpointDatagrams, EndpointStream
from tunnels.outbound import FlowHint, Outbound
from tunnels.spec import (
    DialOptions,
    DirectSpec,
    GroupSpec,
    PassSpec,
    RejectDropSpec,
    RejectSpec,
    RtcpSpec,
)
from tunnels.status import StatusTable
from tunnels.url import TunnelUrl

if TYPE_CHECKING:
    from cyfs_gateway.peers import PeerRules
    from cyfs_ns.io.trusted.resolver import TrustedNames
    from tunnels.io.rtcp import Opener

_BUILT_IN: Final = (
    DirectSpec(name="DIRECT"),
    RejectSpec(name="REJECT"),
    RejectDropSpec(name="REJECT-DROP"),
    PassSpec(name="PASS"),
    DirectSpec(name="COMPATIBLE"),
)
_JITTER_SECONDS: Final = 0.5
_DOWNLOAD_SECONDS: Final = 60.0
_AGAIN_SECONDS: Final = 60.0

_log = logging.getLogger("cyfs.world")

ChooseInner = Callable[[Flow], Awaitable[Outbound]]
"""The way the rules choose for a flow of the gateway's own.  Raises ``Refused``."""


class Unsupported:
    """A proxy of a type this build lacks: it has its name in groups and lists, and every opening says what is wrong."""

    udp = False

    def __init__(self, proxy: UnsupportedProxy) -> None:
        self.name = proxy.name
        self.kind = _API_KINDS.get(proxy.type, proxy.type.capitalize())
        self._type = proxy.type

    def pick(self, hint: FlowHint) -> Outbound:
        return self

    async def open_stream(self, target: Target) -> Endpoint:
        raise Unreachable(f"{self.name}: this build does not carry {self._type} proxies", "unsupported_scheme")

    async def open_packets(self, target: Target) -> PacketEndpoint:
        raise Unreachable(f"{self.name}: this build does not carry {self._type} proxies", "unsupported_scheme")


_API_KINDS: Final = {"ss": "Shadowsocks", "ssr": "ShadowsocksR", "anytls": "AnyTLS", "wireguard": "WireGuard"}


class Questions(Protocol):
    """Our own name server: where questions of a client (its address, empty for ourselves) are answered, whoever they
    were sent to, and what documents say of hosts that are pinned."""

    def vouches(self, host: str, /) -> bool: ...
    async def vouched_addresses(self, host: str, /) -> Sequence[str] | None: ...
    async def open_stream(self, target: Target, source: str, /) -> Endpoint: ...
    async def open_packets(self, target: Target, source: str, /) -> PacketEndpoint: ...


def _nothing(host: str) -> Sequence[str]:
    return ()


def _ignored() -> None:
    return


@dataclass(frozen=True, slots=True)
class Around:
    """What surrounds every configuration and outlives each: modules' names and routes, the watch over our connects."""

    names: list[Names] = field(default_factory=list)
    house: Names = _nothing
    """Names of the house, from our own name server."""
    name_sets_changed: Callable[[], None] = _ignored
    """Rule sets that our own name server looks into have new content."""
    questions: Questions | None = None
    """The way to our own name server, for the outbound ``dns`` and for hosts that are pinned."""
    peers: Opener | None = None
    """What opens ways through tunnels of this device."""
    routes: dict[str, Outbound] = field(default_factory=dict)
    status: StatusTable = field(default_factory=StatusTable)
    """What is known of tunnel URLs."""
    guard: Guard | None = None
    witness: Witness | None = None
    """The engine's watch over our own connects, against loops."""


class World:
    """See the module's text; made by :func:`build_world`."""

    def __init__(self, config: Config, *, health: Health, choose_inner: ChooseInner, around: Around) -> None:
        self.config = config
        self._around = around
        self.health = health
        self.mark = config.routing_mark or (OWN_MARK if config.iptables.enable else 0)
        self._choose_inner = choose_inner
        self._home = Path(config.home)
        self.geo = GeoFiles(self._home, by_code=config.geo.dat_mode)
        self.outbounds: dict[str, Outbound] = {}
        self.groups: dict[str, Group] = {}
        self.checker = Checker(health, unified_delay=config.unified_delay)
        self.dns = by_rules(config.dns)
        """The section as our own name server takes it."""
        self._dns = self.dns if config.dns.enable else DnsConfig(use_hosts=config.dns.use_hosts)
        self._sites_needed: set[str] = set()
        self._name_sets: set[str] = set()
        self.name_servers = found = read_servers(self._dns, sets=self.name_set, geoip=self.is_in_country)
        self.resolver = self._make_resolver(found.standard, found.split)
        self._direct_resolver = self.resolver
        if (found.direct, found.direct_split) != (found.standard, found.split):
            self._direct_resolver = self._make_resolver(found.direct, found.direct_split)
        self._server_resolver = self.resolver
        if (found.proxy, found.proxy_split) != (found.standard, found.split):
            self._server_resolver = self._make_resolver(found.proxy, found.proxy_split)
        sniffer = sniff_input(config.sniffer)
        self.sniffer = SniffPolicy(sniffer) if sniffer.enable else None
        options = DialOptions(
            interface_name=config.interface_name,
            routing_mark=self.mark,
            ip_version="dual" if config.ipv6 else "ipv4",
            keep_alive=not config.keep_alive.disable,
            keep_alive_idle=int(config.keep_alive.idle),
            keep_alive_interval=int(config.keep_alive.interval),
            connect_timeout=config.timeouts.connect,
        )
        guard, witness = around.guard, around.witness
        self.tunnels = Tunnels(options, self._resolve_direct, around.status, guard=guard, witness=witness)
        for scheme in ("rtcp", "rudp") if around.peers is not None else ():
            self.tunnels.register(scheme, self._rtcp_way, ships=True)
        self.builder = OutboundBuilder(
            options=options,
            resolve=self._resolve_direct,
            resolve_server=self._server_resolver.addresses,
            find=self.find,
            tunnels=self.tunnels,
            rtcp=self._rtcp_proxy if around.peers is not None else None,
            guard=guard,
            witness=witness,
            dns_stream=around.questions.open_stream if around.questions is not None else None,
            dns_packets=around.questions.open_packets if around.questions is not None else None,
        )
        self.proxy_providers = {
            entry.name: ProxyProvider(entry, self._home, self.download, self._on_proxies)
            for entry in config.proxy_providers
        }
        self.rule_providers = {
            entry.name: RuleProvider(entry, self._home, self.download, self._on_rules, config.identity.bridges)
            for entry in config.rule_providers
        }
        self.provided: dict[str, dict[str, Outbound]] = {name: {} for name in self.proxy_providers}
        """What each proxy provider brought, by name."""
        self._make_outbounds()
        self._trusted: TrustedNames | None = None
        self.peer_rules: PeerRules | None = None
        """What peers may do; None: nothing."""
        self._compiled = False
        self.table: RuleTable
        self.router: Router

    # Names

    def _make_resolver(self, standard: ServerGroup, split: SplitDns) -> Resolver:
        config, dns = self.config, self._dns
        entries: dict[str, Any] = {}
        if dns.use_system_hosts:
            try:
                entries.update(etc_hosts(Path("/etc/hosts").read_text(errors="replace")))
            except OSError as fault:
                _log.debug("no system hosts: %s", fault)
        if dns.use_hosts:
            for name, value in config.hosts.items():
                entries[name] = value if len(value) != 1 or is_ip(value[0]) else value[0]

        plain = standard is self.name_servers.standard
        return Resolver(
            standard,
            bootstrap=self.name_servers.bootstrap.servers,
            hosts=Hosts(entries),
            ipv6=config.ipv6,
            policy=split.choose,
            fallback=self.name_servers.fallback if plain else None,
            suspicion=self.name_servers.suspicion if plain else None,
            dial=self.dial_server,
            open_datagrams=self.open_server_datagrams,
            mark=self.mark,
            interface=config.interface_name,
            ipv6_timeout=dns.ipv6_timeout,
            resolv_conf_path=dns.resolv_file or "/etc/resolv.conf",
            is_own=self._is_own,
        )

    def _is_own(self, server: Upstream) -> bool:
        """Whether a name server is our own, as that of a router's system often is: it would tell fake addresses."""
        return bool(own_doors([server], self._dns.doors.plain, is_local))

    def name_set(self, name: str) -> Callable[[str], bool]:
        """The set ``rule-set:NAME`` or ``geosite:CODE`` of names, whose content may come later.

        Raises ``ConfigFault``.
        """
        kind, _, what = name.partition(":")
        if kind == "geosite":
            self._sites_needed.add(what.lower())
            return lambda host: self.geo.site(what.lower()).match(host)
        entry = next((each for each in self.config.rule_providers if each.name == what), None)
        if kind != "rule-set" or entry is None:
            raise ConfigFault(f"dns: there is no rule provider {what[:60]!r}")
        if entry.behavior == "ipcidr":
            raise ConfigFault(f"dns: the rule provider {what[:60]!r} holds no names: its behavior is {entry.behavior}")
        self._name_sets.add(what)
        if entry.behavior == "classical":
            # Before there is a table nobody but this gateway asks: for the lists that the table is made of.
            return lambda host: self._compiled and self.table.set_has_name(what, host)

        def has(host: str) -> bool:
            domains = self.rule_providers[what].content.domains
            return domains is not None and domains.match(host)

        return has

    def is_in_country(self, ip: str, code: str) -> bool:
        """Whether an address lies in a country, by its code."""
        return code.lower() in self.geo.country(ip)

    def _look_at_geo(self) -> None:
        """Open what the name server will need.  Raises ``MissingGeo``."""
        for code in self._sites_needed:
            self.geo.site(code)
        if self._dns.fallback and self._dns.fallback_filter.geoip:
            self.geo.country("192.0.2.1")

    def peek(self, host: str) -> Sequence[str] | None:
        """Addresses of ``host`` as far as known here and now; None: wait for :meth:`resolve`."""
        return self._at_home(host) or (None if self._is_vouched(host) else self._direct_resolver.peek(host))

    async def resolve(self, host: str) -> Sequence[str]:
        """Addresses of ``host`` for the rules.  Raises ``Unreachable``."""
        return self._at_home(host) or await self._look_up(host, self.resolver)

    async def _resolve_direct(self, host: str) -> Sequence[str]:
        return self._at_home(host) or await self._look_up(host, self._direct_resolver)

    async def _look_up(self, host: str, resolver: Resolver) -> Sequence[str]:
        found = None
        if host.rpartition(".")[2] in IDENTITY_DOMAINS:
            from cyfs_ns.io.trusted.answers import addresses_of
            from cyfs_ns.trust.dnsview import Known

            found = await addresses_of(self.trusted, host, Known(bridges=self.config.identity.bridges))
        elif self._is_vouched(host) and self._around.questions is not None:
            found = await self._around.questions.vouched_addresses(host)
        return await resolver.addresses(host) if found is None else found

    def _is_vouched(self, host: str) -> bool:
        """Whether documents may say where ``host`` is, and clients of our name server hear that."""
        return self._around.questions is not None and self._around.questions.vouches(host)

    def _at_home(self, host: str) -> Sequence[str]:
        return self.registered(host) or self._around.house(host)

    def registered(self, host: str) -> Sequence[str]:
        """Addresses of a name that a module has registered."""
        return next((found for names in self._around.names if (found := names(host))), ())

    async def dial_server(self, host: str, port: int, via: str | None) -> trio.abc.Stream:
        """Streams for name servers: through the named outbound or interface, by the rules (``RULES``), or straight."""
        if not via or is_interface(via):
            return await plain_dial(mark=self.mark, interface=via or self.config.interface_name)(host, port, None)
        return await self.dial_by_rules(host, port, None if via == BY_RULES else via)

    async def open_server_datagrams(self, host: str, port: int, via: str) -> Datagrams:
        """Datagrams to a name server, by the same ways.  Raises ``Unreachable`` where they carry none."""
        target = Target(host, port)
        outbound = await self._choose("udp", target) if via == BY_RULES else self.find(via)
        return EndpointDatagrams(await outbound.open_packets(target), target)

    async def dial_by_rules(self, host: str, port: int, via: str | None) -> trio.abc.Stream:
        """Streams through the named outbound, or wherever the rules send such a flow."""
        target = Target(host, port)
        outbound = self.find(via) if via else await self._choose("tcp", target)
        return EndpointStream(await outbound.open_stream(target))

    async def _choose(self, network: str, target: Target) -> Outbound:
        name, address = ("", target.host) if is_ip(target.host) else (target.host, "")
        return await self._choose_inner(Flow(network, "Inner", "127.0.0.1", 0, name, address, target.port))

    async def _dial_directly(self, host: str, port: int, via: str | None) -> trio.abc.Stream:
        """Streams for what is needed before there are rules."""
        return EndpointStream(await self.outbounds["DIRECT"].open_stream(Target(host, port)))

    async def _download_early(self, url: str, *, max_bytes: int) -> Response:
        return await fetch(url, dial=self._dial_directly, max_bytes=max_bytes, timeout=_DOWNLOAD_SECONDS)

    async def download(
        self, url: str, *, via: str = "", headers: Sequence[tuple[str, str]] = (), max_bytes: int
    ) -> Response:
        """Fetch ``url``, bounded.  Raises ``CyfsError`` or ``OSError``."""
        return await fetch(
            url,
            dial=self.dial_by_rules,
            via=via or None,
            headers=headers,
            max_bytes=max_bytes,
            timeout=_DOWNLOAD_SECONDS,
            user_agent=self.config.global_ua or "cyfs-gateway (clash.meta)",
        )

    # Outbounds

    def _rtcp_way(self, url: TunnelUrl, dialer: Dialer | None) -> Dialer:
        from tunnels.io.rtcp import build_way

        assert self._around.peers is not None
        return build_way(self.tunnels, self._around.peers, self.config.identity.bridges, url, dialer)

    def _rtcp_proxy(self, spec: RtcpSpec, dialer: Dialer | None) -> Leaf:
        from tunnels.io.rtcp import RtcpProxy

        assert self._around.peers is not None
        return RtcpProxy(spec, self.tunnels, self._around.peers, self.config.identity.bridges, dialer)

    def find(self, name: str) -> Outbound:
        """Any outbound by name, providers' included.  Raises ``Unreachable``."""
        found = self.outbounds.get(name)
        if found is None:
            for brought in self.provided.values():
                if name in brought:
                    return brought[name]
            raise Unreachable(f"there is no outbound called {name!r}", "tunnel_open")
        return found

    def _make_outbounds(self) -> None:
        config = self.config
        for spec in (*_BUILT_IN, *config.proxies):
            self.outbounds[spec.name] = self.builder.build(spec)
        for missing in config.unsupported:
            self.outbounds[missing.name] = Unsupported(missing)
        compatible = self.outbounds["COMPATIBLE"]
        for group_spec in config.groups:
            group = Group(group_spec, self.health, compatible)
            self.groups[group.name] = self.outbounds[group.name] = group
        if "GLOBAL" not in self.outbounds:
            everything = tuple(name for name in self.outbounds if name not in ("PASS", "COMPATIBLE"))
            everybody = GroupSpec(name="GLOBAL", kind="select", members=everything)
            self.groups["GLOBAL"] = self.outbounds["GLOBAL"] = Group(everybody, self.health, compatible)
        for name in self.provided:
            self._fill_provider(name)
        self._fill_groups()

    def _fill_provider(self, name: str) -> None:
        content = self.proxy_providers[name].content
        brought: dict[str, Outbound] = {spec.name: self.builder.build(spec) for spec in content.proxies}
        for missing in content.unsupported:
            brought[missing.name] = Unsupported(missing)
        self.provided[name] = brought

    def _fill_groups(self) -> None:
        """Give every group its members, in the order Clash defines."""
        for group in self.groups.values():
            spec = group.spec
            written = {name: self.outbounds[name] for name in spec.members}
            users = self.provided if spec.include_all_providers else spec.use
            offered: dict[str, Outbound] = {}
            for provider in users:
                offered.update(self.provided.get(provider, {}))
            names = choose_members(
                spec,
                {name: outbound.kind for name, outbound in written.items()},
                {name: outbound.kind for name, outbound in offered.items()},
            )
            members = [written.get(name) or offered[name] for name in names]
            group.set_members(members, {member.name for member in members if isinstance(member, Unsupported)})

    def _on_proxies(self, provider: ProxyProvider) -> None:
        self._fill_provider(provider.name)
        self._fill_groups()
        self.forget_strangers()

    def forget_strangers(self) -> None:
        """Drop what was learnt of outbounds that are no more."""
        self.health.keep_only([*self.outbounds, *(name for brought in self.provided.values() for name in brought)])

    # Rules

    def _on_rules(self, provider: RuleProvider) -> None:
        if self._compiled:
            self.table.fill_set(provider.name, provider.content)  # tables of sub-rules share the sets
            if provider.name in self._name_sets:
                self._around.name_sets_changed()

    async def prepare(self, *, offline: bool) -> None:
        """Read what providers have on disk, get geo databases that are missing, then compile the rules.

        Raises ``ConfigFault``, also for a missing database when ``offline``.
        """
        for provider in (*self.proxy_providers.values(), *self.rule_providers.values()):
            await provider.start()
        config = self.config
        sets = {name: provider.content for name, provider in self.rule_providers.items()}

        def compile_rules() -> RuleTable:
            self._look_at_geo()
            if config.rtcp is not None:
                # The library for keys that it brings along is megabytes.
                from cyfs_gateway.peers import PeerRules

                rules = (*config.rules, *(rule for some in config.sub_rules.values() for rule in some))
                self.peer_rules = PeerRules(config.rtcp, rules, self.geo)
            return RuleTable.compile(config.rules, sub_rules=config.sub_rules, sets=sets, geo=self.geo)

        while True:
            try:
                self.table = await trio.to_thread.run_sync(compile_rules)
                break
            except MissingGeo as missing:
                if offline:
                    raise
                await download_geo(missing.name, self._home, config.geo, self._download_early)
        wanted = {listener.rule for listener in config.listeners if listener.rule}
        self.router = Router(
            mode=config.mode,
            table=self.table,
            tables={name: self.table.for_list(name) for name in wanted},
            outbounds=self.outbounds,
            find_process=config.find_process_mode,
            routes=self._around.routes,
            fence=fenced,
        )
        self._compiled = True

    def change_mode(self, config: Config) -> None:
        """Adopt a configuration that differs in mode and log level only."""
        self.config = config
        self.router.mode = config.mode

    def note_unreachable(self, chain: Sequence[str]) -> None:
        """A flow by these outbounds, leaf first, failed to open: enough of these make a group check its members."""
        for name in chain[1:]:
            if name in self.groups:
                self.groups[name].dial_failed()

    # Life

    def hand_to(self, engine: Engine, *, own_ports: frozenset[tuple[str, int]]) -> None:
        """Make ``engine`` decide by this world from now on."""
        config = self.config
        engine.adopt(
            router=self.router,
            peek=self.peek,
            resolve=self.resolve,
            sniffer=self.sniffer,
            timeouts=config.timeouts,
            own_ports=own_ports,
            intercepts=any(listener.kind in ("redir", "tproxy") for listener in config.listeners),
            mark=self.mark,
            on_unreachable=self.note_unreachable,
        )

    @property
    def trusted(self) -> TrustedNames:
        """Who knows who somebody is, by this configuration's name servers and outbounds; made when it is needed first.

        Where a name server runs here, ask its own: it knows its zones too.  Raises ``ConfigFault``.
        """
        if self._trusted is None:
            # Megabytes that only those need who ask for identities.
            from cyfs_ns.io.trusted.build import addresses_by, build_trusted
            from cyfs_ns.io.trusted.records import by_resolver

            identity = self.config.identity
            self._trusted = build_trusted(
                identity,
                self._home,
                records=by_resolver(self.resolver, identity.validators),
                addresses=addresses_by(lambda: self.resolver, self._at_home),
                dial=self.dial_by_rules,
                writes_behind=True,
            )
        return self._trusted

    async def run(self) -> None:
        """Health checks and updates, until cancelled."""
        async with trio.open_nursery() as nursery:
            for provider in (*self.proxy_providers.values(), *self.rule_providers.values()):
                nursery.start_soon(_keep_up, provider.keep_fresh)
            for place, group in enumerate(self.groups.values()):
                if group.spec.interval > 0:
                    nursery.start_soon(_keep_up, self.checker.keep_checking, group, place * _JITTER_SECONDS % 5)
            for name, provider in self.proxy_providers.items():
                if provider.config.health_check.enable:
                    nursery.start_soon(_keep_up, self.checker.keep_checking, _ProviderCheck(self, name), 1.0)
            await trio.sleep_forever()

    def close(self) -> None:
        """Let go of files; flows that still use this world's outbounds are not disturbed."""
        self.geo.close()


async def _keep_up(work: Callable[..., Awaitable[None]], *args: object) -> None:
    """Run background work that meets strangers' answers: what nobody foresaw there must not end the gateway."""
    while True:
        try:
            await work(*args)
            return
        except Exception:
            _log.exception("background work failed in a way nobody foresaw; it begins again in %g s", _AGAIN_SECONDS)
        await trio.sleep(_AGAIN_SECONDS)


class _ProviderCheck:
    """A proxy provider's own health check, in the shape that the checker takes."""

    def __init__(self, world: World, name: str) -> None:
        check = world.proxy_providers[name].config.health_check
        self.spec = GroupSpec(
            name=name,
            kind="url-test",
            url=check.url,
            interval=check.interval,
            timeout=check.timeout,
            lazy=check.lazy,
            expected_status=check.expected_status,
        )
        self.wants_check = trio.Event()
        self._world = world
        self._name = name

    @property
    def members(self) -> Sequence[Outbound]:
        return list(self._world.provided[self._name].values())

    def used_since_asked(self) -> bool:
        return any(
            member.name in self._world.provided[self._name]
            for group in self._world.groups.values()
            for member in group.members
        )


def instance_of(home: Path) -> str:
    """A short name for one home directory, for what must be told apart in the kernel."""
    return hashlib.sha256(str(home.absolute()).encode()).hexdigest()[:8]


async def build_world(
    config: Config, *, health: Health, choose_inner: ChooseInner, around: Around, offline: bool = False
) -> World:
    """Build a configuration; ``offline`` asks nobody for anything.  Raises ``ConfigFault``."""
    try:
        world = World(config, health=health, choose_inner=choose_inner, around=around)
        try:
            await world.prepare(offline=offline)
        except BaseException:
            world.close()
            raise
    except ConfigFault:
        raise
    except CyfsError as fault:
        raise ConfigFault(str(fault)) from fault
    return world
