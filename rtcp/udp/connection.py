"""One pipe over UDP, seen from one side: no sockets, no clock, no dice of its own.

Datagrams come in by ``receive``; ``next_train`` writes those to send, many of one size into one buffer, as one system
call can send them (UDP_SEGMENT).  ``next_deadline`` and ``handle_timeout`` are its clock.

A pipe is made by its caller (``call``, ``door.py`` has the other side).  It ends when both sides have finished and all
has arrived, with a close of either side, with a reset of a peer that forgot it, or when the peer is silent for 30 s
although asked.  There is no end by idleness: who uses the pipe knows how long it may be quiet, and when to ``ping``,
which is one datagram, and its ack the answer.

The peer's address is its last that was proven (``paths.py``): what it says from elsewhere is heard, as it is sealed,
but nothing but a challenge goes there until it is echoed.  On another path all that was learnt of the last one is
forgotten.
"""

from __future__ import annotations

import hmac
from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from cyfs_ns.errors import BadWire
from rtcp.party import Address
from rtcp.udp import frames as fr
from rtcp.udp.bbr import Bbr
from rtcp.udp.inbox import Inbox
from rtcp.udp.keys import Opener, Sealer, Secrets, agree, reset_token
from rtcp.udp.mtu import SIZES, MtuSearch
from rtcp.udp.outbox import Outbox
from rtcp.udp.paths import Paths
from rtcp.udp.ranges import Ranges
from rtcp.udp.recovery import ACK_DELAY, News, Recovery, Sent
from rtcp.udp.wire import (
    FLOOR,
    HEAD,
    SEAL,
    TAG,
    Invite,
    entry_prefix,
    sealed_head,
    write_opening,
)

CALL_ENTROPY: Final = TAG + 32 + 32
"""Random bytes that a caller needs."""
PATIENCE: Final = 10.0
"""Seconds to wait for an invite, and again for the first that the called says."""
SILENCE: Final = 30.0
"""Seconds after which a peer that does not answer is gone."""
ROOM: Final = 64 * SIZES[-1]
"""Bytes that ``next_train`` may want to write."""

_LINGER: Final = 15.0
_OVERHEAD: Final = HEAD.size + SEAL
_MOST_TRAIN: Final = 65_000
_MOST_DATAGRAMS: Final = 64
_QUANTUM: Final = 0.001
"""Seconds of sending that may go out at once: timers are no finer."""
_LATE: Final = 0.002
"""Seconds of sending that are made up for after a pause, so that it does not end with a burst."""
_LATEST: Final = 0.05
"""The same where pacing alone held back more, and our process came late: else its rate would be taken for the path's,
and the next be lower still."""
_LEAST_KEPT: Final = 512 << 10
_MOST_KEPT: Final = 16 << 20
_FIRST_WAIT: Final = 0.25
_ACK_AFTER: Final = 2
_ACK_AFTER_LATER: Final = 8
_AT_FIRST: Final = 100
_MANY_RANGES: Final = 4
_MOST_ECHOES: Final = 8
_FOLLOWS: Final = 5.0
"""Seconds in which a peer is to follow where our side has moved by its own wish: until then its old address is not
followed."""
_BLACK_HOLE: Final = 3

_TOKEN, _FIN, _LIMIT, _PROBE = 1, 2, 4, 8
_DONE: Final = 0
_FAULT: Final = 1

_plain = memoryview(bytearray(1 << 16))
"""What was opened last; shared, since what is kept of it is copied at once."""


def opening_of(entropy: bytes) -> tuple[bytes, bytes]:
    """The tag and the key that a caller with this ``entropy`` opens with, for who is to invite it by another way."""
    return entropy[:TAG], _secret_in(entropy).public_key().public_bytes_raw()


def _secret_in(entropy: bytes) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(entropy[TAG : TAG + 32])


