"""One attempt of two devices to reach each other directly, seen from one side: no sockets, no clock.

The plan (``plan.py``) says what to send when; this machine sends it, answers the peer, and says what was found.  Bytes
and the time go in, :class:`Send` and :class:`Connect` come out, and events: :class:`Met` for each way that works, as
soon as it does, and one :class:`Verdict` at the end.  A way works when a ping of ours went there and the peer's pong
came from there: both directions, both ends of the tunnel.

A probe that arrives from somewhere unknown is the peer behind a port nobody foresaw: it is pinged there, a few times.
After our way works we go on until the peer says that so does its own (``Word.MET``), or for a while: if we fell silent
at the first pong, the peer's NAT might never open (it lost our packets, say).

Over a connection nothing is lost, so each side says exactly ``CONNECTION_PROBES`` things: a ping, a pong, that it met
the peer, and a pong to that.  What follows them is no longer ours.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field

from cyfs_ns.errors import BadWire
from rtcp.nat.budget import MOST_PROBES, Budget
from rtcp.nat.candidates import Candidate, Kind, Offer, Transport
from rtcp.nat.plan import Plan, Shot, plan
from rtcp.nat.probe import ProbeBox, Word

Target = tuple[Transport, str, int]
"""Where a packet goes to or comes from: transport, IP address, port."""

SETTLING = 0.1
"""Seconds after the first way works in which a better one may still be found."""
LINGERING = 1.0
"""Seconds we go on for a peer that has not said that it met us."""
CONNECTION_PROBES = 4
_AGAIN = (0.0, 0.03, 0.08, 0.2, 0.4, 0.7)
"""When a place that the peer came from is pinged, after it was first heard."""
_MOST_WAYS = 16
_MOST_CONNECTS = 8
_CONNECT_AGAIN = (0.13, 0.1)
"""Seconds after a refusal; not the same on both sides, so that SYNs which missed each other meet another time."""


@dataclass(frozen=True, slots=True)
class Send:
    """Put ``data`` on the way: a datagram, or bytes of the connection to that place."""

    target: Target
    data: bytes = field(repr=False)
    ttl: int | None = None
    """None: the usual one."""


@dataclass(frozen=True, slots=True)
class Connect:
    """Connect by TCP from our offered port; then :meth:`Punch.connected` or :meth:`Punch.refused`."""

    target: Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Met:
    """The peer was reached at ``target``; ``rtt`` in seconds; ``kind``: as what we knew the place."""

    target: Target
    kind: Kind
    rtt: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The end.  ``ways``: what works, the best first; none: the relay stays.  ``probes``: how many we sent."""

    ways: tuple[Met, ...]
    why: str
    probes: int
    seconds: float

    @property
    def direct(self) -> bool:
        return bool(self.ways)


@dataclass(slots=True)
class _Way:
    """A place the peer was heard from, or a connection to it."""

    kind: Kind
    pings: deque[float]
    rtt: float | None = None
    peer_met: bool = False


