"""One SN, as ``sn init`` writes it, and machines of one owner that belong to it: all of them the installed program.

The machines have their keys and documents from the start, and the first one's owner asks the SN for a name; what comes
after that they do by themselves.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio
from devices import PROGRAM, SOCKS
from netnslab import Gateway, Host, Lab
from netnslab.process import until

from cyfs_ns.identity.did import Did, dev_did
from cyfs_ns.identity.keys import SecretKey
from tests.cyfs_gateway.membership.membership_houses import owned, settle
from tests.cyfs_ns.identity.identities import ALICE

__all__ = ["INTERNET", "Member", "Sn", "members", "opened"]

INTERNET = "5.1.1.0/24"
"""Addresses that every program takes for public, as those for documentation are not."""
_AT_A_TIME = 4
"""Programs that start at once: more only wait for each other."""


@dataclass
class Sn:
    """The SN on ``host``."""

    host: Host
    did: str = ""

    def entry(self, port: int) -> dict[str, str]:
        """By which machines belong to it that may go out to ``port`` of it."""
        return {"peer": self.did, "at": f"{self.host.ip}:{port}"}


@dataclass
class Member:
    """The machine ``host``, which goes out to the SN by ``port``; ``more`` stands in its configuration, in ``rtcp``."""

    host: Host
    key: SecretKey
    port: int = 2980
    more: Mapping[str, Any] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    by_proxy: Member | None = None
    """Where its proxy leads to."""
    running: Gateway | None = None

    @property
    def did(self) -> Did:
        return dev_did(self.key.public)

    @property
    def gateway(self) -> Gateway:
        assert self.running is not None
        return self.running

    @property
    def said(self) -> str:
        """The end of its log, without what it was asked for by us."""
        lines = self.gateway.process.text().splitlines()
        return "\n".join([line for line in lines if '"cyfs.control"' not in line][-40:])

    async def belongs(self) -> bool:
        """Whether the SN has nothing to say against it."""
        said = (await self.gateway.api("/cyfs/status"))["memberships"]
        return all(one["tunnel"] == "stands" and one["why"] == "" for one in said)

    async def dial(self, far: Member) -> None:
        """Have a tunnel to ``far``, by whatever way.  Raises ``GatewayFault``."""
        await self.gateway.api("/cyfs/ping", method="POST", body={"peer": str(far.did)})

    async def way_to(self, far: Member) -> dict[str, Any]:
        """How it goes to ``far`` now, and why; empty texts: there is no tunnel."""
        found = (await self.gateway.api("/cyfs/peers"))["peers"]
        return next((one for one in found if one["device"] == str(far.did)), {"way": "", "why": "", "ways": []})

    async def goes(self, far: Member, way: str | tuple[str, ...], *, seconds: float = 30) -> dict[str, Any]:
        """Until it goes to ``far`` by such a way."""
        seen: dict[str, Any] = {}

        async def does() -> bool:
            seen.update(await self.way_to(far))
            return str(seen["way"]).startswith(way)

        try:
            await until(f"{self.host.name} goes to {far.host.name} by {way}", does, timeout=seconds)
        except Exception as late:
            logs = "\n".join(f"--- {each.host.name}\n{each.said}" for each in (self, far))
            raise AssertionError(f"{late}: {seen}\n{logs}") from late
        return seen


def members(hosts: Sequence[Host], **more: Any) -> list[Member]:
    """Machines that have nothing special."""
    return [Member(host, SecretKey(bytes([64 + number]) * 32), **more) for number, host in enumerate(hosts)]


@asynccontextmanager
async def opened(lab: Lab, sn: Sn, all_of_them: Sequence[Member]) -> AsyncIterator[Gateway]:
    """The gateways of the SN, which is given, and of all members, who belong to it."""
    async with AsyncExitStack() as stack:
        home = lab.directory / sn.host.name
        words = ("sn", "init", "sn.example", "--address", sn.host.ip, "--owner", str(dev_did(ALICE.public)), "--json")
        done = await sn.host.run(PROGRAM, *words, "--home", str(home), timeout=40)
        sn.did = json.loads(done.out)["did"]
        at_sn = await stack.enter_async_context(sn.host.gateway((home / "sn.yaml").read_text(), home=home))
        few = trio.CapacityLimiter(_AT_A_TIME)
        first, dids = all_of_them[0], [str(member.did) for member in all_of_them]
        web = {"name": "web", "port": 80, "target": "tcp://127.0.0.1:80", "allow": dids}

        async def start(member: Member, entered: AsyncExitStack) -> None:
            place = lab.directory / member.host.name
            settle(place, member.key, member.host.name)
            known = {"sn": [sn.entry(member.port)], "services": [web], "private-addresses": dids}
            config = {
                "log-level": "debug",
                "ipv6": True,
                "dns": {"enable": False},
                "rtcp": {**known, **member.more},
                "rules": ["MATCH,DIRECT"],
            }
            if member.by_proxy is not None:
                proxy = {"name": "far", "type": "rtcp", "server": str(member.by_proxy.did), "target": ":80"}
                config |= {"mixed-port": SOCKS, "proxies": [proxy], "rules": ["MATCH,far"]}
            async with few:
                running = member.host.gateway(config, home=place, env=member.env)
                member.running = await entered.enter_async_context(running)

        stacks = [AsyncExitStack() for _ in all_of_them]
        stack.push_async_callback(_close_all, stacks)
        async with trio.open_nursery() as nursery:
            for member, entered in zip(all_of_them, stacks, strict=True):
                nursery.start_soon(start, member, entered)
        await until("the first reaches the SN", lambda: _reached(first), timeout=30)
        owned(lab.directory / first.host.name)
        words = ("sn", "join", sn.did, "--name", "alice", "--yes", "--home", str(lab.directory / first.host.name))
        await first.host.run(PROGRAM, *words, timeout=40)
        for member in all_of_them:
            await member.gateway.api("/cyfs/memberships", method="POST")
        for member in all_of_them:
            await until(f"{member.host.name} belongs to the SN", member.belongs, timeout=40)
        yield at_sn


async def _close_all(stacks: Sequence[AsyncExitStack]) -> None:
    async with trio.open_nursery() as nursery:
        for stack in stacks:
            nursery.start_soon(stack.aclose)


async def _reached(member: Member) -> bool:
    said = (await member.gateway.api("/cyfs/status"))["memberships"]
    return all(one["tunnel"] == "stands" for one in said)
