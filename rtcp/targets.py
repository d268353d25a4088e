"""Where a stream leads, as text that a peer of either version can read and write into its log."""

from __future__ import annotations

from typing import Final

from cyfs_ns.errors import Unreachable

MOST_TARGET: Final = 2048
"""Bytes."""


def check_target(text: str, most: int = MOST_TARGET) -> None:
    """Raises ``Unreachable`` for what no peer is asked for: it has more than ``most`` bytes, or is no text that can be
    printed."""
    if not text.isprintable():  # nor could half of a surrogate pair be encoded
        raise Unreachable("the target is no text", "other")
    if len(text.encode()) > most:
        raise Unreachable("the target is longer than what can be asked for", "other")
