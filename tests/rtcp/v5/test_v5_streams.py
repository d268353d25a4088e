"""Conversations over a tunnel that nobody disturbs: opening, both ways of ending, credit, flows, draining."""

from __future__ import annotations

import pytest

from cyfs_ns.errors import Misuse, Refused, Unreachable
from rtcp.events import End
from rtcp.v5.closing import CloseCode
from rtcp.v5.events import Stands
from rtcp.v5.frames import Code, Opening, Purpose, Stop
from rtcp.v5.limits import Bounds
from rtcp.v5.payloads import Parameters
from tests.rtcp.v5.duet import ASSOCIATION, BULK, CALLABLE, FLOW, HIDDEN, PACKETS, PLAIN, WEB, Duet, standing


def test_the_tunnel_stands_on_both_sides_and_the_caller_learns_its_address():
    duet = standing()
    assert duet.alice.events == [Stands(("192.0.2.1", 4711))] and duet.bob.events == [Stands(None)]


def test_data_may_follow_the_request_and_the_request_the_handshake():
    duet = Duet()
    stream = duet.alice.tunnel.open(WEB, duet.now)
    assert duet.alice.tunnel.send(stream, b"GET / HTTP/1.1\r\n", duet.now) == 16
    duet.alice.tunnel.finish(stream, duet.now)
    assert not duet.alice.tunnel.is_up
    duet.talk()
    assert duet.bob.told(stream).opening == WEB
    assert duet.bob.told(stream).data == b"GET / HTTP/1.1\r\n" and duet.bob.told(stream).finished
    duet.send(duet.bob, stream, b"hello")
    duet.talk()
    assert duet.alice.told(stream).data == b"hello" and duet.alice.told(stream).finished
    assert duet.alice.tunnel.conversations == duet.bob.tunnel.conversations == 0


@pytest.mark.parametrize("hers", [HIDDEN, PLAIN])
@pytest.mark.parametrize("opening", [WEB, BULK])
def test_megabytes_both_ways_arrive_once_and_in_order(hers, opening):
    duet = standing(hers)
    data = bytes(range(251)) * 20_000
    stream = duet.alice.tunnel.open(opening, duet.now)
    duet.talk()
    duet.send(duet.alice, stream, data)
    duet.send(duet.bob, stream, data[::-1])
    duet.sleep(1)
    assert duet.bob.told(stream).data == data and duet.alice.told(stream).data == data[::-1]
    assert duet.bob.told(stream).finished and duet.alice.told(stream).finished
    for side in duet.sides:
        assert side.tunnel.conversations == side.tunnel.unread == side.tunnel.kept == 0


def test_both_sides_open_and_ids_never_meet():
    duet = standing()
    opened = {side.name: [side.tunnel.open(WEB, duet.now) for _ in range(3)] for side in duet.sides}
    duet.talk()
    assert opened == {"alice": [1, 3, 5], "bob": [2, 4, 6]}
    assert all(duet.alice.told(one).answer == Code.YES for one in opened["alice"])


def test_nothing_is_heard_before_the_rules_have_spoken():
    duet = standing()
    duet.bob.answers = lambda side, asked: None
    stream = duet.alice.tunnel.open(WEB, duet.now)
    duet.alice.tunnel.send(stream, b"early", duet.now)
    duet.alice.tunnel.finish(stream, duet.now)
    duet.talk()
    assert not duet.bob.told(stream).data and not duet.bob.told(stream).finished and duet.bob.tunnel.unread == 5
    with pytest.raises(Misuse):
        duet.bob.tunnel.send(stream, b"x", duet.now)
    assert duet.bob.tunnel.answer(stream, Code.YES, duet.now)
    duet.talk()
    assert duet.bob.told(stream).data == b"early" and duet.bob.told(stream).finished


