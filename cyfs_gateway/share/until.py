"""How long, in the owner's words: ``12h``, ``7d``, or a day, ``2027-01-31``, to its end in UTC."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta
from typing import Final

from cyfs_ns.errors import ConfigFault

LONGEST: Final = 10 * 366 * 86_400
_SPAN: Final = re.compile(r"([1-9][0-9]{0,5})([mhdw])").fullmatch
_UNITS: Final = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def read_until(text: str, now: int) -> int:
    """The moment, whole seconds since 1970.  Raises ``ConfigFault`` for what is none, is over, or years away."""
    if (span := _SPAN(text)) is not None:
        until = now + int(span[1]) * _UNITS[span[2]]
    else:
        try:
            day = date.fromisoformat(text)
            until = int(datetime.combine(day + timedelta(days=1), time(), UTC).timestamp())
        except (ValueError, OverflowError):
            raise ConfigFault(f"{text[:40]!r} is no time such as 12h, 7d or 2027-01-31") from None
    if not now < until <= now + LONGEST:
        raise ConfigFault(f"{text[:40]} is over, or more than ten years away")
    return until
