"""The contract ABI, as much of it as names need: arguments written, results read (Solidity ABI specification, v2).

A type is text (``address``, ``bool``, ``uint256``, ``bytes4``, ``bytes32``, ``bytes``, ``string``), ``Array(type)`` or
``Fields(types)``.  Values are ``str`` of 0x and 40 hex digits for addresses, ``int``, ``bool``, ``bytes``, ``str``,
and tuples.

Results are strangers' bytes.  Offsets in them may point anywhere, also many at one place, so what is read is bounded as
a whole and not only piece by piece.  The one error is ``BadWire``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from cyfs_ns.errors import BadWire, Misuse

_WORD = 32
_MOST_ITEMS = 4096
"""Values in one result, all arrays together."""
_MOST_BYTES = 4 << 20
"""Octets in the byte strings of one result, together."""


@dataclass(frozen=True, slots=True)
class Array:
    """``T[]``."""

    of: Type


@dataclass(frozen=True, slots=True)
class Fields:
    """A tuple, as a struct is written."""

    types: tuple[Type, ...]


Type: TypeAlias = str | Array | Fields

_FIXED = {"address": 20, "bytes4": 4, "bytes32": 32}


def encode(types: Sequence[Type], values: Sequence[Any]) -> bytes:
    """The arguments of a call, without its selector."""
    heads: list[bytes | None] = []
    tails: list[bytes] = []
    for of, value in zip(types, values, strict=True):
        written = _write(of, value)
        heads.append(None if _dynamic(of) else written)
        tails.append(written if _dynamic(of) else b"")
    at = sum(_WORD if head is None else len(head) for head in heads)
    out = []
    for head, tail in zip(heads, tails, strict=True):
        out.append(at.to_bytes(_WORD, "big") if head is None else head)
        at += len(tail)
    return b"".join(out + tails)


def decode(types: Sequence[Type], untrusted: bytes) -> tuple[Any, ...]:
    """The values of a result, or of what follows an error's selector.  Extra octets at the end are let be."""
    return _Reader(untrusted).fields(tuple(types), 0)


def _dynamic(of: Type) -> bool:
    if isinstance(of, Fields):
        return any(map(_dynamic, of.types))
    return isinstance(of, Array) or of in ("bytes", "string")


def _write(of: Type, value: Any) -> bytes:
    if isinstance(of, Array):
        return len(value).to_bytes(_WORD, "big") + encode([of.of] * len(value), value)
    if isinstance(of, Fields):
        return encode(of.types, value)
    if of == "uint256" or of == "bool":
        return int(value).to_bytes(_WORD, "big")
    if of == "address":
        return bytes.fromhex(value[2:]).rjust(_WORD, b"\0")
    if of in _FIXED:
        return bytes(value).ljust(_WORD, b"\0")
    if of in ("bytes", "string"):
        raw: bytes = value.encode() if of == "string" else value
        return len(raw).to_bytes(_WORD, "big") + raw + bytes(-len(raw) % _WORD)
    raise Misuse(f"no such ABI type here: {of}")


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._items = _MOST_ITEMS
        self._bytes = _MOST_BYTES

    def fields(self, types: tuple[Type, ...], base: int) -> tuple[Any, ...]:
        found, at = [], base
        for of in types:
            found.append(self._value(of, base, at))
            at += self._width(of)
        return tuple(found)

    def _width(self, of: Type) -> int:
        if isinstance(of, Fields) and not _dynamic(of):
            return sum(map(self._width, of.types))
        return _WORD

    def _value(self, of: Type, base: int, at: int) -> Any:
        self._items -= 1
        self._spare(0)
        if _dynamic(of):
            at = base + self._number(at)
        if isinstance(of, Fields):
            return self.fields(of.types, at)
        if isinstance(of, Array):
            return self._array(of.of, at)
        if of in ("bytes", "string"):
            return self._string(of, at)
        word = self._word(at)
        if of in _FIXED:
            width = _FIXED[of]
            value, rest = (word[12:], word[:12]) if of == "address" else (word[:width], word[width:])
            if any(rest):
                raise BadWire(f"a contract's result where {of} should stand has more than {width} octets")
            return "0x" + value.hex() if of == "address" else value
        number = int.from_bytes(word, "big")
        if of == "bool":
            if number > 1:
                raise BadWire("a contract's result where a bool should stand is neither 0 nor 1")
            return bool(number)
        return number

    def _array(self, of: Type, at: int) -> tuple[Any, ...]:
        count = self._number(at)
        self._spare(count)
        return self.fields((of,) * count, at + _WORD)

    def _string(self, of: Type, at: int) -> bytes | str:
        size = self._number(at)
        self._bytes -= size
        value = self._data[at + _WORD : at + _WORD + size]
        if len(value) < size or self._bytes < 0:
            raise BadWire("a contract's result ends before what it announces")
        if of == "bytes":
            return value
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise BadWire("a contract's result where text should stand is no UTF-8") from None

    def _spare(self, count: int) -> None:
        if count > self._items:
            raise BadWire(f"a contract's result of more than {_MOST_ITEMS} values")

    def _word(self, at: int) -> bytes:
        word = self._data[at : at + _WORD]
        if len(word) < _WORD:
            raise BadWire(f"a contract's result of {len(self._data)} octets ends within a value")
        return word

    def _number(self, at: int) -> int:
        number = int.from_bytes(self._word(at), "big")
        if number > len(self._data):  # an offset or a count of at least one octet each
            raise BadWire("a contract's result points beyond its end")
        return number
