"""The reactor on real descriptors: nobody starves, nobody else suffers, and deadlines fall due once."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import AsyncIterator, Callable

import pytest
import trio
import trio.testing

from tunnels.io.reactor import READABLE, WRITABLE, Reactor


@pytest.fixture
async def reactor(nursery: trio.Nursery) -> AsyncIterator[Reactor]:
    made = Reactor()
    await nursery.start(made.run)
    yield made
    nursery.cancel_scope.cancel()


async def until(holds: Callable[[], object]) -> None:
    with trio.fail_after(60):
        while not holds():  # noqa: ASYNC110 - what is waited for has no event to give
            await trio.sleep(0.002)


def pair() -> tuple[socket.socket, socket.socket]:
    a, b = socket.socketpair()
    a.setblocking(False)
    b.setblocking(False)
    return a, b


class Item:
    """Something with a deadline that notes when it fell due."""

    def __init__(self, deadline: float, due: list[Item], then: Callable[[], None] = lambda: None) -> None:
        self.deadline = deadline
        self.slot = 0
        self.expired_at: list[float] = []
        self._due = due
        self._then = then

    def expire(self) -> None:
        self._due.append(self)
        self._then()


# Descriptors


async def test_a_flow_that_never_drains_starves_neither_another_flow_nor_another_task(reactor: Reactor) -> None:
    busy, feed = pair()
    feed.send(b"never read")
    quiet, voice = pair()
    turns, heard, ticks = [0], [], [0]

    def on_busy(_: int) -> None:
        turns[0] += 1

    def on_quiet(_: int) -> None:
        heard.append(quiet.recv(100))

    async def tick() -> None:
        while True:
            await trio.lowlevel.checkpoint()
            ticks[0] += 1

    with busy, feed, quiet, voice:
        reactor.watch(busy.fileno(), READABLE, on_busy)
        reactor.watch(quiet.fileno(), READABLE, on_quiet)
        await until(lambda: turns[0] > 1000)
        async with trio.open_nursery() as others:
            others.start_soon(tick)
            for said in (b"one", b"two", b"three"):
                voice.send(said)
                before = len(heard)
                await until(lambda: len(heard) > before)  # noqa: B023 - awaited in this very round
            await until(lambda: ticks[0] > 20)
            others.cancel_scope.cancel()
        assert heard == [b"one", b"two", b"three"]
        reactor.forget(busy.fileno())
        reactor.forget(quiet.fileno())


async def test_a_batch_may_close_what_it_also_reports(reactor: Reactor) -> None:
    """The first of two ready handlers closes the other's descriptor: the second is not called for it."""
    (a, feed_a), (b, feed_b) = pair(), pair()
    called: list[str] = []

    def closing(name: str, other: socket.socket) -> Callable[[int], None]:
        def handler(_: int) -> None:
            called.append(name)
            reactor.closing(other.fileno())
            other.close()

        return handler

    with feed_a, feed_b:
        reactor.watch(a.fileno(), READABLE, closing("a", b))
        reactor.watch(b.fileno(), READABLE, closing("b", a))
        feed_a.send(b"x")
        feed_b.send(b"x")
        await until(lambda: called)
        survivor = a if called[0] == "a" else b
        reactor.forget(survivor.fileno())
        survivor.close()
        assert called in (["a"] * len(called), ["b"] * len(called))


