"""Being dialled: from a connection of some stranger's to a tunnel, or to one more connection of a tunnel that stands.

What comes in passes four doors, and each costs the stranger more than us: a place at the doorstep; a handshake that
proves a key and is for us; a resolver's word for the name, and the rules for tunnels; and, once it is sure that the
stranger lives and is no recording, that there is room.  After that both ends are equal.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial

import trio

from cyfs_ns.errors import BadWire, Refused, Unreachable
from cyfs_ns.identity.did import dev_did
from cyfs_ns.names import is_ip
from rtcp.admission import Policy, Proven, Standing, decide
from rtcp.doorstep import Doorstep, Place
from rtcp.events import HelloProven, LinkEvent, PeerConfirmed, TunnelOpened
from rtcp.handshake import ENTROPY_SIZE
from rtcp.io.fifth import Fifth
from rtcp.io.mux import Connect, MuxedTunnel
from rtcp.io.pipe import Pipe, log, receive_some
from rtcp.io.roll import Roll
from rtcp.io.shaking import next_event, part
from rtcp.io.tunnel import Shared, Tunnel
from rtcp.legs import LegBook
from rtcp.link import Link
from rtcp.nonces import NonceMemory
from rtcp.packet import HELLO_STREAM_SIZE, is_hello_stream, read_hello_stream
from rtcp.party import Address, Peer
from rtcp.registry import TunnelKey
from rtcp.v5.admission import REFUSED_WAIT, examine
from rtcp.v5.answering import ENTROPY, Answer, AnswerFailed, CallerProven, Met, OldHello
from rtcp.v5.channel import Claim
from rtcp.v5.closing import Close, CloseCode
from rtcp.v5.payloads import Feature, Introduction
from rtcp.v5.tunnel import Tunnel as Machine

_FULL_WAIT = 30
"""Seconds for which whoever found no room stays away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judges:
    """Who says whether a stranger may come in (``rtcp.io.device.House``)."""

    vouch: Callable[[Proven], Awaitable[Standing]]
    welcome: Callable[[Peer], Awaitable[None]]
    policy: Policy


