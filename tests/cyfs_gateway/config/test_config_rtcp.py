"""The section ``rtcp`` and proxies of that type: what is read, and everything that is wrong, each at its place."""

from __future__ import annotations

from typing import Any

import pytest

from cyfs_gateway.config.load import load, patched
from cyfs_gateway.config.model import Config, KeptTunnel, RtcpConfig
from cyfs_ns.identity.did import Did
from tunnels.endpoint import Target
from tunnels.spec import RtcpSpec

GOOD = """
rtcp:
  listen: [2980, "192.0.2.1:2981"]
  identity: other
  require: trusted_snapshot
  txt-bootstrap: false
  services:
    - {name: web, port: 443, target: "tcp://127.0.0.1:80", allow: [did:web:phone.home.example, "ZONE,friends.example"]}
    - {name: dns, target: "udp://:53", allow: [phone.home.example]}
  keep-tunnel: [relay.example, "rtcp://socks%3A%2F%2Fhop%3A1080@relay.example:2981"]
  admission: ["SRC-IP-CIDR,192.0.2.0/24,REJECT", "ZONE,home.example,ACCEPT"]
  proxy-from: [relay.example]
"""


def read(text: str) -> Config:
    loaded = load(text.encode(), home="/home/x")
    assert loaded.config is not None, loaded.faults
    assert not loaded.faults
    return loaded.config


def faults(text: str) -> list[str]:
    loaded = load(text.encode(), home="/home/x")
    return [f"{fault.line} {fault.severity} {fault.path}: {fault.message}" for fault in loaded.faults]


def test_what_is_written_is_what_is_meant() -> None:
    config = read(GOOD)
    rtcp = config.rtcp
    assert rtcp is not None
    assert (rtcp.identity, rtcp.require, rtcp.txt_bootstrap) == ("/home/x/other", "trusted_snapshot", False)
    web, dns = rtcp.services
    assert (web.name, web.port, web.network, web.target) == ("web", 443, "tcp", Target("127.0.0.1", 80))
    assert [str(rule) for rule in web.allow] == ["DID,did:web:phone.home.example", "ZONE,did:web:friends.example"]
    assert (dns.port, dns.network, dns.target) == (53, "udp", Target("127.0.0.1", 53))
    relay = Did("web", "relay.example")
    assert rtcp.keep == (
        KeptTunnel(peer=relay),
        KeptTunnel(peer=relay, port=2981, url="rtcp://socks%3A%2F%2Fhop%3A1080@relay.example:2981"),
    )
    assert [rule.outbound for rule in rtcp.admission] == ["REJECT", "ACCEPT"]
    assert rtcp.proxy_from == {relay}
    doors = [(one.listen, one.port, one.optional) for one in config.listeners if one.kind == "rtcp"]
    assert doors == [("0.0.0.0", 2980, False), ("::", 2980, True), ("192.0.2.1", 2981, False)]


def test_nothing_is_open_by_omission() -> None:
    assert read("mode: rule").rtcp is None
    config = read("rtcp: {}")
    assert config.rtcp == RtcpConfig()
    assert (config.rtcp.require, config.listeners) == ("authority_current", ())
    assert not read("rtcp: {listen: ':2980'}\nipv6: false").listeners[0].optional


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("listen: nowhere:2980", "2 error /rtcp/listen: expected a port, or an address and a port"),
        ("listen: [2980, 99999]", "2 error /rtcp/listen/1: expected a port"),
        ("identity: ../elsewhere", "2 error /rtcp/identity: the path '../elsewhere' leads out of the home"),
        ("require: some", "2 error /rtcp/require: expected one of authority_current, trusted_snapshot"),
        ("txt-bootstrap: yes", "2 warning /rtcp/txt-bootstrap: whoever can forge an answer of the DNS"),
        (
            "services: [{name: a b, target: 'tcp://:1', allow: [x.example]}]",
            "2 error /rtcp/services/0/name: 'a b' is no",
        ),
        ("services: [{name: a, allow: [x.example]}]", "2 error /rtcp/services/0: 'target' is missing"),
        ("services: [{name: a, target: 'tcp://:1'}]", "2 error /rtcp/services/0: who may use it?"),
        ("services: [{name: a, target: 'tcp://:1', allow: []}]", "2 error /rtcp/services/0/allow: who may use it?"),
        (
            "services: [{name: a, target: 'ftp://:1', allow: [x.example]}]",
            "expected tcp://host:port or udp://host:port",
        ),
        ("services: [{name: a, target: 'tcp://h', allow: [x.example]}]", "expected tcp://host:port or udp://host:port"),
        (
            "services: [{name: a, target: 'tcp://:1', allow: ['MATCH,DIRECT']}]",
            "/rtcp/services/0/allow/0: MATCH has no",
        ),
        (
            "services: [{name: a, target: 'tcp://:1', allow: ['192.0.2.1']}]",
            "/rtcp/services/0/allow/0: DID takes a DID",
        ),
        ("keep-tunnel: ['not a name']", "2 error /rtcp/keep-tunnel/0: "),
        ("keep-tunnel: ['rtcp://user:pass@a.example']", "/rtcp/keep-tunnel/0: expected a DID, a host name, or rtcp"),
        ("keep-tunnel: ['rtcp://a.example/:80']", "/rtcp/keep-tunnel/0: expected a DID, a host name, or rtcp"),
        ("proxy-from: [relay.example, 'not a name']", "2 error /rtcp/proxy-from/1: "),
        ("proxy-from: ['ZONE,home.example']", "2 error /rtcp/proxy-from/0: "),
        ("admission: ['ZONE,home.example,DIRECT']", "/rtcp/admission/0: expected a condition and ACCEPT or REJECT"),
        ("admission: ['RULE-SET,x,ACCEPT']", "/rtcp/admission/0: expected a condition and ACCEPT or REJECT"),
        ("servces: []", "2 warning /rtcp/servces: unknown key 'servces', ignored; did you mean 'services'?"),
    ],
)
def test_what_is_wrong_is_told_at_its_place(written: str, told: str) -> None:
    said = faults(f"rtcp:\n  {written}\n")
    assert any(told in line for line in said), said
    assert not any("pass@" in line for line in said)


