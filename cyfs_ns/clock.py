"""A clock that was never set.

A machine without a battery for its clock starts in 1970, and hears of the time only after it has found a server for it
by name.  Until then nothing that is dated can be judged: certificates and documents of today are of the future.
"""

from __future__ import annotations

from datetime import UTC, datetime

SET_SINCE = 1_767_225_600
"""2026-01-01, in seconds since 1970: this program was made later, so a clock that says less is not set."""


def is_unset(now: float) -> bool:
    """Whether a clock that says ``now`` (seconds since 1970) is surely wrong."""
    return now < SET_SINCE


def why_unset(now: float) -> str:
    """The same in words, for whoever has to set it."""
    said = max(0.0, now)
    return f"{NOT_SET}: it says {datetime.fromtimestamp(said, UTC):%Y-%m-%d %H:%M}"


NOT_SET = f"the clock of this machine is before {datetime.fromtimestamp(SET_SINCE, UTC):%Y-%m-%d}"
