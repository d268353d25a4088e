"""A relay that is held reads nothing more, loses nothing, and goes on when it is let go."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing
from relaypairs import join

from tunnels.io.reactor import Reactor

KINDS = pytest.mark.parametrize(
    "kinds", [("raw", "raw"), ("tls", "raw"), ("raw", "tls"), ("lending", "raw")], ids="-".join
)


@pytest.fixture
async def reactor(nursery: trio.Nursery) -> AsyncIterator[Reactor]:
    made = Reactor()
    await nursery.start(made.run)
    yield made
    nursery.cancel_scope.cancel()


@KINDS
@pytest.mark.parametrize("before", [1, 100, 100_000])
async def test_what_comes_meanwhile_waits(
    reactor: Reactor, nursery: trio.Nursery, kinds: tuple[str, str], before: int
) -> None:
    """``before``: messages of one octet make a relay chat, where it looks at arrivals alone."""
    joined = await join(reactor, kinds)
    a, b, relay = joined.a, joined.b, joined.relay
    for message in (bytes([1]) * before,) * 3:
        nursery.start_soon(a.send_all, message)
        heard = 0
        while heard < len(message):
            heard += len(await b.receive_some(len(message) - heard))
    carried = relay.up, relay.down
    relay.hold()
    relay.hold()
    nursery.start_soon(a.send_all, b"up" * 1000)
    nursery.start_soon(b.send_all, b"down" * 1000)
    await trio.testing.wait_all_tasks_blocked(0.05)
    assert (relay.up, relay.down) == carried
    assert not relay.closed
    relay.release()
    with trio.fail_after(60):
        got = b""
        while len(got) < 2000:
            got += await b.receive_some(4096)
        assert got == b"up" * 1000
        got = b""
        while len(got) < 4000:
            got += await a.receive_some(4096)
        assert got == b"down" * 1000
    relay.close()


@KINDS
async def test_a_held_one_can_be_closed_and_then_nothing_is_to_be_said(
    reactor: Reactor, kinds: tuple[str, str]
) -> None:
    joined = await join(reactor, kinds)
    joined.relay.hold()
    joined.relay.close()
    joined.relay.release()
    joined.relay.hold()
    assert joined.relay.closed
