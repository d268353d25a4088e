"""UDP through SOCKS5 and static forwards: who may send, who may answer, and by which rule each destination goes."""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from inprocess import Living, connect, dead_port, exactly, living, only, udp_echo, until

from tests.cyfs_gateway.sniff.test_sniff_quic import HELLO, crypto, initial
from tunnels.endpoint import Target
from tunnels.socks import pack_udp, unpack_udp

CONFIG = """
timeouts: {udp: 30}
hosts: {echo.test: 127.0.0.1, both.test: ["::1", 127.0.0.1]}
sniffer: {enable: true, sniff: {QUIC: {ports: ["1-65535"], override-destination: false}}}
proxies: [{name: streams, type: http, server: 127.0.0.1, port: 9}]
listeners:
  - {name: mixed, type: mixed, listen: 127.0.0.1, port: 0}
  - {name: deaf, type: mixed, listen: 127.0.0.1, port: 0, udp: false}
  - {name: forward, type: tunnel, listen: 127.0.0.1, port: 0, network: [udp], target: "echo.test:TARGET"}
rules:
  - DOMAIN,example.com,REJECT
  - DOMAIN,no.test,REJECT
  - NETWORK,udp,streams
  - IP-CIDR,127.0.0.6/32,REJECT
  - MATCH,DIRECT
"""


class Peer:
    """A SOCKS5 client with one UDP socket."""

    def __init__(self, control: trio.SocketStream, sock: trio.socket.SocketType, relay: tuple[str, int]) -> None:
        self.control, self.sock, self.relay = control, sock, relay

    async def send(self, host: str, port: int, data: bytes) -> None:
        await self.sock.sendto(pack_udp(Target(host, port), data), self.relay)

    async def recv(self) -> tuple[Target, bytes]:
        with trio.fail_after(60):
            source, payload = unpack_udp(await self.sock.recv(65535))
        return source, bytes(payload)


@asynccontextmanager
async def associated(house: Living, announce: bool = False) -> AsyncIterator[Peer]:
    control = await connect(house.port())
    with trio.socket.socket(type=socket.SOCK_DGRAM) as sock:
        await sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1] if announce else 0
        await control.send_all(b"\x05\x01\x00\x05\x03\x00\x01\0\0\0\0" + port.to_bytes(2, "big"))
        reply = await exactly(control, 12)
        assert reply[:6] == b"\x05\x00\x05\x00\x00\x01"
        yield Peer(control, sock, (socket.inet_ntoa(reply[6:10]), int.from_bytes(reply[10:], "big")))
    await control.aclose()


