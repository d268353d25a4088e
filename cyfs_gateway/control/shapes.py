"""The JSON that Clash's dashboards expect, key by key, made from the values of the facade.

What such clients rely on, and what is easy to get wrong: every key is always present (dashboards read without
asking), ports inside ``metadata`` are strings, times are RFC 3339 text and never numbers, a zero time is
``0001-01-01T00:00:00Z``, ``chains`` run from the leaf up, and a user id that is unknown is 0.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cyfs_gateway import __version__
from cyfs_ns.printable import printable

if TYPE_CHECKING:
    from cyfs_gateway.facade import ConnectionView, Explanation, Gateway, PeerView, ProxyView, TunnelView
    from cyfs_gateway.flow import Flow, Identity
    from cyfs_gateway.rules.table import RuleView
    from cyfs_ns.config.written import Fault
    from cyfs_ns.logline import LogLine

JsonObject = dict[str, Any]

LEVELS = ("debug", "info", "warning", "error", "silent")
_NEVER = "0001-01-01T00:00:00Z"


def iso_time(seconds: float) -> str:
    """Unix seconds as RFC 3339 in UTC; 0 is Go's zero time, which dashboards show as "never"."""
    if not seconds:
        return _NEVER
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def version_json() -> JsonObject:
    """``meta`` and a text without other programs' names make dashboards offer everything mihomo has."""
    return {"meta": True, "version": f"cyfs-gateway {__version__}"}


def proxy_json(view: ProxyView) -> JsonObject:
    """One outbound or group."""
    return {
        "name": view.name,
        "type": view.kind,
        "id": str(uuid.uuid5(uuid.NAMESPACE_OID, f"{view.kind}/{view.name}")),
        "udp": view.udp,
        "uot": False,
        "xudp": False,
        "tfo": False,
        "mptcp": False,
        "smux": False,
        "alive": view.alive,
        "history": [dict(entry) for entry in view.history],
        "extra": {},
        "interface": "",
        "routing-mark": 0,
        "dialer-proxy": "",
        "provider-name": "",
        **view.extra,
    }


def tunnel_json(view: TunnelView) -> JsonObject:
    """What is known of one tunnel URL."""
    return {
        "url": view.url,
        "state": view.state,
        "source": view.source,
        "reason": view.reason,
        "rtt": view.rtt,
        "learnt-at": view.learnt_at,
    }


def peer_json(view: PeerView) -> JsonObject:
    """One tunnel to another device."""
    return asdict(view)


def is_group(view: ProxyView) -> bool:
    """Groups are the outbounds that list members."""
    return "all" in view.extra


def metadata_json(flow: Flow, remote: str = "") -> JsonObject:
    """What is known of a flow, as ``metadata`` of a connection."""
    return {
        "network": flow.network,
        "type": flow.kind,
        "sourceIP": flow.src_ip,
        "destinationIP": flow.dst_ip,
        "sourceGeoIP": [],
        "destinationGeoIP": [],
        "sourceIPASN": "",
        "destinationIPASN": "",
        "sourcePort": str(flow.src_port),
        "destinationPort": str(flow.dst_port),
        "inboundIP": flow.in_ip,
        "inboundPort": str(flow.in_port),
        "inboundName": flow.in_name,
        "inboundUser": flow.in_user,
        "host": flow.host,
        "dnsMode": flow.dns_mode,
        "uid": max(flow.uid, 0),
        "process": flow.process,
        "processPath": flow.process_path,
        "specialProxy": "",
        "specialRules": "",
        "remoteDestination": remote,
        "dscp": flow.dscp,
        "sniffHost": flow.sniff_host,
        **_identity_json(flow.identity),
    }


def _identity_json(identity: Identity | None) -> JsonObject:
    """Ours: who sent it, for those who are known."""
    if identity is None:
        return {}
    return {
        "sourceDID": identity.did,
        "sourceOwner": identity.owner,
        "sourceZone": identity.zone,
        "sourceTrust": identity.trust.label,
    }


