"""The race in a simulated day: ways that die, pause, wake, get lossy; and how many packets that costs."""

from __future__ import annotations

import heapq
import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtcp.nat.candidates import Kind, Transport
from rtcp.nat.punch import Verdict
from rtcp.nat.race import BUSY, HEARTBEAT, KEEPALIVE, MOST_WAYS, RETRY, SOON, TRUST, Ping, Race, Search, Use, Way

RELAY = Way("sn.example", Kind.RELAY)
LAN = Way("udp 192.168.1.7:5000", Kind.LAN)
PUNCHED = Way("udp 198.51.100.7:5000", Kind.OBSERVED)
OTHER = Way("udp [2001:db8::7]:5000", Kind.IPV6)
TCP = Way("tcp 198.51.100.7:5000", Kind.OBSERVED, Transport.TCP)


class Day:
    """A race, and a peer that answers over each way after its ``rtt``; None: it does not."""

    def __init__(self, *, keep: bool = False, seed: int = 1, start: float = 1000.0) -> None:
        self.race = Race(keep=keep)
        self.now = start
        self.rtt: dict[Way, float | None] = {}
        self.loss: dict[Way, float] = {}
        self.pings: list[tuple[float, Way]] = []
        self.uses: list[tuple[float, Use]] = []
        self.searches: list[tuple[float, str]] = []
        self._events: list[tuple[float, int, Way, float]] = []
        self._number = itertools.count()
        self._die = random.Random(seed)
        self.add(RELAY, 0.1)

    def add(self, way: Way, rtt: float | None) -> None:
        self.rtt[way] = rtt
        self.race.add(way, self.now)
        self._do()

    def say(self) -> None:
        """Data goes out, and is answered if the way in use lets it."""
        self.race.used(self.now)
        way = self.race.current
        rtt = self.rtt.get(way) if way else None
        if rtt is not None and self._die.random() >= self.loss.get(way, 0):
            heapq.heappush(self._events, (self.now + rtt, next(self._number), way, -1.0))
        self._do()

    def live(self, seconds: float, *, talk: float | None = None) -> None:
        """Time passes; with ``talk`` data goes out every so many seconds."""
        end = self.now + seconds
        words = [self.now + talk * n for n in range(int(seconds / talk) + 1)] if talk else []
        for moment in [*words, end]:
            self._until(moment)
            if moment < end:
                self.say()

    def _until(self, moment: float) -> None:
        for _ in range(100000):
            due = self.race.next_deadline()
            answer = self._events[0][0] if self._events else None
            first = min([at for at in (due, answer) if at is not None], default=moment + 1)
            if first > moment:
                self.now = moment
                return
            self.now = max(self.now, first)
            if answer == first:
                _, _, way, rtt = heapq.heappop(self._events)
                if rtt < 0:
                    self.race.heard(way, self.now)
                else:
                    self.race.pong(way, rtt, self.now)
            else:
                self.race.handle_timeout(self.now)
            self._do()
        raise AssertionError("it never rests")

    def _do(self) -> None:
        while action := self.race.next_action():
            if isinstance(action, Ping):
                self.pings.append((self.now, action.way))
                rtt = self.rtt.get(action.way)
                if rtt is not None and self._die.random() >= self.loss.get(action.way, 0):
                    heapq.heappush(self._events, (self.now + rtt, next(self._number), action.way, rtt))
            elif isinstance(action, Use):
                self.uses.append((self.now, action))
            else:
                assert isinstance(action, Search)
                self.searches.append((self.now, action.why))

    def since(self, when: float) -> list[Way]:
        return [way for at, way in self.pings if at >= when]


@pytest.fixture
def day() -> Day:
    return Day()


def direct(day: Day) -> Day:
    """Talking over a punched way."""
    day.say()
    day.add(PUNCHED, 0.03)
    day.live(10, talk=0.1)
    assert day.race.current is PUNCHED
    return day


def test_the_relay_carries_the_first_byte_and_a_search_begins(day):
    day.say()
    assert day.race.current is RELAY
    day.live(0.001)
    assert len(day.searches) == 1
    assert day.race.explain(day.now).why == "relayed until a direct way answers"


