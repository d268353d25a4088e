"""What programs want of a tunnel, and how it becomes records (§8 of the document).

What waits lies in one place each: what a program hands in, in its stream until a record takes it; records, in their
channel until they are acknowledged; what the peer sent, with the program, which says how much of it is read.  So every
queue has its bound: credit, what may be kept, or the window.

The lower third of the tunnel: ``hearing.py`` adds what the peer says, ``tunnel.py`` carriers, the clock and the end.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

from cyfs_ns.errors import BadWire, Misuse, Refused, Unreachable
from rtcp.v5 import frames as f
from rtcp.v5.carrier import MOST_PLAIN, Kind, RecordLayer
from rtcp.v5.channel import Channel
from rtcp.v5.closing import Close, CloseCode
from rtcp.v5.conversations import Conversation, Flow, Ids, Stream, unread_of
from rtcp.v5.credit import Allowance, Pool, Window
from rtcp.v5.events import (
    Answered,
    BareLegStands,
    DataArrived,
    DatagramArrived,
    Ended,
    LegReady,
    PeerFinished,
    Reset,
    SendRoom,
    TunnelEvent,
)
from rtcp.v5.frames import Address, Code, Opening, Purpose, Stop
from rtcp.v5.ledger import Ledger, Share
from rtcp.v5.legs import Leg, LegNumbers
from rtcp.v5.life import BUSY_FOR, Why
from rtcp.v5.limits import Bounds
from rtcp.v5.outbox import SPARSE, Outbox
from rtcp.v5.payloads import Feature, Parameters

_ACK_EVERY = 64 << 10
_MOST_WAITING = 128 << 10
_MOST_WAITING_ON_LEG = 512 << 10
_MOST_WAITING_IN_ALL = 512 << 10
_MOST_SPARSE_IN_ALL = 512 << 10  # beyond that, of streams that have no more than SPARSE waiting
FLOW_PURPOSES: Mapping[int, Feature] = {
    Purpose.DATAGRAMS: Feature.DATAGRAMS,
    Purpose.ASSOCIATION: Feature.DATAGRAMS,
    Purpose.PACKETS: Feature.PACKETS,
    Purpose.ETHERNET: Feature.PACKETS,
}
"""What a side has to offer for a purpose; byte streams need nothing."""


class Terms(NamedTuple):
    """What both sides told each other, what we bear, and whether we began it."""

    ours: Parameters
    theirs: Parameters
    bounds: Bounds
    share: Share | None
    initiator: bool


class Talking(ABC):
    """Conversations, their credit and their legs, seen from the program's side."""

    __slots__ = (
        "_asked",
        "_asking",
        "_bounds",
        "_busy_until",
        "_can_call",
        "_closing",
        "_control",
        "_conversations",
        "_dgrams",
        "_drained_at",
        "_events",
        "_has_legs",
        "_ids",
        "_initiator",
        "_last_of_peer",
        "_leg_numbers",
        "_legs",
        "_now",
        "_orphans",
        "_our_count",
        "_ours",
        "_outbox",
        "_pool",
        "_round_trip",
        "_share",
        "_starved",
        "_their_count",
        "_their_flows",
        "_theirs",
        "_unread_since",
        "_waiting",
    )

    def __init__(self, terms: Terms, round_trip: float, now: float) -> None:
        ours, theirs, bounds, share, initiator = terms
        self._ours, self._theirs, self._bounds, self._initiator = ours, theirs, bounds, initiator
        self._share = share or Ledger().open(anonymous=False)
        self._round_trip = round_trip
        self._can_call = initiator or Feature.CALLABLE in theirs.features
        self._has_legs = Feature.LEGS in ours.features & theirs.features
        self._now = self._busy_until = now
        self._events: deque[TunnelEvent] = deque()
        self._control = Channel(0, bounds.kept, _ACK_EVERY)
        self._legs: dict[int, Leg] = {}
        self._leg_numbers = LegNumbers(initiator=initiator)
        self._conversations: dict[int, Conversation] = {}
        self._ids = Ids(initiator=initiator)
        self._our_count = self._their_count = self._their_flows = 0
        self._pool = Pool(ours.tunnel_credit, bounds.unread)
        self._outbox = Outbox(Allowance(theirs.tunnel_credit), bounds, now)
        self._dgrams: list[Flow] = []
        self._waiting = 0
        # by age, the oldest first
        self._starved: dict[int, None] = {}
        self._asked: dict[int, float] = {}
        self._asking: dict[int, float] = {}
        self._unread_since: dict[int, float] = {}
        self._orphans: dict[int, float] = {}
        self._drained_at: int | None = None
        self._last_of_peer: int | None = None
        self._closing: Close | None = None

    @property
    def kept(self) -> int:
        """Bytes held because the peer has not acknowledged them, on all channels, or because they wait for a record."""
        kept = self._control.kept_size + self._outbox.queue_size + self._waiting
        if not self._legs and not self._dgrams:
            return kept
        for leg in self._legs.values():
            kept += leg.channel.kept_size
            found = self._conversations.get(leg.conversation)
            if isinstance(found, Stream) and found.shifted:
                kept += found.waiting
        for flow in self._dgrams:
            kept += flow.queue.size
        return kept

    @property
    def share(self) -> Share:
        """What it holds of the ledger of all tunnels."""
        return self._share

    @property
    def unread(self) -> int:
        """Bytes of streams on control that arrived and are not read."""
        return self._pool.unread

    @property
    def conversations(self) -> int:
        return len(self._conversations)

    @property
    def round_trip(self) -> float:
        return self._round_trip

    @property
    def has_events(self) -> bool:
        """Whether ``next_event`` has one."""
        return bool(self._events)

    @property
    def has_news(self) -> bool:
        """Whether there is an event, or something to say on control."""
        return bool(self._events) or not self._outbox.is_empty

    def next_event(self) -> TunnelEvent | None:
        """The next thing that happened; None: that was all."""
        if not self._events:
            return None
        event = self._events.popleft()
        if type(event) is Ended:  # whatever was being done when the tunnel ended is of no interest
            self._events.clear()
        return event

    # What programs want

    def open(self, opening: Opening, now: float) -> int:
        """Ask the peer for a conversation; ``Answered`` follows.  Bytes may be sent at once.

        Raises ``Refused`` while the peer lets us have no more at a time or cannot do what is asked, ``Unreachable``
        when the tunnel is over or drains, ``Misuse`` for what cannot be written.
        """
        if self.is_ended or self._closing is not None or self._last_of_peer is not None or self._ids.are_spent:
            raise Unreachable("the tunnel takes no new conversations", "tunnel_open")
        feature = FLOW_PURPOSES.get(opening.purpose)
        if feature is not None and feature not in self._theirs.features:
            raise Refused("the peer cannot carry such flows")
        if self._our_count >= self._theirs.conversations:
            raise Refused(f"{self._our_count} conversations are open already")
        frame = f.write_open(self._ids.upcoming, opening)
        conversation = self._made(self._ids.next_ours(), opening, now, ours=True)
        conversation.opening = frame
        self._our_count += 1
        self._asked[conversation.id] = now + self._bounds.give_up
        self._outbox.open(conversation)
        conversation.wants_leg = opening.bulk or feature is Feature.PACKETS
        return conversation.id

    def answer(self, conversation: int, code: int, now: float, reason: str = "") -> bool:
        """Answer ``ConversationRequested``; False: too late, it must not be served.  What came already is told now."""
        self._now = now
        found = self._conversations.get(conversation)
        if found is None or found.ours or found.answered:
            return False
        del self._asking[conversation]
        self._put(f.write_answer(conversation, code, reason))
        if code != Code.YES:
            self._drop(found)
            return False
        found.answered = True
        if isinstance(found, Flow):
            for payload in self._let_go(found):
                self._deliver_datagram(found, memoryview(payload), now)
            return not self.is_ended
        held, found.held = found.held, None
        if held:
            self._events.append(DataArrived(conversation, [memoryview(bytes(held))]))
        if found.ended:
            self._events.append(PeerFinished(conversation))
        self._settle(found)
        self._want_leg_if_due(found, now)
        return not self.is_ended

    def send(self, conversation: int, data: bytes | memoryview, now: float) -> int:
        """How many of the first bytes of ``data`` are taken; after less than all ``SendRoom`` follows.

        ``bytes`` that are taken whole are kept by reference.  What comes after RESET or STOP is taken and dropped.
        """
        stream = self._stream(conversation)
        size = len(data)
        if stream is None:
            return size
        if stream.finishing:
            if stream.stop_seen:
                return size
            raise Misuse("bytes after the end")
        if not (stream.ours or stream.answered):
            raise Misuse("bytes before the answer")
        room = self._room(stream)
        if stream.shifted and stream.is_bare:
            return 0  # it was told that it sends there
        if stream.leg is None:
            self._want_leg_if_due(stream, now)
        if room < size:
            size = room
            data = memoryview(data)[:size] if size > 0 else b""
            stream.starved = True
            if stream.allowance.left > size and not stream.shifted:
                self._starved[conversation] = None
                if stream.full_at is None:
                    stream.full_at = now
        if size <= 0:
            return 0
        stream.wait(data if type(data) is bytes else bytes(data))
        stream.allowance.sent += size
        if not stream.shifted:
            self._waiting += size
            if stream.said:
                self._outbox.ring(stream)
        return size

    def sealed(self, conversation: int) -> None:
        """What the stream carries is sealed end to end by others: its leg may be bare, if the peer's program says so,
        too."""
        stream = self._stream(conversation)
        if stream is not None:
            stream.sealed = True

    def finish(self, conversation: int, now: float, bared: int = 0) -> None:
        """No more bytes follow those taken, and the ``bared`` ones that went over the bare leg."""
        self._now = now
        stream = self._stream(conversation)
        if stream is None or stream.finishing:
            return
        stream.finishing, stream.bared = True, bared
        self._starved.pop(conversation, None)
        self._settle(stream)

    def consumed(self, conversation: int, size: int, now: float) -> None:
        """``size`` more bytes of what ``DataArrived`` brought are read."""
        self._now = now
        stream = self._stream(conversation)
        if stream is None or stream.stopped:
            return
        window = stream.window
        if size > window.unread:
            raise Misuse("more is read than came")
        raised = window.consumed(size, self._round_trip, now)
        if raised and not (stream.ended or stream.stopped):
            self._outbox.credit(conversation, window.limit)
        self._read(stream, size, now)
        if stream.is_gone and not window.unread:
            self._drop(stream)

    def stop(self, conversation: int, code: int, now: float) -> None:
        """We want no more of the peer's bytes; what is not read is dropped."""
        self._now = now
        stream = self._stream(conversation)
        if stream is None or stream.stopped or not (stream.ours or stream.answered):
            return
        stream.stopped, stream.stop_code, stream.coming = True, code, False
        self._read(stream, stream.window.unread, now)
        stream.window.drop()
        self._outbox.forget(conversation)
        if stream.is_gone:
            self._drop(stream)
        elif stream.said and not stream.ended:
            self._put(f.frame_u8(f.STOP, conversation, code))

    def cut(self, conversation: int, now: float) -> None:
        """The bare leg ended before its time, unless the END of the peer's bytes is still on its way."""
        self._now = now
        stream = self._stream(conversation)
        if stream is not None and not stream.ended:
            self._orphan(stream)

    def complete(self, conversation: int, now: float) -> None:
        """All that the peer said that it sent on the bare leg is read: nothing of the stream is held any more."""
        self._now = now
        stream = self._stream(conversation)
        if stream is not None and stream.coming:
            stream.coming = False
            self._check_gone(stream)

    def carried(self, now: float) -> None:
        """Bytes go over a bare leg."""
        self._busy_until = now + BUSY_FOR

    def reset(self, conversation: int, code: int, now: float) -> None:
        """The conversation is over, and its peer is told."""
        self._now = now
        found = self._conversations.get(conversation)
        if found is None:
            return
        if not (found.ours or found.answered):
            self.answer(conversation, Code.UNREACHABLE, now)
            return
        self._say_reset(found, code)
        self._drop(found, reset=True)

    def send_datagram(
        self, conversation: int, address: Address | None, payload: bytes | memoryview, now: float
    ) -> None:
        """A datagram for a flow.  It is not resent, and dropped if it is too large or there is no way for it now."""
        flow = self._conversations.get(conversation)
        if not isinstance(flow, Flow) or not (flow.ours or flow.answered):
            return
        frame = f.write_datagram(conversation, address, payload)
        if frame is None:
            return
        on_leg = flow.leg is not None and flow.leg.rose
        if not flow.ringed and not on_leg:
            flow.ringed = True
            self._dgrams.append(flow)
        flow.queue.put(frame, now, 1 if on_leg else len(self._dgrams))

    def drain(self) -> None:
        """Take no new conversations; those that stand go on."""
        if self._drained_at is None and not self.is_ended:
            self._drained_at = self._ids.theirs
            self._put(f.frame(f.DRAIN, self._ids.theirs))

    # What goes into records

    def _control_to_send(
        self, channel: Channel, carrier: RecordLayer, out: list[bytes | bytearray], most: int, now: float
    ) -> None:
        while most > 0:
            made = self._outbox.record(channel, now)
            if made is not None:
                channel.keep(Kind.NUMBERED, made.plain, made.frames)
                out.append(carrier.seal(Kind.NUMBERED, (made.plain,), now))
                most -= len(made.plain)
                if made.octets:
                    self._waiting -= made.octets
                    self._busy_until = now + BUSY_FOR
                for conversation in made.opened:
                    self._opened(conversation, now)
                for stream in made.drained:
                    self._settle(stream)
                if channel.carrier is not carrier:  # that ended the tunnel
                    return
            dgrams = self._take_dgrams(now) if self._dgrams else None
            if dgrams:
                out.append(carrier.seal(Kind.LOOSE, dgrams, now))
                most -= sum(map(len, dgrams))
            if (self._outbox.is_empty and not self._dgrams) or (made is None and not dgrams):
                break
        if self._starved:
            self._feed_starved()

    def _leg_to_send(self, leg: Leg, carrier: RecordLayer, out: list[bytes | bytearray], most: int, now: float) -> None:
        channel = leg.channel
        found = self._conversations.get(leg.conversation)
        if isinstance(found, Flow):
            while most > 0 and (dgrams := found.queue.take(MOST_PLAIN, now)):
                out.append(carrier.seal(Kind.LOOSE, dgrams, now))
                most -= sum(map(len, dgrams))
                leg.busy_until = self._busy_until = now + BUSY_FOR
            return
        if found is not None and found.shifted:
            blocked = channel.blocked_at
            while most > 0 and found.waiting and not channel.is_full(now):
                pieces = found.cut(MOST_PLAIN)
                plain = pieces[0] if len(pieces) == 1 else b"".join(pieces)
                channel.keep(Kind.RAW, plain)
                out.append(carrier.seal(Kind.RAW, (plain,), now))
                most -= len(plain)
                leg.busy_until = self._busy_until = now + BUSY_FOR
            if blocked is None and channel.blocked_at is not None and not self._share.is_tight:
                channel.most = min(2 * channel.most, self._bounds.most_leg_kept)
            if not found.waiting:
                self._settle(found)
            if found.starved and found.waiting <= _MOST_WAITING_ON_LEG // 2:
                self._tell_room(found)
        if leg.finish and most > 0:  # or something is to be sent again before it
            leg.finish = False
            plain = f.frame(f.FIN, leg.conversation)
            channel.keep(Kind.NUMBERED, plain, 1)
            out.append(carrier.seal(Kind.NUMBERED, (plain,), now))

    def _is_fed(self, leg: Leg) -> bool:
        """Whether something waits for ``leg``, or who was kept waiting may go on."""
        found = self._conversations.get(leg.conversation)
        if isinstance(found, Flow):
            return len(found.queue) > 0
        return found is not None and found.shifted and not leg.bare and (found.waiting > 0 or found.starved)

    def _opened(self, conversation: Conversation, now: float) -> None:
        """The OPEN of ``conversation`` is on its way."""
        conversation.opening = b""
        self._ids.said = conversation.id
        if conversation.cancelled is not None:
            self._put(f.frame_u8(f.RESET, conversation.id, conversation.cancelled))
            return
        if isinstance(conversation, Stream):
            if conversation.stopped:
                self._put(f.frame_u8(f.STOP, conversation.id, conversation.stop_code))
            self._settle(conversation)
        self._want_leg_if_due(conversation, now)

    def _settle(self, stream: Stream) -> None:
        """If all that waited is on its way, the end may follow; and who has a leg goes there."""
        if not stream.said or stream.finished or not (stream.ours or stream.answered):
            return
        leg = stream.leg
        if (
            leg is not None
            and leg.rose
            and not stream.shifted
            and not (stream.finishing and not stream.waiting)
            and (not leg.bare or (self._bares(stream) and not stream.waiting))
        ):
            stream.shifted = True
            self._waiting -= stream.waiting
            self._put(f.frame_u32(f.SHIFT, stream.id, leg.channel.number))
            self._events.append(LegReady(stream.id, leg.channel.number))
            if leg.bare:
                stream.starved = False
                self._starved.pop(stream.id, None)
            elif stream.starved:
                self._tell_room(stream)
        if stream.finishing and not stream.waiting:
            stream.finished = True
            if stream.shifted:
                assert leg is not None
                if leg.bare:
                    self._put(f.frame_u64(f.END, stream.id, stream.bared))
                else:
                    leg.finish = True
            else:
                self._put(f.frame(f.FIN, stream.id))
            self._check_gone(stream)

    @staticmethod
    def _bares(stream: Stream) -> bool:
        """Whether ``stream`` goes over to its bare leg once nothing of it waits.  Who called it is the first, so that
        nothing comes behind the WELCOME."""
        leg = stream.leg
        return leg is not None and leg.bare and (leg.ours or stream.peer_shifted)

    def _room(self, stream: Stream) -> int:
        """How many bytes of ``stream`` may wait more."""
        if self._bares(stream):
            return 0
        left = stream.allowance.left
        if stream.shifted:
            return min(left, _MOST_WAITING_ON_LEG - stream.waiting)
        in_all = _MOST_WAITING_IN_ALL - self._waiting
        # Whoever has little to say does not wait for those who have much and may not say it.
        sparse = min(SPARSE - stream.waiting, in_all + _MOST_SPARSE_IN_ALL)
        return min(left, _MOST_WAITING - stream.waiting, max(in_all, sparse))

    def _tell_room(self, stream: Stream) -> None:
        room = self._room(stream)
        self._starved.pop(stream.id, None)
        if room > 0:
            stream.starved = False
            self._events.append(SendRoom(stream.id, room))
        elif stream.allowance.left > 0 and not stream.shifted:
            self._starved[stream.id] = None

    def _feed_starved(self) -> None:
        """Something waits less: whoever could not hand in all may go on, the longest starved first."""
        if self._waiting > _MOST_WAITING_IN_ALL // 2:
            return
        told = 0
        for conversation in list(self._starved):
            stream = self._conversations[conversation]
            assert isinstance(stream, Stream)
            if stream.shifted or stream.waiting > _MOST_WAITING // 2:
                continue
            told += min(stream.allowance.left, _MOST_WAITING)
            stream.full_at = None
            self._tell_room(stream)
            if told >= _MOST_WAITING_IN_ALL:
                return

    def _take_dgrams(self, now: float) -> list[bytes]:
        """Of the flows on control, in turn: as much as one record holds."""
        taken: list[bytes] = []
        room = MOST_PLAIN
        flows = self._dgrams
        while flows:
            flow = flows.pop(0)
            frames = flow.queue.take(room, now)
            room -= sum(map(len, frames))
            taken += frames
            if len(flow.queue):
                flows.append(flow)
                break
            flow.ringed = False
        if taken:
            self._busy_until = now + BUSY_FOR
        return taken

    def _put(self, frame: bytes) -> None:
        """A frame for control that needs no credit.  Who makes us hold too many of them ends the tunnel."""
        self._outbox.put(frame)
        kept = self._control.kept_size + self._outbox.queue_size
        if (
            kept > self._bounds.kept + MOST_PLAIN + self._bounds.kept_more
        ):  # one record may have filled it over the brim
            self._say_close(Close(CloseCode.LIMIT, 60, "too much is not acknowledged"))

    # Conversations

    def _made(self, conversation: int, opening: Opening, now: float, *, ours: bool) -> Conversation:
        made: Conversation
        if opening.purpose == Purpose.STREAM:
            credit = self._ours.stream_credit
            window = Window(credit, max(self._bounds.window, credit), self._share, now)
            made = Stream(conversation, opening, Allowance(self._theirs.stream_credit), window, ours=ours)
        else:
            made = Flow(conversation, ours=ours)
        self._conversations[conversation] = made
        return made

    def _stream(self, conversation: int) -> Stream | None:
        found = self._conversations.get(conversation)
        if isinstance(found, Flow):
            raise Misuse("a flow has no bytes")
        return found

    def _check_gone(self, stream: Stream) -> None:
        if not stream.is_gone:
            return
        if not stream.window.unread:
            self._drop(stream)
        elif stream.leg is not None:
            self._close_leg_if_done(stream.leg)

    def _reset(self, conversation: Conversation, code: Stop) -> None:
        """We end it, and tell both sides."""
        if conversation.ours or conversation.answered:
            self._say_reset(conversation, code)
        else:
            self._put(f.write_answer(conversation.id, Code.QUOTA))
        self._drop(conversation, reset=True)
        self._events.append(Reset(conversation.id, code))

    def _say_reset(self, conversation: Conversation, code: int) -> None:
        if isinstance(conversation, Stream) and conversation.is_gone:
            return
        if conversation.said:
            self._put(f.frame_u8(f.RESET, conversation.id, code))
        else:
            conversation.cancelled = code

    def _drop(self, conversation: Conversation, *, reset: bool = False) -> None:
        """Nothing is left of it here; ``reset``: by our RESET, which the peer has not seen yet."""
        number = conversation.id
        if self._conversations.pop(number, None) is None:
            return
        self._asked.pop(number, None)
        self._asking.pop(number, None)
        self._orphans.pop(number, None)
        self._outbox.forget(number)
        if conversation.ours:
            self._our_count -= 1
        else:
            self._their_count -= 1
        if isinstance(conversation, Flow):
            self._their_flows -= not conversation.ours
            conversation.queue.clear()
            self._let_go(conversation)
        else:
            self._unread_since.pop(number, None)
            self._starved.pop(number, None)
            conversation.window.close()
            self._pool.unread -= conversation.control_unread
            if conversation.control_unread and self._pool.renewed():
                self._outbox.credit(0, self._pool.limit)
            dropped = conversation.drop_waiting()
            if not conversation.shifted:
                self._waiting -= dropped
        leg = conversation.leg
        if leg is not None and leg.bare:
            self._legs.pop(leg.channel.number, None)
        elif leg is not None and self._legs.get(leg.channel.number) is leg:
            leg.reset = reset
            if reset:
                leg.until = self._now + self._bounds.leg_rises
            self._close_leg_if_done(leg)

    def _let_go(self, flow: Flow) -> list[bytes]:
        """Datagrams that waited for our answer."""
        held, flow.held = flow.held, []
        self._share.unread -= sum(map(len, held))
        return held

    def _read(self, stream: Stream, size: int, now: float) -> None:
        """``size`` bytes of ``stream`` no longer wait for its reader."""
        control = min(size, stream.control_unread)
        stream.control_unread -= control
        self._pool.unread -= control
        if control and self._unread_since.pop(stream.id, None) is not None and stream.control_unread:
            self._unread_since[stream.id] = now
        if control and self._pool.renewed():
            self._outbox.credit(0, self._pool.limit)

    def _unanswered(self, conversation: Conversation, ours: bool) -> None:
        if ours:
            self._say_reset(conversation, Stop.TIMEOUT)
            self._drop(conversation, reset=True)
            self._events.append(Answered(conversation.id, Code.TIMEOUT, "the peer did not answer"))
        else:
            self._put(f.write_answer(conversation.id, Code.TIMEOUT))
            self._drop(conversation)
            self._events.append(Reset(conversation.id, Stop.TIMEOUT))

    def _reset_unread(self, now: float) -> None:
        """When all is full, every stream waits for those that nobody reads: they make room, the largest first.

        A quarter, and not only what the next of them would fill at once.
        """
        if not self._pool.is_full:
            return
        patience = self._bounds.unread_for
        unread = [self._conversations[one] for one, since in self._unread_since.items() if now - since >= patience]
        for stream in sorted(unread, key=unread_of, reverse=True):
            self._reset(stream, Stop.STALLED)
            if self._pool.unread <= self._pool.most * 3 // 4:
                return

    def _deliver_datagram(self, flow: Flow, payload: memoryview, now: float) -> None:
        address, named, datagram = f.read_datagram(payload)
        if named and flow.ours:
            raise BadWire("a datagram from a name")
        if address is not None and not flow.ours and not flow.destinations.touch(address, now):
            return
        self._events.append(DatagramArrived(flow.id, address, datagram))

    # Legs

    def _want_leg_if_due(self, conversation: Conversation, now: float, *, asked: bool = False) -> None:
        """Announce or ask for a leg, once, if the conversation is bulk by now."""
        if isinstance(conversation, Stream) and not conversation.wants_leg and conversation.leg is None:
            conversation.wants_leg = self._is_bulk(conversation, now)
        if not conversation.wants_leg or not conversation.said or conversation.leg is not None or not self._has_legs:
            return
        if self._conversations.get(conversation.id) is not conversation:
            return
        if not self._initiator:  # it has called once, so it can; who was called may only think so
            if not asked and not conversation.asked_leg:
                conversation.asked_leg = True
                self._put(f.frame_u32(f.LEG_ASK, conversation.id, 0))
        elif len(self._legs) < min(self._ours.legs, self._theirs.legs):
            leg = self._add_leg(conversation, self._leg_numbers.next_ours(), now, ours=True)
            self._put(f.frame_u32(f.LEG, conversation.id, leg.channel.number))
            self._start_calls(leg.channel, Why.LEG, now)

    def _is_bulk(self, stream: Stream, now: float) -> bool:
        bounds = self._bounds
        if now - stream.rush_at > bounds.bulk_within:
            stream.rush_at, stream.rush = now, 0
        waited = stream.full_at is not None and now - stream.full_at >= bounds.bulk_waiting
        stream.bulk = stream.bulk or stream.rush >= bounds.bulk or (waited and stream.waiting >= _MOST_WAITING // 2)
        return stream.bulk

    def _add_leg(self, conversation: Conversation, number: int, now: float, *, ours: bool) -> Leg:
        leg = Leg(number, conversation.id, self._bounds, now, ours=ours)
        self._legs[number] = leg
        conversation.leg = leg
        return leg

    def _rise(self, leg: Leg) -> None:
        leg.rose = True
        found = self._conversations.get(leg.conversation)
        if isinstance(found, Stream):
            found.window.most = max(found.window.most, self._bounds.leg_window)
            self._settle(found)
        elif found is not None:
            self._events.append(LegReady(found.id, leg.channel.number))

    def _bare(self, leg: Leg, carrier: RecordLayer, first: bytes) -> None:
        """The leg stands on ``carrier``, whose pipe is the stream's once ``first`` is sent there."""
        leg.rose = leg.bare = True
        leg.until = None
        leg.channel.calls = leg.channel.pending = leg.channel.claimed = None
        stream = self._conversations[leg.conversation]
        assert isinstance(stream, Stream)
        self._events.append(BareLegStands(stream.id, carrier, first))
        self._settle(stream)

    def _close_leg_if_done(self, leg: Leg) -> None:
        """Its conversation is gone and nothing waits for an ACK; who has sent RESET leaves the CLOSE to the peer, which
        would else hear of the one before the other."""
        if leg.channel.kept or leg.finish or self._legs.get(leg.channel.number) is not leg:
            return
        found = self._conversations.get(leg.conversation)
        gone = found is None or (isinstance(found, Stream) and found.is_gone)
        if gone and not leg.reset:
            self._leg_over(leg, Close(CloseCode.DONE), lost=False)

    def _leg_over(self, leg: Leg, say: Close | None, *, lost: bool) -> None:
        """The leg is no more; ``say`` so on its carrier.  ``lost``: before its time."""
        channel = leg.channel
        if self._legs.pop(channel.number, None) is None:
            return
        for carrier in (channel.pending, channel.carrier):
            if carrier is not None:
                self._retire(carrier, say if carrier is channel.carrier else None)
        found = self._conversations.get(leg.conversation)
        if isinstance(found, Flow):  # it goes on on control
            leg.rose = False
            if not found.ringed:
                found.ringed = True
                self._dgrams.append(found)
            return
        if found is None or found.is_gone or not (found.shifted or found.peer_shifted):
            return
        if lost:
            self._reset(found, Stop.LOST)
        else:
            self._orphan(found)

    def _orphan(self, stream: Stream) -> None:
        """Its leg ended in peace, so what ended the stream is on its way on control; it has half a minute."""
        self._orphans.setdefault(stream.id, self._now + self._bounds.leg_rises)

    # What the carriers' side does

    @property
    @abstractmethod
    def is_ended(self) -> bool:
        """Whether the tunnel is over."""

    @abstractmethod
    def _retire(self, carrier: RecordLayer, say: Close | None = None) -> None:
        """``carrier`` is done; the shell sends the last word and closes it."""

    @abstractmethod
    def _start_calls(self, channel: Channel, why: Why, now: float) -> None:
        """A carrier is wanted."""

    @abstractmethod
    def _say_close(self, farewell: Close) -> None:
        """The tunnel ends, and the peer is told."""
