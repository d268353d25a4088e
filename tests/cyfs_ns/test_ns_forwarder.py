from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, nullcontext
from pathlib import Path
from typing import Any

import dnslib
import pytest
import trio
import trio.testing
from dnsfakes import (
    Counted,
    Handler,
    answering,
    framed,
    frames,
    silent,
    stream_server,
    udp_server,
    zone,
)

from cyfs_ns import strategy
from cyfs_ns.config.dns import FallbackFilter
from cyfs_ns.edns import Ecs
from cyfs_ns.errors import Unreachable
from cyfs_ns.io import upstreams
from cyfs_ns.io.datagram import Datagrams
from cyfs_ns.io.dial import plain_dial
from cyfs_ns.io.exchange import Ways
from cyfs_ns.io.sources import Sources
from cyfs_ns.io.upstreams import Forwarder, NobodyAnswered, Told
from cyfs_ns.reply import records
from cyfs_ns.splitdns import NOBODY, Suspicion
from cyfs_ns.strategy import Kind, Strategy
from cyfs_ns.upstream import SYSTEM, Group, Upstream, parse_upstream
from cyfs_ns.wire import name_wire
from tests.freeport import free_port

NAME = "www.example.com"
WIRE = name_wire(NAME)
GOOD = zone(f"{NAME}. 60 IN A 192.0.2.1")
OTHER = zone(f"{NAME}. 60 IN A 192.0.2.2")


def house(**options: Any) -> Forwarder:
    ways = {key: options.pop(key) for key in ("find", "open_datagrams", "mix_case", "dial") if key in options}
    return Forwarder(Ways(**{"dial": plain_dial(), **ways}), **options)


def group(*servers: Upstream, kind: Kind = "staggered") -> Group:
    return Group("test", servers, Strategy(kind))


def addresses(told: Told) -> list[str]:
    return [socket.inet_ntop(socket.AF_INET, data) for _, rtype, _, data in records(told.reply, 0) if rtype == 1]


async def until(true: Callable[[], bool]) -> None:
    with trio.fail_after(60):
        while not true():  # noqa: ASYNC110
            await trio.sleep(0.01)


# --- who is asked ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["staggered", "parallel", "fastest", "weighted"])
async def test_one_black_hole_of_three_costs_no_client_a_failure(kind: Kind) -> None:
    hole = Counted(silent)
    async with udp_server(hole) as dead, udp_server(GOOD) as good, udp_server(GOOD) as other:
        forwarder, servers = house(), group(dead, good, other, kind=kind)
        for number in range(150):
            told = await forwarder.ask(name_wire(f"n{number}.example"), 1, group=servers)
            assert told.reply.rcode == 0
        hole_asked = len({bytes(query[12:]).lower() for query in hole.queries})
    assert kind == "parallel" or hole_asked < 75, "it is not asked first for long"


