"""What all block, allow and rewrite lists of the house say of a name.

``ListSet`` works on the bytes ``listcompile`` made as they lie, most likely in a mapped file: a million names cost
about ten megabytes, and none of it is built again.  Names are kept in a trie, reversed letter by letter and closed
with a dot, so that one walk finds a name and every name above it.  Rules without a fixed end (regexes) are asked
together, rules for every name always.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import marisa_trie
import re2

from cyfs_ns.errors import BadWire, ConfigFault
from cyfs_ns.judgement import PASS, Judgement, Match, decide
from cyfs_ns.listpiece import read_rule, unpack
from cyfs_ns.listrule import Effect, Rule, Who
from cyfs_ns.patterns import PatternSet, regex_options


@dataclass(frozen=True, slots=True)
class ListReport:
    """What was found in one list."""

    name: str
    format: str
    entries: int
    faulty: int = 0
    passed_over: int = 0
    faults: tuple[str, ...] = ()
    """The first few."""


class ListSet:
    """What all lists say, over the bytes ``compile_lists`` made; they must stay as they are while this lives.

    Raises BadWire when they are not whole.  Lists are told by bits: ``bits(names)`` has bit ``n`` for list ``n``.
    """

    def __init__(self, piece: bytes | memoryview) -> None:
        parts = unpack(piece)
        self._piece, self._numbers, table = piece, parts.numbers, parts.table
        self._trie = marisa_trie.BinaryTrie()
        try:
            if parts.numbers.nbytes:
                self._trie.map(parts.trie)
            self.reports = tuple(ListReport(**{**told, "faults": tuple(told["faults"])}) for told in table["reports"])
            self.names = tuple(report.name for report in self.reports)
            rules = [(1 << at, self.names[at], read_rule(fields)) for at, fields in table["rules"]]
            self._meanings = [tuple(rules[number] for number in meaning) for meaning in table["meanings"]]
            self._everywhere = [rules[number] for number in table["everywhere"]]
            self._without_end = [rules[number] for number in table["patterns"]]
            self._patterns = PatternSet([rule.pattern for _, _, rule in self._without_end])
        except (RuntimeError, LookupError, TypeError, ValueError, ConfigFault) as fault:
            raise BadWire(f"compiled lists of another version: {fault}") from None
        self.whos = frozenset(rule.who for _, _, rule in rules if rule.who is not None)
        """Every different choice of clients that some rule makes."""

    def __len__(self) -> int:
        return sum(report.entries for report in self.reports)

    def bits(self, names: Iterable[str]) -> int:
        """The bits of these lists; a name that is none's has no bit."""
        wanted = set(names)
        return sum(1 << at for at, name in enumerate(self.names) if name in wanted)

    def matches(self, name: str, rtype: int, lists: int, whos: Collection[Who] = ()) -> list[Match]:
        """The rules of the chosen lists that hold for a question by a client for whom ``whos`` hold.

        ``name`` is canonical text, or an address that an answer holds.
        """
        key = name.encode("ascii", "replace")[::-1] + b"."
        found: list[Match] = []
        for prefix in self._trie.prefixes(key):
            here = len(prefix) == len(key)
            for bit, list_name, rule in self._meanings[self._numbers[self._trie.key_id(prefix)]]:
                if bit & lists and (rule.here if here else rule.below) and _applies(rule, name, rtype, whos):
                    text = rule.text or _spelled(rule, prefix[-2::-1].decode())
                    found.append(Match(rule, list_name, text, len(prefix)))
        for bit, list_name, rule in self._everywhere:
            if bit & lists and _applies(rule, name, rtype, whos):
                found.append(Match(rule, list_name, rule.text))
        if self._without_end:
            for at in self._patterns.matches(name):
                bit, list_name, rule = self._without_end[at]
                if bit & lists and _narrowed(rule, name, rtype, whos):
                    found.append(Match(rule, list_name, rule.text))
        return _nearest(found) if len(found) > 1 else found

    def judge(self, name: str, rtype: int, lists: int = -1, whos: Collection[Who] = ()) -> Judgement:
        """What the chosen lists want done with a question."""
        found = self.matches(name, rtype, lists, whos)
        return decide(found) if found else PASS


def _nearest(found: list[Match]) -> list[Match]:
    """Without the rules that give way to one about a longer name in their list."""
    deepest: dict[str, int] = {}
    for match in found:
        if match.rule.nearest:
            deepest[match.list] = max(match.depth, deepest.get(match.list, 0))
    return [m for m in found if not m.rule.nearest or m.depth == deepest[m.list]] if deepest else found


def _applies(rule: Rule, name: str, rtype: int, whos: Collection[Who]) -> bool:
    return _narrowed(rule, name, rtype, whos) and (not rule.pattern or _regex(rule.pattern)(name) is not None)


def _narrowed(rule: Rule, name: str, rtype: int, whos: Collection[Who]) -> bool:
    return (
        (not rule.types or rule.asks(rtype))
        and (rule.who is None or rule.who in whos)
        and not (rule.spared and rule.spares(name))
    )


@lru_cache(4096)
def _regex(pattern: str) -> Callable[[str], Any]:
    search: Callable[[str], Any] = re2.compile(pattern, regex_options()).search
    return search


def _spelled(rule: Rule, name: str) -> str:
    """How a plain rule is told: as a filter in AdBlock syntax."""
    if rule.effect is Effect.ADDRESS and rule.rewrite is not None:
        return f"{rule.rewrite.data} {name}"
    mark = "@@" if rule.effect is Effect.ALLOW else ""
    shape = f"||{name}^" if rule.below and rule.here else f"*.{name}" if rule.below else name
    return mark + shape
