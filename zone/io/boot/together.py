"""The world of a machine in a zone of several: the others through tunnels, and the zone's state where it is carried.

    gateway   tunnels from the machines that the newest document names are let in, and from no others of their names
    reach     conversations with the OODs (``telling.py``)
    store     a file on the only OOD, etcd on each of several, calls to an OOD on all others

etcd's member (``zone/io/etcd/house.py``) begins with the first opening of the store that needs it, and goes on beside
it: it follows the newest document, in force or not, so that the members have changed before that is in force
(``zone/boot/moving.py``).  Where a file was the store, it becomes the first contents of etcd (``carrying.py``); from
etcd to a file there is no way back, and an OOD that is left alone goes on as the only member.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import trio

from cyfs_gateway.flow import Identity
from cyfs_gateway.host import Host, Vouched
from cyfs_ns.errors import ConfigFault, CyfsError, Unreachable
from cyfs_ns.identity.did import Did
from cyfs_ns.identity.documents import ZoneDoc
from cyfs_ns.identity.oods import Ood
from cyfs_ns.io.trusted.keystore import KeyStore
from cyfs_ns.io.trusted.store import TrustStore
from cyfs_ns.trust.level import Trust
from cyfs_ns.trust.places import device_did
from cyfs_ns.trust.strongest import Accepted
from rtcp.v5.keys import device_key
from zone.boot.known import Known, ZoneState, may_found, replaced
from zone.boot.machine import StoreKind
from zone.boot.moving import View, lacking
from zone.boot.peers import barred, machine_of, vouched
from zone.boot.settle import BOOT
from zone.config.faults import ConfigError
from zone.config.keys import At
from zone.etcd.seats import Seat, others_of, seats_of
from zone.io.boot.asking import AnyOod
from zone.io.boot.carrying import carry_over
from zone.io.boot.memory import Memory
from zone.io.boot.telling import Telling
from zone.io.boot.world import Hear, embedded
from zone.io.config.etcd import EtcdBackend
from zone.io.config.remote import SERVICE, RemoteBackend
from zone.io.config.sealing import SealedBackend
from zone.io.config.store import ConfigStore
from zone.io.etcd.files import MARK
from zone.io.etcd.house import Document, EtcdHouse
from zone.io.etcd.process import PROGRAM, find_program
from zone.io.krpc.client import Client
from zone.io.krpc.server import OFFER
from zone.membership import Membership, Role, ood_names, role_of

NAMESPACE: Final = "/zone/"
"""Of the zone's keys in etcd."""
_PATIENCE: Final = 3.0
"""Seconds for etcd to answer: an election takes less."""
_CALL: Final = 60.0
"""Seconds for a call to an OOD at most, polls included."""
_PACE: Final = 0.5
"""Seconds from one look to the next."""

Bring = Callable[[Membership, ConfigStore], Awaitable[None]]

_log = logging.getLogger("cyfs.zone")


