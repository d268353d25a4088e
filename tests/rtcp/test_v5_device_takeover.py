"""A tunnel outlives the connections under it: cut, silent or spoilt, called again by whoever can (§6, §9).

The road between two devices is a :class:`tests.rtcp.town.Middle`.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import trio

from cyfs_ns.errors import Unreachable
from cyfs_ns.identity.did import dev_did
from cyfs_ns.identity.keys import SecretKey
from rtcp.io.device import Carrier, Device
from rtcp.io.mux import MuxedTunnel
from rtcp.io.pipe import Pipe
from rtcp.io.shaking import next_event
from rtcp.v5 import frames as f
from rtcp.v5.calling import Call, ResponderProven
from rtcp.v5.carrier import CarrierBroken
from rtcp.v5.closing import CloseCode, read_close
from rtcp.v5.keys import device_key
from rtcp.v5.payloads import Introduction, Parameters
from tests.rtcp.pair import ALICE, BOB, MALLORY
from tests.rtcp.town import HOST, Middle, Town, connect, descriptors, receive, send_all, talk, until

ALICES_DID, BOBS_DID = dev_did(ALICE.public), dev_did(BOB.public)
BOTH = frozenset({5, 4})

PERIOD = bytes(range(251)) * 4096
"""No record's size divides it, so bytes of another place are found out."""


@pytest.fixture(autouse=True)
def nothing_is_left():
    before = descriptors()
    yield
    assert descriptors() <= before


@dataclass
class Pair:
    town: Town
    alice: Device
    bob: Device
    road: Middle
    tunnel: MuxedTunnel
    """Alice's end."""
    other: MuxedTunnel


@asynccontextmanager
async def standing(*, alices=(), **more) -> AsyncIterator[Pair]:
    """Alice has a tunnel to Bob, by a road."""
    town = Town(versions=BOTH)
    async with (
        town.live(ALICE, hosts=alices, **more) as alice,
        town.live(BOB, **more) as bob,
        trio.open_nursery() as nursery,
    ):
        (where,) = town.people[BOBS_DID].addresses
        road = await nursery.start(Middle(where[1]).run)
        town.settle(BOB, (HOST, road.port))
        tunnel = await alice.tunnel(BOBS_DID)
        await until(bob.tunnels)
        yield Pair(town, alice, bob, road, tunnel, bob.tunnels()[0])
        nursery.cancel_scope.cancel()


def piece(at: int, size: int) -> memoryview:
    at %= 251
    return memoryview(PERIOD)[at : at + size]


async def pour(pipe: Pipe, size: int) -> None:
    """``size`` bytes of the pattern, and the end."""
    sent = 0
    while sent < size:
        try:
            sent += pipe.send(piece(sent, min(262144, size - sent)))
            await trio.lowlevel.checkpoint()
        except BlockingIOError:
            await trio.lowlevel.wait_writable(pipe.fileno())
    pipe.shutdown_write()


async def drink(pipe: Pipe, size: int, tell=lambda got: None) -> None:
    """The same, and not a byte more or less."""
    got = 0
    while data := await receive(pipe, 262144):
        assert data == piece(got, len(data)), f"wrong bytes at {got}"
        got += len(data)
        tell(got)
    assert got == size


@pytest.mark.parametrize("calls", [True, False])
async def test_who_comes_from_loopback_is_called_back_there_only_if_that_is_wanted(calls):
    """Somebody who is forwarded to us comes from there, and the port it names may be anybody's."""
    async with standing(alices=(HOST,), calls_loopback=calls) as pair:
        assert (pair.other._connect is not None) is calls
        stream = await pair.alice.open_stream(BOBS_DID, None, 1)
        await talk(stream)
        stream.close()


BREAKS = {
    "cut": lambda road: road.snap(),
    "frozen": lambda road: road.stall(),
    "frozen towards the called": lambda road: road.stall("there"),
    "frozen towards the caller": lambda road: road.stall("back"),
    "spoilt": lambda road: [one.spoil.update(("there", "back")) for one in road.standing],
}


