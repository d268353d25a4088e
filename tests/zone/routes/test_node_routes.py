"""Two gateways of one zone: one finds the other by what the scheduler tells it, and ``NODE.ZONE`` leads there."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
import trio

from cyfs_gateway.host import Host
from cyfs_gateway.io.modules import Modules
from cyfs_ns.errors import Unreachable
from cyfs_ns.identity.did import host_of_did
from tests.cyfs_gateway.io.inprocess import curl, hello, serve, until
from tests.cyfs_gateway.io.peering import MALLORY, NAS, PI, dev, machine
from tests.freeport import free_port
from tests.zone.scheduler.zonesim import Machine, at_work, delete, deploy, put, serving
from tests.zone.scheduler.zonesim import until as told
from zone.config.model import Delete, Set, Transaction
from zone.io.config.sqlite import Database, SqliteBackend
from zone.io.config.store import ConfigStore
from zone.io.routes.nodes import NodeRoutes
from zone.io.routes.ports import NodePorts
from zone.io.routes.web import WebRoutes
from zone.io.scheduler.loop import Scheduler
from zone.routes.info import gateway_info_key

PAGE = "http://photos.home.example/x"
KEY = gateway_info_key("laptop")
THERE = host_of_did(dev(NAS), case_safe=True)


class Routed:
    """A module that has the zone's nodes found, where it has a store."""

    section = "routed"
    store: ClassVar[ConfigStore]
    hosts: ClassVar[dict[str, Host]] = {}
    lives: ClassVar[dict[str, trio.CancelScope]] = {}
    machines: ClassVar[set[str]] = set()
    """The keys of the zone's."""

    @classmethod
    def check(cls, settings: Any) -> None:
        pass

    async def run(self, host: Host, settings: Any) -> None:
        self.hosts[settings] = host
        async with trio.open_nursery() as nursery:
            self.lives[settings] = nursery.cancel_scope
            await nursery.start(NodePorts(host, self.store, settings, lambda who: who.device in self.machines).run)
            if settings == "laptop":
                await nursery.start(NodeRoutes(host, self.store, "home.example", settings).run)
                nursery.start_soon(WebRoutes(host, self.store, "home.example", settings).run)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[ConfigStore]:
    backend = SqliteBackend(Database(tmp_path / "zone.db"))
    yield ConfigStore(backend)
    await backend.aclose()


def info(port: int) -> str:
    direct = {"id": "direct", "url": f"rtcp://{THERE}/"}
    hint = {"ip": "127.0.0.1", "port": port, "source": "LanEndpoint"}
    return json.dumps({"routes": {"photos": [direct]}, "did_ip_hints": {THERE: [hint]}})


async def tell(store: ConfigStore, text: str | None) -> None:
    await store.transact(Transaction((Delete(KEY) if text is None else Set(KEY, text),)))


@asynccontextmanager
async def homes(base: Path, web: int, monkeypatch: pytest.MonkeyPatch, store: ConfigStore) -> AsyncIterator[Any]:
    """``photos`` takes tunnels at a port that nothing but the store tells, and ``laptop``; the port is given back."""
    Routed.store, Routed.hosts, Routed.machines = store, {}, {str(dev(NAS)), str(dev(PI))}
    monkeypatch.setattr(Modules, "discover", staticmethod(lambda: {"routed": Routed}))
    port = free_port()
    service = f"{{name: web, port: 80, target: 'tcp://127.0.0.1:{web}', allow: ['{dev(PI)}']}}"
    common = "versions: [5], lan: false"
    there = f"rtcp: {{{common}, listen: '127.0.0.1:{port}', services: [{service}]}}\nrouted: photos\n"
    here = f"listeners: [{{name: mixed, type: mixed, port: 0}}]\nrtcp: {{{common}}}\nrouted: laptop\n"
    async with (
        machine(base / "photos", NAS, there) as photos,
        machine(base / "laptop", PI, here) as laptop,
    ):
        await until(lambda: len(Routed.hosts) == 2)
        yield photos, laptop, port


