"""Directories of small files, of which some are no files, and a machine that has run out of descriptors."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cyfs_ns.errors import BadWire
from cyfs_ns.io.trusted.folder import Folder, read_small


def folder(path: Path) -> Folder[bytes]:
    return Folder(path, (".json",), read_small, 10)


def test_what_only_this_machine_lacked_for_a_moment_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "one.json").write_bytes(b"whole")
    files = folder(tmp_path)

    def none_left(*_: object, **__: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as starved:
        starved.setattr(os, "open", none_left)
        (unread,) = files.look().unread
        assert unread.name == "one.json" and "Too many open files" in unread.why
    assert files.look().items == (b"whole",) and not files.seen.unread


def test_what_is_no_file_costs_no_descriptor(tmp_path: Path) -> None:
    (tmp_path / "directory.json").mkdir()
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "loop.json").symlink_to("loop.json")
    (tmp_path / "nowhere.json").symlink_to("nothing")
    (tmp_path / "huge.json").write_bytes(bytes(1 << 20))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        seen = folder(tmp_path).look()
        assert len(seen.unread) == 5 and not seen.items
        with pytest.raises(BadWire, match="not a file"):
            read_small(tmp_path / "directory.json")
    assert len(os.listdir("/proc/self/fd")) == before


class Turn:
    """A lock that knows how many have come for it."""

    def __init__(self) -> None:
        self.lock, self.came = threading.Lock(), 0

    def __enter__(self) -> None:
        self.came += 1
        self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.lock.release()


def wait_for(done: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not done():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_who_waits_for_a_look_of_others_shares_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, listed, go, turn, looks = folder(tmp_path), Folder.names, threading.Event(), Turn(), 0

    def slow(self: Folder[bytes]) -> list[str]:
        nonlocal looks
        found = listed(self)
        looks += 1
        assert go.wait(30)
        return found

    monkeypatch.setattr(Folder, "names", slow)
    monkeypatch.setattr(files, "_turn", turn)
    with ThreadPoolExecutor(9) as people:
        first = people.submit(files.look)
        wait_for(lambda: looks == 1)
        (tmp_path / "late.json").write_bytes(b"late")  # the first has been told what there is already
        others = [people.submit(files.look) for _ in range(8)]
        wait_for(lambda: turn.came == 9)
        go.set()
        assert first.result().items == ()
        assert all(other.result().items == (b"late",) for other in others)
    assert looks == 2
    assert files.look().items == (b"late",) and looks == 3


def test_a_look_that_failed_is_nobodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, go, turn, looks = folder(tmp_path), threading.Event(), Turn(), 0

    def slow(self: Folder[bytes]) -> list[str]:
        nonlocal looks
        looks += 1
        assert go.wait(30)
        raise PermissionError("not now")

    monkeypatch.setattr(files, "_turn", turn)
    with monkeypatch.context() as failing, ThreadPoolExecutor(4) as people:
        failing.setattr(Folder, "names", slow)
        all_of_them = [people.submit(files.look) for _ in range(4)]
        wait_for(lambda: turn.came == 4)
        go.set()
        for one in all_of_them:
            with pytest.raises(PermissionError, match="not now"):
                one.result()
    assert looks == 4
    assert files.look().items == ()
