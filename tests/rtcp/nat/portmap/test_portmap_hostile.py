"""The mapper between a gateway that means no good and neighbours that pretend to be it."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
import trio

from rtcp.io.nat import portmap
from rtcp.io.nat.portmap import Mapper, mapped
from rtcp.nat.portmap import lease, pcp, ssdp
from rtcp.nat.portmap.igd import Asked
from rtcp.nat.portmap.values import Protocol, Transport, Wanted
from tests.rtcp.nat.portmap.fakerouter import FOUND, LOCATION, FakeRouter
from tests.rtcp.nat.portmap.home import HOST, HOST6, ROUTER, ROUTER_LINK, Home, home_of, ip

WANTED = Wanted(Transport.UDP, 4000)
NEIGHBOUR = "192.168.77.9"
HERE = FOUND.replace(LOCATION.encode(), f"http://{ROUTER}:5000/rootDesc.xml".encode())

Serve = Callable[[trio.SocketStream], Awaitable[None]]


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setattr(portmap, "_HTTP_PATIENCE", 0.3)
    monkeypatch.setattr(lease, "_SEARCHING", 0.5)
    monkeypatch.setattr(lease, "_SILENT", 0.8)
    monkeypatch.setattr(lease, "PATIENCE", 0.5)
    with home_of(tmp_path, daemon=False) as made:
        made.router.run("ip", "addr", "add", f"{NEIGHBOUR}/24", "dev", "lan")
        yield made


class Gateway:
    """Sockets at the router, and what they do."""

    def __init__(self, home: Home, nursery: trio.Nursery) -> None:
        self._home, self._nursery = home, nursery
        self.searched = trio.Event()

    async def udp(self, host: str, port: int) -> trio.socket.SocketType:
        """On the link inside, if the address is one of a link."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = trio.socket.from_stdlib_socket(self._home.router.call(socket.socket, family, socket.SOCK_DGRAM))
        await sock.bind((host, port, 0, self.link) if ":" in host else (host, port))
        return sock

    @property
    def link(self) -> int:
        return self._home.router.call(socket.if_nametoindex, "lan")

    async def found(self, *answers: tuple[str, bytes]) -> None:
        """Searches are answered from the addresses given."""
        searched = await self.udp("0.0.0.0", ssdp.PORT)
        froms = [(await self.udp(host, 0), data) for host, data in answers]

        async def answer() -> None:
            while True:
                _, place = await searched.recvfrom(2048)
                for sock, data in froms:
                    await sock.sendto(data, place)
                self.searched.set()

        self._nursery.start_soon(answer)

    async def http(self, serve: Serve, host: str = ROUTER) -> list[int]:
        """The connections there were, counted in a list."""
        listener = trio.socket.from_stdlib_socket(self._home.router.call(socket.socket))
        await listener.bind((host, 5000))
        listener.listen()
        seen: list[int] = []

        async def accept() -> None:
            while True:
                sock, _ = await listener.accept()
                seen.append(1)
                self._nursery.start_soon(one, trio.SocketStream(sock))

        async def one(stream: trio.SocketStream) -> None:
            async with stream:
                try:
                    await stream.receive_some()
                    await serve(stream)
                except trio.BrokenResourceError:
                    pass

        self._nursery.start_soon(accept)
        return seen


@asynccontextmanager
async def gateway(home: Home) -> AsyncIterator[Gateway]:
    async with trio.open_nursery() as nursery:
        yield Gateway(home, nursery)
        nursery.cancel_scope.cancel()


async def told(mapper: Mapper, why: str) -> None:
    with trio.fail_after(60):
        while why not in mapper.status[0].why:
            await mapper.changed()


async def drip(stream: trio.SocketStream) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
    while True:
        await stream.send_all(b"x")
        await trio.sleep(0.05)


async def endless(stream: trio.SocketStream) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        await stream.send_all(bytes(65536))


async def endless_head(stream: trio.SocketStream) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\n")
    while True:
        await stream.send_all(b"x: " + b"y" * 1000 + b"\r\n")


async def silent(stream: trio.SocketStream) -> None:
    await trio.sleep_forever()


async def elsewhere(stream: trio.SocketStream) -> None:
    place = f"http://{NEIGHBOUR}:5000/".encode()
    await stream.send_all(b"HTTP/1.1 302 Found\r\nlocation: " + place + b"\r\ncontent-length: 0\r\n\r\n")


