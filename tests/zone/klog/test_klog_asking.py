"""The lines of several OODs are one answer, which leads to older ones and to those that come."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.strictjson import Json
from zone.config.access import Subject
from zone.config.baserules import BASE
from zone.io.klog.asking import Ask, find
from zone.io.klog.service import KlogService
from zone.io.klog.store import LogStore
from zone.klog.line import Batch, Line, write_batch
from zone.klog.patterns import Patterns
from zone.krpc.caller import Caller
from zone.krpc.faults import Code, KrpcFault
from zone.krpc.service import CallContext

OOD1 = Caller(name="device:ood1", subjects=(Subject(frozenset({"device"}), {"device": "ood1"}),), device="ood1")


class Oods:
    """Three of them; each is asked as the first would ask it."""

    def __init__(self, stores: dict[str, LogStore]) -> None:
        self.stores = stores
        self.services = {
            name: KlogService(store, lambda: BASE, Patterns(), lambda _: None, lambda: tuple(stores))
            for name, store in stores.items()
        }
        self.said = dict.fromkeys(stores, 0)
        self.away: set[str] = set()

    async def say(self, ood: str, time: float, message: str) -> None:
        self.said[ood] += 1
        batch = Batch("0" * 16, ((self.said[ood], Line(time, "web", "info", message)),))
        await self.services[ood](OOD1, "append", write_batch(batch), CallContext())

    def asked(self) -> dict[str, Ask]:
        return {name: partial(self._ask, name) for name in self.stores}

    async def _ask(self, name: str, params: Any) -> Json:
        if name in self.away:
            raise KrpcFault(Code.UNAVAILABLE, f"{name} is off")
        return await self.services[name](OOD1, "query", params, CallContext(seconds=60))

    async def find(self, **asked: Any) -> dict[str, Any]:
        return await find(self.asked(), asked)


@contextmanager
def _stores(folder: Path) -> Iterator[dict[str, LogStore]]:
    stores = {name: LogStore(folder / f"{name}.db") for name in ("ood1", "ood2", "ood3")}
    try:
        yield stores
    finally:
        for store in stores.values():
            store.close()


@pytest.fixture
def oods(tmp_path: Path) -> Iterator[Oods]:
    with _stores(tmp_path) as stores:
        yield Oods(stores)


def messages(answer: dict[str, Any]) -> list[str]:
    return [line["message"] for line in answer["lines"]]


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 30])
async def test_pages_lead_through_all_lines_in_the_order_of_their_times(oods: Oods, limit: int) -> None:
    said = []
    for number in range(20):
        # One OOD has the newest, one has few, and times are the same here and there.
        ood = "ood3" if number > 14 else "ood2" if number == 7 else "ood1"
        await oods.say(ood, float(number // 2), f"{number:02}")
        said.append(f"{number:02}")
    answer = await oods.find(limit=limit)
    pages = [messages(answer)]
    while answer["before"]:
        answer = await oods.find(limit=limit, before=answer["before"])
        pages.append(messages(answer))
    assert sorted(message for page in pages for message in page) == said
    assert all(len(page) <= limit for page in pages)
    times = [int(message) // 2 for page in reversed(pages) for message in page]
    assert times == sorted(times)


async def test_who_follows_is_told_at_once_whichever_ood_has_it(oods: Oods) -> None:
    await oods.say("ood1", 1.0, "old")
    answer = await oods.find()
    heard: list[dict[str, Any]] = []

    async def follow() -> None:
        heard.append(await oods.find(after=answer["after"], wait=50))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow)
        await trio.testing.wait_all_tasks_blocked()
        await oods.say("ood2", 2.0, "new")
    assert messages(heard[0]) == ["new"]
    assert messages(await oods.find(after=heard[0]["after"])) == []


async def test_an_ood_that_is_away_is_named_and_the_others_answer(oods: Oods) -> None:
    await oods.say("ood1", 1.0, "one")
    await oods.say("ood2", 2.0, "two")
    oods.away = {"ood2"}
    answer = await oods.find()
    assert messages(answer) == ["one"]
    assert answer["away"] == {"ood2": "ood2 is off"}
    oods.away.clear()
    # What it has from before is no news; what comes from now on is.
    answer = await oods.find(after=answer["after"])
    assert messages(answer) == []
    await oods.say("ood2", 3.0, "three")
    assert messages(await oods.find(after=answer["after"])) == ["three"]


async def test_where_no_ood_answers_it_is_said_why(oods: Oods) -> None:
    oods.away = {"ood1", "ood2", "ood3"}
    with pytest.raises(KrpcFault, match="is off"):
        await oods.find()


async def test_what_no_answer_gave_leads_nowhere(oods: Oods) -> None:
    with pytest.raises(BadWire):
        await oods.find(before=[1, 2])
    with pytest.raises(KrpcFault):
        await oods.find(after={"ood1": "x", "ood2": "x", "ood3": "x"})
