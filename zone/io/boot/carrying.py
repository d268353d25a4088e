"""What the only OOD had in a file becomes the first contents of the zone's etcd.

``boot/config`` says that a zone's state is there, so it is written last, where none is yet; until then every other
machine waits.  Whoever is killed before begins again, with the same.  Then the file gets another name, which nobody
opens.  While all this is done nobody has the file open, and before it is done nobody the store.

Values go as they lie there: what was sealed stays so, and is sealed anew for the present OODs by who opens the store.
Keys of leases are left out; those to whom they belong make them again.  Revisions go on after those of the file: who
has one of these begins anew from a reading, and no guard by one of them holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, Protocol

import trio

from zone.boot.settle import BOOT
from zone.config.faults import Code, ConfigError
from zone.config.keys import At, Below
from zone.config.model import Commit, Entry
from zone.io.config.backend import Backend
from zone.io.config.sqlite import Database

_MOST_FILE: Final = 1 << 30
"""Characters of all that is in it: it has no more pages."""
_MOST_KEYS: Final = 512
_MOST_BYTES: Final = 512 * 1024
"""Of one commit, unless a single value is larger."""


class Successor(Backend, Protocol):
    """A store that comes after another."""

    async def begin_after(self, revision: int) -> None:
        """Have all revisions here be later."""


async def carry_over(file: Path, into: Successor) -> None:
    """Have all of ``file`` in ``into``, and ``file`` put away.

    Raises ``ConfigError``, ``ConfigFault``, ``OSError``.
    """
    if not (await into.read([At(BOOT)])).entries:
        head, entries = await trio.to_thread.run_sync(_entries, file)
        await into.begin_after(head)
        rest = [entry for entry in entries if entry.key != BOOT]
        for part in _parts(rest):
            await into.commit(Commit({}, {entry.key: entry.value for entry in part}))
        if boot := [entry for entry in entries if entry.key == BOOT]:
            made = await into.commit(Commit({BOOT: 0}, {BOOT: boot[0].value}))
            if made is None:
                raise ConfigError(Code.CONFLICT, "the zone's etcd was initialised by another machine meanwhile")
    await trio.to_thread.run_sync(_put_away, file)


def _entries(file: Path) -> tuple[int, list[Entry]]:
    """Its last revision, and what it has."""
    database = Database(file, most_read=_MOST_FILE)
    try:
        reading = database.read([Below()], None)
        return reading.revision, [entry for entry in reading.entries if not entry.lease]
    finally:
        database.close()


def _parts(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    part: list[Entry] = []
    size = 0
    for entry in entries:
        more = len(entry.key) + len((entry.value or "").encode())
        if part and (len(part) == _MOST_KEYS or size + more > _MOST_BYTES):
            yield part
            part, size = [], 0
        part.append(entry)
        size += more
    if part:
        yield part


def _put_away(file: Path) -> None:
    # The last who closed it has left no log beside it.
    file.replace(file.with_name(f"{file.name}.carried"))
