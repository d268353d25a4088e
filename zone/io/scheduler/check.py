"""A program of the owner that is asked before anything is written, and may say no.

It gets one object of JSON: ``decisions``, each as ``[action, service, node, why]``, and ``writes``, key to new value
(null: deleted), in which the values of environments are not told.  When it ends with 0 in time, all is well.  Whatever
else it does is a veto: a check that is broken holds things up, which people notice, and lets nothing past.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from typing import Final

from cyfs_ns.identity.strictjson import Json, read_json, write_json
from zone.scheduler.plan import Plan
from zone.scheduler.redact import without_environments
from zone.scheduler.snapshot import Snapshot

TIME: Final = 10.0
"""Seconds for an answer."""
_MOST_SAID: Final = 500
"""Bytes of what it says for people."""


class CommandCheck:
    """``command``, as a check (``zone.scheduler.schedule.Check``); it takes a thread for as long as it runs."""

    def __init__(self, command: Sequence[str], seconds: float = TIME) -> None:
        self._command, self._seconds = list(command), seconds

    def __call__(self, snapshot: Snapshot, plan: Plan) -> str:
        """Why nothing is to be written; empty: nothing is against it."""
        if not plan.commit.writes:
            return ""
        name = self._command[0]
        with tempfile.TemporaryFile() as said:
            try:
                asked = subprocess.Popen(
                    self._command, stdin=subprocess.PIPE, stdout=said, stderr=subprocess.STDOUT, start_new_session=True
                )
            except OSError as fault:
                return f"the check {name} cannot be started: {fault.strerror}"
            try:
                asked.communicate(_told(plan), self._seconds)
            except subprocess.TimeoutExpired:
                # Not yet waited for, so the group is its own still; nothing that it started stays.
                os.killpg(asked.pid, signal.SIGKILL)
                asked.wait()
                return f"the check {name} did not end in {self._seconds:g} s"
            if asked.returncode == 0:
                return ""
            said.seek(0)
            words = said.read(_MOST_SAID).decode("utf-8", "replace").strip()
        return f"the check {name}: {words or f'ended with {asked.returncode}'}"


def _told(plan: Plan) -> bytes:
    decisions: list[Json] = [[d.action, d.service, d.node, d.why] for d in plan.decisions]
    writes: dict[str, Json] = {
        key: None if text is None else without_environments(read_json(text, key))
        for key, text in plan.commit.writes.items()
    }
    return write_json({"decisions": decisions, "writes": writes})
