"""How tunnels of version 5 end, and that they hold no more than they may and leave nothing behind (§6.4, §8.7, §11)."""

from __future__ import annotations

import gc
import os
import resource
import weakref
from contextlib import contextmanager

import pytest
import trio
import trio.testing

from cyfs_ns.errors import Refused, Unreachable
from rtcp.events import End
from rtcp.io.device import Carrier
from rtcp.io.mux import MuxedTunnel
from rtcp.v5.closing import CloseCode
from rtcp.v5.frames import Opening, Purpose, Stop
from tests.rtcp.pair import ALICE, BOB
from tests.rtcp.test_v5_device_takeover import ALICES_DID, BOBS_DID, BOTH, piece, pour, standing
from tests.rtcp.town import Town, connect, descriptors, echo, receive, receive_exactly, send_all, talk, until
from tests.tunnels.relaypairs import tcp_pair
from tunnels.io.relay import Relay


@pytest.fixture(autouse=True)
def nothing_is_left():
    before = descriptors()
    yield
    assert descriptors() <= before


# Clean ends


@pytest.mark.parametrize("closer", ["the caller", "the called"])
@pytest.mark.parametrize("much", [False, True], ids=["on control", "on a leg"])
async def test_a_clean_end_waits_until_all_has_arrived(closer, much):
    """What the tunnel had taken arrives, to the last byte and the end, although its reader looks only afterwards."""
    read, got = trio.Event(), bytearray()

    async def serve(request):
        pipe = await request.accept()
        try:
            if much:
                got.extend(await receive_exactly(pipe, 8 << 20))
            await read.wait()
            while data := await receive(pipe):
                got.extend(data)
            done.set()
        finally:
            pipe.close()

    done = trio.Event()
    async with standing(serve=serve) as pair:
        mine, to, tunnel, other = (
            (pair.alice, BOBS_DID, pair.tunnel, pair.other)
            if closer == "the caller"
            else (pair.bob, ALICES_DID, pair.other, pair.tunnel)
        )
        pipe = await mine.open_stream(to, None, 1)
        sent = 0
        if much:
            while sent < 8 << 20:
                data = piece(sent, min(65536, (8 << 20) - sent))
                await send_all(pipe, bytes(data))
                sent += len(data)
            assert len(pair.road.standing) == 2
            await until(lambda: len(got) == sent and not tunnel._machine.kept)
        while True:
            try:
                sent += pipe.send(piece(sent, 65536))
            except BlockingIOError:
                break
        pipe.shutdown_write()
        tunnel.close(when_done=True, reason="good night")
        with trio.fail_after(60):
            await other.over.wait()
        assert other.end.end is End.ASKED and other.end.why == "good night"
        read.set()
        with trio.fail_after(60):
            await done.wait()
        assert len(got) == sent and sent > 8 << 20 if much else sent
        assert all(got[at : at + 251] == piece(at, len(got[at : at + 251])) for at in range(0, len(got), 251))
        pipe.close()


@pytest.mark.parametrize("code", [CloseCode.REFUSED, CloseCode.REVOKED, CloseCode.DRAINED])
async def test_why_a_tunnel_is_closed_arrives_whatever_is_under_way(code):
    """The peer is in the middle of sending, so bytes that nobody reads are in the pipe; they must not call it back."""

    async def serve(request):
        pipe = await request.accept()
        try:
            await pour(pipe, 1 << 30)
        except OSError:
            pass
        finally:
            pipe.close()

    for bytes_read in (0, 1, 300_000, 5_000_000):
        async with standing(serve=serve) as pair:
            pipe = await pair.alice.open_stream(BOBS_DID, None, 1)
            got = 0
            while got < bytes_read:
                got += len(await receive(pipe))
            pair.tunnel.close(code, "because " * 20)
            with trio.fail_after(60):
                await pair.other.over.wait()
            assert pair.other.end.code is code and pair.other.end.why == "because " * 20
            with pytest.raises(ConnectionResetError):
                while await receive(pipe):
                    pass
            pipe.close()


async def test_a_drained_tunnel_keeps_its_streams_and_new_ones_go_elsewhere():
    async with standing() as pair:
        old = [await pair.alice.open_stream(BOBS_DID, None, 1), await pair.bob.open_stream(ALICES_DID, None, 1)]
        pair.other._machine.drain()
        pair.other._turn()
        await until(lambda: pair.tunnel.is_draining)
        new = await pair.alice.open_stream(BOBS_DID, None, 1)
        assert await pair.alice.tunnel(BOBS_DID) is not pair.tunnel
        for stream in (*old, new):
            await talk(stream)
            stream.close()
        with trio.fail_after(60):
            await pair.tunnel.over.wait()
        assert pair.tunnel.end.end is End.ASKED
        await until(lambda: len(pair.bob.tunnels()) == 1)


