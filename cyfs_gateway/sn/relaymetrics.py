"""What the UDP relay tells Prometheus: how much it moved, and what it threw away and why.  No session has a series."""

from __future__ import annotations

from dataclasses import asdict

from cyfs_gateway.sn.relay import RelayCounters
from cyfs_ns.metrics import Metric, single

_DROPPED = ("waiting", "slowed", "refused", "unsent", "unknown", "unproven", "forged")


def relay_metrics(counters: RelayCounters, sessions: int) -> tuple[Metric, ...]:
    """``sessions``: how many there are now."""
    counted = asdict(counters)
    dropped = tuple(({"why": why}, counted[why]) for why in _DROPPED)
    return (
        single("cyfs_sn_relay_sessions", "gauge", "Sessions of the UDP relay now.", sessions),
        single("cyfs_sn_relay_sessions_total", "counter", "Sessions that were opened.", counters.opened),
        single("cyfs_sn_relay_binds_total", "counter", "Times a side was bound to another address.", counters.bound),
        single("cyfs_sn_relay_datagrams_total", "counter", "Datagrams forwarded.", counters.forwarded),
        single("cyfs_sn_relay_bytes_total", "counter", "Bytes forwarded.", counters.octets),
        Metric("cyfs_sn_relay_dropped_total", "counter", "Datagrams thrown away.", dropped),
    )
