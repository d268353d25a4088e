"""What strangers do to a listening device: nothing that those whom it knows would notice."""

from __future__ import annotations

import secrets
import socket
import struct
import time

import pytest
import trio
import trio.testing

from cyfs_ns.errors import Refused, Unreachable
from cyfs_ns.identity.did import dev_did
from rtcp.door import DoorLimits
from rtcp.limits import Limits
from tests.rtcp.oldpeer import HELLO, packet
from tests.rtcp.pair import ALICE, ALICES_NAME, BOB, MALLORY, WALL, device_document
from tests.rtcp.test_rtcp_oldpeer_sockets import Wire, old, old_tunnel
from tests.rtcp.town import HOST, Middle, Town, descriptors, reject, talk, until

ALICES_DID, BOBS_DID = dev_did(ALICE.public), dev_did(BOB.public)
SHORT = Limits(step=0.3)


@pytest.fixture(autouse=True)
def nothing_is_left():
    before = descriptors()
    yield
    assert descriptors() <= before


async def knock(town: Town) -> trio.SocketStream:
    return await trio.open_tcp_stream(*town.people[BOBS_DID].addresses[0])


async def hangs_up(stream: trio.SocketStream, seconds: float = 5) -> bytes:
    """What the device says until it ends the connection."""
    said = b""
    with trio.fail_after(seconds):
        try:
            while data := await stream.receive_some():
                said += data
        except trio.BrokenResourceError:
            pass
    return said


def hello_of(peer, now: float, to: str | None = None) -> bytes:
    step = peer.dial(BOB.public.raw, int(now), to or str(BOBS_DID), f"{BOB.public.x}.dev.did")
    return next(step)


GARBAGE = {
    "a browser": b"GET / HTTP/1.1\r\nHost: bob\r\n\r\n",
    "TLS": bytes.fromhex("1603010200010001fc0303") + bytes(500),
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
    "a packet too short": b"\0\5\10\1\0\0\0\0",
    "a packet with its JSON elsewhere": b"\0\50\7\1" + bytes(36),
    "an unknown command": packet(99, 0, {}),
    "another packet than Hello": packet(3, 0, {"timestamp": 1}),
    "JSON that is none": b"\0\14\10\1\0\0\0\0{{{{",
    "a Hello of nothing": packet(HELLO, 0, {}),
    "a Hello with a token that is none": packet(
        HELLO, 0, {"from_id": str(ALICES_DID), "to_id": str(BOBS_DID), "my_port": 1, "tunnel_token": "x.y.z"}
    ),
    "a stream nobody awaits": b"\0\0" + b"0123456789abcdef" * 2,
    "a stream with a wrong id": b"\0\0" + b"0123456789ABCDEF" * 2,
    "a stream with half an id and rubbish": b"\0\0" + b"0123456789abcdef\n",
    "zeros": bytes(100),
}


@pytest.mark.parametrize("rubbish", GARBAGE.values(), ids=GARBAGE)
@pytest.mark.parametrize("split", [1, 1000])
async def test_rubbish_gets_no_answer(rubbish, split):
    town = Town()
    async with town.live(BOB) as bob:
        async with await knock(town) as stream:
            try:
                for at in range(0, len(rubbish), split):
                    await stream.send_all(rubbish[at : at + split])
            except trio.BrokenResourceError:
                pass  # it did not wait for the rest
            assert await hangs_up(stream) == b""
        assert bob.tunnels() == []


@pytest.mark.parametrize("said", [b"", b"\0", b"\0\0", b"\0\0" + b"0" * 31, b"\1", b"\1\0\10\1"])
async def test_whoever_stops_in_the_middle_is_waited_for_so_long(said):
    town = Town()
    async with town.live(BOB, limits=SHORT), await knock(town) as stream:
        if said:
            await stream.send_all(said)
        assert await hangs_up(stream) == b""


async def test_whoever_goes_slowly_gets_no_more_time():
    """A byte now and then does not make a handshake last longer."""
    town = Town()
    async with town.live(BOB, limits=SHORT), await knock(town) as stream, trio.open_nursery() as nursery:

        async def drip() -> None:
            try:
                for at in range(len(hello)):
                    await stream.send_all(hello[at : at + 1])
                    await trio.sleep(0.02)
            except trio.BrokenResourceError:
                pass

        hello = hello_of(old(ALICE.seed), time.time())
        nursery.start_soon(drip)
        assert await hangs_up(stream) == b""


