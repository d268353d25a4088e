"""Frames: what a record of kind 0 or 1 is made of (§7, §8.1 and §8.5 of the document).

``head:u64 = type:8 | size:16 | id:40`` and ``size`` bytes, one behind the other, none over the end of its record.  A
head is one unpack, two shifts and a mask, and a payload is a view into the record; so a frame is no object here.  What
has more to it than one number (OPEN, WELCOME, the address of a datagram; CLOSE in ``closing.py``) has a reader, which
knows one error, ``BadWire``, and a writer, which is its inverse.

Whether a frame may come at all, now, here and from there, is the tunnel's to know.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from struct import Struct
from typing import Final, TypeAlias

from cyfs_ns.errors import BadWire, Misuse
from rtcp.targets import MOST_TARGET

OPEN: Final = 0x01
ANSWER: Final = 0x02
DATA: Final = 0x03
FIN: Final = 0x04
RESET: Final = 0x05
STOP: Final = 0x06
CREDIT: Final = 0x07
DGRAM: Final = 0x08
LEG: Final = 0x09
LEG_ASK: Final = 0x0A
SHIFT: Final = 0x0B
BARE: Final = 0x0C
END: Final = 0x0D
WELCOME: Final = 0x10
PING: Final = 0x11
PONG: Final = 0x12
ACK: Final = 0x13
CLOSE: Final = 0x14
DRAIN: Final = 0x15
PAD: Final = 0xFF
SPARE: Final = 0x80
"""Frames from here on may be unknown, and are passed over."""

HEAD: Final = Struct(">Q")
HEAD_SIZE: Final = 8
ID_MASK: Final = (1 << 40) - 1
LAST_ID: Final = (1 << 40) - 1
MOST_PAYLOAD: Final = 65536 - HEAD_SIZE
MOST_REASON: Final = 200
MOST_DATAGRAM: Final = 65507
"""65,535 less the headers of IPv4 and UDP."""
MOST_CREDIT: Final = 1 << 48

_U32 = Struct(">I")
_U64 = Struct(">Q")
_HEAD_U64 = Struct(">QQ")
_OPEN = Struct(">BBBBH")
_PORTS = Struct(">HH")
_FAMILY_SIZES = {4: 4, 6: 16}
_FAMILIES = {4: AF_INET, 6: AF_INET6}

Address: TypeAlias = tuple[str, int]
"""A host (an address as text, or a name) and its port."""


class Code(IntEnum):
    """Answers to OPEN.  Numbers below 16 are version 4's; unknown ones are failures."""

    YES = 0
    QUOTA = 1
    TIMEOUT = 4
    NOT_AUTHORIZED = 5
    RATE_LIMITED = 8
    UNREACHABLE = 16
    CONNECT_REFUSED = 17
    NO_SERVICE = 18
    BAD_TARGET = 19
    UNSUPPORTED = 20
    DRAINING = 21
    NAME_UNKNOWN = 22


class Stop(IntEnum):
    """Codes of RESET and STOP."""

    CANCELLED = 32
    TARGET_RESET = 33
    TIMEOUT = 34
    LOST = 35
    STALLED = 36
    INTERNAL = 37


class Purpose(IntEnum):
    """What a conversation carries."""

    STREAM = 1
    DATAGRAMS = 2
    ASSOCIATION = 3
    PACKETS = 4
    ETHERNET = 5


class TargetKind(IntEnum):
    """What the text of a target is: ``host:port`` or ``:port``, a tunnel URL, or the name of a service."""

    ADDRESS = 1
    URL = 2
    SERVICE = 3


@dataclass(frozen=True, slots=True)
class Route:
    """Where a connection came from and where it wanted to go, as the opener tells it; proves nothing."""

    source: Address
    destination: Address


@dataclass(frozen=True, slots=True)
class Opening:
    """What OPEN asks for.  ``purpose`` and ``kind`` are numbers, since a peer may mean some that we do not know."""

    purpose: int
    target: str
    kind: int = TargetKind.ADDRESS
    bulk: bool = False
    route: Route | None = None


def frame(kind: int, conversation: int, payload: bytes = b"") -> bytes:
    """One whole frame."""
    return HEAD.pack(kind << 56 | len(payload) << 40 | conversation) + payload


def frame_u8(kind: int, conversation: int, value: int) -> bytes:
    """ANSWER without a reason, RESET, STOP."""
    return HEAD.pack(kind << 56 | 1 << 40 | conversation) + bytes((value,))


