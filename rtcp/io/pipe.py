"""Pipes in the world: TCP connections, how they are taken and made sure of, and how a trio task waits for any pipe.

Relays never wait here.  One task at a time may wait for each direction of a pipe, and nobody may close it under a
waiting task; where that can happen, ``tunnels.io.stream.EndpointStream`` wakes the waiter first.
"""

from __future__ import annotations

import logging
import math
import os
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol, TypeAlias, TypeGuard

import trio

from cyfs_ns.errors import CyfsError
from rtcp.party import Address
from rtcp.pipe import Pipe as Pipe

log = logging.getLogger("cyfs.rtcp")

DEFAULT_PORT = 2980

_BACKLOG = 1024
_WATCHED = ((socket.TCP_KEEPIDLE, 2), (socket.TCP_KEEPINTVL, 1), (socket.TCP_KEEPCNT, 2))  # s, s, how often
_ACCEPTS_PER_TURN = 32
_MOST_AT_ONCE, _FOR_NOTHING = 65536, 16384
_ELBOW_SECONDS = 0.01
_RESET = struct.pack("ii", 1, 0)
_OUT_OF_DESCRIPTORS = 0.1  # seconds to wait for some to come back


class DatagramPipe(Protocol):
    """Datagrams both ways to one target, without waiting."""

    def fileno(self) -> int:
        """Readable when ``recv`` has something to do."""

    def recv(self) -> bytes:
        """The next datagram.  Raises ``BlockingIOError``, or another ``OSError`` when the way is gone."""

    def send(self, data: bytes | memoryview) -> None:
        """Send one datagram, or drop it.  Raises ``OSError`` when the way is gone."""

    def close(self) -> None: ...


Answered: TypeAlias = Callable[[Pipe | CyfsError | None], None]
"""Hears from the reactor, once, what became of a request: the stream, why there is none, or None when it has to be made
again by a task, since there is something to wait for."""
Denied: TypeAlias = Callable[[CyfsError], None]
"""Hears, once, of a no to a stream that is used already, before that breaks.  Its reader may have gone meanwhile."""
GiveUp: TypeAlias = Callable[[], None]
"""The answer is not wanted any more, and nobody hears of it.  Harmless afterwards."""


class Reactor(Protocol):
    """What calls handlers when their descriptors are ready (``tunnels/io/reactor.py``), all in one task of trio's."""

    def watch(self, fd: int, events: int, handler: Callable[[int], None], /) -> None: ...
    def rewatch(self, fd: int, events: int, /) -> None: ...
    def forget(self, fd: int, /) -> None: ...
    def soon(self, callback: Callable[[], None], /) -> None: ...
    def prompt(self, fd: int, events: int, /) -> None: ...


class TcpPipe(socket.SocketType):
    """A TCP socket as a pipe.  It *is* the raw socket, so a relay can hand it straight to the kernel.

    Built on the C type: the convenience of ``socket.socket`` costs microseconds that every connection would pay.
    """

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
    if _is_tcp(pipe):
        pipe.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _WATCHED:
            pipe.setsockopt(socket.IPPROTO_TCP, option, value)


def watch_no_more(pipe: Pipe) -> None:
    """Have the kernel send nothing of its own, if ``pipe`` is a TCP connection: its user looks after it by itself."""
    if _is_tcp(pipe):
        pipe.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 0)


def _is_tcp(pipe: Pipe) -> TypeGuard[socket.SocketType]:
    return isinstance(pipe, socket.SocketType) and pipe.family in (socket.AF_INET, socket.AF_INET6)


# What some pipes can do beside the rest.  They are asked for it by name: to ask for a protocol costs a hundred times as
# much, and each visitor of an SN would pay it.


def break_off(end: Pipe) -> None:
    """Called before ``end.close()``: its peer is not to take what it got for all there was.

    Where its end would look like any other, a pipe has ``break_off()`` itself.  TLS has none: a cut stream lacks its
    last word.
    """
    if isinstance(end, socket.SocketType):
        with suppress(OSError):  # it is closed already
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        return
    breaks: Callable[[], None] | None = getattr(end, "break_off", None)
    if breaks is not None:
        breaks()


def check_fault(end: Pipe) -> None:
    """Raises the ``OSError`` that ended it, unless the peer had finished sending and all of it can be read.

    The descriptor of a pipe that shares its connection with others cannot tell that, so it has ``check()``.
    """
    if isinstance(end, socket.SocketType):
        if code := end.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(code, os.strerror(code))
        return
    check: Callable[[], None] | None = getattr(end, "check", None)
    if check is not None:
        check()


def carries_sealed(pipe: Pipe) -> None:
    """Whoever uses ``pipe`` from here on has sealed all of it for the far end: a pipe that seals can do without."""
    hear: Callable[[], None] | None = getattr(pipe, "carries_sealed", None)
    if hear is not None:
        hear()


async def receive_some(pipe: Pipe, most: int = _MOST_AT_ONCE) -> bytes:
    """The next bytes, at most ``most``; empty when the peer has finished.  Raises ``OSError``."""
    await trio.lowlevel.checkpoint()
    while True:
        try:
            # A buffer for the moment of reading only: thousands may be waiting here.
            buffer = bytearray(most)
            return bytes(memoryview(buffer)[: pipe.recv_into(memoryview(buffer))])
        except BlockingIOError:
            del buffer
            await _wait_readable(pipe)


async def _wait_readable(pipe: Pipe) -> None:
    """Wait for input, pushing out meanwhile what the pipe still owes: the peer may be waiting for it."""
    if not pipe.unsent():
        await trio.lowlevel.wait_readable(pipe.fileno())
        return
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_push, pipe)
        await trio.lowlevel.wait_readable(pipe.fileno())
        nursery.cancel_scope.cancel()


async def _push(pipe: Pipe) -> None:
    # A fault of the wire is for those who read and write to find; whoever sends pushes this out as well.
    with suppress(OSError, trio.BusyResourceError):
        while pipe.unsent():
            try:
                pipe.flush()
            except BlockingIOError:
                await trio.lowlevel.wait_writable(pipe.fileno())


async def send_all(pipe: Pipe, data: bytes | memoryview) -> None:
    """Send everything and see it out of the pipe's own buffers.  Raises ``OSError``."""
    await trio.lowlevel.checkpoint()
    rest = memoryview(data)
    while rest or pipe.unsent():
        try:
            if rest:
                rest = rest[pipe.send(rest) :]
            else:
                pipe.flush()
        except BlockingIOError:
            try:
                await trio.lowlevel.wait_writable(pipe.fileno())
            except trio.BusyResourceError:
                await trio.sleep(_ELBOW_SECONDS)  # a reader pushes out the little that TLS had to say


async def hear_out(pipe: Pipe, patience: float = math.inf) -> None:
    """Say that we have finished, and read for nothing until the peer has, too, or is silent for ``patience`` seconds:
    closing upon bytes that nobody read would call back what was said.  Raises ``OSError``.
    """
    pipe.shutdown_write()
    with trio.move_on_after(patience) as waiting:
        while await receive_some(pipe, _FOR_NOTHING):
            waiting.deadline = trio.current_time() + patience


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