@pytest.mark.parametrize("how", ["silent", "gone", "reset", "loud"])
async def test_half_a_handshake_is_given_up(how):
    """Hello, and then nothing, the end, a reset, or noise."""
    town = Town()
    async with town.live(BOB, limits=SHORT) as bob:
        stream = await knock(town)
        async with stream:
            await stream.send_all(hello_of(old(ALICE.seed), time.time()))
            with trio.fail_after(60):
                assert (await stream.receive_some())[3] == 2, "HelloAck"
            if how == "gone":
                await stream.send_eof()
            elif how == "reset":
                stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                await stream.aclose()
            elif how == "loud":
                await stream.send_all(b"\0\50" + secrets.token_bytes(40))
            if how != "reset":
                assert await hangs_up(stream) == b""
        assert bob.tunnels() == []


async def test_a_recorded_handshake_is_worth_nothing():
    town = Town()
    async with town.live(ALICE, hosts=()) as alice, town.live(BOB) as bob, trio.open_nursery() as nursery:
        (where,) = town.people[BOBS_DID].addresses
        road = await nursery.start(Middle(where[1]).run)
        town.settle(BOB, (HOST, road.port))
        leg = await alice.open_stream(BOBS_DID, None, 1)
        await talk(leg)
        town.settle(BOB, where)
        control, stream = (bytes(said) for said in road.said)
        assert len(control) > 500 and stream.startswith(b"\0\0")
        for recording in (control, stream):
            async with await knock(town) as replay:
                await replay.send_all(recording)
                assert await hangs_up(replay) == b""
        (tunnel,) = bob.tunnels()
        assert tunnel.peer.device == ALICES_DID
        await talk(leg)
        leg.close()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("backwards", [False, True], ids=["there", "back"])
@pytest.mark.parametrize("at", [0, 1, 2, 3, 6, 8, 20, 100, 300, 500, 640, 700, 720])
async def test_one_bit_on_the_road_is_enough(at, backwards):
    """Whatever is spoilt: the handshake fails, or the tunnel ends, or it goes on as if nothing had happened."""
    town = Town()
    async with (
        town.live(ALICE, hosts=(), limits=SHORT) as alice,
        town.live(BOB, limits=SHORT) as bob,
        trio.open_nursery() as nursery,
    ):
        (where,) = town.people[BOBS_DID].addresses
        road = Middle(where[1])
        road.flip, road.backwards = at, backwards
        await nursery.start(road.run)
        town.settle(BOB, (HOST, road.port))
        try:
            tunnel = await alice.tunnel(BOBS_DID)
        except (Unreachable, Refused):
            await until(lambda: not bob.tunnels())
        else:
            with trio.move_on_after(1):
                try:
                    await tunnel.ping()
                except Unreachable:
                    await until(lambda: not bob.tunnels() and not alice.tunnels())
        nursery.cancel_scope.cancel()


async def test_a_hello_for_somebody_else_is_worth_nothing():
    town = Town()
    async with town.live(BOB):
        peer = old(ALICE.seed)
        wrong = next(peer.dial(MALLORY.public.raw, int(time.time()), str(BOBS_DID), f"{BOB.public.x}.dev.did"))
        late, early = hello_of(peer, time.time() - 300), hello_of(peer, time.time() + 300)
        for hello in (wrong, late, early):
            async with await knock(town) as stream:
                await stream.send_all(hello)
                assert await hangs_up(stream) == b""


async def test_clocks_may_differ_a_little():
    for skew in (-100, -30, 30, 50):
        town = Town()
        async with (
            town.live(ALICE, hosts=(), wall=lambda skew=skew: time.time() + skew) as alice,
            town.live(BOB),
        ):
            if abs(skew) < 60:
                await alice.tunnel(BOBS_DID)
            else:
                with pytest.raises(Unreachable):
                    await alice.tunnel(BOBS_DID)


async def test_whoever_learns_an_id_gets_no_byte_and_the_rest_lives_on():
    """The id of a stream travels in clear.  A thief takes the place of one stream: it is lost, and nothing is told."""
    town, requests = Town(), []

    async def serve(request):
        requests.append(request)
        leg = await request.accept()
        try:
            await trio.lowlevel.wait_readable(leg.fileno())
            leg.recv_into(memoryview(bytearray(100)))
            requests.append("read something")
        except ConnectionAbortedError:
            requests.append("a thief")
        finally:
            leg.close()

    async with town.live(BOB, serve=serve) as bob:
        wire, tunnel = await old_tunnel(town, old(ALICE.seed))
        async with wire.stream:
            stream_id = secrets.token_hex(16)
            asked = {"streamid": stream_id, "purpose": "Stream", "dest_port": 22, "dest_host": None}
            await wire.run(tunnel.send(7, 1, asked))
            await wire.run(tunnel.receive())
            async with await knock(town) as thief:
                await thief.send_all(b"\0\0" + stream_id.encode() + b"\0\40" + bytes(32))
                assert await hangs_up(thief) == b""
            async with await knock(town) as owner:
                await owner.send_all(b"\0\0" + stream_id.encode())
                assert await hangs_up(owner) == b""
            assert requests[1:] == ["a thief"] and len(bob.tunnels()) == 1


