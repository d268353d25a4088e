"""Real and odd clients at the TCP listeners: every way to ask for a way, whole, in pieces and too early."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
import trio
import trio.testing
from inprocess import (
    Living,
    connect,
    curl,
    dead_port,
    echo,
    exactly,
    hello,
    living,
    only,
    serve,
    socks5,
    socks5_request,
    the_rest,
    until,
)

from tunnels.endpoint import Target
from tunnels.proxyproto import build_v1, build_v2

CONFIG = """
timeouts: {handshake: 5, connect: 2}
hosts: {hello.test: 127.0.0.1, echo.test: 127.0.0.1}
listeners:
  - {name: mixed, type: mixed, listen: 127.0.0.1, port: 0}
  - {name: http, type: http, listen: 127.0.0.1, port: 0}
  - {name: socks, type: socks, listen: 127.0.0.1, port: 0}
  - name: users
    type: mixed
    listen: 127.0.0.1
    port: 0
    users: [{username: alice, password: "wonder land"}]
    skip-auth-prefixes: [127.0.0.5/32]
  - {name: balanced, type: mixed, listen: 127.0.0.1, port: 0, proxy-protocol: [127.0.0.2/32, 192.0.2.0/24]}
  - {name: few, type: mixed, listen: 127.0.0.1, port: 0, allowed-ips: [127.0.0.0/29], disallowed-ips: [127.0.0.3/32]}
rules:
  - SRC-IP-CIDR,192.0.2.7/32,DIRECT
  - IN-NAME,balanced,REJECT
  - MATCH,DIRECT
