"""STUN on real sockets: ours on both sides, coturn on either, and whatever else comes in."""

from __future__ import annotations

import math
import os
import re
import shutil
import socket
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.lowlevel
import trio.testing

from cyfs_ns.errors import Misuse, Unreachable
from rtcp.io.nat.punch import UdpSockets
from rtcp.io.nat.stun import Observer, behaviour, observe_tcp
from rtcp.io.nat.stunserver import serve_stun, serve_stun_tcp
from rtcp.nat.behaviour import Dependence, NatBehaviour, Patience, StunServer
from rtcp.nat.stun import (
    ROOM,
    SURPLUS,
    Change,
    HostPort,
    Kind,
    Message,
    read_message,
    respond,
    write_message,
    write_request,
)
from tests.freeport import free_port

ONE, TWO = "127.0.0.1", "127.0.0.2"
HASTY = Patience(first=0.02, times=2, last=2)

needs_coturn = pytest.mark.skipif(
    not all(map(shutil.which, ("turnserver", "turnutils_stunclient", "turnutils_natdiscovery"))),
    reason="needs turnserver: tools/install-packages test",
)


@asynccontextmanager
async def serving(hosts=(ONE, TWO), **options):
    """Our server: its two ports, and its counts."""
    ports = free_port(), free_port()
    async with trio.open_nursery() as nursery:
        counts = await nursery.start(partial(serve_stun, hosts, ports, **options))
        yield ports, counts
        nursery.cancel_scope.cancel()


@pytest.fixture
def client():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((ONE, 0))
        sock.setblocking(False)
        yield sock


async def heard(sock: socket.socket) -> tuple[bytes, HostPort]:
    with trio.fail_after(60):
        while True:
            try:
                data, source = sock.recvfrom(4096)
                return data, HostPort(*source[:2])
            except BlockingIOError:
                await trio.lowlevel.wait_readable(sock)


class Share:
    """A share of a socket in a world where ``world(data, to)`` says what comes back."""

    def __init__(self, world):
        self._world, self.sent = world, []
        self._in, self._out = trio.open_memory_channel(math.inf)

    def arrive(self, data, source):
        self._in.send_nowait((data, source))

    async def send(self, data, to, ttl):
        self.sent.append((trio.current_time(), data, to))
        for back in self._world(data, to):
            self.arrive(*back)

    async def receive(self):
        return await self._out.receive()


def answer(question, seen):
    return write_message(Message(kind=Kind.SUCCESS, transaction=read_message(question).transaction, seen=seen))


async def test_a_socket_that_others_use_is_observed(client):
    async with serving() as (ports, _), trio.open_nursery() as nursery:
        share = UdpSockets(trio.socket.from_stdlib_socket(client.dup()))
        nursery.start_soon(share.run)
        client.sendto(b"not STUN at all", client.getsockname())
        client.sendto(write_request(bytes(12)), client.getsockname())  # a peer's
        observer = Observer(share)
        asked = [HostPort(ONE, ports[0]), HostPort(TWO, ports[1])]
        await observer.ask(asked)
        assert observer.seen == dict.fromkeys(asked, client.getsockname())
        nursery.cancel_scope.cancel()


async def test_who_does_not_answer_is_asked_as_the_rfc_says(autojump_clock):
    share = Share(lambda data, to: ())
    observer = Observer(share)
    began = trio.current_time()
    await observer.ask([HostPort(ONE, 9)], patience=Patience())
    assert [when - began for when, _, _ in share.sent] == pytest.approx([0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5])
    assert trio.current_time() - began == pytest.approx(39.5)
    assert len({data for _, data, _ in share.sent}) == 1
    assert observer.seen == {}


async def test_an_answer_counts_only_from_the_server_and_to_our_question(autojump_clock):
    server, seen = HostPort(ONE, 9), HostPort("203.0.113.1", 5)

    def world(data, to):
        good = answer(data, seen)
        nothing = write_message(Message(kind=Kind.SUCCESS, transaction=read_message(data).transaction))
        yield good, HostPort(TWO, 9)
        yield write_message(Message(kind=Kind.SUCCESS, transaction=bytes(12), seen=seen)), server
        yield nothing, server
        yield good[:20] + b"\0\x20\0\x08" + bytes(8), server  # nonsense
        yield data, server  # our own words
        if len(share.sent) > 1:
            yield good, server

    share = Share(world)
    observer = Observer(share)
    await observer.ask([server])
    assert observer.seen == {server: seen}
    assert [to for _, _, to in share.sent] == [server, server]


