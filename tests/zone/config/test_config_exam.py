"""The exam that every store of system_config sits: what it keeps, what it tells, and what it never loses."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
import trio
from configstores import KINDS, Kind

from zone.config.faults import NEXT, Code, ConfigError
from zone.config.keys import At, Below, Each, Scope
from zone.config.model import (
    MOST_ACTIONS,
    MOST_TTL,
    MOST_VALUE,
    Append,
    AtRevision,
    Change,
    Commit,
    Create,
    Delete,
    Entry,
    HasValue,
    Set,
    SetPath,
    Transaction,
)
from zone.io.config.backend import Backend
from zone.io.config.store import ConfigStore

EVERYTHING = Below()


def refused(code: Code):
    return pytest.raises(ConfigError, match=NEXT[code])


def tx(*actions, only_if=()) -> Transaction:
    return Transaction(actions, tuple(only_if))


@pytest.fixture(params=KINDS, ids=lambda made: made.name)
def kind(request, tmp_path):
    with request.param(tmp_path) as kind:
        yield kind


@pytest.fixture
async def backend(kind: Kind) -> AsyncIterator[Backend]:
    backend = kind.open()
    yield backend
    await backend.aclose()


@pytest.fixture
def store(backend: Backend) -> ConfigStore:
    return ConfigStore(backend)


async def heard(store: ConfigStore, scope: Scope, after: int, count: int) -> list[Change]:
    """The first ``count`` changes of ``scope`` after ``after``."""
    found: list[Change] = []
    with trio.fail_after(60):
        async with store.watch(scope, after) as changes:
            while len(found) < count:
                found.append(await anext(changes))
    return found


async def values(store: ConfigStore, *scopes: Scope, revision: int | None = None) -> dict[str, object]:
    reading = await store.read(scopes or (EVERYTHING,), revision)
    return {entry.key: json.loads(entry.value or "") for entry in reading.entries}


# -- keeping


async def test_the_beginning_is_revision_one_and_empty(store: ConfigStore):
    reading = await store.read([EVERYTHING])
    assert (reading.revision, reading.entries, reading.fresh) == (1, (), True)


async def test_an_entry_tells_its_revisions(store: ConfigStore):
    first = await store.transact(tx(Set("a", "1")))
    second = await store.transact(tx(Set("b", "2")))
    third = await store.transact(tx(Set("a", "3")))
    assert (first, second, third) == (2, 3, 4)
    assert await store.get("a") == Entry("a", "3", revision=4, created=2, version=2)
    assert await store.get("b") == Entry("b", "2", revision=3, created=3, version=1)
    await store.transact(tx(Delete("a")))
    with refused(Code.MISSING):
        await store.get("a")
    again = await store.transact(tx(Create("a", "4")))
    assert await store.get("a") == Entry("a", "4", revision=again, created=again, version=1)


async def test_a_text_is_kept_as_it_is(store: ConfigStore):
    text = ' { "n\u00e4me" : "\U0001f600\\u0000\\n" ,\n"a":[ 1.50, -0 ]} '
    await store.transact(tx(Set("a", text)))
    assert (await store.get("a")).value == text


async def test_keys_are_told_apart_and_in_order(store: ConfigStore):
    names = ["a", "a/b", "a/b/c", "a.b", "a-b/c", "a0", "A", "aa/b", "~", "+", "a/~", "a/+"]
    await store.transact(tx(*(Set(name, json.dumps(name)) for name in names)))
    assert list(await values(store)) == sorted(names)
    assert list(await values(store, Below("a"))) == ["a/+", "a/b", "a/b/c", "a/~"]
    assert list(await values(store, At("a"))) == ["a"]
    assert list(await values(store, Each("a", "c"), At("a"), Each("a-b", "x"))) == ["a", "a/b/c"]
    assert list(await values(store, Each("a", "b"), Each("aa", "b"), Each("nowhere", "a"))) == []
    assert list(await values(store, Below("nowhere"), At("nowhere"))) == []
    assert await store.children(Below("a")) == ["+", "b", "~"]
    assert await store.children(EVERYTHING) == ["+", "A", "a", "a-b", "a.b", "a0", "aa", "~"]


async def test_several_scopes_are_read_at_one_revision(store: ConfigStore):
    for number in range(5):
        await store.transact(tx(*(Set(f"{where}/x", str(number)) for where in ("boot", "nodes", "users"))))
    for revision in range(2, 7):
        found = await values(store, Below("boot"), Below("users"), At("boot/x"), revision=revision)
        assert found == {"boot/x": revision - 2, "users/x": revision - 2}
    assert await values(store, revision=1) == {}
    with refused(Code.INVALID):
        await store.read([EVERYTHING], 8)


async def test_many_keys_are_read_at_once(store: ConfigStore):
    for start in range(0, 3000, 1000):
        await store.transact(tx(*(Set(f"k/{number}", str(number)) for number in range(start, start + 1000))))
    scopes = [At(f"k/{number}") for number in range(2500)]
    assert len(await values(store, *scopes)) == 2500
    assert len(await values(store, Below("k"))) == 3000


async def test_the_largest_that_is_allowed_has_its_place(store: ConfigStore):
    large = json.dumps("x" * (MOST_VALUE - 2))
    await store.transact(tx(*(Set(f"large/{number}", large) for number in range(3))))
    await store.transact(tx(*(Set(f"many/{number}", "1") for number in range(MOST_ACTIONS))))
    comparisons = [AtRevision(f"many/{number}", 3) for number in range(MOST_ACTIONS // 2)]
    await store.transact(tx(*(Delete(f"many/{number}") for number in range(MOST_ACTIONS // 2)), only_if=comparisons))
    assert len(await store.children(Below("many"))) == MOST_ACTIONS // 2
    for _ in range(8):
        await store.transact(tx(*(Set(f"large/{number}", large) for number in range(3))))
    assert (await store.get("large/2")).value == large
    assert len(await heard(store, Below("large"), 1, 9)) == 9


# -- transactions


async def test_all_or_nothing(store: ConfigStore):
    revision = await store.transact(tx(Set("a", "1"), Set("c/d", '{"x":[]}')))
    done = await store.transact(
        tx(Set("a", "2"), Create("b", "3"), SetPath("c/d", "/x/-", "4"), only_if=[AtRevision("a", revision)])
    )
    assert await values(store) == {"a": 2, "b": 3, "c/d": {"x": [4]}}
    assert {entry.revision for entry in (await store.read([EVERYTHING])).entries} == {done}
    for transaction, code in (
        (tx(Set("a", "9"), Create("b", "9")), Code.EXISTS),
        (tx(Set("a", "9"), Delete("nowhere")), Code.MISSING),
        (tx(Set("a", "9"), only_if=[AtRevision("a", revision)]), Code.CONFLICT),
        (tx(Set("a", "9"), only_if=[AtRevision("b", 0)]), Code.CONFLICT),
        (tx(Set("a", "9"), only_if=[HasValue("b", "4")]), Code.CONFLICT),
        (tx(Set("a", "9"), SetPath("a", "/x", "1")), Code.INVALID),
    ):
        with refused(code):
            await store.transact(transaction)
    assert (await store.read([EVERYTHING])).revision == done
    assert await values(store) == {"a": 2, "b": 3, "c/d": {"x": [4]}}


async def test_what_changes_nothing_makes_no_revision(store: ConfigStore):
    revision = await store.transact(tx(Set("a", '""')))
    assert await store.transact(tx(Append("a", '""'))) == revision
    assert await store.transact(tx(Create("b", "1"), Delete("b"))) == revision
    assert await store.transact(tx(Set("a", '""'))) == revision + 1


async def test_a_guard_that_does_not_hold(backend: Backend):
    assert await backend.commit(Commit({"a": 0}, {"a": "1"})) == 2
    for guards in ({"a": 0}, {"a": 1}, {"a": 3}, {"b": 2}, {"a": 2, "b": 2}):
        assert await backend.commit(Commit(guards, {"a": "9", "c": "9"})) is None
    assert await backend.commit(Commit({"a": 2, "b": 0}, {"a": None})) == 3
    assert await backend.commit(Commit({"a": 2}, {"a": "9"})) is None
    assert await backend.commit(Commit({"a": 0}, {"b": "1"})) == 4


async def test_no_update_is_lost_among_many_writers(store: ConfigStore):
    await store.transact(tx(Set("counter", "0"), Set("log", "[]")))
    wins: list[int] = []

    async def count(name: int) -> None:
        for _ in range(12):
            while True:
                entry = await store.get("counter")
                more = str(int(entry.value or "") + 1)
                try:
                    wins.append(
                        await store.transact(tx(Set("counter", more), only_if=[AtRevision("counter", entry.revision)]))
                    )
                except ConfigError as fault:
                    assert fault.code is Code.CONFLICT
                else:
                    break
            await store.transact(tx(Append("log", str(name))))

    async with trio.open_nursery() as writers:
        for name in range(8):
            writers.start_soon(count, name)
    found = await values(store)
    log = found["log"]
    assert found["counter"] == 96 and isinstance(log, list)
    assert sorted(log) == sorted(list(range(8)) * 12) and len(set(wins)) == 96


class Late:
    """A store whose answer to the next commit is lost; the commit itself arrives when :meth:`arrive` is called."""

    def __init__(self, inner: Backend) -> None:
        self._inner = inner
        self._held: Commit | None = None

    def __getattr__(self, name: str):
        return getattr(self._inner, name)

    async def commit(self, commit: Commit) -> int | None:
        self._held = commit
        raise ConfigError(Code.UNCERTAIN, "the answer was lost")

    async def arrive(self) -> int | None:
        assert self._held is not None
        return await self._inner.commit(self._held)


async def test_what_is_made_late_does_not_undo_what_was_acknowledged(backend: Backend, store: ConfigStore):
    for first, second in (
        (Set("a", '"first"'), Set("a", '"second"')),
        (Set("a", '"third"'), Delete("a")),
        (Delete("b"), Set("b", '"second"')),
    ):
        await store.transact(tx(Set("b", '"before"')))
        late = Late(backend)
        with refused(Code.UNCERTAIN):
            await ConfigStore(late).transact(tx(first))
        await store.transact(tx(second))
        before = await values(store)
        assert await late.arrive() is None
        assert await values(store) == before


# -- the past


async def test_history_goes_back_to_when_the_key_was_made(store: ConfigStore):
    await store.transact(tx(Set("a", '"before"')))
    await store.transact(tx(Delete("a")))
    revisions = []
    for number in range(5):
        revisions.append(await store.transact(tx(Set("a", str(number)))))
        await store.transact(tx(Set("b", str(number))))
    history = await store.history("a")
    assert [entry.value for entry in history] == ["4", "3", "2", "1", "0"]
    assert [entry.revision for entry in history] == revisions[::-1] and history[-1].version == 1
    assert [entry.value for entry in await store.history("a", 2)] == ["4", "3"]
    await store.compact(revisions[2])
    history = await store.history("a")
    assert [entry.value for entry in history] == ["4", "3", "2"] and history[-1].version == 3
    with refused(Code.MISSING):
        await store.history("c")


async def test_what_is_compacted_is_gone_and_says_so(store: ConfigStore):
    for number in range(6):
        await store.transact(tx(Set("a", str(number)), Set(f"k{number}", "1")))
    await store.transact(tx(Delete("k0")))
    await store.transact(tx(Delete("k1")))
    before = {revision: await values(store, revision=revision) for revision in range(1, 10)}
    await store.compact(8)
    for revision in range(1, 8):
        with refused(Code.COMPACTED):
            await store.read([EVERYTHING], revision)
        with refused(Code.COMPACTED):
            await heard(store, EVERYTHING, revision, 1)
    for revision in (8, 9):
        assert await values(store, revision=revision) == before[revision]
    (last,) = await heard(store, EVERYTHING, 8, 1)
    assert last == Change(9, (Entry("k1", None, 9, 0, 0),))
    await store.compact(9)
    await store.compact(9)
    assert await values(store) == before[9]
    with refused(Code.INVALID):
        await store.compact(99)
    assert await store.transact(tx(Set("k0", "2"))) == 10
    assert (await store.get("k0")).version == 1


# -- watching


async def test_a_watch_tells_what_was_and_what_comes(store: ConfigStore):
    await store.transact(tx(Set("a/x", "1"), Set("a/y", "1"), Set("b", "1")))
    with trio.fail_after(60):
        async with store.watch(Below("a"), 1) as changes:
            assert await anext(changes) == Change(2, (Entry("a/x", "1", 2, 2, 1), Entry("a/y", "1", 2, 2, 1)))
            await store.transact(tx(Set("b", "2")))
            await store.transact(tx(Set("a", "2")))
            await store.transact(tx(Delete("a/x"), Set("a/y", "2")))
            assert await anext(changes) == Change(5, (Entry("a/x", None, 5, 0, 0), Entry("a/y", "2", 5, 2, 2)))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(store.transact, tx(Set("a/z/z", "1")))
                assert await anext(changes) == Change(6, (Entry("a/z/z", "1", 6, 6, 1),))


async def test_watching_one_key(store: ConfigStore):
    await store.transact(tx(Set("a", "1"), Set("a/b", "1")))
    await store.transact(tx(Set("a/b", "2")))
    await store.transact(tx(Set("a", "2")))
    assert [change.revision for change in await heard(store, At("a"), 1, 2)] == [2, 4]
    assert [change.revision for change in await heard(store, At("a"), 2, 1)] == [4]


async def test_watching_one_key_of_each(store: ConfigStore):
    await store.transact(tx(Set("a/x/info", "1"), Set("a/x/spec", "1"), Set("a/info", "1")))
    for other in ("a/x/spec", "a/x/y/info", "b/x/info"):
        await store.transact(tx(Set(other, "2")))
    await store.transact(tx(Delete("a/x/info"), Set("a/y/info", "2")))
    scope = Each("a", "info")
    assert await heard(store, scope, 1, 2) == [
        Change(2, (Entry("a/x/info", "1", 2, 2, 1),)),
        Change(6, (Entry("a/x/info", None, 6, 0, 0), Entry("a/y/info", "2", 6, 6, 1))),
    ]
    assert [change.revision for change in await heard(store, scope, 3, 1)] == [6]


async def test_a_slow_watcher_misses_nothing_and_a_cut_one_goes_on(store: ConfigStore):
    async with store.watch(EVERYTHING, 1) as slow:
        for number in range(300):
            await store.transact(tx(Set(f"k{number % 7}", str(number))))
        with trio.fail_after(60):
            found = [(await anext(slow)).entries[0].value for _ in range(300)]
    assert found == [str(number) for number in range(300)]
    pieces: list[Change] = []
    while len(pieces) < 300:
        after = pieces[-1].revision if pieces else 1
        pieces += await heard(store, EVERYTHING, after, min(37, 300 - len(pieces)))
    assert [change.revision for change in pieces] == list(range(2, 302))


async def test_many_watchers_hear_every_writer(store: ConfigStore):
    found: dict[int, list[Change]] = {}

    async def listen(name: int) -> None:
        found[name] = await heard(store, Below("k"), 1, 60)

    async def write(name: int) -> None:
        for number in range(20):
            await store.transact(tx(Set(f"k/{name}", str(number))))

    async with trio.open_nursery() as nursery:
        for name in range(20):
            nursery.start_soon(listen, name)
        for name in range(3):
            nursery.start_soon(write, name)
    assert all(changes == found[0] for changes in found.values())
    assert [change.revision for change in found[0]] == list(range(2, 62))


async def test_a_watch_from_what_is_not_there_yet(store: ConfigStore):
    """As after a store was put back to an older state: waiting there would miss what comes until then."""
    await store.transact(tx(Set("a", "1")))
    with refused(Code.INVALID):
        await heard(store, EVERYTHING, 3, 1)


# -- leases


async def test_keys_go_with_their_lease_as_one_revision(store: ConfigStore):
    lease = await store.grant(600)
    other = await store.grant(600)
    assert lease != other and min(lease, other) > 0
    first = await store.transact(
        tx(Set("a", "1", lease), Create("b/c", "{}", lease), Set("d", "1"), Set("e", "1", other))
    )
    assert {entry.key: entry.lease for entry in (await store.read([EVERYTHING])).entries} == {
        "a": lease,
        "b/c": lease,
        "d": 0,
        "e": other,
    }
    # What changes a part stays under the lease; what is set anew goes with the lease it is given, or with none.
    await store.transact(tx(SetPath("b/c", "/x", "1"), Set("a", "2"), Set("f", "1", lease)))
    assert [(await store.get(key)).lease for key in ("a", "b/c", "f")] == [0, lease, lease]
    last = await store.transact(tx(Set("f", "2", other), Set("g", "1", lease)))
    await store.keep_alive(lease)
    await store.revoke(lease)
    (change,) = await heard(store, EVERYTHING, last, 1)
    assert change == Change(last + 1, (Entry("b/c", None, last + 1, 0, 0), Entry("g", None, last + 1, 0, 0)))
    assert await values(store) == {"a": 2, "d": 1, "e": 1, "f": 2}
    assert (await store.get("e", first)).lease == other
    for ask in (
        lambda: store.revoke(lease),
        lambda: store.keep_alive(lease),
        lambda: store.transact(tx(Set("d", "9"), Set("h", "1", lease))),
    ):
        with refused(Code.MISSING):
            await ask()
    assert await values(store) == {"a": 2, "d": 1, "e": 1, "f": 2}
    await store.revoke(other)
    assert await values(store) == {"a": 2, "d": 1}
    for ttl in (0, -1, MOST_TTL + 1):
        with refused(Code.INVALID):
            await store.grant(ttl)


async def test_a_lease_without_a_sign_of_life_ends_and_watchers_hear_it(store: ConfigStore):
    """The one that is kept alive outlives the other, though it is no older and no longer."""
    kept, left = await store.grant(6), await store.grant(6)
    revision = await store.transact(tx(Create("kept", "1", kept), Create("left", "1", left)))
    found: list[Change] = []

    async def keep() -> None:
        while True:
            await store.keep_alive(kept)
            await trio.sleep(0.2)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep)
        found += await heard(store, EVERYTHING, revision, 1)
        nursery.cancel_scope.cancel()
    assert found == [Change(revision + 1, (Entry("left", None, revision + 1, 0, 0),))]
    with refused(Code.MISSING):
        await store.keep_alive(left)
    # Whoever holds it no more cannot keep another out.
    await store.transact(tx(Create("left", "2")))


async def test_a_lease_outlives_the_program_that_has_it(kind: Kind):
    first = kind.open()
    store = ConfigStore(first)
    lease = await store.grant(600)
    await store.transact(tx(Set("a", "1", lease)))
    await first.aclose()
    second = kind.open()
    store = ConfigStore(second)
    assert (await store.get("a")).lease == lease
    await store.keep_alive(lease)
    assert await store.grant(600) != lease
    await store.revoke(lease)
    assert await values(store) == {}
    await second.aclose()


async def test_a_store_that_is_closed_says_so(kind: Kind):
    backend = kind.open()
    store = ConfigStore(backend)
    revision = await store.transact(tx(Set("a", "1")))
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:

            async def listen(*, task_status) -> None:
                async with store.watch(EVERYTHING, 1) as changes:
                    assert (await anext(changes)).revision == revision
                    task_status.started()
                    with refused(Code.UNAVAILABLE):
                        await anext(changes)

            await nursery.start(listen)
            await backend.aclose()
    for stale_ok in (False, True):
        with refused(Code.UNAVAILABLE):
            await store.read([EVERYTHING], stale_ok=stale_ok)
    for ask in (lambda: store.transact(tx(Set("a", "2"))), lambda: heard(store, EVERYTHING, 1, 1)):
        with refused(Code.UNAVAILABLE):
            await ask()


async def test_what_was_kept_is_there_again(kind: Kind):
    first = kind.open()
    store = ConfigStore(first)
    for number in range(4):
        await store.transact(tx(Set("a", str(number)), Set(f"k{number}", "1")))
    await store.transact(tx(Delete("k1")))
    await store.compact(3)
    before = await store.read([EVERYTHING])
    old = await store.read([EVERYTHING], 4)
    await first.aclose()
    second = kind.open()
    store = ConfigStore(second)
    assert await store.read([EVERYTHING]) == before and await store.read([EVERYTHING], 4) == old
    assert [change.revision for change in await heard(store, EVERYTHING, 3, 3)] == [4, 5, 6]
    with refused(Code.COMPACTED):
        await store.read([EVERYTHING], 2)
    assert await store.transact(tx(Set("a", "9"))) == 7
    await second.aclose()