def test_a_refused_conversation_leaves_nothing():
    duet = standing()
    duet.bob.answers = lambda side, asked: side.tunnel.answer(asked.id, Code.NOT_AUTHORIZED, duet.now, "not you")
    stream = duet.alice.tunnel.open(WEB, duet.now)
    duet.alice.tunnel.send(stream, b"early", duet.now)
    duet.talk()
    assert duet.alice.told(stream).answer == Code.NOT_AUTHORIZED and duet.alice.events[-1].reason == "not you"
    assert duet.alice.tunnel.conversations == duet.bob.tunnel.conversations == duet.bob.tunnel.unread == 0
    assert duet.alice.tunnel.send(stream, b"more", duet.now) == 4, "dropped, as the program cannot know yet"


def test_who_never_answers_is_answered_for():
    duet = standing()
    duet.bob.answers = lambda side, asked: None
    stream = duet.alice.tunnel.open(WEB, duet.now)
    duet.sleep(61)
    assert duet.alice.told(stream).answer == Code.TIMEOUT and duet.bob.told(stream).reset == Stop.TIMEOUT
    assert not duet.bob.tunnel.answer(stream, Code.YES, duet.now), "too late"
    assert duet.alice.tunnel.conversations == duet.bob.tunnel.conversations == 0


def test_the_opener_gives_up_in_the_end():
    duet = standing(bounds=Bounds(answer=90))
    duet.bob.answers = lambda side, asked: None
    stream = duet.alice.tunnel.open(WEB, duet.now)
    duet.sleep(66)
    assert duet.alice.told(stream).answer == Code.TIMEOUT and duet.bob.told(stream).reset == Stop.TIMEOUT


def test_half_close_lets_the_other_half_go_on():
    duet = standing()
    stream = duet.alice.tunnel.open(WEB, duet.now)
    duet.send(duet.alice, stream, b"question")
    duet.talk()
    assert duet.bob.told(stream).finished and duet.bob.tunnel.conversations == 1
    with pytest.raises(Misuse):
        duet.alice.tunnel.send(stream, b"more", duet.now)
    duet.send(duet.bob, stream, b"answer" * 1000)
    duet.talk()
    assert duet.alice.told(stream).data == b"answer" * 1000 and duet.alice.tunnel.conversations == 0


def test_stop_ends_what_comes_and_not_what_goes():
    duet = standing()
    duet.alice.reads = False
    stream = duet.alice.tunnel.open(WEB, duet.now)
    duet.talk()
    duet.bob.tunnel.send(stream, bytes(50_000), duet.now)
    duet.talk()
    duet.bob.tunnel.send(stream, bytes(100_000), duet.now)
    duet.alice.tunnel.stop(stream, Stop.CANCELLED, duet.now)
    assert duet.alice.tunnel.unread == 0
    duet.talk()
    assert duet.bob.told(stream).stopped == Stop.CANCELLED and not duet.alice.told(stream).finished
    assert duet.bob.tunnel.send(stream, b"more", duet.now) == 4
    duet.send(duet.alice, stream, b"still here")
    duet.talk()
    assert duet.bob.told(stream).data == b"still here" and duet.bob.told(stream).finished
    assert duet.alice.tunnel.conversations == duet.bob.tunnel.conversations == 0


def test_reset_ends_both_halves_with_its_code():
    duet = standing()
    duet.bob.reads = False
    stream = duet.alice.tunnel.open(WEB, duet.now)
    duet.alice.tunnel.send(stream, bytes(5000), duet.now)
    duet.talk()
    duet.alice.tunnel.reset(stream, Stop.TARGET_RESET, duet.now)
    duet.talk()
    assert duet.bob.told(stream).reset == Stop.TARGET_RESET and duet.alice.told(stream).reset is None
    assert duet.bob.tunnel.unread == duet.bob.tunnel.conversations == duet.alice.tunnel.conversations == 0


