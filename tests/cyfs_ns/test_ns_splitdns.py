from __future__ import annotations

import ipaddress
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_ns.config.dns import DnsConfig, FallbackFilter
from cyfs_ns.errors import ConfigFault
from cyfs_ns.splitdns import NOBODY, SplitDns, Suspicion, dnsmasq_server, read_servers
from cyfs_ns.strategy import Strategy
from cyfs_ns.upstream import SYSTEM, Upstream


def hosts(split: SplitDns, name: str) -> list[str] | None:
    group = split.choose(name)
    return None if group is None else [server.host for server in group.servers]


# --- dnsmasq's forms -------------------------------------------------------------------------------------------------


def test_the_most_specific_domain_wins() -> None:
    split = SplitDns(forms=["/google.com/1.2.3.4", "/www.google.com/2.3.4.5", "/deep.www.google.com/#"])
    assert hosts(split, "google.com") == hosts(split, "gmail.google.com") == ["1.2.3.4"]
    assert hosts(split, "www.google.com") == hosts(split, "x.www.google.com") == ["2.3.4.5"]
    assert split.choose("deep.www.google.com") is None
    assert split.choose("supergoogle.com") is None
    assert split.choose("com") is None


def test_a_star_takes_names_that_end_so_and_gives_way_to_labels() -> None:
    split = SplitDns(forms=["/google.com/1.1.1.1", "/*google.com/2.2.2.2", "/*.lan/3.3.3.3", "/com/4.4.4.4"])
    assert hosts(split, "www.google.com") == ["1.1.1.1"]
    assert hosts(split, "supergoogle.com") == ["2.2.2.2"]
    assert hosts(split, "a.lan") == ["3.3.3.3"]
    assert split.choose("lan") is None
    assert hosts(split, "other.com") == ["4.4.4.4"]


def test_no_server_means_nobody_is_asked() -> None:
    split = SplitDns(forms=["/lan/", "/home.arpa/corp/", "/srv.lan/10.0.0.1"])
    for name in ("lan", "nas.lan", "a.corp", "home.arpa"):
        assert split.choose(name) is NOBODY
    assert hosts(split, "srv.lan") == ["10.0.0.1"]


def test_unqualified_and_all_names() -> None:
    split = SplitDns(forms=["//10.0.0.1", "/#/10.0.0.2"])
    assert hosts(split, "printer") == ["10.0.0.1"]
    assert hosts(split, "www.example") == ["10.0.0.2"]
    assert SplitDns(forms=["//"]).choose("printer") is NOBODY
    assert SplitDns(forms=["//#", "/#/1.1.1.1"]).choose("printer") is None


def test_several_servers_for_one_domain_and_standard_ones() -> None:
    split = SplitDns(forms=["/lan/10.0.0.1", "/lan/10.0.0.2", "9.9.9.9#99", "tls://1.1.1.1"])
    assert hosts(split, "a.lan") == ["10.0.0.1", "10.0.0.2"]
    assert [(server.scheme, server.port) for server in split.standard] == [("udp", 99), ("tls", 853)]


def test_names_in_other_scripts_are_left_to_their_servers_as_the_wire_has_them() -> None:
    policy = [("+.bücher.example,Straße.EXAMPLE.", ["192.0.2.2"])]
    split = SplitDns(policy=policy, forms=["/müller.example/192.0.2.3"])
    assert set(split.elsewhere) == {"xn--bcher-kva.example", "xn--strae-oqa.example", "xn--mller-kva.example"}
    assert [hosts(split, name) for name in split.elsewhere] == [["192.0.2.3"], ["192.0.2.2"], ["192.0.2.2"]]


def test_the_same_servers_are_one_group() -> None:
    split = SplitDns(forms=["/a/10.0.0.1", "/b/10.0.0.1"])
    assert split.choose("a") is split.choose("b")
    assert len(split.groups) == 1


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("1.2.3.4", Upstream(scheme="udp", host="1.2.3.4", port=53)),
        ("1.2.3.4#5353", Upstream(scheme="udp", host="1.2.3.4", port=5353)),
        ("1.2.3.4@eth1", Upstream(scheme="udp", host="1.2.3.4", port=53, via="eth1")),
        ("1.2.3.4@10.0.0.1", Upstream(scheme="udp", host="1.2.3.4", port=53, source=("10.0.0.1", 0))),
        (
            "1.2.3.4#54@eth1@10.0.0.1#99",
            Upstream(scheme="udp", host="1.2.3.4", port=54, via="eth1", source=("10.0.0.1", 99)),
        ),
        ("fe80::1%eth0#54", Upstream(scheme="udp", host="fe80::1%eth0", port=54)),
        ("dns.example", Upstream(scheme="udp", host="dns.example", port=53)),
        ("https://dns.example/q#PROXY", Upstream(scheme="https", host="dns.example", port=443, path="/q", via="PROXY")),
    ],
)
def test_servers_as_dnsmasq_writes_them(text: str, meant: Upstream) -> None:
    assert dnsmasq_server(text) == meant
    assert SplitDns(forms=[f"/a.example/b.example/{text}"]).choose("x.b.example").servers == (meant,)  # type: ignore[union-attr]


@pytest.mark.parametrize("form", ["/lan/1.2.3.4#x", "/lan/1.2.3.4#99999", "/l an/1.1.1.1", "/lan/a b", "", "#"])
def test_what_is_no_form_is_refused(form: str) -> None:
    with pytest.raises(ConfigFault):
        SplitDns(forms=[form])


