"""A service's log, read: what is kept, oldest first, and what comes, while its keeper writes and turns it over."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO, Final

import trio

from node.run.lines import Line, read_line
from node.run.runner import Place

_PIECE: Final = 1 << 20
_AGAIN: Final = 0.2
"""Seconds between looks for more."""


async def read_log(place: Place, since: float = 0.0, *, follow: bool = False) -> AsyncIterator[Line]:
    """The lines from ``since`` (Unix seconds) on; with ``follow`` without end, across restarts of the service.

    Who reads more slowly than the service writes misses what was turned over more often than files are kept.  Raises
    ``OSError``.
    """
    log = Path(place.logs, "log")
    reader = _Reader(log)
    try:
        while True:
            lines = await trio.to_thread.run_sync(reader.more)
            for line in lines:
                if line.at >= since:
                    yield line
            if not lines and not reader.has_more:
                if not follow:
                    return
                await trio.sleep(_AGAIN)
    finally:
        reader.close()


class _Reader:
    """Goes from the oldest file to the newest, and from one that was turned over to the one that came after it."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._file: BinaryIO | None = None
        self._rest = b""
        self.has_more = True

    def more(self) -> list[Line]:
        """Some of the lines that come next; ``has_more``: whether asking again at once may bring others."""
        if self._file is None:
            self._file = self._after(None)
        if self._file is None:
            self.has_more = False
            return []
        data = self._file.read(_PIECE)
        if not data and (newer := self._after(self._file)) is not None:
            # Between the last look at it and the name's passing on, it may have grown.
            data = self._file.read(_PIECE)
            if not data:
                self._file.close()
                self._file, self._rest = newer, b""
                self.has_more = True
                return []
            newer.close()
        self.has_more = bool(data)
        *whole, self._rest = (self._rest + data).split(b"\n")
        return [line for line in map(read_line, whole) if line is not None]

    def _after(self, file: BinaryIO | None) -> BinaryIO | None:
        """The file that was begun after ``file``, or the oldest; None: there is none yet."""
        opened: list[BinaryIO] = []
        found: BinaryIO | None = None
        try:
            while True:
                paths = self._paths()
                opened = [path.open("rb") for path in paths]
                known = [os.fstat(each.fileno()).st_ino for each in opened]
                # Names that were passed on meanwhile would hide the file between two others.
                if paths == self._paths() and known == [path.stat().st_ino for path in paths]:
                    break
                for each in opened:
                    each.close()
            last = None if file is None else os.fstat(file.fileno()).st_ino
            begin = known.index(last) + 1 if last in known else 0
            found = opened[begin] if begin < len(opened) else None
        except FileNotFoundError:
            pass  # as above: the next look finds it in order
        finally:
            for each in opened:
                if each is not found:
                    each.close()
        return found

    def _paths(self) -> list[Path]:
        older = sorted(self._log.parent.glob(f"{self._log.name}.*"), key=lambda path: -int(path.suffix[1:]))
        return [*older, *([self._log] if self._log.exists() else [])]

    def close(self) -> None:
        """Done with it."""
        if self._file is not None:
            self._file.close()
