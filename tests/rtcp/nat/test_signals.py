"""Signals between peers: what is written is read, whichever way the bytes are split, and nonsense is one error."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_ns.errors import BadWire
from rtcp.nat.candidates import Candidate, Filtering, Kind, Mapping, Nat, Offer
from rtcp.nat.pings import Pings
from rtcp.nat.probe import PROBE_SIZE, attempt_of
from rtcp.nat.signals import (
    MOST,
    Again,
    Answer,
    Ask,
    Bound,
    No,
    RelaySide,
    Signal,
    SignalReader,
    Told,
    write_signal,
)

OFFER = Offer(
    nonce=b"n" * 16,
    nat=Nat(mapping=Mapping.EIM, filtering=Filtering.APDF),
    candidates=(
        Candidate(address="198.51.100.1", port=4000, kind=Kind.OBSERVED),
        Candidate(address="2001:db8::7", port=4001, kind=Kind.IPV6),
    ),
)
SIGNALS: tuple[Signal, ...] = (
    Ask(b"a" * 32, 0.04, b"t" * 8, b"p" * 32, OFFER),
    Answer(b"b" * 32, OFFER),
    Answer(b"b" * 32, OFFER, (b"q" * 32, b"c" * 16)),
    No("not today"),
    Told(True, "direct by UDP, through its NAT"),
    RelaySide(("203.0.113.9", 3478), b"session", 1, b"k" * 32),
    RelaySide(("2001:db8::9", 3478), b"session", 0, b"k" * 32),
    Bound(),
    Again("its network changed"),
)
ALL = b"".join(map(write_signal, SIGNALS))


def read(data: bytes, *cuts: int) -> tuple[list[Signal], str | None]:
    """All signals of ``data``, fed in pieces, and the fault they end with."""
    reader, found, at = SignalReader(), [], 0
    try:
        for end in (*sorted(cuts), len(data)):
            reader.receive_data(data[at:end])
            at = max(at, end)
            while (signal := reader.next_signal()) is not None:
                found.append(signal)
    except BadWire as bad:
        with pytest.raises(BadWire):
            reader.next_signal()
        return found, str(bad)
    return found, None


@given(st.lists(st.integers(0, len(ALL)), max_size=6))
@settings(max_examples=100)
def test_what_is_written_is_read_however_it_is_split(cuts):
    assert read(ALL, *cuts) == (list(SIGNALS), None)


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=4))
@settings(max_examples=200)
def test_anything_is_signals_or_one_error(data, cuts):
    cuts = [cut for cut in cuts if cut <= len(data)]
    assert read(data) == read(data, *cuts) == read(data, *range(len(data)))


@given(st.integers(0, len(ALL) - 1), st.integers(1, 255))
@settings(max_examples=200)
def test_with_one_byte_that_is_another_it_is_signals_or_one_error(at, flip):
    spoilt = bytearray(ALL)
    spoilt[at] ^= flip
    assert read(bytes(spoilt)) == read(bytes(spoilt), at)


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x00\x00",
        b"\x08\x00\x00",
        b"\x03" + (MOST + 1).to_bytes(2, "big"),
        b"\x03\x00\x01\x07",
        b"\x03\x00\x02\xff\xff",
        b"\x04\x00\x00",
        b"\x04\x00\x01\x02",
        b"\x06\x00\x01\x00",
        b"\x05\x00\x01\x00",
        b"\x01\x00\x01\x00",
        b"\x02\x00\x01\x00",
        write_signal(RelaySide(("203.0.113.9", 3478), b"session", 1, b"k" * 32)).replace(
            b"session\x01", b"session\x02"
        ),
    ],
)
def test_what_no_peer_says_is_refused(data):
    assert read(data)[1] is not None


def test_texts_are_cut_and_hold_nothing_a_terminal_obeys():
    (told,), fault = read(write_signal(No("\x1b[2J" + "é" * 500)))
    assert fault is None
    assert isinstance(told, No)
    assert told.why.startswith(" [2Jé")
    assert len(told.why.encode()) <= 256


def test_pings_are_answered_and_nobody_elses_are():
    one, other = (
        Pings(b"s" * 32, opens=opens, our_nonce=nonces[0], their_nonce=nonces[1])
        for opens, nonces in ((False, (b"1" * 16, b"2" * 16)), (True, (b"2" * 16, b"1" * 16)))
    )
    ours, theirs = ("198.51.100.1", 1000), ("203.0.113.2", 2000)
    ping = one.ping(theirs, 1.0)
    assert attempt_of(ping) == one.attempt == other.attempt
    pong = other.receive(ping, ours, 1.01)
    assert isinstance(pong, bytes)
    assert len(pong) == PROBE_SIZE
    assert other.receive(ping, ours, 1.01) is None, "each once"
    assert one.receive(pong, ("203.0.113.2", 2001), 1.02) is None, "from elsewhere"
    again = other.receive(one.ping(theirs, 2.0), ours, 2.0)
    assert one.receive(again, theirs, 2.5) == 0.5
    assert one.receive(b"x" * PROBE_SIZE, theirs, 3.0) is None
    assert one.receive(one.ping(theirs, 3.0), theirs, 3.0) is None, "what comes back to its sender is nothing"
