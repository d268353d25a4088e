"""Lines of a service's log, as its keeper wrote them (``node/io/run/keeper.py``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Stream = Literal["out", "err", "keeper"]
_STREAMS: dict[bytes, Stream] = {b"o": "out", b"e": "err", b"k": "keeper"}


@dataclass(frozen=True, slots=True)
class Line:
    """One line; the service may have written anything into it."""

    at: float
    """Unix seconds, when the keeper read it."""
    stream: Stream
    text: str
    goes_on: bool = False
    """It was too long, and goes on in the next line of the same stream."""


def read_line(untrusted: bytes) -> Line | None:
    """A line without its end; None: a power cut or a full disk left no whole one."""
    at, _, rest = untrusted.partition(b" ")
    kind, space, text = rest[:1], rest[1:2], rest[2:]
    stream = _STREAMS.get(kind.lower())
    seconds, dot, parts = at.partition(b".")
    if stream is None or space != b" " or dot != b"." or not (seconds + parts).isdigit() or len(at) > 32:
        return None
    return Line(float(at), stream, text.decode("utf-8", "replace"), kind.isupper())
