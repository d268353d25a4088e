"""The store of a zone of one machine: one SQLite file that one process has open, and one thread at a time works on.

Every write of a key is a row, so that older revisions can be read and told to watchers.  A commit is one transaction,
on the disk when it returns (WAL, ``synchronous=FULL``): a ``kill -9`` or a power cut leaves all of it or nothing.  A
disk that is full refuses it whole, and the next one is tried like the first.

Watchers wait for the next commit of this process, which is the only one that can make any, and then read on in the
file from where they were.  So nothing is kept for a watcher that is slow, and nothing is lost to it.

A lease is on the disk, its time is not: it is measured by a clock that no one sets, and begins anew when the file is
opened.  A lease that is over is revoked before anything else is done; whoever watches waits no longer than until the
next one is.

The newest ``keep`` revisions stay readable; the older history goes by itself.  When there is no room, all of it goes.
"""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple, TypeVar, TypeVarTuple

import trio

from cyfs_ns.io.sqlitefile import opening, transaction
from zone.config.faults import Code, ConfigError
from zone.config.keys import Each, Scope, interval
from zone.config.model import Change, Commit, Entry, Reading

KEEP: Final = 10_000
"""Revisions whose history is kept."""
_TIDY: Final = 256
"""Revisions that are forgotten at once."""
_MOST_PAGES: Final = 1 << 18
"""Pages (of 4 KiB) of the file: 1 GiB, history included."""
_SPARE: Final = 256
"""Pages beyond these that only deletions take."""
_MOST_READ: Final = 64 * 1024 * 1024
"""Characters of keys and values of one reading."""
_MOST_LEASES: Final = 10_000
_PAUSE: Final = 1.0
"""Seconds until a lease that is over is tried to be ended again."""
_PATIENCE: Final = 10.0
"""Seconds to wait for a disk."""

_APPLICATION: Final = 0x5A434647
_MIGRATIONS: Final = (
    """
    CREATE TABLE entry (revision INTEGER NOT NULL, key TEXT NOT NULL, value TEXT, created INTEGER NOT NULL,
                        version INTEGER NOT NULL, lease INTEGER NOT NULL,
                        UNIQUE (key, revision), UNIQUE (revision, key)) STRICT;
    CREATE INDEX leased ON entry (lease) WHERE lease != 0;
    CREATE TABLE lease (number INTEGER PRIMARY KEY AUTOINCREMENT, ttl INTEGER NOT NULL) STRICT;
    CREATE TABLE head (one INTEGER PRIMARY KEY CHECK (one = 1), revision INTEGER NOT NULL,
                       compacted INTEGER NOT NULL) STRICT;
    INSERT INTO head VALUES (1, 1, 1);
    """,
)

_Args = TypeVarTuple("_Args")
_T = TypeVar("_T")


class _Lease(NamedTuple):
    ttl: int
    deadline: float


