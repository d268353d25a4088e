"""Devices that speak version 5 with each other, over loopback: streams, datagrams, tunnels, and who gets none."""

from __future__ import annotations

import logging
import socket
from contextlib import closing
from dataclasses import replace
from functools import partial

import pytest
import trio
import trio.testing

from cyfs_ns.errors import Misuse, Refused, Unreachable
from cyfs_ns.identity.did import dev_did
from rtcp.admission import Policy, Standing
from rtcp.backoff import Backoff
from rtcp.door import DoorLimits
from rtcp.io.device import Carrier
from rtcp.io.mux import MuxedTunnel
from rtcp.io.tunnel import refuse
from rtcp.packet import Purpose
from rtcp.v5.frames import LAST_ID
from rtcp.v5.limits import Bounds
from rtcp.v5.tunnel import Tunnel as Machine
from tests.freeport import free_port
from tests.rtcp.pair import ALICE, ALICES_NAME, BOB, BOBS_NAME, MALLORY, WALL, device_document
from tests.rtcp.town import (
    HOST,
    FarEnd,
    Middle,
    Reluctant,
    Town,
    connect,
    descriptors,
    echo,
    receive,
    receive_exactly,
    reject,
    send_all,
    talk,
    until,
)
from tests.tunnels.exam import black_hole, check_endpoint, closed_port

ALICES_DID, BOBS_DID = dev_did(ALICE.public), dev_did(BOB.public)
BOTH, FIVE, FOUR = frozenset({5, 4}), frozenset({5}), frozenset({4})


@pytest.fixture(autouse=True)
def nothing_is_left():
    before = descriptors()
    yield
    assert descriptors() <= before


@pytest.fixture(autouse=True)
def nothing_fails(caplog):
    """What escapes a handler is logged, and nobody else would see it."""
    yield
    assert [one for one in caplog.get_records("call") if one.exc_info and "ZeroDivision" not in str(one.exc_info)] == []


@pytest.fixture
def town():
    return Town(versions=BOTH)


@pytest.fixture
def bounded(monkeypatch):
    """Other bounds, for whoever calls or is called."""

    def bind(made: str, **bounds):
        monkeypatch.setitem(getattr(Machine, made).__func__.__kwdefaults__, "bounds", Bounds(**bounds))

    return bind


# Streams


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


@pytest.mark.parametrize(("versions", "watched"), [(FIVE, [0, 0]), (FOUR, [1])], ids=["five", "four"])
async def test_the_kernel_keeps_alive_only_what_has_no_pulse_of_its_own(versions, watched):
    town = Town(versions=versions)
    async with town.live(ALICE, hosts=()) as alice, town.live(BOB) as bob:
        tunnels = [await alice.tunnel(BOBS_DID)]
        if versions == FIVE:
            await until(bob.tunnels)
            tunnels += bob.tunnels()
        pipes = [each.pipe if isinstance(each, MuxedTunnel) else each._pipe for each in tunnels]
        assert [pipe.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) for pipe in pipes] == watched


async def test_what_is_wanted_at_once_goes_out_behind_the_handshake_and_waits_for_the_verdict(town):
    verdict, served = trio.Event(), []

    async def welcome(peer):
        await verdict.wait()

    async def serve(request):
        assert verdict.is_set()
        served.append(request.port)
        await echo(request)

    async with town.live(BOB, welcome=welcome, serve=serve) as bob, trio.open_nursery() as nursery:
        middle = await nursery.start(Middle(bob.local.listen_port).run)
        town.settle(BOB, (HOST, middle.port))
        async with town.live(ALICE, hosts=()) as alice:
            async with trio.open_nursery() as asking:

                async def ask():
                    leg = await alice.open_stream(BOBS_DID, None, 443)
                    await talk(leg)
                    leg.close()

                asking.start_soon(ask)
                await until(lambda: middle.said and _behind_message_3(middle.said[0]))
                assert not alice.tunnels()
                assert not served
                verdict.set()
            assert served == [443], "nothing was asked twice"
        middle.cut()


def _behind_message_3(said: bytes) -> bytes:
    """What a caller said behind its two messages."""
    for _ in range(2):
        said = said[int.from_bytes(said[:2], "big") :] if len(said) > 1 else b""
    return said


async def test_what_was_wanted_at_once_comes_to_nothing_with_the_verdict(town):
    served = []

    async def serve(request):
        served.append(request.port)

    async with (
        town.live(BOB, welcome=reject("not today"), serve=serve),
        town.live(ALICE, hosts=()) as alice,
    ):
        with pytest.raises(Refused, match="not today"):
            await alice.open_stream(BOBS_DID, None, 443)
    assert not served


async def test_a_no_to_what_was_wanted_at_once_is_heard_once(town):
    served = []

    async def serve(request):
        served.append(request.port)
        raise Refused("not that")

    async with town.live(BOB, serve=serve), town.live(ALICE, hosts=()) as alice:
        with pytest.raises(Refused):
            await alice.open_stream(BOBS_DID, None, 443)
        assert served == [443]
        assert len(alice.tunnels()) == 1


async def test_who_gives_up_while_the_verdict_is_out_leaves_nothing(town):
    verdict, asked = trio.Event(), trio.Event()

    async def welcome(peer):
        asked.set()
        await verdict.wait()

    async with town.live(BOB, welcome=welcome), town.live(ALICE, hosts=()) as alice, trio.open_nursery() as asking:
        asking.start_soon(alice.open_stream, BOBS_DID, None, 443)
        await asked.wait()
        asking.cancel_scope.cancel()
    assert not alice.tunnels()


