"""The section ``dns``: what each key comes to, and what is said of a wrong one."""

from __future__ import annotations

from functools import reduce
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cyfs_ns.config.dns import CacheConfig, DnsConfig, DoorsConfig, FallbackFilter
from cyfs_ns.config.load import DEFAULT_YAML, LoadedDns, load_dns
from cyfs_ns.config.written import Fault

FULL = (Path(__file__).with_name("house.yaml")).read_bytes()


def section(text: str) -> LoadedDns:
    """A file whose section ``dns`` begins at line 2."""
    return load_dns(f"dns:\n  listen: ':53'\n{text}".encode())


def dns(text: str) -> DnsConfig:
    loaded = section(text)
    assert loaded.dns is not None, loaded.faults
    return loaded.dns


def at(config: object, path: str) -> Any:
    return reduce(
        lambda value, name: value[int(name)] if name.isdigit() else getattr(value, name), path.split("."), config
    )


DOORS = DoorsConfig(
    plain=(("", 53), ("127.0.0.1", 5353), ("::1", 5354)),
    tls=(("0.0.0.0", 853),),
    https=(("0.0.0.0", 443),),
    http=(("127.0.0.1", 8053),),
    certificate="/etc/tls/cert.pem",
    key="/etc/tls/key.pem",
    names=("dns.home.example", "192.168.1.1"),
    trusted_proxies=(ip_network("127.0.0.1/32"),),
    interfaces=("br-lan", "wg0"),
    workers=2,
    allow_from=(ip_network("192.168.0.0/16"),),
    deny_from=(ip_network("192.168.1.66/32"),),
    refuse="silent",
    rate_limit=50,
)
CACHE = CacheConfig(
    max_bytes=4 << 20, min_ttl=10, max_ttl=3600, max_negative=60, max_stale=86400, stale_wait=1.0, prefetch=False,
    persist=False, save_interval=30.0, failure_ttl=2, max_failure_ttl=300,
)  # fmt: skip
FULLY = {
    "enable": True,
    "doors": DOORS,
    "cache": CACHE,
    "metrics": (("127.0.0.1", 9153),),
    "ipv6": False,
    "ipv6_timeout": 0.2,
    "use_hosts": False,
    "use_system_hosts": False,
    "default_nameserver": ("1.1.1.1", "tls://9.9.9.9"),
    "nameserver": ("https://dns.example/dns-query", "8.8.8.8#PROXY"),
    "resolv_file": "/run/resolv.conf",
    "strategy": "fastest",
    "fallback": ("tls://1.0.0.1",),
    "fallback_filter": FallbackFilter(
        geoip=False, geoip_code="DE", ipcidr=(ip_network("240.0.0.0/4"),), domain=("+.google.com",), geosite=("gfw",)
    ),
    "nameserver_policy": (("+.corp.example", ("10.0.0.1",)), ("geosite:cn", ("223.5.5.5",))),
    "servers": ("/lan/192.168.1.1", "/local.example/"),
    "proxy_server_nameserver": ("1.1.1.1",),
    "proxy_server_nameserver_policy": (("a.example", ("8.8.8.8",)),),
    "direct_nameserver": ("system",),
    "direct_nameserver_follow_policy": True,
    "enhanced_mode": "fake-ip",
    "fake_ip_range": "198.18.0.1/15",
    "fake_ip_range6": "fd00:18::/64",
    "fake_ip_filter": ("+.lan", "geosite:private"),
    "fake_ip_filter_mode": "whitelist",
    "fake_ip_ttl": 5,
}


@pytest.mark.parametrize("key", FULLY)
def test_every_key_is_read(key: str) -> None:
    loaded = load_dns(FULL)
    assert loaded.faults == ()
    assert at(loaded.dns, key) == FULLY[key]


def test_the_hosts_are_read() -> None:
    assert load_dns(FULL).hosts == {
        "box.example": ("192.0.2.7",),
        "*.alias.example": ("box.example",),
        "many.example": ("192.0.2.8", "2001:db8::8"),
    }


