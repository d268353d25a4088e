"""Programs inside a namespace: run to the end, or started and watched; whoever starts them stops them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

__all__ = ["CommandFailed", "Done", "Process", "run", "until"]


class CommandFailed(Exception):
    """A command ended with a code that was not wanted, or not in time.  The text has all it said."""


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


def _command(namespace: str | None, argv: Sequence[str]) -> list[str]:
    return ["ip", "netns", "exec", namespace, *argv] if namespace else list(argv)


async def run(
    namespace: str | None, argv: Sequence[str], *, stdin: str = "", timeout: float = 20.0, check: bool = True
) -> Done:
    """Run a command to its end, at most ``timeout`` seconds.  Raises ``CommandFailed``."""
    words = _command(namespace, argv)
    with trio.move_on_after(timeout):
        ended = await trio.run_process(
            words, stdin=stdin.encode(), capture_stdout=True, capture_stderr=True, check=False, start_new_session=True
        )
        done = Done(ended.returncode, ended.stdout.decode(errors="replace"), ended.stderr.decode(errors="replace"))
        if check and done.code != 0:
            raise CommandFailed(f"{' '.join(words)}: code {done.code}\n{done.out}{done.err}")
        return done
    raise CommandFailed(f"{' '.join(words)}: not done in {timeout:g} s")


async def until(what: str, condition: object, *, timeout: float = 60.0) -> None:
    """Wait until ``condition()`` (plain or async) is true.  Raises ``CommandFailed`` naming ``what``."""
    assert callable(condition)
    with trio.move_on_after(timeout):
        while True:
            answer = condition()
            if hasattr(answer, "__await__"):
                answer = await answer
            if answer:
                return
            await trio.sleep(0.01)
    raise CommandFailed(f"not within {timeout:g} s: {what}")


class Process:
    """A program that runs until stopped.  It leads its own session, so its children end with it."""

    def __init__(self, popen: subprocess.Popen[bytes], log: Path, name: str) -> None:
        self._popen, self.log, self.name = popen, log, name

    @classmethod
    def start(
        cls, namespace: str | None, argv: Sequence[str], *, log: Path, name: str, env: Mapping[str, str] | None = None
    ) -> Process:
        """Start a program; what it says goes to the file ``log``."""
        with log.open("ab") as out:
            popen = subprocess.Popen(
                _command(namespace, argv),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )
        return cls(popen, log, name)

    @property
    def pid(self) -> int:
        """The program's own: ``ip netns exec`` becomes it."""
        return self._popen.pid

    @property
    def code(self) -> int | None:
        """Exit code; None while it runs, minus the signal's number when killed."""
        return self._popen.poll()

    def text(self) -> str:
        """All it said until now."""
        return self.log.read_text(errors="replace")

    async def says(self, words: str, *, timeout: float = 60.0) -> None:
        """Wait until its log has these words; ``CommandFailed`` when it ends or time passes before."""
        await until(f"{self.name} says {words!r}", lambda: words in self.text() or self._must_run(), timeout=timeout)

    async def stop(self, *, timeout: float = 10.0) -> int:
        """SIGTERM, and its exit code.  A program that does not go in time is killed, and that raises."""
        self._signal(signal.SIGTERM)
        try:
            await until(f"{self.name} ends after SIGTERM", lambda: self.code is not None, timeout=timeout)
        except CommandFailed:
            await self.kill()
            raise
        return self._popen.wait()

    async def kill(self) -> None:
        """SIGKILL to the program and its children."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        await until(f"{self.name} is dead", lambda: self.code is not None)

    def send(self, number: signal.Signals) -> None:
        """Another signal."""
        self._signal(number)

    def kill_now(self) -> None:
        """As ``kill``, without a loop to wait in: for the last clean-up."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        deadline = time.monotonic() + 5
        while self.code is None and time.monotonic() < deadline:
            time.sleep(0.005)

    def _must_run(self) -> bool:
        if self.code is not None:
            raise CommandFailed(f"{self.name} ended with code {self.code}:\n{self.text()[-4000:]}")
        return False

    def _signal(self, number: int) -> None:
        if self.code is None:
            self._popen.send_signal(number)
