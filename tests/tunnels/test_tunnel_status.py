"""The status table: what is believed for how long, what is forgotten first, what is dumped."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_ns.errors import BadWire
from tunnels.status import TTL, Source, State, StatusTable
from tunnels.url import TunnelUrl, parse

A, B, C, D = (parse(f"tcp:///{name}.example:80") for name in "abcd")


def learnt(table: StatusTable, url: TunnelUrl, state: State, now: float = 100.0, rtt: float | None = None) -> None:
    reason = "connect_refused" if state is State.UNREACHABLE else ""
    table.learn(url, state, Source.BUSINESS_CONNECT, now, reason=reason, rtt=rtt)


def test_nothing_is_known_of_a_new_url() -> None:
    status = StatusTable().ask(A, 1.0)
    assert (status.state, status.source, status.rtts, status.rtt) == (State.UNKNOWN, None, (), None)


@pytest.mark.parametrize("state", [State.REACHABLE, State.UNREACHABLE, State.UNKNOWN, State.UNSUPPORTED])
def test_an_answer_is_believed_for_its_time(state: State) -> None:
    table = StatusTable()
    learnt(table, A, state, 100.0, rtt=7.0)
    just_before, just_after = 100.0 + TTL[state] - 0.01, 100.0 + TTL[state]
    assert table.ask(A, just_before).state is state
    assert not table.wants_probe(A, just_before)
    old = table.ask(A, just_after)
    assert (old.state, old.reason, old.rtts) == (State.UNKNOWN, "", (7.0,))
    assert table.wants_probe(A, just_after)
    assert table.wants_probe(A, 0.0), "a clock set back must not make answers immortal"


def test_the_reason_is_told_while_it_is_believed() -> None:
    table = StatusTable()
    learnt(table, A, State.UNREACHABLE)
    assert table.ask(A, 101.0).reason == "connect_refused"


def test_a_probe_is_fresh_for_its_asker_and_cached_for_others() -> None:
    table = StatusTable()
    table.learn(A, State.REACHABLE, Source.FRESH_PROBE, 100.0)
    assert table.ask(A, 100.0, fresh=True).source is Source.FRESH_PROBE
    assert table.ask(A, 100.0).source is Source.CACHED_PROBE
    learnt(table, A, State.REACHABLE)
    assert table.ask(A, 100.0).source is Source.BUSINESS_CONNECT


def test_a_running_probe_shows_and_is_not_doubled() -> None:
    table = StatusTable()
    table.probe_started(A)
    assert table.ask(A, 1.0).state is State.PROBING
    assert not table.wants_probe(A, 1.0)
    table.probe_ended(A)
    assert table.ask(A, 1.0).state is State.UNKNOWN
    assert table.wants_probe(A, 1.0)


def test_the_last_eight_round_trips_are_kept() -> None:
    table = StatusTable()
    for rtt in range(1, 12):
        learnt(table, A, State.REACHABLE, rtt=float(rtt))
    learnt(table, A, State.UNREACHABLE)
    status = table.ask(A, 100.0)
    assert status.rtts == tuple(float(rtt) for rtt in range(4, 12))
    assert status.rtt == 7.5


def test_the_least_recently_used_go_first_and_pins_stay() -> None:
    table = StatusTable(capacity=2)
    table.pin(A)
    for url in (A, B, C):
        learnt(table, url, State.REACHABLE)
    assert [table.ask(url, 100.0).state for url in (A, B, C)] == [State.REACHABLE, State.UNKNOWN, State.REACHABLE]
    table.unpin(A)
    table.ask(C, 100.0)
    learnt(table, D, State.REACHABLE)
    assert [table.ask(url, 100.0).state for url in (A, C)] == [State.UNKNOWN, State.REACHABLE]
    assert len(table) == 2


def test_sorting() -> None:
    table = StatusTable()
    learnt(table, A, State.UNREACHABLE)
    learnt(table, B, State.REACHABLE, rtt=30.0)
    learnt(table, C, State.REACHABLE, rtt=10.0)
    urls = [A, B, C, D]
    assert table.sort(urls, "none", 100.0) == urls
    assert table.sort(urls, "reachable_first", 100.0) == [B, C, D, A]
    assert table.sort(urls, "rtt_ascending", 100.0) == [C, B, D, A]
    assert table.sort(urls, "caller_priority_then_rtt", 100.0, [0, 2, 2, 1]) == [D, C, B, A]


def test_a_dump_is_json_that_loads_again_without_credentials() -> None:
    secret = parse("socks://bob:hunter2@h:1/a:2")
    table = StatusTable()
    learnt(table, A, State.UNREACHABLE, rtt=1.5)
    learnt(table, secret, State.REACHABLE)
    text = json.dumps(table.dump())
    assert "hunter" not in text and "h:1" in text
    again = StatusTable()
    again.load(json.loads(text))
    assert again.ask(A, 101.0) == table.ask(A, 101.0)
    assert len(again) == 1


_values = st.recursive(
    st.none()
    | st.booleans()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["tcp:///a:1", "reachable", "other"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["url", "state", "source", "reason", "rtts", "learnt_at"]), inner, max_size=6)
    ),
    max_leaves=20,
)


@given(st.lists(_values, max_size=3) | _values)
@settings(max_examples=200)
def test_whatever_was_on_disk_loads_or_is_bad_wire(saved: Any) -> None:
    table = StatusTable()
    try:
        table.load(saved)
    except BadWire:
        assert len(table) == 0
        return
    json.dumps(table.dump())
