"""One stream to a peer that a command of the owner asked for: opened, joined, and seen by the tracker until it ends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from cyfs_gateway.decide import Decision
from cyfs_gateway.flow import Flow
from cyfs_gateway.io.carried import Carried
from cyfs_gateway.io.engine import Engine
from cyfs_gateway.rules.model import Verdict
from cyfs_ns.errors import Unreachable
from cyfs_ns.names import is_ip
from rtcp.io.leg import Datagrams
from tunnels.endpoint import Endpoint, PacketEndpoint, Target
from tunnels.outbound import Outbound

_DOOR = "COMMAND"
"""What stands for a listener in the list of connections."""


class OwnCall(Carried):
    """``network`` is tcp, or udp for datagrams; ``target`` is as the peer sees it, without a host the peer itself."""

    def __init__(self, engine: Engine, way: Outbound, peer: str, target: Target, network: str) -> None:
        host = target.host
        host, address = ("", host) if is_ip(host) else (host or peer, "")
        super().__init__(engine, Flow(network, "Inner", "", 0, host, address, target.port, _DOOR))
        self._way, self._target = way, target
        self.decision = Decision(Verdict(-1, "", "", way.name, "a command asked for it"), way, (way.name,), None)

    async def carry(self, near: Callable[[], Awaitable[Endpoint]]) -> None:
        """Open it, then join it with what ``near`` gives, and let the reactor go on.

        Raises ``Refused``, ``Unreachable``, and what ``near`` raises.
        """

        async def stream() -> Endpoint:
            return await self._way.open_stream(self._target)

        async def packets() -> tuple[PacketEndpoint, Target]:
            return await self._way.open_packets(self._target), self._target

        async def near_packets() -> Datagrams:
            ours = await near()
            try:
                return Datagrams(ours)
            except BaseException:
                ours.close()
                raise

        try:
            if self.flow.network == "udp":
                await self._carry_packets(packets, near_packets)
            else:
                await self._carry_stream(stream, near)
        except OSError as fault:
            raise Unreachable(str(fault), "tunnel_open") from fault
        self._engine.tracker.add(self)