@pytest.mark.parametrize("opener", ["who called", "who was called"])
async def test_a_stream_keeps_the_rules_of_endpoints(town, opener):
    """Both ends sit the exam: who opened, and who answered."""
    send, accepted = trio.open_memory_channel(1)

    async def serve(request):
        await send.send(await request.accept())

    async with town.live(ALICE, hosts=(), serve=serve) as alice, town.live(BOB, serve=serve) as bob:
        await alice.tunnel(BOBS_DID)
        await until(bob.tunnels)
        mine, to = (alice, BOBS_DID) if opener == "who called" else (bob, ALICES_DID)

        async def opened():
            ours = await mine.open_stream(to, None, 1)
            return ours, FarEnd(await accepted.receive())

        async def answered():
            theirs = await mine.open_stream(to, None, 1)
            return await accepted.receive(), FarEnd(theirs)

        await check_endpoint(opened)
        await check_endpoint(answered)
        for device in (alice, bob):
            (tunnel,) = device.tunnels()
            await until(lambda tunnel=tunnel: not tunnel._machine.conversations and not tunnel._streams)


async def test_the_handler_is_told_who_asks_and_for_what(town):
    asked = []

    async def serve(request):
        asked.append((request.peer, request.purpose, request.host, request.port))
        await echo(request)

    town.settle(ALICE, about="a friend", did=ALICES_NAME)
    alices = {"did": ALICES_NAME, "doc": device_document(ALICE), "serve": serve, "wall": lambda: WALL}
    wanted = [(None, 443), ("printer.home", 631), ("2001:db8::7", 80), ("192.0.2.1", 0), ("tcp:///hop:1", 0)]
    async with (
        town.live(ALICE, hosts=(), **alices) as alice,
        town.live(BOB, did=BOBS_NAME, serve=serve, wall=lambda: WALL) as bob,
    ):
        for host, port in wanted:
            for mine, name in ((alice, BOBS_NAME), (bob, ALICES_NAME)):
                leg = await mine.open_stream(name, host, port)
                await talk(leg)
                leg.close()
    by_alice, by_bob = asked[0][0], asked[1][0]
    assert [what for _, *what in asked[::2]] == [[Purpose.STREAM, *one] for one in wanted]
    assert [what for _, *what in asked[1::2]] == [[Purpose.STREAM, *one] for one in wanted]
    assert (by_alice.did, by_alice.device, by_alice.about) == (ALICES_NAME, ALICES_DID, "a friend")
    assert (by_alice.dialled, by_alice.source) == (False, HOST)
    assert (by_bob.did, by_bob.device, by_bob.dialled, by_bob.source) == (BOBS_NAME, BOBS_DID, True, "")


async def test_who_asks_is_what_is_known_of_him_by_now(town):
    asked = []

    async def serve(request):
        asked.append(request.peer.about)
        await echo(request)

    async with town.live(ALICE, hosts=()) as alice, town.live(BOB, serve=serve) as bob:
        await alice.tunnel(BOBS_DID)
        await until(bob.tunnels)
        (tunnel,) = bob.tunnels()
        for about in ("a stranger", "a friend"):
            tunnel.peer = replace(tunnel.peer, about=about)
            leg = await alice.open_stream(BOBS_DID, None, 1)
            await talk(leg)
            leg.close()
    assert asked == ["a stranger", "a friend"]


async def test_the_server_may_speak_first(town):
    async def greet(request):
        leg = await request.accept()
        await send_all(leg, b"220 welcome")
        leg.shutdown_write()
        assert await receive(leg) == b""
        leg.close()

    async with town.live(ALICE, hosts=(), serve=greet) as alice, town.live(BOB, serve=greet) as bob:
        for mine, to in ((alice, BOBS_DID), (bob, ALICES_DID)):
            leg = await mine.open_stream(to, None, 25)
            with trio.fail_after(60):
                assert await receive_exactly(leg, 11) == b"220 welcome"
                assert await receive(leg) == b""
                leg.shutdown_write()
            leg.close()
            (tunnel,) = mine.tunnels()
            await until(lambda tunnel=tunnel: not tunnel._machine.conversations)
            assert await tunnel.ping() > 0, "so the other side has heard the end"


async def test_much_goes_through_both_ways_at_once(town):
    much = bytes(range(256)) * 65536
    async with town.live(ALICE, hosts=()) as alice, town.live(BOB):
        stream = await alice.open_stream(BOBS_DID, None, 443)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_all, stream, much)
            with trio.fail_after(60):
                assert await receive_exactly(stream, len(much)) == much
        stream.close()


async def test_what_is_sent_before_a_close_arrives(town):
    got = bytearray()

    async def take(request):
        with closing(await request.accept()) as leg:
            while data := await receive(leg):
                got.extend(data)

    async with town.live(ALICE, hosts=()) as alice, town.live(BOB, serve=take) as bob:
        leg = await alice.open_stream(BOBS_DID, None, 1)
        taken = leg.send(bytes(range(256)) * 200)
        leg.close()
        await until(lambda: len(got) == taken)
        assert got == (bytes(range(256)) * 200)[:taken]
        (tunnel,) = bob.tunnels()
        await until(lambda: not tunnel._machine.conversations)


async def test_what_nobody_wants_to_read_is_taken_and_dropped(town):
    """The one who has stopped reading is heard to its end all the same."""

    async def serve(request):
        leg = await request.accept()
        assert await receive_exactly(leg, 5) == bytes(5)
        await send_all(leg, b"enough")
        leg.close()

    async with town.live(ALICE, hosts=()) as alice, town.live(BOB, serve=serve) as bob:
        leg = await alice.open_stream(BOBS_DID, None, 1)
        with trio.fail_after(60):
            await send_all(leg, bytes(10 << 20))
            assert await receive_exactly(leg, 6) == b"enough"
            assert await receive(leg) == b""
        leg.close()
        for device in (alice, bob):
            (tunnel,) = device.tunnels()
            await until(lambda tunnel=tunnel: not tunnel._machine.conversations and not tunnel._machine.kept)
            assert not tunnel._machine.unread and not tunnel._streams


