"""What two machines tell each other about their members: one line of JSON each way, of the same kind both ways.

Who asks says where it stands, which is how a leader hears of it; the answer says that of the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.strictjson import Json, read_object, write_json
from zone.etcd.seats import check_url
from zone.etcd.start import MOST_CLUSTER, Told, check_urls

MOST_LINE: Final = 8192
"""Octets of a line, its end too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Where a machine stands."""

    url: str
    """Of the member that it has or wants to have; empty: it does not know yet."""
    runs: bool = False
    """The member runs."""
    told: Told | None = None
    """Of which cluster; None: of none."""


def write_report(report: Report) -> bytes:
    words: dict[str, Json] = {"url": report.url, "runs": report.runs}
    if (told := report.told) is not None:
        words |= {"cluster": told.cluster, "urls": list(told.urls), "leads": told.leads, "acts": told.acts}
    return write_json(words) + b"\n"


def read_report(untrusted: bytes) -> Report:
    """Raises ``BadWire``."""
    said = read_object(untrusted, "report")
    url, runs = said.get("url"), said.get("runs")
    if not isinstance(url, str) or not isinstance(runs, bool):
        raise BadWire("report: no url and runs")
    told = None
    if "cluster" in said:
        cluster, leads, acts = said["cluster"], said.get("leads"), said.get("acts")
        if not isinstance(cluster, str) or len(cluster) > MOST_CLUSTER:
            raise BadWire("report: no cluster")
        if not isinstance(leads, bool) or not isinstance(acts, bool):
            raise BadWire("report: no leads and acts")
        told = Told(cluster=cluster, urls=check_urls(said.get("urls")), leads=leads, acts=acts)
    return Report(url=check_url(url) if url else "", runs=runs, told=told)
