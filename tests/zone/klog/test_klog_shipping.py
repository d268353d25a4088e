"""Lines on their way: from whoever says them, over a spool, to a store, each kept once, what is lost told."""

from __future__ import annotations

import logging
import os
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio

from cyfs_ns.errors import BadWire, Unreachable
from cyfs_ns.io.logs import setup_logs
from zone.io.klog import spool as spools
from zone.io.klog import store as stores
from zone.io.klog.spool import Journal, Send, Shipping, Spool, follow
from zone.io.klog.store import LogStore, Query
from zone.klog.line import Batch, Line

LIFE = "0123456789abcdef"


def line(message: str, time: float = 1000.0, service: str = "web", level: str = "info") -> Line:
    return Line(time, service, level, message, {"n": "1"})


def messages(store: LogStore, **query: object) -> list[str]:
    """All that is found, however many looks it takes; oldest first, or as it came."""
    found: list[str] = []
    more: Query | None = (first := Query(**query))  # type: ignore[arg-type]
    most = first.limit
    while more is not None and len(found) < most:
        look = store.look(replace(more, limit=most - len(found)))
        found += [kept.line.message for kept in look.lines]
        more = look.more
    return found if "after" in query else found[::-1]


async def carry(journal: Journal, shipping: Shipping, send: Send, *, task_status: trio.TaskStatus[None]) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(journal.run)
        nursery.start_soon(shipping.run, send)
        task_status.started()


