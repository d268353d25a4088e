"""What servers of strangers answer to the gateway's own questions: subscriptions, checks, names.

Nobody waits for these answers but a background task, so an exception that escapes one of them would end the gateway.
"""

from __future__ import annotations

import logging
import socket
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio

from cyfs_gateway.io import world
from cyfs_ns.errors import BadWire, Unreachable
from cyfs_ns.io import resolver
from cyfs_ns.io.dial import plain_dial
from cyfs_ns.io.http import fetch
from cyfs_ns.io.resolver import Resolver
from cyfs_ns.upstream import parse_upstream
from tests.cyfs_gateway.io.inprocess import Handler, living, serve, socks5, until
from tunnels.endpoint import Target
from tunnels.group import Health
from tunnels.io.direct import Sockets
from tunnels.io.health import Checker
from tunnels.io.leaf import Dialer, Direct
from tunnels.io.registry import OutboundBuilder
from tunnels.io.waiting import TcpEndpoint, receive_some
from tunnels.spec import DialOptions, DirectSpec, Socks5Spec

LISTENER = "listeners: [{name: mixed, type: mixed, listen: 127.0.0.1, port: 0}]\n"


async def no_names(host: str) -> Sequence[str]:
    return ()


def answering(head: bytes, body: bytes = b"") -> Handler:
    async def answer(stream: trio.SocketStream) -> None:
        await stream.receive_some(65536)
        await stream.send_all(b"HTTP/1.1 " + head + b"Content-Length: %d\r\n\r\n" % len(body) + body)

    return answer


async def test_a_redirect_to_no_url_is_bad_wire(nursery: trio.Nursery) -> None:
    port = await serve(nursery, answering(b"302 Found\r\nLocation: http://[\r\n"))
    with pytest.raises(BadWire, match="no URL"):
        await fetch(f"http://127.0.0.1:{port}/", dial=plain_dial())
    nursery.cancel_scope.cancel()


async def test_numbers_of_thousands_of_digits_in_a_subscription_head(tmp_path: Path, nursery: trio.Nursery) -> None:
    body = b"proxies: [{name: one, type: socks5, server: 127.0.0.1, port: 9}]\n"
    head = b"200 OK\r\nsubscription-userinfo: total=%s; upload=7\r\n" % (b"9" * 5000)
    port = await serve(nursery, answering(head, body))
    config = f"proxy-providers: {{list: {{type: http, url: 'http://127.0.0.1:{port}/', interval: 3600}}}}\n"
    async with living(tmp_path, LISTENER + config) as house:
        provider = house.gateway._world.proxy_providers["list"]
        await until(lambda: provider.updated_at)
        assert provider.view([])["subscriptionInfo"] == {"Upload": 7}
    nursery.cancel_scope.cancel()


async def test_a_provider_whose_proxies_dial_through_themselves(tmp_path: Path, nursery: trio.Nursery) -> None:
    body = b"proxies: [{name: one, type: socks5, server: 127.0.0.1, port: 9, dialer-proxy: circle}]\n"
    port = await serve(nursery, answering(b"200 OK\r\n", body))
    config = f"""
proxy-providers: {{list: {{type: http, url: "http://127.0.0.1:{port}/", interval: 3600}}}}
proxy-groups: [{{name: circle, type: url-test, use: [list], url: "http://127.0.0.1:{port}/", interval: 300}}]
rules: ["DST-PORT,7,circle", "MATCH,DIRECT"]
"""
    async with living(tmp_path, LISTENER + config) as house:
        provider = house.gateway._world.proxy_providers["list"]
        await until(lambda: provider.updated_at)
        stream, code = await socks5(house.port(), "127.0.0.1", 7)
        await stream.aclose()
        assert code != 0
        assert await house.gateway.group_delay("circle", f"http://127.0.0.1:{port}/", 3.0, "") == {}
    nursery.cancel_scope.cancel()


async def test_dialers_in_a_circle_are_unreachable() -> None:
    circle: list[Dialer] = []
    builder = OutboundBuilder(
        options=DialOptions(), resolve=no_names, resolve_server=no_names, find=lambda name: circle[0]
    )
    circle.append(builder.build(Socks5Spec(name="a", server="192.0.2.1", port=1080, dialer_proxy="a", udp=True)))
    for opening in (circle[0].open_stream, circle[0].open_packets):
        with pytest.raises(Unreachable, match="circle"):
            await opening(Target("192.0.2.2", 80))


async def test_a_test_url_with_letters_beyond_ascii(nursery: trio.Nursery) -> None:
    asked: list[bytes] = []

    async def answer(stream: trio.SocketStream) -> None:
        asked.append(bytes(await stream.receive_some(4096)).split(b"\r\n")[0])
        await stream.send_all(b"HTTP/1.1 204 No Content\r\n\r\n")

    port = await serve(nursery, answer)
    direct = Direct(DirectSpec(name="direct"), Sockets(DialOptions(), no_names))
    assert await Checker(Health()).check(direct, f"http://127.0.0.1:{port}/\u00fc?\u20ac=%41", timeout=5.0) > 0
    assert asked == [b"HEAD /%C3%BC?%E2%82%AC=%41 HTTP/1.1"]
    nursery.cancel_scope.cancel()


async def test_background_work_that_fails_begins_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(world, "_AGAIN_SECONDS", 0.0)
    runs: list[int] = []

    async def work(limit: int) -> None:
        runs.append(limit)
        if len(runs) < limit:
            raise ValueError("nobody foresaw this")

    with caplog.at_level(logging.ERROR, "cyfs.world"):
        await world._keep_up(work, 3)
    assert runs == [3, 3, 3]
    assert len(caplog.records) == 2


async def test_a_crowd_behind_a_silent_name_server_takes_few_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "_AT_ONCE", 4)
    monkeypatch.setattr(resolver, "_WAITING_MOST", 8)
    outcomes: list[str] = []
    with socket.socket(type=socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        upstream = parse_upstream(f"127.0.0.1:{server.getsockname()[1]}")
        house = Resolver([upstream], ipv6=False, timeout=0.5)

        async def ask(number: int) -> None:
            try:
                await house.addresses(f"name{number}.test")
            except Unreachable as fault:
                outcomes.append(str(fault))

        async with trio.open_nursery() as crowd:
            for number in range(40):
                crowd.start_soon(ask, number)
            await until(lambda: len(outcomes) >= 28)
            server.setblocking(False)
            questions = {server.recv(4096)[2:] for _ in range(4)}
            with pytest.raises(BlockingIOError):
                server.recv(4096)
            assert len(questions) == 4
    assert len(outcomes) == 40
    assert sum("too many other questions" in outcome for outcome in outcomes) >= 28


async def test_who_waits_for_input_holds_no_buffer(nursery: trio.Nursery) -> None:
    pairs = [socket.socketpair() for _ in range(50)]
    ends = []
    for ours, _ in pairs:
        ours.setblocking(False)
        ends.append(TcpEndpoint(ours.family, ours.type, ours.proto, ours.detach()))
    tracemalloc.start()
    try:
        for end in ends:
            nursery.start_soon(receive_some, end)
        await trio.testing.wait_all_tasks_blocked()
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    nursery.cancel_scope.cancel()
    assert held < 20 * 65536
    for end, (_, theirs) in zip(ends, pairs, strict=True):
        end.close()
        theirs.close()
