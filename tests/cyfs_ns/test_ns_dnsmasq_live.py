"""The real dnsmasq beside our reading of its configuration: the same questions, the same answers.

Not asked, for we differ on purpose: the top of a local domain without records (it exists, so NODATA), and
``localhost``, which dnsmasq only knows from hosts files.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import dns.message
import dns.query
import dns.rdatatype
import pytest

from cyfs_ns.config.load import load_dns
from cyfs_ns.dnsmasq import imported_yaml, read_dnsmasq
from cyfs_ns.io.house import build_house
from cyfs_ns.io.texts import Disk
from cyfs_ns.local import Alias, LocalNames
from cyfs_ns.message import rcode_text, rtype_number
from cyfs_ns.records import data_text
from cyfs_ns.reply import records
from cyfs_ns.wire import name_text, name_wire

pytestmark = pytest.mark.skipif(shutil.which("dnsmasq") is None, reason="needs dnsmasq")

CONFIGURATION = """\
no-resolv
no-hosts
addn-hosts={tmp}/hosts
dhcp-leasefile={tmp}/leases
domain=lan
expand-hosts
local=/lan/
domain-needed
bogus-priv
local-ttl=60
host-record=router,router.lan,192.168.1.1,fd00::1
cname=www.lan,nas.lan
cname=deep.lan,www.lan
txt-record=t.lan,"one, two",three
srv-host=_sip._udp.lan,nas.lan,5060,10,20
mx-host=lan,nas.lan,50
naptr-record=n.lan,1,2,u,E2U+sip,!^.*$!sip:a@b!
caa-record=lan,0,issue,ca.example
ptr-record=9.1.168.192.in-addr.arpa,special.lan
synth-domain=lan,192.168.3.0/24,dhcp-
synth-domain=lan,192.168.4.50,192.168.4.70,seq-*
synth-domain=lan,fd01::/64,six-
server=/sub.lan/192.0.2.1
address=/pool.example/10.9.9.9
address=/null.example/#
"""

HOSTS = """\
192.168.1.5 nas files
fd00::5 nas
192.168.1.6 a.b.lan
192.168.1.7 elsewhere.example
"""

QUESTIONS = [
    ("router", "A"), ("router.lan", "A"), ("router.lan", "AAAA"), ("router.lan", "TXT"), ("nas", "A"), ("nas.lan", "A"),
    ("nas.lan", "AAAA"), ("files.lan", "A"), ("files.lan", "AAAA"), ("www.lan", "A"), ("deep.lan", "A"),
    ("deep.lan", "CNAME"), ("t.lan", "TXT"), ("t.lan", "A"), ("_sip._udp.lan", "SRV"), ("lan", "MX"), ("lan", "CAA"),
    ("n.lan", "NAPTR"), ("a.b.lan", "A"), ("nothing.lan", "A"), ("x.y.lan", "TXT"), ("nothing", "A"),
    ("nothing", "AAAA"), ("dhcp-192-168-3-7.lan", "A"), ("dhcp-192-168-3-7.lan", "AAAA"), ("seq-0.lan", "A"),
    ("seq-20.lan", "A"), ("seq-21.lan", "A"), ("six-fd01--5.lan", "AAAA"), ("dhcp-192-168-9-7.lan", "A"),
    ("7.3.168.192.in-addr.arpa", "PTR"), ("51.4.168.192.in-addr.arpa", "PTR"),
    ("elsewhere.example", "A"), ("x.pool.example", "A"),
    ("null.example", "A"), ("x.null.example", "AAAA"), ("1.1.168.192.in-addr.arpa", "PTR"),
    ("5.1.168.192.in-addr.arpa", "PTR"), ("6.1.168.192.in-addr.arpa", "PTR"), ("9.1.168.192.in-addr.arpa", "PTR"),
    ("77.1.168.192.in-addr.arpa", "PTR"), ("1.2.3.10.in-addr.arpa", "PTR"), ("NAS.LAN", "A"),
    ("5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa", "PTR"),
]  # fmt: skip


@pytest.fixture
def server(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "hosts").write_text(HOSTS)
    configuration = CONFIGURATION.format(tmp=tmp_path)
    (tmp_path / "dnsmasq.conf").write_text(configuration)
    for _ in range(20):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [
            "dnsmasq", "--keep-in-foreground", f"--conf-file={tmp_path}/dnsmasq.conf", f"--port={port}",
            "--listen-address=127.0.0.1", "--bind-interfaces", "--user=", "--group=", "--pid-file=", "--log-facility=-",
        ]  # fmt: skip
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        line = next((line for line in process.stderr if "started" in line or "failed" in line), "")
        if "started" in line:
            break
        process.wait()
        process.stderr.close()
    else:
        pytest.fail(f"dnsmasq does not start: {line}")
    try:
        yield port
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def house(path: Path) -> LocalNames:
    imported = read_dnsmasq(str(path), Disk())
    assert [str(note) for note in imported.notes if note.level != "note"] == []
    loaded = load_dns(imported_yaml(imported).encode())
    assert [str(fault) for fault in loaded.faults] == []
    assert loaded.dns is not None
    return build_house(loaded.dns, loaded.hosts).local


def ours(names: LocalNames, name: str, rtype: str) -> tuple[str, list[str]]:
    got = names.lookup(name_wire(name), rtype_number(rtype))
    assert got is not None
    assert not isinstance(got, Alias)
    shown = [f"{name_text(owner)} {ttl} {data_text(kind, data)}" for owner, kind, ttl, data in records(got, 0)]
    return rcode_text(got.rcode), sorted(shown)


def theirs(port: int, name: str, rtype: str) -> tuple[str, list[str]]:
    query = dns.message.make_query(name, rtype)
    reply = dns.query.udp(query, "127.0.0.1", port=port, timeout=10)
    shown = [
        f"{rrset.name.to_text(omit_final_dot=True).lower()} {rrset.ttl} {rdata.to_text()}"
        for rrset in reply.answer
        for rdata in rrset
    ]
    return dns.rcode.to_text(reply.rcode()), sorted(shown)


def test_the_house_answers_as_dnsmasq_does(server: int, tmp_path: Path) -> None:
    names = house(tmp_path / "dnsmasq.conf")
    differing = {
        question: (mine, other)
        for question in QUESTIONS
        if (mine := ours(names, *question)) != (other := theirs(server, *question))
    }
    assert differing == {}


def test_where_another_server_is_asked_the_house_is_silent(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text(HOSTS)
    (tmp_path / "dnsmasq.conf").write_text(CONFIGURATION.format(tmp=tmp_path))
    names = house(tmp_path / "dnsmasq.conf")
    assert names.lookup(name_wire("x.sub.lan"), 1) is None
    assert ours(names, "x.lan", "A") == ("NXDOMAIN", [])
