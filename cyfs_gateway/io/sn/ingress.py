"""The public ingress of an SN: browsers without any client reach services at home (``cyfs_gateway/sn/ingress.py``).

A visitor walks from its door to a relay inside the reactor.  Its first bytes are looked at where they lie, in the
kernel, and read by nobody before the relay: so a connection that turns out to be a device's is handed on whole, and a
crowd of half-open ones costs no memory of ours.  What was looked at of TLS goes to the device behind the request for a
stream, so that the SN costs no round trip, and is taken from the kernel when the device has agreed.  A visitor has a
task only where a stream through a tunnel cannot be asked for at once.

Whom a visitor can hold up is bounded: half-open ones by number, in all and for each source, and by time; streams by
number for each device, for each source and in all.  Who comes to nobody, or to somebody who is away, is told so in the
words of the protocol: a page, or a TLS alert.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Mapping
from functools import partial
from select import EPOLLET, EPOLLRDHUP
from typing import Any, Final

import trio

from cyfs_gateway.io.sn.ingressdoor import TcpDoor
from cyfs_gateway.io.sn.ingressopening import Opening, Openings
from cyfs_gateway.io.sn.ingresspin import PinnedClient
from cyfs_gateway.io.sn.ingressports import Ports
from cyfs_gateway.io.sn.ingresstraffic import IngressHost, Meter, Traffic
from cyfs_gateway.sn.ingress import (
    HTTP_PORT,
    MAX_HEAD,
    MAX_LOOK,
    TLS_PORT,
    Alert,
    First,
    Guest,
    IngressSettings,
    TurnedAway,
    Wanted,
    alert,
    machine_of,
    page,
    read_http,
    read_tls,
)
from cyfs_gateway.sn.ingresscrowd import Crowd, source_of
from cyfs_gateway.sn.ingressleases import Lease, Network
from cyfs_gateway.sn.registry import NameEntry
from cyfs_gateway.sniff import MORE
from cyfs_ns.errors import CyfsError, Misuse, Refused
from cyfs_ns.identity.did import Did
from rtcp.party import Address
from tunnels.endpoint import Endpoint
from tunnels.io.reactor import READABLE
from tunnels.io.waiting import TcpEndpoint, carries_sealed

_PEEK: Final = 4096
"""Octets of a first look: all that nearly every visitor says."""
_MOST_PIECES: Final = 256
_PARTING: Final = 2.0
"""Seconds in which a visitor may read its last word, while what it still says is thrown away: a connection that is
closed with something unread takes back what was said."""
_DRAIN: Final = 65536

_log = logging.getLogger("cyfs.ingress")

Find = Callable[[str], NameEntry | None]
"""Whose a canonical host is: below a name of somebody, or a domain that is proven theirs.  None: nobody's."""
Own = Callable[[TcpEndpoint, Address, bool], None]
"""Takes over a visitor from an address who wants the SN itself, by TLS or not; nothing has been read."""