async def test_a_server_that_is_back_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strategy, "_FIRST_PAUSE", 0.0)
    dead = True
    async with udp_server(lambda query: None if dead else GOOD(query)) as first, udp_server(OTHER) as second:
        forwarder, servers = house(), group(first, second)
        assert addresses(await forwarder.ask(WIRE, 1, group=servers)) == ["192.0.2.2"]
        assert forwarder.servers()[0].score.set_back_until is not None
        dead = False
        assert addresses(await forwarder.ask(WIRE, 1, group=servers)) == ["192.0.2.2"], "a client does not wait for it"
        await until(lambda: forwarder.servers()[0].score.set_back_until is None)
        assert addresses(await forwarder.ask(WIRE, 1, group=servers)) == ["192.0.2.1"]


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No second server is asked merely because this machine is busy."""
    monkeypatch.setattr(strategy, "_UNKNOWN_PATIENCE", 5.0)
    monkeypatch.setattr(strategy, "_LEAST_PATIENCE", 5.0)


async def test_parallel_asks_all_and_the_others_ask_one(patient: None) -> None:
    for kind, expected in {"parallel": 2, "staggered": 1, "strict": 1}.items():
        counted = [Counted(GOOD), Counted(GOOD)]
        async with udp_server(counted[0]) as first, udp_server(counted[1]) as second:
            await house().ask(WIRE, 1, group=Group("test", (first, second), Strategy(kind)))  # type: ignore[arg-type]
            await trio.testing.wait_all_tasks_blocked()
        assert sum(bool(each.queries) for each in counted) == expected, kind


async def test_no_such_name_is_an_answer_and_a_failure_is_not(patient: None) -> None:
    counted = Counted(GOOD)
    async with (
        udp_server(zone(rcode=3)) as missing,
        udp_server(zone(rcode=2)) as failing,
        udp_server(zone(rcode=5)) as refusing,
        udp_server(counted) as good,
    ):
        forwarder = house()
        assert (await forwarder.ask(WIRE, 1, group=group(missing, good))).reply.rcode == 3
        assert not counted.queries
        told = await forwarder.ask(WIRE, 1, group=group(failing, refusing, good))
        assert addresses(told) == ["192.0.2.1"] and told.server == str(good)
        assert [attempt.outcome for attempt in told.attempts] == ["SERVFAIL", "REFUSED", "NOERROR"]
        told = await forwarder.ask(WIRE, 1, group=group(failing, refusing))
        assert told.reply.rcode == 2 and len(told.attempts) == 2


async def test_when_nobody_answers_all_is_told_and_nobody_is_set_back() -> None:
    closed = Upstream(scheme="udp", host="127.0.0.1", port=free_port())
    async with udp_server(silent) as dead:
        forwarder = house(timeout=0.3)
        with pytest.raises(NobodyAnswered, match=r"www\.example\.com\. A: no name server answered") as caught:
            await forwarder.ask(WIRE, 1, group=group(closed, dead))
    assert {attempt.server for attempt in caught.value.attempts} == {str(closed), str(dead)}
    assert "no answer in 0.3 s" in str(caught.value) and "refused" in str(caught.value)
    assert [state.score.set_back_until for state in forwarder.servers()] == [None, None]


@pytest.mark.parametrize("scheme", ["udp", "tcp"])
async def test_a_server_that_is_only_just_starting_is_waited_for(scheme: str) -> None:
    port = free_port()
    starting = Upstream(scheme=scheme, host="127.0.0.1", port=port)
    forwarder, servers = house(), group(starting)
    async with trio.open_nursery() as nursery, AsyncExitStack() as server:
        told: list[Told] = []

        async def ask() -> None:
            told.append(await forwarder.ask(WIRE, 1, group=servers))
            nursery.cancel_scope.cancel()

        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked(0.01)  # it was refused, and waits for its next turn
        opened = udp_server(GOOD, port=port) if scheme == "udp" else stream_server(answering(GOOD), port=port)
        await server.enter_async_context(opened)
        await trio.sleep_forever()
    assert addresses(told[0]) == ["192.0.2.1"]


async def test_servers_that_go_on_refusing_are_not_waited_for_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstreams, "_PAUSES", (0.01, 0.01, 0.01))
    dialled = []
    up = False

    async def dial(host: str, port: int, via: str | None) -> trio.abc.Stream:
        dialled.append(port)
        if up:
            return await plain_dial()(host, port, via)
        raise Unreachable("refused", "connect_refused")

    async def tries(*, answered: bool = False) -> int:
        dialled.clear()
        with nullcontext() if answered else pytest.raises(NobodyAnswered):
            await forwarder.ask(WIRE, 1, group=servers)
        return len(dialled)

    async with stream_server(answering(GOOD)) as server:
        forwarder, servers = house(dial=dial), group(server)
        assert [await tries() for _ in range(3)] == [4, 1, 1]
        up = True
        assert await tries(answered=True) == 1
        forwarder.close()
        up = False
        assert await tries() == 4
        forwarder.flush()
        assert await tries() == 4, "our own way is another one, so what was learnt is worth nothing"


async def test_where_there_is_no_way_nobody_waits_for_one() -> None:
    dialled = []

    async def dial(host: str, port: int, via: str | None) -> trio.abc.Stream:
        dialled.append(port)
        raise Unreachable("no route", "pre_connect_route")

    with pytest.raises(NobodyAnswered):
        await house(dial=dial).ask(WIRE, 1, group=group(Upstream(scheme="tcp", host="192.0.2.1", port=53)))
    assert dialled == [53]


async def test_a_group_of_nobody_is_no_way_to_ask() -> None:
    with pytest.raises(NobodyAnswered, match="no server"):
        await house().ask(WIRE, 1, group=NOBODY)


async def test_rcode_servers_answer_by_themselves() -> None:
    told = await house().ask(WIRE, 1, group=group(parse_upstream("rcode://name_error")))
    assert told.reply.rcode == 3 and told.server == "rcode://name_error"


# --- merging ---------------------------------------------------------------------------------------------------------


async def test_equal_questions_are_one_and_different_ones_are_not() -> None:
    counted = Counted(GOOD)
    async with udp_server(counted) as server:
        forwarder, servers = house(), group(server)
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(lambda: forwarder.ask(WIRE, 1, group=servers))
        assert len(counted.queries) == 1
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: forwarder.ask(WIRE, 1, group=servers, do=True))
            nursery.start_soon(lambda: forwarder.ask(WIRE, 1, group=servers, cd=True))
            nursery.start_soon(lambda: forwarder.ask(WIRE, 1, group=group(server)))
            nursery.start_soon(lambda: forwarder.ask(WIRE, 1, group=servers, client_subnet=Ecs(1, 8, 0, b"\x08")))
        assert len(counted.queries) == 5


async def test_no_more_questions_go_out_at_once_than_may_and_each_end_is_the_next_ones_turn() -> None:
    counted = Counted(silent)
    forwarder = house(at_once=1, waiting_most=2)
    names = [name_wire(f"n{number}.example.com") for number in range(4)]
    scopes = [trio.CancelScope() for _ in names]

    async def ask(number: int) -> None:
        with scopes[number]:
            await forwarder.ask(names[number], 1, group=servers)

    def asked() -> list[bytes]:
        return [query[12 : 12 + len(names[0])].lower() for query in counted.queries]

    async with udp_server(counted) as server, trio.open_nursery() as nursery:
        servers = group(server)
        for number in range(3):
            nursery.start_soon(ask, number)
            await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(NobodyAnswered, match="too many other questions"):
            await forwarder.ask(names[3], 1, group=servers)
        await until(lambda: asked() == names[:1])
        scopes[1].cancel()  # who leaves the queue takes no turn along
        await trio.testing.wait_all_tasks_blocked()
        scopes[0].cancel()
        await until(lambda: asked()[-1] == names[2])
        scopes[2].cancel()
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(ask, 3)
        await until(lambda: asked()[-1] == names[3])
        assert names[1] not in asked()
        scopes[3].cancel()


# --- forgers and odd servers -----------------------------------------------------------------------------------------


async def scripted_udp(
    replies: Callable[[bytes], list[bytes]], use: Callable[[Upstream], Awaitable[None]], port: int = 0
) -> None:
    """A server that sends any number of datagrams to one query."""
    with trio.socket.socket(type=socket.SOCK_DGRAM) as sock:
        await sock.bind(("127.0.0.1", port))

        async def serve() -> None:
            while True:
                query, client = await sock.recvfrom(4096)
                for reply in replies(query):
                    await sock.sendto(reply, client)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            await use(Upstream(scheme="udp", host="127.0.0.1", port=sock.getsockname()[1]))
            nursery.cancel_scope.cancel()


def true(query: bytes, handler: Handler = GOOD) -> bytes:
    reply = handler(query)
    assert reply is not None
    return reply


def lowered(query: bytes) -> bytes:
    reply = true(query)
    end = 12 + len(WIRE)
    return reply[:12] + reply[12:end].lower() + reply[end:]


async def test_other_ids_and_other_questions_are_passed_over_and_counted() -> None:
    def replies(query: bytes) -> list[bytes]:
        forged = zone(f"{NAME}. 60 IN A 203.0.113.66")(query) or b""
        other = zone("evil.example. 60 IN A 203.0.113.66")(
            query[:10] + bytes(2) + name_wire("evil.example") + b"\0\1\0\1"
        )
        wrong_ids = [struct.pack("!H", int.from_bytes(query[:2]) ^ bit) + forged[2:] for bit in (1, 2, 4)]
        return [*wrong_ids, other or b"", true(query)]

    async def use(server: Upstream) -> None:
        forwarder = house()
        assert addresses(await forwarder.ask(WIRE, 1, group=group(server))) == ["192.0.2.1"]
        assert forwarder.servers()[0].strays == 4

    await scripted_udp(replies, use)


async def test_a_flood_of_forgeries_leads_to_tcp() -> None:
    heard = []

    def replies(query: bytes) -> list[bytes]:
        heard.append(query)
        return [bytes(2) + b"\x81\x80" + bytes(20)] * 100

    port = free_port()
    async with stream_server(answering(OTHER), port=port):

        async def use(server: Upstream) -> None:
            forwarder = house()
            assert addresses(await forwarder.ask(WIRE, 1, group=group(server))) == ["192.0.2.2"]
            assert forwarder.servers()[0].strays > 64
            assert len(heard) == 1, "asking again gives the guesser as many guesses again"

        await scripted_udp(replies, use, port)


async def test_names_are_spelt_at_random_and_the_spelling_must_come_back() -> None:
    counted = Counted(GOOD)
    async with udp_server(counted) as server:
        forwarder, servers = house(), group(server)
        for _ in range(4):
            await forwarder.ask(WIRE, 1, group=servers)
    spelt = {query[12 : 12 + len(WIRE)] for query in counted.queries}
    assert len(spelt) == 4 and all(name.lower() == WIRE for name in spelt)


async def test_a_server_that_spells_as_it_likes_is_asked_over_tcp_once_and_then_plainly() -> None:
    port = free_port()
    over_tcp, over_udp = Counted(GOOD), Counted(lowered)
    async with stream_server(answering(over_tcp), port=port), udp_server(over_udp, port=port) as server:
        forwarder, servers = house(), group(server)
        for _ in range(3):
            assert addresses(await forwarder.ask(WIRE, 1, group=servers)) == ["192.0.2.1"]
    assert len(over_tcp.queries) == 1
    assert [query[12 : 12 + len(WIRE)] == WIRE for query in over_udp.queries] == [False, True, True]


async def test_a_server_that_spells_as_it_likes_and_has_no_tcp_is_believed_at_last() -> None:
    counted = Counted(lowered)
    async with udp_server(counted) as server:
        forwarder, servers = house(), group(server)
        for _ in range(2):
            assert addresses(await forwarder.ask(WIRE, 1, group=servers)) == ["192.0.2.1"]
    assert len(counted.queries) == 3


async def test_a_spelling_without_upper_case_proves_nothing() -> None:
    def lower_all(query: bytes) -> bytes:
        end = query.index(b"\0", 12) + 1
        return true(query[:12] + query[12:end].lower() + query[end:])

    async with udp_server(lower_all) as server:
        forwarder, servers = house(), group(server)
        for name in ("", "1.2.3", "7.7"):
            assert (await forwarder.ask(name_wire(name), 1, group=servers)).reply.rcode == 0
        assert addresses(await forwarder.ask(WIRE, 1, group=servers)) == ["192.0.2.1"]


async def test_a_server_that_kept_the_spelling_before_is_not_believed_without() -> None:
    handlers = [GOOD, lowered]
    counted = Counted(lambda query: handlers[0](query))
    async with udp_server(counted) as server:
        forwarder, servers = house(), group(server)
        await forwarder.ask(WIRE, 1, group=servers)
        handlers.pop(0)
        with pytest.raises(NobodyAnswered):
            await forwarder.ask(WIRE, 1, group=servers)
    assert len(counted.queries) == 2, "a forger gets no second chance because there is no TCP"


async def test_a_cut_reply_leads_to_tcp() -> None:
    def cut(query: bytes) -> bytes:
        reply = dnslib.DNSRecord.parse(query).reply()
        reply.header.tc = 1
        return bytes(reply.pack())

    port = free_port()
    async with stream_server(answering(GOOD), port=port), udp_server(cut, port=port) as server:
        assert addresses(await house().ask(WIRE, 1, group=group(server))) == ["192.0.2.1"]


@pytest.mark.parametrize("rcode", [1, 4])
@pytest.mark.parametrize("with_question", [True, False])
async def test_a_server_without_edns_is_remembered(rcode: int, with_question: bool) -> None:
    def old(query: bytes) -> bytes | None:
        if not dnslib.DNSRecord.parse(query).ar:
            return GOOD(query)
        return true(query, zone(rcode=rcode)) if with_question else query[:2] + bytes([0x80, rcode]) + bytes(8)

    counted = Counted(old)
    async with udp_server(counted) as server:
        forwarder, servers = house(), group(server)
        for _ in range(2):
            assert addresses(await forwarder.ask(WIRE, 1, group=servers)) == ["192.0.2.1"]
    assert [bool(dnslib.DNSRecord.parse(query).ar) for query in counted.queries] == [True, False, False]


async def test_a_server_that_refuses_either_way_keeps_its_edns() -> None:
    counted = Counted(zone(rcode=4))
    async with udp_server(counted) as server:
        forwarder, servers = house(), group(server)
        for _ in range(2):
            assert (await forwarder.ask(WIRE, 1, group=servers)).reply.rcode == 4
    assert [bool(dnslib.DNSRecord.parse(query).ar) for query in counted.queries] == [True, False] * 2


async def test_the_clients_subnet_goes_out_and_the_scope_comes_back() -> None:
    def scoped(query: bytes) -> bytes:
        asked = dnslib.DNSRecord.parse(query)
        options.append([(option.code, option.data) for option in asked.ar[0].rdata])
        reply = asked.reply()
        reply.add_answer(*dnslib.RR.fromZone(f"{asked.q.qname} 60 IN A 192.0.2.1"))
        reply.add_ar(dnslib.EDNS0(opts=[dnslib.EDNSOption(8, b"\0\1\x18\x10\xcb\0\x71")]))
        return bytes(reply.pack())

    options: list[list[tuple[int, bytes]]] = []
    async with udp_server(scoped) as server:
        told = await house().ask(WIRE, 1, group=group(server), client_subnet=Ecs(1, 24, 0, b"\xcb\0\x71"))
        assert told.reply.ecs_scope == 16
        told = await house().ask(WIRE, 1, group=group(server))
        assert told.reply.ecs_scope is None, "nobody had asked for it"
    assert options == [[(8, b"\0\1\x18\0\xcb\0\x71")], []]


@pytest.mark.parametrize(
    ("fragment", "client", "told"),
    [
        ("ecs=203.0.113.0/24", None, b"\0\1\x18\0\xcb\0\x71"),
        ("ecs=203.0.113.0/24", Ecs(1, 8, 0, b"\x08"), b"\0\1\x08\0\x08"),
        ("ecs=203.0.113.0/24&ecs-override=true", Ecs(1, 8, 0, b"\x08"), b"\0\1\x18\0\xcb\0\x71"),
    ],
)
async def test_a_server_may_have_a_subnet_of_its_own(fragment: str, client: Ecs | None, told: bytes) -> None:
    counted = Counted(GOOD)
    async with udp_server(counted) as server:
        own = parse_upstream(f"127.0.0.1:{server.port}#{fragment}")
        await house().ask(WIRE, 1, group=group(own), client_subnet=client)
    assert told in counted.queries[0]


async def test_a_server_may_be_without_a_type() -> None:
    counted = Counted(GOOD)
    async with udp_server(counted) as server:
        own = parse_upstream(f"127.0.0.1:{server.port}#disable-ipv6=true")
        told = await house().ask(WIRE, 28, group=group(own))
        assert (told.reply.rcode, told.reply.counts) == (0, (0, 0, 0)) and not counted.queries
        assert addresses(await house().ask(WIRE, 1, group=group(own))) == ["192.0.2.1"]


# --- ways ------------------------------------------------------------------------------------------------------------


async def test_a_server_by_name_is_found_again_when_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cyfs_ns.io.exchange._FIND_AGAIN", 0.0)
    asked: list[bool] = []

    async def find(host: str, *, fresh: bool) -> tuple[str, ...]:
        assert host == "dns.example"
        asked.append(fresh)
        return ("127.0.0.1",) if fresh else ("127.0.0.3",)

    async with udp_server(GOOD) as server:
        named = Upstream(scheme="udp", host="dns.example", port=server.port)
        told = await house(find=find).ask(WIRE, 1, group=group(named))
        assert addresses(told) == ["192.0.2.1"], "for the question that met the fault, too"
    assert asked == [False, True]


async def test_the_next_address_of_a_server_is_tried() -> None:
    async def find(host: str, *, fresh: bool) -> tuple[str, ...]:
        return ("127.0.0.3", "127.0.0.1")

    async with udp_server(GOOD) as server:
        named = Upstream(scheme="udp", host="dns.example", port=server.port)
        assert addresses(await house(find=find).ask(WIRE, 1, group=group(named))) == ["192.0.2.1"]


async def test_a_slow_address_is_not_given_up_for_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cyfs_ns.io.exchange._PATIENCE", 0.02)
    other_asked = trio.Event()

    async def find(host: str, *, fresh: bool) -> tuple[str, ...]:
        return ("127.0.0.1", "127.0.0.3")

    async def slow(stream: trio.abc.Stream) -> None:
        async for query in frames(stream):
            await other_asked.wait()
            await stream.send_all(framed(GOOD(query)))

    async def dial(host: str, port: int, via: str | None) -> trio.abc.Stream:
        if host == "127.0.0.1":
            return await plain_dial()(host, port, via)
        other_asked.set()
        return await trio.sleep_forever()

    async with stream_server(slow) as server:
        named = Upstream(scheme="tcp", host="dns.example", port=server.port)
        assert addresses(await house(find=find, dial=dial).ask(WIRE, 1, group=group(named))) == ["192.0.2.1"]


class Relay:
    """Datagrams through something else."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._replies: list[bytes] = []
        self.closed = False

    async def send(self, data: bytes) -> None:
        reply = self._handler(data)
        if reply is not None:
            self._replies += [b"stray", reply]

    async def receive(self) -> bytes:
        await trio.lowlevel.checkpoint()
        if not self._replies:
            await trio.sleep_forever()
        return self._replies.pop(0)

    def close(self) -> None:
        self.closed = True


