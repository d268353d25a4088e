"""The fence around programs that are kept apart from this house, such as containers: what of its ways they may use.

The internet is open to them, this house is not: neither its loopback, nor the addresses of this machine, nor the LAN,
nor other devices by their tunnels.  Where a name leads is looked at when it is dialled, so no name server can lead
around it.  A proxy is a way out as the house has chosen it: where names lead there, it alone knows.
"""

from __future__ import annotations

import ipaddress

from cyfs_gateway.flow import PEER, Flow
from cyfs_ns.errors import Refused
from cyfs_ns.io.sources import is_local
from tunnels.io.leaf import Direct, Through
from tunnels.outbound import Outbound


def fenced(leaf: Outbound, flow: Flow) -> Outbound | None:
    """See ``cyfs_gateway.decide.Fence``."""
    if type(leaf) is Direct:
        return leaf.guarded(refuse_house)
    if leaf.kind == PEER or isinstance(leaf, Through):
        return None
    if leaf.kind in ("Reject", "RejectDrop", "Pass", "Dns"):
        return leaf
    names_house = f".{flow.rule_host}".endswith(".localhost") or (flow.dst_ip and is_house(flow.dst_ip))
    return None if names_house else leaf


def refuse_house(ip: str, port: int) -> None:
    """Raise ``Refused`` for an address that is not out there."""
    if is_house(ip):
        raise Refused(f"{ip} is of this house, and no rule that names this service lets it there")


def is_house(ip: str) -> bool:
    """Whether an IP text is one of this machine or of a network that is not the internet's."""
    address = ipaddress.ip_address(ip)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    # Where nobody can ask, it may be one of ours.
    return not address.is_global or address.is_multicast or is_local(str(address)) is not False