@pytest.mark.parametrize(
    ("serve", "why"),
    [
        (drip, "no response in"),
        (silent, "no response in"),
        (endless, "UPnP: "),
        (endless_head, "UPnP: "),
        (elsewhere, "more than 0 redirects"),
    ],
)
def test_a_web_server_that_means_no_good_is_left(home, serve, why):
    async def scene():
        async with gateway(home) as router:
            await router.found((ROUTER, HERE))
            other = await router.http(silent, NEIGHBOUR)
            await router.http(serve)
            async with mapped(WANTED, allowed=frozenset({Protocol.UPNP})) as mapper:
                await told(mapper, why)
            assert not other

    home.play(scene)


def test_a_neighbour_who_answers_a_search_is_not_called(home):
    async def scene():
        async with gateway(home) as router:
            its_own = HERE.replace(ROUTER.encode(), NEIGHBOUR.encode())
            # Its own description, one of the router's, and in the router's name one of its own.
            await router.found((NEIGHBOUR, its_own), (NEIGHBOUR, HERE), (ROUTER, its_own))
            calls = [await router.http(silent, host) for host in (ROUTER, NEIGHBOUR)]
            async with mapped(WANTED, allowed=frozenset({Protocol.UPNP})) as mapper:
                await router.searched.wait()
                await told(mapper, "UPnP: no answer")
            assert calls == [[], []]

    home.play(scene)


def test_a_neighbour_who_answers_for_the_router_is_not_heard(home):
    async def scene():
        async with gateway(home) as router, trio.open_nursery() as nursery:
            asked = await router.udp(ROUTER, pcp.PORT)
            neighbour = await router.udp(NEIGHBOUR, pcp.PORT)
            other_port = await router.udp(ROUTER, 0)
            fake = FakeRouter(ip="6.6.6.6")

            async def answer() -> None:
                while True:
                    data, place = await asked.recvfrom(2048)
                    reply = fake.datagram(data, 0.0)
                    await neighbour.sendto(reply, place)
                    await other_port.sendto(reply, place)

            nursery.start_soon(answer)
            async with mapped(WANTED, allowed=frozenset({Protocol.PCP})) as mapper:
                await told(mapper, "PCP: ")
                assert mapper.status[0].protocol is None
            nursery.cancel_scope.cancel()

    home.play(scene)


def test_a_flood_from_the_gateway_leaves_everybody_else_their_turn(home):
    async def scene():
        async with gateway(home) as router, trio.open_nursery() as nursery:
            asked = await router.udp(ROUTER, pcp.PORT)
            fake = FakeRouter()
            flooded = trio.Event()

            async def answer() -> None:
                while True:
                    data, place = await asked.recvfrom(2048)
                    await asked.sendto(fake.datagram(data, 0.0), place)
                    nursery.start_soon(flood, place)

            async def flood(place: tuple[str, int]) -> None:
                for number in range(2000):
                    await asked.sendto(bytes((2, 0x81)) + number.to_bytes(58), place)
                flooded.set()

            nursery.start_soon(answer)
            async with mapped(WANTED) as mapper:
                await told(mapper, "mapped by PCP")
                await flooded.wait()
                assert mapper.status[0].protocol is Protocol.PCP
            assert fake.mappings == {}
            nursery.cancel_scope.cancel()

    home.play(scene)


def test_a_router_that_goes_silent_does_not_keep_us_from_going(home):
    async def scene():
        async with gateway(home) as router:
            asked = await router.udp(ROUTER, pcp.PORT)
            fake = FakeRouter()
            async with mapped(WANTED, allowed=frozenset({Protocol.PCP})) as mapper:
                data, place = await asked.recvfrom(2048)
                assert place[0] == HOST
                await asked.sendto(fake.datagram(data, 0.0), place)
                await told(mapper, "mapped by PCP")

    home.play(scene)  # which has a deadline


def test_a_way_that_flaps_does_not_cost_the_new_mapping(home, monkeypatch):
    monkeypatch.setattr(lease, "PATIENCE", 1.2)

    async def scene():
        async with gateway(home) as router, trio.open_nursery() as nursery:
            asked = await router.udp(ROUTER, pcp.PORT)
            fake = FakeRouter()
            three_deletions = trio.Event()

            async def answer() -> None:
                while True:
                    data, place = await asked.recvfrom(2048)
                    reply = fake.datagram(data, 0.0)
                    if fake.heard[-1] != "PCP 0 0":
                        await asked.sendto(reply, place)
                    elif fake.heard.count("PCP 0 0") == 3:
                        three_deletions.set()

            nursery.start_soon(answer)
            async with mapped(WANTED, allowed=frozenset({Protocol.PCP})) as mapper:
                await told(mapper, "mapped by PCP")
                ip("route", "del", "default")
                await told(mapper, "no way out")
                ip("route", "add", "default", "via", ROUTER)
                await told(mapper, "mapped by PCP")
                await three_deletions.wait()
                assert fake.heard[-1] == "PCP 7200 4000"
            nursery.cancel_scope.cancel()

    home.play(scene)


