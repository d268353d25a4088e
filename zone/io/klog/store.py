"""Lines of all machines, as one OOD keeps them: a SQLite file of bounded size, the oldest lines go first.

Each OOD keeps what it was given.  A machine gives a line to one of them: when that OOD's disk is lost, so are the lines
it had; they tell of the past, and nothing is decided by them.

What goes first is what came first, whatever clocks say.  Who a line is from is said by whoever proved the sender, never
by the line.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cyfs_ns.io.sqlitefile import opening, transaction
from zone.klog.line import LATEST, LEVELS, Batch, Line, made

MOST_KEPT: Final = 256 << 20
"""Bytes of lines."""
MOST_ANSWERED: Final = 1000
"""Lines of one answer."""
_MOST_LIVES: Final = 64
"""Lives of one machine whose last numbers are remembered: a new one begins when its spool is lost."""

_APPLICATION: Final = 0x5A4B4C4B
_MIGRATIONS: Final = (
    """
    CREATE TABLE line (place INTEGER PRIMARY KEY AUTOINCREMENT, time REAL NOT NULL, node TEXT NOT NULL,
                       service TEXT NOT NULL, level INTEGER NOT NULL, message TEXT NOT NULL, attrs TEXT NOT NULL,
                       size INTEGER NOT NULL) STRICT;
    CREATE INDEX by_time ON line (time);
    CREATE TABLE life (node TEXT NOT NULL, name TEXT NOT NULL, number INTEGER NOT NULL, place INTEGER NOT NULL,
                       PRIMARY KEY (node, name)) STRICT;
    """,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Which lines are wanted; what is empty asks for nothing."""

    node: str = ""
    service: str = ""
    level: str = "debug"
    """This one and above."""
    since: float = 0.0
    until: float = LATEST
    text: str = ""
    """Found in the message, in lower or upper case (of ASCII)."""
    after: int | None = None
    """Lines that came after this place, in the order in which they came: to follow.  None: the newest, by time."""
    limit: int = MOST_ANSWERED


@dataclass(frozen=True, slots=True)
class Kept:
    """A line, where it is kept and whose it is."""

    place: int
    node: str
    line: Line


class LogStore:
    """The file.  Every method blocks on the disk and raises ``sqlite3.Error``; one thread at a time."""

    def __init__(self, path: Path, most: int = MOST_KEPT) -> None:
        """Raises ``ConfigFault`` if it cannot be opened."""
        self._most = most
        with opening(path, _APPLICATION, _MIGRATIONS) as self._db:
            (self._size,) = self._db.execute("SELECT coalesce(sum(size), 0) FROM line").fetchone()

    def close(self) -> None:
        self._db.close()

    def take(self, node: str, batch: Batch) -> tuple[int, tuple[Line, ...]]:
        """Keep what is new of a batch that ``node`` sent: on the disk when it returns, or nothing of it is.

        Returns the number up to which all is here, and the lines that were new.
        """
        with transaction(self._db) as db:
            row = db.execute("SELECT number FROM life WHERE node = ? AND name = ?", (node, batch.life)).fetchone()
            last = row[0] if row is not None else 0
            new = [line for number, line in batch.lines if number > last]
            size = self._size
            kept = self._with_gaps(batch, last)
            place = 0
            for line in kept:
                attrs = json.dumps(dict(line.attrs))
                length = len(line.message) + len(attrs) + 64
                (place,) = db.execute(
                    "INSERT INTO line (time, node, service, level, message, attrs, size) VALUES (?, ?, ?, ?, ?, ?, ?)"
                    " RETURNING place",
                    (line.time, node, line.service, LEVELS.index(line.level), line.message, attrs, length),
                ).fetchone()
                size += length
            last = max(last, batch.lines[-1][0])
            if new:
                db.execute("INSERT OR REPLACE INTO life VALUES (?, ?, ?, ?)", (node, batch.life, last, place))
                db.execute(
                    "DELETE FROM life WHERE node = ? AND name NOT IN"
                    " (SELECT name FROM life WHERE node = ? ORDER BY place DESC LIMIT ?)",
                    (node, node, _MOST_LIVES),
                )
            size = self._trim(db, size)
        self._size = size
        return last, tuple(new)

    @staticmethod
    def _with_gaps(batch: Batch, last: int) -> list[Line]:
        lines = []
        for number, line in batch.lines:
            if number <= last:
                continue
            if number > last + 1:
                told = f"{number - last - 1} lines before this one were lost: their machine had no room for them"
                lines.append(made(line.time, "klog", "warning", told, {}))
            lines.append(line)
            last = number
        return lines

    def _trim(self, db: sqlite3.Connection, size: int) -> int:
        while size > self._most:
            rows = db.execute("SELECT place, size FROM line ORDER BY place LIMIT 1000").fetchall()
            for place, length in rows:
                if size <= self._most:
                    break
                db.execute("DELETE FROM line WHERE place = ?", (place,))
                size -= length
        return size

    def find(self, query: Query) -> Sequence[Kept]:
        """The lines that are asked for, in the order of their times; to follow, in the order in which they came."""
        rows = self._db.execute(
            "SELECT place, node, time, service, level, message, attrs FROM line WHERE place > ?"
            " AND (? = '' OR node = ?) AND (? = '' OR service = ?) AND level >= ? AND time BETWEEN ? AND ?"
            " AND (? = '' OR instr(lower(message), lower(?))) ORDER BY iif(?, place, -time), -place LIMIT ?",
            (
                query.after or 0,
                query.node,
                query.node,
                query.service,
                query.service,
                LEVELS.index(query.level),
                query.since,
                query.until,
                query.text,
                query.text,
                query.after is not None,
                max(0, min(query.limit, MOST_ANSWERED)),
            ),
        )
        found = [
            Kept(place, node, Line(time, service, LEVELS[level], message, json.loads(attrs)))
            for place, node, time, service, level, message, attrs in rows
        ]
        return found if query.after is not None else found[::-1]
