"""Lines of this machine, on its disk until an OOD has them.

Whoever writes a line never waits: it goes to a queue in memory, from there in batches to a file, from there to an OOD,
at least once.  Each of the two is bounded: the queue gives up the oldest line and says so in one of its own, the file
the oldest of the service that has most in it, by a gap in the numbers, which the OOD tells.  A ``kill -9`` loses what
is in memory, a moment's lines.

Readers of files that are logs already give their lines to the spool together with how far they have read, so that none
comes twice and none is left out.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import trio

from cyfs_ns.errors import BadWire, CyfsError
from cyfs_ns.io.logs import Watcher
from cyfs_ns.io.sqlitefile import opening, transaction
from zone.klog.line import MOST_BATCH, MOST_LINES, OWN, Batch, Line, made, read_line

MOST_QUEUED: Final = 4096
"""Lines in memory."""
MOST_SPOOLED: Final = 32 << 20
"""Bytes of lines in the file."""
_REST: Final = 0.25
"""Seconds in which lines gather before the disk is asked to keep them."""
_PAUSE: Final = 1.0
"""Seconds before the next try where an OOD did not take lines, at first; at most ``_LONGEST``."""
_LONGEST: Final = 30.0

_APPLICATION: Final = 0x5A4B4C53
_MIGRATIONS: Final = (
    """
    CREATE TABLE line (number INTEGER PRIMARY KEY AUTOINCREMENT, service TEXT NOT NULL, text BLOB NOT NULL) STRICT;
    CREATE INDEX by_service ON line (service);
    CREATE TABLE mark (name TEXT PRIMARY KEY, text TEXT NOT NULL) STRICT;
    CREATE TABLE life (one INTEGER PRIMARY KEY CHECK (one = 1), name TEXT NOT NULL) STRICT;
    """,
)

_log = logging.getLogger("cyfs.zone.klog")

Send = Callable[[Batch], Awaitable[int]]
"""Gives a batch to an OOD and returns the number up to which it has them all.  Raises ``CyfsError``, of those
``BadWire`` where the batch will never be taken."""


class Spool:
    """The file.  Every method blocks on the disk and raises ``sqlite3.Error``; one thread at a time."""

    def __init__(self, path: Path, *, most: int = MOST_SPOOLED) -> None:
        """Raises ``ConfigFault`` if it cannot be opened."""
        self._most = most
        with opening(path, _APPLICATION, _MIGRATIONS) as self._db:
            with transaction(self._db) as db:
                db.execute("INSERT INTO life VALUES (1, ?) ON CONFLICT DO NOTHING", (os.urandom(8).hex(),))
            (self.life,) = self._db.execute("SELECT name FROM life").fetchone()
            sizes = self._db.execute("SELECT service, sum(length(text)) FROM line GROUP BY service")
            self._sizes: Counter[str] = Counter(dict(sizes.fetchall()))

    @property
    def size(self) -> int:
        """Bytes of lines."""
        return self._sizes.total()

    def close(self) -> None:
        self._db.close()

    def add(self, lines: Sequence[Line], marks: Mapping[str, str | None] | None = None) -> None:
        """Have them on the disk, all or none, and how far somebody has read (None: forget it)."""
        sizes = self._sizes.copy()
        with transaction(self._db) as db:
            for line in lines:
                text = line.text()
                db.execute("INSERT INTO line (service, text) VALUES (?, ?)", (line.service, text))
                sizes[line.service] += len(text)
            for name, mark in (marks or {}).items():
                if mark is None:
                    db.execute("DELETE FROM mark WHERE name = ?", (name,))
                else:
                    db.execute("INSERT OR REPLACE INTO mark VALUES (?, ?)", (name, mark))
            excess = sizes.total() - self._most
            while excess > 0:
                ((largest, _),) = sizes.most_common(1)
                oldest = "SELECT number, length(text) FROM line WHERE service = ? ORDER BY number LIMIT 64"
                for number, length in db.execute(oldest, (largest,)).fetchall():
                    if excess <= 0:
                        break
                    db.execute("DELETE FROM line WHERE number = ?", (number,))
                    sizes[largest] -= length
                    excess -= length
        self._sizes = +sizes

    def marks(self) -> dict[str, str]:
        """How far was read, by name."""
        return dict(self._db.execute("SELECT name, text FROM mark").fetchall())

    def batch(self) -> Batch | None:
        """The oldest lines; None: there are none."""
        lines: list[tuple[int, Line]] = []
        room = MOST_BATCH
        rows = self._db.execute("SELECT number, text FROM line ORDER BY number LIMIT ?", (MOST_LINES,))
        for number, text in rows:
            room -= len(text)
            if room < 0:
                break
            lines.append((number, read_line(text)))
        rows.close()
        return Batch(self.life, tuple(lines)) if lines else None

    def taken(self, number: int) -> None:
        """Forget the lines up to ``number``, which an OOD has."""
        with transaction(self._db) as db:
            gone = db.execute(
                "SELECT service, sum(length(text)) FROM line WHERE number <= ? GROUP BY service", (number,)
            ).fetchall()
            db.execute("DELETE FROM line WHERE number <= ?", (number,))
        self._sizes = +(self._sizes - Counter(dict(gone)))


class Shipping:
    """What is in a spool goes to an OOD, and to nobody else who works on it meanwhile."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._one = trio.CapacityLimiter(1)
        self._spooled = trio.Event()
        self.why = ""
        """Why lines wait; empty: they do not."""

    def status(self) -> Mapping[str, Any]:
        """How many bytes of lines wait, and for what."""
        return {"waiting": self._spool.size, "why": self.why}

    async def add(self, lines: Sequence[Line], marks: Mapping[str, str | None] | None = None) -> None:
        """As ``Spool.add``."""
        await trio.to_thread.run_sync(self._spool.add, lines, marks, limiter=self._one)
        self._spooled.set()

    async def run(self, send: Send) -> None:
        """Until cancelled."""
        pause = _PAUSE
        while True:
            spooled = self._spooled
            try:
                batch = await trio.to_thread.run_sync(self._spool.batch, limiter=self._one)
                if batch is None:
                    self.why = ""
                    await spooled.wait()
                    self._spooled = trio.Event()
                    continue
                last = batch.lines[-1][0]
                try:
                    # Whatever it says: only what it was given is forgotten.
                    last = min(await send(batch), last)
                except BadWire as bad:
                    _log.warning("%d lines of the log are given up: %s", len(batch.lines), bad)
                await trio.to_thread.run_sync(self._spool.taken, last, limiter=self._one)
            except (CyfsError, sqlite3.Error) as fault:
                # Said louder it would come back as a line, for an OOD or a disk that takes none.
                _log.debug("lines of the log wait: %s", fault)
                self.why = str(fault)
                await trio.sleep(pause)
                pause = min(2 * pause, _LONGEST)
            else:
                pause, self.why = _PAUSE, ""


