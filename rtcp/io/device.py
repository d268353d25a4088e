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
from typing import Any, Generic, Protocol, TypeVar

import trio

from cyfs_ns.errors import BadWire, CyfsError, Refused, Unreachable
from cyfs_ns.identity.did import Did, dev_did
from cyfs_ns.identity.keys import PublicKey
from cyfs_ns.io.merging import Merged
from cyfs_ns.names import is_ip
from rtcp.admission import Policy, Proven, Standing
from rtcp.backoff import Backoff
from rtcp.door import DoorLimits
from rtcp.events import End
from rtcp.handshake import ENTROPY_SIZE
from rtcp.io.alarms import Alarms
from rtcp.io.answers import TunnelOver
from rtcp.io.asking import Begun
from rtcp.io.commons import Commons, Connect
from rtcp.io.conversation import MuxedStream
from rtcp.io.dialling import Dial, Road, Roads
from rtcp.io.fifth import Fifth, Introduced, Met, Old, Version5
from rtcp.io.judging import MuxedRequest
from rtcp.io.mux import MuxedTunnel, NotNow
from rtcp.io.nat.ground import PATHS, Gather, Ground, RelaySession
from rtcp.io.nat.guest import Guest
from rtcp.io.nat.punch import OpenSocket, plain_socket
from rtcp.io.nat.share import Share
from rtcp.io.nat.ways import Ways
from rtcp.io.pipe import Answered, DatagramPipe, Denied, GiveUp, Pipe, accept, log, watch_over
from rtcp.io.reception import Judges, Reception
from rtcp.io.roll import AnyTunnel, Roll
from rtcp.io.tunnel import Serve, Shared, StreamRequest, Tunnel, refuse
from rtcp.io.udp.endpoint import UdpEndpoint
from rtcp.io.udp.sockets import TrainSocket
from rtcp.io.wayname import name_of, way_of
from rtcp.legs import LegBook
from rtcp.limits import Limits
from rtcp.link import Link
from rtcp.nat.budget import Budget
from rtcp.nat.candidates import Kind, Transport
from rtcp.nat.race import Report, Way
from rtcp.packet import Purpose
from rtcp.party import Address, Found, Local, Peer, Remote
from rtcp.paths import Paths
from rtcp.records import Spent
from rtcp.registry import FRESH, TunnelKey
from rtcp.v5.answering import KNOCK_WAIT
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
_UDP_ADDRESSES = 4
_RELAYS = 4
_LOOK = 1.0
"""Seconds after which a peer that does not answer where it was is looked up."""
_IN_TIME = KNOCK_WAIT - 1
"""Seconds in which it is told who somebody is, or what was begun meanwhile is given up: doors close on the silent."""


class _Closable(Protocol):
    def close(self) -> None: ...


_Opened = TypeVar("_Opened", bound=_Closable)


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


async def nobody_before(did: Did, port: int | None) -> Found | None:
    """Nothing is remembered of anybody."""
    return None


async def no_relays(did: Did, found: Found) -> Sequence[Carrier]:
    """Nobody relays for us."""
    return ()


async def no_session(device: Did) -> RelaySession | None:
    """Nobody relays datagrams for us."""
    return None


def expects_nobody(peer: Peer) -> bool:
    """A key and nothing else is nobody."""
    return False


