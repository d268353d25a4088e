"""What a speed test says: one line that asks, then bytes, then perhaps one line that tells.

The asker's first line is JSON, ``MOST_LINE`` bytes at most with its end: ``{"v":1,"do":"down","seconds":5}``.

* ``down``: the far side sends whatever, as fast as it goes, for that time, and ends;
* ``up``: the asker does, and ends; the far side tells ``{"bytes":N,"seconds":S}`` of what arrived;
* ``echo``: what the asker sends comes back, until it ends.

The far side holds every test to ``MOST_SECONDS`` and ``MOST_BYTES``, whatever it was asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.strictjson import read_object, write_json

MOST_LINE: Final = 256
MOST_SECONDS: Final = 30.0
MOST_BYTES: Final = 64 << 30
PING: Final = 16
"""Bytes of one question to an echo."""

What = Literal["down", "up", "echo"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be measured, for how long."""

    what: What
    seconds: float


@dataclass(frozen=True, slots=True)
class Arrived:
    """What the far side got, in which time."""

    count: int
    seconds: float


def write_wanted(wanted: Wanted) -> bytes:
    """The asker's line."""
    return write_json({"v": 1, "do": wanted.what, "seconds": wanted.seconds}) + b"\n"


def write_arrived(arrived: Arrived) -> bytes:
    """The far side's line."""
    return write_json({"bytes": arrived.count, "seconds": round(arrived.seconds, 6)}) + b"\n"


def read_wanted(untrusted: bytes) -> tuple[Wanted, bytes] | None:
    """The asker's line and what came behind it; None: not whole yet.  Raises ``BadWire``."""
    split = _line(untrusted)
    if split is None:
        return None
    said = read_object(split[0], "speed test")
    what, seconds = said.get("do"), said.get("seconds")
    if said.get("v") != 1 or what not in get_args(What):
        raise BadWire("a speed test of a kind that is unknown here")
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not seconds > 0:
        raise BadWire("a speed test that takes no time")
    return Wanted(what, min(float(seconds), MOST_SECONDS)), split[1]  # type: ignore[arg-type] # narrowed by get_args


def read_arrived(untrusted: bytes) -> Arrived | None:
    """The far side's line; None: not whole yet.  Raises ``BadWire``."""
    split = _line(untrusted)
    if split is None:
        return None
    said = read_object(split[0], "speed test")
    count, seconds = said.get("bytes"), said.get("seconds")
    if type(count) is not int or count < 0 or not isinstance(seconds, int | float) or not seconds >= 0:
        raise BadWire("the far side tells nothing of what arrived")
    return Arrived(count, float(seconds))


def _line(untrusted: bytes) -> tuple[bytes, bytes] | None:
    line, end, rest = untrusted[:MOST_LINE].partition(b"\n")
    if end:
        return line, rest + untrusted[MOST_LINE:]
    if len(untrusted) >= MOST_LINE:
        raise BadWire("a line that is too long")
    return None


def megabits(count: int, seconds: float) -> float:
    """Millions of bits a second; 0 when nothing can be said."""
    return count * 8 / seconds / 1e6 if seconds > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Times:
    """Round-trip times in milliseconds."""

    count: int
    least: float
    median: float
    most: float


def summary(seconds: Sequence[float]) -> Times | None:
    """What several round-trip times come to; None for none."""
    if not seconds:
        return None
    ordered = sorted(seconds)
    return Times(len(ordered), ordered[0] * 1000, ordered[len(ordered) // 2] * 1000, ordered[-1] * 1000)
