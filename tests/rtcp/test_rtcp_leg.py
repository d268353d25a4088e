"""A stream as a pipe, over a connection whose every move is written down."""

from __future__ import annotations

import random
import socket
import ssl
from collections.abc import Sequence
from contextlib import suppress
from functools import cache

import pytest
import trustme
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rtcp.datagrams import MOST_DATAGRAM
from rtcp.io.leg import Datagrams, LegPipe
from rtcp.io.pipe import Pipe, TcpPipe
from rtcp.legs import Leg
from rtcp.packet import HELLO_STREAM_SIZE
from rtcp.records import Budget
from rtcp.schedule import Keys
from tests.rtcp.pair import ID
from tunnels.io.tls import TlsEndpoint

KEYS = Keys(b"k" * 32, b"i" * 16)
PLENTY = Budget(1 << 20, 1 << 30, 100)
BIG = 8 * (16384 + 18)
"""What one reading takes at most."""


class Script:
    """A pipe that gives what is written down, and takes as much at a time as is written down."""

    def __init__(self, gives: Sequence[bytes | OSError] = (), takes: Sequence[int] = ()) -> None:
        self._gives, self._takes = list(gives), list(takes)
        self.sent = bytearray()
        self.shut = self.closed = False

    def fileno(self) -> int:
        return -1

    def recv_into(self, buffer: memoryview) -> int:
        if not self._gives:
            raise BlockingIOError
        if isinstance(given := self._gives.pop(0), OSError):
            raise given
        n = min(len(given), len(buffer))
        buffer[:n] = given[:n]
        if n < len(given):
            self._gives.insert(0, given[n:])
        return n

    def send(self, data: bytes | memoryview) -> int:
        n = min(self._takes.pop(0), len(data)) if self._takes else len(data)
        if not n:
            raise BlockingIOError
        self.sent += data[:n]
        return n

    @property
    def waiting(self) -> bool:
        return bool(self._gives)

    def pending(self) -> bool:
        return False

    def unsent(self) -> bool:
        return False

    def flush(self) -> None: ...

    def shutdown_write(self) -> None:
        self.shut = True

    def close(self) -> None:
        self.closed = True


def ends() -> tuple[TcpPipe, TcpPipe]:
    """A connection that holds so much that it fills whatever reads it."""
    pair = socket.socketpair()
    for one in pair:
        one.setblocking(False)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            one.setsockopt(socket.SOL_SOCKET, option, 4 << 20)
    left, right = (TcpPipe(fileno=one.detach()) for one in pair)
    return left, right


def leg(dialler: bool = True, budget: Budget = PLENTY) -> Leg:
    return Leg(KEYS, ID, dialler, 0, budget)


def pipe(script: Script, *, dialler: bool = False, now: float = 0, budget: Budget = PLENTY) -> LegPipe:
    return LegPipe(leg(dialler, budget), script, lambda: now)


def read_all(ours: LegPipe, script: Script, sizes: Sequence[int]) -> tuple[bytes, str]:
    """Everything, as a reactor reads it that is woken by the descriptor or by ``pending``; and how it ended."""
    got, turn = b"", 0
    while script.waiting or ours.pending():
        buffer = memoryview(bytearray(sizes[turn % len(sizes)]))
        turn += 1
        try:
            n = ours.recv_into(buffer)
        except BlockingIOError:
            assert not ours.pending()
            continue
        except OSError as fault:
            with pytest.raises(type(fault)):
                ours.recv_into(buffer)
            return got, str(fault)
        if not n:
            assert ours.recv_into(buffer) == 0
            return got, "end"
        got += bytes(buffer[:n])
    return got, "open"


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(0, 40_000), max_size=6),
    st.lists(st.integers(1, 200_000), min_size=1, max_size=5),
    st.lists(st.integers(1, 200_000), min_size=1, max_size=5),
    st.sampled_from(["end", "open", "reset", "half a record"]),
)
def test_whatever_the_pieces_all_arrives_and_then_the_end(messages, cuts, sizes, ending):
    sealer = leg()
    plain = b"".join(bytes([at % 256]) * size for at, size in enumerate(messages))
    wire = b"".join(sealer.seal(bytes([at % 256]) * size) for at, size in enumerate(messages)) + sealer.finish()
    if ending == "half a record":
        wire += b"\0"
    gives: list[bytes | OSError] = []
    at = turn = 0
    while at < len(wire):
        gives.append(wire[at : at + cuts[turn % len(cuts)]])
        at += len(gives[-1])  # type: ignore[arg-type]
        turn += 1
    if ending != "open":
        gives.append(ConnectionResetError("reset") if ending == "reset" else b"")
    script = Script(gives)
    got, how = read_all(pipe(script), script, sizes)
    assert got == plain
    assert how == {"half a record": "the connection ended inside a record"}.get(ending, ending)


