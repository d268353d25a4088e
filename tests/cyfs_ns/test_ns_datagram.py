"""Questions over UDP on real sockets: ports, deadlines, what is not the reply; and that the usual one needs no task."""

from __future__ import annotations

import gc
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio
import trio.testing
from dnsfakes import Counted, silent, udp_server, zone

from cyfs_ns.errors import Unreachable
from cyfs_ns.io.datagram import Datagram, Forged
from cyfs_ns.io.dial import plain_dial
from cyfs_ns.io.dice import Dice
from cyfs_ns.io.exchange import Ways
from cyfs_ns.io.light import light_work
from cyfs_ns.io.upstreams import Forwarder, Told
from cyfs_ns.query import build_upstream_query
from cyfs_ns.upstream import Group, Upstream
from cyfs_ns.wire import name_wire

NAME = name_wire("www.example.com")
GOOD = zone("www.example.com. 60 IN A 192.0.2.1")


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(5)
        yield sock


def question(ident: int = 7) -> bytes:
    return build_upstream_query(NAME, 1, 1, ident)


def ask(server: socket.socket, ident: int = 7) -> tuple[Datagram, tuple[str, int]]:
    """A question that has come to ``server``, and where from."""
    asking = Datagram("127.0.0.1", server.getsockname()[1], question(ident), NAME)
    heard, client = server.recvfrom(4096)
    assert heard == question(ident)
    return asking, client


def reply(ident: int = 7) -> bytes:
    answer = GOOD(question(ident))
    assert answer is not None
    return answer


@contextmanager
def no_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_each_question_has_a_port_of_its_own_that_is_closed_behind_it(server: socket.socket) -> None:
    ports = []
    for _ in range(40):
        asking, client = ask(server)
        server.sendto(reply(), client)
        assert await asking.receive(float("inf")) == reply()
        asking.close()
        ports.append(client[1])
    assert len(set(ports)) > 30
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as late:
        late.settimeout(5)
        late.connect(("127.0.0.1", ports[-1]))
        late.send(reply())
        with pytest.raises(ConnectionRefusedError):
            late.recv(1)


async def test_what_comes_too_late_is_not_the_next_ones_reply(server: socket.socket) -> None:
    asking, client = ask(server)
    server.sendto(reply(), client)
    server.sendto(reply(), client)  # lies in the socket when the question is over
    assert await asking.receive(float("inf")) == reply()
    asking.close()
    again, elsewhere = ask(server)
    server.sendto(reply(), client)  # to the port of the first
    assert await again.receive(trio.current_time() + 0.05) is None
    server.sendto(reply(), elsewhere)
    assert await again.receive(float("inf")) == reply()
    again.close()


async def test_a_socket_with_something_in_it_serves_nobody_again(server: socket.socket) -> None:
    asking, client = ask(server)
    server.sendto(reply(), client)
    server.sendto(b"late", client)
    assert await asking.receive(float("inf")) == reply()
    asking.close()
    for _ in range(30):
        again, elsewhere = ask(server)
        server.sendto(reply(), elsewhere)
        assert await again.receive(float("inf")) == reply()
        assert again.strays == 0
        again.close()


async def test_a_few_sockets_are_enough_for_questions_one_by_one(server: socket.socket) -> None:
    kept = set()
    for _ in range(100):
        asking, client = ask(server)
        kept.add(asking._sock)
        server.sendto(reply(), client)
        assert await asking.receive(float("inf")) == reply()
        asking.close()
    assert len(kept) < 15


async def test_no_more_sockets_are_kept_than_the_process_can_spare(
    server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda limit: (64, 64))
    crowd = [ask(server)[0] for _ in range(20)]
    kept = [asking._sock for asking in crowd]
    for asking in crowd:
        asking.close()
    assert sum(sock.fileno() >= 0 for sock in kept) == 4


