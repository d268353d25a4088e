"""The cache over restarts, among them those nobody asked for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from cyfs_ns.io.atomic import AtomicFile
from cyfs_ns.io.cachefile import CacheFile
from cyfs_ns.reply import make_reply
from cyfs_ns.store import AnswerCache, Key, key_of
from cyfs_ns.wire import name_wire


def key(number: int) -> Key:
    return key_of(name_wire(f"n{number}.example"), 1, 1, do=False, cd=False, group="")


def fill(cache: AnswerCache, numbers: range, now: float = 0.0) -> None:
    for number in numbers:
        name = name_wire(f"n{number}.example")
        cache.put(key(number), make_reply(name + b"\0\1\0\1", answer=[(name, 1, 3600, b"abcd")]), now)


def house(path: Path) -> tuple[AnswerCache, CacheFile]:
    cache = AnswerCache(1 << 24)
    return cache, CacheFile(cache, path, monotonic=lambda: 0.0, wall=lambda: 1e9)


async def test_a_restart_brings_all_back(tmp_path: Path) -> None:
    cache, file = house(tmp_path / "cache")
    assert file.restore() == 0
    fill(cache, range(2500))
    await file.save()
    other, again = house(tmp_path / "cache")
    assert again.restore() == 2500
    assert [other.get(key(n), 0.0) for n in range(2500)] == [cache.get(key(n), 0.0) for n in range(2500)]


async def test_nothing_new_is_not_written(tmp_path: Path) -> None:
    cache, file = house(tmp_path / "cache")
    fill(cache, range(3))
    await file.save()
    (tmp_path / "cache").unlink()
    await file.save()
    assert not (tmp_path / "cache").exists()
    fill(cache, range(3, 4))
    await file.save()
    assert (tmp_path / "cache").exists()


async def test_what_is_written_is_what_is_new(tmp_path: Path) -> None:
    path = tmp_path / "cache"
    cache, file = house(path)
    fill(cache, range(1000))
    await file.save()
    whole = path.stat()
    for number in range(20):
        fill(cache, range(number, number + 10))  # some of them known, and learnt anew
        await file.save()
    assert path.stat().st_ino == whole.st_ino
    assert path.stat().st_size - whole.st_size < whole.st_size * 200 / 1000 * 1.2
    other, again = house(path)
    assert again.restore() == 1000
    assert [other.get(key(n), 0.0) for n in range(1000)] == [cache.get(key(n), 0.0) for n in range(1000)]


async def test_it_is_written_anew_before_it_is_mostly_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cyfs_ns.io.cachefile._SMALL", 0)
    path = tmp_path / "cache"
    cache, file = house(path)
    fill(cache, range(100))
    await file.save()
    whole = path.stat().st_size
    sizes = []
    for _ in range(30):
        fill(cache, range(10))
        await file.save()
        sizes.append(path.stat().st_size)
    assert max(sizes) <= 2.2 * whole and whole in sizes
    assert house(path)[1].restore() == 100


async def test_no_more_than_a_lot_is_held_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lots: list[int] = []
    write = AtomicFile.write

    def noted(self: AtomicFile, data: bytes) -> None:
        lots.append(len(data))
        write(self, data)

    monkeypatch.setattr(AtomicFile, "write", noted)
    cache, file = house(tmp_path / "cache")
    fill(cache, range(10_000))
    await file.save()
    assert sum(lots) == (tmp_path / "cache").stat().st_size > 6 * max(lots)
    assert house(tmp_path / "cache")[1].restore() == 10_000


async def test_a_disk_that_fills_up_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, file = house(tmp_path / "cache")
    fill(cache, range(10))
    await file.save()
    cache.flush(name_wire("n3.example"))  # so all of it is to be written anew

    def full(self: AtomicFile, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(AtomicFile, "write", full)
        with pytest.raises(OSError, match="No space"):
            await file.save()
    assert os.listdir(tmp_path) == ["cache"]
    assert house(tmp_path / "cache")[1].restore() == 10
    await file.save()
    assert house(tmp_path / "cache")[1].restore() == 9


async def test_what_was_flushed_does_not_come_back(tmp_path: Path) -> None:
    cache, file = house(tmp_path / "cache")
    fill(cache, range(10))
    await file.save()
    assert cache.flush(name_wire("n3.example")) == 1
    await file.save()
    fill(cache, range(10, 12))
    await file.save()
    other, again = house(tmp_path / "cache")
    assert again.restore() == 11
    assert other.get(key(3), 0.0) is None


async def test_a_torn_end_costs_nothing_that_follows_it(tmp_path: Path) -> None:
    path = tmp_path / "cache"
    cache, file = house(path)
    fill(cache, range(10))
    await file.save()
    fill(cache, range(10, 20))
    await file.save()
    path.write_bytes(path.read_bytes()[:-5])
    other, again = house(path)
    assert again.restore() == 19
    fill(other, range(20, 30))
    await again.save()
    fill(other, range(30, 40))
    await again.save()
    assert house(path)[1].restore() == 39


async def test_a_clock_behind_the_last_addition_makes_all_stale(tmp_path: Path) -> None:
    path = tmp_path / "cache"
    for wall, numbers in ((1e9, range(5)), (1e9 + 100, range(5, 10))):
        cache = AnswerCache(1 << 24, max_stale=1000)
        file = CacheFile(cache, path, monotonic=lambda: 0.0, wall=lambda wall=wall: wall)  # type: ignore[misc]
        file.restore()
        fill(cache, range(5))
        await file.save()
        fill(cache, numbers)
        await file.save()
    late = AnswerCache(1 << 24, max_stale=1000)
    assert CacheFile(late, path, monotonic=lambda: 0.0, wall=lambda: 1e9 + 50).restore() == 10
    found = [late.get(key(number), 0.0) for number in range(10)]
    assert all(each is not None and each.stale for each in found)


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(60):
        while not condition():  # noqa: ASYNC110  (files and logs tell nobody)
            await trio.sleep(0.01)


async def test_it_is_saved_every_so_often_and_at_the_end(tmp_path: Path) -> None:
    cache, file = house(tmp_path / "cache")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(file.keep, 0.01)
        fill(cache, range(5))
        await until(lambda: house(tmp_path / "cache")[1].restore() == 5)
        fill(cache, range(5, 8))
        nursery.cancel_scope.cancel()
    assert house(tmp_path / "cache")[1].restore() == 8


async def test_a_disk_that_refuses_is_only_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache, file = house(tmp_path / "missing" / "cache")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(file.keep, 0.01)
        fill(cache, range(5))
        await until(lambda: "cannot be saved" in caplog.text)
        (tmp_path / "missing").mkdir()
        await until(lambda: house(tmp_path / "missing" / "cache")[1].restore() == 5)
        nursery.cancel_scope.cancel()


def test_a_file_that_cannot_be_read_is_an_empty_cache(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert house(tmp_path)[1].restore() == 0
    assert "cannot be read" in caplog.text
    (tmp_path / "junk").write_bytes(b"not a cache" * 100)
    assert house(tmp_path / "junk")[1].restore() == 0


_WRITER = """
import sys, trio
sys.path[:0] = sys.argv[2:]
from test_ns_cachefile import fill, house
async def main():
    cache, file = house(sys.argv[1])
    start = 0
    while True:
        fill(cache, range(start, start + 200))
        start += 200
        await file.save()
        print(start, flush=True)
trio.run(main)
"""


def test_a_kill_costs_only_what_was_learnt_since(tmp_path: Path) -> None:
    path = tmp_path / "cache"
    here = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    child = subprocess.Popen([sys.executable, "-c", _WRITER, str(path), *here], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    told = [int(child.stdout.readline()) for _ in range(8)]
    os.kill(child.pid, signal.SIGKILL)
    told += [int(line) for line in child.stdout.read().split()]
    child.wait()
    child.stdout.close()
    cache, file = house(path)
    assert told[-1] <= file.restore() <= told[-1] + 200
    assert all(cache.get(key(number), 0.0) is not None for number in range(told[-1]))