class Punch:
    """``secret``: at least 32 bytes that only the ends of the tunnel know; ``start``: when this side begins, which is
    when the offer that answers was sent (``opens``) or came (not ``opens``); ``rtt``, ``own``, ``private`` as for
    :func:`~rtcp.nat.plan.plan`; ``budget`` is the device's.
    """

    def __init__(
        self,
        ours: Offer,
        theirs: Offer,
        *,
        opens: bool,
        secret: bytes,
        start: float,
        rtt: float,
        budget: Budget,
        own: Collection[str] = (),
        private: bool = False,
    ) -> None:
        self.plan: Plan = plan(ours, theirs, opens=opens, rtt=rtt, own=own, private=private)
        self._box = ProbeBox(secret, opens=opens, our_nonce=ours.nonce, their_nonce=theirs.nonce)
        self._budget, self._start = budget, start
        self._shots = deque(self.plan.shots)
        self._kinds: dict[Target, Kind] = {_target(shot.target): shot.target.kind for shot in self.plan.shots}
        self._connects: dict[Target, int] = {}
        self._reconnects: dict[Target, float] = {}
        self._connect_again = _CONNECT_AGAIN[opens]
        self._pings: dict[int, tuple[Target, float]] = {}
        self._ways: dict[Target, _Way] = {}
        self._first_met: float | None = None
        self._probes = 0
        self._out: deque[Send | Connect] = deque()
        self._events: deque[Met | Verdict] = deque()
        self._ended = False

    @property
    def attempt(self) -> bytes:
        """What :func:`~rtcp.nat.probe.attempt_of` finds in this attempt's datagrams."""
        return self._box.attempt

    def next_action(self) -> Send | Connect | None:
        return self._out.popleft() if self._out else None

    def next_event(self) -> Met | Verdict | None:
        return self._events.popleft() if self._events else None

    def next_deadline(self) -> float | None:
        """When :meth:`handle_timeout` is due; None after the end."""
        if self._ended:
            return None
        due = [self._end(), *self._reconnects.values()]
        due += [way.pings[0] for way in self._ways.values() if way.pings]
        if self._shots:
            due.append(self._start + self._shots[0].at)
        return min(due)

    def handle_timeout(self, now: float) -> None:
        """Send what is due."""
        while not self._ended and self._shots and self._start + self._shots[0].at <= now:
            self._fire(self._shots.popleft(), now)
        for target in [target for target, at in self._reconnects.items() if at <= now]:
            del self._reconnects[target]
            self._connect(target, now)
        for target, way in self._ways.items():
            while way.pings and way.pings[0] <= now:
                way.pings.popleft()
                self._ping(target, now)
        if not self._ended and now >= self._end():
            self._finish(now)

    def receive(self, untrusted: bytes, source: Target, now: float) -> bool:
        """What came from ``source``: a datagram, or one probe of a connection.  False when it is not the peer's."""
        try:
            probe = self._box.read(untrusted)
        except BadWire:
            return False
        way = self._way(source, now)
        if way is None:
            return True
        if probe.word is Word.PONG:
            self._ponged(probe.echo, source, way, now)
        else:
            self._send(Word.PONG, source, now, echo=probe.number)
            if probe.word is Word.MET:
                way.peer_met = True
        if not self._ended and now >= self._end():
            self._finish(now)
        return True

    def connected(self, target: Target, now: float) -> None:
        """A connection to ``target``, or from it, stands: whether it is the peer's will be seen."""
        self._reconnects.pop(target, None)
        self._way(target, now)

    def refused(self, target: Target, now: float) -> None:
        """The connection failed: the peer's NAT may not have been open yet."""
        if self._first_met is None and not self._ended and self._connects[target] < _MOST_CONNECTS:
            self._reconnects[target] = now + self._connect_again

    def _fire(self, shot: Shot, now: float) -> None:
        target = _target(shot.target)
        if target in self._ways:
            return
        if target[0] is Transport.TCP:
            self._connect(target, now)
        else:
            self._ping(target, now, shot.ttl)

    def _connect(self, target: Target, now: float) -> None:
        if target not in self._ways and self._budget.spend(target[1], now):
            self._connects[target] = self._connects.get(target, 0) + 1
            self._probes += 1
            self._out.append(Connect(target))

    def _way(self, source: Target, now: float) -> _Way | None:
        """The way from ``source``; None when the peer has more addresses than anybody needs."""
        way = self._ways.get(source)
        if way is None and len(self._ways) < _MOST_WAYS:
            kind = self._kinds.get(source, Kind.OBSERVED)
            way = self._ways[source] = _Way(kind, _pings(source, now))
            self.handle_timeout(now)
        return way

    def _ponged(self, echo: int, source: Target, way: _Way, now: float) -> None:
        target, sent = self._pings.pop(echo, (None, now))
        if target != source or self._ended:
            return
        self._budget.answered(source[1])
        if way.rtt is None:
            way.rtt = now - sent
            self._events.append(Met(target=source, kind=way.kind, rtt=way.rtt))
            way.pings = _pings(source, now)
            if self._first_met is None:
                self._first_met = now
                self._keep_better(way.kind, now)
            self.handle_timeout(now)
        else:
            way.rtt = min(way.rtt, now - sent)

    def _keep_better(self, kind: Kind, now: float) -> None:
        """Of the plan only what may find a better kind of way, soon."""
        last = now + SETTLING - self._start
        self._shots = deque(s for s in self._shots if s.target.kind < kind and s.at < last)
        self._reconnects.clear()

    def _ping(self, target: Target, now: float, ttl: int | None = None) -> None:
        way = self._ways.get(target)
        self._send(Word.MET if way is not None and way.rtt is not None else Word.PING, target, now, ttl=ttl)

    def _send(self, word: Word, target: Target, now: float, *, echo: int = 0, ttl: int | None = None) -> None:
        if target[0] is Transport.UDP:
            if self._probes >= MOST_PROBES or not self._budget.spend(target[1], now):
                return
            self._probes += 1
        number, data = self._box.write(word, echo)
        if word is not Word.PONG:
            self._pings[number] = (target, now)
        self._out.append(Send(target, data, ttl))

    def _end(self) -> float:
        if self._first_met is None:
            return self._start + self.plan.until
        if any(way.peer_met and way.rtt is not None for way in self._ways.values()):
            return self._first_met + SETTLING
        return self._first_met + LINGERING

    def _finish(self, now: float) -> None:
        self._ended = True
        met = [Met(target=t, kind=way.kind, rtt=way.rtt) for t, way in self._ways.items() if way.rtt is not None]
        met.sort(key=lambda one: (one.target[0], one.kind, one.rtt))
        seconds = now - self._start
        self._events.append(Verdict(ways=tuple(met), why=self._why(met), probes=self._probes, seconds=seconds))

    def _why(self, met: list[Met]) -> str:
        if met:
            best = met[0]
            return f"direct by {best.target[0].name}, {_WORDS[best.kind]}"
        if self.plan.doubt:
            return f"relayed because {self.plan.doubt}"
        if not self.plan.shots:
            return "relayed because the peer named no address that may be probed"
        heard = "its probes came but ours were not answered" if self._ways else "nothing of the peer arrived"
        return f"relayed because {heard}, though the NATs should allow it"


_WORDS = {
    Kind.LAN: "on a network we share",
    Kind.HOST: "to its own address",
    Kind.IPV6: "to its own IPv6 address",
    Kind.MAPPED: "to a port its router maps",
    Kind.OBSERVED: "through its NAT",
    Kind.PREDICTED: "through its NAT, at a port that was predicted",
}


def _pings(target: Target, now: float) -> deque[float]:
    """When a place is pinged for as long as it does not answer; once over a connection."""
    return deque(now + after for after in (_AGAIN if target[0] is Transport.UDP else _AGAIN[:1]))


def _target(candidate: Candidate) -> Target:
    return candidate.transport, candidate.address, candidate.port
