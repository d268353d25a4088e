"""A leased UDP port: one socket for all its clients, and for each of them datagrams through the tunnel.

Anybody can put any sender's address on a datagram.  So

* what goes back to an address is at most ``reflect`` times what came from it (RFC 9000 section 8.1 says three), unless
  the lease says that the service proves its clients' addresses by itself: the SN never amplifies what it reflects;
* newcomers are few at a time, of one source and of all, and the oldest of them makes room for the next.  Whoever spoke
  again after an answer is settled, and no flood of newcomers moves them.

No client has a task, but for the moment in which its way is opened; of those there are few, too.
"""

from __future__ import annotations

import logging
import socket
from typing import Any, Final

import trio

from cyfs_gateway.io.sn.ingressdoor import plain
from cyfs_gateway.io.sn.ingresstraffic import IngressHost, Ticket, Traffic
from cyfs_gateway.sn.ingress import IngressSettings
from cyfs_gateway.sn.ingresscrowd import Crowd, source_of
from cyfs_gateway.sn.ingressleases import Lease
from cyfs_ns.errors import Refused, Unreachable
from rtcp.io.pipe import DatagramPipe
from tunnels.io.reactor import READABLE

_BATCH: Final = 64
_MOST: Final = 65535
_WAITING: Final = 8
"""Datagrams kept while a way is opened."""
_OPENING_MOST: Final = 32
_REST: Final = 1.0
"""Seconds for which nobody asks again after a way could not be opened."""
_BUFFER: Final = 1 << 20

_log = logging.getLogger("cyfs.ingress")


class UdpPort:
    """See the module's text.  Takes ``sock`` over."""

    def __init__(
        self,
        host: IngressHost,
        settings: IngressSettings,
        traffic: Traffic,
        nursery: trio.Nursery,
        sock: socket.socket,
        lease: Lease,
    ) -> None:
        self.lease, self.sock, self.settings, self.host = lease, sock, settings, host
        self.traffic, self.opening = traffic, 0
        self._nursery = nursery
        self._sessions: dict[Any, _Session] = {}
        self._newcomers: Crowd[_Session] = Crowd(settings.udp_sessions // 2, settings.udp_of_source)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        host.reactor.watch(sock.fileno(), READABLE, self._hear)

    def _hear(self, _events: int) -> None:
        for _ in range(_BATCH):
            try:
                data, address = self.sock.recvfrom(_MOST)
            except BlockingIOError:
                return
            except OSError:
                continue  # what somebody's ICMP says of an answer
            session = self._sessions.get(address)
            if session is None:
                session = self._begin(address)
            if session is not None:
                session.say(data)

    def _begin(self, address: Any) -> _Session | None:
        if self.opening >= _OPENING_MOST or not self.host.standing(self.lease.device):
            return None
        try:
            self.traffic.ask(self.lease.owner)
        except Refused:
            return None
        session = self._sessions[address] = _Session(self, address)
        out = self._newcomers.enter(session, source_of(plain(address[0])))
        if out is not None:
            out.close("newcomers need its place")
        self.opening += 1
        self._nursery.start_soon(session.open)
        return session

    def settle(self, session: _Session) -> None:
        """``session`` is a newcomer no more, if there is room for another who is not."""
        if len(self._sessions) - len(self._newcomers) < self.settings.udp_sessions // 2:
            self._newcomers.leave(session)
            session.is_settled = True

    def forget(self, session: _Session) -> None:
        """It has ended."""
        self._newcomers.leave(session)
        del self._sessions[session.address]

    def close(self) -> None:
        """End them all."""
        self.host.reactor.forget(self.sock.fileno())
        for session in list(self._sessions.values()):
            session.close("the port is leased no more")
        self.sock.close()


class _Session:
    """One client.  ``up`` and ``down`` are octets that came from it and went to it."""

    __slots__ = (
        "_is_held",
        "_is_over",
        "_pipe",
        "_port",
        "_ticket",
        "_waiting",
        "address",
        "deadline",
        "down",
        "is_settled",
        "slot",
        "up",
    )

    def __init__(self, port: UdpPort, address: Any) -> None:
        self._port, self.address = port, address
        self._waiting: list[bytes] | None = []
        self._pipe: DatagramPipe | None = None
        self._ticket: Ticket | None = None
        self._is_over = self._is_held = self.is_settled = False
        self.up = self.down = self.slot = 0
        self.deadline = port.host.reactor.now + port.settings.opening
        port.host.reactor.schedule(self)

    def say(self, data: bytes) -> None:
        """The client said ``data``."""
        if self._pipe is None:
            if self._waiting is not None and len(self._waiting) < _WAITING:
                self._waiting.append(data)
            return
        if self.down and not self.is_settled:
            self._port.settle(self)
        self.deadline = self._port.host.reactor.now + self._port.settings.udp_idle
        if self._is_held:
            return
        self.up += len(data)
        try:
            self._pipe.send(data)
        except OSError as fault:
            self.close(str(fault))

    async def open(self) -> None:
        """Open its way, and let what waits go there."""
        port, lease = self._port, self._port.lease
        source = plain(self.address[0]), self.address[1]
        pipe = None
        try:
            with trio.move_on_after(port.settings.opening):
                pipe = await port.host.open_datagrams_to_peer(lease.device, lease.service, lease.port, source=source)
        except (Refused, Unreachable, OSError) as fault:
            _log.debug("a client of UDP port %d: %s", lease.port, fault)
        except Exception:
            _log.exception("a client of UDP port %d failed in a way nobody foresaw", lease.port)
        finally:
            port.opening -= 1
        if self._is_over:
            if pipe is not None:
                pipe.close()
            return
        reactor = port.host.reactor
        reactor.freshen()
        waiting, self._waiting = self._waiting or [], None
        if pipe is None:
            self.deadline = reactor.now + _REST
            reactor.reschedule(self)
            return
        self._pipe = pipe
        self._ticket = port.traffic.follow(lease.owner, lease.device, self)
        reactor.watch(pipe.fileno(), READABLE, self._answer)
        for data in waiting:
            if not self._is_over:
                self.say(data)

    def _answer(self, _events: int) -> None:
        port, pipe = self._port, self._pipe
        assert pipe is not None
        lease, most = port.lease, port.settings.reflect
        self.deadline = port.host.reactor.now + port.settings.udp_idle
        for _ in range(_BATCH):
            try:
                data = pipe.recv()
            except BlockingIOError:
                return
            except OSError as fault:
                self.close(str(fault))
                return
            if self._is_held:
                continue
            if not lease.proves and self.down + len(data) > most * self.up:
                port.traffic.outcomes["udp-unanswered"] += 1
                continue
            self.down += len(data)
            try:
                port.sock.sendto(data, self.address)
            except OSError:
                continue  # the socket is full, or there is no way there: UDP's right

    def hold(self) -> None:
        """Drop what comes from either side, until :meth:`release`."""
        self._is_held = True

    def release(self) -> None:
        """Go on."""
        self._is_held = False

    def expire(self) -> None:
        """Nobody said anything for long."""
        self.close("idle")

    def close(self, why: str = "") -> None:
        """End it.  Harmless when it has ended."""
        if self._is_over:
            return
        self._is_over = True
        port = self._port
        port.host.reactor.unschedule(self)
        port.forget(self)
        if self._pipe is not None:
            port.host.reactor.forget(self._pipe.fileno())
            self._pipe.close()
        if self._ticket is not None:
            port.traffic.over(self._ticket)
            self._ticket = None
        _log.debug("a client of UDP port %d is gone: %s", port.lease.port, why)
