"""``rtcp`` and ``rudp`` sit the exam of every transport, and what their URLs mean."""

from __future__ import annotations

import errno
import os
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import trio

from cyfs_ns.errors import ConfigFault, Refused, Unreachable
from cyfs_ns.identity.did import Did, dev_did, host_of_did
from cyfs_ns.identity.keys import SecretKey
from rtcp.io.device import Device
from rtcp.packet import Purpose
from tests.rtcp.pair import ALICE, BOB, MALLORY
from tests.rtcp.town import HOST, Town, descriptors, echo, receive_exactly, talk, until
from tests.tunnels.exam import check_endpoint, check_packets, check_tunnel, receive_packet, udp_echo
from tests.tunnels.rtcppeer import directly, no_names
from tests.tunnels.test_transports import direct
from tunnels.endpoint import Endpoint, Target
from tunnels.io.leaf import Dialer, Leaf
from tunnels.io.reactor import Reactor
from tunnels.io.registry import Tunnels
from tunnels.io.rtcp import Rtcp, RtcpPackets, RtcpProxy, join_tunnels
from tunnels.io.stream import EndpointStream
from tunnels.io.waiting import receive_some
from tunnels.spec import DialOptions, RtcpSpec, Socks5Spec
from tunnels.status import State
from tunnels.url import parse

ALICES_DID, BOBS_DID, HOP = dev_did(ALICE.public), dev_did(BOB.public), dev_did(MALLORY.public)
BOBS_HOST = host_of_did(BOBS_DID, case_safe=True)
HOPS_HOST = host_of_did(HOP, case_safe=True)


