"""Ways that cannot be taken: what the client is told, in its own protocol, and what it is not told."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import trio
from inprocess import (
    Living,
    connect,
    curl,
    dead_port,
    echo,
    exactly,
    living,
    serve,
    socks5,
    socks5_request,
    the_rest,
    until,
)

CONFIG = """
timeouts: {connect: 0.6}
hosts:
  two.test: [127.0.0.2, 127.0.0.3]
  slowtwo.test: [127.0.0.4, 127.0.0.3]
  six.test: ["::1"]
proxies:
  - {name: only4, type: direct, ip-version: ipv4}
listeners:
  - {name: mixed, type: mixed, listen: 127.0.0.1, port: 0}
rules:
  - DOMAIN,no.test,REJECT
  - DOMAIN,silent.test,REJECT-DROP
  - DOMAIN,six.test,only4
  - IP-CIDR,198.51.100.0/24,REJECT,no-resolve
  - MATCH,DIRECT
"""


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[Living]:
    async with living(tmp_path, CONFIG) as made:
        yield made


async def test_reject_says_so_in_every_protocol(house: Living) -> None:
    _, code = await socks5(house.port(), "no.test", 80)
    assert code == 2
    _, code = await socks5(house.port(), "198.51.100.9", 80)
    assert code == 2
    stream = await connect(house.port())
    await stream.send_all(b"\x04\x01\0\x50\0\0\0\x01\0no.test\0early words")
    assert (await the_rest(stream))[:2] == b"\0\x5b"
    for extra in ((), ("-p",)):
        _, said = await curl(
            "-x", f"http://127.0.0.1:{house.port()}", *extra, "-w", "%{http_code} %{http_connect}", "http://no.test/"
        )
        assert "403" in said
    assert len(house.tracker) == 0


@pytest.mark.parametrize(
    "request_",
    [
        socks5_request("silent.test", 80) + b"early",
        b"CONNECT silent.test:80 HTTP/1.1\r\n\r\n",
        b"GET http://silent.test/ HTTP/1.1\r\nHost: silent.test\r\n\r\n",
    ],
)
async def test_reject_drop_says_nothing_for_a_while(
    house: Living, monkeypatch: pytest.MonkeyPatch, request_: bytes
) -> None:
    for place in ("connection", "httpproxy"):
        monkeypatch.setattr(f"cyfs_gateway.io.{place}.DROP_SECONDS", 0.3)
    stream = await connect(house.port())
    async with stream:
        await stream.send_all(request_)
        await until(lambda: house.engine.drops == 1)
        assert await the_rest(stream) in (b"", b"\x05\x00")
    await until(lambda: house.engine.drops == 0)


async def test_the_silent_are_bounded(house: Living, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cyfs_gateway.io.connection.DROPS_MOST", 2)
    streams = []
    for _ in range(4):
        streams.append(await connect(house.port()))
        await streams[-1].send_all(socks5_request("silent.test", 80))
    await until(lambda: house.engine.drops == 2 and len(house.tracker) == 2)
    await streams[0].aclose()
    await until(lambda: house.engine.drops == 1 and len(house.tracker) == 1)
    for stream in streams:
        await stream.aclose()
    await until(lambda: house.engine.drops == 0)


@contextmanager
def black_hole(host: str) -> Iterator[int]:
    """A port whose queue is full: the kernel drops every further attempt to connect."""
    with socket.socket() as listener:
        listener.bind((host, 0))
        listener.listen(0)
        address = listener.getsockname()
        filling = []
        for _ in range(3):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(address)
            filling.append(sock)
        yield address[1]
        for sock in filling:
            sock.close()


async def test_targets_that_fail_in_different_ways(house: Living) -> None:
    _, code = await socks5(house.port(), "127.0.0.1", dead_port())
    assert code == 5
    _, code = await socks5(house.port(), "255.255.255.255", 80)
    assert code == 3
    with black_hole("127.0.0.1") as port:
        _, code = await socks5(house.port(), "127.0.0.1", port)
        assert code == 4
        for extra in ((), ("-p",)):
            _, said = await curl(
                *("-x", f"http://127.0.0.1:{house.port()}", *extra),
                *("-w", "%{http_code} %{http_connect}", f"http://127.0.0.1:{port}/"),
            )
            assert "504" in said
    _, said = await curl(
        *("-x", f"http://127.0.0.1:{house.port()}", "-d", "@/usr/bin/env", "-w", "%{http_code}"),
        f"http://127.0.0.1:{dead_port()}/",
    )
    assert said.endswith("502")
    assert len(house.tracker) == 0


async def test_a_name_without_an_address_of_the_wanted_family(house: Living, nursery: trio.Nursery) -> None:
    port = await serve(nursery, echo, "::1")
    stream, code = await socks5(house.port(), "::1", port)
    assert code == 0
    await stream.aclose()
    _, code = await socks5(house.port(), "six.test", port)
    assert code == 4


async def test_the_next_address_is_tried_when_the_first_refuses(house: Living, nursery: trio.Nursery) -> None:
    port = await serve(nursery, echo, "127.0.0.3")
    stream, code = await socks5(house.port(), "two.test", port)
    assert code == 0
    await stream.send_all(b"over there")
    assert await exactly(stream, 10) == b"over there"
    (view,) = house.gateway.connections()
    assert view.remote == "127.0.0.3"
    await stream.aclose()


async def test_the_next_address_joins_when_the_first_is_silent(house: Living, nursery: trio.Nursery) -> None:
    with black_hole("127.0.0.4") as port:
        listeners = await trio.open_tcp_listeners(port, host="127.0.0.3")
        nursery.start_soon(trio.serve_listeners, echo, listeners)
        for _ in range(2):
            stream, code = await socks5(house.port(), "slowtwo.test", port)
            assert code == 0
            await stream.send_all(b"over there")
            assert await exactly(stream, 10) == b"over there"
            (view,) = house.gateway.connections()
            assert view.remote == "127.0.0.3"
            await stream.aclose()
            await until(lambda: not len(house.tracker))


async def test_all_addresses_silent(house: Living) -> None:
    with black_hole("127.0.0.4") as port:
        _, code = await socks5(house.port(), "slowtwo.test", port)
        assert code in (4, 5)
    assert len(house.tracker) == 0


async def test_a_client_that_leaves_while_its_way_is_opened_takes_it_along(house: Living) -> None:
    with black_hole("127.0.0.1") as port:
        stream = await connect(house.port())
        await stream.send_all(socks5_request("127.0.0.1", port))
        await until(lambda: len(house.tracker) == 1)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await stream.aclose()
        await until(lambda: len(house.tracker) == 0, 0.5)


# Loops

LOOPS = """
timeouts: {{connect: 2}}
proxies:
  - {{name: me, type: socks5, server: 127.0.0.1, port: {port}, udp: true}}
