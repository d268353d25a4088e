"""The books of an SN on disk: one SQLite file that one process has open, and one thread at a time works on.

Everything is read once, at the start; after that the file is only written to, since the registry in memory answers.  A
write is one transaction, on the disk when it returns (WAL, ``synchronous=FULL``): a ``kill -9`` or a power cut leaves
all of it or nothing.  A disk that is full refuses the transaction whole, and the next one is tried like the first.

The file is locked for as long as it is open: a second writer would know nothing of the first one's memory.  To look
into it, take a copy (:meth:`Store.backup`), which may be made at any time.

The audit log is a table: it is written in the same transaction as what it tells of.  Nothing in it is ever changed; the
oldest lines go when there are too many, those of refusals before their own kind only, lest strangers who are refused a
hundred thousand times wash away what was done.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import trio

from cyfs_gateway.io.sn.tables import APPLICATION, KEYS, MIGRATIONS, TABLES, read_row
from cyfs_gateway.sn.accounts import AnyChange, Entry
from cyfs_gateway.sn.meter import Batch, Usage
from cyfs_ns.errors import BadWire, ConfigFault, Unreachable
from cyfs_ns.identity.did import Did, parse_did
from cyfs_ns.io.sqlitefile import opening, transaction

MOST_DONE: Final = 100_000
MOST_REFUSED: Final = 20_000
"""Lines of the audit log, of what was done and of what was refused."""

KEPT: Final = 36
"""Months of usage that are kept.  Counted, and not by the calendar: a clock that is wrong drops one of them at most."""

_ROTATE: Final = 256
"""Writes from one look at the length of the audit log to the next."""
_PATIENCE: Final = 20.0
"""Seconds that whoever reads the books, or copies them, waits for a disk."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the audit log: at ``at`` (seconds since 1970) ``who`` wanted ``what``, and what came of it."""

    at: int
    who: str
    what: str
    verdict: str
    why: str


@dataclass(frozen=True, slots=True)
class Tally:
    """Where the ledger stands: the last batch it took, the month it is in, and what was used in it."""

    batch: int
    month: int
    used: Mapping[Did, Usage]


