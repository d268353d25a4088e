"""Who of several roads to a peer leads there first: Happy Eyeballs (RFC 8305 §5) over whatever makes connections.

Connections to the peer's addresses come first: each gets a head start before the next begins beside it, and one that
fails lets the next begin at once.  UDP to the same addresses is tried beside them a little later, for where connections
are not let through; relays a moment after the first attempt, for they carry the first byte when nothing else does.

That somebody answers does not make him the peer: only the handshake tells, and the caller drops that road and comes
back with those left.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

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

Dial = Callable[[str, int], Awaitable[Pipe]]
"""Opens a connection to a host and port.  Raises ``Unreachable`` or ``Refused``."""


@dataclass(frozen=True, slots=True, eq=False)
class Road:
    """One way to the peer, and how it is gone; ``address`` is what ``Paths`` remembers it by, if anything."""

    way: Way
    connect: Connect
    address: Address | None = None


class Roads:
    """All that may lead to a peer.  ``first`` are tried in their order, ``udp`` beside them; ``relays`` finds more."""

    def __init__(
        self,
        first: Iterable[Road],
        udp: Iterable[Road] = (),
        relays: Callable[[], Awaitable[Sequence[Road]]] | None = None,
    ) -> None:
        self.first, self.udp = list(first), list(udp)
        self.relayed: list[Road] = []
        self._relays = relays

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

    @property
    def is_empty(self) -> bool:
        return not (self.first or self.udp or self.relayed or self._relays)

    async def race(self, paths: Paths, head_start: float = HEAD_START) -> tuple[Pipe, Road]:
        """The first connection that stands, and which way.  Raises ``Unreachable`` or ``Refused``: there is none."""
        contest = _Contest(self, paths, head_start)
        with trio.move_on_after(PATIENCE):
            return await contest.run()
        raise Unreachable(f"nobody answered within {PATIENCE:g} s", "connect_timeout")


class _Contest:
    def __init__(self, roads: Roads, paths: Paths, head_start: float) -> None:
        self._roads, self._paths, self._head_start = roads, paths, head_start
        self._winner: tuple[Pipe, Road] | None = None
        self._fault: Unreachable | Refused = Unreachable("no address of the peer is known", "pre_connect_dns")
        self._scope = trio.CancelScope()
        self._began = trio.current_time()

    async def run(self) -> tuple[Pipe, Road]:
        try:
            with self._scope:
                async with trio.open_nursery() as beside:
                    for road in self._roads.udp:
                        beside.start_soon(self._later, _UDP_AFTER, road)
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._go_all, self._roads.first)
                        nursery.start_soon(self._go_relayed)
                    beside.cancel_scope.deadline = max(self._began + _UDP_AFTER, trio.current_time()) + _UDP_ALONE
        except BaseException:
            if self._winner is not None:
                self._winner[0].close()
            raise
        if self._winner is None:
            raise self._fault
        return self._winner

    async def _go_relayed(self) -> None:
        try:
            relayed = await self._roads.find_relays()
        except (Unreachable, Refused) as fault:
            self._fault = fault
            return
        if self._roads.first:
            await trio.sleep_until(self._began + _RELAYS_AFTER)
        await self._go_all(relayed)

    async def _go_all(self, roads: Sequence[Road]) -> None:
        async with trio.open_nursery() as attempts:
            for road in list(roads):
                ended = trio.Event()
                attempts.start_soon(self._go, road, ended)
                with trio.move_on_after(self._head_start):
                    await ended.wait()

    async def _later(self, seconds: float, road: Road) -> None:
        await trio.sleep(seconds)
        await self._go(road, trio.Event())

    async def _go(self, road: Road, ended: trio.Event) -> None:
        begun = trio.current_time()
        try:
            pipe = await road.connect()
        except (Unreachable, Refused) as fault:
            self._fault = fault
            if road.address is not None:
                self._paths.failed(road.address)
        else:
            if road.address is not None:
                self._paths.worked(road.address, trio.current_time() - begun)
            if self._winner is None:
                self._winner = pipe, road
                self._scope.cancel()
            else:
                pipe.close()
        ended.set()
