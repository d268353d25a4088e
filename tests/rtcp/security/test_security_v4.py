"""Attacks on version 4, over real sockets: the attacker gets nothing, and does not come near the rules.

Where the wire of version 4 leaves something open, the test says what; ``test_security_v5.py`` has it closed.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
import trio

import rtcp.records
from cyfs_ns.errors import Refused, Unreachable
from rtcp.door import DoorLimits
from rtcp.events import End
from rtcp.limits import Limits
from tests.rtcp.oldpeer import ACK, HELLO, OPEN, OldPeer, b64, jwt, packet, plain_packet, unb64
from tests.rtcp.pair import ALICE, ALICES_NAME, BOB, MALLORY, device_document
from tests.rtcp.security.attacker import (
    ALICES_DID,
    BOBS_DID,
    MALLORYS_DID,
    Frame,
    Rules,
    Sent,
    hangs_up,
    mallorys_road,
    pass_on,
    say,
)
from tests.rtcp.test_rtcp_oldpeer_sockets import Wire, old, old_listens, old_tunnel
from tests.rtcp.town import HOST, Town, descriptors, receive, send_all, talk, until

SHORT = Limits(step=0.3)


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    before = descriptors()
    yield
    assert descriptors() <= before


def port_of(town: Town) -> int:
    return town.people[BOBS_DID].addresses[0][1]


def claims_of(hello: dict[str, Any], **changed: object) -> dict[str, Any]:
    return {**json.loads(unb64(hello["tunnel_token"].split(".")[1])), **changed}


def hello_of(peer: OldPeer, now: float) -> dict[str, Any]:
    """What ``peer`` would say to Bob first."""
    wire = next(peer.dial(BOB.public.raw, int(now), str(BOBS_DID), f"{BOB.public.x}.dev.did"))
    return json.loads(wire[8:])  # type: ignore[index, no-any-return]


def signed(hello: dict[str, Any], seed: bytes, **changed: object) -> bytes:
    """``hello`` with other claims, signed by whoever has ``seed``."""
    return packet(HELLO, 1, {**hello, "tunnel_token": jwt(claims_of(hello, **changed), seed)})


# Replay


async def test_replay_of_a_whole_conversation():
    """To the same Bob nothing of it is worth a byte.  A Bob who was started anew has forgotten the nonce and answers
    the Hello once more, with a fresh key: what was recorded behind it does not open, and nobody is told of it."""
    town = Town()
    rules, later = Rules(town), Rules(town)
    async with town.live(ALICE, hosts=()) as alice, rules.live(BOB) as bob:
        where = port_of(town)
        async with mallorys_road(town) as road:
            leg = await alice.open_stream(BOBS_DID, None, 80)
            await talk(leg)
            leg.close()
            control, stream = road.recorded()
            hello = road.frames[0].data
            for recording in (control, stream, hello):
                assert await say(where, recording) == b""
            assert (rules.heard, [one.peer.device for one in bob.tunnels()]) == ((0, 1, 1), [ALICES_DID])
    async with later.live(BOB, limits=SHORT) as bob, await trio.open_tcp_stream(HOST, port_of(town)) as replay:
        await replay.send_all(hello)
        answer = await replay.receive_some()
        assert answer[3] == ACK
        await replay.send_all(control.removeprefix(hello))
        assert await hangs_up(replay) == b""
        assert await say(port_of(town), control) == b""
        assert await say(port_of(town), stream) == b""
        assert (later.heard, bob.tunnels()) == ((0, 0, 0), [])


async def test_replay_of_a_named_peers_hello_reaches_the_resolver_and_no_further():
    """Version 4 asks for the name before it knows whether the Hello is fresh, since the nonce of one that would not be
    let in shall take no memory; version 5 asks for nobody who is not there."""
    town = Town()
    rules = Rules(town)
    now = {"wall": lambda: 1_711_111_111.0}
    async with (
        town.live(ALICE, hosts=(), did=ALICES_NAME, doc=device_document(ALICE), **now) as alice,
        rules.live(BOB, **now),
    ):
        town.settle(ALICE, did=ALICES_NAME)
        async with mallorys_road(town) as road:
            await alice.tunnel(BOBS_DID)
        await until(lambda: rules.welcomed)
        assert await say(port_of(town), road.frames[0].data) == b""
        assert (rules.heard, rules.vouched) == ((2, 1, 0), [ALICES_NAME] * 2)


@pytest.mark.parametrize("what", ["doubled", "swapped", "an old one again"])
async def test_replay_of_records(what):
    """A request for a stream that Mallory sends twice, or later, is not served twice: the tunnel ends."""
    town = Town()
    rules, held = Rules(town), list[bytes]()

    def meddle(frame: Frame) -> Iterator[Sent]:
        if frame.connection or not frame.there or frame.number < 2:
            yield from pass_on(frame)
        elif what == "doubled":
            yield True, frame.data + frame.data
        elif what == "swapped":
            held.append(frame.data)
            if len(held) == 2:
                yield True, held[1] + held[0]
        else:
            held.append(frame.data)
            yield True, frame.data + held[0] * (len(held) == 2)

    async with town.live(ALICE, hosts=()) as alice, rules.live(BOB) as bob, mallorys_road(town, meddle=meddle):
        tunnel = await alice.tunnel(BOBS_DID)
        (his,) = bob.tunnels()
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for port in (80, 81):
                    nursery.start_soon(tries, tunnel, port)
                await his.over.wait()
        assert his.end.end is End.FAULT and "not from our peer" in his.end.why
        assert len(rules.served) == len(set(rules.served)) <= (0 if what == "swapped" else 2)


async def tries(tunnel, port: int) -> None:
    with suppress(Unreachable):
        (await tunnel.open_stream(None, port)).close()


# Reflection


async def test_reflection_of_a_hello():
    """Alice dials Bob, and a mirror stands there; or it is her own door that her Hello is brought to."""
    town = Town()
    rules = Rules(town)
    async with rules.live(ALICE) as alice, trio.open_nursery() as nursery:
        heard: list[bytes] = []

        async def mirror(stream: trio.SocketStream) -> None:
            async for data in stream:
                heard.append(data)
                await stream.send_all(data)

        (listener,) = await nursery.start(partial(trio.serve_tcp, mirror, 0, host=HOST))
        town.settle(BOB, (HOST, listener.socket.getsockname()[1]))
        with pytest.raises(Unreachable, match="out of place"):
            await alice.tunnel(BOBS_DID)
        assert len(heard) == 1, "she says nothing more"
        own_door = town.people[ALICES_DID].addresses[0][1]
        assert await say(own_door, heard[0]) == b""
        assert (rules.heard, alice.tunnels()) == ((0, 0, 0), [])
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("at", ["Alice", "Bob"])
async def test_reflection_of_records(at):
    """What one side sealed comes back to it: each direction has nonces of its own, so nothing opens."""
    town = Town()
    of_alice, of_bob, there = Rules(town), Rules(town), at == "Alice"

    def meddle(frame: Frame) -> Iterator[Sent]:
        """The request for a stream, or its answer, goes back."""
        back = not frame.connection and frame.there is there and frame.number >= 2
        yield (frame.there is not back), frame.data

    async with (
        of_alice.live(ALICE, hosts=()) as alice,
        of_bob.live(BOB) as bob,
        mallorys_road(town, meddle=meddle),
    ):
        tunnel = await alice.tunnel(BOBS_DID)
        hurt = tunnel if there else bob.tunnels()[0]
        with pytest.raises(Unreachable):
            await tunnel.open_stream(None, 80)
        await hurt.over.wait()
        assert hurt.end.end is End.FAULT and "not from our peer" in hurt.end.why
        assert of_alice.served == [] and len(of_bob.served) == (not there)


# Unknown key share


async def test_unknown_key_share_with_the_called():
    """Mallory signs Alice's ephemeral key as her own, so that Bob would think Alice's words are Mallory's.  His answer
    is for Mallory, which Alice sees; and Mallory, who has no secret to that key, never confirms."""
    town = Town()
    rules = Rules(town)

    def meddle(frame: Frame) -> Iterator[Sent]:
        if frame.there and not frame.number:
            hello = json.loads(frame.data[8:])
            mine = {**hello, "from_id": str(MALLORYS_DID)}
            yield True, signed(mine, MALLORY.seed, **{"from": f"{MALLORY.public.x}.dev.did"})
        else:
            yield from pass_on(frame)

    async with town.live(ALICE, hosts=()) as alice, rules.live(BOB, limits=SHORT) as bob:
        async with mallorys_road(town, meddle=meddle) as road:
            with pytest.raises(Unreachable, match="another Hello than ours"):
                await alice.tunnel(BOBS_DID)
            assert [frame.there for frame in road.frames] == [True, False], "Bob answered Mallory, and Alice nobody"
        assert (rules.heard, bob.tunnels()) == ((0, 0, 0), [])


async def test_unknown_key_share_with_the_caller():
    """Alice does call Mallory, who passes her ephemeral key on to Bob, and Bob's to her.  Both would have one secret;
    but the names are in the keys, so what Alice confirms does not open at Bob."""
    town = Town()
    rules = Rules(town)

    async def relay(alices: trio.SocketStream) -> None:
        near, far = Wire(alices), Wire(await trio.open_tcp_stream(HOST, port_of(town)))
        async with alices, far.stream:
            _, _, hello = await near.run(plain_packet())
            named = {
                "from": f"{MALLORY.public.x}.dev.did",
                "to": f"{BOB.public.x}.dev.did",
                "canonical_to": str(BOBS_DID),
            }
            mine = {**hello, "from_id": str(MALLORYS_DID), "to_id": str(BOBS_DID)}
            await far.stream.send_all(signed(mine, MALLORY.seed, **named))
            _, _, ack = await far.run(plain_packet())
            told = json.loads(unb64(ack["ack_token"].split(".")[1]))
            told |= {"to": f"{ALICE.public.x}.dev.did", "from": f"{MALLORY.public.x}.dev.did"}
            await alices.send_all(packet(ACK, 0, {**ack, "ack_token": jwt(told, MALLORY.seed)}))
            confirm = await alices.receive_some()
            assert confirm, "Alice is sure of Mallory, and right"
            await far.stream.send_all(near._buffer + confirm)
            assert await hangs_up(far.stream) == b""

    async with town.live(ALICE, hosts=()) as alice, rules.live(BOB) as bob, trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, relay, 0, host=HOST))
        town.settle(MALLORY, (HOST, listener.socket.getsockname()[1]))
        with pytest.raises(Unreachable):
            await alice.tunnel(MALLORYS_DID)
        assert (rules.heard, bob.tunnels()) == ((0, 0, 0), [])
        nursery.cancel_scope.cancel()


# Key-compromise impersonation


async def test_key_compromise_impersonation_towards_the_called():
    """Mallory has Bob's key, and wants to be Alice for Bob: it takes Alice's signature."""
    town = Town()
    rules = Rules(town)
    async with rules.live(BOB) as bob:
        hello = hello_of(old(ALICE.seed), time.time())
        assert await say(port_of(town), signed(hello, BOB.seed)) == b""
        # Nor is she Bob himself for Bob.
        assert await say(port_of(town), packet(HELLO, 1, hello_of(old(BOB.seed), time.time()))) == b""
        assert (rules.heard, bob.tunnels()) == ((0, 0, 0), [])


async def test_key_compromise_impersonation_towards_the_caller():
    """Mallory has Alice's key, and answers Alice in Bob's name: it takes Bob's signature."""
    town = Town()
    rules = Rules(town)
    async with rules.live(ALICE, hosts=()) as alice:
        posing = old(ALICE.seed)
        async with old_listens(town, posing) as arrivals:
            town.people[BOBS_DID] = town.people[ALICES_DID].__class__(BOB.public, town.people[ALICES_DID].addresses)

            async def answer() -> None:
                wire = await arrivals.receive()
                _, _, hello = await wire.run(plain_packet())
                claims = claims_of(hello)
                ack = {
                    "aud": "buckyos-rtcp-v4-ack",
                    "to": claims["from"],
                    "from": claims["to"],
                    "xpub": posing.xpub.hex(),
                    "peer_xpub": claims["xpub"],
                    "iat": claims["iat"],
                    "exp": claims["exp"],
                    "nonce": posing.nonce.hex(),
                }
                told = {"ack_token": jwt(ack, ALICE.seed), "challenge": "00" * 16, "responder_id": str(BOBS_DID)}
                await wire.stream.send_all(packet(ACK, 0, told))
                heard.append(await hangs_up(wire.stream))

            heard: list[bytes] = []
            async with trio.open_nursery() as nursery:
                nursery.start_soon(answer)
                with pytest.raises(Unreachable, match="somebody else is at this address"):
                    await alice.tunnel(BOBS_DID)
        assert (heard, alice.tunnels(), rules.heard) == ([b""], [], (0, 0, 0))


