"""The door for browsers: TLS ends here, each request is judged, and what is let through goes to a service at home.

One visitor is one task, for a door of a home sees families, not crowds.  A request that goes on has a connection to the
service of its own, so nothing of one request can be taken for the beginning of another, whatever a visitor puts between
them.  Bodies are followed to their end and passed on as they come, in both directions at once and without a limit of
length; what stops moving is cut.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Final, Literal, TypeAlias

import trio

from cyfs_gateway.certs.source import CertificateSource
from cyfs_gateway.io.certs.endtls import end_tls
from cyfs_gateway.io.share.book import GrantBook
from cyfs_gateway.share.section import Service
from cyfs_gateway.share.visits import Answer, Forward, judge
from cyfs_ns import names
from cyfs_ns.errors import BadWire, CyfsError, Refused
from tunnels.endpoint import Endpoint
from tunnels.http1 import (
    Body,
    RequestHead,
    ResponseHead,
    cut_head,
    parse_request,
    parse_response,
    response_body,
    tokens_of,
    values_of,
)
from tunnels.io.stream import EndpointStream
from tunnels.proxyproto import parse_proxy_header

HEAD_SECONDS: Final = 15.0
KEPT_SECONDS: Final = 75.0
BODY_SECONDS: Final = 120.0
QUIET_SECONDS: Final = 600.0
"""Silence that ends a WebSocket."""
_OPEN_SECONDS: Final = 15.0
_CLIENTS_MOST: Final = 512
_MOST_HEAD: Final = 32 * 1024
_READ: Final = 1 << 16
_HOP: Final = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"upgrade"})
_GONE: Final = (CyfsError, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError)

_log = logging.getLogger("cyfs.share")


KnownBy: TypeAlias = Literal["", "socket", "header"]


class _Over(Exception):
    """The visitor, or the service, is gone in the middle of something."""


class ShareDoor:
    """``services`` by canonical host; ``open_url`` opens a way to one; ``certificates`` may change at any time."""

    def __init__(
        self,
        services: Mapping[str, Service],
        book: GrantBook,
        certificates: Callable[[], CertificateSource | None],
        open_url: Callable[[str], Awaitable[Endpoint]],
        *,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._services, self._book, self._certificates = services, book, certificates
        self._open_url, self._wall = open_url, wall
        self._visitors = 0
        self._turn = trio.Lock()
        """Of those who write down which proofs have counted."""

    async def visit(self, stream: trio.SocketStream, *, known_by: KnownBy = "") -> None:
        """Serve one visitor until it leaves; closes ``stream``.  ``known_by`` is what says where it comes from: the
        socket, a PROXY header in front, or nothing."""
        if self._visitors >= _CLIENTS_MOST:
            await trio.aclose_forcefully(stream)
            return
        self._visitors += 1
        try:
            async with stream:
                await self._serve(stream, known_by)
        except* (*_GONE, _Over) as fault:
            _log.debug("a visitor is gone: %s", fault.exceptions[0])
        except* Exception:
            _log.exception("serving a visitor failed in a way nobody foresaw")
        finally:
            self._visitors -= 1

    async def _serve(self, stream: trio.SocketStream, known_by: KnownBy) -> None:
        source = self._certificates()
        first = _Reader(stream)
        if known_by == "socket":
            first.source = stream.socket.getpeername()[0]
        with trio.fail_after(HEAD_SECONDS):
            if known_by == "header":
                await first.introduced()
            if not first.data and not await first.more():
                return
        if first.data[0] != 0x16:
            await self._plain(first, source)
            return
        if source is None:
            raise Refused("nobody here has certificates (section certificates:)")
        ended = await end_tls(first, source)
        if ended is None:
            return
        plain, host = ended
        visitor = _Reader(plain, first.source)
        while await self._exchange(visitor, host):
            pass
        # Without a goodbye, what ends with the connection would look cut off (RFC 8446 section 6.1).
        with trio.move_on_after(1):
            await plain.unwrap()

    async def _plain(self, visitor: _Reader, source: CertificateSource | None) -> None:
        """Plain HTTP: a proof for certificates, or the way to the same page over TLS."""
        with trio.fail_after(HEAD_SECONDS):
            head = await visitor.request()
        if head is None:
            return
        hosts = values_of(head.fields, b"host")
        host = names.name(hosts[0].partition(b":")[0].decode("latin-1")) if len(hosts) == 1 else ""
        path = head.target.decode("ascii")
        proof = source.proof_for(host, path) if source is not None and head.method == b"GET" else None
        if proof is not None:
            await visitor.answer(Answer(status=200, text=proof.decode("ascii")), last=True, bare=True)
        elif host in self._services and path.startswith("/"):
            to = (("location", f"https://{host}{path}"),)
            await visitor.answer(Answer(status=308, fields=to), last=True)
        else:
            await visitor.answer(Answer(status=404, text="no service is here"), last=True)

    async def _exchange(self, visitor: _Reader, host: str) -> bool:
        """One request and its answer; whether another may follow."""
        try:
            with trio.move_on_after(KEPT_SECONDS if visitor.served else HEAD_SECONDS) as slept:
                head = await visitor.request()
            if slept.cancelled_caught or head is None:
                return False
        except BadWire as fault:
            await visitor.answer(Answer(status=400, text=str(fault)), last=True)
            return False
        visitor.served = True
        service = self._services.get(host)
        now = self._wall()
        verdict = judge(head, host, service, self._book.book, now, self._book.spent(now), visitor.source)
        keep = head.minor == 1 and b"close" not in tokens_of(head.fields, b"connection")
        if isinstance(verdict, Answer):
            if verdict.spent is not None and not await self._spend(*verdict.spent):
                verdict = Answer(status=503, text="that this proof has been used cannot be written down")
            # A body that nobody wants is not read to its end: the connection ends with the answer.
            empty = not values_of(head.fields, b"transfer-encoding") and not values_of(head.fields, b"content-length")
            keep = keep and empty and verdict.status not in (400, 421)
            await visitor.answer(verdict, last=not keep, bodiless=head.method == b"HEAD")
            return keep
        assert service is not None
        try:
            with trio.fail_after(_OPEN_SECONDS):
                way = EndpointStream(await self._open_url(service.to))
        except (CyfsError, trio.TooSlowError) as fault:
            _log.warning("the service %s cannot be reached: %s", service.name, fault)
            await visitor.answer(Answer(status=502, text="the service does not answer"), last=True)
            return False
        async with way:
            return await _passed(visitor, _Reader(way), head, verdict, keep)

    async def _spend(self, proof: str, until: int) -> bool:
        """Whether it is certain that ``proof`` will not count again, over a restart neither."""
        self._book.spend(proof, until)
        async with self._turn:
            try:
                await trio.to_thread.run_sync(self._book.write_spent)
            except OSError as fault:
                _log.error("a link for one machine is not opened: %s", fault)
                return False
        return True


async def _passed(visitor: _Reader, service: _Reader, head: RequestHead, going: Forward, keep: bool) -> bool:
    """Carry one request there and its answer back; whether the visitor may ask again."""
    if going.waits:
        await visitor.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    await service.send(going.head)
    switched = False
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_upload, visitor, service, going.body)
        while True:
            with trio.fail_after(BODY_SECONDS):
                answer = await service.response()
            if answer.status >= 200 or answer.status == 101:
                break
        if answer.status == 101:
            switched = going.websocket and tokens_of(answer.fields, b"upgrade") == {b"websocket"}
            if not switched:
                raise BadWire("the service speaks another protocol now, unasked")
            await visitor.send(_head_back(answer, upgrade=True))
        else:
            body = response_body(answer, head.method)
            keep = keep and not body.until_close
            await visitor.send(_head_back(answer, close=not keep))
            await _carry(service, visitor, body)
            # What is still being uploaded, nobody reads any more.
            keep = keep and going.body.done
        nursery.cancel_scope.cancel()
    if switched:
        await _both_ways(visitor, service)
        return False
    visitor.data[:0] = going.body.rest
    return keep


async def _upload(visitor: _Reader, service: _Reader, body: Body) -> None:
    # A service that does not want it says so in its answer, and closes: that is heard on the other way.
    with suppress(trio.BrokenResourceError):
        await _carry(visitor, service, body)


async def _carry(come: _Reader, go: _Reader, body: Body) -> None:
    """Pass a body on until its end, or until nothing more comes for too long."""
    while not body.done:
        with trio.fail_after(BODY_SECONDS):
            if not come.data and not await come.more():
                if body.until_close:
                    return
                raise _Over("the body ends too early")
            piece = bytes(come.data)
            come.data.clear()
            if allowed := body.feed(piece):
                await go.send(allowed)


async def _both_ways(visitor: _Reader, service: _Reader) -> None:
    async def one_way(come: _Reader, go: _Reader) -> None:
        while come.data or await come.more():
            nursery.cancel_scope.deadline = trio.current_time() + QUIET_SECONDS
            piece = bytes(come.data)
            come.data.clear()
            await go.send(piece)
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(one_way, visitor, service)
        nursery.start_soon(one_way, service, visitor)


def _head_back(answer: ResponseHead, *, close: bool = False, upgrade: bool = False) -> bytes:
    dropped = _HOP | frozenset(tokens_of(answer.fields, b"connection"))
    lines = [b"HTTP/1.1 %d %b" % (answer.status, answer.phrase)]
    lines += [name + b": " + value for name, value in answer.fields if name.lower() not in dropped]
    if upgrade:
        lines += [b"Connection: upgrade", b"Upgrade: websocket"]
    elif close:
        lines.append(b"Connection: close")
    return b"\r\n".join(lines) + b"\r\n\r\n"


class _Reader(trio.abc.Stream):
    """A stream with what has been read of it and not yet been used, which is also the first to be read again."""

    def __init__(self, stream: trio.abc.Stream, source: str = "") -> None:
        self._stream = stream
        self.source = source
        """Address of who is at the other end; empty: nobody says."""
        self.data = bytearray()
        self.served = False

    async def more(self) -> bool:
        """Read; False at the end."""
        piece = await self._stream.receive_some(_READ)
        self.data += piece
        return bool(piece)

    async def introduced(self) -> None:
        """Read the PROXY header in front, and who it says is there.  Raises ``BadWire``."""
        while (header := parse_proxy_header(bytes(self.data))) is None:
            if not await self.more():
                raise BadWire("no whole PROXY header")
        del self.data[: header.length]
        self.source = "" if header.src is None else header.src.host

    async def send(self, data: bytes) -> None:
        with trio.fail_after(BODY_SECONDS):
            await self._stream.send_all(data)

    async def request(self) -> RequestHead | None:
        """The next request's head; None: there is none.  Raises ``BadWire``."""
        head = await self._head()
        return None if head is None else parse_request(head)

    async def response(self) -> ResponseHead:
        head = await self._head()
        if head is None:
            raise _Over("the service closed without an answer")
        return parse_response(head)

    async def _head(self) -> bytes | None:
        while (cut := cut_head(self.data)) is None:
            if len(self.data) > _MOST_HEAD:
                raise BadWire(f"a head of more than {_MOST_HEAD} bytes")
            if not await self.more():
                return None
        del self.data[: cut[1]]
        if len(cut[0]) > _MOST_HEAD:
            raise BadWire(f"a head of more than {_MOST_HEAD} bytes")
        return cut[0]

    async def answer(self, answer: Answer, *, last: bool, bodiless: bool = False, bare: bool = False) -> None:
        body = answer.text.encode() if bare else f"{answer.text or HTTPStatus(answer.status).phrase}\n".encode()
        fields = [*answer.fields, ("content-length", str(len(body))), ("content-type", "text/plain; charset=utf-8")]
        fields += [("cache-control", "no-store"), ("x-content-type-options", "nosniff")]
        fields += [("connection", "close")] if last else []
        head = f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in fields) + "\r\n"
        await self.send(head.encode("latin-1") + (b"" if bodiless else body))

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if self.data:
            cut = len(self.data) if max_bytes is None else max_bytes
            given = bytes(self.data[:cut])
            del self.data[:cut]
            await trio.lowlevel.checkpoint()
            return given
        return await self._stream.receive_some(max_bytes)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()
