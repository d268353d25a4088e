"""How many octets one session of the relay may move: at most so fast, and only as far as its account was granted.

The hot path only counts ``left`` down.  When that is used up, :meth:`Lease.renew` fills it from two sources: a bucket
that fills at the session's rate, and a grant, which is asked for once per ``GRANT`` octets and not per packet.  Who is
over the rate is slowed (this packet is dropped, later ones pass); who is granted no more is refused, and asks again a
little later: an account may be over its own rate only, quotas are raised, and months begin.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

GRANT = 1 << 20
"""Octets asked for at once, and so the most by which a crash can misstate what an account has used."""

_LOT = 256 << 10
_LEAST_BURST = 256 << 10  # several of the largest bursts that come as one
_BURST_SECONDS = 0.25
_ASK_AGAIN = 0.1


class Renewed(Enum):
    """What became of a wish."""

    GIVEN = "it may pass"
    SLOWED = "the session is over its rate"
    REFUSED = "the account is granted no more"


class Lease:
    """``rate``: octets a second, at least 1.  ``left``: what may pass before anybody is asked."""

    __slots__ = ("_at", "_granted", "_no_sooner", "_tokens", "left", "rate")

    def __init__(self, rate: int, now: float) -> None:
        self.rate = rate
        self.left = self._granted = 0
        self._tokens = float(self._burst())
        self._at = now
        self._no_sooner = now

    @property
    def unused(self) -> int:
        """Octets granted and not used, to be given back at the end."""
        return self.left + self._granted

    def renew(self, octets: int, now: float, take: Callable[[int], bool]) -> Renewed:
        """Make ``left`` at least ``octets`` (no more than a datagram's), or say why not.  ``take`` asks for a grant."""
        self._tokens = min(self._burst(), self._tokens + (now - self._at) * self.rate)
        self._at = now
        need = octets - self.left
        if self._tokens < need:
            return Renewed.SLOWED
        lot = max(need, min(_LOT, int(self._tokens)))
        if self._granted < lot:
            if now < self._no_sooner:
                return Renewed.REFUSED
            if not take(GRANT):
                self._no_sooner = now + _ASK_AGAIN
                return Renewed.REFUSED
            self._granted += GRANT
        self._granted -= lot
        self._tokens -= lot
        self.left += lot
        return Renewed.GIVEN

    def _burst(self) -> int:
        return max(_LEAST_BURST, int(self.rate * _BURST_SECONDS))
