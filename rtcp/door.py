"""How many strangers may stand at the door, how far in, and how often they may come (§11.2 of docs/rtcp-v5.md).

Whoever connects takes a *place* and, with each step that proves more, a place further in.  Each stage has its own
bounds, so who cannot prove anything never crowds out who can.  At the outer two a newcomer pushes out whoever has been
there longest: slow ones cannot keep the door shut, they are closed by the next.  Who has said its message 1 and waits
for us is not slow: there the newcomer is turned away, or an overloaded device would do its work for those who are gone
by then.  Further in it is the newcomer that has to wait, since those before it have proved more.

Sources that a tunnel comes from, or came from within ten minutes, are *known*: a quarter of all places is theirs alone,
strangers never get the last quarter of the door's rate, and they pay for handshakes only, not for the connections that
the streams of version 4 need.  Sources are IPv4 addresses and IPv6 networks of 64 bits.

Time goes in as ``now``; who has to go comes out by ``next_evicted``.
"""

from __future__ import annotations

import ipaddress
from collections import Counter, OrderedDict, deque
from dataclasses import dataclass
from enum import Enum

from rtcp.limits import Bucket


class Stage(Enum):
    """How far in somebody is."""

    KNOCKING = "said nothing yet"
    PROVING = "knows our key"
    DECIDING = "proved its own"
    STANDING = "has a tunnel"


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorLimits:
    """Places of each stage, ``long_hellos`` and ``anonymous`` (keys that nobody expects) among them; ``..._each`` are
    for one source.

    A source may come ``per_second`` times after a ``burst``, known ones four times as often; all together
    ``door_per_second``.  How often ``sources`` came is remembered, and that ``known`` ones are that, for ``known_for``
    seconds; whoever proves itself has ``proving_grace`` seconds before it can be pushed out.
    """

    knocking: int = 1024
    long_hellos: int = 64
    proving: int = 1024
    deciding: int = 256
    deciding_each: int = 8
    standing: int = 16_384
    standing_each: int = 512
    anonymous: int = 1000
    per_second: float = 16
    burst: int = 32
    door_per_second: float = 1000
    sources: int = 4096
    known: int = 65_536
    known_for: float = 600
    proving_grace: float = 1


class Place:
    """Somebody from ``source`` stands at ``stage`` since ``since``; ``known`` when it came, ``heard`` if it waits for
    us."""

    __slots__ = ("anonymous", "heard", "in_reserve", "known", "since", "source", "stage")

    def __init__(self, source: str, known: bool, now: float) -> None:
        self.source, self.known, self.since = source, known, now
        self.stage: Stage | None = None
        self.in_reserve = self.anonymous = self.heard = False


class _Room:
    """The places of one stage, the oldest first: those for everybody, and a quarter for the known."""

    def __init__(self, most: int) -> None:
        self._reserved = most // 4
        self._most = most - self._reserved
        self.common: dict[Place, None] = {}
        self.heard: dict[Place, None] = {}
        """Of the common ones, those who wait for us."""
        self.reserve: dict[Place, None] = {}

    def has_room(self, place: Place) -> bool:
        return len(self.common) + len(self.heard) < self._most or (place.known and len(self.reserve) < self._reserved)

    def add(self, place: Place) -> None:
        place.in_reserve = place.known and len(self.reserve) < self._reserved
        (self.reserve if place.in_reserve else self.common)[place] = None

    def drop(self, place: Place) -> None:
        del (self.reserve if place.in_reserve else self.heard if place.heard else self.common)[place]

    def hear(self, place: Place) -> None:
        if not place.in_reserve and not place.heard:
            del self.common[place]
            self.heard[place] = None
        place.heard = True

    def oldest(self) -> Place | None:
        """Who would have to go; those in reserve never do, nor those who wait for us."""
        return next(iter(self.common), None)

    def is_half_full(self) -> bool:
        return 2 * (len(self.common) + len(self.heard) + len(self.reserve)) > self._most + self._reserved


