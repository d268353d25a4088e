"""Two pipes and a world that does what it likes, in any order."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rtcp.udp.connection import Stage
from tests.rtcp.udp.strait import Strait

SIDES = st.sampled_from([0, 1])


class World(RuleBasedStateMachine):
    @initialize(seed=st.integers(0, 1 << 30))
    def begin(self, seed: int) -> None:
        self.strait = Strait(seed, delay=0.02, rate=1e6, queue=60_000)
        called = self.strait.meet()
        self.pipes = [self.strait.caller, called]
        self.written = [bytearray(), bytearray()]
        self.read = [bytearray(), bytearray()]
        """What each side read, which the other wrote."""
        self.finished = [False, False]
        self.black_for = 0.0
        self.ports = 1111

    @rule(side=SIDES, size=st.integers(1, 200_000), die=st.integers(0, 255))
    def write(self, side: int, size: int, die: int) -> None:
        data = bytes((die + at * 7) & 255 for at in range(min(size, 251))) * (size // 251 + 1)
        taken = self.pipes[side].write(data)
        assert not (self.finished[side] and taken)
        self.written[side] += data[:taken]

    @rule(side=SIDES, size=st.integers(1, 300_000))
    def hear(self, side: int, size: int) -> None:
        buffer = bytearray(size)
        got = self.pipes[side].read_into(memoryview(buffer), self.strait.now)
        self.read[side] += buffer[:got]

    @rule(side=SIDES)
    def finish(self, side: int) -> None:
        self.pipes[side].finish()
        self.finished[side] = True

    @rule(loss=st.floats(0, 0.3), doubles=st.floats(0, 0.3), jitter=st.floats(0, 0.1), delay=st.floats(0.0005, 0.3))
    def weather(self, loss: float, doubles: float, jitter: float, delay: float) -> None:
        strait = self.strait
        strait.loss, strait.doubles, strait.jitter, strait.delay = loss, doubles, jitter, delay

    @rule(mtu=st.sampled_from([1228, 1280, 1500]))
    def mtu(self, mtu: int) -> None:
        self.strait.mtu = mtu

    @rule(tells=st.booleans())
    def roam(self, tells: bool) -> None:
        self.ports += 1
        self.strait.caller_at = ("192.0.2.1", self.ports)
        if tells:
            self.strait.caller.network_changed(self.strait.now)

    @precondition(lambda self: self.black_for < 10)
    @rule(seconds=st.floats(0, 5))
    def hole(self, seconds: float) -> None:
        self.strait.is_black = True
        self.strait.run(seconds)
        self.black_for += seconds
        self.strait.is_black = False

    @rule(seconds=st.floats(0, 3))
    def wait(self, seconds: float) -> None:
        self.strait.run(seconds)

    @invariant()
    def nothing_is_out_of_order(self) -> None:
        for side in (0, 1):
            assert self.written[1 - side].startswith(self.read[side])

    def teardown(self) -> None:
        """In fair weather all that was written arrives, and so does the end of it."""
        if not hasattr(self, "pipes"):
            return
        strait = self.strait
        strait.loss = strait.doubles = strait.jitter = 0.0
        strait.delay = 0.02
        strait.caller.network_changed(strait.now)
        for pipe in self.pipes:
            pipe.finish()

        def is_done() -> bool:
            self.hear(0, 1 << 20)
            self.hear(1, 1 << 20)
            return all(pipe.is_whole and not pipe.readable for pipe in self.pipes)

        strait.run(300, is_done)
        if any(pipe.stage is Stage.OVER for pipe in self.pipes):
            assert all(pipe.why for pipe in self.pipes if pipe.stage is Stage.OVER)
            assert self.black_for > 5, [pipe.why for pipe in self.pipes]
        else:
            assert is_done() and self.read == [self.written[1], self.written[0]]
        self.nothing_is_out_of_order()


World.TestCase.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
TestWorld = World.TestCase