def trusts_nobody(peer: Peer) -> bool:
    """Our private addresses are told to nobody."""
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """What is not ours to decide.

    ``find`` tells of somebody we want to dial; its second argument is a port that was asked for.  ``dial`` makes plain
    connections.  ``vouch`` tells what is known of the name a stranger goes by, whose key was proven; nothing about
    other tunnels is its business.  ``welcome`` holds the rules for new tunnels that others dialled, ``serve`` those for
    streams.  All of them may raise ``Refused`` or ``Unreachable``.

    ``recall`` tells what ``find`` found of somebody before, who is called by that while ``find`` asks.  Until it has
    told that this still is who it was, nothing is said but a first message, which tells neither who we are nor what we
    want.

    ``relays`` finds ways through others to somebody we want to dial, the best first, which are tried beside his own
    addresses; ``relay_session`` asks for a session of a UDP relay with a device that a tunnel stands to.  ``gather``
    finds out where this device may be reached, over a share of its UDP port; None: nobody looks for direct ways.
    ``doubt`` is told when a direct way was lost, by which that may have changed.
    ``expects``: whether a peer that is a key and nothing else is somebody to this machine all the same; those who are
    not are few at a time (``DoorLimits.anonymous``).  ``trusts``: whether a peer may know our private addresses, and
    make us probe some of its own.  ``open_socket`` makes the sockets that punch by TCP.

    ``calls_loopback``: peers that come from a loopback address are called back there, at the port they name.  Whoever
    is forwarded to us comes from there, too, and should not choose a port of this machine.
    """

    find: Callable[[Did, int | None], Awaitable[Found]]
    dial: Dial
    recall: Callable[[Did, int | None], Awaitable[Found | None]] = nobody_before
    vouch: Callable[[Proven], Awaitable[Standing]] = nobody
    welcome: Callable[[Peer], Awaitable[None]] = anybody
    serve: Serve = refuse
    relays: Callable[[Did, Found], Awaitable[Sequence[Carrier]]] = no_relays
    relay_session: Callable[[Did], Awaitable[RelaySession | None]] = no_session
    gather: Gather | None = None
    doubt: Callable[[], None] = lambda: None
    expects: Callable[[Peer], bool] = expects_nobody
    trusts: Callable[[Peer], bool] = trusts_nobody
    open_socket: OpenSocket = plain_socket
    calls_loopback: bool = False


@dataclass(frozen=True, slots=True)
class Carrier:
    """A way around, instead of plain connections: a proxy, or another tunnel.

    ``name`` makes tunnels by this way different from others.  A carrier that ``leads`` to the peer by itself needs no
    address; ``dial`` is then called with an empty one.  ``hasten``: as ``dial``, without waiting for a yes of whoever
    leads there; what it opens may lead nowhere.  ``is_blind``: that ``dial`` came to something does not tell that the
    network lets through what follows.
    """

    name: str
    dial: Dial
    leads: bool = False
    hasten: Connect | None = None
    is_blind: bool = False


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
        endpoint: UdpEndpoint | None = None

        def serve(request: StreamRequest) -> Awaitable[None]:
            if request.host == PATHS and isinstance(request, MuxedRequest):
                return device.answer(request)
            return house.serve(request)

        if version_5 is not None and 5 in version_5.versions:
            commons = Commons(
                nursery=nursery,
                reactor=version_5.reactor,
                alarms=alarms,
                clock=trio.lowlevel.current_clock().current_time,
                own=device_key(local.key),
                parameters=_parameters(local),
                boot=secrets.token_bytes(8),
                serve=serve,
                ledger=Ledger(version_5.room),
            )
            fifth = Fifth(version_5, commons, roll, wall, limits)
            nursery.start_soon(alarms.run)
            if version_5.udp:
                endpoint = UdpEndpoint(
                    version_5.udp,
                    version_5.reactor,
                    devices=[local.key.public.raw],
                    take=lambda pipe, source: device.accepted(pipe, source),
                )
        judges = Judges(
            vouch=house.vouch,
            welcome=house.welcome,
            expects=house.expects,
            policy=policy or Policy(),
            calls_loopback=house.calls_loopback,
        )
        reception = Reception(
            roll, judges, shared, legs, door or DoorLimits(), wall, fifth, lambda address: house.dial(*address)
        )
        ground = None
        if endpoint is not None:
            ground = Ground(
                nursery=nursery,
                alarms=alarms,
                endpoint=endpoint,
                share=Share(endpoint),
                budget=Budget(),
                gather=house.gather,
                doubt=house.doubt,
                relay_session=house.relay_session,
                trusts=house.trusts,
                open_socket=house.open_socket,
                dial=house.dial,
                accepted=reception.accepted,
            )
            nursery.start_soon(endpoint.run)
        device = Device(house, roll, reception, shared, fifth, wall, ground)
        try:
            for listener in listeners:
                nursery.start_soon(accept, listener, device.accepted)
            yield device
        finally:
            device.closed = True
            if fifth is not None:
                fifth.close()
            roll.close()
            if endpoint is not None:
                endpoint.close()
            nursery.cancel_scope.cancel()


def _road(address: Address, connect: Connect, transport: Transport = Transport.TCP) -> Road:
    kind = Kind.IPV6 if ":" in address[0] else Kind.HOST
    return Road(Way(name_of(transport, address), kind, transport), connect, address)


