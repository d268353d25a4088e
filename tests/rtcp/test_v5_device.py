"""Devices that speak version 5 with each other, over loopback."""

from __future__ import annotations

import pytest
import trio

from cyfs_ns.identity.did import dev_did
from rtcp.io.mux import MuxedTunnel
from tests.rtcp.pair import ALICE, BOB
from tests.rtcp.town import Town, descriptors, receive_exactly, send_all, talk

ALICES_DID, BOBS_DID = dev_did(ALICE.public), dev_did(BOB.public)
BOTH, FIVE, FOUR = frozenset({5, 4}), frozenset({5}), frozenset({4})


@pytest.fixture(autouse=True)
def nothing_is_left():
    before = descriptors()
    yield
    assert descriptors() == before


@pytest.mark.parametrize("versions", [BOTH, FIVE], ids=["both", "five"])
async def test_a_stream_each_way_through_one_tunnel(versions):
    town = Town(versions=versions)
    async with town.live(ALICE, hosts=()) as alice, town.live(BOB) as bob:
        leg = await alice.open_stream(BOBS_DID, None, 443)
        await talk(leg)
        leg.close()
        (tunnel,) = bob.tunnels()
        assert isinstance(tunnel, MuxedTunnel) and tunnel.peer.device == ALICES_DID
        back = await bob.open_stream(ALICES_DID, "printer.home", 631)
        await talk(back)
        back.close()
        assert town.asked == [BOBS_DID]


@pytest.mark.parametrize("callers, calleds, version", [(BOTH, FOUR, 4), (FOUR, BOTH, 4), (BOTH, BOTH, 5)])
async def test_both_speak_the_best_they_have_in_common(callers, calleds, version):
    town = Town()
    async with town.live(ALICE, hosts=(), versions=callers) as alice, town.live(BOB, versions=calleds):
        stream = await alice.open_stream(BOBS_DID, None, 443)
        await talk(stream)
        stream.close()
        (tunnel,) = alice.tunnels()
        assert tunnel.version == version


async def test_much_goes_through_both_ways_at_once():
    town, much = Town(versions=BOTH), bytes(range(256)) * 65536
    async with town.live(ALICE, hosts=()) as alice, town.live(BOB):
        stream = await alice.open_stream(BOBS_DID, None, 443)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_all, stream, much)
            with trio.fail_after(20):
                assert await receive_exactly(stream, len(much)) == much
        stream.close()
