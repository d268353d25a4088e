"""The meaning of rules, spelled out the slow way: one rule after another, no index, no cleverness.

The compiled table must agree with this file on every flow.  It shares the parsed nodes with the real thing, and nothing
that decides whether one of them holds.
"""

from __future__ import annotations

import fnmatch
import ipaddress
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from cyfs_gateway.flow import Flow, Identity
from cyfs_gateway.rules.model import Always, Cidr, InSet, Logic, Numbers, Place, Rule, SubRule, Text, Words

LEVELS = (
    *("none", "plain-dns", "auth-channel", "dnssec", "quorum", "storage-proof"),
    *("key-proven", "host-snapshot", "zone-snapshot", "owner-signed"),
)


class Asks(Exception):
    """A condition cannot be judged before ``what`` is known."""

    def __init__(self, what: str) -> None:
        self.what = what


@dataclass
class Linear:
    """``answer`` is (index, outbound), (index, Asks) or None when no rule holds."""

    sub_rules: Mapping[str, Sequence[Rule]] = field(default_factory=dict)
    domain_sets: Mapping[str, Sequence[str]] = field(default_factory=dict)
    cidr_sets: Mapping[str, Sequence[str]] = field(default_factory=dict)
    classical_sets: Mapping[str, Sequence[Rule]] = field(default_factory=dict)
    sites: Mapping[str, Sequence[str]] = field(default_factory=dict)
    countries: Mapping[str, str] = field(default_factory=dict)
    """Prefix to country code."""
    systems: Mapping[str, str] = field(default_factory=dict)

    def answer(
        self,
        rules: Sequence[Rule],
        flow: Flow,
        start: int = 0,
        resolved: bool = False,
        known: bool = False,
        off: Collection[int] = (),
    ) -> tuple[int, str] | None:
        for at, rule in enumerate(rules):
            if at < start or at in off:
                continue
            try:
                outbound = self.decide(rule, flow, resolved, known)
            except Asks as question:
                return at, "?" + question.what
            if outbound is not None:
                return at, outbound
        return None

    def decide(self, rule: Rule, flow: Flow, resolved: bool, known: bool) -> str | None:
        if not isinstance(rule, SubRule):
            return rule.outbound if self.holds(rule, flow, resolved, known) else None
        if not self.holds(rule.condition, flow, resolved, known):
            return None
        for inner in self.sub_rules[rule.outbound]:
            outbound = self.decide(inner, flow, resolved, known)
            if outbound is not None:
                return outbound
        return None

    def holds(self, rule: Rule, flow: Flow, resolved: bool, known: bool) -> bool:
        host = flow.sniff_host or flow.host
        match rule:
            case Always():
                return True
            case Logic(word="NOT", parts=(part,)):
                return not self.holds(part, flow, resolved, known)
            case Logic(word="AND", parts=parts):
                return all(self.holds(part, flow, resolved, known) for part in parts)
            case Logic(parts=parts):
                return any(self.holds(part, flow, resolved, known) for part in parts)
            case Text(word="GEOSITE", text=text):
                return host != "" and any(in_domains(entry, host) for entry in self.sites[text])
            case Text(text=text) if rule.word in ("DID", "DID-SUFFIX", "OWNER", "ZONE", "TRUST"):
                return flow.identity is not None and of_somebody(rule.word, text, flow.identity)
            case Text(text=text) if rule.word.startswith("DOMAIN"):
                return host != "" and compare(rule.word.removeprefix("DOMAIN-"), text, host)
            case Text(text=text):
                self.need_process(flow, known)
                name = flow.process if "NAME" in rule.word else flow.process_path
                return name != "" and compare(rule.word.rpartition("-")[2], text, name)
            case Words(words=words):
                value = {
                    "NETWORK": flow.network,
                    "IN-TYPE": flow.kind.upper(),
                    "IN-NAME": flow.in_name,
                    "IN-USER": flow.in_user,
                    "REMATCH-NAME": flow.rematch,
                }[rule.word]
                return value in words or ("SOCKS" in words and value in ("SOCKS4", "SOCKS5"))
            case Numbers(ranges=ranges):
                if rule.word == "UID":
                    self.need_process(flow, known)
                value = {
                    "DST-PORT": flow.dst_port,
                    "SRC-PORT": flow.src_port,
                    "IN-PORT": flow.in_port,
                    "UID": flow.uid,
                    "DSCP": flow.dscp,
                }[rule.word]
                return any(low <= value <= high for low, high in ranges)
            case Cidr():
                ip = self.address(flow, rule.src, rule.asks and not resolved)
                return ip is not None and same_bits(rule, ip)
            case Place(code=code):
                ip = self.address(flow, rule.src, rule.asks and not resolved)
                if ip is None:
                    return False
                if code == "lan":
                    return in_lan(ip)
                table = self.systems if "ASN" in rule.word else self.countries
                return any(ip in ipaddress.ip_network(net) and value == code for net, value in table.items())
            case InSet(name=name, swap=swap, no_resolve=no_resolve):
                return self.in_set(name, flow, swap, resolved or swap or no_resolve, known)
        raise AssertionError(rule)

    def in_set(self, name: str, flow: Flow, swap: bool, resolved: bool, known: bool) -> bool:
        if name in self.domain_sets:
            host = flow.sniff_host or flow.host
            return host != "" and any(in_domains(entry, host) for entry in self.domain_sets[name])
        if swap:
            flow = replace(flow, src_ip=flow.dst_ip, dst_ip=flow.src_ip, src_port=flow.dst_port, dst_port=flow.src_port)
        if name in self.cidr_sets:
            ip = self.address(flow, False, not resolved)
            return ip is not None and any(ip in ipaddress.ip_network(net, strict=False) for net in self.cidr_sets[name])
        return any(self.holds(rule, flow, resolved, known) for rule in self.classical_sets[name])

    @staticmethod
    def address(flow: Flow, src: bool, may_ask: bool) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
        text = flow.src_ip if src else flow.dst_ip
        if not text and may_ask and flow.host:
            raise Asks("address")
        return ipaddress.ip_address(text) if text else None

    @staticmethod
    def need_process(flow: Flow, known: bool) -> None:
        if not known and not flow.process and not flow.process_path and flow.uid < 0:
            raise Asks("process")


