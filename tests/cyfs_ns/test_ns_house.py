"""One configuration made real: files, groups, what answers are kept under, and faults that leave no trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from nameserving import house_of

from cyfs_ns.errors import ConfigFault
from cyfs_ns.io.house import House, read_lease_files
from cyfs_ns.local import Alias
from cyfs_ns.records import data_text
from cyfs_ns.reply import Reply, records
from cyfs_ns.sets import CidrSet
from cyfs_ns.wire import name_wire

NOBODY_NEAR = CidrSet(())


def says(house: House, name: str, rtype: int = 1) -> list[str] | None:
    found = house.local.lookup(name_wire(name), rtype)
    assert not isinstance(found, Alias)
    return None if found is None else [data_text(kind, data) for _, kind, _, data in records(found, 0)]


def test_names_come_from_records_zones_hosts_and_files(tmp_path: Path) -> None:
    zone, folder = tmp_path / "zone", tmp_path / "hosts.d"
    zone.write_text("www A 192.0.2.1\n")
    folder.mkdir()
    (folder / "a").write_text("192.0.2.2 a.lan\n")
    (folder / "b").write_text("192.0.2.3 b.lan\n")
    house = house_of(
        {
            "records": ["r.lan A 192.0.2.4"],
            "zones": {"y.example": ["@ A 192.0.2.5"], "z.example": {"file": str(zone)}},
            "hosts-files": [str(folder), str(tmp_path / "not yet there")],
        },
        {"h.lan": ("192.0.2.6", "192.0.2.7"), "alias.lan": ("r.lan",)},
    )
    assert [says(house, name) for name in ("r.lan", "y.example", "www.z.example", "a.lan", "b.lan", "h.lan")] == [
        ["192.0.2.4"], ["192.0.2.5"], ["192.0.2.1"], ["192.0.2.2"], ["192.0.2.3"], ["192.0.2.6", "192.0.2.7"],
    ]  # fmt: skip
    assert says(house, "alias.lan") == ["r.lan.", "192.0.2.4"]
    assert says(house, "www.example") is None
    assert set(house.watched) == {zone, folder, tmp_path / "not yet there"}


def test_hosts_can_be_switched_off() -> None:
    assert says(house_of({"use-hosts": False}, {"h.lan": ("192.0.2.6",)}), "h.lan") is None


def test_a_zone_ends_where_somebody_else_is_asked() -> None:
    house = house_of({"local-domains": ["lan"], "servers": ["/sub.lan/192.0.2.1"]})
    assert says(house, "x.sub.lan") is None
    assert says(house, "x.lan") == []


@pytest.mark.parametrize(
    ("config", "wrong"),
    [
        ({"zones": {"z.example": {"file": "/nowhere/at.all"}}}, "/nowhere/at.all: No such file"),
        ({"listen": "127.0.0.1:5300", "nameserver": ["127.0.0.1:5300"]}, "127.0.0.1"),
        (
            {"listen": "127.0.0.1:5300", "clients": [{"name": "a", "match": "x", "nameserver": "127.0.0.1:5300"}]},
            "127.0.0.1",
        ),
        ({"nameserver-policy": {"rule-set:mine": "192.0.2.1"}}, "rule-set:mine"),
        ({"records": ["a.lan CNAME b.lan.", "a.lan A 192.0.2.1"]}, "stands alone"),
    ],
)  # fmt: skip
def test_what_cannot_be_made_real(config: dict[str, Any], wrong: str) -> None:
    with pytest.raises(ConfigFault, match=wrong):
        house_of(config)


def test_a_zone_file_that_is_wrong_is_named_with_its_line(tmp_path: Path) -> None:
    zone = tmp_path / "zone"
    zone.write_text("www A 192.0.2.1\nmail A nothing\n")
    with pytest.raises(ConfigFault, match=f"{zone}: .*2"):
        house_of({"zones": {"z.example": {"file": str(zone)}}})


def test_who_may_ask() -> None:
    house = house_of({"deny-from": ["192.168.1.66"]})
    asking = ("127.0.0.1", "192.168.1.7", "fe80::1%eth0", "::1", "9.9.9.9", "2001:db8::1", "192.168.1.66", "")
    assert [house.may_ask(ip, NOBODY_NEAR) for ip in asking] == [True, True, True, True, False, False, False, False]


def test_servers_of_names_come_before_those_of_clients() -> None:
    house = house_of(
        {
            "servers": ["/corp.example/192.0.2.1"],
            "clients": [
                {"name": "kids", "match": ["10.0.0.1"], "nameserver": ["192.0.2.2"]},
                {"name": "left", "match": ["10.0.0.2"], "nameserver": ["quic://192.0.2.3"]},
            ],
        }
    )
    asked = [
        [str(upstream) for upstream in house.group(name, view).servers]
        for name, view in (
            ("x.corp.example", "kids"),
            ("www.example", "kids"),
            ("www.example", "left"),
            ("www.example", ""),
        )
    ]
    assert asked == [["udp://192.0.2.1:53"], ["udp://192.0.2.2:53"], ["udp://192.0.2.53:53"], ["udp://192.0.2.53:53"]]


def test_answers_are_kept_under_what_the_servers_are() -> None:
    def shelf(**config: Any) -> str:
        house = house_of({key.replace("_", "-"): value for key, value in config.items()})
        return house.shelf(house.servers.standard)

    assert shelf() == shelf() == shelf(block=["a.example"])
    others = {
        shelf(),
        shelf(nameserver=["192.0.2.54"]),
        shelf(nameserver=["192.0.2.53#PROXY"]),
        shelf(fallback=["192.0.2.54"]),
        shelf(fallback=["192.0.2.54"], fallback_filter={"ipcidr": ["240.0.0.0/4"]}),
    }
    assert len(others) == 5


def test_encrypted_doors_are_announced_to_those_who_come_by_the_plain_one() -> None:
    house = house_of({"listen-tls": "192.0.2.1:853", "listen-https": "192.0.2.1:443", "server-names": ["dns.example"]})
    told = house.local.lookup(name_wire("_dns.resolver.arpa"), 64)
    assert isinstance(told, Reply)
    assert [data_text(kind, data).split()[1] for _, kind, _, data in records(told, 0)] == [
        "dns.example.",
        "dns.example.",
    ]
    assert says(house, "dns.example") == ["192.0.2.1"]


def test_no_ipv6_means_no_questions_for_it() -> None:
    assert house_of({"ipv6": False}).answers.refuses(28)
    assert not house_of({}).answers.refuses(28)
    assert house_of({"ipv6": False, "family": "ipv6"}).answers.refuses(1)


def test_leases_are_read_from_files_that_may_be_missing(tmp_path: Path) -> None:
    (tmp_path / "leases").write_text("4102444800 02:00:00:00:00:01 192.168.1.50 laptop 01:02\nnonsense\n")
    found = read_lease_files([tmp_path / "leases", tmp_path / "missing"])
    assert [(lease.ip, lease.name) for lease in found] == [("192.168.1.50", "laptop")]
