"""What a device says of where it is: asked once for as long as it holds, told early, and never more than may be."""

from __future__ import annotations

import math
import socket
from functools import partial
from types import SimpleNamespace

import pytest
import trio

from cyfs_ns.links import (
    AddressAppeared,
    AddressGone,
    Home,
    NeighbourLearned,
    Picture,
    WayFound,
    WayLost,
    WayOut,
)
from rtcp.io.nat.gather import AT_MOST, JUDGED_WITHIN, SEEN_FOR, Gatherer
from rtcp.io.nat.punch import UdpSockets
from rtcp.io.nat.stunserver import serve_stun
from rtcp.nat.candidates import Filtering, Kind, Mapping, Transport
from rtcp.nat.portmap import values
from rtcp.nat.portmap.lease import Status
from rtcp.nat.portmap.values import Wanted
from rtcp.nat.stun import HostPort, Message, read_message, write_message
from rtcp.nat.stun import Kind as Word
from tests.freeport import free_port

ONE, TWO, SIX = HostPort("192.0.2.1", 3478), HostPort("192.0.2.2", 3478), HostPort("2001:db8::1", 3478)
OUTSIDE = HostPort("198.51.100.7", 4242)
PORT = 2980


class Share:
    """A share of a socket; ``sees`` says after how many seconds which server sees us where, or never (None)."""

    def __init__(self, sees):
        self.sees, self.sent = sees, []
        self._in, self._out = trio.open_memory_channel(math.inf)

    async def send(self, data, to, ttl):
        assert ttl is None
        self.sent.append(to)
        if (answer := self.sees(to)) is not None:
            after, seen = answer
            reply = Message(kind=Word.SUCCESS, transaction=read_message(data).transaction, seen=seen)
            trio.lowlevel.spawn_system_task(self._later, after, write_message(reply), to)

    async def _later(self, after, data, source):
        await trio.sleep(after)
        self._in.send_nowait((data, source))

    async def receive(self):
        return await self._out.receive()


class Place(Gatherer):
    """A gatherer whose interfaces are ``homes``."""

    def __init__(self, *servers, homes=(), way="", **options):
        async def told():
            return self.servers

        self.servers = list(servers)
        defaults = {"udp": [("0.0.0.0", PORT), ("::", PORT)], "doors": [("0.0.0.0", PORT)], "servers": told}
        super().__init__(**defaults | options)
        found = frozenset(Home("eth0", ip, 2, 64 if ":" in ip else 24) for ip in homes)
        self._shown = Picture(found, (WayOut("eth0", "192.168.1.1", way, 2) if way else None, None))

    @property
    def _picture(self):
        return self._shown


def places(offer, kind):
    return [(c.transport, c.address, c.port) for c in offer.candidates if c.kind is kind]


async def test_what_was_seen_is_asked_once_for_as_long_as_it_holds(autojump_clock):
    share, here = Share(lambda to: (0.02, OUTSIDE)), Place(ONE, TWO)
    began = trio.current_time()
    first = await here.offer(share, False)
    assert trio.current_time() - began == pytest.approx(0.02)
    assert places(first, Kind.OBSERVED) == [(Transport.UDP, *OUTSIDE)]
    asked = len(share.sent)

    again = await here.offer(share, False)
    assert (again.candidates, trio.current_time() - began) == (first.candidates, pytest.approx(0.02))
    assert again.nonce != first.nonce
    assert len(share.sent) == asked

    await trio.sleep(SEEN_FOR)
    share.sees = lambda to: (0.02, HostPort("198.51.100.7", 4343))
    assert places(await here.offer(share, False), Kind.OBSERVED) == [(Transport.UDP, "198.51.100.7", 4343)]


async def test_what_is_in_doubt_is_asked_again_and_told_where_nobody_answers(autojump_clock):
    share, here = Share(lambda to: (0.02, OUTSIDE)), Place(ONE, TWO)
    await here.offer(share, False)
    here.doubt()
    share.sees = lambda to: None
    assert places(await here.offer(share, False), Kind.OBSERVED) == [(Transport.UDP, *OUTSIDE)]
    share.sees = lambda to: (0.02, HostPort("198.51.100.7", 4343))
    assert places(await here.offer(share, False), Kind.OBSERVED) == [(Transport.UDP, "198.51.100.7", 4343)]


