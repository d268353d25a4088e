"""Plain HTTP through the proxy: many servers behind one client connection, each request by its own rule."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing
from inprocess import Living, connect, echo, exactly, hello, living, only, serve, the_rest, until

from cyfs_gateway.io.connection import Connection

CONFIG = """
timeouts: {idle: 2, connect: 2}
hosts: {one.test: 127.0.0.1, two.test: 127.0.0.1, gone.test: 127.0.0.1}
listeners:
  - {name: http, type: http, listen: 127.0.0.1, port: 0}
rules:
  - DOMAIN,no.test,REJECT
  - MATCH,DIRECT
"""


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[Living]:
    async with living(tmp_path, CONFIG) as made:
        yield made


def get(host: str, port: int, path: str = "/", extra: str = "") -> bytes:
    return f"GET http://{host}:{port}{path} HTTP/1.1\r\nHost: {host}\r\n{extra}\r\n".encode()


async def answers(stream: trio.SocketStream, *bodies: bytes) -> None:
    for body in bodies:
        whole = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        assert await exactly(stream, len(whole)) == whole


async def test_one_connection_many_servers(house: Living, nursery: trio.Nursery) -> None:
    one, two = await serve(nursery, hello), await serve(nursery, hello)
    stream = await connect(house.port("http"))
    async with stream:
        for number in range(3):
            await stream.send_all(get("one.test", one, f"/{number}"))
            await answers(stream, b"hello /%d" % number)
            assert only(house.tracker).flow.host == "one.test"
            await stream.send_all(get("two.test", two))
            await answers(stream, b"hello /")
            assert only(house.tracker).flow.host == "two.test"
    await until(lambda: not len(house.tracker))
    assert house.tracker.seen == 6


async def test_requests_sent_all_at_once_are_answered_in_order(house: Living, nursery: trio.Nursery) -> None:
    """The next server is dialled while the answer of the one before is being read."""
    one, two = await serve(nursery, hello), await serve(nursery, hello)
    stream = await connect(house.port("http"))
    async with stream:
        asked = [("one.test", one), ("two.test", two), ("two.test", two), ("one.test", one)]
        await stream.send_all(b"".join(get(host, port, f"/{n}") for n, (host, port) in enumerate(asked)))
        await answers(stream, *(b"hello /%d" % number for number in range(4)))


async def test_an_answer_that_ends_with_its_connection_lets_the_next_request_in(
    house: Living, nursery: trio.Nursery
) -> None:
    async def once(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")

    one, two = await serve(nursery, once), await serve(nursery, hello)
    stream = await connect(house.port("http"))
    async with stream:
        await stream.send_all(get("one.test", one) + get("two.test", two) + get("one.test", one))
        assert b"ok" in await exactly(stream, len(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"))
        await answers(stream, b"hello /", b"ok")


async def test_a_refusal_after_good_answers(house: Living, nursery: trio.Nursery) -> None:
    one = await serve(nursery, hello)
    stream = await connect(house.port("http"))
    async with stream:
        await stream.send_all(get("one.test", one) + get("no.test", one))
        await answers(stream, b"hello /")
        assert (await the_rest(stream)).startswith(b"HTTP/1.1 403 ")


async def test_a_refusal_reaches_a_client_that_is_still_sending(house: Living) -> None:
    stream = await connect(house.port("http"))
    async with stream:
        body = b"x" * 300_000
        request = b"POST http://no.test/ HTTP/1.1\r\nHost: no.test\r\nContent-Length: %d\r\n\r\n" % len(body)
        await stream.send_all(request)
        await trio.testing.wait_all_tasks_blocked(0.05)
        await stream.send_all(body)
        got = bytearray()
        with trio.fail_after(60):
            async for chunk in stream:
                got += chunk
        assert got.startswith(b"HTTP/1.1 403 ")


async def test_an_upgrade_becomes_a_relay(house: Living, nursery: trio.Nursery) -> None:
    async def upgrading(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 101 Go\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\nwelcome ")
        await echo(stream)

    one = await serve(nursery, upgrading)
    stream = await connect(house.port("http"))
    async with stream:
        await stream.send_all(get("one.test", one, "/", "Connection: Upgrade\r\nUpgrade: chat\r\n"))
        head = b"HTTP/1.1 101 Go\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\nwelcome "
        assert await exactly(stream, len(head)) == head
        await stream.send_all(b"hi" * 1000)
        assert await exactly(stream, 2000) == b"hi" * 1000
        flow = only(house.tracker)
        assert flow.relay is not None
        assert (flow.flow.host, flow.counters()) == ("one.test", (2000, 2000))
        await stream.send_eof()
        assert await the_rest(stream) == b""
    await until(lambda: not len(house.tracker))


async def test_a_relay_made_after_a_long_talk_lives_its_whole_idle_time(house: Living, nursery: trio.Nursery) -> None:
    """Nothing has woken the reactor since the client came: its clock must not be taken at its word."""

    async def upgrading(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await released.wait()
        await stream.send_all(b"HTTP/1.1 101 Go\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n")
        await echo(stream)

    released = trio.Event()
    one = await serve(nursery, upgrading)
    stream = await connect(house.port("http"))
    async with stream:
        await stream.send_all(get("one.test", one, "/", "Connection: Upgrade\r\nUpgrade: chat\r\n"))
        await until(lambda: len(house.tracker) == 1)
        house.reactor.now -= 3600
        released.set()
        await exactly(stream, len(b"HTTP/1.1 101 Go\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n"))
        await until(lambda: [flow for flow in house.tracker if isinstance(flow, Connection) and flow.relay])
        assert only(house.tracker).relay.deadline > time.monotonic()


async def test_a_client_that_reads_nothing_is_let_go(house: Living, nursery: trio.Nursery) -> None:
    async def endless(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n")
        while True:
            await stream.send_all(b"x" * 65536)

    await house.reload(CONFIG.replace("idle: 2", "idle: 0.5"))
    one = await serve(nursery, endless)
    stream = await connect(house.port("http"))
    async with stream:
        await stream.send_all(get("one.test", one))
        await until(lambda: len(house.tracker) == 1)
        await until(lambda: not len(house.tracker))


async def test_silence_ends_a_conversation(house: Living, nursery: trio.Nursery) -> None:
    await house.reload(CONFIG.replace("idle: 2", "idle: 0.3"))
    one = await serve(nursery, hello)
    stream = await connect(house.port("http"))
    async with stream:
        await stream.send_all(get("one.test", one))
        await answers(stream, b"hello /")
        assert await the_rest(stream) == b""
    assert not len(house.tracker)


@pytest.mark.parametrize("how", ["broken", "finished"])
async def test_a_client_that_leaves_a_silent_server_takes_it_along(
    house: Living, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    asked, left = trio.Event(), trio.Event()

    async def silent(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        asked.set()
        assert await the_rest(stream) == b""
        left.set()

    if how == "finished":
        monkeypatch.setattr("cyfs_gateway.io.httpproxy._FAREWELL_SECONDS", 0.05)
    await house.reload(CONFIG.replace("idle: 2", "idle: 3600"))
    stream = await connect(house.port("http"))
    await stream.send_all(get("one.test", await serve(nursery, silent)))
    await asked.wait()
    if how == "broken":
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await stream.aclose()
    with trio.fail_after(60):
        await left.wait()
    await until(lambda: not len(house.tracker))


async def test_a_client_that_has_only_finished_sending_is_answered(house: Living, nursery: trio.Nursery) -> None:
    ended = trio.Event()

    async def slow(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await ended.wait()
        for part in (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", b"o", b"k"):
            await stream.send_all(part)
            await trio.testing.wait_all_tasks_blocked(0.05)

    stream = await connect(house.port("http"))
    async with stream:
        await stream.send_all(get("one.test", await serve(nursery, slow)))
        await until(lambda: len(house.tracker) == 1)
        await stream.send_eof()
        await trio.testing.wait_all_tasks_blocked(0.05)
        ended.set()
        assert (await the_rest(stream)).endswith(b"\r\n\r\nok")


async def test_a_conversation_can_be_closed_by_request(house: Living, nursery: trio.Nursery) -> None:
    one = await serve(nursery, hello)
    stream = await connect(house.port("http"))
    async with stream:
        await stream.send_all(get("one.test", one))
        await answers(stream, b"hello /")
        (view,) = house.gateway.connections()
        assert view.up > 0
        assert view.down == 45
        assert house.gateway.close_connection(view.id)
        assert await the_rest(stream) == b""
    assert not len(house.tracker)
