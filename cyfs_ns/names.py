"""Host names and addresses as text, brought to the one spelling the rest of the house compares.

A *host* is either a bare IP literal in canonical form or a name: lower case, A-labels (IDNA by UTS 46, as browsers map
it, not transitional), no trailing dot, labels of 1-63 and 253 characters in all.  Underscores and odd hyphens are let
through because real names have them.  A name whose last label is a number is refused: some resolvers read ``127.1`` or
``0x7f.1`` as an address, and a rule must never see a name where the next hop sees loopback (WHATWG URL, "ends in a
number").  IPv4-mapped IPv6 addresses become IPv4, or prefix rules could be dodged by spelling.

Names come from strangers (SOCKS requests, Host headers, SNI, subscriptions), so the one error is ``BadWire``.
"""

from __future__ import annotations

import re
import socket

from cyfs_ns.errors import BadWire

_NAME = re.compile(r"(?:[a-z0-9_-]{1,63}\.)*+(?![0-9]+\Z|0x[0-9a-f]*\Z)[a-z0-9_-]{1,63}\Z").match
_MAX_NAME = 253
_MAX_UNICODE = 512  # characters before mapping; mapping may shorten a name, never by more than this allows
_MAPPED = bytes(10) + b"\xff\xff"


def host(text: str) -> str:
    """The canonical host for what a client wrote: a name, an address, or an address in URL brackets."""
    if text[-1:] == "]" and text[:1] == "[":
        return _v6(text[1:-1])
    if is_ip(text):
        return ip(text)
    return name(text)


def name(text: str) -> str:
    """The canonical name.  Cheap for ASCII; anything else is mapped by UTS 46 first."""
    mapped = text.lower() if text.isascii() else _to_ascii(text)
    if mapped[-1:] == ".":
        mapped = mapped[:-1]
    if len(mapped) > _MAX_NAME or _NAME(mapped) is None:
        raise BadWire(f"not a host name: {text[:80]!r}")
    return mapped


def is_ip(text: str) -> bool:
    """Whether ``text`` is an IPv4 or IPv6 literal (no brackets, no zone, no shorthand such as ``127.1``)."""
    if ":" in text:
        family = socket.AF_INET6
    elif text[-1:].isdigit():
        family = socket.AF_INET
    else:
        return False
    try:
        socket.inet_pton(family, text)
    except (OSError, ValueError):
        return False
    return True


def ip(text: str) -> str:
    """The canonical text of an IP literal: RFC 5952 for IPv6, and IPv4 where an IPv6 literal only maps it."""
    if ":" in text:
        return _v6(text)
    try:
        return socket.inet_ntop(socket.AF_INET, socket.inet_pton(socket.AF_INET, text))
    except (OSError, ValueError):
        raise BadWire(f"not an IP address: {text[:80]!r}") from None


def _v6(text: str) -> str:
    try:
        packed = socket.inet_pton(socket.AF_INET6, text)
    except (OSError, ValueError):
        raise BadWire(f"not an IP address: {text[:80]!r}") from None
    if packed[:12] == _MAPPED:
        return socket.inet_ntop(socket.AF_INET, packed[12:])
    return socket.inet_ntop(socket.AF_INET6, packed)


def _to_ascii(text: str) -> str:
    """UTS 46 ToASCII with the settings of browsers: emoji pass, which strict IDNA 2008 would refuse."""
    import unicodedata

    import idna

    if len(text) > _MAX_UNICODE:
        raise BadWire(f"not a host name, {len(text)} characters: {text[:80]!r}")
    labels = []
    try:
        for label in idna.uts46_remap(text, std3_rules=False, transitional=False).split("."):
            if label.isascii():
                labels.append(label)
                continue
            joiners_fit = all(idna.valid_contextj(label, at) for at, char in enumerate(label) if char in "\u200c\u200d")
            if not joiners_fit or label.startswith("xn--") or unicodedata.category(label[0])[0] == "M":
                raise BadWire(f"not a host name: {text[:80]!r}")
            idna.check_bidi(label)
            labels.append("xn--" + label.encode("punycode").decode("ascii"))
    except (UnicodeError, ValueError) as fault:
        raise BadWire(f"not a host name: {text[:80]!r}: {fault}") from None
    return ".".join(labels)
