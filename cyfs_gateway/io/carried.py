"""A flow that a tunnel is one side of, as the tracker sees it: how both its sides are opened, joined and let go of.

Who asked for it, a peer or a command of the owner, and by what right is its subclass's business.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

from cyfs_gateway.decide import Decision
from cyfs_gateway.flow import Flow
from cyfs_gateway.io.offers import Handed
from cyfs_gateway.io.packetrelay import PacketRelay
from rtcp.io.pipe import DatagramPipe, break_off
from tunnels.endpoint import Endpoint, PacketEndpoint, Target
from tunnels.io.relay import Relay

if TYPE_CHECKING:
    from cyfs_gateway.io.engine import Engine

_log = logging.getLogger("cyfs.peers")


class Carried:
    """Whoever begins it adds it to the tracker, from which its end takes it."""

    decision: Decision

    def __init__(self, engine: Engine, flow: Flow) -> None:
        self.number = 0
        self.start = engine.reactor.now
        self.flow = flow
        self._engine = engine
        self._running: Relay | PacketRelay | Handed | None = None

    async def _carry_stream(
        self, open_far: Callable[[], Awaitable[Endpoint]], open_near: Callable[[], Awaitable[Endpoint]]
    ) -> None:
        """Open the far side, then the near one, which waits for that, and have the reactor go on.

        Raises what either raises, and ``OSError`` when they took one of the last descriptors.
        """
        engine = self._engine
        with ExitStack() as unless_it_runs:
            far = await open_far()
            unless_it_runs.callback(far.close)
            engine.check_descriptor(far.fileno())
            near = await open_near()
            unless_it_runs.callback(near.close)
            unless_it_runs.callback(break_off, near)  # it was told yes
            engine.check_descriptor(near.fileno())
            engine.reactor.freshen()
            self._running = Relay(engine.reactor, near, far, idle=engine.timeouts.idle, on_close=self._ended)
            unless_it_runs.pop_all()

    async def _carry_packets(
        self,
        open_far: Callable[[], Awaitable[tuple[PacketEndpoint, Target]]],
        open_near: Callable[[], Awaitable[DatagramPipe]],
    ) -> None:
        """As ``_carry_stream``, for datagrams; the far side comes with where they go."""
        engine = self._engine
        with ExitStack() as unless_it_runs:
            far, target = await open_far()
            unless_it_runs.callback(far.close)
            engine.check_descriptor(far.fileno(), datagrams=True)
            near = await open_near()
            unless_it_runs.callback(near.close)
            engine.check_descriptor(near.fileno(), datagrams=True)
            engine.reactor.freshen()
            self._running = PacketRelay(engine, near, far, target, self._ended)
            unless_it_runs.pop_all()

    def _ended(self, _: object, why: str) -> None:
        self._engine.tracker.drop(self)
        if why:
            flow = self.flow
            whose = flow.identity.did if flow.identity is not None else flow.in_name
            _log.debug("%s -> %s ended: %s", whose, Target(flow.goal, flow.dst_port), why)

    # What the tracker asks

    def counters(self) -> tuple[int, int]:
        return (self._running.up, self._running.down) if self._running is not None else (0, 0)

    def remote(self) -> str:
        return self._running.remote() if self._running is not None else ""

    def close(self, why: str) -> None:
        if self._running is not None:
            self._running.close(why)
