"""Zone files and single records as their lines write them (RFC 1035 section 5.1).

``name [ttl] [class] type data``, in that order or with the class first; comments, parentheses over several lines, a
blank owner that repeats the last one, ``$ORIGIN`` and ``$TTL`` (RFC 2308 section 4).  ``$INCLUDE`` and ``$GENERATE``
are refused: a zone is one text.  A file is its owner's, so faults are ``ConfigFault`` and all come out at once, each
with its line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from cyfs_ns.errors import BadWire, ConfigFault
from cyfs_ns.message import rtype_number
from cyfs_ns.records import absolute_name, data_wire, seconds
from cyfs_ns.wire import name_wire

_PIECE = re.compile(r'"(?:[^"\\\n]|\\.)*+"|\\.|;[^\n]*|[()\n]|[^"\\;()\n]++', re.DOTALL)
_FIRST = re.compile(r"(\S+)(?:\s+|\Z)")
_MAX_FAULTS = 20


class Written(NamedTuple):
    """One record as written, of class IN."""

    owner: bytes
    """Wire name, lower case."""
    rtype: int
    ttl: int | None
    """Seconds; ``None`` where neither the line nor the file says."""
    data: bytes
    line: int


def read_zone(text: str, origin: str) -> tuple[Written, ...]:
    """The records of a zone file whose names stand below ``origin`` until it says otherwise.

    Raises ``ConfigFault`` naming every line that makes no sense.
    """
    reader = _Reader(name_wire(origin))
    found, faults = [], []
    try:
        for line, blank, words in _lines(text):
            try:
                record = reader.read(words, blank, line)
            except BadWire as fault:
                faults.append(f"line {line}: {fault}")
                continue
            if record is not None:
                found.append(record)
    except BadWire as fault:
        faults.append(str(fault))
    if faults:
        more = f"\nand {len(faults) - _MAX_FAULTS} more" if len(faults) > _MAX_FAULTS else ""
        raise ConfigFault("\n".join(faults[:_MAX_FAULTS]) + more)
    return tuple(found)


def read_record(text: str) -> Written:
    """One line, its names whole with or without a dot at their end.  Raises ``ConfigFault``."""
    found = read_zone(text, "")
    if len(found) != 1:
        raise ConfigFault(f"expected one record such as 'nas.lan A 192.168.1.5', found {text[:80]!r}")
    return found[0]


class _Reader:
    """What lines say about the lines after them."""

    def __init__(self, origin: bytes) -> None:
        self._origin = origin
        self._owner: bytes | None = None
        self._ttl: int | None = None

    def read(self, words: str, blank: bool, line: int) -> Written | None:
        if words.startswith("$"):
            self._directive(words)
            return None
        if not blank:
            text, words = _first(words)
            self._owner = absolute_name(text, self._origin)
        if self._owner is None:
            raise BadWire("there is no name above that this line could repeat")
        ttl = self._ttl
        text, words = _first(words)
        for _ in range(2):
            if text.upper() == "IN":
                text, words = _first(words)
            elif text[:1].isdigit():
                ttl = seconds(text)
                text, words = _first(words)
        if text.upper() in ("CH", "HS"):
            raise BadWire(f"records of class {text[:2]} are not kept")
        rtype = rtype_number(text)
        return Written(self._owner, rtype, ttl, data_wire(rtype, words, self._origin), line)

    def _directive(self, words: str) -> None:
        directive, rest = _first(words)
        argument, rest = _first(rest)
        if directive.upper() == "$ORIGIN" and not rest:
            self._origin = absolute_name(argument, self._origin)
        elif directive.upper() == "$TTL" and not rest:
            self._ttl = seconds(argument)
        else:
            raise BadWire(f"{words[:80]!r} is not carried")


def _first(words: str) -> tuple[str, str]:
    match = _FIRST.match(words)
    if match is None:
        raise BadWire("the line ends where more should stand")
    return match[1], words[match.end() :]


def _lines(text: str) -> Iterator[tuple[int, bool, str]]:
    """Number, whether it begins with a blank, and text of each line, parentheses undone and comments taken away."""
    at, line, begun, depth = 0, 1, 1, 0
    pieces: list[str] = []
    while at <= len(text):
        match = _PIECE.match(text, at) if at < len(text) else None
        if match is None and at < len(text):
            raise BadWire(f"line {line}: a quote or a backslash without its second half")
        piece = match[0] if match is not None else "\n"
        at = match.end() if match is not None else at + 1
        if piece == "\n" and not depth:
            whole = "".join(pieces)
            if whole.strip():
                yield begun, whole[0].isspace(), whole.strip()
            pieces.clear()
            begun = line + 1
        elif piece in ("(", ")", "\n"):
            depth += {"(": 1, ")": -1}.get(piece, 0)
            if depth not in (0, 1):
                raise BadWire(f"line {line}: parentheses do not pair")
            pieces.append(" ")
        elif piece[0] != ";":
            pieces.append(piece)
        line += piece.count("\n")
    if depth:
        raise BadWire(f"line {begun}: a parenthesis is never closed")
