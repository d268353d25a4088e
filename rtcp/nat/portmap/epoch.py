"""Whether a router still knows what it granted: the clock it tells with every answer (RFC 6887 section 8.5).

The clock counts the seconds since the router last forgot its mappings.  If it ran slower or faster than ours in
between, or backwards, it was set anew, and all mappings with it.  NAT-PMP has the same clock (RFC 6886 section 3.6).
"""

from __future__ import annotations

from typing import NamedTuple

_SLACK = 2  # seconds a packet may have been under way, or lost to rounding


class Epoch(NamedTuple):
    """What the router's clock said, and when we heard it, in seconds."""

    clock: int
    heard: float

    def leads_to(self, later: Epoch) -> bool:
        """Whether the router remembers in ``later`` what it knew in this."""
        if later.clock + 1 < self.clock:
            return False
        ours, theirs = later.heard - self.heard, later.clock - self.clock
        return ours + _SLACK >= theirs - theirs / 16 and theirs + _SLACK >= ours - ours / 16
