"""How long a zone is planned: 1,000 services on 100 nodes, from nothing, at rest, and with a tenth of the nodes gone.

Run ``.venv/bin/python bench/zoneplan.py [--json]``.  Each is the median of several rounds, in CPU time; *planned* is
the decision and its transaction, *read* the store's keys made into a snapshot before it, which
opens what has changed since the last; at rest nothing has.  Every round must come to the
same bytes.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.zone.scheduler.cluster import GIB, LEASE_KEY, START, Store, page
from zone.scheduler.plan import Plan
from zone.scheduler.schedule import schedule
from zone.scheduler.snapshot import Observation, Snapshot, heard_since, snapshot_of

NODES, SERVICES, ROUNDS = 100, 1_000, 5
_GONE = NODES // 10
_GRACE = 60


def zone(dice: random.Random) -> Store:
    """Pages of a mixed zone: one to three replicas, some with volumes, labels, neighbours and fixed ports."""
    store = Store()
    for number in range(NODES):
        name = f"node{number:03}"
        store.put(f"devices/{name}/info", {"cpu_num": dice.choice((16, 32, 64)), "total_mem": 64 * GIB})
        labels = {"disk": dice.choice(("ssd", "hdd")), "room": f"room{number % 7}"}
        store.put(f"nodes/{name}/intent", {"labels": labels})
    for number in range(SERVICES):
        name = f"service{number:04}"
        said = page(name, cpu=dice.choice(("0.1", "0.5", "1")), ports={"http": "auto"}, spread="room")
        said["replicas"] = dice.randint(1, 3)
        if number % 5 == 0:
            said |= {"volumes": {"data": "/data"}, "replicas": 1}
        if number % 4 == 0:
            said["labels"] = {"disk": "ssd"}
        if number % 10 == 1:
            said |= {"near": [f"service{number - 1:04}"], "apart": [f"service{number + 1:04}"]}
        store.put(f"services/{name}/spec", said)
    return store


def observed(store: Store, now: float = START) -> Observation:
    """All of it; every node was seen at the start, and the first tenth never again."""
    names = [key.split("/")[1] for key in store.entries if key.endswith("/intent")]
    seen = {name: START if turn < _GONE else now for turn, name in enumerate(sorted(names))}
    lease = (LEASE_KEY, store.revision_of(LEASE_KEY))
    heard = heard_since(START, store.entries, None)
    return Observation(
        now=now, revision=store.revision, lease=lease, seen=seen, heard=heard, entries=dict(store.entries)
    )


def all_ready(store: Store, snapshot: Snapshot) -> None:
    """Every node reports that what it was told runs."""
    for name, node in snapshot.nodes.items():
        for service, item in node.items.items():
            report = {"state": "ready", "epoch": item.epoch, "since": START}
            store.put(f"services/{service}/instances/{name}", report)


def measured(read: Observation, last: Snapshot | None) -> tuple[float, float, Plan]:
    """Seconds for the snapshot after ``last``, seconds for the plan, and the plan."""
    snapshot = snapshot_of(read)
    plan = schedule(snapshot)
    expected = plan.as_bytes()

    def planned() -> None:
        if schedule(snapshot).as_bytes() != expected:
            raise SystemExit("two plans of one snapshot differ")

    return _seconds(lambda: snapshot_of(read, last)), _seconds(planned), plan


def _seconds(work: Callable[[], object]) -> float:
    taken = []
    for _ in range(ROUNDS):
        gc.collect()
        began = time.process_time()
        work()
        taken.append(time.process_time() - began)
    return statistics.median(taken)


def figures() -> dict[str, dict[str, float]]:
    """Subject to figures, in seconds."""
    store = zone(random.Random(7))
    found: dict[str, dict[str, float]] = {}
    began = observed(store)
    found["from nothing"], plan = _told(began)
    while plan.commit.writes:
        if not store.commit(plan.commit):
            raise SystemExit("the store refused a plan")
        all_ready(store, snapshot_of(observed(store)))
        plan = schedule(snapshot_of(observed(store, START + 14)))
    last = snapshot_of(observed(store, START + 14))
    found["at rest"], _ = _told(observed(store, START + 14), last)
    found["a tenth of the nodes gone"], plan = _told(observed(store, START + _GRACE + 1), last)
    if not plan.decisions:
        raise SystemExit("nothing was replaced")
    return found


def _told(read: Observation, last: Snapshot | None = None) -> tuple[dict[str, float], Plan]:
    snapshot_s, plan_s, plan = measured(read, last)
    return {"planned_s": plan_s, "read_s": snapshot_s}, plan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    given = parser.parse_args()
    found = figures()
    if given.json:
        print(json.dumps(found))
        return
    for subject, values in found.items():
        print(f"{subject}: " + ", ".join(f"{key.removesuffix('_s')} {value:.3f} s" for key, value in values.items()))


if __name__ == "__main__":
    main()
