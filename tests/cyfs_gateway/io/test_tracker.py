"""Sums and lists of flows, without any socket."""

from __future__ import annotations

import uuid

import pytest

from cyfs_gateway.decide import Decision
from cyfs_gateway.flow import Flow
from cyfs_gateway.io.tracker import Tracker
from cyfs_gateway.rules.model import NO_MATCH


class Tracked:
    """A flow whose counters the test sets."""

    def __init__(self, leaf: str, tracker: Tracker) -> None:
        self.flow = Flow("tcp", "Socks5", "192.0.2.1", 5000, "x.test", "", 80)
        self.decision = Decision(NO_MATCH, None, (leaf, "group"), None)  # type: ignore[arg-type]
        self.number = 0
        self.start = 0.0
        self.up = self.down = 0
        self._tracker = tracker
        self.why = ""

    def counters(self) -> tuple[int, int]:
        return self.up, self.down

    def remote(self) -> str:
        return "192.0.2.80"

    def close(self, why: str) -> None:
        self.why = why
        self._tracker.drop(self)


def test_sums_go_on_when_flows_have_gone() -> None:
    tracker = Tracker()
    one, two, three = Tracked("a", tracker), Tracked("a", tracker), Tracked("b", tracker)
    for number, flow in enumerate((one, two, three), 1):
        tracker.add(flow)
        flow.up, flow.down = number, 10 * number
    assert tracker.totals() == (6, 60)
    tracker.drop(one)
    tracker.drop(one)
    two.up += 100
    assert (len(tracker), tracker.seen) == (2, 3)
    assert tracker.totals() == (106, 60)
    assert tracker.by_outbound() == {"a": (103, 30), "b": (3, 30)}
    tracker.drop(two)
    two.up += 100
    assert tracker.totals() == (106, 60)
    assert list(tracker) == [three]


def test_flows_are_found_and_closed_by_the_id_that_views_show() -> None:
    tracker, other = Tracker(), Tracker()
    flows = [Tracked("a", tracker) for _ in range(3)]
    for flow in flows:
        tracker.add(flow)
        other.add(Tracked("a", other))
    ids = [view.id for view in tracker.views()]
    assert [tracker.find(id) for id in ids] == flows
    assert [other.find(id) for id in ids] == [None] * 3
    assert tracker.close(ids[1])
    assert flows[1].why == "closed by request"
    assert not tracker.close(ids[1])
    assert tracker.close_all("the end") == 2
    assert [flow.why for flow in flows] == ["the end", "closed by request", "the end"]


@pytest.mark.parametrize("id", ["", "nonsense", str(uuid.uuid4()), str(uuid.UUID(int=1)), "0" * 32])
def test_strange_ids_find_nothing(id: str) -> None:
    tracker = Tracker()
    tracker.add(Tracked("a", tracker))
    assert tracker.find(id) is None
