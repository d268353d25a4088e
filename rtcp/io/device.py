"""This device as others reach it, and as it reaches others: all tunnels of one identity.

What comes in passes four doors, and each costs the stranger more than us: a place at the doorstep; a Hello that proves
a key and is for us; a resolver's word for the name, and the rules for tunnels; and, once it is sure that the stranger
lives and is no recording, that no tunnel to the same device stands already.  After that both ends are equal.

What goes out asks for a tunnel by a name.  If none stands, one is made, once for all who want it at the same time: the
name is resolved to a key and addresses, the addresses are raced, and whoever answers has to prove the key.

The house this stands in hands over what is the house's to decide, as a :class:`House`.
"""

from __future__ import annotations

import random
import secrets
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from copy import copy
from dataclasses import dataclass, replace
from functools import partial

import trio

from cyfs_ns.errors import BadWire, CyfsError, Refused, Unreachable
from cyfs_ns.identity.did import Did, dev_did
from cyfs_ns.io.merging import Merged
from rtcp.admission import Policy, Proven, Standing, decide
from rtcp.backoff import Backoff
from rtcp.doorstep import Doorstep, Place
from rtcp.events import End, HelloProven, LinkEvent, PeerConfirmed, TunnelOpened
from rtcp.handshake import ENTROPY_SIZE
from rtcp.io.dialling import Dial, race
from rtcp.io.leg import Datagrams, LegPipe
from rtcp.io.pipe import Pipe, accept, log, receive_some, watch_over
from rtcp.io.tunnel import Serve, Shared, Tunnel, TunnelOver, refuse
from rtcp.legs import LegBook
from rtcp.limits import Limits
from rtcp.link import Link
from rtcp.nonces import NonceMemory
from rtcp.packet import HELLO_STREAM_SIZE, Purpose, is_hello_stream, read_hello_stream
from rtcp.party import Address, Found, Local, Peer, Remote
from rtcp.paths import Paths
from rtcp.records import Spent
from rtcp.registry import DUPLICATE, FRESH, Register, TunnelKey

_REST = 1.0
"""Seconds for which a peer that could not be reached is not dialled again."""
_MOST_RESTING = 1024
_LONGEST = 60.0
"""Seconds for a tunnel to be made: to find the peer, and to try all its addresses."""
_ADDRESSES = 16


async def anybody(peer: Peer) -> None:
    """Rules for tunnels that keep nobody out."""


