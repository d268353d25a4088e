"""Which of two tunnels between the same two devices stands.

The first that was accepted wins while it lives, as the forerunner has it: two devices that dial each other at once then
agree on one.  But a device whose address changed comes back while its old tunnel still seems to live, and refusing it
would lock it out until TCP gives up.  So before a duplicate is refused, an old tunnel that was silent must answer a
ping: the newcomer proved the same key, and its dialler waits longer for the verdict than that takes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from cyfs_ns.identity.did import Did

FRESH = 1.0
"""Seconds after which a sign of life no longer counts as proof."""
PROBE = 3.0
"""Seconds an old tunnel has for answering."""

DUPLICATE = "duplicate tunnel"
"""The reason a duplicate is given."""


@dataclass(frozen=True, slots=True)
class TunnelKey:
    """What makes two tunnels the same: both devices by their keys, and the way around, a URL, if one was taken."""

    local: Did
    remote: Did
    bootstrap: str = ""

    def __str__(self) -> str:
        return f"{self.local}_{self.remote}" + (f"|bootstrap={self.bootstrap}" if self.bootstrap else "")


class Verdict(Enum):
    """What becomes of a new tunnel, and of the one that stands."""

    ACCEPT = "nothing stands in its way"
    REPLACE = "the one that stands is dead: close it, accept the new one"
    PROBE = "ping the one that stands, and ask again when it answers or PROBE seconds later"
    REFUSE = "the one that stands is alive"


def arbitrate(last_heard: float | None, now: float, probed_at: float | None = None) -> Verdict:
    """What to do with a second tunnel at ``now``.

    ``last_heard`` is when the standing one gave a sign of life, None if there is none or it is closed; ``probed_at`` is
    when it was pinged because of this newcomer.
    """
    if last_heard is None:
        return Verdict.ACCEPT
    if probed_at is not None and last_heard > probed_at:
        return Verdict.REFUSE
    if probed_at is not None:
        return Verdict.REPLACE if now >= probed_at + PROBE else Verdict.PROBE
    return Verdict.REFUSE if now - last_heard <= FRESH else Verdict.PROBE
