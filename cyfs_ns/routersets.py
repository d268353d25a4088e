"""Which names fill which sets of the router's firewall: rules by domain, and what an answer adds to the sets.

A firewall routes by address, its owner thinks in names.  A rule joins them: the addresses in the answer to a name go
into sets of nftables or ipset before the client hears the answer, so that its first packet already finds them there.

* Rules are dnsmasq's (``nftset=/a.example/b.example/4#inet#fw4#vpn,6#inet#fw4#vpn6``, ``ipset=/a.example/vpn,vpn6``)
  or patterns of :mod:`cyfs_ns.domains` with targets.  Of several rules the most specific one counts, for nftables and
  ipset each on its own; rules for one and the same pattern add up.
* The name that counts is the asked one: addresses at the end of its aliases are its own.
* An entry lives for the answer's TTL and a margin, as connections outlive the answer that led to them.

Names under a rule are to be kept off the path of ready-made answers (:meth:`SetRules.subject`): the sets must be fed
from cached answers, too, or they stand empty after a restart of the firewall.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from cyfs_ns.domains import DomainMap
from cyfs_ns.errors import ConfigFault
from cyfs_ns.reply import Reply, records
from cyfs_ns.wire import name_text

EVERY_NAME = "#"
"""The pattern that matches every name, as dnsmasq writes it."""

NFT_FAMILIES = ("inet", "ip", "ip6", "bridge", "netdev")

_A, _AAAA = 1, 28
_MAX_IPSET_NAME = 31
_MAX_NFT_NAME = 255


@dataclass(frozen=True, slots=True)
class SetTarget:
    """One set of the kernel."""

    family: str
    """The nftables family of its table; empty for an ipset."""
    table: str
    """Empty for an ipset."""
    name: str
    only: int = 0
    """4 or 6: takes addresses of that version alone, whatever the set could hold."""
    rule: str = field(default="", compare=False)
    """As its owner wrote it, for messages."""

    def __str__(self) -> str:
        return f"nft set {self.family} {self.table} {self.name}" if self.family else f"ipset {self.name}"


@dataclass(frozen=True, slots=True)
class SetRule:
    """Addresses of names that match one of ``patterns`` (or :data:`EVERY_NAME`) go into all ``targets``."""

    patterns: tuple[str, ...]
    targets: tuple[SetTarget, ...]


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """How long an entry lives in a set that lets its entries time out; all in seconds."""

    margin: int = 60
    """Added to the answer's TTL."""
    low: int = 300
    high: int = 86400

    def __post_init__(self) -> None:
        if not 0 < self.margin < self.high or not 0 < self.low <= self.high <= 1_000_000:
            raise ConfigFault("lifetimes of set entries need 0 < margin < max and 0 < min <= max <= 1000000 seconds")


class Addition(NamedTuple):
    """One address for one set."""

    target: SetTarget
    address: bytes
    """4 or 16 octets."""
    timeout: int
    """Seconds it should live there, if the set lets entries time out."""
    needed: int
    """An entry with that many seconds left is as good as a new one."""


