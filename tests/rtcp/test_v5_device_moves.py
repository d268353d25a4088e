"""A tunnel moves to another pipe under its streams, at any moment, from and to whatever carries it."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import pytest
import trio

from cyfs_ns.errors import Unreachable
from cyfs_ns.identity.did import dev_did
from rtcp.io.device import Device, House, open_device
from rtcp.io.fifth import Version5
from rtcp.io.mux import MuxedTunnel
from rtcp.io.pipe import Pipe, listen
from rtcp.io.udp.endpoint import UdpEndpoint
from rtcp.io.udp.pipe import UdpPipe
from rtcp.io.udp.sockets import open_sockets
from rtcp.io.wayname import way_of
from rtcp.party import Local
from tests.rtcp.pair import ALICE, BOB, MALLORY
from tests.rtcp.test_v5_device_takeover import drink, pour
from tests.rtcp.town import HOST, Middle, Town, connect, descriptors, echo, talk, until
from tunnels.io.reactor import Reactor
from tunnels.io.relay import Relay

BOBS_DID, HOP = dev_did(BOB.public), dev_did(MALLORY.public)
Ways = dict[str, Callable[[], Awaitable[Pipe]]]


@pytest.fixture(autouse=True)
def nothing_is_left():
    before = descriptors()
    yield
    assert descriptors() <= before


@dataclass
class Pair:
    alice: Device
    bob: Device
    ways: Ways
    """How Alice gets to Bob."""
    roads: dict[str, Middle]
    tunnel: MuxedTunnel
    other: MuxedTunnel


@asynccontextmanager
async def pair(first: str = "tcp") -> AsyncIterator[Pair]:
    """Alice and Bob with a tunnel by the way ``first``, and three other ways."""
    town, reactor = Town(versions=frozenset({5})), Reactor()
    async with trio.open_nursery() as nursery:
        await nursery.start(reactor.run)
        fifth = Version5(reactor=reactor, versions=frozenset({5}))
        listeners = listen(0, (HOST,))
        port = listeners[0].getsockname()[1]
        relays: list[Relay] = []

        async def pass_on(request):
            far = await connect(HOST, port)
            relays.append(Relay(reactor, await request.accept(), far, idle=60, on_close=lambda *_: None))

        roads = {name: await nursery.start(Middle(port).run) for name in ("tcp", "tcp 2")}
        async with (
            town.live(MALLORY, serve=pass_on),
            town.live(ALICE, hosts=(), calls_loopback=False) as messenger,
        ):
            ways: Ways = {name: partial(connect, HOST, road.port) for name, road in roads.items()}
            ways["nested"] = partial(messenger.open_stream, HOP, "bob.invalid", 1)
            house = House(
                find=town.find,
                dial=lambda host, _: ways[host](),
                vouch=town.vouch,
                serve=echo,
                calls_loopback=False,
            )
            bobs = Local(key=BOB, did=BOBS_DID, listen_port=port)
            doors = listen(0, (HOST,))
            ways["back"] = partial(connect, HOST, doors[0].getsockname()[1])
            alices = Local(key=ALICE, did=dev_did(ALICE.public), listen_port=0)
            town.settle(BOB, (first, 1))
            async with (
                open_device(alices, house, doors, version_5=fifth) as alice,
                open_device(bobs, house, listeners, version_5=fifth) as bob,
            ):
                near = UdpEndpoint(open_sockets(0, (HOST,)), reactor)
                far = UdpEndpoint(open_sockets(0, (HOST,)), reactor, devices=[BOB.public.raw], take=bob.accepted)
                await nursery.start(near.run)
                await nursery.start(far.run)
                ways["udp"] = partial(near.connect, far.addresses[0], BOB.public.raw)
                tunnel = await alice.tunnel(BOBS_DID)
                await until(bob.tunnels)
                yield Pair(alice, bob, ways, roads, tunnel, bob.tunnels()[0])
                near.close()
                far.close()
        nursery.cancel_scope.cancel()
    reactor.close()


@pytest.mark.parametrize(
    ("first", "then"), [("tcp", "tcp 2"), ("tcp", "udp"), ("udp", "tcp"), ("nested", "udp"), ("udp", "nested")]
)
async def test_it_moves_under_streams_both_ways_and_bulk_again_and_again(first, then):
    dice = random.Random(f"{first} {then}")
    size, moved = 12 << 20, 0
    async with pair(first) as here:
        with trio.fail_after(60):
            quiet = await here.alice.open_stream(BOBS_DID, None, 1)
            busy = [await here.alice.open_stream(BOBS_DID, None, 2) for _ in range(2)]
            async with trio.open_nursery() as nursery:
                for pipe in busy:
                    nursery.start_soon(pour, pipe, size)
                    nursery.start_soon(drink, pipe, size)
                for way in (then, first, then):
                    await trio.sleep(dice.random() * 0.1)
                    await here.tunnel.move(here.ways[way])
                    assert isinstance(here.tunnel.pipe, UdpPipe) is (way == "udp")
                    moved += 1
            await talk(quiet)
            for pipe in (quiet, *busy):
                pipe.close()
        assert moved == 3
        assert here.alice.tunnels() == [here.tunnel]


async def test_bulk_travels_on_the_new_way_and_the_old_one_is_closed():
    async with pair() as here:
        with trio.fail_after(60):
            pipe = await here.alice.open_stream(BOBS_DID, None, 1)
            size = 64 << 20
            got = 0

            def tell(so_far):
                nonlocal got
                got = so_far

            async with trio.open_nursery() as nursery:
                nursery.start_soon(pour, pipe, size)
                nursery.start_soon(drink, pipe, size, tell)
                await until(lambda: len(here.roads["tcp"].standing) == 2)  # control, and a leg
                await here.tunnel.move(here.ways["tcp 2"])
                assert got < size
                await until(lambda: not here.roads["tcp"].standing)
                assert len(here.roads["tcp 2"].standing) == 2
            pipe.close()


async def test_a_leg_that_went_elsewhere_is_brought_back_under_its_bulk():
    async with pair("udp") as here:
        with trio.fail_after(60):
            pipe = await here.alice.open_stream(BOBS_DID, None, 1)
            best = way_of(here.tunnel.pipe).rank
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pour, pipe, 64 << 20)
                nursery.start_soon(drink, pipe, 64 << 20)
                await until(lambda: here.tunnel._machine.legs)
                (leg,) = here.tunnel._machine.legs
                await here.tunnel.bring([leg], here.ways["tcp"])
                assert here.tunnel.strays(best) == [leg]
                silent, before = here.tunnel.pipe, here.tunnel.heard_along(here.tunnel.pipe)
                await here.tunnel.bring([leg], here.ways["udp"])
                assert here.tunnel.strays(best) == []
                await until(lambda: here.tunnel.heard_along(silent) > before)
            pipe.close()


async def test_either_end_moves_and_both_at_once():
    async with pair("udp") as here:
        with trio.fail_after(60):
            pipe = await here.alice.open_stream(BOBS_DID, None, 1)
            await here.other.move(here.ways["back"])
            await talk(pipe)
            assert not isinstance(here.tunnel.pipe, UdpPipe)
            for _ in range(8):
                stale = []

                async def one(tunnel: MuxedTunnel, way: str, stale=stale) -> None:
                    try:
                        await tunnel.move(here.ways[way])
                    except Unreachable as fault:
                        stale.append(fault)

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(one, here.tunnel, "udp")
                    nursery.start_soon(one, here.other, "back")
                await talk(pipe)
                assert len(stale) < 2, "the two never undo each other"
            pipe.close()


async def test_moves_that_fail_harm_nothing():
    async def nowhere() -> Pipe:
        raise Unreachable("no way", "other")

    async def mute() -> Pipe:
        return await connect(HOST, here.roads["tcp 2"].port)

    async with pair() as here:
        with trio.fail_after(60):
            pipe = await here.alice.open_stream(BOBS_DID, None, 1)
            before = here.tunnel.pipe
            with pytest.raises(Unreachable):
                await here.tunnel.move(nowhere)
            here.roads["tcp 2"].frozen = True
            with trio.move_on_after(0.2) as waited:
                await here.tunnel.move(mute)
            assert waited.cancelled_caught
            here.roads["tcp 2"].cut()
            with pytest.raises(Unreachable):
                await here.tunnel.move(mute)
            await talk(pipe)
            assert here.tunnel.pipe is before
            pipe.close()


async def test_moves_wait_for_each_other_and_the_last_one_holds():
    async with pair() as here:
        with trio.fail_after(60):
            pipe = await here.alice.open_stream(BOBS_DID, None, 1)
            under_way = most = 0

            async def counted(way: Callable[[], Awaitable[Pipe]]) -> Pipe:
                nonlocal under_way, most
                under_way += 1
                most = max(most, under_way)
                try:
                    return await way()
                finally:
                    under_way -= 1

            async with trio.open_nursery() as nursery:
                for way in ("udp", "nested", "tcp 2", "udp"):
                    nursery.start_soon(here.tunnel.move, partial(counted, here.ways[way]))
            assert most == 1
            await talk(pipe)
            pipe.close()


async def test_a_tunnel_that_ends_ends_its_move():
    async with pair() as here:
        with trio.fail_after(60):
            here.roads["tcp 2"].delay = 0.1
            failed = trio.Event()

            async def move() -> None:
                with pytest.raises(Unreachable):
                    await here.tunnel.move(here.ways["tcp 2"])
                failed.set()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(move)
                await until(lambda: here.roads["tcp 2"].standing)
                here.tunnel.close()
            assert failed.is_set()
