"""Happy Eyeballs: the order of addresses and the schedule of attempts, on a clock of our own."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tunnels.happy import ATTEMPT_DELAY, Race, arrange

FOUR = ["192.0.2.1", "192.0.2.2", "192.0.2.3"]
SIX = ["2001:db8::1", "2001:db8::2"]


def test_families_take_turns() -> None:
    mixed = FOUR + SIX
    assert arrange(mixed) == [SIX[0], FOUR[0], SIX[1], FOUR[1], FOUR[2]]
    assert arrange(mixed, "ipv6-prefer") == arrange(mixed)
    assert arrange(mixed, "ipv4-prefer") == [FOUR[0], SIX[0], FOUR[1], SIX[1], FOUR[2]]
    assert arrange(mixed, "ipv4") == FOUR
    assert arrange(mixed, "ipv6") == SIX


def test_one_family_alone_is_enough() -> None:
    assert arrange(FOUR) == FOUR
    assert arrange(SIX, "ipv4-prefer") == SIX
    assert arrange(SIX, "ipv4") == []


@given(st.lists(st.integers(0, 400), max_size=400), st.sampled_from(["dual", "ipv4", "ipv6-prefer"]))
def test_never_twice_and_never_many(numbers: list[int], version: str) -> None:
    addresses = [f"10.0.{n // 256}.{n % 256}" if n % 2 else f"fd00::{n:x}" for n in numbers]
    found = arrange(addresses, version)  # type: ignore[arg-type]
    assert len(found) == len(set(found)) <= 16
    assert set(found) <= set(addresses)


def test_each_attempt_has_a_head_start() -> None:
    race = Race(["a", "b", "c"])
    assert race.start(10.0) == "a"
    assert race.next_start == 10.0 + ATTEMPT_DELAY
    assert race.start(10.2) is None
    assert race.start(10.25) == "b"
    assert race.waiting
    assert race.start(11.0) == "c"
    assert not race.waiting
    assert race.start(99.0) is None


def test_a_failure_lets_the_next_begin_at_once() -> None:
    race = Race(["a", "b"])
    assert race.start(10.0) == "a"
    race.failed(10.01)
    assert race.next_start == 10.01
    assert race.start(10.01) == "b"
