"""Lease files of three DHCP servers, and what of them may become a name."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_ns.leases import Lease, by_name, lease_name, living, read_leases

MAC = "02:00:5e:00:53:01"

DNSMASQ = f"""\
1800000000 {MAC} 192.168.1.20 laptop 01:{MAC}
0 02:00:5e:00:53:02 192.168.1.21 * *
43200 06-02:00:5e:00:53:03 192.168.1.22 printer *
duid 00:01:00:01:2a:2b:2c:2d:02:00:5e:00:53:ff
1800000000 1509949441 fd00::20 laptop 00:01:00:01:2a:2b:2c:2d:{MAC}
1800000000 T1509949442 fd00::21 other 00:03:00:01:02:00:5e:00:53:09
"""

ODHCPD = """\
# br-lan 000300010200005e53aa 12345678 phone 1800000000 100 128 fd00::20/128 fd00::21/128
# br-lan 02005e005301 ipv4 laptop 1800000000 14 32 192.168.1.20/32
# br-lan 02005e005302 ipv4 - -1 15 32 192.168.1.21/32
# br-lan 02005e005303 ipv4 broken\\x20name 1800000000 16 32 192.168.1.22/32
# br-lan 0002abcd 1 pd 1800000000 1 56 fd01:0:0:100::/56
fd00::20\tphone.lan\tphone
"""

KEA4 = f"""\
address,hwaddr,client_id,valid_lifetime,expire,subnet_id,fqdn_fwd,fqdn_rev,hostname,state,user_context,pool_id
192.0.2.10,{MAC},,3600,1700000000,1,0,0,old,0,,0
192.0.2.10,{MAC},,3600,1800000000,1,0,0,laptop.lan.,0,,0
192.0.2.11,02:00:5e:00:53:02,,3600,1800000000,1,0,0,gone,0,,0
192.0.2.11,02:00:5e:00:53:02,,0,1800000000,1,0,0,gone,0,,0
192.0.2.12,02:00:5e:00:53:03,,3600,1800000000,1,0,0,declined,1,,0
192.0.2.13,02:00:5e:00:53:04,,4294967295,1800000000,1,0,0,a&#x2cb,0,,0
"""

KEA6 = f"""\
address,duid,valid_lifetime,expire,subnet_id,pref_lifetime,lease_type,iaid,prefix_len,fqdn_fwd,fqdn_rev,hostname,hwaddr,state,user_context,hwtype,hwaddr_source,pool_id
2001:db8::10,00:01:00:01:2a:2b:2c:2d:{MAC},3600,1800000000,1,1800,0,1,128,0,0,laptop,,0,,,,0
2001:db8::11,00:02:00:00,3600,1800000000,1,1800,0,1,128,0,0,other,02:00:5e:00:53:07,0,,1,2,0
2001:db8:100::,00:02:00:00,3600,1800000000,1,1800,2,1,56,0,0,prefix,,0,,,,0
"""  # fmt: skip


def test_dnsmasq_leases_of_both_families() -> None:
    assert read_leases(DNSMASQ) == (
        Lease("192.168.1.20", MAC, MAC, "laptop", 1.8e9),
        Lease("192.168.1.21", "02:00:5e:00:53:02", "02:00:5e:00:53:02", "", inf),
        Lease("192.168.1.22", "02:00:5e:00:53:03", "02:00:5e:00:53:03", "printer", inf),
        Lease("fd00::20", MAC, "000100012a2b2c2d02005e005301", "laptop", 1.8e9),
        Lease("fd00::21", "02:00:5e:00:53:09", "0003000102005e005309", "other", 1.8e9),
    )


def test_odhcpd_leases_of_both_families() -> None:
    found = {lease.ip: lease for lease in read_leases(ODHCPD)}
    assert found.keys() == {"fd00::20", "fd00::21", "192.168.1.20", "192.168.1.21", "192.168.1.22"}
    assert lease_name(found["192.168.1.22"].name, "lan") == ""  # odhcpd itself found it broken
    assert found["fd00::21"] == Lease("fd00::21", "02:00:00:5e:53:aa", "000300010200005e53aa", "phone", 1.8e9)
    assert found["192.168.1.20"] == Lease("192.168.1.20", MAC, MAC, "laptop", 1.8e9)
    assert (found["192.168.1.21"].name, found["192.168.1.21"].expires) == ("", inf)


def test_kea_is_a_journal_in_which_later_lines_win() -> None:
    assert read_leases(KEA4) == (
        Lease("192.0.2.10", MAC, MAC, "laptop.lan.", 1.8e9),
        Lease("192.0.2.13", "02:00:5e:00:53:04", "02:00:5e:00:53:04", "a,b", inf),
    )


def test_a_journal_in_pieces_reads_as_one() -> None:
    head, *lines = KEA4.splitlines(keepends=True)
    pieces = head + "".join(lines[:3]) + "\n" + head + "".join(lines[3:])
    assert read_leases(pieces) == read_leases(KEA4)


def test_kea_of_ipv6_knows_devices_by_duid_and_passes_prefixes_over() -> None:
    assert [(lease.ip, lease.mac, lease.name) for lease in read_leases(KEA6)] == [
        ("2001:db8::10", MAC, "laptop"),
        ("2001:db8::11", "02:00:5e:00:53:07", "other"),
    ]


def test_leases_end() -> None:
    leases = read_leases(DNSMASQ)
    assert living(leases, 1.7e9).keys() == {lease.ip for lease in leases}
    assert living(leases, 1.8e9).keys() == {"192.168.1.21", "192.168.1.22"}
    longer = Lease("192.168.1.20", "", "x", "renewed", 1.9e9)
    assert living([longer, *leases], 0)["192.168.1.20"] is longer


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("laptop", "laptop"), ("Laptop.LAN", "laptop"), ("laptop.lan.", "laptop"), ("my_box-1", "my_box-1"),
        ("", ""), ("a.b", ""), ("www.example.com", ""), ("lan", "lan"), ("-x", ""), ("x-", ""), ("wpad", ""),
        ("WPAD.lan", ""), ("localhost", ""), ("isatap", ""), ("12", ""), ("a b", ""), ("a\0", ""), ("*", ""),
        ("x" * 64, ""), ("grüße", ""), ("a.lan.lan", ""), ("lap\u202etop", ""), ("a;b", ""),
    ],
)  # fmt: skip
def test_only_plain_host_names_are_taken_from_devices(said: str, name: str) -> None:
    assert lease_name(said, "lan") == name


def test_of_two_devices_with_one_name_the_newer_lease_has_it() -> None:
    old = [Lease("10.0.0.1", MAC, MAC, "box", 100.0), Lease("fd00::1", MAC, MAC, "box", 300.0)]
    new = Lease("10.0.0.2", "", "other", "box", 200.0)
    assert by_name([*old, new], lambda ip: "lan") == {"lan": {"box": old}}
    newest = Lease("10.0.0.3", "", "third", "box", 400.0)
    assert by_name([*old, newest], lambda ip: "lan") == {"lan": {"box": [newest]}}
    guests = by_name([*old, new], lambda ip: "guest" if ip == "10.0.0.2" else "lan")
    assert guests == {"lan": {"box": old}, "guest": {"box": [new]}}


def test_who_is_seen_by_one_family_and_who_by_the_other_alone_are_one() -> None:
    four, six = Lease("10.0.0.1", MAC, MAC, "box", 100.0), Lease("fd00::1", "", "0004aa", "box", 50.0)
    longer, older = Lease("fd00::2", "", "0004bb", "box", 300.0), Lease("fd00::3", "", "0004cc", "box", 60.0)
    for leases, told in (
        ([four, six], [four, six]),
        ([four, six, older], [four, older]),
        ([four, six, longer], [longer, four]),
        ([six, older], [older]),
    ):
        assert by_name(leases, lambda ip: "lan") == {"lan": {"box": told}}


def test_a_name_that_fits_nowhere_is_none() -> None:
    assert lease_name("x" * 63, ".".join(["d" * 47] * 4)) == ""
    assert lease_name("x" * 61, ".".join(["d" * 47] * 4)) == "x" * 61


@given(st.sampled_from([DNSMASQ, ODHCPD, KEA4, KEA6]), st.data())
@settings(max_examples=200)
def test_torn_and_spoilt_files_are_read_as_far_as_they_make_sense(text: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(text)))
    spoilt = text[:at] + data.draw(st.text(max_size=6)) + text[at + data.draw(st.integers(0, 40)) :]
    for lease in read_leases(spoilt):
        assert lease.expires == lease.expires  # no NaN
        assert "." not in lease_name(lease.name, "lan")
