"""Devices over loopback that know each other, and what may happen to them."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

from cyfs_ns.errors import Refused, Unreachable
from cyfs_ns.identity.did import Did, dev_did
from cyfs_ns.identity.keys import SecretKey
from rtcp.admission import Proven, Standing
from rtcp.io.device import Device, House, open_device
from rtcp.io.fifth import Version5
from rtcp.io.leg import LegPipe
from rtcp.io.pipe import Pipe, TcpPipe, listen
from rtcp.io.tunnel import StreamRequest
from rtcp.party import Address, Found, Local
from rtcp.v5.ledger import Room
from rtcp.v5.memory import VersionMemory
from tunnels.io.reactor import Reactor

HOST = "127.0.0.1"


async def connect(host: str, port: int) -> TcpPipe:
    """A plain TCP connection to an IP text."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = TcpPipe(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.connect_ex((host, port))
        await trio.lowlevel.wait_writable(sock)
        if error := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise Unreachable(os.strerror(error), "connect_refused")
    except BaseException:
        sock.close()
        raise
    return sock


async def send_all(pipe: Pipe, data: bytes) -> None:
    rest = memoryview(data)
    while rest or pipe.unsent():
        try:
            if rest:
                rest = rest[pipe.send(rest) :]
            else:
                pipe.flush()
        except BlockingIOError:
            await trio.lowlevel.wait_writable(pipe.fileno())
    await trio.lowlevel.checkpoint()


async def receive(pipe: Pipe, size: int = 65536) -> bytes:
    """Some bytes; empty at the end."""
    buffer = memoryview(bytearray(size))
    while True:
        await trio.lowlevel.checkpoint()
        try:
            return bytes(buffer[: pipe.recv_into(buffer)])
        except BlockingIOError:
            await trio.lowlevel.wait_readable(pipe.fileno())


async def receive_exactly(pipe: Pipe, size: int) -> bytes:
    got = b""
    while len(got) < size:
        piece = await receive(pipe, size - len(got))
        assert piece, f"ended after {len(got)} of {size} bytes"
        got += piece
    return got


async def echo(request: StreamRequest) -> None:
    """Accepts whatever is asked for and sends back what comes, until the end."""
    leg = await request.accept()
    try:
        while data := await receive(leg):
            await send_all(leg, data)
        leg.shutdown_write()
        await send_all(leg, b"")
    except OSError:
        pass
    finally:
        leg.close()


class FarEnd(trio.abc.HalfCloseableStream):
    """``pipe`` as a stream of trio's, which it takes over."""

    def __init__(self, pipe: Pipe) -> None:
        self.pipe = pipe

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        try:
            await send_all(self.pipe, bytes(data))
        except OSError as fault:
            raise trio.BrokenResourceError from fault

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.wait_writable(self.pipe.fileno())

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        try:
            return await receive(self.pipe, max_bytes or 65536)
        except OSError as fault:
            raise trio.BrokenResourceError from fault

    async def send_eof(self) -> None:
        self.pipe.shutdown_write()
        await send_all(self.pipe, b"")

    async def aclose(self) -> None:
        self.pipe.close()
        await trio.lowlevel.checkpoint()


def descriptors() -> int:
    """How many are open.  Fewer than before: garbage of an earlier test was collected meanwhile."""
    return len(os.listdir("/proc/self/fd"))


@dataclass
class Town:
    """Who lives where: the resolver of all devices in it."""

    people: dict[Did, Found] = field(default_factory=dict)
    asked: list[Did] = field(default_factory=list)
    ports: list[int | None] = field(default_factory=list)
    dial: Callable[[str, int], Awaitable[Pipe]] = connect
    versions: frozenset[int] = frozenset({4})
    """What its devices speak, unless one says otherwise."""

    async def find(self, did: Did, port: int | None) -> Found:
        self.asked.append(did)
        self.ports.append(port)
        found = self.people.get(did.canonical)
        if found is None:
            raise Unreachable(f"nobody knows {did}", "pre_connect_dns")
        return found

    async def vouch(self, proven: Proven) -> Standing:
        found = self.people.get(proven.named.canonical)
        return Standing(key=None if found is None else found.key, about=None if found is None else found.about)

    def settle(self, key: SecretKey, *addresses: Address, did: Did | None = None, about: object = None) -> Did:
        """``key`` lives at ``addresses`` from now on."""
        name = did or dev_did(key.public)
        self.people[name] = Found(key.public, addresses, about)
        return name

    @asynccontextmanager
    async def live(
        self,
        key: SecretKey,
        *,
        hosts: tuple[str, ...] = (HOST,),
        did: Did | None = None,
        doc: str | None = None,
        serve: Callable[[StreamRequest], Awaitable[None]] = echo,
        welcome: Callable[[Any], Awaitable[None]] | None = None,
        port: int = 0,
        versions: frozenset[int] | None = None,
        memory: VersionMemory | None = None,
        remember: Callable[[bytes], Awaitable[None]] | None = None,
        room: Room | None = None,
        **more: Any,
    ) -> AsyncIterator[Device]:
        """A device with ``key``; with ``hosts`` it listens there, and others find it."""
        sockets = listen(port, hosts) if hosts else []
        where = [(sock.getsockname()[0], sock.getsockname()[1]) for sock in sockets]
        name = did or dev_did(key.public)
        also = frozenset() if did is None else frozenset({did})
        if where:
            self.settle(key, *where)
            if did is not None:
                self.settle(key, *where, did=did)
        local = Local(
            key=key,
            did=name if doc else dev_did(key.public),
            also=also,
            device_doc_jwt=doc,
            listen_port=where[0][1] if where else 0,
        )
        house = House(
            find=self.find,
            dial=self.dial,
            vouch=more.pop("vouch", self.vouch),
            serve=serve,
            calls_loopback=more.pop("calls_loopback", True),
            **({} if welcome is None else {"welcome": welcome}),
            **{name: more.pop(name) for name in ("expects", "recall") if name in more},
        )
        versions = self.versions if versions is None else versions
        if 5 not in versions:
            async with open_device(local, house, sockets, **more) as device:
                yield device
            return
        reactor = Reactor()
        async with trio.open_nursery() as nursery:
            await nursery.start(reactor.run)
            fifth = Version5(
                reactor=reactor,
                versions=versions,
                memory=memory or VersionMemory(),
                room=room or Room(),
                **({} if remember is None else {"remember": remember}),
            )
            try:
                async with open_device(local, house, sockets, version_5=fifth, **more) as device:
                    yield device
            finally:
                nursery.cancel_scope.cancel()
                reactor.close()


