"""The connection of one stream: a *leg*.

It opens with ``HelloStream``, the id in clear; behind it both directions are records under keys of their own, whose
direction A is the side that made the connection.  The id proves nothing, so who learns one can take a stream's place:
it gets a connection of which it can neither read nor write a byte, and the stream is lost.  Hence ids are random, are
kept out of logs, and count once.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from rtcp.packet import write_hello_stream
from rtcp.records import STREAM_BUDGET, Budget, RecordOpener, RecordSealer
from rtcp.schedule import Keys

Owner = TypeVar("Owner")


class Leg:
    """One leg seen from one side.  ``preamble`` is to be sent first; ``expires`` is when its keys are too old.

    ``dialler``: whether we made the connection.
    """

    def __init__(self, keys: Keys, stream_id: bytes, dialler: bool, now: float, budget: Budget = STREAM_BUDGET) -> None:
        self.preamble = write_hello_stream(stream_id) if dialler else b""
        self.expires = now + budget.seconds
        self._sealer = RecordSealer(keys, dialler, budget)
        self._opener = RecordOpener(keys, not dialler, budget)

    def seal(self, plain: bytes | memoryview) -> bytes:
        """``plain`` as it travels.  Raises ``Spent`` when the keys may carry no more; then nothing was sealed."""
        return self._sealer.seal(plain)

    def finish(self) -> bytes:
        """What has to travel before we say that we have finished."""
        return self._sealer.finish()

    def receive_data(self, untrusted: bytes | memoryview) -> None:
        self._opener.receive_data(untrusted)

    def receive_eof(self) -> None:
        """The peer has finished.  Raises ``BadWire`` if that was in the middle of something."""
        self._opener.receive_eof()

    def next_data(self) -> bytes | None:
        """The next plaintext, never empty; None: bring more.  Raises ``BadWire``, and then again at every call."""
        while (plain := self._opener.next_record()) is not None:
            if plain:
                return plain
        return None


class LegBook(Generic[Owner]):
    """Which tunnel awaits the connection with which id, over all tunnels of a listener."""

    def __init__(self) -> None:
        self._owners: dict[bytes, Owner] = {}

    def expect(self, stream_id: bytes, owner: Owner) -> bool:
        """Whether ``owner`` may await the id; False: another does, so the request has to be refused (duplicate)."""
        return self._owners.setdefault(stream_id, owner) is owner

    def claim(self, untrusted_id: bytes) -> Owner | None:
        """Whose connection this is, once; None: nobody awaits it."""
        return self._owners.pop(untrusted_id, None)

    def forget(self, stream_id: bytes, owner: Owner) -> None:
        """``owner`` no longer awaits the id."""
        if self._owners.get(stream_id) is owner:
            del self._owners[stream_id]

    def forget_all(self, owner: Owner) -> None:
        """The tunnel is over."""
        for stream_id in [one for one, whose in self._owners.items() if whose is owner]:
            del self._owners[stream_id]
