"""One stream to a peer that a command of the owner asked for: opened, joined, and seen by the tracker until it ends."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import ExitStack

from cyfs_gateway.decide import Decision
from cyfs_gateway.flow import Flow
from cyfs_gateway.io.engine import Engine
from cyfs_gateway.io.peerflows import PacketRelay
from cyfs_gateway.rules.model import Verdict
from cyfs_ns.errors import Unreachable
from cyfs_ns.names import is_ip
from rtcp.io.leg import Datagrams
from tunnels.endpoint import Endpoint, Target
from tunnels.io.relay import Relay
from tunnels.outbound import Outbound

_DOOR = "COMMAND"
"""What stands for a listener in the list of connections."""

_log = logging.getLogger("cyfs.peers")


class OwnCall:
    """``network`` is tcp, or udp for datagrams; ``target`` is as the peer sees it, without a host the peer itself."""

    def __init__(self, engine: Engine, way: Outbound, peer: str, target: Target, network: str) -> None:
        self.number = 0
        self.start = engine.reactor.now
        self._engine, self._way, self._target = engine, way, target
        self._running: Relay | PacketRelay | None = None
        host = target.host
        host, address = ("", host) if is_ip(host) else (host or peer, "")
        self.flow = Flow(network, "Inner", "", 0, host, address, target.port, _DOOR)
        self.decision = Decision(Verdict(-1, "", "", way.name, "a command asked for it"), way, (way.name,), None)

    async def carry(self, near: Callable[[], Awaitable[Endpoint]]) -> None:
        """Open it, then join it with what ``near`` gives, and let the reactor go on.

        Raises ``Refused``, ``Unreachable``, and what ``near`` raises.
        """
        try:
            await (self._carry_packets(near) if self.flow.network == "udp" else self._carry_stream(near))
        except OSError as fault:
            raise Unreachable(str(fault), "tunnel_open") from fault
        if self._running is not None:
            self._engine.tracker.add(self)

    async def _carry_stream(self, near: Callable[[], Awaitable[Endpoint]]) -> None:
        with ExitStack() as unless_it_runs:
            far = await self._way.open_stream(self._target)
            unless_it_runs.callback(far.close)
            self._engine.check_descriptor(far.fileno())
            ours = await near()
            unless_it_runs.callback(ours.close)
            reactor = self._engine.reactor
            reactor.freshen()
            relay = Relay(reactor, ours, far, idle=self._engine.timeouts.idle, on_close=self._ended)
            unless_it_runs.pop_all()
        self._running = None if relay.closed else relay

    async def _carry_packets(self, near: Callable[[], Awaitable[Endpoint]]) -> None:
        with ExitStack() as unless_it_runs:
            far = await self._way.open_packets(self._target)
            unless_it_runs.callback(far.close)
            self._engine.check_descriptor(far.fileno(), datagrams=True)
            stream = await near()
            unless_it_runs.callback(stream.close)
            ours = Datagrams(stream)
            self._engine.reactor.freshen()
            self._running = PacketRelay(self._engine, ours, far, self._target, self._ended)
            unless_it_runs.pop_all()

    def _ended(self, _: object, why: str) -> None:
        self._engine.tracker.drop(self)
        if why:
            _log.debug("%s by %s ended: %s", self._target, self._way.name, why)

    # What the tracker asks

    def counters(self) -> tuple[int, int]:
        return (self._running.up, self._running.down) if self._running is not None else (0, 0)

    def remote(self) -> str:
        return self._running.remote() if self._running is not None else ""

    def close(self, why: str) -> None:
        if self._running is not None:
            self._running.close(why)