def test_two_mappers_of_a_host_do_not_disturb_each_other(home):
    async def scene():
        async with gateway(home) as router, trio.open_nursery() as nursery:
            asked = await router.udp(ROUTER, pcp.PORT)
            fake = FakeRouter()

            async def answer() -> None:
                while True:
                    data, place = await asked.recvfrom(2048)
                    await asked.sendto(fake.datagram(data, 0.0), place)

            nursery.start_soon(answer)
            async with mapped(WANTED) as one, mapped(Wanted(Transport.TCP, 4001)) as two:
                await told(one, "mapped by PCP")
                await told(two, "mapped by PCP")
            nursery.cancel_scope.cancel()

    home.play(scene)


def test_what_a_router_of_ipv6_announces_is_heard(home):
    async def scene():
        async with gateway(home) as router, trio.open_nursery() as nursery:
            asked = await router.udp(ROUTER_LINK, pcp.PORT)
            fake = FakeRouter(ip=HOST6)
            questions, hear = trio.open_memory_channel[bytes](10)

            async def answer() -> None:
                while True:
                    data, place = await asked.recvfrom(2048)
                    assert place[0] == HOST6
                    await asked.sendto(fake.datagram(data, 0.0), place)
                    await questions.send(data)

            nursery.start_soon(answer)
            async with mapped(Wanted(Transport.UDP, 4000, version=6)) as mapper:
                await told(mapper, "mapped by PCP")
                first = await hear.receive()
                announced = bytes((2, 0x80, *bytes(22)))
                await asked.sendto(announced, ("ff02::1", pcp.ANNOUNCE_PORT, 0, router.link))
                assert await hear.receive() == first[:42] + (4000).to_bytes(2) + ipaddress.ip_address(HOST6).packed
            nursery.cancel_scope.cancel()

    home.play(scene)


def test_what_icmp_said_of_the_questions_before_is_not_held_against_the_next(home, monkeypatch):
    monkeypatch.setattr(portmap, "random", SimpleNamespace(random=lambda: 0.0))
    monkeypatch.setattr(lease, "_REPEATS", (0.0,))
    monkeypatch.setattr(lease, "_FIRST_REST", 3600.0)  # who rests does not ask again within this test

    async def scene():
        async with gateway(home) as router:
            asked = await router.udp(ROUTER, pcp.PORT)
            icmp = home.router.call(socket.socket, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
            with icmp, asked:
                async with mapped(WANTED, allowed=frozenset({Protocol.PCP})) as mapper:
                    question, place = await asked.recvfrom(2048)
                    refusal = port_unreachable(place, len(question))
                    icmp.sendto(refusal, (HOST, 0))
                    await told(mapper, "PCP: the router does not speak it")
                    icmp.sendto(refusal, (HOST, 0))
                    await asked.sendto(bytes((2, 0x80, *bytes(22))), (pcp.GROUPS[4], pcp.ANNOUNCE_PORT))
                    assert await asked.recv(2048) == question

    home.play(scene)


def port_unreachable(place: tuple[str, int], size: int) -> bytes:
    """What the router says by ICMP to a datagram of that ``size`` from ``place`` (RFC 792)."""
    source, target = (ipaddress.ip_address(ip).packed for ip in (place[0], ROUTER))
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28 + size, 0, 0, 64, socket.IPPROTO_UDP, 0, source, target)
    about = head + struct.pack("!HHHH", place[1], pcp.PORT, 8 + size, 0)
    checksum = -(0x0303 + sum(struct.unpack("!14H", about))) % 0xFFFF
    return struct.pack("!BBHI", 3, 3, checksum, 0) + about


def test_a_description_that_is_served_is_used(home):
    """What the others of this file are measured by: the same sockets, and a gateway that means well."""
    fake = FakeRouter()

    async def well(stream: trio.SocketStream) -> None:
        reply = fake.http(Asked("x"))
        head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(reply.body)}\r\n\r\n".encode()
        await stream.send_all(head + reply.body)

    async def scene():
        async with gateway(home) as router:
            await router.found((ROUTER, HERE))
            await router.http(well)
            async with mapped(WANTED, allowed=frozenset({Protocol.UPNP})) as mapper:
                await told(mapper, "UPnP: no reply to GetExternalIPAddress")

    home.play(scene)