def frame_u32(kind: int, conversation: int, value: int) -> bytes:
    """LEG, LEG_ASK, SHIFT."""
    return HEAD.pack(kind << 56 | 4 << 40 | conversation) + _U32.pack(value)


def frame_u64(kind: int, conversation: int, value: int) -> bytes:
    """CREDIT, ACK, END."""
    return _HEAD_U64.pack(kind << 56 | 8 << 40 | conversation, value)


def data_head(stream: int, size: int) -> bytes:
    """What stands before ``size`` bytes of DATA."""
    return HEAD.pack(DATA << 56 | size << 40 | stream)


def frames(plain: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """Type, id and payload of each frame of a record.  Raises ``BadWire``."""
    at, end = 0, len(plain)
    while at < end:
        if end - at < HEAD_SIZE:
            raise BadWire("less than the head of a frame at the end of a record")
        (head,) = HEAD.unpack_from(plain, at)
        start = at + HEAD_SIZE
        at = start + (head >> 40 & 0xFFFF)
        if at > end:
            raise BadWire("a frame reaches over the end of its record")
        yield head >> 56, head & ID_MASK, plain[start:at]


def read_u8(payload: memoryview) -> int:
    if len(payload) != 1:
        raise BadWire(f"{len(payload)} bytes where 1 belongs")
    return payload[0]


def read_u32(payload: memoryview) -> int:
    if len(payload) != 4:
        raise BadWire(f"{len(payload)} bytes where 4 belong")
    return int.from_bytes(payload, "big")


def read_u64(payload: memoryview) -> int:
    if len(payload) != 8:
        raise BadWire(f"{len(payload)} bytes where 8 belong")
    return int.from_bytes(payload, "big")


def read_nothing(payload: memoryview) -> None:
    if payload:
        raise BadWire(f"{len(payload)} bytes where none belong")


def write_answer(conversation: int, code: int, reason: str = "") -> bytes:
    """ANSWER; ``reason`` is cut to what may be sent."""
    return frame(ANSWER, conversation, bytes((code,)) + _cut(reason))


def read_answer(payload: memoryview) -> tuple[int, str]:
    """Code and reason.  Raises ``BadWire``."""
    if not payload:
        raise BadWire("an ANSWER without a code")
    return payload[0], _read_reason(payload[1:])


def write_open(conversation: int, opening: Opening) -> bytes:
    """OPEN.  Raises ``Misuse`` for a target that is empty or too long, and for a route of two families."""
    target = opening.target.encode()
    if not 1 <= len(target) <= MOST_TARGET:
        raise Misuse(f"a target has 1 to {MOST_TARGET} bytes")
    route = b"" if opening.route is None else _write_route(opening.route)
    fixed = _OPEN.pack(opening.purpose, opening.bulk, bool(route), opening.kind, len(target))
    return frame(OPEN, conversation, fixed + target + route)


def read_open(payload: memoryview) -> Opening:
    """Raises ``BadWire``."""
    if len(payload) < _OPEN.size:
        raise BadWire("an OPEN in parts")
    purpose, hint, flags, kind, size = _OPEN.unpack_from(payload)
    if flags & ~1:
        raise BadWire(f"an OPEN with flags {flags:#x}")
    if not 1 <= size <= MOST_TARGET:
        raise BadWire(f"an OPEN to a target of {size} bytes")
    end = _OPEN.size + size
    if len(payload) < end:
        raise BadWire("an OPEN that ends inside its target")
    target, rest = _text(payload[_OPEN.size : end]), payload[end:]
    route = None
    if flags:
        route = _read_route(rest)
    else:
        read_nothing(rest)
    return Opening(purpose, target, kind, hint == 1, route)


def write_welcome(expect: int, seen: Address | None) -> bytes:
    """WELCOME; ``seen`` is the caller's address as we see it, None where a carrier knows none."""
    where = b"\0" if seen is None else _write_ip(seen)
    return frame(WELCOME, 0, _U64.pack(expect) + where)


def read_welcome(payload: memoryview) -> tuple[int, Address | None]:
    """``expect``, and our address as the called side sees it.  Raises ``BadWire``."""
    if len(payload) < 9:
        raise BadWire("a WELCOME in parts")
    expect, family = int.from_bytes(payload[:8], "big"), payload[8]
    if family == 0:
        read_nothing(payload[9:])
        return expect, None
    size = _FAMILY_SIZES.get(family)
    if size is None or len(payload) != 11 + size:
        raise BadWire("a WELCOME with half an address")
    host = inet_ntop(_FAMILIES[family], payload[9 : 9 + size])
    return expect, (host, int.from_bytes(payload[9 + size :], "big"))


def write_datagram(flow: int, address: Address | None, payload: bytes | memoryview) -> bytes | None:
    """DGRAM to ``address``, or to the flow's own target; None for one that is too large to be sent at all.

    Raises ``Misuse`` for a name longer than 255 bytes.
    """
    where = b"\0" if address is None else _write_destination(address)
    size = len(where) + len(payload)
    if len(payload) > MOST_DATAGRAM or size > MOST_PAYLOAD:
        return None
    return b"".join((HEAD.pack(DGRAM << 56 | size << 40 | flow), where, payload))


def read_datagram(payload: memoryview) -> tuple[Address | None, bool, memoryview]:
    """Address (None: the flow's target), whether it is a name, and the datagram.  Raises ``BadWire``."""
    family = payload[0] if payload else -1
    if family == 0:
        rest = payload[1:]
        if len(rest) > MOST_DATAGRAM:
            raise BadWire(f"a datagram of {len(rest)} bytes")
        return None, False, rest
    at = 1
    if family == 3 and len(payload) > 1 and payload[1]:
        at, size = 2, payload[1]
    else:
        size = _FAMILY_SIZES.get(family, 0)
    end = at + size + 2
    if not size or len(payload) < end:
        raise BadWire("a datagram without a whole address")
    if len(payload) - end > MOST_DATAGRAM:
        raise BadWire(f"a datagram of {len(payload) - end} bytes")
    raw = payload[at : at + size]
    host = _text(raw) if family == 3 else inet_ntop(_FAMILIES[family], raw)
    return (host, int.from_bytes(payload[end - 2 : end], "big")), family == 3, payload[end:]


def _write_destination(address: Address) -> bytes:
    host, port = address
    if (packed := _packed(host)) is not None:
        return bytes((4 if len(packed) == 4 else 6,)) + packed + port.to_bytes(2, "big")
    name = host.encode()
    if not 1 <= len(name) <= 255:
        raise Misuse(f"a name of {len(name)} bytes")
    return bytes((3, len(name))) + name + port.to_bytes(2, "big")


def _write_ip(address: Address) -> bytes:
    packed = _packed(address[0])
    if packed is None:
        raise Misuse(f"{address[0]!r} is not an address")
    return bytes((4 if len(packed) == 4 else 6,)) + packed + address[1].to_bytes(2, "big")


def _write_route(route: Route) -> bytes:
    (source, source_port), (destination, destination_port) = route.source, route.destination
    ends = _packed(source), _packed(destination)
    if ends[0] is None or ends[1] is None or len(ends[0]) != len(ends[1]):
        raise Misuse("a route has two addresses of one family")
    family = bytes((4 if len(ends[0]) == 4 else 6,))
    return family + ends[0] + ends[1] + _PORTS.pack(source_port, destination_port)


def _read_route(payload: memoryview) -> Route:
    size = _FAMILY_SIZES.get(payload[0], 0) if payload else 0
    if not size or len(payload) != 1 + 2 * size + _PORTS.size:
        raise BadWire("an OPEN with half a source")
    family = _FAMILIES[payload[0]]
    ports = _PORTS.unpack_from(payload, 1 + 2 * size)
    source, destination = inet_ntop(family, payload[1 : 1 + size]), inet_ntop(family, payload[1 + size : 1 + 2 * size])
    return Route((source, ports[0]), (destination, ports[1]))


def _packed(host: str) -> bytes | None:
    for family in (AF_INET6, AF_INET) if ":" in host else (AF_INET,):
        try:
            return inet_pton(family, host)
        except (OSError, ValueError):
            continue
    return None


def _read_reason(payload: memoryview) -> str:
    if len(payload) > MOST_REASON:
        raise BadWire(f"a reason of {len(payload)} bytes")
    return _text(payload)


def _text(raw: memoryview) -> str:
    try:
        return str(raw, "utf-8")
    except UnicodeDecodeError:
        raise BadWire("a text that is not UTF-8") from None


def _cut(reason: str) -> bytes:
    return reason.encode()[:MOST_REASON].decode(errors="ignore").encode()
