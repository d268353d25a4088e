"""Names that the gateway answers itself: a module's HTTP service behind a host name, and routes by tunnel URL.

A service is reached like any destination, by whatever listener the client uses; its way is one half of a socket pair.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Sequence
from typing import Final, Protocol
from urllib.parse import parse_qsl, urlsplit

import h11
import trio

from cyfs_gateway.host import HttpQuery, HttpReply, Service
from cyfs_gateway.io.inturn import InTurn
from cyfs_ns.errors import Unreachable
from tunnels.endpoint import Endpoint, PacketEndpoint, Target
from tunnels.io.registry import Tunnels
from tunnels.io.waiting import TcpEndpoint
from tunnels.outbound import FlowHint, Outbound
from tunnels.url import TunnelUrl

_CLIENTS_MOST: Final = 256
_SECONDS: Final = 15.0

_log = logging.getLogger("cyfs.services")


class ServiceOutbound:
    """The way to one module's service.  ``name`` is shown in chains."""

    kind = "Inner"
    udp = False

    def __init__(self, name: str, service: Service, nursery: trio.Nursery) -> None:
        self.name = name
        self._service = service
        self._nursery = nursery
        self._clients = 0

    def pick(self, hint: FlowHint) -> Outbound:
        return self

    async def open_stream(self, target: Target) -> Endpoint:
        if self._clients >= _CLIENTS_MOST:
            raise Unreachable(f"{self.name} has too many clients", "tunnel_open")
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        self._clients += 1
        self._nursery.start_soon(self._serve, trio.SocketStream(trio.socket.from_stdlib_socket(theirs)))
        return TcpEndpoint(ours.family, ours.type, ours.proto, ours.detach())

    async def open_packets(self, target: Target) -> PacketEndpoint:
        raise Unreachable(f"{self.name} carries no UDP", "unsupported_scheme")

    async def _serve(self, stream: trio.SocketStream) -> None:
        try:
            async with stream:
                http = h11.Connection(h11.SERVER)
                while True:
                    with trio.fail_after(_SECONDS):
                        if not await self._exchange(http, stream):
                            return
        except (h11.ProtocolError, trio.BrokenResourceError, trio.TooSlowError) as fault:
            _log.debug("a client of %s is gone: %s", self.name, fault)
        except Exception:
            _log.exception("the service %s failed", self.name)
        finally:
            self._clients -= 1

    async def _exchange(self, http: h11.Connection, stream: trio.SocketStream) -> bool:
        """One request; False when the connection is over."""
        request: h11.Request | None = None
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                http.receive_data(await stream.receive_some(16384))
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.EndOfMessage):
                break
            elif isinstance(event, h11.ConnectionClosed):
                return False
        assert request is not None
        reply = await self._answer(request)
        headers = [
            ("content-type", reply.content_type),
            ("content-length", str(len(reply.body))),
            ("cache-control", "no-store"),
        ]
        out = http.send(h11.Response(status_code=reply.status, headers=headers)) or b""
        if request.method != b"HEAD":
            out += http.send(h11.Data(data=reply.body)) or b""
        out += http.send(h11.EndOfMessage()) or b""
        await stream.send_all(out)
        if http.our_state is not h11.DONE:
            return False
        http.start_next_cycle()
        return True

    async def _answer(self, request: h11.Request) -> HttpReply:
        parts = urlsplit(request.target.decode("ascii", "replace"))
        return await self._service(
            HttpQuery(method=request.method.decode(), path=parts.path or "/", query=dict(parse_qsl(parts.query)))
        )


class HasTunnels(Protocol):
    """Knows what opens tunnel URLs now; it changes with the configuration."""

    @property
    def tunnels(self) -> Tunnels: ...


class RouteOutbound:
    """Tunnel URLs as the ways for a host that a module carries; ``ways`` gives them for each flow, the best first."""

    udp = False
    kind = "Inner"

    def __init__(self, name: str, ways: Callable[[int], Sequence[TunnelUrl]], opener: HasTunnels) -> None:
        self.name = name
        self._ways = ways
        self._opener = opener
        self._turns: InTurn[TunnelUrl] = InTurn()

    def pick(self, hint: FlowHint) -> Outbound:
        return self

    async def open_stream(self, target: Target) -> Endpoint:
        ways = self._ways(target.port)
        if not ways:
            raise Unreachable(f"{self.name}: it is nowhere just now")
        return await self._turns.first(ways, self._opener.tunnels.open_url)

    async def open_packets(self, target: Target) -> PacketEndpoint:
        raise Unreachable(f"{self.name} carries no UDP", "unsupported_scheme")
