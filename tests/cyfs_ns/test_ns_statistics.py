"""Counting: nothing frequent is missed, memory is bounded, privacy holds, and counts outlive a restart."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_ns.config.house import Privacy
from cyfs_ns.errors import BadWire
from cyfs_ns.statistics import HOURS, Heard, Statistics, TopList
from cyfs_ns.wire import name_wire

HEARD = Heard(
    client="192.168.1.7",
    name=name_wire("a.example"),
    rtype=1,
    source="upstream",
    seconds=0.02,
    server="udp://9.9.9.9:53",
)


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 5)), max_size=300), st.integers(1, 20))
@settings(max_examples=150)
def test_a_count_is_never_too_low_and_its_error_is_known(stream: list[tuple[int, int]], room: int) -> None:
    counts: TopList[int] = TopList(room)
    true: Counter[int] = Counter()
    for key, times in stream:
        counts.add(key, times)
        true[key] += times
    found = dict(counts.top(room))
    assert len(found) <= room
    total = sum(true.values())
    for key, count in found.items():
        assert true[key] <= count <= true[key] + counts.error(key)
    for key, count in true.items():
        if count > total / room:
            assert key in found


def test_the_most_frequent_come_first() -> None:
    counts: TopList[str] = TopList()
    for name, times in (("a", 2), ("b", 9), ("c", 5)):
        counts.add(name, times)
    assert counts.top(2) == [("b", 9), ("c", 5)]


def test_an_answer_is_counted_everywhere() -> None:
    said = Statistics()
    said.hear([HEARD], 7200.0)
    said.hear_hits([(name_wire("bad.example"), 28, "blocked", 4)], 7300.0)
    assert said.since == 7200.0
    assert said.total == {"upstream": 1, "blocked": 4}
    assert said.blocked.top(9) == [("bad.example", 4)]
    assert said.clients.top(9) == [("192.168.1.7", 1)]
    assert said.by_hour() == [(2, {"upstream": 1, "blocked": 4})]
    assert said.mean_seconds("udp://9.9.9.9:53") == pytest.approx(0.02)


def test_a_day_slides() -> None:
    said = Statistics()
    for hour in range(HOURS + 5):
        said.hear([HEARD], hour * 3600.0)
    assert [hour for hour, _ in said.by_hour()] == list(range(5, HOURS + 5))


@pytest.mark.parametrize(
    ("level", "clients", "names"),
    [("full", ["192.168.1.7"], 1), ("anonymous", ["192.168.1.0/24"], 1), ("names", [], 1), ("none", [], 0)],
)
def test_privacy_holds_for_what_comes_and_for_what_is_there(level: Privacy, clients: list[str], names: int) -> None:
    late, early = Statistics(), Statistics()
    early.obey(level)
    for said in (late, early):
        said.hear([HEARD], 0.5)
    late.obey(level)
    for said in (late, early):
        assert [client for client, _ in said.clients.top(9)] == clients
        assert len(said.names.top(9)) == names
        assert said.total == {"upstream": 1}


def test_counts_outlive_a_restart() -> None:
    said, again = Statistics(), Statistics()
    said.hear([HEARD], 5000.0)
    said.hear_hits([(name_wire("b.example"), 65, "hot", 3)], 9000.0)
    again.load(said.dump())
    assert again.dump() == said.dump()
    again.hear([HEARD], 9001.0)
    assert again.total == {"upstream": 2, "hot": 3} and again.since == 5000.0
    assert again.by_hour() == [(1, {"upstream": 1}), (2, {"hot": 3, "upstream": 1})]


def test_a_restart_with_more_privacy_forgets() -> None:
    said, again = Statistics(), Statistics()
    said.hear([HEARD], 5000.0)
    again.obey("names")
    again.load(said.dump())
    assert again.clients.top(9) == []


@given(st.one_of(st.binary(max_size=60), st.sampled_from([b"{}", b"[]", b'{"since":1}', b'{"since":"x"}', b"[[[["])))
def test_what_is_no_dump_changes_nothing(data: bytes) -> None:
    said = Statistics()
    said.hear([HEARD], 1.0)
    before = said.dump()
    with pytest.raises(BadWire):
        said.load(data)
    assert said.dump() == before


@given(st.data())
@settings(max_examples=100)
def test_a_broken_dump_is_taken_whole_or_not_at_all(data: st.DataObject) -> None:
    said = Statistics()
    said.hear([HEARD], 1.0)
    dump = bytearray(said.dump())
    dump[data.draw(st.integers(0, len(dump) - 1))] = data.draw(st.integers(0, 255))
    again = Statistics()
    try:
        again.load(bytes(dump))
    except BadWire:
        assert again.dump() == Statistics().dump()