async def test_a_tcp_port_that_is_in_doubt_is_asked_about_again(autojump_clock, monkeypatch):
    share, here = Share(lambda to: (0.02, OUTSIDE)), Place(ONE, TWO, homes=["192.168.1.20"], way="192.168.1.20")
    seen = [HostPort("198.51.100.7", 5000)]

    async def see(server, place, *, mark):
        await trio.sleep(0.02)
        return seen[-1]

    monkeypatch.setattr("rtcp.io.nat.gather.observe_tcp", see)
    monkeypatch.setattr("rtcp.io.nat.gather.own_host", lambda *_: "192.168.1.20")
    here._tcp_port = 4999
    await here._look_at_tcp([ONE, TWO])
    seen.append(HostPort("198.51.100.7", 6000))
    assert (Transport.TCP, "198.51.100.7", 5000) in places(await here.offer(share, True), Kind.OBSERVED)
    here.doubt()
    assert (Transport.TCP, *seen[-1]) in places(await here.offer(share, True), Kind.OBSERVED)


async def test_after_a_change_of_network_nothing_is_believed(autojump_clock):
    share, here = Share(lambda to: (0.02, OUTSIDE)), Place(ONE)
    await here.offer(share, False)
    here.network_changed()
    share.sees = lambda to: None
    assert places(await here.offer(share, False), Kind.OBSERVED) == []


@pytest.mark.parametrize(
    ("change", "matters"),
    [
        (AddressAppeared("eth0", "192.168.1.21"), True),
        (AddressGone("eth0", "2001:db8::7"), True),
        (AddressAppeared("eth0", "fe80::7"), False),
        (AddressAppeared("docker0", "172.17.0.1"), False),
        (WayFound(4, "wlan0"), True),
        (WayLost(6, "eth0"), True),
        (NeighbourLearned("192.168.1.1", "02:00:00:00:00:01"), False),
    ],
)
def test_what_comes_and_goes_beside_the_way_out_changes_nothing(change, matters):
    assert Place(homes=["192.168.1.20"], way="192.168.1.20")._matters(change) is matters


async def test_who_answered_is_asked_first(autojump_clock):
    here = Place(*(HostPort("192.0.2.1", port) for port in range(1, 6)))
    share = Share(lambda to: (0.01, OUTSIDE) if to.port == 3 else None)
    await here.offer(share, False)
    await trio.sleep(SEEN_FOR)
    share.sent.clear()
    await here.offer(share, False)
    assert share.sent[0].port == 3


@pytest.mark.parametrize("servers", [(), (ONE,), (ONE, TWO, SIX)])
async def test_who_is_not_answered_offers_what_it_has(autojump_clock, servers):
    share, here = Share(lambda to: None), Place(*servers, homes=["203.0.113.4"])
    began = trio.current_time()
    offer = await here.offer(share, False)
    assert trio.current_time() - began <= AT_MOST
    assert places(offer, Kind.HOST) == [(Transport.UDP, "203.0.113.4", PORT)]
    assert places(offer, Kind.OBSERVED) == []


async def test_names_of_servers_that_are_slow_to_be_found_hold_nobody_up(autojump_clock):
    here = Place(servers=partial(trio.sleep_forever))
    began = trio.current_time()
    await here.offer(Share(lambda to: None), False)
    assert trio.current_time() - began == pytest.approx(AT_MOST)


async def test_a_dead_server_costs_little_beside_one_that_lives(autojump_clock):
    share, here = Share(lambda to: (0.04, OUTSIDE) if to == TWO else None), Place(ONE, TWO)
    began = trio.current_time()
    assert places(await here.offer(share, False), Kind.OBSERVED)
    assert trio.current_time() - began == pytest.approx(0.06)


async def test_many_ask_at_once_and_one_is_cancelled(autojump_clock):
    share, here = Share(lambda to: (0.04, OUTSIDE)), Place(ONE)
    offers = []

    async def ask():
        offers.append(await here.offer(share, False))

    async with trio.open_nursery() as nursery:
        with trio.move_on_after(0.01):
            nursery.start_soon(ask)
            nursery.start_soon(ask)
            await here.offer(share, False)
    assert [places(offer, Kind.OBSERVED) for offer in offers] == [[(Transport.UDP, *OUTSIDE)]] * 2


