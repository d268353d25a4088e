"""What the machines behind a connection have in common: bytes and the time go in, events and bytes come out."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

Event = TypeVar("Event")


class Machine(Generic[Event]):
    """What it tells and what it says, until somebody takes it."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque()
        self._out = bytearray()

    def next_event(self) -> Event | None:
        """The next thing that happened; None: that was all."""
        return self._events.popleft() if self._events else None

    def data_to_send(self) -> bytes:
        """Bytes for the peer, each once.  Call after every other call, also after the last event."""
        data = bytes(self._out)
        self._out.clear()
        return data
