"""The keys of ``dns`` that make it a home's server: what each comes to, and what is said of a wrong one."""

from __future__ import annotations

from functools import reduce
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from cyfs_ns.config.house import LOCAL_TIME, AnswersConfig, HouseConfig, LogConfig
from cyfs_ns.config.load import LoadedDns, load_dns
from cyfs_ns.filters import AnswerRules, parse_alias
from cyfs_ns.local import LocalSettings
from cyfs_ns.policy import ViewSpec
from cyfs_ns.routersets import Lifetimes
from cyfs_ns.wire import name_text

FULL = (Path(__file__).with_name("house.yaml")).read_bytes()


def section(text: str) -> LoadedDns:
    return load_dns(f"dns:\n  listen: ':53'\n{text}".encode())


def house(text: str) -> HouseConfig:
    loaded = section(text)
    assert loaded.dns is not None, loaded.faults
    return loaded.dns.house


def at(config: object, path: str) -> Any:
    return reduce(
        lambda value, name: value[int(name)] if name.isdigit() else getattr(value, name), path.split("."), config
    )


FULLY: dict[str, Any] = {
    "local.settings": LocalSettings(
        ttl=30, lease_ttl=20, domain="home.example", domains=((ip_network("10.0.0.0/8"), "guest.example"),),
        expand_hosts=True, lease_short_names=False, local_domains=("lan", "home.example"), domain_needed=True,
        bogus_priv=False, special=False, canary=False, version="names", identity="box",
    ),
    "local.zone_files": (("y.example", "/etc/y.zone"),),
    "local.hosts_files": ("/etc/hosts.d",),
    "local.lease_files": ("/tmp/dhcp.leases",),
    "policy.lists.0.place": "https://lists.example/ads.txt",
    "policy.lists.0.interval": 7200.0,
    "policy.lists.0.source.format": "adblock",
    "policy.lists.1.source.allow": True,
    "policy.lists.1.place": "/etc/mine.txt",
    "policy.lists.2.source.rewrites": True,
    "policy.views.0.name": "everybody",
    "policy.views.0.lists": ("ads", "mine", "names"),
    "policy.views.0.block": ("+.bad.example", "||worse.example^"),
    "policy.views.0.allow": ("good.bad.example",),
    "policy.views.0.answer.mode": "address",
    "policy.views.0.answer.addresses": ("192.0.2.254",),
    "policy.views.0.answer.ttl": 10,
    "policy.views.0.answer.explain": False,
    "policy.views.1.name": "kids",
    "policy.views.1.match": ("192.168.1.50", "192.168.2.0/24", "02:00:00:00:00:01", "tablet"),
    "policy.views.1.tags": ("child",),
    "policy.views.1.lists": ("ads",),
    "policy.views.1.answer.mode": "nxdomain",
    "policy.views.1.answer.ttl": 10,
    "policy.views.1.group": "kids",
    "policy.views.1.pauses.0.name": "bedtime",
    "policy.views.1.pauses.0.lists": None,
    "policy.views.1.pauses.1.lists": ("names",),
    "policy.views.1.pauses.1.when.zone.key": "Europe/Berlin",
    "policy.views.2.refuse": True,
    "policy.servers": (("kids", ("1.1.1.3",)),),
    "answers": AnswersConfig(
        rebind=True, rebind_localhost=True, rebind_allow=("+.corp.example",), bogus=("203.0.113.1",),
        ignored=("203.0.113.0/24",), aliases=(parse_alias("1.2.3.4,5.6.7.8"),), family="prefer-ipv4",
        dropped=frozenset({255, 65}), hints=False, ech=False,
    ),
    "subnet.mode": "add",
    "subnet.bits4": 20,
    "subnet.bits6": 48,
    "subnet.fixed.0.prefix": bytes((203, 0, 113)),
    "sets.lifetimes": Lifetimes(margin=30, low=60, high=3600),
    "sets.connmark": True,
    "log": LogConfig(privacy="anonymous", max_bytes=1 << 20, statistics="names"),
}  # fmt: skip


@pytest.mark.parametrize("key", FULLY)
def test_every_key_is_read(key: str) -> None:
    loaded = load_dns(FULL)
    assert loaded.faults == ()
    assert loaded.dns is not None
    assert at(loaded.dns.house, key) == FULLY[key]


