"""What a long-running process tells the kernel and the service manager about itself."""

from __future__ import annotations

import ctypes
import fcntl
import gc
import logging
import os
import resource
import socket
import time
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path

_GARBAGE_THRESHOLD = 50_000
"""Allocations between collections; connections free themselves by reference counts, so little is left to find."""
_TABLE = 1 << 14
"""Descriptors for which the kernel's table has room from the start, 8 bytes each.  Where there are threads, whoever
makes it grow waits for all processors, 10 to 25 ms, and with it everybody else here."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MOST_SPARE, _LARGEST_SPARE = 32 << 20, 4 << 20
_PAGE = resource.getpagesize()

_log = logging.getLogger("cyfs.process")


class Begun:
    """The moment it was made, told by the wall clock of now: one that was set right meanwhile tells it right."""

    def __init__(self) -> None:
        self._ticks = time.monotonic()
        self._told = time.time()

    @property
    def at(self) -> float:
        """Unix time; always the same unless the clock was set."""
        now = time.time() - (time.monotonic() - self._ticks)
        if abs(now - self._told) >= 1.0:
            self._told = now
        return self._told


def settle_in() -> None:
    """Ask for every descriptor we may have, with room for them, and let the garbage collector run seldom."""
    gc.set_threshold(_GARBAGE_THRESHOLD, 20, 50)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError) as fault:
            _log.warning("the limit of open files stays at %d: %s", soft, fault)
    with suppress(OSError), Path(os.devnull).open("rb") as anything:
        most = min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], _TABLE)
        os.close(fcntl.fcntl(anything, fcntl.F_DUPFD_CLOEXEC, most - 1))


def keep_spare_memory() -> None:
    """Have the C library keep what is given back, up to ``_MOST_SPARE``, for what is wanted next.

    Buffers of a tunnel come and go by the megabyte.  Left to itself, the library hands each back to the kernel, and the
    next one costs a fault for every page: an upload ran at four fifths of its speed.  Called once the start is over,
    since what that gives back goes to the kernel first.  Does nothing with other libraries than GNU's.
    """
    library = ctypes.CDLL(None)
    with suppress(AttributeError):
        library.malloc_trim(0)
        library.mallopt(_M_TRIM_THRESHOLD, _MOST_SPARE)
        library.mallopt(_M_MMAP_THRESHOLD, _LARGEST_SPARE)


def tell_service_manager(state: str = "READY=1") -> None:
    """Report to systemd's ``Type=notify`` (sd_notify(3)); nothing without one."""
    if not (address := os.environ.get("NOTIFY_SOCKET")):
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect("\0" + address[1:] if address.startswith("@") else address)
        sock.send(state.encode())


def resident_bytes() -> int:
    """Memory this process has in RAM; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE
    except (OSError, ValueError, IndexError):
        return 0


@cache
def installed_version() -> str:
    """The version this program was installed as; empty when it runs from its sources."""
    try:
        return metadata.version("cyfs-gateway")
    except metadata.PackageNotFoundError:
        return ""
