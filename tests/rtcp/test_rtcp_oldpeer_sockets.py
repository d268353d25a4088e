"""The second peer, written from the description alone, and ours over real sockets, both ways."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio

from cyfs_ns.errors import Refused, Unreachable
from cyfs_ns.identity.did import dev_did
from cyfs_ns.identity.keys import PublicKey
from rtcp.events import End
from rtcp.io.leg import Datagrams
from rtcp.packet import Purpose
from rtcp.party import Found
from tests.rtcp.oldpeer import (
    OPEN,
    OPEN_RESP,
    PING,
    PONG,
    ROPEN,
    ROPEN_RESP,
    OldPeer,
    Records,
    Step,
    Tunnel,
)
from tests.rtcp.pair import ALICE, BOB
from tests.rtcp.town import HOST, Town, connect, descriptors, receive_exactly, reject, send_all, until

ALICES_DID, BOBS_DID = dev_did(ALICE.public), dev_did(BOB.public)


def old(seed: bytes) -> OldPeer:
    return OldPeer(seed, secrets.token_bytes(32), secrets.token_bytes(16), secrets.token_bytes(16))


@pytest.fixture(autouse=True)
def nothing_is_left():
    before = descriptors()
    yield
    assert descriptors() <= before


class Wire:
    """A connection that the old peer's steps run over, a few bytes at a time."""

    def __init__(self, stream: trio.SocketStream, size: int = 7) -> None:
        self.stream, self._size = stream, size
        self._buffer = b""

    async def run(self, step: Step) -> Any:
        with trio.fail_after(60):
            try:
                wanted = next(step)
                while True:
                    if isinstance(wanted, bytes):
                        await self.stream.send_all(wanted)
                        wanted = step.send(b"")
                    else:
                        wanted = step.send(await self._take(wanted))
            except StopIteration as done:
                return done.value

    async def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            data = await self.stream.receive_some(self._size)
            if not data:
                raise EOFError
            self._buffer += data
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken

    async def talk(self, records: Records, text: bytes) -> None:
        """An echo answers."""
        await self.stream.send_all(records.seal(text))
        assert await self.run(records.read(len(text))) == text


async def dial_bob(town: Town) -> Wire:
    return Wire(await trio.open_tcp_stream(*town.people[BOBS_DID].addresses[0]))


async def old_tunnel(town: Town, peer: OldPeer) -> tuple[Wire, Tunnel]:
    wire = await dial_bob(town)
    host = f"{BOB.public.x}.dev.did"
    return wire, await wire.run(peer.dial(BOB.public.raw, int(time.time()), str(BOBS_DID), host))


@asynccontextmanager
async def old_listens(town: Town, peer: OldPeer) -> AsyncIterator[trio.MemoryReceiveChannel[Wire]]:
    """The old peer at an address where others find it; the connections that arrive there."""
    send, arrivals = trio.open_memory_channel[Wire](10)

    async def take(stream: trio.SocketStream) -> None:
        async with stream:
            await send.send(Wire(stream))
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, take, 0, host=HOST))
        address = listener.socket.getsockname()[:2]
        key = PublicKey(peer.public)
        town.people[dev_did(key)] = Found(key, (address,))
        yield arrivals
        nursery.cancel_scope.cancel()


async def test_the_old_peer_dials_us_and_both_open_streams():
    town = Town()
    async with town.live(BOB) as bob:
        wire, tunnel = await old_tunnel(town, old(ALICE.seed))
        async with wire.stream:
            await wire.run(tunnel.send(PING, 5, {"timestamp": 1}))
            assert await wire.run(tunnel.receive()) == (PONG, 5, {"timestamp": 0})
            for seq, (word, number) in enumerate((("Stream", 0), ("Datagram", 1), (None, 0))):
                stream_id = secrets.token_hex(16)
                asked = {"streamid": stream_id, "purpose": word, "dest_port": 80, "dest_host": None}
                await wire.run(tunnel.send(OPEN, seq, asked))
                assert await wire.run(tunnel.receive()) == (OPEN_RESP, seq, {"result": 0})
                leg = await dial_bob(town)
                async with leg.stream:
                    await leg.stream.send_all(b"\0\0" + stream_id.encode())
                    await leg.talk(tunnel.leg(stream_id, number, dialled=True), b"the old peer's words")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_answer_ropen, wire, tunnel, town)
                back = await bob.open_stream(ALICES_DID, "printer.home", 631)
                await send_all(back, b"hi")
                with trio.fail_after(60):
                    assert await receive_exactly(back, 3) == b"HI!"
                back.close()
        await until(lambda: not bob.tunnels())