def of_somebody(word: str, wanted: str, who: Identity) -> bool:
    level = LEVELS.index(who.trust.label)
    if word == "TRUST":
        return level >= LEVELS.index(wanted)
    if level < LEVELS.index("key-proven"):
        return False
    if word == "DID-SUFFIX":
        return who.host == wanted or who.host.endswith("." + wanted)
    return wanted == {"DID": who.did, "OWNER": who.owner, "ZONE": who.zone}[word]


def compare(how: str, wanted: str, value: str) -> bool:
    """``how`` is the tail of a rule's word; what is neither of the known ones is equality."""
    match how:
        case "SUFFIX":
            return ("." + value).endswith("." + wanted)
        case "KEYWORD":
            return wanted in value
        case "REGEX":
            return re.search(wanted, value, re.IGNORECASE) is not None
        case "WILDCARD":
            return fnmatch.fnmatchcase(value.lower(), wanted.lower().replace("[", "[[]"))
    return value.lower() == wanted.lower()


def same_bits(rule: Cidr, ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    width = 32 if rule.prefix.family == 4 else 128
    if ip.version != rule.prefix.family:
        return False
    ours, theirs = (format(number, f"0{width}b") for number in (rule.prefix.number, int(ip)))
    if rule.word.endswith("SUFFIX"):
        return rule.prefix.bits == 0 or ours[-rule.prefix.bits :] == theirs[-rule.prefix.bits :]
    return ours[: rule.prefix.bits] == theirs[: rule.prefix.bits]


def in_lan(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    private = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
    return (
        ip.is_loopback
        or ip.is_link_local
        or ip.is_multicast
        or ip.is_unspecified
        or any(ip in ipaddress.ip_network(net) for net in private)
    )


def in_domains(entry: str, host: str) -> bool:
    """Whether an entry of a domain set holds ``host``."""
    if entry.startswith("+."):
        return in_domains(entry[2:], host) or in_domains(entry[1:], host)
    if entry.startswith("."):
        wanted = entry[1:].split(".")
        labels = host.split(".")
        return len(labels) > len(wanted) and _labels(wanted, labels[-len(wanted) :])
    wanted, labels = entry.split("."), host.split(".")
    return len(labels) == len(wanted) and _labels(wanted, labels)


def _labels(wanted: list[str], labels: list[str]) -> bool:
    return all(one in ("*", other) for one, other in zip(wanted, labels, strict=True))
