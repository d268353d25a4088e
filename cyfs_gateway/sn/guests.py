"""Whom an SN lets in, and how often anybody may ask.

Who is registered may have a tunnel for as long as their document is in force and their account stands.  A stranger may
have one only where strangers can become anything here, and then for some minutes and as one of so many
(:mod:`cyfs_gateway.sn.crowd`): long enough to ask for an account, too short to live on.  A network is a /24 of IPv4 or
a /48 of IPv6.

Each device has a budget of questions that fills up steadily; who is over it waits, and so does nobody else.

Time is monotonic seconds where nothing else is said.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address, ip_network
from typing import Final

from cyfs_gateway.flow import Identity
from cyfs_gateway.sn.crowd import QUIET, Crowd
from cyfs_gateway.sn.registry import Registry
from cyfs_ns.errors import BadWire
from cyfs_ns.identity.did import Did, parse_did

STAY: Final = 600.0
"""Seconds for which a stranger may have a tunnel."""
_LOOK: Final = 1.0
"""Seconds from one search for guests who are members by now to the next."""
_BURST, _INTERVAL = 40, 0.2
"""Questions of one device: so many at once, and one more every so many seconds."""
_MOST_ASKERS = 65536


class Guests:
    """No stranger until :meth:`make_room`.  ``wall`` tells seconds since 1970, ``steady`` monotonic ones; ``crowded``
    is called when one has to go for another."""

    def __init__(
        self,
        registry: Registry,
        wall: Callable[[], float],
        steady: Callable[[], float],
        crowded: Callable[[], None] = lambda: None,
    ) -> None:
        self._registry, self._wall, self._steady, self._crowded = registry, wall, steady, crowded
        self._crowd: Crowd[Did] = Crowd()
        self._until: dict[Did, float] = {}  # the first to go comes first
        self._sent_away: dict[Did, float] = {}
        """Until when those who had to go for others are not wanted: until they have gone indeed."""
        self._look_at = 0.0

    def __len__(self) -> int:
        return len(self._crowd)

    def make_room(self, most: int) -> None:
        """From now on there are ``most`` strangers at a time; who is there stays for their time."""
        self._crowd.most = most

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
        if self.bars(identity) or now < self._sent_away.get(device, now):
            return False
        if device not in self._crowd:
            network = network_of(identity.source)
            if not self._has_room(network, now):
                return False
            if not identity.source:
                return True
            if self._crowd.is_full(network) and (silent := self._crowd.silent(network, now)) is not None:
                self._send_away(silent, now)
            self._until[device] = now + STAY
            self._crowd.enter(device, network, now)
        return now < self._until[device]

    def hear(self, device: Did) -> None:
        """It says something, or is answered: nobody has its place so soon."""
        self._crowd.hear(device, self._steady())

    def _has_room(self, network: str, now: float) -> bool:
        """Whether there is room for one more from ``network``, made by those whose time was over long ago, who may come
        again, by who are members by now, and by whoever has been silent longest."""
        while self._until and self._until[device := next(iter(self._until))] + STAY <= now:
            self._drop(device)
        if self._crowd.is_full(network) and now >= self._look_at:
            self._look_at = now + _LOOK
            for device in filter(self.is_member, list(self._crowd)):
                self._drop(device)
        return not self._crowd.is_full(network) or self._crowd.silent(network, now) is not None

    def _send_away(self, device: Did, now: float) -> None:
        self._drop(device)
        while self._sent_away and self._sent_away[first := next(iter(self._sent_away))] <= now:
            del self._sent_away[first]
        self._sent_away[device] = now + QUIET
        self._crowded()

    def _drop(self, device: Did) -> None:
        self._until.pop(device, None)
        self._crowd.leave(device)

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
