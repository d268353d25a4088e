"""What a machine says of its network is what the zone's routes are made of."""

from __future__ import annotations

import ipaddress
import json

from node.loop.facts import Facts, Usage, as_plain, observation_of
from zone.routes.places import MOST, read_observed


def info(*ips: str, load: float = 0.5) -> str:
    facts = Facts(did="did:dev:x", cpu_num=2, total_mem=1, os="linux", arch="x86_64", hostname="attic", ips=ips)
    return json.dumps(as_plain(facts, Usage(load=load, used_mem=1, free_disk=1)))


def test_its_addresses_are_where_others_may_meet_it() -> None:
    seen = read_observed(info("192.168.1.5", "2a00:1450::7"))
    assert seen.endpoints == (ipaddress.ip_address("192.168.1.5"), ipaddress.ip_address("2a00:1450::7"))
    assert seen.ipv6 == "address_only"
    assert read_observed(info("192.168.1.5", "fd00::1")).ipv6 == "unavailable"


def test_an_observation_is_another_when_it_changes_and_only_then() -> None:
    ids = {
        json.loads(text)["network_observation"]["observation_id"]
        for text in (info("10.0.0.1"), info("10.0.0.1", load=7.0), info("10.0.0.2"), info())
    }
    assert len(ids) == 3


def test_a_machine_of_many_addresses_names_those_that_are_read() -> None:
    many = observation_of(f"10.0.0.{n}" for n in range(200))
    assert len(read_observed(json.dumps({"network_observation": many})).endpoints) == MOST
