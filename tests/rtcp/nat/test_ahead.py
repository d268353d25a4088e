"""Pipes that are called to places before the peer was met there."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import SimpleNamespace
from typing import cast

import pytest
import trio

from cyfs_ns.errors import Unreachable
from rtcp.io.nat.ahead import Ahead
from rtcp.io.nat.ground import Ground
from rtcp.io.pipe import receive_some, send_all
from rtcp.io.udp.pipe import UdpPipe
from rtcp.io.udp.sockets import TrainSocket
from rtcp.nat.budget import Budget
from rtcp.udp.connection import PATIENCE
from rtcp.v5.calling import Call
from tests.rtcp.udp.strait import KEY
from tests.rtcp.udp.test_udp_sockets import Pair, pair


class Deaf(TrainSocket):
    """Sends nothing while its NAT is not open."""

    closed = True

    def send(self, train, segment, to):
        if not self.closed:
            super().send(train, segment, to)


class DeafPair(Pair):
    def sockets(self, host):
        return [Deaf(host, 0)]

    def open(self, *endpoints) -> None:
        for endpoint in endpoints:
            for sock in endpoint._sockets.values():
                sock.closed = False


async def greet(pipe: UdpPipe) -> Call:
    """Whoever answers is the peer."""
    await send_all(pipe, b"?")
    assert await receive_some(pipe, 1) == b"!"
    return cast("Call", pipe)


@asynccontextmanager
async def greeting(kind: type[Pair] = Pair) -> AsyncIterator[Pair]:
    """Two of whom the one that is called answers what is asked."""

    async def answer(two: Pair) -> None:
        async for pipe, _ in two.called:
            two.made.append(pipe)
            await send_all(pipe, b"!")

    async with pair(kind=kind) as two:
        two.nursery.start_soon(answer, two)
        yield two


@contextmanager
def calls(two: Pair, budget: Budget | None = None) -> Iterator[Ahead]:
    house = SimpleNamespace(endpoint=two.here, nursery=two.nursery, budget=budget or Budget())
    ahead = Ahead(cast("Ground", house), KEY, greet)
    try:
        yield ahead
    finally:
        ahead.close()


async def until(true) -> None:
    with trio.fail_after(60):
        while not true():  # noqa: ASYNC110
            await trio.sleep(0.001)


async def test_what_was_called_ahead_is_there_when_it_is_wanted():
    async with greeting() as two:
        with calls(two) as ahead:
            ahead.call([two.address])
            await until(lambda: two.here.pipes)
            (called,) = two.here.pipes
            assert await ahead.connect(two.address) is called
            assert called.greeted is called
            another = await ahead.connect(two.address)
            assert another is not called, "it serves once"
            two.made += called, another
        await trio.testing.wait_all_tasks_blocked()
        assert set(two.here.pipes) == {called, another}, "who has taken one keeps it"


async def test_a_call_that_came_too_early_is_repeated_at_once_and_one_pipe_is_left():
    async with greeting(DeafPair) as two:
        two.open(two.there)
        with calls(two) as ahead:
            ahead.call([two.address])
            await trio.testing.wait_all_tasks_blocked()
            two.open(two.here)
            pipe = await ahead.connect(two.address)
            two.made.append(pipe)
        await until(lambda: two.here.pipes == [pipe])


async def test_what_nobody_takes_is_given_up():
    async with greeting(DeafPair) as two:
        two.open(two.there, two.here)
        with calls(two) as ahead:
            ahead.call([two.address, ("127.0.0.1", 9)])
            await until(lambda: two.here.pipes)
        await until(lambda: not two.here.pipes and not two.here._calls)


async def test_where_the_budget_is_spent_nobody_is_called_ahead():
    async with greeting() as two:
        budget = Budget()
        while budget.spend(two.address[0], trio.current_time()):
            pass
        with calls(two, budget) as ahead:
            ahead.call([two.address])
            await trio.testing.wait_all_tasks_blocked()
            assert not two.here.pipes
            two.made.append(await ahead.connect(two.address))


async def test_who_waits_no_longer_leaves_nothing_behind():
    async with greeting(DeafPair) as two:
        with calls(two) as ahead:
            ahead.call([two.address])
            with trio.move_on_after(0.01):
                await ahead.connect(two.address)
        await until(lambda: not two.here._calls)
        assert not two.here.pipes


async def test_where_nobody_answers_it_says_so(autojump_clock):
    async with greeting(DeafPair) as two:
        with calls(two) as ahead, trio.fail_after(3 * PATIENCE), pytest.raises(Unreachable):
            await ahead.connect(two.address)