async def test_a_descriptor_used_again_in_the_same_batch_gets_a_hint_at_worst(reactor: Reactor) -> None:
    (a, feed_a), (b, feed_b) = pair(), pair()
    fresh_pairs: list[tuple[socket.socket, socket.socket]] = []
    heard: list[bytes] = []
    hints: list[int] = []

    def swap(other: socket.socket, own: socket.socket) -> Callable[[int], None]:
        def handler(_: int) -> None:
            own.recv(100)
            if fresh_pairs:
                return
            fresh, far = pair()
            number = other.fileno()
            reactor.closing(number)
            other.close()
            os.dup2(fresh.fileno(), number)
            fresh.close()
            again = socket.socket(fileno=number)
            fresh_pairs.append((again, far))

            def on_fresh(_: int) -> None:
                hints.append(1)
                try:
                    heard.append(again.recv(100))
                except BlockingIOError:
                    return

            reactor.watch(number, READABLE, on_fresh)

        return handler

    with feed_a, feed_b:
        reactor.watch(a.fileno(), READABLE, swap(b, a))
        reactor.watch(b.fileno(), READABLE, swap(a, b))
        feed_a.send(b"x")
        feed_b.send(b"x")
        await until(lambda: fresh_pairs)
        again, far = fresh_pairs[0]
        far.send(b"for the new owner")
        await until(lambda: heard)
        assert heard == [b"for the new owner"]
        reactor.forget(again.fileno())
        for sock in (again, far, a, b):
            if sock.fileno() >= 0:
                reactor.forget(sock.fileno())
                sock.close()


async def test_a_failing_handler_loses_its_own_descriptor_only(
    reactor: Reactor, caplog: pytest.LogCaptureFixture
) -> None:
    (bad, feed_bad), (good, feed_good) = pair(), pair()
    calls = [0]
    heard: list[bytes] = []

    def on_bad(_: int) -> None:
        calls[0] += 1
        raise RuntimeError("a bug of ours")

    with bad, feed_bad, good, feed_good, caplog.at_level(logging.ERROR, "cyfs.reactor"):
        reactor.watch(bad.fileno(), READABLE, on_bad)
        reactor.watch(good.fileno(), READABLE, lambda _: heard.append(good.recv(100)))
        feed_bad.send(b"x")
        await until(lambda: calls[0])
        feed_good.send(b"still here")
        await until(lambda: heard)
        assert calls == [1]
        assert "a bug of ours" in caplog.text
        reactor.watch(bad.fileno(), READABLE, lambda _: heard.append(bad.recv(100)))
        await until(lambda: len(heard) == 2)
        reactor.forget(bad.fileno())
        reactor.forget(good.fileno())


