"""What the scheduler does in the life of a zone, told with a cluster that obeys it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.zone.scheduler.cluster import GIB, Cluster, page
from zone.config.model import AtRevision, Delete, Entry, Set, Transaction, decide
from zone.scheduler.plan import ROUND, Bar, Plan
from zone.scheduler.schedule import AUTO_PORTS, LEASE, schedule
from zone.scheduler.service import Work
from zone.scheduler.snapshot import MOST_INFO, MOST_REPORT, snapshot_of


@pytest.fixture
def zone() -> Cluster:
    cluster = Cluster()
    for name in ("attic", "barn", "cellar"):
        cluster.join(name)
    return cluster


def bars(zone: Cluster, service: str) -> dict[str, Bar]:
    return {refusal.node: refusal.bar for refusal in zone.plan().why(service).refusals}


def selector(zone: Cluster, service: str) -> dict[str, Any]:
    found: dict[str, Any] = zone.store.get(f"services/{service}/info")["node_list"]
    return found


def images(zone: Cluster, service: str) -> list[str]:
    return [machine.running[service].work.image for machine in zone.machines.values() if service in machine.running]


def say(zone: Cluster, service: str, node: str, state: str, **more: Any) -> None:
    """A report about the item as it is now."""
    epoch = zone.snapshot().nodes[node].items[service].epoch
    said = {"state": state, "epoch": epoch, "since": zone.now + zone.machines[node].ahead}
    zone.store.put(f"services/{service}/instances/{node}", said | more)


def test_a_service_is_placed_runs_and_is_told_to_clients(zone: Cluster) -> None:
    zone.deploy("notes", ports={"http": "auto", "admin": 8080})
    placed = zone.apply()
    assert [(d.action, d.service) for d in placed.decisions] == [("place", "notes")]
    assert selector(zone, "notes") == {}
    zone.settle()
    (node,) = zone.runs("notes")
    assert selector(zone, "notes") == {
        node: {
            "node_did": f"did:dev:{node}",
            "node_net_id": "lan1",
            "state": "Started",
            "weight": 100,
            "service_port": {"admin": 8080, "http": AUTO_PORTS.start},
        }
    }
    account = zone.plan().why("notes")
    assert [(s.node, s.state) for s in account.standing] == [(node, "ready")]
    assert "best of 3 of 3 nodes" in account.standing[0].why


def test_replicas_stand_on_different_nodes_and_what_has_no_place_says_why(zone: Cluster) -> None:
    zone.deploy("web", replicas=5)
    zone.settle()
    assert zone.runs("web") == ["attic", "barn", "cellar"]
    assert zone.plan().why("web").missing == 2
    assert zone.plan().why("web").refusals == ()


def test_one_that_cannot_be_placed_or_read_stops_nobody_else(zone: Cluster) -> None:
    zone.deploy("giant", memory="100G")
    zone.deploy("picky", labels={"gpu": "big"})
    zone.deploy("notes")
    zone.store.put("services/odd/spec", {"service": "odd"})
    zone.store.put_text("services/torn/spec", '{"service": "to')
    zone.settle()
    assert len(zone.runs("notes")) == 1
    assert set(bars(zone, "giant").values()) == {Bar.MEMORY}
    assert set(bars(zone, "picky").values()) == {Bar.LABELS}
    assert "'image' is missing" in zone.plan().why("odd").notes[0]
    assert "services/torn/spec" in zone.plan().why("torn").notes[0]


def test_a_page_that_can_no_longer_be_read_leaves_its_service_as_it_is(zone: Cluster) -> None:
    zone.deploy("notes")
    zone.settle()
    zone.store.put("services/notes/spec", page("notes", cpu="many"))
    zone.settle()
    assert len(zone.runs("notes")) == 1
    assert selector(zone, "notes")


def test_a_page_that_is_taken_away_takes_everything_with_it(zone: Cluster) -> None:
    zone.deploy("notes", replicas=2)
    zone.settle()
    zone.store.delete("services/notes/spec")
    zone.settle()
    assert zone.runs("notes") == []
    left = [key for key in zone.store.entries if key.startswith("services/notes/") and "/instances/" not in key]
    assert left == []


def test_scaling_adds_and_stops_without_touching_the_others(zone: Cluster) -> None:
    zone.deploy("web")
    zone.settle()
    (first,) = zone.runs("web")
    for replicas in (3, 2, 1):
        before = zone.runs("web")
        zone.deploy("web", replicas=replicas)
        zone.settle()
        assert len(zone.runs("web")) == replicas
        assert set(zone.runs("web")) <= set(before) or set(before) <= set(zone.runs("web"))
    zone.deploy("web", replicas=0)
    zone.settle()
    assert zone.runs("web") == []
    assert first in zone.machines


def test_what_was_placed_stays_when_something_better_comes(zone: Cluster) -> None:
    zone.deploy("web", replicas=2)
    zone.settle()
    before = zone.runs("web")
    zone.join("palace", cpu=64, memory=64 * GIB)
    zone.settle()
    assert zone.runs("web") == before


def test_a_silent_node_is_left_to_clients_at_once_and_replaced_after_its_grace(zone: Cluster) -> None:
    zone.deploy("web", replicas=2, grace="60s")
    zone.settle()
    lost, other = zone.runs("web")
    zone.machines[lost].is_up = False
    zone.run(4)
    assert zone.placed("web") == [lost, other]
    assert list(selector(zone, "web")) == [other]
    zone.settle()
    assert len(zone.placed("web")) == 2
    assert lost not in zone.placed("web")
    assert zone.runs("web") == ["attic", "barn", "cellar"]  # the lost one cannot know
    zone.machines[lost].is_up = True
    zone.settle()
    assert lost not in zone.runs("web")
    assert len(zone.runs("web")) == 2


def test_a_node_that_is_back_within_the_grace_costs_nothing(zone: Cluster) -> None:
    zone.deploy("web", replicas=2)
    zone.settle()
    before = zone.runs("web")
    zone.machines[before[0]].is_up = False
    zone.run(8)
    zone.machines[before[0]].is_up = True
    zone.settle()
    assert zone.runs("web") == before


def test_where_there_is_no_other_place_the_lost_one_is_waited_for(zone: Cluster) -> None:
    zone.deploy("web", replicas=3)
    zone.settle()
    zone.machines["barn"].is_up = False
    zone.settle()
    assert bars(zone, "web") == {"barn": Bar.SILENT}
    zone.machines["barn"].is_up = True
    zone.settle()
    assert zone.runs("web") == ["attic", "barn", "cellar"]


def test_a_drained_node_is_emptied_only_when_others_are_ready(zone: Cluster) -> None:
    zone.deploy("web", replicas=2)
    zone.settle()
    drained = zone.runs("web")[0]
    zone.intend(drained, drain=True)
    for _ in range(20):
        zone.step()
        assert len(selector(zone, "web")) >= 2
    assert drained not in zone.runs("web")
    assert zone.snapshot().nodes[drained].items == {}


def test_a_drain_ends_even_where_nothing_else_is_left(zone: Cluster) -> None:
    zone.deploy("web", replicas=3)
    zone.deploy("db", volumes={"data": "/data"})
    zone.settle()
    (home,) = zone.runs("db")
    zone.intend(home, drain=True)
    zone.settle()
    assert zone.machines[home].running == {}
    assert bars(zone, "web") == {home: Bar.DRAINED}
    assert bars(zone, "db") == {home: Bar.DRAINED}
    zone.intend(home)
    zone.settle()
    assert zone.runs("db") == [home]


def test_volumes_pin_a_service_to_its_node_for_better_or_worse(zone: Cluster) -> None:
    zone.deploy("db", volumes={"data": "/data"}, grace="20s")
    zone.settle()
    (home,) = zone.runs("db")
    zone.machines[home].is_up = False
    zone.settle()
    assert zone.placed("db") == [home]
    assert any("has its volumes and is silent" in note for note in zone.plan().why("db").notes)
    zone.machines[home].is_up = True
    zone.settle()
    assert zone.runs("db") == [home]


def test_a_pin_that_the_owner_moved_waits_until_the_old_writer_is_gone(zone: Cluster) -> None:
    zone.deploy("db", volumes={"data": "/data"})
    zone.settle()
    (home,) = zone.runs("db")
    other = next(name for name in zone.machines if name != home)
    zone.machines[home].is_up = False
    zone.settle()
    memory = zone.store.get("services/db/placement")
    zone.store.put("services/db/placement", memory | {"pins": [other]})
    zone.settle()
    assert zone.placed("db") == []
    assert bars(zone, "db")[home] is Bar.ELSEWHERE
    zone.leave(home)
    zone.settle()
    assert zone.runs("db") == [other]


def test_a_pin_on_a_node_that_left_is_the_owners_to_move(zone: Cluster) -> None:
    zone.deploy("db", volumes={"data": "/data"})
    zone.settle()
    (home,) = zone.runs("db")
    zone.leave(home)
    zone.settle()
    assert zone.runs("db") == []
    assert bars(zone, "db") == {home: Bar.ABSENT}
    assert f"nodes/{home}/config/db" not in zone.store.entries


def test_an_unreadable_config_may_hide_a_writer(zone: Cluster) -> None:
    zone.deploy("db", volumes={"data": "/data"})
    zone.settle()
    (home,) = zone.runs("db")
    other = next(name for name in zone.machines if name != home)
    zone.store.put_text(f"nodes/{home}/config/db", "torn")
    zone.store.put("services/db/placement", {"good": None, "failed": None, "pins": [other]})
    plan = zone.plan()
    assert plan.decisions == ()
    assert bars(zone, "db")[home] is Bar.ELSEWHERE


def test_another_version_comes_one_by_one_each_when_the_last_is_settled(zone: Cluster) -> None:
    zone.deploy("web", replicas=3)
    zone.settle()
    zone.deploy("web", replicas=3, image="web:2")
    for _ in range(60):
        zone.step()
        assert len(selector(zone, "web")) >= 2
    assert set(images(zone, "web")) == {"web:2"}
    assert zone.store.get("services/web/placement")["good"]["image"] == "web:2"


@pytest.mark.parametrize("is_silent", [False, True], ids=["fails", "never ready"])
def test_a_bad_version_is_taken_back_and_not_tried_again(zone: Cluster, is_silent: bool) -> None:
    zone.deploy("web", replicas=3)
    zone.settle()
    if is_silent:
        zone.deploy("web", replicas=3, image="web:2", upgrade={"deadline": "5s"})
    else:
        zone.bad.add("web:2")
        zone.deploy("web", replicas=3, image="web:2")
    for _ in range(40):
        zone.step()
        assert len(selector(zone, "web")) >= 2
        assert images(zone, "web").count("web:2") <= 1
    assert set(images(zone, "web")) == {"web:1"}
    assert any("was taken back" in note for note in zone.plan().why("web").notes)
    zone.deploy("web", replicas=3, image="web:3")
    zone.settle()
    assert set(images(zone, "web")) == {"web:3"}


def test_an_upgrade_that_has_no_room_here_goes_where_there_is_some() -> None:
    zone = Cluster()
    zone.join("small", cpu=1)
    zone.deploy("web")
    zone.settle()
    zone.join("large", cpu=8)
    zone.deploy("web", cpu="4")
    zone.settle()
    assert zone.runs("web") == ["large"]
    zone.deploy("web", cpu="100")
    zone.settle()
    assert zone.runs("web") == ["large"]
    assert "no room for version" in zone.plan().why("web").notes[0]


def test_a_version_that_needs_less_frees_room_only_when_it_runs() -> None:
    zone = Cluster()
    zone.join("box")
    zone.deploy("a", memory="3G")
    zone.settle()
    zone.deploy("a", memory="1G")
    zone.deploy("b", memory="3G")
    assert [d.action for d in zone.apply().decisions] == ["upgrade"]
    assert zone.apply().decisions == ()
    assert bars(zone, "b") == {"box": Bar.MEMORY}
    zone.settle()
    assert zone.runs("b") == ["box"]


@pytest.mark.parametrize("ahead", [-1e6, 0.0, 3600.0, 1e6])
def test_what_a_version_has_to_stand_does_not_depend_on_the_clock_of_its_node(zone: Cluster, ahead: float) -> None:
    zone.deploy("web", upgrade={"settle": "10s"})
    (placed,) = zone.apply().decisions
    zone.wait(60)
    zone.machines[placed.node].ahead = ahead
    say(zone, "web", placed.node, "ready")
    assert zone.apply().decisions == ()
    zone.wait(9)
    assert zone.apply().decisions == ()
    zone.wait(1)
    assert [d.action for d in zone.plan().decisions] == ["accept"]


def test_a_report_told_again_stands_since_it_was_told_first_and_another_since_begins_anew(
    zone: Cluster,
) -> None:
    zone.deploy("web", upgrade={"settle": "10s"})
    (placed,) = zone.apply().decisions
    for seconds, since in ((0, 5), (6, 5), (3, 7), (9, 7)):
        zone.wait(seconds)
        say(zone, "web", placed.node, "ready", since=since, pid=seconds)
        assert zone.apply().decisions == ()
    zone.wait(1)
    assert [d.action for d in zone.apply().decisions] == ["accept"]


@pytest.mark.parametrize("ahead", [-1e6, 400.0, 1e6])
def test_a_scheduler_that_takes_over_begins_its_deadlines_anew(zone: Cluster, ahead: float) -> None:
    zone.deploy("web", replicas=3)
    zone.settle()
    zone.deploy("web", replicas=3, image="web:2")
    (upgraded,) = zone.apply().decisions
    zone.wait(299)
    zone.take_over(ahead)
    assert zone.apply().decisions == ()
    assert zone.plan().look_again == zone.clock + LEASE
    zone.wait(299)
    assert zone.apply().decisions == ()
    zone.wait(1)
    assert {d.action for d in zone.apply().decisions} == {"roll back", "upgrade"}
    assert upgraded.action == "upgrade"


def test_why_a_service_fails_is_told_by_its_node_and_kept_when_it_is_taken_back(zone: Cluster) -> None:
    zone.bad = {"web:2", "db:1"}
    zone.deploy("web", image="web:1")
    zone.deploy("db", image="db:1")
    zone.settle()
    assert zone.plan().why("db").notes == (f"on {zone.runs('db')[0]}: exited with 3",)
    assert zone.plan().why("web").notes == ()
    (home,) = zone.runs("web")
    zone.deploy("web", image="web:2")
    zone.settle()
    (note,) = zone.plan().why("web").notes
    assert note.endswith(f"was taken back: it failed on {home}: exited with 3")


def test_only_the_version_is_rolled_out_not_how_many_or_where(zone: Cluster) -> None:
    zone.deploy("web", replicas=2)
    zone.settle()
    before = {name: machine.running["web"].epoch for name, machine in zone.machines.items() if machine.running}
    zone.deploy("web", replicas=3, grace="5m", near=["db"])
    zone.settle()
    for name, epoch in before.items():
        assert zone.machines[name].running["web"].epoch == epoch


def test_labels_spread_near_and_apart_are_heeded() -> None:
    zone = Cluster()
    for name, room in {"a1": "east", "a2": "east", "b1": "west", "b2": "west"}.items():
        zone.join(name, labels={"room": room, "disk": "ssd" if name != "a1" else "hdd"})
    zone.deploy("db", labels={"disk": "hdd"})
    zone.settle()
    zone.deploy("web", replicas=2, spread="room")
    zone.deploy("cache", near=["db"])
    zone.deploy("miner", replicas=4, apart=["db"])
    zone.settle()
    assert zone.runs("db") == ["a1"]
    assert {name[0] for name in zone.runs("web")} == {"a", "b"}
    assert zone.runs("cache") == ["a1"]
    assert zone.runs("miner") == ["a2", "b1", "b2"]
    assert bars(zone, "miner") == {"a1": Bar.APART}
    zone.intend("a1", labels={"disk": "ssd", "room": "east"})
    zone.settle()
    assert zone.runs("db") == []
    assert set(bars(zone, "db").values()) == {Bar.LABELS}


def test_ports_are_each_nodes_own_and_kept_by_an_upgrade() -> None:
    zone = Cluster()
    zone.join("box")
    zone.deploy("a", ports={"http": "auto"})
    zone.deploy("b", ports={"http": 80})
    zone.deploy("c", ports={"http": 80, "x": "auto"})
    zone.settle()
    assert len(zone.runs("b") + zone.runs("c")) == 1
    refused = "c" if zone.runs("b") else "b"
    assert bars(zone, refused) == {"box": Bar.PORTS}
    zone.deploy("a", ports={"http": "auto", "more": "auto"}, image="a:2")
    before = selector(zone, "a")["box"]["service_port"]["http"]
    zone.settle()
    ports = selector(zone, "a")["box"]["service_port"]
    assert ports["http"] == before
    assert len({*ports.values()}) == 2


def test_what_one_item_holds_while_it_is_replaced_again_and_again_can_be_read() -> None:
    zone = Cluster()
    zone.join("box", cpu=64, memory=64 * GIB)
    zone.deploy("a")
    zone.apply()
    for version in range(12):
        ports = {f"p{version}-{number}": 1000 + version * 16 + number for number in range(16)}
        zone.deploy("a", image=f"a:{version}", ports=ports)
        zone.apply()
        node = zone.snapshot().nodes["box"]
        assert not node.fault
        assert len(node.items["a"].before.ports if node.items["a"].before else ()) <= 64
    zone.settle()
    assert images(zone, "a") == ["a:11"]


def test_a_node_that_lost_room_gives_up_what_no_longer_fits(zone: Cluster) -> None:
    for name in "abcdef":
        zone.deploy(name, memory="1G")
    zone.settle()
    (full,) = zone.runs("a")
    zone.store.put(f"devices/{full}/info", {"cpu_num": 4, "total_mem": GIB})
    zone.settle()
    assert all(len(zone.runs(name)) == 1 for name in "abcdef")
    assert len(zone.machines[full].running) == 1


def test_weights_follow_the_processors() -> None:
    zone = Cluster()
    zone.join("big", cpu=8)
    zone.join("small", cpu=2)
    zone.deploy("web", replicas=2)
    zone.settle()
    assert {node: said["weight"] for node, said in selector(zone, "web").items()} == {"big": 100, "small": 25}


def test_a_check_may_veto_and_nothing_is_written(zone: Cluster) -> None:
    zone.deploy("web")
    plan = schedule(zone.snapshot(), [lambda _, plan: "not on Sundays" if plan.decisions else "", lambda *_: ""])
    assert plan.vetoes == ("not on Sundays",)
    assert [d.action for d in plan.decisions] == ["place"]
    assert not plan.commit.writes


def test_a_plan_is_guarded_by_the_lease_and_by_what_it_stands_on(zone: Cluster) -> None:
    zone.deploy("web")
    plan = zone.plan()
    (node,) = [d.node for d in plan.decisions]
    spec, intent = zone.store.revision_of("services/web/spec"), zone.store.revision_of(f"nodes/{node}/intent")
    assert plan.commit.guards == {
        "system/scheduler/lease": 1,
        "system/scheduler/round": 0,
        f"nodes/{node}/config/web": 0,
        f"nodes/{node}/intent": intent,
        "services/web/info": 0,
        "services/web/placement": 0,
        "services/web/spec": spec,
    }
    zone.deploy("web", replicas=2)
    assert not zone.store.commit(plan.commit)
    plan = zone.plan()
    zone.store.put("system/scheduler/lease", {"now": "another"})
    assert not zone.store.commit(plan.commit)


def test_nothing_is_decided_on_what_was_read_before_the_last_commit() -> None:
    zone = Cluster()
    zone.join("box")
    zone.deploy("a", memory="3G")
    plan = zone.plan()
    zone.store.delete("services/a/spec")
    zone.deploy("b", memory="3G")
    other = zone.plan()
    assert zone.store.commit(other.commit)
    zone.store.entries["services/a/spec"] = (plan.commit.guards["services/a/spec"], "{}")
    assert plan.commit.guards.keys() & other.commit.writes.keys() == {ROUND}
    assert not zone.store.commit(plan.commit)


def test_an_item_is_placed_where_its_volumes_are_only_while_they_are_there(zone: Cluster) -> None:
    zone.deploy("db", volumes={"data": "/data"})
    zone.settle()
    (home,) = zone.runs("db")
    zone.intend(home, drain=True)
    zone.settle()
    zone.intend(home)
    plan = zone.plan()
    assert [(d.action, d.node) for d in plan.decisions] == [("place", home)]
    other = next(name for name in zone.machines if name != home)
    zone.store.put("services/db/placement", zone.store.get("services/db/placement") | {"pins": [other]})
    assert not zone.store.commit(plan.commit)


def test_a_page_that_comes_back_finds_its_volumes_until_the_owner_gives_them_up(zone: Cluster) -> None:
    zone.deploy("db", volumes={"data": "/data"})
    zone.settle()
    (home,) = zone.runs("db")
    zone.store.delete("services/db/spec")
    zone.settle()
    assert zone.store.get("services/db/placement") == {"good": None, "failed": None, "pins": [home]}
    assert "services/db/info" not in zone.store.entries
    zone.machines[home].is_up = False
    zone.run(5)
    zone.deploy("db", volumes={"data": "/data"})
    zone.settle()
    assert bars(zone, "db") == {home: Bar.SILENT}
    zone.store.delete("services/db/placement")
    zone.settle()
    assert len(zone.runs("db")) == 1
    assert home not in zone.runs("db")


def test_a_version_without_volumes_does_not_forget_them(zone: Cluster) -> None:
    zone.deploy("db", volumes={"data": "/data"})
    zone.settle()
    (home,) = zone.runs("db")
    zone.deploy("db")
    zone.settle()
    zone.intend(home, drain=True)
    zone.settle()
    assert home not in zone.runs("db")
    zone.intend(home)
    zone.deploy("db", volumes={"data": "/data"})
    zone.settle()
    assert zone.runs("db") == [home]


FAT = {f"V{number}": "\u6f22" * 1300 for number in range(14)}
"""An environment of 55 KB, of which ASCII alone would make twice as much."""


def told_to_the_end(zone: Cluster) -> list[Plan]:
    """The rounds until nothing is left to do; each as the store demands, and all but the last due at once."""
    rounds = []
    while (plan := zone.plan()).commit.writes:
        written = plan.commit.writes.items()
        actions = tuple(Delete(key) if text is None else Set(key, text) for key, text in written)
        wanted = Transaction(actions, tuple(AtRevision(*guard) for guard in plan.commit.guards.items()))
        there = {key: Entry(key, text, revision, 1, 1) for key, (revision, text) in zone.store.entries.items()}
        decide(wanted, there)
        assert zone.store.commit(plan.commit)
        rounds.append(plan)
        assert len(rounds) < 50
    assert [plan.look_again == zone.clock for plan in rounds] == [True] * (len(rounds) - 1) + [False]
    return rounds


def test_fat_pages_on_one_node_keep_nobody_from_their_place() -> None:
    zone = Cluster()
    zone.join("box", cpu=64, memory=64 * GIB)
    for number in range(30):
        zone.deploy(f"fat{number}", env=FAT)
    zone.deploy("small")
    rounds = told_to_the_end(zone)
    assert len(rounds) > 1
    assert len(zone.placed("small")) == 1
    assert sum(len(node.items) for node in zone.snapshot().nodes.values()) == 31
    for key in list(zone.store.entries):
        if key.startswith("services/fat"):
            zone.store.delete(key)
    assert len(told_to_the_end(zone)) > 1
    zone.settle()
    assert zone.machines["box"].running.keys() == {"small"}


def test_a_service_that_one_commit_cannot_hold_comes_in_several_and_stops_nobody_behind_it() -> None:
    zone = Cluster()
    for number in range(40):
        zone.join(f"n{number}")
    zone.deploy("agent", env=FAT, replicas=40)
    zone.deploy("zlast")
    rounds = told_to_the_end(zone)
    assert len(rounds) > 2
    assert len(zone.placed("agent")) == 40
    assert len(zone.placed("zlast")) == 1
    assert "more is left for the next round" in rounds[0].why("agent").notes


def test_many_services_come_in_several_commits_and_go_so() -> None:
    zone = Cluster()
    for name in ("attic", "barn"):
        zone.join(name)
    for number in range(800):
        zone.deploy(f"s{number}", cpu="0.001", memory="1M")
    assert len(told_to_the_end(zone)) > 1
    assert sum(len(node.items) for node in zone.snapshot().nodes.values()) == 800
    zone.leave("attic")
    told_to_the_end(zone)
    assert not [key for key in zone.store.entries if key.startswith("nodes/attic/")]
    assert len(zone.snapshot().nodes["barn"].items) == 800


def test_what_is_cut_off_never_leaves_a_service_without_an_item(monkeypatch: pytest.MonkeyPatch) -> None:
    zone = Cluster()
    zone.join("small", cpu=1)
    zone.deploy("web")
    zone.settle()
    zone.join("large", cpu=8)
    zone.deploy("web", cpu="4")
    before = zone.observed()
    came = set()
    for most in range(4, 20):
        monkeypatch.setattr("zone.scheduler.schedule.MOST_ACTIONS", most)
        plan = schedule(snapshot_of(before))
        came.add(tuple((d.action, d.node) for d in plan.decisions))
    assert came == {(), (("place", "large"),), (("place", "large"), ("stop", "small"))}


def test_a_veto_of_a_cut_plan_is_no_reason_to_look_again_at_once() -> None:
    zone = Cluster()
    zone.join("box", cpu=64, memory=64 * GIB)
    for number in range(30):
        zone.deploy(f"fat{number}", env=FAT)
    assert schedule(zone.snapshot()).look_again == zone.now
    vetoed = schedule(zone.snapshot(), [lambda *_: "no"])
    assert vetoed.look_again == zone.now + LEASE
    assert not vetoed.commit.writes


def test_only_reports_about_items_are_opened_and_none_that_are_long(zone: Cluster) -> None:
    zone.deploy("web")
    zone.settle()
    (node,) = zone.runs("web")
    report = zone.store.get(f"services/web/instances/{node}")
    for stranger in ("stranger", next(name for name in zone.machines if name != node)):
        zone.store.put(f"services/web/instances/{stranger}", report)
    assert zone.snapshot().services["web"].reports.keys() == {node}
    assert {key for key in zone.snapshot().opened if "/instances/" in key} == {f"services/web/instances/{node}"}
    zone.store.put(f"services/web/instances/{node}", report | {"more": "x" * MOST_REPORT})
    assert zone.snapshot().services["web"].reports == {}
    zone.store.put(f"devices/{node}/info", {"cpu_num": 4, "total_mem": GIB, "more": "x" * MOST_INFO})
    assert f"at most {MOST_INFO}" in zone.snapshot().nodes[node].fault


def test_what_is_as_it_was_is_not_opened_again(zone: Cluster) -> None:
    zone.deploy("web")
    zone.deploy("db")
    zone.settle()
    before = zone.snapshot()
    zone.store.put("services/db/spec", page("db", cpu="1"))
    observed = zone.observed()
    after = snapshot_of(observed, before)
    assert after == snapshot_of(observed)
    assert after.services["web"].spec is before.services["web"].spec
    assert after.opened.keys() == snapshot_of(observed).opened.keys()
    assert schedule(after).as_bytes() == schedule(snapshot_of(observed)).as_bytes()


def test_it_says_when_to_look_again(zone: Cluster) -> None:
    zone.deploy("web")
    zone.settle()
    assert zone.plan().look_again == zone.now + LEASE
    assert schedule(Cluster().snapshot()).look_again is None


def test_the_environment_of_a_service_is_kept_out_of_what_is_printed(zone: Cluster) -> None:
    zone.deploy("web", env={"PASSWORD": "hunter2"})
    assert "hunter2" in str(zone.plan().commit.writes)
    zone.apply()
    for shown in (Work(image="x", env=(("PASSWORD", "hunter2"),)), zone.observed(), zone.snapshot(), zone.plan()):
        assert "hunter2" not in repr(shown)
    zone.deploy("web", env={"PASSWORD": "hunter2"}, image="web:2")
    assert "hunter2" not in repr(zone.plan())