@contextmanager
def peer_process(key: SecretKey) -> Iterator[int]:
    """A peer elsewhere, so that what it holds is not counted here; its port."""
    root = Path(__file__).parent.parent.parent
    with subprocess.Popen(
        [sys.executable, "-m", "tests.tunnels.rtcppeer", key.seed.hex()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=root,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        yield int(process.stdout.readline())
        process.stdin.close()
        assert process.wait(10) == 0


@pytest.fixture(scope="module")
def bobs_port() -> Iterator[int]:
    with peer_process(BOB) as port:
        yield port


@asynccontextmanager
async def to_bob(port: int) -> AsyncIterator[Device]:
    """Alice, with a tunnel to Bob's process."""
    town = Town()
    town.settle(BOB, (HOST, port))
    async with town.live(ALICE, hosts=()) as alice:
        await alice.tunnel(BOBS_DID)
        yield alice


def outbound(device: Device, did: Did = BOBS_DID) -> Rtcp:
    return Rtcp("rtcp", device, did, None, None)


async def test_it_sits_the_exam(bobs_port):
    async with to_bob(bobs_port) as alice:
        await check_tunnel(outbound(alice), refusal="tunnel_open")


async def test_its_datagrams_sit_the_exam(bobs_port):
    async with to_bob(bobs_port) as alice:
        await check_packets(outbound(alice))


@pytest.mark.parametrize("asker", ["who dialled", "who was dialled"])
async def test_both_ends_of_a_stream_keep_the_rules(asker):
    arrived_send, arrived = trio.open_memory_channel[Endpoint](10)

    async def serve(request):
        await arrived_send.send(await request.accept())

    town = Town()
    async with town.live(ALICE, hosts=(), serve=serve) as alice, town.live(BOB, serve=serve) as bob:
        await alice.tunnel(BOBS_DID)
        await until(bob.tunnels)
        mine, to = (alice, BOBS_DID) if asker == "who dialled" else (bob, ALICES_DID)

        async def ask_pair():
            ours = await mine.open_stream(to, None, 1)
            return ours, EndpointStream(await arrived.receive())

        async def answer_pair():
            theirs = await mine.open_stream(to, None, 1)
            return await arrived.receive(), EndpointStream(theirs)

        await check_endpoint(ask_pair)
        await check_endpoint(answer_pair)


async def test_a_download_that_was_cut_short_does_not_look_complete(bobs_port):
    listeners = await trio.open_tcp_listeners(0, host=HOST)
    port = listeners[0].socket.getsockname()[1]
    async with to_bob(bobs_port) as alice, listeners[0]:
        for reset in (False, True):
            ep = await outbound(alice).open_stream(Target(HOST, port))
            async with await listeners[0].accept() as far:
                await far.send_all(bytes(100_000))
                assert len(await receive_exactly(ep, 100_000)) == 100_000
                if reset:
                    far.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            with trio.fail_after(60):
                if reset:
                    with pytest.raises(ConnectionAbortedError):
                        await receive_some(ep)
                else:
                    assert await receive_some(ep) == b""
            ep.close()


def opener(device: Device) -> Tunnels:
    tunnels = Tunnels(DialOptions(connect_timeout=0.5), no_names)
    join_tunnels(tunnels, device)
    return tunnels


async def test_a_url_leads_to_a_target_by_the_peer(bobs_port):
    async with to_bob(bobs_port) as alice:
        listeners = await trio.open_tcp_listeners(0, host=HOST)
        port = listeners[0].socket.getsockname()[1]
        async with listeners[0]:
            tunnels = opener(alice)
            for target in (f"{HOST}:{port}", f":{port}"):
                url = parse(f"rtcp://{BOBS_HOST}/{target}")
                ep = await tunnels.open_url(url)
                async with await listeners[0].accept() as far:
                    await far.send_all(b"a server speaks first")
                    assert await receive_some(ep) == b"a server speaks first"
                ep.close()
                assert (await tunnels.probe(url)).state is State.REACHABLE


async def test_rudp_is_for_datagrams_alone(bobs_port):
    async with to_bob(bobs_port) as alice, udp_echo(HOST) as far:
        tunnels = opener(alice)
        url = parse(f"rudp://{BOBS_HOST}:{bobs_port}/{far}")
        packets, goal = await tunnels.open_packets_url(url)
        packets.send(b"hello", goal)
        with trio.fail_after(60):
            assert await receive_packet(packets) == (b"hello", far)
        packets.close()
        with pytest.raises(Unreachable):
            await tunnels.open_url(url)
        assert (await tunnels.probe(url)).state is State.UNSUPPORTED


async def test_a_port_in_the_url_is_where_the_peer_listens():
    town = Town()
    async with town.live(ALICE, hosts=()) as alice, town.live(BOB):
        for port in ("", ":4242"):
            ep = await opener(alice).open_url(parse(f"rtcp://{BOBS_HOST}{port}/:80"))
            ep.close()
            for tunnel in alice.tunnels():
                tunnel.close()
        assert town.ports == [None, 4242]


async def test_datagrams_to_a_target_that_is_refused_are_dropped():
    town, asked = Town(), []

    async def serve(request):
        asked.append(request.port)
        if request.port == 53:
            raise Refused("no DNS")
        await echo(request)

    async with town.live(ALICE, hosts=()) as alice, town.live(BOB, serve=serve):
        packets = await outbound(alice).open_packets(Target(HOST, 1000))
        for _ in range(20):
            packets.send(b"x", Target(HOST, 53))
        packets.send(b"y", Target(HOST, 1001))
        with trio.fail_after(60):
            assert await receive_packet(packets) == (b"y", Target(HOST, 1001))
        await until(lambda: 53 in asked)
        packets.send(b"x", Target(HOST, 53))
        packets.send(b"z", Target(HOST, 1000))
        with trio.fail_after(60):
            assert await receive_packet(packets) == (b"z", Target(HOST, 1000))
        assert sorted(asked) == [53, 1000, 1001], "and not asked for again at once"
        packets.close()


async def test_a_packet_way_holds_so_many_targets(monkeypatch):
    monkeypatch.setattr("tunnels.io.rtcp._DESTINATIONS_MOST", 3)
    town = Town()
    async with town.live(ALICE, hosts=()) as alice, town.live(BOB) as bob:
        await alice.tunnel(BOBS_DID)
        await until(bob.tunnels)
        before = descriptors()
        packets = await outbound(alice).open_packets(Target(HOST, 1))
        for port in (1, 2, 3, 4, 1, 5):
            packets.send(b"%d" % port, Target(HOST, port))
            with trio.fail_after(60):
                assert await receive_packet(packets) == (b"%d" % port, Target(HOST, port))
        packets.send(b"given up at once", Target(HOST, 6))
        packets.close()
        with pytest.raises(OSError):
            packets.send(b"x", Target(HOST, 1))
        await until(lambda: descriptors() <= before)


@pytest.mark.parametrize("version", [4, 5])
async def test_a_way_that_finds_no_descriptor_left_is_given_back(monkeypatch, version):
    """The stream stands already when there is none to wait for it with."""
    town, served = Town(versions=frozenset({version})), []

    async def serve(request):
        served.append(await (request.accept() if version == 4 else request.accept_datagrams()))

    def none_left(*_):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async with town.live(ALICE, hosts=()) as alice, town.live(BOB, serve=serve) as bob:
        await alice.tunnel(BOBS_DID)
        await until(bob.tunnels)
        before = descriptors()
        for way in (outbound(alice), proxy(alice, server=str(BOBS_DID))) * 4:
            with monkeypatch.context() as patch:
                patch.setattr("tunnels.io.rtcp.select.epoll", none_left)
                with pytest.raises(Unreachable, match="Too many open files"):
                    await way.open_packets(Target(HOST, 9))
        await until(lambda: len(served) == 8)
        for one in served:
            one.close()
        await until(lambda: descriptors() <= before)  # the dialling may have ended meanwhile, too


async def test_a_way_that_is_open_is_not_opened_again_because_another_failed(monkeypatch):
    """The target was given up while it was being opened, and then wanted again."""
    monkeypatch.setattr("tunnels.io.rtcp._DESTINATIONS_MOST", 1)
    monkeypatch.setattr("tunnels.io.rtcp._REST", 0.0)
    sent, asked = [], []

    class Way:
        def __init__(self):
            self._ours, self._theirs = socket.socketpair()
            self.fileno = self._ours.fileno

        def send(self, data):
            sent.append(bytes(data))

        def close(self):
            self._ours.close()
            self._theirs.close()

    class Outbound:
        def open_soon(self, target, then):
            asked.append(then)

    here, there = Target(HOST, 1), Target(HOST, 2)
    packets = RtcpPackets(Outbound(), there, Way())
    for target in (here, there, here):
        packets.send(b"x", target)
    first, _, second = asked
    first(None)
    second(Way())
    packets.send(b"y", here)
    assert sent[-1] == b"y" and len(asked) == 3
    packets.close()


@asynccontextmanager
async def relayed() -> AsyncIterator[tuple[Town, Device, Device]]:
    """Alice, and Bob, whom only a hop can reach."""
    reactor, town = Reactor(), Town()
    async with trio.open_nursery() as nursery:
        await nursery.start(reactor.run)
        async with (
            town.live(ALICE, hosts=()) as alice,
            town.live(MALLORY, serve=directly(reactor)),
            town.live(BOB) as bob,
        ):
            yield town, alice, bob
        nursery.cancel_scope.cancel()


async def test_another_tunnel_carries_it_end_to_end():
    async with relayed() as (town, alice, bob):
        (where,) = town.people[BOBS_DID].addresses
        through_hop = quote(f"rtcp://{HOPS_HOST}", safe="")
        leads_there = quote(f"rtcp://{HOPS_HOST}/{HOST}:{where[1]}", safe="")
        tunnels = opener(alice)
        for carrier in (through_hop, leads_there):
            if carrier == leads_there:
                for tunnel in alice.tunnels():
                    tunnel.close()
                await until(lambda: not bob.tunnels())
                town.settle(BOB)
                assert town.people[BOBS_DID].addresses == ()
            leg = await tunnels.open_url(parse(f"rtcp://{carrier}@{BOBS_HOST}/:80"))
            await talk(leg)
            leg.close()
            assert [tunnel.peer.device for tunnel in bob.tunnels()] == [ALICES_DID]
            back = await bob.open_stream(ALICES_DID, None, 80)
            await talk(back)
            back.close()
            assert len(alice.tunnels()) == 2


async def test_a_url_as_target_is_the_peers_to_open():
    town, asked = Town(), []

    async def serve(request):
        asked.append((request.purpose, request.host, request.port))
        await echo(request)

    async with town.live(ALICE, hosts=()) as alice, town.live(BOB, serve=serve):
        inner = f"rtcp://{HOPS_HOST}/:80"
        leg = await opener(alice).open_url(parse(f"rtcp://{BOBS_HOST}/{quote(inner, safe='')}"))
        await talk(leg)
        leg.close()
        assert asked == [(Purpose.STREAM, inner, 0)]


async def test_a_tunnel_inside_a_proxys_url_goes_through_that_proxy(bobs_port):
    used = []

    class Proxy(Leaf):
        async def open_stream(self, target):
            used.append(target)
            return await direct().open_stream(target)

    town = Town()
    town.settle(BOB, (HOST, bobs_port))
    async with town.live(ALICE, hosts=()) as alice:
        tunnels = opener(alice)
        tunnels.register("socks", lambda url, dialer: Proxy(Socks5Spec(name=url.redacted, server="hop", port=1)))
        async with udp_echo(HOST) as far:
            inner = quote(f"rudp://{BOBS_HOST}/{far}", safe="")
            packets, goal = await tunnels.open_packets_url(parse(f"socks://hop:1/{inner}"))
            packets.send(b"around", goal)
            with trio.fail_after(60):
                assert await receive_packet(packets) == (b"around", far)
            packets.close()
        assert used == [Target(HOST, bobs_port)] * 2


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (f"rtcp://user:pass@{BOBS_HOST}/:80", "keys"),
        ("rtcp:///:80", "peer"),
        ("rtcp://192.0.2.1/:80", "not a host name"),
        (f"tcp:///{quote(f'rtcp://{BOBS_HOST}/:80', safe='')}", "before the @"),
    ],
)
async def test_urls_that_make_no_sense(text, why):
    town = Town()
    async with town.live(ALICE, hosts=()) as alice:
        with pytest.raises(ConfigFault, match=why) as fault:
            await opener(alice).open_url(parse(text))
        assert "pass@" not in str(fault.value)


