"""Who attacks, with what: a road between two devices that is Mallory's, and a book of all that reached the rules."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import trio

from cyfs_ns.identity.did import Did, dev_did
from cyfs_ns.identity.keys import SecretKey
from rtcp.admission import Proven, Standing
from rtcp.io.device import Device
from rtcp.io.tunnel import StreamRequest
from rtcp.party import Peer
from rtcp.v5.schedule import Aead, Cipher
from tests.rtcp.pair import ALICE, BOB, MALLORY
from tests.rtcp.town import HOST, Town, echo

ALICES_DID, BOBS_DID, MALLORYS_DID = (dev_did(key.public) for key in (ALICE, BOB, MALLORY))


@dataclass
class Rules:
    """The house of one device in ``town``: it lets everybody in, serves an echo, and writes down who came how far."""

    town: Town
    vouched: list[Did] = field(default_factory=list)
    welcomed: list[Did] = field(default_factory=list)
    served: list[tuple[Did, str | None, int]] = field(default_factory=list)

    @property
    def heard(self) -> tuple[int, int, int]:
        """How often each was asked: for a name, for a tunnel, for a stream."""
        return len(self.vouched), len(self.welcomed), len(self.served)

    async def vouch(self, proven: Proven) -> Standing:
        self.vouched.append(proven.named)
        return await self.town.vouch(proven)

    async def welcome(self, peer: Peer) -> None:
        await trio.lowlevel.checkpoint()
        self.welcomed.append(peer.device)

    async def serve(self, request: StreamRequest) -> None:
        self.served.append((request.peer.device, request.host, request.port))
        await echo(request)

    @asynccontextmanager
    async def live(self, key: SecretKey, **more: Any) -> AsyncIterator[Device]:
        """A device with these rules, as :meth:`Town.live`."""
        more = {"vouch": self.vouch, "welcome": self.welcome, "serve": self.serve, **more}
        async with self.town.live(key, **more) as device:
            yield device


@dataclass(frozen=True, slots=True)
class Frame:
    """A whole packet or record on its way: of which connection, which way, the how manieth."""

    connection: int
    there: bool
    number: int
    data: bytes


Sent: TypeAlias = tuple[bool, bytes]
"""Which way, and what."""
Cut: TypeAlias = Callable[[bytearray, int, bool], bytes | None]
"""Takes the next frame, which is the how manieth, out of what came; whether that began with words in plain."""


def pass_on(frame: Frame) -> Iterator[Sent]:
    yield frame.there, frame.data


def cut_version_4(came: bytearray, number: int, plain: bool) -> bytes | None:
    """A plain packet, then records; or the head of a stream's connection, then records, and records alone back."""
    if len(came) < 2:
        return None
    length = int.from_bytes(came[:2], "big")
    size = (length or 34) if plain and not number else 2 + length
    return _taken(came, size)


def cut_version_5(came: bytearray, number: int, plain: bool) -> bytes | None:
    """Messages 1 and 3, or 2 alone, then records (of the way back: message 2 is number 0)."""
    if len(came) < 4:
        return None
    is_message = came[2] in (5, 8) and number < 2 and int.from_bytes(came[:2], "big") >= 48
    return _taken(came, int.from_bytes(came[:2], "big") if is_message else 21 + int.from_bytes(came[2:4], "big"))


def _taken(came: bytearray, size: int) -> bytes | None:
    if len(came) < size:
        return None
    frame = bytes(came[:size])
    del came[:size]
    return frame


