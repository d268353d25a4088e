"""How many strangers may stand at the door of a listener, all together and from one address.

A handshake costs us signatures, and whoever has not said who they are costs us a place.  Both are bounded before the
first byte is read; a connection that never sends one counts like any other.

Addresses that a standing tunnel comes from are *known*: the connections of its streams come from there, more often than
any stranger may.  They take no places from strangers nor strangers from them, so a flood at the door does not reach the
tunnels that stand.  A handshake costs them the same as everybody.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass

from rtcp.limits import Bucket


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """Somebody from the address ``source`` stands at the door."""

    source: str
    known: bool


class Doorstep:
    """``most`` strangers at a time, ``room`` for all with those we know, ``each`` from one address, known or not;
    ``per_second`` handshakes from one address after a ``burst``, for ``sources`` addresses.

    The address heard of longest ago is forgotten first, and then starts afresh.
    """

    def __init__(
        self,
        *,
        most: int = 256,
        room: int = 4096,
        each: int = 64,
        per_second: float = 16,
        burst: int = 32,
        sources: int = 4096,
    ) -> None:
        self._most, self._room, self._each = most, room, each
        self._rate, self._burst, self._sources = per_second, burst, sources
        self._inside: set[Place] = set()
        self._strangers = 0
        self._from: Counter[str] = Counter()
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def enter(self, source: str, now: float, *, known: bool = False) -> Place | None:
        """A place for a connection from the address ``source``, to be given back by ``leave``; None: turn it away."""
        if self._from[source] >= self._each or len(self._inside) >= self._room:
            return None
        if not known:
            if self._strangers >= self._most or not self._take(source, now):
                return None
            self._strangers += 1
        self._from[source] += 1
        place = Place(source, known)
        self._inside.add(place)
        return place

    def knock(self, place: Place, now: float) -> bool:
        """Whether whoever stands there may begin a handshake.  A stranger paid for that on entering."""
        return not place.known or self._take(place.source, now)

    def leave(self, place: Place) -> None:
        """The connection is known for what it is, or gone.  May be called twice."""
        if place not in self._inside:
            return
        self._inside.remove(place)
        self._strangers -= not place.known
        self._from[place.source] -= 1
        if not self._from[place.source]:
            del self._from[place.source]

    def _take(self, source: str, now: float) -> bool:
        bucket = self._buckets.pop(source, None) or Bucket(self._rate, self._burst, now)
        self._buckets[source] = bucket
        if len(self._buckets) > self._sources:
            self._buckets.popitem(last=False)
        return bucket.take(now)
