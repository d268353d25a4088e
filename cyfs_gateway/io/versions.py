"""Which peers spoke version 5 of rtcp before, on disk: ``rtcp-version-5`` in the state directory, one key a line.

Whoever is in it is never met by version 4 again, so losing it opens a way back that an attacker could choose.  What is
there and is not what we wrote, be it empty, is therefore a fault for a person to look at.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Final

import trio

from cyfs_ns.errors import BadWire, ConfigFault
from cyfs_ns.io.atomic import write_atomic
from cyfs_ns.io.configfile import read_bounded
from rtcp.v5.memory import VersionMemory, read_memory

_NAME: Final = "rtcp-version-5"
_MOST: Final = 1 << 24


class VersionFile:
    """The file below ``home``."""

    def __init__(self, home: str) -> None:
        self._path = Path(home) / _NAME

    def read(self) -> VersionMemory:
        """What is known; nothing, without a file.  Blocks on the disk, on nothing else.  Raises ``ConfigFault``."""
        try:
            os.lstat(self._path)
        except FileNotFoundError:
            return VersionMemory()
        except OSError as fault:
            raise ConfigFault(f"{self._path}: {fault.strerror}") from fault
        try:
            return read_memory(read_bounded(self._path, _MOST)[0])
        except (ConfigFault, BadWire) as fault:
            raise ConfigFault(
                f"{self._path}, which says who spoke version 5 of rtcp, cannot be read: {fault}.  Without it somebody "
                "between could bring peers back to version 4; to accept that once, delete the file"
            ) from fault

    async def write(self, data: bytes) -> None:
        """Raises ``OSError``."""
        await trio.to_thread.run_sync(partial(write_atomic, self._path, data))
