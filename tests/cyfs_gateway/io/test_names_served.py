"""The name server's life inside the gateway: changes, the outbound ``dns``, ways to name servers, the API."""

from __future__ import annotations

import gc
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import dnslib
import pytest
import trio
import trio.testing
from click.testing import CliRunner, Result
from inprocess import Living, echo, exactly, living, only, serve, socks5, until
from names_house import BASE, RECORDS, Names, behind, named, question

from cyfs_gateway.config.load import load
from cyfs_gateway.host import Host
from cyfs_gateway.io.cli import cli
from cyfs_gateway.io.modules import Modules
from cyfs_ns.errors import ConfigFault
from tests.cyfs_gateway.io.test_udp import Peer, associated
from tests.cyfs_gateway.rules.test_geodata_files import write_mmdb
from tests.cyfs_ns.dnsfakes import answering, stream_server, zone
from tests.freeport import free_port
from tunnels.endpoint import Target

FAKE = "  enhanced-mode: fake-ip\n"
MIXED = "listeners: [{name: mixed, type: mixed, listen: 127.0.0.1, port: 0}]\n"
DIRECT = MIXED + "rules: ['MATCH,DIRECT']\n"


# Changes


async def test_a_taken_port_keeps_the_whole_old_configuration(tmp_path: Path, nursery: trio.Nursery) -> None:
    port = await serve(nursery, echo)
    async with named(tmp_path, FAKE, DIRECT) as names:
        (fake,) = await names.ask("www.example.net")
        with socket.socket(type=socket.SOCK_DGRAM) as taken:
            number = free_port()
            taken.bind(("127.0.0.1", number))
            with pytest.raises(ConfigFault, match=f"cannot listen at udp 127.0.0.1:{number}"):
                await names.reload(f"  listen: 127.0.0.1:{number}\n", MIXED + "rules: ['MATCH,REJECT']\n")
        assert names.house.gateway.config.dns.enhanced_mode == "fake-ip"
        assert await names.ask("www.example.net") == [fake]
        stream, code = await socks5(names.house.port(), fake, port)
        assert code == 0
        await stream.aclose()


async def test_a_listener_that_fails_keeps_the_names_as_they_were(tmp_path: Path) -> None:
    async with named(tmp_path, FAKE, DIRECT) as names:
        (fake,) = await names.ask("www.example.net")
        with socket.create_server(("127.0.0.1", 0)) as taken:
            more = f"listeners: [{{name: m, type: mixed, listen: 127.0.0.1, port: {taken.getsockname()[1]}}}]\n"
            with pytest.raises(ConfigFault):
                await names.reload("  enhanced-mode: normal\n  listen-tls: 127.0.0.1:0\n", more)
        assert [key.kind for key in names.house.gateway.name_server.doors.keys] == ["tcp", "udp"]
        assert await names.ask("www.example.net") == [fake]
        assert names.house.engine.is_fake(fake)


def taken_for_udp() -> socket.socket:
    """A port that we hold for UDP and that nobody has for TCP."""
    while True:
        udp = socket.socket(type=socket.SOCK_DGRAM)
        udp.bind(("127.0.0.1", 0))
        with socket.socket() as tcp:
            try:
                tcp.bind(udp.getsockname())
            except OSError:
                udp.close()
            else:
                return udp


async def test_an_attempt_that_fails_first_leaves_nothing_open(tmp_path: Path) -> None:
    def descriptors() -> int:
        gc.collect()  # what an earlier test left open
        return len(list(Path("/proc/self/fd").iterdir()))

    async with behind() as server, living(tmp_path, DIRECT, base=BASE) as house:
        with taken_for_udp() as taken:
            number = taken.getsockname()[1]
            dns = f"dns: {{enable: true, listen: '127.0.0.1:{number}', nameserver: ['127.0.0.1:{server.port}']}}\n"
            counts = []
            for _ in range(3):
                with pytest.raises(ConfigFault):
                    await house.reload(dns + DIRECT, base=BASE)
                counts.append(descriptors())
            assert counts[1] == counts[2]
            assert house.gateway.name_server is None
        await house.reload(dns + DIRECT, base=BASE)
        assert [str(each.rdata) for each in (await question(number, "www.example.net")).rr] == ["127.0.0.1"]


def is_free(port: int) -> bool:
    with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        try:
            tcp.bind(("127.0.0.1", port))
            udp.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


