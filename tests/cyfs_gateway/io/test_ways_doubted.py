"""Of the ways to what a module carries, one that is silent is tried last for a while, and again after that."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import trio

from cyfs_gateway.io.inturn import _MOST_DOUBTED
from cyfs_gateway.io.services import RouteOutbound
from cyfs_ns.errors import Unreachable
from tunnels.endpoint import Target
from tunnels.url import TunnelUrl, parse

SILENT, ALIVE = parse("rtcp://silent.example/:80"), parse("rtcp://alive.example/:80")
SECONDS = 10.0


class Peers:
    """Opens URLs: each host takes its seconds, and the silent one opens nothing."""

    def __init__(self) -> None:
        self.silent = {SILENT.host}
        self.asked: list[str] = []

    async def open_url(self, url: TunnelUrl) -> Any:
        self.asked.append(url.host)
        if url.host in self.silent:
            await trio.sleep(SECONDS)
            raise Unreachable("nobody answered", "connect_timeout")
        return url


def carried(peers: Peers, *ways: TunnelUrl) -> RouteOutbound:
    return RouteOutbound("zone:notes", lambda port: ways, SimpleNamespace(tunnels=peers))  # type: ignore[arg-type]


async def opened(outbound: RouteOutbound) -> tuple[Any, float]:
    began = trio.current_time()
    return await outbound.open_stream(Target("notes.home.example", 80)), trio.current_time() - began


async def test_a_silent_way_costs_one_flow_its_time(autojump_clock: Any) -> None:
    peers = Peers()
    outbound = carried(peers, SILENT, ALIVE)
    assert await opened(outbound) == (ALIVE, SECONDS)
    assert await opened(outbound) == (ALIVE, 0)
    peers.silent.clear()
    await trio.sleep(60)
    assert await opened(outbound) == (SILENT, 0)
    assert await opened(outbound) == (SILENT, 0)


async def test_who_comes_while_it_is_being_found_silent_goes_elsewhere(autojump_clock: Any) -> None:
    peers = Peers()
    outbound = carried(peers, SILENT, ALIVE)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(opened, outbound)
        for _ in range(4):
            await trio.sleep(0.3)
            nursery.start_soon(opened, outbound)
        await trio.sleep(0.1)
        assert await opened(outbound) == (ALIVE, 0)


async def test_the_only_way_is_tried_though_it_is_doubted(autojump_clock: Any) -> None:
    peers = Peers()
    outbound = carried(peers, SILENT)
    with pytest.raises(Unreachable):
        await opened(outbound)
    peers.silent.clear()
    assert await opened(outbound) == (SILENT, 0)


async def test_who_gives_up_at_once_speaks_against_no_way(autojump_clock: Any) -> None:
    peers = Peers()
    outbound = carried(peers, SILENT, ALIVE)
    with trio.move_on_after(0.5):
        await opened(outbound)
    peers.silent.clear()
    assert await opened(outbound) == (SILENT, 0)


async def test_what_is_doubted_has_an_end(autojump_clock: Any) -> None:
    ways = [parse(f"rtcp://silent.example/:{port}") for port in range(1, 2 * _MOST_DOUBTED)]
    outbound = RouteOutbound("zone:notes", lambda port: ways[port : port + 1], SimpleNamespace(tunnels=Peers()))  # type: ignore[arg-type]
    for port in range(len(ways)):
        with pytest.raises(Unreachable):
            await outbound.open_stream(Target("notes.home.example", port))
    assert len(outbound._turns._doubted) == _MOST_DOUBTED
