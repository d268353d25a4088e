"""A stream of version 5 whose reader is slow: what waits takes no more room than it counts for."""

from __future__ import annotations

from select import select

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtcp.io.conversation import Conversations, MuxedDatagrams, MuxedStream


class Quiet:
    """A tunnel that hears nothing, and a reactor that calls nobody but when told to."""

    def __init__(self) -> None:
        self.callbacks = []
        self.read = 0
        self.prompted = None

    def consumed(self, conversation, size):
        self.read += size

    def finish(self, conversation, bared=0): ...
    def stop(self, conversation): ...
    def reset(self, conversation, code): ...
    def forget(self, conversation): ...
    def prompt(self, fd, events):
        if self.prompted is not None:
            self.prompted()

    def soon(self, callback):
        self.callbacks.append(callback)

    def run(self):
        callbacks, self.callbacks = self.callbacks, []
        for callback in callbacks:
            callback()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.integers(1, 20_000), max_size=20) | st.integers(1, 30_000), max_size=30), st.booleans())
def test_what_waits_is_whole_and_takes_little_room(steps, tiny):
    """Pieces come in records of 64 KiB of which they may be a small part; an integer reads."""
    quiet = Quiet()
    stream = MuxedStream(quiet, 1, quiet)
    sent, got = bytearray(), bytearray()
    try:
        for step in steps:
            if isinstance(step, int):
                buffer = bytearray(step)
                try:
                    got += buffer[: stream.recv_into(memoryview(buffer))]
                except BlockingIOError:
                    assert got == sent
                continue
            pieces = []
            for size in step:
                record = (len(sent) % 251 + 1).to_bytes(1, "big") * 65536
                pieces.append(memoryview(record)[: size % 5 + 1 if tiny else size])
                sent += pieces[-1]
            stream.take(pieces)
            quiet.run()
            held = {id(piece.obj): len(piece.obj) for piece in stream._arrived}
            waiting = len(sent) - len(got)
            assert sum(held.values()) <= 9 * waiting + 4 * 65536
            assert len(stream._arrived) <= 2 + waiting // 4096
        buffer = bytearray(1 << 20)
        if stream._arrived:
            got += buffer[: stream.recv_into(memoryview(buffer))]
        assert got == sent
    finally:
        stream.close()


def test_many_bytes_one_by_one():
    quiet = Quiet()
    stream = MuxedStream(quiet, 1, quiet)
    for _ in range(1000):
        stream.take([memoryview(b"x")] * 100)
        quiet.run()
    assert len(stream._arrived) < 20 and sum(map(len, stream._arrived)) == 100_000
    stream.close()


@pytest.mark.parametrize("how", ["reset by the peer", "broken off by us"])
def test_a_reset_drops_what_is_not_read_though_it_was_complete(how):
    """§8.2; nobody counts it any more."""
    quiet = Quiet()
    stream = MuxedStream(quiet, 1, quiet)
    stream.take([memoryview(b"all there is")])
    stream.peer_finished()
    quiet.run()
    if how == "reset by the peer":
        stream.broke("it was reset")
    else:
        stream.break_off()
    assert stream.waiting == 0
    with pytest.raises(ConnectionError):
        stream.recv_into(memoryview(bytearray(10)))
    with pytest.raises(ConnectionError):
        stream.check()
    stream.close()


def is_readable(stream):
    return bool(select([stream.fileno()], [], [], 0)[0])


@pytest.mark.parametrize("reads", ["lend", "recv_into"])
def test_an_end_that_came_with_the_last_bytes_is_told_without_a_descriptor(reads):
    quiet = Quiet()
    stream = MuxedStream(quiet, 1, quiet)
    got = []

    def read():
        if reads == "lend":
            got.append(bytes(stream.lend(100)))
        else:
            buffer = bytearray(100)
            got.append(bytes(buffer[: stream.recv_into(memoryview(buffer))]))

    quiet.prompted = read
    stream.take([memoryview(b"all there is")])
    stream.peer_finished()
    quiet.run()
    assert got == [b"all there is", b""] and not is_readable(stream)
    read()
    assert got[-1] == b"", "however often it is asked for"
    stream.close()


