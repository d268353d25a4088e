"""The tunnels that stand, and which of two between the same two devices does.

The first that was accepted wins while it lives, as the forerunner has it: two devices that dial each other at once then
agree on one.  But a device whose address changed comes back while its old tunnel still seems to live, and refusing it
would lock it out until TCP gives up.  So before a duplicate is refused, an old tunnel that was silent must answer a
ping: the newcomer proved the same key, and its dialler waits longer for the verdict than that takes.  Since whoever
comes back has most likely left, that answer is not waited for longer than the old tunnel's way is long.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

from cyfs_ns.identity.did import Did

Owner = TypeVar("Owner")

FRESH = 1.0
"""Seconds after which a sign of life no longer counts as proof."""
PROBE = 3.0
"""Seconds a tunnel has for answering; a shorter time makes one end whose router is back in a moment."""
_RIVALS_PROBE, _ROUND_TRIPS = 1.0, 3

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
    PROBE = "ping the one that stands, and ask again when it answers or patience is at its end"
    REFUSE = "the one that stands is alive"


def patience(round_trip: float) -> float:
    """Seconds a tunnel whose way there and back took ``round_trip`` has for answering when its peer comes anew."""
    return min(max(_ROUND_TRIPS * round_trip, _RIVALS_PROBE), PROBE)


def arbitrate(last_heard: float | None, now: float, probed_at: float | None = None, patience: float = PROBE) -> Verdict:
    """What to do with a second tunnel at ``now``.

    ``last_heard`` is when the standing one gave a sign of life, None if there is none or it is closed; ``probed_at`` is
    when it was pinged because of this newcomer, for whose sake it has ``patience`` seconds to answer.
    """
    if last_heard is None:
        return Verdict.ACCEPT
    if probed_at is not None and last_heard > probed_at:
        return Verdict.REFUSE
    if probed_at is not None:
        return Verdict.REPLACE if now >= probed_at + patience else Verdict.PROBE
    return Verdict.REFUSE if now - last_heard <= FRESH else Verdict.PROBE


class Register(Generic[Owner]):
    """The tunnels of one device, by their keys and by the names their peers go by.

    A name belongs to one device as long as a tunnel to that device stands; a device may have several names.  Version 4
    has one tunnel to a key, version 5 may have more; the newest is found.
    """

    def __init__(self, local: Did) -> None:
        self._local = local
        self._standing: dict[TunnelKey, list[Owner]] = {}
        self._devices: dict[Did, Did] = {}
        self._names: dict[Did, set[Did]] = {}
        self._ways: dict[Did, dict[TunnelKey, None]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._standing.values()))

    def tunnels(self) -> list[Owner]:
        return [tunnel for each in self._standing.values() for tunnel in each]

    def get(self, key: TunnelKey) -> Owner | None:
        found = self._standing.get(key)
        return found[-1] if found else None

    def find(self, name: Did, bootstrap: str = "") -> Owner | None:
        """The tunnel to whoever is called ``name``."""
        name = name.canonical
        return self.get(TunnelKey(self._local, self._devices.get(name, name), bootstrap))

    def by_any_way(self, device: Did) -> Owner | None:
        """A tunnel to ``device`` (canonical), however one gets there; the oldest way of several."""
        return next((self.get(key) for key in self._ways.get(device, ())), None)

    def holder(self, name: Did) -> Did | None:
        """The device that has ``name`` now."""
        return self._devices.get(name.canonical)

    def add(self, key: TunnelKey, tunnel: Owner) -> None:
        """``tunnel`` stands now, and is found before those that stood there."""
        self._ways.setdefault(key.remote, {})[key] = None
        self._standing.setdefault(key, []).append(tunnel)

    def call(self, device: Did, name: Did) -> bool:
        """``device``, which has a tunnel, is also called ``name``; False: another device is."""
        name = name.canonical
        if name == device:
            return True
        if self._devices.setdefault(name, device) != device:
            return False
        self._names.setdefault(device, set()).add(name)
        return True

    def remove(self, key: TunnelKey, tunnel: Owner) -> None:
        """``tunnel`` is over; harmless if it was removed before.

        With its last tunnel a device loses its names.
        """
        standing = self._standing.get(key, [])
        if tunnel not in standing:
            return
        standing.remove(tunnel)
        if standing:
            return
        del self._standing[key]
        del self._ways[key.remote][key]
        if not self._ways[key.remote]:
            del self._ways[key.remote]
            for name in self._names.pop(key.remote, ()):
                del self._devices[name]
