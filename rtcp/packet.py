"""The packets of the control connection, as bytes and as values.

A packet is ``length:u16 | json_pos:u8 = 8 | command:u8 | seq:u32 | JSON``, big-endian, where the length counts itself.
The body is compact JSON in the order of the fields below, which is how the forerunner writes it; any order is read, and
fields we do not know are passed over.  ``HelloStream`` alone is no such packet: two zero bytes and 32 hex digits open
the connection of a stream, so the first two bytes of a connection tell a tunnel from a stream.

Ids of streams stay text here: one in a wrong form gets an answer (result 6), it does not break the tunnel.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import TypeAlias

from cyfs_ns.errors import BadWire, Misuse
from cyfs_ns.identity.strictjson import Json, read_object

MOST_PACKET = 65535
HELLO_STREAM_SIZE = 34

_HEAD = struct.Struct(">HBBI")
_U16, _U32, _U64 = (1 << 16) - 1, (1 << 32) - 1, (1 << 64) - 1
_HEX32 = re.compile(r"[0-9a-f]{32}\Z").match


class Purpose(Enum):
    """What a stream carries: a byte stream, or datagrams (``datagrams.py``).  The value is the word on the wire."""

    STREAM = "Stream"
    DATAGRAM = "Datagram"


class Result(IntEnum):
    """How a request for a stream ended; any other number is a failure, too.  After IDS_SPENT a new tunnel is needed."""

    OK = 0
    QUOTA = 1
    RECONNECT_FAILED = 2
    WRONG_DIRECTION = 3
    TIMEOUT = 4
    NOT_AUTHORIZED = 5
    INVALID_ID = 6
    DUPLICATE_ID = 7
    RATE_LIMITED = 8
    IDS_SPENT = 9


@dataclass(frozen=True, slots=True)
class Hello:
    """The dialler names itself and whom it wants; ``tunnel_token`` proves it (``tokens.py``)."""

    from_id: str
    to_id: str
    my_port: int
    tunnel_token: str = field(repr=False)
    device_doc_jwt: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class HelloAck:
    """The responder's half of the key agreement; ``challenge`` (32 hex digits) comes back encrypted."""

    ack_token: str = field(repr=False)
    challenge: str = field(repr=False)
    responder_id: str


@dataclass(frozen=True, slots=True)
class HelloAckConfirm:
    """The first encrypted packet: the dialler holds the keys."""

    challenge_echo: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class TunnelResult:
    """Whether the responder keeps the tunnel, and why not."""

    accepted: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Ping:
    """``timestamp`` in seconds since 1970; nobody acts on it."""

    timestamp: int


@dataclass(frozen=True, slots=True)
class Pong:
    """Answers the Ping of the same ``seq``."""

    timestamp: int = 0


@dataclass(frozen=True, slots=True)
class Open:
    """The dialler of the tunnel asks for a stream.  ``dest_host`` None: the responder's own machine."""

    streamid: str = field(repr=False)
    purpose: Purpose
    dest_port: int
    dest_host: str | None


@dataclass(frozen=True, slots=True)
class ROpen:
    """The responder asks for a stream, for which the dialler has to connect once more."""

    streamid: str = field(repr=False)
    purpose: Purpose
    dest_port: int
    dest_host: str | None


@dataclass(frozen=True, slots=True)
class OpenResp:
    """Answers the Open of the same ``seq`` with a :class:`Result`."""

    result: int


@dataclass(frozen=True, slots=True)
class ROpenResp:
    """Answers the ROpen of the same ``seq`` with a :class:`Result`."""

    result: int


Body: TypeAlias = Hello | HelloAck | HelloAckConfirm | TunnelResult | Ping | Pong | Open | ROpen | OpenResp | ROpenResp


@dataclass(frozen=True, slots=True)
class Packet:
    """``seq`` joins an answer to its question."""

    seq: int
    body: Body


class PacketReader:
    """Bytes in, packets out.  After one ``BadWire`` nobody knows where packets begin, so every later call fails."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._fault: str | None = None

    def receive_data(self, untrusted: bytes) -> None:
        self._buffer += untrusted

    def next_packet(self) -> Packet | None:
        """The next packet; None: not whole yet, bring more.  Raises ``BadWire``."""
        if self._fault is not None:
            raise BadWire(self._fault)
        try:
            return self._next()
        except BadWire as bad:
            self._fault = str(bad)
            self._buffer.clear()
            raise

    def take_rest(self) -> bytes:
        """What came behind the packets read so far: the first bytes of another layer."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest

    def _next(self) -> Packet | None:
        # Each part is judged as soon as it is there, so that the verdict is the same however the bytes were split.
        have = len(self._buffer)
        if have < 2:
            return None
        length = int.from_bytes(self._buffer[:2], "big")
        if length <= _HEAD.size:
            raise BadWire(f"a packet of {length} bytes, which leaves none for a body")
        if have >= 3 and self._buffer[2] != _HEAD.size:
            raise BadWire(f"a packet whose JSON starts at {self._buffer[2]}")
        if have >= 4 and self._buffer[3] not in _KINDS:
            raise BadWire(f"command {self._buffer[3]} is unknown")
        if have < length:
            return None
        _, _, command, seq = _HEAD.unpack_from(self._buffer)
        body = bytes(self._buffer[_HEAD.size : length])
        del self._buffer[:length]
        kind, read = _KINDS[command]
        return Packet(seq, read(_Fields(read_object(body, kind.__name__), kind.__name__)))


