"""Order statistics and their picture."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from cyfs_ns.histogram import Axis, percentile, summary

times = st.lists(st.floats(0, 10), max_size=200)


@given(times, st.integers(0, 50))
def test_a_summary_is_in_order_and_made_of_what_was_measured(measured: list[float], lost: int) -> None:
    said = summary(measured, lost)
    assert said.count == len(measured) and 0 <= said.loss <= 1
    if measured:
        assert said.least <= said.median <= said.p90 <= said.p99
        assert {said.least, said.median, said.p90, said.p99} <= set(measured)
    else:
        assert math.isnan(said.median)


def test_percentiles_by_nearest_rank() -> None:
    ordered = [float(number) for number in range(1, 101)]
    assert [percentile(ordered, percent) for percent in (0, 50, 90, 99, 100)] == [1, 50, 90, 99, 100]
    assert summary([1.0], lost=3).loss == 0.75


@given(times, st.integers(1, 80))
def test_a_picture_has_its_width_and_shows_every_time(measured: list[float], width: int) -> None:
    bars = Axis.over(measured, width).bars(measured)
    assert len(bars) == width
    assert bool(bars.strip()) == bool(measured)
    assert len(Axis.over(measured, width).scale()) <= width


def test_the_axis_is_logarithmic_and_marked() -> None:
    axis = Axis(0.001, 0.1, 40)
    bars = axis.bars([0.001, 0.01, 0.01, 0.0999])
    assert [place for place, char in enumerate(bars) if char != " "] == [0, 20, 39]
    assert bars[20] == "█" and bars[0] == "▄"
    assert axis.scale().split() == ["1", "2", "5", "10", "20", "50"]
    assert axis.scale().index("10") == 20
