"""The scheduler on real stores: it acts on changes, one leads at a time, and whoever leads goes by its own clock."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
import trio
from configstores import Etcd, Kind, Sqlite
from etcdserver import NAMESPACE, Cluster

from tests.zone.scheduler.cluster import page
from tests.zone.scheduler.zonesim import MOST, at_work, delete, deploy, found, machines, put, serving, until
from zone.config.faults import ConfigError
from zone.config.keys import At, Below
from zone.config.model import AtRevision, Set, Transaction
from zone.io.config.store import ConfigStore
from zone.io.scheduler.leadership import TTL
from zone.io.scheduler.loop import Scheduler
from zone.scheduler.observe import LEADER, VETOES, observe, transaction_of
from zone.scheduler.plan import Plan
from zone.scheduler.replay import read_replay
from zone.scheduler.schedule import schedule
from zone.scheduler.snapshot import Snapshot, snapshot_of

ROOT = Path(__file__).parents[3]


@pytest.fixture(params=[Sqlite, Etcd], ids=lambda kind: kind.name, scope="module")
def running(request, tmp_path_factory):
    with request.param(tmp_path_factory.mktemp(request.param.name)) as kind:
        yield kind


@pytest.fixture
async def store(running: Kind) -> AsyncIterator[ConfigStore]:
    running.fresh()
    backend = running.open()
    yield ConfigStore(backend)
    await backend.aclose()


async def until_decided(scheduler: Scheduler) -> Plan:
    with trio.fail_after(MOST):
        while True:
            if (plan := scheduler.plan) is not None:
                return plan
            await trio.sleep(0.02)


def start_process(name: str, members: list[str]) -> subprocess.Popen[bytes]:
    program = str(Path(__file__).with_name("schedulerprocess.py"))
    return subprocess.Popen([sys.executable, program, name, NAMESPACE, *members], env={"PYTHONPATH": str(ROOT)})


async def test_a_page_becomes_a_service_that_clients_find(store, capsys):
    async with machines(store, "attic", "barn"), at_work(Scheduler("attic", store)):
        await until(store, LEADER, lambda value: value == {"node": "attic"})
        times = []
        for number in range(5):
            name = f"web{number}"
            began = time.monotonic()
            await deploy(store, name, ports={"http": "auto"})
            await until(store, f"services/{name}/info", lambda info: len(serving(info)) == 1)
            times.append(time.monotonic() - began)
        with capsys.disabled():
            print(
                f"\n  from a page to ready and told: {sorted(times)[2] * 1000:.0f} ms, at most {max(times) * 1000:.0f}"
            )
        await delete(store, "services/web0/spec")
        await until(store, "services/web0/info", lambda info: info is None)


async def test_a_drained_node_hands_over(store, capsys):
    async with machines(store, "attic", "barn"), at_work(Scheduler("attic", store)):
        await deploy(store, "web")
        (home,) = serving(await until(store, "services/web/info", lambda info: bool(serving(info))))
        other = {"attic": "barn", "barn": "attic"}[home]
        began = time.monotonic()
        await put(store, f"nodes/{home}/intent", {"drain": True})
        await until(store, "services/web/info", lambda info: serving(info) == [other])
        with capsys.disabled():
            print(f"\n  from drain to served elsewhere alone: {(time.monotonic() - began) * 1000:.0f} ms")


async def test_one_leads_and_hands_over_when_it_ends(store):
    schedulers = [Scheduler(f"ood{number}", store) for number in range(3)]
    async with at_work(*schedulers) as scopes:
        for left in range(3, 0, -1):
            leader = (await until(store, LEADER, bool))["node"]
            number = int(leader.removeprefix("ood"))
            await until_decided(schedulers[number])
            assert [one.plan is not None for one in schedulers] == [one is schedulers[number] for one in schedulers]
            scopes[number].cancel()
            if left > 1:
                await until(store, LEADER, lambda value, leader=leader: bool(value) and value["node"] != leader)
        await until(store, LEADER, lambda value: value is None)


async def test_who_was_replaced_writes_nothing(store):
    """A leader that slept through its lease comes back with a plan of then."""
    await deploy(store, "web")
    async with machines(store, "attic"):
        await put(store, LEADER, {"node": "sleeper"})
        reading = await store.read([Below()])
        sleeper = next(entry.revision for entry in reading.entries if entry.key == LEADER)
        plan = schedule(snapshot_of(observe(1e9, (LEADER, sleeper), reading, None)))
        assert plan.decisions
        await delete(store, LEADER)
        async with at_work(Scheduler("attic", store)):
            await until(store, "services/web/info", lambda info: bool(serving(info)))
            with pytest.raises(ConfigError, match="read again"):
                await store.transact(transaction_of(plan.commit))


async def test_who_is_deposed_begins_anew(store):
    scheduler = Scheduler("attic", store)
    async with machines(store, "attic"), at_work(scheduler):
        before = await until(store, LEADER, bool)
        await until_decided(scheduler)
        revision = (await store.get(LEADER)).revision
        await store.transact(
            Transaction((Set(LEADER, json.dumps({"node": "usurper"})),), (AtRevision(LEADER, revision),))
        )
        with trio.fail_after(MOST):
            while True:
                if scheduler.plan is None:
                    break
                await trio.sleep(0.02)
        await deploy(store, "web")
        await delete(store, LEADER)
        assert await until(store, LEADER, bool) == before
        await until(store, "services/web/info", lambda info: bool(serving(info)))


async def test_a_wrong_clock_moves_nothing(store):
    async with machines(store, "attic", "barn"):
        async with at_work(Scheduler("attic", store)):
            await deploy(store, "web")
            await until(store, "services/web/info", lambda info: bool(serving(info)))
            await until(store, "services/web/placement", lambda memory: bool(memory))
        for wall in (0.0, 4e9):
            scheduler = Scheduler("barn", store, wall=lambda wall=wall: wall)
            async with at_work(scheduler):
                assert not (await until_decided(scheduler)).decisions


async def test_a_veto_holds_everything_up_and_is_told(store):
    wrong = ["too much at once"]

    def check(snapshot: Snapshot, plan: Plan) -> str:
        return wrong[0] if plan.commit.writes else ""

    scheduler = Scheduler("attic", store, [check])
    async with machines(store, "attic"), at_work(scheduler):
        await deploy(store, "web")
        note = await until(
            store, VETOES, lambda note: bool(note) and ["place", "web"] in [d[:2] for d in note["decisions"]]
        )
        assert note["vetoes"] == wrong
        assert await found(store, "nodes/attic/config/web") is None
        wrong[0] = ""
        await deploy(store, "db")
        await until(store, "services/web/info", lambda info: bool(serving(info)))
        assert await until(store, VETOES, lambda note: note is None) is None


async def test_the_last_round_can_be_made_again(store):
    scheduler = Scheduler("attic", store)
    assert scheduler.replay() is None
    async with machines(store, "attic"), at_work(scheduler):
        await deploy(store, "web", env={"PASSWORD": "rosebud"})
        await until(store, "services/web/info", lambda info: bool(serving(info)))
        file = scheduler.replay()
        assert file is not None and b"rosebud" not in file
        assert schedule(snapshot_of(read_replay(file))).as_bytes()


async def test_a_store_that_was_away_finds_everybody_patient(tmp_path):
    """Whoever led steps down meanwhile, gives no node up for its silence, and leads again."""
    cluster = Cluster(tmp_path)
    try:
        cluster.start()
        await trio.to_thread.run_sync(cluster.wait_for_quorum)
        backend = cluster.open()
        store = ConfigStore(backend)
        scheduler = Scheduler("attic", store)
        await deploy(store, "web")
        async with at_work(scheduler):
            async with machines(store, "attic"):
                await until(store, "services/web/info", lambda info: bool(serving(info)))
            cluster.signal(signal.SIGSTOP, 0)
            with trio.fail_after(MOST):
                while True:
                    if scheduler.plan is None:
                        break
                    await trio.sleep(0.02)
            cluster.signal(signal.SIGCONT, 0)
            plan = await until_decided(scheduler)
            assert [(decision.action, decision.node) for decision in plan.decisions if decision.action == "stop"] == []
            assert await found(store, "nodes/attic/config/web")
        await backend.aclose()
    finally:
        cluster.close()


async def test_a_burst_is_few_rounds(store):
    scheduler = Scheduler("attic", store)
    async with machines(store, "attic", cpu_num=64), at_work(scheduler):
        await until_decided(scheduler)
        before = (await store.read([])).revision
        actions = tuple(Set(f"services/web{n}/spec", json.dumps(page(f"web{n}"))) for n in range(20))
        await store.transact(Transaction(actions))
        for number in range(20):
            await until(store, f"services/web{number}/info", lambda info: bool(serving(info)))
        reading = await store.read([Below("nodes/attic/config")])
        assert len({entry.revision for entry in reading.entries}) == 1 and reading.revision > before


async def test_the_leader_is_killed_and_another_goes_on(tmp_path, capsys):
    cluster = Cluster(tmp_path, members=3)
    children: dict[str, subprocess.Popen[bytes]] = {}
    try:
        cluster.start()
        await trio.to_thread.run_sync(cluster.wait_for_quorum)
        places = [f"127.0.0.1:{port}" for port in cluster.ports]
        for number, name in enumerate(("ood0", "ood1", "ood2")):
            order = places[number:] + places[:number]
            children[name] = start_process(name, order)
        backend = cluster.open()
        store = ConfigStore(backend)
        async with machines(store, "attic", "barn"):
            await deploy(store, "web")
            await until(store, "services/web/info", lambda info: bool(serving(info)))
            leader = (await found(store, LEADER))["node"]
            number = int(leader.removeprefix("ood"))
            began = time.monotonic()
            children.pop(leader).kill()
            await deploy(store, "db")
            await until(store, "services/db/info", lambda info: bool(serving(info)))
            with capsys.disabled():
                print(f"\n  leader killed to the next service ready: {time.monotonic() - began:.1f} s (lease {TTL} s)")
            leader = (await found(store, LEADER))["node"]
            assert leader in children
            # And now a machine is gone whole: its scheduler and its member of etcd.
            began = time.monotonic()
            cluster.signal(signal.SIGKILL, number)
            children.pop(leader).kill()
            with trio.fail_after(MOST):
                while True:
                    with suppress(ConfigError):
                        await deploy(store, "mail")
                        break
            await until(store, "services/mail/info", lambda info: bool(serving(info)))
            with capsys.disabled():
                print(f"  the same, and a member of etcd: {time.monotonic() - began:.1f} s")
            reading = await store.read([At("nodes/attic/config/web"), At("nodes/barn/config/web")])
            assert len(reading.entries) == 1
        await backend.aclose()
    finally:
        for child in children.values():
            child.kill()
        cluster.close()
