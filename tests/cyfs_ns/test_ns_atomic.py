"""Written or not written, nothing between: each step of the writing is cut short by SIGKILL once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cyfs_ns.io.atomic import write_atomic

OLD, NEW = b"old" * 100_000, b"new" * 100_000

# The child dies as it enters its Nth call into the kernel's file functions.
CHILD = """
import os, pathlib, signal, sys
path, fatal = sys.argv[1], int(sys.argv[2])
from cyfs_ns.io.atomic import write_atomic
step = 0
def mortal(owner, name, after):
    real = getattr(owner, name)
    def wrapped(*args, **kwargs):
        global step
        result = real(*args, **kwargs) if after else None
        if step == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        step += 1
        return result if after else real(*args, **kwargs)
    setattr(owner, name, wrapped)
for owner, name in ((os, "fchmod"), (os, "fsync"), (pathlib.Path, "replace")):
    mortal(owner, name, after=False)
    mortal(owner, name, after=True)
write_atomic(path, b"new" * 100_000)
print("done", step)
"""


def test_content_and_mode_are_those_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "state"
    write_atomic(path, b"one")
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"one", 0o600)
    write_atomic(str(path), b"two", 0o644)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"two", 0o644)
    assert os.listdir(tmp_path) == ["state"]


def test_a_kill_at_any_step_leaves_old_or_new(tmp_path: Path) -> None:
    path = tmp_path / "state"
    seen = []
    for fatal in range(100):
        path.write_bytes(OLD)
        child = subprocess.run([sys.executable, "-c", CHILD, path, str(fatal)], capture_output=True, text=True)
        content = path.read_bytes()
        assert content in (OLD, NEW)
        seen.append(content == NEW)
        if child.returncode == 0:
            break
        assert child.returncode == -signal.SIGKILL, child.stderr
    assert seen == sorted(seen)  # from some step on it is the new content, and never goes back
    assert seen[0] is False and seen[-1] is True and len(seen) >= 8


def test_a_failure_leaves_the_old_content_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state"
    path.write_bytes(OLD)

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, NEW)
    assert path.read_bytes() == OLD
    assert os.listdir(tmp_path) == ["state"]


def test_readers_only_ever_see_whole_content(tmp_path: Path) -> None:
    path = tmp_path / "state"
    write_atomic(path, OLD)
    reader = path.open("rb")
    head = reader.read(1000)
    write_atomic(path, NEW)
    assert head + reader.read() == OLD
    reader.close()
