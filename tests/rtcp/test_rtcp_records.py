"""Records: the published vectors, order and direction, budgets, and whatever a stranger sends."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyfs_ns.errors import BadWire
from rtcp.records import CONTROL_BUDGET, MOST_PLAIN, Budget, RecordOpener, RecordSealer, Spent, _nonce
from rtcp.schedule import Keys

KEYS = Keys(bytes(range(32)), bytes(7 * at % 256 for at in range(16)))


def sealer(dialler: bool = True, budget: Budget = CONTROL_BUDGET) -> RecordSealer:
    return RecordSealer(KEYS, dialler, budget)


def opener(dialler: bool = True, budget: Budget = CONTROL_BUDGET) -> RecordOpener:
    return RecordOpener(KEYS, dialler, budget)


def opened(pieces: list[bytes], **more: Budget) -> tuple[list[bytes], bool]:
    """The records in ``pieces``, and whether a fault followed, which then stays."""
    one, records = opener(**more), []
    for piece in pieces:
        one.receive_data(piece)
        try:
            while (plain := one.next_record()) is not None:
                records.append(plain)
        except BadWire:
            for _ in range(2):
                with pytest.raises(BadWire):
                    one.next_record()
            with pytest.raises(BadWire):
                one.receive_eof()
            return records, True
    return records, False


def test_records_are_the_published_bytes():
    assert KEYS.nonce_base(True).hex() == "9fc4ff47cbb69465379b100a"
    assert KEYS.nonce_base(False).hex() == "66a2160eb02639f01672d351"
    ours, theirs = sealer(), sealer(False)
    first, second = ours.seal(b"hello rtcp aead world"), ours.seal(b"ping")
    assert first.hex() == "002587eb2b0729aa9ef99972b58bf0c248dc659301430a6e7ce1150e8031f0110433af8d226bce"
    assert second.hex() == "00147ce0370719c9323c6e620b2d383147732beccd18"
    assert theirs.seal(b"pong").hex() == "0014c51a7736e1a76a8cc4d8ba97d2c64e9725410062"
    assert opened([first + second]) == ([b"hello rtcp aead world", b"ping"], False)


def test_the_nonce_counts_in_its_low_eight_bytes():
    base = int.from_bytes(KEYS.nonce_base(True), "big")
    assert _nonce(base, 0x0102030405060708).hex() == "9fc4ff47cab49761329d1702"


def test_much_is_cut_into_records_and_nothing_into_none():
    one = sealer()
    assert one.seal(b"") == b""
    data = bytes(range(256)) * 129
    records, fault = opened([one.seal(memoryview(data))])
    assert not fault and [len(record) for record in records] == [MOST_PLAIN, MOST_PLAIN, 256]
    assert b"".join(records) == data


@pytest.mark.parametrize(
    "order", [[1], [0, 0], [0, 2], [1, 0]], ids=["first dropped", "doubled", "dropped", "reordered"]
)
def test_a_record_out_of_its_place_does_not_open(order):
    one = sealer()
    records = [one.seal(b"zero"), one.seal(b"one"), one.seal(b"two")]
    assert opened([records[at] for at in order])[1]


def test_our_own_records_sent_back_do_not_open():
    assert opened([sealer(False).seal(b"mirror")]) == ([], True)


@pytest.mark.parametrize("length", [0, 1, 15, 16401, 65535])
def test_a_length_that_no_record_has_fails_before_the_rest_is_there(length):
    assert opened([length.to_bytes(2, "big")]) == ([], True)


def test_the_end_must_be_the_edge_of_a_record():
    one, sealed = opener(), sealer().seal(b"x")
    one.receive_data(sealed)
    assert one.next_record() == b"x"
    one.receive_eof()
    one.receive_data(sealed[:3])
    with pytest.raises(BadWire, match="inside"):
        one.receive_eof()
    with pytest.raises(BadWire, match="first"):
        opener().receive_eof()


def test_a_budget_of_records_ends_both_sides():
    budget = Budget(2, 1 << 30, 86400)
    one, wide = sealer(budget=budget), sealer()
    assert opened([one.seal(b"a"), one.seal(b"b")], budget=budget) == ([b"a", b"b"], False)
    with pytest.raises(Spent):
        one.seal(b"c")
    assert opened([wide.seal(b"a"), wide.seal(b"b"), wide.seal(b"c")], budget=budget) == ([b"a", b"b"], True)


def test_a_budget_of_bytes_ends_both_sides_and_seals_nothing_by_halves():
    budget = Budget(1 << 20, MOST_PLAIN + 5, 86400)
    one, wide = sealer(budget=budget), sealer()
    with pytest.raises(Spent):
        one.seal(bytes(MOST_PLAIN + 6))
    assert opened([one.seal(bytes(MOST_PLAIN + 5))], budget=budget)[1] is False
    assert opened([wide.seal(bytes(MOST_PLAIN)), wide.seal(bytes(6))], budget=budget) == ([bytes(MOST_PLAIN)], True)


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=4), st.data())
def test_records_are_read_the_same_however_they_come_and_whatever_was_done_to_them(plains, data):
    one = sealer()
    wire = b"".join(one.seal(plain) for plain in plains)
    if wire and data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(wire) - 1))
        wire = wire[:at] + bytes((wire[at] ^ data.draw(st.integers(1, 255)),)) + wire[at + 1 :]
    got = opened([wire])
    assert got == opened([wire[at : at + 1] for at in range(len(wire))])
    assert got[0] == plains[: len(got[0])]


@given(st.binary(max_size=100))
def test_a_stranger_opens_nothing(data):
    records, _ = opened([data])
    assert records == []
    assert opened([data]) == opened([data[at : at + 1] for at in range(len(data))])
