"""What a power cut leaves of files: what was synced, under the names that were synced, and nothing else."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest


class PowerCut:
    """Notes from now on what reaches the disk.  A file that takes a name before it is there whole fails at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._contents: dict[int, bytes] = {}
        self._names: dict[int, dict[str, int]] = {}
        for name in ("fsync", "fdatasync"):
            monkeypatch.setattr(os, name, self._synced)
        for name in ("replace", "rename", "link"):
            self._watch(name, monkeypatch)

    def _synced(self, fd: int) -> None:
        found = os.fstat(fd)
        if stat.S_ISDIR(found.st_mode):
            with os.scandir(fd) as entries:
                self._names[found.st_ino] = {entry.name: entry.inode() for entry in entries}
        else:
            self._contents[found.st_ino] = Path(f"/proc/self/fd/{fd}").read_bytes()

    def _watch(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        real = getattr(os, name)

        def named(source: str | Path, target: str | Path, **where: int) -> None:
            at = where.get("src_dir_fd")
            whole = Path(f"/proc/self/fd/{at}", source) if at is not None else Path(source)
            assert self._contents.get(whole.stat().st_ino) == whole.read_bytes(), f"{target} is not on the disk yet"
            real(source, target, **where)

        monkeypatch.setattr(os, name, named)

    def leaves(self, path: Path) -> bytes | None:
        """The content of ``path`` afterwards; ``None`` if there is no such file."""
        inode = self._names.get(path.parent.stat().st_ino, {}).get(path.name)
        return None if inode is None else self._contents.get(inode, b"")
