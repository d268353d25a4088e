"""Every key that a mihomo file may hold is known: none of them is called unknown, in any section."""

from __future__ import annotations

import pytest

from cyfs_gateway.config.load import load

TOP = """
port socks-port redir-port tproxy-port mixed-port ss-config vmess-config inbound-tfo inbound-mptcp authentication
skip-auth-prefixes lan-allowed-ips lan-disallowed-ips allow-lan bind-address mode unified-delay log-level ipv6
external-controller external-controller-pipe external-controller-unix external-controller-tls external-controller-cors
external-ui external-ui-url external-ui-name external-doh-server secret interface-name routing-mark tunnels
geo-auto-update geo-update-interval geodata-mode geodata-loader geosite-matcher tcp-concurrent find-process-mode
global-client-fingerprint global-ua etag-support keep-alive-idle keep-alive-interval disable-keep-alive
proxy-providers rule-providers proxies proxy-groups rules sub-rules listeners hosts dns ntp tun tuic-server iptables
experimental clash-for-android profile geox-url sniffer tls
"""
SECTIONS = {
    "dns: {%s}": """enable listen ipv6 ipv6-timeout prefer-h3 use-hosts use-system-hosts respect-rules cache-algorithm
        cache-max-size enhanced-mode fake-ip-range fake-ip-range6 fake-ip-filter fake-ip-filter-mode fake-ip-ttl
        default-nameserver nameserver fallback fallback-filter nameserver-policy proxy-server-nameserver
        proxy-server-nameserver-policy direct-nameserver direct-nameserver-follow-policy""",
    "dns: {fallback-filter: {%s}}": "geoip geoip-code geosite ipcidr domain",
    "tun: {%s}": """enable device stack dns-hijack auto-route auto-detect-interface mtu gso gso-max-size inet4-address
        inet6-address iproute2-table-index iproute2-rule-index auto-redirect auto-redirect-input-mark
        auto-redirect-output-mark strict-route route-address route-address-set route-exclude-address
        route-exclude-address-set include-interface exclude-interface include-uid include-uid-range exclude-uid
        exclude-uid-range include-android-user include-package exclude-package endpoint-independent-nat udp-timeout
        file-descriptor loopback-address include-mac-address exclude-mac-address exclude-src-port exclude-dst-port
        exclude-src-port-range exclude-dst-port-range disable-icmp-forwarding recvmsgx sendmsgx inet4-route-address
        inet6-route-address inet4-route-exclude-address inet6-route-exclude-address
        auto-redirect-iproute2-fallback-rule-index""",
    "sniffer: {%s}": """enable override-destination force-dns-mapping parse-pure-ip sniff force-domain skip-domain
        skip-src-address skip-dst-address port-whitelist sniffing""",
    "sniffer: {sniff: {TLS: {%s}}}": "ports override-destination",
    "ntp: {%s}": "enable server port interval dialer-proxy write-to-system",
    "iptables: {%s}": "enable inbound-interface bypass dns-redirect",
    "profile: {%s}": "store-selected store-fake-ip smart-collector-size tracing",
    "tls: {%s}": "certificate private-key client-auth-type client-auth-cert ech-key custom-certifactes",
    "geox-url: {%s}": "geoip geosite mmdb asn",
    "experimental: {%s}": "quic-go-disable-gso quic-go-disable-ecn dialer-ip4p-convert fingerprints",
    "external-controller-cors: {%s}": "allow-origins allow-private-network",
    "tuic-server: {%s}": """enable listen token users certificate private-key congestion-controller max-idle-time
        authentication-timeout alpn max-udp-relay-packet-size max-datagram-frame-size cwnd bbr-profile mux-option""",
    "proxies: [{name: a, type: http, server: a, port: 1, %s}]": """username password tls sni skip-cert-verify
        fingerprint headers certificate private-key dialer-proxy interface-name ip-version mptcp routing-mark smux tfo
        udp""",
    "proxies: [{name: a, type: socks5, server: a, port: 1, %s}]": """username password tls skip-cert-verify
        fingerprint certificate private-key dialer-proxy interface-name ip-version mptcp routing-mark smux tfo udp""",
    "proxies: [{name: a, type: direct, %s}]": "dialer-proxy interface-name ip-version mptcp routing-mark smux tfo udp",
    "proxies: [{name: a, type: dns, %s}]": "dialer-proxy interface-name ip-version mptcp routing-mark smux tfo",
    "proxy-groups: [{name: a, type: select, proxies: [DIRECT], %s}]": """disable-udp exclude-filter exclude-type
        expected-status filter hidden icon include-all include-all-providers include-all-proxies interface-name
        interval lazy max-failed-times routing-mark timeout url use tolerance strategy""",
    "proxy-providers: {a: {type: file, path: a, %s}}": """url interval proxy size-limit header filter exclude-filter
        exclude-type dialer-proxy payload health-check override""",
    "proxy-providers: {a: {type: file, path: a, health-check: {%s}}}": """enable url interval timeout lazy
        expected-status""",
    "proxy-providers: {a: {type: file, path: a, override: {%s}}}": """tfo mptcp udp udp-over-tcp up down dialer-proxy
        skip-cert-verify interface-name routing-mark ip-version additional-prefix additional-suffix proxy-name""",
    "rule-providers: {a: {type: file, path: a, behavior: domain, %s}}": "url interval proxy size-limit format payload",
    "listeners: [{name: a, type: mixed, port: 1, %s}]": """listen rule proxy udp users certificate private-key
        client-auth-type client-auth-cert ech-key reality-config""",
    "listeners: [{name: a, type: tunnel, port: 1, target: 'a:1', %s}]": "listen rule proxy network",
    "listeners: [{name: a, type: tproxy, port: 1, %s}]": "listen rule proxy udp",
}


def test_every_key_at_the_top() -> None:
    loaded = load("\n".join(f"{key}:" for key in TOP.split()).encode(), home="/h")
    assert loaded.faults == ()


@pytest.mark.parametrize("frame", SECTIONS)
def test_every_key_of_a_section(frame: str) -> None:
    keys = ", ".join(f"{key}: " for key in SECTIONS[frame].split())
    assert load((frame % keys).encode(), home="/h").faults == ()
