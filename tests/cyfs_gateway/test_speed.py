"""The lines of a speed test, and its sums."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_gateway.speed import (
    MOST_LINE,
    MOST_SECONDS,
    Arrived,
    Times,
    Wanted,
    megabits,
    read_arrived,
    read_wanted,
    summary,
    write_arrived,
    write_wanted,
)
from cyfs_ns.errors import BadWire


@pytest.mark.parametrize("what", ["down", "up", "echo"])
def test_what_is_asked_is_heard_with_what_follows(what: str) -> None:
    wanted = Wanted(what, 2.5)  # type: ignore[arg-type]
    assert read_wanted(write_wanted(wanted) + b"\0\n\0") == (wanted, b"\0\n\0")
    assert read_wanted(write_wanted(wanted)[:-1]) is None
    assert read_wanted(write_wanted(Wanted(what, 1e9))) == (Wanted(what, MOST_SECONDS), b"")  # type: ignore[arg-type]


def test_what_arrived_is_told() -> None:
    assert read_arrived(write_arrived(Arrived(1 << 40, 1.5))) == Arrived(1 << 40, 1.5)
    assert read_arrived(b"{") is None


@pytest.mark.parametrize(
    "line",
    [
        b"x" * MOST_LINE,
        b"{}\n",
        b'{"v":1,"do":"ping","seconds":1}\n',
        b'{"v":2,"do":"up","seconds":1}\n',
        b'{"v":1,"do":"up","seconds":0}\n',
        b'{"v":1,"do":"up","seconds":true}\n',
        b'{"v":1,"do":"up","seconds":-1}\n',
        b'{"v":1,"do":["up"],"seconds":1}\n',
        b'{"bytes":-1,"seconds":1}\n',
        b'{"bytes":1,"seconds":-1}\n',
    ],
)
def test_nonsense_is_a_fault(line: bytes) -> None:
    for read in (read_wanted, read_arrived):
        with pytest.raises(BadWire):
            read(line)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_strangers_say_something_or_nothing(data: bytes) -> None:
    for read in (read_wanted, read_arrived):
        try:
            found = read(data)
        except BadWire:
            continue
        assert found is None or b"\n" in data[:MOST_LINE]


def test_sums() -> None:
    assert megabits(1_000_000, 2.0) == 4.0
    assert megabits(1, 0.0) == 0.0
    assert summary([]) is None
    assert summary([0.003, 0.001, 0.002]) == Times(3, 1.0, 2.0, 3.0)
