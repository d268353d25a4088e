"""Listening UDP ports of a command: each client's datagrams go through a stream of its own to another device.

What comes before that stream is open waits, a little; what does not fit is dropped, as UDP does.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence

import trio

from cyfs_gateway.io.command.attached import Controller
from cyfs_gateway.io.command.forwarding import Say, told
from cyfs_gateway.io.command.piping import asked
from cyfs_gateway.remote import Remote
from cyfs_ns.errors import BadWire, Unreachable
from cyfs_ns.io.client import ApiFault
from rtcp.io.leg import Datagrams

_MOST_CLIENTS = 256
_MOST_WAITING = 16
_SILENCE = 60.0
_READ = 65536


async def forward_datagrams(controller: Controller, wanted: Sequence[tuple[tuple[str, int], Remote]], say: Say) -> None:
    """Listen for all of ``wanted`` until cancelled.  Raises ``OSError``."""
    async with trio.open_nursery() as nursery:
        for (host, port), remote in wanted:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            sock = trio.socket.socket(family, socket.SOCK_DGRAM)
            await sock.bind((host, port))
            told(say, sock.getsockname(), remote)
            nursery.start_soon(_Port(controller, sock, remote, say, nursery).serve)


class _Port:
    """One listening port."""

    def __init__(
        self,
        controller: Controller,
        sock: trio.socket.SocketType,
        remote: Remote,
        say: Say,
        nursery: trio.Nursery,
    ) -> None:
        self._controller, self._sock, self._remote, self._say = controller, sock, remote, say
        self._nursery = nursery
        self._clients: dict[tuple[object, ...], _Client] = {}

    async def serve(self) -> None:
        with self._sock:
            while True:
                data, address = await self._sock.recvfrom(_READ)
                client = self._clients.get(address)
                if client is None:
                    if len(self._clients) >= _MOST_CLIENTS:
                        continue
                    client = self._clients[address] = _Client()
                    self._nursery.start_soon(self._carry, client, address)
                client.send(data)

    async def _carry(self, client: _Client, address: tuple[object, ...]) -> None:
        try:
            stream = await self._controller.stream("cyfs", "streams", body=asked(self._remote, "udp"))
            way = Datagrams(stream)
            try:
                client.open(way)
                while (data := await client.receive()) is not None:
                    await self._sock.sendto(data, address)
            finally:
                way.close()
        except (Unreachable, ApiFault, BadWire) as fault:
            self._say({"to": str(self._remote), "fault": str(fault)}, f"{self._remote}: {fault}")
        except OSError:
            return  # the way is gone: the client's next datagram opens another
        finally:
            del self._clients[address]


class _Client:
    """Who sends from one address."""

    def __init__(self) -> None:
        self._waiting: list[bytes] = []
        self._way: Datagrams | None = None
        self._alarm = trio.CancelScope()

    def send(self, data: bytes) -> None:
        if self._way is None:
            if len(self._waiting) < _MOST_WAITING:
                self._waiting.append(data)
            return
        self._alarm.deadline = trio.current_time() + _SILENCE
        try:
            self._way.send(data)
        except OSError:
            self._alarm.cancel()

    def open(self, way: Datagrams) -> None:
        """What waited goes by ``way``, and what follows.  Raises ``OSError``."""
        self._way = way
        for data in self._waiting:
            way.send(data)
        self._waiting.clear()

    async def receive(self) -> bytes | None:
        """The next datagram for it; None after a long silence of both.  Raises ``OSError``."""
        assert self._way is not None
        while True:
            try:
                return self._way.recv()
            except BlockingIOError:
                pass
            with trio.CancelScope(deadline=trio.current_time() + _SILENCE) as self._alarm:
                await trio.lowlevel.wait_readable(self._way.fileno())
            if self._alarm.cancelled_caught:
                return None
