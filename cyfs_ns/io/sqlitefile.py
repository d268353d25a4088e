"""How we open a SQLite file: for itself alone, and so that what was committed is on the disk.

Whoever else opens the file finds it locked, for nobody but this process knows what it has in memory.  One thread at a
time works on it, though not always the same one.  Transactions are begun and ended by name.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cyfs_ns.errors import ConfigFault

_LOG_PAGES: Final = 256
"""Pages (of 4 KiB) after which the write-ahead log is brought into the file, so that it stays at about a megabyte."""


def open_sqlite(path: Path) -> sqlite3.Connection:
    """The file at ``path``, of mode 0600; made where there is none.  Raises ``OSError`` and ``sqlite3.Error``."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        # Not opened: by closing any descriptor of a file a process loses all its locks on it (fcntl(2)).
        if not stat.S_ISREG(path.lstat().st_mode):
            raise OSError(errno.ELOOP, "not a regular file", str(path)) from None
    path.chmod(0o600)
    database = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    try:
        # Exclusive before WAL, so that the index of the log is in this process's memory and in no file.
        database.execute("PRAGMA locking_mode=EXCLUSIVE")
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        database.execute(f"PRAGMA wal_autocheckpoint={_LOG_PAGES}")
        database.execute("PRAGMA trusted_schema=OFF")
    except BaseException:
        database.close()
        raise
    return database


@contextmanager
def opening(path: Path, application: int, migrations: Sequence[str]) -> Iterator[sqlite3.Connection]:
    """The file at ``path`` that belongs to ``application`` (SQLite's number of its kind), ready to be worked on.

    It is brought up to date by those of ``migrations``, scripts of SQL, that it has not had.  It stays open, unless the
    block fails.  Raises ``ConfigFault`` if it cannot be opened, is damaged, in use, somebody else's, or of a later
    version than ``migrations``; so does what SQLite refuses in the block.
    """
    try:
        database = open_sqlite(path)
        try:
            _bring_up_to_date(database, path, application, migrations)
            yield database
        except BaseException:
            database.close()
            raise
    except sqlite3.OperationalError as fault:
        locked = fault.sqlite_errorname in ("SQLITE_BUSY", "SQLITE_LOCKED")
        raise ConfigFault(f"{path}: {'another program has it open' if locked else fault}") from fault
    except sqlite3.Error as fault:
        raise ConfigFault(f"{path}: {fault}; put a backup in its place") from fault
    except OSError as fault:
        raise ConfigFault(f"{path}: {fault}") from fault


def _bring_up_to_date(database: sqlite3.Connection, path: Path, application: int, migrations: Sequence[str]) -> None:
    with transaction(database):
        (version,) = database.execute("PRAGMA user_version").fetchone()
        (found,) = database.execute("PRAGMA application_id").fetchone()
        (tables,) = database.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if found != application and tables:
        raise ConfigFault(f"{path}: a database of another kind")
    if version > len(migrations):
        raise ConfigFault(f"{path}: written by a later version of this program ({version})")
    (sound,) = database.execute("PRAGMA integrity_check(1)").fetchone()
    if sound != "ok":
        raise ConfigFault(f"{path}: damaged ({sound}); put a backup in its place")
    for number, script in enumerate(migrations[version:], version + 1):
        with transaction(database):
            for statement in _statements(script):
                database.execute(statement)
            database.execute(f"PRAGMA user_version = {number}")
            database.execute(f"PRAGMA application_id = {application}")


def _statements(script: str) -> Iterator[str]:
    """``script`` statement by statement: ``executescript`` would commit behind our back."""
    statement = ""
    for piece in script.split(";")[:-1]:
        statement += piece + ";"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


@contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """All of the block, or nothing.  Raises ``sqlite3.Error``."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield database
        database.execute("COMMIT")
    finally:
        if database.in_transaction:
            database.execute("ROLLBACK")
