"""Directories of small files, of which some are no files, and a machine that has run out of descriptors."""

from __future__ import annotations

import errno
import os
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
