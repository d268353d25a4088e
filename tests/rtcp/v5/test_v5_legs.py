"""Legs: who gets one, how a stream moves there, and every way in which one ends."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rtcp.v5.carrier import Kind
from rtcp.v5.closing import Close, CloseCode
from rtcp.v5.events import CarrierWanted, LegReady
from rtcp.v5.frames import Stop
from rtcp.v5.life import PROVED, Why
from rtcp.v5.limits import Bounds
from rtcp.v5.payloads import Feature, Parameters
from tests.rtcp.v5.duet import BULK, CALLABLE, FLOW, HIDDEN, PACKETS, PLAIN, WEB, Duet, Side, standing


def channels(duet: Duet) -> set[int]:
    return {one.channel for one in duet.pipes.values() if not one.closed}


def readies(side: Side) -> list[LegReady]:
    return [one for one in side.events if isinstance(one, LegReady)]


def much(side: Side, stream: int, now: float) -> None:
    """It has sent much there a moment ago, and goes on."""
    side.tunnel._conversations[stream].bulk = True
    side.tunnel.send(stream, b"", now)


def test_a_stream_opened_as_bulk_moves_to_a_leg_both_ways_and_the_leg_ends_with_it():
    duet = standing()
    stream = duet.alice.tunnel.open(BULK, duet.now)
    duet.alice.tunnel.send(stream, b"early, on control", duet.now)
    duet.talk()
    assert readies(duet.alice) == readies(duet.bob) == [LegReady(stream, 1)] and channels(duet) == {0, 1}
    before = len(duet.all_sent["alice"])
    duet.send(duet.alice, stream, bytes(1 << 20))
    duet.send(duet.bob, stream, bytes(100_000))
    duet.sleep(1)
    assert len(duet.bob.told(stream).data) == 17 + (1 << 20) and len(duet.alice.told(stream).data) == 100_000
    assert len(duet.all_sent["alice"]) - before < (1 << 20) * 1.01
    assert channels(duet) == {0} and not any(side.ended for side in duet.sides)


def test_a_stream_that_sends_much_becomes_bulk():
    duet = standing()
    stream = duet.alice.tunnel.open(WEB, duet.now)
    duet.talk()
    duet.send(duet.alice, stream, bytes(900_000), finish=False)
    duet.talk()
    assert channels(duet) == {0}
    duet.send(duet.alice, stream, bytes(900_000), finish=False)
    duet.sleep(0.5)
    duet.send(duet.alice, stream, b"")
    assert readies(duet.alice) == [LegReady(stream, 1)]
    duet.sleep(1)
    assert len(duet.bob.told(stream).data) == 1_800_000 and duet.bob.told(stream).finished


def test_who_cannot_call_asks_for_a_leg():
    duet = standing(HIDDEN, CALLABLE)
    stream = duet.alice.tunnel.open(WEB, duet.now)
    duet.talk()
    much(duet.bob, stream, duet.now)
    much(duet.bob, stream, duet.now)
    duet.sleep(0.5)
    assert CarrierWanted(1, Why.LEG) in duet.alice.events and readies(duet.bob) == [LegReady(stream, 1)]
    assert not any(isinstance(one, CarrierWanted) for one in duet.bob.events)


def test_of_two_legs_for_one_conversation_the_initiators_stands():
    duet = standing(CALLABLE, CALLABLE)
    stream = duet.alice.tunnel.open(WEB, duet.now)
    duet.talk()
    for side in duet.sides:
        much(side, stream, duet.now)
    duet.sleep(0.5)
    assert readies(duet.alice) == readies(duet.bob) == [LegReady(stream, 1)] and channels(duet) == {0, 1}
    duet.send(duet.bob, stream, bytes(300_000))
    duet.send(duet.alice, stream, bytes(300_000))
    duet.sleep(1)
    assert duet.alice.told(stream).finished and duet.bob.told(stream).finished and channels(duet) == {0}


def test_no_legs_no_difference():
    for his in (PLAIN, Parameters(features=Feature.LEGS, legs=0)):
        duet = standing(HIDDEN, his)
        stream = duet.alice.tunnel.open(BULK, duet.now)
        duet.send(duet.alice, stream, bytes(2 << 20))
        duet.sleep(1)
        assert duet.bob.told(stream).finished and channels(duet) == {0}


def test_at_most_so_many_at_a_time():
    duet = standing(HIDDEN, Parameters(legs=2))
    for _ in range(5):
        duet.alice.tunnel.open(BULK, duet.now)
    duet.talk()
    assert channels(duet) == {0, 1, 3}


def test_a_leg_nobody_calls_costs_nothing():
    duet = standing()
    duet.calls = "lost"
    stream = duet.alice.tunnel.open(BULK, duet.now)
    duet.send(duet.alice, stream, bytes(500_000), finish=False)
    duet.sleep(40)
    assert len(duet.bob.told(stream).data) == 500_000
    duet.send(duet.alice, stream, b"the end")
    duet.talk()
    assert duet.bob.told(stream).finished and not any(side.tunnel._legs for side in duet.sides)


@pytest.mark.parametrize("lose", [True, False])
def test_a_leg_that_breaks_is_called_again_and_nothing_is_missing(lose):
    duet = standing()
    data = bytes(range(256)) * 8192
    stream = duet.alice.tunnel.open(BULK, duet.now)
    duet.talk()
    for at in range(0, len(data), 100_000):
        duet.send(duet.alice, stream, data[at : at + 100_000], finish=False)
        duet.write()
        duet.cut(1, lose=lose)
        duet.sleep(PROVED)
    duet.alice.tunnel.finish(stream, duet.now)
    duet.sleep(1)
    assert duet.bob.told(stream).data == data and duet.bob.told(stream).finished
    assert CarrierWanted(1, Why.BROKEN) in duet.alice.events


def test_a_leg_lost_for_good_ends_its_stream_alone():
    duet = standing(HIDDEN, Parameters(hold=10))
    stream, other = duet.alice.tunnel.open(BULK, duet.now), duet.alice.tunnel.open(WEB, duet.now)
    duet.talk()
    duet.calls = "lost"
    duet.cut(1)
    duet.sleep(15)
    assert duet.alice.told(stream).reset == duet.bob.told(stream).reset == Stop.LOST
    duet.send(duet.alice, other, b"fine")
    duet.talk()
    assert duet.bob.told(other).finished


@pytest.mark.parametrize("resets", ["alice", "bob"])
def test_reset_takes_the_leg_with_it(resets):
    duet = standing()
    stream = duet.alice.tunnel.open(BULK, duet.now)
    duet.talk()
    duet.send(duet.alice, stream, bytes(100_000), finish=False)
    side = duet.alice if resets == "alice" else duet.bob
    side.tunnel.reset(stream, Stop.CANCELLED, duet.now)
    duet.sleep(1)
    assert duet.other(side).told(stream).reset == Stop.CANCELLED, "not LOST, though the leg is closed on another pipe"
    assert channels(duet) == {0} and not any(one.tunnel.kept for one in duet.sides)


def test_who_closes_a_leg_in_peace_has_said_why_on_control():
    """The CLOSE of the leg overtakes the FIN on control: the stream waits for it."""
    duet = standing()
    stream = duet.alice.tunnel.open(BULK, duet.now)
    duet.talk()
    (end,) = (one for one in duet.pipes.values() if one.side is duet.bob and one.channel == 1)
    end.sent += end.carrier.seal(Kind.LOOSE, (Close(CloseCode.DONE).frame(),), duet.now)
    duet.deliver(end)
    duet.alice.listen()
    assert duet.alice.told(stream).reset is None and duet.alice.tunnel.conversations == 1
    duet.deaf.add(duet.bob)
    duet.sleep(31)
    assert duet.alice.told(stream).reset == Stop.LOST, "but not for ever"


def test_a_leg_the_peer_is_done_with_is_done():
    duet = standing()
    stream = duet.alice.tunnel.open(BULK, duet.now)
    duet.talk()
    duet.send(duet.bob, stream, b"last")
    duet.alice.tunnel.finish(stream, duet.now)
    duet.talk()
    assert channels(duet) == {0} or duet.sleep(1) is None
    assert channels(duet) == {0} and duet.bob.tunnel.kept == 0


def test_packets_travel_on_a_leg_of_their_own():
    both = Parameters(features=HIDDEN.features | Feature.PACKETS)
    duet = standing(both, both)
    flow = duet.alice.tunnel.open(PACKETS, duet.now)
    duet.talk()
    assert readies(duet.alice) == [LegReady(flow, 1)]
    before = len(duet.all_sent["alice"])
    duet.alice.tunnel.send_datagram(flow, None, bytes(65_000), duet.now)
    duet.talk()
    assert duet.bob.told(flow).datagrams == [(None, bytes(65_000))] and len(duet.all_sent["alice"]) - before < 65_200
    duet.alice.tunnel.reset(flow, Stop.CANCELLED, duet.now)
    duet.sleep(0.2)
    assert channels(duet) == {0} and duet.bob.told(flow).reset == Stop.CANCELLED


def test_raw_bytes_and_fin_that_overtake_the_shift_wait():
    duet = standing()
    stream = duet.alice.tunnel.open(BULK, duet.now)
    duet.calls = "late"
    duet.talk()
    control = next(one for one in duet.pipes.values() if one.side is duet.alice and one.channel == 0)
    duet.arrive(*duet.late.pop())
    duet.write()
    for pipe in list(duet.pipes.values()):
        duet.deliver(pipe)
    duet.alice.listen()
    assert readies(duet.alice) == [LegReady(stream, 1)]
    duet.alice.tunnel.send(stream, b"fast", duet.now)
    duet.alice.tunnel.finish(stream, duet.now)
    duet.write()
    assert control.sent, "the SHIFT is still on its way"
    for pipe in list(duet.pipes.values()):
        if pipe is not control:
            duet.deliver(pipe)
    duet.bob.listen()
    assert not duet.bob.told(stream).data and not duet.bob.ended
    duet.talk()
    assert duet.bob.told(stream).data == b"fast" and duet.bob.told(stream).finished


def test_a_leg_keeps_no_more_than_its_bound():
    duet = standing(bounds=Bounds(leg_kept=100_000, most_leg_kept=200_000))
    stream = duet.alice.tunnel.open(BULK, duet.now)
    duet.talk()
    duet.deaf.add(duet.bob)
    for _ in range(100):
        duet.alice.tunnel.send(stream, bytes(65_536), duet.now)
        duet.turn()
    assert duet.alice.tunnel.kept <= 200_000 + 65_536 * 2 + (512 << 10)


def test_flows_may_have_a_leg():
    duet = standing()
    flow = duet.alice.tunnel.open(replace(FLOW, bulk=True), duet.now)
    duet.talk()
    for side in duet.sides:
        side.tunnel.send_datagram(flow, None, side.name.encode(), duet.now)
    duet.talk()
    assert duet.bob.told(flow).datagrams == [(None, b"alice")] and duet.alice.told(flow).datagrams == [(None, b"bob")]


def test_a_flow_whose_leg_is_lost_goes_on_on_control():
    duet = standing(HIDDEN, Parameters(features=HIDDEN.features, hold=10))
    flow = duet.alice.tunnel.open(replace(FLOW, bulk=True), duet.now)
    duet.sleep(0.5)
    duet.calls = "lost"
    duet.cut(1)
    duet.sleep(12)
    assert channels(duet) == {0}
    for side in duet.sides:
        side.tunnel.send_datagram(flow, None, side.name.encode(), duet.now)
    duet.talk()
    assert duet.bob.told(flow).datagrams == [(None, b"alice")] and duet.alice.told(flow).datagrams == [(None, b"bob")]