@pytest.mark.parametrize("read", [False, True], ids=["unread", "read"])
async def test_a_stream_that_is_broken_off_does_not_look_complete(town, read):
    async def break_off(request):
        leg = await request.accept()
        await send_all(leg, b"half of it")
        if read:
            assert await receive(leg) == b"go"
        leg.break_off()
        leg.close()

    async with town.live(ALICE, hosts=()) as alice, town.live(BOB, serve=break_off):
        leg = await alice.open_stream(BOBS_DID, None, 1)
        if read:
            assert await receive_exactly(leg, 10) == b"half of it"
            await send_all(leg, b"go")
        else:
            (tunnel,) = alice.tunnels()
            await until(lambda: not tunnel._machine.conversations)
        with pytest.raises(ConnectionResetError):
            await receive(leg)
        with pytest.raises(ConnectionResetError):
            leg.send(b"too late")
        leg.close()


async def test_what_was_finished_is_read_to_its_end_whatever_becomes_of_the_tunnel(town):
    """Its bytes are complete, and here."""

    async def tell(request):
        leg = await request.accept()
        await send_all(leg, b"all there is")
        leg.close()

    async with town.live(ALICE, hosts=()) as alice, town.live(BOB, serve=tell) as bob:
        leg = await alice.open_stream(BOBS_DID, None, 1)
        await until(lambda: leg._ended)
        bob.tunnels()[0].close()
        await until(lambda: not alice.tunnels())
        assert await receive_exactly(leg, 12) == b"all there is"
        assert await receive(leg) == b""
        with pytest.raises(ConnectionResetError):
            leg.send(b"nobody hears that")
        leg.close()


# Datagrams


async def gather(datagrams, size):
    """The next ``size`` datagrams."""
    got = []
    with trio.fail_after(60):
        while len(got) < size:
            await trio.lowlevel.wait_readable(datagrams.fileno())
            try:
                got.append(datagrams.recv())
            except BlockingIOError:
                continue
    return got


async def echo_datagrams(request):
    assert request.purpose is Purpose.DATAGRAM
    datagrams = await request.accept_datagrams()
    try:
        while True:
            (data,) = await gather(datagrams, 1)
            datagrams.send(data)
    except ConnectionResetError:
        pass
    finally:
        datagrams.close()


async def test_datagrams_keep_their_edges(town):
    async with town.live(ALICE, hosts=()) as alice, town.live(BOB, serve=echo_datagrams) as bob:
        datagrams = await alice.open_datagrams(BOBS_DID, "dns.example", 53)
        with pytest.raises(BlockingIOError):
            datagrams.recv()
        sent = [b"", b"x", bytes(65507), b"last"]
        for data in sent:
            datagrams.send(data)
        assert await gather(datagrams, len(sent)) == sent
        datagrams.send(bytes(65508))
        datagrams.send(b"after one that was too long")
        assert await gather(datagrams, 1) == [b"after one that was too long"]
        datagrams.close()
        datagrams.close()
        await until(lambda: not bob.tunnels()[0]._machine.conversations)
        assert not bob.tunnels()[0]._flows and not alice.tunnels()[0]._flows


async def test_a_burst_of_datagrams_is_dropped_and_the_rest_arrives_whole(town):
    async with town.live(ALICE, hosts=()) as alice, town.live(BOB, serve=echo_datagrams):
        datagrams = await alice.open_datagrams(BOBS_DID, "dns.example", 53)
        for number in range(4000):
            datagrams.send(number.to_bytes(4, "big") * 4000)
        got = []
        while not got or got[-1] < 3999:
            (data,) = await gather(datagrams, 1)
            assert len(data) == 16000 and data == data[:4] * 4000
            got.append(int.from_bytes(data[:4], "big"))
        assert got == sorted(got) and len(got) <= 32, "what waited for too long was dropped first"
        datagrams.close()


async def test_datagrams_that_nobody_reads_are_dropped(town):
    flows = []

    async def keep(request):
        flows.append(await request.accept_datagrams())

    async with town.live(ALICE, hosts=()) as alice, town.live(BOB, serve=keep):
        datagrams = await alice.open_datagrams(BOBS_DID, "dns.example", 53)
        for number in range(2000):
            datagrams.send(b"%d" % number)
            if number % 100 == 0:
                await (await alice.tunnel(BOBS_DID)).ping()
        await (await alice.tunnel(BOBS_DID)).ping()
        assert len(flows[0]._arrived) == 512
        assert (await gather(flows[0], 512))[0] == b"0"
        with pytest.raises(BlockingIOError):
            flows[0].recv()
        datagrams.close()
        with pytest.raises(ConnectionResetError), trio.fail_after(60):
            while True:
                await gather(flows[0], 1)
        flows[0].close()


# Requests that come to nothing


@pytest.mark.parametrize("asker", ["who dialled", "who was dialled"])
@pytest.mark.parametrize(
    ("serve", "fault", "reason"),
    [
        (reject("not for you"), Refused, ""),
        (partial(trio.sleep, 0), Refused, ""),
        (ZeroDivisionError(), Unreachable, "tunnel_open"),
        (Unreachable("no answer", "connect_timeout"), Unreachable, "connect_timeout"),
        (Unreachable("refused", "connect_refused"), Unreachable, "connect_refused"),
        (Unreachable("no such name", "pre_connect_dns"), Unreachable, "pre_connect_dns"),
        (Unreachable("no route", "other"), Unreachable, "tunnel_open"),
    ],
    ids=["refused", "ignored", "crashed", "target too slow", "target closed", "no name", "no way"],
)
@pytest.mark.parametrize("datagrams", [False, True], ids=["stream", "datagrams"])
async def test_a_request_that_is_not_served_is_told_so_and_the_tunnel_stands(
    town, asker, serve, fault, reason, datagrams
):
    served = []

    async def handler(request):
        served.append(request)
        if len(served) > 1:
            await echo(request)
        elif isinstance(serve, Exception):
            raise serve
        elif isinstance(serve, partial):
            await serve()
        else:
            await serve(request)

    async with town.live(ALICE, hosts=(), serve=handler) as alice, town.live(BOB, serve=handler) as bob:
        await alice.tunnel(BOBS_DID)
        await until(bob.tunnels)
        mine, to = (alice, BOBS_DID) if asker == "who dialled" else (bob, ALICES_DID)
        with pytest.raises(fault) as failed:
            await (mine.open_datagrams if datagrams else mine.open_stream)(to, None, 22)
        assert getattr(failed.value, "reason", "") == reason
        (tunnel,) = mine.tunnels()
        assert not tunnel._streams and not tunnel._flows and not tunnel._asking and not tunnel._machine.conversations
        leg = await mine.open_stream(to, None, 22)
        await talk(leg)
        leg.close()


