"""Links of a real kernel, in a namespace: ``ip`` changes them, and the watch tells."""

from __future__ import annotations

from itertools import pairwise

import pytest
import trio
from netns import namespace

from cyfs_ns.io import linkwatch
from cyfs_ns.io.linkwatch import LinkWatch
from cyfs_ns.links import AddressAppeared, AddressGone, NeighbourLearned, WayFound, WayLost

MAC, OTHER = "02:00:00:00:00:01", "02:00:00:00:00:02"


@pytest.fixture
def ns():
    with namespace() as made:
        made.run("ip", "link", "add", "wan", "type", "veth", "peer", "name", "far")
        made.run("ip", "link", "set", "far", "up")
        made.run("ip", "addr", "add", "198.51.100.7/24", "dev", "wan")
        made.run("ip", "link", "set", "wan", "up")
        made.run("ip", "neigh", "add", "198.51.100.9", "lladdr", MAC, "dev", "wan")
        yield made


class Watched:
    """A watch that runs, and what it told."""

    def __init__(self, watch):
        self.watch = watch
        self.told = []
        self._more = trio.Event()

    def tell(self, changes):
        self.told += changes
        self._more.set()

    async def hears(self, *wanted):
        with trio.fail_after(60):
            while not set(wanted) <= set(self.told):
                self._more = trio.Event()
                await self._more.wait()
        told, self.told = self.told, []
        return told


@pytest.fixture
async def watched(ns, nursery):
    made = Watched(ns.call(lambda: LinkWatch(settle=0.02)))
    await nursery.start(made.watch.run, made.tell)
    return made


async def test_the_first_picture_is_there_at_the_start(watched):
    assert ("wan", "198.51.100.7") in {home[:2] for home in watched.watch.picture.homes}
    assert ("lo", "127.0.0.1") in {home[:2] for home in watched.watch.picture.homes}
    assert watched.watch.picture.ways == (None, None)
    assert watched.watch.picture.networks == {"198.51.100.0/24"}
    assert watched.watch.neighbours.mac("198.51.100.9") == MAC
    assert watched.watch.neighbours.mac("198.51.100.1") is None


async def test_what_happened_since_an_earlier_look_is_told(ns, nursery):
    made = Watched(ns.call(lambda: LinkWatch(settle=0.02)))
    await made.watch.look()
    ns.run("ip", "addr", "add", "203.0.113.6/24", "dev", "wan")
    await nursery.start(made.watch.run, made.tell)
    assert made.told == [AddressAppeared("wan", "203.0.113.6")]
    ns.run("ip", "addr", "del", "203.0.113.6/24", "dev", "wan")


async def test_addresses_come_and_go(ns, watched):
    ns.run("ip", "addr", "add", "203.0.113.5/24", "dev", "wan")
    await watched.hears(AddressAppeared("wan", "203.0.113.5"))
    ns.run("ip", "addr", "del", "203.0.113.5/24", "dev", "wan")
    await watched.hears(AddressGone("wan", "203.0.113.5"))


async def test_an_address_of_ipv6_appears_when_it_can_be_bound_to(ns, watched):
    ns.run("ip", "addr", "add", "2001:db8::5/64", "dev", "wan", "nodad")
    await watched.hears(AddressAppeared("wan", "2001:db8::5"))


async def test_the_way_out_is_found_and_lost(ns, watched):
    ns.run("ip", "route", "add", "default", "via", "198.51.100.1")
    await watched.hears(WayFound(4, "wan"))
    assert watched.watch.picture.ways[0][:3] == ("wan", "198.51.100.1", "198.51.100.7")
    ns.run("ip", "route", "del", "default")
    await watched.hears(WayLost(4, "wan"))
    ns.run("ip", "route", "add", "128.0.0.0/1", "via", "198.51.100.1")
    await watched.hears(WayFound(4, "wan"))
    ns.run("ip", "link", "set", "far", "down")
    await watched.hears(WayLost(4, "wan"))
    ns.run("ip", "link", "set", "far", "up")
    await watched.hears(WayFound(4, "wan"))
    ns.run("ip", "link", "set", "wan", "down")
    await watched.hears(WayLost(4, "wan"))


async def test_the_way_out_of_ipv6(ns, watched):
    ns.run("ip", "-6", "addr", "add", "2001:db8::5/64", "dev", "wan", "nodad")
    ns.run("ip", "-6", "route", "add", "default", "via", "2001:db8::1", "dev", "wan")
    await watched.hears(WayFound(6, "wan"))
    ns.run("ip", "link", "del", "wan")
    await watched.hears(WayLost(6, "wan"), AddressGone("wan", "198.51.100.7"))


