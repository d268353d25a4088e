"""A small internet in a heap: hosts, NATs of every kind, loss, jitter, hops, clocks that disagree.  No sockets.

Packets are decided upon hop by hop when they are sent, and delivered later.  A NAT keeps, for each protocol, mappings
(inner place, and what of the destination its kind looks at) to external ports, and whom each mapping wrote to.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from rtcp.nat.budget import Budget
from rtcp.nat.candidates import Candidate, Filtering, Kind, Mapping, Nat, Offer, Transport, priority, read_offer
from rtcp.nat.punch import Connect, Met, Punch, Send, Target, Verdict

Place = tuple[str, int]
STUN: Place = ("203.0.113.1", 3478)
CORE_HOPS = 8
PORT = 5000


@dataclass
class Router:
    """One NAT, as it really is; what its side *says* of it is :attr:`says`, unless a test makes it lie."""

    says: Nat
    wan: str = ""
    up: Router | None = None
    touchy: bool = False
    """A packet that comes in unasked takes its port, so that the answer to it would leave from another one."""
    hairpin: bool = False
    die: random.Random = field(default_factory=random.Random)
    mappings: dict[object, int] = field(default_factory=dict)
    inner: dict[tuple[Transport, int], Place] = field(default_factory=dict)
    wrote: set[tuple[Transport, int, Place]] = field(default_factory=set)
    taken: set[tuple[Transport, int, Place]] = field(default_factory=set)
    counter: int = 20000

    def out(self, proto: Transport, source: Place, to: Place) -> Place | None:
        if proto is Transport.UDP and not self.says.udp:
            return None
        looked_at = {Mapping.ADM: to[0], Mapping.APDM: to}.get(self.says.mapping)
        key = (proto, source, looked_at)
        if key not in self.mappings or (proto, self.mappings[key], to) in self.taken:
            self.mappings[key] = port = self._port(proto, source[1])
            self.inner[proto, port] = source
        port = self.mappings[key]
        self.wrote.add((proto, port, to))
        return self.wan, port

    def into(self, proto: Transport, source: Place, port: int) -> Place | None:
        if proto is Transport.UDP and not self.says.udp:
            return None
        known = {
            Filtering.EIF: True,
            Filtering.ADF: any(p is proto and n == port and to[0] == source[0] for p, n, to in self.wrote),
        }.get(self.says.filtering, (proto, port, source) in self.wrote)
        if not known:
            if self.touchy:
                self.taken.add((proto, port, source))
            return None
        return self.inner.get((proto, port))

    def others_take(self, steps: int) -> None:
        """Traffic of others, through the same NAT."""
        self.counter += self.says.delta * steps

    def _port(self, proto: Transport, wish: int) -> int:
        if self.says.delta:
            self.counter += self.says.delta
            return self.counter
        if self.says.mapping is Mapping.EIM and (proto, wish) not in self.inner:
            return wish
        return next(
            port for port in iter(lambda: self.die.randrange(1024, 65536), 0) if (proto, port) not in self.inner
        )


@dataclass
class Box:
    """A device: its address, the NAT before it, its clock, and the machine that runs on it."""

    sim: NatSim
    address: str
    router: Router | None
    clock: float = 0.0
    network: bytes = bytes(8)
    machine: Punch | None = None
    met: list[Met] = field(default_factory=list)
    verdict: Verdict | None = None
    first: float | None = None
    """When it met the peer, by the simulation's clock."""
    calling: set[Place] = field(default_factory=set)
    standing: set[Place] = field(default_factory=set)
    sent: list[Send] = field(default_factory=list)

    @property
    def now(self) -> float:
        return self.sim.now + self.clock

    def offer(self, says: Nat | None = None) -> Offer:
        """What it tells its peer, freshly observed."""
        nat = says or (
            self.router.says if self.router else Nat(mapping=Mapping.NONE, filtering=Filtering.EIF, tcp=True)
        )
        own = Candidate(
            address=self.address, port=PORT, kind=Kind.HOST, priority=priority(Kind.HOST), network=self.network
        )
        found = [own]
        if nat.tcp:
            found.append(replace(own, transport=Transport.TCP))
        if self.router is not None:
            for proto in Transport:
                if (proto is Transport.UDP or nat.tcp) and (seen := self.sim.outside(self, proto, STUN)):
                    where = Candidate(address=seen[0], port=seen[1], kind=Kind.OBSERVED, transport=proto)
                    found.append(replace(where, priority=priority(Kind.OBSERVED)))
        return read_offer(Offer(nonce=self.sim.die.randbytes(16), nat=nat, candidates=tuple(found)).write())

    def turn(self) -> None:
        """Let the machine do what it wants, and come back when it is due."""
        machine = self.machine
        assert machine is not None
        machine.handle_timeout(self.now)
        while action := machine.next_action():
            if isinstance(action, Connect):
                self.sim.connect(self, action.target[1:])
                continue
            self.sent.append(action)
            self.sim.send(self, action.target, action.data, ttl=action.ttl or 64)
        while event := machine.next_event():
            if isinstance(event, Met):
                self.met.append(event)
                self.first = self.sim.now if self.first is None else self.first
            else:
                assert self.verdict is None
                self.verdict = event
        if (due := machine.next_deadline()) is not None:
            self.sim.at(max(due - self.clock, self.sim.now + 1e-4), self.turn)

    def hear(self, source: Target, data: bytes) -> None:
        if self.machine is not None:
            self.machine.receive(data, source, self.now)
            self.turn()

    def hear_syn(self, source: Place, *, answer: bool) -> None:
        if self.machine is None or (answer and source not in self.calling):
            self.sim.syn(self, source, refusal=True)
            return
        if source not in self.standing:
            self.standing.add(source)
            if not answer:
                self.sim.syn(self, source, answer=True)
            self.machine.connected((Transport.TCP, *source), self.now)
            self.turn()

    def hear_refusal(self, source: Place) -> None:
        if self.machine is not None and source in self.calling - self.standing:
            self.calling.discard(source)
            self.machine.refused((Transport.TCP, *source), self.now)
            self.turn()


