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
from zone.config.model import Delete, Set, Transaction
from zone.io.config.sqlite import Database, SqliteBackend
from zone.io.config.store import ConfigStore
from zone.io.routes.nodes import NodeRoutes
from zone.routes.info import gateway_info_key

PAGE = "http://photos.home.example/x"
KEY = gateway_info_key("laptop")
THERE = host_of_did(dev(NAS), case_safe=True)


class Routed:
    """A module that has the zone's nodes found, where it has a store."""

    section = "routed"
    store: ClassVar[ConfigStore]
    hosts: ClassVar[dict[str, Host]] = {}

    @classmethod
    def check(cls, settings: Any) -> None:
        pass

    async def run(self, host: Host, settings: Any) -> None:
        self.hosts[settings] = host
        if settings == "laptop":
            await NodeRoutes(host, self.store, "home.example", settings).run()
        await trio.sleep_forever()


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
    Routed.store, Routed.hosts = store, {}
    monkeypatch.setattr(Modules, "discover", staticmethod(lambda: {"routed": Routed}))
    port = free_port()
    service = f"{{name: web, port: 80, target: 'tcp://127.0.0.1:{web}', allow: ['{dev(PI)}']}}"
    common = "versions: [5], lan: false"
    there = f"rtcp: {{{common}, listen: '127.0.0.1:{port}', services: [{service}]}}\nrouted: photos\n"
    here = f"listeners: [{{name: mixed, type: mixed, port: 0}}]\nrtcp: {{{common}}}\nrouted: laptop\n"
    async with (
        machine(base / "photos", NAS, there),
        machine(base / "laptop", PI, here) as laptop,
    ):
        await until(lambda: len(Routed.hosts) == 2)
        yield laptop, port


async def test_a_node_is_met_where_the_zone_says(
    tmp_path: Path, store: ConfigStore, monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery, capsys: Any
) -> None:
    web = await serve(nursery, hello)
    async with homes(tmp_path, web, monkeypatch, store) as (laptop, port):
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
    async with homes(tmp_path, web, monkeypatch, store) as (laptop, port):
        somebody = host_of_did(dev(MALLORY), case_safe=True)
        await tell(store, info(port).replace(THERE, somebody))
        await until(lambda: "photos.home.example" in laptop.gateway._around.routes)
        with pytest.raises(Unreachable):
            await Routed.hosts["laptop"].open_url(f"rtcp://{somebody}/:80")
