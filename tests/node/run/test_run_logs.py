"""Logs, read while they are written: nothing twice, nothing out of order, and any bytes are a line or none."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from runhelp import order, shell, until

from node.io.run.logs import read_log
from node.io.run.runs import Runs
from node.run.lines import Line, read_line


@given(st.binary())
def test_any_bytes_are_a_line_or_none(untrusted: bytes) -> None:
    line = read_line(untrusted)
    assert line is None or line.stream in ("out", "err", "keeper")


def test_what_the_letters_mean() -> None:
    assert read_line(b"12.500000 o a b ") == Line(12.5, "out", "a b ")
    assert read_line(b"12.5 E \xff") == Line(12.5, "err", "\ufffd", goes_on=True)
    assert read_line(b"12.5 x a") is None


async def test_all_that_is_kept_and_what_comes_is_told_once_and_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.io.run.runs.LOG_SIZE", 150_000)
    runs = Runs(str(tmp_path))
    go = tmp_path / "go"
    script = f"seq 1 2000; until [ -e {go} ]; do sleep 0.01; done; seq 2001 9000; echo end"
    await runs.start(order(), shell(script))
    heard: list[str] = []

    async def listen() -> None:
        async for line in read_log(runs.place("notes"), follow=True):
            heard.append(line.text)
            if line.text == "end":
                return

    with trio.fail_after(200):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            await until(lambda: "2000" in heard)
            go.touch()
    await runs.wait("notes")
    assert heard == [*map(str, range(1, 9001)), "end"]
    kept = [line async for line in read_log(runs.place("notes"))]
    assert [line.text for line in kept] == heard[-len(kept) :]
    later = [line async for line in read_log(runs.place("notes"), since=kept[-1].at)]
    assert later == [line for line in kept if line.at >= kept[-1].at]


async def test_a_service_that_never_wrote_has_no_lines(tmp_path: Path) -> None:
    assert [line async for line in read_log(Runs(str(tmp_path)).place("notes"))] == []
