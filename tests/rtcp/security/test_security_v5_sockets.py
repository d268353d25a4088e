"""Attacks on version 5, over real sockets, on whole devices with a house: who gets how far towards the rules."""

from __future__ import annotations

import base64
import dataclasses
import secrets
import time
from collections.abc import Iterator
from functools import partial

import pytest
import trio

import rtcp.io.reception
import rtcp.v5.answering
import rtcp.v5.carrier
import rtcp.v5.noise
from cyfs_ns.errors import Refused, Unreachable
from rtcp.door import DoorLimits
from rtcp.events import End
from rtcp.io.mux import MuxedTunnel
from rtcp.party import Found
from rtcp.v5 import frames as f
from rtcp.v5.calling import Call, ResponderProven
from rtcp.v5.carrier import Carrier, Kind
from rtcp.v5.closing import CloseCode
from rtcp.v5.keys import DeviceKey, device_key
from rtcp.v5.memory import Opening, VersionMemory
from rtcp.v5.payloads import Introduction
from rtcp.v5.schedule import AEADS, Cipher
from tests.rtcp.pair import ALICE, ALICES_NAME, BOB, MALLORY, WALL, device_document
from tests.rtcp.security.attacker import (
    ALICES_DID,
    BOBS_DID,
    MALLORYS_DID,
    Frame,
    Rules,
    Sent,
    cut_version_5,
    hangs_up,
    mallorys_road,
    pass_on,
    say,
    watching,
)
from tests.rtcp.town import HOST, Town, descriptors, receive_exactly, send_all, talk, until
from tests.rtcp.v5.duet import WEB
from tests.rtcp.v5.people import CALLERS, MALLORYS_KEY, told

BOTH, FIVE = frozenset({5, 4}), frozenset({5})


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    before = descriptors()
    yield
    assert descriptors() <= before


@pytest.fixture
def town() -> Town:
    return Town(versions=BOTH)


def port_of(town: Town) -> int:
    return town.people[BOBS_DID].addresses[0][1]


def knowing_bob() -> VersionMemory:
    """Bob spoke version 5 before."""
    return VersionMemory([BOB.public])


async def introduce(where: int, said: Introduction, key: DeviceKey = MALLORYS_KEY) -> tuple[Carrier, bytes]:
    """What Bob says first to whoever calls with ``key`` and says that; and the carrier of the two."""
    call = Call.native(key, BOB.public, entropy=secrets.token_bytes(32), now=0)
    async with await trio.open_tcp_stream(HOST, where) as stream:
        await stream.send_all(call.data_to_send())
        call.receive_data(await stream.receive_some(), 0)
        assert isinstance(told(call)[0], ResponderProven)
        established = call.go_on(said)
        assert established is not None
        await stream.send_all(call.data_to_send())
        (record, *_) = established.carrier.receive(await stream.receive_some(), 0)
        return established.carrier, bytes(record.plain)


def mallory_says(**more: object) -> Introduction:
    return dataclasses.replace(
        Introduction(key=MALLORY.public, parameters=CALLERS, boot=bytes(8)),
        **more,  # type: ignore[arg-type]
    )


# Replay


@pytest.mark.parametrize("memory", [VersionMemory, knowing_bob], ids=["masked", "native"])
async def test_replay_of_a_whole_conversation(town, memory):
    """Whatever Mallory recorded gets her message 2 at most, with a fresh key; what follows it does not open.  Bob need
    remember nothing for that, so it makes no difference that he was restarted."""
    rules, later = Rules(town), Rules(town)
    async with town.live(ALICE, hosts=(), memory=memory()) as alice, rules.live(BOB) as bob:
        where = port_of(town)
        async with mallorys_road(town, cut=cut_version_5) as road:
            leg = await alice.open_stream(BOBS_DID, None, 80)
            await talk(leg)
            (control,) = road.recorded()
            first = road.frames[0].data
            await attack(where, control, first)
            assert (rules.heard, [one.peer.device for one in bob.tunnels()]) == ((0, 1, 1), [ALICES_DID])
            await talk(leg, b"still")
            leg.close()
    async with later.live(BOB) as bob:
        await attack(port_of(town), control, first)
        assert (later.heard, bob.tunnels()) == ((0, 0, 0), [])