async def test_a_handler_that_thinks_too_long_is_ended(town, bounded):
    bounded("welcome", answer=0.2)
    ended = trio.Event()

    async def think(request):
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async with town.live(ALICE, hosts=()) as alice, town.live(BOB, serve=think) as bob:
        with pytest.raises(Unreachable) as failed:
            await alice.open_stream(BOBS_DID, None, 22)
        assert failed.value.reason == "connect_timeout"
        with trio.fail_after(60):
            await ended.wait()
        (tunnel,) = bob.tunnels()
        assert not tunnel._judging and not tunnel._machine.conversations


async def test_what_a_handler_does_after_accepting_takes_as_long_as_it_takes(town, bounded):
    bounded("welcome", answer=0.1)
    async with town.live(ALICE, hosts=()) as alice, town.live(BOB):
        leg = await alice.open_stream(BOBS_DID, None, 22)
        await talk(leg)
        accepted = trio.current_time()
        await until(lambda: trio.current_time() > accepted + 0.2)
        await talk(leg)
        leg.close()


async def test_whoever_asked_and_left_is_not_served(town):
    """The one who thinks about it is told, and cannot accept any more."""
    asked, ended = trio.Event(), []

    async def think(request):
        asked.set()
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                try:
                    await request.accept()
                except Unreachable as late:
                    ended.append(str(late))

    async with town.live(ALICE, hosts=()) as alice, town.live(BOB, serve=think), trio.open_nursery() as nursery:
        nursery.start_soon(alice.open_stream, BOBS_DID, None, 1)
        await asked.wait()
        nursery.cancel_scope.cancel()
        nursery.cancel_scope.shield = False
    assert ended == ["the peer waits for this stream no longer"]


async def test_a_request_is_accepted_once(town):
    async def twice(request):
        pipe = await request.accept()
        with pytest.raises(Unreachable):
            await request.accept()
        assert await receive_exactly(pipe, 5) == b"hello"
        await send_all(pipe, b"hello")
        pipe.close()

    async with town.live(ALICE, hosts=()) as alice, town.live(BOB, serve=twice):
        leg = await alice.open_stream(BOBS_DID, None, 1)
        await talk(leg)
        leg.close()


async def test_a_request_for_a_stream_is_not_accepted_for_datagrams(town):
    """Nor the other way round: what was asked for is what is given."""

    async def mistaken(request):
        with pytest.raises(Misuse):
            await (request.accept_datagrams if request.purpose is Purpose.STREAM else request.accept)()

    async with town.live(ALICE, hosts=()) as alice, town.live(BOB, serve=mistaken) as bob:
        for open_one in (alice.open_stream, alice.open_datagrams):
            with pytest.raises((Refused, Unreachable)):
                await open_one(BOBS_DID, None, 1)
        (tunnel,) = bob.tunnels()
        assert not tunnel._streams and not tunnel._flows


async def test_without_a_handler_nothing_is_served(town):
    async with town.live(ALICE, hosts=()) as alice, town.live(BOB, serve=refuse):
        with pytest.raises(Refused):
            await alice.open_stream(BOBS_DID, None, 22)


# Tunnels


async def test_one_tunnel_is_made_for_all_who_want_it(town):
    async with town.live(ALICE, hosts=()) as alice, town.live(BOB) as bob:
        legs = []

        async def open_one():
            legs.append(await alice.open_stream(BOBS_DID, None, 1))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(open_one)
        assert len(legs) == 20 and town.asked == [BOBS_DID] and len(bob.tunnels()) == 1
        for leg in legs:
            await talk(leg)
            leg.close()


async def test_two_who_dial_each_other_at_once_may_both_use_either_tunnel(town):
    for _ in range(5):
        async with town.live(ALICE) as alice, town.live(BOB) as bob:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(alice.tunnel, BOBS_DID)
                nursery.start_soon(bob.tunnel, ALICES_DID)
            await until(lambda a=alice, b=bob: len(a.tunnels()) == len(b.tunnels()) and a.tunnels())
            for tunnel in (*alice.tunnels(), *bob.tunnels()):
                leg = await tunnel.open_stream(None, 1)
                await talk(leg)
                leg.close()
            for mine, to in ((alice, BOBS_DID), (bob, ALICES_DID)):
                leg = await mine.open_stream(to, None, 1)
                await talk(leg)
                leg.close()


async def test_of_two_tunnels_one_may_end_and_the_other_serves(town):
    async with town.live(ALICE) as alice, town.live(BOB) as bob:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(alice.tunnel, BOBS_DID)
            nursery.start_soon(bob.tunnel, ALICES_DID)
        await until(lambda: len(alice.tunnels()) == len(bob.tunnels()))
        for tunnel in alice.tunnels()[1:]:
            tunnel.close()
        await until(lambda: len(alice.tunnels()) == len(bob.tunnels()) == 1)
        for mine, to in ((alice, BOBS_DID), (bob, ALICES_DID)):
            leg = await mine.open_stream(to, None, 1)
            await talk(leg)
            leg.close()
        assert len(alice.tunnels()) == len(bob.tunnels()) == 1, "nobody had to dial"


