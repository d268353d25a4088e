"""Where backups lie: a place for files under names, which is asked for no more than that.

    target                  says whose it is; without it, a disk that is not mounted would pass for an empty one
    backups/MACHINE/NUMBER  manifests
    chunks/AB/ABCD…         chunks, by the hexadecimal digits of their names
    claims/KIND-MACHINE     who works on it now (``zone.io.backup.backups``)

A file is there whole or not at all, and a listing shows what was written before it was asked for.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol, TypeVar

import trio

from cyfs_ns.errors import BadWire, Refused, Unreachable
from cyfs_ns.io.atomic import write_atomic

MOST_LISTED: Final = 1 << 18
"""Names in one folder."""
_PATIENCE: Final = 60.0
"""Seconds for a disk."""

T = TypeVar("T")


class Target(Protocol):
    """Every method raises ``Unreachable`` if the target cannot be had now, ``Refused`` if it does not want to or has no
    room; then nothing was changed, or, of ``write`` and ``remove``, all of it.  Paths are our own, folders with ``/``.
    """

    async def read(self, path: str, most: int) -> bytes | None:
        """The file; None: there is none.  Raises ``BadWire`` if it is longer than ``most``."""

    async def write(self, path: str, data: bytes) -> None:
        """Have it there, in the place of what was, safe from a power cut as far as the target is."""

    async def remove(self, path: str) -> None:
        """Have no such file."""

    async def list(self, folder: str) -> set[str]:
        """The names in ``folder``; leftovers of writes that were cut off are among them, under names of their own."""


class Directory:
    """A directory: a disk on USB, a mounted share."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __str__(self) -> str:
        return str(self._path)

    async def read(self, path: str, most: int) -> bytes | None:
        return await self._run(self._read, path, most)

    def _read(self, path: str, most: int) -> bytes | None:
        try:
            with (self._path / path).open("rb") as file:
                data = file.read(most + 1)
        except FileNotFoundError:
            return None
        if len(data) > most:
            raise BadWire(f"{self._path / path}: longer than {most} bytes")
        return data

    async def write(self, path: str, data: bytes) -> None:
        await self._run(self._write, path, data)

    def _write(self, path: str, data: bytes) -> None:
        file = self._path / path
        for folder in reversed(file.relative_to(self._path).parents[:-1]):
            with suppress(FileExistsError):
                (self._path / folder).mkdir(mode=0o700)
                _sync((self._path / folder).parent)
        write_atomic(file, data)

    async def remove(self, path: str) -> None:
        await self._run(lambda: (self._path / path).unlink(missing_ok=True))

    async def list(self, folder: str) -> set[str]:
        return await self._run(self._list, folder)

    def _list(self, folder: str) -> set[str]:
        names: set[str] = set()
        with suppress(FileNotFoundError), os.scandir(self._path / folder) as entries:
            for entry in entries:
                if len(names) == MOST_LISTED:
                    raise Refused(f"{self._path / folder}: more than {MOST_LISTED} files; they are not ours")
                names.add(entry.name)
        return names

    async def _run(self, work: Callable[..., T], *args: object) -> T:
        try:
            with trio.fail_after(_PATIENCE):
                return await trio.to_thread.run_sync(work, *args, abandon_on_cancel=True)
        except trio.TooSlowError:
            raise Unreachable(f"{self._path}: the disk does not answer") from None
        except OSError as fault:
            if fault.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise Refused(f"{self._path}: no room; make some, or let fewer backups stay") from fault
            if fault.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise Refused(f"{self._path}: {fault.strerror}; let this program write there") from fault
            raise Unreachable(f"{self._path}: {fault.strerror}; is the disk there?") from fault


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
