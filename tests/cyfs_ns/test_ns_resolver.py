from __future__ import annotations

import ipaddress
import os
import random
import socket
import ssl
import struct
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import dnslib
import h11
import pytest
import trio
import trio.testing
import trustme
from dnsfakes import Counted, Handler, asked_type, silent, udp_server, zone

from cyfs_ns import message
from cyfs_ns.config.dns import FallbackFilter
from cyfs_ns.domains import DomainMap
from cyfs_ns.errors import BadWire, ConfigFault, Unreachable
from cyfs_ns.hosts import Hosts
from cyfs_ns.io.resolver import Resolver
from cyfs_ns.query import NXDOMAIN, SERVFAIL
from cyfs_ns.splitdns import SplitDns, Suspicion
from cyfs_ns.upstream import Group, Upstream, parse_upstream

NAME = "www.example.com"
BOTH = zone(f"{NAME}. 60 IN A 192.0.2.1", f"{NAME}. 60 IN AAAA 2001:db8::1")


def at(port: int, scheme: str = "udp") -> Upstream:
    return Upstream(scheme=scheme, host="127.0.0.1", port=port)


# --- against dnsmasq -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["udp", "tcp"])
async def test_dnsmasq_answers_both_families(dnsmasq: int, scheme: str) -> None:
    resolver = Resolver([at(dnsmasq, scheme)])
    assert resolver.peek("dual.test") is None
    assert await resolver.addresses("Dual.Test.") == ("192.0.2.1", "2001:db8::1")
    assert resolver.peek("dual.test") == ("192.0.2.1", "2001:db8::1")
    assert await resolver.addresses("alias.test") == ("192.0.2.1", "2001:db8::1")
    assert await resolver.addresses("only6.test") == ("2001:db8::6",)


async def test_ipv6_can_be_left_out(dnsmasq: int) -> None:
    resolver = Resolver([at(dnsmasq)], ipv6=False)
    assert await resolver.addresses("dual.test") == ("192.0.2.1",)
    with pytest.raises(Unreachable):
        await resolver.addresses("only6.test")


async def test_a_truncated_reply_is_asked_again_over_tcp(dnsmasq: int) -> None:
    answer = await Resolver([at(dnsmasq)]).query("big.test", "A")
    assert len(answer.answer) == 200 and not answer.truncated


async def test_no_such_name_is_remembered_and_told(dnsmasq: int) -> None:
    resolver = Resolver([at(dnsmasq)])
    for _ in range(2):
        with pytest.raises(Unreachable, match=r"nope\.test: no such name") as caught:
            await resolver.addresses("nope.test")
        assert caught.value.reason == "pre_connect_dns"
    assert resolver.peek("nope.test") == ()
    resolver.flush()
    assert resolver.peek("nope.test") is None
    assert (await resolver.query("nope.test", "A")).rcode == NXDOMAIN


async def test_other_types_and_who_answered(dnsmasq: int) -> None:
    answer = await Resolver([at(dnsmasq)]).query("text.test", "TXT")
    assert [record.data for record in answer.answer] == ['"hello world" "semi;colon"']
    assert answer.server == f"udp://127.0.0.1:{dnsmasq}"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: binds port 53 on loopback addresses of its own")
