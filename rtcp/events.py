"""What a ``Link`` tells: values in the past tense.  Where one waits for an answer, it names the call that gives it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

from rtcp.admission import Proven
from rtcp.packet import Purpose


class End(Enum):
    """Why a tunnel is over, by what to do next."""

    ASKED = "we closed it"
    FAULT = "the peer broke the rules: do not hurry to come back"
    REFUSED = "somebody said no: do not retry soon"
    LOST = "the peer or the way to it is gone: dial again"
    SPENT = "the keys have served their time: dial again at once"


@dataclass(frozen=True, slots=True)
class HelloProven:
    """A stranger proved a key and is for us.  Look its name up, then ``Link.admit()`` or ``Link.turn_away()``."""

    proven: Proven


@dataclass(frozen=True, slots=True)
class PeerConfirmed:
    """The stranger holds the keys, so it is no replay.  Arbitrate, then ``Link.accept_tunnel()`` or ``turn_away()``."""


@dataclass(frozen=True, slots=True)
class TunnelOpened:
    """Both sides keep the tunnel: either may ask for streams."""


@dataclass(frozen=True, slots=True)
class StreamRequested:
    """The peer asks for a stream to ``host`` (None: this machine); let the rules speak, then ``Link.answer_stream()``.

    On the side that dialled the tunnel, yes means: the new connection to the peer stands already.
    """

    stream_id: bytes = field(repr=False)
    purpose: Purpose
    host: str | None
    port: int


@dataclass(frozen=True, slots=True)
class StreamAnswered:
    """Our request ended with ``result`` (``Result``).  After OK the side that dialled the tunnel
    connects and calls ``Link.take_leg()``; the other calls it when the connection arrives."""

    stream_id: bytes = field(repr=False)
    result: int


@dataclass(frozen=True, slots=True)
class StreamMissed:
    """The connection of an agreed stream never came."""

    stream_id: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class PingAnswered:
    """``rtt`` in seconds."""

    rtt: float


@dataclass(frozen=True, slots=True)
class LinkClosed:
    """The last event: send what is left of ``data_to_send()`` and close the connection."""

    end: End
    why: str


LinkEvent: TypeAlias = (
    HelloProven
    | PeerConfirmed
    | TunnelOpened
    | StreamRequested
    | StreamAnswered
    | StreamMissed
    | PingAnswered
    | LinkClosed
)
