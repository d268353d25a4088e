"""Prometheus' text format (version 0.0.4), and what the gateway says in it.

Everything is read from the facade when somebody asks, so counting costs the hot path nothing here.  Label values come
from configurations and subscriptions: they are escaped as the format wants it, and the number of series is bounded
(only rules that were ever hit, and only the busiest of them).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from cyfs_gateway import __version__

if TYPE_CHECKING:
    from cyfs_gateway.facade import Gateway

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_MOST_RULES = 500
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


@dataclass(frozen=True, slots=True)
class Metric:
    """One family: its samples are (labels, value) pairs."""

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    samples: tuple[tuple[Mapping[str, str], float], ...]


def render(metrics: Iterable[Metric]) -> str:
    """The families as text; one without samples is left out."""
    return "".join(line + "\n" for metric in metrics if metric.samples for line in _lines(metric))


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
        _single("cyfs_uptime_seconds", "gauge", "Seconds since start.", max(now - gateway.started, 0.0)),
        _single("cyfs_memory_resident_bytes", "gauge", "Resident memory of the process.", gateway.memory()),
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
        _single("cyfs_rules", "gauge", "Rules in force.", len(rules)),
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


def _single(name: str, kind: Literal["counter", "gauge"], help: str, value: float) -> Metric:
    return Metric(name, kind, help, (({}, value),))


def _lines(metric: Metric) -> Iterator[str]:
    yield f"# HELP {metric.name} {metric.help}"
    yield f"# TYPE {metric.name} {metric.kind}"
    for labels, value in metric.samples:
        inside = ",".join(f'{key}="{text.translate(_ESCAPES)}"' for key, text in labels.items())
        yield f"{metric.name}{{{inside}}} {value}" if inside else f"{metric.name} {value}"
