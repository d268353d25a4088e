"""The files of logs are opened as soon as they can be; what lies damaged there is put aside, for logs are worth no
halt."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, Protocol, TypeVar

import trio

from cyfs_ns.errors import ConfigFault

_AGAIN: Final = 5.0
"""Seconds before the next try where the disk does not let it be opened."""

_log = logging.getLogger("cyfs.zone.klog")


class _Closing(Protocol):
    def close(self) -> None: ...


F = TypeVar("F", bound=_Closing)


@asynccontextmanager
async def opened(path: Path, make: Callable[[Path], F]) -> AsyncGenerator[F]:
    """What ``make`` makes of the file at ``path``, however long that takes; closed in the end."""
    file = None
    while file is None:
        try:
            file = await trio.to_thread.run_sync(_made, path, make)
        except (ConfigFault, OSError) as fault:
            _log.error("no lines of the log are kept: %s", fault)
            await trio.sleep(_AGAIN)
    try:
        yield file
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(file.close)


def _made(path: Path, make: Callable[[Path], F]) -> F:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        return make(path)
    except ConfigFault as fault:
        if isinstance(fault.__cause__, sqlite3.OperationalError | OSError):
            raise
        _log.error("the log begins anew: %s", fault)
        # First what SQLite would read into a new file.
        for end in ("-wal", ""):
            if (old := path.with_name(path.name + end)).exists():
                old.replace(old.with_name(f"{old.name}.damaged"))
        return make(path)
