"""A zone that obeys plans: a store with revisions, nodes that take their time, and what physically runs on each.

Nodes read their config late, start and stop one thing a step, report, go silent and come back; while silent they go
on with what they last read, as real ones do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from zone.scheduler.plan import Plan, Transaction
from zone.scheduler.schedule import schedule
from zone.scheduler.service import Work, load_service
from zone.scheduler.snapshot import Item, Reading, Snapshot, snapshot_of

LEASE_KEY = "system/scheduler/lease"
START = 1_700_000_000.0
GIB = 1 << 30


def page(name: str, **said: Any) -> dict[str, Any]:
    """A page as plain data: an image that gets well, and little need."""
    return {"service": name, "image": f"{name}:1", "cpu": "0.5", "memory": "128M"} | said


class Store:
    """Keys with revisions, and transactions that are all or nothing."""

    def __init__(self) -> None:
        self.revision = 0
        self.entries: dict[str, tuple[int, str]] = {}
        self.put(LEASE_KEY, {})

    def put(self, key: str, plain: object) -> None:
        self.put_text(key, json.dumps(plain))

    def put_text(self, key: str, text: str) -> None:
        self.revision += 1
        self.entries[key] = (self.revision, text)

    def delete(self, key: str) -> None:
        self.revision += 1
        self.entries.pop(key, None)

    def get(self, key: str) -> Any:
        return json.loads(self.entries[key][1])

    def revision_of(self, key: str) -> int:
        return self.entries.get(key, (0, ""))[0]

    def commit(self, wanted: Transaction) -> bool:
        if any(self.revision_of(key) != revision for key, revision in wanted.compares):
            return False
        self.revision += 1
        for key, text in wanted.puts:
            self.entries[key] = (self.revision, text)
        for key in wanted.deletes:
            del self.entries[key]
        return True


@dataclass
class Running:
    work: Work
    epoch: int
    age: int = 0


@dataclass
class Machine:
    """A node: what it last read, and what runs on it."""

    cpu_num: int
    total_mem: int
    lag: int = 0
    """Steps between reading a config and acting on it."""
    is_up: bool = True
    read: list[tuple[int, Mapping[str, Item]]] = field(default_factory=list)
    running: dict[str, Running] = field(default_factory=dict)


class Cluster:
    """``step`` lets time pass and plans be carried out."""

    def __init__(self) -> None:
        self.now = START
        self.store = Store()
        self.machines: dict[str, Machine] = {}
        self.seen: dict[str, float] = {}
        self.bad: set[str] = set()
        """Images that never get ready."""

    def join(self, name: str, cpu: int = 4, memory: int = 4 * GIB, lag: int = 0, **intent: Any) -> None:
        self.machines[name] = Machine(cpu, memory, lag)
        self.seen[name] = self.now
        self.store.put(f"devices/{name}/info", {"cpu_num": cpu, "total_mem": memory, "arch": "amd64"})
        self.intend(name, **intent)

    def intend(self, name: str, **intent: Any) -> None:
        self.store.put(f"nodes/{name}/intent", intent)

    def leave(self, name: str) -> None:
        """The owner says that the machine is gone; it is."""
        self.store.delete(f"nodes/{name}/intent")
        del self.machines[name], self.seen[name]

    def deploy(self, name: str, **said: Any) -> None:
        plain = page(name, **said)
        assert load_service(json.dumps(plain).encode()).spec is not None
        self.store.put(f"services/{name}/spec", plain)

    def reading(self) -> Reading:
        return Reading(
            now=self.now,
            revision=self.store.revision,
            lease=(LEASE_KEY, self.store.revision_of(LEASE_KEY)),
            seen=dict(self.seen),
            entries=dict(self.store.entries),
        )

    def snapshot(self) -> Snapshot:
        return snapshot_of(self.reading())

    def plan(self) -> Plan:
        return schedule(self.snapshot())

    def apply(self) -> Plan:
        """One round of the scheduler."""
        plan = self.plan()
        if plan.transaction:
            assert self.store.commit(plan.transaction)
        return plan

    def step(self, seconds: float = 5.0) -> Plan:
        self.now += seconds
        nodes = self.snapshot().nodes
        for name, machine in sorted(self.machines.items()):
            if machine.is_up:
                self.seen[name] = self.now
                if name in nodes:
                    machine.read.append((self.store.revision, nodes[name].items))
            self._work(name, machine)
        return self.apply()

    def run(self, steps: int = 40, seconds: float = 5.0) -> Plan:
        for _ in range(steps):
            plan = self.step(seconds)
        return plan

    def settle(self, most: int = 200) -> None:
        """Until nothing is left to do; fails when there always is."""
        quiet = 0
        for _ in range(most):
            quiet = 0 if self.step().transaction else quiet + 1
            if quiet == 15:
                return
        raise AssertionError("it never came to rest")

    def placed(self, service: str) -> list[str]:
        """The nodes whose config says that it is to run."""
        nodes = self.snapshot().nodes
        held = {name: node.items[service] for name, node in nodes.items() if service in node.items}
        return sorted(name for name, item in held.items() if item.target == "running")

    def runs(self, service: str) -> list[str]:
        """The nodes on which it physically runs."""
        return sorted(name for name, machine in self.machines.items() if service in machine.running)

    def _work(self, name: str, machine: Machine) -> None:
        if not machine.read:
            return
        *_, (_, items) = machine.read[: max(1, len(machine.read) - machine.lag)]
        for service in sorted(machine.running):
            item, now = items.get(service), machine.running[service]
            if item is None or item.target == "stopped" or item.work != now.work:
                del machine.running[service]
                self._report(name, machine, service, item, "stopped" if item and item.target == "stopped" else "")
            else:
                now.age += 1
                now.epoch = item.epoch
                state = "starting" if now.age < 2 else "failed" if now.work.image in self.bad else "ready"
                self._report(name, machine, service, item, state)
        for service, item in sorted(items.items()):
            if item.target == "stopped":
                self._report(name, machine, service, item, "stopped")
            elif service not in machine.running:
                machine.running[service] = Running(item.work, item.epoch)
                self._report(name, machine, service, item, "starting")

    def _report(self, name: str, machine: Machine, service: str, item: Item | None, state: str) -> None:
        if not machine.is_up or item is None or not state:
            return
        key = f"services/{service}/instances/{name}"
        old = self.store.get(key) if key in self.store.entries else {}
        if (old.get("state"), old.get("epoch")) != (state, item.epoch):
            self.store.put(key, {"state": state, "epoch": item.epoch, "since": self.now, "pid": 42})
