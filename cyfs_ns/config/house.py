"""The keys of the ``dns`` section that make it a home's server: names of the house, policy, what is done to answers.

Each part becomes the value its owner takes (``LocalSettings``, ``ViewSpec``, ``AnswerRules``, ``SetRule``), so what can
be wrong with it is told here, at its place in the file, and nobody parses text later.
"""

from __future__ import annotations

import datetime
import ipaddress
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias, TypeVar

from cyfs_ns.adblock import parse_rewrite
from cyfs_ns.address import parse_prefix
from cyfs_ns.blockanswer import MODES, BlockAnswer
from cyfs_ns.config.written import Network, Section, shown
from cyfs_ns.domains import DomainMap
from cyfs_ns.edns import Ecs, ecs_of
from cyfs_ns.errors import BadWire, ConfigFault
from cyfs_ns.filters import AliasRange, AnswerRules, Family, parse_addresses, parse_alias
from cyfs_ns.ifnames import InterfaceName, parse_dynamic_host, parse_interface_name
from cyfs_ns.listcompile import ListSource
from cyfs_ns.listlines import FORMATS, read_own
from cyfs_ns.local import LocalSettings
from cyfs_ns.message import rtype_number
from cyfs_ns.names import is_ip
from cyfs_ns.names import name as canonical_name
from cyfs_ns.policy import Pause, ViewSpec
from cyfs_ns.routersets import Lifetimes, SetRule, dnsmasq_ipset, dnsmasq_nftset
from cyfs_ns.schedule import Schedule, parse_window
from cyfs_ns.subnet import SubnetPolicy
from cyfs_ns.synth import Synthesised, parse_synth
from cyfs_ns.zonefile import Written, read_record, read_zone

Privacy: TypeAlias = Literal["full", "anonymous", "names", "none"]
T = TypeVar("T")

