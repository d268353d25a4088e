"""What is on its way, what arrived, and what must be taken for lost (RFC 9002 sections 5 and 6).

Losses are told by time alone, as in RACK (RFC 8985): that three datagrams overtook one, as happens where a path has two
links, is no sign of a loss yet, and to wait for a quarter of a round trip costs little.  What was taken for lost and is
acknowledged after all counts as what arrived, with its round trip, and makes us more patient for a while: where a way
became longer than our patience nothing else would ever be acknowledged.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from cyfs_ns.errors import BadWire
from rtcp.udp.bbr import Burst
from rtcp.udp.ranges import Ranges

GRAIN: Final = 0.001
ACK_DELAY: Final = 0.025
"""Seconds for which an ack may wait."""
_PATIENCE: Final = 1.25
_MOST_PATIENCE: Final = 3.0
_PATIENT_TRIPS: Final = 16
_MOST_DOUBTED: Final = 256
"""Datagrams that are looked for after they were taken for lost."""
_LONGEST: Final = 1.0
"""Seconds between two attempts to reach a peer that does not answer, so that it is found soon when it is back."""
_FIRST_TRIP: Final = 0.333


class Sent(NamedTuple):
    """A datagram that asks to be acknowledged: ``size`` on the wire, the bytes it had, and what else (``marks``)."""

    burst: Burst
    size: int
    offset: int
    length: int
    marks: int


@dataclass(slots=True)
class News:
    """What an ack tells.  ``trip`` is a round trip, the time the ack waited taken off; ``late`` what of that
    had been taken for lost."""

    acked: list[Sent] = field(default_factory=list)
    lost: list[Sent] = field(default_factory=list)
    trip: float | None = None
    late: list[Sent] = field(default_factory=list)


class Recovery:
    """Of one path at a time: ``moved`` when it is another."""

    def __init__(self, trip: float | None = None) -> None:
        self.in_flight = 0
        self.next_number = 0
        self.misses = 0
        """How often in a row nothing was heard in time."""
        self.smoothed, self._variation = (trip, trip / 2) if trip else (_FIRST_TRIP, _FIRST_TRIP / 2)
        self._is_measured = trip is not None
        self._latest = self.smoothed
        self._sent: dict[int, Sent] = {}
        self._doubted: dict[int, Sent] = {}
        self._doubted_numbers: list[int] = []
        self._patience, self._late_at = _PATIENCE, 0.0
        self._settled = Ranges()
        self._floor = 0
        self._highest = -1
        self._last_sent = 0.0
        self._loss_at: float | None = None

    @property
    def floor(self) -> int:
        """All below it are settled."""
        return self._floor

    def number(self) -> int:
        """For the next datagram."""
        number = self.next_number
        self.next_number += 1
        return number

    def on_sent(self, number: int, sent: Sent) -> None:
        self._sent[number] = sent
        self.in_flight += sent.size
        self._last_sent = sent.burst.sent_at

    def on_ack(self, ranges: tuple[tuple[int, int], ...], delay: float, now: float) -> News:
        """Raises ``BadWire`` when it speaks of what was never sent."""
        news, settled, sent = News(), self._settled, self._sent
        if ranges[0][1] > self.next_number:
            raise BadWire("an ack of what was never sent")
        highest = ranges[0][1] - 1
        for low, high in reversed(ranges):
            if self._doubted_numbers and high > self._doubted_numbers[0]:
                self._take_back(low, high, news, now, delay if high == highest + 1 else None)
            if high <= self._floor:
                continue
            for first, behind in settled.missing(max(low, self._floor), high):
                for number in range(first, behind):
                    record = sent.pop(number, None)
                    if record is not None:
                        news.acked.append(record)
                        self.in_flight -= record.size
                        if number == highest:
                            self._measure(now - record.burst.sent_at, delay)
                            news.trip = self._latest
                settled.add(first, behind)
        self._highest = max(self._highest, highest)
        if news.acked:
            self.misses = 0
        self.find_lost(now, news)
        return news

    def _doubt(self, number: int, record: Sent) -> None:
        """It is taken for lost, and may be late: with a way that became longer than our patience, all are."""
        if len(self._doubted) >= _MOST_DOUBTED:
            del self._doubted[self._doubted_numbers.pop(0)]
        self._doubted[number] = record
        insort(self._doubted_numbers, number)

    def _take_back(self, low: int, high: int, news: News, now: float, delay: float | None) -> None:
        """Of what was taken for lost, ``low`` up to ``high`` arrived; ``delay``: if the ack is of the last of them."""
        numbers = self._doubted_numbers
        first = behind = bisect_left(numbers, low)
        while behind < len(numbers) and numbers[behind] < high:
            record = self._doubted.pop(numbers[behind])
            news.acked.append(record)
            news.late.append(record)
            if delay is not None and numbers[behind] == high - 1:
                self._measure(now - record.burst.sent_at, delay)
                news.trip = self._latest
            behind += 1
        if first == behind:
            return
        del numbers[first:behind]
        if now - self._late_at > self.smoothed:
            self._patience = min(self._patience + 0.25, _MOST_PATIENCE)
            self._late_at = now

    def _measure(self, trip: float, delay: float) -> None:
        trip = max(trip, 1e-6)
        waited = min(delay, ACK_DELAY, max(0.0, trip - GRAIN))
        self._latest = trip = trip - waited if trip - waited > 0 else trip
        if not self._is_measured:
            self._is_measured = True
            self.smoothed, self._variation = trip, trip / 2
            return
        self._variation = 0.75 * self._variation + 0.25 * abs(self.smoothed - trip)
        self.smoothed = 0.875 * self.smoothed + 0.125 * trip

    def find_lost(self, now: float, news: News) -> None:
        """Move what is overdue to ``news.lost``: a later one arrived, and a quarter more than a round trip is over."""
        sent, settled = self._sent, self._settled
        if self._patience > _PATIENCE and now - self._late_at > _PATIENT_TRIPS * self.smoothed:
            self._patience = _PATIENCE
        patience = max(self._patience * max(self._latest, self.smoothed), GRAIN)
        self._loss_at = None
        for first, behind in settled.missing(self._floor, self._highest + 1):
            for number in range(first, behind):
                record = sent.get(number)
                if record is None:
                    continue
                due = record.burst.sent_at + patience
                if due <= now:
                    del sent[number]
                    self.in_flight -= record.size
                    settled.add(number, number + 1)
                    self._doubt(number, record)
                    news.lost.append(record)
                elif self._loss_at is None or due < self._loss_at:
                    self._loss_at = due
        floor = self._floor
        while floor < self.next_number and floor not in sent:
            floor += 1
        if floor != self._floor:
            self._floor = floor
            settled.forget_below(floor)

    def give_up(self, count: int) -> list[Sent]:
        """Take the oldest for lost, ``count`` at most: for what goes out although nothing was heard."""
        lost = []
        for number in list(self._sent)[:count]:
            record = self._sent.pop(number)
            self.in_flight -= record.size
            self._settled.add(number, number + 1)
            self._doubt(number, record)
            lost.append(record)
        return lost

    def moved(self, trip: float | None) -> list[Sent]:
        """The path is another: nothing is known of it but maybe a round trip, and what was on its way is lost."""
        lost = self.give_up(len(self._sent))
        self._doubted.clear()
        self._doubted_numbers.clear()
        self.smoothed, self._variation = (trip, trip / 2) if trip else (_FIRST_TRIP, _FIRST_TRIP / 2)
        self._is_measured, self._latest = trip is not None, self.smoothed
        self.misses = 0
        self._loss_at = None
        return lost

    @property
    def patience(self) -> float:
        """Seconds after which an answer is overdue (RFC 9002 section 6.2.1)."""
        return self.smoothed + max(4 * self._variation, GRAIN) + ACK_DELAY

    def next_deadline(self) -> float | None:
        if self._loss_at is not None:
            return self._loss_at
        if not self._sent:
            return None
        return self._last_sent + min(self.patience * float(1 << min(self.misses, 6)), max(_LONGEST, 2 * self.patience))

    def is_silent(self, now: float) -> bool:
        """Whether the deadline that passed is not about single losses."""
        deadline = self.next_deadline()
        return self._loss_at is None and deadline is not None and deadline <= now
