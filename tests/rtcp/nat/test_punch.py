"""Two devices try to meet in a simulated internet: every pair of NATs, with loss, late answers and skewed clocks."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from natsim import CORE_HOPS, STUN, Box, NatSim, Router, meet

from cyfs_ns.errors import Misuse
from rtcp.nat.budget import HOUR, MOST_A_SECOND, MOST_PROBES, MOST_UNANSWERED, Budget
from rtcp.nat.candidates import Candidate, Filtering, Kind, Mapping, Nat, Offer, Transport
from rtcp.nat.plan import OPENER_TTL, plan
from rtcp.nat.probe import PROBE_SIZE, ProbeBox, Word, attempt_of
from rtcp.nat.punch import Punch, Send

E, A, S = Mapping.EIM, Mapping.ADM, Mapping.APDM
ANY, ADDRESS, EXACT = Filtering.EIF, Filtering.ADF, Filtering.APDF

KINDS: dict[str, list[Nat]] = {
    "none": [],
    "1:1": [Nat(mapping=E, filtering=ANY, tcp=True)],
    "cone": [Nat(mapping=E, filtering=ANY, tcp=True)],
    "address": [Nat(mapping=E, filtering=ADDRESS, tcp=True)],
    "port": [Nat(mapping=E, filtering=EXACT, tcp=True)],
    "predictable": [Nat(mapping=S, filtering=EXACT, delta=1)],
    "ADM": [Nat(mapping=A, filtering=EXACT)],
    "random": [Nat(mapping=S, filtering=EXACT)],
    "double": [Nat(mapping=E, filtering=EXACT, tcp=True)] * 2,
    "blocked": [Nat(mapping=E, filtering=EXACT, udp=False, tcp=True)],
}
THEORY = {
    # d: direct by UDP; t: by TCP; r: relayed.  Columns in the order of the rows.
    "none": "ddddddddd t",
    "1:1": "ddddddddd t",
    "cone": "ddddddddd t",
    "address": "ddddddddd t",
    "port": "dddddd rr d t",
    "predictable": "dddddd rr d r",
    "ADM": "dddd rrrr r r",
    "random": "dddd rrrr r r",
    "double": "dddddd rr d t",
    "blocked": "ttttt rrr t t",
}
EXPECTED = {
    (one, other): {"d": "udp", "t": "tcp", "r": "relay"}[letter]
    for one, row in THEORY.items()
    for other, letter in zip(KINDS, row.replace(" ", ""), strict=True)
}


def box(sim: NatSim, kind: str, **other: object) -> Box:
    return sim.box(*(Router(nat) for nat in KINDS[kind]), **other)  # type: ignore[arg-type]


def test_the_table_is_the_same_from_both_sides():
    # Only who must be the one to connect to a public machine differs, and nobody is.
    assert {pair for pair, how in EXPECTED.items() if EXPECTED[pair[::-1]] != how} == set()


@pytest.mark.parametrize("pair", list(itertools.product(KINDS, KINDS)), ids=" x ".join)
def test_every_pair_of_nats_does_what_theory_says(pair):
    sim = NatSim(1)
    result = meet(sim, box(sim, pair[0]), box(sim, pair[1], clock=-1e4))
    assert result.how == EXPECTED[pair], (result, sim.boxes[0].sent[:5])
    assert max(result.one.probes, result.other.probes) <= MOST_PROBES
    if result.how == "udp":
        assert result.seconds <= 2 * sim.rtt * (1 + sim.jitter) + 0.05
    if result.how == "relay":
        assert result.one.why.startswith("relayed because ")
        assert "though the NATs should allow it" not in result.one.why


@settings(max_examples=150, deadline=None)
@given(
    pair=st.tuples(st.sampled_from(list(KINDS)), st.sampled_from(list(KINDS))),
    seed=st.integers(0, 1 << 32),
    loss=st.floats(0, 0.15),
    rtt=st.floats(0.001, 0.3),
    relay=st.floats(0.7, 3),
    lean=st.floats(0.05, 0.95),
    clock=st.floats(-1e6, 1e6),
    private=st.booleans(),
)
def test_loss_and_late_answers_and_clocks_do_not_change_the_outcome(pair, seed, loss, rtt, relay, lean, clock, private):
    sim = NatSim(seed, rtt=rtt, loss=loss, jitter=0.5)
    one, other = box(sim, pair[0]), box(sim, pair[1], clock=clock)
    result = meet(sim, one, other, relay_rtt=relay * rtt, lean=lean, private=private)
    assert result.how == EXPECTED[pair], result
    for verdict in (result.one, result.other):
        assert verdict.probes <= MOST_PROBES


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1 << 32),
    one=st.integers(0, 8),
    other=st.integers(0, 8),
    deltas=st.tuples(*[st.sampled_from([-3, -1, 1, 2, 5])] * 2),
)
def test_predictable_nats_meet_though_others_take_ports_in_between(seed, one, other, deltas):
    sim = NatSim(seed)
    routers = [Router(Nat(mapping=S, filtering=EXACT, delta=delta)) for delta in deltas]
    boxes = [sim.box(router) for router in routers]

    def traffic() -> None:
        routers[0].others_take(one)
        routers[1].others_take(other)

    result = meet(sim, *boxes, between=traffic)
    assert result.how == "udp", result
    assert result.one.ways[0].kind is Kind.PREDICTED or result.other.ways[0].kind is Kind.PREDICTED


def test_the_largest_plan_keeps_its_budget_of_each_second_and_address():
    sim = NatSim(3)
    boxes = [box(sim, "predictable"), box(sim, "predictable")]
    wrong = Nat(mapping=S, filtering=EXACT, delta=-1)  # so nothing is ever met
    assert meet(sim, *boxes, says=(wrong, wrong)).how == "relay"
    for one in boxes:
        assert len(one.sent) > 200
        assert max(Counter(send.target[1] for send in one.sent).values()) <= MOST_UNANSWERED
        times = [shot.at for shot in one.machine.plan.shots]
        assert all(sum(begin <= at < begin + 1 for at in times) <= MOST_A_SECOND for begin in times)


@pytest.mark.parametrize("says", [Nat(mapping=S, filtering=EXACT), Nat(mapping=A, filtering=EXACT), Nat()], ids=str)
def test_a_label_that_lies_does_not_stop_what_works(says):
    sim = NatSim(4)
    result = meet(sim, box(sim, "port"), box(sim, "port"), says=(says, says))
    assert result.how == "udp"


def test_a_random_nat_that_says_it_is_a_cone_is_relayed_and_nobody_is_blamed():
    sim = NatSim(5)
    result = meet(sim, box(sim, "port"), box(sim, "random"), says=(None, Nat(mapping=E, filtering=EXACT)))
    assert result.how == "relay"
    assert "though the NATs should allow it" in result.one.why


def test_a_door_that_the_router_maps_is_not_punched_to():
    blocked = Nat(mapping=E, filtering=EXACT, udp=False, tcp=True)
    spots = [("198.51.100.7", 2980, Kind.MAPPED), ("198.51.100.7", 4000, Kind.OBSERVED)]
    mapped, seen = (Candidate(address=a, port=p, kind=kind, transport=Transport.TCP) for a, p, kind in spots)
    ours = Offer(nonce=bytes(16), nat=blocked)
    theirs = Offer(nonce=b"1" * 16, nat=blocked, candidates=(mapped, seen))
    assert {shot.target for shot in plan(ours, theirs, opens=False, rtt=0.1).shots} == {seen}


def test_the_reason_names_the_side():
    sim = NatSim(6)
    result = meet(sim, box(sim, "port"), box(sim, "random"))
    assert result.one.why == "relayed because the far NAT is random-symmetric"
    assert result.other.why == "relayed because our NAT is random-symmetric"
    sim = NatSim(6)
    result = meet(sim, box(sim, "blocked"), box(sim, "ADM"))
    assert result.one.why == "relayed because UDP is blocked here"
    assert result.other.why == "relayed because UDP is blocked on the far side"


def test_a_touchy_nat_is_opened_before_the_other_side_knocks():
    """The answer takes nearly all of the relay's round trip: without the openers the far packets would come first."""
    outcomes = []
    for lean in (0.1, 0.5, 0.95, 1.4):
        sim = NatSim(7, rtt=0.02, jitter=0)
        boxes = [sim.box(Router(Nat(mapping=E, filtering=EXACT), touchy=True)) for _ in range(2)]
        outcomes.append(meet(sim, *boxes, relay_rtt=0.2, lean=lean).how)
        first = boxes[1].sent[0]
        assert first.ttl == OPENER_TTL < CORE_HOPS
    assert outcomes == ["udp"] * 4


