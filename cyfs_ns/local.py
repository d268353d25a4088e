"""The names of the house: what the owner wrote, what hosts files say, who is at home.

Who wins, where several sources know a name:

1. Exact names beat names made from addresses, which beat wildcards; of wildcards and zones the longer beats the
   shorter.
2. For one exact name, *records* (also those of zones) beat ``hosts:``, which beats *hosts files* in their order, which
   beat *leases*.  Addresses and aliases are one matter: a source that has either for a name hides those of the sources
   below it, of both families, so a guest's machine that calls itself ``nas`` never joins the owner's ``nas``.  Other
   types add up.
3. Inside a local zone what is not there is answered so: NODATA where the name, or one below it, exists; NXDOMAIN
   else.  Outside of zones a name with written addresses has *only* those (the other family and the hints of HTTPS and
   SVCB are NODATA, or clients would walk round what was written); all else is asked upstream.
4. Where somebody else is to be asked (``leave``, or NS records below a zone's apex), zones and wildcards end.

Wildcards of records are those of RFC 4592: ``*`` is the first label, stands for one or more, and an existing name
below its parent hides it.  Wildcards of ``hosts:`` are Clash's (:mod:`cyfs_ns.domains`).  Aliases are followed as long
as they stay in the house; :class:`Alias` hands the rest of the way over.

Each address gets a reverse record (RFC 1035 section 3.5), which lasts as long: the name that stands first for it in the
best source.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from cyfs_ns import names
from cyfs_ns.domains import DomainMap, bare_of, canonical
from cyfs_ns.errors import BadWire, ConfigFault
from cyfs_ns.hosts import HostValue, hosts_lines
from cyfs_ns.ifnames import InterfaceName
from cyfs_ns.leases import Lease, by_name, living
from cyfs_ns.links import Home
from cyfs_ns.message import AAAA, CNAME, MX, NS, PTR, SOA, SRV, TXT, A, reverse_name
from cyfs_ns.query import NOERROR, NXDOMAIN, SERVFAIL
from cyfs_ns.records import DNAME, DS, HINFO, HTTPS, SVCB, data_wire, txt_data
from cyfs_ns.reply import Reply, make_reply, records, rewritten
from cyfs_ns.special import (
    CANARY,
    HOME,
    LOOPBACK_NAMES,
    SPECIAL_ZONES,
    address_data,
    private_reverse_zones,
)
from cyfs_ns.synth import Synthesised
from cyfs_ns.wire import Record, name_text, name_wire
from cyfs_ns.zonefile import Written

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

ANY = 255
_IN, _CH = b"\0\1", b"\0\3"
_ADDRESSES = (A, AAAA)
_ADDRESS_MATTERS = frozenset({A, AAAA, CNAME})
_BESIDE_ADDRESSES = frozenset({A, AAAA, HTTPS, SVCB})
_TARGET_AT = {NS: 0, MX: 2, SRV: 6, SVCB: 2, HTTPS: 2}
_MAX_NAME = 253
_MAX_ALIASES = 16
_MAX_ADDITIONAL = 16
_ANY_ANSWER = data_wire(HINFO, 'RFC8482 ""')
_NO_PTR = frozenset({"0.0.0.0", "::", "127.0.0.1", "::1"})  # block lists write these beside a million names
_LOOPBACK = ("127.0.0.1", "::1")
_STAR = b"\1*"
_NOBODYS_SOA = data_wire(SOA, "localhost. nobody.invalid. 1 3600 1200 604800 0")[:-4]


class Alias(NamedTuple):
    """The way leads out of the house: ask for ``target``, and give its answer after ``answer``."""

    target: bytes
    answer: tuple[Record, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalSettings:
    """How local names behave.  Domains are canonical, times are seconds."""

    ttl: int = 60
    """Of everything whose record does not say."""
    lease_ttl: int | None = None
    """Of what leases tell; ``None``: ``ttl``."""
    domain: str = ""
    """What is put behind the names of leases, and of hosts files under ``expand_hosts``."""
    domains: tuple[tuple[Network, str], ...] = ()
    """Other domains by address, the first that fits."""
    expand_hosts: bool = False
    lease_short_names: bool = True
    """Whether ``laptop`` is known beside ``laptop.lan``."""
    local_domains: tuple[str, ...] = ()
    """Never asked upstream; ``""`` is every name of one label."""
    domain_needed: bool = False
    """Addresses of names of one label are never asked upstream."""
    bogus_priv: bool = False
    """Names of private addresses are never asked upstream."""
    special: bool = True
    """Whether the zones of :data:`cyfs_ns.special.SPECIAL_ZONES` are local."""
    canary: bool = True
    """Whether browsers are asked to leave name resolution to the system."""
    mail: str = ""
    """Where machines with an address but without MX records of their own receive mail: ``self``, or a canonical name;
    empty: nowhere."""
    localise: bool = False
    """Whether, of several IPv4 addresses, clients hear only those of the network in which they asked us."""
    version: str = ""
    """What ``version.bind`` is told; empty: nothing."""
    identity: str = ""
    """What ``id.server`` is told (RFC 4892); empty: nothing."""


class _Set(NamedTuple):
    """Records of one name and type."""

    ttl: int
    datas: tuple[bytes, ...]
    source: str


_Node: TypeAlias = dict[int, _Set]


class _Hit(NamedTuple):
    """What one name has for one type."""

    found: _Set | None
    rtype: int
    """Of ``found``: the asked one, or CNAME."""
    rcode: int
    soa: Record | None
    why: str


class LocalNames:
    """All of it, ready to be asked.  Immutable; made by :class:`LocalBuilder`."""

    __slots__ = (
        "_between", "_by_text", "_cuts", "_domain_of", "_landmarks", "_lease_between", "_lease_tops", "_leases",
        "_nodes", "_ours", "_ours_named", "_patterns", "_roots", "_settings", "_synthesised", "_tops",
        "_written_reverse",
    )  # fmt: skip

    def __init__(
        self,
        settings: LocalSettings,
        nodes: dict[bytes, _Node],
        cuts: dict[bytes, Record | None],
        patterns: DomainMap[tuple[int, _Node]] | None,
        synthesised: tuple[Synthesised, ...],
        ours: tuple[InterfaceName, ...],
        written_reverse: frozenset[bytes],
        by_text: bool,
    ) -> None:
        """For :class:`LocalBuilder` alone.  ``by_text``: patterns or the like speak of names anywhere."""
        self._settings = settings
        self._nodes = nodes
        self._cuts = cuts
        self._patterns = patterns
        self._synthesised = synthesised
        self._roots = {apex for apex, soa in cuts.items() if soa is not None}
        self._roots.update(_parent(owner) for owner in nodes if owner.startswith(_STAR))
        self._roots.update(owner for owner, node in nodes.items() if DNAME in node)
        self._between = _between(nodes, self._roots) | self._roots
        self._tops = self._tops_of(nodes)
        """Names of one label that are written, or have names below them that are."""
        self._landmarks = self._roots.union(cuts)
        """Nothing is said of names that are neither here nor below one that is, but for those that are written down."""
        self._by_text = by_text
        self._ours_named, self._written_reverse = ours, written_reverse
        self._ours: dict[bytes, _Node] = {}
        self._leases: dict[bytes, _Node] = {}
        self._lease_between: set[bytes] = set()
        self._lease_tops: set[bytes] = set()
        self._domain_of = _domain_of(settings)

    def with_leases(self, leases: Iterable[Lease], now: float) -> LocalNames:
        """The same names with these leases in the place of those before; ``now`` is Unix time."""
        new = self._copy()
        new._leases = self._lease_nodes(living(leases, now).values())
        new._lease_between = _between(new._leases, self._roots)
        new._lease_tops = self._tops_of(new._leases)
        return new

    def with_homes(self, homes: Iterable[Home]) -> LocalNames:
        """The same names, those of our own addresses going by these."""
        new = self._copy()
        new._ours = self._our_nodes(homes) if self._ours_named else {}
        return new

    def _copy(self) -> LocalNames:
        new = LocalNames.__new__(LocalNames)
        for slot in LocalNames.__slots__:
            setattr(new, slot, getattr(self, slot))
        return new

    def lookup(self, name: bytes, rtype: int) -> Reply | Alias | None:
        """The answer for a wire name in lower case; ``None``: not ours, ask upstream."""
        # The cheap look: whether a name of several labels is surely not ours, as most are.
        known = self._by_text or name in self._nodes or name in self._leases or name in self._ours
        if not known and len(name) > 2 + name[0]:
            landmarks, rest = self._landmarks, name
            while rest not in landmarks:
                if rest == b"\0":
                    return None
                rest = rest[1 + rest[0] :]
        return self._walk(name, rtype)[0]

    def addresses(self, name: str) -> list[str]:
        """The addresses of a canonical name as far as the house alone knows them, IPv4 first."""
        try:
            owner = name_wire(name)
        except BadWire:
            return []
        v4 = self.lookup(owner, A)
        # Whoever has an address of either family here is answered for both.
        v6 = self.lookup(owner, AAAA) if isinstance(v4, Reply) else None
        told = [record for each in (v4, v6) if isinstance(each, Reply) for record in records(each, 0)]
        return [_address_text(data) for _, rtype, _, data in told if rtype in _ADDRESSES]

    def localised(self, reply: Reply, near: Network) -> Reply:
        """An answer of :meth:`lookup` with only those addresses that are in ``near``, of names that have any there.

        What wildcards say is for everybody.
        """
        answer = list(records(reply, 0))
        inside = {
            owner
            for owner, rtype, _, data in answer
            if rtype == A and self._node(owner) is not None and ipaddress.ip_address(data) in near
        }
        kept = [
            record
            for record in answer
            if record[1] != A or record[0] not in inside or ipaddress.ip_address(record[3]) in near
        ]
        return reply if len(kept) == len(answer) else rewritten(reply, answer=kept)

    def why(self, name: bytes, rtype: int) -> str:
        """Where :meth:`lookup`'s answer comes from, in words; empty if it has none."""
        return self._walk(name, rtype)[1]

    def chaos(self, name: bytes, rtype: int) -> Reply | None:
        """The answer to a question of class CHAOS about ourselves, or ``None``: there is none."""
        text = {
            name_wire("version.bind"): self._settings.version,
            name_wire("version.server"): self._settings.version,
            name_wire("hostname.bind"): self._settings.identity,
            name_wire("id.server"): self._settings.identity,
        }.get(name, "")
        if not text or rtype not in (TXT, ANY):
            return None
        answer = [(name, TXT, 0, txt_data(text.encode()))]
        return make_reply(name + rtype.to_bytes(2, "big") + _CH, aa=True, answer=answer)

    def _walk(self, name: bytes, rtype: int) -> tuple[Reply | Alias | None, str]:
        question = name + rtype.to_bytes(2, "big") + _IN
        answer: list[Record] = []
        whys: list[str] = []
        owner = name
        for _ in range(_MAX_ALIASES):
            hit = self._at(owner, rtype)
            if hit is None:
                return (Alias(owner, tuple(answer)) if answer else None), ", then ".join(whys)
            whys.append(hit.why)
            if hit.found is not None:
                answer += self._redirect(owner) if hit.rtype == CNAME else ()
                answer += [(owner, hit.rtype, hit.found.ttl, data) for data in hit.found.datas]
                if hit.rtype == CNAME != rtype:
                    owner = hit.found.datas[0]
                    continue
            authority = [hit.soa] if hit.soa is not None and hit.found is None else []
            additional = self._additional(rtype, hit.found.datas) if hit.found is not None else ()
            reply = make_reply(
                question, rcode=hit.rcode, aa=True, answer=answer, authority=authority, additional=additional
            )
            return reply, ", then ".join(whys)
        return make_reply(question, rcode=SERVFAIL), "aliases lead round"

    def _at(self, owner: bytes, rtype: int) -> _Hit | None:
        node = self._node(owner)
        if node is None and self._synthesised:
            node = self._made_from_address(owner)
        apex, soa = self._cut(owner)
        exists = node is not None or owner in self._between or owner in self._lease_between
        if node is not None and (hit := self._from(node, owner, rtype, soa)) is not None:
            return hit
        if rtype == MX and self._settings.mail and (hit := self._mail_of(owner)) is not None:
            return hit
        hit, matched = self._wild(owner, rtype, soa, len(apex), exists, node)
        if hit is not None:
            return hit
        if soa is not None:
            if rtype == DS and owner == HOME:
                return None
            zone = f"zone {name_text(apex)}"
            if exists or matched:
                return _Hit(None, rtype, NOERROR, soa, f"{zone}: no such record")
            return _Hit(None, rtype, NXDOMAIN, soa, f"{zone}: no such name")
        plain = len(owner) > 1 and owner[owner[0] + 1] == 0
        if plain and not apex and ("" in self._settings.local_domains or self._only_addresses(rtype)):
            why = "a name of one label is not asked upstream"
            rcode = NOERROR if exists or owner in self._tops or owner in self._lease_tops else NXDOMAIN
            return _Hit(None, rtype, rcode, self._made_up(owner), why)
        return None

    def _node(self, owner: bytes) -> _Node | None:
        return self._ours.get(owner) or self._leases.get(owner) or self._nodes.get(owner)

    def _mail_of(self, owner: bytes) -> _Hit | None:
        machine = self._leases.get(owner) or self._nodes.get(owner, {})
        found = machine.get(A) or machine.get(AAAA)
        if found is None or not found.datas:
            return None
        target = owner if self._settings.mail == "self" else name_wire(self._settings.mail)
        mail = _Set(self._settings.ttl, (b"\0\1" + target,), f"mail for {found.source}")
        return _Hit(mail, MX, NOERROR, None, mail.source)

    def _tops_of(self, owners: Iterable[bytes]) -> set[bytes]:
        """The last labels of ``owners``, if anything is said of names of one label."""
        keeps_plain = self._settings.domain_needed or "" in self._settings.local_domains
        return set(map(_top, owners)) if keeps_plain else set()

    def _only_addresses(self, rtype: int) -> bool:
        return self._settings.domain_needed and rtype in _ADDRESSES

    def _from(self, node: _Node, owner: bytes, rtype: int, soa: Record | None) -> _Hit | None:
        """What ``node`` says of the type; ``None`` if nothing, not even that there is none."""
        if rtype == ANY and node:
            source = next(iter(node.values())).source
            return _Hit(_Set(self._settings.ttl, (_ANY_ANSWER,), source), HINFO, NOERROR, None, source)
        for kind in (rtype, CNAME):
            if (found := node.get(kind)) is not None and found.datas:
                return _Hit(found, kind, NOERROR, None, found.source)
        if rtype in _BESIDE_ADDRESSES and (found := node.get(A) or node.get(AAAA)) is not None:
            return _Hit(None, rtype, NOERROR, soa or self._made_up(owner), f"{found.source}: no such record")
        return None

    def _wild(
        self, owner: bytes, rtype: int, soa: Record | None, limit: int, exists: bool, node: _Node | None
    ) -> tuple[_Hit | None, bool]:
        """What wildcards not shorter than ``limit`` say, and whether any fits the name at all."""
        pattern: tuple[int, _Node] | None = None
        if self._patterns is not None and (node is None or not node.keys() & _ADDRESS_MATTERS):
            pattern = self._pattern(owner)
        record: tuple[int, _Node] | None = None
        if not exists and self._roots:
            record = self._closest(owner)
        candidates = [found for found in (record, pattern) if found is not None and found[0] >= limit]
        # Sorting keeps the order of equals: records beat hosts.
        for _, wild in sorted(candidates, key=lambda found: -found[0]):
            if (hit := self._from(wild, owner, rtype, soa)) is not None:
                return hit, True
        return None, bool(candidates)

    def _closest(self, owner: bytes) -> tuple[int, _Node] | None:
        """The wildcard or DNAME at the closest encloser (RFC 4592 section 3.3.1, RFC 6672 section 2.4)."""
        encloser = owner
        while len(encloser) > 1:
            encloser = _parent(encloser)
            if encloser in self._between or encloser in self._nodes or encloser in self._lease_between:
                break
        at = self._nodes.get(encloser, {})
        if (redirect := at.get(DNAME)) is not None:
            target = owner[: -len(encloser)] + redirect.datas[0]
            if len(target) <= 255:
                return len(encloser), {CNAME: _Set(redirect.ttl, (target,), redirect.source)}
        star = _STAR + encloser
        # A star that only has names below it makes every name exist, with nothing (RFC 4592 section 2.2.2).
        wild = self._nodes.get(star, {} if star in self._between else None)
        return (len(encloser), wild) if wild is not None else None

    def _redirect(self, owner: bytes) -> Iterator[Record]:
        """The DNAME that made an alias for a name without one of its own: it is told, too (RFC 6672 section 3.1)."""
        if owner not in self._nodes:
            for above in _line_up(owner):
                if (redirect := self._nodes.get(above, {}).get(DNAME)) is not None:
                    yield above, DNAME, redirect.ttl, redirect.datas[0]
                    return

    def _pattern(self, owner: bytes) -> tuple[int, _Node] | None:
        assert self._patterns is not None
        text = name_text(owner)
        # Patterns are about host names; an escaped dot must not part labels.
        return self._patterns.get(text) if "\\" not in text else None

    def _made_from_address(self, owner: bytes) -> _Node | None:
        text = name_text(owner)
        reversed_ip = _reversed(text) if text.endswith(".arpa") else ""
        for synthesised in self._synthesised:
            if reversed_ip and (name := synthesised.name(reversed_ip)) is not None:
                return {PTR: _Set(self._settings.ttl, (name_wire(name),), "names made from addresses")}
            if (ip := synthesised.address(text)) is not None:
                return _host_node((ip,), self._settings.ttl, "names made from addresses")
        return None

    def _cut(self, owner: bytes) -> tuple[bytes, Record | None]:
        """The lowest zone or end of one at or above the name, and its SOA, if it is a zone."""
        while True:
            if owner in self._cuts:
                return owner, self._cuts[owner]
            if owner == b"\0":
                return b"", None
            owner = _parent(owner)

    def _additional(self, rtype: int, datas: tuple[bytes, ...]) -> list[Record]:
        """Addresses of the hosts an answer names, where we know them."""
        at = _TARGET_AT.get(rtype)
        if at is None:
            return []
        found: dict[Record, None] = {}
        for data in datas:
            target = _name_at(data, at)
            node = self._node(target) or {}
            for kind in _ADDRESSES:
                if (known := node.get(kind)) is not None:
                    found.update({(target, kind, known.ttl, address): None for address in known.datas})
        return list(found)[:_MAX_ADDITIONAL]

    def _made_up(self, apex: bytes) -> Record:
        return _made_up_soa(apex, self._settings.ttl)

    def _our_nodes(self, homes: Iterable[Home]) -> dict[bytes, _Node]:
        ttl, homes = self._settings.ttl, tuple(homes)
        told: dict[bytes, tuple[dict[str, None], str]] = {}
        found: dict[bytes, _Node] = {}
        for ours in self._ours_named:
            owner, source = name_wire(ours.name), f"addresses of {ours.interface}"
            addresses, _ = told.setdefault(owner, ({}, source))
            for ip, lasting in ours.addresses(homes):
                if lasting:
                    addresses[ip] = None
                reverse = name_wire(reverse_name(ip))
                if reverse not in self._written_reverse:
                    ptr = _Set(ttl, (owner,), source)
                    found.setdefault(reverse, {**self._nodes.get(reverse, {}), PTR: ptr})
        for owner, (addresses, source) in told.items():
            found[owner] = {**self._nodes[owner], **_host_node(tuple(addresses), ttl, source)}
        return found

    def _lease_nodes(self, leases: Iterable[Lease]) -> dict[bytes, _Node]:
        ttl = self._settings.ttl if self._settings.lease_ttl is None else self._settings.lease_ttl
        found: dict[bytes, _Node] = {}
        for domain, devices in by_name(leases, self._domain_of).items():
            for label, held in devices.items():
                spellings = [f"{label}.{domain}"] if domain else [label]
                if domain and self._settings.lease_short_names:
                    spellings.append(label)
                taken = [name_wire(text) for text in spellings]
                if any(self._nodes.get(owner, {}).keys() & _ADDRESS_MATTERS for owner in taken):
                    continue  # the owner's own names are not for guests to share
                node = _host_node(tuple(lease.ip for lease in held), ttl, f"lease of {held[0].mac or held[0].device}")
                for owner in taken:
                    found.setdefault(owner, {**self._nodes.get(owner, {}), **node})
                for lease in held:
                    reverse = name_wire(reverse_name(lease.ip))
                    if PTR not in self._nodes.get(reverse, {}):
                        told = {PTR: _Set(ttl, (taken[0],), f"lease of {lease.mac or lease.device}")}
                        found[reverse] = {**self._nodes.get(reverse, {}), **told}
        return found