async def test_a_node_is_met_where_the_zone_says(
    tmp_path: Path, store: ConfigStore, monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery, capsys: Any
) -> None:
    web = await serve(nursery, hello)
    async with homes(tmp_path, web, monkeypatch, store) as (_, laptop, port):
        routes = laptop.gateway._around.routes
        with pytest.raises(Unreachable):
            await Routed.hosts["laptop"].open_url(f"rtcp://{THERE}/:80")
        began = time.monotonic()
        await tell(store, info(port))
        await until(lambda: "photos.home.example" in routes)
        with trio.fail_after(60):
            # Who was not found is not looked for again within a second.
            while await curl("-x", f"http://127.0.0.1:{laptop.port()}", PAGE) != (0, "hello /x"):  # noqa: ASYNC110 - no event
                await trio.sleep(0.05)
        with capsys.disabled():
            print(f"\n  from a node's address told to its page by name: {(time.monotonic() - began) * 1000:.0f} ms")
        # What makes no sense changes nothing; what is gone is led to no more.
        await tell(store, "[]")
        await tell(store, None)
        await until(lambda: "photos.home.example" not in routes)


async def test_an_address_where_another_answers_is_not_the_node(
    tmp_path: Path, store: ConfigStore, monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    web = await serve(nursery, hello)
    async with homes(tmp_path, web, monkeypatch, store) as (_, laptop, port):
        somebody = host_of_did(dev(MALLORY), case_safe=True)
        await tell(store, info(port).replace(THERE, somebody))
        await until(lambda: "photos.home.example" in laptop.gateway._around.routes)
        with pytest.raises(Unreachable):
            await Routed.hosts["laptop"].open_url(f"rtcp://{somebody}/:80")


async def test_a_service_that_moves_is_reached_by_its_name_where_it_is(
    tmp_path: Path, store: ConfigStore, monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery, capsys: Any
) -> None:
    """The machines are played, and ``notes`` listens at one port for both; the gateways and tunnels are real."""
    web = await serve(nursery, hello)
    async with homes(tmp_path, web, monkeypatch, store) as (photos, laptop, port):
        opened = photos.gateway.offers.ports
        await tell(store, info(port))
        for name, key in (("laptop", PI), ("photos", NAS)):
            await put(store, f"nodes/{name}/intent", {"drain": name == "photos"})
            await nursery.start(Machine(name, store, {"did": str(dev(key))}).run)
        async with at_work(Scheduler("laptop", store)):
            await deploy(store, "notes", ports={"http": web})
            await told(store, "services/notes/info", lambda info: serving(info) == ["laptop"])
            await until(lambda: "notes.home.example" in laptop.gateway._around.routes)
            ask = ("-x", f"http://127.0.0.1:{laptop.port()}", "http://notes.home.example/x")
            assert await curl(*ask) == (0, "hello /x")
            assert photos.gateway.status()["seen"] == 0 and not opened
            began = time.monotonic()
            await put(store, "nodes/photos/intent", {})
            await put(store, "nodes/laptop/intent", {"drain": True})
            with trio.fail_after(60):
                while photos.gateway.status()["seen"] == 0:
                    assert await curl(*ask) == (0, "hello /x")
            with capsys.disabled():
                print(f"\n  from drain to a page of the other machine: {(time.monotonic() - began) * 1000:.0f} ms")
            assert set(opened) == {web}
            # Who is no machine of the zone gets to no port of it.
            Routed.machines.clear()
            assert (await curl(*ask))[1] != "hello /x"
            Routed.machines.add(str(dev(PI)))
            assert await curl(*ask) == (0, "hello /x")
            await delete(store, "services/notes/spec")
            await until(lambda: not opened)


async def test_what_leads_somewhere_ends_with_the_zone_on_this_machine(
    tmp_path: Path, store: ConfigStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with homes(tmp_path, 1, monkeypatch, store) as (_, laptop, port):
        await tell(store, info(port))
        work = {"image": "notes"}
        await put(store, "nodes/laptop/config/notes", {"work": work, "ports": {"http": 8080}, "epoch": 1})
        offers, routes = laptop.gateway.offers, laptop.gateway._around.routes
        await until(lambda: offers.ports and "photos.home.example" in routes)
        await put(store, "nodes/laptop/config/notes", {"work": work, "ports": {"http": 8081}, "epoch": 2})
        await until(lambda: set(offers.ports) == {8081})
        # What cannot be read changes nothing.
        await put(store, "nodes/laptop/config/notes", {})
        await put(store, "nodes/laptop/config/mail", {"work": work, "ports": {"http": 8082}, "epoch": 3})
        await until(lambda: set(offers.ports) == {8081, 8082})
        Routed.lives["laptop"].cancel()
        await until(lambda: not (offers.ports or offers.searches or routes))
