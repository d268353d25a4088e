"""Datagrams and frames of the carrier: what strangers may send, and what comes back as it went out."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_ns.errors import BadWire
from rtcp.udp import frames as fr
from rtcp.udp import wire
from rtcp.udp.ranges import Ranges

TAG, PUBLIC, COOKIE = b"t" * 8, b"p" * 32, b"c" * 16
DOOR = wire.door_key(bytes(32))
SEALED = wire.sealed_head(0xABCDEF, 7) + bytes(17)
GOOD = {
    "opening": wire.write_opening(TAG, PUBLIC, DOOR),
    "invite": wire.write_invite(TAG, PUBLIC, COOKIE),
    "entry": wire.entry_prefix(TAG, PUBLIC, COOKIE) + SEALED,
    "sealed": SEALED,
    "reset": wire.write_reset(0xABCDEF, b"k" * 16),
}
RANGES = st.lists(st.tuples(st.integers(1, 1 << 33), st.integers(1, 1 << 33)), min_size=1, max_size=60)


def test_each_is_read_as_what_it_is():
    assert isinstance(wire.read_datagram(GOOD["opening"]), wire.Opening)
    assert wire.read_datagram(GOOD["invite"]) == wire.Invite(TAG, PUBLIC, COOKIE)
    entry = wire.read_datagram(GOOD["entry"])
    assert isinstance(entry, wire.Entry)
    assert (entry.tag, entry.public, entry.cookie, entry.id, bytes(entry.sealed)) == (
        TAG,
        PUBLIC,
        COOKIE,
        0xABCDEF,
        SEALED,
    )
    assert wire.read_datagram(SEALED) == wire.Sealed(0xABCDEF)
    assert wire.read_datagram(GOOD["reset"]) == wire.Reset(0xABCDEF, b"k" * 16)


@pytest.mark.parametrize("datagram", GOOD.values(), ids=GOOD)
def test_what_is_cut_is_refused(datagram):
    least = {"sealed": 33, "entry": wire.PREFIX + 33}
    for size in range(len(datagram)):
        if size < min(len(datagram), *(at for name, at in least.items() if GOOD[name] == datagram), 1 << 20):
            with pytest.raises(BadWire):
                wire.read_datagram(datagram[:size])


@given(
    st.one_of(
        st.binary(max_size=1300),
        st.sampled_from([*GOOD.values()]).flatmap(
            lambda good: st.builds(
                lambda at, byte: good[:at] + bytes((byte,)) + good[at + 1 :],
                st.integers(0, len(good) - 1),
                st.integers(0, 255),
            )
        ),
    )
)
@settings(max_examples=200, deadline=None)
def test_any_datagram_is_a_value_or_its_one_error(untrusted):
    try:
        assert wire.is_ours(untrusted) or not wire.read_datagram(untrusted)
    except BadWire:
        return


@pytest.mark.parametrize("at", [0, 1, 8, 20, 600, 1183, 1184, 1199])
def test_an_opening_opens_one_door_and_only_as_it_was_made(at):
    opening = bytearray(GOOD["opening"])
    assert wire.knows_door(opening, DOOR) and not wire.knows_door(opening, wire.door_key(bytes(31) + b"\1"))
    opening[at] ^= 1
    assert not wire.knows_door(opening, DOOR)


@given(RANGES, st.floats(0, 2))
@settings(max_examples=200, deadline=None)
def test_an_ack_says_the_last_ranges(pieces, delay):
    ranges, at = Ranges(), 0
    for gap, length in pieces:
        ranges.add(at + gap, at + gap + length)
        at += gap + length
    (ack,) = fr.read_frames(fr.write_ack(ranges.lows, ranges.highs, delay))
    assert isinstance(ack, fr.Ack)
    assert abs(ack.delay - min(delay, 65535 * 8e-6)) < 1e-5
    there = list(zip(ranges.lows, ranges.highs, strict=True))
    assert 1 <= len(ack.ranges) <= fr.MOST_RANGES and ack.ranges[0][1] == there[-1][1]
    for low, high in ack.ranges:
        assert any(first <= low < high <= behind for first, behind in there)


FRAMES = [
    fr.PINGS,
    fr.write_ack([3, 9], [5, 20], 0.001),
    fr.write_limit(1 << 20),
    fr.write_challenge(b"12345678"),
    fr.write_echo(b"12345678"),
    fr.write_token(b"k" * 16),
    fr.write_fin(77),
    fr.write_past(12),
    fr.write_close(1, "wörter"),
]


def test_frames_come_back_as_they_went():
    read = fr.read_frames(b"".join(FRAMES) + fr.data_head(5) + b"data")
    assert read[:1] == [fr.Ping()] and read[1].ranges == ((9, 20), (3, 5))
    assert read[2:9] == [
        fr.Limit(1 << 20),
        fr.Challenge(b"12345678"),
        fr.Echo(b"12345678"),
        fr.Token(b"k" * 16),
        fr.Fin(77),
        fr.Past(12),
        fr.Close(1, "wörter"),
    ]
    assert isinstance(read[9], fr.Data) and (read[9].offset, bytes(read[9].data)) == (5, b"data")


def test_nothing_behind_a_pad_is_looked_at():
    assert fr.read_frames(fr.PINGS + b"\0\xff\xff") == [fr.Ping()]


@pytest.mark.parametrize("frame", FRAMES[1:])
def test_a_frame_that_ends_early_is_refused(frame):
    for size in range(1, len(frame)):
        with pytest.raises(BadWire):
            fr.read_frames(frame[:size])


@given(
    st.one_of(
        st.binary(max_size=200),
        st.tuples(st.permutations(FRAMES), st.integers(0, 400), st.binary(max_size=9)).map(
            lambda what: b"".join(what[0])[: what[1]] + what[2]
        ),
    )
)
@settings(max_examples=200, deadline=None)
def test_any_frames_are_values_or_their_one_error(untrusted):
    try:
        frames = fr.read_frames(untrusted)
    except BadWire:
        return
    for frame in frames:
        if isinstance(frame, fr.Ack):
            flat = [number for low, high in frame.ranges for number in (high, low)]
            assert flat == sorted(flat, reverse=True) and len(set(flat)) == len(flat) and flat[-1] >= 0


@given(st.lists(st.tuples(st.sampled_from("af"), st.integers(0, 60), st.integers(1, 12)), max_size=40))
@settings(max_examples=200, deadline=None)
def test_ranges_are_a_set(steps):
    ranges, model = Ranges(), set()
    for what, low, length in steps:
        if what == "a":
            ranges.add(low, low + length)
            model |= set(range(low, low + length))
        else:
            ranges.forget_below(low)
            model -= set(range(low))
        assert {n for low, high in zip(ranges.lows, ranges.highs, strict=True) for n in range(low, high)} == model
        assert all(high < low for high, low in zip(ranges.highs, ranges.lows[1:], strict=False))
        gaps = {n for low, high in ranges.missing(10, 50) for n in range(low, high)}
        assert gaps == set(range(10, 50)) - model
        assert all((n in ranges) == (n in model) for n in range(80))
