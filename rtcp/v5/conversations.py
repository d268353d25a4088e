"""Conversations: streams and flows, what each half has done, and which ids are past (§7, §8.1 and §8.2).

A stream has two halves that end by themselves: the sender's by FIN, the receiver's by what it got.  RESET ends both at
once.  On the wire it is *gone* with the second end; here it stays until its bytes were read, so that a peer cannot have
more of them than it was promised.

Ids count up by two, so one number says which of a side are past: nothing is remembered of them.
"""

from __future__ import annotations

from typing import TypeAlias

from cyfs_ns.errors import BadWire
from rtcp.v5.credit import Allowance, Window
from rtcp.v5.flows import DatagramQueue, Destinations
from rtcp.v5.frames import LAST_ID, Opening
from rtcp.v5.legs import Leg

_MOST_PIECES = 64


class Stream:
    """A byte stream.  ``ours``: we opened it; ``opening``: its OPEN, while that waits; ``said``: it is sent, or came;
    ``answered``: with yes; ``cancelled``: with which code we gave it up before its OPEN was sent; ``sealed``: our
    program says that what it carries is sealed end to end; ``bared``: how many bytes we sent on its bare leg;
    ``coming``: the peer said how many it sent there, and our program has not read them all."""

    __slots__ = (
        "allowance",
        "answered",
        "asked_leg",
        "bared",
        "bulk",
        "cancelled",
        "coming",
        "control_unread",
        "ended",
        "finished",
        "finishing",
        "full_at",
        "held",
        "id",
        "leg",
        "opening",
        "ours",
        "peer_shifted",
        "pieces",
        "raw",
        "ringed",
        "rush",
        "rush_at",
        "said",
        "sealed",
        "shifted",
        "starved",
        "stop_code",
        "stop_seen",
        "stopped",
        "waiting",
        "wants_leg",
        "window",
    )

    def __init__(self, number: int, opening: Opening, allowance: Allowance, window: Window, *, ours: bool) -> None:
        self.id, self.ours = number, ours
        self.opening = b""
        self.said = not ours
        self.answered = False
        self.cancelled: int | None = None
        self.leg: Leg | None = None
        self.wants_leg = self.asked_leg = self.sealed = self.coming = False
        # the sending half
        self.allowance = allowance
        self.pieces: list[bytes | memoryview] = []
        self.waiting = self.bared = 0
        self.bulk = opening.bulk
        self.rush, self.rush_at = 0, 0.0
        self.full_at: float | None = None
        self.ringed = self.starved = False
        self.shifted = self.finishing = self.finished = self.stop_seen = False
        # the receiving half
        self.window = window
        self.control_unread = 0
        self.held: bytearray | None = None if ours else bytearray()
        self.peer_shifted = self.ended = self.stopped = False
        self.stop_code = 0
        self.raw = bytearray()

    @property
    def is_gone(self) -> bool:
        """Whether nothing of it travels any more."""
        return self.finished and self.ended and not self.coming

    @property
    def is_closed(self) -> bool:
        """Whether our program says nothing more on it, and hears nothing."""
        return self.finishing and (self.ended or self.stopped)

    @property
    def is_bare(self) -> bool:
        """Whether its leg stands and is bare."""
        return self.leg is not None and self.leg.bare

    def wait(self, piece: bytes | memoryview) -> None:
        """``piece`` is to be sent."""
        pieces = self.pieces
        pieces.append(piece)
        self.waiting += len(piece)
        if len(pieces) > _MOST_PIECES:
            whole = b"".join(pieces)
            pieces.clear()
            pieces.append(whole)

    def cut(self, most: int) -> list[bytes | memoryview]:
        """The next ``most`` bytes that wait, or all."""
        pieces = self.pieces
        if self.waiting <= most:
            self.pieces, self.waiting = [], 0
            return pieces
        taken: list[bytes | memoryview] = []
        while most and pieces:
            piece = pieces.pop(0)
            if len(piece) > most:
                view = memoryview(piece)
                pieces.insert(0, view[most:])
                piece = view[:most]
            taken.append(piece)
            most -= len(piece)
            self.waiting -= len(piece)
        return taken

    def drop_waiting(self) -> int:
        """Nothing of what waits is sent; how much that was."""
        dropped, self.waiting = self.waiting, 0
        self.pieces.clear()
        return dropped


class Flow:
    """A flow of datagrams.  ``held`` are those that came before we had answered."""

    __slots__ = (
        "answered",
        "asked_leg",
        "cancelled",
        "destinations",
        "held",
        "id",
        "leg",
        "opening",
        "ours",
        "queue",
        "ringed",
        "said",
        "wants_leg",
    )

    def __init__(self, number: int, *, ours: bool) -> None:
        self.id, self.ours = number, ours
        self.opening = b""
        self.said = not ours
        self.answered = False
        self.cancelled: int | None = None
        self.leg: Leg | None = None
        self.wants_leg = self.asked_leg = False
        self.ringed = False
        self.queue = DatagramQueue()
        self.held: list[bytes] = []
        self.destinations = Destinations()


Conversation: TypeAlias = Stream | Flow


def unread_of(conversation: Conversation) -> int:
    """Bytes of the peer's that it makes us hold."""
    return conversation.window.unread if isinstance(conversation, Stream) else sum(map(len, conversation.held))


class Ids:
    """Which ids were used by each side.  ``initiator``: whether we are."""

    __slots__ = ("_next_ours", "_odd", "said", "theirs")

    def __init__(self, *, initiator: bool) -> None:
        self._odd = 1 if initiator else 0
        self._next_ours = 1 if initiator else 2
        self.said = 0
        """The last id of ours that was told to the peer."""
        self.theirs = 0
        """The last id of the peer's."""

    @property
    def are_spent(self) -> bool:
        return self._next_ours > LAST_ID

    @property
    def upcoming(self) -> int:
        """What ``next_ours`` gives."""
        return self._next_ours

    def next_ours(self) -> int:
        conversation = self._next_ours
        self._next_ours += 2
        return conversation

    def opened(self, conversation: int) -> None:
        """The peer's OPEN.  Raises ``BadWire`` if it is not the next."""
        due = self.theirs + 2 if self.theirs else 1 + self._odd
        if conversation != due:
            raise BadWire(f"OPEN of {conversation}, where {due} is the next")
        self.theirs = conversation

    def is_ours(self, conversation: int) -> bool:
        return conversation & 1 == self._odd

    def check(self, conversation: int) -> None:
        """Raises ``BadWire`` unless ``conversation`` was opened once."""
        if not 0 < conversation <= (self.said if self.is_ours(conversation) else self.theirs):
            raise BadWire(f"conversation {conversation} was not opened yet")
