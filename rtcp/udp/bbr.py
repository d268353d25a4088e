"""How fast to send: the rate at which the path has delivered, and the time it takes when nothing waits on it.

This is BBR in its first shape (draft-cardwell-iccrg-bbr-congestion-control-00): losses that come of the air do not slow
it, which NewReno and CUBIC would (3 % lost at 30 ms leave them 2.6 Mb/s).  Of its later shape it has the bound on what
is in flight: a round that lost more than half was more than the path holds, by whoever's fault.  Rates are estimated
as in draft-cheng-iccrg-delivery-rate-estimation-02, but for whole bursts, which leave in one system call anyway.

Beyond the draft: the least rate is that of four datagrams a round trip, since a path that was idle may be fast; and a
way that becomes longer under the same address is found out in three rounds instead of 10 s (``_look_for_detour``).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

_HIGH: Final = 2.885
"""2 / ln 2: the least gain that doubles the rate each round."""
_CYCLE: Final = (1.25, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
_ROUNDS: Final = 10
_TRIP_LIFETIME: Final = 10.0
_PROBE_TRIP: Final = 0.2
_LONG_ROUNDS: Final = 3
_MUCH_LOST: Final = 0.5
_BURSTS: Final = 3
_TURNS: Final = 0.004
"""Seconds of sending that may wait for somebody's turn, at both ends, beside what is on the path."""
_FIRST_WINDOW: Final = 10
_LEAST_WINDOW: Final = 4


@dataclass(slots=True)
class Burst:
    """What left in one go, and what was known then."""

    sent_at: float
    delivered: int
    delivered_at: float
    first_sent_at: float
    is_limited: bool
    """There was not enough to send, so its rate tells little."""