class Reception:
    """``fifth`` is what version 5 needs; None: version 4 alone.  ``call_back`` opens a connection to a peer that told
    where it may be called."""

    def __init__(
        self,
        roll: Roll,
        judges: Judges,
        shared: Shared,
        legs: LegBook[Tunnel],
        doorstep: Doorstep,
        wall: Callable[[], float],
        fifth: Fifth | None,
        call_back: Callable[[Address], Awaitable[Pipe]],
    ) -> None:
        self._roll, self._judges, self._shared, self._legs = roll, judges, shared, legs
        self._doorstep, self._wall, self._fifth, self._call_back = doorstep, wall, fifth, call_back
        self._nonces = NonceMemory()

    def accepted(self, pipe: Pipe, address: Address) -> None:
        """Somebody at ``address`` has connected: for a tunnel, or for a stream of one.  ``pipe`` is taken over."""
        source = address[0]
        place = self._doorstep.enter(source, trio.current_time(), known=source in self._roll.sources)
        if place is None:
            pipe.close()
        else:
            self._shared.nursery.start_soon(self._receive, pipe, place, address)

    async def _receive(self, pipe: Pipe, place: Place, address: Address) -> None:
        try:
            await self._sort(pipe, place, address)
        except (OSError, BadWire) as fault:
            log.debug("a connection from %s: %s", place.source, fault)
            pipe.close()
        except BaseException as fault:
            pipe.close()
            if not isinstance(fault, Exception):
                raise
            log.exception("a connection from %s failed", place.source)
        finally:
            self._doorstep.leave(place)

    async def _sort(self, pipe: Pipe, place: Place, address: Address) -> None:
        """By its first bytes a connection is a tunnel's or a stream's."""
        begun = trio.current_time()
        head = b""
        with trio.move_on_after(self._shared.limits.step) as patience:
            while (is_leg := is_hello_stream(head)) is None:
                head += await _more(pipe, HELLO_STREAM_SIZE - len(head))
            stream_id = read_hello_stream(head) if is_leg else None
            while is_leg and stream_id is None:
                head += await _more(pipe, HELLO_STREAM_SIZE - len(head))
                stream_id = read_hello_stream(head)
        if patience.cancelled_caught:
            raise BadWire("its first bytes did not come in time")
        if stream_id is not None:
            tunnel = self._legs.claim(stream_id)
            if tunnel is None or not tunnel.arrived(stream_id, pipe):
                raise BadWire("nobody awaits this stream")
        elif not self._doorstep.knock(place, begun):
            raise BadWire("it knocks too often")
        elif self._fifth is not None:
            await self._answer(self._fifth, pipe, head, begun, place, address)
        else:
            await self._respond(pipe, head, begun, place)

    # Version 5

    async def _answer(
        self, fifth: Fifth, pipe: Pipe, head: bytes, begun: float, place: Place, address: Address
    ) -> None:
        """Somebody begins a handshake with ``head``."""
        answer = Answer((fifth.commons.own,), fifth.commons.parameters, entropy=secrets.token_bytes(ENTROPY), now=begun)
        answer.receive_data(head, trio.current_time())
        event = await next_event(answer, pipe)
        if isinstance(event, Met):
            event = await next_event(answer, pipe)
        match event:
            case OldHello(data) if 4 in fifth.versions:
                await self._respond(pipe, data, begun, place)
                return
            case OldHello():
                raise BadWire("it speaks version 4 alone")
            case CallerProven(introduction) if introduction.opens_tunnel:
                verdict = await self._admit_5(fifth, answer, introduction, pipe, address)
            case CallerProven(introduction):
                verdict = self._join(answer, introduction, pipe, address)
            case AnswerFailed(why):
                log.debug("no tunnel for %s: %s", place.source, why)
                await part(answer, pipe)
                return
            case _:
                raise BadWire("it began twice")
        self._doorstep.leave(place)
        if verdict is not None:
            log.debug("no carrier for %s: %s", place.source, verdict)
            answer.refuse(verdict, trio.current_time())
            await part(answer, pipe)

    def _join(self, answer: Answer, said: Introduction, pipe: Pipe, address: Address) -> Close | None:
        """One more carrier of a tunnel that stands."""
        tunnel = self._roll.with_id(said.tunnel)
        if tunnel is None or tunnel.peer.device != dev_did(said.key):
            return Close(CloseCode.UNKNOWN_TUNNEL, 0, "no such tunnel")
        claim = Claim(said.channel, said.move, said.expect)
        verdict = tunnel.join(answer.established, claim, _seen(address))
        if verdict is None:
            accepted = answer.accept()
            assert accepted is not None
            tunnel.take_carrier(accepted[0], pipe, accepted[1])
        return verdict

    async def _admit_5(
        self, fifth: Fifth, answer: Answer, said: Introduction, pipe: Pipe, address: Address
    ) -> Close | None:
        """A new tunnel.  None: it stands."""
        proven = examine(said, self._roll.local, self._judges.policy)
        if isinstance(proven, Close):
            return proven
        with trio.move_on_at(answer.next_deadline() or 0):
            try:
                peer = await self._judge(proven, address[0])
                await self._judges.welcome(peer)
                self._roll.check_name(peer.did, peer.device)
            except Refused as no:
                return Close(CloseCode.REFUSED, REFUSED_WAIT, str(no))
            except Unreachable as fault:
                return Close(CloseCode.REFUSED, REFUSED_WAIT, str(fault))
            full = self._roll.replace(peer.device, said.boot)
            if full is not None:
                return full
            try:
                self._roll.check_room(peer.source)
            except Refused as no:
                return Close(CloseCode.BUSY, _FULL_WAIT, str(no))
            self._welcome_5(fifth, answer, said, peer, pipe, address)
            return None
        return Close(CloseCode.BUSY, _FULL_WAIT, "no verdict in time")

    def _welcome_5(
        self, fifth: Fifth, answer: Answer, said: Introduction, peer: Peer, pipe: Pipe, address: Address
    ) -> None:
        accepted = answer.accept()
        if accepted is None:
            pipe.close()
            return
        established, early = accepted
        now = trio.current_time()
        machine = Machine.welcome(
            established.carrier,
            established.tunnel,
            fifth.commons.parameters,
            established.parameters,
            seen=_seen(address),
            round_trip=0.0,
            die=secrets.token_bytes(8),
            now=now,
        )
        key = TunnelKey(self._roll.local.canonical, peer.device)
        tunnel = MuxedTunnel(machine, peer, key, fifth.commons, self._way_back(said, address), boot=said.boot)
        fifth.adopt(tunnel)
        tunnel.take_carrier(established, pipe, early)

    def _way_back(self, said: Introduction, address: Address) -> Connect | None:
        if Feature.CALLABLE not in said.parameters.features or not is_ip(address[0]):
            return None
        return partial(self._call_back, (address[0], said.parameters.port))

    # Version 4

    async def _respond(self, pipe: Pipe, head: bytes, begun: float, place: Place) -> None:
        """Somebody wants a tunnel of version 4, and began to speak with ``head``."""
        link = Link.respond(
            self._roll.local,
            self._nonces,
            entropy=secrets.token_bytes(ENTROPY_SIZE),
            now=begun,
            wall=self._wall() - (trio.current_time() - begun),
            policy=self._judges.policy,
            limits=self._shared.limits,
        )
        tunnel = Tunnel(link, pipe, self._shared)
        try:
            link.receive_data(head, trio.current_time())
            event = await tunnel.next_event()
            if isinstance(event, HelloProven):
                event = await self._admit(tunnel, link, event.proven, place.source)
            if isinstance(event, PeerConfirmed):
                event = await self._confirm(tunnel, link)
            self._doorstep.leave(place)
            if isinstance(event, TunnelOpened):
                await self._roll.live(tunnel)
            else:
                log.debug("no tunnel for %s: %s", place.source, event)
        finally:
            tunnel.abandon()

    async def _admit(self, tunnel: Tunnel, link: Link, proven: Proven, source: str) -> LinkEvent:
        """Who knocks holds a key.  Is its name known, and may it come in?"""
        with trio.move_on_at(link.next_deadline() or 0):
            try:
                tunnel.peer = await self._judge(proven, source)
                tunnel.key = TunnelKey(self._roll.local.canonical, proven.device)
            except (Refused, Unreachable) as no:
                link.turn_away(str(no))
            else:
                link.admit(trio.current_time())
        link.handle_timeout(trio.current_time())
        return await tunnel.next_event()

    async def _confirm(self, tunnel: Tunnel, link: Link) -> LinkEvent:
        """Who knocks is alive and no recording.  Do the rules want it, and is there room?"""
        with trio.move_on_at(link.next_deadline() or 0):
            try:
                await self._judges.welcome(tunnel.peer)
                await self._roll.arbitrate(tunnel.key)
                self._roll.check_room(tunnel.peer.source)
                self._roll.check_name(tunnel.peer.did, tunnel.peer.device)
            except (Refused, Unreachable) as no:
                link.turn_away(str(no))
            else:
                link.accept_tunnel(trio.current_time())
        link.handle_timeout(trio.current_time())
        event = await tunnel.next_event()
        if isinstance(event, TunnelOpened):
            self._roll.stands(tunnel)
        return event

    # Both

    async def _judge(self, proven: Proven, source: str) -> Peer:
        if proven.device == self._roll.local.canonical:
            raise Refused("that is this device itself")
        standing = Standing(key=None)
        if not proven.anonymous:
            found = await self._judges.vouch(proven)
            standing = replace(found, bound_to=self._roll.register.holder(proven.named))
        decide(proven, standing, self._judges.policy)
        did = proven.device if proven.anonymous else proven.named.canonical
        return Peer(did=did, device=proven.device, about=standing.about, dialled=False, source=source)


def _seen(address: Address) -> Address | None:
    return address if is_ip(address[0]) else None


async def _more(pipe: Pipe, most: int) -> bytes:
    data = await receive_some(pipe, most)
    if not data:
        raise BadWire("it ended before it said what it is")
    return data
