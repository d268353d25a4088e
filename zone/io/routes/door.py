"""A door for whoever knows nothing of the zone: browsers of the LAN, and visitors whom an SN leads here.

The first bytes of a connection name the service that it is for: the host of its first request, or that of its TLS.
TLS ends here where the gateway has a certificate for that name; else it goes on, and the service ends it.  What follows
is passed on as it is, so there is one host on one connection.  Other names lead nowhere: it is no proxy.

What this machine serves itself, it serves inside of TLS that ends here and in no other way: tokens are said there.
"""

from __future__ import annotations

import ipaddress
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from http import HTTPStatus
from typing import Final, Protocol

import trio

from cyfs_gateway.certs.source import CertificateSource
from cyfs_gateway.io.certs.endtls import UNRECOGNIZED_NAME, Replayed, end_tls
from cyfs_gateway.io.inturn import InTurn
from cyfs_gateway.sn.ingresscrowd import source_of
from cyfs_gateway.sniff.http import sniff_http
from cyfs_gateway.sniff.result import MORE, Sniffed, SniffResult
from cyfs_gateway.sniff.tls import sniff_tls
from cyfs_ns.errors import CyfsError, Refused, Unreachable
from tunnels.endpoint import Endpoint
from tunnels.io.stream import EndpointStream
from tunnels.io.waiting import within

MOST_VISITORS: Final = 512
MOST_OF_ONE: Final = 64
"""Visitors of one address (IPv6: of one /64), but for loopback: whatever leads others here comes from there."""
HEAD_SECONDS: Final = 15.0
"""For what names the service."""
QUIET_SECONDS: Final = 600.0
"""Silence in both directions that ends a connection."""
_OPEN_SECONDS: Final = 5.0
"""For one way to a service; then there may be another."""
_ALL_WAYS_SECONDS: Final = 20.0
_GOODBYE_SECONDS: Final = 1.0
_TRY_AGAIN: Final = 30.0
_READ: Final = 64 * 1024
_MOST_HEAD: Final = 32 * 1024
_TLS: Final = 0x16
_NOT_HERE: Final = (
    b"HTTP/1.1 %b\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b"
)
_GONE: Final = (CyfsError, OSError, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError)

_log = logging.getLogger("cyfs.zone.web")


class House(Protocol):
    """What of the gateway's ``Host`` is needed."""

    @property
    def certificates(self) -> CertificateSource | None: ...

    async def open_url(self, url: str) -> Endpoint: ...


Serve = Callable[[trio.abc.Stream, str, int], Awaitable[None]]
"""Serves a visitor inside of TLS: who is at that address, and came to that port."""


def nothing(_host: str) -> Serve | None:
    """Nothing is served here."""
    return None


