"""When whose clock is to be looked at: one sleeping task for all tunnels of a device.

A tunnel's next deadline moves with nearly every record, mostly to a later time.  So an alarm is never taken back: it
rings, its owner looks at the clock, finds that nothing is due, and asks for the next.  Only what is due earlier than
all that was asked for costs a new one.
"""

from __future__ import annotations

import heapq
import logging
from itertools import count
from typing import Protocol

import trio

log = logging.getLogger("cyfs.rtcp")


class Sleeper(Protocol):
    """Has deadlines.  ``alarms`` is a list that belongs to :class:`Alarms`, empty at first."""

    alarms: list[float]

    def ring(self) -> None:
        """Look at the clock; may come early."""


class Alarms:
    """All times are trio's."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Sleeper]] = []
        self._count = count()
        self._sleep: trio.CancelScope | None = None

    def ask(self, sleeper: Sleeper, when: float) -> None:
        """Let ``sleeper`` ring by ``when``."""
        alarms = sleeper.alarms
        if alarms and alarms[-1] <= when:
            return
        alarms.append(when)
        heapq.heappush(self._heap, (when, next(self._count), sleeper))
        if self._sleep is not None and when < self._sleep.deadline:
            self._sleep.deadline = when

    async def run(self) -> None:
        """Ring; until cancelled."""
        heap = self._heap
        while True:
            with trio.CancelScope(deadline=heap[0][0] if heap else float("inf")) as self._sleep:
                await trio.sleep_forever()
            self._sleep = None
            now = trio.current_time()
            while heap and heap[0][0] <= now:
                _, _, sleeper = heapq.heappop(heap)
                sleeper.alarms.pop()  # whoever asked last rings first
                try:
                    sleeper.ring()
                except Exception:
                    log.exception("a deadline of a tunnel failed")
