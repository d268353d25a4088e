"""DNS over HTTPS (RFC 8484), whatever the version of HTTP: a request to a query or a refusal, a reply to its age.

Nothing here knows of connections.  The machines of HTTP/1.1 and HTTP/2 ask :func:`read_request` what a request head
means, collect a body if one is awaited, and fill the response from :class:`Refusal` or :func:`max_age`.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from cyfs_ns.conversation import HEADER_SIZE, MAX_MESSAGE, PageWanted

DNS_MESSAGE = "application/dns-message"
PATH = b"/dns-query"
PAGES = (b"/1.0/identifiers/", b"/.well-known/")
"""What pages' paths begin with."""
ALLOWED = "GET, HEAD, POST"

_MAX_TARGET = 2048
_KNOWN_METHODS = frozenset((b"CONNECT", b"DELETE", b"OPTIONS", b"PATCH", b"PUT", b"TRACE"))
_ABSOLUTE = re.compile(rb"https?://[^/?#]*", re.IGNORECASE)
_BASE64URL = re.compile(rb"[A-Za-z0-9_-]+")
_NXDOMAIN, _TC = 3, 0x02
_SOA = 6


@dataclass(frozen=True, slots=True)
class Refusal:
    """A response that is no DNS message."""

    status: int
    reason: str
    """One line for whoever reads the body."""


SILENCE = Refusal(400, "this is no DNS query")
TOO_LONG = Refusal(413, f"a DNS message has at most {MAX_MESSAGE} bytes")
NO_PAGE = Refusal(404, "there is no such page")
_NOT_FOUND = Refusal(404, "DNS queries are answered elsewhere")
_NOT_ALLOWED = Refusal(405, f"DNS queries come by {ALLOWED}")
_NOT_KNOWN = Refusal(501, "unknown method")
_NO_PARAMETER = Refusal(400, "GET needs dns=, the query in base64url")
_BAD_BASE64 = Refusal(400, "dns= is not base64url without padding")
_BAD_TYPE = Refusal(415, f"a query is sent as {DNS_MESSAGE}")


def read_request(
    method: bytes,
    target: bytes,
    content_type: bytes,
    content_length: int | None,
    path: bytes = PATH,
    *,
    host: bytes = b"",
    accept: bytes = b"",
) -> bytes | PageWanted | Refusal | None:
    """What a request head asks for: a query or a page at once (GET, HEAD), ``None``: its body will be the query, or a
    refusal."""
    if not target.startswith(b"/") and (absolute := _ABSOLUTE.match(target)):
        target = target[absolute.end() :]
    place, _, parameters = target.partition(b"?")
    if place != path:
        if method in (b"GET", b"HEAD") and place.startswith(PAGES) and len(target) <= _MAX_TARGET:
            return PageWanted(*(text.decode("latin-1") for text in (target, host, accept)))
        return _NOT_FOUND
    if method == b"POST":
        if content_type.partition(b";")[0].strip().lower() != DNS_MESSAGE.encode():
            return _BAD_TYPE
        return TOO_LONG if content_length is not None and content_length > MAX_MESSAGE else None
    if method not in (b"GET", b"HEAD"):
        return _NOT_ALLOWED if method in _KNOWN_METHODS else _NOT_KNOWN
    for parameter in parameters.split(b"&"):
        if parameter.startswith(b"dns="):
            return _decoded(parameter[4:])
    return _NO_PARAMETER


def _decoded(text: bytes) -> bytes | Refusal:
    # The library's decoder skips what is no base64, which would give one query many spellings.
    if not _BASE64URL.fullmatch(text) or len(text) % 4 == 1:
        return _BAD_BASE64
    query = binascii.a2b_base64(text.translate(_TO_BASE64) + b"=" * (-len(text) % 4))
    return checked(query)


_TO_BASE64 = bytes.maketrans(b"-_", b"+/")


def checked(query: bytes) -> bytes | Refusal:
    """``query`` if it can be a DNS message by its length."""
    if len(query) < HEADER_SIZE:
        return SILENCE
    return query if len(query) <= MAX_MESSAGE else TOO_LONG


def max_age(reply: bytes) -> int:
    """Seconds an HTTP cache may keep ``reply``, a DNS message of ours (RFC 8484 section 5.1).

    The lowest TTL of the answers; without any, the SOA's word on how long there is nothing (RFC 2308 section 5);
    failures, and bytes that are no message, not at all.
    """
    try:
        if reply[3] & 0x0F not in (0, _NXDOMAIN) or reply[2] & _TC:
            return 0
        answers = reply[6] << 8 | reply[7]
        at = 12
        for _ in range(reply[4] << 8 | reply[5]):
            at = _past_name(reply, at) + 4
        lowest = None
        for _ in range(answers or reply[8] << 8 | reply[9]):
            at = _past_name(reply, at)
            ttl = int.from_bytes(reply[at + 4 : at + 8], "big")
            ends = at + 10 + (reply[at + 8] << 8 | reply[at + 9])
            if not answers:
                if reply[at] << 8 | reply[at + 1] != _SOA:
                    at = ends
                    continue
                ttl = min(ttl, int.from_bytes(reply[ends - 4 : ends], "big"))
            if lowest is None or ttl < lowest:
                lowest = ttl
            at = ends
    except IndexError:
        return 0
    return lowest if lowest is not None and at <= len(reply) else 0


def _past_name(wire: bytes, at: int) -> int:
    while 0 < (length := wire[at]) < 0xC0:
        at += length + 1
    return at + 2 if length else at + 1


def forwarded_client(header: str, trusted: Callable[[IPv4Address | IPv6Address], bool]) -> str | None:
    """The client that a named proxy speaks for: the last address of ``X-Forwarded-For`` that is no such proxy itself.

    What stands left of it was written by that client and means nothing.  ``None`` when the header names nobody.
    """
    for part in reversed(header.split(",")):
        text = part.strip()
        if text.startswith("["):
            text = text[1:].partition("]")[0]
        elif text.count(":") == 1:
            text = text.partition(":")[0]
        try:
            address = ip_address(text)
        except ValueError:
            return None
        if isinstance(address, IPv6Address):
            address = address.ipv4_mapped or IPv6Address(address.packed)
        if not trusted(address):
            return str(address)
    return None
