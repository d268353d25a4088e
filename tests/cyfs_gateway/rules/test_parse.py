"""Rule lines: each type by example, what is refused and with which advice, and no third way out."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_gateway.rules.model import TYPE_NAMES, Cidr, InSet, Rule
from cyfs_gateway.rules.parse import MAX_DEPTH, MAX_TEXT, RuleFault, parse_condition, parse_rule
from cyfs_ns.errors import ConfigFault

# the first public key of RFC 8032 section 7.1
KEY = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
IN_BASE32 = "25njqamcweflpvkl73j4szahhihoc4xt3ktcgjnpaingr5yhkena"

# line, type and payload as GET /rules shows them, outbound
EXAMPLES = [
    ("DOMAIN,WWW.Example.com,PROXY", "Domain", "www.example.com", "PROXY"),
    ("DOMAIN,bücher.example,PROXY", "Domain", "xn--bcher-kva.example", "PROXY"),
    ("DOMAIN,example.com.,PROXY", "Domain", "example.com", "PROXY"),
    ("DOMAIN-SUFFIX,Google.com,PROXY", "DomainSuffix", "google.com", "PROXY"),
    ("DOMAIN-SUFFIX,.google.com,PROXY", "DomainSuffix", "google.com", "PROXY"),
    ("DOMAIN-SUFFIX,中国,PROXY", "DomainSuffix", "xn--fiqs8s", "PROXY"),
    ("DOMAIN-KEYWORD,Google,PROXY", "DomainKeyword", "google", "PROXY"),
    ("DOMAIN-WILDCARD,*.Google.c?m,PROXY", "DomainWildcard", "*.google.c?m", "PROXY"),
    (r"DOMAIN-REGEX,^a{1,2}\.com$,PROXY", "DomainRegex", r"^a{1,2}\.com$", "PROXY"),
    ("GEOSITE,google@ads,PROXY", "GeoSite", "google@ads", "PROXY"),
    ("GEOIP,CN,DIRECT,no-resolve", "GeoIP", "cn", "DIRECT"),
    ("GEOIP,CN,DIRECT,src", "SrcGeoIP", "cn", "DIRECT"),
    ("SRC-GEOIP,cn,DIRECT", "SrcGeoIP", "cn", "DIRECT"),
    ("IP-ASN,13335,DIRECT", "IPASN", "13335", "DIRECT"),
    ("SRC-IP-ASN,9808,DIRECT", "SrcIPASN", "9808", "DIRECT"),
    ("IP-CIDR,127.0.0.0/8,DIRECT,no-resolve", "IPCIDR", "127.0.0.0/8", "DIRECT"),
    ("IP-CIDR6,2620:0:2d0:200::7/32,DIRECT", "IPCIDR", "2620:0:2d0:200::7/32", "DIRECT"),
    ("IP-CIDR,::ffff:192.0.2.0/120,DIRECT", "IPCIDR", "192.0.2.0/24", "DIRECT"),
    ("SRC-IP-CIDR,192.168.1.201/32,DIRECT", "SrcIPCIDR", "192.168.1.201/32", "DIRECT"),
    ("IP-SUFFIX,8.8.8.8/24,PROXY", "IPSuffix", "8.8.8.8/24", "PROXY"),
    ("SRC-IP-SUFFIX,192.168.1.201/8,DIRECT", "SrcIPSuffix", "192.168.1.201/8", "DIRECT"),
    ("SRC-PORT,7777,DIRECT", "SrcPort", "7777", "DIRECT"),
    ("DST-PORT,80/443/8010-8000,DIRECT", "DstPort", "80/443/8000-8010", "DIRECT"),
    ("IN-PORT,7890,PROXY", "InPort", "7890", "PROXY"),
    ("IN-TYPE,socks/http,PROXY", "InType", "SOCKS/HTTP", "PROXY"),
    ("IN-USER,mihomo/joe,PROXY", "InUser", "mihomo/joe", "PROXY"),
    ("IN-NAME,ss,PROXY", "InName", "ss", "PROXY"),
    ("REMATCH-NAME,again,PROXY", "RematchName", "again", "PROXY"),
    ("PROCESS-NAME,curl,PROXY", "ProcessName", "curl", "PROXY"),
    ("PROCESS-NAME-REGEX,curl$,PROXY", "ProcessNameRegex", "curl$", "PROXY"),
    ("PROCESS-NAME-WILDCARD,cur?,PROXY", "ProcessNameWildcard", "cur?", "PROXY"),
    ("PROCESS-PATH,/usr/bin/wget,PROXY", "ProcessPath", "/usr/bin/wget", "PROXY"),
    ("PROCESS-PATH-REGEX,.*bin/wget,PROXY", "ProcessPathRegex", ".*bin/wget", "PROXY"),
    ("PROCESS-PATH-WILDCARD,/usr/*,PROXY", "ProcessPathWildcard", "/usr/*", "PROXY"),
    ("UID,1001/2000-3000,DIRECT", "Uid", "1001/2000-3000", "DIRECT"),
    ("NETWORK,UDP,DIRECT", "Network", "udp", "DIRECT"),
    ("DSCP,4/10-12,DIRECT", "DSCP", "4/10-12", "DIRECT"),
    ("DID,did:web:NAS.home.example,PROXY", "DID", "did:web:nas.home.example", "PROXY"),
    ("DID,nas.home.example,PROXY", "DID", "did:web:nas.home.example", "PROXY"),
    (f"DID,{IN_BASE32}.dev.did,PROXY", "DID", f"did:dev:{KEY}", "PROXY"),
    ("DID-SUFFIX,.Home.example,PROXY", "DIDSuffix", "home.example", "PROXY"),
    ("OWNER,did:bns:alice,PROXY", "Owner", "did:bns:alice", "PROXY"),
    ("ZONE,home.example,PROXY", "Zone", "did:web:home.example", "PROXY"),
    ("TRUST,Owner-Signed,PROXY", "Trust", "owner-signed", "PROXY"),
    ("RULE-SET,providername,proxy,no-resolve", "RuleSet", "providername", "proxy"),
    (
        "AND,((DOMAIN-SUFFIX,baidu.com),(NETWORK,UDP)),DIRECT",
        "AND",
        "((DomainSuffix,baidu.com) && (Network,udp))",
        "DIRECT",
    ),
    ("OR,((NETWORK,UDP), (DOMAIN,baidu.com)),REJECT", "OR", "((Network,udp) || (Domain,baidu.com))", "REJECT"),
    ("NOT,((DOMAIN,baidu.com)),PROXY", "NOT", "(!(Domain,baidu.com))", "PROXY"),
    ("SUB-RULE,(NETWORK,tcp),sub-rule", "SubRules", "(NETWORK,tcp)", "sub-rule"),
    ("MATCH,auto", "Match", "", "auto"),
]


@pytest.mark.parametrize(("line", "type", "payload", "outbound"), EXAMPLES, ids=[case[0][:30] for case in EXAMPLES])
def test_a_rule_of_every_type_shows_itself_as_clash_would(line, type, payload, outbound):
    rule = parse_rule(line)
    assert (rule.type, rule.payload, rule.outbound) == (type, payload, outbound)
    assert parse_rule(str(rule)) == rule


@pytest.mark.parametrize(
    ("line", "payload"),
    [
        ("DID,alice.web3.example,A", "did:bns:alice"),
        ("DID,ood1.alice.Web3.Example.,A", "did:bns:ood1.alice"),
        ("OWNER,alice.web3.example,A", "did:bns:alice"),
        ("ZONE,alice.web3.example,A", "did:bns:alice"),
        ("ZONE,home.example,A", "did:web:home.example"),
        ("DID-SUFFIX,alice.web3.example,A", "alice.web3.example"),
        ("DID-SUFFIX,alice.bns.did,A", "alice.web3.example"),
        ("DID-SUFFIX,bns.did,A", "web3.example"),
        (
            "AND,((OWNER,alice.web3.example),(NOT,((ZONE,bob.web3.example)))),A",
            "((Owner,did:bns:alice) && (NOT,(!(Zone,did:bns:bob))))",
        ),
    ],
)
def test_a_host_below_a_bridge_is_a_name_of_its_method(line, payload):
    rule = parse_rule(line, {"bns": "web3.example"})
    assert rule.payload == payload
    assert parse_rule(str(rule), {"bns": "web3.example"}) == rule


def test_the_examples_leave_no_type_out():
    assert {parse_rule(line).word for line, *_ in EXAMPLES} == set(TYPE_NAMES)


def test_the_option_src_turns_to_the_source_and_never_resolves():
    rule = parse_rule("IP-CIDR,10.0.0.0/8,A,src")
    assert isinstance(rule, Cidr)
    assert rule.src and not rule.asks
    assert parse_rule("SRC-IP-CIDR,10.0.0.0/8,A") == rule
    in_set = parse_rule("RULE-SET,x,A,src,no-resolve")
    assert isinstance(in_set, InSet)
    assert in_set.swap and not in_set.no_resolve


def test_blanks_and_the_case_of_types_do_not_count():
    assert parse_rule(" domain-suffix , a.b ,  My Proxy ") == parse_rule("DOMAIN-SUFFIX,a.b,My Proxy")


def test_options_that_mean_nothing_are_kept_for_a_warning():
    rule = parse_rule("DOMAIN,a.b,A,no-resolve,force")
    assert rule.ignored == ("no-resolve", "force")
    assert rule == parse_rule("DOMAIN,a.b,A")
    assert parse_rule("IP-CIDR,10.0.0.0/8,A,noresolve").ignored == ("noresolve",)


def test_logic_nests_and_takes_regexes_with_brackets_and_commas():
    rule = parse_rule(r"AND,((OR,((DOMAIN-REGEX,^(a|b){1,2}\.c$),(NOT,((NETWORK,tcp))))),(DST-PORT,443)),A")
    assert rule.payload == r"((OR,((DomainRegex,^(a|b){1,2}\.c$) || (NOT,(!(Network,tcp))))) && (DstPort,443))"
    assert str(rule) == r"AND,((OR,((DOMAIN-REGEX,^(a|b){1,2}\.c$),(NOT,((NETWORK,tcp))))),(DST-PORT,443)),A"


def test_a_condition_has_no_outbound():
    assert parse_condition("IP-CIDR,10.0.0.0/8,no-resolve") == Cidr(
        word="IP-CIDR", prefix=parse_rule("IP-CIDR,10.0.0.0/8,x").prefix, no_resolve=True
    )


REFUSED = [
    ("", "unknown rule type"),
    ("HOST,a.b,A", "unknown rule type"),
    ("DOMAIN", "no payload"),
    ("DOMAIN,,A", "needs a payload"),
    ("DOMAIN,a.b", "names no outbound"),
    ("DOMAIN,a.b,", "names no outbound"),
    ("MATCH", "MATCH,<outbound>"),
    ("MATCH,,x", "names no outbound"),
    ("DOMAIN,\u200d.x,A", "not a domain name"),
    ("DOMAIN-REGEX,(a,A", "no regex"),
    (r"PROCESS-NAME-REGEX,(a)\2,A", "no regex"),
    ("IP-CIDR,10.0.0.0,A", "address/bits"),
    ("IP-CIDR,10.0.0.0/33,A", "address/bits"),
    ("IP-CIDR,10.0.0.0/08,A", "address/bits"),
    ("IP-CIDR,fe80::1%eth0/64,A", "address/bits"),
    ("IP-ASN,AS13335,A", "bare number"),
    ("DST-PORT,65536,A", "0-65535"),
    ("DST-PORT,1-2-3,A", "ranges"),
    ("DST-PORT,/,A", "lists no number"),
    ("DSCP,64,A", "0-63"),
    ("UID,-5,A", "ranges"),
    ("UID,٣,A", "ranges"),
    ("NETWORK,icmp,A", "tcp or udp"),
    ("IN-TYPE,FAX,A", "IN-TYPE does not know"),
    ("AND,((DOMAIN,a.b),(NETWORK,tcp))", "names no outbound"),
    ("AND,(DOMAIN,a.b),A", "outside brackets"),
    ("AND,((DOMAIN,a.b),A", "balanced"),
    ("AND,((DOMAIN,a.b)))),A", "balanced"),
    ("AND,(),A", "holds no condition"),
    ("AND,((MATCH,x)),A", "cannot stand inside"),
    ("NOT,((DOMAIN,a),(DOMAIN,b)),A", "one condition"),
    ("SUB-RULE,NETWORK,tcp,A", "in brackets"),
    ("SUB-RULE,(SUB-RULE,(NETWORK,tcp)),A", "cannot stand inside"),
    ("DID,did:dev:abc,A", "DID takes a DID such as did:web:home.example"),
    (f"DID,{'a' * 43}.dev.did,A", "52 characters"),
    ("DID,did:web:192.0.2.1,A", "a host name is needed"),
    ("OWNER,did:,A", "OWNER takes a DID"),
    ("ZONE,a..b,A", "ZONE takes a DID"),
    ("DID-SUFFIX,a b,A", "DID-SUFFIX takes the end of a host name"),
    ("DID-SUFFIX,did:web:home.example,A", "DID-SUFFIX takes the end of a host name"),
    ("TRUST,owner,A", "no level of trust; they are .*owner-signed"),
    ("DOMAIN," + "a" * MAX_TEXT + ",A", "too long"),
    ("AND," + "((AND," * MAX_DEPTH + "((NETWORK,tcp))" + "))" * MAX_DEPTH + ",A", "nest at most"),
]


@pytest.mark.parametrize(("line", "advice"), REFUSED, ids=[case[0][:30] for case in REFUSED])
def test_a_bad_rule_is_refused_with_a_reason(line, advice):
    with pytest.raises(RuleFault, match=advice) as caught:
        parse_rule(line)
    assert isinstance(caught.value, ConfigFault)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("line", ["MATCH,x", "RULE-SET,x", "SUB-RULE,(NETWORK,tcp),x"])
def test_a_rule_set_holds_plain_conditions_only(line):
    with pytest.raises(RuleFault, match="no place inside a rule set"):
        parse_condition(line)


PIECES = st.lists(
    st.one_of(
        st.sampled_from(
            [*TYPE_NAMES, ",", ",", "(", ")", "((", "))", "/", "-", "a.b", "10.0.0.0/8", "1-2", "tcp", "src", "ü"]
        ),
        st.text(max_size=4),
    ),
    max_size=14,
).map("".join)


@settings(max_examples=200, deadline=None)
@given(st.one_of(PIECES, st.tuples(st.sampled_from(sorted(TYPE_NAMES)), PIECES).map(",".join), st.text()))
def test_any_text_is_a_rule_or_a_fault(text):
    for parse in (parse_rule, parse_condition):
        try:
            rule = parse(text)
        except RuleFault:
            continue
        assert isinstance(rule, Rule)
        assert rule.type and isinstance(str(rule), str)
