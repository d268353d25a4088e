"""What our NAT does with UDP, told from what STUN servers see (RFC 4787's words, RFC 5780's tests and some more).

:class:`Survey` is the machine: it says what to send from which socket, takes what came and the time, and ends in a
:class:`NatBehaviour`, each verdict with its reason.  Inside, everything follows from the questions answered so far:
which further ones they make worth asking, and what they prove.

Labels lie when the way of asking disturbs the NAT, hence the order:

* A scout finds a server that answers; whatever is dead costs its time here only.
* Filtering is tried first, while no socket of ours has written to the server's other host: some NATs let in whom any
  socket of the same machine wrote to.
* Mappings are observed from a socket of its own, since some NATs (Linux without a guard) take up a datagram nobody
  asked for, keep it out all the same, and then give another port towards its sender.  Whether ours is one of them is
  tried at the end; such a NAT must be punched by datagrams that die before they reach it.
* They are observed one destination after the other, and nothing else is sent meanwhile, so that the external ports come
  in the order in which the NAT gave them out.  If they differ, fresh sockets continue the sequence, until it shows
  whether there is a step to predict by.
* Hairpinning is tried between two sockets that both write, so that filters are open.

Silence is the answer of a filter and of a lossy network; only repeating tells them apart, so a verdict from silence is
as good as the patience was.  What could not be told is None, and ``why`` says what was missing.
"""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import ip_address
from itertools import pairwise
from typing import Generic, NamedTuple, TypeVar

from cyfs_ns.errors import BadWire, Misuse
from cyfs_ns.purposes import Special, special
from rtcp.nat.stun import Change, HostPort, Kind, Message, is_stun, read_message, write_request

T = TypeVar("T")

MOST_SERVERS = 8
SEED_SIZE = 16

_SCOUT, _MAPPER, _FILTER, _HAIRPIN, _FRESH = range(5)
_CAME, _SILENCE, _NOT_ASKED = "came", "silence", "not asked"  # what became of a question
_PORTS = 6  # external ports that a sequence is told from
_LONGEST_STEP = 64
_QUICKEST = 0.1  # seconds; RFC 8489 section 6.2.1 for links that are known to be quick
_CARRIER = frozenset((Special.CARRIER, Special.TRANSLATOR))
_PRIVATE = frozenset((Special.PRIVATE, Special.UNIQUE_LOCAL, Special.LINK, Special.LOOPBACK))


class Dependence(StrEnum):
    """What a mapping, or a filter, depends on (RFC 4787 sections 4.1 and 5)."""

    ENDPOINT_INDEPENDENT = "endpoint-independent"
    ADDRESS = "address-dependent"
    ADDRESS_AND_PORT = "address-and-port-dependent"


class Scope(StrEnum):
    """Where an address means something."""

    PUBLIC = "public"
    CARRIER = "carrier"
    """Shared behind a carrier's NAT (RFC 6598), or between its translators (RFC 7335)."""
    PRIVATE = "private"
    """RFC 1918, unique local, link-local, loopback."""


@dataclass(frozen=True, slots=True)
class Verdict(Generic[T]):
    """``value`` is None where it could not be told."""

    value: T | None
    why: str


