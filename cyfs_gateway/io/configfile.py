"""The configuration file and what it points at, read from this disk; the meaning is ``cyfs_gateway.config``'s."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from pathlib import Path

from cyfs_gateway.config.load import load, load_default
from cyfs_gateway.config.model import Loaded
from cyfs_ns.config.source import MAX_BYTES
from cyfs_ns.config.written import Fault, FileText
from cyfs_ns.errors import ConfigFault

MAX_SECRET = 64 * 1024
"""Bytes of a file behind ``!file``."""


def read_config(path: str | Path | None, home: str | Path, module_sections: Collection[str] = ()) -> Loaded:
    """Load ``path``, or the defaults when it is None.  A file that cannot be read is a fault like any other.

    Blocks on the disk: call it in a worker thread where that matters.
    """
    base = str(Path(home).absolute())
    if path is None:
        return load_default(base)
    file = Path(path)
    try:
        data = _bounded(file, MAX_BYTES)[0]
    except ConfigFault as fault:
        return Loaded(None, (Fault("/", 0, 0, str(fault)),))

    def behind(name: str) -> FileText:
        content, mode = _bounded(file.absolute().parent / name, MAX_SECRET)
        return FileText(content, exposed=bool(mode & (stat.S_IRGRP | stat.S_IROTH)))

    return load(data, home=base, environ=os.environ, read_file=behind, module_sections=module_sections)


def _bounded(path: Path, limit: int) -> tuple[bytes, int]:
    """Content and mode of a regular file.  A fifo or a device must neither block us nor feed us for ever."""
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ConfigFault(f"{str(path)!r} is not a regular file")
            data = file.read(limit + 1)
    except (OSError, ValueError) as fault:
        raise ConfigFault(f"{str(path)!r} cannot be read: {getattr(fault, 'strerror', None) or fault}") from fault
    if len(data) > limit:
        raise ConfigFault(f"{str(path)!r} has more than {limit} bytes")
    return data, status.st_mode


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)
