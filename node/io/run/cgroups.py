"""Limits by control groups, and where the machine allows none, by what a process can be told (setrlimit(2)).

Each item has a group ``cyfs-HASH/SERVICE`` in every tree that can be used; the hash is the home's, so that two nodes on
one machine leave each other alone, and a daemon that starts again finds what the one before it left, by name.
"""

from __future__ import annotations

import hashlib
import os
import resource
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from node.run.cgroups import LIMITING, MOST_TASKS, Controller, Layout, Usage, count_of, find_layout, settings
from node.run.runner import Bounds, Ended, Order, RunFault

_PATIENCE: Final = 10.0
"""Seconds for processes that were killed to be gone."""
_NICER: Final = 0.005


@dataclass(frozen=True, slots=True)
class _Tree:
    """A folder below which there is one for each item, and what it can do."""

    folder: Path
    version: int
    controllers: tuple[Controller, ...]


class ControlGroups:
    """``Limits`` of the node whose files are below ``home``; to be made once, before anything runs."""

    def __init__(self, home: str, layout: Layout | None = None) -> None:
        """Look at what the machine allows; never raises."""
        if layout is None:
            layout = find_layout(_read(Path("/proc/self/mountinfo")), _read(Path("/proc/self/cgroup")))
        self._name = f"cyfs-{hashlib.sha256(home.encode()).hexdigest()[:12]}"
        self._lacking: dict[Controller, str] = dict.fromkeys(LIMITING, "no control groups are mounted for it")
        self._trees: list[_Tree] = []
        if layout.v2:
            self._open_v2(Path(layout.v2))
        by_folder: dict[str, list[Controller]] = {}
        for controller, folder in layout.v1.items():
            by_folder.setdefault(folder, []).append(controller)  # cpu and cpuacct are often one tree
        for folder, controllers in by_folder.items():
            self._open_v1(Path(folder), tuple(controllers))

    @property
    def lacking(self) -> dict[Controller, str]:
        """What cannot be limited by groups, and why."""
        return dict(self._lacking)

    def _open_v2(self, top: Path) -> None:
        base = top / self._name
        try:
            wanted = [each for each in LIMITING if each in _read(top / "cgroup.controllers").split()]
            base.mkdir(exist_ok=True)
            for folder in (top, base):
                for controller in wanted:
                    _write(folder / "cgroup.subtree_control", f"+{controller}")
        except OSError as fault:
            self._lacking |= dict.fromkeys(LIMITING, f"{fault.filename or top}: {fault.strerror}")
            return
        self._trees.append(_Tree(base, 2, tuple(wanted)))
        for controller in wanted:
            del self._lacking[controller]

    def _open_v1(self, own: Path, controllers: tuple[Controller, ...]) -> None:
        base = own / self._name
        try:
            base.mkdir(exist_ok=True)
        except OSError as fault:
            for controller in controllers:
                if controller in self._lacking:
                    self._lacking[controller] = f"{base}: {fault.strerror}"
            return
        self._trees.append(_Tree(base, 1, controllers))
        for controller in controllers:
            self._lacking.pop(controller, None)

    async def enter(self, order: Order) -> Bounds:
        """See ``Limits``."""
        return await trio.to_thread.run_sync(self._enter, order)

    def _enter(self, order: Order) -> Bounds:
        self._leave(order.service)
        join = []
        try:
            for tree in self._trees:
                group = tree.folder / order.service
                group.mkdir(exist_ok=True)
                join.append(str(group / "cgroup.procs"))
                for controller in tree.controllers:
                    for name, text, is_needed in settings(order.work, controller, tree.version):
                        if is_needed or (group / name).exists():
                            _write(group / name, text)
        except OSError as fault:
            self._leave(order.service)
            raise RunFault(f"its limits cannot be set: {fault.filename}: {fault.strerror}") from fault
        limits = []
        if "memory" in self._lacking:
            # Of each process by itself: the most that can be had.  Address space would count what is never touched.
            limits.append((resource.RLIMIT_DATA, order.work.memory))
        if "pids" in self._lacking:
            limits.append((resource.RLIMIT_NPROC, MOST_TASKS))
        return Bounds(tuple(join), tuple(limits))

    async def leave(self, service: str) -> None:
        """See ``Limits``."""
        await trio.to_thread.run_sync(self._leave, service)

    def _leave(self, service: str) -> None:
        """End what is still in the groups of an item, and remove them."""
        groups = [tree.folder / service for tree in self._trees]
        until = time.monotonic() + _PATIENCE
        for group in groups:
            while group.is_dir():
                try:
                    group.rmdir()
                except OSError as fault:
                    if time.monotonic() > until:
                        raise RunFault(f"processes of it cannot be ended: {group}: {fault.strerror}") from fault
                    self._end(service)
                    time.sleep(_NICER)

    def _end(self, service: str) -> None:
        """Kill all of them at once, or stop them all first, so that nobody outruns us by forking."""
        groups = {tree.folder / service: tree for tree in self._trees}
        with suppress(OSError):
            for group in groups:
                if (group / "cgroup.kill").exists():
                    _write(group / "cgroup.kill", "1")
                    return
        freezers = [group / "freezer.state" for group, tree in groups.items() if "freezer" in tree.controllers]
        for freezer in freezers:
            with suppress(OSError):
                _write(freezer, "FROZEN")
        for group in groups:
            for pid in _read(group / "cgroup.procs").split():
                with suppress(OSError):
                    os.kill(int(pid), signal.SIGKILL)
        for freezer in freezers:
            with suppress(OSError):
                _write(freezer, "THAWED")

    def explain(self, service: str, ended: Ended) -> str:
        """See ``Limits``."""
        if ended.code == 0:
            return ""
        killed = refused = 0
        for tree in self._trees:
            group = tree.folder / service
            events = "memory.oom_control" if tree.version == 1 else "memory.events"
            killed += count_of(_read(group / events), "oom_kill")
            refused += count_of(_read(group / "pids.events"), "max")
        if killed:
            return f"used more than its {self._memory_of(service)} of memory"
        return f"wanted more than {MOST_TASKS} processes and threads" if refused else ""

    def _memory_of(self, service: str) -> str:
        for tree in self._trees:
            if "memory" in tree.controllers:
                name = "memory.limit_in_bytes" if tree.version == 1 else "memory.max"
                if (limit := _number(tree.folder / service / name)) is not None:
                    return f"{limit / (1 << 20):g} MiB"
        return "limit"

    def usage(self, service: str) -> Usage:
        """What the item takes now; nothing of it need run."""
        memory = cpu = tasks = None
        for tree in self._trees:
            group = tree.folder / service
            if "memory" in tree.controllers:
                memory = _number(group / ("memory.usage_in_bytes" if tree.version == 1 else "memory.current"))
            if "pids" in tree.controllers:
                tasks = _number(group / "pids.current")
            if tree.version == 2 and (text := _read(group / "cpu.stat")):  # there also where it limits nothing
                cpu = count_of(text, "usage_usec") / 1e6
        return Usage(memory, cpu, tasks)

    def close(self) -> None:
        """Remove the folders of this node, which only a node without items can."""
        for tree in self._trees:
            with suppress(OSError):
                tree.folder.rmdir()


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _read(path).strip()
    return int(text) if text.isdigit() else None


def _write(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, text.encode())
    except OSError as fault:
        raise OSError(fault.errno, fault.strerror, str(path)) from None
    finally:
        os.close(descriptor)
