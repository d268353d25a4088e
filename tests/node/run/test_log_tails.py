"""Captured logs are read on from where they were read last, whatever their keepers and daemons go through."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.io.run import tail
from node.io.run.keeper import Log
from node.io.run.tail import BEGUN, Look, Tails, read_mark
from zone.klog.line import OWN

BEGAN = {BEGUN: ""}


class Home:
    """Services write; what is read is kept as a spool would, and given to the next reader."""

    def __init__(self, folder: Path, marks: dict[str, str]) -> None:
        self.folder, self.marks = folder, dict(marks)
        self.tails = Tails(folder, marks)

    def log(self, name: str = "web", size: int = 4096, keep: int = 3) -> Log:
        (self.folder / "logs" / name).mkdir(parents=True, exist_ok=True)
        return Log(str(self.folder / "logs" / name), size, keep)

    def look(self) -> list[str]:
        return [line.message for line in self.kept().lines]

    def kept(self) -> Look:
        look = self.tails.look()
        for name, mark in look.marks.items():
            if mark is None:
                del self.marks[name]
            else:
                self.marks[name] = mark
        return look

    def all(self) -> list[str]:
        found: list[str] = []
        while more := self.look():
            found += more
        return found

    def restart(self) -> None:
        self.tails = Tails(self.folder, self.marks)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path, BEGAN)


def test_each_line_is_read_once_also_by_the_next_daemon(home: Home) -> None:
    assert home.look() == []
    log = home.log()
    log.take(b"o", b"one\ntwo\nhal")
    log.take(b"e", b"careful\n")
    look = home.kept()
    assert [(line.service, line.level, line.message) for line in look.lines] == [
        ("web", "info", "one"),
        ("web", "info", "two"),
        ("web", "warning", "careful"),
    ]
    home.restart()
    assert home.look() == []
    log.take(b"o", b"f\n")
    assert home.look() == ["half"]
    assert home.kept().marks == {}


def test_what_was_kept_but_not_told_comes_again_and_nothing_is_left_out(home: Home) -> None:
    home.log().take(b"o", b"one\n")
    home.tails.look()
    home.restart()
    assert home.look() == ["one"]


@pytest.mark.parametrize("restarts", [False, True])
def test_no_line_is_lost_where_files_are_turned_over(home: Home, restarts: bool) -> None:
    log, said, heard = home.log(size=400), [], list[str]()
    for number in range(200):
        said.append(f"line {number}")
        log.take(b"o", f"line {number}\n".encode())
        if number % 17 == 0:
            heard += home.all()
            if restarts:
                home.restart()
    assert heard + home.all() == said


def test_who_writes_more_than_is_read_loses_lines_which_is_told(home: Home) -> None:
    log = home.log(size=400)
    log.take(b"o", b"first\n")
    assert home.look() == ["first"]
    for number in range(200):
        log.take(b"o", f"line {number}\n".encode())
    look = home.kept()
    assert (look.lines[0].service, look.lines[0].attrs["about"]) == (OWN, "web")
    assert "were lost" in look.lines[0].message
    rest = [line.message for line in look.lines[1:]] + home.all()
    assert rest == [f"line {number}" for number in range(200 - len(rest), 200)]
    assert len(rest) > 30


def test_an_inode_that_is_another_file_by_now_is_no_way_on(home: Home, tmp_path: Path) -> None:
    home.log().take(b"o", b"one\ntwo\n")
    home.look()
    file = tmp_path / "logs/web/log"
    inode = file.stat().st_ino
    with file.open("r+b") as same:
        same.truncate()
    home.log().take(b"o", b"another\n")
    assert file.stat().st_ino == inode
    assert home.look()[-1:] == ["another"]


def test_one_that_floods_takes_no_turn_from_others(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail, "MOST_OF_ONE", 1000)
    monkeypatch.setattr(tail, "MOST_OF_ALL", 2000)
    for name in ("flood-1", "flood-2", "flood-3"):
        home.log(name, size=1 << 20).take(b"o", b"x" * 20 + b"\n" + b"y\n" * 5000)
    home.log("quiet").take(b"o", b"heard\n")
    looks = [[line.service for line in home.kept().lines] for _ in range(4)]
    assert any("quiet" in look for look in looks)
    for look in looks:
        assert len(look) < 200
    assert {service for look in looks for service in look} == {"flood-1", "flood-2", "flood-3", "quiet"}


def test_what_was_there_before_anybody_looked_is_not_told(tmp_path: Path) -> None:
    home = Home(tmp_path, {})
    home.log().take(b"o", b"of another zone\n")
    assert home.look() == []
    assert BEGUN in home.marks
    home.log("mail").take(b"o", b"new\n")
    home.log().take(b"o", b"more\n")
    assert sorted(home.look()) == ["more", "new"]


def test_runs_beside_a_service_are_of_it_and_others_folders_of_nobody(home: Home) -> None:
    home.log("web+op-migrate").take(b"o", b"done\n")
    home.log("No Service").take(b"o", b"?\n")
    (line,) = home.kept().lines
    assert (line.service, line.message, line.attrs["run"]) == ("web", "done", "op-migrate")


def test_a_log_that_is_gone_is_forgotten(home: Home, tmp_path: Path) -> None:
    home.log().take(b"o", b"one\n")
    home.look()
    (tmp_path / "logs/web/log").unlink()
    (tmp_path / "logs/web").rmdir()
    assert home.kept().marks == {"web": None}
    assert home.marks == BEGAN


def test_what_a_power_cut_left_is_no_line(home: Home, tmp_path: Path) -> None:
    home.log().take(b"o", b"one\n")
    with (tmp_path / "logs/web/log").open("ab") as file:
        file.write(b"\0" * (tail.MOST_OF_ONE + 5) + b"\n")
    home.log().take(b"o", b"two\n")
    found: list[str] = []
    for _ in range(5):
        found += home.look()
    assert found == ["one", "two"]


def test_giant_lines_come_in_parts(home: Home) -> None:
    home.log(size=1 << 20).take(b"o", b"x" * 20_000 + b"\n")
    assert [len(message) for message in home.look()] == [8192, 8192, 20_000 - 2 * 8192]


@pytest.mark.parametrize("text", ["", "1 2", "x 00 1", "1 zz 1", "1 00 x"])
def test_no_mark_is_otherwise(text: str) -> None:
    assert read_mark(text) is None
