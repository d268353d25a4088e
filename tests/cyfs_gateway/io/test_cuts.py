"""A flow that is cut looks complete to nobody: not to the client, not to the server, and not through a tunnel."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from commands import Pair, pair, service
from inprocess import Living, connect, dead_port, exactly, living, serve, socks5, until

from cyfs_gateway.io.chunks import Chunked
from tunnels.endpoint import Endpoint
from tunnels.io.stream import EndpointStream
from tunnels.io.waiting import TcpEndpoint

SOCKS = "listeners: [{name: mixed, type: mixed, listen: 127.0.0.1, port: 0}]\n"
VERSIONS = pytest.mark.parametrize("versions", ["[4]", "[5]"])


class Server:
    """Says half of what it has to say, and waits for the end."""

    def __init__(self) -> None:
        self.ended = ""
        self.over = trio.Event()

    async def talk(self, stream: trio.SocketStream) -> None:
        await stream.send_all(b"half of")
        self.ended = await how_it_ends(stream)
        self.over.set()


async def how_it_ends(stream: trio.abc.ReceiveStream) -> str:
    try:
        with trio.fail_after(60):
            while await stream.receive_some():
                pass
    except trio.BrokenResourceError:
        return "cut"
    return "complete"


async def cut(house: Living, how: str) -> None:
    if how == "one":
        assert house.gateway.close_connection(house.gateway.connections()[0].id)
    elif how == "all":
        assert house.gateway.close_connections() == 1
    else:
        await house.gateway.end()


@pytest.mark.parametrize("how", ["one", "all", "stop", "idle"])
async def test_a_cut_connection(tmp_path: Path, nursery: trio.Nursery, how: str) -> None:
    server = Server()
    target = await serve(nursery, server.talk)
    config = SOCKS + ("timeouts: {idle: 0.2}\n" if how == "idle" else "")
    async with living(tmp_path, config) as house:
        stream, code = await socks5(house.port(), "127.0.0.1", target)
        assert code == 0 and await exactly(stream, 7) == b"half of"
        if how != "idle":
            await cut(house, how)
        assert await how_it_ends(stream) == "cut"
        await server.over.wait()
        assert server.ended == "cut"
        await stream.aclose()


@pytest.mark.parametrize("fault", ["nobody there", "a rule"])
async def test_a_client_that_was_told_yes_before_the_server_was_tried(tmp_path: Path, fault: str) -> None:
    """The name that decides stands in what the client sends, and it sends nothing before it hears yes."""
    config = f"""{SOCKS}
sniffer: {{enable: true, force-domain: [www.test], sniff: {{HTTP: {{ports: ["1-65535"]}}}}}}
rules: ['DOMAIN,www.test,{"DIRECT" if fault == "nobody there" else "REJECT"}', 'MATCH,DIRECT']
"""
    async with living(tmp_path, config) as house:
        stream, code = await socks5(house.port(), "127.0.0.1", dead_port())
        assert code == 0
        await stream.send_all(b"GET / HTTP/1.0\r\nHost: www.test\r\n\r\n")
        assert await how_it_ends(stream) == "cut"
        await stream.aclose()


@asynccontextmanager
async def through_a_tunnel(
    base: Path, nursery: trio.Nursery, versions: str
) -> AsyncIterator[tuple[Pair, trio.abc.ReceiveStream, Server]]:
    """A command's stream from laptop to a server behind photos, in the middle of what the server says."""
    server = Server()
    target = await serve(nursery, server.talk)
    ours, theirs = (TcpEndpoint(one.family, one.type, 0, one.detach()) for one in socket.socketpair())
    for end in (ours, theirs):
        end.setblocking(False)

    async def near() -> Endpoint:
        return Chunked(theirs)

    async with (
        pair(base, service("web", target, 80), versions=versions) as both,
        EndpointStream(Chunked(ours)) as stream,
    ):
        await both.laptop.gateway.call_peer("photos.home.example", "", 80, near, network="tcp")
        assert await exactly(stream, 7) == b"half of"
        yield both, stream, server


@VERSIONS
@pytest.mark.parametrize("where", ["laptop", "photos"])
@pytest.mark.parametrize("how", ["one", "stop"])
async def test_a_cut_stream_of_a_tunnel(
    tmp_path: Path, nursery: trio.Nursery, versions: str, where: str, how: str
) -> None:
    async with through_a_tunnel(tmp_path, nursery, versions) as (both, stream, server):
        await cut(both.laptop if where == "laptop" else both.photos, how)
        assert await how_it_ends(stream) == "cut"
        with trio.fail_after(60):
            await server.over.wait()
        assert server.ended == "cut"


@VERSIONS
async def test_a_stream_of_a_tunnel_that_ends_by_itself_is_complete(
    tmp_path: Path, nursery: trio.Nursery, versions: str
) -> None:
    async with through_a_tunnel(tmp_path, nursery, versions) as (both, stream, server):
        assert isinstance(stream, EndpointStream)
        await stream.send_eof()
        assert await how_it_ends(stream) == "complete"
        assert server.ended == "complete"
        await until(lambda: not both.laptop.gateway.connections() and not both.photos.gateway.connections())


def reset(stream: trio.SocketStream) -> None:
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


@pytest.mark.parametrize("how", ["one", "stop", "idle", "reset", "not at all"])
async def test_an_answer_that_ends_with_its_connection(tmp_path: Path, nursery: trio.Nursery, how: str) -> None:
    """Nothing but the end of the connection tells a client of HTTP/1.0 that it has the whole of it."""
    go_on = trio.Event()

    async def answer(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.0 200 OK\r\n\r\nhalf of")
        await go_on.wait()
        if how == "reset":
            reset(stream)

    target = await serve(nursery, answer)
    config = SOCKS + ("timeouts: {idle: 0.2}\n" if how == "idle" else "")
    async with living(tmp_path, config) as house:
        stream = await connect(house.port())
        await stream.send_all(f"GET http://127.0.0.1:{target}/ HTTP/1.0\r\n\r\n".encode())
        heard = b""
        while not heard.endswith(b"half of"):
            heard += await exactly(stream, 1)
        if how in ("one", "stop"):
            await cut(house, how)
        elif how != "idle":
            go_on.set()
        assert await how_it_ends(stream) == ("complete" if how == "not at all" else "cut")
        await stream.aclose()
        go_on.set()
