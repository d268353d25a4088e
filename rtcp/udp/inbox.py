"""The bytes that arrive: each one handed on once, in order, and no more of them held than were allowed.

The allowance is a window ahead of what was read.  It is renewed when half of it was read, and doubled, up to 8 MiB,
each time a whole one was read in less than four round trips: only who reads fast, from far away, has a large one.
"""

from __future__ import annotations

import heapq
from collections import deque
from typing import Final

from cyfs_ns.errors import BadWire

FIRST_WINDOW: Final = 512 << 10
MOST_WINDOW: Final = 8 << 20
_SOON: Final = 4
_MOST_PIECES: Final = 16384
"""Pieces beyond a gap: somebody may send them a byte at a time."""


class Inbox:
    """``arrived`` bytes are there without a gap; the peer may send up to ``limit``."""

    __slots__ = (
        "_ahead",
        "_held",
        "_pieces",
        "_read",
        "_window",
        "_window_at",
        "_window_from",
        "arrived",
        "end",
        "limit",
    )

    def __init__(self) -> None:
        self.arrived = 0
        self.limit = self._window = FIRST_WINDOW
        self.end: int | None = None
        """How many bytes there will be, once the peer has told."""
        self._pieces: deque[bytes] = deque()
        self._read = 0
        self._ahead: list[tuple[int, bytes]] = []
        self._held = 0
        self._window_at, self._window_from = 0.0, 0

    @property
    def readable(self) -> int:
        return self.arrived - self._read

    @property
    def is_whole(self) -> bool:
        """Whether all there will ever be has arrived."""
        return self.arrived == self.end

    def offer(self, offset: int, data: memoryview) -> bool:
        """Take a piece; False: there is no room for it now.  Raises ``BadWire`` when it was not allowed."""
        behind = offset + len(data)
        if behind > self.limit or (self.end is not None and behind > self.end):
            raise BadWire("more data than was allowed")
        if offset > self.arrived:
            if len(self._ahead) >= _MOST_PIECES or self._held + len(data) > self._window:
                return False
            heapq.heappush(self._ahead, (offset, bytes(data)))
            self._held += len(data)
            return True
        self._append(offset, bytes(data))
        ahead = self._ahead
        while ahead and ahead[0][0] <= self.arrived:
            low, piece = heapq.heappop(ahead)
            self._held -= len(piece)
            self._append(low, piece)
        return True

    def _append(self, offset: int, data: bytes) -> None:
        fresh = offset + len(data) - self.arrived
        if fresh > 0:
            self._pieces.append(data if fresh == len(data) else data[-fresh:])
            self.arrived += fresh

    def finish(self, end: int) -> None:
        """The peer says how many bytes there are.  Raises ``BadWire`` when that cannot be."""
        highest = max((low + len(piece) for low, piece in self._ahead), default=self.arrived)
        if end < highest or self.end not in (None, end):
            raise BadWire("an end that cannot be")
        self.end = end

    def read_into(self, buffer: memoryview) -> int:
        """As much as there is, and as fits."""
        got, size, pieces = 0, len(buffer), self._pieces
        while pieces and got < size:
            piece = pieces[0]
            n = len(piece)
            if n > size - got:
                n = size - got
                buffer[got : got + n] = piece[:n]
                pieces[0] = piece[n:]
            else:
                buffer[got : got + n] = piece
                pieces.popleft()
            got += n
        self._read += got
        return got

    def drop(self) -> None:
        """Nobody reads it any more."""
        self._read = self.arrived
        self._pieces.clear()

    def renew(self, now: float, round_trip: float) -> bool:
        """Whether the peer is to hear of a new ``limit``."""
        if self.limit - self._read > self._window // 2 or (self.end is not None and self.limit >= self.end):
            return False
        if self._read - self._window_from >= self._window:
            if now - self._window_at < _SOON * max(round_trip, 0.01):
                self._window = min(2 * self._window, MOST_WINDOW)
            self._window_at, self._window_from = now, self._read
        self.limit = self._read + self._window
        return True
