"""A gateway that is an SN, and machines with real tunnels to it that say just what a test wants said."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio
from sn_people import Person, person

from cyfs_gateway.io.sntalk import Conversation, connected
from cyfs_gateway.sn.requests import Action, Admit, Register
from cyfs_gateway.sn.talk import Ask, No, Reply, Submit, Submitted
from cyfs_gateway.sn.zoneupdate import ZoneUpdate, write_update
from cyfs_ns.identity.did import Did
from rtcp.io.device import Carrier
from tests.cyfs_gateway.io.inprocess import Living, living, until
from tests.freeport import free_port
from tunnels.endpoint import Endpoint, Target

SN = "sn.example"
OWNER, HOST = person(1), person(2)
"""Whose the SN is, and what machine it is."""
RTCP = f"  versions: [5]\n  udp: false\n  proxy-from: ['{HOST.did}']\n"
DNS = "dns: {enable: true, use-system-hosts: false, nameserver: ['127.0.0.1:9']}\nipv6: true\n"


@dataclass
class Machine:
    """One that speaks to the SN by a tunnel of its own; its owner signs by hand."""

    house: Living
    who: Person
    way: Carrier
    sn: Did

    async def open(self, host: str = "sn.invalid") -> Endpoint:
        device = await self.house.gateway.peer_desk.device()
        device.network_changed()  # who refused a moment ago is asked anew
        with trio.fail_after(60):
            return await device.open_stream(self.sn, host, 1, via=self.way)

    async def ask(self, *asks: Ask) -> Reply:
        """The answer to the last of them, all on one stream."""
        talk = Conversation(await self.open())
        try:
            for one in asks:
                reply = await talk.ask(one)
        finally:
            talk.close()
        return reply

    async def tunnel_to(self, to: Did, host: str | None = None, port: int = 80) -> Endpoint:
        """A stream to ``to`` through the SN: a tunnel within that is made first, if none stands."""

        async def dial(_: str, at: int) -> Endpoint:
            return await connected(await self.open(), to)

        device = await self.house.gateway.peer_desk.device()
        with trio.fail_after(60):
            return await device.open_stream(to, host, port, via=Carrier("through the SN", dial, leads=True))


@dataclass
class SnHouse:
    """The SN; ``port`` is its door, ``dns`` its name server."""

    base: Path
    port: int
    dns: int


@dataclass
class LivingSn(SnHouse):
    """One within the test; ``config`` is what it was started with."""

    house: Living
    config: str

    @property
    def module(self) -> dict[str, Any]:
        """What status shows of it."""
        return dict(self.house.gateway.status()["modules"]["sn"])

    async def control(self, method: str, **body: Any) -> dict[str, Any]:
        return dict(await self.house.gateway.control("sn", method, body))


def settle(home: Path, key: Person) -> None:
    folder = home / "identity"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "device.pem").write_bytes(key.key.pem())
    (folder / "device.pem").chmod(0o600)


@asynccontextmanager
async def sn_house(base: Path, more: str = "", *, owners: bool = True) -> AsyncIterator[LivingSn]:
    """``more`` goes into the section ``sn``; its owner is ``OWNER``."""
    home = base / "sn"
    settle(home, HOST)
    port, dns = free_port(), free_port()
    config = f"""
dns: {{enable: true, use-system-hosts: false, listen: '127.0.0.1:{dns}', nameserver: ['127.0.0.1:9']}}
listeners: []
rtcp: {{listen: '127.0.0.1:{port}', versions: [5], udp: false}}
sn:
  domain: {SN}
  addresses: [198.51.100.1]
  private-addresses: true
  listen: 127.0.0.1:{free_port()}
  owners: [{f"'{OWNER.did}'" if owners else ""}]
{more}
"""
    async with living(home, config, base="") as house:
        await until(lambda: "domain" in house.gateway.status()["modules"]["sn"] or _failed(house))
        yield LivingSn(base, port, dns, house, config)


def _failed(house: Living) -> bool:
    told = house.gateway.status()["modules"]["sn"]
    assert told["running"], told["fault"]
    return False


@asynccontextmanager
async def machine(sn: SnHouse, who: Person, more: str = "") -> AsyncIterator[Machine]:
    """``who`` in a gateway of its own, which lets others knock through the SN, and keeps nothing up by itself.

    ``more`` goes into its section ``rtcp``.
    """
    home = sn.base / who.key.public.x[:12]
    settle(home, who)
    async with living(home, DNS + f"listeners: []\nrtcp:\n{RTCP}{more}\n", base="") as house:

        async def dial(host: str, at: int) -> Endpoint:
            return await house.gateway._world.outbounds["DIRECT"].open_stream(Target("127.0.0.1", sn.port))

        yield Machine(house, who, Carrier("the SN", dial, leads=True), HOST.did)


async def submit(machine: Machine, signer: Person, action: Action) -> Reply:
    """Have ``machine`` hand in what ``signer`` wants."""
    return await machine.ask(Submit(signer.sign(action, time.time(), SN)))


async def join(machine: Machine, owner: Person, name: str, label: str = "ood1", code: str = "") -> None:
    """An account for ``owner``, and ``machine`` in it."""
    if name:
        said = await submit(machine, owner, Register(name, code))
        assert isinstance(said, Submitted), said
    said = await submit(machine, machine.who, Admit(owner.device(machine.who, label, time.time())))
    assert isinstance(said, Submitted), said


def update(who: Person, name: str, label: str = "ood1", seq: int = 0, **more: Any) -> str:
    """A word of ``who`` for the zone."""
    now = int(time.time())
    told = {"audience": SN, "challenges": {}, **more}
    word = ZoneUpdate(
        name=name, device=label, key=who.key.public, seq=seq or now * 1000, iat=now, exp=now + 300, **told
    )
    return write_update(word, who.key)


def said_no(reply: Reply, code: str) -> bool:
    assert isinstance(reply, No), reply
    return reply.code == code