class Door:
    """One door, of all listeners of a device."""

    def __init__(self, now: float, limits: DoorLimits | None = None) -> None:
        self._limits = limits = limits or DoorLimits()
        self._rooms = {
            Stage.KNOCKING: _Room(limits.knocking),
            Stage.PROVING: _Room(limits.proving),
            Stage.DECIDING: _Room(limits.deciding),
            Stage.STANDING: _Room(limits.standing),
        }
        self._long: dict[Place, None] = {}
        self._anonymous = 0
        self._deciding_from: Counter[str] = Counter()
        self._standing_from: Counter[str] = Counter()
        self._known_until: OrderedDict[str, float] = OrderedDict()
        self._buckets: OrderedDict[tuple[str, bool], Bucket] = OrderedDict()
        rate = limits.door_per_second
        self._all = Bucket(rate, int(rate), now)
        self._strangers = Bucket(rate * 3 / 4, int(rate * 3 / 4), now)
        self._evicted: deque[Place] = deque()

    def enter(self, source: str, now: float) -> Place | None:
        """A place for a connection from ``source`` (an IP address, or whatever tells carriers apart that have none), to
        be given back by ``leave``; None: turn it away, unread."""
        source = _group(source)
        place = Place(source, self.is_known(source, now), now)
        if not place.known and not self._may(place, now):
            return None
        room = self._rooms[Stage.KNOCKING]
        if not room.has_room(place):
            oldest = room.oldest()
            if oldest is None:
                return None
            self._evict(oldest)
        return self._put(place, Stage.KNOCKING, now)

    def hear(self, place: Place) -> None:
        """It has said its message 1, and goes on as soon as we do."""
        if place.stage is Stage.KNOCKING:
            self._rooms[Stage.KNOCKING].hear(place)

    def may_shake_hands(self, place: Place, now: float) -> bool:
        """Whether whoever stands there may begin a handshake.  A stranger paid for that on entering."""
        return not place.known or self._may(place, now)

    def long_hello(self, place: Place) -> None:
        """A Hello larger than any message 1 has begun: few may come at a time, the oldest has to go."""
        if place.stage is not Stage.KNOCKING or place in self._long:
            return
        self._long[place] = None
        if len(self._long) > self._limits.long_hellos:
            self._evict(next(iter(self._long)))

    def begin_proof(self, place: Place, now: float) -> bool:
        """It knows our key, and gets message 2.  False: close it without a byte."""
        room = self._rooms[Stage.PROVING]
        if not room.has_room(place):
            oldest = room.oldest()
            if oldest is None or now - oldest.since <= self._limits.proving_grace:
                return False
            self._evict(oldest)
        return self._move(place, Stage.PROVING, now)

    def begin_decision(self, place: Place, now: float) -> bool:
        """It proved its key, and policy is asked.  False: tell it ``BUSY``."""
        if self._deciding_from[place.source] >= self._limits.deciding_each:
            return False
        return self._rooms[Stage.DECIDING].has_room(place) and self._move(place, Stage.DECIDING, now)

    def stand(self, place: Place, now: float, *, anonymous: bool) -> bool:
        """It has a tunnel, until ``leave``.  False: tell it ``BUSY``."""
        limits = self._limits
        if anonymous and self._anonymous >= limits.anonymous:
            return False
        if self._standing_from[place.source] >= limits.standing_each:
            return False
        if not self._rooms[Stage.STANDING].has_room(place) or not self._move(place, Stage.STANDING, now):
            return False
        place.anonymous = anonymous
        self._anonymous += anonymous
        return True

    def leave(self, place: Place, now: float) -> None:
        """It is gone, or known for what it is.  May be called twice."""
        if place.stage is Stage.STANDING:
            self._known_until.pop(place.source, None)
            self._known_until[place.source] = now + self._limits.known_for
            if len(self._known_until) > self._limits.known:
                self._known_until.popitem(last=False)
        self._take_out(place)

    def next_evicted(self) -> Place | None:
        """Who was pushed out, each once: close it.  Ask after every other call."""
        return self._evicted.popleft() if self._evicted else None

    def is_busy(self, now: float) -> bool:
        """Whether over half of the places or of the rate are taken: carriers have to prove where they come from."""
        crowded = self._rooms[Stage.KNOCKING].is_half_full() or self._rooms[Stage.PROVING].is_half_full()
        return crowded or 2 * self._all.left(now) < self._limits.door_per_second

    def is_known(self, source: str, now: float) -> bool:
        """Whether a tunnel comes from ``source``, or did of late."""
        source = _group(source)
        return bool(self._standing_from[source]) or self._known_until.get(source, now) > now

    def _may(self, place: Place, now: float) -> bool:
        key = (place.source, place.known)
        bucket = self._buckets.pop(key, None)
        if bucket is None:
            times = 4 if place.known else 1
            bucket = Bucket(times * self._limits.per_second, times * self._limits.burst, now)
        self._buckets[key] = bucket
        if len(self._buckets) > self._limits.sources:
            self._buckets.popitem(last=False)
        return bucket.take(now) and (place.known or self._strangers.take(now)) and self._all.take(now)

    def _move(self, place: Place, stage: Stage, now: float) -> bool:
        if place.stage is None:
            return False  # it was pushed out meanwhile
        self._take_out(place)
        self._put(place, stage, now)
        return True

    def _put(self, place: Place, stage: Stage, now: float) -> Place:
        place.stage, place.since = stage, now
        self._rooms[stage].add(place)
        if stage is Stage.DECIDING:
            self._deciding_from[place.source] += 1
        elif stage is Stage.STANDING:
            self._standing_from[place.source] += 1
        return place

    def _take_out(self, place: Place) -> None:
        stage = place.stage
        if stage is None:
            return
        self._rooms[stage].drop(place)
        place.heard = False
        self._long.pop(place, None)
        if stage is Stage.DECIDING:
            _less(self._deciding_from, place.source)
        elif stage is Stage.STANDING:
            _less(self._standing_from, place.source)
            self._anonymous -= place.anonymous
        place.stage = None

    def _evict(self, place: Place) -> None:
        self._take_out(place)
        self._evicted.append(place)


def _less(counter: Counter[str], source: str) -> None:
    counter[source] -= 1
    if not counter[source]:
        del counter[source]


def _group(source: str) -> str:
    """Whom one person may be behind ``source``: an address of IPv4, a network of IPv6."""
    try:
        address = ipaddress.ip_address(source)
    except ValueError:
        return source
    if address.version == 4:
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_address(int(address) >> 64 << 64)) + "/64"
