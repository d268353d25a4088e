"""TCP listeners: bound sockets that accept in batches, by the reactor, for whoever their configuration lets in.

When descriptors run out a listener pauses and tries again shortly; the connections it has go on.  A reload gives a
listener a new configuration without touching its socket.
"""

from __future__ import annotations

import errno
import logging
import socket
from typing import TYPE_CHECKING, Final

from cyfs_gateway.config.model import ListenerConfig
from cyfs_gateway.filter import AddressFilter
from cyfs_gateway.io.connection import Connection
from tunnels.authority import parse_authority
from tunnels.io.reactor import READABLE
from tunnels.io.waiting import TcpEndpoint

if TYPE_CHECKING:
    from cyfs_gateway.io.engine import Engine

_ACCEPTS_PER_EVENT: Final = 64
_PAUSE_SECONDS: Final = 0.5
_STARVED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

_log = logging.getLogger("cyfs.inbound")


class _Breather:
    """Brings a listener back after it ran out of descriptors."""

    __slots__ = ("_inbound", "deadline", "slot")

    def __init__(self, inbound: Inbound, deadline: float) -> None:
        self._inbound = inbound
        self.deadline = deadline
        self.slot = 0

    def expire(self) -> None:
        self._inbound.resume()


class Inbound:
    """One bound TCP socket and what its configuration says now; a reload swaps ``config`` under it."""

    def __init__(self, engine: Engine, config: ListenerConfig, sock: socket.socket) -> None:
        self.engine = engine
        self.sock = sock
        self.fd = sock.fileno()
        self.address = sock.getsockname()[:2]
        self._paused = False
        self._closed = False
        self.guests: set[Connection] = set()
        """Whom a limit counts."""
        self.configure(config)

    def configure(self, config: ListenerConfig) -> None:
        """Serve by this configuration from the next connection on."""
        self.config = config
        self.filter = AddressFilter(config)
        self.filtered = bool(
            config.allowed or config.disallowed or config.skip_auth_prefixes or config.proxy_protocol_from
        )
        self.target = parse_authority(config.target.encode()) if config.target else None

    def start(self) -> None:
        """Begin to accept."""
        self.engine.reactor.watch(self.fd, READABLE, self._accept)

    def close(self) -> None:
        """Stop accepting and give the port back; connections already made live on."""
        if not self._closed:
            self._closed = True
            self.engine.reactor.closing(self.fd)
            self.sock.close()

    def _accept(self, _events: int) -> None:
        accept = self.sock._accept  # type: ignore[attr-defined] # the bare call: the public one spends as long again on a wrapper object
        family, kind = int(self.sock.family), int(self.sock.type)
        for _ in range(_ACCEPTS_PER_EVENT):
            if self.config.most and len(self.guests) >= self.config.most:
                self._rest()
                return
            try:
                fd, peer = accept()
            except BlockingIOError:
                return
            except OSError as fault:
                if fault.errno in _STARVED:
                    self._pause(fault)
                    return
                continue  # the connection died in the queue (ECONNABORTED and the network errors of accept(2))
            sock = TcpEndpoint(family, kind, 0, fd)
            try:
                self.engine.check_descriptor(fd)
            except OSError as fault:
                sock.close()
                self._pause(fault)
                return
            sock.setblocking(False)
            host = peer[0].partition("%")[0] if "%" in peer[0] else peer[0]
            if self.config.kind == "rtcp":
                self.engine.take_peer(sock, host, peer[1])
                continue
            connection = Connection(self, sock, host, peer[1])
            if self.config.most:
                self.guests.add(connection)
            try:
                connection.begin()
            except Exception:
                # Whatever one connection stumbles over, the reactor must not take it for a fault of the listener.
                _log.exception("a connection to %s failed in a way nobody foresaw", self.config.name)
                connection.close("our own fault")

    def _pause(self, fault: OSError) -> None:
        if not self._paused:
            _log.warning(
                "%s:%s stops accepting for %s s: %s; raise the limit of open files",
                *self.address,
                _PAUSE_SECONDS,
                fault.strerror,
            )
        self._rest()

    def _rest(self) -> None:
        reactor = self.engine.reactor
        self._paused = True
        reactor.forget(self.fd)
        reactor.schedule(_Breather(self, reactor.now + _PAUSE_SECONDS))

    def resume(self) -> None:
        """Accept again after a pause."""
        if not self._closed:
            self._paused = False
            self.start()
