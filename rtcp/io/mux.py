"""One tunnel of version 5 in the world: its machine, the carriers under it, and the conversations on it.

No task belongs to a tunnel.  The reactor hears its lines, programs talk to its machine directly, and either way one
*turn* follows: what the machine tells is handed on, and what it has to say goes out, all of one turn in as few records
as can be.  Turns that programs cause are put off to the end of the reactor's batch.  A task runs for what has to be
waited for: a carrier that is called, a request that is judged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Protocol

import trio

from cyfs_ns.errors import CyfsError, Refused, Unreachable
from rtcp.events import End
from rtcp.io.answers import TunnelOver, why_reset
from rtcp.io.asking import Asking, Begun
from rtcp.io.calling import Called, call_carrier, call_unasked
from rtcp.io.commons import Commons, Connect
from rtcp.io.conversation import Conversations, MuxedStream
from rtcp.io.judging import Judging
from rtcp.io.line import Line
from rtcp.io.pipe import Answered, DatagramPipe, GiveUp, Pipe, TcpPipe, carries_sealed, log, watch_no_more
from rtcp.io.udp.pipe import UdpPipe
from rtcp.io.wayname import way_of
from rtcp.nat.race import Report, Way
from rtcp.party import Peer
from rtcp.registry import PROBE, TunnelKey
from rtcp.v5 import events as ev
from rtcp.v5.carrier import RecordLayer
from rtcp.v5.channel import Claim
from rtcp.v5.closing import Close, CloseCode
from rtcp.v5.established import Established
from rtcp.v5.frames import Address, Stop
from rtcp.v5.ledger import Share
from rtcp.v5.tunnel import SOON, Tunnel

_LEAST_WAITS = dict.fromkeys((CloseCode.FAULT, CloseCode.REFUSED, CloseCode.REPLACED, CloseCode.REVOKED), 60.0)
"""Seconds, whatever the peer says (§12)."""


class NotNow(CyfsError):
    """The cause of a call that came to nothing: for ``wait`` seconds nobody should come back who is not asked to."""

    def __init__(self, wait: float) -> None:
        super().__init__(f"not for {wait:g} s")
        self.wait = wait


class Ways(Protocol):
    """What looks after the ways of one tunnel (``rtcp/io/nat/``)."""

    @property
    def way(self) -> Way | None:
        """What it goes by now."""

    async def answer(self, pipe: Pipe, /) -> None:
        """The peer opened a stream for signals, which is taken over."""

    def turned(self) -> None:
        """Something was said, or heard."""

    def stood(self) -> None:
        """Control is on another pipe."""

    def network_changed(self) -> None:
        """An address or a route of this machine is another."""

    def close(self) -> None:
        """It is over."""

    def explain(self) -> Report:
        """For people."""


class MuxedTunnel:
    """``machine`` with ``peer``, whose further carriers are called by ``connect``, if we can call it."""

    __slots__ = (
        "__weakref__",
        "_asking",
        "_connect",
        "_flows",
        "_is_due",
        "_is_heard",
        "_is_retired",
        "_is_turning",
        "_judging",
        "_lines",
        "_machine",
        "_moved_by",
        "_moves",
        "_moving",
        "_now",
        "_pingers",
        "_rest",
        "_shared",
        "_standing",
        "_stands",
        "_streams",
        "alarms",
        "boot",
        "end",
        "is_draining",
        "key",
        "last_heard",
        "on_end",
        "over",
        "peer",
        "ways",
    )

    version = 5

    def __init__(
        self,
        machine: Tunnel,
        peer: Peer,
        key: TunnelKey,
        shared: Commons,
        connect: Connect | None = None,
        boot: bytes = b"",
    ) -> None:
        self.peer, self.key = peer, key
        self.boot = boot
        """From which start of its process the peer called it; empty if we did."""
        self.on_end: Callable[[MuxedTunnel], None] | None = None
        self.over = trio.Event()
        self.end: ev.Ended | None = None
        """How it ended; None while it stands."""
        self.is_draining = False
        """Whether new conversations are better opened elsewhere."""
        self.ways: Ways | None = None
        self.alarms: list[float] = []
        self._now = shared.clock
        self.last_heard = self._now()
        """When the peer gave its last sign of life, in trio's time."""
        self._machine, self._shared, self._connect = machine, shared, connect
        shared.holders[machine.share] = self
        self._rest: Share | None = None
        self._lines: dict[RecordLayer, Line] = {}
        self._standing = Conversations(self, shared.reactor)
        self._streams, self._flows = self._standing.streams, self._standing.flows
        self._asking = Asking(machine, self._standing, shared, self._turn, self._soon)
        self._judging = Judging(machine, self._standing, shared, lambda: self.peer, self._soon)
        self._pingers: list[tuple[trio.Event, list[float]]] = []
        self._stands = trio.Event()
        self._is_turning = self._is_heard = self._is_due = self._is_retired = False
        self._moving: trio.Lock | None = None
        self._moves: dict[RecordLayer, trio.Event] = {}
        """Carriers that we called, and when it is known whether they stand."""
        self._moved_by: Connect | None = None

    @property
    def stands(self) -> bool:
        """Whether the peer wanted it, and nothing ended it since."""
        return self._stands.is_set() and self.end is None

    @property
    def id(self) -> bytes:
        return self._machine.id

    @property
    def way(self) -> str:
        """By what it goes now, for people; empty while it has no carrier."""
        if self.key.bootstrap:
            return self.key.bootstrap
        if self.ways is not None and (way := self.ways.way) is not None:
            return way.name
        return "" if self.pipe is None else way_of(self.pipe).name

    @property
    def busy_until(self) -> float:
        """Some seconds after bytes of a conversation last went either way, in trio's time."""
        return self._machine.busy_until

    @property
    def round_trip(self) -> float:
        """Seconds to the peer and back, by what was measured last; 0: nothing was."""
        return self._machine.round_trip

    @property
    def stay_away(self) -> float:
        """Now that it is over: seconds for which nobody should come back who is not asked to."""
        if self.end is None:
            return 0.0
        return max(self.end.wait, _LEAST_WAITS.get(self.end.code, 0.0))

    # What is wanted of it

    async def open_stream(
        self, host: str | None, port: int, *, source: Address | None = None, first: bytes = b""
    ) -> Pipe:
        """Ask the peer to reach ``host`` (None: its own machine) at ``port``; ``source`` is whence, if it is told.

        ``first`` goes out behind the request (section 8.1), as far as there is room: that waits for no answer.  Raises
        ``Refused`` when the peer's rules say no, ``TunnelOver``, or ``Unreachable``.
        """
        return await self._asking.open_stream(host, port, source, first)

    def begin_stream(self, host: str | None, port: int, *, source: Address | None = None) -> Begun[MuxedStream]:
        """Like ``open_stream``, without waiting for the answer.  Raises ``TunnelOver``, or ``Unreachable``."""
        return self._asking.begin_stream(host, port, source)

    def ask_stream(
        self, host: str | None, port: int, then: Answered, *, source: Address | None = None, first: bytes = b""
    ) -> GiveUp | None:
        """Like ``open_stream`` for whoever is no task, but all of ``first`` goes out, or it is not asked; None: it
        takes a task, and ``then`` hears nothing."""
        return self._asking.ask_stream(host, port, source, then, first)

    async def open_datagrams(self, host: str | None, port: int, *, source: Address | None = None) -> DatagramPipe:
        """Like ``open_stream``, for datagrams."""
        return await self._asking.open_datagrams(host, port, source)

    async def ping(self) -> float:
        """Seconds to the peer and back.  Raises ``TunnelOver``."""
        if self._machine.is_ended:
            raise self._gone()
        answer: tuple[trio.Event, list[float]] = (trio.Event(), [])
        self._pingers.append(answer)
        try:
            self._machine.ping(self._now())
            self._turn()
            await answer[0].wait()
        finally:
            if answer in self._pingers:
                self._pingers.remove(answer)
        if not answer[1]:
            raise self._gone()
        return answer[1][0]

    async def shake(self) -> None:
        """The caller's side, after its message 3.  Raises ``Refused`` when the peer does not want us, else
        ``Unreachable``."""
        await self._stands.wait()
        if self.end is not None:
            raise _not_made(self.end) from NotNow(self.stay_away)

    async def is_alive(self) -> bool:
        """Whether the peer gives a sign of life; it has ``PROBE`` seconds."""
        with trio.move_on_after(PROBE), suppress(TunnelOver):
            await self.ping()
            return not self.is_draining
        return False

    def lose(self) -> None:
        """The peer is gone."""
        self.close(CloseCode.LOST)

    def close(self, code: CloseCode = CloseCode.DONE, reason: str = "", *, when_done: bool = False) -> None:
        """End it, and all that is on it; ``when_done``: once all that was said has arrived."""
        self._machine.close(self._now(), code, reason=reason, when_done=when_done)
        self._turn()

    def retire(self) -> None:
        """The peer is to open nothing more on it, nor does the device; it ends with the last open conversation."""
        self._is_retired = True
        self._machine.drain()
        self._turn()

    def abandon(self) -> None:
        """Leave nothing behind.  May be called twice."""
        if not self.over.is_set():
            self.close()

    def make_room(self) -> None:
        """All tunnels together hold too much, and this one the most."""
        if self.end is not None:
            for stream in self._streams.values():
                stream.broke(why_reset(Stop.STALLED))
            self._count_rest()
            return
        self._machine.make_room(self._now())
        self._turn()

    def _count_rest(self) -> None:
        """Streams that were complete when the tunnel ended are read later, and what waits on them counts until then."""
        shared, rest = self._shared, self._rest
        left = sum(stream.waiting for stream in self._streams.values())
        if rest is None:
            if not left:
                return
            rest = self._rest = shared.ledger.open(anonymous=self._machine.share.anonymous)
            shared.holders[rest] = self
        rest.settle(left, held=False)
        if not left:
            rest.close()
            del shared.holders[rest]
            self._rest = None

    def network_changed(self) -> None:
        """An address or a route of this machine is another: is the peer still there?"""
        self._machine.network_changed(self._now())
        self._turn()
        if self.ways is not None:
            self.ways.network_changed()

    # Carriers

    def take_carrier(
        self, established: Established, pipe: Pipe, early: bytes = b"", owed: bytes = b"", *, leg: bool = False
    ) -> None:
        """What the handshake left stands, or is about to; ``owed`` is left to say of it, ``early`` came behind it."""
        watch_no_more(pipe)  # the tunnel has a pulse, which costs an idle device less
        carries_sealed(pipe)
        carrier = established.carrier
        line = self._lines[carrier] = Line(carrier, pipe, self._shared.reactor, self._hear, self._heard, leg=leg)
        if owed:
            line.send([owed])
        if early:
            self._hear(line, early)
        self._turn()

    def join(self, established: Established, claim: Claim, seen: Address | None, *, bare: bool = False) -> Close | None:
        """The peer called a carrier, and it may be ``bare``.  None: ``take_carrier`` follows; else this is to be
        said."""
        verdict = self._machine.join(established.carrier, claim, seen, self._now(), bare=bare)
        if verdict is not None:
            self._turn()
        return verdict

    def _hear(self, line: Line, untrusted: bytes | memoryview) -> None:
        now = self._now()
        if untrusted:
            self.last_heard = line.heard_at = now
            self._machine.receive(line.carrier, untrusted, now)
        else:
            self._machine.lost(line.carrier, now)
            self._drop(line)

    def _heard(self) -> None:
        """Hand on what came, and have programs read it.  The turn waits for what they say to it; if there is nothing,
        there is none."""
        machine, standing = self._machine, self._standing
        self._is_heard = standing.near = True
        try:
            while (event := machine.next_event()) is not None:
                self._take(event)
        finally:
            standing.tell()
            self._is_heard = False
        if self._is_due:
            return
        if machine.has_events or machine.has_to_say:
            self._soon()
        else:
            self._sleep(self.last_heard)

    def _drop(self, line: Line, last: bytes = b"") -> None:
        self._lines.pop(line.carrier, None)
        self._asking.doubt()
        line.close(last, self._shared.nursery)

    async def _call(self, channel: int, connect: Connect) -> None:
        moved_by = self._moved_by
        called = await call_carrier(self._machine, channel, self.peer, self._shared, connect)
        if called is None:
            return
        await self._see_stand(channel, called)
        if channel and self._moved_by is not None and self._moved_by is not moved_by:
            await self._follow(channel, self._moved_by)  # it did not stand yet when the others moved

    async def _see_stand(self, channel: int, called: Called) -> bool:
        """Take what was called; whether it came to stand."""
        established, pipe, owed = called
        carrier = established.carrier
        known = self._moves[carrier] = trio.Event()
        try:
            self.take_carrier(established, pipe, owed=owed, leg=channel != 0)
            await known.wait()
        finally:
            del self._moves[carrier]
        return self._machine.stands(carrier)

    @property
    def pipe(self) -> Pipe | None:
        """What control travels on; None: nothing, for now."""
        line = self._lines.get(carrier) if (carrier := self._machine.carrier) is not None else None
        return None if line is None else line.pipe

    def heard_along(self, pipe: Pipe) -> float:
        """When the peer gave its last sign of life by the way that ``pipe`` goes, in trio's time."""
        way = way_of(pipe)
        return max((line.heard_at for line in self._lines.values() if way_of(line.pipe) == way), default=float("-inf"))

    def strays(self, rank: int) -> list[int]:
        """The legs that go by a way worse than ``rank`` (``Way.rank``)."""
        channels = ((self._machine.carries(carrier), line) for carrier, line in self._lines.items())
        return [channel for channel, line in channels if channel and way_of(line.pipe).rank > rank]

    async def bring(self, legs: Sequence[int], connect: Connect) -> None:
        """Have ``legs`` go over what ``connect`` opens, for each anew; those for which it fails stay where they are."""
        async with trio.open_nursery() as nursery:
            for leg in legs:
                nursery.start_soon(self._follow, leg, connect)

    async def move(self, connect: Connect) -> None:
        """Go on over what ``connect`` opens, for each channel anew; until that stands all stays where it is.

        One move after the other.  Raises ``Unreachable`` and ``Refused``; nothing has changed then.
        """
        if self._moving is None:
            self._moving = trio.Lock()
        async with self._moving:
            fault: Unreachable | Refused | None = None
            before, self._moved_by = self._moved_by, connect
            async with trio.open_nursery() as nursery:
                for leg in self._machine.legs:
                    nursery.start_soon(self._follow, leg, connect)
                try:
                    await self._move(0, connect)
                except (Unreachable, Refused) as failed:
                    fault, self._moved_by = failed, before
                    nursery.cancel_scope.cancel()
        if fault is not None:
            raise fault

    async def _follow(self, leg: int, connect: Connect) -> None:
        try:
            await self._move(leg, connect)
        except (Unreachable, Refused) as fault:  # it is where it was, and is called again when that breaks
            log.debug("a leg to %s did not move: %s", self.peer.did, fault)

    async def _move(self, channel: int, connect: Connect) -> None:
        called = await call_unasked(self._machine, channel, self.peer, self._shared, connect)
        if not await self._see_stand(channel, called):
            raise Unreachable("the peer did not come along", "tunnel_open")

    # Turns

    def ring(self) -> None:
        """A deadline may be due."""
        machine, now = self._machine, self._now()
        due = machine.next_deadline()
        if due is not None and due > now:
            self._shared.alarms.ask(self, due)
            return
        machine.handle_timeout(now)
        self._turn()

    def _soon(self) -> None:
        """A program said something: a turn follows when all have."""
        if not self._is_due:
            self._is_due = True
            if not self._is_turning:
                self._shared.reactor.soon(self._turn)

    def _turn(self) -> None:
        """Hand on what the machine tells, and send what it has to say."""
        self._is_due = False
        if self._is_turning:
            self._is_due = True
            return
        self._is_turning = True
        machine = self._machine
        now = self._now()
        try:
            while True:
                while (event := machine.next_event()) is not None:
                    self._take(event)
                self._is_due = False
                self._speak(now)
                if not self._is_due and not machine.has_events:
                    break
        finally:
            self._is_turning = False
            if self._is_due:  # it failed, and what was said meanwhile goes out all the same
                self._shared.reactor.soon(self._turn)
        self._sleep(now)

    def _sleep(self, now: float) -> None:
        """All is said for now."""
        machine, alarms = self._machine, self.alarms
        for carrier, known in self._moves.items():
            if machine.stands(carrier) or carrier not in self._lines:
                known.set()
        if machine.settle():
            self._shared.reactor.soon(self._shared.make_room)
        if self._is_retired and not machine.conversations:
            self._is_retired = False
            self.close(when_done=True)
            return
        if self.ways is not None:
            self.ways.turned()
        if alarms and alarms[-1] - now <= SOON and not machine.is_rated:
            return  # it rings soon enough, and then asks for the next
        deadline = machine.next_deadline()
        if deadline is not None:
            self._shared.alarms.ask(self, deadline)

    def _speak(self, now: float) -> None:
        """Send what the machine has to say on each line, as far as the line takes it."""
        to_send = self._machine.data_to_send
        for carrier, line in list(self._lines.items()):
            portion = line.portion
            while not line.is_clogged and (records := to_send(carrier, now, portion)):
                line.send(records)
                if sum(map(len, records)) < portion:
                    break

    def _take(self, event: ev.TunnelEvent) -> None:
        match event:
            case ev.DataArrived(number, views):
                if (stream := self._streams.get(number)) is not None:
                    stream.take(views)
            case ev.SendRoom(number):
                if (stream := self._streams.get(number)) is not None:
                    stream.has_room()
            case ev.DatagramArrived(number, _, payload):
                if (flow := self._flows.get(number)) is not None:
                    flow.take(payload)
            case ev.PeerFinished(number, bared):
                if (stream := self._streams.get(number)) is not None:
                    stream.peer_finished(bared)
            case ev.PeerStopped(number):
                if (stream := self._streams.get(number)) is not None:
                    stream.peer_stopped()
            case ev.Answered(number, code, _):
                self._asking.answered(number, code)
            case ev.Reset(number, code):
                self._reset(number, code)
            case ev.ConversationRequested(number, opening):
                self._judging.asked(number, opening)
            case ev.Alive(round_trip):
                self._tell_pingers(round_trip)
            case ev.SignWanted(carrier):
                self._want_sign(carrier)
            case ev.Stands():
                self._stands.set()
                if self._pingers:
                    self._machine.ping(self._now())
                if self.ways is not None:
                    self._shared.reactor.soon(self._stood)
            case ev.CarrierWanted(channel):
                if self._connect is not None:
                    self._shared.nursery.start_soon(self._call, channel, self._connect)
            case ev.CarrierRetired(carrier, last):
                if (line := self._lines.get(carrier)) is not None:
                    self._drop(line, last)
            case ev.Draining():
                self.is_draining = True
            case ev.Ended():
                self._ended(event)
            case ev.BareLegStands(number, carrier, first):
                self._bare(number, carrier, first)
            case ev.LegReady(number):
                if (stream := self._streams.get(number)) is not None:
                    stream.leg_ready()
            case ev.PeerShifted(number):
                if (stream := self._streams.get(number)) is not None:
                    stream.peer_shifted()

    def _want_sign(self, carrier: RecordLayer) -> None:
        """Over UDP one datagram there and its ack; an answer in a record would have to be acknowledged, too."""
        line = self._lines.get(carrier)
        if line is None or not isinstance(line.pipe, UdpPipe):
            self._machine.ping(self._now())
        elif line.pipe.machine.heard_at > line.heard_at:  # the peer has asked, or acknowledged, since
            self._alive(line, line.pipe)
        else:
            line.pipe.ask(partial(self._alive, line, line.pipe))

    def _alive(self, line: Line, pipe: UdpPipe) -> None:
        self.last_heard = line.heard_at = pipe.machine.heard_at
        self._machine.alive(line.carrier, line.heard_at)
        self._soon()

    def _bare(self, number: int, carrier: RecordLayer, first: bytes) -> None:
        """A connection becomes the stream's own."""
        line, stream = self._lines.pop(carrier), self._streams.get(number)
        pipe = line.release(first)
        if stream is None:  # closed just now, and what it has to say still goes over control
            if pipe is not None:
                pipe.close()
        elif isinstance(pipe, TcpPipe):
            stream.has_bare_leg(pipe, self._shared.reactor, self._shared.nursery, self._now)
        else:
            stream.broke(why_reset(Stop.LOST))
            self._machine.reset(number, Stop.LOST, self._now())

    def _stood(self) -> None:
        if self.ways is not None and self.end is None:
            self.ways.stood()

    def _reset(self, number: int, code: int) -> None:
        ended, why = self._machine.ended, why_reset(code)
        if ended is None:
            self._asking.failed(number, Unreachable(why, "tunnel_open"))
        else:
            self._asking.failed(number, self._gone() if self._stands.is_set() else _not_made(ended))
        self._judging.reset(number)
        if (stream := self._streams.get(number)) is not None:
            stream.broke(why, keep=code == Stop.LOST and ended is not None)
        if (flow := self._flows.get(number)) is not None:
            flow.broke(why)

    def _tell_pingers(self, round_trip: float | None) -> None:
        for answered, answer in self._pingers:
            if round_trip is not None:
                answer.append(round_trip)
            answered.set()
        self._pingers.clear()

    def _ended(self, event: ev.Ended) -> None:
        self.end = event
        del self._shared.holders[self._machine.share]
        self._count_rest()
        if event.code is CloseCode.REPLACED and self.peer.dialled:
            log.warning("another machine has the same key as this one: %s was called from there", self.peer.did)
        for line in list(self._lines.values()):
            self._drop(line)
        self._tell_pingers(None)
        self._stands.set()
        if self.ways is not None:
            self.ways.close()
        self.over.set()
        if self.on_end is not None:
            self.on_end(self)

    def _gone(self) -> TunnelOver:
        ended = self._machine.ended
        return TunnelOver(f"the tunnel is over: {ended.why if ended else 'closed'}", "tunnel_open")

    # What conversations say (``conversation.Talk``)

    def send(self, conversation: int, data: bytes | memoryview) -> int:
        taken = self._machine.send(conversation, data, self._now())
        self._soon()
        return taken

    def consumed(self, conversation: int, size: int) -> None:
        if self._rest is not None:
            self._count_rest()
            return
        self._machine.consumed(conversation, size, self._now())
        if not self._is_heard and self._machine.has_news:
            self._soon()

    def finish(self, conversation: int, bared: int = 0) -> None:
        self._machine.finish(conversation, self._now(), bared)
        self._soon()

    def sealed(self, conversation: int) -> None:
        self._machine.sealed(conversation)

    def cut(self, conversation: int) -> None:
        self._machine.cut(conversation, self._now())
        self._soon()

    def complete(self, conversation: int) -> None:
        self._machine.complete(conversation, self._now())
        self._soon()

    def carried(self) -> None:
        self._machine.carried(self._now())
        self._soon()

    def stop(self, conversation: int) -> None:
        self._machine.stop(conversation, Stop.CANCELLED, self._now())
        self._soon()

    def reset(self, conversation: int, code: Stop) -> None:
        self._machine.reset(conversation, code, self._now())
        self._soon()

    def send_datagram(self, conversation: int, data: bytes | memoryview) -> None:
        self._machine.send_datagram(conversation, None, data, self._now())
        self._soon()

    def forget(self, conversation: int) -> None:
        self._standing.forget(conversation)
        if self._rest is not None:
            self._count_rest()
        if self._is_retired:
            self._soon()


def _not_made(ended: ev.Ended) -> CyfsError:
    """There was none before it ended so."""
    return Refused(ended.why) if ended.end is End.REFUSED else Unreachable(ended.why, "tunnel_open")
