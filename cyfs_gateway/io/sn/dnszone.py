"""The zone of a running SN: what its devices say is shown at once, written down, and only then acknowledged.

A device that was told *done* is served what it said by the very next answer, and after a crash as well.  One that was
told nothing says it again.  Updates that come together are written together, so that ten thousand devices that return
at once cost a few hundred syncs of the disk, not ten thousand.

On disk is one SQLite file: the last token of each device, and the serial.  Tokens are verified anew when they are read
back, so that whoever can write to the file can take words away, and put none into anybody's mouth.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path

import trio

from cyfs_gateway.host import Changed
from cyfs_gateway.sn.zone import Kept, People, Verdict, Zone
from cyfs_gateway.sn.zonerecords import ZoneSettings
from cyfs_ns.authority import Statement
from cyfs_ns.errors import ConfigFault
from cyfs_ns.io.sqlitefile import open_sqlite, transaction

MOST_WAITING = 4096
"""Updates that wait for the disk."""

_SWEEP = 30.0
_MOST_AT_ONCE = 512
_SCHEMA = """
CREATE TABLE IF NOT EXISTS said (name TEXT, key TEXT, token TEXT NOT NULL, heard REAL NOT NULL,
                                 PRIMARY KEY (name, key)) WITHOUT ROWID, STRICT;
CREATE TABLE IF NOT EXISTS serial (one INTEGER PRIMARY KEY CHECK (one = 1), serial INTEGER NOT NULL) STRICT;
"""

_log = logging.getLogger("cyfs.sn")


class ZoneKeeper:
    """An :class:`~cyfs_ns.authority.Authority`, for :meth:`cyfs_gateway.host.Host.register_authority`.

    What that gives back belongs into ``changed``.  To be asked and told when :meth:`run` has started, not before.
    """

    def __init__(
        self,
        settings: ZoneSettings,
        people: People,
        file: Path,
        *,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.zone = Zone(settings, people, now=wall())
        self._file, self._wall = file, wall
        self.changed: Changed = _nobody
        """Hears at and below which names answers are others now, before anybody can ask again."""
        self._waiting: list[_Waiting] = []
        self._come = trio.Event()
        self._ready = False

    def lookup(self, name: bytes, rtype: int) -> Statement | None:
        """As :class:`~cyfs_ns.authority.Authority` has it."""
        return self.zone.lookup(name, rtype, self._wall())

    async def update(self, untrusted: str) -> Verdict:
        """What becomes of an update, when that is on disk.  Raises ``OSError`` when it could not be written down."""
        if not self._ready or len(self._waiting) >= MOST_WAITING:
            return Verdict(False, "too much to do; say it again in some seconds")
        verdict = self.zone.update(untrusted, self._wall())
        if verdict.kept is None:
            return verdict
        if verdict.changed:
            self.changed(verdict.changed)
        waiting = _Waiting(verdict.kept)
        self._waiting.append(waiting)
        self._come.set()
        await waiting.done.wait()
        if waiting.fault is not None:
            raise OSError(f"{self._file}: {waiting.fault}") from waiting.fault
        return verdict

    def registered(self, name: str) -> None:
        """The registry has a new word on who has ``name``, their devices or documents."""
        self.changed(self.zone.changed(name, self._wall()))
        self._come.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Remember, then write down what is said, until cancelled.  Raises ``ConfigFault`` for a file that is none."""
        try:
            database, serial, kept = await trio.to_thread.run_sync(_open, self._file)
        except (OSError, sqlite3.Error) as fault:
            how = "restore it, or remove it and let the devices say everything again"
            raise ConfigFault(f"{self._file}: {fault}; {how}") from None
        with closing(database):
            # A signature for each device: some seconds, for very many.
            lost = await trio.to_thread.run_sync(self.zone.restore, kept, self._wall(), serial)
            try:
                await trio.to_thread.run_sync(_forget, database, lost)
            except sqlite3.Error as fault:
                # A disk that is full must not keep the SN from its work: they are lost as well at the next start.
                _log.error("the zone cannot be written down: %s: %s", self._file, fault)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._sweep)
                self._ready = True
                task_status.started()
                try:
                    await self._write(database)
                finally:
                    self._ready = False
                    for waiting in self._waiting:
                        waiting.over(sqlite3.OperationalError("the SN ends"))
                    self._waiting.clear()

    async def _write(self, database: sqlite3.Connection) -> None:
        while True:
            await self._come.wait()
            self._come = trio.Event()
            batch = self._waiting[:_MOST_AT_ONCE]
            fault: sqlite3.Error | None = None
            try:
                await trio.to_thread.run_sync(_put, database, [each.kept for each in batch], self.zone.serial)
            except sqlite3.Error as caught:
                fault = caught
                _log.error("the zone cannot be written down: %s: %s", self._file, caught)
            del self._waiting[: len(batch)]
            if self._waiting:
                self._come.set()
            for each in batch:
                each.over(fault)

    async def _sweep(self) -> None:
        while True:
            await trio.sleep(_SWEEP)
            if changed := self.zone.sweep(self._wall()):
                self.changed(changed)
                self._come.set()


class _Waiting:
    """An update whose sender waits for the disk."""

    def __init__(self, kept: Kept) -> None:
        self.kept = kept
        self.done = trio.Event()
        self.fault: sqlite3.Error | None = None

    def over(self, fault: sqlite3.Error | None) -> None:
        self.fault = fault
        self.done.set()


def _nobody(names: Iterable[bytes]) -> None:
    """Nobody remembers answers yet."""


def _open(file: Path) -> tuple[sqlite3.Connection, int | None, list[Kept]]:
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    database = open_sqlite(file)
    try:
        database.executescript(_SCHEMA)
        told = database.execute("SELECT serial FROM serial").fetchone()
        rows = database.execute("SELECT name, key, token, heard FROM said").fetchall()
        return database, None if told is None else told[0] % (1 << 32), [Kept(*each) for each in rows]
    except BaseException:
        database.close()
        raise


def _put(database: sqlite3.Connection, kept: Sequence[Kept], serial: int) -> None:
    with transaction(database):
        database.executemany("INSERT OR REPLACE INTO said VALUES (?, ?, ?, ?)", kept)
        database.execute("INSERT OR REPLACE INTO serial VALUES (1, ?)", (serial,))


def _forget(database: sqlite3.Connection, lost: Iterable[Kept]) -> None:
    with transaction(database):
        database.executemany("DELETE FROM said WHERE name = ? AND key = ?", [(each.name, each.key) for each in lost])
