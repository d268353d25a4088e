"""Lists in their many syntaxes into the one piece of bytes that ``lists.ListSet`` works on.

It takes seconds and some hundred bytes a name, so a server has it done in a process of its own (``io.listbuild``).

Each name has a *meaning*, the tuple of rules that lists have for it; there are as many meanings as different such
tuples, which for plain lists is a handful.  Rules, names and patterns are bounded, and what is over a bound is counted
as a fault of the list that brought it.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache

import marisa_trie

from cyfs_ns.errors import BadWire
from cyfs_ns.listlines import Format, Tally, detect, disabled, read_list
from cyfs_ns.listpiece import pack, rule_fields
from cyfs_ns.listrule import Effect, Entry, Rule
from cyfs_ns.lists import ListReport

MAX_BYTES = 128 << 20
MAX_NAMES = 8_000_000
MAX_RULES = 20_000
"""Different rules in all; each costs the server about a kilobyte."""
MAX_PATTERNS = 2_000
"""Rules without a fixed end, which every name is held against."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListSource:
    """How to read one list."""

    name: str
    format: Format = "auto"
    allow: bool = False
    """Its names are to be spared instead of blocked."""
    rewrites: bool = False
    """Whether it may answer with addresses and aliases of its choice.  A stranger's list had better not."""


def compile_lists(sources: Sequence[tuple[ListSource, bytes]], max_bytes: int = MAX_BYTES) -> bytes:
    """The piece of bytes that ``ListSet`` takes.  A list that cannot be read at all is told in its report."""
    builder = _Builder()
    formats = [detect(data) if source.format == "auto" else source.format for source, data in sources]
    taken_back = [disabled(data) for (_, data), form in zip(sources, formats, strict=True) if form == "adblock"]
    gone = frozenset[tuple[str, ...]]().union(*taken_back)
    for (source, data), form in zip(sources, formats, strict=True):
        tally = Tally()
        try:
            entries = read_list(data, form, tally, max_bytes, gone)
        except BadWire as fault:
            tally.fault(0, str(fault))
            entries = ()
        builder.add(source, form, entries, tally)
    return builder.finish()


def compile_entries(groups: Iterable[tuple[ListSource, Iterable[Entry]]]) -> bytes:
    """The same for rules that are read already, such as those of the configuration."""
    builder = _Builder()
    for source, entries in groups:
        builder.add(source, "own", entries, Tally())
    return builder.finish()


class _Builder:
    def __init__(self) -> None:
        self._keys: list[bytes] = []
        self._pairs = array("I")  # of each key: a number of (list, rule)
        self._numbers: dict[tuple[int, Rule], int] = {}
        self._everywhere: list[int] = []
        self._patterns: list[int] = []
        self._reports: list[ListReport] = []

    def add(self, source: ListSource, form: str, entries: Iterable[Entry], tally: Tally) -> None:
        at, count = len(self._reports), 0
        meant = lru_cache(1024)(lambda rule: self._number(at, _for(source, rule)))
        keys, pairs = self._keys.append, self._pairs.append
        room = MAX_NAMES - len(self._keys)
        try:
            for name, rule in entries:
                number = meant(rule)
                if number < 0:
                    tally.fault(0, _REFUSED[number])
                    continue
                if name:
                    keys(name[::-1] + b".")
                    pairs(number)
                elif name is None and len(self._patterns) >= MAX_PATTERNS:
                    tally.fault(0, f"more than {MAX_PATTERNS} patterns without a fixed end")
                    continue
                else:
                    (self._patterns if name is None else self._everywhere).append(number)
                count += 1
                if count > room:
                    raise BadWire(f"more than {MAX_NAMES} names in all lists")
        except BadWire as fault:
            tally.fault(0, str(fault))
        self._reports.append(ListReport(source.name, form, count, tally.faulty, tally.passed_over, tuple(tally.faults)))

    def _number(self, at: int, rule: Rule | None) -> int:
        if rule is None:
            return _NO_REWRITES
        number = self._numbers.setdefault((at, rule), len(self._numbers))
        if number >= MAX_RULES:
            del self._numbers[at, rule]
            return _TOO_MANY
        return number

    def finish(self) -> bytes:
        """The piece.  Most names have one rule, so their meaning is found in passing."""
        trie = marisa_trie.BinaryTrie(self._keys)
        meanings: dict[tuple[int, ...], int] = {}
        known: list[tuple[int, ...]] = []
        of_name = array("i", (-1,)) * len(trie)
        for key, pair in zip(self._keys, self._pairs, strict=True):
            at = trie.key_id(key)
            before = known[of_name[at]] if of_name[at] >= 0 else ()
            if pair not in before:
                meaning = (*before, pair)
                of_name[at] = number = meanings.setdefault(meaning, len(known))
                if number == len(known):
                    known.append(meaning)
        table = {
            "rules": [(at, rule_fields(rule)) for at, rule in self._numbers],
            "meanings": known,
            "everywhere": list(dict.fromkeys(self._everywhere)),
            "patterns": list(dict.fromkeys(self._patterns)),
            "reports": [asdict(report) for report in self._reports],
        }
        return pack(trie.tobytes(), of_name, len(known), table)


_NO_REWRITES, _TOO_MANY = -1, -2
_REFUSED = {
    _NO_REWRITES: "this list is not trusted to rewrite answers (rewrites: true lets it)",
    _TOO_MANY: f"more than {MAX_RULES} different rules",
}


def _for(source: ListSource, rule: Rule) -> Rule | None:
    """The rule as this list may say it."""
    if not source.rewrites and rule.rewrite is not None and rule.effect is not Effect.KEEP:
        kind = rule.rewrite
        if kind.cname or kind.rtype:
            return None
    if source.allow and rule.effect in (Effect.BLOCK, Effect.ADDRESS):
        return replace(rule, effect=Effect.ALLOW, important=True, rewrite=None)
    return rule
