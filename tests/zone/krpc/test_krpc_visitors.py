"""Calls of visitors have bounds of their own: of each place that they come from, and of all of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import trio
import trio.testing

from cyfs_ns.identity.strictjson import Json
from tests.zone.krpc.krpcservices import House, until, verify
from zone.io.krpc.client import Client
from zone.io.krpc.dispatch import Dispatcher, Limits
from zone.io.krpc.server import MOST_OF_VISITORS, KrpcServer
from zone.io.krpc.transport import LocalTransport
from zone.krpc.caller import NOBODY

SYS = "sys.home.example"


class Far:
    """An ``Elsewhere`` that has everything, and answers nothing before it is time."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.release = trio.Event()

    def takes(self, service: str) -> bool:
        return True

    async def ask(self, service: str, asked: Any, token: str, context: Any) -> Json:
        self.asked.append(context.source)
        await self.release.wait()
        return context.source


async def called(server: KrpcServer, source: str, method: str, token: str = "", params: Any = None) -> int:
    """The status of the answer to one visitor's call of ``odd``."""
    body = json.dumps({"method": method, "params": params or {}, "sys": [1, token]}).encode()
    head = f"POST /kapi/odd HTTP/1.1\r\nHost: {SYS}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    near, far = trio.testing.memory_stream_pair()
    said = b""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve_visitor, SYS, far, source, 443)
        await near.send_all(head.encode() + body)
        while b"\r\n\r\n" not in said:
            said += await near.receive_some(65536)
        await near.aclose()
    return int(said.split(b" ")[1])


async def filled(server: KrpcServer, source: str, method: str, there: Callable[[], int], nursery: trio.Nursery) -> None:
    """As many calls from ``source`` as there may be: the next one is refused."""
    refused = trio.Event()

    async def one() -> None:
        if await called(server, source, method) == 429:
            refused.set()

    def moved(before: int) -> bool:
        return there() > before or refused.is_set()

    while not refused.is_set():
        assert there() < 50
        nursery.start_soon(one)
        await until(partial(moved, there()))


async def test_one_place_leaves_room_for_the_others():
    house = House(Limits(caller=3, behind=5))
    async with trio.open_nursery() as nursery:
        await filled(house.server, "203.0.113.1", "wait", lambda: house.odd.running, nursery)
        assert house.odd.running == 3
        assert await called(house.server, "203.0.113.2", "ask") == 200
        await filled(house.server, "203.0.113.2", "wait", lambda: house.odd.running, nursery)
        # All of them have a bound too, which programs of this machine do not share.
        assert house.odd.running == 5
        assert await called(house.server, "203.0.113.3", "ask") == 429
        assert await Client(LocalTransport(house.dispatcher, NOBODY), "odd").call("ask", {}) == {}
        house.odd.release.set()


async def test_so_have_calls_that_are_passed_on():
    far = Far()
    server = KrpcServer(Dispatcher(), verify, lambda _: None, far)
    async with trio.open_nursery() as nursery:
        for number in range(3):
            await filled(server, f"203.0.113.{number}", "wait", lambda: len(far.asked), nursery)
        assert [far.asked.count(f"203.0.113.{number}") for number in range(3)] == [6, 6, 0]
        far.release.set()


async def test_who_tries_again_and_again_leaves_others_patience_elsewhere():
    far = Far()
    far.release.set()
    server = KrpcServer(Dispatcher(), verify, lambda _: None, far)
    tried = [await called(server, "203.0.113.1", "login") for _ in range(50)]
    assert tried[:20] == [200] * 20
    assert 429 in tried
    assert await called(server, "203.0.113.2", "login") == 200
    assert await called(server, "203.0.113.1", "ask", token="for.ann.x") == 200


async def test_little_is_held_of_whoever_it_may_be():
    server = House().server
    for size, status in ((MOST_OF_VISITORS - 1000, 200), (MOST_OF_VISITORS, 413)):
        assert await called(server, "203.0.113.1", "ask", "for.ann.x", {"text": "x" * size}) == status
