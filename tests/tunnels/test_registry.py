"""From specs and URLs to ways that are really opened; what the status table learns; what is saved."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from cyfs_ns.errors import ConfigFault, Refused, Unreachable
from tests.tunnels import peers
from tests.tunnels.exam import black_hole, closed_port, receive_packet, udp_echo
from tunnels.endpoint import Endpoint, PacketEndpoint, Target
from tunnels.io.direct import Sockets
from tunnels.io.leaf import Direct, Leaf
from tunnels.io.registry import OutboundBuilder, Tunnels
from tunnels.io.statusfile import keep_saved, load_status
from tunnels.io.waiting import receive_some, send_all
from tunnels.outbound import FlowHint
from tunnels.spec import (
    SPECS,
    DialOptions,
    DirectSpec,
    DnsSpec,
    HttpSpec,
    PassSpec,
    ProxySpec,
    RejectDropSpec,
    RejectSpec,
    RtcpSpec,
    Socks5Spec,
    TlsSpec,
    TunnelSpec,
)
from tunnels.status import Source, State, StatusTable
from tunnels.url import TunnelUrl, nest, parse

OPTIONS = DialOptions(connect_timeout=0.3, routing_mark=0)


async def no_names(host: str) -> Sequence[str]:
    return ()


def tunnels(status: StatusTable | None = None) -> Tunnels:
    return Tunnels(OPTIONS, no_names, status)


@asynccontextmanager
async def echo_server() -> AsyncIterator[int]:
    async def echo(stream: trio.SocketStream) -> None:
        async for chunk in stream:
            await stream.send_all(chunk)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, echo, 0, host="127.0.0.1"))
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def echoes(ep: Endpoint, expect: bytes = b"hello") -> None:
    await send_all(ep, b"hello")
    got = b""
    with trio.fail_after(10):
        while len(got) < len(expect):
            got += await receive_some(ep)
    assert got == expect
    ep.close()


class Finder:
    """Outbounds by name, as the gateway keeps them."""

    def __init__(self) -> None:
        self.ways: dict[str, Direct] = {}

    def __call__(self, name: str) -> Direct:
        return self.ways[name]


def builder(find: Finder | None = None) -> OutboundBuilder:
    tunnels = Tunnels(OPTIONS, no_names)
    return OutboundBuilder(
        options=OPTIONS, resolve=no_names, resolve_server=no_names, find=find or Finder(), tunnels=tunnels
    )


def test_every_spec_has_its_outbound() -> None:
    given: tuple[ProxySpec, ...] = (
        DirectSpec(name="a"),
        Socks5Spec(name="b", server="192.0.2.1", port=1, udp=True),
        HttpSpec(name="c", server="192.0.2.1", port=1, udp=True),
        TlsSpec(name="d", udp=True),
        RejectSpec(name="e"),
        RejectDropSpec(name="f"),
        PassSpec(name="g"),
        DnsSpec(name="h"),
        TunnelSpec(name="i", url="socks://192.0.2.1", udp=True),
        RtcpSpec(name="j", server="home.example"),
    )
    assert {type(spec) for spec in given} == set(SPECS.values())
    house = replace(builder(), rtcp=lambda spec, dialer: Leaf(spec))
    for spec in given:
        way = house.build(spec)
        assert (way.name, way.kind) == (spec.name, spec.kind)
        assert way.udp == (spec.type not in ("http", "tls"))
    for nobodys in (ProxySpec(name="x"), RtcpSpec(name="no device")):
        with pytest.raises(ConfigFault):
            builder().build(nobodys)


def test_a_proxy_has_its_own_socket_options() -> None:
    way = builder().build(DirectSpec(name="a", interface_name="lo", routing_mark=5, ip_version="ipv4", mptcp=True))
    assert isinstance(way, Direct)
    options = way.sockets.options
    assert (options.interface_name, options.routing_mark, options.ip_version, options.mptcp, options.tfo) == (
        ("lo", 5, "ipv4", True, False)
    )


async def test_a_tunnel_url_is_an_outbound_and_teaches_the_status_table() -> None:
    house = builder()
    assert house.tunnels is not None
    way = house.build(TunnelSpec(name="t", url="tcp:///", udp=True))
    async with echo_server() as port:
        await echoes(await way.open_stream(Target("127.0.0.1", port)))
    (known,) = house.tunnels.status.urls()
    assert house.tunnels.status.ask(known, time.time()).state is State.REACHABLE
    async with udp_echo("127.0.0.1") as peer:
        packets = await way.open_packets(peer)
        packets.send(b"hello", peer)
        assert await receive_packet(packets) == (b"hello", peer)
        packets.close()


async def test_dialer_proxy_is_found_when_it_is_used() -> None:
    find = Finder()
    way = builder(find).build(DirectSpec(name="a", dialer_proxy="later"))
    find.ways["later"] = Direct(DirectSpec(name="later"), Sockets(OPTIONS, no_names))
    async with echo_server() as port:
        await echoes(await way.open_stream(Target("127.0.0.1", port)))
    async with udp_echo("127.0.0.1") as peer:
        packets = await way.open_packets(peer)
        packets.send(b"hello", peer)
        assert await receive_packet(packets) == (b"hello", peer)
        packets.close()


async def test_the_dns_outbound_opens_what_the_gateway_hands_in() -> None:
    opened: list[tuple[Target, str]] = []

    async def stream(target: Target, source: str) -> Endpoint:
        opened.append((target, source))
        raise Unreachable("stream")

    async def packets(target: Target, source: str) -> PacketEndpoint:
        raise Unreachable("packets")

    ready = OutboundBuilder(
        options=OPTIONS,
        resolve=no_names,
        resolve_server=no_names,
        find=Finder(),
        dns_stream=stream,
        dns_packets=packets,
    )
    way = ready.build(DnsSpec(name="dns"))
    with pytest.raises(Unreachable, match="stream"):
        await way.open_stream(Target("192.0.2.1", 53))
    with pytest.raises(Unreachable, match="packets"):
        await way.open_packets(Target("192.0.2.1", 53))
    picked = way.pick(FlowHint(source="192.0.2.9"))
    assert picked.name == "dns" and picked.pick(FlowHint(source="192.0.2.9")) is picked
    with pytest.raises(Unreachable, match="stream"):
        await picked.open_stream(Target("192.0.2.1", 53))
    assert opened == [(Target("192.0.2.1", 53), ""), (Target("192.0.2.1", 53), "192.0.2.9")]


async def test_plain_urls_open_and_teach() -> None:
    house = tunnels()
    async with echo_server() as port:
        for text in (f"tcp:///127.0.0.1:{port}", f"tcp:///:{port}", f"tcp://127.0.0.1/:{port}", f"direct:///:{port}"):
            url = parse(text)
            await echoes(await house.open_url(url))
            known = house.status.ask(url, house.status._entries[url.normalised][1].learnt_at)
            assert (known.state, known.source) == (State.REACHABLE, Source.BUSINESS_CONNECT)
            assert len(known.rtts) == 1
    gone = parse(f"tcp:///127.0.0.1:{closed_port()}")
    with pytest.raises(Unreachable):
        await house.open_url(gone)
    assert house.status.dump()[-1]["reason"] == "connect_refused"


async def test_ptcp_announces_its_source_first() -> None:
    async with echo_server() as port:
        ep = await tunnels().open_url(parse(f"ptcp://192.0.2.7:1234/127.0.0.1:{port}"))
        await echoes(ep, f"PROXY TCP4 192.0.2.7 127.0.0.1 1234 {port}\r\nhello".encode())


async def test_urls_nest_both_ways() -> None:
    with peers.microsocks("al:ice", "p@ss") as proxy:
        hop = parse(f"socks://al%3Aice:p%40ss@127.0.0.1:{proxy}")
        async with echo_server() as port:
            for text in (
                f"{hop}/127.0.0.1:{port}",
                f"{hop}/{nest(parse(f'{hop}/127.0.0.1:{port}'))}",
                f"tcp:///{nest(parse(f'tcp://127.0.0.1:{port}'))}",
                f"socks://{nest(hop)}@/127.0.0.1:{port}",
            ):
                await echoes(await tunnels().open_url(parse(text)))


async def test_packets_by_url() -> None:
    async with udp_echo("127.0.0.1") as peer:
        packets, goal = await tunnels().open_packets_url(parse(f"udp:///:{peer.port}"))
        assert goal.port == peer.port
        packets.send(b"hello", peer)
        assert await receive_packet(packets) == (b"hello", peer)
        packets.close()


@pytest.mark.parametrize("text", ["ptcp:///h:1", "http:///h:1", "tcp:///h", "socks://h"])
async def test_urls_that_make_no_sense_are_faults(text: str) -> None:
    with pytest.raises(ConfigFault):
        await tunnels().open_url(parse(text))


async def test_unknown_schemes_and_refusals() -> None:
    house = tunnels()
    with pytest.raises(Unreachable) as fault:
        await house.open_url(parse("gopher:///h:1"))
    assert fault.value.reason == "unsupported_scheme"
    assert house.status.dump()[0]["state"] == "unsupported"
    with pytest.raises(Refused):
        await house.open_url(parse("reject:///h:1"))
    house.register("gopher", lambda url, dialer: Direct(DirectSpec(name="g"), Sockets(OPTIONS, no_names)))
    async with echo_server() as port:
        await echoes(await house.open_url(parse(f"gopher:///127.0.0.1:{port}")))
    house.unregister("gopher")
    with pytest.raises(Unreachable):
        await house.open_url(parse("gopher:///h:1"))


async def test_probes_are_shared_cached_and_honest() -> None:
    house = tunnels()
    tries = 0

    class Counting(Direct):
        async def open_stream(self, target: Target) -> Endpoint:
            nonlocal tries
            tries += 1
            return await super().open_stream(target)

    house.register("count", lambda url, dialer: Counting(DirectSpec(name="c"), Sockets(OPTIONS, no_names)))
    sources: list[Source | None] = []

    async def probe(url: TunnelUrl) -> None:
        sources.append((await house.probe(url)).source)

    async with echo_server() as port, trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(probe, parse(f"count:///127.0.0.1:{port}"))
    assert tries == 1
    assert sorted(str(source) for source in sources) == ["cached_probe"] * 4 + ["fresh_probe"]

    with black_hole() as hole:
        status = await house.probe(parse(f"tcp:///{hole}"))
    assert (status.state, status.reason) == (State.UNREACHABLE, "connect_timeout")
    assert (await house.probe(parse("udp:///h:1"))).state is State.UNSUPPORTED
    assert (await house.probe(parse("gopher:///h:1"))).state is State.UNSUPPORTED
    assert (await house.probe(parse("reject:///h:1"))).state is State.UNKNOWN


async def test_a_cancelled_probe_can_be_made_again() -> None:
    house = tunnels()
    with black_hole() as hole:
        url = parse(f"tcp:///{hole}")
        with trio.move_on_after(0.05):
            await house.probe(url)
        assert house.status.ask(url, 1.0).state is State.UNKNOWN
        assert (await house.probe(url)).state is State.UNREACHABLE


async def test_statuses_survive_a_restart(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    path = tmp_path / "status.json"
    table = StatusTable()
    load_status(path, table)
    url = parse("tcp:///a.example:1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_saved, path, table)
        await trio.testing.wait_all_tasks_blocked()
        table.learn(url, State.REACHABLE, Source.FRESH_PROBE, 100.0)
        await trio.sleep(6)
        while not path.exists():
            await trio.lowlevel.checkpoint()
        table.learn(url, State.UNREACHABLE, Source.FRESH_PROBE, 200.0)
        nursery.cancel_scope.cancel()
    again = StatusTable()
    load_status(path, again)
    assert again.ask(url, 201.0).state is State.UNREACHABLE
    for spoilt in (b"{", b"{}", b'[{"url": 1}]', json.dumps([[]] * 3).encode(), b"[" * 100_000, b"\xff"):
        path.write_bytes(spoilt)
        fresh = StatusTable()
        load_status(path, fresh)
        assert len(fresh) == 0
