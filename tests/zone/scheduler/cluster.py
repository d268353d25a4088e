"""A zone that obeys plans: a store with revisions, nodes that take their time, and what physically runs on each.

Nodes read their config late, start and stop one thing a step, report, go silent and come back; while silent they go
on with what they last read, as real ones do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from zone.config.model import MOST_ACTIONS, MOST_WRITTEN, Commit, check_value
from zone.scheduler.plan import Plan
from zone.scheduler.schedule import schedule
from zone.scheduler.service import Work, load_service
from zone.scheduler.snapshot import Item, Observation, Snapshot, heard_since, snapshot_of

LEASE_KEY = "system/scheduler/lease"
START = 1_700_000_000.0
GIB = 1 << 30


def page(name: str, **said: Any) -> dict[str, Any]:
    """A page as plain data: an image that gets well, and little need."""
    return {"service": name, "image": f"{name}:1", "cpu": "0.5", "memory": "128M"} | said


class Store:
    """Keys with revisions, and commits that are all or nothing."""

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

    def commit(self, wanted: Commit) -> bool:
        assert wanted.writes.keys() <= wanted.guards.keys()
        assert len(wanted.guards) + len(wanted.writes) <= MOST_ACTIONS
        assert sum(len(key) + len((text or "").encode()) for key, text in wanted.writes.items()) <= MOST_WRITTEN
        if any(self.revision_of(key) != revision for key, revision in wanted.guards.items()):
            return False
        self.revision += 1
        for key, text in wanted.writes.items():
            if text is None:
                del self.entries[key]
            else:
                self.entries[key] = (self.revision, check_value(text))
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
    """Steps between reading its items and acting on them."""
    ahead: float = 0.0
    """Seconds by which its clock is wrong."""
    is_up: bool = True
    read: list[tuple[int, Mapping[str, Item]]] = field(default_factory=list)
    running: dict[str, Running] = field(default_factory=dict)


class Cluster:
    """``step`` lets time pass and plans be carried out."""

    def __init__(self) -> None:
        self.now = START
        self.store = Store()
        self.machines: dict[str, Machine] = {}
        self.ahead = 0.0
        """Seconds by which the clock of the present scheduler is wrong."""
        self.seen: dict[str, float] = {}
        self.last: Observation | None = None
        self.bad: set[str] = set()
        """Images that never get ready."""

    @property
    def clock(self) -> float:
        """What the scheduler takes for the time."""
        return self.now + self.ahead

    def take_over(self, ahead: float) -> None:
        """Another scheduler, which knows nothing of what the last one saw."""
        self.ahead, self.last = ahead, None
        self.seen = dict.fromkeys(self.seen, self.clock)
        self.store.put(LEASE_KEY, {})

    def join(
        self, name: str, cpu: int = 4, memory: int = 4 * GIB, lag: int = 0, ahead: float = 0.0, **intent: Any
    ) -> None:
        self.machines[name] = Machine(cpu, memory, lag, ahead)
        self.seen[name] = self.clock
        info = {"cpu_num": cpu, "total_mem": memory, "arch": "amd64", "did": f"did:dev:{name}", "net_id": "lan1"}
        self.store.put(f"devices/{name}/info", info)
        self.intend(name, **intent)

    def intend(self, name: str, **intent: Any) -> None:
        self.store.put(f"nodes/{name}/intent", intent)

    def leave(self, name: str) -> None:
        """The owner says that the machine is gone; it is."""
        self.store.delete(f"nodes/{name}/intent")
        del self.machines[name], self.seen[name]

    def deploy(self, name: str, **said: Any) -> None:
        plain = page(name, **said)
        assert load_service(json.dumps(plain, ensure_ascii=False).encode()).spec is not None
        self.store.put(f"services/{name}/spec", plain)

    def observed(self) -> Observation:
        return Observation(
            now=self.clock,
            revision=self.store.revision,
            lease=(LEASE_KEY, self.store.revision_of(LEASE_KEY)),
            seen=dict(self.seen),
            heard=heard_since(self.clock, self.store.entries, self.last),
            entries=dict(self.store.entries),
        )

    def snapshot(self) -> Snapshot:
        return snapshot_of(self.observed())

    def plan(self) -> Plan:
        return schedule(self.snapshot())

    def apply(self) -> Plan:
        """One round of the scheduler."""
        self.last = self.observed()
        plan = schedule(snapshot_of(self.last))
        if plan.commit.writes:
            assert self.store.commit(plan.commit)
        return plan

    def wait(self, seconds: float) -> None:
        """Time passes, and all that happens is that every machine keeps its lease."""
        self.now += seconds
        self.seen = dict.fromkeys(self.seen, self.clock)

    def step(self, seconds: float = 5.0) -> Plan:
        self.now += seconds
        nodes = self.snapshot().nodes
        for name, machine in sorted(self.machines.items()):
            if machine.is_up:
                self.seen[name] = self.clock
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
            quiet = 0 if self.step().commit.writes else quiet + 1
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
            said = {"state": state, "epoch": item.epoch, "since": self.now + machine.ahead, "pid": 42}
            self.store.put(key, said | ({"why": "exited with 3"} if state == "failed" else {}))
