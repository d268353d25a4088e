"""Bare legs over loopback: what is sealed already goes as it is, and what becomes of it on the road is found out."""

from __future__ import annotations

import random
import socket

import pytest
import trio
import trio.testing

from cyfs_ns.identity.did import dev_did
from rtcp.io.device import Carrier
from rtcp.io.pipe import TcpPipe, carries_sealed, hear_out
from tests.rtcp.pair import ALICE, BOB, MALLORY
from tests.rtcp.test_v5_device_takeover import Pair, drink, piece, pour, standing
from tests.rtcp.town import HOST, Middle, Town, descriptors, receive, receive_exactly, send_all, until
from tunnels.io.reactor import Reactor
from tunnels.io.relay import Relay

BOBS_DID, HOP = dev_did(BOB.public), dev_did(MALLORY.public)
FIVE = frozenset({5})
MUCH, NESTED = 24 << 20, 10 << 20


@pytest.fixture(autouse=True)
def nothing_is_left():
    before = descriptors()
    yield
    assert descriptors() <= before


def bare_legs(pair: Pair) -> list[int]:
    """How many each side has."""
    return [sum(leg.bare for leg in end._machine._legs.values()) for end in (pair.tunnel, pair.other)]


def is_plain(said: bytearray) -> bool:
    """Whether the pattern stands in it as it is."""
    return bytes(piece(7, 500)) in said


async def both_ways(pipe, size, tell=lambda got: None) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pour, pipe, size)
        nursery.start_soon(drink, pipe, size, tell)


@pytest.mark.parametrize("here", [True, False], ids=["sealed", "not"])
@pytest.mark.parametrize("there", [True, False], ids=["sealed there", "not there"])
async def test_a_leg_is_bare_if_both_ends_say_that_it_may(here, there):
    done, seen = trio.Event(), []

    async def serve(request):
        pipe = await request.accept()
        if there:
            carries_sealed(pipe)
        await both_ways(pipe, MUCH)
        done.set()
        pipe.close()

    async with standing(serve=serve) as pair:
        pipe = await pair.alice.open_stream(BOBS_DID, None, 1)
        if here:
            carries_sealed(pipe)
        with trio.fail_after(60):
            await both_ways(pipe, MUCH, lambda got: seen.append(bare_legs(pair)))
            await done.wait()
        pipe.close()
        assert ([1, 1] in seen) is (here and there)
        assert len(pair.road.said) == 2 and is_plain(pair.road.said[1]) is (here and there)
        assert not is_plain(pair.road.said[0])
        for tunnel in (pair.tunnel, pair.other):
            await until(lambda tunnel=tunnel: not tunnel._machine.conversations and not tunnel._machine._legs)
            assert tunnel.stands
        await until(lambda: len(pair.road.standing) == 1)


@pytest.mark.parametrize("pours", ["who asked", "who was asked"])
async def test_one_way_ends_and_the_other_goes_on(pours):
    """...by the called side of the leg, too, which cannot call one."""
    done = trio.Event()

    async def serve(request):
        pipe = await request.accept()
        carries_sealed(pipe)
        if pours == "who asked":
            await drink(pipe, MUCH)
            await send_all(pipe, b"thanks")
            pipe.shutdown_write()
        else:
            assert await receive_exactly(pipe, 3) == b"get"
            await pour(pipe, MUCH)
            assert not await receive(pipe)
        done.set()
        pipe.close()

    async with standing(serve=serve) as pair:
        pipe = await pair.alice.open_stream(BOBS_DID, None, 1)
        carries_sealed(pipe)
        with trio.fail_after(60):
            if pours == "who asked":
                await pour(pipe, MUCH)
                assert await receive_exactly(pipe, 6) == b"thanks" and not await receive(pipe)
            else:
                await send_all(pipe, b"get")
                await drink(pipe, MUCH)
                pipe.shutdown_write()
            await done.wait()
        pipe.close()
        assert len(pair.road.said) == 2


async def _broken(harm, *, ends) -> Pair:
    """Much is on its way over a bare leg when ``harm(pair)`` comes to it.  What its reader is told at last."""
    told: list[OSError | bytes] = []

    async def serve(request):
        pipe = await request.accept()
        carries_sealed(pipe)
        try:
            await pour(pipe, MUCH)
            await receive(pipe)
        except OSError:
            pass
        finally:
            pipe.close()

    async with standing(serve=serve) as pair:
        pipe = await pair.alice.open_stream(BOBS_DID, None, 1)
        carries_sealed(pipe)
        got, is_harmed = 0, False
        with trio.fail_after(60):
            try:
                while data := await receive(pipe, 65536):
                    got += len(data)
                    if got > MUCH // 2 and not is_harmed and bare_legs(pair) == [1, 1]:
                        is_harmed = True
                        harm(pair)
                told.append(b"")
            except OSError as fault:
                told.append(fault)
        pipe.close()
        assert is_harmed and isinstance(told[0], OSError), f"it took {got} bytes of {MUCH} for all"
        assert ends in str(told[0])
        await until(lambda: not pair.tunnel._machine.conversations)
        assert pair.alice.tunnels() == [pair.tunnel] and pair.tunnel.stands
        again = await pair.alice.open_stream(BOBS_DID, None, 1)
        again.close()


