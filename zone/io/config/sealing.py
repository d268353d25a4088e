"""A store around a store: what is below ``security`` leaves this machine sealed, and is read by OODs alone.

Revisions, guards and watches are those of the store inside.  What lies there unsealed is not taken for a secret of
ours: reading it says that it is damaged.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Final

from cyfs_ns.errors import Misuse
from cyfs_ns.identity.keys import PublicKey
from rtcp.v5.keys import DeviceKey
from zone.config.keys import Below, Scope
from zone.config.model import Change, Commit, Entry, Reading
from zone.config.sealed import DICE, MOST_OODS, seal, sealed_for, unseal
from zone.io.config.backend import Backend

SECRETS: Final = Below("security")


class SealedBackend:
    """``inner`` as ``ood`` sees it, whose secrets are for ``oods``: the present ones, ``ood`` among them."""

    def __init__(self, inner: Backend, ood: DeviceKey, oods: Collection[PublicKey], secret: Below = SECRETS) -> None:
        if ood.public not in oods or len(oods) > MOST_OODS:
            raise Misuse(f"secrets are sealed for this OOD and {MOST_OODS - 1} others at most")
        self._inner = inner
        self._ood = ood
        self._oods = tuple(oods)
        self._secret = secret

    async def read(self, scopes: Sequence[Scope], revision: int | None = None, *, stale_ok: bool = False) -> Reading:
        reading = await self._inner.read(scopes, revision, stale_ok=stale_ok)
        return replace(reading, entries=tuple(map(self._opened, reading.entries)))

    async def commit(self, commit: Commit) -> int | None:
        writes = {key: self._closed(key, value) for key, value in commit.writes.items()}
        return await self._inner.commit(replace(commit, writes=writes))

    @asynccontextmanager
    async def watch(self, scope: Scope, after: int) -> AsyncGenerator[AsyncIterator[Change]]:
        async with self._inner.watch(scope, after) as changes, aclosing(self._told(changes)) as told:
            yield told

    async def _told(self, changes: AsyncIterator[Change]) -> AsyncGenerator[Change]:
        async for change in changes:
            yield replace(change, entries=tuple(map(self._opened, change.entries)))

    async def compact(self, revision: int) -> None:
        await self._inner.compact(revision)

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def reseal(self) -> int:
        """Seal anew what is not for the present OODs, and return how many values that were.

        Older revisions stay as they were sealed until they are compacted.  Raises ``ConfigError``.
        """
        done = 0
        while stale := [
            entry
            for entry in (await self._inner.read([self._secret])).entries
            if not sealed_for(entry.key, entry.value or "", self._oods)
        ]:
            for entry in stale:
                # Whoever wrote in between sealed it for the present OODs, or it is found once more.
                writes = {entry.key: self._opened(entry).value}
                done += await self.commit(Commit({entry.key: entry.revision}, writes)) is not None
        return done

    def _opened(self, entry: Entry) -> Entry:
        if entry.value is None or entry.key not in self._secret:
            return entry
        return replace(entry, value=unseal(entry.key, entry.value, self._ood))

    def _closed(self, key: str, value: str | None) -> str | None:
        if value is None or key not in self._secret:
            return value
        return seal(key, value, self._oods, secrets.token_bytes(DICE))
