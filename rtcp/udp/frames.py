"""What is inside a sealed datagram: frames, one behind the other.

    00  pad         the rest is not looked at
    01  ping        asks to be acknowledged
    02  ack         delay:u16 of 8 us, count:u8, highest:u64, then count lengths:u32 with a gap:u32 between two
    03  limit       how far the pipe's bytes may go:u64
    04  challenge   8 bytes                               is there somebody at this address?
    05  echo        the 8 bytes of a challenge, sent back to where it came from
    06  token       16 bytes                              first of each side: what its reset will say (``wire.py``)
    07  close       code:u8, size:u8, reason              the last of a pipe
    08  data        offset:u56, the rest is bytes of the pipe
    09  fin         size:u56, of all the bytes of this direction
    0A  past        number:u56; acks need not speak of what is below it

An ack says of each number in its ranges, from the highest down, that what it carried was taken.  Data, fin, limit,
token and ping ask for one.  What was lost goes again in a datagram with a number of its own, as in QUIC (RFC 9002): no
number ever means two things.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from struct import Struct, unpack_from
from typing import Final

from cyfs_ns.errors import BadWire
from rtcp.udp.wire import MOST_NUMBER, TOKEN

PAD, PING, ACK, LIMIT, CHALLENGE, ECHO, PROMISE, CLOSE, DATA, FIN, PAST = range(11)
DATA_HEAD: Final = 8
MOST_RANGES: Final = 48
MOST_OFFSET: Final = (1 << 56) - 1
NONCE: Final = 8
MOST_REASON: Final = 200
PINGS: Final = bytes((PING,))

_ACK = Struct(">BHBQ")
_U64 = Struct(">Q")
_DELAY_UNIT = 8e-6
_MOST_DELAY = (1 << 16) - 1


@dataclass(frozen=True, slots=True)
class Ping:
    """Acknowledge this."""


@dataclass(frozen=True, slots=True)
class Ack:
    """``ranges`` are half-open and fall; ``delay`` is seconds that the highest waited for this."""

    delay: float
    ranges: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Limit:
    end: int


@dataclass(frozen=True, slots=True)
class Challenge:
    nonce: bytes


@dataclass(frozen=True, slots=True)
class Echo:
    nonce: bytes


@dataclass(frozen=True, slots=True)
class Token:
    """It comes in a reset, should its sender forget the pipe."""

    token: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Close:
    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Data:
    """``data`` is good as long as what it was read from."""

    offset: int
    data: memoryview = field(repr=False)


@dataclass(frozen=True, slots=True)
class Fin:
    end: int


@dataclass(frozen=True, slots=True)
class Past:
    number: int


Frame = Ping | Ack | Limit | Challenge | Echo | Token | Close | Data | Fin | Past


def read_frames(untrusted: bytes | memoryview) -> list[Frame]:
    """All of a datagram.  Raises ``BadWire``."""
    view, at = memoryview(untrusted), 0
    frames: list[Frame] = []
    while at < len(view):
        kind = view[at]
        if kind == PAD:
            break
        if kind == PING:
            frames.append(Ping())
            at += 1
        elif kind == ACK:
            ack, at = _read_ack(view, at)
            frames.append(ack)
        elif kind == LIMIT:
            end = int.from_bytes(_some(view, at + 1, 8), "big")
            frames.append(Limit(min(end, MOST_OFFSET)))
            at += 9
        elif kind in (CHALLENGE, ECHO):
            nonce = bytes(_some(view, at + 1, NONCE))
            frames.append(Challenge(nonce) if kind == CHALLENGE else Echo(nonce))
            at += 1 + NONCE
        elif kind == PROMISE:
            frames.append(Token(bytes(_some(view, at + 1, TOKEN))))
            at += 1 + TOKEN
        elif kind == CLOSE:
            code, size = _some(view, at + 1, 2)
            reason = bytes(_some(view, at + 3, size)).decode("utf-8", "replace")
            frames.append(Close(code, reason))
            at += 3 + size
        elif kind == DATA:
            if len(view) <= at + DATA_HEAD:
                raise BadWire("a data frame without data")
            offset, data = data_offset(view[at:]), view[at + DATA_HEAD :]
            if offset + len(data) > MOST_OFFSET:
                raise BadWire("data past the end of numbers")
            frames.append(Data(offset, data))
            break
        elif kind in (FIN, PAST):
            number = int.from_bytes(_some(view, at + 1, 7), "big")
            frames.append(Fin(number) if kind == FIN else Past(number))
            at += 8
        else:
            raise BadWire(f"frame {kind:#x} is unknown")
    return frames


def _some(view: memoryview, at: int, size: int) -> memoryview:
    if at + size > len(view):
        raise BadWire("a frame ends before it is over")
    return view[at : at + size]


def _read_ack(view: memoryview, at: int) -> tuple[Ack, int]:
    _, delay, count, highest = _ACK.unpack(_some(view, at, _ACK.size))
    if not 1 <= count <= MOST_RANGES or highest > MOST_NUMBER:
        raise BadWire("an ack of too many ranges, of none, or of numbers that cannot be")
    at += _ACK.size
    size = 8 * count - 4
    numbers = unpack_from(f">{2 * count - 1}I", _some(view, at, size))
    ranges = []
    high = highest + 1
    for i in range(0, len(numbers), 2):
        low = high - numbers[i]
        if low < 0 or low == high:
            raise BadWire("an ack of numbers below zero, or of none")
        ranges.append((low, high))
        if i + 1 < len(numbers):
            high = low - numbers[i + 1]
            if high <= 0 or high == low:
                raise BadWire("an ack whose ranges touch")
    return Ack(delay * _DELAY_UNIT, tuple(ranges)), at + size


def write_ack(lows: Sequence[int], highs: Sequence[int], delay: float) -> bytes:
    """Of ascending ranges the last ``MOST_RANGES``, as far as their distances can be written."""
    numbers: list[int] = []
    low_before = 0
    for low, high in zip(reversed(lows[-MOST_RANGES:]), reversed(highs[-MOST_RANGES:]), strict=True):
        if numbers:
            if low_before - high > 0xFFFFFFFF:
                break
            numbers.append(low_before - high)
        low = max(low, high - 0xFFFFFFFF)
        numbers.append(high - low)
        low_before = low
    head = _ACK.pack(ACK, min(_MOST_DELAY, max(0, int(delay / _DELAY_UNIT))), len(numbers) // 2 + 1, highs[-1] - 1)
    return head + Struct(f">{len(numbers)}I").pack(*numbers)


def write_limit(end: int) -> bytes:
    return bytes((LIMIT,)) + _U64.pack(end)


def write_challenge(nonce: bytes) -> bytes:
    return bytes((CHALLENGE,)) + nonce


def write_echo(nonce: bytes) -> bytes:
    return bytes((ECHO,)) + nonce


def write_token(token: bytes) -> bytes:
    return bytes((PROMISE,)) + token


def write_close(code: int, reason: str) -> bytes:
    text = reason.encode()[:MOST_REASON]
    return bytes((CLOSE, code, len(text))) + text


def data_head(offset: int) -> bytes:
    return _U64.pack(DATA << 56 | offset)


def data_offset(view: memoryview) -> int:
    """Of a data frame that ``view`` begins with, and that has its head."""
    return int.from_bytes(view[1:DATA_HEAD], "big")


def write_fin(end: int) -> bytes:
    return _U64.pack(FIN << 56 | end)


def write_past(number: int) -> bytes:
    return _U64.pack(PAST << 56 | number)
