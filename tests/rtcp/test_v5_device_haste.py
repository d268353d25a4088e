"""Streams for programs that have something to say at once: theirs as soon as the peer has proven itself."""

from __future__ import annotations

import pytest
import trio

from cyfs_ns.errors import Refused, Unreachable
from cyfs_ns.identity.did import dev_did
from rtcp.v5.payloads import Parameters
from tests.rtcp.pair import ALICE, BOB, MALLORY
from tests.rtcp.town import Town, descriptors, echo, receive, reject, send_all, talk, until

BOBS_DID = dev_did(BOB.public)


@pytest.fixture(autouse=True)
def nothing_is_left():
    before = descriptors()
    yield
    assert descriptors() <= before


@pytest.fixture(autouse=True)
def nothing_fails(caplog):
    """What escapes a handler is logged, and nobody else would see it."""
    yield
    assert [one for one in caplog.get_records("call") if one.exc_info] == []


@pytest.fixture
def town():
    return Town(versions=frozenset({5, 4}))


def only(noes):
    (one,) = noes
    return one


async def broken(stream) -> str:
    """Why nothing can be read."""
    with pytest.raises(OSError) as why:
        await receive(stream, 1)
    stream.close()
    return str(why.value)


async def test_it_is_used_before_the_verdict_and_heard_after_it(town):
    verdict, served = trio.Event(), []

    async def welcome(peer):
        await verdict.wait()

    async def serve(request):
        assert verdict.is_set()
        served.append(request.port)
        await echo(request)

    async with town.live(BOB, welcome=welcome, serve=serve), town.live(ALICE, hosts=()) as alice:
        stream = await alice.hasten_stream(BOBS_DID, None, 443)
        await send_all(stream, b"hello")
        assert not alice.tunnels() and not served
        verdict.set()
        assert await receive(stream, 5) == b"hello"
        stream.close()
        assert served == [443] and len(alice.tunnels()) == 1


async def test_many_share_the_tunnel_that_is_made(town):
    async with town.live(BOB), town.live(ALICE, hosts=()) as alice:

        async def one():
            stream = await alice.hasten_stream(BOBS_DID, None, 443)
            await talk(stream)
            stream.close()

        async def patient():
            stream = await alice.open_stream(BOBS_DID, None, 443)
            await talk(stream)
            stream.close()

        async with trio.open_nursery() as nursery:
            for ask in (one, patient, one, patient):
                nursery.start_soon(ask)
        assert len(alice.tunnels()) == 1


async def test_who_is_not_wanted_finds_the_first_broken_and_hears_why_of_the_next(town):
    served = []

    async def serve(request):
        served.append(request.port)

    async with town.live(BOB, welcome=reject("not today"), serve=serve), town.live(ALICE, hosts=()) as alice:
        noes = []
        stream = await alice.hasten_stream(BOBS_DID, None, 443, noes.append)
        await broken(stream)
        assert "not today" in str(only(noes))
        with pytest.raises(Refused, match="not today"):
            await alice.hasten_stream(BOBS_DID, None, 443, noes.append)
        assert len(noes) == 1
        for resting in alice._resting:  # as if it were long ago
            alice._resting[resting] = (0.0, alice._resting[resting][1])
        with pytest.raises(Refused, match="not today"):
            await alice.hasten_stream(BOBS_DID, None, 443)
        assert not served


async def test_a_no_to_the_stream_breaks_it_and_the_next_is_told(town):
    async with town.live(BOB, serve=reject("not that")), town.live(ALICE, hosts=()) as alice:
        noes = []
        await broken(await alice.hasten_stream(BOBS_DID, None, 443, noes.append))
        assert isinstance(only(noes), Refused)
        await until(alice.tunnels)
        with pytest.raises(Refused):
            await alice.hasten_stream(BOBS_DID, None, 443)


async def test_what_waits_for_the_peer_is_bounded(town):
    verdict = trio.Event()

    async def welcome(peer):
        await verdict.wait()

    async with town.live(BOB, welcome=welcome), town.live(ALICE, hosts=()) as alice:
        noes = []
        stream, sent = await alice.hasten_stream(BOBS_DID, None, 443, noes.append), 0
        with pytest.raises(BlockingIOError):
            while sent < 1 << 24:
                sent += stream.send(b"x" * 4096)
        assert 0 < sent <= Parameters().stream_credit
        verdict.set()
        assert await receive(stream, sent) == b"x" * sent
        stream.close()
        assert not noes


async def test_a_peer_may_take_its_time_to_judge(town, monkeypatch):
    """As long as for whoever waits for its yes: a stream that is used breaks with a no, not with a slow yes."""
    monkeypatch.setattr("rtcp.io.asking._HELD_PATIENCE", 0.01)

    async def welcome(peer):
        await trio.sleep(0.5)

    async with town.live(BOB, welcome=welcome, serve=echo), town.live(ALICE, hosts=()) as alice:
        noes = []
        stream = await alice.hasten_stream(BOBS_DID, None, 443, noes.append)
        await send_all(stream, b"hello")
        assert await receive(stream, 5) == b"hello"
        stream.close()
        assert not noes


async def test_who_is_somebody_else_gets_nothing(town):
    """Not a byte of a program, and no stream."""
    async with town.live(MALLORY) as mallory:
        town.settle(BOB, ("127.0.0.1", mallory.local.listen_port))
        async with town.live(ALICE, hosts=()) as alice:
            with pytest.raises((Refused, Unreachable)):
                await alice.hasten_stream(BOBS_DID, None, 443)


async def test_version_4_is_waited_for():
    town = Town(versions=frozenset({4}))
    async with town.live(BOB), town.live(ALICE, hosts=()) as alice:
        stream = await alice.hasten_stream(BOBS_DID, None, 443)
        await talk(stream)
        stream.close()


async def test_who_gives_up_before_leaves_nothing(town):
    async with town.live(ALICE, hosts=()) as alice, trio.open_nursery() as asking:
        silent = trio.socket.socket()
        await silent.bind(("127.0.0.1", 0))
        silent.listen()
        town.settle(BOB, silent.getsockname())
        asking.start_soon(alice.hasten_stream, BOBS_DID, None, 443)
        taken, _ = await silent.accept()
        asking.cancel_scope.cancel()
        await until(lambda: not alice._wishes)
        taken.close()
        silent.close()
    assert not alice.tunnels()


@pytest.mark.parametrize("goes", ["yes", "no", "away"])
async def test_whatever_becomes_of_one_that_was_closed_meanwhile_nobody_minds(town, goes):
    verdict, asked = trio.Event(), trio.Event()

    async def welcome(peer):
        asked.set()
        await verdict.wait()
        if goes == "no":
            raise Refused("not today")

    async with town.live(BOB, welcome=welcome), town.live(ALICE, hosts=()) as alice:
        stream = await alice.hasten_stream(BOBS_DID, None, 443)
        await asked.wait()
        stream.close()
        if goes != "away":
            verdict.set()
            await until(lambda: alice.tunnels() if goes == "yes" else alice._resting)


async def test_a_device_that_ends_meanwhile_breaks_it(town):
    async def welcome(peer):
        await trio.sleep_forever()

    async with town.live(BOB, welcome=welcome):
        async with town.live(ALICE, hosts=()) as alice:
            stream = await alice.hasten_stream(BOBS_DID, None, 443)
        await broken(stream)
        with pytest.raises(Unreachable):
            await alice.hasten_stream(BOBS_DID, None, 443)
