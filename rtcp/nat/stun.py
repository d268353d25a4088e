"""STUN (RFC 8489) with what RFC 5780 adds to learn how a NAT behaves: Binding, and no other method.

:func:`read_message` is the one door for strangers' datagrams, :func:`write_message` the way out, :func:`is_stun` tells
STUN from what shares a socket with it (RFC 7983), and :func:`respond` is the whole of a server.

A datagram's source can be forged, so a server must not be a lever: an answer is never larger than its request.  A bare
request has 20 octets, in which no address can be told; so who asks pads (:func:`write_request` does, to an ordinary
``ROOM``, by a long SOFTWARE attribute, which every server passes over, where PADDING would be refused by most).  A
server for strangers that do not pad may add ``surplus`` octets, though only to an answer that goes back the way its
request came: what is sent from another address or port, or to another port, looks like nothing a firewall should let
pass, so there the rule has no exception.

Absent on purpose: credentials (USERNAME, MESSAGE-INTEGRITY and their kin are known, and passed over, as are the
attributes behind them), TCP and TLS, clients of RFC 3489, which send no magic cookie.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from struct import Struct
from typing import NamedTuple

from cyfs_ns.errors import BadWire, Misuse

PORT = 3478
HEADER_SIZE = 20
TRANSACTION_SIZE = 12
MOST = 2048
"""Octets of the longest message that is read; PADDING makes them longer than a packet, to try fragments."""
ROOM = 128
"""Octets of a request that leaves room for whatever :func:`respond` would tell, in either family."""
SURPLUS = 48
"""Octets by which the addresses that a client of RFC 5780 needs outgrow a bare request, in either family."""

_COOKIE = 0x2112A442
_COOKIE_OCTETS = _COOKIE.to_bytes(4, "big")
_FINGERPRINT_MASK = 0x5354554E
_FINGERPRINT_SIZE = 8
_MOST_ATTRIBUTES = 32
_LONGEST_SOFTWARE = 124  # characters, and whole words, below the 128 of RFC 8489 section 14.14
_MOST_TEXT = 763  # octets of SOFTWARE and of an error's reason: 127 characters (RFC 8489 section 14)
_HEADER = Struct(">HHI12s")
_ATTRIBUTE = Struct(">HH")
_ADDRESS = Struct(">xBH")
_U16 = Struct(">H")
_U32 = Struct(">I")
_ERROR = Struct(">HBB")


class HostPort(NamedTuple):
    """Where datagrams come from or go to.  ``host`` is the usual text of an IP address, without a zone."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Kind(IntEnum):
    """Classes of a Binding message (RFC 8489 section 5)."""

    REQUEST = 0x0001
    INDICATION = 0x0011
    SUCCESS = 0x0101
    ERROR = 0x0111


class Change(IntFlag):
    """What shall differ between the place asked and the place that answers (RFC 5780 section 7.2)."""

    NONE = 0
    PORT = 2
    HOST = 4


class _Type(IntEnum):
    """Attributes that are read or known.  Below 0x8000 a reader has to understand them."""

    MAPPED_ADDRESS = 0x0001
    CHANGE_REQUEST = 0x0003
    USERNAME = 0x0006
    MESSAGE_INTEGRITY = 0x0008
    ERROR_CODE = 0x0009
    UNKNOWN_ATTRIBUTES = 0x000A
    REALM = 0x0014
    NONCE = 0x0015
    MESSAGE_INTEGRITY_SHA256 = 0x001C
    PASSWORD_ALGORITHM = 0x001D
    USERHASH = 0x001E
    XOR_MAPPED_ADDRESS = 0x0020
    PADDING = 0x0026
    RESPONSE_PORT = 0x0027
    SOFTWARE = 0x8022
    FINGERPRINT = 0x8028
    RESPONSE_ORIGIN = 0x802B
    OTHER_ADDRESS = 0x802C


