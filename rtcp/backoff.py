"""How long to wait before a tunnel that has to stand is dialled again.

Twice as long after each failure, up to a bound; and never all at the same moment, since the thousand peers of a relay
that was restarted would else come back as one wave.
"""

from __future__ import annotations

FIRST = 1.0
LONGEST = 120.0
PROVED = 30.0
"""Seconds for which a tunnel has to stand before its end counts as the first failure and not as one more."""


class Backoff:
    """Failures, counted.  All times are seconds."""

    def __init__(self, first: float = FIRST, longest: float = LONGEST) -> None:
        self._first, self._longest = first, longest
        self._next = first

    def stood(self, seconds: float) -> None:
        """A tunnel has stood so long."""
        if seconds >= PROVED:
            self._next = self._first

    def failed(self, die: float) -> float:
        """How long to wait now: half of what is due, and the other half by ``die`` in [0, 1)."""
        due = self._next
        self._next = min(2 * due, self._longest)
        return due * (1 + die) / 2
