"""Which outbound carries a flow, and why, as tables of examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from cyfs_gateway.decide import Decision, Pending, Router
from cyfs_gateway.flow import PEER, Flow, Identity
from cyfs_gateway.rules.parse import parse_rule
from cyfs_gateway.rules.table import RuleTable
from cyfs_ns.trust.level import Trust
from tunnels.endpoint import Target
from tunnels.io.leaf import Dns
from tunnels.io.registry import Tunnels
from tunnels.io.rtcp import RtcpProxy
from tunnels.outbound import FlowHint
from tunnels.spec import DialOptions, DnsSpec, RtcpSpec


class Way:
    """An outbound that only has a name; with ``below`` it is a group."""

    def __init__(self, name: str, kind: str = "Socks5", *, udp: bool = True, below: Way | None = None) -> None:
        self.name, self.kind, self.udp, self.below = name, kind, udp, below
        self.hints: list[FlowHint] = []

    def pick(self, hint: FlowHint) -> Way:
        self.hints.append(hint)
        return self.below or self


def table(*lines: str, **sub_rules: Sequence[str]) -> RuleTable:
    subs = {name: [parse_rule(line) for line in inner] for name, inner in sub_rules.items()}
    return RuleTable.compile([parse_rule(line) for line in lines], sub_rules=subs, sets={}, geo=None)  # type: ignore[arg-type]


def router(rules: RuleTable, *, mode: str = "rule", find_process: str = "strict", **more: Any) -> Router:
    leaf = Way("leaf")
    inner = Way("inner", "Selector", below=leaf)
    ways = [
        Way("DIRECT", "Direct"),
        Way("REJECT", "Reject"),
        Way("PASS", "Pass"),
        leaf,
        inner,
        Way("outer", "Selector", below=inner),
        Way("GLOBAL", "Selector", below=inner),
        Way("streams", udp=False),
        Way("passing", "Selector", below=Way("PASS", "Pass")),
    ]
    tables = {name: rules.for_list(name) for name in more.pop("lists", ())}
    return Router(
        mode=mode,
        table=rules,
        tables=tables,
        outbounds={way.name: way for way in ways},  # type: ignore[misc]
        find_process=find_process,
        **more,
    )


WEB = Flow("tcp", "Socks5", "192.0.2.1", 5000, "www.example.com", "", 443)
VOICE = replace(WEB, network="udp")


def chain_of(found: Decision | Pending) -> tuple[str, ...]:
    assert isinstance(found, Decision)
    return found.chain


@pytest.mark.parametrize(
    ("lines", "flow", "chain", "index", "passed"),
    [
        (["DOMAIN,www.example.com,leaf", "MATCH,DIRECT"], WEB, ("leaf",), 0, 0),
        (["DOMAIN,other.example.com,leaf", "MATCH,DIRECT"], WEB, ("DIRECT",), 1, 0),
        (["DOMAIN,www.example.com,outer"], WEB, ("leaf", "inner", "outer"), 0, 0),
        (["DOMAIN,nothing.test,leaf"], WEB, ("DIRECT",), -1, 0),
        ([], WEB, ("DIRECT",), -1, 0),
        (["MATCH,PASS", "DST-PORT,443,leaf"], WEB, ("leaf",), 1, 1),
        (["MATCH,passing", "DST-PORT,443,leaf"], WEB, ("leaf",), 1, 1),
        (["MATCH,PASS"], WEB, ("DIRECT",), -1, 1),
        (["MATCH,streams", "MATCH,leaf"], WEB, ("streams",), 0, 0),
        (["MATCH,streams", "MATCH,leaf"], VOICE, ("leaf",), 1, 1),
        (["MATCH,streams", "MATCH,PASS", "MATCH,streams"], VOICE, ("DIRECT",), -1, 3),
        (["MATCH,REJECT"], VOICE, ("REJECT",), 0, 0),
    ],
)
def test_rules_decide(lines: list[str], flow: Flow, chain: tuple[str, ...], index: int, passed: int) -> None:
    decides = router(table(*lines))
    for _ in range(3):
        found = decides.route(flow)
        assert isinstance(found, Decision)
        assert (found.chain, found.verdict.index, len(found.passed)) == (chain, index, passed)
        assert found.leaf.name == chain[0]


def test_one_router_serves_both_networks_whichever_came_first() -> None:
    decides = router(table("MATCH,streams", "MATCH,leaf"))
    for flow, chain in ((WEB, ("streams",)), (VOICE, ("leaf",)), (WEB, ("streams",)), (VOICE, ("leaf",))):
        assert chain_of(decides.route(flow)) == chain


def test_a_group_is_asked_every_time_with_what_is_known_of_the_flow() -> None:
    decides = router(table("MATCH,outer"))
    decides.route(WEB)
    decides.route(replace(VOICE, host="", dst_ip="192.0.2.9"))
    outer = decides.outbounds["outer"]
    assert outer.hints == [  # type: ignore[attr-defined]
        FlowHint(source="192.0.2.1", source_port=5000, host="www.example.com", udp=False),
        FlowHint(source="192.0.2.1", source_port=5000, host="192.0.2.9", udp=True),
    ]
    outer.below = decides.outbounds["DIRECT"]  # type: ignore[attr-defined]
    assert chain_of(decides.route(WEB)) == ("DIRECT", "outer")


def test_who_wants_to_know_whose_flow_it_is_hears_it_of_each() -> None:
    """The first has no source: it is the gateway's own."""

    async def never(target: Target, source: str) -> Any:
        raise AssertionError(target, source)

    rules = router(table("MATCH,dns", "MATCH,peers"))
    peers = RtcpProxy(RtcpSpec(name="peers", proxy_protocol=True), Tunnels(DialOptions(), never), never, None, None)  # type: ignore[arg-type]
    told = {"dns": Dns(DnsSpec(name="dns"), never, never), "peers": peers}
    rules.outbounds = {**rules.outbounds, **told}
    for name in told:
        leaves = [rules._descend(name, flow)[0] for flow in (replace(WEB, src_ip="", src_port=0), WEB, VOICE)]
        assert len({id(leaf) for leaf in leaves}) == 3 and told[name] not in leaves
        hint = FlowHint(source=WEB.src_ip, source_port=WEB.src_port, host=WEB.host)
        assert leaves[1].pick(hint) is leaves[1], "it is asked until it answers with itself"