def test_two_behind_one_nat_meet_inside_when_private_addresses_may_be_told():
    for private, hairpin, how in ((True, False, "udp"), (False, False, "relay"), (False, True, "udp")):
        sim = NatSim(8)
        router = Router(Nat(mapping=E, filtering=ANY), hairpin=hairpin)
        one = sim.box(router)
        other = sim.box(lan=router)
        result = meet(sim, one, other, private=private)
        assert result.how == how
        if private:
            assert result.one.ways[0].target[1] == other.address


def test_the_same_private_address_in_two_homes_is_not_ourselves():
    sim = NatSim(9)
    one = sim.box(Router(KINDS["port"][0]), address="192.168.1.2")
    other = sim.box(Router(KINDS["port"][0]), address="192.168.1.2")
    assert meet(sim, one, other, private=True).how == "udp"
    assert all(send.target[1] != "192.168.1.2" for send in one.sent)


def test_few_packets_when_it_works():
    sim = NatSim(10)
    result = meet(sim, box(sim, "port"), box(sim, "port"))
    assert max(result.one.probes, result.other.probes) <= 24


# The machine alone


def offers() -> tuple[Offer, Offer]:
    nat = Nat(mapping=E, filtering=EXACT)
    return tuple(  # type: ignore[return-value]
        Offer(
            nonce=bytes([n] * 16),
            nat=nat,
            candidates=(Candidate(address=f"198.51.100.{n}", port=n, kind=Kind.OBSERVED),),
        )
        for n in (1, 2)
    )


