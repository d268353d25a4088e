"""A store around a store: what is secret leaves this machine sealed, and is read by OODs alone.

Revisions, guards and watches are those of the store inside.  What lies there unsealed is not taken for a secret of
ours: its entry says that it is damaged, and that of one that is not sealed for this OOD says so.  All others are read
beside them, and each of them can be written anew.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from itertools import takewhile
from typing import Final

from cyfs_ns.errors import Misuse
from cyfs_ns.identity.keys import PublicKey
from rtcp.v5.keys import DeviceKey
from zone.config.access import covers, read_pattern
from zone.config.faults import ConfigError
from zone.config.keys import At, Below, Scope
from zone.config.model import Change, Commit, Entry, Reading
from zone.config.sealed import DICE, MOST_OODS, seal, sealed_for, unseal
from zone.io.config.backend import Backend

SECRETS: Final = ("security/**", "users/*/key")
"""Patterns of the keys whose values are sealed."""


class SealedBackend:
    """``inner`` as ``ood`` sees it, whose secrets are for ``oods``: the present ones, ``ood`` among them.

    ``secret``: patterns of the keys that are secret, as rules have them, without placeholders.
    """

    def __init__(
        self, inner: Backend, ood: DeviceKey, oods: Collection[PublicKey], secret: Sequence[str] = SECRETS
    ) -> None:
        if ood.public not in oods or len(oods) > MOST_OODS:
            raise Misuse(f"secrets are sealed for this OOD and {MOST_OODS - 1} others at most")
        self._inner = inner
        self._ood = ood
        self._oods = tuple(oods)
        self._secret = tuple(map(read_pattern, secret))

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

    async def grant(self, ttl: int) -> int:
        return await self._inner.grant(ttl)

    async def keep_alive(self, lease: int) -> None:
        await self._inner.keep_alive(lease)

    async def revoke(self, lease: int) -> None:
        await self._inner.revoke(lease)

    async def compact(self, revision: int) -> None:
        await self._inner.compact(revision)

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def reseal(self) -> int:
        """Seal anew what is not for the present OODs, and return how many values that were.

        What cannot be read here stays as it is, and older revisions do until they are compacted.  Raises
        ``ConfigError``; the first fault of a value when all others are done.
        """
        done = 0
        while True:
            faults: list[ConfigError] = []
            found = (await self._inner.read([_root(pattern) for pattern in self._secret])).entries
            changed = 0
            for entry in found:
                if not self._is_secret(entry.key):
                    continue
                try:
                    if sealed_for(entry.key, entry.text() or "", self._oods):
                        continue
                    text = unseal(entry.key, entry.text() or "", self._ood)
                except ConfigError as fault:
                    faults.append(fault)
                    continue
                # Whoever wrote in between sealed it for the present OODs, or it is found once more.
                changed += 1
                leases = {entry.key: entry.lease} if entry.lease else {}
                commit = Commit({entry.key: entry.revision}, {entry.key: text}, leases)
                done += await self.commit(commit) is not None
            if not changed:
                break
        if faults:
            raise faults[0]
        return done

    def _is_secret(self, key: str) -> bool:
        return any(covers(pattern, At(key)) for pattern in self._secret)

    def _opened(self, entry: Entry) -> Entry:
        if entry.value is None or not self._is_secret(entry.key):
            return entry
        try:
            return replace(entry, value=unseal(entry.key, entry.value, self._ood))
        except ConfigError as fault:
            return replace(entry, value=None, fault=fault.code)

    def _closed(self, key: str, value: str | None) -> str | None:
        if value is None or not self._is_secret(key):
            return value
        return seal(key, value, self._oods, secrets.token_bytes(DICE))


def _root(pattern: tuple[str, ...]) -> Scope:
    """A scope that has every key of ``pattern``."""
    fixed = tuple(takewhile(lambda segment: segment not in ("*", "**"), pattern))
    return At("/".join(fixed)) if fixed == pattern else Below("/".join(fixed))
