"""Pictures of links, and what their difference means."""

from __future__ import annotations

from cyfs_ns.links import (
    AddressAppeared,
    AddressChanged,
    AddressGone,
    Link,
    LocalAddress,
    Neighbour,
    Neighbours,
    Picture,
    Route,
    WayFound,
    WayLost,
    changes,
    picture,
)

LAN = Link(2, "lan", True)
WAN = Link(3, "wan", True)
ADDRESSES = [LocalAddress(2, "192.168.1.1"), LocalAddress(3, "198.51.100.7")]
WAY = Route(3, "198.51.100.1", "198.51.100.7")
UP = picture([LAN, WAN], ADDRESSES, (WAY, None))


def test_nothing_happened():
    assert changes(UP, UP) == ()
    assert changes(Picture(), Picture()) == ()


def test_a_link_that_comes_up_and_goes():
    bare = picture([LAN], ADDRESSES[:1], (None, None))
    assert changes(bare, UP) == (AddressAppeared("wan", "198.51.100.7"), WayFound(4, "wan"))
    assert changes(UP, bare) == (AddressGone("wan", "198.51.100.7"), WayLost(4, "wan"))


def test_a_cable_without_a_far_end_is_no_way_out():
    unplugged = picture([LAN, WAN._replace(carrier=False)], ADDRESSES, (WAY, None))
    assert changes(UP, unplugged) == (WayLost(4, "wan"),)
    assert changes(unplugged, UP) == (WayFound(4, "wan"),)


def test_a_way_of_another_link_gateway_or_address_is_another_way():
    for route in (Route(2, "", ""), WAY._replace(gateway="198.51.100.2"), WAY._replace(source="198.51.100.8")):
        after = picture([LAN, WAN], ADDRESSES, (route, None))
        assert changes(UP, after) == (WayFound(4, "lan" if route.ifindex == 2 else "wan"),)


def test_a_link_made_anew_under_its_old_name_is_another_one():
    again = picture([LAN, WAN._replace(ifindex=9)], [ADDRESSES[0], LocalAddress(9, "198.51.100.7")], (None, None))
    gone, lost, appeared = changes(UP, again)
    assert (gone, lost) == (AddressGone("wan", "198.51.100.7"), WayLost(4, "wan"))
    assert appeared == AddressAppeared("wan", "198.51.100.7")


def test_who_is_on_the_way_out_is_a_stranger_unless_there_is_no_other_link():
    lan, wan = LocalAddress(2, "192.168.1.1", "192.168.1.0/24"), LocalAddress(3, "198.51.100.7", "198.51.100.0/24")
    lan6, wan6 = LocalAddress(2, "2001:db8::1", "2001:db8::/64"), LocalAddress(3, "2001:db8:1::7", "2001:db8:1::/64")
    way6 = Route(3, "2001:db8:1::1", "2001:db8:1::7")
    router = picture([LAN, WAN], [lan, wan, lan6, wan6], (WAY, way6))
    assert router.networks == {"192.168.1.0/24", "2001:db8::/64"}
    assert picture([WAN], [wan, wan6], (WAY, way6)).networks == {"198.51.100.0/24", "2001:db8:1::/64"}
    assert picture([LAN, WAN], [lan, wan], (None, None)).networks == {"192.168.1.0/24", "198.51.100.0/24"}


def test_an_address_of_an_unknown_link_is_left_out():
    assert picture([LAN], ADDRESSES, (WAY, WAY)) == picture([LAN], ADDRESSES[:1], (None, None))


def test_neighbours_are_bounded_and_the_longest_silent_goes_first():
    known = Neighbours(2)
    assert known.learn(Neighbour("192.0.2.1", "02:00:00:00:00:01"))
    assert known.learn(Neighbour("192.0.2.2", "02:00:00:00:00:02"))
    assert not known.learn(Neighbour("192.0.2.1", "02:00:00:00:00:01"))
    assert known.learn(Neighbour("192.0.2.3", "02:00:00:00:00:03"))
    assert known.mac("192.0.2.2") is None
    assert known.mac("192.0.2.1") == "02:00:00:00:00:01"
    assert known.learn(Neighbour("192.0.2.1", "02:00:00:00:00:04"))


def test_another_prefix_or_a_time_that_ran_out_is_no_other_address():
    for other in (ADDRESSES[0]._replace(bits=16), ADDRESSES[0]._replace(lasting=False)):
        after = picture([LAN, WAN], [other, ADDRESSES[1]], (WAY, None))
        assert changes(UP, after) == (AddressChanged("lan", "192.168.1.1"),)
