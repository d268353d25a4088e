"""The end of a tunnel that was dialled: it answers when the other looks for a better way, and goes along.

Which way is used is for one end to decide, else they could undo each other's moves; so who dialled decides, and all
that this end does unasked is to say that it would like to be asked: when its own network has changed under traffic.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import trio

from cyfs_ns.errors import BadWire, Refused, Unreachable
from rtcp.io.mux import MuxedTunnel
from rtcp.io.nat.ahead import may_have_ticket
from rtcp.io.nat.detour import Detour
from rtcp.io.nat.ground import PATHS, PATHS_PORT, Ground, Talk
from rtcp.io.nat.meeting import Asking, Terms, begin, foreseen, gather, new_secret, pipes_of, punch
from rtcp.io.pipe import Pipe, log
from rtcp.io.wayname import way_of
from rtcp.nat.candidates import Transport
from rtcp.nat.race import BUSY, Report, Way
from rtcp.nat.signals import Again, Answer, Ask, Bound, No, RelaySide, Told
from rtcp.party import Address

_LONGEST: Final = 20.0
"""Seconds that one attempt, all told, may take."""
_PAUSE: Final = 1.0
"""Seconds from one attempt to the next, whatever the peer wants."""


class Guest:
    """The ways of ``tunnel``, as far as its dialler tells."""

    def __init__(self, ground: Ground, tunnel: MuxedTunnel) -> None:
        self._ground, self._tunnel = ground, tunnel
        self._asking = Asking(ground)
        self._detour: Detour | None = None
        self._was_direct = False
        self._told: Told | None = None
        """How the last attempt ended, as the peer saw it."""
        self._answering = False
        self._answered_at = float("-inf")
        self._is_over = False

    @property
    def way(self) -> Way | None:
        """What the tunnel goes by now."""
        pipe = self._tunnel.pipe
        return None if pipe is None else way_of(pipe)

    async def answer(self, pipe: Pipe) -> None:
        """The peer opened a stream for signals, which is taken over."""
        talk = Talk(pipe)
        try:
            with trio.move_on_after(_LONGEST):
                if self._answering:
                    await talk.say(No("one attempt after the other"))
                    return
                self._answering = True
                try:
                    await trio.sleep_until(self._answered_at + _PAUSE)
                    await self._converse(talk)
                finally:
                    self._answering, self._answered_at = False, trio.current_time()
        except (Unreachable, Refused, BadWire) as fault:
            log.debug("no better way for %s: %s", self._tunnel.peer.did, fault)
        finally:
            talk.close()

    async def _converse(self, talk: Talk) -> None:
        while True:
            match await talk.hear():
                case Ask() as ask:
                    await self._punch(talk, ask)
                case RelaySide() as side:
                    await self._bind(talk, side)
                case Told() as told:
                    self._told = told
                case signal:
                    raise BadWire(f"{type(signal).__name__} is not for this end to hear")

    async def _punch(self, talk: Talk, ask: Ask) -> None:
        ground, peer = self._ground, self._tunnel.peer
        try:
            ours = await gather(ground, peer)
        except Unreachable as fault:
            await talk.say(No(str(fault)))
            return
        secret = new_secret()
        terms = Terms(
            ours=ours,
            theirs=ask.offer,
            asker=ask.secret,
            answerer=secret,
            opens=True,
            trip=ask.trip,
            private=ground.trusts(peer),
        )
        attempt = begin(ground, terms)
        await talk.say(Answer(secret, ours, self._invite(ask, foreseen(attempt))))
        if self._is_over:
            return
        self._asking.begin(terms)
        outcome = await punch(ground, attempt, terms)
        for address, pipe in pipes_of(outcome).items():
            ground.accepted(pipe, address)
        await talk.say(Told(outcome.verdict.direct, outcome.verdict.why))

    def _invite(self, ask: Ask, places: Sequence[Address]) -> tuple[bytes, bytes] | None:
        """For the pipe that the peer calls meanwhile, from where its NAT shows it; None: nobody knows where that is.

        It spares the peer to show that it hears what is sent there, so it costs what a probe does.
        """
        place = next(filter(may_have_ticket, reversed(places)), None)
        if place is None or not self._ground.budget.spend(place[0], trio.current_time()):
            return None
        return self._ground.endpoint.invite(ask.tag, ask.public, place)

    async def _bind(self, talk: Talk, side: RelaySide) -> None:
        if self._detour is not None:
            self._detour.close()
        if self._is_over:
            return
        self._detour = Detour(self._ground, side)
        try:
            await self._detour.bind()
        except Unreachable as fault:
            await talk.say(No(str(fault)))
        else:
            await talk.say(Bound())

    # What the tunnel tells it

    def turned(self) -> None:
        """Nothing is counted at this end."""

    def stood(self) -> None:
        """Control is on another pipe."""
        way = self.way
        if way is not None and way.relayed and self._was_direct:
            self._ground.doubt()
        self._was_direct = way is not None and not way.relayed
        if self._detour is not None:
            self._detour.in_use = way is not None and way.relayed and way.transport is Transport.UDP

    def network_changed(self) -> None:
        """An address or a route of this machine is another."""
        if self._detour is not None:
            self._detour.rebind()
        if trio.current_time() < self._tunnel.busy_until + BUSY:
            self._ground.nursery.start_soon(self._wish)

    async def _wish(self) -> None:
        with trio.move_on_after(_LONGEST), suppress(Unreachable, Refused):
            talk = Talk(await self._tunnel.open_stream(PATHS, PATHS_PORT))
            try:
                await talk.say(Again("its network changed"))
            finally:
                talk.close()

    def close(self) -> None:
        """The tunnel is over."""
        self._is_over = True
        self._asking.close()
        if self._detour is not None:
            self._detour.close()

    def explain(self) -> Report:
        """For people.  What the peer told is of such a way as its attempt led to: it may have found one besides, or
        lost that one since, and says neither."""
        way, told, why = self.way, self._told, "the peer dialled it"
        if told is not None and way is not None and told.direct is not way.relayed:
            why = told.why if told.direct else f"{told.why} (says the peer)"
        return Report(current=way, why=why, ways=())
