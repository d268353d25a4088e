"""Logs: one record is one line whatever it holds, a level that is off costs nothing, a slow watcher blocks nobody."""

from __future__ import annotations

import errno
import io
import json
import logging
import threading
from collections.abc import Iterator
from contextlib import aclosing

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_ns.io import logs
from cyfs_ns.io.logs import LEVELS, json_line, log_bus, set_level, setup_logs, terminal_line
from cyfs_ns.logline import LogLine
from cyfs_ns.seldom import Seldom

log = logging.getLogger("cyfs.test")


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[None]:
    """Leave the root logger as it was found."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    root.setLevel(level)
    root.handlers[:] = handlers
    logs._bus = None


@pytest.mark.parametrize("json_lines", [True, False])
def test_a_record_is_one_line_with_its_facts(json_lines: bool) -> None:
    out = io.StringIO()
    setup_logs("info", out, json=json_lines)
    log.info("opened %s", "www.example.com", extra={"rule": "MATCH", "bytes": 7})
    log.debug("never seen")
    [line] = out.getvalue().splitlines()
    if json_lines:
        record = json.loads(line)
        assert record.pop("time") > 0
        assert record == {
            "level": "info",
            "message": "opened www.example.com",
            "logger": "cyfs.test",
            "rule": "MATCH",
            "bytes": 7,
        }
    else:
        assert line.endswith("info    opened www.example.com logger=cyfs.test rule=MATCH bytes=7")


@given(st.text(), st.text())
@settings(max_examples=200, deadline=None)
def test_log_injection_is_impossible(message: str, value: str) -> None:
    line = LogLine(0.0, "info", message, {"host": value})
    for text in (terminal_line(line), json_line(line)):
        assert len(text.splitlines()) == 1
        assert not set(text) & {"\x1b", "\r", "\x9b", "\u202e"}
    assert json.loads(json_line(line))["host"] == value


def test_a_traceback_cannot_pass_for_a_record() -> None:
    out = io.StringIO()
    setup_logs("info", out, json=False)
    try:
        raise ValueError("bad\n12:00:00 info    all is well\x1b[2J")
    except ValueError:
        log.exception("failed")
    first, *rest = out.getvalue().splitlines()
    assert "failed" in first
    assert rest
    assert all(row.startswith("  | ") for row in rest)
    assert "\x1b" not in out.getvalue()


@pytest.mark.parametrize("level", LEVELS)
def test_a_level_writes_itself_and_what_is_above(level: str) -> None:
    out = io.StringIO()
    setup_logs("info", out, json=True)
    set_level(level)
    for name in ("debug", "info", "warning", "error"):
        log.log(LEVELS[name], name)
    seen = [json.loads(line)["level"] for line in out.getvalue().splitlines()]
    assert seen == [name for name in ("debug", "info", "warning", "error") if LEVELS[name] >= LEVELS[level]]


def test_a_level_that_is_off_is_off_at_the_logger() -> None:
    setup_logs("warning", io.StringIO(), json=True)
    assert not log.isEnabledFor(logging.INFO)
    set_level("silent")
    assert not log.isEnabledFor(logging.CRITICAL)


def test_a_broken_stream_stops_nobody() -> None:
    out = io.StringIO()
    setup_logs("info", out, json=True)
    out.close()
    log.info("into the void")


def test_a_second_setup_replaces_the_first() -> None:
    first, second = io.StringIO(), io.StringIO()
    setup_logs("info", first, json=True)
    bus = setup_logs("info", second, json=True)
    log.info("once")
    assert (first.getvalue(), second.getvalue().count("once"), log_bus()) == ("", 1, bus)


async def test_a_watcher_sees_its_level_while_the_stream_keeps_its_own() -> None:
    out = io.StringIO()
    bus = setup_logs("error", out, json=True)
    async with aclosing(log_bus().subscribe("debug")) as lines:
        log.debug("small", extra={"n": 1})
        line = await anext(lines)
    assert (line.level, line.message, line.fields["n"], out.getvalue()) == ("debug", "small", 1, "")
    bus.set_level("error")
    assert not log.isEnabledFor(logging.WARNING)


async def test_a_watcher_hears_other_threads() -> None:
    setup_logs("info", None, json=True)
    async with aclosing(log_bus().subscribe("info")) as lines:
        thread = threading.Thread(target=log.info, args=("from afar",))
        thread.start()
        assert (await anext(lines)).message == "from afar"
        thread.join()


async def test_a_lagging_watcher_loses_the_oldest_and_is_told() -> None:
    setup_logs("info", None, json=True)
    async with aclosing(log_bus().subscribe("info")) as lines:
        for number in range(logs._QUEUE + 88):
            log.info("%d", number)
        assert "88 log lines lost" in (await anext(lines)).message
        assert (await anext(lines)).message == "88"


async def test_silent_watchers_hear_nothing() -> None:
    setup_logs("info", None, json=True)
    async with aclosing(log_bus().subscribe("silent")) as lines:
        log.critical("loud")
        with trio.move_on_after(0) as patience:
            await anext(lines)
    assert patience.cancelled_caught


def test_a_lack_of_descriptors_is_a_warning_told_seldom() -> None:
    """Here two that lack them, who have nothing in common but their hurry."""
    out = io.StringIO()
    setup_logs("info", out, json=True)
    for name in ("cyfs.descriptors", "trio.serve_listeners"):
        began = out.tell()
        (seldom,) = logging.getLogger(name).filters
        assert isinstance(seldom, logs._SeldomWarning)
        seldom._seldom = Seldom()  # a test before this one may have lacked some
        for _ in range(100):
            try:
                raise OSError(errno.EMFILE, "Too many open files")
            except OSError:
                logging.getLogger(name).error("it fails: %s", "Too many open files", exc_info=True)
        told = [json.loads(line) for line in out.getvalue()[began:].splitlines()]
        assert [(one["level"], one["message"]) for one in told] == [("warning", "it fails: Too many open files")]
        seldom._seldom._told = {None: (0.0, 1, 99)}  # a minute has passed
        logging.getLogger(name).error("it fails: %s", "again")
        told = json.loads(out.getvalue().splitlines()[-1])
        assert told["message"] == "it fails: again (99 more since the last such line)"
