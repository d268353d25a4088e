"""Files that change in every way files change, and whether we hear of it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from cyfs_ns.io import watch
from cyfs_ns.io.watch import _Inotify, signs_of, unseen, watch_files


class Heard:
    """What the watch said, and waiting for it."""

    def __init__(self) -> None:
        self.rounds: list[set[str]] = []
        self._more = trio.Event()

    async def changed(self, paths: frozenset[Path]) -> None:
        self.rounds.append({path.name for path in paths})
        self._more.set()
        self._more = trio.Event()

    async def next(self) -> set[str]:
        with trio.fail_after(60):
            while not self.rounds:
                await self._more.wait()
        return self.rounds.pop(0)


@asynccontextmanager
async def watching(*paths: Path, settle: float = 0.01) -> AsyncIterator[Heard]:
    heard = Heard()
    async with trio.open_nursery() as nursery:
        start = lambda task_status: watch_files(paths, heard.changed, settle=settle, task_status=task_status)  # noqa: E731
        await nursery.start(start)
        yield heard
        nursery.cancel_scope.cancel()


async def test_made_rewritten_replaced_and_removed(tmp_path: Path) -> None:
    file, other = tmp_path / "leases", tmp_path / "other"
    other.write_text("x")
    async with watching(file, other) as heard:
        file.write_text("one")
        assert await heard.next() == {"leases"}
        with file.open("r+") as open_file:
            open_file.write("two")
        assert await heard.next() == {"leases"}
        (tmp_path / "new").write_text("three")
        (tmp_path / "new").replace(file)
        assert await heard.next() == {"leases"}
        file.unlink()
        assert await heard.next() == {"leases"}
        (tmp_path / "nobody-asked").write_text("x")
        other.unlink()
        assert await heard.next() == {"other"}
    assert heard.rounds == []


async def test_what_changed_between_reading_and_watching_is_told(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("same", "rewritten", "made", "removed")]
    for path in (paths[0], paths[1], paths[3]):
        path.write_text("one")
    signs = signs_of(paths)
    paths[1].write_text("another")
    paths[2].write_text("one")
    paths[3].unlink()
    heard = Heard()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(watch_files, paths, heard.changed, since=signs, settle=0.01))
        assert await heard.next() == {"rewritten", "made", "removed"}
        paths[0].write_text("another")
        assert await heard.next() == {"same"}
        nursery.cancel_scope.cancel()
    assert heard.rounds == []


async def test_what_nobody_noted_is_told_as_it_is(tmp_path: Path) -> None:
    paths = [tmp_path / "there", tmp_path / "missing"]
    paths[0].write_text("one")
    heard = Heard()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(watch_files, paths, heard.changed, since=unseen(paths), settle=0.01))
        assert await heard.next() == {"there", "missing"}
        paths[0].write_text("another")
        assert await heard.next() == {"there"}
        nursery.cancel_scope.cancel()
    assert heard.rounds == []


async def test_many_writes_are_told_as_few(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    async with watching(file, settle=0.05) as heard:
        for number in range(200):
            file.write_text("x" * number)
        assert await heard.next() == {"hosts"}
        assert len(heard.rounds) < 20


async def test_directories_that_come_and_go(tmp_path: Path) -> None:
    file = tmp_path / "run" / "dns" / "leases"
    async with watching(file) as heard:
        file.parent.mkdir(parents=True)
        file.write_text("one")
        assert await heard.next() == {"leases"}
        file.unlink()
        file.parent.rmdir()
        assert await heard.next() == {"leases"}
        file.parent.mkdir()
        file.write_text("again")
        assert await heard.next() == {"leases"}
        (tmp_path / "run").rename(tmp_path / "away")
        assert await heard.next() == {"leases"}


async def test_links_are_followed_to_where_the_writing_happens(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "stub").write_text("one")
    (tmp_path / "run" / "now").symlink_to("stub")
    link = tmp_path / "etc" / "resolv.conf"
    link.symlink_to("../run/now")
    async with watching(link) as heard:
        (tmp_path / "run" / "stub").write_text("two!")
        assert await heard.next() == {"resolv.conf"}
        (tmp_path / "run" / "other").write_text("three")
        (tmp_path / "run" / "new").symlink_to("other")
        (tmp_path / "run" / "new").rename(tmp_path / "run" / "now")
        assert await heard.next() == {"resolv.conf"}
        (tmp_path / "run" / "other").write_text("four!!")
        assert await heard.next() == {"resolv.conf"}


async def test_a_link_that_is_changed_before_it_is_watched_is_followed_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("etc", "old", "new"):
        (tmp_path / name).mkdir()
    (tmp_path / "new" / "file").write_text("one")
    link = tmp_path / "etc" / "link"
    link.symlink_to("../old/file")
    watch_them = _Inotify.watch

    def watch_late(self: _Inotify, directories: set[Path]) -> None:
        if link.readlink() == Path("../old/file"):
            link.unlink()
            link.symlink_to("../new/file")
        watch_them(self, directories)

    monkeypatch.setattr(_Inotify, "watch", watch_late)
    async with watching(link) as heard:
        (tmp_path / "new" / "file").write_text("two!")
        assert await heard.next() == {"link"}


async def test_a_directory_counts_with_its_files(tmp_path: Path) -> None:
    directory = tmp_path / "hosts.d"
    async with watching(directory) as heard:
        directory.mkdir()
        assert await heard.next() == {"hosts.d"}
        (directory / "a").write_text("one")
        assert await heard.next() == {"hosts.d"}
        (directory / "a").unlink()
        assert await heard.next() == {"hosts.d"}


@pytest.mark.parametrize("most", [watch._MAX_FILES, 100])
async def test_the_last_file_of_a_crowded_directory_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """However it changes, of as many as pins may be; of still more, if it is replaced as careful writers do."""
    monkeypatch.setattr(watch, "_MAX_FILES", most)
    folder = tmp_path / "pins"
    folder.mkdir()
    for number in range(1500):
        (folder / f"{number:04}").write_text("one")
    async with watching(folder) as heard:
        if most > 1500:
            (folder / "1499").write_text("other")
            assert await heard.next() == {"pins"}
        (tmp_path / "new").write_text("other")
        (tmp_path / "new").replace(folder / "1499")
        assert await heard.next() == {"pins"}


async def test_links_that_go_round_are_no_file(tmp_path: Path) -> None:
    file = tmp_path / "round"
    file.symlink_to(file)
    async with watching(file) as heard:
        file.unlink()
        file.write_text("x")
        assert await heard.next() == {"round"}


async def test_without_the_kernels_help_it_looks_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Blind(watch._Inotify):
        def __init__(self) -> None:
            super().__init__()
            os.close(self._fd)
            self._fd = -1

    monkeypatch.setattr(watch, "_Inotify", Blind)
    monkeypatch.setattr(watch, "_LOOK_ROUND_BLIND", 0.02)
    file = tmp_path / "leases"
    async with watching(file) as heard:
        file.write_text("one")
        assert await heard.next() == {"leases"}


async def test_nothing_is_left_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        async with watching(tmp_path / "x"):
            pass
    assert len(os.listdir("/proc/self/fd")) == before