class Bbr:
    """``window`` is how many bytes may be in flight, ``rate`` how many may be sent in a second."""

    def __init__(self, now: float, datagram: int, round_trip: float) -> None:
        self._delivered, self._delivered_at, self._first_sent_at = 0, now, now
        self._limited_until = -1
        self.restart(now, datagram, round_trip)

    def restart(self, now: float, datagram: int, round_trip: float) -> None:
        """The path is another, or may be.  What left before is still counted, but nothing is learnt of it."""
        self.datagram = datagram
        self.window = _FIRST_WINDOW * datagram
        self.rate = _HIGH * self.window / max(round_trip, 0.001)
        self.trip = round_trip
        """The shortest round trip of late, in seconds."""
        self._began = self._trip_at = now
        self._mode = "startup"
        self._rates: deque[float] = deque([0.0], maxlen=_ROUNDS)
        self._round_ends = self._delivered
        self._round_trip, self._long_rounds = float("inf"), 0
        self._lost = self._arrived = 0
        self._bound = float("inf")
        self._full, self._full_rounds = 0.0, 0
        self._phase, self._phase_at = 0, now
        self._probe_ends = 0.0

    @property
    def bandwidth(self) -> float:
        """Bytes a second that the path is known to deliver; 0: not known."""
        return max(self._rates)

    def burst(self, now: float, in_flight: int) -> Burst:
        """A burst leaves; ``in_flight`` without it."""
        if not in_flight:
            self._first_sent_at = self._delivered_at = now
        limited = self._delivered <= self._limited_until  # with what left last before there was nothing, too
        return Burst(now, self._delivered, self._delivered_at, self._first_sent_at, limited)

    def has_little(self, in_flight: int) -> None:
        """There is nothing to send although there could be."""
        self._limited_until = self._delivered + in_flight

    def on_lost(self, size: int, burst: Burst) -> None:
        """``size`` bytes of ``burst`` are taken for lost; negative: they were not."""
        if burst.sent_at >= self._began:
            self._lost += size

    def on_acked(self, now: float, size: int, burst: Burst, trip: float | None, in_flight: int) -> None:
        """``size`` bytes arrived, the latest of them in ``burst``; ``trip`` is a round trip just measured."""
        self._delivered += size
        self._delivered_at = now
        self._first_sent_at = burst.sent_at
        if burst.sent_at < self._began:  # it is of before, and so is its time
            return
        self._arrived += size
        if trip is not None:
            self._round_trip = min(self._round_trip, trip)
        self._sample(now, burst)
        if trip is not None and (trip <= self.trip or now - self._trip_at > _TRIP_LIFETIME):
            expired = trip > self.trip
            self.trip, self._trip_at = trip, now
            if expired and self._mode != "startup":
                self._mode, self._probe_ends = "probe trip", now + max(_PROBE_TRIP, trip)
        self._advance(now, in_flight)
        self._set()

    def _sample(self, now: float, burst: Burst) -> None:
        if burst.delivered >= self._round_ends:
            self._round_ends = self._delivered
            self._round_over(now)
        took = max(now - burst.delivered_at, burst.sent_at - burst.first_sent_at, self.trip, 1e-6)
        rate = (self._delivered - burst.delivered) / took
        if not burst.is_limited or rate > self.bandwidth:
            self._rates[-1] = max(self._rates[-1], rate)

    def _round_over(self, now: float) -> None:
        lost, arrived = max(self._lost, 0), self._arrived
        self._lost = self._arrived = 0
        too_much = lost > _MUCH_LOST * (lost + arrived) and lost > _LEAST_WINDOW * self.datagram
        if too_much:
            self._bound = max(0.7 * min(self._bound, self.window), _LEAST_WINDOW * self.datagram)
        else:
            self._bound *= 1.25
        if self._mode == "startup" and self._delivered > self._limited_until:
            if self.bandwidth >= 1.25 * self._full:
                self._full, self._full_rounds = self.bandwidth, 0
            else:
                self._full_rounds += 1
            if self._full_rounds >= 3 or (too_much and self._full):
                self._mode = "drain"
        if self._delivered > self._limited_until or self._rates[-1]:
            self._rates.append(0.0)
        self._look_for_detour(now)

    def _look_for_detour(self, now: float) -> None:
        """Rounds that took longer than what we sent can have to wait for: the way is a longer one, without a word.

        Else the window would stay that of the short way for ``_TRIP_LIFETIME``, the rate be taken for the path's, and
        the window shrink with it.
        """
        trip, self._round_trip = self._round_trip, float("inf")
        own = _HIGH * self.trip + self._room() / self.bandwidth if self.bandwidth else float("inf")
        self._long_rounds = self._long_rounds + 1 if own < trip < float("inf") else 0
        if self._long_rounds >= _LONG_ROUNDS:
            self.restart(now, self.datagram, trip)

    def _room(self) -> int:
        return _BURSTS * 2 * self.datagram + int(self.bandwidth * _TURNS)

    def _advance(self, now: float, in_flight: int) -> None:
        product = self.bandwidth * self.trip
        if (self._mode == "drain" and in_flight <= product) or (self._mode == "probe trip" and now >= self._probe_ends):
            self._mode, self._phase, self._phase_at = "steady", 2, now
        if self._mode == "steady":
            gain, spent = _CYCLE[self._phase], now - self._phase_at > self.trip
            if (gain == 1.0 and spent) or (gain > 1.0 and spent) or (gain < 1.0 and (spent or in_flight <= product)):
                self._phase, self._phase_at = (self._phase + 1) % len(_CYCLE), now

    def _set(self) -> None:
        bandwidth, mode = self.bandwidth, self._mode
        if not bandwidth:
            return
        product = bandwidth * self.trip
        room = self._room()
        least = _LEAST_WINDOW * self.datagram
        if mode == "startup":
            self.rate = max(self.rate, _HIGH * bandwidth)
            self.window = max(self.window, int(_HIGH * product) + room)
        else:
            gain = {"drain": 1 / _HIGH, "probe trip": 1.0}.get(mode, _CYCLE[self._phase])
            self.rate = max(gain * bandwidth, least / self.trip)
            self.window = int((0.5 if mode == "probe trip" else 2.0) * product) + room
        self.window = max(min(self.window, int(min(self._bound, 1 << 40))), least)
