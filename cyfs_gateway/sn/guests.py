"""Whom an SN lets in, and how often anybody may ask.

Who is registered may have a tunnel for as long as their document is in force and their account stands.  A stranger may
have one only where strangers can become anything here, and then for some minutes and as one of so many: long enough to
ask for an account, too short to live on.  Keys cost nothing, addresses do: an eighth of all places is the most that
strangers from one network have, which is a /24 of IPv4 or a /48 of IPv6.

Each device has a budget of questions that fills up steadily; who is over it waits, and so does nobody else.

Time is monotonic seconds where nothing else is said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address, ip_network
from typing import Final

from cyfs_gateway.flow import Identity
from cyfs_gateway.sn.registry import Registry
from cyfs_ns.errors import BadWire
from cyfs_ns.identity.did import Did, parse_did

STAY: Final = 600.0
"""Seconds for which a stranger may have a tunnel."""
_SHARE, _LEAST_SHARE = 8, 4
"""One network has the how-manieth part of all places, and at least so many."""
_LOOK: Final = 1.0
"""Seconds from one search for guests who are members by now to the next."""
_BURST, _INTERVAL = 40, 0.2
"""Questions of one device: so many at once, and one more every so many seconds."""
_MOST_ASKERS = 65536


class Guests:
    """No stranger until :meth:`make_room`.  ``wall`` tells seconds since 1970, ``steady`` monotonic ones."""

    def __init__(self, registry: Registry, wall: Callable[[], float], steady: Callable[[], float]) -> None:
        self._registry, self._wall, self._steady = registry, wall, steady
        self._most = self._most_of = 0
        self._until: dict[Did, float] = {}  # the first to go comes first
        self._network: dict[Did, str] = {}
        self._of: Counter[str] = Counter()
        self._look_at = 0.0

    def __len__(self) -> int:
        return len(self._until)

    def make_room(self, most: int) -> None:
        """From now on there are ``most`` strangers at a time; who is there stays for their time."""
        self._most, self._most_of = most, share_of(most)

    def wants(self, identity: Identity) -> bool:
        """Whether a tunnel from somebody is wanted.  A stranger's time begins when that is asked first with the address
        it comes from; without one, whether there is any room."""
        device = device_of(identity)
        if device is None:
            return False
        if self.is_member(device):
            self._drop(device)
            return True
        now = self._steady()
        if self.bars(identity):
            return False
        if device not in self._until:
            network = network_of(identity.source)
            if not self._has_room(network, now):
                return False
            if not identity.source:
                return True
            self._until[device], self._network[device] = now + STAY, network
            self._of[network] += 1
        return now < self._until[device]

    def _has_room(self, network: str, now: float) -> bool:
        """Whether there is room for one more from ``network``, made by those whose time was over long ago, who may come
        again, and who are members by now."""
        while self._until and self._until[device := next(iter(self._until))] + STAY <= now:
            self._drop(device)
        is_full = len(self._until) >= self._most or self._of[network] >= self._most_of
        if is_full and now >= self._look_at:
            self._look_at = now + _LOOK
            for device in filter(self.is_member, list(self._until)):
                self._drop(device)
        return len(self._until) < self._most and self._of[network] < self._most_of

    def _drop(self, device: Did) -> None:
        if self._until.pop(device, None) is not None:
            network = self._network.pop(device)
            self._of[network] -= 1
            if not self._of[network]:
                del self._of[network]

    def is_member(self, device: Did) -> bool:
        """Whether ``device`` is somebody's here, at this moment."""
        found = self._registry.device(device)
        return found is not None and self._wall() < found.expires

    def bars(self, identity: Identity) -> str:
        """What speaks against somebody who is no member: a suspended account, by which a machine of theirs came here or
        which its owner has, as far as pins say who that is.  Empty: nothing."""
        device = device_of(identity)
        if device is None or self.is_member(device):
            return ""
        known = self._registry.known_device(device)
        owners = [] if known is None else [known.owner]
        with suppress(BadWire):
            owners.append(parse_did(identity.owner).canonical)
        suspended = (account.suspended for owner in owners if (account := self._registry.account(owner)) is not None)
        return next((f"the account is barred here: {why}" for why in suspended if why), "")

    def next_deadline(self) -> float | None:
        """When the time of the next stranger is over; None: there is none."""
        now = self._steady()
        return next((until for until in self._until.values() if until > now), None)


def share_of(places: int) -> int:
    """How many of so many places for strangers one network may have."""
    return max(_LEAST_SHARE, places // _SHARE)


def network_of(source: str) -> str:
    """By what strangers at an IP address are counted: their neighbourhood, of whose addresses one person may have all.
    Whatever is no address is one neighbourhood."""
    try:
        address = ip_address(source)
    except ValueError:
        return ""
    address = getattr(address, "ipv4_mapped", None) or address
    return str(ip_network((address, 24 if address.version == 4 else 48), strict=False))


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