def machine(*, opens: bool = False, budget: Budget | None = None, secret: bytes = bytes(32)) -> Punch:
    ours, theirs = offers() if not opens else offers()[::-1]
    return Punch(ours, theirs, opens=opens, secret=secret, start=0.0, rtt=0.1, budget=budget or Budget())


def actions(punch: Punch) -> list[Send]:
    return [a for a in iter(punch.next_action, None) if isinstance(a, Send)]


FAR = (Transport.UDP, "198.51.100.2", 2)
NEAR = (Transport.UDP, "198.51.100.1", 1)


def test_a_stranger_cannot_fake_success():
    punch = machine()
    punch.handle_timeout(0.0)
    (ping,) = actions(punch)
    stranger = machine(opens=True, secret=b"x" * 32)
    stranger.handle_timeout(0.2)
    for data in (
        *[send.data for send in actions(stranger)],
        ping.data,
        b"",
        bytes(PROBE_SIZE),
        ping.data[:-1],
        ping.data + b"0",
    ):
        assert not punch.receive(data, FAR, 0.1)
    assert punch.next_event() is None
    assert actions(punch) == []


def test_a_probe_of_another_attempt_is_nobodys():
    one, other = offers()
    old = ProbeBox(bytes(32), opens=True, our_nonce=bytes(16), their_nonce=one.nonce)
    new = ProbeBox(bytes(32), opens=False, our_nonce=one.nonce, their_nonce=other.nonce)
    assert attempt_of(old.write(Word.PING)[1]) == old.attempt != new.attempt
    assert not machine().receive(old.write(Word.PING)[1], FAR, 0.1)


