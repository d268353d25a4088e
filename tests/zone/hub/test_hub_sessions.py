"""Sessions that stand, patience, users and passwords: what verify_hub decides, without a store."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyfs_ns.errors import BadWire
from zone.hub.ledger import LONGEST, MOST_SESSIONS, Ledger, ended, opened, read_ledger, refreshed, upheld
from zone.hub.people import (
    LEAST_PASSWORD,
    MOST_PASSWORD,
    NOBODYS,
    check_password,
    new_lock,
    read_lock,
    read_settings,
)
from zone.hub.throttle import Throttle
from zone.hub.tokens import LIFE, SKEW, Type, Use

NOW = 1_800_000_000.0
DAY = 24 * 3600


def test_a_session_goes_on_as_long_as_it_is_refreshed():
    ledger = opened(Ledger(), "s", "photos", "user", NOW).ledger
    for day in range(29):
        step = refreshed(ledger, "s", day, NOW + day * DAY)
        assert not step.revoked and step.ledger.sessions["s"].generation == day + 1
        ledger = step.ledger
    step = refreshed(ledger, "s", 29, NOW + LONGEST)
    assert step.revoked == ("s",) and not step.ledger.sessions


def test_what_a_session_rests_on_is_no_more():
    ledger = opened(Ledger(), "s", "", "user", NOW).ledger
    ledger = opened(ledger, "t", "", "admin", NOW).ledger
    assert upheld(ledger, "admin").revoked == ("s",) and set(upheld(ledger, "admin").ledger.sessions) == {"t"}
    assert upheld(ledger, "").revoked == ("s", "t")


def test_one_that_is_refreshed_twice_ends():
    ledger = opened(Ledger(), "s", "", "user", NOW).ledger
    ledger = opened(ledger, "other", "", "user", NOW).ledger
    ledger = refreshed(ledger, "s", 0, NOW).ledger
    step = refreshed(ledger, "s", 0, NOW)
    assert step.revoked == ("s",) and set(step.ledger.sessions) == {"other"}
    # The thief and the robbed are told the same.
    assert refreshed(step.ledger, "s", 1, NOW) == (step.__class__(step.ledger))


def test_the_past_is_forgotten_when_no_token_of_it_is_good():
    ledger = opened(Ledger(), "old", "", "user", NOW).ledger
    dead = NOW + LIFE[Use.REFRESH] + LIFE[Use.SESSION] + SKEW
    assert set(opened(ledger, "new", "", "user", dead - 1).ledger.sessions) == {"old", "new"}
    step = opened(ledger, "new", "", "user", dead)
    assert set(step.ledger.sessions) == {"new"} and not step.revoked


def test_beyond_the_limit_the_one_of_longest_ago_ends_and_is_told():
    ledger = Ledger()
    for number in range(MOST_SESSIONS):
        ledger = opened(ledger, f"s{number}", "", "user", NOW + number).ledger
    step = opened(ledger, "more", "", "user", NOW)
    assert step.revoked == ("s0",) and "more" in step.ledger.sessions
    assert len(step.ledger.sessions) == MOST_SESSIONS and len(step.ledger.text()) < 32 * 1024


@given(st.lists(st.tuples(st.sampled_from("orex"), st.sampled_from("abc"), st.integers(0, 3), st.integers(0, DAY))))
def test_what_leaves_before_its_time_is_told(steps):
    """Nothing that may have a good token leaves in silence."""
    ledger, now = Ledger(), NOW
    for what, name, generation, passed in steps:
        now += passed
        before = ledger
        if what == "o":
            step = opened(ledger, f"{name}{now}", "", "user", now)
        elif what == "r":
            chosen = next((known for known in ledger.sessions if known.startswith(name)), name)
            step = refreshed(ledger, chosen, generation, now)
        else:
            step = ended(ledger, [known for known in ledger.sessions if known.startswith(name)])
        ledger = step.ledger
        assert read_ledger(ledger.text()) == ledger
        for gone in before.sessions.keys() - ledger.sessions.keys() - set(step.revoked):
            assert before.sessions[gone].until + LIFE[Use.SESSION] + SKEW <= now


@pytest.mark.parametrize("bad", ["", "[]", '{"s":1}', '{"s":{}}', '{"s":{"app":1,"began":1,"until":1,"generation":1}}'])
def test_no_ledger(bad):
    with pytest.raises(BadWire):
        read_ledger(bad)


# -- patience


def test_tries_come_back_with_time():
    throttle = Throttle(burst=3, seconds=10)
    assert [throttle.take("a", 0.0) for _ in range(3)] == [0.0, 0.0, 0.0]
    assert throttle.take("a", 0.0) == pytest.approx(10) and throttle.take("b", 0.0) == 0
    assert throttle.take("a", 4.0) == pytest.approx(6)
    assert throttle.take("a", 10.0) == 0 and throttle.take("a", 10.0) > 0
    assert [throttle.take("a", 1000.0) for _ in range(4)][:3] == [0, 0, 0]


def test_strangers_are_remembered_in_bounds():
    throttle = Throttle(burst=2, seconds=1000, most=8)
    assert [throttle.take("me", 0.0) for _ in range(3)] == [0, 0, 1000]
    # Who tries many names gets no more for that: those beyond the room have two tries together.
    assert [throttle.take(f"s{number}", 0.0) for number in range(100)].count(0) == 7 + 2
    assert throttle.take("me", 500.0) == 500
    assert throttle.take("me", 1000.0) == 0
    assert throttle.take("new", 1000.0) == 0 and throttle.take("new", 1000.0) == 1000
    # Those whose tries have all come back make room.
    assert [throttle.take(name, 2000.0) for name in ("a", "a", "a", "b")] == [0, 0, 1000, 0]
    assert throttle.take("me", 2000.0) == 0 and throttle.take("me", 2000.0) > 0


def test_those_who_are_too_many_are_not_taken_for_somebody():
    throttle = Throttle(burst=1, seconds=1000, most=2)
    assert [throttle.take(name, 0.0) for name in ("", "a", "b", "c")] == [0, 0, 0, 1000]


# -- people


def test_settings():
    found = read_settings('{"type":"admin","state":"suspended:holiday","is_local":true}')
    assert (found.type, found.state) == (Type.ADMIN, "suspended:holiday")


@pytest.mark.parametrize(
    "bad",
    [
        *["", "[]", "{}", '{"type":"user"}', '{"state":"active"}', '{"type":"kernel","state":"active"}'],
        *['{"type":"owner","state":"active"}', '{"type":"user","state":"Active"}', '{"type":"user","state":""}'],
        *['{"type":["user"],"state":"active"}', '{"type":"user","type":"root","state":"active"}'],
    ],
)
def test_nobody(bad):
    with pytest.raises(BadWire):
        read_settings(bad)


def test_a_password_opens_what_it_made_and_nothing_else():
    lock = new_lock("open sesame", b"s" * 16)
    assert read_lock(lock.text()) == lock
    assert lock.opens("open sesame") and not lock.opens("open Sesame") and not lock.opens("")
    assert "sesame" not in lock.text() + repr(lock)
    assert not NOBODYS.opens("open sesame") and NOBODYS.cost == lock.cost


def test_what_looks_the_same_is_the_same():
    lock = new_lock("cr\u00e8me br\u00fbl\u00e9e", b"s" * 16)
    assert lock.opens("cre\u0300me bru\u0302le\u0301e")
    assert not lock.opens("\ud800" * 9)


def test_a_text_that_is_no_password_is_not_worked_on():
    # To bring marks into their order takes the square of their number; strangers say how many.
    long = "a" + "\u0301\u0316" * MOST_PASSWORD
    assert not new_lock(long, b"s" * 16).opens(long)


def test_passwords_that_are_none():
    assert check_password("x" * LEAST_PASSWORD) and check_password("x" * MOST_PASSWORD)
    for bad in ("", "short", "x" * (MOST_PASSWORD + 1), "with a\nline", "nul\0nul\0nul"):
        with pytest.raises(BadWire):
            check_password(bad)


@pytest.mark.parametrize(
    "changed",
    [
        *[{"n": n} for n in (0, 1, 3, 1 << 30, "1", True)],
        *[{"r": 1 << 20}, {"p": 1 << 20}, {"salt": "AA"}, {"hash": "AA"}, {"hash": None}],
    ],
    ids=str,
)
def test_a_lock_that_would_cost_too_much_or_nothing(changed):
    said = json.loads(NOBODYS.text())
    said["scrypt"] |= changed
    with pytest.raises(BadWire):
        read_lock(json.dumps(said))
