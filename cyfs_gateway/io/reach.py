"""How this device is found beside its doors: its UDP port, what peers are told of where it is, and the links it is on.

The UDP port is the doors': tunnels by UDP come to the same place as those by TCP.  Where another program has that port
any other will do, since peers are told; where there is no door it is any from the start.  A device that is only here on
loopback asks and tells nobody outside.

A change of the configuration is seen at once; only what it concerns begins anew.
"""

from __future__ import annotations

import errno
import hashlib
import ipaddress
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from cyfs_gateway.config.model import Config, RtcpConfig
from cyfs_ns.errors import CyfsError
from cyfs_ns.identity.keys import PublicKey, SecretKey
from cyfs_ns.io.dial import prepare
from cyfs_ns.names import is_ip
from rtcp.io.nat.gather import Gatherer
from rtcp.io.nat.lan import Responder, find
from rtcp.io.nat.punch import Datagrams
from rtcp.io.udp.sockets import TrainSocket
from rtcp.nat.candidates import NONCE_SIZE, Nat, Offer
from rtcp.nat.stun import HostPort
from rtcp.party import Address

if TYPE_CHECKING:
    from cyfs_gateway.io.world import World

_ANYWHERE: Final = (("0.0.0.0", 0), ("::", 0))
_NO_FAMILY: Final = frozenset((errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL))
_LOOKS_NEAR: Final = 0.4
"""Seconds that a device of our links has to answer."""

_AGAIN: Final = 10.0

_log = logging.getLogger("cyfs.peers")


@dataclass(frozen=True, slots=True)
class Doors:
    """What a configuration wants of us."""

    udp: tuple[Address, ...]
    """Where to bind, one place a family; port 0: any."""
    tcp: tuple[Address, ...]
    maps: bool
    lan: bool
    mark: int

    @property
    def is_outside(self) -> bool:
        """Whether anybody but this machine itself could come."""
        return any(not ipaddress.ip_address(host).is_loopback for host, _ in (*self.udp, *self.tcp))


def doors_of(config: Config, mark: int) -> Doors:
    """What ``config`` wants; ``mark`` is the routing mark of our own packets."""
    rtcp = config.rtcp or RtcpConfig()
    tcp = tuple((each.listen, each.port) for each in config.listeners if each.kind == "rtcp")
    by_family: dict[bool, Address] = {}
    for host, port in sorted(tcp, key=lambda place: not ipaddress.ip_address(place[0]).is_unspecified):
        by_family.setdefault(":" in host, (host, port))
    udp = tuple(by_family.values()) if tcp else _ANYWHERE if config.ipv6 else _ANYWHERE[:1]
    is_spoken = rtcp.udp and 5 in rtcp.versions
    return Doors(udp if is_spoken else (), tcp, maps=rtcp.port_mapping, lan=rtcp.lan, mark=mark)


def bind(doors: Doors) -> list[TrainSocket]:
    """The UDP port of ``doors``, as near to it as can be had; empty: there is none."""
    made: list[TrainSocket] = []
    for host, wanted in doors.udp:
        port = wanted or next((sock.address[1] for sock in made), 0)
        try:
            sock = _bound(host, port)
        except OSError as fault:
            if fault.errno not in _NO_FAMILY:
                _log.warning("no UDP for tunnels at %s: %s", host, fault)
            continue
        if doors.mark:
            with suppress(OSError), socket.socket(fileno=os.dup(sock.fileno())) as same:
                prepare(same, doors.mark, "")
        made.append(sock)
    return made


def _bound(host: str, port: int) -> TrainSocket:
    """Raises ``OSError``."""
    try:
        return TrainSocket(host, port)
    except OSError as fault:
        if not port or fault.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        sock = TrainSocket(host, 0)
        _log.warning("UDP port %d of %s is taken, so tunnels by UDP come to port %d", port, host, sock.address[1])
        return sock