@pytest.mark.parametrize("data", [FULL, DEFAULT_YAML, b"dns: {listen: ':53', clients: [{name: a, match: [10.0.0.1]}]}"])
def test_the_same_text_means_the_same(data: bytes) -> None:
    assert load_dns(data) == load_dns(data)


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("", "doors.allow_near", True),
        ("  allow-from: 10.0.0.0/8", "doors.allow_near", False),
        ("", "doors.rate_limit", 100),
        ("", "ipv6", True),
        ("", "enhanced_mode", "redir-host"),
        ("", "cache", CacheConfig()),
        ("  cache-max-size: 1000", "cache.max_bytes", 600_000),
        ("  cache-max-size: 1000\n  cache: {max-size: 2M}", "cache.max_bytes", 2 << 20),
        ("  fake-ip-ttl: 0", "fake_ip_ttl", 1),
        ("  fake-ip-filter-mode: whitelist", "fake_ip_filter", ()),
        ("  fake-ip-filter: []", "fake_ip_filter", ()),
        ("  fake-ip-filter-mode: rule\n  fake-ip-filter: ['DOMAIN-SUFFIX,lan,real-ip', 'MATCH,fake-ip']",
         "fake_ip_filter", ("DOMAIN-SUFFIX,lan,real-ip", "MATCH,fake-ip")),
        ("  listen-tls: 192.0.2.1", "doors.tls", (("192.0.2.1", 853),)),
        ("  listen-tls: ['::1', 'tcp://[::1]:853']", "doors.tls", (("::1", 853),)),
    ],
)  # fmt: skip
def test_what_is_meant_when_little_is_said(text: str, path: str, value: object) -> None:
    assert at(dns(text), path) == value


WRONG = [
    ("enable: perhaps", "/dns/enable", "true or false"),
    ("listen-tls: localhost:853", "/dns/listen-tls", "an address and a port"),
    ("listen-https: ['1.2.3.4:99999']", "/dns/listen-https/0", "an address and a port"),
    ("metrics-listen: nowhere", "/dns/metrics-listen", "an address and a port"),
    ("tls-key: /k.pem", "/dns/tls-key", "'tls-cert' is missing"),
    ("server-names: ['a b']", "/dns/server-names/0", "a b"),
    ("trusted-proxies: [proxy]", "/dns/trusted-proxies/0", "prefix"),
    ("interfaces: [a-name-much-too-long]", "/dns/interfaces/0", "no interface"),
    ("interfaces: ['a/b']", "/dns/interfaces/0", "no interface"),
    ("workers: 65", "/dns/workers", "64"),
    ("allow-from: 10.0.0.0/40", "/dns/allow-from", "prefix"),
    ("deny-from: [everybody]", "/dns/deny-from/0", "prefix"),
    ("refuse: loudly", "/dns/refuse", "silent"),
    ("rate-limit: -1", "/dns/rate-limit", "0"),
    ("cache: {failure-ttl: 0}", "/dns/cache/failure-ttl", "from 1 to 300"),
    ("cache: {failure-ttl: 90}", "/dns/cache/failure-ttl", "in this order"),
    ("cache: {max-failure-ttl: 6m}", "/dns/cache/max-failure-ttl", "300"),
    ("cache: {save-interval: 0}", "/dns/cache/save-interval", "once a second"),
    ("ipv6: sometimes", "/dns/ipv6", "true or false"),
    ("default-nameserver: [https://dns.example/dns-query]", "/dns/default-nameserver/0", "must be an address"),
    ("nameserver: [ftp://a.example]", "/dns/nameserver/0", "ftp"),
    ("fallback: ['tls://']", "/dns/fallback/0", ""),
    ("strategy: hopeful", "/dns/strategy", "weighted"),
    ("fallback-filter: {ipcidr: [nets]}", "/dns/fallback-filter/ipcidr/0", "prefix"),
    ("fallback-filter: {domain: ['a b']}", "/dns/fallback-filter/domain/0", "pattern"),
    ("nameserver-policy: {'a b': 1.1.1.1}", "/dns/nameserver-policy/a b", "pattern"),
    ("nameserver-policy: {a.example: 'ftp://x'}", "/dns/nameserver-policy/a.example", "ftp"),
    ("servers: ['/a b/1.1.1.1']", "/dns/servers/0", "a b"),
    ("servers: ['/lan/192.168.1.1#port']", "/dns/servers/0", "port"),
    ("enhanced-mode: fake", "/dns/enhanced-mode", "fake-ip"),
    ("fake-ip-range: fd00::/64", "/dns/fake-ip-range", "IPv4 prefix"),
    ("fake-ip-range6: 198.18.0.0/16", "/dns/fake-ip-range6", "IPv6 prefix"),
    ("fake-ip-filter: ['a,real-ip']\n  fake-ip-filter-mode: rule", "/dns/fake-ip-filter/0", "TYPE,payload"),
    ("fake-ip-filter-mode: gray", "/dns/fake-ip-filter-mode", "whitelist"),
    ("fake-ip-ttl: 90000", "/dns/fake-ip-ttl", "86400"),
    ("cache: {min-ttl: 100, max-ttl: 10}", "/dns/cache/min-ttl", "above max-ttl"),
    ("cache: {max-size: big}", "/dns/cache/max-size", "size"),
    ("cache-algorithm: fifo", "/dns/cache-algorithm", "arc"),
]


