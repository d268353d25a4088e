"""How fast the way to another device is, as programs here would find it: the near side of a speed test."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from cyfs_gateway.io.chunks import MOST_CHUNK, Chunked
from cyfs_gateway.io.command.attached import Controller
from cyfs_gateway.io.command.piping import asked
from cyfs_gateway.io.offers import PORT, SPEEDTEST
from cyfs_gateway.remote import Remote
from cyfs_gateway.speed import (
    MOST_LINE,
    PING,
    Arrived,
    Times,
    Wanted,
    What,
    megabits,
    read_arrived,
    summary,
    write_wanted,
)
from cyfs_ns.io.client import ApiFault
from tunnels.io.waiting import receive_some, send_all

_IDLE_PINGS = 20
_IDLE_SECONDS = 2.0
_PAUSE = 0.02
_READS_PER_TURN = 16
_LATE = 10.0

Say = Callable[[str], None]


@dataclass(slots=True)
class Measured:
    """Round-trip times idle and under each load, and megabits a second."""

    idle: Times | None = None
    down: float = 0.0
    up: float = 0.0
    while_down: Times | None = None
    while_up: Times | None = None
    bytes_down: int = 0
    bytes_up: int = 0


async def measure(controller: Controller, peer: str, seconds: float, say: Say) -> Measured:
    """Measure the way to ``peer``, each direction for ``seconds``; ``say`` tells what is done at the moment.

    Raises as :meth:`Controller.stream`, and ``ApiFault`` when the way breaks.
    """
    test = _Test(controller, peer, seconds)
    said = Measured()
    try:
        say("idle")
        said.idle = summary(await test.ping_idle())
        say("download")
        got, said.while_down = await test.under_load(test.download)
        said.down, said.bytes_down = megabits(got.count, got.seconds), got.count
        say("upload")
        got, said.while_up = await test.under_load(test.upload)
        said.up, said.bytes_up = megabits(got.count, got.seconds), got.count
    except OSError as fault:
        raise ApiFault(0, f"{peer}: {fault}") from fault
    return said


class _Test:
    def __init__(self, controller: Controller, peer: str, seconds: float) -> None:
        self._controller, self._seconds = controller, seconds
        self._remote = Remote(peer, SPEEDTEST, PORT)
        self._block = secrets.token_bytes(MOST_CHUNK)

    async def _open(self, what: What, seconds: float) -> Chunked:
        stream = await self._controller.stream("cyfs", "streams", body=asked(self._remote))
        try:
            await send_all(stream, write_wanted(Wanted(what, seconds)))
        except BaseException:
            stream.close()
            raise
        return stream

    async def ping_idle(self) -> list[float]:
        times: list[float] = []
        with trio.move_on_after(_IDLE_SECONDS):
            await self._ping(times, _IDLE_PINGS)
        return times

    async def _ping(self, times: list[float], most: int) -> None:
        stream = await self._open("echo", self._seconds + _LATE)
        try:
            for _ in range(most):
                asked_at = trio.current_time()
                await send_all(stream, bytes(PING))
                left = PING
                while left:
                    data = await receive_some(stream, left)
                    if not data:
                        return
                    left -= len(data)
                times.append(trio.current_time() - asked_at)
                await trio.sleep(_PAUSE)
        finally:
            stream.close()

    async def under_load(self, load: Callable[[], Awaitable[Arrived]]) -> tuple[Arrived, Times | None]:
        """What ``load`` found, and round-trip times meanwhile."""
        times: list[float] = []
        found: list[Arrived] = []
        faults: list[OSError | ApiFault] = []
        async with trio.open_nursery() as nursery:

            async def ping() -> None:
                try:
                    await self._ping(times, 1 << 20)
                except (OSError, ApiFault) as fault:
                    faults.append(fault)

            nursery.start_soon(ping)
            try:
                found.append(await load())
            except (OSError, ApiFault) as fault:
                faults.append(fault)
            nursery.cancel_scope.cancel()
        if not found:
            raise faults[-1]
        return found[0], summary(times)

    async def download(self) -> Arrived:
        stream = await self._open("down", self._seconds)
        count, buffer = 0, memoryview(bytearray(MOST_CHUNK))
        began = last = trio.current_time()
        try:
            with trio.move_on_after(self._seconds + _LATE):
                while n := await _read(stream, buffer):
                    began = began if count else trio.current_time()
                    count += n
                    last = trio.current_time()
        finally:
            stream.close()
        return Arrived(count, last - began)

    async def upload(self) -> Arrived:
        stream = await self._open("up", self._seconds)
        ends = trio.current_time() + self._seconds
        try:
            while trio.current_time() < ends:
                await send_all(stream, self._block)
            stream.shutdown_write()
            await send_all(stream, b"")
            heard = b""
            with trio.move_on_after(_LATE):
                while data := await receive_some(stream, MOST_LINE):
                    heard += data
                    if (arrived := read_arrived(heard)) is not None:
                        return arrived
            raise ConnectionResetError("the far side does not say what arrived")
        finally:
            stream.close()


async def _read(stream: Chunked, buffer: memoryview) -> int:
    """How much there is at once, thrown away; 0 at the end."""
    await trio.lowlevel.checkpoint()
    count = 0
    while True:
        try:
            for _ in range(_READS_PER_TURN):
                n = stream.recv_into(buffer)
                count += n
                if not n:
                    break
            return count
        except BlockingIOError:
            if count:
                return count
            await trio.lowlevel.wait_readable(stream.fileno())
