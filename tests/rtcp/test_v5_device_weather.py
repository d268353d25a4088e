"""Whatever the road does to the connections under a tunnel: each stream's bytes arrive once and in order, to their end,
or the stream ends with an error.  It is never silently short.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import trio
import trio.lowlevel
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_ns.errors import Refused, Unreachable
from rtcp.v5.closing import CloseCode
from rtcp.v5.limits import Bounds
from rtcp.v5.tunnel import Tunnel as Machine
from tests.rtcp.test_v5_device_takeover import ALICES_DID, BOBS_DID, piece, standing
from tests.rtcp.town import descriptors, receive, until


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Nobody waits long for a sign of life, so that an example takes a moment."""
    monkeypatch.setattr("rtcp.v5.life._ASK_BUSY", {True: 0.04, False: 0.06})
    monkeypatch.setattr("rtcp.v5.life.patience", lambda round_trip: 0.06)
    monkeypatch.setattr("rtcp.v5.life._SUSPECT", 0.4)
    monkeypatch.setattr("rtcp.v5.life._STAGGER", (0.05, 0.05, 0.1, 0.2, 0.4, 0.8))
    monkeypatch.setattr("rtcp.v5.tunnel._ABANDON", 0.1)
    monkeypatch.setattr("rtcp.v5.calling.ANSWER_WAIT", 0.5)
    monkeypatch.setitem(Machine.call.__func__.__kwdefaults__, "bounds", Bounds(verdict=1))


SIZES = st.one_of(st.integers(0, 3), st.integers(0, 200_000), st.integers(1_500_000, 3_000_000))
WAYS = st.sampled_from([("there",), ("back",), ("there", "back")])
BREAKS = st.one_of(
    st.tuples(st.just("cut"), st.sampled_from(["all", "first", "last"])),
    st.tuples(st.just("stall"), WAYS),
    st.tuples(st.just("spoil"), WAYS),
)


@dataclass
class Half:
    """One direction of a stream."""

    size: int
    got: int = 0
    is_whole: bool = False
    fault: OSError | None = None


@dataclass
class Weather:
    halves: dict[tuple[int, str], Half] = field(default_factory=dict)
    got: int = 0
    running: int = 0
    news: trio.Event = field(default_factory=trio.Event)

    async def reaches(self, size):
        """So many bytes have arrived, or something broke."""
        while self.got < size and not any(half.fault for half in self.halves.values()):
            await self.news.wait()

    def tell(self, size=0):
        self.got += size
        self.news.set()
        self.news = trio.Event()

    async def send(self, pipe, half):
        sent = 0
        try:
            while sent < half.size:
                try:
                    sent += pipe.send(piece(sent, min(65536, half.size - sent)))
                    await trio.lowlevel.checkpoint()
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(pipe.fileno())
            pipe.shutdown_write()
        except OSError as fault:
            half.fault = fault
            self.tell()

    async def take(self, pipe, half):
        try:
            while data := await receive(pipe):
                assert data == piece(half.got, len(data)), f"wrong bytes at {half.got}"
                half.got += len(data)
                self.tell(len(data))
            half.is_whole = True
        except OSError as fault:
            half.fault = fault
            self.tell()

    async def exchange(self, pipe, number, mine, others):
        self.running += 1
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.send, pipe, self.halves[number, mine])
                nursery.start_soon(self.take, pipe, self.halves[number, others])
        finally:
            self.running -= 1
            pipe.close()


def break_road(road, how, what):
    match how:
        case "cut":
            standing = road.standing
            road.snap(*{"all": standing, "first": standing[:1], "last": standing[-1:]}[what])
        case "stall":
            road.stall(*what)
        case "spoil":
            for one in road.standing:
                one.spoil.update(what)


@settings(max_examples=50, deadline=None)
@given(
    streams=st.lists(st.tuples(SIZES, SIZES, st.booleans()), min_size=1, max_size=4),
    breaks=st.lists(st.tuples(st.floats(0, 0.9), st.integers(0, 40), BREAKS), max_size=4),
    close=st.one_of(
        st.none(), st.none(), st.tuples(st.floats(0, 1), st.booleans(), st.booleans(), st.sampled_from(CloseCode))
    ),
)
async def test_each_stream_is_whole_or_ends_with_an_error(streams, breaks, close):
    """``breaks`` happen when so much of everything has arrived, and so many turns later; ``close`` ends the tunnel, by
    either side, after all was said or in the middle of things."""
    before = descriptors()
    weather = Weather()
    for number, (ours, theirs, _) in enumerate(streams):
        weather.halves[number, "asked"], weather.halves[number, "served"] = Half(ours), Half(theirs)
    total = sum(half.size for half in weather.halves.values())

    async def serve(request):
        await weather.exchange(await request.accept(), request.port, "served", "asked")

    async def ask(mine, to, number):
        try:
            pipe = await mine.open_stream(to, None, number)
        except (Refused, Unreachable) as fault:
            weather.halves[number, "asked"].fault = weather.halves[number, "served"].fault = OSError(str(fault))
            weather.tell()
            return
        await weather.exchange(pipe, number, "asked", "served")

    async def storm(pair):
        for share, turns, what in sorted(breaks):
            await weather.reaches(share * total)
            for _ in range(turns):
                await trio.lowlevel.checkpoint()
            break_road(pair.road, *what)

    async def end(pair):
        share, by_caller, when_done, code = close
        await weather.reaches(share * total)
        (pair.tunnel if by_caller else pair.other).close(code, when_done=when_done)
        for tunnel in (pair.tunnel, pair.other):  # the CLOSE may be lost on the road, and nobody calls any more
            tunnel._machine._hold = 0.2
            if not tunnel._machine.is_up and not tunnel.over.is_set():
                tunnel._machine._until = trio.current_time() + 0.2
                tunnel.ring()

    async with standing(serve=serve) as pair:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(storm, pair)
                for number, (_, _, by_caller) in enumerate(streams):
                    mine, to = (pair.alice, BOBS_DID) if by_caller else (pair.bob, ALICES_DID)
                    nursery.start_soon(ask, mine, to, number)
                if close is not None:
                    nursery.start_soon(end, pair)
            await until(lambda: not weather.running)
        for half in weather.halves.values():
            assert half.got == half.size or not half.is_whole
            assert half.is_whole or close is not None, f"nobody broke it off, and yet: {half.fault}"
        if close is None:
            assert pair.alice.tunnels() == [pair.tunnel] and pair.bob.tunnels() == [pair.other]
            for tunnel in (pair.tunnel, pair.other):
                await until(lambda tunnel=tunnel: not tunnel._machine.conversations)
    assert descriptors() <= before
