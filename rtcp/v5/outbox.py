"""What goes first on control, and into which record (§8.6 of the document).

A turn of the reactor asks for records, and each is filled as late as it is sealed: first all that is not DATA, then the
DATA of streams with little to say, of other interactive streams in turn, 16 KiB each, and of bulk.  OPEN and DATA wait
when too much is unacknowledged, DATA also for the tunnel's credit; everything waits when the peer's rate of frames
would be exceeded, which we keep to with half the burst, so that frames bunched on the way do not exceed it either.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from rtcp.v5 import frames as f
from rtcp.v5.carrier import MOST_PLAIN
from rtcp.v5.channel import ACK_PAUSE, Channel
from rtcp.v5.conversations import Conversation, Stream
from rtcp.v5.credit import Allowance
from rtcp.v5.limits import Bounds, Rate

SPARSE = 1024
"""Bytes: a stream with no more of them waiting has little to say."""
_CHUNK = 16384
_LEAST_CHUNK = 1024
_ACK_SIZE = 16
_RETRY = 0.02


class Made(NamedTuple):
    """One numbered record, unsealed.  ``frames`` of it count for the rate; ``octets`` are of DATA; ``opened`` are the
    conversations whose OPEN it has, ``drained`` the streams of which nothing waits any more."""

    plain: bytes
    frames: int
    octets: int
    opened: list[Conversation]
    drained: list[Stream]


class Outbox:
    """``allowance``: the tunnel's credit."""

    __slots__ = (
        "_bulk",
        "_credits",
        "_frame_rate",
        "_interactive",
        "_most_frames",
        "_open_rate",
        "_opens",
        "_queue",
        "_sparse",
        "allowance",
        "queue_size",
        "retry_at",
    )

    def __init__(self, allowance: Allowance, bounds: Bounds, now: float) -> None:
        self.allowance = allowance
        self._queue: deque[bytes] = deque()
        self.queue_size = 0
        self._credits: dict[int, int] = {}
        # Lists, which take nothing while they are empty, as they mostly are: an empty deque takes 760 bytes.
        self._opens: list[Conversation] = []
        self._sparse: list[Stream] = []
        self._interactive: list[Stream] = []
        self._bulk: list[Stream] = []
        self._most_frames = bounds.frames[1] // 2
        self._frame_rate = Rate(bounds.frames[0], self._most_frames, now)
        self._open_rate = Rate(bounds.opens[0], bounds.opens[1] // 2, now)
        self.retry_at: float | None = None

    def put(self, frame: bytes) -> None:
        """A frame that is neither OPEN, CREDIT nor DATA."""
        self._queue.append(frame)
        self.queue_size += len(frame)

    def credit(self, conversation: int, limit: int) -> None:
        """Of several CREDITs for one conversation only the last is sent."""
        self._credits[conversation] = limit

    def forget(self, conversation: int) -> None:
        """The conversation is over: it needs no credit."""
        self._credits.pop(conversation, None)

    def open(self, conversation: Conversation) -> None:
        self._opens.append(conversation)

    def ring(self, stream: Stream) -> None:
        """``stream`` has bytes that wait."""
        if not stream.ringed:
            stream.ringed = True
            ring = self._bulk if stream.bulk else self._sparse if stream.waiting <= SPARSE else self._interactive
            ring.append(stream)

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits, not even for credit."""
        return not (self._sparse or self._queue or self._credits or self._opens or self._interactive or self._bulk)

    def record(self, channel: Channel, now: float) -> Made | None:
        """The next record; None: there is nothing to say that may be said now."""
        self.retry_at = None
        if self.is_empty:
            return None
        parts: list[bytes | memoryview] = []
        unacknowledged = self._most_frames - channel.frames_kept
        if unacknowledged <= 1 and channel.blocked_at is None:
            channel.blocked_at = now
        budget = min(self._frame_rate.left(now), unacknowledged) - 1
        room, most = MOST_PLAIN - _ACK_SIZE, budget
        queue = self._queue
        while queue and budget > 0 and len(queue[0]) <= room:
            parts.append(frame := queue.popleft())
            room -= len(frame)
            self.queue_size -= len(frame)
            budget -= 1
        while self._credits and budget > 0 and room >= _ACK_SIZE:
            conversation = next(iter(self._credits))
            parts.append(f.frame_u64(f.CREDIT, conversation, self._credits.pop(conversation)))
            room -= _ACK_SIZE
            budget -= 1
        opened: list[Conversation] = []
        drained: list[Stream] = []
        octets = 0
        if not queue and (self._sparse or self._opens or self._interactive or self._bulk) and not channel.is_full(now):
            if self._opens:
                room, budget = self._add_opens(parts, opened, room, budget, now)
            octets = self._add_data(parts, drained, room)
        if budget <= 0 or (self._opens and not opened and not channel.is_full(now)):
            self.retry_at = now + _RETRY
        if not parts:
            return None
        frames = most - budget
        if (
            channel.ack_at is not None
            and (now - channel.told_at >= ACK_PAUSE or channel.ack_at <= now)
            and (ack := channel.acknowledge(now)) is not None
        ):
            parts.insert(0, f.frame_u64(f.ACK, 0, ack))
            frames += 1
        self._frame_rate.spend(frames)
        return Made(b"".join(parts), frames, octets, opened, drained)

    def _add_opens(
        self, parts: list[bytes | memoryview], opened: list[Conversation], room: int, budget: int, now: float
    ) -> tuple[int, int]:
        opens = self._opens
        while opens and budget > 1:
            conversation = opens[0]
            frame = conversation.opening
            if len(frame) > room or not self._open_rate.take(1, now):
                break
            del opens[0]
            conversation.said = True
            if isinstance(conversation, Stream) and conversation.waiting:
                self.ring(conversation)
            parts.append(frame)
            opened.append(conversation)
            room -= len(frame)
            budget -= 1
        return room, budget

    def _add_data(self, parts: list[bytes | memoryview], drained: list[Stream], room: int) -> int:
        octets = 0
        allowance = self.allowance
        left = allowance.limit - allowance.sent
        while (ring := self._sparse or self._interactive or self._bulk) and room >= _LEAST_CHUNK and octets < left:
            stream = ring.pop(0)
            stream.ringed = False
            if stream.shifted or not stream.waiting:
                continue
            waiting = stream.waiting
            pieces = stream.cut(min(_CHUNK, room - f.HEAD_SIZE, left - octets))
            size = waiting - stream.waiting
            parts.append(f.data_head(stream.id, size))
            parts += pieces
            room -= size + f.HEAD_SIZE
            octets += size
            stream.rush += size
            if stream.waiting:
                self.ring(stream)
            else:
                drained.append(stream)
        allowance.sent += octets
        return octets
