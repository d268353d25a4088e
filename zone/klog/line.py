"""A line of a log, and how lines travel: in batches, numbered, so that each is kept once.

A machine numbers its lines without a gap, within one *life*: as long as its spool is the same.  Whoever keeps them
remembers the last number of each life.  What comes again is known by its number, and what never came leaves a gap.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from cyfs_ns.errors import BadWire, Misuse
from cyfs_ns.identity.strictjson import Json, read_object, write_json

LEVELS: Final = ("debug", "info", "warning", "error")
"""From the least to the most."""
MOST_MESSAGE: Final = 8192
"""Characters."""
MOST_ATTRS: Final = 32
MOST_VALUE: Final = 512
"""Characters of the value of an attribute; its name has 64 at most."""
MOST_TEXT: Final = 6 * (MOST_MESSAGE + MOST_ATTRS * (MOST_VALUE + 64)) + 4096
"""Bytes of a line as it travels, where each character may be six."""
MOST_LINES: Final = 1000
"""Lines of a batch."""
MOST_BATCH: Final = 1 << 18
"""Bytes of the lines of a batch."""
LATEST: Final = 253_402_300_799.0
"""The last second of the year 9999."""
OWN: Final = "cyfs.klog"
"""What says that lines were lost.  Parts of this program have names with a dot, which no service in a zone can have."""

_SERVICE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,126}")
_LIFE: Final = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class Line:
    """What a program said.  Raises ``Misuse`` for what no line has; :func:`made` cuts it to size instead."""

    time: float
    """Seconds since 1970, by the clock of its machine."""
    service: str
    level: str
    message: str
    attrs: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if fault := _fault(self):
            raise Misuse(fault)

    def text(self) -> bytes:
        """As it travels."""
        return write_json(
            {"t": self.time, "s": self.service, "l": self.level, "m": self.message, "a": dict(self.attrs)}
        )


def _fault(line: Line) -> str:
    if not math.isfinite(line.time) or not 0 <= line.time <= LATEST:
        return "the time of a line is from 1970 to 9999"
    if _SERVICE.fullmatch(line.service) is None:
        return f"a line of {line.service[:40]!r}, which is no service"
    if line.level not in LEVELS:
        return f"a line has one of the levels {', '.join(LEVELS)}"
    if len(line.message) > MOST_MESSAGE or len(line.attrs) > MOST_ATTRS:
        return "a line that is too long"
    if any(len(name) > 64 or len(value) > MOST_VALUE for name, value in line.attrs.items()):
        return "a line with an attribute that is too long"
    return ""


def made(time: float, service: str, level: str, message: str, attrs: Mapping[str, object]) -> Line:
    """A line of what somebody said at any length: cut where it is too long, and such that it can be written."""
    cut = {_plain(str(name), 64): _plain(str(value), MOST_VALUE) for name, value in list(attrs.items())[:MOST_ATTRS]}
    return Line(
        min(max(time, 0.0), LATEST) if math.isfinite(time) else 0.0,
        service,
        level if level in LEVELS else "info",
        _plain(message, MOST_MESSAGE),
        cut,
    )


def _plain(text: str, most: int) -> str:
    return text[:most].encode("utf-8", "replace").decode()


def read_line(untrusted: bytes) -> Line:
    """The line that travelled so.  Raises ``BadWire``."""
    if len(untrusted) > MOST_TEXT:
        raise BadWire(f"line: {len(untrusted)} bytes, at most {MOST_TEXT} are read")
    said = read_object(untrusted, "line")
    time, attrs = said.get("t"), said.get("a")
    texts = [said.get(name) for name in ("s", "l", "m")]
    if said.keys() != {"t", "s", "l", "m", "a"} or isinstance(time, bool) or not isinstance(time, int | float):
        raise BadWire("line: not as lines are written")
    if not isinstance(attrs, Mapping) or not all(isinstance(text, str) for text in (*texts, *attrs.values())):
        raise BadWire("line: a text is missing")
    try:
        service, level, message = map(str, texts)
        return Line(float(time), service, level, message, {name: str(value) for name, value in attrs.items()})
    except Misuse as fault:
        raise BadWire(f"line: {fault}") from None


@dataclass(frozen=True, slots=True)
class Batch:
    """Lines of one life, in the order of their numbers, which may have gaps."""

    life: str
    lines: tuple[tuple[int, Line], ...]


def write_batch(batch: Batch) -> dict[str, Json]:
    """As it travels."""
    return {"life": batch.life, "lines": [[number, line.text().decode()] for number, line in batch.lines]}


def read_batch(untrusted: Mapping[str, Json]) -> Batch:
    """The batch that travelled so.  Raises ``BadWire``."""
    life, said = untrusted.get("life"), untrusted.get("lines")
    if untrusted.keys() != {"life", "lines"} or not isinstance(life, str) or _LIFE.fullmatch(life) is None:
        raise BadWire("batch: it does not say of which life it is")
    if not isinstance(said, Sequence) or isinstance(said, str) or not 0 < len(said) <= MOST_LINES:
        raise BadWire(f"batch: it has 1 to {MOST_LINES} lines")
    lines: list[tuple[int, Line]] = []
    for one in said:
        if not isinstance(one, Sequence) or isinstance(one, str) or len(one) != 2:
            raise BadWire("batch: a line without its number")
        number, text = one
        if isinstance(number, bool) or not isinstance(number, int) or not isinstance(text, str):
            raise BadWire("batch: a line without its number")
        if number <= (lines[-1][0] if lines else 0):
            raise BadWire("batch: its numbers do not grow")
        lines.append((number, read_line(text.encode())))
    return Batch(life, tuple(lines))
