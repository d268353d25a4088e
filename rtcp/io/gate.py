"""So many messages of strangers in one turn of the event loop, and no more (§3.8 of docs/rtcp-v5.md).

A message of a handshake costs up to 0.3 ms of computing.  Hundreds may arrive at once, and all of them together would
keep the tunnels that stand waiting for as long.  So each is worked on behind this gate: eight at a time, and after them
everybody else has a turn.  Under a storm there are more than are worked on, so it matters who goes first.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import IntEnum

import trio

_IN_ONE_TURN = 8


class Turn(IntEnum):
    """Whose message it is; the first of these go first."""

    KNOWN = 0
    """Somebody's who proved more before, or whose network has a tunnel."""
    STRANGER = 1
    DOUBTFUL = 2
    """A stranger's who has not shown to know whom they call."""


class Gate:
    """Of equals, whoever comes first goes first."""

    def __init__(self) -> None:
        self._free = _IN_ONE_TURN
        self._waiting = [trio.lowlevel.ParkingLot() for _ in Turn]

    @asynccontextmanager
    async def one(self, turn: Turn = Turn.KNOWN) -> AsyncIterator[None]:
        """Work on one message within this."""
        if self._free:
            self._free -= 1
        else:
            await self._waiting[turn].park()
        try:
            yield
            await trio.lowlevel.checkpoint()
        finally:
            if not any(lot.unpark() for lot in self._waiting):
                self._free += 1