def test_what_carries_is_in_use_though_another_way_is_chosen(day):
    day.say()
    day.add(PUNCHED, 0.03)
    day.live(0.05)
    told = day.race.explain(day.now, RELAY.name)
    assert told.current is RELAY
    assert {each.way: each.state for each in told.ways} == {RELAY: "in use", PUNCHED: "tried"}
    assert day.race.explain(day.now).current is PUNCHED
    assert day.race.explain(day.now, "a way nobody told of").current is PUNCHED


def test_why_there_is_no_direct_way_stays_when_one_relay_follows_another(day):
    other = Way("another relay", Kind.RELAY, Transport.TCP)
    day.say()
    day.race.judged(Verdict(ways=(), why="relayed because the NATs differ", probes=0, seconds=0.0), day.now)
    day.race.went(other, day.now)
    assert day.race.current is other
    assert day.race.explain(day.now).why == "relayed because the NATs differ"


def test_what_answers_takes_over_after_one_round_trip(day):
    day.say()
    day.add(PUNCHED, 0.03)
    began = day.now
    day.live(0.05)
    assert day.uses[-1] == (pytest.approx(began + 0.03), Use(PUNCHED, "direct"))


def test_what_never_answers_is_asked_a_few_times_and_never_used(day):
    day.say()
    day.add(PUNCHED, None)
    day.live(40)
    assert day.race.current is RELAY
    assert 5 <= len(day.since(0)) <= 15
    assert day.race.explain(day.now).ways[-1].state in ("in use", "never answered")


def test_udp_is_better_than_tcp_and_tcp_than_a_relay(day):
    day.say()
    day.add(TCP, 0.02)
    day.live(1)
    assert day.race.current is TCP
    day.add(PUNCHED, 0.05)
    day.live(1)
    assert day.race.current is PUNCHED
    assert day.race.explain(day.now).why == "a better kind of way"


def test_two_alike_do_not_take_turns(day):
    day.say()
    day.add(PUNCHED, 0.030)
    day.add(OTHER, 0.027)
    day.live(300, talk=1)
    assert len(day.uses) <= 3
    day.add(LAN, 0.001)
    day.live(1)
    assert day.race.current is LAN
    assert day.race.explain(day.now).why == "a better kind of way"


def test_what_stays_on_a_shared_network_wins_over_a_router_that_is_as_quick(day):
    day.say()
    day.add(PUNCHED, 0.002)
    day.live(1)
    day.add(LAN, 0.003)
    day.live(60, talk=1)
    assert [use.way for _, use in day.uses] == [RELAY, PUNCHED, LAN]


def test_a_way_that_dies_under_traffic_is_left_within_a_second(day):
    direct(day)
    day.rtt[PUNCHED] = None
    died = day.now
    searches = len(day.searches)
    day.live(5, talk=0.1)
    assert day.race.current is RELAY
    assert day.uses[-1][0] - died < 1
    assert day.uses[-1][1].why == f"{PUNCHED.name} stopped answering"
    assert len(day.searches) == searches + 1
    assert day.searches[-1][0] - died < 1


def test_a_way_that_brings_the_peers_data_but_not_ours_is_left(day):
    direct(day)
    day.rtt[PUNCHED] = None
    for _ in range(100):
        day.live(0.1)
        day.race.heard(PUNCHED, day.now)
        day.say()
    assert day.race.current is RELAY


def test_after_a_nat_reboot_the_new_port_carries(day):
    direct(day)
    day.rtt[PUNCHED] = None
    day.live(1.5, talk=0.1)
    again = Way("udp 198.51.100.7:61000", Kind.OBSERVED)
    day.add(again, 0.03)
    day.live(0.1, talk=0.1)
    assert day.race.current is again


def test_a_way_that_paused_carries_again(day):
    direct(day)
    day.rtt[PUNCHED] = None
    day.live(4, talk=0.1)
    assert day.race.current is RELAY
    day.rtt[PUNCHED] = 0.03
    day.live(3, talk=0.1)
    assert day.race.current is PUNCHED


def test_a_way_that_fails_often_has_to_prove_itself(day):
    direct(day)
    waits = []
    for _ in range(3):
        day.rtt[PUNCHED] = None
        day.live(3, talk=0.1)
        day.rtt[PUNCHED], back = 0.03, day.now
        day.live(9, talk=0.1)
        assert day.race.current is PUNCHED
        waits.append(day.uses[-1][0] - back)
    assert waits[2] > waits[0] + 1


