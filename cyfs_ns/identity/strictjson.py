"""JSON that means one thing to every reader.

A signature over a document is worth nothing when two parsers see two documents in the same bytes: duplicate keys,
numbers past 2**53, NaN, lone surrogates and trailing text are where they differ (RFC 8259 §4, §6; RFC 7493), so all of
them are refused here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from cyfs_ns.errors import BadWire

Json: TypeAlias = "str | int | float | bool | Sequence[Json] | Mapping[str, Json] | None"

_MAX_INT = 1 << 53
_MAX_DEPTH = 32


def read_json(untrusted: bytes | str, what: str = "document") -> Json:
    """The one value in ``untrusted``, which the caller has bounded in size.  Raises ``BadWire``."""
    try:
        text = untrusted.decode("utf-8", "strict") if isinstance(untrusted, bytes) else untrusted
        text.encode("utf-8", "strict")
        value: Json = json.loads(
            text, object_pairs_hook=_object, parse_constant=_constant, parse_int=_integer, parse_float=_decimal
        )
        _check(value, _MAX_DEPTH)
    except (ValueError, RecursionError) as bad:
        detail = "nested too deeply" if isinstance(bad, RecursionError) else str(bad).partition(":")[0]
        raise BadWire(f"{what}: not plain JSON ({detail[:80]})") from None
    return value


def read_object(untrusted: bytes | str, what: str = "document") -> dict[str, Json]:
    """The JSON object in ``untrusted``.  Raises ``BadWire`` for anything else."""
    value = read_json(untrusted, what)
    if not isinstance(value, dict):
        raise BadWire(f"{what}: a JSON object is needed")
    return value


def write_json(value: Json) -> bytes:
    """``value`` in the one form we sign: no spaces, keys in alphabetical order, UTF-8 as it is."""
    return json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False, allow_nan=False).encode()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _constant(word: str) -> Any:
    raise ValueError(f"{word} is no JSON number")


def _integer(digits: str) -> int:
    if len(digits) > 17 or abs(number := int(digits)) > _MAX_INT:
        raise ValueError("a number is too large")
    return number


def _decimal(digits: str) -> float:
    if len(digits) > 32 or not abs(number := float(digits)) <= _MAX_INT:
        raise ValueError("a number is too large")
    return number


def _check(value: Any, depth: int) -> None:
    """Raises ``ValueError`` where ``value`` is deeper than ``depth`` or holds what UTF-8 cannot (``\\ud800``)."""
    if depth < 0:
        raise ValueError("nested too deeply")
    if isinstance(value, str):
        value.encode("utf-8", "strict")
    elif isinstance(value, dict):
        for key, below in value.items():
            key.encode("utf-8", "strict")
            _check(below, depth - 1)
    elif isinstance(value, list):
        for below in value:
            _check(below, depth - 1)