@pytest.mark.parametrize("ending", ["end", "reset"])
def test_an_end_right_behind_a_full_reading_is_not_forgotten(ending):
    wire = leg().seal(bytes(8 * 16384))
    assert len(wire) == BIG
    theirs, lower = ends()
    assert theirs.send(wire) == BIG
    if ending == "reset":
        lower.send(b"unread")
    theirs.close()
    ours = LegPipe(leg(dialler=False), lower, lambda: 0)
    buffer = memoryview(bytearray(1 << 20))
    assert ours.recv_into(buffer) == 8 * 16384
    assert ours.pending(), "no descriptor tells again what was found already"
    if ending == "reset":
        with pytest.raises(ConnectionResetError):
            ours.recv_into(buffer)
    else:
        assert ours.recv_into(buffer) == 0
    ours.close()


@settings(max_examples=100, deadline=None)
@example([34, 0, 0], 0)
@given(st.lists(st.integers(0, 50_000), max_size=20), st.integers(0, 400_000))
def test_what_is_taken_is_delivered_in_order_however_slowly(takes, size):
    script = Script(takes=takes)
    ours = pipe(script, dialler=True)
    data = memoryview(bytes(range(256)) * (size // 256 + 1))[:size]
    rest = data
    for _ in range(10_000):
        if not rest and not ours.unsent():
            break
        try:
            if rest:
                rest = rest[ours.send(rest) :]
            else:
                ours.flush()
        except BlockingIOError:
            assert ours.unsent()
    ours.shutdown_write()
    while ours.unsent():
        with suppress(BlockingIOError):
            ours.flush()
    assert script.shut and script.sent[:34] == b"\0\0" + ID.hex().encode()
    reader = Script([bytes(script.sent[34:]), b""])
    assert read_all(pipe(reader), reader, [1 << 20]) == (bytes(data), "end")
    with pytest.raises(BrokenPipeError):
        ours.send(b"more")


def test_old_and_spent_keys_carry_nothing():
    script = Script([leg().seal(b"x")])
    old = pipe(script, now=100)
    with pytest.raises(ConnectionAbortedError, match="too old"):
        old.recv_into(memoryview(bytearray(9)))
    with pytest.raises(ConnectionAbortedError, match="too old"):
        old.send(b"x")
    spent = pipe(Script(), budget=Budget(10, 4, 100))
    assert spent.send(b"1234") == 4
    with pytest.raises(ConnectionAbortedError, match="no more may follow"):
        spent.send(b"5")


@pytest.mark.parametrize("owed", [False, True])
def test_what_is_broken_off_does_not_look_finished(owed):
    script = Script(takes=[34, 1000, 10, 0, 0] if owed else [])
    ours = pipe(script, dialler=True)
    ours.send(b"first")
    if owed:
        ours.send(b"second")
    ours.break_off()
    ours.close()
    reader = Script([bytes(script.sent[34:]), b""])
    assert read_all(pipe(reader), reader, [100]) == (b"first", "the connection ended inside a record")


class Breaking(Script):
    """One that can be broken off."""

    broken = False

    def break_off(self) -> None:
        self.broken = True


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("records", [1, 2])
def test_what_is_broken_off_where_a_record_ends_does_not_look_finished(records, finished):
    """The connection takes nothing more behind a whole record, and the end of it would be an end like any other."""
    one = 16384 + 18
    script = Breaking(takes=[34, one] + [0] * 9)
    ours = pipe(script, dialler=True)
    ours.send(bytes(16384 * records))
    if finished:
        if not ours.unsent():
            ours.send(b"more")
        ours.shutdown_write()
    assert len(script.sent) == 34 + one and not script.shut
    ours.break_off()
    ours.close()
    assert script.broken


def test_what_has_ended_is_not_broken_off():
    script = Breaking()
    ours = pipe(script, dialler=True)
    ours.send(b"all of it")
    ours.shutdown_write()
    sent = len(script.sent)
    ours.break_off()
    assert not script.broken and len(script.sent) == sent


def test_an_end_without_a_word_is_an_end_all_the_same():
    script = Script()
    ours = pipe(script, dialler=True)
    ours.shutdown_write()
    ours.shutdown_write()
    reader = Script([bytes(script.sent[34:]), b""])
    assert read_all(pipe(reader), reader, [100]) == (b"", "end")
    cut = Script([b""])
    assert read_all(pipe(cut), cut, [100])[1] == "the connection ended before its first record"


# One inside the other


def lay(under: tuple[Pipe, Pipe], number: int) -> tuple[LegPipe, LegPipe]:
    """A stream over ``under``, with keys of its own."""
    keys = Keys(bytes([number]) * 32, bytes(16))
    left = LegPipe(Leg(keys, ID, True, 0, PLENTY), under[0], lambda: 0)
    preamble = memoryview(bytearray(HELLO_STREAM_SIZE))
    assert under[1].recv_into(preamble) == HELLO_STREAM_SIZE
    return left, LegPipe(Leg(keys, ID, False, 0, PLENTY), under[1], lambda: 0)


@cache
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The client's and the server's."""
    ca = trustme.CA()
    ours, theirs = ssl.create_default_context(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.configure_trust(ours)
    ca.issue_cert("leg.test").configure_cert(theirs)
    return ours, theirs


def veil(under: tuple[Pipe, Pipe]) -> tuple[Pipe, Pipe]:
    """TLS over ``under``."""
    ours, theirs = contexts()
    left, right = TlsEndpoint(under[0], ours, hostname="leg.test"), TlsEndpoint(under[1], theirs, server_side=True)
    waiting = [left, right]
    while waiting:
        for one in tuple(waiting):
            with suppress(BlockingIOError):
                one.handshake()
                one.flush()
                waiting.remove(one)
    return left, right


def build(levels: str) -> tuple[Pipe, Pipe]:
    """L is a stream over what is below it, T is TLS."""
    pair: tuple[Pipe, Pipe] = ends()
    for number, level in enumerate(levels):
        pair = lay(pair, number) if level == "L" else veil(pair)
    return pair


@pytest.mark.parametrize("levels", ["L", "LL", "LLL", "TLT", "LTL", "TLLT"])
def test_streams_in_streams_carry_much_both_ways(levels):
    """All levels read into buffers that are shared, and none may spoil what another has put there."""
    pipes = build(levels)
    data = random.Random(levels).randbytes(4 << 20), random.Random(levels[::-1]).randbytes(4 << 20)
    sent, got, buffer = [0, 0], [bytearray(), bytearray()], memoryview(bytearray(1 << 20))
    while min(map(len, got)) < len(data[0]):
        for at, pipe in enumerate(pipes):
            with suppress(BlockingIOError):
                if pipe.unsent():
                    pipe.flush()
                elif rest := memoryview(data[at])[sent[at] : sent[at] + (1 << 20)]:
                    sent[at] += pipe.send(rest)
            with suppress(BlockingIOError):
                while n := pipe.recv_into(buffer):
                    got[at] += buffer[:n]
        assert all(data[1 - at].startswith(got[at]) for at in (0, 1))
    assert got == [data[1], data[0]]
    for pipe in pipes:
        pipe.close()


def test_datagrams_on_a_stream_in_a_stream_arrive_whole():
    left, right = build("LL")
    ours, theirs = Datagrams(left), Datagrams(right)
    sent = [random.Random(at).randbytes(MOST_DATAGRAM - at) for at in range(40)]
    got: list[bytes] = []
    for datagram in sent:
        ours.send(datagram)
        assert not left.unsent(), "the connection holds them all"
    with suppress(BlockingIOError):
        while True:
            got.append(theirs.recv())
    assert got == sent
    ours.close()
    theirs.close()
