"""Clients who hear that their way is open before the peer has said so: what becomes of them, and who hears of a no.

``web`` is a service at port 80 of the peer, ``dead`` one at 82 whose target is not there; at 81 there is none.
"""

from __future__ import annotations

import logging
import socket
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from inprocess import Living, connect, echo, exactly, hello, serve, socks5, the_rest, until
from peering import LAPTOP, MALLORY, NAS, PHOTOS, PI, machine, published
from test_peers import BY_NAME, HASTY, door, greet, tunnels, web

from tests.freeport import free_port

NAME = "photos.home.example"
BY_GROUP = HASTY.replace(
    "rules: ['DOMAIN-SUFFIX,home.example,peers'",
    "proxy-groups: [{name: home, type: fallback, proxies: [peers, DIRECT], interval: 0}]\n"
    "rules: ['DOMAIN-SUFFIX,home.example,home'",
)


@asynccontextmanager
async def two(tmp_path: Path, target: int, config: str = HASTY, more: str = "") -> AsyncIterator[tuple[Living, Living]]:
    """The peer, and a machine without a tunnel to it."""
    port = free_port()
    dead = f", {{name: dead, port: 82, target: 'tcp://127.0.0.1:{free_port()}', allow: ['ZONE,home.example']}}]"
    async with (
        published(port) as dns,
        machine(tmp_path / "photos", NAS, more + door(port, web(target)[:-1] + dead), did=PHOTOS, dns=dns) as photos,
        machine(tmp_path / "laptop", PI, config, did=LAPTOP, dns=dns) as laptop,
    ):
        yield photos, laptop


async def reset(stream: trio.SocketStream) -> None:
    """It ends so that nobody takes what came for all there was."""
    with pytest.raises(trio.BrokenResourceError), trio.fail_after(60):
        while await stream.receive_some():
            pass
    await stream.aclose()


async def code(house: Living, port: int) -> int:
    stream, said = await socks5(house.port(), NAME, port)
    await stream.aclose()
    return said


@pytest.mark.parametrize(("port", "honest"), [(81, 2), (82, 5)])
async def test_a_no_is_a_reset_once_and_then_a_code(
    tmp_path: Path, nursery: trio.Nursery, port: int, honest: int
) -> None:
    """Also for whoever waits for the server to speak first, as with ssh: no end that could be the server's."""
    async with two(tmp_path, await serve(nursery, echo)) as (_, laptop):
        stream, said = await socks5(laptop.port(), NAME, port)
        assert said == 0, "it has proven itself, and says no after that"
        await reset(stream)
        assert not laptop.gateway.connections()
        assert await code(laptop, port) == honest


async def test_a_yes_is_early_and_what_is_said_arrives(tmp_path: Path, nursery: trio.Nursery) -> None:
    async with two(tmp_path, await serve(nursery, echo)) as (photos, laptop):
        device = await laptop.gateway._peers.device()
        for _ in range(2):
            stream, said = await socks5(laptop.port(), NAME, 80)
            await stream.send_all(b"hello")
            assert (said, await exactly(stream, 5)) == (0, b"hello")
            await stream.aclose()
            for tunnel in await tunnels(photos):
                tunnel.close()
            await until(lambda: not device.tunnels())


async def test_a_server_may_speak_first(tmp_path: Path, nursery: trio.Nursery) -> None:
    async with two(tmp_path, await serve(nursery, greet)) as (_, laptop):
        stream, said = await socks5(laptop.port(), NAME, 80)
        assert (said, await exactly(stream, 13)) == (0, b"220 welcome\r\n")
        await stream.aclose()


@pytest.mark.parametrize(("port", "honest"), [(81, 2), (82, 5)])
async def test_who_wants_codes_has_them(tmp_path: Path, nursery: trio.Nursery, port: int, honest: int) -> None:
    async with two(tmp_path, await serve(nursery, echo), BY_NAME) as (_, laptop):
        assert await code(laptop, port) == honest


async def test_who_is_not_let_in_hears_it_of_the_next(tmp_path: Path, nursery: trio.Nursery) -> None:
    port = free_port()
    async with (
        published(port) as dns,
        machine(tmp_path / "photos", NAS, door(port, web(await serve(nursery, echo))), did=PHOTOS, dns=dns),
        machine(tmp_path / "mallory", MALLORY, HASTY, dns=dns) as mallory,
    ):
        stream, said = await socks5(mallory.port(), NAME, 80)
        assert said == 0
        await stream.send_all(b"hello")
        await reset(stream)
        assert await code(mallory, 80) == 2


async def test_connect_is_as_socks(tmp_path: Path, nursery: trio.Nursery) -> None:
    async with two(tmp_path, await serve(nursery, echo)) as (_, laptop):
        for answer in (b"HTTP/1.1 200 ", b"HTTP/1.1 502 "):
            stream = await connect(laptop.port())
            await stream.send_all(b"CONNECT %s:82 HTTP/1.1\r\nHost: x\r\n\r\n" % NAME.encode())
            assert await exactly(stream, len(answer)) == answer
            if answer.startswith(b"HTTP/1.1 200"):
                await reset(stream)
            else:
                assert b"refused" in await the_rest(stream)
                await stream.aclose()


@pytest.mark.parametrize(("port", "answer"), [(80, b"200"), (81, b"403"), (82, b"502")])
async def test_a_request_has_its_page_at_once(tmp_path: Path, nursery: trio.Nursery, port: int, answer: bytes) -> None:
    """Nobody says yes to it before there is an answer."""
    async with two(tmp_path, await serve(nursery, hello)) as (_, laptop):
        stream = await connect(laptop.port())
        await stream.send_all(b"GET http://%s:%d/ HTTP/1.1\r\nConnection: close\r\n\r\n" % (NAME.encode(), port))
        assert (await the_rest(stream)).startswith(b"HTTP/1.1 " + answer)
        await stream.aclose()


@pytest.mark.parametrize(("port", "counts"), [(81, False), (82, True)])
async def test_the_log_and_the_groups_learn_of_it_as_of_an_honest_one(
    tmp_path: Path,
    nursery: trio.Nursery,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    port: int,
    counts: bool,
) -> None:
    caplog.set_level(logging.INFO)
    async with two(tmp_path, await serve(nursery, echo), BY_GROUP) as (_, laptop):
        told: list[Sequence[str]] = []
        monkeypatch.setattr(laptop.engine, "on_unreachable", told.append)
        stream, said = await socks5(laptop.port(), NAME, port)
        assert said == 0
        await reset(stream)
        assert told == [("peers", "home")] * counts
        (why,) = [one for one in caplog.messages if f"127.0.0.1 -> {NAME}:{port}: the peer" in one]
        assert "refused the connection" in why if counts else "refuses" in why


async def test_who_went_away_before_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Sequence[str]] = []
    with socket.socket() as full, socket.socket() as first:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        target = full.getsockname()[1]
        first.connect(("127.0.0.1", target))  # and nobody else gets in
        async with two(tmp_path, target, BY_GROUP, "timeouts: {connect: 60s}\n") as (photos, laptop):
            monkeypatch.setattr(laptop.engine, "on_unreachable", told.append)
            stream, said = await socks5(laptop.port(), NAME, 80)
            assert said == 0
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await stream.aclose()
            await until(lambda: not laptop.gateway.connections())
            for tunnel in await tunnels(photos):
                tunnel.close()
    assert told == []