# Downgrade


@pytest.mark.parametrize("audience", ["buckyos-rtcp-v3-hello", "buckyos-rtcp-v2-hello", "buckyos-rtcp-v4-ack", None])
async def test_downgrade_to_an_older_version(audience):
    """Alice's own signature, over what an older version of hers would have said."""
    town = Town()
    rules = Rules(town)
    async with rules.live(BOB) as bob:
        hello = hello_of(old(ALICE.seed), time.time())
        assert await say(port_of(town), signed(hello, ALICE.seed, aud=audience)) == b""
        assert (rules.heard, bob.tunnels()) == ((0, 0, 0), [])


async def test_downgrade_of_a_hello_in_its_plain_parts():
    """What the packet says beside the signed token has to agree with it."""
    town = Town()
    rules = Rules(town)
    async with rules.live(BOB) as bob:
        hello = hello_of(old(ALICE.seed), time.time())
        unsigned = ".".join((b64(b'{"alg":"none"}'), hello["tunnel_token"].split(".")[1], ""))
        for changed in (
            {"my_port": 1},
            {"from_id": str(MALLORYS_DID)},
            {"to_id": str(MALLORYS_DID)},
            {"tunnel_token": None},
            {"tunnel_token": unsigned},
        ):
            assert await say(port_of(town), packet(HELLO, 1, {**hello, **changed})) == b""
        assert (rules.heard, bob.tunnels()) == ((0, 0, 0), [])


