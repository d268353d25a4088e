"""Compiled lists as bytes: a head, a trie of names, a number for each name, and a table in JSON.

The head tells the width of a number, the lengths of the three parts and their checksum.  Numbers are in this machine's
byte order: the piece is a cache, made and read on one machine, not a file to give away.
"""

from __future__ import annotations

import json
import zlib
from array import array
from collections.abc import Iterable
from struct import Struct
from typing import Any, NamedTuple

from cyfs_ns.errors import BadWire
from cyfs_ns.listrule import Effect, Rewrite, Rule, Who

VERSION = 1
"""To be raised when lists come to mean something else, so that pieces of before are made anew."""
_MAGIC = b"CYFSLST%d" % VERSION
_HEAD = Struct("=8sIQQQI")


class Piece(NamedTuple):
    """The parts of compiled lists."""

    trie: memoryview
    numbers: memoryview[int]
    """For each name of the trie, by its number there."""
    table: dict[str, Any]


def pack(trie: bytes, numbers: Iterable[int], most: int, table: dict[str, Any]) -> bytes:
    """``most`` is the largest of the numbers."""
    packed = array("B" if most <= 0xFF else "H" if most <= 0xFFFF else "I", numbers)
    parts = (trie, packed.tobytes(), json.dumps(table, separators=(",", ":")).encode())
    return _HEAD.pack(_MAGIC, packed.itemsize, *map(len, parts), _checksum(parts)) + b"".join(parts)


def unpack(piece: bytes | memoryview) -> Piece:
    """The parts, nothing copied but the table.  Raises BadWire when the piece is not whole."""
    view = memoryview(piece)
    if len(view) < _HEAD.size:
        raise BadWire("compiled lists that end within their head")
    magic, width, *lengths, checksum = _HEAD.unpack_from(view)
    if magic != _MAGIC or width not in (1, 2, 4) or sum(lengths) != len(view) - _HEAD.size or lengths[1] % width:
        raise BadWire("not compiled lists, or cut short, or of another version")
    middle, last = _HEAD.size + lengths[0], _HEAD.size + lengths[0] + lengths[1]
    parts = (view[_HEAD.size : middle], view[middle:last], view[last:])
    if _checksum(parts) != checksum:
        raise BadWire("compiled lists whose checksum is wrong")
    numbers = parts[1]
    cast = numbers.cast("B") if width == 1 else numbers.cast("H") if width == 2 else numbers.cast("I")
    return Piece(parts[0], cast, json.loads(bytes(parts[2])))


def _checksum(parts: Iterable[bytes | memoryview]) -> int:
    found = 0
    for part in parts:
        found = zlib.crc32(part, found)
    return found


def rule_fields(rule: Rule) -> list[Any]:
    """A rule as JSON can hold it."""
    who = None if rule.who is None else [rule.who.clients, rule.who.tags]
    where = [rule.here, rule.below, rule.important, rule.other_types, rule.nearest]
    return [rule.effect.value, *where, sorted(rule.types), who, rule.spared, rule.pattern, rule.rewrite, rule.text]


def read_rule(fields: list[Any]) -> Rule:
    """The rule of ``rule_fields``."""
    effect, here, below, important, other_types, nearest, types, who, spared, pattern, rewrite, text = fields
    return Rule(
        effect=Effect(effect),
        here=here,
        below=below,
        important=important,
        types=frozenset(types),
        other_types=other_types,
        nearest=nearest,
        who=None if who is None else Who(tuple(who[0]), tuple(who[1])),
        spared=tuple(spared),
        pattern=pattern,
        rewrite=None if rewrite is None else Rewrite(*rewrite),
        text=text,
    )
