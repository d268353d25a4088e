"""The mappings of fake addresses on disk: a journal that is written before an answer leaves.

A file is a head, which names the ranges, and entries of ``crc32, kind and slot, time told, length, name``.  An entry
is added with one ``pwrite`` before anybody is told of the mapping, so a killed process has told nothing that is not
there; what a power failure may cost is bounded by ``sync``, which the owner calls now and then.  Reading
stops at the first entry that does not check, and the file goes on from there.  When most of it is history it is
written anew, in the order of use, and replaces the old one whole.

Behind the last entry zeros keep room on the disk: some thousand names more are written down when it is full.

Uses are noted in lumps: they only decide who goes first when the pool is full.

A disk that is full or read-only does not take the network down: mappings that were written down go on, :meth:`wrote`
says of others that nobody may be told, and the trouble is reported once.
"""

from __future__ import annotations

import errno
import logging
import os
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import trio

from cyfs_ns.fakeip import FakePool, Ranges
from cyfs_ns.io.atomic import AtomicFile

_log = logging.getLogger("cyfs.ns.fakeip")

_MAGIC = b"cyfs fake-ip 1\n"
_ENTRY = struct.Struct("<IIQB")
_USE = 1 << 31
_MAX_SLOT = _USE - 1
_USUAL_ENTRY = 40  # bytes
_HISTORY = 4  # rewritten when the file is this many times what it has to be
_SMALL = 1 << 20
_MAX_FILE = 512 << 20
_RESERVE = 256 << 10


class FakeFile:
    """The journal of one pool.  Made by :meth:`open`, which fills the pool."""

    def __init__(self, path: Path, ranges: Ranges, pool: FakePool) -> None:
        self._path, self._ranges, self._pool = path, ranges, pool
        self._fd = -1
        self._size = 0
        self._used: dict[int, None] = {}
        self.fault = ""
        """What could not be written, and the owner was told; empty: all could."""
        self._since: list[bytes] | None = None

    @classmethod
    def open(cls, path: Path, ranges: Ranges, pool: FakePool) -> FakeFile:
        """Read what is there into ``pool`` and go on writing behind it.  Mappings of other ranges are forgotten."""
        journal = cls(path, ranges, pool)
        whole = journal._read()
        try:
            if not whole:
                journal._size = journal._write_whole(pool)
            journal._go_on()
        except OSError as fault:
            journal._fell_ill(fault)
        return journal

    def wrote(self, slot: int, name: str, told: float) -> bool:
        """Write a new mapping down; whether the kernel has it.  If not, nobody may be told of it."""
        return self._append(_entry(slot, name, told))

    def used(self, slot: int) -> None:
        """A flow used a slot; written with the next lump."""
        self._used.pop(slot, None)
        self._used[slot] = None

    async def sync(self) -> None:
        """Write the uses down and see everything onto the disk; only one call at a time."""
        used, self._used = self._used, {}
        if used:
            self._append(b"".join(_entry(slot | _USE, "", 0) for slot in used))
        too_long = self._size > max(_SMALL, _HISTORY * len(self._pool) * _USUAL_ENTRY)
        try:
            if self.fault or too_long:
                await self._rewrite()
            elif self._fd >= 0:
                _reserve(self._fd, self._size)
                await trio.to_thread.run_sync(os.fdatasync, self._fd)
        except OSError as fault:
            if not too_long or self._fd < 0:  # a file that is only too long serves as well
                self._fell_ill(fault)

    async def _rewrite(self) -> None:
        """Replace the file by what the pool holds.  What is appended meanwhile goes to the old file and to the new."""
        snapshot = self._pool.snapshot()
        self._since = []
        try:
            size = await trio.to_thread.run_sync(self._write_whole, snapshot)
            self.close()
            self._size = size
            self._go_on()
            since, self._since = self._since, None
            written = not since or self._append(b"".join(since))
            if self.fault and written:
                self.fault = ""
                _log.info("fake addresses are written down again: %s", self._path)
        finally:
            self._since = None

    def _write_whole(self, snapshot: FakePool) -> int:
        with AtomicFile(self._path) as file:
            head = self._head()
            file.write(head)
            size = len(head)
            for slot, name, told in snapshot.by_use():
                entry = _entry(slot, name, told)
                file.write(entry)
                size += len(entry)
            file.commit()
        return size

    def clear(self) -> None:
        """The pool was emptied: write it so.  Blocks for a moment."""
        self._used.clear()
        self.close()
        try:
            self._size = self._write_whole(self._pool)
            self._go_on()
        except OSError as fault:
            self._fell_ill(fault)

    def close(self) -> None:
        """Let go of the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _append(self, data: bytes) -> bool:
        if self._fd < 0:
            return False
        try:
            # A torn entry is written over by the next one.
            if os.pwrite(self._fd, data, self._size) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as fault:
            self._fell_ill(fault)
            return False
        self._size += len(data)
        if self._since is not None:
            self._since.append(data)
        return True

    def _go_on(self) -> None:
        """Open the file to be written on behind what is good of it."""
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)
        _reserve(self._fd, self._size)

    def _fell_ill(self, fault: OSError) -> None:
        told, self.fault = self.fault, f"{self._path}: {fault.strerror or fault}"
        if not told:
            _log.warning("fake addresses cannot be written down, new names get no answer: %s", self.fault)

    def _head(self) -> bytes:
        return _MAGIC + str(self._ranges).encode() + b"\n"

    def _read(self) -> bool:
        """Fill the pool; whether the file can be gone on with."""
        head = self._head()
        try:
            if self._path.stat().st_size > _MAX_FILE:
                raise OSError(errno.EFBIG, "file too large")
            data = self._path.read_bytes()
        except FileNotFoundError:
            return False
        except OSError as fault:
            _log.warning("fake addresses cannot be read, starting anew: %s: %s", self._path, fault.strerror or fault)
            return False
        if not data.startswith(head):
            _log.info("the ranges of fake addresses changed; old mappings are forgotten")
            return False
        at = len(head)
        while at + _ENTRY.size <= len(data):
            check, slot, told, length = _ENTRY.unpack_from(data, at)
            end = at + _ENTRY.size + length
            if end > len(data) or zlib.crc32(data[at + 4 : end]) != check:
                break
            if slot & _USE:
                self._pool.use(slot & _MAX_SLOT)
            else:
                self._pool.restore(slot, data[at + _ENTRY.size : end].decode("ascii", "replace"), told)
            at = end
        self._size = at
        # Entries behind a torn one would come to life when it has been written over.
        if data[at:].strip(b"\0"):
            with suppress(OSError):
                os.truncate(self._path, at)
            _log.info("%d bytes of a torn entry dropped: %s", len(data) - at, self._path)
        return True


def _reserve(fd: int, size: int) -> None:
    """Room for what is still to be written; where there is none, or the file system keeps none, it will show."""
    with suppress(OSError):
        os.posix_fallocate(fd, size, _RESERVE)


def _entry(slot: int, name: str, told: float) -> bytes:
    text = name.encode("ascii")
    body = _ENTRY.pack(0, slot, int(told), len(text))[4:] + text
    return zlib.crc32(body).to_bytes(4, "little") + body
