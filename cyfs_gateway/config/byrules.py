"""``respect-rules``: questions to name servers go where the rules send such a flow.

mihomo's ``#RULES`` behind a server says so for that server alone, hence the whole section can be written with it.  The
servers for names of proxies and for direct flows are left out: a way by the rules may need an answer of theirs first.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from cyfs_ns.config.dns import DnsConfig
from cyfs_ns.config.written import Section
from cyfs_ns.upstream import parse_upstream

BY_RULES: Final = "RULES"

_AWAY: Final = ("udp", "tcp", "tls", "https")


def by_rules(dns: DnsConfig) -> DnsConfig:
    """The section with the word behind every server it is meant for."""
    if not dns.respect_rules:
        return dns
    return replace(
        dns,
        nameserver=_ruled(dns.nameserver),
        fallback=_ruled(dns.fallback),
        nameserver_policy=tuple((patterns, _ruled(servers)) for patterns, servers in dns.nameserver_policy),
    )


def check_by_rules(top: Section, dns: DnsConfig) -> None:
    """A proxy whose name is asked for through that very proxy is never found."""
    section = top.table("dns")
    if section is not None and dns.respect_rules and not dns.proxy_server_nameserver:
        section.error("respect-rules", "needs 'proxy-server-nameserver', which finds the proxies themselves")


def _ruled(servers: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(_with_word(text) for text in servers)


def _with_word(text: str) -> str:
    server = parse_upstream(text)
    if server.via or server.scheme not in _AWAY:
        return text
    return f"{text}{'&' if '#' in text else '#'}{BY_RULES}"
