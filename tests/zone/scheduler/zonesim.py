"""Machines that live on a real store: each keeps its lease, follows its items, and says that they are ready."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import trio

from tests.zone.scheduler.cluster import GIB, page
from zone.config.faults import Code, ConfigError
from zone.config.keys import Below
from zone.config.model import Delete, Set, Transaction
from zone.io.config.store import ConfigStore
from zone.io.scheduler.loop import Scheduler
from zone.scheduler.observe import alive_key

MOST: float = 60.0
"""Seconds after which what is waited for is taken for lost."""


async def put(store: ConfigStore, key: str, plain: object, lease: int = 0) -> None:
    await store.transact(Transaction((Set(key, json.dumps(plain), lease),)))


async def delete(store: ConfigStore, key: str) -> None:
    await store.transact(Transaction((Delete(key),)))


async def deploy(store: ConfigStore, name: str, **said: Any) -> None:
    await put(store, f"services/{name}/spec", page(name, **said))


async def found(store: ConfigStore, key: str) -> Any:
    """The value of ``key``; None if it is absent."""
    try:
        return json.loads((await store.get(key)).value or "null")
    except ConfigError as fault:
        if fault.code is not Code.MISSING:
            raise
        return None


async def until(store: ConfigStore, key: str, holds: Callable[[Any], bool]) -> Any:
    """The value of ``key`` as soon as it is as it should be."""
    with trio.fail_after(MOST):
        while True:
            with suppress(ConfigError):
                if holds(value := await found(store, key)):
                    return value
            await trio.sleep(0.02)


def serving(info: Any) -> list[str]:
    """The nodes that ``services/<s>/info`` leads to."""
    return sorted(info["node_list"]) if info else []


class Machine:
    """A node; ``items`` are those that it has."""

    def __init__(self, name: str, store: ConfigStore, facts: dict[str, Any]) -> None:
        self.name, self._store = name, store
        self._facts = {"cpu_num": 4, "total_mem": 4 * GIB, "did": f"did:dev:{name}", "net_id": "lan1", **facts}
        self._said: dict[str, int] = {}

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        lease = await self._store.grant(60)
        await put(self._store, f"devices/{self.name}/info", self._facts, lease)
        await put(self._store, alive_key(self.name), {}, lease)
        task_status.started()
        revision = (await self._store.read([])).revision
        await self._look(lease)
        async with self._store.watch(Below(f"nodes/{self.name}/config"), revision) as changes:
            async for _ in changes:
                await self._look(lease)

    async def _look(self, lease: int) -> None:
        for entry in (await self._store.read([Below(f"nodes/{self.name}/config")])).entries:
            item, service = json.loads(entry.value or ""), entry.key.rpartition("/")[2]
            if self._said.get(service) != item["epoch"]:
                self._said[service] = item["epoch"]
                state = "ready" if item["target"] == "running" else "stopped"
                report = {"state": state, "epoch": item["epoch"], "since": trio.current_time()}
                await put(self._store, f"services/{service}/instances/{self.name}", report, lease)


@asynccontextmanager
async def machines(store: ConfigStore, *names: str, **facts: Any) -> AsyncIterator[None]:
    """They belong to the zone, and are up."""
    async with trio.open_nursery() as nursery:
        for name in names:
            await put(store, f"nodes/{name}/intent", {})
            await nursery.start(Machine(name, store, facts).run)
        yield
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def at_work(*schedulers: Scheduler) -> AsyncIterator[list[trio.CancelScope]]:
    """They run; each ends with its scope."""
    scopes = []

    async def run(scheduler: Scheduler, scope: trio.CancelScope) -> None:
        with scope:
            await scheduler.run()

    async with trio.open_nursery() as nursery:
        for scheduler in schedulers:
            scopes.append(trio.CancelScope())
            nursery.start_soon(run, scheduler, scopes[-1])
        yield scopes
        nursery.cancel_scope.cancel()