@pytest.mark.parametrize("opener", ["the caller", "the called"])
@pytest.mark.parametrize("how", BREAKS)
async def test_a_stream_goes_on_when_the_road_breaks(how, opener):
    """50 MB each way at once; the road breaks with control and the leg on it, and everything arrives, once."""
    size, broken = 50 << 20, []

    async def serve(request):
        pipe = await request.accept()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pour, pipe, size)
                nursery.start_soon(drink, pipe, size)
            done.set()
        finally:
            pipe.close()

    done = trio.Event()
    async with standing(serve=serve) as pair:

        def break_once(got):
            if got > size // 3 and not broken:
                assert len(pair.road.standing) == 2, "what is much has a leg of its own"
                broken.append(len(pair.road.said))
                BREAKS[how](pair.road)

        mine, to = (pair.alice, BOBS_DID) if opener == "the caller" else (pair.bob, ALICES_DID)
        pipe = await mine.open_stream(to, None, 1)
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pour, pipe, size)
                nursery.start_soon(drink, pipe, size, break_once)
            await done.wait()
        pipe.close()
        assert broken and len(pair.road.said) > broken[0]
        assert pair.alice.tunnels() == [pair.tunnel] and pair.bob.tunnels() == [pair.other]
        for tunnel in (pair.tunnel, pair.other):
            await until(lambda tunnel=tunnel: not tunnel._machine.conversations)
            await until(lambda tunnel=tunnel: len(tunnel._lines) == 1)
        assert len(pair.town.asked) == 1


async def test_streams_of_all_kinds_notice_nothing_but_a_pause():
    async with standing() as pair:
        streams = [await pair.alice.open_stream(BOBS_DID, None, 1) for _ in range(5)]
        streams += [await pair.bob.open_stream(ALICES_DID, None, 1) for _ in range(5)]
        for _ in range(3):
            for stream in streams:
                await send_all(stream, b"before")
            pair.road.snap()
            for stream in streams:
                await send_all(stream, b", after")
            for stream in streams:
                got = b""
                with trio.fail_after(60):
                    while len(got) < 13:
                        got += await receive(stream)
                assert got == b"before, after"
        for stream in streams:
            stream.close()


async def test_what_is_opened_while_there_is_no_carrier_is_asked_for_with_the_next():
    async with standing() as pair:
        stops = trio.Event()
        dial = pair.town.dial

        async def wait(host, port):
            await stops.wait()
            return await dial(host, port)

        pair.tunnel._connect = lambda: wait(HOST, pair.road.port)
        pair.road.snap()
        await until(lambda: not pair.tunnel._machine.is_up and not pair.other._machine.is_up)
        async with trio.open_nursery() as nursery:

            async def open_one(mine, to):
                stream = await mine.open_stream(to, None, 1)
                await talk(stream)
                stream.close()

            nursery.start_soon(open_one, pair.alice, BOBS_DID)
            nursery.start_soon(open_one, pair.bob, ALICES_DID)
            await until(lambda: pair.tunnel._asking and pair.other._asking)
            stops.set()


async def test_nobody_waits_for_ever_for_a_carrier(monkeypatch):
    monkeypatch.setattr("rtcp.io.asking._HELD_PATIENCE", 0.1)
    async with standing() as pair:
        pair.road.cut()
        await until(lambda: not pair.tunnel._machine.is_up)
        with pytest.raises(Unreachable) as failed:
            await pair.alice.open_stream(BOBS_DID, None, 1)
        assert failed.value.reason == "connect_timeout"
        assert not pair.tunnel._streams and not pair.tunnel._asking