async def test_names_are_switched_off_and_on_again(tmp_path: Path, nursery: trio.Nursery) -> None:
    port = await serve(nursery, echo)
    async with named(tmp_path, FAKE, DIRECT) as names:
        (fake,) = await names.ask("www.example.net")
        await names.reload("  enable: false\n", DIRECT)
        assert names.house.gateway.name_server is None
        await until(lambda: is_free(names.port))
        await names.reload(FAKE, DIRECT)
        assert await names.ask("www.example.net") == [fake]
        stream, code = await socks5(names.house.port(), fake, port)
        assert code == 0
        await stream.aclose()


async def test_other_ranges_and_back(tmp_path: Path) -> None:
    async with named(tmp_path, FAKE, DIRECT) as names:
        (fake,) = await names.ask("www.example.net")
        await names.reload(FAKE + "  fake-ip-range: 198.19.0.1/24\n", DIRECT)
        (other,) = await names.ask("www.example.net")
        assert other.startswith("198.19.0.")
        await names.reload(FAKE + "  fake-ip-filter: [www.example.net]\n", DIRECT)
        assert await names.ask("www.example.net") == ["127.0.0.1"]
        assert names.house.engine.is_fake(fake)
        await names.reload("  enhanced-mode: normal\n", DIRECT)
        assert await names.ask("other.example.net") == ["127.0.0.1"]