@pytest.mark.parametrize(
    ("carrier", "fault"), [("rtcp:///:80", ConfigFault), (f"socks:///{quote('rtcp:///:80', safe='')}", Unreachable)]
)
async def test_a_carrier_that_makes_no_sense_carries_nothing(carrier, fault):
    town = Town()
    async with town.live(ALICE, hosts=()) as alice:
        town.settle(BOB)
        with pytest.raises(fault, match="peer is missing"):
            await opener(alice).open_url(parse(f"rtcp://{quote(carrier, safe='')}@{BOBS_HOST}/:80"))


async def test_a_password_of_the_carrier_is_shown_nowhere_and_still_makes_another_way():
    town, names = Town(), []
    async with town.live(ALICE, hosts=()) as alice, town.live(BOB) as bob:
        tunnels = opener(alice)
        tunnels.register("socks", lambda url, dialer: direct())
        for password in ("one", "two", "one"):
            carrier = quote(f"socks://user:{password}@hop:1080", safe="")
            leg = await tunnels.open_url(parse(f"rtcp://{carrier}@{BOBS_HOST}/:80"))
            await talk(leg)
            leg.close()
            (tunnel,) = alice.tunnels()
            names.append(tunnel.key.bootstrap)
            tunnel.close()
            await until(lambda: not bob.tunnels())
    assert names[0] == names[2] != names[1] and not any("one" in name or "two" in name for name in names)