@dataclass(slots=True)
class LocalBuilder:
    """Gathers the sources, best first within each kind, and makes :class:`LocalNames`."""

    settings: LocalSettings = field(default_factory=LocalSettings)
    _records: dict[bytes, dict[int, _Set]] = field(default_factory=dict)
    _hosts: dict[bytes, _Node] = field(default_factory=dict)
    _files: dict[bytes, tuple[str, ...]] = field(default_factory=dict)
    """Owner to the first file that knows it, and its addresses from all files."""
    _shared: dict[tuple[str, ...], tuple[str, ...]] = field(default_factory=dict)
    _reverse: dict[str, tuple[bytes, str, int]] = field(default_factory=dict)
    _patterns: dict[str, tuple[int, _Node]] = field(default_factory=dict)
    """What is written of the pattern, in octets, and what it says."""
    _zones: dict[bytes, Record] = field(default_factory=dict)
    _ours: dict[InterfaceName, None] = field(default_factory=dict)
    _left: set[bytes] = field(default_factory=set)
    _synthesised: list[Synthesised] = field(default_factory=list)
    _faults: list[str] = field(default_factory=list)

    def record(self, owner: bytes, rtype: int, ttl: int | None, data: bytes, source: str = "records") -> None:
        """One record; its owner may begin with ``*``."""
        node = self._records.setdefault(owner, {})
        if (CNAME in node or rtype == CNAME) and (node.keys() | {rtype}) != {CNAME}:
            self._faults.append(f"{name_text(owner)}: an alias (CNAME) stands alone")
        known = node.get(rtype)
        own = self.settings.ttl if ttl is None else ttl
        if known is None:
            node[rtype] = _Set(own, (data,), source)
        elif data not in known.datas:
            if rtype in (CNAME, SOA, DNAME):
                self._faults.append(f"{name_text(owner)}: there can be only one {'SOA' if rtype == SOA else 'alias'}")
            # RFC 2181 section 5.2: one TTL for the set.
            node[rtype] = _Set(min(own, known.ttl), (*known.datas, data), known.source)
        if rtype in _ADDRESSES and not owner.startswith(_STAR):
            self._reverse_of(_address_text(data), owner, source, own)

    def zone(self, origin: str, records: Iterable[Written] = (), source: str = "") -> None:
        """A zone of our own: what it does not hold does not exist.  Without an SOA one is made up."""
        apex = name_wire(origin)
        soa: Record | None = None
        for written in records:
            if not _under(written.owner, apex):
                self._faults.append(f"line {written.line}: {name_text(written.owner)} is not in the zone {origin}")
            elif written.rtype == SOA and written.owner != apex:
                self._faults.append(f"line {written.line}: an SOA stands at the top of its zone")
            else:
                self.record(written.owner, written.rtype, written.ttl, written.data, source or f"zone {origin}")
                if written.rtype == SOA:
                    least = int.from_bytes(written.data[-4:], "big")
                    ttl = self.settings.ttl if written.ttl is None else written.ttl
                    soa = (apex, SOA, min(ttl, least), written.data)
                elif written.rtype == NS and written.owner != apex:
                    self._left.add(written.owner)
        self._zones[apex] = soa or _made_up_soa(apex, self.settings.ttl)

    def hosts(self, entries: Mapping[str, HostValue]) -> None:
        """Clash's ``hosts:``."""
        for written, value in entries.items():
            try:
                pattern = canonical(written)
                bare = bare_of(pattern)
                node = _host_node(value, self.settings.ttl, "hosts")
                if bare == pattern and "*" not in pattern:
                    owner = name_wire(pattern)
                    self._hosts.setdefault(owner, node)
                    for ip in value if isinstance(value, tuple) else ():
                        self._reverse_of(ip, owner, "hosts")
                else:
                    size = len(name_wire(".".join(filter(None, (label.lstrip("*") for label in bare.split("."))))))
                    self._patterns[pattern] = (size, node)
            except BadWire as fault:
                self._faults.append(f"{written}: {fault}")

    def hosts_file(self, text: str, source: str) -> None:
        """A hosts(5) file; what makes no sense in it is passed over."""
        domain_of = _domain_of(self.settings)
        for ip, found in hosts_lines(text):
            spelt = []
            for name in found:
                if self.settings.expand_hosts and "." not in name and (domain := domain_of(ip)):
                    whole = f"{name}.{domain}"
                    spelt += [whole] if len(whole) <= _MAX_NAME else []
                spelt.append(name)
            for name in spelt:
                owner = name_wire(name)
                known = self._files.get(owner, (source,))
                if ip not in known[1:]:
                    # A block list has a million names with one address: the tuple, and later the node, is shared.
                    now_known = (*known, ip)
                    self._files[owner] = self._shared.setdefault(now_known, now_known)
            if spelt:
                self._reverse_of(ip, name_wire(spelt[0]), source)

    def synthesise(self, made: Synthesised) -> None:
        """Names for all addresses of a range, below all that is written and above wildcards."""
        self._synthesised.append(made)

    def interface(self, named: InterfaceName) -> None:
        """A name of our own addresses: whatever else has addresses for it is hidden."""
        self._ours[named] = None

    def leave(self, name: str) -> None:
        """Zones and wildcards above ``name`` end here: somebody else is asked for what has no record of its own."""
        self._left.add(name_wire(name))

    def build(self, leases: Iterable[Lease] = (), now: float = 0.0) -> LocalNames:
        """Raises ``ConfigFault`` with all that was wrong."""
        cuts = self._all_cuts()
        nodes: dict[bytes, _Node] = {owner: dict(node) for owner, node in self._records.items()}
        for owner, node in self._hosts.items():
            _add(nodes, owner, node)
        shared: dict[tuple[str, ...], _Node] = {}
        for owner, key in self._files.items():
            made = shared.get(key) or shared.setdefault(key, _host_node(key[1:], self.settings.ttl, key[0]))
            _add(nodes, owner, made)
        for ip, (owner, source, ttl) in self._reverse.items():
            _add(nodes, name_wire(reverse_name(ip)), {PTR: _Set(ttl, (owner,), source)})
        for owner, target in LOOPBACK_NAMES:
            _add(nodes, owner, {PTR: _Set(self.settings.ttl, (target,), "loopback")})
        for ours in self._ours:
            owner, source = name_wire(ours.name), f"addresses of {ours.interface}"
            # Without an address there is none of either family, and nobody else is asked.
            none = {rtype: _Set(self.settings.ttl, (), source) for rtype in _ADDRESSES}
            others = {rtype: found for rtype, found in nodes.get(owner, {}).items() if rtype != CNAME}
            nodes[owner] = {**others, **none}
        for apex, soa in self._zones.items():
            _add(nodes, apex, {SOA: _Set(soa[2], (soa[3],), f"zone {name_text(apex)}")})
        patterns = dict(self._patterns)
        if self.settings.special:
            loopback = _host_node(_LOOPBACK, self.settings.ttl, "loopback")
            patterns.setdefault("+.localhost", (len(name_wire("localhost")), loopback))
        try:
            table = DomainMap(patterns) if patterns else None
        except ConfigFault as fault:
            self._faults.append(str(fault))
        if self._faults:
            raise ConfigFault("\n".join(self._faults))
        written_reverse = frozenset(owner for owner, node in self._records.items() if PTR in node)
        # The pattern for localhost lies in a zone of its own.
        by_text = bool(self._patterns or self._synthesised)
        names_of_all = LocalNames(
            self.settings, nodes, cuts, table, tuple(self._synthesised), tuple(self._ours), written_reverse, by_text
        )
        return names_of_all.with_leases(leases, now)

    def _all_cuts(self) -> dict[bytes, Record | None]:
        settings = self.settings
        reserved = [*(SPECIAL_ZONES if settings.special else ()), *((CANARY,) if settings.canary else ())]
        reserved += private_reverse_zones() if settings.bogus_priv else ()
        cuts: dict[bytes, Record | None] = {}
        for zone in map(name_wire, reserved):
            cuts[zone] = _made_up_soa(zone, settings.ttl)
        cuts.update(dict.fromkeys(self._left))
        for zone in map(name_wire, filter(None, settings.local_domains)):
            self._zones.setdefault(zone, _made_up_soa(zone, settings.ttl))
        cuts.update(self._zones)
        return cuts

    def _reverse_of(self, ip: str, owner: bytes, source: str, ttl: int | None = None) -> None:
        if ip not in _NO_PTR:
            self._reverse.setdefault(ip, (owner, source, self.settings.ttl if ttl is None else ttl))


