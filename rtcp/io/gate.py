"""So many messages of strangers in one turn of the event loop, and no more (§3.8 of docs/rtcp-v5.md).

A message of a handshake costs up to 0.3 ms of computing.  Hundreds may arrive at once, and all of them together would
keep the tunnels that stand waiting for as long.  So each is worked on behind this gate: eight at a time, and after them
everybody else has a turn.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

_IN_ONE_TURN = 8


class Gate:
    """Whoever comes first goes first, but for those that are told to come last."""

    def __init__(self) -> None:
        self._free = _IN_ONE_TURN
        self._first, self._last = trio.lowlevel.ParkingLot(), trio.lowlevel.ParkingLot()

    @asynccontextmanager
    async def one(self, *, last: bool = False) -> AsyncIterator[None]:
        """Work on one message within this; ``last``: when nobody else wants to."""
        if self._free:
            self._free -= 1
        else:
            await (self._last if last else self._first).park()
        try:
            yield
            await trio.lowlevel.checkpoint()
        finally:
            if not (self._first.unpark() or self._last.unpark()):
                self._free += 1
