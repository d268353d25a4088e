"""Ways of calls: within the process, or by HTTP over whatever stream leads to the service.

A transport makes one request and gives its result or its fault; it never tries again.  What could not be sent at all is
``UNAVAILABLE``; when the answer is missing after something was sent, it is ``UNCERTAIN``, or ``DEADLINE`` when the time
was up.
"""

from __future__ import annotations

import itertools
import select
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import h11
import trio

from cyfs_ns.errors import CyfsError, Refused
from cyfs_ns.identity.strictjson import Json
from tunnels.endpoint import Endpoint
from tunnels.io.stream import EndpointStream
from zone.io.krpc.dispatch import Dispatcher
from zone.krpc.batch import Batch
from zone.krpc.caller import Caller
from zone.krpc.faults import Code, KrpcFault
from zone.krpc.service import CallContext
from zone.krpc.wire import MOST_REPLY, Request, Single, read_reply, write_request

MOST_CONNECTIONS: Final = 16
"""To one place; with as many calls under way, further ones wait for one to end."""
MOST_IDLE: Final = 4
"""Connections that are kept for later calls."""
IDLE_SECONDS: Final = 30.0
"""For how long; the server waits longer."""
CONNECT_SECONDS: Final = 5.0
"""To connect: then there may be time for another place."""
_MOST_INTERIM: Final = 8
_READ: Final = 64 * 1024

Stream = trio.SocketStream | EndpointStream
Tokens = Callable[[], Awaitable[str]]
"""The token to come with, good for now; empty: none.  Raises ``KrpcFault``."""


class Transport(Protocol):
    """Makes requests."""

    async def ask(self, service: str, asked: Single | Batch, *, seconds: float, trace: str = "") -> Json:
        """The result, of a batch what ``read_outcomes`` reads, within ``seconds``.  Raises ``KrpcFault``."""


class LocalTransport:
    """To services of this process, as ``caller``."""

    def __init__(self, dispatcher: Dispatcher, caller: Caller) -> None:
        self._dispatcher, self._caller = dispatcher, caller

    async def ask(self, service: str, asked: Single | Batch, *, seconds: float, trace: str = "") -> Json:
        context = CallContext(seconds=seconds, trace=trace)
        return await self._dispatcher.answer(self._caller, service, asked, context)


@dataclass(frozen=True, slots=True)
class Way:
    """How to get to where the service is."""

    open: Callable[[], Awaitable[Stream]]
    """Raises ``CyfsError`` and ``OSError``."""
    host: str = "localhost"
    """As which it is asked for (``Host``)."""


def by_unix(path: Path) -> Way:
    """Through the unix socket at ``path``."""

    async def opening() -> Stream:
        return await trio.open_unix_socket(str(path))

    return Way(opening)


def by_tcp(host: str, port: int) -> Way:
    """By TCP, to an address."""

    async def opening() -> Stream:
        sock = trio.socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        try:
            await sock.connect((host, port))
        except BaseException:
            sock.close()
            raise
        return trio.SocketStream(sock)

    return Way(opening, f"[{host}]:{port}" if ":" in host else f"{host}:{port}")


def by_endpoint(open_endpoint: Callable[[], Awaitable[Endpoint]], host: str = "localhost") -> Way:
    """By what opens an endpoint: a tunnel URL (``Host.open_url``), what a peer offers (``Host.call_offer``)."""

    async def opening() -> Stream:
        return EndpointStream(await open_endpoint())

    return Way(opening, host)


async def no_token() -> str:
    """Whoever calls is proven by the way, or nobody."""
    return ""


@dataclass(slots=True)
class _Connection:
    stream: Stream
    http: h11.Connection
    idle_since: float = 0.0

    @property
    def is_stale(self) -> bool:
        """Whether something came while nothing was asked: the end, in all likelihood."""
        poll = select.poll()
        poll.register(_descriptor(self.stream), select.POLLIN | select.POLLHUP | select.POLLERR)
        return trio.current_time() > self.idle_since + IDLE_SECONDS or bool(poll.poll(0))


def _descriptor(stream: Stream) -> int:
    return stream.socket.fileno() if isinstance(stream, trio.SocketStream) else stream.fileno()


