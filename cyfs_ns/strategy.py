"""Which of several servers to ask first, which next and when: decided from what was learnt, carried out by others.

*staggered* asks the first server and, each time one fails or stays silent for longer than it usually needs, the next
one too.  *strict* does the same with more patience, for servers that do not know the same names.  *fastest* begins
with the server that answers soonest, and now and then with another, since yesterday's fastest need not be today's.
*weighted* begins with one drawn by weight.  *parallel* asks several at once.  In all of them the first sound answer
wins, so that a dead server costs a client a pause and never a failure.

What is learnt of a server: how long it takes (a moving average), and whether it is to be *set back*, that is asked only
after all others.  A server is set back when it failed or stayed silent while another one answered: at once if it had
never answered or is on probation, else at the third time without an answer between.  Set back for two seconds, then
four and so on up to a minute; when the time is over the server is *probed*, which is a question whose answer no client
waits for, and any answer brings it back.

Time is passed in, in seconds of any one clock, and so is chance.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, NamedTuple, TypeAlias, TypeVar

K = TypeVar("K", bound=Hashable)

Kind: TypeAlias = Literal["staggered", "parallel", "fastest", "strict", "weighted"]

_UNKNOWN_PATIENCE = 0.15  # seconds: longer than a healthy server needs, too short for people to notice
_LEAST_PATIENCE, _MOST_PATIENCE = 0.02, 1.0
_STRICT_PATIENCE = 0.4
_SOFT, _SOFTER = 0.125, 0.25  # weight of a new sample in the average; of one that is only a lower bound
_FIRST_PAUSE, _LONGEST_PAUSE = 2.0, 60.0
_MISSES = 3
_EXPLORE = 0.03  # share of questions for which "fastest" begins with another server


@dataclass(frozen=True, slots=True)
class Strategy:
    """How a group of servers is asked; see the module's text."""

    kind: Kind = "staggered"
    at_once: int = 0
    """For ``parallel``: how many are asked together; 0: all."""
    weights: tuple[float, ...] = ()
    """For ``weighted``: one for each server, in their order; those missing count 1."""


class Plan(NamedTuple, Generic[K]):
    """What to do with one question."""

    order: tuple[K, ...]
    at_once: int
    """How many of ``order`` are asked without waiting."""
    probe: K | None
    """A server that was set back and should be asked besides, its answer only noted."""


@dataclass(slots=True)
class Score:
    """What is known of one server.  For reading; :class:`Scores` writes it."""

    rtt: float = 0.0
    """Moving average of the seconds to an answer; 0.0: never answered."""
    answers: int = 0
    failures: int = 0
    misses: int = 0
    """How often in a row it failed or was silent while another answered."""
    set_back_until: float | None = None
    """Set back, and from when on it may be probed."""
    pause: float = 0.0
    last_fault: str = ""


class Scores(Generic[K]):
    """The memory of a house about its servers.  ``chance`` gives numbers from 0 up to 1."""

    def __init__(self, chance: Callable[[], float]) -> None:
        self._chance = chance
        self._scores: dict[K, Score] = {}
        self._set_back: dict[K, Score] = {}

    def of(self, key: K) -> Score:
        score = self._scores.get(key)
        if score is None:
            score = self._scores[key] = Score()
        return score

    def clear(self) -> None:
        self._scores.clear()
        self._set_back.clear()

    def plan(self, strategy: Strategy, keys: Sequence[K], now: float) -> Plan[K]:
        """How to ask ``keys``, of which there is at least one, each once."""
        kind = strategy.kind
        order = tuple(keys)
        if kind == "fastest":
            order = self._by_speed(order)
        elif kind == "weighted":
            order = self._by_weight(order, strategy.weights)
        healthy, probe = len(order), None
        if self._set_back:
            well = tuple(key for key in order if key not in self._set_back)
            if len(well) < len(order):
                ill = sorted((key for key in order if key in self._set_back), key=self._return)
                healthy, order = len(well), (*well, *ill)
                if well and self._return(ill[0]) <= now:
                    probe = ill[0]
                    score = self._set_back[probe]
                    score.set_back_until = now + score.pause
        at_once = 1
        if kind == "parallel":
            at_once = max(1, min(strategy.at_once or len(order), healthy or len(order)))
        return Plan(order, at_once, probe)

    def patience(self, key: K, kind: Kind) -> float:
        """How many seconds to wait for ``key`` alone before the next server is asked too."""
        score = self._scores.get(key)
        rtt = score.rtt if score is not None else 0.0
        if kind == "strict":
            return max(_STRICT_PATIENCE, min(4 * rtt, _MOST_PATIENCE))
        return max(_LEAST_PATIENCE, min(1.5 * rtt, _MOST_PATIENCE)) if rtt else _UNKNOWN_PATIENCE

    def answered(self, key: K, took: float) -> None:
        """A sound answer after ``took`` seconds."""
        score = self._scores.get(key) or self.of(key)
        score.answers += 1
        score.misses = 0
        score.rtt = score.rtt + (took - score.rtt) * _SOFT if score.rtt else took or 1e-6
        if score.set_back_until is not None:
            score.set_back_until = None
            score.pause = 0.0
            del self._set_back[key]

    def unsound(self, key: K, now: float, why: str) -> None:
        """It answered, but with an error of its own such as SERVFAIL, while another server had an answer."""
        self._miss(self.of(key), key, now, why, _MISSES)

    def failed(self, key: K, now: float, why: str) -> None:
        """No answer could be had from it, while another server had one."""
        self._miss(self.of(key), key, now, why, 1)

    def only_noted(self, key: K, why: str) -> None:
        """It failed as all others did, which says more about our own link than about servers."""
        score = self.of(key)
        score.failures += 1
        score.last_fault = why

    def overtaken(self, key: K, waited: float, now: float, kind: Kind = "staggered") -> None:
        """Another server's answer came while this one had been silent for ``waited`` seconds."""
        score = self.of(key)
        if waited < self.patience(key, kind):
            return
        if score.rtt:
            score.rtt += max(0.0, waited - score.rtt) * _SOFTER
        self._miss(score, key, now, "silent", _MISSES if score.answers else 1)

    def _miss(self, score: Score, key: K, now: float, why: str, limit: int) -> None:
        score.failures += 1
        score.misses += 1
        score.last_fault = why
        if score.set_back_until is not None or score.misses >= limit:
            score.pause = min(max(_FIRST_PAUSE, score.pause * 2), _LONGEST_PAUSE)
            score.set_back_until = now + score.pause
            self._set_back[key] = score

    def _return(self, key: K) -> float:
        return self._set_back[key].set_back_until or 0.0

    def _by_speed(self, order: tuple[K, ...]) -> tuple[K, ...]:
        # A server never asked counts as the fastest: that is how it gets asked.
        ranked = sorted(order, key=lambda key: self.of(key).rtt)
        if len(ranked) > 1 and self._chance() < _EXPLORE:
            ranked.insert(0, ranked.pop(1 + int(self._chance() * (len(ranked) - 1))))
        return tuple(ranked)

    def _by_weight(self, order: tuple[K, ...], weights: tuple[float, ...]) -> tuple[K, ...]:
        # Efraimidis and Spirakis: the largest of u ** (1/w) is drawn with probability proportional to w.
        padded = (*weights, *(1.0 for _ in order[len(weights) :]))
        drawn = {
            key: self._chance() ** (1 / weight) if weight > 0 else -1.0
            for key, weight in zip(order, padded, strict=False)
        }
        return tuple(sorted(order, key=drawn.__getitem__, reverse=True))
