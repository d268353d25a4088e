"""The service ``klog`` of an OOD: it takes the lines of machines, and answers who may read them.

Rights are those on keys that lines would have if they were in the configuration, ``nodes/NODE/status/logs/SERVICE``: a
machine writes and reads its own, the owner reads all; so do the OODs, who ask each other for those that each has.
Whose lines they are is the caller's proof, never the call's.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Final

import trio

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.fields import Fields
from cyfs_ns.identity.strictjson import Json
from zone.config.access import Rule, check_reading, check_writing
from zone.config.faults import ConfigError
from zone.config.keys import Below
from zone.io.klog.spool import Send
from zone.io.klog.store import MOST_ANSWERED, Kept, LogStore, Query, going_on
from zone.io.krpc.client import Client
from zone.klog.line import LATEST, LEVELS, Batch, Line, read_batch, write_batch
from zone.klog.patterns import Fault, Patterns
from zone.krpc.caller import Caller
from zone.krpc.faults import Code, KrpcFault
from zone.krpc.service import CallContext

NAME: Final = "klog"
MOST_WAIT: Final = 25.0
"""Seconds for which an answer waits for the next line."""
MOST_CALLS: Final = 16
"""Calls of one caller at once."""
MOST_CHARACTERS: Final = 512 * 1024
"""Of the messages and attributes in one answer; the rest comes with the next."""
_MOST_PLACE: Final = 1 << 62
_IN_TIME: Final = 1.0
"""Seconds that an answer needs to be back before its caller goes."""


class KlogService:
    """``store`` for callers.  ``rules``: those that hold now; ``oods``: the names of the machines that carry the zone.

    ``notice`` hears of faults that lines tell of.
    """

    def __init__(
        self,
        store: LogStore,
        rules: Callable[[], Sequence[Rule]],
        patterns: Patterns,
        notice: Callable[[Fault], object],
        oods: Callable[[], Collection[str]] = tuple,
    ) -> None:
        self._store, self._rules, self._oods = store, rules, oods
        self._patterns, self._notice = patterns, notice
        self._one = trio.CapacityLimiter(1)
        self._calls: Counter[str] = Counter()
        self._came = trio.Event()

    async def __call__(self, caller: Caller, method: str, params: Mapping[str, Json], context: CallContext) -> Json:
        if method not in ("append", "query"):
            raise KrpcFault(Code.UNKNOWN_METHOD, f"{NAME} has no method {method[:80]!r}")
        if not caller.subjects:
            raise KrpcFault(Code.UNAUTHENTICATED, f"{NAME} is for callers that prove who they are")
        if self._calls[caller.name] >= MOST_CALLS:
            raise KrpcFault(Code.LIMITED, f"{caller.name} has {MOST_CALLS} calls under way")
        self._calls[caller.name] += 1
        try:
            if method == "append":
                return await self._append(caller, params)
            return await self._query(caller, params, context)
        except ConfigError as fault:
            raise KrpcFault.of_config(fault) from None
        except BadWire as bad:
            raise KrpcFault(Code.INVALID, str(bad)) from None
        except sqlite3.Error as fault:
            raise KrpcFault(Code.UNAVAILABLE, f"the logs of this OOD: {fault}") from fault
        finally:
            self._calls[caller.name] -= 1
            if not self._calls[caller.name]:
                del self._calls[caller.name]

    async def aclose(self) -> None:
        """Close the store, when nobody is at work in it."""
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._store.close, limiter=self._one)

    async def _append(self, caller: Caller, params: Mapping[str, Json]) -> Json:
        if not caller.device:
            raise KrpcFault(Code.DENIED, "lines come from machines")
        check_writing(self._rules(), caller.subjects, _logs(caller.device))
        batch = await trio.to_thread.run_sync(read_batch, params)
        number, new = await trio.to_thread.run_sync(self._store.take, caller.device, batch, limiter=self._one)
        if new:
            self._came.set()
            self._came = trio.Event()
        for fault in self._patterns.look(caller.device, new, trio.current_time()):
            self._notice(fault)
        return number

    async def _query(self, caller: Caller, params: Mapping[str, Json], context: CallContext) -> Json:
        query, wait = _read_query(params)
        wanted, scope = query.limit, _logs(query.node)
        until = trio.current_time() + max(0.0, context.seconds - _IN_TIME)
        waits_until = min(until, trio.current_time() + min(wait, MOST_WAIT))
        lines: list[Kept] = []
        last: int | None = None
        room = MOST_CHARACTERS
        while True:
            # What was allowed when the wait began may not be any more.
            if not self._is_ood(caller):
                check_reading(self._rules(), caller.subjects, scope)
            came = self._came
            found = await trio.to_thread.run_sync(self._store.look, query, limiter=self._one)
            last = found.last if last is None else last
            more = found.more
            for kept in found.lines:
                room -= _length(kept.line)
                if lines and room < 0:
                    more = going_on(query, lines[-1].line.time, lines[-1].place)
                    break
                lines.append(kept)
            if more is not None:
                query = replace(more, limit=wanted - len(lines))
            elif query.after is not None:
                query = replace(query, after=found.last)
            is_full = room < 0 or len(lines) >= wanted
            now = trio.current_time()
            if more is not None and not is_full and now < until:
                continue
            if query.after is None or lines or now >= waits_until:
                return _told(lines, more, query, last)
            with trio.move_on_at(waits_until):
                await came.wait()

    def _is_ood(self, caller: Caller) -> bool:
        """Whether it is a machine that carries the zone's state anyway."""
        return caller.device in self._oods() and all(one.roles == {"device"} for one in caller.subjects)


