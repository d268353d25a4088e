"""Bare legs: when one comes to be, in which order the two directions go there, and how much it takes to end one."""

from __future__ import annotations

import pytest

from rtcp.events import End
from rtcp.v5 import frames as f
from rtcp.v5.channel import Claim
from rtcp.v5.closing import CloseCode
from rtcp.v5.events import BareLegStands, LegReady, PeerFinished, PeerShifted, TunnelEvent
from rtcp.v5.frames import Stop
from tests.rtcp.v5.duet import BULK, CALLABLE, HIDDEN, Duet, Side, standing
from tests.rtcp.v5.test_v5_bad_peer import said_fault, say


def bare_events(side: Side) -> list[type[TunnelEvent]]:
    kinds = (BareLegStands, LegReady, PeerShifted)
    return [type(one) for one in side.events if isinstance(one, kinds)]


def bare(*, alices: bool = True, bobs: bool = True, calls: str = "arrive") -> tuple[Duet, int]:
    """A stream of alice's that is bulk from the start, and who says that what it carries is sealed."""
    duet = standing(HIDDEN, CALLABLE)
    duet.calls = calls
    stream = duet.alice.tunnel.open(BULK, duet.now)
    if alices:
        duet.alice.tunnel.sealed(stream)
    answers = duet.bob.answers

    def answer(side: Side, asked) -> None:
        answers(side, asked)
        if bobs:
            side.tunnel.sealed(asked.id)

    duet.bob.answers = answer
    duet.talk()
    return duet, stream


def test_the_caller_goes_first_and_the_called_follows():
    duet, stream = bare()
    assert bare_events(duet.alice) == [BareLegStands, LegReady, PeerShifted]
    assert bare_events(duet.bob) == [BareLegStands, PeerShifted, LegReady]
    leg = next(one for one in duet.pipes.values() if one.channel and one.side is duet.alice)
    assert not leg.sent and leg.bare, "nothing but message 3 and a WELCOME was ever said there by machines"
    assert duet.alice.tunnel.send(stream, b"by the tunnel", duet.now) == 0
    assert duet.alice.tunnel.legs == [] and not duet.alice.tunnel.has_to_say


@pytest.mark.parametrize("who", ["alice", "bob"])
def test_a_leg_of_which_one_side_knows_nothing_is_sealed(who):
    duet, stream = bare(alices=who == "alice", bobs=who == "bob")
    assert bare_events(duet.alice) == bare_events(duet.bob) == [LegReady]
    duet.send(duet.alice, stream, bytes(100_000))
    duet.sleep(1)
    assert len(duet.bob.told(stream).data) == 100_000 and duet.bob.told(stream).finished


def test_what_waits_goes_over_control_before_the_first_byte_goes_there():
    duet, stream = bare(calls="lost")
    duet.alice.reads = duet.bob.reads = False
    duet.send(duet.alice, stream, bytes(64 << 10), finish=False)
    assert duet.alice.tunnel.send(stream, bytes(1), duet.now) == 0, "no credit"
    duet.bob.read(stream)
    duet.calls = "arrive"
    duet.sleep(1)
    assert bare_events(duet.alice)[:2] == [BareLegStands, LegReady]
    assert len(duet.bob.told(stream).data) == 64 << 10
    at = duet.bob.events.index(PeerShifted(stream))
    assert not any(isinstance(one, PeerFinished) for one in duet.bob.events[:at])


def test_the_end_says_how_much_went_there():
    duet, stream = bare()
    duet.alice.tunnel.finish(stream, duet.now, 12345)
    duet.bob.tunnel.finish(stream, duet.now, 1)
    duet.talk()
    assert PeerFinished(stream, 12345) in duet.bob.events and PeerFinished(stream, 1) in duet.alice.events
    for side in duet.sides:
        assert not side.tunnel.conversations and not side.tunnel._legs and not side.ended