class WebDoor:
    """``ways``: tunnel URLs to the service of a host, the best first; empty where it is nowhere just now, None where
    there is no such service.  ``own``: what this machine serves under a host."""

    def __init__(
        self, house: House, ways: Callable[[str], Sequence[str] | None], own: Callable[[str], Serve | None] = nothing
    ) -> None:
        self._house, self._ways, self._own = house, ways, own
        self._turns: InTurn[str] = InTurn()
        self._visitors: Counter[str] = Counter()
        self.faults: dict[str, str] = {}
        """Why there is no door where one is wanted, by its address."""

    async def serve(self, address: tuple[str, int]) -> None:
        """Take visitors at ``address``, until cancelled."""
        host, port = address
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        while True:
            try:
                listeners = await trio.open_tcp_listeners(port, host=host)
            except OSError as fault:
                self.faults[where] = fault.strerror or str(fault)
                _log.error("no door for visitors at %s: %s", where, self.faults[where])
                await trio.sleep(_TRY_AGAIN)
            else:
                self.faults.pop(where, None)
                await trio.serve_listeners(self.visit, listeners)

    async def visit(self, stream: trio.SocketStream) -> None:
        """Serve one visitor until it leaves; closes ``stream``."""
        source = _source(stream)
        if not self._has_room(source):
            await trio.aclose_forcefully(stream)
            return
        self._visitors[source] += 1
        try:
            async with AsyncExitStack() as opened:
                opened.push_async_callback(trio.aclose_forcefully, stream)
                await self._serve(stream, source, opened)
        except* _GONE as fault:
            _log.debug("a visitor is gone: %s", fault.exceptions[0])
        except* Exception:
            _log.exception("serving a visitor failed in a way nobody foresaw")
        finally:
            self._visitors[source] -= 1
            if not self._visitors[source]:
                del self._visitors[source]

    def _has_room(self, source: str) -> bool:
        if not source or self._visitors.total() >= MOST_VISITORS:
            return False
        return self._visitors[source] < MOST_OF_ONE or ipaddress.ip_address(source).is_loopback

    async def _serve(self, stream: trio.SocketStream, source: str, opened: AsyncExitStack) -> None:
        with trio.fail_after(HEAD_SECONDS):
            first = await stream.receive_some(_READ)
        if not first:
            return
        if first[0] != _TLS:
            asked, said = await _asked(stream, first, sniff_http)
            await self._pass_on(stream, asked.host, said, opened)
            return
        asked, said = await _asked(stream, first, sniff_tls)
        certificates = self._house.certificates
        if certificates is None or certificates.certificate_for(asked.host, asked.alpn) is None:
            await self._pass_on(stream, asked.host, said, opened, sealed=True)
        elif (ended := await end_tls(Replayed(stream, said), certificates)) is not None:
            near = ended[0]
            opened.push_async_callback(trio.aclose_forcefully, near)
            if (serve := self._own(asked.host)) is not None:
                await serve(near, source, stream.socket.getsockname()[1])
            else:
                await self._pass_on(near, asked.host, b"", opened)
            # Without a goodbye, what ends with the connection would look cut off (RFC 8446 section 6.1).
            with trio.move_on_after(_GOODBYE_SECONDS):
                await near.unwrap()

    async def _pass_on(
        self, near: trio.abc.Stream, host: str, said: bytes, opened: AsyncExitStack, *, sealed: bool = False
    ) -> None:
        try:
            far = EndpointStream(await self._open(host))
        except _NoWay as fault:
            level = logging.INFO if fault.status is HTTPStatus.BAD_GATEWAY else logging.DEBUG
            _log.log(level, "nobody is led to %s: %s", host or "a host without a name", fault.__cause__ or fault)
            with trio.move_on_after(_GOODBYE_SECONDS):
                await near.send_all(UNRECOGNIZED_NAME if sealed else _apology(fault))
            return
        opened.push_async_callback(trio.aclose_forcefully, far)
        with trio.fail_after(QUIET_SECONDS):
            await far.send_all(said)
        await _join(near, far)

    async def _open(self, host: str) -> Endpoint:
        """The service of ``host``.  Raises ``_NoWay``."""
        ways = self._ways(host)
        if ways is None:
            own = "only TLS leads there, with a certificate of the gateway"
            raise _NoWay(HTTPStatus.NOT_FOUND, own if self._own(host) else "no service is here by that name")
        if not ways:
            raise _NoWay(HTTPStatus.SERVICE_UNAVAILABLE, "the service is nowhere just now")
        try:
            with within(_ALL_WAYS_SECONDS, "all ways together"):
                return await self._turns.first(ways, self._open_one)
        except Unreachable as fault:
            raise _NoWay(HTTPStatus.BAD_GATEWAY, "the service does not answer") from fault

    async def _open_one(self, url: str) -> Endpoint:
        try:
            with within(_OPEN_SECONDS, "the service"):
                return await self._house.open_url(url)
        except Refused as moved:
            raise Unreachable(str(moved)) from moved


class _NoWay(Exception):
    """Nobody can be led there; the text is for visitors."""

    def __init__(self, status: HTTPStatus, why: str) -> None:
        super().__init__(why)
        self.status = status


def _apology(fault: _NoWay) -> bytes:
    text = f"{fault}\n".encode()
    return _NOT_HERE % (b"%d %b" % (fault.status, fault.status.phrase.encode()), len(text), text)


def _source(stream: trio.SocketStream) -> str:
    """By what a visitor is counted; empty: it is gone already."""
    try:
        address = stream.socket.getpeername()[0].partition("%")[0]
    except OSError:
        return ""
    return address if ipaddress.ip_address(address).is_loopback else source_of(address)


async def _asked(
    stream: trio.SocketStream, said: bytes, sniff: Callable[[bytes], SniffResult]
) -> tuple[Sniffed, bytes]:
    """Which host the visitor names, if any, and all they said so far."""
    with trio.fail_after(HEAD_SECONDS):
        while (found := sniff(said)) is MORE and len(said) < _MOST_HEAD:
            piece = await stream.receive_some(_READ)
            if not piece:
                break
            said += piece
    return found if isinstance(found, Sniffed) else Sniffed("", ""), said


async def _join(near: trio.abc.Stream, far: trio.abc.Stream) -> None:
    """Carry both ways until both are at their end, one fails, or nothing moves any more."""
    with trio.CancelScope(deadline=trio.current_time() + QUIET_SECONDS) as scope:
        async with trio.open_nursery() as nursery:
            for one, other in ((near, far), (far, near)):
                nursery.start_soon(partial(_carry, one, other, scope))


async def _carry(one: trio.abc.Stream, other: trio.abc.Stream, scope: trio.CancelScope) -> None:
    while piece := await one.receive_some(_READ):
        scope.deadline = trio.current_time() + QUIET_SECONDS
        await other.send_all(piece)
    if isinstance(other, trio.abc.HalfCloseableStream):
        await other.send_eof()
    else:
        # TLS has no half of a connection.
        scope.cancel()