async def test_what_was_asked_before_the_news_of_a_drain_came_is_asked_elsewhere():
    async with standing() as pair:
        pair.other._machine.drain()  # it says so with its next turn, and the request is on its way
        stream = await pair.alice.open_stream(BOBS_DID, None, 1)
        assert await pair.alice.tunnel(BOBS_DID) is not pair.tunnel
        await talk(stream)
        stream.close()


async def test_a_drained_tunnel_that_nothing_is_open_on_ends_at_once():
    async with standing() as pair:
        pair.other._machine.drain()
        pair.other._turn()
        await until(lambda: pair.tunnel.is_draining)
        stream = await pair.alice.open_stream(BOBS_DID, None, 1)
        with trio.fail_after(60):
            await pair.tunnel.over.wait()
        await talk(stream)
        stream.close()


# Abrupt ends


@pytest.mark.parametrize("who", ["caller", "called"])
async def test_a_device_that_is_stopped_in_the_middle_of_things_ends_all(who):
    """Cancelled from outside; its programs find their streams broken, and the peer is told at once."""
    town, ended = Town(versions=BOTH), []
    begun = trio.Event()

    async def serve(request):
        pipe = await request.accept()
        try:
            begun.set()
            await pour(pipe, 1 << 30)
        except OSError:
            ended.append("broken")
        finally:
            pipe.close()

    async with trio.open_nursery() as nursery:

        async def live(key, scope, *, task_status):
            with scope:
                async with town.live(key, serve=serve) as device:
                    task_status.started(device)
                    await trio.sleep_forever()

        scopes = {"caller": trio.CancelScope(), "called": trio.CancelScope()}
        alice = await nursery.start(live, ALICE, scopes["caller"])
        bob = await nursery.start(live, BOB, scopes["called"])
        pipes = [await alice.open_stream(BOBS_DID, None, 1), await bob.open_stream(ALICES_DID, None, 1)]
        await begun.wait()
        for pipe in pipes:
            await receive(pipe)
        scopes[who].cancel()
        for pipe in pipes:
            with pytest.raises(ConnectionResetError), trio.fail_after(5):
                while await receive(pipe):
                    pass
            pipe.close()
        await until(lambda: not alice.tunnels() and not bob.tunnels())
        nursery.cancel_scope.cancel()


async def test_a_fault_of_one_side_ends_the_tunnel_and_nothing_else():
    async with standing() as pair:
        stream = await pair.alice.open_stream(BOBS_DID, None, 1)
        await talk(stream)
        pair.tunnel._machine._outbox.put(b"\x02" + bytes(7))  # an ANSWER to what nobody asked
        pair.tunnel._turn()
        with trio.fail_after(60):
            await pair.tunnel.over.wait()
        assert pair.tunnel.end.end is End.FAULT and pair.tunnel.end.code is CloseCode.FAULT
        with pytest.raises(ConnectionResetError):
            await receive(stream)
        stream.close()
        await until(lambda: not pair.bob.tunnels())
        stream = await pair.alice.open_stream(BOBS_DID, None, 1)
        await talk(stream)
        stream.close()


# What may be held


