"""What changes in the store, told to any number of callers from one watch.

The newest changes of all keys are kept in memory.  Whoever polls waits for those of their
scope after a revision, and is told with the changes how far they have seen; so a scope in which nothing happens does
not fall behind.  Who is further behind than what is kept begins anew from a reading.  Nothing is kept for anybody.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import trio

from zone.config.faults import Code, ConfigError
from zone.config.keys import Below, Scope
from zone.config.model import Change
from zone.io.config.store import ConfigStore

MOST_KEPT: Final = 16 * 1024 * 1024
"""Characters of changes that are kept."""
MOST_CHANGES: Final = 16_384
MOST_TOLD: Final = 1024 * 1024
"""Characters of changes that one poll is told, unless a single one has more."""
MOST_WAITING: Final = 4096
"""Polls that wait at once."""
_PAUSE: Final = 1.0

_log = logging.getLogger("cyfs.zone")


@dataclass(eq=False, slots=True)
class _Poll:
    scope: Scope
    told: trio.Event = field(default_factory=trio.Event)


@dataclass(frozen=True, slots=True)
class News:
    """What a poll is told: changes of its scope, all of them up to ``revision``."""

    revision: int
    changes: tuple[Change, ...]


class Feed:
    """The changes of ``store``.  Run :meth:`run`."""

    def __init__(self, store: ConfigStore) -> None:
        self._store = store
        self._kept: deque[Change] = deque()
        self._size = 0
        self._begin = self._seen = -1
        """Every change after the first and up to the second is kept; none while the store is not followed."""
        self._polls: set[_Poll] = set()

    async def poll(self, scope: Scope, after: int, seconds: float) -> News:
        """The changes of ``scope`` after revision ``after``, as soon as there is one, or none within ``seconds``.

        Raises ``ConfigError``: ``COMPACTED`` if they are not kept any more, ``INVALID`` if ``after`` is not there yet,
        ``UNAVAILABLE`` while the store is not followed or too many wait.
        """
        if after > self._seen >= 0 and after > (head := (await self._store.read([])).revision):
            raise ConfigError(Code.INVALID, f"revision {after} is not there yet, the newest is {head}")
        news = self._news(scope, after)
        if news.changes or seconds <= 0:
            return news
        if len(self._polls) >= MOST_WAITING:
            raise ConfigError(Code.UNAVAILABLE, "too many wait for changes")
        waiting = _Poll(scope)
        self._polls.add(waiting)
        try:
            with trio.move_on_after(seconds):
                while not news.changes:
                    await waiting.told.wait()
                    waiting.told = trio.Event()
                    news = self._news(scope, news.revision)
        finally:
            self._polls.discard(waiting)
        return news if news.changes else self._news(scope, news.revision)

    def _news(self, scope: Scope, after: int) -> News:
        if self._begin < 0:
            raise ConfigError(Code.UNAVAILABLE, "the store cannot be followed just now")
        if after < self._begin:
            raise ConfigError(Code.COMPACTED, f"changes are kept from revision {self._begin} on")
        found: list[Change] = []
        size = 0
        for change in self._after(after):
            if entries := tuple(entry for entry in change.entries if entry.key in scope):
                found.append(Change(change.revision, entries))
                size += _size(found[-1])
                if size > MOST_TOLD:
                    return News(change.revision, tuple(found))
        return News(max(after, self._seen), tuple(found))

    def _after(self, revision: int) -> Iterator[Change]:
        fresh = []
        for kept in reversed(self._kept):
            if kept.revision <= revision:
                break
            fresh.append(kept)
        return reversed(fresh)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Go on for ever; started when changes are kept."""
        is_started = False
        while True:
            try:
                self._reset((await self._store.read([])).revision)
                if not is_started:
                    is_started = True
                    task_status.started()
                async with self._store.watch(Below(), self._seen) as changes:
                    async for change in changes:
                        self._keep(change)
            except ConfigError as fault:
                _log.warning("changes are followed anew: %s", fault)
            self._reset(-1)
            await trio.sleep(_PAUSE)

    def _reset(self, revision: int) -> None:
        self._kept.clear()
        self._size = 0
        self._begin = self._seen = revision
        if revision < 0:
            for poll in self._polls:
                poll.told.set()

    def _keep(self, change: Change) -> None:
        self._kept.append(change)
        self._size += _size(change)
        self._seen = change.revision
        while self._size > MOST_KEPT or len(self._kept) > MOST_CHANGES:
            self._begin = (gone := self._kept.popleft()).revision
            self._size -= _size(gone)
        for poll in self._polls:
            if any(entry.key in poll.scope for entry in change.entries):
                poll.told.set()


def _size(change: Change) -> int:
    return sum(len(entry.key) + len(entry.value or "") for entry in change.entries)
