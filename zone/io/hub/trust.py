"""What a service goes by: the zone's keys, the sessions that were ended, and the rules; kept as the store has them.

Nobody is asked while a token is verified.  Whatever changes in the store counts here as soon as the store tells it.
While that is away, what is known goes on to count; sessions live for a quarter of an hour.  Before anything is known,
nobody is believed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import trio

from cyfs_ns.errors import BadWire
from zone.config.access import Rule
from zone.config.baserules import BASE, LOCKED, POLICY, read_policy
from zone.config.faults import ConfigError
from zone.config.keys import At, Below
from zone.config.model import Entry, Reading
from zone.hub.keyset import Published, read_published
from zone.hub.subjects import caller
from zone.hub.tokens import Trust, Use
from zone.io.config.store import ConfigStore
from zone.krpc.caller import Caller
from zone.krpc.faults import Code, KrpcFault

PUBLIC: Final = "boot/verify-hub"
KEYS: Final = f"{PUBLIC}/keys"
REVOKED: Final = f"{PUBLIC}/revoked"
MOST_REVOKED: Final = 1 << 17
"""Sessions that ended early within the last quarter of an hour; with more, nobody is believed."""
_PAUSE: Final = 1.0
"""Seconds until the store is read again, after a fault."""

_log = logging.getLogger(__name__)


class TrustWatch:
    """``zone`` as ``store`` tells it.  Run :meth:`run`; all the rest answers at once."""

    def __init__(self, store: ConfigStore, zone: str, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._zone = zone
        self._clock = clock
        self._published: Published | None = None
        self._revoked: set[str] = set()
        self.rules: Sequence[Rule] = LOCKED
        """Of access, those of the zone among them."""

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
        is_started = False
        while True:
            try:
                reading = await self._store.read([Below(PUBLIC), At(POLICY)])
                self._begin(reading)
                if not is_started:
                    is_started = True
                    task_status.started()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._follow, Below(PUBLIC), reading.revision, self._public)
                    nursery.start_soon(self._follow, At(POLICY), reading.revision, self._policy)
            except* ConfigError as faults:
                _log.warning("what the zone trusts is read again: %s", faults.exceptions[0])
            await trio.sleep(_PAUSE)

    async def _follow(self, scope: At | Below, after: int, put: Callable[[Entry], None]) -> None:
        async with self._store.watch(scope, after) as changes:
            async for change in changes:
                for entry in change.entries:
                    put(entry)

    def _begin(self, reading: Reading) -> None:
        self._revoked = set()
        entries: Mapping[str, Entry] = {entry.key: entry for entry in reading.entries}
        if KEYS not in entries:
            self._published = None
        for entry in reading.entries:
            if entry.key != POLICY:
                self._public(entry)
        if POLICY in entries:
            self._policy(entries[POLICY])
        else:
            self.rules = BASE

    def _public(self, entry: Entry) -> None:
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

    def _policy(self, entry: Entry) -> None:
        try:
            text = entry.text()
            self.rules = BASE if text is None else read_policy(text)
        except ConfigError as bad:
            # What was known last goes on: without their reports, all machines would be taken for lost.
            _log.error("the zone's rules are as they were: %s", bad)