def test_a_pong_counts_only_from_where_the_ping_went():
    """Somebody who carries a pong elsewhere does not make elsewhere a way."""
    here, there = machine(), machine(opens=True)
    here.handle_timeout(0.0)
    (ping,) = actions(here)
    there.receive(ping.data, NEAR, 0.05)
    pong = next(send for send in actions(there) if send.data[1] == Word.PONG)
    assert here.receive(pong.data, (Transport.UDP, "203.0.113.66", 666), 0.1)
    assert here.next_event() is None
    assert not here.receive(pong.data, FAR, 0.1)  # and each probe is heard once


def test_every_probe_is_answered_by_one_of_its_size():
    here, there = machine(), machine(opens=True)
    here.handle_timeout(0.0)
    (ping,) = actions(here)
    assert there.receive(ping.data, NEAR, -0.01)
    answers = [send for send in actions(there) if send.target == NEAR and send.data[1] == Word.PONG]
    assert [len(send.data) for send in answers] == [PROBE_SIZE]
    assert not there.receive(ping.data, NEAR, 0.0)
    assert actions(there) == [] or all(send.data[1] != Word.PONG for send in actions(there))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=64) | st.binary(min_size=34, max_size=34).map(lambda tail: b"\x0a\x01" + tail))
def test_any_bytes_are_nobodys(data):
    punch = machine()
    assert not punch.receive(data, FAR, 0.0)
    assert punch.next_action() is None


