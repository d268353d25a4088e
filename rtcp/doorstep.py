"""How many strangers may stand at the door of a listener, all together and from one address.

A handshake costs us signatures, and whoever has not said who they are costs us a place.  Both are bounded before the
first byte is read; a connection that never sends one counts like any other.
"""

from __future__ import annotations

from collections import OrderedDict

from rtcp.limits import Bucket


class Doorstep:
    """``most`` handshakes at a time; ``per_second`` from one address after a ``burst``, for ``sources`` addresses.

    The address heard of longest ago is forgotten first, and then starts afresh.
    """

    def __init__(self, *, most: int = 256, per_second: float = 16, burst: int = 32, sources: int = 4096) -> None:
        self._most, self._rate, self._burst, self._sources = most, per_second, burst, sources
        self._inside = 0
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def enter(self, source: str, now: float) -> bool:
        """Whether a connection from the address ``source`` may begin; if so, ``leave`` when it is known or gone."""
        if self._inside >= self._most:
            return False
        bucket = self._buckets.pop(source, None) or Bucket(self._rate, self._burst, now)
        self._buckets[source] = bucket
        if len(self._buckets) > self._sources:
            self._buckets.popitem(last=False)
        if not bucket.take(now):
            return False
        self._inside += 1
        return True

    def leave(self) -> None:
        self._inside -= 1
