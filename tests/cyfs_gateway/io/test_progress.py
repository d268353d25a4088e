"""What people and programs see of files that move: bars on a terminal only, else lines."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys

from cyfs_gateway.io.command.progress import JsonLines, Lines
from cyfs_gateway.transfer import Offer

OFFER = Offer("film\x1b.bin", 3 << 20, 0)

SCRIPT = """
import time
from cyfs_gateway.io.command.progress import teller
from cyfs_gateway.transfer import Offer
tell, offer = teller("to", as_json=False), Offer("film.bin", 3 << 20, 0)
tell.begun("nas", offer, 1 << 20)
tell.moved("nas", offer, 2 << 20)
time.sleep(0.3)
tell.whole("nas", offer)
tell.failed("nas", "", "away")
"""


def test_lines_tell_of_ends_and_drive_no_terminal() -> None:
    out, err = io.StringIO(), io.StringIO()
    lines = Lines("to", out, err)
    lines.begun("nas", OFFER, 1 << 20)
    lines.moved("nas", OFFER, 2 << 20)
    lines.whole("nas", OFFER)
    lines.failed("nas", "other", "no room")
    assert out.getvalue().startswith("film\\x1b.bin: 3.0 MiB to nas, ")
    assert err.getvalue() == "other to nas: no room\n"


def test_json_is_an_event_a_line() -> None:
    out = io.StringIO()
    lines = JsonLines(out)
    lines.begun("nas", OFFER, 1)
    lines.moved("nas", OFFER, 2)
    lines.moved("nas", OFFER, 3)
    lines.whole("nas", OFFER)
    lines.failed("nas", "other", "no room")
    said = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [one["event"] for one in said] == ["begun", "moved", "whole", "failed"], "not every byte is told"
    assert (said[0]["bytes"], said[1]["bytes"], said[0]["name"]) == (1, 2, OFFER.name)


def test_a_terminal_shows_a_bar_with_rate_and_time_left() -> None:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    process = subprocess.Popen([sys.executable, "-c", SCRIPT], stderr=theirs, stdout=theirs, env=environment)
    os.close(theirs)
    shown = b""
    try:
        while data := os.read(ours, 65536):
            shown += data
    except OSError:
        pass  # the other end of a terminal has gone
    finally:
        os.close(ours)
        assert process.wait(30) == 0
    assert "━".encode() in shown
    assert b"2.1/3.1" in shown or b"2.0/3.0" in shown
    assert b"film.bin: 3.0 MiB to nas" in shown
    assert b"nothing to nas: away" in shown


def test_each_file_has_a_clock_of_its_own_and_nothing_is_kept_of_those_that_end() -> None:
    out, other = io.StringIO(), Offer("other", 9, 0)
    told, lines = JsonLines(out), Lines("to", io.StringIO(), io.StringIO())
    for offer in (OFFER, other):
        for witness in (told, lines):
            witness.begun("nas", offer, 0)
            witness.moved("nas", offer, 1)
    said = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [one["name"] for one in said if one["event"] == "moved"] == [OFFER.name, "other"]
    for witness in (told, lines):
        witness.failed("nas", "other", "no room")
        witness.whole("nas", OFFER)
    assert (told._told, lines._began) == ({}, {})
