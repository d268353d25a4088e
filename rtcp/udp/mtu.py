"""How large a datagram the path takes: searched with datagrams that may get lost (RFC 8899).

The sizes are those of real paths, as UDP payload: 1,280 bytes over IPv6 and IPv4, WireGuard's 1,420, PPPoE's 1,492 and
Ethernet's 1,500.  The largest is tried first, since it is the likeliest.
"""

from __future__ import annotations

from typing import Final

from rtcp.udp.wire import FLOOR

SIZES: Final = (FLOOR, 1232, 1252, 1372, 1392, 1444, 1452, 1464, 1472)
_TOP: Final = len(SIZES) - 1
_TRIES: Final = 3
_AGAIN: Final = 600.0
_ALL_GONE: Final = 16
_TRIPS: Final = 3


class MtuSearch:
    """``size`` is good; whether it could be more is found out while there is something to send."""

    __slots__ = ("_due", "_gone", "_gone_since", "_high", "_low", "_probing", "_tries")

    def __init__(self) -> None:
        self._low, self._high = 0, _TOP
        self._probing: int | None = None
        self._tries = self._gone = 0
        self._due = self._gone_since = 0.0

    @property
    def size(self) -> int:
        return SIZES[self._low]

    def probe(self, now: float) -> int | None:
        """The size of a probe to send now."""
        if self._probing is not None or now < self._due:
            return None
        if self._low == self._high:
            if self._high == _TOP:
                return None
            self._high = _TOP
        self._probing = _TOP if self._high == _TOP else (self._low + self._high + 1) // 2
        return SIZES[self._probing]

    def arrived(self, size: int) -> None:
        """A datagram of ``size``, which is above ``FLOOR``, was acknowledged."""
        self._gone = 0
        if self._probing is not None and SIZES[self._probing] == size:
            self._low, self._probing, self._tries = self._probing, None, 0

    def probe_lost(self, size: int, now: float) -> None:
        """A probe of ``size`` was not."""
        if self._probing is None or SIZES[self._probing] != size:
            return
        self._tries += 1
        if self._tries >= _TRIES:
            self._high, self._tries = self._probing - 1, 0
            if self._low == self._high:
                self._due = now + _AGAIN
        self._probing = None

    def lost(self, now: float, trip: float) -> None:
        """Another datagram above ``FLOOR`` got lost.  When all do for some round trips, the path has become narrow."""
        if not self._gone:
            self._gone_since = now
        self._gone += 1
        if self._gone >= _ALL_GONE and now - self._gone_since >= _TRIPS * trip:
            self.black_hole(now)

    def black_hole(self, now: float) -> None:
        """Large datagrams do not arrive any more."""
        self._high, self._low = max(0, self._low - 1), 0
        self._probing, self._tries, self._gone = None, 0, 0
        self._due = now + _AGAIN if self._low == self._high else now
