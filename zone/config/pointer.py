"""JSON pointers (RFC 6901): the way to a place in a value, and changing that place.

Values are changed in place, so that many changes of a large one cost no copy each.  What is put becomes a part of it.
"""

from __future__ import annotations

import re
from typing import Final, TypeAlias

from cyfs_ns.identity.strictjson import Json
from zone.config.faults import Code, ConfigError

Pointer: TypeAlias = tuple[str, ...]

MOST_PATH: Final = 1024
"""Characters of a pointer.  How deep it goes is bounded by how deep a value may be."""

_ESCAPED: Final = re.compile(r"~[01]")
_STRAY: Final = re.compile(r"~(?![01])")
_INDEX: Final = re.compile(r"(0|[1-9][0-9]{0,8})\Z")


def read_pointer(untrusted: str) -> Pointer:
    """The steps of ``untrusted``; none for the empty one, which is the whole value.  Raises ``ConfigError``."""
    if len(untrusted) > MOST_PATH or (untrusted and untrusted[0] != "/") or _STRAY.search(untrusted):
        raise ConfigError(Code.INVALID, f"{untrusted[:80]!r} is no JSON pointer")
    return tuple(_ESCAPED.sub(_unescaped, step) for step in untrusted.split("/")[1:])


def _unescaped(found: re.Match[str]) -> str:
    return "~" if found[0] == "~0" else "/"


def put(value: Json, pointer: Pointer, new: Json) -> Json:
    """``value`` with ``new`` at ``pointer``: itself, changed, or ``new`` if the pointer is empty.

    Objects that are missing on the way are made; ``-`` is the place after the last element of an array.  Raises
    ``ConfigError`` where the way leads through a number, a string, or past the end of an array.
    """
    if not pointer:
        return new
    step, rest = pointer[0], pointer[1:]
    if isinstance(value, dict):
        value[step] = put(value.get(step, {}), rest, new)
    elif isinstance(value, list) and step == "-":
        value.append(put({}, rest, new))
    elif isinstance(value, list):
        index = _index(value, step)
        if index is None:
            raise ConfigError(Code.INVALID, f"an array of {len(value)} has no element {step[:80]!r}")
        value[index] = put(value[index], rest, new)
    else:
        raise ConfigError(Code.INVALID, f"there is no place {step[:80]!r} in what is neither an object nor an array")
    return value


def remove(value: Json, pointer: Pointer) -> bool:
    """Remove what is at ``pointer``, which has a step at least, from ``value``; False where nothing is."""
    step, rest = pointer[0], pointer[1:]
    if isinstance(value, dict) and step in value:
        if rest:
            return remove(value[step], rest)
        del value[step]
        return True
    if isinstance(value, list) and (index := _index(value, step)) is not None:
        if rest:
            return remove(value[index], rest)
        del value[index]
        return True
    return False


def _index(array: list[Json], step: str) -> int | None:
    return int(step) if _INDEX.match(step) and int(step) < len(array) else None
