"""What becomes of a question, and how the rules that hold for it are weighed against each other.

The order is AdGuard Home's: a rewrite, then an important exception, an important block, an exception, a block, and last
the address of a hosts line.  Among rewrites an alias comes first, then a response code, then an empty answer; records
make one answer together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from cyfs_ns.listrule import Effect, Rewrite, Rule

BLOCKED, FILTERED = 15, 17
"""Extended errors (RFC 8914 section 4)."""


class Action(StrEnum):
    """What becomes of a question."""

    PASS = "pass"
    ALLOW = "allow"
    """A rule spared it: its answer is not inspected either."""
    BLOCK = "block"
    REWRITE = "rewrite"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Judgement:
    """What to do, and which rule of which list said so."""

    action: Action
    list: str = ""
    rule: str = ""
    rewrites: tuple[Rewrite, ...] = ()
    """With REWRITE: one alias, one response code, or records that make the answer together."""
    ede: int = 0
    """Extended error (RFC 8914) to tell with a block: 15 blocked by the house, 17 filtered for this client."""


PASS = Judgement(Action.PASS)


class Match(NamedTuple):
    """A rule that holds for a name, and how to tell people about it."""

    rule: Rule
    list: str
    text: str
    depth: int = 0
    """Length of the name it is about, as the trie has it; 0 for patterns and rules for every name."""


def decide(found: Sequence[Match]) -> Judgement:
    """What becomes of a question for which these rules hold."""
    rewriting = _rewriting(found)
    if rewriting is not None:
        return rewriting
    best = max(found, key=_rank, default=None)
    rank = 0 if best is None else _rank(best)
    if best is None or not rank:
        return PASS
    if rank == _RANK_ADDRESS:
        return _answered([match for match in found if _rank(match) == rank])
    if best.rule.effect is Effect.ALLOW:
        return Judgement(Action.ALLOW, best.list, best.text)
    return Judgement(Action.BLOCK, best.list, best.text, ede=BLOCKED)


_RANK_ADDRESS = 1


def _rank(match: Match) -> int:
    rule = match.rule
    match rule.effect:
        case Effect.ALLOW:
            return 5 if rule.important else 3
        case Effect.BLOCK:
            return 4 if rule.important else 2
        case Effect.ADDRESS:
            return _RANK_ADDRESS
        case _:
            return 0


def _rewriting(found: Sequence[Match]) -> Judgement | None:
    kept = [match for match in found if match.rule.effect is Effect.REWRITE]
    if not kept:
        return None
    back = {match.rule.rewrite for match in found if match.rule.effect is Effect.KEEP}
    if None in back:
        return None
    kept = [match for match in kept if match.rule.rewrite not in back]
    if not kept:
        return None
    first = min(kept, key=_weight)
    return _answered([first] if _weight(first) < _RECORD else kept)


_RECORD = 3


def _weight(match: Match) -> int:
    value = match.rule.rewrite or Rewrite()
    return 0 if value.cname else 1 if value.rcode else 2 if not value.rtype else _RECORD


def _answered(kept: Sequence[Match]) -> Judgement:
    values = dict.fromkeys(match.rule.rewrite for match in kept if match.rule.rewrite is not None)
    return Judgement(Action.REWRITE, kept[0].list, kept[0].text, tuple(values))
