"""Punching on real sockets: carries out what a :class:`~rtcp.nat.punch.Punch` wants, and tells it what comes.

The UDP socket belongs to whoever carries traffic over it later, so that what was opened stays open; here it is anything
that sends with a TTL and receives (:class:`Datagrams`), and :class:`UdpSockets` makes one of plain sockets.  TCP
connections all leave from the one port that was offered, so a NAT maps them as it mapped the one that was observed.  A
listener has that port, too, for a peer whose SYN comes when none of ours is under way.

Of a connection exactly so many bytes are read as probes take, so it is handed over with the peer's first own byte next.
A send that fails is a packet that was lost: the machine expects no better.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Protocol

import trio

from rtcp.nat.candidates import Transport
from rtcp.nat.probe import PROBE_SIZE
from rtcp.nat.punch import CONNECTION_PROBES, Connect, Met, Punch, Send, Target, Verdict

Place = tuple[str, int]
OpenSocket = Callable[[int, int], Awaitable[socket.socket]]
_LARGEST = 2048
_MOST = 16
"""Connections at a time, and only from addresses of the peer's offer: strangers must not take its places."""
_TTL: dict[int, tuple[int, int]] = {
    socket.AF_INET: (socket.IPPROTO_IP, socket.IP_TTL),
    socket.AF_INET6: (socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT),
}
"""The control message with one datagram's TTL."""
_BREATH = 0.05
_LAST_PROBES = 2.0
"""Seconds a connection has, after the end, to bring the probes it still owes."""


class Datagrams(Protocol):
    """One attempt's share of a UDP socket."""

    async def send(self, data: bytes, to: Place, ttl: int | None) -> None:
        """A datagram; ``ttl`` None: the usual one.  Nothing is raised for what cannot be sent."""

    async def receive(self) -> tuple[bytes, Place]:
        """The next datagram, and where it came from."""


class UdpSockets:
    """Bound sockets of any families; :meth:`run` while they are used."""

    def __init__(self, *sockets: trio.socket.SocketType) -> None:
        self._sockets = {sock.family: sock for sock in sockets}
        self._in, self._out = trio.open_memory_channel[tuple[bytes, Place]](64)

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            for sock in self._sockets.values():
                nursery.start_soon(self._listen, sock)

    async def send(self, data: bytes, to: Place, ttl: int | None) -> None:
        family = _family(to[0])
        if (sock := self._sockets.get(family)) is None:
            return
        extra = [] if ttl is None else [(*_TTL[family], struct.pack("i", ttl))]
        with suppress(OSError):
            await sock.sendmsg([data], extra, 0, to)

    async def receive(self) -> tuple[bytes, Place]:
        return await self._out.receive()

    async def _listen(self, sock: trio.socket.SocketType) -> None:
        while True:
            try:
                data, source = await sock.recvfrom(_LARGEST)
            except ConnectionError:  # an ICMP error for something we sent
                continue
            with suppress(trio.WouldBlock):
                self._in.send_nowait((data, source[:2]))


@dataclass(frozen=True, slots=True)
class Outcome:
    """``streams``: the connections among the verdict's ways, each ready for the peer's first byte; the caller's.  One
    that broke off at the last moment is missing.
    """

    verdict: Verdict
    streams: dict[Target, trio.SocketStream] = field(default_factory=dict)


async def plain_socket(family: int, kind: int) -> socket.socket:
    """A socket as it comes."""
    return socket.socket(family, kind)


async def carry_out(
    machine: Punch,
    datagrams: Datagrams,
    *,
    tcp: Sequence[Place] = (),
    on_met: Callable[[Met], None] = lambda met: None,
    open_socket: OpenSocket = plain_socket,
) -> Outcome:
    """Punch until there is a verdict.

    The machine's times are of ``trio.current_time``.  ``tcp``: where connections leave from, an address and port of
    each family, as were offered; ``on_met`` hears of each way as soon as it works; ``open_socket`` makes sockets for
    connections, by family and kind.
    """
    return await _Attempt(machine, datagrams, tcp, on_met, open_socket).run()


@dataclass(slots=True, eq=False)
class _Connection:
    stream: trio.SocketStream
    whole: trio.Event = field(default_factory=trio.Event)
    """All probes that it will bring were read."""


