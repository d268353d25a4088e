"""A observed on file, and the store's keys as a snapshot: read back as they were, or refused in one way."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cyfs_ns.errors import BadWire
from tests.zone.scheduler.cluster import Cluster
from zone.scheduler.replay import MAX_REPLAY, read_replay, replay_bytes
from zone.scheduler.schedule import schedule
from zone.scheduler.snapshot import Observation, item_key, snapshot_of


def lived() -> Cluster:
    zone = Cluster()
    zone.join("attic", labels={"disk": "ssd"})
    zone.join("barn", drain=True)
    zone.deploy("web", ports={"http": "auto"}, health={"port": "http"})
    zone.deploy("db", volumes={"data": "/data"}, cpu="1")
    zone.settle()
    zone.deploy("web", ports={"http": "auto"}, image="web:2")
    zone.step()
    return zone


ZONE = lived()
FILE = replay_bytes(ZONE.observed())


def test_a_replay_makes_the_decision_again() -> None:
    zone = lived()
    zone.store.put("services/more/spec", {"service": "more", "image": "x"})
    observed = zone.observed()
    plan = schedule(snapshot_of(observed))
    assert plan.decisions
    assert read_replay(replay_bytes(observed)) == observed
    assert schedule(snapshot_of(read_replay(replay_bytes(observed)))).as_bytes() == plan.as_bytes()


def test_the_scheduler_reads_what_it_wrote() -> None:
    node = ZONE.snapshot().nodes["attic"]
    assert not node.fault
    assert node.items["web"].before is not None
    for name, item in node.items.items():
        assert item.as_plain() == ZONE.store.get(item_key("attic", name))
    for name, service in ZONE.snapshot().services.items():
        assert not service.fault
        assert service.memory.as_plain() == ZONE.store.get(f"services/{name}/placement")


@pytest.mark.parametrize(
    "bent",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b"9" * 10_000,
        b'{"now": NaN, "revision": 1, "lease": ["a", 1], "seen": {}, "heard": {}, "entries": {}}',
        b'{"now": 1e13, "revision": 1, "lease": ["a", 1], "seen": {}, "heard": {}, "entries": {}}',
        b'{"now": true, "revision": 1, "lease": ["a", 1], "seen": {}, "heard": {}, "entries": {}}',
        b'{"now": 1, "revision": 1.5, "lease": ["a", 1], "seen": {}, "heard": {}, "entries": {}}',
        b'{"now": 1, "revision": -1, "lease": ["a", 1], "seen": {}, "heard": {}, "entries": {}}',
        b'{"now": 1, "revision": 1, "lease": "a", "seen": {}, "heard": {}, "entries": {}}',
        b'{"now": 1, "revision": 1, "lease": ["a", 1], "seen": {"n": null}, "heard": {}, "entries": {}}',
        b'{"now": 1, "revision": 1, "lease": ["a", 1], "seen": {}, "heard": {}, "entries": {"k": [1, {}]}}',
        b'{"now": 1, "now": 1, "revision": 1, "lease": ["a", 1], "seen": {}, "heard": {}, "entries": {}}',
        b'{"now": 1, "revision": 1, "lease": ["a", 1], "seen": {}, "heard": {}, "entries": {}, "more": 1}',
        b" " * (MAX_REPLAY + 1),
    ],
    ids=range(17),
)
def test_what_is_no_replay_is_refused(bent: bytes) -> None:
    with pytest.raises(BadWire):
        read_replay(bent)


@given(st.data())
def test_no_bent_replay_breaks_the_reader_or_the_scheduler(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(FILE)))
    end = data.draw(st.integers(at, min(len(FILE), at + 20)))
    try:
        observed = read_replay(FILE[:at] + data.draw(st.binary(max_size=6)) + FILE[end:])
    except BadWire:
        return
    schedule(snapshot_of(observed)).as_bytes()


KEYS = st.sampled_from(
    (
        "services/web/spec",
        "services/web/placement",
        "services/web/info",
        "services/web/instances/attic",
        "nodes/attic/intent",
        "nodes/attic/config/web",
        "devices/attic/info",
        "services//spec",
        "nodes",
        "",
    )
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def bent_value(text: str, steps: list[int], new: Any) -> str:
    """A value with something else in one place of it."""
    plain = json.loads(text)
    inner: Any = plain
    for step in steps:
        keys = list(inner) if isinstance(inner, dict) else range(len(inner)) if isinstance(inner, list) else []
        if not keys:
            break
        key = keys[step % len(keys)]
        if not isinstance(inner[key], dict | list) or not inner[key] or step % 5 == 0:
            inner[key] = new
            break
        inner = inner[key]
    return json.dumps(plain)


@given(KEYS, st.text(max_size=40) | json_values.map(json.dumps))
@example("services/web/spec", "[" * 5000)
@example("nodes/attic/intent", '{"labels": {"a": {"b": 1}}}')
@example("nodes/attic/config/web", "{}")
def test_no_value_breaks_more_than_its_own_service_or_node(key: str, value: str) -> None:
    check_contained(key, value)


@given(st.sampled_from(sorted(ZONE.store.entries)), st.lists(st.integers(0, 50), min_size=1, max_size=6), json_values)
def test_no_bent_value_breaks_more_than_its_own_service_or_node(key: str, steps: list[int], new: Any) -> None:
    check_contained(key, bent_value(ZONE.store.entries[key][1], steps, new))


def check_contained(key: str, value: str) -> None:
    observed = ZONE.observed()
    bent = Observation(
        now=observed.now,
        revision=observed.revision,
        lease=observed.lease,
        seen=observed.seen,
        heard=observed.heard,
        entries={**observed.entries, key: (observed.revision, value)},
    )
    snapshot, whole = snapshot_of(bent), snapshot_of(observed)
    for name in whole.services.keys() - {"web", "db"}:
        assert snapshot.services[name] == whole.services[name]
    if not key.startswith("services/db/"):
        assert snapshot.services["db"] == whole.services["db"]
    if not key.startswith(("nodes/barn/", "devices/barn/")):
        assert snapshot.nodes["barn"] == whole.nodes["barn"]
    schedule(snapshot).as_bytes()
