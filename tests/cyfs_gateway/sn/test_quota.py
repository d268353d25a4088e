"""Grants: what they promise, what a hundred who ask at once can get, and how an account is slowed and refused."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from cyfs_gateway.sn.quota import (
    LARGEST,
    LASTING,
    SMALLEST,
    Allowance,
    Denied,
    Grant,
    Later,
    Quota,
    Spent,
    read_quota,
)
from cyfs_ns.errors import BadWire, Misuse

MB = 1 << 20


def allowance(spent: int = 0, **quota: int) -> Allowance:
    return Allowance(Quota(**quota), Spent(spent), 0.0)


def granted(answer: object) -> Grant:
    assert isinstance(answer, Grant), answer
    return answer


def test_without_a_bound_a_grant_is_as_large_as_grants_are():
    grant = granted(allowance().ask(5.0))
    assert (grant.bytes, grant.until, grant.slowed) == (LARGEST, 5.0 + LASTING, False)


def test_a_hundred_who_ask_at_once_get_no_more_than_there_is():
    account = allowance(most_bytes=10 * MB)
    answers = [account.ask(0.0) for _ in range(100)]
    grants = [answer for answer in answers if isinstance(answer, Grant)]
    assert sum(grant.bytes for grant in grants) == 10 * MB
    assert all(isinstance(answer, Later) for answer in answers[len(grants) :])
    for grant in grants:
        account.settle(grant, grant.bytes, 1.0)
    assert account.spent.bytes == 10 * MB
    assert isinstance(account.ask(2.0), Denied) and "used up" in account.open()


def test_who_is_charged_afterwards_waits_until_the_pace_has_caught_up():
    account = allowance(rate=100_000)
    assert account.charge(200_000, 1.0, 10.0) is None, "what a full bucket holds"
    over = account.charge(300_000, 1.0, 10.0)
    assert isinstance(over, Later)
    assert over.at == pytest.approx(13.0)
    assert isinstance(account.charge(0, 0.0, 12.9), Later)
    assert account.charge(0, 0.0, 13.1) is None
    assert account.spent == Spent(500_000, 2.0)


def test_who_is_charged_afterwards_is_slowed_and_then_refused():
    account = allowance(slow_bytes=MB, most_bytes=2 * MB, slow_rate=16_384)
    assert account.charge(MB - 1, 0.0, 0.0) is None
    assert account.charge(1, 0.0, 1.0) is None
    assert isinstance(account.charge(100_000, 0.0, 1.0), Later), "at the slow rate by now"
    assert isinstance(account.charge(MB, 0.0, 1.0), Denied)
    account.new_month(Spent())
    account.change(Quota(), 2.0)
    assert account.charge(10 * MB, 0.0, 2.0) is None
    timed = allowance(most_seconds=10)
    assert timed.charge(0, 9.0, 0.0) is None
    assert isinstance(timed.charge(0, 1.0, 1.0), Denied)


def test_a_debt_is_no_idle_account():
    account = allowance(rate=100_000)
    account.charge(400_000, 0.0, 0.0)
    assert not account.is_idle(3.0)
    assert account.is_idle(60.0)


def test_what_a_holder_did_not_use_goes_to_others():
    account = allowance(most_bytes=LARGEST)
    first = granted(account.ask(0.0))
    assert isinstance(later := account.ask(0.0), Later) and later.at > 0.0
    account.settle(first, 1000, 1.0)
    assert granted(account.ask(1.0)).bytes == LARGEST - 1000


def test_a_holder_that_never_comes_back_loses_its_promise():
    account = allowance(most_bytes=LARGEST)
    lost = granted(account.ask(0.0))
    assert isinstance(account.ask(LASTING - 0.1), Later)
    assert granted(account.ask(LASTING)).bytes == LARGEST
    account.settle(lost, 500, LASTING + 1)
    assert account.spent.bytes == 500


def test_overshooting_by_the_batch_in_hand_is_counted():
    account = allowance(most_bytes=MB)
    account.settle(granted(account.ask(0.0)), MB + 65_536, 1.0)
    assert account.spent.bytes == MB + 65_536
    assert isinstance(account.ask(1.0), Denied)


def test_a_grant_is_settled_once():
    account = allowance()
    grant = granted(account.ask(0.0))
    account.settle(grant, 10, 0.0)
    with pytest.raises(Misuse):
        account.settle(grant, 10, 0.0)
    with pytest.raises(Misuse):
        account.settle(granted(account.ask(0.0)), -1, 0.0)


def test_first_slowed_then_refused():
    account = allowance(slow_bytes=MB, most_bytes=2 * MB, slow_rate=100_000)
    account.settle(granted(account.ask(0.0)), MB, 0.0)
    assert account.slowed and not account.denied
    later = account.ask(0.0)
    assert isinstance(later, Later) and "first mark" in later.why
    slow = granted(account.ask(later.at))
    assert slow.slowed and slow.bytes <= 100_000
    account.settle(slow, slow.bytes, later.at)
    account.settle(granted(account.ask(100.0)), 2 * MB, 100.0)
    assert isinstance(account.ask(200.0), Denied)


def test_the_time_of_all_streams_is_counted_and_bounded():
    account = allowance(slow_seconds=10, most_seconds=20)
    one, two = granted(account.ask(0.0)), granted(account.ask(0.0))
    account.settle(one, 0, 6.0)
    account.settle(two, 0, 6.0)
    assert account.spent.seconds == 12.0 and account.slowed
    account.settle(granted(account.ask(20.0)), 0, 28.0)
    assert isinstance(denied := account.ask(30.0), Denied) and "seconds" in denied.why


def test_a_pace_is_kept_whoever_asks():
    account = allowance(rate=MB)
    carried, now = 0, 0.0
    while now < 20.0:
        answer = account.ask(now)
        if isinstance(answer, Later):
            assert now < answer.at <= now + 1.0
            now = answer.at
        else:
            carried += granted(answer).bytes
            account.settle(granted(answer), granted(answer).bytes, now)
    assert 20 * MB <= carried <= 22 * MB + SMALLEST


def test_one_stream_does_not_dry_the_bucket_out_under_the_others():
    account = allowance(rate=4 * MB)
    sizes = [granted(account.ask(0.0)).bytes for _ in range(4)]
    assert sizes == [2 * MB] * 4


def test_so_many_streams_and_no_more():
    account = allowance(streams=2)
    assert [account.open() for _ in range(2)] == ["", ""]
    assert "2 streams" in account.open()
    account.close()
    assert account.open() == ""
    account.close(), account.close()
    with pytest.raises(Misuse):
        account.close()


def test_a_new_month_begins_with_nothing_and_a_raised_quota_counts_at_once():
    account = allowance(MB, most_bytes=MB)
    assert isinstance(account.ask(0.0), Denied)
    account.change(Quota(most_bytes=3 * MB), 0.0)
    assert granted(account.ask(0.0)).bytes == 2 * MB
    account.new_month(Spent())
    assert granted(account.ask(0.0)).bytes == MB


def test_an_allowance_that_is_idle_can_be_forgotten_without_a_gift():
    account = allowance(rate=MB)
    assert account.is_idle(0.0)
    grant = granted(account.ask(0.0))
    assert not account.is_idle(0.0)
    account.settle(grant, grant.bytes, 0.0)
    assert not account.is_idle(0.1) and account.is_idle(3.0)


@pytest.mark.parametrize(
    "bad", [{"bytes": 1}, {"rate": -1}, {"rate": 0}, {"streams": True}, {"names": "1"}, {"rate": 1.5}]
)
def test_a_quota_that_says_nothing_sensible_is_refused(bad: dict):
    with pytest.raises(BadWire):
        read_quota(bad)


COUNTS = st.none() | st.integers(1, 1 << 50)


@settings(max_examples=100)
@given(st.builds(Quota, slow_bytes=COUNTS, most_bytes=COUNTS, most_seconds=COUNTS, rate=COUNTS, streams=COUNTS))
def test_a_quota_is_read_as_it_was_written(quota: Quota):
    assert read_quota(quota.claims()) == quota


class AnyOrder(RuleBasedStateMachine):
    """Holders that ask, use, overshoot, vanish and come back, against the sum they can reach together."""

    MOST, OVER = 40 * MB, 65_536

    def __init__(self) -> None:
        super().__init__()
        self.account = Allowance(Quota(most_bytes=self.MOST, rate=8 * MB), Spent(), 0.0)
        self.now = self.used = self.beyond = self.late = 0.0
        self.open: set[Grant] = set()

    grants = Bundle("grants")

    @rule(target=grants, wanted=st.integers(1, LARGEST))
    def ask(self, wanted: int):
        answer = self.account.ask(self.now, wanted)
        if not isinstance(answer, Grant):
            assert isinstance(answer, Denied) or self.now < answer.at < math.inf
            return None
        self.open.add(answer)
        return answer

    @rule(grant=consumes(grants), share=st.floats(0, 1), over=st.integers(0, OVER))
    def settle(self, grant: Grant | None, share: float, over: int):
        if grant is None:
            return
        used = grant.bytes + over if share == 1.0 else int(grant.bytes * share)
        if grant.until <= self.now:
            self.late += used
        self.beyond += max(0, used - grant.bytes)
        self.account.settle(grant, used, self.now)
        self.open.discard(grant)
        self.used += used

    @rule(seconds=st.floats(0.01, 40))
    def wait(self, seconds: float):
        self.now += seconds

    @invariant()
    def nobody_overspends(self):
        promised = sum(grant.bytes for grant in self.open if grant.until > self.now)
        assert self.account.spent.bytes == self.used
        assert self.used + promised <= self.MOST + self.beyond + self.late

    @invariant()
    def the_pace_is_kept(self):
        assert self.used <= 16 * MB + 8 * MB * self.now + self.beyond


AnyOrder.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestAnyOrder = AnyOrder.TestCase
