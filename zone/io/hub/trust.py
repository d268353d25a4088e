"""What a service goes by: the zone's keys and the sessions that were ended, kept as the store has them.

Nobody is asked while a token is verified.  Whatever changes in the store counts here as soon as the store tells it.
While that is away, what is known goes on to count; sessions live for a quarter of an hour.  Before anything is known,
nobody is believed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import Final

import trio

from cyfs_ns.errors import BadWire
from zone.config.faults import ConfigError
from zone.config.keys import Below
from zone.config.model import Entry
from zone.hub.keyset import Published, read_published
from zone.hub.subjects import caller
from zone.hub.tokens import Trust, Use
from zone.io.config.following import follow
from zone.io.config.store import ConfigStore
from zone.krpc.caller import Caller
from zone.krpc.faults import Code, KrpcFault

PUBLIC: Final = "boot/verify-hub"
KEYS: Final = f"{PUBLIC}/keys"
REVOKED: Final = f"{PUBLIC}/revoked"
MOST_REVOKED: Final = 1 << 17
"""Sessions that ended early within the last quarter of an hour; with more, nobody is believed."""

_log = logging.getLogger("cyfs.zone")


class TrustWatch:
    """``zone`` as ``store`` tells it.  Run :meth:`run`; all the rest answers at once."""

    def __init__(self, store: ConfigStore, zone: str, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._zone = zone
        self._clock = clock
        self._published: Published | None = None
        self._revoked: set[str] = set()

    def believe(self, untrusted: str) -> Caller:
        """Who shows this session or sudo token.  Raises ``KrpcFault``."""
        if self._published is None or len(self._revoked) > MOST_REVOKED:
            raise KrpcFault(Code.UNAVAILABLE, "the keys of the zone are not known here yet; try again")
        trust = Trust(self._published, self._revoked)
        return caller(trust.believe(untrusted, self._clock(), Use.SESSION, Use.SUDO))

    def stands(self, who: Caller) -> bool:
        """Whether the proof that made ``who`` still counts."""
        return who.token_id.partition(".")[0] not in self._revoked and (
            who.expires is None or self._clock() < who.expires
        )

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Go on for ever; started when what the store has counts."""
        await follow(self._store, Below(PUBLIC), self._begin, self._put, task_status)

    def _begin(self, entries: Iterable[Entry]) -> None:
        self._published = None
        self._revoked = set()
        for entry in entries:
            self._put(entry)

    def _put(self, entry: Entry) -> None:
        if entry.key == KEYS:
            self._published = self._read_keys(entry)
        elif entry.key.startswith(f"{REVOKED}/"):
            session = entry.key.removeprefix(f"{REVOKED}/")
            if entry.value is None and entry.fault is None:
                self._revoked.discard(session)
            else:
                self._revoked.add(session)

    def _read_keys(self, entry: Entry) -> Published | None:
        """None: nobody is believed."""
        try:
            text = entry.text()
            if text is None:
                return None
            published = read_published(text)
        except (ConfigError, BadWire) as bad:
            _log.error("nobody is believed any more: %s", bad)
            return None
        if published.zone != self._zone:
            _log.error("nobody is believed any more: the keys here are of %r, this is %r", published.zone, self._zone)
            return None
        return published
