"""What an SN answers on a stream to ``sn.invalid`` (:mod:`cyfs_gateway.sn.talk`): reads a line, does it, says what came
of it.

Who asks has proven a key by the tunnel.  Strangers may hand in signed requests and ask how they are seen; all else is
for members.  Held are at most so many streams, of one device, of strangers (:mod:`cyfs_gateway.sn.crowd`) and of all,
each for as long as it has something to say; whoever asks more often than anybody needs to, waits.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Final

import trio

from cyfs_gateway.flow import Identity
from cyfs_gateway.io.sn.books import Books, Outside
from cyfs_gateway.io.sn.dnszone import ZoneKeeper
from cyfs_gateway.io.sn.ingress import Ingress
from cyfs_gateway.io.sn.leading import Leading, Led
from cyfs_gateway.io.sn.sessions import Sessions
from cyfs_gateway.sn.accounts import Device
from cyfs_gateway.sn.admission import Code
from cyfs_gateway.sn.crowd import Crowd
from cyfs_gateway.sn.guests import Budgets, Guests, device_of, network_of
from cyfs_gateway.sn.ingress import machine_of
from cyfs_gateway.sn.ingressleases import Lease as PortLease
from cyfs_gateway.sn.registry import NameEntry
from cyfs_gateway.sn.talk import (
    DRAINING,
    MALFORMED,
    MOST_LINE,
    REFUSED,
    UNREACHABLE,
    Ask,
    Connect,
    Connected,
    Here,
    Lease,
    Leased,
    Lines,
    No,
    Place,
    RelaySession,
    RelayWith,
    Reply,
    Submit,
    Submitted,
    Unlease,
    Unleased,
    Update,
    Updated,
    Where,
    read_ask,
    write_reply,
)
from cyfs_ns.errors import BadWire, Misuse, Refused, Unreachable
from cyfs_ns.identity.did import Did
from rtcp.io.pipe import hear_out, receive_some, send_all
from tunnels.endpoint import Endpoint
from tunnels.io.waiting import within

_MOST: Final = 4096
_MOST_OF_ONE: Final = 16
_MOST_OF_STRANGERS: Final = _MOST // 4
"""Keys cost nothing, so strangers must not be able to have all places."""
_SILENCE: Final = 120.0
"""Seconds for the next question to come."""
_PATIENCE: Final = 30.0
"""Seconds for an answer to be found, and again for it to be taken."""
_PARTING: Final = 2.0
"""Seconds for the last answer to be read, while what is still said is thrown away."""
_NOWHERE: Final = bytes(4)
"""The address of whoever comes by a way that tells none; they all are one neighbourhood."""

_log = logging.getLogger("cyfs.sn")


@dataclass(frozen=True, slots=True)
class Myself:
    """The SN as it tells of itself; see :class:`cyfs_gateway.sn.talk.Here`."""

    domain: str
    did: Did
    addresses: tuple[str, ...]
    udp: int
    own: frozenset[str] = frozenset()
    """Labels below the domain that its own machines have, whoever has registered them before."""


class Desk:
    """``ingress`` is None where there is none."""

    def __init__(
        self,
        myself: Myself,
        books: Books,
        keeper: ZoneKeeper,
        guests: Guests,
        sessions: Sessions,
        leading: Leading,
        ingress: Ingress | None,
        outside: Outside,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._myself, self._books, self._keeper, self._guests = myself, books, keeper, guests
        self._sessions, self._leading, self._ingress, self._outside = sessions, leading, ingress, outside
        self._wall = wall
        self._budgets = Budgets()
        self._talks: Counter[Did] = Counter()
        self._strangers: Crowd[trio.CancelScope] = Crowd(_MOST_OF_STRANGERS)
        """Of these streams, those of who was no member when they began."""
        self.draining = False
        """Nothing new is begun."""
        self.answers: Counter[str] = Counter()
        """What was answered: ``ok``, or the code of a no."""

    def __len__(self) -> int:
        """Streams on which somebody is talked with."""
        return self._talks.total()

    def find(self, host: str) -> NameEntry | None:
        """Whose the canonical ``host`` is: below a name of somebody, or a domain that is proven theirs."""
        below = f".{self._myself.domain}"
        if host.endswith(below):
            label = host.removesuffix(below).rpartition(".")[2]
            return None if label in self._myself.own else self._books.registry.find_name(label)
        return self._books.registry.find_domain(host)

    async def serve(self, identity: Identity, pipe: Endpoint) -> None:
        """A whole stream (``cyfs_gateway.host.Offer``)."""
        device = device_of(identity)
        if device is None:
            raise Refused("whoever this is has proven no key")
        if self._talks[device] >= _MOST_OF_ONE or len(self) >= _MOST:
            raise Refused("too many streams to the SN at a time")
        scope = trio.CancelScope()
        if not self._guests.is_member(device):
            self._take_in(scope, network_of(identity.source))
        self._talks[device] += 1
        led = None
        try:
            with scope:
                led = await self._talk(device, identity.source, pipe, scope)
        finally:
            self._strangers.leave(scope)
            self._talks[device] -= 1
            if not self._talks[device]:
                del self._talks[device]
        if scope.cancelled_caught:
            raise Refused("nothing was said for a while, and there is no room for that")
        if led is not None:
            await self._leading.carry(pipe, led)

    def _take_in(self, stranger: trio.CancelScope, network: str) -> None:
        """Raises ``Refused`` where there is no room, nor anybody silent who has to make some."""
        now = trio.current_time()
        if self._strangers.is_full(network):
            silent = self._strangers.silent(network, now)
            if silent is None:
                raise Refused("too many strangers, or too many from one network, talk to the SN at a time")
            self._strangers.leave(silent)
            silent.cancel()
        self._strangers.enter(stranger, network, now)

    def _hear(self, device: Did, scope: trio.CancelScope) -> None:
        self._guests.hear(device)
        self._strangers.hear(scope, trio.current_time())

    async def _talk(self, device: Did, source: str, pipe: Endpoint, scope: trio.CancelScope) -> Led | None:
        """Answer until the stream ends, or belongs to another device: then that one's."""
        lines = Lines()
        ask: Ask | None = Where()
        while not isinstance(ask, Connect | None) and (line := await self._next(lines, pipe)) is not None:
            await trio.sleep(self._budgets.spend(device, trio.current_time()))
            self._hear(device, scope)
            reply: Reply
            led: Led | None = None
            try:
                ask = read_ask(line)
            except BadWire as bad:
                ask, reply = None, No(MALFORMED, str(bad))
            else:
                reply, led = await self._consider(device, source, ask, pipe, lines)
            self._hear(device, scope)
            self.answers[reply.code if isinstance(reply, No) else "ok"] += 1
            with ExitStack() as unless_it_is_theirs:
                if led is not None:
                    unless_it_is_theirs.callback(led.close)
                with within(_PATIENCE, "taking an answer"):
                    await send_all(pipe, write_reply(reply))
                unless_it_is_theirs.pop_all()
            if led is not None:
                return led
        with trio.move_on_after(_PARTING):
            await hear_out(pipe)
        return None

    @staticmethod
    async def _next(lines: Lines, pipe: Endpoint) -> bytes | None:
        """The next line; None: none comes."""
        with trio.move_on_after(_SILENCE):
            while (line := lines.next_line()) is None:
                data = await receive_some(pipe, MOST_LINE)
                if not data:
                    return None
                lines.receive_data(data)
            return line
        return None

    async def _consider(
        self, device: Did, source: str, ask: Ask, pipe: Endpoint, lines: Lines
    ) -> tuple[Reply, Led | None]:
        with trio.move_on_after(_PATIENCE):
            try:
                if isinstance(ask, Connect):
                    return Connected(), await self._connect(device, source, ask.device, pipe, lines.rest())
                return await self._answer(device, source, ask), None
            except BadWire as bad:
                return No(MALFORMED, str(bad)), None
            except _Not as no:
                return no.reply, None
            except Refused as no:
                return No(REFUSED, str(no)), None
            except Unreachable as fault:
                return No(UNREACHABLE, str(fault)), None
        return No(Code.SLOW, "there was no answer in time"), None

    async def _answer(self, device: Did, source: str, ask: Ask) -> Reply:
        match ask:
            case Submit(request):
                return await self._submit(request, source)
            case Update(update):
                return await self._update(device, update)
            case Where():
                return self._where(device, source)
            case RelayWith(peer):
                return self._relay(device, peer)
            case Lease(place, proves):
                return self._lease(device, place, proves)
            case Unlease(place):
                return self._unlease(device, place)
            case Connect():
                raise Misuse("that is no answer alone")

    # What strangers may ask, too

    async def _submit(self, request: str, source: str) -> Reply:
        self._check_open()
        verdict = await self._books.hear(request, ip_address(source).packed if source else _NOWHERE, self._outside)
        return Submitted(verdict.why, verdict.told) if verdict.ok else No(verdict.code, verdict.why)

    def _where(self, device: Did, source: str) -> Here:
        found = self._books.registry.device(device) if self._guests.is_member(device) else None
        names = [] if found is None else self._books.registry.names_of(found.owner)
        return Here(
            domain=self._myself.domain,
            did=self._myself.did,
            seen=source,
            addresses=self._myself.addresses,
            udp=self._myself.udp,
            knows=found is not None,
            names=tuple(name.name for name in names if name.released is None),
            leases=tuple(self._leases(device)),
        )

    # What members may

    async def _update(self, device: Did, update: str) -> Reply:
        self._member(device)
        try:
            verdict = await self._keeper.update(update)
        except OSError as fault:
            _log.error("%s", fault)
            return No(Code.UNWRITTEN, "the zone cannot be written down; say it again later")
        return Updated(verdict.why, verdict.seq) if verdict.accepted else No(REFUSED, verdict.why, verdict.seq)

    def _relay(self, device: Did, peer: Did) -> Reply:
        self._check_open()
        asker, asked = self._member(device), self._member(peer)
        allocation, seconds = self._sessions.open(asker.owner)
        _log.debug("a session of the relay for %s and %s", asker.did, asked.did)
        return RelaySession(
            relay_id=allocation.relay_id,
            keys=allocation.keys,
            addresses=self._myself.addresses,
            port=self._myself.udp,
            seconds=seconds,
        )

    async def _connect(self, device: Did, source: str, to: Did, pipe: Endpoint, early: bytes) -> Led:
        self._check_open()
        if to == device:
            raise Refused("that is yourself")
        asker, asked = self._member(device), self._member(to)
        known_as = self._host_of(asker)
        return await self._leading.open(asker, asked, (source, 0) if source else None, pipe, early, known_as=known_as)

    def _host_of(self, member: Device) -> str:
        """By what name it goes most likely: below a domain of its owner's, else below their first name here."""
        names = [one.name for one in self._books.registry.names_of(member.owner) if one.released is None]
        names.sort(key=lambda name: "." not in name)
        if not names:
            return ""
        return f"{member.name}.{names[0]}" if "." in names[0] else f"{member.name}.{names[0]}.{self._myself.domain}"

    def _lease(self, device: Did, place: Place, proves: bool) -> Reply:
        self._check_open()
        member = self._member(device)
        if self._ingress is None:
            raise Refused("this SN receives no visitors")
        if not place.port and not place.name:
            return No(MALFORMED, "port 0, any that is free, needs the service that it leads to")
        if place.kind == "name":
            entry = self.find(place.name)
            if entry is None or entry.owner != member.owner:
                return No(Code.UNKNOWN, f"{place.name} is nothing of yours")
            machine = machine_of(entry, place.name, self._myself.domain, self._wall())
            if machine is None or machine.device.did != device:
                return No(Code.TAKEN, f"visitors of {place.name} are led to another machine of yours")
            return Leased(place)
        held = self._ingress.lease(member.owner, device, place.kind, place.service, port=place.port, proves=proves)
        return self._leased(held, place)

    def _unlease(self, device: Did, place: Place) -> Reply:
        if place.kind != "name" and self._ingress is not None:
            self._ingress.unlease(device, place.kind, place.port)
        return Unleased()

    def _leases(self, device: Did) -> Iterable[Leased]:
        for held in () if self._ingress is None else self._ingress.leases(device):
            place = Place(held.network, held.port)
            yield self._leased(held, place if place.service == held.service else replace(place, name=held.service))

    def _leased(self, held: PortLease, place: Place) -> Leased:
        return Leased(replace(place, port=held.port), max(0, int(held.until - self._wall())))

    def _member(self, device: Did) -> Device:
        """Raises ``_Not``."""
        found = self._books.registry.device(device)
        if found is None or not self._guests.is_member(device):
            raise _Not(Code.UNKNOWN, f"{device} is no machine of anybody here")
        return found

    def _check_open(self) -> None:
        if self.draining:
            raise _Not(DRAINING, "this SN is about to end; use another one")


class _Not(Exception):
    """No, in so many words."""

    def __init__(self, code: str, why: str) -> None:
        super().__init__(why)
        self.reply = No(code, why)
