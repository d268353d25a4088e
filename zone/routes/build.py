"""Routes from one node to another: at most a direct one, one by the zone's SN, and one by a gateway of the zone.

| kind | priority | when |
|---|---|---|
| ``direct`` | 10 | there is evidence that it can be dialled, see below |
| ``via-sn`` | 30 | the zone has an SN |
| ``via-zone-gateway-<n>`` | 40 | both get through to a gateway of the zone: the first by name |

A relay that stands beside a direct route is a ``backup``.  The end of each is the target by its DID, never an address.
Whoever uses them tries no others, may try the one sooner that got through lately, and leaves priorities as they are.

Evidence for a direct route, the first that there is:

1. ``signed_wan_ip``: the owner signed an address of the target on the Internet.  Then no other address is believed.
2. ``direct_probe``: the source got through lately.
3. ``ipv6_global_endpoint``: IPv6 leads out of the source, and the target has a global address.
4. ``wan_target_net_id``: the owner says that the target is on the Internet, or has a port mapped there.
5. ``same_net_id``: both are in one LAN by what the owner says, or nothing is said of either, unless the addresses that
   both have in their LANs are of different subnets.
6. ``shared_ood_direct_probe``: both got through to one OOD that is not open to the Internet: they share its LAN.

5 and 6 are no evidence for a node on the Internet.  Apart from the forerunner's rules, on purpose: two nodes at ``nat``
are not in one LAN for that, since it is what half of all homes are; they need 2 or 6.  And an OOD that can be reached
by IPv6 from anywhere is no witness in 6.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import quote

from cyfs_ns.identity.strictjson import Json
from zone.routes.places import FRESH, PORT, Place

DIRECT: Final = 10
VIA_SN: Final = 30
VIA_GATEWAY: Final = 40
_KEPT_BY_NODE: Final = 2
"""OODs to which a plain node keeps a tunnel."""

Kind = Literal[
    "signed_wan_ip",
    "direct_probe",
    "ipv6_global_endpoint",
    "wan_target_net_id",
    "same_net_id",
    "shared_ood_direct_probe",
    "sn",
    "zone_gateway",
]
Confidence = Literal["high", "medium", "low"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Why a route is worth a try."""

    kind: Kind
    confidence: Confidence
    applicability: Literal["source_node", "same_lan", "zone_wide"]
    source: Literal["zone_config", "system_config", "lan_discovery"]
    witness: str = ""
    rtt: int | None = None

    def as_plain(self, source_node: str) -> dict[str, Json]:
        """As it stands in a route."""
        plain: dict[str, Json] = {
            "type": self.kind,
            "source_node": source_node,
            "confidence": self.confidence,
            "applicability": self.applicability,
        }
        if self.witness:
            plain["witness_node"] = self.witness
        if self.rtt is not None:
            plain["rtt_ms"] = self.rtt
        if self.kind in ("direct_probe", "shared_ood_direct_probe"):
            plain["freshness_ttl_secs"] = int(FRESH)
        return plain


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One way to try."""

    id: str
    priority: int
    url: str
    evidence: Evidence
    relay: str = ""
    """The node in between; empty: none, or the SN."""
    backup: bool = False
    keep: bool = False
    """Whether a tunnel this way is worth keeping."""

    def as_plain(self, source_node: str) -> dict[str, Json]:
        """As it stands in ``gateway_info``."""
        plain: dict[str, Json] = {
            "id": self.id,
            "kind": "rtcp_direct" if self.priority == DIRECT else "rtcp_relay",
            "priority": self.priority,
            "weight": 100,
            "backup": self.backup,
            "keep_tunnel": self.keep,
            "url": self.url,
            "source": self.evidence.source,
            "evidence": self.evidence.as_plain(source_node),
        }
        if self.relay:
            plain["relay_node"] = self.relay
        return plain


class Routes:
    """The routes of a zone that has these ``places``, and whose SN is at the URL ``sn`` (empty: it has none)."""

    def __init__(self, places: Iterable[Place], sn: str = "") -> None:
        self._places = {place.name: place for place in sorted(places, key=lambda place: place.name)}
        self._sn = sn
        self._gateways = [place for place in self._places.values() if place.is_gateway]
        oods = [place.name for place in self._places.values() if place.is_ood]
        self._kept = frozenset(oods[:_KEPT_BY_NODE])
        hidden = {
            place.name for place in self._places.values() if place.is_ood and not _is_reached_from_anywhere(place)
        }
        self._witnesses = {
            name: frozenset(probe.target for probe in place.probes) & (hidden - {name})
            for name, place in self._places.items()
        }

    def between(self, source: str, target: str) -> tuple[Candidate, ...]:
        """The ways from one node to another one, the best first."""
        near, far = self._places[source], self._places[target]
        evidence = self.direct(near, far)
        found = []
        if evidence is not None:
            found.append(
                Candidate(
                    id="direct",
                    priority=DIRECT,
                    url=_url(far),
                    evidence=evidence,
                    keep=self._is_kept(near, far),
                )
            )
        is_backup = evidence is not None
        keeps_relay = self._is_kept(near, far) and not is_backup
        if self._sn:
            by_sn = Evidence(kind="sn", confidence="medium", applicability="zone_wide", source="zone_config")
            url = _url(far, self._sn)
            found.append(
                Candidate(id="via-sn", priority=VIA_SN, url=url, evidence=by_sn, backup=is_backup, keep=keeps_relay)
            )
        if (relay := self._gateway_between(near, far)) is not None:
            by_gateway = Evidence(
                kind="zone_gateway", confidence="low", applicability="zone_wide", source="system_config"
            )
            found.append(
                Candidate(
                    id=f"via-zone-gateway-{relay.name}",
                    priority=VIA_GATEWAY,
                    url=_url(far, _url(relay)),
                    evidence=by_gateway,
                    relay=relay.name,
                    backup=is_backup or bool(self._sn),
                    keep=keeps_relay and not self._sn,
                )
            )
        return tuple(found)

    def direct(self, source: Place, target: Place) -> Evidence | None:
        """Why ``source`` could dial ``target``; None: nothing speaks for it."""
        probe = next((probe for probe in source.probes if probe.target == target.name), None)
        if target.signed_wan:
            return Evidence(kind="signed_wan_ip", confidence="high", applicability="zone_wide", source="zone_config")
        if probe is not None:
            return Evidence(
                kind="direct_probe",
                confidence="high",
                applicability="source_node",
                source="system_config",
                rtt=probe.rtt,
            )
        if source.ipv6 in ("egress_ok", "rtcp_direct_ok") and target.global6:
            return Evidence(
                kind="ipv6_global_endpoint",
                confidence="high" if target.ipv6 == "rtcp_direct_ok" else "medium",
                applicability="zone_wide",
                source="system_config",
            )
        if target.is_open:
            return Evidence(
                kind="wan_target_net_id", confidence="medium", applicability="zone_wide", source="zone_config"
            )
        if source.on_wan:
            return None
        if source.net == target.net != "nat" and not _are_apart(source, target):
            return Evidence(
                kind="same_net_id",
                confidence="medium" if source.net else "low",
                applicability="same_lan",
                source="zone_config",
            )
        if shared := self._witnesses[source.name] & self._witnesses[target.name]:
            return Evidence(
                kind="shared_ood_direct_probe",
                confidence="low",
                applicability="same_lan",
                source="system_config",
                witness=min(shared),
            )
        return None

    def _gateway_between(self, source: Place, target: Place) -> Place | None:
        for gateway in self._gateways:
            if gateway.name in (source.name, target.name) or self.direct(source, gateway) is None:
                continue
            # Whoever of the two can dial the other keeps a tunnel, which serves both ways.
            if self.direct(gateway, target) is not None or self.direct(target, gateway) is not None:
                return gateway
        return None

    def _is_kept(self, source: Place, target: Place) -> bool:
        if source.is_ood or source.is_gateway:
            return target.is_ood or target.is_gateway
        return target.name in self._kept


def _is_reached_from_anywhere(place: Place) -> bool:
    return place.is_open or bool(place.global6)


def _are_apart(one: Place, other: Place) -> bool:
    """Whether the addresses in their LANs say that these are two."""
    compared = [(one.lan(version), other.lan(version)) for version in (4, 6)]
    told = [(mine, yours) for mine, yours in compared if mine and yours]
    return bool(told) and all(mine.isdisjoint(yours) for mine, yours in told)


def _url(target: Place, carrier: str = "") -> str:
    port = "" if target.port == PORT else f":{target.port}"
    return f"rtcp://{quote(carrier, safe='') + '@' if carrier else ''}{target.host}{port}/"


def hints(place: Place) -> list[Json]:
    """Addresses that may be worth dialling for it, whatever the routes are; the dialler puts them in order."""
    if place.signed_wan:
        return [_hint(str(ip), place, "SignedDeviceDoc", "high") for ip in place.signed_wan]
    signed = [_hint(str(ip), place, "SignedDeviceDoc", "high") for ip in place.signed]
    lan = [_hint(str(ip), place, "LanEndpoint", "medium") for ip in place.endpoints if not ip.is_global]
    return [*signed, *lan, *(_hint(str(ip), place, "GlobalIpv6", "medium") for ip in place.global6)]


def _hint(ip: str, place: Place, source: str, confidence: Confidence) -> Mapping[str, Json]:
    return {"ip": ip, "port": place.port, "source": source, "confidence": confidence}
