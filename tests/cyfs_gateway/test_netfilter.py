"""What the plan says; whether a kernel then does it is tried in netns-lab/scenarios/test_interception.py."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyfs_gateway.config.load import load
from cyfs_gateway.netfilter import Interception, NetfilterPlan, interception, plan, route_rules, table_name
from cyfs_ns.errors import ConfigFault, Misuse

BOTH = Interception(instance="a1b2", interfaces=("eth1", "br-lan"), redir_port=7892, tproxy_port=7893)


def chains(made: NetfilterPlan) -> dict[str, list[str]]:
    """The ruleset read back: lines of each chain."""
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for line in map(str.strip, made.ruleset.splitlines()):
        if line.startswith("chain "):
            current = found[line.split()[1]] = []
        elif line not in ("", "}"):
            current.append(line)
    return found


def test_one_transaction_replaces_the_whole_table():
    lines = plan(BOTH).ruleset.splitlines()
    assert lines[:3] == [
        "add table inet cyfs_gateway_a1b2",
        "delete table inet cyfs_gateway_a1b2",
        "table inet cyfs_gateway_a1b2 {",
    ]


def test_tcp_is_redirected_and_udp_tproxied_when_both_ports_are_given():
    made = plan(BOTH)
    assert chains(made)["redirect_in"][-1] == "meta l4proto tcp redirect to :7892"
    assert chains(made)["take"] == [f"meta l4proto udp meta mark set {made.routes[0].mark:#x} tproxy to :7893 accept"]


def test_both_are_tproxied_when_only_that_port_is_given():
    made = plan(replace(BOTH, redir_port=0))
    assert "redirect_in" not in chains(made)
    assert chains(made)["take"][0].startswith("meta l4proto { tcp, udp } ")


def test_redirect_alone_needs_no_routing_and_touches_no_udp():
    made = plan(replace(BOTH, tproxy_port=0))
    assert made.routes == ()
    assert "udp" not in made.ruleset


def test_only_the_inbound_interfaces_are_touched_first_of_all():
    made = chains(plan(BOTH))
    for name in ("redirect_in", "tproxy_in"):
        assert made[name][1] == 'iifname != { "eth1", "br-lan" } accept'


def test_what_is_ours_goes_before_dns_and_dns_before_what_is_spared():
    made = chains(plan(replace(BOTH, dns_port=1053)))
    assert made["redirect_in"][2:5] == [
        "jump ours",
        "meta l4proto { tcp, udp } th dport 53 redirect to :1053",
        "jump spare",
    ]
    assert made["ours"][0] == "meta mark 0x2d0 accept"


def test_networks_that_overlap_are_merged_and_sorted_into_families():
    made = chains(plan(replace(BOTH, bypass=("203.0.113.0/24", "203.0.113.7", "2001:db8::/32", "2001:db8:1::/48"))))
    assert made["ours"][1:] == ["ip daddr { 203.0.113.0/24 } accept", "ip6 daddr { 2001:db8::/32 } accept"]


def test_a_fake_ip_pool_in_a_private_range_is_still_taken():
    spare = chains(plan(replace(BOTH, reach=("10.9.0.0/16", "fd00:9::/64"))))["spare"]
    reached = [spare.index(f"{words} return") for words in ("ip daddr { 10.9.0.0/16 }", "ip6 daddr { fd00:9::/64 }")]
    private = [n for n, line in enumerate(spare) if "10.0.0.0/8" in line or "fc00::/7" in line]
    assert len(private) == 2
    assert max(reached) < min(private)


def test_without_ipv6_its_packets_and_routes_are_left_alone():
    made = plan(replace(BOTH, ipv6=False))
    assert "meta nfproto ipv6 accept" in chains(made)["ours"]
    assert [route.family for route in made.routes] == [4]


def test_the_machines_own_traffic_is_taken_only_when_asked():
    assert not [name for name in chains(plan(BOTH)) if name.endswith("_out")]
    made = chains(plan(replace(BOTH, own_traffic=True)))
    for name in ("redirect_out", "tproxy_out"):
        assert made[name][1] == "jump ours"


def test_two_homes_share_neither_table_nor_marks():
    first, second = route_rules("a1"), route_rules("b2")
    assert table_name("a1") != table_name("b2")
    assert not {first[0].mark, first[0].table} & {second[0].mark, second[0].table}
    assert first == route_rules("a1")


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"interfaces": ()}, "iptables/inbound-interface"),
        ({"interfaces": ('eth0"; flush ruleset',)}, "iptables/inbound-interface"),
        ({"interfaces": ("sixteen-letters-x",)}, "iptables/inbound-interface"),
        ({"bypass": ("not-a-net",)}, "iptables/bypass"),
        ({"redir_port": 0, "tproxy_port": 0}, "redir-port or tproxy-port"),
        ({"redir_port": 65536}, "redir-port"),
        ({"own_mark": 0}, "routing-mark"),
        ({"own_mark": 1 << 32}, "routing-mark"),
        ({"own_mark": route_rules("a1b2")[0].mark}, "routing-mark"),
    ],
)
def test_what_cannot_be_meant_is_the_owners_fault_with_its_place(change, place):
    with pytest.raises(ConfigFault, match=place):
        plan(replace(BOTH, **change))


@pytest.mark.parametrize("instance", ["", "A", "a b", "a" * 17, "x;y"])
def test_an_instance_name_is_ours_to_get_right(instance):
    with pytest.raises(Misuse):
        table_name(instance)


ROUTER = """
allow-lan: true
redir-port: 7892
tproxy-port: 7893
routing-mark: 6666
iptables: {enable: true, inbound-interface: br-lan, bypass: [203.0.113.0/24]}
"""
DNS = "dns: {enable: true, listen: ':1053'}"
FAKE_IP = "dns: {enable: true, listen: ':1053', enhanced-mode: fake-ip, fake-ip-range: 28.0.0.1/8}"


def asked(text: str) -> Interception | None:
    config = load(text.encode(), home="/nowhere").config
    assert config is not None
    return interception(config, "a1b2")


def test_a_clash_configuration_says_what_is_wanted():
    assert asked(ROUTER + FAKE_IP) == Interception(
        instance="a1b2",
        interfaces=("br-lan",),
        redir_port=7892,
        tproxy_port=7893,
        dns_port=1053,
        bypass=("203.0.113.0/24",),
        reach=("28.0.0.1/8",),
        own_mark=6666,
    )


def test_nothing_is_wanted_unless_it_is_enabled():
    assert asked(ROUTER.replace("enable: true", "enable: false")) is None


def test_without_ipv6_listeners_ipv6_is_left_alone():
    wanted = asked(ROUTER + "bind-address: 0.0.0.0")
    assert wanted is not None
    assert not wanted.ipv6


def test_dns_stays_where_it_is_when_asked_so():
    for text in (ROUTER.replace("iptables: {", "iptables: {dns-redirect: false, ") + DNS, ROUTER):
        wanted = asked(text)
        assert wanted is not None
        assert wanted.dns_port == 0


def test_listeners_on_loopback_are_out_of_the_kernels_reach():
    with pytest.raises(ConfigFault, match="allow-lan"):
        asked(ROUTER.replace("allow-lan: true", ""))
    with pytest.raises(ConfigFault, match="dns-redirect"):
        asked(ROUTER + DNS.replace(":1053", "127.0.0.1:1053"))


@given(st.text(max_size=20), st.text(max_size=40))
def test_no_text_of_the_owner_reaches_nft_but_names_and_networks(interface, cidr):
    try:
        text = plan(replace(BOTH, interfaces=(interface,), bypass=(cidr,))).ruleset
    except ConfigFault:
        return
    extra = text.replace(interface, "") if interface else text
    assert extra.count('"') == 4
    assert text.count("{") == text.count("}")


def test_a_dns_door_for_ipv4_alone_gets_no_other_questions():
    wanted = asked(ROUTER + DNS.replace(":1053", "0.0.0.0:1053"))
    assert wanted is not None
    assert (wanted.dns_port, wanted.dns_ipv6) == (1053, False)
    told = [line for lines in chains(plan(wanted)).values() for line in lines if "dport 53" in line]
    assert told
    assert all(line.startswith("meta nfproto ipv4 ") for line in told)
