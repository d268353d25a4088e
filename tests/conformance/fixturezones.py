"""A small internet for tests: its zones, signed ones among them, and a real unbound that serves them as a resolver."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import dns.dnssec
import dns.exception
import dns.message
import dns.name
import dns.query
import dns.rdatatype
import dns.rrset
import dns.zone
import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric import ec

from tests.freeport import free_port

SOA = "@ 900 IN SOA ns1 admin 1 7200 900 1209600 300\n@ 3600 IN NS ns1\nns1 3600 IN A 127.0.0.1\n"
LONG_TEXT = "x" * 250
SIGNED = "signed.example"

ROOT = """
. 86400 IN SOA a.root.example. admin.example. 1 7200 900 1209600 86400
. 86400 IN NS a.root.example.
a.root.example. 86400 IN A 127.0.0.1
alpha.example. 86400 IN NS ns1.alpha.example.
ns1.alpha.example. 86400 IN A 127.0.0.1
beta.example. 86400 IN NS ns1.beta.example.
ns1.beta.example. 86400 IN A 127.0.0.1
signed.example. 86400 IN NS ns1.signed.example.
ns1.signed.example. 86400 IN A 127.0.0.1
8.8.in-addr.arpa. 86400 IN NS ns1.beta.example.
"""

ALPHA = (
    SOA
    + """
@ 300 IN A 198.18.1.1
@ 300 IN AAAA 2001:db9::1
@ 300 IN MX 10 mail
@ 300 IN MX 20 mail.beta.example.
@ 300 IN TXT "v=spf1 -all" "second string"
@ 300 IN CAA 0 issue "ca.example"
@ 300 IN HTTPS 1 . alpn=h2,h3 ipv4hint=198.18.1.1
@ 300 IN TYPE65280 \\# 4 DEADBEEF
www 120 IN CNAME @
mail 300 IN A 198.18.1.2
chain1 60 IN CNAME chain2
chain2 90 IN CNAME chain3
chain3 120 IN CNAME www
out 60 IN CNAME www.beta.example.
back 60 IN CNAME to-alpha.beta.example.
dangling 60 IN CNAME nowhere.beta.example.
nodata-alias 60 IN CNAME mail
*.wild 200 IN A 198.18.1.3
*.wild 200 IN TXT "wild"
*.walias 200 IN CNAME www
host.sub.wild 200 IN A 198.18.1.4
deep.empty.terminal 60 IN A 198.18.1.5
_sip._tcp 300 IN SRV 1 2 5060 sip
sip 300 IN A 198.18.1.6
svc 300 IN SVCB 1 sip port=443 alpn=h2
alias-https 300 IN HTTPS 0 www.beta.example.
mixed 300 IN CNAME MiXeD.BeTa.ExAmPlE.
\\000odd\\255 300 IN A 198.18.1.7
with\\.dot 300 IN A 198.18.1.8
space\\032bar 300 IN TXT "odd"
naptr 300 IN NAPTR 10 20 "u" "sip+E2U" "!^.*$!sip:info@example!" .
sshfp 300 IN SSHFP 1 1 123456789ABCDEF67890123456789ABCDEF67890
tlsa 300 IN TLSA 3 1 1 ABABABABABABABABABABABABABABABABABABABABABABABABABABABABABABABAB
dname 300 IN DNAME target.beta.example.
"""
    + "".join(f"big 300 IN A 198.18.2.{last}\n" for last in range(1, 201))
    + "".join(f"middle 300 IN AAAA 2001:db9::{last:x}\n" for last in range(1, 31))
    + "".join(f'longtext 300 IN TXT "{LONG_TEXT}" "{number}"\n' for number in range(12))
    + f'text 300 IN TXT "{LONG_TEXT}" "{LONG_TEXT}"\n'
    + "".join(f"n{number} {60 + number} IN A 198.18.3.{number}\n" for number in range(1, 200))
)

BETA = (
    SOA
    + """
@ 300 IN A 198.18.4.1
www 300 IN A 198.18.4.2
www 300 IN AAAA 2001:db9::4:2
mail 300 IN A 198.18.4.3
mixed 300 IN A 198.18.4.4
to-alpha 60 IN CNAME www.alpha.example.
a.target 300 IN A 198.18.4.5
b.target 300 IN CNAME www
"""
)

REVERSE = """
@ 900 IN SOA ns1.beta.example. admin.beta.example. 1 7200 900 1209600 300
@ 3600 IN NS ns1.beta.example.
8.8 300 IN PTR dns.beta.example.
4.8 300 IN PTR dns.beta.example.
4.8 300 IN PTR other.beta.example.
"""

SECURE = (
    SOA
    + """
