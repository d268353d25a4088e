"""What a device needs to speak version 5: what its tunnels have in common, and how its calls begin.

How a call begins depends on what is known of the key that is called (``rtcp.v5.memory``).  That a key spoke version 5
is written down before a tunnel to it stands, so that nobody can bring the two back to version 4 later.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field

import trio

from cyfs_ns.errors import BadWire, Refused, Unreachable
from cyfs_ns.identity.keys import PublicKey
from rtcp.io.commons import Commons, Connect
from rtcp.io.mux import MuxedTunnel
from rtcp.io.pipe import Pipe, Reactor, log
from rtcp.io.roll import Roll
from rtcp.io.shaking import next_event
from rtcp.io.udp.sockets import TrainSocket
from rtcp.limits import Limits
from rtcp.link import Link
from rtcp.party import Local, Peer, Remote
from rtcp.registry import TunnelKey
from rtcp.v5.calling import (
    MARKED_ENTROPY,
    MASKED_ENTROPY,
    NATIVE_ENTROPY,
    Call,
    CallEvent,
    CallFailed,
    ResponderProven,
    SpeaksVersion4,
)
from rtcp.v5.ledger import Room
from rtcp.v5.memory import Opening, VersionMemory
from rtcp.v5.payloads import Introduction
from rtcp.v5.tunnel import Tunnel as Machine

BOTH = frozenset((5, 4))
_WRITTEN_AGAIN = 30.0
"""Seconds after which what could not be written down is tried again, though nobody calls."""


Introduced = Callable[[MuxedTunnel, Pipe], None]
"""Is told of a tunnel that may come to stand, and what its first carrier travels on."""


async def _forget(_written: bytes) -> None:
    """Nothing outlives this process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Version5:
    """Speak version 5, too.  ``reactor`` moves the bytes of its tunnels; ``versions`` are those that may be spoken.

    ``memory`` knows who spoke version 5 before; ``remember`` keeps what ``VersionMemory.write`` gives, and may raise
    ``OSError``.  ``room`` is what all its tunnels may hold.  ``udp``: the sockets of its UDP port, one a family, which
    are taken over; at the number of its TCP port others find it.
    """

    reactor: Reactor
    versions: frozenset[int] = BOTH
    memory: VersionMemory = field(default_factory=VersionMemory)
    remember: Callable[[bytes], Awaitable[None]] = _forget
    room: Room = field(default_factory=Room)
    udp: Sequence[TrainSocket] = ()


@dataclass(frozen=True, slots=True)
class Met:
    """A handshake in which the peer has proven itself, and knows nothing of us yet."""

    call: Call
    proven: ResponderProven
    pipe: Pipe

    def close(self) -> None:
        self.pipe.close()


@dataclass(frozen=True, slots=True)
class Old:
    """The peer speaks version 4: what to go on with, and over what."""

    link: Link
    pipe: Pipe

    def close(self) -> None:
        self.pipe.close()


