"""The store in etcd on bad days: members that are killed, that hang, that lost their quorum; one that is full."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from etcdserver import NAMESPACE, Cluster, until_answered
from freeport import free_port

from zone.config.faults import NEXT, Code, ConfigError
from zone.config.keys import At, Below
from zone.config.model import Append, AtRevision, Commit, Create, Delete, Set, Transaction
from zone.io.config.etcd import EtcdBackend
from zone.io.config.store import ConfigStore
from zone.io.etcd.wire import etcdrpc


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path)
    cluster.start()
    cluster.wait_for_quorum()
    yield cluster
    cluster.close()


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path, 3)
    cluster.start()
    cluster.wait_for_quorum()
    yield cluster
    cluster.close()


def put(key: str, value: object) -> Transaction:
    return Transaction((Set(key, json.dumps(value)),))


async def retried(store: ConfigStore, key: str, value: object) -> int:
    """Create ``key`` for sure: what is uncertain is read before it is tried again."""
    while True:
        try:
            return await store.transact(Transaction((Create(key, json.dumps(value)),)))
        except ConfigError as fault:
            if fault.code is Code.EXISTS:
                return (await store.get(key)).revision
            assert fault.code in (Code.UNAVAILABLE, Code.UNCERTAIN)


async def test_nobody_answers(tmp_path: Path):
    backend = Cluster(tmp_path).open(patience=0.3)
    for scopes in ([], [Below()]):
        for stale_ok in (False, True):
            with pytest.raises(ConfigError, match=NEXT[Code.UNAVAILABLE]):
                await backend.read(scopes, stale_ok=stale_ok)
    # Before anything was read, nothing is sent.
    with pytest.raises(ConfigError, match=NEXT[Code.UNAVAILABLE]):
        await backend.commit(Commit({}, {"a": "1"}))
    with pytest.raises(ConfigError, match=NEXT[Code.UNCERTAIN]):
        await backend.revoke(1)
    for ask in (lambda: backend.compact(2), lambda: backend.grant(10), lambda: backend.keep_alive(1)):
        with pytest.raises(ConfigError, match=NEXT[Code.UNAVAILABLE]):
            await ask()
    with trio.move_on_after(0.5) as scope:
        async with backend.watch(Below(), 1) as changes:
            await anext(changes)
    assert scope.cancelled_caught
    await backend.aclose()


async def test_who_takes_old_news_waits_long_for_the_quorum_once(one: Cluster, monkeypatch: pytest.MonkeyPatch):
    backend = one.open(patience=1.5)
    one.signal(signal.SIGKILL)
    waited: list[float] = []
    read = backend._read

    async def noted(scopes, revision, patience, *, stale):
        if not stale:
            waited.append(patience)
        return await read(scopes, revision, patience, stale=stale)

    monkeypatch.setattr(backend, "_read", noted)
    for _ in range(3):
        with pytest.raises(ConfigError, match=NEXT[Code.UNAVAILABLE]):
            await backend.read([Below()], stale_ok=True)
    one.start()
    with trio.fail_after(120):
        await until_answered(backend)
    del waited[3:]
    assert (await backend.read([Below()], stale_ok=True)).fresh
    assert waited == [1.5, 1.0, 1.0, 1.5]
    await backend.aclose()


async def test_old_news_of_members_at_different_revisions_are_none(one: Cluster, monkeypatch: pytest.MonkeyPatch):
    backend = one.open()
    await ConfigStore(backend).transact(put("a", 1))
    ask = backend._ask
    asked = 0

    async def behind(stub, request, deadline):
        nonlocal asked
        asked += 1
        if asked == 1:
            raise ConfigError(Code.UNAVAILABLE, "no quorum")
        if asked == 3:
            raise ConfigError(Code.INVALID, "required revision is a future revision")
        return await ask(stub, request, deadline)

    monkeypatch.setattr(backend, "_ask", behind)
    with pytest.raises(ConfigError, match=NEXT[Code.UNAVAILABLE]):
        await backend.read([At(f"k/{number}") for number in range(150)], stale_ok=True)
    assert asked == 3
    await backend.aclose()


async def test_killed_and_back_nothing_is_lost_and_no_change_is_missed(one: Cluster):
    backend = one.open()
    store = ConfigStore(backend)
    acknowledged: dict[str, int] = {}
    found: list[tuple[str, int]] = []

    async def write() -> None:
        for number in range(120):
            acknowledged[f"k/{number}"] = await retried(store, f"k/{number}", number)

    async def listen() -> None:
        async with store.watch(Below("k"), 1) as changes:
            while len(found) < 120:
                found.extend((entry.key, entry.revision) for entry in (await anext(changes)).entries)

    with trio.fail_after(120):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            nursery.start_soon(write)
            for until in (30, 60, 90):
                while len(acknowledged) < until:  # noqa: ASYNC110  # nothing tells
                    await trio.sleep(0.005)
                await trio.to_thread.run_sync(one.signal, signal.SIGKILL)
                one.start()
    assert found == sorted(acknowledged.items(), key=lambda item: item[1])
    assert await store.children(Below("k")) == sorted(f"{number}" for number in range(120))
    await backend.aclose()


async def test_without_a_quorum_nothing_pretends(three: Cluster):
    backend = three.open()
    store = ConfigStore(backend)
    revision = await store.transact(put("a", "before"))
    await backend.aclose()

    lonely = three.open(0, patience=1.0)
    await until_answered(lonely)
    three.signal(signal.SIGKILL, 1, 2)
    store = ConfigStore(lonely)
    with pytest.raises(ConfigError, match=NEXT[Code.UNAVAILABLE]):
        await store.get("a")
    with pytest.raises(ConfigError, match=NEXT[Code.UNAVAILABLE]):
        await store.transact(put("a", "after"))
    with pytest.raises(ConfigError, match=NEXT[Code.UNCERTAIN]):
        await lonely.commit(Commit({"b": 0}, {"b": "1"}))
    with trio.fail_after(60):
        while True:
            try:
                reading = await store.read([Below()], stale_ok=True)
                break
            except ConfigError as fault:
                assert fault.code is Code.UNAVAILABLE
    assert not reading.fresh and reading.revision <= revision
    assert all(entry.value == '"before"' for entry in reading.entries)

    three.start(1, 2)
    with trio.fail_after(120):
        await until_answered(lonely)
        # What was uncertain was made, or was not; nobody can have both.
        made = await lonely.commit(Commit({"b": 0}, {"b": "2"}))
        assert (await store.get("b")).value == ("1" if made is None else "2")
        assert (await store.read([Below()], stale_ok=True)).fresh
        assert (await store.get("a")).value == '"before"'
    await lonely.aclose()


async def test_one_of_three_may_hang_or_die(three: Cluster):
    backend = three.open(patience=3.0)
    store = ConfigStore(backend)
    found: list[int] = []
    acknowledged: list[int] = []

    async def listen() -> None:
        async with store.watch(Below("k"), 1) as changes:
            while len(found) < 90:
                found.extend(entry.revision for entry in (await anext(changes)).entries)

    async def write() -> None:
        for number in range(90):
            acknowledged.append(await retried(store, f"k/{number}", number))

    async def after(count: int) -> None:
        while min(len(acknowledged), len(found)) < count:  # noqa: ASYNC110  # nothing tells
            await trio.sleep(0.005)

    with trio.fail_after(200):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            nursery.start_soon(write)
            await after(20)
            three.signal(signal.SIGSTOP, 0)
            await after(40)
            three.signal(signal.SIGCONT, 0)
            await until_answered(backend)
            three.signal(signal.SIGKILL, 1)
            await after(60)
            three.start(1)
            other = three.open(1)
            await until_answered(other)
            await other.aclose()
            three.signal(signal.SIGKILL, 2)
    assert found == acknowledged
    await backend.aclose()


async def test_writers_on_three_members_lose_no_update(three: Cluster):
    backends = [three.open(member) for member in range(3)]
    stores = [ConfigStore(backend) for backend in backends]
    await stores[0].transact(put("log", []))

    async def write(store: ConfigStore, name: int) -> None:
        for number in range(10):
            await store.transact(Transaction((Append("log", json.dumps([name, number])),)))

    with trio.fail_after(120):
        async with trio.open_nursery() as nursery:
            for name, store in enumerate(stores):
                nursery.start_soon(write, store, name)
        for store in stores:
            log = json.loads((await store.get("log")).value or "")
            assert sorted(log) == [[name, number] for name in range(3) for number in range(10)]
            assert [number for name, number in log if name == 1] == list(range(10))
    for backend in backends:
        await backend.aclose()


async def test_a_member_that_is_full_says_so(tmp_path: Path):
    cluster = Cluster(tmp_path, **{"quota-backend-bytes": str(1 << 20)})
    cluster.start()
    backend = cluster.open()
    store = ConfigStore(backend)
    try:
        with trio.fail_after(120):
            await until_answered(backend)
            made = 0
            with pytest.raises(ConfigError, match=NEXT[Code.FULL]):
                while True:
                    await store.transact(put(f"k/{made}", "x" * 100_000))
                    made += 1
            # etcd applies the one that goes past its limit and refuses it all the same.
            assert len(await store.children(Below("k"))) in (made, made + 1)
    finally:
        await backend.aclose()
        cluster.close()


async def test_requests_that_a_member_does_not_take(tmp_path: Path):
    cluster = Cluster(tmp_path, **{"max-txn-ops": "10", "max-request-bytes": "10000"})
    cluster.start()
    backend = cluster.open()
    store = ConfigStore(backend)
    try:
        with trio.fail_after(120):
            await until_answered(backend)
            for transaction in (Transaction(tuple(Set(f"k/{n}", "1") for n in range(11))), put("a", "x" * 20_000)):
                with pytest.raises(ConfigError, match=NEXT[Code.TOO_LARGE]):
                    await store.transact(transaction)
            assert await store.children(Below()) == []
    finally:
        await backend.aclose()
        cluster.close()


async def test_what_one_reading_may_have(one: Cluster, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("zone.io.config.etcd._MOST_READ", 100_000)
    backend = one.open()
    store = ConfigStore(backend)
    for number in range(3):
        await store.transact(put(f"k/{number}", "x" * 40_000))
    with pytest.raises(ConfigError, match=NEXT[Code.TOO_LARGE]):
        await store.read([Below()])
    assert (await store.get("k/2")).version == 1
    with trio.fail_after(60):
        async with store.watch(Below(), 1) as changes:
            assert [(await anext(changes)).entries[0].key for _ in range(3)] == ["k/0", "k/1", "k/2"]
    await backend.aclose()


async def test_zones_do_not_see_each_other(one: Cluster):
    backends = [one.open(namespace=namespace) for namespace in ("/a/", "/b/")]
    mine, theirs = map(ConfigStore, backends)
    await theirs.transact(put("x", 1))
    revision = await mine.transact(put("x", 2))
    await theirs.transact(put("x", 3))
    assert [entry.value for entry in (await mine.read([Below()])).entries] == ["2"]
    assert await mine.history("x") == [await mine.get("x")]
    last = await mine.transact(put("y", 4))
    async with mine.watch(Below(), 1) as changes:
        assert [(await anext(changes)).revision, (await anext(changes)).revision] == [revision, last]
    for backend in backends:
        await backend.aclose()


async def test_what_another_program_wrote_is_told(one: Cluster):
    backend = one.open()

    async def put_bytes(key: str, value: bytes) -> None:
        request = etcdrpc.PutRequest(key=f"{NAMESPACE}{key}".encode(), value=value)
        await trio.to_thread.run_sync(backend._clients[0].kv.Put, request)

    await put_bytes("bad", b"\xff\xfe")
    with pytest.raises(ConfigError, match=NEXT[Code.DAMAGED]):
        await ConfigStore(backend).get("bad")
    reading = await backend.read([Below()])
    assert [(entry.key, entry.value, entry.fault) for entry in reading.entries] == [("bad", None, Code.DAMAGED)]
    await put_bytes("odd", b"no JSON")
    with pytest.raises(ConfigError, match="odd: value: not plain JSON"):
        await ConfigStore(backend).transact(Transaction((Append("odd", "1"),)))
    await backend.aclose()


async def test_a_watch_that_is_left_leaves_no_thread(one: Cluster):
    backend = one.open()
    await ConfigStore(backend).transact(put("a", 1))
    for _ in range(5):
        async with backend.watch(Below(), 1) as changes:
            # Once it has told something, it is open, and waits in a thread for more.
            await anext(changes)
            with trio.move_on_after(0.05) as scope:
                await anext(changes)
        assert scope.cancelled_caught
    with trio.fail_after(60):
        while backend._threads.borrowed_tokens:  # noqa: ASYNC110  # nothing tells
            await trio.sleep(0.01)
    await backend.aclose()


async def test_a_dead_member_is_passed_over(one: Cluster):
    backend = EtcdBackend([f"127.0.0.1:{free_port()}", f"127.0.0.1:{one.ports[0]}"], NAMESPACE)
    store = ConfigStore(backend)
    assert await store.transact(put("a", 1)) == (await store.get("a")).revision
    await backend.aclose()


async def test_revisions_go_on_after_those_of_the_store_before(one: Cluster):
    """Whoever knows some of that store's is told so: neither a watch nor a guard takes them for those of this one."""
    backend, early = one.open(), one.open()
    assert (await early.read([])).revision > 0
    await backend.begin_after(5000)
    await backend.begin_after(9000)
    store = ConfigStore(backend)
    made = await store.transact(put("a", 1))
    assert 5000 < made < 5100 and (await store.get("a")).revision == (await store.get("a")).created == made
    again = await store.transact(Transaction((Set("a", "2"),), (AtRevision("a", made),)))
    assert again == made + 1
    for old in (1, 2, made - 5000, 5000):
        with pytest.raises(ConfigError) as caught:
            await store.read([At("a")], old)
        assert caught.value.code is Code.COMPACTED
        with pytest.raises(ConfigError) as caught:
            async with store.watch(Below(), old) as changes:
                await anext(changes)
        assert caught.value.code is Code.COMPACTED
        assert await backend.commit(Commit({"a": old}, {"a": "9"})) is None
    assert (await store.get("a", made)).value == "1"
    assert [entry.revision for entry in await store.history("a")] == [again, made]
    with trio.fail_after(60):
        async with store.watch(Below(), made) as changes:
            assert (await anext(changes)).revision == again
            gone = await store.transact(Transaction((Delete("a"),)))
            (entry,) = (change := await anext(changes)).entries
            assert change.revision == entry.revision == gone and entry.created == 0
    # One that was open before hears of it with the next reading.
    assert (await early.read([])).revision == gone
    await store.compact(again)
    with pytest.raises(ConfigError) as caught:
        async with store.watch(Below(), made) as changes:
            await anext(changes)
    assert caught.value.code is Code.COMPACTED and (await store.get("a", again)).value == "2"
    for each in (backend, early):
        await each.aclose()
