"""Legs: channels of their own for conversations that carry much (§8.4 of the document).

A leg is announced on control (LEG) by who will call its carrier, *rises* when that stands, and is *over* when its
conversation is gone and nothing on it waits for an ACK, or when it has been without a carrier for too long.  Numbers
count up by two on each side, so one number says which are past.
"""

from __future__ import annotations

from cyfs_ns.errors import BadWire
from rtcp.v5.carrier import RecordLayer
from rtcp.v5.channel import Channel
from rtcp.v5.limits import Bounds

ACK_EVERY = 512 << 10


class Leg:
    """``ours``: we announced it and call its carriers.  ``bare``: it rose, and carries bytes as they are;
    ``offered``: the carrier over which we said that it may.  ``until``: when it is over if no carrier stands by then,
    or, once its conversation was reset by us, if the peer has not closed it.  ``finish``: FIN is to be sent on it;
    ``finished``: the peer's came."""

    __slots__ = (
        "bare",
        "busy_until",
        "channel",
        "conversation",
        "finish",
        "finished",
        "offered",
        "ours",
        "reset",
        "rose",
        "until",
    )

    def __init__(self, number: int, conversation: int, bounds: Bounds, now: float, *, ours: bool) -> None:
        self.channel = Channel(number, bounds.leg_kept, ACK_EVERY)
        self.conversation, self.ours = conversation, ours
        self.offered: RecordLayer | None = None
        self.until: float | None = now + bounds.leg_rises
        self.rose = self.bare = self.reset = self.finish = self.finished = False
        self.busy_until = now


class LegNumbers:
    """Which numbers of legs each side has used.  ``initiator``: whether we are."""

    __slots__ = ("_odd", "ours", "theirs")

    def __init__(self, *, initiator: bool) -> None:
        self._odd = 1 if initiator else 0
        self.ours = self.theirs = 0

    def next_ours(self) -> int:
        self.ours = self.ours + 2 if self.ours else 2 - self._odd
        return self.ours

    def announced(self, number: int) -> None:
        """The peer's LEG.  Raises ``BadWire`` if it is not the next."""
        due = self.theirs + 2 if self.theirs else 1 + self._odd
        if number != due:
            raise BadWire(f"leg {number} is announced, where {due} is the next")
        self.theirs = number

    def is_past(self, number: int) -> bool:
        """Whether ``number`` was announced once."""
        return 0 < number <= (self.ours if number & 1 == self._odd else self.theirs)
