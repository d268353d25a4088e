from __future__ import annotations

from ipaddress import ip_network

import pytest

from cyfs_gateway.sniff import Sniffed
from cyfs_gateway.sniff.policy import (
    DEFAULT_PORTS,
    Acceptance,
    SniffConfig,
    SniffPolicy,
    SniffProtocol,
    domain_wildcards,
)

SNIFF = {
    "http": SniffProtocol(((80, 80), (8080, 8880)), override_destination=False),
    "tls": SniffProtocol(((443, 443), (8443, 8443), (8080, 8080))),
    "quic": SniffProtocol(DEFAULT_PORTS["quic"]),
}


def policy(**changes: object) -> SniffPolicy:
    return SniffPolicy(SniffConfig(**{"enable": True, "sniff": SNIFF, **changes}))  # type: ignore[arg-type]


def wanted(
    policy: SniffPolicy, network: str = "tcp", host: str = "", port: int = 443, **other: object
) -> tuple[str, ...]:
    dst, src = str(other.pop("dst", "203.0.113.1")), str(other.pop("src", "192.168.0.2"))
    return policy.wanted(network, host, dst, port, src, dns_mapped=bool(other.pop("dns_mapped", False)))


@pytest.mark.parametrize(
    ("network", "port", "protocols"),
    [
        ("tcp", 80, ("http",)),
        ("tcp", 443, ("tls",)),
        ("tcp", 8080, ("http", "tls")),
        ("tcp", 8500, ("http",)),
        ("tcp", 9999, ()),
        ("udp", 443, ("quic",)),
        ("udp", 80, ()),
    ],
)
def test_the_port_chooses_the_protocols(network: str, port: int, protocols: tuple[str, ...]) -> None:
    assert wanted(policy(), network, port=port) == protocols


def test_disabled_means_never() -> None:
    assert wanted(policy(enable=False)) == ()


def test_a_known_name_is_not_sniffed_unless_asked_for() -> None:
    forced = domain_wildcards(["+.v2ex.com"])
    assert wanted(policy(), host="www.v2ex.com") == ()
    assert wanted(policy(force_domain=forced), host="www.v2ex.com") == ("tls",)
    assert wanted(policy(force_domain=forced), host="other.example") == ()


def test_pure_addresses_and_guessed_names() -> None:
    assert wanted(policy(parse_pure_ip=False)) == ()
    assert wanted(policy(), host="guess.example", dns_mapped=True) == ("tls",)
    assert wanted(policy(force_dns_mapping=False), host="guess.example", dns_mapped=True) == ()


def test_addresses_to_skip() -> None:
    nets = (ip_network("192.168.0.3/32"), ip_network("2001:db8::/32"), ip_network("10.0.0.0/8"))
    assert wanted(policy(skip_src_address=nets), src="192.168.0.3") == ()
    assert wanted(policy(skip_src_address=nets), src="192.168.0.2") == ("tls",)
    assert wanted(policy(skip_dst_address=nets), dst="2001:db8:1::1") == ()
    assert wanted(policy(skip_dst_address=nets), dst="10.9.9.9") == ()
    assert wanted(policy(skip_dst_address=nets), dst="2001:db9::1") == ("tls",)
    assert wanted(policy(skip_dst_address=nets), dst="") == ("tls",)


@pytest.mark.parametrize("port", [21, 22, 25, 110, 143, 587, 3306])
def test_nobody_waits_where_the_server_speaks_first(port: int) -> None:
    everything = {"http": SniffProtocol(((0, 65535),)), "tls": SniffProtocol(((0, 65535),))}
    assert wanted(policy(sniff=everything), port=port) == ()
    assert wanted(policy(sniff=everything), port=port + 10_000) == ("http", "tls")


def test_what_is_found_is_used_as_its_protocol_says() -> None:
    chosen = policy(skip_domain=domain_wildcards(["+.apple.com", "Mijia Cloud"]))
    assert chosen.accept(Sniffed("tls", "a.example")) == Acceptance(use=True, override=True)
    assert chosen.accept(Sniffed("http", "a.example")) == Acceptance(use=True, override=False)
    assert chosen.accept(Sniffed("tls", "push.apple.com")) == Acceptance(use=False, override=False)
    assert chosen.accept(Sniffed("tls", "")) == Acceptance(use=False, override=False)


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("a.example", ["a.example"], ["b.a.example", "example"]),
        ("A.Example.", ["a.example"], []),
        ("+.a.example", ["a.example", "b.a.example", "c.b.a.example"], ["ba.example", "example"]),
        (".a.example", ["b.a.example", "c.b.a.example"], ["a.example", "ba.example"]),
        ("*.a.example", ["b.a.example"], ["a.example", "c.b.a.example"]),
        ("a.*.example", ["a.b.example"], ["a.example", "a.b.c.example"]),
        ("+.*.example", ["b.example", "c.b.example"], ["example"]),
        (".*.example", ["c.b.example"], ["b.example", "example"]),
    ],
)
def test_wildcards(pattern: str, yes: list[str], no: list[str]) -> None:
    matches = domain_wildcards(["unrelated.invalid", pattern])
    assert matches is not None
    assert [host for host in yes if not matches(host)] == []
    assert [host for host in no if matches(host)] == []


def test_an_empty_list_matches_nothing_at_no_cost() -> None:
    assert domain_wildcards([]) is None