async def _answer_ropen(wire: Wire, tunnel: Tunnel, town: Town) -> None:
    """The old peer is asked for a stream: it connects, then answers, then speaks."""
    command, seq, body = await wire.run(tunnel.receive())
    assert command == ROPEN and body["dest_host"] == "printer.home" and body["dest_port"] == 631
    leg = await dial_bob(town)
    async with leg.stream:
        await wire.run(tunnel.send(ROPEN_RESP, seq, {"result": 0}))
        records = tunnel.leg(body["streamid"], 0, dialled=True)
        await leg.stream.send_all(b"\0\0" + body["streamid"].encode())
        assert await leg.run(records.read(2)) == b"hi"
        await leg.stream.send_all(records.seal(b"HI!"))


async def test_the_leg_may_come_before_the_answer():
    town = Town()
    async with town.live(BOB) as bob:
        wire, tunnel = await old_tunnel(town, old(ALICE.seed))
        async with wire.stream, trio.open_nursery() as nursery:

            async def answer_late() -> None:
                _, seq, body = await wire.run(tunnel.receive())
                leg = await dial_bob(town)
                async with leg.stream:
                    await leg.stream.send_all(b"\0\0" + body["streamid"].encode())
                    records = tunnel.leg(body["streamid"], 0, dialled=True)
                    assert await leg.run(records.read(5)) == b"early"
                    await wire.run(tunnel.send(ROPEN_RESP, seq, {"result": 0}))
                    await leg.stream.send_all(records.seal(b"late"))

            nursery.start_soon(answer_late)
            back = await bob.open_stream(ALICES_DID, None, 1)
            await send_all(back, b"early")
            assert await receive_exactly(back, 4) == b"late"
            back.close()


async def test_we_dial_the_old_peer_and_both_open_streams():
    town, peer = Town(), old(ALICE.seed)
    async with town.live(BOB, hosts=()) as bob, old_listens(town, peer) as arrivals, trio.open_nursery() as nursery:
        opened: list[Any] = []

        async def open_one() -> None:
            opened.append(await bob.open_stream(ALICES_DID, "dns.example", 443))

        nursery.start_soon(open_one)
        wire = await arrivals.receive()
        tunnel = await wire.run(peer.serve(int(time.time())))
        assert tunnel.peer_hello["from_id"] == str(BOBS_DID)
        command, seq, body = await wire.run(tunnel.receive())
        assert command == OPEN and (body["purpose"], body["dest_host"], body["dest_port"]) == (
            "Stream",
            "dns.example",
            443,
        )
        await wire.run(tunnel.send(OPEN_RESP, seq, {"result": 0}))
        leg = await arrivals.receive()
        assert await leg._take(34) == b"\0\0" + body["streamid"].encode()
        await until(lambda: opened)
        records = tunnel.leg(body["streamid"], 0, dialled=False)
        await send_all(opened[0], b"ours")
        assert await leg.run(records.read(4)) == b"ours"
        await leg.stream.send_all(records.seal(b"theirs"))
        assert await receive_exactly(opened[0], 6) == b"theirs"
        opened[0].close()
        stream_id = secrets.token_hex(16)
        asked = {"streamid": stream_id, "purpose": "Stream", "dest_port": 22, "dest_host": None}
        await wire.run(tunnel.send(ROPEN, 9, asked))
        back = await arrivals.receive()
        assert await wire.run(tunnel.receive()) == (ROPEN_RESP, 9, {"result": 0})
        assert await back._take(34) == b"\0\0" + stream_id.encode()
        await back.talk(tunnel.leg(stream_id, 0, dialled=False), b"the echo of the dialler")


