"""What two OODs tell each other about their members: one line of JSON each way.

The asker says where it stands, which is how a leader hears of it; the answer says of which cluster the other is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.strictjson import Json, read_object, write_json
from zone.etcd.seats import check_url
from zone.etcd.start import Told, check_urls

MOST_LINE: Final = 8192
"""Octets of a line, its end too."""
_MOST_CLUSTER: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Where a machine stands."""

    url: str
    """Of the member that it has or wants to have; empty: it does not know yet."""
    runs: bool = False
    """The member runs."""


def write_report(report: Report) -> bytes:
    return write_json({"url": report.url, "runs": report.runs}) + b"\n"


def read_report(untrusted: bytes) -> Report:
    """Raises ``BadWire``."""
    told = read_object(untrusted, "report")
    url, runs = told.get("url"), told.get("runs")
    if not isinstance(url, str) or not isinstance(runs, bool):
        raise BadWire("report: no url and runs")
    return Report(url=check_url(url) if url else "", runs=runs)


def write_told(told: Told | None) -> bytes:
    """None: of no cluster."""
    if told is None:
        return b"{}\n"
    words: dict[str, Json] = {"cluster": told.cluster, "urls": list(told.urls), "leads": told.leads, "acts": told.acts}
    return write_json(words) + b"\n"


def read_told(untrusted: bytes) -> Told | None:
    """Raises ``BadWire``."""
    told = read_object(untrusted, "answer")
    if not told:
        return None
    cluster, leads, acts = told.get("cluster"), told.get("leads"), told.get("acts")
    if not isinstance(cluster, str) or not 0 < len(cluster) <= _MOST_CLUSTER:
        raise BadWire("answer: no cluster")
    if not isinstance(leads, bool) or not isinstance(acts, bool):
        raise BadWire("answer: no leads and acts")
    return Told(cluster=cluster, urls=check_urls(told.get("urls")), leads=leads, acts=acts)
