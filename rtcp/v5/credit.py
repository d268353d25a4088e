"""Credit: how much may be sent that nobody has read (§8.3 of the document).

Limits are absolute counts of bytes from the start, so a repeated or late one does no harm.  A stream's window is opened
again when half of it was read, and doubled while it is read whole in less than two round trips; so only who reads fast
has a large one.  The tunnel's is opened again on arrival, so that slow readers do not stop the others, as long as what
all of them left unread stays within its bound.
"""

from __future__ import annotations

from cyfs_ns.errors import BadWire
from rtcp.v5.frames import MOST_CREDIT
from rtcp.v5.ledger import SMALL, Share

_SHORTEST = 0.02
"""Round trips below half of this are taken for it, since a turn of the reactor takes that long when much goes on."""
_LEAST_GRANT = 16384


class Allowance:
    """What the peer lets us send: ``limit`` in all, of which ``sent`` is gone."""

    __slots__ = ("limit", "sent")

    def __init__(self, limit: int) -> None:
        self.limit, self.sent = limit, 0

    @property
    def left(self) -> int:
        return self.limit - self.sent

    def raised(self, limit: int) -> bool:
        """A CREDIT came; whether it is more than before.  Raises ``BadWire``."""
        if limit > MOST_CREDIT:
            raise BadWire(f"credit of {limit} bytes")
        if limit <= self.limit:
            return False
        self.limit = limit
        return True


class Window:
    """What we let the peer send on one stream.  ``size`` now, ``most`` when it is read fast.

    ``share`` counts what is not read.
    """

    __slots__ = ("_consumed", "_mark", "_mark_at", "_share", "_stock", "limit", "most", "received", "size")

    def __init__(self, size: int, most: int, share: Share, now: float) -> None:
        self.size = self.limit = size
        self.most = most
        self._share = share
        self.received = self._consumed = self._mark = self._stock = 0
        self._mark_at = now

    def arrived(self, size: int) -> None:
        """Raises ``BadWire`` beyond the limit."""
        self.received += size
        self._share.unread += size
        if self.received > self.limit:
            raise BadWire(f"{self.received} bytes on a stream that has credit for {self.limit}")

    @property
    def unread(self) -> int:
        return self.received - self._consumed

    def drop(self) -> None:
        """Nobody reads what came."""
        self._share.unread -= self.unread
        self._consumed = self.received

    def close(self) -> None:
        """The stream is over."""
        self.drop()
        self._stock = self._share.stock(self._stock, 0)

    def consumed(self, size: int, round_trip: float, now: float) -> bool:
        """Bytes were read; whether ``limit`` was raised and has to be told."""
        self._consumed += size
        self._share.unread -= size
        if self._consumed - self._mark >= self.size:
            wanted = self.size
            if now - self._mark_at < max(2 * round_trip, _SHORTEST):
                wanted = min(2 * wanted, max(self.most, wanted))
            if wanted > SMALL:
                self._stock = self._share.stock(self._stock, wanted - SMALL)
                if not self._stock:
                    wanted = min(self.size, SMALL)
            self.size = wanted
            self._mark, self._mark_at = self._consumed, now
        if self.limit - self._consumed > self.size // 2:
            return False
        self.limit = self._consumed + self.size
        return True


class Pool:
    """What we let the peer send on control, all streams together: ``size`` ahead, while ``unread`` is below ``most``.

    ``unread`` plus what may still arrive never exceeds ``most``, however the streams are read.
    """

    __slots__ = ("limit", "most", "received", "size", "unread")

    def __init__(self, size: int, most: int) -> None:
        self.size = self.limit = size
        self.most = max(size, most)
        self.received = self.unread = 0

    @property
    def is_full(self) -> bool:
        """Whether so much waits unread that nothing useful can be granted."""
        return self.most - self.unread < _LEAST_GRANT

    def arrived(self, size: int) -> None:
        """DATA came, perhaps for a stream that is gone.  Raises ``BadWire`` beyond the limit."""
        self.received += size
        if self.received > self.limit:
            raise BadWire(f"{self.received} bytes on a tunnel that has credit for {self.limit}")

    def renewed(self) -> bool:
        """Whether ``limit`` was raised and has to be told."""
        if self.limit - self.received > self.size // 2:
            return False
        limit = self.received + min(self.size, self.most - self.unread)
        if limit - self.limit < min(_LEAST_GRANT, self.size // 2):
            return False
        self.limit = limit
        return True
