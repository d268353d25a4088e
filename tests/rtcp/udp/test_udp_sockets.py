"""Pipes over UDP on real sockets: the exam of all pipes, losses, strangers on the port, roaming."""

from __future__ import annotations

import errno
import gc
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from cyfs_ns.errors import Unreachable
from rtcp.io.pipe import receive_some, send_all
from rtcp.io.udp.endpoint import UdpEndpoint
from rtcp.io.udp.pipe import UdpPipe
from rtcp.io.udp.sockets import TrainSocket, open_sockets
from rtcp.party import Address
from rtcp.udp import wire
from rtcp.udp.connection import Stage
from tests.rtcp.udp.strait import KEY
from tests.tunnels.exam import check_endpoint
from tunnels.io.reactor import Reactor
from tunnels.io.stream import EndpointStream

HOSTS = pytest.mark.parametrize("host", ["127.0.0.1", "::1"])


class Pair:
    """Two endpoints; the one calls, the other is called."""

    def __init__(self, reactor: Reactor, nursery: trio.Nursery, host: str) -> None:
        self.reactor, self.nursery = reactor, nursery
        self.send, self.called = trio.open_memory_channel[tuple[UdpPipe, Address]](100)
        self.strangers: list[bytes] = []
        self.made: list[UdpPipe] = []
        self.here = UdpEndpoint(self.sockets(host), reactor)
        self.there = UdpEndpoint(
            self.sockets(host),
            reactor,
            devices=[bytes(32), KEY],
            take=lambda pipe, source: self.send.send_nowait((pipe, source)),
            on_stranger=lambda datagram, source: self.strangers.append(datagram),
        )
        self.address = self.there.addresses[0]

    def sockets(self, host: str) -> list[TrainSocket]:
        return open_sockets(0, (host,))

    async def pipes(self) -> tuple[UdpPipe, UdpPipe]:
        ours = await self.here.connect(self.address, KEY)
        await send_all(ours, b"!")
        theirs, _ = await self.called.receive()
        self.made += ours, theirs
        assert await receive_some(theirs, 1) == b"!"
        return ours, theirs


@asynccontextmanager
async def pair(host: str = "127.0.0.1", kind: type[Pair] = Pair) -> AsyncIterator[Pair]:
    reactor = Reactor()
    async with trio.open_nursery() as nursery:
        await nursery.start(reactor.run)
        made = kind(reactor, nursery, host)
        await nursery.start(made.here.run)
        await nursery.start(made.there.run)
        try:
            yield made
        finally:
            for pipe in made.made:
                pipe.close()
            made.here.close()
            made.there.close()
            nursery.cancel_scope.cancel()
    reactor.close()


@HOSTS
async def test_it_is_a_pipe_like_all_others(host):
    async with pair(host) as two:

        async def make_pair():
            ours, theirs = await two.pipes()
            return ours, EndpointStream(theirs)

        await check_endpoint(make_pair)