async def test_a_refusal_ends_the_question_at_once(autojump_clock):
    def refuse(data, to):
        transaction = read_message(data).transaction
        yield write_message(Message(kind=Kind.ERROR, transaction=transaction, error=(420, "no"))), to

    observer = Observer(Share(refuse))
    began = trio.current_time()
    await observer.ask([HostPort(ONE, 9)])
    assert trio.current_time() == began
    assert observer.seen == {}


async def test_of_several_the_slow_get_their_grace_and_no_more(autojump_clock):
    quick, slow, dead = (HostPort(ONE, port) for port in (7, 8, 9))
    seen = HostPort("203.0.113.1", 5)

    async def later(after, data, to):
        await trio.sleep(after)
        share.arrive(answer(data, seen), to)

    def world(data, to):
        if to != dead:
            nursery.start_soon(later, 0.04 if to == quick else 0.05, data, to)
        return ()

    share = Share(world)
    observer = Observer(share)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        await observer.ask([dead, slow, quick], grace=lambda rtt: rtt / 2)
    assert trio.current_time() - began == pytest.approx(0.06)
    assert observer.seen == {quick: seen, slow: seen}


async def test_a_cancelled_question_keeps_what_was_answered(autojump_clock):
    first, second = HostPort(ONE, 9), HostPort(TWO, 9)
    share = Share(lambda data, to: [(answer(data, HostPort(ONE, 1)), to)] if to == first else ())
    observer = Observer(share)
    with trio.move_on_after(1):
        await observer.ask([first, second])
    assert observer.seen == {first: HostPort(ONE, 1)}


@asynccontextmanager
async def serving_tcp(host="127.0.0.1", **options):
    port = free_port()
    async with trio.open_nursery() as nursery:
        counts = await nursery.start(partial(serve_stun_tcp, host, port, **options))
        yield HostPort("::1" if ":" in host else ONE, port), counts
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("host", "near"), [(ONE, ONE), ("::1", "::1"), ("0.0.0.0", TWO)])
async def test_a_port_for_connections_is_observed_again_and_again(host, near):
    async with serving_tcp(host) as (server, counts):
        with socket.socket(socket.AF_INET6 if ":" in near else socket.AF_INET) as keeper:
            keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            keeper.bind((near, 0))
            local = keeper.getsockname()[:2]
            for _ in range(3):  # nothing of the connection before stands in the way
                assert await observe_tcp(server, local) == local
        assert (counts.answered, counts.ignored, counts.limited) == (3, 0, 0)


async def test_who_asks_too_often_over_tcp_or_something_else_is_not_answered():
    async with serving_tcp(per_second=2, clock=lambda: 7.0) as (server, counts):
        for noise in (b"GET / HTTP/1.1\r\n\r\n" * 2, write_request(bytes(12))[:-1]):
            stream = await trio.open_tcp_stream(*server)
            with suppress(trio.BrokenResourceError):  # it may be cut off in the middle
                await stream.send_all(noise)
                await stream.send_eof()
                assert await stream.receive_some(100) == b""
            await stream.aclose()
        with pytest.raises(Unreachable):
            await observe_tcp(server, (ONE, 0))
        assert (counts.answered, counts.limited) == (0, 1)


async def test_a_server_that_says_nothing_or_nonsense_over_tcp_is_none(autojump_clock):
    async def silent(stream):
        await trio.sleep_forever()

    async def foolish(stream):
        await stream.send_all(b"\1\1\xff\xff" + bytes(16))
        await trio.sleep_forever()

    async def another(stream):
        await stream.receive_some(100)
        await stream.send_all(write_message(Message(kind=Kind.SUCCESS, transaction=bytes(12), seen=HostPort(ONE, 5))))
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        for handler in (silent, foolish, another):
            listeners = await nursery.start(partial(trio.serve_tcp, handler, 0, host=ONE))
            with pytest.raises(Unreachable):
                await observe_tcp(HostPort(*listeners[0].socket.getsockname()), (ONE, 0))
        nursery.cancel_scope.cancel()
    with pytest.raises(Unreachable):
        await observe_tcp(HostPort(ONE, free_port()), (ONE, 0))


