"""What the scheduler tells is told by every OOD, whichever of them leads."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.zone.boot.zones import sign
from tests.zone.scheduler.zonesim import at_work, deploy, machines, until
from zone.hub.subjects import machine
from zone.io.config.sqlite import Database, SqliteBackend
from zone.io.config.store import ConfigStore
from zone.io.krpc.dispatch import Dispatcher
from zone.io.krpc.transport import LocalTransport
from zone.io.operator import OPERATOR
from zone.io.scheduler import service
from zone.io.scheduler.loop import Scheduler
from zone.io.scheduler.service import SERVICE, SchedulerService
from zone.krpc.caller import NOBODY, Caller
from zone.krpc.faults import Code, KrpcFault
from zone.krpc.service import CallContext
from zone.krpc.wire import Single
from zone.scheduler.observe import LEADER

ZONE = sign("ood1", "ood2", nodes=["pi"]).of("ood1").zone
"""``ood1`` leads, ``ood2`` stands by."""


def device(name: str) -> Caller:
    found = machine(ZONE, ZONE.devices[name].key)
    assert found is not None
    return found


class House:
    """Both OODs, with one store; each reaches the other as a tunnel does."""

    def __init__(self, store: ConfigStore) -> None:
        self.schedulers = {name: Scheduler(name, store) for name in ("ood1", "ood2")}
        self.doors = {name: Dispatcher() for name in self.schedulers}
        self.is_apart = False
        for name, scheduler in self.schedulers.items():
            told = SchedulerService(name, scheduler, store, lambda: ZONE, self._reach_from(name), OPERATOR)
            self.doors[name].register(SERVICE, told)

    def _reach_from(self, near: str):
        @asynccontextmanager
        async def reach(far: str) -> AsyncIterator[LocalTransport]:
            if self.is_apart:
                raise KrpcFault(Code.UNAVAILABLE, "the way is cut")
            yield LocalTransport(self.doors[far], device(near))

        return reach

    async def ask(self, name: str, method: str, caller: Caller = OPERATOR, **params):
        context = CallContext(seconds=60)
        return await self.doors[name].answer(caller, SERVICE, Single(method, params), context)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    backend = SqliteBackend(Database(tmp_path / "config.db"))
    store = ConfigStore(backend)
    async with machines(store, "ood1", "ood2"):
        made = House(store)
        async with at_work(made.schedulers["ood1"]):
            await until(store, LEADER, lambda value: value == {"node": "ood1"})
            async with at_work(made.schedulers["ood2"]):
                await deploy(store, "web", ports={"http": "auto"})
                await until(store, "services/web/info", lambda info: info is not None)
                yield made
    await backend.aclose()


async def test_any_ood_tells_what_the_leader_decided(house: House) -> None:
    told = [await house.ask(name, "why", service="web") for name in ("ood1", "ood2")]
    assert [one["service"] for one in told] == ["web", "web"]
    assert (await house.ask("ood2", "services"))["services"].keys() == {"web"}
    assert (await house.ask("ood2", "nodes"))["nodes"].keys() == {"ood1", "ood2"}
    page = "service: notes\nkind: process\nimage: notes:1\ncommand: [serve]\n"
    assert [one[1] for one in (await house.ask("ood2", "plan", page=page))["decisions"]] == ["notes"]
    for name in ("ood1", "ood2"):
        with pytest.raises(KrpcFault) as caught:
            await house.ask(name, "why", service="none")
        assert caught.value.code == Code.MISSING


async def test_who_is_no_ood_is_told_nothing(house: House) -> None:
    for caller in (NOBODY, device("pi")):
        with pytest.raises(KrpcFault) as caught:
            await house.ask("ood1", "services", caller)
        assert caught.value.code == Code.DENIED
    assert await house.ask("ood1", "services", device("ood2"))


async def test_a_question_goes_one_step_and_who_cannot_be_asked_is_named(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_PATIENCE", 0.5)
    with pytest.raises(KrpcFault, match="no machine schedules"):
        await house.ask("ood2", "services", device("ood1"))
    house.is_apart = True
    with pytest.raises(KrpcFault, match="ood1 schedules: the way is cut") as caught:
        await house.ask("ood2", "services")
    assert caught.value.retryable
