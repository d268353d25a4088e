"""The UDP door on real sockets."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from cyfs_ns.hot import Admission, Hot, HotDoor
from cyfs_ns.io import udp
from cyfs_ns.io.datagrams import UdpDoor, open_udp
from cyfs_ns.io.light import in_task
from cyfs_ns.io.mmsg import ROOM, SLOTS, Batch
from cyfs_ns.io.udp import Serve, serve_udp
from cyfs_ns.peer import Peer
from cyfs_ns.query import Query, read_query
from cyfs_ns.reply import make_reply, render, shape_of
from cyfs_ns.wire import HEADER, name_wire

SECOND = 1000


def ask(name: str, ident: int = 7, *, opt: bytes = b"") -> bytes:
    return HEADER.pack(ident, 0x0100, 1, 0, 0, 1 if opt else 0) + name_wire(name) + b"\0\1\0\1" + opt


def told(wire: bytes, last: int = 1) -> bytes:
    query = read_query(wire)
    assert isinstance(query, Query)
    reply = make_reply(query.question, answer=[(query.name, 1, 300, bytes((192, 0, 2, last)))])
    return bytes(render(reply, query, shape_of(query, limit=1232)))


def learn(door: HotDoor, wire: bytes, last: int = 1) -> None:
    query = read_query(wire)
    assert isinstance(query, Query)
    reply = make_reply(query.question, answer=[(query.name, 1, 300, bytes((192, 0, 2, last)))])
    assert door.table("home").put(query, wire, told(wire, last), reply, SECOND, SECOND + 300, None)


def everybody(_: bytes) -> Admission:
    return Admission("home")


class House:
    """A cold path that writes down who asks, and answers when it may."""

    def __init__(self) -> None:
        self.asked: list[tuple[bytes, Peer]] = []
        self.open = trio.Event()
        self.open.set()

    async def serve(self, query: bytes, peer: Peer) -> bytes | None:
        self.asked.append((query, peer))
        await in_task()
        await self.open.wait()
        if b"\4boom" in query:
            raise RuntimeError("a bug")
        return None if b"\5quiet" in query else told(query)


@asynccontextmanager
async def serving(
    hot: HotDoor, serve: Serve, ip: str = "127.0.0.1", *, interface: str = ""
) -> AsyncIterator[tuple[UdpDoor, int]]:
    sock = open_udp(ip, 0, interface=interface)
    port = sock.getsockname()[1]
    async with trio.open_nursery() as nursery:
        door = await nursery.start(
            partial(serve_udp, sock, Hot({"udp": hot}), serve, interface=interface, clock=lambda: SECOND)
        )
        yield door, port
        nursery.cancel_scope.cancel()


async def client(ip: str, port: int, *, own: str = "") -> trio.socket.SocketType:
    sock = trio.socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_DGRAM)
    if own:
        await sock.bind((own, 0))
    await sock.connect((ip, port))
    return sock


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(60):
        while not condition():  # noqa: ASYNC110 (a condition of the door, which has no event)
            await trio.sleep(0.005)


async def test_a_hit_never_takes_the_long_way():
    hot, house = HotDoor(everybody), House()
    learn(hot, ask("www.example"), last=9)
    async with serving(hot, house.serve) as (_, port):
        with await client("127.0.0.1", port) as sock:
            await sock.send(ask("www.example", 77))
            assert await sock.recv(4096) == told(ask("www.example", 77), last=9)
    assert house.asked == []
    assert hot.harvest_clients() == {b"\x7f\0\0\1": 1}


async def test_what_can_wait_is_done_after_answers_a_piece_at_a_time():
    door = HotDoor(everybody)
    hot, done = Hot({"udp": door}), []
    hot.chores = (done.append(number) for number in range(2))
    learn(door, ask("www.example"))
    sock = open_udp("127.0.0.1", 0)
    port = sock.getsockname()[1]
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve_udp, sock, hot, House().serve, clock=lambda: SECOND))
        with await client("127.0.0.1", port) as asker:
            for ident, most in ((1, [0]), (2, [0, 1]), (3, [0, 1])):
                await asker.send(ask("www.example", ident))
                assert await asker.recv(4096) == told(ask("www.example", ident))
                await until(lambda most=most: done == most)
        nursery.cancel_scope.cancel()


async def test_a_miss_does_and_tells_who_asks():
    hot, house = HotDoor(everybody), House()
    async with serving(hot, house.serve) as (_, port):
        with await client("127.0.0.1", port, own="127.0.0.2") as sock:
            await sock.send(ask("www.example", 77))
            assert await sock.recv(4096) == told(ask("www.example", 77))
            own = sock.getsockname()[1]
    assert house.asked == [(ask("www.example", 77), Peer("127.0.0.2", own, "udp", "127.0.0.1", "", port))]


async def test_hits_misses_refusals_and_silence_in_one_batch_come_out_right():
    hot = HotDoor(lambda address: None if address == b"\x7f\0\0\3" else Admission("home"))
    house = House()
    learn(hot, ask("hot.example"), last=9)
    sock = open_udp("127.0.0.1", 0)
    with (
        await client("127.0.0.1", sock.getsockname()[1]) as friend,
        await client("127.0.0.1", sock.getsockname()[1], own="127.0.0.3") as stranger,
    ):
        # All of it lies in the socket before anybody looks.
        sent = [
            (
                ask("hot.example", ident),
                ask("hot.example", ident).replace(b"hot", b"hOT"),
                ask("cold.example", ident),
                ask("quiet.example", ident),
            )[ident % 4]
            for ident in range(2 * SLOTS)
        ]
        for query in sent:
            await friend.send(query)
        await stranger.send(ask("hot.example", 1))
        await stranger.send(b"\0")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(serve_udp, sock, Hot({"udp": hot}), house.serve, clock=lambda: SECOND))
            answers = {}
            with trio.fail_after(60):
                while len(answers) < 2 * SLOTS * 3 // 4:
                    answer = await friend.recv(4096)
                    answers[int.from_bytes(answer[:2])] = answer
                refused = await stranger.recv(4096)
            nursery.cancel_scope.cancel()
    assert answers == {
        ident: told(query, last=9 if ident % 4 < 2 else 1) for ident, query in enumerate(sent) if ident % 4 != 3
    }
    assert refused[3] & 0xF == 5
    assert len(house.asked) == SLOTS


async def test_a_bug_in_the_long_way_costs_one_answer_only():
    hot, house = HotDoor(everybody), House()
    async with serving(hot, house.serve) as (_, port):
        with await client("127.0.0.1", port) as sock:
            await sock.send(ask("boom.example", 1))
            await sock.send(ask("www.example", 2))
            assert (await sock.recv(4096))[:2] == b"\0\2"


async def test_one_client_cannot_take_all_the_long_ways(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(udp, "MAX_IN_FLIGHT", 30)
    monkeypatch.setattr(udp, "MAX_OF_ONE", 20)
    hot, house = HotDoor(everybody), House()
    house.open = trio.Event()
    async with serving(hot, house.serve) as (door, port):
        with await client("127.0.0.1", port) as greedy, await client("127.0.0.1", port, own="127.0.0.2") as other:
            for ident in range(50):
                await greedy.send(ask("a.example", ident))
            await until(lambda: door.dropped == 30)
            for ident in range(15):
                await other.send(ask("b.example", ident))
            await until(lambda: door.dropped == 35)
            assert len(house.asked) == 30
            house.open.set()
            with trio.fail_after(60):
                assert {(await greedy.recv(4096))[1] for _ in range(20)} == set(range(20))
                assert {(await other.recv(4096))[1] for _ in range(10)} == set(range(10))
                await greedy.send(ask("a.example", 99))
                assert (await greedy.recv(4096))[1] == 99


@pytest.mark.parametrize("name", ["hot.example", "cold.example"])
async def test_a_wildcard_socket_answers_from_the_address_that_was_asked(name: str):
    hot, house = HotDoor(everybody), House()
    learn(hot, ask("hot.example"))
    async with serving(hot, house.serve, "0.0.0.0") as (_, port):
        # A connected socket hears its peer only.
        with await client("127.0.0.5", port, own="127.0.0.6") as sock, trio.fail_after(60):
            await sock.send(ask(name))
            assert await sock.recv(4096) == told(ask(name))
    assert [(peer.ip, peer.local, peer.interface) for _, peer in house.asked] == [("127.0.0.6", "127.0.0.5", "lo")] * (
        name == "cold.example"
    )


async def test_who_asks_before_anybody_serves_is_answered_from_the_address_that_was_asked():
    house = House()
    sock = open_udp("0.0.0.0", 0)
    async with trio.open_nursery() as nursery:
        with await client("127.0.0.5", sock.getsockname()[1], own="127.0.0.6") as asking, trio.fail_after(60):
            await asking.send(ask("cold.example"))
            await nursery.start(serve_udp, sock, Hot({"udp": HotDoor(everybody)}), house.serve)
            assert await asking.recv(4096) == told(ask("cold.example"))
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("ip", ["::1", "::"])
async def test_ipv6(ip: str):
    hot, house = HotDoor(everybody), House()
    learn(hot, ask("hot.example"))
    async with serving(hot, house.serve, ip) as (_, port):
        with await client("::1", port) as sock, trio.fail_after(60):
            for name in ("hot.example", "cold.example"):
                await sock.send(ask(name))
                assert await sock.recv(4096) == told(ask(name))
    assert [(peer.ip, peer.local) for _, peer in house.asked] == [("::1", "::1")]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: SO_BINDTODEVICE")
async def test_a_socket_of_one_interface():
    hot, house = HotDoor(everybody), House()
    async with serving(hot, house.serve, interface="lo") as (_, port):
        with await client("127.0.0.1", port) as sock, trio.fail_after(60):
            await sock.send(ask("cold.example"))
            assert await sock.recv(4096) == told(ask("cold.example"))
    assert house.asked[0][1].interface == "lo"


async def test_large_and_strange_datagrams():
    hot = HotDoor(everybody)
    seen: list[bytes] = []

    async def serve(query: bytes, peer: Peer) -> bytes | None:
        seen.append(query)
        return b"answer"

    async with serving(hot, serve) as (_, port):
        with await client("127.0.0.1", port) as sock, trio.fail_after(60):
            for octets in (b"", b"\0", bytes(ROOM), bytes(ROOM + 1), bytes(60000)):
                await sock.send(octets)
                assert await sock.recv(4096) == b"answer"
    assert [len(octets) for octets in seen] == [0, 1, ROOM, ROOM, ROOM]


async def test_the_journal_sees_hits_of_a_batch():
    hot, house = HotDoor(everybody), House()
    learn(hot, ask("hot.example"))
    hot.journal = []
    async with serving(hot, house.serve) as (_, port):
        with await client("127.0.0.1", port) as sock, trio.fail_after(60):
            for _ in range(2):
                await sock.send(ask("hot.example"))
                await sock.recv(4096)
    assert [client.address for client, _ in hot.journal] == [b"\x7f\0\0\1"] * 2


def test_what_cannot_be_sent_does_not_hold_up_the_others():
    with (
        open_udp("127.0.0.1", 0) as sock,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as first,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as second,
    ):
        batch = Batch(socket.AF_INET, control=False)
        for peer in (first, second, first):
            peer.connect(sock.getsockname())
            peer.send(b"question")
        assert batch.receive(sock.fileno()) == 3
        assert batch.sizes(3) == [8, 8, 8]
        assert [address for (address,) in batch.addresses(3)] == [b"\x7f\0\0\1"] * 3
        batch.lengths[batch.vectors[1]] = 1 << 20  # EMSGSIZE
        for slot in (0, 2):
            batch.lengths[batch.vectors[slot]] = 4
        assert batch.send(sock.fileno(), 0, 3) == 1
        assert [first.recv(100), first.recv(100)] == [b"ques"] * 2
        assert batch.receive(sock.fileno()) == 0


@pytest.mark.parametrize(("ip", "index_at"), [("0.0.0.0", 16), ("::", 32)])
def test_answers_of_a_wildcard_socket_are_not_tied_to_an_interface(ip: str, index_at: int):
    with open_udp(ip, 0) as sock, socket.socket(sock.family, socket.SOCK_DGRAM) as client:
        batch = Batch(sock.family, control=True)
        client.connect(("::1" if ":" in ip else "127.0.0.1", sock.getsockname()[1]))
        client.send(b"question")
        assert batch.receive(sock.fileno()) == 1
        asked = batch.control(0)
        assert int.from_bytes(asked[index_at : index_at + 4], sys.byteorder) == socket.if_nametoindex("lo")
        batch.lengths[batch.vectors[0]] = 4
        assert batch.send(sock.fileno(), 0, 1) == 0
        assert batch.control(0) == asked[:index_at] + bytes(4) + asked[index_at + 4 :]
        assert client.recv(100) == b"ques"