async def test_the_behaviour_of_no_nat_at_all():
    async with serving() as (ports, counts):
        told = await behaviour([StunServer(HostPort(ONE, ports[0]))])
    assert (told.blocked.value, told.translated.value) == (False, False)
    assert (told.mapping.value, told.filtering.value) == (Dependence.ENDPOINT_INDEPENDENT,) * 2
    assert told.local.host == ONE
    assert counts.answered >= 7
    assert counts.ignored == counts.limited == counts.unsent == 0


async def test_ipv6_with_one_address_and_two_ports():
    async with serving(["::1"]) as (ports, _):
        told = await behaviour([StunServer(HostPort("::1", ports[0]), other_port=ports[1])])
    assert told.translated.value is False
    assert (told.mapping.value, told.filtering.value) == (None, None)
    assert "another port: came" in told.filtering.why


async def test_where_nobody_answers_udp_is_blocked(client):
    told = await behaviour([StunServer(HostPort(*client.getsockname()))], patience=HASTY)
    assert told.blocked.value is True
    data, _ = await heard(client)
    assert len(data) == ROOM


async def test_a_survey_that_takes_too_long_is_cut_short(client):
    told = await behaviour([StunServer(HostPort(*client.getsockname()))], within=0.01)
    assert told.blocked.value is None


async def test_where_no_socket_can_be_had_it_says_so():
    with pytest.raises(Unreachable):
        await behaviour([StunServer(HostPort(ONE, 9))], local="203.0.113.77")


async def test_nothing_stays_open(client):
    before = set(os.listdir("/proc/self/fd"))
    async with serving() as (ports, _):
        await behaviour([StunServer(HostPort(ONE, ports[0]))])
        with trio.move_on_after(0.01) as scope:
            await behaviour([StunServer(HostPort(*client.getsockname()))])
        assert scope.cancelled_caught
    assert set(os.listdir("/proc/self/fd")) <= before


async def test_what_is_no_request_costs_its_neighbours_nothing(client):
    """Batches with gaps, and answers that leave by another socket."""
    kinds = {
        "bare": write_request(bytes(12), room=20)[:20].replace(b"\x00\x08!", b"\x00\x00!"),
        "noise": b"GET / HTTP/1.1\r\n\r\n",
        "large": bytes(3000),
        "good": write_request(b"good" * 3),
        "moved": write_request(b"move" * 3, change=Change.HOST | Change.PORT),
    }
    async with serving() as (ports, counts):
        for _ in range(20):
            for data in kinds.values():
                client.sendto(data, (ONE, ports[0]))
        heard_from = [await heard(client) for _ in range(40)]
    answers = [(read_message(data).transaction[:4], source) for data, source in heard_from]
    assert sorted(answers) == sorted(
        [(b"good", HostPort(ONE, ports[0]))] * 20 + [(b"move", HostPort(TWO, ports[1]))] * 20
    )
    assert all(read_message(data).seen == client.getsockname() for data, _ in heard_from)
    assert (counts.answered, counts.ignored, counts.limited) == (40, 60, 0)


async def test_a_fault_of_ours_costs_one_batch(client, monkeypatch, caplog):
    def faulty(datagram, *rest, **options):
        if datagram == b"crash":
            raise ZeroDivisionError
        return respond(datagram, *rest, **options)

    monkeypatch.setattr("rtcp.io.nat.stunserver.respond", faulty)
    async with serving() as (ports, counts):
        client.sendto(b"crash", (ONE, ports[0]))
        while not caplog.records:
            await trio.lowlevel.checkpoint()
        client.sendto(write_request(bytes(12)), (ONE, ports[0]))
        assert await heard(client)
    assert counts.answered == 1


async def test_one_network_gets_no_more_answers_than_allowed(client):
    now = 5.0
    async with serving(per_second=8, clock=lambda: now) as (ports, counts):
        for second in range(2):
            for number in range(20):
                client.sendto(write_request(bytes([second, number] * 6)), (ONE, ports[number % 2]))
            while counts.answered + counts.limited < 20 * (second + 1):
                await trio.lowlevel.checkpoint()
            assert (counts.answered, counts.limited) == (8 * (second + 1), 12 * (second + 1))
            now += 1


