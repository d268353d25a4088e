"""Servers that break rules, on purpose or not: beside a good one they cost nothing, alone they cost bounded time."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import dnslib
import pytest
import trio
import trio.testing
import trustme
from dnsfakes import (
    Conversation,
    Handler,
    answering,
    framed,
    frames,
    over_http2,
    silent,
    stream_server,
    udp_server,
    zone,
)

from cyfs_ns.askhttp import DNS_MESSAGE
from cyfs_ns.io import kept
from cyfs_ns.io.dial import plain_dial
from cyfs_ns.io.exchange import Server, Wanted, Ways
from cyfs_ns.io.kept import Gone
from cyfs_ns.io.upstreams import Forwarder, NobodyAnswered
from cyfs_ns.reply import records
from cyfs_ns.upstream import Group, Upstream
from cyfs_ns.wire import name_wire
from tests.freeport import free_port

NAME = "www.example.com"
WIRE = name_wire(NAME)
GOOD = zone(f"{NAME}. 60 IN A 192.0.2.1")
GOOD_DATA = b"\xc0\0\2\1"


def reply_with(*lines: str, section: str = "rr") -> Handler:
    """Records in the reply whatever was asked."""

    def handle(query: bytes) -> bytes:
        reply = dnslib.DNSRecord.parse(query).reply()
        for line in lines:
            getattr(reply, section).extend(dnslib.RR.fromZone(line))
        return bytes(reply.pack())

    return handle


def raw(change: Callable[[bytes], bytes]) -> Handler:
    def handle(query: bytes) -> bytes:
        return change(GOOD(query) or b"")

    return handle


def counts(answers: int) -> Handler:
    return raw(lambda reply: reply[:6] + answers.to_bytes(2) + reply[8:])


def loops(length: int) -> Handler:
    names = [NAME, *(f"n{number}.example" for number in range(length))]
    return reply_with(*(f"{a}. 9 IN CNAME {b}." for a, b in zip(names, [*names[1:], NAME], strict=True)))


MALFORMED: dict[str, Handler] = {
    "nothing": raw(lambda reply: b""),
    "only an id": raw(lambda reply: reply[:2]),
    "a header": raw(lambda reply: reply[:12]),
    "cut in a record": raw(lambda reply: reply[:-3]),
    "too many records claimed": counts(0xFFFF),
    "one record claimed too many": counts(2),
    "a query sent back": lambda query: query,
    "another opcode": raw(lambda reply: reply[:2] + b"\xa8\x00" + reply[4:]),
    "a name that points at itself": raw(
        lambda reply: reply[: 16 + len(WIRE)] + (16 + len(WIRE) | 0xC000).to_bytes(2) + bytes(10)
    ),
    "aliases that go round": loops(1),
    "an alias of itself": reply_with(f"{NAME}. 9 IN CNAME {NAME}."),
    "aliases without end": reply_with(*(f"{a}. 9 IN CNAME {b}." for a, b in zip(
        [NAME, *(f"n{n}.example" for n in range(60))], [f"n{n}.example" for n in range(61)], strict=True
    ))),
    "silence": silent,
    "an error": zone(rcode=2),
}  # fmt: skip


def forwarder(timeout: float = 5.0, tls: ssl.SSLContext | None = None) -> Forwarder:
    return Forwarder(Ways(dial=plain_dial(), tls=tls), timeout=timeout)


async def good_wins_and_alone_it_fails(bad: Upstream, tls: ssl.SSLContext | None = None) -> None:
    async with udp_server(GOOD) as good:
        house = forwarder(tls=tls)
        for _ in range(3):
            told = await house.ask(WIRE, 1, group=Group("both", (bad, good)))
            assert [data for _, _, _, data in records(told.reply, 0)] == [GOOD_DATA]
            assert told.server == str(good)
    try:
        told = await forwarder(timeout=0.4, tls=tls).ask(WIRE, 1, group=Group("alone", (bad,)))
    except NobodyAnswered:
        return
    assert told.reply.rcode not in (0, 3)


@pytest.mark.parametrize("what", MALFORMED)
async def test_malformed_over_udp(what: str) -> None:
    async with udp_server(MALFORMED[what]) as bad:
        await good_wins_and_alone_it_fails(bad)


@pytest.mark.parametrize("what", MALFORMED)
async def test_malformed_over_tcp(what: str) -> None:
    async with stream_server(answering(MALFORMED[what])) as bad:
        await good_wins_and_alone_it_fails(bad)


async def test_datagrams_larger_than_agreed_are_no_harm() -> None:
    def handle(query: bytes) -> bytes:
        reply = dnslib.DNSRecord.parse(query).reply()
        for last in range(1500):
            reply.add_answer(*dnslib.RR.fromZone(f"{NAME} 60 IN A 10.0.{last // 256}.{last % 256}"))
        return bytes(reply.pack())

    async with udp_server(handle) as bad:
        await good_wins_and_alone_it_fails(bad)


async def test_what_is_out_of_bailiwick_is_left_out() -> None:
    def handle(query: bytes) -> bytes:
        reply = dnslib.DNSRecord.parse(query).reply()
        reply.add_answer(*dnslib.RR.fromZone(f"{NAME}. 60 IN A 192.0.2.1\nbank.example. 60 IN A 203.0.113.66"))
        reply.add_auth(*dnslib.RR.fromZone("com. 60 IN NS ns.evil.example."))
        reply.add_ar(*dnslib.RR.fromZone("ns.evil.example. 60 IN A 203.0.113.66"))
        return bytes(reply.pack())

    async with udp_server(handle) as server:
        told = await forwarder().ask(WIRE, 1, group=Group("alone", (server,)))
    assert [data for _, _, _, data in records(told.reply, 0)] == [GOOD_DATA]
    assert told.reply.counts == (1, 0, 0)


# --- streams ---------------------------------------------------------------------------------------------------------


async def closes_at_once(stream: trio.abc.Stream) -> None:
    return


async def closes_after_the_question(stream: trio.abc.Stream) -> None:
    await stream.receive_some()


async def never_answers(stream: trio.abc.Stream) -> None:
    await trio.sleep_forever()


async def drips(stream: trio.abc.Stream) -> None:
    async for query in frames(stream):
        for octet in framed(GOOD(query)):
            await trio.sleep(0.1)
            await stream.send_all(bytes((octet,)))


async def cuts_its_frame(stream: trio.abc.Stream) -> None:
    async for query in frames(stream):
        await stream.send_all(framed(GOOD(query))[:-1])
        return


async def says_nothing_at_length(stream: trio.abc.Stream) -> None:
    async for _ in frames(stream):
        await stream.send_all(bytes(2))


async def babbles(stream: trio.abc.Stream) -> None:
    await stream.receive_some()
    while True:
        await stream.send_all(framed(b"\xab\xcd" + bytes(40)) * 100)


async def truncates(stream: trio.abc.Stream) -> None:
    await answering(raw(lambda reply: reply[:2] + b"\x83\x80" + reply[4:]))(stream)


@pytest.mark.parametrize(
    "converse",
    [
        closes_at_once, closes_after_the_question, never_answers, drips, cuts_its_frame, says_nothing_at_length,
        babbles, truncates,
    ],
)  # fmt: skip
async def test_streams_that_go_wrong(converse: Conversation) -> None:
    async with stream_server(converse) as bad:
        await good_wins_and_alone_it_fails(bad)


async def test_nobody_listens() -> None:
    await good_wins_and_alone_it_fails(Upstream(scheme="tcp", host="127.0.0.1", port=free_port()))


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@asynccontextmanager
async def https(
    authority: trustme.CA, converse: Conversation, protocols: list[str], scheme: str = "https"
) -> AsyncIterator[tuple[Upstream, ssl.SSLContext]]:
    context, trusting = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(trusting)
    context.set_alpn_protocols(protocols)
    async with stream_server(converse, scheme, tls=context) as server:
        yield server, trusting


async def rubbish(stream: trio.abc.Stream) -> None:
    await stream.receive_some()
    await stream.send_all(b"SSH-2.0-OpenSSH_9.2\r\n" * 50)


async def test_a_server_that_does_not_speak_tls() -> None:
    for scheme in ("tls", "https"):
        async with stream_server(rubbish, scheme) as bad:
            await good_wins_and_alone_it_fails(bad)


async def test_a_certificate_of_nobody_we_know() -> None:
    async with https(trustme.CA(), answering(GOOD), ["dot"], "tls") as (bad, _):
        await good_wins_and_alone_it_fails(bad)


HTTP2: dict[str, Conversation] = {
    "another page": over_http2(lambda query: (200, "text/html", b"<html>")),
    "not found": over_http2(lambda query: (404, DNS_MESSAGE, GOOD(query) or b"")),
    "elsewhere": over_http2(lambda query: (307, DNS_MESSAGE, b"")),
    "a huge body": over_http2(lambda query: (200, DNS_MESSAGE, bytes(1 << 20))),
    "no body": over_http2(lambda query: (200, DNS_MESSAGE, b"")),
    "another question's reply": over_http2(
        lambda query: (200, DNS_MESSAGE, (GOOD(query) or b"")[:12] + name_wire("evil.example") + b"\0\1\0\1")
    ),
    "no HTTP at all": rubbish,
    "nothing": never_answers,
}


@pytest.mark.parametrize("what", HTTP2)
async def test_https_that_goes_wrong(authority: trustme.CA, what: str) -> None:
    async with https(authority, HTTP2[what], ["h2"]) as (bad, trusting):
        await good_wins_and_alone_it_fails(bad, trusting)


async def http1(stream: trio.abc.Stream) -> None:
    data = b""
    while some := await stream.receive_some():
        data += some
        head, gap, body = data.partition(b"\r\n\r\n")
        if gap and len(body) >= int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]):
            reply = GOOD(body) or b""
            answer = f"HTTP/1.1 200 OK\r\ncontent-type: {DNS_MESSAGE}\r\ncontent-length: {len(reply)}\r\n\r\n"
            await stream.send_all(answer.encode() + reply)
            data = b""


async def test_http2_when_offered_and_http1_when_not(authority: trustme.CA) -> None:
    async with https(authority, over_http2(lambda query: (200, DNS_MESSAGE, GOOD(query) or b"")), ["h2"]) as (
        server,
        trusting,
    ):
        told = await forwarder(tls=trusting).ask(WIRE, 1, group=Group("alone", (server,)))
        assert told.reply.rcode == 0

    async with https(authority, http1, ["http/1.1"]) as (server, trusting):
        house = forwarder(tls=trusting)
        for _ in range(3):
            assert (await house.ask(WIRE, 1, group=Group("alone", (server,)))).reply.rcode == 0
        assert house.servers()[0].connections == 1


async def test_http_without_tls() -> None:
    async with stream_server(http1, "http") as server:
        assert (await forwarder().ask(WIRE, 1, group=Group("alone", (server,)))).reply.rcode == 0


async def test_the_mark_of_a_question_goes_on_its_packets(monkeypatch: pytest.MonkeyPatch) -> None:
    marks: list[int] = []
    for module in ("datagram", "dial"):
        monkeypatch.setattr(f"cyfs_ns.io.{module}.prepare", lambda sock, mark, interface: marks.append(mark))
    port = free_port()
    async with udp_server(GOOD, port=port) as server, stream_server(answering(GOOD), port=port):
        for scheme in ("udp", "tcp"):
            house, servers = forwarder(), Group("alone", (replace(server, scheme=scheme),))
            await house.ask(WIRE, 1, group=servers, mark=7)
    assert marks == [7, 7]


# --- kept connections ------------------------------------------------------------------------------------------------


def asks(server: Server, number: int = 0) -> Callable[[], Awaitable[object]]:
    return lambda: server.ask(Wanted(name_wire(f"n{number}.example") if number else WIRE, 1))


def server_at(upstream: Upstream) -> Server:
    return Server(upstream, Ways(dial=plain_dial()))


async def test_replies_in_another_order_find_their_questions() -> None:
    async def backwards(stream: trio.abc.Stream) -> None:
        queries: list[bytes] = []
        async for query in frames(stream):
            queries.append(query)
            if len(queries) == 3:
                for held in reversed(queries):
                    asked = dnslib.DNSRecord.parse(held)
                    last = str(asked.q.qname)[1]
                    line = f"{asked.q.qname} 60 IN A 192.0.2.{last}"
                    await stream.send_all(framed(reply_with(line)(held)))

    async with stream_server(backwards) as upstream:
        server, found = server_at(upstream), {}

        async def ask(number: int) -> None:
            reply = await server.ask(Wanted(name_wire(f"n{number}.example"), 1))
            found[number] = [data for _, _, _, data in records(reply, 0)]

        async with trio.open_nursery() as nursery:
            for number in (1, 2, 3):
                nursery.start_soon(ask, number)
    assert found == {number: [bytes((192, 0, 2, number))] for number in (1, 2, 3)}


async def test_a_connection_that_died_idle_is_no_failure() -> None:
    async def one_each(stream: trio.abc.Stream) -> None:
        async for query in frames(stream):
            opened.append(query)
            await stream.send_all(framed(GOOD(query)))
            return

    opened: list[bytes] = []
    async with stream_server(one_each) as upstream:
        server = server_at(upstream)
        for _ in range(4):
            await server.ask(Wanted(WIRE, 1))
    assert len(opened) == 4


async def test_a_connection_closed_under_our_question_is_tried_once_more() -> None:
    async def second_in_vain(stream: trio.abc.Stream) -> None:
        count = 0
        async for query in frames(stream):
            count += 1
            if count == 2:
                return
            await stream.send_all(framed(GOOD(query)))

    async with stream_server(second_in_vain) as upstream:
        server = server_at(upstream)
        for _ in range(3):
            await server.ask(Wanted(WIRE, 1))


async def test_a_connection_that_never_served_is_a_failure() -> None:
    tried: list[int] = []

    async def refuse(stream: trio.abc.Stream) -> None:
        tried.append(1)
        await stream.receive_some()

    async with stream_server(refuse) as upstream:
        with pytest.raises(Gone, match="closed"):
            await server_at(upstream).ask(Wanted(WIRE, 1))
    assert tried == [1]


async def test_an_asker_that_gives_up_harms_nobody() -> None:
    gate = trio.Event()

    async def gated(stream: trio.abc.Stream) -> None:
        async for query in frames(stream):
            await gate.wait()
            await stream.send_all(framed(GOOD(query)))

    async with stream_server(gated) as upstream:
        server = server_at(upstream)
        async with trio.open_nursery() as nursery:
            scope = trio.CancelScope()

            async def impatient() -> None:
                with scope:
                    await server.ask(Wanted(WIRE, 1))

            nursery.start_soon(impatient)
            nursery.start_soon(asks(server))
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
            gate.set()
        assert server.connections == 1
        await server.ask(Wanted(WIRE, 1))


async def test_an_idle_connection_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cyfs_ns.io.exchange.IDLE", 0.0)
    ended = trio.Event()

    async def watched(stream: trio.abc.Stream) -> None:
        await answering(GOOD)(stream)
        ended.set()

    async with stream_server(watched) as upstream:
        server = server_at(upstream)
        await server.ask(Wanted(WIRE, 1))
        with trio.fail_after(60):
            await ended.wait()


async def test_a_silent_connection_is_left_for_a_fresh_one(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    monkeypatch.setattr(kept, "_STALLED", 0.2)
    monkeypatch.setattr(kept, "_SILENT", 0.1)
    connections: list[int] = []

    async def first_is_mute(stream: trio.abc.Stream) -> None:
        connections.append(1)
        if len(connections) == 1:
            await trio.sleep_forever()
        await answering(GOOD)(stream)

    async with stream_server(first_is_mute) as upstream:
        await server_at(upstream).ask(Wanted(WIRE, 1))
    assert len(connections) >= 2


async def test_a_server_that_talks_and_does_not_listen_is_left(
    authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "_MOST_UNSENT", 1 << 14)
    settings, pings = bytes(3) + b"\4" + bytes(5), (b"\0\0\x08\6" + bytes(13)) * 256
    ended = trio.Event()

    async def talks(stream: trio.abc.Stream) -> None:
        assert isinstance(stream, trio.SSLStream)
        stream.transport_stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        try:
            await stream.send_all(settings)
            while True:
                await stream.send_all(pings)
        finally:
            ended.set()

    async def dial(host: str, port: int, via: str | None) -> trio.abc.Stream:
        stream = await plain_dial()(host, port, via)
        assert isinstance(stream, trio.SocketStream)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        return stream

    async with https(authority, talks, ["h2"]) as (upstream, trusting):
        server = Server(upstream, Ways(dial=dial, tls=trusting))
        with pytest.raises(Gone, match="does not listen"):
            await server.ask(Wanted(WIRE, 1))
        with trio.fail_after(60):
            await ended.wait()