async def nobody(proven: Proven) -> Standing:
    """Knows no names, so only peers that are their key may come in."""
    return Standing(key=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """What is not ours to decide.

    ``find`` tells of somebody we want to dial; its second argument is a port that was asked for.  ``dial`` makes plain
    connections.  ``vouch`` tells what is known of the name a stranger goes by, whose key was proven; nothing about
    other tunnels is its business.  ``welcome`` holds the rules for new tunnels that others dialled, ``serve`` those for
    streams.  ``find``, ``vouch`` and ``welcome`` may raise ``Refused`` or ``Unreachable``.
    """

    find: Callable[[Did, int | None], Awaitable[Found]]
    dial: Dial
    vouch: Callable[[Proven], Awaitable[Standing]] = nobody
    welcome: Callable[[Peer], Awaitable[None]] = anybody
    serve: Serve = refuse


@dataclass(frozen=True, slots=True)
class Carrier:
    """A way around, instead of plain connections: a proxy, or another tunnel.

    ``name`` makes tunnels by this way different from others.  A carrier that ``leads`` to the peer by itself needs no
    address; ``dial`` is then called with an empty one.
    """

    name: str
    dial: Dial
    leads: bool = False


@asynccontextmanager
async def open_device(
    local: Local,
    house: House,
    listeners: Sequence[socket.socket] = (),
    *,
    limits: Limits | None = None,
    policy: Policy | None = None,
    doorstep: Doorstep | None = None,
    most_tunnels: int = 8192,
    most_each: int = 512,
    wall: Callable[[], float] = time.time,
) -> AsyncIterator[Device]:
    """``local`` in the world, taking tunnels and streams on ``listeners`` (``pipe.listen``), which it takes over.

    ``most_tunnels``: how many others may have dialled, and ``most_each`` from one address.  On the way out all tunnels
    are closed; streams are their owners'.
    """
    async with trio.open_nursery() as nursery:
        device = Device(
            local,
            house,
            nursery,
            limits or Limits(),
            policy or Policy(),
            doorstep or Doorstep(),
            most_tunnels,
            most_each,
            wall,
        )
        try:
            for listener in listeners:
                nursery.start_soon(accept, listener, device.accepted)
            yield device
        finally:
            device.closed = True
            nursery.cancel_scope.cancel()


class Device:
    """Made by :func:`open_device`."""

    def __init__(
        self,
        local: Local,
        house: House,
        nursery: trio.Nursery,
        limits: Limits,
        policy: Policy,
        doorstep: Doorstep,
        most_tunnels: int,
        most_each: int,
        wall: Callable[[], float],
    ) -> None:
        self.local = local
        """May be replaced by another for the same key, when the device document is renewed."""
        self._house, self._limits, self._policy, self._wall = house, limits, policy, wall
        self._doorstep, self._most_tunnels, self._most_each = doorstep, most_tunnels, most_each
        self._nonces = NonceMemory()
        self._legs: LegBook[Tunnel] = LegBook()
        self._shared = Shared(nursery=nursery, legs=self._legs, limits=limits, serve=house.serve)
        self._register: Register[Tunnel] = Register(local.canonical)
        self._sources: Counter[str] = Counter()
        self._inbound = 0
        self._flights: Merged[tuple[Did, str], Tunnel] = Merged()
        self._devices: Merged[TunnelKey, Tunnel] = Merged()
        self._resting: dict[tuple[Did, str], tuple[float, CyfsError]] = {}
        self._paths = Paths()
        self.closed = False

    # What is wanted of it

    async def open_stream(
        self, did: Did, host: str | None, port: int, *, via: Carrier | None = None, at: int | None = None
    ) -> LegPipe:
        """A stream through the tunnel to ``did`` and on to ``host`` (None: that machine itself) at ``port``.

        ``via`` is how to get there, ``at`` the port to dial if no tunnel stands.  Raises ``Refused`` when somebody's
        rules say no, and ``Unreachable``.
        """
        return await self._open(did, Purpose.STREAM, host, port, via, at)

    async def open_datagrams(
        self, did: Did, host: str | None, port: int, *, via: Carrier | None = None, at: int | None = None
    ) -> Datagrams:
        """Like ``open_stream``, for datagrams to that one ``host`` and ``port``."""
        return Datagrams(await self._open(did, Purpose.DATAGRAM, host, port, via, at))

    def open_datagrams_soon(
        self,
        then: Callable[[Datagrams | None], None],
        did: Did,
        host: str | None,
        port: int,
        *,
        via: Carrier | None = None,
        at: int | None = None,
    ) -> None:
        """``open_datagrams`` for whoever cannot wait: ``then`` is called with them, or with None."""

        async def open_them() -> None:
            try:
                opened = await self.open_datagrams(did, host, port, via=via, at=at)
            except (Refused, Unreachable) as fault:
                log.debug("no datagrams to %s: %s", did, fault)
                then(None)
            else:
                then(opened)

        if self.closed:
            then(None)
        else:
            self._shared.nursery.start_soon(open_them)

    async def tunnel(self, did: Did, *, via: Carrier | None = None, at: int | None = None) -> Tunnel:
        """The tunnel to ``did``, which is made if none stands.  Raises ``Refused`` and ``Unreachable``."""
        key = did.canonical, via.name if via else ""
        standing = self._register.find(*key) or self._came(did)
        if standing is not None:
            await trio.lowlevel.checkpoint()
            return standing
        return await self._flights.run(key, lambda: self._make(did, key, via, at))

    async def keep(self, did: Did, *, via: Carrier | None = None, at: int | None = None) -> None:
        """See to it that a tunnel to ``did`` stands, until cancelled."""
        backoff = Backoff()
        while True:
            try:
                tunnel = await self.tunnel(did, via=via, at=at)
            except (Unreachable, Refused) as fault:
                log.info("no tunnel to %s: %s", did, fault)
            else:
                since = trio.current_time()
                await tunnel.over.wait()
                if tunnel.end is not None and tunnel.end.end is End.SPENT:
                    continue
                backoff.stood(trio.current_time() - since)
            await trio.sleep(backoff.failed(random.random()))

    def tunnels(self) -> list[Tunnel]:
        """All that stand."""
        return self._register.tunnels()

    async def _open(
        self, did: Did, purpose: Purpose, host: str | None, port: int, via: Carrier | None, at: int | None
    ) -> LegPipe:
        tunnel = await self.tunnel(did, via=via, at=at)
        try:
            return await tunnel.open_stream(purpose, host, port)
        except (TunnelOver, Spent):
            self._retire(tunnel)
        tunnel = await self.tunnel(did, via=via, at=at)
        try:
            return await tunnel.open_stream(purpose, host, port)
        except Spent as spent:
            raise Unreachable(str(spent), "tunnel_open") from spent

    # Dialling

    async def _make(self, did: Did, key: tuple[Did, str], via: Carrier | None, at: int | None) -> Tunnel:
        rests = self._resting.get(key)
        if rests is not None and trio.current_time() < rests[0]:
            await trio.lowlevel.checkpoint()
            raise copy(rests[1]) from rests[1]
        self._resting.pop(key, None)
        try:
            with trio.move_on_after(_LONGEST):
                return await self._dial(did, via, at)
            raise Unreachable(f"no way to {did} was found in {_LONGEST:g} s", "connect_timeout")
        except (Unreachable, Refused) as fault:
            if len(self._resting) >= _MOST_RESTING:
                self._resting.clear()
            self._resting[key] = trio.current_time() + _REST, fault
            raise

    async def _dial(self, did: Did, via: Carrier | None, at: int | None) -> Tunnel:
        self._check_open()
        found = await self._house.find(did, at)
        device = dev_did(found.key)
        if device == self.local.canonical:
            raise Refused(f"{did} is this device")
        if self._register.holder(did) not in (None, device):
            raise Refused(f"{did} is another device here")
        key = TunnelKey(self.local.canonical, device, via.name if via else "")
        # Two names may lead to one device, which takes one tunnel.
        tunnel = await self._devices.run(key, lambda: self._reach(did, found, key, via))
        if not self._register.call(device, did):
            raise Refused(f"{did} is another device here by now")
        return tunnel

    async def _reach(self, did: Did, found: Found, key: TunnelKey, via: Carrier | None) -> Tunnel:
        """A tunnel to the device of ``key``, by whichever of its addresses leads to it."""
        standing = self._register.get(key) or self._came(key.remote)
        if standing is not None:
            return standing
        peer = Peer(did=did.canonical, device=key.remote, about=found.about, dialled=True)
        dial, paths = (via.dial, Paths()) if via else (self._house.dial, self._paths)
        addresses: list[Address] = [("", 0)] if via and via.leads else paths.arrange(found.addresses)[:_ADDRESSES]
        fault: CyfsError = Unreachable(f"no address of {did} is known", "pre_connect_dns")
        while addresses:
            try:
                pipe, address = await race(addresses, dial, paths)
            except (Unreachable, Refused) as failed:
                fault = failed
                break
            addresses.remove(address)
            try:
                return await self._shake(Remote(did, found.key), peer, key, pipe, partial(dial, *address))
            except Unreachable as failed:
                fault = failed
                paths.failed(address)
            except Refused as refused:
                fault = refused
                break
        # We may have been refused because the peer has just dialled us.
        if (standing := self._came(key.remote)) is None:
            raise fault
        return standing

    def _came(self, did: Did) -> Tunnel | None:
        """The tunnel that the peer dialled: as good as any, whatever way we should have taken.

        The peer would take no second one: who is dialled does not see by which way.
        """
        standing = self._register.find(did)
        return standing if standing is not None and not standing.peer.dialled else None

    async def _shake(
        self, remote: Remote, peer: Peer, key: TunnelKey, pipe: Pipe, connect: Callable[[], Awaitable[Pipe]]
    ) -> Tunnel:
        try:
            link = Link.dial(
                self.local,
                remote,
                entropy=secrets.token_bytes(ENTROPY_SIZE),
                now=trio.current_time(),
                wall=self._wall(),
                limits=self._limits,
            )
        except BadWire as bad:
            pipe.close()
            raise Refused(str(bad)) from bad
        with suppress(OSError):  # it broke already, as the handshake will find out
            watch_over(pipe)
        tunnel = Tunnel(link, pipe, self._shared, connect)
        tunnel.peer, tunnel.key = peer, key
        try:
            await tunnel.shake()
            self._check_open()
        except BaseException:
            tunnel.abandon()
            raise
        rival = self._register.get(key)
        if rival is not None and self._wins(rival):
            tunnel.abandon()
            return rival
        self._stands(tunnel)
        self._shared.nursery.start_soon(self._live, tunnel)
        return tunnel

    def _wins(self, rival: Tunnel) -> bool:
        """Both devices have dialled each other at once, and both tunnels were accepted: which one is used?

        Both ends have to find the same, so the smaller name's stays.  One that gives no sign of life is no rival.
        """
        if trio.current_time() - rival.last_heard > FRESH or rival.peer.dialled:
            return False
        return str(rival.key.remote) < str(rival.key.local)

    def _check_open(self) -> None:
        if self.closed:
            raise Unreachable("this end is closed", "tunnel_open")

    # Being dialled

    def accepted(self, pipe: Pipe, address: Address) -> None:
        """Somebody at ``address`` has connected: for a tunnel, or for a stream of one.  ``pipe`` is taken over."""
        source = address[0]
        place = self._doorstep.enter(source, trio.current_time(), known=source in self._sources)
        if place is None:
            pipe.close()
        else:
            self._shared.nursery.start_soon(self._receive, pipe, place)

    async def _receive(self, pipe: Pipe, place: Place) -> None:
        try:
            await self._sort(pipe, place)
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

    async def _sort(self, pipe: Pipe, place: Place) -> None:
        """By its first bytes a connection is a tunnel's or a stream's."""
        begun = trio.current_time()
        head = b""
        with trio.move_on_after(self._limits.step) as patience:
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
        elif self._doorstep.knock(place, begun):
            await self._respond(pipe, head, begun, place)
        else:
            raise BadWire("it knocks too often")

    async def _respond(self, pipe: Pipe, head: bytes, begun: float, place: Place) -> None:
        """Somebody wants a tunnel, and began to speak with ``head``."""
        link = Link.respond(
            self.local,
            self._nonces,
            entropy=secrets.token_bytes(ENTROPY_SIZE),
            now=begun,
            wall=self._wall() - (trio.current_time() - begun),
            policy=self._policy,
            limits=self._limits,
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
                await self._live(tunnel)
            else:
                log.debug("no tunnel for %s: %s", place.source, event)
        finally:
            tunnel.abandon()

    async def _admit(self, tunnel: Tunnel, link: Link, proven: Proven, source: str) -> LinkEvent:
        """Who knocks holds a key.  Is its name known, and may it come in?"""
        with trio.move_on_at(link.next_deadline() or 0):
            try:
                tunnel.peer = await self._judge(proven, source)
                tunnel.key = TunnelKey(self.local.canonical, proven.device)
            except (Refused, Unreachable) as no:
                link.turn_away(str(no))
            else:
                link.admit(trio.current_time())
        link.handle_timeout(trio.current_time())
        return await tunnel.next_event()

    async def _judge(self, proven: Proven, source: str) -> Peer:
        if proven.device == self.local.canonical:
            raise Refused("that is this device itself")
        standing = Standing(key=None)
        if not proven.anonymous:
            found = await self._house.vouch(proven)
            standing = replace(found, bound_to=self._register.holder(proven.named))
        decide(proven, standing, self._policy)
        did = proven.device if proven.anonymous else proven.named.canonical
        return Peer(did=did, device=proven.device, about=standing.about, dialled=False, source=source)

    async def _confirm(self, tunnel: Tunnel, link: Link) -> LinkEvent:
        """Who knocks is alive and no recording.  Do the rules want it, and is there room?"""
        with trio.move_on_at(link.next_deadline() or 0):
            try:
                await self._house.welcome(tunnel.peer)
                await self._arbitrate(tunnel.key)
                if self._inbound >= self._most_tunnels or self._sources[tunnel.peer.source] >= self._most_each:
                    raise Refused("no more tunnels are taken")
                if self._register.holder(tunnel.peer.did) not in (None, tunnel.peer.device):
                    raise Refused(f"{tunnel.peer.did} is another device here")
            except (Refused, Unreachable) as no:
                link.turn_away(str(no))
            else:
                link.accept_tunnel(trio.current_time())
        link.handle_timeout(trio.current_time())
        event = await tunnel.next_event()
        if isinstance(event, TunnelOpened):
            self._stands(tunnel)
        return event

    async def _arbitrate(self, key: TunnelKey) -> None:
        """Raises ``Refused`` if a tunnel to the same device stands and lives."""
        while (standing := self._register.get(key)) is not None:
            if await standing.is_alive():
                raise Refused(DUPLICATE)
            standing.lose()
            self._register.remove(key, standing)

    # Standing

    def _stands(self, tunnel: Tunnel) -> None:
        self._register.add(tunnel.key, tunnel)
        self._register.call(tunnel.peer.device, tunnel.peer.did)
        log.info("a tunnel to %s stands", tunnel.peer.did)

    async def _live(self, tunnel: Tunnel) -> None:
        """From where it stands to where it is over."""
        source = tunnel.peer.source
        if source:
            self._inbound += 1
            self._sources[source] += 1
        try:
            await tunnel.run()
        except Exception:
            log.exception("the tunnel to %s failed", tunnel.peer.did)
        finally:
            self._register.remove(tunnel.key, tunnel)
            if source:
                self._inbound -= 1
                self._sources[source] -= 1
                if not self._sources[source]:
                    del self._sources[source]
            log.info("the tunnel to %s is over: %s", tunnel.peer.did, tunnel.end.why if tunnel.end else "cancelled")

    def _retire(self, tunnel: Tunnel) -> None:
        """No more is asked of this tunnel."""
        self._register.remove(tunnel.key, tunnel)
        tunnel.close()


async def _more(pipe: Pipe, most: int) -> bytes:
    data = await receive_some(pipe, most)
    if not data:
        raise BadWire("it ended before it said what it is")
    return data
