"""Ways through real proxies, chained and grouped, as clients of the gateway see them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trustme
from inprocess import dead_port, echo, exactly, living, serve, socks5, udp_echo, until
from test_udp import associated

from tests.tunnels.peers import SingBox
from tunnels.endpoint import Target

CONFIG = """
hosts: {{one.test: 127.0.0.1}}
proxies:
  - {{name: box, type: socks5, server: 127.0.0.1, port: {socks}, username: alice, password: "wonder land", udp: true}}
  - name: chained
    type: http
    server: 127.0.0.1
    port: {http}
    username: alice
    password: "wonder land"
    dialer-proxy: box
  - {{name: wrong, type: socks5, server: 127.0.0.1, port: {socks}, username: alice, password: nonsense}}
  - {{name: dead, type: socks5, server: 127.0.0.1, port: {dead}}}
  - {{name: carried, type: direct, dialer-proxy: choice}}
proxy-groups:
  - {{name: choice, type: select, proxies: [box, DIRECT, REJECT, dead]}}
listeners:
  - {{name: mixed, type: mixed, listen: 127.0.0.1, port: 0}}
  - {{name: box, type: mixed, listen: 127.0.0.1, port: 0, proxy: box}}
  - {{name: chained, type: mixed, listen: 127.0.0.1, port: 0, proxy: chained}}
  - {{name: wrong, type: mixed, listen: 127.0.0.1, port: 0, proxy: wrong}}
  - {{name: dead, type: mixed, listen: 127.0.0.1, port: 0, proxy: dead}}
  - {{name: carried, type: mixed, listen: 127.0.0.1, port: 0, proxy: carried}}
rules:
  - MATCH,choice
"""


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SingBox]:
    with SingBox(tmp_path_factory.mktemp("sing-box"), trustme.CA()).run() as running:
        yield running


def written(box: SingBox) -> str:
    return CONFIG.format(socks=box.socks, http=box.http, dead=dead_port())


async def test_streams_through_a_proxy_a_chain_and_a_group(tmp_path: Path, nursery: trio.Nursery, box: SingBox) -> None:
    port = await serve(nursery, echo)
    async with living(tmp_path, written(box)) as house:
        for name, chain in (
            ("box", ("box",)),
            ("chained", ("chained",)),
            ("carried", ("carried",)),
            ("mixed", ("box", "choice")),
        ):
            stream, code = await socks5(house.port(name), "127.0.0.1", port)
            assert code == 0, name
            await stream.send_all(b"through")
            assert await exactly(stream, 7) == b"through"
            (view,) = house.gateway.connections()
            assert view.chains == chain
            await stream.aclose()
            await until(lambda: not len(house.tracker))
        assert house.tracker.by_outbound()["box"] == (14, 14)


@pytest.mark.parametrize(("name", "codes"), [("wrong", {1}), ("dead", {5})])
async def test_a_proxy_that_fails(tmp_path: Path, box: SingBox, name: str, codes: set[int]) -> None:
    async with living(tmp_path, written(box)) as house:
        _, code = await socks5(house.port(name), "127.0.0.1", 80)
        assert code in codes
        await until(lambda: not len(house.tracker))


async def test_udp_through_a_proxy_and_straight_by_the_same_client(
    tmp_path: Path, nursery: trio.Nursery, box: SingBox
) -> None:
    one, two = await udp_echo(nursery, b"one "), await udp_echo(nursery, b"two ")
    async with living(tmp_path, written(box)) as house, associated(house) as peer:
        for port, word in ((one, b"one "), (two, b"two "), (one, b"one ")):
            await peer.send("127.0.0.1", port, b"x" * 1200)
            assert await peer.recv() == (Target("127.0.0.1", port), word + b"x" * 1200)
        assert {flow.decision.chain for flow in house.tracker} == {("box", "choice")}
        house.gateway.select("choice", "DIRECT")
        three = await udp_echo(nursery, b"three ")
        await peer.send("127.0.0.1", three, b"y")
        assert await peer.recv() == (Target("127.0.0.1", three), b"three y")
        await peer.send("127.0.0.1", one, b"z")
        assert await peer.recv() == (Target("127.0.0.1", one), b"one z")
        assert {flow.decision.chain for flow in house.tracker} == {("box", "choice"), ("DIRECT", "choice")}


async def test_udp_starts_anew_when_its_proxy_goes(tmp_path: Path, nursery: trio.Nursery, tmp_path_factory) -> None:
    one = await udp_echo(nursery)
    frail = SingBox(tmp_path_factory.mktemp("frail"), trustme.CA())
    async with living(tmp_path, written(frail)) as house, associated(house) as peer:
        with frail.run():
            await peer.send("127.0.0.1", one, b"x")
            assert (await peer.recv())[1] == b"x"
        await until(lambda: not len(house.tracker))
        house.gateway.select("choice", "DIRECT")
        await peer.send("127.0.0.1", one, b"y")
        assert (await peer.recv())[1] == b"y"


async def test_a_choice_switches_while_flows_run(tmp_path: Path, nursery: trio.Nursery, box: SingBox) -> None:
    port = await serve(nursery, echo)
    async with living(tmp_path, written(box)) as house:
        streams = []
        for member, expected in (("box", 0), ("DIRECT", 0), ("REJECT", 2), ("dead", 5), ("box", 0)):
            house.gateway.select("choice", member)
            stream, code = await socks5(house.port(), "127.0.0.1", port)
            assert code == expected, member
            if code == 0:
                streams.append(stream)
        for stream in streams:
            await stream.send_all(b"still here")
            assert await exactly(stream, 10) == b"still here"
            await stream.aclose()
