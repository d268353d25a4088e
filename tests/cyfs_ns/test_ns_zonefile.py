"""Zone files: what dnspython reads from them, and all faults with their lines."""

from __future__ import annotations

import dns.rdatatype
import dns.zone
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_ns.errors import ConfigFault
from cyfs_ns.message import rtype_text
from cyfs_ns.records import data_text
from cyfs_ns.wire import name_text, name_wire
from cyfs_ns.zonefile import read_record, read_zone

ZONE = """\
; the house
$TTL 1h
@       IN SOA  ns host.master (
                2026010101 ; serial
                2h 30m     ; refresh, retry
                2w 300 )
        NS      ns
        MX      10 mail.example.net.
ns      300 IN A 192.0.2.1
        IN 400 AAAA 2001:db8::1
*       TXT     "one; not a comment" two ; a comment
$ORIGIN sub.lan.
www     CNAME   @
\\@at   A       192.0.2.7
_sip._udp SRV   1 2 ( 5060
  www )
"""


def test_a_zone_is_what_dnspython_reads() -> None:
    zone = dns.zone.from_text(ZONE, origin="lan.", relativize=False, check_origin=False)
    theirs = {
        (name.to_text().rstrip("."), dns.rdatatype.to_text(rdata.rdtype), ttl, rdata.to_text())
        for name, ttl, rdata in zone.iterate_rdatas()
    }
    ours = {
        (name_text(r.owner), rtype_text(r.rtype), r.ttl, data_text(r.rtype, r.data)) for r in read_zone(ZONE, "lan")
    }
    assert ours == theirs


def test_records_know_their_lines() -> None:
    assert [record.line for record in read_zone(ZONE, "lan")] == [3, 7, 8, 9, 10, 11, 13, 14, 15]


def test_all_faults_come_out_with_their_lines() -> None:
    text = " A 1.2.3.4\nok A 1.2.3.4\nbad A 1.2.3\n$INCLUDE other\nch CH TXT x\nshort\nwhat WAT 1\n"
    with pytest.raises(ConfigFault) as caught:
        read_zone(text, "lan")
    assert [line.partition(":")[0] for line in str(caught.value).splitlines()] == [
        "line 1", "line 3", "line 4", "line 5", "line 6", "line 7"
    ]  # fmt: skip
    for broken, line in (('a TXT "open\n', 1), ("\na TXT ( x\n\n", 2), ("a TXT x )", 1), ("a TXT ((x))", 1)):
        with pytest.raises(ConfigFault, match=f"line {line}"):
            read_zone(broken, "lan")


def test_many_faults_are_counted() -> None:
    with pytest.raises(ConfigFault, match="and 5 more"):
        read_zone("x WAT 1\n" * 25, "lan")


def test_one_record() -> None:
    assert read_record("nas.lan A 192.168.1.5")[:4] == (name_wire("nas.lan"), 1, None, bytes((192, 168, 1, 5)))
    assert read_record("www.lan. 60 IN CNAME nas.lan").data == name_wire("nas.lan")
    for bad in ("", "; nothing", "a A 1.2.3.4\nb A 1.2.3.4", "nas.lan"):
        with pytest.raises(ConfigFault):
            read_record(bad)


@given(st.text(st.sampled_from('a @.$()"\\;\n\t1IN A TXT'), max_size=60))
@settings(max_examples=200)
def test_any_text_is_records_or_one_error(text: str) -> None:
    try:
        found = read_zone(text, "lan")
    except ConfigFault:
        return
    assert all(record.owner.endswith(b"\0") for record in found)
