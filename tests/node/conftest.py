"""What outlives a daemon on purpose outlives a test as well, unless somebody ends it: also when pytest is killed."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

_MARK = "CYFS_TESTS"
_GUARD = """
import os, signal, sys

def processes():
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/environ", "rb") as environ, open(f"/proc/{name}/cmdline", "rb") as cmdline:
                if sys.argv[1].encode() in environ.read().split(b"\\0"):
                    yield int(name), b"keeper.py" in cmdline.read()
        except OSError:
            pass

sys.stdin.read()
for number, is_keeper in ((signal.SIGKILL, False), (signal.SIGUSR1, True)):
    for pid, found in processes():
        if found == is_keeper:
            try:
                os.kill(pid, number)
            except OSError:
                pass
"""
"""First daemons, which would start their services again, then keepers, which end all that runs below them."""


@pytest.fixture(scope="session", autouse=True)
def guard() -> Iterator[None]:
    """Ends what the tests started, as soon as nobody holds its input any more.

    All that a test starts inherits the mark but for the services themselves, which are ended by their keepers.
    """
    name = f"{os.getpid()}-{secrets.token_hex(8)}"
    argv = [sys.executable, "-I", "-S", "-c", _GUARD, f"{_MARK}={name}"]
    with pytest.MonkeyPatch.context() as patch:
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, start_new_session=True)
        patch.setenv(_MARK, name)
        yield
        process.communicate()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """One that others may pass through: every pytest closes those of its own kind."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as found:
        Path(found).chmod(0o755)
        yield Path(found)
