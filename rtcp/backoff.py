"""How long to wait before a tunnel that has to stand is dialled again.

Twice as long after each failure, up to a bound; and never all at the same moment, since the thousand peers of a relay
that was restarted would else come back as one wave.

A tunnel that stood and broke is most often a router's doing and can be back at once, so the first wait after it may be
none.  That is so a few times until a tunnel has proved itself, since a peer may as well end each of them.
"""

from __future__ import annotations

FIRST = 1.0
LONGEST = 120.0
PROVED = 30.0
"""Seconds for which a tunnel has to stand before its end counts as the first failure and not as one more."""
_STOOD = 1.0
"""...and before its end counts as that of a tunnel, and not as a failure to make one."""
_AT_ONCE = 3
"""How many tunnels in a row may be made again at once that have not proved themselves."""


class Backoff:
    """Failures, counted.  All times are seconds."""

    def __init__(self, first: float = FIRST, longest: float = LONGEST) -> None:
        self._first, self._longest = first, longest
        self._next = first
        self._hopes, self._at_once = _AT_ONCE, False

    def stood(self, seconds: float) -> None:
        """A tunnel has stood so long."""
        if seconds >= PROVED:
            self._next = self._first
            self._hopes = _AT_ONCE
        self._at_once = self._hopes > 0 and seconds >= _STOOD
        self._hopes -= self._at_once

    def reset(self) -> None:
        """What failed before says nothing any more."""
        self._next = self._first

    def failed(self, die: float) -> float:
        """How long to wait now: half of what is due, and the other half by ``die`` in [0, 1); or little by it alone."""
        if self._at_once:
            self._at_once = False
            return self._first * die / 2
        due = self._next
        self._next = min(2 * due, self._longest)
        return due * (1 + die) / 2
