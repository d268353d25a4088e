"""How a connection begins: which of the versions its first bytes are, and the Hello of version 4 that offers version 5
(§2 and §3.4 of the document).

A *marked* Hello is at once a Hello of version 4 and message 1 of version 5: its ``xpub`` is the ephemeral key, and its
hash goes into the prologue.  A *masked* one is marked, too, but made by a key for this one connection, so that nobody
on the way learns who calls.  Of a marked Hello the called looks at three things, for nothing else in it proves
anything: that it can be read, that it is version 4's, and which key it is for.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import Enum

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.did import parse_did
from cyfs_ns.identity.keys import PublicKey
from cyfs_ns.identity.token import read_token
from rtcp.offer import is_marked
from rtcp.packet import Hello, PacketReader
from rtcp.tokens import read_hello_claims

FIRST_SIZE = 4


class First(Enum):
    """What a connection is, by its first four bytes."""

    LEG = "the leg of a version 4 stream"
    HELLO = "a Hello of version 4, perhaps marked"
    MESSAGE = "message 1 of version 5"


def read_first(untrusted: bytes | bytearray) -> First | None:
    """What begins so; None: ``FIRST_SIZE`` bytes are needed at most.  Raises ``BadWire`` for what is none of them."""
    if len(untrusted) >= 2 and untrusted[:2] == b"\0\0":
        return First.LEG
    if len(untrusted) < FIRST_SIZE:
        return None
    match untrusted[2], untrusted[3]:
        case 8, 1:
            return First.HELLO
        case 5, 1:
            return First.MESSAGE
    raise BadWire("not the first bytes of rtcp")


@dataclass(frozen=True, slots=True)
class Offer:
    """A marked Hello: for whom it is, its ephemeral key, and the prologue that follows from it."""

    responder: PublicKey
    ephemeral: bytes
    prologue: bytes = field(repr=False)


def native_prologue(responder: PublicKey) -> bytes:
    """The prologue of a handshake that begins with message 1."""
    return b"rtcp5\0" + responder.raw


def marked_prologue(responder: PublicKey, hello: bytes) -> bytes:
    """The prologue of a handshake that begins with the packet ``hello``."""
    return b"rtcp5\1" + responder.raw + hashlib.sha256(hello).digest()


def read_offer(untrusted: bytes) -> Offer | None:
    """The offer in the packet of a Hello; None: it is not marked, so it is version 4's alone.  Raises ``BadWire``."""
    reader = PacketReader()
    reader.receive_data(untrusted)
    packet = reader.next_packet()
    if packet is None or not isinstance(packet.body, Hello):
        raise BadWire("not the packet of a Hello")
    claims = read_hello_claims(read_token(packet.body.tunnel_token, "tunnel token"))
    if not is_marked(claims.xpub, claims.nonce):
        return None
    responder = parse_did(claims.canonical_to).key
    if responder is None:
        raise BadWire("a Hello for no key")
    return Offer(responder, claims.xpub, marked_prologue(responder, untrusted))
