"""The zone's configuration as a part of a backup: a line of JSON for each key, ``[key, value]``, in the order of keys.

It is what a store says at one revision, whichever store that is, so a backup of a file is restored into etcd and the
other way round.  Secrets stand there as they were read, since all of it is sealed to the owner; the OODs of the zone
that it is restored into seal them for themselves.

Left out is what is of its moment: keys of leases, and what verify-hub signs and whom it has let in.  A zone that comes
back makes new keys, so no token and no session from before it is good any more, stolen ones as little as others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Final

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.strictjson import read_json, write_json
from zone.backup.chunks import PIECE
from zone.config.access import covers, read_pattern
from zone.config.faults import ConfigError
from zone.config.keys import At
from zone.config.model import Entry, Set

PART: Final = "system_config"
"""What the part is called."""
STATE: Final = "system/backup/state"
"""Below it: what became of the last backup on each target."""
MOST_STATE: Final = 256 << 20
"""Bytes of the part that are read."""

_CUT: Final = 64
"""One key in so many begins a piece, so that a value that changes changes the piece it is in and few others."""
_MOMENTARY: Final = tuple(
    map(
        read_pattern,
        (
            "boot/verify-hub/**",
            "security/verify-hub/keys",
            "security/verify-hub/sessions/**",
            "security/verify-hub/used/**",
            f"{STATE}/**",
        ),
    )
)


def is_saved(entry: Entry) -> bool:
    """Whether it outlives the zone's store."""
    return not entry.lease and not any(covers(pattern, At(entry.key)) for pattern in _MOMENTARY)


def write_state(entries: Iterable[Entry]) -> Iterator[bytes]:
    """The part, in pieces of 1 to ``PIECE`` bytes.  ``entries``: those that are saved and can be read, by key."""
    held = bytearray()
    for entry in entries:
        if held and _begins(entry.key):
            yield bytes(held)
            held.clear()
        held += write_json([entry.key, entry.text()]) + b"\n"
        while len(held) >= PIECE:
            yield bytes(held[:PIECE])
            del held[:PIECE]
    if held:
        yield bytes(held)


def read_state(untrusted: bytes) -> tuple[Set, ...]:
    """What is to be written to have it again.  Raises ``BadWire``."""
    found: dict[str, Set] = {}
    for line in untrusted.splitlines():
        match read_json(line, PART):
            case [str(key), str(value)] if key not in found:
                try:
                    found[key] = Set(key, value)
                except ConfigError as fault:
                    raise BadWire(f"{PART}: {fault}") from None
            case _:
                raise BadWire(f"{PART}: a line is not a key with its value, or one that was there already")
    return tuple(found.values())


def _begins(key: str) -> bool:
    return hashlib.sha256(key.encode()).digest()[0] % _CUT == 0
