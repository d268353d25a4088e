"""Which of several ways to a peer carries the traffic, and why: a relay at once, something better when it answers.

A way is *trusted* for 6.5 s after something of the peer came over it; relays always, until they break.  Of the trusted
ways the best carries: direct UDP, then direct TCP, then a relay, by UDP if it can be; among equals one that stays on a
network both are on, for a router that turns packets round has better to do; then the quicker, but only if it is clearly
quicker (losses count as time), so that two alike do not take turns.

**Pings** go over the way in use every 3 s while the peers talk, and stop 45 s after.  One that stays unanswered, or
data that nothing comes back for, makes us *doubt*: it is pinged again at once, and when that stays unanswered too the
relay takes over; doubt costs a relay nothing, waiting would cost the user a second.  A new search starts the same
moment, for a NAT that was rebooted has forgotten us; the old way is pinged on, in case it only paused.  The more often
a way failed the more pongs in a row it needs to carry again.

**Quiet peers** cost nothing; where the owner wants to stay reachable (``keep``), one ping each 25 s.  What is sent
after a silence goes by the relay at once while all ways we know are asked; so it is after sleep, when much time has
passed in one step, and when the network changed.

Absent on purpose: moving streams.  This machine only says which way to use; carriers know how.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from rtcp.nat.candidates import Kind, Transport
from rtcp.nat.punch import Verdict

BUSY = 45.0
"""Seconds after the last data in which the peers count as talking."""
HEARTBEAT = 3.0
TRUST = 6.5
RETRY = 60.0
"""Seconds between two looks for something better."""
SOON = 5.0
"""The same, where a direct way was lost: what it needs, a router that begins anew, may be back any moment.  Each time
it is twice as long."""
KEEPALIVE = 25.0
GOOD_ENOUGH = 0.005
"""A direct way this quick, in seconds, is not bettered."""
MOST_WAYS = 16
_MARGIN, _FRACTION = 0.002, 0.75
_PATIENCE = {Transport.UDP: 0.15, Transport.TCP: 1.0}
"""The least time that a ping may take; else three times what it took before.  On a connection it waits behind what is
queued there, and on the way all that is lost is sent again first."""
_DOUBTS = 2
"""Unanswered pings in a row that end trust."""
_GRACE = 2.0
"""Seconds that ways which were good before a silence have to answer, before a new search begins."""
_AWAKE_AGAIN = 10.0
"""Seconds during which a way that paused is pinged each second."""
_MOST_PROOF = 4


@dataclass(frozen=True, slots=True)
class Way:
    """One way to the peer.  ``name``: unique among the peer's, for people: ``udp 198.51.100.7:4242``."""

    name: str
    kind: Kind
    transport: Transport = Transport.UDP

    @property
    def relayed(self) -> bool:
        return self.kind is Kind.RELAY

    @property
    def rank(self) -> int:
        return 2 * self.relayed + self.transport

    @property
    def leaves(self) -> bool:
        """Whether it leads out of a network that both are on, or there is none."""
        return self.kind is not Kind.LAN


@dataclass(frozen=True, slots=True)
class Ping:
    """Ask the peer over this way; then :meth:`Race.pong`."""

    way: Way


@dataclass(frozen=True, slots=True)
class Use:
    """From now on data goes this way; ``why`` is for people."""

    way: Way
    why: str


@dataclass(frozen=True, slots=True)
class Search:
    """Gather candidates and punch again, as far as the budget lets us."""

    why: str


Action = Ping | Use | Search


@dataclass(frozen=True, slots=True, kw_only=True)
class WayReport:
    """``rtt`` in seconds, None: never answered; ``loss``: 0 to 1; ``heard``: seconds since; ``state``: in a word."""

    way: Way
    state: str
    rtt: float | None
    loss: float
    heard: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """For ``ping --explain``: the way in use, why it is, and all we know of."""

    current: Way | None
    why: str
    ways: tuple[WayReport, ...]