async def test_both_families_share_what_the_process_can_spare(
    server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda limit: (64, 64))
    crowd = [ask(server)[0] for _ in range(20)]
    kept = [asking._sock for asking in crowd]
    for asking in crowd:
        asking.close()
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as other:
        other.bind(("::1", 0))
        new = [Datagram("::1", other.getsockname()[1], question(7), NAME) for _ in range(6)]
        for asking in new:
            other.sendto(reply(), other.recvfrom(4096)[1])
            assert await asking.receive(float("inf")) == reply()
        kept6 = [asking._sock for asking in new]
        for asking in new:
            asking.close()
    assert sum(sock.fileno() >= 0 for sock in kept) == 0, "the family that is asked no more makes room"
    assert sum(sock.fileno() >= 0 for sock in kept6) == 4


async def test_a_socket_that_is_not_kept_takes_nobodys_room(
    server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda limit: (64, 64))
    crowd = [ask(server)[0] for _ in range(20)]
    kept = [asking._sock for asking in crowd]
    for asking in crowd:
        asking.close()
    (heard, client), (beside, _) = ask(server), ask(server)
    server.sendto(reply(), client)
    assert await heard.receive(float("inf")) == reply(), "all that was closed may serve again"
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as other:
        other.bind(("::1", 0))
        for _ in range(4):
            Datagram("::1", other.getsockname()[1], question(7), NAME, source=("::1", 0)).close()
    heard.close()
    beside.close()
    assert sum(sock.fileno() >= 0 for sock in kept) == 4


def test_no_octet_is_given_out_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[bytes] = []

    def urandom(count: int) -> bytes:
        fetched.append(bytes((len(fetched),)) * count)
        return fetched[-1]

    monkeypatch.setattr("cyfs_ns.io.dice.os.urandom", urandom)
    dice = Dice()
    given = [dice.take(count) for count in (2, 255, 4096, 4000, 96, 1)]
    assert [len(each) for each in given] == [2, 255, 4096, 4000, 96, 1]
    assert [each[0] for each in given] == [0, 0, 1, 2, 2, 3], "what a block has too little of is left out"
    assert all(len(set(each)) == 1 for each in given)


async def test_others_are_not_heard(server: socket.socket) -> None:
    asking, client = ask(server)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as forger:
        forger.sendto(reply(), client)
    assert await asking.receive(trio.current_time() + 0.05) is None
    assert asking.strays == 0, "the kernel keeps it from us"
    asking.close()


async def test_who_guesses_too_often_is_found_out(server: socket.socket) -> None:
    asking, client = ask(server)
    for ident in range(100, 200):
        server.sendto(reply(ident), client)
    with pytest.raises(Forged):
        await asking.receive(float("inf"))
    asking.close()


async def test_what_was_answered_is_not_kept_for_its_deadline(server: socket.socket) -> None:
    until = trio.current_time() + 1000
    for _ in range(100):
        asking, client = ask(server)
        server.sendto(reply(), client)
        assert await asking.receive(until) == reply()
        asking.close()
    assert sum(isinstance(each, Datagram) for each in gc.get_objects()) < 10


async def test_what_waits_is_reminded_however_many_are_answered_meanwhile(
    server: socket.socket, mock_clock: trio.testing.MockClock
) -> None:
    waiting, _ = ask(server)
    ended = trio.Event()

    async def wait() -> None:
        for until in (5, 7):
            assert await waiting.receive(until) is None
            assert trio.current_time() == until
        waiting.close()
        ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(10):
            asking, client = ask(server)
            server.sendto(reply(), client)
            assert await asking.receive(6) == reply()
            asking.close()
        for seconds in (5, 1, 1):
            assert not ended.is_set()
            mock_clock.jump(seconds)
            await trio.testing.wait_all_tasks_blocked()
        assert ended.is_set()


async def test_each_waits_until_its_own_time(server: socket.socket, autojump_clock: trio.testing.MockClock) -> None:
    ended: list[tuple[str, float]] = []

    async def wait(name: str, until: float) -> None:
        asking, _ = ask(server)
        assert await asking.receive(until) is None
        ended.append((name, trio.current_time()))
        asking.close()

    begun = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, "long", begun + 3)
        await trio.sleep(1)
        nursery.start_soon(wait, "short", begun + 1.5)
        nursery.start_soon(wait, "long", begun + 3)
    assert [name for name, _ in ended] == ["short", "long", "long"]
    assert [at - begun for _, at in ended] == pytest.approx([1.5, 3, 3])