"""


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[Living]:
    async with living(tmp_path, CONFIG) as made:
        yield made


@pytest.fixture
async def web(nursery: trio.Nursery) -> int:
    return await serve(nursery, hello)


@pytest.fixture
async def mirror(nursery: trio.Nursery) -> int:
    return await serve(nursery, echo)


@pytest.mark.parametrize("scheme", ["socks4", "socks4a", "socks5", "socks5h", "http", "connect"])
async def test_curl_by_every_proxy_protocol(house: Living, web: int, scheme: str) -> None:
    host = "127.0.0.1" if scheme in ("socks4", "socks5") else "hello.test"
    for name in ("mixed", "http" if scheme in ("http", "connect") else "socks"):
        proxy = f"{'http' if scheme == 'connect' else scheme}://127.0.0.1:{house.port(name)}"
        extra = ["-p"] if scheme == "connect" else []
        said = await curl("-x", proxy, *extra, f"http://{host}:{web}/one", f"http://{host}:{web}/two")
        assert said == (0, "hello /onehello /two")
    await until(lambda: len(house.tracker) == 0)


@pytest.mark.parametrize("scheme", ["socks5h", "http", "connect"])
@pytest.mark.parametrize(
    ("user", "served"),
    [("alice:wonder%20land", True), ("alice:wrong", False), ("bob:wonder%20land", False), ("", False)],
)
async def test_curl_with_right_and_wrong_users(house: Living, web: int, scheme: str, user: str, served: bool) -> None:
    proxy = f"{'http' if scheme == 'connect' else scheme}://{user + '@' if user else ''}127.0.0.1:{house.port('users')}"
    extra = ["-p"] if scheme == "connect" else []
    code, said = await curl("-x", proxy, *extra, "-w", "%{http_code} %{http_connect}", f"http://hello.test:{web}/")
    if served:
        assert code == 0
        assert said.startswith("hello /")
    elif scheme == "socks5h":
        assert code == 97
    else:
        assert "407" in said
    assert house.tracker.seen == (1 if served else 0)


async def test_excused_sources_need_no_user(house: Living, web: int) -> None:
    proxy = f"socks5h://127.0.0.1:{house.port('users')}"
    assert await curl("--interface", "127.0.0.5", "-x", proxy, f"http://hello.test:{web}/") == (0, "hello /")


@pytest.mark.parametrize(("source", "served"), [("127.0.0.1", True), ("127.0.0.3", False), ("127.0.0.9", False)])
async def test_only_allowed_sources_are_served(house: Living, mirror: int, source: str, served: bool) -> None:
    stream = await connect(house.port("few"), source=source)
    async with stream:
        try:
            await stream.send_all(socks5_request("127.0.0.1", mirror))
        except trio.BrokenResourceError:
            assert not served
        assert bool(await the_rest_until(stream, 2)) == served


async def the_rest_until(stream: trio.SocketStream, count: int) -> bytes:
    try:
        return await stream.receive_some(count)
    except trio.BrokenResourceError:
        return b""


async def test_a_request_dribbled_byte_by_byte(house: Living, mirror: int) -> None:
    for request, answer in (
        (socks5_request("echo.test", mirror), 12),
        (b"\x04\x01" + mirror.to_bytes(2, "big") + b"\0\0\0\x01me\0echo.test\0", 8),
        (b"CONNECT echo.test:%d HTTP/1.1\r\nHost: echo.test\r\n\r\n" % mirror, 39),
    ):
        stream = await connect(house.port())
        async with stream:
            for byte in request + b"and a first word":
                await stream.send_all(bytes([byte]))
                await trio.testing.wait_all_tasks_blocked()
            assert (await exactly(stream, answer + 16))[answer:] == b"and a first word"


async def test_everything_sent_at_once(house: Living, mirror: int) -> None:
    word = b"far too early" * 5000
    for request, answer in (
        (socks5_request("echo.test", mirror), 12),
        (b"\x04\x01" + mirror.to_bytes(2, "big") + b"\x7f\0\0\x01me\0", 8),
        (b"CONNECT 127.0.0.1:%d HTTP/1.1\r\n\r\n" % mirror, 39),
    ):
        stream = await connect(house.port())
        async with stream:
            await stream.send_all(request + word)
            await stream.send_eof()
            assert (await the_rest(stream))[answer:] == word


async def test_a_flow_is_listed_while_it_lives_and_counted_after(house: Living, mirror: int) -> None:
    stream, code = await socks5(house.port(), "echo.test", mirror)
    assert code == 0
    await stream.send_all(b"seven77")
    assert await exactly(stream, 7) == b"seven77"
    (view,) = house.gateway.connections()
    assert (view.flow.host, view.flow.dst_port, view.flow.kind) == ("echo.test", mirror, "Socks5")
    assert (view.up, view.down, view.rule, view.chains) == (7, 7, "Match", ("DIRECT",))
    assert view.remote == "127.0.0.1"
    assert house.tracker.totals() == (7, 7)
    assert house.gateway.close_connection(view.id)
    assert not house.gateway.close_connection(view.id)
    assert await the_rest(stream) == b""
    await stream.aclose()
    await until(lambda: not house.gateway.connections())
    assert house.tracker.totals() == (7, 7)
    assert house.tracker.by_outbound()["DIRECT"] == (7, 7)


@pytest.mark.parametrize("version", [1, 2])
async def test_proxy_headers_are_believed_from_named_sources(house: Living, mirror: int, version: int) -> None:
    build = build_v1 if version == 1 else build_v2
    header = build(Target("192.0.2.7", 4321), Target("192.0.2.1", 80))
    stream = await connect(house.port("balanced"), source="127.0.0.2")
    async with stream:
        for byte in header:
            await stream.send_all(bytes([byte]))
        await stream.send_all(socks5_request("127.0.0.1", mirror) + b"word")
        assert (await exactly(stream, 16))[12:] == b"word"
        flow = only(house.tracker).flow
        assert (flow.src_ip, flow.src_port) == ("192.0.2.7", 4321)


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n", b"PROXY TCP4 nonsense\r\n", b"\x05\x01\x00", b"P" * 300])
async def test_named_sources_must_send_a_proxy_header(house: Living, said: bytes) -> None:
    stream = await connect(house.port("balanced"), source="127.0.0.2")
    async with stream:
        await stream.send_all(said)
        assert await the_rest(stream) == b""
    assert house.tracker.seen == 0


async def test_strangers_may_not_send_a_proxy_header(house: Living) -> None:
    stream = await connect(house.port("balanced"))
    async with stream:
        await stream.send_all(build_v1(Target("192.0.2.7", 4321), Target("192.0.2.1", 80)) + b"\r\n")
        assert (await the_rest(stream)).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (b"\x05\x01\x01", b"\x05\xff"),
        (b"\x05\x01\x00\x05\x09\x00\x01\x7f\0\0\x01\0\x50", b"\x05\x00\x05\x07"),
        (b"\x04\x02\0\x50\x7f\0\0\x01\0", b"\x00\x5b"),
        (b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\r\n\r\n", b"HTTP/1.1 400 "),
        (b"GET /path HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 400 "),
        (b"CONNECT x:70000 HTTP/1.1\r\n\r\n", b"HTTP/1.1 400 "),
        (b"GET http://x/ HTTP/1.1\r\n" + b"a: " + b"b" * 100_000 + b"\r\n\r\n", b"HTTP/1.1 400 "),
    ],
)
async def test_nonsense_is_answered_and_ends(house: Living, said: bytes, answer: bytes) -> None:
    stream = await connect(house.port())
    async with stream:
        with suppress(trio.BrokenResourceError):
            await stream.send_all(said)
        assert (await the_rest(stream)).startswith(answer) or len(said) > 65536
    await until(lambda: not house.engine.halves)
    assert house.tracker.seen == 0


@pytest.mark.parametrize(
    "said", [b"", b"\x05", b"\x05\x01\x00\x05", b"CONNECT x", b"GET http://hello.test/ HTTP/1.1\r\n"]
)
async def test_a_client_that_never_finishes_its_request_is_let_go(house: Living, said: bytes) -> None:
    await house.reload(CONFIG.replace("handshake: 5", "handshake: 0.3"))
    stream = await connect(house.port())
    async with stream:
        if said:
            await stream.send_all(said)
        await until(lambda: house.engine.halves)
        answer = await the_rest(stream)
        assert answer in (b"", b"\x05\x00")
    assert not house.engine.halves


async def test_in_a_crowd_of_unfinished_handshakes_the_oldest_makes_room(
    house: Living, mirror: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cyfs_gateway.io.engine.HANDSHAKES_MOST", 3)
    waiting = []
    for number in range(5):
        waiting.append(await connect(house.port()))
        await until(lambda: house.engine.halves and len(waiting) == number + 1)  # noqa: B023
        await waiting[-1].send_all(b"\x05")
        await trio.testing.wait_all_tasks_blocked()
    assert len(house.engine.halves) == 3
    for stream in waiting[:2]:
        assert await the_rest(stream) == b""
    newest = waiting[-1]
    await newest.send_all(socks5_request("127.0.0.1", mirror)[1:])
    assert (await exactly(newest, 4))[3] == 0
    for stream in waiting:
        await stream.aclose()


@pytest.mark.parametrize("kept", [False, True])
async def test_many_long_unfinished_heads_are_bounded_together(
    house: Living, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    """The first heads of connections, and later ones on kept connections."""
    monkeypatch.setattr("cyfs_gateway.io.engine.EARLY_TOTAL_MOST", 100_000)
    web, dead = await serve(nursery, hello), dead_port()
    waiting = []
    for number in range(4):
        waiting.append(stream := await connect(house.port()))
        if kept:
            await stream.send_all(b"GET http://127.0.0.1:%d/ HTTP/1.1\r\n\r\n" % web)
            assert (await exactly(stream, 45)).endswith(b"hello /")
        await stream.send_all(b"GET http://127.0.0.1:%d/ HTTP/1.1\r\nX: %s" % (dead, b"x" * 40_000))
        await until(lambda: number >= 2 or len(house.engine.early) == number + 1)  # noqa: B023
    for stream in waiting[:2]:
        with suppress(trio.BrokenResourceError):
            assert await the_rest(stream) == b""
    await until(lambda: len(house.engine.early) == 2)
    newest = waiting[-1]
    await newest.send_all(b"\r\n\r\n")
    assert (await exactly(newest, 12)).startswith(b"HTTP/1.1 502")
    for stream in waiting:
        await stream.aclose()
    await until(lambda: not house.engine.early and not house.engine._early_total)