def _logs(node: str) -> Below:
    return Below(f"nodes/{node}/status/logs") if node else Below("nodes")


def _length(line: Line) -> int:
    return len(line.message) + sum(len(name) + len(value) for name, value in line.attrs.items())


def _told(lines: Sequence[Kept], more: Query | None, query: Query, last: int) -> Json:
    """``before`` leads to older lines, ``after`` to those that come."""
    told: list[Json] = [
        {
            "place": kept.place,
            "node": kept.node,
            "time": kept.line.time,
            "service": kept.line.service,
            "level": kept.line.level,
            "message": kept.line.message,
            "attrs": kept.line.attrs,
        }
        for kept in lines
    ]
    if query.after is not None:
        return {"lines": told, "after": query.after}
    before = None if more is None or more.before is None else list(more.before)
    return {"lines": told[::-1], "before": before, "after": last}


def _read_query(params: Mapping[str, Json]) -> tuple[Query, float]:
    fields = Fields(dict(params), "query")
    level = fields.text_or_none("level") or "debug"
    if level not in LEVELS:
        raise fields.wrong("level", f"is not one of {', '.join(LEVELS)}")
    after, limit = fields.number_or_none("after"), fields.number_or_none("limit")
    query = Query(
        node=fields.text_or_none("node", 63) or "",
        services=_services(fields),
        level=level,
        since=_seconds(fields, "since", 0.0),
        until=_seconds(fields, "until", LATEST),
        text=fields.text_or_none("text", 256) or "",
        about=fields.text_or_none("about", 127) or "",
        before=_before(fields),
        after=None if after is None else min(after, _MOST_PLACE),
        limit=MOST_ANSWERED if limit is None else max(1, min(limit, MOST_ANSWERED)),
    )
    wait = _seconds(fields, "wait", 0.0)
    if unknown := [*fields.rest()]:
        raise fields.wrong(unknown[0][:40], "is nothing that can be asked for")
    return query, wait


def _services(fields: Fields) -> tuple[str, ...]:
    value = fields.take("service")
    names = () if value is None or value == "" else (value,) if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or len(names) > 64 or not all(isinstance(one, str) for one in names):
        raise fields.wrong("service", "is no name of a service, and no list of up to 64")
    return tuple(str(one)[:127] for one in names)


def _before(fields: Fields) -> tuple[float, int] | None:
    value = fields.take("before")
    if value is None:
        return None
    match value:
        case [int() | float() as time, int() as place] if 0 <= time <= LATEST and 0 < place <= _MOST_PLACE:
            return float(time), place
    raise fields.wrong("before", "is none that an answer gave")


def _seconds(fields: Fields, name: str, default: float) -> float:
    value = fields.take(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LATEST:
        raise fields.wrong(name, "is no number of seconds")
    return float(value)


def sender(client: Client) -> Send:
    """The way of batches to an OOD's ``klog``, which ``client`` calls."""

    async def send(batch: Batch) -> int:
        try:
            number = await client.call("append", write_batch(batch), idempotent=True)
        except KrpcFault as fault:
            if fault.code == Code.INVALID:
                raise BadWire(f"{NAME}: {fault}") from fault
            raise
        if isinstance(number, bool) or not isinstance(number, int):
            raise BadWire(f"{NAME}: the answer is no number")
        return number

    return send
