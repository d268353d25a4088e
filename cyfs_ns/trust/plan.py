"""Whom to ask about an identity, in which order, and when to stop: decided as data, carried out elsewhere.

Providers are asked in *steps*.  What costs nothing comes first (what the name itself proves, this machine's files, what
is kept from earlier), then the nearer, then the farther; within a step all are asked at once.  The way ends
as soon as what is known reaches the level that is enough, so that a question which needs little tells little to others.
A provider that cannot reach the level asked for is asked all the same when it stands before one that can: it
may bring the key or the address that the other needs; behind the last that can, nobody is asked.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum

from cyfs_ns.identity.did import Did
from cyfs_ns.trust.evidence import IDENTITY, Kind
from cyfs_ns.trust.level import Trust


class Cost(IntEnum):
    """What asking takes; the order of the steps."""

    NOTHING = 0
    NEAR = 1
    FAR = 2
    CHAIN = 3


class Privacy(IntEnum):
    """Who learns what was asked.  A question may forbid the higher ones."""

    NOBODY = 0
    RESOLVER = 1
    HOST = 2
    SERVICE = 3

    @property
    def meaning(self) -> str:
        return (
            "nobody learns of it",
            "the DNS servers on the way",
            "the host that is asked for",
            "a service that others use too",
        )[self]


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What a provider is good for.

    ``methods`` are the DID methods it knows (empty: all); ``best`` is the highest level that what it brings can reach,
    signatures by owners known here included.
    """

    name: str
    methods: frozenset[str]
    best: Trust
    cost: Cost
    privacy: Privacy

    def serves(self, subject: Did) -> bool:
        return not self.methods or subject.method in self.methods


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A question about ``subject``, of which ``kinds`` are wanted.

    ``least`` is the level an answer must have; ``enough`` (at least ``least``) ends the search.  By default a key is
    enough for whoever is a key, and for a name what its owner says now: what was kept from earlier is for the days
    nobody can be asked.  ``stale``: whether an answer past its end will do on such days.  Nobody above ``privacy`` is
    told of the question.  ``patience``: seconds for all who are asked about somebody of a pinned zone; None: the usual.
    """

    subject: Did
    kinds: frozenset[Kind] = IDENTITY
    least: Trust = Trust.NONE
    enough: Trust | None = None
    stale: bool = False
    privacy: Privacy = Privacy.SERVICE
    patience: float | None = None

    @property
    def stop_at(self) -> Trust:
        enough = self.enough
        if enough is None:
            enough = Trust.OWNER_SIGNED if self.subject.key is None else Trust.KEY_PROVEN
        return max(self.least, enough)


@dataclass(frozen=True, slots=True)
class Step:
    """Providers that are asked at the same time, by name."""

    providers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps in order, and in ``why`` a line for each provider that was left out."""

    ask: Ask
    steps: tuple[Step, ...]
    why: tuple[str, ...] = field(default=())


def plan(ask: Ask, cards: Iterable[Card]) -> Plan:
    """Whom to ask for ``ask``."""
    why, able = [], []
    for card in cards:
        if not card.serves(ask.subject):
            continue
        if card.privacy > ask.privacy:
            why.append(f"{card.name}: not asked, {card.privacy.meaning}")
        else:
            able.append(card)
    last = max((card.cost for card in able if card.best >= ask.least), default=None)
    if last is None:
        why.extend(f"{card.name}: not asked, it reaches {card.best} at most" for card in able)
        return Plan(ask, (), tuple(why))
    steps = []
    for cost in sorted({card.cost for card in able}):
        named = tuple(card.name for card in able if card.cost == cost)
        if cost > last:
            why.extend(f"{name}: not asked, it cannot reach {ask.least}" for name in named)
        else:
            steps.append(Step(named))
    return Plan(ask, tuple(steps), tuple(why))
