"""Which machines of a zone are to have a member of etcd, and how members are called.

A member is known by its peer URL from the moment it is added, and by nothing else: so the URL says who it is,
``unix://NAME.KEY.LIFE:1``.  ``NAME`` is the device's name in the zone document, ``KEY`` stands for its key, and
``LIFE`` for one life of its data: a disk that was wiped never becomes the member again that it was, which might have
forgotten what it voted for.  A replaced device (same name, new key) is another member, too.

etcd takes such a URL for a socket of that name in the directory it runs in.  There the machine's own member listens
at its own name, and the gateway at those of the others, whom it reaches by tunnels: so each machine can have the same
URLs, none of them is an address, and the directory's mode keeps everybody else out.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from cyfs_ns.errors import BadWire, ConfigFault
from cyfs_ns.identity.did import Did, dev_did
from cyfs_ns.identity.documents import ZoneDoc
from cyfs_ns.identity.keys import PublicKey
from cyfs_ns.trust.places import device_did
from zone.membership import ood_names

CLIENT: Final = "client:1"
"""The socket for clients."""

_URL: Final = re.compile(r"unix://([a-z0-9][a-z0-9_-]{0,62})\.([0-9a-f]{16})\.([0-9a-f]{8}):1\Z").match


@dataclass(frozen=True, slots=True)
class Seat:
    """A machine that is to have a member."""

    name: str
    """Of the device in its zone."""
    did: Did
    """By which it is called through the gateway."""
    key: PublicKey

    @property
    def device(self) -> Did:
        """The DID that is its key."""
        return dev_did(self.key)

    @property
    def mark(self) -> str:
        """What stands for the key: 16 hexadecimal digits."""
        return hashlib.sha256(self.key.x.encode()).hexdigest()[:16]

    def url(self, life: str) -> str:
        """Of its member in that life: 8 hexadecimal digits."""
        return f"unix://{self.name}.{self.mark}.{life}:1"

    def owns(self, url: str) -> bool:
        """Whether ``url`` is of a member on this machine, in whatever life."""
        called = _URL(url)
        return called is not None and called[1] == self.name and called[2] == self.mark


def check_url(untrusted: str) -> str:
    """A peer URL as we make them.  Raises ``BadWire``."""
    if _URL(untrusted) is None:
        raise BadWire(f"{untrusted[:120]!r} is no peer URL of a zone's member")
    return untrusted


def socket_name(url: str) -> str:
    """The socket of a peer URL, in the directory of whoever runs there."""
    return url.removeprefix("unix://")


def owner_of(url: str, seats: Iterable[Seat]) -> Seat | None:
    """The machine that the member at ``url`` is on."""
    return next((seat for seat in seats if seat.owns(url)), None)


def seats_of(zone: ZoneDoc) -> tuple[Seat, ...]:
    """The machines that ``zone`` names as OODs, in its order.  Raises ``ConfigFault`` where one has no document."""
    seats = []
    for name in ood_names(zone):
        if (device := zone.devices.get(name)) is None:
            raise ConfigFault(f"zone document of {zone.id}: OOD {name} has no device document in it; sign it anew")
        seats.append(Seat(name, device_did(name, zone.id), device.key))
    if len({seat.name for seat in seats}) < len(seats) or len({seat.key for seat in seats}) < len(seats):
        raise ConfigFault(f"zone document of {zone.id}: two OODs have one name or one key")
    return tuple(seats)


def others_of(zone: ZoneDoc) -> tuple[Seat, ...]:
    """Its machines that are no OODs."""
    oods = ood_names(zone)
    return tuple(
        Seat(name, device_did(name, zone.id), device.key) for name, device in zone.devices.items() if name not in oods
    )
