"""Punching carried out: two machines over a wire in memory, and what plain sockets do with a TTL."""

from __future__ import annotations

import socket
import struct

import pytest
import trio

from rtcp.io.nat.punch import Outcome, Place, UdpSockets, carry_out
from rtcp.nat.budget import Budget
from rtcp.nat.candidates import Candidate, Filtering, Kind, Mapping, Nat, Offer
from rtcp.nat.punch import Met, Punch

IP_RECVTTL = 12  # Linux's number, which Python does not name
NAT = Nat(mapping=Mapping.EIM, filtering=Filtering.APDF)
PLACES = (("198.51.100.1", 1000), ("198.51.100.2", 2000))
OFFERS = tuple(
    Offer(nonce=bytes([n] * 16), nat=NAT, candidates=(Candidate(address=host, port=port, kind=Kind.OBSERVED),))
    for n, (host, port) in enumerate(PLACES)
)


class Wire:
    """One end: what it sends comes out of the other, unless the TTL is too low."""

    def __init__(self, here: Place) -> None:
        self.here = here
        self.far: Wire | None = None
        self.into, self._out = trio.open_memory_channel[tuple[bytes, Place]](1000)

    async def send(self, data: bytes, to: Place, ttl: int | None) -> None:
        if ttl is None and self.far is not None and self.far.here == to:
            self.far.into.send_nowait((data, self.here))

    async def receive(self) -> tuple[bytes, Place]:
        return await self._out.receive()


def machine(index: int) -> Punch:
    return Punch(
        OFFERS[index],
        OFFERS[1 - index],
        opens=index == 1,
        secret=bytes(32),
        start=trio.current_time(),
        rtt=0.02,
        budget=Budget(),
    )


async def punch_both(wires: tuple[Wire, Wire], met: list[Met]) -> dict[int, Outcome]:
    outcomes: dict[int, Outcome] = {}

    async def one(index: int) -> None:
        outcomes[index] = await carry_out(machine(index), wires[index], on_met=met.append)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(one, 0)
        nursery.start_soon(one, 1)
    return outcomes


@pytest.mark.parametrize("joined", [True, False])
async def test_two_meet_over_a_wire_and_do_not_without(joined, autojump_clock):
    wires = (Wire(PLACES[0]), Wire(PLACES[1]))
    if joined:
        wires[0].far, wires[1].far = wires[1], wires[0]
    wires[0].into.send_nowait((b"noise", ("203.0.113.9", 9)))
    met: list[Met] = []
    outcomes = await punch_both(wires, met)
    assert {outcome.verdict.direct for outcome in outcomes.values()} == {joined}
    assert {one.target[1:] for one in met} == (set(PLACES) if joined else set())
    assert [outcome.streams for outcome in outcomes.values()] == [{}, {}]


@pytest.mark.parametrize(
    ("family", "host", "level", "ask", "kind"),
    [
        (socket.AF_INET, "127.0.0.1", socket.IPPROTO_IP, IP_RECVTTL, socket.IP_TTL),
        (socket.AF_INET6, "::1", socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, socket.IPV6_HOPLIMIT),
    ],
)
async def test_a_datagram_has_the_ttl_it_was_given_and_the_next_the_usual_one(family, host, level, ask, kind):
    with trio.socket.socket(family, socket.SOCK_DGRAM) as ear, trio.socket.socket(family, socket.SOCK_DGRAM) as mouth:
        ear.setsockopt(level, ask, 1)
        await ear.bind((host, 0))
        await mouth.bind((host, 0))
        sockets = UdpSockets(mouth)
        seen = []
        for ttl in (4, None):
            await sockets.send(b"x", ear.getsockname()[:2], ttl)
            _, extra, _, _ = await ear.recvmsg(10, 100)
            seen += [struct.unpack("i", data)[0] for _, of, data in extra if of == kind]
        assert seen[0] == 4
        assert seen[1] > 4


async def test_sockets_hear_on_both_families_and_what_cannot_be_sent_is_lost():
    with (
        trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as four,
        trio.socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as six,
        trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gone,
    ):
        await four.bind(("127.0.0.1", 0))
        await six.bind(("::1", 0))
        await gone.bind(("127.0.0.1", 0))
        closed = gone.getsockname()
        gone.close()
        sockets = UdpSockets(four, six)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sockets.run)
            await sockets.send(b"nobody", closed, None)
            await sockets.send(b"nobody", ("255.255.255.255", 9), None)
            await UdpSockets(four).send(b"nobody", six.getsockname()[:2], None)
            for sock in (four, six):
                await sockets.send(b"hello", sock.getsockname()[:2], None)
            with trio.fail_after(60):
                heard = [await sockets.receive() for _ in range(2)]
            nursery.cancel_scope.cancel()
    assert {data for data, _ in heard} == {b"hello"}
    assert len({place for _, place in heard}) == 2
