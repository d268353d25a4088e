"""Leased ports at work: raw TCP, DNS by a real dig, and what spoofed datagrams can and cannot do."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import trio

from cyfs_gateway.io.sn.ingress import Ingress
from cyfs_gateway.io.sn.ingressports import FILE
from cyfs_ns.errors import Refused
from tests.cyfs_gateway.io.inprocess import connect, exactly, serve, the_rest, until
from tests.cyfs_gateway.sn.ingressstage import ALICE, AWAY, NAS, Silent, Stage, ran, reset, staged
from tests.freeport import free_port

OWNER, DEVICE = ALICE.did.canonical, NAS.did.canonical


def ports(count: int = 10) -> tuple[int, int]:
    first = free_port()
    return first, first + count - 1


async def greeting(stream: trio.SocketStream) -> None:
    """The server speaks first."""
    await stream.send_all(b"220 hello\r\n")
    async for data in stream:
        await stream.send_all(data)
    await stream.send_eof()


@pytest.mark.parametrize("versions", ["[5]", "[4]"])
async def test_a_port_leads_to_a_service_whoever_speaks_first(
    tmp_path: Path, nursery: trio.Nursery, versions: str
) -> None:
    target = await serve(nursery, greeting)
    mail = f"name: mail, target: 'tcp://127.0.0.1:{target}'"
    async with staged(tmp_path, mail, ports=ports(), versions=versions) as stage:
        lease = stage.ingress.lease(OWNER, DEVICE, "tcp", "mail")
        stream = await connect(lease.port)
        assert await exactly(stream, 11) == b"220 hello\r\n"
        await stream.send_all(b"QUIT")
        await stream.send_eof()
        assert await the_rest(stream) == b"QUIT"
        source = stage.seat.opened[0]
        assert (source[0], source[1]) == ("mail", lease.port) and source[2] is not None
        await until(lambda: len(stage.ingress.traffic) == 0)
        assert stage.books.charged == 11 + 4 + 4

        assert not stage.ingress.unlease(AWAY.did.canonical, "tcp", lease.port)
        assert stage.ingress.unlease(DEVICE, "tcp", lease.port)
        with pytest.raises(OSError, match="refused"):
            await connect(lease.port)


async def test_one_source_has_few_visitors_of_ports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with staged(tmp_path, ports=ports(), of_source=2) as stage:
        monkeypatch.setattr(stage.seat, "ask_peer", (silent := Silent()).ask)
        lease = stage.ingress.lease(OWNER, DEVICE, "tcp", "mail")
        streams = [await connect(lease.port) for _ in range(2)]
        await until(lambda: len(silent.asked) == 2)
        await is_reset(lease.port)
        assert len(silent.asked) == 2
        for stream in streams:
            await stream.aclose()


async def test_nobody_waits_long_at_a_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with staged(tmp_path, ports=ports(), opening=0.3) as stage:
        monkeypatch.setattr(stage.seat, "ask_peer", (silent := Silent()).ask)
        stream = await connect(stage.ingress.lease(OWNER, DEVICE, "tcp", "mail").port)
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some(1)
        assert silent.given_up == 1
        assert not stage.ingress.opening and len(stage.ingress.traffic) == 0


@pytest.mark.parametrize("leaves", [True, False])
async def test_who_leaves_a_port_while_home_is_asked_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leaves: bool
) -> None:
    async with staged(tmp_path, ports=ports()) as stage:
        monkeypatch.setattr(stage.seat, "ask_peer", (silent := Silent()).ask)
        stream = await connect(stage.ingress.lease(OWNER, DEVICE, "tcp", "mail").port)
        await until(lambda: len(stage.ingress.opening) == 1)
        if leaves:
            reset(stream)
            await stream.aclose()
            await until(lambda: silent.given_up)
        else:
            await stream.send_all(b"hello")
            await stream.send_eof()
            stage.ingress.drop_device(DEVICE)
            with pytest.raises(trio.BrokenResourceError):
                await stream.receive_some(1)
        assert silent.given_up == 1
        assert not stage.ingress.opening and len(stage.ingress.traffic) == 0


async def is_reset(port: int) -> None:
    """Whoever comes is turned out at once, perhaps before they know that they were let in."""
    try:
        stream = await connect(port)
    except ConnectionResetError:
        return
    assert await the_rest(stream) == b""


async def test_a_service_that_is_not_for_the_sn_is_not_led_to(tmp_path: Path) -> None:
    async with staged(tmp_path, "name: mail, target: 'tcp://127.0.0.1:9'", ports=ports()) as stage:
        for service in ("mail", "secret"):
            lease = stage.ingress.lease(OWNER, DEVICE, "tcp", service)
            await is_reset(lease.port)
        away = stage.ingress.lease(OWNER, AWAY.did.canonical, "tcp", "mail")
        await is_reset(away.port)
        await until(lambda: len(stage.ingress.traffic) == 0)
        stage.ingress.drop_device(DEVICE)
        assert not stage.ingress.leases(DEVICE)
        assert len(stage.ingress.leases(AWAY.did.canonical)) == 1


async def test_leases_live_on_when_the_sn_does_not(tmp_path: Path, nursery: trio.Nursery) -> None:
    target = await serve(nursery, greeting)
    async with staged(tmp_path, f"name: mail, target: 'tcp://127.0.0.1:{target}'", ports=ports()) as stage:
        async with another(stage, stage.ingress.settings.ports) as first:
            port = first.lease(OWNER, DEVICE, "tcp", "mail").port
            await until((tmp_path / "sn" / FILE).exists)
        async with another(stage, stage.ingress.settings.ports) as second:
            assert [lease.port for lease in second.leases(DEVICE)] == [port]
            assert await exactly(await connect(port), 3) == b"220"
        (tmp_path / "sn" / FILE).write_bytes(b"rubbish")
        async with another(stage, stage.ingress.settings.ports) as third:
            assert not third.leases(DEVICE)
            assert third.lease(OWNER, DEVICE, "tcp", "mail").port == port


@asynccontextmanager
async def another(stage: Stage, leased: tuple[int, int] | None) -> AsyncIterator[Ingress]:
    """Another life of the same ingress."""
    ingress = Ingress(stage.seat, stage.books.find, stage.ingress.settings, stage.books.meter)
    async with trio.open_nursery() as nursery:
        await nursery.start(ingress.run)
        yield ingress
        nursery.cancel_scope.cancel()


async def test_a_port_that_another_program_has_is_passed_over(tmp_path: Path) -> None:
    async with staged(tmp_path, ports=ports(2)) as stage:
        wanted = stage.ingress.lease(OWNER, DEVICE, "tcp", "mail").port
        stage.ingress.unlease(DEVICE, "tcp", wanted)
        # A connection of another time that is still waiting keeps neither it nor the ingress out.
        with socket.create_server(("127.0.0.1", wanted)):
            assert stage.ingress.lease(OWNER, DEVICE, "tcp", "mail").port != wanted
            with pytest.raises(Refused, match="in use"):
                stage.ingress.lease(OWNER, DEVICE, "tcp", "more", port=wanted)


# Datagrams


@asynccontextmanager
async def udp_server(nursery: trio.Nursery, factor: int) -> AsyncIterator[int]:
    """Answers with ``factor`` times what came."""
    with trio.socket.socket(type=socket.SOCK_DGRAM) as sock:
        await sock.bind(("127.0.0.1", 0))

        async def run() -> None:
            while True:
                data, peer = await sock.recvfrom(65535)
                await sock.sendto(data * factor, peer)

        nursery.start_soon(run)
        yield sock.getsockname()[1]
        nursery.cancel_scope.cancel()


@contextmanager
def dnsmasq(folder: Path) -> Iterator[int]:
    """A name server that knows one name."""
    port = free_port()
    options = ["--no-daemon", "--no-hosts", "--no-resolv", "--user=root", f"--pid-file={folder}/pid"]
    options += [f"--port={port}", "--listen-address=127.0.0.1", "--bind-interfaces"]
    options += ["--host-record=www.home.test,192.0.2.80"]
    child = subprocess.Popen(["dnsmasq", *options], stderr=subprocess.DEVNULL)
    try:
        yield port
    finally:
        child.terminate()
        child.wait()


async def test_dig_asks_a_name_server_at_home(tmp_path: Path) -> None:
    with dnsmasq(tmp_path) as port:
        async with staged(tmp_path, f"name: dns, target: 'udp://127.0.0.1:{port}'", ports=ports()) as stage:
            lease = stage.ingress.lease(OWNER, DEVICE, "udp", "dns")
            for _ in range(3):
                asked = ["dig", "@127.0.0.1", "-p", str(lease.port), "www.home.test", "+short", "+tries=5", "+time=1"]
                code, said = await ran(*asked)
                assert (code, said) == (0, "192.0.2.80\n")
            stage.ingress.unlease(DEVICE, "udp", lease.port)
            assert 200 < stage.books.charged < 1000


@pytest.mark.parametrize(("factor", "proves", "answers"), [(3, False, True), (4, False, False), (40, True, True)])
async def test_nothing_is_amplified_unless_the_service_knows_its_clients(
    tmp_path: Path, nursery: trio.Nursery, factor: int, proves: bool, answers: bool
) -> None:
    async with (
        udp_server(nursery, factor) as port,
        staged(tmp_path, f"name: game, target: 'udp://127.0.0.1:{port}'", ports=ports()) as stage,
    ):
        lease = stage.ingress.lease(OWNER, DEVICE, "udp", "game", proves=proves)
        with trio.socket.socket(type=socket.SOCK_DGRAM) as client:
            await client.connect(("127.0.0.1", lease.port))
            await client.send(b"move")
            if answers:
                with trio.fail_after(60):
                    assert await client.recv(65535) == b"move" * factor
            else:
                await until(lambda: stage.ingress.traffic.outcomes["udp-unanswered"] == 1)


async def test_newcomers_are_few_and_do_not_move_those_who_are_settled(tmp_path: Path, nursery: trio.Nursery) -> None:
    async with (
        udp_server(nursery, 1) as port,
        staged(
            tmp_path, f"name: game, target: 'udp://127.0.0.1:{port}'", ports=ports(), udp_sessions=16, udp_of_source=4
        ) as stage,
    ):
        lease = stage.ingress.lease(OWNER, DEVICE, "udp", "game")
        with trio.socket.socket(type=socket.SOCK_DGRAM) as client:
            await client.connect(("127.0.0.1", lease.port))

            async def play() -> None:
                await client.send(b"move")
                with trio.fail_after(60):
                    assert await client.recv(99) == b"move"

            await play()
            await play()
            for number in range(100):
                with socket.socket(type=socket.SOCK_DGRAM) as stranger:
                    stranger.bind((f"127.0.2.{number % 20 + 1}", 0))
                    stranger.sendto(b"x", ("127.0.0.1", lease.port))
                await trio.lowlevel.checkpoint()
            await play()
            await until(lambda: 1 <= len(stage.ingress.traffic) <= 1 + 8)
            await play()
            assert stage.ingress.status()["ports"] == 1
        stage.ingress.unlease(DEVICE, "udp", lease.port)
        await until(lambda: len(stage.ingress.traffic) == 0)
