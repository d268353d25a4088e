"""Patience with whoever tries: a bucket of tries for each name, which fills again with time.

No name is forgotten before its bucket is full again: otherwise whoever tries enough other names could try one of them
for ever.  When there is no room for another name, all further ones have one bucket together.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

_MOST: Final = 4096
"""Names."""
_ALL_OTHERS: Final = "\0"
"""No name is that; the empty one may be somebody's."""


class Throttle:
    """``burst`` tries at once, then one every ``seconds``."""

    def __init__(self, burst: int, seconds: float, most: int = _MOST) -> None:
        self._burst = burst
        self._seconds = seconds
        self._most = most
        self._tried: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """What was left, and when; whoever was quiet the longest comes first."""

    def take(self, name: str, now: float) -> float:
        """Seconds to wait before the next try of ``name``; 0: this is one.  ``now`` by a monotonic clock."""
        self._forget(now)
        if name not in self._tried and len(self._tried) >= self._most:
            name = _ALL_OTHERS
        left, at = self._tried.pop(name, (float(self._burst), now))
        left = min(float(self._burst), left + (now - at) / self._seconds)
        wait = max(0.0, (1.0 - left) * self._seconds)
        self._tried[name] = (left if wait else left - 1.0, now)
        return wait

    def _forget(self, now: float) -> None:
        """Those whose buckets are full by now, whatever was left in them."""
        while self._tried:
            _, at = next(iter(self._tried.values()))
            if now - at < self._burst * self._seconds:
                return
            self._tried.popitem(last=False)