_KNOWN = frozenset(_Type)
_INTEGRITY = frozenset((_Type.MESSAGE_INTEGRITY, _Type.MESSAGE_INTEGRITY_SHA256))


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One Binding message.  What is None, or empty, it does not carry."""

    kind: Kind
    transaction: bytes
    """12 octets by which an answer finds its request; unguessable, since nothing else proves an answer."""
    seen: HostPort | None = None
    """XOR-MAPPED-ADDRESS: where the request came from, as the server saw it."""
    seen_plain: HostPort | None = None
    """MAPPED-ADDRESS: the same, readable for routers that rewrite addresses in payloads."""
    origin: HostPort | None = None
    """RESPONSE-ORIGIN: where the answer was sent from."""
    other: HostPort | None = None
    """OTHER-ADDRESS: where the server also is; host and port both differ from the place asked."""
    change: Change | None = None
    response_port: int | None = None
    """Where the answer shall go, at the host that asked."""
    padding: int | None = None
    """Octets of PADDING."""
    software: str = ""
    error: tuple[int, str] | None = None
    """ERROR-CODE: 300 to 699, and a reason for people."""
    unknown: tuple[int, ...] = ()
    """UNKNOWN-ATTRIBUTES: what the server had to understand and did not."""
    strange: tuple[int, ...] = ()
    """Types of attributes that whoever reads this would have to understand, and that we do not; never written."""
    fingerprint: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a request came to, and where else its server is, all as clients see it.

    A server with ``other_port`` is on both ports at each of its hosts.
    """

    here: HostPort
    other_host: str = ""
    other_port: int = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """``data`` is to be sent from ``origin``, which is one of the server's places, to ``to``."""

    data: bytes
    origin: HostPort
    to: HostPort


def is_stun(datagram: bytes | bytearray | memoryview) -> bool:
    """Whether ``datagram`` can only be STUN, on a socket where other protocols begin otherwise.

    Two zero bits, the magic cookie, and a length that fits; nothing further is looked at.
    """
    size = len(datagram)
    return (
        size >= HEADER_SIZE
        and datagram[0] < 4
        and datagram[4:8] == _COOKIE_OCTETS
        and (datagram[2] << 8 | datagram[3]) + HEADER_SIZE == size
    )


def read_message(untrusted: bytes) -> Message:
    """The Binding message that ``untrusted``, a whole datagram, is.  Of an attribute that comes twice the first counts.

    Raises ``BadWire``: for another method too, and for a wrong FINGERPRINT, which says that this is not STUN at all.
    """
    if not is_stun(untrusted) or len(untrusted) % 4 or len(untrusted) > MOST:
        raise BadWire(f"{len(untrusted)} octets are no STUN message")
    number, _, _, transaction = _HEADER.unpack_from(untrusted)
    if number not in _KINDS:
        raise BadWire(f"STUN message of type {number:#06x}")
    found: dict[int, bytes] = {}
    count, at, sealed = 0, HEADER_SIZE, False
    while at < len(untrusted):
        count += 1
        if count > _MOST_ATTRIBUTES:
            raise BadWire(f"more than {_MOST_ATTRIBUTES} attributes")
        kind, size = _ATTRIBUTE.unpack_from(untrusted, at)
        start, at = at, at + 4 + size + -size % 4
        if at > len(untrusted):
            raise BadWire(f"attribute {kind:#06x} claims {size} octets")
        if kind == _Type.FINGERPRINT:
            if at != len(untrusted) or size != 4:
                raise BadWire("a FINGERPRINT that is not the end")
            if untrusted[start + 4 :] != _fingerprint(untrusted[:start]):
                raise BadWire("the FINGERPRINT is wrong")
            found[kind] = b""
        elif not sealed:
            found.setdefault(kind, untrusted[start + 4 : start + 4 + size])
            sealed = kind in _INTEGRITY
    change, port, padding = found.get(_Type.CHANGE_REQUEST), found.get(_Type.RESPONSE_PORT), found.get(_Type.PADDING)
    return Message(
        kind=_KINDS[number],
        transaction=transaction,
        seen=_read_xored(found.get(_Type.XOR_MAPPED_ADDRESS), transaction),
        seen_plain=_read_address(found.get(_Type.MAPPED_ADDRESS)),
        origin=_read_address(found.get(_Type.RESPONSE_ORIGIN)),
        other=_read_address(found.get(_Type.OTHER_ADDRESS)),
        change=None if change is None else Change(_number(change, _U32) & (Change.PORT | Change.HOST)),
        response_port=None if port is None else _number(port[:2], _U16),
        padding=None if padding is None else len(padding),
        software=_text(found.get(_Type.SOFTWARE, b"")),
        error=_read_error(found.get(_Type.ERROR_CODE)),
        unknown=_read_types(found.get(_Type.UNKNOWN_ATTRIBUTES, b"")),
        strange=tuple(kind for kind in found if kind < 0x8000 and kind not in _KNOWN),
        fingerprint=_Type.FINGERPRINT in found,
    )


