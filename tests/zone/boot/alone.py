"""The world of a zone of one machine that nobody else speaks to: booting without a gateway around it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from cyfs_ns.errors import Refused, Unreachable
from cyfs_ns.identity.oods import Ood
from zone.boot.known import Known
from zone.boot.machine import StoreKind
from zone.io.boot.world import Hear, embedded
from zone.io.config.store import ConfigStore
from zone.membership import Membership, ood_names


class Alone:
    """The world of a zone whose only OOD is this machine."""

    why = ""

    def __init__(self, home: Path) -> None:
        self._home = home

    async def attend(self, hear: Hear, moved: Callable[[], Awaitable[None]]) -> None:
        """Nobody else says anything."""

    def believe(self, membership: Membership, known: Known) -> None:
        """Nobody is told."""

    async def gateway(self, peers: tuple[Ood, ...], sn: str | None) -> None:
        """The gateway that this runs in is there."""

    async def reach(self, names: tuple[str, ...], tell: Callable[[frozenset[str]], None]) -> None:
        raise Unreachable(f"nothing here keeps tunnels to {', '.join(names)}")

    @asynccontextmanager
    async def store(self, kind: StoreKind, membership: Membership, known: Known) -> AsyncGenerator[ConfigStore]:
        if kind is not StoreKind.EMBEDDED:
            raise Refused(f"a zone of {len(ood_names(known.zone.document))} OODs keeps its state in etcd")
        async with embedded(self._home, membership) as store:
            yield store

    async def restore(self, membership: Membership, store: ConfigStore) -> None:
        raise Unreachable("no backup of the zone is known here")
