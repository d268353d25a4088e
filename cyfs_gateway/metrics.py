"""What a gateway tells Prometheus.

Everything is read from the facade when somebody asks, so counting costs the hot path nothing here.  The number of
series is bounded: only rules that were ever hit, and only the busiest of them.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

from cyfs_gateway import __version__
from cyfs_ns.metrics import Metric, single

if TYPE_CHECKING:
    from cyfs_gateway.facade import Gateway

_MOST_RULES = 500


def gateway_metrics(gateway: Gateway, now: float) -> tuple[Metric, ...]:
    """What can be read of a running gateway; ``now`` is Unix time."""
    up, down = gateway.totals()
    ways = gateway.proxies().values()
    rules = gateway.rules.view()
    hit = heapq.nlargest(_MOST_RULES, (r for r in rules if r.hit_count), key=lambda rule: rule.hit_count)
    open_flows = {"tcp": 0, "udp": 0}
    for connection in gateway.connections():
        open_flows[connection.flow.network] += 1
    return (
        Metric("cyfs_info", "gauge", "Always 1; the version is a label.", (({"version": __version__}, 1),)),
        single("cyfs_uptime_seconds", "gauge", "Seconds since start.", max(now - gateway.started, 0.0)),
        single("cyfs_memory_resident_bytes", "gauge", "Resident memory of the process.", gateway.memory()),
        Metric(
            "cyfs_connections",
            "gauge",
            "Flows that are open now.",
            tuple(({"network": network}, count) for network, count in open_flows.items()),
        ),
        Metric(
            "cyfs_bytes_total",
            "counter",
            "Bytes carried, closed flows included.",
            (({"direction": "up"}, up), ({"direction": "down"}, down)),
        ),
        Metric(
            "cyfs_outbound_bytes_total",
            "counter",
            "Bytes carried by each outbound.",
            tuple(
                ({"outbound": way.name, "type": way.kind, "direction": direction}, count)
                for way in ways
                for direction, count in (("up", way.up), ("down", way.down))
            ),
        ),
        Metric(
            "cyfs_outbound_alive",
            "gauge",
            "1 when the last probe of the outbound succeeded or none was made.",
            tuple(({"outbound": way.name, "type": way.kind}, int(way.alive)) for way in ways),
        ),
        single("cyfs_rules", "gauge", "Rules in force.", len(rules)),
        Metric(
            "cyfs_rule_hits_total",
            "counter",
            f"Flows that a rule decided; the {_MOST_RULES} busiest rules.",
            tuple(
                ({"index": str(r.index), "type": r.type, "payload": r.payload, "proxy": r.proxy}, r.hit_count)
                for r in hit
            ),
        ),
    )
