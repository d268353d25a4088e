"""Asking along ways that carry nothing now whether they still lead to the peer: with probes (``probe.py``).

A way that is asked keeps its NATs open, and one that answers may be used at once.  A ping is answered where it came
from, whatever is known of that place: it is sealed by the peer, and the answer is no larger.
"""

from __future__ import annotations

import hmac
from typing import Final

from cyfs_ns.errors import BadWire
from rtcp.nat.probe import ProbeBox, Word
from rtcp.party import Address

_MOST: Final = 64
"""Pings that may be unanswered; older ones are forgotten."""


class Pings:
    """Of one pair, as of the attempt with this ``secret`` and these nonces (``ProbeBox``)."""

    def __init__(self, secret: bytes, *, opens: bool, our_nonce: bytes, their_nonce: bytes) -> None:
        own = hmac.digest(secret, b"rtcp ways 1", "sha256")
        self._box = ProbeBox(own, opens=opens, our_nonce=our_nonce, their_nonce=their_nonce)
        self._sent: dict[int, tuple[Address, float]] = {}

    @property
    def attempt(self) -> bytes:
        """What ``attempt_of`` finds in them."""
        return self._box.attempt

    def ping(self, to: Address, now: float) -> bytes:
        """What to send there."""
        number, data = self._box.write(Word.PING)
        self._sent[number] = to, now
        if len(self._sent) > _MOST:
            del self._sent[next(iter(self._sent))]
        return data

    def receive(self, untrusted: bytes, source: Address, now: float) -> bytes | float | None:
        """What to send back there; or the seconds after which a ping of ours was answered from there; or nothing."""
        try:
            probe = self._box.read(untrusted)
        except BadWire:
            return None
        if probe.word is not Word.PONG:
            return self._box.write(Word.PONG, probe.number)[1]
        to, sent = self._sent.pop(probe.echo, (None, now))
        return now - sent if to == source else None
