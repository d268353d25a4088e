"""What a router must know of its links: its addresses, its way out, and which MAC address a client's IP address has.

The kernel's messages (``linux/rtnetlink.h``, ``if_link.h``, ``if_addr.h``, ``neighbour.h``) are read into small values.
A :class:`Picture` is all that matters at one moment, and what happened is the difference of two of them: a flap that is
over before one looks did no harm and is no event.

The way out is not looked for in tables of routes, of which policies make several.  The kernel is asked which way a
packet to a root name server would go; none is sent.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from struct import Struct
from struct import error as StructError
from typing import NamedTuple, TypeAlias

from cyfs_ns.errors import BadWire
from cyfs_ns.netlink import DUMP, Message, attribute, attributes, message, native, native_attribute, string

WATCHED_GROUPS = (1, 3, 5, 7, 9, 11)
"""Links, neighbours, then addresses and routes of IPv4 and of IPv6."""

_NEW_LINK, _DELETE_LINK, _GET_LINK = 16, 17, 18
_NEW_ADDRESS, _DELETE_ADDRESS, _GET_ADDRESS = 20, 21, 22
_NEW_ROUTE, _DELETE_ROUTE, _GET_ROUTE = 24, 25, 26
_NEW_NEIGHBOUR, _GET_NEIGHBOUR = 28, 30

_LINK_HEAD = Struct("=BBHiII")
_ADDRESS_HEAD = Struct("=BBBBI")
_ROUTE_HEAD = Struct("=8BI")
_NEIGHBOUR_HEAD = Struct("=B3xiHBB")
_LINK_NAME = 3
_ADDRESS, _LOCAL, _ADDRESS_FLAGS = 1, 2, 8
_DESTINATION, _INTERFACE, _GATEWAY, _SOURCE, _MARK = 1, 4, 5, 7, 16
_NEIGHBOUR_IP, _NEIGHBOUR_MAC = 1, 2

_UP, _CARRIER = 0x1, 0x10000
_TENTATIVE, _OPTIMISTIC, _DUPLICATE = 0x40, 0x04, 0x08
_TEMPORARY, _DEPRECATED = 0x01, 0x20  # of IPv6; the first is "secondary" of IPv4
_UNICAST = 1
_HALF = 1  # routes of this prefix length or less are a default route or half of one, as VPNs set them
_KNOWN = 0x02 | 0x04 | 0x08 | 0x10 | 0x80  # reachable, stale, delay, probe, permanent

_OUTSIDE = {4: "198.41.0.4", 6: "2001:503:ba3e::2:30"}  # a.root-servers.net
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_SIZES = {socket.AF_INET.value: 4, socket.AF_INET6.value: 16}


class Link(NamedTuple):
    """An interface."""

    ifindex: int
    name: str
    carrier: bool
    """It is up, and so is what it is plugged into."""


class LocalAddress(NamedTuple):
    """An address of an interface that can be bound to."""

    ifindex: int
    ip: str
    network: str = ""
    """The prefix that is on the link by it; empty where it is alone, on loopback or link-local."""
    bits: int = 0
    """Of its prefix, whatever that is."""
    lasting: bool = True
    """It is neither temporary (RFC 8981) nor deprecated (RFC 4862)."""


class Route(NamedTuple):
    """The way of a packet."""

    ifindex: int
    gateway: str
    source: str


class Neighbour(NamedTuple):
    """Who has an address."""

    ip: str
    mac: str
    """``aa:bb:cc:dd:ee:ff``"""


class Home(NamedTuple):
    """One of our addresses."""

    interface: str
    ip: str
    ifindex: int
    """Of the interface: one made anew under its old name is another one, and sockets bound to the old one are dead."""
    bits: int = 0
    lasting: bool = True
    """As of :class:`LocalAddress`."""


class WayOut(NamedTuple):
    """How packets leave for the Internet."""

    interface: str
    gateway: str
    source: str
    ifindex: int


@dataclass(frozen=True, slots=True)
class Picture:
    """The links at one moment."""

    homes: frozenset[Home] = frozenset()
    ways: tuple[WayOut | None, WayOut | None] = (None, None)
    """For IPv4 and IPv6."""
    networks: frozenset[str] = frozenset()
    """What is on our links, without those that lead out: who is there is as strange as anybody outside.  With no other
    link, everybody is on the one that leads out."""


@dataclass(frozen=True, slots=True)
class AddressAppeared:
    """An address can be bound to."""

    interface: str
    ip: str


@dataclass(frozen=True, slots=True)
class AddressGone:
    """An address is ours no more; connections from it are dead."""

    interface: str
    ip: str


@dataclass(frozen=True, slots=True)
class AddressChanged:
    """An address is as usable as before, but has another prefix, or lasts no more, or again."""

    interface: str
    ip: str


@dataclass(frozen=True, slots=True)
class WayLost:
    """The Internet cannot be reached by this version of IP."""

    version: int
    interface: str
    """Where it was reached."""


@dataclass(frozen=True, slots=True)
class WayFound:
    """The Internet can be reached, again or by another way than before; connections of the other way are dead."""

    version: int
    interface: str


@dataclass(frozen=True, slots=True)
class NeighbourLearned:
    """An address belongs to a MAC address it did not belong to before."""

    ip: str
    mac: str


Change: TypeAlias = AddressAppeared | AddressGone | AddressChanged | WayLost | WayFound | NeighbourLearned


class Neighbours:
    """Which MAC address an IP address has, for the ``capacity`` addresses heard of last.

    What the kernel forgets is kept until somebody else has the address: a device that slept asks its first question
    before the kernel knows it again, and its policy must hold for that one, too.
    """

    def __init__(self, capacity: int = 4096) -> None:
        self._capacity = capacity
        self._macs: dict[str, str] = {}

    def mac(self, ip: str) -> str | None:
        """The MAC address behind a canonical IP address."""
        return self._macs.get(ip)

    def learn(self, news: Neighbour) -> bool:
        """Whether it is news."""
        known = self._macs.pop(news.ip, None)
        if known is None and len(self._macs) >= self._capacity:
            del self._macs[next(iter(self._macs))]
        self._macs[news.ip] = news.mac
        return known != news.mac


def dump_links(seq: int) -> bytes:
    """Asks for all links."""
    return message(_GET_LINK, DUMP, seq, bytes(_LINK_HEAD.size))


def dump_addresses(seq: int) -> bytes:
    """Asks for all addresses of ours."""
    return message(_GET_ADDRESS, DUMP, seq, bytes(_ADDRESS_HEAD.size))


def dump_neighbours(seq: int) -> bytes:
    """Asks for all neighbours."""
    return message(_GET_NEIGHBOUR, DUMP, seq, bytes(_NEIGHBOUR_HEAD.size))


def way_query(version: int, mark: int, seq: int) -> bytes:
    """Asks which way packets with a routing mark (0: none) take to the Internet; an error means there is none."""
    outside = socket.inet_pton(_FAMILIES[version], _OUTSIDE[version])
    head = _ROUTE_HEAD.pack(_FAMILIES[version], 8 * len(outside), 0, 0, 0, 0, 0, 0, 0)
    marked = native_attribute(_MARK, mark) if mark else b""
    return message(_GET_ROUTE, 0, seq, head + attribute(_DESTINATION, outside) + marked)


def read_news(untrusted: Message) -> Link | LocalAddress | Route | Neighbour | None:
    """What a message tells that is there; ``None``: nothing we could use.  Raises ``BadWire``."""
    kind, body = untrusted.kind, untrusted.body
    try:
        if kind == _NEW_LINK:
            _, _, _, index, flags, _ = _LINK_HEAD.unpack_from(body)
            name = string(attributes(body, _LINK_HEAD.size), _LINK_NAME)
            return Link(index, name, flags & (_UP | _CARRIER) == _UP | _CARRIER)
        if kind == _NEW_ADDRESS:
            family, bits, flags, _, index = _ADDRESS_HEAD.unpack_from(body)
            found = attributes(body, _ADDRESS_HEAD.size)
            flags |= native(found, _ADDRESS_FLAGS)
            ip = _ip(family, found.get(_LOCAL) or found.get(_ADDRESS, b""))
            network = _network(_ip(family, found.get(_ADDRESS, b"")), bits)
            unusable = flags & _DUPLICATE or flags & (_TENTATIVE | _OPTIMISTIC) == _TENTATIVE
            v6 = family == socket.AF_INET6
            lasting = not (v6 and flags & (_TEMPORARY | _DEPRECATED))
            return LocalAddress(index, ip, network, bits, lasting) if ip and not (v6 and unusable) else None
        if kind == _NEW_ROUTE:
            family, *_, rtype, _ = _ROUTE_HEAD.unpack_from(body)
            found = attributes(body, _ROUTE_HEAD.size)
            index = native(found, _INTERFACE)
            gateway, source = (_ip(family, found.get(what, b"")) for what in (_GATEWAY, _SOURCE))
            return Route(index, gateway, source) if rtype == _UNICAST and index else None
        if kind == _NEW_NEIGHBOUR:
            family, _, state, _, _ = _NEIGHBOUR_HEAD.unpack_from(body)
            found = attributes(body, _NEIGHBOUR_HEAD.size)
            ip, mac = _ip(family, found.get(_NEIGHBOUR_IP, b"")), found.get(_NEIGHBOUR_MAC, b"")
            return Neighbour(ip, mac.hex(":")) if ip and len(mac) == 6 and any(mac) and state & _KNOWN else None
    except StructError:
        raise BadWire("rtnetlink message ends too early") from None
    return None


def matters(notice: Message) -> bool:
    """Whether a notice may change the :class:`Picture`.

    Of routes few do, and who routes by country has thousands.
    """
    if notice.kind in (_NEW_ROUTE, _DELETE_ROUTE):
        return notice.body[1:2] <= bytes((_HALF,))
    return notice.kind in (_NEW_LINK, _DELETE_LINK, _NEW_ADDRESS, _DELETE_ADDRESS)


def picture(
    links: Iterable[Link], addresses: Iterable[LocalAddress], ways: tuple[Route | None, Route | None]
) -> Picture:
    """What the kernel told, put together.  A way through a link without carrier is none."""
    by_index = {link.ifindex: link for link in links}
    known = [address for address in addresses if address.ifindex in by_index]
    homes = frozenset(Home(by_index[index].name, ip, index, bits, lasting) for index, ip, _, bits, lasting in known)
    networks = frozenset((*_inside(known, 4, ways[0]), *_inside(known, 6, ways[1])))
    return Picture(homes, (_way(by_index, ways[0]), _way(by_index, ways[1])), networks)


def changes(before: Picture, after: Picture) -> tuple[Change, ...]:
    """What happened between two pictures: losses first."""
    was, now = ({home[:3]: home for home in each.homes} for each in (before, after))
    gone = [AddressGone(*place[:2]) for place in sorted(was.keys() - now.keys())]
    appeared = [AddressAppeared(*place[:2]) for place in sorted(now.keys() - was.keys())]
    changed = [AddressChanged(*place[:2]) for place in sorted(was.keys() & now.keys()) if was[place] != now[place]]
    lost, found = [], []
    for version, old, new in zip((4, 6), before.ways, after.ways, strict=True):
        if new is None and old is not None:
            lost.append(WayLost(version, old.interface))
        elif new is not None and new != old:
            found.append(WayFound(version, new.interface))
    return (*gone, *lost, *appeared, *changed, *found)


def _way(links: dict[int, Link], route: Route | None) -> WayOut | None:
    link = links.get(route.ifindex) if route is not None else None
    if route is None or link is None or not link.carrier:
        return None
    return WayOut(link.name, route.gateway, route.source, link.ifindex)


def _inside(known: Iterable[LocalAddress], version: int, way: Route | None) -> list[str]:
    there = [each for each in known if each.network and ipaddress.ip_network(each.network).version == version]
    inside = [each for each in there if way is None or each.ifindex != way.ifindex]
    return [each.network for each in inside or there]


def _network(ip: str, bits: int) -> str:
    """The prefix of an address, if it holds anybody else who has an address of his own."""
    try:
        network = ipaddress.ip_network(f"{ip}/{bits}", strict=False)
    except ValueError:
        return ""
    return str(network) if network.num_addresses > 1 and not (network.is_loopback or network.is_link_local) else ""


def _ip(family: int, packed: bytes) -> str:
    if _SIZES.get(family) != len(packed):
        return ""
    return socket.inet_ntop(family, packed)