@pytest.mark.parametrize(("text", "path", "words"), WRONG, ids=[wrong[0][:40] for wrong in WRONG])
def test_a_wrong_value_is_told_with_its_place(text: str, path: str, words: str) -> None:
    loaded = section(f"  {text}")
    assert loaded.dns is None
    fault = one_error(loaded)
    assert (fault.path, fault.line) == (path, 3)
    assert words in fault.message


def one_error(loaded: LoadedDns) -> Fault:
    (fault,) = [fault for fault in loaded.faults if fault.severity == "error"]
    return fault


@pytest.mark.parametrize(
    ("text", "path", "words"),
    [
        ("lissten: ':53'", "/dns/lissten", "did you mean 'listen'"),
        ("cache: {max-tll: 1}", "/dns/cache/max-tll", "did you mean 'max-ttl'"),
        ("fallback-filter: {geo-ip: true}", "/dns/fallback-filter/geo-ip", "geoip"),
        ("prefer-h3: true", "/dns/prefer-h3", "HTTP/3"),
        ("nameserver: [quic://1.1.1.1]", "/dns/nameserver/0", "left out"),
        ("fake-ip-filter: ['Mijia Cloud', '+.lan']", "/dns/fake-ip-filter/0", "no name is like that"),
    ],
)
def test_what_has_no_effect_is_a_warning(text: str, path: str, words: str) -> None:
    loaded = section(f"  {text}")
    assert loaded.dns is not None
    assert [(fault.path, fault.line, fault.severity) for fault in loaded.faults] == [(path, 3, "warning")]
    assert words in loaded.faults[0].message


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no section 'dns'"),
        (b"hosts: {}", "no section 'dns'"),
        (b"- dns", "expected a mapping"),
        (b"dns: {enable: true}", "nobody could ask"),
        (b"dns: {listen: ':53'", "1"),
        (b"dns: {listen: ':53'}\nhosts: {a b: 1.1.1.1}", "pattern"),
        (b"dns: {listen: ':53'}\nhosts: {a.example: [1.1.1.1, b.example]}", "one host name"),
        (b"dns: {listen: ':53'}\nhosts: {a.example: ''}", "one host name"),
        (b"dns: {listen: !env NOWHERE}", "!env"),
    ],
)
def test_files_that_cannot_be_used(data: bytes, words: str) -> None:
    loaded = load_dns(data)
    assert loaded.dns is None
    assert any(words in str(fault) for fault in loaded.faults)


def test_without_a_file_there_is_a_cache_for_the_house() -> None:
    loaded = load_dns(DEFAULT_YAML)
    assert loaded.faults == ()
    assert loaded.dns is not None
    assert loaded.dns.doors.plain == (("", 53),)
    assert loaded.dns.doors.allow_from == DnsConfig().doors.allow_from or loaded.dns.doors.allow_near


WORDS = [line.strip() for line in FULL.decode().splitlines() if line.strip()]


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300))
@example(b"dns: &a {x: *a}")
@example(b"\xff\xfe")
def test_octets_never_raise(data: bytes) -> None:
    load_dns(b"dns:\n  " + data)
    load_dns(data)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(FULL)), st.integers(0, 40), st.text(max_size=12))
def test_a_file_with_a_wound_is_a_value_or_faults(where: int, gone: int, instead: str) -> None:
    wounded = FULL[:where] + instead.encode("utf-8", "replace") + FULL[where + gone :]
    loaded = load_dns(wounded)
    assert (loaded.dns is None) == any(fault.severity == "error" for fault in loaded.faults)
    assert load_dns(wounded) == loaded


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(sorted({line.split(":")[0].strip() for line in WORDS if line[0].islower() and ":" in line})),
    st.recursive(
        st.sampled_from(["null", "1", "-1", "''", "a b", "1e99", "'/'", "','", "+.", "true", ".inf", "1.2.3.4/33"]),
        lambda inner: (
            st.lists(inner, max_size=2).map(lambda items: f"[{', '.join(items)}]")
            | inner.map(lambda value: f"{{name: {value}}}")
            | inner.map(lambda value: f"{{a.example: {value}}}")
        ),
        max_leaves=4,
    ),
)
def test_any_value_under_any_key_is_read_or_a_fault(key: str, value: str) -> None:
    loaded = load_dns(f"dns:\n  listen: ':53'\n  {key}: {value}\n".encode())
    assert (loaded.dns is None) == any(fault.severity == "error" for fault in loaded.faults)


def test_who_runs_alone_is_enabled() -> None:
    """Fake addresses, too, want nobody to say so again."""
    for said in ("", "  enable: false\n"):
        loaded = section(said)
        assert loaded.dns is not None
        assert loaded.dns.enable
