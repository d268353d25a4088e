"""The PROXY protocol, versions 1 and 2, as HAProxy's ``proxy-protocol.txt`` defines it.

A header in front of a stream says who the real client is.  It is only ever believed from sources the owner named, which
is the listener's duty.  TLVs are stepped over, not read; a v2 header is bounded, since its length field alone would let
a stranger make us hold 64 KiB.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from socket import AF_INET, AF_INET6, inet_pton

from cyfs_ns.errors import BadWire
from tunnels.authority import host_of_packed
from tunnels.endpoint import Target

_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_MAX_V1 = 107
_MAX_V2_BODY = 4096
_ADDRESS_SIZE = {0: 0, 1: 4, 2: 16, 3: 108}


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """One header: who really talks to whom.  Both are None when the proxy speaks for itself or does not know."""

    src: Target | None
    dst: Target | None
    length: int
    """Bytes the header took; the client's own bytes begin there."""


def parse_proxy_header(untrusted: bytes) -> ProxyHeader | None:
    """The header at the start of ``untrusted`` (all that came so far), or None while it is incomplete.

    Raises ``BadWire`` as soon as the bytes cannot become a header.
    """
    if untrusted.startswith(_SIGNATURE):
        return _parse_v2(untrusted)
    if untrusted.startswith(b"PROXY "):
        return _parse_v1(untrusted)
    if _SIGNATURE.startswith(untrusted) or b"PROXY ".startswith(untrusted):
        return None
    raise BadWire("no PROXY protocol header")


def _parse_v1(data: bytes) -> ProxyHeader | None:
    end = data.find(b"\r\n", 0, _MAX_V1)
    if end < 0:
        if len(data) >= _MAX_V1:
            raise BadWire("PROXY v1 line is too long")
        return None
    words = data[6:end].split(b" ")
    if words[0] == b"UNKNOWN":
        return ProxyHeader(None, None, end + 2)
    family = {b"TCP4": AF_INET, b"TCP6": AF_INET6}.get(words[0])
    if family is None or len(words) != 5:
        raise BadWire(f"PROXY v1 line {data[:end]!r}")
    try:
        src, dst = (host_of_packed(inet_pton(family, word.decode("ascii"))) for word in words[1:3])
    except (OSError, ValueError):
        raise BadWire(f"PROXY v1 address in {data[:end]!r}") from None
    return ProxyHeader(Target(src, _port(words[3])), Target(dst, _port(words[4])), end + 2)


def _port(word: bytes) -> int:
    if not (word.isdigit() and len(word) <= 5 and int(word) <= 0xFFFF and (word == b"0" or word[0] != 0x30)):
        raise BadWire(f"PROXY v1 port {word!r}")
    return int(word)


def _parse_v2(data: bytes) -> ProxyHeader | None:
    if len(data) < 16:
        return None
    version, command = data[12] >> 4, data[12] & 15
    family, transport = data[13] >> 4, data[13] & 15
    if version != 2 or command > 1 or family > 3 or transport > 2:
        raise BadWire(f"PROXY v2 header says {data[12]:#04x} {data[13]:#04x}")
    length = int.from_bytes(data[14:16], "big")
    size = _ADDRESS_SIZE[family]
    needed = 0 if not size else 2 * size + (4 if family < 3 else 0)
    if length > _MAX_V2_BODY or (command == 1 and length < needed):
        raise BadWire(f"PROXY v2 body of {length} bytes")
    if len(data) < 16 + length:
        return None
    if command == 0 or family in (0, 3) or transport == 0:
        return ProxyHeader(None, None, 16 + length)
    ports = 16 + 2 * size
    src = Target(host_of_packed(data[16 : 16 + size]), int.from_bytes(data[ports : ports + 2], "big"))
    dst = Target(host_of_packed(data[16 + size : ports]), int.from_bytes(data[ports + 2 : ports + 4], "big"))
    return ProxyHeader(src, dst, 16 + length)


def build_v1(src: Target | None, dst: Target | None) -> bytes:
    """A v1 line; UNKNOWN unless both are addresses.  A pair of mixed families is written as IPv6."""
    pair = _packed_pair(src, dst)
    if pair is None or src is None or dst is None:
        return b"PROXY UNKNOWN\r\n"
    # As the protocol wants it, mapped addresses are spelled in IPv6 text and not unmapped again.
    kind = "TCP4" if len(pair[0]) == 4 else "TCP6"
    return f"PROXY {kind} {ip_address(pair[0])} {ip_address(pair[1])} {src.port} {dst.port}\r\n".encode()


def build_v2(src: Target | None, dst: Target | None, *, datagram: bool = False) -> bytes:
    """A v2 header; LOCAL unless both are addresses.  A pair of mixed families is written as IPv6."""
    pair = _packed_pair(src, dst)
    if pair is None or src is None or dst is None:
        return _SIGNATURE + b"\x20\0\0\0"
    family = 0x10 if len(pair[0]) == 4 else 0x20
    body = pair[0] + pair[1] + src.port.to_bytes(2, "big") + dst.port.to_bytes(2, "big")
    return _SIGNATURE + bytes((0x21, family | (2 if datagram else 1))) + len(body).to_bytes(2, "big") + body


def _packed_pair(src: Target | None, dst: Target | None) -> tuple[bytes, bytes] | None:
    if src is None or dst is None:
        return None
    try:
        one, two = ip_address(src.host).packed, ip_address(dst.host).packed
    except ValueError:
        return None
    if len(one) == len(two):
        return one, two
    return _as_ipv6(one), _as_ipv6(two)


def _as_ipv6(packed: bytes) -> bytes:
    return packed if len(packed) == 16 else b"\0" * 10 + b"\xff\xff" + packed