async def test_a_handler_that_fails_when_prompted_is_forgotten_too(
    reactor: Reactor, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = pair()
    calls = [0]

    def on_bad(_: int) -> None:
        calls[0] += 1
        raise RuntimeError("a bug of ours")

    with a, b, caplog.at_level(logging.ERROR, "cyfs.reactor"):
        reactor.watch(a.fileno(), READABLE, on_bad)
        reactor.prompt(a.fileno(), READABLE)
        reactor.prompt(a.fileno(), READABLE)
        assert calls == [1]
        assert "a bug of ours" in caplog.text
        reactor.watch(a.fileno(), READABLE, lambda _: None)
        reactor.forget(a.fileno())


async def test_a_handler_that_closes_its_descriptor_and_then_fails_stops_nobody(reactor: Reactor) -> None:
    (bad, feed_bad), (good, feed_good) = pair(), pair()
    heard: list[bytes] = []

    def on_bad(_: int) -> None:
        bad.close()
        raise RuntimeError("a bug of ours")

    with feed_bad, good, feed_good:
        reactor.watch(bad.fileno(), READABLE, on_bad)
        reactor.watch(good.fileno(), READABLE, lambda _: heard.append(good.recv(100)))
        feed_bad.send(b"x")
        await until(lambda: bad.fileno() < 0)
        feed_good.send(b"still here")
        await until(lambda: heard)
        reactor.forget(good.fileno())


async def test_interest_can_change_and_handlers_too(reactor: Reactor) -> None:
    a, b = pair()
    seen: list[tuple[str, int]] = []
    with a, b:
        reactor.watch(a.fileno(), 0, lambda events: seen.append(("first", events)))
        b.send(b"x")
        await trio.testing.wait_all_tasks_blocked()
        assert seen == []
        reactor.rewatch(a.fileno(), WRITABLE)
        await until(lambda: seen)
        assert seen[-1] == ("first", WRITABLE)
        reactor.rehandle(a.fileno(), lambda events: seen.append(("second", events)))
        await until(lambda: seen[-1] == ("second", WRITABLE))
        reactor.forget(a.fileno())
        reactor.forget(a.fileno())
        a.recv(1)


async def test_soon_runs_in_the_next_batch_and_a_failing_one_stops_nobody(reactor: Reactor) -> None:
    ran: list[str] = []

    def again() -> None:
        ran.append("first")
        reactor.soon(lambda: ran.append("from within"))

    def fails() -> None:
        raise RuntimeError("a bug of ours")

    reactor.soon(fails)
    reactor.soon(again)
    assert ran == []
    await until(lambda: len(ran) == 2)
    assert ran == ["first", "from within"]


async def test_soon_that_asks_for_itself_for_ever_leaves_time_for_others(reactor: Reactor) -> None:
    rounds = [0]

    def round_again() -> None:
        rounds[0] += 1
        if rounds[0] < 5000:
            reactor.soon(round_again)

    reactor.soon(round_again)
    mine = 0
    while rounds[0] < 5000:
        await trio.lowlevel.checkpoint()
        mine += 1
    assert mine > 100


# Deadlines


async def test_deadlines_fall_due_in_order_and_once(reactor: Reactor) -> None:
    due: list[Item] = []
    late = Item(reactor.now + 0.6, due)
    early = Item(reactor.now - 1, due)
    reactor.schedule(late)
    reactor.schedule(early)
    await until(lambda: len(due) == 2)
    assert due == [early, late]
    assert [late.slot, early.slot] == [0, 0]
    reactor.unschedule(late)


async def test_a_deadline_pushed_forward_by_assignment_waits(reactor: Reactor) -> None:
    due: list[Item] = []
    kept, other = Item(reactor.now, due), Item(reactor.now, due)
    reactor.schedule(kept)
    reactor.schedule(other)
    kept.deadline = reactor.now + 3600
    await until(lambda: other in due)
    assert due == [other]
    assert kept.slot > 0
    reactor.unschedule(kept)


async def test_a_deadline_pulled_forward_needs_reschedule(reactor: Reactor) -> None:
    due: list[Item] = []
    item = Item(reactor.now + 3600, due)
    reactor.schedule(item)
    item.deadline = reactor.now
    reactor.reschedule(item)
    await until(lambda: due == [item])


async def test_what_another_one_unscheduled_in_the_same_moment_does_not_fall_due(reactor: Reactor) -> None:
    """One that ends takes the other out of the wheel; both were due at once."""
    due: list[Item] = []
    items: list[Item] = []

    def take_the_others_out() -> None:
        for item in items:
            reactor.unschedule(item)

    items += [Item(reactor.now, due, take_the_others_out) for _ in range(8)]
    last = Item(reactor.now + 0.3, due)
    for item in (*items, last):
        reactor.schedule(item)
    await until(lambda: last in due)
    assert len(due) == 2


async def test_a_failing_deadline_stops_nobody(reactor: Reactor) -> None:
    due: list[Item] = []

    def fails() -> None:
        raise RuntimeError("a bug of ours")

    items = [Item(reactor.now, due, fails), Item(reactor.now, due), Item(reactor.now + 0.3, due)]
    for item in items:
        reactor.schedule(item)
    await until(lambda: len(due) == 3)


async def test_ten_thousand_deadlines(reactor: Reactor) -> None:
    due: list[Item] = []
    items = [Item(reactor.now + number % 8 / 10, due) for number in range(10_000)]
    for item in items:
        reactor.schedule(item)
    for item in items[::3]:
        reactor.unschedule(item)
    for item in items[1::3]:
        item.deadline = reactor.now + 3600
    await until(lambda: len(due) >= len(items[2::3]))
    last = Item(reactor.now + 0.5, due)
    reactor.schedule(last)
    await until(lambda: last in due)
    assert len(due) == len(set(due)) == len(items[2::3]) + 1
    assert not set(due) & {*items[::3], *items[1::3]}
    for item in items[1::3]:
        reactor.unschedule(item)
