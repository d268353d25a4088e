"""One scheduler at a time, whichever OOD it is on.

``LEADER`` is made under a lease, by whoever finds it absent.  It goes with the lease, some ``TTL`` seconds after its
scheduler was killed, and the others, who watch it, try at once.  Nothing rests on anybody's good behaviour: every write
is guarded by the revision of ``LEADER``, so whoever is replaced without noticing writes nothing any more.

Who cannot show a sign of life for ``TTL`` seconds steps down, also when the store was away for everybody: it heard
nothing in that time, and begins anew with patience for all.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import trio

from cyfs_ns.identity.strictjson import write_json
from zone.config.faults import Code, ConfigError
from zone.config.keys import At
from zone.config.model import Create, Transaction
from zone.io.config.store import ConfigStore
from zone.scheduler.observe import LEADER

TTL: Final = 4
"""Seconds for which nobody leads, at most, when a scheduler was killed: some signs of life may be late on a busy
machine, and clients wait for less time than nodes are given anyway."""
_SIGN_OF_LIFE: Final = 1.0
_FAREWELL: Final = 2.0
"""Seconds for handing over in order."""

Life = Callable[[tuple[str, int]], Awaitable[None]]
"""What a leader does; takes ``LEADER`` and the revision that made it."""

_log = logging.getLogger("cyfs.scheduler")


async def lead(store: ConfigStore, name: str, life: Life) -> None:
    """Wait until nobody leads, then lead as ``name`` and live ``life``, until either is over.

    Back too when somebody else was quicker.  Raises ``ConfigError``, and groups of what ``life`` raises.
    """
    await _until_nobody_leads(store)
    asked = trio.current_time()
    lease = await store.grant(TTL)
    try:
        made = await store.transact(Transaction((Create(LEADER, write_json({"node": name}).decode(), lease),)))
        _log.info("this node schedules for the zone from now on")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_keep, store, lease, asked + TTL, nursery.cancel_scope)
            nursery.start_soon(_until_deposed, store, made, nursery.cancel_scope)
            await life((LEADER, made))
            nursery.cancel_scope.cancel()
    except ConfigError as fault:
        if fault.code is not Code.EXISTS:
            raise
    finally:
        with trio.move_on_after(_FAREWELL) as farewell, suppress(ConfigError):
            farewell.shield = True
            await store.revoke(lease)


async def _until_nobody_leads(store: ConfigStore) -> None:
    reading = await store.read([At(LEADER)])
    if not reading.entries:
        return
    async with store.watch(At(LEADER), reading.revision) as changes:
        async for change in changes:
            if change.entries[-1].created == 0:
                return


async def _until_deposed(store: ConfigStore, made: int, leading: trio.CancelScope) -> None:
    """Whatever becomes of ``LEADER``, it is not the one that was ``made``."""
    async with store.watch(At(LEADER), made) as changes:
        async for _ in changes:
            break
    _log.warning("this node schedules no longer: %s was changed", LEADER)
    leading.cancel()


async def _keep(store: ConfigStore, lease: int, until: float, leading: trio.CancelScope) -> None:
    """Show signs of life; end ``leading`` when there was none for so long that another may lead by now."""
    why = f"the store was away for {TTL} s"
    while trio.current_time() < until:
        with trio.move_on_at(until):
            await trio.sleep(_SIGN_OF_LIFE)
            asked = trio.current_time()
            try:
                await store.keep_alive(lease)
                until = asked + TTL
            except ConfigError as fault:
                if fault.code is Code.MISSING:
                    why = "its lease is over"
                    break
    _log.warning("this node schedules no longer: %s", why)
    leading.cancel()
