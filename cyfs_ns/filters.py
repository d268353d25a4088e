"""What the house makes of an upstream's answer before anybody sees it.

In this order: an answer with an address to be ignored is as if it had not come; one with a bogus address means that
there is no such name; private addresses for a public name are an attack on the house (DNS rebinding), wherever they
stand, in hints or mapped into IPv6, too; every alias, service target and address is judged by the lists, and one hit
blocks the whole; then addresses are translated, and unwanted types and hints are taken out.

dnsmasq calls these ignore-address, bogus-nxdomain, stop-dns-rebind, alias and filter-rr.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, TypeAlias

from cyfs_ns.address import Address, Prefix, parse_address, parse_prefix, spell
from cyfs_ns.blockanswer import negative_soa
from cyfs_ns.domains import DomainMap
from cyfs_ns.errors import BadWire, ConfigFault
from cyfs_ns.judgement import BLOCKED, PASS, Action, Judgement
from cyfs_ns.purposes import Special, networks_of
from cyfs_ns.query import AD
from cyfs_ns.reply import ANY, Reply, make_reply, records, rewritten
from cyfs_ns.sets import CidrSet
from cyfs_ns.svcb import ECH, IPV4HINT, IPV6HINT, Service, read_service
from cyfs_ns.wire import Record, name_text

Family: TypeAlias = Literal["both", "ipv4", "ipv6", "prefer-ipv4", "prefer-ipv6"]
Judge: TypeAlias = Callable[[str, int], Judgement]

A, CNAME, AAAA, RRSIG, SVCB, HTTPS = 1, 5, 28, 46, 64, 65
_NXDOMAIN = 3
_DOCTORED_TTL = 60  # seconds an emptied answer may be kept


@dataclass(frozen=True, slots=True)
class AliasRange:
    """IPv4 addresses ``low`` to ``high`` become ``new`` in the bits of ``mask``; numbers."""

    low: int
    high: int
    new: int
    mask: int


REBIND = "rebind-protection"
"""The "list" of answers blocked for private addresses.  They are answered empty, however blocks are answered: to many
systems 0.0.0.0 is themselves, which is where the attack wants to be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerRules:
    """What to do with answers; all defaults let them be."""

    rebind: bool = False
    rebind_localhost: bool = False
    """Whether loopback addresses may come in answers: block lists by DNS (RBL) use them."""
    rebind_spared: DomainMap[bool] = field(default_factory=lambda: DomainMap({}))
    """Names that may have private addresses."""
    bogus: CidrSet = field(default_factory=lambda: CidrSet(()))
    ignored: CidrSet = field(default_factory=lambda: CidrSet(()))
    aliases: tuple[AliasRange, ...] = ()
    family: Family = "both"
    dropped: frozenset[int] = frozenset()
    """Types of which no record is let through."""
    hints: bool = True
    """Whether addresses in SVCB and HTTPS records are let through; those of an unwanted family never are."""
    ech: bool = True
    """Whether keys for encrypted hellos are let through."""

    @property
    def idle(self) -> bool:
        """Whether they have nothing to say of any answer."""
        return self == AnswerRules(rebind_spared=self.rebind_spared, bogus=self.bogus, ignored=self.ignored) and not (
            len(self.bogus) or len(self.ignored)
        )

    def refuses(self, rtype: int) -> bool:
        """Whether a question of this type is answered empty without asking anybody."""
        return rtype in self.dropped or (rtype, self.family) in ((AAAA, "ipv4"), (A, "ipv6"))


class Fate(StrEnum):
    """What became of an answer."""

    KEPT = "kept"
    CHANGED = "changed"
    BLOCKED = "blocked"
    IGNORED = "ignored"
    """Go on waiting for another."""


@dataclass(frozen=True, slots=True)
class Inspected:
    """``reply`` is what to go on with, unless it was BLOCKED (then ``judgement`` tells by what) or IGNORED."""

    fate: Fate
    reply: Reply
    judgement: Judgement = PASS


