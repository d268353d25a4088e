"""What an account may use of an SN, asked ahead: whoever carries its bytes holds a *grant* and counts it down alone.

A grant is so many bytes, to be used before a moment not far off.  Taking one books all of it against the month, so a
hundred connections that ask at once cannot spend more than there is: what is promised is gone until its holder settles
what it did use.  A holder may overshoot by the batch it has in hand and no more; that is counted too.  A holder that
never comes back loses its promise when the grant's time is over.

A month has two marks for bytes and two for time: past the first the account is slowed down, past the second refused.
The pace is a bucket that fills steadily; a grant takes from it and is rarely larger than a share of what it holds, so
that one stream cannot dry it out under the others.  Who finds it empty is told when to ask again.

Nothing here reads a clock.  ``now`` is monotonic seconds; which month it is, the meter knows (``meter.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TypeAlias

from cyfs_ns.errors import BadWire, Misuse
from cyfs_ns.identity.strictjson import Json

LARGEST = 4 << 20
"""Bytes of the largest grant."""
SMALLEST = 16 << 10
"""Bytes below which asking would cost more than carrying; less is granted only where less is left of the month."""
LASTING = 30.0
"""Seconds for which a grant is good."""
_SHARE = 4
"""One grant takes at most this part of what the bucket can hold."""
_BURST = 2.0
"""Seconds of its rate that a bucket holds."""
_AGAIN = 1.0
"""Seconds after which somebody may have settled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """What an account may use.  None: as much as it likes.

    ``slow_bytes`` and ``most_bytes`` count both directions of a UTC month; ``slow_seconds`` and ``most_seconds`` the
    time of all its streams together.  ``rate`` is bytes a second, ``slow_rate`` those past the first mark.  ``streams``
    may be open at once.  ``devices``, ``names`` and ``domains`` may be registered.
    """

    slow_bytes: int | None = None
    most_bytes: int | None = None
    slow_seconds: int | None = None
    most_seconds: int | None = None
    rate: int | None = None
    slow_rate: int = 64 << 10
    streams: int | None = None
    devices: int = 16
    names: int = 1
    domains: int = 4

    def claims(self) -> dict[str, Json]:
        """As JSON, for the books and for people; what has no bound is left out."""
        told = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: value for name, value in told.items() if value is not None}


def read_quota(untrusted: Mapping[str, Json]) -> Quota:
    """The quota that an operator or a row of the books says.  Raises ``BadWire``."""
    known = {one.name for one in fields(Quota)}
    told: dict[str, int] = {}
    for name, value in untrusted.items():
        if name not in known:
            raise BadWire(f"quota: {name[:40]!r} is not known here")
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise BadWire(f"quota: {name} is not a whole number")
        told[name] = value
    if told.get("rate") == 0 or told.get("slow_rate") == 0:
        raise BadWire("quota: a rate of nothing; refuse by most_bytes, or suspend the account")
    return Quota(**told)


@dataclass(frozen=True, slots=True)
class Spent:
    """What a month has seen so far: bytes of both directions, seconds of all streams."""

    bytes: int = 0
    seconds: float = 0.0


@dataclass(slots=True, eq=False)
class Grant:
    """Leave to carry ``bytes`` until ``until`` (monotonic seconds).  To be settled once, by whoever took it."""

    bytes: int
    until: float
    since: float
    slowed: bool
    taken: int = field(repr=False)
    """Of the bucket; nothing while there was no pace to keep."""
    settled: bool = field(default=False, repr=False)


@dataclass(frozen=True, slots=True)
class Later:
    """Not now, but at ``at`` (monotonic seconds): the account has its pace, and it is used up."""

    at: float
    why: str


@dataclass(frozen=True, slots=True)
class Denied:
    """No, and asking again does not help before something changes."""

    why: str


Answer: TypeAlias = Grant | Later | Denied