async def test_two_names_of_one_device_are_dialled_once(town):
    async with (
        town.live(ALICE, hosts=()) as alice,
        town.live(BOB, did=BOBS_NAME) as bob,
    ):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(alice.tunnel, BOBS_NAME)
            nursery.start_soon(alice.tunnel, BOBS_DID)
        assert len(town.asked) == 2 and len(bob.tunnels()) == len(alice.tunnels()) == 1


async def test_a_name_and_its_device_share_a_tunnel(town):
    async with town.live(ALICE, hosts=()) as alice, town.live(BOB, did=BOBS_NAME) as bob:
        first = await alice.tunnel(BOBS_NAME)
        assert await alice.tunnel(BOBS_DID) is first
        assert await alice.tunnel(BOBS_NAME) is first
        await until(bob.tunnels)
        assert len(bob.tunnels()) == 1 and town.asked == [BOBS_NAME]


async def test_a_carrier_that_takes_a_few_bytes_at_a_time_is_slow_and_no_more(town):
    async def dial(host, port):
        return Reluctant(await connect(host, port))

    town.dial = dial
    async with town.live(ALICE, hosts=()) as alice, town.live(BOB) as bob:
        leg = await alice.open_stream(BOBS_DID, "printer.home", 631)
        await talk(leg, bytes(range(256)) * 8)
        leg.close()
        back = await bob.open_stream(ALICES_DID, None, 1)
        await talk(back, b"hello" * 100)
        back.close()


async def test_both_families_are_listened_on(town):
    async with town.live(ALICE, hosts=()) as alice, town.live(BOB, hosts=("::1", HOST), port=free_port()):
        port = town.people[BOBS_DID].addresses[0][1]
        assert town.people[BOBS_DID].addresses == (("::1", port), (HOST, port))
        for address in town.people[BOBS_DID].addresses:
            town.settle(BOB, address)
            tunnel = await alice.tunnel(BOBS_DID)
            await tunnel.ping()
            tunnel.close()
            await tunnel.over.wait()


@pytest.mark.parametrize("versions", [BOTH, FIVE], ids=["both", "five"])
async def test_whoever_answers_has_to_prove_the_key(versions):
    town = Town(versions=versions)
    async with town.live(ALICE, hosts=()) as alice, town.live(MALLORY) as mallory, town.live(BOB):
        here = town.people[BOBS_DID].addresses
        there = town.people[dev_did(MALLORY.public)].addresses
        town.settle(BOB, *there)
        with pytest.raises(Unreachable):
            await alice.tunnel(BOBS_DID)
        town.settle(BOB, *there, *here)
        alice._resting.clear()
        tunnel = await alice.tunnel(BOBS_DID)
        await tunnel.ping()
        assert mallory.tunnels() == []


async def test_an_address_that_is_silent_costs_a_head_start_only(town):
    with black_hole() as hole:
        async with town.live(ALICE, hosts=()) as alice, town.live(BOB):
            good = town.people[BOBS_DID].addresses
            town.settle(BOB, (hole.host, hole.port), (HOST, closed_port()), *good)
            with trio.fail_after(60):
                tunnel = await alice.tunnel(BOBS_DID)
            await tunnel.ping()


async def test_nobody_dials_himself(town):
    async with town.live(ALICE) as alice:
        with pytest.raises(Refused, match="this device"):
            await alice.tunnel(ALICES_DID)
        town.settle(BOB, *town.people[ALICES_DID].addresses)
        with pytest.raises(Unreachable):
            await alice.tunnel(BOBS_DID)
        assert alice.tunnels() == []


async def test_the_rules_for_tunnels_say_why(town):
    seen = []

    async def welcome(peer):
        seen.append(peer.device)
        raise Refused("not on Sundays")

    async with town.live(ALICE, hosts=()) as alice, town.live(BOB, welcome=welcome) as bob:
        with pytest.raises(Refused, match="not on Sundays"):
            await alice.tunnel(BOBS_DID)
        assert seen == [ALICES_DID] and bob.tunnels() == [] == alice.tunnels()


async def test_only_so_many_tunnels_are_taken(town):
    async with town.live(BOB, door=DoorLimits(standing=1)) as bob:
        async with town.live(ALICE, hosts=()) as alice, town.live(MALLORY, hosts=()) as mallory:
            await alice.tunnel(BOBS_DID)
            with pytest.raises(Unreachable, match="no more"):
                await mallory.tunnel(BOBS_DID)
        await until(lambda: not bob.tunnels())
        assert not bob._roll._muxed
        async with town.live(MALLORY, hosts=()) as mallory:
            await mallory.tunnel(BOBS_DID)


@pytest.mark.parametrize(
    ("vouched", "policy", "why"),
    [
        (Standing(key=None), Policy(), "nobody vouches"),
        (Standing(key=BOB.public), Policy(), "another key"),
        (Standing(key=ALICE.public, disowned=True), Policy(), "disowned"),
        (Refused("never heard of"), Policy(), "never heard of"),
        (Unreachable("DNS is down"), Policy(), "DNS is down"),
    ],
)
async def test_who_goes_by_a_name_that_nobody_vouches_for_is_told_so(town, vouched, policy, why):
    async def vouch(proven):
        if isinstance(vouched, Exception):
            raise vouched
        return vouched

    async with (
        town.live(ALICE, hosts=(), did=ALICES_NAME, doc=device_document(ALICE), wall=lambda: WALL) as alice,
        town.live(BOB, vouch=vouch, policy=policy, wall=lambda: WALL) as bob,
    ):
        # Who could not be looked up was not judged, so it may come again soon.
        with pytest.raises(Unreachable if isinstance(vouched, Unreachable) else Refused, match=why):
            await alice.tunnel(BOBS_DID)
        assert bob.tunnels() == []


async def test_a_peer_without_a_name_is_let_in_by_policy_alone(town):
    async with town.live(ALICE, hosts=()) as alice, town.live(BOB, policy=Policy(anonymous=False)) as bob:
        with pytest.raises(Refused, match="without a name"):
            await alice.tunnel(BOBS_DID)
        assert bob.tunnels() == []