class Ingress:
    """See the module's text.  ``meter``: see ``ingresstraffic.py``; without ``own`` the SN's name is nobody's.

    Needs :meth:`run`.
    """

    def __init__(
        self,
        host: IngressHost,
        find: Find,
        settings: IngressSettings,
        meter: Meter,
        wall: Callable[[], float] = time.time,
        own: Own | None = None,
    ) -> None:
        self.host, self.settings, self.own = host, settings, own
        self.traffic = Traffic(settings, meter)
        self.half_open: Crowd[_Visitor] = Crowd(settings.half_open, settings.half_open_of)
        self.opening = Openings(host, settings, self.traffic)
        self._find, self._wall = find, wall
        self._doors: list[TcpDoor] = []
        self._ports: Ports | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Take visitors until cancelled; then all streams end.  Raises ``ConfigFault`` where it cannot listen."""
        reactor, settings = self.host.reactor, self.settings
        try:
            for way, places in ((_TLS, settings.tls), (_HTTP, settings.http)):
                self._doors += [TcpDoor(reactor, place, partial(self._arrived, way)) for place in places]
            async with trio.open_nursery() as nursery:
                self.opening.nursery = nursery
                self._ports = Ports(self.opening, nursery, self._wall)
                await self._ports.begin()
                nursery.start_soon(self.traffic.run)
                nursery.start_soon(self._ports.run)
                task_status.started()
        finally:
            self.opening.nursery = None
            self.close_doors()
            if self._ports is not None:
                self._ports.close()
                self._ports = None
            for visitor in self.half_open:
                visitor.close("the ingress is over")
            self.opening.close("the ingress is over")
            self.traffic.close()

    def close_doors(self) -> None:
        """Take no more visitors for names; streams go on."""
        for door in self._doors:
            door.close()
        self._doors.clear()

    @property
    def places(self) -> tuple[Address, ...]:
        """Where visitors are taken, by TLS first."""
        return tuple(door.address for door in self._doors)

    # Leased ports

    def lease(
        self, owner: Did, device: Did, network: Network, service: str, *, port: int = 0, proves: bool = False
    ) -> Lease:
        """Have a public port lead to ``service`` of ``device`` (canonical), or renew that; ``port``: the one wanted.
        ``proves`` as in :class:`~cyfs_gateway.sn.ingressleases.Lease`.  Raises ``Refused``."""
        return self._leased.lease(owner, device, network, service, port=port, proves=proves)

    def unlease(self, device: Did, network: Network, port: int) -> bool:
        """``device`` needs a port no more; whether it had it."""
        return self._leased.unlease(device, network, port)

    def leases(self, device: Did) -> list[Lease]:
        """What is leased to ``device``."""
        return self._leased.of(device)

    @property
    def _leased(self) -> Ports:
        if self._ports is None:
            raise Misuse("ports are leased while the ingress runs")
        return self._ports

    def drop_device(self, device: Did) -> None:
        """``device`` (canonical) is admitted no more: its streams end and its ports are closed."""
        self.opening.close("the device is gone", device)
        self.traffic.close(device)
        if self._ports is not None:
            self._ports.drop(device)

    def status(self) -> Mapping[str, Any]:
        """For people."""
        return {
            "streams": len(self.traffic),
            "half-open": len(self.half_open),
            "octets": self.traffic.octets,
            "ports": 0 if self._ports is None else len(self._ports),
            "visitors": dict(sorted(self.traffic.outcomes.items())),
        }

    # Visitors

    def _arrived(self, way: _Way, sock: TcpEndpoint, address: Address) -> None:
        visitor = _Visitor(self, way, sock, address)
        out = self.half_open.enter(visitor, source_of(address[0]))
        if out is not None:
            out.close("there are too many half-open ones")

    def find(self, host: str) -> tuple[NameEntry, Did | None] | None:
        """Whose ``host`` is, and the key of the machine that answers, if one is there now; None: nobody's."""
        entry = self._find(host)
        if entry is None:
            return None
        machine = machine_of(entry, host, self.settings.domain, self._wall())
        device = None if machine is None else machine.device.did
        return entry, device if device is not None and self.host.standing(device) else None


class _Way:
    """How visitors of one kind of door are read and answered."""

    __slots__ = ("most", "port", "read")

    def __init__(self, port: int, read: Callable[[bytes], First], most: int) -> None:
        self.port, self.read, self.most = port, read, most

    @property
    def is_tls(self) -> bool:
        return self.port == TLS_PORT

    def nobody(self, host: str) -> bytes:
        """What is answered where ``host`` is nobody's."""
        return alert(Alert.UNRECOGNIZED_NAME) if self.is_tls else page(404, f"Nobody here is called {host}.")

    def away(self, host: str) -> bytes:
        """...where its machine is not there."""
        return alert(Alert.INTERNAL_ERROR) if self.is_tls else page(502, f"{host} is not connected at the moment.")

    def busy(self, why: str) -> bytes:
        """...where it is there and nothing can be carried."""
        return alert(Alert.INTERNAL_ERROR) if self.is_tls else page(503, f"Not now: {why}.")

    def closed(self, wanted: Wanted) -> bytes:
        """...where it serves nothing by that name.  By plain HTTP few do, and it will be found over TLS."""
        if self.is_tls:
            return alert(Alert.UNRECOGNIZED_NAME)
        return page(308, f"It is found at {wanted.location}", wanted.location)


_TLS: Final = _Way(TLS_PORT, read_tls, MAX_LOOK)
_HTTP: Final = _Way(HTTP_PORT, read_http, MAX_HEAD + 1)