@contextmanager
def no_descriptors():
    """No more of them than there are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 1, hard))
    taken = []
    try:
        while True:
            try:
                taken.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                break
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in taken:
            os.close(fd)


@pytest.mark.parametrize("datagrams", [False, True], ids=["stream", "datagrams"])
async def test_without_descriptors_nothing_is_opened_and_the_tunnel_stands(datagrams):
    async with standing() as pair:
        for mine, to in ((pair.alice, BOBS_DID), (pair.bob, ALICES_DID)):
            with no_descriptors(), pytest.raises(Unreachable):
                await (mine.open_datagrams if datagrams else mine.open_stream)(to, None, 1)
            for tunnel in (pair.tunnel, pair.other):
                await until(lambda tunnel=tunnel: not tunnel._machine.conversations and not tunnel._judging)
                assert not tunnel._streams and not tunnel._flows and not tunnel._asking
            stream = await mine.open_stream(to, None, 1)
            await talk(stream)
            stream.close()
        assert pair.alice.tunnels() == [pair.tunnel]


async def test_an_answer_without_descriptors_says_that_there_is_no_way():
    """The one who asks has some, and the one who is asked has none."""
    refused = []

    async def serve(request):
        with no_descriptors():
            try:
                await request.accept()
            except Unreachable as fault:
                refused.append(fault)
                raise

    async with standing(serve=serve) as pair:
        with pytest.raises(Unreachable):
            await pair.alice.open_stream(BOBS_DID, None, 1)
        assert len(refused) == 1 and not pair.other._streams
        await until(lambda: not pair.other._machine.conversations)


async def test_a_leg_or_carrier_that_cannot_be_called_leaves_things_as_they_are(monkeypatch):
    """Whatever the call fails with: the device lives, and what is much goes on where it is."""
    async with standing() as pair:
        failed = []

        async def fail():
            failed.append(1)
            raise OSError(24, "Too many open files")

        connect, pair.tunnel._connect = pair.tunnel._connect, fail
        stream = await pair.alice.open_stream(BOBS_DID, None, 1)
        much = bytes(range(256)) * 32768
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_all, stream, much)
            with trio.fail_after(60):
                assert await receive_exactly(stream, len(much)) == much
        assert failed
        pair.road.snap()
        await until(lambda: not pair.tunnel._machine.is_up and len(failed) > 2)
        pair.tunnel._connect = connect
        await talk(stream)
        stream.close()


async def test_a_reader_that_never_reads_holds_its_window_and_nobody_up():
    pipes = []

    async def serve(request):
        if request.port == 1:
            pipes.append(await request.accept())
        else:
            await echo(request)

    async with standing(serve=serve) as pair:
        stream = await pair.alice.open_stream(BOBS_DID, None, 1)
        taken = 0
        with pytest.raises(BlockingIOError):
            while True:
                taken += stream.send(bytes(65536))
        await until(lambda: pair.other._machine.unread == 65536)
        assert taken <= 65536 and pair.tunnel._machine.kept <= 65536 + 4096
        other = await pair.alice.open_stream(BOBS_DID, None, 2)
        much = bytes(range(256)) * 8192
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_all, other, much)
            with trio.fail_after(60):
                assert await receive_exactly(other, len(much)) == much
        assert pair.other._machine.unread == 65536
        assert len(await receive_exactly(pipes[0], taken)) == taken
        await until(lambda: pair.other._machine.unread == 0)
        for one in (stream, other, *pipes):
            one.close()


async def test_what_a_peer_said_finished_and_reset_is_held_by_nobody():
    """As often as it likes: each time its window is given back, so the bytes may not stay either."""
    pipes = []

    async def serve(request):
        pipes.append(await request.accept())

    async with standing(serve=serve) as pair:
        for number in range(1, 40, 2):
            stream = await pair.alice.open_stream(BOBS_DID, None, 1)
            assert stream.send(bytes(32768)) == 32768
            stream.shutdown_write()
            await until(lambda: pipes[-1].waiting == 32768 and pipes[-1]._ended)
            pair.tunnel.reset(number, Stop.LOST)
            stream.close()
            await until(lambda: not pair.other._machine.conversations)
        assert len(pipes) == 20 and sum(pipe.waiting for pipe in pipes) == 0
        for pipe in pipes:
            with pytest.raises(ConnectionResetError):
                pipe.recv_into(memoryview(bytearray(1)))
            pipe.close()


@pytest.mark.parametrize("finished", [False, True])
async def test_a_reset_ends_a_relay_that_owes_and_looks_at_neither_end_of_the_stream(finished):
    """A connection would hang up; a stream of a tunnel has nothing that could."""
    relays, why = [], []

    async def serve(request):
        near, far = tcp_pair()
        fars.append(far)
        pipe = await request.accept()
        relays.append(
            Relay(pair.other._shared.reactor, pipe, near, idle=600, on_close=lambda _, said: why.append(said))
        )

    fars = []
    async with standing(serve=serve) as pair:
        stream = await pair.alice.open_stream(BOBS_DID, None, 1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pour, stream, 64 << 20)
            await until(lambda: relays and relays[0]._up.debt and not relays[0]._a_interest)
            nursery.cancel_scope.cancel()
        if finished:
            stream.shutdown_write()
        stream.break_off()
        stream.close()
        await until(lambda: why)
        assert why[0] and relays[0].closed
        with pytest.raises(ConnectionResetError):
            while True:
                fars[0].recv_into(memoryview(bytearray(1 << 20)))
        fars[0].close()


async def test_what_is_asked_and_taken_back_in_one_breath_is_judged_by_nobody():
    begun, over = [], []

    async def serve(request):
        begun.append(request)
        try:
            await trio.sleep_forever()
        finally:
            over.append(request)

    async with standing(serve=serve) as pair:
        machine, now = pair.tunnel._machine, pair.tunnel._now()
        number = machine.open(Opening(Purpose.STREAM, ":1"), now)
        machine.reset(number, Stop.CANCELLED, now)
        pair.tunnel._turn()
        await until(lambda: pair.other._machine._ids.theirs == number and len(begun) == len(over))
        await pair.tunnel.ping()
        assert len(begun) == len(over)
        await until(lambda: not pair.other._judging)


async def test_a_turn_that_fails_is_not_the_last(monkeypatch):
    async with standing() as pair:
        stream = await pair.alice.open_stream(BOBS_DID, None, 1)
        tunnel, speak, ring = pair.tunnel, MuxedTunnel._speak, MuxedTunnel.ring

        def fails(who, now):
            if who is not tunnel:
                speak(who, now)
                return
            monkeypatch.setattr(MuxedTunnel, "_speak", speak)
            tunnel._soon()
            raise RuntimeError("a bug of ours")

        # no deadline shall help
        monkeypatch.setattr(MuxedTunnel, "ring", lambda who: None if who is tunnel else ring(who))
        monkeypatch.setattr(MuxedTunnel, "_speak", fails)
        with pytest.raises(RuntimeError):
            tunnel._turn()
        await talk(stream)
        stream.close()


async def test_many_readers_that_never_read_hold_no_more_than_their_tunnel_may():
    pipes = []

    async def serve(request):
        pipes.append(await request.accept())

    async with standing(serve=serve) as pair:
        streams = [await pair.alice.open_stream(BOBS_DID, None, 1) for _ in range(100)]
        async with trio.open_nursery() as nursery:
            for stream in streams:
                nursery.start_soon(pour, stream, 1 << 20)
            await until(lambda: pair.other._machine.unread > (4 << 20) - 65536)
            nursery.cancel_scope.cancel()
        await pair.tunnel.ping()
        assert pair.other._machine.unread <= 4 << 20 and pair.tunnel._machine.kept <= (1 << 20) + (512 << 10)
        for one in (*streams, *pipes):
            one.close()
        for tunnel in (pair.tunnel, pair.other):
            await until(lambda tunnel=tunnel: not tunnel._machine.conversations and not tunnel._machine.unread)


async def test_two_thousand_streams_leave_nothing():
    async with standing() as pair:
        before = descriptors()
        left = 2000

        async def use():
            nonlocal left
            while left > 0:
                left -= 1
                stream = await pair.alice.open_stream(BOBS_DID, None, 1)
                if left % 2:
                    stream.send(b"hello")
                if left % 5 == 0:
                    assert await receive(stream) == b"hello" if left % 2 else True
                stream.close()

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(use)
        for tunnel in (pair.tunnel, pair.other):
            for left_over in (tunnel._streams, tunnel._flows, tunnel._asking, tunnel._judging):
                await until(lambda left_over=left_over: not left_over)
            machine = tunnel._machine
            await until(lambda machine=machine: not machine.conversations and not machine.kept and not machine.unread)
            assert len(tunnel.alarms) < 20
            for queue in (machine._asked, machine._asking, machine._starved, machine._unread_since, machine._orphans):
                assert not queue
        assert descriptors() <= before and pair.alice.tunnels() == [pair.tunnel]


async def test_an_idle_tunnel_is_a_connection_and_no_task():
    town = Town(versions=BOTH)
    async with town.live(BOB) as bob, town.live(ALICE, hosts=()) as alice:
        await alice.tunnel(BOBS_DID)
        await until(bob.tunnels)
        tasks = trio.lowlevel.current_statistics().tasks_living
        gc.collect()  # what an earlier test left open
        before = descriptors()
        for number in range(3):
            await alice.tunnel(BOBS_DID, via=Carrier(f"way {number}", connect))
        await until(lambda: len(bob.tunnels()) == 4)
        assert trio.lowlevel.current_statistics().tasks_living == tasks
        assert descriptors() == before + 3 * 2, "one for each end"


async def test_a_tunnel_that_is_over_is_forgotten():
    """By everybody who knew it, alarms included as soon as the last of these rang."""
    town = Town(versions=BOTH)
    async with town.live(BOB) as bob, town.live(ALICE, hosts=()) as alice:
        await alice.tunnel(BOBS_DID)
        await until(bob.tunnels)
        ends = [weakref.ref(device.tunnels()[0]) for device in (alice, bob)]
        alice.tunnels()[0].close()
        await until(lambda: not alice.tunnels() and not bob.tunnels())
        for device in (alice, bob):
            alarms = device._fifth.commons.alarms
            assert all(when < trio.current_time() + 60 for when, _, _ in alarms._heap), "soon enough"
            alarms._heap.clear()
        stream = await alice.open_stream(BOBS_DID, None, 1)  # the reactors hold what they looked at last
        await talk(stream)
        stream.close()
        await until(lambda: (gc.collect(), [end() for end in ends])[1] == [None, None])


async def test_rules_that_refuse_leave_nothing_either():
    async def serve(request):
        raise Refused("no")

    async with standing(serve=serve) as pair:
        for _ in range(200):
            with pytest.raises(Refused):
                await pair.alice.open_stream(BOBS_DID, None, 1)
        for tunnel in (pair.tunnel, pair.other):
            assert not tunnel._machine.conversations and not tunnel._judging and not tunnel._streams