async def test_behind_a_one_to_one_nat_the_public_addresses_are_told(client):
    async with serving(public={ONE: "203.0.113.1", TWO: "203.0.113.2"}) as (ports, _):
        client.sendto(write_request(bytes(12), change=Change.HOST), (ONE, ports[0]))
        data, source = await heard(client)
    assert source == (TWO, ports[0])
    answer = read_message(data)
    assert (answer.origin, answer.other) == (("203.0.113.2", ports[0]), ("203.0.113.2", ports[1]))


@pytest.mark.parametrize(
    ("hosts", "ports"),
    [
        ([], [3478]),
        ([ONE], []),
        ([ONE], [3478, 3478]),
        ([ONE], [1, 2, 3]),
        ([ONE], [0]),
        (["0.0.0.0"], [3478]),
        (["::"], [3478]),
        ([ONE, ONE], [3478]),
        ([ONE, TWO, "127.0.0.3"], [3478]),
    ],
)
async def test_misuse_of_the_server(hosts, ports):
    with pytest.raises(Misuse):
        await serve_stun(hosts, ports)


async def test_two_addresses_are_not_known_as_one():
    with pytest.raises(Misuse):
        await serve_stun([ONE, TWO], [3478], public={ONE: TWO})


async def test_what_cannot_be_bound_leaves_nothing_bound():
    port, taken = free_port(), free_port()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, pytest.raises(OSError, match="in use"):
        sock.bind((ONE, taken))
        await serve_stun([ONE], [port, taken])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((ONE, port))


@needs_coturn
async def test_coturn_tells_our_client_all(tmp_path: Path):
    told = None
    for _ in range(5):  # on a busy machine it takes its time to start, or somebody has one of its ports by then
        told = await behaviour_by_coturn(tmp_path)
        if told is not None:
            break
    assert told is not None, (tmp_path / "log").read_text()
    assert told.translated.value is False
    assert told.mapping.value is Dependence.ENDPOINT_INDEPENDENT
    assert told.mapping.why.count("towards") == 4
    assert told.filtering.value is Dependence.ENDPOINT_INDEPENDENT, told.filtering.why


async def behaviour_by_coturn(folder: Path) -> NatBehaviour | None:
    """What a coturn of its own says; None: it says nothing."""
    ports = free_port(), free_port()
    words = (
        *("turnserver", "-n", "--stun-only", "-L", ONE, "-L", TWO, "-p", str(ports[0])),
        *("--alt-listening-port", str(ports[1]), "--no-tcp", "--no-tls", "--no-dtls", "--no-cli"),
        *("--log-file", "stdout", "--pidfile", str(folder / "pid"), "--userdb", str(folder / "db")),
    )
    with (folder / "log").open("w") as log:
        coturn = await trio.lowlevel.open_process(words, cwd=folder, stdout=log, stderr=log)
    try:
        with trio.move_on_after(30):
            while True:
                told = await behaviour([StunServer(HostPort(ONE, ports[0]))])
                if not told.blocked.value:
                    return told
    finally:
        coturn.kill()
        with trio.CancelScope(shield=True):
            await coturn.wait()
    return None


async def said(*words: str) -> str:
    with trio.fail_after(60):
        done = await trio.run_process(words, capture_stdout=True, capture_stderr=True, check=False)
    return (done.stdout + done.stderr).decode()


@needs_coturn
async def test_coturns_clients_learn_all_from_our_server():
    """Padded as RFC 5780 allows, so that our server may answer without any allowance."""
    async with serving() as (ports, counts):
        words = ("turnutils_natdiscovery", "-m", "-f", "-P", "-p", str(ports[0]), "-L", ONE, ONE)
        text = await said(*words)
    assert "NAT with Endpoint Independent Mapping!" in text
    assert "NAT with Endpoint Independent Filtering!" in text
    assert "No ALG: Mapped == XOR-Mapped" in text
    assert f"Other addr: : {TWO}:{ports[1]}" in text
    assert (counts.ignored, counts.limited, counts.unsent) == (0, 0, 0)


@needs_coturn
async def test_a_client_that_does_not_pad_is_served_where_that_is_allowed():
    async with serving(surplus=SURPLUS) as (ports, _):
        text = await said("turnutils_stunclient", "-p", str(ports[0]), ONE)
    assert re.search(rf"UDP reflexive addr: {ONE}:\d+", text), text
    assert f"Response origin: : {ONE}:{ports[0]}" in text
