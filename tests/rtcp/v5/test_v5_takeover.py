"""What survives a carrier: numbered records, moves, liveness, keys that step, and the tunnel that is held."""

from __future__ import annotations

import pytest

from cyfs_ns.errors import BadWire
from rtcp.events import End
from rtcp.v5 import carrier as records
from rtcp.v5.carrier import Kind
from rtcp.v5.channel import Channel, Claim
from rtcp.v5.closing import Close, CloseCode
from rtcp.v5.events import Alive, CarrierWanted, Stands
from rtcp.v5.life import Beat, Pulse, Why, patience
from rtcp.v5.payloads import Parameters
from tests.rtcp.v5.duet import BULK, CALLABLE, FLOW, HIDDEN, PLAIN, WEB, Duet, Side, standing

BRIEF = Parameters(features=CALLABLE.features, port=2980, hold=10)


def channel(taken: int = 0, sent: int = 0) -> Channel:
    """A channel on which so much went either way on one carrier."""
    made = Channel(0, 1 << 20, 1 << 16)
    made.moved_here(Claim(0, 0, 0))
    for at in range(sent):
        made.keep(Kind.NUMBERED, b"%d" % at)
    for _ in range(taken):
        made.take(1, 0)
    return made


def test_an_ack_forgets_what_it_counts_and_nothing_else():
    one = channel(sent=5)
    assert one.acknowledged(3) and [kept.plain for kept in one.kept] == [b"3", b"4"]
    assert not one.acknowledged(2), "an older one says nothing"
    with pytest.raises(BadWire):
        one.acknowledged(6)


def test_the_next_carrier_begins_where_its_receiver_says():
    one = channel(taken=4, sent=5)
    one.acknowledged(1)
    assert one.judge(Claim(0, 1, 2), initiator=False) is None
    one.moved_here(Claim(0, 1, 2))
    assert one.taken == 4 and one.first == 2
    assert [one.again().plain for _ in range(3)] == [b"2", b"3", b"4"] and one.again() is None


@pytest.mark.parametrize(
    ("claim", "verdict"),
    [
        (Claim(0, 0, 3), CloseCode.STALE),  # no higher than what stands
        (Claim(0, 1, 1), CloseCode.STALE),  # given up, since more was acknowledged
        (Claim(0, 1, 2), None),
        (Claim(0, 9, 5), None),
    ],
)
def test_which_claims_hold(claim, verdict):
    one = channel(sent=5)
    one.acknowledged(2)
    assert one.judge(claim, initiator=True) is verdict
    with pytest.raises(BadWire):
        one.judge(Claim(0, 1, 6), initiator=True)


@pytest.mark.parametrize(
    ("theirs", "initiator", "verdict"), [(1, True, CloseCode.STALE), (1, False, None), (2, True, None)]
)
def test_of_two_calls_at_once_the_higher_wins_or_the_initiators(theirs, initiator, verdict):
    one = channel()
    assert one.claim().move == 1
    assert one.judge(Claim(0, theirs, 0), initiator=initiator) is verdict


def test_while_a_claim_is_out_nothing_above_it_is_acknowledged():
    one = channel(taken=2)
    assert one.claim() == Claim(0, 1, 2)
    for _ in range(3):
        one.take(1, 0)
    assert one.acknowledge(0) == 2 and one.acknowledge(0) is None
    one.moved_there(0)
    assert one.skip == 3, "what comes again"
    assert one.acknowledge(0) is None, "and is not acknowledged before"
    one.skip = 0
    assert one.acknowledge(0) == 5


def test_what_came_over_the_old_carrier_meanwhile_is_taken_once():
    duet = standing()
    stream = duet.alice.tunnel.open(WEB, duet.now)
    duet.talk()
    duet.calls = "late"
    duet.alice.tunnel.network_changed(duet.now)
    duet.now += 0.6
    duet.alice.tunnel.handle_timeout(duet.now)
    duet.alice.listen()
    assert duet.alice.wanted == [CarrierWanted(0, Why.SUSPECT)]
    duet.alice.wanted.clear()
    duet.call(duet.alice, 0)
    for at in range(5):
        duet.bob.tunnel.send(stream, b"%d" % at, duet.now)
        duet.talk()
    assert duet.alice.told(stream).data == b"01234" and len(duet.late) == 1
    duet.arrive(*duet.late.pop())
    duet.send(duet.bob, stream, b"56")
    duet.talk()
    assert duet.alice.told(stream).data == b"0123456" and duet.alice.told(stream).finished
    assert sum(isinstance(one, Stands) for one in duet.bob.events) == 2