def _add(nodes: dict[bytes, _Node], owner: bytes, lesser: _Node) -> None:
    """Let ``lesser`` say what the node does not."""
    node = nodes.get(owner)
    if node is None:
        nodes[owner] = lesser  # shared with other owners: never changed, only replaced
    elif lesser.keys() & _ADDRESS_MATTERS and node.keys() & _ADDRESS_MATTERS:
        return
    else:
        nodes[owner] = {**lesser, **node}


def _host_node(value: HostValue, ttl: int, source: str) -> _Node:
    if isinstance(value, str):
        return {CNAME: _Set(ttl, (name_wire(value),), source)}
    found: dict[int, list[bytes]] = {}
    for ip in value:
        rtype, _, data = address_data(ip, ttl)
        found.setdefault(rtype, []).append(data)
    return {rtype: _Set(ttl, tuple(datas), source) for rtype, datas in found.items()}


def _address_text(data: bytes) -> str:
    return names.ip(str(ipaddress.ip_address(data)))


def _reversed(text: str) -> str:
    """The canonical address whose reverse name is ``text``, or empty."""
    labels = text.split(".")
    try:
        if text.endswith(".ip6.arpa") and len(labels) == 34 and all(len(label) == 1 for label in labels[:32]):
            return names.ip(str(ipaddress.IPv6Address(int("".join(reversed(labels[:32])), 16))))
        return names.ip(".".join(reversed(labels[:4]))) if text.endswith(".in-addr.arpa") and len(labels) == 6 else ""
    except (BadWire, ValueError):
        return ""


