"""One mapping: asked for in all languages the router may know, renewed, noticed when it is lost, given back.

    ASKING --granted--> HELD --half its life, or the router forgot--> ASKING the same way, then every way
      |  every way failed: HELD while what was granted lasts, else
      +--> RESTING --backoff, or the router announces itself--> ASKING
    any --release()--> RETURNING --answered, or patience is over--> OVER

**The race.**  All are asked at once whether they are there: PCP for the mapping, NAT-PMP for the address outside, UPnP
by a search.  A mapping is only asked for by the best that has not failed, since two of them for one port help nobody;
a worse one's turn comes when the better have refused, or were silent for ``_SILENT`` seconds.

**Renewal** is between 1/2 and 5/8 of the life (RFC 6887 section 11.2.1), but every few minutes at least: UPnP has no
way to tell that the router forgot, not every router announces it in the others, and multicast gets lost in the air.
A forged announcement costs one renewal in ``_HEED`` seconds: the clock it tells is not kept, only that of answers to
our own questions.

**Rest.**  A router says once that it is there, and that gets lost as well: so the rests grow no longer than the pauses
of RFC 6887 section 8.1.1, and begin anew with each announcement.  One that is heard while the router is asked may mean
that the questions came too early, so it is asked once more.

The machine neither sends nor calls.  What it wants is data (:data:`Action`); the shell does it, and brings what came of
it together with the time.  Nothing here is believed that did not come from the gateway, which is the shell's to see to.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

from cyfs_ns.errors import BadWire, Refused
from rtcp.backoff import Backoff
from rtcp.nat.portmap import natpmp, pcp, ssdp
from rtcp.nat.portmap.conversation import Igd, Talk
from rtcp.nat.portmap.epoch import Epoch
from rtcp.nat.portmap.igd import Asked, Replied
from rtcp.nat.portmap.natpmp import PmpAddress, PmpMapping, PmpRefusal
from rtcp.nat.portmap.pcp import PcpAnswer
from rtcp.nat.portmap.values import Grant, Protocol, Wanted, Way, not_public

EVERY: Final = frozenset(Protocol)
LIFETIME: Final = 7200
"""Seconds asked for, as RFC 6886 recommends; a router may grant less."""
PATIENCE: Final = 1.5
"""Seconds spent on giving a mapping back."""

_REPEATS: Final = (0.0, 0.25, 0.75)  # seconds after the first at which a question is sent
_SILENT: Final = 1.75
_SEARCHING: Final = 3.0
_TALKING: Final = 15.0
_LEAST: Final = 20
_MOST: Final = 86400
_ENDING: Final = 4.0  # seconds left of a mapping that are no use any more (RFC 6887 section 11.2.1)
_RENEWAL: Final = 300.0
_HEED: Final = 10.0
_GRUDGE: Final = 1800  # the longest a refusal of PCP is taken for the last word
_FIRST_REST, _LONGEST_REST = 15.0, 1024.0
_ANYWHERE: Final = {4: "0.0.0.0", 6: "::"}


@dataclass(frozen=True, slots=True)
class Send:
    """A datagram for port ``pcp.PORT`` of the gateway."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Search:
    """Datagrams for the group and port of ``ssdp``, and for that port of the gateway; answers go to ``found()``."""

    datagrams: tuple[bytes, ...]
    seconds: float
    """For how long answers count."""


@dataclass(frozen=True, slots=True)
class Call:
    """An HTTP request; what came of it goes to ``replied()`` or ``failed()`` with its ticket."""

    ticket: int
    asked: Asked


Action: TypeAlias = Send | Search | Call


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """How a mapping stands."""

    wanted: Wanted
    protocol: Protocol | None = None
    """Which it is held by; None: it is not."""
    outside: tuple[str, int] | None = None
    """Address and port outside."""
    since: float | None = None
    """When this address was first had, without a break that we noticed; the clock is the machine's."""
    until: float | None = None
    """When it ends unless renewed."""
    partway: bool = False
    """The router stands behind another NAT: the mapping helps only up to there."""
    why: str
    """In words for people: why it is held by this protocol, or why not."""


class _State(Enum):
    ASKING = "asking"
    HELD = "held"
    RESTING = "resting"
    RETURNING = "giving back"
    OVER = "over"


class _About(Enum):
    PCP_MAPPING = Protocol.PCP, 0
    PMP_ADDRESS = Protocol.NAT_PMP, 1
    PMP_MAPPING = Protocol.NAT_PMP, 2

    @property
    def protocol(self) -> Protocol:
        return self.value[0]


