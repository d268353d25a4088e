"""A configuration file and what it points at, read from this disk; what it means is others' business."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cyfs_ns.config.load import DEFAULT_YAML, LoadedDns, load_dns
from cyfs_ns.config.source import MAX_BYTES
from cyfs_ns.config.written import Fault, FileText, ReadFile
from cyfs_ns.errors import ConfigFault

MAX_SECRET = 64 * 1024
"""Bytes of a file behind ``!file``."""


def read_dns_file(path: str | Path | None) -> LoadedDns:
    """Load the file of a name server, or the defaults when it is None.  Never raises.  Blocks on the disk."""
    if path is None:
        return load_dns(DEFAULT_YAML)
    try:
        data, _ = read_bounded(path, MAX_BYTES)
    except ConfigFault as fault:
        return LoadedDns(None, faults=(Fault("/", 0, 0, str(fault)),))
    return load_dns(data, environ=os.environ, read_file=files_beside(path))


def files_beside(path: str | Path) -> ReadFile:
    """Reads what ``!file`` names, from the directory of the configuration at ``path``."""
    folder = Path(path).absolute().parent

    def behind(name: str) -> FileText:
        content, mode = read_bounded(folder / name, MAX_SECRET)
        return FileText(content, exposed=bool(mode & (stat.S_IRGRP | stat.S_IROTH)))

    return behind


def read_bounded(path: str | Path, limit: int) -> tuple[bytes, int]:
    """Content and mode of a regular file of at most ``limit`` bytes.  Raises ``ConfigFault``.

    A fifo or a device must neither block us nor feed us for ever.
    """
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
