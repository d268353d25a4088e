"""Devices of one link find each other by their keys, and nobody else learns who is there."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyfs_ns.errors import BadWire, Misuse
from cyfs_ns.identity.keys import PublicKey, SecretKey
from rtcp.nat import lan

NAS, PI, MALLORY = (SecretKey(bytes([number]) * 32) for number in (1, 2, 3))
NONCE = bytes(range(16))


def asked(*keys: PublicKey) -> lan.Question:
    return lan.read_question(lan.write_question(keys, NONCE))


def test_a_device_knows_that_it_is_meant_and_others_cannot_tell_who_is() -> None:
    question = asked(NAS.public, PI.public)
    assert question.seeks(NAS.public) and question.seeks(PI.public) and not question.seeks(MALLORY.public)
    assert NAS.public.raw not in lan.write_question([NAS.public], NONCE)
    again = lan.write_question([NAS.public], bytes(16))
    assert lan.read_question(again).tags != asked(NAS.public).tags


def test_what_a_device_says_is_read_as_it_was_said() -> None:
    told = lan.write_answer(NAS, asked(PI.public, NAS.public), 2980, 41000, ("192.168.1.7", "fd00::7"))
    answer = lan.read_answer(told, NONCE, [PI.public, NAS.public])
    assert answer == lan.Answer(NAS.public, 2980, 41000, ("192.168.1.7", "fd00::7"))


@pytest.mark.parametrize("addresses", [(), ("10.0.0.1",), ("fd00::1",) * 9])
def test_no_answer_is_larger_than_its_question(addresses: tuple[str, ...]) -> None:
    told = lan.write_answer(NAS, asked(NAS.public), 1, 2, addresses)
    assert len(told) <= lan.QUESTION_SIZE == len(lan.write_question([NAS.public], NONCE))
    assert lan.read_answer(told, NONCE, [NAS.public]).addresses == addresses[: lan.MOST_ADDRESSES]


@pytest.mark.parametrize(
    "tell",
    [
        lambda: lan.write_answer(MALLORY, asked(NAS.public), 2980, 0),  # for himself
        lambda: lan.write_answer(NAS, lan.Question(bytes(16), ()), 2980, 0),  # to another question
        lambda: forged(),
    ],
)
def test_nobody_answers_for_another_or_again_later(tell: Callable[[], bytes]) -> None:
    with pytest.raises(BadWire):
        lan.read_answer(tell(), NONCE, [NAS.public])


def forged() -> bytes:
    """Mallory knows the key of the NAS, and what tag it has, but not how to sign."""
    told = lan.write_answer(NAS, asked(NAS.public), 2980, 0)
    head = told[: len(told) - 64]
    return head + MALLORY.sign(head)


@given(st.data())
def test_one_flipped_bit_makes_it_nobodys_answer(data: st.DataObject) -> None:
    told = bytearray(lan.write_answer(NAS, asked(NAS.public), 2980, 0, ("10.0.0.1",)))
    told[data.draw(st.integers(0, len(told) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(BadWire):
        lan.read_answer(bytes(told), NONCE, [NAS.public])


@given(st.binary(max_size=300) | st.binary(max_size=191).map(lambda rest: (b"cyfs-lan?\1" + rest).ljust(192, b"\0")))
def test_a_question_is_read_or_refused(untrusted: bytes) -> None:
    try:
        question = lan.read_question(untrusted)
    except BadWire:
        return
    assert 0 < len(question.tags) <= lan.MOST_SOUGHT and not question.seeks(NAS.public)


@given(st.binary(max_size=300).map(lambda rest: b"cyfs-lan!\1" + NONCE + rest))
def test_an_answer_is_read_or_refused(untrusted: bytes) -> None:
    with pytest.raises(BadWire):
        lan.read_answer(untrusted, NONCE, [NAS.public])


def test_a_device_that_signs_nonsense_is_refused() -> None:
    head = b"cyfs-lan!\1" + NONCE
    said = lan.write_answer(NAS, asked(NAS.public), 1, 1)[len(head) : -64] + b"\x05abcde"
    with pytest.raises(BadWire, match="addresses"):
        lan.read_answer(head + said + NAS.sign(b"cyfs lan answer 1" + head + said), NONCE, [NAS.public])


def test_so_many_can_be_looked_for_and_no_more() -> None:
    keys = [SecretKey(bytes([number]) * 32).public for number in range(1, 10)]
    assert lan.read_question(lan.write_question(keys[:8], NONCE)).seeks(keys[7])
    for wrong in (keys, []):
        with pytest.raises(Misuse):
            lan.write_question(wrong, NONCE)
