"""What services write into their logs, read on from where it was read last, also by the next daemon.

A look is short and takes no more of one service than of another: who writes more than is read waits in its own files,
which its keeper turns over, and loses its oldest lines there; that is told.  Nobody who writes ever waits.

How far a service was read is a *mark*: the file's inode, how it begins (an inode may be given to another file), and how
many bytes of it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from node.run.lines import Line as Captured
from node.run.lines import read_line
from zone.klog.line import OWN, Line, made
from zone.scheduler.service import NAME

MOST_OF_ONE: Final = 64 << 10
"""Bytes that a look reads of one service.  More than its longest line."""
MOST_OF_ALL: Final = 256 << 10
"""Bytes that a look reads, until the turn of the next service is in the next look."""
BEGUN: Final = "."
"""A mark that says that somebody has looked here before; no service is called that."""
_HEAD: Final = 24
"""Bytes by which a file is known again: the time of its first line, to the microsecond."""
_LEVELS: Final[Mapping[str, str]] = {"out": "info", "err": "warning", "keeper": "info"}


@dataclass(frozen=True, slots=True)
class Mark:
    """See the top of this file."""

    inode: int
    head: bytes
    offset: int

    def __str__(self) -> str:
        return f"{self.inode} {self.head.hex()} {self.offset}"


def read_mark(text: str) -> Mark | None:
    """None: it is no mark, so reading begins anew."""
    try:
        inode, head, offset = text.split(" ")
        return Mark(int(inode), bytes.fromhex(head), int(offset))
    except ValueError:
        return None


@dataclass(slots=True)
class Look:
    """What came since the last one."""

    lines: list[Line] = field(default_factory=list)
    marks: dict[str, str | None] = field(default_factory=dict)
    """Those that are others than before; None: of a service whose log is gone."""


class Tails:
    """The logs below the node's ``home``.  ``marks``: as they were kept.  Blocks on the disk, and raises nothing."""

    def __init__(self, home: Path, marks: Mapping[str, str]) -> None:
        self._logs = home / "logs"
        self._begun = BEGUN in marks
        self._marks = {name: mark for name, text in marks.items() if (mark := read_mark(text)) is not None}
        self._last = ""

    def look(self) -> Look:
        """To be called again once what it gave is kept."""
        look = Look()
        try:
            names = sorted(
                entry.name for entry in os.scandir(self._logs) if NAME.fullmatch(entry.name.partition("+")[0])
            )
        except OSError:
            names = []
        for gone in [name for name in self._marks if name not in names]:
            del self._marks[gone]
            look.marks[gone] = None
        room = MOST_OF_ALL
        # Each look begins behind the service with which the last one ended.
        for name in [name for name in names if name > self._last] + [name for name in names if name <= self._last]:
            if room <= 0:
                break
            self._last = name
            try:
                room -= self._read(name, look)
            except OSError:
                continue  # Turned over or removed meanwhile: the next look finds it in order.
        if not self._begun:
            self._begun = True
            look.marks[BEGUN] = ""
        return look

    def _read(self, name: str, look: Look) -> int:
        """How many bytes it took."""
        folder = self._logs / name
        files, before = _files(folder), self._marks.get(name)
        if [(path, mark.inode) for path, mark in files] != [(path, mark.inode) for path, mark in _files(folder)]:
            return 0  # Names that were passed on meanwhile would hide the file between two others.
        if not files:
            return 0
        if before is None and not self._begun:
            # What was written before anybody looked here may be of another zone.
            path, mark = files[-1]
            self._keep(name, Mark(mark.inode, mark.head, path.stat().st_size), look)
            return 0
        at = next((at for at, (_, mark) in enumerate(files) if before and _is_same(mark, before)), None)
        if at is None and before is not None:
            told = "lines before this one were lost: it writes more than is read"
            look.lines.append(made(_first(files[0][0]), OWN, "warning", told, {"about": name}))
        path, mark = files[at or 0]
        offset = 0 if at is None or before is None else before.offset
        taken = _whole_lines(path, mark, offset)
        if taken.bytes == 0 and at is not None and at + 1 < len(files):
            # The next one was there before this one was found to have no more.
            path, mark = files[at + 1]
            taken = _whole_lines(path, mark, 0)
        look.lines += _lines_of(name, taken.lines)
        reached = Mark(mark.inode, mark.head, taken.end)
        if reached != before:
            self._keep(name, reached, look)
        return taken.bytes

    def _keep(self, name: str, mark: Mark, look: Look) -> None:
        self._marks[name] = mark
        look.marks[name] = str(mark)


@dataclass(frozen=True, slots=True)
class _Taken:
    lines: list[Captured]
    end: int
    bytes: int


def _whole_lines(path: Path, mark: Mark, offset: int) -> _Taken:
    """Raises ``OSError``, also where another file has that name by now."""
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        if status.st_ino != mark.inode:
            raise FileNotFoundError(path)
        # Less than was read: a full disk, from which the keeper took half a line back.
        offset = min(offset, status.st_size)
        file.seek(offset)
        data = file.read(MOST_OF_ONE)
    whole = data.rfind(b"\n") + 1
    if not whole and len(data) == MOST_OF_ONE:
        whole = len(data)  # No line is that long, so it is none: a power cut leaves such.
    lines = [line for line in map(read_line, data[:whole].split(b"\n")) if line is not None]
    return _Taken(lines, offset + whole, whole)


def _files(folder: Path) -> list[tuple[Path, Mark]]:
    """The files of a log in which there is something, the oldest first."""
    older = [path for path in folder.glob("log.*") if path.suffix[1:].isdigit()]
    found = []
    for path in [*sorted(older, key=lambda path: -int(path.suffix[1:])), folder / "log"]:
        with suppress(FileNotFoundError), path.open("rb") as file:
            head = file.read(_HEAD)
            if len(head) == _HEAD:
                found.append((path, Mark(os.fstat(file.fileno()).st_ino, head, 0)))
    return found


def _is_same(found: Mark, before: Mark) -> bool:
    return (found.inode, found.head) == (before.inode, before.head)


def _first(path: Path) -> float:
    """The time of its first line."""
    with path.open("rb") as file:
        line = read_line(file.readline(MOST_OF_ONE).rstrip(b"\n"))
    return 0.0 if line is None else line.at


def _lines_of(name: str, captured: list[Captured]) -> list[Line]:
    service, _, run = name.partition("+")
    more = {"run": run} if run else {}
    return [made(one.at, service, _LEVELS[one.stream], one.text, {"stream": one.stream, **more}) for one in captured]
