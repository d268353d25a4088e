"""Addresses at which the peer may be found, each asked before anything but the question is sent there.

A peer that roams, or whose NAT restarts, is heard from a new address.  Somebody in between may have forged that, to
turn a download on a stranger; so what is there gets a challenge, and no more than three times the bytes that came from
it, until it echoes it (RFC 9000 section 8.2).  An address that our own side wants to try needs no allowance: a few
small questions are all it gets.  An echo is as large as what it answers, so it goes anywhere.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import Final

from rtcp.party import Address
from rtcp.udp.frames import NONCE
from rtcp.udp.wire import HEAD, SEAL

QUESTION: Final = HEAD.size + 1 + NONCE + SEAL
"""Bytes of a datagram with a challenge."""

_MOST: Final = 8
_TRIES: Final = 6
_FIRST_WAIT: Final = 0.2
_GREED: Final = 3


@dataclass(frozen=True, slots=True)
class Proof:
    """The peer is at ``address``; ``trip`` is the round trip, if certain, ``is_wanted`` whether we wanted to know."""

    address: Address
    trip: float | None
    is_wanted: bool


@dataclass(slots=True)
class _Candidate:
    address: Address
    nonce: bytes
    is_wanted: bool
    allowance: int
    due: float
    tries: int = 0
    asked_at: float = 0.0


class Paths:
    """``entropy`` makes the challenges."""

    __slots__ = ("_candidates", "_count", "_entropy")

    def __init__(self, entropy: bytes) -> None:
        self._entropy, self._count = entropy, 0
        self._candidates: dict[Address, _Candidate] = {}

    def seen(self, address: Address, size: int, now: float) -> None:
        """The peer spoke from ``address``: ``size`` bytes."""
        candidate = self._candidates.get(address) or self._add(address, now, is_wanted=False)
        candidate.allowance += _GREED * size

    def want(self, address: Address, now: float) -> None:
        """Our side wants to know whether the peer is at ``address``."""
        self._candidates.pop(address, None)
        self._add(address, now, is_wanted=True)

    def forget(self, address: Address) -> None:
        """There is nothing to find out any more."""
        self._candidates.pop(address, None)

    def _add(self, address: Address, now: float, *, is_wanted: bool) -> _Candidate:
        self._count += 1
        nonce = hmac.digest(self._entropy, self._count.to_bytes(8, "big"), hashlib.sha256)[:NONCE]
        if len(self._candidates) >= _MOST:
            del self._candidates[next(iter(self._candidates))]
        made = self._candidates[address] = _Candidate(address, nonce, is_wanted, 0, now)
        return made

    def due(self, now: float) -> tuple[Address, bytes] | None:
        """A challenge to send now, and where."""
        for candidate in list(self._candidates.values()):
            if candidate.due > now:
                continue
            if candidate.tries == _TRIES:
                del self._candidates[candidate.address]
                continue
            if not candidate.is_wanted:
                if candidate.allowance < QUESTION:
                    continue
                candidate.allowance -= QUESTION
            candidate.due = now + _FIRST_WAIT * float(1 << candidate.tries)
            candidate.tries += 1
            candidate.asked_at = now
            return candidate.address, candidate.nonce
        return None

    def proven(self, nonce: bytes, now: float) -> Proof | None:
        """What the echo of a challenge shows; None: it is none of ours."""
        for candidate in self._candidates.values():
            if candidate.tries and hmac.compare_digest(candidate.nonce, nonce):
                del self._candidates[candidate.address]
                trip = now - candidate.asked_at if candidate.tries == 1 else None
                return Proof(candidate.address, trip, candidate.is_wanted)
        return None

    def next_deadline(self) -> float | None:
        candidates = self._candidates.values()
        return min((c.due for c in candidates if c.is_wanted or c.allowance >= QUESTION), default=None)