def reject(why: str) -> Callable[[Any], Awaitable[None]]:
    async def rule(_: Any) -> None:
        raise Refused(why)

    return rule


async def until(true: Callable[[], object], seconds: float = 60) -> None:
    """Wait for a condition."""
    with trio.fail_after(seconds):
        while not true():  # noqa: ASYNC110
            await trio.sleep(0.005)


async def talk(leg: LegPipe, text: bytes = b"hello") -> None:
    """An echo answers."""
    with trio.fail_after(60):
        await send_all(leg, text)
        assert await receive_exactly(leg, len(text)) == text


class Middle:
    """The road to ``port``: TCP goes through it until it is ``frozen``, when it swallows all and closes nothing."""

    def __init__(self, port: int) -> None:
        self.to = port
        self.port = 0
        self.frozen = False
        self.delay = 0.0
        """Seconds that all takes, each way."""
        self.said: list[bytearray] = []
        """What each connection carried towards ``port``."""
        self.flip, self.backwards = -1, False
        """Which byte of the first connection is spoilt, and whether on the way back."""
        self.watched: bytearray | None = None
        self.carried: list[_Carried] = []
        """All connections there ever were, in their order."""
        self._scope = trio.CancelScope()

    async def run(self, *, task_status: trio.TaskStatus[Middle]) -> None:
        with self._scope:
            async with trio.open_nursery() as nursery:
                listeners = await trio.open_tcp_listeners(0, host=HOST)
                self.port = listeners[0].socket.getsockname()[1]
                task_status.started(self)
                await trio.serve_listeners(self._carry, listeners, handler_nursery=nursery)

    def cut(self) -> None:
        """All connections end, and no more are taken."""
        self._scope.cancel()

    @property
    def standing(self) -> list[_Carried]:
        """The connections that neither end has closed."""
        return [one for one in self.carried if not one.is_over]

    def snap(self, *which: _Carried) -> None:
        """These connections end, or all that there are; others may come."""
        for one in which or self.standing:
            one.scope.cancel()

    def stall(self, *ways: str) -> None:
        """What the connections there are carry ``there``, or ``back``, or both, is lost; others may come."""
        for one in self.standing:
            one.lost |= set(ways or ("there", "back"))

    async def _carry(self, near: trio.SocketStream) -> None:
        try:
            far = await trio.open_tcp_stream(HOST, self.to)
        except OSError:
            await near.aclose()
            return
        heard = bytearray()
        self.said.append(heard)
        one = _Carried()
        self.carried.append(one)
        with one.scope:
            async with near, far, trio.open_nursery() as nursery:
                answer = bytearray()
                if self.watched is None:
                    self.watched = answer if self.backwards else heard
                nursery.start_soon(self._pump, near, far, heard, one, "there")
                nursery.start_soon(self._pump, far, near, answer, one, "back")
        one.is_over = True

    async def _pump(
        self, source: trio.SocketStream, sink: trio.SocketStream, heard: bytearray, one: _Carried, way: str
    ) -> None:
        try:
            async for data in source:
                if self.frozen or way in one.lost:
                    continue
                at = self.flip - len(heard)
                if heard is self.watched and 0 <= at < len(data):
                    data = _spoilt(data, at)
                if way in one.spoil:
                    one.spoil.remove(way)
                    data = _spoilt(data, len(data) // 2)
                heard += data
                if self.delay:
                    await trio.sleep(self.delay)
                await sink.send_all(data)
            if not self.frozen and way not in one.lost:
                await sink.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass


@dataclass(eq=False)
class _Carried:
    """One connection on a road: which ways are ``lost``, and on which the next piece is spoilt."""

    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    lost: set[str] = field(default_factory=set)
    spoil: set[str] = field(default_factory=set)
    is_over: bool = False


def _spoilt(data: bytes | bytearray, at: int) -> bytes:
    return bytes(data[:at]) + bytes((data[at] ^ 1,)) + bytes(data[at + 1 :])


class Reluctant:
    """A pipe that takes and gives a byte or two at a time, and says ``BlockingIOError`` after each."""

    def __init__(self, inner: Pipe) -> None:
        self._inner = inner
        self._tired = {"recv_into": False, "send": False}
        self.fileno, self.close, self.shutdown_write = inner.fileno, inner.close, inner.shutdown_write

    def _rest(self, what: str) -> None:
        self._tired[what] = not self._tired[what]
        if not self._tired[what]:
            raise BlockingIOError

    def recv_into(self, buffer: memoryview) -> int:
        self._rest("recv_into")
        return self._inner.recv_into(buffer[:7])

    def send(self, data: bytes | memoryview) -> int:
        self._rest("send")
        return self._inner.send(memoryview(data)[:5])

    def pending(self) -> bool:
        return False

    def unsent(self) -> bool:
        return False

    def flush(self) -> None: ...