def test_groups_in_a_circle_end() -> None:
    decides = router(table("MATCH,outer"))
    outer, inner = decides.outbounds["outer"], decides.outbounds["inner"]
    inner.below = outer  # type: ignore[attr-defined]
    assert len(chain_of(decides.route(WEB))) < 100


@pytest.mark.parametrize(
    ("mode", "proxy", "chain", "why"),
    [
        ("direct", "", ("DIRECT",), "mode is direct"),
        ("global", "", ("leaf", "inner", "GLOBAL"), "mode is global"),
        ("global", "leaf", ("leaf",), "the listener sends everything to leaf"),
        ("rule", "REJECT", ("REJECT",), "the listener sends everything to REJECT"),
    ],
)
def test_the_listener_and_the_mode_come_before_the_rules(
    mode: str, proxy: str, chain: tuple[str, ...], why: str
) -> None:
    decides = router(table("MATCH,streams"), mode=mode)
    found = decides.route(WEB, proxy=proxy)
    assert isinstance(found, Decision)
    assert (found.chain, found.verdict.why, found.table) == (chain, why, None)
    decides.mode = "rule"
    assert chain_of(decides.route(WEB)) == ("streams",)


def test_a_listener_may_have_its_own_rules() -> None:
    decides = router(table("MATCH,leaf", own=["DST-PORT,443,streams"]), lists=["own"])
    own = decides.route(WEB, rule="own")
    assert isinstance(own, Decision)
    assert own.chain == ("streams",)
    assert own.table is decides.tables["own"]
    assert chain_of(decides.route(replace(WEB, dst_port=80), rule="own")) == ("DIRECT",)
    assert chain_of(decides.route(replace(WEB, dst_port=80))) == ("leaf",)


def test_an_address_is_asked_for_once_and_only_when_a_rule_wants_it() -> None:
    decides = router(
        table("DOMAIN,quick.test,leaf", "IP-CIDR,192.0.2.0/24,leaf", "IP-CIDR,198.51.100.0/24,streams", "MATCH,REJECT")
    )
    assert chain_of(decides.route(replace(WEB, host="quick.test"))) == ("leaf",)
    pending = decides.route(WEB)
    assert isinstance(pending, Pending)
    assert (pending.need.what, pending.need.at) == ("address", 1)
    found = replace(WEB, dst_ip="198.51.100.7")
    assert chain_of(decides.route(found, after=pending, resolved=True)) == ("streams",)
    assert chain_of(decides.route(WEB, after=pending, resolved=True)) == ("REJECT",)


def test_what_was_passed_over_is_remembered_across_a_question() -> None:
    decides = router(table("MATCH,PASS", "IP-CIDR,192.0.2.0/24,leaf", "PROCESS-NAME,curl,streams", "MATCH,REJECT"))
    first = decides.route(WEB)
    assert isinstance(first, Pending)
    second = decides.route(WEB, after=first, resolved=True)
    assert isinstance(second, Pending)
    assert (second.need.what, second.need.at) == ("process", 2)
    last = decides.route(WEB, after=second, resolved=True, process_known=True)
    assert isinstance(last, Decision)
    assert last.chain == ("REJECT",)
    assert [one.verdict.outbound for one in last.passed] == ["PASS"]


@pytest.mark.parametrize(("find_process", "asks"), [("off", False), ("strict", True), ("always", True)])
def test_when_the_process_is_looked_for(find_process: str, asks: bool) -> None:
    decides = router(table("PROCESS-NAME,curl,leaf", "MATCH,DIRECT"), find_process=find_process)
    found = decides.route(WEB)
    assert isinstance(found, Pending) == asks
    if isinstance(found, Pending):
        assert found.need.what == "process"
        curl = replace(WEB, process="curl")
        assert chain_of(decides.route(curl, after=found, process_known=True)) == ("leaf",)
        assert chain_of(decides.route(WEB, after=found, process_known=True)) == ("DIRECT",)
    plain = router(table("MATCH,DIRECT"), find_process=find_process)
    assert isinstance(plain.route(WEB), Pending) == (find_process == "always")


