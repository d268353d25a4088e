"""Hosts and authorities in wire form: packed addresses, and ``host:port`` as URLs and CONNECT write it.

What makes a host one is :mod:`cyfs_ns.names`' to say; here strangers' bytes are brought before it.
"""

from __future__ import annotations

import re
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton

from cyfs_ns import names
from cyfs_ns.errors import BadWire
from tunnels.endpoint import Target

_PORT = re.compile(rb"[0-9]{1,5}")
_MAPPED = b"\0" * 10 + b"\xff\xff"


def host_of_packed(packed: bytes) -> str:
    """The text of a 4- or 16-byte address; IPv4-mapped IPv6 comes out as IPv4 (RFC 4291 section 2.5.5.2)."""
    if len(packed) == 4:
        return inet_ntop(AF_INET, packed)
    if packed.startswith(_MAPPED):
        return inet_ntop(AF_INET, packed[12:])
    return inet_ntop(AF_INET6, packed)


def packed_of_host(host: str) -> bytes | None:
    """The 4 or 16 bytes of an IP literal, or None when ``host`` is a name."""
    if ":" not in host and not host[-1:].isdecimal():
        return None
    try:
        return inet_pton(AF_INET6 if ":" in host else AF_INET, host)
    except (OSError, ValueError):
        return None


def parse_host(untrusted: bytes) -> str:
    """A name or a bare IP literal in canonical form; UTF-8 names become A-labels.  Raises ``BadWire``."""
    try:
        return names.host(untrusted.decode())
    except UnicodeDecodeError:
        raise BadWire(f"{untrusted[:80]!r} is not a host") from None


def parse_authority(untrusted: bytes, default_port: int | None = None) -> Target:
    """``host:port``, ``[v6]:port``, or without a port where there is a default (RFC 3986 section 3.2, no user part).

    Raises ``BadWire``; a bare IPv6 literal is refused, since its last group could be a port.
    """
    if untrusted.startswith(b"["):
        literal, closed, tail = untrusted[1:].partition(b"]")
        if not closed or b":" not in literal or (tail and not tail.startswith(b":")):
            raise BadWire(f"{untrusted[:80]!r} is not an authority")
        host, colon, port = literal, tail[:1], tail[1:]
    else:
        host, colon, port = untrusted.partition(b":")
    if not colon and default_port is not None:
        return Target(parse_host(host), default_port)
    if _PORT.fullmatch(port) is None or int(port) > 0xFFFF:
        raise BadWire(f"{untrusted[:80]!r} has no usable port")
    return Target(parse_host(host), int(port))
