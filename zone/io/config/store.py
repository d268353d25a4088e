"""system_config for whoever uses it: requests in, answers out, over either backend.

What a transaction does is decided from entries that were read, and committed under their revisions.  If others wrote
in between, it is read and decided again, until its time is up; under comparisons that no longer hold it ends at once.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final

import trio

from zone.config.faults import Code, ConfigError
from zone.config.keys import At, Below, Scope, child
from zone.config.model import Change, Entry, Reading, Transaction, check_lease, check_ttl, decide, keys_needed
from zone.io.config.backend import Backend

MOST_HISTORY: Final = 100
"""Entries of one key's history that are told at once."""
_PATIENCE: Final = 10.0
"""Seconds for which a transaction competes with others for its keys."""
_LARGE: Final = 32 * 1024
"""Characters of values from which on deciding takes long enough to be done in a thread."""


class ConfigStore:
    """The zone's configuration.  Every method raises ``ConfigError``.  Does not ask who is calling."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._deciding = trio.CapacityLimiter(1)

    async def get(self, key: str, revision: int | None = None) -> Entry:
        """The entry of ``key`` now, or at ``revision``, with its value.  Raises ``MISSING``."""
        entry = await self._entry(key, revision)
        entry.text()
        return entry

    async def _entry(self, key: str, revision: int | None) -> Entry:
        reading = await self._backend.read([At(key)], revision)
        if not reading.entries:
            raise ConfigError(Code.MISSING, f"{key} is absent")
        return reading.entries[0]

    async def read(self, scopes: Sequence[Scope], revision: int | None = None, *, stale_ok: bool = False) -> Reading:
        """As :meth:`Backend.read`."""
        return await self._backend.read(scopes, revision, stale_ok=stale_ok)

    async def children(self, prefix: Below) -> list[str]:
        """The names right below ``prefix``, sorted, each once."""
        reading = await self._backend.read([prefix])
        return sorted({child(prefix, entry.key) for entry in reading.entries})

    async def transact(self, transaction: Transaction) -> int:
        """Do it whole, and return the revision that has it; where nothing had to be written, one that was like that."""
        needed = [At(key) for key in keys_needed(transaction)]
        deadline = trio.current_time() + _PATIENCE
        while True:
            reading = await self._backend.read(needed)
            entries = {entry.key: entry for entry in reading.entries}
            if transaction.size + sum(len(entry.value or "") for entry in reading.entries) > _LARGE:
                commit = await trio.to_thread.run_sync(decide, transaction, entries, limiter=self._deciding)
            else:
                commit = decide(transaction, entries)
            if not commit.writes:
                return reading.revision
            if (made := await self._backend.commit(commit)) is not None:
                return made
            if trio.current_time() > deadline:
                raise ConfigError(Code.CONFLICT, "others keep changing these keys")

    async def history(self, key: str, most: int = MOST_HISTORY) -> list[Entry]:
        """How ``key`` came to be what it is, the newest entry first, back to when it was made last.

        Ends early at ``most``, or where the past was compacted: the last one's version is not 1 then.
        """
        entry = await self._entry(key, None)
        found = [entry]
        while entry.version > 1 and len(found) < min(most, MOST_HISTORY):
            try:
                entry = await self._entry(key, entry.revision - 1)
            except ConfigError as fault:
                if fault.code is Code.COMPACTED:
                    break
                raise
            found.append(entry)
        return found

    def watch(self, scope: Scope, after: int) -> AbstractAsyncContextManager[AsyncIterator[Change]]:
        """As :meth:`Backend.watch`.  Begin with ``after`` being the revision of a reading."""
        return self._backend.watch(scope, after)

    async def grant(self, ttl: int) -> int:
        """As :meth:`Backend.grant`.  Raises ``INVALID`` for a time that no lease has."""
        return await self._backend.grant(check_ttl(ttl))

    async def keep_alive(self, lease: int) -> None:
        """As :meth:`Backend.keep_alive`."""
        await self._backend.keep_alive(check_lease(lease))

    async def revoke(self, lease: int) -> None:
        """As :meth:`Backend.revoke`."""
        await self._backend.revoke(check_lease(lease))

    async def compact(self, revision: int) -> None:
        """As :meth:`Backend.compact`."""
        await self._backend.compact(revision)
