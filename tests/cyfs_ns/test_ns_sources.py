from __future__ import annotations

import socket
from pathlib import Path

import pytest

from cyfs_ns.io.sources import Sources, is_local
from cyfs_ns.loops import own_doors, probe_name, probe_number
from cyfs_ns.upstream import Upstream, parse_upstream
from cyfs_ns.wire import name_text, name_wire


def hosts(servers: tuple[Upstream, ...]) -> list[str]:
    return [server.host for server in servers]


def test_the_systems_servers_follow_the_file_by_the_way_named(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    sources = Sources(path)
    system = parse_upstream("system")
    assert hosts(sources.instead_of(system)) == ["127.0.0.1"], "no file: this machine, as resolv.conf(5) says"
    path.write_text("nameserver 192.0.2.1\n")
    assert hosts(sources.instead_of(system)) == ["192.0.2.1"]
    path.write_text("nameserver 192.0.2.2\nnameserver 192.0.2.3\n")
    assert hosts(sources.instead_of(system)) == ["192.0.2.2", "192.0.2.3"]
    assert [server.via for server in sources.instead_of(parse_upstream("system#eth1"))] == ["eth1", "eth1"]
    path.unlink()
    assert hosts(sources.instead_of(system)) == ["127.0.0.1"]
    assert sources.instead_of(parse_upstream("1.1.1.1")) == (parse_upstream("1.1.1.1"),)


def test_a_lease_is_found_where_dhcp_clients_leave_it(tmp_path: Path) -> None:
    sources = Sources(root=tmp_path)
    dhcp = parse_upstream("dhcp://lo")
    assert sources.instead_of(dhcp) == ()
    dhclient = tmp_path / "var/lib/dhcp/dhclient.leases"
    dhclient.parent.mkdir(parents=True)
    dhclient.write_text('lease {\n  interface "lo";\n  option domain-name-servers 192.0.2.1;\n}\n')
    assert hosts(sources.instead_of(dhcp)) == ["192.0.2.1"]
    networkd = tmp_path / f"run/systemd/netif/leases/{socket.if_nametoindex('lo')}"
    networkd.parent.mkdir(parents=True)
    networkd.write_text("DNS=192.0.2.2\n")
    dhclient.write_text('lease {\n  interface "lo";\n  option domain-name-servers 192.0.2.1, 192.0.2.9;\n}\n')
    assert hosts(sources.instead_of(dhcp)) == ["192.0.2.2"], "looked for anew once the old one changed"
    assert sources.instead_of(parse_upstream("dhcp://nosuch0")) == ()


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1"])
def test_addresses_of_this_machine(address: str) -> None:
    assert is_local(address)


def test_addresses_of_others() -> None:
    assert not is_local("192.0.2.1")
    assert not is_local("2001:db8::1")


@pytest.mark.parametrize(
    ("server", "door", "ours"),
    [
        ("127.0.0.1", ("127.0.0.1", 53), True),
        ("127.0.0.1:5353", ("127.0.0.1", 53), False),
        ("192.168.1.1", ("0.0.0.0", 53), True),
        ("192.168.1.1", ("", 53), True),
        ("192.168.1.1", ("127.0.0.1", 53), False),
        ("8.8.8.8", ("", 53), False),
        ("tls://192.168.1.1", ("::", 853), True),
        ("127.0.0.1#PROXY", ("127.0.0.1", 53), False),
        ("tls://dns.example", ("", 853), False),
    ],
)
def test_our_own_doors_among_the_servers(server: str, door: tuple[str, int], ours: bool) -> None:
    faults = own_doors([parse_upstream(server)], [door], lambda address: address.startswith(("127.", "192.168.")))
    assert bool(faults) == ours
    assert not ours or parse_upstream(server).host in faults[0]


def test_probes_carry_their_number() -> None:
    for number in (0, 1, (1 << 64) - 1):
        assert probe_number(probe_name(number)) == number
    assert name_text(probe_name(0xAB)) == "00000000000000ab.loop.test"
    for text in ("loop.test", "0123.loop.test", "0123456789abcdeg.loop.test", "0123456789abcdef.loop.tes"):
        assert probe_number(name_wire(text)) is None
