from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_ns.strategy import Kind, Scores, Strategy

KINDS: tuple[Kind, ...] = ("staggered", "parallel", "fastest", "strict", "weighted")


def scores(seed: int = 1) -> Scores[str]:
    return Scores(random.Random(seed).random)


def test_staggered_keeps_the_order_and_asks_one() -> None:
    plan = scores().plan(Strategy(), ["a", "b", "c"], 0.0)
    assert plan == (("a", "b", "c"), 1, None)


def test_patience_follows_what_a_server_usually_needs() -> None:
    known = scores()
    assert known.patience("a", "staggered") == 0.15
    known.answered("a", 0.1)
    assert known.patience("a", "staggered") == pytest.approx(0.15)
    known.answered("b", 0.001)
    assert known.patience("b", "staggered") == 0.02
    known.answered("c", 60.0)
    assert known.patience("c", "staggered") == 1.0
    assert known.patience("b", "strict") == 0.4


def test_the_average_moves_slowly() -> None:
    known = scores()
    known.answered("a", 0.1)
    known.answered("a", 0.9)
    assert known.of("a").rtt == pytest.approx(0.2)


def test_a_server_that_never_answered_is_set_back_at_once_and_then_probed_ever_more_rarely() -> None:
    known = scores()
    known.overtaken("a", 0.2, now=0.0)
    assert known.plan(Strategy(), ["a", "b"], 1.9) == (("b", "a"), 1, None)
    assert known.plan(Strategy(), ["a", "b"], 2.0) == (("b", "a"), 1, "a")
    assert known.plan(Strategy(), ["a", "b"], 2.0).probe is None, "one probe a pause"
    known.failed("a", 2.1, "closed")
    assert known.plan(Strategy(), ["a", "b"], 6.0).probe is None
    assert known.plan(Strategy(), ["a", "b"], 6.2).probe == "a"
    for at in range(10):
        known.failed("a", 10.0 + at, "closed")
    assert known.of("a").pause == 60.0
    known.answered("a", 0.01)
    assert known.plan(Strategy(), ["a", "b"], 20.0) == (("a", "b"), 1, None)


def test_a_healthy_server_may_be_overtaken_twice() -> None:
    known = scores()
    known.answered("a", 0.01)
    for _ in range(2):
        known.overtaken("a", 0.2, now=0.0)
    assert known.plan(Strategy(), ["a", "b"], 0.0).order == ("a", "b")
    known.overtaken("a", 0.5, now=0.0)
    assert known.plan(Strategy(), ["a", "b"], 0.0).order == ("b", "a")
    assert known.of("a").rtt > 0.1, "what it surely takes was learnt"


def test_losing_a_close_race_is_no_fault() -> None:
    known = scores()
    for _ in range(50):
        known.overtaken("a", 0.015, now=0.0)
    assert known.of("a").failures == 0


def test_errors_of_its_own_count_when_they_go_on() -> None:
    known = scores()
    known.answered("a", 0.01)
    for _ in range(2):
        known.unsound("a", 0.0, "SERVFAIL")
    known.answered("a", 0.01)
    for _ in range(2):
        known.unsound("a", 0.0, "SERVFAIL")
    assert known.plan(Strategy(), ["a", "b"], 0.0).order == ("a", "b")
    known.unsound("a", 0.0, "SERVFAIL")
    assert known.plan(Strategy(), ["a", "b"], 0.0).order == ("b", "a")
    assert known.of("a").last_fault == "SERVFAIL"


def test_when_all_fail_nobody_is_set_back() -> None:
    known = scores()
    for key in "ab":
        known.only_noted(key, "no route")
    assert known.plan(Strategy(), ["a", "b"], 0.0) == (("a", "b"), 1, None)
    assert known.of("a").failures == 1


def test_parallel_asks_the_healthy_together() -> None:
    known = scores()
    assert known.plan(Strategy("parallel"), "abc", 0.0).at_once == 3
    assert known.plan(Strategy("parallel", at_once=2), "abc", 0.0).at_once == 2
    known.failed("a", 0.0, "closed")
    assert known.plan(Strategy("parallel"), "abc", 0.0) == (("b", "c", "a"), 2, None)
    for key in "bc":
        known.failed(key, 0.0, "closed")
    assert known.plan(Strategy("parallel"), "abc", 0.0).at_once == 3


def test_fastest_begins_with_the_fastest_and_explores() -> None:
    known = scores()
    for key, took in {"a": 0.3, "b": 0.1, "c": 0.2}.items():
        known.answered(key, took)
    firsts = Counter(known.plan(Strategy("fastest"), "abc", 0.0).order[0] for _ in range(2000))
    assert firsts["b"] > 1850
    assert firsts["a"] and firsts["c"]
    assert known.plan(Strategy("fastest"), "abcd", 0.0).order[0] == "d", "one never asked comes first"


def test_weights_are_kept_in_proportion() -> None:
    known = scores()
    strategy = Strategy("weighted", weights=(8.0, 2.0, 0.0))
    firsts = Counter(known.plan(strategy, "abc", 0.0).order[0] for _ in range(2000))
    assert 1500 < firsts["a"] < 1700
    assert firsts["a"] + firsts["b"] == 2000
    assert known.plan(strategy, "abc", 0.0).order[-1] == "c"


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["answered", "unsound", "failed", "only_noted", "overtaken"]),
        st.sampled_from("abcd"),
        st.floats(0, 100),
    ),
    max_size=60,
)


@settings(max_examples=200)
@given(EVENTS, st.sampled_from(KINDS), st.integers(0, 5), st.floats(0, 200))
def test_whatever_happened_everyone_is_asked_once(
    events: list[tuple[str, str, float]], kind: Kind, at_once: int, now: float
) -> None:
    known = scores()
    for what, key, number in events:
        if what == "answered":
            known.answered(key, number)
        elif what == "only_noted":
            known.only_noted(key, "fault")
        elif what in ("unsound", "failed"):
            getattr(known, what)(key, number, "fault")
        else:
            known.overtaken(key, number, number)
    plan = known.plan(Strategy(kind, at_once), "abcd", now)
    assert sorted(plan.order) == list("abcd")
    assert 1 <= plan.at_once <= 4
    assert plan.probe is None or plan.probe != plan.order[0]
    for key in "abcd":
        assert 0.02 <= known.patience(key, kind) <= 1.0
