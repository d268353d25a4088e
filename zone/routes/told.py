"""What a node makes of its ``gateway_info``: by which name it dials each other one, and where that one may be met.

Nothing of it says who anybody is.  The end of each route is a DID, and whoever answers for it proves its key; what is
wrong here costs a try.

Absent on purpose: routes by a gateway of the zone, for which nobody relays yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from cyfs_gateway.host import Whereabouts
from cyfs_ns import names
from cyfs_ns.errors import BadWire, ConfigFault
from cyfs_ns.identity.did import Did, did_of_host
from cyfs_ns.identity.strictjson import Json, read_object
from tunnels.url import TunnelUrl, parse

_MOST_NODES: Final = 4096
_MOST_EACH: Final = 16
"""Routes and hints of a node that are read, of each."""


@dataclass(frozen=True, slots=True)
class Told:
    """The other nodes, as far as they can be reached."""

    nodes: Mapping[str, TunnelUrl] = field(default_factory=dict)
    """By name, the URL of the machine itself."""
    places: Mapping[Did, Whereabouts] = field(default_factory=dict)

    def search(self, did: Did) -> Whereabouts:
        """As ``cyfs_gateway.host.Search``."""
        return self.places.get(did.canonical, Whereabouts())


def read_told(untrusted: str) -> Told:
    """What is in a value of ``nodes/<n>/gateway_info``.  Raises ``BadWire`` for one that is no object; parts of it that
    make no sense are left out."""
    told = read_object(untrusted, "nodes/*/gateway_info")
    nodes: dict[str, TunnelUrl] = {}
    relays: dict[Did, dict[Did, None]] = {}
    addresses: dict[Did, dict[tuple[str, int], None]] = {}
    for node, ways in list(_table(told.get("routes")).items())[:_MOST_NODES]:
        for way in _list(ways):
            url, carrier = _urls(way.get("url"))
            if url is None or (did := _did(url.host)) is None:
                continue
            nodes.setdefault(node, TunnelUrl("rtcp", "", url.host, url.port, "", ""))
            if "relay_node" not in way and carrier is not None and (sn := _did(carrier.host)) is not None:
                relays.setdefault(did, {})[sn] = None
    for host, hints in list(_table(told.get("did_ip_hints")).items())[:_MOST_NODES]:
        did = _did(host)
        for hint in _list(hints):
            ip, port = hint.get("ip"), hint.get("port")
            if did is not None and isinstance(ip, str) and names.is_ip(ip) and type(port) is int and 0 < port < 65536:
                addresses.setdefault(did, {})[names.ip(ip), port] = None
    return Told(
        nodes,
        {
            did: Whereabouts(tuple(addresses.get(did, ())), tuple(relays.get(did, ())))
            for did in addresses.keys() | relays.keys()
        },
    )


def _table(told: Json) -> Mapping[str, Json]:
    return told if isinstance(told, Mapping) else {}


def _list(told: Json) -> list[Mapping[str, Json]]:
    return [one for one in told[:_MOST_EACH] if isinstance(one, Mapping)] if isinstance(told, list) else []


def _urls(told: Json) -> tuple[TunnelUrl | None, TunnelUrl | None]:
    """The URL, and that of its carrier."""
    try:
        url = parse(told) if isinstance(told, str) else None
        return (None, None) if url is None or url.scheme != "rtcp" else (url, url.carrier)
    except ConfigFault:
        return None, None


def _did(host: str) -> Did | None:
    try:
        return did_of_host(host).canonical
    except BadWire:
        return None