async def test_who_asked_before_the_carrier_was_lost_does_not_wait_for_ever_either(monkeypatch):
    monkeypatch.setattr("rtcp.io.asking._HELD_PATIENCE", 0.1)

    async def think(_):
        await trio.sleep_forever()

    async def ask(device):
        with pytest.raises(Unreachable) as failed, trio.fail_after(10):
            await device.open_stream(BOBS_DID, None, 1)
        assert failed.value.reason == "connect_timeout"

    async with standing(serve=think) as pair:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, pair.alice)
            await until(lambda: len(pair.other._judging))
            pair.road.cut()
        assert not pair.tunnel._streams and not pair.tunnel._asking


async def test_the_called_side_calls_back_when_the_caller_cannot():
    async with standing(alices=(HOST,)) as pair:
        stream = await pair.alice.open_stream(BOBS_DID, None, 1)
        await talk(stream)

        async def no_way():
            raise Unreachable("no way", "connect_refused")

        pair.tunnel._connect = no_way
        pair.road.cut()
        with trio.fail_after(60):
            await talk(stream)
        stream.close()
        assert pair.alice.tunnels() == [pair.tunnel] and pair.bob.tunnels() == [pair.other]


async def test_a_peer_that_moved_is_looked_up():
    """Its address is dead, and the resolver knows another."""
    async with standing() as pair, trio.open_nursery() as nursery:
        stream = await pair.alice.open_stream(BOBS_DID, None, 1)
        await talk(stream)
        other = await nursery.start(Middle(pair.road.to).run)
        pair.town.settle(BOB, (HOST, other.port))
        pair.road.cut()
        with trio.fail_after(60):
            await talk(stream)
        stream.close()
        assert pair.alice.tunnels() == [pair.tunnel] and other.said
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("side", ["caller", "called"])
async def test_a_tunnel_is_held_so_long_and_no_longer(side):
    async with standing() as pair:
        streams = [await pair.alice.open_stream(BOBS_DID, None, 1), await pair.bob.open_stream(ALICES_DID, None, 1)]
        for tunnel in (pair.tunnel, pair.other):
            tunnel._machine._hold = 0.2
        pair.road.cut()
        tunnel, device, stream = (
            (pair.tunnel, pair.alice, streams[0]) if side == "caller" else (pair.other, pair.bob, streams[1])
        )
        with trio.fail_after(60):
            await tunnel.over.wait()
        assert tunnel.end.code is CloseCode.LOST and device.tunnels() == [] and not device._roll._muxed
        with pytest.raises(ConnectionResetError):
            await receive(stream)
        with pytest.raises(ConnectionResetError):
            stream.send(b"?")
        for stream in streams:
            stream.close()
        assert not tunnel._lines and not tunnel._machine.conversations


async def test_a_peer_that_was_started_anew_knows_nothing_of_the_tunnel():
    """It was killed, so it said nothing; streams end at once, and the next has a new tunnel at once."""
    town = Town(versions=BOTH)
    async with town.live(ALICE, hosts=()) as alice, trio.open_nursery() as nursery:
        async with town.live(BOB):
            (where,) = town.people[BOBS_DID].addresses
            road = await nursery.start(Middle(where[1]).run)
            town.settle(BOB, (HOST, road.port))
            stream = await alice.open_stream(BOBS_DID, None, 1)
            await talk(stream)
            first = await alice.tunnel(BOBS_DID)
            road.stall()
        async with town.live(BOB) as bob:
            road.to = town.people[BOBS_DID].addresses[0][1]
            town.settle(BOB, (HOST, road.port))
            road.snap()
            with pytest.raises(ConnectionResetError), trio.fail_after(5):
                await receive(stream)
            stream.close()
            assert first.end.code is CloseCode.UNKNOWN_TUNNEL
            with trio.fail_after(60):
                stream = await alice.open_stream(BOBS_DID, None, 1)
                await talk(stream)
            stream.close()
            assert len(bob.tunnels()) == len(alice.tunnels()) == 1
        nursery.cancel_scope.cancel()


