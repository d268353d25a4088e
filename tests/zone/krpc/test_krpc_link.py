"""What a long link costs: a batch of calls that need each other takes one round trip."""

from __future__ import annotations

import socket

import pytest
import trio
from krpcservices import House, Notes
from trio.testing import MockClock

from cyfs_gateway.flow import Identity
from cyfs_ns.trust.level import Trust
from tunnels.io.waiting import TcpEndpoint
from zone.io.krpc.client import Client
from zone.io.krpc.transport import HttpTransport, by_endpoint

ONE_WAY = 0.025


def endpoint(sock: socket.socket) -> TcpEndpoint:
    sock.setblocking(False)
    return TcpEndpoint(sock.family, sock.type, sock.proto, sock.detach())


class LongLink:
    """Streams to the server of ``house`` on which every byte is under way for ``ONE_WAY`` seconds."""

    def __init__(self, house: House, nursery: trio.Nursery) -> None:
        self._house, self._nursery = house, nursery

    async def open(self) -> TcpEndpoint:
        near, ours = socket.socketpair()
        theirs, far = socket.socketpair()
        ends = [trio.SocketStream(trio.socket.from_stdlib_socket(sock)) for sock in (ours, theirs)]
        for source, sink in (ends, ends[::-1]):
            self._nursery.start_soon(self._carry, source, sink)
        who = Identity(did="device", host="", trust=Trust.KEY_PROVEN)
        self._nursery.start_soon(self._house.server.serve_peer, who, endpoint(far))
        return endpoint(near)

    async def _carry(self, source: trio.SocketStream, sink: trio.SocketStream) -> None:
        send, receive = trio.open_memory_channel[tuple[float, bytes]](1000)

        async def deliver() -> None:
            async for due, data in receive:
                await trio.sleep_until(due)
                await sink.send_all(data)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(deliver)
            while data := await source.receive_some(65536):
                await send.send((trio.current_time() + ONE_WAY, bytes(data)))


@pytest.fixture
def clock() -> MockClock:
    return MockClock(autojump_threshold=0)


async def test_ten_calls_that_need_each_other_take_one_round_trip(clock: MockClock) -> None:
    house = House()
    async with trio.open_nursery() as nursery:
        client = Client(HttpTransport(by_endpoint(LongLink(house, nursery).open)), "notes")
        notes = client.of(Notes)
        await notes.step(0)

        began = trio.current_time()
        number = 0
        for _ in range(10):
            number = await notes.step(number)
        one_by_one = trio.current_time() - began

        began = trio.current_time()
        async with client.batch(Notes) as calls:
            last = calls.step(0)
            for _ in range(9):
                last = calls.step(last)
        in_a_batch = trio.current_time() - began

        assert number == await last == 10
        assert one_by_one == pytest.approx(10 * 2 * ONE_WAY)
        assert in_a_batch == pytest.approx(2 * ONE_WAY)
        nursery.cancel_scope.cancel()
