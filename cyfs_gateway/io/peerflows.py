"""What peers ask for through their tunnels: each request becomes a flow, and nothing moves before the rules agree.

Their source is proven, so rules may ask who it is; everything else they say is a wish.  Without a service that allows
it, or a rule that speaks of peers, a request is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

import trio

from cyfs_gateway.config.rtcp import DOOR
from cyfs_gateway.decide import Decision
from cyfs_gateway.flow import ANSWERED, PEER, Flow, Identity
from cyfs_gateway.io.carried import Carried
from cyfs_ns.errors import BadWire, ConfigFault, Refused, Unreachable
from cyfs_ns.names import is_ip
from cyfs_ns.trust.level import Purpose as Ask
from rtcp.io.tunnel import StreamRequest
from rtcp.packet import Purpose
from rtcp.party import Peer
from tunnels.authority import parse_host
from tunnels.endpoint import Endpoint, PacketEndpoint, Target
from tunnels.url import TunnelUrl, has_scheme
from tunnels.url import parse as parse_url

if TYPE_CHECKING:
    from cyfs_gateway.io.engine import Engine
    from cyfs_gateway.io.world import World

_HERE: Final = "127.0.0.1"


class PeerFlow(Carried):
    """One request, from the first question to the end of its relay."""

    def __init__(
        self,
        engine: Engine,
        world: World,
        request: StreamRequest,
        identity: Identity,
        on_over: Callable[[], None],
    ) -> None:
        network = "udp" if request.purpose is Purpose.DATAGRAM else "tcp"
        peer, rtcp = request.peer, world.config.rtcp
        source, port = peer.source if is_ip(peer.source) else "", 0
        names = {peer.device, peer.did.canonical} if identity.trust >= Ask.MATCH.least else {peer.device}
        if request.source is not None and rtcp is not None and rtcp.proxy_from & names:
            told, port = ip_address(request.source[0]), request.source[1]
            source = str(getattr(told, "ipv4_mapped", None) or told)
        super().__init__(engine, Flow(network, PEER, source, port, "", "", request.port, DOOR, identity=identity))
        self._world, self._request, self._on_over = world, request, on_over
        self._scope = trio.CancelScope()
        self._why: str | None = None
        self._url: TunnelUrl | None = None

    @property
    def peer(self) -> Peer:
        """Whose request it is."""
        return self._request.peer

    async def serve(self, is_own: Callable[[str], bool]) -> None:
        """Decide, open the way, accept.  ``is_own`` knows the names of this machine.

        Raises ``Refused`` and ``Unreachable``, which the peer hears of.
        """
        try:
            await self._serve(is_own)
        finally:
            if self._running is None:
                self._on_over()

    async def _serve(self, is_own: Callable[[str], bool]) -> None:
        engine = self._engine
        self.decision = await self._decide(is_own)
        leaf = self.decision.leaf
        engine.count(self.decision, self.flow)
        if leaf.kind in ("Reject", "RejectDrop"):
            raise Refused(f"{self.decision.verdict.why}: {leaf.name}")
        engine.tracker.add(self)
        try:
            with self._scope:
                self._scope.deadline = trio.current_time() + engine.timeouts.connect
                if self.flow.network == "udp":
                    await self._carry_packets(self._open_packets, self._request.accept_datagrams)
                else:
                    await self._carry_stream(self._open_stream, self._request.accept)
            if self._scope.cancelled_caught:
                if self._why is not None:
                    raise Refused(self._why)
                raise Unreachable(
                    f"{Target(self.flow.goal, self.flow.dst_port)} did not answer in time", "connect_timeout"
                )
        except OSError as fault:
            raise Unreachable(str(fault), "tunnel_open") from fault
        finally:
            if self._running is None:
                engine.tracker.drop(self)

    async def _decide(self, is_own: Callable[[str], bool]) -> Decision:
        flow, rules, asked = self.flow, self._world.peer_rules, self._request.host
        if rules is None:
            raise Refused("nothing is served here")
        if asked is not None and has_scheme(asked):
            self._read_url(asked)
            return await self._engine.decide(flow, None)
        own = asked is None or is_own(asked)
        if own:
            flow.dst_ip = _HERE
        elif asked is not None:
            try:
                host = parse_host(asked.encode())
            except BadWire as bad:
                raise Refused(str(bad)) from bad
            flow.dst_ip, flow.host = (host, "") if is_ip(host) else ("", host)
            offered = await self._engine.offers.find(flow)
            if offered is not None:
                return offered
        found = rules.service(flow, "" if own else flow.host) if own or flow.host else None
        if found is None:
            return await self._engine.decide(flow, None)
        service, verdict = found
        host, flow.dst_port = service.target.host, service.target.port
        flow.dst_ip, flow.host = (host, "") if is_ip(host) else ("", host)
        return Decision(verdict, self._world.outbounds["DIRECT"], ("DIRECT",), None)

    def _read_url(self, text: str) -> None:
        """The peer wants us to open a URL for it: to another device, with the rights that it has with us."""
        try:
            url = parse_url(text)
            if url.scheme not in ("rtcp", "rudp") or url.params:
                raise ConfigFault("what is opened for peers is rtcp and rudp, and nothing before an @")
            goal = url.destination
        except ConfigFault as fault:
            raise Refused(str(fault)) from fault
        if isinstance(goal, Target) and goal.host.endswith(ANSWERED):
            raise Refused(f"{goal.host} is not asked for in the name of somebody else")
        self._url, self.flow.host = url, url.host
        self.flow.dst_port = goal.port if isinstance(goal, Target) else 0

    async def _open_stream(self) -> Endpoint:
        if self._url is not None:
            self._check_leaf()
            return await self._world.tunnels.open_url(self._url)
        return await self._engine.open_stream(self.decision, self.flow)

    async def _open_packets(self) -> tuple[PacketEndpoint, Target]:
        if self._url is not None:
            self._check_leaf()
            return await self._world.tunnels.open_packets_url(self._url)
        engine, flow, leaf = self._engine, self.flow, self.decision.leaf
        host = flow.goal
        if leaf.kind == "Direct":
            if not is_ip(host):
                addresses = await engine.resolve(host)
                host = engine.settle(flow.identity.did if flow.identity else "", host, addresses)
            engine.refuse_dial(host, flow.dst_port, udp=True)
        target = Target(host, flow.dst_port)
        return await leaf.open_packets(target), target

    def _check_leaf(self) -> None:
        """A URL says the way itself: the rules may agree to that, not send it elsewhere."""
        if self.decision.leaf.kind not in ("Direct", "Rtcp"):
            raise Refused(f"{self.decision.verdict.why}: {self.decision.leaf.name} does not open URLs of peers")

    def _ended(self, relay: object, why: str) -> None:
        super()._ended(relay, why)
        self._on_over()

    def close(self, why: str) -> None:
        if self._running is None:
            self._why = why
            self._scope.cancel()
        super().close(why)