async def test_a_name_belongs_to_one_device(town):
    vouched = {"key": ALICE.public}

    async def vouch(proven):
        return Standing(key=vouched["key"])

    def live(key):
        return town.live(key, hosts=(), did=ALICES_NAME, doc=device_document(key), wall=lambda: WALL)

    async with town.live(BOB, vouch=vouch, wall=lambda: WALL) as bob:
        async with live(ALICE) as alice, live(MALLORY) as mallory:
            await alice.tunnel(BOBS_DID)
            vouched["key"] = MALLORY.public
            with pytest.raises(Refused):
                await mallory.tunnel(BOBS_DID)
            assert [tunnel.peer.device for tunnel in bob.tunnels()] == [ALICES_DID]
        await until(lambda: not bob.tunnels())
        async with live(MALLORY) as mallory:
            await mallory.tunnel(BOBS_DID)


async def test_who_means_somebody_else_is_told_so(town):
    """The key is the one that was called, and the name is not one it answers to."""
    async with town.live(ALICE, hosts=()) as alice, town.live(BOB):
        town.settle(BOB, *town.people[BOBS_DID].addresses, did=BOBS_NAME)
        with pytest.raises(Refused, match="nobody of that name"):
            await alice.tunnel(BOBS_NAME)


async def test_a_verdict_that_takes_too_long_is_no(town, monkeypatch):
    monkeypatch.setattr("rtcp.v5.answering.VERDICT_WAIT", 0.2)

    async def think(peer):
        await trio.sleep_forever()

    async with town.live(ALICE, hosts=()) as alice, town.live(BOB, welcome=think) as bob:
        with pytest.raises(Unreachable, match="no verdict"):
            await alice.tunnel(BOBS_DID)
        assert bob.tunnels() == []


# Ways around


async def test_a_way_around_is_a_tunnel_of_its_own_and_carries_every_leg(town):
    carried = []

    async def around(host, port):
        carried.append((host, port))
        return await connect(HOST, town.people[BOBS_DID].addresses[0][1])

    async with town.live(ALICE, hosts=()) as alice, town.live(BOB):
        (where,) = town.people[BOBS_DID].addresses
        by_proxy = Carrier("socks://hop", around)
        tunnel = await alice.tunnel(BOBS_DID, via=by_proxy)
        leg = await alice.open_stream(BOBS_DID, None, 1, via=by_proxy)
        await talk(leg)
        assert carried == [where]
        much = bytes(range(256)) * 16384
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_all, leg, much)
            assert await receive_exactly(leg, len(much)) == much
        await until(lambda: len(carried) == 2)
        leg.close()
        assert set(carried) == {where}
        assert await alice.tunnel(BOBS_DID, via=by_proxy) is tunnel
        assert await alice.tunnel(BOBS_DID) is not tunnel


async def test_a_tunnel_that_the_peer_dialled_serves_whatever_the_way(town):
    async with town.live(BOB) as bob, town.live(ALICE, hosts=()) as alice:
        await alice.tunnel(BOBS_DID)
        await until(bob.tunnels)
        leg = await bob.open_stream(ALICES_DID, None, 1, via=Carrier("socks://hop", connect))
        await talk(leg)
        leg.close()
        leg = await alice.open_stream(BOBS_DID, None, 1, via=Carrier("socks://hop", connect))
        await talk(leg)
        leg.close()
        assert len(bob.tunnels()) == 2


@pytest.mark.parametrize("versions", [BOTH, FIVE], ids=["both", "five"])
async def test_a_way_that_leads_there_by_itself_needs_no_address(versions):
    town, carried = Town(versions=versions), []

    async def around(host, port):
        carried.append((host, port))
        if len(carried) == bad:
            raise Unreachable("not at the moment", "connect_refused")
        return await connect(*where)

    async with town.live(ALICE, hosts=()) as alice, town.live(BOB):
        (where,) = town.people[BOBS_DID].addresses
        town.settle(BOB)
        bad = 0
        way = Carrier("tcp:///bob:1", around, leads=True)
        leg = await alice.open_stream(BOBS_DID, None, 1, via=way)
        await talk(leg)
        (tunnel,) = alice.tunnels()
        town.settle(BOB, (HOST, closed_port()))
        for bad in (0, 1):
            carried.clear()
            for line in list(tunnel._lines.values()):
                line._pipe.shutdown_write()
            await talk(leg)
            assert carried == [("", 0)] * (1 + bad), "and it leads there again"
        leg.close()


async def test_whoever_cannot_call_back_asks_for_a_leg(town, monkeypatch):
    """Alice says where she may be called, and came from somewhere that has no address: over another tunnel, say."""
    monkeypatch.setattr("rtcp.io.reception.is_ip", lambda host: False)
    carried, much = [], bytes(range(256)) * 16384

    async def pour(request):
        pipe = await request.accept()
        await send_all(pipe, much)
        pipe.close()

    async def dial(host, port):
        carried.append(port)
        return await connect(host, port)

    town.dial = dial
    async with town.live(ALICE) as alice, town.live(BOB, serve=pour):
        leg = await alice.open_stream(BOBS_DID, None, 1)
        with trio.fail_after(60):
            assert await receive_exactly(leg, len(much)) == much
        assert await receive(leg) == b""
        leg.close()
        assert carried == [town.people[BOBS_DID].addresses[0][1]] * 2


async def relay(request, relayed):
    """What a hop does: it connects to the target and carries bytes, which it may look at."""
    far = await connect(request.host, request.port)
    near = await request.accept()

    async def pump(source, sink):
        try:
            while data := await receive(source):
                relayed.extend(data)
                await send_all(sink, data)
            sink.shutdown_write()
            await send_all(sink, b"")
        except OSError:
            pass

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pump, near, far)
            nursery.start_soon(pump, far, near)
    finally:
        near.close()
        far.close()


