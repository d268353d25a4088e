"""Bad days for a zone of three OODs while clients write: what was acknowledged is there, in the order it was said.

Five minutes of it here; ``make chaos ARGS="--minutes 30 --seed 7"`` for more.  The same seed brings the same faults and
the same clients, but not the same moments.

Judged are promises that hold on any day (``tests/zone/chaos/history.py``), and on a good one: when all faults are over,
everybody is in the zone, writes are taken everywhere, watches have told everything, and what is to run runs, once.
"""

from __future__ import annotations

import json
import pickle
import random
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import trio
from chaos_clients import BELOW, Notebook, Session, Watcher, Worker, written_log
from chaos_zone import Victims, victims
from netnslab import Lab, need
from netnslab.process import CommandFailed, until
from zone_world import NAMES, ZONE, ZoneWorld

from cyfs_ns.identity.keys import read_pem
from tests.zone.chaos.faultplan import Fault, plan
from tests.zone.chaos.history import Outcome, Put, contradictions
from zone.etcd.seats import CLIENT
from zone.krpc.faults import KrpcFault

WORKERS = 3
"""Clients of each OOD that write."""
HANG = 180.0
"""Seconds for what has to come about once all is well; only who hangs takes so long."""
SERVICES = {"chaos-one": 1, "chaos-all": 3}
"""What runs, and how often."""
PROGRAM = """#!/usr/bin/env python3
import http.server, os, pathlib, sys
pathlib.Path("/proc/self/comm").write_text(pathlib.Path(sys.argv[0]).name)
address = "127.0.0.1", int(os.environ["PORT_HTTP"])
http.server.HTTPServer(address, http.server.SimpleHTTPRequestHandler).serve_forever()
"""


def page(name: str, replicas: int) -> dict[str, Any]:
    return {
        "service": name,
        "kind": "process",
        "image": f"{name}:1",
        "command": [name],
        "ports": {"http": "auto"},
        "health": {"port": "http", "every": "1s"},
        "replicas": replicas,
        "grace": "5s",
        "upgrade": {"settle": "0s"},
    }


@pytest.mark.timeout(0)
async def test_what_was_acknowledged_outlives_bad_days(lab: Lab, request: pytest.FixtureRequest) -> None:
    need("cc", "nft")
    minutes = float(request.config.getoption("--minutes"))
    said = request.config.getoption("--seed")
    seed = random.randrange(10**6) if said is None else int(said)
    faults = plan(seed, minutes * 60, NAMES)
    print(f"\n  seed {seed}: {len(faults)} faults in {minutes:g} minutes")
    world = ZoneWorld(lab, {"log-level": "info"})
    async with world.up(timeout=minutes * 60 + 6 * HANG):
        all_of_them = await victims(world)
        for victim in all_of_them.each.values():
            for name in SERVICES:
                _install(victim.ood.node, name)
            victim.start()
        await world.booted(timeout=HANG)
        for name, replicas in SERVICES.items():
            await _deploy(world, name, replicas)
        owner = read_pem((world.owner / "identity/owner.pem").read_bytes())
        notebook = Notebook()
        sessions = [Session(name, world[name].home / "kapi.sock", owner, ZONE, notebook) for name in NAMES]
        watchers = [Watcher(session, below) for session in sessions for below in (BELOW, f"{BELOW}/r")]
        first = await _read(sessions[0])
        workers = [
            Worker(session, f"{session.name}{letter}", seed) for session in sessions for letter in "abc"[:WORKERS]
        ]
        try:
            async with trio.open_nursery() as watching:
                for watcher in watchers:
                    watching.start_soon(watcher.run)
                async with trio.open_nursery() as nursery:
                    for victim in all_of_them.each.values():
                        nursery.start_soon(victim.attend)
                    await _live(workers, faults, all_of_them, notebook)
                    await _well(world, sessions)
                    nursery.cancel_scope.cancel()
                last = await _rest(sessions)
                told = partial(_have_told, watchers, last)
                await until("watches have told everything", told, timeout=HANG)
                watching.cancel_scope.cancel()
            for session in sessions:
                await _read(session)
            for name, victim in all_of_them.each.items():
                notebook.told.append(await written_log(f"unix:{victim.member / CLIENT}", name, first, last))
            found = contradictions(notebook.history())
            found += [text for victim in all_of_them.each.values() for text in victim.ended]
            assert not found, "\n".join(found)
            await _run_once(world)
        except BaseException:
            for name in NAMES:
                print(f"--- {name}\n{world[name].said}")
            raise
        finally:
            if (place := request.config.getoption("--keep-history")) is not None:
                await trio.Path(place).write_bytes(pickle.dumps(notebook.history()))
            with trio.CancelScope(shield=True):
                for session in sessions:
                    await session.aclose()
            print(notebook)


