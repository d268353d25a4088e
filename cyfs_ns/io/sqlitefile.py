"""How we open a SQLite file: for itself alone, and so that what was committed is on the disk.

Whoever else opens the file finds it locked, for nobody but this process knows what it has in memory.  One thread at a
time works on it, though not always the same one.  Transactions are begun and ended by name.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

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
def transaction(database: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """All of the block, or nothing.  Raises ``sqlite3.Error``."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield database
        database.execute("COMMIT")
    finally:
        if database.in_transaction:
            database.execute("ROLLBACK")