def test_who_does_not_read_stops_the_sender_and_nobody_else():
    duet = standing(PLAIN)
    duet.bob.reads = False
    slow, fast = duet.alice.tunnel.open(WEB, duet.now), duet.alice.tunnel.open(WEB, duet.now)
    duet.talk()
    sent = 0
    while taken := duet.alice.tunnel.send(slow, bytes(100_000), duet.now):
        sent += taken
        duet.talk()
    assert sent == len(duet.bob.told(slow).data) == 65536
    duet.bob.reads = True
    duet.send(duet.alice, fast, bytes(3 << 20))
    duet.talk()
    assert len(duet.bob.told(fast).data) == 3 << 20
    duet.alice.room.clear()
    duet.bob.tunnel.consumed(slow, 32767, duet.now)
    duet.talk()
    assert slow not in duet.alice.room, "credit is renewed when half the window was read"
    duet.bob.tunnel.consumed(slow, 1, duet.now)
    duet.talk()
    assert slow in duet.alice.room and duet.alice.tunnel.send(slow, bytes(100_000), duet.now) == 32768
    with pytest.raises(Misuse):
        duet.bob.tunnel.consumed(slow, 1 << 20, duet.now)


def test_the_window_of_a_fast_reader_grows_to_its_bound():
    duet = standing(PLAIN)
    stream = duet.alice.tunnel.open(WEB, duet.now)
    duet.talk()
    duet.send(duet.alice, stream, bytes(8 << 20), finish=False)
    duet.talk()
    duet.bob.reads = False
    got = len(duet.bob.told(stream).data)
    for _ in range(40):
        duet.alice.tunnel.send(stream, bytes(1 << 20), duet.now)
        duet.talk()
    assert 512 << 10 <= len(duet.bob.told(stream).data) - got <= 1 << 20


def test_what_nobody_reads_is_bounded_and_reset():
    duet = standing(PLAIN)
    duet.bob.reads = False
    streams = [duet.alice.tunnel.open(WEB, duet.now) for _ in range(100)]
    handed_in = 0
    for stream in streams:
        handed_in += duet.alice.tunnel.send(stream, bytes(65536), duet.now)
        duet.sleep(0.005)
    assert handed_in <= 5 << 20
    duet.talk()
    assert (4 << 20) - 65536 <= duet.bob.tunnel.unread <= 4 << 20
    duet.sleep(31)
    assert duet.bob.told(streams[0]).reset == Stop.STALLED and duet.alice.told(streams[0]).reset == Stop.STALLED
    duet.sleep(60)
    assert sum(len(duet.bob.told(one).data) for one in streams) == handed_in
    assert not any(side.tunnel.is_ended for side in duet.sides)


def test_those_that_nobody_reads_do_not_stop_the_others_for_long():
    duet = standing(PLAIN)
    echo = duet.alice.tunnel.open(WEB, duet.now)
    duet.talk()
    duet.bob.reads = False
    endless = [duet.alice.tunnel.open(WEB, duet.now) for _ in range(300)]
    for _ in range(12):
        for stream in endless:
            duet.alice.tunnel.send(stream, bytes(65536), duet.now)
        duet.sleep(0.01)
    assert duet.bob.tunnel.unread > (4 << 20) - 65536
    duet.alice.tunnel.send(echo, b"still here?", duet.now)
    duet.talk()
    assert not duet.bob.told(echo).data
    duet.sleep(2)
    assert duet.bob.told(echo).data == b"still here?"
    left = [one for one in endless if duet.bob.told(one).reset is None]
    assert len(left) >= 30 and not any(side.tunnel.is_ended for side in duet.sides)


def test_small_streams_are_not_behind_a_large_one():
    duet = standing(PLAIN)
    duet.alice.tunnel.send(large := duet.alice.tunnel.open(BULK, duet.now), bytes(1 << 20), duet.now)
    duet.alice.tunnel.send(small := duet.alice.tunnel.open(WEB, duet.now), b"small", duet.now)
    (pipe,) = (one for one in duet.pipes.values() if one.side is duet.alice)
    for record in duet.alice.tunnel.data_to_send(pipe.carrier, duet.now, 1):
        pipe.sent += record
    duet.deliver(pipe)
    duet.bob.listen()
    assert duet.bob.told(small).data == b"small" and 0 < len(duet.bob.told(large).data) < 65536