class Database:
    """The file itself.  Every method blocks on the disk; use it from one thread at a time.

    Raises ``ConfigFault`` if the file cannot be opened, is damaged, in use, or of a later version than this program.
    """

    def __init__(self, path: Path, migrations: Sequence[str] = MIGRATIONS) -> None:
        self.path = path
        self._writes = 0
        with opening(path, APPLICATION, migrations) as self._db:
            pass

    def close(self) -> None:
        self._db.close()

    def entries(self) -> Iterator[Entry]:
        """All that is written down.  Raises ``ConfigFault`` for a row that cannot be read."""
        for table in TABLES.values():
            for row in self._db.execute(f"SELECT * FROM {table.name}"):  # noqa: S608  # the names are ours
                try:
                    yield read_row(table, row)
                except BadWire as bad:
                    raise ConfigFault(f"{self.path}: {bad}; put a backup in its place") from None

    def write(self, changes: Iterable[AnyChange], lines: Iterable[Line] = ()) -> None:
        """Make ``changes`` and add ``lines`` to the audit log: all, or nothing with ``Unreachable``."""
        with self._writing() as db:
            for change in changes:
                entry: Entry = change.entry
                table = TABLES[type(entry)]
                if change.after is not None:
                    db.execute(table.put, table.row(entry))
                else:
                    key = KEYS[table.name]
                    db.execute(f"DELETE FROM {table.name} WHERE {key} = ?", table.row(entry)[:1])  # noqa: S608
            db.executemany(
                "INSERT INTO audit (at, who, what, verdict, why) VALUES (?, ?, ?, ?, ?)",
                [(line.at, line.who, line.what, line.verdict, line.why) for line in lines],
            )
            if self._writes % _ROTATE == 0:
                self._rotate(db)
            self._writes += 1

    def _rotate(self, db: sqlite3.Connection) -> None:
        for is_ok, most in ((1, MOST_DONE), (0, MOST_REFUSED)):
            db.execute(
                "DELETE FROM audit WHERE (verdict = 'ok') = ? AND id <="
                " (SELECT id FROM audit WHERE (verdict = 'ok') = ? ORDER BY id DESC LIMIT 1 OFFSET ?)",
                (is_ok, is_ok, most),
            )

    def audit(self, newest: int) -> list[Line]:
        """The ``newest`` lines of the audit log, the newest first."""
        rows = self._db.execute("SELECT at, who, what, verdict, why FROM audit ORDER BY id DESC LIMIT ?", (newest,))
        return [Line(*row) for row in rows]

    def tally(self) -> Tally:
        """Where the ledger stands."""
        batch, month = self._db.execute("SELECT batch, month FROM ledger").fetchone()
        return Tally(batch, month, self.usage(month))

    def usage(self, month: int) -> dict[Did, Usage]:
        """What was used in ``month`` (``202611``), by owner."""
        rows = self._db.execute("SELECT owner, up, down, seconds, streams FROM usage WHERE month = ?", (month,))
        return {parse_did(owner): Usage(*used) for owner, *used in rows}

    def add(self, batch: Batch) -> None:
        """Add what ``batch`` says, unless it was added before."""
        with self._writing() as db:
            (before,) = db.execute("SELECT month FROM ledger").fetchone()
            taken = db.execute(
                "UPDATE ledger SET batch = ?, month = ? WHERE batch < ?", (batch.number, batch.month, batch.number)
            )
            if taken.rowcount:
                db.executemany(
                    "INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET up = up + excluded.up,"
                    " down = down + excluded.down, seconds = seconds + excluded.seconds,"
                    " streams = streams + excluded.streams",
                    [
                        (month, str(owner), used.up, used.down, used.seconds, used.streams)
                        for (month, owner), used in batch.used.items()
                    ],
                )
                if batch.month > before:
                    # Not SELECT DISTINCT: within an expression, SQLite 3.40 forgets its OFFSET.
                    db.execute(
                        "DELETE FROM usage WHERE month <="
                        " (SELECT month FROM usage GROUP BY month ORDER BY month DESC LIMIT 1 OFFSET ?)",
                        (KEPT,),
                    )

    def set_month(self, month: int) -> None:
        """An operator says which month it is."""
        with self._writing() as db:
            db.execute("UPDATE ledger SET month = ?", (month,))

    def backup(self, path: Path) -> None:
        """A whole copy at ``path``, of mode 0600, there only when complete.  Raises ``OSError``, ``Unreachable``."""
        fd, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        draft = Path(name)
        try:
            try:
                with closing(sqlite3.connect(draft)) as copy:
                    self._db.backup(copy)
                    copy.execute("PRAGMA journal_mode=DELETE")
            except sqlite3.Error as fault:
                raise Unreachable(f"{path}: {fault}; there is no copy") from fault
            os.fsync(fd)
            draft.replace(path)
        except BaseException:
            with suppress(OSError):
                draft.unlink()
            raise
        finally:
            os.close(fd)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        try:
            with transaction(self._db) as db:
                yield db
        except sqlite3.OperationalError as fault:
            # What the log holds may have its place in the file already; then this gives back the room it takes.
            with suppress(sqlite3.OperationalError):
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            raise Unreachable(f"the books cannot be written: {fault}; nothing was changed") from fault


class Store:
    """The file, from trio: one call at a time, in a worker thread.

    What is read or copied is waited for as long as a disk may take and no longer (``Unreachable``).  What is written is
    waited for to the end, since nobody could tell otherwise what is on the disk: whoever asked waits elsewhere.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._one = trio.CapacityLimiter(1)

    async def write(self, changes: Sequence[AnyChange], lines: Sequence[Line] = ()) -> None:
        """As :meth:`Database.write`."""
        await self._to_the_end(lambda: self._database.write(changes, lines))

    async def add(self, batch: Batch) -> None:
        """As :meth:`Database.add`."""
        await self._to_the_end(lambda: self._database.add(batch))

    async def set_month(self, month: int) -> None:
        """As :meth:`Database.set_month`."""
        await self._to_the_end(lambda: self._database.set_month(month))

    async def usage(self, month: int) -> dict[Did, Usage]:
        """As :meth:`Database.usage`."""
        return await self._in_time(lambda: self._database.usage(month))

    async def audit(self, newest: int) -> list[Line]:
        """As :meth:`Database.audit`."""
        return await self._in_time(lambda: self._database.audit(newest))

    async def backup(self, path: Path) -> None:
        """As :meth:`Database.backup`."""
        await self._in_time(lambda: self._database.backup(path))

    async def aclose(self) -> None:
        """Close the file, after what is being written."""
        with trio.CancelScope(shield=True):
            await self._to_the_end(self._database.close)

    async def _to_the_end(self, work: Callable[[], _T]) -> _T:
        return await trio.to_thread.run_sync(work, limiter=self._one)

    async def _in_time(self, work: Callable[[], _T]) -> _T:
        with trio.move_on_after(_PATIENCE):
            return await trio.to_thread.run_sync(work, limiter=self._one, abandon_on_cancel=True)
        raise Unreachable(f"the disk has not answered for {_PATIENCE:.0f} s")