def test_all_faults_come_at_once() -> None:
    text = """
rtcp:
  listen: x:1
  require: none
  services:
    - {name: a, target: "tcp://127.0.0.1:80", allow: [x.example]}
    - {name: A, target: "tcp://127.0.0.1:80", allow: [x.example]}
  keep-tunnel: [..]
"""
    said = faults(text)
    assert len(said) == 5, said
    assert any("there is another service 'a'" in line for line in said)
    assert any("another service is asked for by tcp port 80" in line for line in said)


def test_a_door_for_tunnels_clashes_with_other_doors() -> None:
    said = faults("mixed-port: 2980\nrtcp: {listen: '127.0.0.1:2980'}\n")
    assert any("tcp port 2980 on 127.0.0.1 is already taken by DEFAULT-MIXED" in line for line in said), said


def test_it_outlives_a_change_by_the_control_api() -> None:
    loaded = patched(load(GOOD.encode(), home="/home/x"), {"mode": "direct"})
    assert loaded.config is not None and loaded.config.rtcp == read(GOOD).rtcp


def test_a_proxy_through_a_tunnel() -> None:
    text = """
proxies:
  - {name: any, type: rtcp, proxy-protocol: true}
  - {name: home, type: rtcp, server: home.example, port: 2981, via: "socks://hop:1080", target: ":443"}
  - {name: lan, type: rtcp, server: did:web:home.example, target: "NAS.lan:22", dialer-proxy: any, fast-open: false}
"""
    anybody, home, lan = read(text).proxies
    assert isinstance(anybody, RtcpSpec) and isinstance(home, RtcpSpec) and isinstance(lan, RtcpSpec)
    assert (anybody.server, anybody.port, anybody.target, anybody.udp) == ("", 0, "", True)
    assert (home.server, home.port, home.via, home.target) == ("home.example", 2981, "socks://hop:1080", ":443")
    assert (lan.target, lan.dialer_proxy) == ("nas.lan:22", "any")
    assert (anybody.proxy_protocol, home.proxy_protocol) == (True, False)
    assert (home.fast_open, lan.fast_open) == (True, False)


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"server": "192.0.2.1"}, "/proxies/0/server: expected a DID or its host name"),
        ({"via": "hop:1080"}, "/proxies/0/via: a tunnel URL begins with scheme://"),
        ({"via": "socks://hop", "dialer-proxy": "DIRECT"}, "/proxies/0/via: 'via' and 'dialer-proxy' both say"),
        ({"target": "443"}, "/proxies/0/target: expected host:port as the peer sees it"),
        ({"target": ":0"}, "/proxies/0/target: expected host:port as the peer sees it"),
        ({"port": "x"}, "/proxies/0/port: expected a whole number"),
    ],
)
def test_a_proxy_that_makes_no_sense(entry: dict[str, Any], told: str) -> None:
    inside = ", ".join(f"{key}: '{value}'" for key, value in entry.items())
    said = faults(f"proxies:\n  - {{name: p, type: rtcp, {inside}}}\n")
    assert any(told in line for line in said), said
