"""What holds for every plan, whatever happens in a zone: looked for by chance, and checked by plainer means.

A zone of four machines lives through events drawn by chance: pages come, change and go, machines fall silent, come
back, are drained, shrink and leave.  After every round the rules of the package are checked against the store, and
against what physically runs.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.zone.scheduler.cluster import GIB, Cluster
from zone.scheduler.plan import Bar, Plan
from zone.scheduler.replay import read_replay, replay_bytes
from zone.scheduler.schedule import LEASE, schedule
from zone.scheduler.service import ServiceSpec
from zone.scheduler.snapshot import Claim, Node, Observation, Snapshot, snapshot_of

NODES = ("n0", "n1", "n2", "n3")
SERVICES = ("s0", "s1", "s2", "s3", "s4")
WRITERS = {"s3", "s4"}
"""Have volumes and one replica; of the others some have volumes on some pages."""
BAD = "bad:1"

pages = st.fixed_dictionaries(
    {
        "cpu": st.sampled_from(("0.25", "1", "1.5", "3")),
        "memory": st.sampled_from(("128M", "1G", "3G")),
        "replicas": st.integers(0, 4),
        "grace": st.sampled_from((20, 60)),
        "image": st.sampled_from(("good:1", "good:1", "good:2", BAD)),
        "upgrade": st.fixed_dictionaries(
            {"at-once": st.integers(1, 2), "settle": st.just(10), "deadline": st.just(60)}
        ),
    },
    optional={
        "labels": st.just({"disk": "ssd"}),
        "apart": st.lists(st.sampled_from(("s5", "s6", "s0")), max_size=2, unique=True),
        "near": st.lists(st.sampled_from(SERVICES), max_size=2, unique=True),
        "spread": st.just("room"),
        "ports": st.sampled_from(({"http": "auto"}, {"http": 80}, {"http": 80, "x": "auto"})),
        "volumes": st.just({"data": "/data"}),
    },
)
nodes, services = st.sampled_from(NODES), st.sampled_from(SERVICES)
events = st.one_of(
    st.tuples(st.just("deploy"), services, pages),
    st.tuples(st.just("deploy"), services, pages),
    st.tuples(st.just("remove"), services),
    st.tuples(st.sampled_from(("down", "up", "drain", "undrain", "ssd", "shrink", "grow", "leave", "join")), nodes),
    st.tuples(st.just("wait"), st.integers(1, 6)),
    st.tuples(st.just("take over"), st.sampled_from((-100_000.0, -30.0, 0.0, 30.0, 100_000.0))),
)


def happen(zone: Cluster, event: tuple[Any, ...]) -> None:
    match event:
        case "deploy", name, said:
            said = said | {"apart": [other for other in said.get("apart", ()) if other != name]}
            if name in WRITERS:
                said |= {"replicas": min(said["replicas"], 1), "volumes": {"data": "/data"}}
            zone.deploy(name, **said)
        case "remove", name:
            if f"services/{name}/spec" in zone.store.entries:
                zone.store.delete(f"services/{name}/spec")
        case "take over", ahead:
            zone.take_over(ahead)
        case "wait", steps:
            for _ in range(steps):
                zone.now += 5
                checked_round(zone)
        case "join", name:
            if name not in zone.machines:
                zone.join(name, labels={"room": name[1]})
        case what, name if name in zone.machines:
            intent = zone.store.get(f"nodes/{name}/intent")
            if what in ("down", "up"):
                zone.machines[name].is_up = what == "up"
            elif what in ("drain", "undrain"):
                zone.intend(name, **intent | {"drain": what == "drain"})
            elif what == "ssd":
                zone.intend(name, labels={"disk": "ssd", "room": name[1]})
            elif what in ("shrink", "grow"):
                zone.machines[name].total_mem = (1 if what == "shrink" else 4) * GIB
                zone.store.put(f"devices/{name}/info", {"cpu_num": 4, "total_mem": zone.machines[name].total_mem})
            elif what == "leave":
                zone.leave(name)


def grown_zone(lags: list[int]) -> Cluster:
    zone = Cluster()
    zone.bad.add(BAD)
    for name, lag, wrong in zip(NODES, lags, (0.0, 3600.0, -3600.0, 1e6), strict=True):
        zone.join(name, lag=lag, ahead=wrong, labels={"disk": "ssd", "room": "east"} if lag else {"room": name[1]})
    return zone


def checked_round(zone: Cluster) -> Plan:
    """One step of the cluster, and everything that must hold around it."""
    before = zone.snapshot()
    plan = zone.step(0)
    after = zone.snapshot()
    check_new_items(before, after)
    check_writers(zone, after)
    check_physical_room(zone)
    if plan.look_again == zone.clock:
        return plan  # it is only the beginning of what is to be done
    check_accounts(after, plan)
    again = schedule(after)
    assert not again.commit.writes, again.decisions
    assert again.look_again == plan.look_again or plan.commit.writes
    return plan


def check_new_items(before: Snapshot, after: Snapshot) -> None:
    for name, node in after.nodes.items():
        old = before.nodes[name].items
        taken = {service for service in node.items if service in old}
        for service, item in node.items.items():
            if service in taken or item.target == "stopped":
                continue
            taken.add(service)
            spec = after.services[service].spec
            assert spec is not None
            assert not node.drain
            assert after.now - (node.seen or 0) < LEASE
            assert set(spec.labels) <= set(node.labels)
            assert not set(spec.apart) & node.items.keys()
        left = left_on(after, node)
        for service, item in node.items.items():
            if item != old.get(service) and item.target == "running":
                had = old[service].work if service in old else None
                assert left.cpu >= 0 or (had and item.work.cpu <= had.cpu)
                assert left.memory >= 0 or (had and item.work.memory <= had.memory)
        ports = [number for item in node.items.values() for _, number in item.ports]
        assert len(set(ports)) == len(ports)


def left_on(snapshot: Snapshot, node: Node) -> Claim:
    """Room that no item has, not even one that is being replaced or stopped, and all the ports that are taken."""
    left = Claim(node.cpu, node.memory, frozenset())
    for service, item in node.items.items():
        report = snapshot.services[service].reports.get(node.name)
        claim = item.claim
        if item.before is not None and (report is None or report.epoch != item.epoch):
            claim |= item.before
        left = Claim(left.cpu - claim.cpu, left.memory - claim.memory, left.ports | claim.ports)
    return left


def check_writers(zone: Cluster, after: Snapshot) -> None:
    """A single writer is never there twice, in the store or in the flesh, and only where its volumes are."""
    for name in WRITERS & after.services.keys():
        held = [node.name for node in after.nodes.values() if name in node.items]
        assert len(held) <= 1
        assert len(zone.runs(name)) <= 1
        if after.services[name].spec is not None:
            assert set(held) <= set(after.services[name].memory.pins)


def check_physical_room(zone: Cluster) -> None:
    for machine in zone.machines.values():
        assert sum(running.work.cpu for running in machine.running.values()) <= machine.cpu_num * 1000


def check_accounts(after: Snapshot, plan: Plan) -> None:
    """Nothing is called missing that a plainer look finds a place for, and every reason is true."""
    for name, account in plan.accounts.items():
        service = after.services[name]
        if account.missing == 0 or service.spec is None:
            continue
        spec, held = service.spec, {n for n, node in after.nodes.items() if name in node.items}
        work = service.memory.good if service.memory.failed and service.memory.good else spec.work
        told = {refusal.node: refusal.bar for refusal in account.refusals}
        homes = service.memory.pins[: spec.replicas]
        staying = {n for n in held if after.nodes[n].items[name].target == "running"}
        if Bar.ELSEWHERE in told.values():
            assert work.volumes
            continue
        for node in after.nodes.values():
            if work.volumes and len(homes) == spec.replicas and node.name not in homes:
                continue
            true = true_bars(after, spec, replace(spec, work=work), node, name)
            if node.name in told:
                assert told[node.name] in true, (name, node.name, told[node.name], true)
            else:
                assert node.name in staying, (name, node.name, true)


def true_bars(after: Snapshot, spec: ServiceSpec, wanted: ServiceSpec, node: Node, name: str) -> set[Bar]:
    """Everything that keeps ``wanted`` off a node, found the long way."""
    foes = set(spec.apart) | {
        other for other, known in after.services.items() if known.spec is not None and name in known.spec.apart
    }
    left = left_on(after, node)
    return {
        bar
        for bar, holds in {
            Bar.UNREADABLE: bool(node.fault),
            Bar.SILENT: node.seen is None or after.now >= node.seen + LEASE,
            Bar.DRAINED: node.drain,
            Bar.CAPACITY: not node.cpu or not node.memory,
            Bar.LABELS: not set(spec.labels) <= set(node.labels),
            Bar.TAKEN: name in node.items,
            Bar.APART: not foes.isdisjoint(node.items),
            Bar.CPU: wanted.work.cpu > left.cpu,
            Bar.MEMORY: wanted.work.memory > left.memory,
            Bar.PORTS: any(number in left.ports for _, number in wanted.work.ports if number),
        }.items()
        if holds
    }


calm = settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.too_slow])
lags = st.lists(st.integers(0, 2), min_size=4, max_size=4)


@calm
@given(lags, st.lists(events, max_size=15))
def test_the_rules_hold_and_everything_comes_to_rest(lag: list[int], life: list[tuple[Any, ...]]) -> None:
    live(lag, life)


@calm
@given(lags, st.lists(events, max_size=15), st.integers(12, 40))
def test_they_hold_after_every_part_of_what_one_commit_cannot_hold(
    lag: list[int], life: list[tuple[Any, ...]], most: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zone.scheduler.schedule.MOST_ACTIONS", most)
        live(lag, life)


def live(lag: list[int], life: list[tuple[Any, ...]]) -> None:
    zone = grown_zone(lag)
    for event in life:
        happen(zone, event)
        zone.now += 5
        checked_round(zone)
    for machine in zone.machines.values():
        machine.is_up = True
    quiet = 0
    for _ in range(300):
        zone.now += 5
        quiet = 0 if checked_round(zone).commit.writes else quiet + 1
        if quiet == 20:
            break
    assert quiet == 20
    at_rest(zone)


def at_rest(zone: Cluster) -> None:
    plan, snapshot = zone.plan(), zone.snapshot()
    for node in snapshot.nodes.values():
        assert not node.drain or not node.items
        assert node.items.keys() == zone.machines[node.name].running.keys()
        assert sum(item.work.memory for item in node.items.values()) <= node.memory
    for name, service in snapshot.services.items():
        running = [node for node in snapshot.nodes.values() if name in node.items]
        account = plan.why(name)
        assert len(running) + account.missing == (service.spec.replicas if service.spec else 0)
        told = service.info["node_list"] if isinstance(service.info, dict) else {}
        ready = {s.node for s in account.standing if s.state == "ready"}
        assert set(told) == ready
        if service.spec and service.memory.good:
            assert {node.items[name].work.image for node in running} <= {"good:1", "good:2", BAD}


@calm
@given(lags, st.lists(events, max_size=8), st.randoms(use_true_random=False))
def test_the_same_observed_gives_the_same_bytes_in_whatever_order(
    lag: list[int], life: list[tuple[Any, ...]], dice: random.Random
) -> None:
    zone = grown_zone(lag)
    for event in life:
        happen(zone, event)
    zone.now += 5
    observed = zone.observed()
    decided = schedule(snapshot_of(observed)).as_bytes()
    shuffled = replace(observed, entries=mixed(observed.entries, dice), seen=mixed(observed.seen, dice))
    assert schedule(snapshot_of(shuffled)).as_bytes() == decided
    snapshot = snapshot_of(observed)
    stirred = replace(
        snapshot,
        nodes={
            name: replace(node, items=mixed(node.items, dice)) for name, node in mixed(snapshot.nodes, dice).items()
        },
        services={
            name: replace(service, reports=mixed(service.reports, dice))
            for name, service in mixed(snapshot.services, dice).items()
        },
        revisions=mixed(snapshot.revisions, dice),
    )
    assert schedule(stirred).as_bytes() == decided
    assert schedule(snapshot_of(read_replay(replay_bytes(observed)))).as_bytes() == decided


def mixed(given: Any, dice: random.Random) -> dict[str, Any]:
    pairs = list(given.items())
    dice.shuffle(pairs)
    return dict(pairs)


@calm
@given(lags, st.lists(events, max_size=8), st.floats(0, 1))
def test_nothing_is_decided_before_it_said_to_look_again(
    lag: list[int], life: list[tuple[Any, ...]], share: float
) -> None:
    zone = grown_zone(lag)
    for event in life:
        happen(zone, event)
        zone.now += 5
        checked_round(zone)
    observed: Observation = zone.observed()
    for _ in range(6):
        again = schedule(snapshot_of(observed)).look_again
        if again is None:
            later = observed.now + 1e6
            assert not schedule(snapshot_of(replace(observed, now=later))).commit.writes
            return
        assert again > observed.now
        meanwhile = observed.now + (again - observed.now) * share
        if meanwhile < again:
            assert not schedule(snapshot_of(replace(observed, now=meanwhile))).commit.writes
        observed = replace(observed, now=again)
        if schedule(snapshot_of(observed)).commit.writes:
            return
