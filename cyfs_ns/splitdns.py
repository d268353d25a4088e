"""Which servers a name belongs to: Clash's policies and fallback, and dnsmasq's ``/domain/`` forms.

*Policies* (``nameserver-policy`` and its kin) are tried in the order of the file.  A key holds patterns split by commas
(:mod:`cyfs_ns.domains`), or after ``geosite:`` or ``rule-set:`` the names of sets.  Of patterns that follow each other
without a set between them the most specific wins, as in mihomo.

*Forms* are ``/lan/corp.example/192.168.1.1#5353@eth1@192.168.1.7``: the domains and all below them are asked of that
server alone.  The most specific domain wins; several forms for one domain give it several servers.  No server: such
names are never asked of anybody.  ``#``: the standard servers.  An empty domain (``//10.0.0.1``) stands for names
without a dot, ``/*corp/`` for every name that ends so, ``/#/`` for all names; no domain at all adds a standard server.
In place of dnsmasq's address any server may stand that :func:`cyfs_ns.upstream.parse_upstream` reads.

*Fallback*: questions about addresses go to ``nameserver`` and ``fallback`` together, and the answer of the first is
taken unless it is suspicious: none, or with an address that ``fallback-filter`` names.  A name may be marked to be
asked of ``fallback`` alone.  A name with servers of its own has nothing to do with this.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from cyfs_ns import names
from cyfs_ns.domains import DomainMap, bare_of, canonical
from cyfs_ns.errors import BadWire, ConfigFault
from cyfs_ns.purposes import Special, special
from cyfs_ns.strategy import Strategy
from cyfs_ns.upstream import SYSTEM, Group, Upstream, parse_upstream

if TYPE_CHECKING:
    from cyfs_ns.config.dns import DnsConfig, FallbackFilter

Matcher = Callable[[str], bool]
"""Whether a canonical name is in a set."""
Sets = Callable[[str], Matcher]
"""The set called ``geosite:cn`` or ``rule-set:mine``.  Raises ``ConfigFault``."""
GeoIp = Callable[[str, str], bool]
"""Whether an address lies in the country of that code."""

NOBODY = Group("local", ())
"""For names that are answered here or not at all."""

_SETS = ("geosite:", "rule-set:", "geoip:")


class SplitDns:
    """``choose`` is asked for every question; everything else is done once.  Raises ``ConfigFault``."""

    def __init__(
        self,
        policy: Sequence[tuple[str, Sequence[str]]] = (),
        forms: Sequence[str] = (),
        *,
        sets: Sets | None = None,
        strategy: Strategy | None = None,
    ) -> None:
        self._groups: dict[tuple[Upstream, ...], Group] = {}
        self._strategy = strategy or Strategy()
        self._steps: list[Callable[[str], Group | None]] = []
        self._policy_domains: tuple[str, ...] = ()
        self._compile_policy(policy, sets or _no_sets)
        self.standard: tuple[Upstream, ...] = ()
        """Servers of forms without a domain, for every name no other form has."""
        self._domains: dict[str, Group | None] = {}
        self._endings: dict[str, Group | None] = {}
        self._unqualified: tuple[Group | None] | None = None
        self._compile_forms(forms)

    @property
    def groups(self) -> tuple[Group, ...]:
        return tuple(self._groups.values())

    @property
    def elsewhere(self) -> tuple[str, ...]:
        """Domains with servers of their own, or sent to the standard ones (``#``): what is local above ends there."""
        forms = (domain for domain, group in self._domains.items() if group is not NOBODY and domain != "*")
        return (*forms, *self._policy_domains)

    def choose(self, name: str) -> Group | None:
        """The servers of a canonical name: a group, :data:`NOBODY`, or ``None`` for the standard ones."""
        for step in self._steps:
            found = step(name)
            if found is not None:
                return found
        return self._by_form(name) if self._domains or self._endings or self._unqualified else None

    def _compile_policy(self, policy: Sequence[tuple[str, Sequence[str]]], sets: Sets) -> None:
        patterns: dict[str, Group] = {}
        for key, servers in policy:
            group = self._group(parse_upstream(server) for server in servers)
            kind = next((kind for kind in _SETS if key.startswith(kind)), "")
            if not kind:
                patterns |= dict.fromkeys((pattern.strip() for pattern in key.split(",")), group)
                continue
            self._add_patterns(patterns)
            patterns = {}
            for word in key.removeprefix(kind).split(","):
                self._steps.append(_in_set(sets(kind + word.strip().removeprefix(kind)), group))
        self._add_patterns(patterns)

    def _add_patterns(self, patterns: dict[str, Group]) -> None:
        if patterns:
            self._steps.append(DomainMap(patterns).get)
            bare = (bare_of(canonical(pattern)) for pattern in patterns)
            self._policy_domains += tuple(domain for domain in bare if "*" not in domain)

    def _compile_forms(self, forms: Sequence[str]) -> None:
        servers: dict[str, list[Upstream]] = {}
        standard: set[str] = set()
        for form in forms:
            domains, server = _split_form(form)
            if not domains:
                if not server or server == "#":
                    raise ConfigFault(f"neither a domain nor a server: {form!r}")
                self.standard += (dnsmasq_server(server),)
            for domain in domains:
                listed = servers.setdefault(domain, [])
                if server == "#":
                    standard.add(domain)
                elif server:
                    listed.append(dnsmasq_server(server))
        for domain, listed in servers.items():
            group = self._group(listed) if listed else None if domain in standard else NOBODY
            if not domain:
                self._unqualified = (group,)
            elif domain.startswith("*"):
                self._endings[domain[1:]] = group
            else:
                self._domains[domain] = group

    def _by_form(self, name: str) -> Group | None:
        if self._unqualified is not None and "." not in name:
            return self._unqualified[0]
        ending = max((ending for ending in self._endings if name.endswith(ending)), key=len, default=None)
        rest = name
        while len(rest) >= len(ending or ""):
            if rest in self._domains:
                return self._domains[rest]
            _, dot, rest = rest.partition(".")
            if not dot:
                break
        return None if ending is None else self._endings[ending]

    def _group(self, servers: Iterable[Upstream]) -> Group:
        usable = tuple(dict.fromkeys(server for server in servers if not server.why_not))
        if not usable:
            return NOBODY
        group = self._groups.get(usable)
        if group is None:
            strategy = _weighed(self._strategy, usable)
            group = self._groups[usable] = Group(" ".join(map(str, usable)), usable, strategy)
        return group


def dnsmasq_server(text: str) -> Upstream:
    """``192.168.1.1#5353@eth1@192.168.1.7#99``, or whatever :func:`parse_upstream` reads.  Raises ``ConfigFault``."""
    if "://" in text or text.startswith("system"):
        return parse_upstream(text)
    address, *ways = text.split("@")
    host, _, port = address.partition("#")
    via, source = "", ("", 0)
    for way in ways:
        place, _, source_port = way.partition("#")
        if names.is_ip(place):
            source = (names.ip(place), _port(source_port, text))
        else:
            via = place
    plain = names.is_ip(host.partition("%")[0])
    try:
        name = names.ip(host.partition("%")[0]) + "".join(host.partition("%")[1:]) if plain else names.name(host)
    except BadWire as fault:
        raise ConfigFault(f"not a name server: {text!r}: {fault}") from None
    return Upstream(scheme="udp", host=name, port=_port(port, text) or 53, via=via, source=source)


def _port(digits: str, text: str) -> int:
    if not digits:
        return 0
    if not (digits.isascii() and digits.isdigit() and 0 < int(digits) <= 65535):
        raise ConfigFault(f"not a name server: {text!r}: no port {digits!r}")
    return int(digits)


def _split_form(form: str) -> tuple[list[str], str]:
    """The domains of a form, and its server as written."""
    if not form.startswith("/"):
        return [], form.strip()
    # The server may be a URL and hold slashes of its own; a domain never holds a colon.
    before, colon, after = form.partition("://")
    listed, _, server = before[1:].rpartition("/")
    found = []
    for domain in listed.split("/"):
        star = "*" if domain.startswith("*") else ""
        bare = domain.removeprefix("*") if star else domain.removeprefix(".")
        if domain == "#":
            found.append("*")
            continue
        try:
            # A leading dot after the star (/*.lan/: only below) is no name by itself.
            dot = "." if star and bare.startswith(".") else ""
            found.append(star + dot + (names.name(bare.removeprefix(".")) if bare else ""))
        except BadWire as fault:
            raise ConfigFault(f"{form!r}: {fault}") from None
    return found, (server + colon + after).strip()


def _in_set(matcher: Matcher, group: Group) -> Callable[[str], Group | None]:
    return lambda name: group if matcher(name) else None


def _no_sets(name: str) -> Matcher:
    raise ConfigFault(f"there is no set called {name!r} here")


_FAR: Final = (None, Special.DOCUMENTATION, Special.MANY, Special.CARRYING, Special.UNASSIGNED)
"""Addresses that no network of ours has: the rest is of no country, and honest servers of ours answer with it."""


class Suspicion:
    """``fallback-filter``, compiled: which names and which answers of ``nameserver`` are not trusted.

    ``geoip`` is needed when the filter names a country; without it that part is left out.
    """

    def __init__(self, written: FallbackFilter, *, sets: Sets | None = None, geoip: GeoIp | None = None) -> None:
        self._domains: DomainMap[bool] = DomainMap(dict.fromkeys(written.domain, True))
        self._sites = [(sets or _no_sets)(f"geosite:{site.removeprefix('geosite:')}") for site in written.geosite]
        self._networks = written.ipcidr
        self._geoip = geoip if written.geoip else None
        self._country = written.geoip_code

    def of_name(self, name: str) -> bool:
        """Whether only ``fallback`` may be asked for this name."""
        return self._domains.get(name) is not None or any(site(name) for site in self._sites)

    def of_addresses(self, addresses: Sequence[str]) -> bool:
        """Whether an answer with these addresses is dropped in favour of the fallback's."""
        return not addresses or any(map(self._odd, addresses))

    def _odd(self, text: str) -> bool:
        address = ipaddress.ip_address(text)
        if any(address in network for network in self._networks):
            return True
        return self._geoip is not None and special(address) in _FAR and not self._geoip(text, self._country)


@dataclass(frozen=True, slots=True)
class Servers:
    """All the servers of a configuration, and who asks which."""

    standard: Group
    split: SplitDns
    fallback: Group | None
    suspicion: Suspicion
    proxy: Group
    """For the names of proxies themselves."""
    proxy_split: SplitDns
    direct: Group
    """For names whose flows go out directly."""
    direct_split: SplitDns
    bootstrap: Group
    """Finds the servers that are given by name."""


def read_servers(config: DnsConfig, *, sets: Sets | None = None, geoip: GeoIp | None = None) -> Servers:
    """Compile the ``dns`` section.  Raises ``ConfigFault``.

    ``proxy-server-nameserver`` has its own policy and neither the common one nor ``fallback``; ``direct-nameserver``
    follows the common policy only if told so; where one of them is empty, the standard servers stand in.
    """
    strategy = Strategy(config.strategy)
    split = SplitDns(config.nameserver_policy, config.servers, sets=sets, strategy=strategy)
    alone = SplitDns()
    standard = _group("standard", (*config.nameserver,), split.standard, strategy)
    proxy, proxy_split, direct, direct_split = standard, split, standard, split
    if config.proxy_server_nameserver:
        proxy = _group("proxy-server", config.proxy_server_nameserver, (), strategy)
        proxy_split = SplitDns(config.proxy_server_nameserver_policy, sets=sets, strategy=strategy)
    if config.direct_nameserver:
        direct = _group("direct", config.direct_nameserver, (), strategy)
        direct_split = split if config.direct_nameserver_follow_policy else alone
    fallback = _group("fallback", config.fallback, (), strategy) if config.fallback else None
    return Servers(
        standard=standard,
        split=split,
        fallback=fallback,
        suspicion=Suspicion(config.fallback_filter, sets=sets, geoip=geoip),
        proxy=proxy,
        proxy_split=proxy_split,
        direct=direct,
        direct_split=direct_split,
        bootstrap=_group("bootstrap", config.default_nameserver, (), Strategy()),
    )


def _group(name: str, texts: Sequence[str], more: tuple[Upstream, ...], strategy: Strategy) -> Group:
    listed = (*(parse_upstream(text) for text in texts), *more)
    usable = tuple(dict.fromkeys(server for server in listed if not server.why_not))
    return Group(name, usable or (SYSTEM,), _weighed(strategy, usable))


def _weighed(strategy: Strategy, servers: tuple[Upstream, ...]) -> Strategy:
    return replace(strategy, weights=tuple(server.weight for server in servers))
