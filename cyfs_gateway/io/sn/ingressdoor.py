"""Sockets that strangers come to: bound for both families where no address is said, and accepting by the reactor.

When descriptors run out a door pauses and tries again shortly; the streams there are go on.
"""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Callable
from typing import Final

from cyfs_ns.errors import ConfigFault
from rtcp.party import Address
from tunnels.endpoint import Target
from tunnels.io.reactor import READABLE, Reactor
from tunnels.io.waiting import TcpEndpoint

_BACKLOG: Final = 4096
_ACCEPTS_PER_EVENT: Final = 64
_PAUSE: Final = 0.5
_STARVED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_MAPPED: Final = "::ffff:"
_ALIVE: Final = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4))
"""A phone that has gone away is found out in two minutes, however long a stream may be silent."""

_log = logging.getLogger("cyfs.ingress")

Arrived = Callable[[TcpEndpoint, Address], None]


def bind(place: Address, kind: socket.SocketKind) -> socket.socket:
    """A socket at ``place``; without an address at all of both families.  Raises ``ConfigFault``."""
    host, port = place
    try:
        if not host and socket.has_ipv6:
            try:
                return _bind(socket.AF_INET6, "::", port, kind)
            except OSError as fault:
                if fault.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                    raise
        return _bind(socket.AF_INET6 if ":" in host else socket.AF_INET, host or "0.0.0.0", port, kind)
    except OSError as fault:
        raise ConfigFault(f"ingress: cannot listen on {Target(host or '*', port)}: {fault.strerror}") from fault


def _bind(family: socket.AddressFamily, host: str, port: int, kind: socket.SocketKind) -> socket.socket:
    sock = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host != "::"))
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # What is accepted inherits these, so that no visitor pays for them.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _ALIVE:
                sock.setsockopt(socket.IPPROTO_TCP, option, value)
        sock.bind((host, port))
        if kind == socket.SOCK_STREAM:
            sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def plain(host: str) -> str:
    """The address of a peer without what the kernel adds: that it is IPv4 after all, or by which interface it is."""
    if host.startswith(_MAPPED):
        return host[len(_MAPPED) :]
    return host.partition("%")[0] if "%" in host else host


class TcpDoor:
    """Hands every connection to ``arrived``, which does not raise.  Begins at once."""

    slot = 0
    deadline = 0.0

    def __init__(self, reactor: Reactor, place: Address, arrived: Arrived) -> None:
        """Raises ``ConfigFault``."""
        self._sock = bind(place, socket.SOCK_STREAM)
        self._reactor, self._arrived = reactor, arrived
        self._is_open = True
        self.address: Address = self._sock.getsockname()[:2]
        reactor.watch(self._sock.fileno(), READABLE, self._accept)

    def _accept(self, _events: int) -> None:
        accept = self._sock._accept  # type: ignore[attr-defined] # the bare call: the public one spends as long again on a wrapper object
        family, kind = int(self._sock.family), int(socket.SOCK_STREAM)
        for _ in range(_ACCEPTS_PER_EVENT):
            try:
                fd, peer = accept()
            except BlockingIOError:
                return
            except OSError as fault:
                if fault.errno not in _STARVED:
                    continue  # it broke in the queue
                _log.warning("visitors at %s wait for %s s: %s", Target(*self.address), _PAUSE, fault.strerror)
                self._reactor.forget(self._sock.fileno())
                self.deadline = self._reactor.now + _PAUSE
                self._reactor.schedule(self)
                return
            sock = TcpEndpoint(family, kind, 0, fd)
            sock.setblocking(False)
            self._arrived(sock, (plain(peer[0]), peer[1]))

    def expire(self) -> None:
        """The pause is over."""
        if self._is_open:
            self._reactor.watch(self._sock.fileno(), READABLE, self._accept)

    def close(self) -> None:
        """Take no more; whoever came is not touched."""
        if self._is_open:
            self._is_open = False
            self._reactor.unschedule(self)
            self._reactor.forget(self._sock.fileno())
            self._sock.close()
