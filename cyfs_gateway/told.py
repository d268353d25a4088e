"""Where a stream came from, as the peer says that brought it: how far its word counts.

Whoever is named in ``proxy-from`` is believed.  An SN that we belong to is, too, as far as it can hurt nobody: that
somebody comes from inside this house, which rules may go by, it cannot know.  What anybody else says is dropped.
"""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import ip_address
from typing import Final

from cyfs_gateway.config.model import RtcpConfig
from cyfs_ns.identity.did import Did
from cyfs_ns.purposes import Special, is_public, special
from rtcp.party import Address

_BESIDE: Final = (Special.CARRIER, Special.TRANSLATOR)
"""Whoever shares our carrier's NAT with us comes from outside all the same."""


def is_sn_of(rtcp: RtcpConfig, names: Collection[Did]) -> bool:
    """Whether one of ``names`` (canonical) is an SN that this machine belongs to."""
    return any(one.sn.peer.canonical in names for one in rtcp.sns)


def believed(rtcp: RtcpConfig, names: Collection[Did], told: Address | None) -> Address | None:
    """What is believed of ``told`` by a peer that goes by ``names`` (canonical); None: nothing."""
    if told is None:
        return None
    address = ip_address(told[0])
    address = getattr(address, "ipv4_mapped", None) or address
    is_known = not rtcp.proxy_from.isdisjoint(names)
    if is_known or (is_sn_of(rtcp, names) and (is_public(address) or special(address) in _BESIDE)):
        return str(address), told[1]
    return None
