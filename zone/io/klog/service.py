"""The service ``klog`` of an OOD: it takes the lines of machines, and answers who may read them.

Rights are those on keys that lines would have if they were in the configuration, ``nodes/NODE/status/logs/SERVICE``: a
machine writes and reads its own, the owner reads all.  Whose lines they are is the caller's proof, never the call's.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import trio

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.fields import Fields
from cyfs_ns.identity.strictjson import Json
from zone.config.access import Rule, check_reading, check_writing
from zone.config.faults import ConfigError
from zone.config.keys import Below
from zone.io.klog.spool import Send
from zone.io.klog.store import MOST_ANSWERED, Kept, LogStore, Query
from zone.io.krpc.client import Client
from zone.klog.line import LATEST, LEVELS, Batch, read_batch, write_batch
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
_IN_TIME: Final = 1.0
"""Seconds that an answer needs to be back before its caller goes."""


class KlogService:
    """``store`` for callers.  ``rules``: those that hold now.  ``notice`` hears of faults that lines tell of."""

    def __init__(
        self,
        store: LogStore,
        rules: Callable[[], Sequence[Rule]],
        patterns: Patterns,
        notice: Callable[[Fault], object],
    ) -> None:
        self._store, self._rules = store, rules
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
        scope = _logs(query.node)
        until = trio.current_time() + min(wait, MOST_WAIT, max(0.0, context.seconds - _IN_TIME))
        while True:
            # What was allowed when the wait began may not be any more.
            check_reading(self._rules(), caller.subjects, scope)
            came = self._came
            found = await trio.to_thread.run_sync(self._store.find, query, limiter=self._one)
            left = until - trio.current_time()
            if found or query.after is None or left <= 0:
                return _told(found if query.after is not None else found[::-1], query.after is None)
            with trio.move_on_after(left):
                await came.wait()


def _logs(node: str) -> Below:
    return Below(f"nodes/{node}/status/logs") if node else Below("nodes")


def _told(found: Sequence[Kept], is_newest_first: bool) -> list[Json]:
    told: list[Json] = []
    room = MOST_CHARACTERS
    for kept in found:
        line = kept.line
        room -= len(line.message) + sum(len(name) + len(value) for name, value in line.attrs.items())
        if told and room < 0:
            break
        one: Json = {
            "place": kept.place,
            "node": kept.node,
            "time": line.time,
            "service": line.service,
            "level": line.level,
            "message": line.message,
            "attrs": line.attrs,
        }
        told.append(one)
    return told[::-1] if is_newest_first else told


def _read_query(params: Mapping[str, Json]) -> tuple[Query, float]:
    fields = Fields(dict(params), "query")
    level = fields.text_or_none("level") or "debug"
    if level not in LEVELS:
        raise fields.wrong("level", f"is not one of {', '.join(LEVELS)}")
    after, limit = fields.number_or_none("after"), fields.number_or_none("limit")
    query = Query(
        node=fields.text_or_none("node", 63) or "",
        service=fields.text_or_none("service", 127) or "",
        level=level,
        since=_seconds(fields, "since", 0.0),
        until=_seconds(fields, "until", LATEST),
        text=fields.text_or_none("text", 256) or "",
        after=after,
        limit=MOST_ANSWERED if limit is None else limit,
    )
    wait = _seconds(fields, "wait", 0.0)
    if unknown := [*fields.rest()]:
        raise fields.wrong(unknown[0][:40], "is nothing that can be asked for")
    return query, wait


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
        number = await client.call("append", write_batch(batch), idempotent=True)
        if isinstance(number, bool) or not isinstance(number, int):
            raise BadWire(f"{NAME}: the answer is no number")
        return number

    return send
