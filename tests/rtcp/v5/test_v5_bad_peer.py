"""A peer that proved its key and then breaks one rule: the tunnel ends with a reason, and the house stands."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtcp.events import End
from rtcp.v5 import frames as f
from rtcp.v5.carrier import Kind
from rtcp.v5.channel import Claim
from rtcp.v5.closing import Close, CloseCode
from rtcp.v5.frames import Opening, Purpose
from rtcp.v5.limits import Bounds
from rtcp.v5.payloads import Feature, Parameters
from tests.rtcp.v5.duet import ASSOCIATION, BULK, CALLABLE, FLOW, HIDDEN, PLAIN, WEB, Duet, Pipe, standing

OPEN_1 = f.write_open(1, WEB)
OPEN_3 = f.write_open(3, WEB)
FLOW_1 = f.write_open(1, FLOW)
DATA_1 = f.data_head(1, 2) + b"hi"
FIN_1 = f.frame(f.FIN, 1)


def sealed(duet: Duet, *said: bytes, kind: Kind = Kind.NUMBERED, channel: int = 0) -> tuple[Pipe, bytearray]:
    """What alice's device says and her tunnel would not; so that has no part in it from here on."""
    duet.deaf.add(duet.alice)
    (pipe,) = (
        one for one in duet.pipes.values() if one.side is duet.alice and one.channel == channel and not one.closed
    )
    return pipe, pipe.carrier.seal(kind, said, duet.now)


def say(duet: Duet, *said: bytes, kind: Kind = Kind.NUMBERED, channel: int = 0) -> None:
    pipe, record = sealed(duet, *said, kind=kind, channel=channel)
    pipe.sent += record
    duet.talk()


def said_fault(duet: Duet) -> int:
    """On how many carriers bob said that alice broke the rules."""
    return sum(one[0] == f.CLOSE and one[8] == CloseCode.FAULT for one in duet.overheard)


