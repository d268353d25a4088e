"""Tunnels that break, and how soon they stand again; loopback."""

from __future__ import annotations

from functools import partial

import pytest
import trio
import trio.testing

from cyfs_ns.errors import Refused, Unreachable
from cyfs_ns.identity.did import dev_did
from rtcp.backoff import Backoff
from tests.rtcp.pair import ALICE, BOB
from tests.rtcp.town import HOST, Middle, Town, connect, descriptors, talk, until

ALICES_DID, BOBS_DID = dev_did(ALICE.public), dev_did(BOB.public)
FOUR, FIVE = frozenset({4}), frozenset({5})


@pytest.fixture(autouse=True)
def nothing_is_left():
    before = descriptors()
    yield
    assert descriptors() <= before


@pytest.fixture
def patient(monkeypatch):
    """Whoever waits, waits for ever."""
    monkeypatch.setattr("rtcp.io.device._REST", 1e6)
    monkeypatch.setattr("rtcp.io.device.Backoff", partial(Backoff, 1e6, 1e6))


@pytest.fixture(params=[FOUR, FIVE], ids=["4", "5"])
def town(request):
    return Town(versions=request.param)


# Whoever keeps a tunnel


async def test_news_of_the_network_end_the_wait(town, patient):
    async with town.live(ALICE, hosts=()) as alice, trio.open_nursery() as nursery:
        nursery.start_soon(alice.keep, BOBS_DID)
        await until(lambda: town.asked)
        await trio.testing.wait_all_tasks_blocked()
        async with town.live(BOB) as bob:
            alice.network_changed()
            await until(bob.tunnels)
        nursery.cancel_scope.cancel()


async def test_news_that_come_while_a_call_is_out_are_not_missed(town, patient):
    calling, called = trio.Event(), trio.Event()

    async def dial(host, port):
        if not called.is_set():
            calling.set()
            await called.wait()
            raise Unreachable("by the old road", "connect_timeout")
        return await connect(host, port)

    town.dial = dial
    async with town.live(ALICE, hosts=()) as alice, town.live(BOB) as bob, trio.open_nursery() as nursery:
        nursery.start_soon(alice.keep, BOBS_DID)
        await calling.wait()
        alice.network_changed()
        called.set()
        await until(bob.tunnels)
        nursery.cancel_scope.cancel()


async def test_a_first_call_that_finds_no_room_is_not_repeated_before_its_time(monkeypatch):
    monkeypatch.setattr("rtcp.io.device._REST", 0.0)
    monkeypatch.setattr("rtcp.io.device.Backoff", partial(Backoff, 0.001, 0.002))
    monkeypatch.setattr("rtcp.io.roll._MOST_OF_ONE", 0)
    town = Town(versions=FIVE)
    async with town.live(ALICE, hosts=()) as alice, town.live(BOB), trio.open_nursery() as nursery:
        nursery.start_soon(alice.keep, BOBS_DID)
        await until(lambda: town.asked)
        await trio.testing.wait_all_tasks_blocked(0.1)
        assert town.asked == [BOBS_DID]
        nursery.cancel_scope.cancel()


# Whoever wants something of a peer that nobody can call


async def lose_all(device):
    """As when the way is cut: nobody says goodbye."""
    for tunnel in device.tunnels():
        tunnel.lose()
    await until(lambda: not device.tunnels())


async def test_whoever_left_a_moment_ago_is_waited_for(town):
    async with town.live(BOB) as bob, town.live(ALICE, hosts=()) as alice, trio.open_nursery() as nursery:
        await alice.tunnel(BOBS_DID)
        await until(bob.tunnels)
        town.settle(ALICE)  # it has no address
        await lose_all(bob)
        await until(lambda: not alice.tunnels())
        done = trio.Event()

        async def ask():
            leg = await bob.open_stream(ALICES_DID, None, 1)
            await talk(leg)
            leg.close()
            done.set()

        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        await alice.tunnel(BOBS_DID)
        with trio.fail_after(60):
            await done.wait()


async def test_whoever_left_for_good_is_not_waited_for(town, monkeypatch):
    monkeypatch.setattr("rtcp.io.roll._RETURNS", 0.05)
    async with town.live(BOB) as bob, town.live(ALICE, hosts=()) as alice:
        await alice.tunnel(BOBS_DID)
        await until(bob.tunnels)
        town.settle(ALICE)
        await lose_all(bob)
        with pytest.raises(Unreachable, match="no address"), trio.fail_after(10):
            await bob.open_stream(ALICES_DID, None, 1)
        assert len(bob._roll._left) == 1, "and few are remembered"


# Whoever comes anew


async def test_a_tunnel_on_a_slow_way_lives_though_its_peer_seems_to_come_anew(monkeypatch):
    for module in ("rtcp.registry", "rtcp.io.tunnel"):
        monkeypatch.setattr(f"{module}.FRESH", 0.01)
    monkeypatch.setattr("rtcp.registry._RIVALS_PROBE", 0.05)
    town = Town()
    async with (
        town.live(BOB) as bob,
        town.live(ALICE, hosts=()) as alice,
        town.live(ALICE, hosts=()) as again,
        trio.open_nursery() as nursery,
    ):
        (where,) = town.people[BOBS_DID].addresses
        road = await nursery.start(Middle(where[1]).run)
        road.delay = 0.2
        town.settle(BOB, (HOST, road.port))
        await alice.tunnel(BOBS_DID)
        await until(bob.tunnels)
        (tunnel,) = bob.tunnels()
        await until(lambda: trio.current_time() - tunnel.last_heard > 0.01)
        town.settle(BOB, where)
        with pytest.raises(Refused, match="duplicate"):
            await again.tunnel(BOBS_DID)
        assert bob.tunnels() == [tunnel]
        nursery.cancel_scope.cancel()
