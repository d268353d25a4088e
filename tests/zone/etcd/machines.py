"""A zone of whole machines in one test: gateways with tunnels between them, each booting by its documents.

Whoever is started is a gateway with the module that boots; whoever is stopped is gone with all it had in memory.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import Any, ClassVar

import pytest
import trio
from inprocess import living, until
from names_house import behind
from oods import KEYS as OOD_KEYS
from oods import Cable, records
from zones import DAY, Signed, sign

from cyfs_gateway.flow import Identity
from cyfs_gateway.host import Host, Module
from cyfs_gateway.io.modules import Modules
from cyfs_ns.errors import Unreachable
from cyfs_ns.identity.did import parse_did
from cyfs_ns.identity.keys import SecretKey
from cyfs_ns.io.trusted.keystore import KeyStore
from tests.cyfs_ns.identity.identities import ALICE, secret
from tests.freeport import free_port
from zone.boot.known import FOUNDS
from zone.config.baserules import BASE
from zone.hub.subjects import machine
from zone.io.boot.booting import Booting
from zone.io.boot.search import by_hand
from zone.io.boot.together import Together
from zone.io.config.service import ConfigService
from zone.io.config.store import ConfigStore
from zone.io.krpc.dispatch import Dispatcher
from zone.io.krpc.server import OFFER, KrpcServer
from zone.io.membership import MembershipStore
from zone.krpc.caller import NOBODY, Caller
from zone.membership import Membership, Role, role_of

KEYS: Mapping[str, SecretKey] = {**OOD_KEYS, "pi": secret(50)}
SERVICE = "system_config"


def owner_signs(
    *oods: str,
    nodes: Sequence[str] = (),
    age: int = 100,
    keys: Mapping[str, SecretKey] = KEYS,
    ports: Mapping[str, int] | None = None,
) -> Signed:
    """``age``: seconds since it was signed."""
    now = int(time.time())
    extra = {FOUNDS: now + DAY}
    return sign(*oods, nodes=nodes, iat=now - age, exp=now + DAY, owner=ALICE, keys=keys, extra=extra, ports=ports)


async def _no_backup(membership: Membership, store: ConfigStore) -> None:
    raise Unreachable("no backup is there")


class Machine:
    """One of them."""

    def __init__(self, name: str, home: Path, key: SecretKey) -> None:
        self.name, self.home, self.key = name, home, key
        self.booting: Booting | None = None
        self.world: Together | None = None
        self.store: ConfigStore | None = None
        self.lives = 0
        self._stop: tuple[trio.CancelScope, trio.Event] | None = None

    def activate(self, signed: Signed) -> None:
        """What an activation leaves."""
        store = KeyStore(self.home)
        store.path.mkdir(parents=True, exist_ok=True)
        store.device_pem.write_bytes(self.key.pem())
        store.device_pem.chmod(0o600)
        MembershipStore(self.home).path.write_bytes(signed.text(self.name))
        MembershipStore(self.home).mend(time.time())

    def hand(self, signed: Signed) -> None:
        """The owner puts the zone's new document here."""
        local = self.home / "names" / "local"
        local.mkdir(parents=True, exist_ok=True)
        (local / "zone.jwt").write_text(signed.zone)

    def leave(self, key: SecretKey) -> Path:
        """Another machine takes its place, with ``key``; where the home of the old one is."""
        old, self.key = self.home.with_name(f"{self.name}-old"), key
        self.home.rename(old)
        return old

    def wipe(self) -> None:
        shutil.rmtree(self.home)

    @property
    def step(self) -> str:
        return "" if self.booting is None else str(self.booting.status()["step"])

    def status(self) -> Mapping[str, Any]:
        return {} if self.booting is None else self.booting.status()

    async def serve(self, host: Host) -> None:
        """As a module of its gateway."""
        dispatcher = Dispatcher()
        self.world = world = Together(host, time.time, _no_backup)
        self.booting = booting = Booting(self.home, world, [by_hand(self.home)], partial(self._live, dispatcher))

        def known(who: Identity) -> Caller | None:
            key = parse_did(who.device).key if who.device else None
            return None if world._known is None or key is None else machine(world._known.newest.document, key)

        host.register_offer(OFFER, KrpcServer(dispatcher, lambda token: NOBODY, known).serve_peer)
        try:
            await booting.run()
        finally:
            self.booting = self.world = None

    async def _live(self, dispatcher: Dispatcher, store: ConfigStore, membership: Membership) -> None:
        assert self.world is not None
        assert self.world._known is not None
        self.store, self.lives = store, self.lives + 1
        try:
            if role_of(self.world._known.zone.document.oods, self.name) is not Role.OOD:
                await trio.sleep_forever()
            config = ConfigService(store, lambda: BASE, lambda who: True)
            end = dispatcher.register(SERVICE, config)
            try:
                await config.run()
            finally:
                end()
        finally:
            self.store = None