NUMBERED = {
    "a frame over the end of its record": [OPEN_1 + f.HEAD.pack(f.DATA << 56 | 9 << 40 | 1) + b"short"],
    "less than a head": [OPEN_1 + b"\0" * 7],
    "an unknown frame below 80": [f.frame(0x7F, 0)],
    "type zero": [f.frame(0, 0)],
    "an id skipped": [OPEN_1, f.write_open(5, WEB)],
    "an id again": [OPEN_1, OPEN_1],
    "an id of ours": [f.write_open(2, WEB)],
    "id 0 opened": [f.write_open(0, WEB)],
    "an OPEN cut off": [f.frame(f.OPEN, 1, b"\1\0\0\1\0")],
    "an OPEN without a target": [f.frame(f.OPEN, 1, b"\1\0\0\1\0\0")],
    "an OPEN with half a target": [f.frame(f.OPEN, 1, b"\1\0\0\1\0\5:44")],
    "an OPEN with more behind it": [f.frame(f.OPEN, 1, b"\1\0\0\1\0\4:443x")],
    "an OPEN with unknown flags": [f.frame(f.OPEN, 1, b"\1\0\2\1\0\4:443")],
    "an OPEN with half a source": [f.frame(f.OPEN, 1, b"\1\0\1\1\0\4:443\4" + bytes(11))],
    "an OPEN in no UTF-8": [f.frame(f.OPEN, 1, b"\1\0\0\1\0\4:\xff43")],
    "an OPEN of too long a target": [f.frame(f.OPEN, 1, b"\1\0\0\1\x08\x01" + bytes(2049))],
    "DATA without data": [OPEN_1, f.frame(f.DATA, 1)],
    "DATA for what is not open yet": [DATA_1],
    "DATA behind FIN": [OPEN_1, FIN_1, DATA_1],
    "DATA for a flow": [FLOW_1, DATA_1],
    "FIN twice": [OPEN_1, FIN_1, FIN_1],
    "FIN with a payload": [OPEN_1, f.frame(f.FIN, 1, b"x")],
    "FIN for a flow": [FLOW_1, FIN_1],
    "FIN of what is not open yet": [FIN_1],
    "RESET without a code": [OPEN_1, f.frame(f.RESET, 1)],
    "RESET of what is not open yet": [f.frame_u8(f.RESET, 1, 32)],
    "RESET of nothing": [f.frame_u8(f.RESET, 0, 32)],
    "STOP of a flow": [FLOW_1, f.frame_u8(f.STOP, 1, 32)],
    "STOP with more": [OPEN_1, f.frame(f.STOP, 1, b"xx")],
    "CREDIT of half a number": [OPEN_1, f.frame_u32(f.CREDIT, 1, 5)],
    "CREDIT for a flow": [FLOW_1, f.frame_u64(f.CREDIT, 1, 5)],
    "CREDIT without end": [OPEN_1, f.frame_u64(f.CREDIT, 1, (1 << 48) + 1)],
    "CREDIT of the tunnel without end": [f.frame_u64(f.CREDIT, 0, (1 << 48) + 1)],
    "an ANSWER to nothing": [f.write_answer(2, 0)],
    "an ANSWER to itself": [OPEN_1, f.write_answer(1, 0)],
    "an ANSWER without a code": [f.frame(f.ANSWER, 2)],
    "a LEG that skips": [OPEN_1, f.frame_u32(f.LEG, 1, 3)],
    "a LEG of ours": [OPEN_1, f.frame_u32(f.LEG, 1, 2)],
    "a LEG for what is not open yet": [f.frame_u32(f.LEG, 1, 1)],
    "a carrier for a leg nobody announced": [OPEN_1, f.frame_u32(f.LEG_ASK, 1, 1)],
    "a SHIFT to a leg nobody announced": [OPEN_1, f.frame_u32(f.SHIFT, 1, 1)],
    "a SHIFT twice": [OPEN_1, f.frame_u32(f.LEG, 1, 1), *[f.frame_u32(f.SHIFT, 1, 1)] * 2],
    "DATA behind SHIFT": [OPEN_1, f.frame_u32(f.LEG, 1, 1), f.frame_u32(f.SHIFT, 1, 1), DATA_1],
    "FIN on control behind SHIFT": [OPEN_1, f.frame_u32(f.LEG, 1, 1), f.frame_u32(f.SHIFT, 1, 1), FIN_1],
    "an ACK of what was not sent": [f.frame_u64(f.ACK, 0, 1)],
    "an ACK of a conversation": [f.frame_u64(f.ACK, 1, 0)],
    "a DRAIN with an id of its own": [OPEN_1, f.frame(f.DRAIN, 1)],
    "a DRAIN with an id not open yet": [f.frame(f.DRAIN, 2)],
    "a PING that counts": [f.frame(f.PING, 0, bytes(8))],
    "a CLOSE that counts": [Close(CloseCode.DONE).frame()],
    "a DGRAM that counts": [FLOW_1, f.write_datagram(1, None, b"") or b""],
    "a WELCOME that counts": [f.write_welcome(0, None)],
}
LOOSE = {
    "a second WELCOME": [f.write_welcome(0, None)],
    "DATA that does not count": [DATA_1],
    "an OPEN that does not count": [OPEN_1],
    "a PING of another size": [f.frame(f.PING, 0, bytes(7))],
    "a PING of a conversation": [f.frame(f.PING, 1, bytes(8))],
    "a PONG of another size": [f.frame(f.PONG, 0, bytes(9))],
    "a CLOSE of a conversation": [f.frame(f.CLOSE, 1, bytes(3))],
    "a CLOSE cut off": [f.frame(f.CLOSE, 0, bytes(2))],
    "a DGRAM without an address": [f.frame(f.DGRAM, 0)],
    "a DGRAM with half an address": [f.frame(f.DGRAM, 0, b"\4\0\0")],
    "a DGRAM to no name": [f.frame(f.DGRAM, 0, b"\3\0\0\1")],
    "a DGRAM larger than UDP's": [f.frame(f.DGRAM, 0, bytes(65509))],
}


@pytest.mark.parametrize("what", NUMBERED)
def test_a_broken_rule_ends_the_tunnel(what):
    duet = standing()
    say(duet, *NUMBERED[what])
    assert duet.bob.ended is not None and duet.bob.ended.end is End.FAULT, what
    assert said_fault(duet) == 1


@pytest.mark.parametrize("what", LOOSE)
def test_so_does_one_in_a_loose_record(what):
    duet = standing()
    say(duet, *LOOSE[what], kind=Kind.LOOSE)
    assert duet.bob.ended is not None and duet.bob.ended.end is End.FAULT, what


