"""Two nodes and the scheduler on one store: what the owner asks for comes about, and what fails is taken back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from node.io.loop.daemon import NodeLoop
from node.io.run.cgroups import ControlGroups
from node.io.run.kinds import Processes
from node.io.run.packages import Packages
from node.io.run.runs import Runs
from node.io.run.users import Users
from tests.node.run.runhelp import alive, until
from tests.zone.scheduler.zonesim import at_work, found, put, serving
from zone.io.config.sqlite import Database, SqliteBackend
from zone.io.config.store import ConfigStore
from zone.io.scheduler.loop import Scheduler

NODES = ("attic", "barn")


class House:
    """The two nodes, each with a home of its own, and the store that both know."""

    def __init__(self, folder: Path, store: ConfigStore, nursery: trio.Nursery) -> None:
        self.folder, self.store, self.nursery = folder, store, nursery
        self.loops: dict[str, trio.CancelScope] = {}

    def home(self, node: str) -> Path:
        return self.folder / node

    def package(self, version: str, script: str) -> None:
        for node in NODES:
            folder = self.home(node) / "packages/web" / version
            folder.mkdir(parents=True)
            (folder / "serve").write_text(f"#!/bin/sh\n{script}\n")
            (folder / "serve").chmod(0o755)

    async def live(self, node: str, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        home = str(self.home(node))
        limits = ControlGroups(home)
        kinds = {"process": Processes(node, Packages(home), Users(home), limits)}
        with trio.CancelScope() as self.loops[node]:
            await NodeLoop(node, self.store, home, kinds, did=f"did:dev:{node}", net_id="lan").run(
                task_status=task_status
            )

    async def deploy(self, version: str, **more: Any) -> None:
        page = {"service": "web", "kind": "process", "image": f"web:{version}", "command": ["serve"], "memory": "16M"}
        page |= {"cpu": "0.01", "upgrade": {"settle": "0s"}, **more}
        await put(self.store, "services/web/spec", page)

    def versions(self) -> dict[str, list[str]]:
        """Of the processes of the service on each node."""
        return {node: sorted(_version(pid) for pid in alive(self.home(node), "web")) for node in NODES}

    async def until(self, key: str, holds: Callable[[Any], bool]) -> Any:
        with trio.fail_after(200):
            while not holds(value := await found(self.store, key)):  # noqa: ASYNC110 -- asked as anybody may ask
                await trio.sleep(0.01)
        return value

    async def until_serving(self, *nodes: str) -> None:
        await self.until("services/web/info", lambda info: serving(info) == list(nodes))


def _version(pid: int) -> str:
    """The last word of its command."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[-2].decode()
    except (OSError, IndexError):
        return ""


@asynccontextmanager
async def house_at(folder: Path, db: Path) -> AsyncIterator[House]:
    backend = SqliteBackend(Database(db))
    store = ConfigStore(backend)
    async with at_work(Scheduler("attic", store)), trio.open_nursery() as nursery:
        house = House(folder, store, nursery)
        for node in NODES:
            await put(house.store, f"nodes/{node}/intent", {})
            await nursery.start(house.live, node)
        yield house
        nursery.cancel_scope.cancel()
    await backend.aclose()
    for node in NODES:
        runs, limits = Runs(str(house.home(node))), ControlGroups(str(house.home(node)))
        for service in await runs.find():
            await runs.finish(service)
            await limits.leave(service)
        limits.close()


@pytest.fixture
async def house(open_folder: Path, tmp_path: Path) -> AsyncIterator[House]:
    async with house_at(open_folder, tmp_path / "zone.db") as found:
        yield found


async def test_a_version_is_rolled_out_and_one_that_fails_is_taken_back(house: House) -> None:
    for version in ("1", "2"):
        house.package(version, f"exec sleep 60{version}")
    house.package("3", "echo broken; exit 3")
    await house.deploy("1", replicas=2)
    await house.until_serving(*NODES)
    await until(lambda: house.versions() == {"attic": ["601"], "barn": ["601"]})
    await house.deploy("2", replicas=2)
    await until(lambda: house.versions() == {"attic": ["602"], "barn": ["602"]})
    await house.until_serving(*NODES)
    await house.until("services/web/placement", lambda said: said["good"]["image"] == "web:2")
    # However busy the machine is, it has ended before it was ready for so long.
    await house.deploy("3", replicas=2, upgrade={"settle": "200s"})
    memory = await house.until("services/web/placement", lambda said: said["failed"])
    assert memory["failed"]["why"].endswith(": exited with 3")
    await until(lambda: house.versions() == {"attic": ["602"], "barn": ["602"]})
    await house.until_serving(*NODES)


async def test_nodes_are_drained_scaled_to_lost_and_come_back(house: House) -> None:
    house.package("1", "exec sleep 601")
    await house.deploy("1", replicas=1, grace="1s")
    (home,) = serving(await house.until("services/web/info", lambda info: len(serving(info)) == 1))
    other = {"attic": "barn", "barn": "attic"}[home]
    await put(house.store, f"nodes/{home}/intent", {"drain": True})
    await house.until_serving(other)
    await until(lambda: house.versions() == {home: [], other: ["601"]})
    await put(house.store, f"nodes/{home}/intent", {})
    await house.deploy("1", replicas=2, grace="1s")
    await house.until_serving(*NODES)
    await house.deploy("1", replicas=1, grace="1s")
    (home,) = serving(await house.until("services/web/info", lambda info: len(serving(info)) == 1))
    other = {"attic": "barn", "barn": "attic"}[home]
    # What runs on a node that is silent goes on there; when it is back, one is enough.
    house.loops[home].cancel()
    await house.until_serving(other)
    await until(lambda: house.versions() == {home: ["601"], other: ["601"]})
    await house.nursery.start(house.live, home)
    await until(lambda: sorted(map(len, house.versions().values())) == [0, 1])