@pytest.fixture
async def house(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[Living]:
    target = await udp_echo(nursery, b"forwarded ")
    async with living(tmp_path, CONFIG.replace("TARGET", str(target))) as made:
        yield made


async def test_one_socket_many_destinations_each_by_its_rule(house: Living, nursery: trio.Nursery) -> None:
    one, two = await udp_echo(nursery, b"one "), await udp_echo(nursery, b"two ")
    async with associated(house) as peer:
        await peer.send("no.test", one, b"never")
        await peer.send("127.0.0.6", one, b"never")
        await peer.send("127.0.0.1", one, b"a")
        assert await peer.recv() == (Target("127.0.0.1", one), b"one a")
        await peer.send("echo.test", two, b"b")
        assert await peer.recv() == (Target("127.0.0.1", two), b"two b")
        await peer.send("127.0.0.1", one, b"c")
        assert await peer.recv() == (Target("127.0.0.1", one), b"one c")
        assert sorted(flow.flow.dst_port for flow in house.tracker) == sorted((one, two))
        assert {flow.flow.kind for flow in house.tracker} == {"Socks5"}
        assert house.tracker.totals() == (3, 15)
    await until(lambda: not len(house.tracker))
    assert house.tracker.totals() == (3, 15)
    assert not house.engine.associations


async def test_an_outbound_without_udp_is_passed_over(house: Living, nursery: trio.Nursery) -> None:
    one = await udp_echo(nursery)
    async with associated(house) as peer:
        await peer.send("127.0.0.1", one, b"a")
        await peer.recv()
        assert only(house.tracker).decision.chain == ("DIRECT",)


async def test_a_name_of_both_families_is_reached(house: Living, nursery: trio.Nursery) -> None:
    one = await udp_echo(nursery)
    async with associated(house) as peer:
        await peer.send("both.test", one, b"a")
        assert await peer.recv() == (Target("127.0.0.1", one), b"a")


async def test_only_the_client_itself_may_send(house: Living, nursery: trio.Nursery) -> None:
    one = await udp_echo(nursery)
    with socket.socket(type=socket.SOCK_DGRAM) as stranger, socket.socket(type=socket.SOCK_DGRAM) as other_port:
        stranger.bind(("127.0.0.2", 0))
        async with associated(house) as peer:
            stranger.sendto(pack_udp(Target("127.0.0.1", one), b"evil"), peer.relay)
            await peer.send("127.0.0.1", one, b"good")
            assert await peer.recv() == (Target("127.0.0.1", one), b"good")
            other_port.sendto(pack_udp(Target("127.0.0.1", one), b"late"), peer.relay)
            await peer.send("127.0.0.1", one, b"more")
            assert await peer.recv() == (Target("127.0.0.1", one), b"more")
            assert house.tracker.totals() == (8, 8)


async def test_an_announced_port_is_the_only_one(house: Living, nursery: trio.Nursery) -> None:
    one = await udp_echo(nursery)
    with socket.socket(type=socket.SOCK_DGRAM) as other_port:
        async with associated(house, announce=True) as peer:
            other_port.sendto(pack_udp(Target("127.0.0.1", one), b"first!"), peer.relay)
            await peer.send("127.0.0.1", one, b"good")
            assert await peer.recv() == (Target("127.0.0.1", one), b"good")
            assert house.tracker.totals() == (4, 4)


async def test_nonsense_and_fragments_are_dropped(house: Living, nursery: trio.Nursery) -> None:
    one = await udp_echo(nursery)
    async with associated(house) as peer:
        for junk in (b"", b"\0\0", b"\0\0\1" + pack_udp(Target("127.0.0.1", one), b"part")[3:], b"\0\0\0\x09junk"):
            await peer.sock.sendto(junk, peer.relay)
        await peer.send("127.0.0.1", one, b"good")
        assert await peer.recv() == (Target("127.0.0.1", one), b"good")
        assert house.tracker.totals() == (4, 4)


async def test_anybody_may_answer_on_the_public_port(house: Living, nursery: trio.Nursery) -> None:
    """What STUN needs: the same public port for all, and an answer from another address than was asked."""
    seen: list[tuple[str, int]] = []
    with trio.socket.socket(type=socket.SOCK_DGRAM) as server, trio.socket.socket(type=socket.SOCK_DGRAM) as other:
        await server.bind(("127.0.0.1", 0))
        await other.bind(("127.0.0.1", 0))
        async with associated(house) as peer:
            for sock in (server, other):
                await peer.send("127.0.0.1", sock.getsockname()[1], b"who am I")
                with trio.fail_after(60):
                    seen.append((await sock.recvfrom(100))[1])
            assert seen[0] == seen[1]
            with trio.socket.socket(type=socket.SOCK_DGRAM) as third:
                await third.bind(("127.0.0.4", 0))
                await third.sendto(b"hello from afar", seen[0])
                source, data = await peer.recv()
            assert (source.host, data) == ("127.0.0.4", b"hello from afar")


async def test_the_association_lives_as_long_as_its_control_connection(house: Living, nursery: trio.Nursery) -> None:
    one = await udp_echo(nursery)
    async with associated(house) as peer:
        await peer.send("127.0.0.1", one, b"a")
        await peer.recv()
        await peer.control.send_all(b"chatter on the control connection is no reason to end")
        await peer.send("127.0.0.1", one, b"b")
        await peer.recv()
        await peer.control.aclose()
        await until(lambda: not house.engine.associations and not len(house.tracker))
        with pytest.raises(OSError, match="refused"), socket.socket(type=socket.SOCK_DGRAM) as probe:
            probe.connect(peer.relay)
            for _ in range(100):
                probe.send(b"x")
                await trio.sleep(0.01)


async def test_silence_frees_the_flows_and_keeps_the_association(house: Living, nursery: trio.Nursery) -> None:
    one = await udp_echo(nursery)
    house.engine.timeouts = type(house.engine.timeouts)(udp=0.3)
    async with associated(house) as peer:
        await peer.send("127.0.0.1", one, b"a")
        await peer.recv()
        await until(lambda: not len(house.tracker))
        assert len(house.engine.associations) == 1
        await peer.send("127.0.0.1", one, b"b")
        assert (await peer.recv())[1] == b"b"


async def test_udp_can_be_off(house: Living) -> None:
    stream = await connect(house.port("deaf"))
    async with stream:
        await stream.send_all(b"\x05\x01\x00\x05\x03\x00\x01\0\0\0\0\0\0")
        assert (await exactly(stream, 12))[2:4] == b"\x05\x07"


async def test_a_client_has_so_many_destinations_and_the_gateway_so_many_clients_and_the_quietest_go(
    house: Living, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cyfs_gateway.io.packets._ROUTES_MOST", 3)
    monkeypatch.setattr("cyfs_gateway.io.engine.ASSOCIATIONS_MOST", 2)
    a, b, c, d = [await udp_echo(nursery) for _ in range(4)]
    async with associated(house) as first, associated(house) as second:
        for port in (a, b, c, a, d):
            await first.send("127.0.0.1", port, b"x")
            await first.recv()
        assert {flow.flow.dst_port for flow in house.tracker} == {c, a, d}
        async with associated(house):
            assert len(house.engine.associations) == 2
            with trio.fail_after(60):
                assert await second.control.receive_some() == b""
            await first.send("127.0.0.1", d, b"still here")
            assert (await first.recv())[1] == b"still here"


async def test_a_forward_has_so_many_clients_and_the_quietest_goes(
    house: Living, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cyfs_gateway.io.packets.ASSOCIATIONS_MOST", 2)
    port = house.port("forward", "udp")
    socks = [trio.socket.socket(type=socket.SOCK_DGRAM) for _ in range(3)]
    a, b, c = socks
    try:
        for sock in (a, b, a, c):
            await sock.connect(("127.0.0.1", port))
            await sock.send(b"x")
            with trio.fail_after(60):
                await sock.recv(100)
        assert {flow.flow.src_port for flow in house.tracker} == {sock.getsockname()[1] for sock in (a, c)}
    finally:
        for sock in socks:
            sock.close()


@pytest.mark.parametrize("pieces", [1, 2])
async def test_a_quic_greeting_decides_for_an_address(house: Living, nursery: trio.Nursery, pieces: int) -> None:
    """``example.com`` is the name inside; the datagrams before the verdict are held back, and with REJECT for good."""
    one = await udp_echo(nursery)
    half = len(HELLO) // pieces
    async with associated(house) as peer:
        for number in range(pieces):
            start = number * half
            await peer.send("127.0.0.1", one, initial(crypto(start, HELLO[start : start + half]), number))
        await peer.send("127.0.0.1", one, b"not a greeting any more")
        two = await udp_echo(nursery)
        await peer.send("127.0.0.1", two, b"no greeting at all")
        assert await peer.recv() == (Target("127.0.0.1", two), b"no greeting at all")
        assert only(house.tracker).flow.dst_port == two


async def test_a_static_forward_tells_its_clients_apart(house: Living) -> None:
    port = house.port("forward", "udp")
    with (
        trio.socket.socket(type=socket.SOCK_DGRAM) as one,
        trio.socket.socket(type=socket.SOCK_DGRAM) as two,
    ):
        for sock, word in ((one, b"1"), (two, b"2"), (one, b"3")):
            await sock.connect(("127.0.0.1", port))
            await sock.send(word)
            with trio.fail_after(60):
                assert await sock.recv(100) == b"forwarded " + word
        assert len(house.tracker) == 2
        assert {flow.flow.kind for flow in house.tracker} == {"Tunnel"}
        assert {flow.flow.in_name for flow in house.tracker} == {"forward"}


async def test_a_forward_to_nowhere_keeps_quiet(house: Living) -> None:
    async with associated(house) as peer:
        await peer.send("nowhere.invalid", dead_port(), b"x")
        await trio.testing.wait_all_tasks_blocked(0.05)
        await until(lambda: not len(house.tracker))


async def test_a_way_that_could_not_be_opened_is_tried_again_while_the_client_writes_on(
    house: Living, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cyfs_gateway.io.packets._REST", 0.0)
    port, failed = await udp_echo(nursery), trio.Event()

    def full(fd: int, *, datagrams: bool = False) -> None:
        if datagrams and not failed.is_set():
            failed.set()
            raise OSError(errno.EMFILE, "no more of them")

    monkeypatch.setattr(house.engine, "check_descriptor", full)
    async with associated(house) as peer:
        await peer.send("127.0.0.1", port, b"lost")
        await failed.wait()
        await until(lambda: not len(house.tracker))
        await peer.send("127.0.0.1", port, b"heard")
        assert (await peer.recv())[1] == b"heard"
