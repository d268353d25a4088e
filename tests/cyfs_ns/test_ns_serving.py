"""A name server at work, on real sockets: what a change keeps, what it swaps, what it leaves alone when it fails."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import dns.message
import dns.rcode
import pytest
import trio
from dnsfakes import Counted, free_port, udp_server, zone
from nameserving import query_wire, rcode, shown

from cyfs_ns.config.dns import DnsConfig
from cyfs_ns.config.load import load_dns
from cyfs_ns.errors import ConfigFault
from cyfs_ns.io.serving import Serving, wanted_doors

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: binds sockets to a device")


def config(upstream: object, port: int, **keys: Any) -> DnsConfig:
    spelt = {key.replace("_", "-"): value for key, value in keys.items()}
    usual = {
        "listen": f"127.0.0.1:{port}",
        "nameserver": [str(upstream)],
        "use-system-hosts": False,
        "strategy": "strict",
    }
    loaded = load_dns(json.dumps({"dns": {"enable": True, **usual, **spelt}}).encode())
    assert loaded.dns is not None, loaded.faults
    return loaded.dns


@asynccontextmanager
async def serving(home: Path, dns: DnsConfig) -> AsyncIterator[Serving]:
    made = Serving(home, dns)
    async with trio.open_nursery() as nursery:
        await nursery.start(made.run, {})
        yield made
        nursery.cancel_scope.cancel()


async def ask(port: int, name: str, rtype: str = "A") -> dns.message.Message:
    with trio.socket.socket(type=socket.SOCK_DGRAM) as sock:
        await sock.connect(("127.0.0.1", port))
        await sock.send(query_wire(name, rtype))
        with trio.fail_after(10):
            return dns.message.from_wire(await sock.recv(4096))


async def ask_over(stream: trio.SocketStream, name: str) -> dns.message.Message:
    wire = query_wire(name)
    await stream.send_all(len(wire).to_bytes(2) + wire)
    data = b""
    with trio.fail_after(10):
        while len(data) < 2 or len(data) < 2 + int.from_bytes(data[:2]):
            data += await stream.receive_some()
    return dns.message.from_wire(data[2:])


async def eventually(true: Callable[[], Awaitable[bool]]) -> None:
    with trio.fail_after(15):
        while not await true():  # noqa: ASYNC110
            await trio.sleep(0.05)


WWW = zone("www.example. 300 A 198.51.100.1")


async def test_it_answers_over_datagrams_and_streams_from_one_cache(tmp_path: Path) -> None:
    upstream, port = Counted(WWW), free_port()
    async with udp_server(upstream) as server, serving(tmp_path, config(server, port)) as house:
        assert shown(await ask(port, "www.example")) == ["www.example 300 A 198.51.100.1"]
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            assert len(shown(await ask_over(stream, "www.example"))) == 1
        assert len([query for query in upstream.queries if b"\3www" in query.lower()]) == 1
        assert [(key.kind, key.port) for key in house.doors] == [("tcp", port), ("udp", port)]


async def test_a_change_keeps_doors_connections_and_the_cache(tmp_path: Path) -> None:
    upstream, port, other = Counted(WWW), free_port(), free_port()
    async with udp_server(upstream) as server, serving(tmp_path, config(server, port)) as house:
        await ask(port, "www.example")
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            assert rcode(await ask_over(stream, "nas.lan")) in ("NOERROR", "NXDOMAIN")
            both = [f"127.0.0.1:{port}", f"127.0.0.1:{other}"]
            await house.change(config(server, port, listen=both, records=["nas.lan A 192.168.1.2"]), {})
            assert shown(await ask_over(stream, "nas.lan")) == ["nas.lan 60 A 192.168.1.2"]
        assert shown(await ask(other, "nas.lan")) == ["nas.lan 60 A 192.168.1.2"]
        assert len(shown(await ask(other, "www.example"))) == 1
        assert len([query for query in upstream.queries if b"\3www" in query.lower()]) == 1
        await house.change(config(server, other), {})
        assert {key.port for key in house.doors} == {other}
        await eventually(lambda: is_free(port))


async def is_free(port: int) -> bool:
    await trio.lowlevel.checkpoint()
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


async def test_a_port_that_is_taken_leaves_everything_as_it_was(tmp_path: Path) -> None:
    port, taken, free = free_port(), free_port(), free_port()
    async with udp_server(WWW) as server, serving(tmp_path, config(server, port)) as house:
        before = house.doors
        with socket.socket(type=socket.SOCK_DGRAM) as squatter:
            squatter.bind(("127.0.0.1", taken))
            listen = [f"127.0.0.1:{each}" for each in (port, free, taken)]
            with pytest.raises(ConfigFault, match=f"cannot listen at udp 127.0.0.1:{taken}"):
                await house.change(
                    config(server, port, listen=listen, block=["www.example"], enhanced_mode="fake-ip"), {}
                )
        assert house.doors == before
        assert house.fake is None
        assert shown(await ask(port, "www.example")) == ["www.example 300 A 198.51.100.1"]
        assert await is_free(free)  # what was bound for it is let go


async def test_what_is_staged_can_be_abandoned(tmp_path: Path) -> None:
    port, other = free_port(), free_port()
    async with udp_server(WWW) as server, serving(tmp_path, config(server, port)) as house:
        staged = await house.stage(config(server, other), {}, house.around)
        assert not await is_free(other)
        house.abandon(staged)
        assert await is_free(other)
        assert rcode(await ask(port, "www.example")) == "NOERROR"


@pytest.mark.parametrize(
    ("keys", "wrong"),
    [
        ({"zones": {"z.example": {"file": "/nowhere/at.all"}}}, "/nowhere/at.all"),
        ({"nameserver-policy": {"geosite:cn": "192.0.2.1"}}, "geosite:cn"),
        ({"fake-ip-filter": ["geosite:cn"], "enhanced-mode": "fake-ip"}, "geosite:cn"),
        ({"records": ["a.lan CNAME b.lan.", "a.lan A 192.0.2.1"]}, "stands alone"),
    ],
)
async def test_what_cannot_be_built_changes_nothing(tmp_path: Path, keys: dict[str, Any], wrong: str) -> None:
    port = free_port()
    async with udp_server(WWW) as server, serving(tmp_path, config(server, port)) as house:
        with pytest.raises(ConfigFault, match=wrong):
            await house.change(config(server, port, **keys), {})
        assert shown(await ask(port, "www.example")) == ["www.example 300 A 198.51.100.1"]


async def test_files_that_change_are_read_again(tmp_path: Path) -> None:
    hosts, leases, zones = tmp_path / "hosts", tmp_path / "leases", tmp_path / "zone"
    hosts.write_text("192.168.1.2 nas.lan\n")
    leases.write_text("")
    zones.write_text("www A 192.0.2.1\n")
    port = free_port()
    keys = {
        "hosts-files": [str(hosts)],
        "lease-files": [str(leases)],
        "zones": {"z.example": {"file": str(zones)}},
        "domain": "lan",
    }

    async def says(name: str, data: str) -> None:
        async def told() -> bool:
            return [line.split()[-1] for line in shown(await ask(port, name))] == [data]

        await eventually(told)

    async with udp_server(WWW) as server, serving(tmp_path / "home", config(server, port, **keys)):
        await says("nas.lan", "192.168.1.2")
        await says("www.z.example", "192.0.2.1")
        hosts.write_text("192.168.1.3 nas.lan\n")
        await says("nas.lan", "192.168.1.3")
        leases.write_text("4102444800 02:00:00:00:00:01 192.168.1.50 laptop 01:02\n")
        await says("laptop.lan", "192.168.1.50")
        zones.write_text("www A 192.0.2.2\n")
        await says("www.z.example", "192.0.2.2")
        zones.write_text("www A nothing\n")
        hosts.write_text("192.168.1.4 nas.lan\n")  # a fault elsewhere: what was there stays
        await trio.sleep(0.5)
        await says("nas.lan", "192.168.1.3")
        zones.write_text("www A 192.0.2.3\n")
        await says("www.z.example", "192.0.2.3")
        await says("nas.lan", "192.168.1.4")


async def test_reading_files_again_never_brings_an_old_configuration_back(tmp_path: Path) -> None:
    port = free_port()
    async with udp_server(WWW) as server, serving(tmp_path, config(server, port)) as house:
        for last in range(3):
            newer = config(server, port, records=[f"nas.lan A 192.168.1.{last}"])
            async with trio.open_nursery() as nursery:
                nursery.start_soon(house.reread)
                nursery.start_soon(house.change, newer, {})
                nursery.start_soon(house.reread)
            assert house.config == newer
            assert shown(await ask(port, "nas.lan")) == [f"nas.lan 60 A 192.168.1.{last}"]


async def test_lists_are_swapped_while_it_serves(tmp_path: Path) -> None:
    listed = tmp_path / "list"
    listed.write_text("||ads.example^\n")
    port = free_port()
    dns = config("rcode://success", port, lists={"ads": {"path": str(listed)}}, nameserver=["rcode://name_error"])
    async with serving(tmp_path / "home", dns) as house:
        await house.refresh_lists()
        assert shown(await ask(port, "ads.example")) == ["ads.example 60 A 0.0.0.0"]
        listed.write_text("||other.example^\n")
        assert await house.refresh_lists()
        assert rcode(await ask(port, "ads.example")) == "NXDOMAIN"
        assert shown(await ask(port, "other.example")) == ["other.example 60 A 0.0.0.0"]


async def test_what_was_known_comes_back_after_a_restart(tmp_path: Path) -> None:
    upstream, port = Counted(WWW), free_port()
    async with udp_server(upstream) as server:
        for _ in range(2):
            async with serving(tmp_path, config(server, port)):
                assert len(shown(await ask(port, "www.example"))) == 1
    assert len([query for query in upstream.queries if b"\3www" in query.lower()]) == 1


async def test_fake_addresses_come_back_after_a_restart_and_change_with_their_range(tmp_path: Path) -> None:
    port = free_port()
    fake = config("rcode://success", port, enhanced_mode="fake-ip", fake_ip_range="198.18.0.0/24")
    other = config("rcode://success", port, enhanced_mode="fake-ip", fake_ip_range="10.9.0.0/24")
    async with serving(tmp_path, fake) as house:
        assert shown(await ask(port, "www.example")) == ["www.example 1 A 198.18.0.4"]
        await house.change(other, {})
        assert shown(await ask(port, "www.example")) == ["www.example 1 A 10.9.0.4"]
        await house.change(fake, {})
        assert shown(await ask(port, "mail.example")) == ["mail.example 1 A 198.18.0.5"]
    async with serving(tmp_path, fake):
        assert shown(await ask(port, "mail.example")) == ["mail.example 1 A 198.18.0.5"]
        assert shown(await ask(port, "www.example")) == ["www.example 1 A 198.18.0.4"]


async def test_a_worker_answers_too_and_hears_of_changes(tmp_path: Path) -> None:
    port = free_port()
    async with udp_server(WWW) as server, serving(tmp_path, config(server, port, workers=1)) as house:
        for _ in range(3):
            assert shown(await ask(port, "www.example")) == ["www.example 300 A 198.51.100.1"]
        await house.change(config(server, port, workers=1, block=["www.example"]), {})

        async def is_blocked() -> bool:
            return shown(await ask(port, "www.example")) == ["www.example 60 A 0.0.0.0"]

        await eventually(is_blocked)
        assert [key.kind for key in house.doors] == ["tcp", "crew"]


@ROOT
async def test_doors_of_an_interface(tmp_path: Path) -> None:
    port = free_port()
    async with udp_server(WWW) as server, serving(tmp_path, config(server, port, interfaces=["lo"])) as house:
        assert {key.interface for key in house.doors} == {"lo"}
        assert rcode(await ask(port, "www.example")) == "NOERROR"
        # One that is not there yet disturbs nobody.
        await house.change(config(server, port, interfaces=["lo", "nosuch0"]), {})
        assert {key.interface for key in house.doors} == {"lo"}
        assert rcode(await ask(port, "www.example")) == "NOERROR"


def test_the_doors_of_a_configuration() -> None:
    dns = config("1.1.1.1", 53, listen=":53", listen_tls="0.0.0.0:853", listen_http="127.0.0.1:80", workers=0)
    assert [(key.kind, key.host, key.port) for key in wanted_doors(dns.doors)] == [
        ("tcp", "::", 53), ("tls", "0.0.0.0", 853), ("http", "127.0.0.1", 80), ("udp", "0.0.0.0", 53),
        ("udp", "::", 53),
    ]  # fmt: skip
