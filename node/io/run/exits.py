"""The ways out of a container: what listens at its loopback, and is served outside.

As a container's ports are joined connection by connection, so are these: the sockets are made inside its network, and
belong to the daemon.  So there is no interface, address or rule of a firewall, nothing is left when everything is
killed, and a daemon that comes later makes them anew.

| at 127.0.0.1 | is |
|---|---|
| ``CALLS`` | kRPC of this node; who calls is what its token proves, as at any door of this machine |
| ``PROXY`` | the gateway as a proxy (SOCKS and HTTP), from behind its fence; rules know it as ``service:NAME`` |
| ``NAMES`` | the gateway's name server, by UDP and TCP |

A container that listens there itself, or has a port of that number on its page, keeps it.
"""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import trio

from node.io.run.doors import BACKLOG, Joints, connected, sockets_within
from node.run.container import CALLS, NAMES, PROXY
from tunnels.io.reactor import Reactor
from tunnels.io.waiting import TcpEndpoint
from zone.io.krpc.whence import named

_HERE: Final = "127.0.0.1"
_STREAMS: Final = tuple((port, socket.SOCK_STREAM) for port in (CALLS, PROXY, NAMES))
_ALL: Final = (*_STREAMS, (NAMES, socket.SOCK_DGRAM))

_log = logging.getLogger("cyfs.node")


class Fenced(Protocol):
    """What a gateway is for containers (``cyfs_gateway.host.Host``)."""

    async def serve_fenced(self, name: str, door: socket.socket) -> None: ...

    async def serve_questions(self, door: socket.socket, datagrams: socket.socket) -> None: ...


@dataclass(frozen=True, slots=True)
class Outside:
    """What containers of a node may reach."""

    gateway: Fenced
    calls: Path
    """The unix socket of kRPC."""


class Exits:
    """The ways out of the container of one service."""

    def __init__(
        self, service: str, outside: Outside, reactor: Reactor, network: int, taken: Collection[int] = ()
    ) -> None:
        """``network`` is the container's, opened; ``taken`` are its own ports.  Raises ``OSError``."""
        self._service, self._outside = service, outside
        self._scope = trio.CancelScope()
        made: dict[tuple[int, socket.SocketKind], socket.socket] = {}
        try:
            for port, kind in _ALL:
                if port not in taken and (sock := _made(network, port, kind)) is not None:
                    made[port, kind] = sock
        except OSError:
            for sock in made.values():
                sock.close()
            raise
        calls = made.pop((CALLS, socket.SOCK_STREAM), None)
        self._calls = Joints(reactor, [] if calls is None else [(calls, self._call)])
        self._sockets = made

    async def serve(self) -> None:
        """Until :meth:`close`, or cancelled."""
        gateway, sockets = self._outside.gateway, self._sockets
        proxy = sockets.get((PROXY, socket.SOCK_STREAM))
        names, datagrams = (sockets.get((NAMES, kind)) for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM))
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._calls.serve)
                    if proxy is not None:
                        nursery.start_soon(gateway.serve_fenced, f"service:{self._service}", proxy)
                    if names is not None and datagrams is not None:
                        nursery.start_soon(gateway.serve_questions, names, datagrams)
        finally:
            for each in sockets.values():
                each.close()

    def close(self) -> None:
        """Shut them, and cut what goes through them."""
        self._scope.cancel()
        self._calls.close()

    async def _call(self) -> TcpEndpoint:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.bind(named(f"service:{self._service}"))
        return await connected(sock, str(self._outside.calls))


def _made(network: int, port: int, kind: socket.SocketKind) -> socket.socket | None:
    """A socket inside at ``port``; None where the container was there before us.  Raises ``OSError``."""
    (made,) = sockets_within(network, kind)
    try:
        if kind is socket.SOCK_STREAM:
            # Connections of an earlier daemon linger there.
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((_HERE, port))
        if kind is socket.SOCK_STREAM:
            made.listen(BACKLOG)
    except OSError as fault:
        made.close()
        if fault.errno != errno.EADDRINUSE:
            raise
        _log.info("a container listens at port %s itself, so nothing of ours is there", port)
        return None
    return made
