"""What each gateway is told: from documents and reports to values in the store, and to the nodes of a live zone."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from configstores import Etcd, Sqlite

from cyfs_ns.identity.documents import ZoneDoc
from tests.zone.boot.zones import sign
from tests.zone.scheduler.zonesim import at_work, delete, found, machines, put, until
from zone.config.model import MOST_VALUE
from zone.io.config.store import ConfigStore
from zone.io.scheduler.loop import Scheduler
from zone.routes.build import Routes
from zone.routes.info import gateway_info_key, gateway_infos, places_of, route_commits
from zone.routes.places import Place
from zone.scheduler.observe import LEADER
from zone.scheduler.plan import ROUND

SEEN = json.dumps({"network_observation": {"ipv6": {"state": "egress_ok"}, "endpoints": [{"ip": "192.168.1.5"}]}})


def zone(*oods: str, **said: Any) -> ZoneDoc:
    return sign(*oods, **said).of("ood1").zone


def told(document: ZoneDoc, **infos: str) -> dict[str, Any]:
    return {name: json.loads(text) for name, text in gateway_infos(document, places_of(document, infos)).items()}


def test_the_document_says_where_machines_are_and_they_what_they_see():
    document = zone("ood1:8.8.4.4", "#ood2@lan1", "$ood3@nat", nodes=["nas"])
    places = {place.name: place for place in places_of(document, {"ood2": SEEN, "stranger": SEEN})}
    assert {name: (place.net, place.is_ood, place.is_gateway) for name, place in places.items()} == {
        "ood1": ("wan", True, True),
        "ood2": ("lan1", False, True),
        "ood3": ("nat", True, False),
        "nas": ("", False, False),
    }
    assert [str(ip) for ip in places["ood1"].signed_wan] == ["8.8.4.4"]
    assert (places["ood2"].ipv6, [str(ip) for ip in places["ood2"].endpoints]) == ("egress_ok", ["192.168.1.5"])


def test_each_is_told_of_the_others():
    found = told(zone("ood1:8.8.4.4", "ood2@nat", nodes=["nas"], sn="sn.example"), ood2=SEEN)
    assert {name: sorted(info["routes"]) for name, info in found.items()} == {
        "ood1": ["nas", "ood2"],
        "ood2": ["nas", "ood1"],
        "nas": ["ood1", "ood2"],
    }
    assert found["nas"]["node_info"] == {"this_node_id": "nas", "this_zone_host": "home.example"}
    assert [way["id"] for way in found["nas"]["routes"]["ood1"]] == ["direct", "via-sn"]
    by_sn = found["ood1"]["routes"]["ood2"][0]
    assert by_sn["url"].startswith("rtcp://rtcp%3A%2F%2Fsn.example%2F@") and not by_sn["backup"]
    addresses = sorted(hint["ip"] for known in found["nas"]["did_ip_hints"].values() for hint in known)
    assert addresses == ["192.168.1.5", "8.8.4.4"]


@pytest.mark.parametrize("sn", ["not a url", "did:nothing", "rtcp://"])
def test_an_sn_that_makes_no_sense_is_none(sn: str):
    (ways,) = told(zone("ood1@nat", nodes=["nas"], sn=sn))["ood1"]["routes"].values()
    assert "via-sn" not in [way["id"] for way in ways]


def many(count: int) -> tuple[ZoneDoc, tuple[Place, ...]]:
    document = zone("ood1:8.8.4.4", "ood2@nat", "ood3@nat", sn="sn.example")
    (first, *_) = places = places_of(document, {})
    nets = ("wan", "nat", "lan1", "lan2", "portmap", "")
    more = (
        Place(name=f"n{number}", did=first.did, net=nets[number % 6], is_gateway=number % 20 == 0)
        for number in range(count - 3)
    )
    return document, (*places, *more)


def test_a_large_zone_is_told_in_commits_that_a_store_takes(capsys):
    document, places = many(100)
    began = time.process_time()
    texts = gateway_infos(document, places)
    with capsys.disabled():
        sizes = [len(text) for text in texts.values()]
        print(f"\n  routes of 100 nodes: {time.process_time() - began:.2f} s, {max(sizes) // 1024} KiB each at most")
    commits = list(route_commits((LEADER, 7), texts, {}))
    written = [key for commit in commits for key in commit.writes]
    assert sorted(written) == sorted(map(gateway_info_key, texts))
    assert all(commit.guards == {LEADER: 7} | dict.fromkeys(commit.writes, 0) for commit in commits)
    assert max(sum(len(text or "") for text in commit.writes.values()) for commit in commits) < 1 << 20


def test_who_does_not_fit_in_is_left_out_and_oods_are_not():
    document, places = many(400)
    info = json.loads(gateway_infos(document, places)["n7"])
    assert len(json.dumps(info, separators=(",", ":"))) <= MOST_VALUE
    assert info["left_out"] == 399 - len(info["routes"]) > 0
    assert {"ood1", "ood2", "ood3"} <= info["routes"].keys()


def test_only_what_is_another_is_written_and_who_left_is_told_nothing():
    there = {
        gateway_info_key("attic"): (3, "same"),
        gateway_info_key("barn"): (4, "old"),
        gateway_info_key("gone"): (5, "old"),
        "nodes/barn/intent": (6, "{}"),
    }
    (commit,) = route_commits((LEADER, 7), {"attic": "same", "barn": "new"}, there)
    assert commit.writes == {gateway_info_key("barn"): "new", gateway_info_key("gone"): None}
    assert commit.guards == {LEADER: 7, gateway_info_key("barn"): 4, gateway_info_key("gone"): 5}


def test_a_route_is_the_same_whatever_the_order_of_places():
    _, places = many(30)
    for target in ("ood2", "n5", "n7"):
        assert Routes(places, "rtcp://sn/").between("n3", target) == Routes(reversed(places), "rtcp://sn/").between(
            "n3", target
        )


@pytest.fixture(params=[Sqlite, Etcd], ids=lambda kind: kind.name)
def kind(request, tmp_path):
    with request.param(tmp_path) as kind:
        yield kind


@pytest.fixture
async def store(kind):
    backend = kind.open()
    yield ConfigStore(backend)
    await backend.aclose()


async def test_what_a_node_sees_reaches_the_others_and_is_written_once(store, capsys):
    document = zone("ood1@lan1", "ood2@lan2", nodes=["nas"])
    scheduler = Scheduler("ood1", store, zone=lambda: document)
    probe = {"target_node": "ood2", "last_probe": 5, "last_success": 5}

    def ways(info: Any, node: str) -> list[str]:
        return [] if info is None else [way["id"] for way in info["routes"].get(node, [])]

    async with machines(store, "ood1", "ood2", "nas"), at_work(scheduler):
        key = gateway_info_key("ood1")
        before = await until(store, key, lambda info: info is not None)
        assert not ways(before, "ood2")
        round_before = await found(store, ROUND)
        began = time.monotonic()
        await put(
            store, "devices/ood1/info", {"cpu_num": 4, "total_mem": 1, "network_observation": {"direct_probe": [probe]}}
        )
        await until(store, key, lambda info: ways(info, "ood2") == ["direct"])
        with capsys.disabled():
            print(f"\n  from what a node saw to its routes: {(time.monotonic() - began) * 1000:.0f} ms")
        assert await found(store, ROUND) == round_before
        revision = (await store.get(gateway_info_key("nas"))).revision
        await put(store, "nodes/nas/intent", {"labels": {"room": "cellar"}})
        await delete(store, "nodes/ood2/intent")
        await until(store, gateway_info_key("ood2"), lambda info: info is None)
        info = await until(store, gateway_info_key("nas"), lambda info: not ways(info, "ood2"))
        assert (await store.get(gateway_info_key("nas"))).version == 2 and sorted(info["routes"]) == ["ood1"]
        assert revision < (await store.get(gateway_info_key("nas"))).revision
