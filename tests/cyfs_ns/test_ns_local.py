"""Names of the house: who wins, what exists, and where the way leads out."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_ns.errors import ConfigFault
from cyfs_ns.ifnames import parse_interface_name
from cyfs_ns.leases import Lease
from cyfs_ns.links import Home
from cyfs_ns.local import Alias, LocalBuilder, LocalNames, LocalSettings
from cyfs_ns.message import rcode_text, reverse_name, rtype_number, rtype_text
from cyfs_ns.records import data_text
from cyfs_ns.reply import Reply, records
from cyfs_ns.special import designated, private_reverse_zones
from cyfs_ns.synth import parse_synth
from cyfs_ns.wire import Record, name_text, name_wire
from cyfs_ns.zonefile import read_record, read_zone


def house(
    *lines: str,
    hosts: dict[str, tuple[str, ...] | str] | None = None,
    files: str = "",
    zones: dict[str, str] | None = None,
    leases: tuple[Lease, ...] = (),
    leave: tuple[str, ...] = (),
    settings: LocalSettings | None = None,
) -> LocalNames:
    builder = LocalBuilder(settings or LocalSettings())
    for line in lines:
        record = read_record(line)
        builder.record(record.owner, record.rtype, record.ttl, record.data)
    for origin, text in (zones or {}).items():
        builder.zone(origin, read_zone(text, origin))
    builder.hosts(hosts or {})
    builder.hosts_file(files, "/etc/hosts")
    for name in leave:
        builder.leave(name)
    return builder.build(leases, 0.0)


def shown(found: tuple[Record, ...] | list[Record]) -> list[str]:
    return [f"{name_text(owner)} {rtype_text(rtype)} {data_text(rtype, data)}" for owner, rtype, _, data in found]


def ask(house: LocalNames, name: str, rtype: str = "A") -> object:
    """``None``, the rcode of a negative answer, the records of a positive one, or "-> name" behind them."""
    got = house.lookup(name_wire(name), rtype_number(rtype))
    if got is None:
        return None
    if isinstance(got, Alias):
        return [*shown(got.answer), f"-> {name_text(got.target)}"]
    answer = list(records(got, 0))
    if got.rcode or not answer:
        rcode = rcode_text(got.rcode) if got.rcode else "NODATA"
        return [*shown(answer), rcode] if answer else rcode
    return shown(answer)


def soa(house: LocalNames, name: str, rtype: str = "A") -> list[str]:
    got = house.lookup(name_wire(name), rtype_number(rtype))
    assert isinstance(got, Reply)
    return [name_text(owner) for owner, rtype_, _, _ in records(got, 1) if rtype_ == 6]


def lease(ip: str, name: str, mac: str = "02:00:5e:00:53:01", expires: float = 100.0) -> Lease:
    return Lease(ip, mac, mac, name, expires)


LAN = LocalSettings(domain="lan", local_domains=("lan",))


# -- who wins ----------------------------------------------------------------------------------------------------------


def test_records_beat_hosts_beat_files_beat_leases() -> None:
    files = "10.0.3.1 a\n10.0.3.2 b\n10.0.3.3 c\n"
    leases = tuple(lease(f"10.0.4.{at}", name, f"02:00:5e:00:53:0{at}") for at, name in enumerate("abcd", start=1))
    names = house("a A 10.0.1.1", hosts={"a": ("10.0.2.1",), "b": ("10.0.2.2",)}, files=files, leases=leases)
    assert [ask(names, name) for name in "abcd"] == [
        ["a A 10.0.1.1"],
        ["b A 10.0.2.2"],
        ["c A 10.0.3.3"],
        ["d A 10.0.4.4"],
    ]
    assert [names.why(name_wire(name), 1) for name in "abcd"] == [
        "records", "hosts", "/etc/hosts", "lease of 02:00:5e:00:53:04"
    ]  # fmt: skip


def test_hosts_may_be_written_in_any_script() -> None:
    names = house(
        hosts={"+.bücher。example.": ("10.0.2.1",), "*.Straße.example": ("10.0.2.2",), "ü.example": ("10.0.2.3",)}
    )
    asked = ("xn--bcher-kva.example", "a.xn--bcher-kva.example", "b.xn--strae-oqa.example", "xn--tda.example")
    assert [ask(names, name) for name in asked] == [
        ["xn--bcher-kva.example A 10.0.2.1"],
        ["a.xn--bcher-kva.example A 10.0.2.1"],
        ["b.xn--strae-oqa.example A 10.0.2.2"],
        ["xn--tda.example A 10.0.2.3"],
    ]


def test_a_guest_never_joins_a_name_of_the_owner() -> None:
    names = house("nas.lan A 10.0.0.5", files="10.0.0.6 printer", leases=(
        lease("10.0.0.66", "nas"), lease("fd00::66", "NAS.lan"), lease("10.0.0.67", "printer"),
    ), settings=LAN)  # fmt: skip
    assert ask(names, "nas.lan") == ["nas.lan A 10.0.0.5"]
    assert ask(names, "nas.lan", "AAAA") == "NODATA"
    assert ask(names, "nas") is None
    assert ask(names, "printer") == ["printer A 10.0.0.6"]
    assert ask(names, "printer.lan") == "NXDOMAIN"


def test_other_types_add_up() -> None:
    names = house("box TXT hello", "box MX 10 box", leases=(lease("10.0.0.7", "box"),))
    assert ask(names, "box") == ["box A 10.0.0.7"]
    assert ask(names, "box", "TXT") == ['box TXT "hello"']


def test_the_longer_wildcard_wins() -> None:
    names = house(
        "*.b.lan A 10.0.0.2",
        hosts={"+.lan": ("10.0.0.1",), "*.c.b.lan": ("10.0.0.3",), "+.d.lan": ("10.0.0.4",)},
        zones={"e.lan": ""},
    )
    assert ask(names, "x.lan") == ["x.lan A 10.0.0.1"]
    assert ask(names, "x.b.lan") == ["x.b.lan A 10.0.0.2"]
    assert ask(names, "x.c.b.lan") == ["x.c.b.lan A 10.0.0.3"]
    assert ask(names, "y.x.c.b.lan") == ["y.x.c.b.lan A 10.0.0.2"]
    assert ask(names, "d.lan") == ["d.lan A 10.0.0.4"]
    assert ask(names, "x.e.lan") == "NXDOMAIN"


def test_a_lease_beats_a_wildcard() -> None:
    names = house("*.lan A 10.0.0.1", hosts={"+.lan": ("10.0.0.2",)}, leases=(lease("10.0.0.9", "box"),), settings=LAN)
    assert ask(names, "box.lan") == ["box.lan A 10.0.0.9"]
    assert ask(names, "other.lan") == ["other.lan A 10.0.0.1"]


# -- hosts -------------------------------------------------------------------------------------------------------------


def test_a_name_with_written_addresses_has_only_those() -> None:
    names = house(hosts={"ads.example": ("0.0.0.0",), "+.pool.example": ("10.0.0.1", "fd00::1")})
    assert ask(names, "ads.example") == ["ads.example A 0.0.0.0"]
    for rtype in ("AAAA", "HTTPS", "SVCB"):
        assert ask(names, "ads.example", rtype) == "NODATA"
        assert soa(names, "ads.example", rtype) == ["ads.example"]
    assert ask(names, "ads.example", "MX") is None
    assert ask(names, "x.pool.example", "AAAA") == ["x.pool.example AAAA fd00::1"]
    assert ask(names, "x.pool.example", "HTTPS") == "NODATA"


def test_hosts_files_make_reverse_records_of_the_first_name() -> None:
    names = house(
        files="10.0.0.5 nas.lan nas files\n10.0.0.5 other\n0.0.0.0 ads.example\nfd00::5 nas.lan\n10.0.0.6 nas.lan"
    )
    assert ask(names, "files") == ["files A 10.0.0.5"]
    assert ask(names, "nas.lan") == ["nas.lan A 10.0.0.5", "nas.lan A 10.0.0.6"]
    assert ask(names, reverse_name("10.0.0.5"), "PTR") == ["5.0.0.10.in-addr.arpa PTR nas.lan."]
    assert ask(names, reverse_name("fd00::5"), "PTR") == [f"{reverse_name('fd00::5')} PTR nas.lan."]
    assert ask(names, reverse_name("0.0.0.0"), "PTR") is None


def test_a_written_reverse_record_is_the_one() -> None:
    names = house("5.0.0.10.in-addr.arpa PTR written.lan", files="10.0.0.5 nas", leases=(lease("10.0.0.5", "box"),))
    assert ask(names, reverse_name("10.0.0.5"), "PTR") == ["5.0.0.10.in-addr.arpa PTR written.lan."]


def test_expand_hosts_puts_the_domain_behind_plain_names() -> None:
    guests = (ipaddress.ip_network("192.168.2.0/24"), "guest.lan")
    expanding = LocalSettings(domain="lan", expand_hosts=True, domains=(guests,))
    names = house(files="192.168.1.5 nas\n192.168.2.5 tv\n192.168.1.6 a.b\n", settings=expanding)
    assert ask(names, "nas") == ["nas A 192.168.1.5"]
    assert ask(names, "nas.lan") == ["nas.lan A 192.168.1.5"]
    assert ask(names, "tv.guest.lan") == ["tv.guest.lan A 192.168.2.5"]
    assert ask(names, "a.b.lan") is None
    assert ask(names, reverse_name("192.168.1.5"), "PTR") == ["5.1.168.192.in-addr.arpa PTR nas.lan."]


def test_what_does_not_fit_behind_a_name_is_left_out() -> None:
    long = ".".join(["d" * 62] * 4)
    names = house(files="10.0.0.5 nas", settings=LocalSettings(domain=long, expand_hosts=True))
    assert ask(names, "nas") == ["nas A 10.0.0.5"]
    assert ask(names, reverse_name("10.0.0.5"), "PTR") == ["5.0.0.10.in-addr.arpa PTR nas."]
    with pytest.raises(ConfigFault):
        house(hosts={"+.lan": "a..b"})


# -- leases ------------------------------------------------------------------------------------------------------------


def test_leases_give_names_in_the_domain_and_reverse_records() -> None:
    names = house(leases=(lease("192.168.1.20", "Laptop"), lease("fd00::20", "laptop.lan")), settings=LAN)
    for name in ("laptop", "laptop.lan"):
        assert ask(names, name) == [f"{name} A 192.168.1.20"]
        assert ask(names, name, "AAAA") == [f"{name} AAAA fd00::20"]
    assert ask(names, reverse_name("192.168.1.20"), "PTR") == ["20.1.168.192.in-addr.arpa PTR laptop.lan."]


def test_leases_end_and_are_replaced() -> None:
    first = house(leases=(lease("192.168.1.20", "laptop", expires=50.0),), settings=LAN)
    assert ask(first, "laptop.lan") == ["laptop.lan A 192.168.1.20"]
    assert ask(first.with_leases([lease("192.168.1.20", "laptop", expires=50.0)], 50.0), "laptop.lan") == "NXDOMAIN"
    second = first.with_leases([lease("192.168.1.21", "phone")], 60.0)
    assert (ask(second, "laptop.lan"), ask(second, "phone.lan")) == ("NXDOMAIN", ["phone.lan A 192.168.1.21"])
    assert ask(first, "laptop.lan") == ["laptop.lan A 192.168.1.20"]  # what others still hold does not change


def test_hostile_names_get_nothing() -> None:
    names = house(leases=tuple(
        lease(f"10.0.0.{at}", said, f"02:00:5e:00:53:{at:02x}")
        for at, said in enumerate(("wpad", "www.example.com", "*", "a.lan.lan", "localhost", "-", "x y"), start=1)
    ), settings=LAN)  # fmt: skip
    for name in ("wpad", "wpad.lan", "a.lan.lan", "*.lan", "anything.lan"):
        assert ask(names, name) in (None, "NXDOMAIN")
    assert ask(names, "www.example.com") is None
    assert ask(names, "localhost") == ["localhost A 127.0.0.1"]


def test_lease_names_may_be_whole_only() -> None:
    whole = LocalSettings(domain="lan", lease_short_names=False, lease_ttl=5)
    names = house(leases=(lease("10.0.0.1", "laptop"),), settings=whole)
    assert (ask(names, "laptop"), ask(names, "laptop.lan")) == (None, ["laptop.lan A 10.0.0.1"])
    got = names.lookup(name_wire("laptop.lan"), 1)
    assert isinstance(got, Reply)
    assert got.ttl == 5


SAID = st.one_of(
    st.sampled_from(["nas", "NAS.lan", "www.example.com", "wpad", "*", "a.lan", "lan"]), st.text(max_size=8)
)
OWNED = house("nas.lan A 10.0.0.5", "www.example.com A 10.0.0.6", files="10.0.0.7 printer", settings=LAN)


@given(st.lists(st.tuples(SAID, st.integers(1, 9)), max_size=6))
@settings(max_examples=200)
def test_whatever_guests_say_only_new_names_of_the_domain_appear(said: list[tuple[str, int]]) -> None:
    leases = [lease(f"10.0.0.{at}", name, f"02:00:5e:00:53:0{at}") for name, at in said]
    names = OWNED.with_leases(leases, 0.0)
    for name in ("nas.lan", "nas", "www.example.com", "printer", "printer.lan", "example.com", "wpad.lan", "wpad"):
        assert ask(names, name) == ask(OWNED, name)
        assert ask(names, name, "AAAA") == ask(OWNED, name, "AAAA")
    for at in range(5, 8):
        assert ask(names, reverse_name(f"10.0.0.{at}"), "PTR") == ask(OWNED, reverse_name(f"10.0.0.{at}"), "PTR")
    for owner in names._leases:
        text = name_text(owner)
        assert text.endswith((".lan", ".in-addr.arpa")) or "." not in text


@given(st.text(st.sampled_from("a.:1 0\n#%*\\é"), max_size=60))
@settings(max_examples=200)
def test_any_hosts_file_is_read(text: str) -> None:
    builder = LocalBuilder(LocalSettings(domain="lan", expand_hosts=True))
    builder.hosts_file(text, "hosts")
    names = builder.build()
    for owner in names._nodes:
        assert names.lookup(owner, 1) is None or names.why(owner, 1)


# -- zones -------------------------------------------------------------------------------------------------------------

ZONE = """\
@ 3600 SOA ns host 7 3600 600 86400 120
@ 3600 NS ns
ns A 10.0.0.1
a.b.c A 10.0.0.2
www CNAME a.b.c
out CNAME www.example.net.
lost CNAME nowhere
sub NS ns.sub
ns.sub A 10.0.0.3
old DNAME c
*.wild MX 10 mail
mail A 10.0.0.4
mail AAAA fd00::4
_sip._udp SRV 1 1 5060 mail
"""


def test_a_zone_tells_what_is_not_there() -> None:
    names = house(zones={"lan": ZONE})
    assert ask(names, "a.b.c.lan") == ["a.b.c.lan A 10.0.0.2"]
    assert ask(names, "a.b.c.lan", "TXT") == "NODATA"
    assert ask(names, "b.c.lan") == ask(names, "c.lan") == ask(names, "_udp.lan") == "NODATA"
    assert ask(names, "x.b.c.lan") == ask(names, "nothing.lan") == "NXDOMAIN"
    assert ask(names, "lan", "SOA") == ["lan SOA ns.lan. host.lan. 7 3600 600 86400 120"]
    assert ask(names, "lan") == "NODATA"
    got = names.lookup(name_wire("nothing.lan"), 1)
    assert isinstance(got, Reply)
    assert (soa(names, "nothing.lan"), got.ttl, got.flags & 0x400) == (["lan"], 120, 0x400)


def test_aliases_are_followed_in_the_house_and_handed_over_at_its_door() -> None:
    names = house(zones={"lan": ZONE})
    assert ask(names, "www.lan") == ["www.lan CNAME a.b.c.lan.", "a.b.c.lan A 10.0.0.2"]
    assert ask(names, "www.lan", "CNAME") == ["www.lan CNAME a.b.c.lan."]
    assert ask(names, "out.lan") == ["out.lan CNAME www.example.net.", "-> www.example.net"]
    assert ask(names, "lost.lan") == ["lost.lan CNAME nowhere.lan.", "NXDOMAIN"]
    assert names.why(name_wire("www.lan"), 1) == "zone lan, then zone lan"


def test_a_dname_moves_what_is_below_it() -> None:
    names = house(zones={"lan": ZONE})
    moved = ["old.lan DNAME c.lan.", "a.b.old.lan CNAME a.b.c.lan."]
    assert ask(names, "a.b.old.lan") == [*moved, "a.b.c.lan A 10.0.0.2"]
    assert ask(names, "a.b.old.lan", "CNAME") == moved
    assert ask(names, "old.lan", "DNAME") == ["old.lan DNAME c.lan."]
    assert ask(names, "old.lan") == "NODATA"


def test_a_delegation_is_left_alone() -> None:
    names = house(zones={"lan": ZONE})
    assert ask(names, "sub.lan") is None
    assert ask(names, "x.sub.lan") is None
    assert ask(names, "ns.sub.lan") == ["ns.sub.lan A 10.0.0.3"]


def test_who_is_named_comes_along() -> None:
    names = house(zones={"lan": ZONE})
    for name, rtype in (("x.wild.lan", "MX"), ("_sip._udp.lan", "SRV")):
        got = names.lookup(name_wire(name), rtype_number(rtype))
        assert isinstance(got, Reply)
        assert shown(list(records(got, 2))) == ["mail.lan A 10.0.0.4", "mail.lan AAAA fd00::4"]


def test_wildcards_as_in_the_example_of_rfc_4592() -> None:
    text = """\