def write_message(message: Message) -> bytes:
    """The datagram for ``message``.  Raises ``Misuse`` where it cannot be written."""
    if len(message.transaction) != TRANSACTION_SIZE:
        raise Misuse(f"a transaction has {TRANSACTION_SIZE} octets")
    if message.strange:
        raise Misuse("attributes that nobody understands are not written")
    parts: list[bytes] = []
    if message.error is not None:
        code, reason = message.error
        parts.append(_attribute(_Type.ERROR_CODE, _ERROR.pack(0, code // 100, code % 100) + reason.encode()))
    if message.unknown:
        parts.append(_attribute(_Type.UNKNOWN_ATTRIBUTES, b"".join(map(_U16.pack, message.unknown))))
    if message.seen is not None:
        parts.append(_attribute(_Type.XOR_MAPPED_ADDRESS, _xored(message.seen, message.transaction)))
    for kind, place in (
        (_Type.OTHER_ADDRESS, message.other),
        (_Type.RESPONSE_ORIGIN, message.origin),
        (_Type.MAPPED_ADDRESS, message.seen_plain),
    ):
        if place is not None:
            parts.append(_attribute(kind, _address(place)))
    if message.change is not None:
        parts.append(_attribute(_Type.CHANGE_REQUEST, _U32.pack(message.change)))
    if message.response_port is not None:
        parts.append(_attribute(_Type.RESPONSE_PORT, _U16.pack(message.response_port) + b"\0\0"))
    if message.padding is not None:
        parts.append(_attribute(_Type.PADDING, bytes(message.padding)))
    if message.software:
        parts.append(_attribute(_Type.SOFTWARE, message.software.encode()))
    return _datagram(message.kind, message.transaction, b"".join(parts), message.fingerprint)


def write_request(transaction: bytes, *, change: Change = Change.NONE, room: int = ROOM) -> bytes:
    """A Binding request padded to ``room`` octets (a multiple of 4; at most 156 are reached)."""
    bare = Message(kind=Kind.REQUEST, transaction=transaction, change=change or None, fingerprint=True)
    spare = room - len(write_message(bare)) - _ATTRIBUTE.size
    if spare <= 0:
        return write_message(bare)
    text = "cyfs".ljust(min(spare - spare % 4, _LONGEST_SOFTWARE))
    return write_message(
        Message(kind=Kind.REQUEST, transaction=transaction, change=bare.change, software=text, fingerprint=True)
    )


def respond(datagram: bytes, source: HostPort, place: Place, *, surplus: int = 0) -> Reply | None:
    """What a server sends when ``datagram`` has come from ``source`` to ``place``; None: nothing.

    Only requests are answered, and never with more octets than the request has, or ``surplus`` more where the answer
    goes from the place asked to the very source.  What does not fit is left out, the least needed first; when not even
    the address seen fits there is no answer.  A CHANGE-REQUEST that the server has no place for, and attributes that
    have to be understood and are not, bring error 420 (RFC 8489 section 6.3.1, RFC 5780 section 6.1), if it fits.
    """
    try:
        request = read_message(datagram)
    except BadWire:
        return None
    if request.kind is not Kind.REQUEST or not source.port:
        return None
    change = request.change or Change.NONE
    strange = request.strange
    if (Change.HOST in change and not place.other_host) or (Change.PORT in change and not place.other_port):
        strange, change = (*strange, _Type.CHANGE_REQUEST), Change.NONE
    if strange:
        change, to = Change.NONE, source
    else:
        to = source if request.response_port is None else HostPort(source.host, request.response_port)
    origin = HostPort(
        place.other_host if Change.HOST in change else place.here.host,
        place.other_port if Change.PORT in change else place.here.port,
    )
    room = len(datagram) - HEADER_SIZE - (_FINGERPRINT_SIZE if request.fingerprint else 0)
    if (origin, to) == (place.here, source):
        room += surplus
    if not to.port:
        return None
    if strange:
        kind, body = Kind.ERROR, _refusal(strange, room)
    else:
        kind, body = Kind.SUCCESS, _answer(request, source, place, origin, room)
    if not body:
        return None
    return Reply(_datagram(kind, request.transaction, body, request.fingerprint), origin, to)


_KINDS = {int(kind): kind for kind in Kind}


def _answer(request: Message, source: HostPort, place: Place, origin: HostPort, room: int) -> bytes:
    """The attributes of a success that fit into ``room``; empty: not even the first does."""
    plain = _address(source)
    body = _attribute(_Type.XOR_MAPPED_ADDRESS, _xored(source, request.transaction))
    if len(body) > room:
        return b""
    others = [_attribute(_Type.RESPONSE_ORIGIN, _address(origin)), _attribute(_Type.MAPPED_ADDRESS, plain)]
    if place.other_host and place.other_port:
        others.insert(0, _attribute(_Type.OTHER_ADDRESS, _address(HostPort(place.other_host, place.other_port))))
    for attribute in others:
        if len(body) + len(attribute) <= room:
            body += attribute
    if request.padding is not None and (spare := room - len(body) - _ATTRIBUTE.size) >= 0:
        body += _attribute(_Type.PADDING, bytes(min(spare, request.padding)))
    return body


def _refusal(strange: tuple[int, ...], room: int) -> bytes:
    """Error 420 if it fits into ``room``, else nothing."""
    body = _attribute(_Type.ERROR_CODE, _ERROR.pack(0, 4, 20))
    body += _attribute(_Type.UNKNOWN_ATTRIBUTES, b"".join(map(_U16.pack, strange)))
    return body if len(body) <= room else b""


def _datagram(kind: Kind, transaction: bytes, body: bytes, fingerprint: bool) -> bytes:
    size = len(body) + (_FINGERPRINT_SIZE if fingerprint else 0)
    if HEADER_SIZE + size > MOST:
        raise Misuse(f"a STUN message of {HEADER_SIZE + size} octets")
    whole = _HEADER.pack(kind, size, _COOKIE, transaction) + body
    return whole + _attribute(_Type.FINGERPRINT, _fingerprint(whole)) if fingerprint else whole


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(kind, len(value)) + value + bytes(-len(value) % 4)


def _fingerprint(before: bytes) -> bytes:
    """RFC 8489 section 14.7: over everything before the attribute."""
    return _U32.pack(zlib.crc32(before) ^ _FINGERPRINT_MASK)


def _address(place: HostPort) -> bytes:
    try:
        packed = inet_pton(AF_INET6 if ":" in place.host else AF_INET, place.host)
    except (OSError, ValueError):
        raise Misuse(f"{place.host!r} is no IP address") from None
    return _ADDRESS.pack(1 if len(packed) == 4 else 2, place.port) + packed


def _xored(place: HostPort, transaction: bytes) -> bytes:
    return _xor(_address(place), transaction)


def _xor(value: bytes, transaction: bytes) -> bytes:
    """An address with its port and octets turned over, or back (RFC 8489 section 14.2)."""
    mask = (_COOKIE_OCTETS[:2] + _COOKIE_OCTETS + transaction)[: len(value) - 2]
    turned = int.from_bytes(value[2:], "big") ^ int.from_bytes(mask, "big")
    return value[:2] + turned.to_bytes(len(mask), "big")


def _read_xored(value: bytes | None, transaction: bytes) -> HostPort | None:
    if value is None:
        return None
    if len(value) not in (8, 20):
        raise BadWire(f"an address of {len(value)} octets")
    return _read_address(_xor(value, transaction))


def _read_address(value: bytes | None) -> HostPort | None:
    if value is None:
        return None
    if len(value) not in (8, 20) or value[1] != (1 if len(value) == 8 else 2):
        raise BadWire(f"an address of {len(value)} octets")
    return HostPort(inet_ntop(AF_INET if len(value) == 8 else AF_INET6, value[4:]), _U16.unpack_from(value, 2)[0])


def _read_error(value: bytes | None) -> tuple[int, str] | None:
    if value is None:
        return None
    if len(value) < _ERROR.size:
        raise BadWire("an error without a code")
    _, hundreds, rest = _ERROR.unpack_from(value)
    hundreds &= 7
    if not 3 <= hundreds <= 6 or rest > 99:
        raise BadWire(f"error {hundreds}/{rest}")
    return hundreds * 100 + rest, _text(value[_ERROR.size :])


def _read_types(value: bytes) -> tuple[int, ...]:
    if len(value) % 2:
        raise BadWire("half an attribute type")
    return tuple(number for (number,) in _U16.iter_unpack(value))


def _number(value: bytes, form: Struct) -> int:
    if len(value) != form.size:
        raise BadWire(f"a number of {len(value)} octets")
    number: int = form.unpack(value)[0]
    return number


def _text(value: bytes) -> str:
    if len(value) > _MOST_TEXT:
        raise BadWire(f"a text of {len(value)} octets")
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise BadWire("a text that is not UTF-8") from None
