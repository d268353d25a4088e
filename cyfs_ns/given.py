"""An answer together with its reasons, and the way it came, told stop by stop.

The usual question keeps no way; ``explain`` does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from cyfs_ns.reply import Reply, ttls, with_ttls
from cyfs_ns.store import Origin

STEADY = 1 << 16
"""For ``Given.fixed``: all of them."""

Tell: TypeAlias = Callable[[str, str], None]
"""Takes the name of a stop and what was decided there."""


class Step(NamedTuple):
    """One stop of a question's way."""

    stop: str
    said: str
    milliseconds: float
    """Since the question came in."""


@dataclass(slots=True)
class Trail:
    """The way of one question, told as it goes; ``clock`` in seconds."""

    clock: Callable[[], float]
    steps: list[Step] = field(default_factory=list)
    begun: float = 0.0

    def __post_init__(self) -> None:
        self.begun = self.clock()

    def tell(self, stop: str, said: str) -> None:
        self.steps.append(Step(stop, said, (self.clock() - self.begun) * 1000))


def tell_nobody(stop: str, said: str) -> None:
    """The trail of a question nobody wants explained."""


class Given(NamedTuple):
    """An answer and its reasons.  Times are seconds of the monotonic clock."""

    reply: Reply
    source: str
    """As in :class:`cyfs_ns.statistics.Heard`."""
    why: str = ""
    age: int = 0
    """Seconds its TTLs have lost."""
    fixed: int = 0
    """How many of its TTLs, the first ones, are told in full each time instead of being counted down."""
    ttl_min: int | None = None
    until: float = 0.0
    """Until when the same may be said again without asking anybody; 0: not at all."""
    origin: Origin | None = None
    """The entry of the cache it comes from, if that decides how long it is good."""
    server: str = ""
    second: int = 0
    """The whole second of the clock at which ``age`` held; 0: now."""


def told_at_most(given: Given, most: int, second: int) -> Given:
    """The same with no TTL told above ``most``, at a whole ``second`` of the clock.

    A TTL that is cut stands still until the true one has come down to ``most``; till then, and if those that are cut
    come before those that are not, the same may be said again unasked.
    """
    if given.ttl_min is not None:
        given = given._replace(ttl_min=min(given.ttl_min, most))
    over = [ttl - given.age - most for ttl in ttls(given.reply)]
    cut = [each for each in over if each > 0]
    if not cut:
        return given
    leading = next((at for at, each in enumerate(over) if each <= 0), len(over))
    until = min(given.until, second + min(cut) + 1) if leading == len(cut) else 0.0
    return given._replace(reply=with_ttls(given.reply, 0, most + given.age), fixed=leading, until=until)


class Stand(NamedTuple):
    """An answer with a fake address."""

    reply: Reply
    life: float
    """Seconds for which the same may be said again unasked."""
    freed: str = ""
    """The name whose address it is no longer, though somebody may still be told so."""