async def test_the_systems_servers_are_read_again_when_they_change(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    resolver = Resolver(resolv_conf_path=path, ipv6=False)
    first, second = (f"127.{random.randrange(1, 255)}.{random.randrange(255)}.{last}" for last in (1, 2))
    async with (
        udp_server(zone(f"{NAME}. 60 IN A 192.0.2.1"), first, 53),
        udp_server(zone(f"{NAME}. 60 IN A 192.0.2.2"), second, 53),
    ):
        path.write_text(f"nameserver {first}\n")
        assert await resolver.addresses(NAME) == ("192.0.2.1",)
        path.write_text(f"# another size\nnameserver {second}\n")
        resolver.flush()
        assert await resolver.addresses(NAME) == ("192.0.2.2",)


# --- servers that fail -----------------------------------------------------------------------------------------------


async def test_one_black_hole_of_three_costs_no_failure_and_then_nothing() -> None:
    hole = Counted(silent)
    async with udp_server(hole) as dead, udp_server(BOTH) as good, udp_server(BOTH) as other:
        resolver = Resolver([dead, good, other])
        assert await resolver.addresses(NAME) == ("192.0.2.1", "2001:db8::1")
        assert len(hole.queries) == 2
        assert (await resolver.query(NAME, "A")).server == str(good)
        assert len(hole.queries) == 2  # asked last now, so not at all


async def test_every_kind_of_failure_leads_to_the_next_server_and_is_told() -> None:
    closed = at(_closed_port())
    async with (
        udp_server(zone(rcode=2)) as failing,
        udp_server(zone(rcode=5)) as refusing,
        udp_server(lambda query: query[:2] + b"rubbish") as broken,
        udp_server(silent) as dead,
        udp_server(BOTH) as good,
    ):
        bad = [
            failing,
            refusing,
            broken,
            closed,
            dead,
            parse_upstream("quic://127.0.0.1"),
            parse_upstream("rcode://refused"),
        ]
        assert await Resolver([*bad, good]).addresses(NAME) == ("192.0.2.1", "2001:db8::1")
        with pytest.raises(Unreachable) as caught:
            await Resolver(bad, timeout=0.3).addresses(NAME)
    assert caught.value.reason == "pre_connect_dns"
    for server, why in zip(
        bad, ["SERVFAIL", "REFUSED", "DNS", "refused", "no answer", "not carried", "REFUSED"], strict=True
    ):
        assert str(server) in str(caught.value)
        told = str(caught.value).split(f"{server}: ")[1]
        assert why in told.split(";")[0], (server, told)


async def test_a_query_returns_the_error_of_a_server_when_nobody_knows_better() -> None:
    async with udp_server(zone(rcode=2)) as failing, udp_server(silent) as dead:
        assert (await Resolver([failing, dead], timeout=0.3).query(NAME, "A")).rcode == SERVFAIL
        with pytest.raises(Unreachable, match=r"no answer in 0\.3 s"):
            await Resolver([dead], timeout=0.3).query(NAME, "A")


async def test_a_lost_datagram_is_sent_again(autojump_clock: object) -> None:
    lost: list[int] = []

    def forgetful(query: bytes) -> bytes | None:
        if len(lost) < 2:
            lost.append(1)
            return None
        return BOTH(query)

    async with udp_server(forgetful) as server:
        assert (await Resolver([server]).query(NAME, "A")).addresses()[0] == ("192.0.2.1",)


async def test_replies_with_another_id_are_passed_over() -> None:
    with trio.socket.socket(type=trio.socket.SOCK_DGRAM) as sock:
        await sock.bind(("127.0.0.1", 0))

        async def serve() -> None:
            query, client = await sock.recvfrom(4096)
            true = BOTH(query)
            forged = zone(f"{NAME}. 60 IN A 203.0.113.66")(query)
            assert true is not None and forged is not None
            for guess in range(1, 20):
                await sock.sendto(struct.pack("!H", (query[0] << 8 | query[1]) ^ guess) + forged[2:], client)
            await sock.sendto(true, client)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            answer = await Resolver([at(sock.getsockname()[1])]).query(NAME, "A")
        assert answer.addresses()[0] == ("192.0.2.1",)


async def test_ids_and_ports_differ_from_query_to_query() -> None:
    ids, ports = set(), set()
    with trio.socket.socket(type=trio.socket.SOCK_DGRAM) as sock:
        await sock.bind(("127.0.0.1", 0))

        async def serve() -> None:
            while True:
                query, client = await sock.recvfrom(4096)
                ids.add(query[:2])
                ports.add(client[1])
                await sock.sendto(BOTH(query) or b"", client)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            resolver = Resolver([at(sock.getsockname()[1])])
            for _ in range(8):
                await resolver.query(NAME, "A")
            nursery.cancel_scope.cancel()
    assert len(ids) > 4 and len(ports) > 4


async def test_a_server_that_cannot_read_edns_is_asked_without() -> None:
    def old(query: bytes) -> bytes | None:
        return zone(rcode=1)(query) if dnslib.DNSRecord.parse(query).ar else BOTH(query)

    async with udp_server(old) as server:
        assert await Resolver([server]).addresses(NAME) == ("192.0.2.1", "2001:db8::1")


@pytest.mark.parametrize("junk", [b"", b"\0", b"\xff" * 600, bytes(range(256))])
async def test_rubbish_after_the_id_ends_the_attempt(junk: bytes) -> None:
    async with udp_server(lambda query: query[:2] + junk) as server:
        with pytest.raises(Unreachable, match="DNS"):
            await Resolver([server]).addresses(NAME)


# --- families --------------------------------------------------------------------------------------------------------


async def test_a_late_aaaa_is_not_waited_for_and_half_an_answer_is_not_kept_long() -> None:
    def no_v6(query: bytes) -> bytes | None:
        return None if asked_type(query) == message.AAAA else zone(f"{NAME}. 9999 IN A 192.0.2.1")(query)

    now = 0.0
    async with udp_server(no_v6) as server:
        resolver = Resolver([server], clock=lambda: now)
        assert await resolver.addresses(NAME) == ("192.0.2.1",)
        now = 59.0
        assert resolver.peek(NAME) == ("192.0.2.1",)
        now = 61.0
        assert resolver.peek(NAME) is None


async def test_a_name_with_only_ipv6_is_found() -> None:
    async with udp_server(zone(f"{NAME}. 60 IN AAAA 2001:db8::1")) as server:
        assert await Resolver([server]).addresses(NAME) == ("2001:db8::1",)


@pytest.mark.parametrize("rcode", [NXDOMAIN, SERVFAIL, 5])
@pytest.mark.parametrize(("good", "address"), [("A", "192.0.2.1"), ("AAAA", "2001:db8::1")])
async def test_addresses_of_one_family_count_whatever_comes_first_of_the_other(
    good: str, address: str, rcode: int
) -> None:
    """As a dnsmasq answers that has ``--address=/x/192.0.2.1`` and ``--local=/x/``."""
    asked: list[bytes] = []

    def bad_first(query: bytes) -> bytes | None:
        if asked_type(query) == (message.A if good == "A" else message.AAAA):
            asked.append(query)
            if len(asked) == 1:
                return None  # the datagram is lost, and sent again
            return zone(f"{NAME}. 60 IN {good} {address}")(query)
        return zone(rcode=rcode)(query)

    async with udp_server(bad_first) as server:
        resolver = Resolver([server])
        assert await resolver.addresses(NAME) == (address,)
        assert resolver.peek(NAME) == (address,)


async def test_half_a_failure_is_not_remembered_as_no_such_name() -> None:
    def half(query: bytes) -> bytes | None:
        return zone(rcode=2)(query) if asked_type(query) == message.A else zone()(query)

    async with udp_server(half) as server:
        resolver = Resolver([server])
        with pytest.raises(Unreachable, match="SERVFAIL"):
            await resolver.addresses(NAME)
        assert resolver.peek(NAME) is None


# --- hosts, policy, bootstrap ----------------------------------------------------------------------------------------


async def test_hosts_come_first_and_aliases_are_asked() -> None:
    counted = Counted(BOTH)
    async with udp_server(counted) as server:
        hosts = Hosts({"nas.lan": ("192.168.1.2",), "+.short.lan": NAME})
        resolver = Resolver([server], hosts=hosts)
        assert resolver.peek("nas.lan") == await resolver.addresses("nas.lan") == ("192.168.1.2",)
        assert await resolver.addresses("localhost") == ("127.0.0.1", "::1")
        assert counted.queries == []
        assert resolver.peek("a.short.lan") is None
        assert await resolver.addresses("a.short.lan") == ("192.0.2.1", "2001:db8::1")
        assert resolver.peek("b.short.lan") == ("192.0.2.1", "2001:db8::1")


async def test_an_address_is_its_own_answer_and_nonsense_is_unreachable() -> None:
    resolver = Resolver([parse_upstream("rcode://refused")])
    assert resolver.peek("192.0.2.9") == ("192.0.2.9",)
    assert await resolver.addresses("[::ffff:192.0.2.9]") == ("192.0.2.9",)
    for host in ("", "a b", "127.1"):
        with pytest.raises(Unreachable) as caught:
            await resolver.addresses(host)
        assert caught.value.reason == "pre_connect_dns"
    with pytest.raises(BadWire):
        await resolver.query("a b", "A")


async def test_policy_chooses_servers_by_name() -> None:
    async with udp_server(BOTH) as usual, udp_server(zone("a.corp.lan. 9 IN A 10.0.0.1")) as corporate:
        policy = DomainMap({"+.corp.lan": (corporate,), "+.ads.example": (parse_upstream("rcode://name_error"),)})
        resolver = Resolver([usual], policy=policy.get)
        assert await resolver.addresses("a.corp.lan") == ("10.0.0.1",)
        assert await resolver.addresses(NAME) == ("192.0.2.1", "2001:db8::1")
        with pytest.raises(Unreachable, match="no such name"):
            await resolver.addresses("x.ads.example")


async def test_a_server_by_name_is_found_by_bootstrap() -> None:
    async with udp_server(BOTH) as server, udp_server(zone("dns.example. 9 IN A 127.0.0.1")) as boot:
        assert await Resolver([replace(server, host="dns.example")], bootstrap=[boot]).addresses(NAME)
        with pytest.raises(Unreachable, match=r"elsewhere\.example"):
            await Resolver([replace(server, host="elsewhere.example")], bootstrap=[boot]).addresses(NAME)
    with pytest.raises(ConfigFault, match=r"dns\.example"):
        Resolver(bootstrap=[parse_upstream("tls://dns.example")])


async def test_split_servers_and_a_fallback() -> None:
    async with (
        udp_server(zone(f"{NAME}. 60 IN A 203.0.113.1", "fine.example. 60 IN A 192.0.2.7")) as main,
        udp_server(zone(f"{NAME}. 60 IN A 192.0.2.2", "fine.example. 60 IN A 192.0.2.8")) as other,
        udp_server(zone("a.lan. 60 IN A 10.0.0.1")) as lan,
    ):
        split = SplitDns(forms=[f"/lan/127.0.0.1#{lan.port}", "/local/"])
        resolver = Resolver(
            Group("main", (main,)),
            policy=split.choose,
            fallback=Group("fallback", (other,)),
            suspicion=Suspicion(FallbackFilter(geoip=False, ipcidr=(ipaddress.ip_network("203.0.113.0/24"),))),
            ipv6=False,
        )
        assert await resolver.addresses(NAME) == ("192.0.2.2",)
        assert await resolver.addresses("fine.example") == ("192.0.2.7",)
        assert await resolver.addresses("a.lan") == ("10.0.0.1",)
        with pytest.raises(Unreachable, match="no server"):
            await resolver.addresses("x.local")


async def test_fresh_addresses_are_not_from_memory() -> None:
    counted = Counted(zone(f"{NAME}. 60 IN A 192.0.2.1"))
    async with udp_server(counted) as server:
        resolver = Resolver([server], ipv6=False, hosts=Hosts({"nas.lan": ("192.168.1.2",)}))
        for fresh in (False, False, True):
            assert await resolver.addresses(NAME, fresh=fresh) == ("192.0.2.1",)
        assert len(counted.queries) == 2
        assert await resolver.addresses("nas.lan", fresh=True) == ("192.168.1.2",)


# --- merging ---------------------------------------------------------------------------------------------------------


async def test_one_question_serves_all_who_ask_at_once() -> None:
    counted = Counted(BOTH)
    async with udp_server(counted) as server, trio.open_nursery() as nursery:
        resolver = Resolver([server])
        for _ in range(20):
            nursery.start_soon(resolver.addresses, NAME)
    assert len(counted.queries) == 2


async def test_a_failure_serves_all_who_ask_at_once() -> None:
    counted = Counted(zone(rcode=2))
    told: list[str] = []
    async with udp_server(counted) as server:
        resolver = Resolver([server])

        async def ask() -> None:
            with pytest.raises(Unreachable) as caught:
                await resolver.addresses(NAME)
            told.append(str(caught.value))

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(ask)
    assert len(told) == 5 and len(set(told)) == 1
    assert len(counted.queries) == 2


async def test_when_the_asker_in_front_gives_up_the_next_one_asks() -> None:
    answering, both_asked = False, trio.Event()

    def handler(query: bytes) -> bytes | None:
        if len(hole.queries) == 2:
            both_asked.set()
        return BOTH(query) if answering else None

    hole = Counted(handler)
    async with udp_server(hole) as server, trio.open_nursery() as nursery:
        resolver = Resolver([server])
        first = trio.CancelScope()

        async def impatient() -> None:
            with first:
                await resolver.addresses(NAME)

        found: list[object] = []

        async def patient() -> None:
            found.append(await resolver.addresses(NAME))

        nursery.start_soon(impatient)
        await both_asked.wait()
        nursery.start_soon(patient)
        await trio.testing.wait_all_tasks_blocked()
        answering = True
        first.cancel()
    assert found == [("192.0.2.1", "2001:db8::1")]


# --- over TLS and HTTPS, and through others --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@asynccontextmanager
async def tls_server(authority: trustme.CA, handler: Handler, scheme: str) -> AsyncIterator[Upstream]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1", "dns.example").configure_cert(context)

    async def serve(stream: trio.SSLStream[trio.SocketStream]) -> None:
        with suppress(trio.BrokenResourceError):  # a client that does not trust us
            await (_dot if scheme == "tls" else _doh)(stream, handler)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_ssl_over_tcp, serve, 0, context)
        port = listeners[0].transport_listener.socket.getsockname()[1]
        path = "/dns-query" if scheme == "https" else ""
        yield Upstream(scheme=scheme, host="127.0.0.1", port=port, path=path)
        nursery.cancel_scope.cancel()


