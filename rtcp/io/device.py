"""This device as others reach it, and as it reaches others: all tunnels of one identity.

What goes out asks for a tunnel by a name.  If none stands, one is made, once for all who want it at the same time: the
name is resolved to a key and addresses, the addresses are raced, and whoever answers has to prove the key.  What comes
in is ``reception``'s; ``roll`` knows which tunnels stand.  Once one does, both ends are equal.

The house this stands in hands over what is the house's to decide, as a :class:`House`.
"""

from __future__ import annotations

import random
import secrets
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import trio

from cyfs_ns.errors import BadWire, CyfsError, Refused, Unreachable
from cyfs_ns.identity.did import Did, dev_did
from cyfs_ns.identity.keys import PublicKey
from cyfs_ns.io.merging import Merged
from rtcp.admission import Policy, Proven, Standing
from rtcp.backoff import Backoff
from rtcp.door import DoorLimits
from rtcp.events import End
from rtcp.handshake import ENTROPY_SIZE
from rtcp.io.alarms import Alarms
from rtcp.io.answers import TunnelOver
from rtcp.io.commons import Commons, Connect
from rtcp.io.dialling import Dial, race
from rtcp.io.fifth import Fifth, Version5
from rtcp.io.mux import MuxedTunnel, NotNow
from rtcp.io.pipe import DatagramPipe, Pipe, accept, log, watch_over
from rtcp.io.reception import Judges, Reception
from rtcp.io.roll import AnyTunnel, Roll
from rtcp.io.tunnel import Serve, Shared, Tunnel, refuse
from rtcp.legs import LegBook
from rtcp.limits import Limits
from rtcp.link import Link
from rtcp.party import Address, Found, Local, Peer, Remote
from rtcp.paths import Paths
from rtcp.records import Spent
from rtcp.registry import FRESH, TunnelKey
from rtcp.v5.keys import device_key
from rtcp.v5.ledger import Ledger
from rtcp.v5.memory import Opening
from rtcp.v5.payloads import Feature, Parameters

_REST = 1.0
"""Seconds for which a peer that could not be reached is not dialled again."""
_MOST_RESTING = 1024
_LONGEST = 60.0
"""Seconds for a tunnel to be made: to find the peer, and to try all its addresses."""
_ADDRESSES = 16
_LOOK = 1.0
"""Seconds after which a peer that does not answer where it was is looked up."""

_Opened = TypeVar("_Opened")