async def test_inside_addresses_are_for_those_who_may_know_them(autojump_clock):
    homes = ["192.168.1.20", "10.8.0.2", "fe80::1", "127.0.0.1", "fd00::2", "2001:db8:7::2"]
    share, here = Share(lambda to: (0.01, OUTSIDE)), Place(ONE, homes=homes, way="192.168.1.20")
    strange = {c.address for c in (await here.offer(share, False)).candidates}
    assert strange == {"2001:db8:7::2", OUTSIDE.host}
    mine = await here.offer(share, True)
    assert {c.address for c in mine.candidates} == strange | {"192.168.1.20", "10.8.0.2", "fd00::2"}
    assert mine.candidates[0].address == "192.168.1.20", "the address that packets leave from is the best"


async def test_a_socket_that_is_bound_has_one_address(autojump_clock):
    here = Place(homes=["203.0.113.4", "203.0.113.5"], udp=[("203.0.113.5", 9)])
    assert places(await here.offer(Share(lambda to: None), False), Kind.HOST) == [(Transport.UDP, "203.0.113.5", 9)]


async def test_before_the_survey_ends_two_servers_tell_a_symmetric_nat(autojump_clock):
    def sees(to):
        return 0.01, HostPort(OUTSIDE.host, 5000 + (to == TWO))

    here = Place(ONE, TWO)
    began = trio.current_time()
    assert (await here.offer(Share(sees), False)).nat.mapping is Mapping.APDM
    assert trio.current_time() - began < JUDGED_WITHIN + AT_MOST
    same = Place(ONE, TWO)
    assert (await same.offer(Share(lambda to: (0.01, OUTSIDE)), False)).nat.port_known
    public = Place(homes=["203.0.113.4"], way="203.0.113.4")
    assert (await public.offer(Share(lambda to: None), False)).nat.mapping is Mapping.NONE


async def test_without_a_socket_udp_is_no_way():
    here = Place(ONE, udp=[])
    share = Share(lambda to: None)
    assert not (await here.offer(share, False)).nat.udp
    assert share.sent == []


async def test_all_of_it_on_real_sockets():
    """A survey in the background, and an offer over a socket that others use."""
    ports = free_port(), free_port()
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve_stun, ("127.0.0.1", "127.0.0.2"), ports))
        sock = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        await sock.bind(("127.0.0.1", 0))
        share = UdpSockets(sock)
        nursery.start_soon(share.run)

        async def servers():
            return [HostPort("127.0.0.1", ports[0])]

        here = Gatherer(udp=[sock.getsockname()], servers=servers)
        await nursery.start(here.run)
        assert "127.0.0.1" in here.addresses
        with trio.fail_after(60):
            while here.behaviour is None:
                await trio.lowlevel.checkpoint()
        offer = await here.offer(share, True)
        assert (offer.nat.mapping, offer.nat.filtering) == (Mapping.NONE, Filtering.EIF)
        assert here._seen == {HostPort("127.0.0.1", ports[0]): sock.getsockname()}
        assert offer.candidates == (), "loopback is nobody's way to us"
        nursery.cancel_scope.cancel()
    sock.close()


async def test_ports_that_the_router_maps_are_offered_and_tcp_is_not_punched_from_them(autojump_clock):
    share, here = Share(lambda to: (0.02, OUTSIDE)), Place(ONE, homes=["192.168.1.20"], way="192.168.1.20")
    udp, tcp = (Wanted(each, PORT) for each in (values.Transport.UDP, values.Transport.TCP))
    here._mapper = SimpleNamespace(
        status=[Status(wanted=each, outside=("198.51.100.7", PORT), why="mapped by PCP") for each in (udp, tcp)]
    )
    offered = await here.offer(share, False)
    assert places(offered, Kind.MAPPED) == [(each, "198.51.100.7", PORT) for each in (Transport.UDP, Transport.TCP)]
    assert not offered.nat.tcp
