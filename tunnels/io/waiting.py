"""How a trio task waits for an endpoint: during a handshake, a health check, a download.  Relays never come here.

One task at a time may wait for each direction of an endpoint, and nobody may close it under a waiting task; where that
can happen, ``tunnels.io.stream.EndpointStream`` wakes the waiter first.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

import trio

from cyfs_ns.errors import BadWire, Unreachable
from tunnels.endpoint import Endpoint

_MOST_AT_ONCE = 65536
_ELBOW_SECONDS = 0.01


class TcpEndpoint(socket.SocketType):
    """A TCP socket as an endpoint.  It *is* the raw socket, so the relay can hand it straight to the kernel.

    Built on the C type: the convenience of ``socket.socket`` costs microseconds that every connection would pay.
    """

    __slots__ = ()

    def pending(self) -> bool:
        return False

    def unsent(self) -> bool:
        return False

    def flush(self) -> None:
        """The kernel does that."""

    def shutdown_write(self) -> None:
        self.shutdown(socket.SHUT_WR)


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


async def receive_some(ep: Endpoint, most: int = _MOST_AT_ONCE) -> bytes:
    """The next bytes, at most ``most``; empty when the peer has finished.  Raises ``OSError``."""
    await trio.lowlevel.checkpoint()
    while True:
        try:
            # A buffer for the moment of reading only: thousands may be waiting here.
            buffer = bytearray(most)
            return bytes(memoryview(buffer)[: ep.recv_into(memoryview(buffer))])
        except BlockingIOError:
            del buffer
            await _wait_readable(ep)


async def _wait_readable(ep: Endpoint) -> None:
    """Wait for input, pushing out meanwhile what the endpoint still owes: the peer may be waiting for it."""
    if not ep.unsent():
        await trio.lowlevel.wait_readable(ep.fileno())
        return
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_push, ep)
        await trio.lowlevel.wait_readable(ep.fileno())
        nursery.cancel_scope.cancel()


async def _push(ep: Endpoint) -> None:
    # A fault of the wire is for those who read and write to find; whoever sends pushes this out as well.
    with suppress(OSError, trio.BusyResourceError):
        while ep.unsent():
            try:
                ep.flush()
            except BlockingIOError:
                await trio.lowlevel.wait_writable(ep.fileno())


async def send_all(ep: Endpoint, data: bytes | memoryview) -> None:
    """Send everything and see it out of the endpoint's own buffers.  Raises ``OSError``."""
    await trio.lowlevel.checkpoint()
    rest = memoryview(data)
    while rest or ep.unsent():
        try:
            if rest:
                rest = rest[ep.send(rest) :]
            else:
                ep.flush()
        except BlockingIOError:
            try:
                await trio.lowlevel.wait_writable(ep.fileno())
            except trio.BusyResourceError:
                await trio.sleep(_ELBOW_SECONDS)  # a reader pushes out the little that TLS had to say


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