def _roads_via(via: Carrier, found: Found) -> Roads:
    """The peer's addresses by the way that was asked for, or that way alone if it leads there by itself."""
    addresses = [("", 0)] if via.leads else list(dict.fromkeys(found.addresses))[:_ADDRESSES]
    return Roads(_road(address, partial(via.dial, *address)) for address in addresses)


def _parameters(local: Local) -> Parameters:
    """What this device tells others of itself."""
    callable_at = local.listen_port
    features = Feature.LEGS | Feature.DATAGRAMS | (Feature.CALLABLE if callable_at else Feature(0))
    return Parameters(features=features, port=callable_at)


def _name(did: Did, via: Carrier | None) -> tuple[Did, str]:
    """What tunnels are asked for by."""
    return did.canonical, via.name if via else ""


class _Wish(Generic[_Opened]):
    """What somebody would like of a tunnel that is being made."""

    def __init__(self, ask: Callable[[AnyTunnel], Awaitable[_Opened]]) -> None:
        self._ask = ask
        self._begun = trio.Event()
        self.tunnel: MuxedTunnel | None = None
        self.over = trio.Event()
        """Set when it came true, or came to nothing: ``fault`` is the peer's no; without one it may be asked again."""
        self.opened: _Opened | None = None
        self.fault: CyfsError | None = None

    def begin(self, tunnel: MuxedTunnel) -> None:
        """Ask ``tunnel``, whose verdict is to come."""
        if self.tunnel is None:
            self.tunnel = tunnel
            self._begun.set()

    async def run(self) -> None:
        await self._begun.wait()
        assert self.tunnel is not None
        try:
            self.opened = await self._ask(self.tunnel)
        except (Refused, Unreachable) as fault:
            if self.tunnel.stands and not isinstance(fault, TunnelOver):
                self.fault = fault
        self.over.set()

    def close(self) -> None:
        """It is not wanted any more."""
        if self.opened is not None:
            self.opened.close()
            self.opened = None


class _Haste:
    """A stream that is used as soon as a tunnel can carry it, whatever its peer says to it later."""

    def __init__(self, begin: Callable[[MuxedTunnel], Begun[MuxedStream]], on_no: Denied | None) -> None:
        self._begin, self._on_no = begin, on_no
        self.over = trio.Event()
        """Set when it is there, or there is nothing to wait for: the tunnel stands, or ``fault`` says why not."""
        self.opened: MuxedStream | None = None
        self.fault: Exception | None = None

    def begin(self, tunnel: MuxedTunnel) -> None:
        """``tunnel`` leads to a proven peer."""
        if self.over.is_set():
            return
        with suppress(Unreachable):  # else it is asked for when the tunnel stands
            begun = self._begin(tunnel)
            begun.is_used(self._on_no)
            self.opened = begun.pipe
            self.over.set()

    def fail(self, fault: Exception) -> None:
        """No tunnel came of it."""
        if not self.over.is_set():
            self.fault = fault
        elif isinstance(fault, CyfsError):
            log.info("what was asked for early came to nothing: %s", fault)
        else:
            log.error("a tunnel failed in a way nobody foresaw", exc_info=fault)

    def close(self) -> None:
        """It is not wanted any more."""
        if self.opened is not None:
            self.opened.close()
            self.opened = None