def test_names_and_sets_are_read() -> None:
    loaded = load_dns(FULL)
    assert loaded.dns is not None
    local, sets = loaded.dns.house.local, loaded.dns.house.sets
    assert [(name_text(record.owner), record.rtype, record.ttl) for record in local.records] == [
        ("nas.home.example", 1, 60), ("txt.home.example", 16, None),
    ]  # fmt: skip
    ((origin, records),) = local.zones
    assert (origin, [name_text(record.owner) for record in records]) == ("z.example", ["z.example", "www.z.example"])
    assert local.synthesised[0].name("192.168.2.7") == "ip-192-168-2-7.pool.example"
    assert [str(target) for rule in sets.rules for target in rule.targets] == ["nft set inet fw4 vpn4", "ipset vpn"]
    assert dict(loaded.dns.house.policy.views[0].rewrites) == {
        "r.example": ("192.0.2.1",),
        "s.example": ("192.0.2.1", "2001:db8::1"),
        "+.t.example": ("www.example",),
    }


def test_little_said_is_little_done() -> None:
    quiet = house("")
    assert quiet.answers.compiled().idle
    assert quiet.policy.views == (ViewSpec(name="everybody"),)
    assert quiet.log.privacy == "none"
    assert quiet.subnet.told(None, "9.9.9.9") is None


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("  block-answer: nxdomain", "policy.views.0.answer.mode", "nxdomain"),
        ("  block-answer: 192.0.2.1", "policy.views.0.answer.addresses", ("192.0.2.1",)),
        ("  block-answer: ['192.0.2.1', '2001:db8::1']", "policy.views.0.answer.mode", "address"),
        ("  block-answer: {addresses: 192.0.2.1}", "policy.views.0.answer.mode", "address"),
        ("  client-subnet: pass", "subnet.mode", "pass"),
        ("  client-subnet: {fixed: 192.0.2.0/24}", "subnet.mode", "add"),
        ("  query-log: {}", "log.privacy", "full"),
        ("  query-log: {privacy: names}", "log.statistics", "names"),
        ("  lists: {a: {path: /a, interval: 1s}}", "policy.lists.0.interval", 60.0),
        ("  domain: lan", "local.settings.local_domains", ("lan",)),
        ("  local-domains: ['']", "local.settings.local_domains", ("",)),
        ("  clients: [{name: a, match: tablet, schedule: [{}]}]", "policy.views.1.pauses.0.when.zone", LOCAL_TIME),
        ("  clients: [{name: a, match: tablet}]", "policy.views.1.lists", ()),
    ],
)
def test_short_forms(text: str, path: str, value: object) -> None:
    assert at(house(text), path) == value


