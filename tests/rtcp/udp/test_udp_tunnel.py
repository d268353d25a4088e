"""Tunnels of version 5 with UDP for a carrier, and one that moves there from TCP."""

from __future__ import annotations

import hashlib
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from trio.testing import wait_all_tasks_blocked

from cyfs_ns.identity.did import dev_did
from rtcp.io.device import Device, House, open_device
from rtcp.io.fifth import Version5
from rtcp.io.pipe import Pipe, listen
from rtcp.io.udp.endpoint import UdpEndpoint
from rtcp.io.udp.pipe import UdpPipe
from rtcp.io.udp.sockets import TrainSocket
from rtcp.party import Local
from tests.rtcp.pair import ALICE, BOB
from tests.rtcp.town import HOST, Middle, Town, connect, echo, receive_exactly, send_all, talk, until
from tests.rtcp.udp.test_udp_sockets import Losing
from tunnels.io.reactor import Reactor

BOBS_DID = dev_did(BOB.public)


class Street:
    """Alice and Bob, who has a TCP port and a UDP port; Alice dials as ``by_udp`` says."""

    def __init__(self, town: Town, reactor: Reactor, kind: type[TrainSocket]) -> None:
        self._town, self._reactor = town, reactor
        self.by_udp = True
        self.tcp_port = 0
        self.alice: Device
        self.bob: Device
        self.carriers: list[Pipe] = []
        self.sockets = kind(HOST, 0), kind(HOST, 0)
        self.near = UdpEndpoint(self.sockets[:1], reactor)
        self.far = UdpEndpoint(
            self.sockets[1:],
            reactor,
            devices=[BOB.public.raw],
            take=lambda pipe, source: self.bob.accepted(pipe, source),
        )

    async def dial(self, host: str, port: int) -> Pipe:
        if self.by_udp:
            pipe: Pipe = await self.near.connect(self.far.addresses[0], BOB.public.raw)
        else:
            pipe = await connect(HOST, self.tcp_port)
        self.carriers.append(pipe)
        return pipe


@asynccontextmanager
async def street(kind: type[TrainSocket] = TrainSocket) -> AsyncIterator[Street]:
    town, reactor = Town(), Reactor()
    async with trio.open_nursery() as nursery:
        await nursery.start(reactor.run)
        made = Street(town, reactor, kind)
        await nursery.start(made.near.run)
        await nursery.start(made.far.run)
        listeners = listen(0, (HOST,))
        made.tcp_port = listeners[0].getsockname()[1]
        town.settle(BOB, (HOST, made.tcp_port))
        fifth = Version5(reactor=reactor, versions=frozenset({5}))
        house = House(find=town.find, dial=made.dial, vouch=town.vouch, serve=echo, calls_loopback=False)
        async with (
            open_device(local(ALICE, 0), house, [], version_5=fifth) as made.alice,
            open_device(local(BOB, made.tcp_port), house, listeners, version_5=fifth) as made.bob,
        ):
            yield made
        made.near.close()
        made.far.close()
        nursery.cancel_scope.cancel()
    reactor.close()


def local(key, port: int) -> Local:
    return Local(key=key, did=dev_did(key.public), listen_port=port)


async def hash_back(pipe: Pipe, block: bytes, count: int) -> None:
    """``count`` blocks go there and come back."""
    wanted, got = hashlib.sha256(block * count).digest(), hashlib.sha256()

    async def hear() -> None:
        for _ in range(count):
            got.update(await receive_exactly(pipe, len(block)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hear)
        for _ in range(count):
            await send_all(pipe, block)
    assert got.digest() == wanted


async def test_streams_and_bulk_over_udp_with_losses():
    async with street(Losing) as here:
        with trio.fail_after(60):
            small = await here.alice.open_stream(BOBS_DID, None, 443)
            await talk(small)
            big = await here.alice.open_stream(BOBS_DID, None, 80)
            await hash_back(big, random.Random(3).randbytes(1 << 18), 32)
            await talk(small)
            assert len(here.carriers) > 1, "what is bulk has a carrier of its own"
            assert all(isinstance(pipe, UdpPipe) for pipe in here.carriers)
            small.close()
            big.close()
        (tunnel,) = here.bob.tunnels()
        tunnel.close()
        await until(lambda: not here.far.pipes and not here.near.pipes)


class Counting(TrainSocket):
    """Counts its datagrams."""

    sent = 0

    def send(self, train, segment, to):
        self.sent += -(-len(train) // segment)
        super().send(train, segment, to)


async def test_a_tunnel_that_idles_says_one_datagram_of_each_side_in_25_seconds(mock_clock):
    mock_clock.rate = 1.0
    async with street(Counting) as here:
        stream = await here.alice.open_stream(BOBS_DID, None, 443)
        await talk(stream)
        (tunnel,) = here.alice.tunnels()

        async def pulse() -> None:
            mock_clock.jump(25.2)
            now = trio.current_time()
            while tunnel.last_heard < now:
                await wait_all_tasks_blocked(0.001)
            await wait_all_tasks_blocked(0.01)

        for _ in range(3):  # what the talk left to say is said
            await pulse()
        mock_clock.rate = 0.0  # so that nothing is late, however busy this machine is
        for _ in range(8):
            before = [sock.sent for sock in here.sockets]
            await pulse()
            assert [sock.sent for sock in here.sockets] == [count + 1 for count in before]
        assert here.alice.tunnels() == [tunnel] and len(here.bob.tunnels()) == 1
        mock_clock.rate = 1.0
        await talk(stream)
        stream.close()


async def test_a_tunnel_moves_from_tcp_to_udp_under_a_stream():
    async with street() as here, trio.open_nursery() as nursery:
        middle = await nursery.start(Middle(here.tcp_port).run)
        here.tcp_port, here.by_udp = middle.port, False
        with trio.fail_after(60):
            stream = await here.alice.open_stream(BOBS_DID, None, 443)
            await talk(stream)
            (tunnel,) = here.alice.tunnels()
            here.by_udp = True
            middle.snap()
            await hash_back(stream, random.Random(4).randbytes(1 << 16), 8)
            assert here.alice.tunnels() == [tunnel]
            assert not isinstance(here.carriers[0], UdpPipe) and isinstance(here.carriers[-1], UdpPipe)
            stream.close()
        nursery.cancel_scope.cancel()
