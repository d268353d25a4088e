"""A network namespace of its own for one test: a thread that moved into one, and whatever it starts or opens there."""

from __future__ import annotations

import ctypes
import os
import queue
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TypeVar

import pytest

T = TypeVar("T")

CLONE_NEWNET = 0x40000000


class Namespace:
    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()
        self.call(_unshare)
        self.run("ip", "link", "set", "lo", "up")

    def call(self, function: Callable[..., T], *args: object) -> T:
        """``function`` run in the namespace: sockets it opens belong there."""
        done: Future[T] = Future()

        def job() -> None:
            try:
                done.set_result(function(*args))
            except BaseException as fault:
                done.set_exception(fault)

        self._jobs.put(job)
        return done.result()

    def run(self, *argv: str) -> str:
        done = self.call(lambda: subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30))
        assert done.returncode == 0, f"{argv}: {done.stderr}"
        return done.stdout

    def end(self) -> None:
        self._jobs.put(None)
        self._thread.join()

    def _live(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


def _unshare() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare")


@contextmanager
def namespace(*programs: str) -> Iterator[Namespace]:
    """Skips the test, with the reason, where it cannot run."""
    if os.geteuid() != 0:
        pytest.skip("needs root: a network namespace")
    for program in ("ip", *programs):
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}")
    made = Namespace()
    try:
        yield made
    finally:
        made.end()
