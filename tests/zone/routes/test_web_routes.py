"""``SERVICE.ZONE`` leads to where the scheduler says that the service is, at once when that is elsewhere."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import trio
from configstores import Etcd, Sqlite

from cyfs_ns import names
from cyfs_ns.errors import ConfigFault
from cyfs_ns.identity.did import dev_did, host_of_did
from tests.zone.boot.zones import secret
from tests.zone.scheduler.zonesim import MOST, at_work, delete, deploy, machines, put, serving, until
from zone.io.config.store import ConfigStore
from zone.io.routes.web import WebRoutes
from zone.io.scheduler.loop import Scheduler
from zone.routes.web import web_instances, web_ways

BARN = dev_did(secret(2).public)
TO_BARN = f"rtcp://{host_of_did(BARN, case_safe=True)}/:"


def info(**nodes: dict[str, Any]) -> str:
    told = {
        node: {"node_did": str(BARN), "state": "Started", "weight": 100, "service_port": {"http": 80}} | said
        for node, said in nodes.items()
    }
    return json.dumps({"selector_type": "random", "node_list": told})


@pytest.mark.parametrize(
    ("text", "ways"),
    [
        (info(attic={}, barn={}), ["tcp:///127.0.0.1:80", f"{TO_BARN}80"]),
        (info(barn={"service_port": {"http": 81, "metrics": 9100}}), [f"{TO_BARN}81"]),
        (info(barn={"service_port": {"web": 82}}), [f"{TO_BARN}82"]),
        (info(barn={"service_port": {"kapi": 1, "metrics": 2}}), []),
        (info(barn={"service_port": {}}), []),
        (info(barn={"state": "Stopped"}), []),
        (info(barn={"node_did": ""}), []),
        (info(attic={"node_did": ""}), ["tcp:///127.0.0.1:80"]),
        ("{}", []),
        ("no json", []),
    ],
)
def test_the_ways_to_a_service(text: str, ways: list[str]):
    assert list(web_ways(web_instances(text), "attic", iter([0.5, 0.5]))) == ways


def test_the_heavier_is_more_often_first():
    instances = web_instances(info(one={"weight": 90}, two={"weight": 10, "service_port": {"http": 81}}))
    draws = iter(random.Random(7).random, None)
    first = [web_ways(instances, "attic", draws)[0] for _ in range(2000)]
    assert 0.87 < first.count(f"{TO_BARN}80") / 2000 < 0.93


class Gateway:
    """Whatever carries flows."""

    def __init__(self, *taken: str) -> None:
        self.ways: dict[str, Callable[[int], Sequence[str]]] = {}
        self._taken = taken

    def register_ways(self, host: str, ways: Callable[[int], Sequence[str]]) -> Callable[[], None]:
        if host in self._taken or host in self.ways:
            raise ConfigFault(f"{host} is carried already")
        assert names.name(host) == host
        self.ways[host] = ways
        return lambda: self.ways.pop(host) and None

    async def until(self, host: str, holds: Callable[[Sequence[str] | None], bool]) -> None:
        with trio.fail_after(MOST):
            while True:
                if holds(self.ways[host](443) if host in self.ways else None):
                    return
                await trio.sleep(0.02)


@pytest.fixture(params=[Sqlite, Etcd], ids=lambda kind: kind.name)
def kind(request, tmp_path) -> Iterator[Any]:
    with request.param(tmp_path) as kind:
        yield kind


@pytest.fixture
async def store(kind):
    backend = kind.open()
    yield ConfigStore(backend)
    await backend.aclose()


async def test_a_service_that_moves_is_found_where_it_is(store, capsys, nursery):
    gateway = Gateway()
    nursery.start_soon(WebRoutes(gateway, store, "home.example", "attic").run)
    facts = {"did": str(BARN)}
    async with machines(store, "attic", "barn", **facts), at_work(Scheduler("attic", store)):
        await deploy(store, "notes", ports={"http": 8080})
        (home,) = serving(await until(store, "services/notes/info", lambda told: bool(serving(told))))
        ways = {"attic": ["tcp:///127.0.0.1:8080"], "barn": [f"{TO_BARN}8080"]}
        await gateway.until("notes.home.example", lambda now: list(now or ()) == ways[home])
        other = {"attic": "barn", "barn": "attic"}[home]
        began = time.monotonic()
        await put(store, f"nodes/{home}/intent", {"drain": True})
        await gateway.until("notes.home.example", lambda now: list(now or ()) == ways[other])
        with capsys.disabled():
            print(f"\n  from drain to led elsewhere: {(time.monotonic() - began) * 1000:.0f} ms")
        await delete(store, "services/notes/spec")
        await gateway.until("notes.home.example", lambda now: now is None)


async def test_services_that_went_while_the_store_was_away_are_led_to_no_more(store):
    gateway = Gateway()
    await put(store, "services/notes/info", json.loads(info(barn={})))
    routes = WebRoutes(gateway, store, "home.example", "attic")
    async with trio.open_nursery() as first:
        first.start_soon(routes.run)
        await gateway.until("notes.home.example", lambda now: list(now or ()) == [f"{TO_BARN}80"])
        first.cancel_scope.cancel()
    await delete(store, "services/notes/info")
    async with trio.open_nursery() as second:
        second.start_soon(routes.run)
        await gateway.until("notes.home.example", lambda now: now is None)
        second.cancel_scope.cancel()


async def test_a_name_that_another_carries_stays_with_it(store, nursery):
    gateway = Gateway("mail.home.example")
    for service in ("mail", "notes"):
        await put(store, f"services/{service}/info", json.loads(info(barn={})))
    nursery.start_soon(WebRoutes(gateway, store, "home.example", "attic").run)
    await gateway.until("notes.home.example", lambda now: bool(now))
    await delete(store, "services/mail/info")
    await delete(store, "services/notes/info")
    await gateway.until("notes.home.example", lambda now: now is None)
    assert not gateway.ways


async def test_what_is_no_name_of_a_host_leads_nowhere(store, nursery):
    gateway = Gateway()
    for service in ("a..b", "a@b", "notes"):
        await put(store, f"services/{service}/info", json.loads(info(barn={})))
    nursery.start_soon(WebRoutes(gateway, store, "home.example", "attic").run)
    await gateway.until("notes.home.example", lambda now: bool(now))
    assert list(gateway.ways) == ["notes.home.example"]
