"""Lines on disk that forget their oldest: two files, of which the older is dropped when the younger is full.

Lines are gathered in memory and written in lumps, so that logging costs the disk (often flash) one write for many
questions.  A killed process loses the last lump and tears at most one line.  A full disk costs lines, never answers.

``add`` and ``follow`` belong to the event loop; ``write`` and ``lines``, which wait for the disk, to worker threads.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import BinaryIO

import trio

_log = logging.getLogger("cyfs.dns")

_LUMP = 64 << 10  # bytes gathered before they are written
_MAX_GATHERED = 1 << 20
_BLOCK = 64 << 10
_FOLLOWED = 1024  # lines a follower may lag behind


class Ring:
    """``path`` and ``path.1`` hold ``max_bytes`` between them."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path, self._older = path, path.with_name(path.name + ".1")
        self.max_bytes = max_bytes
        self._half = max(4096, max_bytes // 2)
        self._gathered: list[bytes] = []
        self._size = 0
        self._disk = threading.Lock()
        self._followers: set[_Follower] = set()
        self.lost = 0
        """Lines that could not be written."""

    @property
    def full(self) -> bool:
        """Whether so much is gathered that it is time to :meth:`write`."""
        return self._size >= _LUMP

    def add(self, line: bytes) -> None:
        for follower in self._followers:
            follower.put(line)
        if self._size > _MAX_GATHERED:
            self.lost += 1
            return
        self._gathered.append(line)
        self._size += len(line)

    async def follow(self) -> AsyncIterator[bytes]:
        """Lines from now on; of a reader that lags the oldest are lost."""
        follower = _Follower()
        self._followers.add(follower)
        try:
            while True:
                yield await follower.next()
        finally:
            self._followers.discard(follower)

    def write(self) -> None:
        """Put what was gathered on disk.  Blocks; a fault is reported once and costs these lines."""
        with self._disk:
            lines, self._gathered, self._size = self._gathered, [], 0
            if not lines:
                return
            try:
                with open(self._path, "ab", opener=_private) as file:
                    file.write(b"".join(lines))
                    full = file.tell() >= self._half
                if full:
                    self._path.replace(self._older)
            except OSError as fault:
                if not self.lost:
                    _log.warning("the query log cannot be written: %s: %s", self._path, fault)
                self.lost += len(lines)

    def lines(self) -> Iterator[bytes]:
        """All lines, the newest first: those in memory, then those on disk.  Blocks; reads no more than is taken."""
        with ExitStack() as opened:
            files = []
            with self._disk:
                gathered = tuple(self._gathered)
                for path in (self._path, self._older):
                    with suppress(OSError):
                        file = opened.enter_context(path.open("rb"))
                        # What is written from now on stands in ``gathered``.
                        files.append((file, file.seek(0, os.SEEK_END)))
            yield from (line.rstrip(b"\n") for line in reversed(gathered))
            for file, size in files:
                yield from _backwards(file, size)

    def remove(self) -> None:
        """Forget everything, on disk too.  Blocks."""
        with self._disk:
            self._gathered, self._size = [], 0
            for path in (self._path, self._older):
                path.unlink(missing_ok=True)


class _Follower:
    def __init__(self) -> None:
        self._lines: deque[bytes] = deque(maxlen=_FOLLOWED)
        self._wake = trio.Event()

    def put(self, line: bytes) -> None:
        self._lines.append(line)
        self._wake.set()

    async def next(self) -> bytes:
        while not self._lines:
            self._wake = trio.Event()
            await self._wake.wait()
        return self._lines.popleft()


def _backwards(file: BinaryIO, at: int) -> Iterator[bytes]:
    """The lines of a file before ``at``, the last one first; empty ones are left out."""
    begun = b""  # the end of a line whose beginning lies before ``at``
    while at:
        size = min(_BLOCK, at)
        at -= size
        file.seek(at)
        begun, *lines = (file.read(size) + begun).split(b"\n")
        yield from filter(None, reversed(lines))
    if begun:
        yield begun


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