class BootStation:
    """The module: settings are the name of the machine."""

    section = "station"
    welcomes = True
    machines: ClassVar[dict[str, Machine]] = {}

    @classmethod
    def check(cls, settings: Any) -> None:
        pass

    async def run(self, host: Host, settings: Any) -> None:
        await self.machines[settings].serve(host)


class Town:
    """All machines; each is started and stopped by name."""

    def __init__(self, base: Path, names: Sequence[str], nursery: trio.Nursery, section: str) -> None:
        self._nursery, self._section = nursery, section
        self.ports = {name: free_port() for name in names}
        self.machines = {name: Machine(name, base / name, KEYS[name]) for name in names}
        self.cables = {pair: Cable(self.ports[pair[1]]) for pair in permutations(names, 2)}
        self._running: dict[str, tuple[trio.CancelScope, trio.Event]] = {}
        self.has_dns = True
        """It tells the keys that the machines had in the beginning."""

    def __getitem__(self, name: str) -> Machine:
        return self.machines[name]

    async def begin(self) -> None:
        for cable in self.cables.values():
            await self._nursery.start(cable.run)

    async def start(self, *names: str) -> None:
        for name in names:
            self._running[name] = trio.CancelScope(), trio.Event()
            await self._nursery.start(self._run, name, *self._running[name])

    async def stop(self, *names: str) -> None:
        overs = []
        for name in names:
            scope, over = self._running.pop(name)
            scope.cancel()
            overs.append(over)
        for over in overs:
            await over.wait()

    async def _run(
        self, name: str, scope: trio.CancelScope, over: trio.Event, *, task_status: trio.TaskStatus[None]
    ) -> None:
        machine = self.machines[name]
        ports = {other: self.cables[name, other].port if other != name else at for other, at in self.ports.items()}
        try:
            with scope:
                async with AsyncExitStack() as stack:
                    port = 9
                    if self.has_dns:
                        port = (await stack.enter_async_context(behind(*records(ports, keys=KEYS)))).port
                    names = f"dns: {{enable: true, use-system-hosts: false, nameserver: ['127.0.0.1:{port}']}}\n"
                    config = (
                        f"rtcp:\n  listen: 127.0.0.1:{self.ports[name]}\n  versions: [5]\n"
                        f"rules: ['MATCH,REJECT']\n{self._section.format(name=name)}\n"
                    )
                    await stack.enter_async_context(living(machine.home, config, base=names))
                    task_status.started()
                    await trio.sleep_forever()
        finally:
            over.set()

    def cut_off(self, name: str) -> None:
        for pair, cable in self.cables.items():
            if name in pair:
                cable.cut()

    def mend(self) -> None:
        for cable in self.cables.values():
            cable.mend()

    async def up(self, *names: str, seconds: float = 120.0) -> None:
        """Until those have the zone."""
        try:
            await until(lambda: all(self[name].step == "booted" and self[name].store for name in names), seconds)
        except trio.TooSlowError:
            told = {
                name: (dict(machine.status()), machine.world and machine.world.why)
                for name, machine in self.machines.items()
            }
            raise AssertionError(told) from None


@asynccontextmanager
async def town(
    base: Path,
    monkeypatch: pytest.MonkeyPatch,
    *names: str,
    module: type[Module] = BootStation,
    section: str = "station: {name}",
) -> AsyncIterator[Town]:
    """``module`` is what boots, by ``section`` of each machine's configuration."""
    if shutil.which("etcd") is None:
        pytest.skip("needs etcd (Debian's etcd-server)")
    monkeypatch.setattr(Modules, "discover", staticmethod(lambda: {module.section: module}))
    async with trio.open_nursery() as nursery:
        made = Town(base, names, nursery, section)
        BootStation.machines = made.machines
        await made.begin()
        try:
            yield made
        finally:
            with trio.CancelScope(shield=True):
                made.mend()
                await made.stop(*made._running)
        nursery.cancel_scope.cancel()
