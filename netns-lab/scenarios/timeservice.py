"""A service of several nodes, and a program that calls it by the door of its own machine.

``timeservice.py serve`` is what a node runs.  ``timeservice.py ask DOOR ROUNDS`` prints as JSON which node answered,
how long a call takes, and ten calls that need each other: one by one, and in a batch.  The median counts.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from zone.io.krpc.client import Client
from zone.io.krpc.dispatch import Dispatcher
from zone.io.krpc.server import KrpcServer
from zone.io.krpc.transport import HttpTransport, by_unix
from zone.krpc.caller import NOBODY, Caller
from zone.krpc.interface import Interface, Served, idempotent

CALLS = 10


class Time(Interface):
    """Tells where it is, and counts."""

    @idempotent
    async def where(self) -> str:
        """Which node answers."""
        raise NotImplementedError

    @idempotent
    async def after(self, tick: int) -> int:
        """The next one."""
        raise NotImplementedError


class Clock(Time):
    async def where(self) -> str:
        return str(json.loads(os.environ["app_instance_config"])["node"])  # noqa: SIM112 - the name is upstream's

    async def after(self, tick: int) -> int:
        return tick + 1


def anybody(_token: str) -> Caller:
    return NOBODY


async def serve() -> None:
    dispatcher = Dispatcher()
    dispatcher.register("time", Served(Time, lambda caller, context: Clock()))
    server = KrpcServer(dispatcher, anybody, lambda identity: None)
    await server.serve(tcp=("127.0.0.1", int(os.environ["PORT_KAPI"])))


async def ask(door: Path, rounds: int) -> None:
    client = Client(HttpTransport(by_unix(door)), "time")
    there = client.of(Time)

    async def one_by_one() -> None:
        tick = 0
        for _ in range(CALLS):
            tick = await there.after(tick)
        assert tick == CALLS

    async def in_a_batch() -> None:
        async with client.batch(Time) as calls:
            last = calls.after(0)
            for _ in range(CALLS - 1):
                last = calls.after(last)
        assert await last == CALLS

    said = {"where": await there.where()}
    took = {name: await _median(work, rounds) for name, work in (("one_by_one", one_by_one), ("batch", in_a_batch))}
    print(json.dumps(said | {"call": await _median(there.where, rounds)} | took))


async def _median(work: Callable[[], Awaitable[object]], rounds: int) -> float:
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        await work()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        trio.run(serve)
    else:
        trio.run(ask, Path(sys.argv[2]), int(sys.argv[3]))
