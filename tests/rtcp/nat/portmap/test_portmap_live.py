"""Ports mapped by a real router: miniupnpd in namespaces, asked by the mapper as it runs in a gateway."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import trio

from rtcp.io.nat import portmap
from rtcp.io.nat.portmap import Mapper, mapped
from rtcp.nat.portmap import pcp
from rtcp.nat.portmap.lease import Status
from rtcp.nat.portmap.values import Protocol, Transport, Wanted
from tests.rtcp.nat.portmap.home import HOST6, OUTSIDE, ROUTER, home_of, ip, tcp_arrives, udp_arrives

UDP, TCP = Wanted(Transport.UDP, 4000), Wanted(Transport.TCP, 4001)
PINHOLE = Wanted(Transport.UDP, 4000, version=6)


@pytest.fixture
def home(tmp_path):
    with home_of(tmp_path) as made:
        yield made


async def until(mapper: Mapper, agreed: Callable[[Status], bool]) -> tuple[Status, ...]:
    with trio.fail_after(60):
        while not all(agreed(status) for status in mapper.status):
            await mapper.changed()
    return mapper.status


def is_held(status: Status) -> bool:
    return status.protocol is not None


@pytest.mark.parametrize(
    ("daemon", "allowed", "spoken"),
    [
        ({}, frozenset(Protocol), Protocol.PCP),
        ({}, {Protocol.NAT_PMP, Protocol.UPNP}, Protocol.NAT_PMP),
        ({"natpmp": False}, frozenset(Protocol), Protocol.UPNP),
        ({"natpmp": False, "first": True}, frozenset(Protocol), Protocol.UPNP),
    ],
    ids=["PCP", "NAT-PMP", "IGDv2", "IGDv1"],
)
def test_strangers_come_in_while_a_port_is_mapped(home, daemon, allowed, spoken):
    home.start(**daemon)

    async def scene():
        async with mapped(UDP, TCP, allowed=frozenset(allowed)) as mapper:
            udp, tcp = await until(mapper, is_held)
            assert [(each.protocol, each.outside, each.partway) for each in (udp, tcp)] == [
                (spoken, (OUTSIDE, 4000), False),
                (spoken, (OUTSIDE, 4001), False),
            ]
            assert await udp_arrives(home, udp.outside, 4000)
            assert await tcp_arrives(home, tcp.outside, 4001)
        assert "dnat" not in home.rules()

    home.play(scene)


def test_a_port_of_ipv6_is_let_through_by_the_firewall(home):
    home.start()

    async def scene():
        assert not await udp_arrives(home, (HOST6, 4000), 4000, tries=1)
        async with mapped(PINHOLE) as mapper:
            (status,) = await until(mapper, is_held)
            assert (status.protocol, status.outside) == (Protocol.PCP, (HOST6, 4000))
            assert await udp_arrives(home, status.outside, 4000)
        assert "dport 4000" not in home.rules()

    home.play(scene)


@pytest.mark.parametrize("allowed", [Protocol.PCP, Protocol.NAT_PMP], ids=str)
def test_a_router_that_forgot_is_asked_again(home, allowed):
    home.start(old=True)

    async def scene():
        async with mapped(UDP, allowed=frozenset({allowed})) as mapper:
            (before,) = await until(mapper, is_held)
            home.stop()
            assert not await udp_arrives(home, before.outside, 4000, tries=1)
            home.start()
            (after,) = await until(mapper, lambda status: is_held(status) and status.since > before.since)
            assert after.outside == before.outside
            assert await udp_arrives(home, after.outside, 4000)

    home.play(scene)


@pytest.mark.parametrize("allowed", [Protocol.PCP, Protocol.NAT_PMP], ids=str)
def test_a_new_address_outside_is_heard_of(home, allowed):
    home.start()

    async def scene():
        async with mapped(UDP, allowed=frozenset({allowed})) as mapper:
            await until(mapper, is_held)
            home.router.run("ip", "addr", "del", f"{OUTSIDE}/24", "dev", "wan")
            home.router.run("ip", "addr", "add", "11.0.0.9/24", "dev", "wan")
            await until(mapper, lambda status: status.outside == ("11.0.0.9", 4000))

    home.play(scene)


def test_a_router_that_learns_to_map_is_used_when_it_says_so(home, monkeypatch):
    # Asked at once, while what ICMP said of the questions before may be unread.
    monkeypatch.setattr(portmap, "random", SimpleNamespace(random=lambda: 0.0))

    async def scene():
        async with mapped(UDP, allowed=frozenset({Protocol.PCP, Protocol.NAT_PMP})) as mapper:
            silence = "the router does not speak it"
            await until(mapper, lambda status: status.why == f"PCP: {silence}; NAT-PMP: {silence}")
            home.start(upnp=False)
            await until(mapper, is_held)

    home.play(scene)


@pytest.mark.parametrize("allowed", list(Protocol), ids=str)
def test_a_port_outside_that_is_somebody_elses_stays_so(home, allowed):
    home.inside.run("ip", "addr", "add", "192.168.77.3/24", "dev", "eth0")
    home.start(first=True)

    async def scene():
        with trio.socket.socket(type=trio.socket.SOCK_DGRAM) as neighbour:
            await neighbour.bind(("192.168.77.3", 0))
            await neighbour.connect((ROUTER, pcp.PORT))
            theirs = pcp.map_request(UDP, "192.168.77.3", bytes(12), 600, ("0.0.0.0", 4000))
            await neighbour.send(theirs)
            assert pcp.read_answer(await neighbour.recv(1100)).result == pcp.SUCCESS
        async with mapped(UDP, allowed=frozenset({allowed})) as mapper:
            (status,) = await until(mapper, is_held)
            assert status.outside[1] != 4000
            assert await udp_arrives(home, status.outside, 4000)
        assert "dnat ip to 192.168.77.3:4000" in home.rules()

    home.play(scene)


def test_ports_are_mapped_again_when_the_way_out_is_back(home):
    home.start()

    async def scene():
        async with mapped(UDP) as mapper:
            await until(mapper, is_held)
            ip("route", "del", "default")
            (status,) = await until(mapper, lambda status: not is_held(status))
            assert status.why == "there is no way out by IPv4"
            ip("route", "add", "default", "via", ROUTER)
            await until(mapper, is_held)

    home.play(scene)


def test_a_host_that_is_no_router_is_told_from_a_public_address(home):
    home.inside.run("ip", "addr", "add", "11.1.0.1/24", "dev", "eth0")
    home.inside.run("ip", "route", "replace", "default", "via", ROUTER, "src", "11.1.0.1")

    async def scene():
        async with mapped(UDP) as mapper:
            assert mapper.status[0].why == "no NAT is in the way: 11.1.0.1 is a public address itself"

    home.play(scene)


@pytest.mark.parametrize(
    ("allowed", "why"),
    [
        (Protocol.PCP, "PCP: no resources"),
        (Protocol.NAT_PMP, "NAT-PMP: it has no public address outside"),
        (Protocol.UPNP, "UPnP: it has no public address outside"),
    ],
    ids=["PCP", "NAT-PMP", "UPnP"],
)
def test_a_router_that_maps_nothing_behind_another_nat_is_told(tmp_path, allowed, why):
    with home_of(tmp_path, "100.64.3.1") as home:
        home.start()

        async def scene():
            async with mapped(UDP, allowed=frozenset({allowed})) as mapper:
                await until(mapper, lambda status: status.why == why)

        home.play(scene)
