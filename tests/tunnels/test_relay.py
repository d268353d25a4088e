"""A relay as its two far ends see it: every byte, in order, both ways, and an end for an end."""

from __future__ import annotations

import gc
import os
import socket
import struct
import weakref
from collections.abc import AsyncIterator, Callable

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from relaypairs import Joined, join, tcp_pair

from tunnels.io import relay as relay_module
from tunnels.io.reactor import Reactor
from tunnels.io.relay import Relay
from tunnels.io.stream import EndpointStream
from tunnels.io.waiting import Preloaded, TcpEndpoint

PAIRS = [("raw", "raw"), ("tls", "raw"), ("raw", "tls"), ("tls", "tls"), ("lending", "raw"), ("raw", "lending")]
KINDS = pytest.mark.parametrize("kinds", PAIRS, ids="-".join)
BLOCK = bytes(range(256)) * 1024
"""A quarter of a megabyte."""


@pytest.fixture
async def reactor(nursery: trio.Nursery) -> AsyncIterator[Reactor]:
    made = Reactor()
    await nursery.start(made.run)
    before = relay_module._Debts.total
    yield made
    nursery.cancel_scope.cancel()
    assert relay_module._Debts.total == before


async def until(holds: Callable[[], object]) -> None:
    with trio.fail_after(60):
        while not holds():  # noqa: ASYNC110 - what is waited for has no event to give
            await trio.sleep(0.002)


async def exactly(stream: EndpointStream, count: int) -> bytes:
    got = bytearray()
    with trio.fail_after(60):
        while len(got) < count:
            chunk = await stream.receive_some(min(65536, count - len(got)))
            assert chunk, f"the end came after {len(got)} of {count} bytes"
            got += chunk
    return bytes(got)


async def the_rest(stream: EndpointStream) -> bytes:
    got = bytearray()
    with trio.fail_after(60):
        while chunk := await stream.receive_some():
            got += chunk
    return bytes(got)


@KINDS
async def test_what_one_says_the_other_hears(reactor: Reactor, kinds: tuple[str, str]) -> None:
    joined = await join(reactor, kinds)
    for said in (b"x", b"hello", BLOCK):
        for here, there in ((joined.a, joined.b), (joined.b, joined.a)):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(here.send_all, said)
                assert await exactly(there, len(said)) == said
    assert joined.relay.up == joined.relay.down == 1 + 5 + len(BLOCK)
    await joined.close()
    assert joined.closed == ["the test is over"]


@KINDS
@pytest.mark.parametrize("first", ["a", "b"])
async def test_half_closes_are_passed_on(reactor: Reactor, kinds: tuple[str, str], first: str) -> None:
    joined = await join(reactor, kinds)
    one, two = (joined.a, joined.b) if first == "a" else (joined.b, joined.a)
    await one.send_all(b"last words")
    await one.send_eof()
    assert await the_rest(two) == b"last words"
    await two.send_all(b"still talking")
    assert await exactly(one, 13) == b"still talking"
    assert not joined.relay.closed
    await two.send_all(b", and done")
    await two.send_eof()
    assert await the_rest(one) == b", and done"
    await until(lambda: joined.closed)
    assert joined.closed == [""]
    carried = (joined.relay.up, joined.relay.down)
    assert carried == ((10, 23) if first == "a" else (23, 10))
    await joined.close()
    assert joined.closed == [""]


@KINDS
async def test_both_may_end_at_the_same_moment(reactor: Reactor, kinds: tuple[str, str]) -> None:
    """An end that is found while our own is being said must not be lost."""

    async def speak(stream: EndpointStream) -> None:
        await stream.send_all(BLOCK)
        await stream.send_eof()

    async def hear(stream: EndpointStream) -> None:
        assert await the_rest(stream) == BLOCK

    for _ in range(20):
        joined = await join(reactor, kinds)
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for stream in (joined.a, joined.b):
                    nursery.start_soon(speak, stream)
                    nursery.start_soon(hear, stream)
        await until(lambda: joined.closed)  # noqa: B023 - awaited in this very round
        await joined.close()


