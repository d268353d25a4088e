"""Crowds at the door of a listening device, over real sockets: what they can make it hold is bounded, and comes back;
tunnels of both versions that stand go on meanwhile."""

from __future__ import annotations

import gc
import resource
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from itertools import pairwise

import pytest
import trio

from cyfs_ns.errors import Refused, Unreachable
from cyfs_ns.identity.did import dev_did
from cyfs_ns.identity.keys import SecretKey
from rtcp.door import DoorLimits, Stage
from rtcp.io.device import Device
from rtcp.io.gate import Gate, Turn
from rtcp.io.pipe import TcpPipe
from rtcp.io.shaking import next_event
from rtcp.v5.calling import Call, ResponderProven
from rtcp.v5.keys import device_key
from rtcp.v5.ledger import Room
from rtcp.v5.payloads import Introduction, Parameters
from tests.rtcp.oldpeer import HELLO, packet
from tests.rtcp.pair import ALICE, BOB, MALLORY
from tests.rtcp.test_rtcp_oldpeer_sockets import old
from tests.rtcp.town import Town, descriptors, echo, receive, talk, until

BOBS_DID = dev_did(BOB.public)
BOTH, FIVE, FOUR = frozenset({5, 4}), frozenset({5}), frozenset({4})
ANY_RATE = DoorLimits(door_per_second=1e6, per_second=1e6, burst=10**6)
CROWD = 5000
_OTHERS = 60
"""Descriptors that the tunnels, their streams and the test itself may have."""


