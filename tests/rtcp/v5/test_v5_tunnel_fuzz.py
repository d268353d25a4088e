"""Two tunnels, and between them somebody who cuts, drops, doubles, reorders, replays and flips, while both sides open,
send, finish, stop, reset, sleep, drain and stop reading, and carriers are called at the wrong time.

Held: *as if nothing had happened, or closed with a reason*.  Nobody between can make one side break the rules in the
other's eyes; each stream's bytes arrive once, in order, or it ends with a code; what is held stays within its bounds;
and once the way is whole again, whatever was not reset comes to its end and leaves nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeAlias, TypeVar

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rtcp.events import End
from rtcp.v5.conversations import unread_of
from rtcp.v5.events import BareLegStands, LegReady, PeerFinished, PeerShifted, PeerStopped, TunnelEvent
from rtcp.v5.frames import Code, Stop
from rtcp.v5.limits import Bounds
from tests.rtcp.v5.duet import BULK, CALLABLE, FLOW, HIDDEN, PLAIN, WEB, Duet, Pipe, Side, Told

T = TypeVar("T")
SIDES = st.integers(0, 1)
TIGHT = Bounds(kept=40_000, kept_more=80_000, leg_kept=50_000, most_leg_kept=100_000, unread=1_100_000, window=100_000)
SIZES = st.sampled_from([1, 7, 100, 5_000, 65_536, 200_000])


Die: TypeAlias = st.DataObject | Random


def number(die: Die, least: int, most: int) -> int:
    return die.randint(least, most) if isinstance(die, Random) else die.draw(st.integers(least, most))


def choose(die: Die, things: Sequence[T]) -> T:
    return things[number(die, 0, len(things) - 1)]


@dataclass
class Bare:
    """One end of the bare leg of a stream, as its program has it: bytes go through ``pipe`` as they are."""

    pipe: Pipe
    sends: bool = False
    receives: bool = False
    sent: int = 0
    got: int = 0
    total: int | None = None
    """How many bytes the peer says that it sent."""


class Mischief(RuleBasedStateMachine):
    bares = 0
    """How many bare legs carried all that one side had to say."""

    def __init__(self) -> None:
        super().__init__()
        self.bare: dict[tuple[str, int], Bare] = {}
        self.sent: dict[tuple[str, int], bytearray] = {}
        self.done: set[tuple[str, int]] = set()
        self.flows: set[int] = set()
        self.unwanted: set[tuple[str, int]] = set()
        self.old: list[bytes] = []
        self.filler = 0
        self.duet = Duet()

    @initialize(
        tight=st.booleans(),
        features=st.sampled_from([(HIDDEN, CALLABLE), (CALLABLE, CALLABLE), (HIDDEN, PLAIN)]),
        sealed=st.booleans(),
    )
    def begin(self, tight, features, sealed):
        self.duet = Duet(*features, bounds=TIGHT if tight else None)
        self.bounds = TIGHT if tight else Bounds()
        self.sealed = sealed
        for side in self.duet.sides:
            side.answers, side.hears = self.answer, self.hear
        self.duet.talk()

    def answer(self, side, asked):
        side.tunnel.answer(asked.id, Code.YES, self.duet.now)
        if self.sealed and asked.id not in self.flows:
            side.tunnel.sealed(asked.id)

    def hear(self, side: Side, event: TunnelEvent) -> bool:
        """What programs do with bare legs."""
        if isinstance(event, BareLegStands):
            if (pipe := self.duet.pipes.get(event.carrier)) is None:  # cut just now
                self.lose(side, event.id)
            else:
                self.bare[side.name, event.id] = Bare(pipe)
            return False
        if not isinstance(event, LegReady | PeerShifted | PeerStopped | PeerFinished):
            return False
        bare = self.bare.get((side.name, event.id))
        if bare is None:
            return False
        match event:
            case LegReady():
                bare.sends = True
            case PeerShifted():
                bare.receives = True
            case PeerStopped(stream):
                self.finish(side, stream)
            case PeerFinished(stream, bared) if bare.receives:
                bare.total = bared
                if side.reads:
                    self.read_bare(side, stream)
                return True
        return False

    def read_bare(self, side: Side, stream: int) -> None:
        """What came over the leg is read, and its end judged."""
        bare, told = self.bare.get((side.name, stream)), side.told(stream)
        if bare is None or not bare.receives or told.finished or told.reset is not None:
            return
        far = bare.pipe.other
        told.data += far.sent
        bare.got += len(far.sent)
        told.read = len(told.data)
        far.sent.clear()
        if bare.got == bare.total:
            told.finished = True
            Mischief.bares += bare.got > 0
            side.tunnel.complete(stream, self.duet.now)
        elif far.closed and bare.total is None:
            side.tunnel.cut(stream, self.duet.now)
        elif far.closed:
            self.lose(side, stream)

    def lose(self, side: Side, stream: int) -> None:
        side.tunnel.reset(stream, Stop.LOST, self.duet.now)
        side.told(stream).reset = Stop.LOST

    def finish(self, side: Side, stream: int) -> None:
        if (side.name, stream) not in self.done:
            self.done.add((side.name, stream))
            bare = self.bare.get((side.name, stream))
            side.tunnel.finish(stream, self.duet.now, 0 if bare is None else bare.sent)

    def side(self, at: int) -> Side:
        return self.duet.sides[at]

    def pick(self, data: Die) -> tuple[Side, int] | None:
        """One of the streams that one side knows."""
        known = [
            (side, one)
            for side in self.duet.sides
            for one in side.book
            if one not in self.flows and side.told(one).reset is None and side.told(one).answer in (None, Code.YES)
        ]
        return choose(data, known) if known else None

    # What programs do

    @rule(at=SIDES, opening=st.sampled_from([WEB, WEB, BULK, FLOW]))
    def open(self, at, opening):
        side = self.side(at)
        if side.ended or side.draining is not None:
            return
        conversation = side.tunnel.open(opening, self.duet.now)
        side.told(conversation).opening = opening
        if opening is FLOW:
            self.flows.add(conversation)
        elif self.sealed:
            side.tunnel.sealed(conversation)

    @rule(data=st.data(), size=SIZES, finish=st.booleans())
    def send(self, data, size, finish):
        if (picked := self.pick(data)) is None:
            return
        side, stream = picked
        key = (side.name, stream)
        if key in self.done or side.told(stream).stopped is not None:
            return
        self.filler += 1
        chunk = (self.filler.to_bytes(3, "big") * (size // 3 + 1))[:size]
        bare = self.bare.get(key)
        if bare is not None and bare.sends:
            if bare.pipe.closed:
                self.lose(side, stream)
                return
            bare.pipe.sent += chunk
            bare.sent += size
            taken = size
        else:
            taken = side.tunnel.send(stream, chunk, self.duet.now)
        if not side.ended:
            self.sent.setdefault(key, bytearray()).extend(chunk[:taken])
        if finish:
            self.finish(side, stream)

    @rule(at=SIDES, size=st.integers(0, 2000))
    def send_datagrams(self, at, size):
        for flow in self.flows:
            self.side(at).tunnel.send_datagram(flow, None, bytes(size), self.duet.now)

    @rule(data=st.data(), stop=st.booleans())
    def give_up(self, data, stop):
        if (picked := self.pick(data)) is None:
            return
        side, stream = picked
        if stop:
            side.tunnel.stop(stream, Stop.CANCELLED, self.duet.now)
            self.unwanted.add((side.name, stream))
        else:
            side.tunnel.reset(stream, Stop.CANCELLED, self.duet.now)
            side.told(stream).reset = Stop.CANCELLED

    @rule(at=SIDES, reads=st.booleans())
    def read(self, at, reads):
        side = self.side(at)
        side.reads = reads
        if reads:
            self.read_all(side)

    def read_all(self, side: Side) -> None:
        for one in side.book:
            if one not in self.flows and (side.name, one) not in self.unwanted and side.told(one).reset is None:
                side.read(one)
                self.read_bare(side, one)

    @rule(data=st.data())
    def send_much(self, data):
        """As far as the machine knows: with the next bytes it wants a leg."""
        if (picked := self.pick(data)) is not None:
            stream = picked[0].tunnel._conversations.get(picked[1])
            if stream is not None:
                stream.bulk = True

    @precondition(lambda self: self.filler > 5)
    @rule(at=SIDES)
    def drain(self, at):
        self.side(at).tunnel.drain()

    # What the way does

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.15, 0.7, 3.0, 12.0]))
    def sleep(self, seconds):
        self.duet.sleep(seconds)

    @rule()
    def talk(self):
        self.duet.talk()

    @rule(calls=st.sampled_from(["arrive", "late", "lost"]))
    def reach(self, calls):
        self.duet.calls = calls

    @rule()
    def write(self):
        """Both sides write, and nothing arrives yet."""
        for side in self.duet.sides:
            side.listen()
        self.duet.write()

    @rule(data=st.data(), size=st.integers(0, 100_000))
    def arrive(self, data, size):
        if waiting := [one for one in self.duet.pipes.values() if one.sent]:
            self.duet.deliver(choose(data, waiting), size)
            for side in self.duet.sides:
                side.listen()

    @rule(lose=st.booleans(), data=st.data())
    def cut(self, lose, data):
        if channels := sorted({one.channel for one in self.duet.pipes.values()}):
            self.duet.cut(choose(data, channels), lose=lose)

    @rule(data=st.data(), what=st.sampled_from(["flip", "drop", "double", "swap", "replay", "noise"]))
    def meddle(self, data, what):
        waiting = [one for one in self.duet.pipes.values() if one.sent and not one.bare]  # that is for who sealed it
        if not waiting:
            return
        pipe = choose(data, waiting)
        sent = pipe.sent
        self.old.append(bytes(sent[:200]))
        at = number(data, 0, len(sent) - 1)
        match what:
            case "flip":
                sent[at] ^= number(data, 1, 255)
            case "drop":
                del sent[at : at + number(data, 1, 200)]
            case "double":
                sent[at:at] = sent[at : at + 100]
            case "swap":
                sent[:] = sent[at:] + sent[:at]
            case "replay":
                sent[at:at] = choose(data, self.old)
            case "noise":
                sent[at:at] = bytes(number(data, 0, 255) for _ in range(8))

    @rule(at=SIDES, late=st.booleans())
    def take_over(self, at, late):
        """A side hears nothing for a while, and calls; what was on the way comes after that."""
        side = self.side(at)
        if side.ended:
            return
        self.duet.calls = "late" if late else "arrive"
        side.tunnel.network_changed(self.duet.now)
        self.duet.now += 0.6
        side.tunnel.handle_timeout(self.duet.now)
        side.listen()
        wanted, side.wanted = side.wanted, []
        for want in wanted:
            self.duet.call(side, want.channel)

    @precondition(lambda self: self.duet.late)
    @rule(data=st.data())
    def arrive_late(self, data):
        end, claim = self.duet.late.pop(number(data, 0, len(self.duet.late) - 1))
        self.duet.arrive(end, claim)

    # What has to hold

    @invariant()
    def nobody_is_blamed(self):
        for side in self.duet.sides:
            if side.ended is not None:
                assert side.ended.end in (End.LOST, End.ASKED), side.ended

    @invariant()
    def bytes_arrive_once_and_in_order(self):
        for side in self.duet.sides:
            other = self.duet.other(side)
            for stream, told in side.book.items():
                if stream in self.flows or (side.name, stream) in self.unwanted:
                    continue
                sent = self.sent.get((other.name, stream), b"")
                assert sent[: len(told.data)] == told.data
                if told.finished:
                    assert told.data == sent or other.book.get(stream, Told()).stopped is not None
                    assert (other.name, stream) in self.done or other.book.get(stream, Told()).stopped is not None

    @invariant()
    def what_is_held_is_bounded(self):
        for side in self.duet.sides:
            tunnel = side.tunnel
            assert 0 <= tunnel.unread <= self.bounds.unread
            legs = len({one.channel for one in self.duet.pipes.values()}) + 40
            assert tunnel.kept <= (3 << 20) + legs * self.bounds.most_leg_kept
            assert tunnel.share.unread == sum(map(unread_of, tunnel._conversations.values()))

    def teardown(self):
        duet = self.duet
        duet.calls = "arrive"
        for pipe in [one for one in duet.pipes.values() if one.closed]:
            duet.deliver(pipe)
        duet.cut(0)
        for side in duet.sides:
            side.reads = True
            self.read_all(side)
        duet.sleep(60)
        for side in duet.sides:
            for stream, told in list(side.book.items()):
                if stream in self.flows:
                    side.tunnel.reset(stream, Stop.CANCELLED, duet.now)
                elif told.reset is None:
                    self.finish(side, stream)
        duet.talk()
        for side in duet.sides:
            self.read_all(side)
        duet.sleep(200)
        self.bytes_arrive_once_and_in_order()
        self.nobody_is_blamed()
        for side in duet.sides:
            other = duet.other(side)
            if side.ended is None:
                assert not (side.tunnel.conversations or side.tunnel.unread or side.tunnel.kept), side.name
                for stream, told in side.book.items():
                    if stream in self.flows or (side.name, stream) in self.unwanted:
                        continue
                    whole = told.finished or told.reset is not None or told.answer not in (None, Code.YES)
                    assert whole or other.book.get(stream, Told()).reset is not None, (side.name, stream, told)


WAYS = [(HIDDEN, CALLABLE), (CALLABLE, CALLABLE), (HIDDEN, PLAIN), (CALLABLE, HIDDEN)]


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 1 << 32))
def test_a_long_evening(seed):
    """The same mischief as below, by a die that does not stop early."""
    die = Random(seed)
    machine = Mischief()
    machine.begin(die.random() < 0.5, die.choice(WAYS), die.random() < 0.5)
    flip = [True, False]
    rules = [
        lambda: machine.open(die.randint(0, 1), die.choice([WEB, WEB, BULK, FLOW])),
        lambda: machine.send(die, die.choice([1, 100, 5_000, 65_536, 200_000]), die.random() < 0.1),
        lambda: machine.send(die, die.choice([1, 100, 5_000, 65_536, 200_000]), False),
        lambda: machine.send_datagrams(die.randint(0, 1), die.randint(0, 2000)),
        lambda: die.random() < 0.3 and machine.give_up(die, die.choice(flip)),
        lambda: machine.read(die.randint(0, 1), die.choice([True, True, False])),
        lambda: machine.send_much(die),
        lambda: machine.sleep(die.choice([0.0, 0.01, 0.15, 0.7, 3.0])),
        lambda: machine.talk(),
        lambda: machine.reach(die.choice(["arrive", "arrive", "late", "lost"])),
        lambda: machine.write(),
        lambda: machine.arrive(die, die.choice([1, 40, 3000, 100_000])),
        lambda: machine.arrive(die, die.choice([1, 40, 3000, 100_000])),
        lambda: machine.cut(die.choice(flip), die),
        lambda: machine.meddle(die, die.choice(["flip", "drop", "double", "swap", "replay", "noise"])),
        lambda: machine.take_over(die.randint(0, 1), die.choice(flip)),
        lambda: machine.duet.late and machine.arrive_late(die),
    ]
    for _ in range(120):
        die.choice(rules)()
        machine.nobody_is_blamed()
        machine.bytes_arrive_once_and_in_order()
        machine.what_is_held_is_bounded()
    machine.teardown()


TestMischief = Mischief.TestCase
TestMischief.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
