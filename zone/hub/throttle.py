"""Patience with whoever tries: a bucket of tries for each name, which fills again with time."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

_MOST: Final = 4096
"""Names; beyond that, whoever was quiet the longest is forgotten."""


class Throttle:
    """``burst`` tries at once, then one every ``seconds``."""

    def __init__(self, burst: int, seconds: float, most: int = _MOST) -> None:
        self._burst = burst
        self._seconds = seconds
        self._most = most
        self._tried: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """What was left, and when."""

    def take(self, name: str, now: float) -> float:
        """Seconds to wait before the next try of ``name``; 0: this is one.  ``now`` by a monotonic clock."""
        left, at = self._tried.pop(name, (float(self._burst), now))
        left = min(float(self._burst), left + (now - at) / self._seconds)
        wait = max(0.0, (1.0 - left) * self._seconds)
        self._tried[name] = (left if wait else left - 1.0, now)
        while len(self._tried) > self._most:
            self._tried.popitem(last=False)
        return wait