class NatSim:
    """The internet.  ``rtt``: between any two boxes; ``loss``: of every packet's one way."""

    def __init__(self, seed: int, *, rtt: float = 0.05, jitter: float = 0.2, loss: float = 0.0) -> None:
        self.die = random.Random(seed)
        self.rtt, self.jitter, self.loss = rtt, jitter, loss
        self.now = 0.0
        self.boxes: list[Box] = []
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = itertools.count()

    def box(self, *routers: Router, lan: Router | None = None, clock: float = 0.0, address: str = "") -> Box:
        """A device behind ``routers``, the nearest first; or on the network below ``lan``, which stands already."""
        n = len(self.boxes) + 1
        for below, above in itertools.pairwise(routers):
            below.up = above
        for depth, router in enumerate(reversed(routers)):
            router.wan = f"198.51.100.{n}" if depth == 0 else f"100.64.{depth}.{n}"
            router.die = self.die
        nearest = lan or (routers[0] if routers else None)
        inside = f"192.168.1.{n}" if nearest is not None else f"198.51.100.{100 + n}"
        box = Box(self, address or inside, nearest, clock)
        self.boxes.append(box)
        return box

    def at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._number), what))

    def run(self, until: Callable[[], bool], most: float = 30.0) -> None:
        while self._events and not until() and self.now < most:
            self.now, _, what = heapq.heappop(self._events)
            what()

    def outside(self, box: Box, proto: Transport, to: Place) -> Place | None:
        """How ``to`` would see the box, if its packets get there at all."""
        source, _, _ = self._outwards(box, proto, to, 64)
        return source

    def send(self, box: Box, target: Target, data: bytes, *, ttl: int = 64) -> None:
        proto, to = target[0], target[1:]
        if (found := self._route(box, proto, to, ttl)) is not None:
            there, source = found
            self._deliver(lambda: there.hear((proto, *source), data), sure=proto is Transport.TCP)

    def connect(self, box: Box, to: Place) -> None:
        box.calling.add(to)
        self.syn(box, to)

        def again() -> None:
            if to in box.calling - box.standing:
                self.syn(box, to)

        for after in (1.0, 3.0):
            self.at(self.now + after, again)

    def syn(self, box: Box, to: Place, *, answer: bool = False, refusal: bool = False) -> None:
        if (found := self._route(box, Transport.TCP, to, 64)) is None:
            return
        there, source = found
        if refusal:
            self._deliver(lambda: there.hear_refusal(source))
        else:
            self._deliver(lambda: there.hear_syn(source, answer=answer), sure=answer)

    def _deliver(self, what: Callable[[], None], *, sure: bool = False) -> None:
        if sure or self.die.random() >= self.loss:
            self.at(self.now + self.rtt / 2 * (1 + self.die.uniform(0, self.jitter)), what)

    def _outwards(self, box: Box, proto: Transport, to: Place, ttl: int) -> tuple[Place | None, Router | None, int]:
        """Up through the NATs until the top, or the one that ``to`` is an address of."""
        source: Place | None = (box.address, PORT)
        router = box.router
        while router is not None and source is not None:
            ttl -= 1
            source = router.out(proto, source, to) if ttl > 0 else None
            if router.wan == to[0]:
                return source, router, ttl
            router = router.up
        return source, None, ttl

    def _route(self, box: Box, proto: Transport, to: Place, ttl: int) -> tuple[Box, Place] | None:
        for near in self.boxes:
            if near is not box and near.router is box.router is not None and near.address == to[0]:
                return near, (box.address, PORT)
        source, turned, ttl = self._outwards(box, proto, to, ttl)
        if source is None or (turned is not None and not turned.hairpin):
            return None
        if turned is None and (ttl := ttl - CORE_HOPS) <= 0:
            return None
        return self._inwards(proto, source, to)

    def _inwards(self, proto: Transport, source: Place, to: Place) -> tuple[Box, Place] | None:
        for box in self.boxes:
            if box.router is None and box.address == to[0]:
                return box, source
        for router in self._routers():
            if router.wan == to[0]:
                inner = router.into(proto, source, to[1])
                if inner is None:
                    return None
                below = [box for box in self.boxes if box.router is router and box.address == inner[0]]
                return (below[0], source) if below else self._inwards(proto, source, inner)
        return None

    def _routers(self) -> list[Router]:
        found: list[Router] = []
        for box in self.boxes:
            router = box.router
            while router is not None:
                found.append(router)
                router = router.up
        return found


