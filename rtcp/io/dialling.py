"""Who of several roads to a peer leads there first: Happy Eyeballs (RFC 8305 §5) over whatever makes connections.

Connections to the peer's addresses come first: each gets a head start before the next begins beside it, and one that
fails lets the next begin at once.  UDP to the same addresses is tried beside them a little later, for where connections
are not let through; relays a moment after the first attempt, for they carry the first byte when nothing else does.

Addresses that are still being looked for join when they are there (``late``), and hold up nobody.

That somebody answers does not make him the peer: only the handshake tells.  So whoever knows how to begin one races up
to where the peer has proven itself (§3.5 of docs/rtcp-v5.md).  What comes of a road later is its caller's to see, who
drops it and comes back with those left.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import trio

from cyfs_ns.errors import Refused, Unreachable
from rtcp.io.commons import Connect
from rtcp.io.pipe import Pipe
from rtcp.nat.race import Way
from rtcp.party import Address
from rtcp.paths import Paths

HEAD_START = 0.25
PATIENCE = 10.0
"""Seconds for all roads together."""
_UDP_AFTER, _UDP_ALONE = 0.01, 0.5
"""Seconds until UDP begins, and how long it goes on when all else has failed."""
_RELAYS_AFTER = 0.02


class _Closable(Protocol):
    def close(self) -> None: ...


_Met = TypeVar("_Met", bound=_Closable)

Dial = Callable[[str, int], Awaitable[Pipe]]
"""Opens a connection to a host and port.  Raises ``Unreachable`` or ``Refused``."""


@dataclass(frozen=True, slots=True, eq=False)
class Road:
    """One way to the peer, and how it is gone; ``address`` is what ``Paths`` remembers it by, if anything.

    ``hasten`` opens a connection that may lead nowhere, for whoever finds out by what the peer says; a road that
    ``is_blind`` has no other.
    """

    way: Way
    connect: Connect
    address: Address | None = None
    hasten: Connect | None = None
    is_blind: bool = False


class Roads:
    """All that may lead to a peer.  ``first`` are tried in their order, ``udp`` beside them; ``relays`` finds relays,
    ``late`` more of the others."""

    def __init__(
        self,
        first: Iterable[Road],
        udp: Iterable[Road] = (),
        relays: Callable[[], Awaitable[Sequence[Road]]] | None = None,
        late: Callable[[], Awaitable[Roads]] | None = None,
    ) -> None:
        self.first, self.udp = list(first), list(udp)
        self.relayed: list[Road] = []
        self._relays, self._late = relays, late

    def drop(self, road: Road) -> None:
        """It does not lead to the peer."""
        for each in (self.first, self.udp, self.relayed):
            if road in each:
                each.remove(road)

    async def find_relays(self) -> list[Road]:
        """Those that are left; the first call asks for them."""
        if self._relays is not None:
            relays, self._relays = self._relays, None
            self.relayed = list(await relays())
        return self.relayed

    async def find_late(self) -> Roads:
        """Those that came late, which from then on are among all; there are some once."""
        if self._late is None:
            return Roads(())
        late, self._late = await self._late(), None
        new = Roads(_but(late.first, self.first), _but(late.udp, self.udp))
        self.first += new.first
        self.udp += new.udp
        return new

    @property
    def is_empty(self) -> bool:
        return not (self.first or self.udp or self.relayed or self._relays or self._late)

    async def race(self, paths: Paths, head_start: float = HEAD_START) -> tuple[Pipe, Road]:
        """The first connection that stands, and which way.  Raises ``Unreachable`` or ``Refused``: there is none."""
        return await _Contest(self, paths, _any, head_start=head_start, hastens=False).run()

    async def meet(self, paths: Paths, greet: Callable[[Pipe, Road], Awaitable[_Met]]) -> tuple[_Met, Road]:
        """What ``greet`` makes of the first connection on which it finds the peer, and which way; others are closed.

        ``greet`` takes connections over, has its own patience, and raises ``Unreachable`` and ``Refused``, as this.
        """
        return await _Contest(self, paths, greet, head_start=HEAD_START, hastens=True).run()


def _but(roads: Iterable[Road], known: Iterable[Road]) -> list[Road]:
    ways = {road.way for road in known}
    return [road for road in roads if road.way not in ways]


async def _any(pipe: Pipe, road: Road) -> Pipe:
    """Whoever answers will do."""
    return pipe


class _Contest(Generic[_Met]):
    def __init__(
        self,
        roads: Roads,
        paths: Paths,
        greet: Callable[[Pipe, Road], Awaitable[_Met]],
        *,
        head_start: float,
        hastens: bool,
    ) -> None:
        self._roads, self._paths, self._greet = roads, paths, greet
        self._head_start, self._hastens = head_start, hastens
        self._winner: tuple[_Met, Road] | None = None
        self._fault: Unreachable | Refused = Unreachable("no address of the peer is known", "pre_connect_dns")
        self._scope = trio.CancelScope()
        self._began = trio.current_time()
        self._greeting: trio.Nursery
        self._greeted: list[tuple[float, trio.Event]] = []
        """Connections that stand: until when they are waited for, and what tells that they came to nothing."""

    async def run(self) -> tuple[_Met, Road]:
        try:
            with self._scope:
                async with trio.open_nursery() as self._greeting:
                    with trio.move_on_at(self._began + PATIENCE) as patience:
                        await self._connect()
                    if patience.cancelled_caught:
                        self._fault = Unreachable(f"nobody answered within {PATIENCE:g} s", "connect_timeout")
        except BaseException:
            if self._winner is not None:
                self._winner[0].close()
            raise
        if self._winner is None:
            raise self._fault
        return self._winner

    async def _connect(self) -> None:
        async with trio.open_nursery() as beside:
            for road in self._roads.udp:
                beside.start_soon(self._later, _UDP_AFTER, road)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._go_all, self._roads.first)
                nursery.start_soon(self._go_relayed)
                nursery.start_soon(self._go_late, beside)
            beside.cancel_scope.deadline = max(self._began + _UDP_AFTER, trio.current_time()) + _UDP_ALONE

    async def _go_relayed(self) -> None:
        try:
            relayed = await self._roads.find_relays()
        except (Unreachable, Refused) as fault:
            self._fault = fault
            return
        if self._roads.first:
            await trio.sleep_until(self._began + _RELAYS_AFTER)
        await self._yield()
        await self._go_all(relayed)

    async def _go_late(self, beside: trio.Nursery) -> None:
        try:
            late = await self._roads.find_late()
        except (Unreachable, Refused) as fault:
            self._fault = fault
            return
        for road in late.udp:
            beside.start_soon(self._later, _UDP_AFTER, road)
        await self._go_all(late.first)

    async def _go_all(self, roads: Sequence[Road]) -> None:
        async with trio.open_nursery() as attempts:
            for road in list(roads):
                ended = trio.Event()
                attempts.start_soon(self._go, road, ended)
                with trio.move_on_after(self._head_start):
                    await ended.wait()

    async def _later(self, seconds: float, road: Road) -> None:
        await trio.sleep(seconds)
        await self._yield()
        await self._go(road, trio.Event())

    async def _yield(self) -> None:
        """Somebody answered, and is about to tell whether it is the peer: that has a head start, too, since a second
        handshake costs the peer as much as the first."""
        for until, ended in list(self._greeted):
            with trio.move_on_at(until):
                await ended.wait()

    async def _go(self, road: Road, ended: trio.Event) -> None:
        begun = trio.current_time()
        try:
            hasten = road.hasten if self._hastens else None
            pipe = await (hasten or road.connect)()
        except (Unreachable, Refused) as fault:
            self._failed(road, fault)
            ended.set()
        else:
            if road.address is not None:
                self._paths.worked(road.address, trio.current_time() - begun)
            self._greeted.append((trio.current_time() + HEAD_START, ended))
            self._greeting.start_soon(self._meet, pipe, road, ended)

    async def _meet(self, pipe: Pipe, road: Road, ended: trio.Event) -> None:
        try:
            met = await self._greet(pipe, road)
        except (Unreachable, Refused) as fault:
            self._failed(road, fault)
        else:
            if self._winner is None:
                self._winner = met, road
                self._scope.cancel()
            else:
                met.close()
        ended.set()

    def _failed(self, road: Road, fault: Unreachable | Refused) -> None:
        self._fault = fault
        if road.address is not None:
            self._paths.failed(road.address)
