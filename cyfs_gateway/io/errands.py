"""What the owner's commands want of other devices: streams to them, and streams from them.

A stream to a peer goes where the owner says, not where rules lead.  A stream from one has passed the admission and the
service's own conditions, as every other does; commands only add services for as long as they run.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from cyfs_gateway.facade import Arrival
from cyfs_gateway.flow import Identity
from cyfs_gateway.io.arrivals import Arrivals
from cyfs_gateway.io.offers import RECEIVE, SPEEDTEST, Guard
from cyfs_gateway.rules.parse import parse_whom
from cyfs_ns.errors import BadWire, ConfigFault, Refused
from tunnels.endpoint import Endpoint, Target

if TYPE_CHECKING:
    from cyfs_gateway.config.model import Config
    from cyfs_gateway.io.engine import Engine
    from cyfs_gateway.io.rtcp import PeerDesk
    from cyfs_gateway.io.speedtest import SpeedTests
    from cyfs_gateway.io.world import World
    from cyfs_gateway.rules.table import RuleTable


def _why_nobodys(config: Config) -> str:
    """Why this machine does not know whose it is, and what to do.  Blocks on the disk."""
    from cyfs_gateway.io.myself import own_store
    from cyfs_ns.io.trusted.store import TrustStore

    try:
        said = own_store(config).view(time.time(), TrustStore(Path(config.home)).anchors())["document"]
    except (BadWire, ConfigFault, OSError) as fault:
        return str(fault)
    if said is None:
        return "this machine has no document that an owner signed: ask for one (id request)"
    return (
        said["fault"]
        or f"nobody is pinned here who could have signed this machine's document: id trust {said['owner']}"
    )


class Errands:
    """See the module's text.  ``world`` is that of now."""

    def __init__(self, engine: Engine, desk: PeerDesk, world: Callable[[], World]) -> None:
        self._engine, self._desk, self._world = engine, desk, world
        self._arrivals: Arrivals | None = None
        self._speedtests: SpeedTests | None = None
        engine.offers.add(SPEEDTEST, Guard(self._may_test_speed, desk.owner), self._open_speedtest)

    # To peers

    async def call(
        self, peer: str, host: str, port: int, near: Callable[[], Awaitable[Endpoint]], *, network: str
    ) -> None:
        """As :meth:`cyfs_gateway.facade.Gateway.call_peer`."""
        # A gateway without tunnels does without what these need.
        from cyfs_gateway.io.owncalls import OwnCall
        from cyfs_ns.identity.did import subject
        from tunnels.io.rtcp import Rtcp

        did = subject(peer, self._world().config.identity.bridges)
        known = await self._desk.way_to(did)
        way = Rtcp(str(did), self._desk, did, known["via"], known["at"])
        await OwnCall(self._engine, way, peer, Target(host, port), network).carry(near)

    async def forget(self, peer: str) -> int:
        """As :meth:`cyfs_gateway.facade.Gateway.forget_peer`."""
        from cyfs_ns.identity.did import subject

        did = subject(peer, self._world().config.identity.bridges)
        return await (await self._desk.device()).forget(did)

    # From peers

    @asynccontextmanager
    async def receiving(self, allow: Sequence[str]) -> AsyncIterator[AsyncIterator[Arrival]]:
        """As :meth:`cyfs_gateway.facade.Gateway.receive_from_peers`."""
        world, offers = self._world(), self._engine.offers
        if world.peer_rules is None:
            raise Refused("the configuration has no section rtcp, so peers are served nothing here")
        from cyfs_gateway.peers import compile_conditions, named_dids

        bridges = world.config.identity.bridges
        rules = [parse_whom(text, bridges) for text in allow]
        allowed = compile_conditions(rules, RECEIVE, world.geo) if rules else None
        if allowed is None and not await self._desk.owner():
            why = await trio.to_thread.run_sync(_why_nobodys, world.config)
            raise Refused(f"{why}; until then say from whom you want to receive (--from)")
        arrivals = Arrivals()
        offers.add(RECEIVE, Guard(lambda: allowed, self._desk.owner), arrivals.open)
        self._arrivals = arrivals
        offers.named = frozenset(did for rule in rules for did in named_dids(rule))
        try:
            yield aiter(arrivals)
        finally:
            self._arrivals, offers.named = None, ()
            offers.remove(RECEIVE)
            arrivals.close()
            self._desk.doubt()  # there may be strangers inside who were let in for this alone

    def awaits(self, id: str) -> bool:
        """As :meth:`cyfs_gateway.facade.Gateway.awaits`."""
        return self._arrivals is not None and self._arrivals.awaits(id)

    def claim(self, id: str, near: Endpoint) -> None:
        """As :meth:`cyfs_gateway.facade.Gateway.claim`."""
        if self._arrivals is None:
            near.close()
        else:
            self._arrivals.claim(id, near)

    # What is always there

    def _may_test_speed(self) -> RuleTable | None:
        rules = self._world().peer_rules
        return None if rules is None else rules.speedtest

    async def _open_speedtest(self, identity: Identity) -> Endpoint:
        from cyfs_gateway.io.speedtest import SpeedTests

        if self._speedtests is None:
            self._speedtests = SpeedTests(self._engine.start)
        return await self._speedtests.open()
