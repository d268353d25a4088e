"""One tunnel seen from one side: conversations over channels, channels over carriers (§6 to §9, §14 of the document).

A machine without sockets, clock or dice.  Carriers, bytes and the time go in; events, records and the next deadline
come out.  After any call: drain ``next_event()``, send what ``data_to_send()`` gives for each carrier whose pipe takes
it, and call ``handle_timeout()`` at ``next_deadline()``.

    CALLING --WELCOME--> UP <--a carrier of control stands / broke--> HELD     everything --CLOSE, fault, time--> ENDED

ENDED is told to each conversation and then once to the shell, and never left.  What a peer sends raises nothing: bytes
that are not its own break the carrier, and the tunnel stands; bytes that break the rules end the tunnel.  What raises
is our own doing.

Here are the carriers, the clock and the end; ``talking.py`` has what programs want, ``hearing.py`` what the peer says.
"""

from __future__ import annotations

from enum import Enum

from cyfs_ns.errors import BadWire
from rtcp.events import End
from rtcp.v5 import frames as f
from rtcp.v5.carrier import CarrierBroken, Kind, RecordLayer
from rtcp.v5.channel import ACK_DELAY, ACK_NOW, Channel, Claim
from rtcp.v5.closing import Close, CloseCode, read_close
from rtcp.v5.conversations import Stream, unread_of
from rtcp.v5.events import (
    CarrierRetired,
    CarrierWanted,
    Ended,
    Reset,
    SignWanted,
    Stands,
)
from rtcp.v5.frames import Address, Stop
from rtcp.v5.hearing import LOOSE, ON_CONTROL, ON_LEG, Hearing
from rtcp.v5.ledger import Share
from rtcp.v5.legs import Leg
from rtcp.v5.life import PROVED, Beat, Calls, Pulse, Why
from rtcp.v5.limits import Bounds, Rate
from rtcp.v5.payloads import Parameters
from rtcp.v5.talking import Terms

TURN = 128 << 10
SOON = ACK_DELAY
"""Seconds: nothing that is due sooner suffers from being looked at that late, but for a rate (``is_rated``)."""
_LATE = 1.0
_ABANDON = 3.0
_FOREVER = float("inf")
"""A channel is busy while anything sent on it waits for its ACK."""
_DEFAULTS = Bounds()


class _State(Enum):
    CALLING = "waiting for the peer's verdict"
    UP = "up"
    HELD = "without a carrier"
    ENDED = "over"


