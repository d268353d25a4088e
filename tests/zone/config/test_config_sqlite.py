"""The store in a file on bad days: killed, damaged, without room, on a disk that does not answer."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import stat
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import trio

from cyfs_ns.errors import ConfigFault
from zone.config.faults import NEXT, Code, ConfigError
from zone.config.keys import At, Below
from zone.config.model import Commit, Delete, Set, Transaction
from zone.io.config.sqlite import Database, SqliteBackend
from zone.io.config.store import ConfigStore


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "zone.db"


def write(database: Database, **values: str | None) -> int:
    revision = database.commit(Commit({}, values))
    assert revision is not None
    return revision


def content(database: Database) -> dict[str, str | None]:
    return {entry.key: entry.value for entry in database.read([Below()], None).entries}


# -- the file


def test_nobody_else_reads_the_file(path: Path):
    path.touch(0o666)
    with closing(Database(path)) as database:
        write(database, a="1")
        modes = {one.name: stat.S_IMODE(one.stat().st_mode) for one in path.parent.iterdir()}
        assert modes == {"zone.db": 0o600, "zone.db-wal": 0o600}


def test_two_programs_do_not_share_it(path: Path):
    with closing(Database(path)), pytest.raises(ConfigFault, match="another program"):
        Database(path)


def test_a_strangers_file_is_left_alone(path: Path):
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE theirs (x)")
    before = path.read_bytes()
    with pytest.raises(ConfigFault, match="another kind"):
        Database(path)
    assert b"theirs" in path.read_bytes() and len(path.read_bytes()) == len(before)
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(ConfigFault):
        Database(path)


def test_damage_is_told_at_the_start_and_later(path: Path):
    with closing(Database(path)) as database:
        for number in range(300):
            write(database, **{f"k{number}": json.dumps("x" * 20_000)})  # more than SQLite keeps in memory
    damaged = bytearray(path.read_bytes())
    damaged[8192 : len(damaged) : 512] = b"\xff" * len(damaged[8192 : len(damaged) : 512])
    sound = path.read_bytes()
    path.write_bytes(damaged)
    with pytest.raises(ConfigFault, match="backup"):
        Database(path)
    path.write_bytes(sound)
    with closing(Database(path)) as database:
        path.write_bytes(damaged)
        with pytest.raises(ConfigError, match=NEXT[Code.DAMAGED]):
            content(database)


def test_one_of_a_later_version_is_left_alone(path: Path):
    Database(path).close()
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA user_version = 2")
    with pytest.raises(ConfigFault, match="later version"):
        Database(path)


def test_old_history_goes_by_itself(path: Path):
    with closing(Database(path, keep=50)) as database:
        for number in range(700):
            write(database, a=str(number), **{f"k{number % 5}": "1"})
            assert database.head - database.compacted <= 50 + 256
            database.read([Below()], max(1, database.head - 50))
        assert content(database)["a"] == "699"
        rows = len(list(database._db.execute("SELECT 1 FROM entry")))
        assert rows <= 2 * 306 + 6
    with closing(Database(path, keep=50)) as database:
        assert database.compacted > 300


# -- leases


def test_a_lease_lives_its_time_from_its_last_sign_of_life_and_from_each_start(path: Path):
    now = 1000.0

    def there(database: Database) -> bool:
        database.expire()
        return "a" in content(database)

    with closing(Database(path, clock=lambda: now)) as database:
        lease = database.grant(10)
        database.commit(Commit({}, {"a": "1"}, {"a": lease}))
        now += 9.9
        assert there(database)
        database.keep_alive(lease)
        now += 9.9
        assert there(database)
    now = 5.0  # another clock, since the machine began anew
    with closing(Database(path, clock=lambda: now)) as database:
        now += 9.9
        assert there(database)
        head = database.head
        now += 0.1
        # It is over before anybody has seen to it.
        for ask in (
            lambda: database.keep_alive(lease),
            lambda: database.revoke(lease),
            lambda: database.commit(Commit({}, {"b": "1"}, {"b": lease})),
        ):
            with pytest.raises(ConfigError, match=NEXT[Code.MISSING]):
                ask()
        assert not there(database) and database.head == head + 1
        database.expire()
        assert database.head == head + 1
    with closing(Database(path, clock=lambda: now)) as database:
        assert database.grant(10) > lease


def test_a_lease_that_cannot_be_ended_yet_is_ended_later(path: Path, monkeypatch: pytest.MonkeyPatch):
    now = 0.0
    with closing(Database(path, clock=lambda: now)) as database:
        lease = database.grant(10)
        database.commit(Commit({}, {"a": "1"}, {"a": lease}))
        now = 10.0
        with monkeypatch.context() as patched:
            patched.setattr(database, "_db", Broken())
            database.expire()
        assert content(database) == {"a": "1"} and database.next_expiry > now
        now = database.next_expiry
        database.expire()
        assert content(database) == {}


# -- killed


def write_for_ever(path: Path, pipe: int) -> None:
    """Counts in two keys at once, and tells each number when it is on the disk."""
    database = Database(path, keep=300)
    while True:
        number = database.head
        write(database, a=str(number), b=str(number), **{f"c{number % 20}": json.dumps("x" * 3000)})
        os.write(pipe, f"{number}\n".encode())


def killed_in_the_middle(path: Path, delay: float) -> int:
    """What the child had told last when it was killed ``delay`` seconds after it first did."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            write_for_ever(path, writer)
        finally:
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader, "rb") as told:
        first = told.readline()
        threading.Event().wait(delay)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        rest = told.read()
    return int((first + rest).splitlines()[-1])


