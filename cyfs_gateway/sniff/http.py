"""The host of a plain HTTP/1 request: its absolute target's, else its Host field's (RFC 9112 section 3.2).

This only looks.  The request is relayed byte for byte, so odd spellings are the server's business; here they mean no
more than "no name found".
"""

from __future__ import annotations

from cyfs_gateway.sniff.result import MORE, NOT_IT, Sniffed, SniffResult, name_or_nothing
from cyfs_ns.errors import BadWire
from tunnels.authority import parse_authority

MAX_LOOK = 8 * 1024
"""Bytes of head in which the Host field has to show up."""

_METHODS = frozenset(
    b"GET HEAD POST PUT DELETE CONNECT OPTIONS TRACE PATCH PROPFIND PROPPATCH MKCOL COPY MOVE LOCK UNLOCK".split()
)
_PREFIXES = frozenset(method[:n] for method in _METHODS for n in range(len(method) + 1))


def sniff_http(untrusted: bytes) -> SniffResult:
    """Look at all bytes the client sent so far."""
    method, space, _ = untrusted[:12].partition(b" ")
    if not space:
        return MORE if method in _PREFIXES else NOT_IT
    if method not in _METHODS:
        return NOT_IT
    looked = untrusted[:MAX_LOOK]
    head, closed, _ = looked.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    words = lines[0].split(b" ")
    if len(lines) > 1 or closed:
        if len(words) != 3 or words[2] not in (b"HTTP/1.1", b"HTTP/1.0"):
            return NOT_IT
        target = words[1]
        scheme, separator, rest = target.partition(b"://")
        if separator and scheme.lower() in (b"http", b"https"):
            return _named(rest.split(b"/", 1)[0].split(b"?", 1)[0])
        for line in lines[1:] if closed else lines[1:-1]:
            name, colon, value = line.partition(b":")
            if colon and name.lower() == b"host":
                return _named(value.strip(b" \t"))
    if closed:
        return Sniffed("http", "")
    return NOT_IT if len(untrusted) >= MAX_LOOK or b"\n" in words[0] else MORE


def _named(authority: bytes) -> Sniffed:
    try:
        host = parse_authority(authority, default_port=80).host
    except BadWire:
        return Sniffed("http", "")
    return Sniffed("http", name_or_nothing(host.encode()))
