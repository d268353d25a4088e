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
from collections.abc import Callable, Iterable
from pathlib import Path

import trio

from cyfs_ns.io.atomic import write_atomic
from cyfs_ns.store import AnswerCache

_SMALL = 1 << 20  # octets up to which a file may grow, whatever it was

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
            pieces = await _gathered(news)
            try:
                size = await trio.to_thread.run_sync(self._append, pieces)
            except FileNotFoundError:
                news = None
        if news is None:
            pieces = await _gathered(self._cache.dump(now, wall))
            size = await trio.to_thread.run_sync(self._replace, pieces)
            self._size, most = 0, max(_SMALL, 2 * size)
        self._size += size
        self._most, self._saved = most, changes

    def _replace(self, pieces: list[bytes]) -> int:
        data = b"".join(pieces)
        write_atomic(self._path, data)
        return len(data)

    def _append(self, pieces: list[bytes]) -> int:
        data = b"".join(pieces)
        fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        try:
            if os.write(fd, data) != len(data):
                raise OSError(errno.ENOSPC, "no space left on device")
        finally:
            os.close(fd)
        return len(data)

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


async def _gathered(pieces: Iterable[bytes]) -> list[bytes]:
    """Not yet joined: megabytes at once are a matter for threads."""
    gathered = []
    for piece in pieces:
        gathered.append(piece)
        await trio.lowlevel.checkpoint()
    return gathered
