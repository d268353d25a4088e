"""Leased ports at work (``cyfs_gateway/sn/ingressleases.py``): a listener for each, and the file that remembers them.

A TCP port asks the device at once, since the server may be the one that speaks first.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from select import EPOLLET
from typing import Final

import trio

from cyfs_gateway.io.sn.ingressdoor import TcpDoor, bind
from cyfs_gateway.io.sn.ingressopening import Opening, Openings
from cyfs_gateway.io.sn.ingresstraffic import Ticket
from cyfs_gateway.io.sn.ingressudp import UdpPort
from cyfs_gateway.sn.ingressleases import Lease, Leases, Network, read_leases
from cyfs_ns.errors import BadWire, ConfigFault, CyfsError, Refused
from cyfs_ns.identity.did import Did
from cyfs_ns.io.atomic import write_atomic
from rtcp.party import Address
from tunnels.endpoint import Endpoint
from tunnels.io.reactor import READABLE
from tunnels.io.waiting import TcpEndpoint, break_off

FILE: Final = "sn-leases"
_UPKEEP: Final = 60.0
_TRIES: Final = 16

_log = logging.getLogger("cyfs.ingress")


class Ports:
    """See the module's text.  Needs :meth:`begin` and :meth:`run`."""

    def __init__(
        self,
        openings: Openings,
        nursery: trio.Nursery,
        wall: Callable[[], float],
    ) -> None:
        self._openings, self._settings = openings, openings.settings
        self._nursery, self._wall = nursery, wall
        self._table = Leases(self._settings.ports, self._settings.leases, self._settings.lease)
        self._open: dict[tuple[Network, int], _TcpPort | UdpPort] = {}
        self._changed = trio.Event()
        self._file = openings.host.home / FILE

    def __len__(self) -> int:
        return len(self._open)

    async def begin(self) -> None:
        """Open what was leased before."""
        try:
            kept = read_leases(await trio.to_thread.run_sync(self._file.read_bytes))
        except FileNotFoundError:
            return
        except (OSError, BadWire) as fault:
            _log.error("leased ports are forgotten, %s cannot be read: %s", self._file, fault)
            return
        self._table.restore(kept)
        for lease in list(self._table.standing(self._wall())):
            try:
                self._serve(lease)
            except ConfigFault as fault:
                _log.error("%s", fault)

    async def run(self) -> None:
        """Write down what changes, and close what ran out; when cancelled, write once more."""
        try:
            while True:
                with trio.move_on_after(_UPKEEP):
                    await self._changed.wait()
                await self._write()
                self._tidy()
        finally:
            with trio.CancelScope(shield=True):
                await self._write()

    async def _write(self) -> None:
        if not self._changed.is_set():
            return
        self._changed = trio.Event()
        written = self._table.written()
        try:
            await trio.to_thread.run_sync(write_atomic, self._file, written)
        except OSError as fault:
            _log.error("leases of ports are not written down: %s", fault)

    def _tidy(self) -> None:
        now = self._wall()
        self._table.tidy(now)
        standing = {(lease.network, lease.port) for lease in self._table.standing(now)}
        for key in self._open.keys() - standing:
            self._open.pop(key).close()

    def close(self) -> None:
        """Close them all; the leases remain."""
        for port in self._open.values():
            port.close()
        self._open.clear()

    def lease(
        self, owner: Did, device: Did, network: Network, service: str, *, port: int = 0, proves: bool = False
    ) -> Lease:
        """As :meth:`cyfs_gateway.io.sn.ingress.Ingress.lease`."""
        now = self._wall()
        for _ in range(_TRIES):
            lease = self._table.ask(owner, device, network, service, now, port=port, proves=proves)
            try:
                self._serve(lease)
            except ConfigFault as fault:
                self._table.spoil(network, lease.port)
                if port:
                    raise Refused(str(fault)) from fault
                continue
            self._changed.set()
            return lease
        raise Refused(f"other programs have the {network} ports of this SN")

    def _serve(self, lease: Lease) -> None:
        """Raises ``ConfigFault``."""
        key = lease.network, lease.port
        port = self._open.get(key)
        if port is not None and port.lease.device == lease.device:
            port.lease = lease
            return
        if port is not None:
            self._open.pop(key).close()
        host = self._settings.tls[0][0] if self._settings.tls else ""
        place = host, lease.port
        if lease.network == "tcp":
            self._open[key] = _TcpPort(self._openings, place, lease)
        else:
            sock, all_ = bind(place, socket.SOCK_DGRAM), self._openings
            self._open[key] = UdpPort(all_.host, self._settings, all_.traffic, self._nursery, sock, lease)

    def unlease(self, device: Did, network: Network, port: int) -> bool:
        """As :meth:`cyfs_gateway.io.sn.ingress.Ingress.unlease`."""
        had = self._table.give_back(device, network, port, self._wall())
        if had:
            self._tidy()
            self._changed.set()
        return had

    def of(self, device: Did) -> list[Lease]:
        """What ``device`` has."""
        return self._table.of(device, self._wall())

    def drop(self, device: Did) -> None:
        """Take back all that ``device`` has."""
        for lease in self.of(device):
            self.unlease(device, lease.network, lease.port)


class _TcpPort:
    """One leased TCP port."""

    def __init__(self, openings: Openings, place: Address, lease: Lease) -> None:
        self.lease, self._openings = lease, openings
        self._door = TcpDoor(openings.host.reactor, place, self._arrived)

    def _arrived(self, sock: TcpEndpoint, address: Address) -> None:
        lease, openings = self.lease, self._openings
        try:
            if not openings.host.standing(lease.device):
                raise Refused("its device is away")
            ticket = openings.traffic.admit(lease.owner, lease.device, address[0])
        except Refused as refused:
            _log.debug("a visitor of port %d: %s", lease.port, refused)
            break_off(sock)
            sock.close()
            return
        _Caller(openings, sock, address).lead(ticket, lease)

    def close(self) -> None:
        """Take nobody any more; streams go on."""
        self._door.close()


class _Caller(Opening):
    """One visitor of such a port.  Who is led nowhere is answered as the kernel answers where nobody listens."""

    __slots__ = ()

    def __init__(self, openings: Openings, sock: TcpEndpoint, address: Address) -> None:
        super().__init__(openings, sock, address, openings.settings.opening)

    def lead(self, ticket: Ticket, lease: Lease) -> None:
        """...to the service that is leased, on ``ticket``, which is taken over."""
        self._reactor.watch(self._fd, READABLE | EPOLLET, self._meanwhile)
        self._ask(ticket, lease.service, lease.port)

    def _led(self, far: Endpoint) -> Endpoint:
        return self._sock

    def _failed(self, fault: CyfsError) -> None:
        self.close(str(fault))

    def close(self, why: str) -> None:
        """As of :class:`Opening`."""
        break_off(self._sock)
        super().close(why)
