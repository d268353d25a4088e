"""Datagrams on their way: what a sender keeps of them for a carrier, and whom a flow may talk to (§8.5)."""

from __future__ import annotations

from collections import deque

from rtcp.v5.frames import Address

_MOST_BYTES, _LEAST_BYTES = 256 << 10, 16 << 10
_LONGEST = 0.1
_MOST_DESTINATIONS = 256
_FORGOTTEN_AFTER = 60.0
MOST_HELD = 32
"""Datagrams of a flow that may wait for the answer to its OPEN."""


class DatagramQueue:
    """DGRAM frames of one flow, at most 100 ms old; the oldest goes first, or is dropped."""

    __slots__ = ("_frames", "size")

    def __init__(self) -> None:
        self._frames: deque[tuple[float, bytes]] = deque()
        self.size = 0

    def __len__(self) -> int:
        return len(self._frames)

    def put(self, frame: bytes, now: float, flows: int = 1) -> None:
        """``flows`` share the carrier: 256 KiB of frames may wait for it, but of each flow 16 KiB, or one frame."""
        self._frames.append((now, frame))
        self.size += len(frame)
        most = max(_MOST_BYTES // flows, _LEAST_BYTES)
        while self.size > most and len(self._frames) > 1:
            self.size -= len(self._frames.popleft()[1])

    def clear(self) -> None:
        self._frames.clear()
        self.size = 0

    def take(self, room: int, now: float) -> list[bytes]:
        """As many as fit in ``room``; none: there are none, or the next does not fit."""
        taken: list[bytes] = []
        while self._frames:
            at, frame = self._frames[0]
            fresh = now - at <= _LONGEST
            if fresh and len(frame) > room:
                break
            self._frames.popleft()
            self.size -= len(frame)
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
