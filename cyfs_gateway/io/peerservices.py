"""Requests of peers as they come in: a knock at our own door through somebody else's tunnel, or a flow.

Whoever knocks has to prove who they are as at any door.  Through an SN that we belong to they may do so without our
having a door (``rtcp.invalid``), and the SN says where they come from (``cyfs_gateway/told.py``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from cyfs_gateway.flow import ANSWERED, Identity
from cyfs_gateway.io.acquaintance import Acquaintance
from cyfs_gateway.io.peerflows import PeerFlow
from cyfs_gateway.told import believed, is_sn_of
from cyfs_ns.errors import BadWire, Refused
from cyfs_ns.identity.did import Did, subject
from cyfs_ns.trust.level import Purpose as Ask
from rtcp.io.device import Device
from rtcp.io.tunnel import StreamRequest
from rtcp.packet import Purpose
from rtcp.party import Address

if TYPE_CHECKING:
    from cyfs_gateway.io.engine import Engine
    from cyfs_gateway.io.world import World

KNOCK: Final = f"rtcp{ANSWERED}"
"""What an SN asks for when somebody wants a tunnel to us; before it, and a dot, may stand by what name they will go."""
_MOST_EXPECTED: Final = 16
"""Callers of one SN about whom is asked before they have proven who they are."""

_MOST_FLOWS: Final = 4096
"""Of one device; it shall not have all there are."""


class PeerServices:
    """``world`` and ``device`` are those of now; ``ports`` are those of our doors for tunnels."""

    def __init__(
        self,
        engine: Engine,
        world: Callable[[], World],
        acquaintance: Acquaintance,
        device: Callable[[], Device | None],
        ports: Callable[[], frozenset[int]],
    ) -> None:
        self._engine, self._world, self._acquaintance = engine, world, acquaintance
        self._device, self._ports = device, ports
        self._flows: dict[Did, int] = {}
        self._expected: Counter[Did] = Counter()

    def serve(self, request: StreamRequest) -> Awaitable[None]:
        """Raises ``Refused`` and ``Unreachable``, which the peer hears of."""
        device, peer = self._device(), request.peer
        if device is not None and request.port in self._ports() and self._is_own_request(request):
            # Somebody who cannot reach our door knocks at it through a peer, and has to prove who they are as there.
            return self._let_knock(device, request, (str(peer.device), 0))
        identity = self._acquaintance.identity(peer)
        if device is not None and request.purpose is Purpose.STREAM and (caller := _caller(request.host)) is not None:
            return self._expect(device, request, self._told(request, identity), caller)
        asker = peer.device
        count = self._flows.get(asker, 0)
        if count >= _MOST_FLOWS:
            raise Refused(f"{peer.did} has {_MOST_FLOWS} streams here already")
        self._flows[asker] = count + 1
        flow = PeerFlow(self._engine, self._world(), request, identity, partial(self._flow_is_over, asker))
        return flow.serve(self._is_own)

    @staticmethod
    async def _let_knock(device: Device, request: StreamRequest, source: Address) -> None:
        device.accepted(await request.accept(), source)

    async def _expect(self, device: Device, request: StreamRequest, source: Address, caller: str) -> None:
        """As ``_let_knock``; who goes by the name of ``caller`` is found out while the handshake goes on.

        That is only to have it at hand: whoever comes proves a key, and the name is judged as it always is.
        """
        await self._let_knock(device, request, source)
        asker = request.peer.device
        if not caller or self._expected[asker] >= _MOST_EXPECTED:
            return
        self._expected[asker] += 1
        try:
            await self._acquaintance.expect(caller)
        finally:
            self._expected[asker] -= 1
            if not self._expected[asker]:
                del self._expected[asker]

    def _told(self, request: StreamRequest, identity: Identity) -> Address:
        """Where somebody comes from who knocks through the peer of ``request``.  Raises ``Refused``."""
        peer, rtcp = request.peer, self._acquaintance.rtcp
        names = {peer.device, peer.did.canonical} if identity.trust >= Ask.MATCH.least else {peer.device}
        if rtcp.proxy_from.isdisjoint(names) and not is_sn_of(rtcp, names):
            raise Refused(f"{peer.did} is no SN of this machine, so nobody knocks through it")
        return believed(rtcp, names, request.source) or (str(peer.device), 0)

    def _flow_is_over(self, asker: Did) -> None:
        left = self._flows[asker] - 1
        if left:
            self._flows[asker] = left
        else:
            del self._flows[asker]

    def _is_own_request(self, request: StreamRequest) -> bool:
        return request.purpose is Purpose.STREAM and (request.host is None or self._is_own(request.host))

    def _is_own(self, host: str) -> bool:
        device = self._device()
        try:
            return device is not None and device.local.answers_to(subject(host, self._acquaintance.bridges))
        except BadWire:
            return False


def _caller(host: str | None) -> str | None:
    """The name of whoever knocks, as the SN tells it, empty if it does not; None: nobody knocks."""
    if host is None or not host.endswith(KNOCK):
        return None
    name = host.removesuffix(KNOCK)
    return name.rstrip(".") if not name or name.endswith(".") else None