class HttpTransport:
    """To one place, by connections that are kept for a while.  To be closed at the end.

    Whoever passes a call on says ``token``, that of the caller, in the place of its own.
    """

    def __init__(self, way: Way, tokens: Tokens = no_token) -> None:
        self._way, self._tokens = way, tokens
        self._room = trio.CapacityLimiter(MOST_CONNECTIONS)
        self._idle: list[_Connection] = []
        self._seqs = itertools.count(int(time.time() * 1e6))
        self._closed = False

    async def ask(
        self, service: str, asked: Single | Batch, *, seconds: float, trace: str = "", token: str | None = None
    ) -> Json:
        ends = trio.current_time() + seconds
        sent = False
        with trio.move_on_after(seconds):
            async with self._room:
                if token is None:
                    token = await self._tokens()
                connection = await self._connected()
                seq = next(self._seqs)
                left = ends - trio.current_time()
                request = Request(asked=asked, seq=seq, token=token, trace=trace, seconds=max(left, 0.001))
                try:
                    body = write_request(request)
                    sent = True
                    status, reply = await _exchange(connection, self._way.host, f"/kapi/{service}", body)
                except BaseException:
                    await trio.aclose_forcefully(connection.stream)
                    raise
                await self._keep(connection)
            return read_reply(status, reply, seq)
        why = f"{service} did not answer within {seconds:.3g} s"
        raise KrpcFault(Code.DEADLINE, why) if sent else KrpcFault(Code.UNAVAILABLE, f"{why}: nothing was sent")

    async def aclose(self) -> None:
        """Close what is kept, and keep nothing from now on: calls that are under way, or late, close their own."""
        self._closed = True
        while self._idle:
            await trio.aclose_forcefully(self._idle.pop().stream)

    async def _connected(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_stale:
                return connection
            await trio.aclose_forcefully(connection.stream)
        try:
            with trio.fail_after(CONNECT_SECONDS):
                return _Connection(await self._way.open(), h11.Connection(h11.CLIENT))
        except Refused as no:
            raise KrpcFault(Code.DENIED, str(no)) from no
        except (CyfsError, OSError, trio.TooSlowError) as fault:
            why = str(fault) or f"it takes more than {CONNECT_SECONDS:g} s"
            raise KrpcFault(Code.UNAVAILABLE, f"there is no way to the service: {why}") from fault

    async def _keep(self, connection: _Connection) -> None:
        http = connection.http
        is_good = http.our_state is h11.DONE and http.their_state is h11.DONE and not http.trailing_data[0]
        if self._closed or not is_good or len(self._idle) >= MOST_IDLE:
            await trio.aclose_forcefully(connection.stream)
            return
        http.start_next_cycle()
        connection.idle_since = trio.current_time()
        self._idle.append(connection)


async def _exchange(connection: _Connection, host: str, path: str, body: bytes) -> tuple[int, bytes]:
    """Status and body of the answer.  Raises ``KrpcFault``."""
    try:
        return await _converse(connection, host, path, body)
    except (trio.BrokenResourceError, trio.ClosedResourceError) as lost:
        raise KrpcFault(Code.UNCERTAIN, f"the connection was lost before the answer: {lost}") from lost
    except h11.RemoteProtocolError as bad:
        raise KrpcFault(Code.UNCERTAIN, f"the answer is no HTTP: {bad}") from bad


async def _converse(connection: _Connection, host: str, path: str, body: bytes) -> tuple[int, bytes]:
    stream, http = connection.stream, connection.http
    headers = [
        ("Host", host),
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(body))),
    ]
    head = http.send(h11.Request(method="POST", target=path, headers=headers)) or b""
    await stream.send_all(head + (http.send(h11.Data(data=body)) or b""))
    http.send(h11.EndOfMessage())

    async def next_event() -> h11.Event:
        while (event := http.next_event()) is h11.NEED_DATA:
            http.receive_data(bytes(await stream.receive_some(_READ)))
        if isinstance(event, h11.Event) and not isinstance(event, h11.ConnectionClosed):
            return event
        raise KrpcFault(Code.UNCERTAIN, "the connection was closed before the answer")

    for _ in range(_MOST_INTERIM):
        event = await next_event()
        if not isinstance(event, h11.InformationalResponse):
            break
    if not isinstance(event, h11.Response):
        raise KrpcFault(Code.UNCERTAIN, "the answer is no response of HTTP")
    parts = bytearray()
    while isinstance(part := await next_event(), h11.Data):
        parts += part.data
        if len(parts) > MOST_REPLY:
            raise KrpcFault(Code.UNCERTAIN, f"an answer of more than {MOST_REPLY} bytes")
    return event.status_code, bytes(parts)
