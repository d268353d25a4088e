"""Geo databases in a home directory: every flavour of mmdb, the dat files, and what a missing one says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mmdb_writer import MMDBWriter
from netaddr import IPSet

from cyfs_gateway.io.geodata import GeoFiles
from cyfs_gateway.rules.parse import parse_rule
from cyfs_gateway.rules.table import RuleTable
from cyfs_ns.address import parse_address
from cyfs_ns.errors import ConfigFault
from tests.cyfs_gateway.rules.dat_writer import geoip_dat, geosite_dat


def write_mmdb(path: Path, database_type: str, records: dict[str, Any]) -> None:
    writer = MMDBWriter(ip_version=6, ipv4_compatible=True, database_type=database_type)
    for network, record in records.items():
        writer.insert_network(IPSet([network]), record)
    writer.to_db_file(str(path))


@pytest.mark.parametrize(
    ("name", "database_type", "record", "codes"),
    [
        ("Country.mmdb", "GeoLite2-Country", {"country": {"iso_code": "AU", "names": {"en": "Australia"}}}, ("au",)),
        ("country.MMDB", "DBIP-Country-Lite", {"country": {"iso_code": "AU"}}, ("au",)),
        ("GeoLite2-Country.mmdb", "GeoLite2-Country", {"continent": {"code": "OC"}}, ()),
        ("geoip.db", "sing-geoip", "au", ("au",)),
        ("geoip.metadb", "Meta-geoip0", "au", ("au",)),
        ("geoip.metadb", "Meta-geoip0", ["au", "cloudflare"], ("au", "cloudflare")),
    ],
)
def test_countries_from_every_flavour_of_mmdb(tmp_path, name, database_type, record, codes):
    write_mmdb(tmp_path / name, database_type, {"1.0.0.0/24": record, "2001:db8::/32": record})
    geo = GeoFiles(tmp_path)
    assert geo.country("1.0.0.1") == codes
    assert geo.country("2001:db8::1") == codes
    assert geo.country("9.9.9.9") == ()
    assert geo.country("nonsense") == ()
    assert geo.country_set("au") is None
    geo.close()


@pytest.mark.parametrize(
    ("name", "database_type", "record"),
    [
        (
            "GeoLite2-ASN.mmdb",
            "GeoLite2-ASN",
            {"autonomous_system_number": 13335, "autonomous_system_organization": "CLOUDFLARENET"},
        ),
        ("ASN.mmdb", "DBIP-ASN-Lite (compat=GeoLite2-ASN)", {"autonomous_system_number": 13335}),
        ("asn.mmdb", "ipinfo generic_asn_free.mmdb", {"asn": "AS13335", "name": "Cloudflare"}),
    ],
)
def test_autonomous_systems_from_every_flavour_of_mmdb(tmp_path, name, database_type, record):
    write_mmdb(tmp_path / name, database_type, {"1.1.1.0/24": record})
    geo = GeoFiles(tmp_path)
    assert geo.asn("1.1.1.1") == "13335"
    assert geo.asn("9.9.9.9") == ""
    geo.close()


def test_dat_files_are_read_by_category(tmp_path):
    (tmp_path / "geosite.dat").write_bytes(geosite_dat({"GOOGLE": [(2, "google.com", [])]}))
    (tmp_path / "GeoIP.dat").write_bytes(geoip_dat({"CN": ["1.0.1.0/24"]}))
    geo = GeoFiles(tmp_path, by_code=True)
    assert geo.site("google").match("www.google.com")
    assert geo.site("google") is geo.site("google")
    china = geo.country_set("cn")
    address = parse_address("1.0.1.1")
    assert china is not None and address is not None and china.has(address)
    with pytest.raises(ConfigFault, match="no category"):
        geo.site("nothing")
    geo.close()
    assert china.has(address)


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("GEOIP,cn,A", r"geoip\.metadb or Country\.mmdb"),
        ("IP-ASN,1,A", r"GeoLite2-ASN\.mmdb or ASN\.mmdb"),
        ("GEOSITE,cn,A", r"GeoSite\.dat"),
    ],
)
def test_a_missing_database_is_named_when_the_rules_are_compiled(tmp_path, line, names):
    for home in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ConfigFault, match=names):
            RuleTable.compile([parse_rule(line)], sub_rules={}, sets={}, geo=GeoFiles(home))


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>"])
def test_a_file_that_is_no_database_is_a_fault_that_names_it(tmp_path, content):
    for name in ("geoip.metadb", "ASN.mmdb", "GeoSite.dat", "GeoIP.dat"):
        (tmp_path / name).write_bytes(content)
    geo = GeoFiles(tmp_path, by_code=True)
    for ask, name in (
        (lambda: geo.country("1.1.1.1"), "geoip.metadb"),
        (lambda: geo.asn("1.1.1.1"), "ASN.mmdb"),
        (lambda: geo.site("cn"), "GeoSite.dat"),
        (lambda: geo.country_set("cn"), "GeoIP.dat"),
    ):
        with pytest.raises(ConfigFault, match=name):
            ask()


def test_rules_on_places_work_on_real_databases(tmp_path):
    from tests.cyfs_gateway.rules.test_table import WEB

    write_mmdb(tmp_path / "geoip.metadb", "Meta-geoip0", {"142.250.0.0/16": ["us", "google"]})
    write_mmdb(tmp_path / "ASN.mmdb", "GeoLite2-ASN", {"142.250.0.0/16": {"autonomous_system_number": 15169}})
    rules = ["GEOIP,cn,A", "GEOIP,GOOGLE,B", "GEOIP,us,C", "IP-ASN,15169,D"]
    table = RuleTable.compile([parse_rule(line) for line in rules], sub_rules={}, sets={}, geo=GeoFiles(tmp_path))
    assert [table.match(WEB, start).outbound for start in range(4)] == ["B", "B", "C", "D"]
