"""Lines of all machines, as one OOD keeps them: a SQLite file of bounded size and age.

Each OOD keeps what it was given.  A machine gives a line to one of them: when that OOD's disk is lost, so are the lines
it had; they tell of the past, and nothing is decided by them.

Where there is no more room, the service that has most on one machine gives up its oldest lines, so one that says much
costs itself alone.  Age is counted in the time for which this file was in use: clocks that are set delete nothing.  Who
a line is from is said by whoever proved the sender, never by the line.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from cyfs_ns.io.sqlitefile import opening, transaction
from zone.klog.line import LATEST, LEVELS, OWN, Batch, Line, made

MOST_KEPT: Final = 256 << 20
"""Bytes of lines."""
MOST_AGE: Final = 30 * 86400.0
"""Seconds for which a line is kept at most."""
MOST_ANSWERED: Final = 1000
"""Lines of one answer."""
MOST_LOOKED_AT: Final = 20_000
"""Lines that are looked at in one go: some ten milliseconds."""
_OVERHEAD: Final = 200
"""Bytes of a line beside what it says: its row, and those of the indices."""
_MOST_LIVES: Final = 64
"""Lives of one machine whose last numbers are remembered: a new one begins when its spool is lost."""

_APPLICATION: Final = 0x5A4B4C4B
_MIGRATIONS: Final = (
    """
    CREATE TABLE origin (id INTEGER PRIMARY KEY, node TEXT NOT NULL, service TEXT NOT NULL, size INTEGER NOT NULL,
                         UNIQUE (node, service)) STRICT;
    CREATE INDEX by_size ON origin (size);
    CREATE TABLE line (place INTEGER PRIMARY KEY AUTOINCREMENT, origin INTEGER NOT NULL, time REAL NOT NULL,
                       level INTEGER NOT NULL, message TEXT NOT NULL, attrs TEXT NOT NULL, size INTEGER NOT NULL,
                       came REAL NOT NULL) STRICT;
    CREATE INDEX by_time ON line (time);
    CREATE INDEX by_origin ON line (origin);
    CREATE TABLE life (node TEXT NOT NULL, name TEXT NOT NULL, number INTEGER NOT NULL, place INTEGER NOT NULL,
                       PRIMARY KEY (node, name)) STRICT;
    CREATE TABLE own (one INTEGER PRIMARY KEY CHECK (one = 1), used REAL NOT NULL) STRICT;
    """,
)
_COLUMNS: Final = "SELECT place, node, service, time, level, message, attrs"
_WANTED: Final = (
    "(:node = '' OR node = :node) AND (:services = '[]' OR service IN (SELECT value FROM json_each(:services)))"
    " AND level >= :level AND time BETWEEN :since AND :until"
    " AND (:text = '' OR instr(lower(message), lower(:text)))"
    " AND (:about = '' OR json_extract(attrs, '$.about') = :about)"
)
_OLDER: Final = "FROM line WHERE time >= :since AND time <= :at AND (time < :at OR place < :place)"
_NEWEST_FIRST: Final = "ORDER BY time DESC, place DESC"


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Which lines are wanted; what is empty asks for nothing."""

    node: str = ""
    services: tuple[str, ...] = ()
    level: str = "debug"
    """This one and above."""
    since: float = 0.0
    until: float = LATEST
    text: str = ""
    """Found in the message, in lower or upper case (of ASCII)."""
    about: str = ""
    """The service that an event is about: the attribute ``about``."""
    before: tuple[float, int] | None = None
    """Time and place: the newest lines that are older, newest first.  None: the newest of all."""
    after: int | None = None
    """Lines that came after this place, in the order in which they came: to follow."""
    limit: int = MOST_ANSWERED


@dataclass(frozen=True, slots=True)
class Kept:
    """A line, where it is kept and whose it is."""

    place: int
    node: str
    line: Line


@dataclass(frozen=True, slots=True)
class Found:
    """What one look came to."""

    lines: tuple[Kept, ...]
    more: Query | None
    """What is to be asked for to go on; None: there is no more now."""
    last: int
    """The place of the line that came last, of all."""


