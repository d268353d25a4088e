"""What the two sides tell each other inside the handshake: parameters, and how a caller introduces itself (§3.3).

Reading takes exactly what the document names and does not look at what is reserved or stands behind the last field.
Whatever is wrong is ``BadWire``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntFlag
from struct import Struct

from cyfs_ns.errors import BadWire, Misuse
from cyfs_ns.identity.keys import PublicKey
from rtcp.v5.schedule import Cipher

PARAMETERS_SIZE = 32
TUNNEL_SIZE = 16
NEW_TUNNEL = bytes(TUNNEL_SIZE)
MOST_NAME = 512
MOST_DOCUMENT = 12288

_PARAMETERS = Struct(">BBHIIHHHH12x")
_INTRODUCTION = Struct(">32s32s16sIIQ8s")
_U16 = Struct(">H")


class Feature(IntFlag):
    """What a side can do.  Bits that are none of these mean nothing."""

    CALLABLE = 1
    LEGS = 2
    DATAGRAMS = 4
    PACKETS = 8
    BARE = 16
    """Only in message 3 for a leg: it may be bare (§8.8)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """What one side can do and takes.  Raises ``Misuse`` for values out of their range.

    ``port``: where it may be called, 0 for nowhere, as ``Feature.CALLABLE`` says; ``stream_credit`` and
    ``tunnel_credit``: bytes the other side may send at the start; ``conversations``, ``flows`` among them and ``legs``:
    how many at a time it lets the other side have; ``hold``: seconds it keeps a tunnel without a carrier.
    """

    ciphers: Cipher = Cipher.AES_256_GCM | Cipher.CHACHA20_POLY1305
    features: Feature = Feature.LEGS | Feature.DATAGRAMS
    port: int = 0
    stream_credit: int = 1 << 16
    tunnel_credit: int = 1 << 20
    conversations: int = 4096
    flows: int = 1024
    legs: int = 16
    hold: int = 120

    def __post_init__(self) -> None:
        if (wrong := self._wrong()) is not None:
            raise Misuse(wrong)

    def write(self) -> bytes:
        return _PARAMETERS.pack(
            self.ciphers,
            self.features,
            self.port,
            self.stream_credit,
            self.tunnel_credit,
            self.conversations,
            self.flows,
            self.legs,
            self.hold,
        )

    def _wrong(self) -> str | None:
        for wrong, what in (
            (not self.ciphers & Cipher.CHACHA20_POLY1305, "without the cipher everybody has"),
            (bool(self.features & Feature.CALLABLE) != bool(self.port), "a port without its feature, or the reverse"),
            (not 0 <= self.port <= 0xFFFF, "no such port"),
            (not 1 << 12 <= self.stream_credit <= 1 << 24, "a stream's credit out of range"),
            (not 1 << 16 <= self.tunnel_credit <= 1 << 26, "a tunnel's credit out of range"),
            (not 1 <= self.conversations <= 0xFFFF, "too few conversations"),
            (not (0 <= self.flows <= 0xFFFF and 0 <= self.legs <= 0xFFFF), "no such number of flows or legs"),
            (not 10 <= self.hold <= 600, "a hold out of range"),
        ):
            if wrong:
                return f"parameters: {what}"
        return None


def read_parameters(untrusted: bytes) -> Parameters:
    """The first 32 bytes of ``untrusted``.  Raises ``BadWire``."""
    if len(untrusted) < PARAMETERS_SIZE:
        raise BadWire(f"parameters of {len(untrusted)} bytes")
    ciphers, features, port, stream, tunnel, conversations, flows, legs, hold = _PARAMETERS.unpack_from(untrusted)
    try:
        return Parameters(
            ciphers=Cipher(ciphers & 0b11),
            features=Feature(features & 0b11111),
            port=port,
            stream_credit=stream,
            tunnel_credit=tunnel,
            conversations=conversations,
            flows=flows,
            legs=legs,
            hold=hold,
        )
    except Misuse as wrong:
        raise BadWire(str(wrong)) from None


def common_cipher(one: Parameters, other: Parameters) -> Cipher:
    """The cipher of a carrier's records."""
    both = one.ciphers & other.ciphers
    return Cipher.AES_256_GCM if both & Cipher.AES_256_GCM else Cipher.CHACHA20_POLY1305


@dataclass(frozen=True, slots=True, kw_only=True)
class Introduction:
    """Payload 3: who calls, and what for.

    ``tunnel``, ``channel``, ``move`` and ``expect`` name a channel of a standing tunnel (§6.3); all zero for a new one.
    ``boot``: 8 bytes, random per start of the caller's process.  ``to``: the DID by which the called is meant,
    ``sender`` the caller's, each empty for the key itself; ``document``: what vouches for ``sender``, a JWT, or empty.
    Raises ``Misuse`` for what cannot be written.
    """

    key: PublicKey
    parameters: Parameters
    boot: bytes
    tunnel: bytes = field(default=NEW_TUNNEL, repr=False)
    channel: int = 0
    move: int = 0
    expect: int = 0
    to: str = ""
    sender: str = ""
    document: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if len(self.tunnel) != TUNNEL_SIZE or len(self.boot) != 8:
            raise Misuse("introduction: tunnel has 16 bytes, boot 8")
        sizes = [len(text.encode()) for text in (self.to, self.sender, self.document)]
        if max(sizes[:2]) > MOST_NAME or sizes[2] > MOST_DOCUMENT:
            raise Misuse(f"introduction: texts of {sizes} bytes")
        if not self.opens_tunnel and any(sizes):
            raise Misuse("introduction: names are for a new tunnel")

    @property
    def opens_tunnel(self) -> bool:
        """Whether this is about a new tunnel."""
        return self.tunnel == NEW_TUNNEL

    def write(self) -> bytes:
        fixed = _INTRODUCTION.pack(
            self.key.raw, self.parameters.write(), self.tunnel, self.channel, self.move, self.expect, self.boot
        )
        texts = [text.encode() for text in (self.to, self.sender, self.document)]
        return fixed + b"".join(part for text in texts for part in (_U16.pack(len(text)), text))


def read_introduction(untrusted: bytes) -> Introduction:
    """Payload 3.  Raises ``BadWire``."""
    if len(untrusted) < _INTRODUCTION.size:
        raise BadWire("introduction: cut off")
    key, parameters, tunnel, channel, move, expect, boot = _INTRODUCTION.unpack_from(untrusted)
    at, texts = _INTRODUCTION.size, []
    for most in (MOST_NAME, MOST_NAME, MOST_DOCUMENT):
        if len(untrusted) < at + 2:
            raise BadWire("introduction: cut off")
        (size,) = _U16.unpack_from(untrusted, at)
        text = untrusted[at + 2 : at + 2 + size]
        if size > most or len(text) < size:
            raise BadWire(f"introduction: a text of {size} bytes")
        try:
            texts.append(text.decode())
        except UnicodeDecodeError:
            raise BadWire("introduction: a text in no UTF-8") from None
        at += 2 + size
    if tunnel != NEW_TUNNEL and any(texts):
        raise BadWire("introduction: names for a tunnel that stands")
    return Introduction(
        key=PublicKey(key),
        parameters=read_parameters(parameters),
        boot=boot,
        tunnel=tunnel,
        channel=channel,
        move=move,
        expect=expect,
        to=texts[0],
        sender=texts[1],
        document=texts[2],
    )
