"""What happens to the machines of a zone, and when: drawn from a seed, so that it can happen again.

Faults come in rounds, with a rest after each.  In most rounds one machine is hit, by one fault or by two at once, and
the others form a majority; in some, there is none for a while.  Kinds are dealt like cards, so all of them come before
one comes again.  At the end everything is as it was, and some seconds of rest are left.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import permutations
from typing import Final

Cable = tuple[str, str]
"""From one machine to another; the other direction is another one."""


class Kind(Enum):
    """What happens, and what it is followed by."""

    KILL_DAEMON = "the daemon is killed, and started again later"
    KILL_MEMBER = "the member of etcd is killed"
    CUT_POWER = "all processes end at once, and the daemon is started later"
    STOP = "the daemon is asked to end, and started again later"
    FREEZE = "daemon and member do nothing for a while"
    CUT_CABLES = "packets in some directions are lost for a while"
    JUMP = "the daemon's clock is wrong for a while"
    FILL = "the disk is full for a while"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One of them: from ``at``, seconds after the beginning, for ``lasts`` seconds."""

    kind: Kind
    at: float
    lasts: float
    who: str
    """The machine; with cables, where most of them end."""
    cables: frozenset[Cable] = frozenset()
    by: int = 0
    """Seconds that the clock is ahead."""

    @property
    def ends(self) -> float:
        return self.at + self.lasts

    @property
    def hurts(self) -> frozenset[str]:
        """The machines that may be no use to others meanwhile."""
        if self.kind is Kind.JUMP:
            return frozenset()
        return frozenset({self.who, *(end for cable in self.cables for end in cable if self.is_split)})

    @property
    def is_split(self) -> bool:
        """Whether the cables that are cut belong to more than one machine."""
        return any(self.who not in cable for cable in self.cables)

    def __str__(self) -> str:
        more = f" by {self.by} s" if self.by else ""
        more += "".join(f", {one} to {other}" for one, other in sorted(self.cables))
        return f"{self.at:7.1f} s, for {self.lasts:4.1f} s: {self.who}: {self.kind.value}{more}"


_LASTS: Final = (2.0, 12.0)
_REST: Final = (4.0, 10.0)
_WORST_REST: Final = (10.0, 15.0)
"""After there was no majority: until then nothing is written."""
_JUMPS: Final = (-86_400, -3600, -30, -5, 5, 30, 3600, 86_400, 90 * 86_400)
_WORST: Final = 0.15
"""How often most machines are hit at once."""
_TWO: Final = 0.3
"""How often one machine is hit by two faults."""


def plan(seed: int, seconds: float, names: Sequence[str]) -> tuple[Fault, ...]:
    """The faults of so many ``seconds``, in the order in which they begin."""
    dice = random.Random(seed)
    cards = _dealt(dice)
    faults: list[Fault] = []
    now = dice.uniform(1, 3)
    while True:
        lasts = dice.uniform(*_LASTS)
        is_worst = bool(faults) and dice.random() < _WORST
        rest = dice.uniform(*(_WORST_REST if is_worst else _REST))
        if now + lasts + rest > seconds:
            return tuple(sorted(faults, key=lambda fault: fault.at))
        if is_worst:
            faults += _worst(dice, next(cards), now, lasts, names)
        else:
            who = dice.choice(names)
            faults.append(_one(dice, next(cards), now, lasts, who, names))
            if dice.random() < _TWO:
                kind = next(cards)
                if kind is not faults[-1].kind:
                    begin = dice.uniform(0, lasts / 2)
                    faults.append(_one(dice, kind, now + begin, lasts - begin, who, names))
        now += lasts + rest


def _dealt(dice: random.Random) -> Iterator[Kind]:
    while True:
        # The most usual on bad days come twice.
        cards = [*Kind, Kind.CUT_CABLES, Kind.CUT_POWER]
        dice.shuffle(cards)
        yield from cards


def _one(dice: random.Random, kind: Kind, at: float, lasts: float, who: str, names: Sequence[str]) -> Fault:
    cables: frozenset[Cable] = frozenset()
    if kind is Kind.CUT_CABLES:
        cables = _cut(dice, who, [name for name in names if name != who])
    by = dice.choice(_JUMPS) if kind is Kind.JUMP else 0
    return Fault(kind=kind, at=at, lasts=lasts, who=who, cables=cables, by=by)


def _cut(dice: random.Random, who: str, others: Sequence[str]) -> frozenset[Cable]:
    """Cables of ``who``: all or those of one neighbour, both directions or one."""
    far = dice.choice([others, [dice.choice(others)]])
    there, back = {(who, other) for other in far}, {(other, who) for other in far}
    return frozenset(dice.choice([there | back, there | back, there, back]))


def _worst(dice: random.Random, kind: Kind, at: float, lasts: float, names: Sequence[str]) -> list[Fault]:
    """No majority: all cables are cut, or most machines are hit by the same."""
    if kind is Kind.CUT_CABLES:
        return [Fault(kind=Kind.CUT_CABLES, at=at, lasts=lasts, who=names[0], cables=frozenset(permutations(names, 2)))]
    who = dice.sample(list(names), dice.choice([len(names) // 2 + 1, len(names)]))
    return [_one(dice, kind, at, lasts, each, names) for each in who]
