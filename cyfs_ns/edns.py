"""EDNS(0): the OPT record (RFC 6891), its options, and server cookies (RFC 7873, RFC 9018).

Options we do not know are kept as they are and never echoed.  A malformed option spoils the message: RFC 7873 section
5.2.2 and RFC 7871 section 7.1.2 demand FORMERR for theirs, and an option that runs over its record leaves no safe
reading at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct

from cyfs_ns.errors import BadWire

OPT = 41
NSID, ECS, COOKIE, KEEPALIVE, PADDING, EDE = 3, 8, 10, 11, 12, 15
"""Option codes."""

DO = 0x8000
"""The one flag of OPT: the client wants DNSSEC records."""

QUERY_BLOCK, REPLY_BLOCK = 128, 468
"""What encrypted messages are padded to a multiple of, in octets (RFC 8467 section 4.1)."""

_HEAD = Struct("!BHHIH")
_TWO_WORDS = Struct("!2H")
_ECS = Struct("!HBB")
_COOKIE_TIME = Struct("!I")
_TWO_QUADS = Struct("<2Q")
_QUAD = Struct("<Q")
_WIDTH = {1: 32, 2: 128}
_MASK = 0xFFFFFFFFFFFFFFFF
_MAX_EDE_TEXT = 120


@dataclass(frozen=True, slots=True)
class Ecs:
    """A client's network, as told to servers (RFC 7871)."""

    family: int
    """1: IPv4, 2: IPv6, 0: untold (then there is no prefix)."""
    source: int
    """How many bits of the address are told."""
    scope: int
    """In a reply: for how many bits it holds; in a query 0."""
    prefix: bytes
    """The told octets of the address, bits past ``source`` zero."""

    def wire(self) -> bytes:
        return _ECS.pack(self.family, self.source, self.scope) + self.prefix


@dataclass(frozen=True, slots=True)
class Edns:
    """An OPT record."""

    size: int
    """Octets of UDP payload its sender can take, as sent."""
    version: int
    do: bool
    options: tuple[tuple[int, bytes], ...]
    rcode_high: int = 0
    """In a reply: the upper eight bits of the response code."""

    def option(self, code: int) -> bytes | None:
        """The data of the first option with that code."""
        for got, data in self.options:
            if got == code:
                return data
        return None

    @property
    def ecs(self) -> Ecs | None:
        data = self.option(ECS)
        return None if data is None else read_ecs(data)


def read_opt(size: int, ttl: int, data: bytes) -> Edns:
    """The OPT record of these class, TTL and data.  Raises ``BadWire``."""
    options: list[tuple[int, bytes]] = []
    at = 0
    while at < len(data):
        if at + 4 > len(data):
            raise BadWire("EDNS option ends too early")
        code, length = _TWO_WORDS.unpack_from(data, at)
        at += 4
        option = data[at : at + length]
        if len(option) < length:
            raise BadWire("EDNS option runs over its record")
        at += length
        if code == COOKIE and length != 8 and not 16 <= length <= 40:
            raise BadWire(f"DNS cookie of {length} octets")
        if code == ECS:
            read_ecs(option)
        options.append((code, option))
    return Edns(size, ttl >> 16 & 0xFF, bool(ttl & DO), tuple(options), ttl >> 24)


def build_opt(size: int, options: tuple[tuple[int, bytes], ...] = (), *, do: bool = False, rcode: int = 0) -> bytes:
    """An OPT record of version 0; ``rcode`` is the whole code, of which the upper bits go here."""
    data = b"".join([_TWO_WORDS.pack(code, len(option)) + option for code, option in options]) if options else b""
    return _HEAD.pack(0, OPT, size, rcode >> 4 << 24 | (DO if do else 0), len(data)) + data


def read_ecs(data: bytes) -> Ecs:
    """The option's data (RFC 7871 section 6).  Raises ``BadWire``."""
    if len(data) < _ECS.size:
        raise BadWire("client subnet ends too early")
    family, source, scope = _ECS.unpack_from(data)
    prefix = data[_ECS.size :]
    width = _WIDTH.get(family, 0)
    if family > 2 or source > width or scope > width:
        raise BadWire(f"client subnet of family {family} with {source} and {scope} bits")
    if len(prefix) != (source + 7) // 8 or (source % 8 and prefix[-1] & 0xFF >> source % 8):
        raise BadWire("client subnet longer or shorter than it says")
    return Ecs(family, source, scope, prefix)


def ecs_of(address: bytes, source: int) -> Ecs:
    """What to tell of a client's ``address`` (4 or 16 octets): its first ``source`` bits."""
    width = len(address) * 8
    source = min(source, width)
    whole = int.from_bytes(address) >> (width - source) << (width - source)
    return Ecs(1 if width == 32 else 2, source, 0, whole.to_bytes(len(address))[: (source + 7) // 8])


def build_ede(code: int, text: str) -> tuple[int, bytes]:
    """An Extended DNS Error (RFC 8914) as an option; a long text is cut."""
    return EDE, code.to_bytes(2) + text.encode(errors="replace")[:_MAX_EDE_TEXT].decode(errors="ignore").encode()


def read_ede(data: bytes) -> tuple[int, str]:
    """Code and text of an Extended DNS Error.  Raises ``BadWire``."""
    if len(data) < 2:
        raise BadWire("extended DNS error ends too early")
    text = data[2 : 2 + _MAX_EDE_TEXT].decode(errors="replace").rstrip("\0")
    return int.from_bytes(data[:2]), "".join(char if char.isprintable() else " " for char in text)


def padding(size: int, block: int, limit: int = 0xFFFF) -> tuple[int, bytes]:
    """The padding option (RFC 7830) that brings a message of ``size`` octets, itself not counted, to a multiple of
    ``block``, or to ``limit`` where that is nearer.  The message must have 4 octets left below ``limit``."""
    size += 4
    return PADDING, bytes(min(-size % block, limit - size))


def server_cookie(secret: bytes, client_cookie: bytes, address: bytes, now: int) -> bytes:
    """The 16 octets that go behind an 8-octet client cookie (RFC 9018 section 4).

    ``secret`` has 16 octets, ``address`` 4 or 16; ``now`` is seconds since 1970.
    """
    head = b"\1\0\0\0" + _COOKIE_TIME.pack(now & 0xFFFFFFFF)
    return head + siphash(secret, client_cookie + head + address)


def siphash(key: bytes, data: bytes) -> bytes:
    """SipHash-2-4 with a key of 16 octets: 8 octets."""
    k0, k1 = _TWO_QUADS.unpack(key)
    a, b, c, d = k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D, k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573
    last = len(data) & ~7
    tail = int.from_bytes(data[last:], "little") | (len(data) & 0xFF) << 56
    words = [*(_QUAD.unpack_from(data, at)[0] for at in range(0, last, 8)), tail, -1]
    for word in words:
        if word < 0:
            word, rounds = 0, 4
            c ^= 0xFF
        else:
            rounds = 2
            d ^= word
        for _ in range(rounds):
            a = a + b & _MASK
            b = (b << 13 | b >> 51) & _MASK ^ a
            a = (a << 32 | a >> 32) & _MASK
            c = c + d & _MASK
            d = (d << 16 | d >> 48) & _MASK ^ c
            a = a + d & _MASK
            d = (d << 21 | d >> 43) & _MASK ^ a
            c = c + b & _MASK
            b = (b << 17 | b >> 47) & _MASK ^ c
            c = (c << 32 | c >> 32) & _MASK
        a ^= word
    return _QUAD.pack(a ^ b ^ c ^ d)