def test_one_lost_ping_changes_nothing(day):
    direct(day)
    day.live(30)  # nobody talks: heartbeats only
    before = len(day.uses)
    day.rtt[PUNCHED] = None
    while not day.since(day.now - 0.01):
        day.live(0.01)
    day.rtt[PUNCHED] = 0.03
    day.live(5)
    assert len(day.uses) == before


def test_a_way_that_loses_most_does_not_carry_for_long(day):
    direct(day)
    day.loss[PUNCHED], carried = 0.6, 0
    for _ in range(300):
        day.live(1, talk=0.05)
        carried += day.race.current is PUNCHED
    assert carried < 30


def test_of_two_ways_the_one_that_loses_less_carries(day):
    day.say()
    day.add(OTHER, 0.030)
    day.loss[OTHER] = 0.25
    day.live(60, talk=0.1)
    day.add(PUNCHED, 0.030)
    day.live(400, talk=0.1)
    report = {one.way: one for one in day.race.explain(day.now).ways}
    assert report[OTHER].loss > report[PUNCHED].loss == 0
    assert day.race.current is PUNCHED


def test_heartbeats_while_talking_and_nothing_for_idle_peers(day):
    direct(day)
    began = day.now
    day.live(BUSY)
    assert len(day.since(began)) <= BUSY / HEARTBEAT + 1
    quiet = day.now
    day.live(4000)
    assert day.since(quiet + HEARTBEAT) == []
    assert day.race.next_deadline() is None


def test_who_wants_to_stay_reachable_pings_once_in_25_seconds():
    day = direct(Day(keep=True))
    day.live(BUSY + 5)
    quiet, searches = day.now, len(day.searches)
    day.live(1000)
    assert 1000 / KEEPALIVE - 1 <= len(day.since(quiet)) <= 1000 / KEEPALIVE
    assert len(day.searches) == searches
    assert day.race.current is PUNCHED


def test_after_a_silence_the_relay_carries_at_once_and_direct_comes_back(day):
    direct(day)
    day.live(1000)
    searches = len(day.searches)
    day.say()
    assert day.race.current is RELAY
    day.live(0.05)
    assert day.race.current is PUNCHED
    day.live(5, talk=0.1)
    assert len([why for _, why in day.searches[searches:]]) <= 1


def test_after_a_silence_in_which_the_nat_forgot_us_a_search_begins_soon(day):
    direct(day)
    day.live(1000)
    day.rtt[PUNCHED] = None
    woke = day.now
    day.live(5, talk=0.1)
    assert day.race.current is RELAY
    assert day.searches[-1][0] - woke < 3


@pytest.mark.parametrize("slept", [20.0, 45.0, 3600.0])
def test_sleep_is_noticed_when_it_ends(day, slept):
    direct(day)
    day.now += slept
    day.say()
    assert day.race.current is RELAY
    day.live(0.1, talk=0.05)
    assert day.race.current is PUNCHED


def test_another_network_trusts_nothing_direct_and_searches(day):
    direct(day)
    day.rtt[PUNCHED] = None
    day.race.network_changed(day.now)
    day._do()
    assert day.race.current is RELAY
    assert day.searches[-1] == (day.now, "the network changed")
    day.rtt[PUNCHED] = 0.04
    day.live(2, talk=0.1)
    assert day.race.current is PUNCHED


def test_better_is_looked_for_once_a_minute_unless_it_is_good_enough(day):
    direct(day)
    began = len(day.searches)
    day.live(10 * RETRY, talk=1)
    assert 9 <= len(day.searches) - began <= 11
    day.add(LAN, 0.001)
    day.live(1)
    began = len(day.searches)
    day.live(10 * RETRY, talk=1)
    assert len(day.searches) == began


def test_what_was_direct_is_looked_for_soon_and_then_less_and_less_often(day):
    direct(day)
    day.rtt[PUNCHED] = None
    day.live(4 * RETRY, talk=0.5)
    lost = next(at for at, why in day.searches if "stopped answering" in why)
    gaps = [later - at for (at, _), (later, _) in itertools.pairwise(day.searches) if at >= lost]
    assert gaps == pytest.approx([SOON, 2 * SOON, 4 * SOON, 8 * SOON, RETRY, RETRY], abs=0.6)


