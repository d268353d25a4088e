"""The settings as GET /configs shows them: mihomo's keys, so that dashboards find what they look for, and no secret."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from cyfs_gateway.config.model import Config
from cyfs_ns.config.written import Network


def clash_configs_view(config: Config) -> dict[str, Any]:
    """Plain data for JSON.  Passwords of ``authentication`` are left out, names stay."""
    ports = {one.name: one.port for one in config.listeners if one.name.startswith("DEFAULT-")}
    return {
        "port": ports.get("DEFAULT-HTTP", 0),
        "socks-port": ports.get("DEFAULT-SOCKS", 0),
        "redir-port": ports.get("DEFAULT-REDIR", 0),
        "tproxy-port": ports.get("DEFAULT-TPROXY", 0),
        "mixed-port": ports.get("DEFAULT-MIXED", 0),
        "tun": {"enable": False, "device": "", "stack": "gVisor", "dns-hijack": None, "auto-route": False},
        "tuic-server": {"enable": False},
        "ss-config": "",
        "vmess-config": "",
        "authentication": list(config.users or ()) or None,
        "skip-auth-prefixes": _texts(config.skip_auth_prefixes),
        "lan-allowed-ips": _texts(config.lan_allowed_ips) or ["0.0.0.0/0", "::/0"],
        "lan-disallowed-ips": _texts(config.lan_disallowed_ips),
        "allow-lan": config.allow_lan,
        "bind-address": config.bind_address,
        "inbound-tfo": False,
        "inbound-mptcp": False,
        "mode": config.mode,
        "unified-delay": config.unified_delay,
        "log-level": config.log_level,
        "ipv6": config.ipv6,
        "interface-name": config.interface_name,
        "routing-mark": config.routing_mark,
        "geox-url": {
            "geo-ip": config.geo.geoip_url,
            "mmdb": config.geo.mmdb_url,
            "asn": config.geo.asn_url,
            "geo-site": config.geo.geosite_url,
        },
        "geo-auto-update": config.geo.auto_update,
        "geo-update-interval": round(config.geo.update_interval / 3600),
        "geodata-mode": config.geo.dat_mode,
        "geodata-loader": config.geo.loader,
        "geosite-matcher": config.geo.matcher,
        "tcp-concurrent": config.tcp_concurrent,
        "find-process-mode": config.find_process_mode,
        "sniffing": config.sniffer.enable,
        "global-client-fingerprint": "",
        "global-ua": config.global_ua,
        "etag-support": config.geo.etag_support,
        "keep-alive-idle": round(config.keep_alive.idle),
        "keep-alive-interval": round(config.keep_alive.interval),
        "disable-keep-alive": config.keep_alive.disable,
    }


def _texts(prefixes: Iterable[Network]) -> list[str]:
    return [str(prefix) for prefix in prefixes]
