"""What a tunnel of version 5 leaves undone: turns that would say nothing, and tasks that would wait for nothing."""

from __future__ import annotations

from collections import Counter

import pytest
import trio

from cyfs_ns.errors import Refused, Unreachable
from cyfs_ns.identity.did import dev_did
from rtcp.io.judging import DONE, Judging
from rtcp.io.mux import MuxedTunnel
from rtcp.v5.tunnel import SOON
from tests.rtcp.pair import ALICE, BOB
from tests.rtcp.test_v5_device_takeover import drink, pour, standing
from tests.rtcp.town import Town, receive, send_all, talk

BOBS_DID = dev_did(BOB.public)


@pytest.fixture
def town() -> Town:
    return Town(versions=frozenset({5, 4}))


async def test_what_is_only_heard_takes_no_turn(town, monkeypatch):
    turns: Counter[MuxedTunnel] = Counter()
    turn = MuxedTunnel._turn

    def counted(tunnel):
        turns[tunnel] += 1
        turn(tunnel)

    monkeypatch.setattr(MuxedTunnel, "_turn", counted)
    async with town.live(ALICE, hosts=()) as alice, town.live(BOB):
        stream = await alice.open_stream(BOBS_DID, None, 1)
        (tunnel,) = alice.tunnels()
        await talk(stream)
        before = turns[tunnel]
        for _ in range(40):
            await talk(stream)
        assert 40 <= turns[tunnel] - before < 60, "one a question, and a few acknowledgements"
        stream.close()


async def test_no_turn_is_left_out_that_would_say_something(monkeypatch):
    """Much both ways at once, and a road that breaks: whenever no turn follows, there is nothing to say, and an alarm
    rings for whatever comes due."""
    looked, forgotten = Counter(), []
    heard, sleep = MuxedTunnel._heard, MuxedTunnel._sleep

    def watch_heard(tunnel):
        heard(tunnel)
        machine = tunnel._machine
        if tunnel._is_due or machine.is_ended:
            return
        looked["heard"] += 1
        for carrier, line in tunnel._lines.items():
            channel = machine._carriers.get(carrier)
            is_ack_due = channel is not None and channel.ack_at is not None and channel.ack_at <= tunnel._now()
            if line.is_clogged or is_ack_due:  # a socket, or an alarm, will tell
                continue
            records = machine.data_to_send(carrier, tunnel._now(), line.portion)
            forgotten.extend(records)
            line.send(records)

    def watch_sleep(tunnel, now):
        sleep(tunnel, now)
        due = tunnel._machine.next_deadline()
        if due is not None and not tunnel._is_due:
            looked["asleep"] += 1
            if not tunnel.alarms or tunnel.alarms[-1] > max(due, tunnel._now() + SOON):
                forgotten.append(due)

    monkeypatch.setattr(MuxedTunnel, "_heard", watch_heard)
    monkeypatch.setattr(MuxedTunnel, "_sleep", watch_sleep)
    size = 6 << 20

    async def serve(request):
        pipe = await request.accept()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pour, pipe, size)
                nursery.start_soon(drink, pipe, size)
        finally:
            pipe.close()

    async with standing(serve=serve) as pair:
        for _ in range(2):
            pipe = await pair.alice.open_stream(BOBS_DID, None, 1)
            with trio.fail_after(30):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(pour, pipe, size)
                    nursery.start_soon(drink, pipe, size)
            pipe.close()
            pair.road.snap()
    assert looked["heard"] and looked["asleep"] and not forgotten


@pytest.fixture
def no_tasks(monkeypatch):
    """Tasks for requests."""

    def task(*_):
        raise AssertionError("there is nothing to wait for")

    monkeypatch.setattr(Judging, "_serve", task)


async def test_who_is_served_at_once_costs_no_task(town, no_tasks):
    pipes = []

    def serve(request):
        pipes.append(request.accept_now())
        return DONE

    async with town.live(ALICE, hosts=()) as alice, town.live(BOB, serve=serve):
        stream = await alice.open_stream(BOBS_DID, None, 1)
        await send_all(pipes[0], b"welcome")
        assert await receive(stream) == b"welcome"
        stream.close()
        pipes[0].close()


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Refused("not you"), None),
        (Unreachable("nobody listens", "connect_refused"), "connect_refused"),
        (ValueError("a mistake of ours"), "tunnel_open"),
        (None, None),
    ],
    ids=["refused", "unreachable", "mistaken", "forgotten"],
)
async def test_who_is_not_served_hears_of_it_at_once(town, no_tasks, fault, reason):
    def serve(request):
        if fault is not None:
            raise fault
        return DONE

    async with town.live(ALICE, hosts=()) as alice, town.live(BOB, serve=serve):
        for _ in range(2):
            with pytest.raises(Refused if reason is None else Unreachable) as said:
                await alice.open_stream(BOBS_DID, None, 1)
            assert getattr(said.value, "reason", None) == reason
        assert len(alice.tunnels()) == 1


async def test_done_may_be_waited_for():
    await DONE


async def test_what_is_said_with_a_request_is_there_when_it_is_accepted(town):
    waiting, heard = trio.Event(), trio.Event()

    async def serve(request):
        await heard.wait()
        pipe = await request.accept()
        await send_all(pipe, (await receive(pipe, 5)).upper())
        pipe.close()

    async with town.live(ALICE, hosts=()) as alice, town.live(BOB, serve=serve):
        tunnel = await alice.tunnel(BOBS_DID)
        assert isinstance(tunnel, MuxedTunnel)
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                pipe = await tunnel.open_stream(None, 1, first=b"hello")
                assert await receive(pipe, 5) == b"HELLO"
                pipe.close()
                waiting.set()

            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            assert not waiting.is_set()
            heard.set()
