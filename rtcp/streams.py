"""The requests for streams of one tunnel: which are under way, and which ids are used up.

A request is *asked* by one side and *answered* by the other; then its connection is *awaited*, which the side that
dialled the tunnel makes, whoever asked.  The connection of a stream the responder asked for may arrive before the
answer, since the two travel apart.  An id is used up with its first mention, whatever becomes of it, because the keys
of a stream depend on nothing else (``schedule.py``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from cyfs_ns.errors import BadWire, Misuse, Refused
from rtcp.limits import Bucket, Limits
from rtcp.packet import Purpose, Result, read_stream_id
from rtcp.records import Spent


class Stage(Enum):
    """Where a request stands."""

    ASKED = "we asked, the peer has not answered"
    PENDING = "the peer asked, we have not answered"
    AWAITED = "answered with yes, not yet connected"


@dataclass(slots=True)
class _Request:
    stage: Stage
    seq: int
    purpose: Purpose
    deadline: float
    ours: bool


class StreamBook:
    """All requests of one tunnel.  ``dialler``: whether we dialled the tunnel."""

    def __init__(self, dialler: bool, limits: Limits, now: float) -> None:
        self._dialler = dialler
        self._limits = limits
        self._bucket = Bucket(limits.per_second, limits.burst, now)
        self._used: set[bytes] = set()
        self._open: dict[bytes, _Request] = {}
        self._asked: dict[int, bytes] = {}

    def ask(self, stream_id: bytes, seq: int, purpose: Purpose, now: float) -> None:
        """We ask.  Raises ``Misuse`` for an id used before, ``Refused`` while too many are under way, and ``Spent``."""
        if len(stream_id) != 16 or stream_id in self._used:
            raise Misuse("the id of a stream is 16 bytes, never used before")
        if len(self._used) >= self._limits.stream_ids:
            raise Spent("no more ids of streams are left under these keys")
        if self._count(ours=True) >= self._limits.pending:
            raise Refused(f"{self._limits.pending} streams are being opened already")
        self._used.add(stream_id)
        self._open[stream_id] = _Request(Stage.ASKED, seq, purpose, now + self._limits.answer, True)
        self._asked[seq] = stream_id

    def answered(self, seq: int, result: int, now: float) -> bytes | None:
        """The peer answered: the id of the request; None for one we no longer wait for."""
        stream_id = self._asked.pop(seq, None)
        if stream_id is None:
            return None
        if result == Result.OK:
            self._await(stream_id, now)
        else:
            del self._open[stream_id]
        return stream_id

    def judge(self, untrusted_id: str, right_way: bool, seq: int, purpose: Purpose, now: float) -> Result:
        """The peer asks: OK if somebody has to decide (``answer``), or what it is to be told at once."""
        if not right_way:
            return Result.WRONG_DIRECTION
        try:
            stream_id = read_stream_id(untrusted_id)
        except BadWire:
            return Result.INVALID_ID
        if not self._bucket.take(now):
            return Result.RATE_LIMITED
        if stream_id in self._used:
            return Result.DUPLICATE_ID
        if len(self._used) >= self._limits.stream_ids:
            return Result.IDS_SPENT
        self._used.add(stream_id)
        if self._count(ours=False) >= self._limits.pending:
            return Result.QUOTA
        self._open[stream_id] = _Request(Stage.PENDING, seq, purpose, now + self._limits.answer, False)
        return Result.OK

    def answer(self, stream_id: bytes, result: int, now: float) -> int | None:
        """We answer: the ``seq`` of the request, or None if there is none (any more)."""
        request = self._open.get(stream_id)
        if request is None or request.stage is not Stage.PENDING:
            return None
        if result == Result.OK:
            self._await(stream_id, now)
        else:
            del self._open[stream_id]
        return request.seq

    def connected(self, stream_id: bytes) -> Purpose | None:
        """The connection is there, and the request is done; None: it is not expected (any more)."""
        request = self._open.get(stream_id)
        early = request is not None and request.stage is Stage.ASKED and not self._dialler
        if request is None or not (early or request.stage is Stage.AWAITED):
            return None
        del self._open[stream_id]
        if request.stage is Stage.ASKED:
            del self._asked[request.seq]
        return request.purpose

    def next_deadline(self) -> float | None:
        return min((request.deadline for request in self._open.values()), default=None)

    def expire(self, now: float) -> Iterator[tuple[bytes, Stage, int]]:
        """The requests whose time is up at ``now``, which end with that: id, where they stood, ``seq``."""
        for stream_id in [one for one, request in self._open.items() if request.deadline <= now]:
            request = self._open.pop(stream_id)
            if request.stage is Stage.ASKED:
                del self._asked[request.seq]
            yield stream_id, request.stage, request.seq

    def _await(self, stream_id: bytes, now: float) -> None:
        request = self._open[stream_id]
        request.stage, request.deadline = Stage.AWAITED, now + self._limits.connect

    def _count(self, *, ours: bool) -> int:
        return sum(request.ours is ours for request in self._open.values())