def _stay_away(fault: BaseException | None) -> float:
    """Seconds for which the peer whose doing ``fault`` is does not want to be called again."""
    while fault is not None and not isinstance(fault, NotNow):
        fault = fault.__cause__
    return 0.0 if fault is None else fault.wait


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

    ``calls_loopback``: peers that come from a loopback address are called back there, at the port they name.  Whoever
    is forwarded to us comes from there, too, and should not choose a port of this machine.
    """

    find: Callable[[Did, int | None], Awaitable[Found]]
    dial: Dial
    vouch: Callable[[Proven], Awaitable[Standing]] = nobody
    welcome: Callable[[Peer], Awaitable[None]] = anybody
    serve: Serve = refuse
    calls_loopback: bool = False


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
    door: DoorLimits | None = None,
    version_5: Version5 | None = None,
    wall: Callable[[], float] = time.time,
) -> AsyncIterator[Device]:
    """``local`` in the world, taking tunnels and streams on ``listeners`` (``pipe.listen``), which it takes over.

    Without ``version_5`` version 4 is spoken alone.  ``door``: how many may call, and how often.  On the way out all
    tunnels are closed; streams of version 4 are their owners'.
    """
    async with trio.open_nursery() as nursery:
        limits, alarms = limits or Limits(), Alarms()
        roll = Roll(local)
        legs: LegBook[Tunnel] = LegBook()
        shared = Shared(nursery=nursery, legs=legs, limits=limits, serve=house.serve)
        fifth = None
        if version_5 is not None and 5 in version_5.versions:
            commons = Commons(
                nursery=nursery,
                reactor=version_5.reactor,
                alarms=alarms,
                clock=trio.lowlevel.current_clock().current_time,
                own=device_key(local.key),
                parameters=_parameters(local),
                boot=secrets.token_bytes(8),
                serve=house.serve,
                ledger=Ledger(version_5.room),
            )
            fifth = Fifth(version_5, commons, roll, wall, limits)
            nursery.start_soon(alarms.run)
        judges = Judges(
            vouch=house.vouch,
            welcome=house.welcome,
            policy=policy or Policy(),
            calls_loopback=house.calls_loopback,
        )
        reception = Reception(
            roll, judges, shared, legs, door or DoorLimits(), wall, fifth, lambda address: house.dial(*address)
        )
        device = Device(house, roll, reception, shared, fifth, wall)
        try:
            for listener in listeners:
                nursery.start_soon(accept, listener, device.accepted)
            yield device
        finally:
            device.closed = True
            if fifth is not None:
                fifth.close()
            roll.close()
            nursery.cancel_scope.cancel()


def _parameters(local: Local) -> Parameters:
    """What this device tells others of itself."""
    callable_at = local.listen_port
    features = Feature.LEGS | Feature.DATAGRAMS | (Feature.CALLABLE if callable_at else Feature(0))
    return Parameters(features=features, port=callable_at)


class Device:
    """Made by :func:`open_device`."""

    def __init__(
        self,
        house: House,
        roll: Roll,
        reception: Reception,
        shared: Shared,
        fifth: Fifth | None,
        wall: Callable[[], float],
    ) -> None:
        self._house, self._roll, self._reception, self._shared = house, roll, reception, shared
        self._fifth, self._wall = fifth, wall
        self._register = roll.register
        self._flights: Merged[tuple[Did, str], AnyTunnel] = Merged()
        self._devices: Merged[TunnelKey, AnyTunnel] = Merged()
        self._resting: dict[tuple[Did, str], tuple[float, CyfsError]] = {}
        self._paths = Paths()
        self._roads = trio.Event()
        """Set, and replaced, when this machine's addresses or routes are others."""
        self.closed = False

    @property
    def local(self) -> Local:
        """May be replaced by another for the same key, when the device document is renewed."""
        return self._roll.local

    @local.setter
    def local(self, local: Local) -> None:
        self._roll.local = local

    def speak(self, versions: frozenset[int]) -> bool:
        """Speak ``versions`` from now on; tunnels of another end.  False: that takes another device."""
        if self._fifth is None or 5 not in versions:
            return False
        self._fifth.versions = versions
        for tunnel in self.tunnels():
            if tunnel.version not in versions:
                tunnel.close()
        return True

    # What is wanted of it

    async def open_stream(
        self,
        did: Did,
        host: str | None,
        port: int,
        *,
        via: Carrier | None = None,
        at: int | None = None,
        source: Address | None = None,
    ) -> Pipe:
        """A stream through the tunnel to ``did`` and on to ``host`` (None: that machine itself) at ``port``.

        ``via`` is how to get there, ``at`` the port to dial if no tunnel stands.  ``source``: whence what is carried
        came, which the peer is told if there is a word for it.  Raises ``Refused`` when somebody's rules say no, and
        ``Unreachable``.
        """
        return await self._through(did, via, at, lambda tunnel: tunnel.open_stream(host, port, source=source))

    async def open_datagrams(
        self,
        did: Did,
        host: str | None,
        port: int,
        *,
        via: Carrier | None = None,
        at: int | None = None,
        source: Address | None = None,
    ) -> DatagramPipe:
        """Like ``open_stream``, for datagrams to that one ``host`` and ``port``."""
        return await self._through(did, via, at, lambda tunnel: tunnel.open_datagrams(host, port, source=source))

    def open_datagrams_soon(
        self,
        then: Callable[[DatagramPipe | None], None],
        did: Did,
        host: str | None,
        port: int,
        *,
        via: Carrier | None = None,
        at: int | None = None,
        source: Address | None = None,
    ) -> None:
        """``open_datagrams`` for whoever cannot wait: ``then`` is called with them, or with None."""

        async def open_them() -> None:
            try:
                opened = await self.open_datagrams(did, host, port, via=via, at=at, source=source)
            except (Refused, Unreachable) as fault:
                log.debug("no datagrams to %s: %s", did, fault)
                then(None)
            else:
                then(opened)

        if self.closed:
            then(None)
        else:
            self._shared.nursery.start_soon(open_them)

    async def tunnel(self, did: Did, *, via: Carrier | None = None, at: int | None = None) -> AnyTunnel:
        """The tunnel to ``did``, which is made if none stands.  Raises ``Refused`` and ``Unreachable``."""
        key = did.canonical, via.name if via else ""
        standing = self._register.find(*key) or self._roll.came(did)
        if standing is not None:
            await trio.lowlevel.checkpoint_if_cancelled()  # a whole one costs as much as all of this
            return standing
        return await self._flights.run(key, lambda: self._make(did, key, via, at))

    async def keep(self, did: Did, *, via: Carrier | None = None, at: int | None = None) -> None:
        """See to it that a tunnel to ``did`` stands, until cancelled."""
        backoff = Backoff()
        while True:
            roads = self._roads  # these may change while a call is out
            try:
                tunnel = await self.tunnel(did, via=via, at=at)
            except (Unreachable, Refused) as fault:
                log.info("no tunnel to %s: %s", did, fault)
                stay_away = _stay_away(fault)
            else:
                since = trio.current_time()
                await tunnel.over.wait()
                if tunnel.end is not None and tunnel.end.end is End.SPENT:
                    continue
                backoff.stood(trio.current_time() - since)
                stay_away = tunnel.stay_away if isinstance(tunnel, MuxedTunnel) else 0.0
                roads = self._roads
            await trio.sleep(stay_away)
            with trio.move_on_after(backoff.failed(random.random())):
                await roads.wait()
                backoff.reset()

    async def forget(self, did: Did) -> int:
        """Close the tunnels to ``did`` and all that is remembered of it: somebody says that it is another device now,
        or speaks version 4 alone.  How many tunnels there were."""
        name = did.canonical
        found = [one for one in self.tunnels() if name in (one.peer.did.canonical, one.peer.device)]
        keys = {one.peer.device.key for one in found} | {name.key}
        if keys == {None}:
            with suppress(Refused, Unreachable):
                keys.add((await self._house.find(did, None)).key)
        for tunnel in found:
            self._register.remove(tunnel.key, tunnel)
            tunnel.close()
        for resting in [one for one in self._resting if one[0] == name]:
            del self._resting[resting]
        if self._fifth is not None:
            await self._fifth.forget({key for key in keys if key is not None})
        return len(found)

    def network_changed(self) -> None:
        """An address or a route of this machine is another: who is still there, and who can be reached by now?"""
        self._roads.set()
        self._roads = trio.Event()
        self._resting.clear()
        for tunnel in self.tunnels():
            if isinstance(tunnel, MuxedTunnel):
                tunnel.network_changed()

    def tunnels(self) -> list[AnyTunnel]:
        """All that stand."""
        return self._register.tunnels()

    async def _through(
        self, did: Did, via: Carrier | None, at: int | None, ask: Callable[[AnyTunnel], Awaitable[_Opened]]
    ) -> _Opened:
        tunnel = await self.tunnel(did, via=via, at=at)
        try:
            return await ask(tunnel)
        except (TunnelOver, Spent):
            self._retire(tunnel)
        tunnel = await self.tunnel(did, via=via, at=at)
        try:
            return await ask(tunnel)
        except Spent as spent:
            raise Unreachable(str(spent), "tunnel_open") from spent

    # Dialling

    async def _make(self, did: Did, key: tuple[Did, str], via: Carrier | None, at: int | None) -> AnyTunnel:
        rests = self._resting.get(key)
        if rests is not None and trio.current_time() < rests[0]:
            await trio.lowlevel.checkpoint()
            raise copy(rests[1]) from rests[1]
        self._resting.pop(key, None)
        roads = self._roads
        try:
            with trio.move_on_after(_LONGEST):
                return await self._dial(did, via, at)
            raise Unreachable(f"no way to {did} was found in {_LONGEST:g} s", "connect_timeout")
        except (Unreachable, Refused) as fault:
            if len(self._resting) >= _MOST_RESTING:
                self._resting.clear()
            if not roads.is_set():
                self._resting[key] = trio.current_time() + _REST, fault
            raise

    async def _dial(self, did: Did, via: Carrier | None, at: int | None) -> AnyTunnel:
        self._check_open()
        found = await self._house.find(did, at)
        device = dev_did(found.key)
        if device == self.local.canonical:
            raise Refused(f"{did} is this device")
        self._roll.check_name(did, device)
        key = TunnelKey(self.local.canonical, device, via.name if via else "")
        # Two names may lead to one device, which takes one tunnel.
        tunnel = await self._devices.run(key, lambda: self._reach(did, found, key, via))
        if not self._register.call(device, did):
            raise Refused(f"{did} is another device here by now")
        return tunnel

    async def _reach(self, did: Did, found: Found, key: TunnelKey, via: Carrier | None) -> AnyTunnel:
        """A tunnel to the device of ``key``, by whichever of its addresses leads to it."""
        standing = self._register.get(key) or self._roll.came(key.remote)
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
                again = partial(self._again, did, found.key, dial, address)
                return await self._greet(Remote(did, found.key), peer, key, pipe, partial(dial, *address), again)
            except Unreachable as failed:
                fault = failed
                paths.failed(address)
            except Refused as refused:
                fault = refused
                break
        # We may have been refused because the peer has just dialled us.
        device = key.remote
        standing = self._roll.came(device) if isinstance(fault, Refused) else await self._roll.returned(device)
        if standing is None:
            raise fault
        return standing

    async def _again(self, did: Did, key: PublicKey, dial: Dial, address: Address) -> Pipe:
        """One more connection to a peer that was at ``address``, and may have moved."""
        with trio.move_on_after(_LOOK), suppress(Unreachable):
            return await dial(*address)
        found = await self._house.find(did, address[1] or None)
        if found.key != key:
            raise Refused(f"{did} is another device by now")
        addresses = found.addresses[:_ADDRESSES] if address[0] else ()  # without one, the way itself leads there
        pipe, _ = await race(addresses or [address], dial, Paths())
        return pipe

    async def _greet(
        self, remote: Remote, peer: Peer, key: TunnelKey, pipe: Pipe, connect: Connect, again: Connect
    ) -> AnyTunnel:
        """A tunnel over ``pipe``, which is taken over."""
        with suppress(OSError):  # it broke already, as the handshake will find out
            watch_over(pipe)
        fifth = self._fifth
        if fifth is not None and fifth.opening(remote.key) is not Opening.PLAIN:
            made = await fifth.call(remote, peer, key, pipe, connect, again)
            if isinstance(made, MuxedTunnel):
                return made
            link, pipe = made
        else:
            try:
                link = Link.dial(
                    self.local,
                    remote,
                    entropy=secrets.token_bytes(ENTROPY_SIZE),
                    now=trio.current_time(),
                    wall=self._wall(),
                    limits=self._shared.limits,
                )
            except BadWire as bad:
                pipe.close()
                raise Refused(str(bad)) from bad
        return await self._shake(link, peer, key, pipe, connect)

    async def _shake(self, link: Link, peer: Peer, key: TunnelKey, pipe: Pipe, connect: Connect) -> AnyTunnel:
        """Version 4, to its end."""
        tunnel = Tunnel(link, pipe, self._shared, connect)
        tunnel.peer, tunnel.key = peer, key
        try:
            await tunnel.shake()
            self._check_open()
            if self._fifth is not None and 4 not in self._fifth.versions:
                raise Refused("version 4 is not spoken here any more")
        except Unreachable as failed:
            tunnel.abandon()
            if self._fifth is not None:
                raise
            raise Unreachable(
                f"{failed} (only version 4 is spoken here: does the peer, too?)", failed.reason
            ) from failed
        except BaseException:
            tunnel.abandon()
            raise
        rival = self._register.get(key)
        if rival is not None and self._wins(rival):
            tunnel.abandon()
            return rival
        self._roll.stands(tunnel)
        self._shared.nursery.start_soon(self._roll.live, tunnel)
        return tunnel

    def _wins(self, rival: AnyTunnel) -> bool:
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
        self._reception.accepted(pipe, address)

    def _retire(self, tunnel: AnyTunnel) -> None:
        """No more is asked of this tunnel."""
        self._roll.remove(tunnel)
        if isinstance(tunnel, Tunnel):
            tunnel.close()
        else:
            tunnel.retire()
