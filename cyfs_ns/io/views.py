"""A name server as its control API shows it: plain JSON objects, made when somebody asks."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from cyfs_ns.io.explain import Explained
from cyfs_ns.io.process import installed_version, resident_bytes
from cyfs_ns.io.serving import Serving
from cyfs_ns.io.upstreams import ServerState
from cyfs_ns.message import rtype_text
from cyfs_ns.metrics import Metric, single
from cyfs_ns.printed import ede_text
from cyfs_ns.statistics import TopList, TopNames
from cyfs_ns.upstream import Group

JsonObject = dict[str, Any]

_SOURCES = (
    *("hot", "cache", "stale", "upstream", "local", "blocked", "rewritten", "trusted", "fake-ip", "refused", "failed"),
)


def status_json(serving: Serving, started: float) -> JsonObject:
    """What ``cyfs-ns status`` shows; ``started`` is Unix time."""
    config, ring = serving.config, serving.ring
    return {
        "version": installed_version(),
        "uptime": max(0.0, time.time() - started),
        "home": str(serving.home),
        "doors": [f"{place} ({wait})" if wait else place for place, wait in serving.doors.states()],
        "answers": sum(_totals(serving).values()),
        "clients": [view.name for view in config.house.policy.views],
        "cache": {"entries": len(serving.cache), "bytes": serving.cache.size, "max-bytes": config.cache.max_bytes},
        "lists": sum(report.entries for _, _, report in _lists(serving) if report is not None),
        "query-log": {
            "privacy": config.house.log.privacy,
            "unlogged": serving.unlogged,
            "lost": 0 if ring is None else ring.lost,
        },
        **({} if serving.fake is None else {"fake-ip": {"names": len(serving.fake.pool), "fault": serving.fake.fault}}),
        "memory": resident_bytes(),
    }


def statistics_json(serving: Serving, many: int) -> JsonObject:
    """Totals, the last hours, and the ``many`` most frequent of everything."""
    serving.server.settle()
    said = serving.server.statistics
    return {
        "since": said.since,
        "total": _totals(serving),
        "hours": [{"hour": hour * 3600, "answers": counts} for hour, counts in said.by_hour()],
        "types": {rtype_text(number): count for number, count in said.rtypes.most_common(many)},
        "names": _top(said.names, many),
        "blocked": _top(said.blocked, many),
        "clients": _top(said.clients, many),
        "upstreams": [
            {"server": server, "answers": count, "milliseconds": round(said.mean_seconds(server) * 1000, 1)}
            for server, count in said.servers.most_common(many)
        ],
    }


def upstreams_json(serving: Serving) -> list[JsonObject]:
    """The health of every server: those that were asked, then those that were not needed yet."""
    house = serving.server.house
    groups = [house.servers.standard, *house.servers.split.groups, *house.client_groups.values()]
    if house.servers.fallback is not None:
        groups.append(house.servers.fallback)
    asked = serving.server.forwarder.servers()
    shown = [_server(state, _groups_of(state.server, groups)) for state in asked]
    known = {state.server for state in asked}
    for group in groups:
        for upstream in group.servers:
            if str(upstream) not in known and upstream.scheme not in ("system", "dhcp"):
                known.add(str(upstream))
                shown.append(
                    {"server": str(upstream), "groups": _groups_of(str(upstream), groups), "state": "not asked"}
                )
    return shown


def lists_json(serving: Serving) -> list[JsonObject]:
    """Every list: where it is from, what is in it, when it was looked for."""
    shown = []
    for spec, state, report in _lists(serving):
        source = spec.source
        shown.append(
            {
                "name": source.name,
                "action": "rewrite" if source.rewrites else "allow" if source.allow else "block",
                "place": spec.place,
                "format": report.format if report is not None else source.format,
                "entries": report.entries if report is not None else 0,
                "faulty": report.faulty if report is not None else 0,
                "faults": list(report.faults) if report is not None else [],
                "checked": state.checked,
                "changed": state.changed,
                "fault": state.fault,
            }
        )
    return shown


def explained_json(said: Explained) -> JsonObject:
    """One way of an answer."""
    shape = asdict(said)
    shape["steps"] = [{**step._asdict(), "milliseconds": round(step.milliseconds, 3)} for step in said.steps]
    shape["answer"] = [{"name": n, "type": t, "ttl": ttl, "data": data} for n, t, ttl, data in said.answer]
    shape["ede"] = [{"code": code, "meaning": ede_text(code), "text": text} for code, text in said.ede]
    shape["milliseconds"] = round(said.milliseconds, 3)
    return shape


def metrics_of(serving: Serving, started: float) -> tuple[Metric, ...]:
    """What a name server tells Prometheus."""
    serving.server.settle()
    said, upstreams = serving.server.statistics, upstreams_json(serving)
    lists = lists_json(serving)
    return (
        Metric("cyfs_dns_info", "gauge", "Always 1; the version is a label.", (({"version": installed_version()}, 1),)),
        single("cyfs_dns_start_time_seconds", "gauge", "Start, in seconds since 1970.", started),
        single("cyfs_dns_memory_resident_bytes", "gauge", "Resident memory of the process.", resident_bytes()),
        Metric(
            "cyfs_dns_answers_total",
            "counter",
            "Answers by where they came from.",
            tuple(({"source": source}, count) for source, count in _totals(serving).items()),
        ),
        Metric(
            "cyfs_dns_questions_total",
            "counter",
            "Questions by type; the 20 most frequent.",
            tuple(({"type": rtype_text(number)}, count) for number, count in said.rtypes.most_common(20)),
        ),
        single("cyfs_dns_cache_entries", "gauge", "Answers in the cache.", len(serving.cache)),
        single("cyfs_dns_cache_bytes", "gauge", "Memory of the cache.", serving.cache.size),
        Metric(
            "cyfs_dns_upstream_answers_total",
            "counter",
            "Answers of upstreams that clients waited for.",
            tuple(({"server": server}, count) for server, count in said.servers.items()),
        ),
        Metric(
            "cyfs_dns_upstream_seconds_total",
            "counter",
            "Seconds that clients waited for them.",
            tuple(({"server": server}, said.mean_seconds(server) * count) for server, count in said.servers.items()),
        ),
        Metric(
            "cyfs_dns_upstream_failures_total",
            "counter",
            "Questions an upstream failed on.",
            tuple(({"server": one["server"]}, one["failures"]) for one in upstreams if "failures" in one),
        ),
        Metric(
            "cyfs_dns_upstream_up",
            "gauge",
            "1 unless the upstream is set back or leads back to us.",
            tuple(({"server": one["server"]}, int(one["state"] == "well")) for one in upstreams if "failures" in one),
        ),
        Metric(
            "cyfs_dns_list_entries",
            "gauge",
            "Rules of each list.",
            tuple(({"list": one["name"]}, one["entries"]) for one in lists),
        ),
        single("cyfs_dns_unlogged_total", "counter", "Questions the query log had no room for.", serving.unlogged),
    )


def _totals(serving: Serving) -> dict[str, int]:
    total = serving.server.statistics.total
    return {source: total[source] for source in _SOURCES} | {key: total[key] for key in total if key not in _SOURCES}


def _top(counts: TopList[str] | TopNames, many: int) -> list[JsonObject]:
    return [{"name": name, "count": count} for name, count in counts.top(many)]


def _lists(serving: Serving) -> Iterable[Any]:
    return serving.lists.status() if serving.lists is not None else ()


def _groups_of(server: str, groups: Iterable[Group]) -> list[str]:
    return [group.name for group in groups if any(str(upstream) == server for upstream in group.servers)]


def _server(state: ServerState, groups: list[str]) -> JsonObject:
    score = state.score
    health = "loops" if state.looping else "set back" if score.set_back_until is not None else "well"
    return {
        "server": state.server,
        "groups": groups,
        "state": health if score.answers or score.failures or health != "well" else "not asked",
        "milliseconds": round(score.rtt * 1000, 1),
        "answers": score.answers,
        "failures": score.failures,
        "connections": state.connections,
        "strays": state.strays,
        "fault": score.last_fault,
    }
