"""How much and how long: the bounds of one tunnel (§9 and §11 of the document).  Times are seconds, sizes bytes.

They are ours alone.  What binds the other side is told to it in the parameters of the handshake.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """``answer``: how long a request may wait for our answer; ``give_up``: how long ours waits for the peer's.

    ``kept`` is what control may have unacknowledged before DATA and OPEN wait, ``kept_more`` what other frames may take
    beyond it, ``leg_kept`` to ``most_leg_kept`` the same of a leg; after ``stalled`` at such a bound without an ACK the
    tunnel ends.  ``unread`` is what all streams together may have waiting for their readers on control; those that were
    not read for ``unread_for`` are then reset, until a quarter is free.  A stream's window grows to ``window``, on a
    leg to ``leg_window``.

    A stream is bulk when it sent ``bulk`` bytes within ``bulk_within``, or could not hand in more for ``bulk_waiting``.
    OPENs, other frames, and carriers that join may come at a rate a second after a burst.

    ``verdict``: how long the peer may take from message 3 to its first record; ``leg_rises``: how long a leg may stand
    without a carrier at first; ``renew``: the age at which a carrier's caller makes its successor; ``farewell``: how
    long a clean end waits for its ACKs.
    """

    answer: float = 60
    give_up: float = 65
    verdict: float = 20
    kept: int = 1 << 20
    kept_more: int = 512 << 10
    leg_kept: int = 4 << 20
    most_leg_kept: int = 16 << 20
    stalled: float = 30
    unread: int = 4 << 20
    unread_for: float = 1
    window: int = 1 << 20
    leg_window: int = 16 << 20
    bulk: int = 1 << 20
    bulk_within: float = 2
    bulk_waiting: float = 1
    opens: tuple[float, int] = (2000, 4000)
    frames: tuple[float, int] = (16384, 32768)
    joins: tuple[float, int] = (8, 32)
    leg_rises: float = 30
    renew: float = 86400
    farewell: float = 10


class Rate:
    """``burst`` at once, and ``rate`` a second after that, in lots."""

    __slots__ = ("_at", "_burst", "_left", "_rate")

    def __init__(self, rate: float, burst: int, now: float) -> None:
        self._rate, self._burst, self._left, self._at = rate, burst, float(burst), now

    def left(self, now: float) -> int:
        """How many may pass now."""
        if now > self._at:
            self._left = min(self._burst, self._left + (now - self._at) * self._rate)
            self._at = now
        return int(self._left)

    def take(self, count: int, now: float) -> bool:
        """Whether ``count`` more may pass now; if not, none has."""
        if self.left(now) < count:
            return False
        self._left -= count
        return True

    def spend(self, count: int) -> None:
        """``count`` pass, of those that were ``left``."""
        self._left -= count
