"""A visitor's way to a device, from the request for a stream to the relay: what all TCP doors of the ingress share.

The tunnel is asked within the reactor.  A visitor has a task only where that cannot be, as through a tunnel of
version 4, and until then alone.
"""

from __future__ import annotations

import logging
from select import EPOLLERR, EPOLLHUP
from typing import Final

import trio

from cyfs_gateway.io.sn.ingresstraffic import IngressHost, Ticket, Traffic
from cyfs_gateway.sn.ingress import IngressSettings
from cyfs_ns.errors import CyfsError, Refused, Unreachable
from cyfs_ns.identity.did import Did
from rtcp.io.pipe import GiveUp, break_off
from rtcp.party import Address
from tunnels.endpoint import Endpoint
from tunnels.io.reactor import READABLE
from tunnels.io.relay import Relay
from tunnels.io.waiting import TcpEndpoint

_log: Final = logging.getLogger("cyfs.ingress")


class Openings:
    """Those of one ingress that are under way.  ``nursery`` runs those that take a task; None: nothing runs."""

    def __init__(self, host: IngressHost, settings: IngressSettings, traffic: Traffic) -> None:
        self.host, self.settings, self.traffic = host, settings, traffic
        self.nursery: trio.Nursery | None = None
        self.all: dict[Opening, Did] = {}

    def __len__(self) -> int:
        return len(self.all)

    def close(self, why: str, device: Did | None = None) -> None:
        """End all of them, or those to ``device``."""
        for opening in [one for one, to in self.all.items() if device is None or to == device]:
            opening.close(why)


class Opening:
    """The connection ``sock`` of a visitor at ``address``, which the reactor watches by edge, and has a deadline for.

    To be asked for once, by :meth:`_ask`; what comes of it is told by :meth:`_led` or :meth:`_failed`.
    """

    __slots__ = (
        "_address",
        "_fd",
        "_give_up",
        "_goal",
        "_openings",
        "_reactor",
        "_sent",
        "_sock",
        "_ticket",
        "deadline",
        "slot",
    )

    def __init__(self, openings: Openings, sock: TcpEndpoint, address: Address, patience: float) -> None:
        self._openings, self._sock, self._address = openings, sock, address
        self._reactor = reactor = openings.host.reactor
        self._fd = sock.fileno()
        self._goal = "", 0
        self._sent = 0
        """Octets that went to the device, and lie in the kernel still."""
        self._give_up: GiveUp | None = None
        """Ends the opening of a stream that is under way."""
        self._ticket: Ticket | None = None
        self.slot = 0
        self.deadline = reactor.now + patience
        reactor.schedule(self)

    # For whoever knows what kind of visitor it is

    def _led(self, far: Endpoint) -> Endpoint:
        """There is a stream, ``far``: what is joined with it."""
        raise NotImplementedError

    def _failed(self, fault: CyfsError) -> None:
        """There is none: ``Refused`` by the device, or it is not there."""
        raise NotImplementedError

    # From the request to the relay

    def _ask(self, ticket: Ticket, host: str, port: int, first: bytes = b"") -> None:
        """Ask the device of ``ticket``, which is taken over; ``first``, which lies in the kernel, goes along."""
        openings, reactor = self._openings, self._reactor
        self._ticket, self._goal = ticket, (host, port)
        openings.all[self] = ticket.device
        reactor.rehandle(self._fd, self._meanwhile)
        ask = openings.host.ask_peer
        self._give_up = ask(ticket.device, host, port, self._answered, source=self._address, first=first)
        if self._give_up is None:
            self._open_in_task()
        else:
            self._sent = len(first)

    def _meanwhile(self, events: int) -> None:
        """Something is heard of a visitor whose way is being opened."""
        if events & (EPOLLHUP | EPOLLERR):
            self.close("it went away")

    def _open_in_task(self) -> None:
        scope = trio.CancelScope()
        self._give_up = scope.cancel
        assert self._openings.nursery is not None
        self._openings.nursery.start_soon(self._open, scope)

    async def _open(self, scope: trio.CancelScope) -> None:
        far: Endpoint | CyfsError | None = None
        try:
            with scope:
                far = await self._await_stream()
            self._reactor.freshen()
            if self._give_up is not None:
                self._answered(far)
            elif far is not None and not isinstance(far, CyfsError):
                far.close()  # it came in the moment in which it was given up
        except BaseException as fault:
            self.close("the ingress is over")
            if not isinstance(fault, Exception):
                raise
            _log.exception("a visitor from %s failed in a way nobody foresaw", self._address[0])

    async def _await_stream(self) -> Endpoint | CyfsError:
        ticket, (host, port) = self._ticket, self._goal
        assert ticket is not None
        try:
            return await self._openings.host.open_to_peer(ticket.device, host, port, source=self._address)
        except (Refused, Unreachable) as fault:
            return fault
        except OSError as fault:
            return Unreachable(str(fault), "tunnel_open")

    def _answered(self, far: Endpoint | CyfsError | None) -> None:
        """What became of the stream that was asked for; None: it takes a task."""
        self._give_up = None
        if far is None:
            self._sent = 0
            self._open_in_task()
        elif isinstance(far, CyfsError):
            self._fail(far)
        else:
            try:
                self._join(far)
            except Exception as fault:
                break_off(far)
                far.close()
                self.close(str(fault))
                if not isinstance(fault, OSError):
                    raise

    def _fail(self, fault: CyfsError) -> None:
        del self._openings.all[self]
        self._give_back()
        self._failed(fault)

    def _join(self, far: Endpoint) -> None:
        openings, reactor, ticket = self._openings, self._reactor, self._ticket
        assert ticket is not None
        if self._sent:
            self._sock.recv(self._sent)
            ticket.told = -self._sent
        reactor.rewatch(self._fd, READABLE)
        del openings.all[self]
        reactor.unschedule(self)
        near, idle = self._led(far), openings.settings.idle
        ticket.moving = Relay(reactor, near, far, idle=idle, on_close=self._ended, a_watched=True)

    def _ended(self, relay: Relay, why: str) -> None:
        self._fd = -1
        ticket, self._ticket = self._ticket, None
        assert ticket is not None
        ticket.moving = relay  # it may have ended while it was made
        self._openings.traffic.over(ticket)
        ticket.moving = None
        _log.debug("%s: %s", self._address[0], why or "over")

    # Its end

    def expire(self) -> None:
        """It took too long."""
        assert self._give_up is not None
        give_up, self._give_up = self._give_up, None
        give_up()
        self._fail(Unreachable("the device does not answer", "connect_timeout"))

    def close(self, why: str) -> None:
        """End it, wherever it is before its relay.  Harmless after that."""
        if self._fd < 0:
            return
        if why:
            _log.debug("%s: %s", self._address[0], why)
        self._openings.all.pop(self, None)
        self._reactor.unschedule(self)
        self._reactor.closing(self._fd)
        self._fd = -1
        self._sock.close()
        self._give_back()
        if self._give_up is not None:
            give_up, self._give_up = self._give_up, None
            give_up()

    def _give_back(self) -> None:
        if self._ticket is not None:
            self._openings.traffic.over(self._ticket)
            self._ticket = None
