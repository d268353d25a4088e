"""What lines tell of a fault becomes an event, and has whoever schedules look again, on whichever OOD they are.

Anybody may write such a line, so all that follows is a look at what is; at most one in some seconds, for all together.
What the line said is told to nobody who may not read it: the key names the kind of fault and the service alone.
"""

from __future__ import annotations

import logging
from typing import Final

import trio

from cyfs_ns.identity.strictjson import Json, write_json
from zone.config.faults import ConfigError
from zone.config.model import Set, Transaction
from zone.io.config.store import ConfigStore
from zone.klog.patterns import Fault
from zone.scheduler.observe import NOTICED

_MOST: Final = 32
"""Faults that wait to be told; others show in the log alone."""
_REST: Final = 5.0
"""Seconds from one time that they are told to the next."""
_MOST_SHOWN: Final = 200
"""Characters of a line in an event."""

_log = logging.getLogger("cyfs.scheduler")


class Noticing:
    """Run :meth:`run`."""

    def __init__(self, store: ConfigStore) -> None:
        self._store = store
        self._faults: list[Fault] = []
        self._came = trio.Event()

    def notice(self, fault: Fault) -> None:
        """At once, and never too much."""
        kind = f"{fault.kind} {fault.rule}".rstrip()
        what = {"event": "noticed", "about": fault.service, "where": fault.node, "fault": kind}
        # Said louder it would be a fault itself.
        _log.info("%s of %s on %s: %s", kind, fault.service, fault.node, fault.message[:_MOST_SHOWN], extra=what)
        if len(self._faults) < _MOST:
            self._faults.append(fault)
            self._came.set()

    async def run(self) -> None:
        """Until cancelled.  While the store is away nothing is told: whoever schedules looks when it is back."""
        while True:
            await self._came.wait()
            self._came = trio.Event()
            faults, self._faults = self._faults, []
            told: list[Json] = [[fault.kind, fault.rule, fault.node, fault.service] for fault in faults]
            try:
                await self._store.transact(Transaction((Set(NOTICED, write_json({"faults": told}).decode()),)))
            except ConfigError as fault:
                _log.debug("what was noticed is not told: %s", fault)
            await trio.sleep(_REST)