def _made_up_soa(apex: bytes, ttl: int) -> Record:
    """Of a zone nobody serves but us: the same words as most resolvers have for theirs."""
    return apex, SOA, ttl, _NOBODYS_SOA + ttl.to_bytes(4, "big")


def _between(owners: Iterable[bytes], roots: set[bytes]) -> set[bytes]:
    """The names between ``owners`` and the roots above them: they exist, with no records of their own (RFC 4592)."""
    found: set[bytes] = set()
    for owner in owners:
        passed: list[bytes] = []
        above = owner
        while len(above) > 1:
            above = _parent(above)
            if above in roots or above in found:
                found.update(passed)
                passed = []
                if above in found:
                    break
            passed.append(above)
    return found


def _top(owner: bytes) -> bytes:
    """The last label of a name, as a name."""
    while len(rest := owner[1 + owner[0] :]) > 1:
        owner = rest
    return owner


def _domain_of(settings: LocalSettings) -> Callable[[str], str]:
    if not settings.domains:
        return lambda ip: settings.domain

    def by_range(ip: str) -> str:
        address = ipaddress.ip_address(ip)
        return next((domain for network, domain in settings.domains if address in network), settings.domain)

    return by_range


def _parent(name: bytes) -> bytes:
    return name[1 + name[0] :]


def _under(name: bytes, apex: bytes) -> bool:
    return any(above == apex for above in _line_up(name))


def _line_up(name: bytes) -> Iterator[bytes]:
    yield name
    while len(name) > 1:
        name = _parent(name)
        yield name


def _name_at(data: bytes, at: int) -> bytes:
    end = at
    while data[end]:
        end += 1 + data[end]
    return data[at : end + 1]