@pytest.mark.parametrize("once", [True, False], ids=["who reads once", "who does not read"])
def test_an_end_that_nobody_has_seen_keeps_the_descriptor_readable(once):
    quiet = Quiet()
    stream = MuxedStream(quiet, 1, quiet)
    times = [1, 0] if once else [0, 0]

    def read():
        if times.pop(0):
            stream.lend(100)

    quiet.prompted = read
    stream.take([memoryview(b"all there is")])
    stream.peer_finished()
    quiet.run()
    assert is_readable(stream)
    stream.close()


def test_who_closes_upon_the_last_bytes_hears_of_no_end():
    quiet = Quiet()
    stream = MuxedStream(quiet, 1, quiet)

    def read():
        stream.lend(100)
        stream.close()

    quiet.prompted = read
    stream.take([memoryview(b"all there is")])
    stream.peer_finished()
    quiet.run()


def test_what_is_complete_outlives_its_tunnel():
    quiet = Quiet()
    whole, half = MuxedStream(quiet, 1, quiet), MuxedStream(quiet, 3, quiet)
    for stream in (whole, half):
        stream.take([memoryview(b"said")])
    whole.peer_finished()
    for stream in (whole, half):
        stream.broke("the tunnel is over", keep=True)
        quiet.run()
    buffer = bytearray(10)
    whole.check()
    assert whole.recv_into(memoryview(buffer)) == 4 and whole.recv_into(memoryview(buffer)) == 0
    with pytest.raises(ConnectionResetError):
        half.recv_into(memoryview(buffer))
    for stream in (whole, half):
        stream.close()


def test_large_datagrams_that_nobody_reads_are_dropped():
    flow = MuxedDatagrams(Quiet(), 1)
    for at in range(100):
        flow.take(memoryview(bytes((at,)) * 60_000))
    got = []
    while flow._arrived:
        got.append(flow.recv()[0])
    assert got == list(range(len(got))) and 17 <= len(got) <= 18
    flow.take(memoryview(b"again"))
    assert flow.recv() == b"again"
    flow.close()


@pytest.mark.parametrize("waiting", [0, 3])
def test_what_is_not_read_of_a_flow_that_was_reset_is_dropped(waiting):
    flow = MuxedDatagrams(Quiet(), 1)
    for _ in range(waiting):
        flow.take(memoryview(bytes(60_000)))
    flow.broke("it was reset")
    assert select([flow], [], [], 0)[0] == [flow], "whoever waits is told"
    for _ in range(2):
        with pytest.raises(ConnectionResetError):
            flow.recv()
    assert not flow._arrived and flow._waiting == 0
    flow.close()


def test_what_is_lent_is_not_copied():
    quiet = Quiet()
    stream = MuxedStream(quiet, 1, quiet)
    with pytest.raises(BlockingIOError):
        stream.lend(100)
    large, small = bytes(20_000), b"small"
    stream.take([memoryview(large), *[memoryview(small)] * 3])
    first = stream.lend(16384)
    rest = stream.lend(3616)
    assert first.obj is large and rest.obj is large and len(first) + len(rest) == 20_000
    assert stream.lend(100) == small * 3, "what came in pieces goes on in one"
    assert quiet.read == 20_015 and stream.waiting == 0
    stream.peer_finished()
    assert stream.lend(100) == b"" == stream.lend(100)
    stream.close()


def test_what_is_lent_is_counted_when_it_is_on_its_way():
    quiet = Quiet()
    stream = MuxedStream(quiet, 1, quiet)
    read = []

    def prompted():
        assert stream.lend(100) == b"hello"
        read.append(quiet.read)

    quiet.prompted = prompted
    stream.take([memoryview(b"hello")])
    quiet.run()
    assert read == [0] and quiet.read == 5
    stream.close()


def test_tunnels_in_tunnels_do_not_pile_up():
    """What a stream brings may be for a tunnel that it carries, and so on, as deep as a peer pleases."""
    quiet, heard, deep = Quiet(), [], []
    tunnels = [Conversations(quiet, quiet) for _ in range(300)]

    def hear(which):
        tunnels[which].near = True
        tunnels[which].soon(lambda: bring(which))
        tunnels[which].tell()

    def bring(which):
        heard.append(which)
        deep.append(which)
        assert len(deep) < 20
        if which + 1 < len(tunnels):
            hear(which + 1)
        deep.pop()

    hear(0)
    while quiet.callbacks:
        quiet.run()
    assert heard == list(range(300)), "each has heard, once"
