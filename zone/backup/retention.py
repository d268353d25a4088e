"""Which backups of a machine stay.

By their numbers, which only grow.  Clocks only tell which day a backup is of: one that jumped makes days that never
were, each of which takes one place of a rule at most, and the newest ones stay whatever they say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from cyfs_ns.errors import ConfigFault

_DAY, _WEEK, _MONTH = "%Y-%j", "%G-%V", "%Y-%m"


@dataclass(frozen=True, slots=True)
class Retention:
    """How many stay: the newest ``last``, and the newest one of each of so many days, weeks and months that have one.

    Days are those of UTC, weeks those of ISO 8601.
    """

    last: int = 3
    daily: int = 7
    weekly: int = 4
    monthly: int = 6

    def __post_init__(self) -> None:
        if self.last < 1 or min(self.daily, self.weekly, self.monthly) < 0:
            raise ConfigFault("retention: the last one stays always; no number is below 0")


def kept(made: Mapping[int, int], rule: Retention) -> set[int]:
    """The numbers that stay of the backups ``made``, which have the time of each (seconds since 1970)."""
    newest = sorted(made, reverse=True)
    stay = set(newest[: rule.last])
    for form, most in ((_DAY, rule.daily), (_WEEK, rule.weekly), (_MONTH, rule.monthly)):
        stay |= _first_of_each(newest, made, form, most)
    return stay


def _first_of_each(newest: Iterable[int], made: Mapping[int, int], form: str, most: int) -> set[int]:
    first: dict[str, int] = {}
    for number in newest:
        first.setdefault(datetime.fromtimestamp(made[number], UTC).strftime(form), number)
    return set(list(first.values())[:most])