WRONG = [
    ("records: ['nas.lan 60 A nothing']", "/dns/records/0", "nothing"),
    ("records: ['nas.lan BLAH 1']", "/dns/records/0", ""),
    ("zones: {z.example: ['www A 1.2.3.4.5']}", "/dns/zones/z.example", "1.2.3.4.5"),
    ("zones: {z.example: {file: ''}}", "/dns/zones/z.example/file", "empty"),
    ("zones: {'a b': []}", "/dns/zones/a b", "a b"),
    ("domain: 'a b'", "/dns/domain", "a b"),
    ("domains: {nets: lan}", "/dns/domains/nets", "prefix"),
    ("domains: {10.0.0.0/8: 'a b'}", "/dns/domains/10.0.0.0~18", "a b"),
    ("local-domains: ['a b']", "/dns/local-domains/0", "a b"),
    ("local-ttl: long", "/dns/local-ttl", "long"),
    ("synth-domain: ['lan']", "/dns/synth-domain/0", "lan"),
    ("interface-name: [gw.lan]", "/dns/interface-name/0", "gw.lan"),
    ("dynamic-host: ['nas.lan,lan']", "/dns/dynamic-host/0", "nas.lan"),
    ("machine-mx: 'no name'", "/dns/machine-mx", "no name"),
    ("lists: {ads: {}}", "/dns/lists/ads", "either a 'url' or a 'path'"),
    ("lists: {ads: {url: 'https://a.example/', path: /a}}", "/dns/lists/ads/url", "either a 'url' or a 'path'"),
    ("lists: {ads: {url: 'ftp://a.example/'}}", "/dns/lists/ads/url", ""),
    ("lists: {ads: {path: /a, format: pdf}}", "/dns/lists/ads/format", "adblock"),
    ("lists: {ads: {path: /a, action: burn}}", "/dns/lists/ads/action", "block"),
    ("lists: {'a/b': {path: /a}}", "/dns/lists", "cannot be the name of a list"),
    ("block: ['a b c']", "/dns/block/0", "pattern"),
    ("allow: ['/(/']", "/dns/allow/0", ""),
    ("rewrites: {a.example: 'WHAT;A;1'}", "/dns/rewrites/a.example", "WHAT"),
    ("rewrites: {'a b': 1.1.1.1}", "/dns/rewrites/a b", "pattern"),
    ("block-answer: sometimes", "/dns/block-answer", "nxdomain"),
    ("block-answer: {mode: never}", "/dns/block-answer/mode", "nxdomain"),
    ("block-answer: {mode: address}", "/dns/block-answer", "addresses"),
    ("time-zone: Mars/Olympus", "/dns/time-zone", "no time zone"),
    ("clients: [{match: [10.0.0.1]}]", "/dns/clients/0", "'name' is missing"),
    ("clients: [{name: a}]", "/dns/clients/0", "needs 'match'"),
    ("clients: [{name: a, match: [10.0.0.0/99]}]", "/dns/clients/0/match/0", "prefix"),
    ("clients: [{name: a, match: tablet, lists: [ads]}]", "/dns/clients/0/lists", "no list 'ads'"),
    ("clients: [{name: a, match: tablet, block: ['a b']}]", "/dns/clients/0/block/0", "pattern"),
    ("clients: [{name: a, match: x}, {name: a, match: y}]", "/dns/clients", "two clients"),
    ("clients: [{name: a, match: x, schedule: [{days: never}]}]", "/dns/clients/0/schedule/0/days", "never"),
    ("clients: [{name: a, match: x, schedule: [{from: noon}]}]", "/dns/clients/0/schedule/0", "noon"),
    ("clients: [{name: a, match: x, schedule: [{lists: [ads]}]}]", "/dns/clients/0/schedule/0/lists", "no list"),
    ("clients: [{name: a, match: x, nameserver: 'ftp://x'}]", "/dns/clients/0/nameserver", "ftp"),
    ("rebind-allow: ['a b']", "/dns/rebind-allow", "a b"),
    ("bogus-nxdomain: [nothing]", "/dns/bogus-nxdomain", "nothing"),
    ("ignore-address: [1.2.3.4/99]", "/dns/ignore-address", "1.2.3.4/99"),
    ("alias: ['1.2.3.4']", "/dns/alias/0", "old,new"),
    ("family: ipv5", "/dns/family", "prefer-ipv4"),
    ("filter-types: [BLAH]", "/dns/filter-types/0", "BLAH"),
    ("client-subnet: always", "/dns/client-subnet", "strip"),
    ("client-subnet: {fixed: [net]}", "/dns/client-subnet/fixed/0", "prefix"),
    ("client-subnet: {ipv4-bits: 33}", "/dns/client-subnet/ipv4-bits", "32"),
    ("nftset: ['/a.example/']", "/dns/nftset/0", ""),
    ("ipset: ['/a.example/']", "/dns/ipset/0", ""),
    ("set-timeout: {min: 100, max: 10}", "/dns/set-timeout", ""),
    ("query-log: {privacy: some}", "/dns/query-log/privacy", "anonymous"),
    ("query-log: {max-size: big}", "/dns/query-log/max-size", "size"),
]


@pytest.mark.parametrize(("text", "path", "words"), WRONG, ids=[wrong[0][:50] for wrong in WRONG])
def test_a_wrong_value_is_told_with_its_place(text: str, path: str, words: str) -> None:
    loaded = section(f"  {text}")
    assert loaded.dns is None
    errors = [fault for fault in loaded.faults if fault.severity == "error"]
    assert {(fault.path, fault.line) for fault in errors} == {(path, 3)}
    assert words in errors[0].message


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("clients: [{name: a, match: x, blok: [a]}]", "/dns/clients/0/blok"),
        ("clients: [{name: a, match: x, schedule: [{form: '1:00'}]}]", "/dns/clients/0/schedule/0/form"),
        ("lists: {a: {path: /a, urll: b}}", "/dns/lists/a/urll"),
        ("block-answer: {mod: zero}", "/dns/block-answer/mod"),
        ("client-subnet: {bits: 1}", "/dns/client-subnet/bits"),
        ("set-timeout: {most: 1}", "/dns/set-timeout/most"),
        ("query-log: {size: 1}", "/dns/query-log/size"),
        ("zones: {z.example: {file: /z, fil: 1}}", "/dns/zones/z.example/fil"),
    ],
)
def test_an_unknown_key_is_a_warning(text: str, path: str) -> None:
    loaded = section(f"  {text}")
    assert loaded.dns is not None
    assert [(fault.path, fault.line, fault.severity) for fault in loaded.faults] == [(path, 3, "warning")]


def test_compiled_rules_have_what_was_written() -> None:
    loaded = load_dns(FULL)
    assert loaded.dns is not None
    rules = loaded.dns.house.answers.compiled()
    assert isinstance(rules, AnswerRules)
    assert rules.rebind_spared.get("x.corp.example")
    assert not rules.idle
    assert rules.bogus.has((4, 0xCB007101))
