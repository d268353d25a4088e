"""Two devices that no connection joins, somebody who relays for both, and an internet of UDP that can be cut.

All is on loopback; the addresses that devices see of each other are of documentation (RFC 5737), and which of them
lets through what is for a test to say.
"""

from __future__ import annotations

import secrets
import select
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import trio

from cyfs_ns.errors import Unreachable
from cyfs_ns.identity.did import dev_did
from cyfs_ns.identity.keys import SecretKey
from rtcp.io.device import Carrier, Device, House, open_device
from rtcp.io.fifth import Version5
from rtcp.io.mux import MuxedTunnel
from rtcp.io.nat.share import Part
from rtcp.io.pipe import Pipe, listen
from rtcp.io.tunnel import StreamRequest
from rtcp.io.udp.sockets import TrainSocket
from rtcp.nat.candidates import Candidate, Filtering, Kind, Mapping, Nat, Offer
from rtcp.nat.relaywire import DATA, is_authentic, read_control, write_control
from rtcp.nat.relaywire import Kind as Said
from rtcp.party import Address, Found, Local
from tests.rtcp.pair import ALICE, BOB, MALLORY
from tests.rtcp.town import HOST, connect, echo
from tunnels.io.reactor import Reactor
from tunnels.io.relay import Relay

BOBS_DID, SN = dev_did(BOB.public), dev_did(MALLORY.public)
ALICES, BOBS, RELAYS = ("198.51.100.1", 1000), ("203.0.113.2", 2000), ("192.0.2.9", 3478)
CONE = Nat(mapping=Mapping.EIM, filtering=Filtering.APDF)
RANDOM = Nat(mapping=Mapping.APDM, filtering=Filtering.APDF)


class Internet:
    """Who has which address; ``cut`` are the addresses to and from which nothing gets through."""

    def __init__(self) -> None:
        self.real: dict[Address, Address] = {}
        self.cut: set[Address] = set()
        self.walls: set[frozenset[Address]] = set()
        """Pairs of addresses that nothing gets through between."""
        self.sent = 0
        self._sockets: dict[Address, _Seen] = {}

    def socket(self, seen: Address) -> TrainSocket:
        made = _Seen(self, seen)
        self.real[seen] = made.address
        self._sockets[seen] = made
        return made

    def move(self, before: Address, to: Address) -> None:
        """Whoever was at ``before`` is elsewhere now."""
        sock = self._sockets[to] = self._sockets.pop(before)
        self.real[to] = self.real.pop(before)
        sock.seen = to


class _Seen(TrainSocket):
    """Bound on loopback, and ``seen`` elsewhere at another address."""

    def __init__(self, internet: Internet, seen: Address) -> None:
        super().__init__(HOST, 0)
        self._internet, self.seen = internet, seen

    def _way(self, to: Address) -> Address | None:
        self._internet.sent += 1
        internet = self._internet
        if {to, self.seen} & internet.cut or frozenset((to, self.seen)) in internet.walls:
            return None
        return internet.real.get(to)

    def send(self, train: memoryview, segment: int, to: Address) -> None:
        if (real := self._way(to)) is not None:
            super().send(train, segment, real)

    def send_apart(self, datagram: bytes, to: Address, ttl: int) -> None:
        """A low TTL gets it past our NAT and no further."""

    def receive(self) -> tuple[memoryview, int, Address]:
        train, segment, source = super().receive()
        seen = next((seen for seen, real in self._internet.real.items() if real == source), source)
        return train, segment, seen


@dataclass
class Session:
    relay_id: bytes
    keys: tuple[bytes, bytes]
    addresses: tuple[str, ...]
    port: int


class UdpRelay:
    """As an SN's, for one session: who says HELLO with its key is at its end (``rtcp/nat/relaywire.py``)."""

    def __init__(self, internet: Internet, reactor: Reactor) -> None:
        self.session = Session(b"session", (b"a" * 32, b"b" * 32), (RELAYS[0],), RELAYS[1])
        self.carried = 0
        self._socket = internet.socket(RELAYS)
        self._ends: dict[int, Address] = {}
        self._reactor = reactor
        reactor.watch(self._socket.fileno(), select.EPOLLIN, self._on_events)

    def close(self) -> None:
        self._reactor.forget(self._socket.fileno())
        self._socket.close()

    def _on_events(self, events: int) -> None:
        while True:
            try:
                train, segment, source = self._socket.receive()
            except BlockingIOError:
                return
            for at in range(0, len(train), segment):
                self._take(bytes(train[at : at + segment]), source)

    def _take(self, datagram: bytes, source: Address) -> None:
        if datagram[0] == DATA:
            self.carried += 1
            other = next((end for end in self._ends.values() if end != source), None)
            if source in self._ends.values() and other is not None:
                self._say(datagram, other)
            return
        message = read_control(datagram)
        key = self.session.keys[message.side]
        assert is_authentic(datagram, key)
        if message.kind is Said.HELLO:
            answer = replace(message, kind=Said.CHALLENGE, cookie=b"c" * 16)
        else:
            self._ends[message.side] = source
            answer = replace(message, kind=Said.BOUND)
        self._say(write_control(answer, key), source)

    def _say(self, datagram: bytes, to: Address) -> None:
        self._socket.send(memoryview(datagram), len(datagram), to)