async def test_a_time_that_is_over_already_is_over(server: socket.socket) -> None:
    asking, _ = ask(server)
    assert await asking.receive(trio.current_time() - 1) is None
    asking.close()


async def test_what_nobody_waits_for_keeps_nobody_awake(server: socket.socket) -> None:
    asking, client = ask(server)
    for _ in range(3):
        server.sendto(reply(), client)
    with trio.fail_after(5):
        await trio.testing.wait_all_tasks_blocked(0.01)
    assert await asking.receive(float("inf")) == reply()
    asking.close()


async def test_a_closed_port_is_told_at_once(server: socket.socket) -> None:
    port = server.getsockname()[1]
    server.close()
    asking = Datagram("127.0.0.1", port, question(), NAME)
    with pytest.raises(Unreachable) as caught:
        await asking.receive(float("inf"))
    assert caught.value.reason == "connect_refused"
    asking.close()
    asking.close()  # once more does no harm


async def test_without_descriptors_it_cannot_be_asked_and_afterwards_it_can(server: socket.socket) -> None:
    first, _ = ask(server)  # so that no spare socket is left
    with no_descriptors(), pytest.raises(Unreachable, match="Too many open files"):
        Datagram("127.0.0.1", server.getsockname()[1], question(), NAME)
    first.close()
    with no_descriptors():  # one socket is there to be used again
        asking, client = ask(server)
    server.sendto(reply(), client)
    assert await asking.receive(float("inf")) == reply()
    asking.close()


# -- without a task ---------------------------------------------------------------------------------------------------


class Spawned(trio.abc.Instrument):
    def __init__(self) -> None:
        self.tasks = 0

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        self.tasks += 1


async def asked_lightly(forwarder: Forwarder, *servers: Upstream, times: int = 1) -> tuple[list[Told], int]:
    """What as many askers hear, and how many tasks that took."""
    told: list[Told] = []
    group = Group("test", servers)
    await forwarder.ask(name_wire("first.example"), 1, group=group)

    async def one() -> None:
        told.append(await forwarder.ask(NAME, 1, group=group))

    counted = Spawned()
    async with light_work() as work:
        trio.lowlevel.add_instrument(counted)
        for _ in range(times):
            work.start(one())
        await work.wait_done()
        trio.lowlevel.remove_instrument(counted)
    return told, counted.tasks


async def test_the_usual_question_needs_no_task_and_equal_ones_are_one() -> None:
    counted = Counted(GOOD)
    async with udp_server(counted) as server:
        told, tasks = await asked_lightly(Forwarder(Ways(dial=plain_dial())), server, times=5)
    assert tasks == 0
    assert len(told) == 5 and all(each.reply.counts[0] == 1 for each in told)
    assert len(counted.queries) == 2, "the first name, and this one once"


async def test_where_the_first_server_is_silent_it_becomes_one() -> None:
    hole = Counted(lambda query: None if b"\3www" in query.lower() else GOOD(query))
    async with udp_server(hole) as dead, udp_server(GOOD) as good:
        told, tasks = await asked_lightly(Forwarder(Ways(dial=plain_dial())), dead, good, times=2)
    assert tasks > 0
    assert [each.server for each in told] == [str(good)] * 2


async def test_a_black_hole_alone_costs_those_who_asked_their_answer_and_nobody_else() -> None:
    forwarder = Forwarder(Ways(dial=plain_dial()), timeout=0.2)
    heard: list[str] = []

    async def one(server: Upstream) -> None:
        try:
            heard.append((await forwarder.ask(NAME, 1, group=Group("test", (server,)))).server)
        except Unreachable:
            heard.append("nobody")

    async with udp_server(silent) as dead, udp_server(GOOD) as good, light_work() as work:
        work.start(one(dead))
        work.start(one(good))
    assert heard == [str(good), "nobody"]
