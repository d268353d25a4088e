"""Names made from addresses: every address of a range has one, and no table holds them (dnsmasq's ``synth-domain``).

``internal-192-168-0-56.lan`` is 192.168.0.56: the address as text, what parts its numbers replaced by dashes.  Or, when
numbered, ``internal-6.lan`` is the seventh address of the range.  An IPv6 address whose text begins with a colon gets a
zero in front where there is no prefix, as no label begins with a dash: ``0--1.lan`` is ::1.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TypeAlias

from cyfs_ns import names
from cyfs_ns.errors import BadWire, ConfigFault

_WIDTHS = {4: 15, 6: 39}
"""Characters of the longest address."""

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Synthesised:
    """One range of addresses and the names of all in it."""

    domain: str
    """Canonical."""
    first: Address
    last: Address
    prefix: str = ""
    """What the made label begins with."""
    numbered: bool = False

    def name(self, ip: str) -> str | None:
        """The name of a canonical address, or ``None``: it is not in the range."""
        address = ipaddress.ip_address(ip)
        if address.version != self.first.version or not int(self.first) <= int(address) <= int(self.last):
            return None
        if self.numbered:
            label = f"{self.prefix}{int(address) - int(self.first)}"
        else:
            text = str(address).replace(".", "-").replace(":", "-")
            label = f"{self.prefix}{text}" if self.prefix or text[0] != "-" else f"0{text}"
        return f"{label}.{self.domain}"

    def address(self, name: str) -> str | None:
        """The canonical address a canonical name stands for, or ``None``: it is none of ours."""
        label, _, domain = name.partition(".")
        if domain != self.domain or not label.startswith(self.prefix):
            return None
        text = label[len(self.prefix) :]
        if self.numbered:
            # One spelling for each address, so that names and addresses go both ways.
            if not (text.isascii() and text.isdigit() and len(text) < 40 and text == str(int(text))):
                return None
            number = int(self.first) + int(text)
            if number > int(self.last):
                return None
            return names.ip(str(type(self.first)(number)))
        try:
            ip = names.ip(text.replace("-", "." if self.first.version == 4 else ":"))
        except BadWire:
            return None
        return ip if self.name(ip) is not None else None


def parse_synth(text: str) -> Synthesised:
    """dnsmasq's ``domain,range[,prefix[*]]``, the range ``net/bits`` or ``first,last``.  Raises ``ConfigFault``."""
    fields = [field.strip() for field in text.split(",")]
    try:
        domain = names.name(fields[0])
        if "/" in fields[1]:
            network = ipaddress.ip_network(fields[1], strict=False)
            first, last, rest = network[0], network[-1], fields[2:]
        else:
            first, last, rest = ipaddress.ip_address(fields[1]), ipaddress.ip_address(fields[2]), fields[3:]
        prefix, star = (rest[0], rest[0].endswith("*")) if rest else ("", False)
        made = Synthesised(domain, first, last, prefix.removesuffix("*").lower(), star)
        if len(rest) > 1 or first.version != last.version or int(first) > int(last):
            raise ConfigFault(f"no range of addresses: {text[:80]!r}")
        width = len(str(int(last) - int(first))) if star else _WIDTHS[first.version]
        names.name(f"{made.prefix}{'0' * width}.{domain}")
    except (ValueError, IndexError, BadWire) as fault:
        raise ConfigFault(f"expected domain,range,prefix, found {text[:80]!r}: {fault}") from None
    return made
