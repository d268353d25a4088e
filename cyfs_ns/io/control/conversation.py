"""A control connection, request by request: head, access, body, handler, reply.

Nothing of a request is acted on, or read past its head, before ``judge`` granted it.  Handlers fail alone: a bug in
one is logged and answered 500, and the house stands.  Logged is the route's pattern, never the target: targets carry
tokens.
"""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar
from urllib.parse import parse_qsl

import h11
import trio

from cyfs_ns.control.access import Asked, Door, judge
from cyfs_ns.control.router import Found, Router, segments_of
from cyfs_ns.io.control import websocket
from cyfs_ns.io.control.wire import Headers, HttpFault, Wire, header, json_bytes, json_value, tokens

log = logging.getLogger("cyfs.control")

_MOST_QUERY = 32
_STRAY_BODY = 64 * 1024
_JSON: Headers = (("Content-Type", "application/json"),)


A = TypeVar("A")


async def _no_switch(protocol: str) -> socket.socket:
    raise HttpFault(426, "Upgrade Required")


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer."""

    status: int
    body: bytes = b""
    headers: Headers = _JSON


@dataclass(frozen=True, slots=True)
class Feed:
    """An answer without end: JSON texts, sent as lines or as WebSocket messages."""

    items: AsyncIterator[bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[A]):
    """One granted request; ``app`` is what the handlers of a site share."""

    app: A
    found: Found[Callable[[Call[A]], Awaitable[Reply | Feed]]]
    query: Mapping[str, str]
    body: bytes = field(repr=False)
    websocket: bool
    accept: str
    upgrade: frozenset[str] = frozenset()
    """The protocols that the asker would rather speak on this connection."""
    switch: Callable[[str], Awaitable[socket.socket]] = field(default=_no_switch, repr=False)
    """Agree to one of them: answers 101 and gives the connection, which is the handler's from then on.  The handler
    returns ``SWITCHED``.  Raises ``HttpFault``, when nothing was promised yet, and what trio raises."""

    def name(self, key: str = "name") -> str:
        return self.found.names[key]

    def json(self) -> dict[str, Any]:
        """The body, which must be a JSON object of texts that can be written down again."""
        value = json_value(self.body)
        if not isinstance(value, dict):
            raise HttpFault(400, "Body invalid")
        if b"\\u" in self.body and not _is_whole(value):
            raise HttpFault(400, "there is half a character in the body: a surrogate without the other")
        return value


def _is_whole(value: object) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


Handler: TypeAlias = Callable[[Call[A]], Awaitable[Reply | Feed]]

DONE = Reply(204, b"", ())
SWITCHED = Reply(101, b"", ())
"""No HTTP is spoken on this connection any more."""


def json_reply(value: object, status: int = 200) -> Reply:
    """``value`` as the answer."""
    return Reply(status, json_bytes(value))


def _nothing_public(segments: tuple[str, ...], accept: str) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Site(Generic[A]):
    """What is served: the application, its routes, and which pages need no secret."""

    app: A
    router: Router[Handler[A]]
    is_public: Callable[[tuple[str, ...], str], bool] = _nothing_public
    """By the segments of the path and the ``Accept`` header; for GET and HEAD only."""
    changes: bool = True
    """Whether requests other than GET change something that the log is to tell; otherwise they are details, too."""


async def converse(stream: trio.abc.Stream, door: Door, site: Site[A]) -> None:
    """Serve one connection until either side has enough."""
    wire = Wire(stream)
    more = True
    while more:
        exchange = _Exchange(wire, door, site)
        try:
            more = await exchange.run()
        except HttpFault as fault:
            if wire.switched:
                return
            more = not fault.close
            body = json_bytes({"message": fault.message})
            await exchange.reply(fault.status, (*_JSON, *fault.headers), body, close=fault.close)
        more = more and wire.ready_for_next()
    await wire.linger()


class _Exchange(Generic[A]):
    """One request and its reply."""

    def __init__(self, wire: Wire, door: Door, site: Site[A]) -> None:
        self._wire, self._door, self._site = wire, door, site
        self._cors: Headers = ()
        self._bare = False

    async def run(self) -> bool:
        """False when the connection ends here."""
        request = await self._wire.next_request()
        if request is None:
            return False
        method = request.method.decode("ascii")
        self._bare = method == "HEAD"
        path, query = _target(request)
        protocols = frozenset(tokens(request, b"upgrade") if "upgrade" in tokens(request, b"connection") else ())
        upgrade = "websocket" in protocols
        access = judge(self._door, self._asked(request, method, path, query, upgrade))
        self._cors = access.headers
        if access.status:
            body = json_bytes({"message": "Unauthorized"}) if access.status == 401 else b""
            await self.reply(access.status, _JSON if body else (), body, close=True)
            return False
        found = self._site.router.find(method, path)
        body = await self._wire.body(found.route.body_limit if isinstance(found, Found) else _STRAY_BODY)
        if not isinstance(found, Found):
            if not found.allowed:
                raise HttpFault(404, "Resource not found")
            raise HttpFault(405, "Method not allowed", headers=(("Allow", ", ".join(found.allowed)),))
        accept = header(request, b"accept") or ""
        call = Call(
            app=self._site.app,
            found=found,
            query=query,
            body=body,
            websocket=upgrade,
            accept=accept,
            upgrade=protocols,
            switch=self._wire.switch,
        )
        reply = await self._handled(found, call)
        if reply is SWITCHED:
            return False
        if isinstance(reply, Reply):
            await self.reply(reply.status, reply.headers, reply.body)
            return True
        if upgrade:
            await websocket.talk(self._wire, request, reply.items)
            return False
        await self._stream(reply)
        return False

    async def reply(self, status: int, headers: Headers, body: bytes, *, close: bool = False) -> None:
        await self._wire.reply(status, (*headers, *self._cors), body, close=close, bare=self._bare)

    async def _handled(self, found: Found[Handler[A]], call: Call[A]) -> Reply | Feed:
        method, pattern = found.route.method, found.route.pattern
        level = logging.INFO if self._site.changes and method != "GET" else logging.DEBUG
        try:
            reply = await found.route.handler(call)
        except HttpFault as fault:
            log.log(level, "%s %s: %d", method, pattern, fault.status)
            raise
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise
        except Exception:
            log.exception("%s %s failed", method, pattern)
            raise HttpFault(500, "internal error") from None
        log.log(level, "%s %s: answered", method, pattern)
        return reply

    async def _stream(self, feed: Feed) -> None:
        """One JSON text a line until the peer leaves."""
        await self._wire.start_chunks(200, (*_JSON, *self._cors))
        if self._bare:
            return
        async with trio.open_nursery() as both:

            async def watch() -> None:
                await self._wire.until_peer_leaves()
                both.cancel_scope.cancel()

            both.start_soon(watch)
            async with aclosing(feed.items) as items:  # type: ignore[type-var]
                try:
                    async for item in items:
                        await self._wire.chunk(item + b"\n")
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    pass
            both.cancel_scope.cancel()

    def _asked(self, request: h11.Request, method: str, path: str, query: Mapping[str, str], upgrade: bool) -> Asked:
        segments = segments_of(path)
        return Asked(
            method=method,
            host=header(request, b"host"),
            origin=_origin(request),
            authorization=header(request, b"authorization"),
            token=query.get("token"),
            websocket=upgrade,
            public=method in ("GET", "HEAD") and self._site.is_public(segments, header(request, b"accept") or ""),
            wanted_method=header(request, b"access-control-request-method"),
            wants_private_network=header(request, b"access-control-request-private-network") is not None,
        )


def _target(request: h11.Request) -> tuple[str, dict[str, str]]:
    """Path as sent and query; of a repeated name the first value counts."""
    path, _, query = request.target.decode("ascii").partition("?")
    if not path.startswith("/"):
        raise HttpFault(400, "Bad Request", close=True)
    values: dict[str, str] = {}
    try:
        for name, value in parse_qsl(query, keep_blank_values=True, max_num_fields=_MOST_QUERY):
            values.setdefault(name, value)
    except ValueError:
        raise HttpFault(400, "Bad Request", close=True) from None
    return path, values


def _origin(request: h11.Request) -> str | None:
    """Several ``Origin`` headers are no origin that anybody listed."""
    values = [value.decode("latin-1") for name, value in request.headers if name == b"origin"]
    return values[0] if len(values) == 1 else ("several" if values else None)