async def _live(workers: Sequence[Worker], faults: Sequence[Fault], victims: Victims, notebook: Notebook) -> None:
    """Until all faults are over, and for a while after."""

    async def happen(fault: Fault) -> None:
        await trio.sleep(fault.at)
        print(f"  {fault}; {notebook.count(Outcome.DONE)} writes so far")
        await victims.suffer(fault)

    async with trio.open_nursery() as working:
        for worker in workers:
            working.start_soon(worker.run)
        async with trio.open_nursery() as happening:
            for fault in faults:
                happening.start_soon(happen, fault)
        await trio.sleep(5)
        working.cancel_scope.cancel()
    notebook.rest()


async def _well(world: ZoneWorld, sessions: Sequence[Session]) -> None:
    """Until everybody is in the zone and takes writes."""
    await world.booted(timeout=HANG)
    for session in sessions:
        await _acknowledged(session, "well")


def _have_told(watchers: Sequence[Watcher], last: int) -> bool:
    return all(watcher.through >= last for watcher in watchers)


async def _rest(sessions: Sequence[Session]) -> int:
    """Until no lease is left and the last write is acknowledged; its revision."""
    with trio.fail_after(HANG):
        while True:
            with suppress(KrpcFault):
                if not (await sessions[0].read(f"{BELOW}/l")).entries:
                    break
            await trio.sleep(0.5)
    return max([await _acknowledged(session, "end") for session in sessions])


def _told(watchers: Sequence[Watcher], last: int) -> bool:
    return all(watcher.through >= last for watcher in watchers)


async def _acknowledged(session: Session, word: str) -> int:
    """A write that was, in the end; its revision."""
    with trio.fail_after(HANG):
        for number in count():
            with suppress(KrpcFault):
                if await session.write(f"{session.name}-{word}-{number}", Put(f"{BELOW}/{word}/{session.name}")):
                    break
            await trio.sleep(0.5)
    return session.notebook.writes[-1].revision


async def _read(session: Session) -> int:
    """Everything; the revision."""
    with trio.fail_after(HANG):
        while True:
            try:
                return (await session.read(BELOW)).revision
            except KrpcFault:
                await trio.sleep(0.5)


def _install(node: Path, name: str) -> None:
    folder = node / "packages" / name / "1"
    folder.mkdir(parents=True)
    (folder / name).write_text(PROGRAM)
    (folder / name).chmod(0o755)


async def _deploy(world: ZoneWorld, name: str, replicas: int) -> None:
    body = {"page": json.dumps(page(name, replicas))}
    with trio.fail_after(HANG):
        while True:
            try:
                await world["ood1"].gateway.api("/cyfs/modules/zone/deploy", method="POST", body=body)
                return
            except Exception:
                await trio.sleep(0.5)


async def _why(world: ZoneWorld, service: str) -> dict[str, Any] | None:
    """As the OOD that schedules says it; None: just now none does."""
    for name in NAMES:
        with suppress(CommandFailed):
            return dict(await world[name].told("zone", "why", service))
    return None


async def _run_once(world: ZoneWorld) -> None:
    """Until on each machine runs what the zone has placed there, once, and nothing else."""
    seen: dict[str, Any] = {}

    async def does() -> bool:
        for name, replicas in SERVICES.items():
            why = await _why(world, name)
            if why is None:
                return False
            placed = sorted(node for node, state, _ in why["standing"] if state == "ready")
            running = []
            for node in NAMES:
                count = await world[node].host.run("pgrep", "-xc", name, check=False)
                running += [node] * int(count.out)
            seen[name] = {"standing": why["standing"], "running": running}
            if len(placed) != replicas or running != placed:
                return False
        return True

    try:
        await until("what is to run runs, once", does, timeout=HANG)
    except CommandFailed as late:
        raise AssertionError(f"{late}: {seen}") from late
