"""What two peers tell each other to find a better way, on a stream of the tunnel that they have.

A message is ``kind:u8, size:u16`` and so many bytes, at most ``MOST``; integers are big-endian, texts UTF-8 without
control characters::

    1 ask      secret:32, trip:u16, tag:8, key:32, offer         let us punch; trip: milliseconds to the peer and back
    2 answer   secret:32, key:32, cookie:16, offer               yes, and I begin now
    3 no       text                              not now, or not at all
    4 verdict  direct:u8, text                   how the punching ended here
    5 relay    id:7, side:u8, key:32, port:u16, address (4 or 16)      your end of a session on a UDP relay
    6 bound                                      I am at my end of it
    7 again    text                              my side would like to punch; who dialled asks

An offer is as ``candidates.py`` writes it.  Tag and key of *ask* are those of the opening of a pipe over UDP
(``rtcp/udp/wire.py``), key and cookie of *answer* those of its invite, so that who asks may enter at once; zeros: there
is none.  Who dialled the tunnel asks, and opens a stream for each attempt; the other
opens one only to say *again*.  The two secrets together are the key of the probes; nobody but the ends of the tunnel
sees them.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from struct import Struct
from typing import Final, TypeAlias

from cyfs_ns.errors import BadWire
from rtcp.nat.candidates import Offer, read_offer
from rtcp.nat.relaywire import ID_SIZE, KEY_SIZE
from rtcp.party import Address
from rtcp.udp.wire import COOKIE, PUBLIC, TAG

MOST: Final = 2048
"""Bytes of one message behind its head."""
SECRET: Final = 32
_MOST_TEXT: Final = 256
_HEAD: Final = Struct(">BH")
_ASK: Final = Struct(f">{SECRET}sH{TAG}s{PUBLIC}s")
_ANSWER: Final = Struct(f">{SECRET}s{PUBLIC}s{COOKIE}s")
_NO_INVITE: Final = bytes(PUBLIC), bytes(COOKIE)
_RELAY: Final = Struct(f">{ID_SIZE}sB{KEY_SIZE}sH")
_ASKS, _ANSWERS, _DENIES, _JUDGES, _LEADS, _BINDS, _WISHES = range(1, 8)


@dataclass(frozen=True, slots=True)
class Ask:
    """``trip``: seconds to the peer and back; ``tag`` and ``public`` open a pipe that is to be called."""

    secret: bytes = field(repr=False)
    trip: float
    tag: bytes
    public: bytes
    offer: Offer


@dataclass(frozen=True, slots=True)
class Answer:
    """The peer begins with this; ``invite``: the key and the cookie with which that pipe may enter, if it may."""

    secret: bytes = field(repr=False)
    offer: Offer
    invite: tuple[bytes, bytes] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class No:
    """``why`` is for people."""

    why: str


@dataclass(frozen=True, slots=True)
class Told:
    """How an attempt ended for the one who says it."""

    direct: bool
    why: str


@dataclass(frozen=True, slots=True)
class RelaySide:
    """One end of a session on the UDP relay at ``relay`` (an IP text and a port); ``side`` is 0 or 1."""

    relay: Address
    relay_id: bytes
    side: int
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Bound:
    """It is at its end."""


@dataclass(frozen=True, slots=True)
class Again:
    """It would like to punch."""

    why: str


Signal: TypeAlias = Ask | Answer | No | Told | RelaySide | Bound | Again


def write_signal(signal: Signal) -> bytes:
    """``signal`` as it travels; long texts are cut."""
    match signal:
        case Ask(secret, trip, tag, public, offer):
            kind, body = _ASKS, _ASK.pack(secret, min(round(trip * 1000), 0xFFFF), tag, public) + offer.write()
        case Answer(secret, offer, invite):
            kind, body = _ANSWERS, _ANSWER.pack(secret, *(invite or _NO_INVITE)) + offer.write()
        case No(why):
            kind, body = _DENIES, _text(why)
        case Told(direct, why):
            kind, body = _JUDGES, bytes((direct,)) + _text(why)
        case RelaySide((host, port), relay_id, side, key):
            kind, body = _LEADS, _RELAY.pack(relay_id, side, key, port) + ipaddress.ip_address(host).packed
        case Bound():
            kind, body = _BINDS, b""
        case Again(why):
            kind, body = _WISHES, _text(why)
    return _HEAD.pack(kind, len(body)) + body


class SignalReader:
    """Bytes of a peer in, signals out.  After one ``BadWire`` every later call fails, too."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._fault: str | None = None

    def receive_data(self, untrusted: bytes) -> None:
        self._buffer += untrusted

    def next_signal(self) -> Signal | None:
        """None: not whole yet.  Raises ``BadWire``."""
        if self._fault is None:
            try:
                return self._next()
            except BadWire as bad:
                self._fault = str(bad)
                self._buffer.clear()
        raise BadWire(self._fault)

    def _next(self) -> Signal | None:
        if len(self._buffer) < _HEAD.size:
            return None
        kind, size = _HEAD.unpack_from(self._buffer)
        if size > MOST or not _ASKS <= kind <= _WISHES:
            raise BadWire(f"a signal of kind {kind} with {size} bytes")
        end = _HEAD.size + size
        if len(self._buffer) < end:
            return None
        body = bytes(self._buffer[_HEAD.size : end])
        del self._buffer[:end]
        return _read(kind, body)


def _read(kind: int, body: bytes) -> Signal:
    if kind == _ASKS:
        if len(body) < _ASK.size:
            raise BadWire("an offer without a secret")
        secret, trip, tag, public = _ASK.unpack_from(body)
        return Ask(secret, trip / 1000, tag, public, read_offer(body[_ASK.size :]))
    if kind == _ANSWERS:
        if len(body) < _ANSWER.size:
            raise BadWire("an answer without a secret")
        secret, *invite = _ANSWER.unpack_from(body)
        key, cookie = invite
        return Answer(secret, read_offer(body[_ANSWER.size :]), None if (key, cookie) == _NO_INVITE else (key, cookie))
    if kind == _LEADS:
        return _read_relay(body)
    if kind == _JUDGES:
        if not body or body[0] > 1:
            raise BadWire("a verdict that says neither yes nor no")
        return Told(bool(body[0]), _read_text(body[1:]))
    if kind == _BINDS:
        if body:
            raise BadWire("a signal with bytes that nobody asked for")
        return Bound()
    return No(_read_text(body)) if kind == _DENIES else Again(_read_text(body))


def _read_relay(body: bytes) -> RelaySide:
    if len(body) - _RELAY.size not in (4, 16):
        raise BadWire(f"a relay in {len(body)} bytes")
    relay_id, side, key, port = _RELAY.unpack_from(body)
    if side > 1 or not port:
        raise BadWire(f"side {side} of a session at port {port}")
    return RelaySide((str(ipaddress.ip_address(body[_RELAY.size :])), port), relay_id, side, key)


def _text(text: str) -> bytes:
    """As much of it as may be said."""
    shown = "".join(letter if letter.isprintable() else " " for letter in text)
    return shown.encode(errors="replace")[:_MOST_TEXT].decode(errors="ignore").encode()


def _read_text(untrusted: bytes) -> str:
    try:
        text = untrusted.decode()
    except UnicodeDecodeError:
        raise BadWire("a text that is none") from None
    if len(untrusted) > _MOST_TEXT or not text.isprintable():
        raise BadWire("a text that nobody should print")
    return text
