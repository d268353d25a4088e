"""Times of the week: midnight, the nights the clock is changed, and when a schedule next turns."""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_ns.errors import ConfigFault
from cyfs_ns.schedule import Schedule, Window, parse_window

BERLIN = ZoneInfo("Europe/Berlin")  # 2026: forward on 29 March at 02:00, back on 25 October at 03:00
HOUR, DAY, WEEK = 3600, 86400, 604800


def at(zone: tzinfo, *fields: int, fold: int = 0) -> float:
    return datetime(*fields, tzinfo=zone, fold=fold).timestamp()  # type: ignore[arg-type,misc]


def schedule(*windows: tuple[str, str, str], zone: tzinfo = BERLIN) -> Schedule:
    return Schedule(tuple(parse_window(days.split(), start, end) for days, start, end in windows), zone)


def test_a_window_within_a_day():
    school = schedule(("mon-fri", "08:00", "13:00"))
    assert school.holds(at(BERLIN, 2026, 11, 20, 8, 0))
    assert not school.holds(at(BERLIN, 2026, 11, 20, 13, 0))
    assert not school.holds(at(BERLIN, 2026, 11, 21, 9, 0))  # a Saturday
    assert school.next_change(at(BERLIN, 2026, 11, 20, 8, 0)) == at(BERLIN, 2026, 11, 20, 13, 0)
    assert school.next_change(at(BERLIN, 2026, 11, 20, 13, 0)) == at(BERLIN, 2026, 11, 23, 8, 0)


def test_a_window_over_midnight_belongs_to_the_day_it_begins_on():
    night = schedule(("fri", "22:00", "06:00"))
    assert night.holds(at(BERLIN, 2026, 11, 21, 5, 59))
    assert not night.holds(at(BERLIN, 2026, 11, 20, 5, 59))
    assert night.next_change(at(BERLIN, 2026, 11, 20, 23, 0)) == at(BERLIN, 2026, 11, 21, 6, 0)


def test_windows_that_touch_are_one():
    both = schedule(("mon", "08:00", "12:00"), ("mon", "12:00", "24:00"), ("tue", "00:00", "01:00"))
    assert both.next_change(at(BERLIN, 2026, 11, 23, 9, 0)) == at(BERLIN, 2026, 11, 24, 1, 0)


def test_always_and_never_have_no_change():
    assert schedule(("daily", "00:00", "24:00")).next_change(at(BERLIN, 2026, 11, 23, 9, 0)) is None
    assert schedule(("daily", "07:00", "07:00")).holds(at(BERLIN, 2026, 11, 23, 6, 59))
    assert Schedule((), BERLIN).next_change(0.0) is None
    assert not Schedule((), BERLIN).holds(0.0)


def test_the_doubled_hour_is_within_twice():
    night = schedule(("sat", "23:00", "02:30"))
    assert night.holds(at(BERLIN, 2026, 10, 25, 2, 29, fold=0))
    assert night.holds(at(BERLIN, 2026, 10, 25, 2, 29, fold=1))
    assert not night.holds(at(BERLIN, 2026, 10, 25, 2, 31, fold=1))
    start, end = at(BERLIN, 2026, 10, 24, 23, 0), at(BERLIN, 2026, 10, 25, 2, 30, fold=1)
    assert end - start == 4.5 * HOUR
    assert night.next_change(start) == end


def test_the_missing_hour_moves_what_begins_in_it():
    early = schedule(("sun", "02:30", "05:00"))
    assert not early.holds(at(UTC, 2026, 3, 29, 0, 59))
    assert early.next_change(at(UTC, 2026, 3, 29, 0, 59)) == at(BERLIN, 2026, 3, 29, 3, 30)


@pytest.mark.parametrize(
    ("days", "start", "end", "window"),
    [
        ("mon", "0:00", "24:00", Window(frozenset({0}), 0, 1440)),
        ("Sat-Mon thursday", "21:30", "7:00", Window(frozenset({5, 6, 0, 3}), 1290, 420)),
        ("weekdays sun", "08:00", "09:00", Window(frozenset({0, 1, 2, 3, 4, 6}), 480, 540)),
        ("daily", "24:00", "01:00", Window(frozenset(range(7)), 0, 60)),
    ],
)
def test_windows_as_written(days: str, start: str, end: str, window: Window):
    assert parse_window(days.split(), start, end) == window


@pytest.mark.parametrize(
    ("days", "start", "end"),
    [
        ("", "1:00", "2:00"),
        ("someday", "1:00", "2:00"),
        ("mon", "25:00", "2:00"),
        ("mon", "1", "2:00"),
        ("-", "1:00", "2:00"),
    ],
)
def test_windows_that_are_none(days: str, start: str, end: str):
    with pytest.raises(ConfigFault):
        parse_window(days.split(), start, end)


WINDOWS = st.builds(
    Window,
    st.frozensets(st.integers(0, 6), min_size=1, max_size=3),
    st.integers(0, 1439),
    st.integers(0, 1440),
)


@settings(max_examples=100, deadline=None)
@given(
    windows=st.lists(WINDOWS, max_size=3),
    zone=st.sampled_from([UTC, BERLIN, ZoneInfo("Australia/Lord_Howe"), ZoneInfo("Pacific/Apia")]),
    now=st.integers(int(at(UTC, 2026, 3, 20)), int(at(UTC, 2026, 11, 10))),
)
def test_between_two_changes_nothing_changes(windows: list[Window], zone: tzinfo, now: int):
    plan = Schedule(tuple(windows), zone)
    state, change = plan.holds(now), plan.next_change(now)
    end = now + WEEK if change is None else min(change, now + WEEK)
    if change is not None:
        assert change > now
        assert plan.holds(change) is not state
    assert all(plan.holds(now + (end - now) * part / 8) is state for part in range(8))
