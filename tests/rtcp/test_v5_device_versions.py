"""Which version two devices end up with, and who may have a say in it (§2 of the document)."""

from __future__ import annotations

import secrets
import time
from contextlib import asynccontextmanager, suppress

import pytest
import trio
import trio.testing

from cyfs_ns.errors import Refused, Unreachable
from cyfs_ns.identity.did import dev_did
from rtcp.v5.memory import CERTAIN_FOR, Opening, VersionMemory, read_memory
from rtcp.v5.messages import Type
from tests.rtcp.oldpeer import ACK, packet
from tests.rtcp.pair import ALICE, BOB
from tests.rtcp.test_rtcp_oldpeer_sockets import old, old_listens, old_tunnel
from tests.rtcp.town import HOST, Middle, Town, descriptors, talk, until

ALICES_DID, BOBS_DID = dev_did(ALICE.public), dev_did(BOB.public)
BOTH, FIVE, FOUR = frozenset({5, 4}), frozenset({5}), frozenset({4})


@pytest.fixture(autouse=True)
def nothing_is_left():
    before = descriptors()
    yield
    assert descriptors() <= before


@asynccontextmanager
async def by_road(town):
    """Whoever calls Bob comes along here."""
    (where,) = town.people[BOBS_DID].addresses
    async with trio.open_nursery() as nursery:
        road = await nursery.start(Middle(where[1]).run)
        town.settle(BOB, (HOST, road.port))
        yield road
        nursery.cancel_scope.cancel()


def openings(road):
    """What was said first on each connection: the version and type of its first message."""
    return [tuple(said[2:4]) for said in road.said if said]


HELLO, NATIVE = (8, 1), (5, Type.FIRST)


@pytest.mark.parametrize(
    "callers, calleds, version, connections",
    [
        (BOTH, FOUR, 4, 2),
        (FOUR, BOTH, 4, 1),
        (FOUR, FOUR, 4, 1),
        (BOTH, BOTH, 5, 1),
        (BOTH, FIVE, 5, 1),
        (FIVE, BOTH, 5, 1),
    ],
)
async def test_both_speak_the_best_they_have_in_common(callers, calleds, version, connections):
    town = Town()
    async with (
        town.live(ALICE, hosts=(), versions=callers) as alice,
        town.live(BOB, versions=calleds) as bob,
        by_road(town) as road,
    ):
        tunnel = await alice.tunnel(BOBS_DID)
        assert len(road.said) == connections
        await until(bob.tunnels)
        assert tunnel.version == bob.tunnels()[0].version == version
        for mine, to in ((alice, BOBS_DID), (bob, ALICES_DID)):
            stream = await mine.open_stream(to, None, 443)
            await talk(stream)
            stream.close()


@pytest.mark.parametrize("callers, calleds", [(FIVE, FOUR), (FOUR, FIVE)], ids=["five to four", "four to five"])
async def test_who_have_nothing_in_common_have_no_tunnel(callers, calleds):
    town = Town()
    async with (
        town.live(ALICE, hosts=(), versions=callers) as alice,
        town.live(BOB, versions=calleds) as bob,
        by_road(town) as road,
    ):
        with pytest.raises(Unreachable, match=f"only version {min(callers)} is spoken here"):
            await alice.tunnel(BOBS_DID)
        assert alice.tunnels() == bob.tunnels() == [] and len(road.said) == 1


async def test_no_handshake_of_version_4_outlives_the_day_it_was_given_up():
    """Called and calling: what was under way when version 4 was given up comes to nothing."""
    town, asked, go = Town(), trio.Event(), trio.Event()

    async def slowly(_):
        asked.set()
        await go.wait()

    async with (
        town.live(ALICE, versions=FOUR, welcome=slowly) as alice,
        town.live(BOB, versions=BOTH, welcome=slowly) as bob,
        trio.open_nursery() as nursery,
    ):

        async def call(device, to):
            with suppress(Refused, Unreachable):
                await (await device.tunnel(to)).over.wait()
            over.set()

        for caller, to in ((alice, BOBS_DID), (bob, ALICES_DID)):
            asked, go, over = trio.Event(), trio.Event(), trio.Event()
            assert bob.speak(BOTH)
            nursery.start_soon(call, caller, to)
            await asked.wait()
            assert bob.speak(FIVE)
            go.set()
            await over.wait()
            await until(lambda: not bob.tunnels())
            bob._resting.clear()