def test_the_peer_says_how_many_it_takes():
    duet = standing(HIDDEN, Parameters(conversations=3))
    streams = [duet.alice.tunnel.open(WEB, duet.now) for _ in range(3)]
    with pytest.raises(Refused):
        duet.alice.tunnel.open(WEB, duet.now)
    duet.talk()
    duet.alice.tunnel.reset(streams[0], Stop.CANCELLED, duet.now)
    duet.talk()
    assert duet.alice.tunnel.open(WEB, duet.now) == 7


def test_what_is_not_offered_is_not_asked_for_and_unsupported_if_asked():
    duet = standing()
    with pytest.raises(Refused):
        duet.alice.tunnel.open(PACKETS, duet.now)
    strange = duet.alice.tunnel.open(Opening(9, ":1"), duet.now)
    other = duet.alice.tunnel.open(Opening(Purpose.STREAM, ":1", 7), duet.now)
    nowhere = duet.alice.tunnel.open(Opening(Purpose.ASSOCIATION, "192.0.2.1:1"), duet.now)
    duet.talk()
    told = duet.alice.told
    assert told(strange).answer == told(other).answer == Code.UNSUPPORTED and told(nowhere).answer == Code.BAD_TARGET
    for bad in ("", "x" * 2049):
        with pytest.raises(Misuse):
            duet.alice.tunnel.open(Opening(Purpose.STREAM, bad), duet.now)


def test_datagrams_go_both_ways_and_wait_for_the_answer():
    duet = standing(PLAIN)
    duet.bob.answers = lambda side, asked: None
    flow = duet.alice.tunnel.open(FLOW, duet.now)
    for at in range(40):
        duet.alice.tunnel.send_datagram(flow, None, b"%d" % at, duet.now)
        duet.talk()
    duet.bob.tunnel.answer(flow, Code.YES, duet.now)
    duet.talk()
    assert duet.bob.told(flow).datagrams == [(None, b"%d" % at) for at in range(32)]
    duet.bob.tunnel.send_datagram(flow, None, b"", duet.now)
    duet.bob.tunnel.send_datagram(flow, None, bytes(65507), duet.now)
    duet.bob.tunnel.send_datagram(flow, None, bytes(65508), duet.now)
    duet.talk()
    assert duet.alice.told(flow).datagrams == [(None, b""), (None, bytes(65507))]
    duet.bob.tunnel.reset(flow, Stop.CANCELLED, duet.now)
    duet.talk()
    assert duet.alice.told(flow).reset == Stop.CANCELLED and not duet.alice.tunnel.conversations


