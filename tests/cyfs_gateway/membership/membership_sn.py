"""An SN for tests of its members: a gateway that talks as an SN does, by the real rules, without disk or public ports.

What it is told to do wrong it does, which the real one does not.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import trio

from cyfs_gateway.flow import Identity
from cyfs_gateway.sn.admission import Circumstances, Policy, Registrar
from cyfs_gateway.sn.registry import Registry
from cyfs_gateway.sn.requests import Register, read_request, sign_request
from cyfs_gateway.sn.talk import (
    Ask,
    Connect,
    Connected,
    Here,
    Lease,
    Leased,
    Lines,
    No,
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
from cyfs_gateway.sn.zone import Zone
from cyfs_gateway.sn.zonerecords import ZoneSettings
from cyfs_gateway.sn.zoneupdate import ZoneUpdate, read_update
from cyfs_ns.errors import BadWire, CyfsError
from cyfs_ns.identity.did import Did, dev_did, parse_did
from cyfs_ns.identity.keys import SecretKey
from rtcp.nat.relaywire import ID_SIZE, KEY_SIZE
from tests.cyfs_gateway.io.inprocess import Living, living
from tunnels.endpoint import Endpoint
from tunnels.io.relay import Relay
from tunnels.io.waiting import Preloaded, receive_some, send_all

SEEN = "198.51.100.9"


class People:
    """Who has which name, as the zone asks."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def find_name(self, name: str):  # type: ignore[no-untyped-def]
        return self._registry.find_name(name)

    def names(self) -> list[str]:
        return list(self._registry.names())


@dataclass
class FakeSn:
    """``domain`` is what it says its domain is."""

    house: Living
    key: SecretKey
    port: int
    domain: str
    owner: SecretKey
    registry: Registry = field(default_factory=Registry)
    heard: list[Ask] = field(default_factory=list)
    seen: str = SEEN
    leases: dict[Did, list[Leased]] = field(default_factory=dict)
    silent: bool = False

    def __post_init__(self) -> None:
        self.registrar = Registrar(self.registry, Policy(domain=self.domain, owners={dev_did(self.owner.public)}))
        told = ZoneSettings(
            origin=self.domain,
            nameservers={f"ns1.{self.domain}": ("198.51.100.1",)},
            ingress=("198.51.100.1",),
            private=True,
        )
        self.zone = Zone(told, People(self.registry), now=time.time())

    @property
    def did(self) -> Did:
        return dev_did(self.key.public)

    @property
    def entry(self) -> str:
        """As a member configures it."""
        return f"{{peer: '{self.did}', at: '127.0.0.1:{self.port}'}}"

    def register(self, name: str) -> None:
        """The owner has a name."""
        token, _ = sign_request(Register(name), dev_did(self.owner.public), self.owner, self.domain, time.time())
        assert self._submit(token).ok

    def asked(self, kind: type[Ask]) -> list[Ask]:
        return [ask for ask in self.heard if isinstance(ask, kind)]

    def updates(self) -> list[ZoneUpdate]:
        return [read_update(ask.update)[0] for ask in self.heard if isinstance(ask, Update)]

    def _submit(self, token: str):  # type: ignore[no-untyped-def]
        claimed = read_request(token, self.domain, time.time())
        account = self.registry.account(claimed.issuer)
        key = claimed.issuer.key or (account.key if account else None)
        assert key is not None
        verdict = self.registrar.decide(claimed.proven(key), Circumstances(bytes([127, 0, 0, 1])), time.time())
        self.registry.apply(verdict.changes)
        return verdict

    async def serve(self, identity: Identity, pipe: Endpoint) -> None:
        """One stream of a member."""
        lines, device = Lines(), parse_did(identity.device or identity.did)
        while True:
            line = lines.next_line()
            if line is None:
                if not (data := await receive_some(pipe)):
                    return
                lines.receive_data(data)
                continue
            ask = read_ask(line)
            self.heard.append(ask)
            if self.silent:
                await trio.sleep_forever()
            if isinstance(ask, Connect):
                await self._lead(ask, pipe, lines.rest())
                return
            await send_all(pipe, write_reply(self._answer(ask, device)))

    def _answer(self, ask: Ask, device: Did) -> Reply:
        match ask:
            case Submit(request):
                try:
                    verdict = self._submit(request)
                except BadWire as bad:
                    return No("proof", str(bad))
                return Submitted(verdict.why, verdict.told) if verdict.ok else No(verdict.code, verdict.why)
            case Update(update):
                said = self.zone.update(update, time.time())
                return Updated(said.why, said.seq) if said.accepted else No("refused", said.why, said.seq)
            case Where():
                known = self.registry.device(device)
                names = () if known is None else tuple(one.name for one in self.registry.names_of(known.owner))
                return Here(
                    domain=self.domain,
                    did=self.did,
                    seen=self.seen,
                    addresses=("127.0.0.1",),
                    udp=3478,
                    knows=known is not None,
                    names=names,
                    leases=tuple(self.leases.get(device, ())),
                )
            case Lease(place):
                if place.kind != "name":
                    self.leases.setdefault(device, []).append(Leased(place, 600))
                return Leased(place, 0 if place.kind == "name" else 600)
            case RelayWith():
                session = bytes(ID_SIZE), (bytes(KEY_SIZE), bytes([1]) * KEY_SIZE)
                return RelaySession(
                    relay_id=session[0], keys=session[1], addresses=("127.0.0.1",), port=3478, seconds=60
                )
            case Unlease():
                return Unleased()
        raise AssertionError(ask)

    async def _lead(self, ask: Connect, pipe: Endpoint, early: bytes) -> None:
        try:
            far = await self.house.gateway.peer_desk.open_standing(ask.device, "rtcp.invalid", 1)
        except CyfsError as fault:
            await send_all(pipe, write_reply(No("unknown", str(fault))))
            return
        await send_all(pipe, write_reply(Connected()))
        over = trio.Event()
        relay = Relay(self.house.reactor, Preloaded(pipe, early), far, idle=60.0, on_close=lambda *_: over.set())
        try:
            await over.wait()
        finally:
            relay.close("the test is over")


@asynccontextmanager
async def fake_sn(home: Path, key: SecretKey, port: int, domain: str, owner: SecretKey) -> AsyncIterator[FakeSn]:
    """An SN that takes tunnels at ``port`` of 127.0.0.1, from everybody."""
    folder = home / "identity"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "device.pem").write_bytes(key.pem())
    (folder / "device.pem").chmod(0o600)
    async with (
        living(home, f"rtcp: {{listen: '127.0.0.1:{port}'}}\nrules: ['MATCH,DIRECT']\n") as house,
        trio.open_nursery() as nursery,
    ):
        sn = FakeSn(house, key, port, domain, owner)
        house.gateway.offers.host("sn.invalid", sn.serve, nursery)
        house.gateway.offers.welcomes.append(lambda identity: True)
        try:
            yield sn
        finally:
            with suppress(KeyError):
                house.gateway.offers.remove("sn.invalid")
            nursery.cancel_scope.cancel()


__all__ = ["SEEN", "FakeSn", "fake_sn"]
