"""The small settings at the top of the file, and a plain word about sections that this build cannot honour."""

from __future__ import annotations

import re
from typing import get_args

from cyfs_gateway.config.model import (
    FindProcess,
    GeoConfig,
    IptablesConfig,
    KeepAlive,
    LogLevel,
    ProfileConfig,
    Timeouts,
)
from cyfs_ns.config.source import Scalar
from cyfs_ns.config.written import Section

_TUN_KEYS = (
    *("device", "stack", "dns-hijack", "auto-route", "auto-detect-interface", "mtu", "gso", "gso-max-size"),
    *("inet4-address", "inet6-address", "iproute2-table-index", "iproute2-rule-index", "auto-redirect"),
    *("auto-redirect-input-mark", "auto-redirect-output-mark", "strict-route", "route-address", "route-address-set"),
    *("route-exclude-address", "route-exclude-address-set", "inet4-route-address", "inet6-route-address"),
    *("inet4-route-exclude-address", "inet6-route-exclude-address", "include-interface", "exclude-interface"),
    *("include-uid", "include-uid-range", "exclude-uid", "exclude-uid-range", "include-android-user"),
    *("include-package", "exclude-package", "endpoint-independent-nat", "udp-timeout", "file-descriptor"),
    *("loopback-address", "disable-icmp-forwarding", "include-mac-address", "exclude-mac-address"),
    *("recvmsgx", "sendmsgx", "exclude-src-port", "exclude-src-port-range", "exclude-dst-port"),
    *("exclude-dst-port-range", "auto-redirect-iproute2-fallback-rule-index"),
)
_NTP_KEYS = ("server", "port", "interval", "dialer-proxy", "write-to-system", "server-port")
_TUIC_KEYS = (
    *("listen", "token", "users", "certificate", "private-key", "congestion-controller", "max-idle-time"),
    *("authentication-timeout", "alpn", "max-udp-relay-packet-size", "cwnd", "max-datagram-frame-size"),
    *("bbr-profile", "mux-option"),
)
_EXPERIMENTAL_KEYS = ("quic-go-disable-gso", "quic-go-disable-ecn", "dialer-ip4p-convert", "fingerprints")


def read_keep_alive(top: Section) -> KeepAlive:
    """``keep-alive-idle``, ``keep-alive-interval`` and ``disable-keep-alive``."""
    usual = KeepAlive()
    return KeepAlive(
        idle=top.seconds("keep-alive-idle", usual.idle) or usual.idle,
        interval=top.seconds("keep-alive-interval", usual.interval) or usual.interval,
        disable=top.flag("disable-keep-alive"),
    )


def read_log_level(top: Section) -> LogLevel:
    """``log-level``, where ``warn`` means warning."""
    node = top.node("log-level")
    if isinstance(node, Scalar) and node.text.lower() == "warn":
        return "warning"
    return top.choice("log-level", get_args(LogLevel), "info")


def read_find_process(top: Section) -> FindProcess:
    """``find-process-mode``; the booleans of old files mean always and off."""
    node = top.node("find-process-mode")
    if isinstance(node, Scalar) and node.plain and node.text.lower() in ("true", "false"):
        return "always" if node.text.lower() == "true" else "off"
    return top.choice("find-process-mode", get_args(FindProcess), "strict")


def read_timeouts(top: Section) -> Timeouts:
    """``timeouts``, which is ours."""
    usual = Timeouts()
    section = top.table("timeouts")
    if section is None:
        return usual
    timeouts = Timeouts(
        connect=section.seconds("connect", usual.connect) or usual.connect,
        handshake=section.seconds("handshake", usual.handshake) or usual.handshake,
        idle=section.seconds("idle", usual.idle) or usual.idle,
        udp=section.seconds("udp", usual.udp) or usual.udp,
    )
    section.finish()
    return timeouts


def read_profile(top: Section) -> ProfileConfig:
    """``profile``: what outlives a restart."""
    section = top.table("profile")
    if section is None:
        return ProfileConfig()
    profile = ProfileConfig(
        store_selected=section.flag("store-selected", True),
    )
    section.finish(("store-fake-ip", "tracing", "smart-collector-size"))
    return profile


def read_geo(top: Section) -> GeoConfig:
    """``geox-url`` and the ``geo*`` keys beside it."""
    usual = GeoConfig()
    urls = top.table("geox-url")
    found = {key: urls.url(key) for key in ("geoip", "geosite", "mmdb", "asn")} if urls is not None else {}
    if urls is not None:
        urls.finish()
    return GeoConfig(
        geoip_url=found.get("geoip", ""),
        geosite_url=found.get("geosite", ""),
        mmdb_url=found.get("mmdb", ""),
        asn_url=found.get("asn", ""),
        dat_mode=top.flag("geodata-mode"),
        loader=top.choice("geodata-loader", ("memconservative", "standard"), "memconservative"),
        matcher=top.choice("geosite-matcher", ("succinct", "mph", "hybrid"), "succinct"),
        auto_update=top.flag("geo-auto-update"),
        update_interval=top.integer("geo-update-interval", 24, 1, 24 * 366) * 3600.0,
        etag_support=top.flag("etag-support", usual.etag_support),
    )


def read_iptables(top: Section) -> IptablesConfig:
    """``iptables``: whether and where flows are intercepted."""
    section = top.table("iptables")
    if section is None:
        return IptablesConfig()
    interfaces = section.texts("inbound-interface") or IptablesConfig().inbound_interfaces
    if not all(re.fullmatch(r"[^\s/\"\x00]{1,15}", name) for name in interfaces):
        section.error("inbound-interface", "expected the names of interfaces, 15 characters at most")
    found = IptablesConfig(
        enable=section.flag("enable"),
        inbound_interfaces=interfaces,
        bypass=section.prefixes("bypass"),
        dns_redirect=section.flag("dns-redirect", True),
    )
    section.finish()
    return found


def warn_of_absent_parts(top: Section) -> None:
    """Sections of Clash's that ask for what this build does not carry."""
    for key, what, keys in (
        ("tun", "no TUN yet; use 'redir-port' or 'tproxy-port'", _TUN_KEYS),
        ("ntp", "no NTP client; the system's clock is taken as it is", _NTP_KEYS),
        ("tuic-server", "no TUIC", _TUIC_KEYS),
    ):
        section = top.table(key)
        if section is not None:
            if section.flag("enable"):
                section.warn("enable", f"this build carries {what}")
            section.finish(keys)
    for key in ("ss-config", "vmess-config"):
        if top.text(key):
            top.warn(key, "this build carries no such listener, ignored")
    if top.flag("geo-auto-update"):
        top.warn("geo-auto-update", "this build updates no geo databases by itself; replace the files and reload")
    for key in ("inbound-tfo", "inbound-mptcp"):
        if top.flag(key):
            top.warn(key, "this build's listeners do not use it, ignored")
    experimental = top.table("experimental")
    if experimental is not None:
        experimental.finish(_EXPERIMENTAL_KEYS)