async def _dot(stream: trio.abc.Stream, handler: Handler) -> None:
    data = b""
    while len(data) < 2 or len(data) < 2 + int.from_bytes(data[:2]):
        some = await stream.receive_some()
        if not some:
            return
        data += some
    reply = handler(data[2:]) or b""
    framed = struct.pack("!H", len(reply)) + reply
    for octet in framed:
        await stream.send_all(bytes([octet]))


async def _doh(stream: trio.abc.Stream, handler: Handler) -> None:
    http, body = h11.Connection(h11.SERVER), b""
    while not isinstance(event := http.next_event(), h11.EndOfMessage):
        if event is h11.NEED_DATA:
            http.receive_data(bytes(await stream.receive_some()))
        elif isinstance(event, h11.Request):
            assert (event.method, event.target) == (b"POST", b"/dns-query")
        elif isinstance(event, h11.Data):
            body += event.data
        else:
            return
    reply = handler(body)
    status, kind = (404, "text/html") if reply is None else (200, "application/dns-message")
    events: list[h11.Event] = [
        h11.Response(status_code=status, headers=[("content-type", kind)]),
        h11.Data(data=reply or b"no"),
        h11.EndOfMessage(),
    ]
    await stream.send_all(b"".join(http.send(event) or b"" for event in events))


