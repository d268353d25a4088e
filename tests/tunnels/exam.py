"""The one exam that every transport sits, the fake included, so that the reactor may treat all endpoints alike.

``check_endpoint`` holds the rules of ``tunnels/endpoint.py`` on fresh pairs of our endpoint and the far end as a trio
stream.  ``check_tunnel`` makes such pairs through an outbound to real listeners, and adds what opening must keep: both
families, the reasons of failure, no descriptor left behind by a cancelled attempt.  ``check_packets`` is for UDP.
"""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress

import pytest
import trio

from cyfs_ns.errors import Unreachable
from tunnels.endpoint import Endpoint, PacketEndpoint, Target
from tunnels.io.waiting import receive_some, send_all
from tunnels.outbound import Outbound

MakePair = Callable[[], Awaitable[tuple[Endpoint, trio.abc.HalfCloseableStream]]]

_BIG = bytes(range(256)) * 8192
"""Two megabytes: more than any socket buffer holds."""


async def check_endpoint(make_pair: MakePair, *, half_close: bool = True) -> None:
    """Every rule of ``Endpoint``.  Some real proxies cannot half-close: then our end must still see all there was."""
    halves = (_half_closes_ours, _half_closes_theirs) if half_close else (_ends_once, _ends_once_theirs)
    for rule in (_echoes, *halves, _pushes_back, _says_eagain, _closes_twice):
        ours, theirs = await make_pair()
        try:
            with trio.fail_after(60):
                await rule(ours, theirs)
        finally:
            ours.close()
            await trio.aclose_forcefully(theirs)


async def _echoes(ours: Endpoint, theirs: trio.abc.HalfCloseableStream) -> None:
    for size in (1, 100, 70_000):
        sent = _BIG[:size]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_all, ours, sent)
            assert await _exactly(theirs, size) == sent
        async with trio.open_nursery() as nursery:
            nursery.start_soon(theirs.send_all, sent)
            assert await _exactly_ours(ours, size) == sent


async def _half_closes_ours(ours: Endpoint, theirs: trio.abc.HalfCloseableStream) -> None:
    await theirs.send_all(b"said before")
    await send_all(ours, b"last words")
    ours.shutdown_write()
    await send_all(ours, b"")
    assert await _all(theirs) == b"last words"
    await theirs.send_all(b", and after")
    assert await _exactly_ours(ours, 22) == b"said before, and after"
    await theirs.send_eof()
    assert await receive_some(ours) == b""


async def _half_closes_theirs(ours: Endpoint, theirs: trio.abc.HalfCloseableStream) -> None:
    await theirs.send_all(_BIG[:50_000])
    await theirs.send_eof()
    assert await _exactly_ours(ours, 50_000) == _BIG[:50_000]
    for _ in range(3):
        assert await receive_some(ours) == b""
    await send_all(ours, b"still talking")
    assert await _exactly(theirs, 13) == b"still talking"
    ours.shutdown_write()
    await send_all(ours, b"")
    assert await _all(theirs) == b""


async def _ends_once(ours: Endpoint, theirs: trio.abc.HalfCloseableStream) -> None:
    await send_all(ours, b"last words")
    ours.shutdown_write()
    await send_all(ours, b"")
    assert await _all(theirs) == b"last words"


async def _ends_once_theirs(ours: Endpoint, theirs: trio.abc.HalfCloseableStream) -> None:
    await theirs.send_all(_BIG[:50_000])
    await theirs.aclose()
    assert await _exactly_ours(ours, 50_000) == _BIG[:50_000]
    for _ in range(3):
        assert await receive_some(ours) == b""