def inspect(reply: Reply, name: str, rules: AnswerRules, judge: Judge | None) -> Inspected:
    """Hold an upstream's answer to the question about ``name`` against the rules.

    ``judge`` is the policy for this client; None when the name itself was spared.
    """
    if not reply.counts[0]:
        return Inspected(Fate.KEPT, reply)
    answer = [_Seen(record) for record in records(reply, 0)]
    addresses = [address for seen in answer for address in seen.addresses]
    if len(rules.ignored) and any(map(rules.ignored.has, addresses)):
        return Inspected(Fate.IGNORED, reply)
    if len(rules.bogus) and any(map(rules.bogus.has, addresses)):
        soa = negative_soa(reply.question, _DOCTORED_TTL)
        return Inspected(Fate.CHANGED, make_reply(reply.question, rcode=_NXDOMAIN, authority=[soa]))
    if rules.rebind and (private := _private(addresses, rules)) is not None and not rules.rebind_spared.get(name):
        why = Judgement(Action.BLOCK, REBIND, f"{spell(*private)} in a public name", ede=BLOCKED)
        return Inspected(Fate.BLOCKED, reply, why)
    if judge is not None and (judgement := _judged(answer, judge)) is not None:
        return Inspected(Fate.BLOCKED, reply, judgement)
    kept = _doctored(answer, rules)
    if kept == [seen.record for seen in answer]:
        return Inspected(Fate.KEPT, reply)
    rtype = int.from_bytes(reply.question[-4:-2], "big")
    empty = not any(rtype in (record[1], ANY) for record in kept)
    authority = [negative_soa(reply.question, _DOCTORED_TTL)] if empty else None
    changed = rewritten(reply, answer=kept, authority=authority)
    return Inspected(Fate.CHANGED, changed._replace(flags=changed.flags & ~AD))


class _Seen:
    """A record, and what of it matters here."""

    __slots__ = ("addresses", "record", "service", "target")

    def __init__(self, record: Record) -> None:
        self.record = record
        self.service: Service | None = None
        self.target = b""
        packed: Iterable[bytes] = ()
        _, rtype, _, rdata = record
        if rtype in (A, AAAA):
            packed = (rdata,)
        elif rtype == CNAME:
            self.target = rdata.lower()
        elif rtype in (SVCB, HTTPS):
            try:
                self.service = read_service(rdata)
            except BadWire:
                pass  # nothing a client could use; taken out below
            else:
                self.target = self.service.target.lower()
                packed = self.service.addresses()
        self.addresses = [_number(octets) for octets in packed]


_MAPPED = 0xFFFF


def _number(octets: bytes) -> Address:
    number = int.from_bytes(octets, "big")
    if len(octets) == 4:
        return 4, number
    return (4, number & 0xFFFFFFFF) if number >> 32 == _MAPPED else (6, number)


_LOOPBACK = CidrSet.of(p for p in map(parse_prefix, ("127.0.0.0/8", "::1/128")) if p is not None)
_PRIVATE = CidrSet.of(
    prefix
    for prefix in map(
        parse_prefix,
        (
            *map(str, networks_of(Special.NOBODY, Special.PRIVATE, Special.LINK, Special.UNIQUE_LOCAL, Special.SITE)),
            "255.255.255.255/32",
        ),
    )
    if prefix is not None
)
_NAT64 = 0x64FF9B << 64  # 64:ff9b::/96 (RFC 6052), shifted down by the 32 bits of the IPv4 address it carries


def _private(addresses: Iterable[Address], rules: AnswerRules) -> Address | None:
    for address in addresses:
        carried = address
        if address[0] == 6 and address[1] >> 32 in (0, _NAT64) and address[1] > 1:
            carried = 4, address[1] & 0xFFFFFFFF
        if _PRIVATE.has(carried) or (_LOOPBACK.has(carried) and not rules.rebind_localhost):
            return address
    return None


def _judged(answer: Iterable[_Seen], judge: Judge) -> Judgement | None:
    """The first judgement against a name or an address in the answer."""
    for seen in answer:
        if len(seen.target) > 1:
            judgement = judge(name_text(seen.target), seen.record[1])
            if judgement.action is Action.ALLOW:
                return None  # the owner vouches for what this name leads to
            if judgement.action in (Action.BLOCK, Action.REFUSE):
                return judgement
        for address in seen.addresses:
            judgement = judge(spell(*address), A if address[0] == 4 else AAAA)
            if judgement.action is Action.BLOCK:
                return judgement
    return None


