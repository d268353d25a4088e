"""Clients and strangers that play on time and on names of ports: what they may hold, and what they must not spoil."""

from __future__ import annotations

import socket
from pathlib import Path

import trio

from tests.cyfs_gateway.io.inprocess import connect, exactly, hello, living, serve, the_rest

LISTENER = "listeners: [{name: mixed, type: mixed, listen: 127.0.0.1, port: 0}]\n"


async def test_a_second_head_that_comes_in_drops_is_not_waited_for(tmp_path: Path, nursery: trio.Nursery) -> None:
    port = await serve(nursery, hello)
    async with living(tmp_path, LISTENER + "timeouts: {handshake: 300ms, idle: 600s}\n") as house:
        stream = await connect(house.port())
        async with stream:
            await stream.send_all(b"GET http://127.0.0.1:%d/a HTTP/1.1\r\nHost: x\r\n\r\n" % port)
            answer = b""
            while not answer.endswith(b"hello /a"):
                answer += await exactly(stream, 1)
            await stream.send_all(b"GET http://127")
            assert await the_rest(stream) == b""
    nursery.cancel_scope.cancel()


async def test_an_upload_may_take_longer_than_silence_may(tmp_path: Path, nursery: trio.Nursery) -> None:
    async def swallow(stream: trio.SocketStream) -> None:
        seen = b""
        while not seen.endswith(b"\r\n\r\n123456"):
            seen += await stream.receive_some(4096)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone")

    port = await serve(nursery, swallow)
    async with living(tmp_path, LISTENER + "timeouts: {idle: 2s}\n") as house:
        stream = await connect(house.port())
        async with stream:
            await stream.send_all(
                b"POST http://127.0.0.1:%d/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 6\r\n\r\n"
                % port
            )
            for digit in b"123456":
                await trio.sleep(0.4)  # far below the limit each, above it together
                await stream.send_all(bytes([digit]))
            assert (await the_rest(stream)).endswith(b"done")
    nursery.cancel_scope.cancel()


async def test_a_stranger_cannot_answer_for_the_target_of_a_forward(tmp_path: Path) -> None:
    with (
        socket.socket(type=socket.SOCK_DGRAM) as target,
        socket.socket(type=socket.SOCK_DGRAM) as stranger,
        socket.socket(type=socket.SOCK_DGRAM) as plain,
    ):
        target.bind(("127.0.0.1", 0))
        plain.bind(("127.0.0.1", 0))
        target.setblocking(False)
        plain.setblocking(False)
        forward = (
            "listeners: [{name: forward, type: tunnel, listen: 127.0.0.1, port: 0, network: [udp], "
            f"target: '127.0.0.1:{target.getsockname()[1]}'}}]\n"
        )
        asked, client = trio.socket.from_stdlib_socket(target), trio.socket.from_stdlib_socket(plain)
        async with living(tmp_path, forward) as house:
            with trio.fail_after(60):
                await client.sendto(b"question", ("127.0.0.1", house.port("forward", "udp")))
                _, way = await asked.recvfrom(100)
                stranger.sendto(b"forged", way)
                await asked.sendto(b"true", way)
                assert (await client.recvfrom(100))[0] == b"true"