@pytest.mark.parametrize(
    "said",
    [
        [f.frame(0x80, 5, b"whatever")],
        [f.frame(f.PAD, 0, bytes(500))],
        [OPEN_1, FIN_1, f.frame_u8(f.RESET, 1, 32), DATA_1, FIN_1, f.frame_u8(f.RESET, 1, 32)],
        [OPEN_1, f.frame_u64(f.CREDIT, 1, 1)],
        [OPEN_1, f.frame_u8(f.RESET, 1, 200)],
        [OPEN_1, f.frame_u32(f.LEG, 1, 1), f.frame_u8(f.RESET, 1, 32), f.frame_u32(f.LEG, 1, 3)],
        [f.frame(f.DRAIN, 0), f.frame(f.DRAIN, 0)],
    ],
)
def test_what_is_passed_over_changes_nothing(said):
    duet = standing()
    say(duet, *said)
    duet.sleep(3)
    assert duet.bob.ended is None and duet.bob.tunnel.unread == 0


@pytest.mark.parametrize("frame", [f.LEG, f.LEG_ASK, f.SHIFT])
def test_legs_that_were_not_agreed_on(frame):
    duet = standing(HIDDEN, PLAIN)
    say(duet, OPEN_1, f.frame_u32(frame, 1, 1))
    assert duet.bob.ended is not None and duet.bob.ended.end is End.FAULT


@pytest.mark.parametrize(
    "frame",
    [DATA_1.replace(b"\1hi", b"\2hi"), f.frame(f.FIN, 2), f.frame_u8(f.RESET, 2, 32), f.frame_u8(f.STOP, 2, 32)],
)
def test_nothing_but_credit_and_legs_before_the_answer(frame):
    duet = standing()
    duet.alice.answers = lambda side, asked: None
    duet.bob.tunnel.open(WEB, duet.now)
    duet.talk()
    if frame == DATA_1.replace(b"\1hi", b"\2hi"):
        frame = f.data_head(2, 2) + b"hi"
    say(duet, f.frame_u64(f.CREDIT, 2, 1 << 20), frame)
    assert duet.bob.ended is not None and duet.bob.ended.end is End.FAULT


def test_an_answer_comes_once():
    duet = standing()
    stream = duet.bob.tunnel.open(WEB, duet.now)
    duet.talk()
    say(duet, f.write_answer(stream, 0))
    assert duet.bob.ended is not None and "second" in duet.bob.ended.why


@pytest.mark.parametrize("size", [65_537, 65_536])
def test_the_credit_of_a_stream_is_its_bound(size):
    duet = standing()
    duet.bob.reads = False
    say(duet, OPEN_1, f.data_head(1, 40_000), bytes(40_000))
    say(duet, f.data_head(1, size - 40_000), bytes(size - 40_000))
    assert (duet.bob.ended is not None) == (size > 65_536)


def test_the_credit_of_the_tunnel_counts_what_is_past():
    duet = standing(HIDDEN, Parameters(tunnel_credit=1 << 16), bounds=Bounds(unread=1 << 16))
    duet.bob.reads = False
    say(duet, OPEN_1, f.data_head(1, 40_000), bytes(20_000), bytes(20_000))
    say(duet, OPEN_3, f.data_head(3, 30_000), bytes(30_000))
    assert duet.bob.ended is not None and "tunnel" in duet.bob.ended.why
    duet = standing(HIDDEN, Parameters(tunnel_credit=1 << 16))
    say(duet, OPEN_1, f.frame_u8(f.RESET, 1, 32))
    for _ in range(50):
        say(duet, f.data_head(1, 60_000), bytes(60_000))
    assert duet.bob.ended is None, "past, counted, and given back on arrival"


def test_raw_bytes_only_on_a_leg_and_nothing_else_there():
    duet = standing()
    say(duet, bytes(100), kind=Kind.RAW)
    assert duet.bob.ended is None and not duet.bob.tunnel.conversations, "no peer of ours: the carrier is cut"
    for frame in (OPEN_1, DATA_1, f.frame_u64(f.CREDIT, 1, 1 << 20), f.frame(f.FIN, 3)):
        duet = on_a_leg()
        say(duet, frame, channel=1)
        assert duet.bob.ended is not None and duet.bob.ended.end is End.FAULT, frame
        assert said_fault(duet) == 2, "on control and on the leg"


