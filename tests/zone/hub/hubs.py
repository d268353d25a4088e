"""A zone with two OODs and another machine, whose verify_hub is served by both OODs at once."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count

import trio
from configstores import Kind
from zones import Signed, sign

from cyfs_ns.identity.keys import SecretKey
from cyfs_ns.identity.strictjson import Json, write_json
from rtcp.v5.keys import device_key
from zone.boot.settle import boot_value
from zone.config.model import Delete, Set, Transaction
from zone.hub.people import new_lock
from zone.hub.tokens import bootstrap
from zone.io.config.rules import RulesWatch
from zone.io.config.sealing import SealedBackend
from zone.io.config.store import ConfigStore
from zone.io.hub.service import Hub
from zone.io.hub.trust import TrustWatch
from zone.krpc.caller import NOBODY, Caller
from zone.krpc.service import CallContext

ZONE = "home.example"
OWNER = SecretKey(b"\x01" * 32)
KEYS = {name: SecretKey(bytes([number]) * 32) for number, name in enumerate(("ood1", "ood2", "box"), 11)}
PASSWORD = "open sesame"
LOCK = new_lock(PASSWORD, b"s" * 16).text()
START = 1_800_000_000.0


def signed(issued: int = -1000, *, nodes: tuple[str, ...] = ("box",), **keys: SecretKey) -> Signed:
    """The zone as its owner signs it, so many seconds after the start; with other ``keys`` for some machines."""
    begin = int(START) + issued
    return sign("ood1", "ood2", nodes=nodes, iat=begin, exp=begin + 10**9, owner=OWNER, keys={**KEYS, **keys})


FIRST = signed()
MEMBERSHIP = FIRST.of("ood1", START)


def boot(zone: Signed) -> str:
    """As it stands in the store."""
    return boot_value(zone.state(MEMBERSHIP))


async def until(holds: Callable[[], bool]) -> None:
    """Until what the store tells has come to where ``holds`` looks."""
    with trio.fail_after(60):
        while not holds():  # noqa: ASYNC110, there is no event for it
            await trio.sleep(0.005)


@dataclass
class Clock:
    now: float = START

    def __call__(self) -> float:
        return self.now


@dataclass
class Zone:
    stores: list[ConfigStore]
    hubs: list[Hub]
    trust: TrustWatch
    policy: RulesWatch
    clock: Clock
    jtis: count[int] = field(default_factory=count)

    async def put(self, **values: str | None) -> None:
        """Write as one who has the store; names of keys have ``__`` for each slash, None deletes."""
        named = {key.replace("__", "/"): value for key, value in values.items()}
        actions = [Delete(key) if value is None else Set(key, value) for key, value in named.items()]
        await self.stores[0].transact(Transaction(tuple(actions)))

    async def user(self, name: str, kind: str = "user", state: str = "active") -> None:
        settings = write_json({"type": kind, "state": state, "is_local": True}).decode()
        await self.put(**{f"users__{name}__settings": settings, f"security__verify-hub__passwords__{name}": LOCK})

    async def call(
        self, method: str, who: str | Caller = NOBODY, hub: int = 0, source: str = "", **params: Json
    ) -> Mapping[str, Json]:
        """Who calls: a token, or a caller."""
        caller = self.trust.believe(who) if isinstance(who, str) else who
        told = await self.hubs[hub](caller, method, params, CallContext(source=source))
        assert isinstance(told, Mapping)
        return told

    async def login(self, user: str = "alice", hub: int = 0, **more: Json) -> Mapping[str, Json]:
        return await self.call("login_by_password", hub=hub, username=user, password=PASSWORD, **more)

    def proof(self, device: str, app: str = "", jti: str = "") -> str:
        """What a machine shows for a session."""
        key = KEYS[device] if device else OWNER
        return bootstrap(ZONE, device, app, key, jti or f"j{next(self.jtis)}", self.clock.now)

    async def machine(self, device: str, app: str = "", hub: int = 0) -> Mapping[str, Json]:
        return await self.call("login_by_jwt", hub=hub, jwt=self.proof(device, app))

    async def until_refused(self, token: str) -> None:
        """Until what everybody goes by says so."""
        await until(lambda: not self.believes(token))

    def believes(self, token: str) -> bool:
        try:
            return self.trust.stands(self.trust.believe(token))
        except Exception:
            return False


@asynccontextmanager
async def zone(kind: Kind) -> AsyncGenerator[Zone]:
    """With its devices, and nobody in it."""
    oods = [KEYS["ood1"].public, KEYS["ood2"].public]
    backends = [kind.open()]
    if kind.name == "etcd":
        backends.append(kind.open())
    # A file has one process that serves it; there both hubs share it.
    sealed = [
        SealedBackend(backend, device_key(KEYS[name]), oods) for backend, name in zip(backends, KEYS, strict=False)
    ]
    stores = [ConfigStore(backend) for backend in sealed]
    clock = Clock()
    hubs = [Hub(stores[number % len(stores)], MEMBERSHIP, clock) for number in range(2)]
    made = Zone(stores, hubs, TrustWatch(stores[-1], ZONE, clock), RulesWatch(stores[-1]), clock)
    try:
        async with trio.open_nursery() as nursery:
            await made.put(boot__config=boot(FIRST))
            for hub in hubs:
                await nursery.start(hub.run)
            await nursery.start(made.trust.run)
            await nursery.start(made.policy.run)
            yield made
            nursery.cancel_scope.cancel()
    finally:
        for backend in backends:
            await backend.aclose()
