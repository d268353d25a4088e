"""Rounds that others disturbed are taken again, within bounds, and what was reached has no say in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from bench.rounds import DISTURBED, Allowance, another, counted


@dataclass
class Row:
    strangers: list[float] = field(default_factory=list)
    failed: str = ""


@pytest.mark.parametrize(
    ("strangers", "planned", "counting"),
    [
        ([0.0, 0.1, 0.05], 3, [0, 1, 2]),
        ([0.0, 0.9, 0.05, 0.02], 3, [0, 2, 3]),
        ([0.0, 0.0, 0.0, 0.0], 3, [0, 1, 2, 3]),  # somebody else lacked a calm round: ours all count
        ([0.5, 0.9, 0.2, 0.05], 3, [0, 2, 3]),
        ([0.5, 0.9], 3, [0, 1]),  # it failed half way
        ([], 3, []),
    ],
)
def test_calm_rounds_count_or_the_calmest(strangers: list[float], planned: int, counting: list[int]) -> None:
    assert counted(strangers, planned) == counting


@pytest.mark.parametrize(
    ("of_all", "taken", "goes_on"),
    [
        ([[0.0], [0.0]], 1, True),
        ([[0.0] * 3, [0.0] * 3], 3, False),
        ([[0.0] * 3, [0.0, 0.0, DISTURBED + 0.01]], 3, True),
        ([[0.0] * 4, [0.0, 0.0, 0.5, 0.0]], 4, False),
        ([[0.0] * 6, [0.5] * 6], 6, False),
        ([], 3, False),
    ],
)
def test_everybody_goes_on_while_one_lacks_calm_rounds(
    of_all: Sequence[Sequence[float]], taken: int, goes_on: bool
) -> None:
    assert another(of_all, 3, taken) is goes_on


def race(allowance: Allowance, planned: int, disturbed: set[int], now: list[float], *, seconds: float = 1) -> int:
    """How many turns were taken, with two contestants of whom one is disturbed in ``disturbed`` turns."""
    rows = [Row(), Row()]
    turn = 0
    for turn in allowance.turns(planned, lambda: rows):
        if turn:
            rows[0].strangers.append(0.0)
            rows[1].strangers.append(0.7 if turn in disturbed else 0.0)
            now[0] += seconds
    return turn


def test_extra_turns_take_at_most_half_the_time_of_planned_ones() -> None:
    now = [0.0]
    allowance = Allowance(lambda: now[0])
    always = set(range(1, 100))
    assert race(allowance, 4, {2}, now) == 5
    assert race(allowance, 4, always, now) == 4 + 3  # one second was left over
    assert race(allowance, 4, always, now) == 4 + 2
    assert race(allowance, 8, set(), now) == 8
    assert race(allowance, 4, always, now) == 8  # not more than twice the planned ones, though there is time for six
    assert now[0] == pytest.approx(5 + 7 + 6 + 8 + 8)


def test_one_who_failed_is_not_waited_for() -> None:
    rows = [Row([0.0, 0.0]), Row([0.9], failed="it ended")]
    assert [*Allowance(lambda: 0.0).turns(2, lambda: rows)] == [0, 1, 2]
