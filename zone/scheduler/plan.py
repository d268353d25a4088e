"""What the scheduler decided, as data: one commit, each decision with its reason, and what could not be done.

The commit is *guarded*: by the lease, so that a scheduler that was replaced writes nothing; by ``ROUND``, which every
commit writes, so that nothing is decided on what was read before the last one; and by the revision of every key it
changes, and of the page, the placement and the intent that each decision stands on.  When any of them is another by
then, nothing is written, and the next round begins with a new observation.  It is never larger than the store takes:
what does not fit waits for the next round, which is due at once then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from cyfs_ns.identity.strictjson import write_json
from zone.config.model import Commit

ROUND = "system/scheduler/round"
"""The key that every commit writes; its value is the revision on which the round stood."""

Action = Literal["place", "upgrade", "stop", "forget", "roll back", "accept"]


@dataclass(frozen=True, slots=True)
class Decision:
    """One thing that changes.  ``forget``: an item that has stopped; ``accept``: a version is the good one now."""

    action: Action
    service: str
    node: str
    """Empty when it is about the service as a whole."""
    why: str


class Bar(StrEnum):
    """What keeps a service off a node."""

    UNREADABLE = "unreadable"
    SILENT = "silent"
    DRAINED = "drained"
    CAPACITY = "capacity unknown"
    LABELS = "labels"
    TAKEN = "taken"
    APART = "apart"
    CPU = "cpu"
    MEMORY = "memory"
    PORTS = "ports"
    ABSENT = "absent"
    ELSEWHERE = "elsewhere"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why one node does not do."""

    node: str
    bar: Bar
    why: str


@dataclass(frozen=True, slots=True)
class Standing:
    """One item after this plan."""

    node: str
    state: str
    """``ready``, ``starting``, ``failed``, ``stopping`` or ``silent`` (its node is not heard of)."""
    why: str


@dataclass(frozen=True, slots=True)
class Account:
    """How a service stands after this plan, and why."""

    wanted: int
    standing: tuple[Standing, ...] = ()
    missing: int = 0
    """Of those wanted, how many have no place."""
    refusals: tuple[Refusal, ...] = ()
    """For each that is missing a place: one for every node that might have been."""
    notes: tuple[str, ...] = ()
    """What is waited for, and what is wrong."""

    def as_plain(self) -> dict[str, Any]:
        """As plain data, for people and programs."""
        return {
            "wanted": self.wanted,
            "standing": [[s.node, s.state, s.why] for s in self.standing],
            "missing": self.missing,
            "refusals": [[r.node, r.bar, r.why] for r in self.refusals],
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a round came to."""

    commit: Commit
    """What is to be written; nothing: no ``writes``."""
    decisions: tuple[Decision, ...] = ()
    accounts: Mapping[str, Account] = field(default_factory=dict)
    look_again: float | None = None
    """When, if nothing is heard before, something may be decided otherwise, in Unix seconds; never: None."""
    vetoes: tuple[str, ...] = ()
    """Why a check let nothing of this be written."""

    def why(self, service: str) -> Account:
        """How ``service`` stands; an empty account for one that nobody knows."""
        return self.accounts.get(service, Account(0))

    def as_bytes(self) -> bytes:
        """As JSON; the same bytes for the same reading, on any machine."""
        plain = {
            "commit": {"guards": self.commit.guards, "writes": self.commit.writes},
            "decisions": [[d.action, d.service, d.node, d.why] for d in self.decisions],
            "accounts": {name: account.as_plain() for name, account in self.accounts.items()},
            "look-again": self.look_again,
            "vetoes": self.vetoes,
        }
        return write_json(plain)