class Fifth:
    """Version 5 of one device."""

    def __init__(self, told: Version5, commons: Commons, roll: Roll, wall: Callable[[], float], limits: Limits) -> None:
        self.commons, self.versions = commons, told.versions
        self._told, self._roll, self._wall, self._limits = told, roll, wall, limits
        self._news, self._written = 0, -1  # another device may not have got as far as to write
        self._writing = trio.Lock()
        self._tries_again = False
        self._young: set[MuxedTunnel] = set()
        """Tunnels without a verdict."""
        self._closed = False

    def opening(self, key: PublicKey) -> Opening:
        """How to call ``key``."""
        return self._told.memory.opening(key, self.versions, trio.current_time())

    async def meet(self, remote: Remote, pipe: Pipe, connect: Connect) -> Met | Old:
        """Begin with ``pipe``, which is taken over, until the peer has proven itself, or speaks version 4.

        ``connect`` opens one more connection to the same address.  Raises ``Refused`` and ``Unreachable``.
        """
        opening = self.opening(remote.key)
        if opening is Opening.MASKED:
            call, event = await self._begin(opening, remote, pipe)
            if isinstance(event, ResponderProven):
                return Met(call, event, pipe)
            pipe.close()
            if isinstance(event, SpeaksVersion4):
                self._told.memory.spoke_4(remote.key, trio.current_time())
            pipe, opening = await connect(), Opening.MARKED
        call, event = await self._begin(opening, remote, pipe)
        match event:
            case ResponderProven():
                return Met(call, event, pipe)
            case SpeaksVersion4(Link() as link):
                self._told.memory.spoke_4(remote.key, trio.current_time())
                return Old(link, pipe)
            case CallFailed(why) if opening is Opening.NATIVE and 4 in self.versions:
                pipe.close()
                raise Unreachable(f"{why} (it spoke version 5 before, so version 4 will not do)", "tunnel_open")
            case CallFailed(why):
                pipe.close()
                hint = "" if 4 in self.versions else " (only version 5 is spoken here: does the peer, too?)"
                raise Unreachable(f"{why}{hint}", "tunnel_open")
        raise AssertionError(event)

    async def _begin(self, opening: Opening, remote: Remote, pipe: Pipe) -> tuple[Call, CallEvent]:
        try:
            call = self._called(opening, remote)
            return call, await next_event(call, pipe)
        except BaseException:
            pipe.close()
            raise

    def _called(self, opening: Opening, remote: Remote) -> Call:
        own, now, local = self.commons.own, trio.current_time(), self._roll.local
        try:
            if opening is Opening.NATIVE:
                return Call.native(own, remote.key, entropy=secrets.token_bytes(NATIVE_ENTROPY), now=now)
            begin, size = (Call.masked, MASKED_ENTROPY) if opening is Opening.MASKED else (Call.marked, MARKED_ENTROPY)
            entropy = secrets.token_bytes(size)
            return begin(own, local, remote, entropy=entropy, now=now, wall=self._wall(), limits=self._limits)
        except BadWire as bad:
            raise Refused(str(bad)) from bad

    async def introduce(
        self,
        met: Met,
        remote: Remote,
        peer: Peer,
        key: TunnelKey,
        again: Connect,
        introduced: Introduced,
    ) -> MuxedTunnel:
        """The right device is there: tell it who we are, and hear its verdict.  ``met`` is taken over.

        ``again`` opens one more connection to wherever the peer is by then.  ``introduced`` is told of the tunnel
        before the peer has said whether it wants us: what is asked of it goes out behind message 3 (§3.5).  Raises
        ``Refused`` and ``Unreachable``.
        """
        call, proven, pipe = met.call, met.proven, met.pipe
        try:
            if self._closed:
                raise Unreachable("this end is closed", "tunnel_open")
            established = call.go_on(self._introduction(self._roll.local, remote))
            if established is None:
                raise Unreachable("the handshake took too long", "tunnel_open")
        except BaseException:
            pipe.close()
            raise
        machine = Machine.call(
            established.carrier,
            established.tunnel,
            self.commons.parameters,
            established.parameters,
            round_trip=proven.round_trip,
            die=secrets.token_bytes(8),
            now=trio.current_time(),
            share=self.commons.ledger.open(anonymous=False),
        )
        tunnel = MuxedTunnel(machine, peer, key, self.commons, again)
        self._young.add(tunnel)
        try:
            tunnel.take_carrier(established, pipe, owed=call.data_to_send())
            introduced(tunnel, pipe)
            await self._note(remote.key).wait()
            await tunnel.shake()  # and the peer has answered meanwhile
        except BaseException:
            tunnel.abandon()
            raise
        finally:
            self._young.remove(tunnel)
        self.adopt(tunnel)
        return tunnel

    def _introduction(self, local: Local, remote: Remote) -> Introduction:
        named = local.did.canonical != local.canonical
        return Introduction(
            key=self.commons.own.public,
            parameters=self.commons.parameters,
            boot=self.commons.boot,
            to=str(remote.did) if remote.did.canonical != remote.canonical else "",
            sender=str(local.did) if named else "",
            document=(local.device_doc_jwt or "") if named else "",
        )

    async def forget(self, keys: Collection[PublicKey]) -> None:
        """A person says that these may speak version 4 alone by now."""
        for key in keys:
            self._news += self._told.memory.forget(key)
        await self._write_down()

    def _note(self, key: PublicKey) -> trio.Event:
        """``key`` spoke version 5; set when that is written down, or cannot be."""
        self._news += self._told.memory.spoke_5(key)
        noted = trio.Event()

        async def write() -> None:
            try:
                await self._write_down()
            finally:
                noted.set()

        self.commons.nursery.start_soon(write)
        return noted

    async def _write_down(self) -> None:
        if self._written == self._news:
            return
        async with self._writing:
            news = self._news
            if self._written == news:
                return
            try:
                await self._told.remember(self._told.memory.write())
            except OSError as fault:
                log.error("who spoke version 5 cannot be written down, so it is forgotten at the next start: %s", fault)
                if not self._tries_again:
                    self._tries_again = True
                    self.commons.nursery.start_soon(self._try_again)
            else:
                self._written = news

    async def _try_again(self) -> None:
        """A disk may be full for a while only."""
        while self._written != self._news:
            await trio.sleep(_WRITTEN_AGAIN)
            await self._write_down()
        self._tries_again = False

    def close(self) -> None:
        """Nothing comes of the calls that are out."""
        self._closed = True
        for tunnel in list(self._young):
            tunnel.abandon()

    def adopt(self, tunnel: MuxedTunnel) -> None:
        """It stands."""
        self._roll.stands(tunnel)
        tunnel.on_end = self._roll.ended