@settings(max_examples=200)
@given(st.lists(st.text(st.sampled_from("/#*@.:a1b"), max_size=20), max_size=4), st.sampled_from(["a.b", "b", "a.a.b"]))
def test_any_forms_are_compiled_or_refused(forms: list[str], name: str) -> None:
    try:
        split = SplitDns(forms=forms)
    except ConfigFault:
        return
    split.choose(name)


# --- Clash's policies ------------------------------------------------------------------------------------------------


def sets(**named: set[str]) -> Callable[[str], Callable[[str], bool]]:
    known = {key.replace("__", ":").replace("_", "-"): value for key, value in named.items()}

    def find(name: str) -> Callable[[str], bool]:
        if name not in known:
            raise ConfigFault(f"no set {name}")
        return known[name].__contains__

    return find


def test_patterns_between_sets_are_one_table_and_sets_keep_their_place() -> None:
    split = SplitDns(
        [
            ("+.example.com,other.example", ["1.1.1.1"]),
            ("www.example.com", ["2.2.2.2"]),
            ("geosite:cn,ads", ["3.3.3.3", "4.4.4.4"]),
            ("rule-set:mine", ["5.5.5.5"]),
            ("late.example", ["6.6.6.6"]),
        ],
        sets=sets(geosite__cn={"late.example", "a.cn"}, geosite__ads={"ad.cn"}, rule_set__mine={"my.own", "a.cn"}),
    )
    assert hosts(split, "a.example.com") == hosts(split, "other.example") == ["1.1.1.1"]
    assert hosts(split, "www.example.com") == ["2.2.2.2"], "most specific, although written later"
    assert hosts(split, "late.example") == ["3.3.3.3", "4.4.4.4"], "the set stands before the pattern"
    assert hosts(split, "ad.cn") == ["3.3.3.3", "4.4.4.4"]
    assert hosts(split, "my.own") == ["5.5.5.5"]
    assert split.choose("nobody.knows") is None


def test_servers_bring_their_weights() -> None:
    split = SplitDns(forms=["/lan/udp://10.0.0.1#weight=3", "/lan/10.0.0.2"], strategy=Strategy("weighted"))
    group = split.choose("lan")
    assert group is not None and group.strategy == Strategy("weighted", weights=(3.0, 1.0))


def test_policies_come_before_forms_and_rcode_is_a_server() -> None:
    split = SplitDns([("+.ads.example", ["rcode://success"])], ["/example/10.0.0.1"])
    assert hosts(split, "x.ads.example") == ["success"]
    assert hosts(split, "y.example") == ["10.0.0.1"]


def test_a_set_nobody_has_is_a_fault() -> None:
    with pytest.raises(ConfigFault, match="geosite:cn"):
        SplitDns([("geosite:cn", ["1.1.1.1"])])


# --- fallback --------------------------------------------------------------------------------------------------------


def test_answers_without_or_with_odd_addresses_are_suspicious() -> None:
    written = FallbackFilter(geoip=True, geoip_code="CN", ipcidr=(ipaddress.ip_network("240.0.0.0/4"),))
    suspicion = Suspicion(written, geoip=lambda address, code: code == "CN" and address.startswith("1."))
    assert suspicion.of_addresses([])
    assert not suspicion.of_addresses(["1.0.0.1", "1.2.3.4"])
    assert suspicion.of_addresses(["1.0.0.1", "8.8.8.8"])
    assert suspicion.of_addresses(["240.0.0.1"])
    for near in ("192.168.1.1", "100.64.0.1", "0.0.0.0", "127.0.0.1", "198.18.0.1", "fd00::1", "fe80::1", "::"):
        assert not suspicion.of_addresses([near]), "of no country"
    for far in ("224.0.0.1", "255.255.255.255", "2002:808:808::1", "2001:4860::8888", "4000::1"):
        assert suspicion.of_addresses([far])


def test_without_a_country_only_the_prefixes_count() -> None:
    suspicion = Suspicion(FallbackFilter(geoip=False), geoip=lambda address, code: False)
    assert not suspicion.of_addresses(["8.8.8.8"])


def test_names_that_only_the_fallback_is_asked_for() -> None:
    suspicion = Suspicion(
        FallbackFilter(geoip=False, domain=("+.google.com",), geosite=("gfw",)), sets=sets(geosite__gfw={"x.com"})
    )
    assert suspicion.of_name("www.google.com") and suspicion.of_name("x.com")
    assert not suspicion.of_name("example.com")


def test_the_whole_section() -> None:
    config = DnsConfig(
        nameserver=("1.1.1.1", "quic://9.9.9.9"),
        strategy="parallel",
        fallback=("tls://8.8.8.8",),
        nameserver_policy=(("+.corp", ("10.0.0.1",)),),
        servers=("/lan/192.168.1.1", "1.0.0.1"),
        proxy_server_nameserver=("223.5.5.5",),
        proxy_server_nameserver_policy=(("+.proxy", ("223.6.6.6",)),),
        direct_nameserver=("system",),
        default_nameserver=("119.29.29.29",),
    )
    servers = read_servers(config)
    assert [server.host for server in servers.standard.servers] == ["1.1.1.1", "1.0.0.1"]
    assert servers.standard.strategy.kind == "parallel"
    assert servers.fallback is not None and servers.fallback.servers[0].scheme == "tls"
    assert hosts(servers.split, "a.corp") == ["10.0.0.1"]
    assert hosts(servers.proxy_split, "a.proxy") == ["223.6.6.6"]
    assert servers.proxy_split.choose("a.corp") is None
    assert servers.direct.servers == (SYSTEM,)
    assert servers.direct_split.choose("a.corp") is None
    usual = read_servers(DnsConfig())
    assert usual.standard.servers == usual.bootstrap.servers == (SYSTEM,)
    assert usual.proxy is usual.direct is usual.standard and usual.fallback is None
