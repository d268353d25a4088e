"""Sessions of the UDP relay on the books: each is a stream of the account that asked for it, and draws on its month."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable

from cyfs_gateway.io.sn.ledger import Draw, Ledger
from cyfs_gateway.io.sn.relaydoor import Door
from cyfs_gateway.io.sn.udprelay import UdpRelay
from cyfs_gateway.sn.relay import Allocation, Ended, RelayBounds, Session
from cyfs_ns.identity.did import Did

_log = logging.getLogger("cyfs.sn")


class Sessions:
    """``places`` and ``bounds`` as of :class:`~cyfs_gateway.io.sn.udprelay.UdpRelay`, which is at work in ``relay``.

    Raises ``OSError`` when a place cannot be had.
    """

    def __init__(
        self,
        ledger: Ledger,
        places: Iterable[tuple[str, int]],
        bounds: RelayBounds,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger, self._clock = ledger, clock
        self._draws: dict[bytes, Draw] = {}
        self.relay = UdpRelay(places, bounds, self._take, self._ended, clock)

    def open(self, owner: Did) -> tuple[Allocation, int]:
        """A session on the account of ``owner`` (canonical), and for how many seconds at most.  Raises ``Refused``."""
        draw = Draw(self._ledger, owner)
        try:
            allocation = self.relay.allocate(str(owner))
        except BaseException:
            draw.end(0)
            raise
        self._draws[allocation.relay_id] = draw
        return allocation, int(allocation.until - self._clock())

    def end_account(self, owner: Did, why: str) -> None:
        """End all sessions of an account."""
        self.relay.end_account(str(owner), why)

    def _take(self, session: Session[Door], octets: int) -> bool:
        draw = self._draws.get(session.header[1:])
        return draw is not None and draw.take(octets)

    def _ended(self, ended: Ended) -> None:
        draw = self._draws.pop(ended.relay_id, None)
        if draw is not None:
            draw.end(ended.unused)
        _log.debug("a session of %s is over: %s (%d octets)", ended.account, ended.why, ended.octets)