def test_a_cut_is_a_pause():
    duet = standing()
    stream = duet.alice.tunnel.open(WEB, duet.now)
    duet.alice.tunnel.send(stream, b"asked, ", duet.now)
    duet.write()
    duet.cut()
    assert not duet.alice.tunnel.is_up and not duet.bob.tunnel.is_up
    duet.alice.tunnel.send(stream, b"and asked again", duet.now)
    second = duet.bob.tunnel.open(WEB, duet.now)
    duet.talk()
    assert duet.alice.tunnel.is_up and duet.bob.told(stream).data == b"asked, and asked again"
    assert duet.bob.told(second).answer == 0
    assert not any(side.ended for side in duet.sides)


def test_who_takes_each_call_and_drops_it_is_not_called_in_a_loop():
    duet = standing()
    duet.alice.tunnel.open(WEB, duet.now)
    duet.talk()
    began, cuts = duet.now, 0
    while duet.now < began + 30:
        if duet.alice.tunnel.is_up:
            duet.cut()
            cuts += 1
        duet.sleep(0.01)
    assert cuts <= 11, "a few at once, and then further and further apart"
    assert not any(side.ended for side in duet.sides)
    duet.sleep(20)
    assert duet.alice.tunnel.is_up, "nobody cuts it any more"
    duet.cut()
    duet.sleep(0.01)
    assert duet.alice.tunnel.is_up, "it has proved itself"


@pytest.mark.parametrize("hers", [HIDDEN, CALLABLE])
def test_who_can_call_calls(hers):
    duet = standing(hers)
    duet.calls = "lost"
    duet.cut()
    duet.talk()
    wanted = [any(isinstance(one, CarrierWanted) for one in side.events) for side in duet.sides]
    assert wanted == [True, hers is CALLABLE]


def test_calls_come_further_and_further_apart_until_the_tunnel_is_given_up():
    duet = standing(HIDDEN, BRIEF)
    stream = duet.alice.tunnel.open(WEB, duet.now)
    duet.talk()
    duet.calls = "lost"
    cut = duet.now
    duet.cut()
    times = []
    while duet.alice.ended is None:
        before = len(duet.alice.events)
        duet.sleep(0.1)
        times += [round(duet.now - cut, 1)] * sum(isinstance(one, CarrierWanted) for one in duet.alice.events[before:])
    assert times[:3] == [0.1, 0.3, 0.9] and len(times) == 6
    assert 10 <= duet.now - cut <= 10.2
    for side in duet.sides:
        assert side.ended.end is End.LOST and side.told(stream).reset is not None


def test_who_slept_longer_than_the_tunnel_is_held_tries_once():
    duet = standing(HIDDEN, BRIEF)
    duet.calls = "lost"
    duet.cut()
    duet.talk()
    duet.now += 3600
    duet.alice.tunnel.handle_timeout(duet.now)
    duet.alice.listen()
    assert duet.alice.ended is None and duet.alice.wanted
    duet.bob.tunnel.handle_timeout(duet.now)
    duet.bob.listen()
    assert duet.bob.ended is not None
    duet.calls = "arrive"
    duet.talk()
    assert duet.alice.ended.end is End.LOST and duet.alice.ended.code == CloseCode.UNKNOWN_TUNNEL


@pytest.mark.parametrize("code", [CloseCode.STALE, CloseCode.BUSY, CloseCode.LIMIT])
def test_a_close_before_welcome_is_about_that_carrier_only(code):
    duet = standing()
    duet.calls = "late"
    duet.cut()
    duet.talk()
    end, _ = duet.late.pop()
    end.sent += end.carrier.seal(Kind.LOOSE, (Close(code).frame(),), duet.now)
    end.closed = True
    duet.calls = "arrive"
    duet.sleep(2)
    assert duet.alice.tunnel.is_up and duet.bob.tunnel.is_up


