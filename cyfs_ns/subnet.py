"""What servers are told of where a client is (RFC 7871): nothing, what the client itself says, or what the owner says.

A client that says "tell nothing" (zero bits) is obeyed.  Addresses that mean nothing outside the house are never told.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Literal

from cyfs_ns.edns import Ecs, ecs_of
from cyfs_ns.purposes import is_public


@dataclass(frozen=True, slots=True)
class SubnetPolicy:
    """``strip``: tell nothing.  ``pass``: what the client's query says.  ``add``: that, else ``fixed`` of the client's
    family, else the client's address cut to ``bits4`` or ``bits6``."""

    mode: Literal["strip", "pass", "add"] = "strip"
    fixed: tuple[Ecs, ...] = ()
    bits4: int = 24
    bits6: int = 56

    def told(self, asked: Ecs | None, client: str) -> Ecs | None:
        """The option to send for a client at a canonical address whose query carried ``asked``."""
        if self.mode == "strip":
            return None
        if asked is not None:
            return Ecs(asked.family, asked.source, 0, asked.prefix)
        if self.mode == "pass":
            return None
        family = 2 if ":" in client else 1
        for subnet in self.fixed:
            if subnet.family == family:
                return subnet
        address = ipaddress.ip_address(client.partition("%")[0])
        if self.fixed or not is_public(address):
            return self.fixed[0] if self.fixed else None
        return ecs_of(address.packed, self.bits6 if family == 2 else self.bits4)


def fixed_subnet(text: str) -> Ecs:
    """``203.0.113.0/24`` as the option.  Raises ``ValueError``."""
    network = ipaddress.ip_network(text, strict=False)
    return ecs_of(network.network_address.packed, network.prefixlen)
