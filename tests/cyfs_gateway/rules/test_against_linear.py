"""The compiled table and the slow reading of the same rules give the same answer to everything."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_gateway.flow import Flow, Identity
from cyfs_gateway.rules.formats import inline_rule_set, parse_rule_set
from cyfs_gateway.rules.model import Need
from cyfs_gateway.rules.parse import parse_condition, parse_rule
from cyfs_gateway.rules.table import RuleTable
from cyfs_ns.address import parse_address
from cyfs_ns.sets import CidrSet, DomainSet, HostSet, SuccinctTrie
from cyfs_ns.trust.level import Trust
from tests.cyfs_gateway.rules.linear import Linear, in_domains
from tests.cyfs_gateway.rules.mrs_writer import domain_mrs

# few values, so that flows meet rules often
LABELS = st.sampled_from(["a", "b", "cc", "www", "com"])
HOSTS = st.lists(LABELS, min_size=1, max_size=4).map(".".join)
IPS = st.sampled_from(
    ["10.0.0.1", "10.0.1.1", "11.0.0.1", "1.1.1.1", "127.0.0.1", "224.0.0.5", "2001:db8::1", "2001:db8:1::1", "fe80::1"]
)
PREFIXES = st.builds(
    lambda ip, cut: f"{ip}/{max(ipaddress.ip_address(ip).max_prefixlen - cut, 0)}", IPS, st.integers(0, 40)
)
PORTS = st.integers(0, 6)
RANGES = st.lists(
    st.one_of(PORTS.map(str), st.tuples(PORTS, PORTS).map(lambda ends: f"{ends[0]}-{ends[1]}")), min_size=1, max_size=3
).map("/".join)
NAMES = st.sampled_from(["curl", "Curl", "ssh", "/usr/bin/curl", "x"])
REGEXES = st.sampled_from(["^a", "com$", r"^(a|b)\.", "C{2}", r"w+\.com", "zz"])
WILDCARDS = st.sampled_from(["*", "a*", "*.com", "?.com", "*b*", "cur?", "/usr/*/curl"])
DIDS = st.sampled_from(
    ["did:web:home.example", "did:web:ood1.home.example", "did:dev:11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"]
)
OPTIONS = st.sampled_from(["", ",no-resolve", ",src", ",src,no-resolve"])
ENTRIES = st.one_of(
    HOSTS,
    HOSTS.map(lambda host: "+." + host),
    HOSTS.map(lambda host: "." + host),
    st.tuples(st.sampled_from(["", "+.", "."]), st.lists(st.one_of(LABELS, st.just("*")), min_size=1, max_size=4)).map(
        lambda made: made[0] + ".".join(made[1])
    ),
)

DOMAIN_SET = ["+.a.com", "*.b.com", "cc.www"]
CIDR_SET = ["10.0.0.0/24", "2001:db8::/48", "1.1.1.1/32"]
CLASSICAL = ["DOMAIN,a.com", "IP-CIDR,10.0.0.0/16", "PROCESS-NAME,ssh", "SRC-PORT,3", "DST-PORT,4,no-resolve"]
SITES = {"ads": ["+.b", "a.cc.com"]}
COUNTRIES = {"10.0.0.0/15": "zz", "2001:db8::/32": "yy", "1.1.1.0/24": "zz"}
SYSTEMS = {"1.0.0.0/8": "13335", "10.0.1.0/24": "64512"}


def leaves(kinds: Sequence[str] = ()) -> st.SearchStrategy[str]:
    made = {
        "DOMAIN": HOSTS,
        "DOMAIN-SUFFIX": HOSTS,
        "DOMAIN-KEYWORD": st.sampled_from(["a", "c", "w.c", "om", "b.a"]),
        "DOMAIN-REGEX": REGEXES,
        "DOMAIN-WILDCARD": WILDCARDS,
        "GEOSITE": st.just("ads"),
        "GEOIP": st.tuples(st.sampled_from(["zz", "YY", "LAN"]), OPTIONS).map("".join),
        "SRC-GEOIP": st.sampled_from(["zz", "LAN"]),
        "IP-ASN": st.tuples(st.sampled_from(["13335", "64512"]), OPTIONS).map("".join),
        "SRC-IP-ASN": st.just("64512"),
        "IP-CIDR": st.tuples(PREFIXES, OPTIONS).map("".join),
        "IP-CIDR6": st.tuples(PREFIXES, OPTIONS).map("".join),
        "SRC-IP-CIDR": PREFIXES,
        "IP-SUFFIX": st.tuples(PREFIXES, OPTIONS).map("".join),
        "SRC-IP-SUFFIX": PREFIXES,
        "SRC-PORT": RANGES,
        "DST-PORT": RANGES,
        "IN-PORT": RANGES,
        "IN-TYPE": st.sampled_from(["SOCKS", "http/SOCKS4", "tproxy", "SOCKS5"]),
        "IN-USER": st.sampled_from(["joe", "joe/ann"]),
        "IN-NAME": st.sampled_from(["lan", "lan/wan"]),
        "REMATCH-NAME": st.just("again"),
        "PROCESS-NAME": NAMES,
        "PROCESS-PATH": NAMES,
        "PROCESS-NAME-REGEX": st.just("^cu"),
        "PROCESS-PATH-REGEX": st.just("bin/"),
        "PROCESS-NAME-WILDCARD": WILDCARDS,
        "PROCESS-PATH-WILDCARD": WILDCARDS,
        "UID": RANGES,
        "NETWORK": st.sampled_from(["tcp", "UDP"]),
        "DSCP": RANGES,
        "DID": DIDS,
        "DID-SUFFIX": st.sampled_from(["home.example", ".home.example", "example", "ome.example", "ood1.home.example"]),
        "OWNER": DIDS,
        "ZONE": DIDS,
        "TRUST": st.sampled_from(["none", "quorum", "key-proven", "OWNER-signed"]),
        "RULE-SET": st.tuples(st.sampled_from(["names", "nets", "mixed"]), OPTIONS).map("".join),
    }
    return st.sampled_from(sorted(kinds or made)).flatmap(
        lambda word: made[word].map(lambda payload: f"{word},{payload}")
    )


def combined(plain: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.recursive(
        plain,
        lambda inner: st.one_of(
            st.tuples(st.sampled_from(["AND", "AND", "OR"]), st.lists(inner, min_size=1, max_size=3)).map(
                lambda made: f"{made[0]},({','.join(f'({part})' for part in made[1])})"
            ),
            inner.map(lambda part: f"NOT,(({part}))"),
        ),
        max_leaves=4,
    )


CONDITIONS = combined(leaves())
FEW = combined(
    st.sampled_from(
        [
            *(
                "NETWORK,tcp",
                "DOMAIN,a.com",
                "DOMAIN-SUFFIX,com",
                "DST-PORT,1-3",
                "PROCESS-NAME,curl",
                "RULE-SET,mixed",
            ),
            *("IP-CIDR,10.0.0.0/8", "IP-CIDR,10.0.0.0/8,no-resolve", "SRC-IP-CIDR,10.0.0.0/8", "GEOIP,zz"),
        ]
    )
)
OUTBOUNDS = st.sampled_from(["A", "B", "C"])


def with_outbound(made: tuple[str, str]) -> str:
    condition, outbound = made
    if condition.startswith(("AND", "OR", "NOT")) or "REGEX" in condition.split(",")[0]:
        return f"{condition},{outbound}"
    word, payload, *options = condition.split(",")
    return ",".join((word, payload, outbound, *options))


PLAIN = st.tuples(CONDITIONS, OUTBOUNDS).map(with_outbound)
MATCH = OUTBOUNDS.map("MATCH,{}".format)


def leading_to(*lists: str) -> st.SearchStrategy[str]:
    return st.tuples(CONDITIONS, st.sampled_from(lists)).map(lambda made: f"SUB-RULE,({made[0]}),{made[1]}")


RULES = st.lists(st.one_of(PLAIN, PLAIN, PLAIN, leading_to("one", "two"), MATCH), max_size=12)
LISTS = st.fixed_dictionaries(
    {
        "one": st.lists(st.one_of(PLAIN, PLAIN, leading_to("two")), max_size=5),
        "two": st.lists(st.one_of(PLAIN, PLAIN, MATCH), max_size=5),
    }
)
FLOWS = st.builds(
    Flow,
    network=st.sampled_from(["tcp", "udp"]),
    kind=st.sampled_from(["HTTP", "Socks5", "Socks4", "TProxy"]),
    src_ip=IPS,
    src_port=PORTS,
    host=st.one_of(st.just(""), HOSTS, HOSTS),
    dst_ip=st.one_of(st.just(""), IPS),
    dst_port=PORTS,
    in_name=st.sampled_from(["", "lan"]),
    in_port=PORTS,
    in_user=st.sampled_from(["", "joe", "ann"]),
    sniff_host=st.one_of(st.just(""), st.just(""), HOSTS),
    dscp=PORTS,
    process=st.one_of(st.just(""), NAMES),
    process_path=st.one_of(st.just(""), NAMES),
    uid=st.one_of(st.just(-1), PORTS),
    rematch=st.sampled_from(["", "again"]),
    identity=st.one_of(
        st.none(),
        st.builds(
            Identity,
            did=DIDS,
            host=st.sampled_from(["", "home.example", "ood1.home.example", "x.ood1.home.example", "other.example"]),
            owner=st.one_of(st.just(""), DIDS),
            zone=st.one_of(st.just(""), DIDS),
            trust=st.sampled_from(Trust),
        ),
    ),
)


class Geo:
    """The same little tables as ``Linear`` has; ``by_code`` answers as geoip.dat would."""

    def __init__(self, by_code: bool) -> None:
        self._by_code = by_code

    def country(self, ip: str) -> Sequence[str]:
        return [code for net, code in COUNTRIES.items() if ipaddress.ip_address(ip) in ipaddress.ip_network(net)]

    def country_set(self, code: str) -> CidrSet | None:
        if not self._by_code:
            return None
        return inline_rule_set([net for net, place in COUNTRIES.items() if place == code], "ipcidr").cidrs

    def asn(self, ip: str) -> str:
        return next((asn for net, asn in SYSTEMS.items() if ipaddress.ip_address(ip) in ipaddress.ip_network(net)), "")

    def site(self, category: str) -> HostSet:
        return DomainSet(entry.encode() for entry in SITES[category])


LINEAR = Linear(
    domain_sets={"names": DOMAIN_SET},
    cidr_sets={"nets": CIDR_SET},
    classical_sets={"mixed": [parse_condition(line) for line in CLASSICAL]},
    sites=SITES,
    countries=COUNTRIES,
    systems=SYSTEMS,
)
SETS = {
    "names": inline_rule_set(DOMAIN_SET, "domain"),
    "nets": inline_rule_set(CIDR_SET, "ipcidr"),
    "mixed": inline_rule_set(CLASSICAL, "classical"),
}


def agree(
    lines: Sequence[str], lists: Mapping[str, Sequence[str]], flows: Sequence[Flow], off: set[int], by_code: bool
) -> None:
    rules = [parse_rule(line) for line in lines]
    sub_rules = {name: [parse_rule(line) for line in content] for name, content in lists.items()}
    linear = replace(LINEAR, sub_rules=sub_rules)
    table = RuleTable.compile(rules, sub_rules=sub_rules, sets=SETS, geo=Geo(by_code))
    table.disable(dict.fromkeys(off, True))
    for flow in flows:
        for start in range(len(rules) + 1):
            for resolved, known in ((False, False), (True, False), (False, True), (True, True)):
                expected = linear.answer(rules, flow, start, resolved, known, off)
                got = table.match(flow, start, resolved, known)
                if isinstance(got, Need):
                    assert (got.at, "?" + got.what) == expected
                elif got.index < 0:
                    assert expected is None
                    assert got.outbound == "DIRECT"
                else:
                    assert (got.index, got.outbound) == expected
                    assert got.type == rules[got.index].type


@settings(max_examples=200, deadline=None)
@given(RULES, LISTS, st.lists(FLOWS, min_size=1, max_size=6), st.sets(st.integers(0, 11), max_size=3), st.booleans())
def test_the_table_decides_as_reading_one_rule_after_another_does(lines, lists, flows, off, by_code):
    agree(lines, lists, flows, off, by_code)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(FEW, OUTBOUNDS).map(with_outbound), min_size=1, max_size=8),
    st.lists(FLOWS, min_size=6, max_size=12),
    st.sets(st.integers(0, 11), max_size=1),
)
def test_rules_that_share_their_keys_are_told_apart(lines, flows, off):
    met = [
        replace(flow, host=host, dst_ip=ip, sniff_host="", process=process, process_path="", uid=-1)
        for flow, (host, ip, process) in zip(
            flows, [("a.com", "", ""), ("a.com", "10.0.0.1", ""), ("", "10.0.0.1", "curl")] * 4, strict=False
        )
    ]
    agree(lines, {}, [*met, *flows], off, False)


@settings(max_examples=200, deadline=None)
@given(st.lists(ENTRIES, min_size=1, max_size=8), st.lists(HOSTS, min_size=1, max_size=8))
def test_both_tries_hold_what_the_entries_say(entries, hosts):
    from_text = parse_rule_set("\n".join(entries).encode(), "domain", "text").domains
    from_mrs = parse_rule_set(domain_mrs(entries), "domain", "mrs").domains
    assert isinstance(from_text, DomainSet)
    assert isinstance(from_mrs, SuccinctTrie)
    assert len(from_text) == len(from_mrs) == len(entries)
    for host in hosts:
        expected = any(in_domains(entry, host) for entry in entries)
        assert from_text.match(host) == expected
        assert from_mrs.match(host) == expected


@settings(max_examples=200, deadline=None)
@given(st.lists(PREFIXES, max_size=8), st.lists(IPS, min_size=1))
def test_merged_ranges_hold_what_the_prefixes_hold(prefixes, ips):
    cidrs = parse_rule_set("\n".join(prefixes).encode(), "ipcidr", "text").cidrs
    assert cidrs is not None
    for ip in ips:
        address = parse_address(ip)
        assert address is not None
        expected = any(ipaddress.ip_address(ip) in ipaddress.ip_network(net, strict=False) for net in prefixes)
        assert cidrs.has(address) == expected


@settings(max_examples=200, deadline=None)
@given(st.one_of(PLAIN, MATCH, leading_to("one")))
def test_a_printed_rule_parses_to_itself(line):
    rule = parse_rule(line)
    assert parse_rule(str(rule)) == rule
