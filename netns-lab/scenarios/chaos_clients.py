"""Clients of the zone's configuration on each OOD, who write down all that they ask and are told.

They come by the services' door of their own OOD and call ``system_config``, with a session that the owner's key opened.
What they do is drawn from a seed; what comes of it is judged by ``tests/zone/chaos/history.py``.
"""

from __future__ import annotations

import itertools
import json
import math
import random
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import trio

from cyfs_ns.identity.keys import SecretKey
from cyfs_ns.identity.strictjson import Json
from tests.zone.chaos.history import (
    Action,
    Add,
    Begin,
    Drop,
    History,
    Lease,
    Outcome,
    Put,
    Read,
    Seen,
    Told,
    Write,
)
from zone.config.keys import Below
from zone.hub.tokens import bootstrap
from zone.io.config.etcd import EtcdBackend
from zone.io.krpc.client import Client
from zone.io.krpc.transport import HttpTransport, by_unix
from zone.krpc.faults import Code, KrpcFault

__all__ = ["BELOW", "Notebook", "Session", "Watcher", "Worker", "written_log"]

BELOW: Final = "data/chaos"
_SECONDS: Final = 15.0
"""For which a call waits."""
_POLL: Final = 5.0
_PAUSE: Final = 0.3
"""Seconds between calls that fail."""
_PACE: Final = 0.05
"""Seconds between calls: more than one machine's processors can answer is no use."""
_REGISTERS: Final = 6
_ARRAY: Final = 60
"""Marks that an array gets before the next one is begun."""
_TTL: Final = 12
_MAYBE: Final = frozenset({Code.UNCERTAIN, Code.DEADLINE, Code.FULL, Code.INTERNAL, Code.UNSPECIFIED})
"""After these nobody knows whether something was done."""


class Notebook:
    """What all of them note."""

    def __init__(self) -> None:
        self.writes: list[Write] = []
        self.reads: list[Read] = []
        self.told: list[Told] = []
        self.leases: dict[int, Lease] = {}
        self.faults: Counter[str] = Counter()
        """What calls failed with."""
        self.longest_gap = 0.0
        """Seconds between two acknowledged writes of whichever clients, until :meth:`rest`."""
        self._last_done = time.monotonic()
        self.compacted = 0
        """Watches that had to begin anew."""

    def note(self, write: Write) -> None:
        self.writes.append(write)
        if write.outcome is Outcome.DONE:
            self.longest_gap = max(self.longest_gap, write.ended - self._last_done)
            self._last_done = max(self._last_done, write.ended)

    def rest(self) -> None:
        """From now on nobody writes but now and then."""
        self._last_done = math.inf

    def count(self, outcome: Outcome) -> int:
        return sum(write.outcome is outcome for write in self.writes)

    def __str__(self) -> str:
        counts = ", ".join(f"{self.count(outcome)} {outcome.value}" for outcome in Outcome)
        return (
            f"  writes: {counts}; {len(self.reads)} readings, {len(self.told)} polls of watches,"
            f" {self.compacted} watches begun anew, {len(self.leases)} leases;"
            f" longest time without an acknowledged write {self.longest_gap:.1f} s\n"
            f"  what calls failed with: {dict(self.faults.most_common())}"
        )

    def history(self) -> History:
        return History(tuple(self.writes), tuple(self.reads), tuple(self.told), tuple(self.leases.values()))


