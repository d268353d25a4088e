"""Who was found before is called while it is asked who that is by now, and hears nothing of us until that is told."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing

from cyfs_ns.errors import ConfigFault, Refused, Unreachable
from cyfs_ns.identity.did import Did, dev_did, parse_did
from rtcp.party import Found
from rtcp.v5.memory import VersionMemory
from tests.rtcp.pair import ALICE, BOB, MALLORY
from tests.rtcp.town import HOST, Middle, Town, connect, descriptors, talk, until

HOME = parse_did("did:web:home.example")
NOWHERE = ("192.0.2.77", 2980)
"""What is sent there is lost."""
BOTH, FOUR = frozenset({5, 4}), frozenset({4})


@pytest.fixture(autouse=True)
def nothing_is_left():
    before = descriptors()
    yield
    assert descriptors() <= before


@dataclass
class Slow(Town):
    """``told`` says when questions are answered."""

    told: trio.Event = field(default_factory=trio.Event)
    before: Found | None = None
    """What was found earlier."""
    answer: Callable[[Did], Awaitable[Found]] | None = None

    async def find(self, did, port):
        if self.answer is not None:
            return await self.answer(did)
        await self.told.wait()
        return await super().find(did, port)

    async def recall(self, did, port):
        return self.before


async def dial(host, port):
    if (host, port) == NOWHERE:
        await trio.sleep_forever()
    return await connect(host, port)


@asynccontextmanager
async def road_to(town, key):
    """A road to the device of ``key``, which was found at its end before."""
    (where,) = town.people[dev_did(key.public)].addresses
    async with trio.open_nursery() as nursery:
        road = await nursery.start(Middle(where[1]).run)
        town.before = Found(key.public, [(HOST, road.port)])
        yield road
        nursery.cancel_scope.cancel()


def messages(said):
    """How many there are, and no part of one more."""
    count = 0
    while said:
        size = int.from_bytes(said[:2], "big")
        assert size <= len(said)
        said, count = said[size:], count + 1
    return count


async def hears(road, count=1):
    """Until whoever is at the end of the road was told as much as there is to tell it so far."""
    await until(lambda: road.said and road.said[0])
    await trio.testing.wait_all_tasks_blocked(0.05)
    assert messages(bytes(road.said[0])) == count and len(road.said) == 1


@pytest.mark.parametrize("known", [False, True], ids=["masked", "native"])
async def test_it_hears_a_first_message_and_the_rest_when_it_still_is_who_it_was(known):
    town, opened = Slow(versions=BOTH), []
    memory = VersionMemory([BOB.public] if known else [])
    async with (
        town.live(BOB, did=HOME) as bob,
        road_to(town, BOB) as road,
        town.live(ALICE, hosts=(), memory=memory, recall=town.recall) as alice,
        trio.open_nursery() as nursery,
    ):
        town.people[HOME] = Found(BOB.public, about="as it is now")

        async def ask():
            opened.append(await alice.hasten_stream(HOME, None, 443))

        nursery.start_soon(ask)
        await hears(road)
        assert not opened and not bob.tunnels() and not alice.tunnels()
        town.told.set()
        await until(lambda: opened)
        await talk(opened[0])
        (tunnel,) = alice.tunnels()
        assert tunnel.peer.about == "as it is now" and len(road.said) == 1
        opened[0].close()


@pytest.mark.parametrize("known", [False, True], ids=["masked", "native"])
async def test_whoever_is_another_by_now_gets_no_more_and_the_other_is_called(known):
    town, opened = Slow(versions=BOTH), []
    memory = VersionMemory([MALLORY.public] if known else [])
    async with (
        town.live(BOB, did=HOME),
        town.live(MALLORY) as mallory,
        road_to(town, MALLORY) as road,
        town.live(ALICE, hosts=(), memory=memory, recall=town.recall) as alice,
        trio.open_nursery() as nursery,
    ):

        async def ask():
            opened.append(await alice.hasten_stream(HOME, None, 443))

        nursery.start_soon(ask)
        await hears(road)
        town.told.set()
        await until(lambda: opened)
        await talk(opened[0])
        opened[0].close()
        assert [one.peer.device for one in alice.tunnels()] == [dev_did(BOB.public)]
        assert messages(bytes(road.said[0])) == 1 and not mallory.tunnels()


async def test_whoever_is_not_to_be_dialled_any_more_is_not():
    town = Slow(versions=BOTH)
    async with (
        town.live(BOB) as bob,
        road_to(town, BOB) as road,
        town.live(ALICE, hosts=(), recall=town.recall) as alice,
    ):

        async def answer(did):
            await hears(road)
            raise Refused("its key is revoked")

        town.answer = answer
        with pytest.raises(Refused, match="revoked"):
            await alice.open_stream(HOME, None, 443)
        assert not bob.tunnels() and messages(bytes(road.said[0])) == 1


async def test_version_4_waits_since_its_first_message_tells_who_calls():
    town, opened = Slow(versions=FOUR), []
    async with (
        town.live(BOB, did=HOME) as bob,
        road_to(town, BOB) as road,
        town.live(ALICE, hosts=(), recall=town.recall) as alice,
        trio.open_nursery() as nursery,
    ):

        async def ask():
            opened.append(await alice.open_stream(HOME, None, 443))

        nursery.start_soon(ask)
        await until(lambda: road.carried)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert not any(road.said) and not bob.tunnels()
        town.told.set()
        await until(lambda: opened)
        await talk(opened[0])
        opened[0].close()


async def test_where_nothing_was_known_of_its_place_it_is_called_where_it_is_found():
    town = Slow(versions=BOTH)
    town.before = Found(BOB.public)
    town.told.set()
    async with (
        town.live(BOB, did=HOME),
        town.live(ALICE, hosts=(), recall=town.recall) as alice,
    ):
        stream = await alice.open_stream(HOME, None, 443)
        await talk(stream)
        stream.close()


async def test_another_name_of_whom_is_being_called_is_asked_for_first():
    """What waits for a tunnel is asked as soon as its peer has proven itself, by whichever name that is called."""
    town, first = Slow(versions=BOTH), trio.Event()
    other = parse_did("did:web:other.example")
    async with (
        town.live(BOB, did=HOME) as bob,
        road_to(town, BOB) as road,
        town.live(ALICE, hosts=(), recall=town.recall) as alice,
    ):
        road.frozen = True

        async def answer(did):
            if did != HOME:
                await trio.sleep_forever()
            first.set()
            return town.before

        town.answer = answer
        async with trio.open_nursery() as nursery:
            nursery.start_soon(alice.open_stream, HOME, None, 443)
            await first.wait()
            nursery.start_soon(alice.open_stream, other, None, 444)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert all(name[0] != other for names in alice._called.values() for name in names)
            nursery.cancel_scope.cancel()
        assert not bob.tunnels()


@pytest.fixture
def patient(monkeypatch):
    """Nothing is given up because of time alone."""
    monkeypatch.setattr("rtcp.io.dialling.PATIENCE", float("inf"))
    monkeypatch.setattr("rtcp.io.device._IN_TIME", float("inf"))


async def test_whoever_is_another_by_now_is_called_at_once_where_the_place_of_before_is_silent(patient):
    town = Slow(versions=BOTH, before=Found(MALLORY.public, [NOWHERE]), dial=dial)
    town.told.set()
    async with town.live(BOB, did=HOME), town.live(ALICE, hosts=(), recall=town.recall) as alice:
        with trio.fail_after(30):
            stream = await alice.open_stream(HOME, None, 443)
            await talk(stream)
        stream.close()


@pytest.mark.parametrize("fault", [Refused("its key is revoked"), ConfigFault("the file is broken")], ids=str)
async def test_why_nobody_is_to_be_dialled_is_told_at_once_where_the_place_of_before_is_silent(patient, fault):
    town = Slow(versions=BOTH, before=Found(BOB.public, [NOWHERE]), dial=dial)
    async with town.live(ALICE, hosts=(), recall=town.recall) as alice:

        async def answer(did):
            raise fault

        town.answer = answer
        with trio.fail_after(30), pytest.raises(type(fault), match=str(fault)):
            await alice.open_stream(HOME, None, 443)


async def test_who_has_moved_is_called_there_though_all_was_given_up_when_that_is_told(monkeypatch):
    monkeypatch.setattr("rtcp.io.dialling.PATIENCE", 0.2)
    monkeypatch.setattr("rtcp.io.device._IN_TIME", 0.1)
    town = Slow(versions=BOTH, before=Found(BOB.public, [NOWHERE]), dial=dial)
    async with town.live(BOB, did=HOME), town.live(ALICE, hosts=(), recall=town.recall) as alice:

        async def answer(did):
            await until(lambda: alice._called)
            await until(lambda: not alice._called)
            monkeypatch.setattr("rtcp.io.dialling.PATIENCE", 30)
            return await Town.find(town, did, None)

        town.answer = answer
        stream = await alice.open_stream(HOME, None, 443)
        await talk(stream)
        stream.close()


WAITS = ("rtcp.io.reception.KNOCK_WAIT", "rtcp.v5.answering.KNOCK_WAIT", "rtcp.v5.answering.PROOF_WAIT")


@pytest.mark.parametrize("versions", [FOUR, BOTH], ids=["4", "5"])
async def test_who_has_closed_the_door_on_the_silent_is_called_again(monkeypatch, versions):
    for name in WAITS:
        monkeypatch.setattr(name, 0.1)
    monkeypatch.setattr("rtcp.io.device._IN_TIME", 0.05)
    pipes = []

    async def dial(host, port):
        pipes.append(await connect(host, port))
        return pipes[-1]

    def has_ended(pipe):
        try:
            return not pipe.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False

    town, memory = Slow(versions=BOTH, dial=dial), VersionMemory()
    if versions == FOUR:
        memory.spoke_4(BOB.public, trio.current_time())
    async with (
        town.live(BOB, did=HOME, versions=versions),
        town.live(ALICE, hosts=(), recall=town.recall, memory=memory) as alice,
    ):
        town.before = town.people[HOME]

        async def answer(did):
            await until(lambda: pipes and has_ended(pipes[0]))
            for name in WAITS:
                monkeypatch.setattr(name, 30)
            return town.before

        town.answer = answer
        stream = await alice.open_stream(HOME, None, 443)
        await talk(stream)
        stream.close()


async def test_that_one_name_leads_nowhere_by_now_is_nothing_to_another_of_the_same_device():
    town, opened, other = Slow(versions=BOTH), [], dev_did(BOB.public)
    async with (
        town.live(BOB, did=HOME),
        road_to(town, BOB) as road,
        town.live(ALICE, hosts=(), recall=town.recall) as alice,
        trio.open_nursery() as nursery,
    ):

        async def answer(did):
            if did == other:
                return town.before
            await town.told.wait()
            raise Unreachable("nobody knows it any more")

        async def first():
            with pytest.raises(Unreachable, match="any more"):
                await alice.open_stream(HOME, None, 443)

        async def second():
            opened.append(await alice.open_stream(other, None, 444))

        town.answer = answer
        nursery.start_soon(first)
        await hears(road)
        nursery.start_soon(second)
        await until(lambda: any((other, "") in names for names in alice._called.values()))
        town.told.set()
        await until(lambda: opened)
        await talk(opened[0])
        opened[0].close()