class Reach:
    """Of one device: ``key`` is its own.  ``world`` is that of now, ``observers`` tells the STUN servers of our SNs."""

    def __init__(
        self, key: SecretKey, world: Callable[[], World], observers: Callable[[], Sequence[Address]] = tuple
    ) -> None:
        self._key, self._world, self._observers = key, world, observers
        self._doors = doors_of(world().config, world().mark)
        self._bound: tuple[Address, ...] = ()
        self._gatherer: Gatherer | None = None
        self._responder: Responder | None = None
        self._round = trio.CancelScope()

    # What the device asks

    async def gather(self, share: Datagrams, private: bool) -> Offer:
        """As :meth:`rtcp.io.nat.gather.Gatherer.offer`."""
        gatherer = self._gatherer
        if gatherer is None:
            await trio.lowlevel.checkpoint()
            return Offer(nonce=os.urandom(NONCE_SIZE), nat=Nat(udp=bool(self._bound)))
        return await gatherer.offer(share, private)

    def doubt(self) -> None:
        """As :meth:`rtcp.io.nat.gather.Gatherer.doubt`."""
        if self._gatherer is not None:
            self._gatherer.doubt()

    async def look_near(self, key: PublicKey) -> list[Address]:
        """Where the device with ``key`` takes tunnels on our links; empty when it is on none of them."""
        if not self._doors.lan or not self._doors.is_outside:
            return []
        found = await find([key], patience=_LOOKS_NEAR)
        places = [(host, one.answer.tcp) for one in found for host in (one.source, *one.answer.addresses)]
        places.sort(key=lambda place: "%" in place[0])  # what needs an interface named comes last
        return [place for place in places if place[1]]

    @property
    def nat(self) -> str:
        """How our NAT behaves, for people."""
        gatherer = self._gatherer
        return "not known" if gatherer is None else str(gatherer.nat)

    # Its life

    @asynccontextmanager
    async def open(self) -> AsyncIterator[list[TrainSocket]]:
        """The sockets for a device, which takes them over; as long as they are used all else goes on here.

        What routers gave is given back at the end.
        """
        self._doors = doors_of(self._world().config, self._world().mark)
        sockets = bind(self._doors)
        self._bound = tuple(sock.address for sock in sockets)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._live)
                yield sockets
                nursery.cancel_scope.cancel()
        finally:
            self._bound = ()
            for sock in sockets:
                sock.close()

    def remains(self) -> bool:
        """Whether a device can go on by the configuration of now: one that has no UDP port gets none."""
        now = doors_of(self._world().config, self._world().mark)
        return bool(now.udp) == bool(self._doors.udp)

    def adopt(self, rebind: Callable[[list[TrainSocket]], None]) -> None:
        """The configuration may be another; ``rebind`` puts the device on other sockets."""
        before, self._doors = self._doors, doors_of(self._world().config, self._world().mark)
        if before == self._doors:
            return
        if before.udp != self._doors.udp:
            sockets = bind(self._doors)
            self._bound = tuple(sock.address for sock in sockets)
            rebind(sockets)
        self._round.cancel()

    def network_changed(self) -> None:
        """Links may be others."""
        if self._responder is not None:
            self._responder.refresh()

    async def _live(self) -> None:
        while True:
            with trio.CancelScope() as self._round:
                async with trio.open_nursery() as nursery:
                    if self._doors.is_outside:
                        nursery.start_soon(self._again, self._gather)
                        if self._doors.lan and self._doors.tcp:
                            nursery.start_soon(self._again, self._answer_near)
                    await trio.sleep_forever()

    async def _again(self, work: Callable[[], Awaitable[None]]) -> None:
        """None of this is worth a tunnel."""
        while True:
            try:
                await work()
            except Exception:
                _log.exception("finding out where we are failed in a way nobody foresaw; it begins again")
            await trio.sleep(_AGAIN)

    async def _gather(self) -> None:
        # By this a router knows us again after a crash; nobody else can make it.
        secret = hashlib.sha256(self._key.sign(b"cyfs port mapping 1")).digest()
        self._gatherer = Gatherer(
            udp=self._bound,
            doors=[place for place in self._doors.tcp if place[1]],
            servers=self._servers,
            maps=self._doors.maps,
            secret=secret,
            mark=self._doors.mark,
        )
        try:
            await self._gatherer.run()
        finally:
            self._gatherer = None

    async def _answer_near(self) -> None:
        def ports() -> tuple[int, int]:
            tcp, udp = (next((port for _, port in places), 0) for places in (self._doors.tcp, self._bound))
            return tcp, udp

        named = [host for host, _ in self._doors.tcp if not ipaddress.ip_address(host).is_unspecified]
        self._responder = Responder(self._key, ports, lambda: named)
        try:
            await self._responder.run()
        finally:
            self._responder = None

    async def _servers(self) -> list[HostPort]:
        """The STUN servers of the moment: those of our SNs, then the configuration's."""
        found: list[HostPort] = []
        for host, port in (*self._observers(), *(self._world().config.rtcp or RtcpConfig()).stun):
            with suppress(CyfsError):
                addresses = [host] if is_ip(host) else await self._world().resolve(host)
                for v6 in (False, True):
                    first = next((address for address in addresses if (":" in address) is v6), None)
                    found += [HostPort(str(ipaddress.ip_address(first)), port)] if first else []
        return list(dict.fromkeys(found))