def test_a_spool_gives_the_oldest_until_they_are_taken(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.db")
    assert spool.batch() is None
    spool.add([line("a"), line("b")])
    spool.close()
    again = Spool(tmp_path / "spool.db")
    assert again.life == spool.life
    batch = again.batch()
    assert batch is not None
    assert [(number, one.message) for number, one in batch.lines] == [(1, "a"), (2, "b")]
    again.taken(2)
    assert again.batch() is None
    again.add([line("c")])
    assert (again.batch() or batch).lines[0][0] == 3


def test_a_full_spool_gives_up_the_oldest(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.db", most=10 * len(line("00").text()))
    spool.add([line(f"{number:02}") for number in range(25)])
    batch = spool.batch()
    assert batch is not None
    assert [number for number, _ in batch.lines] == list(range(16, 26))


def test_a_service_that_floods_takes_no_room_from_others(tmp_path: Path) -> None:
    size = len(line("00").text())
    spool = Spool(tmp_path / "spool.db", most=10 * size)
    spool.add([line("a1", service="abc"), line("a2", service="abc")])
    for number in range(50):
        spool.add([line(f"{number:02}")])
    batch = spool.batch()
    assert batch is not None
    assert [one.message for _, one in batch.lines] == ["a1", "a2", *(str(number) for number in range(42, 50))]
    assert spool.size <= 10 * size
    store = LogStore(tmp_path / "logs.db", most=3000)
    store.take("nas", Batch(LIFE, ((1, line("a1", service="abc")),)))
    store.take("ood1", Batch(LIFE, tuple((number, line(f"{number:02}")) for number in range(1, 100))))
    kept = messages(store)
    assert kept.count("a1") == 1
    assert kept[-1] == "99"
    assert len(kept) < 15


def test_how_far_somebody_has_read_is_kept_with_the_lines(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.db")
    spool.add([line("a")], {"web": "17", "mail": "3"})
    spool.add([], {"mail": None})
    spool.close()
    again = Spool(tmp_path / "spool.db")
    assert again.marks() == {"web": "17"}
    assert again.size == len(line("a").text())


def test_lines_go_when_they_are_old_whatever_their_clocks_say(tmp_path: Path) -> None:
    now = [100.0]
    store = LogStore(tmp_path / "logs.db", age=50.0, clock=lambda: now[0])
    store.take("ood1", Batch(LIFE, ((1, line("a", 9e9)),)))
    now[0] += 40
    store.take("ood1", Batch(LIFE, ((2, line("b", 1.0)),)))
    store.close()
    # The next run of the program, whose clock begins anew.
    now[0] = 5.0
    store = LogStore(tmp_path / "logs.db", age=50.0, clock=lambda: now[0])
    assert messages(store) == ["b", "a"]
    now[0] += 11
    store.take("ood1", Batch(LIFE, ((3, line("c", 2.0)),)))
    assert messages(store) == ["b", "c"]


@pytest.mark.parametrize("after", [None, 0])
def test_a_look_is_short_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int | None) -> None:
    monkeypatch.setattr(stores, "MOST_LOOKED_AT", 7)
    store = LogStore(tmp_path / "logs.db")
    lines = [line(f"{number}", float(number // 3), "abc" if number % 10 == 0 else "web") for number in range(60)]
    store.take("ood1", Batch(LIFE, tuple(enumerate(lines, 1))))
    wanted = {} if after is None else {"after": after}
    assert messages(store, **wanted) == [str(number) for number in range(60)]
    assert messages(store, services=("abc",), **wanted) == ["0", "10", "20", "30", "40", "50"]
    newest = ["40", "50"] if after is None else ["0", "10"]
    assert messages(store, services=("abc",), limit=2, **wanted) == newest


def test_a_store_keeps_each_line_once_and_tells_what_never_came(tmp_path: Path) -> None:
    store = LogStore(tmp_path / "logs.db")
    first = Batch(LIFE, ((1, line("a")), (2, line("b"))))
    assert store.take("ood1", first) == (2, (line("a"), line("b")))
    assert store.take("ood1", first) == (2, ())
    assert store.take("ood1", Batch(LIFE, ((2, line("b")), (3, line("c"))))) == (3, (line("c"),))
    store.take("ood1", Batch(LIFE, ((9, line("d")),)))
    store.take("ood2", first)
    lost = "5 lines before this one were lost: their machine had no room for them"
    assert messages(store, node="ood1") == ["a", "b", "c", lost, "d"]
    store.close()
    again = LogStore(tmp_path / "logs.db")
    assert again.take("ood1", first) == (9, ())
    assert messages(again, node="ood2") == ["a", "b"]


def test_what_is_asked_for_is_found(tmp_path: Path) -> None:
    store = LogStore(tmp_path / "logs.db")
    lines = [
        line("started", 10.0),
        line("Disk is full", 20.0, level="error"),
        line("mail", 5.0, "mail"),
        line("late", 15.0),
    ]
    store.take("ood1", Batch(LIFE, tuple(enumerate(lines, 1))))
    assert messages(store) == ["mail", "started", "late", "Disk is full"]
    assert messages(store, limit=2) == ["late", "Disk is full"]
    assert messages(store, services=("web",), since=11.0, until=15.0) == ["late"]
    assert messages(store, level="warning") == ["Disk is full"]
    assert messages(store, text="dISK") == ["Disk is full"]
    assert messages(store, text="%") == []
    assert messages(store, after=2) == ["mail", "late"]
    assert messages(store, after=4) == []
    assert store.look(Query(limit=-1)).lines == ()


def test_a_full_store_gives_up_what_came_first_whatever_the_clocks_say(tmp_path: Path) -> None:
    store = LogStore(tmp_path / "logs.db", most=5 * (2 + 200 + len('{"n": "1"}')))
    lines = [line(f"{number:02}", 9e9 if number < 10 else 1.0) for number in range(20)]
    store.take("ood1", Batch(LIFE, tuple(enumerate(lines, 1))))
    assert messages(store, after=0) == ["15", "16", "17", "18", "19"]


async def test_lines_wait_for_an_ood_and_arrive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spools, "_PAUSE", 0.01)
    store, tries, arrived = LogStore(tmp_path / "logs.db"), [], trio.Event()

    async def send(batch: Batch) -> int:
        tries.append(batch)
        if len(tries) < 4:
            raise Unreachable("no OOD")
        number, _ = store.take("ood1", batch)
        if len(tries) == 4:
            raise Unreachable("the answer was lost")
        if number == 2500:
            arrived.set()
        return number

    monkeypatch.setattr(spools, "_REST", 0.0)
    shipping = Shipping(Spool(tmp_path / "spool.db"))
    journal = Journal(shipping)
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(carry, journal, shipping, send))
        for number in range(2500):
            journal.put(line(str(number)))
        await arrived.wait()
        nursery.cancel_scope.cancel()
    assert messages(store, after=2000) == [str(number) for number in range(2000, 2500)]
    assert messages(store, after=2500) == []


async def test_a_queue_that_overflows_says_so_and_nobody_waits(tmp_path: Path) -> None:
    shipping = Shipping(Spool(tmp_path / "spool.db"))
    journal = Journal(shipping, most_queued=10)
    for number in range(25):
        journal.put(line(str(number)))

    arrived: list[str] = []

    async def send(batch: Batch) -> int:
        arrived.extend(one.message for _, one in batch.lines)
        if "24" in arrived:
            nursery.cancel_scope.cancel()
        return batch.lines[-1][0]

    async with trio.open_nursery() as nursery:
        await nursery.start(partial(carry, journal, shipping, send))
    assert arrived == [
        "15 lines before this one were lost: the disk did not take them in time",
        *map(str, range(15, 25)),
    ]


async def test_a_disk_that_takes_nothing_for_a_while_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spools, "_PAUSE", 0.01)
    real, full = Spool.add, [True, True]

    def add(spool: Spool, lines: list[Line], marks: None = None) -> None:
        if full:
            full.pop()
            raise sqlite3.OperationalError("database or disk is full")
        real(spool, lines, marks)

    monkeypatch.setattr(spools.Spool, "add", add)
    arrived: list[str] = []

    async def send(batch: Batch) -> int:
        arrived.extend(one.message for _, one in batch.lines)
        if len(arrived) == 2:
            nursery.cancel_scope.cancel()
        return batch.lines[-1][0]

    shipping = Shipping(Spool(tmp_path / "spool.db"))
    journal = Journal(shipping)
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(carry, journal, shipping, send))
        journal.put(line("first"))
        journal.put(line("second"))
    assert arrived == ["first", "second"]


async def test_a_batch_that_is_never_taken_holds_nobody_up(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.db")
    shipping = Shipping(spool)
    arrived: list[str] = []

    async def send(batch: Batch) -> int:
        if not arrived:
            arrived.append("refused")
            spool.add([line("b")])
            raise BadWire("not as lines are written")
        arrived.extend(one.message for _, one in batch.lines)
        nursery.cancel_scope.cancel()
        return batch.lines[-1][0]

    spool.add([line("a")])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shipping.run, send)
    assert arrived == ["refused", "b"]


async def test_what_the_house_says_of_the_zone_becomes_lines_and_what_it_warns_of() -> None:
    watcher = setup_logs("info", None, json=False).subscribe("info")
    heard: list[Line] = []

    def put(said: Line) -> None:
        heard.append(said)
        if said.message == "last":
            nursery.cancel_scope.cancel()

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow, watcher, put)
            logging.getLogger("cyfs.inbound").info("192.168.1.9 -> clinic.example: refused")
            logging.getLogger("cyfs.zone.web").info("a %s", "word", extra={"peer": "ood2"})
            logging.getLogger("cyfs.rtcp.nat").warning("odd")
            logging.getLogger("somebody.else").error("last")
    finally:
        await watcher.aclose()
    assert [(one.service, one.level, one.message) for one in heard] == [
        ("cyfs.zone", "info", "a word"),
        ("cyfs.gateway", "warning", "odd"),
        ("cyfs.gateway", "error", "last"),
    ]
    assert heard[0].attrs["peer"] == "ood2"


WRITER = """
import sys
from pathlib import Path
from zone.io.klog.spool import Spool
from zone.klog.line import Line
spool = Spool(Path(sys.argv[1]))
number = int(sys.argv[2])
while True:
    spool.add([Line(1.0, "web", "info", str(number))])
    print(number, flush=True)
    number += 1
"""


def test_a_kill_loses_nothing_that_was_spooled(tmp_path: Path) -> None:
    told = 0
    for rounds in range(1, 4):
        command = [sys.executable, "-c", WRITER, str(tmp_path / "spool.db"), str(told + 1)]
        env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=env) as writer:
            assert writer.stdout is not None
            for _ in range(5 * rounds):
                told = int(writer.stdout.readline())
            writer.send_signal(signal.SIGKILL)
            told = max([told, *map(int, writer.stdout.read().split())])
        spool = Spool(tmp_path / "spool.db")
        batch = spool.batch()
        spool.close()
        assert batch is not None
        found = [one.message for _, one in batch.lines]
        # One that was on the disk and not told yet may be there twice: the writer goes on from what was told.
        assert list(dict.fromkeys(found))[:told] == [str(number) for number in range(1, told + 1)]
