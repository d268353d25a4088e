"""Lines of the log that others can cause, as often as they like: which of them are told.

Of each of them a few are told in a minute; the next one that is told says how many were not.  When there are too many
to remember, those who are new count as one.
"""

from __future__ import annotations

from typing import Final

_SECONDS: Final = 60.0
_MOST: Final = 1024


class Seldom:
    """At most ``most`` a minute by the same."""

    def __init__(self, most: int = 1) -> None:
        self._most = most
        self._told: dict[object, tuple[float, int, int]] = {}
        """By whom, those first whose time ends first: until when they are counted, how many were told, and how many
        were not."""

    def __len__(self) -> int:
        return len(self._told)

    def ask(self, now: float, by: object = None) -> str | None:
        """What is said behind the line that ``by`` causes at ``now`` (seconds); None: the line is not told."""
        if by not in self._told and len(self._told) >= _MOST:
            self._forget(now)
            if len(self._told) >= _MOST:
                by = None
        until, told, untold = self._told.get(by, (0.0, 0, 0))
        if now >= until:
            self._told.pop(by, None)
            until, told = now + _SECONDS, 0
        if told == self._most:
            self._told[by] = until, told, untold + 1
            return None
        self._told[by] = until, told + 1, 0
        return f" ({untold} more since the last such line)" if untold else ""

    def _forget(self, now: float) -> None:
        """Those whose time is over."""
        while self._told and self._told[first := next(iter(self._told))][0] <= now:
            del self._told[first]
