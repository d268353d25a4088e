"""Three OODs in one test: whole gateways with tunnels between them, real etcd, and cables that can be cut."""

from __future__ import annotations

import shutil
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import permutations
from pathlib import Path
from typing import Any, ClassVar

import pytest
import trio
from inprocess import Living, living, until
from names_house import behind

from cyfs_gateway.flow import Identity
from cyfs_gateway.host import Host, Offer
from cyfs_gateway.io.modules import Modules
from cyfs_ns.identity.keys import SecretKey
from cyfs_ns.identity.txt import character_strings, txt_record
from cyfs_ns.io.trusted.store import TrustStore
from cyfs_ns.trust.anchors import Pin
from cyfs_ns.trust.places import device_did
from tests.cyfs_ns.identity.identities import ALICE, DAY, HOME, boot, device, mini, secret
from tests.freeport import free_port
from tunnels.endpoint import Endpoint
from tunnels.io.reactor import Reactor
from zone.config.faults import Code, ConfigError
from zone.config.model import Create, Transaction
from zone.etcd.seats import Seat
from zone.io.config.etcd import EtcdBackend
from zone.io.config.store import ConfigStore
from zone.io.etcd.house import Document, EtcdHouse

NOW = int(time.time())
ZONE = "home.example"
NAMES = ("ood1", "ood2", "ood3")
KEYS = {name: secret(40 + number) for number, name in enumerate(NAMES)}
PACE = 0.2


def seat(name: str, key: SecretKey | None = None) -> Seat:
    return Seat(name, device_did(name, HOME), (key or KEYS[name]).public)


class Station:
    """The module that hands out its host."""

    section = "station"
    hosts: ClassVar[dict[str, Host]] = {}

    @classmethod
    def check(cls, settings: Any) -> None:
        pass

    async def run(self, host: Host, settings: Any) -> None:
        self.hosts[settings] = host
        await trio.sleep_forever()


class Reused:
    """A host that a second house can register at: with the gateway's, a registration ends with its module."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._serve: dict[str, Offer] = {}
        self.reactor: Reactor = host.reactor
        self.call_offer = host.call_offer

    def register_offer(self, name: str, serve: Offer) -> None:
        if name not in self._serve:

            async def serve_now(who: Identity, pipe: Endpoint) -> None:
                await self._serve[name](who, pipe)

            self._host.register_offer(name, serve_now)
        self._serve[name] = serve


class Cable:
    """A TCP connection from one machine to the door of another.  Cut, it swallows nothing and carries nothing."""

    def __init__(self, to: int) -> None:
        self._to = to
        self._whole = trio.Event()
        self._whole.set()
        self.port = 0

    def cut(self) -> None:
        self._whole = trio.Event()

    def mend(self) -> None:
        self._whole.set()

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = int(listener.socket.getsockname()[1])
        task_status.started()
        await trio.serve_listeners(self._join, [listener])

    async def _join(self, near: trio.SocketStream) -> None:
        try:
            await self._whole.wait()
            async with near, await trio.open_tcp_stream("127.0.0.1", self._to) as far, trio.open_nursery() as both:
                for one, other in ((near, far), (far, near)):
                    both.start_soon(self._pump, one, other, both.cancel_scope)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            return

    async def _pump(self, one: trio.SocketStream, other: trio.SocketStream, scope: trio.CancelScope) -> None:
        try:
            async for data in one:
                await self._whole.wait()
                await other.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        scope.cancel()


class Zone:
    """The three machines, whose gateways run; a house of etcd is begun and ended by name."""

    def __init__(self, base: Path, nursery: trio.Nursery) -> None:
        self._base, self._nursery = base, nursery
        self._scopes: dict[str, tuple[trio.CancelScope, trio.Event]] = {}
        self.gateways: dict[str, Living] = {}
        self.hosts: dict[str, Reused] = {}
        self.cables: dict[tuple[str, str], Cable] = {}
        self.houses: dict[str, EtcdHouse] = {}
        self.stores: dict[str, ConfigStore] = {}
        self.backends: list[EtcdBackend] = []
        self.document = Document(tuple(map(seat, NAMES)), NOW)
        self.founder = "ood1"

    def folder(self, name: str) -> Path:
        return self._base / name / "etcd"

    async def begin(self, *names: str) -> None:
        for name in names:
            house = EtcdHouse(
                self.hosts[name],
                ZONE,
                seat(name),
                lambda: self.document,
                self.folder(name),
                lambda name=name: name == self.founder,  # type: ignore[misc]
                pace=PACE,
            )
            self.houses[name] = house
            scope, over = trio.CancelScope(), trio.Event()
            self._scopes[name] = scope, over
            self._nursery.start_soon(self._live, house, scope, over)
            backend = EtcdBackend([house.client], "/z/", patience=3.0)
            self.backends.append(backend)
            self.stores[name] = ConfigStore(backend)

    async def _live(self, house: EtcdHouse, scope: trio.CancelScope, over: trio.Event) -> None:
        try:
            with scope:
                await house.run()
        finally:
            over.set()

    async def end(self, name: str) -> None:
        """Its house stops, and its member with it."""
        scope, over = self._scopes.pop(name)
        scope.cancel()
        await over.wait()
        del self.houses[name], self.stores[name]

    def partition(self, name: str) -> None:
        for (one, other), cable in self.cables.items():
            if name in (one, other):
                cable.cut()

    def mend(self) -> None:
        for cable in self.cables.values():
            cable.mend()

    async def settle(self, members: int = 3, seconds: float = 240.0) -> str:
        """Until all is as it should be; the name of the leader."""
        try:
            await until(lambda: self._settled(members), seconds)
        except trio.TooSlowError:
            raise AssertionError({name: house.status() for name, house in self.houses.items()}) from None
        return next(name for name, house in self.houses.items() if "OODs are members" in house.why)

    def _settled(self, members: int) -> bool:
        told = [house for house in self.houses.values() if house.settled and len(house.status()["members"]) == members]
        return len(told) == members and any("OODs are members" in house.why for house in told)


@asynccontextmanager
async def oods(base: Path, monkeypatch: pytest.MonkeyPatch, hidden: str = "") -> AsyncIterator[Zone]:
    """``hidden``: one that has no door for tunnels and no address, as behind somebody else's NAT."""
    if shutil.which("etcd") is None:
        pytest.skip("needs etcd (Debian's etcd-server)")
    monkeypatch.setattr(Modules, "discover", staticmethod(lambda: {"station": Station}))
    ports = {name: free_port() for name in NAMES}
    async with trio.open_nursery() as nursery:
        async with AsyncExitStack() as stack:
            zone = Zone(base, nursery)
            for one, other in permutations(NAMES, 2):
                zone.cables[one, other] = cable = Cable(ports[other])
                await nursery.start(cable.run)
            for name in NAMES:
                home = base / name
                at = {other: zone.cables[name, other].port if other != name else ports[name] for other in NAMES}
                dns = await stack.enter_async_context(behind(*records(at, hidden)))
                _furnish(home, name)
                names = f"dns: {{enable: true, use-system-hosts: false, nameserver: ['127.0.0.1:{dns.port}']}}\n"
                door = "" if name == hidden else f"  listen: 127.0.0.1:{ports[name]}\n"
                config = (
                    f"rtcp:\n{door}  versions: [5]\n"
                    "  admission: ['ZONE,did:web:home.example,ACCEPT']\n"
                    f"rules: ['MATCH,REJECT']\nstation: {name}\n"
                )
                zone.gateways[name] = await stack.enter_async_context(living(home, config, base=names))
                await until(lambda name=name: name in Station.hosts)
                zone.hosts[name] = Reused(Station.hosts.pop(name))
            try:
                yield zone
            finally:
                with trio.CancelScope(shield=True):
                    zone.mend()
                    async with trio.open_nursery() as ending:
                        for name in list(zone.houses):
                            ending.start_soon(zone.end, name)
                    for backend in zone.backends:
                        await backend.aclose()
        nursery.cancel_scope.cancel()