def test_the_relay_that_breaks_is_replaced_by_another(day):
    day.say()
    second = Way("sn2.example", Kind.RELAY)
    day.race.broke(RELAY, day.now)
    assert day.race.current is None
    assert day.race.explain(day.now).why == "sn.example broke, and no other way is known"
    day.add(second, 0.1)
    assert day.race.current is second
    day.add(RELAY, 0.1)
    day.race.broke(second, day.now)
    assert day.race.current is RELAY


def test_the_verdict_of_a_search_is_the_reason_to_be_relayed(day):
    day.say()
    why = "relayed because the far NAT is random-symmetric"
    day.race.judged(Verdict(ways=(), why=why, probes=13, seconds=1.2), day.now)
    assert day.race.explain(day.now).why == why


def test_ways_are_bounded_and_the_newest_counts(day):
    direct(day)
    for port in range(100):
        newest = Way(f"udp 198.51.100.7:{port}", Kind.OBSERVED)
        day.add(newest, None)
    ways = {report.way for report in day.race.explain(day.now).ways}
    assert len(ways) == MOST_WAYS
    assert {RELAY, PUNCHED, newest} <= ways


def test_the_reason_after_a_silence_blames_nobody(day):
    direct(day)
    day.live(1000)
    day.say()
    assert day.race.explain(day.now).why == f"{PUNCHED.name} was not heard for a while"


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1 << 32),
    keep=st.booleans(),
    story=st.lists(
        st.tuples(
            st.sampled_from(["dies", "lives", "breaks", "added", "network", "lossy", "sleep"]),
            st.sampled_from([LAN, PUNCHED, OTHER, TCP]),
            st.floats(0.05, 30),
            st.sampled_from([None, 0.2, 2.0]),
        ),
        max_size=12,
    ),
)
def test_any_story_ends_on_something_that_works_with_few_packets(seed, keep, story):
    day = Day(keep=keep, seed=seed)
    day.say()
    for what, way, seconds, talk in story:
        if what == "added":
            day.add(way, 0.02)
        elif way in day.rtt and what == "breaks":
            day.rtt[way] = None
            day.race.broke(way, day.now)
        elif way in day.rtt and what in ("dies", "lives"):
            day.rtt[way] = None if what == "dies" else 0.02
        elif what == "lossy":
            day.loss[way] = 0.1
        elif what == "network":
            day.race.network_changed(day.now)
            day._do()
        elif what == "sleep":
            day.now += 100
        began = day.now
        day.live(seconds, talk=talk)
        assert len(day.since(began)) <= 20 * len(day.rtt) + 6 * seconds
    day.loss.clear()
    day.live(TRUST + 30, talk=0.2)
    current = day.race.current
    assert current is not None
    assert day.rtt[current] is not None
    day.live(BUSY + 10)
    quiet = day.now
    day.live(200)
    assert len(day.since(quiet)) <= (200 / KEEPALIVE + 1 if keep else 0)


def steady(day) -> None:
    day.race.steady = True


def test_a_steady_race_stays_where_it_is_over_a_silence_and_asks_first(day):
    steady(day)
    direct(day)
    day.live(120)
    day.say()
    assert day.race.current is PUNCHED
    day.live(2)
    assert day.race.current is PUNCHED


def test_in_a_steady_race_what_comes_is_as_good_as_a_pong(day):
    steady(day)
    direct(day)
    day.rtt[PUNCHED] = None
    for _ in range(100):
        day.live(0.1)
        day.race.heard(PUNCHED, day.now)
        day.say()
    assert day.race.current is PUNCHED
    day.live(3)
    assert day.race.current is RELAY


def test_a_way_that_was_gone_without_our_word_is_believed_and_the_old_one_asked(day):
    direct(day)
    day.say()
    day.race.went(RELAY, day.now)
    assert day.race.current is RELAY
    assert day.race.explain(day.now).why == f"{PUNCHED.name} broke"
    day.live(5)
    assert day.race.current is PUNCHED


def test_a_relay_of_datagrams_is_better_than_one_of_streams_and_says_why_it_is_one(day):
    streams, datagrams = Way("a", Kind.RELAY, Transport.TCP), Way("b", Kind.RELAY)
    race = Race()
    race.add(streams, 0.0)
    race.judged(Verdict(ways=(), why="relayed because the far NAT is random-symmetric", probes=9, seconds=1.0), 1.0)
    race.add(datagrams, 2.0)
    assert race.current == datagrams
    assert race.explain(2.0).why == "relayed because the far NAT is random-symmetric"
