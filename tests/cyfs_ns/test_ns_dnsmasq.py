"""dnsmasq's options: every one is known, read as dnsmasq reads it, and listed in the table of the documentation."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_ns.config.load import load_dns
from cyfs_ns.dnsmasq import COMMANDS, MISSING, NEEDLESS, OUT_OF_SCOPE, TAKEN, Imported, imported_yaml, read_dnsmasq
from cyfs_ns.zonefile import read_record

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "docs" / "dnsmasq.md"


class Disk(dict[str, str]):
    """A few files, by path."""

    def read(self, path: str) -> str | None:
        return self.get(path)

    def listing(self, path: str) -> list[str] | None:
        found = [name[len(path) + 1 :] for name in self if name.startswith(path + "/")]
        return found or None


def imported(*lines: str, **more: str) -> Imported:
    files = Disk({"main": "\n".join(lines), **{path.replace("__", "/"): text for path, text in more.items()}})
    return read_dnsmasq("main", files)


def dns(*lines: str, **more: str) -> dict[str, Any]:
    """The ``dns`` section, nothing having been lost."""
    outcome = imported(*lines, **more)
    assert [note for note in outcome.notes if note.level != "note"] == []
    section = outcome.settings["dns"]
    assert isinstance(section, dict)
    return section


def only(key: str, *lines: str) -> Any:
    return dns(*lines)[key]


def complaints(*lines: str) -> list[str]:
    return [f"{note.place} {note.level}" for note in imported(*lines).notes]


# -- lines and files ---------------------------------------------------------------------------------------------------


def test_lines_are_read_as_dnsmasq_reads_them() -> None:
    section = dns(
        "# a comment", "", "  domain = lan  # and another", "expand-hosts\r",
        "txt-record=a.lan,one,\"two, with # and \\\"\"",
    )  # fmt: skip
    assert (section["domain"], section["expand-hosts"]) == ("lan", True)
    assert section["records"] == ['a.lan TXT "one" "two, with # and \\""']
    assert complaints('txt-record=a,"open') == ["main:1 error"]


def test_included_files_are_read_in_their_place() -> None:
    section = dns(
        "conf-file=one", "conf-dir=d,*.conf", "servers-file=s", one="domain=one.lan", d__b="domain=never",
        **{"d__x.conf": "domain=x.lan", "d__a.conf": "domain=a.lan", "d__.h.conf": "domain=never"}, s="server=10.0.0.1",
    )  # fmt: skip
    assert (section["domain"], section["servers"]) == ("x.lan", ["10.0.0.1"])
    assert (
        dns("conf-dir=d,.bak", d__a="domain=a.lan", **{"d__z.bak": "domain=z", "d__y~": "domain=y"})["domain"]
        == "a.lan"
    )
    notes = imported("conf-file=main", "conf-file=gone", "conf-dir=nowhere", "servers-file=s", s="domain=x").notes
    assert [str(note).partition(": ")[0] for note in notes] == ["main:1", "main:2", "main:3", "s:1"]
    assert {note.level for note in notes} == {"error"}


def test_nothing_is_passed_over_in_silence() -> None:
    notes = imported("dnssec", "user=nobody", "dhcp-range=10.0.0.2,10.0.0.9", "no-such-thing", "port=x").notes
    assert [note.level for note in notes] == ["warning", "note", "note", "error", "error"]
    assert [note.place for note in notes] == [f"main:{line}" for line in range(1, 6)]
    assert "signatures are not checked" in str(notes[0])


@pytest.mark.parametrize("option", sorted(NEEDLESS.keys() | MISSING.keys() | OUT_OF_SCOPE))
def test_what_is_not_taken_over_is_said(option: str) -> None:
    outcome = imported(f"{option}=1")
    assert [note.level for note in outcome.notes] == ["warning" if option in MISSING else "note"]
    assert option in outcome.notes[0].text


# -- options -----------------------------------------------------------------------------------------------------------


def test_doors() -> None:
    section = dns("port=5353", "listen-address=127.0.0.1,::1", "interface=eth0", "interface=lan1")
    assert section["listen"] == ["127.0.0.1:5353", "[::1]:5353"]
    assert section["interfaces"] == ["eth0", "lan1"]
    assert only("listen", "") == [":53"]
    assert imported("port=0").settings["dns"] == {"enable": False, "nameserver": ["system"], "bogus-priv": False}
    assert complaints("port=99999", "listen-address=lan", "interface=eth*") == [
        "main:1 error", "main:2 error", "main:3 warning"
    ]  # fmt: skip


def test_servers() -> None:
    lines = (
        "server=8.8.8.8", "server=1.1.1.1#5353@eth1", "server=/corp.example/lab/10.0.0.1#54",
        "server=/a.corp.example/#", "server=//10.0.0.2", "server=/*odd/10.0.0.3", "server=fe80::1%eth0",
        "rev-server=10.1.0.0/16,10.0.0.4",
    )  # fmt: skip
    assert dns(*lines)["servers"] == [
        "8.8.8.8", "1.1.1.1#5353@eth1", "/corp.example/lab/10.0.0.1#54", "/a.corp.example/#", "//10.0.0.2",
        "/*odd/10.0.0.3", "fe80::1%eth0", "/1.10.in-addr.arpa/10.0.0.4",
    ]  # fmt: skip
    assert complaints("server=", "server=/x", "rev-server=x,1.1.1.1") == [
        "main:1 error", "main:2 error", "main:3 error"
    ]  # fmt: skip


def test_the_system_s_servers() -> None:
    assert only("nameserver", "") == ["system"]
    section = dns("resolv-file=/run/resolv.conf")
    assert (section["nameserver"], section["resolv-file"]) == (["system"], "/run/resolv.conf")
    assert complaints("resolv-file=", "resolv-file=/a", "resolv-file=/b") == ["main:1 error", "main:3 warning"]
    assert "nameserver" not in dns("no-resolv", "server=8.8.8.8")
    for lines in (("no-resolv",), ("no-resolv", "server=/lan/10.0.0.1")):
        assert only("nameserver", *lines) == ["rcode://refused"], "the system's servers are not to be asked"
    assert [only("strategy", line) for line in ("strict-order", "all-servers")] == ["strict", "parallel"]


def test_local_domains() -> None:
    lines = ("local=/lan/.home/", "server=/corp.example/", "local=//", "rev-server=192.168.1.0/24", "domain-needed")
    section = dns(*lines, "bogus-priv")
    assert section["local-domains"] == ["lan", "home", "corp.example", "", "1.168.192.in-addr.arpa"]
    assert (section["domain-needed"], section["bogus-priv"]) == (True, True)
    assert dns("domain-needed")["bogus-priv"] is False, "which is not what it is where nothing is written"


def test_reverse_zones_end_where_names_do() -> None:
    assert only("local-domains", "rev-server=10.0.0.0/7") == ["10.in-addr.arpa", "11.in-addr.arpa"]
    assert only("local-domains", "rev-server=192.168.1.5") == ["5.1.168.192.in-addr.arpa"]
    assert only("local-domains", "rev-server=fd00::/8") == ["d.f.ip6.arpa"]
    assert only("local-domains", "rev-server=fd00::/7") == ["c.f.ip6.arpa", "d.f.ip6.arpa"]


def test_addresses_for_whole_domains() -> None:
    outcome = imported(
        "address=/ads.example/tracker.example/", "address=/pool.example/10.0.0.1", "address=/pool.example/fd00::1",
        "address=/null.example/#", "address=/*.below.example/10.0.0.2",
    )  # fmt: skip
    assert outcome.settings["hosts"] == {
        "+.pool.example": ["10.0.0.1", "fd00::1"],
        "+.null.example": ["0.0.0.0", "::"],
        ".below.example": "10.0.0.2",
    }
    section = dns("address=/ads.example/tracker.example/")
    assert (section["block"], section["block-answer"]) == (["+.ads.example", "+.tracker.example"], "nxdomain")
    assert only("rewrites", "address=/#/10.0.0.1") == {"*": ["10.0.0.1"]}
    assert complaints("address=/x/y", "address=1.2.3.4", "address=/x*/1.2.3.4") == [
        "main:1 error", "main:2 error", "main:3 error"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "line",
    [
        "bogus-nxdomain=foo", "bogus-nxdomain=1.2.3.4/99", "ignore-address=1.2.3.4,", "nftset=/x/", "nftset=x",
        "ipset=/x/", "add-subnet=99", "filter-rr=FOO", "filter-rr=A,", "server=/x/y z", "server=1.2.3.4#99999",
        "server=x y", "server=/*a b/1.1.1.1",
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_said_here_and_not_at_the_start(line: str) -> None:
    assert complaints(line) == ["main:1 error"]
    assert load_dns(imported_yaml(imported(line)).encode()).faults == ()


def test_domains_by_their_end() -> None:
    assert imported("address=/*-cdn.example/10.0.0.1", "address=//10.0.0.2").settings["hosts"] == {
        "*-cdn.example": "10.0.0.1",
        "*": "10.0.0.2",
    }
    assert only("block", "address=/*ads.example/") == [r"/ads\.example$/"]
    assert only("local-domains", "address=//") == [""]
    assert only("rewrites", "address=/*/10.0.0.1") == {"*": ["10.0.0.1"]}
    assert only("servers", "local=/*corp/", "server=/#/10.0.0.1", "server=/*/a.example/10.0.0.2") == [
        "/*corp/", "10.0.0.1", "10.0.0.2", "/a.example/10.0.0.2"
    ]  # fmt: skip


def test_answers_that_are_changed_or_refused() -> None:
    section = dns(
        "bogus-nxdomain=64.94.110.11", "bogus-nxdomain=10.0.0.0/8", "ignore-address=1.2.3.4",
        "alias=1.2.3.0,6.7.8.0,255.255.255.0", "filter-A", "filter-AAAA", "filter-rr=TXT,mx",
        "stop-dns-rebind", "rebind-localhost-ok", "rebind-domain-ok=/plex.direct/lan/", "rebind-domain-ok=one",
    )  # fmt: skip
    assert section["bogus-nxdomain"] == ["64.94.110.11", "10.0.0.0/8"]
    assert section["ignore-address"] == ["1.2.3.4"]
    assert section["alias"] == ["1.2.3.0,6.7.8.0,255.255.255.0"]
    # Of several that fit dnsmasq obeys the last, we the first.
    assert only("alias", "alias=1.2.3.0,6.7.8.0,255.255.255.0", "alias=1.2.3.4,5.6.7.8") == [
        "1.2.3.4,5.6.7.8", "1.2.3.0,6.7.8.0,255.255.255.0"
    ]  # fmt: skip
    assert complaints(
        "alias=1.2.3.4", "alias=1.2.3.0/24,5.6.7.8", "alias=1.2.3.4,5.6.7.8,24", "alias=1.2.3.4-1.2.3.9,5.6.7.8",
        "alias=1.2.3.9-1.2.3.4,5.6.7.0,255.255.255.0",
    ) == [f"main:{line} error" for line in range(1, 6)]  # fmt: skip
    assert section["filter-types"] == ["A", "AAAA", "TXT", "MX"]
    assert section["rebind-protection"] is True
    assert section["rebind-localhost"] is True
    assert section["rebind-allow"] == ["+.plex.direct", "+.lan", "+.one"]
    assert "filter-types" not in dns("filter-rr=ANY")
    assert only("filter-types", "filterwin2k") == ["SOA", "SRV"]


def test_caching() -> None:
    section = dns("cache-size=1000", "min-cache-ttl=60", "max-cache-ttl=3600", "max-ttl=600", "no-negcache")
    assert section["cache-max-size"] == 1000
    assert section["cache"] == {"min-ttl": 60, "max-ttl": 3600, "max-client-ttl": 600, "max-negative-ttl": 0}
    assert only("cache", "max-cache-ttl=30", "min-cache-ttl=60") == {"max-ttl": 60, "min-ttl": 60}
    assert only("cache", "min-cache-ttl=7200") == {"min-ttl": 3600}, "dnsmasq obeys no more"
    assert "cache" not in dns("max-cache-ttl=0")
    assert only("cache", "cache-size=0", "max-cache-ttl=60") == {"max-ttl": 0, "max-negative-ttl": 0, "max-stale": 0}
    stale = [
        only("cache", line)["max-stale"] for line in ("use-stale-cache", "use-stale-cache=60", "use-stale-cache=0")
    ]
    assert stale == [86400, 60, 2592000]
    most = 4294967295
    section = dns(*(f"{option}={most}" for option in ("cache-size", "max-ttl", "max-cache-ttl", "use-stale-cache")))
    assert section["cache-max-size"] == 10_000_000
    assert section["cache"] == dict.fromkeys(("max-client-ttl", "max-ttl", "max-stale"), 2**31 - 1)


def test_names_of_the_house() -> None:
    section = dns(
        "no-hosts", "addn-hosts=/etc/more", "hostsdir=/etc/hosts.d", "expand-hosts", "local-ttl=30", "dhcp-ttl=5",
        "dhcp-fqdn", "dhcp-leasefile=/tmp/dhcp.leases", "domain=lan", "domain=guest.lan,192.168.2.0/24,local",
        "domain=range.lan,10.0.0.0,10.0.0.127",
    )  # fmt: skip
    assert section["use-system-hosts"] is False
    assert section["hosts-files"] == ["/etc/more", "/etc/hosts.d"]
    assert section["lease-files"] == ["/tmp/dhcp.leases"]
    assert (section["local-ttl"], section["lease-ttl"], section["lease-short-names"]) == (30, 5, False)
    assert (section["domain"], section["expand-hosts"]) == ("lan", True)
    assert section["domains"] == {"192.168.2.0/24": "guest.lan", "10.0.0.0/25": "range.lan"}
    assert section["local-domains"] == ["guest.lan", "2.168.192.in-addr.arpa"]
    assert only("lease-files", "dhcp-range=10.0.0.2,10.0.0.9") == ["/var/lib/misc/dnsmasq.leases"]
    assert complaints("domain=#", "domain=x,eth0", "domain=x,local") == [f"main:{line} warning" for line in (1, 2, 3)]


def test_records() -> None:
    written = {
        "host-record=nas,nas.lan,192.168.1.5,fd00::5,60": [
            "nas 60 A 192.168.1.5", "nas 60 AAAA fd00::5", "nas.lan 60 A 192.168.1.5", "nas.lan 60 AAAA fd00::5",
        ],
        "host-record=two.lan,10.0.0.1,10.0.0.2": ["two.lan A 10.0.0.2"],
        "cname=www.lan,ftp.lan,nas.lan,30": ["www.lan 30 CNAME nas.lan.", "ftp.lan 30 CNAME nas.lan."],
        "txt-record=t.lan": ['t.lan TXT ""'],
        "ptr-record=5.1.168.192.in-addr.arpa,nas.lan": ["5.1.168.192.in-addr.arpa PTR nas.lan."],
        'ptr-record="A (1)\u3000x.lan",nas.lan': ["A\\032\\0401\\041\\227\\128\\128x.lan PTR nas.lan."],
        "mx-host=lan,mail.lan,50": ["lan MX 50 mail.lan."],
        "srv-host=_sip._udp.lan,pbx.lan,5060,10,20": ["_sip._udp.lan SRV 10 20 5060 pbx.lan."],
        "srv-host=_none._tcp.lan": ["_none._tcp.lan SRV 0 0 1 ."],
        "naptr-record=n.lan,1,2,u,E2U+sip,!^.*$!sip:a@b!": ['n.lan NAPTR 1 2 "u" "E2U+sip" "!^.*$!sip:a@b!" .'],
        "caa-record=lan,0,issue,ca.example; a=b": ['lan CAA 0 issue "ca.example; a=b"'],
        "dns-rr=x.lan,51,01:23 45,67": ["x.lan TYPE51 \\# 4 01234567"],
    }  # fmt: skip
    for line, expected in written.items():
        records = only("records", line)
        assert records == expected
        for record in records:
            read_record(record)
    assert only("records", "mx-host=a.lan", "mx-host=b.lan,5", "mx-target=m.lan") == [
        "a.lan MX 1 m.lan.", "b.lan MX 5 m.lan."
    ]  # fmt: skip
    assert only("records", "srv-host=_ldap._tcp,dc.lan,389", "domain=lan") == ["_ldap._tcp.lan SRV 0 0 389 dc.lan."]
    assert complaints("host-record=x", "cname=x", "ptr-record=x", "caa-record=x,y", "dns-rr=x,1,0102", "mx-host=a") == [
        "main:1 error", "main:2 error", "main:3 warning", "main:4 error", "main:5 error", "main:6 warning"
    ]  # fmt: skip


def test_names_made_from_addresses() -> None:
    section = dns("synth-domain=lan,192.168.0.0/24,x-", "synth-domain=lan,10.0.0.1,10.0.0.9,n*")
    assert section["synth-domain"] == ["lan,192.168.0.0/24,x-", "lan,10.0.0.1,10.0.0.9,n*"]
    assert complaints("synth-domain=lan", "synth-domain=lan,eth0") == ["main:1 error", "main:2 error"]


def test_names_of_our_own_addresses() -> None:
    lines = (
        "interface-name=gw.lan,br-lan",
        "interface-name=gw4.lan,br-lan/4",
        "dynamic-host=nas.lan,0.0.0.8,::8,br-lan",
    )
    section = dns(*lines, "localise-queries")
    assert section["interface-name"] == ["gw.lan,br-lan", "gw4.lan,br-lan/4"]
    assert section["dynamic-host"] == ["nas.lan,0.0.0.8,::8,br-lan"]
    assert section["localise-queries"] is True
    assert complaints("interface-name=gw.lan", "dynamic-host=nas.lan,br-lan") == ["main:1 error", "main:2 error"]


def test_mail() -> None:
    assert only("machine-mx", "selfmx", "localmx", "mx-target=post.lan") == "self"
    assert only("machine-mx", "localmx", "mx-target=post.lan") == "post.lan"
    assert complaints("localmx") == ["main:1 warning"]
    at_home = read_dnsmasq("main", Disk({"main": "localmx\nmx-host=a.lan"}), "router")
    assert at_home.notes == ()
    section = at_home.settings["dns"]
    assert isinstance(section, dict)
    assert section["machine-mx"] == "router"
    assert section["records"] == ["a.lan MX 1 router.", "router MX 0 router."]


def test_zones() -> None:
    lines = ("auth-server=ns.example.com,eth0", "auth-soa=7,admin.example.com,60,30,90", "auth-ttl=120")
    assert dns(*lines, "auth-zone=home.example.com")["zones"] == {
        "home.example.com": ["@ 120 SOA ns.example.com. admin.example.com. 7 60 30 90 120", "@ 120 NS ns.example.com."]
    }
    assert complaints("auth-zone=home.example.com,1.2.3.0/24") == ["main:1 warning"]


def test_router_sets_and_marks() -> None:
    section = dns(
        "nftset=/a.example/b.example/4#inet#fw4#vpn,6#inet#fw4#vpn6", "ipset=/c.example/vpn,vpn6", "conntrack"
    )
    assert section["nftset"] == ["/a.example/b.example/4#inet#fw4#vpn,6#inet#fw4#vpn6"]
    assert section["ipset"] == ["/c.example/vpn,vpn6"]
    assert section["connmark"] is True


def test_client_subnets() -> None:
    key = "client-subnet"
    nothing = {"mode": "add", "ipv4-bits": 0, "ipv6-bits": 0}
    assert only(key, "add-subnet") == nothing
    assert only(key, "add-subnet=24") == {**nothing, "ipv4-bits": 24}
    assert only(key, "add-subnet=24,56") == {"mode": "add", "ipv4-bits": 24, "ipv6-bits": 56}
    assert only(key, "add-subnet=1.2.3.4/24,fd00::/64") == {**nothing, "fixed": ["1.2.3.0/24", "fd00::/64"]}
    assert only(key, "strip-subnet") == {"mode": "strip"}


def test_the_log_of_queries() -> None:
    assert only("query-log", "log-queries=extra") == {"privacy": "full"}


WITH_VALUES = """\
listen-address=127.0.0.1
interface=eth0
no-resolv
server=1.1.1.1#5353
server=/corp.example/10.0.0.1
server=/a.corp.example/#
rev-server=10.1.0.0/16,10.0.0.4
local=/lan/
local=//
domain-needed
bogus-priv
address=/ads.example/
address=/pool.example/10.0.0.1
address=/#/10.0.0.1
bogus-nxdomain=64.94.110.0/24
ignore-address=1.2.3.4
alias=1.2.3.0,6.7.8.0,255.255.255.0
filter-AAAA
filter-rr=TXT
stop-dns-rebind
rebind-localhost-ok
rebind-domain-ok=/lan/
cache-size=1000
min-cache-ttl=60
max-ttl=600
no-negcache
use-stale-cache
no-hosts
addn-hosts=/etc/more
expand-hosts
local-ttl=30
dhcp-ttl=5
dhcp-fqdn
dhcp-leasefile=/tmp/dhcp.leases
domain=lan
domain=guest.lan,192.168.2.0/24
host-record=nas.lan,192.168.1.5,fd00::5
cname=www.lan,nas.lan
txt-record=t.lan,"a, b",c
synth-domain=lan,192.168.3.0/24,dhcp-
auth-server=ns.example.com,eth0
auth-zone=home.example.com
nftset=/a.example/4#inet#fw4#vpn
ipset=/c.example/vpn
conntrack
add-subnet=24,56
log-queries
strict-order
localise-queries
interface-name=gw.lan,br-lan/4
dynamic-host=eight.lan,0.0.0.8,br-lan
localmx
mx-target=post.lan
filterwin2k
"""


def test_what_comes_out_is_understood() -> None:
    outcome = imported(*WITH_VALUES.splitlines())
    assert [str(note) for note in outcome.notes if note.level != "note"] == []
    loaded = load_dns(imported_yaml(outcome).encode())
    assert [str(fault) for fault in loaded.faults] == []
    assert loaded.dns is not None


def test_what_comes_out_is_a_file_of_ours() -> None:
    outcome = imported("domain=lan", "dnssec", "address=/x.example/1.2.3.4", "txt-record=a,grüße")
    text = imported_yaml(outcome)
    assert text.startswith("# main:2: warning: dnssec is not carried")
    assert yaml.safe_load(text) == outcome.settings


def test_hostile_text_makes_no_lines_of_its_own() -> None:
    text = imported_yaml(imported("no\u2028such\x85thing", "wat\x1b[2J"))
    assert all(line.startswith(("#", "dns:", "  ")) for line in text.splitlines())
    assert "\x1b" not in text
    assert "no\\u2028such\\x85thing" in text


@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(TAKEN)), st.text(st.sampled_from('a1.:/#,@"\\ *-é'), max_size=20)), max_size=5
    )
)
@settings(max_examples=200)
def test_any_value_is_taken_over_or_complained_of(pairs: list[tuple[str, str]]) -> None:
    outcome = imported(*(f"{option}={value}" for option, value in pairs))
    assert yaml.safe_load(imported_yaml(outcome)) == outcome.settings
    section = outcome.settings["dns"]
    assert isinstance(section, dict)
    for line in section.get("records", []):
        read_record(line)
    if section["enable"]:
        assert load_dns(imported_yaml(outcome).encode()).faults == ()


@pytest.mark.parametrize(
    "line",
    [
        "local=/*a b/",
        "local=/*.a../",
        "local=/*.*/",
        "server=/*x.1:300/",
        "interface=a/b",
        "address=/*\u00fc.example/1.2.3.4",
        "address=/*\u00fc.example/",
        "rev-server=fe80::1%eth0,1.1.1.1",
        "add-subnet=fe80::1%1/64",
        "add-subnet=10.0.0.0/24,129",
    ],
)
def test_what_makes_no_sense_to_us_is_not_taken_over(line: str) -> None:
    assert complaints(line) == ["main:1 error"]
    assert imported(line).settings == imported("").settings


# -- the table ---------------------------------------------------------------------------------------------------------


def rows() -> dict[str, tuple[str, str]]:
    """Option to its state and the last column."""
    found = re.findall(
        r"^\| `([A-Za-z0-9-]+)` \| (yes|no|other way|out of scope) \| (.*) \|$", TABLE.read_text(), re.MULTILINE
    )
    assert len(found) == len({option for option, _, _ in found})
    return {option: (state, rest) for option, state, rest in found}


def test_the_table_says_what_the_reader_does() -> None:
    state = {option: what for option, (what, _) in rows().items()}
    assert {option for option, what in state.items() if what == "yes"} == TAKEN.keys()
    assert {option for option, what in state.items() if what == "no"} == MISSING.keys()
    assert {option for option, what in state.items() if what == "other way"} == NEEDLESS.keys() | COMMANDS
    assert {option for option, what in state.items() if what == "out of scope"} == OUT_OF_SCOPE


def test_every_yes_of_the_table_names_a_test_that_exists() -> None:
    functions = {
        f"{path.name}::{node.name}"
        for path in ROOT.glob("tests/**/test_*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    for option, (state, rest) in rows().items():
        named = re.findall(r"`(test_\w+\.py::test_\w+)`", rest)
        assert state != "yes" or named, option
        assert set(named) <= functions, option


def test_every_yes_is_shown_by_both_servers_or_by_a_test_of_behaviour() -> None:
    """A test of this file shows how a line is read; what comes of it another one must."""
    live = (ROOT / "tests" / "cyfs_ns" / "test_ns_dnsmasq_live.py").read_text()
    for option, (state, rest) in rows().items():
        named = [name for name in re.findall(r"`(test_\w+\.py)::test_\w+`", rest) if name != Path(__file__).name]
        assert state != "yes" or named, option
        if "test_ns_dnsmasq_live.py" in named:
            assert re.search(rf"(\\n|\b){option}(=|\\n|\n|\")", live), option


@pytest.mark.skipif(shutil.which("dnsmasq") is None, reason="needs dnsmasq: its list of options")
def test_no_option_of_dnsmasq_is_missing_from_the_table() -> None:
    shown = subprocess.run(["dnsmasq", "--help"], capture_output=True, text=True, check=True).stdout
    options = set(re.findall(r"^(?:-\S, |    )--([A-Za-z0-9-]+)", shown, re.MULTILINE))
    assert len(options) > 150
    assert options <= rows().keys()