class Stage(Enum):
    """How far a pipe is."""

    CALLING = "the called has not answered"
    ENTERING = "the called has invited, and not spoken yet"
    OPEN = "both have spoken"
    OVER = "it has ended"


@dataclass(frozen=True, slots=True)
class Train:
    """``size`` bytes to send to ``address``: datagrams of ``segment`` bytes each, the last maybe shorter."""

    address: Address
    size: int
    segment: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """``reset_secret``, 32 bytes, makes the tokens that end pipes this side has forgotten."""

    reset_secret: bytes = field(repr=False)


class Connection:
    """See the module's text.  ``why`` says how it ended, ``failed`` whether that was before its time."""

    def __init__(self, address: Address, settings: Settings, entropy: bytes, now: float) -> None:
        self.address = address
        """Where the peer is, as far as proven."""
        self.id = self.peer_id = -1
        """What datagrams to this side, and to the peer, begin with."""
        self.stage = Stage.CALLING
        self.why = ""
        self.failed = False
        self.tag = b""
        """What an invite for this caller says."""
        self._settings = settings
        self._paths = Paths(entropy)
        self._door = b""
        self._secret: X25519PrivateKey | None = None
        self._public = self._called_public = self._prefix = b""
        self._sealer: Sealer | None = None
        self._opener: Opener | None = None
        self._began = now
        self._called_at, self._calls, self._call_due = now, 0, now
        self._peer_token: bytes | None = None
        self._recovery = Recovery()
        self._bbr = Bbr(now, FLOOR, self._recovery.smoothed)
        self._mtu = MtuSearch()
        self._paced_at, self._late = now, _LATE
        self._inbox, self._outbox = Inbox(), Outbox()
        self._limit = 0
        self._finish_asked = self._fin_acked = False
        self._is_left = False
        self._left_at = 0.0
        self._marks = 0
        self._seen = Ranges()
        self._seen_floor = 0
        self._highest = -1
        self._unacked = 0
        self._ack_due: float | None = None
        self._highest_at = now
        self._pinged = self._tells_past = False
        self._probes = 0
        self._heard_at = self._asked_at = now
        self._echoes: deque[tuple[Address, bytes]] = deque(maxlen=_MOST_ECHOES)
        self._farewell: tuple[int, str] | None = None
        self._left: Address | None = None
        self._left_until = 0.0

    @classmethod
    def call(cls, address: Address, responder: bytes, settings: Settings, entropy: bytes, now: float) -> Connection:
        """Call the device whose door this opens (``wire.door_key``) at ``address``.  ``entropy``: ``CALL_ENTROPY``."""
        made = cls(address, settings, entropy[TAG + 32 :], now)
        made._door = responder
        made._secret, (made.tag, made._public) = _secret_in(entropy), opening_of(entropy)
        return made

    @classmethod
    def answer(cls, address: Address, secrets: Secrets, settings: Settings, entropy: bytes, now: float) -> Connection:
        """The called side; ``entropy``: 32 random bytes.  Its first datagram is yet to be received."""
        made = cls(address, settings, entropy, now)
        made._stand(secrets.called_id, secrets.caller_id, secrets.called, secrets.caller)
        made.stage = Stage.OPEN
        return made

    def _stand(self, id: int, peer_id: int, sends: bytes, receives: bytes) -> None:
        self.id, self.peer_id = id, peer_id
        self._sealer, self._opener = Sealer(sends), Opener(receives)
        self._marks = _TOKEN
        self._limit = self._inbox.limit

    # What is wanted of it

    @property
    def readable(self) -> int:
        """Bytes that ``read_into`` would give."""
        return self._inbox.readable

    @property
    def has_heard(self) -> bool:
        """Whether the peer has said anything."""
        return self._highest >= 0

    @property
    def heard_at(self) -> float:
        """When the last datagram came that the peer sealed."""
        return self._heard_at

    @property
    def arrived(self) -> int:
        """Bytes that were readable so far."""
        return self._inbox.arrived

    @property
    def is_whole(self) -> bool:
        """Whether the peer has finished, and all it sent is here."""
        return self._inbox.is_whole

    @property
    def room(self) -> int:
        """Bytes that ``write`` would take."""
        if self.stage is Stage.OVER or self._finish_asked:
            return 0
        return max(0, max(_LEAST_KEPT, min(_MOST_KEPT, 2 * self._bbr.window)) - self._outbox.kept)

    @property
    def round_trip(self) -> float:
        """Seconds, smoothed."""
        return self._recovery.smoothed

    @property
    def misses(self) -> int:
        """How often in a row the peer was asked for a sign of life in vain: above 2, the path may be dead."""
        return self._recovery.misses

    @property
    def datagram_size(self) -> int:
        """The largest that the path is known to take."""
        return self._mtu.size

    def read_into(self, buffer: memoryview, now: float) -> int:
        """The next bytes; 0: none are there."""
        got = self._inbox.read_into(buffer)
        if self._inbox.renew(now, self._recovery.smoothed):
            self._marks |= _LIMIT
        return got

    def write(self, data: bytes | memoryview) -> int:
        """Send ``data``, or as much of it as is taken now."""
        taken = min(len(data), self.room)
        if taken:
            self._outbox.write(memoryview(data)[:taken])
        return taken

    def finish(self) -> None:
        """Nothing more will be written."""
        if not self._finish_asked:
            self._finish_asked = True
            self._marks |= _FIN

    def ping(self) -> None:
        """Ask the peer for a sign of life; ``heard_at`` tells of it."""
        self._pinged = True

    def leave(self, now: float) -> None:
        """Nobody reads or writes it any more: what was written is still delivered, then it ends."""
        if not self._is_left:
            self._is_left, self._left_at = True, now
            self.finish()
            self._drop_unread()
            self._end_if_done()

    def close(self, why: str = "closed here", *, code: int = _DONE) -> None:
        """End it now, whatever is under way."""
        if self.stage is not Stage.OVER:
            if self.stage is not Stage.CALLING:
                self._farewell = code, why
            self._over(why, failed=True)

    def try_address(self, address: Address, now: float) -> None:
        """Ask whether the peer is at ``address``, too, and move there if it is."""
        if self.stage is Stage.OPEN and address != self.address:
            self._paths.want(address, now)

    def network_changed(self, now: float) -> None:
        """This side may have another address by now: what was learnt of the path is void, and the peer is to hear."""
        if self.stage is Stage.OPEN:
            self._start_path(None, now)
            self._pinged = True

    # Datagrams in

    def invited(self, invite: Invite, now: float) -> bool:
        """The called answered; False: that changes nothing."""
        if self._secret is None or not hmac.compare_digest(invite.tag, self.tag):
            return False
        if self.stage is Stage.ENTERING and invite.public == self._called_public:
            self._prefix = entry_prefix(self.tag, self._public, invite.cookie)  # the last one may be of another address
            return False
        if self.stage is not Stage.CALLING:
            return False
        try:
            secrets = agree(
                self._secret,
                invite.public,
                door=self._door,
                tag=self.tag,
                caller=self._public,
                called=invite.public,
            )
        except BadWire:
            return False
        self._stand(secrets.caller_id, secrets.called_id, secrets.caller, secrets.called)
        self._called_public = invite.public
        self._prefix = entry_prefix(self.tag, self._public, invite.cookie)
        self.stage = Stage.ENTERING
        self._began = self._heard_at = now
        trip = now - self._called_at if self._calls == 1 else None
        self._recovery = Recovery(trip)
        self._start_path(trip, now)
        return True

    def receive(self, untrusted: memoryview, source: Address, now: float, segment: int | None = None) -> int:
        """One sealed datagram, or a train of them, all of ``segment`` bytes but the last, that begins with our id.

        How many bytes of the train are dealt with: all, or those before the first datagram that is somebody else's.
        What our peer did not seal, or what came before, changes nothing.
        """
        opener, size = self._opener, len(untrusted)
        if opener is None:
            return size
        segment = segment or size
        first = bytes(untrusted[:8])
        for at in range(0, size, segment):
            datagram = untrusted[at : at + segment]
            head = bytes(datagram[: HEAD.size])
            if not head.startswith(first):
                return at
            number = int.from_bytes(head[8:], "big")
            if number <= self._highest and (number < self._seen_floor or number in self._seen):
                continue
            try:
                length = opener.open(head, number, datagram[HEAD.size :], _plain)
            except BadWire:
                continue
            if self.stage is not Stage.OVER:
                self._opened(number, length, len(datagram), source, now)
        return size

    def _opened(self, number: int, length: int, size: int, source: Address, now: float) -> None:
        self._heard_at = now
        if self.stage is Stage.ENTERING:
            self.stage = Stage.OPEN
            self._secret, self._prefix = None, b""
        elsewhere = source != self.address and number > self._highest
        try:
            if _plain[0] == fr.DATA and not self._is_left and length > fr.DATA_HEAD:  # nearly always
                if self._inbox.offer(fr.data_offset(_plain), _plain[fr.DATA_HEAD : length]):
                    self._note(number, now, is_asked=True, is_data=True)
            elif self._take(number, _plain[:length], source, now):
                elsewhere = False
            if elsewhere and not (source == self._left and now < self._left_until):
                self._paths.seen(source, size, now)
        except BadWire as bad:
            self.close(str(bad), code=_FAULT)

    def reset(self, token: bytes) -> bool:
        """The peer says that it knows no such pipe; False: it is not the peer who says so."""
        if self._peer_token is None or not hmac.compare_digest(token, self._peer_token):
            return False
        self._over("the peer has forgotten it", failed=not (self._is_left and self._outbox.kept == 0))
        return True

    def _take(self, number: int, plain: memoryview, source: Address, now: float) -> bool:
        """Whether it was about a path alone: such a datagram says nothing of where the peer wants to be."""
        is_asked, is_data, is_taken = False, False, True
        frames = fr.read_frames(plain)
        for frame in frames:
            match frame:
                case fr.Data(offset, data):
                    is_asked = is_data = True
                    is_taken = self._inbox.offer(offset, data)
                    if self._is_left:
                        self._drop_unread()
                case fr.Ack(delay, ranges):
                    self._acked(ranges, delay, now)
                case fr.Ping():
                    is_asked = True
                case fr.Limit(end):
                    is_asked = True
                    self._limit = max(self._limit, end)
                case fr.Challenge(nonce):
                    self._echoes.append((source, nonce))
                case fr.Echo(nonce):
                    self._echoed(nonce, now)
                case fr.Token(token):
                    is_asked = True
                    self._peer_token = token
                case fr.Fin(end):
                    is_asked = True
                    self._inbox.finish(end)
                case fr.Past(below):
                    self._seen.forget_below(min(below, self._highest))
                    self._seen_floor = max(self._seen_floor, min(below, self._highest))
                case fr.Close(code, reason):
                    self._closed_by_peer(code, reason)
        if self.stage is not Stage.OVER and is_taken:
            self._note(number, now, is_asked=is_asked, is_data=is_data)
            self._end_if_done()
        return all(isinstance(frame, fr.Challenge | fr.Echo) for frame in frames)

    def _note(self, number: int, now: float, *, is_asked: bool, is_data: bool) -> None:
        in_order = number == self._highest + 1
        self._seen.add(number, number + 1)
        if len(self._seen.lows) > fr.MOST_RANGES:
            self._seen.keep_last(fr.MOST_RANGES)
            self._seen_floor = self._seen.lows[0]
        if number > self._highest:
            self._highest, self._highest_at = number, now
        if is_asked:
            self._unacked += 1
            enough = _ACK_AFTER if number < _AT_FIRST else _ACK_AFTER_LATER
            wait = min(ACK_DELAY, self._recovery.smoothed / 4)
            due = now if self._unacked >= enough or not (in_order and is_data) else now + wait
            self._ack_due = due if self._ack_due is None else min(due, self._ack_due)

    def _acked(self, ranges: tuple[tuple[int, int], ...], delay: float, now: float) -> None:
        news = self._recovery.on_ack(ranges, delay, now)
        self._tells_past = len(ranges) > _MANY_RANGES
        low = high = -1
        size = 0
        for sent in news.acked:
            size += sent.size
            if sent.length:
                if sent.offset == high:
                    high += sent.length
                else:
                    if low >= 0:
                        self._outbox.acked(low, high)
                    low, high = sent.offset, sent.offset + sent.length
            if sent.marks & _FIN:
                self._fin_acked = True
            if sent.size > FLOOR:
                self._mtu.arrived(sent.size)
        if low >= 0:
            self._outbox.acked(low, high)
        for sent in news.late:
            if not sent.marks & _PROBE:  # nor was it counted when it was taken for lost
                self._bbr.on_lost(-sent.size, sent.burst)
        self._lost(news, now)
        if news.acked:
            latest = max((sent.burst for sent in news.acked), key=lambda burst: burst.sent_at)
            self._asked_at = now
            self._bbr.datagram = self._mtu.size
            self._bbr.on_acked(now, size, latest, news.trip, self._recovery.in_flight)

    def _lost(self, news: News, now: float) -> None:
        for sent in news.lost:
            self._again(sent)
            if sent.marks & _PROBE:
                self._mtu.probe_lost(sent.size, now)
                continue
            self._bbr.on_lost(sent.size, sent.burst)
            if sent.size > FLOOR:
                self._mtu.lost(now, self._recovery.smoothed)

    def _again(self, sent: Sent) -> None:
        if sent.length:
            self._outbox.lost(sent.offset, sent.offset + sent.length)
        self._marks |= sent.marks & (_TOKEN | _LIMIT)
        if not self._fin_acked:
            self._marks |= sent.marks & _FIN

    def _echoed(self, nonce: bytes, now: float) -> None:
        proven = self._paths.proven(nonce, now)
        if proven is None or proven.address == self.address:
            return
        if proven.is_wanted:
            self._left, self._left_until = self.address, now + _FOLLOWS
            self._pinged = True
        self.address = proven.address
        self._start_path(proven.trip, now)

    def _start_path(self, trip: float | None, now: float) -> None:
        for sent in self._recovery.moved(trip):
            self._again(sent)
        self._mtu = MtuSearch()
        self._bbr.restart(now, self._mtu.size, self._recovery.smoothed)
        self._paced_at = now

    def _drop_unread(self) -> None:
        self._inbox.drop()
        if self._inbox.renew(0.0, 1.0):
            self._marks |= _LIMIT

    def _closed_by_peer(self, code: int, reason: str) -> None:
        done = code == _DONE and self._inbox.is_whole and not self._outbox.kept
        self._over(reason or "the peer closed it", failed=not done)

    def _end_if_done(self) -> None:
        """After ``leave``: when all is said, the rest is not wanted."""
        if self._is_left and self._fin_acked and not self._outbox.kept and self.stage is not Stage.OVER:
            self._farewell = _DONE, ""
            self._over("both sides are done", failed=False)

    def _over(self, why: str, *, failed: bool) -> None:
        if self.stage is not Stage.OVER:
            self.stage, self.why, self.failed = Stage.OVER, why, failed
            self._echoes.clear()

    # Datagrams out

    def next_train(self, now: float, into: memoryview) -> Train | None:
        """Write what is to be sent next ``into`` at least ``ROOM`` bytes; None: nothing, for now."""
        if self.stage is Stage.OVER:
            return self._say_farewell(now, into)
        if self.stage is Stage.CALLING:
            return self._open(now, into)
        if self.stage is Stage.ENTERING and self._recovery.misses and (train := self._open(now, into)) is not None:
            return train
        return self._question(now, into) or self._probe(now, into) or self._main(now, into)

    def _open(self, now: float, into: memoryview) -> Train | None:
        if now < self._call_due:
            return None
        if not self._calls:
            self._called_at = now
        self._call_due = now + _FIRST_WAIT * float(1 << min(self._calls, 2))
        self._calls += 1
        into[:FLOOR] = write_opening(self.tag, self._public, self._door)
        return Train(self.address, FLOOR, FLOOR)

    def _say_farewell(self, now: float, into: memoryview) -> Train | None:
        if self._farewell is None or self._sealer is None:
            return None
        (code, why), self._farewell = self._farewell, None
        size = self._write(self._recovery.number(), fr.write_close(code, why), into)
        return Train(self.address, size, size)

    def _write(self, number: int, plain: bytes, into: memoryview) -> int:
        """One datagram; how large it is."""
        assert self._sealer is not None
        head, at = sealed_head(self.peer_id, number), len(self._prefix)
        if at:
            into[:at] = self._prefix
        into[at : at + HEAD.size] = head
        behind = at + _OVERHEAD + len(plain)
        self._sealer.seal(head, number, plain, into[at + HEAD.size : behind])
        return behind

    def _question(self, now: float, into: memoryview) -> Train | None:
        """Challenges and echoes go where they are about, in datagrams of their own."""
        if self._echoes:
            address, nonce = self._echoes.popleft()
            return self._single(fr.write_echo(nonce), address, into)
        if (due := self._paths.due(now)) is not None:
            return self._single(fr.write_challenge(due[1]), due[0], into)
        return None

    def _single(self, plain: bytes, address: Address, into: memoryview) -> Train:
        size = self._write(self._recovery.number(), plain, into)
        return Train(address, size, size)

    def _probe(self, now: float, into: memoryview) -> Train | None:
        if self.stage is not Stage.OPEN or not self._outbox.kept or self._recovery.misses:
            return None
        size = self._mtu.probe(now)
        if size is None:
            return None
        number = self._recovery.number()
        self._write(number, fr.PINGS.ljust(size - _OVERHEAD, b"\0"), into)
        burst = self._bbr.burst(now, self._recovery.in_flight)
        if not self._recovery.in_flight:
            self._asked_at = now
        self._recovery.on_sent(number, Sent(burst, size, 0, 0, _PROBE))
        return Train(self.address, size, size)

    def _main(self, now: float, into: memoryview) -> Train | None:
        recovery, outbox, bbr = self._recovery, self._outbox, self._bbr
        probes, budget = self._probes, 0
        if probes:
            self._probes, budget = 0, probes
        elif self._paced_at <= now + _QUANTUM:
            free = bbr.window - recovery.in_flight
            ahead = (now + _QUANTUM - max(self._paced_at, now - self._late)) * bbr.rate
            budget = int(min(free, max(ahead, self._mtu.size))) // self._mtu.size
        size = FLOOR if self._prefix else self._mtu.size
        budget = min(budget, _MOST_DATAGRAMS, _MOST_TRAIN // size)
        has_data = budget > 0 and outbox.has_more(self._limit)
        lead, marks, asks = self._lead(now, has_data)
        if not lead and not has_data:
            if probes:
                lead, asks = fr.PINGS, True
            else:
                return None
        burst = bbr.burst(now, recovery.in_flight)
        room = size - len(self._prefix) - _OVERHEAD - fr.DATA_HEAD
        at = paced = 0
        while True:
            piece = outbox.take(room - len(lead), self._limit) if budget > 0 else None
            if piece is None and not lead:
                break
            number = recovery.number()
            offset, data = piece if piece is not None else (0, b"")
            plain = b"".join((lead, fr.data_head(offset), data)) if data else lead
            wrote = self._write(number, plain, into[at:])
            if data or asks:
                if not recovery.in_flight and not recovery.misses:
                    self._asked_at = now
                recovery.on_sent(number, Sent(burst, wrote, offset, len(data), marks))
                paced += wrote
            at += wrote
            budget -= 1
            lead, marks, asks = b"", 0, False
            if wrote < size or budget <= 0:
                break
        if paced:  # an ack alone is never held back, so it holds back nothing either
            self._paced_at = max(self._paced_at, now - self._late) + paced / bbr.rate
        has_room = recovery.in_flight + self._mtu.size <= bbr.window
        has_more = outbox.has_more(self._limit)
        self._late = _LATEST if has_room and has_more else _LATE
        if has_room and not has_more:
            bbr.has_little(recovery.in_flight)
        return Train(self.address, at, min(at, size))

    def _lead(self, now: float, has_data: bool) -> tuple[bytes, int, bool]:
        """The frames before data, what of them is to be said again when lost, and whether they ask for an ack."""
        parts: list[bytes] = []
        marks, self._marks = self._marks, 0
        if marks & _TOKEN:
            token = reset_token(self._settings.reset_secret, self.id)
            parts.append(fr.write_token(token))
        if marks & _LIMIT:
            parts.append(fr.write_limit(self._inbox.limit))
        if marks & _FIN:
            parts.append(fr.write_fin(self._outbox.end))
        is_due = self._ack_due is not None and self._ack_due <= now
        if self._unacked and (is_due or has_data or parts or self._pinged):
            parts.insert(0, fr.write_ack(self._seen.lows, self._seen.highs, now - self._highest_at))
            self._unacked, self._ack_due = 0, None
        if self._tells_past and has_data:
            self._tells_past = False
            parts.append(fr.write_past(self._recovery.floor))
        if asks := self._pinged:
            self._pinged = False
            parts.append(fr.PINGS)
        return b"".join(parts), marks, asks or bool(marks)

    # The clock

    def next_deadline(self) -> float | None:
        """When to call ``handle_timeout`` at the latest, and to ask for trains again."""
        if self.stage is Stage.OVER:
            return None
        if self.stage is Stage.CALLING:
            return min(self._call_due, self._began + PATIENCE)
        times = [self._recovery.next_deadline(), self._ack_due, self._paths.next_deadline()]
        if self._is_left:
            times.append(self._left_at + _LINGER)
        if self.stage is Stage.ENTERING:
            times.append(self._began + PATIENCE)
        if self._recovery.in_flight:
            times.append(self._asked_at + SILENCE)
        if self._recovery.in_flight + self._mtu.size <= self._bbr.window and self._outbox.has_more(self._limit):
            times.append(self._paced_at)
        return min((time for time in times if time is not None), default=None)

    def handle_timeout(self, now: float) -> None:
        """See what is due."""
        if self.stage is Stage.OVER:
            return
        if self.stage is Stage.CALLING:
            if now >= self._began + PATIENCE:
                self._over("nobody answered", failed=True)
            return
        if self.stage is Stage.ENTERING and now >= self._began + PATIENCE:
            self._over("the called has invited, and says no more", failed=True)
            return
        if self._recovery.in_flight and now >= self._asked_at + SILENCE:
            self._over("the peer is silent", failed=True)
            return
        if self._is_left and now >= self._left_at + _LINGER:
            self.close("the peer did not take all that was sent")
            return
        if self._recovery.is_silent(now):
            self._recovery.misses += 1
            if self._recovery.misses == _BLACK_HOLE:
                self._mtu.black_hole(now)
                self._bbr.restart(now, self._mtu.size, self._recovery.smoothed)
            self._lost(News(lost=self._recovery.give_up(2)), now)
            self._probes = 2
        else:
            news = News()
            self._recovery.find_lost(now, news)
            self._lost(news, now)
