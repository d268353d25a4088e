"""What was learnt of addresses: which were quick, which were slow, which did not answer.

Order matters little when all addresses work, and much when the first ones are those of a home network we are not in.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from rtcp.party import Address

_WEIGHT = 0.25
"""Of the newest time in the average."""
_FAILED = float("inf")


class Paths:
    """The last ``most`` addresses that were tried."""

    def __init__(self, most: int = 1024) -> None:
        self._most = most
        self._seconds: OrderedDict[Address, float] = OrderedDict()

    def arrange(self, addresses: Sequence[Address]) -> list[Address]:
        """What worked before comes first, the quickest first; then what is new, as it stands; then what failed."""

        def rank(address: Address) -> tuple[int, float]:
            seconds = self._seconds.get(address)
            if seconds is None:
                return 1, 0
            return (2, 0) if seconds == _FAILED else (0, seconds)

        return sorted(dict.fromkeys(addresses), key=rank)

    def worked(self, address: Address, seconds: float) -> None:
        """``address`` answered after ``seconds``."""
        before = self._seconds.get(address, _FAILED)
        self._note(address, seconds if before == _FAILED else before + _WEIGHT * (seconds - before))

    def failed(self, address: Address) -> None:
        """``address`` did not answer, or somebody else did."""
        self._note(address, _FAILED)

    def _note(self, address: Address, seconds: float) -> None:
        self._seconds[address] = seconds
        self._seconds.move_to_end(address)
        if len(self._seconds) > self._most:
            self._seconds.popitem(last=False)
