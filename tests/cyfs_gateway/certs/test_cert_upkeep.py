"""When certificates are ordered: lifetimes, failures and clocks in a millisecond."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import pytest
from certmaking import DAY, bundle
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_gateway.certs.problems import judged
from cyfs_gateway.certs.upkeep import (
    CertFault,
    Trouble,
    Whose,
    after,
    next_attempt,
    renewal_time,
    state_of,
    too_old_when_new,
    trouble_of,
)

NOW = 1.8e9
HELD = bundle(NOW, NOW + 90 * DAY)


def test_renewal_comes_in_the_last_third_each_at_its_own_moment() -> None:
    moments = [renewal_time(replace(HELD, spread=spread)) for spread in (0.0, 0.5, 1.0)]
    assert moments == [NOW + 60 * DAY, NOW + 61.5 * DAY, NOW + 63 * DAY]
    assert renewal_time(bundle(NOW, NOW + 6 * DAY, spread=0.0)) == NOW + 4 * DAY


def test_the_authority_may_say_when_even_now_but_not_too_late() -> None:
    assert renewal_time(HELD, NOW + 5) == NOW + 5
    assert renewal_time(HELD, NOW + 89.9 * DAY) == NOW + 85.5 * DAY


@pytest.mark.parametrize(
    ("days", "state"), [(-1, "not yet"), (0, "good"), (61, "good"), (62, "due"), (89, "due"), (90, "expired")]
)
def test_states_follow_the_clock(days: float, state: str) -> None:
    assert state_of(HELD, NOW + days * DAY) == state


def test_what_is_missing_is_ordered_at_once_and_what_failed_waits() -> None:
    assert state_of(None, NOW) == "missing"
    assert next_attempt(None, None, NOW) <= NOW
    trouble = after(CertFault("network", "gone"), None, NOW, 0.5)
    assert next_attempt(None, trouble, NOW) == NOW + 60
    assert next_attempt(HELD, trouble, NOW) == renewal_time(HELD)
    late = NOW + 80 * DAY
    assert next_attempt(HELD, after(CertFault("proof", "no"), None, late, 0.5), late) == late + 900


@pytest.mark.parametrize(
    ("whose", "first", "last"),
    [
        ("network", 60, 3600),
        ("dns", 15, 3600),
        ("disk", 60, 3600),
        ("authority", 300, 7200),
        ("proof", 900, 86_400),
        ("limit", 3600, DAY),
    ],
)
def test_waits_double_up_to_what_fits_the_fault(whose: Whose, first: float, last: float) -> None:
    trouble, waits = None, []
    for _ in range(40):
        trouble = after(CertFault(whose, "no"), trouble, NOW, 0.5)
        waits.append(trouble.next_try - NOW)
    assert waits[:2] == [first, min(2 * first, last)]
    assert waits[-1] == last
    assert trouble is not None and trouble.since == NOW and trouble.failures == 40


def test_many_homes_do_not_come_back_in_one_second() -> None:
    waits = {round(after(CertFault("network", "gone"), None, NOW, die / 50).next_try - NOW) for die in range(50)}
    assert min(waits) == 45 and max(waits) >= 74 and len(waits) > 25


def test_a_server_that_is_down_for_a_day_is_asked_some_thirty_times_and_missed_for_an_hour_at_most() -> None:
    now, trouble, asked = NOW, None, 0
    while now < NOW + DAY:
        trouble = after(CertFault("network", "gone"), trouble, now, 1.0)
        assert trouble.next_try - now <= 1.25 * 3600
        now, asked = trouble.next_try, asked + 1
    assert 20 <= asked <= 40


def test_an_authority_is_left_alone_for_as_long_as_it_says_but_not_for_ever() -> None:
    said = after(CertFault("limit", "too many", wait=50_000), None, NOW, 0.5)
    assert said.next_try == NOW + 50_000
    assert after(CertFault("limit", "too many", wait=1e9), None, NOW, 0.5).next_try == NOW + 7 * DAY


def test_a_clock_that_goes_back_years_does_not_keep_an_attempt_waiting_for_years() -> None:
    trouble = after(CertFault("network", "gone"), None, NOW + 3000 * DAY, 0.5)
    assert next_attempt(None, trouble, NOW) == NOW + 7 * DAY


def test_what_is_old_when_it_comes_is_blamed_on_the_clock() -> None:
    assert too_old_when_new(HELD, NOW) is None
    fault = too_old_when_new(HELD, NOW + 400 * DAY)
    assert fault is not None and fault.whose == "clock"
    assert after(fault, None, NOW, 0.5).next_try >= NOW + 3600


@pytest.mark.parametrize(
    ("problem", "whose"),
    [
        ("urn:ietf:params:acme:error:rateLimited", "limit"),
        ("urn:ietf:params:acme:error:unauthorized", "proof"),
        ("urn:ietf:params:acme:error:caa", "proof"),
        ("urn:ietf:params:acme:error:externalAccountRequired", "settings"),
        ("urn:ietf:params:acme:error:serverInternal", "authority"),
        ("about:blank", "authority"),
        ("", "authority"),
    ],
)
def test_refusals_are_judged_by_who_can_mend_them(problem: str, whose: str) -> None:
    fault = judged(problem, "because\x1b[2J", name="me.example", wait=7)
    assert fault.whose == whose and fault.wait == 7
    assert "me.example: because" in str(fault) and "\x1b" not in str(fault)
    assert fault.advice


@settings(max_examples=100)
@given(
    st.builds(
        Trouble,
        failures=st.integers(1, 1000),
        since=st.floats(0, 1e10),
        next_try=st.floats(0, 1e10),
        whose=st.sampled_from(["network", "limit", "disk"]),
        said=st.text(max_size=600),
    )
)
def test_trouble_is_remembered_as_it_was(trouble: Trouble) -> None:
    assert trouble_of(json.loads(json.dumps(asdict(trouble)))) == trouble


_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.dictionaries(
        st.sampled_from(["failures", "since", "next_try", "whose", "said"]), inner, max_size=5
    ),
    max_leaves=6,
)


@settings(max_examples=200)
@given(_JSON)
def test_rubbish_on_disk_is_forgotten(rubbish: Any) -> None:
    found = trouble_of(rubbish)
    assert found is None or after(CertFault("network", ""), found, NOW, 0.5).next_try > NOW
