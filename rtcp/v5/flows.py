"""Datagrams on their way: what a sender keeps of them for a carrier, and whom a flow may talk to (§8.5)."""

from __future__ import annotations

from collections import deque

from rtcp.v5.frames import Address

_MOST_BYTES = 256 << 10
_LONGEST = 0.1
_MOST_DESTINATIONS = 256
_FORGOTTEN_AFTER = 60.0
MOST_HELD = 32
"""Datagrams of a flow that may wait for the answer to its OPEN."""


class DatagramQueue:
    """DGRAM frames for one carrier: at most 256 KiB, at most 100 ms old; the oldest goes first, or is dropped."""

    __slots__ = ("_frames", "_size")

    def __init__(self) -> None:
        self._frames: deque[tuple[float, bytes]] = deque()
        self._size = 0

    def __len__(self) -> int:
        return len(self._frames)

    def put(self, frame: bytes, now: float) -> None:
        self._frames.append((now, frame))
        self._size += len(frame)
        while self._size > _MOST_BYTES:
            self._size -= len(self._frames.popleft()[1])

    def clear(self) -> None:
        self._frames.clear()
        self._size = 0

    def take(self, room: int, now: float) -> list[bytes]:
        """As many as fit in ``room``; none: there are none, or the next does not fit."""
        taken: list[bytes] = []
        while self._frames:
            at, frame = self._frames[0]
            fresh = now - at <= _LONGEST
            if fresh and len(frame) > room:
                break
            self._frames.popleft()
            self._size -= len(frame)
            if fresh:
                taken.append(frame)
                room -= len(frame)
        return taken


class Destinations:
    """Whom a flow talked to: at most 256, each forgotten after 60 s of silence."""

    __slots__ = ("_seen",)

    def __init__(self) -> None:
        self._seen: dict[Address, float] = {}

    def touch(self, address: Address, now: float) -> bool:
        """Whether a datagram may go there: it is known, or there is room for it."""
        seen = self._seen
        if seen.pop(address, None) is None:
            while seen and now - seen[oldest := next(iter(seen))] > _FORGOTTEN_AFTER:
                del seen[oldest]
            if len(seen) >= _MOST_DESTINATIONS:
                return False
        seen[address] = now
        return True