def told_of_more() -> tuple[Duet, int]:
    """Both have finished, and bob has not read all that alice says she sent over the leg."""
    duet, stream = bare()
    duet.bob.reads = False
    duet.bob.tunnel.finish(stream, duet.now, 0)
    duet.alice.tunnel.finish(stream, duet.now, 1 << 60)
    duet.talk()
    return duet, stream


def test_a_stream_is_past_when_what_was_said_to_come_is_read():
    """Else who promises much would have as many connections as it likes."""
    duet, stream = told_of_more()
    assert list(duet.bob.tunnel._conversations) == [stream] and len(duet.bob.tunnel._legs) == 1
    duet.bob.tunnel.complete(stream, duet.now)
    duet.talk()
    assert not any(side.tunnel.conversations or side.tunnel._legs or side.ended for side in duet.sides)


@pytest.mark.parametrize("how", ["stop", "reset", "close"])
def test_what_was_said_to_come_is_waited_for_by_nobody_who_wants_it_no_more(how):
    duet, stream = told_of_more()
    if how == "close":
        duet.alice.tunnel.close(duet.now)
    else:
        getattr(duet.bob.tunnel, how)(stream, Stop.CANCELLED, duet.now)
    duet.talk()
    assert not duet.bob.tunnel.conversations and not duet.bob.tunnel._legs
    assert (duet.bob.told(stream).reset == Stop.LOST) is (how == "close"), "its end is told"
    assert how == "close" or not any(side.ended for side in duet.sides)


@pytest.mark.parametrize("who", ["alice", "bob"])
def test_a_leg_that_comes_when_its_program_has_closed_the_stream_takes_nothing_from_what_waits(who):
    duet, stream = bare(calls="late")
    closer, other = duet.sides if who == "alice" else reversed(duet.sides)
    ((end, claim),) = duet.late
    if who == "alice":
        duet.arrive(end, claim, bare=True)
    assert closer.tunnel.send(stream, bytes(60_000), duet.now) == 60_000
    closer.tunnel.finish(stream, duet.now)
    closer.tunnel.stop(stream, Stop.CANCELLED, duet.now)
    if who == "bob":
        duet.arrive(end, claim, bare=True)
    duet.talk()
    assert BareLegStands not in bare_events(closer)
    assert len(other.told(stream).data) == 60_000 and other.told(stream).finished and other.told(stream).reset is None
    other.tunnel.finish(stream, duet.now)
    duet.sleep(1)
    assert not any(side.tunnel.conversations or side.tunnel.legs or side.ended for side in duet.sides)


def test_a_second_carrier_for_it_is_not_taken_whoever_calls():
    """Its id, stolen or not, is good for one connection."""
    duet, stream = bare()
    for move in (1, 2):
        pipe, end = duet.lay(duet.alice, 1)
        said = duet.arrive(end, Claim(1, move, 0), bare=True)
        assert said is not None and said.code is CloseCode.DONE
    assert duet.alice.tunnel.claim(1, duet.now, unasked=True) is None
    assert not duet.alice.ended and not duet.bob.ended
    duet.alice.tunnel.reset(stream, Stop.CANCELLED, duet.now)
    duet.talk()
    pipe, end = duet.lay(duet.alice, 1)
    said = duet.arrive(end, Claim(1, 3, 0), bare=True)
    assert said is not None and said.code is CloseCode.DONE and pipe.channel == 1


def test_where_the_welcome_is_lost_the_stream_stays_on_control():
    duet, stream = bare(calls="late")
    ((end, claim),) = duet.late
    duet.calls = "arrive"
    assert duet.arrive(end, claim, bare=True) is None
    duet.bob.listen()
    duet.cut(1)
    duet.sleep(1)
    duet.send(duet.alice, stream, bytes(300_000))
    duet.send(duet.bob, stream, bytes(300_000))
    duet.sleep(1)
    assert len(duet.bob.told(stream).data) == len(duet.alice.told(stream).data) == 300_000
    assert duet.bob.told(stream).finished and duet.alice.told(stream).finished
    assert not any(side.tunnel.conversations or side.ended for side in duet.sides)


