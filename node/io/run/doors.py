"""The ports of containers: a door on this machine for each, whose connections go on inside the container's network.

A socket belongs to the network in which it was made, wherever it is used after that.  So a connection is taken here,
another is made by a thread that has entered the container's network, and the reactor joins the two.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final

import trio

from rtcp.io.pipe import break_off
from tunnels.io.reactor import Reactor
from tunnels.io.relay import Relay
from tunnels.io.waiting import TcpEndpoint

MOST_CONNECTIONS: Final = 1024
"""Of one service at a time; who comes then waits in the queue of the kernel."""
_IDLE: Final = 3600.0
"""Seconds of silence after which a connection is given up."""
_PATIENCE: Final = 10.0
"""Seconds for the service to take a connection."""
_PAUSE: Final = 0.1
BACKLOG: Final = 512
_NEWNET: Final = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


Reach = Callable[[], Awaitable[TcpEndpoint]]
"""A connection to where another goes on.  Raises ``OSError`` or ``trio.TooSlowError``."""


class Joints:
    """Sockets that listen, and where their connections go on."""

    def __init__(self, reactor: Reactor, doors: Sequence[tuple[socket.socket, Reach]]) -> None:
        self._reactor = reactor
        self._doors = doors
        self._relays: set[Relay] = set()
        self._room = trio.Semaphore(MOST_CONNECTIONS)
        self._scope = trio.CancelScope()
        for door, _ in doors:
            door.setblocking(False)

    async def serve(self) -> None:
        """Let them in until :meth:`close`, or cancelled."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    for door, reach in self._doors:
                        nursery.start_soon(self._let_in, door, reach, nursery)
        finally:
            self._shut()

    def close(self) -> None:
        """Shut them, and cut what goes through them; the ports are free at once."""
        self._scope.cancel()
        self._shut()

    def _shut(self) -> None:
        for door, _ in self._doors:
            if door.fileno() >= 0:
                trio.lowlevel.notify_closing(door)
                door.close()
        for relay in tuple(self._relays):
            relay.close("the service ended")

    async def _let_in(self, door: socket.socket, reach: Reach, nursery: trio.Nursery) -> None:
        while True:
            await self._room.acquire()
            try:
                await trio.lowlevel.wait_readable(door)
                plain, _ = door.accept()
            except trio.ClosedResourceError:
                self._room.release()
                return
            except OSError as fault:
                self._room.release()
                if not isinstance(fault, BlockingIOError):
                    await trio.sleep(_PAUSE)  # nothing to take it with: descriptors, memory
            except trio.Cancelled:
                self._room.release()
                raise
            else:
                near = TcpEndpoint(int(plain.family), int(plain.type), 0, plain.detach())
                nursery.start_soon(self._join, near, reach)

    async def _join(self, near: TcpEndpoint, reach: Reach) -> None:
        try:
            near.setblocking(False)
            far = await reach()
        except (OSError, trio.TooSlowError):
            break_off(near)  # it gets nothing, which is no answer of nothing
            near.close()
            self._room.release()
            return
        except BaseException:
            near.close()
            self._room.release()
            raise
        for each in (near, far):
            if each.family != socket.AF_UNIX:
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reactor.freshen()
        relay = Relay(self._reactor, near, far, idle=_IDLE, on_close=self._ended)
        if not relay.closed:
            self._relays.add(relay)

    def _ended(self, relay: Relay, _why: str) -> None:
        self._relays.discard(relay)
        self._room.release()


class Doors(Joints):
    """The doors of one service."""

    def __init__(
        self, reactor: Reactor, ports: Mapping[int, int], network: Callable[[], int], host: str = "127.0.0.1"
    ) -> None:
        """``ports``: number at ``host``, and in the container; raises ``OSError`` where one is taken.

        ``network`` opens the container's network, as ``/proc/PID/ns/net`` is opened, or raises ``OSError``.
        """
        self.ports = dict(ports)
        doors: list[tuple[socket.socket, Reach]] = []
        try:
            for outside, inside in ports.items():
                door = socket.create_server((host, outside), backlog=BACKLOG)
                doors.append((door, partial(_reach, network, inside)))
        except OSError:
            for door, _ in doors:
                door.close()
            raise
        super().__init__(reactor, doors)


async def _reach(network: Callable[[], int], inside: int) -> TcpEndpoint:
    """A connection to the service; raises ``OSError`` or ``trio.TooSlowError``."""
    opened = network()
    try:
        (plain,) = sockets_within(opened, socket.SOCK_STREAM)
    finally:
        os.close(opened)
    return await connected(plain, ("127.0.0.1", inside))


async def connected(plain: socket.socket, address: object) -> TcpEndpoint:
    """``plain``, once it is connected; raises ``OSError`` or ``trio.TooSlowError``."""
    far = trio.socket.from_stdlib_socket(plain)
    try:
        with trio.fail_after(_PATIENCE):
            await far.connect(address)
    except BaseException:
        far.close()
        raise
    made = TcpEndpoint(int(far.family), int(far.type), 0, far.detach())
    made.setblocking(False)
    return made


def sockets_within(network: int, *kinds: socket.SocketKind) -> list[socket.socket]:
    """Sockets of IPv4 in ``network``, one of each kind that is said; raises ``OSError``.

    The thread that enters it never comes back, it ends: there is no way for another to find itself in there.
    """
    made: list[socket.socket] = []
    faults: list[OSError] = []

    def enter() -> None:
        if _libc.setns(network, _NEWNET) != 0:
            faults.append(OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno())))
            return
        try:
            made.extend(socket.socket(socket.AF_INET, kind) for kind in kinds)
        except OSError as fault:
            faults.append(fault)

    thread = threading.Thread(target=enter, name="container network")
    try:
        thread.start()
    except RuntimeError as fault:  # the machine has no threads left
        raise OSError(errno.EAGAIN, str(fault)) from None
    thread.join()
    if faults:
        for each in made:
            each.close()
        raise faults[0]
    return made