def test_every_flipped_bit_is_noticed():
    data = ProbeBox(bytes(32), opens=True, our_nonce=bytes([2] * 16), their_nonce=bytes([1] * 16)).write(Word.PING)[1]
    assert machine().receive(data, FAR, 0.0)
    for bit in range(len(data) * 8):
        broken = bytearray(data)
        broken[bit // 8] ^= 1 << bit % 8
        assert not machine().receive(bytes(broken), FAR, 0.0)


@settings(deadline=None)
@given(st.lists(st.integers(1, 60), max_size=80))
def test_each_probe_is_read_once_in_any_order(order):
    writer = ProbeBox(bytes(32), opens=True, our_nonce=bytes(16), their_nonce=bytes(16))
    reader = ProbeBox(bytes(32), opens=False, our_nonce=bytes(16), their_nonce=bytes(16))
    probes = dict(writer.write(Word.PING) for _ in range(60))
    taken: set[int] = set()
    for number in order:
        try:
            assert reader.read(probes[number]).number == number
        except Exception:
            assert number in taken
            continue
        assert number not in taken
        taken.add(number)


def test_a_peer_that_names_strangers_gets_few_packets_sent_to_each_and_to_few():
    nat = Nat(mapping=S, filtering=EXACT, delta=1)
    ours = Offer(nonce=bytes(16), nat=Nat(mapping=E, filtering=EXACT))
    victims = tuple(Candidate(address=f"203.0.113.{n}", port=4000 + n, kind=Kind.OBSERVED) for n in range(24))
    theirs = Offer(nonce=bytes(16), nat=nat, candidates=victims)
    shots = plan(ours, theirs, opens=True, rtt=0.1).shots
    assert len({shot.target.address for shot in shots}) <= 8
    budget, sent = Budget(), 0
    for attempt in range(20):
        punch = Punch(ours, theirs, opens=True, secret=bytes(32), start=attempt * 10.0, rtt=0.1, budget=budget)
        while (due := punch.next_deadline()) is not None:
            punch.handle_timeout(due)
            sent += sum(send.target[1] == "203.0.113.0" for send in actions(punch))
    assert sent <= MOST_UNANSWERED


def test_a_peer_that_claims_a_strangers_address_makes_us_send_little_there():
    stranger = (Transport.UDP, "203.0.113.66", 666)
    punch = machine()
    one, other = offers()
    peer = ProbeBox(bytes(32), opens=True, our_nonce=other.nonce, their_nonce=one.nonce)
    for n in range(1000):
        assert punch.receive(peer.write(Word.PING)[1], stranger, n / 400)
    assert 0 < sum(send.target == stranger for send in actions(punch)) <= MOST_UNANSWERED


def test_the_budget_of_a_second_an_address_and_an_hour():
    budget = Budget()
    assert [budget.spend(f"198.51.100.{n % 200}", 0.5) for n in range(501)] == [True] * MOST_A_SECOND + [False]
    budget = Budget()
    assert sum(budget.spend("2001:db8::1", n / 100) for n in range(MOST_UNANSWERED)) == MOST_UNANSWERED
    assert not budget.spend("2001:db8::2", 6.0)
    assert budget.spend("2001:db8:0:1::2", 6.0)
    budget.answered("2001:db8::3")
    assert budget.spend("2001:db8::2", 6.0)
    assert sum(budget.spend("2001:db8::2", 7.0 + n / 100) for n in range(600)) == MOST_UNANSWERED - 1
    assert budget.spend("2001:db8::2", 6.0 + HOUR)
    assert budget.may_try("did:dev:far", 0)
    budget.failed("did:dev:far", 0)
    assert not budget.may_try("did:dev:far", HOUR - 1)
    assert budget.may_try("did:dev:far", HOUR)
    budget.failed("did:dev:far", HOUR)
    budget.network_changed()
    assert budget.may_try("did:dev:far", HOUR)


def test_many_addresses_are_not_remembered_for_ever():
    budget = Budget()
    for n in range(10000):
        budget.failed(f"did:dev:{n}", n)
        budget.spend(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}", float(n))
    assert budget.may_try("did:dev:0", 10000.0)
    assert not budget.may_try("did:dev:9999", 10000.0)


def test_a_short_secret_is_our_bug():
    with pytest.raises(Misuse):
        machine(secret=b"short")


def test_nothing_to_probe_ends_by_itself():
    empty = Offer(nonce=bytes(16), nat=Nat())
    punch = Punch(empty, empty, opens=False, secret=bytes(32), start=0.0, rtt=0.1, budget=Budget())
    punch.handle_timeout(punch.next_deadline())
    assert punch.next_event().why == "relayed because the peer named no address that may be probed"
    assert punch.next_deadline() is None


def test_connections_are_tried_again_when_refused_but_not_for_ever():
    nat = Nat(mapping=E, filtering=EXACT, udp=False, tcp=True)
    far = Candidate(address="198.51.100.2", port=2, kind=Kind.OBSERVED, transport=Transport.TCP)
    ours, theirs = Offer(nonce=bytes(16), nat=nat), Offer(nonce=bytes(16), nat=nat, candidates=(far,))
    punch = Punch(ours, theirs, opens=False, secret=bytes(32), start=0.0, rtt=0.1, budget=Budget())
    tries, now = 0, 0.0
    while (due := punch.next_deadline()) is not None:
        now = due
        punch.handle_timeout(now)
        while (action := punch.next_action()) is not None:
            tries += 1
            punch.refused(action.target, now)
    assert 3 <= tries <= 10
    assert now >= 3


def test_the_simulation_observes_what_its_nats_promise():
    sim = NatSim(11)
    die = random.Random(1)
    places = [("203.0.113.1", 1), ("203.0.113.1", 2), ("203.0.113.2", 1)]
    for kind, nats in KINDS.items():
        if not nats or kind == "blocked":
            continue
        one = box(sim, kind)
        die.shuffle(places)
        seen = {place: sim.outside(one, Transport.UDP, place) for place in places}
        a1, a2, b1 = (seen[place] for place in sorted(places))
        found = E if a1 == a2 == b1 else A if a1 == a2 else S
        assert found is nats[-1].mapping
    assert sim.outside(box(sim, "blocked"), Transport.UDP, STUN) is None