@pytest.mark.parametrize("scheme", ["tls", "https"])
async def test_encrypted_servers(authority: trustme.CA, scheme: str) -> None:
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with (
        tls_server(authority, BOTH, scheme) as server,
        udp_server(zone("dns.example. 9 IN A 127.0.0.1", "other.example. 9 IN A 127.0.0.1")) as boot,
    ):
        assert await Resolver([server], tls=trusting).addresses(NAME) == ("192.0.2.1", "2001:db8::1")
        by_name = replace(server, host="dns.example")
        assert await Resolver([by_name], bootstrap=[boot], tls=trusting).addresses(NAME)
        for distrusted, context in [(replace(server, host="other.example"), trusting), (server, None)]:
            with pytest.raises(Unreachable, match=r"(?i)certificate"):
                await Resolver([distrusted], bootstrap=[boot], tls=context).addresses(NAME)
            unverified = replace(distrusted, skip_cert_verify=True)
            assert await Resolver([unverified], bootstrap=[boot], tls=context).addresses(NAME)


async def test_an_https_server_with_another_page_is_a_failure(authority: trustme.CA) -> None:
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with tls_server(authority, silent, "https") as server:
        with pytest.raises(Unreachable, match="HTTP status 404"):
            await Resolver([server], tls=trusting).addresses(NAME)


