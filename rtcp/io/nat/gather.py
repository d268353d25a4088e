"""Where this device may be reached, found out before somebody asks: all that goes into an offer.

Four sources, each at its own pace:

* the kernel tells the addresses of the interfaces, and when they change;
* routers are asked for ports, for as long as this runs;
* STUN servers tell how they see the very socket that will be punched from.  It takes one round trip, and is good for
  less time than any NAT keeps a mapping;
* how the NAT behaves takes a second or two, and is found out in the background, once for minutes and networks.

TCP is punched from a port of its own, which is kept for it.  How others see that port, and whether all see it alike, is
found out with the NAT.  The ports that routers map for TCP lead to the doors.

An offer waits for the third alone, and not long: what is not known by then stands in a later one.  When nothing has
changed it costs nothing.  Only where nobody answers, or mappings turn out to differ, the fourth is waited for as well.
The port of a NAT that counts up is the last it gave to anybody, so there the question goes out from a fresh socket each
time.

Absent on purpose: whom to tell.  Who may know the addresses inside is decided by whoever asks.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Final

import trio

from cyfs_ns.errors import BadWire, Unreachable
from cyfs_ns.io.dial import prepare
from cyfs_ns.io.linkwatch import LinkWatch
from cyfs_ns.links import AddressAppeared, AddressGone, Change, Home, Picture, WayFound, WayLost
from cyfs_ns.purposes import Special, is_public, special
from rtcp.io.nat.portmap import Mapper
from rtcp.io.nat.punch import Datagrams, UdpSockets
from rtcp.io.nat.stun import Observer, behaviour, observe_tcp, own_host
from rtcp.nat.behaviour import MOST_SERVERS, NatBehaviour, Patience, StunServer
from rtcp.nat.candidates import (
    NETWORK_SIZE,
    NO_NETWORK,
    NONCE_SIZE,
    Candidate,
    Kind,
    Mapping,
    Nat,
    Offer,
    Transport,
    priority,
    told,
    worth_offering,
)
from rtcp.nat.portmap import values
from rtcp.nat.stun import HostPort
from rtcp.party import Address

AT_MOST: Final = 0.3
"""Seconds that an offer waits for what is not known yet."""
JUDGED_WITHIN: Final = 6.0
"""Seconds that it waits for the survey where nobody answers, or mappings differ: without TCP, or the step from port to
port, there is no direct way then, and who has failed once waits long for the next try."""
SEEN_FOR: Final = 20.0
"""Seconds for which a mapping is there for sure: some NATs forget after 30 (RFC 4787 section 4.3 wants 120)."""
KNOWN_FOR: Final = 600.0
"""Seconds after which the NAT is looked at again, once somebody asks."""

_QUICK: Final = Patience(first=0.1, times=2, last=2)
_ASKED_AT_ONCE: Final = 3
_AGAIN: Final = 30.0
"""Seconds between two surveys at least, when they come to nothing."""
_LOOK: Final = 2.0
"""Seconds between two looks for a server, while none is known."""
_MOST_HOMES: Final = 6
_TRANSPORTS: Final = {values.Transport.UDP: Transport.UDP, values.Transport.TCP: Transport.TCP}

_log = logging.getLogger("cyfs.rtcp.nat")


class Gatherer:
    """What is known of one set of sockets; up to date while :meth:`run` runs.

    ``udp`` is where the socket is bound that offers are about (IP texts; wildcards stand for all addresses); ``doors``
    are where connections are taken, for which routers are asked for ports, too.  ``servers`` tells the STUN servers of
    the moment; two ports of one host are one server's.  ``maps``: whether routers are asked at all, ``secret`` as for
    :class:`~rtcp.io.nat.portmap.Mapper`.  ``mark`` is the routing mark of our own packets.
    """

    def __init__(
        self,
        *,
        udp: Sequence[Address],
        doors: Sequence[Address] = (),
        servers: Callable[[], Awaitable[Sequence[HostPort]]],
        maps: bool = False,
        secret: bytes = b"",
        mark: int = 0,
    ) -> None:
        self._udp, self._doors = tuple(udp), tuple(doors)
        self._servers, self._mark = servers, mark
        self._watch: LinkWatch | None = None
        wanted = dict.fromkeys(self._wanted()) if maps else {}
        self._mapper = Mapper(*wanted, secret=secret) if wanted else None
        self._behaviour: NatBehaviour | None = None
        self._asked: tuple[HostPort, ...] = ()
        """Whom the last survey was made with."""
        self._surveyed = float("-inf")
        self._survey = trio.Event()
        self._surveying = trio.CancelScope()
        self._judged = trio.Event()
        """The survey has ended once in this network, or come to nothing."""
        self._tcp_port = 0
        """What TCP is punched from; 0: nothing."""
        self._tcp: tuple[HostPort, HostPort] | None = None
        """That place, and how all see it; None: each in another way, or it is not known."""
        self._tcp_doubted = False
        self._seen: dict[HostPort, HostPort] = {}
        """By server, how it sees the socket; of the last round."""
        self._seen_at = float("-inf")
        self._seeing = trio.Lock()

    # What is known

    @property
    def nat(self) -> Nat:
        """What is to be said of our NAT at the moment."""
        tcp = self._tcp is not None
        if not self._udp:
            return Nat(udp=False, tcp=tcp)
        if self._behaviour is not None:
            nat = told(self._behaviour, tcp=tcp)
            return replace(nat, udp=True) if self._is_seen else nat
        seen = {place for place in self._seen.values() if ":" not in place.host}
        if len(seen) > 1:
            return Nat(mapping=Mapping.APDM, tcp=tcp)
        way = self._picture.ways[0] or self._picture.ways[1]
        mapping = Mapping.NONE if way is not None and _is_public(way.source) else Mapping.UNKNOWN
        return Nat(mapping=mapping, tcp=tcp)

    @property
    def behaviour(self) -> NatBehaviour | None:
        """All that the last survey told, with its reasons; None: there was none in this network."""
        return self._behaviour

    @property
    def addresses(self) -> frozenset[str]:
        """Those of our interfaces."""
        return frozenset(home.ip for home in self._picture.homes)

    async def mapped(self) -> None:
        """Wait until a router maps more for us, or less."""
        if self._mapper is None:
            await trio.sleep_forever()
        else:
            await self._mapper.changed()

    async def offer(self, share: Datagrams, private: bool) -> Offer:
        """What a peer is told; ``share`` of the socket that it is about is read meanwhile.

        ``private``: whether the peer may know our addresses inside.
        """
        await self._look(share)
        if not self._judged.is_set() and self._asked and (not self._is_seen or self.nat.mapping is Mapping.APDM):
            with trio.move_on_after(JUDGED_WITHIN):
                await self._judged.wait()
            await self._look(share)
        candidates, nat = worth_offering(self._candidates(), private=private), self.nat
        if self._tcp is None or self._tcp[0] not in {(c.address, c.port) for c in candidates}:
            # Whoever punches takes from the offer where TCP leaves from: it stands there, or there is no TCP.
            kept = (c for c in candidates if c.transport is Transport.UDP or c.kind is Kind.MAPPED)
            candidates, nat = tuple(kept), replace(nat, tcp=False)
        return Offer(nonce=os.urandom(NONCE_SIZE), nat=nat, candidates=candidates)

    def doubt(self) -> None:
        """A router may have begun anew, and see to other ports: how others see us is asked again before it is told."""
        self._seen_at = float("-inf")
        self._tcp_doubted = self._tcp is not None

    def network_changed(self) -> None:
        """An address or a way out is another: what was seen of us, and by which NAT, was elsewhere."""
        self._behaviour, self._seen, self._tcp = None, {}, None
        self._surveyed = self._seen_at = float("-inf")
        self._judged = trio.Event()
        self._surveying.cancel()
        self._survey.set()

    # Its life

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled; then the ports are given back.  Started when the interfaces are known."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._follow)
            nursery.start_soon(self._keep_tcp_port)
            if self._mapper is not None:
                nursery.start_soon(self._map, self._mapper)
            self._survey.set()
            nursery.start_soon(self._keep_surveying)
            task_status.started()

    async def _follow(self, *, task_status: trio.TaskStatus[None]) -> None:
        def tell(changes: tuple[Change, ...]) -> None:
            if any(map(self._matters, changes)):
                self.network_changed()

        try:
            watch = LinkWatch(mark=self._mark)
            await watch.look()
            self._watch = watch
            task_status.started()
            await watch.run(tell)
        except (OSError, BadWire) as fault:
            _log.warning("our addresses are not known, the kernel does not tell: %s", fault)
            if self._watch is None:
                task_status.started()

    def _matters(self, change: Change) -> bool:
        """Whether others may see us in another way by it: containers come and go."""
        if isinstance(change, AddressAppeared | AddressGone):
            out = {way.interface for way in self._picture.ways if way is not None}
            return (not out or change.interface in out) and special(ip_address(change.ip)) is not Special.LINK
        return isinstance(change, WayFound | WayLost)

    async def _map(self, mapper: Mapper) -> None:
        try:
            await mapper.run()
        except* (OSError, BadWire) as faults:
            _log.warning("no router is asked for a port: %s", faults.exceptions[0])

    async def _keep_tcp_port(self) -> None:
        host = next((host for host, _ in self._udp if ":" not in host), "0.0.0.0")
        with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind((host, 0))
            self._tcp_port = sock.getsockname()[1]
            await trio.sleep_forever()

    async def _keep_surveying(self) -> None:
        while True:
            with trio.move_on_after(math.inf if self._asked else _LOOK):
                await self._survey.wait()
            self._survey = trio.Event()
            with trio.CancelScope() as self._surveying:
                if servers := await self._known_servers():
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._survey_with, servers)
                        nursery.start_soon(self._look_at_tcp, servers)
                    self._judged.set()

    async def _survey_with(self, servers: Sequence[HostPort]) -> None:
        self._asked, self._surveyed = tuple(servers), trio.current_time()
        four = [server for server in servers if ":" not in server.host]
        family = four or servers
        hosts = [host for host, _ in self._udp if (":" in host) is not bool(four)]
        local = hosts[0] if hosts and not ip_address(hosts[0]).is_unspecified else ""
        try:
            found = await behaviour(_merged(family), local=local, mark=self._mark)
        except Unreachable as fault:
            _log.info("the NAT is not known: %s", fault)
            return
        self._behaviour = found
        _log.info("our NAT is %s", told(found, tcp=False))

    async def _look_at_tcp(self, servers: Sequence[HostPort]) -> None:
        four = [server for server in servers if ":" not in server.host][:_ASKED_AT_ONCE]
        if not self._tcp_port or not four:
            return
        try:
            host = own_host(four[0], self._mark, "")
        except OSError:
            return
        place = HostPort(host, self._tcp_port)
        found: list[HostPort] = []
        for server in four:
            with suppress(Unreachable):
                found.append(await observe_tcp(server, place, mark=self._mark))
        self._tcp_doubted = False
        is_alike = len(set(found)) == 1 and (len(found) > 1 or found[0].port == place.port)
        self._tcp = (place, found[0]) if is_alike else None

    async def _known_servers(self) -> Sequence[HostPort]:
        """Those we have a socket for; first those who have answered."""
        families = {":" in host for host, _ in self._udp}
        fit = [server for server in await self._servers() if (":" in server.host) in families]
        return sorted(fit, key=lambda server: server not in self._seen)

    def _want_survey(self, servers: Sequence[HostPort]) -> None:
        age = trio.current_time() - self._surveyed
        is_told = self._behaviour is not None and not self._behaviour.blocked.value
        is_stale = age > (KNOWN_FOR if is_told else _AGAIN)
        if is_stale or (set(servers) - set(self._asked) and age > _AGAIN) or (servers and not self._asked):
            self._survey.set()

    # How we are seen

    @property
    def _is_seen(self) -> bool:
        return bool(self._seen) and trio.current_time() - self._seen_at < SEEN_FOR

    async def _look(self, share: Datagrams) -> None:
        """See to it that what is seen is fresh, within ``AT_MOST`` seconds."""
        with trio.move_on_after(AT_MOST):
            async with self._seeing:
                servers = await self._known_servers()
                self._want_survey(servers)
                nat = self.nat
                async with trio.open_nursery() as nursery:
                    if self._tcp_doubted:
                        nursery.start_soon(self._look_at_tcp, servers)
                    if servers and nat.udp and (nat.predictable or not self._is_seen):
                        await self._see(share, servers, fresh=nat.predictable)

    async def _see(self, share: Datagrams, servers: Sequence[HostPort], *, fresh: bool) -> None:
        if not fresh:
            await self._ask(share, servers)
            return
        with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            prepare(sock, self._mark, "")
            sock.bind(("0.0.0.0", 0))
            one = UdpSockets(trio.socket.from_stdlib_socket(sock))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(one.run)
                await self._ask(one, [server for server in servers if ":" not in server.host][:1])
                nursery.cancel_scope.cancel()

    async def _ask(self, share: Datagrams, servers: Sequence[HostPort]) -> None:
        observer = Observer(share)
        try:
            await observer.ask(servers[:_ASKED_AT_ONCE], patience=_QUICK, grace=lambda rtt: max(0.01, rtt / 2))
        finally:
            if observer.seen:
                self._seen, self._seen_at = observer.seen, trio.current_time()

    # What is offered

    def _candidates(self) -> Iterator[Candidate]:
        for host, port in self._udp:
            yield from self._homes(host, port)
        for status in self._mapper.status if self._mapper is not None else ():
            if status.outside is not None:
                yield _candidate(Kind.MAPPED, _TRANSPORTS[status.wanted.transport], *status.outside)
        for seen in dict.fromkeys(self._seen.values()):
            yield _candidate(Kind.OBSERVED, Transport.UDP, *seen)
        if self._tcp is not None:
            for kind, place in zip((Kind.HOST, Kind.OBSERVED), self._tcp, strict=True):
                yield _candidate(kind, Transport.TCP, *place)

    def _homes(self, host: str, port: int) -> Iterator[Candidate]:
        """The addresses of ours that a socket bound to ``host`` has, the best first."""
        v6, picture = ":" in host, self._picture
        way = picture.ways[v6]
        kind = Kind.IPV6 if v6 else Kind.HOST
        homes = [home for home in picture.homes if (":" in home.ip) is v6]
        if not ip_address(host).is_unspecified:
            homes = [home for home in homes if home.ip == host]
        homes.sort(key=lambda home: (way is None or home.ip != way.source, not home.lasting, home.interface, home.ip))
        for place, home in enumerate(homes[:_MOST_HOMES]):
            yield _candidate(kind, Transport.UDP, home.ip, port, 0xFFFF - place, self._network(home))

    def _network(self, home: Home) -> bytes:
        """A name for the network of ``home`` that others on it find, too: its prefix, and who leads out of it."""
        way = self._picture.ways[":" in home.ip]
        if self._watch is None or way is None or way.ifindex != home.ifindex:
            return NO_NETWORK
        mac = self._watch.neighbours.mac(way.gateway)
        if mac is None:
            return NO_NETWORK
        named = f"{ip_network((home.ip, home.bits), strict=False)} {mac}"
        return hashlib.sha256(named.encode()).digest()[:NETWORK_SIZE]

    def _wanted(self) -> Iterator[values.Wanted]:
        for transport, places in ((values.Transport.UDP, self._udp), (values.Transport.TCP, self._doors)):
            for host, port in places:
                if not ip_address(host).is_loopback:
                    yield values.Wanted(transport, port, version=6 if ":" in host else 4)

    @property
    def _picture(self) -> Picture:
        return Picture() if self._watch is None else self._watch.picture


def _candidate(
    kind: Kind,
    transport: Transport,
    host: str,
    port: int,
    preference: int = 0xFFFF,
    network: bytes = NO_NETWORK,
) -> Candidate:
    where = str(ip_address(host))
    foundation = int.from_bytes(hashlib.sha256(f"{kind} {transport} {where}".encode()).digest()[:4])
    return Candidate(
        address=where,
        port=port,
        kind=kind,
        transport=transport,
        foundation=foundation,
        priority=priority(kind, preference),
        network=network,
    )


def _merged(servers: Sequence[HostPort]) -> list[StunServer]:
    """Two ports of one host are one server's."""
    found: dict[str, StunServer] = {}
    for server in servers:
        known = found.setdefault(server.host, StunServer(server))
        if not known.other_port and server.port != known.at.port:
            found[server.host] = StunServer(known.at, server.port)
    return list(found.values())[:MOST_SERVERS]


def _is_public(host: str) -> bool:
    with suppress(ValueError):
        return is_public(ip_address(host))
    return False