class Tunnel(Hearing):
    """Made by :meth:`call` or :meth:`welcome`.

    ``ours`` and ``theirs`` are what the two sides told each other in the first handshake, ``round_trip`` what it
    measured, in seconds; ``die``: 8 random bytes, from which calls get their jitter; ``share``: its part of what all
    tunnels may hold.
    """

    __slots__ = (
        "_carriers",
        "_closing_at",
        "_die",
        "_hold",
        "_join_rate",
        "_state",
        "_until",
        "ended",
        "id",
    )

    @classmethod
    def call(
        cls,
        carrier: RecordLayer,
        tunnel: bytes,
        ours: Parameters,
        theirs: Parameters,
        *,
        round_trip: float,
        die: bytes,
        now: float,
        bounds: Bounds = _DEFAULTS,
        share: Share | None = None,
    ) -> Tunnel:
        """The initiator's: message 3 is out over ``carrier``, and records may follow it at once."""
        self = cls(tunnel, Terms(ours, theirs, bounds, share, initiator=True), round_trip, die, now)
        self._until = now + bounds.verdict
        self._control.claim()
        self._carriers[carrier] = self._control
        self._control.carrier = carrier
        return self

    @classmethod
    def welcome(
        cls,
        carrier: RecordLayer,
        tunnel: bytes,
        ours: Parameters,
        theirs: Parameters,
        *,
        seen: Address | None,
        round_trip: float,
        die: bytes,
        now: float,
        bounds: Bounds = _DEFAULTS,
        share: Share | None = None,
    ) -> Tunnel:
        """The responder's: policy said yes.  ``seen``: the caller's address, to be told to it."""
        self = cls(tunnel, Terms(ours, theirs, bounds, share, initiator=False), round_trip, die, now)
        self._control.moved_here(Claim(0, 0, 0))
        self._control.welcome = f.write_welcome(0, seen)
        self._stand(self._control, carrier, caller=False, now=now)
        self._events.append(Stands(None))
        return self

    def __init__(self, tunnel: bytes, terms: Terms, round_trip: float, die: bytes, now: float) -> None:
        super().__init__(terms, round_trip, now)
        self.id = tunnel
        self.ended: Ended | None = None
        """How, which is told after all that ended with it."""
        self._die = int.from_bytes(die, "big")
        self._hold = float(min(terms.ours.hold, terms.theirs.hold))
        self._state = _State.CALLING
        self._until: float | None = None
        self._carriers: dict[RecordLayer, Channel] = {}
        self._join_rate = Rate(*terms.bounds.joins, now)
        self._closing_at = now

    # What can be seen

    @property
    def is_up(self) -> bool:
        """Whether a carrier of control stands."""
        return self._state is _State.UP

    @property
    def is_held(self) -> bool:
        """Whether that is gone, for now.  A tunnel whose verdict is to come has one."""
        return self._state is _State.HELD

    @property
    def is_ended(self) -> bool:
        return self._state is _State.ENDED

    @property
    def busy_until(self) -> float:
        """``BUSY_FOR`` after bytes of a conversation last went either way."""
        return self._busy_until

    @property
    def legs(self) -> list[int]:
        """The channels of those that have risen and go wherever control goes."""
        return [number for number, leg in self._legs.items() if leg.rose and not leg.bare]

    def stands(self, carrier: RecordLayer) -> bool:
        """Whether a channel is on ``carrier``."""
        channel = self._carriers.get(carrier)
        return channel is not None and channel.carrier is carrier

    @property
    def carrier(self) -> RecordLayer | None:
        """The one that control is on."""
        return self._control.carrier

    def carries(self, carrier: RecordLayer) -> int | None:
        """Which channel is on ``carrier``; None: none is."""
        channel = self._carriers.get(carrier)
        return channel.number if channel is not None and channel.carrier is carrier else None

    # Carriers

    def claim(self, channel: int, now: float, *, unasked: bool = False) -> Claim | None:
        """What message 3 of a call for ``channel`` says, just before it is sent; ``attach`` follows.  None: the call is
        not wanted any more, or another one is out.  ``unasked``: the shell knows a better way than the one it is on,
        and than that of the call that is out."""
        self._now = now
        found = self._channel(channel)
        if found is None or (found.calls is None and not unasked) or self._is_bare(channel):
            return None
        if found.pending is not None:
            if now - found.pending_at < _ABANDON and not unasked:
                return None
            self._retire(found.pending)
        found.pending_at = now
        return found.claim()

    def may_bare(self, channel: int) -> bool:
        """Whether message 3 of a call for ``channel`` may offer that it is bare."""
        leg = self._legs.get(channel)
        stream = None if leg is None or leg.rose else self._conversations.get(leg.conversation)
        return isinstance(stream, Stream) and stream.sealed and not stream.is_closed

    def _is_bare(self, channel: int) -> bool:
        leg = self._legs.get(channel)
        return leg is not None and leg.bare

    def attach(self, carrier: RecordLayer, channel: int, now: float, *, bare: bool = False) -> bool:
        """Message 3 with the last ``claim`` is out over ``carrier``, and offered it ``bare``; False: it is not wanted
        any more, so close it."""
        self._now = now
        found = self._channel(channel)
        if found is None or found.claimed is None:
            return False
        found.pending, found.pending_at = carrier, now
        self._carriers[carrier] = found
        if bare:
            self._legs[channel].offered = carrier
        return True

    def join(
        self, carrier: RecordLayer, claim: Claim, seen: Address | None, now: float, *, bare: bool = False
    ) -> Close | None:
        """The peer called ``carrier`` for a channel of this tunnel, and offers it ``bare``.  None: it stands; else say
        this on it, and close.

        The peer's key has to be the tunnel's.
        """
        self._now = now
        if self.is_ended:
            return Close(CloseCode.UNKNOWN_TUNNEL)
        if not self._join_rate.take(1, now):
            return Close(CloseCode.LIMIT, 1, "too many carriers")
        channel = self._channel(claim.channel)
        if channel is None or self._is_bare(claim.channel):  # which a stream has but once
            past = self._leg_numbers.is_past(claim.channel)
            return Close(CloseCode.DONE if past else CloseCode.UNKNOWN_CHANNEL)
        try:
            verdict = channel.judge(claim, initiator=self._initiator)
        except BadWire as bad:
            self._fault(str(bad))
            return Close(CloseCode.FAULT, 0, str(bad))
        if verdict is not None:
            return Close(verdict)
        for old in (channel.carrier, channel.pending):
            if old is not None:
                self._retire(old)
        bare = bare and self.may_bare(claim.channel)
        channel.moved_here(claim)
        welcome = f.write_welcome(channel.taken, seen)
        if bare:
            leg = self._legs[claim.channel]
            agreed = welcome + f.frame(f.BARE, leg.conversation)
            self._bare(leg, carrier, bytes(carrier.seal(Kind.LOOSE, (agreed,), now)))
            return None
        channel.welcome = welcome
        self._stand(channel, carrier, caller=False, now=now)
        if channel is self._control:
            self._events.append(Stands(None))
        return None

    def receive(self, carrier: RecordLayer, untrusted: bytes | bytearray | memoryview, now: float) -> None:
        """Bytes came over ``carrier``.  Whatever they are, they raise nothing; they must not change in this call."""
        self._now = now
        channel = self._carriers.get(carrier)
        if channel is None:
            return
        try:
            for kind, plain in carrier.receive(untrusted, now):
                self._take(channel, carrier, kind, plain, now)
                if self._carriers.get(carrier) is not channel:
                    return
        except CarrierBroken as broken:
            self._events.append(CarrierRetired(carrier, b""))
            self._broke(carrier, str(broken), now)
        except BadWire as bad:
            self._fault(str(bad))

    def lost(self, carrier: RecordLayer, now: float) -> None:
        """The pipe ended, or broke; which of the two means nothing."""
        self._now = now
        self._broke(carrier, "the connection ended", now)

    def data_to_send(self, carrier: RecordLayer, now: float, most: int = TURN) -> list[bytes | bytearray]:
        """Records for ``carrier``, each once, of about ``most`` bytes: ask again when they are sent."""
        self._now = now
        channel = self._carriers.get(carrier)
        if channel is None or channel.carrier is not carrier:
            return []
        out: list[bytes | bytearray] = []
        if channel.has_loose:
            out.append(carrier.seal(Kind.LOOSE, channel.loose(), now))
        size = 0
        while channel.is_behind and size < most and (kept := channel.again()) is not None:
            out.append(carrier.seal(kept.kind, (kept.plain,), now))
            size += len(kept.plain)
        if channel is self._control:
            self._control_to_send(channel, carrier, out, most - size, now)
        else:
            self._leg_to_send(self._legs[channel.number], carrier, out, most - size, now)
        if channel.carrier is not carrier:  # what was put into records ended the tunnel
            return out
        if channel.ack_at is not None and channel.ack_at <= now and (count := channel.acknowledge(now)) is not None:
            out.append(carrier.seal(Kind.LOOSE, (f.frame_u64(f.ACK, 0, count),), now))
        return out

    @property
    def has_to_say(self) -> bool:
        """Whether ``data_to_send`` may give something for a carrier."""
        if self._control.owes or not self._outbox.is_empty or self._dgrams or self._starved:
            return True
        return bool(self._legs) and any(
            leg.finish or leg.channel.owes or self._is_fed(leg) for leg in self._legs.values()
        )

    # Time

    @property
    def is_rated(self) -> bool:
        """Whether something waits for a rate, and goes out a moment later."""
        return self._outbox.retry_at is not None

    def next_deadline(self) -> float | None:
        """When to call ``handle_timeout``; None: never again."""
        if self.is_ended:
            return None
        due = self._due_of(self._control, self._busy_until)
        if self._until is not None and self._until < due:
            due = self._until
        if (retry := self._outbox.retry_at) is not None and retry < due and self.is_up:
            due = retry
        for leg in self._legs.values():
            due = min(due, self._due_of(leg.channel, leg.busy_until), _FOREVER if leg.until is None else leg.until)
        for ages in (self._asked, self._asking, self._orphans):
            if ages:
                due = min(due, next(iter(ages.values())))
        if self._unread_since and self._pool.is_full:
            due = min(due, next(iter(self._unread_since.values())) + self._bounds.unread_for)
        if self._closing is not None:
            due = min(due, self._closing_at)
        return None if due == _FOREVER else due

    def handle_timeout(self, now: float) -> None:
        """It is ``now``: whatever was due happens.  Calling early does nothing."""
        if self.is_ended:
            return
        self._now = now
        if self._until is not None and now >= self._until and not self._try_late(now):
            self._end(End.LOST, "no carrier in time", Close(CloseCode.LOST), told=False)
            return
        if self._closing is not None and now >= self._closing_at:
            self._say_close(self._closing)
            return
        if self._outbox.retry_at is not None and now >= self._outbox.retry_at:
            self._outbox.retry_at = None
        self._watch(self._control, self._busy_until, now)
        for leg in list(self._legs.values()):
            self._watch_leg(leg, now)
        for ages, ours in ((self._asked, True), (self._asking, False)):
            while ages and next(iter(ages.values())) <= now:
                self._unanswered(self._conversations[next(iter(ages))], ours)
        while self._orphans and next(iter(self._orphans.values())) <= now:
            orphan = self._conversations.get(next(iter(self._orphans)))
            assert orphan is not None
            self._reset(orphan, Stop.LOST)
        self._reset_unread(now)

    def network_changed(self, now: float) -> None:
        """An address, a route or a link is another, or the machine woke up: is everybody still there?"""
        for channel in self._standing():
            assert channel.pulse is not None
            channel.pulse.ask_now(now)
            self._ping(channel, now)

    def ping(self, now: float) -> None:
        """Ask on control for a sign of life; ``Alive`` follows."""
        if self.is_up:
            self._ping(self._control, now)

    def alive(self, carrier: RecordLayer, at: float) -> None:
        """By the pipe of ``carrier`` the peer gave a sign of life ``at`` some time, without a record."""
        channel = self._carriers.get(carrier)
        if channel is not None and channel.carrier is carrier:
            self._lives(channel, at)

    # Room

    def settle(self) -> bool:
        """Write what it holds into its share, after each turn; whether all tunnels together now hold too much."""
        state = self._state
        return state is not _State.ENDED and self._share.settle(self.kept, held=state is _State.HELD)

    def make_room(self, now: float) -> None:
        """All tunnels together hold too much, and it is for this one to give way."""
        self._now = now
        if self._state is _State.HELD:
            self._say_close(Close(CloseCode.LOST, 0, "too much is held without a carrier"))
        elif self._share.unread:
            self._reset(max(self._conversations.values(), key=unread_of), Stop.STALLED)
        else:
            self._say_close(Close(CloseCode.LIMIT, 60, "too much is not acknowledged"))
        self.settle()

    # The end

    def close(
        self, now: float, code: CloseCode = CloseCode.DONE, *, wait: int = 0, reason: str = "", when_done: bool = False
    ) -> None:
        """End the tunnel; ``when_done``: once the peer has acknowledged all that was said, or after 10 s."""
        if self.is_ended:
            return
        self._now = now
        farewell = Close(code, wait, reason)
        if not when_done:
            self._say_close(farewell)
            return
        self._closing, self._closing_at = farewell, now + self._bounds.farewell
        self._close_if_done()

    # Records

    def _take(self, channel: Channel, carrier: RecordLayer, kind: Kind, plain: memoryview, now: float) -> None:
        if channel.pending is carrier or self._state is _State.CALLING:
            rest = self._verdict(channel, carrier, kind, plain, now)
            if rest is None:
                return
            plain = rest
        self._lives(channel, now)
        if kind is Kind.LOOSE:
            self._read_frames(channel, plain, LOOSE, now)
            return
        if channel.skip:  # it came over the old carrier already
            channel.take(len(plain), now)
            return
        if kind is Kind.RAW:
            self._on_raw(self._legs[channel.number], plain, now)
        else:
            self._read_frames(channel, plain, ON_CONTROL if channel.number == 0 else ON_LEG, now)
        channel.take(len(plain), now)

    def _lives(self, channel: Channel, at: float) -> None:
        assert channel.pulse is not None
        if channel.pulse.hear(at) and channel.pending is None and channel.calls and channel.calls.why is Why.SUSPECT:
            channel.calls = None

    def _verdict(
        self, channel: Channel, carrier: RecordLayer, kind: Kind, plain: memoryview, now: float
    ) -> memoryview | None:
        """The first record of a carrier that we called; what follows WELCOME in it, or None if it does not stand."""
        frame, conversation, payload = next(f.frames(plain))
        if kind is not Kind.LOOSE or conversation or frame not in (f.WELCOME, f.CLOSE):
            raise BadWire("a carrier that begins without a verdict")
        if frame == f.CLOSE:
            self._turned_away(channel, carrier, read_close(payload), now)
            return None
        expect, seen = f.read_welcome(payload)
        claim = channel.claimed
        assert claim is not None
        if claim.move <= channel.accepted:
            self._retire(carrier)
            return None
        first = self._state is _State.CALLING
        if first and expect:
            raise BadWire("a new tunnel that expects more than its first record")
        sent = channel.seal_next
        channel.moved_there(expect)
        rest = plain[f.HEAD_SIZE + len(payload) :]
        if self._agrees(channel, carrier, rest):
            return None
        if first:
            channel.seal_next = sent
        elif channel.carrier is not None:
            self._retire(channel.carrier)
        self._stand(channel, carrier, caller=True, now=now)
        if channel is self._control:
            self._events.append(Stands(seen))
        return rest

    def _agrees(self, channel: Channel, carrier: RecordLayer, rest: memoryview) -> bool:
        """Whether the called side says behind its WELCOME that the leg is bare, as we offered; then it is."""
        leg = self._legs.get(channel.number)
        if leg is None or leg.offered is not carrier or rest != f.frame(f.BARE, leg.conversation):
            return False
        stream = self._conversations.get(leg.conversation)
        if isinstance(stream, Stream) and not stream.is_closed:
            del self._carriers[carrier]
            self._bare(leg, carrier, b"")
        else:
            self._leg_over(leg, None, lost=False)
        return True

    def _turned_away(self, channel: Channel, carrier: RecordLayer, said: Close, now: float) -> None:
        """CLOSE before WELCOME is about this carrier; two codes say more."""
        first = self._state is _State.CALLING
        self._retire(carrier)
        if first or (channel is self._control and said.code == CloseCode.UNKNOWN_TUNNEL):
            self._end(said.code.end, said.reason or "the peer does not want the tunnel", said, told=True)
        elif channel is not self._control:
            leg = self._legs[channel.number]
            # Before it rose, UNKNOWN_CHANNEL only says that the call overtook the LEG: it is called again.
            if said.code == CloseCode.DONE or (said.code == CloseCode.UNKNOWN_CHANNEL and leg.rose):
                self._leg_over(leg, None, lost=said.code != CloseCode.DONE)

    # Carriers that stand, fall silent and break

    def _channel(self, number: int) -> Channel | None:
        if number == 0:
            return None if self.is_ended else self._control
        leg = self._legs.get(number)
        return None if leg is None else leg.channel

    def _standing(self) -> list[Channel]:
        return [channel for carrier, channel in self._carriers.items() if channel.carrier is carrier and channel.pulse]

    def _stand(self, channel: Channel, carrier: RecordLayer, *, caller: bool, now: float) -> None:
        self._carriers[carrier] = channel
        channel.carrier, channel.pending, channel.calls = carrier, None, None
        channel.stood_at = now
        channel.pulse = Pulse(caller, channel.number != 0, self._round_trip, now)
        channel.renew_at = now + self._bounds.renew * (0.9 + 0.2 * self._throw()) if caller else None
        if channel is self._control:
            self._state, self._until = _State.UP, None
        else:
            leg = self._legs[channel.number]
            if not leg.reset:
                leg.until = None
            if not leg.rose:
                self._rise(leg)

    def _retire(self, carrier: RecordLayer, say: Close | None = None) -> None:
        """``carrier`` is done; the shell sends the last word and closes it."""
        channel = self._carriers.pop(carrier)
        last = b"" if say is None else bytes(carrier.seal(Kind.LOOSE, (say.frame(),), self._now))
        self._events.append(CarrierRetired(carrier, last))
        if channel.pending is carrier:
            channel.pending = channel.claimed = None
        else:
            channel.carrier = channel.pulse = None

    def _broke(self, carrier: RecordLayer, why: str, now: float) -> None:
        channel = self._carriers.pop(carrier, None)
        if channel is None:
            return
        if channel.pending is carrier:
            channel.pending = channel.claimed = None
            return
        channel.carrier = channel.pulse = channel.renew_at = None
        if channel is not self._control:
            self._leg_broke(self._legs[channel.number], now)
        elif self._state is _State.CALLING:
            self._end(End.LOST, why, Close(CloseCode.LOST), told=True)
        else:
            self._state, self._until = _State.HELD, now + self._hold
            if self._can_call and channel.calls is None:
                self._start_calls(channel, Why.BROKEN, now)

    def _leg_broke(self, leg: Leg, now: float) -> None:
        if leg.until is None:
            leg.until = now + self._hold
        if not leg.ours:
            self._put(f.frame_u32(f.LEG_ASK, leg.conversation, leg.channel.number))
        elif leg.channel.calls is None:
            self._start_calls(leg.channel, Why.BROKEN, now)

    def _start_calls(self, channel: Channel, why: Why, now: float) -> None:
        channel.frail = 0 if now - channel.stood_at >= PROVED else channel.frail + 1
        channel.calls = Calls(why, now, channel.frail)
        if channel.calls.at <= now:
            self._next_call(channel)

    def _next_call(self, channel: Channel) -> None:
        assert channel.calls is not None
        self._events.append(CarrierWanted(channel.number, channel.calls.why))
        channel.calls.called(self._throw())

    def _due_of(self, channel: Channel, busy_until: float) -> float:
        due = _FOREVER
        if channel.calls is not None:
            due = channel.calls.at
        if channel.pending is not None:
            due = min(due, channel.pending_at + self._bounds.verdict)
        if channel.pulse is None:
            return due
        felt = channel.pulse.due(_FOREVER if channel.kept else busy_until)
        if felt is not None and felt < due:
            due = felt
        if channel.ack_at and channel.ack_at < due:
            due = channel.ack_at
        if channel.renew_at is not None and channel.renew_at < due:
            due = channel.renew_at
        if channel.blocked_at is not None:
            due = min(due, channel.blocked_at + self._bounds.stalled)
        return due

    def _watch(self, channel: Channel, busy_until: float, now: float) -> None:
        """The clock of one channel."""
        if channel.pending is not None and now >= channel.pending_at + self._bounds.verdict:
            self._retire(channel.pending)
        if channel.calls is not None and now >= channel.calls.at:
            self._next_call(channel)
        if channel.pulse is None or channel.carrier is None:
            return
        if channel.ack_at is not None and now >= channel.ack_at:
            channel.ack_at = ACK_NOW
        if channel.blocked_at is not None and now >= channel.blocked_at + self._bounds.stalled:
            self._say_close(Close(CloseCode.LIMIT, 60, "nothing is acknowledged"))
            return
        if channel.renew_at is not None and now >= channel.renew_at:
            channel.renew_at = None
            if channel.calls is None:
                self._start_calls(channel, Why.RENEWAL, now)
        match channel.pulse.feel(now, _FOREVER if channel.kept else busy_until):
            case Beat.ASK if channel.number or channel.kept or now < busy_until:
                self._ping(channel, now)
            case Beat.ASK:
                self._events.append(SignWanted(channel.carrier))
            case Beat.SUSPECT:
                self._suspect(channel, now)
            case Beat.BROKEN:
                carrier = channel.carrier
                self._events.append(CarrierRetired(carrier, b""))
                self._broke(carrier, "silence", now)
            case Beat.QUIET:
                pass

    def _watch_leg(self, leg: Leg, now: float) -> None:
        if self._legs.get(leg.channel.number) is not leg:
            return
        if leg.until is not None and now >= leg.until:
            self._leg_over(leg, Close(CloseCode.LOST, 0, "too long without a carrier"), lost=True)
        else:
            self._watch(leg.channel, leg.busy_until, now)

    def _suspect(self, channel: Channel, now: float) -> None:
        if channel.pulse is not None and channel.pulse.caller and self._can_call:
            if channel.calls is None:
                self._start_calls(channel, Why.SUSPECT, now)
        elif channel.number:
            leg = self._legs[channel.number]
            if not leg.ours:
                self._put(f.frame_u32(f.LEG_ASK, leg.conversation, channel.number))

    def _ping(self, channel: Channel, now: float) -> None:
        mark = f"{self._step():08x}".encode()[:8]
        while len(self._pings) >= 8:
            del self._pings[next(iter(self._pings))]
        self._pings[mark] = now
        channel.ping_due = f.frame(f.PING, 0, mark)

    def _try_late(self, now: float) -> bool:
        """Who slept longer than the tunnel is held tries once all the same."""
        assert self._until is not None
        if self._state is not _State.HELD or not self._can_call or now - self._until < _LATE:
            return False
        self._until = now + self._bounds.verdict
        self._start_calls(self._control, Why.BROKEN, now)
        return True

    def _step(self) -> int:
        self._die = (self._die * 6364136223846793005 + 1442695040888963407) & (1 << 64) - 1
        return self._die >> 32

    def _throw(self) -> float:
        return self._step() / (1 << 32)

    # Ends

    def _close_if_done(self) -> None:
        if self._closing is None or self._control.kept or not self._outbox.is_empty:
            return
        if any(leg.channel.kept or leg.finish for leg in self._legs.values()):
            return
        if not any(one.shifted and one.waiting for one in self._conversations.values() if isinstance(one, Stream)):
            self._say_close(self._closing)

    def _fault(self, why: str) -> None:
        if not self.is_ended:
            self._end(End.FAULT, why, Close(CloseCode.FAULT, 60, why), told=False)

    def _say_close(self, farewell: Close) -> None:
        if not self.is_ended:
            self._end(farewell.code.end, farewell.reason or "closed by us", farewell, told=False)

    def _end(self, end: End, why: str, said: Close, *, told: bool) -> None:
        """``told``: by the peer, which is not answered."""
        self._state = _State.ENDED
        for carrier, channel in list(self._carriers.items()):
            self._retire(carrier, None if told or channel.pending is carrier else said)
        for conversation in self._conversations:
            self._events.append(Reset(conversation, Stop.LOST))
        self._conversations.clear()
        self._legs.clear()
        self._asked.clear()
        self._asking.clear()
        self._unread_since.clear()
        self._starved.clear()
        self._orphans.clear()
        self._dgrams.clear()
        self._pool.unread = self._waiting = 0
        self._share.close()
        self.ended = Ended(end, why, said.code, said.wait)
        self._events.append(self.ended)