async def test_via_names_an_outbound_or_an_interface(dnsmasq: int) -> None:
    ways: list[tuple[str, int, str | None]] = []

    async def dial(host: str, port: int, via: str | None) -> trio.abc.Stream:
        ways.append((host, port, via))
        return await trio.open_tcp_stream("127.0.0.1", dnsmasq)

    proxied = Upstream(scheme="udp", host="192.0.2.53", port=53, via="PROXY")
    assert await Resolver([proxied], dial=dial).addresses("dual.test")
    assert ways == [("192.0.2.53", 53, "PROXY")], "both questions travel on one connection"
    with pytest.raises(Unreachable, match="PROXY"):
        await Resolver([proxied]).addresses("dual.test")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: binds to an interface, marks packets")
@pytest.mark.parametrize("scheme", ["udp", "tcp"])
async def test_interface_and_mark_are_set(dnsmasq: int, scheme: str) -> None:
    server = at(dnsmasq, scheme)
    assert await Resolver([replace(server, via="lo")]).addresses("dual.test")
    assert await Resolver([server], interface="lo", mark=0x2024).addresses("dual.test")
    with pytest.raises(Unreachable):
        await Resolver([server], interface="nosuch0").addresses("dual.test")


def _closed_port() -> int:
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_importing_the_resolver_stays_light() -> None:
    code = "import sys, cyfs_ns.io.resolver; print(*{'rich', 'click', 'dnslib', 'h11'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"
