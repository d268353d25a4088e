"""Carries a boot out: actions become files, questions and a store; what comes of them goes back to the machine.

One loop, and a task for each action that waits.  What is to be kept is on the disk before the next action begins.  The
store stays open, and what lives on it runs, from "booted" until the machine says stop or asks for another store.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio

from cyfs_ns.errors import BadWire, CyfsError, Unreachable
from cyfs_ns.identity.documents import ZoneBoot, ZoneDoc
from cyfs_ns.identity.reading import kind_of
from zone.boot.known import Finding, Known, ZoneState, find, news, read_state, role_in
from zone.boot.machine import (
    AGAIN,
    Boot,
    Booted,
    Commit,
    Committed,
    DocumentFound,
    Event,
    Failed,
    GatewayUp,
    IdentityBad,
    IdentityRead,
    Keep,
    MembersMoved,
    OpenStore,
    PeersReached,
    Phase,
    ReachPeers,
    ReadIdentity,
    ReadStore,
    Restore,
    Restored,
    Search,
    SearchDone,
    StartGateway,
    Stop,
    StoreRead,
    StoreUp,
    Todo,
)
from zone.boot.settle import BOOT, keys_needed
from zone.config.faults import Code, ConfigError
from zone.config.keys import At
from zone.config.model import Action
from zone.io.boot.memory import Memory
from zone.io.boot.search import Search as Searching
from zone.io.boot.world import World
from zone.io.config.store import ConfigStore
from zone.io.membership import MembershipStore
from zone.membership import Membership

_SEARCH: Final = 10.0
"""Seconds for one place to search in."""
_SEARCH_AGAIN: Final = 300.0
"""Seconds between two searches.  One OOD that finds a new document is enough: the others hear of it by the store."""
_EVENTS: Final = 64

Life = Callable[[ConfigStore, Membership], Awaitable[None]]
"""What goes on in a zone that is up, until it is cancelled."""

_log = logging.getLogger("cyfs.zone")


class Booting:
    """The boot of the machine whose home is ``home``.  ``more``: what others need in a new zone's store.

    ``wall``: the clock that documents are judged by, in seconds since 1970.
    """

    def __init__(
        self,
        home: Path,
        world: World,
        searches: Sequence[Searching],
        life: Life,
        more: Sequence[Action] = (),
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._home, self._world, self._searches, self._life, self._wall = home, world, searches, life, wall
        self._more = more
        self._boot = Boot(0.0, more)
        self._fault = ""
        self._store: ConfigStore | None = None
        self._tasks: dict[type[Todo], trio.CancelScope] = {}
        self._turn = trio.Lock()
        self._waiting = trio.lowlevel.ParkingLot()
        self._tell, self._told = trio.open_memory_channel[Event](_EVENTS)

    async def run(self) -> None:
        """Boot, and live in the zone until cancelled."""
        self._boot = Boot(trio.current_time(), self._more)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._world.attend, self.hear, partial(self.tell, MembersMoved()))
            await self._carry_out(self._boot.start(trio.current_time()), nursery)
            while True:
                todo = await self._next()
                await self._carry_out(todo, nursery)

    async def tell(self, event: Event) -> None:
        """Of what others decided: the owner, the part that moves members."""
        await self._tell.send(event)

    async def hear(self, untrusted: str, source: str) -> None:
        """A document of the zone, from whoever has it: the owner's signature is as good from a stranger.

        Raises as :meth:`judge`.
        """
        state, _ = self.judge(untrusted)
        await self._tell.send(DocumentFound(state, source))

    def judge(self, untrusted: str) -> tuple[ZoneState, Finding]:
        """A document of the zone, and what it is to those that are known here.

        Raises ``BadWire``; ``Unreachable`` where this machine is in no zone just now.
        """
        membership, known = self._boot.membership, self._boot.known
        if membership is None or known is None:
            raise Unreachable("this machine is in no zone")
        state = read_state(untrusted, membership, self._now(known))
        return state, find(known, state, membership.device)

    def _now(self, known: Known) -> float:
        """Nobody lives before the newest document that was believed."""
        return max(self._wall(), known.newest.document.iat)

    def status(self) -> Mapping[str, Any]:
        """For ``zone status``."""
        boot = self._boot
        step, known, membership = boot.step, boot.known, boot.membership
        told: dict[str, Any] = {
            "step": str(step.phase),
            "seconds": max(0.0, trio.current_time() - step.since),
            "waits_for": step.waits_for,
            "why": self._fault or step.why or self._world.why,
            "notes": list(boot.notes),
        }
        if known is not None and membership is not None:
            told |= {
                "zone": str(membership.zone.id),
                "name": membership.name,
                "role": str(role_in(known, membership.device)),
                "document": str(known.zone.revision),
                "ahead": None if known.ahead is None else str(known.ahead.revision),
            }
        return told

    @property
    def zone(self) -> ZoneDoc | None:
        """The zone's document that is in force here."""
        return None if self._boot.known is None else self._boot.known.zone.document

    @property
    def bereft(self) -> Membership | None:
        """Whose zone has lost its store and waits for a backup; None: not so here."""
        return self._boot.membership if self._boot.step.phase is Phase.RESTORE else None

    @property
    def membership(self) -> Membership | None:
        """What this machine was activated with, once that is read."""
        return self._boot.membership

    async def until(self, holds: Callable[[Mapping[str, Any]], bool]) -> None:
        """Return when :meth:`status` is such that ``holds``."""
        while not holds(self.status()):
            await self._waiting.park()

    async def _next(self) -> list[Todo]:
        deadline = self._boot.next_deadline()
        with trio.move_on_at(math.inf if deadline is None else deadline):
            return self._take(await self._told.receive())
        return self._boot.tick(trio.current_time())

    def _take(self, event: Event) -> list[Todo]:
        before = self._boot.step
        todo = self._boot.take(event, trio.current_time())
        after = self._boot.step
        self._waiting.unpark_all()
        if after.phase is not before.phase:
            level = logging.WARNING if after.phase in (Phase.HALTED, Phase.RESTORE) else logging.INFO
            _log.log(level, "zone: %s%s", after.phase, f": {after.why}" if after.why else "")
        return todo

    async def _carry_out(self, todo: Sequence[Todo], nursery: trio.Nursery) -> None:
        for one in todo:
            if isinstance(one, Keep):
                await self._keep(one.known)
        if self._boot.membership is not None and self._boot.known is not None:
            self._world.believe(self._boot.membership, self._boot.known)
        for one in todo:
            if isinstance(one, Keep):
                continue
            if isinstance(one, Stop):
                for scope in self._tasks.values():
                    scope.cancel()
            else:
                nursery.start_soon(self._do, one)

    async def _keep(self, known: Known) -> None:
        """Nothing goes on before it is on the disk."""
        membership = self._boot.membership
        assert membership is not None
        memory = Memory(self._home, membership)
        while True:
            try:
                await trio.to_thread.run_sync(memory.keep, known)
            except OSError as fault:
                self._fault = f"{memory.path}: {fault.strerror or fault}"
                _log.warning("zone: %s; tried again", self._fault)
                self._waiting.unpark_all()
                await trio.sleep(AGAIN)
            else:
                self._fault = ""
                return

    async def _do(self, todo: Todo) -> None:
        """One action, and one of a kind at a time: the next takes its place."""
        kind = type(todo)
        if (before := self._tasks.get(kind)) is not None:
            before.cancel()
        with trio.CancelScope() as scope:
            self._tasks[kind] = scope
            if isinstance(todo, Booted):
                # What fails there is no step of the boot.
                await self._live()
                return
            try:
                await self._act(todo)
            except (CyfsError, OSError) as fault:
                await self._tell.send(Failed(str(fault) or type(fault).__name__))
        if self._tasks.get(kind) is scope:
            del self._tasks[kind]

    async def _act(self, todo: Todo) -> None:
        if isinstance(todo, ReadIdentity):
            await self._tell.send(await trio.to_thread.run_sync(self._identity))
        elif isinstance(todo, Search):
            await self._search(todo.membership)
        elif isinstance(todo, StartGateway):
            await self._world.gateway(todo.peers, todo.sn)
            await self._tell.send(GatewayUp())
        elif isinstance(todo, ReachPeers):
            await self._reach(todo.names)
        elif isinstance(todo, OpenStore):
            await self._hold_store(todo)
        elif isinstance(todo, ReadStore):
            await self._tell.send(await self._read(todo.keys))
        elif isinstance(todo, Commit):
            await self._commit(todo)
        elif isinstance(todo, Restore):
            await self._world.restore(self._membership, self._opened)
            await self._tell.send(Restored())

    @property
    def _membership(self) -> Membership:
        assert self._boot.membership is not None
        return self._boot.membership

    def _identity(self) -> IdentityRead | IdentityBad:
        try:
            store, now = MembershipStore(self._home), self._wall()
            store.mend(now)
            membership = store.own(now)
            known, lost = Memory(self._home, membership).read()
        except (CyfsError, OSError) as fault:
            return IdentityBad(str(fault))
        return IdentityRead(membership, known, lost)

    async def _search(self, membership: Membership) -> None:
        while True:
            notes: list[str] = []
            async with trio.open_nursery() as nursery:
                for search in self._searches:
                    nursery.start_soon(self._search_one, search, membership, notes)
            await self._tell.send(SearchDone(tuple(dict.fromkeys(notes))))
            await trio.sleep(_SEARCH_AGAIN)

    async def _search_one(self, search: Searching, membership: Membership, notes: list[str]) -> None:
        known = self._boot.known
        assert known is not None
        now = self._now(known)
        try:
            with trio.move_on_after(_SEARCH):
                for source, token in await search(membership.zone.id):
                    kind = kind_of(token.claims)
                    try:
                        if kind == ZoneDoc.kind:
                            await self._tell.send(DocumentFound(read_state(token.text, membership, now), source))
                        elif kind == ZoneBoot.kind and (said := news(known, token, membership, now)):
                            notes.append(f"{source}: {said}")
                    except BadWire as bad:
                        # What lies beside it may be good.
                        notes.append(f"{source}: {bad}")
        except (CyfsError, OSError) as fault:
            notes.append(str(fault))

    async def _reach(self, names: tuple[str, ...]) -> None:
        latest: list[frozenset[str]] = []
        changed = trio.lowlevel.ParkingLot()

        def tell(standing: frozenset[str]) -> None:
            latest[:] = [standing]
            changed.unpark_all()

        async def pass_on() -> None:
            while True:
                while latest:
                    await self._tell.send(PeersReached(latest.pop()))
                await changed.park()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(pass_on)
            while True:
                try:
                    await self._world.reach(names, tell)
                except (CyfsError, OSError) as fault:
                    _log.info("zone: %s", fault)
                await trio.sleep(AGAIN)

    async def _hold_store(self, todo: OpenStore) -> None:
        known = self._boot.known
        assert known is not None
        if (living := self._tasks.get(Booted)) is not None:
            living.cancel()
        # Whoever had one open before has closed it by then.
        async with self._turn, self._world.store(todo.kind, self._membership, known) as store:
            self._store = store
            try:
                await self._tell.send(StoreUp())
                await trio.sleep_forever()
            finally:
                self._store = None

    async def _read(self, keys: Sequence[str]) -> StoreRead:
        reading = await self._opened.read([At(key) for key in keys])
        return StoreRead({entry.key: entry for entry in reading.entries})

    async def _commit(self, todo: Commit) -> None:
        try:
            await self._opened.transact(todo.transaction)
        except ConfigError as fault:
            if fault.code not in (Code.CONFLICT, Code.EXISTS):
                raise
        await self._tell.send(Committed())

    @property
    def _opened(self) -> ConfigStore:
        if self._store is None:
            raise ConfigError(Code.UNAVAILABLE, "the store is closed")
        return self._store

    async def _live(self) -> None:
        store = self._opened
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._life, store, self._membership)
            nursery.start_soon(self._watch, store)

    async def _watch(self, store: ConfigStore) -> None:
        """Hear of new documents of the zone from those who heard of them first."""
        while True:
            try:
                reading = await store.read([At(BOOT)])
                async with store.watch(At(BOOT), reading.revision) as changes:
                    async for _ in changes:
                        assert self._boot.known is not None
                        keys = keys_needed(self._boot.known, self._membership)
                        await self._tell.send(await self._read(keys))
            except ConfigError as fault:
                _log.info("zone: %s", fault)
                await trio.sleep(AGAIN)
