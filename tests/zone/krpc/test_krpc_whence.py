"""Where callers on this machine come from, as the kernel tells."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from cyfs_ns.identity.strictjson import Json
from zone.io.krpc.client import Client
from zone.io.krpc.dispatch import Dispatcher, Limits
from zone.io.krpc.server import KrpcServer
from zone.io.krpc.transport import HttpTransport, LocalTransport, Way, by_tcp, by_unix
from zone.io.krpc.whence import named, whence
from zone.krpc.caller import Caller
from zone.krpc.faults import Code, KrpcFault


def nobody(token: str) -> Caller:
    raise AssertionError(token)


@asynccontextmanager
async def serving(folder: Path, dispatcher: Dispatcher) -> AsyncIterator[tuple[Path, int]]:
    server, path = KrpcServer(dispatcher, nobody, lambda _: None), folder / "kapi.sock"
    async with trio.open_nursery() as nursery:
        urls = await nursery.start(
            lambda task_status: server.serve(unix=path, tcp=("127.0.0.1", 0), task_status=task_status)
        )
        yield path, int(urls[1].rpartition(":")[2])
        nursery.cancel_scope.cancel()


def as_service(path: Path, source: str) -> Way:
    async def opening() -> trio.SocketStream:
        sock = trio.socket.socket(socket.AF_UNIX)
        await sock.bind(named(source))
        await sock.connect(str(path))
        return trio.SocketStream(sock)

    return Way(opening)


async def test_a_service_learns_where_a_call_comes_from(tmp_path):
    dispatcher = Dispatcher()

    async def source(caller, method, params, context) -> Json:
        return context.source

    dispatcher.register("source", source)
    async with serving(tmp_path, dispatcher) as (path, port):
        for way, expected in (
            (by_tcp("127.0.0.1", port), f"uid:{os.geteuid()}"),
            (by_unix(path), ""),
            (as_service(path, "service:web"), "service:web"),
            (as_service(path, "service:a/b"), "service:a/b"),
        ):
            transport = HttpTransport(way)
            assert await Client(transport, "source").call("ask", {}) == expected
            await transport.aclose()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_who_has_gone_is_not_taken_for_anybody(host):
    (listener,) = await trio.open_tcp_listeners(0, host=host)
    async with listener:
        theirs = await trio.open_tcp_stream(host, listener.socket.getsockname()[1])
        ours = await listener.accept()
        assert whence(ours) == f"uid:{os.geteuid()}"
        await theirs.aclose()
        assert whence(ours) == ""
        await ours.aclose()


async def test_one_who_proved_nothing_leaves_room_for_others(tmp_path):
    dispatcher = Dispatcher(Limits(caller=2, behind=3))
    waiting = trio.Event()

    async def wait(caller, method, params, context) -> Json:
        if method == "wait":
            await waiting.wait()
        return context.source

    dispatcher.register("wait", wait)
    codes = []
    async with serving(tmp_path, dispatcher) as (path, _), trio.open_nursery() as nursery:

        async def call(source: str, method: str) -> None:
            transport = HttpTransport(as_service(path, source))
            try:
                await Client(transport, "wait").call(method, {})
            except KrpcFault as fault:
                codes.append(fault.code)
            finally:
                await transport.aclose()

        for _ in range(2):
            nursery.start_soon(call, "service:web", "wait")
        while dispatcher._rooms._open["behind", ""] < 2:  # noqa: ASYNC110, nothing tells it
            await trio.sleep(0.001)
        await call("service:web", "ask")
        assert codes == [Code.LIMITED]
        await call("service:other", "ask")
        assert codes == [Code.LIMITED]
        waiting.set()
    assert not dispatcher._rooms._open


async def test_a_user_with_many_apps_does_not_take_all_the_room():
    dispatcher = Dispatcher(Limits(caller=2, behind=5))
    waiting, codes = trio.Event(), []

    async def wait(caller, method, params, context) -> Json:
        await waiting.wait()
        return None

    dispatcher.register("wait", wait)

    async def call(user: str, app: str) -> None:
        who = Caller(name=f"user:{user}/{app}", subjects=(), user=user, app=app)
        try:
            await Client(LocalTransport(dispatcher, who), "wait").call("wait", {})
        except KrpcFault as fault:
            codes.append((user, fault.code))

    async with trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(call, "alice", f"a{number}")
        while len(codes) < 3:  # noqa: ASYNC110, nothing tells it
            await trio.sleep(0.001)
        nursery.start_soon(call, "bob", "a1")
        await trio.testing.wait_all_tasks_blocked()
        waiting.set()
    assert codes == [("alice", Code.LIMITED)] * 3