class Session:
    """The owner, at one OOD."""

    def __init__(self, name: str, kapi: Path, owner: SecretKey, zone: str, notebook: Notebook) -> None:
        self.name, self.notebook = name, notebook
        self._owner, self._zone = owner, zone
        self._numbers = itertools.count()
        self._token = ""
        self._entering = trio.Lock()
        self._anybody = HttpTransport(by_unix(kapi))
        self._known = HttpTransport(by_unix(kapi), self._tokens)
        self._hub = Client(self._anybody, "verify-hub", seconds=_SECONDS)
        self._config = Client(self._known, "system_config", seconds=_SECONDS)

    async def _tokens(self) -> str:
        async with self._entering:
            if not self._token:
                jti = f"{self.name}-{next(self._numbers)}-{time.time_ns()}"
                said = bootstrap(self._zone, "", "", self._owner, jti, time.time())
                try:
                    told = await self._hub.call("login_by_jwt", {"jwt": said})
                except KrpcFault as fault:
                    # Whatever became of the session: nothing was asked with it.
                    raise KrpcFault(Code.UNAVAILABLE, f"no session: {fault.code}: {fault.message}") from fault
                assert isinstance(told, Mapping)
                self._token = str(told["sudo_token"])
            return self._token

    async def call(self, method: str, **params: Json) -> Mapping[str, Any]:
        """Raises ``KrpcFault``."""
        try:
            told = await self._config.call(method, params)
        except KrpcFault as fault:
            if fault.code in (Code.UNAUTHENTICATED, Code.EXPIRED):
                self._token = ""
            self.notebook.faults[f"{method}: {fault.code}"] += 1
            raise
        assert isinstance(told, Mapping)
        return told

    async def read(self, below: str) -> Read:
        """And note it.  Raises ``KrpcFault``."""
        began, entries, params = time.monotonic(), [], {}
        while True:
            told = await self.call("read", scopes=[{"below": below}], **params)
            entries += map(_seen, told["entries"])
            if "next" not in told:
                break
            params = {"revision": told["revision"], "after_key": told["next"]}
        read = Read(
            who=f"a client at {self.name}",
            scope=f"{below}/",
            revision=told["revision"],
            entries=tuple(entries),
            fresh=told["fresh"],
            began=began,
            ended=time.monotonic(),
        )
        self.notebook.reads.append(read)
        return read

    async def write(self, mark: str, *actions: Action, guards: Mapping[str, int] | None = None) -> bool:
        """And note it.  Whether it was done; False if it could not be, as things were.  Raises ``KrpcFault``."""
        wanted: list[Json] = [{"key": key, "revision": revision} for key, revision in (guards or {}).items()]
        said: dict[str, Json] = {"actions": [_action(action, mark) for action in actions], "if": wanted}
        began, outcome, revision = time.monotonic(), Outcome.UNKNOWN, 0
        try:
            revision = (await self.call("transact", **said))["revision"]
            outcome = Outcome.DONE
        except KrpcFault as fault:
            if fault.code not in _MAYBE:
                outcome = Outcome.REFUSED
            if fault.code not in (Code.CONFLICT, Code.EXISTS, Code.MISSING):
                raise
        finally:
            done = Write(
                mark=mark,
                actions=actions,
                guards=guards or {},
                outcome=outcome,
                revision=revision,
                began=began,
                ended=time.monotonic(),
            )
            self.notebook.note(done)
        return outcome is Outcome.DONE

    async def aclose(self) -> None:
        await self._anybody.aclose()
        await self._known.aclose()


class Worker:
    """Writes and reads, one call after the other."""

    def __init__(self, session: Session, name: str, seed: object) -> None:
        self._session, self._name = session, name
        self._dice = random.Random(f"{seed}/{name}")
        self._numbers = itertools.count()
        self._lease = 0
        self._lease_until = 0.0

    async def run(self) -> None:
        ways = [self._set, self._compare, self._pair, self._swap, self._append, self._create, self._read, self._leased]
        while True:
            (way,) = self._dice.choices(ways, (3, 6, 2, 2, 3, 3, 3, 2))
            try:
                await way()
            except KrpcFault:
                await trio.sleep(_PAUSE)
            await trio.sleep(_PACE * self._dice.random() * 2)

    def _register(self) -> str:
        return f"{BELOW}/r/{self._dice.randrange(_REGISTERS)}"

    async def _set(self) -> None:
        await self._write(Put(self._register()))

    async def _compare(self) -> None:
        key = self._register()
        found = await self._found(f"{BELOW}/r")
        await self._write(Put(key), guards={key: found[key].revision if key in found else 0})

    async def _pair(self) -> None:
        one, other = self._dice.sample(range(_REGISTERS), 2)
        await self._write(Put(f"{BELOW}/r/{one}"), Put(f"{BELOW}/r/{other}"))

    async def _swap(self) -> None:
        """One register goes, another one comes, if nobody has touched the one that goes."""
        found = await self._found(f"{BELOW}/r")
        if not found:
            return
        gone = self._dice.choice(sorted(found))
        other = self._register()
        if other != gone:
            await self._write(Drop(gone), Put(other), guards={gone: found[gone].revision})

    async def _append(self) -> None:
        key = f"{BELOW}/a/{len(self._session.notebook.writes) // (_ARRAY * 8)}"
        if not await self._write(Add(key)):
            await self._write(Begin(key))

    async def _create(self) -> None:
        mark = self._mark()
        key = f"{BELOW}/k/{mark}"
        await self._session.write(mark, Put(key), guards={key: 0})

    async def _read(self) -> None:
        await self._session.read(f"{BELOW}/r")

    async def _leased(self) -> None:
        notebook = self._session.notebook
        now = time.monotonic()
        if not self._lease:
            told = await self._session.call("grant", ttl=_TTL)
            self._lease, self._lease_until = int(told["lease"]), now + self._dice.uniform(5, 30)
            notebook.leases[self._lease] = Lease(number=self._lease, ttl=_TTL, kept=now)
            return
        lease = notebook.leases[self._lease]
        if now > self._lease_until:
            number, self._lease = self._lease, 0
            if self._dice.random() < 0.5:
                notebook.leases[number] = Lease(number=number, ttl=_TTL, kept=lease.kept, given_up=now)
                await self._session.call("end_lease", lease=str(number))
            return
        try:
            await self._session.call("keep_alive", lease=str(self._lease))
            notebook.leases[self._lease] = Lease(number=self._lease, ttl=_TTL, kept=now)
            await self._write(Put(f"{BELOW}/l/{self._name}", self._lease))
        except KrpcFault as fault:
            if fault.code == Code.MISSING:
                self._lease = 0
            raise

    async def _found(self, below: str) -> dict[str, Seen]:
        return {seen.key: seen for seen in (await self._session.read(below)).entries}

    async def _write(self, *actions: Action, guards: Mapping[str, int] | None = None) -> bool:
        return await self._session.write(self._mark(), *actions, guards=guards)

    def _mark(self) -> str:
        return f"{self._name}-{next(self._numbers)}"


