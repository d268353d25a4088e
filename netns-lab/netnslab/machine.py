"""A host as one machine: all its processes in a PID namespace, so that they live and die together.

Programs that look for their own among all processes of a machine, by user or by number, find there what is on it and
nothing of its neighbours; and a power cut ends them all at once, whatever sessions they have begun.

Run as a program without arguments it is the machine's first process, which buries its dead.  With arguments it is the
door that ``nsenter`` has opened: it runs them in there, passes signals on, and ends as they end.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

__all__ = ["FIRST", "enter"]

FIRST = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, "-ISE", __file__)
"""The machine; when it is killed, so is everything in it."""
_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def enter(pid: int, words: Sequence[str]) -> tuple[str, ...]:
    """``words`` as they are run on the machine whose first process is ``pid`` out here."""
    return ("nsenter", "--no-fork", f"--target={pid}", "--pid", "--mount", sys.executable, "-ISE", __file__, *words)


def _bury() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    print("ready", flush=True)
    while True:
        signal.sigwait({signal.SIGCHLD})
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            continue


def _run(words: Sequence[str]) -> int:
    signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON)
    child = os.posix_spawnp(words[0], words, os.environ, setsigmask=())
    for each in _PASSED_ON:
        signal.signal(each, lambda number, _: os.kill(child, number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED_ON)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    if len(sys.argv) == 1:
        _bury()
    sys.exit(_run(sys.argv[1:]))