async def _pushes_back(ours: Endpoint, theirs: trio.abc.HalfCloseableStream) -> None:
    """Who does not read is not flooded, and nothing is lost."""
    taken = 0
    with pytest.raises(BlockingIOError):
        while taken < 64 * len(_BIG):
            taken += ours.send(memoryview(_BIG)[taken % len(_BIG) :])
    rest = -taken % len(_BIG)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_all, ours, _BIG[len(_BIG) - rest :])
        for _ in range((taken + rest) // len(_BIG)):
            assert await _exactly(theirs, len(_BIG)) == _BIG
    assert not ours.unsent()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(theirs.send_all, _BIG * 2)
        assert await _exactly_ours(ours, 2 * len(_BIG)) == _BIG * 2


async def _says_eagain(ours: Endpoint, theirs: trio.abc.HalfCloseableStream) -> None:
    buffer = memoryview(bytearray(10))
    with pytest.raises(BlockingIOError):
        ours.recv_into(buffer)
    assert not ours.pending()
    await theirs.send_all(b"0123456789abc")
    got = await receive_some(ours, 4)
    assert got and b"0123456789abc".startswith(got)
    # Bytes that no descriptor will announce must be confessed to.
    while len(got) < 13:
        if not ours.pending():
            await trio.lowlevel.wait_readable(ours.fileno())
        try:
            n = ours.recv_into(buffer[:3])
        except BlockingIOError:
            continue
        got += bytes(buffer[:n])
    assert got == b"0123456789abc"
    with pytest.raises(BlockingIOError):
        ours.recv_into(buffer)


async def _closes_twice(ours: Endpoint, theirs: trio.abc.HalfCloseableStream) -> None:
    ours.close()
    ours.close()
    with suppress(trio.BrokenResourceError):
        assert await theirs.receive_some() == b""


async def check_tunnel(
    outbound: Outbound, *, half_close: bool = True, refusal: str = "connect_refused", hasty: bool = False
) -> None:
    """An outbound's streams to real listeners.

    The options describe the real proxy on the way: whether it can half-close, which reason it can give for a refused
    connect, and whether it is so ``hasty`` as to say yes before it has connected.
    """
    descriptors = _descriptors()
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        async with _listener(family, host) as (listener, target):

            async def make_pair(
                listener: trio.SocketListener = listener, target: Target = target
            ) -> tuple[Endpoint, trio.abc.HalfCloseableStream]:
                ours = await outbound.open_stream(target)
                return ours, await listener.accept()

            await check_endpoint(make_pair, half_close=half_close)

    if hasty:
        await _ends_early(outbound)
        assert _descriptors() == descriptors
        return
    with pytest.raises(Unreachable) as refused:
        await outbound.open_stream(Target("127.0.0.1", closed_port()))
    assert refused.value.reason == refusal

    with black_hole() as hole:
        with pytest.raises(Unreachable) as silent:
            await outbound.open_stream(hole)
        assert silent.value.reason == "connect_timeout"
        with trio.move_on_after(0.05) as cancelled:
            await outbound.open_stream(hole)
        assert cancelled.cancelled_caught
    assert _descriptors() == descriptors


async def _ends_early(outbound: Outbound) -> None:
    """What a refused connect looks like when the proxy had promised it already."""
    ours = await outbound.open_stream(Target("127.0.0.1", closed_port()))
    try:
        with trio.fail_after(60):
            assert await receive_some(ours) == b""
    except ConnectionResetError:
        pass
    finally:
        ours.close()


async def check_packets(outbound: Outbound, *, mixed: bool = True) -> None:
    """An outbound's datagrams to several peers, of both families through one endpoint if it can be ``mixed``."""
    descriptors = _descriptors()
    assert outbound.udp
    async with udp_echo("127.0.0.1") as one, udp_echo("127.0.0.1") as two, udp_echo("::1") as six:
        for peers in ((one, two, six),) if mixed else ((one, two), (six,)):
            packets = await outbound.open_packets(peers[0])
            try:
                with trio.fail_after(60):
                    await _exchange(packets, peers)
            finally:
                packets.close()
                packets.close()
    assert _descriptors() == descriptors


async def _exchange(packets: PacketEndpoint, peers: Sequence[Target]) -> None:
    with pytest.raises(BlockingIOError):
        packets.recv()
    for _ in range(3):
        for peer in peers:
            words = f"to {peer}".encode()
            packets.send(words, peer)
            assert await receive_packet(packets) == (words, peer)
    packets.send(_BIG[:1400], peers[-1])
    assert await receive_packet(packets) == (_BIG[:1400], peers[-1])


async def receive_packet(packets: PacketEndpoint) -> tuple[bytes, Target]:
    while True:
        try:
            return packets.recv()
        except BlockingIOError:
            await trio.lowlevel.wait_readable(packets.fileno())


@asynccontextmanager
async def udp_echo(host: str) -> AsyncIterator[Target]:
    """A UDP server that sends everything back."""
    with trio.socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        await sock.bind((host, 0))

        async def echo() -> None:
            while True:
                data, source = await sock.recvfrom(65535)
                await sock.sendto(data, source)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(echo)
            yield Target(host, sock.getsockname()[1])
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def _listener(family: int, host: str) -> AsyncIterator[tuple[trio.SocketListener, Target]]:
    sock = trio.socket.socket(family, socket.SOCK_STREAM)
    await sock.bind((host, 0))
    sock.listen(16)
    async with trio.SocketListener(sock) as listener:
        yield listener, Target(host, sock.getsockname()[1])


def closed_port() -> int:
    """A TCP port of 127.0.0.1 where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


class black_hole:
    """A TCP target that never answers: a listener whose queue is full drops every SYN."""

    def __enter__(self) -> Target:
        self._sockets = [socket.create_server(("127.0.0.1", 0), backlog=0)]
        address = self._sockets[0].getsockname()
        for _ in range(4):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(address)
            self._sockets.append(sock)
        return Target(*address)

    def __exit__(self, *_: object) -> None:
        for sock in self._sockets:
            sock.close()


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def _exactly(stream: trio.abc.ReceiveStream, size: int) -> bytes:
    got = bytearray()
    while len(got) < size:
        chunk = await stream.receive_some(size - len(got))
        assert chunk, f"ended after {len(got)} of {size} bytes"
        got += chunk
    return bytes(got)


async def _exactly_ours(ours: Endpoint, size: int) -> bytes:
    got = bytearray()
    while len(got) < size:
        chunk = await receive_some(ours, size - len(got))
        assert chunk, f"ended after {len(got)} of {size} bytes"
        got += chunk
    return bytes(got)


async def _all(stream: trio.abc.ReceiveStream) -> bytes:
    got = b""
    while chunk := await stream.receive_some():
        got += chunk
    return got
