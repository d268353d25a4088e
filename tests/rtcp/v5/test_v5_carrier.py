"""Records between two ends: each once, in order, under keys that step; or the carrier is broken, and stays so."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_ns.errors import BadWire, Misuse, PeerFault
from rtcp.v5.carrier import MOST_PLAIN, OVERHEAD, Carrier, CarrierBroken, Kind
from rtcp.v5.schedule import Cipher, Secrets, secrets_of

CIPHERS = list(Cipher)
HOUR = 3600.0


def secrets(seed: bytes = b"seed") -> Secrets:
    return secrets_of(seed * 8, seed * 8, seed * 8)


def ends(cipher: Cipher = Cipher.AES_256_GCM, *, leg: bool = True) -> tuple[Carrier, Carrier]:
    """The caller's end and the called's."""
    return tuple(Carrier(secrets(), cipher, called=side, leg=leg) for side in (False, True))  # type: ignore[return-value]


def taken(carrier: Carrier, pieces: Iterable[bytes], now: float = 0) -> list[tuple[Kind, bytes] | type[PeerFault]]:
    """What came out of ``carrier``, to the fault that ended it."""
    out: list[tuple[Kind, bytes] | type[PeerFault]] = []
    try:
        for piece in pieces:
            out += ((record.kind, bytes(record.plain)) for record in carrier.receive(piece, now))
    except PeerFault as fault:
        out.append(type(fault))
    return out


def whole_and_split(data: bytes, cuts: Iterable[int]) -> tuple[list[bytes], list[bytes]]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data], [data[a:b] for a, b in itertools.pairwise(edges)]


@pytest.mark.parametrize("cipher", CIPHERS)
@settings(max_examples=60, deadline=None)
@given(
    records=st.lists(st.tuples(st.sampled_from(Kind), st.lists(st.binary(min_size=1, max_size=300), min_size=1))),
    cuts=st.lists(st.integers(0, 1 << 16), max_size=8),
)
def test_what_was_sealed_comes_out_however_it_is_cut(cipher, records, cuts):
    sent = [(kind, b"".join(parts)) for kind, parts in records]
    for pieces in range(2):
        caller, called = ends(cipher)
        wire = b"".join(caller.seal(kind, parts, 0) for kind, parts in records)
        assert taken(called, whole_and_split(wire, cuts)[pieces]) == sent


@settings(max_examples=200, deadline=None)
@given(
    garbage=st.binary(max_size=200),
    good=st.integers(0, 2),
    cuts=st.lists(st.integers(0, 400), max_size=6),
    leg=st.booleans(),
)
def test_a_record_or_its_one_error_however_it_is_cut(garbage, good, cuts, leg):
    results = []
    for pieces in range(2):
        caller, called = ends(leg=leg)
        wire = b"".join(caller.seal(Kind.LOOSE, (b"hi",), 0) for _ in range(good)) + garbage
        results.append(taken(called, whole_and_split(wire, cuts)[pieces]))
        assert results[-1][:good] == [(Kind.LOOSE, b"hi")] * good
        assert results[-1][good:] in ([], [CarrierBroken])
    assert results[0] == results[1]


def test_a_byte_at_a_time_is_judged_as_soon_as_it_is_wrong():
    _, called = ends(leg=False)
    with pytest.raises(CarrierBroken):
        list(called.receive(b"\x02", 0))  # raw, and this is no leg
    _, called = ends()
    assert list(called.receive(b"\x00", 0)) == []
    with pytest.raises(CarrierBroken):
        list(called.receive(b"\x02", 0))  # two phases on


def test_no_bit_of_a_record_can_be_changed():
    caller, _ = ends()
    wire = caller.seal(Kind.NUMBERED, (b"to be read",), 0)
    for bit in range(8 * len(wire)):
        _, called = ends()
        wrong = bytearray(wire)
        wrong[bit // 8] ^= 1 << bit % 8
        # A larger size in the head is not seen before all those bytes are there.
        assert taken(called, [bytes(wrong), bytes(MOST_PLAIN)]) == [CarrierBroken], bit


def doubled(records):
    return [records[0], records[0]]


def swapped(records):
    return [records[1], records[0]]


def dropped(records):
    return records[1:]


@pytest.mark.parametrize("meddle", [doubled, swapped, dropped])
def test_records_that_are_doubled_moved_or_dropped_break_the_carrier(meddle):
    caller, called = ends()
    records = [bytes(caller.seal(Kind.NUMBERED, (bytes((n,)),), 0)) for n in range(3)]
    assert taken(called, [b"".join(meddle(records))])[-1] is CarrierBroken


def test_a_record_that_comes_back_does_not_open():
    caller, _ = ends()
    assert taken(caller, [caller.seal(Kind.LOOSE, (b"ping",), 0)]) == [CarrierBroken]


def test_a_record_of_another_carrier_does_not_open():
    stranger = Carrier(secrets(b"else"), Cipher.AES_256_GCM, called=False)
    assert taken(ends()[1], [stranger.seal(Kind.LOOSE, (b"ping",), 0)]) == [CarrierBroken]


def test_once_broken_it_stays_broken():
    caller, called = ends()
    good = caller.seal(Kind.LOOSE, (b"one",), 0)
    assert taken(called, [b"\x09"]) == [CarrierBroken]
    assert taken(called, [good]) == [CarrierBroken]


@pytest.mark.parametrize("size", [1, MOST_PLAIN])
def test_the_smallest_and_the_largest(size):
    caller, called = ends()
    wire = caller.seal(Kind.RAW, (bytes(size),), 0)
    assert len(wire) == size + OVERHEAD
    assert taken(called, [wire]) == [(Kind.RAW, bytes(size))]


@pytest.mark.parametrize("size", [0, MOST_PLAIN + 1])
def test_nothing_and_too_much_are_not_sealed(size):
    caller, _ = ends()
    with pytest.raises(Misuse):
        caller.seal(Kind.LOOSE, (bytes(size),), 0)


# Steps


@pytest.mark.parametrize("cipher", CIPHERS)
def test_an_hour_after_its_first_record_a_key_is_left(cipher):
    caller, called = ends(cipher)
    wire = [bytes(caller.seal(Kind.LOOSE, (b"tick",), now)) for now in (5, 5 + HOUR - 1, 5 + HOUR, 5 + 3 * HOUR)]
    assert [record[1] for record in wire] == [0, 0, 1, 2]
    assert taken(called, wire) == [(Kind.LOOSE, b"tick")] * 4


def test_a_carrier_that_was_silent_does_not_step_for_its_silence():
    caller, _ = ends()
    assert caller.seal(Kind.LOOSE, (b"first",), 10 * HOUR)[1] == 0


def test_a_key_is_left_before_it_has_done_too_much():
    for count, octets, phase in ((1 << 23, 0, 1), ((1 << 23) - 1, 0, 0), (9, (1 << 31) - 4, 1), (9, (1 << 31) - 5, 0)):
        caller, _ = ends()
        caller._sending.count, caller._sending.octets = count, octets
        assert caller.seal(Kind.LOOSE, (b"12345",), 0)[1] == phase


def test_the_phase_byte_comes_round():
    caller, called = ends()
    for n in range(600):
        wire = caller.seal(Kind.LOOSE, (b"x",), n * HOUR)
        assert wire[1] == n & 0xFF
        assert taken(called, [wire], n * HOUR) == [(Kind.LOOSE, b"x")]


def test_an_old_key_opens_nothing_any_more():
    caller, called = ends()
    old = caller.seal(Kind.LOOSE, (b"old",), 0)
    taken(called, [old, caller.seal(Kind.LOOSE, (b"new",), HOUR)])
    assert taken(called, [old]) == [CarrierBroken]


@pytest.mark.parametrize(("count", "octets"), [(1 << 24, 0), (0, (1 << 32) - 2)])
def test_a_peer_that_does_not_step_is_at_fault(count, octets):
    caller, called = ends()
    caller._sending.count = called._receiving.count = count
    called._receiving.octets = octets
    wire = caller._sending.aead.encrypt((caller._sending.iv ^ count).to_bytes(12, "big"), b"abc", b"\x01\x00\x00\x02")
    assert taken(called, [b"\x01\x00\x00\x02" + wire]) == [BadWire]


def test_a_peer_that_spins_through_its_keys_is_at_fault():
    caller, called = ends()
    for n in range(1024):
        caller._sending.step()
        assert taken(called, [caller.seal(Kind.LOOSE, (b"x",), 0)], 1 + n / 1024) == [(Kind.LOOSE, b"x")]
    caller._sending.step()
    assert taken(called, [caller.seal(Kind.LOOSE, (b"x",), 0)], 3) == [BadWire]


def test_a_peer_that_steps_no_faster_than_it_may_goes_on():
    caller, called = ends()
    for n in range(3000):
        caller._sending.step()
        assert taken(called, [caller.seal(Kind.LOOSE, (b"x",), 0)], n * 60 / 1024) == [(Kind.LOOSE, b"x")]


def test_what_was_opened_outlives_the_buffer_it_came_in():
    caller, called = ends()
    buffer = bytearray(caller.seal(Kind.LOOSE, (b"stays",), 0))
    (record,) = called.receive(buffer, 0)
    buffer[:] = bytes(len(buffer))
    assert record.plain == b"stays"


@pytest.mark.parametrize("copier", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_carrier_has_no_copy(copier):
    with pytest.raises(Misuse):
        copier(ends()[0])


def test_no_secret_shows():
    assert repr(secrets()) == "Secrets()"
