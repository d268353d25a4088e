"""What a device and the UDP relay of an SN say to each other.

A *session* of the relay joins two devices.  It has an id, 7 random octets, and each side has a key of its own.  Both
came to the devices through their tunnels to the SN, so nothing here introduces anybody.  Integers are big-endian.

    data     08, id:7, whatever the peers say (the relay cannot read it and changes nothing)
    control  09, id:7, kind:u8, side:u8, counter:u64, cookie:16, mac:16
    lost     09, id:7, kind:u8

A side is *bound* to the address it was heard from, and proven to hear there::

    device   HELLO      counter above all before          from any address
    relay    CHALLENGE  with a cookie for that address    to that address
    device   BIND       the same counter, the cookie      from that address; now the side is there
    relay    BOUND

A HELLO from where the side is bound already is answered by BOUND at once: that is the keep-alive.  LOST is the answer
to data from an address that proved nothing, and only a hint: the device, whose NAT gave it another address, says HELLO.

``mac`` is HMAC-SHA-256 of everything before it under the side's key, cut to 16 octets, in both directions; kinds
differ, so nothing said one way is good the other way.  The counter makes whatever was recorded worthless once the side
has moved on.  All four messages have one size, so nobody is answered more than they said.

The first octets 8 and 9 belong to nobody else who may share the port: STUN has 0 to 3, DTLS 20 to 63, TURN channels 64
to 79, QUIC 64 to 127 and 192 to 255 (RFC 7983, RFC 9443).
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from enum import IntEnum
from struct import Struct

from cyfs_ns.errors import BadWire

DATA, CONTROL = 8, 9
"""First octets."""
ID_SIZE, KEY_SIZE, COOKIE_SIZE = 7, 32, 16
HEADER_SIZE = 1 + ID_SIZE
"""What the relay costs each datagram."""
NO_COOKIE = bytes(COOKIE_SIZE)

_MAC_SIZE = 16
_BODY = Struct(f"!B{ID_SIZE}sBBQ{COOKIE_SIZE}s")
_LOST = Struct(f"!B{ID_SIZE}sB")
CONTROL_SIZE, LOST_SIZE = _BODY.size + _MAC_SIZE, _LOST.size


class Kind(IntEnum):
    """What a control message says."""

    HELLO = 1
    CHALLENGE = 2
    BIND = 3
    BOUND = 4
    LOST = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """A control message.  ``side``: 0 or 1, whose message it is or is for; LOST has only ``kind`` and ``relay_id``."""

    kind: Kind
    relay_id: bytes
    side: int = 0
    counter: int = 0
    cookie: bytes = field(default=NO_COOKIE, repr=False)


def data_header(relay_id: bytes) -> bytes:
    """What stands before everything the two devices say to each other."""
    return bytes((DATA,)) + relay_id


def write_control(message: Control, key: bytes) -> bytes:
    """``message`` as it travels, sealed by the side's ``key``."""
    body = _BODY.pack(CONTROL, message.relay_id, message.kind, message.side, message.counter, message.cookie)
    return body + _mac(body, key)


def write_lost(relay_id: bytes) -> bytes:
    """The hint that data came from an address that proved nothing."""
    return _LOST.pack(CONTROL, relay_id, Kind.LOST)


def read_control(untrusted: bytes) -> Control:
    """The message, whoever made it (:func:`is_authentic` tells).  Raises ``BadWire``."""
    if len(untrusted) == LOST_SIZE and untrusted[0] == CONTROL and untrusted[-1] == Kind.LOST:
        return Control(kind=Kind.LOST, relay_id=untrusted[1:HEADER_SIZE])
    if len(untrusted) != CONTROL_SIZE:
        raise BadWire(f"a control message of {len(untrusted)} octets")
    first, relay_id, kind, side, counter, cookie = _BODY.unpack_from(untrusted)
    if first != CONTROL or not Kind.HELLO <= kind <= Kind.BOUND or side > 1:
        raise BadWire("no control message of a relay")
    return Control(kind=Kind(kind), relay_id=relay_id, side=side, counter=counter, cookie=cookie)


def is_authentic(untrusted: bytes, key: bytes) -> bool:
    """Whether a control message other than LOST was made by somebody who has ``key``."""
    return hmac.compare_digest(untrusted[_BODY.size :], _mac(untrusted[: _BODY.size], key))


def _mac(body: bytes, key: bytes) -> bytes:
    return hmac.digest(key, body, "sha256")[:_MAC_SIZE]