@pytest.fixture(autouse=True)
def many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * CROWD if hard == resource.RLIM_INFINITY else min(2 * CROWD, hard)
    if wanted < 2 * CROWD:
        pytest.skip("needs 10,000 descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    before = descriptors()
    yield
    assert descriptors() <= before
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Crowd:
    """Strangers from as many addresses, all in front of ``device``."""

    def __init__(self, device: Device, where: tuple[str, int]) -> None:
        self._device, self._where = device, where
        self.sockets: list[TcpPipe] = []
        gc.collect()  # what an earlier test left open
        self._before = descriptors()

    async def come(self, says: bytes) -> None:
        sock = TcpPipe(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        number = len(self.sockets)
        sock.bind((f"127.7.{number >> 8}.{number & 255}", 0))
        self.sockets.append(sock)
        sock.connect_ex(self._where)
        await trio.lowlevel.wait_writable(sock)
        self.say(sock, says)

    @staticmethod
    def say(sock: TcpPipe, data: bytes) -> bool:
        try:
            return not data or sock.send(data) > 0
        except OSError:
            return False

    def inside(self) -> int:
        """Descriptors of the device's, the crowd's own left aside."""
        return descriptors() - self._before - len(self.sockets)

    def at(self, stage: Stage) -> int:
        room = self._device._reception._door._rooms[stage]
        return len(room.common) + len(room.reserve)

    def go(self) -> None:
        for sock in self.sockets:
            sock.close()
        self.sockets.clear()


def hello() -> bytes:
    return next(old(SecretKey(b"\x61" * 32).seed).dial(BOB.public.raw, int(time.time()), str(BOBS_DID), "x.dev.did"))


def message_1() -> bytes:
    return Call.native(device_key(MALLORY), BOB.public, entropy=b"\x31" * 32, now=0).data_to_send()


SAYS: dict[str, tuple[Callable[[], bytes], int]] = {
    "nothing": (lambda: b"", 1024),
    "garbage": (lambda: b"GET / HTTP/1.1\r\nHost: bob\r\n\r\n", 1024),
    "half a leg": (lambda: b"\0\0" + b"0" * 20, 1024),
    "half a Hello": (lambda: hello()[:300], 1024),
    "a large Hello": (lambda: b"\xff\xff\x08\x01" + bytes(2000), 64),
    "a Hello that is none": (lambda: packet(HELLO, 0, {"from_id": "x"}), 1024),
    "message 1 and no more": (message_1, 2048),
}


@pytest.mark.parametrize("kind", SAYS)
async def test_what_a_crowd_can_make_us_hold(kind):
    town = Town(versions=BOTH)
    make, most = SAYS[kind]
    async with (
        town.live(BOB, door=ANY_RATE) as bob,
        town.live(ALICE, hosts=(), versions=FOUR) as alice,
        town.live(MALLORY, hosts=(), versions=FIVE) as mallory,
    ):
        old_leg, stream = await alice.open_stream(BOBS_DID, None, 1), await mallory.open_stream(BOBS_DID, None, 1)
        crowd, says, served, held = Crowd(bob, town.people[BOBS_DID].addresses[0]), make(), 0, 0
        try:
            for number in range(CROWD):
                await crowd.come(says)
                if number % 500 == 499:
                    held = max(held, crowd.inside())
                    for standing, device in ((old_leg, alice), (stream, mallory)):
                        await talk(standing)
                        one = await device.open_stream(BOBS_DID, None, 1)
                        await talk(one)
                        one.close()
                        served += 1
            assert served == 20 and held <= most + _OTHERS
            assert max(crowd.at(Stage.KNOCKING), crowd.at(Stage.PROVING)) <= 1024
            assert {tunnel.peer.device for tunnel in bob.tunnels()} == {dev_did(ALICE.public), dev_did(MALLORY.public)}
        finally:
            crowd.go()
        await until(lambda: not crowd.at(Stage.KNOCKING) and not crowd.at(Stage.PROVING))
        await until(lambda: len(bob._reception._visits) == 1)  # the tunnel of version 4
        old_leg.close()
        stream.close()


@pytest.mark.parametrize("begins", ["a Hello", "message 1", "a leg"])
async def test_a_byte_now_and_then_gains_no_time(begins, monkeypatch):
    monkeypatch.setattr("rtcp.io.reception.KNOCK_WAIT", 0.5)
    monkeypatch.setattr("rtcp.v5.answering.KNOCK_WAIT", 0.5)
    town = Town(versions=BOTH)
    says = {"a Hello": hello(), "message 1": message_1(), "a leg": b"\0\0" + b"0" * 32}[begins]
    async with town.live(BOB, door=ANY_RATE) as bob:
        crowd = Crowd(bob, town.people[BOBS_DID].addresses[0])
        try:
            for _ in range(200):
                await crowd.come(says[:1])
            slow, at = list(crowd.sockets), 1
            while crowd.at(Stage.KNOCKING) and at < len(says) - 1:  # never the last
                slow = [sock for sock in slow if crowd.say(sock, says[at : at + 1])]
                at += 1
                await trio.sleep(0.02)
            assert at > 10
            await until(lambda: not bob._reception._visits)
        finally:
            crowd.go()


@pytest.mark.parametrize("begins", [message_1, hello])
async def test_there_is_no_work_for_who_waited_until_their_time_was_over(begins, monkeypatch):
    monkeypatch.setattr("rtcp.io.reception.KNOCK_WAIT", 0.3)
    town = Town(versions=BOTH)
    async with town.live(BOB, door=ANY_RATE) as bob:
        crowd = Crowd(bob, town.people[BOBS_DID].addresses[0])
        try:
            async with AsyncExitStack() as busy:
                for _ in range(bob._reception._gate._free):
                    await busy.enter_async_context(bob._reception._gate.one())
                for _ in range(20):
                    await crowd.come(begins())
                await until(lambda: bob._reception._visits)
                await until(lambda: not bob._reception._visits)
            assert bob._reception._gate._free > 1
        finally:
            crowd.go()


async def prove(sock: TcpPipe, number: int) -> None:
    """All of a handshake, by somebody whom nobody knows."""
    key = device_key(SecretKey(number.to_bytes(32, "big")))
    call = Call.native(key, BOB.public, entropy=number.to_bytes(32, "little"), now=trio.current_time())
    event = await next_event(call, sock)
    assert isinstance(event, ResponderProven)
    assert call.go_on(Introduction(key=key.public, parameters=Parameters(), boot=bytes(8))) is not None
    third = call.data_to_send()
    assert sock.send(third) == len(third)


async def test_whoever_is_judged_for_long_takes_its_place_and_no_more():
    """300 that prove a key, each its own; the rules think about them for as long as they are asked."""
    town, verdict, asked = Town(versions=BOTH), trio.Event(), []

    async def think(peer):
        if peer.device != dev_did(ALICE.public):
            asked.append(peer)
            await verdict.wait()
            raise Refused("no")

    async with town.live(BOB, door=ANY_RATE, welcome=think) as bob, town.live(ALICE, hosts=()) as alice:
        stream = await alice.open_stream(BOBS_DID, None, 1)
        crowd = Crowd(bob, town.people[BOBS_DID].addresses[0])
        try:
            for number in range(300):
                await crowd.come(b"")
                await prove(crowd.sockets[-1], number + 1)
            await until(lambda: crowd.at(Stage.DECIDING) == 192 and not crowd.at(Stage.KNOCKING))
            await talk(stream)
            assert len(asked) == 192  # the last quarter is for the known, and whoever else came is told BUSY
            for sock in crowd.sockets[192:]:
                assert len(await receive(sock)) > 20
            verdict.set()
            for sock in crowd.sockets[:192]:
                assert len(await receive(sock)) > 20
        finally:
            crowd.go()
        await until(lambda: not bob._reception._visits)
        assert len(bob.tunnels()) == 1
        stream.close()


@pytest.mark.parametrize("version", [4, 5])
async def test_keys_that_are_expected_are_not_among_the_few_of_nobody(version: int):
    town, callers = Town(versions=frozenset({version})), [SecretKey(bytes([n] * 32)) for n in range(1, 5)]
    expected = {dev_did(key.public) for key in callers[1:]}
    door = DoorLimits(anonymous=1)
    async with (
        town.live(BOB, door=door, expects=lambda peer: peer.device in expected) as bob,
        AsyncExitStack() as stack,
    ):
        for count, key in enumerate(callers, 1):
            device = await stack.enter_async_context(town.live(key, hosts=()))
            await device.tunnel(BOBS_DID)
            await until(lambda count=count: len(bob.tunnels()) == count)
        async with town.live(MALLORY, hosts=()) as mallory:
            with pytest.raises((Refused, Unreachable)):
                await mallory.tunnel(BOBS_DID)


async def test_a_crowd_does_not_exceed_its_rate_and_a_friend_comes_in():
    """The usual limits: most are turned away unread, and whoever has a tunnel gets another all the same."""
    town = Town(versions=BOTH)
    async with (
        town.live(BOB) as bob,
        town.live(ALICE, hosts=(), versions=FOUR) as alice,
        town.live(MALLORY, hosts=()) as mallory,
    ):
        leg = await alice.open_stream(BOBS_DID, None, 1)
        crowd, begun = Crowd(bob, town.people[BOBS_DID].addresses[0]), trio.current_time()
        try:
            for _ in range(CROWD):
                await crowd.come(b"")
            await until(lambda: crowd.inside() <= 1024 + _OTHERS)
            assert crowd.at(Stage.KNOCKING) <= min(768, 750 + 750 * (trio.current_time() - begun))
            await mallory.tunnel(BOBS_DID)
            await talk(leg)
        finally:
            crowd.go()
        leg.close()


async def test_what_nobody_reads_is_bounded_over_all_tunnels():
    """Two anonymous peers fill stream after stream that nobody reads.  Who holds most loses some; a third one, who
    holds next to nothing, notices nothing."""
    town, room, over = Town(versions=BOTH), Room(anonymous=512 << 10), trio.Event()

    async def serve(request):
        if request.port == 1:
            await echo(request)
            return
        pipe = await request.accept()
        try:
            await over.wait()
        finally:
            pipe.close()

    carol = SecretKey(b"\x71" * 32)
    async with (
        town.live(BOB, serve=serve, room=room) as bob,
        town.live(ALICE, hosts=()) as alice,
        town.live(MALLORY, hosts=()) as mallory,
        town.live(carol, hosts=()) as friend,
    ):
        ledger = bob._fifth.commons.ledger
        quiet = await friend.open_stream(BOBS_DID, None, 1)
        opened, broken = [quiet], 0
        for number in range(30):
            pipe = await (alice, mallory)[number % 2].open_stream(BOBS_DID, None, 2)
            opened.append(pipe)
            while True:
                try:
                    pipe.send(bytes(65536))
                except OSError:
                    break
            await talk(quiet)
        await until(lambda: not ledger.is_over)
        for pipe in opened[1:]:
            try:
                pipe.recv_into(memoryview(bytearray(1)))
            except BlockingIOError:
                continue
            except ConnectionResetError:
                broken += 1
        assert broken > 10 and len(bob.tunnels()) == 3
        await talk(quiet)
        for pipe in opened:
            pipe.close()
        over.set()
        await until(lambda: ledger._all < 64 << 10)


async def test_what_was_complete_when_its_tunnel_ended_counts_until_it_is_read():
    """Tunnel after tunnel leaves streams behind that are whole and that nobody reads yet."""
    town, served, over = Town(versions=BOTH), [], trio.Event()

    async def serve(request):
        pipe = await request.accept()
        try:
            served.append(pipe)
            await over.wait()
        finally:
            pipe.close()

    async with town.live(BOB, serve=serve, room=Room(anonymous=256 << 10)) as bob, town.live(ALICE, hosts=()) as alice:
        ledger, sent = bob._fifth.commons.ledger, []
        for number in range(8):
            pipe = await alice.open_stream(BOBS_DID, None, 2)
            sent.append(pipe.send(bytes(50_000)))
            pipe.shutdown_write()
            await until(lambda number=number: len(served) == number + 1 and (served[-1]._ended or served[-1]._fault))
            alice.tunnels()[0].close()
            await until(lambda: not alice.tunnels() and not bob.tunnels())
            pipe.close()
            assert sent[-1] == 50_000 and ledger._all <= 256 << 10
        await until(lambda: not ledger.is_over)
        whole = [pipe for pipe in served if pipe.waiting == 50_000]
        assert 4 <= len(whole) < 8 and ledger._all == 50_000 * len(whole) == sum(pipe.waiting for pipe in served)
        whole[0].recv_into(memoryview(bytearray(20_000)))
        assert ledger._all == 50_000 * len(whole) - 20_000
        over.set()
        await until(lambda: ledger._all == 0)
        assert not bob._fifth.commons.holders


def test_many_messages_at_once_are_worked_on_eight_in_a_turn():
    """Who stands has its turn between any eight of them."""
    turns: list[int] = []

    async def main() -> None:
        gate, order = Gate(), []

        async def stranger(number: int, turn: Turn) -> None:
            async with gate.one(turn):
                turns[-1] += 1
                order.append(turn)

        class Turns(trio.abc.Instrument):
            def before_run(self) -> None: ...
            def before_io_wait(self, timeout: float) -> None:
                turns.append(0)

        turns.append(0)
        trio.lowlevel.add_instrument(Turns())
        with trio.move_on_after(5):
            async with trio.open_nursery() as nursery:
                for number in range(100):
                    nursery.start_soon(stranger, number, Turn(2 - number % 3))
        assert len(order) == 100
        worked = [order[at : at + 8] for at in range(8, 100, 8)]  # in one turn any of them may be first
        assert all(max(before) <= min(after) for before, after in pairwise(worked))
        async with gate.one():
            pass

    trio.run(main)
    assert max(turns) == 8 and sum(turns) == 100