class _Attempt:
    def __init__(
        self,
        machine: Punch,
        datagrams: Datagrams,
        tcp: Sequence[Place],
        on_met: Callable[[Met], None],
        open_socket: OpenSocket,
    ) -> None:
        self._machine, self._datagrams, self._on_met, self._open_socket = machine, datagrams, on_met, open_socket
        self._local = {_family(host): (host, port) for host, port in tcp}
        self._connections: dict[Target, _Connection] = {}
        self._turn = trio.Event()
        self._verdict: Verdict | None = None

    async def run(self) -> Outcome:
        kept: dict[Target, trio.SocketStream] = {}
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._listen)
                if hosts := {s.target.address for s in self._machine.plan.shots if s.target.transport is Transport.TCP}:
                    for local in self._local.values():
                        nursery.start_soon(self._accept, local, hosts)
                await self._until(lambda: self._verdict is not None, nursery)
                assert self._verdict is not None
                ways = [way.target for way in self._verdict.ways if way.target in self._connections]
                with trio.move_on_after(_LAST_PROBES):
                    await self._until(lambda: all(self._connections[way].whole.is_set() for way in ways), nursery)
                kept = {way: self._connections[way].stream for way in ways if self._connections[way].whole.is_set()}
                nursery.cancel_scope.cancel()
        finally:
            for target, connection in self._connections.items():
                if target not in kept:
                    connection.stream.socket.close()
        return Outcome(self._verdict, kept)

    async def _until(self, done: Callable[[], bool], nursery: trio.Nursery) -> None:
        """Let the machine work: the only place that sends, so that what it wants leaves in its order."""
        machine = self._machine
        while True:
            self._turn = trio.Event()
            machine.handle_timeout(trio.current_time())
            while (action := machine.next_action()) is not None:
                if isinstance(action, Connect):
                    nursery.start_soon(self._connect, action)
                else:
                    await self._send(action)
            while (event := machine.next_event()) is not None:
                if isinstance(event, Met):
                    self._on_met(event)
                else:
                    self._verdict = event
            if done():
                return
            due = machine.next_deadline()
            with trio.move_on_at(due if due is not None else float("inf")):
                await self._turn.wait()

    async def _send(self, action: Send) -> None:
        transport, host, port = action.target
        if transport is Transport.UDP:
            await self._datagrams.send(action.data, (host, port), action.ttl)
        elif (connection := self._connections.get(action.target)) is not None:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await connection.stream.send_all(action.data)

    async def _listen(self) -> None:
        while True:
            data, (host, port) = await self._datagrams.receive()
            source = (Transport.UDP, str(ip_address(host.partition("%")[0])), port)
            if self._machine.receive(data, source, trio.current_time()):
                self._turn.set()

    async def _accept(self, local: Place, hosts: set[str]) -> None:
        try:
            listener = await self._socket(local)
        except OSError:  # then nobody can connect from there either, and the machine hears of that
            return
        with listener:
            listener.listen(_MOST)
            async with trio.open_nursery() as nursery:
                while True:
                    try:
                        accepted, (host, port, *_) = await listener.accept()
                    except OSError:  # who broke off meanwhile; or no descriptor is free, which takes time
                        await trio.sleep(_BREATH)
                        continue
                    target = (Transport.TCP, str(ip_address(host.partition("%")[0])), port)
                    if target[1] not in hosts or target in self._connections or len(self._connections) >= _MOST:
                        accepted.close()
                    else:
                        nursery.start_soon(self._use, target, trio.SocketStream(accepted))

    async def _connect(self, connect: Connect) -> None:
        _, host, port = connect.target
        if (local := self._local.get(_family(host))) is None:
            return
        try:
            sock = await self._socket(local)
            try:
                await sock.connect((host, port))
            except BaseException:
                sock.close()
                raise
        except OSError:
            self._machine.refused(connect.target, trio.current_time())
            self._turn.set()
        else:
            await self._use(connect.target, trio.SocketStream(sock))

    async def _socket(self, local: Place) -> trio.socket.SocketType:
        """One more socket on a place that several share.  Raises ``OSError``."""
        sock = trio.socket.from_stdlib_socket(await self._open_socket(_family(local[0]), socket.SOCK_STREAM))
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            await sock.bind(local)
        except BaseException:
            sock.close()
            raise
        return sock

    async def _use(self, target: Target, stream: trio.SocketStream) -> None:
        connection = self._connections[target] = _Connection(stream)
        self._machine.connected(target, trio.current_time())
        self._turn.set()
        await self._read(target, connection)

    async def _read(self, target: Target, connection: _Connection) -> None:
        for _ in range(CONNECTION_PROBES):
            probe = b""
            while len(probe) < PROBE_SIZE:
                try:
                    more = await connection.stream.receive_some(PROBE_SIZE - len(probe))
                except trio.BrokenResourceError:
                    return
                if not more:
                    return
                probe += more
            if not self._machine.receive(probe, target, trio.current_time()):
                return
            self._turn.set()
        connection.whole.set()
        self._turn.set()


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
