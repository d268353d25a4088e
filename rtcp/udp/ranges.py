"""Whole numbers as disjoint ranges: which datagrams arrived, which bytes were acknowledged."""

from __future__ import annotations

from bisect import bisect_left, bisect_right


class Ranges:
    """Half-open ranges ``lows[i] <= n < highs[i]``, ascending, none touching another."""

    __slots__ = ("highs", "lows")

    def __init__(self) -> None:
        self.lows: list[int] = []
        self.highs: list[int] = []

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self.lows, number) - 1
        return at >= 0 and number < self.highs[at]

    def add(self, low: int, high: int) -> None:
        """All numbers from ``low`` up to ``high``, which is above it, and not in."""
        lows, highs = self.lows, self.highs
        if not highs or low > highs[-1]:
            lows.append(low)
            highs.append(high)
            return
        if low >= lows[-1]:
            if high > highs[-1]:
                highs[-1] = high
            return
        first = bisect_left(highs, low)
        behind = bisect_right(lows, high)
        if first < behind:
            low, high = min(low, lows[first]), max(high, highs[behind - 1])
        lows[first:behind] = [low]
        highs[first:behind] = [high]

    def missing(self, low: int, high: int) -> list[tuple[int, int]]:
        """What of ``low`` up to ``high`` is not there."""
        gaps: list[tuple[int, int]] = []
        at = bisect_right(self.highs, low)
        while low < high:
            if at == len(self.lows) or self.lows[at] >= high:
                gaps.append((low, high))
                break
            if self.lows[at] > low:
                gaps.append((low, self.lows[at]))
            low = self.highs[at]
            at += 1
        return gaps

    def forget_below(self, number: int) -> None:
        """Drop what is below ``number``."""
        count = bisect_right(self.highs, number)
        if count:
            del self.lows[:count], self.highs[:count]
        if self.lows and self.lows[0] < number:
            self.lows[0] = number

    def keep_last(self, count: int) -> None:
        """Drop all ranges but the last ``count``."""
        del self.lows[:-count], self.highs[:-count]