@dataclass
class Village:
    internet: Internet
    alice: Device
    bob: Device
    sn: Device
    relay: UdpRelay
    gathered: list[str] = field(default_factory=list)
    """Who looked for ways, and how often."""
    relays_streams: bool = True
    has_relay: bool = False
    names: tuple[str, ...] = ("sn",)
    """What relays streams goes by these."""
    silent: set[str] = field(default_factory=set)
    """Names by which nobody is reached any more."""
    blind: set[str] = field(default_factory=set)
    """Names by which whoever is reached need not be the relay."""
    dialled: list[str] = field(default_factory=list)
    """By which name the relay was gone to, each time."""
    addresses: list[Address] = field(default_factory=lambda: [("192.0.2.77", 2980)])
    """Where Bob is said to be."""

    @property
    def tunnel(self) -> MuxedTunnel:
        """Alice's to Bob."""
        (found,) = [each for each in self.alice.tunnels() if each.peer.device == BOBS_DID]
        assert isinstance(found, MuxedTunnel)
        return found


async def nobody_at(host: str, port: int) -> Pipe:
    raise Unreachable(f"{host} lets nobody in", "connect_refused")


@asynccontextmanager
async def village(
    *,
    alices: Nat = CONE,
    bobs: Nat = CONE,
    serve: Callable[[StreamRequest], object] = echo,
) -> AsyncIterator[Village]:
    """Bob has a tunnel to the relay; Alice knows that he may be reached through it."""
    internet = Internet()
    async with AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(trio.open_nursery())
        reactor = Reactor()
        stack.callback(reactor.close)
        await nursery.start(reactor.run)
        stack.callback(nursery.cancel_scope.cancel)
        doors = listen(0, (HOST,))
        sns = doors[0].getsockname()[1]
        relays: list[Relay] = []

        async def find(did, port) -> Found:
            if did == SN:
                return Found(MALLORY.public, [(HOST, sns)])
            return Found(BOB.public, made.addresses)

        async def dial(host: str, port: int) -> Pipe:
            return await (connect if host == HOST else nobody_at)(host, port)

        async def pass_on(request: StreamRequest) -> None:
            far = await made.sn.open_stream(BOBS_DID, "rtcp.invalid", 1)
            relays.append(Relay(reactor, await request.accept(), far, idle=600, on_close=lambda *_: None))

        async def serve_bob(request: StreamRequest) -> None:
            if request.host == "rtcp.invalid":
                made.bob.accepted(await request.accept(), (HOST, 1))
            else:
                await serve(request)

        def through_sn(who: str) -> Callable:
            async def relays(did, found):
                device = getattr(made, who)
                if did == SN or not made.relays_streams:
                    return []

                async def through(name: str, _host: str, _port: int) -> Pipe:
                    made.dialled.append(name)
                    if name in made.silent:
                        await trio.sleep_forever()
                    return await device.open_stream(SN, "bob", 1)

                return [
                    Carrier(name, partial(through, name), leads=True, is_blind=name in made.blind)
                    for name in made.names
                ]

            return relays

        def gather(who: str, nat: Nat, sock: _Seen):
            async def offer(part: Part, private: bool) -> Offer:
                made.gathered.append(who)
                seen = (Candidate(address=sock.seen[0], port=sock.seen[1], kind=Kind.OBSERVED),)
                return Offer(nonce=secrets.token_bytes(16), nat=nat, candidates=seen)

            return offer

        async def session(did):
            return made.relay.session if made.has_relay else None

        def house(who: str, nat: Nat, sock: _Seen, served) -> House:
            return House(
                find=find,
                dial=dial,
                serve=served,
                relays=through_sn(who),
                gather=gather(who, nat, sock),
                relay_session=session,
            )

        def live(key: SecretKey, house: House, sockets=(), udp=()):
            fifth = Version5(reactor=reactor, versions=frozenset({5}), udp=udp)
            return open_device(Local(key=key, did=dev_did(key.public), listen_port=0), house, sockets, version_5=fifth)

        made = Village(internet, None, None, None, UdpRelay(internet, reactor))
        stack.callback(made.relay.close)
        made.sn = await stack.enter_async_context(live(MALLORY, House(find=find, dial=dial, serve=pass_on), doors))
        for who, key, nat, place, served in (
            ("bob", BOB, bobs, BOBS, serve_bob),
            ("alice", ALICE, alices, ALICES, echo),
        ):
            sock = internet.socket(place)
            device = await stack.enter_async_context(live(key, house(who, nat, sock, served), udp=[sock]))
            setattr(made, who, device)
        await made.bob.tunnel(SN)
        yield made