async def test_datagrams_with_the_old_peer():
    town = Town()
    got: list[bytes] = []

    async def serve(request: Any) -> None:
        assert request.purpose is Purpose.DATAGRAM
        datagrams = Datagrams(await request.accept())
        while len(got) < 2:
            await trio.lowlevel.wait_readable(datagrams.fileno())
            try:
                got.append(datagrams.recv())
                datagrams.send(got[-1] * 2)
            except BlockingIOError:
                continue
        datagrams.close()

    async with town.live(BOB, serve=serve):
        wire, tunnel = await old_tunnel(town, old(ALICE.seed))
        async with wire.stream:
            stream_id = secrets.token_hex(16)
            asked = {"streamid": stream_id, "purpose": "Datagram", "dest_port": 53, "dest_host": "dns.example"}
            await wire.run(tunnel.send(OPEN, 1, asked))
            await wire.run(tunnel.receive())
            leg = await dial_bob(town)
            async with leg.stream:
                records = tunnel.leg(stream_id, 1, dialled=True)
                await leg.stream.send_all(b"\0\0" + stream_id.encode())
                await leg.stream.send_all(records.seal((2).to_bytes(4, "big") + b"h"))
                await leg.stream.send_all(records.seal(b"i" + (0).to_bytes(4, "big")))
                assert await leg.run(records.read(8 + 4)) == (4).to_bytes(4, "big") + b"hihi" + bytes(4)
    assert got == [b"hi", b""]


async def test_the_old_peer_is_refused_a_stream_and_told_5():
    town = Town()
    async with town.live(BOB, serve=reject("no")):
        wire, tunnel = await old_tunnel(town, old(ALICE.seed))
        async with wire.stream:
            asked = {"streamid": secrets.token_hex(16), "purpose": "Stream", "dest_port": 22, "dest_host": None}
            await wire.run(tunnel.send(OPEN, 1, asked))
            assert await wire.run(tunnel.receive()) == (OPEN_RESP, 1, {"result": 5})


async def test_the_old_peer_does_not_want_us():
    town, peer = Town(), old(ALICE.seed)
    async with town.live(BOB, hosts=()) as bob, old_listens(town, peer) as arrivals, trio.open_nursery() as nursery:

        async def serve() -> None:
            wire = await arrivals.receive()
            await wire.run(peer.serve(int(time.time()), accept=False))

        nursery.start_soon(serve)
        with pytest.raises(Refused, match="full"):
            await bob.tunnel(ALICES_DID)


async def test_who_connects_for_our_leg_and_lets_us_wait():
    """We dialled the old peer; it asks for a stream and its port is closed by then: result 2."""
    town, peer = Town(), old(ALICE.seed)

    async def dial(host: str, port: int) -> Any:
        if dialled:
            raise Unreachable("closed now", "connect_refused")
        dialled.append(port)
        return await connect(host, port)

    dialled: list[int] = []
    town.dial = dial
    async with town.live(BOB, hosts=()) as bob, old_listens(town, peer) as arrivals, trio.open_nursery() as nursery:
        nursery.start_soon(bob.tunnel, ALICES_DID)
        wire = await arrivals.receive()
        tunnel = await wire.run(peer.serve(int(time.time())))
        asked = {"streamid": secrets.token_hex(16), "purpose": "Stream", "dest_port": 22, "dest_host": None}
        await wire.run(tunnel.send(ROPEN, 1, asked))
        assert await wire.run(tunnel.receive()) == (ROPEN_RESP, 1, {"result": 2})


async def test_a_packet_out_of_place_ends_the_tunnel():
    town = Town()
    async with town.live(BOB) as bob:
        wire, tunnel = await old_tunnel(town, old(ALICE.seed))
        async with wire.stream:
            (standing,) = bob.tunnels()
            await wire.run(tunnel.send(OPEN_RESP, 1, {"result": 0}))
            with pytest.raises(EOFError):
                await wire.run(tunnel.receive())
            assert standing.end is not None and standing.end.end is End.FAULT
            assert bob.tunnels() == []