def test_killed_thirty_times_and_never_half(path: Path):
    dice = random.Random(7)
    seen = 0
    for _ in range(30):
        told = killed_in_the_middle(path, dice.random() * 0.03)
        with closing(Database(path, keep=300)) as database:
            found = content(database)
            assert found["a"] == found["b"]
            number = int(found["a"] or "")
            assert seen < told <= number <= told + 1 and database.head == number + 1
            changes = []
            after = database.compacted
            while (change := database.next_change(At("a"), after)) is not None:
                after = change.revision
                changes.append(after)
            assert changes == list(range(database.compacted + 1, database.head + 1))
        seen = number


# -- no room


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "small"
    place.mkdir()
    if os.geteuid() != 0:
        pytest.skip("needs root: mounts a small file system")
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,mode=700", "tmpfs", place], check=False)
    if done.returncode != 0:
        pytest.skip("needs mount namespaces, which this machine does not allow")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


async def test_a_full_disk_refuses_whole_and_recovers(small_disk: Path):
    backend = SqliteBackend(Database(small_disk / "zone.db"))
    store = ConfigStore(backend)
    ballast = small_disk / "ballast"
    with ballast.open("wb", buffering=0) as file, pytest.raises(OSError):
        while file.write(bytes(4096)) == 4096:
            pass
    made: list[int] = []
    with pytest.raises(ConfigError, match=NEXT[Code.FULL]):
        for number in range(10_000):
            text = json.dumps("x" * 500)
            revision = await store.transact(Transaction((Set(f"a/{number}", text), Set(f"b/{number}", text))))
            made.append(revision)
    refused_at = len(made)
    for _ in range(3):
        with pytest.raises(ConfigError, match=NEXT[Code.FULL]):
            await store.transact(Transaction((Set(f"a/{refused_at}", json.dumps("x" * 100_000)),)))
    assert len(await store.children(Below("a"))) == len(await store.children(Below("b"))) == refused_at
    ballast.unlink()
    assert await store.transact(Transaction((Set(f"a/{refused_at}", "1"),))) == refused_at + 2
    await backend.aclose()
    with closing(Database(small_disk / "zone.db")) as database:
        assert len(content(database)) == 2 * refused_at + 1


async def test_a_store_at_its_limit_has_room_again_after_compaction(path: Path):
    backend = SqliteBackend(Database(path, most_pages=100))
    store = ConfigStore(backend)
    text = json.dumps("x" * 10_000)
    made = 0
    with pytest.raises(ConfigError, match=NEXT[Code.FULL]):
        while True:
            await store.transact(Transaction((Set(f"a/{made}", text),)))
            made += 1
    assert len(await store.children(Below("a"))) == made > 20
    await store.transact(Transaction(tuple(Delete(f"a/{number}") for number in range(made))))
    for _ in range(20):
        await store.transact(Transaction((Set("a", text),)))
    await backend.aclose()


async def test_history_makes_room_for_what_is_written(path: Path):
    backend = SqliteBackend(Database(path, most_pages=100))
    store = ConfigStore(backend)
    await store.transact(Transaction((Set("b", "1"),)))
    for number in range(200):
        assert await store.transact(Transaction((Set("a", json.dumps(f"{number}" * 3000)),))) == 3 + number
    assert [entry.key for entry in (await store.read([Below()])).entries] == ["a", "b"]
    assert (await store.history("a"))[0].version == 200
    await backend.aclose()


def test_what_one_reading_may_have(path: Path):
    with closing(Database(path, most_read=10_000)) as database:
        write(database, a=json.dumps("x" * 6000), b=json.dumps("x" * 3000))
        assert len(content(database)) == 2
        # What is in two of the scopes counts once.
        assert len(database.read([Below(), At("a"), Below()], None).entries) == 2
        write(database, c=json.dumps("x" * 1500))
        with pytest.raises(ConfigError, match=NEXT[Code.TOO_LARGE]):
            content(database)
        assert len(database.read([At("a"), At("b")], None).entries) == 2


class Broken:
    """A connection to a disk that gives nothing back."""

    in_transaction = False

    def execute(self, *_: object) -> None:
        fault = sqlite3.OperationalError("disk I/O error")
        fault.sqlite_errorname = "SQLITE_IOERR_READ"
        raise fault


def test_only_a_write_that_the_disk_refuses_is_uncertain(path: Path, monkeypatch: pytest.MonkeyPatch):
    with closing(Database(path)) as database:
        write(database, a="1")
        with monkeypatch.context() as patched:
            patched.setattr(database, "_db", Broken())
            for ask in (lambda: content(database), lambda: database.next_change(Below(), 1)):
                with pytest.raises(ConfigError, match=NEXT[Code.UNAVAILABLE]):
                    ask()
            with pytest.raises(ConfigError, match=NEXT[Code.UNCERTAIN]):
                write(database, a="2")
        assert content(database) == {"a": "1"}


# -- a disk that does not answer


async def test_a_disk_that_does_not_answer(path: Path, monkeypatch: pytest.MonkeyPatch):
    database = Database(path)
    backend = SqliteBackend(database, patience=0.05)
    turning, commit = threading.Event(), database.commit

    def slow(what: Commit) -> int | None:
        turning.wait()
        return commit(what)

    monkeypatch.setattr(database, "commit", slow)
    try:
        async with backend.watch(Below(), 1) as changes:
            with pytest.raises(ConfigError, match=NEXT[Code.UNCERTAIN]):
                await backend.commit(Commit({}, {"a": "1"}))
            with pytest.raises(ConfigError, match=NEXT[Code.UNAVAILABLE]):
                await backend.read([Below()])
            turning.set()
            backend._patience = 60.0
            with trio.fail_after(60):
                # It was made after all, and is told though nobody waited for it any more.
                change = await anext(changes)
        assert [entry.key for entry in change.entries] == ["a"]
    finally:
        turning.set()
        await backend.aclose()