@dataclass(frozen=True, slots=True)
class PortStep:
    """How a NAT goes on from one external port to the next."""

    step: int
    """The usual difference; 0: none is usual, so the next port cannot be predicted."""
    confidence: float
    """The share of the differences seen that were ``step``."""
    seen: tuple[int, ...]
    """The ports, in their order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NatBehaviour:
    """What is known of the NATs between us and the servers, taken together."""

    local: HostPort | None
    """The address of the socket whose mappings were observed."""
    seen: tuple[HostPort, ...]
    """What that socket looked like from outside, in order; more than one: mappings depend on the destination."""
    rtt: float | None
    """Seconds to a server and back, at best."""
    blocked: Verdict[bool]
    """No server answers by UDP."""
    translated: Verdict[bool]
    """There is a NAT."""
    mapping: Verdict[Dependence]
    filtering: Verdict[Dependence]
    port_kept: Verdict[bool]
    """New mappings have the port of the socket."""
    ports: Verdict[PortStep]
    """Told only where mappings depend on the destination."""
    hairpin: Verdict[bool]
    """Two sockets behind the NAT can meet by their outside addresses."""
    spoilt: Verdict[bool]
    """A datagram that nobody asked for makes the NAT map us anew towards its sender."""
    scope: Verdict[Scope]
    """Of our own address."""
    seen_scope: Verdict[Scope]
    """Of the address the servers see; private where they stand on this side of another NAT."""


@dataclass(frozen=True, slots=True)
class StunServer:
    """A server to ask, by one of its addresses.

    ``other_port``: it is known to listen there as well, and to answer from there on demand, as our own servers do; what
    a server tells in OTHER-ADDRESS need not be known beforehand.
    """

    at: HostPort
    other_port: int = 0


@dataclass(frozen=True, slots=True)
class Patience:
    """Retransmission (RFC 8489 section 6.2.1): the second request after ``first`` seconds, each further one after twice
    the time, ``times`` in all; the last has ``last`` times ``first`` to be answered."""

    first: float = 0.5
    times: int = 7
    last: float = 16

    def sends(self) -> tuple[float, ...]:
        """When to send, in seconds from the first."""
        return tuple(self.first * (2**n - 1) for n in range(self.times))

    def end(self) -> float:
        """When to give up."""
        return self.sends()[-1] + self.first * self.last

    def quicker(self, rtt: float) -> Patience:
        """The same for a server whose answers are known to take ``rtt``."""
        return Patience(min(self.first, max(_QUICKEST, 2 * rtt)), self.times, self.last)


BRISK = Patience(times=4, last=2)
"""Four requests, and 4.5 s at most; where the round trip is known, mostly below one second."""


@dataclass(frozen=True, slots=True)
class Send:
    """``data`` is to be sent to ``to`` from our socket number ``socket``, to be opened now if it is not yet there."""

    socket: int
    to: HostPort
    data: bytes = field(repr=False)


class _Question(NamedTuple):
    socket: int
    to: HostPort
    change: Change = Change.NONE
    catcher: int = -1
    """The socket where the request itself should come in."""


@dataclass(frozen=True, slots=True)
class _Answer:
    origin: HostPort
    seen: HostPort | None = None
    other: HostPort | None = None
    refused: str = ""


@dataclass(slots=True)
class _Trial:
    transaction: bytes
    began: float
    times: deque[float]
    """When to send again, and at last when to give up."""


class Survey:
    """The machine.  ``seed``: 16 random octets, from which the transactions come; ``servers`` are of one family."""

    def __init__(self, servers: Sequence[StunServer], *, seed: bytes, now: float, patience: Patience = BRISK) -> None:
        if not 0 < len(servers) <= MOST_SERVERS or len({":" in server.at.host for server in servers}) > 1:
            raise Misuse(f"a survey takes 1 to {MOST_SERVERS} servers of one family")
        if len(seed) != SEED_SIZE:
            raise Misuse(f"a seed has {SEED_SIZE} octets")
        self._servers, self._seed, self._patience = tuple(servers), seed, patience
        self._locals: dict[int, HostPort] = {}
        self._known: dict[_Question, _Answer | None] = {}
        self._trials: dict[_Question, _Trial] = {}
        self._outbox: deque[tuple[_Question, bytes]] = deque()
        self._asked = 0
        self._rtts: list[float] = []
        self._main: StunServer | None = None
        self._targets: tuple[HostPort, ...] = ()
        self._go_on(now)

    @property
    def finished(self) -> bool:
        """Nothing further will be asked."""
        return not self._trials

    def opened(self, socket: int, local: HostPort) -> None:
        """Socket number ``socket`` is bound to ``local``, an address that others could write to."""
        self._locals[socket] = local

    def next_send(self) -> Send | None:
        """What to send now; to be asked until it is None, after every other call."""
        while self._outbox:
            question, transaction = self._outbox.popleft()
            if question in self._trials:
                return Send(question.socket, question.to, write_request(transaction, change=question.change))
        return None

    def next_deadline(self) -> float | None:
        """When :meth:`handle_timeout` is due; None when finished."""
        return min((trial.times[0] for trial in self._trials.values()), default=None)

    def handle_timeout(self, now: float) -> None:
        """Send again, or give up, what is due."""
        for question, trial in list(self._trials.items()):
            if trial.times[0] > now:
                continue
            trial.times.popleft()
            if trial.times:
                self._outbox.append((question, trial.transaction))
            else:
                del self._trials[question]
                self._known[question] = None
        self._go_on(now)

    def received(self, socket: int, source: HostPort, untrusted: bytes, now: float) -> None:
        """Take a datagram that came in at socket number ``socket``; what is no answer is passed over."""
        if not is_stun(untrusted):
            return
        try:
            message = read_message(untrusted)
        except BadWire:
            return
        for question, trial in self._trials.items():
            if trial.transaction != message.transaction:
                continue
            answer = _answer(question, socket, source, message)
            if answer is not None:
                if len(trial.times) == self._patience.times and question.catcher < 0:  # never sent again (Karn)
                    self._rtts.append(now - trial.began)
                del self._trials[question]
                self._known[question] = answer
                self._go_on(now)
            return

    def behaviour(self) -> NatBehaviour:
        """What follows from what is known now; best asked when finished."""
        main = self._main
        mapped = self._mapped()
        local = self._locals.get(_MAPPER)
        first = next(iter(mapped.values()), None)
        return NatBehaviour(
            local=local,
            seen=tuple(dict.fromkeys(mapped.values())),
            rtt=min(self._rtts, default=None),
            blocked=self._blocked(),
            translated=_translated(local, first),
            mapping=_mapping(mapped),
            filtering=self._filtering(main),
            port_kept=self._port_kept(),
            ports=self._port_step(mapped),
            hairpin=self._hairpin(),
            spoilt=self._spoilt(),
            scope=_scope("our address", local),
            seen_scope=_scope("the address seen", first),
        )

    # Which questions are worth asking.

    def _go_on(self, now: float) -> None:
        wanted = [question for question in self._plan() if question not in self._known]
        for question in self._trials.keys() - set(wanted):
            del self._trials[question]
        patience = self._patience.quicker(max(self._rtts)) if self._rtts else self._patience
        for question in wanted:
            if question in self._trials:
                continue
            self._asked += 1
            transaction = hashlib.sha256(self._seed + self._asked.to_bytes(4, "big")).digest()[:12]
            times = deque(now + wait for wait in (*patience.sends()[1:], patience.end()))
            self._trials[question] = _Trial(transaction, now, times)
            self._outbox.append((question, transaction))

    def _plan(self) -> Iterator[_Question]:
        """Everything that should have been asked by now."""
        if self._main is None:
            self._choose()
        if self._main is None:
            yield from (_Question(_SCOUT, server.at) for server in self._servers)
            return
        trying = [*self._trying_filters(self._main), *self._trying_hairpins(self._main)]
        yield from trying
        if all(question in self._known for question in trying):
            observing = list(self._observing())
            yield from observing
            if all(question in self._known for question in observing):
                yield from self._trying_to_spoil()

    def _choose(self) -> None:
        """Settle on the server to ask most: one that has other places, else, when all have had their time, any."""
        scouts = {server: _Question(_SCOUT, server.at) for server in self._servers}
        answers = {server: answer for server, question in scouts.items() if (answer := self._seen(question))}
        everywhere = next((server for server, answer in answers.items() if answer.other), None)
        if everywhere is not None:
            at, other = everywhere.at, answers[everywhere].other
            assert other is not None
            self._main = StunServer(at, other.port)
            self._targets = (at, HostPort(at.host, other.port), HostPort(other.host, at.port), other)
        elif answers and all(question in self._known for question in scouts.values()):
            self._main = max(answers, key=lambda server: server.other_port > 0)
            targets: list[HostPort] = []
            for server in sorted(answers, key=lambda server: server != self._main):
                targets.append(server.at)
                if server.other_port:
                    targets.append(HostPort(server.at.host, server.other_port))
            self._targets = tuple(dict.fromkeys(targets))

    def _observing(self) -> Iterator[_Question]:
        """One destination after the other, then one fresh socket after the other if mappings differ."""
        for target in self._targets:
            yield (question := _Question(_MAPPER, target))
            if question not in self._known:
                return
        mapped = self._mapped()
        if len(set(mapped.values())) > 1:
            for number in range(_PORTS - len(set(mapped.values()))):
                yield (question := _Question(_FRESH + number, next(iter(mapped))))
                if question not in self._known:
                    return

    def _trying_filters(self, main: StunServer) -> Iterator[_Question]:
        yield (opener := _Question(_FILTER, main.at))
        if self._seen(opener) is None:
            return
        if self._other_host(main):
            yield _Question(_FILTER, main.at, Change.HOST | Change.PORT)
        if main.other_port:
            yield _Question(_FILTER, main.at, Change.PORT)

    def _trying_to_spoil(self) -> Iterator[_Question]:
        """Write to where a datagram that was kept out should have come from."""
        if self._main is None or _mapping(self._mapped()).value is not Dependence.ENDPOINT_INDEPENDENT:
            return
        at, other_port = self._main.at, self._main.other_port
        for change, host in ((Change.HOST | Change.PORT, self._other_host(self._main)), (Change.PORT, at.host)):
            if self._try(_Question(_FILTER, at, change)) == _SILENCE:
                yield _Question(_FILTER, HostPort(host, other_port))
                return

    def _trying_hairpins(self, main: StunServer) -> Iterator[_Question]:
        here = self._seen(_Question(_SCOUT, main.at))
        if here is None or here.seen is None or here.seen == self._locals.get(_SCOUT):
            return
        yield (opener := _Question(_HAIRPIN, main.at))
        there = self._seen(opener)
        if there and there.seen and _fit(here.seen, main.at) and _fit(there.seen, main.at):
            yield _Question(_HAIRPIN, here.seen, catcher=_SCOUT)
            yield _Question(_SCOUT, there.seen, catcher=_HAIRPIN)

    def _other_host(self, main: StunServer) -> str:
        answer = self._seen(_Question(_SCOUT, main.at))
        return answer.other.host if answer and answer.other else ""

    def _seen(self, question: _Question) -> _Answer | None:
        """The answer, if there is one that shows an address."""
        answer = self._known.get(question)
        return answer if answer is not None and answer.seen is not None else None

    def _mapped(self) -> dict[HostPort, HostPort]:
        """How the mapper looked to each destination."""
        answers = ((target, self._seen(_Question(_MAPPER, target))) for target in self._targets)
        return {target: answer.seen for target, answer in answers if answer and answer.seen}

    # What follows.

    def _blocked(self) -> Verdict[bool]:
        scouts = [_Question(_SCOUT, server.at) for server in self._servers]
        answered = [question.to for question in scouts if self._known.get(question)]
        if answered:
            return Verdict(False, f"{_names(answered)} answered")
        if all(question in self._known for question in scouts):
            return Verdict(True, f"no answer from {_names([question.to for question in scouts])}")
        return Verdict(None, "no server has answered yet")

    def _filtering(self, main: StunServer | None) -> Verdict[Dependence]:
        if main is None or self._seen(_Question(_FILTER, main.at)) is None:
            return Verdict(None, "no server answered the socket that was to try it")
        whole = self._try(_Question(_FILTER, main.at, Change.HOST | Change.PORT))
        port = self._try(_Question(_FILTER, main.at, Change.PORT))
        if whole == _CAME:
            return Verdict(Dependence.ENDPOINT_INDEPENDENT, "an answer came from another host and port")
        if whole == _SILENCE and port == _CAME:
            return Verdict(Dependence.ADDRESS, "an answer came from another port, none from another host")
        if port == _SILENCE and whole in (_SILENCE, _NOT_ASKED):
            return Verdict(Dependence.ADDRESS_AND_PORT, "no answer came from another port of the host asked")
        return Verdict(None, f"an answer from another host: {whole}; from another port: {port}")

    def _try(self, question: _Question) -> str:
        if question not in self._known:
            return _NOT_ASKED
        answer = self._known[question]
        return _SILENCE if answer is None else answer.refused or _CAME

    def _port_kept(self) -> Verdict[bool]:
        firsts: dict[int, HostPort] = {}
        for question, answer in self._known.items():
            if answer is not None and answer.seen is not None:
                firsts.setdefault(question.socket, answer.seen)
        kept = [self._locals[number].port == seen.port for number, seen in firsts.items() if number in self._locals]
        if not kept:
            return Verdict(None, "no socket was seen")
        return Verdict(all(kept), f"{sum(kept)} of {len(kept)} sockets were seen with their own port")

    def _port_step(self, mapped: Mapping[HostPort, HostPort]) -> Verdict[PortStep]:
        if len(set(mapped.values())) < 2:
            return Verdict(None, "mappings were not seen to differ")
        fresh = (self._seen(_Question(_FRESH + number, next(iter(mapped)))) for number in range(_PORTS))
        seen = [*mapped.values(), *(answer.seen for answer in fresh if answer and answer.seen)]
        ports = tuple(dict.fromkeys(place.port for place in seen))
        differences = Counter(later - earlier for earlier, later in pairwise(ports))
        if differences.total() < 2:
            return Verdict(None, f"only the ports {_names(ports)} were seen")
        step, count = max(differences.items(), key=lambda item: (item[1], -abs(item[0])))
        share = count / differences.total()
        if count < 2 or share < 0.5 or abs(step) > _LONGEST_STEP:
            return Verdict(PortStep(0, 0.0, ports), f"no step is usual in {_names(ports)}")
        why = f"{count} of {differences.total()} steps in {_names(ports)} are {step:+d}"
        return Verdict(PortStep(step, share, ports), why)

    def _hairpin(self) -> Verdict[bool]:
        tries = [answer for question, answer in self._known.items() if question.catcher >= 0]
        if any(tries):
            return Verdict(True, "one socket heard another by its outside address")
        if len(tries) == 2:
            return Verdict(False, "no socket heard the other by its outside address")
        return Verdict(None, "there is no NAT, or it was not tried to the end")

    def _spoilt(self) -> Verdict[bool]:
        opener = None if self._main is None else self._seen(_Question(_FILTER, self._main.at))
        for question in self._trying_to_spoil():
            answer = self._seen(question)
            if opener is not None and opener.seen and answer is not None and answer.seen:
                before, after = opener.seen, answer.seen
                if before == after:
                    return Verdict(False, f"still {after} towards {question.to}, whose datagram was kept out")
                return Verdict(True, f"{after} instead of {before} towards {question.to}, whose datagram was kept out")
        return Verdict(None, "no datagram was kept out of a mapping for all destinations")


def scope_of(host: str) -> Scope:
    """Where the IP address ``host`` means something."""
    try:
        what = special(ip_address(host))
    except ValueError:
        raise Misuse(f"{host!r} is no IP address") from None
    return Scope.CARRIER if what in _CARRIER else Scope.PRIVATE if what in _PRIVATE else Scope.PUBLIC


def _answer(question: _Question, socket: int, source: HostPort, message: Message) -> _Answer | None:
    """What a message of ``question``'s transaction says; None: nothing that counts."""
    if question.catcher >= 0:
        return _Answer(source) if message.kind is Kind.REQUEST and socket == question.catcher else None
    if socket != question.socket or message.kind not in (Kind.SUCCESS, Kind.ERROR):
        return None
    if message.kind is Kind.ERROR and message.error is not None and source == question.to:
        return _Answer(source, refused=f"refused with {message.error[0]}")
    seen = message.seen or message.seen_plain
    if message.kind is Kind.ERROR or message.strange or seen is None or not seen.port:
        return None
    if question.change and source == question.to:
        return _Answer(source, seen, refused="ignored")
    if (source.host != question.to.host) != (Change.HOST in question.change):
        return None
    if (source.port != question.to.port) != (Change.PORT in question.change):
        return None
    other = message.other
    if other and (not _fit(other, source) or other.host == source.host or other.port == source.port):
        other = None
    return _Answer(source, seen, other)


