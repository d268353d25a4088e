"""What others can have us write into the log."""

from __future__ import annotations

import logging

import pytest
import trio
from trio.testing import MockClock

from cyfs_ns import seldom
from cyfs_ns.io.logs import SeldomLine
from cyfs_ns.seldom import Seldom

LOG = logging.getLogger("cyfs.test")


def told(line: Seldom, now: float, *who: object) -> list[str]:
    return [f"{one}{more}" for one in who if (more := line.ask(now, one)) is not None]


def test_a_few_are_told_in_a_minute_and_the_next_says_how_many_were_not() -> None:
    line = Seldom(most=2)
    assert [line.ask(0) for _ in range(5)] == ["", "", None, None, None]
    assert line.ask(59) is None
    assert [line.ask(60) for _ in range(3)] == [" (4 more since the last such line)", "", None]
    assert line.ask(180) == " (1 more since the last such line)"


def test_one_does_not_silence_another() -> None:
    assert told(Seldom(), 0, "alice", "alice", "bob", "alice") == ["alice", "bob"]


def test_a_crowd_counts_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seldom, "_MOST", 3)
    line = Seldom()
    assert told(line, 0, *range(100)) == ["0", "1", "2", "3"]
    assert len(line) == 4
    assert told(line, 60, "new") == ["new"]
    assert len(line) == 1


async def test_what_is_not_told_is_for_debug(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    line = SeldomLine(LOG, "%s fell")
    line.tell(0)
    line.tell(1)
    await trio.sleep(60)
    line.tell(2)
    said = [(one.levelname, one.getMessage()) for one in caplog.records]
    assert said == [("INFO", "0 fell"), ("DEBUG", "1 fell"), ("INFO", "2 fell (1 more since the last such line)")]
