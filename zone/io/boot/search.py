"""Where documents of a zone may be found.  Whoever asks verifies what comes back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import trio

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.did import Did, host_of_did
from cyfs_ns.identity.token import Token
from cyfs_ns.identity.txt import read_published
from cyfs_ns.io.trusted.store import TrustStore

Search: TypeAlias = Callable[[Did], Awaitable[Sequence[tuple[str, Token]]]]
"""Tokens of a zone, each with where it was found.  Raises ``BadWire`` and ``OSError``."""
TxtRecords: TypeAlias = Callable[[str], Awaitable[Sequence[bytes]]]
"""As ``Host.txt_records``."""


def by_hand(home: Path) -> Search:
    """The files that an administrator put into ``names/local`` below ``home``."""
    store = TrustStore(home)

    async def search(zone: Did) -> list[tuple[str, Token]]:
        found = await trio.to_thread.run_sync(store.local)
        return [(one.source, one.token) for one in found if one.token is not None and one.about == zone.canonical]

    return search


def by_dns(txt_records: TxtRecords) -> Search:
    """The TXT records at the name of the zone."""

    async def search(zone: Did) -> list[tuple[str, Token]]:
        try:
            host = host_of_did(zone)
        except BadWire:
            return []
        published = read_published(await txt_records(host))
        return [("the DNS", token) for token in (published.zone, published.boot) if token is not None]

    return search
