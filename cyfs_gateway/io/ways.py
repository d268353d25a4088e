"""By which way a peer is dialled where nothing is given but its name, as by the owner's commands.

The configuration says how one gets there: the first proxy of type ``rtcp`` whose server is that peer, then
``keep-tunnel`` and ``sn``; who is in none is dialled at its addresses.  A tunnel that stands by any of these ways comes
first.  Of a name that leads to other machines their ways come behind its own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING

from cyfs_gateway.config.model import KeptTunnel
from cyfs_gateway.io.rtcp import Way
from cyfs_ns.identity.did import Did
from tunnels.io.rtcp import Rtcp, RtcpProxy
from tunnels.url import parse as parse_url

if TYPE_CHECKING:
    from cyfs_gateway.io.world import World


def way_to(world: World, peers: Iterable[Did], standing: Collection[str]) -> Way:
    """The way for the first of ``peers`` that has one, else plain connections.

    ``standing`` are the names of the ways by which they have tunnels, "" for plain connections.

    Raises ``ConfigFault`` for a URL that makes no sense.
    """
    ways = [*(way for peer in peers for way in _written(world, peer)), Way(via=None, at=None)]
    return next((way for way in ways if _name(way) in standing), ways[0])


def kept_way(world: World, kept: KeptTunnel) -> Way:
    """The way of one of ``keep-tunnel``.  Raises ``ConfigFault``."""
    if not kept.url:
        return Way(via=None, at=kept.port)
    way = world.tunnels.way(parse_url(kept.url))
    assert isinstance(way, Rtcp)
    return Way(via=way.carrier, at=kept.port)


def _written(world: World, peer: Did) -> Iterator[Way]:
    for proxy in (*world.outbounds.values(), *(one for some in world.provided.values() for one in some.values())):
        if isinstance(proxy, RtcpProxy) and proxy.is_to(peer):
            yield Way(via=proxy.carrier, at=proxy.port)
    rtcp = world.config.rtcp
    for kept in (*rtcp.keep, *(each.sn for each in rtcp.sns)) if rtcp is not None else ():
        if kept.peer.canonical == peer.canonical:
            yield kept_way(world, kept)


def _name(way: Way) -> str:
    carrier = way["via"]
    return "" if carrier is None else carrier.name
