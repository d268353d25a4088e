"""The roll: which tunnels of a device stand, and with whom.

Both who dials and who is dialled write here.  A tunnel of version 4 has a task, which this module runs; one of version
5 has none, and says by itself when it is over.
"""

from __future__ import annotations

from typing import TypeAlias

import trio

from cyfs_ns.errors import Refused
from cyfs_ns.identity.did import Did
from cyfs_ns.io.logs import SeldomLine
from rtcp.io.mux import MuxedTunnel
from rtcp.io.pipe import log
from rtcp.io.tunnel import Tunnel
from rtcp.party import Local
from rtcp.registry import DUPLICATE, Register, TunnelKey
from rtcp.v5.closing import Close, CloseCode

AnyTunnel: TypeAlias = Tunnel | MuxedTunnel

_MOST_OF_ONE = 4
"""Tunnels of version 5 that one process of a peer may have called: other ways around."""
_MOST_NEWS = 6
"""Lines of the log in a minute about the tunnels of one device, which may call as often as it likes."""
_RETURNS = 5.0
"""Seconds after which whoever left is not expected back any more."""


class Roll:
    """Written by ``device`` and ``reception``."""

    def __init__(self, local: Local) -> None:
        self.local = local
        """May be replaced by another for the same key, when the device document is renewed."""
        self.register: Register[AnyTunnel] = Register(local.canonical)
        self._muxed: dict[bytes, MuxedTunnel] = {}
        self._called: dict[Did, list[MuxedTunnel]] = {}
        """Those of version 5 that others called, by device."""
        self._left: dict[Did, float] = {}
        """When those who called us left, the earliest first."""
        self._arrival = trio.Event()
        self._news = SeldomLine(log, "the tunnel to %s %s", _MOST_NEWS)

    def came(self, did: Did) -> AnyTunnel | None:
        """The tunnel that the peer dialled: as good as any, whatever way we should have taken.

        A peer of version 4 would take no second one: who is dialled does not see by which way.
        """
        standing = self.register.find(did)
        return standing if standing is not None and not standing.peer.dialled else None

    async def returned(self, device: Did) -> AnyTunnel | None:
        """The tunnel that the peer dialled, or dials soon since it left a moment ago: its router began anew, say, and
        whoever wants something of it just then need not know."""
        with trio.move_on_at(self._left.get(device, -float("inf")) + _RETURNS):
            while (standing := self.came(device)) is None:
                await self._arrival.wait()
            return standing
        return None

    def check_name(self, did: Did, device: Did) -> None:
        """Raises ``Refused`` if the name is another device's."""
        if self.register.holder(did) not in (None, device):
            raise Refused(f"{did} is another device here")

    def with_id(self, tunnel: bytes) -> MuxedTunnel | None:
        """The tunnel of version 5 with this id."""
        return self._muxed.get(tunnel)

    async def arbitrate(self, key: TunnelKey) -> None:
        """Version 4: raises ``Refused`` if a tunnel to the same device stands and lives."""
        while (standing := self.register.get(key)) is not None:
            if await standing.is_alive():
                raise Refused(DUPLICATE)
            standing.lose()
            self.register.remove(key, standing)

    def replace(self, device: Did, boot: bytes) -> Close | None:
        """Version 5: ``device`` calls from the start ``boot`` of it; what earlier starts called is left over, and ends.

        Not None: no more are taken.
        """
        theirs = list(self._called.get(device, ()))
        for one in theirs:
            if one.boot != boot:
                one.close(CloseCode.REPLACED, "the same device called from another start")
        if sum(one.boot == boot for one in theirs) >= _MOST_OF_ONE:
            return Close(CloseCode.LIMIT, 60, "too many tunnels of one device")
        return None

    def stands(self, tunnel: AnyTunnel) -> None:
        """From here on others find it."""
        self.register.add(tunnel.key, tunnel)
        self.register.call(tunnel.peer.device, tunnel.peer.did)
        if isinstance(tunnel, MuxedTunnel):
            self._muxed[tunnel.id] = tunnel
            if not tunnel.peer.dialled:
                self._called.setdefault(tunnel.peer.device, []).append(tunnel)
        self._left.pop(tunnel.peer.device, None)
        self._arrival.set()
        self._arrival = trio.Event()
        self._news.tell(tunnel.peer.did, "stands", by=tunnel.peer.device)

    async def live(self, tunnel: Tunnel) -> None:
        """A tunnel of version 4, from where it stands to where it is over."""
        try:
            await tunnel.run()
        except Exception:
            log.exception("the tunnel to %s failed", tunnel.peer.did)
        finally:
            self.ended(tunnel)

    def remove(self, tunnel: AnyTunnel) -> None:
        """Nothing more is asked of it.  May be called twice."""
        self.register.remove(tunnel.key, tunnel)
        if tunnel.peer.dialled:
            return
        left, now = self._left, trio.current_time()
        left.pop(tunnel.peer.device, None)
        left[tunnel.peer.device] = now
        while left[first := next(iter(left))] + _RETURNS < now:
            del left[first]

    def ended(self, tunnel: AnyTunnel) -> None:
        """It is over."""
        self.remove(tunnel)
        if isinstance(tunnel, MuxedTunnel):
            del self._muxed[tunnel.id]
            if not tunnel.peer.dialled:
                called = self._called[tunnel.peer.device]
                called.remove(tunnel)
                if not called:
                    del self._called[tunnel.peer.device]
        why = tunnel.end.why if tunnel.end else "cancelled"
        self._news.tell(tunnel.peer.did, f"is over: {why}", by=tunnel.peer.device)

    def close(self) -> None:
        """End all tunnels of version 5; those of version 4 end with their tasks."""
        for tunnel in list(self._muxed.values()):
            tunnel.abandon()
