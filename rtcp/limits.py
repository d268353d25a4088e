"""How much and how long: every bound of a tunnel, with the forerunner's numbers.  Times are seconds."""

from __future__ import annotations

from dataclasses import dataclass

from cyfs_ns.errors import Misuse
from rtcp.records import CONTROL_BUDGET, Budget

_MOST_STREAM_IDS = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """``step``: how long one step of the handshake may take; on the responder, everything up to the proof of keys.

    ``answer``: how long a request for a stream may stay unanswered; ``connect``: how long its connection may then take.
    ``pending`` requests may be under way per tunnel and direction, ``per_second`` come in after a ``burst``, and
    ``stream_ids`` of them be made under one set of keys.  After ``quiet`` the peer is pinged, each ping waits ``pong``,
    and after ``misses`` in a row the tunnel is dead.  ``unsent``: bytes we hold for a peer that does not read.
    """

    step: float = 15
    answer: float = 60
    connect: float = 30
    pending: int = 64
    per_second: float = 32
    burst: int = 64
    stream_ids: int = 65536
    quiet: float = 30
    pong: float = 10
    misses: int = 3
    unsent: int = 1 << 20
    budget: Budget = CONTROL_BUDGET

    def __post_init__(self) -> None:
        if not 0 < self.stream_ids <= _MOST_STREAM_IDS:
            raise Misuse(f"at most {_MOST_STREAM_IDS} ids of streams can be held")


class Bucket:
    """``burst`` at once, and ``rate`` a second after that."""

    __slots__ = ("_at", "_burst", "_left", "_rate")

    def __init__(self, rate: float, burst: int, now: float) -> None:
        self._rate, self._burst, self._left, self._at = rate, burst, float(burst), now

    def left(self, now: float) -> float:
        """How many may pass at once now."""
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        return self._left

    def take(self, now: float) -> bool:
        """Whether one more may pass now."""
        if self.left(now) < 1:
            return False
        self._left -= 1
        return True