async def test_that_a_peer_speaks_version_5_is_written_down_before_its_tunnel_stands():
    town, memory, written, go_on = Town(versions=BOTH), VersionMemory(), [], trio.Event()

    async def remember(data):
        written.append(data)
        await go_on.wait()

    async with (
        town.live(ALICE, hosts=(), memory=memory, remember=remember) as alice,
        town.live(BOB) as bob,
        by_road(town) as road,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(alice.tunnel, BOBS_DID)
        await until(lambda: written and bob.tunnels())
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert alice.tunnels() == [], "the disk has as long as the peer, and is waited for"
        assert read_memory(written[0]).opening(BOB.public, BOTH, 0) is Opening.NATIVE
        go_on.set()
        await until(alice.tunnels)
        for tunnel in alice.tunnels():
            tunnel.close()
        await until(lambda: not bob.tunnels())
        await alice.tunnel(BOBS_DID)
        assert len(written) == 1 and openings(road) == [HELLO, NATIVE], "it is no news any more"


async def test_what_cannot_be_written_is_said_in_the_log_and_tried_again(caplog):
    town, written, faults = Town(versions=BOTH), [], [OSError("disk full")]

    async def remember(data):
        if faults:
            raise faults.pop()
        written.append(data)

    async with town.live(ALICE, hosts=(), remember=remember) as alice, town.live(BOB) as bob:
        await alice.tunnel(BOBS_DID)
        assert "disk full" in caplog.text and written == []
        for _ in range(2):
            for tunnel in alice.tunnels():
                tunnel.close()
            await until(lambda: not bob.tunnels())
            await alice.tunnel(BOBS_DID)
        assert [read_memory(one).opening(BOB.public, BOTH, 0) for one in written] == [Opening.NATIVE]


async def test_what_cannot_be_written_is_tried_again_though_nobody_calls(monkeypatch):
    monkeypatch.setattr("rtcp.io.fifth._WRITTEN_AGAIN", 0.01)
    town, written, faults = Town(versions=BOTH), [], [OSError("disk full")] * 3

    async def remember(data):
        if faults:
            raise faults.pop()
        written.append(data)

    async with town.live(ALICE, hosts=(), remember=remember) as alice, town.live(BOB):
        await alice.tunnel(BOBS_DID)
        await until(lambda: written)
        await trio.testing.wait_all_tasks_blocked()
        await alice.forget(BOBS_DID)
        assert [read_memory(one).opening(BOB.public, BOTH, 0) for one in written] == [Opening.NATIVE, Opening.MASKED]


async def test_whoever_gives_up_while_it_is_written_leaves_it_to_the_disk():
    town, written, go_on = Town(versions=BOTH), [], trio.Event()

    async def remember(data):
        written.append(data)
        await go_on.wait()

    async with town.live(ALICE, hosts=(), remember=remember) as alice, town.live(BOB):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(alice.tunnel, BOBS_DID)
            await until(lambda: written)
            nursery.cancel_scope.cancel()
        assert alice.tunnels() == []
        go_on.set()
        await alice.tunnel(BOBS_DID)
        assert [read_memory(one).opening(BOB.public, BOTH, 0) for one in written] == [Opening.NATIVE]


@asynccontextmanager
async def old_bob(town):
    """The second peer, of version 4 alone, takes each tunnel; how many came as far as that, and what they said."""
    came = []
    async with old_listens(town, old(BOB.seed)) as arrivals, trio.open_nursery() as nursery:

        async def serve(wire):
            try:
                tunnel = await wire.run(old(BOB.seed).serve(int(time.time())))
            except EOFError:
                came.append(None)
                return
            came.append(tunnel.peer_hello["from_id"])
            try:
                while True:
                    await wire.run(tunnel.receive())
            except EOFError:
                await wire.stream.aclose()

        async def take():
            async for wire in arrivals:
                nursery.start_soon(serve, wire)

        nursery.start_soon(take)
        yield came
        nursery.cancel_scope.cancel()


async def test_an_old_peer_is_asked_behind_a_mask_once_a_day():
    town, memory = Town(versions=BOTH), VersionMemory()
    async with old_bob(town) as came, town.live(ALICE, hosts=(), memory=memory) as alice:
        tunnel = await alice.tunnel(BOBS_DID)
        assert tunnel.version == 4
        await until(lambda: came == [None, str(ALICES_DID)])  # first nobody, who went away; then she
        tunnel.close()
        await tunnel.over.wait()
        tunnel = await alice.tunnel(BOBS_DID)
        assert tunnel.version == 4
        await until(lambda: came == [None, str(ALICES_DID), str(ALICES_DID)])
        now = trio.current_time()
        assert memory.opening(BOB.public, BOTH, now + CERTAIN_FOR - 60) is Opening.MARKED
        assert memory.opening(BOB.public, BOTH, now + CERTAIN_FOR + 60) is Opening.MASKED


async def test_the_old_peer_dials_one_that_speaks_both():
    town = Town(versions=BOTH)
    async with town.live(BOB) as bob:
        wire, _ = await old_tunnel(town, old(ALICE.seed))
        async with wire.stream:
            (tunnel,) = bob.tunnels()
            assert tunnel.version == 4
        await until(lambda: not bob.tunnels())


async def test_one_that_speaks_version_5_alone_says_nothing_to_the_old_peer():
    town = Town(versions=FIVE)
    async with town.live(BOB) as bob:
        with pytest.raises(EOFError):
            await old_tunnel(town, old(ALICE.seed))
        assert bob.tunnels() == []


@pytest.mark.parametrize("known", [True, False], ids=["spoke version 5 before", "never heard of"])
async def test_whoever_stands_between_cannot_bring_two_back_to_version_4(known):
    """A man in the middle answers in version 4, in another's name; or lets nobody through who masks himself."""
    town, said = Town(versions=BOTH), []
    memory = VersionMemory([BOB.public] if known else [])
    hello_ack = packet(
        ACK, 0, {"ack_token": "x.y.z", "challenge": secrets.token_hex(16), "responder_id": str(BOBS_DID)}
    )

    async def lie(stream):
        async with stream:
            said.append(await stream.receive_some(4096))
            await stream.send_all(hello_ack)
            while data := await stream.receive_some(4096):
                said[-1] += data

    async with town.live(ALICE, hosts=(), memory=memory) as alice, trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, lie, 0)
        town.settle(BOB, (HOST, listeners[0].socket.getsockname()[1]))
        with pytest.raises(Unreachable) as failed:
            await alice.tunnel(BOBS_DID)
        assert ("spoke version 5 before" in str(failed.value)) is known
        assert [tuple(one[2:4]) for one in said] == ([NATIVE] if known else [HELLO, HELLO])
        assert all(len(one) == int.from_bytes(one[:2], "big") for one in said), "and not a byte more"
        assert alice.tunnels() == []
        nursery.cancel_scope.cancel()


async def test_a_device_that_went_back_to_version_4_is_not_met_until_a_person_says_so():
    town, memory = Town(), VersionMemory()
    async with town.live(ALICE, hosts=(), versions=BOTH, memory=memory) as alice:
        async with town.live(BOB, versions=BOTH):
            await alice.tunnel(BOBS_DID)
        await until(lambda: not alice.tunnels())
        async with town.live(BOB, versions=FOUR):
            with pytest.raises(Unreachable, match="spoke version 5 before"):
                await alice.tunnel(BOBS_DID)
            assert memory.forget(BOB.public)
            alice._resting.clear()
            assert (await alice.tunnel(BOBS_DID)).version == 4


async def test_a_masked_opening_shows_nobody_who_calls():
    town = Town(versions=BOTH)
    async with town.live(ALICE, hosts=()) as alice, town.live(BOB) as bob, by_road(town) as road:
        await alice.tunnel(BOBS_DID)
        await until(bob.tunnels)
        assert bob.tunnels()[0].peer.device == ALICES_DID
        (said,) = road.said
        for name in (str(ALICES_DID), ALICE.public.x, f"{ALICE.public.x}.dev.did"):
            assert name.encode() not in said
