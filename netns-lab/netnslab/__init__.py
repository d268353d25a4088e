"""A laboratory of network namespaces: real programs on real (and nasty) networks, one test at a time.

``Lab`` is declared first (networks, hosts, NATs, links are values) and then brought up: ``async with lab.up()``.
"""

from netnslab.gateway import Gateway, GatewayFault
from netnslab.lab import Host, Lab, Network, why_not
from netnslab.link import Link
from netnslab.nat import (
    FIREWALL6,
    FULL_CONE,
    HAIRPIN,
    HOME,
    NO_UDP,
    ONE_TO_ONE,
    PER_ADDRESS,
    POOL,
    PORT_RESTRICTED,
    PREDICTABLE,
    RESTRICTED,
    SYMMETRIC,
    TOUCHY,
    WEB_ONLY,
    Nat,
)
from netnslab.plugin import need
from netnslab.process import Done, Process

__all__ = [
    "FIREWALL6",
    "FULL_CONE",
    "HAIRPIN",
    "HOME",
    "NO_UDP",
    "ONE_TO_ONE",
    "PER_ADDRESS",
    "POOL",
    "PORT_RESTRICTED",
    "PREDICTABLE",
    "RESTRICTED",
    "SYMMETRIC",
    "TOUCHY",
    "WEB_ONLY",
    "Done",
    "Gateway",
    "GatewayFault",
    "Host",
    "Lab",
    "Link",
    "Nat",
    "Network",
    "Process",
    "need",
    "why_not",
]