def _doctored(answer: list[_Seen], rules: AnswerRules) -> list[Record]:
    gone = {rtype for rtype in (A, AAAA, *rules.dropped) if rules.refuses(rtype)}
    unhinted = {key for key, rtype in ((IPV4HINT, A), (IPV6HINT, AAAA)) if not rules.hints or rtype in gone}
    if not rules.ech:
        unhinted.add(ECH)
    kept = []
    changed = set()
    for seen in answer:
        owner, rtype, ttl, rdata = seen.record
        if rtype in gone or (rtype in (SVCB, HTTPS) and seen.service is None):
            changed.add(rtype)
            continue
        if seen.service is not None and unhinted:
            rdata = seen.service.without(unhinted)
        elif rtype == A and rules.aliases:
            rdata = _translated(int.from_bytes(rdata, "big"), rules.aliases).to_bytes(4, "big")
        if rdata != seen.record[3]:
            changed.add(rtype)
        kept.append((owner, rtype, ttl, rdata))
    # A signature over what was changed proves the change, so it goes as well.
    return [r for r in kept if r[1] != RRSIG or int.from_bytes(r[3][:2], "big") not in changed] if changed else kept


def _translated(number: int, aliases: Iterable[AliasRange]) -> int:
    for alias in aliases:
        if alias.low <= number <= alias.high:
            return (number & ~alias.mask) | (alias.new & alias.mask)
    return number


def parse_alias(text: str) -> AliasRange:
    """dnsmasq's ``[old|start-end],new[,mask]``, IPv4; a range lies within one network of the mask.

    Raises ConfigFault.
    """
    fields = [field.strip() for field in text.split(",")]
    if len(fields) not in (2, 3):
        raise ConfigFault(f"{text[:80]!r} is not old,new or start-end,new,mask")
    first, dash, last = fields[0].partition("-")
    mask = _ipv4(fields[2]) if len(fields) == 3 else 0xFFFFFFFF
    low = _ipv4(first)
    if dash:
        high = _ipv4(last)
        if high < low or (low ^ high) & mask:
            raise ConfigFault(f"{fields[0][:40]!r} is no range within one network of the mask")
        return AliasRange(low, high, _ipv4(fields[1]), mask)
    return AliasRange(low & mask, low | (~mask & 0xFFFFFFFF), _ipv4(fields[1]), mask)


def _ipv4(text: str) -> int:
    address = parse_address(text.strip())
    if address is None or ":" in text:
        raise ConfigFault(f"{text[:40]!r} is not an IPv4 address")
    return address[1]


def parse_addresses(words: Iterable[str]) -> CidrSet:
    """Addresses and prefixes, for ``bogus`` and ``ignored``.  Raises ConfigFault."""
    prefixes = []
    for word in words:
        address = parse_address(word)
        prefix = (
            parse_prefix(word) if address is None else Prefix(address[0], address[1], 32 if address[0] == 4 else 128)
        )
        if prefix is None:
            raise ConfigFault(f"{word[:60]!r} is neither an address nor a prefix")
        prefixes.append(prefix)
    return CidrSet.of(prefixes)


def other_family(rtype: int, family: Family) -> int | None:
    """The type that must be looked up, too, before an answer of this type is given; None: it may go out as it is.

    Only answers that hold addresses need it; then ``yielded`` decides.
    """
    return {(AAAA, "prefer-ipv4"): A, (A, "prefer-ipv6"): AAAA}.get((rtype, family))


def yielded(reply: Reply, other: Reply | None) -> Reply:
    """``reply``, or an empty one when the preferred family has addresses for the name (``other``; None: not known)."""
    if other is None or other.rcode:
        return reply
    wanted = int.from_bytes(other.question[-4:-2], "big")
    if not any(record[1] == wanted for record in records(other, 0)):
        return reply
    return empty_reply(reply.question)


def empty_reply(question: bytes) -> Reply:
    """No records of the asked type, for a minute."""
    return make_reply(question, authority=[negative_soa(question, _DOCTORED_TTL)])
