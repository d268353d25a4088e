"""The check of histories sees each way in which a store can break its word, and nothing where it keeps it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import count

import pytest

from tests.zone.chaos.history import (
    Action,
    Add,
    Begin,
    Drop,
    History,
    Lease,
    Outcome,
    Put,
    Read,
    Seen,
    Told,
    Write,
    contradictions,
)

ALL = "z/"
TTL = 5.0
STEPS = 300
SEEDS = range(12)


@dataclass
class Store:
    """A store that keeps its word, with all its revisions."""

    state: dict[str, Seen] = field(default_factory=dict)
    log: list[tuple[Seen, ...]] = field(default_factory=list)

    @property
    def revision(self) -> int:
        return len(self.log)

    def write(self, mark: str, actions: tuple[Action, ...], guards: dict[str, int]) -> int:
        """0: it could not be done."""
        if any(self.at(key) != wanted for key, wanted in guards.items()):
            return 0
        if any(isinstance(action, Add | Drop) and action.key not in self.state for action in actions):
            return 0
        if any(isinstance(action, Begin) and action.key in self.state for action in actions):
            return 0
        self.commit(tuple(self.made(action, mark) for action in actions))
        return self.revision

    def commit(self, seen: tuple[Seen, ...]) -> None:
        self.log.append(seen)
        for one in seen:
            if one.value is None:
                del self.state[one.key]
            else:
                self.state[one.key] = one

    def made(self, action: Action, mark: str) -> Seen:
        before, revision = self.state.get(action.key), self.revision + 1
        if isinstance(action, Drop):
            return Seen(action.key, None, revision, 0)
        version = before.version + 1 if before else 1
        if isinstance(action, Put):
            return Seen(action.key, mark, revision, version)
        there = before.value if before is not None and isinstance(before.value, tuple) else ()
        return Seen(action.key, (*there, mark), revision, version)

    def at(self, key: str) -> int:
        return self.state[key].revision if key in self.state else 0

    def shown(self, scope: str) -> tuple[Seen, ...]:
        return tuple(seen for key, seen in sorted(self.state.items()) if key.startswith(scope))

    def since(self, after: int, through: int, scope: str) -> tuple[Seen, ...]:
        return tuple(one for seen in self.log[after:through] for one in seen if one.key.startswith(scope))


@dataclass
class Life:
    """What clients of a store note who come one after the other, at whole seconds."""

    seed: int
    store: Store = field(default_factory=Store)
    writes: list[Write] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)
    leases: list[Lease] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)
        self.now = 0.0
        self.marks = count()
        self.heard = {"one": 0, "other": 0}
        self.late: list[tuple[str, tuple[Action, ...], dict[str, int]]] = []
        """Whose answers are missing, and which may yet be done."""

    def live(self) -> History:
        for _ in range(STEPS):
            self.now += 1
            self.dice.choice([self.put, self.compare, self.swap, self.append, self.read, self.poll, self.lease])()
            if self.late and self.dice.random() < 0.3:
                self.store.write(*self.late.pop())
        self.now += 1
        self.look(ALL)
        for who in self.heard:
            self.hear(who)
        return self.history()

    def history(self) -> History:
        return History(tuple(self.writes), tuple(self.reads), tuple(self.told), tuple(self.leases))

    def key(self) -> str:
        return f"z/r{self.dice.randrange(4)}"

    def write(self, *actions: Action, guards: dict[str, int] | None = None) -> bool:
        mark, revision, outcome = f"m{next(self.marks)}", 0, Outcome.UNKNOWN
        fate = self.dice.random()
        if fate < 0.1:
            self.late.append((mark, actions, guards or {}))
        elif fate > 0.15:  # between the two it is lost
            revision = self.store.write(mark, actions, guards or {})
            outcome = Outcome.DONE if revision else Outcome.REFUSED
            if self.dice.random() < 0.05:
                revision, outcome = 0, Outcome.UNKNOWN
        self.writes.append(
            Write(
                mark=mark,
                actions=actions,
                guards=guards or {},
                outcome=outcome,
                revision=revision,
                began=self.now,
                ended=self.now + 0.5,
            )
        )
        return outcome is not Outcome.REFUSED

    def put(self) -> None:
        self.write(Put(self.key()))

    def compare(self) -> None:
        key = self.key()
        wanted = self.store.at(key) if self.dice.random() < 0.8 else 1
        self.write(Put(key), guards={key: wanted})

    def swap(self) -> None:
        one, other = self.dice.sample(range(4), 2)
        self.write(Drop(f"z/r{one}"), Put(f"z/r{other}"))

    def append(self) -> None:
        if not self.write(Add("z/a")):
            self.write(Begin("z/a"))

    def lease(self) -> None:
        """A key with a lease, which is over later on."""
        number = len(self.leases) + 1
        key = f"z/l{number}"
        self.leases.append(Lease(number=number, ttl=TTL, kept=self.now))
        mark = f"m{next(self.marks)}"
        revision = self.store.write(mark, (Put(key, number),), {})
        done = Write(
            mark=mark,
            actions=(Put(key, number),),
            outcome=Outcome.DONE,
            revision=revision,
            began=self.now,
            ended=self.now,
        )
        self.writes.append(done)
        self.now += TTL + 1
        self.store.commit((Seen(key, None, self.store.revision + 1, 0),))
        self.hear("one")

    def read(self) -> None:
        self.look("z/r")

    def look(self, scope: str) -> None:
        seen = Read(
            who="a reader",
            scope=scope,
            revision=self.store.revision,
            entries=self.store.shown(scope),
            began=self.now,
            ended=self.now + 0.5,
        )
        self.reads.append(seen)

    def poll(self) -> None:
        self.hear(self.dice.choice(sorted(self.heard)))

    def hear(self, who: str) -> None:
        after, through = self.heard[who], self.store.revision
        self.heard[who] = through
        changes = self.store.since(after, through, ALL)
        at = self.now + 0.5
        self.told.append(Told(who=who, scope=ALL, after=after, through=through, changes=changes, at=at))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_store_that_keeps_its_word(seed: int) -> None:
    history = Life(seed).live()
    assert contradictions(history) == []
    assert {write.outcome for write in history.writes} == set(Outcome)


# -- stores that do not


def _some(history: History, outcome: Outcome, kind: type[Action] = Put, *, seen: bool = False) -> Write:
    """One in the middle, which watches told of if it is to be ``seen``."""
    there = {seen.revision for told in history.told for seen in told.changes}
    found = [
        write
        for write in history.writes
        if write.outcome is outcome and any(isinstance(action, kind) for action in write.actions)
        if not seen or write.revision in there
    ]
    return found[len(found) // 2]


def _instead(history: History, old: Write, **new: object) -> History:
    return replace(history, writes=tuple(replace(w, **new) if w is old else w for w in history.writes))


def _retold(history: History, change: Callable[[Told], Told]) -> History:
    """With one poll changed, of those that told two revisions or more."""
    long = [told for told in history.told if len({seen.revision for seen in told.changes}) > 1]
    old = long[len(long) // 2]
    return replace(history, told=tuple(change(told) if told is old else told for told in history.told))


def _reread(history: History, change: Callable[[Read], Read]) -> History:
    *others, last = history.reads
    return replace(history, reads=(*others, change(last)))


def lost(history: History) -> History:
    """The last reading and all watches miss a write that was acknowledged."""
    write = next(
        w for w in reversed(history.writes) if w.outcome is Outcome.DONE and isinstance(w.actions[-1], Put | Add)
    )

    def without(seen: tuple[Seen, ...]) -> tuple[Seen, ...]:
        return tuple(one for one in seen if one.revision != write.revision)

    told = tuple(replace(one, changes=without(one.changes)) for one in history.told)
    reads = tuple(replace(one, entries=without(one.entries)) for one in history.reads)
    return replace(history, told=told, reads=reads)


def refused_and_done(history: History) -> History:
    return _instead(history, _some(history, Outcome.DONE, seen=True), outcome=Outcome.REFUSED, revision=0)


def at_another_revision(history: History) -> History:
    write = _some(history, Outcome.DONE, seen=True)
    return _instead(history, write, revision=write.revision + 1)


def without_its_condition(history: History) -> History:
    return _instead(history, _some(history, Outcome.DONE, seen=True), guards={"z/r0": 10**6})


def of_nobody(history: History) -> History:
    write = _some(history, Outcome.DONE, seen=True)
    return replace(history, writes=tuple(w for w in history.writes if w is not write))


def half_done(history: History) -> History:
    """It was to write another key, too."""
    write = _some(history, Outcome.DONE, seen=True)
    return _instead(history, write, actions=(*write.actions, Put("z/r9")))


def more_than_asked(history: History) -> History:
    write = next(w for w in history.writes if w.outcome is Outcome.DONE and len(w.actions) == 2)
    return _instead(history, write, actions=write.actions[1:])


def appended_to_something_else(history: History) -> History:
    def cut(seen: Seen) -> Seen:
        is_long = isinstance(seen.value, tuple) and len(seen.value) == 3
        return replace(seen, value=seen.value[1:]) if is_long and seen.value else seen

    told = tuple(replace(one, changes=tuple(map(cut, one.changes))) for one in history.told)
    return replace(history, told=told, reads=())


def twice(history: History) -> History:
    """A write that was tried again by somebody, and done again behind everything else."""
    write = _some(history, Outcome.DONE, seen=True)
    last = max(told.through for told in history.told)
    again = Seen("z/r8", write.mark, last + 1, 1)
    told = Told(who="one", scope=ALL, after=last, through=last + 1, changes=(again,), at=10**6)
    return replace(history, told=(*history.told, told))


def two_contents(history: History) -> History:
    def other(told: Told) -> Told:
        return replace(told, changes=(replace(told.changes[0], value="m0", version=77), *told.changes[1:]))

    return _retold(history, other)


def unheard(history: History) -> History:
    return _retold(history, lambda told: replace(told, changes=told.changes[1:]))


def heard_twice(history: History) -> History:
    return _retold(history, lambda told: replace(told, changes=(told.changes[0], *told.changes)))


def out_of_order(history: History) -> History:
    return _retold(history, lambda told: replace(told, changes=told.changes[::-1]))


def heard_again_later(history: History) -> History:
    long = [told for told in history.told if told.changes]
    return replace(history, told=(*history.told, replace(long[0], at=10**6)))


def stale(history: History) -> History:
    """A reading that is said to be fresh, and shows the past rightly."""
    early = history.reads[2]
    return replace(history, reads=(*history.reads, replace(early, began=10**6, ended=10**6 + 1)))


def from_the_future(history: History) -> History:
    """A write that began after its revision had been read."""
    write = _some(history, Outcome.DONE, seen=True)
    return _instead(history, write, began=10**6, ended=10**6)


def unknown_from_the_future(history: History) -> History:
    write = _some(history, Outcome.DONE, seen=True)
    return _instead(history, write, outcome=Outcome.UNKNOWN, revision=0, began=10**6, ended=10**6)


def wrong_reading(history: History) -> History:
    return _reread(history, lambda read: replace(read, entries=read.entries[1:]))


def hidden(history: History) -> History:
    """A write that nobody knows of, of whom nothing is left but the count."""
    return _reread(
        history, lambda read: replace(read, entries=(replace(read.entries[0], version=99), *read.entries[1:]))
    )


def deleted_by_nobody(history: History) -> History:
    write = next(w for w in history.writes if w.outcome is Outcome.DONE and isinstance(w.actions[0], Drop))

    def only_gone(seen: tuple[Seen, ...]) -> tuple[Seen, ...]:
        return tuple(one for one in seen if one.revision != write.revision or one.value is None)

    told = tuple(replace(one, changes=only_gone(one.changes)) for one in history.told)
    return History(tuple(w for w in history.writes if w is not write), (), told, history.leases)


def lease_cut_short(history: History) -> History:
    return replace(history, leases=tuple(replace(lease, ttl=TTL + 60) for lease in history.leases))


FAULTS: dict[Callable[[History], History], str] = {
    lost: "was not told of|where Seen|where no z",
    refused_and_done: "is there, and was refused",
    at_another_revision: "was acknowledged at",
    without_its_condition: "was to follow 1000000",
    of_nobody: "nobody wrote",
    half_done: "was not told of z/r9",
    more_than_asked: "where nothing was written",
    appended_to_something_else: "where Seen",
    twice: "was done twice",
    two_contents: "has two contents",
    unheard: "was not told of",
    heard_twice: "was told twice",
    out_of_order: "was told of revision",
    heard_again_later: "was told twice",
    stale: "had been answered at",
    from_the_future: "had been answered at",
    unknown_from_the_future: "had been answered at",
    wrong_reading: "a reader read None",
    hidden: "version=99",
    deleted_by_nobody: "nobody deleted",
    lease_cut_short: "before lease",
}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_store_that_does_not(fault: Callable[[History], History], seed: int) -> None:
    found = contradictions(fault(Life(seed).live()))
    assert any(word in line for line in found for word in FAULTS[fault].split("|")), found