# Proxies of the configuration


def proxy(device: Device, dialer: Dialer | None = None, **spec: Any) -> RtcpProxy:
    return RtcpProxy(RtcpSpec(name="home", **spec), opener(device), device, None, dialer)


@pytest.mark.parametrize(
    ("spec", "flow", "asked"),
    [
        ({}, Target(BOBS_HOST, 80), (None, 80)),
        ({"server": BOBS_HOST}, Target(BOBS_HOST, 80), (None, 80)),
        ({"server": str(BOBS_DID)}, Target("nas.lan", 80), ("nas.lan", 80)),
        ({"server": str(BOBS_DID)}, Target("192.0.2.1", 80), ("192.0.2.1", 80)),
        ({"server": str(BOBS_DID), "target": ":22"}, Target("nas.lan", 80), (None, 22)),
        ({"server": str(BOBS_DID), "target": "nas.lan:22"}, Target(BOBS_HOST, 80), ("nas.lan", 22)),
        ({"target": "nas.lan:22"}, Target(BOBS_HOST, 80), ("nas.lan", 22)),
    ],
)
async def test_a_proxy_asks_its_peer_for_where_the_flow_goes(spec, flow, asked):
    town, seen = Town(), []

    async def serve(request):
        seen.append((request.host, request.port))
        await echo(request)

    async with town.live(ALICE, hosts=()) as alice, town.live(BOB, serve=serve):
        way = proxy(alice, **spec)
        leg = await way.open_stream(flow)
        await talk(leg)
        leg.close()
        packets = await way.open_packets(flow)
        packets.send(b"hello", flow)
        with trio.fail_after(60):
            assert await receive_packet(packets) == (b"hello", flow), "in the name that was written to"
        packets.close()
        assert seen == [asked] * 2
        if "server" in spec:
            assert 0 < await way.ping() < 5
        else:
            with pytest.raises(Unreachable, match="nobody to ping"):
                await way.ping()