async def test_a_link_made_anew_is_told_as_another(ns, nursery):
    watched = Watched(ns.call(lambda: LinkWatch(settle=0.3)))
    await nursery.start(watched.watch.run, watched.tell)
    ns.run("ip", "link", "del", "wan")
    ns.run("ip", "link", "add", "wan", "type", "veth", "peer", "name", "far")
    ns.run("ip", "addr", "add", "198.51.100.7/24", "dev", "wan")
    await watched.hears(AddressGone("wan", "198.51.100.7"), AddressAppeared("wan", "198.51.100.7"))


async def test_a_redial_is_looked_at_once_when_it_has_settled(ns, nursery, monkeypatch):
    looks = []
    look = LinkWatch._look

    async def counting(self):
        looks.append(trio.current_time())
        return await look(self)

    monkeypatch.setattr(LinkWatch, "_look", counting)
    watched = Watched(ns.call(lambda: LinkWatch(settle=0.5)))
    await nursery.start(watched.watch.run, watched.tell)
    for _ in range(5):
        ns.run("ip", "addr", "del", "198.51.100.7/24", "dev", "wan")
        ns.run("ip", "addr", "add", "198.51.100.7/24", "dev", "wan")
    ns.run("ip", "addr", "add", "203.0.113.5/24", "dev", "wan")
    told = await watched.hears(AddressAppeared("wan", "203.0.113.5"))
    # On a slow machine the redial may take longer than it settles; looks are apart all the same.
    assert told == [AddressAppeared("wan", "203.0.113.5")] or len(looks) > 2
    assert all(later - earlier >= 0.5 for earlier, later in pairwise(looks))


async def test_neighbours_are_learned_and_remembered(ns, watched):
    ns.run("ip", "neigh", "replace", "198.51.100.9", "lladdr", OTHER, "dev", "wan")
    await watched.hears(NeighbourLearned("198.51.100.9", OTHER))
    ns.run("ip", "neigh", "del", "198.51.100.9", "dev", "wan")
    ns.run("ip", "-6", "neigh", "add", "fe80::9", "lladdr", MAC, "dev", "wan")
    await watched.hears(NeighbourLearned("fe80::9", MAC))
    assert watched.watch.neighbours.mac("198.51.100.9") == OTHER


async def test_a_neighbour_is_known_as_soon_as_its_first_packet_is_here(ns, watched):
    ns.run("ip", "neigh", "add", "198.51.100.10", "lladdr", OTHER, "dev", "wan")
    ns.run("ip", "addr", "add", "203.0.113.6/24", "dev", "wan")
    assert watched.watch.neighbours.mac("198.51.100.10") is None, "its task had no turn yet"
    assert watched.watch.mac("198.51.100.10") == OTHER
    assert watched.watch.mac("198.51.100.10") == OTHER
    assert watched.watch.mac("198.51.100.11") is None
    wanted = NeighbourLearned("198.51.100.10", OTHER), AddressAppeared("wan", "203.0.113.6")
    await watched.hears(*wanted)
    assert watched.watch.neighbours.mac("198.51.100.10") == OTHER


async def test_after_lost_notices_everything_is_asked_anew(ns, watched, monkeypatch):
    notices = linkwatch.notices

    def losing(sock):
        notices(sock)

    monkeypatch.setattr(linkwatch, "notices", losing)
    ns.run("ip", "neigh", "replace", "198.51.100.9", "lladdr", OTHER, "dev", "wan")
    ns.run("ip", "addr", "add", "203.0.113.5/24", "dev", "wan")
    await watched.hears(NeighbourLearned("198.51.100.9", OTHER), AddressAppeared("wan", "203.0.113.5"))


async def test_a_kernel_that_does_not_tell_is_asked_again(ns, watched, monkeypatch, caplog):
    monkeypatch.setattr(linkwatch, "_AGAIN", 0.05)
    ask = LinkWatch._ask
    faults = [OSError(5, "no"), OSError(5, "no")]

    def failing(self):
        if faults:
            raise faults.pop()
        return ask(self)

    monkeypatch.setattr(LinkWatch, "_ask", failing)
    ns.run("ip", "addr", "add", "203.0.113.5/24", "dev", "wan")
    await watched.hears(AddressAppeared("wan", "203.0.113.5"))
    assert faults == []
    assert "does not tell" in caplog.text


async def test_routes_to_single_networks_cause_no_look(ns, watched, monkeypatch):
    looks = []
    look = LinkWatch._look
    monkeypatch.setattr(LinkWatch, "_look", lambda self: looks.append(1) or look(self))
    ns.run("ip", "route", "add", "203.0.113.0/24", "via", "198.51.100.1")
    ns.run("ip", "neigh", "replace", "198.51.100.9", "lladdr", OTHER, "dev", "wan")
    await watched.hears(NeighbourLearned("198.51.100.9", OTHER))
    ns.run("ip", "route", "add", "default", "via", "198.51.100.1")
    await watched.hears(WayFound(4, "wan"))
    assert looks == [1]
