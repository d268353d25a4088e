"""What the peer says: one method a frame, and a table of which frames may come where (§7 and §8 of the document).

Whatever breaks a rule raises ``BadWire``, which ends the tunnel.  What is for a conversation that is past is passed
over, since the peer could not know yet; what is for one that never was, is not.

The middle third of the tunnel, between ``talking.py`` and ``tunnel.py``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping

from cyfs_ns.errors import BadWire
from rtcp.events import End
from rtcp.v5 import frames as f
from rtcp.v5.channel import Channel
from rtcp.v5.closing import Close, CloseCode, read_close
from rtcp.v5.conversations import Conversation, Flow, Stream
from rtcp.v5.events import (
    Alive,
    Answered,
    ConversationRequested,
    DataArrived,
    Draining,
    PeerFinished,
    PeerShifted,
    PeerStopped,
    Reset,
)
from rtcp.v5.flows import MOST_HELD
from rtcp.v5.frames import Code, Opening, Purpose, TargetKind
from rtcp.v5.legs import Leg
from rtcp.v5.life import BUSY_FOR, Why
from rtcp.v5.limits import Rate
from rtcp.v5.payloads import Feature
from rtcp.v5.talking import FLOW_PURPOSES, Talking, Terms

_KINDS = frozenset(TargetKind)


class Hearing(Talking):
    """Frames come in, the state of conversations changes, and programs are told."""

    __slots__ = ("_frame_rate", "_open_rate", "_pings")

    def __init__(self, terms: Terms, round_trip: float, now: float) -> None:
        super().__init__(terms, round_trip, now)
        self._open_rate = Rate(*terms.bounds.opens, now)
        self._frame_rate = Rate(*terms.bounds.frames, now)
        self._pings: dict[bytes, float] = {}

    def _read_frames(self, channel: Channel, plain: memoryview, known: Mapping[int, _Handler], now: float) -> None:
        count = 0
        for kind, conversation, payload in f.frames(plain):
            if kind == f.DATA and known is ON_CONTROL:
                self._on_data(conversation, payload, now)
                continue
            if kind != f.DGRAM:
                count += 1
            handler = known.get(kind)
            if handler is not None:
                handler(self, channel, conversation, payload, now)
                if kind == f.CLOSE or self.is_ended:
                    return
            elif kind < f.SPARE:
                raise BadWire(f"a frame of type {kind:#04x} where it may not be")
        if count and not self._frame_rate.take(count, now):
            self._say_close(Close(CloseCode.LIMIT, 60, "too many frames"))

    # Conversations

    def _on_open(self, channel: Channel, conversation: int, payload: memoryview, now: float) -> None:
        self._ids.opened(conversation)
        opening = f.read_open(payload)
        code = self._judge(opening, now)
        if code is not Code.YES:
            self._put(f.write_answer(conversation, code))
            return
        self._made(conversation, opening, now, ours=False)
        self._their_count += 1
        self._their_flows += opening.purpose != Purpose.STREAM
        self._asking[conversation] = now + self._bounds.answer
        self._events.append(ConversationRequested(conversation, opening))

    def _judge(self, opening: Opening, now: float) -> Code:
        if self._drained_at is not None or self._closing is not None:
            return Code.DRAINING
        if not self._open_rate.take(1, now):
            return Code.RATE_LIMITED
        if opening.purpose != Purpose.STREAM:
            feature = FLOW_PURPOSES.get(opening.purpose)
            if feature is None or feature not in self._ours.features:
                return Code.UNSUPPORTED
            if feature is Feature.PACKETS and opening.kind != TargetKind.SERVICE:
                return Code.UNSUPPORTED
            if opening.purpose == Purpose.ASSOCIATION and opening.target != ":0":
                return Code.BAD_TARGET
            if self._their_flows >= self._ours.flows:
                return Code.QUOTA
        if opening.kind not in _KINDS:
            return Code.UNSUPPORTED
        return Code.QUOTA if self._their_count >= self._ours.conversations else Code.YES

    def _on_answer(self, channel: Channel, conversation: int, payload: memoryview, now: float) -> None:
        code, reason = f.read_answer(payload)
        if not self._ids.is_ours(conversation):
            raise BadWire("an ANSWER to what was not asked")
        found = self._live(conversation)
        if found is None:
            return
        if found.answered:
            raise BadWire("a second ANSWER")
        del self._asked[conversation]
        found.answered = True
        self._events.append(Answered(conversation, code, reason))
        if code != Code.YES:
            self._drop(found)

    def _on_data(self, conversation: int, payload: memoryview, now: float) -> None:
        size = len(payload)
        if not size:
            raise BadWire("DATA without data")
        self._pool.arrived(size)
        found = self._conversations.get(conversation)
        if found is None:
            self._ids.check(conversation)
        else:
            if (
                type(found) is not Stream
                or found.ended
                or found.peer_shifted
                or (found.ours and not found.answered)  # ``_may_speak``
            ):
                raise BadWire("DATA where none may be")
            found.window.arrived(size)
            self._busy_until = now + BUSY_FOR
            if found.stopped:
                found.window.drop()
            else:
                found.control_unread += size
                self._pool.unread += size
                self._unread_since.setdefault(conversation, now)
                self._deliver(found, payload)
        if self._pool.renewed():
            self._outbox.credit(0, self._pool.limit)

    def _on_raw(self, leg: Leg, plain: memoryview, now: float) -> None:
        leg.busy_until = self._busy_until = now + BUSY_FOR
        if leg.finished:
            raise BadWire("raw bytes behind the end")
        found = self._conversations.get(leg.conversation)
        if found is None:
            return
        if not isinstance(found, Stream):
            raise BadWire("raw bytes for a flow")
        if found.is_gone or found.ended:
            raise BadWire("raw bytes behind the end")
        found.window.arrived(len(plain))
        if found.stopped:
            found.window.drop()
        elif found.peer_shifted:
            self._deliver(found, plain)
        else:
            found.raw += plain

    def _on_fin(self, channel: Channel, conversation: int, payload: memoryview, now: float) -> None:
        f.read_nothing(payload)
        leg = self._legs[channel.number] if channel.number else None
        if leg is not None:
            if conversation != leg.conversation or leg.finished:
                raise BadWire("FIN on the wrong leg, or a second one")
            leg.finished = True
        stream = self._live(conversation)
        if stream is None:
            return
        if not isinstance(stream, Stream) or stream.ended:
            raise BadWire("FIN where none may be")
        if leg is None:
            if stream.peer_shifted or not self._may_speak(stream):
                raise BadWire("FIN where none may be")
        elif not stream.peer_shifted:
            return  # it overtook the SHIFT
        self._peer_ended(stream)

    def _on_end(self, channel: Channel, conversation: int, payload: memoryview, now: float) -> None:
        bared = f.read_u64(payload)
        stream = self._live(conversation)
        if stream is None:
            return
        if not isinstance(stream, Stream) or stream.ended or not (stream.peer_shifted and stream.is_bare):
            raise BadWire("END where none may be")
        stream.coming = not stream.stopped
        self._orphans.pop(conversation, None)
        self._peer_ended(stream, bared)

    def _on_reset(self, channel: Channel, conversation: int, payload: memoryview, now: float) -> None:
        code = f.read_u8(payload)
        found = self._live(conversation)
        if found is None:
            return
        if not self._may_speak(found):
            raise BadWire("RESET before ANSWER")
        self._drop(found)
        self._events.append(Reset(conversation, code))

    def _on_stop(self, channel: Channel, conversation: int, payload: memoryview, now: float) -> None:
        code = f.read_u8(payload)
        stream = self._live(conversation)
        if stream is None:
            return
        if not isinstance(stream, Stream) or not self._may_speak(stream):
            raise BadWire("STOP where none may be")
        if stream.finished or stream.stop_seen:
            return
        stream.stop_seen = True
        stream.finishing = not (stream.shifted and stream.is_bare)  # else its program knows what went there
        dropped = stream.drop_waiting()
        if not stream.shifted:
            self._waiting -= dropped
        self._starved.pop(conversation, None)
        self._events.append(PeerStopped(conversation, code))
        self._settle(stream)

    def _on_credit(self, channel: Channel, conversation: int, payload: memoryview, now: float) -> None:
        limit = f.read_u64(payload)
        if conversation == 0:
            self._outbox.allowance.raised(limit)
            return
        if limit > f.MOST_CREDIT:
            raise BadWire(f"credit of {limit} bytes")
        stream = self._live(conversation)
        if stream is None:
            return
        if not isinstance(stream, Stream):
            raise BadWire("CREDIT for a flow")
        if stream.allowance.raised(limit) and stream.starved:
            self._tell_room(stream)

    def _on_dgram(self, channel: Channel, conversation: int, payload: memoryview, now: float) -> None:
        if channel.number and conversation != self._legs[channel.number].conversation:
            raise BadWire("a datagram on another flow's leg")
        self._busy_until = now + BUSY_FOR
        if channel.number:
            self._legs[channel.number].busy_until = self._busy_until
        f.read_datagram(payload)
        flow = self._conversations.get(conversation)
        if flow is None:
            return  # past; or its OPEN comes behind, as it is not loose
        if not isinstance(flow, Flow):
            raise BadWire("a datagram for a stream")
        if flow.answered:
            self._deliver_datagram(flow, payload, now)
        elif not flow.ours and len(flow.held) < MOST_HELD:
            flow.held.append(bytes(payload))
            self._share.unread += len(payload)

    def _on_drain(self, channel: Channel, conversation: int, payload: memoryview, now: float) -> None:
        f.read_nothing(payload)
        if conversation:
            if not self._ids.is_ours(conversation):
                raise BadWire("DRAIN with an id of its own")
            self._ids.check(conversation)
        if self._last_of_peer is None:
            self._last_of_peer = conversation
            self._events.append(Draining(conversation))

    # Legs

    def _on_leg(self, channel: Channel, conversation: int, payload: memoryview, now: float) -> None:
        number = f.read_u32(payload)
        self._need_legs()
        self._leg_numbers.announced(number)
        found = self._live(conversation)
        if found is None:
            return
        mine = found.leg
        if mine is not None:
            if not mine.ours or self._initiator:
                return
            if mine.rose:
                raise BadWire("a second leg for one conversation")
            found.leg = None
            self._leg_over(mine, None, lost=False)
        elif len(self._legs) >= self._ours.legs:
            return
        self._add_leg(found, number, now, ours=False)

    def _on_leg_ask(self, channel: Channel, conversation: int, payload: memoryview, now: float) -> None:
        number = f.read_u32(payload)
        self._need_legs()
        found = self._live(conversation)
        if number == 0:
            if found is not None:
                found.wants_leg = True
                self._want_leg_if_due(found, now, asked=True)
            return
        leg = self._legs.get(number)
        if leg is None:
            if not self._leg_numbers.is_past(number):
                raise BadWire(f"a carrier is wanted for leg {number}, which nobody announced")
        elif leg.conversation != conversation:
            raise BadWire(f"leg {number} is another conversation's")
        elif leg.ours and not leg.bare and leg.channel.calls is None:
            self._start_calls(leg.channel, Why.BROKEN, now)

    def _on_shift(self, channel: Channel, conversation: int, payload: memoryview, now: float) -> None:
        number = f.read_u32(payload)
        self._need_legs()
        stream = self._live(conversation)
        if stream is None:
            return
        if not isinstance(stream, Stream) or stream.ended or stream.peer_shifted or not self._may_speak(stream):
            raise BadWire("SHIFT where none may be")
        if stream.leg is None or stream.leg.channel.number != number:
            raise BadWire(f"SHIFT to leg {number}, which is not the stream's")
        if stream.leg.bare:
            stream.peer_shifted = True
            self._events.append(PeerShifted(conversation))
            self._settle(stream)
            return
        stream.peer_shifted = True
        if stream.raw:
            self._deliver(stream, memoryview(bytes(stream.raw)))
            stream.raw = bytearray()
        if stream.leg.finished:
            self._peer_ended(stream)
        elif self._legs.get(number) is not stream.leg:
            self._orphan(stream)

    # The carrier

    def _on_ping(self, channel: Channel, conversation: int, payload: memoryview, now: float) -> None:
        if conversation or len(payload) != 8:
            raise BadWire("a PING of another size")
        channel.pong_due = f.frame(f.PONG, 0, bytes(payload))

    def _on_pong(self, channel: Channel, conversation: int, payload: memoryview, now: float) -> None:
        if conversation or len(payload) != 8:
            raise BadWire("a PONG of another size")
        asked = self._pings.pop(bytes(payload), None)
        if asked is None:
            return
        took = now - asked
        self._round_trip = took if not self._round_trip else 0.75 * self._round_trip + 0.25 * took
        assert channel.pulse is not None
        channel.pulse.hear(now, self._round_trip)
        self._events.append(Alive(took))

    def _on_ack(self, channel: Channel, conversation: int, payload: memoryview, now: float) -> None:
        if conversation:
            raise BadWire("an ACK of a conversation")
        if channel.acknowledged(f.read_u64(payload)):
            if channel.number:
                self._close_leg_if_done(self._legs[channel.number])
            self._close_if_done()

    def _on_close(self, channel: Channel, conversation: int, payload: memoryview, now: float) -> None:
        if conversation:
            raise BadWire("a CLOSE of a conversation")
        said = read_close(payload)
        if channel is self._control:
            self._end(said.code.end, said.reason or "the peer closed the tunnel", said, told=True)
        else:
            self._leg_over(self._legs[channel.number], None, lost=said.code != CloseCode.DONE)
            self._close_if_done()

    def _on_pad(self, channel: Channel, conversation: int, payload: memoryview, now: float) -> None:
        """Nothing."""

    # Small steps

    def _deliver(self, stream: Stream, payload: memoryview) -> None:
        """``payload`` is in order and within credit: tell it, or hold it until the rules have spoken."""
        if stream.held is not None:
            stream.held += payload
            return
        events = self._events
        if events and type(last := events[-1]) is DataArrived and last.id == stream.id:
            last.views.append(payload)
        else:
            events.append(DataArrived(stream.id, [payload]))

    def _peer_ended(self, stream: Stream, bared: int = 0) -> None:
        stream.ended = True
        self._outbox.forget(stream.id)
        if stream.held is None and not stream.stopped:
            self._events.append(PeerFinished(stream.id, bared))
        self._check_gone(stream)

    def _live(self, conversation: int) -> Conversation | None:
        """The conversation, if it is not past.  Raises ``BadWire`` if it never was."""
        found = self._conversations.get(conversation)
        if found is None or not found.said:
            self._ids.check(conversation)
            return None
        if isinstance(found, Stream) and found.is_gone:
            return None
        return found

    def _may_speak(self, conversation: Conversation) -> bool:
        """Whether the peer may send what it may not before its ANSWER."""
        return conversation.answered or not conversation.ours

    def _need_legs(self) -> None:
        if not self._has_legs:
            raise BadWire("legs were not agreed on")

    # What the carriers' side does

    @abstractmethod
    def _close_if_done(self) -> None:
        """All that was said may be acknowledged now."""

    @abstractmethod
    def _end(self, end: End, why: str, said: Close, *, told: bool) -> None:
        """``told``: by the peer, which is not answered."""


_Handler = Callable[[Hearing, Channel, int, memoryview, float], None]
_ANYWHERE: dict[int, _Handler] = {f.ACK: Hearing._on_ack, f.PAD: Hearing._on_pad}
LOOSE: Mapping[int, _Handler] = _ANYWHERE | {
    f.DGRAM: Hearing._on_dgram,
    f.PING: Hearing._on_ping,
    f.PONG: Hearing._on_pong,
    f.CLOSE: Hearing._on_close,
}
ON_LEG: Mapping[int, _Handler] = _ANYWHERE | {f.FIN: Hearing._on_fin}
ON_CONTROL: Mapping[int, _Handler] = _ANYWHERE | {
    f.OPEN: Hearing._on_open,
    f.ANSWER: Hearing._on_answer,
    f.FIN: Hearing._on_fin,
    f.RESET: Hearing._on_reset,
    f.STOP: Hearing._on_stop,
    f.CREDIT: Hearing._on_credit,
    f.LEG: Hearing._on_leg,
    f.LEG_ASK: Hearing._on_leg_ask,
    f.SHIFT: Hearing._on_shift,
    f.END: Hearing._on_end,
    f.DRAIN: Hearing._on_drain,
}
"""What may come in which records, but WELCOME and BARE, which only begin a carrier, and DATA, which has no time for a
table."""
