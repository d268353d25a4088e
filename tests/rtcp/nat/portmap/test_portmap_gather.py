"""A port that a real router maps stands in the offers of a device, and is given back when the device ends."""

from __future__ import annotations

import socket

import pytest
import trio

from rtcp.io.nat.gather import Gatherer
from rtcp.io.nat.punch import UdpSockets
from rtcp.nat.candidates import Kind, Transport
from tests.rtcp.nat.portmap.home import HOST6, OUTSIDE, home_of, ip, tcp_arrives, udp_arrives

UDP, TCP = 4000, 4001


@pytest.fixture
def home(tmp_path):
    with home_of(tmp_path) as made:
        yield made


async def nobody():
    return ()


async def offered(gatherer: Gatherer, count: int) -> set[tuple[Transport, str, int]]:
    """What a stranger is told of mapped ports, once there are ``count``."""
    with trio.fail_after(60), trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        share = UdpSockets(sock)
        while True:
            offer = await gatherer.offer(share, False)
            found = {(c.transport, c.address, c.port) for c in offer.candidates if c.kind is Kind.MAPPED}
            if len(found) == count:
                return found
            await gatherer.mapped()


def test_a_mapped_port_is_offered_and_given_back(home):
    home.start()

    async def scene():
        async with trio.open_nursery() as nursery:
            gatherer = Gatherer(udp=[("0.0.0.0", UDP)], doors=[("0.0.0.0", TCP)], servers=nobody, maps=True)
            await nursery.start(gatherer.run)
            assert await offered(gatherer, 2) == {(Transport.UDP, OUTSIDE, UDP), (Transport.TCP, OUTSIDE, TCP)}
            assert await udp_arrives(home, (OUTSIDE, UDP), UDP)
            assert await tcp_arrives(home, (OUTSIDE, TCP), TCP)
            nursery.cancel_scope.cancel()
        assert "dnat" not in home.rules()

    home.play(scene)


def test_a_router_that_is_gone_is_no_way_in(home):
    home.start()

    async def scene():
        async with trio.open_nursery() as nursery:
            gatherer = Gatherer(udp=[("0.0.0.0", UDP)], servers=nobody, maps=True)
            await nursery.start(gatherer.run)
            assert await offered(gatherer, 1)
            ip("route", "del", "default")
            assert await offered(gatherer, 0) == set()
            nursery.cancel_scope.cancel()

    home.play(scene)


def test_who_has_no_network_any_more_ends_all_the_same(home):
    home.start()

    async def scene():
        async with trio.open_nursery() as nursery:
            gatherer = Gatherer(udp=[("0.0.0.0", UDP)], servers=nobody, maps=True)
            await nursery.start(gatherer.run)
            assert await offered(gatherer, 1)
            ip("link", "set", "eth0", "down")
            with trio.fail_after(60):  # a task that gives a mapping back heeds no cancellation
                while await offered(gatherer, 0):
                    pass
            nursery.cancel_scope.cancel()

    home.play(scene)


def test_a_hole_in_a_firewall_of_ipv6_is_an_address_of_ours(home):
    home.start()

    async def scene():
        async with trio.open_nursery() as nursery:
            gatherer = Gatherer(udp=[("::", UDP)], servers=nobody, maps=True)
            await nursery.start(gatherer.run)
            assert await udp_arrives(home, (HOST6, UDP), UDP)
            with trio.socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
                offer = await gatherer.offer(UdpSockets(sock), False)
            assert (HOST6, UDP, Kind.IPV6) in {(c.address, c.port, c.kind) for c in offer.candidates}
            nursery.cancel_scope.cancel()

    home.play(scene)
