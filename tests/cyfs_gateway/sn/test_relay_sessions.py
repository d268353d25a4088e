"""The relay's table: who is joined, where they are, for how long, and how much they may move."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from relayplay import Stage

from cyfs_gateway.sn.relay import SECRET_LIFETIME, RelayBounds
from cyfs_gateway.sn.relaylease import GRANT, Lease, Renewed
from cyfs_gateway.sn.relaymetrics import relay_metrics
from cyfs_ns.errors import Refused
from cyfs_ns.metrics import render
from rtcp.nat.relaywire import CONTROL_SIZE, LOST_SIZE, Control, Kind, read_control, write_control


def test_what_one_side_says_goes_to_the_other_and_only_from_where_they_are():
    stage = Stage()
    _, near, far = stage.bound()
    assert stage.forward(near.wrap(b"hello", stage.now), b"a") == b"b"
    assert stage.forward(far.wrap(b"hello", stage.now), b"b") == b"a"
    assert stage.forward(near.wrap(b"hello", stage.now), b"c") is None
    assert stage.forward(b"\x08no-such-session", b"a") is None


def test_nothing_is_forwarded_to_a_side_that_is_not_bound():
    stage = Stage()
    near, far = stage.ends(stage.allocate())
    stage.bind(near, b"a")
    assert stage.forward(near.wrap(b"hello", stage.now), b"a") is None
    stage.bind(far, b"b")
    assert stage.forward(near.wrap(b"hello", stage.now), b"a") == b"b"


def test_who_roams_is_found_at_the_new_address_at_once_and_no_more_at_the_old_one():
    stage = Stage()
    _, near, far = stage.bound()
    stage.bind(near, b"a2")
    assert stage.forward(far.wrap(b"hello", stage.now), b"b") == b"a2"
    assert stage.forward(near.wrap(b"hello", stage.now), b"a2") == b"b"
    assert stage.forward(near.wrap(b"hello", stage.now), b"a") is None


def test_an_address_that_a_nat_gave_to_the_other_side_is_the_other_sides():
    stage = Stage()
    _, near, far = stage.bound()
    stage.bind(far, b"a")
    assert stage.forward(far.wrap(b"hello", stage.now), b"a") is None, "to itself"
    stage.bind(near, b"a2")
    assert stage.forward(far.wrap(b"hello", stage.now), b"a") == b"a2"


def test_data_from_an_unproven_address_is_answered_by_a_hint_that_is_no_larger():
    stage = Stage()
    allocation, near, _ = stage.bound()
    answer = stage.relay.hear(near.wrap(b"x", stage.now), b"moved", "door", stage.now)
    assert answer is not None
    assert read_control(answer) == Control(kind=Kind.LOST, relay_id=allocation.relay_id)
    assert len(answer) == LOST_SIZE
    assert stage.relay.hear(near.header, b"moved", "door", stage.now) is None, "the hint would be larger"
    assert stage.relay.counters.unproven == 2


def test_answers_are_few_however_much_is_replayed():
    stage = Stage()
    _, near, _ = stage.bound()
    datagram = near.wrap(b"x", stage.now)
    answers = [stage.relay.hear(datagram, b"moved", "door", stage.now) for _ in range(1000)]
    assert 0 < sum(answer is not None for answer in answers) <= 4
    stage.wait(1)
    assert stage.relay.hear(datagram, b"moved", "door", stage.now) is not None
    hello = stage.ends(stage.allocate())[0]
    hello.bind(stage.now)
    said = hello.data_to_send()
    answers = [stage.relay.hear(said, b"a", "door", stage.now) for _ in range(1000)]
    assert 0 < sum(answer is not None for answer in answers) <= 64


def test_who_sent_much_from_a_new_address_is_bound_there_in_the_same_moment():
    stage = Stage()
    _, near, far = stage.bound()
    for _ in range(1000):
        stage.relay.hear(near.wrap(b"x", stage.now), b"a2", "door", stage.now)
    stage.bind(near, b"a2")
    assert stage.forward(far.wrap(b"hello", stage.now), b"b") == b"a2"


class TestWhatWasRecorded:
    """An attacker on the path of one side heard everything it said, and can send from any address."""

    def test_the_bind_of_an_old_place_does_not_bring_the_side_back(self):
        stage = Stage()
        _, near, far = stage.bound()
        near.bind(stage.now)
        recorded = stage.converse(near, b"a2")
        stage.bind(near, b"a3")
        for datagram in recorded:
            assert stage.relay.hear(datagram, b"a2", "door", stage.now) is None
        assert stage.forward(far.wrap(b"hello", stage.now), b"b") == b"a3"

    def test_an_old_message_in_the_name_of_the_new_address_does_not_turn_the_counter_back(self):
        stage = Stage()
        near, far = stage.ends(stage.allocate())
        stage.bind(far, b"b")
        near.bind(stage.now)
        hello, bind = stage.converse(near, b"a")
        stage.bind(near, b"a2")
        for datagram, source in ((hello, b"a2"), (bind, b"a2"), (bind, b"a")):
            assert stage.relay.hear(datagram, source, "door", stage.now) is None
        assert stage.forward(far.wrap(b"hello", stage.now), b"b") == b"a2"

    def test_a_bind_is_good_for_the_address_its_cookie_went_to(self):
        stage = Stage()
        near, _ = stage.ends(stage.allocate())
        near.bind(stage.now)
        hello = near.data_to_send()
        challenge = stage.relay.hear(hello, b"a", "door", stage.now)
        near.receive(challenge, stage.now)
        bind = near.data_to_send()
        assert stage.relay.hear(bind, b"elsewhere", "door", stage.now) is None
        assert stage.relay.ways == {}
        assert stage.relay.hear(bind, b"a", "door", stage.now) is not None
        assert len(stage.relay.ways) == 1

    def test_a_cookie_dies_with_the_secret_after_the_one_it_came_from(self):
        for secrets, good in ((1, True), (2, False)):
            stage = Stage(bind=10 * SECRET_LIFETIME)
            near, _ = stage.ends(stage.allocate())
            near.bind(stage.now)
            near.receive(stage.relay.hear(near.data_to_send(), b"a", "door", stage.now), stage.now)
            stage.wait(secrets * SECRET_LIFETIME)
            assert (stage.relay.hear(near.data_to_send(), b"a", "door", stage.now) is not None) is good

    def test_what_the_relay_says_is_no_good_when_said_to_it(self):
        stage = Stage()
        near, _ = stage.ends(stage.allocate())
        near.bind(stage.now)
        hello = near.data_to_send()
        challenge = stage.relay.hear(hello, b"a", "door", stage.now)
        assert stage.relay.hear(challenge, b"a", "door", stage.now) is None
        near.receive(challenge, stage.now)
        bound = stage.relay.hear(near.data_to_send(), b"a", "door", stage.now)
        assert stage.relay.hear(bound, b"a", "door", stage.now) is None

    def test_one_side_cannot_speak_for_the_other(self):
        stage = Stage()
        allocation, *_ = stage.bound()
        forged = Control(kind=Kind.HELLO, relay_id=allocation.relay_id, side=1, counter=99)
        assert stage.relay.hear(write_control(forged, allocation.keys[0]), b"a", "door", stage.now) is None
        assert stage.relay.counters.forged == 1


def test_a_lost_bound_is_said_again():
    stage = Stage()
    near, _ = stage.ends(stage.allocate())
    near.bind(stage.now)
    near.receive(stage.relay.hear(near.data_to_send(), b"a", "door", stage.now), stage.now)
    bind = near.data_to_send()
    first = stage.relay.hear(bind, b"a", "door", stage.now)
    assert stage.relay.hear(bind, b"a", "door", stage.now) == first
    assert len(first) == CONTROL_SIZE


class TestTime:
    def test_a_session_that_is_not_bound_on_both_sides_ends_soon(self):
        stage = Stage()
        near, _ = stage.ends(stage.allocate())
        stage.bind(near, b"a")
        stage.wait(29)
        assert len(stage.relay) == 1
        stage.wait(2)
        assert len(stage.relay) == 0
        assert stage.relay.ways == {}
        assert [each.why for each in stage.ended] == ["never bound"]

    def test_a_quiet_session_ends_and_one_in_use_does_not(self):
        stage = Stage()
        _, near, _ = stage.bound()
        stage.bound("berta")
        for _ in range(10):
            stage.wait(100)
            assert stage.forward(near.wrap(b"x", stage.now), b"a") == b"b"
        assert [(each.account, each.why) for each in stage.ended] == [("berta", "idle")]
        stage.wait(301)
        assert [each.account for each in stage.ended] == ["berta", "anna"]

    def test_keep_alives_count_as_use(self):
        stage = Stage()
        _, near, _ = stage.bound()
        near.in_use = True
        for _ in range(40):
            stage.wait(25)
            near.handle_timeout(stage.now)
            assert len(stage.converse(near, b"a")) == 1
        assert len(stage.relay) == 1

    def test_no_session_outlives_its_time_whatever_it_does(self):
        stage = Stage()
        allocation = stage.allocate(lifetime=60)
        near, far = stage.ends(allocation)
        stage.bind(near, b"a")
        stage.bind(far, b"b")
        stage.wait(59)
        assert stage.forward(near.wrap(b"x", stage.now), b"a") == b"b"
        stage.wait(1)
        assert stage.forward(near.wrap(b"x", stage.now), b"a") is None
        assert [each.why for each in stage.ended] == ["its time was over"]
        assert stage.allocate(lifetime=1e9).until - stage.now == RelayBounds().lifetime

    def test_a_crowd_that_is_over_ends_in_turns(self):
        stage = Stage(of_account=2000)
        for _ in range(2000):
            stage.allocate()
        stage.now += 1000
        left = [2000]
        while stage.relay.next_deadline() <= stage.now:
            stage.relay.handle_timeout(bytes(32), stage.now)
            left.append(len(stage.relay))
        assert left[-1] == 0
        assert max(before - after for before, after in itertools.pairwise(left)) <= 512

    def test_who_opens_and_ends_leaves_nothing_behind(self):
        stage = Stage()
        for _ in range(20_000):
            stage.relay.end(stage.allocate().relay_id, "asked")
        assert len(stage.relay._due) < 3000
        stage.bound()
        stage.wait(1000)
        assert stage.ended[-1].why == "idle"


class TestHowMuch:
    def test_bounds_of_sessions_are_for_all_and_for_each_account(self):
        stage = Stage(sessions=5, of_account=2)
        first = stage.allocate("anna")
        stage.allocate("anna")
        with pytest.raises(Refused, match="account"):
            stage.allocate("anna")
        for account in ("berta", "carla", "dora"):
            stage.allocate(account)
        with pytest.raises(Refused, match="relay holds"):
            stage.allocate("emma")
        stage.relay.end(first.relay_id, "asked")
        stage.relay.end(first.relay_id, "asked again")
        stage.allocate("anna")

    def test_grants_are_asked_for_rarely_and_what_is_left_is_given_back(self):
        stage = Stage(grants=2 * GRANT)
        allocation, near, _ = stage.bound()
        datagram = near.wrap(bytes(1192), stage.now)
        passed = sum(stage.forward(datagram, b"a") == b"b" for _ in range(1700))
        assert len(stage.asked) == 2
        stage.relay.end(allocation.relay_id, "asked")
        assert passed * 1200 + stage.ended[0].unused == 2 * GRANT

    def test_an_account_without_grants_is_refused_and_asked_about_seldom(self):
        stage = Stage(grants=0)
        _, near, _ = stage.bound()
        datagram = near.wrap(b"x", stage.now)
        for _ in range(100):
            assert stage.forward(datagram, b"a") is None
        assert len(stage.asked) == 1
        assert stage.relay.counters.refused == 100
        stage.grants = GRANT
        stage.wait(0.1)
        assert stage.forward(datagram, b"a") == b"b"

    def test_a_slowed_account_goes_on_slowly(self):
        stage = Stage()
        _, near, _ = stage.bound()
        _, other, _ = stage.bound("berta")
        stage.relay.slow("anna", 10_000)
        datagram = near.wrap(bytes(992), stage.now)
        while stage.forward(datagram, b"a"):
            pass
        passed = 0
        for _ in range(600):
            stage.wait(0.1)
            passed += sum(stage.forward(datagram, b"a") is not None for _ in range(5))
        assert passed == pytest.approx(600, abs=2)
        assert stage.relay.counters.slowed > 0
        assert stage.forward(other.wrap(b"x", stage.now), b"a") == b"b"

    def test_no_session_is_faster_than_the_bound(self):
        stage = Stage(rate=1_000_000)
        allocation = stage.allocate(rate=1 << 40)
        session = stage.relay._sessions[allocation.relay_id]
        assert session.lease.rate == 1_000_000

    def test_all_sessions_of_an_account_end_at_once(self):
        stage = Stage()
        stage.bound("anna")
        stage.bound("berta")
        stage.relay.end_account("anna", "revoked")
        assert [(each.account, each.why) for each in stage.ended] == [("anna", "revoked")]
        assert len(stage.relay) == 1

    @given(
        rate=st.integers(1, 1 << 40),
        grants=st.integers(0, 20),
        steps=st.lists(st.tuples(st.integers(8, 65_535), st.floats(0, 100)), max_size=100),
    )
    @settings(max_examples=200, deadline=None)
    def test_a_lease_gives_what_was_granted_and_no_faster_than_its_rate(self, rate, grants, steps):
        lease, now, granted, passed = Lease(rate, 0.0), 0.0, 0, 0

        def take(octets):
            nonlocal granted
            if granted == grants * GRANT:
                return False
            granted += octets
            return True

        burst = max(256 << 10, rate // 4)
        for octets, pause in steps:
            now += pause
            before = granted
            if lease.left >= octets or lease.renew(octets, now, take) is Renewed.GIVEN:
                lease.left -= octets
                passed += octets
            assert granted - before <= GRANT
            assert lease.left >= 0
            assert passed + lease.unused == granted <= grants * GRANT
            assert passed + lease.left <= burst + now * rate * 1.000001 + 1


def test_what_prometheus_is_told():
    stage = Stage()
    _, near, _ = stage.bound()
    stage.relay.hear(near.wrap(b"x", stage.now), b"moved", "door", stage.now)
    told = render(relay_metrics(stage.relay.counters, len(stage.relay)))
    assert "cyfs_sn_relay_sessions 1\n" in told
    assert "cyfs_sn_relay_binds_total 2\n" in told
    assert 'cyfs_sn_relay_dropped_total{why="unproven"} 1\n' in told


_CROWD = """
import os, resource
from relayplay import Stage
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
stage = Stage(of_account=1000)
stage.bound("first")
before = resident()
for number in range(10_000):
    allocation = stage.allocate(f"account {number % 100}")
    for side, end in enumerate(stage.ends(allocation)):
        stage.bind(end, number.to_bytes(27) + bytes((side,)))
del allocation, end
print(len(stage.relay), resident() - before)
"""


def test_ten_thousand_idle_sessions_are_small():
    done = subprocess.run(
        [sys.executable, "-c", _CROWD],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    sessions, grown = map(int, done.stdout.split())
    assert sessions == 10_001
    assert grown < 10_000 * 2048


def test_what_others_say_in_the_name_of_a_session_is_charged_to_nobody():
    stage = Stage()
    _, near, far = stage.bound()
    real = [(near.wrap(b"hello", stage.now), b"a"), (far.wrap(bytes(500), stage.now), b"b")]
    for datagram, source in real:
        assert stage.forward(datagram, source) is not None
    large = near.wrap(bytes(1200), stage.now)
    for number in range(1000):
        for source in (b"stranger", b"from everywhere %d" % number):
            assert stage.forward(large, source) is None
            stage.relay.hear(large, source, "door", stage.now)
    stage.relay.end_account("anna", "over")
    (ended,) = stage.ended
    assert sum(stage.asked) - ended.unused == sum(len(datagram) for datagram, _ in real), "all else is given back"
