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

_Key = tuple[str, str, int, str, str]
_Door = Inbound | PacketInbound

_log = logging.getLogger("cyfs.listeners")


class Listeners:
    """What is bound now."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._doors: dict[_Key, _Door] = {}

    def stage(
        self,
        configs: Iterable[ListenerConfig],
        keep_alive: KeepAlive,
    ) -> Staged:
        """Bind what is missing.  Raises ``ConfigFault`` naming the listener; then nothing has changed."""
        wanted: dict[_Key, ListenerConfig] = {}
        bound: dict[_Key, socket.socket] = {}
        try:
            for config in configs:
                for network in _networks(config):
                    key = (*config.key, network, config.name if config.port == 0 else "")
                    if key not in self._doors:
                        sock = _bind(config, network, keep_alive)
                        if sock is None:
                            continue
                        bound[key] = sock
                    wanted[key] = config
        except BaseException:
            for sock in bound.values():
                sock.close()
            raise
        return Staged(self, wanted, bound)

    def commit(
        self,
        wanted: Mapping[_Key, ListenerConfig],
        bound: Mapping[_Key, socket.socket],
    ) -> None:
        """Make a staged set the real one; for ``Staged`` only."""
        for key in [key for key in self._doors if key not in wanted]:
            self._doors.pop(key).close()
        for key, config in wanted.items():
            door = self._doors.get(key)
            if door is None:
                sock = bound[key]
                udp = key[3] == "udp"
                door = PacketInbound(self._engine, config, sock) if udp else Inbound(self._engine, config, sock)
                self._doors[key] = door
                door.start()
                _log.info("%s listens on %s (%s)", config.name, Target(*door.address), key[3])
            else:
                door.configure(config)

    def close(self) -> None:
        """Give every port back."""
        for door in self._doors.values():
            door.close()
        self._doors.clear()

    def view(self) -> list[dict[str, object]]:
        """What is bound, for people: name, type, address, network."""
        return [
            {
                "name": door.config.name,
                "type": door.config.kind,
                "address": str(Target(*door.address)),
                "network": key[3],
            }
            for key, door in self._doors.items()
        ]


class Staged:
    """A change that is ready: either ``commit`` or ``abandon`` it."""

    def __init__(
        self,
        listeners: Listeners,
        wanted: Mapping[_Key, ListenerConfig],
        bound: Mapping[_Key, socket.socket],
    ) -> None:
        self._listeners = listeners
        self._wanted = wanted
        self._bound = bound

    @property
    def ports(self) -> frozenset[tuple[str, int]]:
        """(network, port) of every listener after the change."""
        real = {(key[3], sock.getsockname()[1]) for key, sock in self._bound.items()}
        return frozenset(real | {(key[3], key[2]) for key in self._wanted if key[2]})

    def commit(self) -> None:
        self._listeners.commit(self._wanted, self._bound)

    def abandon(self) -> None:
        for sock in self._bound.values():
            sock.close()


def _networks(config: ListenerConfig) -> tuple[str, ...]:
    if config.kind == "tunnel":
        return config.network
    return ("tcp", "udp") if config.kind == "tproxy" and config.udp else ("tcp",)


def _bind(config: ListenerConfig, network: str, keep_alive: KeepAlive) -> socket.socket | None:
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
        if config.kind == "tproxy":
            transparent.set_transparent(sock)
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
            if config.kind == "tproxy":
                transparent.receive_orig_dst(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _UDP_BUFFER)
            sock.bind((config.listen, config.port))
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
