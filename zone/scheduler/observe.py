"""From a reading of the store to what a round decides on, and from a plan to the transaction that writes it.

Nobody's clock but the scheduler's own is looked at.  A node is heard of while ``alive_key`` is there, which goes with
the lease of the node; when it is gone, the node was seen until just before that was read, never earlier, so that a
scheduler that looks late gives nobody up early.
"""

from __future__ import annotations

import re
from typing import Final

from cyfs_ns.identity.strictjson import Json, write_json
from zone.config.keys import Below, Scope
from zone.config.model import Action, AtRevision, Commit, Delete, Reading, Set, Transaction
from zone.scheduler.plan import Plan
from zone.scheduler.snapshot import Observation, heard_since

LEADER: Final = "system/scheduler/leader"
"""Made under its lease by the scheduler that is the one; its value says on which node that is."""
VETOES: Final = "system/scheduler/vetoes"
"""For people: why a check lets nothing be written, and what it is that would be; absent while nothing is held up."""
NOTICED: Final = "system/scheduler/noticed"
"""Which services seem to have a fault, by their logs.  Nothing is decided by it: it is a reason to look again."""
SCOPES: Final[tuple[Scope, ...]] = (Below("nodes"), Below("services"), Below("devices"), Below("system/scheduler"))
"""What is read in each round, and followed between them."""

_MOST_TOLD: Final = 100
_MATTERS: Final = re.compile(
    r"nodes/[^/]+/(?:intent|status/alive|config/[^/]+)"
    r"|services/[^/]+/(?:spec|placement|info|instances/[^/]+)"
    r"|devices/[^/]+/info"
    r"|system/scheduler/(?:leader|round|vetoes)"
)


def alive_key(node: str) -> str:
    """There while ``node`` holds its lease."""
    return f"nodes/{node}/status/alive"


def matters(key: str) -> bool:
    """Whether anything is decided by ``key``, so that a change of it is worth a round."""
    return _MATTERS.fullmatch(key) is not None


def observe(now: float, lease: tuple[str, int], reading: Reading, last: Observation | None) -> Observation:
    """What is known ``now``; ``last``: what this scheduler knew in its last round, None in its first.

    A value that nobody here can open stands for itself as an empty text, which is a fault where it belongs.
    """
    entries = {entry.key: (entry.revision, entry.value or "") for entry in reading.entries if matters(entry.key)}
    members = [key.split("/")[1] for key in entries if key.endswith("/intent")]
    seen = {}
    for node in members:
        if last is None or alive_key(node) in entries or alive_key(node) in last.entries:
            seen[node] = now
        elif node in last.seen:
            seen[node] = last.seen[node]
    heard = heard_since(now, entries, last)
    return Observation(now=now, revision=reading.revision, lease=lease, seen=seen, heard=heard, entries=entries)


def transaction_of(commit: Commit) -> Transaction:
    """What is asked of the store for ``commit``, which writes something."""
    actions: list[Action] = [Delete(key) if text is None else Set(key, text) for key, text in commit.writes.items()]
    return Transaction(tuple(actions), tuple(AtRevision(key, at) for key, at in commit.guards.items()))


def veto_note(observed: Observation, plan: Plan) -> Commit | None:
    """What has to be written so that ``VETOES`` tells of ``plan``; None: it does already."""
    revision, told = observed.entries.get(VETOES, (0, None))
    text = None
    if plan.vetoes:
        decisions: list[Json] = [[d.action, d.service, d.node, d.why] for d in plan.decisions[:_MOST_TOLD]]
        note: dict[str, Json] = {"vetoes": list(plan.vetoes), "decisions": decisions}
        text = write_json(note).decode()
    if text == told:
        return None
    lease, made = observed.lease
    return Commit({lease: made, VETOES: revision}, {VETOES: text})
