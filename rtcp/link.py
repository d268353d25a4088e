"""One control tunnel of version 4, seen from one side: a machine without socket, clock or dice.

Bytes and the time go in by ``receive_data`` and ``handle_timeout``; events, bytes and the next deadline come out.  The
way of a link, with what moves it on:

    dialler:    GREETED --HelloAck--> CONFIRMED --TunnelResult--> OPEN
    responder:  WAITING --Hello--> PROVEN --admit()--> ANSWERED --Confirm--> DECIDING --accept_tunnel()--> OPEN

From everywhere a fault, a deadline or ``close()`` leads to CLOSED, which is told once (``LinkClosed``) and never left.
The first two packets are plain; all others are records.  A packet out of its place is a fault like any other bad byte.

What strangers send never raises here: it ends the link.  What raises is our own doing.

Times are of a clock that never goes back; ``wall``, the seconds since 1970 at the start, serves the tokens alone.
"""

from __future__ import annotations

from enum import Enum

from cyfs_ns.errors import BadWire, Misuse, Refused, Unreachable
from rtcp.admission import Policy, Proven, ProvenHello, examine
from rtcp.events import (
    End,
    HelloProven,
    LinkClosed,
    LinkEvent,
    PeerConfirmed,
    PingAnswered,
    StreamAnswered,
    StreamMissed,
    StreamRequested,
    TunnelOpened,
)
from rtcp.handshake import ENTROPY_SIZE, Session, answer, conclude, greet
from rtcp.legs import Leg
from rtcp.limits import Limits
from rtcp.liveness import Liveness, Pulse
from rtcp.machine import Machine
from rtcp.nonces import NonceMemory
from rtcp.packet import (
    Body,
    Hello,
    HelloAck,
    HelloAckConfirm,
    Open,
    OpenResp,
    Packet,
    PacketReader,
    Ping,
    Pong,
    Purpose,
    Result,
    ROpen,
    ROpenResp,
    TunnelResult,
    write_packet,
)
from rtcp.party import Local, Remote
from rtcp.records import RecordOpener, RecordSealer, Spent
from rtcp.schedule import stream_keys
from rtcp.streams import Stage, StreamBook
from rtcp.tokens import HelloClaims

_LAST_SEQ = (1 << 32) - 1
_MOST_PINGS = 16
_TOO_SOON = "the peer spoke on before it was answered"
_DEFAULTS = Limits()
_ANYBODY = Policy()


class _State(Enum):
    GREETED = "waiting for the answer to our Hello"
    CONFIRMED = "waiting for the peer's verdict"
    WAITING = "waiting for a Hello"
    PROVEN = "waiting to be told whether the stranger is let in"
    ANSWERED = "waiting for the proof of keys"
    DECIDING = "waiting to be told whether the tunnel is kept"
    OPEN = "open"
    CLOSED = "closed"


