"""Lines of this machine, on its disk until an OOD has them.

Whoever writes a line never waits: it goes to a queue in memory, from there in batches to a file, from there to an OOD,
at least once.  Each of the two is bounded and gives up the oldest: the queue says so in a line of its own, the file
by a gap in the numbers, which the OOD tells.  A ``kill -9`` loses what is in memory, a moment's lines.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import trio

from cyfs_ns.errors import CyfsError
from cyfs_ns.io.logs import Watcher
from cyfs_ns.io.sqlitefile import opening, transaction
from zone.klog.line import MOST_BATCH, MOST_LINES, Batch, Line, made, read_line

MOST_QUEUED: Final = 4096
"""Lines in memory."""
MOST_SPOOLED: Final = 32 << 20
"""Bytes of lines in the file."""
_PAUSE: Final = 1.0
"""Seconds before the next try where an OOD did not take lines, at first; at most ``_LONGEST``."""
_LONGEST: Final = 30.0

_APPLICATION: Final = 0x5A4B4C53
_MIGRATIONS: Final = (
    """
    CREATE TABLE line (number INTEGER PRIMARY KEY AUTOINCREMENT, text BLOB NOT NULL) STRICT;
    CREATE TABLE life (one INTEGER PRIMARY KEY CHECK (one = 1), name TEXT NOT NULL) STRICT;
    """,
)
_OLDEST: Final = "SELECT number, length(text) FROM line ORDER BY number LIMIT 1000"

_log = logging.getLogger("cyfs.zone.klog")

Send = Callable[[Batch], Awaitable[int]]
"""Gives a batch to an OOD and returns the number up to which it has them all.  Raises ``CyfsError``."""


class Spool:
    """The file.  Every method blocks on the disk and raises ``sqlite3.Error``; one thread at a time."""

    def __init__(self, path: Path, most: int = MOST_SPOOLED) -> None:
        """Raises ``ConfigFault`` if it cannot be opened."""
        self._most = most
        with opening(path, _APPLICATION, _MIGRATIONS) as self._db:
            with transaction(self._db) as db:
                db.execute("INSERT INTO life VALUES (1, ?) ON CONFLICT DO NOTHING", (os.urandom(8).hex(),))
            (self.life,) = self._db.execute("SELECT name FROM life").fetchone()
            (self._size,) = self._db.execute("SELECT coalesce(sum(length(text)), 0) FROM line").fetchone()

    def close(self) -> None:
        self._db.close()

    def add(self, lines: Sequence[Line]) -> None:
        """Have them on the disk, all or none; the oldest make room."""
        texts = [line.text() for line in lines]
        size = self._size + sum(map(len, texts))
        with transaction(self._db) as db:
            db.executemany("INSERT INTO line (text) VALUES (?)", ((text,) for text in texts))
            while size > self._most:
                for number, length in db.execute(_OLDEST).fetchall():
                    if size <= self._most:
                        break
                    db.execute("DELETE FROM line WHERE number = ?", (number,))
                    size -= length
        self._size = size

    def batch(self) -> Batch | None:
        """The oldest lines; None: there are none."""
        lines: list[tuple[int, Line]] = []
        room = MOST_BATCH
        rows = self._db.execute("SELECT number, text FROM line ORDER BY number LIMIT ?", (MOST_LINES,))
        for number, text in rows.fetchall():
            room -= len(text)
            if room < 0:
                break
            lines.append((number, read_line(text)))
        return Batch(self.life, tuple(lines)) if lines else None

    def taken(self, number: int) -> None:
        """Forget the lines up to ``number``, which an OOD has."""
        with transaction(self._db) as db:
            (gone,) = db.execute(
                "SELECT coalesce(sum(length(text)), 0) FROM line WHERE number <= ?", (number,)
            ).fetchone()
            db.execute("DELETE FROM line WHERE number <= ?", (number,))
        self._size -= gone


class Journal:
    """The way of lines from those who say them to an OOD."""

    def __init__(self, spool: Spool, most_queued: int = MOST_QUEUED) -> None:
        self._spool = spool
        self._queue: deque[Line] = deque(maxlen=most_queued)
        self._lost = 0
        self._one = trio.CapacityLimiter(1)
        self._token = trio.lowlevel.current_trio_token()
        self._came, self._spooled = trio.Event(), trio.Event()

    def put(self, line: Line) -> None:
        """From any thread, at once."""
        if len(self._queue) == self._queue.maxlen:
            self._lost += 1
        self._queue.append(line)
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._came.set, idempotent=True)

    async def run(self, send: Send) -> None:
        """Carry lines until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep)
            nursery.start_soon(self._ship, send)

    async def _keep(self) -> None:
        while True:
            await self._came.wait()
            self._came = trio.Event()
            while lines := self._drain():
                lost = self._lost
                told = f"{lost} lines before this one were lost: the disk did not take them in time"
                gap = [made(lines[0].time, "klog", "warning", told, {})] if lost else []
                try:
                    await trio.to_thread.run_sync(self._spool.add, gap + lines, limiter=self._one)
                except sqlite3.Error as fault:
                    # Said louder it would come back as a line, for a disk that takes none.
                    self._lost += len(lines)
                    _log.debug("lines of the log were lost: %s", fault)
                    await trio.sleep(_PAUSE)
                else:
                    self._lost -= lost
                    self._spooled.set()

    def _drain(self) -> list[Line]:
        lines: list[Line] = []
        while self._queue and len(lines) < MOST_LINES:
            lines.append(self._queue.popleft())
        return lines

    async def _ship(self, send: Send) -> None:
        pause = _PAUSE
        while True:
            spooled = self._spooled
            try:
                batch = await trio.to_thread.run_sync(self._spool.batch, limiter=self._one)
                if batch is None:
                    await spooled.wait()
                    self._spooled = trio.Event()
                    continue
                number = await send(batch)
                # Whatever it says: only what it was given is forgotten.
                await trio.to_thread.run_sync(self._spool.taken, min(number, batch.lines[-1][0]), limiter=self._one)
            except (CyfsError, sqlite3.Error) as fault:
                _log.debug("lines of the log wait: %s", fault)
                await trio.sleep(pause)
                pause = min(2 * pause, _LONGEST)
            else:
                pause = _PAUSE


async def follow(watcher: Watcher, service: str, put: Callable[[Line], None]) -> None:
    """Have what this process says be lines of ``service``, until cancelled."""
    async for said in watcher:
        put(made(said.time, service, said.level, said.message, said.fields))
