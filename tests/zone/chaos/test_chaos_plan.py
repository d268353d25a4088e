"""Plans of faults leave a majority most of the time, come to an end, and bring every kind."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest

from tests.zone.chaos.faultplan import Fault, Kind, plan

NAMES = ("ood1", "ood2", "ood3")
SEEDS = range(40)


def without_majority(faults: Sequence[Fault]) -> float:
    """Seconds in which two machines or more are hurt."""
    times = sorted({time for fault in faults for time in (fault.at, fault.ends)})
    return sum(
        end - begin
        for begin, end in pairwise(times)
        if len({who for fault in faults if fault.at <= begin < fault.ends for who in fault.hurts}) > 1
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_a_plan(seed: int) -> None:
    for seconds in (300.0, 1800.0):
        faults = plan(seed, seconds, NAMES)
        assert {fault.kind for fault in faults} == set(Kind)
        assert max(fault.ends for fault in faults) + 4 <= seconds
        assert all(fault.at >= 1 and 0 < fault.lasts <= 12 for fault in faults)
        assert without_majority(faults) < seconds / 4
        assert {fault.who for fault in faults} == set(NAMES)
        for fault in faults:
            assert (fault.kind is Kind.CUT_CABLES) == bool(fault.cables)
            assert (fault.kind is Kind.JUMP) == bool(fault.by)


def test_the_same_seed_is_the_same_plan() -> None:
    assert plan(1, 300, NAMES) == plan(1, 300, NAMES) != plan(2, 300, NAMES)


def test_all_there_is_comes_sooner_or_later() -> None:
    faults = [fault for seed in SEEDS for fault in plan(seed, 1800, NAMES)]
    cut = {len(fault.cables) for fault in faults if fault.kind is Kind.CUT_CABLES}
    assert cut == {1, 2, 4, 6}, "one direction, one neighbour, or all; of one machine, or of all"
    assert any(fault.is_split for fault in faults)
    assert all(without_majority(plan(seed, 1800, NAMES)) > 0 for seed in range(3))
    assert {fault.by > 0 for fault in faults if fault.kind is Kind.JUMP} == {True, False}
    one_plan = plan(3, 1800, NAMES)
    assert any(
        one.kind is not other.kind and one.who == other.who and one.at < other.at < one.ends
        for one in one_plan
        for other in one_plan
    ), "a machine that is hit twice at once"