def test_a_silent_carrier_is_replaced_within_the_budget():
    """A NAT forgets the mapping in a download: 0.6 s of silence, P, and the call."""
    duet = standing()
    stream = duet.alice.tunnel.open(WEB, duet.now)
    duet.talk()
    duet.send(duet.bob, stream, bytes(30_000), finish=False)
    duet.sleep(0.2)
    for pipe in duet.pipes.values():
        pipe.other, lost = None, pipe.other  # swallowed from here on
        assert lost is not None
    duet.bob.tunnel.send(stream, b"more", duet.now)
    start = duet.now
    while len(duet.alice.told(stream).data) < 30_004:
        duet.sleep(0.01)
        assert duet.now - start < 1.25
    assert any(one == CarrierWanted(0, Why.SUSPECT) for one in duet.alice.events)


def test_an_idle_tunnel_says_little_and_notices_the_end():
    duet = standing()
    duet.sleep(5)
    before = {name: len(sent) for name, sent in duet.all_sent.items()}
    duet.sleep(100)
    assert all(len(sent) - before[name] == 4 * 36 for name, sent in duet.all_sent.items())
    assert sum(isinstance(one, Alive) for one in duet.alice.events) == 4


def test_the_pulse_asks_suspects_and_gives_up():
    pulse = Pulse(True, False, 0.05, 0)
    assert pulse.due(busy_until=-1) == 25 and pulse.due(busy_until=5) == 0.6
    assert pulse.feel(0.5, 5) is Beat.QUIET and pulse.feel(0.6, 5) is Beat.ASK
    assert pulse.due(5) == pytest.approx(0.6 + patience(0.05)) and patience(0.05) == 0.5
    assert pulse.feel(1.1, 5) is Beat.SUSPECT
    assert pulse.feel(11.0, 5) is Beat.QUIET and pulse.feel(11.1, 5) is Beat.BROKEN


def test_a_false_alarm_makes_patient_for_a_minute():
    pulse = Pulse(True, False, 0.05, 0)
    pulse.feel(0.6, 5)
    pulse.feel(1.1, 5)
    assert pulse.hear(2) and pulse.due(7) == pytest.approx(2 + 1.2)
    assert not pulse.hear(70) and pulse.due(99) == pytest.approx(70.6)


def test_after_a_jump_of_the_clock_nobody_is_dead_at_once():
    pulse = Pulse(False, False, 0.05, 0)
    assert pulse.feel(3600, -1) is Beat.ASK
    assert pulse.feel(7200, -1) is Beat.ASK
    assert pulse.feel(7200.5, -1) is Beat.SUSPECT
    assert pulse.feel(9999, -1) is Beat.ASK


def test_a_quiet_leg_is_not_asked():
    assert Pulse(True, True, 0.05, 0).due(busy_until=-1) is None


def test_a_carrier_is_renewed_after_a_day():
    duet = standing()
    stream = duet.alice.tunnel.open(WEB, duet.now)
    duet.sleep(90_000)
    assert CarrierWanted(0, Why.RENEWAL) in duet.alice.events
    assert duet.alice.tunnel.is_up and not any(side.ended for side in duet.sides)
    duet.send(duet.alice, stream, b"after a day")
    duet.talk()
    assert duet.bob.told(stream).data == b"after a day"


@pytest.mark.parametrize("opening", [WEB, BULK])
def test_keys_step_in_a_transfer_and_a_carrier_breaks_between(opening, monkeypatch):
    monkeypatch.setattr(records, "_STEP_OCTETS", 1 << 20)
    duet = standing()
    data = bytes(range(241)) * 17_500
    stream = duet.alice.tunnel.open(opening, duet.now)
    duet.talk()
    half = len(data) // 2
    duet.send(duet.alice, stream, data[:half], finish=False)
    for number in (0, 1):
        duet.cut(number)
    duet.send(duet.alice, stream, data[half:])
    duet.sleep(1)
    assert duet.bob.told(stream).data == data and duet.bob.told(stream).finished
    phases = {pipe.carrier._sending.phase for pipe in duet.pipes.values() if pipe.side is duet.alice}
    assert max(phases) >= 1