def test_a_leg_that_was_cut_has_half_a_minute_for_the_end_to_come():
    duet, stream = bare()
    duet.bob.tunnel.cut(stream, duet.now)
    duet.sleep(29)
    assert duet.bob.told(stream).reset is None
    duet.sleep(2)
    assert duet.bob.told(stream).reset == Stop.LOST and duet.alice.told(stream).reset == Stop.LOST
    assert not any(side.tunnel.conversations or side.tunnel._legs or side.ended for side in duet.sides)


def test_an_end_that_is_on_its_way_is_in_time():
    duet, stream = bare()
    duet.alice.tunnel.finish(stream, duet.now, 7)
    duet.bob.tunnel.cut(stream, duet.now)
    duet.bob.tunnel.finish(stream, duet.now, 0)
    duet.sleep(60)
    assert PeerFinished(stream, 7) in duet.bob.events and duet.bob.told(stream).reset is None


def test_an_end_behind_a_cut_leaves_the_other_direction_its_time():
    duet, stream = bare()
    duet.bob.tunnel.cut(stream, duet.now)
    duet.sleep(29)
    duet.alice.tunnel.finish(stream, duet.now, 7)
    duet.sleep(60)
    assert duet.bob.told(stream).reset is None and duet.alice.told(stream).reset is None
    duet.bob.tunnel.finish(stream, duet.now, 0)
    duet.talk()
    assert not any(side.tunnel.conversations or side.tunnel._legs or side.ended for side in duet.sides)


def test_who_is_asked_to_stop_says_how_much_there_was():
    duet, stream = bare()
    duet.bob.tunnel.stop(stream, Stop.CANCELLED, duet.now)
    duet.talk()
    assert duet.alice.told(stream).stopped == Stop.CANCELLED
    assert duet.alice.tunnel._conversations[stream].finished is False, "the program has counted"
    duet.alice.tunnel.finish(stream, duet.now, 99)
    duet.bob.tunnel.finish(stream, duet.now, 0)
    duet.talk()
    assert not duet.alice.tunnel.conversations and not duet.bob.tunnel.conversations


def test_control_that_is_held_holds_no_bare_leg_and_its_end_ends_them():
    duet, stream = bare()
    duet.calls = "lost"
    duet.cut(0)
    duet.sleep(60)
    assert duet.alice.told(stream).reset is None
    duet.sleep(61)
    assert duet.alice.told(stream).reset == duet.bob.told(stream).reset == Stop.LOST
    assert duet.alice.ended is not None and duet.alice.ended.end is End.LOST


@pytest.mark.parametrize(
    "said",
    [
        pytest.param([f.data_head(1, 2) + b"hi"], id="DATA behind SHIFT"),
        pytest.param([f.frame(f.FIN, 1)], id="FIN without a count"),
        pytest.param([f.frame(f.END, 1)], id="END without a count"),
        pytest.param([f.frame_u64(f.END, 1, 3), f.frame_u64(f.END, 1, 3)], id="END twice"),
        pytest.param([f.frame_u32(f.SHIFT, 1, 1)], id="SHIFT twice"),
        pytest.param([f.frame(f.BARE, 1)], id="BARE on control"),
    ],
)
def test_what_breaks_the_rules_of_one(said):
    duet, _ = bare()
    say(duet, *said)
    assert duet.bob.ended is not None and duet.bob.ended.end is End.FAULT and said_fault(duet)


def test_an_end_with_a_count_is_for_bare_legs_alone():
    duet, _ = bare(bobs=False)
    say(duet, f.frame_u64(f.END, 1, 3))
    assert duet.bob.ended is not None and duet.bob.ended.end is End.FAULT


def test_a_bare_leg_that_nobody_offered_is_none():
    """The called side says BARE behind its WELCOME, and the caller meant a sealed leg."""
    duet, stream = bare(alices=False, calls="late")
    duet.bob.tunnel.sealed(stream)
    ((end, claim),) = duet.late
    duet.arrive(end, claim, bare=True)
    duet.talk()
    assert duet.alice.ended is not None and duet.alice.ended.end is End.FAULT
    assert BareLegStands not in bare_events(duet.alice)