async def test_each_datagram_goes_to_the_peer_it_is_for():
    town, seen = Town(), []

    def serving(name):
        async def serve(request):
            seen.append(name)
            await echo(request)

        return serve

    async with (
        town.live(ALICE, hosts=()) as alice,
        town.live(BOB, serve=serving("bob")),
        town.live(MALLORY, serve=serving("mallory")),
    ):
        packets = await proxy(alice).open_packets(Target(BOBS_HOST, 1))
        for host in (HOPS_HOST, BOBS_HOST):
            packets.send(host.encode(), Target(host, 1))
            with trio.fail_after(60):
                assert await receive_packet(packets) == (host.encode(), Target(host, 1))
        packets.send(b"lost", Target("192.0.2.1", 1))
        packets.close()
        assert sorted(seen) == ["bob", "mallory"]


@pytest.mark.parametrize("how", ["via", "dialer"])
async def test_another_way_carries_the_tunnel_of_a_proxy(bobs_port, how):
    used = []

    class Around(Leaf):
        async def open_stream(self, target):
            used.append(target)
            return await direct().open_stream(target)

    around = Around(Socks5Spec(name="hop", server="hop", port=1))
    town = Town()
    town.settle(BOB, (HOST, bobs_port))
    async with town.live(ALICE, hosts=()) as alice, udp_echo(HOST) as far:
        tunnels = opener(alice)
        tunnels.register("socks", lambda url, dialer: around)
        spec = RtcpSpec(name="home", server=BOBS_HOST, **({"via": "socks://hop"} if how == "via" else {}))
        way = RtcpProxy(spec, tunnels, alice, None, around if how == "dialer" else None)
        (await way.open_packets(far)).close()
        assert used == [Target(HOST, bobs_port)] * 2


async def test_a_proxy_that_leads_to_nobody():
    town = Town()
    async with town.live(ALICE, hosts=()) as alice:
        with pytest.raises(ConfigFault, match="proxy 'home'"):
            proxy(alice, server="192.0.2.1")
        for host in ("192.0.2.1", ""):
            with pytest.raises(Unreachable, match="is no device"):
                await proxy(alice).open_stream(Target(host, 80))
