"""A relay without sockets, and devices that speak to it from addresses that are only words."""

from __future__ import annotations

import random

from cyfs_gateway.sn.relay import RANDOM_SIZE, Allocation, Ended, Relay, RelayBounds, Session
from rtcp.nat.relayend import RelayEnd, RelayState
from rtcp.nat.relaywire import DATA, HEADER_SIZE


class Stage:
    """``relay`` at the time ``now``; ``grants`` is what accounts still have, ``ended`` what was told of sessions."""

    def __init__(self, *, grants: int = 1 << 40, **bounds: float) -> None:
        self.now = 1000.0
        self.die = random.Random(7)
        self.grants = grants
        self.asked: list[int] = []
        self.ended: list[Ended] = []
        self.relay: Relay[str] = Relay(
            RelayBounds(**bounds),  # type: ignore[arg-type]
            self._take,
            self.ended.append,
            self.die.randbytes(32),
            self.now,
        )

    def _take(self, _session: Session[str], octets: int) -> bool:
        self.asked.append(octets)
        if self.grants < octets:
            return False
        self.grants -= octets
        return True

    def allocate(self, account: str = "anna", **how: float) -> Allocation:
        return self.relay.allocate(account, self.die.randbytes(RANDOM_SIZE), self.now, **how)  # type: ignore[arg-type]

    def ends(self, allocation: Allocation) -> tuple[RelayEnd, RelayEnd]:
        return tuple(RelayEnd(allocation.relay_id, side, key) for side, key in enumerate(allocation.keys))  # type: ignore[return-value]

    def bound(self, account: str = "anna") -> tuple[Allocation, RelayEnd, RelayEnd]:
        """A new session whose sides are bound at ``a`` and ``b``."""
        allocation = self.allocate(account)
        near, far = self.ends(allocation)
        self.bind(near, b"a")
        self.bind(far, b"b")
        return allocation, near, far

    def bind(self, end: RelayEnd, address: bytes) -> None:
        end.bind(self.now)
        self.converse(end, address)
        assert end.state is RelayState.BOUND

    def converse(self, end: RelayEnd, address: bytes) -> list[bytes]:
        """Carry between ``end`` and the relay what they have to say; what the end said."""
        said = []
        while (datagram := end.data_to_send()) is not None:
            said.append(datagram)
            answer = self.relay.hear(datagram, address, "door", self.now)
            if answer is not None:
                assert len(answer) <= len(datagram)
                end.receive(answer, self.now)
        return said

    def forward(self, datagram: bytes, source: bytes) -> bytes | None:
        """To which address the hot path would send it; None: to nobody."""
        if len(datagram) < HEADER_SIZE or datagram[0] != DATA:
            return None
        to = self.relay.ways.get(source + datagram[:HEADER_SIZE])
        if to is None or not to.address:
            return None
        if to.lease.left < len(datagram) and not self.relay.renew(to.session, len(datagram), 1, self.now):
            return None
        to.lease.left -= len(datagram)
        to.session.used = self.now
        return to.address

    def wait(self, seconds: float) -> None:
        """Let time pass, stopping wherever the relay wants it."""
        until = self.now + seconds
        while (due := self.relay.next_deadline()) <= until:
            self.now = max(self.now, due)
            self.relay.handle_timeout(self.die.randbytes(32), self.now)
        self.now = until
