"""Addresses remembered for as long as their owner allowed, within limits of ours.

One entry a name holds both families; an empty tuple is the knowledge that there are none (RFC 2308).  Time is passed
in, in seconds of any one clock.  When full, the entry unused for longest goes.  The wire-form cache of a DNS server is
another thing: this one exists so that a connection to a known name costs one dictionary access.
"""

from __future__ import annotations

from collections import OrderedDict


class AddressCache:
    """``min_ttl`` keeps names with a TTL of nought from being asked twice for one page; ``max_negative`` bounds how
    long a name that has just come into being stays unknown here.  All in seconds."""

    __slots__ = ("_capacity", "_entries", "_max_negative", "_max_ttl", "_min_ttl")

    def __init__(
        self, capacity: int = 4096, *, min_ttl: float = 1, max_ttl: float = 86400, max_negative: float = 60
    ) -> None:
        self._entries: OrderedDict[str, tuple[tuple[str, ...], float]] = OrderedDict()
        self._capacity = capacity
        self._min_ttl, self._max_ttl, self._max_negative = min_ttl, max_ttl, max_negative

    def get(self, name: str, now: float) -> tuple[str, ...] | None:
        """The addresses, ``()`` for "known to have none", ``None`` for "not known"."""
        entry = self._entries.get(name)
        if entry is None:
            return None
        if entry[1] <= now:
            del self._entries[name]
            return None
        self._entries.move_to_end(name)
        return entry[0]

    def put(self, name: str, addresses: tuple[str, ...], ttl: float, now: float) -> None:
        """Remember for ``ttl`` seconds, within our limits; no addresses: remember that there are none."""
        longest = self._max_ttl if addresses else min(self._max_ttl, self._max_negative)
        self._entries[name] = (addresses, now + min(max(ttl, self._min_ttl), longest))
        self._entries.move_to_end(name)
        if len(self._entries) > self._capacity:
            self._entries.popitem(last=False)

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()

    def __len__(self) -> int:
        return len(self._entries)