@dataclass(slots=True, eq=False)
class _State:
    way: Way
    rtt: float | None = None
    loss: float = 0.0
    heard: float | None = None
    pinged: float | None = None
    """When the ping that is unanswered was sent; None: none is."""
    last_ping: float | None = None
    unanswered: int = 0
    proof: int = 0
    """Pongs still needed before it may carry."""
    failures: int = 0
    asked_until: float = 0.0
    """Until when it is pinged each second though it does not carry."""
    broken: bool = False


@dataclass(slots=True)
class Race:
    """The ways to one peer.  Times are of one monotonic clock; whoever owns it carries out :meth:`next_action`, and
    comes back at :meth:`next_deadline`.

    ``keep``: ping each 25 s when nobody talks, so that the peer's packets still find us.  ``steady``: reliable pipes
    go the ways.  What comes out of one acknowledges what we sent, so it counts as a pong; and to change costs more than
    to ask, so the way in use is left when it does not answer, and not because it was silent while nobody spoke.
    """

    keep: bool = False
    steady: bool = False
    _ways: dict[Way, _State] = field(default_factory=dict, init=False)
    _current: _State | None = field(default=None, init=False)
    _why: str = field(default="no way is known", init=False)
    _used: float | None = field(default=None, init=False)
    _sent: float | None = field(default=None, init=False)
    """When data was sent that nothing came back for."""
    _looked: float = field(default=float("-inf"), init=False)
    _looks: int = field(default=0, init=False)
    """How often something better was looked for since a direct way carried."""
    _out: deque[Action] = field(default_factory=deque, init=False)

    @property
    def current(self) -> Way | None:
        return self._current.way if self._current else None

    def next_action(self) -> Action | None:
        return self._out.popleft() if self._out else None

    def add(self, way: Way, now: float) -> None:
        """Another way may exist.  A relay may carry at once, others when they have answered.

        Of more than ``MOST_WAYS`` the one that was silent for longest is forgotten.
        """
        if (known := self._ways.get(way)) is not None:
            known.broken = False
        else:
            if len(self._ways) >= MOST_WAYS:
                others = [state for state in self._ways.values() if state is not self._current]
                del self._ways[min(others, key=self._regret).way]
            known = self._ways[way] = _State(way)
        if not way.relayed:
            known.asked_until = now + _AWAKE_AGAIN
            self._ping(known, now)
        self._decide(now)

    def broke(self, way: Way, now: float) -> None:
        """Its connection, or its relay, is gone."""
        state = self._ways.get(way)
        if state is None:
            return
        state.broken, state.heard, state.pinged = True, None, None
        self._decide(now)

    def used(self, now: float) -> None:
        """Data was sent.  After a silence this asks all ways again."""
        slept = not self._busy(now)
        self._used = now
        if self._sent is None:
            self._sent = now
        if slept:
            self._wake(now)
        if slept or self._current is None or not self._trusted(self._current, now):
            self._decide(now)

    def heard(self, way: Way, now: float) -> None:
        """Data of the peer came over ``way``, and it was authentic.  Pings are no data: they would keep us awake."""
        state = self._ways.get(way)
        if state is None or state.broken:
            return
        state.heard = self._used = now
        if state is self._current:
            self._sent = None
            if self.steady:  # as good as a pong
                state.pinged, state.unanswered = None, 0
        else:
            self._decide(now)

    def went(self, way: Way, now: float) -> None:
        """Data goes this way now without our word: it had to, the one before is gone."""
        before = self._current
        if before is not None and before.way == way:
            return
        self.add(way, now)
        if before is not None:
            before.unanswered = _DOUBTS
        state = self._ways[way]
        if state is not self._current:
            self._current, self._sent = state, None
            if before is None:
                self._why = "it was the way that was left"
            elif not (before.way.relayed and way.relayed):  # why there is no direct way stays as it was
                self._why = f"{before.way.name} broke"
            if before is not None and not before.way.relayed:
                self._left(before, now)

    def pong(self, way: Way, rtt: float, now: float) -> None:
        """The peer answered a ping; ``rtt`` in seconds."""
        state = self._ways.get(way)
        if state is None or state.broken:
            return
        state.rtt = rtt if state.rtt is None else state.rtt + (rtt - state.rtt) / 4
        state.loss *= 0.9
        state.heard, state.pinged, state.unanswered = now, None, 0
        state.proof = max(0, state.proof - 1)
        if state is self._current:
            self._sent = None
        self._decide(now)

    def judged(self, verdict: Verdict, now: float) -> None:
        """A search ended: if it found nothing, that is why we are relayed."""
        if self._current is not None and self._current.way.relayed and not verdict.direct:
            self._why = verdict.why
        self._looked = now

    def network_changed(self, now: float) -> None:
        """Another address, another router: nothing that was direct is trusted, what failed is forgiven."""
        for state in self._ways.values():
            if not state.way.relayed:
                state.heard, state.pinged, state.unanswered, state.proof, state.failures = None, None, 0, 0, 0
        self._decide(now)
        if self._busy(now) or self.keep:
            self._ask_all(now)
            self._search("the network changed", now)

    def next_deadline(self) -> float | None:
        """When :meth:`handle_timeout` is due; None: not before something happens."""
        due = [at for state in self._ways.values() if (at := self._due(state)) is not None]
        if self._used is not None and self._wants_better():
            look = max(self._looked + self._retry, self._used)
            due += [look] if look < self._used + BUSY else []
        return min(due, default=None)

    def handle_timeout(self, now: float) -> None:
        """Send what is due, and doubt what is overdue."""
        for state in list(self._ways.values()):
            if state.pinged is not None and self._is_due(state, now):
                state.pinged = None
                state.unanswered += 1
                if state.proof:
                    state.proof = min(state.failures, _MOST_PROOF)
                if state.unanswered <= _DOUBTS:  # what is dead is not lossy
                    state.loss = state.loss * 0.9 + 0.1
            if state.pinged is None and self._is_due(state, now):
                self._ping(state, now)
        if not self._busy(now):
            self._used = None
        elif self._wants_better() and now >= self._looked + self._retry:
            self._looks += 1
            self._ask_all(now, 0.0)
            self._search("to find something better", now)
        self._decide(now)

    def explain(self, now: float, carries: str = "") -> Report:
        """All of this for people.  ``carries``: the name of the way that data goes by, chosen or not."""
        used = next((state for state in self._ways.values() if state.way.name == carries), self._current)
        ways = [
            WayReport(
                way=state.way,
                state="in use" if state is used else self._word(state, now),
                rtt=state.rtt,
                loss=state.loss,
                heard=None if state.heard is None else now - state.heard,
            )
            for state in sorted(self._ways.values(), key=self._worth)
        ]
        return Report(current=used.way if used else None, why=self._why, ways=tuple(ways))

    def _busy(self, now: float) -> bool:
        return self._used is not None and now - self._used < BUSY

    def _trusted(self, state: _State, now: float) -> bool:
        if state.broken:
            return False
        if state.way.relayed:
            return True
        fresh = state.heard is not None and (now - state.heard < TRUST or (self.steady and state is self._current))
        return fresh and state.rtt is not None and state.unanswered < _DOUBTS and not state.proof

    def _worth(self, state: _State) -> tuple[int, bool, float]:
        rtt = 1.0 if state.rtt is None else state.rtt
        return state.way.rank, state.way.leaves, rtt * (1 + 5 * state.loss)

    def _decide(self, now: float) -> None:
        before = self._current
        trusted = [state for state in self._ways.values() if self._trusted(state, now)]
        best = min(trusted, key=self._worth, default=None)
        stays = before is not None and before in trusted
        if best is None or best is before or (stays and not self._clearly_better(best, before)):
            if before is not None and before.broken:
                self._current, self._why = None, f"{before.way.name} broke, and no other way is known"
            return
        self._current, self._sent = best, None
        if not best.way.relayed:
            self._looks = 0
        self._why = self._reason(best, before, stays=stays)
        self._out.append(Use(best.way, self._why))
        if before is not None and not stays and not before.way.relayed:
            self._left(before, now)

    def _left(self, before: _State, now: float) -> None:
        """A direct way carries no more: it failed, or nothing was heard because nothing was said."""
        if before.unanswered < _DOUBTS and not before.broken:
            if self._busy(now):
                self._wake(now)
            return
        before.failures += 1
        before.proof = min(before.failures, _MOST_PROOF)
        if self._busy(now):
            self._ask_all(now)
            self._search(self._why, now)

    def _wake(self, now: float) -> None:
        """Ask all we know; if there is something to ask, a search waits for what it says."""
        if any(not state.way.relayed and not state.broken for state in self._ways.values()):
            self._looked = max(self._looked, now - self._retry + _GRACE)
        self._ask_all(now)

    def _regret(self, state: _State) -> tuple[bool, float]:
        """What we would miss: relays that stand, then who was heard last."""
        return state.way.relayed and not state.broken, state.heard or 0.0

    def _clearly_better(self, best: _State, than: _State | None) -> bool:
        if than is None or (best.way.rank, best.way.leaves) != (than.way.rank, than.way.leaves):
            return True
        new, old = self._worth(best)[2], self._worth(than)[2]
        return new < old * _FRACTION and new < old - _MARGIN

    def _reason(self, best: _State, before: _State | None, *, stays: bool) -> str:
        if before is None:
            return "relayed until a direct way answers" if best.way.relayed else "it answered first"
        if not stays:
            silent = "stopped answering" if before.unanswered >= _DOUBTS else "was not heard for a while"
            return f"{before.way.name} {'broke' if before.broken else silent}"
        if before.way.relayed and best.way.relayed:
            return self._why  # why there is no direct way stays as it was
        if before.way.rank != best.way.rank or before.way.leaves != best.way.leaves:
            return "direct" if before.way.relayed else "a better kind of way"
        return f"quicker than {before.way.name}"

    @property
    def _retry(self) -> float:
        current = self._current
        had_direct = any(not state.way.relayed and state.rtt is not None for state in self._ways.values())
        if current is None or not current.way.relayed or not had_direct:
            return RETRY
        return min(RETRY, SOON * 2.0 ** min(self._looks, 8))

    def _wants_better(self) -> bool:
        current = self._current
        if current is None or current.way.rank:
            return True
        return current.rtt is None or current.rtt > GOOD_ENOUGH

    def _ask_all(self, now: float, seconds: float = _AWAKE_AGAIN) -> None:
        """Ping every direct way, and for so many seconds again."""
        for state in self._ways.values():
            if not state.way.relayed and not state.broken:
                state.unanswered = 0 if state is not self._current else state.unanswered
                state.asked_until = max(state.asked_until, now + seconds)
                if state.pinged is None:
                    self._ping(state, now)

    def _search(self, why: str, now: float) -> None:
        self._looked = now
        self._out.append(Search(why))

    def _ping(self, state: _State, now: float) -> None:
        state.pinged = state.last_ping = now
        self._out.append(Ping(state.way))

    def _patience(self, state: _State) -> float:
        return max(_PATIENCE[state.way.transport], 3 * (state.rtt or 0.0))

    def _is_due(self, state: _State, now: float) -> bool:
        due = self._due(state)
        return due is not None and due <= now

    def _due(self, state: _State) -> float | None:
        """When this way needs us: a ping to be sent, or one to be given up."""
        if state.broken or state.way.relayed:
            return None
        return self._ping_due(state) if state.pinged is None else state.pinged + self._patience(state)

    def _ping_due(self, state: _State) -> float | None:
        """When to ask next; None: leave it alone."""
        last = state.last_ping or 0.0
        if state is self._current:
            if state.unanswered:
                return last + min(HEARTBEAT, self._patience(state) * (1 << min(state.unanswered - 1, 8)))
            used = self._used
            if used is not None and last + HEARTBEAT < used + BUSY:
                hint = self._sent + self._patience(state) if self._sent is not None else last + HEARTBEAT
                return min(max(hint, last + self._patience(state)), last + HEARTBEAT)
            return last + KEEPALIVE if self.keep else None
        return last + 1.0 if last + 1.0 < state.asked_until else None

    def _word(self, state: _State, now: float) -> str:
        if state is self._current:
            return "tried"
        if state.broken:
            return "broken"
        if self._trusted(state, now):
            return "ready"
        return "silent" if state.rtt is not None else "never answered"
