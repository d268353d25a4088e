"""Descriptor numbers are used anew: what happened to the old owner of one must never reach the new one."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing

from tests.cyfs_gateway.io.inprocess import until
from tunnels.io.reactor import READABLE, Reactor


@pytest.fixture
async def reactor(nursery: trio.Nursery) -> AsyncIterator[Reactor]:
    made = Reactor()
    await nursery.start(made.run)
    yield made
    nursery.cancel_scope.cancel()


async def test_a_batch_holds_nothing_for_who_took_over_a_number_in_it(reactor: Reactor) -> None:
    old = [socket.socketpair() for _ in range(2)]
    fresh: list[socket.socket] = []
    wrong: list[int] = []

    def take_over(_events: int) -> None:
        """Whichever of the two old ones is asked first ends the other, whose number a new connection gets."""
        if fresh:
            return
        for ours, _ in old:
            number = ours.fileno()
            reactor.closing(number)
            ours.close()
        fresh.extend(end for _ in range(2) for end in socket.socketpair())
        for end in fresh:
            reactor.watch(end.fileno(), READABLE, wrong.append)

    numbers = {ours.fileno() for ours, _ in old}
    for ours, theirs in old:
        reactor.watch(ours.fileno(), READABLE, take_over)
        theirs.close()
    await until(lambda: fresh)
    await trio.testing.wait_all_tasks_blocked()
    assert numbers & {end.fileno() for end in fresh}
    assert not wrong
    for end in fresh:
        reactor.closing(end.fileno())
        end.close()


async def test_a_dead_socket_that_a_child_still_holds_says_nothing(reactor: Reactor) -> None:
    ours, theirs = socket.socketpair()
    fresh, peer = socket.socketpair()
    number = ours.fileno()
    reactor.watch(number, READABLE, lambda _events: None)
    in_the_child = os.dup(number)  # as between fork and exec
    with reactor.forking():
        reactor.closing(number)
    ours.close()
    os.dup2(fresh.fileno(), number)
    heard: list[int] = []
    reactor.watch(number, READABLE, heard.append)
    theirs.close()
    await trio.testing.wait_all_tasks_blocked()
    assert not heard
    reactor.closing(number)
    os.close(number)
    os.close(in_the_child)
    fresh.close()
    peer.close()
