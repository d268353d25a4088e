"""Times of the week at which something holds, by the clock on the wall.

A window begins on its days at ``start`` and lasts until ``end``, on the next day when that is not later.  Both are
turned into instants by the house's time zone, so on the night the clock is put back a window holds through both of
the doubled hours, and where an hour is missing it begins or ends an hour later by the new time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, tzinfo

from cyfs_ns.errors import ConfigFault

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
MINUTES = 24 * 60

_CLOCK = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])")
_WORDS = {"daily": frozenset(range(7)), "weekdays": frozenset(range(5)), "weekends": frozenset({5, 6})}


@dataclass(frozen=True, slots=True)
class Window:
    """Days it begins on (0 is Monday), and minutes of the day; ``end`` may be 1440, midnight."""

    days: frozenset[int]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Schedule:
    """Holds within any of its windows."""

    windows: tuple[Window, ...]
    zone: tzinfo

    def holds(self, now: float) -> bool:
        """Whether it holds at ``now``, seconds since 1970."""
        return any(begin <= now < end for begin, end in self._spans(now))

    def next_change(self, now: float) -> float | None:
        """When it next begins or ends to hold, within the week to come; None when it always or never holds."""
        spans = list(self._spans(now))
        edges = sorted({edge for span in spans for edge in span if edge > now})
        before = any(begin <= now < end for begin, end in spans)
        for edge in edges[:-1] if before else edges:
            if any(begin <= edge < end for begin, end in spans) is not before:
                return edge
        return None

    def _spans(self, now: float) -> Iterator[tuple[float, float]]:
        today = datetime.fromtimestamp(now, self.zone).date()
        for ahead in range(-2, 9):
            day = today + timedelta(days=ahead)
            for window in self.windows:
                if day.weekday() in window.days:
                    ends_on = day if window.end > window.start else day + timedelta(days=1)
                    yield self._instant(day, window.start, 0), self._instant(ends_on, window.end, 1)

    def _instant(self, day: date, minute: int, fold: int) -> float:
        day += timedelta(days=minute // MINUTES)
        hours, minutes = divmod(minute % MINUTES, 60)
        return datetime.combine(day, time(hours, minutes, fold=fold), self.zone).timestamp()


def parse_window(days: Iterable[str], start: str, end: str) -> Window:
    """``["mon", "sat-sun"]`` (also ``daily``, ``weekdays``, ``weekends``), ``"21:30"``, ``"07:00"``; or ConfigFault."""
    chosen: set[int] = set()
    for word in days:
        chosen |= _days(word.strip().lower())
    if not chosen:
        raise ConfigFault(f"a window of time needs days: {', '.join(DAYS)}, or a range such as mon-fri")
    return Window(frozenset(chosen), _minute(start) % MINUTES, _minute(end))


def _days(word: str) -> frozenset[int]:
    if word in _WORDS:
        return _WORDS[word]
    first, dash, last = word.partition("-")
    try:
        low = DAYS.index(first[:3])
        high = DAYS.index(last[:3]) if dash else low
    except ValueError:
        raise ConfigFault(f"{word[:40]!r} is no day: write {', '.join(DAYS)}, or a range such as mon-fri") from None
    return frozenset((low + step) % 7 for step in range((high - low) % 7 + 1))


def _minute(text: str) -> int:
    if text == "24:00":
        return MINUTES
    clock = _CLOCK.fullmatch(text)
    if clock is None:
        raise ConfigFault(f"{text[:40]!r} is no time of day: write 07:30 or 21:00")
    return int(clock[1]) * 60 + int(clock[2])
