"""Requests of peers as they come in: a knock at our own door through somebody else's tunnel, or a flow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from cyfs_gateway.io.acquaintance import Acquaintance
from cyfs_gateway.io.peerflows import PeerFlow
from cyfs_ns.errors import BadWire, Refused
from cyfs_ns.identity.did import Did, subject
from rtcp.io.device import Device
from rtcp.io.tunnel import StreamRequest
from rtcp.packet import Purpose

if TYPE_CHECKING:
    from cyfs_gateway.io.engine import Engine
    from cyfs_gateway.io.world import World

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
        self._flows: Counter[Did] = Counter()

    async def serve(self, request: StreamRequest) -> None:
        """Raises ``Refused`` and ``Unreachable``, which the peer hears of."""
        device = self._device()
        if device is not None and request.port in self._ports() and self._is_own_request(request):
            # Somebody who cannot reach our door knocks at it through a peer, and has to prove who they are as there.
            device.accepted(await request.accept(), (str(request.peer.device), 0))
            return
        asker = request.peer.device
        if self._flows[asker] >= _MOST_FLOWS:
            raise Refused(f"{request.peer.did} has {_MOST_FLOWS} streams here already")
        self._flows[asker] += 1
        identity = self._acquaintance.identity(request.peer)
        flow = PeerFlow(self._engine, self._world(), request, identity, partial(self._flow_is_over, asker))
        await flow.serve(self._is_own)

    def _flow_is_over(self, asker: Did) -> None:
        self._flows[asker] -= 1
        if not self._flows[asker]:
            del self._flows[asker]

    def _is_own_request(self, request: StreamRequest) -> bool:
        return request.purpose is Purpose.STREAM and (request.host is None or self._is_own(request.host))

    def _is_own(self, host: str) -> bool:
        device = self._device()
        try:
            return device is not None and device.local.answers_to(subject(host, self._acquaintance.bridges))
        except BadWire:
            return False
