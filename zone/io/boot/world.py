"""What a boot needs of the world, and the store of a zone of one OOD: a file.

Beside what its steps ask for, the world hears what other machines know of the zone, and brings about what a document
that is ahead needs before it may be in force.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol

import trio

from cyfs_ns.identity.oods import Ood
from cyfs_ns.io.trusted.keystore import KeyStore
from rtcp.v5.keys import device_key
from zone.boot.known import Known
from zone.boot.machine import StoreKind
from zone.io.boot.memory import Memory
from zone.io.config.sealing import SealedBackend
from zone.io.config.sqlite import Database, SqliteBackend
from zone.io.config.store import ConfigStore
from zone.membership import Membership

Hear = Callable[[str, str], Awaitable[None]]
"""As ``Booting.hear``."""


class World(Protocol):
    """Every step raises ``CyfsError`` or ``OSError`` where it fails, and is called again."""

    @property
    def why(self) -> str:
        """What a step is busy with, or keeps the zone's state from being used, for people; empty: nothing."""

    async def attend(self, hear: Hear, moved: Callable[[], Awaitable[None]]) -> None:
        """What goes on beside the steps, until cancelled.  ``moved`` is told that what was ahead may be in force."""

    def believe(self, membership: Membership, known: Known) -> None:
        """This is known of the zone from now on, and on the disk."""

    async def gateway(self, peers: tuple[Ood, ...], sn: str | None) -> None:
        """Have these machines in reach of the gateway, in the place of those that were said before."""

    async def reach(self, names: tuple[str, ...], tell: Callable[[frozenset[str]], None]) -> None:
        """Keep tunnels to these machines until cancelled, and tell which stand whenever that changes."""

    def store(self, kind: StoreKind, membership: Membership, known: Known) -> AbstractAsyncContextManager[ConfigStore]:
        """The zone's state, for as long as the block lasts."""

    async def restore(self, membership: Membership, store: ConfigStore) -> None:
        """Put a backup of the zone into its store, which is empty."""


@asynccontextmanager
async def embedded(home: Path, membership: Membership) -> AsyncGenerator[ConfigStore]:
    """The zone's state in a file.  Raises ``ConfigFault``, ``OSError``."""

    def open_file() -> SealedBackend:
        memory = Memory(home, membership)
        memory.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        own = device_key(KeyStore(home).device())
        return SealedBackend(SqliteBackend(Database(memory.store)), own, [own.public])

    backend = await trio.to_thread.run_sync(open_file)
    try:
        yield ConfigStore(backend)
    finally:
        with trio.CancelScope(shield=True):
            await backend.aclose()