def on_a_leg() -> Duet:
    duet = standing()
    duet.alice.tunnel.open(BULK, duet.now)
    duet.talk()
    assert any(one.channel == 1 for one in duet.pipes.values())
    return duet


def test_the_end_of_a_leg_is_an_end():
    for behind in (FIN_1, b"raw"):
        duet = on_a_leg()
        say(duet, FIN_1, channel=1)
        say(duet, behind, kind=Kind.RAW if behind == b"raw" else Kind.NUMBERED, channel=1)
        assert duet.bob.ended is not None and duet.bob.ended.end is End.FAULT


def test_raw_bytes_beyond_credit():
    duet = on_a_leg()
    duet.bob.reads = False
    say(duet, bytes(65_536), kind=Kind.RAW, channel=1)
    assert duet.bob.ended is None
    say(duet, b"x", kind=Kind.RAW, channel=1)
    assert duet.bob.ended is not None and duet.bob.ended.end is End.FAULT


def test_a_datagram_comes_from_no_name_and_on_its_own_leg():
    duet = standing(PLAIN)
    flow = duet.bob.tunnel.open(ASSOCIATION, duet.now)
    duet.talk()
    say(duet, f.write_datagram(flow, ("evil.example", 53), b"") or b"", kind=Kind.LOOSE)
    assert duet.bob.ended is not None and "name" in duet.bob.ended.why
    duet = on_a_leg()
    say(duet, f.write_datagram(3, None, b"") or b"", kind=Kind.LOOSE, channel=1)
    assert duet.bob.ended is not None and duet.bob.ended.end is End.FAULT


def test_a_flood_of_opens_is_answered_and_leaves_nothing():
    duet = standing()
    duet.bob.answers = lambda side, asked: None
    opens = [f.write_open(at, WEB) for at in range(1, 12_001, 2)]
    for at in range(0, len(opens), 2000):
        say(duet, *opens[at : at + 2000])
    assert duet.bob.tunnel.conversations == 4000 and duet.bob.ended is None
    duet.sleep(1)
    say(duet, f.write_open(12_001, WEB))
    assert duet.bob.tunnel.conversations == 4001, "and the next second is another"


def test_more_at_a_time_than_promised():
    duet = standing(HIDDEN, Parameters(conversations=2, flows=1))
    duet.bob.answers = lambda side, asked: None
    say(duet, FLOW_1, f.write_open(3, FLOW), f.write_open(5, WEB), f.write_open(7, WEB))
    assert sorted(duet.bob.book) == [1, 5]


def test_what_was_not_offered_is_unsupported():
    duet = standing(HIDDEN, Parameters(features=Feature.LEGS))
    for at, opening in enumerate(
        [FLOW, ASSOCIATION, Opening(Purpose.PACKETS, "lan", 3), Opening(77, ":1"), Opening(Purpose.STREAM, ":1", 77)]
    ):
        say(duet, f.write_open(2 * at + 1, opening))
    assert not duet.bob.book and duet.bob.ended is None


@pytest.mark.parametrize("frame", [f.frame(f.PAD, 0), f.frame_u8(f.RESET, 1, 32), f.frame(f.PING, 0, bytes(8))])
def test_a_flood_of_frames_ends_the_tunnel(frame):
    duet = standing()
    say(duet, OPEN_1)
    kind = Kind.LOOSE if frame == f.frame(f.PING, 0, bytes(8)) else Kind.NUMBERED
    for _ in range(9):
        assert duet.bob.ended is None
        say(duet, *[frame] * 3700, kind=kind)
    assert duet.bob.ended is not None and duet.bob.ended.code == CloseCode.LIMIT and duet.bob.ended.end is End.FAULT


def test_of_many_pings_the_last_is_answered():
    duet = standing()
    before = len(duet.all_sent["bob"])
    say(duet, *[f.frame(f.PING, 0, bytes((at,)) * 8) for at in range(200)], kind=Kind.LOOSE)
    assert len(duet.all_sent["bob"]) - before == 36


