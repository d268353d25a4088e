"""``nodes/<n>/gateway_info``: what the gateway of a node is told of the others of its zone, as the scheduler writes it.

    {"node_info": {"this_node_id": "attic", "this_zone_host": "home.example"},
     "routes": {"barn": [...]},         # the ways there, the best first
     "did_ip_hints": {"HOST": [...]},   # addresses for the dialler
     "left_out": 0}                     # machines for which there was no room; OODs and gateways come first

Where a machine is on the Internet, and what its key is, is said by the zone's document, which its owner signed.

Absent on purpose: services and apps.  They are the same on every node, and stand in ``services/<s>/info`` once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from cyfs_ns.errors import BadWire, ConfigFault
from cyfs_ns.identity.did import host_of_did, parse_did
from cyfs_ns.identity.documents import ZoneDoc
from cyfs_ns.identity.strictjson import Json, write_json
from tunnels.url import has_scheme, parse
from zone.config.model import MOST_VALUE, Commit
from zone.membership import Role, role_of
from zone.routes.build import Routes, hints
from zone.routes.places import PORT, Place, address, read_observed

_ROOM: Final = MOST_VALUE - 4096
"""Bytes of all routes and hints in one value; the rest is for what stands around them."""
_MOST_HINTS: Final = 16
_MOST_COMMIT: Final = 512 * 1024


def gateway_info_key(node: str) -> str:
    """Where ``node`` is told of the others."""
    return f"nodes/{node}/gateway_info"


def places_of(zone: ZoneDoc, infos: Mapping[str, str]) -> tuple[Place, ...]:
    """The machines of ``zone``; ``infos`` are the values of ``devices/<n>/info``, by the names of their nodes."""
    nets = {ood.name: ood for ood in zone.oods}
    found = []
    for name, device in sorted(zone.devices.items()):
        listed = nets.get(name)
        texts = [*device.ips, *([listed.ip] if listed is not None and listed.ip else [])]
        signed = dict.fromkeys(ip for ip in map(address, texts) if ip is not None)
        net = (listed.net if listed is not None else None) or device.net or ""
        if not net and any(ip.is_global for ip in signed):
            net = "wan"
        observed = read_observed(infos.get(name, ""))
        role = role_of(zone.oods, name)
        found.append(
            Place(
                name=name,
                did=device.id,
                net=net,
                port=device.rtcp_port or observed.port or PORT,
                signed=tuple(signed),
                is_ood=role is Role.OOD,
                is_gateway=listed is not None and listed.is_gateway,
                ipv6=observed.ipv6,
                endpoints=observed.endpoints,
                probes=observed.probes,
            )
        )
    return tuple(found)


def gateway_infos(zone: ZoneDoc, places: tuple[Place, ...]) -> dict[str, str]:
    """Node to the value that it is to have."""
    routes = Routes(places, _sn(zone))
    host = zone.hostname or host_of_did(zone.id)
    by_use = sorted(places, key=lambda place: (not place.is_ood, not place.is_gateway, place.name))
    told_of = {place.name: (place.host, hints(place)[:_MOST_HINTS]) for place in places}
    found = {}
    for place in places:
        ways: dict[str, Json] = {}
        addresses: dict[str, Json] = {}
        room, left_out = _ROOM, 0
        for target in by_use:
            if target.name == place.name:
                continue
            here: list[Json] = [way.as_plain(place.name) for way in routes.between(place.name, target.name)]
            name, known = told_of[target.name]
            size = len(write_json([target.name, here, name, known]))
            if size > room:
                left_out += 1
                continue
            room -= size
            ways[target.name], addresses[name] = here, known
        plain: dict[str, Json] = {
            "node_info": {"this_node_id": place.name, "this_zone_host": host},
            "routes": ways,
            "did_ip_hints": addresses,
            "left_out": left_out,
        }
        found[place.name] = write_json(plain).decode()
    return found


def route_commits(
    lease: tuple[str, int], wanted: Mapping[str, str], there: Mapping[str, tuple[int, str]]
) -> Iterator[Commit]:
    """What is to be written so that each node has its value in ``wanted``, and nobody else has one.

    ``there``: what stands below ``nodes``, key to revision and value.  Each commit is guarded by ``lease``.
    """
    texts: dict[str, str | None] = {gateway_info_key(node): text for node, text in wanted.items()}
    for key in there:
        if key.endswith("/gateway_info") and key.count("/") == 2:
            texts.setdefault(key, None)
    writes: dict[str, str | None] = {}
    size = 0
    for key, text in sorted(texts.items()):
        if there.get(key, (0, None))[1] == text:
            continue
        writes[key] = text
        size += len((text or "").encode())
        if size > _MOST_COMMIT:
            yield _commit(lease, writes, there)
            writes, size = {}, 0
    if writes:
        yield _commit(lease, writes, there)


def _commit(lease: tuple[str, int], writes: Mapping[str, str | None], there: Mapping[str, tuple[int, str]]) -> Commit:
    key, revision = lease
    return Commit({key: revision} | {key: there.get(key, (0, ""))[0] for key in writes}, dict(writes))


def _sn(zone: ZoneDoc) -> str:
    """The URL of the zone's SN; empty: it has none that can be made sense of."""
    told = zone.sn or ""
    try:
        if told.startswith("did:"):
            told = host_of_did(parse_did(told), case_safe=True)
        url = told if has_scheme(told) else f"rtcp://{told}/"
        return url if told and parse(url).host else ""
    except (BadWire, ConfigFault):
        return ""
