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

    def wait(self, name: str, now: float) -> float:
        """Seconds to wait before the next try of ``name``; 0: there may be one.  ``now`` by a monotonic clock."""
        self._forget(now)
        return max(0.0, (1.0 - self._left(self._bucket(name), now)) * self._seconds)

    def take(self, name: str, now: float) -> float:
        """As ``wait``, and where it is 0 this is the try."""
        wait = self.wait(name, now)
        bucket = self._bucket(name)
        left = self._left(bucket, now)
        self._tried.pop(bucket, None)
        self._tried[bucket] = (left if wait else left - 1.0, now)
        return wait

    def _bucket(self, name: str) -> str:
        return name if name in self._tried or len(self._tried) < self._most else _ALL_OTHERS

    def _left(self, bucket: str, now: float) -> float:
        left, at = self._tried.get(bucket, (float(self._burst), now))
        return min(float(self._burst), left + (now - at) / self._seconds)

    def _forget(self, now: float) -> None:
        """Those whose buckets are full by now, whatever was left in them."""
        while self._tried:
            _, at = next(iter(self._tried.values()))
            if now - at < self._burst * self._seconds:
                return
            self._tried.popitem(last=False)