# Nonces


async def test_nonce_reuse_over_restart(monkeypatch):
    """Both devices start anew twice, with the keys they had, and say the same things: no key ever seals two records
    with one nonce, neither of control nor of a stream, in neither direction."""
    used: list[tuple[bytes, bytes]] = []

    class Watched:
        def __init__(self, key: bytes) -> None:
            self._key, self._aead = key, plain_aead(key)
            self.decrypt = self._aead.decrypt

        def encrypt(self, nonce: bytes, data: bytes | memoryview, aad: bytes | None) -> bytes:
            used.append((self._key, nonce))
            return self._aead.encrypt(nonce, data, aad)

    plain_aead = rtcp.records.AESGCM
    monkeypatch.setattr(rtcp.records, "AESGCM", Watched)
    for _ in range(3):
        town = Town()
        async with town.live(ALICE) as alice, town.live(BOB) as bob:
            for _ in range(3):
                for device, peer in ((alice, BOBS_DID), (bob, ALICES_DID)):
                    leg = await device.open_stream(peer, None, 80)
                    await talk(leg, b"the same words" * 3000)
                    leg.close()
    assert len(used) > 60 and len(set(used)) == len(used)
    assert len({key for key, _ in used}) == 3 + 18, "a key a tunnel and a key a stream"