@pytest.mark.parametrize(
    ("host", "carried"),
    [
        ("page.guest", "page"),
        ("below.page.guest", ""),
        ("deep.zone.test", "zone"),
        ("very.deep.zone.test", "zone"),
        ("near.deep.zone.test", "near"),
        ("zone.test", ""),
        ("otherzone.test", ""),
    ],
)
@pytest.mark.parametrize("mode", ["rule", "direct"])
def test_names_that_modules_carry_come_first(host: str, carried: str, mode: str) -> None:
    routes = {"page.guest": Way("page"), ".zone.test": Way("zone"), ".near.deep.zone.test": Way("never"),
              "near.deep.zone.test": Way("near")}  # fmt: skip
    decides = router(table("MATCH,DIRECT"), mode=mode, routes=routes)
    assert chain_of(decides.route(replace(WEB, host=host))) == (carried or "DIRECT",)
    assert chain_of(decides.route(replace(WEB, sniff_host=host))) == (carried or "DIRECT",)
    routes.clear()
    assert chain_of(decides.route(replace(WEB, host=host))) == ("DIRECT",)


def test_what_no_rule_wants_belongs_to_the_list_that_was_asked() -> None:
    rules = table("DOMAIN,a.test,leaf", own=["DOMAIN,c.test,leaf"])
    decides = router(rules, lists=["own"])
    for rule, asked in (("", rules), ("own", decides.tables["own"]), ("", rules)):
        found = decides.route(WEB, rule=rule)
        assert isinstance(found, Decision)
        assert found.table is asked


# Peers

NAS = Identity(
    did="did:web:nas.home.example", host="nas.home.example", zone="did:web:home.example", trust=Trust.OWNER_SIGNED
)
ASKED = Flow("tcp", PEER, "192.0.2.1", 0, "", "127.0.0.1", 22, identity=NAS)


@pytest.mark.parametrize(
    ("lines", "leaf"),
    [
        ((), "REJECT"),
        (("MATCH,leaf",), "REJECT"),
        (("DST-PORT,22,leaf", "DID,nas.home.example,DIRECT"), "DIRECT"),
        (("DID,nas.home.example,outer",), "leaf"),
        (("DID,other.home.example,leaf", "MATCH,leaf"), "REJECT"),
        (("DST-PORT,22,REJECT", "ZONE,home.example,leaf"), "REJECT"),
        (("ZONE,home.example,PASS", "TRUST,host-snapshot,leaf"), "leaf"),
        (("IN-TYPE,RTCP,leaf",), "leaf"),
        (("IN-TYPE,RTCP/SOCKS5,leaf",), "REJECT"),
        (("AND,((DST-PORT,22),(DID-SUFFIX,home.example)),leaf",), "leaf"),
        (("OR,((DST-PORT,22),(DID-SUFFIX,home.example)),leaf",), "REJECT"),
        (("OR,((IN-TYPE,RTCP),(DID-SUFFIX,home.example)),leaf",), "leaf"),
        (("NOT,((DID,other.home.example)),leaf",), "REJECT"),
        (("AND,((NOT,((DID,other.home.example))),(DST-PORT,22)),leaf",), "REJECT"),
        (("SUB-RULE,(ZONE,home.example),inside",), "leaf"),
        (("SUB-RULE,(DST-PORT,22),inside",), "REJECT"),
    ],
)
@pytest.mark.parametrize("mode", ["rule", "direct", "global"])
def test_only_what_speaks_of_peers_lets_them_go_anywhere(lines: tuple[str, ...], leaf: str, mode: str) -> None:
    one = router(table(*lines, inside=["MATCH,leaf"]), mode=mode, routes={"x": Way("module")})
    for _ in range(2):
        found = one.route(ASKED)
        assert isinstance(found, Decision)
        assert found.leaf.name == leaf


def test_whoever_is_no_peer_is_not_hindered_and_leaves_no_open_door_behind() -> None:
    """A verdict is one object for all flows; what was decided by it for others is nothing to peers."""
    one = router(table("MATCH,leaf"))
    for flow, leaf in ((WEB, "leaf"), (ASKED, "REJECT"), (WEB, "leaf")):
        found = one.route(flow)
        assert isinstance(found, Decision)
        assert found.leaf.name == leaf
    refused = one.route(ASKED)
    assert isinstance(refused, Decision)
    assert [passed.why for passed in refused.passed] == ["it does not speak of peers"]


def test_peers_reach_no_names_of_modules() -> None:
    one = router(table("MATCH,leaf"), routes={"health.test": Way("module")})
    found = one.route(replace(ASKED, host="health.test", dst_ip=""))
    assert isinstance(found, Decision)
    assert found.leaf.name == "REJECT"