class Database:
    """The file itself.  Every method blocks on the disk; use it from one thread at a time.

    Raises ``ConfigFault`` if the file cannot be opened, is damaged, in use, or of a later version than this program.
    """

    def __init__(
        self,
        path: Path,
        keep: int = KEEP,
        most_pages: int = _MOST_PAGES,
        most_read: int = _MOST_READ,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = path
        self._keep = keep
        self._most_pages = most_pages
        self._most_read = most_read
        self._is_open = True
        self.clock = clock
        with opening(path, _APPLICATION, _MIGRATIONS) as self._db:
            self._db.execute(f"PRAGMA max_page_count = {self._most_pages}")
            self.head: int
            self.compacted: int
            self.head, self.compacted = self._db.execute("SELECT revision, compacted FROM head").fetchone()
            now = clock()
            self._leases = {
                number: _Lease(ttl, now + ttl) for number, ttl in self._db.execute("SELECT number, ttl FROM lease")
            }
            self.next_expiry = now
            """By ``clock``: no lease is over before."""

    def close(self) -> None:
        self._is_open = False
        self._db.close()

    def read(self, scopes: Iterable[Scope], revision: int | None) -> Reading:
        at = self._reachable(revision)
        found: dict[str, Entry] = {}
        room = self._most_read
        with self._asking() as db:
            for scope in scopes:
                # Beside max(), SQLite takes the other columns from the row that has it.
                rows = db.execute(
                    "SELECT key, value, max(revision), created, version, lease FROM entry"
                    " WHERE key >= ? AND key < ? AND key GLOB ? AND key NOT GLOB ? AND revision <= ? GROUP BY key",
                    (*_keys(scope), at),
                )
                for row in rows:
                    if row[1] is None or row[0] in found:
                        continue
                    room -= len(row[0]) + len(row[1])
                    if room < 0:
                        raise ConfigError(Code.TOO_LARGE, f"a reading has at most {self._most_read} characters")
                    found[row[0]] = Entry(*row)
        return Reading(at, tuple(found[key] for key in sorted(found)))

    def commit(self, commit: Commit) -> int | None:
        try:
            return self._commit(commit)
        except ConfigError as fault:
            deletes = not any(value is not None for value in commit.writes.values())
            if fault.code is not Code.FULL or (self.compacted == self.head and not deletes):
                raise
        # The past is worth less than what is written now.
        self.compact(self.head)
        if not deletes:
            return self._commit(commit)
        # A deletion takes a little room before it gives any.
        self._limit(self._most_pages + _SPARE)
        try:
            return self._commit(commit)
        finally:
            self._limit(self._most_pages)

    def _limit(self, pages: int) -> None:
        with self._asking() as db:
            db.execute(f"PRAGMA max_page_count = {pages}")

    def _commit(self, commit: Commit) -> int | None:
        revision = self.head + 1
        with self._writing() as db:
            for key, guard in commit.guards.items():
                latest = self._latest(db, key)
                if (latest.revision if latest is not None else 0) != guard:
                    return None
            for lease in commit.leases.values():
                self._alive(lease)
            for key, value in commit.writes.items():
                latest = self._latest(db, key)
                if value is None:
                    created = version = 0
                else:
                    created, version = (latest.created, latest.version + 1) if latest is not None else (revision, 1)
                lease = commit.leases.get(key, 0)
                db.execute(
                    "INSERT INTO entry VALUES (?, ?, ?, ?, ?, ?)", (revision, key, value, created, version, lease)
                )
            db.execute("UPDATE head SET revision = ?", (revision,))
        self.head = revision
        if self.head - self.compacted >= self._keep + _TIDY:
            # What was committed stands, whether there is room to tidy up or not.
            with suppress(ConfigError):
                self.compact(self.head - self._keep)
        return revision

    def _latest(self, db: sqlite3.Connection, key: str) -> Entry | None:
        row = db.execute(
            "SELECT key, value, revision, created, version, lease FROM entry"
            " WHERE key = ? ORDER BY revision DESC LIMIT 1",
            (key,),
        ).fetchone()
        return Entry(*row) if row is not None and row[1] is not None else None

    def next_change(self, scope: Scope, after: int) -> Change | None:
        """The first change of ``scope`` after ``after``, or None if there is none yet."""
        self._reachable(after)
        keys = _keys(scope)
        with self._asking() as db:
            (revision,) = db.execute(
                "SELECT min(revision) FROM entry"
                " WHERE revision > ? AND key >= ? AND key < ? AND key GLOB ? AND key NOT GLOB ?",
                (after, *keys),
            ).fetchone()
            if revision is None:
                return None
            rows = db.execute(
                "SELECT key, value, revision, created, version, lease FROM entry"
                " WHERE revision = ? AND key >= ? AND key < ? AND key GLOB ? AND key NOT GLOB ? ORDER BY key",
                (revision, *keys),
            )
            return Change(revision, tuple(Entry(*row) for row in rows))

    def grant(self, ttl: int) -> int:
        if len(self._leases) >= _MOST_LEASES:
            raise ConfigError(Code.FULL, f"there are {_MOST_LEASES} leases already")
        with self._writing() as db:
            (number,) = db.execute("INSERT INTO lease (ttl) VALUES (?) RETURNING number", (ttl,)).fetchone()
        self._leases[number] = _Lease(ttl, self.clock() + ttl)
        self.next_expiry = min(self.next_expiry, self._leases[number].deadline)
        return int(number)

    def keep_alive(self, lease: int) -> None:
        ttl = self._alive(lease).ttl
        self._leases[lease] = _Lease(ttl, self.clock() + ttl)

    def _alive(self, lease: int) -> _Lease:
        found = self._leases.get(lease)
        if found is None or found.deadline <= self.clock():
            raise ConfigError(Code.MISSING, f"there is no lease {lease}")
        return found

    def revoke(self, lease: int) -> None:
        self._alive(lease)
        self._end(lease)

    def expire(self) -> None:
        """End the leases whose time is up, the first first; where the disk does not let us, a little later."""
        now = self.clock()
        if now < self.next_expiry:
            return
        try:
            for number, lease in sorted(self._leases.items(), key=lambda item: item[1].deadline):
                if lease.deadline <= now:
                    self._end(number)
        except ConfigError:
            self.next_expiry = now + _PAUSE
        else:
            self.next_expiry = min((lease.deadline for lease in self._leases.values()), default=math.inf)

    def _end(self, lease: int) -> None:
        with self._asking() as db:
            rows = db.execute("SELECT DISTINCT key FROM entry WHERE lease = ? ORDER BY key", (lease,))
            keys = [key for (key,) in rows.fetchall() if (now := self._latest(db, key)) and now.lease == lease]
        if keys:
            self.commit(Commit({}, dict.fromkeys(keys)))
        # Killed here, it comes back without keys, and expires.
        with self._writing() as db:
            db.execute("DELETE FROM lease WHERE number = ?", (lease,))
        del self._leases[lease]

    def compact(self, revision: int) -> None:
        if revision <= self.compacted:
            return
        self._reachable(revision)
        with self._writing() as db:
            db.execute(
                "DELETE FROM entry WHERE revision <= ? AND (value IS NULL OR EXISTS (SELECT 1 FROM entry AS later"
                " WHERE later.key = entry.key AND later.revision > entry.revision AND later.revision <= ?))",
                (revision, revision),
            )
            db.execute("UPDATE head SET compacted = ?", (revision,))
        self.compacted = revision

    def snapshot(self, path: Path) -> int:
        """Write all there is, as it is now, to ``path``, where nothing is yet; return its revision."""
        with self._asking() as db:
            db.execute("VACUUM INTO ?", (str(path),))
        return self.head

    def _reachable(self, revision: int | None) -> int:
        if revision is None:
            return self.head
        if revision > self.head:
            raise ConfigError(Code.INVALID, f"revision {revision} is not there yet: the last is {self.head}")
        if revision < self.compacted:
            raise ConfigError(Code.COMPACTED, f"revision {revision} is forgotten: the first is {self.compacted}")
        return revision

    @contextmanager
    def _asking(self, lost: Code = Code.UNAVAILABLE) -> Iterator[sqlite3.Connection]:
        """A fault of the disk, as what it means to whoever asks: ``lost`` if it may pass."""
        try:
            yield self._db
        except sqlite3.OperationalError as fault:
            # Only of a full disk is it certain that no part of the commit is on it.
            code = Code.FULL if fault.sqlite_errorname == "SQLITE_FULL" else lost
            raise ConfigError(code, f"{self.path}: {fault}") from fault
        except sqlite3.ProgrammingError as fault:
            if self._is_open:
                raise
            raise ConfigError(Code.UNAVAILABLE, f"{self.path}: the store is closed") from fault
        except sqlite3.DatabaseError as fault:
            raise ConfigError(Code.DAMAGED, f"{self.path}: {fault}") from fault

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._asking(Code.UNCERTAIN) as db:
            try:
                with transaction(db):
                    yield db
            except sqlite3.OperationalError:
                # What the log holds may have its place in the file already; then this gives back the room it takes.
                with suppress(sqlite3.OperationalError):
                    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                raise


def _keys(scope: Scope) -> tuple[str, str, str, str]:
    """The interval of its keys, and what each of them has to be like, and not to be like; no key has a ``*``."""
    if isinstance(scope, Each):
        return *interval(scope), str(scope), f"{scope.prefix}/*/*/{scope.name}"
    return *interval(scope), "*", ""


class SqliteBackend:
    """The file, from trio: one call at a time, in a worker thread, waited for as long as a disk may take."""

    def __init__(self, database: Database, patience: float = _PATIENCE) -> None:
        self._database = database
        self._patience = patience
        self._one = trio.CapacityLimiter(1)
        self._committed = trio.Event()

    async def read(self, scopes: Iterable[Scope], revision: int | None = None, *, stale_ok: bool = False) -> Reading:
        return await self._in_time(Code.UNAVAILABLE, self._database.read, scopes, revision)

    async def commit(self, commit: Commit) -> int | None:
        return await self._in_time(Code.UNCERTAIN, self._database.commit, commit)

    def _tell(self) -> None:
        self._committed.set()
        self._committed = trio.Event()

    @asynccontextmanager
    async def watch(self, scope: Scope, after: int) -> AsyncGenerator[AsyncIterator[Change]]:
        async with aclosing(self._changes(scope, after)) as changes:
            yield changes

    async def _changes(self, scope: Scope, after: int) -> AsyncGenerator[Change]:
        while True:
            committed, head = self._committed, self._database.head
            change = await self._in_time(Code.UNAVAILABLE, self._database.next_change, scope, after)
            if change is not None:
                after = change.revision
                yield change
            else:
                after = max(after, head)
                with trio.move_on_after(max(0.0, self._database.next_expiry - self._database.clock())):
                    await committed.wait()

    async def grant(self, ttl: int) -> int:
        number = await self._in_time(Code.UNAVAILABLE, self._database.grant, ttl)
        # Its time may be up before that for which watchers wait.
        self._tell()
        return number

    async def keep_alive(self, lease: int) -> None:
        await self._in_time(Code.UNAVAILABLE, self._database.keep_alive, lease)

    async def revoke(self, lease: int) -> None:
        await self._in_time(Code.UNCERTAIN, self._database.revoke, lease)

    async def compact(self, revision: int) -> None:
        await self._in_time(Code.UNAVAILABLE, self._database.compact, revision)

    async def snapshot(self, path: Path) -> int:
        """As :meth:`Database.snapshot`: a database of its own, for a backup."""
        return await self._in_time(Code.UNAVAILABLE, self._database.snapshot, path)

    async def aclose(self) -> None:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._database.close, limiter=self._one)
        # Watchers look again, and find it closed.
        self._tell()

    async def _in_time(self, late: Code, work: Callable[[*_Args], _T], *args: *_Args) -> _T:
        token = trio.lowlevel.current_trio_token()

        def done() -> _T:
            head = self._database.head
            try:
                self._database.expire()
                return work(*args)
            finally:
                # Even if nobody waits for the answer any more, watchers wait for the change.
                if self._database.head != head:
                    with suppress(trio.RunFinishedError):
                        token.run_sync_soon(self._tell)

        with trio.move_on_after(self._patience):
            return await trio.to_thread.run_sync(done, limiter=self._one, abandon_on_cancel=True)
        raise ConfigError(late, f"the disk has not answered for {self._patience:.0f} s")
