"""IP addresses as ``(family, number)``, which is what prefix tables and ranges compare.

IPv4-mapped IPv6 addresses are IPv4 here, and a zone (``%eth0``) does not count, as in mihomo.
"""

from __future__ import annotations

from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from typing import NamedTuple, TypeAlias

Address: TypeAlias = tuple[int, int]
"""Family (4 or 6) and the address as a number."""

WIDTH = {4: 32, 6: 128}
_MAPPED = 0xFFFF
_MAPPED_OCTETS = bytes(10) + b"\xff\xff"


class Prefix(NamedTuple):
    """``bits`` leading (or, for IP-SUFFIX, trailing) bits of ``number`` count."""

    family: int
    number: int
    bits: int


def parse_address(text: str) -> Address | None:
    """The address that ``text`` spells, or None."""
    try:
        if ":" not in text:
            return 4, int.from_bytes(inet_pton(AF_INET, text), "big")
        number = int.from_bytes(inet_pton(AF_INET6, text.partition("%")[0]), "big")
    except (OSError, ValueError):  # ValueError: a NUL or a non-ASCII letter
        return None
    return (4, number & 0xFFFFFFFF) if number >> 32 == _MAPPED else (6, number)


def parse_prefix(text: str) -> Prefix | None:
    """``address/bits``, or None; host bits may be set, as in Go's netip, and a mapped prefix is an IPv4 one."""
    head, slash, tail = text.partition("/")
    if not slash or not tail.isdecimal() or not tail.isascii() or len(tail) > 3 or (tail[0] == "0" and tail != "0"):
        return None
    address = parse_address(head)
    if address is None or "%" in head:
        return None
    family, number = address
    bits = int(tail) - (96 if family == 4 and ":" in head else 0)
    return Prefix(family, number, bits) if 0 <= bits <= WIDTH[family] else None


def spell(family: int, number: int) -> str:
    """The usual text of an address."""
    return (
        inet_ntop(AF_INET, number.to_bytes(4, "big"))
        if family == 4
        else inet_ntop(AF_INET6, number.to_bytes(16, "big"))
    )


def canonical(address: bytes) -> str:
    """The usual text of an address of 4 or 16 octets; IPv4 mapped into IPv6 is IPv4."""
    if len(address) == 4:
        return inet_ntop(AF_INET, address)
    mapped = address.startswith(_MAPPED_OCTETS)
    return inet_ntop(AF_INET, address[12:]) if mapped else inet_ntop(AF_INET6, address)


def range_prefixes(low: int, high: int, width: int) -> list[tuple[int, int]]:
    """The fewest aligned ``(number, bits)`` prefixes that cover ``low..high`` of a ``width``-bit space."""
    out = []
    while low <= high:
        free = min((low & -low).bit_length() - 1 if low else width, (high - low + 1).bit_length() - 1)
        out.append((low, width - free))
        low += 1 << free
    return out


LAN = tuple(
    prefix
    for prefix in map(
        parse_prefix,
        (
            "0.0.0.0/32",
            "10.0.0.0/8",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "224.0.0.0/4",
            "::/128",
            "::1/128",
            "fc00::/7",
            "fe80::/10",
            "ff00::/8",
        ),
    )
    if prefix is not None
)
"""What ``GEOIP,LAN`` means: private, loopback, link-local, multicast and unspecified addresses."""
