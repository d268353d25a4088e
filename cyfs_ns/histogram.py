"""What many measurements of a time say: order statistics, and a picture in one line of text.

Times of name servers spread over four powers of ten, so the picture's axis is logarithmic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_BLOCKS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True)
class Summary:
    """Seconds; NaN where nothing was measured."""

    count: int
    lost: int
    least: float
    median: float
    p90: float
    p99: float

    @property
    def loss(self) -> float:
        """Share of the attempts that came to nothing, 0 to 1."""
        return self.lost / max(1, self.count + self.lost)


def summary(times: Sequence[float], lost: int = 0) -> Summary:
    """Of times that were measured, and attempts that came to nothing."""
    ordered = sorted(times)
    return Summary(
        len(ordered),
        lost,
        ordered[0] if ordered else math.nan,
        percentile(ordered, 50),
        percentile(ordered, 90),
        percentile(ordered, 99),
    )


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The least of ascending values that ``percent`` of them do not exceed (nearest rank); NaN of none."""
    if not ordered:
        return math.nan
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


class Axis:
    """``width`` bins between two times, each as wide as the others on a logarithmic scale."""

    def __init__(self, low: float, high: float, width: int) -> None:
        self._low, self._width = math.log10(low), width
        self._span = max(math.log10(high) - self._low, 1e-9)

    @classmethod
    def over(cls, times: Sequence[float], width: int) -> Axis:
        """An axis from just below the least to just above the greatest of some times."""
        positive = [time for time in times if time > 0] or [0.001]
        return cls(min(positive) * 0.9, max(positive) * 1.1, width)

    def bars(self, times: Sequence[float]) -> str:
        """One character a bin, as high as its share of the fullest."""
        counts = [0] * self._width
        for time in times:
            counts[self._bin(time)] += 1
        most = max(counts) or 1
        # A bin that is not empty is seen, however small its share.
        return "".join(_BLOCKS[math.ceil(count / most * (len(_BLOCKS) - 1))] for count in counts)

    def scale(self) -> str:
        """Marks of the axis (1, 2, 5, 10 ... milliseconds), to be printed below bars."""
        line = [" "] * self._width
        free = 0
        for power in range(-2, 6):
            for digit in (1, 2, 5):
                milliseconds = digit * 10.0**power
                place = (math.log10(milliseconds / 1000) - self._low) / self._span * self._width
                text = f"{milliseconds:g}"
                if place >= free and place + len(text) <= self._width:
                    at = int(place)
                    line[at : at + len(text)] = text
                    free = at + len(text) + 1
        return "".join(line).rstrip()

    def _bin(self, time: float) -> int:
        if time <= 0:
            return 0
        share = (math.log10(time) - self._low) / self._span
        return min(self._width - 1, max(0, int(share * self._width)))
