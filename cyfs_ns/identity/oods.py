"""How a zone document names its machines: ``[#|$]name[:ip][@net]``.

Bare is an OOD (a machine that keeps the zone's state) and a gateway too, ``#`` is a gateway only, ``$`` an OOD only.
The net says how it is reached: ``wan`` (also when an address stands without a net), ``wan_dyn``, ``portmap``, ``nat``,
``lan<N>``; without one nobody knows, and it is treated as a LAN.  The first forerunner wrote ``ood2@192.168.32.1`` and
``ood3#vlan1``; these are read too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cyfs_ns import names
from cyfs_ns.errors import BadWire

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?\Z").match
_NET = re.compile(r"[A-Za-z0-9_-]{1,32}\Z").match
_MAX = 160


@dataclass(frozen=True, slots=True)
class Ood:
    """One machine of a zone.  ``net`` and ``ip`` are None where the document leaves them open."""

    name: str
    is_ood: bool = True
    is_gateway: bool = True
    ip: str | None = None
    net: str | None = None

    def __str__(self) -> str:
        mark = "" if self.is_ood and self.is_gateway else "$" if self.is_ood else "#"
        where = "" if self.ip is None else f":{self.ip}"
        net = "" if self.net is None or (self.ip is not None and self.net == "wan") else f"@{self.net}"
        return f"{mark}{self.name}{where}{net}"

    @property
    def on_wan(self) -> bool:
        """Whether others can dial it without help."""
        return self.net is not None and self.net.startswith("wan")


def read_ood(untrusted: str) -> Ood:
    """The machine described.  Raises ``BadWire``."""
    if len(untrusted) > _MAX:
        raise BadWire("a machine's description is longer than any")
    mark, rest = (untrusted[0], untrusted[1:]) if untrusted[:1] in ("#", "$") else ("", untrusted)
    rest, _, net = rest.partition("@")
    name, colon, address = rest.partition(":")
    if not mark and "#" in name:
        name, _, net = name.partition("#")
    if net and not address and names.is_ip(net):
        colon, address, net = ":", net, ""
    if _NAME(name) is None or (net and _NET(net) is None) or bool(colon) != bool(address):
        raise BadWire(f"{untrusted!r} is not [#|$]name[:ip][@net]")
    ip = None
    if address:
        if not names.is_ip(address):
            raise BadWire(f"{untrusted!r}: {address!r} is no address")
        ip = names.ip(address)
    return Ood(
        name=name.lower(),
        is_ood=mark != "#",
        is_gateway=mark != "$",
        ip=ip,
        net=net or ("wan" if ip is not None else None),
    )