@ 300 IN A 198.18.5.1
www 300 IN A 198.18.5.2
www 300 IN AAAA 2001:db9::5:2
alias 300 IN CNAME www
text 300 IN TXT "signed"
"""
)

UNSIGNED = {".": ROOT, "alpha.example": ALPHA, "beta.example": BETA, "8.8.in-addr.arpa": REVERSE}


def zones() -> dict[str, dns.zone.Zone]:
    """All zones; names relative to their origins."""
    return {origin: dns.zone.from_text(lines, origin, relativize=False) for origin, lines in UNSIGNED.items()}


def signed_zone() -> tuple[str, str]:
    """Text of the signed zone, and a trust anchor for it in delv's form."""
    zone = dns.zone.from_text(SECURE, SIGNED, relativize=False)
    private = ec.generate_private_key(ec.SECP256R1())
    key = dns.dnssec.make_dnskey(private.public_key(), dns.dnssec.Algorithm.ECDSAP256SHA256, flags=257)
    dns.dnssec.sign_zone(zone, keys=[(private, key)], lifetime=86400 * 7, add_dnskey=True, dnskey_ttl=3600)
    digits = "".join(key.to_text().split()[3:])
    return zone.to_text(relativize=False), f'trust-anchors {{ {SIGNED}. static-key 257 3 13 "{digits}"; }};\n'


class Internet(NamedTuple):
    """The ports where it is asked over UDP and TCP, TLS, and HTTPS, each of 127.0.0.1 and ::1."""

    port: int
    tls: int
    https: int
    anchor: Path
    """Of its signed zone."""
    roots: Path
    """Those who vouch for its certificate."""


@contextmanager
def unbound(place: Path, lines: Sequence[str]) -> Iterator[int]:
    """The port of a running unbound."""
    program = shutil.which("unbound") or "/usr/sbin/unbound"
    if not Path(program).exists():
        pytest.skip("needs unbound")
    port = free_port()
    place.mkdir(parents=True, exist_ok=True)
    config = place / "unbound.conf"
    config.write_text(
        "\n".join(
            [
                "server:",
                f' interface: "127.0.0.1"\n interface: "::1"\n port: {port}',
                f' directory: "{place}"\n chroot: ""\n username: ""',
                ' pidfile: ""\n use-syslog: no\n logfile: ""\n num-threads: 1\n do-daemonize: no\n verbosity: 0',
                ' module-config: "iterator"\n do-not-query-localhost: no\n minimal-responses: yes',
                " rrset-roundrobin: no\n qname-minimisation: no\n edns-buffer-size: 1232\n max-udp-size: 1232",
                " access-control: 127.0.0.0/8 allow_snoop\n access-control: ::1/128 allow_snoop",
                " outgoing-range: 512\n num-queries-per-thread: 1024",
                " so-rcvbuf: 0\n deny-any: no\n aggressive-nsec: no\n incoming-num-tcp: 64\n",
                *lines,
                "remote-control:\n control-enable: no",
            ]
        )
    )
    log = place / "unbound.log"
    with log.open("w") as output:
        child = subprocess.Popen([program, "-d", "-c", str(config)], stdout=output, stderr=output)
    try:
        question = dns.message.make_query("id.server.", "TXT", "CH")
        while child.poll() is None:
            try:
                dns.query.udp(question, "127.0.0.1", 0.1, port)
            except (OSError, dns.exception.DNSException):
                time.sleep(0.02)
            else:
                break
        assert child.poll() is None, log.read_text()
        yield port
    finally:
        child.terminate()
        child.wait()


@contextmanager
def little_internet(place: Path) -> Iterator[Internet]:
    """A resolver that knows all zones."""
    place.mkdir(parents=True, exist_ok=True)
    signed, anchor = signed_zone()
    (place / "anchor").write_text(anchor)
    authority, pem = trustme.CA(), place / "pem"
    authority.cert_pem.write_to_path(str(place / "roots"))
    authority.issue_cert("127.0.0.1", "::1").private_key_and_cert_chain_pem.write_to_path(str(pem))
    tls, https = free_port(), free_port()
    lines = [f' tls-service-key: "{pem}"\n tls-service-pem: "{pem}"\n tls-port: {tls}\n https-port: {https}']
    lines += [f' interface: "{host}@{port}"' for host in ("127.0.0.1", "::1") for port in (tls, https)]
    for number, (origin, text) in enumerate([*UNSIGNED.items(), (SIGNED, signed)]):
        file = place / f"zone{number}"
        file.write_text(f"$ORIGIN {origin.rstrip('.')}.\n{text}")
        lines.append(
            f'auth-zone:\n name: "{origin}"\n zonefile: "{file}"\n for-upstream: yes\n for-downstream: no\n'
            " fallback-enabled: no"
        )
    with unbound(place, lines) as port:
        yield Internet(port, tls, https, place / "anchor", place / "roots")
