"""Whom an SN lets in, and how often anybody may ask.

Who is registered may have a tunnel for as long as their document is in force and their account stands.  A stranger may
have one only where strangers can become anything here, and then for some minutes and as one of so many: long enough to
ask for an account, too short to live on.

Each device has a budget of questions that fills up steadily; who is over it waits, and so does nobody else.

Time is monotonic seconds where nothing else is said.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from cyfs_gateway.flow import Identity
from cyfs_gateway.sn.registry import Registry
from cyfs_ns.errors import BadWire
from cyfs_ns.identity.did import Did, parse_did

STAY: Final = 600.0
"""Seconds for which a stranger may have a tunnel."""
_BURST, _INTERVAL = 40, 0.2
"""Questions of one device: so many at once, and one more every so many seconds."""
_MOST_ASKERS = 65536


class Guests:
    """``most`` strangers at a time; 0: none.  ``wall`` tells seconds since 1970, ``steady`` monotonic ones."""

    def __init__(self, registry: Registry, most: int, wall: Callable[[], float], steady: Callable[[], float]) -> None:
        self._registry, self._most, self._wall, self._steady = registry, most, wall, steady
        self._until: dict[Did, float] = {}  # the first to go comes first

    def __len__(self) -> int:
        return len(self._until)

    def wants(self, identity: Identity) -> bool:
        """Whether a tunnel from somebody is wanted; a stranger's time begins when that is asked first."""
        device = device_of(identity)
        if device is None:
            return False
        if self.is_member(device):
            self._until.pop(device, None)
            return True
        now = self._steady()
        if self._is_barred(device):
            return False
        if device not in self._until:
            if len(self._until) >= self._most:
                self._forget(now)
            if len(self._until) >= self._most:
                return False
            self._until[device] = now + STAY
        return now < self._until[device]

    def is_member(self, device: Did) -> bool:
        """Whether ``device`` is somebody's here, at this moment."""
        found = self._registry.device(device)
        return found is not None and self._wall() < found.expires

    def _is_barred(self, device: Did) -> bool:
        known = self._registry.known_device(device)
        account = None if known is None else self._registry.account(known.owner)
        return account is not None and bool(account.suspended)

    def next_deadline(self) -> float | None:
        """When the time of the next stranger is over; None: there is none."""
        now = self._steady()
        return next((until for until in self._until.values() if until > now), None)

    def _forget(self, now: float) -> None:
        """Who is a member by now makes room, and whose time was over long ago, and may come again."""
        left = {device: until for device, until in self._until.items() if until + STAY > now}
        self._until = {device: until for device, until in left.items() if not self.is_member(device)}


def device_of(identity: Identity) -> Did | None:
    """The device that somebody has proven to be."""
    try:
        device = parse_did(identity.device).canonical
    except BadWire:
        return None
    return device if device.key is not None else None


class Budgets:
    """How often each device may ask."""

    def __init__(self) -> None:
        self._ahead: dict[Did, float] = {}

    def spend(self, device: Did, now: float) -> float:
        """Seconds to wait before the question of ``device`` is answered."""
        if len(self._ahead) >= _MOST_ASKERS:
            self._ahead = {one: until for one, until in self._ahead.items() if until > now}
        until = max(self._ahead.get(device, now), now) + _INTERVAL
        self._ahead[device] = until
        return max(0.0, until - now - _BURST * _INTERVAL)
