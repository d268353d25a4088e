"""How many probes this device may send, to whom and how often: punching must never look like, or be, an attack.

Hundreds of flows a second have taken home routers down and were reported as floods, and a hostile peer may name a
stranger's address as its own.  So there are bounds for all attempts together, an address that never answers gets few
packets whoever named it, and a pair that failed waits an hour: what has failed once nearly always fails again.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict

MOST_PROBES = 1024
"""Of one attempt."""
MOST_A_SECOND = 500
MOST_UNANSWERED = 512
"""To one IPv4 address, or one IPv6 network of 64 bits, an hour."""
HOUR = 3600.0
_REMEMBERED = 4096


class Budget:
    """One for the device; times are of one monotonic clock."""

    def __init__(self) -> None:
        self._second, self._spent = 0.0, 0
        self._addresses: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self._failed: OrderedDict[str, float] = OrderedDict()

    def may_try(self, peer: str, now: float) -> bool:
        """Whether ``peer``, any name for it, may be punched to again."""
        failed = self._failed.get(peer)
        return failed is None or now - failed >= HOUR

    def failed(self, peer: str, now: float) -> None:
        """An attempt with ``peer`` ended at the relay."""
        self._failed[peer] = now
        self._failed.move_to_end(peer)
        if len(self._failed) > _REMEMBERED:
            self._failed.popitem(last=False)

    def network_changed(self) -> None:
        """We are elsewhere, so what failed may work now."""
        self._failed.clear()

    def spend(self, address: str, now: float) -> bool:
        """Take one probe to ``address``; False when it must not be sent."""
        if now - self._second >= 1:
            self._second, self._spent = now, 0
        place = _place(address)
        since, count = self._addresses.get(place, (now, 0))
        if now - since >= HOUR:
            since, count = now, 0
        if self._spent >= MOST_A_SECOND or count >= MOST_UNANSWERED:
            return False
        self._spent += 1
        self._addresses[place] = (since, count + 1)
        self._addresses.move_to_end(place)
        if len(self._addresses) > _REMEMBERED:
            self._addresses.popitem(last=False)
        return True

    def answered(self, address: str) -> None:
        """The peer is there, for it answered a probe of ours: nobody is bothered against their will."""
        self._addresses.pop(_place(address), None)


def _place(address: str) -> str:
    return address if ":" not in address else str(ipaddress.ip_network(f"{address}/64", strict=False))
