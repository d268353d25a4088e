"""What is saved, as a stream of pieces.

A source cuts its stream itself, since it knows where equal bytes begin again: a file every ``PIECE`` bytes, which suits
databases, whose pages stay where they are; a folder, as a tar archive (POSIX.1-2001 pax), before each big file and
before names that a hash picks, so that a file that comes or goes changes the piece it is in and no other.

A folder is read as it stands while it is read.  A file that shrinks meanwhile is filled up with zeros, and told.  What
needs all its files of one moment brings a copy that is: a snapshot.  Sockets, pipes and devices are left out; owners
are numbers; extended attributes, holes and the times of links are not kept; a file with two names becomes two.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from zone.backup.chunks import PIECE
from zone.backup.manifest import Kind
from zone.backup.state import PART, is_saved, write_state
from zone.config.model import Reading

_BIG: Final = 1 << 18
"""Bytes from which on a file has pieces of its own."""
_CUT: Final = 64
"""One name in so many begins a piece."""


class Source(Protocol):
    """A part to be."""

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> Kind: ...

    @property
    def revision(self) -> int:
        """Of the zone's configuration, where it is that; else 0."""

    def pieces(self, tell: Callable[[str], None]) -> Iterator[bytes]:
        """All of it, in pieces of 1 to ``PIECE`` bytes; ``tell`` hears what is not as it should be.

        Blocks on the disk.  Raises ``OSError``.
        """


@dataclass(frozen=True, slots=True)
class Configuration:
    """The zone's configuration, as an OOD read it."""

    reading: Reading
    name: str = PART
    kind: Kind = Kind.FILE

    @property
    def revision(self) -> int:
        return self.reading.revision

    def pieces(self, tell: Callable[[str], None]) -> Iterator[bytes]:
        entries = [entry for entry in self.reading.entries if is_saved(entry)]
        for entry in entries:
            if entry.fault is not None:
                tell(f"{entry.key} cannot be read by this OOD, and is not in it")
        return write_state(entry for entry in entries if entry.fault is None)


@dataclass(frozen=True, slots=True)
class Files:
    """A file, or a folder with all that is in it."""

    name: str
    path: Path
    kind: Kind
    revision: int = 0

    def pieces(self, tell: Callable[[str], None]) -> Iterator[bytes]:
        return _file(self.path) if self.kind is Kind.FILE else _folder(self.path, tell)


def _file(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            yield piece


def _folder(root: Path, tell: Callable[[str], None]) -> Iterator[bytes]:
    held, end = bytearray(), bytes(2 * tarfile.BLOCKSIZE)
    for path, info in _members(root):
        head = info.tobuf(tarfile.PAX_FORMAT)
        size = info.size if info.isreg() else 0
        room = len(head) + (size + 511 & ~511 if size < _BIG else 0)
        if held and (len(held) + room > PIECE - len(end) or _begins(info.name)):
            yield bytes(held)
            held.clear()
        held += head
        if size >= _BIG:
            yield bytes(held)
            held.clear()
            yield from _content(path, size, tell)
        elif size:
            held += b"".join(_content(path, size, tell))
    yield bytes(held + end)


def _begins(name: str) -> bool:
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[0] % _CUT == 0


def _members(root: Path) -> Iterator[tuple[Path, tarfile.TarInfo]]:
    yield root, _info(".", root, root.stat())
    for folder, names, files in os.walk(root, onerror=_fail):
        names.sort()
        for name in sorted([*names, *files]):
            path = Path(folder, name)
            try:
                found = path.lstat()
            except FileNotFoundError:
                continue
            if stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode) or stat.S_ISLNK(found.st_mode):
                yield path, _info(str(path.relative_to(root)), path, found)


def _fail(fault: OSError) -> None:
    if not isinstance(fault, FileNotFoundError):
        raise fault


def _info(name: str, path: Path, found: os.stat_result) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.mode = stat.S_IMODE(found.st_mode)
    info.uid, info.gid = found.st_uid, found.st_gid
    info.mtime = int(found.st_mtime)
    if stat.S_ISDIR(found.st_mode):
        info.type = tarfile.DIRTYPE
    elif stat.S_ISLNK(found.st_mode):
        info.type, info.linkname = tarfile.SYMTYPE, str(path.readlink())
    else:
        info.size = found.st_size
    return info


def _content(path: Path, size: int, tell: Callable[[str], None]) -> Iterator[bytes]:
    """``size`` bytes of the file, and what fills its last block."""
    left, is_whole = size, True
    file: BinaryIO = io.BytesIO()
    with suppress(FileNotFoundError):
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")
    with file:
        while left:
            wanted = min(left, PIECE)
            piece = file.read(wanted)
            if len(piece) < wanted:
                if is_whole:
                    tell(f"{path}: became shorter while it was read")
                is_whole = False
                piece += bytes(wanted - len(piece))
            left -= wanted
            if not left and (over := -size % tarfile.BLOCKSIZE):
                if wanted + over > PIECE:
                    yield piece
                    piece = b""
                piece += bytes(over)
            yield piece
