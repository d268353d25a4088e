"""All bound sockets of the gateway, changed in one transaction.

``stage`` binds what a new configuration needs and the old one did not have; if any bind fails everything just bound is
given back and the old set goes on as if nothing had been asked.  ``Staged.commit`` then cannot fail: sockets that stay
get their new configuration, new ones begin to accept, dropped ones are closed.  Connections never notice.
"""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cyfs_gateway.config.model import KeepAlive, ListenerConfig
from cyfs_gateway.io import transparent
from cyfs_gateway.io.inbound import Inbound
from cyfs_gateway.io.packets import PacketInbound
from cyfs_ns.errors import ConfigFault
from tunnels.endpoint import Target

if TYPE_CHECKING:
    from cyfs_gateway.io.engine import Engine

_BACKLOG: Final = 4096
_UDP_BUFFER: Final = 4 << 20
_NO_SUCH_FAMILY: Final = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})

_Door = Inbound | PacketInbound

_log = logging.getLogger("cyfs.listeners")


@dataclass(frozen=True, slots=True)
class _Place:
    """What a socket is bound to.  The same place may change its kind, name or users without a new socket."""

    network: str
    host: str
    port: int
    name: str = ""
    """Tells listeners on any free port (0) apart; empty for all others."""


class Listeners:
    """What is bound now."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._doors: dict[_Place, _Door] = {}
        self._peer_ports: frozenset[int] = frozenset()

    def stage(self, configs: Iterable[ListenerConfig], keep_alive: KeepAlive) -> Staged:
        """Bind what is missing.  Raises ``ConfigFault`` naming the listener; then nothing has changed."""
        staged = Staged(self)
        try:
            for config in configs:
                for network in _networks(config):
                    place = _Place(network, config.listen, config.port, "" if config.port else config.name)
                    door = self._doors.get(place)
                    if door is None:
                        sock = self._bind(place, config, keep_alive)
                        if sock is None:
                            continue
                        staged.bound[place] = sock
                    elif config.kind == "tproxy":
                        _prepare_for_tproxy(door.sock, network, config)
                    staged.wanted[place] = config
        except BaseException:
            staged.abandon()
            raise
        return staged

    def _bind(self, place: _Place, config: ListenerConfig, keep_alive: KeepAlive) -> socket.socket | None:
        """A bound socket, even where one of ours still overlaps it (``127.0.0.1`` making way for ``0.0.0.0``)."""
        overlapping = [
            door.sock
            for bound, door in self._doors.items()
            if (bound.network, bound.port) == (place.network, place.port) and place.port
        ]
        try:
            for sock in overlapping:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            return _bind(config, place.network, keep_alive, share=bool(overlapping))
        finally:
            for sock in overlapping:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)

    def commit(self, wanted: Mapping[_Place, ListenerConfig], bound: Mapping[_Place, socket.socket]) -> None:
        """Make a staged set the real one; for ``Staged`` only."""
        for place in [place for place in self._doors if place not in wanted]:
            self._doors.pop(place).close()
        for place, config in wanted.items():
            door = self._doors.get(place)
            if door is not None:
                door.configure(config)
                continue
            make = Inbound if place.network == "tcp" else PacketInbound
            door = self._doors[place] = make(self._engine, config, bound[place])
            door.start()
            _log.info("%s listens on %s (%s)", config.name, Target(*door.address), place.network)
        self._peer_ports = frozenset(door.address[1] for door in self._doors.values() if door.config.kind == "rtcp")

    def ports(self) -> frozenset[tuple[str, int]]:
        """(network, port) of everything bound."""
        return frozenset((place.network, door.address[1]) for place, door in self._doors.items())

    def peer_ports(self) -> frozenset[int]:
        """Ports of the doors for tunnels."""
        return self._peer_ports

    def close(self) -> None:
        """Give every port back."""
        for door in self._doors.values():
            door.close()
        self._doors.clear()
        self._peer_ports = frozenset()

    def view(self) -> list[dict[str, object]]:
        """What is bound, for people: name, type, address, network."""
        return [
            {
                "name": door.config.name,
                "type": door.config.kind,
                "address": str(Target(*door.address)),
                "network": place.network,
            }
            for place, door in self._doors.items()
        ]


class Staged:
    """A change that is ready: either ``commit`` or ``abandon`` it."""

    def __init__(self, listeners: Listeners) -> None:
        self._listeners = listeners
        self.wanted: dict[_Place, ListenerConfig] = {}
        self.bound: dict[_Place, socket.socket] = {}

    def commit(self) -> None:
        """Make it so; cannot fail."""
        self._listeners.commit(self.wanted, self.bound)

    def abandon(self) -> None:
        """Give back what was bound."""
        for sock in self.bound.values():
            sock.close()


def _networks(config: ListenerConfig) -> tuple[str, ...]:
    if config.kind == "tunnel":
        return config.network
    return ("tcp", "udp") if config.kind == "tproxy" and config.udp else ("tcp",)


def _prepare_for_tproxy(sock: socket.socket, network: str, config: ListenerConfig) -> None:
    try:
        transparent.set_transparent(sock)
        if network == "udp":
            transparent.receive_orig_dst(sock)
    except OSError as fault:
        raise _cannot(config, network, fault) from fault


def _bind(config: ListenerConfig, network: str, keep_alive: KeepAlive, *, share: bool) -> socket.socket | None:
    """A bound socket; None for an optional listener on a machine without that family."""
    family = socket.AF_INET6 if ":" in config.listen else socket.AF_INET
    kind = socket.SOCK_STREAM if network == "tcp" else socket.SOCK_DGRAM
    try:
        sock = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    except OSError as fault:
        if config.optional and fault.errno in _NO_SUCH_FAMILY:
            return None
        raise _cannot(config, network, fault) from fault
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if share:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if config.kind == "tproxy":
            _prepare_for_tproxy(sock, network, config)
        if network == "tcp":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # Accepted sockets inherit these, so no connection pays for them.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if not keep_alive.disable:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, max(1, int(keep_alive.idle)))
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, int(keep_alive.interval)))
            sock.bind((config.listen, config.port))
            sock.listen(_BACKLOG)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _UDP_BUFFER)
            sock.bind((config.listen, config.port))
        if share:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)
    except ConfigFault:
        sock.close()
        raise
    except OSError as fault:
        sock.close()
        if config.optional and fault.errno in _NO_SUCH_FAMILY:
            return None
        raise _cannot(config, network, fault) from fault
    return sock


def _cannot(config: ListenerConfig, network: str, fault: OSError) -> ConfigFault:
    where = f"{config.name}: cannot listen on {Target(config.listen, config.port)} ({network}): {fault.strerror}"
    if fault.errno == errno.EADDRINUSE:
        return ConfigFault(f"{where}; another program has this port, choose another one or stop that program")
    if fault.errno in (errno.EACCES, errno.EPERM):
        return ConfigFault(f"{where}; this needs root or the capabilities NET_BIND_SERVICE and NET_ADMIN")
    return ConfigFault(where)
