"""What others can have us write into the log."""

from __future__ import annotations

import logging

import pytest
import trio
from trio.testing import MockClock

from rtcp.io import seldom
from rtcp.io.seldom import Seldom

LOG = logging.getLogger("cyfs.test")


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    told = [one.getMessage() for one in caplog.records if one.levelname == "INFO"]
    caplog.clear()
    return told


async def test_a_few_are_told_in_a_minute_and_the_next_says_how_many_were_not(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    line = Seldom(LOG, "%s fell", most=2)
    for number in range(5):
        line.tell(number)
    assert said(caplog) == ["0 fell", "1 fell"]
    await trio.sleep(59)
    line.tell(5)
    assert said(caplog) == []
    await trio.sleep(1)
    line.tell(6)
    line.tell(7)
    line.tell(8)
    assert said(caplog) == ["6 fell (4 more since the last such line)", "7 fell"]
    await trio.sleep(120)
    line.tell(9)
    assert said(caplog) == ["9 fell (1 more since the last such line)"]


async def test_one_does_not_silence_another(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    line = Seldom(LOG, "%s fell")
    for who in ("alice", "alice", "bob", "alice"):
        line.tell(who, by=who)
    assert said(caplog) == ["alice fell", "bob fell"]


async def test_a_crowd_counts_as_one(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(seldom, "_MOST", 3)
    line = Seldom(LOG, "%s fell")
    for who in range(100):
        line.tell(who, by=who)
    assert said(caplog) == ["0 fell", "1 fell", "2 fell", "3 fell"]
    assert len(line._told) == 4
    await trio.sleep(60)
    line.tell("new", by="new")
    assert said(caplog) == ["new fell"]
    assert len(line._told) == 1
