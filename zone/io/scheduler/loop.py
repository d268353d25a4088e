"""The rounds of the scheduler: it waits for changes, reads all at one revision, decides in a thread, and writes once.

The first change after a rest is acted on at once; what comes in meanwhile is the next round.  After each it rests as
long as it worked, so a zone in uproar takes half a core and no more.  Without changes it looks again when the plan says
that something is due.

The nodes' routes are written by it as well, in transactions of their own, when what they are made of is another.

What went wrong needs no bookkeeping: a plan that was not written, or of which nobody knows whether it was, is decided
anew from what is there then, and its guards keep it from being written late.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Final, TypeVar

import trio

from cyfs_ns.identity.documents import ZoneDoc
from zone.config.faults import Code, ConfigError
from zone.config.keys import Below, Scope
from zone.config.model import Entry
from zone.io.config.store import ConfigStore
from zone.io.scheduler.leadership import lead
from zone.routes.info import gateway_infos, places_of, route_commits
from zone.routes.places import Place
from zone.scheduler.observe import NOTICED, SCOPES, matters, observe, transaction_of, veto_note
from zone.scheduler.plan import Plan
from zone.scheduler.redact import redacted
from zone.scheduler.replay import replay_bytes
from zone.scheduler.schedule import Check, schedule
from zone.scheduler.snapshot import Observation, Snapshot, snapshot_of

_REST: Final = 0.05
"""Seconds between rounds, at least."""
_AGAIN: Final = 1.0
"""Seconds until the store is asked again after a fault."""
_ANEW: Final = frozenset({Code.CONFLICT, Code.UNCERTAIN})

T = TypeVar("T")

_log = logging.getLogger("cyfs.scheduler")


class Scheduler:
    """The scheduler as the OOD ``name`` has it.  ``checks`` are asked in a thread, before anything is written.

    ``zone``: its document as it is known now; None: routes are not for this scheduler to make.
    ``wall``: Unix seconds; read once each time it takes over, so it may be wrong, and jump.
    """

    def __init__(
        self,
        name: str,
        store: ConfigStore,
        checks: Sequence[Check] = (),
        *,
        zone: Callable[[], ZoneDoc] | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._name, self._store, self._checks, self._zone, self._wall = name, store, tuple(checks), zone, wall
        self._thread = trio.CapacityLimiter(1)
        self._ahead = 0.0
        self._changed = trio.Event()
        self._waiting = trio.lowlevel.ParkingLot()
        self._observed: Observation | None = None
        self._snapshot: Snapshot | None = None
        self._directed: object = None
        """What the routes were made of that the nodes have."""
        self.plan: Plan | None = None
        """What the last round came to; None: this one does not lead, or has not decided anything yet."""

    async def run(self) -> None:
        """Stand by, and lead when nobody else does, until cancelled."""
        told = ""
        while True:
            try:
                await lead(self._store, self._name, self._life)
                told = ""
            except* ConfigError as faults:
                if (why := str(faults.exceptions[0])) != told:
                    _log.warning("the scheduler waits for the store: %s", why)
                told = why
                await trio.sleep(_AGAIN)
            finally:
                self.plan = self._observed = self._snapshot = self._directed = None

    def replay(self) -> bytes | None:
        """The file of the last round, from which ``read_replay`` makes its decision again; None: there was none.

        Values of environments are replaced, each by another that says nothing of it.
        """
        return None if self._observed is None else replay_bytes(redacted(self._observed))

    @property
    def snapshot(self) -> Snapshot | None:
        """What the last round decided on."""
        return self._snapshot

    async def decided(self, revision: int) -> None:
        """Until a round has decided on ``revision`` of the store, or on a later one."""
        while self._snapshot is None or self._snapshot.revision < revision:
            await self._waiting.park()

    async def preview(self, changes: Mapping[str, str | None]) -> Plan | None:
        """What a round would come to now if ``changes`` (key to text; None: deleted) were made; nothing is written.

        None: this one does not lead.  Raises ``ConfigError``.
        """
        last = self._observed
        if last is None:
            return None
        reading = await self._store.read(SCOPES)
        entries = {entry.key: entry for entry in reading.entries if entry.key not in changes}
        at = reading.revision
        made = (Entry(key, text, at, at, 1) for key, text in changes.items() if text is not None)
        supposed = replace(reading, entries=(*entries.values(), *made))
        observed = observe(trio.current_time() + self._ahead, last.lease, supposed, last)
        _, plan = await self._in_thread(partial(_decide, observed, None, self._checks))
        return plan

    async def _life(self, lease: tuple[str, int]) -> None:
        self._ahead = self._wall() - trio.current_time()
        revision = (await self._store.read([])).revision
        async with trio.open_nursery() as nursery:
            for scope in SCOPES:
                nursery.start_soon(self._follow, scope, revision)
            while True:
                self._changed = trio.Event()
                began = trio.current_time()
                due = await self._round(lease, began + self._ahead) - self._ahead
                now = trio.current_time()
                await trio.sleep(max(_REST, now - began))
                with trio.move_on_at(due):
                    await self._changed.wait()

    async def _follow(self, scope: Scope, after: int) -> None:
        while True:
            try:
                async with self._store.watch(scope, after) as changes:
                    async for change in changes:
                        after = change.revision
                        if any(matters(entry.key) or entry.key == NOTICED for entry in change.entries):
                            self._changed.set()
            except ConfigError as fault:
                _log.warning("the scheduler missed changes, and reads all anew: %s", fault)
            await trio.sleep(_AGAIN)
            try:
                after = (await self._store.read([])).revision
            except ConfigError:
                continue  # And is told so again by the watch.
            self._changed.set()

    async def _round(self, lease: tuple[str, int], now: float) -> float:
        """When the next one is due, by the clock of ``now``, whatever becomes of this one."""
        try:
            observed = observe(now, lease, await self._store.read(SCOPES), self._observed)
            snapshot, plan = await self._in_thread(partial(_decide, observed, self._snapshot, self._checks))
            self._observed, self._snapshot, self.plan = observed, snapshot, plan
            self._waiting.unpark_all()
            if (note := veto_note(observed, plan)) is not None:
                for veto in plan.vetoes:
                    _log.warning("nothing of %d decisions is written: %s", len(plan.decisions), veto)
                await self._store.transact(transaction_of(note))
            if plan.commit.writes:
                await self._store.transact(transaction_of(plan.commit))
                for decision in plan.decisions:
                    about = f"{decision.service} on {decision.node}" if decision.node else decision.service
                    what = {"event": decision.action, "about": decision.service, "where": decision.node}
                    _log.info("%s %s: %s", decision.action, about, decision.why, extra=what)
            if self._zone is not None:
                await self._direct(self._zone(), observed)
        except ConfigError as fault:
            if fault.code in _ANEW:
                return now
            _log.warning("a round came to nothing: %s", fault)
            return now + _AGAIN
        return math.inf if plan.look_again is None else plan.look_again

    async def _direct(self, zone: ZoneDoc, observed: Observation) -> None:
        """Tell every node how it reaches the others, unless all of it was told."""
        made_of = zone.sn, zone.hostname, await self._in_thread(partial(_places, zone, observed))
        if made_of == self._directed:
            return
        wanted = await self._in_thread(partial(gateway_infos, zone, made_of[-1]))
        entries = (await self._store.read([Below("nodes")])).entries
        there = {entry.key: (entry.revision, entry.value or "") for entry in entries}
        for commit in route_commits(observed.lease, wanted, there):
            await self._store.transact(transaction_of(commit))
        self._directed = made_of

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(work, limiter=self._thread, abandon_on_cancel=True)


def _places(zone: ZoneDoc, observed: Observation) -> tuple[Place, ...]:
    """Those of the nodes that belong to the zone."""
    infos = {key.split("/")[1]: text for key, (_, text) in observed.entries.items() if key.startswith("devices/")}
    places = places_of(zone, infos)
    return tuple(place for place in places if f"nodes/{place.name}/intent" in observed.entries)


def _decide(observed: Observation, last: Snapshot | None, checks: Sequence[Check]) -> tuple[Snapshot, Plan]:
    snapshot = snapshot_of(observed, last)
    return snapshot, schedule(snapshot, checks)
