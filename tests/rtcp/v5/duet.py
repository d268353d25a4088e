"""Two tunnels that talk in memory: carriers with real keys and no handshake, pipes that can be cut, and programs at
both ends that keep a book of all they were told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from rtcp.v5.carrier import Carrier, Kind
from rtcp.v5.channel import Claim
from rtcp.v5.closing import Close
from rtcp.v5.events import (
    Answered,
    BareLegStands,
    CarrierRetired,
    CarrierWanted,
    ConversationRequested,
    DataArrived,
    DatagramArrived,
    Draining,
    Ended,
    PeerFinished,
    PeerStopped,
    Reset,
    SendRoom,
    SignWanted,
    TunnelEvent,
)
from rtcp.v5.frames import Code, Opening, Purpose, TargetKind
from rtcp.v5.limits import Bounds
from rtcp.v5.payloads import Feature, Parameters
from rtcp.v5.schedule import Cipher, Secrets
from rtcp.v5.tunnel import Tunnel

ALL = Feature.LEGS | Feature.DATAGRAMS
CALLABLE = Parameters(features=ALL | Feature.CALLABLE, port=2980)
HIDDEN = Parameters(features=ALL)
PLAIN = Parameters(features=Feature.DATAGRAMS)
WEB = Opening(Purpose.STREAM, ":443")
BULK = Opening(Purpose.STREAM, ":443", bulk=True)
FLOW = Opening(Purpose.DATAGRAMS, "192.0.2.53:53")
ASSOCIATION = Opening(Purpose.ASSOCIATION, ":0")
PACKETS = Opening(Purpose.PACKETS, "lan", TargetKind.SERVICE)


def carriers(seed: int, *, leg: bool) -> tuple[Carrier, Carrier]:
    """The two ends of what a handshake would leave: the caller's and the called's."""
    secrets = Secrets(*(bytes((at,)) + seed.to_bytes(31, "big") for at in range(2)), tunnel=bytes(16))
    made = [Carrier(secrets, Cipher.AES_256_GCM, called=called, leg=leg) for called in (False, True)]
    return made[0], made[1]


@dataclass
class Told:
    """What one program knows of one conversation."""

    opening: Opening | None = None
    answer: int | None = None
    data: bytearray = field(default_factory=bytearray)
    read: int = 0
    finished: bool = False
    stopped: int | None = None
    reset: int | None = None
    datagrams: list[tuple[object, bytes]] = field(default_factory=list)


def yes(side: Side, asked: ConversationRequested) -> None:
    side.tunnel.answer(asked.id, Code.YES, side.duet.now)


@dataclass(eq=False)
class Side:
    """One tunnel, its program and its shell.  ``reads``: what arrives is consumed at once; ``answers``: the rules;
    ``hears``: what a program does at an event by itself, and whether that was all."""

    duet: Duet
    tunnel: Tunnel
    name: str
    reads: bool = True
    answers: Callable[[Side, ConversationRequested], None] = yes
    hears: Callable[[Side, TunnelEvent], bool] = lambda side, event: False
    events: list[TunnelEvent] = field(default_factory=list)
    book: dict[int, Told] = field(default_factory=dict)
    room: set[int] = field(default_factory=set)
    wanted: list[CarrierWanted] = field(default_factory=list)
    ended: Ended | None = None
    draining: int | None = None
    legs: int = 0

    def told(self, conversation: int) -> Told:
        return self.book.setdefault(conversation, Told())

    def read(self, conversation: int) -> None:
        """What came of ``conversation`` is consumed."""
        told = self.told(conversation)
        size, told.read = len(told.data) - told.read, len(told.data)
        self.tunnel.consumed(conversation, size, self.duet.now)

    def listen(self) -> bool:
        """Takes all events; whether there were any."""
        busy = False
        while (event := self.tunnel.next_event()) is not None:
            busy = True
            assert self.ended is None, "nothing is told after the end"
            if not isinstance(event, DataArrived):
                self.events.append(event)
            if not self.hears(self, event):
                self._hear(event)
        return busy

    def _hear(self, event: TunnelEvent) -> None:
        match event:
            case CarrierRetired(carrier, last):
                self.duet.retired(carrier, last)
            case BareLegStands(_, carrier, first):
                self.duet.bared(carrier, first)
            case CarrierWanted():
                self.wanted.append(event)
            case ConversationRequested(conversation, opening):
                self.told(conversation).opening = opening
                self.answers(self, event)
            case Answered(conversation, code, _):
                self.told(conversation).answer = code
            case DataArrived(conversation, views):
                told = self.told(conversation)
                assert not told.finished and told.reset is None
                assert all(len(view) for view in views)
                for view in views:
                    told.data += view
                if self.reads:
                    self.read(conversation)
            case PeerFinished(conversation):
                assert not self.told(conversation).finished
                self.told(conversation).finished = True
                if self.reads:
                    self.tunnel.complete(conversation, self.duet.now)
            case PeerStopped(conversation, code):
                self.told(conversation).stopped = code
            case Reset(conversation, code):
                assert self.told(conversation).reset is None
                self.told(conversation).reset = code
            case SendRoom(conversation, size):
                assert size > 0
                self.room.add(conversation)
            case DatagramArrived(conversation, address, payload):
                self.told(conversation).datagrams.append((address, bytes(payload)))
            case SignWanted():
                self.tunnel.ping(self.duet.now)
            case Draining(last):
                self.draining = last
            case Ended():
                self.ended = event
            case _:
                pass


@dataclass(eq=False)
class Pipe:
    """One end of a pipe: ``carrier`` of ``side``; what it sends waits in ``sent`` until the other end takes it."""

    side: Side
    carrier: Carrier
    channel: int
    sent: bytearray = field(default_factory=bytearray)
    other: Pipe | None = None
    closed: bool = False
    """No more is written here, and nothing is read: what is in ``sent`` may still arrive."""
    bare: bool = False
    """It is a stream's own, and no tunnel's any more."""


class Duet:
    """``alice`` called ``bob``.  ``now`` moves only by :meth:`sleep`."""

    def __init__(
        self,
        hers: Parameters = HIDDEN,
        his: Parameters = CALLABLE,
        bounds: Bounds | None = None,
        *,
        round_trip: float = 0.05,
    ) -> None:
        self.now = 1000.0
        self.seeds = 0
        self.pipes: dict[Carrier, Pipe] = {}
        self.calls = "arrive"
        """What becomes of a carrier that is wanted: its message 3 may "arrive", be "late", or the call is "lost"."""
        self.late: list[tuple[Pipe, Claim]] = []
        self.deaf: set[Side] = set()
        """Whose tunnel hears nothing any more; what its carriers open is ``overheard``."""
        self.overheard: list[bytes] = []
        self.all_sent: dict[str, bytearray] = {"alice": bytearray(), "bob": bytearray()}
        bounds = Bounds() if bounds is None else bounds
        caller, called = self._carriers(0)
        given = {"round_trip": round_trip, "die": b"\x01" * 8, "now": self.now, "bounds": bounds}
        self.alice = Side(self, Tunnel.call(caller, bytes(16), hers, his, **given), "alice")  # type: ignore[arg-type]
        self.bob = Side(self, Tunnel.welcome(called, bytes(16), his, hers, seen=("192.0.2.1", 4711), **given), "bob")  # type: ignore[arg-type]
        self._lay(Pipe(self.alice, caller, 0), Pipe(self.bob, called, 0))

    @property
    def sides(self) -> tuple[Side, Side]:
        return self.alice, self.bob

    def other(self, side: Side) -> Side:
        return self.bob if side is self.alice else self.alice

    def talk(self) -> None:
        """Until both have said all they have to say, and heard it."""
        for _ in range(100_000):
            if not self.turn():
                return
        raise AssertionError("they never stop")

    def turn(self) -> bool:
        """One turn of both reactors; whether anything happened."""
        busy = False
        for side in self.sides:
            busy |= side.listen()
            wanted, side.wanted = side.wanted, []
            for want in wanted:
                busy = True
                if self.calls != "lost":
                    self.call(side, want.channel)
        busy |= self.write()
        for pipe in list(self.pipes.values()):
            busy |= self.deliver(pipe)
        for side in self.sides:
            busy |= side.listen()
        return busy

    def write(self) -> bool:
        """What the tunnels have to say goes into the pipes."""
        busy = False
        for pipe in list(self.pipes.values()):
            if not pipe.closed and not pipe.bare:
                tunnel = pipe.side.tunnel
                on = tunnel._carriers.get(pipe.carrier)
                is_late = on is not None and on.ack_at is not None and on.ack_at <= self.now
                has_to_say = tunnel.has_to_say or is_late  # for what is late there are deadlines
                for record in tunnel.data_to_send(pipe.carrier, self.now):
                    assert has_to_say, "who has nothing to say is not asked"
                    pipe.sent += record
                    self.all_sent[pipe.side.name] += record
                    busy = True
        return busy

    def deliver(self, pipe: Pipe, size: int | None = None) -> bool:
        """What waits in ``pipe``, or its first ``size`` bytes, arrives."""
        other = pipe.other
        if other is not None and other.bare:  # that is for a program to read
            return False
        data = bytes(pipe.sent[:size])
        del pipe.sent[:size]
        if other is None or other.closed or not (data or pipe.closed):
            return False
        if data and other.side in self.deaf:
            self.overheard += [bytes(record.plain) for record in other.carrier.receive(data, self.now)]
        elif data:
            other.side.tunnel.receive(other.carrier, data, self.now)
        if pipe.closed and not pipe.sent and not other.closed:
            other.closed = True
            other.side.tunnel.lost(other.carrier, self.now)
        return True

    def call(self, side: Side, channel: int) -> Pipe | None:
        """``side`` calls a carrier as its shell would: claim, message 3, attach; the other side joins at once."""
        claim = side.tunnel.claim(channel, self.now)
        if claim is None:
            return None
        pipe, end = self.lay(side, channel)
        bare = side.tunnel.may_bare(channel)
        assert side.tunnel.attach(pipe.carrier, channel, self.now, bare=bare)
        if self.calls == "late":
            self.late.append((end, claim))
        else:
            self.arrive(end, claim, bare=bare)
        return pipe

    def lay(self, side: Side, channel: int) -> tuple[Pipe, Pipe]:
        """A new connection that ``side`` made: its end, and the other."""
        caller, called = self._carriers(channel)
        pipe, end = Pipe(side, caller, channel), Pipe(self.other(side), called, channel)
        self._lay(pipe, end)
        return pipe, end

    def arrive(self, end: Pipe, claim: Claim, *, bare: bool = False) -> Close | None:
        """Message 3 arrives."""
        said = end.side.tunnel.join(end.carrier, claim, None, self.now, bare=bare)
        if said is not None:
            end.sent += end.carrier.seal(Kind.LOOSE, (said.frame(),), self.now)
            end.closed = True
        elif end.closed:  # the caller has gone away meanwhile
            end.side.tunnel.lost(end.carrier, self.now)
        return said

    def cut(self, channel: int = 0, *, lose: bool = True) -> None:
        """All pipes of ``channel`` end; with ``lose`` what is in them never arrives."""
        for pipe in [one for one in self.pipes.values() if one.channel == channel and not one.closed]:
            if lose:
                pipe.sent.clear()
            pipe.closed = True
            pipe.side.tunnel.lost(pipe.carrier, self.now)
        self.pipes = {one.carrier: one for one in self.pipes.values() if one.sent or not one.closed}

    def bared(self, carrier: Carrier, first: bytes) -> None:
        pipe = self.pipes.get(carrier)
        if pipe is not None:
            pipe.sent += first
            pipe.bare = True

    def retired(self, carrier: Carrier, last: bytes) -> None:
        pipe = self.pipes.get(carrier)
        if pipe is not None and not pipe.closed:
            pipe.sent += last
            pipe.closed = True

    def sleep(self, seconds: float) -> None:
        """Time passes; every deadline on the way is kept."""
        until = self.now + seconds
        self.talk()
        for _ in range(100_000):
            due = [one for side in self.sides if (one := side.tunnel.next_deadline()) is not None]
            if not due or min(due) > until:
                break
            self.now = max(self.now, min(due))
            for side in self.sides:
                side.tunnel.handle_timeout(self.now)
            self.talk()
        else:
            raise AssertionError("deadlines that never pass")
        self.now = until

    def send(self, side: Side, conversation: int, data: bytes, *, finish: bool = True) -> None:
        """All of ``data``, as room is given."""
        view = memoryview(data)
        while view:
            taken = side.tunnel.send(conversation, view, self.now)
            view = view[taken:]
            if view:
                side.room.discard(conversation)
                for _ in range(1000):
                    if conversation in side.room or side.told(conversation).reset is not None or side.ended:
                        break
                    if not self.turn():
                        before = self.now
                        self.sleep(0.05)
                        assert self.now > before
                else:
                    raise AssertionError("no room, ever")
        if finish:
            side.tunnel.finish(conversation, self.now)

    def _carriers(self, channel: int) -> tuple[Carrier, Carrier]:
        self.seeds += 1
        return carriers(self.seeds, leg=channel != 0)

    def _lay(self, one: Pipe, other: Pipe) -> None:
        one.other, other.other = other, one
        self.pipes[one.carrier], self.pipes[other.carrier] = one, other


def standing(*args: object, **more: object) -> Duet:
    """A duet whose tunnel is up."""
    duet = Duet(*args, **more)  # type: ignore[arg-type]
    duet.talk()
    assert duet.alice.tunnel.is_up and duet.bob.tunnel.is_up
    return duet