class Losing(TrainSocket):
    """Loses 3 datagrams of 100, and cuts trains itself to do so."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self._die = random.Random(5)

    def send(self, train, segment, to):
        kept = [train[at : at + segment] for at in range(0, len(train), segment) if self._die.random() >= 0.03]
        if kept:
            super().send(memoryview(b"".join(kept)), segment, to)


class LosingPair(Pair):
    def sockets(self, host):
        return [Losing(host, 0)]


async def test_50_megabytes_with_losses_both_ways():
    block = random.Random(9).randbytes(1 << 20)
    async with pair(kind=LosingPair) as two:
        with trio.fail_after(60):
            ours, theirs = await two.pipes()
            got = bytearray()

            async def listen() -> None:
                while data := await receive_some(theirs):
                    got.extend(data)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(listen)
                for _ in range(50):
                    await send_all(ours, block)
                ours.shutdown_write()
        assert len(got) == 50 << 20
        assert all(got[at : at + len(block)] == block for at in range(0, len(got), len(block)))


class Clogging(TrainSocket):
    """Takes nothing every third time."""

    calls = 0

    def send(self, train, segment, to):
        self.calls += 1
        if self.calls % 3 == 0:
            raise BlockingIOError
        super().send(train, segment, to)


class ClogPair(Pair):
    def sockets(self, host):
        return [Clogging(host, 0)]


class Uncut:
    """The socket of a network card that cannot cut trains."""

    def __init__(self, inner: socket.socket) -> None:
        self._inner = inner
        self.refused = 0

    def __getattr__(self, name: str):
        return getattr(self._inner, name)

    def sendmsg(self, *_):
        self.refused += 1
        raise OSError(errno.EIO, "no checksums, no segments")


class UncutPair(Pair):
    def sockets(self, host):
        made = open_sockets(0, (host,))
        for sock in made:
            sock._socket = Uncut(sock._socket)
        return made


@pytest.mark.parametrize("kind", [ClogPair, UncutPair])
async def test_a_socket_with_troubles_only_costs_time(kind):
    block = random.Random(9).randbytes(1 << 20)
    async with pair(kind=kind) as two:
        with trio.fail_after(60):
            ours, theirs = await two.pipes()
            got = bytearray()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send_all, ours, block)
                while len(got) < len(block):
                    got += await receive_some(theirs)
        assert got == block
        for sock in two.here._sockets.values():
            assert sock.calls > 10 if kind is ClogPair else sock._socket.refused == 1


def test_both_families_have_one_port():
    sockets = open_sockets()
    try:
        assert {sock.family for sock in sockets} == {socket.AF_INET, socket.AF_INET6}
        assert len({sock.address[1] for sock in sockets}) == 1
    finally:
        for sock in sockets:
            sock.close()


async def until(condition) -> None:
    with trio.fail_after(60):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await trio.sleep(0.001)


async def test_what_is_not_ours_is_for_others_and_shares_the_port():
    async with pair() as two:
        stun = bytes.fromhex("000100002112a442") + bytes(12)
        two.here.send(stun, two.address)
        two.here.send(b"\x0a probe", two.address)
        two.here.send(bytes((wire.SEALED,)) + b"too short to be anything", two.address)
        await until(lambda: len(two.strangers) == 2)
        assert two.strangers == [stun, b"\x0a probe"]
        ours, _ = await two.pipes()
        assert ours.address == two.address


async def test_whoever_fails_on_a_datagram_does_not_take_the_port_away(caplog):
    def fail(datagram: bytes, source: Address) -> None:
        raise ZeroDivisionError

    async with pair() as two:
        two.there.on_stranger = fail
        two.here.send(b"stranger", two.address)
        await until(lambda: caplog.records)
        await two.pipes()
        assert [one.exc_info[0] for one in caplog.records if one.exc_info] == [ZeroDivisionError]


async def test_who_does_not_know_the_device_gets_no_byte():
    heard: list[bytes] = []
    async with pair() as two:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.connect(two.address)
            sock.send(wire.write_opening(b"t" * 8, b"p" * 32, wire.door_key(b"?" * 32)))
            sock.send(wire.write_opening(b"t" * 8, b"p" * 32, wire.door_key(KEY)))
            await until(lambda: heard.append(sock.recv(100)) is None if _is_readable(sock) else False)
            assert [len(answer) for answer in heard] == [wire.PREFIX], "one answer, to the second"
            assert not _is_readable(sock)
        assert two.there.pipes == []


def _is_readable(sock: socket.socket) -> bool:
    try:
        return bool(sock.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False


async def test_nobody_there_is_unreachable_and_leaves_nothing(autojump_clock):
    async with pair() as two:
        before = descriptors()
        with pytest.raises(Unreachable) as silent:
            await two.here.connect(two.address, b"?" * 32)
        assert silent.value.reason == "connect_timeout"
        with trio.move_on_after(0.01):
            await two.here.connect(two.address, b"?" * 32)
        with pytest.raises(Unreachable) as without:
            await two.here.connect(("::1", 9), KEY)
        assert without.value.reason == "pre_connect_route"
        assert descriptors() <= before and not two.here._calls and not two.here.pipes


def descriptors() -> int:
    gc.collect()  # what other tests left to it
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_ends_leave_nothing_behind():
    async with pair() as two:
        before = descriptors()
        for _ in range(20):
            ours, theirs = await two.pipes()
            ours.close()
            await until(lambda pipe=theirs: pipe.machine.stage is Stage.OVER)
            assert await receive_some(theirs) == b""
            theirs.close()
        await until(lambda: not two.here.pipes and not two.there.pipes)
        assert descriptors() <= before and not two.here._peers and not two.there._peers


async def test_a_pipe_that_the_other_side_forgot_is_reset():
    async with pair() as two:
        ours, theirs = await two.pipes()
        two.there._forget(theirs)
        await send_all(ours, b"are you there?")
        with pytest.raises(ConnectionResetError):
            await receive_some(ours)
        ours.close()


class Nat:
    """One that gives its client another port whenever ``restart`` is called."""

    def __init__(self, nursery: trio.Nursery, inner: trio.socket.SocketType, to: Address) -> None:
        self._nursery, self._inner, self._to = nursery, inner, to
        self._client: Address | None = None

    async def restart(self) -> None:
        outer = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        await outer.bind(("127.0.0.1", 0))
        self._outer = outer
        self._nursery.start_soon(self._back, outer)

    async def forth(self) -> None:
        while True:
            datagram, self._client = await self._inner.recvfrom(65536)
            await self._outer.sendto(datagram, self._to)

    async def _back(self, outer: trio.socket.SocketType) -> None:
        while True:
            datagram = await outer.recv(65536)
            if outer is self._outer and self._client is not None:
                await self._inner.sendto(datagram, self._client)


async def test_a_nat_that_restarts_does_not_stop_a_download():
    block = random.Random(9).randbytes(1 << 18)
    async with pair() as two, trio.open_nursery() as nursery:
        inner = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        await inner.bind(("127.0.0.1", 0))
        nat = Nat(nursery, inner, two.address)
        await nat.restart()
        nursery.start_soon(nat.forth)
        with trio.fail_after(30):
            ours = await two.here.connect(inner.getsockname()[:2], KEY)
            await send_all(ours, b"!")
            theirs, _ = await two.called.receive()
            two.made += ours, theirs
            ports = {theirs.address[1]}
            got = bytearray()

            async def speak() -> None:
                for at in range(12):
                    await send_all(theirs, block)
                    if at % 4 == 3:
                        await until(lambda at=at: len(got) > (at - 2) * len(block))
                        await nat.restart()
                        ours.network_changed()
                        await until(lambda: theirs.address[1] not in ports)
                        ports.add(theirs.address[1])
                theirs.shutdown_write()

            nursery.start_soon(speak)
            while data := await receive_some(ours):
                got.extend(data)
        assert got == block * 12 and len(ports) == 4
        nursery.cancel_scope.cancel()


async def test_a_port_that_is_given_up_for_another_takes_its_pipes_along():
    async with pair() as two:
        ours, theirs = await two.pipes()
        before = two.here.addresses
        with trio.fail_after(60):
            for side, mine, far in ((two.here, ours, theirs), (two.here, theirs, ours)):
                side.rebind(two.sockets("127.0.0.1"))
                await send_all(mine, b"moved")
                assert await receive_some(far, 5) == b"moved"
        assert two.here.addresses != before
        assert theirs.address == two.here.addresses[0]
        two.here.rebind([])
        assert two.here.addresses == []
        with pytest.raises(Unreachable):
            await two.here.connect(two.address, KEY)