class Allowance:
    """What one account has left.  ``spent`` is what its month saw before.

    The owner of this object calls :meth:`new_month` when the month turns, and :meth:`change` when the quota does.
    """

    def __init__(self, quota: Quota, spent: Spent, now: float) -> None:
        self._quota = quota
        self._bytes, self._seconds = spent.bytes, spent.seconds
        self._promised = 0
        self._grants: dict[Grant, None] = {}  # the oldest first
        self._streams = 0
        self._tokens = 0.0
        self._filled = now
        self._tokens = self._room()

    @property
    def streams(self) -> int:
        return self._streams

    @property
    def spent(self) -> Spent:
        """What the month has seen, without what is promised."""
        return Spent(self._bytes, self._seconds)

    @property
    def slowed(self) -> bool:
        quota = self._quota
        return _reached(self._bytes, quota.slow_bytes) or _reached(self._seconds, quota.slow_seconds)

    @property
    def denied(self) -> str:
        """Why nothing more is granted this month, empty if something is."""
        if _reached(self._bytes, self._quota.most_bytes):
            return f"the month's {self._quota.most_bytes} bytes are used up"
        if _reached(self._seconds, self._quota.most_seconds):
            return f"the month's {self._quota.most_seconds} seconds are used up"
        return ""

    def open(self) -> str:
        """One more stream.  Why not, or empty: then it counts until :meth:`close`."""
        if why := self.denied:
            return why
        if _reached(self._streams, self._quota.streams):
            return f"{self._quota.streams} streams are open, and that is all this account may have"
        self._streams += 1
        return ""

    def close(self) -> None:
        """A stream that :meth:`open` let in has ended."""
        if not self._streams:
            raise Misuse("more streams closed than were opened")
        self._streams -= 1

    def ask(self, now: float, wanted: int = LARGEST, whole: bool = False) -> Answer:
        """Leave for up to ``wanted`` bytes; ``whole``: for all of them, and then the pace is kept by a longer pause."""
        self._reclaim(now)
        if why := self.denied:
            return Denied(why)
        left = LARGEST if self._quota.most_bytes is None else self._quota.most_bytes - self._bytes - self._promised
        if left <= 0 or (whole and left < wanted):
            return Later(now + _AGAIN, "what is left of the month is promised to others")
        self._fill(now)
        taken = 0
        most = min(LARGEST, max(wanted, SMALLEST), left)
        if (rate := self._rate()) is not None:
            smallest = min(SMALLEST, most)
            if self._tokens < smallest:
                why = "past the month's first mark" if self.slowed else "at its full rate"
                return Later(now + (smallest - self._tokens) / rate, f"the account is {why}: {rate} bytes a second")
            if not whole:
                most = min(most, max(smallest, int(self._room() / _SHARE)), int(self._tokens))
            self._tokens -= most
            taken = most
        grant = Grant(most, now + LASTING, now, self.slowed, taken)
        self._promised += most
        self._grants[grant] = None
        return grant

    def settle(self, grant: Grant, used: int, now: float) -> None:
        """Its holder is done with ``grant``, having carried ``used`` bytes; unused leave goes back."""
        if used < 0 or grant.settled:
            raise Misuse("a grant is settled once, and with what was used")
        grant.settled = True
        if grant in self._grants:
            del self._grants[grant]
            self._promised -= grant.bytes
        self._fill(now)
        if grant.taken:
            self._tokens = min(self._room(), self._tokens + grant.taken - used)
        self._bytes += used
        self._seconds += max(0.0, now - grant.since)

    def charge(self, used: int, seconds: float, now: float) -> Later | Denied | None:
        """What was carried without leave, by a carrier that looks at its streams now and then; None: it may go on."""
        self._fill(now)
        rate = self._rate()
        if rate is not None:
            self._tokens -= used
        self._bytes += used
        self._seconds += seconds
        if why := self.denied:
            return Denied(why)
        if rate is not None and self._tokens < 0:
            return Later(now - self._tokens / rate, f"the account has {rate} bytes a second")
        return None

    def is_idle(self, now: float) -> bool:
        """Whether a new allowance in place of this one would be the same: nothing open, no promise, a full bucket."""
        self._reclaim(now)
        self._fill(now)
        return not self._streams and not self._grants and self._tokens >= self._room()

    def new_month(self, spent: Spent) -> None:
        """Another month begins, which saw ``spent`` before.  What is promised now counts for it."""
        self._bytes, self._seconds = spent.bytes, spent.seconds

    def change(self, quota: Quota, now: float) -> None:
        """Another quota from now on."""
        self._fill(now)
        self._quota = quota
        self._tokens = min(self._tokens, self._room()) if self._tokens else self._room()

    def _reclaim(self, now: float) -> None:
        while self._grants and (oldest := next(iter(self._grants))).until <= now:
            del self._grants[oldest]
            self._promised -= oldest.bytes

    def _rate(self) -> int | None:
        rate = self._quota.rate
        if not self.slowed:
            return rate
        return self._quota.slow_rate if rate is None else min(rate, self._quota.slow_rate)

    def _room(self) -> float:
        """What the bucket can hold."""
        rate = self._rate()
        return 0.0 if rate is None else max(rate * _BURST, float(SMALLEST))

    def _fill(self, now: float) -> None:
        rate = self._rate()
        if rate is not None:
            self._tokens = min(self._room(), self._tokens + max(0.0, now - self._filled) * rate)
        self._filled = max(now, self._filled)


def _reached(used: float, most: int | None) -> bool:
    return most is not None and used >= most