def write_packet(packet: Packet) -> bytes:
    """``packet`` in the forerunner's bytes.  Raises ``Misuse`` for one that does not fit in a packet."""
    body = json.dumps(_values(packet.body), separators=(",", ":"), ensure_ascii=False).encode()
    length = _HEAD.size + len(body)
    if length > MOST_PACKET:
        raise Misuse(f"a packet of {length} bytes, at most {MOST_PACKET} can be written")
    return _HEAD.pack(length, _HEAD.size, _COMMANDS[type(packet.body)], packet.seq) + body


def write_hello_stream(stream_id: bytes) -> bytes:
    """The first bytes of the connection of a stream."""
    return b"\0\0" + stream_id.hex().encode()


def read_hello_stream(untrusted: bytes) -> bytes | None:
    """The 16 bytes of the id in the first 34 bytes of a stream's connection; None: bring more.  Raises ``BadWire``."""
    head = untrusted[:HELLO_STREAM_SIZE]
    digits = head[2:].decode("latin-1")
    if head[:2] != b"\0\0"[: len(head)] or _HEX32(digits.ljust(32, "0")) is None:
        raise BadWire("not the first bytes of a stream")
    return bytes.fromhex(digits) if len(head) == HELLO_STREAM_SIZE else None


def read_stream_id(untrusted: str) -> bytes:
    """The 16 bytes of an id in its one form, 32 lower-case hex digits.  Raises ``BadWire``."""
    if _HEX32(untrusted) is None:
        raise BadWire("the id of a stream is 32 lower-case hex digits")
    return bytes.fromhex(untrusted)


class _Fields:
    """The fields of a body by type; every method raises ``BadWire`` for a value of another type."""

    def __init__(self, values: Mapping[str, Json], what: str) -> None:
        self._values, self._what = values, what

    def text(self, name: str) -> str:
        value = self._values.get(name)
        if isinstance(value, str):
            return value
        raise self._wrong(name)

    def text_or_none(self, name: str) -> str | None:
        return None if self._values.get(name) is None else self.text(name)

    def hex32(self, name: str) -> str:
        value = self.text(name)
        if _HEX32(value) is None:
            raise self._wrong(name)
        return value

    def number(self, name: str, most: int) -> int:
        value = self._values.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most:
            return value
        raise self._wrong(name)

    def flag(self, name: str) -> bool:
        value = self._values.get(name)
        if isinstance(value, bool):
            return value
        raise self._wrong(name)

    def stream(self) -> tuple[str, Purpose, int, str | None]:
        """The four fields of Open and ROpen; ``stream_id`` is the older spelling of ``streamid``."""
        both = "streamid" in self._values and "stream_id" in self._values
        if both:
            raise self._wrong("stream_id")
        stream_id = self.text("streamid" if "streamid" in self._values else "stream_id")
        word = self.text_or_none("purpose")
        try:
            purpose = Purpose.STREAM if word is None else Purpose(word)
        except ValueError:
            raise self._wrong("purpose") from None
        return stream_id, purpose, self.number("dest_port", _U16), self.text_or_none("dest_host")

    def _wrong(self, name: str) -> BadWire:
        return BadWire(f"{self._what}: {name} is missing, doubled or of the wrong kind")


def _read_hello(fields: _Fields) -> Hello:
    return Hello(
        fields.text("from_id"),
        fields.text("to_id"),
        fields.number("my_port", _U16),
        fields.text("tunnel_token"),
        fields.text_or_none("device_doc_jwt"),
    )


_KINDS: Mapping[int, tuple[type[Body], Callable[[_Fields], Body]]] = {
    1: (Hello, _read_hello),
    2: (HelloAck, lambda f: HelloAck(f.text("ack_token"), f.hex32("challenge"), f.text("responder_id"))),
    3: (Ping, lambda f: Ping(f.number("timestamp", _U64))),
    4: (Pong, lambda f: Pong(f.number("timestamp", _U64))),
    5: (ROpen, lambda f: ROpen(*f.stream())),
    6: (ROpenResp, lambda f: ROpenResp(f.number("result", _U32))),
    7: (Open, lambda f: Open(*f.stream())),
    8: (OpenResp, lambda f: OpenResp(f.number("result", _U32))),
    9: (HelloAckConfirm, lambda f: HelloAckConfirm(f.hex32("challenge_echo"))),
    10: (TunnelResult, lambda f: TunnelResult(f.flag("accepted"), f.text_or_none("reason") or "")),
}
_COMMANDS = {kind: command for command, (kind, _) in _KINDS.items()}
_UNSAID: Mapping[str, Json] = {"device_doc_jwt": None, "reason": ""}
"""Fields that are left out when they say nothing; all others are then written as null."""


def _values(body: Body) -> dict[str, Json]:
    values: dict[str, Json] = {}
    for name in body.__slots__:
        value = getattr(body, name)
        if name not in _UNSAID or value != _UNSAID[name]:
            values[name] = value.value if isinstance(value, Purpose) else value
    return values