listeners:
  - {{name: mixed, type: mixed, listen: 127.0.0.1, port: {port}}}
  - {{name: there, type: tunnel, listen: 127.0.0.1, port: {tunnel}, network: [tcp, udp], target: "127.0.0.1:{tunnel}"}}
  - {{name: named, type: tunnel, listen: 127.0.0.1, port: {named}, network: [tcp], target: "loop.test:{named}"}}
hosts: {{loop.test: [127.0.0.9, 127.0.0.1]}}
rules:
  - DOMAIN,by-me.test,me
  - MATCH,DIRECT
"""


async def test_no_flow_comes_back_to_us(tmp_path: Path) -> None:
    port, tunnel, named = dead_port(), dead_port(), dead_port()
    async with living(tmp_path, LOOPS.format(port=port, tunnel=tunnel, named=named)) as house:
        for number in (tunnel, named):
            with suppress(ConnectionResetError):  # before we know that we are connected
                stream = await connect(number)
                assert await the_rest(stream) == b""
                await stream.aclose()
        assert house.tracker.seen == 2
        for host in ("127.0.0.1", "loop.test"):
            _, code = await socks5(port, host, port)
            assert code == 2
        assert house.tracker.seen == 4
        _, code = await socks5(port, "by-me.test", 80)
        assert code in (1, 2)
        assert house.tracker.seen == 5
        with trio.socket.socket(type=socket.SOCK_DGRAM) as sock:
            await sock.connect(("127.0.0.1", tunnel))
            await sock.send(b"round and round")
            await until(lambda: house.tracker.seen == 6)
            await until(lambda: not len(house.tracker))
        assert house.tracker.seen == 6
        assert house.tracker.totals() == (0, 0)
