"""Who used what: added up in memory, month by month, and handed to the disk in numbered batches.

A batch is what came since the last one.  It keeps its number and its content until the disk is known to have it, and
the disk remembers the highest number it took: so a batch that is written again, because nobody knew whether it had
arrived, counts once, and a machine that is cut off loses what came since its last batch and nothing else.

Months are of UTC.  The meter's month never goes back: after a clock has, what comes counts for the month that was
reached, and a spent month stays spent.  (A clock that was wrong *forward* leaves the meter in a month to come, until an
operator says which it is.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType

from cyfs_ns.identity.did import Did


@dataclass(frozen=True, slots=True)
class Usage:
    """What one account used.  ``up`` are bytes from its machines, ``down`` bytes to them; seconds of all streams."""

    up: int = 0
    down: int = 0
    seconds: float = 0.0
    streams: int = 0

    @property
    def bytes(self) -> int:
        return self.up + self.down

    def plus(self, other: Usage) -> Usage:
        return Usage(
            self.up + other.up,
            self.down + other.down,
            self.seconds + other.seconds,
            self.streams + other.streams,
        )


NOTHING = Usage()


@dataclass(frozen=True, slots=True)
class Batch:
    """What ``used`` adds, by month and owner.  ``number`` grows by one from batch to batch."""

    number: int
    month: int
    used: Mapping[tuple[int, Did], Usage]


def month_of(now: float) -> int:
    """The UTC month of ``now`` (seconds since 1970), as ``202611``."""
    there = datetime.fromtimestamp(now, UTC)
    return there.year * 100 + there.month


class Meter:
    """See the module's text.

    ``used`` is what the disk has of ``month``, the last one it saw; ``number`` that of the last batch it took.
    """

    def __init__(self, month: int, number: int, used: Mapping[Did, Usage]) -> None:
        self._month, self._number = month, number
        self._total = dict(used)
        self._fresh: dict[tuple[int, Did], Usage] = {}
        self._pending: Batch | None = None

    @property
    def month(self) -> int:
        return self._month

    def turn(self, now: float) -> bool:
        """Look at the calendar.  Whether a new month has begun: then all totals start at nothing."""
        month = month_of(now)
        if month <= self._month:
            return False
        self._month = month
        self._total.clear()
        return True

    def set_month(self, month: int, used: Mapping[Did, Usage]) -> None:
        """An operator says which month it is, after a clock was wrong; ``used`` is what the disk has of it."""
        self._month = month
        self._total = dict(used)
        for batch in (self._pending.used if self._pending else {}, self._fresh):
            for (when, owner), more in batch.items():
                if when == month:
                    self._total[owner] = self.used(owner).plus(more)

    def add(self, owner: Did, more: Usage) -> None:
        """``owner`` (canonical) used ``more`` just now."""
        key = (self._month, owner)
        self._fresh[key] = self._fresh.get(key, NOTHING).plus(more)
        self._total[owner] = self.used(owner).plus(more)

    def used(self, owner: Did) -> Usage:
        """What ``owner`` used this month, what the disk does not know yet included."""
        return self._total.get(owner, NOTHING)

    def totals(self) -> Mapping[Did, Usage]:
        return MappingProxyType(self._total)

    def batch(self) -> Batch | None:
        """What to write next: the last batch again until :meth:`written` was told, then what came since."""
        if self._pending is None and self._fresh:
            self._pending = Batch(self._number + 1, self._month, MappingProxyType(self._fresh))
            self._fresh = {}
        return self._pending

    def written(self, batch: Batch) -> None:
        """The disk has ``batch``."""
        if self._pending is batch:
            self._number, self._pending = batch.number, None