# Ids of streams


async def test_stolen_stream_ids():
    """The id is in clear and proves nothing, so in version 4 a thief who is quicker takes the place of a stream.  It
    reads and writes nothing; that one stream is lost, and the rest lives.  In version 5 a leg proves the device's key.
    """
    town = Town()
    rules, seen = Rules(town), list[str]()

    async def serve(request) -> None:
        leg = await request.accept()
        try:
            await send_all(leg, b"the secret of this stream")
            seen.append((await receive(leg)).decode())
        except ConnectionAbortedError as fault:
            seen.append(str(fault))
        finally:
            leg.close()

    async with rules.live(BOB, serve=serve) as bob:
        wire, tunnel = await old_tunnel(town, old(ALICE.seed))
        async with wire.stream:
            stream_id = secrets.token_hex(16)
            await wire.run(tunnel.send(OPEN, 1, wanted(stream_id)))
            assert (await wire.run(tunnel.receive()))[2] == {"result": 0}
            stolen = await say(port_of(town), b"\0\0" + stream_id.encode() + b"\0\x20" + bytes(32))
            assert b"secret" not in stolen
            assert seen == ["record 0 is not from our peer"]
            for again in (stream_id, secrets.token_hex(16)):
                assert await say(port_of(town), b"\0\0" + again.encode() + b"\0\x20" + bytes(32)) == b""
            await wire.run(tunnel.send(OPEN, 2, wanted(stream_id)))
            assert (await wire.run(tunnel.receive()))[2] == {"result": 7}, "an id counts once, whatever became of it"
            other = secrets.token_hex(16)
            await wire.run(tunnel.send(OPEN, 3, wanted(other)))
            assert (await wire.run(tunnel.receive()))[2] == {"result": 0}
            leg = Wire(await trio.open_tcp_stream(HOST, port_of(town)))
            async with leg.stream:
                await leg.stream.send_all(b"\0\0" + other.encode())
                records = tunnel.leg(other, 0, dialled=True)
                assert await leg.run(records.read(25)) == b"the secret of this stream"
            assert len(bob.tunnels()) == 1