class Together:
    """The world of the machine that ``host`` runs on.  ``wall``: seconds since 1970; ``bring`` fills an empty store
    from a backup."""

    def __init__(self, host: Host, wall: Callable[[], float], bring: Bring) -> None:
        self._host, self._wall, self._bring = host, wall, bring
        self._telling: Telling | None = None
        self._changed = trio.Event()
        self._membership: Membership | None = None
        self._known: Known | None = None
        self._document: Document | None = None
        self._kept: ZoneState | None = None
        """For the gateway."""
        self._doubt: Callable[[], None] = lambda: None
        self._nursery: trio.Nursery | None = None
        self._house: EtcdHouse | None = None
        self._seat: Seat | None = None
        self._housing = trio.CancelScope()
        self._has_file = False
        self._fault = ""

    @property
    def why(self) -> str:
        """The fault of the store, what etcd's member is at until all is well, or why OODs are not reached."""
        if self._fault:
            return self._fault
        if self._house is not None:
            return "" if self._house.settled else self._house.why
        known, membership = self._known, self._membership
        if known is None or membership is None or self._telling is None:
            return ""
        if self.reached and role_of(known.zone.document.oods, membership.name) is not Role.OOD:
            return ""  # one OOD is enough for it
        faults = self._telling.faults
        return "; ".join(f"{name}: {fault}" for name, fault in sorted(faults.items()))

    def oods(self, zone: ZoneDoc, offer: str = OFFER) -> AnyOod:
        """A way for calls to what the OODs of ``zone`` offer, to be closed at the end."""
        places = [(name, device_did(name, zone.id)) for name in ood_names(zone)]
        return AnyOod(self._host, places, lambda: self.reached, offer)

    # Beside the steps

    async def attend(self, hear: Hear, moved: Callable[[], Awaitable[None]]) -> None:
        self._telling = Telling(self._host, hear, self._tell)
        self._doubt = self._host.register_welcome(self._wants, self._bars)
        self._host.register_vouch(self._follows)
        if self._membership is not None and self._known is not None:
            self._telling.believe(self._membership, self._known)
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._telling.run)
            while True:
                try:
                    await self._keep_names()
                except (CyfsError, OSError) as fault:
                    _log.warning("zone: the gateway does not go by the newest document yet: %s", fault)
                if not self._lacking():
                    await moved()
                await trio.sleep(_PACE)

    def believe(self, membership: Membership, known: Known) -> None:
        if (membership, known) == (self._membership, self._known):
            return
        self._membership, self._known = membership, known
        try:
            newest = known.newest.document
            self._document = Document(seats_of(newest), newest.iat, others_of(newest))
        except ConfigFault as fault:
            _log.warning("zone: the members of etcd stay as they are: %s", fault)
        if replaced(known, membership.device):
            self._housing.cancel()
        if self._telling is not None:
            self._telling.believe(membership, known)
        self._doubt()

    def _wants(self, who: Identity) -> bool:
        return self._known is not None and machine_of(self._known, who) is not None

    def _follows(self, did: Did) -> Vouched | None:
        known, membership = self._known, self._membership
        return None if known is None or membership is None else vouched(known, membership.owner.key, did)

    def _bars(self, who: Identity) -> str:
        return "" if self._known is None else barred(self._known, who)

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def _lacking(self) -> str:
        """What a document that is ahead waits for; empty: nothing, it may be in force."""
        known, membership, house = self._known, self._membership, self._house
        if known is None or membership is None or known.ahead is None or replaced(known, membership.device):
            return "a newer document"
        try:
            seats = seats_of(known.ahead.document)
        except ConfigFault as fault:
            return str(fault)
        return lacking(
            View(
                name=membership.name,
                old=known.zone.document,
                new=known.ahead.document,
                seats=seats,
                reached=self.reached,
                has_file=self._has_file,
                members=() if house is None else house.members,
                has_left=house is not None and house.has_left,
            )
        )

    @property
    def reached(self) -> frozenset[str]:
        """The OODs that answer."""
        return frozenset() if self._telling is None else self._telling.reached

    # Steps

    async def gateway(self, peers: tuple[Ood, ...], sn: str | None) -> None:
        """The gateway that this runs in is there."""
        await self._keep_names()

    async def _keep_names(self) -> None:
        """Have the gateway go by the newest document where nobody else tells any names, or older ones."""
        known, membership = self._known, self._membership
        if known is None or membership is None or known.newest == self._kept:
            return
        state = known.newest
        accepted = Accepted(
            about=state.document.id,
            document=state.document,
            token=state.token,
            revision=state.revision,
            trust=Trust.OWNER_SIGNED,
            key=membership.owner.key,
            pinned=True,
        )
        await trio.to_thread.run_sync(TrustStore(self._host.home).keep, accepted, self._wall())
        self._kept = state
        self._doubt()

    async def reach(self, names: tuple[str, ...], tell: Callable[[frozenset[str]], None]) -> None:
        while True:
            changed = self._changed
            tell(self.reached.intersection(names))
            await changed.wait()

    @asynccontextmanager
    async def store(self, kind: StoreKind, membership: Membership, known: Known) -> AsyncGenerator[ConfigStore]:
        self._fault = ""
        memory = Memory(self._host.home, membership)
        if kind is StoreKind.CLIENT:
            async with self._asked(known) as store:
                yield store
        elif kind is StoreKind.EMBEDDED and not await trio.Path(memory.etcd / MARK).exists():
            async with embedded(self._host.home, membership) as store:
                self._has_file = True
                try:
                    yield store
                finally:
                    self._has_file = False
        else:
            async with self._shared(memory, membership, known) as store:
                yield store

    @asynccontextmanager
    async def _asked(self, known: Known) -> AsyncGenerator[ConfigStore]:
        """By calls to an OOD."""
        anyone = self.oods(known.zone.document)
        backend = RemoteBackend(Client(anyone, SERVICE, seconds=_CALL))
        try:
            store = ConfigStore(backend)
            await self._answers(store)
            yield store
        finally:
            with trio.CancelScope(shield=True):
                await backend.aclose()
                await anyone.aclose()

    @asynccontextmanager
    async def _shared(self, memory: Memory, membership: Membership, known: Known) -> AsyncGenerator[ConfigStore]:
        """In etcd, a member of which is here."""
        house = await self._housed(memory, membership)
        own = device_key(await trio.to_thread.run_sync(KeyStore(self._host.home).device))
        inner = EtcdBackend([house.client], NAMESPACE, patience=_PATIENCE)
        sealed = SealedBackend(inner, own, [seat.key for seat in seats_of(known.zone.document)])
        try:
            store = ConfigStore(sealed)
            await self._answers(store)
            if await trio.Path(memory.store).exists():
                await carry_over(memory.store, inner)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._reseal, sealed)
                yield store
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await sealed.aclose()

    async def _answers(self, store: ConfigStore) -> None:
        """Until it does."""
        while True:
            try:
                await store.read([At(BOOT)])
            except ConfigError as fault:
                self._fault = "" if self._house is not None else str(fault)
                await trio.sleep(_PACE)
            else:
                self._fault = ""
                return

    async def _reseal(self, backend: SealedBackend) -> None:
        """Have the present OODs read all secrets, once they are OODs."""
        try:
            if count := await backend.reseal():
                _log.info("zone: %d secrets are sealed for the present OODs", count)
        except ConfigError as fault:
            _log.warning("zone: a secret is not sealed for the present OODs: %s", fault)

    async def restore(self, membership: Membership, store: ConfigStore) -> None:
        # An OOD whose state is taken along has nothing to be restored: another one has just not come to the end.
        if not (await store.read([At(BOOT)])).entries:
            await self._bring(membership, store)

    # The member of etcd

    async def _housed(self, memory: Memory, membership: Membership) -> EtcdHouse:
        """The house, begun if there is none.  Raises ``ConfigFault`` where there can be none, ``OSError``."""
        find_program(PROGRAM)
        assert self._known is not None
        if self._document is None:
            raise ConfigFault("the zone's document names no OOD that could carry it")
        seats = (*self._document.seats, *seats_of(self._known.zone.document))
        own = next(seat for seat in seats if seat.key == membership.device.key)
        if self._house is not None and self._seat == own:
            return self._house
        if self._seat is not None:
            raise ConfigFault("the member of etcd here has ended; restart the gateway")
        if self._nursery is None:
            raise Unreachable("the zone is not attended to yet")
        memory.etcd.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._seat = own
        self._house = house = EtcdHouse(
            self._host, membership.zone.id.id, own, self._documented, memory.etcd, lambda: self._may_found(memory)
        )
        self._nursery.start_soon(self._keep, house)
        return house

    def _documented(self) -> Document:
        assert self._document is not None
        return self._document

    def _may_found(self, memory: Memory) -> bool:
        known, membership = self._known, self._membership
        assert known is not None
        assert membership is not None
        return memory.store.exists() or may_found(known, membership.device, max(self._wall(), membership.device.iat))

    async def _keep(self, house: EtcdHouse) -> None:
        try:
            with self._housing:
                await house.run()
        except (CyfsError, OSError) as fault:
            _log.error("zone: no member of etcd any more: %s", fault)
        finally:
            self._house = None
