"""What nodes said, weighed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_ns.ens.quorum import (
    LAG,
    MARGIN,
    Agreed,
    Disagreed,
    Endpoint,
    Fault,
    TooFew,
    common_block,
    judge,
    level,
    voice,
)
from cyfs_ns.trust.level import Trust

A, B, C, D, E = (Endpoint(name, True) for name in "abcde")
DOWN = Fault("down")


@pytest.mark.parametrize(
    ("answers", "needed", "verdict"),
    [
        ({A: 1}, 1, Agreed(1, (A,), ())),
        ({A: 1, B: 1, C: 1}, 2, Agreed(1, (A, B, C), ())),
        ({A: 1, B: 2, C: 1}, 2, Agreed(1, (A, C), (B,))),
        ({A: 1, B: DOWN, C: 1}, 2, Agreed(1, (A, C), ())),
        ({A: 1, B: 2}, 2, Disagreed(((A,), (B,)))),
        ({A: 1, B: 2}, 1, Disagreed(((A,), (B,)))),
        ({A: 1, B: 2, C: 3}, 2, Disagreed(((A,), (B,), (C,)))),
        ({A: 1, B: 1, C: 2, D: 2}, 2, Disagreed(((A, B), (C, D)))),
        ({A: 1, B: 1, C: 2, D: 2, E: 1}, 3, Agreed(1, (A, B, E), (C, D))),
        ({A: 1, B: DOWN, C: DOWN}, 2, TooFew(("b: down", "c: down"), 2)),
        ({}, 1, TooFew((), 1)),
    ],
)
def test_verdicts(answers: dict[Endpoint, int | Fault], needed: int, verdict: object) -> None:
    assert judge(answers, needed) == verdict


def test_verdicts_say_who() -> None:
    assert Disagreed(((A, B), (C,))).why == "the Ethereum nodes contradict each other: a and b against c"
    assert TooFew(("b: down",), 2).why == "fewer than 2 Ethereum nodes answer: b: down"


def test_a_quorum_takes_two_that_nobody_can_speak_for() -> None:
    plain = Endpoint("plain", False)
    assert level((A, B), 3) is Trust.QUORUM
    assert level((A, B, plain), 3) is Trust.QUORUM
    assert level((A, B), 4) is level((A, B), 5) is Trust.AUTH_CHANNEL, "half of them is not most of them"
    assert level((A, plain), 2) is Trust.AUTH_CHANNEL
    assert level((plain, Endpoint("other", False)), 2) is Trust.PLAIN_DNS
    assert level((), 3) is Trust.NONE


def test_the_block_is_one_that_all_near_ones_have() -> None:
    assert common_block({A: 100, B: 101, C: 99}) == (99 - MARGIN, ())
    assert common_block({A: 100, B: 101, C: 3}) == (100 - MARGIN, (C,))
    assert common_block({A: 100, B: 101, C: 10**12}) == (100 - MARGIN, ())
    assert common_block({A: 100, B: 101 + LAG}) == (101 + LAG - MARGIN, (A,))
    assert common_block({A: 1}) == (0, ())


@given(st.lists(st.integers(0, 50), min_size=3, max_size=7), st.integers(0, 10**6))
@settings(max_examples=200)
def test_one_false_head_among_three_moves_the_block_no_further_than_the_lag(heads: list[int], false: int) -> None:
    ends = [Endpoint(str(number), True) for number in range(len(heads))]
    true = {end: 1000 + head % 5 for end, head in zip(ends, heads, strict=True)}
    block, _ = common_block(true | {ends[0]: false})
    assert 1000 - LAG - MARGIN <= block <= 1004 - MARGIN


@given(
    st.dictionaries(st.sampled_from([A, B, C, D, E]), st.one_of(st.integers(0, 2), st.just(DOWN))), st.integers(1, 5)
)
@settings(max_examples=200)
def test_whatever_is_agreed_has_the_voices(answers: dict[Endpoint, int | Fault], needed: int) -> None:
    verdict = judge(answers, needed)
    if isinstance(verdict, Agreed):
        assert len(verdict.backers) >= needed
        assert all(answers[end] == verdict.value for end in verdict.backers)
        assert all(answers[end] != verdict.value for end in verdict.dissenters)
        assert len(verdict.backers) + len(verdict.dissenters) + list(answers.values()).count(DOWN) == len(answers)


@pytest.mark.parametrize(
    ("host", "whose"),
    [
        *((host, "127.0.0.1") for host in ("localhost", "LOCALHOST.", "a.localhost", "::1", "0.0.0.0", "::")),
        ("::ffff:127.0.0.1", "127.0.0.1"),
        ("127.0.0.2", "127.0.0.2"),
        ("2001:DB8::1", "2001:db8::1"),
        ("Node.example.", "node.example"),
        ("notlocalhost", "notlocalhost"),
    ],
)
def test_a_voice_is_a_host_whatever_it_is_called(host: str, whose: str) -> None:
    assert voice(host) == whose