@pytest.mark.parametrize("flows", [1, 16, 200])
def test_datagrams_that_nobody_takes_are_dropped_however_many_flows_there_are(flows):
    duet = standing(PLAIN)
    opened = [duet.alice.tunnel.open(FLOW, duet.now) for _ in range(flows)]
    duet.talk()
    for _ in range(400_000 // 1000):
        for flow in opened:
            duet.alice.tunnel.send_datagram(flow, None, bytes(1000), duet.now)
    assert 200_000 < duet.alice.tunnel.kept < max(256 << 10, flows * (16 << 10)) + (1 << 10)
    duet.talk()
    assert all(duet.bob.told(flow).datagrams for flow in opened)
    duet.alice.tunnel.send_datagram(opened[0], None, bytes(65507), duet.now)
    duet.talk()
    assert duet.bob.told(opened[0]).datagrams[-1] == (None, bytes(65507))


def test_an_association_talks_to_256_at_a_time():
    duet = standing(PLAIN)
    flow = duet.alice.tunnel.open(ASSOCIATION, duet.now)
    duet.talk()
    there = [(f"192.0.2.{at % 250}", 1000 + at) for at in range(300)] + [("name.example", 53), ("2001:db8::1", 53)]
    for address in there:
        duet.alice.tunnel.send_datagram(flow, address, b"?", duet.now)
        duet.talk()
    assert [address for address, _ in duet.bob.told(flow).datagrams] == there[:256]
    duet.sleep(61)
    for address in there[-2:]:
        duet.alice.tunnel.send_datagram(flow, address, b"?", duet.now)
    duet.talk()
    assert [address for address, _ in duet.bob.told(flow).datagrams[256:]] == there[-2:]


def test_draining_lets_be_what_stands():
    duet = standing()
    stream = duet.alice.tunnel.open(WEB, duet.now)
    duet.talk()
    crossing = duet.alice.tunnel.open(WEB, duet.now)
    duet.bob.tunnel.drain()
    duet.bob.tunnel.drain()
    duet.talk()
    assert duet.alice.draining == stream and duet.alice.told(crossing).answer == Code.DRAINING
    with pytest.raises(Unreachable):
        duet.alice.tunnel.open(WEB, duet.now)
    duet.send(duet.alice, stream, b"goes on")
    duet.talk()
    assert duet.bob.told(stream).data == b"goes on"
    assert duet.alice.told(duet.bob.tunnel.open(WEB, duet.now)).reset is None


def test_a_clean_end_waits_until_all_is_said():
    duet = standing(CALLABLE, CALLABLE)
    stream = duet.alice.tunnel.open(WEB, duet.now)
    duet.talk()
    duet.send(duet.alice, stream, bytes(50_000))
    duet.alice.tunnel.close(duet.now, when_done=True)
    duet.sleep(1)
    assert len(duet.bob.told(stream).data) == 50_000 and duet.bob.told(stream).finished
    assert duet.bob.ended.end is duet.alice.ended.end is End.ASKED
    assert duet.bob.ended.code == CloseCode.DONE and duet.bob.told(stream).reset == Stop.LOST


@pytest.mark.parametrize(
    ("code", "end"),
    [
        (CloseCode.DONE, End.ASKED),
        (CloseCode.LIMIT, End.FAULT),
        (CloseCode.REVOKED, End.REFUSED),
        (CloseCode.DRAINED, End.LOST),
    ],
)
def test_the_end_says_what_to_do_next(code, end):
    duet = standing()
    stream = duet.alice.tunnel.open(WEB, duet.now)
    duet.talk()
    duet.bob.tunnel.close(duet.now, code, wait=7, reason="so it is")
    duet.talk()
    told = duet.alice.ended
    assert (told.end, told.code, told.wait, told.why) == (end, code, 7, "so it is")
    assert duet.alice.told(stream).reset == duet.bob.told(stream).reset == Stop.LOST
    assert duet.alice.tunnel.next_deadline() is None
    with pytest.raises(Unreachable):
        duet.alice.tunnel.open(WEB, duet.now)


def test_who_sends_much_is_behind_who_sends_little_even_without_legs():
    duet = standing(PLAIN)
    large = duet.alice.tunnel.open(WEB, duet.now)
    duet.talk()
    duet.send(duet.alice, large, bytes(2 << 20), finish=False)
    duet.talk()
    small = [duet.alice.tunnel.open(WEB, duet.now) for _ in range(50)]
    duet.talk()
    assert duet.alice.tunnel.send(large, bytes(100_000), duet.now) == 100_000
    for one in small:
        duet.alice.tunnel.send(one, bytes(1000), duet.now)
    (pipe,) = (one for one in duet.pipes.values() if one.side is duet.alice)
    before = len(duet.bob.told(large).data)
    for record in duet.alice.tunnel.data_to_send(pipe.carrier, duet.now, 1):
        pipe.sent += record
    duet.deliver(pipe)
    duet.bob.listen()
    assert all(len(duet.bob.told(one).data) == 1000 for one in small)
    assert len(duet.bob.told(large).data) - before < 20_000