class Link(Machine[LinkEvent]):
    """Made by :meth:`dial` or :meth:`respond`."""

    @classmethod
    def dial(
        cls,
        local: Local,
        remote: Remote,
        *,
        entropy: bytes,
        now: float,
        wall: float,
        limits: Limits = _DEFAULTS,
        offers: bool = False,
    ) -> Link:
        """The link of the side that made the connection.  ``entropy``: ``ENTROPY_SIZE`` random bytes; ``offers``:
        whether the Hello says that we speak version 5, too.

        Raises ``BadWire`` if one of the two identities has no host form.
        """
        link = cls(local, entropy, now, wall, limits)
        link._remote = remote
        hello, link._claims = greet(local, remote, entropy, wall, offers=offers)
        link._send_plain(Packet(link._next_seq(), hello))
        link._enter(_State.GREETED, now)
        return link

    @classmethod
    def respond(
        cls,
        local: Local,
        nonces: NonceMemory,
        *,
        entropy: bytes,
        now: float,
        wall: float,
        policy: Policy = _ANYBODY,
        limits: Limits = _DEFAULTS,
    ) -> Link:
        """The link of the side that was dialled.  ``nonces`` is shared by all links of this device."""
        link = cls(local, entropy, now, wall, limits)
        link._nonces, link._policy = nonces, policy
        link._enter(_State.WAITING, now)
        return link

    def __init__(self, local: Local, entropy: bytes, now: float, wall: float, limits: Limits) -> None:
        if len(entropy) != ENTROPY_SIZE:
            raise Misuse(f"a handshake takes {ENTROPY_SIZE} random bytes")
        super().__init__()
        self._local, self._entropy, self._limits = local, entropy, limits
        self._wall_offset = wall - now
        self._remote: Remote | None = None
        self._claims: HelloClaims | None = None
        self._nonces: NonceMemory | None = None
        self._policy = _ANYBODY
        self._proven: ProvenHello | None = None
        self._session: Session | None = None
        self._sealer: RecordSealer | None = None
        self._opener: RecordOpener | None = None
        self._reader = PacketReader()
        self._seq = 0
        self._deadline = self._keys_end = now
        self._state = _State.WAITING
        self._alive = Liveness(limits, now)
        self._streams = StreamBook(True, limits, now)
        self._pings: dict[int, float] = {}

    # What happens to us

    def receive_data(self, untrusted: bytes, now: float) -> None:
        """Bytes came from the peer.  Whatever they are, they raise nothing."""
        if self.is_closed or not untrusted:
            return
        try:
            if self._opener is None:
                untrusted = self._read_plain(untrusted, now)
            if self._opener is not None:
                self._opener.receive_data(untrusted)
                self._read_records(self._opener, now)
        except BadWire as bad:
            self._close(End.FAULT, str(bad))
        except Refused as no:
            self._close(End.REFUSED, str(no))

    def receive_eof(self) -> None:
        """The peer has finished sending, or the connection broke."""
        self._close(End.LOST, "the connection ended" if self.is_open else "the connection ended in the handshake")

    def next_deadline(self) -> float | None:
        """When to call ``handle_timeout``; None: never again."""
        if self._state is _State.CLOSED:
            return None
        if self._state is not _State.OPEN:
            return self._deadline
        deadlines = (self._deadline, self._alive.deadline, self._streams.next_deadline())
        return min(one for one in deadlines if one is not None)

    def handle_timeout(self, now: float) -> None:
        """It is ``now``: whatever was due happens.  Calling early does nothing."""
        if self._state is _State.CLOSED:
            return
        if now >= self._deadline:
            if self._state is _State.OPEN:
                self._close(End.SPENT, "the keys of this tunnel are too old")
            else:
                self._close(End.LOST, f"too late: {self._state.value}")
            return
        if self._state is _State.OPEN:
            self._expire_streams(now)
            self._feel_pulse(now)

    @property
    def is_open(self) -> bool:
        return self._state is _State.OPEN

    @property
    def is_closed(self) -> bool:
        return self._state is _State.CLOSED

    @property
    def last_heard(self) -> float:
        """When the peer last proved that it lives."""
        return self._alive.last_heard

    @property
    def is_answered(self) -> bool:
        """Whether this and the peer have keys in common; on the dialler's side that proves the peer."""
        return self._session is not None

    @property
    def proven(self) -> Proven | None:
        """On the responder's side: who knocked."""
        return self._proven

    # What we want

    def admit(self, now: float) -> None:
        """The stranger of ``HelloProven`` may come in.  Its Hello is refused after all if it was seen before."""
        if self._is_over(_State.PROVEN):
            return
        proven, nonces = self._proven, self._nonces
        assert proven is not None and nonces is not None
        if not nonces.remember(str(proven.device), proven.claims.nonce, proven.claims.exp, self._wall(now)):
            self._close(End.FAULT, "this Hello was used before")
            return
        try:
            ack, session = answer(self._local, proven, self._entropy, self._wall(now))
        except BadWire as bad:
            self._close(End.FAULT, str(bad))
            return
        self._send_plain(Packet(0, ack))
        self._encrypt(session, dialler=False, now=now)
        self._state = _State.ANSWERED  # the deadline stays: all before the proof of keys is one step

    def accept_tunnel(self, now: float) -> None:
        """The tunnel of ``PeerConfirmed`` is kept."""
        if self._is_over(_State.DECIDING):
            return
        self._send(Packet(0, TunnelResult(True)))
        self._opened(now)

    def turn_away(self, reason: str) -> None:
        """Whoever knocks is not wanted.  Strangers are told nothing, a peer that proved its keys gets ``reason``."""
        if self._is_over(_State.PROVEN, _State.DECIDING):
            return
        if self._state is _State.DECIDING:
            self._send(Packet(0, TunnelResult(False, reason[:200])))
        self._close(End.REFUSED, reason)

    def open_stream(self, stream_id: bytes, purpose: Purpose, host: str | None, port: int, now: float) -> None:
        """Ask the peer to reach ``host`` (None: its own machine) for us; ``StreamAnswered`` follows.

        ``stream_id`` is 16 random bytes.  Raises ``Refused`` while too many are under way, ``Spent`` when no more can
        be opened under these keys, ``Unreachable`` once the link is closed, ``Misuse`` before it is open.
        """
        if self.is_closed:
            raise Unreachable("the tunnel is closed", "tunnel_open")
        if not self.is_open:
            raise Misuse("a stream needs a tunnel that stands")
        seq = self._next_seq()
        self._streams.ask(stream_id, seq, purpose, now)
        kind = Open if self._dialler else ROpen
        self._send(Packet(seq, kind(stream_id.hex(), purpose, port, host)))

    def answer_stream(self, stream_id: bytes, result: int, now: float) -> bool:
        """Answer ``StreamRequested``; False: too late, the stream must not be served."""
        if self._state is not _State.OPEN:
            return False
        seq = self._streams.answer(stream_id, result, now)
        if seq is None:
            return False
        self._send(Packet(seq, ROpenResp(result) if self._dialler else OpenResp(result)))
        return True

    def take_leg(self, stream_id: bytes, now: float) -> Leg | None:
        """The leg of a stream whose connection stands; None: it is not expected (any more), so close it."""
        if self._state is not _State.OPEN:
            return None
        purpose = self._streams.connected(stream_id)
        if purpose is None:
            return None
        assert self._session is not None
        return Leg(stream_keys(self._session.keys.key, stream_id, purpose), stream_id, self._dialler, now)

    def ping(self, now: float) -> None:
        """Ask for a sign of life; ``PingAnswered`` follows."""
        if self._state is not _State.OPEN:
            return
        seq = self._next_seq()
        self._pings[seq] = now
        if len(self._pings) > _MOST_PINGS:
            del self._pings[next(iter(self._pings))]
        self._send(Packet(seq, Ping(int(self._wall(now)))))

    def close(self) -> None:
        """We are done.  Version 4 has no word for it: the connection just ends."""
        self._close(End.ASKED, "closed by us")

    # How packets are read and what they do

    @property
    def _dialler(self) -> bool:
        return self._remote is not None

    def _read_plain(self, untrusted: bytes, now: float) -> bytes:
        """Reads the one packet that comes in plain; what follows it is returned."""
        if self._state is _State.PROVEN:
            raise BadWire(_TOO_SOON)
        self._reader.receive_data(untrusted)
        packet = self._reader.next_packet()
        if packet is None:
            return b""
        rest = self._reader.take_rest()
        self._take_plain(packet, now)
        if rest and self._opener is None:
            raise BadWire(_TOO_SOON)
        return rest

    def _read_records(self, opener: RecordOpener, now: float) -> None:
        while not self.is_closed and (plain := opener.next_record()) is not None:
            self._alive.heard(now)
            self._reader.receive_data(plain)
            while not self.is_closed and (packet := self._reader.next_packet()) is not None:
                self._take(packet, now)

    def _take_plain(self, packet: Packet, now: float) -> None:
        match self._state, packet.body:
            case _State.WAITING, Hello() as hello:
                self._proven = examine(hello, self._local, self._wall(now), self._policy)
                self._state = _State.PROVEN
                self._events.append(HelloProven(self._proven))
            case _State.GREETED, HelloAck() as ack:
                assert self._remote is not None and self._claims is not None
                session = conclude(self._local, self._remote, self._claims, self._entropy, ack, self._wall(now))
                self._encrypt(session, dialler=True, now=now)
                self._send(Packet(packet.seq, HelloAckConfirm(session.challenge)))
                self._enter(_State.CONFIRMED, now)
            case _, body:
                raise self._misplaced(body)

    def _take(self, packet: Packet, now: float) -> None:
        match self._state, packet.body:
            case _State.OPEN, Ping():
                self._send(Packet(packet.seq, Pong()))
            case _State.OPEN, Pong():
                if (sent := self._pings.pop(packet.seq, None)) is not None:
                    self._events.append(PingAnswered(now - sent))
            case _State.OPEN, (Open() | ROpen()) as request:
                self._take_request(packet.seq, request, now)
            case _State.OPEN, (OpenResp(result) | ROpenResp(result)):
                if isinstance(packet.body, OpenResp) is not self._dialler:
                    raise self._misplaced(packet.body)
                if (stream_id := self._streams.answered(packet.seq, result, now)) is not None:
                    self._events.append(StreamAnswered(stream_id, result))
            case _State.CONFIRMED, TunnelResult(accepted, reason):
                if not accepted:
                    raise Refused(f"the peer does not want the tunnel: {reason[:200]!r}")
                self._opened(now)
            case _State.ANSWERED, HelloAckConfirm(echo):
                assert self._session is not None
                if echo != self._session.challenge:
                    raise BadWire("the peer gave back another challenge than ours")
                self._enter(_State.DECIDING, now)
                self._events.append(PeerConfirmed())
            case _, body:
                raise self._misplaced(body)

    def _take_request(self, seq: int, request: Open | ROpen, now: float) -> None:
        right_way = isinstance(request, ROpen) is self._dialler
        result = self._streams.judge(request.streamid, right_way, seq, request.purpose, now)
        if result is Result.OK:
            stream_id = bytes.fromhex(request.streamid)
            self._events.append(StreamRequested(stream_id, request.purpose, request.dest_host, request.dest_port))
        else:
            self._send(Packet(seq, ROpenResp(result) if isinstance(request, ROpen) else OpenResp(result)))

    def _misplaced(self, body: Body) -> BadWire:
        return BadWire(f"{type(body).__name__} out of place: {self._state.value}")

    # Time

    def _expire_streams(self, now: float) -> None:
        for stream_id, stage, seq in self._streams.expire(now):
            if stage is Stage.ASKED:
                self._events.append(StreamAnswered(stream_id, Result.TIMEOUT))
                continue
            if stage is Stage.PENDING:
                self._send(Packet(seq, ROpenResp(Result.TIMEOUT) if self._dialler else OpenResp(Result.TIMEOUT)))
            self._events.append(StreamMissed(stream_id))

    def _feel_pulse(self, now: float) -> None:
        match self._alive.due(now):
            case Pulse.ASK:
                self.ping(now)
            case Pulse.DEAD:
                self._close(End.LOST, "the peer gives no sign of life")
            case Pulse.QUIET:
                pass

    def _wall(self, now: float) -> float:
        return self._wall_offset + now

    # Small steps

    def _enter(self, state: _State, now: float) -> None:
        self._state = state
        self._deadline = now + self._limits.step

    def _encrypt(self, session: Session, *, dialler: bool, now: float) -> None:
        self._session = session
        self._entropy = b""
        self._sealer = RecordSealer(session.keys, dialler, self._limits.budget)
        self._opener = RecordOpener(session.keys, not dialler, self._limits.budget)
        self._reader = PacketReader()
        self._keys_end = now + self._limits.budget.seconds

    def _opened(self, now: float) -> None:
        if self._state is _State.CLOSED:
            return
        self._state = _State.OPEN
        self._deadline = self._keys_end
        self._alive = Liveness(self._limits, now)
        self._streams = StreamBook(self._dialler, self._limits, now)
        self._events.append(TunnelOpened())

    def _next_seq(self) -> int:
        self._seq = self._seq % _LAST_SEQ + 1  # never 0, which asks for no answer
        return self._seq

    def _send_plain(self, packet: Packet) -> None:
        self._out += write_packet(packet)

    def _send(self, packet: Packet) -> None:
        if self._state is _State.CLOSED:
            return
        assert self._sealer is not None
        try:
            self._out += self._sealer.seal(write_packet(packet))
        except Spent as spent:
            self._close(End.SPENT, str(spent))
            return
        if len(self._out) > self._limits.unsent:
            self._close(End.LOST, "the peer does not read what we send")

    def _is_over(self, *expected: _State) -> bool:
        """Whether the link ended before the caller's decision came.  Raises ``Misuse`` if nobody asked for one."""
        if self._state is _State.CLOSED:
            return True
        if self._state not in expected:
            raise Misuse(f"nothing to decide: {self._state.value}")
        return False

    def _close(self, end: End, why: str) -> None:
        if self._state is not _State.CLOSED:
            self._state = _State.CLOSED
            self._entropy = b""
            self._events.append(LinkClosed(end, why))
