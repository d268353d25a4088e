"""A directory of small files that others write too: each is read again when anything about it has changed.

What is wrong with a file is told in the place of what it says; what keeps us from the directory is an ``OSError``,
since fewer files than there are may mean more belief.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeAlias, TypeVar

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.token import MOST_TOKEN

_MOST_FILE = MOST_TOKEN + 4096

_T = TypeVar("_T")
_Sign: TypeAlias = tuple[int, int, int, int, int]
"""Device, number, size and both times of a file: together they change with it, whatever the clock does."""
_NO_SIGN: _Sign = (0, 0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Unread:
    """A file that cannot be read, and why.  ``may_pass``: the file itself may be whole, and is read again next time."""

    name: str
    why: str
    may_pass: bool = False


@dataclass(frozen=True, slots=True)
class Seen(Generic[_T]):
    """What was read of a directory: each file as it was then."""

    files: Mapping[str, tuple[_Sign, _T | Unread]] = field(default_factory=dict)
    items: tuple[_T, ...] = ()
    unread: tuple[Unread, ...] = ()


class Folder(Generic[_T]):
    """The files in ``path`` whose names end with ``suffixes``, at most ``most``, as ``read`` understands them."""

    def __init__(self, path: Path, suffixes: tuple[str, ...], read: Callable[[Path], _T], most: int) -> None:
        self.path = path
        self._suffixes, self._read, self._most = suffixes, read, most
        self._turn = threading.Lock()
        self._begun = self._done = 0
        self.seen: Seen[_T] = Seen()
        """As of the last look."""

    def look(self) -> Seen[_T]:
        """What is there now.  Raises ``OSError`` if that cannot be told."""
        asked = self._begun
        with self._turn:
            if self._done > asked:  # while we waited somebody has looked, from after we were asked
                return self.seen
            self._begun += 1
            before = self.seen.files
            files: dict[str, tuple[_Sign, _T | Unread]] = {}
            for name in self.names():
                try:
                    sign = _sign(f"{self.path}/{name}")
                    held = before.get(name)
                    if held is None or held[0] != sign:
                        said = self.read_one(name)
                        if said is None:
                            continue
                        held = _NO_SIGN if isinstance(said, Unread) and said.may_pass else sign, said
                    files[name] = held
                except OSError as fault:
                    if os.path.lexists(self.path / name):
                        files[name] = _NO_SIGN, Unread(name, f"{self.path / name}: {fault.strerror}", may_pass=True)
            if files != before:
                all_said = [one for _, one in files.values()]
                items = tuple(one for one in all_said if not isinstance(one, Unread))
                self.seen = Seen(files, items, tuple(one for one in all_said if isinstance(one, Unread)))
            self._done = self._begun
            return self.seen

    def make(self) -> Path:
        """The directory, made if it is not there."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self.path

    def names(self) -> list[str]:
        """Those of the files, sorted.  Raises ``OSError`` as :meth:`look` does."""
        path = self.path
        try:
            found = sorted(name for name in os.listdir(path) if name.endswith(self._suffixes) and name[0] != ".")
        except FileNotFoundError:
            for one in (path, *path.parents):
                if one.is_symlink() and not one.exists():  # of a disk that is not there now
                    raise OSError(f"{path}: {one} leads nowhere") from None
            return []
        if path.stat().st_mode & stat.S_IWOTH:
            raise PermissionError(f"{path}: anybody may write there; chmod o-w it")
        if len(found) > self._most:
            raise OSError(f"{path}: {len(found)} files, at most {self._most} are read; remove what is not needed")
        return found

    def read_one(self, name: str) -> _T | Unread | None:
        """What the file ``name`` says now; None: it is not there."""
        try:
            return self._read(self.path / name)
        except OSError as fault:
            if isinstance(fault, FileNotFoundError) and not os.path.lexists(self.path / name):
                return None
            return Unread(name, f"{self.path / name}: {fault.strerror}", may_pass=True)
        except BadWire as bad:
            return Unread(name, f"{self.path / name}: {bad}")


def read_small(path: Path) -> bytes:
    """A regular file that not everybody may write.  Raises ``BadWire`` or ``OSError``."""
    # Not to wait for somebody to write into a pipe.
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(file).st_mode
        if not stat.S_ISREG(mode):
            raise BadWire("not a file")
        if mode & stat.S_IWOTH:
            raise BadWire("anybody may write this file; chmod o-w it")
        with os.fdopen(file, "rb", closefd=False) as reader:
            data = reader.read(_MOST_FILE + 1)
    finally:
        os.close(file)
    if len(data) > _MOST_FILE:
        raise BadWire(f"larger than {_MOST_FILE} bytes")
    return data


def _sign(path: str) -> _Sign:
    status = os.stat(path)  # noqa: PTH116, because a Path for each of thousands takes twice as long
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
