"""Who is kept apart from this house: the internet is open to them, and of the house what a rule lets them have."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from inprocess import Living, connect, hello, living, serve, socks5, the_rest

from cyfs_gateway.config.load import load
from cyfs_gateway.flow import Flow
from cyfs_gateway.io.fence import fenced, is_house
from cyfs_gateway.rules.table import speaks_of_listener
from cyfs_ns.message import Question, build_query
from tests.freeport import free_port

HOSTS = (
    "hosts: {inside.test: 127.0.0.1, localhost: 127.0.0.1, lan.test: 192.168.77.1, both.test: [127.0.0.1, 10.1.2.3]}\n"
)


@asynccontextmanager
async def gateway(home: Path, config: str) -> AsyncIterator[tuple[Living, int]]:
    """A gateway, and the port at which it serves the service ``notes``."""
    async with living(home, HOSTS + config) as found, trio.open_nursery() as nursery:
        door = socket.create_server(("127.0.0.1", 0))
        nursery.start_soon(found.gateway.serve_fenced, "service:notes", door)
        yield found, int(door.getsockname()[1])
        nursery.cancel_scope.cancel()


async def asked(proxy: int, host: str, port: int) -> tuple[int, bool]:
    """What SOCKS and plain HTTP say: the reply's code, and whether the page came."""
    stream, code = await socks5(proxy, host, port)
    await stream.aclose()
    stream = await connect(proxy)
    async with stream:
        await stream.send_all(
            f"GET http://{host}:{port}/ HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
        )
        answer = await the_rest(stream)
    assert answer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 403")), answer
    return code, answer.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("mode", ["mode: rule\nrules: ['MATCH,DIRECT']", "mode: direct", "mode: global"])
@pytest.mark.parametrize("host", ["127.0.0.1", "inside.test", "localhost", "::1", "0.0.0.0", "both.test", "lan.test"])
async def test_the_house_is_closed_to_them_whatever_the_mode(tmp_path: Path, mode: str, host: str):
    async with gateway(tmp_path, mode) as (_, proxy), trio.open_nursery() as nursery:
        port = await serve(nursery, hello)
        spelt = f"[{host}]" if ":" in host else host
        stream = await connect(proxy)
        async with stream:
            await stream.send_all(f"CONNECT {spelt}:{port} HTTP/1.1\r\nHost: {spelt}:{port}\r\n\r\n".encode())
            assert (await the_rest(stream)).startswith(b"HTTP/1.1 403")
        nursery.cancel_scope.cancel()


async def test_a_rule_that_names_them_opens_what_it_says(tmp_path: Path):
    async with trio.open_nursery() as nursery:
        port, other = await serve(nursery, hello), await serve(nursery, hello)
        rules = f"rules: ['AND,((IN-NAME,service:notes),(DST-PORT,{port})),DIRECT', 'DST-PORT,{other},DIRECT']\n"
        async with gateway(tmp_path, rules) as (found, proxy):
            assert await asked(proxy, "inside.test", port) == (0, True)
            assert await asked(proxy, "inside.test", other) == (2, False)
            assert found.gateway.totals()[1] > 0
        nursery.cancel_scope.cancel()


async def test_nobody_becomes_another_by_saying_so(tmp_path: Path):
    """The listener asks for no password, so the user that a client names is nobody."""
    async with trio.open_nursery() as nursery:
        port = await serve(nursery, hello)
        rules = "rules: ['AND,((IN-NAME,service:notes),(IN-USER,alice)),DIRECT', 'IN-NAME,service:notes,REJECT']\n"
        async with gateway(tmp_path, rules) as (_, proxy):
            stream = await connect(proxy)
            async with stream:
                await stream.send_all(
                    f"CONNECT inside.test:{port} HTTP/1.1\r\nHost: x\r\n"
                    "Proxy-Authorization: Basic YWxpY2U6eA==\r\n\r\n".encode()
                )
                assert (await the_rest(stream)).startswith(b"HTTP/1.1 403")
        nursery.cancel_scope.cancel()