def records(at: dict[str, int], hidden: str = "", keys: Mapping[str, SecretKey] = KEYS) -> list[str]:
    """What the DNS says of the machines, which tunnels reach at those ports."""
    texts = [
        txt_record("PKX", ALICE.public.x),
        txt_record("BOOT", boot(ALICE, *NAMES, iat=NOW - 100, exp=NOW + DAY).text),
    ]
    for name in at:
        told = mini(
            name, keys[name], ALICE, iat=NOW - 100, exp=NOW + DAY, rtcp_port=None if name == hidden else at[name]
        )
        texts.append(txt_record("DEV", told.text))
    lines = [f"{ZONE}. 60 TXT " + " ".join(f'"{part}"' for part in character_strings(text)) for text in texts]
    return [*lines, *(f"{name}.{ZONE}. 60 A 127.0.0.1" for name in at if name != hidden)]


def _furnish(home: Path, name: str) -> None:
    folder = home / "identity"
    folder.mkdir(parents=True)
    (folder / "device.pem").write_bytes(KEYS[name].pem())
    (folder / "device.pem").chmod(0o600)
    signed = device(name, KEYS[name], ALICE, iat=NOW - 100, exp=NOW + DAY, zone=HOME)
    (folder / "device.jwt").write_text(signed.text)
    TrustStore(home).pin(Pin(about=HOME, key=ALICE.public, source="test", at=NOW))


class Writer:
    """Counts up through one machine's store, and remembers what was acknowledged."""

    def __init__(self, store: ConfigStore, mark: str) -> None:
        self._store, self._mark = store, mark
        self.acknowledged: dict[str, int] = {}
        self.last = 0.0
        """When the last was acknowledged."""

    async def run(self) -> None:
        number = 0
        while True:
            key = f"{self._mark}/{number}"
            try:
                self.acknowledged[key] = await self._store.transact(Transaction((Create(key, str(number)),)))
                self.last = trio.current_time()
                number += 1
            except ConfigError as fault:
                if fault.code is Code.EXISTS:
                    # It was made, though nobody said so.
                    number += 1
                elif fault.code not in (Code.UNCERTAIN, Code.UNAVAILABLE):
                    raise
            await trio.sleep(0.005)


__all__ = ["KEYS", "NAMES", "ZONE", "Writer", "Zone", "oods", "records", "seat"]
