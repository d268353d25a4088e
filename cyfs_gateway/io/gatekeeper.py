"""Who is let in, and who has to go again.

Those who are inside are judged again whenever that may have changed (``vigil``), in two steps.  A key that is revoked
here ends all it does at once, and so do rules for those who are a key and nothing else.  Whoever goes by a name is
looked up, with whom that takes as long as others take to answer.  Whom a module bars goes at once, known or not, and
whoever dialled; nor is such a one dialled again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import trio

from cyfs_gateway.flow import Identity
from cyfs_gateway.host import Barred
from cyfs_gateway.io.acquaintance import Acquaintance, key_of
from cyfs_gateway.io.leads import Leads
from cyfs_gateway.io.peerflows import PeerFlow
from cyfs_gateway.peers import check_not_revoked, nobody_but
from cyfs_ns.errors import Refused, Unreachable
from cyfs_ns.io.logs import SeldomLine
from cyfs_ns.trust.anchors import Anchors
from rtcp.admission import Proven, Standing
from rtcp.io.mux import MuxedTunnel
from rtcp.io.roll import AnyTunnel
from rtcp.party import Peer
from rtcp.v5.closing import CloseCode
from tunnels.io.rtcp import Rtcp, RtcpProxy

if TYPE_CHECKING:
    from cyfs_gateway.io.engine import Engine
    from cyfs_gateway.io.tracker import Tracked
    from cyfs_gateway.io.world import World

_UNWANTED = "not wanted any more"

_log = logging.getLogger("cyfs.peers")


@dataclass(frozen=True, slots=True)
class Insider:
    """Somebody who was let in, or dialled; without a tunnel there are streams left."""

    peer: Peer
    tunnel: AnyTunnel | None


class Gatekeeper:
    """``world`` is that of now, ``tunnels`` are those that stand."""

    def __init__(
        self,
        engine: Engine,
        world: Callable[[], World],
        acquaintance: Acquaintance,
        leads: Leads,
        tunnels: Callable[[], Sequence[AnyTunnel]],
    ) -> None:
        self._engine, self._world, self._tunnels = engine, world, tunnels
        self._acquaintance, self._leads = acquaintance, leads
        self._stranded: set[AnyTunnel] = set()
        """Whose door is closed."""
        self._turned_away = SeldomLine(_log, "no tunnel for a peer: %s")
        self._blind = SeldomLine(_log, "tunnels that stand are left as they are: %s")

    # At the door.  The reason goes to whoever knocks, and what lacks here is not for them.

    async def vouch(self, proven: Proven) -> Standing:
        """What is known of the name that a stranger goes by, who brought a document for it."""
        did = proven.named.canonical
        try:
            known = await self._acquaintance.know_bearer(proven)
        except (Refused, Unreachable) as fault:
            as_key = nobody_but(proven.device, self._acquaintance.bridges)
            if self._engine.offers.wants(as_key):
                return Standing(key=proven.key, about=as_key, by_key=True)
            self._turned_away.tell(fault)
            if isinstance(fault, Refused) and not self._engine.offers.expected:
                raise Refused(f"nothing here proves who {did} is, and strangers are not let in") from fault
            raise Unreachable(f"who {did} is cannot be found out just now", "pre_connect_dns") from fault
        if known.key != proven.key:
            # Whoever had the name before is told by those who know.
            self._engine.offers.check_not_barred(replace(known.identity, device=str(proven.device)))
        return Standing(key=known.key, about=known.identity)

    async def welcome(self, peer: Peer) -> None:
        """Raises ``Refused`` if no tunnel from ``peer`` is wanted, ``Unreachable`` if that cannot be told now."""
        try:
            check_not_revoked(key_of(peer), await self._acquaintance.anchors_of_now())
            self._engine.offers.check_not_barred(self._coming(peer))
            self._admit(peer)
        except Barred as no:
            self._turned_away.tell(no)
            raise
        except Refused as no:
            self._turned_away.tell(no)
            raise Refused(f"no tunnel for {peer.did}") from no
        except Unreachable as fault:
            self._turned_away.tell(fault)
            raise Unreachable(f"whether there is a tunnel for {peer.did} cannot be told just now", "other") from fault

    def expects(self, peer: Peer) -> bool:
        """Whether a module wants a tunnel from ``peer``, and so bounds how many of its kind there are."""
        try:
            return self._engine.offers.wants(self._coming(peer))
        except Barred:
            return False

    def _coming(self, peer: Peer) -> Identity:
        """Who it is, and from where."""
        return replace(self._acquaintance.identity(peer), source=peer.source)

    def _admit(self, peer: Peer) -> None:
        rules, offers, identity = self._world().peer_rules, self._engine.offers, self._coming(peer)
        if rules is None:
            raise Refused("nobody is let in here")
        try:
            rules.admit(peer.source, identity, offers.named, lambda: offers.wants(identity))
        except Refused as no:
            if offers.expected:
                raise Unreachable(f"{no}; but not everybody who judges that has begun", "other") from no
            raise

    # Inside

    def strand(self, tunnels: Iterable[AnyTunnel]) -> None:
        """Their door is closed: they are to come in by another."""
        self._stranded = set(tunnels)

    async def sweep(self) -> list[Insider]:
        """Put out whoever has to go by what is known here.  Those who have to be looked up are returned."""
        anchors = await self._anchors()
        if anchors is None:
            return []
        stranded, doubtful = self._stranded, []
        for one in self._inside():
            tunnel = one.tunnel
            if not self._may_stay(one, anchors, at_length=one.peer.did.key is None):
                continue
            if tunnel in stranded and not tunnel.over.is_set():
                _log.info("the tunnel from %s ends, to come in by another door", one.peer.did)
                tunnel.close()
            elif one.peer.did.key is None:
                doubtful.append(one)
            await trio.lowlevel.checkpoint()
        stranded.clear()
        return doubtful

    async def _anchors(self) -> Anchors | None:
        """None: nobody is judged by pins that cannot be read."""
        try:
            return await self._acquaintance.anchors()
        except (Refused, Unreachable) as fault:
            self._blind.tell(fault)
            return None

    def _inside(self) -> list[Insider]:
        inside = [Insider(tunnel.peer, tunnel) for tunnel in self._tunnels()]
        # Streams of version 4 outlive their tunnel.
        flows = [flow for flow in self._engine.tracker if isinstance(flow, PeerFlow)]
        left = {flow.peer.device: flow.peer for flow in flows}
        for each in inside:
            left.pop(each.peer.device, None)
        return [*inside, *(Insider(peer, None) for peer in left.values())]

    async def judge(self, one: Insider) -> None:
        """Put out one who goes by a name, if that is not theirs any more."""
        peer = one.peer if one.tunnel is None else one.tunnel.peer
        try:
            about = await self._acquaintance.who_now(peer)
            one = replace(one, peer=replace(peer, about=about))
            if one.tunnel is not None:
                one.tunnel.peer = one.peer
            self._may_stay(one, await self._acquaintance.anchors_of_now())
        except Unreachable as fault:
            _log.debug("%s cannot be judged again now: %s", one.peer.did, fault)
        except Refused as no:
            if await self._anchors() is not None:
                self._put_out(one, str(no))

    def _may_stay(self, one: Insider, anchors: Anchors, *, at_length: bool = False) -> bool:
        """As far as is known here; whoever may not is put out.  ``at_length``: rules wait for who it is by now."""
        try:
            check_not_revoked(key_of(one.peer), anchors)
            self._engine.offers.check_not_barred(self._coming(one.peer))
            if not one.peer.dialled and not at_length:
                self._admit(one.peer)
        except Refused as no:
            self._put_out(one, str(no), told=str(no) if isinstance(no, Barred) else _UNWANTED)
            return False
        except Unreachable:
            return True  # whoever has begun by then judges again
        return True

    def _put_out(self, one: Insider, why: str, *, told: str = _UNWANTED) -> None:
        """End its tunnel, which it is ``told`` the reason of, and what it does here."""
        _log.warning("the tunnel to %s ends: %s", one.peer.did, why)
        if isinstance(one.tunnel, MuxedTunnel):
            one.tunnel.close(CloseCode.REFUSED, told)
        elif one.tunnel is not None:
            one.tunnel.close()
        for flow in self._engine.tracker:
            if self._is_with(flow, one.peer):
                flow.close(why)

    def _is_with(self, flow: Tracked, peer: Peer) -> bool:
        """Whether ``flow`` comes from ``peer``, or goes to it."""
        if isinstance(flow, PeerFlow):
            return flow.peer.device == peer.device
        leaf = flow.decision.leaf
        whom = leaf.peer_for(flow.flow.goal) if isinstance(leaf, Rtcp | RtcpProxy) else None
        return whom is not None and bool({peer.did, peer.device} & {whom.canonical, *self._leads.led_to(whom)})
