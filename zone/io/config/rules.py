"""The rules of access as they are now: those of the beginning, and the zone's own as the store has them."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import trio

from zone.config.access import Rule
from zone.config.baserules import BASE, LOCKED, POLICY, read_policy
from zone.config.faults import ConfigError
from zone.config.keys import At
from zone.config.model import Entry
from zone.io.config.following import follow
from zone.io.config.store import ConfigStore

_log = logging.getLogger("cyfs.zone")


class RulesWatch:
    """Those of ``store``.  Run :meth:`run`."""

    def __init__(self, store: ConfigStore) -> None:
        self._store = store
        self.rules: tuple[Rule, ...] = LOCKED
        """Before anything is known, and where the first that is found cannot be read: only owner and kernel may."""

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Go on for ever; started when what the store has counts."""
        await follow(self._store, At(POLICY), self._begin, self._put, task_status)

    def _begin(self, entries: Iterable[Entry]) -> None:
        found = next(iter(entries), None)
        if found is None:
            self.rules = BASE
        else:
            self._put(found)

    def _put(self, entry: Entry) -> None:
        try:
            text = entry.text()
            self.rules = BASE if text is None else read_policy(text)
        except ConfigError as bad:
            # What was known last goes on: without their reports, all machines would be taken for lost.
            _log.error("the zone's rules are as they were: %s", bad)
