"""Leased ports at work (``cyfs_gateway/sn/ingressleases.py``): a listener for each, and the file that remembers them.

A TCP port asks the device at once, since the server may be the one that speaks first.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from typing import Final

import trio

from cyfs_gateway.io.sn.ingressdoor import TcpDoor, bind
from cyfs_gateway.io.sn.ingresstraffic import IngressHost, Ticket, Traffic
from cyfs_gateway.io.sn.ingressudp import UdpPort
from cyfs_gateway.sn.ingress import IngressSettings
from cyfs_gateway.sn.ingressleases import Lease, Leases, Network, read_leases
from cyfs_ns.errors import BadWire, ConfigFault, Refused, Unreachable
from cyfs_ns.identity.did import Did
from cyfs_ns.io.atomic import write_atomic
from rtcp.party import Address
from tunnels.io.relay import Relay
from tunnels.io.waiting import TcpEndpoint, break_off

FILE: Final = "sn-leases"
_UPKEEP: Final = 60.0
_TRIES: Final = 16

_log = logging.getLogger("cyfs.ingress")


class Ports:
    """See the module's text.  Needs :meth:`begin` and :meth:`run`."""

    def __init__(
        self,
        host: IngressHost,
        settings: IngressSettings,
        traffic: Traffic,
        nursery: trio.Nursery,
        wall: Callable[[], float],
    ) -> None:
        self._host, self._settings, self._traffic = host, settings, traffic
        self._nursery, self._wall = nursery, wall
        self._table = Leases(settings.ports, settings.leases, settings.lease)
        self._open: dict[tuple[Network, int], _TcpPort | UdpPort] = {}
        self._changed = trio.Event()
        self._file = host.home / FILE

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
            self._open[key] = _TcpPort(self._host, self._settings, self._traffic, self._nursery, place, lease)
        else:
            sock = bind(place, socket.SOCK_DGRAM)
            self._open[key] = UdpPort(self._host, self._settings, self._traffic, self._nursery, sock, lease)

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

    def __init__(
        self,
        host: IngressHost,
        settings: IngressSettings,
        traffic: Traffic,
        nursery: trio.Nursery,
        place: Address,
        lease: Lease,
    ) -> None:
        self.lease = lease
        self._host, self._settings, self._traffic, self._nursery = host, settings, traffic, nursery
        self._door = TcpDoor(host.reactor, place, self._arrived)

    def _arrived(self, sock: TcpEndpoint, address: Address) -> None:
        lease = self.lease
        try:
            if not self._host.standing(lease.device):
                raise Refused("its device is away")
            ticket = self._traffic.admit(lease.owner, lease.device, address[0])
        except Refused as refused:
            _log.debug("a visitor of port %d: %s", lease.port, refused)
            _reset(sock)
            return
        self._nursery.start_soon(self._lead, sock, address, ticket)

    async def _lead(self, sock: TcpEndpoint, address: Address, ticket: Ticket) -> None:
        lease, is_led = self.lease, False

        def ended(relay: Relay, _why: str) -> None:
            ticket.moving = relay
            self._traffic.over(ticket)
            ticket.moving = None

        try:
            with trio.move_on_after(self._settings.opening):
                far = await self._host.open_to_peer(lease.device, lease.service, lease.port, source=address)
                reactor = self._host.reactor
                reactor.freshen()
                ticket.moving = Relay(reactor, sock, far, idle=self._settings.idle, on_close=ended)
                is_led = True
        except (Refused, Unreachable, OSError) as fault:
            _log.debug("a visitor of port %d: %s", lease.port, fault)
        except Exception:
            _log.exception("a visitor of port %d failed in a way nobody foresaw", lease.port)
        finally:
            if not is_led:
                _reset(sock)
                self._traffic.over(ticket)

    def close(self) -> None:
        """Take nobody any more; streams go on."""
        self._door.close()


def _reset(sock: TcpEndpoint) -> None:
    """As the kernel answers where nobody listens."""
    break_off(sock)
    sock.close()
