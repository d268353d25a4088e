"""What a trio task does with an endpoint before a relay has it: the handshake with a proxy, within its time.

How a task waits for an endpoint is one floor down (``rtcp/io/pipe.py``).
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TypeAlias

import trio

from cyfs_ns.errors import BadWire, Unreachable
from rtcp.io.pipe import TcpPipe
from rtcp.io.pipe import break_off as break_off
from rtcp.io.pipe import carries_sealed as carries_sealed
from rtcp.io.pipe import receive_some as receive_some
from rtcp.io.pipe import send_all as send_all
from tunnels.endpoint import Endpoint

_MOST_AT_ONCE = 65536


TcpEndpoint: TypeAlias = TcpPipe
"""A TCP socket as an endpoint."""


class Preloaded:
    """An endpoint with bytes in front that were read too early, such as data that came along with a proxy's answer."""

    __slots__ = ("_early", "_inner", "fileno", "flush", "send", "shutdown_write", "unsent")

    def __init__(self, inner: Endpoint, early: bytes) -> None:
        self._inner = inner
        self._early = memoryview(early)
        self.fileno = inner.fileno
        self.send = inner.send
        self.unsent = inner.unsent
        self.flush = inner.flush
        self.shutdown_write = inner.shutdown_write

    def recv_into(self, buffer: memoryview, /) -> int:
        if not self._early:
            return self._inner.recv_into(buffer)
        n = min(len(buffer), len(self._early))
        buffer[:n] = self._early[:n]
        self._early = self._early[n:]
        return n

    def pending(self) -> bool:
        return bool(self._early) or self._inner.pending()

    def break_off(self) -> None:
        break_off(self._inner)

    def close(self) -> None:
        self._early = memoryview(b"")
        self._inner.close()


@contextmanager
def within(seconds: float, what: str) -> Iterator[None]:
    """Let the block run for ``seconds``; then it is cancelled, and ``Unreachable`` (``connect_timeout``) raised."""
    with trio.move_on_after(seconds) as scope:
        yield
    if scope.cancelled_caught:
        raise Unreachable(f"{what} took longer than {seconds:g} s", "connect_timeout")


class Handshake(Protocol):
    """The client's half of a proxy protocol: ``SocksClient``, ``ConnectClient``."""

    done: bool
    leftover: bytes

    def start(self) -> bytes: ...
    def feed(self, untrusted: bytes, /) -> bytes: ...


async def shake(ep: Endpoint, machine: Handshake) -> Endpoint:
    """Run ``machine`` over ``ep`` to its end.  Returns the endpoint to go on with, early bytes of the target included.

    Raises ``Unreachable``; then, and when cancelled, ``ep`` is closed.
    """
    try:
        await send_all(ep, machine.start())
        while not machine.done:
            if isinstance(ep, TcpEndpoint):
                said = await _peek(ep)
                answer = machine.feed(said)
                # Bytes behind the answer stay in the kernel, so that the socket needs no wrapper ever after.
                ep.recv(len(said) - len(machine.leftover))
            else:
                said = await receive_some(ep)
                answer = machine.feed(said)
            if not said:
                raise Unreachable("the proxy hung up during the handshake", "tunnel_open")
            if answer:
                await send_all(ep, answer)
    except (OSError, BadWire) as fault:
        ep.close()
        raise Unreachable(f"the handshake with the proxy failed: {fault}", "tunnel_open") from fault
    except BaseException:
        ep.close()
        raise
    if machine.leftover and not isinstance(ep, TcpEndpoint):
        return Preloaded(ep, machine.leftover)
    return ep


async def _peek(ep: TcpEndpoint) -> bytes:
    await trio.lowlevel.checkpoint()
    while True:
        try:
            return ep.recv(_MOST_AT_ONCE, socket.MSG_PEEK)
        except BlockingIOError:
            await trio.lowlevel.wait_readable(ep)
