"""Whatever is asked of a store, it answers like a few lines of Python that keep every state there ever was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

import pytest
import trio
from configstores import Etcd, Kind, Sqlite
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from zone.config.faults import Code, ConfigError
from zone.config.keys import At, Below, Each, Scope
from zone.config.model import (
    Action,
    Append,
    AtRevision,
    Change,
    Comparison,
    Create,
    Delete,
    Entry,
    HasValue,
    RemovePath,
    Set,
    SetPath,
    Transaction,
)
from zone.io.config.backend import Backend
from zone.io.config.store import ConfigStore

KEYS = st.sampled_from(["a", "a/b", "a/c", "b", "b/x/y", "b/y/y"])
TEXTS = st.sampled_from(["1", "[]", "[1]", "{}", '{"x":{"y":[0]}}', '"s"', "null"])
PATHS = st.sampled_from(["/x", "/x/y", "/x/y/0", "/0", "/-", "/z~1"])
ACTIONS = st.one_of(
    st.builds(Set, KEYS, TEXTS),
    st.builds(Create, KEYS, TEXTS),
    st.builds(Append, KEYS, TEXTS),
    st.builds(SetPath, KEYS, PATHS, TEXTS),
    st.builds(RemovePath, KEYS, PATHS),
    st.builds(Delete, KEYS),
)
SCOPES = st.builds(At, KEYS) | st.builds(Below, st.sampled_from(["", "a", "b", "b/x"])) | st.just(Each("b", "y"))
BACK = st.integers(0, 6)
"""How many revisions to go back."""


class Refusal(Exception):
    pass


def acted(action: Action, value: object, absent: object) -> object:
    """What ``value`` is after ``action``; ``absent`` stands for no value."""
    if isinstance(action, Set) or (isinstance(action, Create) and value is absent):
        return json.loads(action.value)
    if isinstance(action, Create) or value is absent:
        raise Refusal
    if isinstance(action, Delete):
        return absent
    value = json.loads(json.dumps(value))
    if isinstance(action, Append):
        more = json.loads(action.value)
        if isinstance(value, list):
            value.append(more)
            return value
        if isinstance(value, str) and isinstance(more, str):
            return value + more
        raise Refusal
    steps = [step.replace("~1", "/") for step in action.path[1:].split("/")]
    putting = isinstance(action, SetPath)
    place = value
    for number, step in enumerate(steps):
        last = number == len(steps) - 1
        new = json.loads(action.value) if isinstance(action, SetPath) and last else {}
        if isinstance(place, dict):
            here: object = step
            there = step in place
        elif isinstance(place, list):
            here = len(place) if step == "-" else int(step) if step.isdigit() else -1
            there = here in range(len(place))
            if putting and not there and step != "-":
                raise Refusal
        elif putting:
            raise Refusal
        else:
            return value
        if putting and (last or not there):
            if isinstance(place, list) and not there:
                place.append(new)
            else:
                place[here] = new  # type: ignore[index]
        elif not putting and (last or not there):
            if there:
                del place[here]  # type: ignore[arg-type]
            return value
        place = place[here]  # type: ignore[index,assignment]
    return value


class StoreMachine(RuleBasedStateMachine):
    kind: ClassVar[Kind]

    @initialize()
    def begin(self) -> None:
        self.absent = object()
        self.kind.fresh()
        self.backend: Backend = self.kind.open()
        self.store = ConfigStore(self.backend)
        self.first = self.head = self.compacted = self.run(self.store.read, [Below()]).revision
        self.states: dict[int, dict[str, tuple[object, int, int, int]]] = {self.head: {}}
        """By revision, by key: value, revision, created, version."""

    def run(self, ask, *args):
        async def in_time():
            with trio.fail_after(60):
                return await ask(*args)

        return trio.run(in_time)

    def teardown(self) -> None:
        if hasattr(self, "backend"):
            self.run(self.backend.aclose)

    @rule(actions=st.lists(ACTIONS, min_size=1, max_size=4), key=KEYS, text=st.none() | TEXTS, back=st.none() | BACK)
    def transact(self, actions: list[Action], key: str, text: str | None, back: int | None) -> None:
        state = self.states[self.head]
        comparisons: list[Comparison] = []
        holds = True
        value, revision, *_ = state.get(key, (self.absent, 0))
        if text is not None:
            comparisons.append(HasValue(key, text))
            holds = value is not self.absent and json.dumps(value) == json.dumps(json.loads(text))
        if back is not None:
            comparisons.append(AtRevision(key, max(0, revision - back)))
            holds = holds and max(0, revision - back) == revision
        try:
            if not holds:
                raise Refusal
            after = {name: entry[0] for name, entry in state.items()}
            for action in actions:
                made = acted(action, after.get(action.key, self.absent), self.absent)
                if made is self.absent:
                    del after[action.key]
                else:
                    after[action.key] = made
        except Refusal:
            after = {}
            refused = True
        else:
            refused = False
        try:
            answer = self.run(self.store.transact, Transaction(tuple(actions), tuple(comparisons)))
        except ConfigError as fault:
            assert refused, fault
            assert (fault.code is Code.CONFLICT) == (not holds)
            return
        assert not refused
        written = {action.key for action in actions if isinstance(action, Set | Create)} & after.keys()
        before = {name: entry[0] for name, entry in state.items()}
        written |= {
            name for name in after if json.dumps(after[name]) != json.dumps(before.get(name, self.absent), default=str)
        }
        if not written and before.keys() == after.keys():
            assert answer == self.head
            return
        self.head += 1
        assert answer == self.head
        self.states[self.head] = {
            name: (
                value,
                self.head,
                state[name][2] if name in state else self.head,
                state[name][3] + 1 if name in state else 1,
            )
            if name in written
            else state[name]
            for name, value in after.items()
        }

    def shown(self, entry: Entry) -> tuple[str, object]:
        return entry.key, (json.loads(entry.value or ""), entry.revision, entry.created, entry.version)

    @rule(scopes=st.lists(SCOPES, min_size=1, max_size=3), back=st.none() | BACK)
    def read(self, scopes: list[Scope], back: int | None) -> None:
        revision = self.head if back is None else max(self.first, self.head - back)
        try:
            reading = self.run(self.store.read, scopes, None if back is None else revision)
        except ConfigError as fault:
            assert fault.code is Code.COMPACTED and revision < self.compacted
            return
        assert revision >= self.compacted and reading.revision == revision
        expected = {key: entry for key, entry in self.states[revision].items() if any(key in scope for scope in scopes)}
        assert json.dumps(dict(map(self.shown, reading.entries))) == json.dumps(dict(sorted(expected.items())))

    @rule(key=KEYS)
    def history(self, key: str) -> None:
        try:
            history = self.run(self.store.history, key)
        except ConfigError as fault:
            assert fault.code is Code.MISSING and key not in self.states[self.head]
            return
        expected = []
        for revision in range(self.head, self.compacted - 1, -1):
            if key not in self.states[revision]:
                break
            if (entry := self.states[revision][key]) not in expected:
                expected.append(entry)
        assert [self.shown(entry)[1] for entry in history] == expected

    @rule(scope=SCOPES, back=BACK)
    def watch(self, scope: Scope, back: int) -> None:
        after = max(self.first, self.head - back)
        expected = []
        for revision in range(after + 1, self.head + 1):
            old, new = self.states[revision - 1], self.states[revision]
            entries = [
                (key, (new[key][0] if key in new else None, revision))
                for key in sorted(old.keys() | new.keys())
                if key in scope and old.get(key) != new.get(key)
            ]
            if entries:
                expected.append((revision, entries))

        async def listen() -> list[Change]:
            async with self.store.watch(scope, after) as changes:
                return [await anext(changes) for _ in expected or range(0)]

        try:
            found = self.run(listen)
        except ConfigError as fault:
            assert fault.code is Code.COMPACTED and after < self.compacted
            return
        assert after >= self.compacted or not expected
        assert [
            (
                change.revision,
                [(entry.key, (json.loads(entry.value or "null"), entry.revision)) for entry in change.entries],
            )
            for change in found
        ] == expected

    @rule(back=BACK)
    def compact(self, back: int) -> None:
        revision = max(self.compacted, self.head - back)
        self.run(self.store.compact, revision)
        self.compacted = revision

    @precondition(lambda self: self.head > self.first)
    @rule()
    def reopen(self) -> None:
        self.run(self.backend.aclose)
        self.backend = self.kind.open()
        self.store = ConfigStore(self.backend)


@pytest.mark.parametrize("made", [Sqlite, Etcd], ids=lambda made: made.name)
def test_a_store_is_like_its_model(made, tmp_path: Path):
    with made(tmp_path) as kind:
        run_state_machine_as_test(
            type("Machine", (StoreMachine,), {"kind": kind}),
            settings=settings(
                max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
            ),
        )