async def test_one_address_may_have_only_so_many_tunnels():
    town = Town()
    async with (
        town.live(BOB, door=DoorLimits(standing_each=1)),
        town.live(ALICE, hosts=()) as alice,
        town.live(MALLORY, hosts=()) as mallory,
    ):
        await alice.tunnel(BOBS_DID)
        with pytest.raises(Refused, match="no more"):
            await mallory.tunnel(BOBS_DID)


async def test_one_address_may_shake_hands_only_so_often():
    town = Town()
    async with town.live(BOB, door=DoorLimits(per_second=0.001, burst=3)):
        answers = []
        for _ in range(5):
            async with await knock(town) as stream:
                try:
                    await stream.send_all(hello_of(old(ALICE.seed), time.time()))
                    with trio.move_on_after(5):
                        answers.append(len(await stream.receive_some()) > 0)
                except trio.BrokenResourceError:
                    answers.append(False)
        assert answers == [True, True, True, False, False]


async def test_a_peer_that_asks_too_much_is_told_so():
    town, waiting = Town(), []

    async def never(request):
        waiting.append(request)
        await trio.sleep_forever()

    async with town.live(BOB, serve=never, limits=Limits(pending=3, burst=5)):
        wire, tunnel = await old_tunnel(town, old(ALICE.seed))
        async with wire.stream:
            for seq in range(7):
                asked = {"streamid": f"{seq:032x}", "purpose": "Stream", "dest_port": 22, "dest_host": None}
                await wire.run(tunnel.send(7, seq, asked))
            results = [(await wire.run(tunnel.receive()))[1:] for _ in range(4)]
            assert results == [(3, {"result": 1}), (4, {"result": 1}), (5, {"result": 8}), (6, {"result": 8})]
            assert len(waiting) == 3


async def test_two_tunnels_cannot_await_the_same_id():
    town = Town()
    async with town.live(BOB):
        first, one = await old_tunnel(town, old(ALICE.seed))
        second, two = await old_tunnel(town, old(MALLORY.seed))
        asked = {"streamid": "ab" * 16, "purpose": "Stream", "dest_port": 22, "dest_host": None}
        async with first.stream, second.stream:
            await first.run(one.send(7, 1, asked))
            assert (await first.run(one.receive()))[2] == {"result": 0}
            await second.run(two.send(7, 1, asked))
            assert (await second.run(two.receive()))[2] == {"result": 7}
            async with await knock(town) as stream:
                await stream.send_all(b"\0\0" + b"ab" * 16)
                await Wire(stream).talk(one.leg("ab" * 16, 0, dialled=True), b"it is the first one's")


async def test_a_peer_that_does_not_read_is_given_up():
    """Pings without end, whose answers nobody takes."""
    town = Town()
    async with town.live(BOB, limits=Limits(unsent=20_000)) as bob:
        wire, tunnel = await old_tunnel(town, old(ALICE.seed))
        async with wire.stream:
            (standing,) = bob.tunnels()
            pings = b"".join(b"".join(tunnel.send(3, seq, {"timestamp": 1})) for seq in range(2000))
            with pytest.raises(trio.BrokenResourceError), trio.fail_after(20):
                while True:
                    await wire.stream.send_all(pings)
                    pings = b"".join(b"".join(tunnel.send(3, seq, {"timestamp": 1})) for seq in range(2000))
            assert "does not read" in standing.end.why


async def test_the_rules_hear_of_nobody_who_is_not_proven():
    town, heard = Town(), []

    async def vouch(proven):
        heard.append(proven)
        raise AssertionError

    async with town.live(BOB, vouch=vouch, welcome=reject("no"), limits=SHORT):
        hello = bytearray(hello_of(old(ALICE.seed), time.time()))
        hello[-40] ^= 1  # somewhere in the signature
        async with await knock(town) as stream:
            await stream.send_all(hello)
            assert await hangs_up(stream) == b""
    assert heard == []


async def test_a_handshake_waits_only_so_long_for_the_resolver():
    town, asked = Town(), trio.Event()

    async def vouch(proven):
        asked.set()
        await trio.sleep_forever()

    async with (
        town.live(BOB, vouch=vouch, limits=SHORT, wall=lambda: WALL),
        town.live(ALICE, hosts=(), did=ALICES_NAME, doc=device_document(ALICE), wall=lambda: WALL) as alice,
    ):
        with pytest.raises(Unreachable), trio.fail_after(5):
            await alice.tunnel(BOBS_DID)
        assert asked.is_set()
