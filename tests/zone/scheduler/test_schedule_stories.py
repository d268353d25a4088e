"""What the scheduler does in the life of a zone, told with a cluster that obeys it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.zone.scheduler.cluster import GIB, Cluster, page
from zone.config.model import MOST_WRITTEN, AtRevision, Set
from zone.config.model import Transaction as ConfigTransaction
from zone.scheduler.plan import Bar
from zone.scheduler.schedule import AUTO_PORTS, LEASE, schedule
from zone.scheduler.service import Work


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


def test_a_service_is_placed_runs_and_is_told_to_clients(zone: Cluster) -> None:
    zone.deploy("notes", ports={"http": "auto", "admin": 8080})
    placed = zone.apply()
    assert [(d.action, d.service) for d in placed.decisions] == [("place", "notes")]
    assert selector(zone, "notes") == {}
    zone.settle()
    (node,) = zone.runs("notes")
    assert selector(zone, "notes") == {
        node: {"weight": 100, "service_port": {"admin": 8080, "http": AUTO_PORTS.start}},
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
    assert f"nodes/{home}/config" not in zone.store.entries


def test_an_unreadable_config_may_hide_a_writer(zone: Cluster) -> None:
    zone.deploy("db", volumes={"data": "/data"})
    zone.settle()
    (home,) = zone.runs("db")
    other = next(name for name in zone.machines if name != home)
    zone.store.put_text(f"nodes/{home}/config", "torn")
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


def test_a_clock_that_is_behind_does_not_shorten_what_a_version_has_to_stand(zone: Cluster) -> None:
    zone.deploy("web", upgrade={"settle": "10s"})
    (placed,) = zone.apply().decisions
    epoch = zone.snapshot().nodes[placed.node].items["web"].epoch
    zone.store.put(f"services/web/instances/{placed.node}", {"state": "ready", "epoch": epoch, "since": 1})
    assert zone.apply().decisions == ()
    zone.now += 10
    assert [d.action for d in zone.plan().decisions] == ["accept"]


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
    assert not plan.transaction


def test_a_plan_is_fenced_by_the_lease_and_by_what_it_read(zone: Cluster) -> None:
    zone.deploy("web")
    plan = zone.plan()
    (node,) = [d.node for d in plan.decisions]
    spec, intent = zone.store.revision_of("services/web/spec"), zone.store.revision_of(f"nodes/{node}/intent")
    assert plan.transaction.compares == (
        ("system/scheduler/lease", 1),
        (f"nodes/{node}/config", 0),
        (f"nodes/{node}/intent", intent),
        ("services/web/info", 0),
        ("services/web/spec", spec),
    )
    zone.deploy("web", replicas=2)
    assert not zone.store.commit(plan.transaction)
    zone.store.put("system/scheduler/lease", {"now": "another"})
    assert not zone.store.commit(plan.transaction)


def test_a_plan_is_no_larger_than_the_store_takes_and_the_rest_follows(zone: Cluster) -> None:
    for number in range(800):
        zone.deploy(f"s{number}", cpu="0.001", memory="1M")
    for turn in range(4):
        plan = zone.plan()
        if not plan.transaction:
            break
        puts = tuple(Set(key, text) for key, text in plan.transaction.puts)
        ConfigTransaction(puts, tuple(AtRevision(*compare) for compare in plan.transaction.compares))
        assert sum(len(key) + len(text) for key, text in plan.transaction.puts) <= MOST_WRITTEN
        assert (plan.look_again == zone.now) == (turn == 0)
        assert zone.store.commit(plan.transaction)
    assert turn == 2
    assert sum(len(node.items) for node in zone.snapshot().nodes.values()) == 800


def test_it_says_when_to_look_again(zone: Cluster) -> None:
    zone.deploy("web")
    zone.settle()
    assert zone.plan().look_again == zone.now + LEASE
    assert schedule(Cluster().snapshot()).look_again is None


def test_the_environment_of_a_service_is_kept_out_of_what_is_printed() -> None:
    assert "hunter2" not in repr(Work(image="x", env=(("PASSWORD", "hunter2"),)))