async def test_what_was_asked_of_a_peer_that_was_started_anew_is_asked_again():
    town = Town(versions=BOTH)
    asked = trio.Event()

    async def never(request):
        asked.set()
        await trio.sleep_forever()

    async with town.live(ALICE, hosts=()) as alice, trio.open_nursery() as nursery:
        served = trio.Event()

        async def ask():
            stream = await alice.open_stream(BOBS_DID, None, 1)
            await talk(stream)
            stream.close()
            served.set()

        async with town.live(BOB, serve=never):
            (where,) = town.people[BOBS_DID].addresses
            road = await nursery.start(Middle(where[1]).run)
            town.settle(BOB, (HOST, road.port))
            nursery.start_soon(ask)
            await asked.wait()
            road.stall()
        async with town.live(BOB):
            road.to = town.people[BOBS_DID].addresses[0][1]
            town.settle(BOB, (HOST, road.port))
            road.snap()
            with trio.fail_after(60):
                await served.wait()
        nursery.cancel_scope.cancel()


async def test_a_device_that_calls_from_another_start_replaces_its_tunnels():
    town = Town(versions=BOTH)
    async with (
        town.live(BOB) as bob,
        town.live(ALICE, hosts=()) as alice,
        town.live(ALICE, hosts=()) as again,
    ):
        stream = await alice.open_stream(BOBS_DID, None, 1)
        await talk(stream)
        tunnel = await alice.tunnel(BOBS_DID)
        await again.tunnel(BOBS_DID)
        await until(lambda: not alice.tunnels())
        assert tunnel.end.code is CloseCode.REPLACED and "another start" in tunnel.end.why
        assert tunnel.stay_away == 60
        assert len(bob.tunnels()) == 1
        with pytest.raises(ConnectionResetError):
            await receive(stream)
        stream.close()


async def test_one_device_has_four_tunnels_at_most():
    town = Town(versions=BOTH)
    async with town.live(BOB) as bob, town.live(ALICE, hosts=()) as alice:
        ways = [Carrier(f"way {number}", connect) for number in range(5)]
        tunnels = [await alice.tunnel(BOBS_DID, via=way) for way in ways[:4]]
        with pytest.raises(Unreachable, match="too many tunnels"):
            await alice.tunnel(BOBS_DID, via=ways[4])
        assert len(bob.tunnels()) == 4 and alice.tunnels() == tunnels
        tunnels[0].close()
        await until(lambda: len(bob.tunnels()) == 3)
        alice._resting.clear()
        await alice.tunnel(BOBS_DID, via=ways[4])


async def knock(port: int, key: SecretKey, **said) -> tuple[CloseCode | None, Pipe]:
    """``key`` calls Bob, and says ``said``; his verdict, None if it is WELCOME, and the connection."""
    own, pipe = device_key(key), await connect(HOST, port)
    call = Call.native(own, BOB.public, entropy=secrets.token_bytes(32), now=trio.current_time())
    assert isinstance(await next_event(call, pipe), ResponderProven)
    introduction = Introduction(key=key.public, parameters=Parameters(), boot=bytes(8), **said)
    established = call.go_on(introduction)
    await send_all(pipe, call.data_to_send())
    try:
        while True:
            data = await receive(pipe)
            for _, plain in established.carrier.receive(data, trio.current_time()):
                kind, _, payload = next(f.frames(plain))
                return (None if kind == f.WELCOME else read_close(payload).code), pipe
            assert data, "it ended without a word"
    except CarrierBroken:
        pipe.close()
        raise


