"""What clients of a store did and were told, and whether one store with one order of revisions can have told it.

A client notes every request with the time at which it was sent and the time at which the answer came, by one clock for
all of them.  Every write has a mark of its own, which all values have that it writes, so whoever sees a value knows who
wrote it.  What is checked:

* Each revision has one content, whoever tells it: the answer to the write, a reading, a watch.
* A write that was acknowledged is at the revision that the answer named, once and whole.  One that was refused is
  nowhere.  One whose answer is missing is nowhere or at one revision.
* What a write was conditional on held just before its revision, and what it appended to is what was there then.
* Keys go away by a write, or with their lease; no lease ends before its time.
* A reading shows what all writes up to its revision left, the count of writes of each key included.
* What was answered before something else was asked has a lower revision, or no higher one if nothing was written.  With
  the revisions for an order, that makes all writes and fresh readings linearizable.
* A watch tells every change of its keys, each once, whole, and in the order of revisions.

So a last reading of everything proves that every acknowledged write is there, or what a later one made of it.  The
check believes that all watches together saw every revision; what none of them saw shows as a wrong count of writes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, TypeAlias

Value: TypeAlias = str | tuple[str, ...]
"""The mark of who wrote it, or of all who appended to it."""

MOST_TOLD: Final = 50
"""Contradictions that are told: one that is wrong makes many."""


class Outcome(Enum):
    """What the client knows of a write."""

    DONE = "done"
    REFUSED = "refused"
    """Nothing was written."""
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Put:
    """The key has the mark from now on."""

    key: str
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Add:
    """The mark is appended to the key's array, which is there."""

    key: str


@dataclass(frozen=True, slots=True)
class Begin:
    """The key, which is absent, becomes an array of the mark."""

    key: str


@dataclass(frozen=True, slots=True)
class Drop:
    """The key, which is there, goes."""

    key: str


Action: TypeAlias = Put | Add | Begin | Drop


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """A transaction: all of ``actions``, of which one is no ``Drop``.

    Each key of ``guards`` was to be written last by that revision (0: absent).
    """

    mark: str
    actions: tuple[Action, ...]
    guards: Mapping[str, int] = field(default_factory=dict)
    outcome: Outcome
    revision: int = 0
    """As it was acknowledged."""
    began: float
    ended: float


