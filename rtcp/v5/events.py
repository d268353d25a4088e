"""What a ``Tunnel`` tells: values in the past tense.  Where one waits for an answer, it names the call that gives it.

``id`` is a conversation's.  The few that come by the thousand are named tuples, which cost a third to make.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from rtcp.events import End
from rtcp.v5.carrier import RecordLayer
from rtcp.v5.closing import CloseCode
from rtcp.v5.frames import Address, Opening
from rtcp.v5.life import Why


@dataclass(frozen=True, slots=True)
class Stands:
    """A carrier of control stands: at first, and after each break.  ``seen``: our address as the peer sees it."""

    seen: Address | None


@dataclass(frozen=True, slots=True)
class CarrierWanted:
    """Call a carrier for ``channel``.  When message 2 has verified: ``Tunnel.claim()``, message 3, ``attach()``."""

    channel: int
    why: Why


@dataclass(frozen=True, slots=True, eq=False)
class CarrierRetired:
    """Send ``last``, then close the pipe.  The carrier is forgotten."""

    carrier: RecordLayer = field(repr=False)
    last: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ConversationRequested:
    """The peer wants one: let the rules speak, then ``Tunnel.answer()``.  Nothing of it arrives before."""

    id: int
    opening: Opening


@dataclass(frozen=True, slots=True)
class Answered:
    """Our request was answered; after any ``code`` but YES the conversation is over."""

    id: int
    code: int
    reason: str


class DataArrived(NamedTuple):
    """Bytes of a stream, in order.  ``views`` stay as they are for as long as they are held; tell what was read of them
    by ``Tunnel.consumed()``."""

    id: int
    views: list[memoryview]


@dataclass(frozen=True, slots=True)
class PeerFinished:
    """The peer's bytes are complete; ``bared`` of them came, or are still to come, over the bare leg."""

    id: int
    bared: int = 0


@dataclass(frozen=True, slots=True)
class PeerStopped:
    """The peer wants no more bytes; ours are finished with that, and what waited is dropped."""

    id: int
    code: int


class SendRoom(NamedTuple):
    """After ``Tunnel.send()`` took less than all: ``size`` bytes would be taken now."""

    id: int
    size: int


@dataclass(frozen=True, slots=True)
class Reset:
    """The conversation is over, and not by us.  ``code``: ``frames.Stop``, or one we do not know."""

    id: int
    code: int


class DatagramArrived(NamedTuple):
    """``address`` None: from or to the flow's target.  At who opened an association it is the source, at the other end
    the destination, of which each new one is for the rules."""

    id: int
    address: Address | None
    payload: memoryview


@dataclass(frozen=True, slots=True)
class LegReady:
    """The conversation's bytes travel on ``channel`` from here on."""

    id: int
    channel: int


@dataclass(frozen=True, slots=True, eq=False)
class BareLegStands:
    """Send ``first`` on the pipe of ``carrier``; from then on the pipe is the stream's, for bytes as they are, in each
    direction from ``LegReady`` and ``PeerShifted`` on.  The carrier is forgotten."""

    id: int
    carrier: RecordLayer = field(repr=False)
    first: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class PeerShifted:
    """The peer's bytes come over the bare leg from here on."""

    id: int


@dataclass(frozen=True, slots=True)
class Alive:
    """A PING was answered after ``round_trip`` seconds."""

    round_trip: float


@dataclass(frozen=True, slots=True, eq=False)
class SignWanted:
    """Nothing goes on, and nothing was heard on control for long.  Ask by ``Tunnel.ping()``; or, where the pipe of
    ``carrier`` has questions of its own, by those, and tell ``Tunnel.alive()``."""

    carrier: RecordLayer = field(repr=False)


@dataclass(frozen=True, slots=True)
class Draining:
    """The peer takes no new conversations; of ours those above ``last`` were not looked at."""

    last: int


@dataclass(frozen=True, slots=True)
class Ended:
    """The last event.  ``code`` is what was said, ``wait`` how long not to come back, in seconds."""

    end: End
    why: str
    code: CloseCode
    wait: int


TunnelEvent: TypeAlias = (
    Stands
    | CarrierWanted
    | CarrierRetired
    | ConversationRequested
    | Answered
    | DataArrived
    | PeerFinished
    | PeerStopped
    | SendRoom
    | Reset
    | DatagramArrived
    | LegReady
    | BareLegStands
    | PeerShifted
    | Alive
    | SignWanted
    | Draining
    | Ended
)