async def test_a_leg_that_is_cut_ends_the_stream_and_nothing_else():
    await _broken(lambda pair: pair.road.snap(pair.road.standing[1]), ends="")


async def test_what_somebody_on_the_road_adds_is_not_taken_for_the_peers():
    """The count of what was sent travels sealed: what is left at the end was not part of it."""

    def add(pair):
        (stream,) = pair.tunnel._streams.values()
        stream._bare.got += 1  # as if one byte more had come

    await _broken(add, ends="more came")


async def test_an_end_that_the_peer_did_not_say_is_none():
    """TCP's own end comes from whoever is on the road; the peer's is awaited, and does not come."""
    async with standing(serve=_pour_and_stay) as pair:
        pipe = await pair.alice.open_stream(BOBS_DID, None, 1)
        carries_sealed(pipe)
        with trio.fail_after(60):
            await receive_exactly(pipe, MUCH // 2)
            (stream,) = pair.tunnel._streams.values()
            stream._bare._pipe.shutdown(socket.SHUT_RD)  # as if its end had come
            while stream.fileno() >= 0 and not pair.tunnel._machine._orphans:
                try:
                    assert stream.recv_into(memoryview(bytearray(65536))), "that was no end"
                except BlockingIOError:
                    await trio.lowlevel.checkpoint()
        orphans = pair.tunnel._machine._orphans
        assert list(orphans) == list(pair.tunnel._streams)
        pair.tunnel._machine.handle_timeout(next(iter(orphans.values())))
        pair.tunnel._turn()
        with pytest.raises(ConnectionResetError):
            stream.recv_into(memoryview(bytearray(9)))
        pipe.close()


async def _pour_and_stay(request):
    pipe = await request.accept()
    carries_sealed(pipe)
    try:
        await pour(pipe, MUCH)
        await receive(pipe)
    except OSError:
        pass
    finally:
        pipe.close()


@pytest.mark.parametrize("who", ["sender", "reader"])
async def test_whoever_breaks_it_off_is_heard_at_the_other_end(who):
    heard = trio.Event()

    async def serve(request):
        pipe = await request.accept()
        carries_sealed(pipe)
        try:
            with trio.fail_after(60):
                if who == "reader":
                    await pour(pipe, 1 << 40)
                else:
                    while await receive(pipe, 65536):
                        pass
        except OSError:
            heard.set()
        finally:
            pipe.close()

    async with standing(serve=serve) as pair:
        pipe = await pair.alice.open_stream(BOBS_DID, None, 1)
        carries_sealed(pipe)
        with trio.fail_after(60):
            while bare_legs(pair) != [1, 1] or len(pair.road.said) < 2 or not pair.road.said[1]:
                if who == "reader":
                    await receive(pipe, 65536)
                else:
                    await send_all(pipe, bytes(65536))
            pipe.break_off()
            pipe.close()
            await heard.wait()
        await until(lambda: not pair.tunnel._machine.conversations and not pair.other._machine.conversations)
        await until(lambda: len(pair.road.standing) == 1)


async def test_a_reader_that_goes_away_stops_the_sender_in_peace():
    """Nothing is broken: the sender's bytes are taken and dropped, as on any stream."""
    stopped = trio.Event()

    async def serve(request):
        pipe = await request.accept()
        carries_sealed(pipe)
        sent = 0
        with trio.fail_after(60):
            while sent < 1 << 30 and not (pipe._bare is not None and pipe._bare.is_stopped):
                try:
                    sent += pipe.send(bytes(65536))
                    await trio.lowlevel.checkpoint()
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(pipe.fileno())
        stopped.set()
        pipe.close()

    async with standing(serve=serve) as pair:
        pipe = await pair.alice.open_stream(BOBS_DID, None, 1)
        carries_sealed(pipe)
        with trio.fail_after(60):
            await receive_exactly(pipe, MUCH)
            pipe.close()
            await stopped.wait()
        await until(lambda: not pair.tunnel._machine.conversations and not pair.other._machine.conversations)


async def test_who_still_speaks_is_heard_out_and_who_is_silent_is_not_waited_for(autojump_clock):
    ours, theirs = (TcpPipe(fileno=end.detach()) for end in socket.socketpair())
    for end in (ours, theirs):
        end.setblocking(False)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hear_out, ours, 10)
        for _ in range(3):
            await trio.sleep(8)
            theirs.send(b"what was under way")
            await trio.testing.wait_all_tasks_blocked()
    assert trio.current_time() - began == 34
    ours.close()
    assert theirs.recv(1) == b"", "an end, and nothing was called back"
    theirs.close()