@KINDS
async def test_early_and_late_bytes_go_first(reactor: Reactor, kinds: tuple[str, str]) -> None:
    joined = await join(reactor, kinds, early=b"sniffed ", late=b"banner ")
    await joined.a.send_all(b"up")
    await joined.b.send_all(b"down")
    assert await exactly(joined.b, 10) == b"sniffed up"
    assert await exactly(joined.a, 11) == b"banner down"
    assert (joined.relay.up, joined.relay.down) == (10, 11)
    await joined.close()


async def test_early_bytes_that_no_buffer_takes_whole_arrive_whole(reactor: Reactor) -> None:
    early = os.urandom(8 << 20)
    joined = await join(reactor, early=early)
    assert relay_module._Debts.total > 0
    await joined.a.send_all(b"the end")
    assert await exactly(joined.b, len(early) + 7) == early + b"the end"
    await joined.close()


@KINDS
async def test_bulk_both_ways_with_slow_readers_arrives_whole_and_holds_little(
    reactor: Reactor, kinds: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 MiB each way; readers pause, so each direction falls into debt again and again."""
    total = 256 * len(BLOCK)
    joined = await join(reactor, kinds)
    most = [0]
    pay = Relay._owe

    def owe(self: Relay, way: relay_module._Way, rest: memoryview) -> None:
        pay(self, way, rest)
        most[0] = max(most[0], relay_module._Debts.total)

    monkeypatch.setattr(Relay, "_owe", owe)

    async def speak(stream: EndpointStream) -> None:
        for _ in range(256):
            await stream.send_all(BLOCK)
        await stream.send_eof()

    async def hear(stream: EndpointStream) -> None:
        got, whole = 0, BLOCK * 3
        while chunk := await stream.receive_some(len(BLOCK)):
            at = got % len(BLOCK)
            assert chunk == whole[at : at + len(chunk)]
            got += len(chunk)
            if got % 7 == 0:
                for _ in range(20):
                    await trio.lowlevel.checkpoint()
        assert got == total

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for stream in (joined.a, joined.b):
                nursery.start_soon(speak, stream)
                nursery.start_soon(hear, stream)
    await until(lambda: joined.closed)
    assert joined.closed == [""]
    assert joined.relay.up == joined.relay.down == total
    assert 0 < most[0] <= 2 * relay_module._READ_MOST
    await joined.close()


@KINDS
async def test_a_reader_that_stops_stops_the_sender(reactor: Reactor, kinds: tuple[str, str]) -> None:
    joined = await join(reactor, kinds)
    sent = [0]

    async def speak() -> None:
        while True:
            await joined.a.send_all(BLOCK)
            sent[0] += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(speak)
        await until(lambda: relay_module._Debts.total or joined.relay._unsent(joined.relay._up))
        still = -1
        while still != sent[0]:
            still = sent[0]
            await trio.testing.wait_all_tasks_blocked(0.05)
        assert sent[0] * len(BLOCK) < 64 << 20
        # The other direction is not held up by it.
        await joined.b.send_all(b"hello")
        assert await exactly(joined.a, 5) == b"hello"
        nursery.cancel_scope.cancel()
    joined.relay.close("closed by request")
    assert joined.closed == ["closed by request"]
    assert relay_module._Debts.total == 0
    await joined.close()


async def test_a_paid_debt_goes_on_though_the_other_way_never_rests(reactor: Reactor) -> None:
    """b's debt to a is paid while a keeps sending: then b must be read again, not only when a falls silent."""
    joined = await join(reactor)
    total = 32 * len(BLOCK)
    heard = [0]

    async def speak(stream: EndpointStream) -> None:
        while True:
            await stream.send_all(BLOCK)

    async def say_once(stream: EndpointStream) -> None:
        for _ in range(32):
            await stream.send_all(BLOCK)

    async def hear(stream: EndpointStream) -> None:
        while True:
            await stream.receive_some(len(BLOCK))
            heard[0] += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(say_once, joined.b)
        await until(lambda: relay_module._Debts.total)
        nursery.start_soon(hear, joined.b)
        nursery.start_soon(speak, joined.a)
        await until(lambda: heard[0] > 20)
        assert len(await exactly(joined.a, total)) == total
        nursery.cancel_scope.cancel()
    await joined.close()


async def test_the_handler_settles_when_a_debt_was_paid_and_more_came_in(reactor: Reactor) -> None:
    """The same by hand: one event that says both "can take more" and "has more" must leave reading b switched on."""
    joined = await join(reactor)
    relay = joined.relay
    relay._down.debt = b"owed"
    relay_module._Debts.total += 4
    relay._settle()
    assert relay._b_interest == 0
    await joined.a.send_all(b"more")
    relay._on_a(relay_module.READABLE | relay_module.WRITABLE)
    assert relay._b_interest == relay_module.READABLE
    assert relay._a_interest == relay_module.READABLE
    assert await exactly(joined.a, 4) == b"owed"
    assert await exactly(joined.b, 4) == b"more"
    await joined.close()


def reset(sock: socket.SocketType) -> None:
    """Close it the hard way: the peer gets a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@pytest.mark.parametrize("who", ["a", "b"])
async def test_a_reset_is_passed_on_as_a_reset(reactor: Reactor, who: str) -> None:
    joined = await join(reactor)
    cut, other = (joined.a_sock, joined.b) if who == "a" else (joined.b_sock, joined.a)
    await other.send_all(b"x")
    reset(cut)
    with trio.fail_after(10), pytest.raises(trio.BrokenResourceError, match="reset"):
        while await other.receive_some():
            pass
    assert len(joined.closed) == 1
    assert joined.closed != [""]
    await joined.close()


@pytest.mark.parametrize("kinds", [("tls", "raw"), ("raw", "tls"), ("tls", "tls")], ids="-".join)
async def test_a_stream_cut_in_tls_never_looks_finished(reactor: Reactor, kinds: tuple[str, str]) -> None:
    joined = await join(reactor, kinds)
    await joined.a.send_all(b"half of")
    assert await exactly(joined.b, 7) == b"half of"
    joined.a_sock.close()
    with trio.fail_after(60):
        if kinds == ("raw", "tls"):
            assert await joined.b.receive_some() == b""
        else:
            with pytest.raises(trio.BrokenResourceError):
                await joined.b.receive_some()
    await joined.close()


async def test_silence_ends_a_flow_and_traffic_does_not(reactor: Reactor) -> None:
    silent, busy = await join(reactor, idle=0.3), await join(reactor, idle=0.8)
    while not silent.closed:
        await busy.a.send_all(b".")
        await exactly(busy.b, 1)
        await trio.sleep(0.05)
    assert silent.closed == ["idle"]
    for stream in (silent.a, silent.b):
        await breaks_off(stream)
    await until(lambda: busy.closed)
    assert busy.closed == ["idle"]
    await silent.close()
    await busy.close()


async def breaks_off(stream: EndpointStream) -> None:
    """There is no end that could be taken for the last word."""
    with trio.fail_after(10), pytest.raises(trio.BrokenResourceError):
        await stream.receive_some()


@KINDS
@pytest.mark.parametrize("finished", ["", "a"])
async def test_a_flow_that_is_cut_looks_complete_to_neither_side(
    reactor: Reactor, kinds: tuple[str, str], finished: str
) -> None:
    joined = await join(reactor, kinds)
    await joined.a.send_all(b"half of")
    await joined.b.send_all(b"a part of")
    assert await exactly(joined.b, 7) == b"half of"
    assert await exactly(joined.a, 9) == b"a part of"
    if finished:
        await joined.a.send_eof()
        assert await the_rest(joined.b) == b""
    joined.relay.close("closed by request")
    await breaks_off(joined.a)
    if not finished:
        await breaks_off(joined.b)
    await joined.close()


async def test_what_both_have_ended_is_no_cut(reactor: Reactor) -> None:
    joined = await join(reactor)
    for here, there in ((joined.a, joined.b), (joined.b, joined.a)):
        await here.send_all(b"all of it")
        await here.send_eof()
        assert await the_rest(there) == b"all of it"
    await until(lambda: joined.closed)
    for sock in (joined.a_sock, joined.b_sock):
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        assert sock.recv(1) == b""
    await joined.close()


@pytest.mark.parametrize("who", ["a", "b"])
async def test_an_end_that_can_be_broken_off_is(reactor: Reactor, who: str) -> None:
    """...before it is closed, and only when the flow was cut."""
    said: list[str] = []

    class Wrapped(Preloaded):
        def break_off(self) -> None:
            said.append("broken off")

        def close(self) -> None:
            said.append("closed")
            super().close()

    for why, expected in (("cut", ["broken off", "closed"]), ("", ["closed"])):
        (near_a, far_a), (near_b, far_b) = tcp_pair(), tcp_pair()
        ends = (Wrapped(near_a, b""), near_b) if who == "a" else (near_a, Wrapped(near_b, b""))
        relay = Relay(reactor, *ends, idle=60.0, on_close=lambda _, why: None)
        relay.close(why)
        assert said == expected
        said.clear()
        far_a.close()
        far_b.close()


@KINDS
async def test_close_in_mid_flow_pays_nothing_and_owes_nothing(reactor: Reactor, kinds: tuple[str, str]) -> None:
    joined = await join(reactor, kinds)
    async with trio.open_nursery() as nursery:

        async def speak() -> None:
            with pytest.raises(trio.BrokenResourceError):
                while True:
                    await joined.a.send_all(BLOCK)

        nursery.start_soon(speak)
        await until(lambda: relay_module._Debts.total or joined.relay._unsent(joined.relay._up))
        joined.relay.close("closed by request")
        joined.relay.close("once more")
    assert joined.closed == ["closed by request"]
    assert relay_module._Debts.total == 0
    await joined.close()


async def test_a_hang_up_in_debt_neither_spins_nor_loses_the_debt(
    reactor: Reactor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """b has said all and heard the end, so its socket hangs up for good while a reads nothing of what is owed to it."""
    calls = [0]
    turn = Relay._turn

    def counted(self: Relay, events: int, out: relay_module._Way, back: relay_module._Way) -> None:
        calls[0] += 1
        turn(self, events, out, back)

    monkeypatch.setattr(Relay, "_turn", counted)
    joined = await join(reactor)
    total = 32 * len(BLOCK)
    await joined.a.send_eof()

    async def speak() -> None:
        for _ in range(32):
            await joined.b.send_all(BLOCK)
        await joined.b.send_eof()

    assert await joined.b.receive_some() == b""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(speak)
        await until(lambda: relay_module._Debts.total)
        before = calls[0]
        await trio.testing.wait_all_tasks_blocked(0.2)
        assert calls[0] - before < 50
        got = await exactly(joined.a, total)
    assert got == BLOCK * 32
    assert await the_rest(joined.a) == b""
    await until(lambda: joined.closed)
    assert joined.closed == [""]
    await joined.close()


async def test_a_reset_while_in_debt_ends_the_flow(reactor: Reactor) -> None:
    joined = await join(reactor)
    async with trio.open_nursery() as nursery:

        async def speak() -> None:
            with pytest.raises((trio.BrokenResourceError, trio.ClosedResourceError)):
                while True:
                    await joined.a.send_all(BLOCK)

        nursery.start_soon(speak)
        await until(lambda: relay_module._Debts.total)
        await trio.testing.wait_all_tasks_blocked(0.05)
        trio.lowlevel.notify_closing(joined.a_sock)
        reset(joined.a_sock)
        await until(lambda: joined.closed)
    assert relay_module._Debts.total == 0
    await joined.close()


async def test_when_all_owe_too_much_every_read_is_the_least(reactor: Reactor) -> None:
    joined = await join(reactor)
    for _ in range(20):
        await joined.a.send_all(BLOCK)
        await exactly(joined.b, len(BLOCK))
        if joined.relay._up.size == relay_module._READ_MOST:
            break
    owed = relay_module._DEBT_LIMIT
    relay_module._change_debts(owed)
    try:
        async with trio.open_nursery() as nursery:

            async def speak() -> None:
                while True:
                    await joined.a.send_all(BLOCK)

            nursery.start_soon(speak)
            await until(lambda: relay_module._Debts.total > owed)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert relay_module._Debts.total - owed <= relay_module._READ_LEAST
            nursery.cancel_scope.cancel()
    finally:
        relay_module._change_debts(-owed)
    await joined.close()
    assert {len(view) for view in relay_module._views.values()} > {relay_module._READ_LEAST}


async def chat(joined: Joined) -> None:
    """Two small messages each way: the second starts a chat."""
    for _ in range(2):
        for here, there in ((joined.a, joined.b), (joined.b, joined.a)):
            await here.send_all(b"hello")
            assert await exactly(there, 5) == b"hello"
    relay = joined.relay
    await until(lambda: relay._a_interest == relay._b_interest == relay_module._CHATTY)


@pytest.mark.parametrize("more", [-1, 0, 1, relay_module._READ_SMALL, len(BLOCK)])
async def test_a_longer_message_ends_a_chat_for_good_and_arrives_whole(reactor: Reactor, more: int) -> None:
    joined = await join(reactor)
    await chat(joined)
    said = BLOCK[:97] + bytes(relay_module._READ_SMALL + more - 97)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(joined.a.send_all, said)
        assert await exactly(joined.b, len(said)) == said
    for _ in range(3):
        await joined.a.send_all(b"short")
        assert await exactly(joined.b, 5) == b"short"
    relay = joined.relay
    assert relay._a_interest == (relay_module._CHATTY if more < 0 else relay_module.READABLE)
    assert relay._b_interest == relay_module._CHATTY
    assert relay.up == 10 + len(said) + 15
    await joined.close()


async def test_a_long_message_in_a_chat_goes_out_in_one_piece(reactor: Reactor) -> None:
    """Nobody splits a TLS greeting because small talk went before."""
    sent: list[int] = []
    near_a, far_a = tcp_pair()
    near_b, far_b = tcp_pair()

    class Noting(TcpEndpoint):
        def send(self, data: bytes | memoryview, flags: int = 0) -> int:  # type: ignore[override]
            sent.append(memoryview(data).nbytes)
            return super().send(data, flags)

    noting = Noting(near_b.family, near_b.type, near_b.proto, near_b.detach())
    relay = Relay(reactor, near_a, noting, idle=60.0, on_close=lambda _, why: None)
    joined = Joined(relay, EndpointStream(far_a), EndpointStream(far_b), far_a, far_b)
    await chat(joined)
    await joined.a.send_all(BLOCK[:3000])
    assert await exactly(joined.b, 3000) == BLOCK[:3000]
    assert sent == [5, 5, 3000]
    await joined.close()


async def test_urgent_data_in_a_chat_holds_up_nothing_behind_it(reactor: Reactor) -> None:
    """A read stops short where urgent data was, and no arrival follows to tell of the rest."""
    joined = await join(reactor)
    await chat(joined)
    joined.a_sock.send(b"before")
    joined.a_sock.send(b"!", socket.MSG_OOB)
    joined.a_sock.send(b"behind")
    assert await exactly(joined.b, 12) == b"beforebehind"
    await chat_goes_on(joined)
    await joined.close()


async def chat_goes_on(joined: Joined) -> None:
    for here, there in ((joined.a, joined.b), (joined.b, joined.a)):
        for _ in range(3):
            await here.send_all(b"on and on")
            assert await exactly(there, 9) == b"on and on"


@pytest.mark.parametrize("first", ["a", "b"])
async def test_a_chat_ends_with_last_words_and_an_end(reactor: Reactor, first: str) -> None:
    joined = await join(reactor)
    await chat(joined)
    one, two = (joined.a, joined.b) if first == "a" else (joined.b, joined.a)
    await one.send_all(b"last words")
    await one.send_eof()
    assert await the_rest(two) == b"last words"
    for _ in range(3):
        await two.send_all(b"still talking")
        assert await exactly(one, 13) == b"still talking"
    await two.send_eof()
    assert await the_rest(one) == b""
    await until(lambda: joined.closed)
    assert joined.closed == [""]
    await joined.close()


async def test_a_reset_in_a_chat_is_passed_on_as_a_reset(reactor: Reactor) -> None:
    joined = await join(reactor)
    await chat(joined)
    reset(joined.a_sock)
    with trio.fail_after(10), pytest.raises(trio.BrokenResourceError, match="reset"):
        await joined.b.receive_some()
    assert joined.closed not in ([], [""])
    await joined.close()


async def test_a_chat_that_nobody_hears_is_held_back_and_lost_by_nobody(reactor: Reactor) -> None:
    """Small messages until the receiver takes no more; then the other side, which had to stop, goes on."""
    joined = await join(reactor)
    joined.relay._up.sink.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # type: ignore[union-attr]
    await chat(joined)
    said = [0]

    async def speak() -> None:
        while not relay_module._Debts.total:
            await joined.a.send_all(said[0].to_bytes(8, "big") * 50)
            said[0] += 1
            await trio.testing.wait_all_tasks_blocked()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(speak)
        await until(lambda: relay_module._Debts.total)
    await joined.b.send_all(b"the other way is open")
    assert await exactly(joined.a, 21) == b"the other way is open"
    heard = await exactly(joined.b, said[0] * 400)
    assert heard == b"".join(number.to_bytes(8, "big") * 50 for number in range(said[0]))
    await until(lambda: not relay_module._Debts.total)
    await chat_goes_on(joined)
    await joined.close()


async def test_no_chat_starts_while_the_source_is_owed_something(reactor: Reactor) -> None:
    """A chat is not told when its source can take more, so the debt would stay unpaid."""
    joined = await join(reactor)
    relay = joined.relay
    total = 32 * len(BLOCK)

    async def speak() -> None:
        for _ in range(32):
            await joined.b.send_all(BLOCK)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(speak)
        await until(lambda: relay._down.debt)
        for _ in range(3):
            await joined.a.send_all(b"well?")
            assert await exactly(joined.b, 5) == b"well?"
        assert relay._a_interest == relay_module.READABLE | relay_module.WRITABLE
        assert await exactly(joined.a, total) == BLOCK * 32
    await joined.close()


async def test_a_relay_that_has_ended_is_gone_without_a_collection(reactor: Reactor) -> None:
    """A cycle in each of them would make the collector run every few hundred connections."""

    class Told:
        def closed(self, _relay: Relay, _why: str) -> None:
            pass

    told = Told()
    held = weakref.ref(told)
    (near_a, far_a), (near_b, far_b) = tcp_pair(), tcp_pair()
    relay = Relay(reactor, near_a, near_b, idle=60.0, on_close=told.closed)
    joined = Joined(relay, EndpointStream(far_a), EndpointStream(far_b), far_a, far_b)
    await joined.a.send_all(b"a single message")
    assert await exactly(joined.b, 16) == b"a single message"
    other = await join(reactor)  # whose handler is the last one that the reactor's loop still holds
    await other.a.send_all(b"x")
    assert await exactly(other.b, 1) == b"x"
    gc.disable()
    try:
        await joined.close()
        del joined, relay, told
        assert held() is None
    finally:
        gc.enable()
    await other.close()


Step = tuple[str, str, int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from("ab"),
        st.sampled_from(["send", "send", "send", "read", "end"]),
        st.sampled_from([1, 7, relay_module._READ_SMALL, 1000, 20_000, 300_000]),
    ),
    max_size=30,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kinds=st.tuples(st.sampled_from(["raw", "tls"]), st.sampled_from(["raw", "tls"])), steps=STEPS)
def test_any_conversation_arrives_intact_and_in_order(kinds: tuple[str, str], steps: list[Step]) -> None:
    trio.run(_converse, kinds, steps)


async def _converse(kinds: tuple[str, str], steps: list[Step]) -> None:
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            reactor = Reactor()
            await nursery.start(reactor.run)
            joined = await join(reactor, kinds)
            try:
                await _play(joined, steps)
            finally:
                await joined.close()
                nursery.cancel_scope.cancel()
    reactor.close()
    assert relay_module._Debts.total == 0


async def _play(joined: Joined, steps: list[Step]) -> None:
    streams = {"a": joined.a, "b": joined.b}
    said = {"a": bytearray(), "b": bytearray()}
    heard = {"a": bytearray(), "b": bytearray()}
    ended: set[str] = set()
    plans = {side: [(what, size) for who, what, size in steps if who == side] for side in "ab"}

    async def speak(side: str) -> None:
        for number, (what, size) in enumerate(plans[side]):
            if what == "send":
                data = bytes([number + 1]) * size
                said[side] += data
                await streams[side].send_all(data)
            elif what == "end":
                break
            else:
                await trio.lowlevel.checkpoint()
        ended.add(side)
        await streams[side].send_eof()

    async def hear(side: str) -> None:
        for what, size in plans[side]:
            if what == "read":
                chunk = await streams[side].receive_some(size)
                heard[side] += chunk
                if not chunk:
                    break
        while chunk := await streams[side].receive_some():
            heard[side] += chunk

    async with trio.open_nursery() as nursery:
        for side in "ab":
            nursery.start_soon(speak, side)
            nursery.start_soon(hear, side)
    assert heard == {"a": said["b"], "b": said["a"]}
    await until(lambda: joined.closed)
    assert joined.closed == [""]
    assert (joined.relay.up, joined.relay.down) == (len(said["a"]), len(said["b"]))
