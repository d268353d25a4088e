"""Names of what has an address because a link of ours has one."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyfs_ns.errors import ConfigFault
from cyfs_ns.ifnames import parse_dynamic_host, parse_interface_name
from cyfs_ns.links import Home

HOMES = frozenset({
    Home("lan", "192.168.5.1", 2, 24), Home("lan", "fd05::1", 2, 64), Home("lan", "fd05::abcd", 2, 64, lasting=False),
    Home("lan", "fe80::1", 2, 64), Home("lan", "10.0.0.1", 2, 32), Home("wan", "198.51.100.7", 3, 24),
})  # fmt: skip


@pytest.mark.parametrize(
    ("line", "told", "known"),
    [
        ("gw.lan,lan", ["10.0.0.1", "192.168.5.1", "fd05::1"], ["fd05::abcd"]),
        (" GW.lan , lan/4", ["10.0.0.1", "192.168.5.1"], []),
        ("gw.lan,lan/6", ["fd05::1"], ["fd05::abcd"]),
        ("gw.lan,nosuch", [], []),
    ],
)
def test_an_interface_is_called_by_its_addresses(line: str, told: list[str], known: list[str]) -> None:
    named = parse_interface_name(line)
    assert named.name == "gw.lan"
    found = list(named.addresses(HOMES))
    assert [ip for ip, lasting in found if lasting] == told
    assert [ip for ip, lasting in found if not lasting] == known


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("nas.lan,0.0.0.8,lan", ["192.168.5.8"]),
        ("nas.lan,0.0.9.8,::8,lan", ["192.168.5.8", "fd05::8"]),
        ("nas.lan,,::1:2:3:4:5,lan", ["fd05::2:3:4:5"]),
    ],
)
def test_a_number_is_one_in_every_network_of_an_interface(line: str, told: list[str]) -> None:
    assert [ip for ip, lasting in parse_dynamic_host(line).addresses(HOMES) if lasting] == told


@pytest.mark.parametrize("line", ["", "gw.lan", "gw.lan,", "gw.lan,lan/5", "gw.lan,a,b", "g w,lan", "gw.lan,no such"])
def test_nonsense_names_no_interface(line: str) -> None:
    with pytest.raises(ConfigFault):
        parse_interface_name(line)


@pytest.mark.parametrize(
    "line",
    ["", "nas.lan", "nas.lan,lan", "nas.lan,8,lan", "nas.lan,0.0.0.8", "nas.lan,0.0.0.8,0.0.0.9,lan", ",::8,l"],
)
def test_nonsense_is_no_number(line: str) -> None:
    with pytest.raises(ConfigFault):
        parse_dynamic_host(line)


@given(st.text(st.sampled_from("a1.,:/ é"), max_size=24))
def test_any_line_is_a_name_or_its_one_error(line: str) -> None:
    for parse in (parse_interface_name, parse_dynamic_host):
        with suppress(ConfigFault):
            list(parse(line).addresses(HOMES))
