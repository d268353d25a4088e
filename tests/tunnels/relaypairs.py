"""A relay between two far ends, each reached over plain TCP or over TLS."""

from __future__ import annotations

import os
import socket
import ssl
from dataclasses import dataclass, field

import trio
import trustme

from rtcp.io.pipe import break_off
from tunnels.endpoint import Endpoint
from tunnels.io.reactor import Reactor
from tunnels.io.relay import Relay
from tunnels.io.stream import EndpointStream
from tunnels.io.tls import wrap_tls
from tunnels.io.waiting import TcpEndpoint

_ca = trustme.CA()
_server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
_ca.issue_cert("relay.test").configure_cert(_server)
_client = ssl.create_default_context()
_ca.configure_trust(_client)


def tcp_pair() -> tuple[TcpEndpoint, TcpEndpoint]:
    """Two connected, non-blocking TCP sockets."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    ends = []
    for sock in (near, far):
        sock.setblocking(False)
        ends.append(TcpEndpoint(sock.family, sock.type, sock.proto, sock.detach()))
    return ends[0], ends[1]


class Lending:
    """``lower`` as an endpoint that has in memory what is read from it, as the streams of tunnels have."""

    def __init__(self, lower: TcpEndpoint) -> None:
        self._lower = lower
        self.fileno, self.recv_into, self.send = lower.fileno, lower.recv_into, lower.send
        self.pending, self.unsent, self.flush = lower.pending, lower.unsent, lower.flush
        self.shutdown_write, self.close = lower.shutdown_write, lower.close

    def lend(self, most: int, /) -> memoryview:
        return memoryview(self._lower.recv(most))

    def break_off(self) -> None:
        break_off(self._lower)

    def check(self) -> None:
        if code := self._lower.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(code, os.strerror(code))


async def ends(kind: str) -> tuple[Endpoint, Endpoint, TcpEndpoint]:
    """Our endpoint, the far one, and the far one's socket."""
    near, far = tcp_pair()
    if kind == "raw":
        return near, far, far
    if kind == "lending":
        return Lending(near), far, far
    done: list[Endpoint] = []

    async def accept() -> None:
        done.append(await wrap_tls(near, _server, None, server_side=True))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        outer = await wrap_tls(far, _client, "relay.test")
    return done[0], outer, far


@dataclass
class Joined:
    """A relay and what the two far ends see."""

    relay: Relay
    a: EndpointStream
    b: EndpointStream
    a_sock: TcpEndpoint
    b_sock: TcpEndpoint
    closed: list[str] = field(default_factory=list)

    async def close(self) -> None:
        self.relay.close("the test is over")
        await trio.aclose_forcefully(self.a)
        await trio.aclose_forcefully(self.b)


async def join(
    reactor: Reactor,
    kinds: tuple[str, str] = ("raw", "raw"),
    *,
    idle: float = 60.0,
    early: bytes = b"",
    late: bytes = b"",
) -> Joined:
    near_a, far_a, a_sock = await ends(kinds[0])
    near_b, far_b, b_sock = await ends(kinds[1])
    closed: list[str] = []
    relay = Relay(
        reactor, near_a, near_b, idle=idle, on_close=lambda _, why: closed.append(why), early=early, late=late
    )
    return Joined(relay, EndpointStream(far_a), EndpointStream(far_b), a_sock, b_sock, closed)