async def test_a_tunnel_through_a_tunnel_is_secret_from_the_one_in_the_middle(town):
    relayed, hop = bytearray(), dev_did(MALLORY.public)
    async with (
        town.live(ALICE, hosts=()) as alice,
        town.live(MALLORY, serve=lambda request: relay(request, relayed)) as mallory,
        town.live(BOB) as bob,
    ):

        async def over(host, port):
            return await alice.open_stream(hop, host, port)

        way = Carrier(f"rtcp://{hop}", over)
        leg = await alice.open_stream(BOBS_DID, None, 1, via=way)
        await talk(leg, b"a secret word")
        assert [tunnel.peer.device for tunnel in bob.tunnels()] == [ALICES_DID]
        back = await bob.open_stream(ALICES_DID, None, 1)
        await talk(back, b"another one")
        much = bytes(range(256)) * 16384
        for one in (leg, back):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send_all, one, much)
                with trio.fail_after(60):
                    assert await receive_exactly(one, len(much)) == much
        assert ALICES_DID.canonical.id.encode() not in relayed[2000:] and len(relayed) > 4 * len(much)
        assert b"secret word" not in relayed and b"another one" not in relayed
        assert all(len(device.tunnels()) == count for device, count in ((alice, 2), (mallory, 1), (bob, 1)))
        mallory.tunnels()[0].close()  # the hop leaves, and the inner tunnel finds its way again
        await talk(leg, b"once more")
        for one in (leg, back):
            one.close()


# What may happen to them


async def test_used_up_ids_cost_a_new_tunnel_and_nothing_else(town):
    async with town.live(ALICE, hosts=()) as alice, town.live(BOB) as bob:
        first = await alice.open_stream(BOBS_DID, None, 1)
        (tunnel,) = alice.tunnels()
        tunnel._machine._ids._next_ours = LAST_ID + 2
        second = await alice.open_stream(BOBS_DID, None, 1)
        assert await alice.tunnel(BOBS_DID) is not tunnel
        for leg in (first, second):
            await talk(leg)
            leg.close()
        with trio.fail_after(60):
            await tunnel.over.wait()
        await until(lambda: len(bob.tunnels()) == 1)


async def test_a_tunnel_that_is_given_up_is_given_up_by_both(town):
    """Else the peer would go on opening streams there, and it would never end."""
    async with town.live(ALICE, hosts=()) as alice, town.live(BOB) as bob:
        first = await alice.open_stream(BOBS_DID, None, 1)
        (mine,), (his,) = alice.tunnels(), bob.tunnels()
        mine._machine._ids._next_ours = LAST_ID + 2
        second = await alice.open_stream(BOBS_DID, None, 1)
        await until(lambda: his.is_draining)
        third = await bob.open_stream(ALICES_DID, None, 1)
        for leg in (first, second, third):
            await talk(leg)
        assert mine._machine.conversations == his._machine.conversations == 1 and not mine.over.is_set()
        for leg in (first, second, third):
            leg.close()
        await until(lambda: mine.over.is_set() and his.over.is_set())
        await until(lambda: len(alice.tunnels()) == len(bob.tunnels()) == 1)


async def test_requests_that_come_too_fast_are_repeated_later(town, bounded):
    bounded("welcome", opens=(20, 2))
    async with town.live(ALICE, hosts=()) as alice, town.live(BOB):
        legs = []

        async def open_one():
            legs.append(await alice.open_stream(BOBS_DID, None, 1))

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for _ in range(6):
                    nursery.start_soon(open_one)
        for leg in legs:
            await talk(leg)
            leg.close()


async def test_streams_end_with_their_tunnel(town):
    async with town.live(ALICE, hosts=()) as alice, town.live(BOB) as bob:
        leg = await alice.open_stream(BOBS_DID, None, 1)
        await talk(leg)
        (tunnel,) = alice.tunnels()
        tunnel.close()
        await until(lambda: not bob.tunnels() and not alice.tunnels())
        with pytest.raises(ConnectionResetError):
            await receive(leg)
        leg.close()


async def test_a_name_that_came_to_be_anothers_while_we_dialled_is_refused(town):
    async with (
        town.live(BOB, did=BOBS_NAME),
        town.live(ALICE, hosts=()) as alice,
        town.live(MALLORY) as mallory,
    ):
        await mallory.tunnel(BOBS_NAME)

        async def dial(host, port):
            alice._register.call(dev_did(MALLORY.public), BOBS_NAME)
            return await connect(host, port)

        with pytest.raises(Refused, match="another device"):
            await alice.tunnel(BOBS_NAME, via=Carrier("slow", dial))


async def test_a_ping_tells_the_time_there_and_back_and_fails_with_the_tunnel(town):
    async with town.live(ALICE, hosts=()) as alice, town.live(BOB) as bob, trio.open_nursery() as nursery:
        (where,) = town.people[BOBS_DID].addresses
        road = await nursery.start(Middle(where[1]).run)
        town.settle(BOB, (HOST, road.port))
        tunnel = await alice.tunnel(BOBS_DID)
        assert 0 < await tunnel.ping() < 5
        await until(bob.tunnels)
        assert 0 < await bob.tunnels()[0].ping() < 5
        road.frozen = True
        with trio.move_on_after(0.05) as impatient:
            await tunnel.ping()
        assert impatient.cancelled_caught and not tunnel._pingers

        async def end():
            await trio.testing.wait_all_tasks_blocked()
            tunnel.lose()

        nursery.start_soon(end)
        with trio.fail_after(60):
            for _ in range(2):
                with pytest.raises(Unreachable):
                    await tunnel.ping()
        nursery.cancel_scope.cancel()


