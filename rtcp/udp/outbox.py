"""The bytes that one side sends: kept until they are acknowledged, cut into pieces whichever way a path wants them.

Bytes lie in blocks of 64 KiB by their offset, so a piece is found without a search, and what is acknowledged from the
start on is given back block by block; when all is, nothing is left.
"""

from __future__ import annotations

from typing import Final

from rtcp.udp.ranges import Ranges

_SHIFT: Final = 16
_BLOCK: Final = 1 << _SHIFT


class Outbox:
    """``end`` bytes were written; ``sent`` of them have been sent at least once; ``base`` arrived without a gap."""

    __slots__ = ("_acked", "_blocks", "_lost", "_origin", "base", "end", "sent")

    def __init__(self) -> None:
        self.base = self.sent = self.end = 0
        self._origin = 0
        """Where the first block of all begins."""
        self._blocks: dict[int, bytearray] = {}
        self._acked, self._lost = Ranges(), Ranges()

    @property
    def kept(self) -> int:
        """Bytes that are not known to have arrived."""
        return self.end - self.base

    def write(self, data: bytes | memoryview) -> None:
        view, end = memoryview(data), self.end - self._origin
        while view:
            block = self._blocks.setdefault(end >> _SHIFT, bytearray())
            part = view[: _BLOCK - (end & _BLOCK - 1)]
            block += part
            end += len(part)
            view = view[len(part) :]
        self.end = end + self._origin

    def has_more(self, limit: int) -> bool:
        """Whether ``take`` has something: lost, or new and below ``limit``."""
        return bool(self._lost.lows) or self.sent < min(self.end, limit)

    def take(self, most: int, limit: int) -> tuple[int, bytes] | None:
        """The next piece to send, of ``most`` bytes at most: what was lost before what is new."""
        lost = self._lost
        if lost.lows:
            low = lost.lows[0]
            high = min(lost.highs[0], low + most)
            lost.forget_below(high)
            return low, self._piece(low, high)
        low = self.sent
        high = min(self.end, limit, low + most)
        if high <= low:
            return None
        self.sent = high
        return low, self._piece(low, high)

    def _piece(self, low: int, high: int) -> bytes:
        low, rest = low - self._origin, high - low
        at = low & _BLOCK - 1
        block = self._blocks[low >> _SHIFT]
        if at + rest <= _BLOCK:
            return bytes(memoryview(block)[at : at + rest])
        first = _BLOCK - at
        return bytes(block[at:]) + bytes(self._blocks[(low >> _SHIFT) + 1][: rest - first])

    def acked(self, low: int, high: int) -> None:
        """These bytes arrived."""
        self._acked.add(low, high)
        if self._lost.lows and self._lost.lows[0] < high:
            self._settle_lost()
        if self._acked.lows[0] <= self.base:
            before, self.base = self.base, max(self.base, self._acked.highs[0])
            self._acked.forget_below(self.base)
            if self.base == self.end:
                self._blocks.clear()
                self._origin = self.end
                return
            for block in range(before - self._origin >> _SHIFT, self.base - self._origin >> _SHIFT):
                del self._blocks[block]

    def _settle_lost(self) -> None:
        still = Ranges()
        for low, high in zip(self._lost.lows, self._lost.highs, strict=True):
            for gap in self._missing(low, high):
                still.add(*gap)
        self._lost = still

    def lost(self, low: int, high: int) -> None:
        """The datagram with these bytes seems not to have arrived: they go again."""
        for gap in self._missing(low, high):
            self._lost.add(*gap)

    def _missing(self, low: int, high: int) -> list[tuple[int, int]]:
        return self._acked.missing(max(low, self.base), high)