class LogStore:
    """The file.  Every method blocks on the disk and raises ``sqlite3.Error``; one thread at a time.

    ``clock``: seconds, which nobody sets.
    """

    def __init__(
        self,
        path: Path,
        *,
        most: int = MOST_KEPT,
        age: float = MOST_AGE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises ``ConfigFault`` if it cannot be opened."""
        self._most, self._age, self._clock = most, age, clock
        with opening(path, _APPLICATION, _MIGRATIONS) as self._db:
            with transaction(self._db) as db:
                db.execute("INSERT INTO own VALUES (1, 0) ON CONFLICT DO NOTHING")
            (self._size,) = self._db.execute("SELECT coalesce(sum(size), 0) FROM origin").fetchone()
            (used,) = self._db.execute("SELECT used FROM own").fetchone()
        self._began = clock() - used

    def close(self) -> None:
        self._db.close()

    def take(self, node: str, batch: Batch) -> tuple[int, tuple[Line, ...]]:
        """Keep what is new of a batch that ``node`` sent: on the disk when it returns, or nothing of it is.

        Returns the number up to which all is here, and the lines that were new.
        """
        used = self._clock() - self._began
        with transaction(self._db) as db:
            row = db.execute("SELECT number FROM life WHERE node = ? AND name = ?", (node, batch.life)).fetchone()
            last = row[0] if row is not None else 0
            new = tuple(line for number, line in batch.lines if number > last)
            place, added = self._add(db, node, _with_gaps(batch, last), used)
            last = max(last, batch.lines[-1][0])
            if new:
                db.execute("INSERT OR REPLACE INTO life VALUES (?, ?, ?, ?)", (node, batch.life, last, place))
                db.execute(
                    "DELETE FROM life WHERE node = ? AND name NOT IN"
                    " (SELECT name FROM life WHERE node = ? ORDER BY place DESC LIMIT ?)",
                    (node, node, _MOST_LIVES),
                )
            db.execute("UPDATE own SET used = ?", (used,))
            size = self._make_room(db, self._size + added, used)
        self._size = size
        return last, new

    def _add(self, db: sqlite3.Connection, node: str, lines: list[Line], used: float) -> tuple[int, int]:
        """The place of the last of them, and the bytes of all."""
        origins: dict[str, int] = {}
        sizes: Counter[int] = Counter()
        place = 0
        for line in lines:
            if (origin := origins.get(line.service)) is None:
                (origin,) = db.execute(
                    "INSERT INTO origin (node, service, size) VALUES (?, ?, 0)"
                    " ON CONFLICT DO UPDATE SET size = size RETURNING id",
                    (node, line.service),
                ).fetchone()
                origins[line.service] = origin
            attrs = json.dumps(dict(line.attrs))
            size = len(line.message) + len(attrs) + _OVERHEAD
            (place,) = db.execute(
                "INSERT INTO line (origin, time, level, message, attrs, size, came) VALUES (?, ?, ?, ?, ?, ?, ?)"
                " RETURNING place",
                (origin, line.time, LEVELS.index(line.level), line.message, attrs, size, used),
            ).fetchone()
            sizes[origin] += size
        db.executemany("UPDATE origin SET size = size + ? WHERE id = ?", ((size, one) for one, size in sizes.items()))
        return place, sizes.total()

    def _make_room(self, db: sqlite3.Connection, size: int, used: float) -> int:
        while aged := db.execute(
            "SELECT place, size, origin FROM (SELECT * FROM line ORDER BY place LIMIT 1000) WHERE came < ?",
            (used - self._age,),
        ).fetchall():
            size -= _remove(db, aged)
        while size > self._most:
            oldest = db.execute(
                "SELECT place, size, origin FROM line WHERE origin = (SELECT id FROM origin ORDER BY size DESC LIMIT 1)"
                " ORDER BY place LIMIT 64"
            ).fetchall()
            excess, going = size - self._most, []
            for row in oldest:
                if excess <= 0:
                    break
                going.append(row)
                excess -= row[1]
            size -= _remove(db, going)
        return size

    def look(self, query: Query) -> Found:
        """Some of the lines that are asked for, at most ``query.limit``; whoever wants more goes on with ``more``."""
        (last,) = self._db.execute("SELECT coalesce(max(place), 0) FROM line").fetchone()
        limit = max(0, min(query.limit, MOST_ANSWERED))
        at, place = query.before or (query.until, last + 1)
        values = {
            "node": query.node,
            "services": json.dumps(query.services),
            "level": LEVELS.index(query.level),
            "since": query.since,
            "until": query.until,
            "text": query.text,
            "about": query.about,
            "at": at,
            "place": place if query.after is None else query.after,
            "limit": limit,
            "most": MOST_LOOKED_AT,
        }
        if query.after is None:
            some = f"SELECT * {_OLDER} {_NEWEST_FIRST} LIMIT :most"
            order = _NEWEST_FIRST
            ends = f"SELECT time, place {_OLDER} {_NEWEST_FIRST} LIMIT 1 OFFSET :most - 1"
        else:
            some = "SELECT * FROM line WHERE place > :place ORDER BY place LIMIT :most"
            order = "ORDER BY place"
            ends = "SELECT time, place FROM line WHERE place > :place ORDER BY place LIMIT 1 OFFSET :most - 1"
        found = f"FROM ({some}) AS one JOIN origin ON origin.id = one.origin WHERE {_WANTED} {order} LIMIT :limit"
        rows = self._db.execute(f"{_COLUMNS} {found}", values)
        lines = tuple(
            Kept(place, node, Line(time, service, LEVELS[level], message, json.loads(attrs)))
            for place, node, service, time, level, message, attrs in rows
        )
        if lines and len(lines) == limit:
            ended = lines[-1].line.time, lines[-1].place
        else:
            ended = self._db.execute(ends, values).fetchone()
        return Found(lines, None if ended is None else going_on(query, *ended), last)


def going_on(query: Query, time: float, place: int) -> Query:
    """What is to be asked for behind a line of that time, at that place."""
    if query.after is None:
        return replace(query, before=(time, place))
    return replace(query, after=place)


def _with_gaps(batch: Batch, last: int) -> list[Line]:
    lines = []
    for number, line in batch.lines:
        if number <= last:
            continue
        if number > last + 1:
            told = f"{number - last - 1} lines before this one were lost: their machine had no room for them"
            lines.append(made(line.time, OWN, "warning", told, {}))
        lines.append(line)
        last = number
    return lines


def _remove(db: sqlite3.Connection, rows: list[tuple[int, int, int]]) -> int:
    """The bytes of lines that are gone; a row is place, size and origin."""
    db.executemany("DELETE FROM line WHERE place = ?", ((place,) for place, _, _ in rows))
    db.executemany("UPDATE origin SET size = size - ? WHERE id = ?", ((size, origin) for _, size, origin in rows))
    db.execute("DELETE FROM origin WHERE size = 0")
    return sum(size for _, size, _ in rows)
