"""Workers as real processes, and the frames between them and the server."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from cyfs_ns import workerframes as frames
from cyfs_ns.cookies import Cookies
from cyfs_ns.errors import BadWire
from cyfs_ns.hot import Admission, Hot, HotDoor, HotEntry
from cyfs_ns.io import workerprocess, workers
from cyfs_ns.io.datagrams import UdpDoor, open_udp
from cyfs_ns.io.light import Word, afterwards
from cyfs_ns.io.udp import Serve
from cyfs_ns.io.workerprocess import Worker
from cyfs_ns.io.workers import Crew, WorkerSocket
from cyfs_ns.peer import Peer
from cyfs_ns.query import Query, read_query
from cyfs_ns.ratelimit import RateLimit
from cyfs_ns.reply import make_reply, render, shape_of
from cyfs_ns.wire import HEADER, name_wire


def ask(name: str, ident: int = 7) -> bytes:
    return HEADER.pack(ident, 0x0100, 1, 0, 0, 0) + name_wire(name) + b"\0\1\0\1"


class House:
    """A long way that keeps what it answers, and counts how often it was taken."""

    def __init__(self, per_second: int = 1000) -> None:
        self.door = HotDoor(self.judge, limit=RateLimit(per_second, slip=1))
        self.hot = Hot({"udp": self.door})
        self.strangers: set[bytes] = set()
        self.limited: set[bytes] = set()
        self.asked: list[tuple[bytes, Peer]] = []
        self.last = 1

    def judge(self, address: bytes) -> Admission | None:
        return None if address in self.strangers else Admission("home", limited=address in self.limited)

    async def serve(self, wire: bytes, peer: Peer) -> bytes | None:
        self.asked.append((wire, peer))
        query = read_query(wire)
        assert isinstance(query, Query)
        reply = make_reply(query.question, answer=[(query.name, 1, 300, bytes((192, 0, 2, self.last)))])
        answer = render(reply, query, shape_of(query, limit=1232))
        second = int(time.monotonic())
        self.hot.doors["udp"].table("home").put(query, wire, answer, reply, second, second + 300, query.text)
        return bytes(answer)


@asynccontextmanager
async def crew(
    house: House, many: int = 1, ip: str = "127.0.0.1", serve: Serve | None = None
) -> AsyncIterator[tuple[Crew, int]]:
    first = open_udp(ip, 0, reuse_port=True)
    port = first.getsockname()[1]
    sockets = [first, *(open_udp(ip, port, reuse_port=True) for _ in range(many - 1))]
    made = Crew(house.hot, serve or house.serve)
    async with trio.open_nursery() as nursery:
        await nursery.start(made.run, [[WorkerSocket(sock)] for sock in sockets])
        yield made, port
        nursery.cancel_scope.cancel()


class Spawned(trio.abc.Instrument):
    """Counts the tasks that begin."""

    def __init__(self) -> None:
        self.tasks = 0

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        self.tasks += 1


class Client:
    def __init__(self, port: int, own: str = "127.0.0.1") -> None:
        self.sock = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.port, self.own = port, own

    async def __aenter__(self) -> Client:
        await self.sock.bind((self.own, 0))
        await self.sock.connect(("127.0.0.1", self.port))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.sock.close()

    async def ask(self, name: str, ident: int = 7) -> bytes:
        with trio.fail_after(60):
            await self.sock.send(ask(name, ident))
            return await self.sock.recv(4096)

    async def ask_until(self, name: str, wanted: Callable[[bytes], bool]) -> None:
        """A worker hears of a change with its next turn."""
        with trio.fail_after(60):
            while not wanted(await self.ask(name)):
                pass


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(60):
        while not condition():  # noqa: ASYNC110 (a condition of another process)
            await trio.sleep(0.01)


async def test_a_worker_asks_once_and_then_knows():
    house = House()
    async with crew(house) as (_, port), Client(port) as client:
        answers = [await client.ask("www.example", ident) for ident in range(5)]
        assert [answer[1] for answer in answers] == list(range(5))
        assert len({answer[12:] for answer in answers}) == 1
        own = client.sock.getsockname()[1]
        assert house.asked == [(ask("www.example", 0), Peer("127.0.0.1", own, "udp", "127.0.0.1", "", port))]
        assert (await client.ask("wWw.example"))[-1] == 1
        kept = house.door.table("home").peek(ask("www.example"))
        assert kept is not None
        await until(lambda: kept.hits == 5)
        assert house.door.harvest_clients() == {b"\x7f\0\0\1": 5}


async def test_a_worker_knows_what_was_kept_after_the_answer():
    house = House()

    async def serve(wire: bytes, peer: Peer) -> bytes | None:
        answer = await house.serve(wire, peer)
        kept = house.door.table("home").peek(wire)
        house.door.table("home").clear()
        assert kept is not None
        afterwards(lambda: house.door.table("home").adopt(wire, kept))
        return answer

    async with crew(house, serve=serve) as (_, port), Client(port) as client:
        first = await client.ask("www.example")
        # The server, which is this thread, has no turn meanwhile.
        with socket.socket(fileno=os.dup(client.sock.fileno())) as sock:
            sock.settimeout(5)
            sock.send(ask("www.example", 8))
            assert sock.recv(4096)[2:] == first[2:]


async def test_counts_are_told_a_few_at_a_time():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.setblocking(False)
        worker = Worker(theirs, [])
        door = worker._hot
        asked = [ask(f"{number}.example", 0) for number in range(100)]
        for wire in asked:
            entry = HotEntry(b"tail", (), 0, 9, wire)
            door.table("home").adopt(wire, entry)
            door.table("home").count(entry, 3)
        told: dict[bytes, int] = {}
        for _ in worker._counts_told():
            kind, (view, *fields) = frames.unpack(ours.recv(1 << 17))
            lot = dict(frames.pairs(fields))
            assert (kind, view, len(lot) <= 32) == (frames.HITS, b"home", True)
            told |= lot
        assert told == dict.fromkeys(asked, 3)


async def test_at_its_bound_a_worker_keeps_those_who_came_first(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(workerprocess, "MAX_IN_FLIGHT", 3)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, open_udp("127.0.0.1", 0) as sock:
        ours.setblocking(False)
        theirs.setblocking(False)
        worker = Worker(theirs, [door := UdpDoor(sock)])
        async with Client(sock.getsockname()[1]) as client:
            for number in range(5):
                await client.sock.send(ask(f"{number}.example", number))
            await until(lambda: worker._turn(door, 0) is None and len(worker._in_flight) == 3)
            asked = [frames.unpack(ours.recv(1 << 17))[1] for _ in range(3)]
            with pytest.raises(BlockingIOError):
                ours.recv(1)
            for number, _, query, *_ in asked:
                ours.send(frames.pack(frames.ANSWER, number, query, b"home", frames.UNLIMITED, b""))
            assert worker._listen()
            assert [(await client.sock.recv(4096))[1] for _ in range(3)] == [0, 1, 2]
        assert not worker._in_flight


async def test_a_question_of_a_worker_is_no_task_of_its_own():
    house, words = House(), {}

    async def serve(wire: bytes, peer: Peer) -> bytes | None:
        words[wire] = word = Word()
        await word
        return await house.serve(wire, peer)

    async with crew(house, serve=serve) as (_, port), Client(port) as client:
        counted = Spawned()
        trio.lowlevel.add_instrument(counted)
        await client.sock.send(ask("www.example"))
        await until(lambda: bool(words))
        words.popitem()[1].say(None)
        with trio.fail_after(60):
            assert (await client.sock.recv(4096))[-1] == 1
        trio.lowlevel.remove_instrument(counted)
    assert counted.tasks == 0


async def test_what_a_worker_waits_for_is_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(workers, "MAX_IN_FLIGHT", 2)
    house, words = House(), []

    async def serve(wire: bytes, peer: Peer) -> bytes | None:
        words.append(word := Word())
        await word
        return await house.serve(wire, peer)

    async with crew(house, serve=serve) as (_, port), Client(port) as client:
        for number in range(5):
            await client.sock.send(ask(f"{number}.example", number))
        await until(lambda: len(words) == 2)
        got = set()
        for _ in range(5):
            await until(lambda: bool(words))
            assert len(words) <= 2
            words.pop(0).say(None)
            with trio.fail_after(60):
                got.add((await client.sock.recv(4096))[1])
    assert got == set(range(5))


async def test_workers_share_what_the_server_knows():
    house = House()
    async with crew(house, many=2) as (_, port):
        for _ in range(20):
            async with Client(port) as client:
                assert (await client.ask("www.example"))[-1] == 1
    assert len(house.asked) == 1


@pytest.mark.parametrize(("name", "below"), [(None, False), ("www.example", False), ("example", True)])
async def test_what_no_longer_holds_is_told_to_all(name: str | None, below: bool):
    house = House()
    async with crew(house, many=2) as (_, port):
        for _ in range(20):
            async with Client(port) as client:
                assert (await client.ask("www.example"))[-1] == 1
        house.last = 2
        house.hot.flush(None if name is None else name_wire(name), below=below)
        for _ in range(20):
            async with Client(port) as client:
                await client.ask_until("www.example", lambda answer: answer[-1] == 2)
                assert (await client.ask("www.example"))[-1] == 2
        assert len(house.asked) == 2


async def test_strangers_are_refused_and_clients_judged_anew():
    house = House()
    house.strangers.add(b"\x7f\0\0\2")
    async with crew(house) as (_, port), Client(port, "127.0.0.2") as stranger, Client(port) as friend:
        assert (await friend.ask("www.example"))[3] & 0xF == 0
        for _ in range(3):
            assert (await stranger.ask("www.example"))[3] & 0xF == 5
        house.strangers = {b"\x7f\0\0\1"}
        house.hot.forget_clients()
        await friend.ask_until("www.example", lambda answer: answer[3] & 0xF == 5)
        assert (await stranger.ask("www.example"))[3] & 0xF == 0


async def test_the_rate_limit_holds_in_workers():
    house = House(per_second=1)
    house.limited.add(b"\x7f\0\0\1")
    async with crew(house) as (_, port), Client(port) as client:
        answers = [await client.ask("www.example") for _ in range(20)]
    assert any(answer[2] & 2 for answer in answers)


async def test_a_cookie_lifts_the_limit_in_every_worker():
    house = House(per_second=1)
    house.limited.add(b"\x7f\0\0\1")
    house.hot.cookies = jar = Cookies(b"sixteen octets..")
    house.door.vouch = lambda address, query: jar.vouch(address, query, int(time.time()))
    bare = ask("www.example")
    given_ = jar.answer(b"8 octets", b"\x7f\0\0\1", int(time.time()))
    asked = bare[:11] + b"\1" + bare[12:] + b"\0\0\x29\4\xd0\0\0\0\0\0\x1c\0\x0a\0\x18" + given_
    async with crew(house, many=2) as (_, port), AsyncExitStack() as stack:
        # Each has a port of its own, so that the kernel sends some of them to either worker.
        clients = [await stack.enter_async_context(Client(port)) for _ in range(8)]
        for client in clients:
            await client.ask_until("www.example", lambda answer: bool(answer[2] & 2))
        for client in clients:
            for _ in range(3):
                await client.sock.send(asked)
                with trio.fail_after(60):
                    assert (await client.sock.recv(4096))[2] & 2 == 0


async def test_another_limit_is_told_to_the_workers():
    house = House()
    house.limited.add(b"\x7f\0\0\1")
    async with crew(house) as (_, port), Client(port) as client:
        assert (await client.ask("www.example"))[2] & 2 == 0
        house.hot.obey(RateLimit(1, slip=1), refuse=True)
        await client.ask_until("www.example", lambda answer: bool(answer[2] & 2))
        house.hot.obey(None, refuse=True)
        await client.ask_until("www.example", lambda answer: answer[2] & 2 == 0)


async def test_a_dead_worker_has_a_successor_that_finds_what_it_left():
    house = House()
    async with crew(house) as (made, port), Client(port) as client:
        assert (await client.ask("www.example"))[-1] == 1
        (pid,) = made.pids
        os.kill(pid, signal.SIGSTOP)
        await client.sock.send(ask("www.example", 99))
        os.kill(pid, signal.SIGKILL)
        with trio.fail_after(60):
            assert (await client.sock.recv(4096))[1] == 99
        assert made.pids != [pid]


async def test_workers_go_with_their_crew():
    house = House()
    async with crew(house, many=2) as (made, port):
        async with Client(port) as client:
            await client.ask("www.example")
        pids = made.pids
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert house.hot.followers == []


def test_a_worker_does_not_outlive_its_server():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "cyfs_ns.io.workerprocess", str(theirs.fileno())], pass_fds=[theirs.fileno()]
        )
    ours.close()
    assert process.wait(20) == 0


@given(st.integers(0, 255), st.lists(st.binary(max_size=300), max_size=8))
def test_frames_come_out_as_they_went_in(kind: int, fields: list[bytes]):
    frame = frames.pack(kind, *fields)
    assert frames.unpack(frame) == (kind, fields)


@given(st.binary(max_size=60))
def test_octets_are_a_frame_or_the_one_error(octets: bytes):
    try:
        kind, fields = frames.unpack(octets)
    except BadWire:
        return
    assert frames.pack(kind, *fields) == octets


@given(st.binary(max_size=60))
def test_octets_are_an_entry_or_the_one_error(octets: bytes):
    try:
        entry = frames.unpack_entry(octets, None)
    except BadWire:
        return
    assert entry.age(entry.until - 1) or entry.until <= entry.second + 1


def test_many_counts_take_many_frames():
    counts = [(number.to_bytes(200), number) for number in range(2000)]
    packed = [*frames.pack_counts(frames.HITS, counts, b"home")]
    assert len(packed) > 1
    assert all(len(frame) <= frames.MAX_FRAME for frame in packed)
    got: list[tuple[bytes, int]] = []
    for frame in packed:
        kind, (view, *fields) = frames.unpack(frame)
        assert (kind, view) == (frames.HITS, b"home")
        got += frames.pairs(fields)
    assert got == counts


def test_an_entry_travels():
    entry = HotEntry(b"0123456789abcdef", (3, 9), 100, 400, "label")
    copy = frames.unpack_entry(frames.pack_entry(entry), "other")
    assert (copy.tail, copy.ttl_ats, copy.second, copy.until, copy.label) == (
        entry.tail, entry.ttl_ats, entry.second, entry.until, "other",
    )  # fmt: skip
    with pytest.raises(BadWire):
        frames.unpack_entry(frames.pack_entry(entry)[:30], None)
