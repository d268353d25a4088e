"""The answers without end: lines over plain GET, messages over WebSocket, and how each of them ends."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
import trio
import trio.testing
from control_house import SECRET, House, PaperGateway, WebSocket
from wsproto.events import CloseConnection, Ping, Pong, TextMessage

from cyfs_gateway.config.model import ControlConfig
from cyfs_gateway.io.control.routes import Api, site_of
from cyfs_ns.control.access import Door
from cyfs_ns.io.control import websocket
from cyfs_ns.io.control.conversation import converse
from cyfs_ns.logline import LogLine

FEEDS = {
    "/logs": {"type": "warning", "payload": "one\\r\\ntwo \\x1b[31m host=h"},
    "/logs?level=debug&format=structured": {
        "time": "22:13:20",
        "level": "warn",
        "message": "one\\r\\ntwo \\x1b[31m",
        "fields": [{"key": "host", "value": "h"}],
    },
    "/traffic": {"up": 0, "down": 0, "upTotal": 7, "downTotal": 9},
    "/memory": {"inuse": 0, "oslimit": 0},
}


async def opened(house: House, target: str, headers: dict[str, str] | None = None) -> WebSocket:
    socket = await WebSocket.open(await house.connect(), target, host=f"127.0.0.1:{house.port}", headers=headers)
    assert isinstance(socket, WebSocket)
    return socket


def with_token(target: str) -> str:
    return f"{target}{'&' if '?' in target else '?'}token={SECRET.replace(' ', '%20')}"


@pytest.mark.parametrize("target", FEEDS)
async def test_a_websocket_gets_messages(house: House, target: str) -> None:
    socket = await opened(house, with_token(target))
    assert await socket.message() == FEEDS[target]


@pytest.mark.parametrize("target", FEEDS)
async def test_a_plain_get_gets_lines(house: House, target: str) -> None:
    async with await trio.open_unix_socket(house.socket) as stream:
        await stream.send_all(f"GET {target} HTTP/1.0\r\n\r\n".encode())
        heard = b""
        while b"}\n" not in heard:
            heard += await stream.receive_some(65536)
        assert json.loads(heard.partition(b"\r\n\r\n")[2].splitlines()[0]) == FEEDS[target]


async def test_a_websocket_may_carry_the_secret_in_a_header(house: House) -> None:
    socket = await opened(house, "/memory", {"Authorization": f"Bearer {SECRET}"})
    assert await socket.message() == {"inuse": 0, "oslimit": 0}


async def test_a_websocket_speaks_tls(house: House) -> None:
    context = ssl.create_default_context(cafile=house.ca)
    stream = await trio.open_ssl_over_tcp_stream("localhost", house.tls_port, ssl_context=context)
    host = f"localhost:{house.tls_port}"
    socket = await WebSocket.open(stream, with_token("/memory"), host=host, headers={"Origin": f"https://{host}"})
    assert isinstance(socket, WebSocket)
    assert await socket.message() == {"inuse": 0, "oslimit": 0}


async def test_connections_come_again_and_again(house: House) -> None:
    socket = await opened(house, with_token("/connections?interval=100"))
    assert len((await socket.message())["connections"]) == 2
    house.gateway.live = []
    while (await socket.message())["connections"]:
        pass


async def test_pings_are_answered_and_talk_is_ignored(house: House) -> None:
    socket = await opened(house, with_token("/logs"))
    await socket.message()
    await socket.send(TextMessage(data="x" * 100_000))
    await socket.send(Ping(payload=b"there?"))
    assert await socket.next_event() == Pong(payload=bytearray(b"there?"))
    await socket.send(CloseConnection(code=1000))
    assert isinstance(await socket.next_event(), CloseConnection)


async def test_a_wrong_frame_ends_the_socket_and_nothing_else(house: House) -> None:
    stream = await house.connect()
    socket = await WebSocket.open(stream, with_token("/logs"), host=f"127.0.0.1:{house.port}")
    assert isinstance(socket, WebSocket)
    await stream.send_all(b"\xff" * 64)
    assert await socket.has_left()
    assert (await house.tcp("/version")).status == 200


async def test_an_upgrade_without_a_key_is_a_bad_request(house: House) -> None:
    head = f"GET {with_token('/memory')} HTTP/1.1\r\nHost: 127.0.0.1:{house.port}\r\n"
    heard = await house.raw((head + "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n").encode())
    assert heard.startswith(b"HTTP/1.1 400 ")


class Talkative(PaperGateway):
    """Logs without end, and knows when its reader is gone."""

    def __init__(self, home: Path) -> None:
        super().__init__(home, ControlConfig(unix=""))
        self.left = trio.Event()

    async def logs(self, level: str) -> AsyncIterator[LogLine]:
        try:
            while True:
                await trio.lowlevel.checkpoint()
                yield self.loglines[0]
        finally:
            self.left.set()


@pytest.mark.parametrize("upgrade", ["", "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"])
async def test_a_reader_that_takes_nothing_is_left_and_its_feed_closed(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, upgrade: str
) -> None:
    client, server = trio.testing.memory_stream_pair()
    server.send_stream.send_all_hook = trio.sleep_forever
    gateway = Talkative(tmp_path)
    key = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n" if upgrade else ""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_served, server, gateway)
        await client.send_all(f"GET /logs HTTP/1.1\r\nHost: x\r\n{upgrade}{key}\r\n".encode())
    assert trio.current_time() >= websocket.SEND_SECONDS


async def test_a_feed_is_closed_when_its_reader_leaves(tmp_path: Path) -> None:
    client, server = trio.testing.memory_stream_pair()
    gateway = Talkative(tmp_path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_served, server, gateway)
        await client.send_all(b"GET /logs HTTP/1.1\r\nHost: x\r\n\r\n")
        await client.receive_some(1)
        await client.aclose()
    assert gateway.left.is_set()


async def test_a_silent_peer_is_pinged_and_then_left(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    client, server = trio.testing.memory_stream_pair()
    gateway = PaperGateway(tmp_path, ControlConfig(unix=""))
    gateway.loglines = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_served, server, gateway)
        socket = await WebSocket.open(client, "/logs", host="x")
        assert isinstance(socket, WebSocket)
        assert isinstance(await socket.next_event(), Ping)
        assert await socket.has_left()


async def _served(stream: trio.abc.Stream, gateway: PaperGateway) -> None:
    async with stream:
        with suppress(trio.BrokenResourceError):
            await converse(stream, Door(), site_of(Api(gateway)))  # type: ignore[arg-type]
