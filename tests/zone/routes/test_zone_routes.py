"""Who reaches whom how: the matrix of nets, evidence in its order, and how far the word of a node goes."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyfs_ns.identity.did import dev_did
from cyfs_ns.identity.keys import SecretKey
from tunnels.url import parse
from zone.routes.build import Routes, hints
from zone.routes.places import Place, Probe, address, read_observed

SN = "rtcp://sn.example/"


def place(number: int, net: str = "", **said: Any) -> Place:
    for key in ("signed", "endpoints"):
        said[key] = tuple(ip for ip in map(address, said.get(key, ())) if ip is not None)
    said["probes"] = tuple(Probe(target) for target in said.get("probes", ()))
    return Place(name=f"n{number}", did=dev_did(SecretKey(bytes([number]) * 32).public), net=net, **said)


def node(net: str = "", **said: Any) -> tuple[str, dict[str, Any]]:
    return net, said


def at(net: str, *endpoints: str, **said: Any) -> tuple[str, dict[str, Any]]:
    return net, {"endpoints": endpoints, **said}


IPV6 = node("nat", ipv6="egress_ok")
SIGNED = node("wan", signed=["8.8.4.4"])
PROBED = node("nat", probes=["n3"])
"""It got through to whoever comes third."""

MATRIX = [
    # What it is about, source, target, the third if there is one, and the evidence for a direct route.
    ("the same lan", node("lan1"), node("lan1"), None, "same_net_id"),
    ("two lans", node("lan1"), node("lan2"), None, None),
    ("nothing is said of either", node(), node(), None, "same_net_id"),
    ("nothing is said of one", node("lan1"), node(), None, None),
    ("one lan by name, two by subnets", at("lan1", "192.168.1.5"), at("lan1", "192.168.2.5"), None, None),
    ("one lan, one subnet", at("lan1", "192.168.1.5"), at("lan1", "192.168.1.9"), None, "same_net_id"),
    ("one lan, addresses of one side", at("lan1", "192.168.1.5"), node("lan1"), None, "same_net_id"),
    ("one lan, two subnets of IPv6", at("lan1", "fd00:1::5"), at("lan1", "fd00:2::5"), None, None),
    (
        "one subnet of two",
        at("lan1", "10.0.0.5", "fd00:1::5"),
        at("lan1", "10.9.0.5", "fd00:1::6"),
        None,
        "same_net_id",
    ),
    ("unknown, two subnets", at("", "10.0.0.5"), at("", "10.1.0.5"), None, None),
    ("both behind some NAT", node("nat"), node("nat"), None, None),
    ("from a lan to the Internet", node("lan1"), node("wan"), None, "wan_target_net_id"),
    ("to a changing address", node("nat"), node("wan_dyn"), None, "wan_target_net_id"),
    ("to a mapped port", node("wan"), node("portmap"), None, "wan_target_net_id"),
    ("from the Internet to a NAT", node("wan"), node("nat"), None, None),
    ("from the Internet to a lan", node("wan"), node("lan1"), None, None),
    ("to a signed address", node("nat"), SIGNED, None, "signed_wan_ip"),
    ("a signed address before a probe", node("nat", probes=["n2"]), SIGNED, None, "signed_wan_ip"),
    ("a probe that got through", node("lan1", probes=["n2"]), node("lan2"), None, "direct_probe"),
    ("IPv6 leads there", IPV6, at("nat", "2600::5", ipv6="egress_ok"), None, "ipv6_global_endpoint"),
    ("no IPv6 here", node("nat", ipv6="address_only"), at("nat", "2600::5"), None, None),
    ("no IPv6 there", IPV6, at("nat", "2600::5", ipv6="unavailable"), None, None),
    ("a witness in the lan", PROBED, PROBED, node("nat", is_ood=True), "shared_ood_direct_probe"),
    ("a witness on the Internet", PROBED, PROBED, node("wan", is_ood=True), None),
    ("a witness with IPv6", PROBED, PROBED, at("nat", "2600::5", is_ood=True), None),
    ("a witness that is no OOD", PROBED, PROBED, node("nat"), None),
]


def zone_of(source: Any, target: Any, others: Any, sn: str = SN) -> Routes:
    return Routes([place(number, net, **said) for number, (net, said) in enumerate((source, target, *others), 1)], sn)


@pytest.mark.parametrize(
    ("source", "target", "third", "evidence"), [row[1:] for row in MATRIX], ids=[row[0] for row in MATRIX]
)
def test_the_matrix(source: Any, target: Any, third: Any, evidence: str | None):
    ways = zone_of(source, target, (third,) if third else ()).between("n1", "n2")
    direct = [way for way in ways if way.id == "direct"]
    assert [way.evidence.kind for way in direct] == ([evidence] if evidence else [])
    assert [way.id for way in ways] == ["direct", "via-sn"][not evidence :]
    assert ways[-1].backup is bool(evidence)
    assert [way.priority for way in ways] == sorted(way.priority for way in ways)


def test_without_an_sn_there_is_no_way_that_nothing_speaks_for():
    assert zone_of(node("wan"), node("nat"), (), sn="").between("n1", "n2") == ()


def test_a_gateway_of_the_zone_relays_for_those_who_get_through_to_it():
    gateway = node("wan", is_gateway=True)
    routes = zone_of(node("lan1"), node("lan2"), (gateway,), sn="")
    (way,) = routes.between("n1", "n2")
    assert (way.id, way.priority, way.relay, way.backup) == ("via-zone-gateway-n3", 40, "n3", False)
    carrier, _, end = way.url.removeprefix("rtcp://").partition("@")
    hosts = {number: place(number).host for number in (2, 3)}
    assert (unquote(carrier), end) == (f"rtcp://{hosts[3]}/", f"{hosts[2]}/")
    assert [way.id for way in zone_of(node("lan1"), node("lan1"), (gateway,)).between("n1", "n2")] == [
        "direct",
        "via-sn",
        "via-zone-gateway-n3",
    ]
    hidden = node("nat", is_gateway=True)
    assert zone_of(node("lan1"), node("lan2"), (hidden,), sn="").between("n1", "n2") == ()


def test_tunnels_are_kept_to_oods_and_gateways_by_the_best_way():
    ood, plain = node("lan1", is_ood=True), node("lan1")
    far = node("lan2", is_ood=True)
    routes = zone_of(ood, plain, (ood, ood, far))
    assert {
        pair: [way.keep for way in routes.between(*pair)] for pair in (("n1", "n3"), ("n1", "n2"), ("n1", "n5"))
    } == {
        ("n1", "n3"): [True, False],
        ("n1", "n2"): [False, False],
        ("n1", "n5"): [True],
    }
    assert [routes.between("n2", f"n{number}")[0].keep for number in (1, 3, 4)] == [True, True, False]


def test_every_url_is_one_and_leads_to_a_name():
    for _, source, target, third, _ in MATRIX:
        for way in zone_of(source, target, (third,) if third else ()).between("n1", "n2"):
            assert parse(way.url).host == place(2).host


def test_addresses_that_the_owner_signed_let_no_others_be_believed():
    forged = ["6.6.6.6", "192.168.1.1", "2600::5"]
    signed = place(1, "wan", signed=["8.8.4.4"], endpoints=forged)
    assert [(hint["ip"], hint["source"]) for hint in hints(signed)] == [("8.8.4.4", "SignedDeviceDoc")]
    unsigned = place(1, "nat", endpoints=forged)
    assert [(hint["ip"], hint["source"]) for hint in hints(unsigned)] == [
        ("192.168.1.1", "LanEndpoint"),
        ("2600::5", "GlobalIpv6"),
    ]


def observed(**said: Any) -> str:
    return json.dumps({"network_observation": said})


@pytest.mark.parametrize(
    ("probe", "is_believed"),
    [
        ({"last_probe": 1000, "last_success": 1000}, True),
        ({"last_probe": 1299, "last_success": 1000}, True),
        ({"last_probe": 1301, "last_success": 1000}, False),
        ({"last_probe": 1000}, False),
        ({"last_success": "now"}, False),
    ],
)
def test_a_probe_is_believed_while_its_success_is_fresh(probe: dict[str, Any], is_believed: bool):
    found = read_observed(observed(direct_probe=[{"target_node": "attic", **probe}]))
    assert bool(found.probes) is is_believed


def test_a_nodes_word_is_read():
    text = observed(
        rtcp_port=4980,
        ipv6={"state": "egress_ok"},
        endpoints=[{"ip": "192.168.1.5"}, {"ip": "127.0.0.1"}, {"ip": "x"}, 7, {"ip": "192.168.1.5"}],
        direct_probe=[{"target_node": "attic", "rtt_ms": 3, "last_probe": 17, "last_success": 17}],
    )
    found = read_observed(text)
    assert (found.port, found.ipv6) == (4980, "egress_ok")
    assert [str(ip) for ip in found.endpoints] == ["192.168.1.5"]
    assert found.probes == (Probe("attic", 4),)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.text(max_size=40) | json_values.map(json.dumps))
def test_no_word_of_a_node_breaks_the_reader(text: str):
    read_observed(text)


@given(st.dictionaries(st.sampled_from(["rtcp_port", "ipv6", "endpoints", "direct_probe"]), json_values))
def test_no_bent_observation_breaks_the_reader(said: dict[str, Any]):
    read_observed(observed(**said))