def wanted(stream_id: str, host: str | None = None) -> dict[str, object]:
    return {"streamid": stream_id, "purpose": "Stream", "dest_port": 22, "dest_host": host}


async def test_id_exhaustion():
    """A peer that uses up its ids is told so, costs no memory beyond, and the next tunnel has ids again."""
    town = Town()
    rules = Rules(town)
    async with rules.live(BOB, limits=Limits(stream_ids=3, per_second=1e6, burst=1000)) as bob:
        for _ in range(2):
            wire, tunnel = await old_tunnel(town, old(ALICE.seed))
            async with wire.stream:
                results = []
                for seq in range(1, 9):
                    await wire.run(tunnel.send(OPEN, seq, wanted(f"{seq:032x}")))
                    results.append((await wire.run(tunnel.receive()))[2]["result"])
                assert results == [0, 0, 0, 9, 9, 9, 9, 9]
                (standing,) = bob.tunnels()
                assert len(standing._link._streams._used) == 3
            await standing.over.wait()
    assert len(rules.served) == 6


# Slow handshakes


@pytest.mark.parametrize("told", ["nothing", "a byte now and then", "half a Hello", "a Hello and then nothing"])
async def test_slow_handshakes(told):
    """However slowly somebody speaks, the whole handshake has one end; meanwhile those who stand notice nothing."""
    town = Town()
    rules = Rules(town)
    async with town.live(ALICE, hosts=()) as alice, rules.live(BOB, limits=SHORT) as bob:
        await alice.tunnel(BOBS_DID)
        hello = packet(HELLO, 1, hello_of(old(MALLORY.seed), time.time()))
        async with await trio.open_tcp_stream(HOST, port_of(town)) as stream, trio.open_nursery() as nursery:

            async def speak() -> None:
                try:
                    if told == "a byte now and then":
                        for at in range(len(hello)):
                            await stream.send_all(hello[at : at + 1])
                            await trio.sleep(0.02)
                    elif told != "nothing":
                        await stream.send_all(hello[: len(hello) // 2] if told == "half a Hello" else hello)
                except trio.BrokenResourceError:
                    pass

            nursery.start_soon(speak)
            leg = await alice.open_stream(BOBS_DID, None, 80)
            await talk(leg)
            leg.close()
            said = await hangs_up(stream)
            assert (said[3:4] == bytes((ACK,))) == (told == "a Hello and then nothing")
        assert rules.welcomed == [ALICES_DID] and len(bob.tunnels()) == 1


async def test_slow_handshakes_from_everywhere():
    """All places are taken by those who say nothing.  Who has a tunnel notices nothing, and who has none gets in at
    once: the slowest gives way."""
    town = Town()
    rules = Rules(town)
    async with (
        town.live(ALICE, hosts=()) as alice,
        town.live(MALLORY, hosts=()) as mallory,
        rules.live(BOB, door=DoorLimits(knocking=8)),
    ):
        await alice.tunnel(BOBS_DID)
        slow = []
        for number in range(16):
            stream = trio.SocketStream(trio.socket.socket())
            await stream.socket.bind((f"127.0.2.{1 + number % 8}", 0))
            await stream.socket.connect((HOST, port_of(town)))
            slow.append(stream)
        leg = await alice.open_stream(BOBS_DID, None, 80)
        await talk(leg)
        leg.close()
        await mallory.tunnel(BOBS_DID)
        assert rules.welcomed == [ALICES_DID, MALLORYS_DID]
        for stream in slow[:8]:
            assert await hangs_up(stream, 2) == b"", "long before its time was up"
        for stream in slow:
            await stream.aclose()


# Oversize


NOTHING = {"from_id": str(ALICES_DID), "to_id": str(BOBS_DID), "my_port": 1, "tunnel_token": "x.y.z"}


@pytest.mark.parametrize("bytewise", [False, True])
@pytest.mark.parametrize(
    "said",
    [
        b"\0\7\x08\1\0\0\0\0" + bytes(8),
        b"\0\x22\x09\1\0\0\0\0" + bytes(40),
        packet(HELLO, 1, {**NOTHING, "from_id": "did:dev:" + "A" * 40_000}),
        packet(HELLO, 1, {**NOTHING, "tunnel_token": "x" * 60_000}),
        packet(HELLO, 1, {**NOTHING, "my_port": 1 << 40}),
        b"\xff\xff\x08\1\0\0\0\1" + b"[" * 65_527,
        b"\xff\xff\x08\1\0\0\0\1" + b'{"a":' * 13_105 + b"00",
        b"\xff\xff\x08\1\0\0\0\1" + b"9" * 65_527,
    ],
    ids=["too short", "JSON elsewhere", "from_id", "token", "port", "brackets", "objects", "digits"],
)
async def test_oversize_before_the_proof(said, bytewise):
    """Lengths that lie, names and tokens without end, JSON that is deep or wide: silence, and soon."""
    if bytewise and len(said) > 1000:
        said = said[:1000]
    town = Town()
    rules = Rules(town)
    async with rules.live(BOB, limits=SHORT) as bob:
        assert await say(port_of(town), said, bytewise=bytewise) == b""
        assert (rules.heard, bob.tunnels()) == ((0, 0, 0), [])


@pytest.mark.parametrize("claims", [{"from": "x" * 600}, {"xpub": "00" * 4000}, {"nonce": "00" * 17}, {"exp": 1 << 60}])
async def test_oversize_in_a_token_that_is_signed(claims):
    """Whoever has a key can sign anything; it is read no further than it may be."""
    town = Town()
    rules = Rules(town)
    async with rules.live(BOB) as bob:
        hello = hello_of(old(MALLORY.seed), time.time())
        assert await say(port_of(town), signed(hello, MALLORY.seed, **claims)) == b""
        assert (rules.heard, bob.tunnels()) == ((0, 0, 0), [])


@pytest.mark.parametrize("length", [0, 15, 16_401, 65_535])
async def test_oversize_records(length):
    """A record of an impossible size ends the tunnel before the rest of it is there."""
    town = Town()
    rules = Rules(town)
    async with rules.live(BOB) as bob:
        wire, _ = await old_tunnel(town, old(ALICE.seed))
        async with wire.stream:
            (standing,) = bob.tunnels()
            await wire.stream.send_all(length.to_bytes(2, "big"))
            assert await hangs_up(wire.stream) == b""
        assert standing.end.end is End.FAULT and f"claims {length} bytes" in standing.end.why
    assert rules.served == []


async def test_oversize_requests_of_a_proven_peer():
    """A host of 60 KB is a text like any other: the rules see it, and it is bounded by its packet."""
    town = Town()
    rules = Rules(town)
    async with rules.live(BOB):
        wire, tunnel = await old_tunnel(town, old(ALICE.seed))
        async with wire.stream:
            await wire.run(oversize(tunnel, wanted("ab" * 16, "h" * 60_000)))
            assert (await wire.run(tunnel.receive()))[2] == {"result": 0}
            assert len(rules.served[0][1]) == 60_000
            await wire.stream.send_all(b"".join(tunnel.send(OPEN, 2, {**wanted("cd" * 16), "dest_port": 1 << 16})))
            assert await hangs_up(wire.stream) == b""
    assert len(rules.served) == 1


def oversize(tunnel, body: dict[str, object]):
    whole = packet(OPEN, 1, body)
    for at in range(0, len(whole), 16_384):
        yield tunnel.records.seal(whole[at : at + 16_384])


# Clocks


@pytest.mark.parametrize(
    ("skew", "let_in"), [(-301, False), (-121, False), (-118, True), (0, True), (58, True), (63, False), (301, False)]
)
async def test_clock_skew(skew, let_in):
    """A token is in force for the minute it names, and a minute on either side of it; five minutes are too many for
    version 4, either way.  Version 5 needs no clock."""
    town = Town()
    rules = Rules(town)
    now = 1_800_000_000.5
    async with rules.live(BOB, wall=lambda: now, limits=SHORT) as bob:
        hello = packet(HELLO, 1, hello_of(old(ALICE.seed), now + skew))
        answer = await say(port_of(town), hello)
        assert (answer[3:4] == bytes((ACK,))) is let_in and bool(answer) is let_in
        assert (rules.heard, bob.tunnels()) == ((0, 0, 0), [])


@pytest.mark.parametrize(
    ("skew", "meets"), [(-121, False), (-110, False), (-58, True), (58, True), (63, False), (301, False)]
)
async def test_clock_skew_of_two_devices(skew, meets):
    """Each judges the other's token by its own clock, so they meet within a minute of each other."""
    town = Town()
    async with town.live(ALICE, hosts=(), wall=lambda: time.time() + skew) as alice, town.live(BOB) as bob:
        if meets:
            await alice.tunnel(BOBS_DID)
            assert len(bob.tunnels()) == 1
        else:
            with pytest.raises((Unreachable, Refused)):
                await alice.tunnel(BOBS_DID)
            assert bob.tunnels() == []
