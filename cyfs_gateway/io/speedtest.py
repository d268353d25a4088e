"""The far side of a speed test: a built-in service for those whom the configuration lets, bounded in time and bytes."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Awaitable, Callable

import trio

from cyfs_gateway.speed import MOST_BYTES, MOST_SECONDS, Arrived, Wanted, read_wanted, write_arrived
from cyfs_ns.errors import BadWire, Refused
from tunnels.endpoint import Endpoint
from tunnels.io.waiting import TcpEndpoint

_BLOCK = 128 * 1024
_MOST_TESTS = 8
_PATIENCE = 5.0
"""Seconds for a question to come, and for an answer to be taken, beside those of the test."""


class SpeedTests:
    """All that run on this machine."""

    def __init__(self, start: Callable[[Callable[[trio.SocketStream], Awaitable[None]], trio.SocketStream], None]):
        """``start`` runs a task."""
        self._start = start
        self._running = 0
        self._block = b""

    async def open(self) -> Endpoint:
        """The near end of a new one.  Raises ``Refused``."""
        await trio.lowlevel.checkpoint()
        if self._running >= _MOST_TESTS:
            raise Refused("too many speed tests run already")
        # Random, in case something between compresses; once made, since making it anew would be the bottleneck.
        self._block = self._block or secrets.token_bytes(_BLOCK)
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self._running += 1
        self._start(self._serve, trio.SocketStream(trio.socket.from_stdlib_socket(theirs)))
        return TcpEndpoint(ours.family, ours.type, ours.proto, ours.detach())

    async def _serve(self, stream: trio.SocketStream) -> None:
        try:
            with trio.move_on_after(MOST_SECONDS + 2 * _PATIENCE):
                async with stream:
                    await self._test(stream)
        except (BadWire, trio.BrokenResourceError):
            return  # a socket pair cannot tell them why
        finally:
            self._running -= 1

    async def _test(self, stream: trio.SocketStream) -> None:
        wanted, early = await _asked(stream)
        match wanted.what:
            case "down":
                await self._send(stream, wanted.seconds)
            case "up":
                await stream.send_all(write_arrived(await _receive(stream, early, wanted.seconds)))
            case "echo":
                await _echo(stream, early, wanted.seconds)
        await stream.send_eof()
        async for _ in stream:  # until they have read all of it
            pass

    async def _send(self, stream: trio.SocketStream, seconds: float) -> None:
        ends = trio.current_time() + seconds
        left = MOST_BYTES
        while left > 0 and trio.current_time() < ends:
            await stream.send_all(self._block)
            left -= _BLOCK


async def _asked(stream: trio.SocketStream) -> tuple[Wanted, bytes]:
    heard = b""
    with trio.move_on_after(_PATIENCE):
        while True:
            data = await stream.receive_some(4096)
            heard += data
            if (found := read_wanted(heard)) is not None:
                return found
            if not data:
                break
    raise BadWire("nothing was asked")


async def _receive(stream: trio.SocketStream, early: bytes, seconds: float) -> Arrived:
    began = last = trio.current_time()
    count = len(early)
    with trio.move_on_after(seconds + _PATIENCE):
        while count < MOST_BYTES and (data := await stream.receive_some(_BLOCK)):
            count += len(data)
            last = trio.current_time()
    return Arrived(count, last - began)


async def _echo(stream: trio.SocketStream, early: bytes, seconds: float) -> None:
    with trio.move_on_after(seconds + _PATIENCE):
        data = early or await stream.receive_some(4096)
        while data:
            await stream.send_all(data)
            data = await stream.receive_some(4096)
