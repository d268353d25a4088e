"""A whole gateway inside the test, with real sockets around it, and the small servers that tests talk to."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import trio

from cyfs_gateway.config.load import load
from cyfs_gateway.io.gateway import RunningGateway
from cyfs_gateway.io.state import Home
from tunnels.io.reactor import Reactor

BASE = """
dns: {use-system-hosts: false, nameserver: ["127.0.0.1:9"]}
ipv6: true
"""


async def until(holds: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait for a condition."""
    with trio.fail_after(seconds):
        while not holds():  # noqa: ASYNC110 - what is waited for has no event to give
            await trio.sleep(0.005)


class Living:
    """A running gateway and handles on its parts."""

    def __init__(self, gateway: RunningGateway, reactor: Reactor) -> None:
        self.gateway = gateway
        self.reactor = reactor
        self.engine = gateway._engine
        self.tracker = gateway._engine.tracker

    def port(self, name: str = "mixed", network: str = "tcp") -> int:
        """The port that the listener of this name is bound to."""
        for entry in self.gateway._listeners.view():
            if entry["name"] == name and entry["network"] == network:
                return int(str(entry["address"]).rpartition(":")[2])
        raise AssertionError(f"there is no listener {name} for {network}")

    async def reload(self, config: str, base: str = BASE) -> None:
        await self.gateway.reload(payload=base + config)


@asynccontextmanager
async def living(home: Path, config: str, base: str = BASE) -> AsyncIterator[Living]:
    """Run a gateway by this configuration; its listeners should ask for port 0."""
    reactor = Reactor()
    place = Home(home)
    try:
        with (
            # The last answers of the control API need no time to leave here.
            patch("cyfs_gateway.io.gateway._DRAIN_SECONDS", 0.0),
            # A program has all its garbage collected; here that would be the garbage of ten thousand tests.
            patch("cyfs_gateway.io.gateway.gc"),
            # Name servers that are not there are asked again, but nobody waits for them to come back.
            patch("cyfs_ns.io.upstreams._PAUSES", (0.05,)),
        ):
            async with trio.open_nursery() as nursery:
                await nursery.start(reactor.run)
                gateway = RunningGateway(place, nursery, reactor)
                loaded = load((base + config).encode(), home=str(home), module_sections=gateway._modules.sections)
                assert loaded.config is not None, [str(fault) for fault in loaded.faults]
                try:
                    await gateway.begin(loaded, "")
                    yield Living(gateway, reactor)
                finally:
                    await gateway.end()
                    nursery.cancel_scope.cancel()
    finally:
        reactor.close()
        place.close()


# Servers


Handler = Callable[[trio.SocketStream], Awaitable[None]]


async def serve(nursery: trio.Nursery, handler: Handler, host: str = "127.0.0.1") -> int:
    """Serve TCP on a free port; what goes wrong with one client is nobody's business."""

    async def guarded(stream: trio.SocketStream) -> None:
        try:
            async with stream:
                await handler(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return

    listeners = await trio.open_tcp_listeners(0, host=host)
    nursery.start_soon(trio.serve_listeners, guarded, listeners)
    return int(listeners[0].socket.getsockname()[1])


async def echo(stream: trio.SocketStream) -> None:
    async for chunk in stream:
        await stream.send_all(chunk)
    await stream.send_eof()


async def hello(stream: trio.SocketStream) -> None:
    """One small HTTP answer to every request."""
    seen = b""
    async for chunk in stream:
        seen += chunk
        while b"\r\n\r\n" in seen:
            head, _, seen = seen.partition(b"\r\n\r\n")
            path = head.split()[1]
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (len(path) + 6) + b"hello " + path)


async def udp_echo(nursery: trio.Nursery, mark: bytes = b"", host: str = "127.0.0.1") -> int:
    """A UDP server that answers everything, with ``mark`` in front."""
    sock = trio.socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    await sock.bind((host, 0))

    async def run() -> None:
        with sock:
            while True:
                data, peer = await sock.recvfrom(65535)
                await sock.sendto(mark + data, peer)

    nursery.start_soon(run)
    return int(sock.getsockname()[1])


def dead_port(host: str = "127.0.0.1") -> int:
    """A port that refuses."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
        sock.bind((host, 0))
        return int(sock.getsockname()[1])


# Clients


async def connect(port: int, host: str = "127.0.0.1", source: str = "") -> trio.SocketStream:
    sock = trio.socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    if source:
        await sock.bind((source, 0))
    await sock.connect((host, port))
    return trio.SocketStream(sock)


async def exactly(stream: trio.abc.ReceiveStream, count: int) -> bytes:
    got = bytearray()
    with trio.fail_after(60):
        while len(got) < count:
            chunk = await stream.receive_some(count - len(got))
            assert chunk, f"the end came after {bytes(got)!r}"
            got += chunk
    return bytes(got)


async def the_rest(stream: trio.abc.ReceiveStream) -> bytes:
    """All there is until the end; a reset is an end too."""
    got = bytearray()
    with trio.fail_after(60):
        try:
            async for chunk in stream:
                got += chunk
        except trio.BrokenResourceError:
            pass
    return bytes(got)


def socks5_request(host: str, port: int, command: int = 1) -> bytes:
    """Greeting without users and the request, in one piece."""
    name = host.encode()
    return b"\x05\x01\x00\x05%c\x00\x03%c" % (command, len(name)) + name + port.to_bytes(2, "big")


async def socks5(port: int, host: str, to: int, source: str = "") -> tuple[trio.SocketStream, int]:
    """Ask for a way; the stream and the reply code."""
    stream = await connect(port, source=source)
    await stream.send_all(socks5_request(host, to))
    assert await exactly(stream, 2) == b"\x05\x00"
    reply = await exactly(stream, 4)
    await exactly(stream, {1: 6, 4: 18}[reply[3]])
    return stream, reply[1]


async def curl(*arguments: str) -> tuple[int, str]:
    """Exit code and output of the real curl, its own proxy settings out of the way."""
    done: subprocess.CompletedProcess[bytes] = await trio.run_process(
        ["curl", "-q", "-sS", "--noproxy", "", "--max-time", "10", *arguments],
        capture_stdout=True,
        stderr=subprocess.STDOUT,
        check=False,
        env={"PATH": "/usr/bin:/bin"},
    )
    return done.returncode, done.stdout.decode(errors="replace")


def only(tracked: Any) -> Any:
    """The one flow there is."""
    (flow,) = list(tracked)
    return flow
