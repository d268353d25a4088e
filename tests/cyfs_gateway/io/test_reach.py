"""Where a device may be found: the UDP port beside its doors, the servers it asks, and who may know what."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
import trio
from peering import LAPTOP, NAS, PHOTOS, PI, machine, published

from cyfs_gateway.config.load import load
from cyfs_gateway.io.reach import Reach, bind, doors_of
from cyfs_ns.errors import Unreachable
from rtcp.io.nat.punch import UdpSockets
from rtcp.nat.stun import HostPort
from tests.freeport import free_port

ANY4, ANY6 = ("0.0.0.0", 2980), ("::", 2980)


class OneWorld:
    """What a reach asks of the world."""

    mark = 0

    def __init__(self, text: str, names: dict[str, list[str]] | None = None) -> None:
        loaded = load(text.encode(), home="/h")
        assert loaded.config is not None, loaded.faults
        self.config, self._names = loaded.config, names or {}

    async def resolve(self, host: str) -> list[str]:
        if host not in self._names:
            raise Unreachable(host)
        return self._names[host]


@pytest.mark.parametrize(
    ("text", "udp"),
    [
        ("rtcp: {listen: 2980}", (ANY4, ANY6)),
        ("rtcp: {listen: 2980}\nipv6: false", (ANY4,)),
        ("rtcp: {listen: '192.0.2.1:2981'}", (("192.0.2.1", 2981),)),
        ("rtcp: {listen: ['192.0.2.1:2981', ':2980']}", (ANY4, ANY6)),
        ("rtcp: {listen: ['192.0.2.1:2981', '192.0.2.2:2982', '[2001:db8::1]:2983']}", None),
        ("rtcp: {}", (("0.0.0.0", 0), ("::", 0))),
        ("mode: rule\nipv6: false", (("0.0.0.0", 0),)),
        ("rtcp: {listen: 2980, udp: false}", ()),
        ("rtcp: {listen: 2980, versions: [4]}", ()),
    ],
)
def test_the_udp_port_is_the_doors(text: str, udp: tuple[tuple[str, int], ...] | None) -> None:
    world = OneWorld(text)
    found = doors_of(world.config, 0).udp
    assert found == (udp if udp is not None else (("192.0.2.1", 2981), ("2001:db8::1", 2983)))


@pytest.mark.parametrize(
    ("listen", "outside"),
    [("127.0.0.1:2980", False), ("'[::1]:2980'", False), ("192.0.2.1:2980", True), ("2980", True)],
)
def test_loopback_alone_is_nowhere(listen: str, outside: bool) -> None:
    assert doors_of(OneWorld(f"rtcp: {{listen: {listen}}}").config, 0).is_outside is outside


def test_a_taken_port_is_replaced_and_a_missing_address_left_out(caplog: pytest.LogCaptureFixture) -> None:
    port = free_port()
    doors = doors_of(OneWorld(f"rtcp: {{listen: ['127.0.0.1:{port}', '[2001:db8::7]:{port}']}}").config, 0)
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as other:
        other.bind(("127.0.0.1", port))
        (sock,) = bind(doors)
        with closing(sock):
            assert sock.address[0] == "127.0.0.1"
            assert sock.address[1] != port
        assert f"UDP port {port} of 127.0.0.1 is taken" in caplog.text
    (sock,) = bind(doors)
    with closing(sock):
        assert sock.address == ("127.0.0.1", port)


def test_both_families_of_any_port_have_the_same() -> None:
    sockets = bind(doors_of(OneWorld("rtcp: {}").config, 0))
    assert len({sock.address[1] for sock in sockets}) == 1
    for sock in sockets:
        sock.close()


async def test_servers_are_those_of_our_sns_and_the_configuration() -> None:
    text = "rtcp: {stun: [stun.example, gone.example, '192.0.2.1:3479', '192.0.2.9']}"
    world: Any = OneWorld(text, {"stun.example": ["198.51.100.1", "198.51.100.2", "2001:db8::0001"]})
    reach = Reach(NAS, lambda: world, lambda: [("192.0.2.9", 3478), ("sn.example", 4)])
    assert await reach._servers() == [
        HostPort("192.0.2.9", 3478),
        HostPort("198.51.100.1", 3478),
        HostPort("2001:db8::1", 3478),
        HostPort("192.0.2.1", 3479),
    ]


async def test_on_loopback_alone_nothing_is_gathered_and_nobody_asked() -> None:
    world: Any = OneWorld(f"rtcp: {{listen: '127.0.0.1:{free_port()}'}}")
    reach = Reach(NAS, lambda: world)
    async with reach.open() as sockets:
        assert [sock.address[0] for sock in sockets] == ["127.0.0.1"]
        assert await reach.look_near(PI.public) == []
        with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            assert (await reach.gather(UdpSockets(sock), True)).candidates == ()


@asynccontextmanager
async def two(base: Path, more: str) -> AsyncIterator[tuple[Any, Any]]:
    """``photos``, whose configuration says ``more``, and ``laptop``, of one owner, with a tunnel."""
    port = free_port()
    config = f"rtcp: {{listen: '127.0.0.1:{port}', {more}}}\n"
    async with (
        published(port) as dns,
        machine(base / "photos", NAS, config, did=PHOTOS, dns=dns) as photos,
        machine(base / "laptop", PI, "", did=LAPTOP, dns=dns) as laptop,
    ):
        assert (await laptop.gateway.ping(str(PHOTOS))).rtt
        yield photos.gateway, laptop.gateway


@pytest.mark.parametrize(
    ("more", "trusted"),
    [
        ("", True),
        ("private-addresses: []", False),
        (f"private-addresses: ['{LAPTOP}']", True),
        ("private-addresses: ['ZONE,other.example']", False),
    ],
)
async def test_addresses_inside_are_for_the_owners_devices_unless_others_are_named(
    tmp_path: Path, more: str, trusted: bool
) -> None:
    async with two(tmp_path, more) as (photos, laptop):
        (seen,) = photos._peers._peers._tunnels()
        assert photos._peers._peers._trusts(seen.peer) is trusted
        (dialled,) = laptop._peers._peers._tunnels()
        assert laptop._peers._peers._trusts(dialled.peer), "the owner's own, by default"


async def test_a_view_tells_the_way_that_is_used(tmp_path: Path) -> None:
    async with two(tmp_path, "lan: false") as (photos, laptop):
        (dialled,), (taken,) = laptop.peers(), photos.peers()
        assert dialled.way.startswith(("tcp 127.0.0.1:", "udp 127.0.0.1:"))
        assert dialled.why
        assert "127.0.0.1" in taken.way