class SetRules:
    """All rules, compiled.  Immutable; raises ``ConfigFault`` naming every pattern that is none."""

    def __init__(self, rules: Iterable[SetRule], lifetimes: Lifetimes | None = None) -> None:
        by_kind: dict[bool, dict[str, dict[SetTarget, None]]] = {True: {}, False: {}}
        for rule in rules:
            for pattern in rule.patterns:
                for target in rule.targets:
                    by_kind[bool(target.family)].setdefault(pattern, {})[target] = None
        self._every = tuple(tuple(patterns.pop(EVERY_NAME, ())) for patterns in by_kind.values())
        self._maps = tuple(
            DomainMap({pattern: tuple(targets) for pattern, targets in patterns.items()})
            for patterns in by_kind.values()
        )
        self._any = any(by_kind.values()) or any(self._every)
        self._lifetimes = lifetimes or Lifetimes()

    def targets(self, name: bytes) -> tuple[SetTarget, ...]:
        """The sets for a wire name in lower case."""
        text = name_text(name)
        found: tuple[SetTarget, ...] = ()
        for every, patterns in zip(self._every, self._maps, strict=True):
            found += patterns.get(text) or every
        return found

    @property
    def idle(self) -> bool:
        """Whether no answer feeds a set."""
        return not self._any

    def subject(self, name: bytes) -> bool:
        """Whether answers to a wire name in lower case feed a set."""
        return self._any and bool(self.targets(name))

    def additions(self, reply: Reply, age: int = 0) -> tuple[Addition, ...]:
        """What a reply known for ``age`` seconds adds to the sets."""
        if reply.rcode or not reply.counts[0]:
            return ()
        targets = self.targets(reply.question[:-4])
        if not targets:
            return ()
        limits = self._lifetimes
        found = {}
        for _, rtype, ttl, address in records(reply, 0):
            if rtype not in (_A, _AAAA):
                continue
            left = max(ttl - age, 0)
            timeout = min(max(left + limits.margin, limits.low), limits.high)
            # Where the limit cuts the timeout, an answer is still not worth a write a second.
            needed = min(left, timeout - limits.margin)
            for target in targets:
                if target.only in (0, 4 if rtype == _A else 6):
                    found[target, address] = Addition(target, address, timeout, needed)
        return tuple(found.values())


def dnsmasq_nftset(text: str) -> SetRule:
    """The value of dnsmasq's ``nftset``: ``/domain/…/[(4|6)#[family#]table#set,…``.  Raises ``ConfigFault``.

    The family is ``ip`` where none is written, as for nft.  Without domains the rule is for every name.
    """
    patterns, written = _domains(text)
    return SetRule(patterns, tuple(nft_target(spec, text) for spec in written))


def dnsmasq_ipset(text: str) -> SetRule:
    """The value of dnsmasq's ``ipset``: ``/domain/…/set,…``.  Raises ``ConfigFault``."""
    patterns, written = _domains(text)
    return SetRule(patterns, tuple(ipset_target(spec, text) for spec in written))


def nft_target(spec: str, rule: str = "") -> SetTarget:
    """``[4#|6#][family#]table#set``; ``rule`` is the whole of which it is part.  Raises ``ConfigFault``."""
    parts = spec.split("#")
    only = int(parts.pop(0)) if parts[0] in ("4", "6") else 0
    family = parts.pop(0) if len(parts) == 3 else "ip"
    if len(parts) != 2 or family not in NFT_FAMILIES or not all(_is_name(part, _MAX_NFT_NAME) for part in parts):
        raise ConfigFault(f"nftset {rule or spec}: {spec!r} is not [4#|6#][family#]table#set, e.g. 4#inet#fw4#vpn")
    return SetTarget(family, parts[0], parts[1], only, f"nftset {rule or spec}")


def ipset_target(spec: str, rule: str = "") -> SetTarget:
    """The name of an ipset; ``rule`` is the whole of which it is part.  Raises ``ConfigFault``."""
    if not _is_name(spec, _MAX_IPSET_NAME):
        raise ConfigFault(f"ipset {rule or spec}: {spec!r} is not a name of 1 to {_MAX_IPSET_NAME} octets")
    return SetTarget("", "", spec, 0, f"ipset {rule or spec}")


def _domains(text: str) -> tuple[tuple[str, ...], list[str]]:
    """Patterns and targets of dnsmasq's ``/a/b/targets``."""
    if not text.startswith("/"):
        return (EVERY_NAME,), text.split(",")
    *domains, targets = text[1:].split("/")
    bare = [domain.lstrip(".") for domain in domains]
    return tuple("+." + name if name not in ("", EVERY_NAME) else EVERY_NAME for name in bare), targets.split(",")


def _is_name(text: str, longest: int) -> bool:
    return 0 < len(text.encode(errors="replace")) <= longest and text.isprintable() and " " not in text
