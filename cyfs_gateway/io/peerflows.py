"""What peers ask for through their tunnels: each request becomes a flow, and nothing moves before the rules agree.

Their source is proven, so rules may ask who it is; everything else they say is a wish.  Without a service that allows
it, or a rule that speaks of peers, a request is refused.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import trio

from cyfs_gateway.config.model import ServiceConfig
from cyfs_gateway.config.rtcp import DOOR
from cyfs_gateway.decide import Decision
from cyfs_gateway.flow import ANSWERED, PEER, Flow, Identity
from cyfs_gateway.io.carried import Carried
from cyfs_gateway.io.offers import Hosted
from cyfs_gateway.rules.model import Verdict
from cyfs_gateway.sn.ingress import TLS_PORT
from cyfs_gateway.told import believed
from cyfs_ns.errors import BadWire, ConfigFault, Refused, Unreachable
from cyfs_ns.names import is_ip
from cyfs_ns.trust.level import Purpose as Ask
from rtcp.io.judging import DONE, MuxedRequest
from rtcp.io.pipe import break_off
from rtcp.io.tunnel import StreamRequest
from rtcp.packet import Purpose
from rtcp.party import Peer
from tunnels.authority import parse_host
from tunnels.endpoint import Endpoint, PacketEndpoint, Target
from tunnels.io.leaf import Direct
from tunnels.io.relay import Relay
from tunnels.io.waiting import carries_sealed, send_all
from tunnels.proxyproto import build_v2
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
        if rtcp is not None and request.source is not None:
            names = {peer.device, peer.did.canonical} if identity.trust >= Ask.MATCH.least else {peer.device}
            source, port = believed(rtcp, names, request.source) or (source, port)
        super().__init__(engine, Flow(network, PEER, source, port, "", "", request.port, DOOR, identity=identity))
        self._world, self._request, self._on_over = world, request, on_over
        self._scope: trio.CancelScope | None = None
        self._why: str | None = None
        self._url: TunnelUrl | None = None
        self._service: ServiceConfig | None = None

    @property
    def peer(self) -> Peer:
        """Whose request it is."""
        return self._request.peer

    def serve(self, is_own: Callable[[str], bool]) -> Awaitable[None]:
        """Decide, open the way, accept; all of it at once if nothing has to be waited for (``DONE``).

        ``is_own`` knows the names of this machine.  Raises ``Refused`` and ``Unreachable``, which the peer hears of.
        """
        try:
            decided = self._decide_at_once(is_own)
            if decided is not None and self._carry_at_once(decided):
                return DONE
        except BaseException:
            self._on_over()
            raise
        return self._serve_in_time(is_own, decided)

    async def _serve_in_time(self, is_own: Callable[[str], bool], decided: Decision | None) -> None:
        try:
            await self._serve(is_own, decided)
        finally:
            if self._running is None:
                self._on_over()

    async def _serve(self, is_own: Callable[[str], bool], decided: Decision | None) -> None:
        engine = self._engine
        if decided is None:
            decided = await self._decide(is_own)
            engine.count(decided, self.flow)
        self.decision, leaf = decided, decided.leaf
        if leaf.kind in ("Reject", "RejectDrop"):
            raise Refused(f"{self.decision.verdict.why}: {leaf.name}")
        engine.tracker.add(self)
        try:
            with trio.CancelScope() as self._scope:
                self._scope.deadline = trio.current_time() + engine.timeouts.connect
                if isinstance(leaf, Hosted):
                    await self._hand_over(leaf)
                elif self.flow.network == "udp":
                    await self._carry_packets(self._open_packets, self._request.accept_datagrams)
                else:
                    await self._carry_stream(self._open_stream, self._accept)
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
        found = self._find_service(is_own)
        if found is not None:
            return self._serve_by(*found)
        return await self._engine.offers.find(flow) or await self._engine.decide(flow, None)

    def _find_service(self, is_own: Callable[[str], bool]) -> tuple[ServiceConfig, Verdict] | None:
        """Which service of this machine is asked for, and where the flow goes, whatever it is for.  Raises
        ``Refused``."""
        flow, asked, rules = self.flow, self._request.host, self._world.peer_rules
        assert rules is not None
        if asked is None or is_own(asked):
            flow.dst_ip = _HERE
            return rules.service(flow, "") or self._engine.offers.port(flow)
        try:
            host = parse_host(asked.encode())
        except BadWire as bad:
            raise Refused(str(bad)) from bad
        flow.dst_ip, flow.host = (host, "") if is_ip(host) else ("", host)
        return None if not flow.host or host.endswith(ANSWERED) else rules.service(flow, host)

    def _serve_by(self, service: ServiceConfig, verdict: Verdict) -> Decision:
        flow, host = self.flow, service.target.host
        self._service, flow.dst_port = service, service.target.port
        flow.dst_ip, flow.host = (host, "") if is_ip(host) else ("", host)
        return Decision(verdict, self._world.outbounds["DIRECT"], ("DIRECT",), None)

    def _decide_at_once(self, is_own: Callable[[str], bool]) -> Decision | None:
        """If it is for a service of this machine; None: something may have to be waited for.  Raises ``Refused``."""
        rules, request = self._world.peer_rules, self._request
        if rules is None or request.purpose is not Purpose.STREAM or not isinstance(request, MuxedRequest):
            return None
        if request.host is not None and has_scheme(request.host):
            return None
        found = self._find_service(is_own)
        if found is None:
            return None
        decided = self._serve_by(*found)
        self._engine.count(decided, self.flow)
        return decided

    def _carry_at_once(self, decided: Decision) -> bool:
        """Join what listens on this machine with the peer, if it answers in no time."""
        engine, flow, leaf, request = self._engine, self.flow, decided.leaf, self._request
        assert isinstance(request, MuxedRequest) and self._service is not None
        if not isinstance(leaf, Direct):
            return False
        self.decision = decided
        try:
            far = leaf.sockets.connect_here(Target(flow.dst_ip, flow.dst_port))
            if far is None:
                return False
            try:
                if self._service.proxy_protocol:
                    far.send(self._proxy_header())  # which any connection takes whole that has just begun
                near = request.accept_now()
                self._know_sealed(near)
                try:
                    engine.check_descriptor(near.fileno())
                    engine.reactor.freshen()
                    engine.tracker.add(self)
                    self._running = Relay(engine.reactor, near, far, idle=engine.timeouts.idle, on_close=self._ended)
                except BaseException:
                    break_off(near)  # it was told yes
                    near.close()
                    raise
            except BaseException:
                far.close()
                engine.tracker.drop(self)
                raise
        except OSError as fault:
            raise Unreachable(str(fault), "tunnel_open") from fault
        return True

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

    async def _hand_over(self, to: Hosted) -> None:
        assert self.flow.identity is not None
        identity = replace(self.flow.identity, source=self.peer.source if is_ip(self.peer.source) else "")
        pipe = await self._request.accept()
        try:
            self._engine.check_descriptor(pipe.fileno())
        except OSError:
            pipe.close()
            raise
        self._running = to.hand(identity, pipe, self._ended)

    async def _accept(self) -> Endpoint:
        pipe = await self._request.accept()
        self._know_sealed(pipe)
        return pipe

    def _know_sealed(self, pipe: Endpoint) -> None:
        """What an SN leads here, and says of that it is TLS, may come as it is."""
        if self._service is not None and self._service.hosts and self._request.port == TLS_PORT:
            carries_sealed(pipe)

    async def _open_stream(self) -> Endpoint:
        if self._url is not None:
            self._check_leaf()
            return await self._world.tunnels.open_url(self._url)
        far = await self._engine.open_stream(self.decision, self.flow)
        if self._service is not None and self._service.proxy_protocol:
            try:
                await send_all(far, self._proxy_header())
            except BaseException:
                far.close()
                raise
        return far

    def _proxy_header(self) -> bytes:
        """Who comes, as far as it is known; the address they came to is their side's, so it is left open."""
        source = Target(self.flow.src_ip, self.flow.src_port)
        return build_v2(source, Target("::" if ":" in source.host else "0.0.0.0", self._request.port))

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
            assert self._scope is not None
            self._scope.cancel()
        super().close(why)
