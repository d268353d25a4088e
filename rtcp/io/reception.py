"""Being dialled: from a connection of some stranger's to a tunnel, or to one more connection of a tunnel that stands.

What comes in has a place at the door (``rtcp/door.py``) from the first moment, and each step further in costs the
stranger more than us: a handshake that proves a key and is for us; a resolver's word for the name, and the rules for
tunnels; and, once it is sure that the stranger lives and is no recording, that there is room.  After that both ends are
equal, and the place is the tunnel's for its life.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import ip_address

import trio

from cyfs_ns.errors import BadWire, Refused, Unreachable
from cyfs_ns.identity.did import dev_did
from cyfs_ns.names import is_ip
from rtcp.admission import Policy, Proven, Standing, decide
from rtcp.door import Door, DoorLimits, Place
from rtcp.events import HelloProven, LinkEvent, PeerConfirmed, TunnelOpened
from rtcp.handshake import ENTROPY_SIZE
from rtcp.io.commons import Connect
from rtcp.io.fifth import Fifth
from rtcp.io.gate import Gate, Turn
from rtcp.io.mux import MuxedTunnel
from rtcp.io.pipe import Pipe, TcpPipe, log, receive_some
from rtcp.io.roll import Roll
from rtcp.io.shaking import next_event, part
from rtcp.io.tunnel import Shared, Tunnel
from rtcp.legs import LegBook
from rtcp.link import Link
from rtcp.nat.relayend import stands_for_session
from rtcp.nonces import NonceMemory
from rtcp.packet import HELLO_STREAM_SIZE, read_hello_stream
from rtcp.party import Address, Peer
from rtcp.registry import TunnelKey
from rtcp.v5.admission import REFUSED_WAIT, examine
from rtcp.v5.answering import ENTROPY, KNOCK_WAIT, Answer, AnswerFailed, CallerProven, Met, OldHello
from rtcp.v5.channel import Claim
from rtcp.v5.closing import Close, CloseCode
from rtcp.v5.messages import LEAST_FIRST, MOST_FIRST
from rtcp.v5.opening import FIRST_SIZE, First, read_first
from rtcp.v5.payloads import Feature, Introduction
from rtcp.v5.tunnel import Tunnel as Machine

_UNDECIDED_WAIT = 5
"""Seconds until the resolver may be asked again about somebody of whom it found nothing out."""
_FULL_WAIT = 30
"""Seconds for which whoever found no room stays away."""
_FULL = "no more tunnels are taken"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judges:
    """Who says whether a stranger may come in, and be called back (``rtcp.io.device.House``)."""

    vouch: Callable[[Proven], Awaitable[Standing]]
    welcome: Callable[[Peer], Awaitable[None]]
    expects: Callable[[Peer], bool]
    policy: Policy
    calls_loopback: bool


class Reception:
    """``fifth`` is what version 5 needs; None: version 4 alone.  ``call_back`` opens a connection to a peer that told
    where it may be called."""

    def __init__(
        self,
        roll: Roll,
        judges: Judges,
        shared: Shared,
        legs: LegBook[Tunnel],
        limits: DoorLimits,
        wall: Callable[[], float],
        fifth: Fifth | None,
        call_back: Callable[[Address], Awaitable[Pipe]],
    ) -> None:
        self._roll, self._judges, self._shared, self._legs = roll, judges, shared, legs
        self._wall, self._fifth, self._call_back = wall, fifth, call_back
        self._door = Door(trio.current_time(), limits)
        self._gate = Gate()
        self._visits: dict[Place, trio.CancelScope] = {}
        """Whose places are given back when their connections are, and what pushes those out."""
        self._nonces = NonceMemory()

    def accepted(self, pipe: Pipe, address: Address) -> None:
        """Somebody at ``address`` has connected: for a tunnel, or for a stream of one.  ``pipe`` is taken over."""
        place = self._door.enter(address[0], trio.current_time())
        if place is None:
            pipe.close()
            return
        visit = self._visits[place] = trio.CancelScope()
        self._shared.nursery.start_soon(self._receive, pipe, place, visit, address)
        self._push_out()

    def _push_out(self) -> None:
        """Others need the room of whoever has been at the door for longest."""
        while (place := self._door.next_evicted()) is not None:
            self._visits[place].cancel()

    async def _receive(self, pipe: Pipe, place: Place, visit: trio.CancelScope, address: Address) -> None:
        with visit:
            try:
                await self._sort(pipe, place, address)
            except (OSError, BadWire) as fault:
                log.debug("a connection from %s: %s", address[0], fault)
                pipe.close()
            except BaseException as fault:
                pipe.close()
                if not isinstance(fault, Exception):
                    raise
                log.exception("a connection from %s failed", address[0])
            finally:
                if self._visits.pop(place, None) is not None:
                    self._door.leave(place, trio.current_time())

    async def _sort(self, pipe: Pipe, place: Place, address: Address) -> None:
        """By its first bytes a connection is a tunnel's or a stream's."""
        begun = trio.current_time()
        with trio.move_on_at(begun + min(KNOCK_WAIT, self._shared.limits.step)) as patience:
            knock = await self._knock(pipe, place)
        if patience.cancelled_caught:
            raise BadWire("it did not say in time what it is")
        if read_first(knock) is First.LEG:
            stream_id = read_hello_stream(knock)
            assert stream_id is not None
            tunnel = self._legs.claim(stream_id)
            if tunnel is None or not tunnel.arrived(stream_id, pipe):
                raise BadWire("nobody awaits this stream")
        elif not self._door.may_shake_hands(place, begun):
            raise BadWire("it knocks too often")
        elif self._fifth is not None:
            await self._answer(self._fifth, pipe, knock, begun, place, address)
        else:
            await self._respond(pipe, knock, begun, place, address, Turn.KNOWN if place.known else Turn.STRANGER)

    async def _knock(self, pipe: Pipe, place: Place) -> bytes:
        """All of the first packet: the id of a stream, a Hello, or message 1.

        Behind the latter two a byte more is read, if there is one: who speaks on unasked is found out by it.
        """
        said = b""
        while (first := read_first(said)) is None:
            said += await _more(pipe, FIRST_SIZE - len(said))
        if first is First.LEG:
            while read_hello_stream(said) is None:
                said += await _more(pipe, HELLO_STREAM_SIZE - len(said))
            return said
        size = int.from_bytes(said[:2], "big")
        if first is not First.HELLO and not LEAST_FIRST <= size <= MOST_FIRST:
            raise BadWire(f"a message of {size} bytes")
        if size > MOST_FIRST:
            self._door.long_hello(place)
            self._push_out()
        while len(said) < size:
            said += await _more(pipe, size + 1 - len(said))
        return said

    def _may_prove(self, place: Place) -> bool:
        """It knows us.  Whether there is a place for it while it proves who it is."""
        may = self._door.begin_proof(place, trio.current_time())
        self._push_out()
        return may

    # Version 5

    async def _answer(
        self, fifth: Fifth, pipe: Pipe, knock: bytes, begun: float, place: Place, address: Address
    ) -> None:
        """Somebody begins a handshake with ``knock``."""
        answer = Answer((fifth.commons.own,), fifth.commons.parameters, entropy=secrets.token_bytes(ENTROPY), now=begun)
        # A Hello cannot show beforehand that it knows our key, so it waits behind those that can, and makes room.
        is_hello = read_first(knock) is First.HELLO
        is_doubtful = is_hello and self._door.is_busy(trio.current_time())
        if not is_hello:
            self._door.hear(place)
        turn = Turn.KNOWN if place.known else Turn.DOUBTFUL if is_doubtful else Turn.STRANGER
        # No work for whoever waited until their time was over: they are gone, or will be before the answer comes.
        with trio.move_on_at(begun + KNOCK_WAIT) as patience:
            async with self._gate.one(turn):
                answer.receive_data(knock, trio.current_time())
        if patience.cancelled_caught:
            raise BadWire("there was no time for it")
        event = await next_event(answer, pipe)
        if isinstance(event, Met):
            if not self._may_prove(place):
                raise BadWire("there is no place for it")
            event = await next_event(answer, pipe, self._gate)
        match event:
            case OldHello(data) if 4 in fifth.versions:
                await self._respond(pipe, data, begun, place, address, turn)
                return
            case OldHello():
                raise BadWire("it speaks version 4 alone")
            case CallerProven(introduction) if introduction.opens_tunnel:
                verdict = await self._admit_5(fifth, answer, introduction, pipe, place, address)
            case CallerProven(introduction):
                verdict = self._join(answer, introduction, pipe, address)
            case AnswerFailed(why):
                log.debug("no tunnel for %s: %s", address[0], why)
                await part(answer, pipe)
                return
            case _:
                raise BadWire("it began twice")
        if verdict is not None:
            log.debug("no carrier for %s: %s", address[0], verdict)
            answer.refuse(verdict, trio.current_time())
            await part(answer, pipe)

    def _join(self, answer: Answer, said: Introduction, pipe: Pipe, address: Address) -> Close | None:
        """One more carrier of a tunnel that stands."""
        tunnel = self._roll.with_id(said.tunnel)
        if tunnel is None or tunnel.peer.device != dev_did(said.key):
            return Close(CloseCode.UNKNOWN_TUNNEL, 0, "no such tunnel")
        claim = Claim(said.channel, said.move, said.expect)
        bare = Feature.BARE in said.parameters.features and isinstance(pipe, TcpPipe)
        verdict = tunnel.join(answer.established, claim, _seen(address), bare=bare)
        if verdict is None:
            accepted = answer.accept()
            assert accepted is not None
            if not tunnel.peer.dialled and said.channel == 0:
                tunnel.peer = replace(tunnel.peer, source=address[0])  # it may have moved to another network
            tunnel.take_carrier(accepted[0], pipe, accepted[1], leg=said.channel != 0)
        return verdict

    async def _admit_5(
        self, fifth: Fifth, answer: Answer, said: Introduction, pipe: Pipe, place: Place, address: Address
    ) -> Close | None:
        """A new tunnel.  None: it stands."""
        if not self._door.begin_decision(place, trio.current_time()):
            return Close(CloseCode.BUSY, _FULL_WAIT, _FULL)
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
                return Close(CloseCode.BUSY, _UNDECIDED_WAIT, str(fault))
            full = self._roll.replace(peer.device, said.boot)
            if full is not None:
                return full
            anonymous = proven.anonymous and not self._judges.expects(peer)
            if not self._door.stand(place, trio.current_time(), anonymous=anonymous):
                return Close(CloseCode.BUSY, _FULL_WAIT, _FULL)
            self._welcome_5(fifth, answer, said, peer, pipe, place, address)
            return None
        return Close(CloseCode.BUSY, _FULL_WAIT, "no verdict in time")

    def _welcome_5(
        self, fifth: Fifth, answer: Answer, said: Introduction, peer: Peer, pipe: Pipe, place: Place, address: Address
    ) -> None:
        accepted = answer.accept()
        if accepted is None:
            pipe.close()
            return
        established, early = accepted
        theirs, way_back = established.parameters, self._way_back(said, address)
        if way_back is None:  # it may be callable, but not from here
            theirs = replace(theirs, features=theirs.features & ~Feature.CALLABLE, port=0)
        now = trio.current_time()
        machine = Machine.welcome(
            established.carrier,
            established.tunnel,
            fifth.commons.parameters,
            theirs,
            seen=_seen(address),
            round_trip=0.0,
            die=secrets.token_bytes(8),
            now=now,
            share=fifth.commons.ledger.open(anonymous=place.anonymous),
        )
        key = TunnelKey(self._roll.local.canonical, peer.device)
        tunnel = MuxedTunnel(machine, peer, key, fifth.commons, way_back, boot=said.boot)
        self._roll.stands(tunnel)
        tunnel.on_end = partial(self._over_5, place)
        del self._visits[place]  # it is the tunnel's from now on
        tunnel.take_carrier(established, pipe, early)

    def _over_5(self, place: Place, tunnel: MuxedTunnel) -> None:
        self._roll.ended(tunnel)
        self._door.leave(place, trio.current_time())

    def _way_back(self, said: Introduction, address: Address) -> Connect | None:
        if Feature.CALLABLE not in said.parameters.features or not _is_somewhere(address[0]):
            return None
        if ip_address(address[0]).is_loopback and not self._judges.calls_loopback:
            return None
        return partial(self._call_back, (address[0], said.parameters.port))

    # Version 4

    async def _respond(
        self, pipe: Pipe, hello: bytes, begun: float, place: Place, address: Address, turn: Turn
    ) -> None:
        """Somebody wants a tunnel of version 4, and said ``hello``."""
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
            async with self._gate.one(turn):
                link.receive_data(hello, trio.current_time())
            event = await tunnel.next_event()
            if isinstance(event, HelloProven):
                proven = event.proven
                if not self._may_prove(place):
                    return
                event = await self._admit(tunnel, link, proven, address[0])
                if isinstance(event, PeerConfirmed):
                    anonymous = proven.anonymous and not self._judges.expects(tunnel.peer)
                    event = await self._confirm(tunnel, link, place, anonymous=anonymous)
            if isinstance(event, TunnelOpened):
                await self._roll.live(tunnel)
            else:
                log.debug("no tunnel for %s: %s", address[0], event)
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
                async with self._gate.one():
                    link.admit(trio.current_time())
        link.handle_timeout(trio.current_time())
        return await tunnel.next_event()

    async def _confirm(self, tunnel: Tunnel, link: Link, place: Place, *, anonymous: bool) -> LinkEvent:
        """Who knocks is alive and no recording.  Do the rules want it, and is there room?"""
        with trio.move_on_at(link.next_deadline() or 0):
            try:
                if not self._door.begin_decision(place, trio.current_time()):
                    raise Refused(_FULL)
                await self._judges.welcome(tunnel.peer)
                await self._roll.arbitrate(tunnel.key)
                self._roll.check_name(tunnel.peer.did, tunnel.peer.device)
                if not self._door.stand(place, trio.current_time(), anonymous=anonymous):
                    raise Refused(_FULL)
            except (Refused, Unreachable) as no:
                link.turn_away(str(no))
            else:
                link.accept_tunnel(trio.current_time())
        link.handle_timeout(trio.current_time())
        event = await tunnel.next_event()
        if isinstance(event, TunnelOpened):
            self._roll.stands(tunnel)
            if self._fifth is not None and 4 not in self._fifth.versions:  # by a change meanwhile
                tunnel.close()
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
        did = proven.device if proven.anonymous or standing.by_key else proven.named.canonical
        return Peer(did=did, device=proven.device, about=standing.about, dialled=False, source=source)


def _seen(address: Address) -> Address | None:
    return address if _is_somewhere(address[0]) else None


def _is_somewhere(host: str) -> bool:
    """Whether the peer is at this address, and not only its datagrams come from there."""
    return is_ip(host) and not stands_for_session(host)


async def _more(pipe: Pipe, most: int) -> bytes:
    data = await receive_some(pipe, most)
    if not data:
        raise BadWire("it ended before it said what it is")
    return data
