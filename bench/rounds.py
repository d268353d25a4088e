"""Which rounds of a race count, and when one more turn is worth taking.

A virtual machine loses its processors to its neighbours for seconds at a time, and a round in which that happened tells
of them.  So each round notes how much processor time went to others: programs outside the race, and the hypervisor
(steal).  A round in which that was no more than ``DISTURBED`` is calm.  While somebody lacks calm rounds, everybody
goes round again, up to twice the turns that were planned and as long as the allowance lasts; then the calm rounds
count and the others do not.  Where there are too few, the calmest count, and the row says so.

What was reached in a round takes no part in any of this: a round is kept or dropped by what others did alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

DISTURBED = 0.1
"""CPUs' worth of time for others, above which a round is disturbed."""
MOST = 2
"""Turns at most, times those planned."""
_SHARE = 0.5
"""Time for turns that nobody planned, times what the planned ones took."""


class Raced(Protocol):
    """What is asked of a figure here."""

    strangers: list[float]
    failed: str


def counted(strangers: Sequence[float], planned: int) -> list[int]:
    """Indices of the rounds that count: all that were calm, or the ``planned`` calmest if those are more."""
    calm = [turn for turn, others in enumerate(strangers) if others <= DISTURBED]
    if len(calm) >= planned:
        return calm
    return sorted(sorted(range(len(strangers)), key=strangers.__getitem__)[:planned])


def another(of_all: Sequence[Sequence[float]], planned: int, taken: int) -> bool:
    """Whether a turn more should follow ``taken`` ones; ``of_all`` are the strangers of each contestant's rounds."""
    if taken < planned:
        return True
    return taken < MOST * planned and any(
        sum(others <= DISTURBED for others in strangers) < planned for strangers in of_all
    )


@dataclass(slots=True)
class Allowance:
    """Hands out turns; what the planned ones earn may go into more of them, in this race or one that comes later."""

    clock: Callable[[], float]
    """Seconds, from anywhere."""
    left: float = 0.0

    def turns(self, planned: int, figures: Callable[[], Sequence[Raced]]) -> Iterator[int]:
        """Number each turn of a race: 0 to warm up, then those that are measured."""
        yield 0
        taken, took = 0, 0.0
        while another([each.strangers for each in figures() if not each.failed], planned, taken):
            if taken >= planned and took > self.left:
                return
            began = self.clock()
            taken += 1
            yield taken
            took = self.clock() - began
            self.left += took * _SHARE if taken <= planned else -took
