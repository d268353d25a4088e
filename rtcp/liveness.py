"""Is the peer still there?  Whatever it sends says yes; after a silence we ask, and after some questions we know.

Both sides ask, not only the one that dialled: a responder whose peer has moved to another address would else hold a
dead tunnel until its TCP gives up.
"""

from __future__ import annotations

from enum import Enum

from rtcp.limits import Limits


class Pulse(Enum):
    """What is due: nothing, a ping, or burial."""

    QUIET = "nothing to do"
    ASK = "send a ping"
    DEAD = "the peer is gone"


class Liveness:
    """Silence, counted.  All times are of one clock that never goes back."""

    def __init__(self, limits: Limits, now: float) -> None:
        self._limits = limits
        self.heard(now)

    def heard(self, now: float) -> None:
        """The peer proved that it lives."""
        self.last_heard = now
        self.deadline = now + self._limits.quiet
        self._missed = 0

    def due(self, now: float) -> Pulse:
        """What to do at ``now``; a Pulse other than QUIET is to be acted on, it is not told again."""
        if now < self.deadline:
            return Pulse.QUIET
        if self._missed == self._limits.misses:
            return Pulse.DEAD
        self._missed += 1
        self.deadline = now + self._limits.pong
        return Pulse.ASK