@pytest.mark.parametrize(
    "key, said, verdict",
    [
        (MALLORY, {}, CloseCode.UNKNOWN_TUNNEL),
        (ALICE, {"tunnel": b"\7" * 16}, CloseCode.UNKNOWN_TUNNEL),
        (ALICE, {"move": 0}, CloseCode.STALE),
        (ALICE, {"channel": 1}, CloseCode.UNKNOWN_CHANNEL),
        (ALICE, {"channel": 2}, CloseCode.UNKNOWN_CHANNEL),
    ],
    ids=["another key", "another id", "an old move", "no such leg", "no such leg of Bob's"],
)
async def test_a_carrier_that_has_no_business_here_is_told_so_and_changes_nothing(key, said, verdict):
    async with standing() as pair:
        stream = await pair.alice.open_stream(BOBS_DID, None, 1)
        await talk(stream)
        carriers = list(pair.other._lines)
        told, pipe = await knock(pair.road.to, key, **{"tunnel": pair.tunnel.id, "move": 7, "expect": 0, **said})
        assert told is verdict
        assert await receive(pipe) == b"", "and that was all"
        pipe.close()
        assert list(pair.other._lines) == carriers
        await talk(stream)
        stream.close()


async def test_a_higher_move_wins_and_the_one_before_is_late():
    """Alice's device itself, as it seems, by another way: the old carrier is closed; a lower move comes too late."""
    async with standing() as pair:
        stream = await pair.alice.open_stream(BOBS_DID, None, 1)
        await talk(stream)
        (old,) = pair.other._lines
        expect = pair.tunnel._machine._control.taken
        told, newcomer = await knock(pair.road.to, ALICE, tunnel=pair.tunnel.id, move=1, expect=expect)
        assert told is None and old not in pair.other._lines
        told, late = await knock(pair.road.to, ALICE, tunnel=pair.tunnel.id, move=1, expect=expect)
        assert told is CloseCode.STALE
        for pipe in (newcomer, late):
            pipe.close()
        await talk(stream)
        stream.close()
        assert pair.alice.tunnels() == [pair.tunnel]


async def test_who_expects_what_was_never_sent_ends_the_tunnel():
    async with standing() as pair:
        told, pipe = await knock(pair.road.to, ALICE, tunnel=pair.tunnel.id, move=3, expect=1000)
        pipe.close()
        assert told is CloseCode.FAULT
        await until(lambda: not pair.bob.tunnels() and not pair.alice.tunnels())
        assert pair.tunnel.end.code is CloseCode.FAULT and pair.tunnel.stay_away >= 60


async def test_who_is_told_of_a_fault_stays_away_though_no_time_was_said():
    async with standing() as pair:
        pair.other.close(CloseCode.FAULT)
        await until(lambda: pair.tunnel.end)
        assert pair.tunnel.end.code is CloseCode.FAULT and pair.tunnel.end.wait == 0
        assert pair.tunnel.stay_away == 60


async def test_a_leg_that_breaks_is_called_again():
    """Only the leg breaks; control does not notice."""
    size = 20 << 20

    async def serve(request):
        pipe = await request.accept()
        await pour(pipe, size)
        pipe.close()

    for opener in ("the caller", "the called"):
        async with standing(serve=serve) as pair:
            broken = []

            def snap(got, pair=pair, broken=broken):
                if got > (len(broken) + 1) * size // 4 and len(broken) < 3 and len(pair.road.standing) == 2:
                    broken.append(got)
                    pair.road.snap(pair.road.standing[1])

            mine, to = (pair.alice, BOBS_DID) if opener == "the caller" else (pair.bob, ALICES_DID)
            pipe = await mine.open_stream(to, None, 1)
            with trio.fail_after(60):
                await drink(pipe, size, snap)
            pipe.close()
            assert len(pair.road.said) == 2 + len(broken) and len(broken) >= 2
            assert pair.road.carried[0] in pair.road.standing


async def test_a_device_that_knows_of_a_new_network_looks_at_once():
    async with standing() as pair:
        stream = await pair.alice.open_stream(BOBS_DID, None, 1)
        await talk(stream)
        pair.road.stall()
        pair.tunnel.network_changed()
        await until(lambda: len(pair.road.said) == 2)
        await talk(stream)
        stream.close()