class Journal:
    """The way of lines from those who say them to a spool."""

    def __init__(self, shipping: Shipping, most_queued: int = MOST_QUEUED) -> None:
        self._shipping = shipping
        self._queue: deque[Line] = deque(maxlen=most_queued)
        self._lost = 0
        self._token = trio.lowlevel.current_trio_token()
        self._came = trio.Event()

    def put(self, line: Line) -> None:
        """From any thread, at once."""
        if len(self._queue) == self._queue.maxlen:
            self._lost += 1
        self._queue.append(line)
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._came.set, idempotent=True)

    async def run(self) -> None:
        """Carry lines until cancelled."""
        while True:
            await self._came.wait()
            self._came = trio.Event()
            while lines := self._drain():
                while not await self._keep(lines):  # noqa: ASYNC110 -- a disk tells nobody that it has room again
                    await trio.sleep(_PAUSE)
                await trio.sleep(_REST)

    async def _keep(self, lines: Sequence[Line]) -> bool:
        """False: the disk does not take them now."""
        lost = self._lost
        told = f"{lost} lines before this one were lost: the disk did not take them in time"
        gap = [made(lines[0].time, OWN, "warning", told, {})] if lost else []
        try:
            await self._shipping.add([*gap, *lines])
        except sqlite3.Error as fault:
            # As above.
            _log.debug("lines of the log are not on the disk yet: %s", fault)
            return False
        self._lost -= lost
        return True

    def _drain(self) -> list[Line]:
        lines: list[Line] = []
        while self._queue and len(lines) < MOST_LINES:
            lines.append(self._queue.popleft())
        return lines


async def follow(watcher: Watcher, put: Callable[[Line], None]) -> None:
    """Have what this process says of the zone be lines, and what it warns of, until cancelled.

    No more than that: what the gateway does for whom is for its own log (``cyfs-gateway logs``) alone.
    """
    async for said in watcher:
        part = _part(str(said.fields.get("logger", "")))
        if part in _ZONES or said.level in ("warning", "error"):
            put(made(said.time, part, said.level, said.message, said.fields))


_ZONES: Final = frozenset({"cyfs.zone", "cyfs.node", "cyfs.scheduler", "cyfs.etcd"})


def _part(logger: str) -> str:
    """Which part of this program a logger belongs to."""
    part = ".".join(logger.split(".")[:2])
    return part if part in _ZONES else "cyfs.gateway"
