"""What a tunnel and its streams run over: a *pipe*, any reliable byte stream that never blocks.

A TCP socket is one; so is TLS over one, a proxy's connection, a stream through another tunnel.  The rules are those of
endpoints one floor above (``tunnels/endpoint.py``), which all are pipes, and streams of ours are pipes in turn.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from typing import Protocol

import trio

from rtcp.party import Address

log = logging.getLogger("cyfs.rtcp")

DEFAULT_PORT = 2980

_BACKLOG = 1024
_WATCHED = ((socket.TCP_KEEPIDLE, 2), (socket.TCP_KEEPINTVL, 1), (socket.TCP_KEEPCNT, 2))
_ACCEPTS_PER_TURN = 32
_OUT_OF_DESCRIPTORS = 0.1  # seconds to wait for some to come back


class Pipe(Protocol):
    """One open byte stream.  Calls do what can be done now, or raise ``BlockingIOError``; faults are ``OSError``."""

    def fileno(self) -> int: ...
    def recv_into(self, buffer: memoryview, /) -> int: ...
    def send(self, data: bytes | memoryview, /) -> int: ...
    def pending(self) -> bool: ...
    def unsent(self) -> bool: ...
    def flush(self) -> None: ...
    def shutdown_write(self) -> None: ...
    def close(self) -> None: ...


class DatagramPipe(Protocol):
    """Datagrams both ways to one target, without waiting."""

    def fileno(self) -> int:
        """Readable when ``recv`` has something to do."""

    def recv(self) -> bytes:
        """The next datagram.  Raises ``BlockingIOError``, or another ``OSError`` when the way is gone."""

    def send(self, data: bytes | memoryview) -> None:
        """Send one datagram, or drop it.  Raises ``OSError`` when the way is gone."""

    def close(self) -> None: ...


class Reactor(Protocol):
    """What calls handlers when their descriptors are ready (``tunnels/io/reactor.py``), all in one task of trio's."""

    def watch(self, fd: int, events: int, handler: Callable[[int], None], /) -> None: ...
    def rewatch(self, fd: int, events: int, /) -> None: ...
    def forget(self, fd: int, /) -> None: ...
    def soon(self, callback: Callable[[], None], /) -> None: ...


class TcpPipe(socket.SocketType):
    """A TCP socket, as it is."""

    __slots__ = ()

    def pending(self) -> bool:
        return False

    def unsent(self) -> bool:
        return False

    def flush(self) -> None:
        """The kernel does that."""

    def shutdown_write(self) -> None:
        self.shutdown(socket.SHUT_WR)


def watch_over(pipe: Pipe) -> None:
    """Have the kernel find out within seconds that the way is gone, if ``pipe`` is a TCP connection.

    For one that may have nothing to say for long: a router that has forgotten it learns of it again, or is found out.
    """
    if isinstance(pipe, socket.SocketType) and pipe.family in (socket.AF_INET, socket.AF_INET6):
        pipe.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _WATCHED:
            pipe.setsockopt(socket.IPPROTO_TCP, option, value)


async def receive_some(pipe: Pipe, most: int) -> bytes:
    """The next bytes, at most ``most``; empty when the peer has finished.  Raises ``OSError``."""
    buffer = bytearray(most)
    while True:
        try:
            return bytes(buffer[: pipe.recv_into(memoryview(buffer))])
        except BlockingIOError:
            await trio.lowlevel.wait_readable(pipe.fileno())


async def send_all(pipe: Pipe, data: bytes) -> None:
    """Send everything, and see it out of the pipe's own buffers.  Raises ``OSError``."""
    rest = memoryview(data)
    while rest or pipe.unsent():
        try:
            if rest:
                rest = rest[pipe.send(rest) :]
            else:
                pipe.flush()
        except BlockingIOError:
            await trio.lowlevel.wait_writable(pipe.fileno())


def listen(port: int = DEFAULT_PORT, hosts: tuple[str, ...] = ("::", "0.0.0.0")) -> list[socket.socket]:
    """Listening sockets for ``hosts`` (IP texts), all on one port; 0 finds one.

    A family that this machine does not have is left out.  Raises ``OSError``.
    """
    sockets: list[socket.socket] = []
    try:
        for host in hosts:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            try:
                sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            except OSError:
                if host is hosts[-1] and not sockets:
                    raise
                continue
            sockets.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((host, port))
            sock.listen(_BACKLOG)
            port = port or sock.getsockname()[1]
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


async def accept(listener: socket.socket, take: Callable[[TcpPipe, Address], None]) -> None:
    """Hand every connection that arrives to ``take``, with the address it came from; until cancelled."""
    with listener:
        while True:
            await trio.lowlevel.wait_readable(listener)
            try:
                for _ in range(_ACCEPTS_PER_TURN):
                    sock, address = listener.accept()
                    sock.setblocking(False)
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    pipe = TcpPipe(sock.family, sock.type, sock.proto, sock.detach())
                    take(pipe, (str(address[0]), int(address[1])))
            except (BlockingIOError, ConnectionError):
                continue  # no more, or one that was gone before we looked
            except OSError as fault:
                log.warning("no connection can be accepted: %s", fault)
                await trio.sleep(_OUT_OF_DESCRIPTORS)
