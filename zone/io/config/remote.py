"""The zone's store as a machine sees it that does not carry it: by calls of ``system_config`` at an OOD.

What is read and written is what the rules allow this machine.  A lease is this machine's own.  Compacting is for those
who carry the store, and a transaction of more than a thousand keys is none for a call.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import Final

import trio

from cyfs_ns.identity.strictjson import Json
from zone.config.faults import NEXT, Code, ConfigError
from zone.config.keys import Scope
from zone.config.model import Change, Commit, Entry, Reading
from zone.config.wire import integer, lease_of, plain_scope, read_entry
from zone.io.krpc.client import Client
from zone.krpc.faults import KrpcFault

SERVICE: Final = "system_config"
MOST_POLLS: Final = 8
"""At once.  Further watches take turns, so that polls leave room for calls at both ends."""
_POLL: Final = 25.0
"""Seconds of a poll for changes."""
_TURN: Final = 1.0
"""Seconds of one that holds the last place."""
_PAUSE: Final = 1.0


class RemoteBackend:
    """A ``Backend`` by ``client``, which calls :data:`SERVICE` and waits longer than a poll."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._calls: set[trio.CancelScope] = set()
        self._polls = trio.CapacityLimiter(MOST_POLLS)
        self._is_open = True

    async def read(self, scopes: Sequence[Scope], revision: int | None = None, *, stale_ok: bool = False) -> Reading:
        params: dict[str, Json] = {"scopes": list(map(plain_scope, scopes)), "as_text": True, "stale_ok": stale_ok}
        if revision is not None:
            params["revision"] = revision
        entries: list[Entry] = []
        fresh = True
        while True:
            told = await self._ask("read", params)
            entries += map(read_entry, _list(told, "entries"))
            fresh = fresh and told.get("fresh") is True
            at, following = integer(told, "revision"), told.get("next")
            if not isinstance(following, str):
                return Reading(at, tuple(entries), fresh)
            params |= {"revision": at, "after_key": following}

    async def commit(self, commit: Commit) -> int | None:
        actions: list[Json] = [
            {"do": "delete", "key": key}
            if text is None
            else {"do": "set", "key": key, "text": text, "lease": str(commit.leases.get(key, 0))}
            for key, text in commit.writes.items()
        ]
        guards: list[Json] = [{"key": key, "revision": revision} for key, revision in commit.guards.items()]
        try:
            return integer(await self._ask("transact", {"actions": actions, "if": guards}, Code.UNCERTAIN), "revision")
        except ConfigError as fault:
            if fault.code is Code.CONFLICT:
                return None
            raise

    @asynccontextmanager
    async def watch(self, scope: Scope, after: int) -> AsyncGenerator[AsyncIterator[Change]]:
        async with aclosing(self._changes(scope, after)) as changes:
            yield changes

    async def _changes(self, scope: Scope, after: int) -> AsyncGenerator[Change]:
        while True:
            try:
                told = await self._poll(scope, after)
            except ConfigError as fault:
                if fault.code is not Code.UNAVAILABLE or not self._is_open:
                    raise
                await trio.sleep(_PAUSE)
                continue
            for change in _list(told, "changes"):
                if not isinstance(change, Mapping):
                    raise ConfigError(Code.INVALID, "a change is an object")
                yield Change(integer(change, "revision"), tuple(map(read_entry, _list(change, "entries"))))
            after = integer(told, "revision")

    async def _poll(self, scope: Scope, after: int) -> Mapping[str, Json]:
        async with self._polls:
            seconds = _POLL if self._polls.available_tokens else _TURN
            params: dict[str, Json] = {"scope": plain_scope(scope), "after": after, "seconds": seconds, "as_text": True}
            return await self._ask("watch", params)

    async def grant(self, ttl: int) -> int:
        return lease_of(await self._ask("grant", {"ttl": ttl}))

    async def keep_alive(self, lease: int) -> None:
        await self._ask("keep_alive", {"lease": str(lease)})

    async def revoke(self, lease: int) -> None:
        await self._ask("end_lease", {"lease": str(lease)}, Code.UNCERTAIN)

    async def compact(self, revision: int) -> None:
        raise ConfigError(Code.DENIED, "the history is compacted by those who carry the store")

    async def aclose(self) -> None:
        self._is_open = False
        for scope in self._calls:
            scope.cancel()

    async def _ask(self, method: str, params: Mapping[str, Json], lost: Code = Code.UNAVAILABLE) -> Mapping[str, Json]:
        """The answer.  ``lost``: what it means that there is none."""
        with self._calling():
            try:
                told = await self._client.call(method, params)
            except KrpcFault as fault:
                raise _meant(fault, lost) from fault
            if isinstance(told, Mapping):
                return told
            raise ConfigError(lost, f"{SERVICE} gave no answer to {method}")
        raise ConfigError(lost, "the store was closed")

    @contextmanager
    def _calling(self) -> Generator[None]:
        if not self._is_open:
            raise ConfigError(Code.UNAVAILABLE, "the store is closed")
        with trio.CancelScope() as scope:
            self._calls.add(scope)
            try:
                yield
            finally:
                self._calls.discard(scope)


def _meant(fault: KrpcFault, lost: Code) -> ConfigError:
    """What a call's fault is for who uses a store."""
    try:
        code = Code(fault.code)
    except ValueError:
        code = Code.DENIED if fault.code == "unauthenticated" else Code.UNAVAILABLE if fault.retryable else lost
    if code is Code.UNCERTAIN:
        code = lost
    return ConfigError(code, fault.message.removesuffix(f"; {NEXT[code]}"))


def _list(told: Mapping[str, Json], name: str) -> list[Json]:
    found = told.get(name)
    if not isinstance(found, list):
        raise ConfigError(Code.INVALID, f"{name!r} is an array, and is needed")
    return list(found)
