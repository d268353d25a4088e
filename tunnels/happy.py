"""Happy Eyeballs, version 2 (RFC 8305): in which order addresses are tried, and when the next attempt starts.

The families take turns, so that a broken one costs one attempt and not all (section 4).  An attempt gets a head start
before the next one begins beside it; a failed attempt lets the next begin at once (section 5).  Nothing is cancelled
until one has won.  Absent on purpose: the resolution delay of section 3; names are resolved in one call, both families.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Final

from tunnels.spec import IpVersion

ATTEMPT_DELAY: Final = 0.25
"""Seconds between attempts: section 5's "Connection Attempt Delay"."""

_MOST: Final = 16
"""Addresses tried for one name; a hostile zone may list hundreds."""


def arrange(addresses: Iterable[str], ip_version: IpVersion = "dual") -> list[str]:
    """The addresses (IP texts) in the order to try: families in turns, the preferred one first, unwanted ones left out.

    ``dual`` begins with IPv6, as the RFC wants; the order within a family is kept.
    """
    six: list[str] = []
    four: list[str] = []
    for address in dict.fromkeys(addresses):
        (six if ":" in address else four).append(address)
    if ip_version == "ipv4":
        return four[:_MOST]
    if ip_version == "ipv6":
        return six[:_MOST]
    first, second = (four, six) if ip_version == "ipv4-prefer" else (six, four)
    return [address for pair in zip_longest(first, second) for address in pair if address is not None][:_MOST]


class Race:
    """Which attempts to start.

    While it is ``waiting``, its owner calls :meth:`start`, sleeps until ``next_start`` or until an attempt ends, and
    reports failed attempts by :meth:`failed`.
    """

    def __init__(self, addresses: Sequence[str], delay: float = ATTEMPT_DELAY) -> None:
        self._waiting = list(reversed(addresses))
        self._delay = delay
        self.next_start = 0.0
        """When the next attempt may start, on the caller's clock."""

    @property
    def waiting(self) -> bool:
        """Whether addresses are left that were not tried."""
        return bool(self._waiting)

    def start(self, now: float) -> str | None:
        """The address to try now, if it is time for one."""
        if not self._waiting or now < self.next_start:
            return None
        self.next_start = now + self._delay
        return self._waiting.pop()

    def failed(self, now: float) -> None:
        """An attempt has failed: the next may start at once."""
        self.next_start = now