@dataclass(slots=True)
class _Question:
    data: bytes
    began: float
    sent: int = 0

    def due(self) -> float:
        return self.began + (_REPEATS[self.sent] if self.sent < len(_REPEATS) else _SILENT)


@dataclass(frozen=True, slots=True)
class _Held:
    protocol: Protocol
    grant: Grant
    since: float
    until: float


def obstacle(wanted: Wanted, way: Way | None) -> str:
    """Why nothing is asked for, in words; empty: it is."""
    if way is None:
        return f"there is no way out by IPv{wanted.version}"
    if not way.gateway or not way.source:
        return "the way out has no gateway that could be asked"
    hidden = not_public(way.source)
    if wanted.version == 4 and not hidden:
        return f"no NAT is in the way: {way.source} is a public address itself"
    if wanted.version == 6 and hidden:
        return f"{way.source} is {hidden}, of no use outside"
    return ""


class Lease:
    """One mapping.  ``die`` gives numbers in [0, 1); all times are seconds of one clock."""

    def __init__(
        self,
        wanted: Wanted,
        way: Way,
        *,
        nonce: bytes,
        die: Callable[[], float],
        now: float,
        allowed: frozenset[Protocol] = EVERY,
        lifetime: int = LIFETIME,
    ) -> None:
        """``nonce``: ``pcp.nonce_of()`` it, or 12 random bytes.  ``allowed``: the languages that may be used."""
        self.wanted, self.way = wanted, way
        self._nonce, self._die, self._lifetime = nonce, die, lifetime
        self._every = tuple(protocol for protocol in Protocol if protocol in allowed and not self._unfit(protocol))
        self._actions: deque[Action] = deque()
        self._state = _State.ASKING
        self._held: _Held | None = None
        self._preferred = (_ANYWHERE[wanted.version], wanted.outside or wanted.port)
        self._maybe: set[Protocol] = set()
        """By which the router may hold a mapping for us, known or not."""
        self._shortened = False
        self._epoch: Epoch | None = None
        self._forgot = False
        self._wake = math.inf
        """When HELD or RESTING ends by itself, or RETURNING's patience."""
        self._heed_after = -math.inf
        self._grudge_until = -math.inf
        self._grudge = ""
        self._called = False
        """A router has announced itself since it was asked."""
        self._rest = Backoff(_FIRST_REST, _LONGEST_REST)
        self._renewing = False
        self._order: tuple[Protocol, ...] = ()
        self._failed: dict[Protocol, str] = {}
        self._questions: dict[_About, _Question] = {}
        self._pmp: tuple[PmpMapping | None, str] = (None, "")
        self._search_until = self._talk_until = math.inf
        self._location = ""
        self._igd: Igd | None = None
        self._talk: Talk | None = None
        self._ticket = 0
        self._calling = False
        self._ask(now)

    @property
    def over(self) -> bool:
        """It was given back, or cannot be."""
        return self._state is _State.OVER

    @property
    def searching(self) -> bool:
        """Answers to a search are still of use."""
        return self._search_until != math.inf

    @property
    def status(self) -> Status:
        """How it stands."""
        if self._held is None:
            why = "the router is being asked"
            if self._state is _State.RESTING:
                why = "; ".join(f"{each.value}: {self._failed[each]}" for each in self._every if each in self._failed)
                why = why or "no language is allowed in which the router could be asked"
            elif self._state in (_State.RETURNING, _State.OVER):
                why = "given back"
            return Status(wanted=self.wanted, why=why)
        held = self._held
        hidden = not_public(held.grant.ip)
        why = f"mapped by {held.protocol.value}"
        if hidden:
            why += f", but the router's own address outside, {held.grant.ip}, is {hidden}: it helps only up to there"
        return Status(
            wanted=self.wanted,
            protocol=held.protocol,
            outside=(held.grant.ip, held.grant.port),
            since=held.since,
            until=held.until,
            partway=bool(hidden),
            why=why,
        )

    def next_action(self) -> Action | None:
        """The next thing to do; None: that was all."""
        return self._actions.popleft() if self._actions else None

    def next_deadline(self) -> float:
        """When ``handle_timeout()`` is to be called."""
        due = [question.due() for question in self._questions.values()]
        return min(self._wake, self._search_until, self._talk_until, *due)

    def handle_timeout(self, now: float) -> None:
        """Time has passed; may come early."""
        for about, question in list(self._questions.items()):
            if question.due() > now or self._questions.get(about) is not question:
                continue
            if question.sent < len(_REPEATS):
                question.sent += 1
                self._actions.append(Send(question.data))
            else:
                self._unanswered(about, now)
        if now >= self._search_until:
            self._rule_out(Protocol.UPNP, "no answer", now)
        if now >= self._talk_until:
            self._rule_out(Protocol.UPNP, "its answers take too long", now)
        if now >= self._wake:
            self._wake = math.inf
            if self._state is _State.RETURNING:
                self._end()
            else:
                self._ask(now, self._held)

    def receive(self, untrusted: bytes, now: float) -> None:
        """A datagram from port ``pcp.PORT`` of the gateway.  What it cannot mean is ignored."""
        with suppress(BadWire):
            if untrusted[:1] == bytes((pcp.VERSION,)):
                self._hear_pcp(pcp.read_answer(untrusted), now)
            else:
                self._hear_pmp(natpmp.read_answer(untrusted), now)

    def closed(self, now: float, why: str = "the router does not speak it") -> None:
        """Nobody has that port, as the gateway said by ICMP; or it cannot be asked for another reason."""
        for about, question in list(self._questions.items()):
            if self._questions.get(about) is question:
                self._unanswered(about, now, why)

    def announced(self, untrusted: bytes, now: float) -> None:
        """A datagram of the gateway's to those who listen for announcements."""
        try:
            if untrusted[:1] == bytes((pcp.VERSION,)):
                said: PcpAnswer | PmpAddress | PmpMapping | PmpRefusal = pcp.read_answer(untrusted)
            else:
                said = natpmp.read_answer(untrusted)
        except BadWire:
            return
        if self._state in (_State.RETURNING, _State.OVER):
            return
        forgot = self._epoch is not None and not self._epoch.leads_to(Epoch(said.clock, now))
        moved = isinstance(said, PmpAddress) and self._held is not None and said.ip != self._held.grant.ip
        if forgot or moved or self._held is None:
            self._called = True
            self._grudge_until = -math.inf
            self._rest.reset()
            if self._state is not _State.ASKING:
                self._wake = min(self._wake, self._heeding(now))

    def _heeding(self, now: float) -> float:
        """When an announcement is heeded: one that comes too soon after another is put off, not lost."""
        # Not all hosts of the link at once; RFC 6887 would have up to 5 s, which is long to be out of reach.
        return max(now, self._heed_after) + self._die()

    def found(self, untrusted: bytes, now: float) -> None:
        """The gateway's answer to a search."""
        if not self.searching:
            return
        with suppress(BadWire):
            self._location = ssdp.read_answer(untrusted, self.way.gateway)
            self._search_until = math.inf
            self._take_turn(now)

    def replied(self, ticket: int, untrusted: Replied, now: float) -> None:
        """The whole response to a call."""
        if ticket == self._ticket and self._calling:
            self._calling = False
            if self._talk is not None:
                talk = self._talk
                self._converse(lambda: talk.send(untrusted), now)
            self._end_if_returned()

    def failed(self, ticket: int, why: str, now: float) -> None:
        """There is no such response."""
        if ticket == self._ticket and self._calling:
            self._calling = False
            if self._talk is not None:
                self._rule_out(Protocol.UPNP, why, now)
            self._end_if_returned()

    def release(self, now: float) -> None:
        """Give the mapping back, by every way in which the router may hold it."""
        if self._state in (_State.RETURNING, _State.OVER):
            return
        self._forget_race()
        self._state, self._held, self._wake = _State.RETURNING, None, now + PATIENCE
        anywhere = _ANYWHERE[self.wanted.version], 0
        if Protocol.PCP in self._maybe:
            deletion = pcp.map_request(self.wanted, self.way.source, self._nonce, 0, anywhere)
            self._question(_About.PCP_MAPPING, deletion, now)
        if Protocol.NAT_PMP in self._maybe:
            self._question(_About.PMP_MAPPING, natpmp.map_request(self.wanted, 0, 0), now)
        if self._igd is not None and self._igd.owes:
            self._call(self._igd.release())
        self._end_if_returned()

    # The race

    def _unfit(self, protocol: Protocol) -> bool:
        """IPv6 has PCP alone; and UPnP is for home routers, so a gateway in the open Internet is not asked in it."""
        if protocol is Protocol.UPNP and not not_public(self.way.gateway):
            return True
        return self.wanted.version == 6 and protocol is not Protocol.PCP

    def _ask(self, now: float, renewed: _Held | None = None) -> None:
        """Race; or only renew what is held."""
        self._forget_race()
        if self._called:
            self._called, self._heed_after = False, now + _HEED
        self._state, self._wake = _State.ASKING, math.inf
        self._renewing, self._failed, self._location = renewed is not None, {}, ""
        self._order = self._every if renewed is None else (renewed.protocol,)
        if Protocol.NAT_PMP in self._order:
            self._pmp = (None, "")
            self._question(_About.PMP_ADDRESS, natpmp.ADDRESS_REQUEST, now)
        if Protocol.UPNP in self._order and not self._renewing:
            self._search_until = now + _SEARCHING
            self._actions.append(Search(ssdp.searches(), _SEARCHING))
        if Protocol.PCP in self._order and now < self._grudge_until:
            self._failed[Protocol.PCP] = self._grudge
        self._take_turn(now)

    def _forget_race(self) -> None:
        self._questions.clear()
        self._talk, self._calling = None, False
        self._search_until = self._talk_until = math.inf

    def _take_turn(self, now: float) -> None:
        """Let the best that is left ask for the mapping, unless it does already."""
        if self._state is not _State.ASKING:
            return
        best = next((protocol for protocol in self._order if protocol not in self._failed), None)
        port = self._preferred[1]
        if best is Protocol.PCP and _About.PCP_MAPPING not in self._questions:
            self._maybe.add(best)
            request = pcp.map_request(self.wanted, self.way.source, self._nonce, self._lifetime, self._preferred)
            self._question(_About.PCP_MAPPING, request, now)
        elif best is Protocol.NAT_PMP and self._pmp[0] is None and _About.PMP_MAPPING not in self._questions:
            self._maybe.add(best)
            self._question(_About.PMP_MAPPING, natpmp.map_request(self.wanted, port, self._lifetime), now)
        elif best is Protocol.UPNP and self._talk is None:
            if self._igd is not None and self._renewing:
                self._talk = self._igd.renew(port, self._lifetime)
            elif self._location:
                self._igd = Igd(self._location, self.wanted, self.way, self._die)
                self._talk = self._igd.acquire(port, self._lifetime)
            if self._talk is not None:
                talk, self._talk_until = self._talk, now + _TALKING
                self._converse(lambda: next(talk), now)
        elif best is None:
            self._all_failed(now)

    def _all_failed(self, now: float) -> None:
        if self._renewing:
            self._ask(now)
            return
        self._forget_race()
        rest = self._heeding(now) - now if self._called else self._rest.failed(self._die())
        left = self._held.until - now if self._held is not None else 0.0
        if left > _ENDING:
            self._state, self._wake = _State.HELD, now + min(left / 2, rest)
        else:
            alone = self._every == (Protocol.PCP,)
            self._held = None
            self._state, self._wake = _State.RESTING, max(now + rest, self._grudge_until if alone else now)

    def _rule_out(self, protocol: Protocol, why: str, now: float, *, refused: bool = False) -> None:
        """``refused``: it said so itself, so what it granted before is gone."""
        for about in [about for about in self._questions if about.protocol is protocol]:
            del self._questions[about]
        if protocol is Protocol.UPNP:
            self._talk, self._calling = None, False
            self._search_until = self._talk_until = math.inf
        if refused:
            self._maybe.discard(protocol)
            if self._held is not None and self._held.protocol is protocol:
                self._held = None
        if self._state is _State.ASKING:
            self._failed[protocol] = why
            self._take_turn(now)
        self._end_if_returned()

    def _granted(self, protocol: Protocol, grant: Grant, now: float) -> None:
        if self._state is not _State.ASKING or protocol in self._failed:
            return
        if grant.ip == _ANYWHERE[self.wanted.version] or (":" in grant.ip) is not (self.wanted.version == 6):
            self._rule_out(protocol, "it has no public address outside", now)
            return
        if 0 < grant.lifetime < _LEAST:
            self._rule_out(protocol, f"granted for {grant.lifetime} s only", now)
            return
        lifetime = min(grant.lifetime, _MOST) if grant.lifetime else 3 * _RENEWAL
        was, same = self._held, False
        if was is not None:
            same = (was.protocol, was.grant.ip, was.grant.port) == (protocol, grant.ip, grant.port)
        since = was.since if was is not None and same and not self._forgot else now
        self._forget_race()
        self._rest.reset()
        self._forgot = self._called = False
        self._preferred = (grant.ip, grant.port)
        self._held = _Held(protocol, grant, since, now + lifetime)
        self._state = _State.HELD
        self._wake = now + min(lifetime / 2, _RENEWAL) * (4 + self._die()) / 4

    # Datagrams

    def _question(self, about: _About, data: bytes, now: float) -> None:
        self._questions[about] = _Question(data, now, 1)
        self._actions.append(Send(data))

    def _unanswered(self, about: _About, now: float, why: str = "no answer") -> None:
        self._questions.pop(about, None)
        self._rule_out(about.protocol, why, now)

    def _hear_pcp(self, answer: PcpAnswer, now: float) -> None:
        if answer.result == pcp.UNSUPPORTED_VERSION:
            if any(about.protocol is Protocol.NAT_PMP for about in self._questions):
                self._rule_out(Protocol.NAT_PMP, "the router does not speak it", now, refused=True)
            return
        asked = _About.PCP_MAPPING in self._questions
        if not asked or answer.mapping is None or not answer.mapping.is_of(self.wanted, self._nonce):
            return
        self._hear_clock(answer.clock, now)
        if self._state is _State.RETURNING:
            self._hear_deleted(answer, now)
        elif answer.result != pcp.SUCCESS:
            self._grudge, self._grudge_until = answer.words, now + min(answer.lifetime, _GRUDGE)
            self._rule_out(Protocol.PCP, answer.words, now, refused=True)
        elif answer.lifetime:
            self._granted(Protocol.PCP, answer.mapping.grant(answer.lifetime), now)

    def _hear_deleted(self, answer: PcpAnswer, now: float) -> None:
        """miniupnpd 2.3.1 cannot delete a pinhole that was renewed, but shorten it: it does not stay open for hours."""
        if answer.result == pcp.SUCCESS and answer.lifetime and not self._shortened:
            return  # it answers what was asked before
        if answer.result != pcp.SUCCESS and self.wanted.version == 6 and not self._shortened:
            self._shortened = True
            request = pcp.map_request(self.wanted, self.way.source, self._nonce, 1, self._preferred)
            self._question(_About.PCP_MAPPING, request, now)
        else:
            self._unanswered(_About.PCP_MAPPING, now)

    def _hear_pmp(self, answer: PmpAddress | PmpMapping | PmpRefusal, now: float) -> None:
        asked = {about for about in self._questions if about.protocol is Protocol.NAT_PMP}
        mapping, ip = self._pmp
        if isinstance(answer, PmpRefusal):
            if answer.transport is None and answer.result == 1 and _About.PCP_MAPPING in self._questions:
                self._rule_out(Protocol.PCP, "the router speaks NAT-PMP only", now, refused=True)
            elif answer.transport is self.wanted.transport and _About.PMP_MAPPING in asked:
                if self._state is _State.RETURNING:
                    self._unanswered(_About.PMP_MAPPING, now)
                else:
                    self._rule_out(Protocol.NAT_PMP, answer.words, now, refused=True)
            elif answer.transport is None and _About.PMP_ADDRESS in asked:
                self._rule_out(Protocol.NAT_PMP, answer.words, now)
            return
        if isinstance(answer, PmpAddress):
            if _About.PMP_ADDRESS not in asked:
                return
            del self._questions[_About.PMP_ADDRESS]
            ip = answer.ip
        else:
            ours = (answer.transport, answer.internal) == (self.wanted.transport, self.wanted.port)
            returning = self._state is _State.RETURNING
            if not ours or _About.PMP_MAPPING not in asked or returning is bool(answer.lifetime):
                return
            if returning:
                self._unanswered(_About.PMP_MAPPING, now)
                return
            del self._questions[_About.PMP_MAPPING]
            mapping = answer
        self._hear_clock(answer.clock, now)
        self._pmp = mapping, ip
        if mapping is not None and ip:
            self._granted(Protocol.NAT_PMP, Grant(ip, mapping.external, mapping.lifetime), now)

    def _hear_clock(self, clock: int, now: float) -> None:
        heard = Epoch(clock, now)
        self._forgot |= self._epoch is not None and not self._epoch.leads_to(heard)
        self._epoch = heard

    # Calls

    def _converse(self, step: Callable[[], Asked], now: float) -> None:
        try:
            self._call(step())
        except StopIteration as done:
            self._granted(Protocol.UPNP, done.value, now)
        except Refused as refusal:
            self._rule_out(Protocol.UPNP, str(refusal), now, refused=True)
        except BadWire as fault:
            self._rule_out(Protocol.UPNP, str(fault).removeprefix("UPnP: "), now)

    def _call(self, asked: Asked) -> None:
        self._ticket += 1
        self._calling = True
        self._actions.append(Call(self._ticket, asked))

    # The end

    def _end_if_returned(self) -> None:
        if self._state is _State.RETURNING and not self._questions and not self._calling:
            self._end()

    def _end(self) -> None:
        self._forget_race()
        self._state, self._wake = _State.OVER, math.inf
