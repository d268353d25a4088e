"""The packets two devices knock at each other's NATs with: small, of one size, and good for one attempt and direction.

A probe is 36 bytes: a mark that no STUN, DTLS or QUIC packet begins with (RFC 7983, RFC 9443), what it says, the
attempt, its own number, the number it answers, and a MAC.  The MAC's key comes from a secret of the peers' tunnel and a
fresh nonce of each side, and is another one for each direction: a stranger cannot make one, one of yesterday is
nothing, and one that is sent back to its sender is nothing either.  An answer is as large as its question, so nothing
is amplified.

Absent on purpose: secrecy.  Whoever sees a probe sees who sends to whom anyway, and a packet that is carried along
another way proves just that: the way works.  What goes over it is encrypted from end to end.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from enum import IntEnum
from struct import Struct

from cyfs_ns.errors import BadWire, Misuse

PROBE_SIZE = 36
MARK = 0x0A
"""The first byte of every probe."""
_BODY = Struct(">BBxx8sII")
_MAC_SIZE = 16
_WINDOW = 2048


class Word(IntEnum):
    """What a probe says."""

    PING = 1
    PONG = 2
    """I have your ping ``echo``."""
    MET = 3
    """A ping that adds: your pong reached me on this path."""


@dataclass(frozen=True, slots=True)
class Probe:
    """``number`` counts its sender's probes; ``echo`` is the number of the ping a pong answers, else 0."""

    word: Word
    number: int
    echo: int = 0


@dataclass(frozen=True, slots=True)
class _Keys:
    attempt: bytes
    sending: bytes = field(repr=False)
    receiving: bytes = field(repr=False)


def attempt_of(untrusted: bytes) -> bytes | None:
    """Which attempt a datagram claims to belong to; None when it cannot be a probe."""
    return untrusted[4:12] if len(untrusted) == PROBE_SIZE and untrusted[0] == MARK else None


class ProbeBox:
    """Writes our probes of one attempt and reads the peer's.

    ``secret``: at least 32 bytes that only the two ends of the tunnel know; ``opens``: whether we are the side that
    answered the other's offer.  The nonces are the offers'.
    """

    def __init__(self, secret: bytes, *, opens: bool, our_nonce: bytes, their_nonce: bytes) -> None:
        if len(secret) < 32:
            raise Misuse("probes need a secret of 32 bytes")
        nonces = our_nonce + their_nonce if opens else their_nonce + our_nonce
        root = hmac.digest(secret, b"rtcp punch 1" + nonces, "sha256")
        one, other = (hmac.digest(root, label, "sha256") for label in (b"from the opener", b"to the opener"))
        attempt = hmac.digest(root, b"attempt", "sha256")[:8]
        self._keys = _Keys(attempt, one, other) if opens else _Keys(attempt, other, one)
        self._number = 0
        self._highest, self._seen = 0, 0

    @property
    def attempt(self) -> bytes:
        """What :func:`attempt_of` finds in this attempt's probes of both directions."""
        return self._keys.attempt

    def write(self, word: Word, echo: int = 0) -> tuple[int, bytes]:
        """The next probe: its number and its bytes."""
        self._number += 1
        body = _BODY.pack(MARK, word, self._keys.attempt, self._number, echo)
        return self._number, body + hmac.digest(self._keys.sending, body, "sha256")[:_MAC_SIZE]

    def read(self, untrusted: bytes) -> Probe:
        """What the peer sent, each probe once.  Raises ``BadWire`` for all that is not that."""
        if len(untrusted) != PROBE_SIZE or untrusted[0] != MARK:
            raise BadWire("no probe")
        body = untrusted[: _BODY.size]
        mac = hmac.digest(self._keys.receiving, body, "sha256")[:_MAC_SIZE]
        if not hmac.compare_digest(mac, untrusted[_BODY.size :]):
            raise BadWire("a probe of somebody else")
        _, word, _, number, echo = _BODY.unpack(body)
        if not self._is_new(number):
            raise BadWire(f"probe {number} again")
        try:
            return Probe(Word(word), number, echo)
        except ValueError:
            raise BadWire(f"a probe that says {word}") from None

    def _is_new(self, number: int) -> bool:
        """Each number once; what is older than the window counts as seen (RFC 6479 in one integer)."""
        if number > self._highest:
            self._seen = (self._seen << min(number - self._highest, _WINDOW) | 1) & (1 << _WINDOW) - 1
            self._highest = number
            return True
        bit = 1 << self._highest - number
        if self._highest - number >= _WINDOW or self._seen & bit:
            return False
        self._seen |= bit
        return True
