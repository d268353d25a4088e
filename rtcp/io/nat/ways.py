"""The ways of a tunnel that we dialled: which is taken, found, tried and left again (``rtcp.nat.race`` decides).

The tunnel begins by whatever leads to the peer first, a relay as a rule when both are behind NATs, and carries bytes
at once.  With its first word, better ways are looked for through it: addresses of the peer are dialled, both ends
punch, and where that fails a session on a UDP relay is had.  What is decided is carried out by moving the tunnel
(``MuxedTunnel.move``), which its streams do not notice.

Round trips are what this costs, so few are waited for: what we offer is found out while the tunnel is dialled, and goes
out behind the handshake's last message; pipes are called to where the peer may be while that is punched for, and the
handshake over them begins (``ahead``).  So the tunnel is direct two round trips after it stands: the first opens the
NATs and proves the peer, in the second it comes along.

A tunnel that began without a relay is left to itself: version 5 notices when the way breaks, and asks here for
another one.  From the first relay on its ways are watched.

No task belongs to it.  Its tunnel tells it when a turn is over, a deadline rings, and both cost next to nothing; a task
runs for what has to be waited for, one search and one move at a time.  While nobody speaks nothing happens here: the
tunnel's own sign of life, every 25 s, keeps the NATs on its way open.

What a peer makes us do is bounded: one search in ``_PAUSE`` seconds, probes by the device's ``Budget``.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing, suppress
from functools import partial
from typing import Final

import trio

from cyfs_ns.errors import BadWire, Refused, Unreachable
from rtcp.io.calling import greet
from rtcp.io.commons import Commons
from rtcp.io.dialling import Road, Roads
from rtcp.io.mux import MuxedTunnel
from rtcp.io.nat.ahead import Ahead
from rtcp.io.nat.detour import Detour
from rtcp.io.nat.ground import PATHS, PATHS_PORT, Ground, Talk
from rtcp.io.nat.meeting import Asking, Terms, begin, doors, foreseen, gather, new_secret, pipes_of, punch
from rtcp.io.nat.punch import Outcome
from rtcp.io.pipe import Pipe, TcpPipe, log
from rtcp.io.udp.endpoint import Ticket
from rtcp.io.udp.pipe import UdpPipe
from rtcp.io.wayname import name_of, way_of
from rtcp.nat.candidates import Kind, Offer, Transport
from rtcp.nat.punch import Met, Verdict
from rtcp.nat.race import Ping, Race, Report, Search, Use, Way
from rtcp.nat.signals import Again, Answer, Ask, Bound, No, RelaySide, Told, write_signal
from rtcp.party import Address
from rtcp.paths import Paths
from rtcp.udp.connection import CALL_ENTROPY, opening_of

_LOOK: Final = 1.0
"""Seconds after which a peer that does not answer where it was is looked up; where it has relays, the shorter time."""
_LOOK_DIRECT: Final = 0.4
_LONGEST: Final = 20.0
"""Seconds that a search, all told, may take."""
_PAUSE: Final = 2.0
"""Seconds from one search to the next, whoever wants it; and from one call for stray legs to the next."""
_TICK: Final = 0.05
"""Seconds from one look at what was said to the next."""
_PING: Final = 5.0
_TRY: Final = 3.0
_HEAD_START: Final = 0.05
"""Seconds that one relay has before the next is asked, too: the tunnel stands still meanwhile."""
_REMEMBERED: Final = 8
"""Pipes of which is known by which road they came."""


class Ways:
    """Of the peer with the Ed25519 key ``key``.  ``look`` finds its roads anew; ``ground``: None without a UDP port."""

    def __init__(
        self,
        key: bytes,
        look: Callable[[], Awaitable[Roads]],
        shared: Commons,
        ground: Ground | None,
    ) -> None:
        self.alarms: list[float] = []
        self._key, self._look, self._shared, self._ground = key, look, shared, ground
        self._now, self._nursery = shared.clock, shared.nursery
        self._race = Race(steady=True)
        self._roads: dict[Way, Road] = {}
        self._road: Road | None = None
        """Where control goes now; None: the peer has called it, or nothing is known."""
        self._came_by: list[tuple[Pipe, Road]] = []
        self._places: dict[Address, Way] = {}
        """Those that are asked by probes."""
        self._spare: dict[Way, TcpPipe] = {}
        self._tunnel: MuxedTunnel | None = None
        self._asking = None if ground is None else Asking(ground, self._ponged)
        self._detour: Detour | None = None
        self._busy_until = self._heard = self._next_look = self._began_at = 0.0
        self._moving = trio.CancelScope()
        self._is_over = self._is_watched = self._is_moving = self._is_searching = self._is_bringing = False
        self._next_bring = 0.0
        self._searched_at = float("-inf")
        self._wished_at = float("-inf")
        self._wanted = ""
        """Why a search is wanted that has not begun."""
        self._has_met = False

    # Its beginning

    def begin(self, tunnel: MuxedTunnel, pipe: Pipe, road: Road, others: Roads) -> None:
        """``tunnel`` is about to stand on ``pipe``, which came by ``road``; ``others`` may lead to the peer, too."""
        self._tunnel, self._road, tunnel.ways = tunnel, road, self
        self._note(pipe, road)
        self._roads[road.way] = road
        self._race.add(road.way, self._now())
        if road.way.relayed:
            self._watch()
            self._race.used(self._now())  # whoever dials has something to say
            self._race.handle_timeout(self._now())
            self._try_addresses(others)
        else:
            self._race.pong(road.way, tunnel.round_trip, self._now())
        self._know_relays(others)
        self._act()

    def _watch(self) -> None:
        self._is_watched = True
        self._busy_until = self._began_at = self._now()

    def _try_addresses(self, others: Roads) -> None:
        for each in others.first:
            self._roads[each.way] = each
            self._race.add(each.way, self._now())

    def _know_relays(self, roads: Roads) -> None:
        for each in roads.relayed:
            self._roads[each.way] = each
            self._race.add(each.way, self._now())

    # What is wanted of it

    @property
    def way(self) -> Way | None:
        """What the tunnel goes by now."""
        way = self._road.way if self._road is not None else None
        pipe = self._tunnel.pipe if self._tunnel is not None else None
        if pipe is not None and (way is None or (isinstance(pipe, UdpPipe) and not way.relayed)):
            return way_of(pipe)  # the peer may have moved, and its pipe with it
        return way

    async def connect(self) -> Pipe:
        """One more connection to the peer, which may have moved: the tunnel wants a carrier."""
        road = self._road
        if self._is_moving and (aim := self._race.current) is not None:
            road = self._roads.get(aim, road)  # what rises now was not there to be moved
        if road is not None:
            patience = _LOOK_DIRECT if self._is_watched and not road.way.relayed else _LOOK
            with trio.move_on_after(patience), suppress(Unreachable):
                return await self._go(road)
        roads = await self._look()
        proof, road = await roads.meet(Paths(), self._prove)
        proof.close()
        self._know_relays(roads)
        self._roads[road.way] = road
        return self._note(await road.connect(), road)

    async def _prove(self, pipe: Pipe, road: Road) -> Pipe:
        """Whether the peer is at the other end of ``pipe``: in another network anybody may answer for its address."""
        assert self._tunnel is not None
        try:
            await greet(pipe, self._tunnel.peer, self._shared)
        except BaseException:
            pipe.close()
            raise
        return pipe

    def explain(self) -> Report:
        """For people."""
        way = self.way
        return self._race.explain(self._now(), "" if way is None else way.name)

    async def answer(self, pipe: Pipe) -> None:
        """The peer opened a stream for signals, which is taken over: all it may say is that it would like a search."""
        talk = Talk(pipe)
        try:
            with trio.move_on_after(_LONGEST):
                if isinstance(await talk.hear(), Again) and self._now() >= self._wished_at + _PAUSE:
                    self._wished_at = self._now()
                    self._race.network_changed(self._now())
                    self._act()
        except (Unreachable, BadWire) as fault:
            log.debug("no signal: %s", fault)
        finally:
            talk.close()

    # What the tunnel tells it

    def turned(self) -> None:
        """Something was said, or heard."""
        if not self._is_watched or self._tunnel is None:
            return
        if self._tunnel.busy_until > self._busy_until and (now := self._now()) >= self._next_look:
            self._next_look = now + _TICK
            self._see(now)
            self._act()

    def _see(self, now: float) -> None:
        """Tell the race what has happened since the last look."""
        tunnel = self._tunnel
        assert tunnel is not None
        if tunnel.busy_until <= self._busy_until:
            return
        self._busy_until = tunnel.busy_until
        if self._road is not None and (pipe := tunnel.pipe) is not None:
            heard = tunnel.heard_along(pipe)  # a leg may go elsewhere, and what comes there says nothing of this way
            if heard > self._heard:
                self._heard = heard
                self._race.heard(self._road.way, now)
            self._call_strays(tunnel, self._road, now)
        self._race.used(now)

    def _call_strays(self, tunnel: MuxedTunnel, road: Road, now: float) -> None:
        """A leg whose carrier was called while the way was in doubt went another, and this one held: bring it back."""
        if self._is_moving or self._is_bringing or now < self._next_bring:
            return
        if strays := tunnel.strays(road.way.rank):
            self._is_bringing = True
            self._nursery.start_soon(self._bring, tunnel, strays, road)

    async def _bring(self, tunnel: MuxedTunnel, strays: Sequence[int], road: Road) -> None:
        try:
            await tunnel.bring(strays, partial(self._by, road))
        finally:
            self._is_bringing, self._next_bring = False, self._now() + _PAUSE

    def stood(self) -> None:
        """Control is on another pipe: by our move, or because the one before is gone."""
        tunnel = self._tunnel
        if tunnel is None or (pipe := tunnel.pipe) is None:
            return
        road = next((road for one, road in reversed(self._came_by) if one is pipe), None)
        before, self._road = self._road, road
        self._came_by = [each for each in self._came_by if each[0] is pipe] + self._came_by[-2:]
        way = road.way if road is not None else way_of(pipe)
        if before is not None and way.relayed and not before.way.relayed and self._ground is not None:
            self._ground.doubt()
        if before is None or before.way != way:
            log.info("the tunnel to %s goes by %s", tunnel.peer.did, way.name)
        if self._detour is not None:
            self._detour.in_use = way.relayed and way.transport is Transport.UDP
        if way.relayed and not self._is_watched:
            self._watch()
        if not self._is_moving:
            self._race.went(way, self._now())
        self._act()

    def _settle(self) -> None:
        """A move has ended: what the race believes is what is."""
        self._is_moving = False
        if not self._is_over and self._road is not None:
            self._race.went(self._road.way, self._now())
        self._act()

    def network_changed(self) -> None:
        """An address or a route of this machine is another."""
        if self._detour is not None:
            self._detour.rebind()
        if self._is_watched:
            self._race.network_changed(self._now())
            self._act()

    def close(self) -> None:
        """The tunnel is over."""
        self._is_over = True
        if self._asking is not None:
            self._asking.close()
        if self._detour is not None:
            self._detour.close()
        for pipe in self._spare.values():
            pipe.close()
        self._spare.clear()
        self._came_by.clear()

    def ring(self) -> None:
        """A deadline may be due."""
        if not self._is_over:
            now = self._now()
            self._see(now)
            self._race.handle_timeout(now)
            self._act()

    # What the race decides

    def _act(self) -> None:
        if self._is_over or self._tunnel is None or not self._is_watched:
            return
        while (action := self._race.next_action()) is not None:
            match action:
                case Ping(way):
                    self._ping(way)
                case Use():
                    self._moving.cancel()  # to where is not wanted any more
                    if not self._is_moving:
                        self._is_moving = True
                        self._nursery.start_soon(self._move, self._tunnel)
                case Search(why):
                    self._wanted = why
                    if not self._is_searching:
                        self._is_searching = True
                        self._nursery.start_soon(self._search, self._tunnel)
        if (deadline := self._race.next_deadline()) is not None:
            self._shared.alarms.ask(self, deadline)

    def _ping(self, way: Way) -> None:
        tunnel, road = self._tunnel, self._roads.get(way)
        assert tunnel is not None
        if self._road is not None and self._road.way == way:
            self._nursery.start_soon(self._ping_tunnel, tunnel, way)
        elif way.transport is Transport.UDP and road is not None and road.address is not None:
            if self._asking is not None:
                self._asking.ping(road.address)
        elif road is not None and way not in self._spare:
            self._nursery.start_soon(self._try, road)

    async def _ping_tunnel(self, tunnel: MuxedTunnel, way: Way) -> None:
        with trio.move_on_after(_PING), suppress(Unreachable):
            pipe = tunnel.pipe
            trip = await tunnel.ping()
            if tunnel.pipe is pipe:  # else another way brought the answer
                # A download lets the answer wait in line, which says nothing of the way.
                self._pong(way, min(trip, pipe.round_trip) if isinstance(pipe, UdpPipe) else trip)

    async def _try(self, road: Road) -> None:
        """Whether somebody answers there; the handshake will tell who."""
        began = trio.current_time()
        with trio.move_on_after(_TRY):
            try:
                self._spend(road)
                (await road.connect()).close()
            except (Unreachable, Refused):
                self._race.broke(road.way, self._now())
                self._act()
            else:
                self._pong(road.way, trio.current_time() - began)

    def _spend(self, road: Road) -> None:
        """A door that the peer told of may be a stranger's, and is knocked at within the budget.

        Raises ``Unreachable`` when that is spent.
        """
        if self._ground is None or road.address is None or road.way.kind is not Kind.MAPPED:
            return
        if not self._ground.budget.spend(road.address[0], self._now()):
            raise Unreachable(f"{road.address[0]} was probed as often as may be", "connect_refused")

    def _ponged(self, source: Address, trip: float) -> None:
        if (way := self._places.get(source)) is not None:
            self._pong(way, trip)

    def _pong(self, way: Way, trip: float) -> None:
        self._race.pong(way, trip, self._now())
        self._act()

    async def _move(self, tunnel: MuxedTunnel) -> None:
        """Bring the tunnel to where the race wants it, which may change meanwhile."""
        try:
            while not self._is_over and (aim := self._race.current) is not None:
                road, self._moving = self._roads.get(aim), trio.CancelScope()
                if road is None or (self._road is not None and self._road.way == aim):
                    return
                try:
                    with self._moving:
                        await tunnel.move(partial(self._by, road))
                        if aim.relayed and self._road is not None and self._road.way.relayed:
                            return  # another relay was quicker, which does as well
                except (Unreachable, Refused) as fault:
                    log.debug("the tunnel to %s does not go by %s: %s", tunnel.peer.did, aim.name, fault)
                    if self._race.current == aim:
                        self._race.broke(aim, self._now())
        finally:
            self._settle()

    async def _by(self, road: Road) -> Pipe:
        with trio.move_on_after(_TRY):
            return await self._go(road)
        raise Unreachable(f"{road.way.name} does not answer", "connect_timeout")

    async def _go(self, road: Road) -> Pipe:
        """By ``road``; by whichever relay answers first if it is one, since what was well a while ago may be gone.

        Not by one of which an answer tells nothing: a network that lets only the web through takes it for the first.
        """
        if not road.way.relayed or road.way.transport is Transport.UDP:
            return self._note(await road.connect(), road)
        relays = [each for each in self._roads.values() if each.way.relayed and each.way.transport is Transport.TCP]
        first = [road, *(each for each in relays if each.way != road.way and not each.is_blind)]
        pipe, road = await Roads(first).race(Paths(), _HEAD_START)
        return self._note(pipe, road)

    def _note(self, pipe: Pipe, road: Road) -> Pipe:
        self._came_by.append((pipe, road))
        del self._came_by[:-_REMEMBERED]
        return pipe

    # Searching

    async def _search(self, tunnel: MuxedTunnel) -> None:
        """As long as it is wanted; not more often than may be."""
        try:
            while self._wanted and not self._is_over:
                await trio.sleep_until(self._searched_at + _PAUSE)
                why, self._wanted = self._wanted, ""
                road = self._road
                if road is not None and not road.way.relayed and self._race.current == road.way:
                    return  # what is direct is looked after by pings
                log.debug("ways to %s are looked for: %s", tunnel.peer.did, why)
                self._searched_at = self._now()
                with trio.move_on_after(_LONGEST):
                    await self._look_around(tunnel)
        finally:
            self._is_searching = False

    async def _look_around(self, tunnel: MuxedTunnel) -> None:
        try:
            if self._now() > self._began_at + _LOOK:
                roads = await self._look()
                self._try_addresses(roads)
                with suppress(Refused, Unreachable):
                    await roads.find_relays()
                self._know_relays(roads)
                self._act()
            if self._ground is not None:
                await self._meet(tunnel, self._ground)
        except (Unreachable, Refused, BadWire) as fault:
            log.debug("no better way to %s: %s", tunnel.peer.did, fault)
            self._judged(f"relayed because {fault}")

    async def _meet(self, tunnel: MuxedTunnel, ground: Ground) -> None:
        name = str(tunnel.peer.device)
        may_try, secret = ground.budget.may_try(name, self._now()), new_secret()
        entropy = secrets.token_bytes(CALL_ENTROPY)
        is_new = may_try and self._now() <= self._began_at + _LOOK
        if is_new:
            ours = await gather(ground, tunnel.peer)
            ask = write_signal(Ask(secret, tunnel.round_trip, *opening_of(entropy), ours))
            talk = Talk(await tunnel.open_stream(PATHS, PATHS_PORT, first=ask))
        else:
            talk = Talk(await tunnel.open_stream(PATHS, PATHS_PORT))
        try:
            if may_try and not is_new:
                ours = await gather(ground, tunnel.peer)  # now, since what leads to the peer leads to others, too
                await talk.say(Ask(secret, tunnel.round_trip, *opening_of(entropy), ours))
            if may_try:
                verdict = await self._punch(tunnel, ground, talk, ours, secret, entropy)
                if verdict is not None and not verdict.direct and not self._has_met:
                    ground.budget.failed(name, self._now())
            if (way := self._race.current) is None or (way.relayed and way.transport is Transport.TCP):
                await self._have_relay(tunnel, ground, talk)
        finally:
            talk.close()

    async def _punch(
        self, tunnel: MuxedTunnel, ground: Ground, talk: Talk, ours: Offer, secret: bytes, entropy: bytes
    ) -> Verdict | None:
        """The peer was asked to.  None: it does not want to."""
        match await talk.hear():
            case Answer(theirs, offer, invite):
                terms = Terms(
                    ours=ours,
                    theirs=offer,
                    asker=secret,
                    answerer=theirs,
                    opens=False,
                    trip=tunnel.round_trip,
                    private=ground.trusts(tunnel.peer),
                )
            case No(why):
                self._judged(f"relayed because the peer says: {why}")
                return None
            case signal:
                raise BadWire(f"{type(signal).__name__} is no answer")
        if self._is_over or self._asking is None:
            return None
        self._asking.begin(terms)
        attempt = begin(ground, terms)
        ticket = None if invite is None else Ticket(entropy, invite)
        with closing(Ahead(ground, self._key, partial(greet, peer=tunnel.peer, shared=self._shared))) as ahead:
            ahead.call(foreseen(attempt), ticket)
            outcome = await punch(ground, attempt, terms, partial(self._met, ahead))
        self._keep(outcome)
        verdict = outcome.verdict
        peer = tunnel.peer.device
        log.debug("punched to %s: %d probes in %.2f s: %s", peer, verdict.probes, verdict.seconds, verdict.why)
        self._race.judged(verdict, self._now())
        self._act()
        if not verdict.direct:
            self._try_doors(ground, doors(terms))
        await talk.say(Told(verdict.direct, verdict.why))
        return verdict

    def _try_doors(self, ground: Ground, places: Sequence[Address]) -> None:
        """The peer's router lets anybody in there, who need not punch for that; but UDP would be better."""
        for place in places:
            way = Way(name_of(Transport.TCP, place), Kind.MAPPED, Transport.TCP)
            self._roads[way] = Road(way, partial(ground.dial, *place), place)
            self._race.add(way, self._now())
        self._act()

    def _judged(self, why: str) -> None:
        self._race.judged(Verdict(ways=(), why=why, probes=0, seconds=0.0), self._now())

    def _met(self, ahead: Ahead, met: Met) -> None:
        """A way works, and the attempt goes on for a better one."""
        transport, host, port = met.target
        if transport is not Transport.UDP or self._ground is None or self._is_over:
            return
        address = (host, port)
        way = self._places[address] = Way(name_of(transport, address), met.kind, transport)
        self._roads[way] = Road(way, partial(ahead.connect, address), address)
        self._found(way, met.rtt)

    def _found(self, way: Way, trip: float) -> None:
        self._has_met = True
        self._race.add(way, self._now())
        self._pong(way, trip)
        known = {each.way for each in self.explain().ways}
        self._roads = {one: road for one, road in self._roads.items() if one in known}
        self._places = {place: one for place, one in self._places.items() if one in known}

    def _keep(self, outcome: Outcome) -> None:
        """Connections are good for one carrier, and are wanted only where UDP is not let through."""
        has_udp = any(met.target[0] is Transport.UDP for met in outcome.verdict.ways)
        trips = {met.target[1:]: met for met in outcome.verdict.ways if met.target[0] is Transport.TCP}
        for address, pipe in pipes_of(outcome).items():
            if has_udp or self._is_over:
                pipe.close()
                continue
            met = trips[address]
            way = Way(name_of(Transport.TCP, address), met.kind, Transport.TCP)
            self._spare[way] = pipe
            self._roads[way] = Road(way, partial(self._take_spare, way))
            self._found(way, met.rtt)

    async def _take_spare(self, way: Way) -> Pipe:
        await trio.lowlevel.checkpoint()
        pipe = self._spare.pop(way, None)
        if pipe is None:
            raise Unreachable(f"{way.name} was good for one carrier", "connect_refused")
        return pipe

    async def _have_relay(self, tunnel: MuxedTunnel, ground: Ground, talk: Talk) -> None:
        """A session on a UDP relay is better than a stream in a stream."""
        session = await ground.relay_session(tunnel.peer.device)
        if session is None or self._is_over:
            return
        families = {":" in host for host, _ in ground.endpoint.addresses}
        relay = next(((host, session.port) for host in session.addresses if (":" in host) in families), None)
        if relay is None:
            return
        if self._detour is not None:
            self._detour.close()
        detour = self._detour = Detour(ground, RelaySide(relay, session.relay_id, 0, session.keys[0]))
        await talk.say(RelaySide(relay, session.relay_id, 1, session.keys[1]))
        await detour.bind()
        while not isinstance(said := await talk.hear(), Bound):
            if isinstance(said, No):
                raise Unreachable(f"the peer does not reach the relay: {said.why}", "connect_timeout")
        way = Way(f"relay {name_of(Transport.UDP, relay)}", Kind.RELAY, Transport.UDP)
        self._roads[way] = Road(way, partial(ground.endpoint.connect, detour.address, self._key))
        self._race.add(way, self._now())
        self._act()
