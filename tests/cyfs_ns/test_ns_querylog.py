"""The query log: how much a line keeps, what is found in it, and the ring it is written to."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from cyfs_ns.config.house import Privacy
from cyfs_ns.errors import BadWire
from cyfs_ns.io import ring as ring_module
from cyfs_ns.io.ring import Ring
from cyfs_ns.printable import printable
from cyfs_ns.querylog import LogEntry, chosen, from_line, to_line

ENTRY = LogEntry(
    at=12.5, client="192.168.1.7", name="www.a.example", rtype="A", door="udp", source="blocked", rcode="NOERROR",
    answers=("0.0.0.0",), why="ads: ||a.example^", milliseconds=0.25,
)  # fmt: skip


@pytest.mark.parametrize(("level", "client"), [("full", "192.168.1.7"), ("anonymous", "192.168.1.0/24"), ("names", "")])
def test_a_line_keeps_no_more_of_the_client_than_the_owner_wants(level: Privacy, client: str) -> None:
    line = to_line(ENTRY, level)
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    assert from_line(line).client == client
    assert (b"192.168.1.7" in line) == (level == "full")


def test_nothing_is_written_where_nothing_is_kept() -> None:
    assert to_line(ENTRY, "none") == b""


def test_of_an_ipv6_client_the_site_is_kept() -> None:
    line = to_line(replace(ENTRY, client="2001:db8:1:2::3"), "anonymous")
    assert json.loads(line)["client"] == "2001:db8:1::/48"


def test_a_line_is_whole_however_long_the_answers_are() -> None:
    line = to_line(replace(ENTRY, answers=("x" * 60_000,) * 50, why="y" * 10_000), "full")
    assert len(line) < 4096 and from_line(line).name == ENTRY.name


@given(st.text(max_size=40), st.lists(st.text(max_size=10), max_size=3), st.integers(1, 1000))
def test_an_entry_comes_back_and_never_breaks_its_line(name: str, answers: list[str], times: int) -> None:
    entry = replace(ENTRY, name=name, answers=tuple(answers), times=times)
    line = to_line(entry, "full")
    assert line.count(b"\n") == 1
    again = from_line(line)
    assert again.times == times and again.name == printable(again.name)
    if name.isprintable():
        assert again.name == name


@given(st.binary(max_size=80))
def test_what_is_no_line_is_passed_over(data: bytes) -> None:
    try:
        from_line(data)
    except BadWire:
        assert list(chosen([data, to_line(ENTRY, "full")])) == [ENTRY]


@pytest.mark.parametrize(
    ("wish", "fits"),
    [
        ({}, True),
        ({"client": "192.168.1.7"}, True),
        ({"client": "192.168.1.8"}, False),
        ({"name": "a.example"}, True),
        ({"name": "www.a.example"}, True),
        ({"name": "w.a.example"}, False),
        ({"name": "example", "source": "blocked"}, True),
        ({"source": "hot"}, False),
    ],
)
def test_choosing(wish: dict[str, str], fits: bool) -> None:
    assert bool(list(chosen([to_line(ENTRY, "full")], **wish))) == fits


def test_a_client_is_found_by_its_network_where_only_that_was_kept() -> None:
    assert list(chosen([to_line(ENTRY, "anonymous")], client="192.168.1.99"))


# The ring


def test_the_newest_come_first_from_memory_and_from_disk(tmp_path: Path) -> None:
    ring = Ring(tmp_path / "log", 1 << 20)
    ring.add(b"1\n")
    ring.add(b"2\n")
    ring.write()
    ring.add(b"3\n")
    assert list(ring.lines()) == [b"3", b"2", b"1"]
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600


def test_the_disk_holds_no_more_than_was_allowed(tmp_path: Path) -> None:
    ring = Ring(tmp_path / "log", 20_000)
    for number in range(3000):
        ring.add(b"%09d\n" % number)
        if number % 100 == 0:
            ring.write()
    ring.write()
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 20_000 + 2000
    kept = list(ring.lines())
    assert kept[0] == b"000002999" and len(kept) > 900
    assert kept == sorted(kept, reverse=True)


@given(
    st.lists(st.binary(max_size=12).filter(lambda line: line and b"\n" not in line), max_size=30), st.integers(1, 20)
)
def test_lines_are_read_backwards_whatever_the_blocks(lines: list[bytes], block: int) -> None:
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as folder:
        patch.setattr(ring_module, "_BLOCK", block)
        ring = Ring(Path(folder, "log"), 1 << 20)
        for line in lines:
            ring.add(line + b"\n")
        ring.write()
        assert list(ring.lines()) == lines[::-1]


def test_what_is_written_while_somebody_reads_is_not_read_twice(tmp_path: Path) -> None:
    ring = Ring(tmp_path / "log", 1 << 20)
    ring.add(b"1\n")
    ring.write()
    ring.add(b"2\n")
    lines = ring.lines()
    assert next(lines) == b"2"
    ring.write()
    assert list(lines) == [b"1"]


def test_a_disk_that_fails_costs_lines_and_nothing_else(tmp_path: Path) -> None:
    ring = Ring(tmp_path / "no" / "log", 1 << 20)
    ring.add(b"1\n")
    ring.write()
    assert ring.lost == 1 and list(ring.lines()) == []


def test_what_nobody_writes_is_bounded(tmp_path: Path) -> None:
    ring = Ring(tmp_path / "log", 1 << 20)
    for _ in range(2100):
        ring.add(b"x" * 999 + b"\n")
    assert ring.full and ring.lost > 0
    assert sum(map(len, ring.lines())) < 2 << 20


def test_the_log_can_be_forgotten(tmp_path: Path) -> None:
    ring = Ring(tmp_path / "log", 1 << 20)
    ring.add(b"1\n")
    ring.write()
    ring.add(b"2\n")
    ring.remove()
    assert list(ring.lines()) == [] and list(tmp_path.iterdir()) == []


async def test_followers_see_lines_as_they_come_and_a_slow_one_loses_the_oldest(tmp_path: Path) -> None:
    ring = Ring(tmp_path / "log", 1 << 20)
    lines = ring.follow()
    seen: list[bytes] = []

    async def read() -> None:
        seen.append(await anext(lines))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        ring.add(b"first\n")
    for number in range(3000):
        ring.add(b"%d\n" % number)
    assert seen == [b"first\n"]
    assert await anext(lines) == b"%d\n" % (3000 - 1024)
    await lines.aclose()  # type: ignore[attr-defined]
