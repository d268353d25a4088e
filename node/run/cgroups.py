"""Control groups: where the groups of run items go on this machine, and what is written into them.

Three layouts are met.  v2 has one tree for all controllers; v1 has a tree for each; a *hybrid* machine has v1 trees,
and beside them a v2 tree without controllers, which is still the best way to end all processes of a group.

Groups of v1 go below the daemon's own, so that whatever holds the daemon holds them too.  v2 forbids that (a group with
processes of its own hands no controllers on, cgroups(7)), so there they go to the top of what is mounted.

``cpu`` is a weight, not a ceiling: an item is sure of it when all want to run at once, and may take what is idle.  The
ceiling is ``cpu-limit``, for whoever says one.  The two are what Kubernetes calls request and limit; a ceiling for all
would have services wait beside idle cores.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from zone.scheduler.service import Work

Controller = Literal["memory", "cpu", "pids", "freezer"]

CONTROLLERS: Final[tuple[Controller, ...]] = ("memory", "cpu", "pids", "freezer")
LIMITING: Final[tuple[Controller, ...]] = ("memory", "cpu", "pids")
MOST_TASKS: Final = 1024
"""Processes and threads of one item."""
_PERIOD: Final = 100_000
"""Microseconds in which an item may use its limit; the kernel's own choice."""
_ESCAPED = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Layout:
    """Where groups can be made."""

    v1: Mapping[Controller, str]
    """Controller to the folder of the daemon's own group in its tree."""
    v2: str = ""
    """The top of the v2 tree; empty: none is mounted."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What an item takes, as far as its groups tell; None: they do not."""

    memory: int | None = None
    """Bytes."""
    cpu: float | None = None
    """Seconds of processors since it started."""
    tasks: int | None = None


def find_layout(mounts: str, own: str) -> Layout:
    """From the texts of ``/proc/self/mountinfo`` and ``/proc/self/cgroup``."""
    groups: dict[str, str] = {}
    for line in own.splitlines():
        _, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        groups |= dict.fromkeys(names.split(","), path)
    v1: dict[Controller, str] = {}
    v2 = ""
    for root, point, kind, options in _mounts(mounts):
        if kind == "cgroup2":
            v2 = v2 or point
        elif kind == "cgroup":
            for controller in CONTROLLERS:
                if controller in options and controller not in v1:
                    v1[controller] = _below(point, root, groups.get(controller, "/"))
    return Layout(v1, v2)


def _mounts(text: str) -> Iterator[tuple[str, str, str, list[str]]]:
    """Root, mount point, type and options of the file system of each (proc_pid_mountinfo(5))."""
    for line in text.splitlines():
        before, dash, after = line.partition(" - ")
        words, about = before.split(" "), after.split(" ")
        if dash and len(words) >= 6 and len(about) >= 3:
            yield _unescaped(words[3]), _unescaped(words[4]), about[0], about[2].split(",")


def _unescaped(text: str) -> str:
    return _ESCAPED.sub(lambda match: chr(int(match[1], 8)), text)


def _below(point: str, root: str, group: str) -> str:
    """The folder of ``group`` where ``root`` of its tree is mounted at ``point``; what is not below it is not seen."""
    if root != "/":
        group = group.removeprefix(root) if f"{group}/".startswith(f"{root}/") else "/"
    return point if ".." in group.split("/") else f"{point}{group}".rstrip("/")


def settings(work: Work, controller: Controller, version: int) -> tuple[tuple[str, str, bool], ...]:
    """File, text, and whether the limit is one without it, in the order in which they are written."""
    match controller, version:
        case "memory", 1:
            # Memory with swap cannot be less than memory; where swap is not counted there is no such file.
            return (
                ("memory.limit_in_bytes", str(work.memory), True),
                ("memory.memsw.limit_in_bytes", str(work.memory), False),
            )
        case "memory", _:
            return (
                ("memory.max", str(work.memory), True),
                ("memory.swap.max", "0", False),
                ("memory.oom.group", "1", False),
            )
        case "cpu", 1:
            shares = ("cpu.shares", str(max(2, work.cpu * 1024 // 1000)), True)
            quota = ("cpu.cfs_quota_us", str(_quota(work)), True)
            return (shares, ("cpu.cfs_period_us", str(_PERIOD), True), quota) if work.cpu_limit else (shares,)
        case "cpu", _:
            weight = ("cpu.weight", str(min(10_000, max(1, work.cpu // 10))), True)
            return (weight, ("cpu.max", f"{_quota(work)} {_PERIOD}", True)) if work.cpu_limit else (weight,)
        case "pids", _:
            return (("pids.max", str(MOST_TASKS), True),)
    return ()


def _quota(work: Work) -> int:
    return work.cpu_limit * _PERIOD // 1000


def count_of(text: str, name: str) -> int:
    """The number after ``name`` in a file of lines ``NAME NUMBER``; 0: there is none."""
    match = re.search(rf"^{re.escape(name)} ([0-9]{{1,18}})$", text, re.MULTILINE)
    return int(match[1]) if match else 0
