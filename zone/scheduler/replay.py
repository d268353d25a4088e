"""An observation on file: any decision is made again, byte for byte (``schedule(snapshot_of(observed)).as_bytes()``).

The file is one object of JSON.  Values stand in it as the text they were, so that a value nobody could read is kept
as faithfully as the others, and so do the environments of services: the file is as secret as the store.
"""

from __future__ import annotations

from typing import Any

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.strictjson import Json, read_object, write_json
from zone.scheduler.snapshot import Observation

MAX_REPLAY = 64 << 20
"""Bytes of a file."""


def replay_bytes(observed: Observation) -> bytes:
    """The file of an observation."""
    plain: dict[str, Json] = {
        "now": observed.now,
        "revision": observed.revision,
        "lease": observed.lease,
        "seen": dict(observed.seen),
        "heard": dict(observed.heard),
        "entries": dict(observed.entries),
    }
    return write_json(plain)


def read_replay(untrusted: bytes) -> Observation:
    """What ``replay_bytes`` wrote.  Raises ``BadWire``, and nothing else, on any other bytes."""
    if len(untrusted) > MAX_REPLAY:
        raise BadWire(f"{len(untrusted)} bytes; a replay has at most {MAX_REPLAY}")
    plain = read_object(untrusted, "replay")
    if plain.keys() != {"now", "revision", "lease", "seen", "heard", "entries"}:
        raise BadWire("a replay has now, revision, lease, seen, heard and entries, and nothing else")
    return Observation(
        now=_time(plain["now"]),
        revision=_revision(plain["revision"]),
        lease=(_text(_pair(plain["lease"])[0]), _revision(_pair(plain["lease"])[1])),
        seen={node: _time(when) for node, when in _table(plain["seen"]).items()},
        heard={key: _time(when) for key, when in _table(plain["heard"]).items()},
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
    if type(plain) is not int or plain < 0:
        raise BadWire("expected a revision, from 0 up")
    return plain


def _time(plain: Any) -> float:
    if type(plain) not in (int, float) or not 0 <= plain < 1e12:
        raise BadWire("expected a time, in Unix seconds")
    return float(plain)