class Road:
    """The road to ``port``, on real sockets.  For all that comes ``meddle`` says what goes on, and which way;
    ``frames`` is what ever came."""

    def __init__(
        self, port: int, meddle: Callable[[Frame], Iterator[Sent]] = pass_on, *, cut: Cut = cut_version_4
    ) -> None:
        self._to, self._meddle, self._cut = port, meddle, cut
        self.port = 0
        self.frames: list[Frame] = []
        self._connections = 0
        self._legs: set[int] = set()

    async def run(self, *, task_status: trio.TaskStatus[Road]) -> None:
        async with trio.open_nursery() as nursery:
            (listener,) = await trio.open_tcp_listeners(0, host=HOST)
            self.port = listener.socket.getsockname()[1]
            task_status.started(self)
            await trio.serve_listeners(self._carry, [listener], handler_nursery=nursery)

    def recorded(self) -> list[bytes]:
        """What each connection carried towards ``port``."""
        said: dict[int, bytes] = {}
        for frame in self.frames:
            if frame.there:
                said[frame.connection] = said.get(frame.connection, b"") + frame.data
        return list(said.values())

    async def _carry(self, near: trio.SocketStream) -> None:
        connection, self._connections = self._connections, self._connections + 1
        far = await trio.open_tcp_stream(HOST, self._to)
        async with near, far, trio.open_nursery() as nursery:
            ends = {True: far, False: near}
            nursery.start_soon(self._pump, connection, True, near, ends)
            nursery.start_soon(self._pump, connection, False, far, ends)

    async def _pump(
        self, connection: int, there: bool, source: trio.SocketStream, ends: dict[bool, trio.SocketStream]
    ) -> None:
        came, number = bytearray(), 0
        try:
            async for data in source:
                came += data
                if there and not number and came[:2] == b"\0\0":
                    self._legs.add(connection)
                while (frame := self._cut(came, number, there or connection not in self._legs)) is not None:
                    self.frames.append(Frame(connection, there, number, frame))
                    number += 1
                    for way, sent in self._meddle(self.frames[-1]):
                        await ends[way].send_all(sent)
            await ends[there].send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass


@asynccontextmanager
async def mallorys_road(
    town: Town, key: SecretKey = BOB, meddle: Callable[[Frame], Iterator[Sent]] = pass_on, *, cut: Cut = cut_version_4
) -> AsyncIterator[Road]:
    """From here on whoever looks for ``key`` comes by Mallory."""
    (where,) = town.people[dev_did(key.public)].addresses
    async with trio.open_nursery() as nursery:
        road = await nursery.start(Road(where[1], meddle, cut=cut).run)
        town.settle(key, (HOST, road.port))
        yield road
        town.settle(key, where)
        nursery.cancel_scope.cancel()


def watching(
    ciphers: Mapping[Cipher, Callable[[bytes], Aead]],
) -> tuple[dict[tuple[bytes, bytes], bytes], dict[Cipher, Callable[[bytes], Any]]]:
    """``ciphers`` that fail when one key seals twice with one nonce; and what they sealed, by these.

    Of the tag that a marked opening leaves out both sides compute the same bytes: that is no second use.
    """
    used: dict[tuple[bytes, bytes], bytes] = {}

    class Watched:
        def __init__(self, make: Callable[[bytes], Aead], key: bytes) -> None:
            self._key, aead = key, make(key)
            self._encrypt, self._encrypt_into = aead.encrypt, aead.encrypt_into
            self.decrypt, self.decrypt_into = aead.decrypt, aead.decrypt_into

        def encrypt(self, nonce: bytes, plain: bytes, *aad: bytes) -> bytes:
            self._note(nonce, plain)
            return self._encrypt(nonce, plain, *aad)

        def encrypt_into(self, nonce: bytes, plain: bytes, *more: bytes) -> int:
            self._note(nonce, plain)
            return self._encrypt_into(nonce, plain, *more)

        def _note(self, nonce: bytes, plain: bytes) -> None:
            assert not plain or (self._key, nonce) not in used, "a nonce is used again"
            assert not used.setdefault((self._key, nonce), bytes(plain)) or plain, "a nonce is used again"

    return used, {cipher: partial(Watched, make) for cipher, make in ciphers.items()}


async def hangs_up(stream: trio.SocketStream, seconds: float = 5) -> bytes:
    """What is said to us until the connection ends."""
    said = b""
    with trio.fail_after(seconds):
        try:
            while data := await stream.receive_some():
                said += data
        except trio.BrokenResourceError:
            pass
    return said


async def say(where: int, data: bytes, *, bytewise: bool = False) -> bytes:
    """What a listener at ``where`` answers to ``data`` before it hangs up."""
    async with await trio.open_tcp_stream(HOST, where) as stream:
        try:
            for at in range(0, len(data), 1 if bytewise else len(data) or 1):
                await stream.send_all(data[at : at + 1] if bytewise else data)
        except trio.BrokenResourceError:
            pass
        return await hangs_up(stream)