def test_a_peer_that_acknowledges_nothing_is_left():
    duet = standing(PLAIN)
    (hers,) = (one for one in duet.pipes.values() if one.side is duet.alice)
    for _ in range(1000):
        duet.bob.tunnel.open(Opening(Purpose.STREAM, "x" * 2048), duet.now)
    since = duet.now
    while duet.bob.ended is None and duet.now < since + 40:
        duet.bob.tunnel.data_to_send(hers.other.carrier, duet.now)
        duet.now += 0.5
        alive = hers.carrier.seal(Kind.LOOSE, (f.frame(f.PAD, 0),), duet.now)
        duet.bob.tunnel.receive(hers.other.carrier, alive, duet.now)
        duet.bob.tunnel.handle_timeout(duet.now)
        duet.bob.listen()
    assert duet.bob.ended is not None and duet.bob.ended.code == CloseCode.LIMIT
    assert 30 <= duet.now - since < 33


def test_nor_may_it_leave_small_frames_unacknowledged():
    duet = standing(PLAIN)
    duet.bob.answers = lambda side, asked: side.tunnel.answer(asked.id, 5, duet.now)
    opens = [f.write_open(at, WEB) for at in range(1, 35_001, 2)]
    for at in range(0, len(opens), 2500):
        say(duet, *opens[at : at + 2500])
    (hers,) = (one for one in duet.pipes.values() if one.side is duet.alice)
    since = duet.now
    while duet.bob.ended is None and duet.now < since + 40:
        duet.now += 0.5
        alive = hers.carrier.seal(Kind.LOOSE, (f.frame(f.PAD, 0),), duet.now)
        duet.bob.tunnel.receive(hers.other.carrier, alive, duet.now)
        duet.bob.tunnel.handle_timeout(duet.now)
        duet.bob.listen()
    assert duet.bob.ended is not None and duet.bob.ended.code == CloseCode.LIMIT and duet.now - since < 33


def test_carriers_that_join():
    duet = standing()
    tunnel = duet.bob.tunnel
    assert duet.alice.tunnel.claim(0, duet.now) is None, "nothing is wanted"
    for claim, code in (
        (Claim(0, 0, 0), CloseCode.STALE),
        (Claim(1, 0, 0), CloseCode.UNKNOWN_CHANNEL),
        (Claim(2, 0, 0), CloseCode.UNKNOWN_CHANNEL),
    ):
        said = tunnel.join(duet._carriers(0)[1], claim, None, duet.now)
        assert said is not None and said.code == code
    said = None
    for _ in range(40):
        said = tunnel.join(duet._carriers(0)[1], Claim(0, 0, 0), None, duet.now)
    assert said is not None and said.code == CloseCode.LIMIT
    assert duet.bob.ended is None
    duet.now += 1
    assert tunnel.join(duet._carriers(0)[1], Claim(0, 1, 7), None, duet.now).code == CloseCode.FAULT  # type: ignore[union-attr]
    assert tunnel.join(duet._carriers(0)[1], Claim(0, 2, 0), None, duet.now).code == CloseCode.UNKNOWN_TUNNEL  # type: ignore[union-attr]


def test_a_carrier_begins_with_a_verdict():
    for kind, frames in ((Kind.NUMBERED, DATA_1), (Kind.LOOSE, f.frame(f.PAD, 0))):
        duet = Duet()
        (pipe,) = (one for one in duet.pipes.values() if one.side is duet.bob)
        duet.alice.tunnel.receive(pipe.other.carrier, pipe.carrier.seal(kind, (frames,), duet.now), duet.now)
        duet.alice.listen()
        assert duet.alice.ended is not None and duet.alice.ended.end is End.FAULT


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 255), st.integers(0, 9), st.binary(max_size=24)), max_size=6), st.booleans())
def test_whatever_frames_come_nothing_is_raised(said, loose):
    duet = standing()
    duet.bob.tunnel.open(WEB, duet.now)
    duet.talk()
    plain = b"".join(f.frame(*one) for one in said) or b"x"
    (pipe,) = (one for one in duet.pipes.values() if one.side is duet.alice)
    record = pipe.carrier.seal(Kind.LOOSE if loose else Kind.NUMBERED, (plain,), duet.now)
    duet.bob.tunnel.receive(pipe.other.carrier, record, duet.now)
    duet.bob.listen()
    if duet.bob.ended is not None:
        assert duet.bob.ended.why and not duet.bob.tunnel.conversations


@settings(max_examples=200)
@given(st.binary(max_size=60))
def test_readers_give_a_value_or_their_one_error(raw):
    view = memoryview(raw)
    for read in (f.read_open, f.read_answer, f.read_welcome, f.read_datagram, lambda it: list(f.frames(it))):
        try:
            read(view)
        except f.BadWire:
            continue


