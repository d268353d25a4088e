"""A SQLite file is ours alone for as long as we have it open."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path

import pytest

from cyfs_ns.io.sqlitefile import open_sqlite

WRITE = """
import sys
from pathlib import Path
from cyfs_ns.io.sqlitefile import open_sqlite

open_sqlite(Path(sys.argv[1])).execute("INSERT INTO books VALUES (2)")
"""


def another_program_writes(path: Path) -> str:
    done = subprocess.run([sys.executable, "-c", WRITE, path], capture_output=True, text=True, timeout=60, check=False)
    return done.stderr


def test_opening_it_once_more_lets_nobody_else_in(tmp_path: Path) -> None:
    path = tmp_path / "books"
    with closing(open_sqlite(path)) as database:
        database.execute("CREATE TABLE books (x)")
        assert "database is locked" in another_program_writes(path)
        with suppress(sqlite3.Error):
            open_sqlite(path).close()
        assert "database is locked" in another_program_writes(path)
    assert another_program_writes(path) == ""


def test_it_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "books"
    for mode in (0o600, 0o644):
        open_sqlite(path).close()
        assert path.stat().st_mode & 0o777 == 0o600
        path.chmod(mode)


@pytest.mark.parametrize("what", ["link", "link to nothing", "directory", "pipe"])
def test_what_is_no_file_is_left_alone(what: str, tmp_path: Path) -> None:
    path, other = tmp_path / "books", tmp_path / "other"
    if what == "directory":
        path.mkdir(mode=0o755)
    elif what == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(other)
        if what == "link":
            other.touch(mode=0o644)
    before = path.lstat()
    with pytest.raises(OSError, match="not a regular file"):
        open_sqlite(path)
    assert path.lstat().st_mode == before.st_mode
    assert other.exists() == (what == "link")
