"""Verdicts are remembered only where two flows that look the same must fare the same."""

from __future__ import annotations

import pytest

from cyfs_gateway.flow import Flow, Identity
from cyfs_gateway.rules.formats import inline_rule_set
from cyfs_gateway.rules.model import Verdict
from cyfs_gateway.rules.parse import parse_rule
from cyfs_gateway.rules.sets import RuleSet
from cyfs_gateway.rules.table import RuleTable
from cyfs_ns.trust.level import Trust


class NoGeo:
    def country(self, ip: str) -> list[str]:
        return []

    def country_set(self, code: str) -> None:
        return None

    def asn(self, ip: str) -> str:
        return ""


NAS = Identity(
    did="did:web:nas.example",
    host="nas.example",
    owner="did:web:alice.example",
    zone="did:web:example.net",
    trust=Trust.KEY_PROVEN,
)


def flow(host: str = "a.example", src: str = "192.0.2.1", **more: object) -> Flow:
    return Flow("tcp", "Socks5", src, 1000, host, "", 443, **more)  # type: ignore[arg-type]


def table(*rules: str, sets: dict[str, RuleSet] | None = None) -> RuleTable:
    parsed = [parse_rule(rule) for rule in rules]
    return RuleTable.compile(parsed, sub_rules={}, sets=sets or {}, geo=NoGeo())  # type: ignore[arg-type]


def chosen(rules: RuleTable, asked: Flow) -> str:
    found = rules.match(asked)
    assert isinstance(found, Verdict)
    return found.outbound


def test_everything_in_the_key_tells_flows_apart() -> None:
    rules = table(
        "IN-USER,bob,U", "IN-NAME,door,N", "IN-PORT,99,I", "IN-TYPE,HTTP,T", "NETWORK,udp,D", "DST-PORT,80,P",
        "DOMAIN,b.example,H", "MATCH,DIRECT",
    )  # fmt: skip
    plain = flow()
    others = {
        "U": flow(in_user="bob"),
        "N": flow(in_name="door"),
        "I": flow(in_port=99),
        "T": Flow("tcp", "HTTP", "192.0.2.1", 1000, "a.example", "", 443),
        "D": Flow("udp", "Socks5", "192.0.2.1", 1000, "a.example", "", 443),
        "P": Flow("tcp", "Socks5", "192.0.2.1", 1000, "a.example", "", 80),
        "H": flow(sniff_host="b.example"),
    }
    for _ in range(2):
        assert chosen(rules, plain) == "DIRECT"
        assert {name: chosen(rules, one) for name, one in others.items()} == {name: name for name in others}


@pytest.mark.parametrize(
    ("rule", "asked"),
    [
        ("SRC-IP-CIDR,198.51.100.0/24,X", flow(src="198.51.100.9")),
        ("AND,((DOMAIN,a.example),(SRC-IP-CIDR,198.51.100.0/24)),X", flow(src="198.51.100.9")),
        ("UID,7,X", flow(uid=7)),
        ("DSCP,46,X", flow(dscp=46)),
        ("DID,nas.example,X", flow(identity=NAS)),
        ("DID-SUFFIX,example,X", flow(identity=NAS)),
        ("OWNER,alice.example,X", flow(identity=NAS)),
        ("ZONE,example.net,X", flow(identity=NAS)),
        ("TRUST,quorum,X", flow(identity=NAS)),
    ],
)
def test_rules_on_the_client_are_asked_every_time(rule: str, asked: Flow) -> None:
    rules = table(rule, "MATCH,DIRECT")
    known = {"process_known": True}
    for _ in range(2):
        first, second = rules.match(flow(), **known), rules.match(asked, **known)  # type: ignore[arg-type]
        assert isinstance(first, Verdict) and isinstance(second, Verdict)
        assert (first.outbound, second.outbound) == ("DIRECT", "X")


def test_a_change_of_rules_or_sets_is_seen_at_once() -> None:
    sets = {"s": inline_rule_set(["b.example"], "domain")}
    rules = table("RULE-SET,s,X", "DOMAIN,a.example,Y", "MATCH,DIRECT", sets=sets)
    assert chosen(rules, flow()) == "Y"
    rules.disable({1: True})
    assert chosen(rules, flow()) == "DIRECT"
    rules.fill_set("s", inline_rule_set(["a.example"], "domain"))
    assert chosen(rules, flow()) == "X"


def test_a_set_that_looks_at_the_client_ends_the_remembering() -> None:
    rules = table("RULE-SET,s,X", "MATCH,DIRECT", sets={"s": inline_rule_set(["DOMAIN,b.example"], "classical")})
    assert chosen(rules, flow()) == "DIRECT"
    rules.fill_set("s", inline_rule_set(["SRC-IP-CIDR,198.51.100.0/24"], "classical"))
    assert (chosen(rules, flow()), chosen(rules, flow(src="198.51.100.9"))) == ("DIRECT", "X")