async def attack(where: int, control: bytes, first: bytes) -> None:
    assert await say(where, control) == b"", "who speaks on unasked is not answered"
    async with await trio.open_tcp_stream(HOST, where) as replay:
        await replay.send_all(first)
        second = await replay.receive_some()
        assert second[2:4] == b"\5\2" and len(second) <= len(first)
        await replay.send_all(control.removeprefix(first))
        assert await hangs_up(replay) == b""


async def test_replay_of_a_named_peers_words_does_not_reach_the_resolver(town):
    rules = Rules(town)
    now = {"wall": lambda: float(WALL)}
    async with (
        town.live(ALICE, hosts=(), did=ALICES_NAME, doc=device_document(ALICE), **now) as alice,
        rules.live(BOB, **now),
    ):
        town.settle(ALICE, did=ALICES_NAME)
        async with mallorys_road(town, cut=cut_version_5) as road:
            await alice.tunnel(BOBS_DID)
        assert (rules.heard, rules.vouched) == ((1, 1, 0), [ALICES_NAME])
        await attack(port_of(town), road.recorded()[0], road.frames[0].data)
        assert rules.heard == (1, 1, 0)


@pytest.mark.parametrize("what", ["doubled", "swapped", "an old one again", "flipped", "cut short"])
async def test_replay_of_records(town, what):
    """Mallory meddles with the records of a stream: it costs one connection, another is called, and what was said is
    heard once, whole and in order."""
    rules, held = Rules(town), list[bytes]()

    def meddle(frame: Frame) -> Iterator[Sent]:
        if frame.connection or not frame.there or frame.number < 4:
            yield from pass_on(frame)
            return
        held.append(frame.data)
        match what:
            case "doubled":
                yield True, frame.data + frame.data
            case "swapped":
                if len(held) % 2 == 0:
                    yield True, held[-1] + held[-2]
            case "an old one again":
                yield True, frame.data + held[0] * (len(held) > 1)
            case "flipped":
                yield True, frame.data[:-1] + bytes((frame.data[-1] ^ 1,))
            case "cut short":
                yield True, frame.data[: len(frame.data) // 2]

    async with (
        town.live(ALICE, hosts=()) as alice,
        rules.live(BOB) as bob,
        mallorys_road(town, meddle=meddle, cut=cut_version_5) as road,
    ):
        leg = await alice.open_stream(BOBS_DID, None, 80)
        tunnels = [*alice.tunnels(), *bob.tunnels()]
        for number in range(20):
            text = b"number %d" % number
            with trio.fail_after(60):
                await send_all(leg, text)
                assert await receive_exactly(leg, len(text)) == text
        assert {frame.connection for frame in road.frames} > {0}, "a connection was given up"
        assert [*alice.tunnels(), *bob.tunnels()] == tunnels and len(rules.served) == 1
        leg.close()


# Reflection


@pytest.mark.parametrize("memory", [VersionMemory, knowing_bob], ids=["masked", "native"])
async def test_reflection_of_a_call(town, memory):
    """A mirror stands where Bob should be; or it is Alice's own door that her call is led to."""
    rules = Rules(town)
    async with rules.live(ALICE, memory=memory()) as alice, trio.open_nursery() as nursery:

        async def mirror(stream: trio.SocketStream) -> None:
            async for data in stream:
                await stream.send_all(data)

        (listener,) = await nursery.start(partial(trio.serve_tcp, mirror, 0, host=HOST))
        for where in (listener.socket.getsockname()[1], town.people[ALICES_DID].addresses[0][1]):
            town.settle(BOB, (HOST, where))
            alice._resting.clear()
            with pytest.raises(Unreachable):
                await alice.tunnel(BOBS_DID)
        assert (rules.heard, alice.tunnels()) == ((0, 0, 0), [])
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("at", ["Alice", "Bob"])
async def test_reflection_of_records(town, at):
    """What one side sealed comes back to it: to it that is no word of its peer, so the connection is given up and the
    tunnel stands."""
    of_alice, of_bob, there = Rules(town), Rules(town), at == "Alice"

    def meddle(frame: Frame) -> Iterator[Sent]:
        back = not frame.connection and frame.there is there and frame.number >= 4
        yield (frame.there is not back), frame.data

    async with (
        of_alice.live(ALICE, hosts=()) as alice,
        of_bob.live(BOB) as bob,
        mallorys_road(town, meddle=meddle, cut=cut_version_5) as road,
    ):
        leg = await alice.open_stream(BOBS_DID, None, 80)
        for _ in range(10):
            with trio.fail_after(60):
                await send_all(leg, b"hello")
                assert await receive_exactly(leg, 5) == b"hello"
        assert {frame.connection for frame in road.frames} > {0}
        assert of_alice.served == [] and len(of_bob.served) == 1 and len(bob.tunnels()) == 1
        leg.close()


# Unknown key share


@pytest.mark.parametrize("known", [False, True], ids=["masked", "native"])
async def test_unknown_key_share(town, known):
    """Alice calls Bob and Mallory leads it to herself; Alice calls Mallory and she leads it to Bob.  Neither becomes a
    conversation in which somebody is taken for somebody else."""
    of_bob, of_mallory = Rules(town), Rules(town)
    memory = VersionMemory([BOB.public, MALLORY.public] if known else [])
    async with (
        town.live(ALICE, hosts=(), memory=memory) as alice,
        of_bob.live(BOB) as bob,
        of_mallory.live(MALLORY) as mallory,
    ):
        bobs, mallorys = town.people[BOBS_DID].addresses, town.people[MALLORYS_DID].addresses
        town.people[BOBS_DID] = Found(BOB.public, mallorys)
        town.people[MALLORYS_DID] = Found(MALLORY.public, bobs)
        for whom in (BOBS_DID, MALLORYS_DID):
            with pytest.raises(Unreachable):
                await alice.tunnel(whom)
        assert of_bob.heard == of_mallory.heard == (0, 0, 0)
        assert bob.tunnels() == mallory.tunnels() == []


# Key-compromise impersonation


async def test_key_compromise_impersonation_towards_the_caller(town):
    """Mallory has Alice's key, and all of Alice's device stands where Alice looks for Bob."""
    rules, posing = Rules(town), Rules(town)
    for memory in (VersionMemory(), knowing_bob()):
        async with posing.live(ALICE), rules.live(ALICE, hosts=(), memory=memory) as alice:
            town.people[BOBS_DID] = Found(BOB.public, town.people[ALICES_DID].addresses)
            with pytest.raises(Unreachable):
                await alice.tunnel(BOBS_DID)
            assert alice.tunnels() == [] and rules.heard == posing.heard == (0, 0, 0)


async def test_key_compromise_impersonation_towards_the_called(town):
    """Mallory has Bob's key, and calls Bob.  She can be herself, and Bob, who does not talk to himself; not Alice."""
    rules = Rules(town)
    async with rules.live(BOB) as bob:
        where = port_of(town)
        bobs = Introduction(key=BOB.public, parameters=CALLERS, boot=bytes(8))
        _, verdict = await introduce(where, bobs, device_key(BOB))
        assert verdict[8] == CloseCode.SELF
        call = Call.native(device_key(BOB), BOB.public, entropy=secrets.token_bytes(32), now=0)
        async with await trio.open_tcp_stream(HOST, where) as stream:
            await stream.send_all(call.data_to_send())
            call.receive_data(await stream.receive_some(), 0)
            noise = call._noise
            body, _ = noise.third(dataclasses.replace(bobs, key=ALICE.public).write())
            await stream.send_all((4 + len(body)).to_bytes(2, "big") + b"\5\3" + body)
            assert await hangs_up(stream) == b""
        assert (rules.heard, bob.tunnels()) == ((0, 0, 0), [])


# Downgrade


@pytest.mark.parametrize("memory", [VersionMemory, knowing_bob], ids=["nothing known", "spoke 5 before"])
async def test_downgrade_by_a_middle_man(town, memory):
    """Mallory lets no message of version 5 pass, in either direction: there is no tunnel, and none of version 4."""
    rules = Rules(town)

    def meddle(frame: Frame) -> Iterator[Sent]:
        if frame.data[2] != 5:
            yield from pass_on(frame)

    held = memory()
    async with town.live(ALICE, hosts=(), memory=held) as alice, rules.live(BOB) as bob:
        shorten = {"KNOCK_WAIT": 0.3, "PROOF_WAIT": 0.3}
        with pytest.MonkeyPatch.context() as patch:
            for name, seconds in shorten.items():
                patch.setattr(rtcp.v5.answering, name, seconds)
            patch.setattr(rtcp.io.reception, "KNOCK_WAIT", 0.3)
            async with mallorys_road(town, meddle=meddle, cut=cut_version_5) as road:
                with pytest.raises(Unreachable):
                    await alice.tunnel(BOBS_DID)
                firsts = [frame.data[2:4] for frame in road.frames if frame.there and not frame.number]
                assert firsts == ([b"\5\1"] if memory is knowing_bob else [b"\x08\1", b"\x08\1"]), "both were marked"
            assert (rules.heard, alice.tunnels(), bob.tunnels()) == ((0, 0, 0), [], [])
        alice._resting.clear()
        tunnel = await alice.tunnel(BOBS_DID)
        assert isinstance(tunnel, MuxedTunnel), "without Mallory it is version 5, as ever"
        assert held.opening(BOB.public, BOTH, 1e9) is Opening.NATIVE, "and will never again be anything else"


async def test_downgrade_of_the_mark(town):
    """Mallory changes the Hello where it offers version 5.  Bob takes it for one of version 4, where its signature
    counts, and is silent."""
    rules = Rules(town)

    def meddle(frame: Frame) -> Iterator[Sent]:
        data = frame.data
        if frame.there and not frame.number and data[2] == 8:
            at = data.index(b'"tunnel_token":"') + 16
            head, claims, signature = data[at : data.index(b'"', at)].split(b".")
            text = base64.urlsafe_b64decode(claims + b"=" * (-len(claims) % 4))
            nonce = text.index(b'"nonce":"') + 9
            text = text[: nonce + 16] + b"0" * 16 + text[nonce + 32 :]
            claims = base64.urlsafe_b64encode(text).rstrip(b"=")
            data = data[:at] + b".".join((head, claims, signature)) + data[data.index(b'"', at) :]
        yield frame.there, data

    async with town.live(ALICE, hosts=()) as alice, rules.live(BOB) as bob:
        async with mallorys_road(town, meddle=meddle, cut=cut_version_5) as road:
            with pytest.raises(Unreachable):
                await alice.tunnel(BOBS_DID)
            assert not [frame for frame in road.frames if not frame.there], "no byte from Bob"
        assert (rules.heard, alice.tunnels(), bob.tunnels()) == ((0, 0, 0), [], [])


# Nonces over a restart


async def test_nonce_reuse_over_restart(town, monkeypatch):
    """Both devices start anew twice, and say the same: no key seals two things with one nonce."""
    used, watched = watching(AEADS)
    monkeypatch.setattr(rtcp.v5.carrier, "AEADS", watched)
    monkeypatch.setattr(rtcp.v5.noise, "ChaCha20Poly1305", watched[Cipher.CHACHA20_POLY1305])
    for memory in (VersionMemory, knowing_bob, knowing_bob):
        async with town.live(ALICE, memory=memory()) as alice, town.live(BOB) as bob:
            for device, peer in ((alice, BOBS_DID), (bob, ALICES_DID)):
                leg = await device.open_stream(peer, None, 80)
                for _ in range(5):
                    await talk(leg, b"the same words" * 300)
                leg.close()
    assert len(used) > 60


# Ids


async def test_stolen_stream_ids(town):
    """Mallory is let in, and by some miracle knows the id of Alice's tunnel.  With her own key it is nobody's: not to
    take its control, and not for a leg.  Alice's stream does not notice."""
    rules = Rules(town)
    async with town.live(ALICE, hosts=()) as alice, rules.live(BOB) as bob:
        leg = await alice.open_stream(BOBS_DID, None, 80)
        (tunnel,) = bob.tunnels()
        for channel, move in ((0, 1), (0, 1 << 31), (1, 0), (2, 0)):
            said = mallory_says(tunnel=tunnel.id, channel=channel, move=move)
            _, verdict = await introduce(port_of(town), said)
            assert verdict[8] == CloseCode.UNKNOWN_TUNNEL
            said = mallory_says(tunnel=secrets.token_bytes(16), channel=channel, move=move)
            _, other = await introduce(port_of(town), said)
            assert other == verdict, "nor does she learn whether there is such a tunnel"
        assert await say(port_of(town), b"\0\0" + secrets.token_hex(16).encode()) == b""
        await talk(leg)
        assert (bob.tunnels(), rules.heard) == ([tunnel], (0, 1, 1))
        leg.close()


async def test_id_exhaustion(town):
    """Who names the last of all ids, to leave none to others, ends its own tunnel."""
    rules = Rules(town)
    async with town.live(ALICE, hosts=()) as alice, rules.live(BOB) as bob:
        leg = await alice.open_stream(BOBS_DID, None, 80)
        call = Call.native(MALLORYS_KEY, BOB.public, entropy=secrets.token_bytes(32), now=0)
        async with await trio.open_tcp_stream(HOST, port_of(town)) as stream:
            await stream.send_all(call.data_to_send())
            call.receive_data(await stream.receive_some(), 0)
            told(call)
            established = call.go_on(mallory_says())
            assert established is not None
            opened = established.carrier.seal(Kind.NUMBERED, (f.write_open(f.LAST_ID, WEB),), 0)
            await stream.send_all(call.data_to_send() + bytes(opened))
            *_, last = established.carrier.receive(await hangs_up(stream), 0)
            assert (last.plain[0], last.plain[8]) == (f.CLOSE, CloseCode.FAULT)
        await until(lambda: [one.peer.device for one in bob.tunnels()] == [ALICES_DID])
        assert rules.served == [(ALICES_DID, None, 80)]
        await talk(leg)
        leg.close()


# Slow handshakes


@pytest.mark.parametrize("stage", ["message 1", "a marked Hello", "message 3"])
async def test_slow_handshakes(town, monkeypatch, stage):
    """A byte now and then buys no time, in neither stage; the rules hear nothing, and a friend comes and goes."""
    monkeypatch.setattr(rtcp.io.reception, "KNOCK_WAIT", 0.3)
    monkeypatch.setattr(rtcp.v5.answering, "PROOF_WAIT", 0.5)
    rules = Rules(town)
    async with town.live(ALICE, hosts=()) as alice, rules.live(BOB):
        call = Call.native(MALLORYS_KEY, BOB.public, entropy=secrets.token_bytes(32), now=0)
        slow = call.data_to_send()
        async with await trio.open_tcp_stream(HOST, port_of(town)) as stream, trio.open_nursery() as nursery:
            if stage == "message 3":
                await stream.send_all(slow)
                call.receive_data(await stream.receive_some(), 0)
                told(call)
                call.go_on(mallory_says())
                slow = call.data_to_send()
            elif stage == "a marked Hello":
                slow = b"\x03\x00\x08\x01" + bytes(700)

            async def drip() -> None:
                try:
                    for at in range(len(slow) - 1):
                        await stream.send_all(slow[at : at + 1])
                        await trio.sleep(0.02)
                except trio.BrokenResourceError:
                    pass

            nursery.start_soon(drip)
            leg = await alice.open_stream(BOBS_DID, None, 80)
            await talk(leg)
            leg.close()
            assert await hangs_up(stream) == b""
        assert rules.welcomed == [ALICES_DID]


async def test_slow_handshakes_from_everywhere(town):
    """All places at the door are taken by those who say nothing: who has something to say gets in all the same."""
    rules = Rules(town)
    door = DoorLimits(knocking=8, proving=8)
    async with town.live(ALICE, hosts=()) as alice, rules.live(BOB, door=door):
        slow = []
        for number in range(16):
            stream = trio.SocketStream(trio.socket.socket())
            await stream.socket.bind((f"127.0.3.{1 + number % 8}", 0))
            await stream.socket.connect((HOST, port_of(town)))
            slow.append(stream)
        leg = await alice.open_stream(BOBS_DID, None, 80)
        await talk(leg)
        leg.close()
        for stream in slow[:8]:
            assert await hangs_up(stream, 2) == b""
        for stream in slow:
            await stream.aclose()


# Oversize


@pytest.mark.parametrize(
    "said", [b"\x04\x55\x05\x01", b"\xff\xff\x05\x01", b"\0\x53\x05\x01", b"\xff\xff\x05\x03", b"\0\x54\x05\x02"]
)
async def test_oversize_before_the_proof(town, said, monkeypatch):
    """A message of an impossible size, or not yet due, is not answered, and soon given up."""
    monkeypatch.setattr(rtcp.io.reception, "KNOCK_WAIT", 0.3)
    rules = Rules(town)
    async with rules.live(BOB) as bob:
        assert await say(port_of(town), said) == b""
        assert (rules.heard, bob.tunnels()) == ((0, 0, 0), [])


async def test_oversize_behind_message_3(town):
    """Mallory sends megabytes while the rules think about her.  What is kept of them is what the pipe holds."""
    rules = Rules(town)
    thinking = trio.Event()

    async def welcome(peer) -> None:
        thinking.set()
        await rules.welcome(peer)
        await trio.sleep(0.3)
        raise Refused("not you")

    async with rules.live(BOB, welcome=welcome) as bob:
        call = Call.native(MALLORYS_KEY, BOB.public, entropy=secrets.token_bytes(32), now=0)
        async with await trio.open_tcp_stream(HOST, port_of(town)) as stream:
            await stream.send_all(call.data_to_send())
            call.receive_data(await stream.receive_some(), 0)
            told(call)
            established = call.go_on(mallory_says())
            assert established is not None
            await stream.send_all(call.data_to_send())
            await thinking.wait()
            with trio.move_on_after(0.2):
                try:
                    while True:
                        await stream.send_all(bytes(1 << 16))
                except trio.BrokenResourceError:
                    pass
        await until(lambda: bob.tunnels() == [])
        assert rules.heard == (0, 1, 0)


async def test_oversize_requests_of_a_proven_peer(town):
    """A target of more than 2,048 bytes ends the tunnel of who wrote it, and no rule sees it."""
    rules = Rules(town)
    async with town.live(MALLORY, hosts=()) as mallory, rules.live(BOB) as bob:
        tunnel = await mallory.tunnel(BOBS_DID)
        (his,) = bob.tunnels()
        frame = f.frame(f.OPEN, 1, b"\1\0\0\1\x08\x01" + bytes(2049))
        (line,) = tunnel._lines.values()
        line.send([line.carrier.seal(Kind.NUMBERED, (frame,), trio.current_time())])
        with trio.fail_after(60):
            await his.over.wait()
        assert his.end.end is End.FAULT and rules.served == []


# Clocks


@pytest.mark.parametrize("skew", [-86_400 * 365, -301, -299, 299, 301, 86_400 * 365])
@pytest.mark.parametrize("memory", [VersionMemory, knowing_bob], ids=["masked", "native"])
async def test_clock_skew(town, skew, memory):
    """Two devices whose clocks differ by five minutes, or by a year, meet."""
    rules = Rules(town)
    async with (
        town.live(ALICE, hosts=(), memory=memory(), wall=lambda: time.time() + skew) as alice,
        rules.live(BOB) as bob,
    ):
        leg = await alice.open_stream(BOBS_DID, None, 80)
        await talk(leg)
        leg.close()
        assert [one.version for one in bob.tunnels()] == [5] and rules.heard == (0, 1, 1)