def _fit(place: HostPort, server: HostPort) -> bool:
    """Whether we write to ``place`` because ``server`` named it: nobody out there shall send us to our own network."""
    address, other = ip_address(place.host), ip_address(server.host)
    odd = address.is_multicast or address.is_unspecified or address.is_reserved
    same = address.version == other.version and scope_of(place.host) is scope_of(server.host)
    return same and not odd and place.port > 0


def _translated(local: HostPort | None, seen: HostPort | None) -> Verdict[bool]:
    if local is None or seen is None:
        return Verdict(None, "no server saw us")
    if local == seen:
        return Verdict(False, f"servers see our own address {local}")
    return Verdict(True, f"servers see {seen} instead of {local}")


def _mapping(mapped: Mapping[HostPort, HostPort]) -> Verdict[Dependence]:
    hosts: dict[str, list[HostPort]] = {}
    for target, seen in mapped.items():
        hosts.setdefault(target.host, []).append(seen)
    told = ", ".join(f"{seen} towards {target}" for target, seen in mapped.items())
    if len(mapped) < 2:
        return Verdict(None, f"only {told or 'nothing'}")
    if len(set(mapped.values())) == 1:
        if len(hosts) > 1:
            return Verdict(Dependence.ENDPOINT_INDEPENDENT, told)
        return Verdict(None, f"{told}, and no other host to compare with")
    if any(len(set(seen)) > 1 for seen in hosts.values()):
        return Verdict(Dependence.ADDRESS_AND_PORT, told)
    if any(len(seen) > 1 for seen in hosts.values()):
        return Verdict(Dependence.ADDRESS, told)
    return Verdict(None, f"{told}, and no host was asked at two ports")


def _scope(whose: str, place: HostPort | None) -> Verdict[Scope]:
    if place is None:
        return Verdict(None, f"{whose} is not known")
    scope = scope_of(place.host)
    return Verdict(scope, f"{whose} {place.host} is {scope}")


def _names(things: Sequence[object]) -> str:
    return ", ".join(map(str, things))
