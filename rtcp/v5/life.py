"""Is the carrier still there, and when is the next one called? (§9 of the document)

Whatever opens says *alive*.  After a silence we ask, sooner while something is going on; after one unanswered question
the carrier is suspect, which costs nothing but a call, and 10 s later it is broken.  All times are of one clock that
never goes back, but may jump: who looks later than was due gives the peer another chance first.
"""

from __future__ import annotations

from enum import Enum

_ASK_BUSY = {True: 0.6, False: 0.9}
_ASK_IDLE = {True: 25.0, False: 30.0}
_SUSPECT = 10.0
_DOUBT = 60.0
_LONGEST = 8.0
_LATE = 1.0
BUSY_FOR = 5.0
_STAGGER = (0.3, 0.6, 1.0, 2.0, 4.0, 8.0)
PROVED = 2.0
"""Seconds for which a carrier has to stand to count as one that does."""
_AT_ONCE = 3
"""How many in a row that did not may be called again at once."""
_RENEWAL_RETRY = 60.0


class Beat(Enum):
    """What is due."""

    QUIET = "nothing"
    ASK = "send a PING"
    SUSPECT = "the peer is late: call the next carrier"
    BROKEN = "the carrier is gone"


class Why(Enum):
    """Why a carrier is wanted."""

    BROKEN = "the old one is gone"
    SUSPECT = "the old one is silent"
    RENEWAL = "the old one has served its time"
    LEG = "a conversation wants one of its own"


def patience(round_trip: float) -> float:
    """How long anything may take on a way with this round trip."""
    return min(max(3 * round_trip + 0.1, 0.5), 3.0)


class Pulse:
    """The silence of one carrier, counted.  ``caller``: whether we called it; ``leg``: whether it is a leg's."""

    __slots__ = ("_asked", "_factor", "_factor_until", "_patience", "_suspect", "_wait", "caller", "heard", "leg")

    def __init__(self, caller: bool, leg: bool, round_trip: float, now: float) -> None:
        self.caller, self.leg, self.heard = caller, leg, now
        self._patience = patience(round_trip)
        self._wait = self._patience
        self._asked: float | None = None
        self._suspect: float | None = None
        self._factor, self._factor_until = 1.0, now

    @property
    def is_suspect(self) -> bool:
        return self._suspect is not None

    def hear(self, now: float, round_trip: float | None = None) -> bool:
        """Something opened, perhaps the answer to our PING; whether that was a false alarm."""
        self.heard, self._asked = now, None
        if round_trip is not None:
            self._patience = patience(round_trip)
        if self._suspect is None:
            return False
        self._suspect = None
        if now > self._factor_until:
            self._factor = 1.0
        self._factor, self._factor_until = min(self._factor * 2, 16.0), now + _DOUBT
        return True

    def ask_now(self, now: float) -> None:
        """News of the network: a PING goes out now, and has half a second."""
        self._asked, self._wait = now, 0.5

    def due(self, busy_until: float) -> float | None:
        """When to feel the pulse, if something goes on until ``busy_until``; None: not while it stays quiet."""
        if self._suspect is not None:
            return self._suspect + _SUSPECT
        if self._asked is not None:
            return self._asked + self._wait
        busy = self.heard + self._stretched(_ASK_BUSY[self.caller])
        if busy <= busy_until:
            return busy
        return None if self.leg else self.heard + _ASK_IDLE[self.caller]

    def feel(self, now: float, busy_until: float) -> Beat:
        """What to do at ``now``; anything but QUIET is to be acted on, it is not told again."""
        due = self.due(busy_until)
        if due is None or now < due:
            return Beat.QUIET
        if self._asked is None and self._suspect is None:
            self._asked, self._wait = now, self._stretched(self._patience)
            return Beat.ASK
        if now - due > _LATE:  # we slept, not the peer
            self._asked, self._suspect = now, None
            return Beat.ASK
        if self._suspect is None:
            self._suspect = now
            return Beat.SUSPECT
        return Beat.BROKEN

    def _stretched(self, seconds: float) -> float:
        if self._factor == 1.0 or self.heard > self._factor_until:
            return seconds
        return min(seconds * self._factor, max(seconds, _LONGEST))


class Calls:
    """The calls for a channel's next carrier: the first at once, then further and further apart.

    ``frail`` carriers in a row have not proved themselves: whoever takes our calls and drops what comes of them is not
    called in a loop.
    """

    __slots__ = ("_count", "at", "why")

    def __init__(self, why: Why, now: float, frail: int = 0) -> None:
        self.why, self._count = why, 0
        self.at = now if frail <= _AT_ONCE else now + _STAGGER[min(frail - _AT_ONCE, len(_STAGGER)) - 1]

    def called(self, die: float) -> None:
        """One was made; ``die`` in [0, 1) keeps the callers of a relay that was restarted apart."""
        step = _STAGGER[min(self._count, len(_STAGGER) - 1)]
        if self.why is Why.RENEWAL:
            step = _RENEWAL_RETRY
        self._count += 1
        self.at += step * (0.8 + 0.4 * die) if step >= 1 else step
