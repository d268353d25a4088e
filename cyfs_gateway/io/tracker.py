"""Who is connected: one entry for each live flow, cheap to add and to drop, and the sums of those that have gone.

Bytes are not counted here: a live entry is asked for its own counters when somebody looks, and its last word is added
to the totals (the gateway's and its leaf outbound's) when it leaves.
"""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import Iterator
from typing import Protocol

from cyfs_gateway.decide import Decision
from cyfs_gateway.facade import ConnectionView
from cyfs_gateway.flow import Flow


class Tracked(Protocol):
    """A live flow as the tracker sees it."""

    flow: Flow
    decision: Decision
    number: int
    """Given by the tracker; 0: not tracked."""
    start: float
    """Seconds on the reactor's clock."""

    def counters(self) -> tuple[int, int]:
        """Bytes (up, down) so far."""

    def remote(self) -> str:
        """Where the way leads, as text; empty until known."""

    def close(self, why: str) -> None: ...


class Tracker:
    """All live flows of one gateway."""

    def __init__(self) -> None:
        self._live: dict[int, Tracked] = {}
        self._numbers = itertools.count(1)
        self._gone_up = 0
        self._gone_down = 0
        self._gone: dict[str, list[int]] = {}
        self._family = uuid.uuid4().int & ~((1 << 48) - 1)
        self.seen = 0
        """Flows ever tracked."""

    def __len__(self) -> int:
        return len(self._live)

    def add(self, flow: Tracked) -> None:
        """The flow begins, and gets its number."""
        flow.number = number = next(self._numbers)
        self._live[number] = flow
        self.seen = number

    def drop(self, flow: Tracked) -> None:
        """The flow has ended; harmless when it is not tracked."""
        if self._live.pop(flow.number, None) is None:
            return
        up, down = flow.counters()
        self._gone_up += up
        self._gone_down += down
        sums = self._gone.setdefault(flow.decision.chain[0], [0, 0])
        sums[0] += up
        sums[1] += down

    def totals(self) -> tuple[int, int]:
        """Bytes (up, down) since start."""
        up, down = self._gone_up, self._gone_down
        for flow in self._live.values():
            more_up, more_down = flow.counters()
            up += more_up
            down += more_down
        return up, down

    def by_outbound(self) -> dict[str, tuple[int, int]]:
        """Bytes (up, down) since start for each leaf outbound that carried anything."""
        sums = {leaf: (up, down) for leaf, (up, down) in self._gone.items()}
        for flow in self._live.values():
            up, down = flow.counters()
            before_up, before_down = sums.get(flow.decision.chain[0], (0, 0))
            sums[flow.decision.chain[0]] = (before_up + up, before_down + down)
        return sums

    def views(self) -> list[ConnectionView]:
        """Every live flow as the control API shows it."""
        skew = time.time() - time.monotonic()
        return [self._view(flow, skew) for flow in self._live.values()]

    def _view(self, flow: Tracked, skew: float) -> ConnectionView:
        up, down = flow.counters()
        verdict = flow.decision.verdict
        return ConnectionView(
            id=self._id(flow.number),
            flow=flow.flow,
            up=up,
            down=down,
            start=flow.start + skew,
            chains=flow.decision.chain,
            provider_chains=("",) * len(flow.decision.chain),
            rule=verdict.type,
            rule_payload=verdict.payload,
            remote=flow.remote(),
        )

    def _id(self, number: int) -> str:
        return str(uuid.UUID(int=self._family | number))

    def find(self, id: str) -> Tracked | None:
        """The live flow of that id, which comes from a stranger."""
        try:
            value = uuid.UUID(id).int
        except ValueError:
            return None
        low = (1 << 48) - 1
        return self._live.get(value & low) if value & ~low == self._family else None

    def close(self, id: str) -> bool:
        """End the flow of that id; False when there is none."""
        flow = self.find(id)
        if flow is None:
            return False
        flow.close("closed by request")
        return True

    def close_all(self, why: str = "closed by request") -> int:
        """End every flow; returns how many there were."""
        flows = list(self._live.values())
        for flow in flows:
            flow.close(why)
        return len(flows)

    def __iter__(self) -> Iterator[Tracked]:
        return iter(list(self._live.values()))