async def test_udp_through_an_outbound() -> None:
    relays: list[Relay] = []

    async def opener(host: str, port: int, via: str) -> Datagrams:
        assert (host, port, via) == ("192.0.2.53", 53, "PROXY")
        relays.append(Relay(GOOD))
        return relays[-1]

    proxied = Upstream(scheme="udp", host="192.0.2.53", port=53, via="PROXY")
    assert addresses(await house(open_datagrams=opener).ask(WIRE, 1, group=group(proxied))) == ["192.0.2.1"]
    assert relays[0].closed


async def test_an_outbound_without_udp_carries_tcp() -> None:
    async def opener(host: str, port: int, via: str) -> Datagrams:
        raise Unreachable("no UDP here", "unsupported_scheme")

    async with stream_server(answering(GOOD)) as server:

        async def dial(host: str, port: int, via: str | None) -> trio.abc.Stream:
            assert (host, port, via) == ("192.0.2.53", 53, "PROXY")
            return await trio.open_tcp_stream("127.0.0.1", server.port)

        proxied = Upstream(scheme="udp", host="192.0.2.53", port=53, via="PROXY")
        told = await house(open_datagrams=opener, dial=dial).ask(WIRE, 1, group=group(proxied))
    assert addresses(told) == ["192.0.2.1"]


