"""The service klog: machines give their own lines, and who may read them does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from cyfs_ns.identity.strictjson import Json
from zone.config.access import Subject
from zone.config.baserules import BASE
from zone.io.klog import service as services
from zone.io.klog.service import NAME, KlogService, sender
from zone.io.klog.spool import Journal, Shipping, Spool
from zone.io.klog.store import LogStore
from zone.io.krpc.client import Client
from zone.io.krpc.dispatch import Dispatcher
from zone.io.krpc.transport import LocalTransport
from zone.klog.line import Batch, Line, write_batch
from zone.klog.patterns import Fault, Patterns
from zone.krpc.caller import NOBODY, Caller
from zone.krpc.faults import Code, KrpcFault
from zone.krpc.service import CallContext

LIFE = "0123456789abcdef"


def machine(name: str) -> Caller:
    return Caller(name=f"device:{name}", subjects=(Subject(frozenset({"device"}), {"device": name}),), device=name)


OOD1, NAS = machine("ood1"), machine("nas")
OWNER = Caller(name="user:alice", subjects=(Subject(frozenset({"owner"}), {"user": "alice"}),), user="alice")
BOB = Caller(name="user:bob", subjects=(Subject(frozenset({"user"}), {"user": "bob"}),), user="bob")
WEB = Caller(name="device:nas/web", subjects=(Subject(frozenset({"frame"}), {"service": "web"}),), device="nas")
OOD1_WEB = Caller(name="device:ood1/web", subjects=(Subject(frozenset({"frame"}), {"service": "web"}),), device="ood1")


class Desk:
    def __init__(self, folder: Path) -> None:
        self.faults: list[Fault] = []
        self.store = LogStore(folder / "logs.db")
        self.service = KlogService(self.store, lambda: BASE, Patterns(), self.faults.append, lambda: {"ood1"})

    async def append(self, caller: Caller, first: int, *messages: str) -> Json:
        lines = (Line(float(first), "web", "warning", message) for message in messages)
        batch = Batch(LIFE, tuple(enumerate(lines, first)))
        return await self.service(caller, "append", write_batch(batch), CallContext())

    async def query(self, caller: Caller, seconds: float = 15.0, /, **params: Json) -> list[str]:
        return [str(one["message"]) for one in (await self.answer(caller, seconds, **params))["lines"]]

    async def answer(self, caller: Caller, seconds: float = 15.0, /, **params: Json) -> Any:
        return await self.service(caller, "query", params, CallContext(seconds=seconds))


@pytest.fixture
async def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


async def test_lines_are_those_of_whoever_sends_them(desk: Desk) -> None:
    assert await desk.append(OOD1, 1, "a", "b") == 2
    assert await desk.append(NAS, 1, "c") == 1
    assert await desk.append(OOD1, 1, "a", "b") == 2
    assert sorted(await desk.query(OWNER)) == ["a", "b", "c"]
    assert await desk.query(OWNER, node="nas") == ["c"]
    assert await desk.query(NAS, node="nas", service="web", level="warning", text="C") == ["c"]
    assert await desk.query(OWNER, limit=1, node="ood1") == ["b"]
    assert sorted(await desk.query(OOD1, service=["web", "mail"])) == ["a", "b", "c"]


@pytest.mark.parametrize("caller", [OWNER, BOB, WEB])
async def test_only_machines_give_lines(desk: Desk, caller: Caller) -> None:
    with pytest.raises(KrpcFault) as told:
        await desk.append(caller, 1, "forged")
    assert told.value.code == Code.DENIED


@pytest.mark.parametrize(
    ("caller", "node"), [(BOB, ""), (BOB, "nas"), (NAS, ""), (NAS, "ood1"), (WEB, "nas"), (OOD1_WEB, "")]
)
async def test_nobody_reads_what_is_not_theirs(desk: Desk, caller: Caller, node: str) -> None:
    with pytest.raises(KrpcFault) as told:
        await desk.query(caller, node=node)
    assert told.value.code == Code.DENIED


async def test_who_proves_nothing_hears_nothing(desk: Desk) -> None:
    with pytest.raises(KrpcFault) as told:
        await desk.query(NOBODY)
    assert told.value.code == Code.UNAUTHENTICATED


@pytest.mark.parametrize(
    "params",
    [
        {"level": "loud"},
        {"service": [1]},
        {"before": [1]},
        {"before": "x"},
        {"before": [-1.0, 1]},
        {"since": "now"},
        {"since": -1},
        {"limit": "all"},
        {"node": "a/../b"},
        {"nodes": "nas"},
    ],
)
async def test_what_cannot_be_asked_for_is_said(desk: Desk, params: dict[str, Json]) -> None:
    with pytest.raises(KrpcFault) as told:
        await desk.answer(OWNER, 15.0, **params)
    assert told.value.code == Code.INVALID


async def test_who_follows_is_told_when_lines_come(desk: Desk) -> None:
    await desk.append(NAS, 1, "old")
    heard: list[list[str]] = []

    async def follow() -> None:
        heard.append(await desk.query(OWNER, after=1, wait=20))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow)
        await trio.testing.wait_all_tasks_blocked()
        await desk.append(NAS, 2, "new")
    assert heard == [["new"]]
    assert await desk.query(OWNER, 0.0, after=2, wait=20) == []


async def test_faults_are_noticed_once(desk: Desk) -> None:
    await desk.append(NAS, 1, "disk is full")
    await desk.append(NAS, 1, "disk is full", "disk is full")
    (fault,) = desk.faults
    assert (fault.node, fault.service) == ("nas", "web")


async def test_an_answer_has_an_end_and_goes_on(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "MOST_CHARACTERS", 5)
    await desk.append(NAS, 1, "one", "two", "six")
    assert await desk.query(OWNER, after=0) == ["one"]
    assert await desk.query(OWNER, after=1) == ["two"]
    assert await desk.query(OWNER) == ["six"]


async def test_answers_lead_to_older_lines_and_to_those_that_come(desk: Desk) -> None:
    await desk.append(NAS, 1, "a", "b", "c")
    newest = await desk.answer(OWNER, limit=2)
    assert [one["message"] for one in newest["lines"]] == ["b", "c"]
    older = await desk.answer(OWNER, limit=2, before=newest["before"])
    assert [one["message"] for one in older["lines"]] == ["a"]
    assert older["before"] is None
    await desk.append(NAS, 4, "d")
    assert await desk.query(OWNER, after=newest["after"]) == ["d"]
    nothing = await desk.answer(OWNER, after=0, service="mail")
    assert nothing == {"lines": [], "after": 4}


async def test_what_a_machine_says_is_there_for_its_owner(desk: Desk, tmp_path: Path) -> None:
    dispatcher = Dispatcher()
    dispatcher.register(NAME, desk.service)
    client = Client(LocalTransport(dispatcher, NAS), NAME)
    shipping = Shipping(Spool(tmp_path / "spool.db"))
    journal = Journal(shipping)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(journal.run)
        nursery.start_soon(shipping.run, sender(client))
        journal.put(Line(1.0, "gateway", "info", "first"))
        assert await desk.query(OWNER, after=0, wait=10) == ["first"]
        journal.put(Line(2.0, "gateway", "info", "second"))
        assert await desk.query(OWNER, after=1, wait=10) == ["second"]
        nursery.cancel_scope.cancel()
