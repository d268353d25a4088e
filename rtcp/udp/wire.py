"""The five datagrams of the carrier, and which is which.

    opening   E1 | 0 (7) | tag (8) | caller's key (32) | 0 (1,136) | mac (16)         caller, 1,200 bytes
    invite    E2 | 0 (7) | tag (8) | called's key (32) | cookie (16)                  called, 64 bytes
    entry     E3 | 0 (7) | tag (8) | caller's key (32) | cookie (16) | sealed         caller
    sealed    E4 | id (7) | number (8) | frames, sealed (n + 16)
    reset     E5 | id (7) | token (16)

An opening is as long as the least datagram a path must carry, so what answers it is never longer, and a path too
narrow is found out at once.  Its mac, ``HMAC(H("rtcp5 udp door" | R), all before it)``, shows that the caller knows
whom it calls: R is the called device's Ed25519 key, and who does not know it gets no byte, as in version 5's own
handshake.  Zeros are reserved and not looked at, but the mac covers them.  First bytes from E0 up stand apart from
those of STUN (00 to 03), so both can share a socket.

The invite costs the called 64 bytes and nothing to remember: its key is one for all callers of two minutes, and the
cookie (``door.py``) comes back in the entry, from the address that it was sent to.  The first sealed datagram follows
in the same entry, so a pipe costs one round trip before the first byte, as TCP's.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from struct import Struct
from typing import Final

from cyfs_ns.errors import BadWire

FLOOR: Final = 1200
"""Bytes that every path must carry in one datagram."""
OPENING, INVITE, ENTRY, SEALED, RESET = 0xE1, 0xE2, 0xE3, 0xE4, 0xE5
HEAD: Final = Struct(">QQ")
"""Of a sealed datagram: first byte and id, number."""
TAG, MAC, COOKIE, TOKEN, PUBLIC = 8, 16, 16, 16, 32
PREFIX: Final = 8 + TAG + PUBLIC + COOKIE
"""Bytes of an entry before what is sealed."""
SEAL: Final = 16
MOST_NUMBER: Final = (1 << 62) - 1

_RESET_SIZE: Final = 8 + TOKEN
_SMALLEST_SEALED: Final = HEAD.size + 1 + SEAL


@dataclass(frozen=True, slots=True)
class Opening:
    """Somebody wants in.  ``mac`` is not checked yet."""

    tag: bytes
    public: bytes
    mac: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Invite:
    """The called says with which key, and gives a cookie for the way back."""

    tag: bytes
    public: bytes
    cookie: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Entry:
    """A caller comes back with its cookie; ``sealed`` is a whole sealed datagram."""

    tag: bytes
    public: bytes
    cookie: bytes = field(repr=False)
    id: int
    sealed: memoryview = field(repr=False)


@dataclass(frozen=True, slots=True)
class Sealed:
    """Something for who has the id."""

    id: int


@dataclass(frozen=True, slots=True)
class Reset:
    """Who had the id does not know it any more; ``token`` shows that it is so."""

    id: int
    token: bytes = field(repr=False)


Datagram = Opening | Invite | Entry | Sealed | Reset


def is_ours(untrusted: bytes | memoryview) -> bool:
    """Whether the first byte is one of this carrier's; everybody else's datagrams are for others to read."""
    return len(untrusted) > 0 and OPENING <= untrusted[0] <= RESET


def read_datagram(untrusted: bytes | memoryview) -> Datagram:
    """What it is.  Raises ``BadWire``."""
    view = memoryview(untrusted)
    size, kind = len(view), view[0] if len(view) else 0
    if kind == SEALED and size >= _SMALLEST_SEALED:
        return Sealed(_id(view))
    if kind == ENTRY and size >= PREFIX + _SMALLEST_SEALED and view[PREFIX] == SEALED:
        sealed = view[PREFIX:]
        return Entry(_tag(view), _public(view), bytes(view[PREFIX - COOKIE : PREFIX]), _id(sealed), sealed)
    if kind == INVITE and size == PREFIX:
        return Invite(_tag(view), _public(view), bytes(view[PREFIX - COOKIE :]))
    if kind == OPENING and size == FLOOR:
        return Opening(_tag(view), _public(view), bytes(view[FLOOR - MAC :]))
    if kind == RESET and size == _RESET_SIZE:
        return Reset(_id(view), bytes(view[8:]))
    raise BadWire(f"{size} bytes that begin with {kind:#x} are no datagram of a carrier")


def sealed_id(untrusted: memoryview) -> int:
    """The id of a sealed datagram; -1 for any other."""
    return _id(untrusted) if len(untrusted) >= _SMALLEST_SEALED and untrusted[0] == SEALED else -1


def door_key(responder: bytes) -> bytes:
    """What opens the door of the device with this Ed25519 key, 32 bytes."""
    return hashlib.sha256(b"rtcp5 udp door" + responder).digest()


def write_opening(tag: bytes, public: bytes, door: bytes) -> bytes:
    body = _start(OPENING, tag, public).ljust(FLOOR - MAC, b"\0")
    return body + _mac(door, body)


def knows_door(untrusted: bytes | memoryview, door: bytes) -> bool:
    """Whether an opening, whole as it came, was made for ``door``."""
    body = memoryview(untrusted)[: FLOOR - MAC]
    return hmac.compare_digest(_mac(door, body), bytes(untrusted[FLOOR - MAC : FLOOR]))


def write_invite(tag: bytes, public: bytes, cookie: bytes) -> bytes:
    return _start(INVITE, tag, public) + cookie


def entry_prefix(tag: bytes, public: bytes, cookie: bytes) -> bytes:
    """What goes before a sealed datagram to make it an entry."""
    return _start(ENTRY, tag, public) + cookie


def sealed_head(id: int, number: int) -> bytes:
    return HEAD.pack(SEALED << 56 | id, number)


def write_reset(id: int, token: bytes) -> bytes:
    return (RESET << 56 | id).to_bytes(8, "big") + token


def _start(kind: int, tag: bytes, public: bytes) -> bytes:
    return (kind << 56).to_bytes(8, "big") + tag + public


def _mac(door: bytes, body: bytes | memoryview) -> bytes:
    return hmac.digest(door, body, "sha256")[:MAC]


def _id(view: memoryview) -> int:
    return int.from_bytes(view[1:8], "big")


def _tag(view: memoryview) -> bytes:
    return bytes(view[8 : 8 + TAG])


def _public(view: memoryview) -> bytes:
    return bytes(view[8 + TAG : 8 + TAG + PUBLIC])
