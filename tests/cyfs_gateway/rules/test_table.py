"""What a flow meets: one example a rule type, questions, sub-rules, sets, counters and switches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from cyfs_gateway.flow import Flow, Identity
from cyfs_gateway.rules.formats import inline_rule_set
from cyfs_gateway.rules.model import MAX_SUB_RULES, NO_MATCH, Need
from cyfs_gateway.rules.parse import parse_rule
from cyfs_gateway.rules.table import RuleTable
from cyfs_ns.errors import ConfigFault
from cyfs_ns.sets import CidrSet, DomainSet, HostSet
from cyfs_ns.trust.level import Trust

WEB = Flow(
    network="tcp",
    kind="Socks5",
    src_ip="192.168.1.20",
    src_port=50_000,
    host="www.google.com",
    dst_ip="142.250.1.1",
    dst_port=443,
    in_name="lan",
    in_port=7890,
    in_user="joe",
    dscp=4,
    process="curl",
    process_path="/usr/bin/curl",
    uid=0,
    rematch="again",
    identity=Identity(
        did="did:web:nas.home.example",
        host="nas.home.example",
        owner="did:bns:alice",
        zone="did:web:home.example",
        trust=Trust.HOST_SNAPSHOT,
    ),
)


class Geo:
    """142.250.0.0/16 is in "us" and AS15169."""

    def country(self, ip: str) -> Sequence[str]:
        return ("us",) if ip.startswith("142.250.") else ()

    def country_set(self, code: str) -> CidrSet | None:
        return None

    def asn(self, ip: str) -> str:
        return "15169" if ip.startswith("142.250.") else ""

    def site(self, category: str) -> HostSet:
        if category != "google":
            raise ConfigFault(f"no category {category}")
        return DomainSet([b"+.google.com", b"gstatic.com"])


class NoDatabase(Geo):
    def country(self, ip: str) -> Sequence[str]:
        raise ConfigFault("put geoip.metadb into the home directory")

    asn = country  # type: ignore[assignment]


def table(
    *lines: str, lists: dict[str, list[str]] | None = None, geo: Geo | None = None, **sets: tuple[str, list[str]]
):
    return RuleTable.compile(
        [parse_rule(line) for line in lines],
        sub_rules={name: [parse_rule(line) for line in inner] for name, inner in (lists or {}).items()},
        sets={name: inline_rule_set(payload, behavior) for name, (behavior, payload) in sets.items()},  # type: ignore[arg-type]
        geo=geo or Geo(),
    )


OF_IDENTITIES = {"DID", "DIDSuffix", "Owner", "Zone", "Trust"}
MEETS = [
    ("DOMAIN,WWW.google.com,A", "DOMAIN,google.com,A"),
    ("DOMAIN-SUFFIX,google.com,A", "DOMAIN-SUFFIX,oogle.com,A"),
    ("DOMAIN-SUFFIX,www.google.com,A", "DOMAIN-SUFFIX,a.www.google.com,A"),
    ("DOMAIN-KEYWORD,oogle,A", "DOMAIN-KEYWORD,gogle,A"),
    ("DOMAIN-WILDCARD,*.goo?le.com,A", "DOMAIN-WILDCARD,goo?le.com,A"),
    ("DOMAIN-REGEX,^WWW\\.,A", "DOMAIN-REGEX,^google,A"),
    ("GEOSITE,google,A", None),
    ("GEOIP,US,A", "GEOIP,CN,A"),
    ("GEOIP,LAN,A,src", "GEOIP,LAN,A"),
    ("SRC-GEOIP,lan,A", "SRC-GEOIP,us,A"),
    ("IP-ASN,15169,A", "IP-ASN,1,A"),
    ("IP-CIDR,142.250.9.9/16,A", "IP-CIDR,142.251.0.0/16,A"),
    ("IP-CIDR,0.0.0.0/0,A", "IP-CIDR6,::/0,A"),
    ("SRC-IP-CIDR,192.168.0.0/16,A", "SRC-IP-CIDR,142.250.0.0/16,A"),
    ("IP-SUFFIX,9.9.1.1/16,A", "IP-SUFFIX,142.250.1.2/16,A"),
    ("SRC-IP-SUFFIX,0.0.0.20/8,A", "SRC-IP-SUFFIX,0.0.0.21/8,A"),
    ("SRC-PORT,49999-50001,A", "SRC-PORT,443,A"),
    ("DST-PORT,80/443,A", "DST-PORT,80/444-65535,A"),
    ("IN-PORT,7890,A", "IN-PORT,7891,A"),
    ("IN-TYPE,HTTP/SOCKS,A", "IN-TYPE,SOCKS4,A"),
    ("IN-USER,ann/joe,A", "IN-USER,jo,A"),
    ("IN-NAME,lan,A", "IN-NAME,LAN,A"),
    ("REMATCH-NAME,again,A", "REMATCH-NAME,other,A"),
    ("PROCESS-NAME,CURL,A", "PROCESS-NAME,cur,A"),
    ("PROCESS-NAME-REGEX,^c.rl$,A", "PROCESS-NAME-REGEX,^url,A"),
    ("PROCESS-NAME-WILDCARD,Cu??,A", "PROCESS-NAME-WILDCARD,cu?,A"),
    ("PROCESS-PATH,/usr/bin/curl,A", "PROCESS-PATH,curl,A"),
    ("PROCESS-PATH-REGEX,bin/,A", "PROCESS-PATH-REGEX,^bin/,A"),
    ("PROCESS-PATH-WILDCARD,/usr/*,A", "PROCESS-PATH-WILDCARD,/usr,A"),
    ("UID,0,A", "UID,1-4294967295,A"),
    ("NETWORK,TCP,A", "NETWORK,UDP,A"),
    ("DSCP,0-4,A", "DSCP,5-63,A"),
    ("DID,nas.home.example,A", "DID,did:web:home.example,A"),
    ("DID-SUFFIX,home.example,A", "DID-SUFFIX,ome.example,A"),
    ("DID-SUFFIX,nas.home.example,A", "DID-SUFFIX,a.nas.home.example,A"),
    ("OWNER,did:bns:alice,A", "OWNER,did:bns:bob,A"),
    ("ZONE,home.example,A", "ZONE,nas.home.example,A"),
    ("TRUST,host-snapshot,A", "TRUST,zone-snapshot,A"),
    ("RULE-SET,names,A", "RULE-SET,nets,A"),
    ("RULE-SET,nets,A,src", "RULE-SET,mixed,A"),
    ("RULE-SET,mixed,A,src", None),
    ("AND,((NETWORK,tcp),(DST-PORT,443)),A", "AND,((NETWORK,tcp),(DST-PORT,80)),A"),
    ("OR,((NETWORK,udp),(DST-PORT,443)),A", "OR,((NETWORK,udp),(DST-PORT,80)),A"),
    ("NOT,((NETWORK,udp)),A", "NOT,((NETWORK,tcp)),A"),
    ("SUB-RULE,(NETWORK,tcp),inner", "SUB-RULE,(NETWORK,udp),inner"),
    ("MATCH,A", None),
]


@pytest.mark.parametrize(("holds", "fails"), MEETS, ids=[case[0] for case in MEETS])
def test_each_type_holds_where_it_should_and_only_there(holds, fails):
    sets = {
        "names": ("domain", ["+.google.com"]),
        "nets": ("ipcidr", ["192.168.0.0/16"]),
        "mixed": ("classical", ["IP-CIDR,192.168.1.20/32", "DST-PORT,50000"]),
    }
    lists = {"inner": ["DST-PORT,80,B", "DOMAIN-SUFFIX,com,A"]}
    verdict = table(holds, lists=lists, **sets).match(WEB)
    assert (verdict.index, verdict.outbound) == (0, "A")
    assert verdict.type == parse_rule(holds).type
    if fails is not None:
        assert table(fails, lists=lists, **sets).match(WEB) is NO_MATCH


@pytest.mark.parametrize("line", [holds for holds, _ in MEETS if parse_rule(holds).type in OF_IDENTITIES])
def test_rules_on_identities_never_meet_somebody_unknown_or_hardly_known(line):
    rules = table(line, "MATCH,Z")
    assert rules.match(WEB).outbound == "A"
    assert rules.match(replace(WEB, identity=None)).outbound == "Z"
    assert rules.match(replace(WEB, identity=replace(WEB.identity, trust=Trust.QUORUM))).outbound == "Z"
    nobody = Identity(did="", host="", trust=Trust.QUORUM)
    assert rules.match(replace(WEB, identity=nobody)).outbound == "Z"


def test_without_a_rule_that_holds_a_flow_goes_out_directly():
    verdict = table("DOMAIN,other.example,A").match(WEB)
    assert (verdict.index, verdict.outbound) == (-1, "DIRECT")


def test_the_first_rule_wins_and_the_same_verdict_is_handed_out_again():
    rules = table("NETWORK,tcp,A", "DOMAIN,www.google.com,B", "MATCH,C")
    first = rules.match(WEB)
    assert (first.index, first.outbound, first.why) == (0, "A", "rule 0: NETWORK,tcp,A")
    assert rules.match(WEB) is first
    assert rules.match(WEB, start=1).outbound == "B"
    assert rules.match(WEB, start=2).outbound == "C"
    assert rules.match(WEB, start=3) is NO_MATCH


def test_rules_see_the_sniffed_name_before_the_given_one():
    rules = table("DOMAIN,inside.example,A", "DOMAIN-SUFFIX,google.com,B")
    assert rules.match(replace(WEB, sniff_host="inside.example")).outbound == "A"
    assert rules.match(replace(WEB, host="", sniff_host="inside.example")).outbound == "A"


@pytest.mark.parametrize("line", ["DOMAIN-REGEX,.*,A", "DOMAIN-WILDCARD,*,A", "GEOSITE,google,A", "RULE-SET,all,A"])
def test_a_flow_without_a_name_meets_no_domain_rule(line):
    assert table(line, all=("domain", ["*"])).match(replace(WEB, host="")) is NO_MATCH


NAMED = replace(WEB, dst_ip="")


def test_an_address_rule_asks_once_and_goes_on_from_itself():
    rules = table("IP-CIDR,9.9.9.9/32,A,no-resolve", "DOMAIN,x.example,B", "IP-CIDR,9.9.9.0/24,C", "MATCH,D")
    need = rules.match(NAMED)
    assert need == Need("address", at=2)
    assert rules.match(replace(NAMED, dst_ip="9.9.9.9"), need.at, True).outbound == "C"
    assert rules.match(NAMED, need.at, True).outbound == "D"  # it could not be resolved


def test_a_match_before_the_address_rule_asks_nothing():
    assert table("DOMAIN-SUFFIX,com,A", "IP-CIDR,9.9.9.9/32,B").match(NAMED).outbound == "A"
    assert table("IP-CIDR,9.9.9.9/32,B,no-resolve", "GEOIP,us,B,no-resolve", "MATCH,A").match(NAMED).outbound == "A"
    assert table("SRC-IP-CIDR,9.9.9.9/32,B", "MATCH,A").match(NAMED).outbound == "A"


@pytest.mark.parametrize(
    "line", ["GEOIP,us,A", "GEOIP,LAN,A", "IP-ASN,1,A", "IP-SUFFIX,1.1.1.1/8,A", "RULE-SET,nets,A"]
)
def test_every_rule_on_the_destination_address_may_ask(line):
    rules = table(line, nets=("ipcidr", ["10.0.0.0/8"]))
    assert rules.match(NAMED) == Need("address", at=0)
    assert table(line + ",no-resolve", nets=("ipcidr", ["10.0.0.0/8"])).match(NAMED) is NO_MATCH


def test_a_set_of_names_never_asks_and_a_classical_one_asks_in_its_order():
    sets = {"names": ("domain", ["x.example"]), "mixed": ("classical", ["DOMAIN,www.google.com", "IP-CIDR,10.0.0.0/8"])}
    assert table("RULE-SET,names,A", "MATCH,B", **sets).match(NAMED).outbound == "B"
    rules = table("RULE-SET,mixed,A", **sets)
    assert rules.match(NAMED).outbound == "A"
    assert rules.match(replace(NAMED, host="other.example")) == Need("address", at=0)
    assert table("RULE-SET,mixed,A,no-resolve", **sets).match(replace(NAMED, host="other.example")) is NO_MATCH


def test_logic_looks_from_left_to_right_and_stops_early():
    assert table("AND,((NETWORK,udp),(IP-CIDR,10.0.0.0/8)),A").match(NAMED) is NO_MATCH
    assert table("AND,((IP-CIDR,10.0.0.0/8),(NETWORK,udp)),A").match(NAMED) == Need("address", at=0)
    assert table("OR,((NETWORK,tcp),(IP-CIDR,10.0.0.0/8)),A").match(NAMED).outbound == "A"
    assert table("OR,((IP-CIDR,10.0.0.0/8),(NETWORK,tcp)),A").match(NAMED) == Need("address", at=0)
    assert table("NOT,((IP-CIDR,10.0.0.0/8)),A").match(NAMED) == Need("address", at=0)
    assert table("NOT,((IP-CIDR,10.0.0.0/8)),A").match(NAMED, 0, True).outbound == "A"


UNKNOWN = replace(WEB, process="", process_path="", uid=-1)


@pytest.mark.parametrize("line", ["PROCESS-NAME,curl,A", "PROCESS-PATH-REGEX,curl,A", "UID,0,A", "NOT,((UID,7)),A"])
def test_a_process_rule_asks_for_the_process_only_when_reached(line):
    rules = table("DOMAIN,x.example,B", line, "MATCH,C")
    assert rules.match(UNKNOWN) == Need("process", at=1)
    assert rules.match(replace(UNKNOWN, host="x.example")).outbound == "B"
    assert rules.match(WEB, 1, False, True).outbound == "A"
    assert rules.match(UNKNOWN, 1, False, True).outbound == ("A" if line.startswith("NOT") else "C")


def test_sub_rules_decide_or_hand_back():
    rules = table(
        "SUB-RULE,(NETWORK,tcp),web",
        "MATCH,Z",
        lists={"web": ["DST-PORT,80,A", "SUB-RULE,(DST-PORT,443),tls"], "tls": ["DOMAIN,x.example,B", "GEOIP,us,C"]},
    )
    verdict = rules.match(WEB)
    assert (verdict.index, verdict.type, verdict.payload, verdict.outbound) == (0, "SubRules", "(NETWORK,tcp)", "C")
    assert "GEOIP,us,C" in verdict.why
    assert rules.match(WEB) is verdict
    assert rules.match(replace(WEB, dst_port=80)).outbound == "A"
    assert rules.match(replace(WEB, dst_port=22)).outbound == "Z"
    assert rules.match(NAMED) == Need("address", at=0)
    assert rules.outbounds() == {"A", "B", "C", "Z", "DIRECT"}
    assert rules.for_list("tls").match(WEB).outbound == "C"


def test_sub_rules_may_not_lead_in_a_circle_nor_nowhere_nor_too_deep():
    with pytest.raises(ConfigFault, match="circle: a -> b -> a"):
        table(lists={"a": ["SUB-RULE,(NETWORK,tcp),b"], "b": ["SUB-RULE,(NETWORK,tcp),a"]})
    with pytest.raises(ConfigFault, match="'nowhere', which is not defined"):
        table("SUB-RULE,(NETWORK,tcp),nowhere")
    deep = {f"l{n}": [f"SUB-RULE,(NETWORK,tcp),l{n + 1}"] for n in range(MAX_SUB_RULES + 1)}
    with pytest.raises(ConfigFault, match="deep"):
        table(lists=deep)


def test_what_a_rule_refers_to_must_be_there_when_the_table_is_made():
    with pytest.raises(ConfigFault, match="RULE-SET 'nowhere'"):
        table("AND,((RULE-SET,nowhere),(NETWORK,tcp)),A")
    with pytest.raises(ConfigFault, match="no category"):
        table("GEOSITE,nothing,A")
    for line in ("GEOIP,us,A", "IP-ASN,1,A,no-resolve", "AND,((GEOIP,us),(NETWORK,tcp)),A"):
        with pytest.raises(ConfigFault, match=r"geoip\.metadb"):
            table(line, geo=NoDatabase())
    table("GEOIP,LAN,A", geo=NoDatabase())


def test_the_content_of_a_set_can_change_under_way():
    rules = table("RULE-SET,names,A", "MATCH,B", names=("domain", ["x.example"]))
    assert rules.match(WEB).outbound == "B"
    rules.fill_set("names", inline_rule_set(["+.google.com", "y.example"], "domain"))
    assert rules.match(WEB).outbound == "A"
    assert rules.view()[0].size == 2


def test_a_set_that_cannot_be_compiled_leaves_the_old_one():
    rules = table("RULE-SET,mixed,A", mixed=("classical", ["DOMAIN,www.google.com"]))
    with pytest.raises(ConfigFault):
        rules.fill_set("mixed", inline_rule_set(["GEOSITE,nothing"], "classical"))
    assert rules.match(WEB).outbound == "A"


def counts(rules: RuleTable) -> list[tuple[int, int]]:
    return [(view.hit_count, view.miss_count) for view in rules.view()]


def test_hits_are_counted_and_misses_follow_from_later_hits():
    rules = table("DST-PORT,80,A", "DST-PORT,443,B", "NETWORK,tcp,C")
    rules.count(rules.match(WEB), 10.0)
    rules.count(rules.match(replace(WEB, dst_port=80)), 11.0)
    rules.count(rules.match(replace(WEB, dst_port=1, network="udp")), 12.0)
    assert counts(rules) == [(1, 2), (1, 1), (0, 1)]
    first = rules.view()[0]
    assert (first.hit_at, first.miss_at) == (11.0, 12.0)
    assert rules.view()[2].hit_at == 0.0


def test_a_rule_that_is_passed_over_did_not_miss():
    rules = table("DST-PORT,443,PASS", "NETWORK,tcp,C")
    passed = rules.match(WEB)
    rules.count(passed, 1.0, passed_over=True)
    rules.count(rules.match(WEB, passed.index + 1), 1.0)
    assert counts(rules) == [(1, 0), (1, 0)]


def test_a_disabled_rule_neither_matches_nor_asks_nor_misses():
    rules = table("DST-PORT,443,A", "PROCESS-NAME,curl,B", "IP-CIDR,10.0.0.0/8,C", "MATCH,D")
    blank = replace(NAMED, process="", process_path="", uid=-1)
    rules.disable({0: True, 1: True, 2: True, 99: True, -1: True})
    verdict = rules.match(blank)
    assert verdict.outbound == "D"
    rules.count(verdict, 1.0)
    assert [view.disabled for view in rules.view()] == [True, True, True, False]
    assert counts(rules)[0] == (0, 0)
    rules.disable({0: False, 2: False})
    assert rules.match(WEB).outbound == "A"
    assert rules.match(replace(blank, dst_port=80)) == Need("address", at=2)
    rules.count(rules.match(replace(WEB, dst_port=80)), 2.0)
    assert counts(rules) == [(0, 1), (0, 0), (0, 1), (2, 0)]


def test_sizes_are_told_where_a_rule_stands_for_many():
    rules = table("GEOSITE,google,A", "RULE-SET,nets,A", "GEOIP,us,A", "DOMAIN,a.b,A", nets=("ipcidr", ["10.0.0.0/8"]))
    assert [view.size for view in rules.view()] == [2, 1, 0, -1]


def test_addresses_are_compared_whatever_their_spelling():
    rules = table("IP-CIDR,2001:db8::/32,A", "IP-CIDR,192.0.2.0/24,B")
    assert rules.match(replace(WEB, dst_ip="2001:0DB8:0:0::1")).outbound == "A"
    assert rules.match(replace(WEB, dst_ip="2001:db8::1%eth0")).outbound == "A"
    assert rules.match(replace(WEB, dst_ip="::ffff:192.0.2.9")).outbound == "B"
    assert rules.match(replace(WEB, dst_ip="no address")) is NO_MATCH


@pytest.mark.parametrize(
    ("rule", "ports"),
    [
        ("NOT,((DST-PORT,0-65535)),x", ""),
        ("NOT,((DST-PORT,1-65534)),x", "0 65535"),
        ("NOT,((DST-PORT,80/90-100/443/95-97)),x", "0 79 81 89 101 442 444 65535"),
        ("AND,((NETWORK,TCP),(NOT,((DST-PORT,0-65535)))),x", ""),
        ("AND,((DST-PORT,440-450),(NOT,((DST-PORT,443)))),x", "442 444"),
        ("OR,((NOT,((DST-PORT,0-65535))),(DST-PORT,81)),x", "81"),
        ("NOT,((DST-PORT,80-100,no-resolve)),x", "0 79 101 442 443 444 65535"),
    ],
)
def test_all_ports_but_some_are_those_and_no_others(rule, ports):
    rules = table(rule)
    asked = (0, 79, 80, 81, 89, 90, 95, 97, 98, 100, 101, 442, 443, 444, 65_535)
    met = [port for port in asked if rules.match(replace(WEB, dst_port=port)) != NO_MATCH]
    assert met == [int(port) for port in ports.split()]


@pytest.mark.parametrize(
    ("goes", "ips"),
    [
        ("host", "10.1.2.3"),
        ("street", "10.1.2.0 10.1.2.2 10.1.2.4 10.1.2.255"),
        ("next", "10.1.3.0 10.1.3.255"),
        ("town", "10.1.0.0 10.1.1.255 10.1.4.0 10.1.255.255"),
        ("land", "10.0.0.0 10.0.255.255 10.2.0.0 10.255.255.255"),
        ("end", "255.255.255.255"),
        ("four", "0.0.0.0 9.255.255.255 11.0.0.0 255.255.255.254"),
        ("six", ":: 2001:db8::1 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ],
)
def test_of_networks_inside_each_other_the_first_rule_wins_wherever_they_end(goes, ips):
    rules = table(
        *("IP-CIDR,10.1.2.3/32,host", "IP-CIDR,10.1.2.0/24,street", "IP-CIDR,10.1.3.0/24,next"),
        *("IP-CIDR,10.1.0.0/16,town", "IP-CIDR,10.0.0.0/8,land", "IP-CIDR,255.255.255.255/32,end"),
        *("IP-CIDR6,::/0,six", "IP-CIDR,0.0.0.0/0,four"),
    )
    assert {rules.match(replace(WEB, dst_ip=ip)).outbound for ip in ips.split()} == {goes}


def test_many_regexes_run_together():
    rules = table(*(rf"DOMAIN-REGEX,^host{n}[a-z]*\.example$,P{n}" for n in range(600)), "MATCH,Z")
    assert rules.match(replace(WEB, host="host587abc.example")).outbound == "P587"
    assert rules.match(replace(WEB, host="host600.example")).outbound == "Z"