@given(st.text(min_size=1, max_size=60), st.integers(0, 255), st.booleans())
def test_what_is_written_is_read(target, kind, bulk):
    opening = Opening(Purpose.STREAM, target, kind, bulk, f.Route(("192.0.2.1", 1), ("192.0.2.2", 2)))
    ((frame, conversation, payload),) = f.frames(memoryview(f.write_open(7, opening)))
    assert (frame, conversation, f.read_open(payload)) == (f.OPEN, 7, opening)


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 1 << 32))
def test_a_peer_gone_wild_ends_its_tunnel_and_nothing_else(seed):
    """It speaks the language and keeps most of the rules, so it comes further than noise does."""
    die = Random(seed)
    duet = standing(CALLABLE, CALLABLE)
    duet.deaf.add(duet.alice)
    tunnel, next_id, next_leg, moves = duet.bob.tunnel, 1, 1, {0: 0}
    mouths = {0: next(one.carrier for one in duet.pipes.values() if one.side is duet.alice)}
    ears = {0: next(one.carrier for one in duet.pipes.values() if one.side is duet.bob)}
    for _ in range(4):
        tunnel.open(die.choice([WEB, FLOW, BULK]), duet.now)
    for _ in range(60):
        duet.now += die.choice([0, 0.1, 2])
        one, leg = die.randint(1, max(next_id, 8)), die.randint(1, next_leg)
        plain, kind, channel = b"", Kind.NUMBERED, 0
        match die.randint(0, 11):
            case 0 | 1:
                plain = f.write_open(next_id, die.choice([WEB, FLOW, BULK, ASSOCIATION]))
                next_id += 2
            case 2:
                plain = f.data_head(one, size := die.choice([1, 1000, 30_000])) + bytes(size)
            case 3:
                plain = f.frame_u32(f.LEG, one, next_leg)
                next_leg += 2
            case 4:
                plain = f.frame_u32(die.choice([f.SHIFT, f.LEG_ASK]), one, die.choice([leg, leg | 1, 0]))
            case 5:
                plain = f.frame_u8(die.choice([f.RESET, f.STOP]), one, 32)
            case 6:
                end = f.frame_u64(f.END, one, die.randint(0, 9))
                plain = die.choice([f.frame(f.FIN, one), end, f.write_answer(one, die.choice([0, 0, 5]))])
            case 7:
                plain = f.frame_u64(f.CREDIT, one, die.randint(0, 1 << 20))
            case 8:
                plain, kind = f.write_datagram(one, ("192.0.2.1", one), b"?") or b"", Kind.LOOSE
                channel = die.choice(list(mouths))
            case 9 if len(mouths) > 1:
                channel = die.choice([at for at in mouths if at])
                plain, kind = die.choice([(bytes(5000), Kind.RAW), (f.frame(f.FIN, one), Kind.NUMBERED)])
            case _:
                joined = die.choice([0, leg | 1, leg])
                mouth, ear = duet._carriers(joined)
                moves[joined] = moves.get(joined, -1) + die.choice([1, 1, 0])
                bare = die.random() < 0.3
                if bare:
                    for number in duet.bob.book:
                        if duet.bob.told(number).opening in (WEB, BULK):
                            tunnel.sealed(number)
                if tunnel.join(ear, Claim(joined, moves[joined], 0), None, duet.now, bare=bare) is None:
                    mouths[joined], ears[joined] = mouth, ear
        if plain:
            tunnel.receive(ears[channel], mouths[channel].seal(kind, (plain,), duet.now), duet.now)
        tunnel.handle_timeout(duet.now)
        for ear in ears.values():
            tunnel.data_to_send(ear, duet.now)
        duet.bob.listen()
        assert 0 <= tunnel.unread <= 4 << 20 and tunnel.kept < 4 << 20
    duet.bob.reads = False
    for _ in range(400):
        if (due := tunnel.next_deadline()) is None:
            break
        duet.now = max(duet.now, due)
        tunnel.handle_timeout(duet.now)
        for ear in ears.values():
            tunnel.data_to_send(ear, duet.now)
        duet.bob.listen()
    assert duet.bob.ended is not None and duet.bob.ended.why, "nothing lasts without a peer"
    assert not tunnel.conversations and not tunnel.unread