async def test_questions_leave_from_the_source_that_was_named() -> None:
    sources: list[tuple[str, int]] = []
    port = free_port()
    with trio.socket.socket(type=socket.SOCK_DGRAM) as sock:
        await sock.bind(("127.0.0.1", 0))

        async def serve() -> None:
            query, client = await sock.recvfrom(4096)
            sources.append(client)
            await sock.sendto(true(query), client)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            server = Upstream(scheme="udp", host="127.0.0.1", port=sock.getsockname()[1], source=("127.0.0.7", port))
            await house().ask(WIRE, 1, group=group(server))
    assert sources == [("127.0.0.7", port)]


# --- loops -----------------------------------------------------------------------------------------------------------


async def test_a_server_that_leads_back_to_us_is_set_aside_until_it_is_cured() -> None:
    forwarder, looping = house(timeout=0.5), True

    def handler(query: bytes) -> bytes | None:
        end = query.index(b"\0", 12) + 1
        if looping:
            forwarder.is_own_probe(query[12:end].lower())
        return GOOD(query)

    async with udp_server(handler) as round_about, udp_server(OTHER) as good:
        servers = group(round_about, good)
        assert await forwarder.look_for_loops([servers]) == [str(round_about)]
        assert [state.looping for state in forwarder.servers()] == [True, False]
        assert addresses(await forwarder.ask(WIRE, 1, group=servers)) == ["192.0.2.2"]
        with pytest.raises(NobodyAnswered, match="lead back"):
            await forwarder.ask(WIRE, 1, group=group(round_about))
        looping = False
        assert await forwarder.look_for_loops([servers]) == []
        assert addresses(await forwarder.ask(WIRE, 1, group=servers)) == ["192.0.2.1"]