async def test_what_they_hold_is_limited_and_ends_with_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cyfs_gateway.io.gateway._FENCED_MOST", 2)
    async with living(tmp_path, "rules: ['MATCH,DIRECT']\n") as found, trio.open_nursery() as nursery:
        door = socket.create_server(("127.0.0.1", 0))
        port = int(door.getsockname()[1])
        nursery.start_soon(found.gateway.serve_fenced, "service:notes", door)
        held = [await connect(port), await connect(port)]
        late = await connect(port)
        await late.send_all(b"GET http://127.0.0.1:9/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        await held[0].aclose()
        assert (await the_rest(late)).startswith(b"HTTP/1.1 403")
        nursery.cancel_scope.cancel()
    assert await held[1].receive_some(1) == b""


def test_which_addresses_are_of_the_house(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cyfs_gateway.io.fence.is_local", lambda ip: {"8.8.4.4": True, "8.8.1.1": None}.get(ip, False))
    for ip in ("1.1.1.1", "2606:4700::1111", "::ffff:1.1.1.1"):
        assert not is_house(ip), ip
    for ip in (
        *("127.0.0.1", "127.9.9.9", "0.0.0.0", "10.0.0.1", "169.254.169.254", "100.64.0.1", "224.0.0.1", "8.8.4.4"),
        *("::1", "::", "fe80::1", "fd00::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:8.8.4.4", "8.8.1.1"),
    ):
        assert is_house(ip), ip


async def test_ways_that_lead_out_stay_and_those_to_peers_do_not(tmp_path: Path):
    proxies = "proxies: [{name: far, type: socks5, server: 127.0.0.1, port: 9}]\n"
    async with living(tmp_path, proxies) as found:
        far = found.gateway._world.outbounds["far"]

        def flow(host: str = "", ip: str = "") -> Flow:
            return Flow("tcp", "Socks5", "127.0.0.1", 1, host, ip, 80, fenced=True)

        assert fenced(far, flow("out.test")) is far and fenced(far, flow(ip="1.1.1.1")) is far
        for inside in (flow("localhost"), flow("a.localhost"), flow(ip="192.168.1.1"), flow("x.test", "127.0.0.1")):
            assert fenced(far, inside) is None


def test_a_rule_speaks_of_a_listener_when_it_holds_for_no_other():
    def speaks(text: str) -> bool:
        config = load(f"rules: ['{text},DIRECT']\nlisteners: []\n".encode(), home="/h").config
        assert config is not None
        return speaks_of_listener(config.rules[0])

    assert speaks("IN-NAME,service:notes") and speaks("AND,((IN-NAME,service:notes),(DST-PORT,80))")
    assert speaks("OR,((IN-NAME,a),(IN-NAME,b))")
    for text in ("OR,((IN-NAME,a),(DST-PORT,80))", "NOT,((IN-NAME,a))", "DST-PORT,80"):
        assert not speaks(text), text


async def test_questions_are_answered_at_sockets_from_elsewhere(tmp_path: Path):
    dns = f"dns: {{enable: true, listen: '127.0.0.1:{free_port()}', nameserver: ['127.0.0.1:9']}}\n"
    async with living(tmp_path, "hosts: {box.test: 192.0.2.7}\n", base=dns) as found, trio.open_nursery() as nursery:
        door = socket.create_server(("127.0.0.1", 0))
        datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        datagrams.bind(("127.0.0.1", 0))
        port, udp = door.getsockname()[1], datagrams.getsockname()
        nursery.start_soon(found.gateway.serve_questions, door, datagrams)
        question = build_query(Question("box.test", 1), 7)
        with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
            await asker.sendto(question, udp)
            assert socket.inet_aton("192.0.2.7") in await asker.recv(4096)
        stream = await connect(port)
        async with stream:
            await stream.send_all(len(question).to_bytes(2, "big") + question)
            assert socket.inet_aton("192.0.2.7") in await stream.receive_some(4096)
        nursery.cancel_scope.cancel()