def test_datagrams_are_lost_in_a_break_and_the_flow_stands():
    duet = standing(PLAIN)
    flow = duet.alice.tunnel.open(FLOW, duet.now)
    duet.talk()
    duet.calls = "lost"
    duet.cut()
    for at in range(300):
        duet.alice.tunnel.send_datagram(flow, None, bytes((at % 256,)) * 1000, duet.now)
    duet.calls = "arrive"
    duet.sleep(0.05)
    duet.sleep(0.3)
    got = duet.bob.told(flow).datagrams
    assert all(len(payload) == 1000 for _, payload in got) and len(got) <= 256 * 1024 // 1009
    duet.sleep(1)
    duet.alice.tunnel.send_datagram(flow, None, b"after", duet.now)
    duet.talk()
    assert duet.bob.told(flow).datagrams[-1] == (None, b"after")


def test_the_first_carrier_that_breaks_ends_the_call():
    duet = Duet()
    duet.cut()
    duet.alice.listen()
    assert duet.alice.ended.end is End.LOST
    duet = Duet()
    duet.now += 20
    duet.alice.tunnel.handle_timeout(duet.now)
    duet.alice.listen()
    assert duet.alice.ended.end is End.LOST


def test_a_call_for_a_better_way_takes_the_place_of_the_one_that_is_out():
    duet = standing()
    tunnel = duet.alice.tunnel
    first = tunnel.claim(0, duet.now, unasked=True)
    hung, _ = duet.lay(duet.alice, 0)
    assert tunnel.attach(hung.carrier, 0, duet.now)
    assert tunnel.claim(0, duet.now) is None
    claim = tunnel.claim(0, duet.now, unasked=True)
    pipe, end = duet.lay(duet.alice, 0)
    assert tunnel.attach(pipe.carrier, 0, duet.now)
    assert duet.arrive(end, claim) is None
    duet.talk()
    assert hung.closed
    assert tunnel.carrier is pipe.carrier
    assert claim.move > first.move
    assert not duet.alice.ended


def test_news_of_the_network_asks_at_once():
    duet = standing()
    duet.alice.tunnel.network_changed(duet.now)
    duet.talk()
    assert isinstance(duet.alice.events[-1], Alive)


@pytest.mark.parametrize("who", ["alice", "bob"])
def test_a_carrier_may_die_at_any_byte(who):
    """And at that byte again, on the next one."""

    def story(at: int | None) -> list[object]:
        duet = standing()
        streams = [duet.alice.tunnel.open(opening, duet.now) for opening in (WEB, WEB, FLOW)]
        other = duet.bob.tunnel.open(WEB, duet.now)
        duet.alice.tunnel.send(streams[0], b"question", duet.now)
        duet.alice.tunnel.finish(streams[0], duet.now)
        duet.alice.tunnel.reset(streams[1], 33, duet.now)
        duet.bob.tunnel.send(other, b"x" * 40, duet.now)
        for _ in range(3):
            for side in duet.sides:
                side.listen()
            duet.write()
            (pipe,) = (one for one in duet.pipes.values() if one.side.name == who and not one.closed)
            if at is not None:
                duet.deliver(pipe, at)
                duet.cut()
            duet.turn()
        duet.talk()
        duet.send(duet.bob, streams[0], b"answer")
        duet.talk()
        seen = [
            (side.name, one, side.told(one).data, side.told(one).finished, side.told(one).reset, side.told(one).answer)
            for side in duet.sides
            for one in (*streams, other)
        ]
        assert not any(side.ended for side in duet.sides)
        return seen

    undisturbed = story(None)
    for at in range(200):
        assert story(at) == undisturbed, at


def test_small_talk_is_not_acknowledged_with_each_record():
    duet = Duet()
    stream = duet.alice.tunnel.open(WEB, duet.now)
    duet.talk()
    alices, bobs = duet.alice.tunnel._control, duet.bob.tunnel._control
    acknowledged = alices.first

    def say(side: Side) -> None:
        duet.send(side, stream, b"a word", finish=False)
        duet.talk()

    for side in duet.sides * 3:
        say(side)
    assert alices.first == acknowledged and bobs.ack_at is not None
    duet.sleep(0.06)
    say(duet.bob)
    assert alices.first == alices.end and bobs.ack_at is None, "a while later it goes along"
    say(duet.alice)
    duet.sleep(0.11)
    duet.talk()
    assert alices.first == alices.end, "or by itself, when it is due"
