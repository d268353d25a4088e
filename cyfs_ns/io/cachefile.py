"""The cache over restarts: one file, replaced whole every so often and at the end.

A kill in between costs what was learnt since; the file itself is the old one or the new one, and the entries in it
carry sums of their own.  Nothing here may keep the server from starting: a file that cannot be read is an empty cache.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

import trio

from cyfs_ns.io.atomic import write_atomic
from cyfs_ns.store import AnswerCache

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
        """Write all down, if anything is new.  Raises ``OSError``; then the old file stands."""
        changes = self._cache.changes
        if changes == self._saved:
            return
        pieces = []
        for piece in self._cache.dump(self._monotonic(), self._wall()):
            pieces.append(piece)
            await trio.lowlevel.checkpoint()
        await trio.to_thread.run_sync(write_atomic, self._path, b"".join(pieces))
        self._saved = changes

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