async def test_the_end_of_the_tunnel_ends_its_bare_legs():
    async with standing(serve=_pour_and_stay) as pair:
        pipe = await pair.alice.open_stream(BOBS_DID, None, 1)
        carries_sealed(pipe)
        with trio.fail_after(60):
            await receive_exactly(pipe, MUCH // 2)
            assert bare_legs(pair) == [1, 1]
            pair.other.close()
            with pytest.raises(OSError):
                while await receive(pipe):
                    pass
        pipe.close()
        await until(lambda: not pair.road.standing)


async def test_who_does_not_read_holds_the_sender_and_costs_no_turns():
    async with standing(serve=_pour_and_stay) as pair:
        pipe = await pair.alice.open_stream(BOBS_DID, None, 1)
        carries_sealed(pipe)
        with trio.fail_after(60):
            got = len(await receive_exactly(pipe, MUCH // 3))
            (stream,) = pair.tunnel._streams.values()
            await until(lambda: stream._bare.is_paused)
            (sender,) = pair.other._streams.values()
            await until(lambda: sender._bare._events)
            assert sender._bare.sent < MUCH and not stream._bare._events
            while data := await receive(pipe, 262144):
                assert data == piece(got, len(data))
                got += len(data)
            assert got == MUCH
        pipe.close()


@pytest.mark.parametrize("harm", [None, "spoilt", "cut"])
async def test_a_tunnel_through_a_relay_is_carried_bare_and_outlives_all_that_is_done_to_it(harm):
    """Alice talks with Bob through a hop that joins streams: what the hop moves is theirs, and they find out."""
    town, reactor = Town(versions=FIVE), Reactor()
    relays: list[Relay] = []
    there, back = (random.Random(seed).randbytes(NESTED) for seed in "tb")
    answered = trio.Event()

    async def answer(request):
        pipe = await request.accept()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send_all, pipe, back)
                assert await receive_exactly(pipe, NESTED) == there
            answered.set()
        finally:
            pipe.close()

    async with trio.open_nursery() as nursery:
        await nursery.start(reactor.run)
        bobs: list = []

        async def pass_on(request):
            """The hop asks Bob for a stream on the tunnel that Bob keeps, and joins the two."""
            far = await bobs[0].open_stream(None, 1)
            near = await request.accept()
            carries_sealed(near)
            carries_sealed(far)
            relays.append(Relay(hop_reactor[0], near, far, idle=60, on_close=lambda *_: None))

        hop_reactor: list = []

        async def door(request):
            """Bob's end of such a stream is a connection to his inner device."""
            inner_bob.accepted(await request.accept(), ("127.0.0.9", 1))

        async with (
            town.live(MALLORY, serve=pass_on) as hop,
            town.live(BOB, hosts=(), serve=door) as outer_bob,
            town.live(BOB, hosts=(), serve=answer) as inner_bob,
            town.live(ALICE, hosts=()) as outside,
            town.live(ALICE, hosts=()) as inside,
        ):
            (where,) = town.people[HOP].addresses
            road = await nursery.start(Middle(where[1]).run)
            town.settle(MALLORY, (HOST, road.port))
            town.settle(BOB, (HOST, 9))
            await outer_bob.tunnel(HOP)
            await until(hop.tunnels)
            bobs += hop.tunnels()
            hop_reactor.append(bobs[0]._shared.reactor)

            async def over(host, port):
                return await outside.open_stream(HOP, "bob.example", 1)

            pipe = await inside.open_stream(BOBS_DID, None, 1, via=Carrier(f"rtcp://{HOP}", over))
            got, harmed = bytearray(), False
            with trio.fail_after(60):
                async with trio.open_nursery() as talking:
                    talking.start_soon(send_all, pipe, there)
                    while len(got) < NESTED:
                        got += await receive(pipe, 65536)
                        bare = sum(leg.bare for one in bobs for leg in one._machine._legs.values())
                        if bare and not harmed and len(got) > NESTED // 3:
                            harmed = True
                            for one in road.standing[2:] if harm else ():
                                if harm == "cut":
                                    one.scope.cancel()
                                else:
                                    one.spoil.update(("there", "back"))
                assert got == back
                await answered.wait()
            pipe.close()
            assert harmed and len(road.said) >= 4, "each end has its tunnel and a leg"
            for relay in relays:
                relay.close()
        nursery.cancel_scope.cancel()
    reactor.close()
