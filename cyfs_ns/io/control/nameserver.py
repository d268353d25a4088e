"""The control API of a name server, for its command line and for programs: JSON, and ``/metrics`` for Prometheus.

The same routes serve below any prefix, so that a house with an API of its own can carry them too.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from typing import Any, Generic

import trio

from cyfs_ns import names
from cyfs_ns.config.written import Fault
from cyfs_ns.control.router import Route
from cyfs_ns.errors import BadWire, ConfigFault
from cyfs_ns.io import views
from cyfs_ns.io.control.conversation import DONE, A, Call, Feed, Handler, Reply, json_reply
from cyfs_ns.io.control.identifiers import PATTERN, identifier
from cyfs_ns.io.control.wire import HttpFault, json_bytes
from cyfs_ns.io.explain import explain, question_of
from cyfs_ns.io.ring import Ring
from cyfs_ns.io.serving import Serving
from cyfs_ns.metrics import CONTENT_TYPE, render
from cyfs_ns.querylog import LogEntry, chosen

log = logging.getLogger("cyfs.dns")

_MOST_ENTRIES = 10_000
_MOST_TOP = 1000
_EXPLAIN_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Served:
    """A name server and what its API needs besides."""

    serving: Serving
    started: Callable[[], float]
    """Tells Unix time."""
    reload: Callable[[], Awaitable[tuple[Fault, ...]]] | None = None
    """Reads the configuration again and returns the warnings.  Raises ``ConfigFault``."""


def routes(find: Callable[[A], Served], prefix: str = "") -> Iterable[Route[Handler[A]]]:
    """All routes, for the name server that ``find`` finds in the application."""
    table: tuple[tuple[str, str, Callable[[_Asked[A]], Awaitable[Reply | Feed]]], ...] = (
        ("GET", "/status", _status),
        ("GET", "/stats", _stats),
        ("DELETE", "/stats", _forget_stats),
        ("GET", "/upstreams", _upstreams),
        ("GET", "/lists", _lists),
        ("POST", "/lists/refresh", _refresh_lists),
        ("GET", "/explain", _explain),
        ("GET", "/log", _log),
        ("GET", "/log/follow", _follow_log),
        ("DELETE", "/log", _forget_log),
        ("POST", "/flush", _flush),
        ("POST", "/reload", _reload),
        ("GET", "/metrics", _metrics),
        ("GET", PATTERN, _identifier),
    )

    async def serve(handle: Callable[[_Asked[A]], Awaitable[Reply | Feed]], call: Call[A]) -> Reply | Feed:
        return await handle(_Asked(find(call.app), call))

    for method, path, handle in table:
        yield Route(method, prefix + path, partial(serve, handle))


def metrics_route() -> Route[Handler[Served]]:
    """The one route for a listener that anybody on the network may reach: counts, no names asked, no clients."""

    async def serve(call: Call[Served]) -> Reply:
        return await _metrics(_Asked(call.app, call))

    return Route("GET", "/metrics", serve)


@dataclass(frozen=True, slots=True)
class _Asked(Generic[A]):
    served: Served
    call: Call[A]

    @property
    def serving(self) -> Serving:
        return self.served.serving

    def word(self, key: str) -> str:
        return self.call.query.get(key, "")

    def flag(self, key: str) -> bool:
        return self.word(key) in ("1", "true")

    def number(self, key: str, usual: int, most: int) -> int:
        text = self.word(key) or str(usual)
        if not (text.isascii() and text.isdigit() and len(text) < 9 and 0 < int(text) <= most):
            raise HttpFault(400, f"{key} is a number from 1 to {most}")
        return int(text)

    def name(self, key: str = "name") -> str:
        try:
            return names.name(self.word(key)) if self.word(key) else ""
        except BadWire as fault:
            raise HttpFault(400, str(fault)) from None

    def address(self, key: str) -> str:
        text = self.word(key)
        if text and not names.is_ip(text):
            raise HttpFault(400, f"{key} is an IP address")
        return names.ip(text) if text else ""


async def _status(asked: _Asked[A]) -> Reply:
    return json_reply(views.status_json(asked.serving, asked.served.started()))


async def _stats(asked: _Asked[A]) -> Reply:
    return json_reply(views.statistics_json(asked.serving, asked.number("top", 10, _MOST_TOP)))


async def _forget_stats(asked: _Asked[A]) -> Reply:
    asked.serving.server.settle()
    asked.serving.server.statistics.clear()
    return DONE


async def _upstreams(asked: _Asked[A]) -> Reply:
    return json_reply({"upstreams": views.upstreams_json(asked.serving)})


async def _lists(asked: _Asked[A]) -> Reply:
    return json_reply({"lists": views.lists_json(asked.serving)})


async def _refresh_lists(asked: _Asked[A]) -> Reply:
    changed = await asked.serving.refresh_lists()
    return json_reply({"changed": changed, "lists": views.lists_json(asked.serving)})


async def _explain(asked: _Asked[A]) -> Reply:
    try:
        question = question_of(asked.word("name"), asked.word("type"))
    except BadWire as fault:
        raise HttpFault(400, str(fault)) from None
    with trio.move_on_after(_EXPLAIN_SECONDS):
        said = await explain(asked.serving.server, question, asked.address("client") or "127.0.0.1")
        return json_reply(views.explained_json(said))
    raise HttpFault(504, "the question went unanswered")


def _ring(asked: _Asked[A]) -> Ring:
    ring = asked.serving.ring
    if ring is None:
        raise HttpFault(404, "no query log is kept: dns.query-log in the configuration starts one")
    return ring


def _fitting(asked: _Asked[A], lines: Iterable[bytes]) -> Iterable[LogEntry]:
    source = "blocked" if asked.flag("blocked") else asked.word("source")
    return chosen(lines, client=asked.address("client"), name=asked.name(), source=source)


async def _log(asked: _Asked[A]) -> Reply:
    """The newest entries that fit, the oldest of them first."""
    ring, many = _ring(asked), asked.number("limit", 100, _MOST_ENTRIES)
    _fitting(asked, ())
    asked.serving.gather_log()
    found = await trio.to_thread.run_sync(lambda: list(islice(_fitting(asked, ring.lines()), many)))
    return json_reply({"entries": [_entry(entry) for entry in reversed(found)]})


async def _follow_log(asked: _Asked[A]) -> Feed:
    ring = _ring(asked)
    _fitting(asked, ())

    async def items() -> AsyncIterator[bytes]:
        async with aclosing(ring.follow()) as lines:  # type: ignore[type-var]
            async for line in lines:
                for entry in _fitting(asked, (line,)):
                    yield json_bytes(_entry(entry))

    return Feed(items())


async def _forget_log(asked: _Asked[A]) -> Reply:
    await trio.to_thread.run_sync(_ring(asked).remove)
    return DONE


def _entry(entry: LogEntry) -> dict[str, Any]:
    return asdict(entry)


async def _flush(asked: _Asked[A]) -> Reply:
    name, below = asked.name(), asked.flag("below")
    if below and not name:
        raise HttpFault(400, "below which name?")
    return json_reply({"flushed": asked.serving.server.flush(name, below=below)})


async def _reload(asked: _Asked[A]) -> Reply:
    if asked.served.reload is None:
        raise HttpFault(501, "the house around this name server reloads it")
    try:
        warnings = await asked.served.reload()
    except ConfigFault as fault:
        raise HttpFault(400, str(fault)) from None
    except Exception as fault:
        log.exception("the change failed in a way nobody foresaw; what was there stays")
        raise HttpFault(500, f"internal error: {str(fault) or type(fault).__name__}; what was there stays") from None
    return json_reply({"warnings": [str(fault) for fault in warnings]})


async def _identifier(asked: _Asked[A]) -> Reply:
    return await identifier(asked.call, asked.serving.show_page)


async def _metrics(asked: _Asked[A]) -> Reply:
    text = render(views.metrics_of(asked.serving, asked.served.started()))
    return Reply(200, text.encode("utf-8", "replace"), (("Content-Type", CONTENT_TYPE),))