async def test_a_tunnel_that_is_kept_comes_back(town, monkeypatch):
    monkeypatch.setattr("rtcp.io.device._REST", 0.01)
    monkeypatch.setattr("rtcp.io.device.Backoff", partial(Backoff, 0.02, 0.04))
    async with town.live(ALICE, hosts=()) as alice, trio.open_nursery() as nursery:
        nursery.start_soon(alice.keep, BOBS_DID)
        await until(lambda: town.asked)
        port = 0
        for _ in range(3):
            async with town.live(BOB, port=port) as bob:
                port = town.people[BOBS_DID].addresses[0][1]
                await until(bob.tunnels)
                leg = await bob.open_stream(ALICES_DID, None, 1)
                await talk(leg)
                leg.close()
            await until(lambda: not alice.tunnels())
        nursery.cancel_scope.cancel()


async def test_whoever_was_replaced_does_not_come_back_at_once(town, monkeypatch, caplog):
    """Else two machines with one key would throw each other out for ever."""
    monkeypatch.setattr("rtcp.io.device.Backoff", partial(Backoff, 0.001, 0.002))
    async with (
        town.live(BOB) as bob,
        town.live(ALICE, hosts=()) as alice,
        town.live(ALICE, hosts=()) as again,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(alice.keep, BOBS_DID)
        await until(bob.tunnels)
        (first,) = bob.tunnels()
        await again.tunnel(BOBS_DID)
        await until(lambda: not alice.tunnels())
        (second,) = bob.tunnels()
        assert second is not first
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert bob.tunnels() == [second] and alice.tunnels() == []
        assert any("same key" in one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING)
        leg = await again.open_stream(BOBS_DID, None, 1)
        await talk(leg)
        leg.close()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("asker", ["who dialled", "who was dialled"])
async def test_whoever_gives_up_a_stream_leaves_nothing_behind(town, asker):
    async with town.live(ALICE, hosts=()) as alice, town.live(BOB) as bob:
        await alice.tunnel(BOBS_DID)
        await until(bob.tunnels)
        (one,), (other,) = alice.tunnels(), bob.tunnels()
        mine, to = (alice, BOBS_DID) if asker == "who dialled" else (bob, ALICES_DID)
        before = descriptors()
        for attempt in range(100):
            with trio.move_on_after(attempt / 20000):
                leg = await mine.open_stream(to, None, 1)
                leg.close()
        for tunnel in (one, other):
            for left in (tunnel._streams, tunnel._asking, tunnel._judging):
                await until(lambda left=left: not left)
            await until(lambda tunnel=tunnel: not tunnel._machine.conversations)
        await until(lambda: descriptors() <= before)
        leg = await mine.open_stream(to, None, 1)
        await talk(leg)
        leg.close()
        assert alice.tunnels() == [one]


async def test_whoever_gives_up_a_tunnel_leaves_nothing_behind(town):
    async with town.live(ALICE, hosts=()) as alice, town.live(BOB, door=DoorLimits(burst=1000)) as bob:
        before = descriptors()
        for attempt in range(60):
            with trio.move_on_after(attempt / 4000):
                leg = await alice.open_stream(BOBS_DID, None, 1)
                leg.close()
            if attempt % 3 == 0:
                for tunnel in alice.tunnels():
                    tunnel.close()
        for tunnel in alice.tunnels():
            tunnel.close()
        await until(lambda: not alice.tunnels() and not bob.tunnels())
        await until(lambda: descriptors() <= before)
        for device in (alice, bob):
            assert not device._roll._muxed and not len(device._register)
        leg = await alice.open_stream(BOBS_DID, None, 1)
        await talk(leg)
        leg.close()


async def test_the_next_in_line_dials_when_the_first_gives_up(town):
    dialled, slow = [], trio.Event()

    async def dial(host, port):
        dialled.append(port)
        if len(dialled) == 1:
            slow.set()
            await trio.sleep_forever()
        return await connect(host, port)

    town.dial = dial
    async with town.live(ALICE, hosts=()) as alice, town.live(BOB), trio.open_nursery() as nursery:
        first = trio.CancelScope()

        async def give_up():
            with first:
                await alice.tunnel(BOBS_DID)

        nursery.start_soon(give_up)
        await slow.wait()
        nursery.start_soon(alice.tunnel, BOBS_DID)
        await trio.testing.wait_all_tasks_blocked()
        first.cancel()
        await until(alice.tunnels)
        assert len(dialled) == 2


async def test_after_the_end_of_a_device_nothing_is_opened(town):
    asked = trio.Event()

    async def never(request):
        asked.set()
        await trio.sleep_forever()

    async with town.live(BOB, serve=never), trio.open_nursery() as nursery:
        async with town.live(ALICE, hosts=()) as alice:

            async def wait():
                with pytest.raises(Unreachable):
                    await alice.open_stream(BOBS_DID, None, 1)

            nursery.start_soon(wait)
            await asked.wait()
        with pytest.raises(Unreachable):
            await alice.open_stream(BOBS_DID, None, 1)


@pytest.mark.parametrize("versions", [BOTH, FIVE], ids=["both", "five"])
@pytest.mark.parametrize("silent", [True, False], ids=["nobody answered yet", "the rules think about it"])
async def test_a_tunnel_that_is_being_made_ends_with_its_device(versions, silent):
    """Whoever waits for it is told, at whatever point it was."""
    town, begun, told = Town(versions=versions), trio.Event(), trio.Event()

    async def welcome(peer):
        begun.set()
        await trio.sleep_forever()

    async with town.live(BOB, welcome=welcome), trio.open_nursery() as nursery:
        (where,) = town.people[BOBS_DID].addresses
        road = await nursery.start(Middle(where[1]).run)
        road.frozen = silent
        town.settle(BOB, (HOST, road.port))
        async with town.live(ALICE, hosts=()) as alice:

            async def wait():
                with pytest.raises(Unreachable):
                    await alice.open_stream(BOBS_DID, None, 1)
                told.set()

            nursery.start_soon(wait)
            if silent:
                await until(lambda: road.carried)
            else:
                await begun.wait()
        if silent:
            road.cut()
        with trio.fail_after(60):
            await told.wait()
        assert alice.tunnels() == []
        nursery.cancel_scope.cancel()