async def test_our_own_door_is_not_asked_even_if_resolv_conf_says_so(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 127.0.0.1\n")
    counted = Counted(GOOD)
    async with udp_server(counted) as other:
        forwarder = house(sources=Sources(path), is_own=lambda server: (server.host, server.port) == ("127.0.0.1", 53))
        assert addresses(await forwarder.ask(WIRE, 1, group=group(SYSTEM, other))) == ["192.0.2.1"]
        for _ in range(2):
            with pytest.raises(NobodyAnswered, match="lead back"):
                await forwarder.ask(WIRE, 1, group=group(SYSTEM))
            forwarder.flush()


def test_only_our_own_probes_are_known() -> None:
    assert not house().is_own_probe(name_wire("0123456789abcdef.loop.test"))
    assert not house().is_own_probe(WIRE)


# --- fallback --------------------------------------------------------------------------------------------------------


def country(address: str, code: str) -> bool:
    return address == "192.0.2.1"


@pytest.mark.parametrize(
    ("main", "rtype", "name", "expected"),
    [
        (GOOD, 1, NAME, ["192.0.2.1"]),
        (zone(f"{NAME}. 60 IN A 203.0.113.1"), 1, NAME, ["192.0.2.2"]),
        (zone(), 1, NAME, ["192.0.2.2"]),
        (zone(rcode=2), 1, NAME, ["192.0.2.2"]),
        (GOOD, 1, "only.fallback.example", []),
        (zone(f'{NAME}. 60 IN TXT "main"'), 16, NAME, []),
    ],
)
async def test_the_fallback_answers_when_the_main_one_is_suspicious(
    main: Handler, rtype: int, name: str, expected: list[str]
) -> None:
    # Documentation addresses count as private, so the prefix has to catch them.
    written = FallbackFilter(ipcidr=(ipaddress.ip_network("203.0.113.0/24"),), domain=("+.fallback.example",))
    suspicion = Suspicion(written, geoip=country)
    counted = Counted(main)
    async with udp_server(counted) as first, udp_server(OTHER) as second:
        told = await house().ask_both(
            name_wire(name), rtype, group=group(first), fallback=group(second), suspicion=suspicion
        )
    assert addresses(told) == expected
    assert told.server == str(second if expected == ["192.0.2.2"] or name != NAME else first)
    assert bool(counted.queries) == (name == NAME)


async def test_when_main_and_fallback_fail_the_failure_is_the_fallbacks() -> None:
    async with udp_server(silent) as first, udp_server(silent) as second:
        with pytest.raises(NobodyAnswered) as caught:
            await house(timeout=0.2).ask_both(
                WIRE, 1, group=group(first), fallback=group(second), suspicion=Suspicion(FallbackFilter(geoip=False))
            )
    assert str(second) in str(caught.value)