*          3600 TXT   "this is a wildcard"
*          3600 MX    10 host1.example.
sub.*      3600 TXT   "this is not a wildcard"
host1      3600 A     192.0.2.1
_ssh._tcp.host1 3600 SRV 1 1 22 host1
_ssh._tcp.host2 3600 SRV 1 1 22 host1
subdel     3600 NS    ns.example.com.
"""
    names = house(zones={"example": text})
    assert ask(names, "host3.example", "MX") == ["host3.example MX 10 host1.example."]
    assert ask(names, "host3.example") == "NODATA"
    assert ask(names, "foo.bar.example", "TXT") == ['foo.bar.example TXT "this is a wildcard"']
    assert ask(names, "host1.example", "MX") == "NODATA"
    assert ask(names, "sub.*.example", "MX") == "NODATA"
    assert ask(names, "_telnet._tcp.host1.example", "SRV") == "NXDOMAIN"
    assert ask(names, "host.subdel.example") is None
    assert ask(names, "ghost.*.example", "MX") == "NXDOMAIN"


def test_a_local_domain_is_never_asked_upstream() -> None:
    names = house(files="10.0.0.5 nas.lan", settings=LAN)
    assert ask(names, "nas.lan", "AAAA") == ask(names, "nas.lan", "TXT") == ask(names, "lan") == "NODATA"
    assert ask(names, "x.lan") == ask(names, "x.lan", "DS") == "NXDOMAIN"
    assert ask(names, "lan", "SOA") == ["lan SOA localhost. nobody.invalid. 1 3600 1200 604800 60"]
    assert soa(names, "x.y.lan") == ["lan"]
    assert ask(names, "elan") is None


def test_where_another_server_is_asked_the_domain_ends() -> None:
    names = house(
        "kept.sub.lan A 10.0.0.1", "*.lan TXT x", hosts={"+.lan": ("10.0.0.2",)}, leave=("sub.lan",), settings=LAN
    )
    assert ask(names, "x.sub.lan") is None
    assert ask(names, "x.sub.lan", "TXT") is None
    assert ask(names, "kept.sub.lan") == ["kept.sub.lan A 10.0.0.1"]
    assert ask(names, "x.lan") == ["x.lan A 10.0.0.2"]


def test_plain_names_may_be_kept_in_the_house() -> None:
    needed = house("nas A 10.0.0.1", settings=LocalSettings(domain_needed=True))
    assert ask(needed, "printer") == ask(needed, "printer", "AAAA") == "NXDOMAIN"
    assert ask(needed, "nas") == ["nas A 10.0.0.1"]
    assert ask(needed, "com", "NS") is None
    assert ask(house("only TXT x", settings=LocalSettings(domain_needed=True)), "only") == "NODATA"
    assert ask(needed, "a.b") is None
    above = house("a.b.lan TXT x", settings=LocalSettings(domain_needed=True))
    assert (ask(above, "lan"), ask(above, "b")) == ("NODATA", "NXDOMAIN")
    leased = house(leases=(lease("192.168.1.20", "laptop"),), settings=LocalSettings(domain_needed=True, domain="lan"))
    assert ask(leased, "lan") == "NODATA"
    assert ask(leased.with_leases((), 0.0), "lan") == "NXDOMAIN"
    unqualified = house(settings=LocalSettings(local_domains=("",)))
    assert ask(unqualified, "printer", "TXT") == "NXDOMAIN"
    assert ask(unqualified, "a.b", "TXT") is None
    assert ask(house(), "printer") is None


def test_any_gets_the_minimal_answer_of_rfc_8482() -> None:
    names = house("nas TXT x", zones={"lan": ZONE}, hosts={"+.pool": ("10.0.0.1",)})
    for name in ("nas", "mail.lan", "www.lan", "x.pool"):
        assert ask(names, name, "ANY") == [f'{name} HINFO "RFC8482" ""']
    assert ask(names, "x.lan", "ANY") == "NXDOMAIN"
    assert ask(names, "example.com", "ANY") is None


def test_aliases_that_go_round_are_a_failure_not_a_loop() -> None:
    names = house("a.lan CNAME b.lan", "b.lan CNAME a.lan", "*.r.lan CNAME x.y.r.lan")
    assert ask(names, "a.lan") == "SERVFAIL"
    assert ask(names, "q.r.lan") == "SERVFAIL"
    assert names.why(name_wire("a.lan"), 1) == "aliases lead round"


# -- names that are never asked of a network ---------------------------------------------------------------------------


def test_special_names_stay_at_home() -> None:
    names = house()
    assert ask(names, "localhost") == ["localhost A 127.0.0.1"]
    assert ask(names, "x.localhost", "AAAA") == ["x.localhost AAAA ::1"]
    assert ask(names, "x.localhost", "TXT") == "NODATA"
    for name in ("x.invalid", "x.test", "x.onion", "x.alt", "x.local", "x.home.arpa", "x.resolver.arpa"):
        assert ask(names, name) == "NXDOMAIN"
    assert ask(names, "home.arpa", "DS") is None
    assert ask(names, reverse_name("127.0.0.1"), "PTR") == ["1.0.0.127.in-addr.arpa PTR localhost."]
    assert ask(names, reverse_name("::1"), "PTR") == [f"{reverse_name('::1')} PTR localhost."]
    assert ask(house(leave=("test",)), "x.test") is None
    assert ask(house("x.test A 10.0.0.1"), "x.test") == ["x.test A 10.0.0.1"]
    assert ask(house(settings=LocalSettings(special=False)), "x.test") is None


def test_the_canary_of_browsers() -> None:
    assert ask(house(), "use-application-dns.net") == "NODATA"
    assert ask(house(settings=LocalSettings(canary=False)), "use-application-dns.net") is None


def test_private_addresses_are_not_asked_upstream_when_so_wished() -> None:
    asked = ["10.1.2.3", "172.16.0.1", "172.31.9.9", "192.168.9.9", "169.254.1.1", "100.64.0.1", "fd12::1", "fe80::1"]
    private = house(files="10.0.0.5 nas", settings=LocalSettings(bogus_priv=True))
    assert {str(ask(private, reverse_name(ip), "PTR")) for ip in asked} == {"NXDOMAIN"}
    assert ask(private, "0.0.10.in-addr.arpa", "PTR") == "NODATA"  # below it there is nas
    assert ask(private, reverse_name("10.0.0.5"), "PTR") == ["5.0.0.10.in-addr.arpa PTR nas."]
    for ip in ("172.32.0.1", "8.8.8.8", "2001:4860::1", "100.128.0.1"):
        assert ask(private, reverse_name(ip), "PTR") is None
    assert ask(house(), reverse_name("10.1.2.3"), "PTR") is None
    assert len(set(private_reverse_zones())) == 97
    routed = house(leave=("1.10.in-addr.arpa",), settings=LocalSettings(bogus_priv=True))
    assert ask(routed, reverse_name("10.1.2.3"), "PTR") is None


def test_a_reverse_name_of_a_lease_exists_with_those_above_it() -> None:
    private = house(leases=(lease("192.168.1.20", "box"),), settings=LocalSettings(bogus_priv=True))
    assert ask(private, "1.168.192.in-addr.arpa", "PTR") == "NODATA"
    assert ask(private, "2.168.192.in-addr.arpa", "PTR") == "NXDOMAIN"


def test_clients_are_told_of_the_encrypted_doors() -> None:
    builder = LocalBuilder()
    for owner, rtype, ttl, data in designated(
        "dns.lan", ["192.168.1.1", "fd00::1"], tls_port=853, https_port=443, ttl=60
    ):
        builder.record(owner, rtype, ttl, data)
    names = builder.build()
    assert ask(names, "_dns.resolver.arpa", "SVCB") == [
        '_dns.resolver.arpa SVCB 1 dns.lan. alpn="h2" port=443 ipv4hint=192.168.1.1 ipv6hint=fd00::1'
        ' dohpath="/dns-query{?dns}"',
        '_dns.resolver.arpa SVCB 2 dns.lan. alpn="dot" port=853 ipv4hint=192.168.1.1 ipv6hint=fd00::1',
    ]
    got = names.lookup(name_wire("_dns.resolver.arpa"), 64)
    assert isinstance(got, Reply)
    assert shown(list(records(got, 2))) == ["dns.lan A 192.168.1.1", "dns.lan AAAA fd00::1"]
    assert ask(house(), "_dns.resolver.arpa", "SVCB") == "NXDOMAIN"
    assert designated("dns.lan", ["192.168.1.1"], ttl=60) == ()


def test_names_made_from_addresses() -> None:
    builder = LocalBuilder(LocalSettings(local_domains=("lan",), bogus_priv=True))
    builder.synthesise(parse_synth("lan,192.168.1.0/24,dhcp-"))
    builder.synthesise(parse_synth("lan,fd00::/64,six-"))
    builder.hosts_file("192.168.1.5 nas\n192.168.1.6 dhcp-192-168-1-7.lan", "/etc/hosts")
    names = builder.build()
    assert ask(names, "dhcp-192-168-1-9.lan") == ["dhcp-192-168-1-9.lan A 192.168.1.9"]
    assert ask(names, "dhcp-192-168-1-9.lan", "AAAA") == ask(names, "dhcp-192-168-1-9.lan", "TXT") == "NODATA"
    assert ask(names, "dhcp-192-168-2-9.lan") == "NXDOMAIN"
    assert ask(names, reverse_name("192.168.1.9"), "PTR") == ["9.1.168.192.in-addr.arpa PTR dhcp-192-168-1-9.lan."]
    assert ask(names, reverse_name("fd00::1"), "PTR") == [f"{reverse_name('fd00::1')} PTR six-fd00--1.lan."]
    assert ask(names, reverse_name("192.168.1.5"), "PTR") == ["5.1.168.192.in-addr.arpa PTR nas."]
    assert ask(names, "dhcp-192-168-1-7.lan") == ["dhcp-192-168-1-7.lan A 192.168.1.6"]
    assert ask(names, "x.y.in-addr.arpa", "PTR") is None


def test_questions_about_ourselves() -> None:
    open_ = house(settings=LocalSettings(version="names 1", identity="router"))
    got = open_.chaos(name_wire("version.bind"), 16)
    assert got is not None
    assert shown(list(records(got, 0))) == ['version.bind TXT "names 1"']
    assert got.question[-2:] == b"\0\3"
    assert open_.chaos(name_wire("id.server"), 16) is not None
    assert open_.chaos(name_wire("id.server"), 1) is None
    assert house().chaos(name_wire("version.bind"), 16) is None


# -- faults ------------------------------------------------------------------------------------------------------------


def test_all_faults_come_out_at_once() -> None:
    builder = LocalBuilder()
    for line in ("a CNAME b", "a A 1.2.3.4", "c CNAME d", "c CNAME e"):
        record = read_record(line)
        builder.record(record.owner, record.rtype, record.ttl, record.data)
    builder.zone("lan", read_zone("x.elsewhere. A 1.2.3.4\nsub SOA a b 1 1 1 1 1", "lan"))
    builder.hosts({"+.": ("10.0.0.1",)})
    with pytest.raises(ConfigFault) as caught:
        builder.build()
    assert len(str(caught.value).splitlines()) == 5


LABEL = st.sampled_from(["a", "b", "*", "lan"])
NAME = st.lists(LABEL, min_size=1, max_size=4).map(".".join)


@given(st.sets(NAME, max_size=8), st.lists(NAME, min_size=1, max_size=8))
@settings(max_examples=200)
def test_wildcards_agree_with_a_plain_reading_of_rfc_4592(owners: set[str], asked: list[str]) -> None:
    names = house(
        *(f"{owner} TXT {owner}" for owner in owners), zones={"lan": ""}, settings=LocalSettings(special=False)
    )
    inside = {tuple(owner.split(".")) for owner in owners if owner.split(".")[-1] == "lan"} | {("lan",)}
    existing = {labels[at:] for labels in inside for at in range(len(labels))}
    for name in asked:
        labels = tuple(name.split("."))
        if labels[-1] != "lan":
            continue
        source: tuple[str, ...] | None = labels
        if labels not in existing:
            encloser = next(labels[at:] for at in range(len(labels)) if labels[at:] in existing)
            source = ("*", *encloser)
        owner = ".".join(source)
        if owner in owners:
            expected: object = [f'{name} TXT "{owner}"']
        else:
            expected = "NODATA" if labels in existing or source in existing else "NXDOMAIN"
        assert ask(names, name, "TXT") == expected


EVERYTHING = house(
    "*.w.lan TXT x", "loop.lan CNAME loop.lan", "d.lan DNAME e.lan", "in.e.lan A 10.0.0.9", "out.lan CNAME a.example",
    hosts={"+.h.lan": ("10.0.0.1", "fd00::1"), "*.alias.lan": "in.e.lan", "x.*.star.lan": ("10.0.0.2",)},
    files="10.0.0.5 nas printer",
    zones={"z.lan": ZONE},
    leases=(lease("10.0.0.7", "box"), lease("fd00::7", "box")),
    leave=("left.lan",),
    settings=LocalSettings(domain="lan", local_domains=("lan", ""), bogus_priv=True, domain_needed=True),
)  # fmt: skip
OWNERS = sorted(EVERYTHING._nodes | EVERYTHING._leases | EVERYTHING._cuts)


@given(
    st.lists(st.binary(min_size=1, max_size=5), max_size=4),
    st.sampled_from([name_wire("lan"), b"\0", *OWNERS]),
    st.sampled_from([1, 2, 5, 6, 12, 15, 16, 28, 33, 39, 43, 64, 65, 252, 255, 0, 65535]),
)
@settings(max_examples=200)
def test_every_question_gets_one_of_three_answers(labels: list[bytes], below: bytes, rtype: int) -> None:
    name = b"".join(bytes((len(label),)) + label for label in labels).lower() + below
    got = EVERYTHING.lookup(name, rtype)
    if isinstance(got, Reply):
        answer, authority = list(records(got, 0)), list(records(got, 1))
        assert got.rcode in (0, 2, 3)
        assert got.rcode == 2 or (not answer or answer[-1][1] in (5, 13, rtype)) or got.rcode == 3
        if not answer and got.rcode != 2:
            assert [record[1] for record in authority] == [6]  # so that clients remember it
            assert got.ttl > 0
    elif got is not None:
        assert got.answer
        assert EVERYTHING.lookup(got.target, rtype) is None
    assert bool(EVERYTHING.why(name, rtype)) == (got is not None)


BY_NAME_ALONE = house(
    "*.w.lan TXT x", "d.lan DNAME e.lan", "nas.lan A 10.0.0.9", "a.*.star.lan TXT x",
    zones={"z.lan": ZONE},
    leases=(lease("10.0.0.7", "box"),),
    leave=("left.z.lan",),
    settings=LocalSettings(domain="house", local_domains=("", "kept.lan"), mail="self"),
)  # fmt: skip
assert not BY_NAME_ALONE._by_text


@given(
    st.lists(st.sampled_from([b"a", b"b", b"lan", b"box"]), max_size=3),
    st.sampled_from(sorted({*BY_NAME_ALONE._nodes, *BY_NAME_ALONE._leases, *BY_NAME_ALONE._cuts, b"\0"})),
    st.sampled_from([1, 5, 6, 12, 15, 16, 43, 255]),
)
@settings(max_examples=200)
def test_the_cheap_look_passes_over_no_name_of_ours(labels: list[bytes], below: bytes, rtype: int) -> None:
    name = b"".join(bytes((len(label),)) + label for label in labels) + below
    assert (BY_NAME_ALONE.lookup(name, rtype) is None) == (not BY_NAME_ALONE.why(name, rtype))


def test_an_escaped_dot_does_not_part_labels() -> None:
    names = house(hosts={"*.b.lan": ("10.0.0.1",)})
    assert ask(names, "a.b.lan") == ["a.b.lan A 10.0.0.1"]
    assert ask(names, "a\\.b.lan") is None


def test_addresses_are_those_of_the_house_alone() -> None:
    names = house(hosts={"two.lan": ("10.0.0.1", "fd00::1"), "six.lan": ("fd00::6",), "away.lan": "www.example.com"})
    assert names.addresses("two.lan") == ["10.0.0.1", "fd00::1"]
    assert names.addresses("six.lan") == ["fd00::6"]
    assert names.addresses("localhost") == ["127.0.0.1", "::1"]
    for unknown in ("away.lan", "www.example.com", "x" * 64 + ".lan", ""):
        assert names.addresses(unknown) == [], unknown


# -- our own addresses, mail, and where one asks -----------------------------------------------------------------------


def test_names_of_our_addresses_follow_them_and_hide_what_others_say() -> None:
    builder = LocalBuilder(LocalSettings(local_domains=("lan",)))
    builder.hosts_file("192.168.1.9 gw.lan\n192.168.1.1 router.lan\n", "/etc/hosts")
    for line in ("1.2.168.192.in-addr.arpa PTR written.lan.", "gw.lan TXT here"):
        record = read_record(line)
        builder.record(record.owner, record.rtype, record.ttl, record.data)
    builder.interface(parse_interface_name("gw.lan,lan"))
    builder.interface(parse_interface_name("far.example,nosuch"))
    guest = Lease("192.168.1.50", "02:00:00:00:00:01", "", "gw", 1e9)
    names = builder.build((guest,), 0.0)
    assert [ask(names, "gw.lan"), ask(names, "far.example"), ask(names, "x.far.example")] == ["NODATA", "NODATA", None]
    up = names.with_homes([Home("lan", "192.168.1.1", 2, 24), Home("lan", "192.168.2.1", 2, 24)])
    assert ask(up, "gw.lan") == ["gw.lan A 192.168.1.1", "gw.lan A 192.168.2.1"]
    assert [ask(up, "gw.lan", "AAAA"), ask(up, "far.example", "AAAA")] == ["NODATA", "NODATA"]
    assert ask(up, "gw.lan", "TXT") == ['gw.lan TXT "here"']
    assert ask(up, "1.1.168.192.in-addr.arpa", "PTR") == ["1.1.168.192.in-addr.arpa PTR gw.lan."]
    assert ask(up, "1.2.168.192.in-addr.arpa", "PTR") == ["1.2.168.192.in-addr.arpa PTR written.lan."]
    assert ask(up.with_leases((), 0.0), "gw.lan") == ask(up, "gw.lan")
    down = up.with_homes([])
    assert [ask(down, "gw.lan"), ask(down, "1.1.168.192.in-addr.arpa", "PTR")] == [
        "NODATA", ["1.1.168.192.in-addr.arpa PTR router.lan."]
    ]  # fmt: skip


def test_mail_goes_to_each_machine_or_to_one() -> None:
    lines = ("own.lan A 192.168.1.9", "own.lan MX 5 post.lan.", "text.lan TXT here", "also.lan CNAME plain.lan.")
    said = {}
    for mail in ("self", "post.lan", ""):
        names = house(*lines, files="192.168.1.5 plain.lan", settings=LocalSettings(mail=mail, local_domains=("lan",)))
        said[mail] = [ask(names, name, "MX") for name in ("plain.lan", "own.lan", "text.lan", "also.lan")]
    assert said["self"] == [
        ["plain.lan MX 1 plain.lan."], ["own.lan MX 5 post.lan."], "NODATA",
        ["also.lan CNAME plain.lan.", "plain.lan MX 1 plain.lan."],
    ]  # fmt: skip
    assert said["post.lan"][0] == ["plain.lan MX 1 post.lan."]
    assert said[""][0] == "NODATA"


def test_of_several_addresses_those_of_the_asked_network_are_told() -> None:
    names = house(
        "many.lan A 192.168.5.9", "many.lan A 192.168.5.10", "many.lan A 10.9.0.9", "called.lan CNAME many.lan.",
        hosts={"+.pool.lan": ("192.168.5.3", "10.9.0.3")},
    )  # fmt: skip

    def near(name: str, network: str) -> list[str]:
        reply = names.lookup(name_wire(name), 1)
        assert isinstance(reply, Reply)
        found = names.localised(reply, ipaddress.ip_network(network))
        return [data_text(rtype, data) for _, rtype, _, data in records(found, 0)]

    assert near("many.lan", "192.168.5.0/24") == ["192.168.5.9", "192.168.5.10"]
    assert near("called.lan", "10.9.0.0/16") == ["many.lan.", "10.9.0.9"]
    assert near("many.lan", "172.16.0.0/12") == ["192.168.5.9", "192.168.5.10", "10.9.0.9"]
    assert near("x.pool.lan", "10.9.0.0/16") == ["192.168.5.3", "10.9.0.3"]
