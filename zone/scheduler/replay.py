"""A reading on file: with it any decision is made again, byte for byte (``schedule(snapshot_of(reading)).as_bytes()``).

The file is one object of JSON.  Values stand in it as the text they were, so that a value nobody could read is kept
as faithfully as the others.
"""

from __future__ import annotations

import math
from typing import Any

from cyfs_ns.errors import BadWire
from zone.scheduler.plan import as_json
from zone.scheduler.snapshot import Reading, plain_json

MAX_REPLAY = 64 << 20
"""Bytes of a file."""


def replay_bytes(reading: Reading) -> bytes:
    """The file of a reading."""
    plain = {
        "now": reading.now,
        "revision": reading.revision,
        "lease": reading.lease,
        "seen": dict(reading.seen),
        "entries": dict(reading.entries),
    }
    return as_json(plain).encode()


def read_replay(untrusted: bytes) -> Reading:
    """What ``replay_bytes`` wrote.  Raises ``BadWire``, and nothing else, on any other bytes."""
    if len(untrusted) > MAX_REPLAY:
        raise BadWire(f"{len(untrusted)} bytes; a replay has at most {MAX_REPLAY}")
    try:
        plain = plain_json(untrusted.decode())
    except UnicodeDecodeError:
        raise BadWire("this is not UTF-8 text") from None
    if not isinstance(plain, dict) or plain.keys() != {"now", "revision", "lease", "seen", "entries"}:
        raise BadWire("a replay has now, revision, lease, seen and entries, and nothing else")
    return Reading(
        now=_time(plain["now"]),
        revision=_revision(plain["revision"]),
        lease=(_text(_pair(plain["lease"])[0]), _revision(_pair(plain["lease"])[1])),
        seen={node: _time(when) for node, when in _table(plain["seen"]).items()},
        entries={
            key: (_revision(_pair(entry)[0]), _text(_pair(entry)[1])) for key, entry in _table(plain["entries"]).items()
        },
    )


def _table(plain: Any) -> dict[str, Any]:
    if not isinstance(plain, dict):
        raise BadWire("expected an object")
    return plain


def _pair(plain: Any) -> list[Any]:
    if not isinstance(plain, list) or len(plain) != 2:
        raise BadWire("expected a list of two")
    return plain


def _text(plain: Any) -> str:
    if not isinstance(plain, str):
        raise BadWire("expected text")
    return plain


def _revision(plain: Any) -> int:
    if type(plain) is not int or not 0 <= plain < 2**63:
        raise BadWire("expected a revision, from 0 to 2^63-1")
    return plain


def _time(plain: Any) -> float:
    if type(plain) not in (int, float) or not 0 <= plain < 1e12 or math.isnan(plain):
        raise BadWire("expected a time, in Unix seconds")
    return float(plain)