class _Visitor(Opening):
    """One connection, from its first byte to the end of its stream."""

    __slots__ = ("_ingress", "_is_parting", "_pieces", "_wanted", "_way")

    def __init__(self, ingress: Ingress, way: _Way, sock: TcpEndpoint, address: Address) -> None:
        super().__init__(ingress.opening, sock, address, ingress.settings.first)
        self._ingress, self._way = ingress, way
        self._pieces = 0
        self._is_parting = False
        self._wanted: Wanted | None = None
        # By edge, since what is looked at stays there to be read.
        self._reactor.watch(self._fd, READABLE | EPOLLET, self._look)

    def _look(self, events: int) -> None:
        try:
            said = self._sock.recv(_PEEK, socket.MSG_PEEK)
            if len(said) == _PEEK:
                said = self._sock.recv(self._way.most, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError:
            self.close("it broke")
            return
        first = self._way.read(said)
        if first is MORE:
            self._pieces += 1
            if not said or events & EPOLLRDHUP or self._pieces > _MOST_PIECES:
                self.close("it went away, or says too little")
        elif isinstance(first, Wanted):
            self._lead(first, said)
        elif isinstance(first, TurnedAway):
            self._turn_away(first.answer, first.why, "unreadable")
        else:
            assert first is Guest.DEVICE
            self._count("device")
            self._leave()
            self._reactor.forget(self._fd)
            self._ingress.host.take_peer(self._sock, self._address)

    def _lead(self, wanted: Wanted, said: bytes) -> None:
        own = self._ingress.own
        if own is not None and wanted.host == self._ingress.settings.domain:
            self._count("own")
            self._leave()
            self._reactor.forget(self._fd)
            own(self._sock, self._address, self._way.is_tls)
            return
        found = self._ingress.find(wanted.host)
        if found is None:
            self._turn_away(self._way.nobody(wanted.host), f"{wanted.host} is nobody's", "unknown")
            return
        entry, device = found
        if device is None:
            self._turn_away(self._way.away(wanted.host), f"the machine of {wanted.host} is away", "away")
            return
        try:
            ticket = self._ingress.traffic.admit(entry.owner, device, self._address[0])
        except Refused as refused:
            self._turn_away(self._way.busy("there is too much to carry"), str(refused), "too-many")
            return
        self._ingress.half_open.leave(self)
        self._wanted = wanted
        self.deadline = self._reactor.now + self._ingress.settings.opening
        self._reactor.reschedule(self)
        # Of HTTP each word is looked at on its way.
        self._ask(ticket, wanted.host, self._way.port, said if self._way.is_tls else b"")

    def _led(self, far: Endpoint) -> Endpoint:
        self._count("led")
        if self._way.is_tls:
            carries_sealed(far)
            return self._sock
        assert self._wanted is not None
        return PinnedClient(self._sock, self._wanted.host, self._reactor)

    def _failed(self, fault: CyfsError) -> None:
        wanted, ingress = self._wanted, self._ingress
        assert wanted is not None
        out = ingress.half_open.enter(self, source_of(self._address[0]))
        if out is not None:
            out.close("there are too many half-open ones")
        if isinstance(fault, Refused):
            self._turn_away(self._way.closed(wanted), str(fault), "not-served")
        else:
            self._turn_away(self._way.away(wanted.host), str(fault), "away")

    # Those who are led nowhere

    def _turn_away(self, answer: bytes, why: str, outcome: str) -> None:
        """Say ``answer``, and wait for the visitor to have read it."""
        self._count(outcome)
        _log.debug("%s: %s", self._address[0], why)
        self._is_parting = True
        self._reactor.rehandle(self._fd, self._part)
        self.deadline = self._reactor.now + _PARTING
        self._reactor.reschedule(self)
        try:
            if answer:
                self._sock.send(answer)
            self._sock.shutdown_write()
        except OSError:
            self.close("it does not listen")
            return
        self._part(0)

    def _part(self, _events: int) -> None:
        try:
            if not self._sock.recv(_DRAIN):
                self.close("")
                return
        except BlockingIOError:
            return
        except OSError:
            self.close("it broke")
            return
        # More may be there, and by edge nobody would say so.
        self._reactor.soon(self._part_on)

    def _part_on(self) -> None:
        if self._fd >= 0:
            self._part(0)

    def expire(self) -> None:
        """It took too long."""
        if self in self._ingress.opening.all:
            super().expire()
            return
        if not self._is_parting:
            self._count("slow")
        self.close("too slow")

    def _leave(self) -> None:
        """It is half-open no more."""
        self._ingress.half_open.leave(self)
        self._reactor.unschedule(self)

    def _count(self, outcome: str) -> None:
        self._ingress.traffic.outcomes[outcome] += 1

    def close(self, why: str) -> None:
        """As of :class:`Opening`."""
        self._ingress.half_open.leave(self)
        super().close(why)
