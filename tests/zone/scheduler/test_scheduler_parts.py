"""What surrounds the rounds: when a node was seen, what is hidden in what leaves, and the program that may say no."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.zone.scheduler.cluster import Cluster
from zone.config.model import Entry, Reading
from zone.io.scheduler.check import CommandCheck
from zone.scheduler.observe import LEADER, SCOPES, alive_key, matters, observe, transaction_of, veto_note
from zone.scheduler.plan import Plan
from zone.scheduler.redact import redacted
from zone.scheduler.replay import replay_bytes
from zone.scheduler.schedule import schedule
from zone.scheduler.snapshot import Observation, snapshot_of


def reading(**keys: object) -> Reading:
    entries = {key.replace("__", "/"): json.dumps(value) for key, value in keys.items()}
    return Reading(9, tuple(Entry(key, text, 5, 5, 1) for key, text in sorted(entries.items())))


def test_a_node_was_seen_until_its_lease_was_found_gone():
    there = reading(nodes__attic__intent={}, nodes__attic__status__alive={}, nodes__barn__intent={})
    gone = reading(nodes__attic__intent={}, nodes__barn__intent={}, nodes__cellar__intent={})
    first = observe(100.0, (LEADER, 1), there, None)
    assert first.seen == {"attic": 100.0, "barn": 100.0}
    second = observe(150.0, (LEADER, 1), gone, first)
    assert second.seen == {"attic": 150.0, "barn": 100.0}
    third = observe(190.0, (LEADER, 1), gone, second)
    assert third.seen == {"attic": 150.0, "barn": 100.0}
    assert observe(9.0, (LEADER, 2), gone, None).seen == {"attic": 9.0, "barn": 9.0, "cellar": 9.0}


@pytest.mark.parametrize(
    ("key", "is_worth_a_round"),
    [
        ("nodes/attic/intent", True),
        (alive_key("attic"), True),
        ("nodes/attic/config/web", True),
        ("nodes/attic/status/ops/7", False),
        ("services/web/spec", True),
        ("services/web/instances/attic", True),
        ("data/web/info", False),
        ("services/web/settings", False),
        ("devices/attic/info", True),
        ("devices/attic/doc", False),
    ],
)
def test_what_decides_nothing_is_not_read(key: str, is_worth_a_round: bool):
    assert matters(key) is is_worth_a_round


def test_what_services_keep_is_in_no_reading_of_the_scheduler():
    """They may keep 8 MiB each, and a reading has an end."""
    assert not any("data/web/rows/1" in scope for scope in SCOPES)


def test_a_value_that_nobody_can_open_is_a_fault_of_its_service():
    sealed = Reading(9, (Entry("services/web/spec", None, 5, 5, 1),))
    assert snapshot_of(observe(1.0, (LEADER, 1), sealed, None)).services["web"].fault


def lived() -> Cluster:
    zone = Cluster()
    zone.join("attic")
    zone.deploy("web", env={"PASSWORD": "rosebud", "USER": "rosebud"})
    zone.settle()
    zone.bad = {"web:2"}
    zone.deploy("web", image="web:2", env={"PASSWORD": "xanadu"})
    zone.settle()
    zone.store.put_text("services/odd/spec", '{"service": "odd", "env": {"A": "kane"')
    zone.store.put("services/bent/spec", {"service": "bent", "image": "x", "env": {"A": {"B": "kane"}}})
    zone.deploy("mail", env={"PASSWORD": "rosebud"})
    return zone


def shape(observed: Observation) -> object:
    """A plan without the names of versions and the words about them."""
    plan = schedule(snapshot_of(observed))
    standing = {name: [(s.node, s.state) for s in account.standing] for name, account in plan.accounts.items()}
    return [(d.action, d.service, d.node) for d in plan.decisions], standing, sorted(plan.commit.writes)


def test_what_leaves_tells_no_secrets_and_decides_the_same():
    observed = lived().observed()
    assert "taken back" in " ".join(schedule(snapshot_of(observed)).why("web").notes)
    file = replay_bytes(redacted(observed))
    for secret in (b"rosebud", b"xanadu", b"kane"):
        assert secret in replay_bytes(observed) and secret not in file
    assert shape(redacted(observed)) == shape(observed)
    assert "taken back" in " ".join(schedule(snapshot_of(redacted(observed))).why("web").notes)


def planned() -> tuple[Cluster, Plan]:
    zone = Cluster()
    zone.join("attic")
    zone.deploy("web", env={"PASSWORD": "rosebud"})
    return zone, zone.plan()


def asked(program: str, plan: Plan | None = None, seconds: float = 30.0) -> str:
    zone, planned_now = planned()
    return CommandCheck([sys.executable, "-c", program], seconds)(zone.snapshot(), plan or planned_now)


def test_a_check_is_told_what_would_be_done_without_secrets(tmp_path: Path):
    told = tmp_path / "told"
    assert asked(f"import sys; open({str(told)!r}, 'w').write(sys.stdin.read())") == ""
    said = json.loads(told.read_text())
    assert said["decisions"][0][:3] == ["place", "web", "attic"]
    assert said["writes"]["nodes/attic/config/web"]["work"]["env"] == {"PASSWORD": "hidden-0"}
    assert "rosebud" not in told.read_text()


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("print('not on a Sunday'); raise SystemExit(1)", "not on a Sunday"),
        ("raise SystemExit(3)", "ended with 3"),
        ("import os; os.kill(os.getpid(), 9)", "ended with -9"),
    ],
)
def test_a_check_says_no(program: str, why: str):
    assert why in asked(program)


def test_a_check_that_does_not_end_is_a_no():
    program = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(3600)'])"
    assert "did not end in 0.5 s" in asked(program, seconds=0.5)


def test_a_check_that_is_not_there_is_a_no():
    zone, plan = planned()
    assert "cannot be started" in CommandCheck(["/nowhere/check"])(zone.snapshot(), plan)


def test_nobody_is_asked_about_nothing():
    zone, _ = planned()
    zone.settle()
    assert asked("raise SystemExit(1)", zone.plan()) == ""


def test_a_veto_is_told_once_and_taken_back():
    zone, _ = planned()
    observed = zone.observed()
    plan = schedule(snapshot_of(observed), [lambda snapshot, plan: "no"])
    note = veto_note(observed, plan)
    assert note is not None
    assert zone.store.commit(note) and transaction_of(note).actions
    assert veto_note(zone.observed(), plan) is None
    gone = veto_note(zone.observed(), zone.plan())
    assert gone is not None and list(gone.writes.values()) == [None]
