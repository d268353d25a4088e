"""The cache over restarts: one file, to which what was learnt is added every so often and at the end.

A kill in between costs what was learnt since; entries carry sums of their own, and a torn end is left out.  What is
added is handed to the kernel and not forced onto the disk, so that a killed process loses seconds and a flash chip is
written when the kernel thinks fit.  The whole is written anew, and replaces the old one in one step, when the file is
twice what it was the last time, when answers were flushed, and once in the life of a process: the end may be torn.  So
the disk sees about twice as much as was learnt, however large the cache is.

Nothing here may keep the server from starting: a file that cannot be read is an empty cache.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import trio

from cyfs_ns.io.atomic import AtomicFile
from cyfs_ns.store import AnswerCache

_SMALL = 1 << 20  # octets up to which a file may grow, whatever it was
_LOT = 1 << 16  # octets that are written at a time

_log = logging.getLogger(__name__)


class CacheFile:
    """``monotonic`` is the clock the cache is used with; ``wall`` tells seconds since 1970."""

    def __init__(
        self,
        cache: AnswerCache,
        path: str | Path,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._cache, self._path = cache, Path(path)
        self._monotonic, self._wall = monotonic, wall
        self._saved = cache.changes
        self._size, self._most = 0, 0
        """Octets of the file, and above which it is written anew."""

    def restore(self) -> int:
        """Fill the cache; returns how many answers came.  Blocks: about a tenth of a second for 50,000."""
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return 0
        except OSError as fault:
            _log.warning("the saved cache cannot be read: %s", fault)
            return 0
        return self._cache.load(content, self._monotonic(), self._wall())

    async def save(self) -> None:
        """Write down what is new.  Raises ``OSError``; then the file stands as it was, but for a torn end."""
        changes = self._cache.changes
        if changes == self._saved:
            return
        now, wall = self._monotonic(), self._wall()
        news = self._cache.news(now, wall) if self._size < self._most else None
        most, self._most = self._most, 0  # until it has worked
        if news is not None:
            try:
                size = await self._append(news)
            except FileNotFoundError:
                news = None
        if news is None:
            size = await self._replace(self._cache.dump(now, wall))
            self._size, most = 0, max(_SMALL, 2 * size)
        self._size += size
        self._most, self._saved = most, changes

    async def _replace(self, pieces: Iterator[bytes]) -> int:
        with await trio.to_thread.run_sync(AtomicFile, self._path) as file:
            size = await _written(pieces, file.write)
            await trio.to_thread.run_sync(file.commit)
        return size

    async def _append(self, pieces: Iterator[bytes]) -> int:
        # Not buffered: what was taken is with the kernel.
        with await trio.to_thread.run_sync(lambda: self._path.open("r+b", buffering=0)) as file:
            file.seek(0, os.SEEK_END)

            def write(data: bytes) -> None:
                if file.write(data) != len(data):
                    raise OSError(errno.ENOSPC, "no space left on device")

            return await _written(pieces, write)

    async def keep(self, every: float) -> None:
        """Save every so many seconds until cancelled, and then once more."""
        try:
            while True:
                await trio.sleep(every)
                await self._try_to_save()
        finally:
            with trio.CancelScope(shield=True):
                await self._try_to_save()

    async def _try_to_save(self) -> None:
        try:
            await self.save()
        except OSError as fault:
            _log.warning("the cache cannot be saved: %s", fault)


async def _written(pieces: Iterator[bytes], write: Callable[[bytes], None]) -> int:
    """Hand ``pieces`` to the disk; how many octets.

    A lot at a time, in a thread: all of it at once would cost as much memory again as the cache has, and the allocator
    would keep it.
    """
    size, lot = 0, bytearray()
    for piece in pieces:
        lot += piece
        if len(lot) < _LOT:
            await trio.lowlevel.checkpoint()
        else:
            size += len(lot)
            await trio.to_thread.run_sync(write, bytes(lot))
            lot.clear()
    await trio.to_thread.run_sync(write, bytes(lot))
    return size + len(lot)
