"""Random octets of the kernel, fetched by the block: a call for each id and each spelling would cost more than both."""

from __future__ import annotations

import os

_BLOCK = 4096


class Dice:
    """No octet is given out twice.  Not for several threads."""

    __slots__ = ("_at", "_block")

    def __init__(self) -> None:
        self._block, self._at = b"", 0

    def take(self, count: int) -> bytes:
        """``count`` octets, 4096 at most."""
        at, end = self._at, self._at + count
        if end > len(self._block):
            self._block, at, end = os.urandom(_BLOCK), 0, count
        self._at = end
        return self._block[at:end]
