"""Which Hellos were seen already: a bounded memory that never forgets one that could still be replayed.

A Hello is remembered until no clock within the leeway would take it any more.  When the memory is full the one that
expires first gives way, and with it the right to *all* Hellos that expire no later: those are refused from then on,
seen or not.  So a flood can cost the slowest some Hellos, and can never buy a replay.
"""

from __future__ import annotations

import heapq

from rtcp.tokens import LEEWAY

MOST_NONCES = 16384


class NonceMemory:
    """Pairs of a device (its ``did:dev:…``) and a nonce it used, ``most`` of them."""

    def __init__(self, most: int = MOST_NONCES) -> None:
        self._most = most
        self._seen: set[tuple[str, bytes]] = set()
        self._by_end: list[tuple[float, str, bytes]] = []
        self._floor = float("-inf")

    def remember(self, device: str, nonce: bytes, exp: int, now: float) -> bool:
        """Whether this is the first time; False: a replay, or perhaps one.  Times are seconds since 1970."""
        self._forget_until(now)
        end = exp + LEEWAY
        if end <= self._floor or (device, nonce) in self._seen:
            return False
        self._seen.add((device, nonce))
        heapq.heappush(self._by_end, (end, device, nonce))
        if len(self._by_end) > self._most:
            self._forget()
        return True

    def __len__(self) -> int:
        return len(self._by_end)

    def _forget_until(self, now: float) -> None:
        while self._by_end and self._by_end[0][0] < now:
            self._forget()

    def _forget(self) -> None:
        end, device, nonce = heapq.heappop(self._by_end)
        self._seen.discard((device, nonce))
        self._floor = max(self._floor, end)  # also for what expired: the clock may be set back
