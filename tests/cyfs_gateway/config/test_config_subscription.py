"""What a proxy provider brings: three kinds of body, an override, filters, and nothing but values or the one error."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_gateway.config import subscription
from cyfs_gateway.config.load import load
from cyfs_gateway.config.model import ProxyOverride, ProxyProviderConfig
from cyfs_gateway.config.names import Sieve, renamer
from cyfs_gateway.config.subscription import ProviderContent, parse_provider
from cyfs_ns.errors import BadWire, ConfigFault
from tunnels.spec import HttpSpec, Socks5Spec

YAML = b"""
proxies:
  - {name: HK 1, type: socks5, server: a.example, port: 1080}
  - {name: US 1, type: http, server: b.example, port: 443, tls: true}
  - {name: HK ss, type: ss, server: c.example, port: 1, cipher: x, password: y}
"""
LINKS = """\
socks5://user:p%40ss@a.example:1080#first%20one
https://dXNlcjpwYXNz@b.example#second
http://[2001:db8::1]:3128
socks://YTpi@c.example:9
ss://YWVzOnB3@d.example:8388#sss
hy2://x@e.example:1/?sni=a
"""


def provider(**more: Any) -> ProxyProviderConfig:
    return ProxyProviderConfig(name="p", type="http", **more)


def names(content: ProviderContent) -> list[str]:
    return [spec.name for spec in content.proxies]


def test_clash_yaml_brings_specs_and_names_what_is_not_carried() -> None:
    content = parse_provider(YAML, provider())
    assert names(content) == ["HK 1", "US 1"]
    assert [(one.name, one.type) for one in content.unsupported] == [("HK ss", "ss")]


@pytest.mark.parametrize(
    "body",
    [
        LINKS.encode(),
        base64.b64encode(LINKS.encode()),
        base64.urlsafe_b64encode(LINKS.encode()).rstrip(b"="),
        base64.encodebytes(LINKS.encode()),
    ],
)
def test_share_links_come_plain_and_in_base64(body: bytes) -> None:
    content = parse_provider(body, provider())
    first, second, third, fourth = content.proxies
    assert isinstance(first, Socks5Spec) and isinstance(second, HttpSpec)
    assert isinstance(third, HttpSpec) and isinstance(fourth, Socks5Spec)
    assert (first.name, first.server, first.port) == ("first one", "a.example", 1080)
    assert (first.username, first.password) == ("user", "p@ss")
    assert (second.port, second.tls, second.username, second.password) == (443, True, "user", "pass")
    assert (third.name, third.server, third.port) == ("http 3", "2001:db8::1", 3128)
    assert (fourth.username, fourth.password) == ("a", "b")
    assert [(one.name, one.type) for one in content.unsupported] == [("sss", "ss"), ("hysteria2 6", "hysteria2")]


def test_the_override_is_laid_over_every_entry_and_names_change_in_order() -> None:
    override = ProxyOverride(
        fields={"udp": True, "dialer-proxy": "way"},
        additional_prefix="[p] ",
        additional_suffix="!",
        proxy_name=(("(HK|US) ([0-9])", "$2-${1}"),),
    )
    content = parse_provider(YAML, provider(override=override))
    assert names(content) == ["[p] 1-HK!", "[p] 1-US!"]
    assert all(spec.udp and spec.dialer_proxy == "way" for spec in content.proxies)
    assert content.unsupported[0].name == "[p] HK ss!"


@pytest.mark.parametrize(
    ("filters", "left"),
    [
        ({"filter": "US`HK"}, ["US 1", "HK 1"]),
        ({"filter": "(?i)^(?!.*hk).*$"}, ["US 1"]),
        ({"exclude_filter": "US"}, ["HK 1"]),
        ({"exclude_type": "Http|ss"}, ["HK 1"]),
        ({"filter": "nothing"}, []),
    ],
)
def test_filters(filters: dict[str, str], left: list[str]) -> None:
    assert names(parse_provider(YAML, provider(**filters))) == left


def test_a_bad_entry_is_passed_over_with_its_place() -> None:
    body = b"""proxies:
- {name: a, type: socks5, server: a.example}
- {name: b, type: socks5, server: b.example, port: 1}
- {name: b, type: socks5, server: c.example, port: 1}
- text
"""
    content = parse_provider(body, provider())
    assert names(content) == ["b"]
    assert [(f.path, f.line, f.severity) for f in content.faults] == [
        ("/proxies/0", 2, "warning"),
        ("/proxies/2", 4, "warning"),
        ("/proxies/3", 5, "warning"),
    ]


def test_a_subscription_cannot_read_our_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hush")
    body = b"proxies: [{name: !env SECRET, type: direct}, {name: !file /etc/hostname, type: direct}]"
    content = parse_provider(body, provider())
    assert content.proxies == ()
    assert all("not allowed here" in fault.message for fault in content.faults)


@pytest.mark.parametrize("body", [b"", b"<html>login</html>", b"proxies: {a: b}", b"\xff\xfe", b"a: [", b"aGVsbG8="])
def test_a_body_that_is_nothing_fails_whole(body: bytes) -> None:
    with pytest.raises(BadWire):
        parse_provider(body, provider())


def test_sizes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadWire, match="at most 10 are read"):
        parse_provider(YAML, provider(size_limit=10))
    monkeypatch.setattr(subscription, "MAX_ENTRIES", 2)
    with pytest.raises(BadWire, match="3 proxies"):
        parse_provider(YAML, provider())


def test_an_inline_payload_is_part_of_the_configuration() -> None:
    text = b"""
proxy-providers:
  p:
    type: inline
    override: {additional-prefix: "p-"}
    payload: [{name: a, type: direct}, {name: b, type: nonsense}]
"""
    loaded = load(text, home="/h")
    assert loaded.config is not None
    assert [spec.name for spec in loaded.config.proxy_providers[0].payload] == ["p-a"]
    assert [(fault.path, fault.severity) for fault in loaded.faults] == [
        ("/proxy-providers/p/payload/1/type", "warning")
    ]


linkish = st.lists(
    st.sampled_from(
        ["socks5://", "https://", "ss://", "vmess://", "a", "@", ":", "#", "\n", "[", "]", "%", "1", "é", "/", "="]
    ),
    max_size=40,
).map("".join)


@settings(max_examples=200)
@given(st.one_of(st.binary(max_size=120), linkish.map(str.encode), linkish.map(lambda t: base64.b64encode(t.encode()))))
def test_any_bytes_give_proxies_or_the_one_error(body: bytes) -> None:
    try:
        content = parse_provider(body, provider(filter="a|1"))
    except BadWire:
        return
    assert all(fault.severity == "warning" for fault in content.faults)


@settings(max_examples=150)
@given(st.integers(0, len(YAML) - 1), st.binary(min_size=1, max_size=2))
def test_a_damaged_body_gives_proxies_or_the_one_error(at: int, damage: bytes) -> None:
    try:
        parse_provider(YAML[:at] + damage + YAML[at + len(damage) :], provider())
    except BadWire:
        return


def test_renaming_keeps_dollars_and_backslashes() -> None:
    assert renamer("a(b)", r"$$\1$1")("xaby") == r"x$\1by"
    for pattern, target in (("(", "x"), ("a", "$1"), ("a" * 5000, "x")):
        with pytest.raises(ConfigFault):
            renamer(pattern, target)


def test_an_empty_sieve_keeps_everything() -> None:
    assert Sieve().keep([("a", "x"), ("b", "y")]) == ("a", "b")
