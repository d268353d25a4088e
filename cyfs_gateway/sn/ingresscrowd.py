"""A crowd of strangers, bounded in all and for each source: whoever has been there longest makes room for a newcomer.

The oldest, not the newest, is turned out: an honest visitor is done within a round trip or two, and those who only
stand there are the oldest.  How fast they come is bounded too, and there it is the newcomer who has to wait: what it
wants costs the device at home as much as us.

A source is an IPv4 address, or an IPv6 network of 64 bits, which one subscriber has whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv6Address
from typing import Final, Generic, TypeVar

from rtcp.limits import Bucket

T = TypeVar("T")

_SHARE: Final = 32
_AT_ONCE: Final = 4
_SOURCES: Final = 4096
"""Of one generation."""


def source_of(address: str) -> str:
    """By what visitors from the canonical ``address`` are counted."""
    if ":" not in address:
        return address
    return str(IPv6Address(int(IPv6Address(address)) >> 64 << 64))


class Crowd(Generic[T]):
    """``most`` of all and ``most_of`` of one source at most."""

    def __init__(self, most: int, most_of: int) -> None:
        self._most, self._most_of = most, most_of
        self._all: dict[T, str] = {}
        self._of: dict[str, dict[T, None]] = {}

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[T]:
        """Those who are there now, oldest first; they may leave meanwhile."""
        return iter(list(self._all))

    def enter(self, who: T, source: str) -> T | None:
        """``who`` is there now; the one that has to leave for it, and did."""
        out: T | None = None
        beside = self._of.setdefault(source, {})
        if len(beside) >= self._most_of:
            out = next(iter(beside))
        elif len(self._all) >= self._most:
            out = next(iter(self._all))
        self._all[who] = source
        beside[who] = None
        if out is not None:
            self.leave(out)
        return out

    def leave(self, who: T) -> None:
        """``who`` is not there any more.  Harmless when it was not."""
        source = self._all.pop(who, None)
        if source is not None:
            beside = self._of[source]
            del beside[who]
            if not beside:
                del self._of[source]


class Pace:
    """``rate`` newcomers a second in all, and of one source the 32nd part of that, four seconds' worth of it at once.

    Sources are held in two generations: when the younger is full, the elder is forgotten and the younger becomes the
    elder.  Who is forgotten may come as if never seen, so a storm from everywhere meets the rate of all, and costs no
    more memory than so many buckets.
    """

    def __init__(self, rate: int, now: float) -> None:
        self._of_source = max(1.0, rate / _SHARE)
        self._all = Bucket(rate, rate, now)
        self._young: dict[str, Bucket] = {}
        self._elder: dict[str, Bucket] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._elder)

    def allows(self, source: str, now: float) -> bool:
        """Whether one more may come from ``source`` now; then it has."""
        bucket = self._young.get(source)
        if bucket is None:
            bucket = self._elder.pop(source, None) or Bucket(self._of_source, int(_AT_ONCE * self._of_source), now)
            if len(self._young) >= _SOURCES:
                self._elder, self._young = self._young, {}
            self._young[source] = bucket
        return bucket.take(now) and self._all.take(now)