def connection_json(view: ConnectionView) -> JsonObject:
    """One live connection."""
    return {
        "id": view.id,
        "metadata": metadata_json(view.flow, view.remote),
        "upload": view.up,
        "download": view.down,
        "start": iso_time(view.start),
        "chains": list(view.chains),
        "providerChains": list(view.provider_chains),
        "rule": view.rule,
        "rulePayload": view.rule_payload,
    }


def rule_json(view: RuleView) -> JsonObject:
    """One rule with its counters."""
    return {
        "index": view.index,
        "type": view.type,
        "payload": view.payload,
        "proxy": view.proxy,
        "size": view.size,
        "extra": {
            "disabled": view.disabled,
            "hitCount": view.hit_count,
            "hitAt": iso_time(view.hit_at),
            "missCount": view.miss_count,
            "missAt": iso_time(view.miss_at),
        },
    }


def log_json(line: LogLine, *, structured: bool) -> JsonObject:
    """One log line, in the plain form or in ``format=structured``."""
    if not structured:
        text = " ".join([line.message, *(f"{key}={value}" for key, value in line.fields.items())])
        return {"type": line.level, "payload": printable(text)}
    return {
        "time": datetime.fromtimestamp(line.time, UTC).strftime("%H:%M:%S"),
        "level": "warn" if line.level == "warning" else line.level,
        "message": printable(line.message),
        "fields": [{"key": key, "value": str(value)} for key, value in line.fields.items()],
    }


def explanation_json(said: Explanation) -> JsonObject:
    """What would happen to a flow, as ``/cyfs/explain`` tells it."""
    return {
        "metadata": metadata_json(said.flow),
        "rule": said.rule,
        "index": said.index,
        "why": said.why,
        "resolution": said.resolution,
        "addresses": list(said.addresses),
        "chain": list(said.chain),
        "way": said.way,
        "passed": list(said.passed),
    }


def status_json(gateway: Gateway, now: float) -> JsonObject:
    """The state of the house in one object."""
    up, down = gateway.totals()
    return {
        "version": version_json()["version"],
        "started": iso_time(gateway.started),
        "uptime": round(max(now - gateway.started, 0.0), 3),
        "config": gateway.config_path,
        "home": gateway.config.home,
        "mode": gateway.config.mode,
        "memory": gateway.memory(),
        "connections": len(gateway.connections()),
        "uploadTotal": up,
        "downloadTotal": down,
        "rules": len(gateway.config.rules),
        **gateway.status(),
    }


def statuses_wanted(expected: str) -> bool:
    """Whether ``expected`` is a list of HTTP status codes and ranges as ``200/204-299``, or ``*`` or empty for any."""
    if expected in ("", "*"):
        return True
    for part in expected.split("/"):
        bounds = part.split("-")
        if len(bounds) > 2 or not all(b.isascii() and b.isdigit() and 100 <= int(b[:4]) <= 599 for b in bounds):
            return False
        if int(bounds[0]) > int(bounds[-1]):
            return False
    return True


def disabled_wanted(body: Mapping[str, object]) -> Mapping[int, bool]:
    """The body of PATCH /rules/disable as rule index to wish.

    :raises ValueError: it is no object of rule indices to booleans; then nothing may be applied.
    """
    wishes: dict[int, bool] = {}
    for key, wish in body.items():
        if not (key.isascii() and key.isdigit() and len(key) < 10 and isinstance(wish, bool)):
            raise ValueError("Body invalid")
        wishes[int(key)] = wish
    return wishes


def faults_json(faults: Sequence[Fault]) -> list[JsonObject]:
    """Faults of a configuration, each with its place."""
    return [
        {"severity": f.severity, "path": f.path, "line": f.line, "column": f.column, "message": f.message}
        for f in faults
    ]
