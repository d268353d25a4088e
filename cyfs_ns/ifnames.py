"""Names of what has an address because a link of ours has one (dnsmasq's ``interface-name`` and ``dynamic-host``).

``gw.lan,br-lan`` is all that br-lan is called by; ``nas.lan,0.0.0.8,::8,br-lan`` is number 8 in each of its networks,
whatever prefix the provider gave today.  Link-local addresses mean nothing without their link and are left out.
Addresses that are temporary (RFC 8981) or deprecated are known by their reverse records only: nobody shall begin to use
them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from cyfs_ns import names
from cyfs_ns.errors import BadWire, ConfigFault
from cyfs_ns.links import Home

_MAX_INTERFACE = 15  # letters: IFNAMSIZ without the NUL


@dataclass(frozen=True, slots=True)
class InterfaceName:
    """One name, and how its addresses are made from those of an interface."""

    name: str
    """Canonical."""
    interface: str
    hosts: tuple[tuple[int, int | None], ...] = ((4, None), (6, None))
    """IP versions, each with the number within the network; ``None``: the interface's own address."""

    def addresses(self, homes: Iterable[Home]) -> Iterator[tuple[str, bool]]:
        """Canonical addresses, and whether they are told to who asks for the name."""
        hosts = dict(self.hosts)
        for home in sorted(homes):
            address = ipaddress.ip_address(home.ip)
            version, width = address.version, address.max_prefixlen
            if home.interface != self.interface or version not in hosts or (version == 6 and address.is_link_local):
                continue
            number = hosts[version]
            if number is None:
                yield home.ip, home.lasting
            elif home.bits < width:
                below = (1 << width - home.bits) - 1
                yield names.ip(str(type(address)(int(address) & ~below | number & below))), home.lasting


def parse_interface_name(text: str) -> InterfaceName:
    """dnsmasq's ``name,interface[/4|/6]``.  Raises ``ConfigFault``."""
    name, *rest = [field.strip() for field in text.split(",")]
    interface, slash, version = rest[0].rpartition("/") if rest and "/" in rest[0] else ("".join(rest[:1]), "", "")
    if len(rest) != 1 or (slash and version not in ("4", "6")):
        raise ConfigFault(f"expected name,interface, found {text[:80]!r}")
    hosts: tuple[tuple[int, int | None], ...] = ((int(version), None),) if slash else ((4, None), (6, None))
    return _named(name, interface, hosts)


def parse_dynamic_host(text: str) -> InterfaceName:
    """dnsmasq's ``name[,IPv4 address][,IPv6 address],interface``.  Raises ``ConfigFault``."""
    name, *rest = [field.strip() for field in text.split(",")]
    numbers, interface = rest[:-1], "".join(rest[-1:])
    try:
        parts = [ipaddress.ip_address(number) for number in numbers if number]
    except ValueError as fault:
        raise ConfigFault(f"expected name,address,interface, found {text[:80]!r}: {fault}") from None
    hosts = {part.version: int(part) for part in parts}
    if not hosts or len(hosts) != len(parts):
        raise ConfigFault(f"expected name,address,interface, one address of a family, found {text[:80]!r}")
    return _named(name, interface, tuple(sorted(hosts.items())))


def _named(name: str, interface: str, hosts: tuple[tuple[int, int | None], ...]) -> InterfaceName:
    try:
        return InterfaceName(names.name(name), interface_name(interface), hosts)
    except BadWire as fault:
        raise ConfigFault(str(fault)) from None


def interface_name(text: str) -> str:
    """``text``, if an interface can be called so.  Raises ``ConfigFault``."""
    if not 0 < len(text) <= _MAX_INTERFACE or "/" in text or any(letter.isspace() for letter in text):
        raise ConfigFault(f"no interface can be called {text[:40]!r}")
    return text
