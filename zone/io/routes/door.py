"""A door for whoever knows nothing of the zone: browsers of the LAN, and visitors whom an SN leads here.

The first bytes of a connection name the service that it is for: the host of its first request, or that of its TLS.
TLS ends here where the gateway has a certificate for that name; else it goes on, and the service ends it.  What follows
is passed on as it is, so there is one host on one connection.  Other names lead nowhere: it is no proxy.

What this machine serves itself, it serves inside of TLS that ends here and in no other way: tokens are said there.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, Final, Protocol

import trio

from cyfs_gateway.certs.source import CertificateSource
from cyfs_gateway.io.certs.endtls import end_tls
from cyfs_gateway.sniff.http import sniff_http
from cyfs_gateway.sniff.result import MORE, Sniffed, SniffResult
from cyfs_gateway.sniff.tls import sniff_tls
from cyfs_ns.errors import CyfsError, Refused, Unreachable
from tunnels.endpoint import Endpoint
from tunnels.io.stream import EndpointStream

MOST_VISITORS: Final = 512
HEAD_SECONDS: Final = 15.0
"""For what names the service."""
QUIET_SECONDS: Final = 600.0
"""Silence in both directions that ends a connection."""
_OPEN_SECONDS: Final = 5.0
"""For one way to a service; then there may be another."""
_TRY_AGAIN: Final = 30.0
_READ: Final = 64 * 1024
_MOST_HEAD: Final = 32 * 1024
_TLS: Final = 0x16
_UNRECOGNIZED_NAME: Final = bytes.fromhex("15030300020270")
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
    """``ways``: tunnel URLs to the service of a host, the best first; none where there is no such service just now.
    ``own``: what this machine serves under a host."""

    def __init__(
        self, house: House, ways: Callable[[str], Sequence[str]], own: Callable[[str], Serve | None] = nothing
    ) -> None:
        self._house, self._ways, self._own = house, ways, own
        self._visitors = 0
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
        if self._visitors >= MOST_VISITORS:
            await trio.aclose_forcefully(stream)
            return
        self._visitors += 1
        try:
            async with AsyncExitStack() as opened:
                opened.push_async_callback(trio.aclose_forcefully, stream)
                await self._serve(stream, opened)
        except* _GONE as fault:
            _log.debug("a visitor is gone: %s", fault.exceptions[0])
        except* Exception:
            _log.exception("serving a visitor failed in a way nobody foresaw")
        finally:
            self._visitors -= 1

    async def _serve(self, stream: trio.SocketStream, opened: AsyncExitStack) -> None:
        with trio.fail_after(HEAD_SECONDS):
            first = await stream.receive_some(_READ)
        if not first:
            return
        if first[0] != _TLS:
            asked, said = await _asked(stream, first, sniff_http)
            await self._pass_on(stream, asked.host, said, opened)
            return
        asked, said = await _asked(stream, first, sniff_tls)
        source = self._house.certificates
        if source is None or source.certificate_for(asked.host, asked.alpn) is None:
            await self._pass_on(stream, asked.host, said, opened, sealed=True)
        elif (ended := await end_tls(_Again(stream, said), source)) is not None:
            opened.push_async_callback(trio.aclose_forcefully, ended[0])
            if (serve := self._own(asked.host)) is not None:
                await serve(ended[0], stream.socket.getpeername()[0], stream.socket.getsockname()[1])
            else:
                await self._pass_on(ended[0], asked.host, b"", opened)

    async def _pass_on(
        self, near: trio.abc.Stream, host: str, said: bytes, opened: AsyncExitStack, *, sealed: bool = False
    ) -> None:
        try:
            far = await self._open(host)
        except (Refused, Unreachable) as fault:
            _log.debug("%s: %s", host, fault)
            with trio.move_on_after(1):
                await near.send_all(_UNRECOGNIZED_NAME if sealed else _apology(fault))
            return
        opened.push_async_callback(trio.aclose_forcefully, far)
        await far.send_all(said)
        await _join(near, far)

    async def _open(self, host: str) -> EndpointStream:
        ways = self._ways(host)
        if not ways:
            raise Refused("no service is here by that name")
        fault: Exception = Unreachable("the service does not answer")
        for url in ways:
            with trio.move_on_after(_OPEN_SECONDS):
                try:
                    return EndpointStream(await self._house.open_url(url))
                except (Refused, Unreachable) as failed:
                    fault = failed
        raise Unreachable(f"the service does not answer: {fault}")


def _apology(fault: Refused | Unreachable) -> bytes:
    status, text = (b"404 Not Found", b"no service is here by that name\n")
    if isinstance(fault, Unreachable):
        status, text = b"502 Bad Gateway", b"the service does not answer\n"
    return _NOT_HERE % (status, len(text), text)


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


class _Again(trio.abc.Stream):
    """``stream`` from its beginning, of which ``said`` was read already."""

    def __init__(self, stream: trio.abc.Stream, said: bytes) -> None:
        self._stream, self._said = stream, said

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if not self._said:
            return bytes(await self._stream.receive_some(max_bytes))
        await trio.lowlevel.checkpoint()
        size = max_bytes or len(self._said)
        piece, self._said = self._said[:size], self._said[size:]
        return piece

    async def send_all(self, data: Any) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


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
