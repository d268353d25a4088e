"""Tunnels through tunnels of whichever version: much arrives whole, both ways at once."""

from __future__ import annotations

import random

import pytest
import trio

from cyfs_ns.identity.did import dev_did
from rtcp.io.device import Carrier
from tests.rtcp.pair import ALICE, BOB, MALLORY
from tests.rtcp.town import Town, connect, descriptors, receive_exactly, send_all
from tunnels.io.reactor import Reactor
from tunnels.io.relay import Relay

HOP, BOBS_DID = dev_did(MALLORY.public), dev_did(BOB.public)
FOUR, FIVE = frozenset({4}), frozenset({5})
MUCH = 4 << 20


@pytest.fixture(autouse=True)
def nothing_is_left():
    before = descriptors()
    yield
    assert descriptors() <= before


@pytest.mark.parametrize("inner", [FOUR, FIVE], ids=["4 in", "5 in"])
@pytest.mark.parametrize("outer", [FOUR, FIVE], ids=["4", "5"])
async def test_much_arrives_whole_both_ways_at_once(outer, inner):
    town, reactor = Town(), Reactor()
    relays: list[Relay] = []
    heard = trio.Event()

    async def pass_on(request):
        far = await connect(request.host, request.port)
        relays.append(Relay(reactor, await request.accept(), far, idle=60, on_close=lambda *_: None))

    there, back = (random.Random(seed).randbytes(MUCH) for seed in "tb")

    async def answer(request):
        pipe = await request.accept()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send_all, pipe, back)
                assert await receive_exactly(pipe, MUCH) == there
            heard.set()
        finally:
            pipe.close()

    async with (
        trio.open_nursery() as nursery,
        town.live(MALLORY, versions=outer, serve=pass_on),
        town.live(BOB, versions=inner, serve=answer),
        town.live(ALICE, hosts=(), versions=outer) as outside,
        town.live(ALICE, hosts=(), versions=inner) as inside,
    ):
        await nursery.start(reactor.run)

        async def over(host, port):
            return await outside.open_stream(HOP, host, port)

        pipe = await inside.open_stream(BOBS_DID, None, 1, via=Carrier(f"rtcp://{HOP}", over))
        assert {tunnel.version for tunnel in outside.tunnels()} == outer
        assert {tunnel.version for tunnel in inside.tunnels()} == inner
        with trio.fail_after(60):
            async with trio.open_nursery() as talking:
                talking.start_soon(send_all, pipe, there)
                assert await receive_exactly(pipe, MUCH) == back
            await heard.wait()
            pipe.close()
        for relay in relays:
            relay.close()
        nursery.cancel_scope.cancel()
    reactor.close()
