"""Files that others write: being told when one of them has changed.

The kernel says that *something* happened in a directory (inotify(7)); what changed is then seen by comparing what
identifies a file's content (device, inode, size, time).  So a file rewritten in place, replaced by a rename, removed,
or made anew all look alike, and events that are lost or mean nothing do no harm.  Symbolic links are followed by hand,
because ``/etc/resolv.conf`` usually is one: every directory on the way is watched.  Of a directory that does not exist
its nearest existing ancestor is watched.  A *path* may itself be a directory: then its files count.

Who reads a file and then has it watched notes its sign (:func:`signs_of`) before reading and gives it to the watch, so
that no change falls between the two; who did not is told of the file as it is, to read it again (:func:`unseen`).

Writers write in pieces, so word is passed on only when nothing has happened for a moment, or after ten such moments
of constant writing.  Where the kernel does not help (no inotify left, network file systems) a slow look round does.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import stat
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeAlias

import trio

_SETTLE = 0.1
"""Seconds of quiet before anybody is told."""
_PATIENCE = 10
_LOOK_ROUND = 60.0
"""Seconds between looks where inotify says nothing; it may be blind on this file system."""
_LOOK_ROUND_BLIND = 5.0
_MAX_LINKS = 16
_MAX_FILES = 20_000
"""Files of one watched directory that are compared; of more, those that take or lose their name are still seen."""
_READ = 1 << 16

# inotify(7): MODIFY, ATTRIB, CLOSE_WRITE, MOVED_FROM, MOVED_TO, CREATE, DELETE, DELETE_SELF, MOVE_SELF; ONLYDIR
_EVENTS = 0x2 | 0x4 | 0x8 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x800 | 0x01000000

Sign: TypeAlias = tuple[object, ...] | None
"""What tells one content of a file from another; ``None``: there is no file."""


async def watch_files(
    paths: Iterable[str | Path],
    changed: Callable[[frozenset[Path]], Awaitable[None]],
    *,
    since: Mapping[Path, Sign] | None = None,
    settle: float = _SETTLE,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Await ``changed`` with those of ``paths`` that have changed, for ever.

    Ready (``started()``) means that every change from now on is told, and those ``since`` these signs were taken.
    Changes while ``changed`` runs are told after it; what it raises ends the watch.
    """
    wanted = tuple(dict.fromkeys(map(Path, paths)))
    with _Inotify() as inotify:
        # Thousands of files, or a disk that has to wake up, must not hold up who answers questions.
        look = partial(trio.to_thread.run_sync, _look, wanted, inotify)
        now = await look()
        signs = now if since is None else since
        task_status.started()
        if any(now[path] != signs.get(path) for path in wanted):
            await _quiet(inotify, settle)
            now = await look()
        while True:
            told = frozenset(path for path in wanted if now[path] != signs.get(path))
            signs = now
            if told:
                await changed(told)
            await _something(inotify, settle)
            now = await look()


async def _something(inotify: _Inotify, settle: float) -> None:
    """Until something may have changed and nothing more happens."""
    with trio.move_on_after(_LOOK_ROUND if inotify.sees else _LOOK_ROUND_BLIND) as slept:
        await inotify.event()
    if not slept.cancelled_caught:
        await _quiet(inotify, settle)


async def _quiet(inotify: _Inotify, settle: float) -> None:
    with trio.move_on_after(settle * _PATIENCE):
        while True:
            with trio.move_on_after(settle) as quiet:
                await inotify.event()
            if quiet.cancelled_caught:
                return


def signs_of(paths: Iterable[str | Path]) -> dict[Path, Sign]:
    """What tells the content the files have now from others.  Blocks on the disk."""
    return {path: _sign(path) for path in map(Path, paths)}


def unseen(paths: Iterable[str | Path]) -> dict[Path, Sign]:
    """What differs from whatever the files have now, even if that is nothing."""
    return dict.fromkeys(map(Path, paths), ())


def _look(wanted: tuple[Path, ...], inotify: _Inotify) -> dict[Path, Sign]:
    """Watch what has to be watched, and only then look: nothing can slip in between.

    A link may be another one before the directory it is in was watched: where it leads is then followed anew.
    """
    watched: set[Path] = set()
    for _ in range(_MAX_LINKS):
        directories = {each for path in wanted for each in _directories(path)}
        if directories <= watched:
            break
        watched |= directories
        inotify.watch(watched)
    return signs_of(wanted)


def _directories(path: Path) -> set[Path]:
    """Every directory in which something could happen that changes what ``path`` leads to."""
    found: set[Path] = set()
    at = Path(os.path.abspath(path))  # noqa: PTH100, because Path.resolve would follow the links
    for _ in range(_MAX_LINKS):
        above = at.parent
        while not above.is_dir() and above != above.parent:
            above = above.parent
        found.add(above)
        try:
            target = at.readlink()
        except OSError:
            break
        at = Path(os.path.normpath(at.parent / target))
    if at.is_dir():
        found.add(at)
    return found


def _sign(path: Path) -> Sign:
    try:
        status = path.stat()
        if not stat.S_ISDIR(status.st_mode):
            return _content(status)
        names = sorted(os.listdir(path))
    except (OSError, ValueError):
        return None
    signs = hashlib.blake2b(digest_size=16)
    for name in names[:_MAX_FILES]:
        with suppress(OSError):
            content = _content((path / name).stat())
            signs.update(os.fsencode(f"{name}/{content}"))
    return (signs.digest(), status.st_mtime_ns if len(names) > _MAX_FILES else 0)


def _content(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


class _Inotify:
    """The kernel's events about directories, without a word about what they were."""

    def __init__(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._libc = libc
        self._fd: int = libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        self._watched: dict[Path, int] = {}
        self._blind = False

    def __enter__(self) -> _Inotify:
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            trio.lowlevel.notify_closing(self._fd)
            os.close(self._fd)

    @property
    def sees(self) -> bool:
        """Whether every directory asked for is watched."""
        return self._fd >= 0 and not self._blind

    def watch(self, directories: set[Path]) -> None:
        """Watch these and no others."""
        if self._fd < 0:
            return
        self._blind = False
        kept: dict[Path, int] = {}
        for directory in directories:
            # Asked anew every time: a directory removed and made again is another one under the same name.
            number = self._libc.inotify_add_watch(self._fd, os.fsencode(directory), _EVENTS)
            if number < 0:
                self._blind = True
            else:
                kept[directory] = number
        for number in set(self._watched.values()) - set(kept.values()):
            self._libc.inotify_rm_watch(self._fd, number)
        self._watched = kept

    async def event(self) -> None:
        if self._fd < 0:
            await trio.sleep_forever()
        while True:
            await trio.lowlevel.wait_readable(self._fd)
            with suppress(BlockingIOError):
                os.read(self._fd, _READ)
                return
