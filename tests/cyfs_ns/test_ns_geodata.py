"""geosite.dat and geoip.dat: what a category says, and that damaged files give a fault of their own."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_ns.address import parse_address
from cyfs_ns.errors import BadWire, ConfigFault
from cyfs_ns.geodata import DatFile, country_set, site_set
from cyfs_ns.sets import CidrSet
from tests.cyfs_gateway.rules.dat_writer import geoip_dat, geosite_dat, message

KEYWORD, REGEX, BELOW, FULL = range(4)
SITES = geosite_dat(
    {
        "GOOGLE": [
            (BELOW, "google.com", []),
            (FULL, "only.example", ["cn"]),
            (KEYWORD, "Goog", ["ads", "cn"]),
            (REGEX, r"^ads?\d+\.example$", ["ads"]),
        ],
        "CN": [(BELOW, "cn", [])],
    }
)
PLACES = geoip_dat({"CN": ["1.0.1.0/24", "2001:db8::/32"], "PRIVATE": ["10.0.0.0/8"]}, reverse={"PRIVATE"})


def test_a_category_holds_names_keywords_and_regexes():
    google = site_set(DatFile(SITES), "google")
    assert len(google) == 4
    for host in ("google.com", "www.google.com", "only.example", "my-goog.example", "ad7.example"):
        assert google.match(host)
    for host in ("gle.com", "x.only.example", "x.ad7.example", "cn"):
        assert not google.match(host)


def test_attributes_choose_and_an_exclamation_mark_turns_round():
    file = DatFile(SITES)
    ads = site_set(file, "Google@ads")
    assert len(ads) == 2 and ads.match("ad7.example") and not ads.match("only.example")
    assert len(site_set(file, "google@ads@cn")) == 1
    assert len(site_set(file, "google@none")) == 0
    others = site_set(file, "!cn")
    assert others.match("a.example") and not others.match("a.cn")


def test_an_unknown_category_is_a_fault_of_the_configuration():
    file = DatFile(SITES)
    assert file.codes() == ("google", "cn")
    with pytest.raises(ConfigFault, match="no category 'gogle'"):
        site_set(file, "gogle")
    with pytest.raises(ConfigFault, match="no code 'xx'"):
        country_set(DatFile(PLACES), "xx")


def has(cidrs: CidrSet, ip: str) -> bool:
    address = parse_address(ip)
    assert address is not None
    return cidrs.has(address)


def test_a_country_holds_its_networks_and_reverse_match_all_others():
    file = DatFile(PLACES)
    china, public = country_set(file, "CN"), country_set(file, "private")
    assert len(china) == 2
    assert has(china, "1.0.1.9") and has(china, "2001:db8::1") and not has(china, "1.0.2.0")
    assert (
        has(public, "9.255.255.255") and has(public, "11.0.0.0") and has(public, "::1") and not has(public, "10.1.1.1")
    )


def test_only_the_category_asked_for_is_read():
    damaged = SITES.replace(b"\x12\x02cn", b"\x12\x7fcn")  # in CN the length of a name reaches past its end
    assert site_set(DatFile(damaged), "google").match("google.com")
    with pytest.raises(BadWire):
        site_set(DatFile(damaged), "cn")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x0a\x05",
        b"\x0a\x00",
        b"\x0a" + b"\xff" * 11,
        b"\x03",
        b"\x00\x00",
        b"\x09\x00",
        b"\x0a\x04\x0a\x02\xff\xfe",
        b"<html>not a database</html>",
    ],
)
def test_what_is_no_geo_data_is_refused(data):
    with pytest.raises(BadWire):
        DatFile(data)


@pytest.mark.parametrize(("ip", "bits"), [(b"\x01\x02\x03", 8), (b"\x01\x02\x03\x04", 33), (bytes(16), 129)])
def test_impossible_networks_are_refused(ip, bits):
    entry = message((1, b"XX"), (2, message((1, ip), (2, bits))))
    with pytest.raises(BadWire):
        country_set(DatFile(message((1, entry))), "xx")


def test_a_regex_that_cannot_run_is_refused():
    with pytest.raises(ConfigFault, match="regex"):
        site_set(DatFile(geosite_dat({"X": [(REGEX, "(?=a)", [])]})), "x")


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([SITES, PLACES]), st.data())
def test_damaged_geo_data_is_a_set_or_a_fault(whole, data):
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(0, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    content = bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    for read, code in ((site_set, "google@ads"), (site_set, "!cn"), (country_set, "cn"), (country_set, "private")):
        try:
            found = read(DatFile(content), code)
        except (BadWire, ConfigFault):
            continue
        assert len(found) >= 0
        if isinstance(found, CidrSet):
            has(found, "1.0.1.1")
        else:
            found.match("www.google.com")


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_a_geo_file_or_bad_wire(data):
    try:
        file = DatFile(data)
    except BadWire:
        return
    assert file.codes()