@dataclass(frozen=True, slots=True)
class Seen:
    """A key as a revision left it.  ``value``: None where it was deleted."""

    key: str
    value: Value | None
    revision: int
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """All keys that begin with ``scope``.  One that is not ``fresh`` may be of the past."""

    who: str
    scope: str
    revision: int
    entries: tuple[Seen, ...]
    fresh: bool = True
    began: float
    ended: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What one poll of a watch told of keys that begin with ``scope``: all changes ``after`` one revision ``through``
    another."""

    who: str
    scope: str
    after: int
    through: int
    changes: tuple[Seen, ...]
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """One that was granted for ``ttl`` seconds."""

    number: int
    ttl: float
    kept: float
    """When the last request was sent that granted or renewed it and was acknowledged."""
    given_up: float | None = None
    """When the client asked for its end."""


@dataclass(frozen=True, slots=True)
class History:
    """All of it, in any order; what each watch told in the order in which it told it."""

    writes: tuple[Write, ...] = ()
    reads: tuple[Read, ...] = ()
    told: tuple[Told, ...] = ()
    leases: tuple[Lease, ...] = ()


def contradictions(history: History) -> list[str]:
    """What no store that keeps its word can have told, at most ``MOST_TOLD``; empty: all is well."""
    check = _Check(history)
    found = [*check.contents(), *check.writes(), *check.replay(), *check.order(), *check.watches()]
    return list(dict.fromkeys(found))[:MOST_TOLD]


class _Check:
    def __init__(self, history: History) -> None:
        self._history = history
        self._by_mark = {write.mark: write for write in history.writes}
        self._leases = {lease.number: lease for lease in history.leases}
        self._seen: dict[int, dict[str, Seen]] = defaultdict(dict)
        """Every revision as anybody told it."""
        self._at: dict[int, Write] = {}
        """Whose each revision is."""
        self._first_told: dict[int, float] = {}

    def contents(self) -> Iterator[str]:
        for who, seen in self._sightings():
            known = self._seen[seen.revision].setdefault(seen.key, seen)
            if known != seen:
                yield f"revision {seen.revision} has two contents of {seen.key}: {known}, and {seen} for {who}"
        for told in self._history.told:
            for seen in told.changes:
                self._first_told[seen.revision] = min(told.at, self._first_told.get(seen.revision, told.at))

    def _sightings(self) -> Iterator[tuple[str, Seen]]:
        for read in self._history.reads:
            for seen in read.entries:
                yield read.who, seen
        for told in self._history.told:
            for seen in told.changes:
                yield told.who, seen

    def writes(self) -> Iterator[str]:
        found: dict[str, int] = {}
        for revision in sorted(self._seen):
            for seen in self._seen[revision].values():
                if seen.value is None:
                    continue
                mark = seen.value if isinstance(seen.value, str) else seen.value[-1]
                write = self._by_mark.get(mark)
                if write is None:
                    yield f"revision {revision}: nobody wrote {mark!r} to {seen.key}"
                elif write.outcome is Outcome.REFUSED:
                    yield f"revision {revision}: {mark} is there, and was refused"
                elif found.setdefault(mark, revision) != revision:
                    yield f"{mark} was done twice, at {found[mark]} and {revision}"
                elif self._at.setdefault(revision, write) is not write:
                    yield f"revision {revision} is of {self._at[revision].mark} and of {mark}"
                elif write.outcome is Outcome.DONE and write.revision != revision:
                    yield f"{mark} was acknowledged at {write.revision}, and is at {revision}"
        for write in self._history.writes:
            if write.outcome is Outcome.DONE and self._at.setdefault(write.revision, write) is not write:
                yield f"{write.mark} was acknowledged at {write.revision}, which is {self._at[write.revision].mark}'s"

    def replay(self) -> Iterator[str]:
        """From revision to revision: conditions, contents, and what readings show."""
        state: dict[str, Seen] = {}
        leased: dict[str, int] = {}
        reads = sorted(self._history.reads, key=lambda read: read.revision)
        place = 0
        for revision in sorted(self._seen.keys() | self._at.keys()):
            while place < len(reads) and reads[place].revision < revision:
                yield from _shows(reads[place], state)
                place += 1
            seen, write = self._seen.get(revision, {}), self._at.get(revision)
            if write is not None:
                yield from _held(write, revision, state)
                after = _after(write, revision, state)
                for action in write.actions:
                    leased.pop(action.key, None)
                    if isinstance(action, Put) and action.lease:
                        leased[action.key] = action.lease
            else:
                after = {}
                for key, one in seen.items():
                    yield from self._went(one, state.get(key), leased.pop(key, 0))
                    after[key] = Seen(key, None, revision, 0)
            for key, one in seen.items():
                if key not in after or after[key] != one:
                    yield f"revision {revision}: {one}, where {after.get(key, 'nothing')} was written"
            for key, one in after.items():
                if one.value is None:
                    state.pop(key, None)
                else:
                    state[key] = one
        for read in reads[place:]:
            yield from _shows(read, state)

    def _went(self, seen: Seen, before: Seen | None, number: int) -> Iterator[str]:
        lease = self._leases.get(number)
        if seen.value is not None:
            return  # of a mark that is nobody's, which was told
        if before is None or lease is None:
            yield f"revision {seen.revision}: nobody deleted {seen.key}"
        elif (at := self._first_told.get(seen.revision)) is not None:
            is_over = at >= lease.kept + lease.ttl or (lease.given_up is not None and at >= lease.given_up)
            if not is_over:
                early = lease.kept + lease.ttl - at
                yield f"revision {seen.revision}: {seen.key} went {early:.2f} s before lease {number} was over"

    def order(self) -> Iterator[str]:
        """Answers and the requests after them."""
        answers: list[tuple[float, int, str]] = []
        asked: list[tuple[float, int, bool, str]] = []
        revision_of = {write.mark: revision for revision, write in self._at.items()}
        for write in self._history.writes:
            if write.outcome is Outcome.DONE:
                answers.append((write.ended, write.revision, write.mark))
            if (revision := revision_of.get(write.mark)) is not None:
                asked.append((write.began, revision, True, write.mark))
        for read in self._history.reads:
            answers.append((read.ended, read.revision, f"a reading of {read.who}"))
            if read.fresh:
                asked.append((read.began, read.revision, False, f"a reading of {read.who}"))
        for told in self._history.told:
            answers.append((told.at, told.through, f"a watch of {told.who}"))
        answers.sort()
        highest, whose, place = 0, "", 0
        for began, revision, is_write, who in sorted(asked):
            while place < len(answers) and answers[place][0] < began:
                if answers[place][1] > highest:
                    _, highest, whose = answers[place]
                place += 1
            if revision < highest or (is_write and revision == highest):
                yield f"{who} is at {revision}, and was asked for after {whose} had been answered at {highest}"

    def watches(self) -> Iterator[str]:
        streams: dict[tuple[str, str], list[Told]] = defaultdict(list)
        for told in self._history.told:
            streams[told.who, told.scope].append(told)
        known = sorted((revision, key) for revision, seen in self._seen.items() for key in seen)
        written = {
            (revision, action.key)
            for revision, write in self._at.items()
            for action in write.actions
            if (revision, action.key) not in self._seen.get(revision, {})
        }
        every = sorted({*known, *written})
        for (who, scope), stream in streams.items():
            heard: set[tuple[int, str]] = set()
            spans: list[tuple[int, int]] = []
            last = 0
            for told in stream:
                spans.append((told.after, told.through))
                last = max(last, told.after)
                for seen in told.changes:
                    if seen.revision < last or not told.after < seen.revision <= told.through:
                        yield f"{who} was told of revision {seen.revision} after {last}"
                    if (seen.revision, seen.key) in heard:
                        yield f"{who} was told twice of {seen.key} at revision {seen.revision}"
                    last = max(last, seen.revision)
                    heard.add((seen.revision, seen.key))
            for revision, key in _within(every, spans):
                if key.startswith(scope) and (revision, key) not in heard:
                    yield f"{who} was not told of {key} at revision {revision}"


def _within(every: Iterable[tuple[int, str]], spans: list[tuple[int, int]]) -> Iterator[tuple[int, str]]:
    """Those whose revision is in one of ``spans``."""
    joined: list[tuple[int, int]] = []
    for begin, end in sorted(spans):
        if joined and begin <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(joined[-1][1], end)
        else:
            joined.append((begin, end))
    place = 0
    for revision, key in every:
        while place < len(joined) and joined[place][1] < revision:
            place += 1
        if place < len(joined) and joined[place][0] < revision:
            yield revision, key


def _held(write: Write, revision: int, state: Mapping[str, Seen]) -> Iterator[str]:
    """What ``write`` was conditional on, and was not so."""
    for key, wanted in write.guards.items():
        found = state[key].revision if key in state else 0
        if found != wanted:
            yield f"{write.mark} at {revision} was to follow {wanted} of {key}, and followed {found}"
    for action in write.actions:
        if isinstance(action, Add | Drop) and action.key not in state:
            yield f"{write.mark} at {revision} needed {action.key}, which was absent"
        if isinstance(action, Begin) and action.key in state:
            yield f"{write.mark} at {revision} made {action.key}, which was there"


def _after(write: Write, revision: int, state: Mapping[str, Seen]) -> dict[str, Seen]:
    """The keys of ``write`` as it leaves them."""
    after = {}
    for action in write.actions:
        before = state.get(action.key)
        version = 1 if before is None else before.version + 1
        value: Value = write.mark
        if isinstance(action, Begin):
            value = (write.mark,)
        if isinstance(action, Add):
            there = () if before is None or not isinstance(before.value, tuple) else before.value
            value = (*there, write.mark)
        is_there = not isinstance(action, Drop)
        after[action.key] = Seen(action.key, value if is_there else None, revision, version if is_there else 0)
    return after


def _shows(read: Read, state: Mapping[str, Seen]) -> Iterator[str]:
    """Where ``read`` differs from what was there."""
    there = {key: seen for key, seen in state.items() if key.startswith(read.scope)}
    shown = {seen.key: seen for seen in read.entries}
    for key in sorted(there.keys() | shown.keys()):
        if there.get(key) != shown.get(key):
            yield f"{read.who} read {shown.get(key)} at {read.revision}, where {there.get(key, f'no {key}')} was"