class _Asked:
    """Who somebody is, which ``find`` finds out."""

    def __init__(self, did: Did, find: Callable[[], Awaitable[Found]]) -> None:
        self._did, self._find = did, find
        self._over = trio.Event()
        self._said: Found | CyfsError | None = None

    async def run(self) -> None:
        self._said = await self._ask()
        self._over.set()

    async def run_beside(self, call: trio.CancelScope, key: PublicKey) -> None:
        """As ``run``, beside a ``call`` of whoever has ``key``, which is cancelled when that is another by now, or must
        not be called; or when it took so long that doors may have closed on us, and that no new place could be tried.
        """
        since = trio.current_time()
        said = self._said = await self._ask()
        if not isinstance(said, Found) or said.key != key or trio.current_time() - since > _IN_TIME:
            call.cancel()  # before it can hear of it: others may wait for the same tunnel, whom this does not concern
        self._over.set()

    async def _ask(self) -> Found | CyfsError:
        try:
            return await self._find()
        except CyfsError as fault:
            return fault

    @property
    def is_over(self) -> bool:
        return self._over.is_set()

    async def found(self) -> Found:
        """Raises what ``find`` did."""
        await self._over.wait()
        assert self._said is not None
        if isinstance(self._said, CyfsError):
            raise self._said
        return self._said

    async def still(self, key: PublicKey) -> Found:
        """As ``found``.  Raises ``Refused`` as well, when it is not who has ``key``."""
        found = await self.found()
        if found.key != key:
            raise Refused(f"{self._did} is another device by now")
        return found


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
        ground: Ground | None,
    ) -> None:
        self._house, self._roll, self._reception, self._shared = house, roll, reception, shared
        self._fifth, self._wall, self._ground = fifth, wall, ground
        self._register = roll.register
        self._flights: Merged[tuple[Did, str], AnyTunnel] = Merged()
        self._devices: Merged[TunnelKey, AnyTunnel] = Merged()
        self._resting: dict[tuple[Did, str], tuple[float, CyfsError]] = {}
        self._wishes: dict[tuple[Did, str], set[_Wish[Any] | _Haste]] = {}
        """By the name that is dialled, and the way."""
        self._called: dict[TunnelKey, set[tuple[Did, str]]] = {}
        """By which names a device is being called."""
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

    async def hasten_stream(
        self,
        did: Did,
        host: str | None,
        port: int,
        on_no: Denied | None = None,
        *,
        via: Carrier | None = None,
        at: int | None = None,
        source: Address | None = None,
    ) -> Pipe:
        """As ``open_stream``, for a program that talks already and waits for no yes.

        If a tunnel has to be made it is enough that the peer has proven itself (§3.5 of docs/rtcp-v5.md): what is said
        goes out behind the request, and a no, which ``on_no`` hears, breaks the stream.  Who was not reached the last
        time is waited for all the same, so that whoever tries again hears why.
        """
        key = _name(did, via)
        if not self.closed and self._stands(did, via) is None and key not in self._resting:
            haste = _Haste(lambda tunnel: tunnel.begin_stream(host, port, source=source), on_no)
            opened = await self._ask_in_haste(haste, key, partial(self.tunnel, did, via=via, at=at))
            if opened is not None:
                return opened
        return await self.open_stream(did, host, port, via=via, at=at, source=source)

    def ask_stream(
        self,
        did: Did,
        host: str | None,
        port: int,
        then: Answered,
        *,
        via: Carrier | None = None,
        source: Address | None = None,
    ) -> GiveUp | None:
        """``open_stream`` for whoever is no task: what became of it ``then`` hears, and what comes back gives it up.

        None: it takes a task, since there is something to wait for; ``then`` hears nothing.
        """
        tunnel = self._stands(did, via)
        return tunnel.ask_stream(host, port, then, source=source) if isinstance(tunnel, MuxedTunnel) else None

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

    def standing(self, device: Did) -> AnyTunnel | None:
        """A tunnel to ``device``, which is a key, that stands by whatever way."""
        return self._register.by_any_way(device)

    async def tunnel(self, did: Did, *, via: Carrier | None = None, at: int | None = None) -> AnyTunnel:
        """The tunnel to ``did``, which is made if none stands.  Raises ``Refused`` and ``Unreachable``."""
        standing = self._stands(did, via)
        if standing is not None:
            await trio.lowlevel.checkpoint_if_cancelled()  # a whole one costs as much as all of this
            return standing
        key = _name(did, via)
        return await self._flights.run(key, lambda: self._make(did, key, via, at))

    def _stands(self, did: Did, via: Carrier | None) -> AnyTunnel | None:
        return self._register.find(did, via.name if via else "") or self._roll.came(did)

    async def keep(
        self,
        did: Did,
        *,
        via: Carrier | None = None,
        at: int | None = None,
        tell: Callable[[AnyTunnel | CyfsError], None] | None = None,
    ) -> None:
        """See to it that a tunnel to ``did`` stands, until cancelled.  ``tell`` hears of each, or why there is none."""
        backoff = Backoff()
        while True:
            roads = self._roads  # these may change while a call is out
            try:
                tunnel = await self.tunnel(did, via=via, at=at)
            except (Unreachable, Refused) as fault:
                log.info("no tunnel to %s: %s", did, fault)
                stay_away = _stay_away(fault)
                if tell is not None:
                    tell(fault)
            else:
                since = trio.current_time()
                if tell is not None:
                    tell(tunnel)
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
        if self._ground is not None:
            self._ground.endpoint.network_changed()
            self._ground.budget.network_changed()
        for tunnel in self.tunnels():
            if isinstance(tunnel, MuxedTunnel):
                tunnel.network_changed()

    def rebind(self, sockets: Sequence[TrainSocket]) -> None:
        """Have the UDP port on ``sockets``, which are taken over, from now on; its tunnels come along."""
        if self._ground is not None:
            self._ground.endpoint.rebind(sockets)
            self.network_changed()
            return
        for sock in sockets:
            sock.close()

    def explain(self, did: Did) -> Report | None:
        """Which way the tunnel to ``did`` goes, which others are known, and why it is this one; None: none stands."""
        tunnel = self._register.find(did)
        if tunnel is None:
            return None
        if isinstance(tunnel, MuxedTunnel) and tunnel.ways is not None:
            return tunnel.ways.explain()
        why = "it is the way that was asked for" if tunnel.key.bootstrap else "it is the only one that is known"
        pipe = tunnel.pipe if isinstance(tunnel, MuxedTunnel) else None
        return Report(current=None if pipe is None else way_of(pipe), why=why, ways=())

    def tunnels(self) -> list[AnyTunnel]:
        """All that stand."""
        return self._register.tunnels()

    async def _through(
        self, did: Did, via: Carrier | None, at: int | None, ask: Callable[[AnyTunnel], Awaitable[_Opened]]
    ) -> _Opened:
        key = _name(did, via)
        if self._stands(did, via) is None and (opened := await self._ask_early(did, key, via, at, ask)) is not None:
            return opened
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

    async def _ask_early(
        self,
        did: Did,
        key: tuple[Did, str],
        via: Carrier | None,
        at: int | None,
        ask: Callable[[AnyTunnel], Awaitable[_Opened]],
    ) -> _Opened | None:
        """Make a tunnel, and ask it behind the last message of its handshake.  None: it stands, and is to be asked."""
        wish = _Wish(ask)
        self._wishes.setdefault(key, set()).add(wish)
        fault: CyfsError | None = None
        is_asked = False
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wish.run)
                try:
                    is_asked = await self.tunnel(did, via=via, at=at) is wish.tunnel
                    if is_asked:
                        await wish.over.wait()
                except CyfsError as failed:
                    fault = failed
                nursery.cancel_scope.cancel()
        except BaseException:
            wish.close()
            raise
        finally:
            self._forget_wish(key, wish)
        if is_asked:
            fault = wish.fault
        else:
            wish.close()  # what was asked, if anything, is not the tunnel that there is now
        if fault is not None:
            raise fault
        return wish.opened

    async def _ask_in_haste(
        self, haste: _Haste, key: tuple[Did, str], make: Callable[[], Awaitable[AnyTunnel]]
    ) -> MuxedStream | None:
        """Make a tunnel, which goes on when the peer has proven itself, and with it whoever asked.  None: it stands."""
        scope = trio.CancelScope()

        async def make_it() -> None:
            try:
                with scope:
                    await make()
            except Exception as fault:
                haste.fail(fault)
            finally:
                haste.over.set()
                self._forget_wish(key, haste)

        self._wishes.setdefault(key, set()).add(haste)
        self._shared.nursery.start_soon(make_it)
        try:
            await haste.over.wait()
        except BaseException:
            scope.cancel()
            haste.close()
            raise
        if haste.fault is not None:
            raise haste.fault
        return haste.opened

    def _forget_wish(self, key: tuple[Did, str], wish: _Wish[Any] | _Haste) -> None:
        self._wishes[key].discard(wish)
        if not self._wishes[key]:
            del self._wishes[key]

    def _introduced(self, ways: Introduced | None, tunnel: MuxedTunnel, pipe: Pipe) -> None:
        """All but the peer's verdict is there: whoever waits for it may ask, and ``ways`` after them."""
        for name in self._called.get(tunnel.key, ()):
            for wish in self._wishes.get(name, ()):
                wish.begin(tunnel)
        if ways is not None:
            ways(tunnel, pipe)

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
        asked = _Asked(did, partial(self._house.find, did, at))
        before = None if via else await self._house.recall(did, at)
        # Whom others call already they know, and what waits for it is asked as soon as it has proven itself.
        if before is None or self._key(before, via) in self._called:
            await asked.run()
            return await self._call(did, await asked.found(), asked, via)
        fault: CyfsError | None = None
        async with trio.open_nursery() as nursery:
            call = trio.CancelScope()
            nursery.start_soon(asked.run_beside, call, before.key)
            with call:
                try:
                    return await self._call(did, before, asked, via)
                except CyfsError as failed:
                    fault = failed
        found = await asked.found()
        if fault is not None and not call.cancel_called:
            raise fault  # wherever it is by now was tried as well
        return await self._call(did, found, asked, via)

    def _key(self, found: Found, via: Carrier | None) -> TunnelKey:
        return TunnelKey(self.local.canonical, dev_did(found.key), via.name if via else "")

    async def _call(self, did: Did, found: Found, asked: _Asked, via: Carrier | None) -> AnyTunnel:
        """A tunnel to whom was ``found``, which has to be what is ``asked``."""
        key = self._key(found, via)
        device = key.remote
        if device == self.local.canonical:
            raise Refused(f"{did} is this device")
        self._roll.check_name(did, device)
        # Two names may lead to one device, which takes one tunnel.
        names = self._called.setdefault(key, set())
        names.add(_name(did, via))
        try:
            tunnel = await self._devices.run(key, lambda: self._reach(did, found, asked, key, via))
        finally:
            names.discard(_name(did, via))
            if not names:
                self._called.pop(key, None)
        await asked.still(found.key)
        if not self._register.call(device, did):
            raise Refused(f"{did} is another device here by now")
        return tunnel

    async def _reach(self, did: Did, found: Found, asked: _Asked, key: TunnelKey, via: Carrier | None) -> AnyTunnel:
        """A tunnel to the device of ``key``, by whichever of its addresses leads to it."""
        standing = self._register.get(key) or self._roll.came(key.remote)
        if standing is not None:
            return standing
        paths = Paths() if via else self._paths
        roads = _roads_via(via, found) if via else self._roads_to(did, found, asked)
        remote = Remote(did, found.key)
        fault: CyfsError = Unreachable(f"no address of {did} is known", "pre_connect_dns")
        answered: CyfsError | None = None  # says more than whoever did not answer after that
        while not roads.is_empty:
            try:
                met, road = await roads.meet(paths, partial(self._meet, remote, asked))
            except (Unreachable, Refused) as failed:
                fault = failed if answered is None else answered
                break
            try:
                found = await asked.still(found.key)
                await roads.find_late()  # a relay may have won before these could join
            except BaseException:
                met.close()
                raise
            roads.drop(road)
            peer = Peer(did=did.canonical, device=key.remote, about=found.about, dialled=True)
            again: Connect = partial(self._again, did, found.key, via, road)
            begin: Introduced | None = None
            if (ways := None if via else self._ways(did, found)) is not None:
                again, begin = ways.connect, partial(ways.begin, road=road, others=roads)
            introduced = partial(self._introduced, begin)
            try:
                made = await self._greet(met, remote, peer, key, road.connect, again, introduced)
            except Unreachable as failed:
                fault = answered = failed
                if road.address is not None:
                    paths.failed(road.address)
            except Refused as refused:
                fault = refused
                break
            else:
                return made
        # We may have been refused because the peer has just dialled us.
        device = key.remote
        standing = self._roll.came(device) if isinstance(fault, Refused) else await self._roll.returned(device)
        if standing is None:
            raise fault
        return standing

    def _roads_to(self, did: Did, found: Found, asked: _Asked | None = None) -> Roads:
        """All that may lead to a peer, unless a way is asked for; what is ``asked`` finds more."""
        addresses = self._paths.arrange(found.addresses)[:_ADDRESSES]
        first = [_road(address, partial(self._house.dial, *address)) for address in addresses]
        udp = []
        if self._ground is not None and self._fifth is not None and self._speaks_5(found.key):
            connect = self._ground.endpoint.connect
            udp = [
                _road(address, partial(connect, address, found.key.raw), Transport.UDP)
                for address in [each for each in addresses if is_ip(each[0])][:_UDP_ADDRESSES]
            ]
        late = None if asked is None or asked.is_over else partial(self._late, did, asked, found.key)
        return Roads(first, udp, partial(self._relays, did, found), late)

    async def _late(self, did: Did, asked: _Asked, key: PublicKey) -> Roads:
        return self._roads_to(did, await asked.still(key))

    def _speaks_5(self, key: PublicKey) -> bool:
        return self._fifth is not None and self._fifth.opening(key) is not Opening.PLAIN

    async def _relays(self, did: Did, found: Found) -> list[Road]:
        relays = await self._house.relays(did, found)
        if relays and self._ground is not None:
            self._ground.expect()
        return [
            Road(
                Way(relay.name, Kind.RELAY, Transport.TCP),
                partial(relay.dial, "", 0),
                hasten=relay.hasten,
                is_blind=relay.is_blind,
            )
            for relay in relays[:_RELAYS]
            if relay.leads
        ]

    def _ways(self, did: Did, found: Found) -> Ways | None:
        """What looks after a tunnel to ``did``, if there may be several ways."""
        if self._fifth is None:
            return None

        async def look() -> Roads:
            again = await self._house.find(did, found.addresses[0][1] if found.addresses else None)
            if again.key != found.key:
                raise Refused(f"{did} is another device by now")
            return self._roads_to(did, again)

        return Ways(found.key.raw, look, self._fifth.commons, self._ground)

    async def _again(self, did: Did, key: PublicKey, via: Carrier | None, road: Road) -> Pipe:
        """One more connection to a peer that was found by ``road``, and may have moved."""
        with trio.move_on_after(_LOOK), suppress(Unreachable):
            return await road.connect()
        found = await self._house.find(did, road.address[1] if road.address else None)
        if found.key != key:
            raise Refused(f"{did} is another device by now")
        roads = self._roads_to(did, found) if via is None else _roads_via(via, found)
        pipe, _ = await (Roads([road]) if roads.is_empty else roads).race(Paths())
        return pipe

    async def _meet(self, remote: Remote, asked: _Asked, pipe: Pipe, road: Road) -> Met | Old:
        """Whether the peer is at the other end of ``pipe``, which is taken over.  Who we are is said to nobody who may
        be another than what is ``asked``."""

        async def connect() -> Pipe:
            await asked.still(remote.key)
            return await road.connect()

        with suppress(OSError):  # it broke already, as the handshake will find out
            watch_over(pipe)
        fifth = self._fifth
        opening = Opening.PLAIN if fifth is None else fifth.opening(remote.key)
        if opening in (Opening.PLAIN, Opening.MARKED):
            try:
                await asked.still(remote.key)
            except BaseException:
                pipe.close()
                raise
        if fifth is not None and opening is not Opening.PLAIN:
            return await fifth.meet(remote, pipe, connect)
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
        return Old(link, pipe)

    async def _greet(
        self,
        met: Met | Old,
        remote: Remote,
        peer: Peer,
        key: TunnelKey,
        connect: Connect,
        again: Connect,
        introduced: Introduced,
    ) -> AnyTunnel:
        """A tunnel over what was ``met``, which is taken over."""
        if isinstance(met, Met):
            assert self._fifth is not None
            return await self._fifth.introduce(met, remote, peer, key, again, introduced)
        return await self._shake(met.link, peer, key, met.pipe, connect)

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

    async def answer(self, request: MuxedRequest) -> None:
        """A peer would like to look for a better way with us.  Raises ``Refused``."""
        tunnel = self._roll.with_id(request.tunnel)
        if self._ground is None or tunnel is None or request.purpose is not Purpose.STREAM:
            raise Refused("no other ways are looked for here")
        if tunnel.ways is None:
            if tunnel.peer.dialled:
                raise Refused("this way was asked for")
            tunnel.ways = Guest(self._ground, tunnel)
        await tunnel.ways.answer(await request.accept())

    def accepted(self, pipe: Pipe, address: Address) -> None:
        """Somebody at ``address`` has connected: for a tunnel, or for a stream of one.  ``pipe`` is taken over."""
        if self._ground is not None and way_of(pipe).relayed:
            self._ground.expect()  # with its first word it asks where we are
        self._reception.accepted(pipe, address)

    def _retire(self, tunnel: AnyTunnel) -> None:
        """No more is asked of this tunnel."""
        self._roll.remove(tunnel)
        if isinstance(tunnel, Tunnel):
            tunnel.close()
        else:
            tunnel.retire()
