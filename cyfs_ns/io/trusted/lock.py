"""One writer at a time below a directory, among all processes; nobody waits for ever for one that was stopped."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cyfs_ns.errors import Unreachable

_PATIENCE = 2.0
"""Seconds; whoever holds the lock writes a file or two."""
_AGAIN = 0.01


@contextmanager
def locked(folder: Path, patience: float = _PATIENCE) -> Iterator[None]:
    """Hold ``<folder>/lock``; blocks.  Raises ``Unreachable`` after ``patience`` seconds, and names who holds it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path, end = folder / "lock", time.monotonic() + patience
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= end:
                    raise Unreachable(f"{path}: held for {patience:g} s by {_holder(lock)}") from None
            time.sleep(_AGAIN)
        yield
    finally:
        os.close(lock)


def _holder(lock: int) -> str:
    """Who holds the lock, as the kernel tells (proc_locks(5)), and what to do."""
    status = os.fstat(lock)
    number = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    try:
        with Path("/proc/locks").open(encoding="ascii") as table:
            for line in table:
                fields = line.split()
                if len(fields) > 5 and fields[1] == "FLOCK" and fields[5] == number:
                    return (
                        "this process: is the disk slow?"
                        if int(fields[4]) == os.getpid()
                        else f"process {fields[4]}; end it"
                    )
    except OSError:
        pass
    return "another process; end it"