@pytest.mark.parametrize(
    "then", ["  enhanced-mode: normal\n", "  enable: false\n", FAKE + "  fake-ip-range: 10.9.0.1/24\n"]
)
async def test_what_was_told_is_known_for_a_while_after_it_was_given_up(
    tmp_path: Path, nursery: trio.Nursery, then: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = await serve(nursery, echo)
    async with named(tmp_path, FAKE, DIRECT) as names:
        (fake,) = await names.ask("www.example.net")
        await names.reload(then, DIRECT)
        rest = DIRECT.replace("DIRECT", "REJECT").replace("rules: [", "rules: ['DOMAIN,www.example.net,DIRECT', ")
        await names.reload(then, rest + "hosts: {www.example.net: 127.0.0.1}\n")
        stream, code = await socks5(names.house.port(), fake, port)
        assert code == 0
        await stream.aclose()
        assert not names.house.engine.is_fake("198.18.200.200")  # nobody was told of that one
        await names.reload(FAKE, DIRECT)
        assert await names.ask("other.example.net") != [fake]
        assert await names.ask("www.example.net") == [fake]
        monkeypatch.setattr("cyfs_ns.io.serving._DRAIN_SECONDS", 0.0)
        await names.reload(then, DIRECT)
        assert not names.house.engine.is_fake(fake)


async def test_a_range_within_the_old_one_goes_on_with_its_names(tmp_path: Path) -> None:
    async with named(tmp_path, FAKE, DIRECT) as names:
        told = {name: await names.ask(f"{name}.example.net") for name in ("www", "other")}
        await names.reload(FAKE + "  fake-ip-range: 198.18.0.0/24\n", DIRECT)
        assert await names.ask("real.example.net") not in told.values()
        assert {name: await names.ask(f"{name}.example.net") for name in ("www", "other")} == told


async def test_the_cache_and_what_is_being_asked_outlive_a_change(tmp_path: Path) -> None:
    async with behind() as server, named(tmp_path, "", DIRECT, server) as names:
        await names.ask("www.example.net")
        await names.reload("", DIRECT + "log-level: warning\n")
        await names.reload("  rate-limit: 1000\n", DIRECT)
        assert await names.ask("www.example.net") == ["127.0.0.1"]
        assert server.names() == ["www.example.net"]


async def test_a_rule_set_that_was_renewed_holds_for_the_next_answer(tmp_path: Path) -> None:
    names_of = tmp_path / "spared.yaml"
    names_of.write_text("payload: ['other.example.net']\n")
    rest = f"rule-providers: {{spared: {{type: file, behavior: domain, path: {names_of}}}}}\n"
    async with named(tmp_path, FAKE + "  fake-ip-filter: ['rule-set:spared']\n", rest + DIRECT) as names:
        for _ in range(2):  # the second one is ready-made
            assert (await names.ask("www.example.net"))[0].startswith("198.18.")
        names_of.write_text("payload: ['www.example.net']\n")
        await names.house.gateway.update_rule_provider("spared")
        assert await names.ask("www.example.net") == ["127.0.0.1"]


# The outbound dns

HIJACK = """
proxies: [{name: answers, type: dns}]
listeners: [{name: mixed, type: mixed, listen: 127.0.0.1, port: 0}]
rules: ['DST-PORT,53,answers', 'MATCH,REJECT']
"""


async def asked_through(peer: Peer, server: str, name: str) -> dnslib.DNSRecord:
    asked = dnslib.DNSRecord.question(name)
    await peer.send(server, 53, bytes(asked.pack()))
    source, data = await peer.recv()
    assert source == Target(server, 53)
    reply = dnslib.DNSRecord.parse(data)
    assert reply.header.id == asked.header.id
    return reply


@pytest.mark.parametrize("listen", ["", "  listen: []\n"])
async def test_whoever_is_asked_at_port_53_our_name_server_answers(tmp_path: Path, listen: str) -> None:
    async with named(tmp_path, listen + FAKE, HIJACK) as names, associated(names.house) as peer:
        fakes = set()
        for server in ("192.0.2.1", "192.0.2.2", "dns.example.org"):
            reply = await asked_through(peer, server, "www.example.net")
            fakes.add(str(reply.rr[0].rdata))
        assert len(fakes) == 1 and fakes.pop().startswith("198.18.")
        assert names.upstream.names() == []


async def test_questions_on_a_stream_are_answered_in_their_order(tmp_path: Path) -> None:
    async with named(tmp_path, "  listen: []\n", HIJACK) as names:
        stream, code = await socks5(names.house.port(), "192.0.2.1", 53)
        assert code == 0
        hosts = ["www.example.net", "other.example.net", "missing.example.net"]
        asked = [bytes(dnslib.DNSRecord.question(name).pack()) for name in hosts]
        whole = b"".join(len(each).to_bytes(2) + each for each in asked)
        await stream.send_all(whole[:7])
        await stream.send_all(whole[7:])
        for name in hosts:
            reply = dnslib.DNSRecord.parse(await exactly(stream, int.from_bytes(await exactly(stream, 2))))
            assert str(reply.q.qname) == f"{name}."
        await stream.send_all(b"\0\3abc")
        with trio.fail_after(60):
            assert await stream.receive_some() == b""
        await stream.aclose()
        await until(lambda: not len(names.house.tracker))


@pytest.mark.parametrize("source", ["127.0.0.1", "127.0.0.5"])
async def test_clients_of_the_gateway_ask_in_their_own_name(tmp_path: Path, source: str) -> None:
    children = "  clients: [{name: children, match: [127.0.0.5], block: [www.example.net]}]\n  query-log: {}\n"
    async with named(tmp_path, "  listen: []\n" + children, HIJACK) as names:
        stream, code = await socks5(names.house.port(), "192.0.2.1", 53, source)
        assert code == 0
        asked = bytes(dnslib.DNSRecord.question("www.example.net").pack())
        await stream.send_all(len(asked).to_bytes(2) + asked)
        reply = dnslib.DNSRecord.parse(await exactly(stream, int.from_bytes(await exactly(stream, 2))))
        assert str(reply.rr[0].rdata) == ("0.0.0.0" if source == "127.0.0.5" else "127.0.0.1")
        serving = names.house.gateway.name_server
        assert serving is not None
        assert [client for client, _ in serving.server.statistics.clients.top(9)] == [source]
        flow = only(names.house.tracker)
        assert flow.decision.chain == ("answers",)
        await stream.aclose()


async def test_datagrams_of_a_client_ask_in_its_own_name(tmp_path: Path) -> None:
    refused = "  listen: []\n  deny-from: [127.0.0.1/32]\n"
    async with named(tmp_path, refused, HIJACK) as names, associated(names.house) as peer:
        assert (await asked_through(peer, "192.0.2.1", "www.example.net")).header.rcode == 5


async def test_whom_the_gateway_lets_in_may_ask_though_the_doors_are_for_others(tmp_path: Path) -> None:
    others = "  listen: []\n  allow-from: [192.0.2.0/24, 127.0.0.1/32]\n"
    async with named(tmp_path, others, HIJACK) as names:
        stream, _ = await socks5(names.house.port(), "192.0.2.1", 53, "127.0.0.5")
        asked = bytes(dnslib.DNSRecord.question("www.example.net").pack())
        await stream.send_all(len(asked).to_bytes(2) + asked)
        reply = dnslib.DNSRecord.parse(await exactly(stream, int.from_bytes(await exactly(stream, 2))))
        assert str(reply.rr[0].rdata) == "127.0.0.1"
        await stream.aclose()


async def test_a_stranger_cannot_keep_more_than_a_few_questions_open(tmp_path: Path) -> None:
    async with (
        behind(handler=lambda query: None) as server,
        named(tmp_path, "  listen: []\n", HIJACK, server) as names,
        associated(names.house) as peer,
    ):
        for number in range(300):
            await peer.send("192.0.2.1", 53, bytes(dnslib.DNSRecord.question(f"n{number}.example.net").pack()))
        await until(lambda: len(names.house.tracker))
        await until(lambda: len(set(server.names())) >= 32)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert len(set(server.names())) <= 64


async def test_without_names_the_outbound_refuses(tmp_path: Path) -> None:
    async with living(tmp_path, HIJACK, base=BASE) as house:
        _, code = await socks5(house.port(), "192.0.2.1", 53)
        assert code == 2


# Ways to name servers


@asynccontextmanager
async def proxy(home: Path) -> AsyncIterator[Living]:
    """A second gateway, as somebody's proxy for streams and datagrams."""
    async with living(home, DIRECT, base=BASE) as house:
        yield house


@pytest.mark.parametrize(("kind", "network"), [("socks5", "udp"), ("http", "tcp"), ("group", "udp")])
async def test_a_server_is_asked_through_an_outbound(tmp_path: Path, kind: str, network: str) -> None:
    """Over datagrams where the outbound carries them, else over a stream."""
    answers = zone(*RECORDS)
    port = free_port()
    async with (
        behind(handler=answers, port=free_port()) as server,
        stream_server(answering(answers), port=server.port),
        proxy(tmp_path / "proxy") as carrier,
    ):
        udp = ", udp: true" if kind != "http" else ""
        type_ = "http" if kind == "http" else "socks5"
        config = f"""
dns: {{enable: true, listen: '127.0.0.1:{port}', nameserver: ['127.0.0.1:{server.port}#way']}}
proxies: [{{name: {"p" if kind == "group" else "way"}, type: {type_}, server: 127.0.0.1, port: {carrier.port()}{udp}}}]
proxy-groups: [{"{name: way, type: select, proxies: [p]}" if kind == "group" else ""}]
rules: ['MATCH,REJECT']
"""
        async with living(tmp_path / "own", config, base=BASE):
            reply = await question(port, "www.example.net")
            assert [str(record.rdata) for record in reply.rr] == ["127.0.0.1"]
            assert carrier.tracker.seen
            assert bool(server.names()) is (network == "udp")


async def test_an_outbound_that_is_not_there_is_no_reason_to_ask_openly(tmp_path: Path) -> None:
    async with behind() as server:
        dns = f"  nameserver: ['127.0.0.1:{server.port}#nowhere', 'tcp://127.0.0.1:{server.port}#nowhere']\n"
        async with named(tmp_path, dns, DIRECT, server) as names:
            assert (await question(names.port, "www.example.net")).header.rcode == 2
            assert server.heard.queries == []


@pytest.mark.parametrize("written", ["respect-rules", "#RULES"])
async def test_rules_choose_the_way_to_name_servers(tmp_path: Path, written: str) -> None:
    async with behind() as server, proxy(tmp_path / "proxy") as carrier:
        rest = f"""
proxies: [{{name: way, type: socks5, server: 127.0.0.1, port: {carrier.port()}, udp: true}}]
rules: ['DST-PORT,{server.port},way', 'MATCH,REJECT']
"""
        word, more = ("", "  respect-rules: true\n") if written == "respect-rules" else ("#RULES", "")
        lines = f"  proxy-server-nameserver: [127.0.0.1:9]\n  nameserver: ['127.0.0.1:{server.port}{word}']\n{more}"
        async with named(tmp_path / "own", lines, rest, server) as names:
            assert await names.ask("www.example.net") == ["127.0.0.1"]
            assert carrier.tracker.seen
            rest = rest.replace(",way'", ",REJECT'")
            await names.reload(lines, rest)
            assert (await question(names.port, "other.example.net")).header.rcode == 2


def test_rules_need_servers_that_find_the_proxies() -> None:
    loaded = load(b"dns: {enable: true, respect-rules: true, nameserver: [1.1.1.1]}\n", home="/tmp")
    assert [fault.path for fault in loaded.errors] == ["/dns/respect-rules"]


async def test_each_purpose_has_its_servers(tmp_path: Path, nursery: trio.Nursery) -> None:
    port = await serve(nursery, echo)
    async with (
        behind() as standard,
        behind("www.example.net. 60 A 127.0.0.1", "proxy.example.net. 60 A 127.0.0.8") as direct,
        behind("proxy.example.net. 60 A 127.0.0.1") as proxies,
        proxy(tmp_path / "proxy") as carrier,
    ):
        rest = f"""
proxies: [{{name: way, type: socks5, server: proxy.example.net, port: {carrier.port()}, udp: true}}]
listeners: [{{name: mixed, type: mixed, listen: 127.0.0.1, port: 0}}]
rules: ['DOMAIN,other.example.net,way', 'MATCH,DIRECT']
"""
        lines = f"""
  enhanced-mode: fake-ip
  direct-nameserver: ['127.0.0.1:{direct.port}']
  proxy-server-nameserver: ['127.0.0.1:{proxies.port}']
  nameserver-policy: {{'www.example.net': '127.0.0.1:{standard.port}'}}
"""
        async with named(tmp_path / "own", lines, rest, standard) as names:
            (fake,), (other,) = await names.ask("www.example.net"), await names.ask("other.example.net")
            stream, code = await socks5(names.house.port(), fake, port)
            assert (code, direct.names(), standard.names()) == (0, ["www.example.net"], [])
            await stream.aclose()
            await socks5(names.house.port(), other, port)
            await until(lambda: carrier.tracker.seen)
            assert proxies.names() == ["proxy.example.net"]
            direct.heard.queries.clear()
            await names.reload(lines + "  direct-nameserver-follow-policy: true\n", rest)
            stream, code = await socks5(names.house.port(), fake, port)
            assert (code, direct.names(), standard.names()) == (0, [], ["www.example.net"])
            await stream.aclose()


async def test_policy_by_rule_set_and_fallback_by_country(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    record = {"country": {"iso_code": "CN"}}
    write_mmdb(tmp_path / "own" / "Country.mmdb", "GeoLite2-Country", {"1.2.4.0/24": record})
    rest = """
rule-providers:
  inner: {type: inline, behavior: domain, payload: ['+.inner.example.net']}
rules: ['MATCH,DIRECT']
"""
    async with (
        behind("a.inner.example.net. 60 A 192.0.2.1") as inner,
        behind("near.example.net. 60 A 1.2.4.1", "far.example.net. 60 A 8.8.8.8") as standard,
        behind("near.example.net. 60 A 192.0.2.2", "far.example.net. 60 A 192.0.2.3") as fallback,
    ):
        lines = f"""
  nameserver-policy: {{'rule-set:inner': '127.0.0.1:{inner.port}'}}
  fallback: ['127.0.0.1:{fallback.port}']
  fallback-filter: {{geoip: true, geoip-code: CN}}
"""
        async with named(tmp_path / "own", lines, rest, standard) as names:
            assert await names.ask("a.inner.example.net") == ["192.0.2.1"]
            assert (standard.names(), fallback.names()) == ([], [])
            assert await names.ask("near.example.net") == ["1.2.4.1"]
            assert await names.ask("far.example.net") == ["192.0.2.3"]


async def test_a_set_or_a_country_list_that_is_missing_keeps_the_old_configuration(tmp_path: Path) -> None:
    async with named(tmp_path, FAKE, DIRECT) as names:
        with pytest.raises(ConfigFault, match="no rule provider 'missing'"):
            await names.reload("  nameserver-policy: {'rule-set:missing': 192.0.2.1}\n", DIRECT)
        with pytest.raises(ConfigFault, match="no rule provider 'missing'"):
            await names.reload(FAKE + "  fake-ip-filter: ['rule-set:missing']\n", DIRECT)
        assert (await names.ask("www.example.net"))[0].startswith("198.18.")


# What the API tells


async def call(names: Names, method: str, target: str) -> tuple[int, Any]:
    """Ask the API by its socket in the home directory."""
    client = await trio.open_unix_socket(names.house.gateway.config.control.unix)
    head = f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    await client.send_all(head.encode())
    answer = b""
    async for chunk in client:
        answer += chunk
    first, _, body = answer.partition(b"\r\n\r\n")
    return int(first.split()[1]), json.loads(body) if body[:1] == b"{" else body.decode()


async def test_the_api_tells_the_way_of_an_answer(tmp_path: Path) -> None:
    async with named(tmp_path, FAKE, DIRECT) as names:
        status, said = await call(names, "GET", "/dns/explain?name=www.example.net&client=127.0.0.9")
        assert (status, said["source"], said["client"]) == (200, "fake-ip", "127.0.0.9")
        assert said["steps"][0]["stop"] == "client"
        status, said = await call(names, "GET", "/dns/explain?name=www.example.net&type=TXT")
        assert (status, said["source"]) == (200, "upstream")
        assert (await call(names, "GET", "/dns/explain?name=www.example.net&type=NONSENSE"))[0] == 400
        status, said = await call(names, "GET", "/dns/query?name=www.example.net")
        assert [record["data"] for record in said["Answer"]] == ["127.0.0.1"]
        status, said = await call(names, "GET", "/dns/status")
        assert (status, len(said["doors"])) == (200, 2)
        assert (await call(names, "GET", "/dns/nothing"))[0] == 404
        assert (await call(names, "POST", "/dns/explain"))[0] == 405
        await names.reload("  enable: false\n", DIRECT)
        assert (await call(names, "GET", "/dns/explain?name=www.example.net"))[0] == 503


async def test_the_command_line_tells_it_too(tmp_path: Path) -> None:
    async with named(tmp_path, FAKE, DIRECT) as names:

        def run(*words: str) -> Result:
            return CliRunner().invoke(cli, ["--home", str(tmp_path), "dns", "www.example.net", *words])

        said = await trio.to_thread.run_sync(run, "--explain", "--client", "127.0.0.9")
        assert said.exit_code == 0, said.output
        assert "127.0.0.9, view" in said.stdout
        assert "NOERROR from fake-ip" in said.stdout
        said = await trio.to_thread.run_sync(run, "--explain", "--json")
        assert json.loads(said.stdout)["answer"][0]["data"].startswith("198.18.")
        said = await trio.to_thread.run_sync(run)
        assert "127.0.0.1" in said.stdout
        await names.reload("  enable: false\n", DIRECT)
        said = await trio.to_thread.run_sync(run, "--explain")
        assert (said.exit_code, "no name server runs" in said.stderr) == (1, True)


async def test_metrics_and_flushing(tmp_path: Path) -> None:
    async with named(tmp_path, "", DIRECT) as names:
        await names.ask("www.example.net")
        _, text = await call(names, "GET", "/metrics")
        assert 'cyfs_dns_answers_total{source="upstream"} 1' in text
        assert "cyfs_uptime_seconds" in text
        assert (await call(names, "POST", "/cache/dns/flush"))[0] == 204
        await names.ask("www.example.net")
        assert names.upstream.names() == ["www.example.net"] * 2
        assert (await call(names, "POST", "/cache/fakeip/flush"))[0] == 204
        await names.reload("  enable: false\n", DIRECT)
        assert "cyfs_dns" not in (await call(names, "GET", "/metrics"))[1]


# Modules


class Book:
    """A module that knows a name."""

    section = "book"

    @classmethod
    def check(cls, settings: Any) -> None:
        """Anything goes."""

    async def run(self, host: Host, settings: Any) -> None:
        host.register_names(lambda name: ("127.0.0.7", "fd00::7") if name == settings else ())
        await trio.sleep_forever()


async def test_names_of_modules_are_answered_to_everybody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Modules, "discover", staticmethod(lambda: {"book": Book}))
    async with named(tmp_path, FAKE, DIRECT + "book: box.example.net\n") as names:
        await until(lambda: names.house.gateway._around.names)
        assert await names.ask("box.example.net") == ["127.0.0.7"]
        assert await names.ask("box.example.net", "AAAA") == ["fd00::7"]
        assert await names.ask("box.example.net", "MX") == []
        await names.reload(FAKE, DIRECT)
        await until(lambda: not names.house.gateway._around.names)
        assert (await names.ask("box.example.net"))[0].startswith("198.18.")
