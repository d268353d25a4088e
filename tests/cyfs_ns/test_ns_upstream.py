from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_ns.errors import ConfigFault
from cyfs_ns.upstream import SYSTEM, Upstream, parse_upstream, resolv_conf


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("1.1.1.1", Upstream(scheme="udp", host="1.1.1.1", port=53)),
        ("1.1.1.1:5353", Upstream(scheme="udp", host="1.1.1.1", port=5353)),
        ("2606:4700::1111", Upstream(scheme="udp", host="2606:4700::1111", port=53)),
        ("[2606:4700:0::1111]:5353", Upstream(scheme="udp", host="2606:4700::1111", port=5353)),
        ("fe80::1%eth0", Upstream(scheme="udp", host="fe80::1%eth0", port=53)),
        ("DNS.google", Upstream(scheme="udp", host="dns.google", port=53)),
        ("udp://9.9.9.9", Upstream(scheme="udp", host="9.9.9.9", port=53)),
        ("tcp://9.9.9.9", Upstream(scheme="tcp", host="9.9.9.9", port=53)),
        ("tls://dns.google", Upstream(scheme="tls", host="dns.google", port=853)),
        ("tls://dns.google:443#PROXY", Upstream(scheme="tls", host="dns.google", port=443, via="PROXY")),
        ("https://1.1.1.1", Upstream(scheme="https", host="1.1.1.1", port=443, path="/dns-query")),
        ("https://d.example/x?y=1", Upstream(scheme="https", host="d.example", port=443, path="/x?y=1")),
        (
            "https://d.example:8443/q#My%20Proxy&h3=true&skip-cert-verify=true",
            Upstream(
                scheme="https", host="d.example", port=8443, path="/q", via="My Proxy", skip_cert_verify=True,
                ignored=("h3",),
            ),
        ),
        ("8.8.8.8#eth0", Upstream(scheme="udp", host="8.8.8.8", port=53, via="eth0")),
        ("system", SYSTEM),
        ("system://", SYSTEM),
        ("rcode://name_error", Upstream(scheme="rcode", host="name_error")),
        ("dhcp://eth0", Upstream(scheme="dhcp", host="eth0")),
        ("quic://dns.adguard.com", Upstream(scheme="quic", host="dns.adguard.com", port=853)),
    ],
)  # fmt: skip
def test_servers_as_clash_writes_them(text: str, meant: Upstream) -> None:
    assert parse_upstream(text) == meant
    assert bool(meant.why_not) == (meant.scheme in ("dhcp", "quic"))
    assert parse_upstream(str(meant)).host == meant.host


@pytest.mark.parametrize(
    "text",
    ["", "ftp://x", "udp://", "tcp://1.1.1.1/path", "rcode://maybe", "1.1.1.1:99999", "https://u:p@x", "a b", "[::1"],
)
def test_what_is_no_server_is_refused_and_quoted(text: str) -> None:
    with pytest.raises(ConfigFault, match="not a name server"):
        parse_upstream(text)


def test_a_server_by_name_has_no_address() -> None:
    assert parse_upstream("tls://dns.google").address == ""
    assert parse_upstream("fe80::1%eth0").address == "fe80::1%eth0"


def test_resolv_conf_gives_three_servers_or_this_machine() -> None:
    text = "# x\nsearch lan\nnameserver 192.0.2.1\nnameserver fe80::1%eth0\nnameserver nope\nnameserver ::1\n"
    assert [server.host for server in resolv_conf(text + "nameserver 192.0.2.9\n")] == [
        "192.0.2.1",
        "fe80::1%eth0",
        "::1",
    ]
    assert [server.host for server in resolv_conf("")] == ["127.0.0.1"]


@settings(max_examples=200)
@given(st.text(st.sampled_from("udptcls:/[]@#&=%.1a-?"), max_size=40))
def test_any_text_is_a_server_or_refused(text: str) -> None:
    try:
        upstream = parse_upstream(text)
    except ConfigFault:
        return
    assert upstream.scheme