class Watcher:
    """Follows what is below ``below`` by polls, and begins anew where the past is not told any more."""

    def __init__(self, session: Session, below: str) -> None:
        self._session, self._below = session, below
        self.through = 0

    async def run(self) -> None:
        while True:
            try:
                if not self.through:
                    self.through = (await self._session.read(self._below)).revision
                await self._poll()
            except KrpcFault as fault:
                if fault.code == Code.COMPACTED:
                    self._session.notebook.compacted += 1
                    self.through = 0
                await trio.sleep(_PAUSE)

    async def _poll(self) -> None:
        scope: Json = {"below": self._below}
        told = await self._session.call("watch", scope=scope, after=self.through, seconds=_POLL)
        changes = [_seen(entry) for change in told["changes"] for entry in change["entries"]]
        self._session.notebook.told.append(
            Told(
                who=f"a watch at {self._session.name}",
                scope=f"{self._below}/",
                after=self.through,
                through=told["revision"],
                changes=tuple(changes),
                at=time.monotonic(),
            )
        )
        self.through = told["revision"]


async def written_log(member: str, name: str, first: int, last: int) -> Told:
    """Every change after ``first`` through ``last``, as the member of etcd at ``member`` has written it down."""
    backend = EtcdBackend([member], "/zone/")
    changes: list[Seen] = []
    try:
        async with backend.watch(Below(BELOW), first) as told:
            with trio.move_on_after(60):
                async for change in told:
                    changes += [
                        _seen_of(entry.key, entry.value, change.revision, entry.version) for entry in change.entries
                    ]
                    if change.revision >= last:
                        break
    finally:
        await backend.aclose()
    return Told(
        who=f"the member at {name}",
        scope=f"{BELOW}/",
        after=first,
        through=last,
        changes=tuple(seen for seen in changes if seen.revision <= last),
        at=time.monotonic(),
    )


def _action(action: Action, mark: str) -> dict[str, Json]:
    match action:
        case Put():
            return {"do": "set", "key": action.key, "value": mark, "lease": str(action.lease)}
        case Add():
            return {"do": "append", "key": action.key, "value": mark}
        case Begin():
            return {"do": "create", "key": action.key, "value": [mark]}
        case Drop():
            return {"do": "delete", "key": action.key}


def _seen(entry: Mapping[str, Any]) -> Seen:
    value = entry.get("value")
    return Seen(
        entry["key"], value if isinstance(value, str | None) else tuple(value), entry["revision"], entry["version"]
    )


def _seen_of(key: str, text: str | None, revision: int, version: int) -> Seen:
    value = None if text is None else json.loads(text)
    return Seen(key, tuple(value) if isinstance(value, list) else value, revision, version)