@dataclass(frozen=True)
class Meeting:
    """How it went: ``one`` made the offer, ``other`` answered it."""

    one: Verdict
    other: Verdict
    seconds: float | None
    """From the first offer until both had met; None when they did not."""

    @property
    def how(self) -> str:
        if not (self.one.direct and self.other.direct):
            return "relay" if self.one.direct == self.other.direct else "half"
        return self.one.ways[0].target[0].name.lower()


def meet(
    sim: NatSim,
    one: Box,
    other: Box,
    *,
    relay_rtt: float | None = None,
    lean: float = 0.5,
    private: bool = False,
    says: tuple[Nat | None, Nat | None] = (None, None),
    between: Callable[[], None] = lambda: None,
) -> Meeting:
    """``one`` makes an offer, ``other`` answers; ``lean``: how much of the relay's round trip the answer takes;
    ``between``: what happens after the ports were observed."""
    relay_rtt = sim.rtt if relay_rtt is None else relay_rtt
    secret = sim.die.randbytes(32)
    began = sim.now
    offers = (one.offer(says[0]), other.offer(says[1]))
    between()

    def begin(box: Box, opens: bool) -> None:
        ours, theirs = offers[::-1] if opens else offers
        box.machine = Punch(
            ours,
            theirs,
            opens=opens,
            secret=secret,
            start=box.now,
            rtt=relay_rtt,
            budget=Budget(),
            own={box.address},
            private=private,
        )
        box.turn()

    answered = began + relay_rtt * (1 - lean)
    sim.at(answered, lambda: begin(other, True))
    sim.at(answered + relay_rtt * lean, lambda: begin(one, False))
    sim.run(lambda: one.verdict is not None and other.verdict is not None)
    assert one.verdict is not None
    assert other.verdict is not None
    met = [box.first for box in (one, other)]
    return Meeting(one.verdict, other.verdict, None if None in met else max(met) - began)