_PRIVACIES: tuple[Privacy, ...] = ("full", "anonymous", "names", "none")
_FAMILIES = ("both", "ipv4", "ipv6", "prefer-ipv4", "prefer-ipv6")
_LIST_NAME = re.compile(r"[^\s/\x00]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalConfig:
    """Names of the house as far as the configuration itself holds them."""

    settings: LocalSettings = field(default_factory=LocalSettings)
    records: tuple[Written, ...] = ()
    zones: tuple[tuple[str, tuple[Written, ...]], ...] = ()
    zone_files: tuple[tuple[str, str], ...] = ()
    """(origin, path)"""
    synthesised: tuple[Synthesised, ...] = ()
    ours: tuple[InterfaceName, ...] = ()
    hosts_files: tuple[str, ...] = ()
    lease_files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ListConfig:
    """One block, allow or rewrite list."""

    source: ListSource
    place: str
    """An http or https URL, or a path."""
    interval: float
    """Seconds between looks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyConfig:
    """Who may ask what."""

    lists: tuple[ListConfig, ...] = ()
    views: tuple[ViewSpec, ...] = (ViewSpec(name="everybody"),)
    """The first holds for everybody else."""
    servers: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Clients with servers of their own: (name of their group, servers)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswersConfig:
    """What is done to upstreams' answers, as ``AnswerRules`` has it; patterns and prefixes as text."""

    rebind: bool = False
    rebind_localhost: bool = False
    rebind_allow: tuple[str, ...] = ()
    bogus: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    aliases: tuple[AliasRange, ...] = ()
    family: Family = "both"
    dropped: frozenset[int] = frozenset()
    hints: bool = True
    ech: bool = True

    def compiled(self) -> AnswerRules:
        """The rules."""
        return AnswerRules(
            rebind=self.rebind,
            rebind_localhost=self.rebind_localhost,
            rebind_spared=DomainMap(dict.fromkeys(self.rebind_allow, True)),
            bogus=parse_addresses(self.bogus),
            ignored=parse_addresses(self.ignored),
            aliases=self.aliases,
            family=self.family,
            dropped=self.dropped,
            hints=self.hints,
            ech=self.ech,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SetsConfig:
    """Which answers feed which sets of the firewall."""

    rules: tuple[SetRule, ...] = ()
    lifetimes: Lifetimes = field(default_factory=Lifetimes)
    connmark: bool = False
    """Whether the mark of a client's connection goes on the questions asked for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig:
    """The query log."""

    privacy: Privacy = "none"
    max_bytes: int = 16 << 20
    statistics: Privacy = "full"
    """How much the top lists keep: no client below ``anonymous``, no name for ``none``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HouseConfig:
    """All of it."""

    local: LocalConfig = field(default_factory=LocalConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    answers: AnswersConfig = field(default_factory=AnswersConfig)
    subnet: SubnetPolicy = field(default_factory=SubnetPolicy)
    sets: SetsConfig = field(default_factory=SetsConfig)
    log: LogConfig = field(default_factory=LogConfig)


def read_house(section: Section, check_servers: Callable[[Section, str], tuple[str, ...]]) -> HouseConfig:
    """What the ``dns`` section says of these; ``check_servers`` reads a list of name servers under a key."""
    return HouseConfig(
        local=_local(section),
        policy=_policy(section, check_servers),
        answers=_answers(section),
        subnet=_subnet(section),
        sets=_sets(section),
        log=_log(section),
    )


# Names of the house


def _local(section: Section) -> LocalConfig:
    usual = LocalSettings()
    settings = LocalSettings(
        ttl=int(section.seconds("local-ttl", usual.ttl)),
        lease_ttl=int(section.seconds("lease-ttl")) if section.has("lease-ttl") else None,
        domain=_name(section, "domain"),
        domains=_domains(section),
        expand_hosts=section.flag("expand-hosts"),
        lease_short_names=section.flag("lease-short-names", True),
        local_domains=tuple(_each(section, "local-domains", lambda text: canonical_name(text) if text else "")),
        domain_needed=section.flag("domain-needed"),
        bogus_priv=section.flag("bogus-priv", True),
        special=section.flag("special-names", True),
        canary=section.flag("canary", True),
        mail=_mail(section),
        localise=section.flag("localise-queries"),
        version=section.text("version-text"),
        identity=section.text("identity-text"),
    )
    if settings.domain and settings.domain not in settings.local_domains:
        settings = replace(settings, local_domains=(*settings.local_domains, settings.domain))
    zones, zone_files = _zones(section)
    return LocalConfig(
        settings=settings,
        records=tuple(_each(section, "records", read_record)),
        zones=zones,
        zone_files=zone_files,
        synthesised=tuple(_each(section, "synth-domain", parse_synth)),
        ours=(
            *_each(section, "interface-name", parse_interface_name),
            *_each(section, "dynamic-host", parse_dynamic_host),
        ),
        hosts_files=section.texts("hosts-files"),
        lease_files=section.texts("lease-files"),
    )


def _mail(section: Section) -> str:
    return "self" if section.text("machine-mx") == "self" else _name(section, "machine-mx")


def _domains(section: Section) -> tuple[tuple[Network, str], ...]:
    """``domains``: prefix to the domain of the machines in it."""
    table = section.table("domains")
    found = []
    for prefix in table or ():
        assert table is not None
        try:
            found.append((ipaddress.ip_network(prefix.strip(), strict=False), _name(table, prefix)))
        except ValueError:
            table.error(prefix, f"expected a prefix such as 192.168.0.0/16, found {prefix[:60]!r}")
    return tuple(found)


def _zones(section: Section) -> tuple[tuple[tuple[str, tuple[Written, ...]], ...], tuple[tuple[str, str], ...]]:
    """``zones``: origin to lines of a zone file, or to ``{file: PATH}``."""
    table = section.table("zones")
    zones, files = [], []
    for origin in table or ():
        assert table is not None
        try:
            name = canonical_name(origin)
        except BadWire as fault:
            table.error(origin, str(fault))
            continue
        from_file = table.table(origin) if _is_mapping(table, origin) else None
        if from_file is not None:
            files.append((name, from_file.needed("file")))
            from_file.finish()
            continue
        lines = "\n".join(table.texts(origin))
        try:
            zones.append((name, read_zone(lines, name)))
        except (ConfigFault, BadWire) as fault:
            table.error(origin, str(fault))
    return tuple(zones), tuple(files)


def _is_mapping(table: Section, key: str) -> bool:
    node = table.node(key)
    return node is not None and hasattr(node, "places")


# Policy


def _policy(section: Section, check_servers: Callable[[Section, str], tuple[str, ...]]) -> PolicyConfig:
    lists = tuple(
        found for name, table in section.named_tables("lists") if (found := _list(section, name, table)) is not None
    )
    known = {each.source.name for each in lists}
    everybody = ViewSpec(
        name="everybody",
        lists=tuple(each.source.name for each in lists),
        block=tuple(_each(section, "block", _own_pattern)),
        allow=tuple(_each(section, "allow", _own_pattern)),
        rewrites=_rewrites(section),
        answer=_block_answer(section, BlockAnswer()),
    )
    zone = _zone(section)
    views, servers = [everybody], []
    for table in section.tables("clients"):
        view = _view(table, everybody, known, zone)
        own = check_servers(table, "nameserver")
        if own:
            view = replace(view, group=view.name)
            servers.append((view.name, own))
        views.append(view)
        table.finish()
    names = [view.name for view in views]
    for name in sorted({name for name in names if names.count(name) > 1}):
        section.error("clients", f"two clients are called {name[:60]!r}")
    return PolicyConfig(lists=lists, views=tuple(views), servers=tuple(servers))


def _list(section: Section, name: str, table: Section) -> ListConfig | None:
    if not _LIST_NAME.fullmatch(name):
        section.error("lists", f"{name[:60]!r} cannot be the name of a list: no spaces, no slashes, 64 letters at most")
        return None
    url, path = table.url("url"), table.text("path")
    action = table.choice("action", ("block", "allow", "rewrite"), "block")
    found = ListConfig(
        source=ListSource(
            name=name,
            format=table.choice("format", FORMATS, "auto"),  # type: ignore[arg-type] # FORMATS are those of Format
            allow=action == "allow",
            rewrites=action == "rewrite",
        ),
        place=url or path,
        interval=max(60.0, table.seconds("interval", 86400.0)),
    )
    table.finish()
    if bool(url) == bool(path):
        table.error("url", "a list has either a 'url' or a 'path'")
        return None
    return found


def _view(table: Section, usual: ViewSpec, lists: Iterable[str], zone: datetime.tzinfo) -> ViewSpec:
    name = table.needed("name")
    chosen = table.texts("lists") if table.has("lists") else usual.lists
    for wrong in [each for each in chosen if each not in lists]:
        table.error("lists", f"there is no list {wrong[:60]!r}{table.reader.near(wrong, lists)}")
    pauses = []
    for pause in table.tables("schedule"):
        made = _pause(pause, zone, lists)
        if made is not None:
            pauses.append(made)
    match = tuple(_each(table, "match", _client))
    if not table.has("match"):
        table.error("match", "a client needs 'match': addresses, prefixes, MAC addresses or names")
    return ViewSpec(
        name=name,
        match=match,
        tags=table.texts("tags"),
        lists=tuple(each for each in chosen if each in lists),
        block=tuple(_each(table, "block", _own_pattern)),
        allow=tuple(_each(table, "allow", _own_pattern)),
        rewrites=_rewrites(table),
        pauses=tuple(pauses),
        answer=_block_answer(table, usual.answer),
        refuse=table.flag("refuse"),
    )


def _pause(table: Section, zone: datetime.tzinfo, lists: Iterable[str]) -> Pause | None:
    days = table.texts("days") or ("daily",)
    begin, end = table.text("from", "00:00"), table.text("to", "24:00")
    chosen = table.texts("lists") if table.has("lists") else None
    name = table.text("name")
    for wrong in [each for each in chosen or () if each not in lists]:
        table.error("lists", f"there is no list {wrong[:60]!r}{table.reader.near(wrong, lists)}")
    table.finish()
    try:
        return Pause(when=Schedule((parse_window(days, begin, end),), zone), lists=chosen, name=name)
    except ConfigFault as fault:
        table.error("days", str(fault))
        return None


def _rewrites(section: Section) -> dict[str, tuple[str, ...]]:
    table = section.table("rewrites")
    found = {}
    for pattern in table or ():
        assert table is not None
        found[pattern] = tuple(_each(table, pattern, _rewrite))
        try:
            read_own(pattern)
        except ConfigFault as fault:
            table.error(pattern, str(fault))
    return found


def _own_pattern(text: str) -> str:
    read_own(text)
    return text


def _rewrite(text: str) -> str:
    parse_rewrite(text)
    return text


def _client(text: str) -> str:
    if "/" in text and parse_prefix(text) is None:
        raise ConfigFault("not a prefix: write 192.0.2.0/24 or 2001:db8::/32")
    return text


def _block_answer(section: Section, usual: BlockAnswer) -> BlockAnswer:
    """``block-answer``: a mode, an address, a list of addresses, or all of it in a mapping."""
    if not section.has("block-answer"):
        return usual
    if _is_mapping(section, "block-answer"):
        table = section.table("block-answer")
        assert table is not None
        addresses = table.texts("addresses")
        found = replace(
            usual,
            mode=table.choice("mode", MODES, "address" if addresses else usual.mode),  # type: ignore[arg-type]
            addresses=addresses,
            ttl=int(table.seconds("ttl", usual.ttl)),
            explain=table.flag("explain", usual.explain),
        )
        table.finish()
        where, given = table, addresses
    else:
        words = section.texts("block-answer")
        if len(words) == 1 and words[0].lower() in MODES:
            return replace(usual, mode=words[0].lower())  # type: ignore[arg-type] # MODES are those of Mode
        found, where, given = replace(usual, mode="address", addresses=words), section, words
    if not all(map(is_ip, given)) or (found.mode == "address" and not given):
        where.error("block-answer", f"expected one of {', '.join(MODES)}, or addresses")
        return usual
    return found


def _zone(section: Section) -> datetime.tzinfo:
    name = section.text("time-zone")
    if not name:
        return LOCAL_TIME
    import zoneinfo  # half a megabyte that few need

    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        section.error("time-zone", f"no time zone is called {name[:60]!r}; write one such as Europe/Berlin")
    return LOCAL_TIME


class _LocalTime(datetime.tzinfo):
    """The zone of this machine, whatever it is at that moment."""

    def utcoffset(self, when: datetime.datetime | None) -> datetime.timedelta:
        given = datetime.datetime(2000, 1, 1) if when is None else when.replace(tzinfo=None)
        return given.astimezone().utcoffset() or datetime.timedelta()

    def dst(self, when: datetime.datetime | None) -> datetime.timedelta:
        return datetime.timedelta()

    def tzname(self, when: datetime.datetime | None) -> str:
        return "local"

    def fromutc(self, when: datetime.datetime) -> datetime.datetime:
        return when.replace(tzinfo=datetime.UTC).astimezone().replace(tzinfo=self)


LOCAL_TIME = _LocalTime()


# Answers


def _answers(section: Section) -> AnswersConfig:
    return AnswersConfig(
        rebind=section.flag("rebind-protection"),
        rebind_localhost=section.flag("rebind-localhost"),
        rebind_allow=_checked(section, "rebind-allow", lambda texts: DomainMap(dict.fromkeys(texts, True))),
        bogus=_checked(section, "bogus-nxdomain", parse_addresses),
        ignored=_checked(section, "ignore-address", parse_addresses),
        aliases=tuple(_each(section, "alias", parse_alias)),
        family=section.choice("family", _FAMILIES, "both"),  # type: ignore[arg-type] # those of Family
        dropped=frozenset(_each(section, "filter-types", rtype_number)),
        hints=section.flag("svcb-hints", True),
        ech=section.flag("svcb-ech", True),
    )


def _subnet(section: Section) -> SubnetPolicy:
    usual = SubnetPolicy()
    if not _is_mapping(section, "client-subnet"):
        return SubnetPolicy(mode=section.choice("client-subnet", ("strip", "pass", "add"), usual.mode))
    table = section.table("client-subnet")
    assert table is not None
    fixed: list[Ecs] = []
    for network in table.prefixes("fixed"):
        fixed.append(ecs_of(network.network_address.packed, network.prefixlen))
    found = SubnetPolicy(
        mode=table.choice("mode", ("strip", "pass", "add"), "add"),
        fixed=tuple(fixed),
        bits4=table.integer("ipv4-bits", usual.bits4, 0, 32),
        bits6=table.integer("ipv6-bits", usual.bits6, 0, 128),
    )
    table.finish()
    return found


def _sets(section: Section) -> SetsConfig:
    rules = (*_each(section, "nftset", dnsmasq_nftset), *_each(section, "ipset", dnsmasq_ipset))
    usual = Lifetimes()
    lifetimes = usual
    table = section.table("set-timeout")
    if table is not None:
        try:
            lifetimes = Lifetimes(
                margin=int(table.seconds("margin", usual.margin)),
                low=int(table.seconds("min", usual.low)),
                high=int(table.seconds("max", usual.high)),
            )
        except ConfigFault as fault:
            section.error("set-timeout", str(fault))
        table.finish()
    return SetsConfig(rules=rules, lifetimes=lifetimes, connmark=section.flag("connmark"))


def _log(section: Section) -> LogConfig:
    table = section.table("query-log")
    if table is None:
        return LogConfig()
    privacy = table.choice("privacy", _PRIVACIES, "full")
    found = LogConfig(
        privacy=privacy,
        max_bytes=table.size("max-size", LogConfig().max_bytes),
        statistics=table.choice("statistics", _PRIVACIES, privacy),
    )
    table.finish()
    return found


def _each(section: Section, key: str, read: Callable[[str], T]) -> Iterable[T]:
    """Every text of a list, read; what cannot be is a fault at its place."""
    for at, node, text in section.items(key):
        try:
            yield read(text.strip())
        except (ConfigFault, BadWire) as fault:
            section.reader.error(at, node, f"{shown(node)}: {fault}")


def _checked(section: Section, key: str, make: Callable[[tuple[str, ...]], object]) -> tuple[str, ...]:
    """The texts under a key, if ``make`` takes them."""
    texts = section.texts(key)
    try:
        make(texts)
    except (ConfigFault, BadWire) as fault:
        section.error(key, str(fault))
        return ()
    return texts


def _name(section: Section, key: str) -> str:
    text = section.text(key)
    try:
        return canonical_name(text) if text else ""
    except BadWire as fault:
        section.error(key, str(fault))
        return ""
