"""The real dnsmasq beside our reading of its configuration: the same questions, the same answers.

Not asked, for we differ on purpose: the top of a local domain without records (it exists, so NODATA), and
``localhost``, which dnsmasq only knows from hosts files.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import dns.edns
import dns.message
import dns.query
import dns.rdatatype
import dns.reversename
import pytest
from dnsmasqpair import MACHINE, Client, Upstream, inside, shown, told_by_both
from netns import Namespace, namespace
from nsprogram import upstream

from cyfs_ns.config.load import load_dns
from cyfs_ns.dnsmasq import imported_yaml, read_dnsmasq
from cyfs_ns.io.house import build_house
from cyfs_ns.io.texts import Disk
from cyfs_ns.local import Alias, LocalNames
from cyfs_ns.message import rcode_text, rtype_number
from cyfs_ns.records import data_text
from cyfs_ns.reply import records
from cyfs_ns.wire import name_text, name_wire
from tests.freeport import free_port

pytestmark = pytest.mark.skipif(shutil.which("dnsmasq") is None, reason="needs dnsmasq")
T = TypeVar("T")

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


# -- the same file, the same questions ---------------------------------------------------------------------------------

WORLD = [
    "* 300 A 9.8.7.6", "* 300 AAAA 2620:fe::9", "* 300 TXT \"text\"", "* 300 MX 5 mail.example.",
    "* 300 SRV 0 0 1 srv.example.", "private.example 300 A 10.1.2.3", "loop.example 300 A 127.0.0.9",
    "private.plex.example 300 A 10.1.2.4", "bogus.example 300 A 203.0.113.66", "net.example 300 A 203.0.114.7",
    "forged.example 300 A 203.0.113.99", "alias.example 300 A 203.0.115.7", "long.example 7200 A 198.51.100.2",
    "short.example 5 A 198.51.100.3", "gone.example 300 PTR nobody.",
    "no.example 0 NXDOMAIN -", "x.pool.no.example 0 NXDOMAIN -", "a.no.example 0 NXDOMAIN -",
]  # fmt: skip
OTHER = ["* 300 A 203.0.113.2", "* 300 AAAA 2001:db8::2", "* 300 PTR there.corp.example."]

USUAL = (
    "port={port}\nlisten-address=127.0.0.1\nbind-interfaces\nno-resolv\nno-hosts\nlocal-ttl=60\nserver=127.0.0.1#{up}\n"
)

CASES: dict[str, tuple[str, list[str]]] = {
    "doors": (USUAL, ["a.example A", "a.example A +tcp", "a.example A @127.0.0.2", "a.example A @127.0.0.2 +tcp"]),
    "servers": (
        USUAL + "server=/corp.example/127.0.0.1#{other}\nserver=/open.corp.example/#\nlocal=/lan/\nserver=/home/\n"
        "rev-server=10.1.0.0/16,127.0.0.1#{other}\nlocal=/deep.open.corp.example/\n",
        ["a.example A", "x.corp.example A", "corp.example A", "x.open.corp.example A", "x.deep.open.corp.example A",
         "x.lan A", "y.home A", "y.home TXT", "1.0.1.10.in-addr.arpa PTR", "xcorp.example A"],
    ),
    "names that stay": (
        USUAL + "domain-needed\nbogus-priv\n",
        ["plain A", "plain AAAA", "plain TXT", "1.2.168.192.in-addr.arpa PTR", "1.2.51.198.in-addr.arpa PTR",
         "1.0.0.10.in-addr.arpa PTR"],
    ),
    "no resolver": ("port={port}\nlisten-address=127.0.0.1\nno-resolv\nno-hosts\n", ["a.example A"]),
    "no hosts": (USUAL + "addn-hosts={tmp}/hosts\nhostsdir={tmp}/more\n",
                 [MACHINE + " A", "hosted.example A", "dropped.example A", "dropped.example AAAA"]),
    "hosts of the system": (USUAL.replace("no-hosts\n", ""), [MACHINE + " A", "a.example A"]),
    "included": ("conf-file={tmp}/part\nconf-dir={tmp}/parts,*.conf\nservers-file={tmp}/servers\n",
                 ["a.example A", "from.part A", "from.dir A", "from.bak A", "x.corp.example A"]),
    "addresses of domains": (
        USUAL + "address=/pool.example/10.9.9.9\naddress=/ads.example/\naddress=/null.example/#\n"
        "address=/six.example/fd00::9\naddress=/x.pool.example/10.9.9.8\n",
        ["pool.example A", "a.pool.example A", "x.pool.example A", "y.x.pool.example A", "x.ads.example A",
         "ads.example AAAA", "ads.example A", "null.example A", "null.example AAAA", "six.example AAAA"],
    ),
    "every address": (USUAL + "address=/#/10.9.9.9\n", ["a.example A", "b.c.d A"]),
    "bogus": (
        USUAL + "bogus-nxdomain=203.0.113.66\nbogus-nxdomain=203.0.114.0/24\n",
        ["bogus.example A", "net.example A", "a.example A"],
    ),
    "ignored": (USUAL + "ignore-address=203.0.113.99\n", ["forged.example A", "a.example A"]),
    "translated": (
        USUAL + "alias=203.0.115.0,192.168.7.0,255.255.255.0\nalias=198.51.100.2,192.168.8.8\n",
        ["alias.example A", "long.example A", "a.example A", "alias.example AAAA"],
    ),
    "no IPv4": (USUAL + "filter-A\n", ["a.example A", "a.example AAAA", "a.example TXT"]),
    "no IPv6": (USUAL + "filter-AAAA\n", ["a.example A", "a.example AAAA", "a.example TXT"]),
    "no texts": (USUAL + "filter-rr=TXT,MX\n", ["a.example A", "a.example TXT", "a.example MX"]),
    "windows": (
        USUAL + "filterwin2k\nsrv-host=_own._tcp.lan,pbx.lan,5060\n",
        ["_ldap._tcp.example SRV", "a.example SOA", "a.example A", "_own._tcp.lan SRV"],
    ),
    "rebinding": (
        USUAL + "stop-dns-rebind\nrebind-domain-ok=/plex.example/\n",
        ["private.example A", "private.plex.example A", "loop.example A", "a.example A"],
    ),
    "rebinding to ourselves": (
        USUAL + "stop-dns-rebind\nrebind-localhost-ok\n", ["loop.example A", "private.example A"],
    ),
    "told for less": (USUAL + "max-ttl=600\n", ["long.example A", "long.example A", "short.example A", "a.example A"]),
    "mail": (
        USUAL + "addn-hosts={tmp}/hosts\nhost-record=own.example,192.168.1.9\nmx-host=plain.example\nselfmx\n"
        "cname=called.example,own.example\naddress=/pool.example/10.9.9.9\nmx-target=post.example\n",
        ["hosted.example MX", "own.example MX", "plain.example MX", "called.example MX", "a.example MX",
         MACHINE + " MX"],
    ),
    "mail to one": (
        USUAL + "addn-hosts={tmp}/hosts\nlocalmx\n", ["hosted.example MX", "a.example MX", MACHINE + " MX"],
    ),
    "records": (
        USUAL.replace("local-ttl=60", "local-ttl=33") + "dns-rr=raw.example,65280,01:23:45\n"
        "mx-host=lan,mail.lan,50\nmx-target=post.example\n"
        "mx-host=usual.example\ncaa-record=lan,0,issue,ca.example\nhost-record=both.lan,10.0.0.1,10.0.0.2,fd00::1\n",
        ["raw.example TYPE65280", "lan MX", "usual.example MX", "lan CAA", "both.lan A", "both.lan AAAA"],
    ),
    "known by another type": (
        USUAL + "host-record=no.example,10.0.0.1\naddress=/pool.no.example/10.9.9.9\n",
        ["no.example A", "no.example TXT", "x.pool.no.example A", "x.pool.no.example TXT", "a.no.example TXT"],
    ),
    "in quotes": (
        USUAL + 'ptr-record=_http._tcp.lan,"New Employee; Page._http._tcp.lan"\naddress="/pool.example/10.9.9.9"\n'
        'txt-record="New Employee; Page._http._tcp.lan","a=b, c"\n',
        ["_http._tcp.lan PTR", "x.pool.example A", "new\\032employee\\;\\032page._http._tcp.lan TXT"],
    ),
    "quoted values": (
        USUAL + r'''txt-record=t1.lan,"a\032b","back\\slash","tab\there","quo\"te"
txt-record=t2.lan,"  padded  ",  bare  , "x"
txt-record=t3.lan,"semi;colon # sign",plain#sign
txt-record=t4.lan,"",x,""
txt-record="t5.lan","v=spf1 include:a.example, ~all","wait..."
txt-record=t6.lan,one "two, three" four,"end\n"
txt-record = t7.lan ,  lead ,	tab	in
cname="c1.lan",c2.lan,"na s.lan","30"
cname=c3.lan,nas.lan.
srv-host="_my svc._tcp.lan","na s.lan","5060","1","2"
mx-host="m1.lan","na s.lan","50"
mx-host=m2.lan,nas.lan.,5
ptr-record=p1.lan,"na s.lan"
naptr-record=na.lan,1,2,"u","E2U+sip","!^..*$!sip:a,b@c!",
caa-record=ca.lan,0,issue,"ca.example; a..b"
''',
        [*(f"t{number}.lan TXT" for number in range(1, 8)), "c1.lan CNAME", "c2.lan CNAME", "c3.lan CNAME",
         "_my\\032svc._tcp.lan SRV", "m1.lan MX", "m2.lan MX", "p1.lan PTR", "na.lan NAPTR", "ca.lan CAA"],
    ),
    "domains by their end": (
        USUAL + "address=/*x.example/10.9.9.9\naddress=/*x.example/fd00::9\naddress=/ax.example/10.9.9.8\n"
        "address=/*aax.example/10.9.9.7\naddress=/x.example/10.9.9.6\nserver=/bx.example/127.0.0.1#{other}\n"
        "address=/*no.example/\naddress=/*null.example/#\naddress=/*.below.example/10.9.9.5\n"
        "host-record=hx.example,10.9.9.4\n"
        "server=/*y.example/127.0.0.1#{other}\nserver=/ay.example/#\nserver=/*.z.example/127.0.0.1#{other}\n"
        "local=/*oc.example/\nlocal=/*.dot.example/\naddress=//10.9.9.3\n",
        ["x.example A", "q.x.example A", "qx.example A", "a.qx.example A", "qx.example AAAA", "ax.example A",
         "c.ax.example A", "aax.example A", "baax.example A", "bx.example A", "q.bx.example A", "hx.example A",
         "qx.example TXT", "no.example A", "ano.example A", "b.ano.example AAAA", "null.example A",
         "anull.example AAAA", "below.example A", "a.below.example A", "abelow.example A",
         "y.example A", "by.example A", "ay.example A", "b.ay.example A", "z.example A", "a.z.example A",
         "az.example A", "oc.example A", "a.boc.example TXT", "dot.example A", "a.dot.example A", "plain A",
         "plain.x A"],
    ),
    "plain names have none": (USUAL + "address=//\n", ["plain A", "plain AAAA", "plain.example A"]),
    "names of private addresses": (
        USUAL + "host-record=a.lan,10.0.0.1\n",
        ["1.0.0.10.in-addr.arpa PTR", "1.0.0.10.in-addr.arpa TXT", "2.0.0.10.in-addr.arpa TXT",
         "1.1.168.192.in-addr.arpa MX"],
    ),
    "how long reverse records last": (
        USUAL + "host-record=a.lan,192.168.9.1,300\nhost-record=b.lan,192.168.9.2\naddn-hosts={tmp}/hosts\n",
        ["a.lan A", "1.9.168.192.in-addr.arpa PTR", "2.9.168.192.in-addr.arpa PTR", "8.1.168.192.in-addr.arpa PTR"],
    ),
    "plain names above others": (
        USUAL + "domain-needed\nhost-record=www.top,10.0.0.1\ntxt-record=a.b.other,hi\ncname=c.third,www.top\n",
        ["top A", "top AAAA", "other A", "b.other A", "third A", "none A", "top MX"],
    ),
    "a server for every name": (
        USUAL.replace("server=127.0.0.1#{up}\n", "") + "server=/#/127.0.0.1#{other}\n", ["a.example A", "plain A"],
    ),
    "nobody for every name": (
        USUAL.replace("server=127.0.0.1#{up}\n", "") + "local=/#/\nserver=/y.example/127.0.0.1#{other}\n",
        ["a.example A", "plain A", "y.example A"],
    ),
    "translated, the last that fits": (
        USUAL + "alias=203.0.115.0,10.0.0.0,255.255.255.0\nalias=203.0.115.7,192.168.7.1\n", ["alias.example A"],
    ),
    "translated, one of a range": (
        USUAL + "alias=203.0.115.5-203.0.115.9,192.168.7.0,255.255.255.0\n"
        "alias=203.0.114.1-203.0.114.6,192.168.8.0,255.255.255.0\nalias=203.0.113.77,192.168.0.0,255.255.0.0\n",
        ["alias.example A", "net.example A", "bogus.example A"],
    ),
    "subnets of clients": (
        USUAL + "domain=usual.lan\ndomain=guest.lan,192.168.2.0/24,local\nexpand-hosts\naddn-hosts={tmp}/plain\n",
        ["one.usual.lan A", "two.guest.lan A", "none.guest.lan A", "2.2.168.192.in-addr.arpa PTR",
         "9.2.168.192.in-addr.arpa PTR"],
    ),
}  # fmt: skip


def files(tmp: Path, **ports: int) -> None:
    """What the cases read, beside the file itself."""
    for folder in ("more", "parts"):
        (tmp / folder).mkdir()
    (tmp / "hosts").write_text("192.168.1.8 hosted.example\n")
    (tmp / "more" / "one").write_text("192.168.1.7 dropped.example\nfd00::7 dropped.example\n")
    (tmp / "plain").write_text("192.168.1.1 one\n192.168.2.2 two\n")
    (tmp / "part").write_text((USUAL + "host-record=from.part,10.0.0.1\n").format(**ports))
    (tmp / "parts" / "a.conf").write_text("host-record=from.dir,10.0.0.2\n")
    (tmp / "parts" / "b.bak").write_text("host-record=from.bak,10.0.0.3\n")
    (tmp / "servers").write_text("server=/corp.example/127.0.0.1#{other}\n".format(**ports))


@contextmanager
def world(tmp: Path, text: str, **more: int) -> Iterator[tuple[Path, int, Upstream, Upstream]]:
    """The file, its port, and the servers it names."""
    first, second, port = Upstream(WORLD), Upstream(OTHER), free_port()
    with upstream(first) as up, upstream(second) as other:
        files(tmp, port=port, up=up, other=other)
        (tmp / "same.conf").write_text(text.format(tmp=tmp, port=port, up=up, other=other))
        yield tmp / "same.conf", port, first, second


@pytest.mark.parametrize("case", CASES)
def test_the_same_file_gives_the_same_answers(case: str, tmp_path: Path) -> None:
    text, questions = CASES[case]
    with world(tmp_path, text) as (config, port, _, _):
        theirs, ours = told_by_both(
            config, port, lambda client: [f"{each}: {shown(client.ask(each))}" for each in questions]
        )
    assert ours == theirs


COUNTED: dict[str, tuple[str, list[str], tuple[str, str]]] = {
    # What is asked, and then whose answers from above are counted.
    "cached": ("", ["a.example A", "a.example A"], ("a.example", "A")),
    "of a cache that keeps nothing": ("cache-size=0\n", ["a.example A", "a.example A"], ("a.example", "A")),
    "denials are kept": ("", ["gone.example A", "gone.example A"], ("gone.example", "A")),
    "denials are not kept": ("no-negcache\n", ["gone.example A", "gone.example A"], ("gone.example", "A")),
    "more than the greatest least TTL": (
        "min-cache-ttl=7200\n", ["short.example A", "short.example A"], ("short.example", "A"),
    ),
    "the least TTL": ("min-cache-ttl=60\n", ["short.example A", "short.example A"], ("short.example", "A")),
}  # fmt: skip


@pytest.mark.parametrize("case", COUNTED)
def test_upstreams_are_asked_as_often(case: str, tmp_path: Path) -> None:
    lines, questions, (name, rtype) = COUNTED[case]
    with world(tmp_path, USUAL + lines) as (config, port, above, _):

        def listen(client: Client) -> tuple[int, tuple[str, list[str]]]:
            above.asked.clear()
            last = [shown(client.ask(each), ttl="TTL" in case) for each in questions][-1]
            return above.times(name, rtype), last

        theirs, ours = told_by_both(config, port, listen)
    assert ours == theirs


def with_and_without(line: str, tmp: Path, heard: Callable[[Path, str], T]) -> list[T]:
    """What is heard of a file with this line and of one without; both at once, for they wait a lot."""
    for name in ("with", "without"):
        (tmp / name).mkdir()
    with ThreadPoolExecutor() as both:
        return list(both.map(heard, (tmp / "with", tmp / "without"), (f"{USUAL}{line}\n", USUAL)))


def test_answers_are_kept_no_longer_than_the_bound(tmp_path: Path) -> None:
    def asked(tmp: Path, text: str) -> tuple[int, int]:
        with world(tmp, text) as (config, port, above, _):

            def listen(client: Client) -> int:
                above.asked.clear()
                client.ask("long.example A")
                time.sleep(1.1)
                client.ask("long.example A")
                return above.times("long.example")

            return told_by_both(config, port, listen)

    assert with_and_without("max-cache-ttl=1", tmp_path, asked) == [(2, 2), (1, 1)]


def test_old_answers_serve_while_nobody_answers(tmp_path: Path) -> None:
    def told(tmp: Path, text: str) -> tuple[object, object]:
        with world(tmp, text) as (config, port, above, _):
            above.records = ["brief.example 1 A 9.8.7.5"]

            def listen(client: Client) -> tuple[str, list[str]]:
                above.down = False
                client.ask("brief.example A")
                above.down = True
                time.sleep(1.1)
                return shown(client.ask("brief.example A"), ttl=False)

            return told_by_both(config, port, listen)

    old = ("NOERROR", ["brief.example A 9.8.7.5"])
    # Ours keeps a day of old answers without being told to.
    assert with_and_without("use-stale-cache=60", tmp_path, told) == [(old, old), (("none", []), old)]


@pytest.mark.parametrize("line", ["add-subnet=1.2.3.4/24", "add-subnet=1.2.3.4/24,2001:db9::/48", "strip-subnet"])
def test_upstreams_are_told_the_same_of_clients(line: str, tmp_path: Path) -> None:
    with world(tmp_path, USUAL + line + "\n") as (config, port, above, _):

        def listen(client: Client) -> list[list[str]]:
            above.asked.clear()
            client.ask("a.example A")
            client.ask("b.example A")
            told = [*above.about("a.example"), *above.about("b.example")]
            return [[str(option) for option in each.options if option.otype == dns.edns.ECS] for each in told]

        theirs, ours = told_by_both(config, port, listen)
    assert ours == theirs
    assert len(ours) == 2
    assert all(ours) is line.startswith("add")


def test_queries_are_logged(tmp_path: Path) -> None:
    with world(tmp_path, USUAL + "log-queries\n") as (config, port, _, _):
        told_by_both(config, port, lambda client: [client.ask(each) for each in ("a.example A", "a.example A")])
    assert (tmp_path / "dnsmasq.log").read_text().count("query[A] a.example from 127.0.0.1") == 2
    lines = [json.loads(line) for line in (tmp_path / "home" / "queries.log").read_text().splitlines()]
    times = sum(line.get("times", 1) for line in lines if (line["name"], line["client"]) == ("a.example", "127.0.0.1"))
    assert times == 2


# -- on links of their own ---------------------------------------------------------------------------------------------

LINKS = """\
link add lan type veth peer name lanpeer
link add guest type veth peer name guestpeer
link set lanpeer up
link set guestpeer up
link set lan up
link set guest up
addr add 192.168.5.1/24 dev lan
addr add 192.168.5.2/24 dev lan
addr add 10.9.0.1/16 dev guest
-6 addr add fd05::1/64 dev lan nodad
-6 addr add fd06::1/64 dev lan nodad preferred_lft 0
-6 addr add fd09::1/48 dev guest nodad
"""

RIGHT_HERE = "port=53\nno-resolv\nno-hosts\ndomain=lan\nlocal=/lan/\nlocal-ttl=60\naddn-hosts={tmp}/hosts\n"

HERE_HOSTS = """\
192.168.5.20 both.lan
10.9.0.20 both.lan
192.168.5.77 hidden.lan
192.168.5.1 router.lan
"""

ASKED_AT = ("192.168.5.1", "192.168.5.2", "10.9.0.1", "127.0.0.1", "fd05::1")

HERE_CASES: dict[str, tuple[str, list[str]]] = {
    "by the address that was asked": (
        "localise-queries\nhost-record=many.lan,192.168.5.9,fd05::9\nhost-record=many.lan,10.9.0.9\n"
        "host-record=two.lan,192.168.5.9\nhost-record=two.lan,192.168.5.10\nhost-record=two.lan,10.9.0.9\n"
        "host-record=away.lan,172.16.0.1\nhost-record=away.lan,172.16.0.2\n"
        "address=/pool.lan/192.168.5.3\naddress=/pool.lan/10.9.0.3\ncname=called.lan,many.lan\n"
        "interface-name=ours.lan,lan\ninterface-name=ours.lan,guest\n",
        [f"{name}.lan {rtype} @{where}" for where in ASKED_AT for name, rtype in (
            ("many", "A"), ("many", "AAAA"), ("two", "A"), ("away", "A"), ("pool", "A"), ("called", "A"),
            ("both", "A"), ("both", "A +tcp"), ("ours", "A"))],
    ),
    "and to everybody without it": ("host-record=many.lan,192.168.5.9\nhost-record=many.lan,10.9.0.9\n",
                                    [f"many.lan A @{where}" for where in ASKED_AT]),
    "names of our own addresses": (
        "interface-name=gw.lan,lan\ninterface-name=gw4.lan,lan/4\ninterface-name=gw6.lan,lan/6\n"
        "interface-name=none.lan,nosuch\ninterface-name=hidden.lan,lan\ninterface-name=far.example,guest\n",
        [*(f"{name} {rtype} @192.168.5.1" for name in (
            "gw.lan", "gw4.lan", "gw6.lan", "none.lan", "hidden.lan", "far.example", "router.lan")
           for rtype in ("A", "AAAA")), "gw.lan TXT", "none.lan TXT",
         *(f"{dns.reversename.from_address(ip).to_text(omit_final_dot=True)} PTR" for ip in (
             "192.168.5.1", "192.168.5.2", "fd05::1", "fd06::1", "10.9.0.1", "192.168.5.20"))],
    ),
    "numbers in our networks": (
        "dynamic-host=eight.lan,0.0.0.8,lan\ndynamic-host=six.lan,::8,lan\ndynamic-host=nine.lan,0.0.1.9,::1:0:0:0:9,guest\n",
        [*(f"{name}.lan {rtype}" for name in ("eight", "six", "nine") for rtype in ("A", "AAAA")),
         "8.5.168.192.in-addr.arpa PTR", "9.1.9.10.in-addr.arpa PTR"],
    ),
    "doors of one link": ("interface=lan\nbind-interfaces\n",
                          [f"both.lan A @{where}{how}" for where in ASKED_AT[:3] for how in ("", " +tcp")]),
    "doors of one address": ("listen-address=10.9.0.1\nbind-interfaces\n",
                             [f"both.lan A @{where}{how}" for where in ASKED_AT[:3] for how in ("", " +tcp")]),
}  # fmt: skip


@pytest.fixture
def links() -> Iterator[Namespace]:
    with namespace() as ns:
        for line in LINKS.splitlines():
            ns.run("ip", *line.split())
        yield ns


@pytest.mark.parametrize("case", HERE_CASES)
def test_the_same_file_on_the_same_links(case: str, links: Namespace, tmp_path: Path) -> None:
    lines, questions = HERE_CASES[case]
    (tmp_path / "hosts").write_text(HERE_HOSTS)
    (tmp_path / "same.conf").write_text(RIGHT_HERE.format(tmp=tmp_path) + lines)
    theirs, ours = told_by_both(
        tmp_path / "same.conf", 53, lambda client: [f"{each}: {shown(client.ask(each))}" for each in questions], links
    )
    assert ours == theirs


def test_names_follow_our_addresses(links: Namespace, tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("")
    (tmp_path / "same.conf").write_text(
        RIGHT_HERE.format(tmp=tmp_path) + "interface-name=gw.lan,guest\ndynamic-host=nas.lan,0.0.0.8,guest\n"
    )

    def listen(client: Client) -> list[tuple[str, list[str]]]:
        links.run("ip", "addr", "replace", "10.9.0.1/16", "dev", "guest")
        questions = ("gw.lan A", "nas.lan A")
        with_it = eventually(client, questions, lambda heard: heard[0][1] == ["gw.lan 60 A 10.9.0.1"])
        links.run("ip", "addr", "del", "10.9.0.1/16", "dev", "guest")
        links.run("ip", "addr", "add", "10.7.0.1/16", "dev", "guest")
        without = eventually(client, questions, lambda heard: heard[0][1] == ["gw.lan 60 A 10.7.0.1"])
        links.run("ip", "addr", "del", "10.7.0.1/16", "dev", "guest")
        return [*with_it, *without]

    theirs, ours = told_by_both(tmp_path / "same.conf", 53, listen, links)
    assert ours == theirs


def eventually(
    client: Client, questions: Iterable[str], heard: Callable[[list[tuple[str, list[str]]]], bool]
) -> list[tuple[str, list[str]]]:
    """The answers, once ``heard`` likes them."""
    questions, end = list(questions), time.monotonic() + 20
    while not heard(found := [shown(client.ask(each, 0.5)) for each in questions]):
        assert time.monotonic() < end, found
        time.sleep(0.1)
    return found


@pytest.fixture
def alone() -> Iterator[Namespace]:
    with namespace() as ns:
        yield ns


@pytest.mark.parametrize("order", ["strict-order", "all-servers"])
def test_the_servers_of_the_system_are_asked_in_the_same_order(order: str, alone: Namespace, tmp_path: Path) -> None:
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.1.1\nnameserver 127.0.1.2\n")
    (tmp_path / "same.conf").write_text(
        f"port=5300\nlisten-address=127.0.0.1\nbind-interfaces\nno-hosts\n{order}\nresolv-file={tmp_path}/resolv.conf\n"
    )
    first, second = Upstream(WORLD), Upstream(OTHER)
    with inside(alone, upstream(first, "127.0.1.1", 53)), inside(alone, upstream(second, "127.0.1.2", 53)):

        def listen(client: Client) -> list[object]:
            first.down = False
            first.asked.clear()
            second.asked.clear()
            names = ("a.example", "b.example", "c.example")
            heard: list[object] = []
            for name in names:
                answer = shown(client.ask(f"{name} A"))
                heard.append(answer if order == "strict-order" else answer[0])
            end = time.monotonic() + 20
            while order == "all-servers" and not all(s.times(n) for s in (first, second) for n in names):
                assert time.monotonic() < end, "one of them was never asked"
                time.sleep(0.01)  # the quicker one has answered: the other may not have read its question yet
            heard += [min(server.times(name), 1) for server in (first, second) for name in names]
            first.down = True
            # dnsmasq asks the next one when its client asks again.
            eventually(
                client, ["d.example A"], lambda answers: answers[0] == ("NOERROR", ["d.example 300 A 203.0.113.2"])
            )
            return heard

        theirs, ours = told_by_both(tmp_path / "same.conf", 5300, listen, alone)
    assert ours == theirs


@pytest.mark.parametrize("more", ["", "dhcp-fqdn\n"])
def test_leases_give_the_same_names(more: str, links: Namespace, tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("192.168.5.9 nas.lan\n")
    later = int(time.time()) + 3600
    leases = (
        f"{later} 02:00:00:00:00:01 192.168.5.101 laptop *\n{later} 02:00:00:00:00:02 192.168.5.102 * *\n"
        f"{later} 02:00:00:00:00:03 192.168.5.103 phone *\n"
        f"duid 00:01:00:01:2a:00:00:00:02:00:00:00:00:99\n{later} 7 fd05::101 laptop 00:04:aa:bb:cc:dd\n"
    )
    (tmp_path / "leases").write_text(leases)
    (tmp_path / "same.conf").write_text(
        RIGHT_HERE.format(tmp=tmp_path)
        + f"dhcp-range=192.168.5.100,192.168.5.200,1h\ndhcp-range=fd05::100,fd05::200,1h\n"
        f"dhcp-leasefile={tmp_path}/leases\ndhcp-ttl=7\n{more}"
    )
    questions = [
        "laptop.lan A", "laptop A", "laptop.lan AAAA", "phone.lan A", "nas.lan A", "gone.lan A",
        "101.5.168.192.in-addr.arpa PTR", "103.5.168.192.in-addr.arpa PTR",
        f"{dns.reversename.from_address('fd05::101')} PTR",
    ]  # fmt: skip
    theirs, ours = told_by_both(
        tmp_path / "same.conf", 53, lambda client: [f"{each}: {shown(client.ask(each))}" for each in questions], links
    )
    assert ours == theirs


def test_a_zone_of_our_own_is_told_the_same(links: Namespace, tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("")
    (tmp_path / "same.conf").write_text(
        RIGHT_HERE.format(tmp=tmp_path) + "auth-server=ns.home.example,lan\nauth-zone=home.example\nauth-ttl=120\n"
        "auth-soa=7,admin.home.example,60,30,90\nhost-record=www.home.example,192.168.5.9,120\n"
    )
    questions = ["home.example SOA", "home.example NS", "www.home.example A", "www.home.example TXT",
                 "gone.home.example A"]  # fmt: skip
    theirs, ours = told_by_both(
        tmp_path / "same.conf",
        53,
        lambda client: [f"{each}: {shown(client.ask(f'{each} @192.168.5.1'))}" for each in questions],
        links,
    )
    assert ours == theirs


@contextmanager
def firewalled(tmp: Path, lines: str) -> Iterator[tuple[Path, Namespace, int]]:
    """A namespace with an upstream, and a file that asks it."""
    with namespace("nft", "ipset") as ns, inside(ns, upstream(Upstream(WORLD))) as up:
        (tmp / "same.conf").write_text(USUAL.format(port=5300, up=up) + lines)
        yield tmp / "same.conf", ns, up


def test_sets_of_nftables_are_fed_the_same(tmp_path: Path) -> None:
    lines = "nftset=/a.example/short.example/4#inet#t#four,6#inet#t#six\n"
    with firewalled(tmp_path, lines) as (config, ns, _):
        ns.run(
            "nft", "add table inet t; add set inet t four { type ipv4_addr; }; add set inet t six { type ipv6_addr; }"
        )

        def listen(client: Client) -> list[list[str]]:
            ns.run("nft", "flush set inet t four; flush set inet t six")
            for question in ("a.example A", "b.short.example AAAA", "long.example A"):
                client.ask(question)
            sets = [json.loads(ns.run("nft", "-j", "list", "set", "inet", "t", name)) for name in ("four", "six")]
            return [each["set"].get("elem", []) for said in sets for each in said["nftables"] if "set" in each]

        theirs, ours = told_by_both(config, 5300, listen, ns)
    assert ours == theirs
    assert ours == [["9.8.7.6"], ["2620:fe::9"]]


def test_sets_of_ipset_are_fed_the_same(tmp_path: Path) -> None:
    with firewalled(tmp_path, "ipset=/a.example/vpn\n") as (config, ns, _):
        if ns.call(lambda: subprocess.run(["ipset", "create", "vpn", "hash:ip"], check=False).returncode):
            pytest.skip("needs ipset in the kernel")

        def listen(client: Client) -> list[str]:
            ns.run("ipset", "flush", "vpn")
            for question in ("x.a.example A", "long.example A"):
                client.ask(question)
            return sorted(ns.run("ipset", "list", "vpn").partition("Members:\n")[2].split())

        theirs, ours = told_by_both(config, 5300, listen, ns)
    assert ours == theirs == ["9.8.7.6"]


@pytest.mark.parametrize("lines", ["conntrack\n", ""])
def test_the_mark_of_a_connection_goes_on(lines: str, tmp_path: Path) -> None:
    with firewalled(tmp_path, lines) as (config, ns, up):
        ns.run(
            "nft",
            f"""
            add table inet m
            add counter inet m marked
            add chain inet m before {{ type filter hook prerouting priority mangle; }}
            add rule inet m before udp dport 5300 ct mark set 7
            add chain inet m out {{ type filter hook output priority mangle; }}
            add rule inet m out udp dport {up} meta mark 7 counter name marked
        """,
        )

        def listen(client: Client) -> bool:
            ns.run("nft", "reset", "counter", "inet", "m", "marked")
            assert shown(client.ask("a.example A"))[0] == "NOERROR"
            return "packets 0 " not in ns.run("nft", "list", "counter", "inet", "m", "marked")

        theirs, ours = told_by_both(config, 5300, listen, ns)
    assert ours is theirs is bool(lines)
