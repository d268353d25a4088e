"""A part of the configuration, kept as the store has it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Final

import trio

from zone.config.faults import ConfigError
from zone.config.keys import Scope
from zone.config.model import Entry
from zone.io.config.store import ConfigStore

_PAUSE: Final = 1.0
"""Seconds until the store is read again, after a fault."""

_log = logging.getLogger("cyfs.zone")


async def follow(
    store: ConfigStore,
    scope: Scope,
    begin: Callable[[Iterable[Entry]], None],
    put: Callable[[Entry], None],
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Tell ``begin`` what is in ``scope``, then ``put`` whatever changes there, deletions as well; for ever.

    When what was changed cannot be told, it begins again.  Started when it has begun for the first time.
    """
    is_started = False
    while True:
        try:
            reading = await store.read([scope])
            begin(reading.entries)
            if not is_started:
                is_started = True
                task_status.started()
            async with store.watch(scope, reading.revision) as changes:
                async for change in changes:
                    for entry in change.entries:
                        put(entry)
        except ConfigError as fault:
            _log.warning("%s is read again: %s", scope, fault)
        await trio.sleep(_PAUSE)
