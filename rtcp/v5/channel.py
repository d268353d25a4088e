"""A channel: numbered records that survive the carrier they were sent on (§6 of the document).

Each direction counts its numbered records over all carriers; the numbers are not sent.  The sender keeps a record's
plaintext until it is acknowledged.  A new carrier begins at the number its receiver *expects*, so each record is taken
exactly once, whatever became of the old carrier:

    kept:    first ...... seal_next ...... end      acknowledged below first; on this carrier below seal_next
    taken:   told ....... taken                     acknowledged by us below told

A **move** is one attempt to put the channel on another carrier: numbered, claimed in message 3, and won by the higher
number.  While our own claim is out we go on taking from the old carrier, but acknowledge nothing above what we claimed
to expect; what comes again below our count is dropped (``skip``), and acknowledged only when it came again.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple, TypeAlias

from cyfs_ns.errors import BadWire
from rtcp.v5.carrier import Kind, RecordLayer
from rtcp.v5.closing import CloseCode
from rtcp.v5.life import Calls, Pulse

Plain: TypeAlias = bytes | memoryview

ACK_DELAY = 0.1
ACK_NOW = 0.0
"""``ack_at`` of an ACK that goes as soon as the carrier takes it, so that it is no deadline any more."""
ACK_PAUSE = 0.05
"""Seconds after an ACK in which no other goes along before it is due: in small talk not with each record."""
_LONG_AGO = -float("inf")
_RECORD_COST = 96
"""What a record costs to keep beyond its bytes, so that many small ones are bounded by memory, too."""


class Claim(NamedTuple):
    """What message 3 says of a channel: the number of the move, and of the next record its sender wants."""

    channel: int
    move: int
    expect: int


class Kept(NamedTuple):
    """A record that is not acknowledged; ``frames`` of it count for the rate of frames."""

    kind: Kind
    plain: Plain
    frames: int


class Channel:
    """Numbers, kept records and moves of one channel, and which carrier it is on.

    ``carrier`` is the one that stands, ``pending`` one over which our message 3 is out; ``most`` is how many bytes may
    be kept before who fills it waits, ``ack_every`` how many may be taken without an ACK.
    """

    __slots__ = (
        "_unacknowledged",
        "accepted",
        "ack_at",
        "ack_every",
        "blocked_at",
        "calls",
        "carrier",
        "claimed",
        "first",
        "frail",
        "frames_kept",
        "kept",
        "kept_size",
        "most",
        "move",
        "number",
        "pending",
        "pending_at",
        "ping_due",
        "pong_due",
        "pulse",
        "renew_at",
        "seal_next",
        "skip",
        "stood_at",
        "taken",
        "told",
        "told_at",
        "welcome",
    )

    def __init__(self, number: int, most: int, ack_every: int) -> None:
        self.number, self.most, self.ack_every = number, most, ack_every
        self.first = self.seal_next = self.kept_size = self.frames_kept = 0
        self.kept: deque[Kept] = deque()
        self.taken = self.told = self.skip = self._unacknowledged = 0
        self.move = self.accepted = -1
        self.claimed: Claim | None = None
        self.carrier: RecordLayer | None = None
        self.pending: RecordLayer | None = None
        self.pending_at = 0.0
        self.told_at = _LONG_AGO
        self.pulse: Pulse | None = None
        self.calls: Calls | None = None
        self.stood_at = _LONG_AGO
        self.frail = 0
        """How many carriers in a row were called for soon after they stood."""
        self.ack_at: float | None = None
        self.blocked_at: float | None = None
        self.renew_at: float | None = None
        self.welcome: bytes | None = None
        self.ping_due: bytes | None = None
        self.pong_due: bytes | None = None

    # Sending

    @property
    def end(self) -> int:
        """The number of the next new record."""
        return self.first + len(self.kept)

    @property
    def has_loose(self) -> bool:
        """Whether ``loose`` gives anything."""
        return self.welcome is not None or self.pong_due is not None or self.ping_due is not None

    def loose(self) -> list[bytes]:
        """The frames that go first on the present carrier, once."""
        due = [one for one in (self.welcome, self.pong_due, self.ping_due) if one is not None]
        self.welcome = self.pong_due = self.ping_due = None
        return due

    @property
    def is_behind(self) -> bool:
        """Whether ``again`` gives something."""
        return self.seal_next - self.first < len(self.kept)

    @property
    def owes(self) -> bool:
        """Whether its carrier has to be told something by now that is neither a conversation's nor the tunnel's."""
        return (
            self.ack_at == ACK_NOW
            or self.pong_due is not None
            or self.ping_due is not None
            or self.welcome is not None
            or self.seal_next - self.first < len(self.kept)
        )

    def is_full(self, now: float) -> bool:
        """Whether nothing more may be kept but what cannot wait."""
        if self.kept_size < self.most:
            return False
        if self.blocked_at is None:
            self.blocked_at = now
        return True

    def keep(self, kind: Kind, plain: Plain, frames: int = 0) -> None:
        """A new record is being sealed on the present carrier."""
        self.kept.append(Kept(kind, plain, frames))
        self.kept_size += len(plain) + _RECORD_COST
        self.frames_kept += frames
        self.seal_next += 1

    def again(self) -> Kept | None:
        """The next record that has to be sealed again on the present carrier."""
        at = self.seal_next - self.first
        if at == len(self.kept):
            return None
        self.seal_next += 1
        return self.kept[at]

    def acknowledged(self, count: int) -> bool:
        """The peer has taken all records below ``count``; whether that is news.  Raises ``BadWire``."""
        if count > self.seal_next:
            raise BadWire(f"record {count - 1} is acknowledged and was not sent")
        if count <= self.first:
            return False
        kept = self.kept
        for _ in range(count - self.first):
            record = kept.popleft()
            self.kept_size -= len(record.plain) + _RECORD_COST
            self.frames_kept -= record.frames
        self.first = count
        self.blocked_at = None
        return True

    # Receiving

    def take(self, size: int, now: float) -> None:
        """A numbered record of ``size`` bytes was processed, or, if ``skip``, came again and was dropped."""
        if self.skip:
            self.skip -= 1
        else:
            self.taken += 1
        self._unacknowledged += size
        if self._unacknowledged >= self.ack_every:
            self.ack_at = ACK_NOW
        elif self.ack_at is None:
            self.ack_at = now + ACK_DELAY

    def acknowledge(self, now: float) -> int | None:
        """The count to tell the peer with the record that is being made; None: it knows."""
        self.ack_at, self._unacknowledged, self.told_at = None, 0, now
        count = self.taken - self.skip
        if self.claimed is not None:
            count = min(count, self.claimed.expect)
        if count <= self.told:
            return None
        self.told = count
        return count

    # Moves

    def claim(self) -> Claim:
        """What our next message 3 says."""
        self.move += 1
        self.claimed = Claim(self.number, self.move, self.taken)
        return self.claimed

    def judge(self, claim: Claim, *, initiator: bool) -> CloseCode | None:
        """The peer wants to move the channel here; None: so be it, ``moved_here`` follows.  ``initiator``: whether we
        are.  Raises ``BadWire`` for what no honest peer expects."""
        if claim.move <= self.accepted:
            return CloseCode.STALE
        if self.claimed is not None and (self.claimed.move, initiator) > (claim.move, not initiator):
            return CloseCode.STALE
        if claim.expect > self.end:
            raise BadWire(f"record {claim.expect} is expected, and {self.end} is the next")
        # An attempt its caller has given up, and has acknowledged more since.
        return CloseCode.STALE if claim.expect < self.first else None

    def moved_here(self, claim: Claim) -> None:
        """The peer's claim holds: go on from what it expects, and tell it what we do (``taken``)."""
        self.move = max(self.move, claim.move)
        self.accepted = claim.move
        self.claimed = None
        self.told, self.skip = self.taken, 0
        self._resume(claim.expect)

    def moved_there(self, expect: int) -> None:
        """The WELCOME to our claim.  Raises ``BadWire`` if it expects what it cannot."""
        claim = self.claimed
        assert claim is not None
        if not self.first <= expect <= self.end:
            raise BadWire(f"record {expect} is expected, which is not between {self.first} and {self.end}")
        self.accepted = claim.move
        self.claimed = None
        self.told = max(self.told, claim.expect)
        self.skip = self.taken - claim.expect
        self._resume(expect)

    def _resume(self, expect: int) -> None:
        self.seal_next = self.end
        self.acknowledged(expect)
        self.seal_next = expect
        self.blocked_at = None
        self.ack_at, self._unacknowledged = None, 0
        self.welcome = self.ping_due = self.pong_due = None
