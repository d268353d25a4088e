"""What flows make of addresses that the gateway's own name server gave out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio
from inprocess import curl, echo, exactly, hello, only, serve, socks5, the_rest, udp_echo, until
from names_house import Names, behind, named

from cyfs_gateway.control.shapes import metadata_json
from cyfs_gateway.flow import Flow
from tests.cyfs_gateway.io.test_sniffing import client_hello
from tests.cyfs_gateway.io.test_udp import associated
from tests.cyfs_ns.dnsfakes import asked_type, udp_server, zone
from tunnels.endpoint import Target

FAKE = "  enhanced-mode: fake-ip\n  fake-ip-filter: [real.example.net]"
RULES = """
listeners: [{name: mixed, type: mixed, listen: 127.0.0.1, port: 0}]
rules:
  - DOMAIN,blocked.example.net,REJECT
  - IP-CIDR,203.0.113.0/24,REJECT
  - MATCH,DIRECT
"""


async def code_of(names: Names, host: str, port: int) -> int:
    stream, code = await socks5(names.house.port(), host, port)
    await stream.aclose()
    return code


async def test_a_fake_address_leads_to_its_name(tmp_path: Path, nursery: trio.Nursery) -> None:
    port = await serve(nursery, echo)
    async with named(tmp_path, FAKE, RULES) as names:
        (fake,) = await names.ask("www.example.net")
        assert fake.startswith("198.18.")
        assert names.upstream.names() == []
        stream, code = await socks5(names.house.port(), fake, port)
        assert code == 0
        await stream.send_all(b"through")
        assert await exactly(stream, 7) == b"through"
        shown = metadata_json(only(names.house.tracker).flow, only(names.house.tracker).remote())
        assert (shown["host"], shown["dnsMode"], shown["remoteDestination"]) == (
            "www.example.net",
            "fake-ip",
            "127.0.0.1",
        )
        assert not shown["destinationIP"].startswith("198.18.")
        assert names.upstream.names() == ["www.example.net"]
        await stream.aclose()


async def test_rules_see_the_name_and_its_real_address(tmp_path: Path, nursery: trio.Nursery) -> None:
    port = await serve(nursery, echo)
    async with named(tmp_path, FAKE, RULES) as names:
        (blocked,), (far,) = await names.ask("blocked.example.net"), await names.ask("far.example.net")
        assert await code_of(names, blocked, port) == 2
        assert names.upstream.names() == []  # a rule on names needs no address
        assert await code_of(names, far, port) == 2
        assert names.upstream.names() == ["far.example.net"]


@pytest.mark.parametrize("mode", ["global", "direct"])
async def test_without_rules_a_fake_address_leads_to_its_name_too(
    tmp_path: Path, nursery: trio.Nursery, mode: str
) -> None:
    port = await serve(nursery, echo)
    async with named(tmp_path, FAKE, RULES + f"mode: {mode}\n") as names:
        (fake,) = await names.ask("www.example.net")
        assert await code_of(names, fake, port) == 0
        assert await code_of(names, "198.18.7.7", port) == 2


async def test_http_proxies_know_fake_addresses(tmp_path: Path, nursery: trio.Nursery) -> None:
    port = await serve(nursery, hello)
    async with named(tmp_path, FAKE, RULES) as names:
        (fake,) = await names.ask("www.example.net")
        proxy = f"http://127.0.0.1:{names.house.port()}"
        for more in ((), ("--proxytunnel",)):
            assert await curl("-x", proxy, *more, f"http://{fake}:{port}/x") == (0, "hello /x")
        code, said = await curl("-x", proxy, "-o", "/dev/null", "-w", "%{http_code}", "http://198.18.9.9/")
        assert (code, said) == (0, "403")


async def test_a_fake_address_nobody_knows_is_refused_and_the_log_says_so(
    tmp_path: Path, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    async with named(tmp_path, FAKE, RULES) as names:
        with caplog.at_level("INFO"):
            assert await code_of(names, "198.18.0.77", 80) == 2
        assert "198.18.0.77 is a fake address that stands for no known name" in caplog.text
        assert not len(names.house.tracker)


async def test_a_sniffed_name_saves_a_flow_whose_fake_address_was_forgotten(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    port = await serve(nursery, echo)
    sniffer = "sniffer: {enable: true, sniff: {TLS: {ports: ['1-65535'], override-destination: false}}}\n"
    async with named(tmp_path, FAKE, RULES + sniffer) as names:
        words = client_hello("www.example.net")
        stream, code = await socks5(names.house.port(), "198.18.0.77", port)
        assert code == 0
        await stream.send_all(words)
        assert await exactly(stream, len(words)) == words
        await stream.aclose()
        await until(lambda: not len(names.house.tracker))
        stream, _ = await socks5(names.house.port(), "198.18.0.77", port)
        await stream.send_all(b"nothing a sniffer knows\r\n\r\n")
        assert await the_rest(stream) == b""


async def test_a_known_fake_address_is_not_waited_for_by_the_sniffer(tmp_path: Path, nursery: trio.Nursery) -> None:
    port = await serve(nursery, echo)
    sniffer = "sniffer: {enable: true, sniff: {TLS: {ports: ['1-65535']}}}\n"
    async with named(tmp_path, FAKE, RULES + sniffer) as names:
        (fake,) = await names.ask("www.example.net")
        stream, _ = await socks5(names.house.port(), fake, port)
        words = client_hello("blocked.example.net")
        await stream.send_all(words)
        assert await exactly(stream, len(words)) == words
        await stream.aclose()


async def test_datagrams_to_a_fake_address_are_answered_from_it(tmp_path: Path, nursery: trio.Nursery) -> None:
    one, two = await udp_echo(nursery, b"one "), await udp_echo(nursery, b"two ")
    async with named(tmp_path, FAKE, RULES) as names, associated(names.house) as peer:
        (fake,), (other,) = await names.ask("www.example.net"), await names.ask("other.example.net")
        for address, port, mark in ((fake, one, b"one "), (other, one, b"one "), (fake, two, b"two ")):
            await peer.send(address, port, b"x")
            assert await peer.recv() == (Target(address, port), mark + b"x")
        assert {flow.flow.host for flow in names.house.tracker} == {"www.example.net", "other.example.net"}
        await peer.send("198.18.0.77", one, b"lost")
        await peer.send(fake, one, b"y")
        assert await peer.recv() == (Target(fake, one), b"one y")


async def test_all_ports_of_a_name_go_to_one_address(tmp_path: Path, nursery: trio.Nursery) -> None:
    """A tunnel that speaks from two ports to two ports of a name must find one machine there."""
    ports = [await udp_echo(nursery, b"one ", "127.0.0.1"), await udp_echo(nursery, b"one ", "127.0.0.1")]
    answers = ["pool.example.net. 1 A 127.0.0.1", "pool.example.net. 1 A 127.0.0.9"]

    def turning(query: bytes) -> bytes | None:
        if asked_type(query) == 1:
            answers.reverse()
        return zone(answers[-1])(query)

    async with behind(handler=turning) as server, named(tmp_path, FAKE, RULES, server) as names:
        (fake,) = await names.ask("pool.example.net")
        first = ""
        for port in ports * 2:
            async with associated(names.house) as peer:
                await peer.send(fake, port, b"x")
                await until(lambda: len(names.house.tracker) and only(names.house.tracker).remote())
                first = first or only(names.house.tracker).remote()
                assert only(names.house.tracker).remote() == first
            await until(lambda: not len(names.house.tracker))
            names.house.gateway.flush_dns()


async def test_what_a_server_calls_real_but_is_fake_is_never_dialled(tmp_path: Path) -> None:
    async with named(tmp_path, FAKE, RULES) as names:
        assert await code_of(names, "loop.example.net", 80) == 2
        (fake,) = await names.ask("loop.example.net")
        assert await code_of(names, fake, 80) == 2


async def test_a_name_that_was_spared_keeps_its_address_and_its_rules(tmp_path: Path, nursery: trio.Nursery) -> None:
    port = await serve(nursery, echo)
    async with named(tmp_path, FAKE, RULES) as names:
        assert await names.ask("real.example.net") == ["127.0.0.1"]
        stream, code = await socks5(names.house.port(), "127.0.0.1", port)
        assert code == 0
        flow = only(names.house.tracker).flow
        assert (flow.host, flow.dst_ip, flow.dns_mode) == ("real.example.net", "127.0.0.1", "redir-host")
        await stream.aclose()


async def test_redir_host_gives_rules_the_name_and_dials_the_address(tmp_path: Path, nursery: trio.Nursery) -> None:
    port = await serve(nursery, echo)
    records = ["www.example.net. 1 A 127.0.0.1", "blocked.example.net. 1 A 127.0.0.3"]
    async with (
        behind(handler=lambda query: zone(*records)(query)) as server,
        named(tmp_path, "  enhanced-mode: redir-host\n", RULES, server) as names,
    ):
        assert await names.ask("www.example.net") == ["127.0.0.1"]
        assert await names.ask("blocked.example.net") == ["127.0.0.3"]
        records[:] = ["www.example.net. 1 A 127.0.0.99"]
        heard = len(server.heard.queries)
        stream, code = await socks5(names.house.port(), "127.0.0.1", port)
        assert code == 0
        shown = metadata_json(only(names.house.tracker).flow)
        assert (shown["host"], shown["destinationIP"], shown["dnsMode"]) == (
            "www.example.net",
            "127.0.0.1",
            "redir-host",
        )
        await stream.aclose()
        assert await code_of(names, "127.0.0.3", port) == 2
        assert len(server.heard.queries) == heard
        said = await names.house.gateway.explain("127.0.0.3", 80)
        assert said.rule == "Domain,blocked.example.net,REJECT"


async def test_a_guessed_name_is_checked_by_the_sniffer(tmp_path: Path, nursery: trio.Nursery) -> None:
    port = await serve(nursery, echo)
    sniffer = "sniffer: {enable: true, force-dns-mapping: %s, sniff: {TLS: {ports: ['1-65535']}}}\n"
    async with named(tmp_path, "  enhanced-mode: redir-host\n", RULES + sniffer % "true") as names:
        assert await names.ask("www.example.net") == ["127.0.0.1"]
        stream, _ = await socks5(names.house.port(), "127.0.0.1", port)
        await stream.send_all(client_hello("blocked.example.net"))
        assert await the_rest(stream) == b""
        await names.reload("  enhanced-mode: redir-host\n", RULES + sniffer % "false")
        stream, _ = await socks5(names.house.port(), "127.0.0.1", port)
        words = client_hello("blocked.example.net")
        await stream.send_all(words)
        assert await exactly(stream, len(words)) == words
        await stream.aclose()


def test_a_sniffed_name_replaces_a_guess_and_not_a_known_name() -> None:
    def flow(host: str, ip: str, mode: str) -> Flow:
        return Flow("tcp", "Redir", "127.0.0.1", 5, host, ip, 443, dns_mode=mode)

    guessed = flow("guess.example.net", "192.0.2.1", "redir-host")
    guessed.find("true.example.net", override=False)
    assert (guessed.goal, guessed.rule_host) == ("192.0.2.1", "true.example.net")
    guessed.find("true.example.net", override=True)
    assert (guessed.goal, guessed.rule_host, guessed.dns_mode) == ("true.example.net", "true.example.net", "normal")
    known = flow("known.example.net", "", "fake-ip")
    known.find("true.example.net", override=False)
    assert (known.goal, known.rule_host) == ("known.example.net", "true.example.net")
    lost = flow("", "198.18.0.9", "fake-ip")
    assert lost.lost
    lost.find("true.example.net", override=False)
    assert (lost.goal, lost.dst_ip, lost.lost) == ("true.example.net", "", False)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: name servers of a system are asked at port 53")
async def test_the_gateway_never_asks_itself(tmp_path: Path, nursery: trio.Nursery) -> None:
    """On a router the system's name server is often the router."""
    port = await serve(nursery, echo)
    file = tmp_path / "resolv.conf"
    file.write_text("nameserver 127.0.0.77\nnameserver 127.0.0.78\n")
    lines = FAKE + f"\n  listen: 127.0.0.77:53\n  resolv-file: {file}\n  nameserver: [system]\n"
    async with (
        udp_server(zone("www.example.net. 60 A 127.0.0.1"), "127.0.0.78", 53),
        named(tmp_path, lines, RULES) as names,
    ):
        assert await code_of(names, "www.example.net", port) == 0


async def test_flushing_forgets_who_a_fake_address_is(tmp_path: Path, nursery: trio.Nursery) -> None:
    port = await serve(nursery, echo)
    async with named(tmp_path, FAKE, RULES) as names:
        (fake,) = await names.ask("www.example.net")
        names.house.gateway.flush_fake_ip()
        assert await code_of(names, fake, port) == 2
        assert await names.ask("www.example.net") == [fake]
        assert await code_of(names, fake, port) == 0


async def test_names_of_the_house_are_known_to_flows(tmp_path: Path, nursery: trio.Nursery) -> None:
    port = await serve(nursery, echo)
    leases = tmp_path / "leases"
    leases.write_text("4102444800 02:00:00:00:00:01 127.0.0.1 nas *\n")
    local = f"  lease-files: [{leases}]\n  records: ['box.home.arpa. A 127.0.0.1']\n"
    async with named(tmp_path / "home", FAKE + "\n" + local, RULES) as names:
        for name in ("nas", "box.home.arpa"):
            assert await names.ask(name) == ["127.0.0.1"], name
            assert await code_of(names, name, port) == 0, name
        assert names.upstream.names() == []
